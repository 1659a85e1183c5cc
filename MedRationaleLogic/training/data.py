"""What a training step eats: simulated studies and real labelled cases, in one item format on the model's grids."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from MedRationaleLogic.imaging.preprocess import normalise
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.model.grids import COARSE, DIFFUSION, FINE, SEQUENCES, GridSpec
from MedRationaleLogic.model.network import NetworkSpec
from MedRationaleLogic.simulation.labels import LabelBank
from MedRationaleLogic.simulation.regions import uniform
from MedRationaleLogic.simulation.study import MAX_REGIONS, Domain, simulate, smooth_noise

IGNORE: Final = 255
ROWS: Final = MAX_REGIONS + 2  # drawn regions and two of normal tissue

Item = dict[str, Tensor]

#: Values of a patch of normal tissue; what is not said of it is not trained.
NORMAL: Final[dict[str, dict[str, str]]] = {
    "PZ": {"t2.pattern": "normal", "t2.signal": "hyper", "adc.signal": "normal", "adc.pattern": "none",
           "hbv.signal": "normal", "hbv.pattern": "none"},
    "TZ": {"t2.pattern": "normal", "t2.signal": "iso", "adc.signal": "normal", "adc.pattern": "none",
           "hbv.signal": "normal", "hbv.pattern": "none"},
}  # fmt: skip


def half_size(spec: GridSpec) -> tuple[float, float, float]:
    """Millimetres from a grid's middle to its outermost voxel centres, (z, y, x)."""
    z, y, x = ((n - 1) * s / 2 for n, s in zip(spec.shape, spec.spacing, strict=True))
    return (z, y, x)


def theta(source: tuple[float, float, float], target: tuple[float, float, float], spec: GridSpec) -> Tensor:
    """(3, 4) affine from FINE's normalised coordinates to ``spec``'s, for two unrotated grids.

    Args:
        source: middle of the fine grid, mm (z, y, x).
        target: middle of the other grid, mm (z, y, x).
        spec: the other grid.
    """
    fine, other = half_size(FINE), half_size(spec)
    out = torch.zeros(3, 4)
    for row, axis in enumerate((2, 1, 0)):  # grid_sample's coordinates are x, y, z
        out[row, row] = fine[axis] / other[axis]
        out[row, 3] = (source[axis] - target[axis]) / other[axis]
    return out


def to_stem(mask: Tensor, theta: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """A mask on the fine grid, shown on a diffusion stem's grid, nearest neighbour.

    Args:
        mask: bool (z, y, x) on the fine grid.
        theta: (3, 4), from the fine grid's normalised coordinates to the other's, as in an item.
        shape: of the other grid.
    """
    whole = torch.cat([theta, torch.tensor([[0.0, 0.0, 0.0, 1.0]], device=theta.device)])
    back = torch.linalg.inv(whole)[:3]
    grid = F.affine_grid(back[None], [1, 1, *shape], align_corners=True)
    return F.grid_sample(mask[None, None].float(), grid, mode="nearest", align_corners=True)[0, 0] > 0.5


def empty_item(spec: NetworkSpec) -> Item:
    """An item in which nothing is known: what a case has is filled in."""
    item: Item = {
        "presence": torch.zeros(3), "zones": torch.full(FINE.shape, IGNORE, dtype=torch.uint8),
        "gland_only": torch.tensor(False), "lesion": torch.full(FINE.shape, IGNORE, dtype=torch.uint8),
        "labels": torch.full((ROWS, len(spec.attributes)), -1, dtype=torch.int64),
        "category": torch.zeros(ROWS, dtype=torch.int64), "zone": torch.zeros(ROWS, dtype=torch.int64),
        "coarse": torch.zeros((1, *COARSE.shape)), "coarse_gland": torch.zeros(COARSE.shape, dtype=torch.uint8),
        "coarse_sequence": torch.tensor(-1), "theta_adc": torch.eye(3, 4), "theta_hbv": torch.eye(3, 4),
        "twin_of_previous": torch.tensor(False),
    }  # fmt: skip
    for sequence in SEQUENCES:
        shape = FINE.shape if sequence == "t2w" else DIFFUSION.shape
        item[sequence] = torch.zeros((1, *shape))
        item[f"regions_{sequence}"] = torch.zeros(shape, dtype=torch.uint8)
    return item


class SimulatedSet(Dataset[Item]):
    """Simulated studies ``first`` to ``first + count`` of a seed, as training items.

    Args:
        bank: label maps.
        spec: for the label layout.
        seed: of the set.
        count: length of an epoch.
        first: index of the first study.
        scanner: number of the acquisition, see :func:`simulate`.
        domain: "seen" or "unseen" scanners.
        paired: share of the pairs of studies (2k, 2k + 1) in which the second is the first one's anatomy by the next
            scanner, in the same place and with the same slices; ``twin_of_previous`` is true for it.
    """

    def __init__(self, bank: LabelBank, spec: NetworkSpec, seed: int, count: int, first: int = 0, *, scanner: int = 0,
                 domain: Domain = "seen", paired: float = 0.0) -> None:  # fmt: skip
        self.bank, self.spec, self.seed, self.count, self.first = bank, spec, seed, count, first
        self.scanner, self.domain, self.paired = scanner, domain, paired

    def __len__(self) -> int:
        return self.count

    def is_twin(self, index: int) -> bool:
        """Whether item ``index`` shows the anatomy of the item before it."""
        number = self.first + index
        if number % 2 == 0 or self.paired <= 0:
            return False
        g = torch.Generator().manual_seed(self.seed * 15_485_863 + number // 2)
        return uniform(g, 0, 1) < self.paired

    def __getitem__(self, index: int) -> Item:
        twin = self.is_twin(index)
        number = self.first + index - int(twin)
        study = simulate(self.bank, self.seed, number, scanner=self.scanner + int(twin), domain=self.domain)
        g = torch.Generator().manual_seed(self.seed * 7_919 + number)
        item = empty_item(self.spec)
        item["twin_of_previous"] = torch.tensor(twin)
        item["presence"] = torch.ones(3)
        valid = _cut_slices(g, FINE.shape)
        for sequence, picture in (("t2w", study.t2w), ("adc", study.adc), ("hbv", study.hbv)):
            grid = FINE if sequence == "t2w" else DIFFUSION
            known = valid if sequence == "t2w" else None
            values = picture.image.numpy() * (1000.0 if sequence == "adc" else 1.0)
            item[sequence] = torch.from_numpy(normalise(sequence, values, known, grid.spacing))[None]
            item[f"regions_{sequence}"] = picture.regions.clone()
        item["zones"] = study.zones.clone()
        item["zones"][torch.from_numpy(~valid)] = IGNORE
        target = torch.zeros(FINE.shape, dtype=torch.uint8)
        for number, region in enumerate(study.drawn, 1):
            category = region.category
            where = study.t2w.regions == number
            if category == 3:
                target[where] = IGNORE
            elif category >= 4:
                target[where] = 1
            item["category"][number - 1] = category
            item["zone"][number - 1] = 0 if region.zone == "PZ" else 1
            write_labels(item["labels"][number - 1], region.values, self.spec)
        target[torch.from_numpy(~valid)] = IGNORE
        item["lesion"] = target
        for name in ("adc", "hbv"):
            item[f"theta_{name}"] = theta(study.offsets["t2w"], study.offsets[name], DIFFUSION)
        _add_normal(g, item, self.spec)
        if study.coarse is not None:
            sequence_index, image, mask = study.coarse
            name = SEQUENCES[sequence_index]
            values = image.numpy() * (1000.0 if name == "adc" else 1.0)
            item["coarse"] = torch.from_numpy(normalise(name, values, None, COARSE.spacing))[None]
            item["coarse_gland"] = mask.to(torch.uint8)
            item["coarse_sequence"] = torch.tensor(sequence_index)
        return item


def _cut_slices(g: torch.Generator, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """A field of view shorter than the grid, as real stacks are."""
    valid = np.ones(shape, bool)
    if uniform(g, 0, 1) < 0.7:
        valid[: int(uniform(g, 0, 5))] = False
        valid[shape[0] - int(uniform(g, 0, 5)) :] = False
    return valid


def write_labels(row: Tensor, values: Mapping[str, str], spec: NetworkSpec) -> None:
    """Write what is known of a region (attribute id -> value) into its row of labels, (attributes,)."""
    for i, attribute in enumerate(spec.attributes):
        if attribute.id in values:
            row[i] = attribute.values.index(values[attribute.id])


def _grid_points(spec: GridSpec, middle: tuple[float, float, float]) -> Tensor:
    axes = [
        (torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * s + o
        for n, s, o in zip(spec.shape, spec.spacing, middle, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _add_normal(g: torch.Generator, item: Item, spec: NetworkSpec) -> None:
    """One or two patches of tissue in which nothing was drawn."""
    free = (item["regions_t2w"] == 0) & ((item["zones"] == 1) | (item["zones"] == 2))
    # keep away from drawn regions
    near = F.max_pool3d((item["regions_t2w"] > 0).float()[None, None], (3, 9, 9), 1, (1, 4, 4))[0, 0] > 0
    candidates = (free & ~near).nonzero()
    at = _grid_points(FINE, (0.0, 0.0, 0.0))
    for row in (MAX_REGIONS, MAX_REGIONS + 1):
        if len(candidates) < 50:
            return
        z, y, x = candidates[int(torch.randint(len(candidates), (), generator=g))]
        center = at[:, z, y, x].reshape(3, 1, 1, 1)
        radius = uniform(g, 3.5, 8.0)
        zone = int(item["zones"][z, y, x]) - 1
        inside = (at - center).square().sum(0) < radius**2
        inside &= (item["zones"] == zone + 1) & ~near & (item["regions_t2w"] == 0)
        if int(inside.sum()) < 30:
            continue
        for name in SEQUENCES:
            regions = item[f"regions_{name}"]
            # the same patch on every grid: beside the gland there is no normal gland
            here = inside if name == "t2w" else to_stem(inside, item[f"theta_{name}"], DIFFUSION.shape)
            regions[here & (regions == 0)] = row + 1
        item["zone"][row] = zone
        item["category"][row] = 1
        write_labels(item["labels"][row], NORMAL["PZ" if zone == 0 else "TZ"], spec)


@dataclass(frozen=True)
class LabelledRegion:
    """What is known of an outlined region.

    Attributes:
        zone: "PZ" or "TZ".
        category: 1 to 5 as stated; 0 unknown. A region that pathology proved has 4 without a statement: what is
            trained is only on which side of 4 it lies.
        values: attribute id -> value, of what is known.
    """

    zone: str
    category: int
    values: Mapping[str, str]


@dataclass(frozen=True)
class RealCase:
    """A labelled real case on wide, gland-centred grids, ready to be augmented.

    Attributes:
        name: the case's folder.
        patient: patient id of its label map in the simulation's bank (empty when it has none).
        images: sequence -> raw values float32 with NaN outside the field of view, on the sequence's wide grid.
        zones: uint8 on the wide fine grid: 0, 1 PZ, 2 TZ, or 3 gland of unknown zone.
        lesion: uint8 on the wide fine grid: 0, 1, 255 unknown.
        coarse: sequence -> raw values on a wide coarse grid; coarse_gland its mask.
        regions: uint8 on the wide fine grid, numbers of ``known`` from 1 on; None where nothing is known of any.
        known: what is known of each region, at most :data:`MAX_REGIONS`.
    """

    name: str
    patient: str
    images: dict[str, Tensor]
    zones: Tensor
    lesion: Tensor
    coarse: dict[str, Tensor]
    coarse_gland: Tensor
    regions: Tensor | None = None
    known: tuple[LabelledRegion, ...] = ()


WIDE: Final = {
    "t2w": GridSpec((32, 168, 168), FINE.spacing),
    "adc": GridSpec((32, 92, 92), DIFFUSION.spacing),
    "hbv": GridSpec((32, 92, 92), DIFFUSION.spacing),
    "coarse": GridSpec((32, 92, 92), COARSE.spacing),
}


def _warp(g: torch.Generator, strength: float) -> tuple[Tensor, Tensor]:
    """A random affine (3, 3), millimetres (z, y, x) to millimetres, and a smooth displacement field (3, 5, 5, 5) mm."""
    a, b, c = (uniform(g, -v, v) * strength for v in (0.12, 0.12, 0.2))
    rz = torch.tensor([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    ry = torch.tensor([[math.cos(b), 0, -math.sin(b)], [0, 1, 0], [math.sin(b), 0, math.cos(b)]])
    rx = torch.tensor([[1, 0, 0], [0, math.cos(c), -math.sin(c)], [0, math.sin(c), math.cos(c)]])
    scale = torch.tensor([math.exp(uniform(g, -0.2, 0.2) * strength) for _ in range(3)])
    if uniform(g, 0, 1) < 0.5 and strength > 0:
        scale[2] = -scale[2]
    return torch.diag(scale) @ rz @ ry @ rx, torch.randn((3, 6, 6, 6), generator=g) * uniform(g, 0, 2.5) * strength


def _pull(image: Tensor, wide: GridSpec, grid: GridSpec, offset: tuple[float, float, float],
          matrix: Tensor, field: Tensor, nearest: bool) -> Tensor:  # fmt: skip
    """Resample a wide picture onto a model grid through a warp."""
    at = _grid_points(grid, offset).reshape(3, -1)
    bend = F.grid_sample(field[None], (at.T / 110.0).flip(-1)[None, None, None], align_corners=True,
                         padding_mode="border")[0].reshape(3, -1)  # fmt: skip
    moved = (matrix @ at + bend) / torch.tensor(half_size(wide))[:, None]
    where = moved.T.flip(-1)[None, None, None]
    out = F.grid_sample(image[None, None].float(), where, mode="nearest" if nearest else "bilinear",
                        align_corners=True, padding_mode="zeros")  # fmt: skip
    return out.reshape(grid.shape)


def _recolour(g: torch.Generator, sequence: str, values: Tensor, grid: GridSpec) -> Tensor:
    """Another scanner: gain, gamma, bias field, noise, blur."""
    known = torch.isfinite(values)
    x = torch.nan_to_num(values)
    if sequence == "adc":
        x = x * uniform(g, 0.9, 1.1) + 60 * uniform(g, 0, 1) * torch.randn(grid.shape, generator=g)
        return torch.where(known, x.clamp(min=0), torch.nan)
    top = float(torch.quantile(x[known][:: max(1, int(known.sum()) // 5000)], 0.99)) if known.any() else 1.0
    x = (x / max(top, 1e-6)).clamp(min=0)
    if sequence == "t2w":
        x = x ** uniform(g, 0.6, 1.6)
    x = x * torch.exp(uniform(g, 0.0, 0.3) * smooth_noise(g, grid, 60.0))
    x = x + uniform(g, 0.0, 0.06) * torch.randn(grid.shape, generator=g)
    return torch.where(known, x.clamp(min=0), torch.nan)


class RealSet(Dataset[Item]):
    """Augmented draws from real labelled cases.

    Args:
        cases: from :func:`read_real_cases`.
        spec: for the label layout.
        seed: draws are the same for the same (seed, index).
        count: length of an epoch.
        strength: 0 gives each case as it is, once; 1 the training augmentation.
    """

    def __init__(self, cases: Sequence[RealCase], spec: NetworkSpec, seed: int, count: int, strength: float = 1.0,
                 first: int = 0) -> None:  # fmt: skip
        self.cases, self.spec, self.seed, self.count, self.strength = list(cases), spec, seed, count, strength
        self.first = first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        index += self.first
        case = self.cases[index % len(self.cases)]
        g = torch.Generator().manual_seed(self.seed * 104_729 + index)
        matrix, field = _warp(g, self.strength)
        item = empty_item(self.spec)
        j = 6.0 * self.strength

        def jitter() -> tuple[float, float, float]:
            return (uniform(g, -j, j), uniform(g, -j, j), uniform(g, -j, j))

        fine = jitter()
        other = jitter()
        mine = {"t2w": fine, "adc": other, "hbv": other}
        for i, name in enumerate(SEQUENCES):
            if name not in case.images:
                continue
            grid = FINE if name == "t2w" else DIFFUSION
            values = self._image(g, case.images[name], WIDE[name], grid, mine[name], matrix, field, name)
            if name == "t2w" and self.strength > 0:
                values[torch.from_numpy(~_cut_slices(g, grid.shape))] = torch.nan
            known = torch.isfinite(values).numpy()
            item[name] = torch.from_numpy(normalise(name, torch.nan_to_num(values).numpy(), known, grid.spacing))[None]
            item["presence"][i] = 1
            if name == "t2w":
                seen = torch.from_numpy(known)
        zones = _pull(case.zones, WIDE["t2w"], FINE, fine, matrix, field, True).to(torch.uint8)
        item["gland_only"] = (case.zones == 3).any()
        lesion = _pull(case.lesion, WIDE["t2w"], FINE, fine, matrix, field, True).to(torch.uint8)
        if "t2w" in case.images:
            zones[~seen] = IGNORE
            lesion[~seen] = IGNORE
        item["zones"], item["lesion"] = zones, lesion
        item["theta_adc"] = theta(fine, other, DIFFUSION)
        item["theta_hbv"] = theta(fine, other, DIFFUSION)
        if case.regions is not None:
            for name in SEQUENCES:
                grid = FINE if name == "t2w" else DIFFUSION
                pulled = _pull(case.regions, WIDE["t2w"], grid, mine[name], matrix, field, True)
                item[f"regions_{name}"] = pulled.to(torch.uint8)
            for row, region in enumerate(case.known):
                item["category"][row] = region.category
                item["zone"][row] = 0 if region.zone == "PZ" else 1
                write_labels(item["labels"][row], region.values, self.spec)
        names = sorted(case.coarse)
        if not names:
            return item
        name = names[int(torch.randint(len(names), (), generator=g))]
        wide = (uniform(g, -9, 9), uniform(g, -18, 18), uniform(g, -15, 15))
        values = self._image(g, case.coarse[name], WIDE["coarse"], COARSE, wide, matrix, field, name)
        known = torch.isfinite(values).numpy()
        image = normalise(name, torch.nan_to_num(values).numpy(), known, COARSE.spacing)
        item["coarse"] = torch.from_numpy(image)[None]
        item["coarse_gland"] = _pull(case.coarse_gland, WIDE["coarse"], COARSE, wide, matrix, field, True).to(
            torch.uint8
        )
        item["coarse_sequence"] = torch.tensor(SEQUENCES.index(name))
        return item

    def _image(self, g: torch.Generator, image: Tensor, wide: GridSpec, grid: GridSpec,
               offset: tuple[float, float, float], matrix: Tensor, field: Tensor, name: str) -> Tensor:  # fmt: skip
        known = torch.isfinite(image).float()
        values = _pull(torch.nan_to_num(image), wide, grid, offset, matrix, field, False)
        seen = _pull(known, wide, grid, offset, matrix, field, False)
        values = torch.where(seen > 0.6, values / seen.clamp(min=0.1), torch.nan)
        return _recolour(g, name, values, grid) if self.strength > 0 else values


def read_real_cases(root: Path, *, machine_labelled: bool = False) -> list[RealCase]:
    """The labelled cases under ``root`` (folders ``bpmri``, ``adc_dwi_only``, ``t2_only``), see its README.

    Zones come from ``zones_ai_hevi23``, else the gland from the human ``gland``. A lesion mask counts where a human
    drew one; a case whose report names findings without a mask has unknown lesions.

    Args:
        root: see above.
        machine_labelled: also those without any of these labels whose gland another program outlined (``gland_taps``):
            more scanners to train on, never to measure on.

    Raises:
        ValueError: no labelled case.
    """
    cases = []
    for folder in sorted(p for group in ("bpmri", "adc_dwi_only", "t2_only") for p in (root / group).iterdir()):
        case = read_real_case(folder, machine_labelled=machine_labelled)
        if case is not None:
            cases.append(case)
    if not cases:
        raise ValueError(
            f"{root}: no labelled case found; expected zones_ai_hevi23.nii.gz or gland.nii.gz in its folders"
        )
    return cases


def _read(path: Path) -> Volume:
    import SimpleITK as sitk

    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    return Volume.from_sitk(image, path.name)


def read_real_case(folder: Path, *, machine_labelled: bool = False) -> RealCase | None:
    """One folder, or None when it has no usable label; see :func:`read_real_cases`."""
    from MedRationaleLogic.imaging.preprocess import sample

    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    files = {"t2w": ("t2w.nii.gz", "t2w_n4_nyul_norm.nii.gz"), "adc": ("adc.nii.gz",), "hbv": ("hbv.nii.gz",)}
    found = {role: folder / n for role, names in files.items() for n in names if (folder / n).is_file()}
    zones_file, gland_file = folder / "zones_ai_hevi23.nii.gz", folder / "gland.nii.gz"
    if machine_labelled and not zones_file.is_file() and not gland_file.is_file():
        gland_file = folder / "gland_taps.nii.gz"
    if zones_file.is_file():
        labels = _read(zones_file)
    elif gland_file.is_file():
        gland = _read(gland_file)
        labels = gland.with_array(np.where(gland.array > 0, 3, 0).astype(np.uint8))
    else:
        return None
    volumes = {role: _read(path) for role, path in found.items()}
    frame = volumes.get("t2w", volumes.get("adc", labels))
    index = np.argwhere(labels.array > 0)
    middle = labels.geometry.to_patient((index.min(0) + index.max(0)) / 2)

    def grid(name: str) -> Geometry:
        return frame.geometry.centered_on(middle, WIDE[name].shape, WIDE[name].spacing)

    def pull(volume: Volume, name: str) -> Tensor:
        values, known = sample(volume, grid(name))
        return torch.from_numpy(np.where(known, values, np.nan).astype(np.float32))

    fine_labels = torch.from_numpy(labels.resample(grid("t2w"), nearest=True).array.astype(np.uint8))
    lesion = torch.full(fine_labels.shape, IGNORE, dtype=torch.uint8)
    masks = [folder / n for n in ("lesion_human_isup.nii.gz", "lesion_human_prostatex_finding1.nii.gz")]
    drawn = [_read(m).resample(grid("t2w"), nearest=True).array > 0 for m in masks if m.is_file()]
    clinical = meta.get("clinical") or {}
    named = [
        int(s) for s in str(clinical.get("lesion_PIRADS") or "").replace("N/A", "").split(",") if s.strip().isdigit()
    ]
    any_mask = np.any(drawn, axis=0) if drawn else None
    if any_mask is not None:
        known_negative = not any_mask.any() and max(named, default=9) <= 2
        if any_mask.any():
            # other findings of the same patient may have no mask: elsewhere in the gland "no lesion" is unsure
            lesion = torch.from_numpy(any_mask.astype(np.uint8))
            if len([n for n in named if n >= 3]) > len(drawn):
                lesion[(lesion == 0) & (fine_labels > 0)] = IGNORE
        elif known_negative:
            lesion = torch.zeros_like(lesion)
    coarse_gland = torch.from_numpy((labels.resample(grid("coarse"), nearest=True).array > 0).astype(np.uint8))
    picai = meta.get("picai_id") or ""
    return RealCase(
        name=folder.name, patient=str(picai).split("_")[0], images={r: pull(v, r) for r, v in volumes.items()},
        zones=fine_labels, lesion=lesion, coarse={r: pull(v, "coarse") for r, v in volumes.items()},
        coarse_gland=coarse_gland,
    )  # fmt: skip
