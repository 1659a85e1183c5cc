"""Property tests of the one coordinate convention, and the agreement with ITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from MedRationaleLogic.imaging.volume import Geometry, Volume

coordinate = st.floats(-300, 300)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Oblique, flipped and anisotropic grids."""
    shape = draw(st.tuples(*[st.integers(1, 12)] * 3))
    spacing = draw(st.tuples(st.floats(0.5, 6), st.floats(0.2, 3), st.floats(0.2, 3)))
    origin = draw(st.tuples(coordinate, coordinate, coordinate))
    # steps of a tenth of a degree: ITK inverts a matrix with cosines near 1e-310 to NaN, and no scanner writes one
    angles = [a / 10 for a in draw(st.tuples(*[st.integers(-1800, 1800)] * 3))]
    flips = draw(st.tuples(*[st.sampled_from((1.0, -1.0))] * 3))
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * np.asarray(flips)
    return Geometry(shape, spacing, origin, tuple(matrix.ravel()))


@pytest.mark.parametrize("origin", [(0.0, float("nan"), 0.0), (float("inf"), 0.0, 0.0), (0.0, 0.0)])
def test_a_place_is_three_finite_numbers(origin):
    with pytest.raises(ValueError, match="origin must be three finite millimetre values"):
        Geometry((4, 5, 6), (3.0, 1.0, 1.0), origin)


@given(geometries(), st.tuples(*[st.floats(-20, 20)] * 3))
def test_index_to_patient_and_back(geometry: Geometry, index):
    np.testing.assert_allclose(geometry.to_index(geometry.to_patient(index)), index, atol=1e-6)


@given(geometries(), st.data())
def test_every_voxel_finds_itself_again(geometry: Geometry, data: st.DataObject):
    index = tuple(data.draw(st.integers(0, n - 1)) for n in geometry.shape)
    assert tuple(np.rint(geometry.to_index(geometry.to_patient(index))).astype(int)) == index


@given(geometries(), st.tuples(*[st.integers(0, 30)] * 3))
def test_itk_agrees_about_every_point(geometry: Geometry, index):
    image = sitk.Image([int(n) for n in geometry.shape[::-1]], sitk.sitkUInt8)
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    expected = image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])
    np.testing.assert_allclose(geometry.to_patient(index), expected, atol=1e-6)
    back = image.TransformPhysicalPointToContinuousIndex(geometry.to_patient(index).tolist())
    np.testing.assert_allclose(back[::-1], geometry.to_index(geometry.to_patient(index)), atol=1e-6)


@given(geometries())
def test_through_itk_and_back_unchanged(geometry: Geometry):
    array = np.arange(np.prod(geometry.shape), dtype=np.int16).reshape(geometry.shape)
    back = Volume.from_sitk(Volume(array, geometry).to_sitk())
    np.testing.assert_array_equal(back.array, array)
    assert back.geometry.almost_equal(geometry, 1e-6)
    assert Geometry.from_dict(geometry.to_dict()) == geometry


@settings(max_examples=40)
@given(geometries(), st.booleans())
def test_resampling_onto_the_own_grid_changes_nothing(geometry: Geometry, nearest: bool):
    array = np.random.default_rng(1).integers(0, 500, geometry.shape).astype(np.float32)
    volume = Volume(array, geometry)
    assert volume.resample(geometry) is volume
    # A grid that is equal but not identical takes the long way through ITK: the origin is off by a nanometre.
    x, y, z = geometry.origin
    twin = Geometry(geometry.shape, geometry.spacing, (x + 1e-6, y, z), geometry.direction)
    if nearest:
        np.testing.assert_array_equal(volume.resample(twin, nearest=True, outside=-1).array, array)
    else:
        np.testing.assert_allclose(volume.resample(twin, outside=float(array.mean())).array, array, atol=0.05)


@settings(max_examples=40)
@given(geometries(), st.data())
def test_one_marked_voxel_lands_where_the_patient_says(geometry: Geometry, data: st.DataObject):
    """A mask put on a flipped copy of the grid marks the same place of the patient."""
    index = tuple(data.draw(st.integers(0, n - 1)) for n in geometry.shape)
    mask = np.zeros(geometry.shape, dtype=bool)
    mask[index] = True
    matrix = np.asarray(geometry.direction).reshape(3, 3) * (-1, -1, -1)
    last = geometry.to_patient(np.asarray(geometry.shape) - 1)
    flipped = Geometry(geometry.shape, geometry.spacing, tuple(last), tuple(matrix.ravel()))
    moved = Volume(mask, geometry).resample(flipped, nearest=True)
    found = np.argwhere(moved.array)
    assert len(found) == 1
    np.testing.assert_allclose(flipped.to_patient(found[0]), geometry.to_patient(index), atol=1e-4)


@settings(max_examples=60)
@given(geometries(), geometries(), st.tuples(*[st.floats(-15, 15)] * 3))
def test_resampling_gives_what_itk_gives_on_the_whole_grid(field: Geometry, grid: Geometry, offset):
    """However small the part of the grid is that the field covers, and where they do not meet at all."""
    grid = grid.centered_on(field.center + offset, grid.shape, grid.spacing)
    array = np.random.default_rng(2).uniform(1, 500, field.shape).astype(np.float32)
    moved = Volume(array, field).resample(grid, outside=-7.0)
    x, y, z = grid.shape[::-1]
    whole = sitk.Resample(
        Volume(array, field).to_sitk(), (x, y, z), sitk.Transform(), sitk.sitkLinear, grid.origin,
        grid.spacing[::-1], grid.direction, -7.0, sitk.sitkFloat32,
    )  # fmt: skip
    index = field.to_index(grid.to_patient(np.moveaxis(np.indices(grid.shape), 0, -1)))
    edge = np.minimum(np.abs(index + 0.5), np.abs(index - (np.asarray(field.shape) - 0.5))).min(-1)
    clear = edge > 1e-6  # on the very edge the last bit decides
    np.testing.assert_allclose(moved.array[clear], sitk.GetArrayFromImage(whole)[clear], atol=0.05)
    outside = np.ones(grid.shape, bool)
    outside[grid.box_of(field)] = False
    inside = np.all((index > -0.5) & (index < np.asarray(field.shape) - 0.5), axis=-1)
    assert not (outside & inside).any()


@given(geometries(), st.data())
def test_a_part_of_a_grid_lies_where_it_lay(geometry: Geometry, data: st.DataObject):
    low = [data.draw(st.integers(0, n - 1)) for n in geometry.shape]
    high = [data.draw(st.integers(a + 1, n)) for a, n in zip(low, geometry.shape, strict=True)]
    part = geometry.part(low, high)
    assert part.shape == tuple(b - a for a, b in zip(low, high, strict=True))
    last = np.asarray(high) - 1
    np.testing.assert_allclose(part.to_patient(last - low), geometry.to_patient(last), atol=1e-6)


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), max_size=4))
def test_the_occupied_box_holds_every_voxel_and_no_empty_border(places):
    array = np.zeros((6, 6, 6), np.uint8)
    for place in places:
        array[place] = 3
    box = Volume(array, Geometry((6, 6, 6), (1, 1, 1))).occupied
    assert (box is None) == (not places)
    if box is not None:
        assert (array[box] > 0).sum() == (array > 0).sum()
        assert all(array[box].take(k, axis).any() for axis in range(3) for k in (0, -1))
