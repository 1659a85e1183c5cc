"""The model's grids with half the voxels a side: the same field of view and anatomy, an eighth of the work.

A test of the way that training goes (checkpoints, processes, faults) needs real tensors of real studies, not their
resolution. :func:`exchange` exchanges the grids wherever they were taken by name, until the patch is undone; run as a
script, this is ``train_backend.py`` on the coarse grids.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

#: Every module that takes a grid by its name: all are imported before the exchange, or they would keep it.
TAKERS = (
    "evaluation.cohort", "inference.explainer", "model.grids", "model.network", "simulation.files", "simulation.study",
    "training.baseline", "training.conspicuity", "training.data", "training.figures", "training.items",
    "training.module", "training.outlines", "training.run", "training.readings", "training.ship",
)  # fmt: skip
NAMES = ("FINE", "DIFFUSION", "COARSE")


def _half(spec: Any) -> Any:
    (z, y, x), (dz, dy, dx) = spec.shape, spec.spacing
    return type(spec)((z // 2, y // 2, x // 2), (2 * dz, 2 * dy, 2 * dx))


def exchange(patch: pytest.MonkeyPatch) -> None:
    """Put the coarse grids in place; see above."""
    modules = [importlib.import_module(f"MedRationaleLogic.{name}") for name in TAKERS]
    grids, data = (importlib.import_module(f"MedRationaleLogic.{name}") for name in ("model.grids", "training.data"))
    coarse = {name: _half(getattr(grids, name)) for name in NAMES}
    for module in modules:
        for name in set(NAMES) & vars(module).keys():
            patch.setattr(module, name, coarse[name])
    for table in (grids.STEM_GRIDS, data.WIDE):
        for key, spec in list(table.items()):
            patch.setitem(table, key, _half(spec))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    exchange(pytest.MonkeyPatch())
    from MedRationaleLogic.training import backend

    sys.exit(backend.main(sys.argv[1:]))
