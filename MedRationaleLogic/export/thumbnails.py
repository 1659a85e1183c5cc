"""A small picture of a region with one concept's evidence on the sequence that it was read from. No matplotlib: it must
be quick enough to be made for ten concepts while a reader waits."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from MedRationaleLogic.export import figures
from MedRationaleLogic.export.palette import evidence_table
from MedRationaleLogic.inference.explanation import Explanation, Lesion
from MedRationaleLogic.pirads import lexicon

__all__ = ["SIZE", "data_url", "png", "ppm", "thumbnail"]

SIZE: Final = 116
"""Pixels, both ways; a region and its surroundings are still told apart."""
AROUND_MM: Final = 14.0

Picture = NDArray[np.uint8]


def thumbnail(explanation: Explanation, lesion: Lesion, concept: str) -> Picture:
    """The slice of a concept's strongest evidence (without one, of the region's largest area): the region and 14 mm
    around it, in radiological orientation; evidence below the threshold is transparent.

    Args:
        explanation: with evidence at hand.
        lesion: the region.
        concept: id of a concept with a map.

    Returns:
        RGB, (:data:`SIZE`, :data:`SIZE`, 3).

    Raises:
        KeyError: no such concept, or its sequence is absent.
    """
    role = lexicon.load().concept(concept).sequences[0] if concept in explanation.evidence else None
    volume = None if role is None else explanation.study.volume(role)
    if role is None or volume is None:
        raise KeyError(f"no evidence map {concept!r}, so there is no picture of it")
    reading = lesion.reading(concept)
    peak = None if reading is None else reading.peak_slice
    part = _around(explanation, lesion, lesion.measures.key_slice if peak is None else peak)
    image = part.sample(volume)
    low, high = figures.grey_window(role, image)
    grey = np.clip((np.nan_to_num(image, nan=low) - low) / max(high - low, 1e-6), 0, 1)[..., None].repeat(3, 2)
    values = figures.evidence_slice(explanation, part, role, concept)
    shown = (values >= explanation.evidence.threshold)[..., None] * figures.EVIDENCE_OPACITY
    rgb = grey * (1 - shown) + _colours(values) * shown
    rgb[_border(part.crop(lesion.mask))] = (1.0, 1.0, 1.0)
    return (_square(rgb, part.grid.spacing[1:]) * 255).astype(np.uint8)


def ppm(picture: Picture) -> bytes:
    """A picture as PPM, which Qt reads without a plug-in."""
    return b"P6\n%d %d\n255\n" % (picture.shape[1], picture.shape[0]) + picture.tobytes()


def png(picture: Picture) -> bytes:
    """A picture as PNG, without time or text: the same picture gives the same bytes."""
    rows, columns = picture.shape[:2]
    # each row begins with the number of its filter: 0, none
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), picture.reshape(rows, -1)], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)  # 8 bits, RGB
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in parts)


def data_url(picture: Picture) -> str:
    """A picture as a data URL, for a page."""
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode("ascii")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _around(explanation: Explanation, lesion: Lesion, index: int) -> figures.Window:
    """The part of a slice with the region in its middle."""
    view = figures.View.of(explanation.frame.geometry)
    shown = view.show(np.asarray(lesion.mask.array.any(0)))
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


def _colours(values: NDArray[Any]) -> NDArray[np.float64]:
    """RGB (rows, columns, 3) in 0..1 by the evidence's colour table."""
    table = np.asarray(evidence_table())
    return table[np.clip(np.rint(values * (len(table) - 1)), 0, len(table) - 1).astype(int)]


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _square(rgb: NDArray[Any], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """The picture in a square of SIZE pixels, its proportions those of the patient, black around it."""
    rows, columns = rgb.shape[:2]
    scale = SIZE / max(rows * spacing[0], columns * spacing[1])
    height, width = max(1, round(rows * spacing[0] * scale)), max(1, round(columns * spacing[1] * scale))
    at = np.ix_((np.arange(height) * rows // height), (np.arange(width) * columns // width))
    out = np.zeros((SIZE, SIZE, 3))
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    out[top : top + height, left : left + width] = rgb[at]
    return out
