"""One colour per PI-RADS category for report, sector map and figures; a colour never stands without its number."""

from __future__ import annotations

from MedRationaleLogic.pirads.rules import Score

CATEGORY_COLOURS: dict[Score, str] = {
    1: "#2f7d5b",
    2: "#5f8f2f",
    3: "#c99700",
    4: "#d2601a",
    5: "#b3202c",
    "X": "#6b7280",
}
"""Calm to alarming, X grey; sRGB hex."""

OUTLINE_COLOURS: dict[Score, str] = {
    1: "#57e0a8",
    2: "#b4ef5a",
    3: "#ffd23d",
    4: "#ff9a3d",
    5: "#ff5c6a",
    "X": "#d5dae3",
}
"""The same, lightened: a thin line on a dark image."""


def text_on(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour (WCAG 2 contrast); ``colour`` is "#rrggbb"."""
    light = luminance(colour)
    return "#000000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#ffffff"


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2) of "#rrggbb", 0 to 1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
