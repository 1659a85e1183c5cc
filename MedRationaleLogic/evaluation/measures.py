"""What one study's masks and evidence are measured by; arrays are (z, y, x) on the grid that is named."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from MedRationaleLogic.training.conspicuity import SHOWN
from MedRationaleLogic.training.module import dice

Bools = NDArray[np.bool_]


def dsc(predicted: Tensor, truth: Tensor, known: Tensor | None = None) -> float | None:
    """Dice similarity coefficient where ``known``; None without a true voxel."""
    if known is not None:
        predicted, truth = predicted & known, truth & known
    return dice(predicted, truth) if bool(truth.any()) else None


def slice_dsc(predicted: Tensor, truth: Tensor) -> float | None:
    """Mean DSC over the slices that have a true voxel; None without one."""
    positive = truth.flatten(1).any(1)
    if not bool(positive.any()):
        return None
    return float(np.mean([dice(p, t) for p, t in zip(predicted[positive], truth[positive], strict=True)]))


def relevance_mass(heat: Tensor, mask: Tensor) -> float:
    """Relevance mass accuracy (Arras 2022): the share of a map's heat inside a mask; 0 for a map without heat, which
    shows nothing of what is there."""
    total = float(heat.sum())
    return float(heat[mask].sum()) / total if total > 0 else 0.0


def jaccard(first: Tensor, second: Tensor) -> float:
    """Intersection over union of two boolean masks; 1 when both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def extent_figures(evidence: Tensor, extents: Mapping[str, Tensor], extent: str) -> tuple[float, bool]:
    """(IoU of the shown evidence with the concept's extent, pointing game hit).

    Args:
        evidence: (k,) 0..1 of the concept in the window.
        extents: from :func:`MedRationaleLogic.model.pooling.window`.
        extent: the concept's class.
    """
    truth = extents[extent]
    hit = bool(truth[int(evidence.argmax())]) if len(evidence) else False
    return jaccard(evidence > SHOWN, truth), hit


def cosine(first: Tensor, second: Tensor) -> float | None:
    """Cosine of two maps; 0 when one of them shows nothing, as a map of 0 has no relevance mass; None when both do."""
    norms = float(first.norm()), float(second.norm())
    if not any(norms):
        return None
    return float((first * second).sum()) / (norms[0] * norms[1]) if all(norms) else 0.0
