"""From volumes to the network's grids: orientation, sampling, normalisation."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.spatial.transform import Rotation

from MedRationaleLogic.imaging.preprocess import axial_axis, axial_geometry, inside, normalise, reorient, sample
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.model.grids import COARSE, FINE
from Testing.study_factory import direction, grid, paint, stored_otherwise

PLAIN = (1.0, 1.0, 1.0)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any orientation: turned about all axes by any angle, mirrored or not, anisotropic, anywhere."""
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    axes = axes * np.asarray(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.3, 6.0)] * 3))
    origin = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return Geometry(shape, spacing, origin, tuple(axes.ravel()))


def points(geometry: Geometry) -> set[tuple[float, ...]]:
    at = geometry.to_patient(np.moveaxis(np.indices(geometry.shape), 0, -1).reshape(-1, 3))
    return {tuple(p) for p in np.round(at, 4) + 0.0}


def numbered(geometry: Geometry) -> Volume:
    return Volume(np.arange(math.prod(geometry.shape), dtype=np.float32).reshape(geometry.shape), geometry, "numbered")


# -- orientation -------------------------------------------------------------------------------------------------------


@given(geometry=geometries())
@settings(max_examples=100, deadline=None)
def test_axial_axes_are_the_same_voxels(geometry: Geometry) -> None:
    axial = axial_geometry(geometry)
    there = geometry.to_patient(np.moveaxis(np.indices(geometry.shape), 0, -1).reshape(-1, 3))
    back = axial.to_index(there)

    assert np.allclose(back, np.round(back), atol=1e-4)
    assert {tuple(i) for i in np.round(back).astype(int)} == set(np.ndindex(*axial.shape))
    assert sorted(axial.shape) == sorted(geometry.shape)
    assert axial.voxel_volume == pytest.approx(geometry.voxel_volume)


@given(geometry=geometries())
@settings(max_examples=100, deadline=None)
def test_axial_axes_point_left_posterior_and_superior(geometry: Geometry) -> None:
    """Each axis goes the right way, and no other pairing of axes would lie nearer to the patient's."""
    axes = np.asarray(axial_geometry(geometry).direction).reshape(3, 3)
    given_axes = np.asarray(geometry.direction).reshape(3, 3)

    assert (np.diag(axes) >= 0).all()
    best = max(
        sum(abs(given_axes[i, p[i]]) for i in range(3))
        for p in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    )
    assert np.trace(axes) == pytest.approx(best)
    again = axial_geometry(axial_geometry(geometry))
    assert again.almost_equal(axial_geometry(geometry), 1e-6)


@given(geometry=geometries())
@settings(max_examples=60, deadline=None)
def test_reoriented_values_stay_at_their_points(geometry: Geometry) -> None:
    volume = numbered(geometry)
    turned = reorient(volume)
    index = np.round(turned.geometry.to_index(geometry.to_patient(np.argwhere(volume.array >= 0)))).astype(int)

    assert np.array_equal(turned.array[tuple(index.T)], volume.array.reshape(-1))
    assert turned.geometry == axial_geometry(geometry)


@pytest.mark.parametrize(
    ("order", "flips"),
    [((0, 1, 2), (False,) * 3), ((0, 1, 2), (True, False, True)), ((2, 1, 0), (False, True, False)),
     ((1, 2, 0), (True, True, True))],
)  # fmt: skip
def test_reorienting_undoes_any_storage_to_the_bit(order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> None:
    volume = paint("t2w", grid((5, 12, 14), (3.0, 0.5, 0.75)))
    turned = reorient(stored_otherwise(volume, order, flips))

    assert turned.geometry == volume.geometry
    assert np.array_equal(turned.array, volume.array)
    stored = stored_otherwise(volume, order, flips).geometry
    assert stored.shape[axial_axis(stored)] == 5


def test_an_axial_scan_is_left_as_it_is() -> None:
    oblique = grid((5, 12, 14), (3.0, 0.5, 0.75), (12.0, -8.0, 20.0))

    assert axial_geometry(oblique).almost_equal(oblique, 1e-9)
    assert axial_axis(oblique) == 0


# -- sampling ----------------------------------------------------------------------------------------------------------


@given(geometry=geometries(), angles=st.tuples(*[st.floats(-30, 30)] * 3))
@settings(max_examples=60, deadline=None)
def test_inside_is_what_lies_in_the_field_of_view(geometry: Geometry, angles: tuple[float, float, float]) -> None:
    model = Geometry((6, 7, 8), (3.0, 2.0, 2.5), (0.0, 0.0, 0.0), direction(angles)).centered_on(
        geometry.center, (6, 7, 8), (3.0, 2.0, 2.5)
    )
    index = geometry.to_index(model.to_patient(np.moveaxis(np.indices(model.shape), 0, -1)))
    edge = np.minimum(index + 0.5, np.asarray(geometry.shape) - 0.5 - index).min(-1)
    result = inside(geometry, model)

    assert result[edge > 1e-4].all()
    assert not result[edge < -1e-4].any()


def test_a_point_on_the_edge_is_out_whatever_the_orientation() -> None:
    """A field of 44 x 2.25 mm ends exactly on a plane of a 3 mm grid: rounding must not decide."""
    for angles in ((0.0, 0.0, 0.0), (8.0, -6.0, 4.0), (-21.0, 13.0, 33.0)):
        field = grid((12, 44, 44), (3.5, 2.25, 2.25), angles)
        model = field.centered_on(field.center, COARSE.shape, COARSE.spacing)
        mirrored = stored_otherwise(Volume(np.zeros(field.shape, np.uint8), field), (0, 1, 2), (True, True, True))
        count = [int(inside(g, model).sum()) for g in (field, mirrored.geometry)]

        assert count == [14 * 32 * 32] * 2


def test_sampling_finds_a_voxel_where_it_lies() -> None:
    for angles in ((0.0, 0.0, 0.0), (11.0, -7.0, 15.0)):
        source = grid((9, 40, 44), (3.2, 1.1, 0.9), angles)
        array = np.zeros(source.shape, np.float32)
        array[4, 25, 12] = 1000.0
        model = source.centered_on(source.center, (24, 80, 80), (1.5, 0.5, 0.5))
        values, valid = sample(Volume(array, source), model)
        peak = np.unravel_index(int(values.argmax()), values.shape)
        far = np.abs(source.to_index(model.to_patient(peak)) - (4, 25, 12))

        assert values.dtype == np.float32
        assert valid.dtype == bool
        assert (far <= 0.51).all()


def test_values_outside_the_field_of_view_are_zero() -> None:
    volume = paint("adc", grid((6, 30, 30), (3.5, 2.0, 2.0), (9.0, 4.0, -6.0)))
    shifted = volume.geometry.centered_on(volume.geometry.center + np.array([25.0, 0.0, 8.0]), FINE.shape, FINE.spacing)
    for model in (shifted, volume.geometry.centered_on(volume.geometry.center, COARSE.shape, COARSE.spacing)):
        values, valid = sample(volume, model)
        assert 0 < valid.sum() < valid.size
        assert (values[~valid] == 0).all()
        assert (values[valid] > 0).all()


def test_a_coarser_grid_sees_means_not_single_pixels() -> None:
    """A checkerboard of the finest pitch has no texture at 3 mm; unsmoothed it would alias into one."""
    geometry = grid((8, 96, 96), (3.0, 0.75, 0.75))
    _, y, x = np.indices(geometry.shape)
    volume = Volume(((y + x) % 2 * 1000).astype(np.int16), geometry)
    model = geometry.centered_on(geometry.center, (6, 16, 16), (3.0, 3.0, 3.0))
    values, valid = sample(volume, model)

    assert valid.all()
    assert values == pytest.approx(500.0, abs=30.0)


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_a_few_slices_are_enough(slices: int) -> None:
    volume = paint("t2w", grid((slices, 96, 96), (3.0, 0.75, 0.75)))
    # an even number of slices in the grid, so that it is moved by half a slice to meet an odd number of them
    middle = volume.geometry.center + np.array([0.0, 0.0, 1.5 * (slices % 2)])
    values, valid = sample(volume, volume.geometry.centered_on(middle, COARSE.shape, COARSE.spacing))

    assert valid.any((1, 2)).sum() == slices
    assert (values[valid] > 0).all()


@pytest.mark.parametrize("spacing", [FINE.spacing, COARSE.spacing], ids=["finer", "coarser"])
def test_sampling_does_not_depend_on_how_the_voxels_are_stored(spacing: tuple[float, float, float]) -> None:
    volume = paint("t2w", grid((12, 96, 96), (3.0, 1.0, 1.0)))
    model = volume.geometry.centered_on(volume.geometry.center + np.array([3.0, 1.0, -2.0]), (12, 30, 30), spacing)
    before = sample(volume, model)
    for order, flips in (((0, 1, 2), (True, True, False)), ((2, 0, 1), (False, True, True))):
        after = sample(stored_otherwise(volume, order, flips), model)
        assert after[0].tobytes() == before[0].tobytes()
        assert np.array_equal(after[1], before[1])


# -- normalisation -----------------------------------------------------------------------------------------------------


def noise(shape: tuple[int, int, int] = (12, 40, 40), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(3.0, 100.0, shape).astype(np.float32)


@given(gain=st.floats(0.01, 1000.0), shift=st.floats(-500.0, 500.0))
@settings(max_examples=30, deadline=None)
def test_t2w_has_no_unit(gain: float, shift: float) -> None:
    x = noise()

    assert normalise("t2w", x * gain + shift, None, PLAIN) == pytest.approx(normalise("t2w", x, None, PLAIN), abs=0.02)


@given(gain=st.floats(0.01, 1000.0))
@settings(max_examples=30, deadline=None)
def test_high_b_has_no_unit(gain: float) -> None:
    x = noise()

    assert normalise("hbv", x * gain, None, PLAIN) == pytest.approx(normalise("hbv", x, None, PLAIN), abs=1e-3)


def test_adc_keeps_its_unit() -> None:
    x = np.array([0.0, 600.0, 1200.0, 3500.0, 9000.0], np.float32).reshape(1, 1, 5)

    assert normalise("adc", x, None, PLAIN).ravel() == pytest.approx([-1.2, -0.6, 0.0, 2.3, 2.3])


def test_t2w_percentiles_are_pinned() -> None:
    """1st percentile to -4/3, 99th to 2, clipped at -2 and 4: what the network was trained on."""
    x = np.arange(10_001, dtype=np.float32).reshape(1, 73, 137)
    out = normalise("t2w", x, None, PLAIN)

    assert out.ravel()[[100, 9900]] == pytest.approx([-0.4 / 0.3, 0.6 / 0.3], abs=1e-4)
    x[0, 0, :2] = -9e9, 9e9
    wild = normalise("t2w", x, None, PLAIN)
    assert (wild.min(), wild.max()) == pytest.approx((-0.6 / 0.3, 1.2 / 0.3), abs=1e-5)


def test_high_b_is_scaled_by_its_own_middle() -> None:
    """The median of the central 30 x 40 x 40 mm maps to (log 2 - .7) / .5, whatever lies around."""
    x = np.full((10, 60, 60), 5000.0, np.float32)
    x[:, 10:50, 10:50] = 80.0
    out = normalise("hbv", x, None, (3.0, 1.0, 1.0))

    assert out[5, 30, 30] == pytest.approx((math.log(2.0) - 0.7) / 0.5, abs=1e-5)


@pytest.mark.parametrize("sequence", ["t2w", "adc", "hbv"])
def test_what_is_not_known_is_zero_and_does_not_count(sequence: str) -> None:
    x, valid = noise(), np.zeros((12, 40, 40), dtype=bool)
    valid[2:9, 5:35, 8:30] = True
    wild = np.where(valid, x, 1e6)
    out = normalise(sequence, x, valid, PLAIN)

    assert out.dtype == np.float32
    assert (out[~valid] == 0).all()
    assert np.array_equal(normalise(sequence, wild, valid, PLAIN), out)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("sequence", ["t2w", "hbv"])
def test_a_constant_or_unknown_image_says_nothing(sequence: str) -> None:
    level = 0.0 if sequence == "hbv" else 300.0
    x = np.full((6, 10, 10), level, np.float32)

    assert not normalise(sequence, x, None, PLAIN).any()
    assert not normalise(sequence, noise((6, 10, 10)), np.zeros((6, 10, 10), dtype=bool), PLAIN).any()


def test_an_unknown_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown sequence 'dce'; expected t2w, adc or hbv"):
        normalise("dce", noise(), None, PLAIN)
