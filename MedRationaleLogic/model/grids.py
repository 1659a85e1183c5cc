"""The grids the network sees, all centred on the gland, axes (z, y, x), millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class GridSpec:
    """A box of voxels without a place: shape and spacing along (z, y, x)."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def extent(self) -> tuple[float, float, float]:
        """Outer size in millimetres along (z, y, x)."""
        z, y, x = (n * s for n, s in zip(self.shape, self.spacing, strict=True))
        return (z, y, x)


#: Masks and T2W evidence: the gland with a margin at nearly native T2W resolution.
FINE: Final = GridSpec((24, 112, 112), (3.0, 0.75, 0.75))
#: ADC and high-b evidence: finer than their native 2 mm, at half the T2W's cost a side.
DIFFUSION: Final = GridSpec((24, 64, 64), (3.0, 1.5, 1.5))
#: The coarse pass over the whole field of view that finds the gland.
COARSE: Final = GridSpec((24, 64, 64), (3.0, 3.0, 3.0))

#: Median in-plane size (mm, diameter of the circle of equal area) of the glands that the network was trained on. The
#: T2W's crop is zoomed until the gland has it: one of 180 mL would hardly fit the crop, one of 20 mL be lost in it.
TYPICAL_GLAND_MM: Final = 43.4
#: How far the zoom may go: what the training's random scaling covers.
ZOOM_LIMITS: Final = (0.8, 1.3)

#: The three sequences, in the order that every tensor and table uses.
SEQUENCES: Final = ("t2w", "adc", "hbv")
#: The grid of each sequence's own stem.
STEM_GRIDS: Final = {"t2w": FINE, "adc": DIFFUSION, "hbv": DIFFUSION}
