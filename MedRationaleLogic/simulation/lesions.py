"""How large, how many and in which zone real csPCa is: measured once, drawn from here.

Measured in all 419 human csPCa masks of PI-CAI (452 26-connected lesions; Saha, Bosma, Twilt 2022, Zenodo 6624726,
CC BY-NC 4.0) and the AI zone maps of the same studies. Quantiles only: no mask can be recovered from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from MedRationaleLogic.simulation.regions import choose, uniform

#: Quantiles 0, 1/40, ..., 1 of the volume of a lesion, mL.
VOLUME_ML: Final = (
    0.059, 0.102, 0.149, 0.188, 0.238, 0.267, 0.294, 0.345, 0.366, 0.414, 0.459, 0.519, 0.57, 0.625, 0.648, 0.699,
    0.743, 0.831, 0.916, 1.02, 1.077, 1.172, 1.284, 1.379, 1.501, 1.602, 1.696, 1.884, 2.016, 2.24, 2.57, 3.001, 3.294,
    3.829, 4.245, 5.612, 7.791, 10.217, 15.965, 26.067, 71.03,
)  # fmt: skip
#: Lesions in a study that has one: count of studies.
NUMBER: Final = {"1": 391.0, "2": 23.0, "3": 5.0}
#: Upper volume (mL) -> quantiles 0, 1/16, ..., 1 of the share of a lesion's gland voxels that lies in the PZ.
PZ_SHARE: Final = (
    (0.6, (0, 0.009, 0.14, 0.418, 0.643, 0.879, 0.974, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)),
    (1.5, (0, 0, 0.024, 0.105, 0.197, 0.395, 0.563, 0.708, 0.848, 0.947, 0.991, 0.998, 1, 1, 1, 1, 1)),
    (4.0, (0, 0, 0.002, 0.011, 0.03, 0.041, 0.125, 0.326, 0.458, 0.606, 0.737, 0.878, 0.955, 0.963, 0.994, 1, 1)),
    (1e9, (0, 0.001, 0.008, 0.019, 0.034, 0.054, 0.091, 0.126, 0.167, 0.263, 0.301, 0.392, 0.464, 0.48, 0.536, 0.958,
           1)),
)  # fmt: skip


def _quantile(table: Sequence[float], at: float) -> float:
    """Linear between the equally spaced quantiles of ``table``, at in [0, 1]."""
    place = at * (len(table) - 1)
    low = min(int(place), len(table) - 2)
    return table[low] + (place - low) * (table[low + 1] - table[low])


def draw_volume(g: torch.Generator, highest: float = 1.0) -> float:
    """A lesion's volume, mL, from the measured quantiles up to ``highest``."""
    return _quantile(VOLUME_ML, uniform(g, 0.0, highest))


def draw_number(g: torch.Generator) -> int:
    """Lesions in a study that has one."""
    return int(choose(g, NUMBER))


def draw_pz_share(g: torch.Generator, volume_ml: float) -> float:
    """Share of a lesion of this volume that lies in the PZ, 0 to 1."""
    table = next(shares for upper, shares in PZ_SHARE if volume_ml < upper)
    return _quantile(table, uniform(g, 0.0, 1.0))
