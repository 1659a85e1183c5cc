"""What a scanner does to an anatomy, as ranges to draw from: those of training, and others clearly outside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Range = tuple[float, float]


@dataclass(frozen=True)
class Scanner:
    """Ranges of an acquisition; every study draws its own values from them.

    T2W intensities are relative to fluid at about 1; ADC is in 1e-3 mm2/s, b-values in 1e3 s/mm2.

    Attributes:
        muscle, fat, pz, tz: T2W levels.
        odd: share of T2W with arbitrary contrasts around the gland.
        bias: strength of the T2W's bias field; high-b has .8 of it.
        blur: T2W point spread, voxels of .75 mm.
        ghost: probability, and strength of a ghost relative to the image.
        noise: T2W noise (Rician).
        gamma: T2W exponents; one of the ranges is drawn.
        b_values: b of the high-b image -> weight.
        water: ADC of the PZ; of the TZ.
        spread: point spread of diffusion, voxels of 1.5 mm.
        distortion: probability, and largest shift in mm near the rectum.
        signal_noise: high-b noise relative to the TZ's signal.
        adc_noise: noise of the ADC.
    """

    muscle: Range
    fat: Range
    pz: Range
    tz: Range
    odd: float
    bias: Range
    blur: Range
    ghost: tuple[float, Range]
    noise: Range
    gamma: tuple[Range, ...]
    b_values: dict[str, float]
    water: tuple[Range, Range]
    spread: Range
    distortion: tuple[float, float]
    signal_noise: Range
    adc_noise: Range


SCANNERS: Final[dict[str, Scanner]] = {
    "seen": Scanner(
        muscle=(0.08, 0.2), fat=(0.5, 0.95), pz=(0.36, 0.78), tz=(0.24, 0.46), odd=0.25, bias=(0.03, 0.3),
        blur=(0.0, 0.9), ghost=(0.2, (0.03, 0.12)), noise=(0.01, 0.05), gamma=((0.75, 1.35),),
        b_values={"1.4": 0.6, "1.0": 0.1, "2.0": 0.2, "0.8": 0.1}, water=((1.3, 1.85), (1.1, 1.45)),
        spread=(0.45, 1.0), distortion=(0.6, 4.0), signal_noise=(0.03, 0.16), adc_noise=(0.03, 0.12),
    ),
    "unseen": Scanner(
        muscle=(0.22, 0.34), fat=(0.15, 0.4), pz=(0.6, 0.95), tz=(0.4, 0.6), odd=0.0, bias=(0.35, 0.5),
        blur=(0.95, 1.35), ghost=(0.7, (0.1, 0.16)), noise=(0.055, 0.08), gamma=((0.58, 0.7), (1.42, 1.7)),
        b_values={"0.6": 0.35, "1.7": 0.35, "2.4": 0.3}, water=((1.85, 2.1), (1.45, 1.7)),
        spread=(1.05, 1.35), distortion=(0.9, 6.0), signal_noise=(0.17, 0.24), adc_noise=(0.13, 0.18),
    ),
}  # fmt: skip
