"""Regions of all PI-RADS categories, as attribute values drawn from archetypes, and their shape in the gland.

A *region* is what a reader would describe: a suspicious focus, a BPH nodule, a wedge of prostatitis. Its attribute
values are drawn first (so truth is known), then it is painted with them. Archetypes keep the combinations plausible; a
share of values is drawn freely, so that a model cannot read one attribute off another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from MedRationaleLogic.pirads import rules

Values = dict[str, str]
Weights = dict[str, float]

#: Attributes in the order of every label tensor of the simulation.
ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "t2.pattern": ("normal", "focal", "linear", "wedge", "diffuse", "nodule"),
    "t2.signal": ("hyper", "iso", "mild_hypo", "moderate_hypo"),
    "t2.texture": ("homogeneous", "heterogeneous"),
    "t2.margin": ("circumscribed", "non_circumscribed", "obscured", "indistinct", "spiculated"),
    "t2.shape": ("round", "lenticular", "drop", "irregular"),
    "t2.capsule": ("none", "partial", "complete"),
    "adc.signal": ("normal", "altered", "marked"),
    "adc.pattern": ("none", "linear", "wedge", "focal", "diffuse"),
    "hbv.signal": ("normal", "altered", "marked"),
    "hbv.pattern": ("none", "linear", "wedge", "focal", "diffuse"),
}

#: Share of seen values that are drawn freely instead of from the archetype.
FREE_SHARE: Final = 0.12


@dataclass(frozen=True)
class Archetype:
    """How often a kind of region occurs in a zone, how large it is, and which values it tends to have."""

    name: str
    zone: rules.Zone
    weight: float
    diameter_mm: tuple[float, float]  # median and geometric spread of a log-normal
    values: dict[str, Weights]


def _only(value: str) -> Weights:
    return {value: 1.0}


_MARKED = {"marked": 0.85, "altered": 0.15}
# mimics come as dark on ADC and as bright on high-b as lesions do: what they are not must be seen elsewhere
_MIMIC = {"altered": 0.5, "normal": 0.1, "marked": 0.4}
_QUIET = {"normal": 0.45, "altered": 0.35, "marked": 0.2}

ARCHETYPES: Final[tuple[Archetype, ...]] = (
    Archetype("suspicious focus", "PZ", 3.0, (12.5, 1.55), {
        "t2.pattern": _only("focal"), "t2.signal": {"moderate_hypo": 0.9, "mild_hypo": 0.1},
        "t2.texture": {"homogeneous": 0.85, "heterogeneous": 0.15},
        "t2.margin": {"circumscribed": 0.65, "non_circumscribed": 0.25, "spiculated": 0.1},
        "t2.shape": {"round": 0.4, "lenticular": 0.25, "irregular": 0.3, "drop": 0.05}, "t2.capsule": _only("none"),
        "adc.signal": _MARKED, "hbv.signal": _MARKED}),
    Archetype("equivocal focus", "PZ", 1.6, (9.0, 1.4), {
        "t2.pattern": _only("focal"), "t2.signal": {"moderate_hypo": 0.5, "mild_hypo": 0.5},
        "t2.texture": {"heterogeneous": 0.6, "homogeneous": 0.4},
        "t2.margin": {"non_circumscribed": 0.5, "indistinct": 0.4, "circumscribed": 0.1},
        "t2.shape": {"round": 0.5, "irregular": 0.5}, "t2.capsule": _only("none"),
        "adc.signal": {"altered": 0.55, "marked": 0.45},
        "hbv.signal": {"altered": 0.6, "normal": 0.15, "marked": 0.25}}),
    Archetype("wedge of prostatitis", "PZ", 1.2, (14.0, 1.3), {
        "t2.pattern": _only("wedge"), "t2.signal": {"mild_hypo": 0.6, "moderate_hypo": 0.4},
        "t2.texture": {"homogeneous": 0.5, "heterogeneous": 0.5},
        "t2.margin": {"indistinct": 0.8, "circumscribed": 0.2}, "t2.shape": _only("irregular"),
        "t2.capsule": _only("none"), "adc.signal": _MIMIC, "hbv.signal": _QUIET}),
    Archetype("linear band", "PZ", 1.0, (13.0, 1.3), {
        "t2.pattern": _only("linear"), "t2.signal": {"mild_hypo": 0.6, "moderate_hypo": 0.4},
        "t2.texture": _only("homogeneous"), "t2.margin": {"indistinct": 0.7, "circumscribed": 0.3},
        "t2.shape": _only("irregular"), "t2.capsule": _only("none"), "adc.signal": _QUIET, "hbv.signal": _QUIET}),
    Archetype("diffuse change", "PZ", 1.0, (24.0, 1.2), {
        "t2.pattern": _only("diffuse"), "t2.signal": {"mild_hypo": 0.9, "moderate_hypo": 0.1},
        "t2.texture": {"heterogeneous": 0.6, "homogeneous": 0.4}, "t2.margin": _only("indistinct"),
        "t2.shape": _only("irregular"), "t2.capsule": _only("none"), "adc.signal": _MIMIC, "hbv.signal": _QUIET}),
    Archetype("haemorrhage", "PZ", 0.5, (11.0, 1.4), {
        "t2.pattern": {"focal": 0.5, "wedge": 0.5}, "t2.signal": {"moderate_hypo": 0.6, "mild_hypo": 0.4},
        "t2.texture": {"homogeneous": 0.5, "heterogeneous": 0.5},
        "t2.margin": {"indistinct": 0.6, "circumscribed": 0.4}, "t2.shape": {"irregular": 0.7, "round": 0.3},
        "t2.capsule": _only("none"), "adc.signal": {"altered": 0.5, "marked": 0.5}, "hbv.signal": _only("normal")}),
    Archetype("extruded nodule", "PZ", 0.5, (9.0, 1.3), {
        "t2.pattern": _only("nodule"), "t2.signal": {"iso": 0.3, "mild_hypo": 0.4, "moderate_hypo": 0.3},
        "t2.texture": {"heterogeneous": 0.6, "homogeneous": 0.4}, "t2.margin": _only("circumscribed"),
        "t2.shape": _only("round"), "t2.capsule": {"complete": 0.7, "partial": 0.3},
        "adc.signal": {"altered": 0.6, "normal": 0.2, "marked": 0.2}, "hbv.signal": _QUIET}),
    Archetype("suspicious focus", "TZ", 1.8, (16.0, 1.5), {
        "t2.pattern": _only("focal"), "t2.signal": {"moderate_hypo": 0.92, "mild_hypo": 0.08},
        "t2.texture": {"homogeneous": 0.9, "heterogeneous": 0.1},
        "t2.margin": {"non_circumscribed": 0.6, "indistinct": 0.2, "spiculated": 0.1, "circumscribed": 0.1},
        "t2.shape": {"lenticular": 0.55, "irregular": 0.25, "drop": 0.2}, "t2.capsule": _only("none"),
        "adc.signal": _MARKED, "hbv.signal": _MARKED}),
    Archetype("obscured area", "TZ", 1.2, (13.0, 1.4), {
        "t2.pattern": _only("focal"), "t2.signal": {"mild_hypo": 0.5, "moderate_hypo": 0.5},
        "t2.texture": {"heterogeneous": 0.85, "homogeneous": 0.15}, "t2.margin": {"obscured": 0.85, "indistinct": 0.15},
        "t2.shape": {"irregular": 0.6, "round": 0.4}, "t2.capsule": _only("none"),
        "adc.signal": {"altered": 0.5, "marked": 0.4, "normal": 0.1},
        "hbv.signal": {"altered": 0.5, "normal": 0.25, "marked": 0.25}}),
    Archetype("typical nodule", "TZ", 1.8, (12.0, 1.5), {
        "t2.pattern": _only("nodule"),
        "t2.signal": {"hyper": 0.25, "iso": 0.35, "mild_hypo": 0.25, "moderate_hypo": 0.15},
        "t2.texture": {"heterogeneous": 0.6, "homogeneous": 0.4}, "t2.margin": _only("circumscribed"),
        "t2.shape": _only("round"), "t2.capsule": _only("complete"),
        "adc.signal": {"normal": 0.4, "altered": 0.35, "marked": 0.25}, "hbv.signal": _QUIET}),
    Archetype("atypical nodule", "TZ", 1.2, (11.0, 1.4), {
        "t2.pattern": _only("nodule"), "t2.signal": {"iso": 0.2, "mild_hypo": 0.4, "moderate_hypo": 0.4},
        "t2.texture": {"homogeneous": 0.7, "heterogeneous": 0.3}, "t2.margin": _only("circumscribed"),
        "t2.shape": {"round": 0.7, "irregular": 0.3}, "t2.capsule": {"partial": 0.6, "none": 0.4},
        "adc.signal": {"altered": 0.4, "normal": 0.1, "marked": 0.5},
        "hbv.signal": {"normal": 0.3, "altered": 0.3, "marked": 0.4}}),
    Archetype("area between nodules", "TZ", 0.8, (10.0, 1.4), {
        "t2.pattern": _only("focal"), "t2.signal": _only("mild_hypo"), "t2.texture": _only("homogeneous"),
        "t2.margin": {"indistinct": 0.6, "non_circumscribed": 0.4}, "t2.shape": {"irregular": 0.7, "lenticular": 0.3},
        "t2.capsule": _only("none"), "adc.signal": {"normal": 0.4, "altered": 0.6}, "hbv.signal": _QUIET}),
    Archetype("cyst", "TZ", 0.4, (7.0, 1.4), {
        "t2.pattern": _only("nodule"), "t2.signal": _only("hyper"), "t2.texture": _only("homogeneous"),
        "t2.margin": _only("circumscribed"), "t2.shape": _only("round"), "t2.capsule": {"none": 0.6, "complete": 0.4},
        "adc.signal": _only("normal"), "hbv.signal": _only("normal")}),
)  # fmt: skip


@dataclass(frozen=True)
class Region:
    """One drawn region: what it is (values), where (mm from the gland's centre, (z, y, x)), and how it is shaped.

    ``waves`` are (amplitude, kz, ky, kx, phase) rows of the plane waves that make its outline irregular; they are
    functions of patient space, so the region has one outline on every grid.
    """

    archetype: str
    zone: rules.Zone
    values: Values
    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    angle: float
    waves: Tensor
    capsule_wave: tuple[float, float]
    levels: tuple[float, float, float]
    """Relative T2W, ADC and high-b level against the zone around it."""
    diameter_mm: float
    within: rules.Zone | None = None
    """The zone that the region's outline keeps to; None lets it cross from one into the other."""
    spicules: tuple[float, float, float] = (0.0, 8.0, 0.0)
    """Height (mm), number and phase of the spikes around a spiculated margin."""

    def scaled(self, factor: float) -> Region:
        """An outline of the same kind, larger or smaller; its lobes may be others, for they hang on where they lie."""
        z, y, x = self.radii
        waves = self.waves.clone()
        waves[:, 0] *= factor
        waves[:, 1:4] /= factor
        height, count, phase = self.spicules
        return replace(
            self, radii=(z * factor, y * factor, x * factor), waves=waves, spicules=(height * factor, count, phase)
        )

    @property
    def t2w_score(self) -> int:
        """Rule of PI-RADS v2.1 on the drawn values."""
        return rules.t2w_score(self.zone, self.values, self.diameter_mm)

    @property
    def dwi_score(self) -> int:
        """Rule of PI-RADS v2.1 on the drawn values."""
        return rules.dwi_score(self.values, self.diameter_mm)

    @property
    def category(self) -> int:
        """Biparametric category (DCE X)."""
        category = rules.overall(self.zone, self.t2w_score, self.dwi_score, "X")
        assert isinstance(category, int)
        return category


def uniform(g: torch.Generator, low: float, high: float) -> float:
    """One number from U(low, high)."""
    return low + (high - low) * float(torch.rand((), generator=g))


def choose(g: torch.Generator, weights: Weights) -> str:
    """One key, drawn by weight."""
    names = list(weights)
    index = torch.multinomial(torch.tensor([weights[n] for n in names]), 1, generator=g)
    return names[int(index)]


def draw_values(g: torch.Generator, archetype: Archetype) -> Values:
    """Attribute values of one region: the archetype's, some drawn freely, kept physically consistent."""
    values = {a: choose(g, w) for a, w in archetype.values.items()}
    free = ["t2.signal", "t2.texture", "adc.signal", "hbv.signal"]
    if values["t2.pattern"] != "nodule":  # a nodule without an edge is no nodule
        free += ["t2.margin"]
    if values["t2.pattern"] in ("focal", "nodule"):
        free += ["t2.shape", "t2.capsule"]
    for attribute in free:
        if uniform(g, 0, 1) < FREE_SHARE:
            values[attribute] = choose(g, dict.fromkeys(ATTRIBUTES[attribute], 1.0))
    if values["t2.capsule"] != "none":  # a capsule is a sharp edge
        values["t2.margin"] = "circumscribed"
    extent = "focal" if values["t2.pattern"] in ("focal", "nodule") else values["t2.pattern"]
    for sequence in ("adc", "hbv"):
        values[f"{sequence}.pattern"] = "none" if values[f"{sequence}.signal"] == "normal" else extent
    return values


_T2W_LEVEL = {"hyper": (1.35, 1.7), "iso": (0.95, 1.08), "mild_hypo": (0.72, 0.84), "moderate_hypo": (0.42, 0.6)}
_ADC_LEVEL = {"normal": (0.95, 1.06), "altered": (0.64, 0.8), "marked": (0.4, 0.57)}
_HBV_LEVEL = {"normal": (0.88, 1.1), "altered": (1.4, 1.9), "marked": (2.2, 4.2)}


def draw_diameter(g: torch.Generator, archetype: Archetype) -> float:
    """A diameter (mm) from the archetype's log-normal, 5 to 42 mm."""
    median, spread = archetype.diameter_mm
    diameter = float(median * math.exp(math.log(spread) * float(torch.randn((), generator=g))))
    return min(max(diameter, 5.0), 42.0)


def draw_region(
    g: torch.Generator, archetype: Archetype, center: tuple[float, float, float], *, values: Values | None = None,
    diameter: float | None = None, within: rules.Zone | None = None,
) -> Region:  # fmt: skip
    """One region of an archetype around ``center`` (mm from the gland's centre, (z, y, x)).

    Args:
        g: what is not given is drawn from it.
        archetype: the kind.
        center: of the region.
        values: its attribute values.
        diameter: of its long axis in plane, mm, before the gland's border cuts it.
        within: the zone that its outline keeps to.
    """
    if values is None:
        values = draw_values(g, archetype)
    if diameter is None:
        diameter = draw_diameter(g, archetype)
    r = diameter / 2
    shape, margin = values["t2.shape"], values["t2.margin"]
    flat = {"round": (0.9, 1.0), "lenticular": (0.34, 0.46), "drop": (0.55, 0.7), "irregular": (0.6, 0.9)}[shape]
    if values["t2.pattern"] == "linear":
        flat = (0.18, 0.25)
    radii = (r * uniform(g, 0.7, 1.0), r * uniform(g, *flat), r)
    ragged = {"round": 0.03, "lenticular": 0.04, "drop": 0.05, "irregular": 0.32}[shape]
    ragged += {"non_circumscribed": 0.1, "obscured": 0.08}.get(margin, 0.0)
    count = 8
    waves = torch.randn((count, 5), generator=g)
    # wavelengths of about a radius make lobes
    length = max(3.0, 0.9 * r)
    waves[:, 1:4] *= 2 * math.pi / length / math.sqrt(3)
    waves[:, 0] = ragged * r * waves[:, 0] / math.sqrt(count)
    spicules = (0.4 * r if margin == "spiculated" else 0.0, round(uniform(g, 6, 10)), uniform(g, 0, 2 * math.pi))
    return Region(
        archetype=archetype.name, zone=archetype.zone, values=values, center=center, radii=radii,
        angle=uniform(g, -0.5, 0.5), waves=waves, capsule_wave=(uniform(g, 0, 2 * math.pi), uniform(g, 0.5, 0.8)),
        levels=(uniform(g, *_T2W_LEVEL[values["t2.signal"]]), uniform(g, *_ADC_LEVEL[values["adc.signal"]]),
                uniform(g, *_HBV_LEVEL[values["hbv.signal"]])),
        diameter_mm=diameter, within=within, spicules=spicules,
    )  # fmt: skip


def signed_distance(region: Region, p: Tensor, gland: Tensor, transition: Tensor) -> Tensor:
    """Approximate millimetres to the region's outline, negative inside, on points ``p`` (3, z, y, x) mm.

    ``gland`` and ``transition`` are the zones' signed distances at the same points: a region stays in the gland, and
    wedges, bands and diffuse change stay in the PZ.
    """
    c = region.center
    z, y, x = p[0] - c[0], p[1] - c[1], p[2] - c[2]
    wobble = torch.zeros_like(z)
    for amplitude, kz, ky, kx, phase in region.waves.tolist():
        wobble += amplitude * torch.cos(kz * p[0] + ky * p[1] + kx * p[2] + 6.28 * phase)
    pattern = region.values["t2.pattern"]
    rz, ry, rx = region.radii
    if pattern in ("wedge", "linear"):
        # a direction from the gland's centre out to the capsule; wide at the capsule, narrow inside
        theta = math.atan2(c[2], c[1] + 6.0)
        depth = math.cos(theta) * y + math.sin(theta) * x  # grows outwards
        across = -math.sin(theta) * y + math.cos(theta) * x
        half = 0.5 * (depth + rx).clamp(min=0.0) if pattern == "wedge" else torch.full_like(depth, max(1.3, ry))
        distance = torch.maximum(torch.maximum(across.abs() - half, depth.abs() - rx), z.abs() - rz)
        distance = distance + 0.25 * wobble
    elif pattern == "diffuse":
        side = -math.copysign(1.0, c[2]) * (p[2] - math.copysign(3.0, c[2]))
        distance = torch.maximum(side, z.abs() - 1.3 * rz) + wobble
    else:
        cos, sin = math.cos(region.angle), math.sin(region.angle)
        if region.zone == "PZ":  # follow the capsule around the gland
            theta = math.atan2(c[2], c[1] + 6.0) + 0.3 * region.angle
            cos, sin = math.cos(theta), math.sin(theta)
        along, across = cos * x - sin * y, sin * x + cos * y
        if region.values["t2.shape"] == "drop":
            ry_local = ry * (1.0 - 0.75 * along / rx).clamp(0.15, 1.7)
            u = torch.sqrt((z / rz) ** 2 + (across / ry_local) ** 2 + (along / rx) ** 2)
        else:
            u = torch.sqrt((z / rz) ** 2 + (across / ry) ** 2 + (along / rx) ** 2)
        distance = (u - 1.0) * (rz * ry * rx) ** (1 / 3) + wobble
        height, count, phase = region.spicules
        if height > 0:  # thin rays in plane; as many on every slice, since they are thinner than a slice
            distance = (
                distance - min(height, 4.0) * torch.cos(count * torch.atan2(across, along) + phase).clamp(min=0) ** 4
            )
    distance = torch.maximum(distance, gland)
    if pattern in ("wedge", "linear", "diffuse") or region.within == "PZ":
        distance = torch.maximum(distance, -transition)
    elif region.within == "TZ":
        distance = torch.maximum(distance, transition)
    elif pattern == "nodule" and region.zone == "TZ":
        distance = torch.maximum(distance, transition - 1.0)
    return distance
