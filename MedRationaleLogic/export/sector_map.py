"""The 41 PI-RADS v2.1 sectors as an SVG: our own schematic drawing, no part of it traced from the standard's.

Three axial sections (base, mid-gland, apex) as a reader sees them: anterior on top, the patient's right on the image's
left. The seminal vesicles hang behind the base, the external urethral sphincter lies below the apex. Every sector is
drawn; those that no mask can claim here (central zone, anterior stroma, sphincter, vesicles) are hatched and named "not
segmented". Colour alone says nothing: a lit sector carries its share as a number or, in the small dark map that a page
shows beside the table of regions, the number of its region.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal
from xml.sax.saxutils import escape, quoteattr

from MedRationaleLogic.export.palette import CATEGORY_COLOURS, OUTLINE_COLOURS, text_on
from MedRationaleLogic.inference.explanation import Explanation
from MedRationaleLogic.pirads.sectors import SECTORS, Sector, sector

Radius = Callable[[float], float]
Place = tuple[float, float]
Theme = Literal["light", "dark"]

UNSEGMENTED = frozenset({"CZ", "AFS", "US", "SV"})
"""Zones without a mask: drawn, never claimed."""


@dataclass(frozen=True)
class Light:
    """A lesion's share in a sector.

    Attributes:
        share: of the lesion's volume, 0 to 1.
        colour: "#rrggbb".
        label: who lights it, e.g. "1"; empty where there is only one lesion.
        border: "#rrggbb" of a lit sector's border on a dark ground.
    """

    share: float
    colour: str
    label: str = ""
    border: str = OUTLINE_COLOURS["X"]


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


@dataclass(frozen=True)
class _Look:
    """How a map is laid out and coloured.

    Attributes:
        size: width and height of the picture.
        sections: in the picture.
        vesicles: side -> middle of the seminal vesicle.
        sphincter: middle of the external urethral sphincter.
        scale: of both.
        captions: (x, y, words, anchor).
        swatch: upper left corner of the hatched one.
        sides: how far beside the gland R and L stand; None: in the corners above it.
        title, caption: font sizes.
        paper, hatch: ground and lines of what is not segmented.
        unlit, border, ring, ink, soft: fill and border of a sector, border of the gland, letters, quieter letters.
        small: lit sectors carry the region's number only, unlit ones nothing.
    """

    size: tuple[int, int]
    sections: tuple[_Section, ...]
    vesicles: Mapping[str, Place]
    sphincter: Place
    scale: float
    captions: tuple[tuple[float, float, str, str], ...]
    swatch: Place
    sides: float | None
    title: float
    caption: float
    paper: str
    hatch: str
    unlit: str
    border: str
    ring: str
    ink: str
    soft: str
    small: bool


_LIGHT: Final = _Look(
    size=(760, 268), sections=_SECTIONS, vesicles={"R": (72.0, 226.0), "L": (188.0, 226.0)}, sphincter=(628.0, 220.0),
    scale=1.0,
    captions=(
        (130, 262, "seminal vesicles", "middle"), (628, 252, "external urethral sphincter", "middle"),
        (384, 226, "anterior on top, the patient's right on the left", "middle"),
    ),
    swatch=(322, 238), sides=9, title=13, caption=10, paper="#ffffff", hatch="#cfd6e0", unlit="#f4f6f9",
    border="#9aa4b2", ring="#2b3442", ink="#1b2230", soft="#5b6472", small=False,
)  # fmt: skip


def _shrunk(section: _Section, middle: Place, scale: float) -> _Section:
    return replace(
        section, middle=middle, half_width=section.half_width * scale, front=section.front * scale,
        back=section.back * scale,
    )  # fmt: skip


_DARK: Final = _Look(
    size=(280, 262),
    sections=tuple(
        _shrunk(section, middle, 0.62)
        for section, middle in zip(_SECTIONS, ((71, 60), (209, 60), (209, 176)), strict=True)
    ),
    vesicles={"R": (36.0, 142.0), "L": (106.0, 142.0)}, sphincter=(209.0, 236.0), scale=0.62,
    captions=(
        (71, 164, "seminal vesicles", "middle"), (209, 254, "external sphincter", "middle"),
        (6, 196, "anterior on top,", "start"), (6, 209, "patient's right on the left", "start"),
    ),
    swatch=(6, 221), sides=None, title=11, caption=10, paper="#1b222c", hatch="#4a5564", unlit="#232b37",
    border="#5d6a7c", ring="#aab4c3", ink="#e6ebf2", soft="#b3bdcb", small=True,
)  # fmt: skip
"""Every letter is 10 units or more high, so that it can be read where the map is 280 pixels wide."""


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


def explanation_map_svg(
    explanation: Explanation, *, title: str = "", prefix: str = "all", theme: Theme = "light",
    selected: int | None = None,
) -> str:  # fmt: skip
    """The sector map of all lesions of an explanation, each in the colour of its category; a sector that several share
    has the colour of the highest category.

    Args:
        explanation: what is shown; without lesions nothing is lit.
        title, prefix: as :func:`sector_map_svg`.
        theme: "light" for paper; "dark" for a page with a dark ground, where lit sectors can be clicked: each carries
            ``data-lesion``, the number of the selected region where that lights it, else of the one of the highest
            category, and the classes ``pointer`` and, where it is the selected region's, ``selected``. It is legible
            from 280 pixels' width on.
        selected: number of the region whose sectors are marked; "dark" only.

    Returns and raises as :func:`sector_map_svg`. No text of the study is in it.
    """
    lit: dict[str, list[Light]] = {}
    ranked = sorted(explanation.lesions, key=lambda x: 0 if x.category == "X" else int(x.category), reverse=True)
    for lesion in ranked:
        for key, share in lesion.measures.sectors:
            colours = CATEGORY_COLOURS[lesion.category], OUTLINE_COLOURS[lesion.category]
            lit.setdefault(key, []).append(Light(share, colours[0], str(lesion.number), colours[1]))
    look = _DARK if theme == "dark" else _LIGHT
    marked = str(selected) if selected is not None and theme == "dark" else None
    return _draw(lit, title or "Sector map of all suspicious regions", prefix, look, marked)


def _draw(
    lit: Mapping[str, list[Light]], title: str, prefix: str, look: _Look = _LIGHT, selected: str | None = None
) -> str:
    _check(lit, prefix)
    pen = _Pen(look, prefix, lit, selected)
    parts = [_head(title, _description(lit), prefix, look)]
    parts += [_section(section, pen) for section in look.sections]
    parts.append(_extras(pen))
    parts.append("</svg>")
    return "\n".join(parts)


@dataclass(frozen=True)
class _Pen:
    """What every piece of a map is drawn with."""

    look: _Look
    prefix: str
    lit: Mapping[str, list[Light]]
    selected: str | None

    def lights(self, one: Sector) -> list[Light]:
        return self.lit.get(one.key, [])

    def marked(self, one: Sector) -> bool:
        """Whether the selected region lights the sector."""
        return self.selected is not None and any(x.label == self.selected for x in self.lights(one))

    def named(self, one: Sector) -> str:
        """The region that a click on a lit sector is for."""
        return next((x.label for x in self.lights(one) if x.label == self.selected), self.lights(one)[0].label)


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


def _head(title: str, description: str, prefix: str, look: _Look) -> str:
    width, height = look.size
    line = f'<line x1="0" y1="0" x2="0" y2="5" stroke="{look.hatch}" stroke-width="2"/>'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" class="sector-map" viewBox="0 0 {width} {height}" role="group"
 aria-labelledby="{prefix}-title" aria-describedby="{prefix}-desc" font-family="system-ui, sans-serif">
<title id="{prefix}-title">{escape(title)}</title>
<desc id="{prefix}-desc">{escape(description)}</desc>
<defs><pattern id="{prefix}-hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="5" height="5" fill="{look.paper}"/>{line}
</pattern></defs>"""


# ----------------------------------------------------------------------------------------------------------- sections


def _section(section: _Section, pen: _Pen) -> str:
    look = pen.look
    (x, y), half = section.middle, section.half_width
    above = y - section.front
    # R and L beside the gland, or where there is no room above its shoulders
    aside, height = (half + look.sides, y + 8) if look.sides is not None else (half - 6, above - 6)
    parts = [
        f'<g class="level" data-level="{section.level}">',
        _text(x, 16 if look is _LIGHT else above - 11, section.title, size=look.title, weight=600, fill=look.ink),
        _text(x - aside, height, "R", size=look.title - 1, weight=600, fill=look.soft),
        _text(x + aside, height, "L", size=look.title - 1, weight=600, fill=look.soft),
    ]
    drawn, labels = [], []
    for side in "RL":
        for one in (s for s in SECTORS if s.level == section.level and s.side == side):
            outline, at = _wedge(section, one)
            drawn.append((pen.marked(one), _sector(one, outline, pen)))
            labels.append(_label(one, at, pen))
    parts += [text for marked, text in drawn if not marked]
    parts.append(f'<path d="{_ring(section)}" fill="none" stroke="{look.ring}" stroke-width="1.6"/>')
    # The selected ones after all whose borders would cover theirs.
    parts += [text for marked, text in drawn if marked]
    parts.append(
        f'<circle cx="{x:g}" cy="{y:g}" r="{4 * look.scale:g}" fill="{look.paper}" stroke="{look.soft}">'
        "<title>urethra (a landmark, no sector)</title></circle>"
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


def _extras(pen: _Pen) -> str:
    """Seminal vesicles and external urethral sphincter: outside the gland, so outside the sections."""
    look = pen.look
    size = look.scale
    parts = ['<g class="level" data-level="beside">']
    for side, (x, y) in look.vesicles.items():
        one = sector(f"SV---{side}")
        tilt = 9 if side == "R" else -9
        points = [
            _turned((x, y), size * 50 * math.cos(t), size * (13 * math.sin(t) + 3 * math.sin(5 * t)), tilt)
            for t in (2 * math.pi * i / 40 for i in range(40))
        ]
        parts.append(_sector(one, _path(points), pen))
        parts.append(_label(one, (x, y), pen))
    x, y = look.sphincter
    one = sector("US-apex--")
    ring = [
        (x + size * 26 * math.cos(2 * math.pi * i / 40), y + size * 17 * math.sin(2 * math.pi * i / 40))
        for i in range(40)
    ]
    parts.append(_sector(one, _path(ring), pen))
    parts.append(_label(one, (x, y), pen))
    parts += [
        _text(x, y, words, size=look.caption, fill=look.soft, anchor=anchor) for x, y, words, anchor in look.captions
    ]
    left, top = look.swatch
    parts.append(
        f'<rect x="{left:g}" y="{top:g}" width="16" height="10" fill="url(#{pen.prefix}-hatch)" '
        f'stroke="{look.border}"/>'
    )
    parts.append(_text(left + 22, top + 5.5, "not segmented", size=look.caption, fill=look.soft, anchor="start"))
    parts.append("</g>")
    return "\n".join(parts)


# ------------------------------------------------------------------------------------------------------------- pieces


def _sector(one: Sector, outline: str, pen: _Pen) -> str:
    look, lights = pen.look, pen.lights(one)
    unsegmented = one.zone in UNSEGMENTED
    border, width = look.border, "0.9"
    if lights:
        said = f"{one.long_name}: {_shares(lights)}"
        fill, kind, extra = _fill(lights, look), "sector lit", f' data-share="{lights[0].share:.4f}"'
        if look.small:
            kind += " pointer selected" if pen.marked(one) else " pointer"
            extra += f' data-lesion="{pen.named(one)}" cursor="pointer"'
            border, width = ("#ffffff", "2.2") if pen.marked(one) else (lights[0].border, "1.2")
    elif unsegmented:
        said = f"{one.long_name}: not segmented"
        fill, kind, extra = f"url(#{pen.prefix}-hatch)", "sector unsegmented", ""
    else:
        said = f"{one.long_name}: not involved"
        fill, kind, extra = look.unlit, "sector", ""
    return (
        f'<g id="{pen.prefix}-{one.key}" class="{kind}" role="img" data-sector="{one.key}"{extra}'
        f" aria-label={quoteattr(said)}><title>{escape(said)}</title>"
        f'<path d="{outline}" fill="{fill}" stroke="{border}" stroke-width="{width}" stroke-linejoin="round"/></g>'
    )


def _fill(lights: Sequence[Light], look: _Look) -> str:
    """Nearer to the ground where less of the lesion lies, never so near that it reads as unlit."""
    return _mix(lights[0].colour, 0.35 + 0.65 * max(x.share for x in lights), look.unlit if look.small else "#ffffff")


def _label(one: Sector, at: Place, pen: _Pen) -> str:
    look, lights = pen.look, pen.lights(one)
    x, y = at
    name = one.zone + (one.sub if one.sub != "-" else "")
    if look.small:
        if not lights:
            return ""
        number = pen.named(one) + ("+" if len(lights) > 1 else "")
        return _text(x, y, number, size=11, weight=700, fill=text_on(_fill(lights, look)))
    if not lights:
        return _text(x, y, name, size=9, fill="#6f7989")
    ink = text_on(_fill(lights, look))
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


def _mix(colour: str, weight: float, ground: str) -> str:
    """A colour blended with another one; 1 keeps it."""
    parts = (round(int(colour[i : i + 2], 16) * weight + int(ground[i : i + 2], 16) * (1 - weight)) for i in (1, 3, 5))
    return "#" + "".join(f"{p:02x}" for p in parts)
