"""The suspicion's weights, fitted to candidates as they are met."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from MedRationaleLogic.model.network import RationaleNet
from MedRationaleLogic.model.text import load_cached
from MedRationaleLogic.training import suspicion
from MedRationaleLogic.training.ship import area_under_roc
from MedRationaleLogic.training.suspicion import Judged
from Testing.bundle_factory import tiny_spec


def network() -> RationaleNet:
    torch.manual_seed(0)
    made = RationaleNet(
        tiny_spec()
    ).eval()  # fmt: skip
    made.phrases.copy_(load_cached())
    return made.requires_grad_(False)


@pytest.fixture
def net() -> RationaleNet:
    return network()


def made_up(net: RationaleNet, count: int, *, told_by: str) -> list[Judged]:
    """Regions whose kind is told by their ADC signal, or by the masks alone; all else is drawn at random."""
    g = torch.Generator().manual_seed(1)
    out = []
    for k in range(count):
        positive = k % 3 == 0
        readings = {a.id: torch.rand(len(a.values), generator=g).softmax(0) for a in net.spec.attributes}
        if told_by == "adc.signal":
            marked = 0.85 if positive else 0.05
            readings["adc.signal"] = torch.tensor([0.95 - marked, 0.05, marked])
        lesion = float(torch.randn((), generator=g)) + (3.0 if positive and told_by == "masks" else 0.0)
        out.append(Judged(k % 2, 7 if k % 4 else 1 + k % 6, readings, lesion, positive, k % 5 != 0))
    return out


def said(net: RationaleNet, regions: list[Judged]) -> torch.Tensor:
    """Suspicion's logits as inference computes them."""
    out = []
    for r in regions:
        there = [bool(r.state >> i & 1) for i in range(3)]
        slope = net.trunk.residual.weight.flatten()[0] / net.trunk.lesion.weight.flatten()[0]
        offset = net.trunk.residual.bias[0] - slope * net.trunk.lesion.bias[0]
        s = net.suspicion("PZ" if r.zone == 0 else "TZ", r.readings, slope * r.lesion + offset, there)
        assert torch.allclose(s.logit, s.residual + torch.stack([t for _, t in s.terms]).sum() + (
            net.suspicion_bias[r.zone, r.state]), atol=1e-5)  # fmt: skip
        out.append(s.logit)
    return torch.stack(out)


@pytest.mark.parametrize("told_by", ["adc.signal", "masks"])
def test_the_fit_ranks_by_whatever_tells_and_the_residual_stays_small(net: RationaleNet, told_by: str) -> None:
    regions = made_up(net, 400, told_by=told_by)
    untouched = copy.deepcopy(net.state_dict())
    facts = suspicion.fit(net, regions)
    positive = torch.tensor([r.positive for r in regions]).numpy()
    ranked = area_under_roc(said(net, regions).numpy(), positive)
    assert ranked > (0.99 if told_by == "adc.signal" else 0.9)
    assert facts["regions"] == 400
    assert facts["positive"] == int(positive.sum())
    assert facts["residual_share_median"] <= suspicion.SHARE or facts["residual_limit"] == suspicion.LIMITS[0]
    assert net.spec.residual_limit == facts["residual_limit"]
    for region, logit in zip(regions[:20], said(net, regions[:20]), strict=True):
        assert suspicion.of(net, region) == pytest.approx(float(torch.sigmoid(logit)), abs=1e-4)
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, untouched[k])}
    assert changed == {"suspicion_weight", "suspicion_bias", "trunk.residual.weight", "trunk.residual.bias"}


def test_what_only_marked_adc_tells_gives_its_weight_to_marked_adc(net: RationaleNet) -> None:
    regions = made_up(net, 400, told_by="adc.signal")
    suspicion.fit(net, regions)
    terms = dict(net.suspicion("PZ", regions[0].readings, torch.tensor(0.0), [True] * 3).terms)
    assert max(terms, key=lambda name: float(terms[name])) in ("marked on ADC", "altered on ADC")


def test_the_residual_only_adds_beside_a_tower(net: RationaleNet) -> None:
    readings = made_up(net, 1, told_by="masks")[0].readings
    for value, sign in ((-3.0, 0), (2.0, 1)):
        s = net.suspicion("PZ", readings, torch.tensor(value), [True] * 3)
        assert float(s.residual.sign()) == sign
        assert float(s.residual) <= net.spec.residual_limit
    old = copy.copy(net)
    old.spec = replace(net.spec, tower=0)
    assert float(old.suspicion("PZ", readings, torch.tensor(-3.0), [True] * 3).residual) < 0


def test_one_kind_of_region_is_refused(net: RationaleNet) -> None:
    regions = [r for r in made_up(net, 30, told_by="masks") if not r.positive]
    with pytest.raises(ValueError, match="of both kinds"):
        suspicion.fit(net, regions)
    with pytest.raises(ValueError, match="of both kinds"):
        suspicion.fit(net, [])
