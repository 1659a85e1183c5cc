"""Sectors, zones and gland size of a gland whose anatomy is known, seen through grids of any kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from MedRationaleLogic.imaging import measure
from MedRationaleLogic.imaging.volume import Geometry, Volume

CENTER = np.array([12.0, -30.0, 45.0])
SEMI_AXES = np.array([25.0, 18.0, 22.0])  # right-left, anteroposterior, craniocaudal

# The PZ and TZ rows of the published sector map, by our number.
TABLE = {
    1: "PZa-base-R", 2: "PZa-base-L", 3: "PZpl-base-R", 4: "PZpl-base-L", 5: "PZpm-base-R", 6: "PZpm-base-L",
    7: "TZa-base-R", 8: "TZa-base-L", 9: "TZp-base-R", 10: "TZp-base-L",
    15: "PZa-mid-R", 16: "PZa-mid-L", 17: "PZpl-mid-R", 18: "PZpl-mid-L", 19: "PZpm-mid-R", 20: "PZpm-mid-L",
    21: "TZa-mid-R", 22: "TZa-mid-L", 23: "TZp-mid-R", 24: "TZp-mid-L",
    27: "PZa-apex-R", 28: "PZa-apex-L", 29: "PZpl-apex-R", 30: "PZpl-apex-L", 31: "PZpm-apex-R", 32: "PZpm-apex-L",
    33: "TZa-apex-R", 34: "TZa-apex-L", 35: "TZp-apex-R", 36: "TZp-apex-L",
}  # fmt: skip

# Offsets from the gland's middle (left, posterior, superior), each well within its sector.
KNOWN = {
    (-14, 10, 0): "PZpl-mid-R",
    (14, 10, 0): "PZpl-mid-L",
    (-4, 14, 0): "PZpm-mid-R",
    (4, 14, 0): "PZpm-mid-L",
    (20, -3, 0): "PZa-mid-L",
    (5, -8, 0): "TZa-mid-L",
    (-5, 5, 0): "TZp-mid-R",
    (-4, 9, 14): "PZpm-base-R",
    (3, -5, 14): "TZa-base-L",
    (4, 9, -14): "PZpm-apex-L",
    (-4, -6, -13): "TZa-apex-R",
}


def zone(points: np.ndarray) -> np.ndarray:
    """The gland as a function of patient points (..., 3): an ellipsoid whose TZ is a smaller one, further anterior."""
    offset = points - CENTER
    gland = ((offset / SEMI_AXES) ** 2).sum(-1) <= 1
    inner = (((offset - (0, -3, 0)) / (16, 12, 18)) ** 2).sum(-1) <= 1
    return np.where(gland, np.where(inner, measure.TZ, measure.PZ), 0).astype(np.uint8)


def grid(spacing=(2.0, 1.0, 1.0), degrees=(0.0, 0.0, 0.0), flip=(1, 1, 1), shift=(0.1, 0.2, 0.3)) -> Geometry:
    """A grid over the whole gland; the shift keeps voxel centres off its planes of symmetry."""
    matrix = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * np.asarray(flip)
    shape = tuple(int(64 / s) for s in spacing)
    return Geometry((1, 1, 1), (1, 1, 1), (0, 0, 0), tuple(matrix.ravel())).centered_on(CENTER + shift, shape, spacing)


def sample(geometry: Geometry, function) -> Volume:
    points = geometry.to_patient(np.moveaxis(np.indices(geometry.shape), 0, -1))
    return Volume(function(points), geometry, "test zones")


def ball(geometry: Geometry, offset, radius=2.5) -> Volume:
    return sample(geometry, lambda p: ((p - CENTER - offset) ** 2).sum(-1) <= radius**2)


grids = st.builds(
    grid,
    st.tuples(st.floats(1.5, 3), st.floats(0.9, 2), st.floats(0.9, 2)),
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(*[st.sampled_from((1, -1))] * 3),
)


@pytest.fixture(scope="module")
def zones() -> Volume:
    return sample(grid(), zone)


@pytest.fixture(scope="module")
def sectors(zones) -> Volume:
    return measure.sector_map(zones)


def test_numbers_follow_the_table_and_claim_nothing_without_a_mask():
    assert TABLE == measure.SECTOR_KEYS
    assert not any(key.startswith(("CZ", "AFS", "SV", "US")) for key in measure.SECTOR_NUMBERS)


def test_every_sector_of_a_whole_gland_is_found_and_nothing_outside_it(zones, sectors):
    assert set(np.unique(sectors.array)) == {0, *TABLE}
    np.testing.assert_array_equal(sectors.array > 0, zones.array > 0)
    pz = [n for n, key in TABLE.items() if key.startswith("PZ")]
    np.testing.assert_array_equal(np.isin(sectors.array, pz), zones.array == measure.PZ)
    assert sectors.array.dtype == np.uint8
    assert sectors.geometry == zones.geometry


@settings(max_examples=20, deadline=None)
@given(grids)
def test_known_points_lie_in_their_sector_on_any_grid(geometry):
    sectors = measure.sector_map(sample(geometry, zone))
    for offset, key in KNOWN.items():
        index = tuple(np.rint(geometry.to_index(CENTER + offset)).astype(int))
        assert measure.SECTOR_KEYS.get(int(sectors.array[index])) == key


@settings(max_examples=10, deadline=None)
@given(grids, st.sampled_from(sorted(KNOWN)))
def test_a_small_region_is_named_by_its_sector_from_any_grid_onto_any_other(geometry, offset):
    (key, share), *_ = measure.sector_shares(ball(geometry, offset), sample(grid((3.0, 1.0, 1.0)), zone))
    assert key == KNOWN[offset]
    assert share > 0.5


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.floats(-30, 30)] * 3))
def test_a_mirrored_gland_swaps_right_and_left(seed, degrees):
    rng = np.random.default_rng(seed)
    geometry = grid((3.0, 2.0, 2.0), degrees, shift=tuple(rng.uniform(-0.9, 0.9, 3)))
    lopsided = sample(geometry, lambda p: zone(p) * (p @ rng.uniform(-1, 1, 3) < p.mean() + 40).astype(np.uint8))
    lesion = Volume(rng.random(geometry.shape) < 0.02, geometry)
    flip = np.diag([-1.0, 1.0, 1.0])
    mirror = Geometry(
        geometry.shape,
        geometry.spacing,
        tuple(flip @ geometry.origin),
        tuple((flip @ np.reshape(geometry.direction, (3, 3))).ravel()),
    )
    here = measure.sector_map(lopsided)
    there = measure.sector_map(Volume(lopsided.array, mirror))
    swapped = np.zeros(37, np.uint8)
    for number, key in TABLE.items():
        swapped[number] = measure.SECTOR_NUMBERS[key[:-1] + {"R": "L", "L": "R"}[key[-1]]]
    np.testing.assert_array_equal(there.array, swapped[here.array])

    def swap(shares):
        return sorted((key[:-1] + {"R": "L", "L": "R"}[key[-1]], pytest.approx(share)) for key, share in shares)

    if lesion.array.any():
        shares = measure.sector_shares(lesion, lopsided)
        assert sorted(measure.sector_shares(Volume(lesion.array, mirror), Volume(lopsided.array, mirror))) == swap(
            shares
        )


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.floats(-30, 30), st.floats(-25, 25), st.floats(-25, 25)), st.floats(2, 14))
def test_shares_are_sorted_large_enough_and_never_more_than_the_whole(zones, sectors, offset, radius):
    lesion = ball(grid((2.0, 1.5, 1.5)), offset, radius)
    shares = measure.sector_shares(lesion, zones, sectors=sectors)
    values = [share for _, share in shares]
    assert values == sorted(values, reverse=True)
    assert all(share >= 0.1 for share in values)
    assert sum(values) <= 1 + 1e-9
    assert shares == measure.sector_shares(lesion, zones)
    by_zone = measure.zone_shares(lesion, zones)
    assert sum(by_zone.values()) == pytest.approx(1)


def test_levels_are_thirds_of_the_gland_and_superior_is_base():
    array = np.zeros((12, 9, 9), np.uint8)
    array[2:11, 2:7, 2:7] = measure.TZ  # nine slices
    for flip in (1, -1):
        geometry = Geometry(array.shape, (3, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, flip))
        labels = measure.sector_map(Volume(array, geometry)).array
        levels = [{TABLE[n].split("-")[1] for n in np.unique(labels[k]) if n} for k in range(2, 11)]
        assert levels == [{level} for level in ("apex", "mid", "base")[::flip] for _ in range(3)]


@pytest.mark.parametrize("widest", [50, 80])
def test_the_posterior_arc_is_halved_where_it_ends(widest):
    """A PZ that reaches only ``widest`` degrees from the midline is parted at half of that, on both sides."""
    y, x = np.mgrid[-60:61, -60:61] * 0.5
    r, angle = np.hypot(x + 0.1, y), np.degrees(np.arctan2(np.abs(x + 0.1), y))
    plane = np.where((r < 28) & (r > 20) & (angle <= widest), measure.PZ, np.where(r < 28, measure.TZ, 0))
    array = np.repeat(plane[None].astype(np.uint8), 3, axis=0)
    labels = measure.sector_map(Volume(array, Geometry(array.shape, (3.0, 0.5, 0.5), (-30.0, -30.0, 0.0)))).array[1]
    clear = np.abs(angle - widest / 2) > 2
    for side, number_pm, number_pl in ((x < -1, 19, 17), (x > 1, 20, 18)):
        here = (plane == measure.PZ) & clear & side
        np.testing.assert_array_equal(labels[here], np.where(angle[here] < widest / 2, number_pm, number_pl))


def test_a_region_just_outside_counts_to_the_nearest_sector_and_a_far_one_to_none(zones):
    just_outside = ball(grid(), (-4, 20.0, 0), 1.8)
    assert measure.zone_shares(just_outside, zones) == {"PZ": 0.0, "TZ": 0.0, "outside": 1.0}
    assert measure.sector_shares(just_outside, zones) == (("PZpm-mid-R", pytest.approx(1.0)),)
    assert measure.sector_shares(ball(grid(), (0, 29, 0), 2), zones) == ()
    across = measure.sector_shares(sample(grid(), lambda p: np.abs(p - CENTER - (6, 24, 0)).max(-1) <= 5.2), zones)
    assert across
    assert sum(share for _, share in across) < 0.95


def test_zone_shares_count_volume(zones):
    half = sample(grid(), lambda p: np.abs(p - CENTER).max(-1) < 6)
    assert measure.zone_shares(half, zones) == {"PZ": 0.0, "TZ": 1.0, "outside": 0.0}
    labels = np.zeros((1, 2, 4), np.uint8)
    labels[0, 0] = (1, 1, 2, 0)
    geometry = Geometry(labels.shape, (1, 1, 1))
    lesion = Volume(np.array([[[1, 1, 1, 1], [0, 0, 0, 0]]]), geometry)
    assert measure.zone_shares(lesion, Volume(labels, geometry)) == {"PZ": 0.5, "TZ": 0.25, "outside": 0.25}


def test_no_gland_no_sectors_and_wrong_labels_are_refused(zones):
    empty = zones.with_array(np.zeros(zones.array.shape, np.uint8))
    assert not measure.sector_map(empty).array.any()
    assert measure.sector_shares(ball(grid(), (0, 0, 0)), empty) == ()
    with pytest.raises(ValueError, match="no gland voxel"):
        measure.gland_size(empty)
    for wrong in (zones.array.astype(np.float32), zones.array * 2, zones.array.astype(np.int16) - 1):
        with pytest.raises(ValueError, match=r"test zones: expected an integer label map of 0 outside, 1 PZ, 2 TZ"):
            measure.sector_map(zones.with_array(wrong))


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.floats(1, 3), st.floats(0.5, 1.2), st.floats(0.5, 1.2)),
    st.tuples(st.floats(-20, 20), st.floats(-8, 8), st.floats(-8, 8)),
    st.tuples(*[st.sampled_from((1, -1))] * 3),
)
def test_gland_size_by_both_methods(spacing, degrees, flip):
    size = measure.gland_size(sample(grid(spacing, degrees, flip), zone))
    true_ml = 4 / 3 * np.pi * np.prod(SEMI_AXES) / 1000
    assert size.planimetry_ml == pytest.approx(true_ml, rel=0.02)
    assert size.transverse_mm == pytest.approx(50, abs=2)
    assert size.longitudinal_mm == pytest.approx(44, abs=max(spacing))
    assert size.ellipsoid_ml == pytest.approx(
        0.52 * size.ap_mm * size.transverse_mm * size.longitudinal_mm / 1000, rel=1e-9
    )


def test_gland_diameters_on_an_axial_grid_and_the_methods_are_named(zones):
    size = measure.gland_size(zones)
    assert (size.transverse_mm, size.ap_mm) == (pytest.approx(50, abs=1), pytest.approx(36, abs=1))
    assert size.longitudinal_mm == pytest.approx(44, abs=2)
    assert size.ellipsoid_ml == pytest.approx(0.52 * 50 * 36 * 44 / 1000, rel=0.06)
    data = size.to_dict()
    assert data["methods"]["planimetry_ml"].startswith("planimetry")
    assert "0.52" in data["methods"]["ellipsoid_ml"]
    assert measure.GlandSize.from_dict(data) == size


def test_a_gland_of_two_separate_halves_still_has_a_size():
    array = np.zeros((4, 10, 20), np.uint8)
    array[:, 2:8, 1:5] = array[:, 2:8, 15:19] = measure.PZ
    size = measure.gland_size(Volume(array, Geometry(array.shape, (3, 1, 1))))
    assert (size.ap_mm, size.transverse_mm, size.longitudinal_mm) == pytest.approx((6, 18, 12))


def test_psa_density_flags_and_says_that_it_changes_no_category():
    density = measure.psa_density(6.0, 40.0)
    assert density.value == pytest.approx(0.15)
    assert density.attention
    assert "at or above" in density.text
    assert "does not change the PI-RADS category" in density.text
    low = measure.psa_density(2.0, 40.0)
    assert not low.attention
    assert "below" in low.text


@pytest.mark.parametrize(("psa", "volume"), [(-1, 40), (float("nan"), 40), (5, 0), (5, -3), (5, float("inf"))])
def test_psa_density_refuses_impossible_numbers(psa, volume):
    with pytest.raises(ValueError, match="must be"):
        measure.psa_density(psa, volume)
