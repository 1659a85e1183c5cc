"""What of the evidence is shown: near the gland and the regions, measured in millimetres, whatever the grid."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from MedRationaleLogic.export.palette import EVIDENCE_STOPS, evidence_colour, evidence_table, luminance
from MedRationaleLogic.export.shown import MARGIN_MM, WORDS, near_gland
from MedRationaleLogic.imaging.volume import Volume
from Testing.explanation_factory import make_explanation


def test_it_ends_at_the_margin_around_gland_and_regions() -> None:
    given = make_explanation()
    inside = given.zones.array > 0
    for lesion in given.lesions:
        inside = inside | lesion.mask.array
    far = ndimage.distance_transform_edt(~inside, sampling=given.zones.geometry.spacing)
    assert np.array_equal(near_gland(given), far <= MARGIN_MM)
    assert 0 < near_gland(given).mean() < 1


def test_it_is_computed_once_and_again_when_a_region_changes() -> None:
    given = make_explanation()
    assert near_gland(given) is near_gland(given)
    mask = np.zeros(given.zones.geometry.shape, bool)
    mask[0, 0, 0] = True
    lesion = replace(given.lesions[0], mask=Volume(mask, given.zones.geometry))
    assert near_gland(given.with_lesion(lesion))[0, 0, 0]


def test_without_a_gland_all_is_shown() -> None:
    given = make_explanation()
    empty = given.zones.with_array(np.zeros_like(given.zones.array))
    assert near_gland(replace(given, zones=empty, lesions=())).all()


def test_a_picture_holds_nothing_away_from_the_gland() -> None:
    from MedRationaleLogic.export import figures

    given = make_explanation()
    concept = next(c for c in given.evidence if c.startswith("t2."))
    index = int((given.zones.array > 0).sum((1, 2)).argmax())
    part = figures.window(given, index)
    shown = figures.evidence_slice(given, part, "t2w", concept)
    near = part.crop(given.zones.with_array(near_gland(given)))
    assert not shown[~near].any()
    assert f"{MARGIN_MM:.0f} mm" in WORDS


def test_the_colours_run_from_dark_to_light_through_their_stops() -> None:
    table = evidence_table()
    assert len(table) == 256
    for k, stop in enumerate(EVIDENCE_STOPS):
        assert (
            evidence_colour(k / 10) == pytest.approx(stop)
            or abs(luminance(evidence_colour(k / 10)) - luminance(stop)) < 0.01
        )
    steps = [luminance(evidence_colour(v / 100)) for v in range(101)]
    assert all(b >= a - 1e-3 for a, b in pairwise(steps))
    assert evidence_colour(-1.0) == evidence_colour(0.0)
    assert evidence_colour(2.0) == evidence_colour(1.0)
