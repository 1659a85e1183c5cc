"""A simulated bpMRI study: anatomy warped from a label map, a pelvis around it, regions, physics, artefacts.

Coordinates are millimetres (z, y, x) from the gland's centre: z to the head, y to the back, x to the patient's left,
the axes of an unrotated axial scan. Gland, zones and regions are functions of these coordinates, so that the same study
can be shown on any grid; the organs around are, too, but for the roughness of their borders. Intensities follow what
was measured in the real scans (docs/simulation.md): T2W relative, ADC in 1e-3 mm2/s, high-b from S0 exp(-b ADC) with
Rician noise on its own 2 mm grid. Domain randomisation after SynthSeg (Billot 2023).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from MedRationaleLogic.model.grids import COARSE, DIFFUSION, FINE, GridSpec
from MedRationaleLogic.pirads import rules
from MedRationaleLogic.simulation import labels, lesions
from MedRationaleLogic.simulation.regions import (
    ARCHETYPES,
    Archetype,
    Region,
    Values,
    choose,
    draw_diameter,
    draw_region,
    draw_values,
    signed_distance,
    uniform,
)
from MedRationaleLogic.simulation.scanner import SCANNERS, Scanner

VERSION = "0.2.0"
MAX_REGIONS = 6

Domain = Literal["seen", "unseen"]
Offset = tuple[float, float, float]


@dataclass
class Picture:
    """One sequence of a study on one grid, (z, y, x).

    Attributes:
        image: float32.
        regions: uint8 numbers of its regions, 0 = none.
        b_value: of a high-b image, s/mm2.
    """

    image: Tensor
    regions: Tensor
    b_value: float | None = None


@dataclass
class SimulatedStudy:
    """Images on the model's grids and the truth they were drawn from.

    Attributes:
        t2w, adc, hbv: pictures on ``FINE``, ``DIFFUSION``, ``DIFFUSION``.
        zones: uint8 on ``FINE``: 0 background, 1 PZ, 2 TZ.
        offsets: millimetres (z, y, x) from the gland's centre to each grid's middle, by sequence.
        drawn: the regions; number i + 1 in the pictures' region maps.
        coarse: one random sequence on ``COARSE``, as (sequence index, image, gland mask).
    """

    t2w: Picture
    adc: Picture
    hbv: Picture
    zones: Tensor
    offsets: dict[str, tuple[float, float, float]]
    drawn: list[Region]
    coarse: tuple[int, Tensor, Tensor] | None = None
    patient: str = ""


def points(spec: GridSpec, offset: Offset, device: torch.device | str | None = None) -> Tensor:
    """Millimetres (3, z, y, x) of a grid's voxel centres from the gland's centre."""
    axes = [
        (torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2) * s + o
        for n, s, o in zip(spec.shape, spec.spacing, offset, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def smooth_noise(
    g: torch.Generator, spec: GridSpec, scale_mm: float, device: torch.device | str | None = None
) -> Tensor:
    """Unit-variance noise, correlated over about ``scale_mm``; drawn coarse on the CPU, grown on ``device``."""
    size = [max(2, math.ceil(n * s / scale_mm) + 1) for n, s in zip(spec.shape, spec.spacing, strict=True)]
    small = torch.randn((1, 1, *size), generator=g).to(device)
    big = F.interpolate(small, spec.shape, mode="trilinear", align_corners=True)[0, 0]
    return (big - big.mean()) / (big.std() + 1e-6)


def _step(distance: Tensor, width: float = 0.6) -> Tensor:
    """1 inside (negative distance), 0 outside, a soft edge of ``width`` mm."""
    return torch.sigmoid(-distance / width)


def _line(distance: Tensor, half: float) -> Tensor:
    """1 on the zero surface, falling off over ``half`` mm."""
    return torch.exp(-((distance / half) ** 2))


@dataclass
class Scene:
    """The anatomy of one study, before it is imaged."""

    gland: Tensor
    transition: Tensor
    matrix: Tensor
    elastic: Tensor
    p: dict[str, float] = field(default_factory=dict)
    drawn: list[Region] = field(default_factory=list)
    seen: dict[tuple[GridSpec, Offset], tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def on(self, spec: GridSpec, offset: Offset) -> tuple[Tensor, Tensor, Tensor]:
        """Points, gland and TZ distance on a grid; computed once."""
        key = (spec, offset)
        if key not in self.seen:
            at = points(spec, offset, self.gland.device)
            if spec.spacing[1] >= 1.0:
                self.seen[key] = (at, *self.distances(at))
            else:  # distances are smooth: half the resolution in plane loses nothing, and costs a quarter
                small = (spec.shape[0], spec.shape[1] // 2 + 1, spec.shape[2] // 2 + 1)
                rough = F.interpolate(at[None], small, mode="trilinear", align_corners=True)[0]
                maps = torch.stack(self.distances(rough))[None]
                gland, transition = F.interpolate(maps, spec.shape, mode="trilinear", align_corners=True)[0]
                self.seen[key] = (at, gland, transition)
        return self.seen[key]

    def to(self, device: torch.device | str | None) -> Scene:
        """The same scene, to be painted on ``device``."""
        if device is None:
            return self
        gland, transition, matrix, elastic = (
            x.to(device) for x in (self.gland, self.transition, self.matrix, self.elastic)
        )
        return Scene(gland, transition, matrix, elastic, self.p, self.drawn)

    def distances(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gland and TZ signed distance (mm) at points (3, z, y, x)."""
        half = torch.tensor([(n - 1) * s / 2 for n, s in zip(labels.SHAPE, labels.SPACING, strict=True)]).to(x)
        flat = x.reshape(3, -1)
        shift = F.grid_sample(
            self.elastic[None], (flat.T / 100.0).flip(-1)[None, None, None], align_corners=True, padding_mode="border"
        )[0].reshape(3, -1)
        at = (self.matrix @ flat + shift) / half[:, None]
        maps = torch.stack([self.gland, self.transition])[None]
        values = F.grid_sample(maps, at.T.flip(-1)[None, None, None], align_corners=True, padding_mode="border")
        values = values.reshape(2, *x.shape[1:])
        beyond = (at.abs() - 1).clamp(min=0).mul(half[:, None]).square().sum(0).sqrt().reshape(x.shape[1:])
        gland = values[0] + beyond
        return gland, torch.maximum(values[1] + beyond, gland)


def draw_scene(g: torch.Generator, gland: Tensor, transition: Tensor, offset: Offset = (0.0, 0.0, 0.0)) -> Scene:
    """Anatomy from one label map: affine and elastic warp, pelvis parameters, regions.

    Args:
        g: what everything is drawn from.
        gland: signed distance (mm) on the label maps' grid.
        transition: the same of the TZ.
        offset: millimetres (z, y, x) from the gland's centre to the fine grid's middle: regions are seen and measured
            on that grid.
    """
    scale = torch.tensor([uniform(g, 0.85, 1.18), 0.0, 0.0])
    scale[1] = uniform(g, 0.85, 1.18)
    scale[2] = uniform(g, 0.85, 1.18)
    a, b = uniform(g, -0.17, 0.17), uniform(g, -0.25, 0.25)
    rotate_z = torch.tensor([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    rotate_x = torch.tensor([[math.cos(b), -math.sin(b), 0], [math.sin(b), math.cos(b), 0], [0, 0, 1]])
    flip = torch.tensor([1.0, 1.0, -1.0 if uniform(g, 0, 1) < 0.5 else 1.0])
    matrix = torch.diag(flip / scale) @ rotate_z @ rotate_x
    elastic = torch.randn((3, 7, 7, 7), generator=g) * uniform(g, 0.5, 3.0)
    coil = uniform(g, 0, 1) < 0.2
    inside = gland < 0
    grid = points(GridSpec(labels.SHAPE, labels.SPACING), (0.0, 0.0, 0.0))
    top, back = float(grid[0][inside].max()) * float(scale[0]), float(grid[1][inside].max()) * float(scale[1])
    side, front = float(grid[2][inside].max()) * float(scale[2]), float(grid[1][inside].min()) * float(scale[1])
    p = {
        "top": top, "back": back, "side": side, "front": front, "coil": float(coil),
        "rectum_r": uniform(g, 17, 24) if coil else uniform(g, 7, 19), "rectum_x": uniform(g, -6, 6),
        "rectum_gap": uniform(g, -1.0, 1.5) if coil else uniform(g, 0.0, 5.0), "rectum_tilt": uniform(g, -0.2, 0.5),
        "bladder_r": uniform(g, 12, 42), "bladder_y": uniform(g, -22, 5), "bladder_z": uniform(g, -4, 10),
        "muscle_x": max(side + uniform(g, 3, 12), 28.0), "muscle_tilt": uniform(g, -0.2, 0.45),
        "muscle_w": uniform(g, 10, 22), "bone_y": front - uniform(g, 8, 22), "bone_z": uniform(g, -30, 5),
        "hip_x": uniform(g, 62, 80), "levator": side + uniform(g, 1.5, 5.0),
    }  # fmt: skip
    scene = Scene(gland, transition, matrix, elastic, p)
    scene.drawn = _draw_regions(g, scene, offset)
    return scene


# ---------------------------------------------------------------------------------------------------------------------
# Regions

#: Share of studies with a region of category >= 4.
POSITIVE_SHARE: Final = 0.5
#: Benign regions and mimics drawn beside them: count -> weight.
BENIGN: Final = {"0": 0.15, "1": 0.3, "2": 0.3, "3": 0.25}
#: Fewest voxels of the fine grid that a region may show.
MIN_VOXELS: Final = 20
# Kinds whose size is that of real lesions: a mimic told apart by size alone would be too easy.
_LESION_SIZED: Final = frozenset(
    {"suspicious focus", "equivocal focus", "haemorrhage", "extruded nodule", "obscured area", "atypical nodule",
     "area between nodules"}
)  # fmt: skip
_DIRECTIONS: Final = tuple((math.cos(k * math.pi / 12), math.sin(k * math.pi / 12)) for k in range(12))


@dataclass
class _Map:
    """Where regions may lie: the zones on a rough grid, and what is taken by others."""

    at: Tensor
    gland: Tensor
    transition: Tensor
    inside: Tensor
    taken: Tensor


def _draw_regions(g: torch.Generator, scene: Scene, offset: Offset) -> list[Region]:
    """At most ``MAX_REGIONS``: first the lesions, then what is benign around them; the lesions are painted last."""
    spec = GridSpec((24, 40, 40), (3.0, 2.0, 2.0))
    at = points(spec, (0.0, 0.0, 0.0))
    gland, transition = scene.distances(at)
    half = [n * s / 2 - 4.0 for n, s in zip(FINE.shape, FINE.spacing, strict=True)]
    inside = gland < -1.0
    for axis in range(3):
        inside &= (at[axis] - offset[axis]).abs() < half[axis]
    rough = _Map(at, gland, transition, inside, torch.zeros_like(inside))
    grid = scene.on(FINE, offset)
    positive = uniform(g, 0, 1) < POSITIVE_SHARE
    count = lesions.draw_number(g) if positive else 0
    suspicious = [r for r in (_draw_lesion(g, rough, grid) for _ in range(count)) if r is not None]
    count = int(choose(g, BENIGN))
    benign = [r for r in (_draw_benign(g, rough, grid) for _ in range(count)) if r is not None]
    return benign + suspicious


def _category(archetype: Archetype, values: Values, diameter: float) -> int:
    t2w, dwi = rules.t2w_score(archetype.zone, values, diameter), rules.dwi_score(values, diameter)
    category = rules.overall(archetype.zone, t2w, dwi, "X")
    assert isinstance(category, int)
    return category


def _diameter_of(volume_ml: float) -> float:
    """Diameter (mm) of the ball of a volume."""
    return float((6000.0 * volume_ml / math.pi) ** (1 / 3))


def _draw_lesion(g: torch.Generator, rough: _Map, grid: tuple[Tensor, Tensor, Tensor]) -> Region | None:
    """One region of category >= 4 with the volume and the share of the PZ of a real lesion."""
    volume = lesions.draw_volume(g)
    share = lesions.draw_pz_share(g, volume)
    zone: rules.Zone = "PZ" if share >= 0.5 else "TZ"
    center = _place_lesion(g, rough, volume, share)
    if center is None:
        return None
    kinds = {
        str(i): a.weight * (3.0 if a.name == "suspicious focus" else 0.4)
        for i, a in enumerate(ARCHETYPES)
        if a.zone == zone and a.name in _LESION_SIZED
    }
    ball = _diameter_of(volume)
    within: rules.Zone | None = "PZ" if share > 0.999 else "TZ" if share < 0.001 else None
    for _ in range(60):
        archetype = ARCHETYPES[int(choose(g, kinds))]
        values = draw_values(g, archetype)
        if _category(archetype, values, 0.9 * ball) < 4:
            continue
        region = draw_region(g, archetype, center, values=values, diameter=1.2 * ball, within=within)
        fitted = _fit(region, grid, volume)
        if fitted is not None and fitted.category >= 4:
            _take(rough, fitted)
            return fitted
    return None


def _draw_benign(g: torch.Generator, rough: _Map, grid: tuple[Tensor, Tensor, Tensor]) -> Region | None:
    """One region of category 1 to 3: benign change, or a mimic of a lesion's size and contrast."""
    kinds = {str(i): a.weight for i, a in enumerate(ARCHETYPES)}
    for _ in range(20):
        archetype = ARCHETYPES[int(choose(g, kinds))]
        values = draw_values(g, archetype)
        volume = lesions.draw_volume(g, 0.9) if archetype.name in _LESION_SIZED else None
        diameter = 1.2 * _diameter_of(volume) if volume else draw_diameter(g, archetype)
        if _category(archetype, values, 1.6 * diameter) >= 4:
            continue
        where = rough.transition > 1.0 if archetype.zone == "PZ" else rough.transition < -2.5
        index = (rough.inside & where & ~rough.taken).nonzero()
        if len(index) < 5:
            continue
        z, y, x = index[int(torch.randint(len(index), (), generator=g))].tolist()
        center = _point(rough, z, y, x)
        within: rules.Zone | None = archetype.zone if uniform(g, 0, 1) < 0.6 else None
        region = draw_region(g, archetype, center, values=values, diameter=diameter, within=within)
        fitted = _fit(region, grid, volume)
        if fitted is not None and fitted.category <= 3:
            _take(rough, fitted)
            return fitted
    return None


def _point(rough: _Map, z: int, y: int, x: int) -> Offset:
    c = rough.at[:, z, y, x].tolist()
    return (c[0], c[1], c[2])


def _take(rough: _Map, region: Region) -> None:
    """Keep the centres of later regions away from this one."""
    c = torch.tensor(region.center)[:, None, None, None]
    reach = 8.0 if region.values["t2.pattern"] == "diffuse" else max(region.radii) + 6.0
    rough.taken |= (rough.at - c).square().sum(0) < reach**2


def _place_lesion(g: torch.Generator, rough: _Map, volume: float, share: float) -> Offset | None:
    """A centre around which a ball of this volume lies in the gland, ``share`` of it in the PZ."""
    free = rough.inside & ~rough.taken
    if not free.any():
        return None
    side = 0.8 * _diameter_of(volume)
    kernel = [max(1, 2 * round(side / s / 2) + 1) for s in (3.0, 2.0, 2.0)]
    zones = torch.stack([(rough.gland < 0) & (rough.transition >= 0), rough.transition < 0]).float()[None]
    pz, tz = F.avg_pool3d(zones, kernel, 1, [k // 2 for k in kernel])[0]
    error = (pz / (pz + tz + 1e-6) - share).abs() + 0.3 * (0.8 - pz - tz).clamp(min=0)
    error[~free] = torch.inf
    index = (error < error.min() + 0.05).nonzero()
    z, y, x = index[int(torch.randint(len(index), (), generator=g))].tolist()
    return _point(rough, z, y, x)


def _fit(region: Region, grid: tuple[Tensor, Tensor, Tensor], volume: float | None) -> Region | None:
    """The region scaled until it shows ``volume`` mL on the fine grid (None: as it is), its diameter measured there.

    None when too little of it can be seen.
    """
    voxel = math.prod(FINE.spacing)
    step = 1 if volume is None or volume < 1.0 else 2  # every other voxel in plane is enough for a large one
    at, gland, transition = grid
    low = at[:, 0, 0, 0].tolist()
    best: tuple[float, Region, Tensor, Tensor] | None = None
    for _ in range(1 if volume is None else 6):
        box = _box(region, FINE, _middle(low, FINE))
        if box is None:
            return None
        cut = (box[0], slice(box[1].start, box[1].stop, step), slice(box[2].start, box[2].stop, step))
        where = at[(slice(None), *cut)]
        mask = signed_distance(region, where, gland[cut], transition[cut]) < 0
        seen = int(mask.sum()) * step**2 * voxel / 1000.0
        error = 0.0 if volume is None else abs(math.log(max(seen, 1e-4) / volume))
        if best is None or error < best[0]:
            best = (error, region, mask, where)
        if volume is None or error < 0.05:
            break
        region = region.scaled(min(max((volume / max(seen, 1e-4)) ** 0.4, 0.6), 1.7))
    assert best is not None
    _, region, mask, where = best
    if int(mask.sum()) * step**2 < MIN_VOXELS:
        return None
    return replace(region, diameter_mm=round(_long_axis(mask, where), 1))


def _middle(first: Sequence[float], spec: GridSpec) -> Offset:
    """A grid's middle from its first voxel's centre."""
    z, y, x = (f + (n - 1) * s / 2 for f, n, s in zip(first, spec.shape, spec.spacing, strict=True))
    return (z, y, x)


def _long_axis(mask: Tensor, at: Tensor) -> float:
    """Longest extent (mm) in a slice over twelve directions: what a reader would measure."""
    y, x = at[1], at[2]
    longest = 0.0
    for plane, py, px in zip(mask, y, x, strict=True):
        if plane.any():
            a, b = py[plane], px[plane]
            longest = max(longest, *(float((t := a * c + b * s).max() - t.min()) for c, s in _DIRECTIONS))
    return longest + FINE.spacing[1]


# ---------------------------------------------------------------------------------------------------------------------
# Painting


@dataclass
class Tissues:
    """Soft tissue masks of a scene on one grid, painted in order."""

    layers: list[tuple[str, Tensor]]
    gland: Tensor
    transition: Tensor
    at: Tensor


def _tissues(g: torch.Generator, scene: Scene, spec: GridSpec, offset: tuple[float, float, float]) -> Tissues:
    device = scene.gland.device
    at, gland, transition = scene.on(spec, offset)
    z, y, x = at
    p = scene.p
    n1, n2 = smooth_noise(g, spec, 9.0, device), smooth_noise(g, spec, 5.0, device)
    muscle_at = p["muscle_x"] + p["muscle_tilt"] * (y + 10)
    obturator = torch.maximum(muscle_at - x.abs(), x.abs() - muscle_at - p["muscle_w"]) + 1.5 * n1
    levator = torch.maximum((x.abs() - p["levator"] + 0.02 * (y - 5) ** 2 / 10).abs() - 2.2, z - 12) + 0.8 * n1
    rectum_y = p["back"] + p["rectum_gap"] + p["rectum_r"] + p["rectum_tilt"] * z
    lumen = (
        torch.sqrt((x - p["rectum_x"]) ** 2 + (y - rectum_y) ** 2) - p["rectum_r"] + (0.4 if p["coil"] else 1.8) * n1
    )
    bladder = (
        torch.sqrt(
            ((z - p["top"] - p["bladder_z"] - p["bladder_r"] * 0.6) / 0.8) ** 2
            + ((y - p["bladder_y"]) / 0.9) ** 2
            + (x / 1.25) ** 2
        )
        - p["bladder_r"]
        + 2.0 * n1
    )
    pubis = (
        torch.sqrt(((y - p["bone_y"]) / 0.6) ** 2 + ((x.abs() - 17) / 1.2) ** 2 + ((z - p["bone_z"]) / 1.6) ** 2)
        - 16
        + n1
    )
    hip = torch.sqrt((x.abs() - p["hip_x"]) ** 2 + (y + 5) ** 2 + (z - 12) ** 2) - 22 + n1
    bone = torch.minimum(pubis, hip)
    vesicles = torch.maximum((y - p["back"] + 4).abs() - 6, (z - p["top"] + 2).abs() - 8)
    vesicles = torch.maximum(vesicles, x.abs() - 26) + 1.5 * n2
    plexus = torch.maximum(torch.maximum(-gland, gland - 8.0), 1.2 - 2.0 * n2)
    dorsal = torch.maximum((y - p["front"] + 4).abs() - 4, x.abs() - 16) + 2.0 * n2
    layers = [
        ("muscle", _step(obturator)), ("levator", _step(levator)), ("cortex", _step(bone - 1.5)), ("bone", _step(bone)),
        ("veins", 0.8 * _step(plexus)), ("veins", 0.5 * _step(dorsal)), ("vesicles", _step(vesicles)),
        ("wall", _step(bladder - 3)), ("bladder", _step(bladder)), ("rectal wall", _step(lumen - 3.0)),
        ("lumen", _step(lumen)),
    ]  # fmt: skip
    return Tissues(layers, gland, transition, at)


def _paint(tissues: Tissues, levels: dict[str, float], background: Tensor) -> Tensor:
    image = background
    for name, mask in tissues.layers:
        image = image + mask * (levels[name] - image)
    return image


def _gland_parts(tissues: Tissues, scene: Scene) -> dict[str, Tensor]:
    """Soft masks of the gland's inner parts."""
    z, y, x = tissues.at
    gland, transition, p = tissues.gland, tissues.transition, scene.p
    stroma = torch.maximum(torch.maximum(x.abs() - 9, y - p["front"] - 7), gland)
    central = torch.maximum(
        torch.maximum(p["top"] * 0.35 - z, x.abs() - 14), torch.maximum(p["back"] * 0.25 - y, gland)
    )
    central = torch.maximum(central, -transition)
    urethra = torch.sqrt(x**2 + (y - 0.25 * p["back"]) ** 2) - 2.2
    return {
        "gland": _step(gland, 0.5), "tz": _step(transition, 0.5), "afs": _step(stroma, 1.5), "cz": _step(central, 1.5),
        "urethra": _step(urethra, 0.6),
    }  # fmt: skip


def _box(region: Region, spec: GridSpec, offset: tuple[float, float, float]) -> tuple[slice, slice, slice] | None:
    """The part of a grid that a region can reach, or None."""
    reach = 45.0 if region.values["t2.pattern"] == "diffuse" else max(region.radii) * 1.5 + 9.0
    out = []
    for c, n, s, o in zip(region.center, spec.shape, spec.spacing, offset, strict=True):
        low = max(0, math.floor((c - reach - o) / s + (n - 1) / 2))
        high = min(n, math.ceil((c + reach - o) / s + (n - 1) / 2) + 1)
        if high <= low:
            return None
        out.append(slice(low, high))
    return out[0], out[1], out[2]


#: Width (mm) of the soft edge of a margin on T2W.
_EDGE = {"circumscribed": 0.3, "spiculated": 0.35, "non_circumscribed": 1.1, "obscured": 1.2, "indistinct": 2.4}


def _t2w(
    anatomy: torch.Generator, g: torch.Generator, scene: Scene, spec: GridSpec, offset: Offset, scanner: Scanner
) -> tuple[Picture, Tensor]:
    """T2W and zones; tissue texture is drawn from ``anatomy``, what the scanner does from ``g``."""
    u = lambda low, high: uniform(g, low, high)  # noqa: E731
    device = scene.gland.device
    tissues = _tissues(anatomy, scene, spec, offset)
    parts = _gland_parts(tissues, scene)
    n9, n5, n3, n2 = (smooth_noise(anatomy, spec, s, device) for s in (9.0, 5.0, 3.2, 1.8))
    rough = uniform(anatomy, 0.1, 0.35)
    muscle = u(*scanner.muscle)
    content = choose(anatomy, {"air": 0.35, "stool": 0.45, "gel": 0.2})
    lumen = {"air": u(0.0, 0.06), "stool": u(0.12, 0.4), "gel": u(0.6, 1.1)}[content]
    if scene.p["coil"]:
        lumen = u(0.0, 0.05)
    levels = {
        "muscle": muscle, "levator": muscle * u(0.9, 1.4), "cortex": u(0.02, 0.1), "bone": u(0.3, 0.75),
        "veins": u(0.6, 1.0), "vesicles": u(0.4, 0.95), "wall": u(0.12, 0.3), "bladder": u(0.7, 1.3),
        "rectal wall": u(0.15, 0.4), "lumen": lumen,
    }  # fmt: skip
    pz, tz, fat = u(*scanner.pz), u(*scanner.tz), u(*scanner.fat)
    if u(0, 1) < scanner.odd:  # an odd scanner: contrasts that anatomy alone must explain
        levels = {k: u(0.02, 1.0) for k in levels}
        fat, pz, tz = u(0.1, 1.0), u(0.25, 0.9), u(0.2, 0.6)
    image = _paint(tissues, levels, fat * (1 + 0.08 * n9 + 0.06 * n2))
    # strands through the fat
    image = image * (1 - u(0.0, 0.35) * _line(n5 + 0.8, 0.15) * (tissues.gland > 0))
    peripheral = pz * (1 + u(0.05, 0.16) * n5 + u(0.03, 0.12) * n2)
    bph = tz * (1 + rough * n5.clamp(-1.2, 2.2) + 0.6 * rough * n3 + 0.08 * n2)
    bph = bph * (1 - u(0.0, 0.4) * _line(n5 - 0.4, 0.15))  # pseudo-capsules of small nodules
    inner = peripheral + parts["tz"] * (bph - peripheral)
    inner = inner + parts["cz"] * u(0.0, 0.9) * (u(0.18, 0.3) - inner)
    inner = inner + parts["afs"] * u(0.3, 1.0) * (u(0.12, 0.25) - inner)
    inner = inner + parts["urethra"] * u(0.0, 0.8) * (u(0.2, 0.8) - inner)
    inner = inner * (1 - u(0.1, 0.6) * _line(tissues.transition, 0.8) * (tissues.gland < -2))
    numbers = torch.zeros(spec.shape, dtype=torch.uint8, device=device)
    for number, region in enumerate(scene.drawn, 1):
        box = _box(region, spec, offset)
        if box is None:
            continue
        at = tissues.at[(slice(None), *box)]
        d = signed_distance(region, at, tissues.gland[box], tissues.transition[box])
        rest = parts["tz"][box]
        base = pz + rest * (tz - pz) if region.within is None else torch.tensor(pz if region.zone == "PZ" else tz)
        paint = _region_t2w(region, at, d, base.to(d), n3[box], n2[box])
        edge = d + 1.6 * n5[box] * _line(d, 3.0) if region.values["t2.margin"] == "obscured" else d
        soft = _step(edge, _EDGE[region.values["t2.margin"]])
        soft = soft / soft.max().clamp(min=0.5)  # however soft the edge, the middle has the drawn level
        if region.values["t2.margin"] == "obscured":  # its surroundings show through
            soft = soft * (0.8 + 0.2 * n3[box]).clamp(0.4, 1.0)
        inner[box] = inner[box] + soft * (paint.clamp(min=0.0) - inner[box])
        # where a patch of texture stays what it was, the region still is one region
        numbers[box] = torch.where(d < 0, torch.full_like(numbers[box], number), numbers[box])
    image = image + parts["gland"] * (inner - image)
    image = image * (1 - u(0.0, 0.7) * _line(tissues.gland - 0.3, 0.7))
    image = _acquire_t2w(g, image, scene, tissues, spec, scanner)
    zones = (tissues.gland < 0).to(torch.uint8) + (tissues.transition < 0).to(torch.uint8)
    return Picture(image, numbers), zones


def _region_t2w(region: Region, at: Tensor, d: Tensor, base: Tensor, n3: Tensor, n2: Tensor) -> Tensor:
    """What a region looks like inside its outline: level, texture, capsule."""
    target = base * region.levels[0]
    if region.values["t2.texture"] == "heterogeneous":
        # patches of two kinds, a difference that stays above the noise in a dark region too
        paint = target + (0.28 * target + 0.12 * base) * torch.tanh(1.8 * (0.75 * n3 + 0.65 * n2))
    else:
        paint = target * (1 + 0.03 * n2 + 0.05 * n3)
    if region.values["t2.capsule"] != "none":
        start, share = region.capsule_wave
        angle = (torch.atan2(at[1] - region.center[1], at[2] - region.center[2]) - start) % (2 * math.pi)
        arc = angle < 2 * math.pi * (1.0 if region.values["t2.capsule"] == "complete" else share)
        # a dark line needs something brighter on its inner side to be seen around a dark nodule
        paint = paint + 0.25 * base * _line(d + 2.4, 1.0) * arc
        paint = paint + 0.95 * _line(d + 0.7, 0.85) * arc * (0.12 * base - paint)
    return paint


def _acquire_t2w(
    g: torch.Generator, image: Tensor, scene: Scene, tissues: Tissues, spec: GridSpec, scanner: Scanner
) -> Tensor:
    """Coil sensitivity, partial volume, ghosts, noise, display curve."""
    u = lambda low, high: uniform(g, low, high)  # noqa: E731
    device = image.device
    bias = torch.exp(u(*scanner.bias) * smooth_noise(g, spec, 70.0, device))
    if scene.p["coil"]:
        _, y, x = tissues.at
        far = torch.sqrt((y - scene.p["back"] - scene.p["rectum_r"]) ** 2 + x**2) / 30.0
        bias = bias * (1 + u(0.3, 3.0) * torch.exp(-far * u(0.7, 1.6)))
    image = image * bias
    blur = u(*scanner.blur)
    if blur > 0.35:
        image = _blur(image, (0.0, blur, blur * u(0.7, 1.3)))
    often, strength = scanner.ghost
    if u(0, 1) < often:
        image = image + u(*strength) * torch.roll(image, int(u(8, 40)), dims=1)
    sigma = u(*scanner.noise)
    noise = torch.randn(spec.shape, generator=g).to(device)
    image = torch.sqrt((image + sigma * noise) ** 2 + (0.3 * sigma) ** 2)
    curve = scanner.gamma[int(u(0, len(scanner.gamma)))]
    return image.clamp(min=0) ** u(*curve)


def _blur(image: Tensor, sigma: tuple[float, float, float]) -> Tensor:
    """Separable Gaussian, sigma in voxels along (z, y, x)."""
    out = image[None, None]
    for axis, s in enumerate(sigma):
        if s <= 0.05:
            continue
        r = max(1, math.ceil(2.5 * s))
        k = torch.exp(-0.5 * (torch.arange(-r, r + 1, dtype=torch.float32, device=image.device) / s) ** 2)
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = 2 * r + 1
        pad = [0] * 6
        pad[(2 - axis) * 2] = pad[(2 - axis) * 2 + 1] = r
        out = F.conv3d(F.pad(out, pad, mode="replicate"), (k / k.sum()).reshape(shape))
    return out[0, 0]


def _diffusion(
    anatomy: torch.Generator, g: torch.Generator, scene: Scene, spec: GridSpec, offset: Offset, scanner: Scanner,
    shown_b: float | None = None,
) -> tuple[Picture, Picture, Tensor]:  # fmt: skip
    """ADC (1e-3 mm2/s) and high-b (arbitrary units), as if measured, and the gland mask.

    ``shown_b`` (in 1e3 s/mm2) shows the same acquisition at another b-value than the one drawn; noise stays as it was.
    """
    u = lambda low, high: uniform(g, low, high)  # noqa: E731
    device = scene.gland.device
    tissues = _tissues(anatomy, scene, spec, offset)
    gland, transition, at = tissues.gland, tissues.transition, tissues.at
    parts = _gland_parts(tissues, scene)
    n6, n4 = smooth_noise(anatomy, spec, 7.0, device), smooth_noise(anatomy, spec, 4.0, device)
    water = {"muscle": 1.2, "levator": 1.2, "cortex": 0.3, "bone": 0.4, "veins": 1.7, "vesicles": 1.8, "wall": 1.3,
             "bladder": u(2.2, 3.0), "rectal wall": 1.2, "lumen": u(0.2, 2.0)}  # fmt: skip
    s0 = {"muscle": u(0.3, 0.5), "levator": u(0.3, 0.5), "cortex": 0.05, "bone": u(0.05, 0.2), "veins": u(0.5, 0.9),
          "vesicles": u(0.7, 1.1), "wall": 0.5, "bladder": u(0.9, 1.6), "rectal wall": u(0.4, 0.8),
          "lumen": u(0.0, 0.6)}  # fmt: skip
    pz, tz = u(*scanner.water[0]), u(*scanner.water[1])
    adc = _paint(tissues, water, u(0.1, 0.6) * (1 + 0.3 * n6))
    proton = _paint(tissues, s0, torch.full(spec.shape, u(0.03, 0.25), device=device))
    inner = pz * (1 + u(0.05, 0.15) * n6 + u(0.03, 0.1) * n4)
    bph = tz * (1 + u(0.06, 0.16) * n6 + u(0.03, 0.1) * n4)
    inner = inner + parts["tz"] * (bph - inner)
    inner = inner + parts["cz"] * u(0.0, 0.8) * (u(0.85, 1.15) - inner)
    inner = inner + parts["afs"] * u(0.2, 0.9) * (u(0.7, 1.0) - inner)
    base_s0 = 0.9 + parts["tz"] * (u(0.75, 1.0) - 0.9) - 0.4 * parts["afs"]
    high_b = float(choose(g, scanner.b_values))
    boost = torch.ones(spec.shape, device=device)
    numbers = torch.zeros(spec.shape, dtype=torch.uint8, device=device)
    for number, region in enumerate(scene.drawn, 1):
        box = _box(region, spec, offset)
        if box is None:
            continue
        d = signed_distance(region, at[(slice(None), *box)], gland[box], transition[box])
        soft = _step(d, 0.6)
        rest = parts["tz"][box]
        reference = pz + rest * (tz - pz) if region.within is None else pz if region.zone == "PZ" else tz
        level = reference * region.levels[1]
        inner[box] = inner[box] + soft * (level * (1 + 0.06 * n4[box]) - inner[box])
        # the drawn high-b level holds whatever the ADC is: T2 shine-through and haemorrhage are such
        wanted = torch.exp(-high_b * (reference - inner[box])) * region.levels[2]
        boost[box] = boost[box] + soft * (wanted - boost[box])
        numbers[box] = torch.where(d < 0, torch.full_like(numbers[box], number), numbers[box])
    inside = parts["gland"]
    adc = (adc + inside * (inner - adc)).clamp(min=0.05)
    proton = proton + inside * (base_s0 * boost - proton)
    signal = proton * torch.exp(-(high_b if shown_b is None else shown_b) * adc)
    psf = u(*scanner.spread)
    signal, adc = _blur(signal, (0.0, psf, psf)), _blur(adc, (0.0, psf, psf))
    if u(0, 1) < scanner.distortion[0]:
        # echo-planar distortion: anatomy is displaced along y near the rectum's air
        adc, signal, numbers, inside = _distort(
            g, scene, spec, tissues, adc, signal, numbers, inside, scanner.distortion[1]
        )
    signal = signal * torch.exp(0.8 * u(*scanner.bias) * smooth_noise(g, spec, 70.0, device))
    typical = math.exp(-high_b * tz)
    native = [
        n if i == 0 else math.ceil(n * s / 2.0) for i, (n, s) in enumerate(zip(spec.shape, spec.spacing, strict=True))
    ]

    def scanner_noise() -> Tensor:
        small = torch.randn((1, 1, *native), generator=g).to(device)
        return F.interpolate(small, spec.shape, mode="trilinear", align_corners=False)[0, 0]

    sigma = u(*scanner.signal_noise) * typical
    signal = torch.sqrt((signal + sigma * scanner_noise()) ** 2 + (sigma * scanner_noise()) ** 2)
    adc = (adc + u(*scanner.adc_noise) * scanner_noise()).clamp(min=0.0)
    if u(0, 1) < 0.4:  # vendors blank what has no signal
        dark = _blur(proton, (0.0, 1.0, 1.0)) < u(0.05, 0.25)
        adc = adc.masked_fill(dark, 0.0)
        if u(0, 1) < 0.5:
            signal = signal.masked_fill(dark, 0.0)
    shown = 1000.0 * (high_b if shown_b is None else shown_b)
    return Picture(adc, numbers), Picture(signal, numbers.clone(), shown), inside > 0.5


def _distort(
    g: torch.Generator, scene: Scene, spec: GridSpec, tissues: Tissues, adc: Tensor, signal: Tensor, numbers: Tensor,
    inside: Tensor, largest_mm: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Echo-planar distortion along y, strongest near the rectum's air, the same for both diffusion images."""
    _, y, x = tissues.at
    p = scene.p
    device = adc.device
    far = torch.sqrt((y - p["back"] - p["rectum_gap"]) ** 2 + (x - p["rectum_x"]) ** 2)
    move = uniform(g, -largest_mm, largest_mm) * torch.exp(-far / 15.0) + 0.7 * smooth_noise(g, spec, 30.0, device)
    z, height, width = spec.shape
    grid = F.affine_grid(torch.eye(3, 4, device=device)[None], [1, 1, z, height, width], align_corners=True)
    grid[..., 1] += (move / spec.spacing[1] / ((height - 1) / 2))[None]
    images = torch.stack([adc, signal, inside])[None]
    moved = F.grid_sample(images, grid, align_corners=True, padding_mode="border")[0]
    regions = F.grid_sample(numbers.float()[None, None], grid, mode="nearest", align_corners=True)[0, 0]
    return moved[0], moved[1], regions.to(torch.uint8), moved[2]


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums over a grid round differently with another number of threads, and some voxels would with them."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _generator(*key: object) -> torch.Generator:
    """A CPU generator whose stream depends on the key alone; close keys share nothing."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def render_t2w(scene: Scene, seed: int, spec: GridSpec, offset: Offset = (0.0, 0.0, 0.0)) -> tuple[Picture, Tensor]:
    """T2W of a given scene on any grid; contrasts, noise and artefacts follow from the seed and the grid alone.

    Args:
        scene: the anatomy and its regions.
        seed: of the acquisition.
        spec: the grid.
        offset: millimetres (z, y, x) from the gland's centre to the grid's middle.

    Returns:
        The picture, and the zones on the same grid: uint8, 0 background, 1 PZ, 2 TZ.
    """
    return _t2w(_generator("texture", seed), torch.Generator().manual_seed(seed), scene, spec, offset, SCANNERS["seen"])


def render_diffusion(
    scene: Scene, seed: int, spec: GridSpec, b_values: Sequence[float], offset: Offset = (0, 0, 0)
) -> tuple[Picture, dict[float, Picture]]:
    """ADC (1e-3 mm2/s) and images of one acquisition at several b-values (s/mm2); see :func:`render_t2w`.

    Raises:
        ValueError: no b-value.
    """
    pictures = {
        b: _diffusion(
            _generator("texture", seed), torch.Generator().manual_seed(seed), scene, spec, offset, SCANNERS["seen"],
            b / 1000.0,
        )[:2]
        for b in b_values
    }  # fmt: skip
    if not pictures:
        raise ValueError("diffusion needs at least one b-value")
    adc = next(iter(pictures.values()))[0]
    return adc, {b: signal for b, (_, signal) in pictures.items()}


def draw_anatomy(bank: labels.LabelBank, seed: int, index: int) -> tuple[Scene, dict[str, Offset], str]:
    """What :func:`simulate` images: the scene, where each grid lies (t2w, adc, hbv, coarse), and the map's patient."""
    g = _generator("anatomy", seed, index)
    pick = int(torch.randint(len(bank), (), generator=g))
    gland = torch.from_numpy(bank.gland[pick]).float() * labels.STEP_MM
    transition = torch.from_numpy(bank.transition[pick]).float() * labels.STEP_MM

    def jitter(z: float, y: float, x: float) -> Offset:
        return (uniform(g, -z, z), uniform(g, -y, y), uniform(g, -x, x))

    offsets = {"t2w": jitter(5.0, 5.0, 5.0), "adc": jitter(7.0, 7.0, 7.0)}
    offsets["hbv"] = offsets["adc"]
    offsets["coarse"] = jitter(12.0, 22.0, 16.0)
    scene = draw_scene(g, gland, transition, offsets["t2w"])
    return scene, offsets, bank.patients[pick]


def simulate(
    bank: labels.LabelBank, seed: int, index: int, *, scanner: int = 0, domain: Domain = "seen", coarse: bool = True,
    device: torch.device | str | None = None,
) -> SimulatedStudy:  # fmt: skip
    """One study, the same for the same arguments whoever asks, in whatever order.

    The anatomy (label map, warp, regions, tissue texture, where the grids lie) follows from (bank, seed, index) alone;
    another ``scanner`` or ``domain`` images the same anatomy again, voxel on voxel. Echo-planar distortion is the
    scanner's: region maps on diffusion follow it. Numbers are drawn on the CPU, so ``device`` changes nothing but
    rounding.

    Args:
        bank: label maps to draw anatomy from.
        seed: of the whole set.
        index: of the study in the set.
        scanner: number of the acquisition.
        domain: "seen" draws from the ranges of training, "unseen" from ranges outside them.
        coarse: also make the localiser's picture.
        device: where to paint; default the CPU.

    Raises:
        ValueError: no label map, or an unknown domain.
    """
    if not len(bank):
        raise ValueError("the bank has no label map to draw anatomy from")
    if domain not in SCANNERS:
        raise ValueError(f"unknown domain {domain!r}; expected one of {', '.join(get_args(Domain))}")
    with one_thread():
        return _simulate(bank, seed, index, scanner, domain, coarse, device)


def _simulate(
    bank: labels.LabelBank, seed: int, index: int, scanner: int, domain: Domain, coarse: bool,
    device: torch.device | str | None,
) -> SimulatedStudy:  # fmt: skip
    scene, offsets, patient = draw_anatomy(bank, seed, index)
    scene = scene.to(device)
    wide_offset = offsets.pop("coarse")
    ranges = SCANNERS[domain]

    def streams(picture: str) -> tuple[torch.Generator, torch.Generator]:
        return (
            _generator("texture", seed, index, picture),
            _generator("imaging", seed, index, scanner, domain, picture),
        )

    t2w, zones = _t2w(*streams("t2w"), scene, FINE, offsets["t2w"], ranges)
    adc, hbv, _ = _diffusion(*streams("diffusion"), scene, DIFFUSION, offsets["adc"], ranges)
    wide = None
    if coarse:
        texture, imaging = streams("coarse")
        sequence = int(choose(texture, {"0": 0.5, "1": 0.25, "2": 0.25}))
        if sequence == 0:
            picture, mask = _t2w(texture, imaging, scene, COARSE, wide_offset, ranges)
            wide = (0, picture.image, mask > 0)
        else:
            a, h, mask = _diffusion(texture, imaging, scene, COARSE, wide_offset, ranges)
            wide = (sequence, (a if sequence == 1 else h).image, mask)
    return SimulatedStudy(t2w, adc, hbv, zones, offsets, scene.drawn, wide, patient)
