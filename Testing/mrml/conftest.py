"""A scene for every test, without Slicer; skipped by name where slicer-core is missing (extra ``viewer``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


def slicer_core() -> Any:
    """The module ``slicer`` of slicer-core; an unrelated package of that name counts as missing."""
    module = pytest.importorskip("slicer", reason="slicer-core is missing (extra 'viewer')")
    if not hasattr(module, "vtkMRMLScene"):
        pytest.skip("the package 'slicer' that is installed is not slicer-core (extra 'viewer')")
    return module


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty scene with the application's singletons, ``slicer.mrmlScene`` set; no error of VTK may come up."""
    slicer = slicer_core()
    import vtk

    said = vtk.vtkStringOutputWindow()
    before = vtk.vtkOutputWindow.GetInstance()
    vtk.vtkOutputWindow.SetInstance(said)
    fresh = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(fresh)
    for cls in ("vtkMRMLColorLegendDisplayNode", "vtkMRMLSequenceBrowserNode"):
        fresh.RegisterNodeClass(getattr(slicer, cls)())  # as the modules of that name do in Slicer
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(fresh)  # makes it
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(fresh, True)
    monkeypatch.setattr(slicer, "mrmlScene", fresh, raising=False)
    yield fresh
    errors = [line for line in (said.GetOutput() or "").splitlines() if line.startswith("ERROR")]
    vtk.vtkOutputWindow.SetInstance(before)
    fresh.Clear(1)
    assert not errors, said.GetOutput()
