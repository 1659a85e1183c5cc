"""One browser tab's process: its own scene, case and views; nothing is shared with other tabs but the network.

The front (:mod:`MedRationaleViewer.server`) starts it, passes the browser's requests on to it and ends it. It listens
on this machine only, and answers nobody who does not know its secret. Whatever it does, it does on one event loop: a
study is read, explained (elsewhere, by the shared network) and shown without a lock.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from trame.app import get_server
from trame.ui.html import DivLayout
from trame_slicer.core import SlicerApp

from MedRationaleLogic.case import CASE_FILE
from MedRationaleLogic.mrml.desk import Desk
from MedRationaleViewer import downloads, page, sample
from MedRationaleViewer.commands import Commands, where
from MedRationaleViewer.markup import markup
from MedRationaleViewer.studies import Shelf, StudiesError, receive
from MedRationaleViewer.tab_options import SECRET_HEADER, TabOptions
from MedRationaleViewer.views import Views

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from MedRationaleLogic.session import SessionEvent

__all__ = ["Tab", "run_tab"]

BUSY_S: Final = 0.03
"""How often the network is asked while it works."""
IDLE_S: Final = 0.25
SURFACES_AFTER_S: Final = 0.5
"""Surfaces take half a second: after the outlines are on the screen."""

_log = logging.getLogger(__name__)


def run_tab(options: TabOptions, connection: Connection) -> None:
    """Be a tab until the front ends it or is gone; tells ``("ready", port)``, ``("open",)``, or ``("failed", text)``.

    Args:
        options: what this tab is to show, and for whom.
        connection: to the front.
    """
    # trame reads the command line for options of its own; the front's are not meant for it
    sys.argv = ["medrationale"]
    os.environ["WSLINK_READY_MSG"] = ""
    if sys.platform.startswith("linux"):  # pictures for elsewhere: no window of this machine's screen is wanted
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    try:
        asyncio.run(_run(options, connection))
    except Exception as error:  # whatever it is: the front has to hear of it
        _log.error("the tab failed with %s at %s", type(error).__name__, where(error))
        with suppress(OSError):
            connection.send(("failed", f"{type(error).__name__}: {error}"))
    finally:
        sys.stdout.flush()
        # graphics libraries may hang in their own end, and there is nothing left that they could lose
        os._exit(0)


async def _run(options: TabOptions, connection: Connection) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def listen() -> None:
        with suppress(EOFError, OSError):
            while connection.recv() != ("end",):
                pass
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, daemon=True, name="front").start()
    tab = Tab(options)
    try:
        port = await tab.listen()
        connection.send(("ready", port))
        await tab.open_first()
        connection.send(("open",))
        await ended.wait()
    finally:
        tab.close()


class Tab:
    """See the module's text.

    Attributes:
        desk: the case, what reads for it, and what the scene shows of it.
        views: what is drawn.
        reader: who reads; empty until a name is given.
        step: the step of the rationale that is looked at.
        marked: regions that are marked for merging.
        number: counts the cases that have come and gone: another number, another case.
    """

    def __init__(self, options: TabOptions) -> None:
        self.options = options
        self.folder = Path(options.folder)
        self.shelf = Shelf(Path(options.root)) if options.root is not None else None
        self.server = get_server("medrationale", client_type="vue3")
        self.state = self.server.state
        self.app = SlicerApp()
        self.desk = Desk(
            self.app.scene,
            bundle=options.bundle,
            device=options.device,  # type: ignore[arg-type]
            rooms=options.rooms,
        )
        self.desk.subscribe(self._heard)
        self.views = Views(self.app, self.server, self._moved)
        self.commands = Commands(self)
        self.reader = ""
        self.step: str | None = None
        self.marked: frozenset[int] = frozenset()
        self.evidence_shown, self.whole, self.opacity, self.gland = True, False, 0.5, True
        self.mode, self.crosshair, self.sample, self.name = "", False, False, ""
        self.message, self.number = "", 0
        self._notice: dict[str, Any] = {"id": 0, "kind": "", "text": "", "detail": "", "question": None}
        self._shown: object = None
        self._dirty = self._moving = self._map_is_due = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = self._looked_at = self._explained_sample = False
        self._build()

    # ------------------------------------------------------------------------------------------------------- the page

    def _build(self) -> None:
        self.state.trame__title = "MedRationale"
        self.state.trame__template_error = markup("lost.html")
        self.state.ui = page.ui()
        self.refresh()
        with DivLayout(self.server, classes="medrationale") as layout:
            layout.root.add_child(markup("page.html"))
        self.server.trigger("do")(self._do)
        self.server.controller.on_client_connected.add(self._connected)

    def _do(self, name: str, args: dict[str, Any] | None = None, study: int | None = None) -> None:
        self.commands.do(name, args or {}, study)
        self.refresh_soon()

    def _connected(self, *_args: Any, **_kwargs: Any) -> None:
        """A page has come, perhaps for the second time."""
        self._looked_at = True
        self.views.redraw()
        self._explain_sample()

    def _explain_sample(self) -> None:
        """The first sample is explained unasked, once somebody looks at it: a spare tab costs no computation."""
        first = self.sample and self.options.study is None and not self._explained_sample
        if first and self._looked_at and self.desk.case is not None and self.desk.explanation is None:
            self._explained_sample = True
            self.desk.explain()

    def refresh(self) -> None:
        """Bring the page to what is open."""
        with self.state as state:
            for name, section in page.sections(self.reading()).items():
                state[name] = section
            state["chooser"] = self.commands.chooser()
            state["notice"] = dict(self._notice)
            state["views"] = self._views_section()

    def refresh_soon(self) -> None:
        """Refresh once this turn of the event loop is over, however often it is asked for."""
        if not self._dirty:
            self._dirty = True
            asyncio.get_running_loop().call_soon(self._refresh_now)

    def _refresh_now(self) -> None:
        self._dirty = False
        if self._closed:
            return
        self.look()
        self.refresh()

    def reading(self) -> page.Reading:
        """All that the page is made from."""
        explainer = None if self.desk.session is None else self.desk.session.explainer
        return page.Reading(
            case=self.desk.case, job=page.IDLE if self.desk.job is None else self.desk.job, reader=self.reader,
            step=self.step, marked=self.marked, evidence_shown=self.evidence_shown, whole=self.whole,
            opacity=self.opacity, read_only=self.options.read_only, sample=self.sample, name=self.name,
            network=getattr(explainer, "place", ""), message=self.message, number=self.number,
            unsaved=self.desk.readers_work_would_go(),
        )  # fmt: skip

    def _views_section(self) -> dict[str, Any]:
        found = self.views.position(self.desk.nodes)
        number, count = found or (0, 0)
        view = self.desk.view
        return {
            "layout": self.views.layout, "evidence": self.evidence_shown, "gland": self.gland, "mode": self.mode,
            "crosshair": self.crosshair, "letters": self.views.letters(),
            "map": view.evidence_concept if view is not None and view.evidence_shown else None,
            "position": {"slice": number, "slices": count, "text": f"slice {number} of {count}" if found else ""},
        }  # fmt: skip

    def _moved(self) -> None:
        """A view was scrolled, perhaps many times a second: the page is told at most ten times."""
        if not self._moving and not self._closed:
            self._moving = True
            with suppress(RuntimeError):  # while it is being built there is no loop
                asyncio.get_running_loop().call_later(0.1, self._tell_position)
                return
            self._moving = False

    def _tell_position(self) -> None:
        self._moving = False
        if not self._closed:
            with self.state as state:
                state["views"] = self._views_section()

    def notify(self, kind: str, text: str, *, detail: str = "", question: dict[str, Any] | None = None) -> None:
        """Say something to the reader: an ``error``, an ``info`` or a ``question``."""
        number = int(self._notice["id"]) + 1
        self._notice = {"id": number, "kind": kind, "text": text, "detail": detail, "question": question}

    def dismiss(self) -> None:
        """Take away what was said."""
        self._notice = {**self._notice, "kind": "", "text": "", "detail": "", "question": None}

    # ------------------------------------------------------------------------------------------------------ the study

    async def open_first(self) -> None:
        """Open what this tab was started for, so that the first picture is a study's."""
        try:
            if self.options.study is not None:
                self.open(Path(self.options.study))
            else:
                await self.open_sample()
        except Exception as error:
            self.commands.tell(error)
        self._explain_sample()
        self.refresh()

    async def open_sample(self, may_leave: Callable[[], bool] = lambda: True) -> None:
        """Open the sample study; it is drawn first where this user has none yet, which takes seconds. A study that the
        reader has opened meanwhile stays.

        Args:
            may_leave: asked then: whether the open case may go.
        """
        before = self.number
        folder = await sample.folder()
        if (self.desk.case is None or self.number == before) and may_leave():
            self.open(folder, is_sample=True)

    def open(self, folder: Path, *, is_sample: bool = False) -> None:
        """Read a study, or a case that was saved, and show its images in place of the open one.

        Raises:
            StudyError: nothing usable in it.
            CaseError: a saved case that is damaged, or newer than this version.
        """
        old = list(self.desk.nodes.values())
        saved = [found.parent for pattern in ("", "*/", "*/*/") for found in folder.glob(f"{pattern}{CASE_FILE}")]
        if len(saved) == 1:
            self.desk.load_case(saved[0])
        else:
            nodes = self.desk.load_folder(folder)
            self.desk.close()
            self.desk.open(nodes.get("t2w"), nodes.get("adc"), nodes.get("hbv"))
        for node in old:
            self.app.scene.RemoveNode(node)
        self.step, self.marked, self.mode, self.message = None, frozenset(), "", ""
        self.sample, self.name = is_sample, "Sample study (simulated, no patient)" if is_sample else folder.name
        self.views.show(self.desk.nodes)
        if self.desk.explanation is not None:
            self._present()
        self.refresh_soon()

    def _present(self) -> None:
        """Show what was found: at once in the slices, a little later in 3D."""
        self.desk.present()
        self._later(SURFACES_AFTER_S, self._show_surfaces)

    def close_study(self) -> None:
        """Put the study away."""
        old = list(self.desk.nodes.values())
        self.desk.close()
        for node in old:
            self.app.scene.RemoveNode(node)
        self.step, self.marked, self.mode, self.sample, self.name = None, frozenset(), "", False, ""
        self.views.clear()

    # ------------------------------------------------------------------------------------------------------- showing

    def _heard(self, kind: str, event: SessionEvent | None) -> None:
        if kind == "view":
            self.number += 1
        if kind == "case" and event is not None and event.case_event is not None:
            what = event.case_event.kind
            if what == "explain":
                self._present()
            if what != "select":
                self.marked = frozenset()
        self.refresh_soon()

    def look(self) -> None:
        """Bring the views to the selected region and its evidence."""
        case, explanation = self.desk.case, self.desk.explanation
        selection = None if case is None else case.selection
        wanted = (self.desk.view, explanation, selection, self.desk.at_peak)
        if explanation is None:
            return
        if wanted != self._shown:
            self._shown = wanted
            self.show_evidence()
            self.desk.jump()
        elif self._map_is_due and self.desk.evidence_at_hand():
            # chosen while the network read. It is not asked for again where it failed or was stopped, and the views
            # stay where the reader has scrolled meanwhile
            self.show_evidence()

    def show_evidence(self) -> None:
        """The selected concept's map as the reader wants it."""
        if self.desk.view is not None:
            self.desk.view.set_evidence(opacity=self.opacity)
        self.desk.show_evidence(everywhere=self.whole, shown=self.evidence_shown, then=self.refresh_soon)
        self._map_is_due = not self.desk.evidence_at_hand()

    def _show_surfaces(self) -> None:
        if self.desk.view is not None and self.desk.explanation is not None:
            self.desk.view.show_surfaces(self.gland)
            self._later(SURFACES_AFTER_S, self.views.redraw)  # lights and peeling settle with the second picture

    # ------------------------------------------------------------------------------------------------------ the server

    async def listen(self) -> int:
        """Start serving on a free port of this machine; returns the port."""
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.server.controller.on_server_bind.add(self._add_routes)
        self.server.controller.on_server_ready.add(lambda **_: ready.set_result(int(self.server.port)))
        serving = self.server.start(
            port=0, host="127.0.0.1", exec_mode="coroutine", backend="aiohttp", timeout=0, thread=True,
            open_browser=False, show_connection_info=False, disable_logging=True,
        )  # fmt: skip
        self._keep(serving)
        self._keep(self._poll())
        return await ready

    def _add_routes(self, wslink_server: Any) -> None:
        application: web.Application = wslink_server.app
        application.middlewares.append(self._only_the_front)
        application.router.add_get("/alive", self._alive)
        application.router.add_get("/download/{name}", self._download)
        application.router.add_post("/upload", self._upload)

    @web.middleware
    async def _only_the_front(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not hmac.compare_digest(request.headers.get(SECRET_HEADER, "").encode(), self.options.secret.encode()):
            raise web.HTTPForbidden(text="this address is not for browsers")
        return await handler(request)

    async def _alive(self, _request: web.Request) -> web.Response:
        return web.json_response({"busy": self.desk.busy})

    async def _download(self, request: web.Request) -> web.StreamResponse:
        case = self.desk.case
        if case is None or case.explanation is None:
            raise web.HTTPConflict(text="nothing is explained yet")
        name = request.match_info["name"]
        try:
            if name == "case.zip":  # of what a reader changes: on the loop, where nothing is changed meanwhile
                path = downloads.make(case, name, self.folder)
            else:  # of frozen results, beside the loop: the views stay alive
                path = await asyncio.get_running_loop().run_in_executor(None, downloads.make, case, name, self.folder)
        except downloads.UnknownDownloadError as error:
            raise web.HTTPNotFound(text=str(error)) from error
        except (OSError, ValueError) as error:
            raise web.HTTPConflict(text=str(error)) from error
        self.refresh_soon()  # a saved case is no longer unsaved
        disposition = f'attachment; filename="{name}"'
        return web.FileResponse(path, headers={"Content-Disposition": disposition, "Cache-Control": "no-store"})

    async def _upload(self, request: web.Request) -> web.Response:
        try:
            if self.options.read_only:
                raise StudiesError("this server is read-only; nothing can be uploaded")
            before = self.number
            folder = await receive(request, self.folder / "uploads", limit_mb=self.options.upload_mb)
            self.commands.take_upload(folder, before)
            self.commands.list_again()
        except Exception as error:
            return web.json_response({"error": self.commands.words(error)}, status=400)
        self.refresh_soon()
        return web.json_response({"ok": True})

    async def _poll(self) -> None:
        while not self._closed:
            self.desk.poll()
            await asyncio.sleep(BUSY_S if self.desk.busy else IDLE_S)

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        def act() -> None:
            if not self._closed:
                try:
                    action()
                except Exception as error:
                    self.commands.tell(error)

        asyncio.get_running_loop().call_later(seconds, act)

    def spawn(self, work: Awaitable[None]) -> None:
        """Do something beside; what goes wrong is said to the reader."""

        async def run() -> None:
            try:
                await work
            except Exception as error:
                self.commands.tell(error)
            self.refresh_soon()

        self._keep(run())

    def _keep(self, work: Awaitable[None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """End what runs for this tab."""
        self._closed = True
        self.desk.shut_down()
        self.views.close()
