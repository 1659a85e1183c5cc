"""Losses of the rationale-informed optimisation (docs/training.md says which part of the method each one is)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from MedRationaleLogic.training.data import IGNORE

#: Values that need no evidence: what normal tissue shows. Evidence of any other value outside regions is a fault.
QUIET_VALUES: Final = frozenset(
    {
        ("t2.pattern", "normal"), ("t2.signal", "hyper"), ("t2.signal", "iso"), ("t2.capsule", "none"),
        ("adc.signal", "normal"), ("adc.pattern", "none"), ("hbv.signal", "normal"), ("hbv.pattern", "none"),
    }
)  # fmt: skip


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
