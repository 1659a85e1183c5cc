"""Slice and 3D views without Slicer and a screen: slicer-core's displayable managers, rendered when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from MedRationaleLogic.mrml import layout


class Application:
    """An application's scene and logics, and slice views in it; a context manager."""

    def __init__(self, size: int = 400) -> None:
        core = pytest.importorskip("trame_slicer.core", reason="trame-slicer is missing (extra 'viewer')")
        import slicer
        import vtk

        self.size = size
        self._before = getattr(slicer, "mrmlScene", None)
        vtk.vtkObject.GlobalWarningDisplayOff()
        self._app = core.SlicerApp()
        self.scene = self._app.scene
        self.scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
        slicer.mrmlScene = self.scene
        self._views: dict[str, Any] = {}

    def __enter__(self) -> Application:
        return self

    def __exit__(self, *_: object) -> None:
        import slicer
        import vtk

        self.scene.Clear(1)
        slicer.mrmlScene = self._before
        vtk.vtkObject.GlobalWarningDisplayOn()

    def add_views(self, *names: str) -> None:
        """Views by layout name; the 3D one is what is no slice view of ours."""
        from trame_slicer.views import DirectViewFactory, ViewProps, ViewType
        from trame_slicer.views.render_scheduler import NoScheduleRendering
        from trame_slicer.views.view_layout_definition import ViewLayoutDefinition

        self._app.view_manager.register_factory(DirectViewFactory(True))
        for name in names:
            flat = name in layout.SLICE_VIEWS.values()
            three = ViewLayoutDefinition(name, ViewType.THREE_D_VIEW, ViewProps(label="3D"))
            wanted = ViewLayoutDefinition.slice_view(name) if flat else three
            view = self._app.view_manager.create_view(wanted)
            view.set_scheduled_render(NoScheduleRendering())
            view.render_window().SetMultiSamples(0)
            view.render_window().SetSize(self.size, self.size)
            if flat:
                view._update_slice_size()
            self._views[name] = view

    def picture(self, name: str, file: Path | None = None) -> NDArray[np.uint8]:
        """What a view shows: (row from the top, column, RGB)."""
        import vtk
        from vtk.util.numpy_support import vtk_to_numpy

        window = self._views[name].render_window()
        window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(window)
        grab.ReadFrontBufferOff()
        grab.Update()
        if file is not None:
            writer = vtk.vtkPNGWriter()
            writer.SetFileName(str(file))
            writer.SetInputData(grab.GetOutput())
            writer.Write()
        width, height, _ = grab.GetOutput().GetDimensions()
        values = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(height, width, -1)
        return np.asarray(values[::-1, :, :3]).copy()

    def pixel(self, name: str, point_ras: ArrayLike) -> tuple[float, float, float]:
        """Where a point (RAS, mm) lies in a view: (row from the top, column), and mm in front of its plane."""
        import vtk

        node = self._views[name]._view_node
        to_xy = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(node.GetXYToRAS(), to_xy)
        r, a, s = (float(v) for v in np.asarray(point_ras))
        x, y, _, _ = to_xy.MultiplyPoint((r, a, s, 1.0))
        plane = node.GetSliceToRAS()
        normal = np.array([plane.GetElement(i, 2) for i in range(3)])
        origin = np.array([plane.GetElement(i, 3) for i in range(3)])
        return self.size - 1 - y, x, float(normal @ (np.array([r, a, s]) - origin))
