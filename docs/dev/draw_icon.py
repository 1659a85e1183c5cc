"""Draw MedRationale/Resources/Icons/MedRationale.png: a gland with its zones, a suspicious focus, a tree.

Run from the repository root: python docs/dev/draw_icon.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

ICON = Path(__file__).resolve().parents[2] / "MedRationale" / "Resources" / "Icons" / "MedRationale.png"
SIZE = 128
SCALE = 8  # drawn this much larger, then reduced: smooth edges

NIGHT, DUSK = (16, 32, 58), (38, 74, 116)
PERIPHERAL, TRANSITION, OUTLINE = (150, 194, 226), (84, 130, 178), (232, 242, 250)
FOCUS, BRANCH = (255, 140, 66), (255, 226, 196)

Points = list[tuple[float, float]]


def gland(centre: tuple[float, float], half: tuple[float, float]) -> Points:
    """Closed outline of an axial gland in icon pixels: broad, flatter in front, a dimple behind."""
    angle = np.linspace(0.0, 2 * np.pi, 361)
    across, down = np.cos(angle), np.sin(angle)
    x = np.sign(across) * np.abs(across) ** 0.86
    y = down * np.where(down > 0, 1.0, 0.9) - 0.24 * np.exp(-((across / 0.28) ** 2)) * (down > 0)
    return _scaled(np.stack([centre[0] + half[0] * x, centre[1] + half[1] * y], axis=1))


def disc(centre: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    x, y = centre
    return ((x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE)


def _scaled(points: NDArray[np.float64]) -> Points:
    return [(float(x) * SCALE, float(y) * SCALE) for x, y in points]


def background() -> Image.Image:
    """A rounded square, lighter towards its top."""
    side = SIZE * SCALE
    share = np.linspace(0.0, 1.0, side)[:, None, None]
    colours = np.array(DUSK) * (1 - share) + np.array(NIGHT) * share
    picture = Image.fromarray(np.broadcast_to(colours, (side, side, 3)).astype(np.uint8)).convert("RGBA")
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, side - 1, side - 1), radius=24 * SCALE, fill=255)
    picture.putalpha(mask)
    return picture


def draw() -> Image.Image:
    """The icon at its final size, RGBA."""
    picture = background()
    pen = ImageDraw.Draw(picture)
    outer, inner = gland((56, 78), (48, 37)), gland((56, 68), (31, 22))
    pen.polygon(outer, fill=PERIPHERAL)
    pen.polygon(inner, fill=TRANSITION)
    pen.line([*outer, outer[1]], fill=OUTLINE, width=int(3.2 * SCALE), joint="curve")

    focus, root = (87.0, 91.0), (93.0, 55.0)
    leaves = [(77.0, 21.0), (110.0, 21.0)]
    glow = Image.new("RGBA", picture.size, (*FOCUS, 0))
    ImageDraw.Draw(glow).ellipse(disc(focus, 15), fill=(*FOCUS, 190))
    picture.alpha_composite(glow.filter(ImageFilter.GaussianBlur(4 * SCALE)))

    pen = ImageDraw.Draw(picture)
    for start, end in [(focus, root), *[(root, leaf) for leaf in leaves]]:
        ends = [(x * SCALE, y * SCALE) for x, y in (start, end)]
        pen.line(ends, fill=NIGHT, width=int(8.4 * SCALE))
        pen.line(ends, fill=BRANCH, width=int(4.6 * SCALE))
    for centre, radius, colour in [
        (focus, 10.5, FOCUS),
        (root, 8.5, BRANCH),
        (leaves[0], 8.5, BRANCH),
        (leaves[1], 8.5, FOCUS),
    ]:
        pen.ellipse(disc(centre, radius + 2.2), fill=NIGHT)
        pen.ellipse(disc(centre, radius), fill=colour)
    return picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def main() -> None:
    ICON.parent.mkdir(parents=True, exist_ok=True)
    draw().save(ICON, optimize=True)
    print(f"{ICON.relative_to(ICON.parents[3])}: {ICON.stat().st_size} bytes")


if __name__ == "__main__":
    main()
