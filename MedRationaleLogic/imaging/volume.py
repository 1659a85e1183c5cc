"""An image in the patient: an array with its place, and the one coordinate convention of this project.

**The convention, stated once.** An array has axes ``(z, y, x)`` (slice, row, column), C order. An *index* is a triple
in that same order and may be fractional; the centre of the first voxel is ``(0, 0, 0)``. A *patient point* is
``(x, y, z)`` in millimetres in the DICOM patient frame **LPS** (x grows to the patient's Left, y to Posterior, z to
Superior), which is also SimpleITK's and ITK's frame. Slicer works in RAS: only ``mrml/`` converts. Spacings and shapes
are ``(z, y, x)``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import SimpleITK as sitk

Shape = tuple[int, int, int]
Triple = tuple[float, float, float]


def orthonormal(matrix: NDArray[np.float64]) -> bool:
    """Whether the columns of a 3x3 matrix are unit vectors at right angles, within 1e-3."""
    return bool(np.allclose(matrix.T @ matrix, np.eye(3), atol=1e-3))


def trace_image(arrays: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """The trace-weighted diffusion image: the geometric mean of images of one b-value and shape (z, y, x)."""
    logs = [np.log(np.maximum(array.astype(np.float32), 1e-3)) for array in arrays]
    return np.exp(np.mean(logs, axis=0)).astype(np.float32)


@dataclass(frozen=True)
class Geometry:
    """The place of a (z, y, x) grid in the patient.

    Attributes:
        shape: voxels along (z, y, x).
        spacing: millimetres along (z, y, x), positive.
        origin: patient point (LPS, mm) of the centre of voxel (0, 0, 0).
        direction: nine numbers, row-major 3x3; its *columns* are the unit LPS vectors of the x, y and z index axes,
            exactly as ``SimpleITK.Image.GetDirection()`` gives them.

    Raises:
        ValueError: a size or spacing is not positive, the origin is not finite, or the direction is not orthonormal
            within 1e-3.
    """

    shape: Shape
    spacing: Triple
    origin: Triple = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a volume needs three axes of at least one voxel, got shape {self.shape}")
        if len(self.spacing) != 3 or not all(np.isfinite(self.spacing)) or min(self.spacing) <= 0:
            raise ValueError(f"voxel spacing must be three positive millimetre values, got {self.spacing}")
        if len(self.origin) != 3 or not all(np.isfinite(self.origin)):
            raise ValueError(f"the origin must be three finite millimetre values, got {self.origin}")
        matrix = np.asarray(self.direction, dtype=float).reshape(3, 3)
        if not orthonormal(matrix):
            raise ValueError(f"direction cosines are not orthonormal: {self.direction}")
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "spacing", tuple(float(s) for s in self.spacing))
        object.__setattr__(self, "origin", tuple(float(o) for o in self.origin))
        object.__setattr__(self, "direction", tuple(float(d) for d in matrix.ravel()))

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """4x4 matrix that takes a homogeneous index (z, y, x, 1) to a patient point (x, y, z, 1), LPS mm."""
        columns = np.asarray(self.direction, dtype=float).reshape(3, 3) * np.asarray(self.spacing[::-1])
        matrix = np.eye(4)
        matrix[:3, :3] = columns[:, ::-1]  # columns come as x, y, z; an index is z, y, x
        matrix[:3, 3] = self.origin
        return matrix

    @cached_property
    def inverse_affine(self) -> NDArray[np.float64]:
        """4x4 matrix that takes a patient point (x, y, z, 1), LPS mm, to an index (z, y, x, 1)."""
        return np.asarray(np.linalg.inv(self.affine), dtype=np.float64)

    def to_patient(self, index: ArrayLike) -> NDArray[np.float64]:
        """Indices (..., 3) as (z, y, x) to patient points (..., 3), LPS mm."""
        return np.asarray(index, dtype=float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, point: ArrayLike) -> NDArray[np.float64]:
        """Patient points (..., 3), LPS mm, to fractional indices (..., 3) as (z, y, x)."""
        return np.asarray(point, dtype=float) @ self.inverse_affine[:3, :3].T + self.inverse_affine[:3, 3]

    @property
    def center(self) -> NDArray[np.float64]:
        """Patient point (LPS, mm) of the middle of the grid."""
        return self.to_patient((np.asarray(self.shape) - 1) / 2)

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in cubic millimetres."""
        return float(np.prod(self.spacing))

    @property
    def extent(self) -> Triple:
        """Field of view (z, y, x) in millimetres, outer voxel edges included."""
        z, y, x = (n * s for n, s in zip(self.shape, self.spacing, strict=True))
        return (z, y, x)

    def almost_equal(self, other: Geometry, tolerance: float = 1e-2) -> bool:
        """Whether both grids have the same shape and all corners agree within ``tolerance`` millimetres."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1).T
        return bool(np.abs(self.to_patient(corners) - other.to_patient(corners)).max() <= tolerance)

    def centered_on(self, point: ArrayLike, shape: Shape, spacing: Triple) -> Geometry:
        """A grid of the same orientation whose middle is ``point`` (LPS, mm), with its own shape and spacing."""
        grid = Geometry(shape, spacing, (0.0, 0.0, 0.0), self.direction)
        origin = np.asarray(point, dtype=float) - grid.center
        return replace(grid, origin=(float(origin[0]), float(origin[1]), float(origin[2])))

    def part(self, low: Sequence[int], high: Sequence[int]) -> Geometry:
        """The box of this grid from index ``low`` (z, y, x) up to, without, ``high``.

        Raises:
            ValueError: the box is empty.
        """
        z, y, x = (int(b) - int(a) for a, b in zip(low, high, strict=True))
        ox, oy, oz = (float(v) for v in self.to_patient(low))
        return replace(self, shape=(z, y, x), origin=(ox, oy, oz))

    def box_of(self, other: Geometry) -> tuple[slice, slice, slice]:
        """The box of this grid outside of which ``other`` has no voxel: its corners, and one voxel more on each side.

        Empty (a slice of no length) where the two do not meet.
        """
        corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in other.shape], indexing="ij")).reshape(3, -1).T
        index = self.to_index(other.to_patient(corners))
        low = np.clip(np.floor(index.min(0)) - 1, 0, self.shape).astype(int)
        high = np.clip(np.ceil(index.max(0)) + 2, low, self.shape).astype(int)
        z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return z, y, x

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; :meth:`from_dict` reads them back unchanged."""
        return {
            "shape_zyx": list(self.shape),
            "spacing_zyx_mm": list(self.spacing),
            "origin_lps_mm": list(self.origin),
            "direction_columns_xyz": list(self.direction),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Geometry:
        """The inverse of :meth:`to_dict`."""
        z, y, x = data["shape_zyx"]
        sz, sy, sx = data["spacing_zyx_mm"]
        ox, oy, oz = data["origin_lps_mm"]
        return cls((z, y, x), (sz, sy, sx), (ox, oy, oz), tuple(data["direction_columns_xyz"]))


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D array with its :class:`Geometry` and a name that a person recognises (a file or a series).

    The array is made read-only: a volume is a fact about the patient, and a changed one is another volume.

    Raises:
        ValueError: the array is not 3D or does not have the geometry's shape.
    """

    array: NDArray[Any]
    geometry: Geometry
    name: str = ""
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.ndim != 3 or array.shape != self.geometry.shape:
            raise ValueError(f"{self.name or 'volume'}: array {array.shape} does not fit grid {self.geometry.shape}")
        array = array.view()
        array.flags.writeable = False
        object.__setattr__(self, "array", array)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over voxel values (C order, with their type and shape) and geometry; what provenance records."""
        digest = hashlib.sha256()
        digest.update(f"{self.array.dtype.str}{self.geometry.to_dict()}".encode())
        digest.update(np.ascontiguousarray(self.array).tobytes())
        return digest.hexdigest()

    @cached_property
    def occupied(self) -> tuple[slice, slice, slice] | None:
        """The smallest box (z, y, x) that holds every voxel that is not 0; None where there is no such voxel."""
        box = []
        for axis in range(3):
            where = np.flatnonzero(self.array.any(axis=tuple(i for i in range(3) if i != axis)))
            if not where.size:
                return None
            box.append(slice(int(where[0]), int(where[-1]) + 1))
        return box[0], box[1], box[2]

    def with_array(self, array: NDArray[Any], name: str | None = None) -> Volume:
        """The same place with other values."""
        return Volume(array, self.geometry, self.name if name is None else name, self.metadata)

    def to_sitk(self) -> sitk.Image:
        """As a SimpleITK image (booleans become uint8)."""
        import SimpleITK as sitk

        array = self.array.astype(np.uint8) if self.array.dtype == bool else self.array
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        image = sitk.GetImageFromArray(np.ascontiguousarray(array))
        image.SetSpacing(self.geometry.spacing[::-1])
        image.SetOrigin(self.geometry.origin)
        image.SetDirection(self.geometry.direction)
        return image

    @classmethod
    def from_sitk(cls, image: sitk.Image, name: str = "", metadata: dict[str, Any] | None = None) -> Volume:
        """From a 3D scalar SimpleITK image.

        Raises:
            ValueError: the image is not 3D or has several components.
        """
        import SimpleITK as sitk

        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise ValueError(
                f"{name or 'image'}: expected a 3D scalar image, got {image.GetDimension()}D "
                f"with {image.GetNumberOfComponentsPerPixel()} components"
            )
        x, y, z = image.GetSize()
        sx, sy, sz = image.GetSpacing()
        geometry = Geometry((z, y, x), (sz, sy, sx), image.GetOrigin(), image.GetDirection())
        return cls(sitk.GetArrayFromImage(image), geometry, name, metadata or {})

    def resample(self, grid: Geometry, *, nearest: bool = False, outside: float = 0.0) -> Volume:
        """This volume on another grid, through patient space (SimpleITK; linear, or nearest for labels).

        Args:
            grid: where the values are wanted; any orientation.
            nearest: label maps and masks: nearest neighbour, data type kept. Otherwise linear in float32.
            outside: value where this volume has no voxel.
        """
        import SimpleITK as sitk

        if self.geometry == grid:
            return self
        image = self.to_sitk() if nearest else sitk.Cast(self.to_sitk(), sitk.sitkFloat32)
        array = np.full(grid.shape, outside, sitk.GetArrayViewFromImage(image).dtype)
        # a small field on a large grid: only the box where it can have a voxel is worked on
        box = grid.box_of(self.geometry)
        if all(s.start < s.stop for s in box):
            part = grid.part([s.start for s in box], [s.stop for s in box])
            z, y, x = part.shape
            resampled = sitk.Resample(
                image,
                (x, y, z),
                sitk.Transform(),
                sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
                part.origin,
                part.spacing[::-1],
                part.direction,
                outside,
                image.GetPixelID(),
            )
            array[box] = sitk.GetArrayViewFromImage(resampled)
        if self.array.dtype == bool:
            array = array.astype(bool)
        return Volume(array, grid, self.name, self.metadata)
