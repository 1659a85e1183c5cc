"""Losses of the rationale-informed optimisation (docs/training.md says which part of the method each one is)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from MedRationaleLogic.training.data import IGNORE


def _dice(p: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Soft Dice loss per sample over (n, ...) with voxel weights."""
    dims = tuple(range(1, p.ndim))
    overlap = (p * target * weight).sum(dims)
    total = ((p + target) * weight).sum(dims)
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def zone_loss(logits: Tensor, zones: Tensor, gland_only: Tensor) -> Tensor:
    """Cross-entropy and Dice on zones; on the gland alone where only that is labelled.

    Args:
        logits: (n, 3, z, y, x).
        zones: uint8 (n, z, y, x): 0, 1 PZ, 2 TZ, 3 gland of unknown zone, 255 unknown.
        gland_only: bool (n,).
    """
    logits = logits.float()
    known = (zones != IGNORE).float()
    log_p = F.log_softmax(logits, 1)
    log_gland = torch.logsumexp(log_p[:, 1:], 1)
    inside = ((zones > 0) & (zones != IGNORE)).float()
    by_zone = F.nll_loss(log_p, zones.long().clamp(max=2), reduction="none")
    by_gland = -(inside * log_gland + (1 - inside) * log_p[:, 0])
    only = gland_only.reshape(-1, 1, 1, 1)
    cross = (torch.where(only, by_gland, by_zone) * known).sum() / known.sum().clamp(min=1)
    p = log_p.exp()
    loss = cross + _dice(p[:, 1] + p[:, 2], inside, known)
    full = ~gland_only
    if full.any():
        for k in (1, 2):
            loss = loss + 0.5 * _dice(p[full, k], (zones[full] == k).float(), known[full])
    return loss


def lesion_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal (alpha .9, gamma 2) and Dice over what is known; 0 where nothing is.

    Args:
        logits: (n, 1, z, y, x).
        target: uint8 (n, z, y, x): 0, 1, 255 unknown.
    """
    x = logits[:, 0].float()
    known = (target != IGNORE).float()
    t = (target == 1).float()
    p = torch.sigmoid(x)
    cross = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    alpha = 0.9 * t + 0.1 * (1 - t)
    focal = alpha * (1 - torch.where(t > 0, p, 1 - p)) ** 2 * cross
    value = 20.0 * (focal * known).sum() / known.sum().clamp(min=1)
    positive = t.flatten(1).any(1)
    if positive.any():
        value = value + _dice(p[positive], t[positive], known[positive])
    return value


def gland_loss(logits: Tensor, gland: Tensor) -> Tensor:
    """Cross-entropy and Dice of the localiser, (n, 1, z, y, x) against (n, z, y, x)."""
    x, t = logits[:, 0].float(), gland.float()
    return F.binary_cross_entropy_with_logits(x, t) + _dice(torch.sigmoid(x), t, torch.ones_like(t))


def attribute_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Alignment of one region with one attribute's phrases: softmax within the attribute plus pairwise sigmoid.

    Args:
        logits: (values,), s cos(u, t) + b.
        label: () index of the drawn value.
    """
    target = F.one_hot(label, logits.shape[0]).to(logits.dtype)
    return F.cross_entropy(logits[None], label[None]) + F.binary_cross_entropy_with_logits(logits, target)


class _Branch(torch.autograd.Function):
    """See :func:`branch`."""

    @staticmethod
    def forward(_context: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        return features.view_as(features), features.view_as(features)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        for_masks, for_evidence = gradients
        total = for_masks + for_evidence
        for k, (mask, evidence) in enumerate(zip(for_masks, for_evidence, strict=True)):
            a = mask.flatten().float()
            along = torch.dot(a, evidence.flatten().float())
            if along < 0:
                total[k] -= (along / torch.dot(a, a).clamp(min=1e-20)).to(mask.dtype) * mask
        return total


def branch(features: Tensor) -> tuple[Tensor, Tensor]:
    """Two copies of a stem's features, one for the masks and one for the evidence.

    On the way back, what in a study's evidence gradient opposes its mask gradient is projected off (PCGrad, Yu 2020,
    on the shared representation as in MGDA-UB, Sener and Koltun 2018): evidence may not be bought with masks.

    Args:
        features: (n, c, z, y, x).
    """
    for_masks, for_evidence = _Branch.apply(features)
    return for_masks, for_evidence


def jaccard_loss(evidence: Tensor, inside: Tensor) -> Tensor:
    """1 - soft Jaccard index of one map with a region's extent.

    Args:
        evidence: (k,) in 0..1 at the voxels around a region.
        inside: bool (k,), which of them belong to the extent.
    """
    overlap = evidence[inside].sum()
    union = inside.sum() + evidence[~inside].sum()
    return 1 - overlap / union.clamp(min=1.0)


def overlap_excess(first: Tensor, second: Tensor, allowed: float) -> Tensor:
    """By how much two extent classes' maps overlap beyond what their true extents do.

    Args:
        first, second: (k,) evidence in 0..1 of two extent classes around one region.
        allowed: Jaccard index of the classes' true extents there.
    """
    both = torch.minimum(first, second).sum()
    either = torch.maximum(first, second).sum().clamp(min=1e-6)
    return F.relu(both / either - allowed)


@dataclass
class Multiplier:
    """Dual ascent on "segmentation no worse than 1.02 x the unconstrained twin's".

    Both losses are followed by moving averages; the multiplier grows while the constraint is broken and shrinks while
    it is kept, within bounds.

    Attributes:
        twin: (step, the twin's moving average) in ascending steps; empty when there is no twin to compare with, and
            the multiplier then stays what it is.
        value: the multiplier of the segmentation losses.
        average: moving average of our own segmentation loss; None before the first step.
    """

    twin: Sequence[tuple[int, float]] = ()
    value: float = 1.0
    average: float | None = None
    slack: float = 1.02
    rate: float = 0.05
    low: float = 0.5
    high: float = 4.0
    memory: float = 0.98

    def update(self, step: int, loss: float) -> float:
        """Take one step's segmentation loss into account; returns the multiplier for the next step.

        A loss that is not finite is left out.
        """
        if not math.isfinite(loss):
            return self.value
        self.average = loss if self.average is None else self.memory * self.average + (1 - self.memory) * loss
        if self.twin:
            violation = self.average / (self.slack * self.twin_at(step)) - 1
            self.value = min(self.high, max(self.low, self.value + self.rate * violation))
        return self.value

    def twin_at(self, step: int) -> float:
        """The twin's moving average at a step: interpolated, beyond its ends the nearest."""
        steps = [s for s, _ in self.twin]
        return float(np.interp(step, steps, [v for _, v in self.twin]))
