"""Pictures: the right side of the patient, the right slice, the right sequence, nothing below the threshold."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from MedRationaleLogic.export import figures
from MedRationaleLogic.export.figures import Outline, View, draw, window
from MedRationaleLogic.imaging.volume import Geometry, Volume
from Testing.explanation_factory import (
    CENTER,
    IDENTITY,
    PZ_LEFT,
    flipped,
    make_explanation,
    oblique,
    transposed,
)

LIME = "#00ff00"
ORIENTATIONS = {"plain": IDENTITY, "oblique": oblique(), "flipped": flipped(), "transposed": transposed()}


def pixels(uri: str) -> np.ndarray:
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def explanation():
    return make_explanation()


@pytest.fixture(scope="module")
def negative():
    return make_explanation(lesions=())


@pytest.fixture(scope="module", params=ORIENTATIONS)
def oriented(request):
    return make_explanation(direction=ORIENTATIONS[request.param])


def test_a_region_on_the_patients_left_is_on_the_right_of_the_picture(oriented):
    left, right = oriented.lesions  # posterior on the patient's left, anterior on the patient's right
    for lesion, on_the_right, low in ((left, True, True), (right, False, False)):
        part = window(oriented, lesion.measures.key_slice, [lesion.mask])
        image = pixels(draw(oriented, part, "t2w", outlines=[Outline(lesion.mask, LIME)]))
        rows, columns = np.nonzero((image[..., 1] > 180) & (image[..., 0] < 90) & (image[..., 2] < 90))
        assert len(rows) > 20
        assert (columns.mean() > image.shape[1] / 2) == on_the_right
        assert (rows.mean() > image.shape[0] / 2) == low


def test_letters_and_points_follow_the_patient(oriented):
    part = window(oriented, oriented.lesions[0].measures.key_slice)
    assert part.view.letters == ("R", "L", "A", "P")
    middle = part.pixel(CENTER)
    to_left = part.pixel(np.add(CENTER, (5, 0, 0)))
    to_back = part.pixel(np.add(CENTER, (0, 5, 0)))
    assert to_left[0] > middle[0] + 5
    assert to_back[1] > middle[1] + 5


def test_coronal_and_sagittal_frames_have_the_head_on_top():
    coronal = Geometry((4, 5, 6), (3.0, 1.0, 1.0), direction=(1, 0, 0, 0, 0, 1, 0, -1, 0))
    sagittal = Geometry((4, 5, 6), (3.0, 1.0, 1.0), direction=(0, 0, 1, 1, 0, 0, 0, -1, 0))
    assert View.of(coronal).letters == ("R", "L", "S", "I")
    assert View.of(sagittal).letters == ("A", "P", "S", "I")


@pytest.mark.parametrize("direction", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_a_view_moves_no_voxel(direction):
    geometry = Geometry((3, 4, 5), (3.0, 0.7, 0.5), (10.0, -20.0, 30.0), direction)
    view = View.of(geometry)
    source = np.moveaxis(np.indices(geometry.shape), 0, -1).astype(float)
    places = np.moveaxis(geometry.to_patient(source), -1, 0)
    shown = view.show(places)
    index = np.moveaxis(np.indices(view.geometry.shape), 0, -1)
    np.testing.assert_allclose(np.moveaxis(shown, 0, -1), view.geometry.to_patient(index), atol=1e-9)


def test_a_crop_is_the_frames_own_pixels_and_holds_gland_and_region(explanation):
    lesion = explanation.lesions[0]
    part = window(explanation, lesion.measures.key_slice, [lesion.mask])
    cut = part.crop(lesion.mask)
    assert cut.sum() == lesion.mask.array[lesion.measures.key_slice].sum()
    rows, columns = np.nonzero(cut)
    points = part.grid.to_patient(np.column_stack([np.zeros(len(rows)), rows, columns]))
    inside = np.round(explanation.frame.geometry.to_index(points)).astype(int)
    assert lesion.mask.array[tuple(inside.T)].all()


def test_other_sequences_are_brought_to_the_slice_through_patient_space(explanation):
    part = window(explanation, explanation.lesions[0].measures.key_slice)
    adc = explanation.study.adc
    z, y, x = np.indices(adc.geometry.shape)
    # A linear field survives linear interpolation: it must read the same number at the same patient point.
    values = adc.geometry.to_patient(np.stack([z, y, x], -1)) @ np.array([1.0, 2.0, 3.0])
    field = Volume(values.astype(np.float32), adc.geometry)
    got = part.sample(field)
    index = np.moveaxis(np.indices(part.grid.shape), 0, -1)[0]
    expected = part.grid.to_patient(index) @ np.array([1.0, 2.0, 3.0])
    seen = np.isfinite(got)
    assert seen.mean() > 0.5
    np.testing.assert_allclose(got[seen], expected[seen], atol=1e-2)


def test_evidence_below_the_threshold_leaves_no_trace(negative):
    part = window(negative, 6)
    assert draw(negative, part, "t2w", evidence="t2.mod_hypo") == draw(negative, part, "t2w")


def test_evidence_above_the_threshold_colours_the_region_only(explanation):
    lesion = explanation.lesions[0]
    part = window(explanation, lesion.measures.key_slice, [lesion.mask])
    plain, shown = (pixels(draw(explanation, part, "adc", evidence=e)) for e in (None, "adc.marked"))
    changed = np.abs(plain - shown).max(-1) > 8
    rows, columns = np.nonzero(changed)
    assert changed.mean() < 0.2
    column, row, _ = part.pixel(np.add(CENTER, PZ_LEFT.offset))
    scale = shown.shape[1] / part.grid.shape[2]
    assert columns.mean() == pytest.approx((column + 0.5) * scale, abs=2 * scale)
    assert rows.mean() == pytest.approx((row + 0.5) * scale, abs=2 * scale)
    assert shown[int(rows.mean()), int(columns.mean())].std() > 20  # coloured, where the image itself is grey


@pytest.mark.parametrize(("role", "concept"), [("adc", "t2.mod_hypo"), ("t2w", "adc.marked"), ("hbv", "adc.marked")])
def test_evidence_is_never_drawn_on_another_sequence(explanation, role, concept):
    with pytest.raises(ValueError, match="was not read from"):
        draw(explanation, window(explanation, 6), role, evidence=concept)


def test_an_absent_sequence_has_no_picture():
    explanation = make_explanation(roles=("t2w",))
    with pytest.raises(ValueError, match="no picture"):
        draw(explanation, window(explanation, 6), "adc")


def test_the_diameter_is_drawn_between_its_end_points(explanation):
    lesion = explanation.lesions[1]
    diameter = lesion.measures.in_plane
    part = window(explanation, diameter.slice_index)
    plain, shown = (pixels(draw(explanation, part, "t2w", diameter=d)) for d in (None, diameter))
    changed = np.abs(plain - shown).max(-1) > 60
    scale = shown.shape[1] / part.grid.shape[2]
    for end in diameter.ends:
        column, row, off = part.pixel(end)
        assert abs(off) < 0.5
        r, c = round((row + 0.5) * scale), round((column + 0.5) * scale)
        assert changed[r - 3 : r + 4, c - 3 : c + 4].any()


def test_without_gland_and_region_the_middle_is_shown():
    explanation = make_explanation(lesions=(), gland=False)
    part = window(explanation, 6)
    column, row, _ = part.pixel(CENTER)
    assert 0 < column < part.grid.shape[2]
    assert 0 < row < part.grid.shape[1]


def test_the_colour_scale_is_transparent_up_to_the_threshold():
    stops = figures.legend_stops(0.5)
    assert stops[0][0] == 0.0
    assert stops[-1][0] == 1.0
    assert all((opacity > 0) == (value >= 0.5) for value, _, opacity in stops)


def test_the_same_picture_twice_is_the_same_file(negative):
    again = make_explanation(lesions=())
    pictures = [draw(e, window(e, 6), "t2w", zones=True) for e in (negative, again)]
    assert pictures[0] == pictures[1]


def test_pyplot_and_its_global_state_are_left_alone(repository):
    sources = list((repository / "MedRationaleLogic" / "export").glob("*.py"))
    assert len(sources) >= 8
    assert not [p.name for p in sources if re.search(r"^\s*(import|from) .*pyplot", p.read_text("utf-8"), re.MULTILINE)]
