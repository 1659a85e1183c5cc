"""The suspicion's weights, fitted to candidates as they are met.

While concepts are trained, suspicion learns from few regions at a time, most of them drawn. What it is used for is
another thing: to rank the network's own candidates, most of which are of nothing. So its weights are fitted once more
at the end, on all candidates and drawn regions of some hundred simulated studies of the training maps, with whatever
sequences are there. Nothing else of the network changes.

The residual is a multiple of the fused trunk's lesion logit, averaged over the region, shifted and squashed: what the
masks know and no reading says. It only ever raises a suspicion. How much it may say is chosen so that its median share
of the suspicion of positives stays under :data:`SHARE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from MedRationaleLogic.model.grids import SEQUENCES
from MedRationaleLogic.model.network import SUSPICION_TERMS, RationaleNet

#: The residual's median share of a positive's suspicion stays under this. What is asked is .20 over all regions, of
#: which most are no positives and have next to none.
SHARE: Final = 0.18
LIMITS: Final = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
STEPS: Final = 1500
ZONES: Final = ("PZ", "TZ")
RIDGE: Final = 1e-3


@dataclass(frozen=True)
class Judged:
    """A region whose suspicion is known.

    Attributes:
        zone: 0 PZ, 1 TZ.
        state: which sequences were there, as in :meth:`RationaleNet.suspicion`.
        readings: attribute id -> probabilities (values,).
        lesion: mean lesion logit of the trunk over the region.
        positive: category 4 or 5, or a candidate that hits such a region.
        drawn: outlined by truth; else a candidate.
    """

    zone: int
    state: int
    readings: Mapping[str, Tensor]
    lesion: float
    positive: bool
    drawn: bool


def _masses(net: RationaleNet, regions: Sequence[Judged]) -> Tensor:
    """(regions, terms): the readings' probability that each term of suspicion weighs; 0 where it was not read."""
    index = {a.id: a.values for a in net.spec.attributes}
    out = torch.zeros(len(regions), len(SUSPICION_TERMS))
    for k, (_, _, attribute, accepted) in enumerate(SUSPICION_TERMS):
        where = [index[attribute].index(v) for v in accepted]
        for n, region in enumerate(regions):
            if attribute in region.readings:
                out[n, k] = region.readings[attribute][where].sum()
    return out


def fit(net: RationaleNet, regions: Sequence[Judged]) -> dict[str, Any]:
    """Fit the suspicion's weights, biases and residual, in place; returns facts for the record.

    Of :data:`LIMITS` the largest is taken whose median share of the residual over drawn positives, all sequences there,
    is under :data:`SHARE`.

    Raises:
        ValueError: there are no positives or no negatives to fit to.
    """
    positive = torch.tensor([r.positive for r in regions])
    if not bool(positive.any()) or bool(positive.all()):
        raise ValueError(f"suspicion needs regions of both kinds; {len(regions)} found, {int(positive.sum())} positive")
    masses, zone = _masses(net, regions), torch.tensor([r.zone for r in regions])
    state = torch.tensor([r.state for r in regions])
    lesion = torch.tensor([r.lesion for r in regions])
    whole = torch.tensor([r.drawn and r.positive and r.state == 2 ** len(SEQUENCES) - 1 for r in regions])
    chosen: tuple[float, dict[str, Tensor], float, float] | None = None
    for limit in LIMITS:
        found = _solve(masses, zone, state, lesion, positive.float(), limit)
        terms = (F.softplus(found["weight"])[zone] * masses).sum(1)
        rest = limit * torch.tanh(F.relu(found["slope"] * lesion + found["offset"]))
        share = float((rest / (terms + rest + 1e-9))[whole].median()) if bool(whole.any()) else 0.0
        if chosen is None or share <= SHARE:
            chosen = (limit, found, share, float(found["loss"]))
    assert chosen is not None
    limit, found, share, loss = chosen
    with torch.no_grad():
        net.suspicion_weight.copy_(found["weight"])
        net.suspicion_bias.copy_(found["bias"])
        # both are linear in the trunk's features: a multiple of the lesion logit, shifted
        net.trunk.residual.weight.copy_(found["slope"] * net.trunk.lesion.weight)
        assert net.trunk.residual.bias is not None
        assert net.trunk.lesion.bias is not None
        net.trunk.residual.bias.copy_(found["slope"] * net.trunk.lesion.bias + found["offset"])
    net.spec = replace(net.spec, residual_limit=limit)
    return {
        "regions": len(regions), "positive": int(positive.sum()), "drawn": sum(r.drawn for r in regions),
        "residual_limit": limit, "residual_share_median": round(share, 4), "cross_entropy": round(loss, 4),
    }  # fmt: skip


@torch.inference_mode()
def of(net: RationaleNet, region: Judged) -> float:
    """A region's suspicion, 0..1, by a network that :func:`fit` has been at: its residual is a multiple of the lesion
    logit, shifted."""
    trunk = net.trunk
    assert trunk.residual.bias is not None
    assert trunk.lesion.bias is not None
    largest = int(trunk.lesion.weight.abs().argmax())
    slope = trunk.residual.weight.flatten()[largest] / trunk.lesion.weight.flatten()[largest]
    residual = slope * (region.lesion - trunk.lesion.bias[0]) + trunk.residual.bias[0]
    presence = [bool(region.state >> i & 1) for i in range(len(SEQUENCES))]
    return float(torch.sigmoid(net.suspicion(ZONES[region.zone], region.readings, residual, presence).logit))


def _solve(
    masses: Tensor, zone: Tensor, state: Tensor, lesion: Tensor, target: Tensor, limit: float
) -> dict[str, Tensor]:
    weight = torch.zeros(2, masses.shape[1], requires_grad=True)
    bias = torch.full((2, 2 ** len(SEQUENCES)), -3.0, requires_grad=True)
    slope, offset = torch.tensor(0.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias, slope, offset], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rest = limit * torch.tanh(F.relu(F.softplus(slope) * lesion + offset))
        logit = bias[zone, state] + (F.softplus(weight)[zone] * masses).sum(1) + rest
        cross = F.binary_cross_entropy_with_logits(logit, target)
        # small weights where little was seen; what never was there keeps its first bias
        loss = cross + RIDGE * (F.softplus(weight).square().mean() + (bias + 3.0).square().mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {
        "weight": weight.detach(), "bias": bias.detach(), "slope": F.softplus(slope).detach(),
        "offset": offset.detach(), "loss": cross.detach(),
    }  # fmt: skip
