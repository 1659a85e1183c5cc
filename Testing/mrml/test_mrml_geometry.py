# ruff: noqa: E402 - the imports need slicer-core, which may be missing
"""Volume nodes and volumes: places, values and axes come through unchanged, whatever lies above a node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

slicer = pytest.importorskip("slicer", reason="slicer-core is missing (extra 'viewer')")
vtk = pytest.importorskip("vtk")

from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.mrml.geometry import NodeError, lps, node_from_volume, ras, update_node, volume_from_node

angles = st.tuples(*[st.floats(-180, 180)] * 3)
spacings = st.tuples(*[st.floats(0.2, 6.0)] * 3)
origins = st.tuples(*[st.floats(-300, 300)] * 3)
flips = st.tuples(*[st.booleans()] * 3)
kinds = st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])


def volume(turn: Any, spacing: Any, origin: Any, flip: Any, kind: Any = np.int16, shape: Any = (4, 5, 6)) -> Volume:
    """Voxels that all differ, on any grid, left-handed ones included."""
    axes = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() * np.where(flip, -1.0, 1.0)
    values = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    return Volume(values, Geometry(shape, spacing, origin, tuple(axes.ravel())), "made up")


def matrix(values: NDArray[np.float64]) -> Any:
    out = vtk.vtkMatrix4x4()
    out.DeepCopy(values.ravel().tolist())
    return out


def linear(scene: Any, values: NDArray[np.float64], parent: Any = None) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(matrix(values))
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def rigid(turn: Any, shift: Any) -> NDArray[np.float64]:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix(), shift
    return out


def in_world(node: Any, ijk: Any) -> NDArray[np.float64]:
    """RAS of a voxel as MRML itself says it, transforms included."""
    local = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(local)
    point = list(local.MultiplyPoint((*(float(v) for v in ijk), 1.0))[:3])
    above = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, above)
    return np.array(above.TransformPoint(*point))


@settings(max_examples=60, deadline=None)
@given(turn=angles, spacing=spacings, origin=origins, flip=flips, kind=kinds)
def test_a_volume_comes_back_from_a_node(turn: Any, spacing: Any, origin: Any, flip: Any, kind: Any) -> None:
    made = volume(turn, spacing, origin, flip, kind)
    node = node_from_volume(slicer.vtkMRMLScene(), made)
    found = volume_from_node(node)
    assert found.array.dtype == made.array.dtype
    assert np.array_equal(found.array, made.array)
    assert found.geometry.almost_equal(made.geometry, 1e-6)
    assert found.name == "made up"
    # MRML's own word for where a corner lies
    assert np.allclose(in_world(node, (5, 4, 3)), ras(made.geometry.to_patient((3, 4, 5))), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(turn=angles, flip=flips, first=angles, second=angles, shift=origins)
def test_nested_transforms_move_the_grid_and_no_voxel(
    turn: Any, flip: Any, first: Any, second: Any, shift: Any
) -> None:
    scene = slicer.vtkMRMLScene()
    made = volume(turn, (3.0, 0.5, 0.7), (10.0, -20.0, 30.0), flip)
    node = node_from_volume(scene, made)
    outer = linear(scene, rigid(second, (1.0, 2.0, 3.0)))
    node.SetAndObserveTransformNodeID(linear(scene, rigid(first, shift), outer).GetID())
    found = volume_from_node(node)
    assert np.array_equal(found.array, made.array)
    for ijk in ((0, 0, 0), (5, 0, 0), (0, 4, 3), (2, 3, 1)):
        assert np.allclose(ras(found.geometry.to_patient(ijk[::-1])), in_world(node, ijk), atol=1e-5)


def test_reading_leaves_the_node_alone(scene: Any) -> None:
    node = node_from_volume(scene, volume((10, 20, 30), (3, 1, 1), (0, 0, 0), (False, False, True)))
    node.SetAndObserveTransformNodeID(linear(scene, rigid((0, 0, 40), (5, 5, 5))).GetID())
    before = node.GetMTime(), node.GetImageData().GetMTime()
    found = volume_from_node(node)
    assert (node.GetMTime(), node.GetImageData().GetMTime()) == before
    node.GetImageData().GetPointData().GetScalars().Fill(0)
    assert found.array.max() == 119, "a volume must not follow what happens to the node later"


def test_scaling_along_the_axes_keeps_the_voxels(scene: Any) -> None:
    made = volume((0, 0, 0), (3.0, 1.0, 2.0), (1.0, 2.0, 3.0), (False, False, False))
    node = node_from_volume(scene, made)
    node.SetAndObserveTransformNodeID(linear(scene, np.diag([2.0, 3.0, 0.5, 1.0])).GetID())
    found = volume_from_node(node)
    assert found.geometry.spacing == pytest.approx((1.5, 3.0, 4.0))
    assert np.array_equal(found.array, made.array)


def smooth(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A linear function of the patient point: linear interpolation of it is exact."""
    return np.asarray(100 + 2.0 * points[..., 0] - 3.0 * points[..., 1] + 1.5 * points[..., 2])


def painted(grid: Geometry) -> Volume:
    points = grid.to_patient(np.moveaxis(np.indices(grid.shape), 0, -1))
    return Volume(smooth(points).astype(np.float32), grid, "painted")


def test_a_sheared_volume_is_resampled_where_it_lies(scene: Any) -> None:
    grid = Geometry((10, 20, 24), (3.0, 1.0, 1.0), (-12.0, -10.0, -15.0))
    node = node_from_volume(scene, painted(grid))
    shear = np.eye(4)
    shear[0, 1], shear[:3, 3] = 0.25, (3.0, -2.0, 1.0)
    node.SetAndObserveTransformNodeID(linear(scene, shear).GetID())
    found = volume_from_node(node)
    assert found.geometry.spacing == pytest.approx(grid.spacing)
    axes = np.asarray(found.geometry.direction).reshape(3, 3)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    # every voxel well inside must hold what lay at the point that the shear brought there
    inside = 0
    for index in np.ndindex(found.geometry.shape):
        world = ras(found.geometry.to_patient(index))
        local = np.linalg.inv(shear) @ (*world, 1.0)
        at = grid.to_index(lps(local[:3]))
        if np.all(at >= 0.5) and np.all(at <= np.asarray(grid.shape) - 1.5):
            inside += 1
            assert found.array[index] == pytest.approx(float(smooth(lps(local[:3]))), abs=1e-2)
    assert inside > 0.5 * np.prod(grid.shape)


def test_a_warped_volume_is_resampled_where_it_lies(scene: Any) -> None:
    grid = Geometry((12, 24, 24), (3.0, 1.0, 1.0), (-12.0, -12.0, -18.0))
    node = node_from_volume(scene, painted(grid))
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for x in (-20.0, 20.0):
        for y in (-20.0, 20.0):
            for z in (-25.0, 25.0):
                source.InsertNextPoint(x, y, z)
                target.InsertNextPoint(x + 2.0, y, z)
    source.InsertNextPoint(0, 0, 0)
    target.InsertNextPoint(5.0, 1.0, 0)
    warp = vtk.vtkThinPlateSplineTransform()
    warp.SetSourceLandmarks(source)
    warp.SetTargetLandmarks(target)
    warp.SetBasisToR()
    above = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    above.SetAndObserveTransformToParent(warp)
    node.SetAndObserveTransformNodeID(above.GetID())
    found = volume_from_node(node)
    middle = np.array(warp.TransformPoint(1.0, 2.0, 3.0))
    index = found.geometry.to_index(lps(middle))
    low = np.floor(index).astype(int)
    patch = found.array[low[0] : low[0] + 2, low[1] : low[1] + 2, low[2] : low[2] + 2]
    expected = float(smooth(lps(np.array([1.0, 2.0, 3.0]))))
    assert patch.min() - 1 <= expected <= patch.max() + 1
    assert not np.allclose(middle, (1.0, 2.0, 3.0), atol=0.5)


def test_label_maps_keep_their_labels_under_a_shear(scene: Any) -> None:
    labels = np.zeros((8, 16, 16), np.uint8)
    labels[2:6, 4:12, 4:12] = 200
    made = Volume(labels, Geometry((8, 16, 16), (3.0, 1.0, 1.0)), "labels")
    node = node_from_volume(scene, made, cls="vtkMRMLLabelMapVolumeNode")
    shear = np.eye(4)
    shear[0, 2] = 0.3
    node.SetAndObserveTransformNodeID(linear(scene, shear).GetID())
    found = volume_from_node(node)
    assert found.array.dtype == np.uint8
    assert set(np.unique(found.array)) == {0, 200}
    assert (found.array > 0).sum() == pytest.approx((labels > 0).sum(), rel=0.1)


def test_a_mask_becomes_a_byte_volume_and_a_node_can_change(scene: Any) -> None:
    first = volume((0, 0, 0), (3, 1, 1), (0, 0, 0), (False, False, False))
    node = node_from_volume(scene, first.with_array(first.array > 50), "mask")
    assert volume_from_node(node).array.dtype == np.uint8
    assert volume_from_node(node).array.sum() == 69
    other = volume((5, 6, 7), (2, 1, 1), (9, 9, 9), (True, False, False), np.float32, (7, 3, 2))
    update_node(node, other)
    found = volume_from_node(node)
    assert np.array_equal(found.array, other.array)
    assert found.geometry.almost_equal(other.geometry, 1e-6)


def test_what_is_no_volume_is_refused_by_name(scene: Any) -> None:
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing there")
    with pytest.raises(NodeError, match="'nothing there' has no image data"):
        volume_from_node(empty)
    colour = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colour.SetAndObserveImageData(image)
    with pytest.raises(NodeError, match="'photo' has 3 components"):
        volume_from_node(colour)
    flat = node_from_volume(scene, volume((0, 0, 0), (3, 1, 1), (0, 0, 0), (False, False, False)), "flat")
    flat.SetAndObserveTransformNodeID(linear(scene, np.diag([1.0, 1.0, 0.0, 1.0])).GetID())
    with pytest.raises(NodeError, match="'flat' is flattened"):
        volume_from_node(flat)


def test_ras_and_lps_are_each_others_inverse() -> None:
    points = np.array([[1.0, 2.0, 3.0], [-4.0, 5.0, -6.0]])
    assert np.array_equal(ras(points), [[-1.0, -2.0, 3.0], [4.0, -5.0, -6.0]])
    assert np.array_equal(lps(ras(points)), points)
