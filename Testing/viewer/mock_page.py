"""The page without what is behind it: real templates, styles, script and presenter, a made-up case, no Slicer.

    python Testing/viewer/mock_page.py --port 8090          # then open the address that it prints
    python Testing/viewer/mock_page.py --scenario running

Serves the page as a tab does (trame, Vue 3 client), with the headers that the front sets. Commands of the page are kept
in the state key ``mock_calls``, which a test reads in the browser, and do nothing but for "layout".
``trame.trigger("mock", [scenario, token])`` shows another of SCENARIOS; ``mock_shown`` is then the token.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from aiohttp import web
from trame.app import get_server

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from MedRationaleLogic.case import Case  # noqa: E402
from MedRationaleLogic.session import Job  # noqa: E402
from MedRationaleViewer import page  # noqa: E402
from MedRationaleViewer.assets import Assets  # noqa: E402
from MedRationaleViewer.markup import markup  # noqa: E402
from MedRationaleViewer.security import response_headers  # noqa: E402
from Testing.explanation_factory import MIXED, PZ_LEFT, TZ_RIGHT  # noqa: E402
from Testing.unit.case.fake_explainer import FakeExplainer, opened  # noqa: E402

__all__ = ["HOSTILE", "SCENARIOS"]

VIEWS = ("MR_T2W", "MR_ADC", "MR_HBV", "MR_3D")
SMALL = {"shape": (10, 40, 44)}
READER = "A. Reader"
PARTS = ("study", "findings", "rationale", "evidence", "sectors", "review", "report")
HOSTILE = '<img src=x onerror="window.hacked=1"> {{ window.hacked = 1 }} <b>"bold" & \'all\'</b>'
KEPT = (
    "id", "kind", "colour", "ink", "svg", "role", "sequence", "thumbnail", "state", "level", "command", "concept",
    "map",
)  # fmt: skip
"""Keys whose text steers the page and never comes from a study or a reader."""

State = dict[str, Any]


# ---------------------------------------------------------------------------------------------------------------- state


def _state(case: Case | None, **reading: Any) -> State:
    """All that the page shows, the parts that no presenter makes with it."""
    there = int(case is not None)
    given = {"reader": READER, "name": "case-0007", "network": "on this machine's CPU", **reading}
    return {
        **page.sections(page.Reading(case=case, **given)),
        "ui": page.ui(),
        "chooser": {
            "root": True, "folder": "outpatients", "up": "", "uploads": True, "limit_mb": 512, "message": "",
            "listing": False,
            "folders": [{"id": "outpatients/2024", "name": "2024"}, {"id": "outpatients/2025", "name": "2025"}],
            "studies": [
                {"id": "outpatients/case-0007", "name": "case-0007", "detail": "DICOM, 312 files"},
                {"id": "outpatients/case-0012", "name": "case-0012", "detail": "NIfTI"},
            ],
        },
        "notice": {"id": 0, "kind": "", "text": "", "detail": "", "question": None},
        "views": {
            "layout": 1, "evidence": True, "gland": True, "mode": "", "crosshair": False,
            "map": None if case is None else case.selection.concept,
            "position": {"slice": 4 * there, "slices": 10 * there, "text": "slice 4 of 10" if there else ""},
        },
    }  # fmt: skip


def _case() -> Case:
    case = opened(regions=(PZ_LEFT, TZ_RIGHT, MIXED), options=SMALL)
    case.override(1, "t2.margin", "indistinct", READER)
    case.set_psa(6.8, READER)
    case.select(1, "t2.mod_hypo")
    return case


def explained(**changes: State) -> State:
    """Three regions, the first one selected, an answer of a reader."""
    state = _state(_case())
    for key, values in changes.items():
        state[key].update(values)
    return state


def _unexplained(job: Job | None = None) -> State:
    fake = FakeExplainer(options=SMALL)
    return _state(Case.open(fake.study, fake), job=job or Job())


def _signed() -> State:
    case = _case()
    case.sign_off(READER)
    return {**_state(case), "ui": _open_all()}


def _negative() -> State:
    return _state(opened(regions=(), options=SMALL))


def _hostile() -> State:
    """Every text that may come from a study, a reader or a file is an attack."""

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: inner if key in KEPT else spoil(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [spoil(inner) for inner in value]
        return HOSTILE if isinstance(value, str) and value else value

    state = explained(
        notice={"id": 9, "kind": "error", "text": "it", "detail": "why"},
        job={"state": "failed", "message": "it", "log_tail": "why"},
    )
    return {key: _open_all() if key == "ui" else spoil(value) for key, value in state.items()}


def _open_all() -> State:
    return {**page.ui(), "open": dict.fromkeys(PARTS, True)}


RUNNING = Job(kind="explain", what="explaining", state="running", share=0.46, stage="reading high-b")
FAILED = Job(
    kind="explain", what="explaining", state="failed", message="The network's process ended. Explain again.",
    log_tail="loading weights\nout of memory\nended with code -9",
)  # fmt: skip
QUESTION = {
    "id": 2, "kind": "question", "text": "The open case holds changes that no download has saved. Put it away?",
    "question": {"yes": "Put it away", "no": "Keep it", "command": "close", "args": {"confirmed": True}},
}  # fmt: skip
ERROR = {
    "id": 1, "kind": "error", "text": "case-0031 could not be opened: the T2W series has slices missing.",
    "detail": "IMG0012.dcm to IMG0019.dcm: no image between 12.0 mm and 36.0 mm",
}  # fmt: skip

SCENARIOS: dict[str, Callable[[], State]] = {
    "explained": explained,
    "everything": lambda: explained(ui=_open_all()),
    "editing": lambda: explained(ui={"editing": "t2.signal"}),
    "nameless": lambda: explained(review={"reader": ""}, ui={"editing": "t2.signal"}),
    "unexplained": _unexplained,
    "running": lambda: _unexplained(RUNNING),
    "failed": lambda: _unexplained(FAILED),
    "negative": _negative,
    "error": lambda: explained(notice=ERROR),
    "question": lambda: explained(notice=QUESTION),
    "signed": _signed,
    "closed": lambda: _state(None),
    "aiming": lambda: explained(views={"mode": "explain_here"}),
    "hostile": _hostile,
}


# --------------------------------------------------------------------------------------------------------------- server


def serve(port: int, scenario: str) -> None:
    """Serve until killed; prints the address as a line of JSON."""
    server = get_server("mock", client_type="vue3")
    state = server.state

    made: dict[str, State] = {}

    def show(name: str, token: int = 0) -> None:
        if name not in made:
            made[name] = SCENARIOS[name]()
        with state:
            state.mock_calls, state.mock_shown = [], token
            for key, value in made[name].items():
                state[key] = deepcopy(value)
            # the page keeps its own changes to itself: without a new mark they would outlive the scenario
            state.ui["shown"] = token

    def do(name: str, args: dict[str, Any] | None = None, study: int | None = None) -> None:
        with state:
            state.mock_study = study
            state.mock_calls = [*state.mock_calls, [name, args]]
            if name == "layout" and args:
                state.views = {**state.views, "layout": args["n"]}

    async def upload(request: web.Request) -> web.Response:
        names = []
        async for part in await request.multipart():
            names.append([part.name, part.filename, len(await part.read())])
        with state:
            state.mock_calls = [*state.mock_calls, ["upload", names]]
        if any("refused" in name for _, name, _ in names):
            return web.json_response({"error": f"refused.zip: {HOSTILE}"}, status=400)
        return web.json_response({"ok": True})

    @state.change("ui")
    def leaked(ui: State, **_: Any) -> None:
        """What only the page knows was sent; it counts as a command, so that no test misses it."""
        if {**ui, "shown": None} not in [{**one["ui"], "shown": None} for one in made.values()]:
            state.mock_calls = [*state.mock_calls, ["ui", ui]]

    show(scenario)
    state.trame__title = "MedRationale"
    state.trame__template_main = f'<div class="medrationale">{markup("page.html")}</div>'
    state.trame__template_error = markup("lost.html")
    for name in VIEWS:
        view = f'<div class="remote-controlled-area" tabindex="0"><div class="mock {name}"></div></div>'
        state[f"trame__template_{name}"] = view
    server.trigger("mock")(show)
    server.trigger("do")(do)
    server.controller.on_server_bind.add(lambda wslink: _add_routes(wslink.app, upload))
    server.controller.on_server_ready.add(
        lambda **_: print(json.dumps({"url": f"http://127.0.0.1:{server.port}/page/"}), flush=True)
    )
    server.start(port=port, host="127.0.0.1", open_browser=False, show_connection_info=False, timeout=0, argv=[])


def _add_routes(application: web.Application, upload: Any) -> None:
    """What the front adds to a tab: the page and its files, and the headers that say what the page may do."""
    assets = Assets()

    async def index(_request: web.Request) -> web.Response:
        return web.Response(body=assets.index(), headers={"Content-Type": "text/html; charset=utf-8"})

    async def session(_request: web.Request) -> web.Response:
        return web.json_response({"sessionURL": "ws://USE_HOST/ws"})

    async def static(request: web.Request) -> web.Response:
        asset = assets.get(request.match_info["module"], request.match_info["path"])
        if asset is None:
            raise web.HTTPNotFound
        return web.Response(body=asset.data, headers={"Content-Type": asset.type})

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(response_headers(request.host))

    application.router.add_get("/static/{module}/{path:.+}", static)
    application.router.add_get("/page/", index)
    application.router.add_post("/page/paraview/", session)
    application.router.add_post("/page/upload", upload)
    application.on_response_prepare.append(add_headers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), default="explained")
    given = parser.parse_args()
    serve(given.port, given.scenario)
