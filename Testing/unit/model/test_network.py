"""The network's shapes, and what must hold of its readings and its suspicion whatever the weights are."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor
from torch.nn import functional as F

from MedRationaleLogic.model import text
from MedRationaleLogic.model.grids import COARSE, DIFFUSION, FINE, SEQUENCES, STEM_GRIDS
from MedRationaleLogic.model.network import (
    QUIET_VALUES,
    SUSPICION_TERMS,
    NetworkSpec,
    RationaleNet,
    Tower,
    smooth,
    spec_from_lexicon,
)
from MedRationaleLogic.model.pooling import EXTENTS, GEOMETRY, Region, region
from MedRationaleLogic.pirads import lexicon

TINY = {"t2w_filters": (8, 8, 8), "diffusion_filters": (8, 8, 8), "coarse_filters": (8, 8, 8), "features": 6,
        "embedding": 24, "trunk": 4, "tower": 6}  # fmt: skip
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def net() -> RationaleNet:
    """A small network with seeded random weights; suspicion's own weights are drawn too, they start at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        made = RationaleNet(spec_from_lexicon(**TINY))
        torch.nn.init.normal_(made.suspicion_weight)
        torch.nn.init.normal_(made.suspicion_bias)
    made.phrases.copy_(text.load_cached())
    return made.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def features(net: RationaleNet) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    with torch.inference_mode():
        return {s: net.stems[s](torch.randn((1, 1, *STEM_GRIDS[s].shape), generator=g)) for s in SEQUENCES}


def identity() -> Tensor:
    return torch.eye(3, 4)[None]


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_a_spec_survives_json() -> None:
    spec = spec_from_lexicon(features=7, residual_limit=0.5)

    assert NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert [(a.id, a.values) for a in spec.attributes] == [(a.id, a.value_ids) for a in lexicon.load().attributes]


def test_a_spec_with_a_foreign_field_is_refused() -> None:
    with pytest.raises(TypeError, match="unheard_of"):
        NetworkSpec.from_dict({**spec_from_lexicon().to_dict(), "unheard_of": 1})
    with pytest.raises(KeyError, match="attributes"):
        NetworkSpec.from_dict({})


def test_stems_keep_their_grid(features: dict[str, Tensor]) -> None:
    for sequence in SEQUENCES:
        assert features[sequence].shape == (1, 6, *STEM_GRIDS[sequence].shape)
        assert torch.isfinite(features[sequence]).all()


@pytest.mark.parametrize("absent", [(), ("t2w",), ("adc", "hbv")])
def test_the_trunk_gives_masks_on_the_fine_grid(
    net: RationaleNet, features: dict[str, Tensor], absent: tuple[str, ...]
) -> None:
    there = {s: f for s, f in features.items() if s not in absent}
    presence = torch.tensor([[float(s in there) for s in SEQUENCES]])
    with torch.inference_mode():
        zones, lesion, residual = net.trunk(there, {"adc": identity(), "hbv": identity()}, presence)

    assert zones.shape == (1, 3, *FINE.shape)
    assert lesion.shape == residual.shape == (1, 1, *FINE.shape)
    assert all(torch.isfinite(x).all() for x in (zones, lesion, residual))


def test_an_absent_sequence_adds_nothing_but_its_absence(net: RationaleNet, features: dict[str, Tensor]) -> None:
    thetas = {"adc": identity(), "hbv": identity()}
    presence = torch.tensor([[1.0, 0.0, 1.0]])
    with torch.inference_mode():
        left_out = net.trunk({**features, "adc": None}, thetas, presence)
        blanked = net.trunk({**features, "adc": features["adc"] * 3 + 1}, thetas, presence)

    assert all(torch.equal(a, b) for a, b in zip(left_out, blanked, strict=True))


def test_the_trunk_brings_each_stem_to_its_place(net: RationaleNet) -> None:
    """One bright voxel of a diffusion stem shows in the masks where it lies in the patient, and nowhere else."""
    trunk = copy.deepcopy(net.trunk)
    for parameter in trunk.mix[4].parameters():  # without the mixing convolutions the trunk is pointwise
        parameter.zero_()
    at, shift = (12, 40, 20), (4.5, -3.0, 6.0)  # voxel, and mm (z, y, x) from the fine grid's middle to the stem's
    fine, other = (
        [(n - 1) * s / 2 for n, s in zip(spec.shape, spec.spacing, strict=True)] for spec in (FINE, DIFFUSION)
    )
    theta = torch.zeros(1, 3, 4)
    for row, axis in enumerate((2, 1, 0)):
        theta[0, row, row] = fine[axis] / other[axis]
        theta[0, row, 3] = -shift[axis] / other[axis]
    dark = torch.zeros(1, 6, *DIFFUSION.shape)
    bright = dark.clone()
    bright[(0, slice(None), *at)] = 100.0
    presence = torch.tensor([[0.0, 0.0, 1.0]])
    with torch.inference_mode():
        lit, unlit = (trunk({"hbv": f}, {"hbv": theta}, presence)[1][0, 0] for f in (bright, dark))
    changed = ((lit - unlit).abs() > 1e-4).nonzero()
    fine_mm = (changed - (torch.tensor(FINE.shape) - 1) / 2) * torch.tensor(FINE.spacing)
    want_mm = (torch.tensor(at) - (torch.tensor(DIFFUSION.shape) - 1) / 2) * torch.tensor(DIFFUSION.spacing)
    want_mm += torch.tensor(shift)

    assert len(changed) > 0
    assert ((fine_mm - want_mm).abs() <= torch.tensor(DIFFUSION.spacing)).all()


def test_the_localiser_takes_one_sequence_at_a_time(net: RationaleNet) -> None:
    image = torch.randn((1, 1, *COARSE.shape), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        out = {s: net.locate(s, image) for s in SEQUENCES}

    assert all(x.shape == (1, 1, *COARSE.shape) for x in out.values())
    assert not torch.equal(out["t2w"], out["adc"])  # it is told which sequence it sees


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_evidence_and_readings_are_of_the_sequences_own_attributes(
    net: RationaleNet, features: dict[str, Tensor], sequence: str
) -> None:
    mine = {a.id: len(a.values) for a in net.spec.attributes if a.sequence == sequence}
    values = net.value_embeddings()
    mask = torch.zeros(STEM_GRIDS[sequence].shape, dtype=torch.bool)
    mask[10:13, 30:38, 28:36] = True
    place = region(mask, STEM_GRIDS[sequence].spacing)
    index = place.index
    seen = net.embed(sequence, features[sequence][0].flatten(1)[:, index])
    evidence = net.evidence(sequence, seen, values)
    logits = net.read(sequence, seen, place, values)

    assert seen.embedding.shape == (len(EXTENTS), net.spec.embedding, len(index))
    assert seen.attention.shape == (len(EXTENTS), len(index))
    assert seen.conspicuity is not None
    assert seen.conspicuity.shape == (len(EXTENTS), len(index))
    assert {k: v.shape for k, v in evidence.items()} == {k: (n, len(index)) for k, n in mine.items()}
    assert all(((e > 0) & (e < 1)).all() for e in evidence.values())
    assert {k: v.shape for k, v in logits.items()} == {k: (n,) for k, n in mine.items()}


# -- a reading is of a set of voxels -----------------------------------------------------------------------------------


def test_a_reading_does_not_depend_on_the_order_of_voxels(net: RationaleNet, features: dict[str, Tensor]) -> None:
    values = net.value_embeddings()
    mask = torch.zeros(FINE.shape, dtype=torch.bool)
    mask[8:12, 40:60, 50:58] = True
    mine = region(mask, FINE.spacing)
    flat = features["t2w"][0].flatten(1)[:, mine.index]
    before = net.read("t2w", net.embed("t2w", flat), mine, values)

    order = torch.randperm(len(mine.index), generator=torch.Generator().manual_seed(2))
    where = torch.argsort(order)  # old position -> new position
    shuffled = Region(mine.index[order], {k: where[v].flip(0) for k, v in mine.place.items()}, mine.geometry[:, order])
    after = net.read("t2w", net.embed("t2w", flat[:, order]), shuffled, values)

    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-4, rtol=1e-4)


def test_a_reading_looks_at_nothing_but_its_own_extent(net: RationaleNet, features: dict[str, Tensor]) -> None:
    values = net.value_embeddings()
    mask = torch.zeros(FINE.shape, dtype=torch.bool)
    mask[8:12, 40:60, 50:58] = True
    mine = region(mask, FINE.spacing)
    flat = features["t2w"][0].flatten(1)
    elsewhere = flat.clone()
    elsewhere[:, ~torch.isin(torch.arange(flat.shape[1]), mine.index)] = 99.0

    before = net.read("t2w", net.embed("t2w", flat[:, mine.index]), mine, values)
    after = net.read("t2w", net.embed("t2w", elsewhere[:, mine.index]), mine, values)

    assert all(torch.equal(before[k], after[k]) for k in before)


# -- suspicion ---------------------------------------------------------------------------------------------------------

names = [a.id for a in spec_from_lexicon().attributes]
shares = st.floats(0.0, 1.0, width=32)


@st.composite
def readings_of(draw: st.DrawFn) -> dict[str, Tensor]:
    """Probabilities of some attributes' values; each attribute's sum to 1."""
    chosen = draw(st.lists(st.sampled_from(names), unique=True))
    out = {}
    for attribute in spec_from_lexicon().attributes:
        if attribute.id in chosen:
            n = len(attribute.values)
            raw = torch.tensor(draw(st.lists(shares, min_size=n, max_size=n))) + 1e-3
            out[attribute.id] = raw / raw.sum()
    return out


zones = st.sampled_from(["PZ", "TZ"])
presences = st.tuples(st.booleans(), st.booleans(), st.booleans())


@given(readings=readings_of(), zone=zones, residual=st.floats(-50, 50), presence=presences)
@quick
def test_the_parts_add_up_to_the_logit(
    net: RationaleNet, readings: dict[str, Tensor], zone: str, residual: float, presence: tuple[bool, bool, bool]
) -> None:
    s = net.suspicion(zone, readings, torch.tensor(residual), presence)
    bias = net.suspicion_bias[0 if zone == "PZ" else 1, sum(2**i for i, there in enumerate(presence) if there)]
    total = sum(float(x) for _, x in s.terms)

    assert float(s.logit) == pytest.approx(float(bias) + total + float(s.residual), abs=1e-4)
    assert all(float(x) >= 0 for _, x in s.terms)
    assert abs(float(s.residual)) <= net.spec.residual_limit
    assert 0.0 <= float(s.residual_share) <= 1.0
    assert {n for n, _ in s.terms} == {n for _, n, attribute, _ in SUSPICION_TERMS if attribute in readings}


@given(readings=readings_of(), zone=zones, data=st.data())
@quick
def test_suspicion_rises_with_every_reading_that_speaks_for_it(
    net: RationaleNet, readings: dict[str, Tensor], zone: str, data: st.DataObject
) -> None:
    """Moving probability from a value that no term of the attribute accepts to one that some do never lowers it."""
    there = [(a, accepted) for _, _, a, accepted in SUSPICION_TERMS if a in readings]
    if not there:
        return
    attribute, accepted = data.draw(st.sampled_from(there))
    ids = next(a.values for a in net.spec.attributes if a.id == attribute)
    everything = {v for _, _, a, accept in SUSPICION_TERMS if a == attribute for v in accept}
    neutral = [v for v in ids if v not in everything]
    raised = dict(readings)
    p = readings[attribute].clone()
    up = ids.index(data.draw(st.sampled_from(accepted)))
    if neutral:
        down = ids.index(data.draw(st.sampled_from(neutral)))
        move = float(p[down]) * data.draw(shares)
        p[down] -= move
        p[up] += move
    else:  # each value speaks for some term: raise one alone
        p[up] += data.draw(shares)
    raised[attribute] = p

    before = net.suspicion(zone, readings, torch.tensor(0.3), (True, True, True)).logit
    after = net.suspicion(zone, raised, torch.tensor(0.3), (True, True, True)).logit

    assert float(after) >= float(before) - 1e-5


@given(readings=readings_of(), zone=zones, residuals=st.lists(st.floats(-20, 20), min_size=2, max_size=5))
@quick
def test_suspicion_rises_with_the_residual_within_its_limit(
    net: RationaleNet, readings: dict[str, Tensor], zone: str, residuals: list[float]
) -> None:
    logits = [
        float(net.suspicion(zone, readings, torch.tensor(r), (True, True, True)).logit) for r in sorted(residuals)
    ]

    assert all(b >= a - 1e-5 for a, b in pairwise(logits))
    assert logits[-1] - logits[0] <= 2 * net.spec.residual_limit + 1e-4


def test_a_term_names_values_that_its_attribute_has(net: RationaleNet) -> None:
    known = {a.id: a for a in net.spec.attributes}
    for sequence, name, attribute, accepted in SUSPICION_TERMS:
        assert known[attribute].sequence == sequence, name
        assert set(accepted) <= set(known[attribute].values), name
    assert len({name for _, name, _, _ in SUSPICION_TERMS}) == len(SUSPICION_TERMS)


# -- phrases -----------------------------------------------------------------------------------------------------------


def test_the_cache_is_of_todays_lexicon() -> None:
    phrases = text.load_cached()
    rows = text.phrases_of(lexicon.load())

    assert phrases.shape == (len(rows), len(rows[0]), 384)
    assert phrases.norm(dim=-1) == pytest.approx(torch.ones(phrases.shape[:2]).numpy(), abs=2e-3)
    assert all(len(row) == len(set(row)) == 10 for row in rows)


def test_a_cache_of_other_phrases_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = lexicon.load()
    first = known.attributes[0]
    value = replace(first.values[0], phrases=dict.fromkeys(("PZ", "TZ"), ("another",) * 5))
    changed = replace(known, attributes=(replace(first, values=(value, *first.values[1:])), *known.attributes[1:]))
    monkeypatch.setattr(lexicon, "load", lambda: changed)

    with pytest.raises(ValueError, match="was made from other phrases"):
        text.load_cached()


def test_raw_vectors_of_contradictory_phrases_lie_together(net: RationaleNet) -> None:
    """Why there is a projection at all: the encoder hears the topic, not the negation."""
    margin = next(a for a in net.spec.attributes if a.id == "t2.margin")
    where = net.slices()["t2.margin"]
    raw = F.normalize(net.phrases[where], dim=-1)
    one, other = (raw[margin.values.index(v)] for v in ("circumscribed", "non_circumscribed"))

    assert float((one * other).sum(-1).max()) > 0.98
    for attribute, where in net.slices().items():
        mean = F.normalize(net.phrases[where].mean(1), dim=-1)
        cosine = (mean @ mean.T)[~torch.eye(len(mean), dtype=torch.bool)]
        assert float(cosine.max()) > 0.9, attribute


def test_value_embeddings_of_an_attribute_lie_apart_before_any_training(net: RationaleNet) -> None:
    values = net.value_embeddings()

    assert values.shape == (sum(len(a.values) for a in net.spec.attributes), net.spec.embedding)
    assert values.norm(dim=-1).numpy() == pytest.approx(1.0, abs=1e-5)
    for attribute, where in net.slices().items():
        n = where.stop - where.start
        apart = ~torch.eye(n, dtype=torch.bool)
        raw = F.normalize(net.phrases[where].mean(1), dim=-1)
        before, after = (raw @ raw.T)[apart], (values[where] @ values[where].T)[apart]
        assert float(after.max()) < 0.85, attribute
        assert float(after.mean()) < 0.3 < float(before.mean()), attribute


def test_one_paraphrase_stands_for_its_value(net: RationaleNet) -> None:
    """Single paraphrases lie nearer to their own value's mean than to another's, far above chance (10 in 40)."""
    mean = net.value_embeddings()
    hits, count = 0, 0
    for k in range(net.spec.paraphrases):
        single = net.value_embeddings(k)
        for where in net.slices().values():
            nearest = (single[where] @ mean[where].T).argmax(1)
            hits += int((nearest == torch.arange(len(nearest))).sum())
            count += len(nearest)

    assert hits / count > 0.5


# -- smoothing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folded", "periods"), [(False, (2,)), (True, (2, 4))])
def test_smoothing_takes_a_lattice_away_and_keeps_the_rest(folded: bool, periods: tuple[int, ...]) -> None:
    x = torch.arange(24, dtype=torch.float64)
    ramp = (x[:, None] + 2 * x).expand(1, 2, 3, 24, 24)
    inner = (..., slice(4, -4), slice(4, -4))
    assert torch.allclose(smooth(torch.full_like(ramp, 3.0), folded), torch.full_like(ramp, 3.0))
    assert torch.allclose(smooth(ramp, folded)[inner], ramp[inner])  # symmetric: nothing is shifted
    for period in periods:
        for phase in range(period):
            lattice = torch.cos(2 * torch.pi * (x + phase) / period)
            waves = lattice[:, None] + lattice
            assert smooth(waves.expand(1, 1, 2, 24, 24), folded)[inner].abs().max() < 1e-9


def test_smoothing_stays_in_its_slice_and_its_channel() -> None:
    x = torch.zeros(1, 3, 5, 16, 16)
    x[0, 1, 2, 8, 8] = 1
    where = smooth(x, True).nonzero()
    assert set(where[:, 1].tolist()) == {1}
    assert set(where[:, 2].tolist()) == {2}
    assert smooth(x, True).sum().item() == pytest.approx(1.0)


def test_a_network_is_read_as_it_was_trained() -> None:
    """A manifest from before smoothing says nothing of it: its concepts read the features as they are, only maps are
    smoothed; a new network reads smoothed features and its maps are shown as they come."""
    data = spec_from_lexicon().to_dict()
    assert NetworkSpec.from_dict(data).smoothed
    assert NetworkSpec.from_dict(data).tower
    assert NetworkSpec.from_dict(data).together
    del data["smoothed"], data["tower"], data["together"]
    old = NetworkSpec.from_dict(data)
    assert not old.smoothed
    assert not old.tower
    assert not old.together
    torch.manual_seed(0)
    x = torch.rand(1, old.features, 2, 16, 16)
    for spec in (old, spec_from_lexicon()):
        net = RationaleNet(spec).eval()
        for sequence in ("t2w", "adc"):
            smoothed = smooth(x, net.stem(sequence).folded)
            # a fresh tower adds nothing
            assert torch.equal(net.for_concepts(sequence, x), smoothed if spec.smoothed else x)
            assert torch.equal(net.as_shown(sequence, x[0]), x[0] if spec.smoothed else smoothed[0])


# -- conspicuity -------------------------------------------------------------------------------------------------------


def test_evidence_is_no_larger_than_conspicuity_but_for_what_normal_tissue_shows(net: RationaleNet) -> None:
    values = net.value_embeddings()
    x = torch.randn((net.spec.features, 50), generator=torch.Generator().manual_seed(3))
    for sequence in SEQUENCES:
        seen = net.embed(sequence, x)
        assert seen.conspicuity is not None
        nothing = seen._replace(conspicuity=torch.full_like(seen.conspicuity, -30.0))
        alone = seen._replace(conspicuity=None)
        given_, hidden, free = (net.evidence(sequence, s, values) for s in (seen, nothing, alone))
        for a in net.spec.attributes:
            if a.sequence != sequence:
                continue
            shown = torch.sigmoid(seen.conspicuity[EXTENTS.index(a.extent)])
            for k, value in enumerate(a.values):
                if (a.id, value) in QUIET_VALUES:
                    assert torch.equal(given_[a.id][k], free[a.id][k])
                    assert torch.equal(hidden[a.id][k], free[a.id][k])
                else:
                    torch.testing.assert_close(given_[a.id][k], free[a.id][k] * shown)
                    assert float(hidden[a.id][k].max()) < 1e-9


def test_a_tower_reads_its_neighbourhood_and_no_other_study(net: RationaleNet) -> None:
    torch.manual_seed(2)
    tower = Tower(net.spec.features, 8, folded=True)
    torch.nn.init.normal_(tower.leave.weight)
    x = torch.randn(2, net.spec.features, 4, 16, 16)
    with torch.inference_mode():
        both = tower(x)
        torch.testing.assert_close(tower(x[1:]), both[1:], atol=1e-3, rtol=1e-3)  # rounding; studies differ by ones
    assert both.shape == x.shape
    assert not torch.equal(both, x)


def test_an_outline_has_a_say_in_readings_and_starts_with_none(net: RationaleNet, features: dict[str, Tensor]) -> None:
    values = net.value_embeddings()
    mask = torch.zeros(FINE.shape, dtype=torch.bool)
    mask[8:12, 40:60, 50:58] = True
    mine = region(mask, FINE.spacing)
    other = Region(mine.index, mine.place, torch.zeros_like(mine.geometry))
    seen = net.embed("t2w", features["t2w"][0].flatten(1)[:, mine.index])
    fresh, blind = (net.read("t2w", seen, r, values) for r in (mine, other))
    assert all(torch.equal(fresh[k], blind[k]) for k in fresh)

    told = copy.deepcopy(net)
    placed = told.stem("t2w").placed
    assert placed is not None
    torch.manual_seed(4)
    torch.nn.init.normal_(placed.leave.weight)
    fresh, blind = (told.read("t2w", seen, r, values) for r in (mine, other))
    assert not any(torch.equal(fresh[k], blind[k]) for k in fresh)
    evidence = [n.evidence("t2w", seen, values) for n in (net, told)]
    assert all(torch.equal(evidence[0][k], evidence[1][k]) for k in evidence[0]), "evidence is of the study, not of it"
    assert mine.geometry.shape == (len(GEOMETRY), len(mine.index))


def test_extents_are_read_together_and_a_fresh_network_reads_each_alone(
    net: RationaleNet, features: dict[str, Tensor]
) -> None:
    values = net.value_embeddings()
    mask = torch.zeros(FINE.shape, dtype=torch.bool)
    mask[8:12, 40:60, 50:58] = True
    mine = region(mask, FINE.spacing)
    x = features["t2w"][0].flatten(1)[:, mine.index]
    # other surroundings, the same inside and rim
    near = torch.unique(torch.cat([mine.place["interior"], mine.place["rim"]]))
    away = torch.ones(len(mine.index), dtype=torch.bool)
    away[near] = False
    other = x.clone()
    other[:, away] += 3.0
    told = copy.deepcopy(net)
    together = told.stem("t2w").together
    assert together is not None
    torch.manual_seed(5)
    torch.nn.init.normal_(together.leave.weight)
    for network, knows in ((net, False), (told, True)):
        first, second = (network.read("t2w", network.embed("t2w", f), mine, values) for f in (x, other))
        assert torch.allclose(first["t2.signal"], second["t2.signal"], atol=1e-5) is not knows
        assert not torch.allclose(first["t2.pattern"], second["t2.pattern"], atol=1e-5)
    alone = RationaleNet(replace(net.spec, together=0)).eval()
    alone.load_state_dict({k: v for k, v in net.state_dict().items() if ".together." not in k})
    seen = net.embed("t2w", x)
    fresh, plain = (n.read("t2w", seen, mine, values) for n in (net, alone))
    for name in plain:
        torch.testing.assert_close(fresh[name], plain[name], atol=1e-5, rtol=1e-5)
