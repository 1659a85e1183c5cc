"""Read before all else where tabs are made, so that the first page does not wait for what it does not need.

Two things cost half a second otherwise. Python asks the loader to look up all functions that a library refers to; VTK's
and Slicer's refer to hundreds of thousands of each other's, and a tab calls few. And `import vtk` reads a hundred
libraries beyond those that Slicer's need; here they are read when something of them is asked for.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

if hasattr(os, "RTLD_LAZY"):
    sys.setdlopenflags(os.RTLD_LAZY)

# `python -m` names the main module twice, and the processes made here have read it already
warnings.filterwarnings("ignore", message="'MedRationaleLogic.cli' found in sys.modules", category=RuntimeWarning)


WIDGETS = "vtkmodules.vtkInteractionWidgets"
"""trame_slicer asks for a name of this one when it is read."""


def _found(name: str, also: str | None = None) -> Any:
    """What a name means in the libraries that are read, and in another one; None where it means nothing there."""
    modules = [vars(module) for key, module in list(sys.modules.items()) if key.startswith("vtkmodules.vtk")]
    if also is not None:
        modules.append(vars(import_module(also)))
    return next((names[name] for names in modules if name in names), None)


class LateVtk(ModuleType):
    """The module ``vtk``: names are looked up in the libraries that are read already, then in all of them."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _found(name)
        if value is None:
            value = _found(name, WIDGETS)
        if value is None:
            value = getattr(import_module("vtkmodules.all"), name)
        setattr(self, name, value)
        return value


def put_vtk_off() -> None:
    """Let ``import vtk`` read nothing yet; does nothing where it was read before, or is not installed."""
    found = find_spec("vtkmodules") if "vtk" not in sys.modules else None
    if found is not None:
        late = LateVtk("vtk", LateVtk.__doc__)
        late.__path__ = list(found.submodule_search_locations or [])  # vtk.util
        sys.modules["vtk"] = late


put_vtk_off()
