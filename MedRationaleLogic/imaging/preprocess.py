"""From a study's volumes to the network's grids and back, always through patient space.

Each sequence is prepared from itself alone: its crop and its normalisation never look at another sequence. That is what
makes a sequence's evidence independent of the others, to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from MedRationaleLogic.imaging.volume import Geometry, Volume

#: Side (mm) of the central box whose median scales the high-b image; it lies in the prostate.
_CENTRAL_MM = (30.0, 40.0, 40.0)
#: Share of a voxel within which a point counts as lying on the field of view's edge.
_EDGE = 1e-5


def axial_geometry(geometry: Geometry) -> Geometry:
    """The same voxels with axes turned so that x grows to Left, y to Posterior and z to Superior, as far as they can.

    Axes are permuted and flipped, never rotated: an oblique scan stays oblique, so no value is interpolated. The
    network was trained on this orientation. Raises nothing; shape and spacing follow the axes.
    """
    columns = np.asarray(geometry.direction).reshape(3, 3)
    order = _axis_for(columns)
    new_columns = np.empty((3, 3))
    index = np.zeros(3)  # index (x, y, z) of the voxel that becomes (0, 0, 0)
    sizes, spacings = geometry.shape[::-1], geometry.spacing[::-1]
    shape, spacing = [0] * 3, [0.0] * 3
    for patient_axis, axis in enumerate(order):
        positive = columns[patient_axis, axis] >= 0
        new_columns[:, patient_axis] = columns[:, axis] if positive else -columns[:, axis]
        index[axis] = 0 if positive else sizes[axis] - 1
        shape[patient_axis], spacing[patient_axis] = sizes[axis], spacings[axis]
    origin = geometry.to_patient(index[::-1])
    return Geometry(
        (shape[2], shape[1], shape[0]),
        (spacing[2], spacing[1], spacing[0]),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        tuple(new_columns.ravel()),
    )


def reorient(volume: Volume) -> Volume:
    """The same voxels on :func:`axial_geometry`: axes are permuted and flipped, no value is touched."""
    columns = np.asarray(volume.geometry.direction).reshape(3, 3)
    order = _axis_for(columns)
    array = volume.array.transpose([2 - axis for axis in order[::-1]])
    flips = [columns[patient_axis, axis] < 0 for patient_axis, axis in enumerate(order)]
    array = array[tuple(slice(None, None, -1 if flip else 1) for flip in flips[::-1])]
    return Volume(array, axial_geometry(volume.geometry), volume.name, volume.metadata)


def axial_axis(geometry: Geometry) -> int:
    """The array axis (0, 1 or 2 of (z, y, x)) that runs along the patient, as far as one does: 0 in an axial scan."""
    return 2 - _axis_for(np.asarray(geometry.direction).reshape(3, 3))[2]


def _axis_for(columns: NDArray[np.float64]) -> tuple[int, int, int]:
    """Which index axis runs along patient x, y and z: the assignment with the largest total alignment."""
    from itertools import permutations

    best = max(permutations(range(3)), key=lambda p: sum(abs(columns[i, p[i]]) for i in range(3)))
    return best[0], best[1], best[2]


def sample(volume: Volume, grid: Geometry) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values of a volume on a model grid (linear; smoothed first where the grid is coarser) and where it has voxels.

    Returns:
        float32 and bool arrays of the grid's shape, (z, y, x); 0 and False outside the volume's field of view.
    """
    import SimpleITK as sitk

    source = reorient(volume)
    ratio = [g / s for g, s in zip(grid.spacing, source.geometry.spacing, strict=True)]
    if max(ratio[1:]) > 1.5:
        # averaging before thinning out, or fine texture would alias into the coarse grid
        sigma = 0.4 * max(ratio[1:]) * min(source.geometry.spacing[1:])
        image = sitk.Cast(source.to_sitk(), sitk.sitkFloat32)
        for in_plane in (0, 1):  # never across slices, so that a stack of three can be read
            image = sitk.RecursiveGaussian(image, sigma, direction=in_plane)
        source = Volume.from_sitk(image)
    valid = inside(volume.geometry, grid)
    return np.where(valid, source.resample(grid, outside=0.0).array, 0.0).astype(np.float32), valid


def inside(field: Geometry, grid: Geometry) -> NDArray[np.bool_]:
    """Which voxels of ``grid`` lie within ``field`` (half a voxel beyond its outer centres), bool (z, y, x)."""
    # an affine map of a separable grid: index = base + z*step_z + y*step_y + x*step_x, one axis at a time
    matrix = field.inverse_affine[:3, :3] @ grid.affine[:3, :3]
    base = field.to_index(grid.origin)
    steps = [np.arange(n) for n in grid.shape]
    result = np.ones(grid.shape, bool)
    for axis, size in enumerate(field.shape):
        position = (
            base[axis]
            + matrix[axis, 0] * steps[0][:, None, None]
            + matrix[axis, 1] * steps[1][None, :, None]
            + matrix[axis, 2] * steps[2][None, None, :]
        )
        # a point on the very edge is out, whatever the last bit of a tilted grid says
        result &= (position > -0.5 + _EDGE) & (position < size - 0.5 - _EDGE)
    return result


def normalise(
    sequence: str, values: NDArray[Any], valid: NDArray[np.bool_] | None, spacing: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Values as the network expects them, (z, y, x) float32; voxels outside the field of view become 0.

    T2W by its own 1st and 99th percentile, ADC in physical units (input 1e-6 mm2/s), high-b by the median of its own
    central box, log-compressed. A constant image becomes 0 everywhere.

    Raises:
        ValueError: the sequence is none of t2w, adc, hbv.
    """
    x = np.asarray(values, dtype=np.float32)
    known = np.ones(x.shape, bool) if valid is None else valid
    if not known.any():
        return np.zeros(x.shape, np.float32)
    if sequence == "t2w":
        low, high = np.percentile(x[known], (1.0, 99.0))
        if high <= low:
            return np.zeros(x.shape, np.float32)
        out = (np.clip((x - low) / (high - low), -0.2, 1.6) - 0.4) / 0.3
    elif sequence == "adc":
        out = np.clip(x / 1000.0, 0.0, 3.5) - 1.2
    elif sequence == "hbv":
        box = tuple(
            slice(max(0, int((n - mm / s) / 2)), min(n, int(np.ceil((n + mm / s) / 2))))
            for n, s, mm in zip(x.shape, spacing, _CENTRAL_MM, strict=True)
        )
        center = x[box][known[box] & (x[box] > 0)]
        scale = float(np.median(center)) if center.size else float(np.abs(x[known]).max())
        if scale <= 0:
            return np.zeros(x.shape, np.float32)
        out = (np.log1p(np.clip(x / scale, 0.0, 12.0)) - 0.7) / 0.5
    else:
        raise ValueError(f"unknown sequence {sequence!r}; expected t2w, adc or hbv")
    return np.where(known, out, 0.0).astype(np.float32)
