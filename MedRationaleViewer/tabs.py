"""The tab processes as the front sees them: started ahead, kept while their browser is there, ended with everything.

Each browser tab has a process of its own, forked off a server process that has read Slicer's libraries already
("forkserver"; on Windows and macOS it starts afresh). One spare is always kept ready. A process ends when its browser
has been gone for a while, and with the front, however that ends: its end of the connection closes with it.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import multiprocessing
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from MedRationaleViewer.tab_options import TabOptions

__all__ = ["PRELOAD", "Tab", "TabError", "Tabs", "Target", "TooManyTabsError", "run_tab", "warm"]

Target = Callable[[TabOptions, Connection], None]
"""Runs in the tab's process until its end; importable by name."""

#: The command line too: each new process reads the main module again, which is then there already.
PRELOAD: Final = ("MedRationaleViewer.early", "MedRationaleViewer.tab", "MedRationaleLogic.cli")

FIRST_S: Final = 60.0
"""A tab whose browser never came ends after so long."""
START_S: Final = 120.0
"""A process must be ready after so long; on a cold disk Slicer's libraries take a while."""
END_S: Final = 5.0
"""A process that was asked to end is made to after so long."""
KILL_S: Final = 2.0
SPARE_AFTER_S: Final = 2.0
"""The next spare is started after the tab that took the last one has opened."""
SPARE_AGAIN_S: Final = 30.0
"""A spare that failed is tried again after so long."""
GRAPHICS: Final = (
    "most often a graphics library is missing: on Debian or Ubuntu, sudo apt-get install libegl1 libgl1, then again"
)
REMEMBERED: Final = 200
"""So many ended tabs are told from tabs that never were."""
PREFIX: Final = "medrationale-view-"

# Only on Linux do graphics libraries bear being forked.
_METHOD: Final = "forkserver" if sys.platform.startswith("linux") else "spawn"
_log = logging.getLogger(__name__)


class TabError(RuntimeError):
    """A tab's process could not be started, or has ended; the text says so."""


class TooManyTabsError(RuntimeError):
    """There are as many tabs as there may be."""


def run_tab(options: TabOptions, connection: Connection) -> None:
    """The viewer's own target; reads Slicer's libraries, which only the new process does."""
    from MedRationaleViewer.tab import run_tab

    run_tab(options, connection)


def warm(preload: Sequence[str] = PRELOAD) -> None:
    """Start the server process that tabs are forked off; it reads these modules while the caller goes on.

    The first call counts. Does nothing where processes are not forked.
    """
    if _METHOD != "forkserver":
        return
    from multiprocessing import forkserver

    multiprocessing.get_context(_METHOD).set_forkserver_preload(list(preload))
    # It is started by `python -c`, which would import from the folder that the user happens to be in.
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _enter(target: Target, options: TabOptions, connection: Connection) -> None:
    # Ctrl-C in the terminal reaches every process there; the front is who ends a tab.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    target(options, connection)


class Tab:
    """One tab's process. Use it from the event loop; a thread of its own starts the process and waits for it.

    Attributes:
        number: counts from 1; the only name of a tab that is logged.
        id: names the tab in its URL; nobody can guess it. Lower case: trame's client writes URLs so.
        browser: whose it is; None for the spare.
        folder: private; removed with the process.
        secret: what the process asks of every request.
        error: why it failed; empty while it did not.
    """

    def __init__(
        self, number: int, target: Target, options: TabOptions, gone: Callable[[Tab], None],
        opened: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.number = number
        self.id = secrets.token_hex(16)
        self.browser: str | None = None
        self.folder = Path(options.folder)
        self.secret = options.secret
        self.error = ""
        self._gone_callback, self._opened = gone, opened
        self._loop = asyncio.get_running_loop()
        self._settled, self._gone = asyncio.Event(), asyncio.Event()
        self._port: int | None = None
        self._ending = self._by_itself = False
        self._users = 0
        self._timers: list[asyncio.TimerHandle] = []
        self._idle: asyncio.TimerHandle | None = None
        context: Any = multiprocessing.get_context(_METHOD)
        self._ours, theirs = context.Pipe()
        # daemon: a front that ends by an error must not wait for its tabs
        self._process = context.Process(
            target=_enter, args=(target, options, theirs), name=f"medrationale-tab-{number}", daemon=True
        )
        self._thread = threading.Thread(target=self._live, args=(theirs,), name=f"tab-{number}", daemon=True)
        self._thread.start()
        self._timers.append(self._loop.call_later(START_S, self._too_slow))

    # ------------------------------------------------------------------------------------------------ what is known

    @property
    def ended(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._ending or self._gone.is_set()

    @property
    def pid(self) -> int | None:
        """Of the process; None before it runs."""
        pid: int | None = self._process.pid
        return pid

    @property
    def ready(self) -> bool:
        """Whether its process listens."""
        return self._port is not None and not self.ended

    async def port(self) -> int:
        """Where its process listens, once it does.

        Raises:
            TabError: it failed, or has ended.
        """
        await self._settled.wait()
        if self._port is None or not self.ready:
            raise TabError(self.error or "this tab has ended")
        return self._port

    # --------------------------------------------------------------------------------------------------- the thread

    def _live(self, theirs: Connection) -> None:
        """Start the process, hear what it says, wait for its end, clear up."""
        try:
            self.folder.parent.mkdir(mode=0o700, exist_ok=True)  # something may have cleared the temporary folder
            self.folder.mkdir(mode=0o700)
            self._process.start()
        except Exception as error:  # whatever it is: the browser waits
            self._tell(self._failed, f"its process could not be started ({type(error).__name__})")
            _log.warning("tab %d: %s: %s", self.number, type(error).__name__, error)
            theirs.close()
        else:
            theirs.close()
            self._listen()
            self._tell(self._hung_up)
            self._process.join()
        self._ours.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._tell(self._is_gone)

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                message = self._ours.recv()
                match message:
                    case ("ready", int(port)):
                        self._tell(self._ready, port)
                    case ("open",):
                        self._tell(self._opened)
                    case ("failed", str(text)):
                        self._tell(self._failed, text)
                        return

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody asks any more
            self._loop.call_soon_threadsafe(callback, *args)

    # ----------------------------------------------------------------------------------------------------- the loop

    def _ready(self, port: int) -> None:
        self._port = port
        self._settled.set()

    def _failed(self, text: str) -> None:
        self.error = self.error or text
        self._settled.set()
        self.end()

    def _too_slow(self) -> None:
        if not self._settled.is_set():
            self._failed(f"its process was not ready after {START_S:.0f} s")

    def _hung_up(self) -> None:
        """It ends, or hangs: then it is made to end."""
        if not self._ending:
            self._by_itself = self._ending = True
            self.error = "its process has ended by itself"
            self._settled.set()
        self._make_end()

    def _is_gone(self) -> None:
        if self._by_itself:
            code = self._process.exitcode
            _log.warning("tab %d: its process has ended by itself (exit code %s)", self.number, code)
            if code == -signal.SIGSEGV and self._port is None:
                self.error = f"{self.error} while it began to draw; {GRAPHICS}"
        for timer in self._timers:
            timer.cancel()
        self.keep()
        self._gone.set()
        self._settled.set()
        self._gone_callback(self)

    def end(self) -> None:
        """End the process: ask, then make it. Returns at once."""
        if self.ended:
            return
        self._ending = True
        self._settled.set()
        self.keep()
        with suppress(OSError, ValueError):
            self._ours.send(("end",))  # kept for a process that does not run yet
        self._make_end()

    def _make_end(self) -> None:
        """See that the process ends."""
        self._timers.append(self._loop.call_later(END_S, self._signal, "terminate"))
        self._timers.append(self._loop.call_later(END_S + KILL_S, self._signal, "kill"))

    def kill(self) -> None:
        """End the process now."""
        self._ending = True
        self._signal("kill")

    def _signal(self, how: str) -> None:
        if not self._gone.is_set() and self.pid is not None:
            with suppress(OSError):
                getattr(self._process, how)()

    async def wait_gone(self) -> None:
        """Until the process and its folder are gone."""
        await self._gone.wait()

    # -------------------------------------------------------------------------------------------------- its browser

    def leave(self, seconds: float) -> None:
        """End it after so long unless it is :meth:`keep`-t."""
        self.keep()
        if not self.ended:
            self._idle = self._loop.call_later(seconds, self._left)

    def keep(self) -> None:
        """Its browser is there."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _left(self) -> None:
        _log.info("tab %d: its browser is gone", self.number)
        self.end()

    @contextmanager
    def used(self, grace_s: float) -> Iterator[None]:
        """While something of a browser's is under way; ends the tab ``grace_s`` after the last."""
        self._users += 1
        self.keep()
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self.leave(grace_s)


class Tabs:
    """All tabs.

    Args:
        target: what runs in each process.
        options: what each is told; ``secret`` and ``folder`` are filled in. Exchange it before :meth:`start`.
        max_tabs: so many processes at most, the spare among them.
        grace_s: a tab ends when its browser has been gone for so long: longer than a reload, or a short dead spot.
        first_s: it ends when its browser did not come for so long.
        spare: keep a process ready for the next browser tab.
        spare_after_s: after a tab was opened, the next spare is started so much later.
    """

    def __init__(
        self,
        target: Target,
        options: TabOptions,
        *,
        max_tabs: int = 12,
        grace_s: float = 20.0,
        first_s: float = FIRST_S,
        spare: bool = True,
        spare_after_s: float = SPARE_AFTER_S,
    ) -> None:
        self.options, self.max_tabs, self.grace_s = options, max_tabs, grace_s
        self._target, self._first_s, self._want_spare, self._spare_after_s = target, first_s, spare, spare_after_s
        self._tabs: dict[str, Tab] = {}
        self._ended: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._living: set[Tab] = set()
        self._spare: Tab | None = None
        self._refilling: asyncio.TimerHandle | None = None
        self._base: _Base | None = None
        self._count, self._closed = 0, False
        self._first_open = asyncio.Event()

    @property
    def count(self) -> int:
        """Open tabs, the spare not among them."""
        return sum(not tab.ended for tab in self._tabs.values())

    @property
    def spare(self) -> Tab | None:
        """The process that waits for the next browser tab."""
        return self._spare

    def start(self) -> None:
        """Begin: from now on tabs can be opened, and a spare is started."""
        self._base = _Base()
        asyncio.get_running_loop().run_in_executor(None, self._base.sweep)
        self._refill()

    async def first_open(self, seconds: float) -> None:
        """Wait until the first process has its study open, but no longer than so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._first_open.wait(), seconds)

    def open(self, browser: str) -> Tab:
        """A tab for a browser; the spare, where there is one.

        Raises:
            TooManyTabsError: see :attr:`max_tabs`.
            TabError: everything is about to end.
        """
        if self._closed or self._base is None:
            raise TabError("no tab can be opened: the viewer is ending, or could not make its temporary folder")
        if self.count >= self.max_tabs:
            raise TooManyTabsError(f"{self.max_tabs} tabs are open, which is as many as this server keeps")
        tab, self._spare = self._spare, None
        if tab is None or tab.ended or tab.error:
            tab = self._new()
        tab.browser = browser
        self._tabs[tab.id] = tab
        tab.leave(self._first_s)
        self._refill_after(self._spare_after_s)
        return tab

    def get(self, id: str, browser: str | None) -> Tab | None:
        """A browser's tab; None if there is none, or if it is another browser's."""
        tab = self._tabs.get(id)
        if tab is None or browser is None or not hmac.compare_digest(tab.browser or "", browser):
            return None
        return tab if not tab.ended else None

    def ended(self, id: str, browser: str | None) -> str | None:
        """Why a browser's tab has ended: empty if as it should; None if it never was this browser's tab."""
        tab = self._tabs.get(id)
        owner, why = self._ended.get(id, ("", "")) if tab is None else (tab.browser or "", tab.error)
        return why if browser is not None and owner and hmac.compare_digest(owner, browser) else None

    async def close(self) -> None:
        """End all tabs; returns when their processes are gone."""
        self._closed = True
        if self._refilling is not None:
            self._refilling.cancel()
        every = list(self._living)
        for tab in every:
            tab.end()
        # one that has not been started yet will find its order to end, and then that nobody is there
        waiting = [asyncio.ensure_future(tab.wait_gone()) for tab in every if tab.pid is not None]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=END_S + 2 * KILL_S)
            for tab in every if late else ():
                tab.kill()
            if late:
                await asyncio.wait(late, timeout=KILL_S)
        if self._base is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._base.remove)

    # ------------------------------------------------------------------------------------------------------- inside

    def _new(self) -> Tab:
        assert self._base is not None
        self._count += 1
        folder = self._base.path / f"tab-{self._count}"
        options = replace(self.options, secret=secrets.token_urlsafe(32), folder=str(folder))
        tab = Tab(self._count, self._target, options, self._gone, self._first_open.set)
        self._living.add(tab)
        return tab

    def _refill_after(self, seconds: float) -> None:
        if self._refilling is not None:
            self._refilling.cancel()
        self._refilling = asyncio.get_running_loop().call_later(seconds, self._refill)

    def _refill(self) -> None:
        self._refilling = None
        if self._want_spare and not self._closed and self._spare is None and self.count < self.max_tabs:
            self._spare = self._new()

    def _gone(self, tab: Tab) -> None:
        self._living.discard(tab)
        if tab is self._spare:
            self._spare = None
            self._refill_after(SPARE_AGAIN_S)
        elif self._tabs.pop(tab.id, None) is not None:
            self._ended[tab.id] = (tab.browser or "", tab.error)
            while len(self._ended) > REMEMBERED:
                self._ended.popitem(last=False)
            if self._spare is None and self._refilling is None and not self._closed:
                self._refill_after(self._spare_after_s)


class _Base:
    """A private folder for the tabs' folders. A front that was killed leaves its own behind, with images in it: the
    next one removes those that no living front holds the lock of."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = _lock(self.path)

    def sweep(self) -> None:
        """Remove what killed fronts have left behind."""
        if self._lock is None:
            return
        for old in self.path.parent.glob(f"{PREFIX}*"):
            with suppress(OSError):
                self._remove_left(old)

    def _remove_left(self, old: Path) -> None:
        status = old.lstat()
        # a folder without its lock yet is being made just now
        if old == self.path or status.st_uid != os.getuid() or time.time() - status.st_mtime < 10:
            return
        if old.is_symlink() or not old.is_dir() or (lock := _lock(old)) is None:
            return
        shutil.rmtree(old, ignore_errors=True)
        os.close(lock)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(folder: Path) -> int | None:
    """Hold a folder; None where somebody does already, or where folders cannot be held (Windows)."""
    if sys.platform == "win32":
        return None
    import fcntl

    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file
