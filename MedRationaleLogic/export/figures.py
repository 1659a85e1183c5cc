"""Thumbnails of an explanation: a slice around the gland, outlines, diameters and evidence; drawn without pyplot.

Radiological orientation by geometry, never by array order: an axial slice has anterior on top and the patient's right
on the left whatever the grid's axes do (sagittal and coronal frames: head on top). Evidence of a sequence is drawn on
that sequence's own image, brought to the frame's slice through patient space; below the threshold it is transparent,
and its colours mean 0 to 1 in every picture.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from MedRationaleLogic.export.palette import evidence_colour, evidence_table
from MedRationaleLogic.export.shown import near_gland
from MedRationaleLogic.imaging.acquisition import Role
from MedRationaleLogic.imaging.measure import TZ, Diameter, slice_plane
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.inference.explanation import Explanation

MARGIN_MM = 9.0
"""How much is shown around the gland."""
EMPTY_FIELD_MM = 90.0
"""What is shown around the middle of the field of view when there is neither a gland nor a region."""
ADC_WINDOW = (0.0, 2200.0)
"""1e-6 mm2/s; the same in every picture, so that two ADC maps can be compared by eye."""
EVIDENCE_OPACITY = 0.55
PIXELS = 330
"""Width of a picture."""

# What the horizontal and the vertical axis of a picture mean, as LPS vectors, by plane.
_AXES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
}


@dataclass(frozen=True)
class View:
    """A grid re-indexed so that its slices can be shown as they are: only axes exchanged and turned round.

    Attributes:
        source: the grid it was made from.
        transposed: rows and columns exchanged.
        flipped: (rows, columns) turned round, after the exchange.
    """

    source: Geometry
    transposed: bool
    flipped: tuple[bool, bool]

    @classmethod
    def of(cls, geometry: Geometry) -> View:
        """The radiological view of a grid's slices, for any orientation of the grid."""
        across, down = (np.asarray(axis) for axis in _AXES[slice_plane(geometry)])
        rows, columns = geometry.affine[:3, 1], geometry.affine[:3, 2]
        unit_rows, unit_columns = rows / np.linalg.norm(rows), columns / np.linalg.norm(columns)
        transposed = abs(unit_rows @ across) > abs(unit_columns @ across)
        if transposed:
            unit_rows, unit_columns = unit_columns, unit_rows
        return cls(geometry, bool(transposed), (bool(unit_rows @ down < 0), bool(unit_columns @ across < 0)))

    @cached_property
    def geometry(self) -> Geometry:
        """The re-indexed grid: the same voxels at the same places."""
        z, y, x = self.source.shape
        sz, sy, sx = self.source.spacing
        matrix = np.asarray(self.source.direction).reshape(3, 3).copy()
        shape, spacing = (z, y, x), (sz, sy, sx)
        if self.transposed:
            shape, spacing, matrix = (z, x, y), (sz, sx, sy), matrix[:, [1, 0, 2]]
        first = [0, 0, 0]
        for axis, flip, column in ((1, self.flipped[0], 1), (2, self.flipped[1], 0)):
            if flip:
                first[axis] = shape[axis] - 1
                matrix[:, column] *= -1
        corner = (first[0], first[2], first[1]) if self.transposed else (first[0], first[1], first[2])
        ox, oy, oz = (float(v) for v in self.source.to_patient(corner))
        return Geometry(shape, spacing, (ox, oy, oz), tuple(matrix.ravel()))

    def show(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array (..., rows, columns) of the source grid as it is shown."""
        shown = np.swapaxes(array, -1, -2) if self.transposed else array
        rows, columns = (slice(None, None, -1) if flip else slice(None) for flip in self.flipped)
        return shown[..., rows, columns]

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """The patient's directions at the picture's left, right, top and bottom border, e.g. ("R", "L", "A", "P")."""
        across, down = self.geometry.affine[:3, 2], self.geometry.affine[:3, 1]
        return _letter(-across), _letter(across), _letter(-down), _letter(down)


@dataclass(frozen=True)
class Window:
    """The part of a slice that a picture shows.

    Attributes:
        view: how the frame is shown.
        index: slice of the frame.
        grid: one slice of the view's grid, cropped; every layer is brought onto it.
        start: (row, column) of its first pixel in the view.
    """

    view: View
    index: int
    grid: Geometry
    start: tuple[int, int]

    def crop(self, volume: Volume) -> NDArray[Any]:
        """The pixels (rows, columns) of a volume on the frame's grid; nothing is interpolated."""
        rows, columns = self.grid.shape[1:]
        r, c = self.start
        return np.asarray(self.view.show(volume.array[self.index])[r : r + rows, c : c + columns])

    def sample(self, volume: Volume) -> NDArray[np.float32]:
        """The pixels (rows, columns) of any volume, through patient space; NaN where it has none."""
        if volume.geometry == self.view.source:
            return self.crop(volume).astype(np.float32)
        return np.asarray(volume.resample(self.grid, outside=float("nan")).array[0], dtype=np.float32)

    def pixel(self, point: ArrayLike) -> tuple[float, float, float]:
        """Where a patient point (LPS, mm) lies: (column, row) in pixels, and slices off this one."""
        k, row, column = (float(v) for v in self.grid.to_index(point))
        return column, row, k


def window(explanation: Explanation, index: int, masks: Sequence[Volume] = ()) -> Window:
    """The part of a slice that holds the gland and the masks, with a margin; the middle where there is neither.

    Args:
        explanation: what is shown.
        index: slice of the frame.
        masks: bool on the frame's grid, kept in sight.
    """
    view = View.of(explanation.frame.geometry)
    grid = view.geometry
    inside: NDArray[np.bool_] = np.asarray((explanation.zones.array > 0).any(0))
    for mask in masks:
        inside = inside | np.asarray(mask.array.any(0))
    shown = view.show(inside)
    _, row, column = grid.spacing
    limits = []
    for axis, pitch in ((0, row), (1, column)):
        size = shown.shape[axis]
        there = np.flatnonzero(shown.any(1 - axis))
        margin = round((MARGIN_MM if there.size else EMPTY_FIELD_MM / 2) / pitch)
        first, last = (int(there[0]), int(there[-1])) if there.size else (size // 2, size // 2)
        limits.append((max(0, first - margin), min(size, last + margin + 1)))
    (r0, r1), (c0, c1) = limits
    ox, oy, oz = (float(v) for v in grid.to_patient((index, r0, c0)))
    cropped = replace(grid, shape=(1, r1 - r0, c1 - c0), origin=(ox, oy, oz))
    return Window(view, index, cropped, (r0, c0))


# ------------------------------------------------------------------------------------------------------------ picture


@dataclass(frozen=True)
class Outline:
    """A mask's border in a picture.

    Attributes:
        mask: bool on the frame's grid.
        colour: of the line.
        width: of the line, points.
        style: matplotlib's name of the line's style.
    """

    mask: Volume
    colour: str
    width: float = 1.7
    style: str = "solid"


def draw(
    explanation: Explanation,
    part: Window,
    role: Role,
    *,
    outlines: Sequence[Outline] = (),
    zones: bool = False,
    diameter: Diameter | None = None,
    evidence: str | None = None,
) -> str:
    """One picture as a data URI (PNG).

    Args:
        explanation: what is shown.
        part: slice and crop.
        role: the sequence's image; it must be there.
        outlines: drawn in order.
        zones: draw the borders of gland and transition zone, thin and dashed.
        diameter: drawn with its end points; dashed when it was measured on another slice.
        evidence: id of a concept of the same sequence, drawn over the image.

    Raises:
        ValueError: the sequence is absent, or the concept belongs to another sequence.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    volume = explanation.study.volume(role)
    if volume is None:
        raise ValueError(f"{role} is not in the study, so there is no picture of it")
    image = part.sample(volume)
    rows, columns = image.shape
    _, row_mm, column_mm = part.grid.spacing
    height = PIXELS * rows * row_mm / (columns * column_mm)
    figure = Figure(figsize=(PIXELS / 100, height / 100), dpi=100, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    low, high = grey_window(role, image)
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, aspect="auto", interpolation="bilinear")
    if evidence is not None:
        values = evidence_slice(explanation, part, role, evidence)
        axes.imshow(
            _overlay(values, explanation.evidence.threshold), aspect="auto", interpolation="nearest"
        )  # no smoothing: it would bleed over the threshold
    if zones:
        _draw_zones(axes, part, explanation.zones)
    for outline in outlines:
        _contour(axes, part.crop(outline.mask), outline.colour, outline.width, outline.style)
    if diameter is not None:
        _draw_diameter(axes, part, diameter)
    _draw_marks(axes, part)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})  # no version inside: the same input gives the same file
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def evidence_slice(explanation: Explanation, part: Window, role: Role, concept: str) -> NDArray[np.float32]:
    """A concept's evidence (rows, columns) on the picture's pixels, 0..1; 0 outside the model's grid and away from the
    gland (:func:`~MedRationaleLogic.export.shown.near_gland`).

    Raises:
        ValueError: the concept is not one of this sequence: evidence is shown on what it was read from.
    """
    native = explanation.evidence.native(concept)
    field = explanation.evidence.fields.get(role)
    if field is None or native.geometry != field.geometry or not concept.startswith(_PREFIX[role]):
        raise ValueError(f"{concept} was not read from {role}, so it is not drawn on it")
    values = np.clip(native.resample(part.grid, outside=0.0).array[0], 0.0, 1.0)
    near = part.crop(explanation.zones.with_array(near_gland(explanation)))
    return np.asarray(np.where(near, values, 0.0), dtype=np.float32)


def legend_stops(threshold: float, count: int = 11) -> list[tuple[float, str, float]]:
    """The colour scale of the evidence: (value, "#rrggbb", opacity) from 0 to 1, opacity 0 below the threshold."""
    values = sorted({*(i / (count - 1) for i in range(count)), threshold})
    return [(v, evidence_colour(v), EVIDENCE_OPACITY if v >= threshold else 0.0) for v in values]


_PREFIX: dict[str, str] = {"t2w": "t2.", "adc": "adc.", "hbv": "hbv."}


def grey_window(role: Role, image: NDArray[np.float32]) -> tuple[float, float]:
    """(black, white) of a picture of a sequence; NaN is left out."""
    if role == "adc":
        return ADC_WINDOW
    finite = image[np.isfinite(image)]
    if not finite.size:
        return 0.0, 1.0
    # High-b is nearly empty but for what matters: a lower white would drown it.
    low, high = np.percentile(finite, (1.0, 99.9 if role == "hbv" else 99.5))
    return float(low), float(max(high, low + 1e-6))


def _overlay(values: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
    """RGBA (rows, columns, 4) of evidence, transparent below the threshold."""
    table = np.asarray(evidence_table())
    index = np.rint(np.clip(values, 0.0, 1.0) * (len(table) - 1)).astype(int)
    opacity = np.where(values >= threshold, EVIDENCE_OPACITY, 0.0)
    return np.concatenate([table[index], opacity[..., None]], axis=-1)


def _contour(axes: Any, mask: NDArray[Any], colour: str, width: float, style: str) -> None:
    if mask.any() and not mask.all():
        # A frame of background: a mask at the picture's border is closed too.
        padded = np.pad(mask.astype(np.float32), 1)
        y, x = (np.arange(n) - 1 for n in padded.shape)
        if width > 1:
            axes.contour(x, y, padded, levels=[0.5], colors="black", linewidths=width + 1.4, alpha=0.55)
        axes.contour(x, y, padded, levels=[0.5], colors=colour, linewidths=width, linestyles=style)


def _draw_zones(axes: Any, part: Window, zones: Volume) -> None:
    labels = part.crop(zones)
    for mask in (labels > 0, labels == TZ):
        _contour(axes, mask, "#7fd4ff", 0.8, "dashed")


def _draw_diameter(axes: Any, part: Window, diameter: Diameter) -> None:
    (x0, y0, k0), (x1, y1, k1) = (part.pixel(end) for end in diameter.ends)
    here = abs((k0 + k1) / 2) <= 0.75
    axes.plot([x0, x1], [y0, y1], color="white", linewidth=1.1, linestyle="solid" if here else "dotted")
    axes.plot([x0, x1], [y0, y1], color="white", marker="+", markersize=8, markeredgewidth=1.5, linestyle="none")


def _draw_marks(axes: Any, part: Window) -> None:
    """The patient's directions at the borders, and a bar of 10 mm."""
    import matplotlib.patheffects as effects

    shadow = [effects.withStroke(linewidth=2.2, foreground="black")]
    left, right, top, bottom = part.view.letters
    for x, y, letter in ((0.03, 0.5, left), (0.97, 0.5, right), (0.5, 0.955, top), (0.5, 0.045, bottom)):
        axes.text(
            x, y, letter, transform=axes.transAxes, color="white", fontsize=9, ha="center", va="center",
            path_effects=shadow,
        )  # fmt: skip
    rows, columns = part.grid.shape[1:]
    bar = 10.0 / part.grid.spacing[2]
    x, y = columns * 0.035, rows * 0.945
    axes.plot([x, x + bar], [y, y], color="black", linewidth=4.0, solid_capstyle="butt", alpha=0.6)
    axes.plot([x, x + bar], [y, y], color="white", linewidth=2.0, solid_capstyle="butt")
    axes.text(
        x + bar / 2, y - rows * 0.02, "10 mm", color="white", fontsize=7, ha="center", va="bottom", path_effects=shadow
    )


def _letter(vector: NDArray[np.float64]) -> str:
    axis = int(np.abs(vector).argmax())
    return ("LR", "PA", "SI")[axis][int(vector[axis] < 0)]
