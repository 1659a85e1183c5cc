"""Candidates out of a probability map."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Literal

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from scipy import ndimage

from MedRationaleLogic.inference.lesions import MAX_CANDIDATES, PEAK_SHARE, Candidate, extract, is_reported

SHAPE = (10, 36, 40)
EVERYWHERE = np.ones(SHAPE, dtype=bool)
TOUCH = np.ones((3, 3, 3), dtype=bool)


def bump(center: tuple[int, int, int], peak: float, width: float = 2.5) -> NDArray[np.float32]:
    """A smooth peak whose highest voxel is exactly ``peak``."""
    z, y, x = np.indices(SHAPE)
    far = (2 * (z - center[0])) ** 2 + (y - center[1]) ** 2 + (x - center[2]) ** 2
    return (peak * np.exp(-far / (2 * width**2))).astype(np.float32)


def found(
    probability: NDArray[np.float32], gland: NDArray[np.bool_] = EVERYWHERE, min_peak: float = 0.1, ml: float = 0.0
) -> tuple[Candidate, ...]:
    return extract(probability, gland, 1.7, min_peak=min_peak, min_volume_ml=ml)


@pytest.mark.parametrize(
    ("suspicion", "category", "shown"),
    [(0.6, 1, True), (0.5, "X", True), (0.49, "X", False), (0.49, 2, False), (0.2, 3, True), (0.19, 3, False),
     (0.0, 4, True), (0.0, 5, True)],
)  # fmt: skip
def test_what_is_reported_hangs_on_suspicion_and_category(
    suspicion: float, category: int | Literal["X"], shown: bool
) -> None:
    thresholds = {"suspicion": 0.5, "equivocal": 0.2}
    assert is_reported(suspicion, category, thresholds) is shown
    # a bundle that does not have it reports whatever is read as 3
    assert is_reported(suspicion, category, {"suspicion": 0.5}) is (shown or category == 3)


def test_a_candidate_is_what_is_above_a_share_of_its_peak() -> None:
    probability = bump((5, 18, 20), 0.8)
    (one,) = found(probability, min_peak=0.33)

    assert one.peak == pytest.approx(0.8)
    assert np.array_equal(one.mask, probability >= np.float32(0.8) / PEAK_SHARE)
    assert (one.kept, one.inside, one.reason) == (True, 1.0, "")


def test_the_rest_of_a_candidate_is_no_candidate() -> None:
    """Below its share of .32 the bump still reaches .31: a hollow shell, and within its share of .13 another one."""
    assert len(found(bump((5, 18, 20), 0.8), min_peak=0.01)) == 1


def test_separate_peaks_are_separate_in_order() -> None:
    probability = np.maximum.reduce([bump((5, 8, 8), 0.5), bump((5, 8, 30), 0.9), bump((5, 28, 20), 0.3)])

    assert [round(c.peak, 5) for c in found(probability, min_peak=0.1)] == [0.9, 0.5, 0.3]
    assert [round(c.peak, 5) for c in found(probability, min_peak=0.4)] == [0.9, 0.5]
    assert found(probability, min_peak=0.95) == ()


def test_peaks_that_are_connected_above_the_share_are_one() -> None:
    probability = np.maximum(bump((5, 18, 16), 0.9), bump((5, 18, 20), 0.8))

    assert len(found(probability)) == 1


def test_voxels_that_touch_at_a_corner_are_connected() -> None:
    probability = np.zeros(SHAPE, np.float32)
    for step in range(6):
        probability[2 + step, 10 + step, 12 + step] = 0.9 - 0.01 * step

    assert [int(c.mask.sum()) for c in found(probability)] == [6]


def test_half_of_a_candidate_must_lie_in_the_gland() -> None:
    probability = np.zeros(SHAPE, np.float32)
    probability[5, 10, 10:20] = 0.9
    for in_gland, kept in ((5, True), (4, False)):
        gland = np.zeros(SHAPE, dtype=bool)
        gland[:, :, : 10 + in_gland] = True
        (one,) = found(probability, gland)

        assert one.inside == pytest.approx(in_gland / 10)
        assert one.kept is kept
        assert one.reason == ("" if kept else "dropped: only 40% of it lies in the gland")


def test_noise_is_passed_over_without_a_word() -> None:
    probability = np.maximum(bump((5, 18, 20), 0.6), 0)
    probability[1, 2, 2] = 0.95  # one voxel of 1.7 cubic millimetres

    assert [round(c.peak, 5) for c in found(probability, ml=0.05)] == [0.6]


def test_candidates_outside_the_gland_take_no_place_from_those_in_it() -> None:
    spots = [(2 + 5 * (i // 6), 3 + 9 * (i // 2 % 3), 5 + 20 * (i % 2)) for i in range(12)]
    probability = np.maximum.reduce([bump(s, 0.95 - 0.02 * i, 1.0) for i, s in enumerate(spots)])
    gland = EVERYWHERE.copy()
    for spot in spots[:5]:
        gland &= bump(spot, 1.0, 1.0) < 0.1
    result = found(probability, gland)

    assert [c.kept for c in result] == [False] * 5 + [True] * MAX_CANDIDATES


def test_nothing_above_the_smallest_peak_is_nothing() -> None:
    assert found(np.zeros(SHAPE, np.float32)) == ()
    assert found(np.full(SHAPE, 0.09, np.float32)) == ()


def test_the_map_is_left_as_it_was() -> None:
    probability = bump((5, 18, 20), 0.8)
    probability.flags.writeable = False

    found(probability)
    assert probability.max() == np.float32(0.8)


@given(
    seed=st.integers(0, 2**32 - 1),
    smooth=st.floats(0.6, 3.0),
    min_peak=st.floats(0.05, 0.9),
    ml=st.sampled_from([0.0, 0.02, 0.2]),
)
@settings(max_examples=60, deadline=None)
def test_what_holds_of_any_map(seed: int, smooth: float, min_peak: float, ml: float) -> None:
    draw = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(draw.random(SHAPE), smooth)
    probability = ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)
    gland = ndimage.gaussian_filter(draw.random(SHAPE), 4.0) > 0.5
    result = found(probability, gland, min_peak, ml)

    assert all(a.peak >= b.peak for a, b in pairwise(result))
    assert sum(c.kept for c in result) <= MAX_CANDIDATES
    assert (len(result) > 0) or ml > 0
    for c in result:
        assert c.peak >= min_peak
        assert c.peak == probability[c.mask].max()
        assert probability[c.mask].min() >= np.float32(c.peak / PEAK_SHARE)
        assert c.mask.sum() * 1.7 / 1000 >= ml
        assert ndimage.label(c.mask, TOUCH)[1] == 1
        around = ndimage.maximum_filter(probability, footprint=TOUCH)[c.mask & (probability == np.float32(c.peak))]
        assert around.min() == np.float32(c.peak)  # it starts at a peak of the map, not on a slope
        assert c.inside == pytest.approx(gland[c.mask].mean())
        assert c.kept == (c.inside >= 0.5) == (c.reason == "")
    for one, two in combinations(result, 2):
        assert not (ndimage.binary_dilation(one.mask, TOUCH) & two.mask).any()


def test_the_reference_finds_the_same_candidates() -> None:
    """picai_eval's own extraction in its dynamic mode (report_guided_annotation), on maps with several peaks.

    It also keeps what starts on the slope of something already removed; of those that start at a peak, all are ours.
    """
    reference = pytest.importorskip("report_guided_annotation").extract_lesion_candidates
    for seed in range(5):
        noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(SHAPE), 2.0)
        probability = (((noise - noise.min()) / np.ptp(noise)) ** 3).astype(np.float32)
        mine = found(probability, min_peak=0.2, ml=10 * 1.7 / 1000)
        _, _, index = reference(
            probability, threshold="dynamic-v2", min_voxels_detection=10, num_lesions_to_extract=MAX_CANDIDATES
        )
        peaks = probability == ndimage.maximum_filter(probability, footprint=TOUCH)
        theirs = [index == k for k in np.unique(index[index > 0])]
        tops = [(m, probability[m].max()) for m in theirs]
        theirs = [m for m, top in tops if top >= 0.2 and (peaks & m & (probability == top)).any()]

        assert len(mine) == len(theirs) > 0
        for ours in mine:
            assert any(np.array_equal(ours.mask, mask) for mask in theirs)


def test_a_region_is_opened_with_what_speaks_for_its_score_and_lies_closest() -> None:
    from MedRationaleLogic.pirads import lexicon
    from Testing.explanation_factory import PZ_LEFT, TZ_RIGHT, make_explanation

    for lesion in make_explanation(lesions=(PZ_LEFT, TZ_RIGHT)).lesions:
        rationale = lesion.rationale
        leads = next(step for step in rationale.steps if step.evidence == lesion.leading_concept)
        score = rationale.t2w if leads.sequence == "t2w" else rationale.dwi
        speaking = [
            step
            for step in rationale.steps
            if step.evidence is not None
            and step.sequence == leads.sequence
            and score in lexicon.load().concept(step.evidence).supports.get(rationale.zone, ())
        ]
        assert leads in speaking
        # a signal's map lies in the region, a pattern's around it, too
        reach = {
            step.id: ("interior", "rim", "context").index(lexicon.load().attribute(step.id).extent) for step in speaking
        }
        assert reach[leads.id] == min(reach.values())
        assert leads.probability == max(step.probability for step in speaking if reach[step.id] == reach[leads.id])
    assert make_explanation().lesions[0].leading_concept.startswith(("adc.", "hbv."))
