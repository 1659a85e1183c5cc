"""Slice and 3D views off-screen: slicer-core's displayable managers, in a layout read from Slicer's own layout node."""

# ruff: noqa: N801, N802, N815

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from trame_slicer.views import SliceView, ThreeDView
from trame_slicer.views.render_scheduler import ScheduledRenderStrategy
from vtk.util import numpy_support

HEADLINE = 20
FOUR_UP = 3
"""Slicer's first layout: Red, Green, Yellow and a 3D view."""


class OnDemand(ScheduledRenderStrategy):
    """Renders when the bench says so; notes that a view wanted to."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = 0

    def schedule_render(self) -> None:
        self.wanted += 1


class NodeSliceView(SliceView):
    """A slice view of a slice node that the layout logic has made."""

    def __init__(self, scene: Any, app_logic: Any, node: Any, strategy: OnDemand) -> None:
        self._given_node = node
        super().__init__(scene, app_logic, node.GetLayoutName(), scheduled_render_strategy=strategy)

    def set_scene(self, scene: Any) -> None:
        super(SliceView, self).set_scene(scene)
        self._logic.SetMRMLScene(scene)
        self._logic.SetSliceNode(self._given_node)
        self.set_view_node(self._given_node)


class NodeThreeDView(ThreeDView):
    """A 3D view of a view node that the layout logic has made."""

    def __init__(self, scene: Any, app_logic: Any, node: Any, strategy: OnDemand) -> None:
        self._given_node = node
        super().__init__(scene, app_logic, node.GetLayoutName(), scheduled_render_strategy=strategy)

    def set_scene(self, scene: Any) -> None:
        super(ThreeDView, self).set_scene(scene)
        self._logic.SetMRMLScene(scene)
        self.set_view_node(self._given_node)


def picture(window: Any) -> np.ndarray:
    """What a render window shows: (rows, columns, 3) uint8, the first row on top."""
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.ShouldRerenderOff()
    grab.Update()
    image = grab.GetOutput()
    columns, rows, _ = image.GetDimensions()
    array = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    return np.ascontiguousarray(array.reshape(rows, columns, -1)[::-1, :, :3])


class ViewHandle:
    """`sliceWidget.sliceView()` and `threeDWidget.threeDView()`."""

    def __init__(self, view: Any) -> None:
        self._view = view
        self._annotation: Any = None

    def renderWindow(self) -> Any:
        return self._view.render_window()

    def interactor(self) -> Any:
        return self._view.interactor()

    def interactorStyle(self) -> Any:
        return self._view._interactor_observer

    def cornerAnnotation(self) -> Any:
        """As ctkVTKAbstractView's: text in the view's corners and along its edges."""
        if self._annotation is None:
            self._annotation = vtk.vtkCornerAnnotation()
            self._annotation.SetMaximumLineHeight(0.06)
            self._annotation.SetNonlinearFontScaleFactor(0.3)
            self._view.render_window().GetRenderers().GetFirstRenderer().AddViewProp(self._annotation)
        return self._annotation

    def scheduleRender(self) -> None:
        self._view.schedule_render()

    def forceRender(self) -> None:
        self._view.render()

    def displayableManagerByClassName(self, name: str) -> Any:
        return self._view.get_displayable_manager_by_class(name)

    def mrmlSliceNode(self) -> Any:
        return self._view.get_view_node()

    def mrmlViewNode(self) -> Any:
        return self._view.get_view_node()

    def cameraNode(self) -> Any:
        return self._view.get_camera_node()

    def resetFocalPoint(self) -> None:
        self._view.reset_focal_point()

    def resetCamera(self) -> None:
        self._view.reset_camera()


class Pane(QtWidgets.QWidget):
    """One view in the window: a coloured headline, and what was rendered last."""

    _stands_for_cpp = True

    def __init__(self, view: Any, node: Any) -> None:
        super().__init__()
        self._view, self._node = view, node
        self._handle: ViewHandle | None = None
        self._image: QtGui.QPixmap | None = None
        self._size = (0, 0)
        self.setMinimumSize(60, 60)

    def _area(self) -> tuple[int, int]:
        return max(self.width, 16), max(self.height - HEADLINE, 16)

    def fit_window(self) -> None:
        """Give the render window the pane's size, as Qt does in Slicer when the layout changes."""
        if self._size != self._area():
            self._size = self._area()
            self._view.update_size(*self._size)
            self.sized()

    def sized(self) -> None:
        """The render window has a new size."""

    def draw(self) -> np.ndarray:
        self.fit_window()
        self._view.render()
        pixels = picture(self._view.render_window())
        rows, columns, _ = pixels.shape
        image = QtGui.QImage(pixels.data, columns, rows, 3 * columns, QtGui.QImage.Format.Format_RGB888)
        self._image = QtGui.QPixmap.fromImage(image.copy())
        self.update()
        return pixels

    def _headline(self) -> str:
        return str(self._node.GetLayoutLabel() or self._node.GetLayoutName())

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtGui.QPainter(self)
        colour = QtGui.QColor.fromRgbF(*self._node.GetLayoutColor())
        painter.fillRect(0, 0, self.width, HEADLINE, colour)
        painter.setPen(QtCore.Qt.GlobalColor.black if colour.lightness() > 110 else QtCore.Qt.GlobalColor.white)
        area = QtCore.QRect(6, 0, self.width - 12, HEADLINE)
        painter.drawText(area, QtCore.Qt.AlignmentFlag.AlignVCenter, self._headline())
        if self._image is not None:
            painter.drawPixmap(0, HEADLINE, self._image)
        painter.end()


class qMRMLSliceWidget(Pane):
    """`layoutManager.sliceWidget(name)`."""

    def sized(self) -> None:
        self._view._logic.ResizeSliceNode(*self._size)

    def sliceLogic(self) -> Any:
        return self._view._logic

    def mrmlSliceNode(self) -> Any:
        return self._node

    def mrmlSliceCompositeNode(self) -> Any:
        return self._view._logic.GetSliceCompositeNode()

    def sliceView(self) -> ViewHandle:
        if self._handle is None:
            self._handle = ViewHandle(self._view)
        return self._handle

    def interactorStyle(self) -> Any:
        return self._view._interactor_observer

    def sliceController(self) -> qMRMLSliceWidget:
        return self

    def fitSliceToBackground(self) -> None:
        self.fit_window()
        self._view._logic.FitSliceToBackground()

    def setSliceOrientation(self, orientation: str) -> None:
        self._node.SetOrientation(orientation)

    def setSliceLink(self, linked: bool) -> None:
        self.mrmlSliceCompositeNode().SetLinkedControl(int(linked))

    def setSliceVisible(self, visible: bool) -> None:
        self._node.SetSliceVisible(int(visible))

    def setSliceOffsetValue(self, offset: float) -> None:
        self._view._logic.SetSliceOffset(offset)

    def _headline(self) -> str:
        return (
            f"{super()._headline()}    {self._node.GetOrientation()[:1]}: {self._view._logic.GetSliceOffset():.2f} mm"
        )


class qMRMLThreeDWidget(Pane):
    """`layoutManager.threeDWidget(i)`."""

    def mrmlViewNode(self) -> Any:
        return self._node

    def threeDView(self) -> ViewHandle:
        if self._handle is None:
            self._handle = ViewHandle(self._view)
        return self._handle

    def threeDController(self) -> qMRMLThreeDWidget:
        return self

    def viewLogic(self) -> Any:
        return self._view._logic

    def resetFocalPoint(self) -> None:
        self._view.reset_focal_point()


class LayoutManager:
    """`slicer.app.layoutManager()`: follows the scene's layout node, as the real one does.

    Views are made once for each view node and kept; a layout shows some of them in `area`.
    """

    def __init__(self, scene: Any, app_logic: Any, area: QtWidgets.QWidget) -> None:
        self._scene, self._app_logic, self._area = scene, app_logic, area
        self._panes: dict[str, Pane] = {}
        self._shown: list[Pane] = []
        self._description: str | None = None
        self._content: QtWidgets.QWidget | None = None
        self._box = QtWidgets.QVBoxLayout(area)
        self._box.setContentsMargins(0, 0, 0, 0)
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLApplicationLogic(app_logic)
        self._logic.SetMRMLScene(scene)
        self._tag = self.layoutNode().AddObserver("ModifiedEvent", lambda *_: self._follow())
        self.setLayout(FOUR_UP)
        self._follow()

    # Slicer's names

    def layoutLogic(self) -> Any:
        return self._logic

    def layoutNode(self) -> Any:
        return self._logic.GetLayoutNode()

    @property
    def layout(self) -> int:
        return int(self.layoutNode().GetViewArrangement())

    def setLayout(self, layout: int) -> None:
        self.layoutNode().SetViewArrangement(int(layout))

    def _of(self, kind: type) -> list[Any]:
        return [pane for pane in self._panes.values() if isinstance(pane, kind)]

    def sliceViewNames(self) -> list[str]:
        return [pane.mrmlSliceNode().GetLayoutName() for pane in self._of(qMRMLSliceWidget)]

    def sliceWidget(self, name: str) -> Any:
        found = [pane for pane in self._of(qMRMLSliceWidget) if pane.mrmlSliceNode().GetLayoutName() == name]
        return found[0] if found else None

    @property
    def threeDViewCount(self) -> int:
        return len(self._of(qMRMLThreeDWidget))

    def threeDWidget(self, which: int | str) -> Any:
        every = self._of(qMRMLThreeDWidget)
        if isinstance(which, str):
            return next((pane for pane in every if pane.mrmlViewNode().GetLayoutName() == which), None)
        return every[which] if 0 <= which < len(every) else None

    tableViewCount, plotViewCount = 0, 0

    def mrmlSliceLogics(self) -> Any:
        return self._app_logic.GetSliceLogics()

    def activeMRMLThreeDViewNode(self) -> Any:
        shown = [pane for pane in self._shown if isinstance(pane, qMRMLThreeDWidget)]
        return shown[0].mrmlViewNode() if shown else None

    def resetSliceViews(self) -> None:
        for pane in self._of(qMRMLSliceWidget):
            pane.fitSliceToBackground()

    def resetThreeDViews(self) -> None:
        for pane in self._of(qMRMLThreeDWidget):
            pane.resetFocalPoint()

    # the bench's

    def shown(self) -> dict[str, Pane]:
        """Panes of the current layout by view name."""
        return {pane._node.GetLayoutName(): pane for pane in self._shown}

    def render(self) -> dict[str, np.ndarray]:
        """Render what is shown; pictures by view name."""
        return {name: pane.draw() for name, pane in self.shown().items()}

    def close(self) -> None:
        self.layoutNode().RemoveObserver(self._tag)
        for pane in self._panes.values():
            pane._view.finalize()
        self._panes.clear()
        self._shown.clear()

    def _follow(self) -> None:
        description = self.layoutNode().GetCurrentLayoutDescription() or ""
        if description == self._description or not description.strip():
            return
        self._description = description
        self._shown = []
        for pane in self._panes.values():
            pane.setParent(None)
            pane._node.SetMappedInLayout(0)
        content = self._build(ET.fromstring(description))
        if self._content is not None:
            self._box.removeWidget(self._content)
            self._content.deleteLater()
        self._content = content
        self._box.addWidget(content)
        for pane in self._shown:
            pane.show()
            pane._node.SetMappedInLayout(1)
        content.show()

    def _build(self, element: ET.Element) -> QtWidgets.QWidget:
        if element.tag == "view":
            return self._pane(element)
        kind = element.get("type", "horizontal")
        if kind == "tab":
            tabs = QtWidgets.QTabWidget()
            for item in element.findall("item"):
                tabs.addTab(self._build(item[0]), item.get("name", ""))
            return tabs
        holder = QtWidgets.QWidget()
        grid = QtWidgets.QGridLayout(holder)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(2)
        for number, item in enumerate(element.findall("item")):
            across = kind == "horizontal"
            row = int(item.get("row", 0 if across or kind == "grid" else number))
            column = int(item.get("column", number if across else 0))
            spans = int(item.get("rowspan", 1)), int(item.get("colspan", 1))
            grid.addWidget(self._build(item[0]), row, column, *spans)
            share = int(item.get("splitSize", 500)) if not spans[0] * spans[1] > 1 else 500
            if across:
                grid.setColumnStretch(column, share)
            else:
                grid.setRowStretch(row, share)
            if kind == "grid":
                grid.setColumnStretch(column, 500)
        return holder

    def _pane(self, element: ET.Element) -> QtWidgets.QWidget:
        kind, tag = element.get("class", ""), element.get("singletontag", "")
        node = self._scene.GetSingletonNode(tag, kind)
        if kind not in ("vtkMRMLSliceNode", "vtkMRMLViewNode") or node is None:
            label = QtWidgets.QLabel(f"{kind} {tag}: not drawn on the bench")
            label.setAlignment(QtCore.Qt.AlignmentFlag.AlignCenter)
            return label
        if node.GetID() not in self._panes:
            is_slice = kind == "vtkMRMLSliceNode"
            view_class = NodeSliceView if is_slice else NodeThreeDView
            shown = vtk.vtkObject.GetGlobalWarningDisplay()
            vtk.vtkObject.GlobalWarningDisplayOff()  # trame-slicer still listens to an event that VTK 9.6 deprecates
            view = view_class(self._scene, self._app_logic, node, OnDemand())
            vtk.vtkObject.SetGlobalWarningDisplay(shown)
            self._panes[node.GetID()] = (qMRMLSliceWidget if is_slice else qMRMLThreeDWidget)(view, node)
        self._shown.append(self._panes[node.GetID()])
        return self._panes[node.GetID()]
