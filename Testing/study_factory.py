"""Small synthetic studies as volumes, without files: one anatomy, a function of the patient point, on any grid.

    study = make_study()                                       # ADC and high-b have a tilted grid of their own
    study = make_study(("adc", "hbv"))
    flipped = stored_otherwise(study.t2w, (1, 2, 0), (True, False, True))   # the same voxels, axes in another order

Nothing here knows the network: what is found in these images is not asserted anywhere, only what must hold of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from MedRationaleLogic.imaging.acquisition import Role
from MedRationaleLogic.imaging.study import InputRecord, Study
from MedRationaleLogic.imaging.volume import Geometry, Shape, Triple, Volume

CENTER = (8.0, -24.0, 16.0)
"""Patient point (LPS, mm) in the middle of the gland."""
ROLES: tuple[Role, ...] = ("t2w", "adc", "hbv")

# pelvis, gland, focus
_LEVELS: Mapping[Role, tuple[float, float, float]] = {
    "t2w": (150.0, 400.0, 180.0),
    "adc": (900.0, 1600.0, 650.0),
    "hbv": (20.0, 40.0, 110.0),
}


def direction(degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple[float, ...]:
    """Direction cosines of an axial grid turned about x, y and z."""
    return tuple(float(v) for v in Rotation.from_euler("xyz", degrees, degrees=True).as_matrix().ravel())


def grid(
    shape: Shape,
    spacing: Triple,
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
    shift: Sequence[float] = (0, 0, 0),
) -> Geometry:
    """A grid whose middle is :data:`CENTER` moved by ``shift`` (LPS, mm)."""
    cosines = tuple(float(v) for v in np.eye(3).ravel()) if degrees == (0.0, 0.0, 0.0) else direction(degrees)
    return Geometry(shape, spacing, (0.0, 0.0, 0.0), cosines).centered_on(
        np.asarray(CENTER) + np.asarray(shift, dtype=float), shape, spacing
    )


#: Exact in binary, so that flipping its axes loses no bit.
T2W_GRID = grid((12, 96, 96), (3.0, 1.0, 1.0))
DIFFUSION_GRID = grid((12, 44, 44), (3.5, 2.25, 2.25), (8.0, -6.0, 4.0), (3.0, -2.0, 1.0))


def paint(role: Role, geometry: Geometry, seed: int = 3) -> Volume:
    """A gland in a pelvis with a focus in it and a texture that repeats nowhere."""
    at = geometry.to_patient(np.moveaxis(np.indices(geometry.shape), 0, -1)) - np.asarray(CENTER)
    pelvis, gland, focus = _LEVELS[role]
    values = np.where(((at / (23.0, 17.0, 15.0)) ** 2).sum(-1) <= 1, gland, pelvis)
    values = np.where(np.linalg.norm(at - (11.0, 7.0, 0.0), axis=-1) <= 6.0, focus, values)
    draw = np.random.default_rng(seed)
    for wave in draw.normal(0.0, 0.6, (12, 3)):
        values = values * (1 + 0.05 * np.cos(at @ wave + draw.uniform(0, 6.28)))
    return Volume(values.astype(np.float32 if role == "adc" else np.int16), geometry, f"synthetic {role}")


def study_of(volumes: Mapping[Role, Volume], **more: Any) -> Study:
    """A study of these volumes."""
    inputs = tuple(InputRecord(role, v.name, None, v.sha256) for role, v in volumes.items())
    found: dict[str, Any] = dict(volumes)
    return Study(name=more.pop("name", "synthetic"), inputs=inputs, **found, **more)


def make_study(
    roles: Sequence[Role] = ROLES, *, t2w: Geometry = T2W_GRID, diffusion: Geometry = DIFFUSION_GRID, **more: Any
) -> Study:
    """T2W on its grid, ADC and high-b on theirs; any subset."""
    return study_of({role: paint(role, t2w if role == "t2w" else diffusion) for role in roles}, **more)


def with_volume(study: Study, role: Role, volume: Volume | None) -> Study:
    """The study with one sequence exchanged, or absent."""
    changed: dict[str, Any] = {role: volume}
    return replace(study, **changed)


def stored_otherwise(volume: Volume, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Volume:
    """The same voxels at the same places, stored with other axes.

    Args:
        volume: any.
        order: which old array axis becomes the first, second and third.
        flips: which of the new array axes run backwards.
    """
    old = volume.geometry
    array = volume.array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    corner = np.zeros(3)
    columns = old.affine[:3, :3] / np.asarray(old.spacing)
    for new_axis, old_axis in enumerate(order):
        if flips[new_axis]:
            corner[old_axis] = old.shape[old_axis] - 1
    axes = [columns[:, old_axis] * (-1 if flip else 1) for old_axis, flip in zip(order, flips, strict=True)]
    x, y, z = (float(v) for v in old.to_patient(corner))
    spacing = tuple(old.spacing[axis] for axis in order)
    geometry = Geometry(
        array.shape, (spacing[0], spacing[1], spacing[2]), (x, y, z), tuple(np.column_stack(axes[::-1]).ravel())
    )
    return Volume(array, geometry, volume.name)


def mask_points(mask: Volume) -> NDArray[np.float64]:
    """Patient points (n, 3) of a mask's voxels, in a fixed order, to a micrometre."""
    points = np.round(mask.geometry.to_patient(np.argwhere(mask.array)), 3) + 0.0
    return points[np.lexsort(points.T)]
