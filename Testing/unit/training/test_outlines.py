"""The outlines that training reads regions by."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from MedRationaleLogic.model.grids import FINE, SEQUENCES, STEM_GRIDS
from MedRationaleLogic.model.network import NetworkSpec, spec_from_lexicon
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.simulation.study import MAX_REGIONS
from MedRationaleLogic.training import outlines
from MedRationaleLogic.training.data import IGNORE, NORMAL, Item, SimulatedSet, to_stem


@pytest.fixture(scope="module")
def spec() -> NetworkSpec:
    return spec_from_lexicon()


@pytest.fixture(scope="module")
def study(spec: NetworkSpec) -> Item:
    """A simulated study with a drawn region of at least 200 voxels on T2W."""
    data = SimulatedSet(sample_bank(), spec, 3, 8)
    return next(item for item in (data[k] for k in range(8)) if int((item["regions_t2w"] == 1).sum()) >= 200)


def ball(radius: float, center: tuple[int, int, int] = (12, 56, 56)) -> Tensor:
    axes = [(torch.arange(n) - c) * s for n, c, s in zip(FINE.shape, center, FINE.spacing, strict=True)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 <= radius**2


def quiet_place(study: Item) -> Tensor:
    """A ball in the gland, well away from every region."""
    gland = (study["zones"] == 1) | (study["zones"] == 2)
    taken = ndimage.binary_dilation((study["regions_t2w"] > 0).numpy(), iterations=3)
    free = gland & ~torch.from_numpy(taken)
    deep = ndimage.distance_transform_edt(free.numpy(), FINE.spacing)
    center = divmod(int(deep.argmax()), FINE.shape[1] * FINE.shape[2])
    z, (y, x) = center[0], divmod(center[1], FINE.shape[2])
    place = ball(4.0, (z, y, x)) & free
    assert int(place.sum()) * 1.6875 > 60, "the fixture's study has room"
    return place


def test_drawn_regions_are_those_with_labels(study: Item) -> None:
    known = outlines.drawn(study)
    for row, by_sequence in known.masks.items():
        assert bool((study["labels"][row] >= 0).any())
        for sequence, mask in by_sequence.items():
            assert torch.equal(mask, study[f"regions_{sequence}"] == row + 1)
    blind = outlines.drawn(study | {"presence": torch.tensor([1.0, 0.0, 0.0])})
    assert {s for m in blind.masks.values() for s in m} == {"t2w"}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(4.0, 14.0))
def test_another_hand_stays_near_the_outline(seed: int, radius: float) -> None:
    mask = ball(radius)
    torch.manual_seed(seed)
    other = outlines.redrawn(mask, FINE.spacing)
    assert int(other.sum()) >= 4
    reach = outlines.SHIFT_MM + 5 * outlines.BEND_MM  # five standard deviations of the bend
    outside = ndimage.distance_transform_edt((~mask).numpy(), FINE.spacing)[other.numpy()]
    assert outside.max(initial=0.0) <= reach
    inside = ndimage.distance_transform_edt(mask.numpy(), FINE.spacing)[~other.numpy()]
    assert inside.max(initial=0.0) <= reach


def test_another_hand_is_now_wider_and_now_narrower_and_never_nothing() -> None:
    mask = ball(8.0)
    torch.manual_seed(1)
    sizes = [int(outlines.redrawn(mask, FINE.spacing).sum()) for _ in range(40)]
    assert min(sizes) < 0.85 * int(mask.sum())
    assert max(sizes) > 1.15 * int(mask.sum())
    speck = torch.zeros(FINE.shape, dtype=torch.bool)
    speck[0, 0, :5] = True
    assert all(int(outlines.redrawn(speck, FINE.spacing).sum()) >= 4 for _ in range(20))


def test_a_candidate_of_a_region_is_read_in_its_place(
    study: Item, spec: NetworkSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlines, "BY_CANDIDATE", 1.0)
    region = study["regions_t2w"] == 1
    inside = region & ((study["zones"] == 1) | (study["zones"] == 2))
    grown = torch.from_numpy(ndimage.binary_dilation(inside.numpy(), iterations=1))
    got = outlines.varied(study, torch.where(grown, 0.8, 0.0), spec)
    assert torch.equal(got.masks[0]["t2w"], grown)
    assert torch.equal(got.labels[0], study["labels"][0])
    for sequence in ("adc", "hbv"):
        assert got.masks[0][sequence].shape == STEM_GRIDS[sequence].shape
        mine, drawn = got.masks[0][sequence], study[f"regions_{sequence}"] == 1
        assert int((mine & drawn).sum()) > 0.3 * int(drawn.sum()), "it lies where the region lies"


def test_a_candidate_of_nothing_is_read_as_normal_tissue(
    study: Item, spec: NetworkSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlines, "OF_NOTHING", 1.0)
    place = quiet_place(study)
    got = outlines.varied(study, torch.where(place, 0.8, 0.0), spec)
    row = next(r for r in (MAX_REGIONS, MAX_REGIONS + 1) if torch.equal(got.masks[r]["t2w"], place))
    zone = "PZ" if int(got.zone[row]) == 0 else "TZ"
    said = {a.id: a.values[int(got.labels[row, i])] for i, a in enumerate(spec.attributes) if got.labels[row, i] >= 0}
    assert said == NORMAL[zone]
    assert int(got.category[row]) == 1
    assert set(got.masks[row]) <= set(SEQUENCES)


def test_without_candidates_nothing_but_outlines_varies_and_the_study_stays(study: Item, spec: NetworkSpec) -> None:
    before = {k: v.clone() for k, v in study.items()}
    torch.manual_seed(0)
    got = outlines.varied(study, torch.zeros(FINE.shape), spec)
    assert got.masks.keys() == outlines.drawn(study).masks.keys()
    assert torch.equal(got.labels, study["labels"])
    assert all(torch.equal(study[k], before[k]) for k in study)
    assert torch.equal(got.category, study["category"])


def test_a_candidate_where_lesions_are_not_known_is_nobody_s(study: Item, spec: NetworkSpec) -> None:
    """A report may name more findings than are outlined: the network must not be taught that the others are normal."""
    place = quiet_place(study)
    assert outlines.whose(study, place, outlines.drawn(study)) == (None, True)
    lesion = study["lesion"].clone()
    lesion[place] = IGNORE
    assert outlines.whose(study | {"lesion": lesion}, place, outlines.drawn(study)) == (None, False)


def test_another_hand_is_the_same_on_every_grid(study: Item) -> None:
    masks = next(iter(outlines.drawn(study).masks.values()))
    assert set(masks) == set(SEQUENCES)
    torch.manual_seed(3)
    other = outlines.by_another_hand(study, masks)
    assert not torch.equal(other["t2w"], masks["t2w"])
    for sequence in ("adc", "hbv"):
        assert torch.equal(other[sequence], to_stem(other["t2w"], study[f"theta_{sequence}"], masks[sequence].shape))
    alone = outlines.by_another_hand(study, {"adc": masks["adc"]})
    assert set(alone) == {"adc"}
