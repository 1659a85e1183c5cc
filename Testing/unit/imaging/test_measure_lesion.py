"""One lesion's measures as a whole: on which grid, with which notes, and back from JSON unchanged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from MedRationaleLogic.imaging import measure
from MedRationaleLogic.imaging.volume import Geometry, Volume

T2W = Geometry((19, 120, 120), (3.0, 0.5, 0.5), (-30.0, -30.0, 0.0))
ADC = Geometry((19, 40, 40), (3.0, 1.5, 1.5), (-29.5, -29.5, 0.0))


def disc(radius: float, slices=range(8, 11), middle=(-8.0, 10.0)) -> Volume:
    z, y, x = np.indices(T2W.shape)
    points = T2W.to_patient(np.stack([z, y, x], axis=-1))
    inside = ((points[..., :2] - middle) ** 2).sum(-1) <= radius**2
    return Volume(inside & np.isin(z, list(slices)), T2W, "lesion 1")


@pytest.fixture(scope="module")
def zones() -> Volume:
    z, y, x = np.indices(T2W.shape)
    px, py, _ = np.moveaxis(T2W.to_patient(np.stack([z, y, x], axis=-1)), -1, 0)
    gland = (px**2 + py**2 <= 24**2) & (z > 2) & (z < 16)
    tz = (px**2 + (py + 6) ** 2 <= 12**2) & gland
    return Volume(np.where(gland, np.where(tz, measure.TZ, measure.PZ), 0).astype(np.uint8), T2W, "zones")


@pytest.fixture(scope="module")
def measured(zones) -> measure.LesionMeasures:
    return measure.measure_lesion(disc(5.0), zones, measuring_grid=ADC, measured_on="ADC")


def test_a_peripheral_region_is_measured_on_the_adc_grid(measured):
    assert measured.measured_on == "ADC"
    assert measured.in_plane.mm == pytest.approx(10, abs=1.5)
    index = ADC.to_index(measured.in_plane.ends)
    np.testing.assert_allclose(np.sort(np.abs(index - np.rint(index)), axis=1)[:, :2], 0, atol=1e-6)
    assert measured.in_plane.slice_index in (8, 9, 10)


def test_everything_else_comes_from_the_masks_own_grid(measured, zones):
    lesion = disc(5.0)
    assert measured.volume_ml == pytest.approx(np.pi * 25 * 9 / 1000, rel=0.02)
    assert measured.three_d == measure.feret_3d(lesion)
    np.testing.assert_allclose(measured.centroid, (-8, 10, 27), atol=0.1)
    assert measured.slice_range == (8, 10)
    assert measured.zone_shares == measure.zone_shares(lesion, zones)
    assert measured.sectors == measure.sector_shares(lesion, zones)
    assert measured.sectors[0][0].endswith("mid-R")
    assert measured.contact_mm == 0
    assert not measured.near_threshold
    assert measure.CZ_AFS_NOTE in measured.notes


def test_the_key_slice_is_the_largest():
    parts = [disc(3.0, [5]), disc(6.0, [7]), disc(4.0, [6])]
    lesion = Volume(np.logical_or.reduce([part.array for part in parts]), T2W)
    empty = Volume(np.zeros(T2W.shape, np.uint8), T2W)
    found = measure.measure_lesion(lesion, empty, measuring_grid=T2W, measured_on="T2W")
    assert (found.key_slice, found.slice_range) == (7, (5, 7))
    assert found.in_plane.slice_index == 7
    assert found.contact_mm is None
    assert found.sectors == ()
    assert any("no gland segmented" in note for note in found.notes)


def test_json_round_trip_is_lossless(measured):
    assert measure.LesionMeasures.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured


def test_without_the_nominal_sequence_its_own_grid_is_used_and_said(zones):
    found = measure.measure_lesion(disc(5.0), zones, measuring_grid=None, measured_on="ADC")
    assert found.measured_on == "mask grid"
    assert found.in_plane == measure.feret_in_plane(disc(5.0))
    assert "ADC is absent: measured on the mask's own grid" in found.notes


def test_a_region_lost_between_coarse_voxels_is_measured_on_its_own_grid_and_said(zones):
    coarse = Geometry((19, 10, 10), (3.0, 6.0, 6.0), (-23.0, -23.0, 0.0))
    found = measure.measure_lesion(disc(1.2), zones, measuring_grid=coarse, measured_on="ADC")
    assert found.measured_on == "mask grid"
    assert found.in_plane == measure.feret_in_plane(disc(1.2))
    assert any("lost on the ADC grid" in note for note in found.notes)


def test_a_field_of_view_that_cuts_the_region_is_not_measured_on(zones):
    narrow = Geometry((19, 20, 40), (3.0, 1.5, 1.5), (-29.5, -18.0, 0.0))  # ends at y = 11
    found = measure.measure_lesion(disc(5.0), zones, measuring_grid=narrow, measured_on="ADC")
    assert found.measured_on == "mask grid"
    assert any("ADC does not cover the whole region" in note for note in found.notes)


def test_a_diameter_near_15_mm_is_flagged_in_words_too(zones):
    found = measure.measure_lesion(disc(7.3), zones, measuring_grid=T2W, measured_on="T2W")
    assert 14 <= found.in_plane.mm <= 16
    assert found.near_threshold
    assert any(note.startswith("near threshold: 1") for note in found.notes)


def test_a_cached_sector_map_changes_nothing(measured, zones):
    sectors = measure.sector_map(zones)
    again = measure.measure_lesion(disc(5.0), zones, measuring_grid=ADC, measured_on="ADC", sectors=sectors)
    assert again == measured


def test_an_empty_region_is_refused(zones):
    with pytest.raises(ValueError, match="lesion 1: the mask is empty"):
        measure.measure_lesion(disc(0.0, []), zones, measuring_grid=T2W, measured_on="T2W")


@pytest.mark.parametrize(("pz", "tz", "sequence"), [(0.9, 0.1, "ADC"), (0.2, 0.8, "T2W"), (0.5, 0.5, "ADC")])
def test_the_nominal_sequence_follows_the_zone(pz, tz, sequence):
    assert measure.nominal_sequence({"PZ": pz, "TZ": tz, "outside": 0.0}) == sequence
