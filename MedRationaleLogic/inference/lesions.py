"""Candidate regions out of a lesion probability map.

The extraction follows the idea of picai_eval's "dynamic" mode: the highest peak starts a candidate, everything
connected to it above a share of the peak belongs to it, and the search goes on in what is left. What is left of a
candidate just below its share would start a hollow candidate around it: as there, what touches an earlier one is none,
and neither is what starts on a slope, for that is the shell of a shell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: A candidate holds what is above its peak divided by this.
PEAK_SHARE: Final = 2.5
#: Candidates looked for at most.
MAX_CANDIDATES: Final = 6
#: Share of a candidate that must lie in the gland (the paper's rule).
INSIDE_SHARE: Final = 0.5

_CONNECT_26: Final = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Candidate:
    """One 26-connected region of a probability map.

    Attributes:
        mask: bool (z, y, x).
        peak: its highest probability.
        inside: share of it in the gland.
        kept: whether it goes on to be read.
        reason: why not, in words; empty when kept.
    """

    mask: NDArray[np.bool_]
    peak: float
    inside: float
    kept: bool
    reason: str = ""


def extract(
    probability: NDArray[np.float32], gland: NDArray[np.bool_], voxel_volume: float, *, min_peak: float,
    min_volume_ml: float,
) -> tuple[Candidate, ...]:  # fmt: skip
    """Candidates in order of falling peak.

    Args:
        probability: lesion probability (z, y, x) in 0..1.
        gland: bool mask on the same grid.
        voxel_volume: cubic millimetres.
        min_peak: smallest peak that starts a candidate.
        min_volume_ml: a smaller region is noise; it is passed over without a word.

    Returns:
        Up to ``MAX_CANDIDATES`` kept ones, and those dropped because less than half of them lies in the gland.
    """
    left = np.array(probability, dtype=np.float32)
    near = np.zeros(left.shape, dtype=bool)  # what belongs to a candidate already, and the voxels that touch it
    found: list[Candidate] = []
    for _ in range(4 * MAX_CANDIDATES):
        at = np.unravel_index(int(left.argmax()), left.shape)
        peak = float(left[at])
        if peak < min_peak or sum(c.kept for c in found) == MAX_CANDIDATES:
            break
        labels, _ = ndimage.label(left >= peak / PEAK_SHARE, structure=_CONNECT_26)
        mask = labels == labels[at]
        left[mask] = 0.0
        if mask.sum() * voxel_volume / 1000.0 < min_volume_ml:
            continue
        if near[mask].any() or not _is_peak(probability, at):
            continue
        near |= ndimage.binary_dilation(mask, _CONNECT_26)
        inside = float(gland[mask].mean())
        kept = inside >= INSIDE_SHARE
        reason = "" if kept else f"dropped: only {inside:.0%} of it lies in the gland"
        found.append(Candidate(mask, peak, inside, kept, reason))
    return tuple(found)


def is_reported(suspicion: float, category: int | Literal["X"], thresholds: Mapping[str, float]) -> bool:
    """Whether a candidate is shown to a reader as a suspicious region, or listed as looked at.

    From the bundle's suspicion on it is; also one whose readings lead to category 4 or 5, or to 3 (equivocal) with a
    suspicion that is not next to nothing.

    Args:
        suspicion: 0..1.
        category: by rule, "X" where there is none.
        thresholds: of the bundle, see :class:`MedRationaleLogic.model.bundle.Manifest`.
    """
    if suspicion >= thresholds["suspicion"]:
        return True
    if category == "X" or category < 3:
        return False
    return category > 3 or suspicion >= thresholds.get("equivocal", 0.0)


def _is_peak(probability: NDArray[np.float32], at: tuple[np.intp, ...]) -> bool:
    """Whether no voxel that touches this one is higher."""
    around = tuple(slice(max(0, int(i) - 1), int(i) + 2) for i in at)
    return bool(probability[at] >= probability[around].max())
