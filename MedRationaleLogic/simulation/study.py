"""A simulated bpMRI study: anatomy warped from a label map, a pelvis around it, regions, physics, artefacts.

Coordinates are millimetres (z, y, x) from the gland's centre: z to the head, y to the back, x to the patient's left,
the axes of an unrotated axial scan. Everything is a function of these coordinates, so the same study can be shown on
any grid. Intensities follow what was measured in the real scans (docs/simulation.md): T2W relative, ADC in 1e-3 mm2/s,
high-b from S0 exp(-b ADC) with Rician noise on its own 2 mm grid. Domain randomisation after SynthSeg (Billot 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from MedRationaleLogic.model.grids import COARSE, DIFFUSION, FINE, GridSpec
from MedRationaleLogic.simulation import labels
from MedRationaleLogic.simulation.regions import ARCHETYPES, Region, choose, draw_region, signed_distance, uniform

VERSION = "0.1.0"
MAX_REGIONS = 6


@dataclass
class Picture:
    """One sequence of a study on one grid: float32 image and the uint8 numbers of its regions (0 = none), (z, y, x)."""

    image: Tensor
    regions: Tensor


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


def points(spec: GridSpec, offset: tuple[float, float, float]) -> Tensor:
    """Millimetres (3, z, y, x) of a grid's voxel centres from the gland's centre."""
    axes = [
        (torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * s + o
        for n, s, o in zip(spec.shape, spec.spacing, offset, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def smooth_noise(g: torch.Generator, spec: GridSpec, scale_mm: float) -> Tensor:
    """Unit-variance noise on a grid, correlated over about ``scale_mm``."""
    size = [max(2, math.ceil(n * s / scale_mm) + 1) for n, s in zip(spec.shape, spec.spacing, strict=True)]
    small = torch.randn((1, 1, *size), generator=g)
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

    def distances(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gland and TZ signed distance (mm) at points (3, z, y, x)."""
        half = torch.tensor([(n - 1) * s / 2 for n, s in zip(labels.SHAPE, labels.SPACING, strict=True)])
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


def draw_scene(g: torch.Generator, gland: Tensor, transition: Tensor) -> Scene:
    """Anatomy from one label map: affine and elastic warp, pelvis parameters, regions."""
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
    scene.drawn = _draw_regions(g, scene)
    return scene


def _draw_regions(g: torch.Generator, scene: Scene) -> list[Region]:
    """Up to ``MAX_REGIONS`` regions, each where its zone is thick enough, not on top of another."""
    spec = GridSpec((24, 40, 40), (3.0, 2.0, 2.0))
    at = points(spec, (0.0, 0.0, 0.0))
    gland, transition = scene.distances(at)
    count = int(choose(g, {"0": 0.1, "1": 0.2, "2": 0.25, "3": 0.2, "4": 0.15, "5": 0.1}))
    drawn: list[Region] = []
    for _ in range(count):
        weights = {str(i): a.weight for i, a in enumerate(ARCHETYPES)}
        archetype = ARCHETYPES[int(choose(g, weights))]
        where = (gland < -1.5) & (transition > 1.0) if archetype.zone == "PZ" else transition < -2.5
        for other in drawn:
            c = torch.tensor(other.center)[:, None, None, None]
            where &= (at - c).square().sum(0).sqrt() > other.radii[2] + 6.0
        index = where.nonzero()
        if len(index) < 5:
            continue
        z, y, x = index[int(torch.randint(len(index), (), generator=g))]
        center = tuple(float(v) for v in at[:, z, y, x])
        drawn.append(draw_region(g, archetype, (center[0], center[1], center[2])))
    return drawn


@dataclass
class Tissues:
    """Soft tissue masks of a scene on one grid, painted in order."""

    layers: list[tuple[str, Tensor]]
    gland: Tensor
    transition: Tensor
    at: Tensor


def _tissues(g: torch.Generator, scene: Scene, spec: GridSpec, offset: tuple[float, float, float]) -> Tissues:
    at = points(spec, offset)
    z, y, x = at
    gland, transition = scene.distances(at)
    p = scene.p
    n1, n2 = smooth_noise(g, spec, 9.0), smooth_noise(g, spec, 5.0)
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


_EDGE = {"circumscribed": 0.35, "spiculated": 0.4, "non_circumscribed": 0.9, "obscured": 1.8, "indistinct": 2.2}


def _t2w(
    g: torch.Generator, scene: Scene, spec: GridSpec, offset: tuple[float, float, float]
) -> tuple[Picture, Tensor]:
    u = lambda low, high: uniform(g, low, high)  # noqa: E731
    tissues = _tissues(g, scene, spec, offset)
    parts = _gland_parts(tissues, scene)
    muscle = u(0.08, 0.2)
    air = choose(g, {"air": 0.35, "stool": 0.45, "gel": 0.2})
    lumen = {"air": u(0.0, 0.06), "stool": u(0.12, 0.4), "gel": u(0.6, 1.1)}[air]
    if scene.p["coil"]:
        lumen = u(0.0, 0.05)
    levels = {
        "muscle": muscle, "levator": muscle * u(0.9, 1.4), "cortex": u(0.02, 0.1), "bone": u(0.3, 0.75),
        "veins": u(0.6, 1.0), "vesicles": u(0.4, 0.95), "wall": u(0.12, 0.3), "bladder": u(0.7, 1.3),
        "rectal wall": u(0.15, 0.4), "lumen": lumen,
    }  # fmt: skip
    pz, tz = u(0.36, 0.78), u(0.24, 0.46)
    fat = u(0.5, 0.95)
    if u(0, 1) < 0.25:  # an odd scanner: contrasts that anatomy alone must explain
        levels = {k: u(0.02, 1.0) for k in levels}
        fat, pz, tz = u(0.1, 1.0), u(0.2, 0.9), u(0.15, 0.6)
    n9, n5, n3, n2 = (smooth_noise(g, spec, s) for s in (9.0, 5.0, 3.2, 1.8))
    image = _paint(tissues, levels, fat * (1 + 0.08 * n9 + 0.06 * n2))
    # strands through the fat
    image = image * (1 - u(0.0, 0.35) * _line(n5 + 0.8, 0.15) * (tissues.gland > 0))
    peripheral = pz * (1 + u(0.05, 0.16) * n5 + u(0.03, 0.12) * n2)
    rough = u(0.1, 0.35)
    bph = tz * (1 + rough * n5.clamp(-1.2, 2.2) + 0.6 * rough * n3 + 0.08 * n2)
    bph = bph * (1 - u(0.0, 0.4) * _line(n5 - 0.4, 0.15))  # pseudo-capsules of small nodules
    inner = peripheral + parts["tz"] * (bph - peripheral)
    inner = inner + parts["cz"] * u(0.0, 0.9) * (u(0.18, 0.3) - inner)
    inner = inner + parts["afs"] * u(0.3, 1.0) * (u(0.12, 0.25) - inner)
    inner = inner + parts["urethra"] * u(0.0, 0.8) * (u(0.2, 0.8) - inner)
    inner = inner * (1 - u(0.1, 0.6) * _line(tissues.transition, 0.8) * (tissues.gland < -2))
    inside = parts["gland"]
    numbers = torch.zeros(spec.shape, dtype=torch.uint8)
    for number, region in enumerate(scene.drawn, 1):
        box = _box(region, spec, offset)
        if box is None:
            continue
        d = signed_distance(region, tissues.at[(slice(None), *box)], tissues.gland[box], tissues.transition[box])
        values, base = region.values, pz if region.zone == "PZ" else tz
        soft = _step(d, _EDGE[values["t2.margin"]])
        if values["t2.margin"] == "obscured":
            soft = soft * (0.75 + 0.2 * n3[box].clamp(-1, 1))
        target = base * region.levels[0]
        if values["t2.texture"] == "heterogeneous":
            paint = target * (1 + u(0.3, 0.45) * n3[box].clamp(-2, 2) + 0.15 * n2[box])
        else:
            paint = target * (1 + 0.05 * n2[box])
        if values["t2.capsule"] != "none":
            start, share = region.capsule_wave
            _, y, x = tissues.at[(slice(None), *box)]
            angle = (torch.atan2(y - region.center[1], x - region.center[2]) - start) % (2 * math.pi)
            arc = angle < 2 * math.pi * (1.0 if values["t2.capsule"] == "complete" else share)
            paint = paint + 0.85 * _line(d + 0.6, 0.8) * arc * (0.1 - paint)
        inner[box] = inner[box] + soft * (paint.clamp(min=0.0) - inner[box])
        # where a patch of texture stays what it was, the region still is one region
        numbers[box] = torch.where(d < 0, torch.tensor(number, dtype=torch.uint8), numbers[box])
    image = image + inside * (inner - image)
    image = image * (1 - u(0.0, 0.7) * _line(tissues.gland - 0.3, 0.7))
    # coil sensitivity, partial volume, ghosts, noise
    bias = torch.exp(u(0.03, 0.3) * smooth_noise(g, spec, 70.0))
    if scene.p["coil"]:
        _, y, x = tissues.at
        far = torch.sqrt((y - scene.p["back"] - scene.p["rectum_r"]) ** 2 + x**2) / 30.0
        bias = bias * (1 + u(0.3, 3.0) * torch.exp(-far * u(0.7, 1.6)))
    image = image * bias
    blur = u(0.0, 0.9)
    if blur > 0.35:
        image = _blur(image, (0.0, blur, blur * u(0.7, 1.3)))
    if u(0, 1) < 0.2:
        shift = int(u(8, 40))
        image = image + u(0.03, 0.12) * torch.roll(image, shift, dims=1)
    sigma = u(0.01, 0.06)
    image = torch.sqrt((image + sigma * torch.randn(spec.shape, generator=g)) ** 2 + (0.3 * sigma) ** 2)
    image = image.clamp(min=0) ** u(0.75, 1.35)
    zones = (tissues.gland < 0).to(torch.uint8) + (tissues.transition < 0).to(torch.uint8)
    return Picture(image, numbers), zones


def _blur(image: Tensor, sigma: tuple[float, float, float]) -> Tensor:
    """Separable Gaussian, sigma in voxels along (z, y, x)."""
    out = image[None, None]
    for axis, s in enumerate(sigma):
        if s <= 0.05:
            continue
        r = max(1, math.ceil(2.5 * s))
        k = torch.exp(-0.5 * (torch.arange(-r, r + 1, dtype=torch.float32) / s) ** 2)
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = 2 * r + 1
        pad = [0] * 6
        pad[(2 - axis) * 2] = pad[(2 - axis) * 2 + 1] = r
        out = F.conv3d(F.pad(out, pad, mode="replicate"), (k / k.sum()).reshape(shape))
    return out[0, 0]


def _diffusion(
    g: torch.Generator, scene: Scene, spec: GridSpec, offset: tuple[float, float, float], shown_b: float | None = None
) -> tuple[Picture, Picture, Tensor]:
    """ADC (1e-3 mm2/s) and high-b (arbitrary units), as if measured, and the gland mask.

    ``shown_b`` (in 1e3 s/mm2) shows the same acquisition at another b-value than the one drawn; noise stays as it was.
    """
    u = lambda low, high: uniform(g, low, high)  # noqa: E731
    # echo-planar distortion: anatomy is displaced along y near the rectum's air
    tissues = _tissues(g, scene, spec, offset)
    gland, transition, at = tissues.gland, tissues.transition, tissues.at
    parts = _gland_parts(tissues, scene)
    water = {"muscle": 1.2, "levator": 1.2, "cortex": 0.3, "bone": 0.4, "veins": 1.7, "vesicles": 1.8, "wall": 1.3,
             "bladder": u(2.2, 3.0), "rectal wall": 1.2, "lumen": u(0.2, 2.0)}  # fmt: skip
    s0 = {"muscle": u(0.3, 0.5), "levator": u(0.3, 0.5), "cortex": 0.05, "bone": u(0.05, 0.2), "veins": u(0.5, 0.9),
          "vesicles": u(0.7, 1.1), "wall": 0.5, "bladder": u(0.9, 1.6), "rectal wall": u(0.4, 0.8),
          "lumen": u(0.0, 0.6)}  # fmt: skip
    n6, n4 = smooth_noise(g, spec, 7.0), smooth_noise(g, spec, 4.0)
    pz, tz = u(1.3, 1.85), u(1.1, 1.45)
    adc = _paint(tissues, water, torch.full(spec.shape, u(0.1, 0.6)) * (1 + 0.3 * n6))
    proton = _paint(tissues, s0, torch.full(spec.shape, u(0.03, 0.25)))
    inner = pz * (1 + u(0.05, 0.15) * n6 + u(0.03, 0.1) * n4)
    bph = tz * (1 + u(0.06, 0.16) * n6 + u(0.03, 0.1) * n4)
    inner = inner + parts["tz"] * (bph - inner)
    inner = inner + parts["cz"] * u(0.0, 0.8) * (u(0.85, 1.15) - inner)
    inner = inner + parts["afs"] * u(0.2, 0.9) * (u(0.7, 1.0) - inner)
    base_s0 = 0.9 + parts["tz"] * (u(0.75, 1.0) - 0.9) - 0.4 * parts["afs"]
    b = choose(g, {"1.4": 0.6, "1.0": 0.1, "2.0": 0.2, "0.8": 0.1})
    high_b = float(b)
    boost = torch.ones(spec.shape)
    numbers = torch.zeros(spec.shape, dtype=torch.uint8)
    reference = {"PZ": pz, "TZ": tz}
    for number, region in enumerate(scene.drawn, 1):
        box = _box(region, spec, offset)
        if box is None:
            continue
        d = signed_distance(region, at[(slice(None), *box)], gland[box], transition[box])
        soft = _step(d, 0.8)
        level = reference[region.zone] * region.levels[1]
        inner[box] = inner[box] + soft * (level * (1 + 0.06 * n4[box]) - inner[box])
        # the drawn high-b level holds whatever the ADC is: T2 shine-through and haemorrhage are such
        normal = math.exp(-high_b * reference[region.zone])
        boost[box] = boost[box] + soft * (normal * region.levels[2] / torch.exp(-high_b * inner[box]) - boost[box])
        numbers[box] = torch.where(d < 0, torch.tensor(number, dtype=torch.uint8), numbers[box])
    inside = parts["gland"]
    adc = (adc + inside * (inner - adc)).clamp(min=0.05)
    proton = proton + inside * (base_s0 * boost - proton)
    signal = proton * torch.exp(-(high_b if shown_b is None else shown_b) * adc)
    psf = u(0.45, 1.0)
    signal, adc = _blur(signal, (0.0, psf, psf)), _blur(adc, (0.0, psf, psf))
    if u(0, 1) < 0.6:
        adc, signal, numbers, inside = _distort(g, scene, spec, tissues, adc, signal, numbers, inside)
    signal = signal * torch.exp(u(0.03, 0.25) * smooth_noise(g, spec, 70.0))
    typical = math.exp(-high_b * tz)
    native = [
        n if i == 0 else math.ceil(n * s / 2.0) for i, (n, s) in enumerate(zip(spec.shape, spec.spacing, strict=True))
    ]

    def scanner_noise() -> Tensor:
        small = torch.randn((1, 1, *native), generator=g)
        return F.interpolate(small, spec.shape, mode="trilinear", align_corners=False)[0, 0]

    sigma = u(0.04, 0.22) * typical
    signal = torch.sqrt((signal + sigma * scanner_noise()) ** 2 + (sigma * scanner_noise()) ** 2)
    adc = (adc + u(0.03, 0.14) * scanner_noise()).clamp(min=0.0)
    if u(0, 1) < 0.4:  # vendors blank what has no signal
        dark = _blur(proton, (0.0, 1.0, 1.0)) < u(0.05, 0.25)
        adc = torch.where(dark, torch.zeros(()), adc)
        if u(0, 1) < 0.5:
            signal = torch.where(dark, torch.zeros(()), signal)
    return Picture(adc, numbers), Picture(signal, numbers.clone()), inside > 0.5


def _distort(
    g: torch.Generator, scene: Scene, spec: GridSpec, tissues: Tissues, adc: Tensor, signal: Tensor, numbers: Tensor,
    inside: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Echo-planar distortion along y, strongest near the rectum's air, the same for both diffusion images."""
    _, y, x = tissues.at
    p = scene.p
    far = torch.sqrt((y - p["back"] - p["rectum_gap"]) ** 2 + (x - p["rectum_x"]) ** 2)
    move = uniform(g, -4, 4) * torch.exp(-far / 15.0) + 0.7 * smooth_noise(g, spec, 30.0)
    z, height, width = spec.shape
    theta = torch.eye(3, 4)[None]
    grid = F.affine_grid(theta, [1, 1, z, height, width], align_corners=True)
    grid[..., 1] += (move / spec.spacing[1] / ((height - 1) / 2))[None]
    images = torch.stack([adc, signal, inside])[None]
    moved = F.grid_sample(images, grid, align_corners=True, padding_mode="border")[0]
    regions = F.grid_sample(numbers.float()[None, None], grid, mode="nearest", align_corners=True)[0, 0]
    return moved[0], moved[1], regions.to(torch.uint8), moved[2]


def render_t2w(
    scene: Scene, seed: int, spec: GridSpec, offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> tuple[Picture, Tensor]:
    """T2W of a given scene on any grid; contrasts, noise and artefacts follow from the seed and the grid alone.

    Args:
        scene: the anatomy and its regions.
        seed: of the acquisition.
        spec: the grid.
        offset: millimetres (z, y, x) from the gland's centre to the grid's middle.

    Returns:
        The picture, and the zones on the same grid: uint8, 0 background, 1 PZ, 2 TZ.
    """
    return _t2w(torch.Generator().manual_seed(seed), scene, spec, offset)


def render_diffusion(
    scene: Scene, seed: int, spec: GridSpec, b_values: Sequence[float], offset: tuple[float, float, float] = (0, 0, 0)
) -> tuple[Picture, dict[float, Picture]]:
    """ADC (1e-3 mm2/s) and images of one acquisition at several b-values (s/mm2); see :func:`render_t2w`.

    Raises:
        ValueError: no b-value.
    """
    pictures = {
        b: _diffusion(torch.Generator().manual_seed(seed), scene, spec, offset, b / 1000.0)[:2] for b in b_values
    }
    if not pictures:
        raise ValueError("diffusion needs at least one b-value")
    adc = next(iter(pictures.values()))[0]
    return adc, {b: signal for b, (_, signal) in pictures.items()}


def simulate(bank: labels.LabelBank, seed: int, index: int, *, coarse: bool = True) -> SimulatedStudy:
    """One study, the same for the same (bank, seed, index) whoever asks, in whatever order.

    Args:
        bank: label maps to draw anatomy from.
        seed: of the whole set.
        index: of the study in the set.
        coarse: also make the localiser's picture.
    """
    g = torch.Generator().manual_seed((seed * 1_000_003 + index) % (2**63 - 1))
    pick = int(torch.randint(len(bank), (), generator=g))
    gland = torch.from_numpy(bank.gland[pick]).float() * labels.STEP_MM
    transition = torch.from_numpy(bank.transition[pick]).float() * labels.STEP_MM
    scene = draw_scene(g, gland, transition)

    def jitter(mm: float) -> tuple[float, float, float]:
        return (uniform(g, -mm, mm), uniform(g, -mm, mm), uniform(g, -mm, mm))

    offsets = {"t2w": jitter(5.0), "adc": jitter(7.0)}
    offsets["hbv"] = offsets["adc"]
    t2w, zones = _t2w(g, scene, FINE, offsets["t2w"])
    adc, hbv, _ = _diffusion(g, scene, DIFFUSION, offsets["adc"])
    wide = None
    if coarse:
        sequence = int(choose(g, {"0": 0.5, "1": 0.25, "2": 0.25}))
        offset = (uniform(g, -12, 12), uniform(g, -22, 22), uniform(g, -16, 16))
        if sequence == 0:
            picture, mask = _t2w(g, scene, COARSE, offset)
            wide = (0, picture.image, mask > 0)
        else:
            a, h, mask = _diffusion(g, scene, COARSE, offset)
            wide = (sequence, (a if sequence == 1 else h).image, mask)
    return SimulatedStudy(t2w, adc, hbv, zones, offsets, scene.drawn, wide, bank.patients[pick])
