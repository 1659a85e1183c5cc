"""Diameters, volumes and contact of shapes whose answers are known, on grids of any spacing, tilt and orientation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from MedRationaleLogic.imaging import measure
from MedRationaleLogic.imaging.volume import Geometry, Volume

spacings = st.tuples(st.floats(0.5, 4), st.floats(0.3, 2), st.floats(0.3, 2))
angles = st.tuples(*[st.floats(-180, 180)] * 3)
origins = st.tuples(*[st.floats(-200, 200)] * 3)
flips = st.tuples(*[st.sampled_from((1, -1))] * 3)


def direction(degrees=(0.0, 0.0, 0.0), flip=(1, 1, 1)) -> tuple[float, ...]:
    matrix = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * np.asarray(flip)
    return tuple(matrix.ravel())


def volume(array, spacing=(1.0, 1.0, 1.0), degrees=(0.0, 0.0, 0.0), flip=(1, 1, 1), origin=(0.0, 0.0, 0.0)) -> Volume:
    return Volume(array, Geometry(array.shape, spacing, origin, direction(degrees, flip)), "test mask")


def ellipse(radii, angle, spacing, offset) -> np.ndarray:
    """One slice: voxels whose centre lies in an ellipse turned by ``angle``, its middle off the voxel centres."""
    reach = max(radii) + 2 * max(spacing)
    rows, columns = (2 * int(reach / s) + 3 for s in spacing)
    y = (np.arange(rows) - rows // 2 - offset[0])[:, None] * spacing[0]
    x = (np.arange(columns) - columns // 2 - offset[1])[None] * spacing[1]
    u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    return ((u / radii[0]) ** 2 + (v / radii[1]) ** 2 <= 1)[None]


def brute_force(array, spacing, axes) -> float:
    """Greatest distance between any two border points, without a hull."""
    points = []
    for index in np.argwhere(array):
        for axis, side in itertools.product(axes, (-0.5, 0.5)):
            step = np.zeros(3)
            step[axis] = side
            points.append((index + step) * spacing)
    return float(pdist(np.array(points)).max())


@settings(max_examples=60, deadline=None)
@given(
    st.floats(2.5, 15),
    spacings,
    angles,
    flips,
    origins,
    st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
)
def test_disc_diameter_is_right_within_one_pixel_on_any_grid(radius, spacing, degrees, flip, origin, offset):
    mask = volume(ellipse((radius, radius), 0, spacing[1:], offset), spacing, degrees, flip, origin)
    assume(mask.array.any())
    found = measure.feret_in_plane(mask)
    assert abs(found.mm - 2 * radius) <= max(spacing[1:]) + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.floats(0, math.pi), st.floats(0.3, 0.8), st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)))
def test_ellipse_keeps_its_long_axis_at_every_rotation_in_the_plane(angle, pitch, offset):
    mask = volume(ellipse((9.0, 5.0), angle, (pitch, pitch), offset), (3.0, pitch, pitch))
    found = measure.feret_in_plane(mask)
    assert abs(found.mm - 18.0) <= pitch + 1e-6
    first, second = np.array(found.ends)
    along = (second - first) / found.mm
    assert abs(along @ (math.cos(angle), math.sin(angle), 0)) > math.cos(math.radians(18))


@settings(max_examples=25, deadline=None)
@given(st.floats(3, 8), st.tuples(st.floats(0.6, 3), st.floats(0.5, 1.2), st.floats(0.5, 1.2)), angles, flips)
def test_sphere_diameter_and_volume_in_3d(radius, spacing, degrees, flip):
    half = [int(radius / s) + 2 for s in spacing]
    grid = np.meshgrid(*[np.arange(-n, n + 1) * s for n, s in zip(half, spacing, strict=True)], indexing="ij")
    mask = volume(sum(g**2 for g in grid) <= radius**2, spacing, degrees, flip)
    found = measure.feret_3d(mask)
    assert abs(found.mm - 2 * radius) <= max(spacing) + 1e-6
    assert found.plane == "3D"
    assert found.slice_index is None
    assert found.mm >= measure.feret_in_plane(mask).mm - 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), spacings)
def test_diameters_equal_brute_force_on_random_masks(seed, spacing):
    rng = np.random.default_rng(seed)
    array = rng.random((3, 5, 6)) < rng.uniform(0.05, 0.6)
    assume(array.any())
    mask = volume(array, spacing)
    assert measure.feret_3d(mask).mm == pytest.approx(brute_force(array, spacing, (0, 1, 2)))
    one_slice = [array & (np.arange(3)[:, None, None] == k) for k in range(3)]
    slices = [brute_force(part, spacing, (1, 2)) for part in one_slice if part.any()]
    assert measure.feret_in_plane(mask).mm == pytest.approx(max(slices))


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_voxels_in_a_row_are_as_long_as_they_are(axis, count):
    spacing = (3.0, 0.5, 0.5)
    array = np.zeros((4, 12, 12), bool)
    array[2, 3 : 3 + (count if axis == 1 else 1), 4 : 4 + (count if axis == 2 else 1)] = True
    found = measure.feret_in_plane(volume(array, spacing))
    assert found.mm == pytest.approx(count * 0.5)
    assert found.slice_index == 2
    assert found.plane == "axial, in-plane"


def test_a_column_through_the_slices_is_one_pixel_in_the_plane_and_long_in_3d():
    array = np.zeros((6, 5, 5), bool)
    array[1:5, 2, 2] = True
    mask = volume(array, (3.0, 0.5, 0.8))
    assert measure.feret_in_plane(mask).mm == pytest.approx(0.8)
    assert measure.feret_in_plane(mask).slice_index == 1
    assert measure.feret_3d(mask).mm == pytest.approx(12.0)


def test_one_voxel():
    array = np.zeros((3, 3, 3), np.int16)
    array[1, 1, 1] = 4
    mask = volume(array, (3.0, 0.5, 0.5), origin=(10.0, 20.0, 30.0))
    assert measure.feret_in_plane(mask).mm == pytest.approx(0.5)
    found = measure.feret_3d(mask)
    assert found.mm == pytest.approx(3.0)
    np.testing.assert_allclose(sorted(end[2] for end in found.ends), [31.5, 34.5])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), spacings, angles, origins)
def test_a_rigid_move_carries_the_ends_along_and_keeps_lengths(seed, spacing, degrees, shift):
    array = np.random.default_rng(seed).random((3, 8, 8)) < 0.3
    assume(array.any())
    still = volume(array, spacing, origin=(5.0, -7.0, 11.0))
    turn = Rotation.from_euler("xyz", degrees, degrees=True)
    moved = Volume(
        array, Geometry(array.shape, spacing, tuple(turn.apply((5.0, -7.0, 11.0)) + shift), direction(degrees))
    )
    for function in (measure.feret_in_plane, measure.feret_3d):
        before, after = function(still), function(moved)
        assert after.mm == pytest.approx(before.mm)
        np.testing.assert_allclose(after.ends, turn.apply(before.ends) + shift, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), spacings, angles, flips)
def test_the_ends_are_the_diameter_apart_and_lie_on_the_border(seed, spacing, degrees, flip):
    array = np.random.default_rng(seed).random((3, 7, 9)) < 0.2
    assume(array.any())
    mask = volume(array, spacing, degrees, flip, (3.0, 4.0, 5.0))
    for found in (measure.feret_in_plane(mask), measure.feret_3d(mask)):
        first, second = np.array(found.ends)
        assert np.linalg.norm(second - first) == pytest.approx(found.mm)
        for end in found.ends:
            off_centre = np.abs(mask.geometry.to_index(end)[None] - np.argwhere(array))
            # half a voxel from a voxel of the mask, along one axis only
            assert np.isclose(np.sort(off_centre, axis=1), (0, 0, 0.5), atol=1e-6).all(1).any()
        if found.slice_index is not None:
            np.testing.assert_allclose(mask.geometry.to_index(found.ends)[:, 0], found.slice_index, atol=1e-6)


def test_the_same_tissue_stored_the_other_way_round_measures_the_same():
    array = np.random.default_rng(3).random((4, 9, 7)) < 0.2
    straight = volume(array, (3.0, 0.5, 0.7), (10, 20, 30), origin=(1.0, 2.0, 3.0))
    far = straight.geometry.to_patient(np.array(array.shape) - 1)
    turned = Volume(
        array[::-1, ::-1, ::-1],
        Geometry(array.shape, (3.0, 0.5, 0.7), tuple(far), tuple(-np.array(straight.geometry.direction))),
    )
    assert measure.feret_in_plane(turned).mm == pytest.approx(measure.feret_in_plane(straight).mm)
    assert measure.feret_3d(turned).mm == pytest.approx(measure.feret_3d(straight).mm)
    assert measure.volume_ml(turned) == pytest.approx(measure.volume_ml(straight))


@pytest.mark.parametrize(
    ("degrees", "plane"),
    [((0, 0, 0), "axial"), ((20, 10, 0), "axial"), ((90, 0, 0), "coronal"), ((0, 90, 0), "sagittal")],
)
def test_the_plane_is_named_by_the_slices_normal(degrees, plane):
    mask = volume(np.ones((2, 3, 3), bool), (3.0, 0.5, 0.5), degrees)
    assert measure.slice_plane(mask.geometry) == plane
    assert measure.feret_in_plane(mask).plane == f"{plane}, in-plane"


def test_volume_counts_voxels():
    array = np.zeros((4, 4, 4), np.uint8)
    array[1:3, :, :] = 7
    assert measure.volume_ml(volume(array, (3.0, 0.5, 2.0))) == pytest.approx(32 * 3 / 1000)
    assert measure.volume_ml(volume(np.zeros((2, 2, 2), bool))) == 0


@pytest.mark.parametrize(
    ("mm", "near"), [(13.99, False), (14.0, True), (28 * 0.1 * 5, True), (15.0, True), (16.0, True), (16.01, False)]
)
def test_near_threshold_includes_both_ends(mm, near):
    assert measure.near_threshold(mm) is near


@pytest.mark.parametrize("function", [measure.feret_in_plane, measure.feret_3d])
def test_an_empty_mask_and_a_probability_map_are_refused_by_name(function):
    with pytest.raises(ValueError, match=r"test mask: the mask is empty"):
        function(volume(np.zeros((2, 2, 2), bool)))
    with pytest.raises(ValueError, match=r"test mask: expected a bool or integer mask, got float32; threshold"):
        function(volume(np.ones((2, 2, 2), np.float32)))


# ---------------------------------------------------------------------------------------------------------- contact


def test_contact_with_a_straight_border_is_its_length():
    gland = np.zeros((3, 40, 40), np.uint8)
    gland[:, 5:30, 5:35] = measure.PZ
    lesion = np.zeros(gland.shape, bool)
    lesion[1, 24:30, 10:20] = True
    lesion[2, 28:30, 10:14] = True
    spacing = (3.0, 0.5, 0.5)
    assert measure.capsule_contact(volume(lesion, spacing), volume(gland, spacing)) == pytest.approx(5.0, abs=0.5)


@settings(max_examples=20, deadline=None)
@given(st.floats(30, 120), st.floats(-180, 180), angles, flips)
def test_contact_with_a_round_gland_is_the_arc(opening, turn, degrees, flip):
    pitch, radius = 0.5, 20.0
    y, x = np.mgrid[-45:46, -45:46] * pitch
    r, angle = np.hypot(x, y), np.degrees(np.arctan2(y, x))
    gland = (r <= radius)[None].astype(np.uint8)
    off = np.abs((angle - turn + 180) % 360 - 180)
    lesion = ((r <= radius) & (r > 12) & (off <= opening / 2))[None]
    found = measure.capsule_contact(
        volume(lesion, (3.0, pitch, pitch), degrees, flip), volume(gland, (3.0, pitch, pitch), degrees, flip)
    )
    arc = math.radians(opening) * radius
    assert 0.97 * arc - pitch <= found <= 1.09 * arc + 2 * pitch


def test_no_contact_from_inside_and_contact_where_the_lesion_crosses():
    gland = np.zeros((1, 30, 30), np.uint8)
    gland[0, 5:25, 5:25] = measure.TZ
    inner = np.zeros(gland.shape, bool)
    inner[0, 10:15, 10:15] = True
    assert measure.capsule_contact(volume(inner), volume(gland)) == 0
    crossing = np.zeros(gland.shape, bool)
    crossing[0, 20:28, 10:18] = True
    assert measure.capsule_contact(volume(crossing), volume(gland)) == pytest.approx(8, abs=1)


def test_contact_reads_the_gland_from_another_grid_and_at_the_edge_of_the_image():
    gland = np.zeros((1, 60, 60), np.uint8)
    gland[0, 20:40, 20:40] = measure.PZ
    lesion = np.ones((1, 4, 8), bool)  # fills its own small grid, whose lower rows lie on the gland's border
    small = volume(lesion, origin=(25.0, 36.0, 0.0))
    assert measure.capsule_contact(small, volume(gland)) == pytest.approx(8, abs=1)
