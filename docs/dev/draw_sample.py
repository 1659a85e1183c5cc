"""Draw MedRationale/Resources/Icons/MedRationaleSample.png: the sample study on its button in Slicer's SampleData.

The axial T2W of the sample study (simulated, no patient) through its suspicious region, cut to the gland, the region
outlined. Run from the repository root: python docs/dev/draw_sample.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from MedRationaleLogic.simulation.sample import make_sample

PICTURE = Path(__file__).resolve().parents[2] / "MedRationale" / "Resources" / "Icons" / "MedRationaleSample.png"
SIZE = (144, 96)
MARGIN_MM = 9.0
OUTLINE = (255, 140, 66)


def draw() -> Image.Image:
    """The picture at its final size, RGB."""
    sample = make_sample()
    region = sample.regions.array == 1
    k = int(region.sum((1, 2)).argmax())
    plane, gland = sample.t2w.array[k].astype(float), sample.zones.array[k] > 0
    mm = sample.t2w.geometry.spacing[1]
    rows, columns = np.nonzero(gland)
    half = (np.ptp(rows) / 2 + MARGIN_MM / mm, np.ptp(columns) / 2 + MARGIN_MM / mm)
    height = max(half[0], half[1] * SIZE[1] / SIZE[0])
    width = height * SIZE[0] / SIZE[1]
    middle = ((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2)
    box = tuple(
        slice(max(round(m - h), 0), min(round(m + h), n))
        for m, h, n in zip(middle, (height, width), plane.shape, strict=True)
    )
    low, high = np.percentile(plane[box], (1, 99.5))
    grey = np.clip((plane[box] - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    inside = region[k][box]
    rim = ndimage.binary_dilation(inside, iterations=2) & ~ndimage.binary_dilation(inside)
    picture[rim] = OUTLINE
    return Image.fromarray(picture).resize(SIZE, Image.Resampling.LANCZOS)


def main() -> None:
    draw().save(PICTURE, optimize=True)
    print(f"{PICTURE.relative_to(PICTURE.parents[3])}: {PICTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
