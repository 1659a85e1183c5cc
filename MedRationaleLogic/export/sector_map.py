"""The 41 PI-RADS v2.1 sectors as an SVG: our own schematic drawing, no part of it traced from the standard's.

Three axial sections (base, mid-gland, apex) as a reader sees them: anterior on top, the patient's right on the image's
left. The seminal vesicles hang behind the base, the external urethral sphincter lies below the apex. Every sector is
drawn; those that no mask can claim here (central zone, anterior stroma, sphincter, vesicles) are hatched and named "not
segmented". A lit sector carries its share as a number: colour alone says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from MedRationaleLogic.export.palette import CATEGORY_COLOURS, text_on
from MedRationaleLogic.inference.explanation import Explanation
from MedRationaleLogic.pirads.sectors import SECTORS, Sector, sector

Radius = Callable[[float], float]
Place = tuple[float, float]

WIDTH, HEIGHT = 760, 268
UNSEGMENTED = frozenset({"CZ", "AFS", "US", "SV"})
"""Zones without a mask: drawn, never claimed."""


@dataclass(frozen=True)
class Light:
    """A lesion's share in a sector.

    Attributes:
        share: of the lesion's volume, 0 to 1.
        colour: "#rrggbb".
        label: who lights it, e.g. "1"; empty where there is only one lesion.
    """

    share: float
    colour: str
    label: str = ""


@dataclass(frozen=True)
class _Section:
    """One axial section; angles from anterior (0) to posterior (180 degrees), the same on both sides."""

    level: str
    title: str
    middle: Place  # of the transition zone, in the picture
    half_width: float
    front: float  # from the middle to the anterior border
    back: float
    tz: float  # transition zone's border as a share of the way to the gland's border
    afs: float  # half-angle of the anterior stroma
    horn: float  # angles between the sectors of the peripheral zone
    medial: float
    cz: float = 0.0  # half-angle of the central zone, counted from posterior


_SECTIONS = (
    _Section("base", "Base", (130, 92), 106, 62, 92, 0.74, 34, 100, 145, 48),
    _Section("mid", "Mid-gland", (384, 94), 104, 64, 90, 0.74, 32, 100, 145),
    _Section("apex", "Apex", (628, 98), 86, 58, 74, 0.60, 34, 100, 145),
)
_SV_ANCHORS = {"R": (72.0, 226.0), "L": (188.0, 226.0)}
_US_CENTER = (628.0, 220.0)


def sector_map_svg(
    shares: Mapping[str, float],
    *,
    colour: str = CATEGORY_COLOURS["X"],
    title: str = "Sector map",
    prefix: str = "map",
) -> str:
    """The sector map of one lesion.

    Args:
        shares: sector key ("PZpl-mid-R") -> share of the lesion's volume, 0 to 1.
        colour: "#rrggbb" of the lit sectors.
        title: accessible name of the picture.
        prefix: stands before every id, so that several maps fit into one document; letters, digits, "-" and "_".

    Returns:
        an ``<svg>`` element without XML declaration, to be put into HTML or saved as a file. Every sector is an element
        with ``id="PREFIX-KEY"``, ``data-sector``, ``aria-label`` and a ``<title>``; lit ones also with
        ``class="sector lit"`` and ``data-share``.

    Raises:
        KeyError: not a sector of PI-RADS v2.1.
        ValueError: a share outside 0..1, a colour that is none, or a prefix that is none.
    """
    return _draw({key: [Light(share, colour)] for key, share in shares.items()}, title, prefix)


def explanation_map_svg(explanation: Explanation, *, title: str = "", prefix: str = "all") -> str:
    """The sector map of all lesions of an explanation, each in the colour of its category; a sector that several share
    has the colour of the highest category. Returns and raises as :func:`sector_map_svg`."""
    lit: dict[str, list[Light]] = {}
    ranked = sorted(explanation.lesions, key=lambda x: 0 if x.category == "X" else int(x.category), reverse=True)
    for lesion in ranked:
        for key, share in lesion.measures.sectors:
            lit.setdefault(key, []).append(Light(share, CATEGORY_COLOURS[lesion.category], str(lesion.number)))
    return _draw(lit, title or "Sector map of all suspicious regions", prefix)


def _draw(lit: Mapping[str, list[Light]], title: str, prefix: str) -> str:
    _check(lit, prefix)
    parts = [_head(title, _description(lit), prefix)]
    for section in _SECTIONS:
        parts.append(_section(section, lit, prefix))
    parts.append(_extras(lit, prefix))
    parts.append("</svg>")
    return "\n".join(parts)


def _check(lit: Mapping[str, list[Light]], prefix: str) -> None:
    if not prefix.replace("-", "").replace("_", "").isalnum() or not prefix.isascii():
        raise ValueError(f"the prefix of a map's ids must be letters, digits, '-' and '_', got {prefix!r}")
    for key, lights in lit.items():
        sector(key)
        for light in lights:
            if not 0 <= light.share <= 1:
                raise ValueError(f"the share in {key} must be 0 to 1, got {light.share}")
            if len(light.colour) != 7 or light.colour[0] != "#":
                raise ValueError(f"a colour must be '#rrggbb', got {light.colour!r}")
            int(light.colour[1:], 16)


def _description(lit: Mapping[str, list[Light]]) -> str:
    frame = (
        "Axial sections of base, mid-gland and apex, anterior on top, the patient's right on the left. "
        "Central zone, anterior stroma, sphincter and seminal vesicles are not segmented."
    )
    if not lit:
        return f"No sector is lit. {frame}"
    said = "; ".join(f"{sector(key).long_name}: {_shares(lights)}" for key, lights in lit.items())
    return f"Lit: {said}. {frame}"


def _shares(lights: Iterable[Light]) -> str:
    return ", ".join(f"region {x.label}: {x.share:.0%}" if x.label else f"{x.share:.0%}" for x in lights)


def _head(title: str, description: str, prefix: str) -> str:
    return f"""<svg xmlns="http://www.w3.org/2000/svg" class="sector-map" viewBox="0 0 {WIDTH} {HEIGHT}" role="group"
 aria-labelledby="{prefix}-title" aria-describedby="{prefix}-desc" font-family="system-ui, sans-serif">
<title id="{prefix}-title">{escape(title)}</title>
<desc id="{prefix}-desc">{escape(description)}</desc>
<defs><pattern id="{prefix}-hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="5" height="5" fill="#ffffff"/><line x1="0" y1="0" x2="0" y2="5" stroke="#cfd6e0" stroke-width="2"/>
</pattern></defs>"""


# ----------------------------------------------------------------------------------------------------------- sections


def _section(section: _Section, lit: Mapping[str, list[Light]], prefix: str) -> str:
    x, y = section.middle
    parts = [
        f'<g class="level" data-level="{section.level}">',
        _text(x, 16, section.title, size=13, weight=600),
        _text(x - section.half_width - 9, y + 8, "R", size=12, weight=600, fill="#5b6472"),
        _text(x + section.half_width + 9, y + 8, "L", size=12, weight=600, fill="#5b6472"),
    ]
    labels = []
    for side in "RL":
        for one in (s for s in SECTORS if s.level == section.level and s.side == side):
            outline, at = _wedge(section, one)
            parts.append(_sector(one, outline, lit.get(one.key, []), prefix))
            labels.append(_label(one, at, lit.get(one.key, [])))
    parts.append(f'<path d="{_ring(section)}" fill="none" stroke="#2b3442" stroke-width="1.6"/>')
    parts.append(
        f'<circle cx="{x:g}" cy="{y:g}" r="4" fill="#ffffff" stroke="#5b6472"><title>urethra (a landmark, no sector)'
        "</title></circle>"
    )
    # Labels last: a neighbour drawn later would cover what sticks out of its sector.
    return "\n".join([*parts, '<g aria-hidden="true" pointer-events="none">', *labels, "</g></g>"])


def _outer(section: _Section) -> Radius:
    def radius(degrees: float) -> float:
        """From the middle to the gland's border; a little dented at the posterior midline."""
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        depth = section.front if c >= 0 else section.back
        power = 2.35
        r = (abs(s / section.half_width) ** power + abs(c / depth) ** power) ** (-1 / power)
        return r * (1 - 0.07 * math.exp(-(((180 - degrees) / 16) ** 2)))

    return radius


def _bounds(section: _Section, one: Sector) -> tuple[float, float, Radius, Radius]:
    """First and last angle, inner and outer border of a sector."""
    outer = _outer(section)

    def tz(degrees: float) -> float:
        """The transition zone comes close to the anterior stroma and leaves the back to the peripheral zone."""
        c = math.cos(math.radians(degrees))
        depth = section.front * 0.68 if c >= 0 else section.back * 0.48
        s = math.sin(math.radians(degrees))
        return float(((s / (section.half_width * section.tz)) ** 2 + (c / depth) ** 2) ** -0.5)

    def cz(degrees: float) -> float:
        return tz(degrees) + 0.50 * (outer(degrees) - tz(degrees))

    def nothing(_: float) -> float:
        return 0.0

    starts_behind_cz = section.cz > 0
    table: dict[tuple[str, str], tuple[float, float, Radius, Radius]] = {
        ("AFS", "-"): (0.0, section.afs, tz, outer),
        ("TZ", "a"): (0.0, 90.0, nothing, tz),
        ("TZ", "p"): (90.0, 180.0, nothing, tz),
        ("PZ", "a"): (section.afs, section.horn, tz, outer),
        ("PZ", "pl"): (section.horn, section.medial, tz, outer),
        ("PZ", "pm"): (section.medial, 180.0, cz if starts_behind_cz else tz, outer),
        ("CZ", "-"): (180.0 - section.cz, 180.0, tz, cz),
    }
    first, last, inner, border = table[one.zone, one.sub]
    if starts_behind_cz and (one.zone, one.sub) == ("PZ", "pl"):
        edge = 180.0 - section.cz

        def beside_cz(degrees: float) -> float:
            return cz(degrees) if degrees > edge else tz(degrees)

        inner = beside_cz
    return first, last, inner, border


def _wedge(section: _Section, one: Sector) -> tuple[str, Place]:
    """Outline of a sector as path data, and the middle of its label."""
    first, last, inner, outer = _bounds(section, one)
    sign = -1 if one.side == "R" else 1
    count = max(4, round((last - first) / 4))
    angles = [first + (last - first) * i / count for i in range(count + 1)]
    edge = 180.0 - section.cz  # the inner border steps there: a sample on each side, or a gap shows
    if first < edge < last:
        angles = sorted([*angles, edge, edge + 1e-6])
    border = [_polar(section.middle, sign, a, outer(a)) for a in angles]
    back = [_polar(section.middle, sign, a, inner(a)) for a in reversed(angles)]
    points = [*border, *back] if inner(first) > 0 else [*border, section.middle]
    middle = (first + last) / 2
    if one.sub == "pm" or one.zone == "CZ":
        middle -= 3.0  # away from the midline, where the other side's label stands
    # A wedge that comes to a point in the middle has most of its room away from it.
    depth = 0.62 if inner(middle) == 0 else 0.5
    at = _polar(section.middle, sign, middle, inner(middle) + depth * (outer(middle) - inner(middle)))
    return _path(points), at


def _ring(section: _Section) -> str:
    outer = _outer(section)
    right = [_polar(section.middle, -1, a, outer(a)) for a in range(0, 181, 4)]
    left = [_polar(section.middle, 1, a, outer(a)) for a in range(180, -1, -4)]
    return _path([*right, *left])


def _extras(lit: Mapping[str, list[Light]], prefix: str) -> str:
    """Seminal vesicles and external urethral sphincter: outside the gland, so outside the sections."""
    parts = ['<g class="level" data-level="beside">']
    for side, (x, y) in _SV_ANCHORS.items():
        one = sector(f"SV---{side}")
        tilt = 9 if side == "R" else -9
        points = [
            _turned((x, y), 50 * math.cos(t), 13 * math.sin(t) + 3 * math.sin(5 * t), tilt)
            for t in (2 * math.pi * i / 40 for i in range(40))
        ]
        parts.append(_sector(one, _path(points), lit.get(one.key, []), prefix))
        parts.append(_label(one, (x, y), lit.get(one.key, [])))
    x, y = _US_CENTER
    one = sector("US-apex--")
    ring = [(x + 26 * math.cos(2 * math.pi * i / 40), y + 17 * math.sin(2 * math.pi * i / 40)) for i in range(40)]
    parts.append(_sector(one, _path(ring), lit.get(one.key, []), prefix))
    parts.append(_label(one, (x, y), lit.get(one.key, [])))
    parts.append(_text(130, 262, "seminal vesicles", size=10, fill="#5b6472"))
    parts.append(_text(628, 252, "external urethral sphincter", size=10, fill="#5b6472"))
    parts.append(_text(384, 226, "anterior on top, the patient's right on the left", size=10, fill="#5b6472"))
    parts.append(f'<rect x="322" y="238" width="16" height="10" fill="url(#{prefix}-hatch)" stroke="#9aa4b2"/>')
    parts.append(_text(344, 243.5, "not segmented", size=10, fill="#5b6472", anchor="start"))
    parts.append("</g>")
    return "\n".join(parts)


# ------------------------------------------------------------------------------------------------------------- pieces


def _sector(one: Sector, outline: str, lights: list[Light], prefix: str) -> str:
    unsegmented = one.zone in UNSEGMENTED
    if lights:
        said = f"{one.long_name}: {_shares(lights)}"
        fill, kind, extra = _fill(lights), "sector lit", f' data-share="{lights[0].share:.4f}"'
    elif unsegmented:
        said = f"{one.long_name}: not segmented"
        fill, kind, extra = f"url(#{prefix}-hatch)", "sector unsegmented", ""
    else:
        said = f"{one.long_name}: not involved"
        fill, kind, extra = "#f4f6f9", "sector", ""
    return (
        f'<g id="{prefix}-{one.key}" class="{kind}" role="img" data-sector="{one.key}"{extra}'
        f" aria-label={quoteattr(said)}><title>{escape(said)}</title>"
        f'<path d="{outline}" fill="{fill}" stroke="#9aa4b2" stroke-width="0.9" stroke-linejoin="round"/></g>'
    )


def _fill(lights: list[Light]) -> str:
    """Paler where less of the lesion lies, never so pale that it reads as unlit."""
    return _mix(lights[0].colour, 0.35 + 0.65 * max(x.share for x in lights))


def _label(one: Sector, at: Place, lights: list[Light]) -> str:
    x, y = at
    name = one.zone + (one.sub if one.sub != "-" else "")
    if not lights:
        return _text(x, y, name, size=9, fill="#6f7989")
    ink = text_on(_fill(lights))
    said = [f"#{light.label} {light.share:.0%}" if light.label else f"{light.share:.0%}" for light in lights[:2]]
    if len(lights) > 2:
        said[-1] += " ..."
    top = y - 5 * len(said)
    lines = [_text(x, top, name, size=9, fill=ink)]
    lines += [_text(x, top + 10.5 * i, words, size=9.5, weight=700, fill=ink) for i, words in enumerate(said, 1)]
    return "".join(lines)


def _text(
    x: float, y: float, words: str, *, size: float, fill: str = "#1b2230", weight: int = 400, anchor: str = "middle"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" font-weight="{weight}" fill="{fill}" '
        f'text-anchor="{anchor}" dominant-baseline="central">{escape(words)}</text>'
    )


def _polar(middle: Place, sign: int, degrees: float, radius: float) -> Place:
    angle = math.radians(degrees)
    return middle[0] + sign * radius * math.sin(angle), middle[1] - radius * math.cos(angle)


def _turned(middle: Place, x: float, y: float, degrees: float) -> Place:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return middle[0] + c * x - s * y, middle[1] + s * x + c * y


def _path(points: Iterable[Place]) -> str:
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points) + " Z"


def _mix(colour: str, weight: float) -> str:
    """A colour blended with white; 1 keeps it."""
    parts = (round(int(colour[i : i + 2], 16) * weight + 255 * (1 - weight)) for i in (1, 3, 5))
    return "#" + "".join(f"{p:02x}" for p in parts)
