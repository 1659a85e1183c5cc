"""From a stack of DICOM images to a volume: slices in order of position, nothing missing, every pixel decoded."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MedRationaleLogic.imaging.acquisition import StudyError, count
from MedRationaleLogic.imaging.dicom_header import first_line, number, pixel_spacing
from MedRationaleLogic.imaging.volume import Geometry, Volume, orthonormal, trace_image

if TYPE_CHECKING:
    from MedRationaleLogic.imaging.dicom import Slice, Stack

_PLACEMENT_TOLERANCE_MM = 0.01
_STRAIGHT_TOLERANCE_MM = 0.5


def load(stack: Stack) -> tuple[Volume, tuple[str, ...]]:
    """Reads the pixels of a stack, in the order of its slice positions, with the rescale of each slice applied.

    Returns:
        The volume (z, y, x), the stored integer type where no rescale is needed and float32 otherwise, and notes.

    Raises:
        StudyError: a slice is missing, truncated, undecodable or placed twice with different content; sizes or
            orientations differ; positions are missing; rows and columns are not at right angles; there is one slice
            only.
    """
    if not stack.directions:
        return _load(stack)
    volumes = [_load(replace(stack, slices=part, directions=()))[0] for part in stack.directions]
    note = f"{stack.title}: trace image computed from {len(volumes)} gradient directions"
    return volumes[0].with_array(trace_image([v.array for v in volumes])), (note,)


def _load(stack: Stack) -> tuple[Volume, tuple[str, ...]]:
    name = stack.label
    slices = _checked(stack)
    pixels: dict[int, NDArray[Any]] = {}
    kept: list[tuple[Slice, NDArray[Any]]] = []
    dropped = 0
    for one in slices:
        values = _pixels(one, pixels)
        before = kept[-1] if kept else None
        if before is not None and abs(_height(one) - _height(before[0])) < _PLACEMENT_TOLERANCE_MM:
            if not np.array_equal(values, before[1]):
                raise StudyError(
                    f"{name}: two different images lie at position {_height(one):.1f} mm ({before[0].path.name}, "
                    f"{one.path.name}) and the header does not tell them apart; remove one, or export the series again"
                )
            dropped += 1
            continue
        kept.append((one, values))
    slices = [one for one, _ in kept]
    geometry = _geometry(slices, name)
    array = np.stack([values for _, values in kept])
    notes = (f"{name}: {count(dropped, 'duplicate slice')} dropped",) if dropped else ()
    return Volume(array, geometry, name), notes


def _height(one: Slice) -> float:
    assert one.height is not None  # _checked has refused slices without a position
    return one.height


def _checked(stack: Stack) -> list[Slice]:
    """The slices in the order of their position, after everything that can be told without pixels."""
    name, first = stack.label, stack.slices[0]
    for one in stack.slices:
        if one.orientation is None or one.height is None or pixel_spacing(one.header) is None:
            raise StudyError(
                f"{name}: {one.path.name} does not say where it lies in the patient (position, orientation or a finite "
                "pixel spacing above 0 is missing); export the original series, not screenshots"
            )
    orientations = np.array([one.orientation for one in stack.slices])
    usual = np.median(orientations, axis=0)
    odd = int(np.abs(orientations - usual).max(axis=(1, 2)).argmax())
    if np.abs(orientations[odd] - usual).max() > 1e-2:
        raise StudyError(
            f"{name}: {stack.slices[odd].path.name} is tilted against the other slices; one series must have one "
            "orientation"
        )
    size = Counter(_size(one) for one in stack.slices).most_common(1)[0][0]
    for one in stack.slices:
        if _size(one) != size:
            raise StudyError(
                f"{name}: {one.path.name} has another matrix or pixel size than the other slices; one series must "
                "have one grid"
            )
    if len({one.height for one in stack.slices}) < 2:
        raise StudyError(f"{name}: a single slice ({first.path.name}) is not a volume; choose the whole series")
    return sorted(stack.slices, key=lambda one: (_height(one), int(number(one.header.get("InstanceNumber")) or 0)))


def _size(one: Slice) -> tuple[Any, ...]:
    row, column = pixel_spacing(one.header) or (0.0, 0.0)
    return (one.header.get("Rows"), one.header.get("Columns"), round(row, 3), round(column, 3))


def _pixels(one: Slice, cache: dict[int, NDArray[Any]]) -> NDArray[Any]:
    """Values of one slice (y, x) with its rescale applied."""
    key = id(one.file)
    if key not in cache:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cache[key] = one.file.pixel_array
        except Exception as error:  # decoders differ in what they raise
            syntax = one.file.file_meta.TransferSyntaxUID
            if syntax.is_compressed and "bytes of pixel data" not in str(error):
                raise StudyError(
                    f"{one.path.name}: the pixels are compressed ({syntax.name}) and cannot be decoded here; install "
                    "pylibjpeg with its plugins, or export the series uncompressed"
                ) from error
            raise StudyError(
                f"{one.path.name}: the pixel data is cut off or damaged ({first_line(error)}); copy or export it again"
            ) from error
    values = cache[key] if one.frame is None else cache[key].reshape(-1, *cache[key].shape[-2:])[one.frame]
    if one.frame is None:
        del cache[key]  # a classic file is asked for once
    slope, intercept = number(one.header.get("RescaleSlope")), number(one.header.get("RescaleIntercept"))
    if slope in (None, 0.0, 1.0) and intercept in (None, 0.0):
        return values
    return (values * np.float32(slope or 1.0) + np.float32(intercept or 0.0)).astype(np.float32)


def _geometry(slices: Sequence[Slice], name: str) -> Geometry:
    """The grid of slices in order of position; refuses gaps, uneven spacing and sheared stacks."""
    positions = np.array([one.position for one in slices])
    heights = np.array([_height(one) for one in slices])
    row, column = np.asarray(slices[0].orientation, dtype=float)
    normal = np.cross(row, column)
    direction = np.column_stack([row, column, normal])
    if not orthonormal(direction):
        raise StudyError(
            f"{name}: the row and column directions of {slices[0].path.name} are not unit vectors at right angles; "
            "export the original series again"
        )
    steps = np.diff(heights)
    step = float(np.median(steps))
    for index in np.flatnonzero(steps > 1.5 * step).tolist():
        missing = max(1, round(float(steps[index]) / step) - 1)
        raise StudyError(
            f"{name}: {count(missing, 'slice')} missing between {heights[index]:.1f} and {heights[index + 1]:.1f} mm "
            f"({slices[index].path.name} and {slices[index + 1].path.name}; the spacing is {step:.2f} mm). Copy the "
            "complete series"
        )
    if np.abs(steps - step).max() > max(0.1 * step, 0.05):
        raise StudyError(
            f"{name}: slices are unevenly spaced ({steps.min():.2f} to {steps.max():.2f} mm); the series is "
            "incomplete or mixes two acquisitions"
        )
    sideways = positions - positions[0] - np.outer(heights - heights[0], normal)
    if np.abs(sideways).max() > _STRAIGHT_TOLERANCE_MM:
        raise StudyError(f"{name}: slices do not lie straight above each other; the series mixes two acquisitions")
    spacing = pixel_spacing(slices[0].header) or (1.0, 1.0)
    mean_step = float((positions[-1] - positions[0]) @ normal) / (len(slices) - 1)
    x, y, z = (float(v) for v in positions[0])
    return Geometry(
        (len(slices), int(slices[0].header.Rows), int(slices[0].header.Columns)),
        (mean_step, spacing[0], spacing[1]),
        (x, y, z),
        tuple(float(v) for v in direction.ravel()),
    )
