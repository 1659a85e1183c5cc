"""What one sequence shows does not depend on another, to the bit; what has no voxel shows nothing.

The weights are random: these are properties of the road, whatever was learnt.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from MedRationaleLogic.imaging.acquisition import Role
from MedRationaleLogic.imaging.preprocess import inside
from MedRationaleLogic.imaging.study import Study
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.inference.evidence import EvidenceMaps
from MedRationaleLogic.inference.explainer import Explainer, StudyReader
from MedRationaleLogic.inference.explanation import Explanation
from MedRationaleLogic.pirads import lexicon
from Testing.bundle_factory import tiny_bundle
from Testing.study_factory import CENTER, ROLES, T2W_GRID, grid, make_study, with_volume

CHANGES = ("permuted", "constant", "absent")
Opened = tuple[Explanation, StudyReader]


def changed(volume: Volume, how: str) -> Volume | None:
    """Another image in the same place, or none."""
    if how == "permuted":
        order = np.random.default_rng(1).permutation(volume.array.size)
        return volume.with_array(volume.array.reshape(-1)[order].reshape(volume.array.shape))
    if how == "constant":
        return volume.with_array(np.full_like(volume.array, 700))
    return None


def others_changed(study: Study, kept: Role, how: str) -> Study:
    for role in ROLES:
        volume = study.volume(role)
        if role != kept and volume is not None:
            study = with_volume(study, role, changed(volume, how))
    return study


@pytest.fixture(scope="module")
def variants(explainer: Explainer, study: Study) -> dict[tuple[Role, str], StudyReader]:
    """The study seen with all sequences but one changed, by (kept sequence, change)."""
    return {(kept, how): explainer.see(others_changed(study, kept, how)) for kept in ROLES for how in CHANGES}


@pytest.fixture(scope="module")
def region() -> Volume:
    """A fixed outline with a grid of its own, tilted against every image."""
    own = grid((20, 40, 44), (1.5, 1.0, 0.9), (-11.0, 7.0, 20.0))
    at = own.to_patient(np.moveaxis(np.indices(own.shape), 0, -1))
    far = np.linalg.norm(at - np.asarray(CENTER) - (9.0, 5.0, 1.0), axis=-1)
    return Volume(far <= 7.0, own, "outline")


def maps_of(evidence: EvidenceMaps, role: Role) -> dict[str, tuple[Geometry, NDArray[np.float32]]]:
    mine = [c.id for c in lexicon.load().seen_concepts(role)]
    return {c: (evidence.native(c).geometry, evidence.native(c).array) for c in mine}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("kept", ROLES)
def test_maps_of_a_sequence_are_its_own_to_the_bit(
    opened: Opened, variants: dict[tuple[Role, str], StudyReader], kept: Role, how: str
) -> None:
    before = maps_of(opened[0].evidence, kept)
    after = maps_of(variants[kept, how].evidence(), kept)

    assert list(before) == list(after)
    assert len(before) >= 4
    for concept, (geometry, array) in before.items():
        assert after[concept][0] == geometry, concept
        assert after[concept][1].tobytes() == array.tobytes(), concept
        assert array.max() > array.min(), concept  # a map that says nothing would agree with anything


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("kept", ROLES)
def test_readings_of_a_fixed_region_are_the_sequences_own_to_the_bit(
    opened: Opened, variants: dict[tuple[Role, str], StudyReader], region: Volume, kept: Role, how: str
) -> None:
    mine = [a.id for a in lexicon.load().attributes_of(kept)]
    before, after = opened[1].readings(region), variants[kept, how].readings(region)

    assert set(mine) <= set(before)
    assert {a: before[a] for a in mine} == {a: after[a] for a in mine}
    if how == "absent":
        assert set(after) == set(mine)


@pytest.mark.parametrize("how", ["permuted", "constant"])
def test_the_changed_sequence_does_change(
    opened: Opened, variants: dict[tuple[Role, str], StudyReader], region: Volume, how: str
) -> None:
    """The control: were nothing read at all, the tests above would pass as well."""
    before, after = opened[1].readings(region), variants["t2w", how].readings(region)

    for role in cast("tuple[Role, ...]", ("adc", "hbv")):
        names = [a.id for a in lexicon.load().attributes_of(role)]
        assert {a: before[a] for a in names} != {a: after[a] for a in names}
        old, new = maps_of(opened[0].evidence, role), maps_of(variants["t2w", how].evidence(), role)
        assert any(not np.array_equal(old[c][1], new[c][1]) for c in old)


def test_a_moved_sequence_leaves_the_others_as_they_were(
    explainer: Explainer, opened: Opened, study: Study, region: Volume
) -> None:
    moved = explainer.see(study.with_shift("adc", (4.0, -3.0, 2.0)))

    for role in cast("tuple[Role, ...]", ("t2w", "hbv")):
        old, new = maps_of(opened[0].evidence, role), maps_of(moved.evidence(), role)
        assert all(old[c][0] == new[c][0] and np.array_equal(old[c][1], new[c][1]) for c in old)
    before, after = opened[1].readings(region), moved.readings(region)
    assert {a: v for a, v in before.items() if a[:3] != "adc"} == {a: v for a, v in after.items() if a[:3] != "adc"}


def test_at_least_ten_t2_maps_always(opened: Opened) -> None:
    found = [c for c in opened[0].evidence if c.startswith("t2.")]

    assert len(found) >= 10
    for concept in found:
        volume = opened[0].evidence[concept]
        assert volume.geometry == opened[0].frame.geometry
        assert volume.array.dtype == np.float32
        assert 0.0 <= volume.array.min() <= volume.array.max() <= 1.0


def test_maps_are_there_without_any_lesion(tmp_path_factory: pytest.TempPathFactory, opened: Opened) -> None:
    """A threshold that no peak reaches: a negative study with every map of the positive one."""
    quiet = tiny_bundle(tmp_path_factory.mktemp("quiet"), thresholds={"lesion_peak": 1.1})
    explanation = Explainer(quiet, "cpu", "float32").explain(make_study(("t2w",)))

    assert explanation.lesions == ()
    assert explanation.dropped == ()
    assert sum(c.startswith("t2.") for c in explanation.evidence) >= 10
    assert list(explanation.evidence) == [c for c in opened[0].evidence if c.startswith("t2.")]
    assert max(float(explanation.evidence.native(c).array.max()) for c in explanation.evidence) > 0.1


def test_maps_are_zero_where_their_sequence_has_no_voxel(opened: Opened, study: Study) -> None:
    """The T2W stack of 36 mm is shorter than the network's grid of 72 mm, and ADC's field is tilted in its own."""
    for concept in opened[0].evidence:
        role = lexicon.load().concept(concept).sequences[0]
        volume = study.volume(role)
        assert volume is not None
        native = opened[0].evidence.native(concept)
        outside = ~inside(volume.geometry, native.geometry)
        assert outside.any(), concept
        assert (native.array[outside] == 0).all(), concept
        assert (native.array[~outside] > 0).any(), concept


def test_maps_on_the_frame_are_zero_beyond_their_sequences_field(explainer: Explainer) -> None:
    """A small ADC in a large T2W: beyond one voxel of the network's grid from its field, its maps are exactly zero."""
    small = grid((8, 20, 20), (3.0, 2.0, 2.0), (8.0, -6.0, 4.0), (4.0, 0.0, 0.0))
    reader = explainer.see(make_study(("t2w", "adc"), diffusion=small))
    evidence = reader.evidence()
    margin = 1.5
    wide = Geometry(
        tuple(n + 2 for n in small.shape), small.spacing, tuple(small.to_patient((-1, -1, -1))), small.direction
    )  # fmt: skip

    assert min(small.spacing) > margin
    beyond = ~inside(wide, T2W_GRID)
    for concept in (c for c in evidence if c.startswith("adc.")):
        assert (evidence[concept].array[beyond] == 0).all(), concept
        assert evidence[concept].array[~beyond].max() > 0, concept


def test_a_map_of_an_absent_sequence_is_named_as_missing(variants: dict[tuple[Role, str], StudyReader]) -> None:
    evidence = variants["t2w", "absent"].evidence()

    with pytest.raises(KeyError, match=r"no evidence map 'adc\.marked'"):
        evidence.native("adc.marked")
    with pytest.raises(KeyError, match=r"size\.ge15"):
        evidence["size.ge15"]
    assert "adc.marked" not in evidence
    assert len(evidence) == len(list(evidence))
