"""How sharply conspicuity says so: chosen by the finished maps, written into its own layer, and into nothing else."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from MedRationaleLogic.model.grids import SEQUENCES
from MedRationaleLogic.model.network import RationaleNet
from MedRationaleLogic.model.pooling import EXTENTS
from MedRationaleLogic.model.text import load_cached
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.training import conspicuity
from MedRationaleLogic.training.data import SimulatedSet
from Testing.bundle_factory import tiny_spec

pytestmark = pytest.mark.usefixtures("coarse_module")


@pytest.fixture(scope="module")
def net() -> RationaleNet:
    torch.manual_seed(0)
    made = RationaleNet(tiny_spec()).eval()
    made.phrases.copy_(load_cached())
    for sequence in SEQUENCES:  # an untrained map is flat
        layer = made.stem(sequence).conspicuity
        assert layer is not None
        torch.nn.init.normal_(layer.weight, std=1.0)
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def data(net: RationaleNet) -> SimulatedSet:
    return SimulatedSet(sample_bank(), net.spec, 3, 4, paired=1.0)


def test_each_map_becomes_better_or_stays_and_nothing_else_changes(net: RationaleNet, data: SimulatedSet) -> None:
    fitted = deepcopy(net)
    facts = conspicuity.fit(fitted, data, 2)
    assert facts["pairs"] == 2
    assert facts["maps"]
    gain = {name: value(m["after"]) - value(m["before"]) for name, m in facts["maps"].items()}
    assert min(gain.values()) >= 0
    assert max(gain.values()) > 0
    before, after = net.state_dict(), fitted.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".conspicuity." in name for name in changed)
    features = torch.randn(net.spec.features, 50, generator=torch.Generator().manual_seed(1))
    for sequence in SEQUENCES:
        old, new = net.conspicuity(sequence, features), fitted.conspicuity(sequence, features)
        assert old is not None
        assert new is not None
        for row, extent in enumerate(EXTENTS):
            chosen = facts["maps"].get(f"{sequence} {extent}", {"slope": 1.0, "offset": 0.0})
            torch.testing.assert_close(new[row], chosen["slope"] * old[row] + chosen["offset"], atol=1e-4, rtol=1e-4)
    # asked again it finds what it had left
    again = conspicuity.fit(fitted, data, 2)["maps"]
    for name, was in facts["maps"].items():
        assert again[name]["before"] == pytest.approx(was["after"], abs=0.02)


def value(figures: list[float]) -> float:
    cover, share, alike = figures
    return cover + (share + alike) / 2


def test_a_map_that_is_right_but_faint_is_made_to_show(data: SimulatedSet) -> None:
    """Conspicuity that is the truth itself, only squeezed: the fit undoes the squeezing."""
    torch.manual_seed(0)
    perfect = RationaleNet(tiny_spec()).eval()
    perfect.phrases.copy_(load_cached())
    item = data[0]
    loud = item["regions_t2w"] > 0
    found = {("t2w", e): {(k, 0.0): conspicuity.Figures() for k in (1.0, 4.0)} for e in EXTENTS}
    net = _Told(perfect, loud.flatten())
    features = torch.zeros(2, net.spec.features, loud.numel())
    conspicuity._measure(net, item, "t2w", features, net.values, found)  # type: ignore[arg-type]
    faint, sharper = (found["t2w", "interior"][k, 0.0] for k in (1.0, 4.0))
    assert faint.cover, "the study has a region that shows something inside"
    assert sum(sharper.share) > sum(faint.share)
    assert sum(sharper.cover) >= sum(faint.cover)
    assert faint.alike == pytest.approx([1.0] * len(faint.alike), abs=1e-3), "both scanners are told the same"
    assert sharper.value > faint.value


class _Told:
    """A network whose voxels show every value surely, and whose conspicuity is told."""

    def __init__(self, net: RationaleNet, where: torch.Tensor) -> None:
        self.spec, self.values = net.spec, net.value_embeddings()
        self.logits = torch.where(where, 0.6, -0.6).expand(3, -1)

    def embed(self, _sequence: str, features: torch.Tensor) -> object:
        from MedRationaleLogic.model.network import Seen

        empty = features.new_zeros(3, self.spec.embedding, 0)
        return Seen(features, empty, features.new_zeros(3, 0), self.logits)

    def evidence(self, sequence: str, seen: object, _values: torch.Tensor) -> dict[str, torch.Tensor]:
        count = self.logits.shape[1]
        return {a.id: torch.ones(len(a.values), count) for a in self.spec.attributes if a.sequence == sequence}


def test_a_network_without_towers_is_refused(data: SimulatedSet) -> None:
    from dataclasses import replace

    plain = RationaleNet(replace(tiny_spec(), tower=0)).eval()
    with pytest.raises(ValueError, match="no conspicuity"):
        conspicuity.fit(plain, data, 1)
