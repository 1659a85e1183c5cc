"""What is put off when tabs are made is there all the same when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("vtkmodules", reason="the viewer's packages are not installed")


def said(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_tab_reads_few_libraries_of_vtk() -> None:
    code = "import sys, MedRationaleViewer.early, MedRationaleViewer.tab; print('vtkmodules.all' in sys.modules)"
    assert said(code) == ["False"]


def test_every_name_of_vtk_is_found() -> None:
    code = """
import MedRationaleViewer.early, vtk, sys
from vtkmodules.vtkCommonMath import vtkMatrix4x4
print(vtk.vtkMatrix4x4 is vtkMatrix4x4, 'vtkmodules.all' in sys.modules)
print(vtk.vtkChartXY.__name__, 'vtkmodules.all' in sys.modules)
from vtk import vtkSphereSource
from vtk.util.numpy_support import vtk_to_numpy
import vtkmodules.all as whole
names = [name for name in dir(whole) if not name.startswith('__')]
print(all(getattr(vtk, n) is getattr(whole, n) for n in names if isinstance(getattr(whole, n), type)))
odd = [n for n in names if type(getattr(vtk, n)) is not type(getattr(whole, n))]
print(all(n.startswith('vtkVariant') for n in odd), len(names) > 2000)  # these four VTK has twice
try:
    vtk.vtkNothing
except AttributeError:
    print('unknown')
"""
    assert said(code) == ["True", "False", "vtkChartXY", "True", "True", "True", "True", "unknown"]


def test_a_vtk_that_was_read_before_stays() -> None:
    assert said("import vtk, MedRationaleViewer.early, sys; print(type(sys.modules['vtk']).__name__)") == ["module"]
