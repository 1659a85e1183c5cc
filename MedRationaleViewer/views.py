"""The four views of a tab: T2W with evidence, ADC, high-b, and 3D; drawn here, sent to the browser as pictures.

Real slice and 3D views of slicer-core (its displayable managers, its interactor styles) behind trame_slicer's remote
views. A reader's mouse and wheel reach them as they reach Slicer's own: the wheel scrolls, Ctrl+wheel and the right
button zoom, Shift+left or the middle button pans, the left button changes window and level, Shift and a move take the
crosshair along; what one slice view does, the linked ones do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import slicer
from trame_slicer.core import SlicerApp
from trame_slicer.rca_view import RemoteViewFactory
from trame_slicer.views import AbstractView, SliceView, ThreeDView, ViewLayoutDefinition, ViewProps, ViewType
from trame_slicer.views.render_scheduler import NoScheduleRendering
from vtkmodules.vtkCommonCore import vtkObject
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from MedRationaleLogic.imaging.acquisition import Role
from MedRationaleLogic.mrml import layout
from MedRationaleLogic.mrml.node_facts import of_class

__all__ = ["LAYOUTS", "Views"]

LAYOUTS: Final[dict[int, tuple[str, ...]]] = {
    1: (*layout.SLICE_VIEWS.values(), layout.VIEW_3D),
    2: (*layout.SLICE_VIEWS.values(), layout.VIEW_3D),
    3: tuple(layout.SLICE_VIEWS.values()),
    4: (layout.SLICE_VIEWS["t2w"],),
    5: (layout.VIEW_3D,),
}
"""Which views each of the page's layouts shows; where they stand is the page's matter."""

FPS: Final = 30.0
LINKED_FPS: Final = 12.0
"""For views that the pointer is not over: they follow."""
MOVING_QUALITY: Final = 60
STILL_QUALITY: Final = 95
"""JPEG: what is looked at longer than a sixth of a second is sent again, finer."""


class Views:
    """The views of one tab.

    Args:
        app: scene and displayable managers.
        server: of trame; each view becomes a template named as the view.
        moved: called when the slice of the first slice view has changed.
    """

    def __init__(self, app: SlicerApp, server: Any, moved: Callable[[], None]) -> None:
        self._app = app
        for view, kind in ((SliceView, ViewType.SLICE_VIEW), (ThreeDView, ViewType.THREE_D_VIEW)):
            # nothing is drawn while a view is being put together: the browser's size is not known yet
            made = partial(view, scheduled_render_strategy=NoScheduleRendering())
            app.view_manager.register_factory(
                RemoteViewFactory(
                    server, made, kind, populate_view_ui_f=None, rca_encoder="jpeg", target_fps=FPS,
                    blur_fps=LINKED_FPS, interactive_quality=MOVING_QUALITY, rca_event_throttle_s=0.015,
                )
            )  # fmt: skip
        for role, name in layout.SLICE_VIEWS.items():
            self._create(name, ViewType.SLICE_VIEW, ViewProps(label=role, orientation="Axial", group=0))
        self._create(
            layout.VIEW_3D, ViewType.THREE_D_VIEW, ViewProps(label="3D", box_visible=False, background_color="#121217")
        )
        for factory in app.view_manager._factories:  # the remote factories have no other way to their adapters
            for name in LAYOUTS[1]:
                view = factory.get_factory_view(name)
                if view is not None:
                    view.view_adapter.update_quality(MOVING_QUALITY, STILL_QUALITY)
        self._layout = 1
        self.show_layout(1)
        first = self.slice_node("t2w")
        self._observed = (first, first.AddObserver("ModifiedEvent", lambda *_args: moved()))

    def _create(self, name: str, kind: ViewType, properties: ViewProps) -> None:
        # trame_slicer observes an event that VTK 9.6 warns about, once a view
        vtkObject.GlobalWarningDisplayOff()
        view = self._app.view_manager.create_view(ViewLayoutDefinition(name, kind, properties))
        vtkObject.GlobalWarningDisplayOn()
        # in planes there is nothing that oversampling would make better, and in 3D it forbids the depth peeling that
        # a translucent gland needs
        view.render_window().SetMultiSamples(0)
        if kind is ViewType.SLICE_VIEW:
            view.set_ruler(slicer.vtkMRMLAbstractViewNode.RulerTypeThin, slicer.vtkMRMLAbstractViewNode.RulerColorWhite)

    # ------------------------------------------------------------------------------------------------- what is there

    def view(self, name: str) -> AbstractView:
        """A view by its name.

        Raises:
            KeyError: no such view.
        """
        found = self._app.view_manager.get_view(name) if name in LAYOUTS[1] else None
        if found is None:
            raise KeyError(f"there is no view {name}; there are {', '.join(LAYOUTS[1])}")
        return found

    def slice_node(self, role: Role) -> Any:
        """vtkMRMLSliceNode of a sequence's view."""
        return self.view(layout.SLICE_VIEWS[role]).get_view_node()

    @property
    def layout(self) -> int:
        """The layout that is shown, 1 to 5."""
        return self._layout

    # ------------------------------------------------------------------------------------------------------- changing

    def show_layout(self, number: int) -> None:
        """Draw only what a layout shows.

        Raises:
            KeyError: no such layout.
        """
        if number not in LAYOUTS:
            raise KeyError(f"there is no layout {number}; there are 1 to {len(LAYOUTS)}")
        self._layout = number
        self._app.view_manager.set_current_view_ids(list(LAYOUTS[number]))

    def show(self, nodes: dict[Role, Any]) -> None:
        """Put images into their views, linked, fitted, evidence out."""
        layout.set_up_views(self._app.scene, nodes)

    def clear(self) -> None:
        """Empty views."""
        layout.set_up_views(self._app.scene, {})

    def position(self, nodes: dict[Role, Any]) -> tuple[int, int] | None:
        """The slice of the first image that is shown, counted from 1, and how many there are; None without an image."""
        role = next(iter(nodes), None)
        if role is None:
            return None
        volume, node = nodes[role], self.slice_node(role)
        at = [0.0, 0.0, 0.0, 1.0]
        matrix = vtkMatrix4x4()
        volume.GetRASToIJKMatrix(matrix)
        to_ras = node.GetSliceToRAS()
        matrix.MultiplyPoint([to_ras.GetElement(row, 3) for row in range(3)] + [1.0], at)
        count = volume.GetImageData().GetDimensions()[2]
        return min(max(round(at[2]) + 1, 1), count), count

    def letters(self) -> dict[str, str]:
        """Where a slice view's ``left``, ``right``, ``top`` and ``bottom`` lie in the patient: R, L, A, P, S, I."""
        matrix = self.slice_node("t2w").GetSliceToRAS()
        found = {}
        for column, (edge, opposite) in enumerate((("right", "left"), ("top", "bottom"))):
            along = [matrix.GetElement(row, column) for row in range(3)]
            axis = max(range(3), key=lambda row: abs(along[row]))
            letters = "RL", "AP", "SI"
            found[edge] = letters[axis][0 if along[axis] > 0 else 1]
            found[opposite] = letters[axis][1 if along[axis] > 0 else 0]
        return found

    def scroll(self, nodes: dict[Role, Any], by: int) -> None:
        """Move all slice views by slices of the first image."""
        found = self.position(nodes)
        if found is not None:
            self.jump(nodes, found[0] + by)

    def jump(self, nodes: dict[Role, Any], number: int) -> None:
        """Bring all slice views to a slice of the first image, counted from 1; beyond the ends to the last one."""
        role = next(iter(nodes), None)
        found = self.position(nodes)
        if role is None or found is None:
            return
        volume = nodes[role]
        columns, rows, count = volume.GetImageData().GetDimensions()
        matrix = vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        out = [0.0, 0.0, 0.0, 1.0]
        matrix.MultiplyPoint([(columns - 1) / 2, (rows - 1) / 2, min(max(number, 1), count) - 1, 1.0], out)
        slicer.vtkMRMLSliceNode.JumpAllSlices(self._app.scene, *out[:3], slicer.vtkMRMLSliceNode.OffsetJumpSlice)

    def point(self, name: str, x: float, y: float) -> list[float]:
        """The patient point under a place of a slice view.

        Args:
            name: of the view.
            x, y: from the upper left corner, in shares of width and height.

        Returns:
            R, A, S in mm.

        Raises:
            KeyError: no such slice view.
        """
        view = self.view(name)
        if not isinstance(view, SliceView):
            raise KeyError(f"{name} is no slice view; click into T2W, ADC or high-b")
        node = view.get_view_node()
        columns, rows, _depth = node.GetDimensions()
        out = [0.0, 0.0, 0.0, 1.0]
        node.GetXYToRAS().MultiplyPoint([x * columns, (1.0 - y) * rows, 0.0, 1.0], out)
        return out[:3]

    def show_crosshair(self, shown: bool) -> None:
        """The crosshair in all views; Shift and a move of the mouse take it along."""
        for node in of_class(self._app.scene, "vtkMRMLCrosshairNode"):
            mode = slicer.vtkMRMLCrosshairNode.ShowSmallBasic if shown else slicer.vtkMRMLCrosshairNode.NoCrosshair
            node.SetCrosshairMode(mode)

    def redraw(self) -> None:
        """Send every shown view again: a page has come that has no pictures yet."""
        for name in LAYOUTS[self._layout]:
            self.view(name).schedule_render()

    def close(self) -> None:
        """Let go of the graphics memory."""
        node, tag = self._observed
        node.RemoveObserver(tag)
        for name in LAYOUTS[1]:
            with suppress(KeyError):
                self.view(name).finalize()
