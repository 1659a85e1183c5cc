"""The last stage: what reads a region, fitted to many regions as they are met."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from MedRationaleLogic.model.network import RationaleNet
from MedRationaleLogic.model.text import load_cached
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.simulation.study import MAX_REGIONS
from MedRationaleLogic.training import readings, ship
from MedRationaleLogic.training.data import NORMAL, SimulatedSet
from MedRationaleLogic.training.readings import Sample
from MedRationaleLogic.training.ruled import RuleLoss
from Testing.bundle_factory import tiny_spec

STUDIES = 4


def network() -> RationaleNet:
    torch.manual_seed(0)
    made = RationaleNet(tiny_spec()).eval()
    made.phrases.copy_(load_cached())
    return made.requires_grad_(False)


pytestmark = pytest.mark.usefixtures("coarse_module")


@pytest.fixture(scope="module")
def data() -> SimulatedSet:
    return SimulatedSet(sample_bank(), network().spec, 3, STUDIES)


@pytest.fixture(scope="module")
def samples(data: SimulatedSet) -> list[Sample]:
    net = network()
    # a lesion map that shows something: an untrained one is flat
    torch.nn.init.normal_(net.trunk.lesion.weight, std=2.0)
    return list(readings.collect(net, data, range(STUDIES)))


def test_regions_are_met_as_drawn_by_another_hand_and_as_candidates(data: SimulatedSet, samples: list[Sample]) -> None:
    kinds = {s.outline for s in samples}
    assert {"drawn", "another hand"} <= kinds
    drawn = [s for s in samples if s.outline == "drawn"]
    other = [s for s in samples if s.outline == "another hand"]
    assert len(drawn) == len(other)
    for a, b in zip(drawn, other, strict=True):
        assert torch.equal(a.labels, b.labels)
        assert a.positive == b.positive
    for s in samples:
        for features, region in s.looks.values():
            assert features.shape == (8, len(region.index))
            assert features.dtype == torch.float16
        assert set(s.lesions) <= set(range(1, 8))
        if s.outline == "candidate":
            assert len(s.lesions) == 1
        else:
            assert readings.WHOLE in s.lesions or "t2w" not in s.looks
    categories = [int(c) for k in range(STUDIES) for c in data[k]["category"] if int(c)]
    assert sum(s.positive is True for s in drawn) <= sum(c >= 4 for c in categories)
    assert sum(s.positive is None for s in drawn) <= sum(c == 3 for c in categories)


def test_a_candidate_of_nothing_is_labelled_as_normal_tissue_or_not_at_all(samples: list[Sample]) -> None:
    spec = network().spec
    nothing = [s for s in samples if s.outline == "candidate" and s.positive is False]
    normal = {tuple(sorted(v.items())) for v in NORMAL.values()}
    told = 0
    for s in nothing:
        said = {a.id: a.values[int(s.labels[i])] for i, a in enumerate(spec.attributes) if s.labels[i] >= 0}
        if said and len(said) < len(spec.attributes):
            assert tuple(sorted(said.items())) in normal
            told += 1
    assert told > 0


def test_what_is_normal_counts_as_little_as_it_is_met(data: SimulatedSet, samples: list[Sample]) -> None:
    spec = network().spec
    normal = {tuple(sorted(v.items())) for v in NORMAL.values()}
    patches = sum(bool((data[k]["labels"][MAX_REGIONS:] >= 0).any(1).sum()) for k in range(STUDIES))
    assert patches > 0
    assert {s.normal for s in samples if s.outline == "drawn"} == {True, False}
    assert {s.normal for s in samples if s.outline == "another hand"} == {True, False}
    for s in samples:
        assert s.weight == (readings.NORMAL_WEIGHT if s.normal else 1.0)
        said = {a.id: a.values[int(s.labels[i])] for i, a in enumerate(spec.attributes) if s.labels[i] >= 0}
        if s.normal and said:
            assert tuple(sorted(said.items())) in normal
            assert s.positive is False
        elif said:
            assert len(said) == len(spec.attributes), "of a drawn region everything is known"


def test_the_weight_of_normal_tissue_moves_what_is_said(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = network().spec
    i = next(k for k, a in enumerate(spec.attributes) if a.id == "t2.pattern")
    at = spec.attributes[i].values.index("normal")
    mean = {}
    for weight in (1.0, 0.02):
        monkeypatch.setattr(readings, "NORMAL_WEIGHT", weight)
        net = network()
        facts = readings.fit(net, samples, epochs=3)
        assert facts["normal_weight"] == weight
        read = [readings.read(net, s, net.value_embeddings()) for s in samples if not s.normal and "t2w" in s.looks]
        mean[weight] = float(torch.stack([torch.softmax(x["t2.pattern"], 0)[at] for x in read]).detach().mean())
    assert mean[0.02] < 0.8 * mean[1.0]


def test_temperatures_are_those_of_regions_as_they_are_met(samples: list[Sample]) -> None:
    net = network()
    drawn_alone = ship.calibrate_as_met(net, [s for s in samples if s.outline == "drawn" and not s.normal])
    everything = ship.calibrate_as_met(net, samples)
    assert everything.keys() == drawn_alone.keys() == {a.id for a in net.spec.attributes}
    assert all(0.25 <= t <= 8.0 for t in everything.values())
    assert ship.calibrate_as_met(net, []) == {}
    # a sample that counts ten times is ten samples
    one = [s for s in samples if not s.normal][:6]
    ten = [replace(s, normal=True) for s in one]
    other = [s for s in samples if not s.normal][6:12]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readings, "NORMAL_WEIGHT", 10.0)
        assert ship.calibrate_as_met(net, ten + other) == ship.calibrate_as_met(net, one * 10 + other)


def test_an_outline_made_of_some_sequences_is_read_on_these_only(samples: list[Sample]) -> None:
    net = network()
    drawn = next(s for s in samples if s.outline == "drawn" and len(s.looks) == 3)
    partial = replace(drawn, outline="candidate", lesions={0b010: 0.0})
    assert [partial.meets(s) for s in ("t2w", "adc", "hbv")] == [False, True, False]
    assert all(drawn.meets(s) for s in ("t2w", "adc", "hbv"))
    assert {a.split(".")[0] for a in ship.calibrate_as_met(net, [partial])} == {"adc"}
    assert ship.as_met(net, [partial], {})["candidate"]["readings"] == 2


def test_how_readings_are_met_is_told_by_outline(samples: list[Sample]) -> None:
    net = network()
    told = ship.as_met(net, samples, {})
    assert {"drawn", "another hand", "normal"} <= told.keys() <= {"drawn", "another hand", "candidate", "normal"}
    whole = [s for s in samples if s.outline != "candidate" and len(s.looks) == 3]
    known = sum(int((s.labels >= 0).sum()) for s in whole)
    assert 0 < known <= sum(t["readings"] for t in told.values())
    for t in told.values():
        assert 0.0 <= t["accuracy"] <= 1.0
        assert 0.0 <= t["ece"] <= 1.0
    cold = ship.as_met(net, samples, {a.id: 0.01 for a in net.spec.attributes})
    # next to certain of everything, readings are off by just what they get wrong
    assert cold["drawn"]["ece"] == pytest.approx(1 - cold["drawn"]["accuracy"], abs=0.02)


def test_the_same_study_gives_the_same_samples(data: SimulatedSet, samples: list[Sample]) -> None:
    net = network()
    torch.nn.init.normal_(net.trunk.lesion.weight, std=2.0)
    again = list(readings.collect(net, data, [2], jobs=2))
    mine = [s for s in samples if s.study == 2]
    assert [s.outline for s in again] == [s.outline for s in mine]
    for a, b in zip(again, mine, strict=True):
        assert a.looks.keys() == b.looks.keys()
        if a.outline != "candidate":  # the lesion map's weights were drawn anew
            assert all(torch.equal(a.looks[s][1].index, b.looks[s][1].index) for s in a.looks)


def test_the_fit_lowers_the_loss_of_studies_that_it_did_not_see_and_touches_nothing_else(samples: list[Sample]) -> None:
    net = network()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    facts = readings.fit(net, samples, epochs=4)
    losses = facts["loss_by_epoch"]
    assert len(losses) == 5
    assert min(losses) < 0.95 * losses[0]
    values = net.value_embeddings()
    held = sorted({s.study for s in samples})[:: min(5, STUDIES)]
    testing = [s for s in samples if s.study in held and bool((s.labels >= 0).any())]
    assert len(testing) == facts["held_out"]
    assert readings._held_out(net, testing, values, RuleLoss(net.spec)) == pytest.approx(min(losses), abs=1e-3), (
        "the best epoch stays"
    )
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(".placed." in k or ".attention." in k or ".together." in k for k in changed)
    assert any(".together." in k for k in changed)
    assert not any(p.requires_grad for p in net.parameters())


def test_a_training_draw_looks_at_some_voxels_of_each_extent(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "MOST", 12)
    g = torch.Generator().manual_seed(0)
    large = 0
    for sample in samples:
        some, others = readings.thinned(sample, g), readings.thinned(sample, g)
        assert some.labels is sample.labels
        for s, (features, region) in sample.looks.items():
            few, part = some.looks[s]
            assert torch.equal(part.index, torch.unique(part.index))
            at = torch.searchsorted(region.index, part.index)
            assert torch.equal(region.index[at], part.index)
            assert torch.equal(features[:, at], few)
            assert torch.equal(region.geometry[:, at], part.geometry)
            for e, place in region.place.items():
                # drawn for each extent on its own: a context with all of the interior would be mostly interior
                assert len(part.place[e]) == min(12, len(place))
                assert bool(torch.isin(part.index[part.place[e]], region.index[place]).all())
            if len(region.place["context"]) > 100:
                large += 1
                assert not torch.equal(part.index, others.looks[s][1].index)
    assert large > 5


def test_readings_are_judged_once_for_each_state_and_open_ones_are_left_out(samples: list[Sample]) -> None:
    net = network()
    judged = readings.judge(net, samples, {})
    counted = sum(len(s.lesions) for s in samples if s.positive is not None and s.outline != "another hand")
    assert 0 < len(judged) <= counted
    for r in judged:
        there = {s for i, s in enumerate(("t2", "adc", "hbv")) if r.state >> i & 1}
        assert {a.split(".")[0] for a in r.readings} <= there
        assert all(float(p.sum()) == pytest.approx(1.0, abs=1e-4) for p in r.readings.values())


def test_both_are_fitted_before_a_bundle_is_made(samples: list[Sample]) -> None:
    assert {True, False} <= {s.positive for s in samples}, "the studies of this test have regions of both kinds"
    net = network()
    facts = ship.finish(net, samples)
    assert facts["readings"]["studies"] == STUDIES
    assert facts["suspicion"]["positive"] > 0
    assert facts["suspicion"]["residual_limit"] == net.spec.residual_limit


def test_a_network_without_towers_or_studies_without_labels_are_refused(samples: list[Sample]) -> None:
    without = RationaleNet(replace(network().spec, tower=0))
    with pytest.raises(ValueError, match="towers"):
        readings.fit(without, samples)
    unknown = [replace(s, labels=torch.full_like(s.labels, -1)) for s in samples]
    with pytest.raises(ValueError, match="labelled regions"):
        readings.fit(network(), unknown)
