"""The peer of bench_viewer: trame_slicer's remote views as they come, four up, on a port of their own.

python Testing/benchmark/peer_views.py STUDY PORT
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

GRID = (
    "display: grid; grid-template: 1fr 1fr / 1fr 1fr; width: 880px; height: 764px; position: fixed; top: 36px; left: 0"
)


def serve(study: Path, port: int) -> None:
    from trame.app import get_server
    from trame.ui.html import DivLayout
    from trame_slicer.core import SlicerApp
    from trame_slicer.rca_view import register_rca_factories
    from trame_slicer.views import ViewLayoutDefinition, ViewProps, ViewType

    from MedRationaleLogic.mrml import layout
    from MedRationaleLogic.mrml.desk import Desk

    server, app = get_server("peer", client_type="vue3"), SlicerApp()
    names = (*layout.SLICE_VIEWS.values(), layout.VIEW_3D)
    register_rca_factories(
        app.view_manager, server, slice_view_ui_f=lambda *_: None, three_d_view_ui_f=lambda *_: None
    )  # no buttons over the views
    for name in names:
        kind = ViewType.THREE_D_VIEW if name == layout.VIEW_3D else ViewType.SLICE_VIEW
        orientation = None if name == layout.VIEW_3D else "Axial"
        app.view_manager.create_view(ViewLayoutDefinition(name, kind, ViewProps(orientation=orientation, group=0)))
    layout.set_up_views(app.scene, Desk(app.scene).load_folder(study))
    cells = "".join(
        f'<div data-view="{name}" style="min-width: 0; min-height: 0">'
        f'<trame-template template-name="{name}"></trame-template></div>'
        for name in names
    )
    with DivLayout(server) as page:
        page.root.add_child(f'<div style="{GRID}">{cells}</div>')
    print(f"http://127.0.0.1:{port}/index.html", flush=True)
    server.start(port=port, host="127.0.0.1", open_browser=False, timeout=0, show_connection_info=False)


if __name__ == "__main__":
    place, number = Path(sys.argv[1]), int(sys.argv[2])
    sys.argv = ["peer"]  # trame reads the command line for options of its own
    serve(place, number)
