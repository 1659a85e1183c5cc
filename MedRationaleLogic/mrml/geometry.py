"""Volume nodes and :class:`~MedRationaleLogic.imaging.volume.Volume`: LPS (z, y, x) here, RAS (i, j, k) there.

A volume is where a reader sees it: transforms above a node are part of its place. The node itself is never changed by
reading it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk
from numpy.typing import ArrayLike, NDArray
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk, vtk_to_numpy

from MedRationaleLogic.imaging.volume import Geometry, Volume

__all__ = ["NodeError", "ijk_to_ras", "lps", "node_from_volume", "ras", "update_node", "volume_from_node"]

_FLIP = np.array([-1.0, -1.0, 1.0])
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_XYZ_AS_ZYX = [2, 1, 0, 3]
RIGHT_ANGLES = 1e-4
"""How far (as a cosine) axes may be from right angles before voxels are resampled; a thousandth is Geometry's limit."""
_LATTICE = 9
"""Points along each axis where a transform is looked at to find out how far the moved volume reaches."""


class NodeError(ValueError):
    """A node that cannot be used; the text names it, and says what was expected and what to do."""


def ras(points: ArrayLike) -> NDArray[np.float64]:
    """Patient points (..., 3) in LPS, mm, as RAS."""
    return np.asarray(points, dtype=float) * _FLIP


def lps(points: ArrayLike) -> NDArray[np.float64]:
    """Points (..., 3) in RAS, mm, as LPS."""
    return np.asarray(points, dtype=float) * _FLIP


def ijk_to_ras(geometry: Geometry) -> vtk.vtkMatrix4x4:
    """The matrix that takes (i, j, k) = (x, y, z index) of a grid to RAS, mm."""
    return _to_vtk(_TO_LPS @ geometry.affine[:, _XYZ_AS_ZYX])


def volume_from_node(node: Any, *, nearest: bool | None = None) -> Volume:
    """The voxels of a volume node where they lie in the world.

    Transforms above the node are applied: to the grid alone, without touching a voxel, as long as its axes stay at
    right angles (shifts, rotations, flips, scalings along the axes). Otherwise (shear, non-linear) the voxels are
    resampled onto a grid of the node's own spacing, turned as the transform turns the middle of the volume.

    Args:
        node: vtkMRMLScalarVolumeNode, label maps included; one component per voxel.
        nearest: how to resample where that is necessary; by default nearest neighbour for label maps and linear (in
            float32) for images.

    Returns:
        A copy, (z, y, x), of the node's data type, named like the node.

    Raises:
        NodeError: no image data, several components, or a transform that takes the volume nowhere sensible.
    """
    name = node.GetName() or "unnamed volume"
    image = node.GetImageData()
    if image is None or 0 in image.GetDimensions() or image.GetPointData().GetScalars() is None:
        raise NodeError(f"'{name}' has no image data; load the image again or choose another volume")
    if image.GetNumberOfScalarComponents() != 1:
        raise NodeError(
            f"'{name}' has {image.GetNumberOfScalarComponents()} components per voxel (colour or vectors); a plain "
            "greyscale volume is needed"
        )
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    if nearest is None:
        nearest = bool(node.IsA("vtkMRMLLabelMapVolumeNode"))
    return world_volume(image, matrix, node.GetParentTransformNode(), name, nearest=nearest)


def world_volume(image: Any, matrix: vtk.vtkMatrix4x4, parent: Any, name: str, *, nearest: bool) -> Volume:
    """An image with its place (IJK of its extent to local RAS) and the transform node above it, as a volume."""
    total = _to_numpy(matrix)
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            return _resampled(image, matrix, parent, name, nearest)
        above = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(above)
        total = _to_numpy(above) @ total
    spacing = np.linalg.norm(total[:3, :3], axis=0)
    if not np.isfinite(total).all() or spacing.min() <= 0 or abs(np.linalg.det(total[:3, :3])) < 1e-12:
        raise NodeError(f"'{name}' is flattened by its transform; correct the transform")
    axes = total[:3, :3] / spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > RIGHT_ANGLES:
        return _resampled(image, matrix, parent, name, nearest)
    i0, i1, j0, j1, k0, k1 = image.GetExtent()
    scalars = vtk_to_numpy(image.GetPointData().GetScalars())
    # a copy: a volume is a fact, a node's voxels change under the next tool
    array = scalars.reshape(k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1).copy()
    origin = _FLIP * (total @ (i0, j0, k0, 1))[:3]
    return Volume(array, _geometry(array.shape, spacing, origin, _FLIP[:, None] * axes), name)


def _geometry(shape: Any, spacing: ArrayLike, origin: ArrayLike, axes: NDArray[np.float64]) -> Geometry:
    """From vtk's order: spacing and axes (columns, LPS) along (x, y, z)."""
    # a matrix product leaves noise in the last digits; without it the same image always is the same volume
    sx, sy, sz = (round(float(v), 9) for v in np.asarray(spacing))
    x, y, z = (round(float(v), 9) + 0.0 for v in np.asarray(origin))
    return Geometry(tuple(shape), (sz, sy, sx), (x, y, z), tuple(round(float(v), 12) + 0.0 for v in axes.ravel()))


def _resampled(image: Any, matrix: vtk.vtkMatrix4x4, parent: Any, name: str, nearest: bool) -> Volume:
    """Voxels of a sheared or warped volume on a grid at right angles."""
    local = _to_numpy(matrix)
    to_world, from_world = vtk.vtkGeneralTransform(), vtk.vtkGeneralTransform()
    if parent is not None:
        parent.GetTransformToWorld(to_world)
        parent.GetTransformFromWorld(from_world)
    extent = np.asarray(image.GetExtent(), dtype=float).reshape(3, 2)
    lattice = np.stack(np.meshgrid(*[np.linspace(a - 0.5, b + 0.5, _LATTICE) for a, b in extent], indexing="ij"), -1)
    points = _moved(to_world, lattice.reshape(-1, 3) @ local[:3, :3].T + local[:3, 3])
    middle = extent.mean(1)
    step = np.eye(3)
    ends = np.concatenate([middle + step, middle - step]) @ local[:3, :3].T + local[:3, 3]
    moved = _moved(to_world, ends)
    jacobian = (moved[:3] - moved[3:]).T / 2
    if not np.isfinite(points).all() or not np.isfinite(jacobian).all() or abs(np.linalg.det(jacobian)) < 1e-12:
        raise NodeError(f"'{name}' is flattened or torn by its transform; correct the transform")
    spacing = np.linalg.norm(local[:3, :3], axis=0)
    u, _, v = np.linalg.svd(jacobian / spacing)
    axes = u @ v  # the nearest axes at right angles, flips kept
    reach = points @ axes
    low, high = reach.min(0), reach.max(0)
    size = np.maximum(np.ceil((high - low) / spacing - 1e-6).astype(int), 1)
    if int(size.prod()) > 20 * image.GetNumberOfPoints():
        raise NodeError(f"'{name}' is blown up by its transform; correct the transform, or harden it and crop")
    start = axes @ ((low + high) / 2 - spacing * (size - 1) / 2)
    grid = np.eye(4)
    grid[:3, :3], grid[:3, 3] = axes * spacing, start

    to_index = vtk.vtkGeneralTransform()
    to_index.PostMultiply()
    to_index.Concatenate(_to_vtk(grid))
    to_index.Concatenate(from_world)
    to_index.Concatenate(_to_vtk(np.linalg.inv(local)))
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(image)
    reslice.SetResliceTransform(to_index)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputExtent(0, int(size[0]) - 1, 0, int(size[1]) - 1, 0, int(size[2]) - 1)
    reslice.SetBackgroundLevel(0)
    if nearest:
        reslice.SetInterpolationModeToNearestNeighbor()
    else:
        reslice.SetInterpolationModeToLinear()
        reslice.SetOutputScalarType(vtk.VTK_FLOAT)
    reslice.Update()
    array = vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars()).reshape(tuple(size[::-1])).copy()
    return Volume(array, _geometry(array.shape, spacing, _FLIP * start, _FLIP[:, None] * axes), name)


def _moved(transform: vtk.vtkGeneralTransform, points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([transform.TransformPoint(*(float(v) for v in point)) for point in points])


def node_from_volume(scene: Any, volume: Volume, name: str | None = None, cls: str = "vtkMRMLScalarVolumeNode") -> Any:
    """A new volume node of a scene with these voxels; it lies under no transform.

    Args:
        scene: vtkMRMLScene.
        volume: any; booleans become uint8, float16 becomes float32.
        name: of the node; the volume's by default.
        cls: vtkMRMLScalarVolumeNode or vtkMRMLLabelMapVolumeNode.
    """
    node = scene.AddNewNodeByClass(cls, name or volume.name or "volume")
    update_node(node, volume)
    node.CreateDefaultDisplayNodes()
    return node


def update_node(node: Any, volume: Volume) -> None:
    """Give a volume node other voxels and another place, as seen below whatever transform the node lies under."""
    image = vtk.vtkImageData()
    z, y, x = volume.geometry.shape
    image.SetDimensions(x, y, z)
    image.GetPointData().SetScalars(_scalars(volume.array))
    modified = node.StartModify()
    node.SetIJKToRASMatrix(ijk_to_ras(volume.geometry))
    node.SetAndObserveImageData(image)
    node.EndModify(modified)


def oriented_image(volume: Volume) -> Any:
    """vtkOrientedImageData of a bool or uint8 volume, cropped to what is not zero (Slicer's "effective extent")."""
    import slicer

    image = slicer.vtkOrientedImageData()
    filled = volume.array != 0
    box = []
    for axis in (2, 1, 0):
        along = np.flatnonzero(filled.any(tuple(a for a in range(3) if a != axis)))
        box += [int(along[0]), int(along[-1])] if along.size else [0, -1]
    image.SetExtent(*box)
    i0, i1, j0, j1, k0, k1 = box
    cropped = volume.array[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1]
    image.GetPointData().SetScalars(_scalars(cropped.astype(np.uint8)))
    image.SetImageToWorldMatrix(ijk_to_ras(volume.geometry))
    return image


def _scalars(array: NDArray[Any]) -> Any:
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    scalars = numpy_to_vtk(native.ravel(), deep=True, array_type=get_vtk_array_type(native.dtype))
    scalars.SetName("ImageScalars")
    return scalars


def _to_numpy(matrix: vtk.vtkMatrix4x4) -> NDArray[np.float64]:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def _to_vtk(matrix: NDArray[np.floating[Any]]) -> vtk.vtkMatrix4x4:
    out = vtk.vtkMatrix4x4()
    out.DeepCopy([float(v) for v in matrix.ravel()])
    return out
