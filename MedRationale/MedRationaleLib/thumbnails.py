"""A small picture of a region with one concept's evidence on the sequence that it was read from. No matplotlib: it must
be quick enough to be made for ten concepts while a reader waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

SIZE = 116
AROUND_MM = 14.0
OPACITY = 0.55


def thumbnail(explanation: Any, lesion: Any, concept: str, folder: Path) -> Path:
    """Write a picture as PPM, which Qt reads without a plug-in.

    It shows the slice of the concept's strongest evidence (the region's largest slice where there is none), the region
    and 14 mm around it, in radiological orientation; evidence below the threshold is transparent.

    Args:
        explanation: with evidence at hand.
        lesion: the region.
        concept: id of a concept with a map.
        folder: where the file goes.

    Returns:
        Path of the new file; the caller removes it.
    """
    from MedRationaleLogic.export import figures
    from MedRationaleLogic.pirads import lexicon

    role = lexicon.load().concept(concept).sequences[0]
    reading = lesion.reading(concept)
    mask = lesion.mask.array
    index = (
        reading.peak_slice if reading is not None and reading.peak_slice is not None else int(mask.sum((1, 2)).argmax())
    )
    part = _around(explanation, lesion, index, figures)
    image = part.sample(explanation.study.volume(role))
    low, high = figures.grey_window(role, image)
    grey = np.clip((np.nan_to_num(image, nan=low) - low) / max(high - low, 1e-6), 0, 1)[..., None].repeat(3, 2)
    values = figures.evidence_slice(explanation, part, role, concept)
    heat = _colours(values)
    shown = (values >= explanation.evidence.threshold)[..., None] * OPACITY
    rgb = grey * (1 - shown) + heat * shown
    outline = part.crop(lesion.mask)
    rgb[_border(outline)] = (1.0, 1.0, 1.0)
    pixels = (_square(rgb, part.grid.spacing[1:]) * 255).astype(np.uint8)
    path = folder / f"{uuid4().hex}.ppm"
    path.write_bytes(b"P6\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes())
    return path


def _around(explanation: Any, lesion: Any, index: int, figures: Any) -> Any:
    """The part of a slice with the region in its middle."""
    from dataclasses import replace

    view = figures.View.of(explanation.frame.geometry)
    shown = view.show(lesion.mask.array.any(0))
    limits = []
    for axis, pitch in ((0, view.geometry.spacing[1]), (1, view.geometry.spacing[2])):
        there = np.flatnonzero(shown.any(1 - axis))
        middle = (int(there[0]) + int(there[-1])) / 2
        half = max((int(there[-1]) - int(there[0])) / 2, 6.0 / pitch) + AROUND_MM / pitch
        first = int(np.clip(round(middle - half), 0, shown.shape[axis] - 1))
        limits.append((first, int(np.clip(round(middle + half) + 1, first + 1, shown.shape[axis]))))
    (r0, r1), (c0, c1) = limits
    x, y, z = (float(v) for v in view.geometry.to_patient((index, r0, c0)))
    return figures.Window(view, index, replace(view.geometry, shape=(1, r1 - r0, c1 - c0), origin=(x, y, z)), (r0, c0))


def _colours(values: np.ndarray) -> np.ndarray:
    """RGB (rows, columns, 3) in 0..1 by the evidence's colour table."""
    from MedRationaleLogic.export.palette import evidence_table

    table = np.asarray(evidence_table())
    return table[np.clip(np.rint(values * (len(table) - 1)), 0, len(table) - 1).astype(int)]


def _border(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _square(rgb: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """The picture in a square of SIZE pixels, its proportions those of the patient, black around it."""
    rows, columns = rgb.shape[:2]
    scale = SIZE / max(rows * spacing[0], columns * spacing[1])
    height, width = max(1, round(rows * spacing[0] * scale)), max(1, round(columns * spacing[1] * scale))
    at = np.ix_((np.arange(height) * rows // height), (np.arange(width) * columns // width))
    out = np.zeros((SIZE, SIZE, 3))
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    out[top : top + height, left : left + width] = rgb[at]
    return out
