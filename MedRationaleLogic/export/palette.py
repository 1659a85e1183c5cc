"""One colour per PI-RADS category for report, sector map and figures; a colour never stands without its number."""

from __future__ import annotations

from functools import cache

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


EVIDENCE_STOPS = (
    "#0d0887", "#41049d", "#6a00a8", "#8f0da4", "#b12a90", "#cc4778", "#e16462", "#f2844b", "#fca636", "#fcce25",
    "#f0f921",
)  # fmt: skip
"""Evidence 0, .1, ... 1: dark to light as matplotlib's "plasma" is, so that greyscale keeps its order."""


@cache
def evidence_table(entries: int = 256) -> tuple[tuple[float, float, float], ...]:
    """The evidence's colours, (red, green, blue) in 0..1, evenly from evidence 0 to 1; the same in report and views."""
    stops = [tuple(int(s[i : i + 2], 16) / 255 for i in (1, 3, 5)) for s in EVIDENCE_STOPS]
    table = []
    for k in range(entries):
        at = k / (entries - 1) * (len(stops) - 1)
        i = min(int(at), len(stops) - 2)
        red, green, blue = (a + (b - a) * (at - i) for a, b in zip(stops[i], stops[i + 1], strict=True))
        table.append((red, green, blue))
    return tuple(table)


def evidence_colour(value: float) -> str:
    """The colour of an evidence of 0..1 as "#rrggbb"."""
    table = evidence_table()
    rgb = table[round(min(max(value, 0.0), 1.0) * (len(table) - 1))]
    return "#" + "".join(f"{round(255 * c):02x}" for c in rgb)


def text_on(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour (WCAG 2 contrast); ``colour`` is "#rrggbb"."""
    light = luminance(colour)
    return "#000000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#ffffff"


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2) of "#rrggbb", 0 to 1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
