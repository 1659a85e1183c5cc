"""Header minimums, coverage and PI-QUAL: what is met, what is short, and what nobody can know."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MedRationaleLogic.imaging import quality
from MedRationaleLogic.imaging.study import AcquisitionHeader, Study
from MedRationaleLogic.imaging.volume import Geometry, Volume

GOOD_T2W = AcquisitionHeader(
    role="t2w",
    slice_thickness_mm=3.0,
    slice_spacing_mm=3.0,
    fov_mm=(180.0, 180.0),
    pixel_spacing_mm=(0.35, 0.35),
    series_uid="1.2.3",
)
GOOD_HBV = AcquisitionHeader(
    role="hbv",
    slice_thickness_mm=3.0,
    slice_spacing_mm=3.0,
    fov_mm=(200.0, 200.0),
    pixel_spacing_mm=(2.0, 2.0),
    te_ms=70.0,
    tr_ms=4200.0,
    b_value=1400.0,
    b_values=(50.0, 400.0, 800.0),
    calculated=True,
)
GOOD_ADC = AcquisitionHeader(role="adc", b_values=(50.0, 400.0, 800.0))
GOOD_DCE = AcquisitionHeader(
    role="dce",
    slice_thickness_mm=3.0,
    slice_spacing_mm=3.0,
    pixel_spacing_mm=(1.5, 1.5),
    tr_ms=4.0,
    te_ms=1.5,
    temporal_resolution_s=8.0,
    dce_frames=30,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
SAGITTAL = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def image(extent=(60.0, 180.0, 180.0), shape=(20, 36, 36), direction=AXIAL, center=(0.0, 0.0, 0.0)) -> Volume:
    spacing = tuple(e / n for e, n in zip(extent, shape, strict=True))
    place = Geometry((1, 1, 1), (1, 1, 1), (0, 0, 0), direction).centered_on(center, shape, spacing)
    return Volume(np.zeros(shape, np.float32), place)


def study_with(**changes) -> Study:
    """A study within every minimum, but for what is changed."""
    good = {
        "name": "test study",
        "t2w": image(),
        "adc": image((60.0, 200.0, 200.0)),
        "hbv": image((60.0, 200.0, 200.0)),
        "headers": {"t2w": GOOD_T2W, "hbv": GOOD_HBV, "adc": GOOD_ADC, "dce": GOOD_DCE},
        "orthogonal_t2w": ("series 3, sagittal",),
    }
    return Study(**{**good, **changes})


def with_header(role: str, **changes) -> Study:
    study = study_with()
    return replace(study, headers={**study.headers, role: replace(study.headers[role], **changes)})


def find(flags, sequence: str, item: str) -> quality.QualityFlag:
    (flag,) = [flag for flag in flags if (flag.sequence, flag.item) == (sequence, item)]
    return flag


def test_a_study_within_every_minimum_meets_them_all_but_what_no_header_says():
    flags = quality.check(study_with())
    assert [flag.item for flag in flags if flag.status != "met"] == ["injection rate"]
    assert quality.shortfalls(flags) == ()
    assert all(flag.code is None for flag in flags)


@pytest.mark.parametrize(
    ("role", "changes", "sequence", "item", "code"),
    [
        ("t2w", {"slice_thickness_mm": 4.0}, "T2W", "slice thickness", None),
        ("t2w", {"slice_spacing_mm": 3.3}, "T2W", "slice gap", None),
        ("t2w", {"fov_mm": (220.0, 220.0)}, "T2W", "field of view", "130577"),
        ("t2w", {"fov_mm": (180.0, 100.0)}, "T2W", "field of view", "130577"),
        ("t2w", {"pixel_spacing_mm": (0.5, 0.5)}, "T2W", "in-plane resolution", None),
        ("t2w", {"acquisition_matrix": (512, 200)}, "T2W", "in-plane resolution", None),
        ("hbv", {"slice_thickness_mm": 5.0, "slice_spacing_mm": 5.0}, "DWI", "slice thickness", None),
        ("hbv", {"fov_mm": (260.0, 260.0)}, "DWI", "field of view", "130577"),
        ("hbv", {"pixel_spacing_mm": (2.6, 2.6)}, "DWI", "in-plane resolution", None),
        ("hbv", {"te_ms": 91.0}, "DWI", "echo time", None),
        ("hbv", {"tr_ms": 3000.0}, "DWI", "repetition time", None),
        ("hbv", {"b_value": 800.0, "calculated": False}, "DWI", "high b-value", "130583"),
        ("adc", {"b_values": (150.0, 800.0)}, "DWI", "lowest b-value", "130583"),
        ("adc", {"b_values": (0.0, 1400.0)}, "ADC", "highest b-value of the ADC", "130583"),
        ("dce", {"slice_thickness_mm": 5.0}, "DCE", "slice thickness", None),
        ("dce", {"pixel_spacing_mm": (2.2, 1.0)}, "DCE", "in-plane resolution", None),
        ("dce", {"tr_ms": 100.0}, "DCE", "repetition time", None),
        ("dce", {"te_ms": 5.0}, "DCE", "echo time", None),
        ("dce", {"temporal_resolution_s": 16.0}, "DCE", "temporal resolution", None),
        ("dce", {"dce_frames": 15}, "DCE", "observation", None),
    ],
)
def test_each_minimum_is_flagged_when_it_alone_is_missed(role, changes, sequence, item, code):
    flags = quality.check(with_header(role, **changes))
    (short,) = quality.shortfalls(flags)
    assert (short.sequence, short.item) == (sequence, item)
    assert (short.code[0] if short.code else None) == code


@pytest.mark.parametrize(
    ("role", "changes", "sequence", "item"),
    [
        ("t2w", {"slice_thickness_mm": 3.04, "slice_spacing_mm": 3.04}, "T2W", "slice thickness"),
        ("t2w", {"slice_spacing_mm": 2.7}, "T2W", "slice gap"),
        ("t2w", {"fov_mm": (199.99, 200.4)}, "T2W", "field of view"),
        ("t2w", {"pixel_spacing_mm": (0.7, 0.4)}, "T2W", "in-plane resolution"),
        # coarse in the stored image, or the other way round, but the measured matrix decides
        ("t2w", {"pixel_spacing_mm": (0.9, 0.9), "acquisition_matrix": (480, 300)}, "T2W", "in-plane resolution"),
        ("hbv", {"te_ms": 90.0}, "DWI", "echo time"),
        ("adc", {"b_values": (100.0, 1000.0)}, "ADC", "highest b-value of the ADC"),
    ],
)
def test_the_limits_themselves_and_header_rounding_pass(role, changes, sequence, item):
    assert find(quality.check(with_header(role, **changes)), sequence, item).status == "met"


def test_interpolated_pixels_do_not_hide_a_coarse_measurement():
    flag = find(quality.check(with_header("t2w", acquisition_matrix=(320, 224))), "T2W", "in-plane resolution")
    assert flag.status == "below minimum"
    assert flag.found == "0.80 x 0.56 mm (measured matrix)"
    flag = find(quality.check(study_with()), "T2W", "in-plane resolution")
    assert "maybe interpolated" in flag.found


def test_header_poor_files_are_unknown_and_never_passed():
    flags = quality.check(study_with(headers={}, orthogonal_t2w=()))
    from_geometry = {"axial plane", "plane", "overlap with T2W", "ADC map", "high-b image"}
    assert {flag.status for flag in flags if flag.item not in from_geometry} == {"unknown", "info"}
    assert find(flags, "T2W", "orthogonal plane").status == "unknown"
    assert find(flags, "DWI", "high b-value").status == "unknown"


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from([f.name for f in fields(AcquisitionHeader) if f.name not in ("role", "series_uid")])))
def test_taking_facts_out_of_the_headers_never_passes_and_never_fails_anything(silent):
    complete = study_with()
    headers = {role: replace(h, **dict.fromkeys(silent)) for role, h in complete.headers.items()}
    before, after = quality.check(complete), quality.check(replace(complete, headers=headers))
    assert [(flag.sequence, flag.item) for flag in before] == [(flag.sequence, flag.item) for flag in after]
    for full, poor in zip(before, after, strict=True):
        assert poor.status in (full.status, "unknown")


def test_missing_sequences_carry_their_codes():
    diffusion_only = quality.check(study_with(t2w=None, headers={}))
    assert find(diffusion_only, "T2W", "axial plane").status == "below minimum"
    assert find(diffusion_only, "ADC", "ADC map").status == "met"
    flags = quality.check(study_with(adc=None, hbv=None, headers={}))
    assert find(flags, "ADC", "ADC map").code == ("130585", "DCM", "Expected ADC map is missing")
    assert find(flags, "DWI", "high-b image").code == ("130583", "DCM", "Expected b-value is missing")
    assert find(flags, "DCE", "protocol").found == "DCE absent: bpMRI"
    assert find(flags, "DCE", "protocol").status == "info"


def test_an_orthogonal_plane_is_missed_only_where_a_whole_study_was_read():
    assert find(quality.check(study_with()), "T2W", "orthogonal plane").found == "series 3, sagittal"
    alone = study_with(orthogonal_t2w=())
    assert find(quality.check(alone), "T2W", "orthogonal plane").status == "below minimum"
    from_files = study_with(orthogonal_t2w=(), headers={"t2w": replace(GOOD_T2W, series_uid=None)})
    assert find(quality.check(from_files), "T2W", "orthogonal plane").status == "unknown"


def test_a_t2w_that_is_not_axial_and_diffusion_in_another_plane_are_flagged():
    flags = quality.check(study_with(t2w=image(direction=SAGITTAL), orthogonal_t2w=()))
    assert find(flags, "T2W", "axial plane").found == "sagittal"
    assert find(flags, "T2W", "axial plane").status == "below minimum"
    assert find(flags, "ADC", "plane").status == "below minimum"
    assert find(flags, "ADC", "plane").found == "90° from T2W"
    assert find(quality.check(study_with(t2w=None)), "ADC", "plane").status == "met"


def test_b_values_are_not_guessed():
    study = with_header("adc", b_values=None)
    flags = quality.check(study)
    assert find(flags, "DWI", "lowest b-value").status == "met"  # all acquired are known
    highest = find(flags, "ADC", "highest b-value of the ADC")
    assert highest.status == "unknown"
    assert "b50, b400, b800" in highest.found
    only_high = replace(study, headers={**study.headers, "hbv": replace(GOOD_HBV, b_values=(0.0, 1500.0))})
    assert find(quality.check(only_high), "ADC", "highest b-value of the ADC").status == "below minimum"
    single = replace(study, headers={**study.headers, "hbv": replace(GOOD_HBV, b_values=(1400.0,))})
    assert find(quality.check(single), "DWI", "lowest b-value").status == "unknown"
    assert find(quality.check(study_with()), "DWI", "high b-value").found == "b1400 (calculated)"


def test_diffusion_facts_come_from_the_adc_where_the_high_b_is_silent():
    study = study_with()
    headers = {**study.headers, "hbv": replace(GOOD_HBV, te_ms=None), "adc": replace(GOOD_ADC, te_ms=95.0)}
    flag = find(quality.check(replace(study, headers=headers)), "DWI", "echo time")
    assert (flag.status, flag.found) == ("below minimum", "95 ms")


def test_field_overlap_is_the_share_of_the_smaller_field():
    large = image((60.0, 200.0, 200.0)).geometry
    assert quality.field_overlap(large, large) == 1
    assert quality.field_overlap(large, image((60.0, 100.0, 100.0)).geometry) == 1
    half = image((60.0, 100.0, 100.0), center=(100.0, 0.0, 0.0)).geometry
    assert quality.field_overlap(large, half) == pytest.approx(0.5, abs=0.03)
    assert quality.field_overlap(half, large) == quality.field_overlap(large, half)
    assert quality.field_overlap(large, image(center=(500.0, 0.0, 0.0)).geometry) == 0


def test_fields_that_do_not_overlap_are_flagged_with_the_coverage_code():
    flags = quality.check(study_with(adc=image(center=(0.0, 0.0, 300.0))))
    flag = find(flags, "ADC", "overlap with T2W")
    assert flag.status == "below minimum"
    assert flag.code == quality.COVERAGE_INCOMPLETE
    assert find(flags, "DWI", "overlap with T2W").status == "met"


# --------------------------------------------------------------------------------------------------------- coverage


def gland(first: int, last: int, rows=slice(10, 25)) -> Volume:
    frame = image()
    array = np.zeros(frame.array.shape, np.uint8)
    array[first : last + 1, rows, 10:25] = 1
    return frame.with_array(array)


def test_a_gland_inside_every_field_is_covered():
    flags = quality.check_coverage(study_with(), gland(3, 15))
    assert [flag.status for flag in flags] == ["met"] * 4


@pytest.mark.parametrize(
    ("zones", "words"),
    [
        (gland(0, 10), "first slice"),
        (gland(10, 19), "last slice"),
        (gland(0, 19), "first slice and the last slice"),
        (gland(3, 10, slice(20, 36)), "edge of the image"),
    ],
)
def test_a_gland_that_reaches_an_end_of_the_stack_is_incomplete(zones, words):
    flag = find(quality.check_coverage(study_with(), zones), "T2W", "gland coverage")
    assert flag.status == "below minimum"
    assert flag.found == f"gland reaches the {words}"
    assert flag.code == ("130576", "DCM", "Anatomy coverage incomplete")


def test_a_sequence_that_misses_part_of_the_gland_says_how_much_it_shows():
    study = study_with(adc=image((60.0, 200.0, 200.0), center=(0.0, 0.0, 30.0)))  # upper half only
    flag = find(quality.check_coverage(study, gland(5, 14)), "ADC", "gland in the field of view")
    assert flag.status == "below minimum"
    assert flag.found == "50.0% of the gland"
    assert flag.code == quality.COVERAGE_INCOMPLETE


def test_without_a_gland_coverage_is_unknown_and_without_t2w_the_frame_is_named():
    empty = image().with_array(np.zeros((20, 36, 36), np.uint8))
    assert [flag.status for flag in quality.check_coverage(study_with(), empty)] == ["unknown"]
    flags = quality.check_coverage(study_with(t2w=None, hbv=None), gland(3, 15))
    assert [flag.sequence for flag in flags] == ["ADC", "ADC"]
    flags = quality.check_coverage(study_with(t2w=None, adc=None), gland(0, 15))
    assert [(flag.sequence, flag.status) for flag in flags] == [("DWI", "below minimum"), ("DWI", "met")]


def test_flags_survive_json():
    flags = quality.check(with_header("t2w", fov_mm=(220.0, 220.0)))
    assert any(flag.code for flag in flags)
    data = json.loads(json.dumps([flag.to_dict() for flag in flags]))
    assert tuple(quality.QualityFlag.from_dict(item) for item in data) == flags


# ---------------------------------------------------------------------------------------------------------- PI-QUAL


@pytest.mark.parametrize(
    ("t2w", "dwi", "dce", "score"),
    [
        (2, 4, None, 1),
        (4, 2, None, 1),
        (0, 0, None, 1),
        (3, 3, None, 2),
        (3, 4, None, 2),
        (4, 4, None, 3),
        (4, 4, 2, 3),
        (4, 4, 1, 2),
        (4, 4, 0, 2),
        (3, 3, 2, 2),
        (2, 4, 2, 2),
        (4, 1, 2, 2),
        (2, 4, 1, 1),
        (2, 3, 2, 1),
        (2, 2, 2, 1),
    ],
)
def test_pi_qual_rule(t2w, dwi, dce, score):
    assert quality.pi_qual(t2w, dwi, dce) == score


def test_pi_qual_never_falls_when_a_criterion_more_is_met():
    for dce in (None, 0, 1, 2):
        table = np.array([[quality.pi_qual(t, d, dce) for d in range(5)] for t in range(5)])
        assert (np.diff(table, axis=0) >= 0).all()
        assert (np.diff(table, axis=1) >= 0).all()
        np.testing.assert_array_equal(table, table.T)


def test_pi_qual_is_not_assessed_until_a_reader_enters_it():
    assert quality.PiQual().text == "not assessed"
    assert quality.PiQual(t2w=4).score is None
    assert not quality.PiQual().inadequate
    entered = quality.PiQual(2, 3, None, "reader A")
    assert entered.text == "PI-QUAL 1 (inadequate)"
    assert entered.inadequate
    assert quality.PiQual.from_dict(json.loads(json.dumps(entered.to_dict()))) == entered
    assert quality.PiQual.from_dict(quality.PiQual().to_dict()) == quality.PiQual()


@pytest.mark.parametrize("points", [(5, 4, None), (4, -1, None), (4, 4, 3), (3.5, 4, None)])
def test_pi_qual_refuses_points_that_do_not_exist(points):
    with pytest.raises(ValueError, match=r"PI-QUAL (T2W|DWI|DCE): expected a whole number of points"):
        quality.PiQual(*points)


def test_automatic_checks_never_give_a_visual_score():
    flags = (*quality.check(study_with()), *quality.check_coverage(study_with(), gland(3, 15)))
    assert not any("PI-QUAL" in f"{flag.item} {flag.found} {flag.required}" for flag in flags)
