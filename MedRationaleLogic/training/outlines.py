"""The outlines that training reads regions by.

A reading knows its outline (:class:`MedRationaleLogic.model.network.Placed`), and no outline that it will meet is the
drawn one: a reader's hand differs, and the network's own candidates differ more, some of them of nothing at all. So a
region is read by the outline as drawn, as another hand might draw it, or as the network itself outlines it; and where
it outlines nothing that was drawn, that is read as the normal tissue it is. What evidence is held to stays as drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from MedRationaleLogic.inference import lesions
from MedRationaleLogic.model.grids import FINE, SEQUENCES, STEM_GRIDS
from MedRationaleLogic.model.network import NetworkSpec
from MedRationaleLogic.model.pooling import LEAST_VOXELS
from MedRationaleLogic.simulation.study import MAX_REGIONS
from MedRationaleLogic.training.data import IGNORE, NORMAL, ROWS, to_stem, write_labels

#: Shares of regions that are read by the network's own candidate, where there is one, and by another hand's outline.
BY_CANDIDATE: Final = 0.35
BY_ANOTHER_HAND: Final = 0.35
#: Chance that a patch of normal tissue gives way to a candidate of nothing.
OF_NOTHING: Final = 0.7
#: Peak and volume (mL) from which on there is a candidate.
MIN_PEAK: Final = 0.1
MIN_VOLUME_ML: Final = 0.05
#: Intersection over union from which on a candidate is a region's (picai_eval's rule), and the share of a candidate
#: that may lie in regions when it is of nothing.
SAME: Final = 0.1
NOTHING: Final = 0.05
#: Another hand: how far (mm) an outline is shifted as a whole, and bent.
SHIFT_MM: Final = 1.5
BEND_MM: Final = 1.5


@dataclass(frozen=True)
class Outlines:
    """One study's regions as they are read.

    Attributes:
        masks: row -> sequence -> bool (z, y, x) on that sequence's stem grid, at least 4 voxels.
        labels: int64 (rows, attributes), -1 unknown.
        category, zone: int64 (rows,), as in an item.
    """

    masks: dict[int, dict[str, Tensor]]
    labels: Tensor
    category: Tensor
    zone: Tensor


def drawn(study: Mapping[str, Tensor]) -> Outlines:
    """The regions as they were drawn.

    Args:
        study: one item, see :mod:`MedRationaleLogic.training.data`.
    """
    masks: dict[int, dict[str, Tensor]] = {}
    for row in range(ROWS):
        if not bool((study["labels"][row] >= 0).any()):
            continue
        for i, sequence in enumerate(SEQUENCES):
            mask = study[f"regions_{sequence}"] == row + 1
            if bool(study["presence"][i]) and int(mask.sum()) >= LEAST_VOXELS:
                masks.setdefault(row, {})[sequence] = mask
    return Outlines(masks, study["labels"], study["category"], study["zone"])


def varied(study: Mapping[str, Tensor], probability: Tensor, spec: NetworkSpec) -> Outlines:
    """The regions as drawn, as another hand might draw them, or as the network outlines them; by chance.

    Args:
        study: one item.
        probability: lesion probability (z, y, x) on the fine grid, as the network has it now.
        spec: for the label layout.
    """
    known = drawn(study)
    labels, category, zone = known.labels.clone(), known.category.clone(), known.zone.clone()
    masks = {row: dict(by_sequence) for row, by_sequence in known.masks.items()}
    own, of_nothing = _candidates(study, probability, known)
    for row, by_sequence in masks.items():
        chance = float(torch.rand(()))
        if row in own and chance < BY_CANDIDATE:
            by_sequence.update(everywhere(study, own[row], by_sequence))
        elif BY_CANDIDATE <= chance < BY_CANDIDATE + BY_ANOTHER_HAND:
            by_sequence.update(by_another_hand(study, by_sequence))
    there = [s for i, s in enumerate(SEQUENCES) if bool(study["presence"][i])]
    for row in (MAX_REGIONS, MAX_REGIONS + 1):
        if not of_nothing or float(torch.rand(())) >= OF_NOTHING:
            continue
        mask = of_nothing.pop(int(torch.randint(len(of_nothing), ())))
        inside = study["zones"][mask]
        name = "PZ" if int((inside == 1).sum()) >= int((inside == 2).sum()) else "TZ"
        masks[row] = everywhere(study, mask, there)
        labels[row] = -1
        write_labels(labels[row], NORMAL[name], spec)
        category[row], zone[row] = 1, 0 if name == "PZ" else 1
    return Outlines({row: m for row, m in masks.items() if m}, labels, category, zone)


def redrawn(mask: Tensor, spacing: tuple[float, float, float]) -> Tensor:
    """A region as another hand might outline it: its outline shifted inwards or outwards, and bent.

    Args:
        mask: bool (z, y, x), not empty.
        spacing: millimetres along (z, y, x).

    Returns:
        bool (z, y, x); the region as it was, where less than 4 voxels would be left.
    """
    where = mask.nonzero()
    reach = SHIFT_MM + 2 * BEND_MM
    pad = [int(np.ceil(reach / s)) + 1 for s in spacing]
    box = tuple(
        slice(max(0, int(where[:, i].min()) - pad[i]), min(mask.shape[i], int(where[:, i].max()) + pad[i] + 1))
        for i in range(3)
    )
    inside = np.pad(mask[box].cpu().numpy(), 1)
    signed = ndimage.distance_transform_edt(inside, spacing) - ndimage.distance_transform_edt(~inside, spacing)
    field = torch.from_numpy(signed[1:-1, 1:-1, 1:-1].astype(np.float32))
    bend = F.interpolate(torch.randn(1, 1, 3, 4, 4), field.shape, mode="trilinear", align_corners=True)[0, 0]
    shift = SHIFT_MM * (2 * float(torch.rand(())) - 1) + BEND_MM * float(torch.rand(())) * bend
    out = torch.zeros_like(mask)
    out[box] = (field + shift > 0).to(mask.device)
    return out if int(out.sum()) >= LEAST_VOXELS else mask


def by_another_hand(study: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A region (sequence -> mask) as another hand might outline it: on T2W, and carried to the other grids as when a
    study is read; where T2W is absent, on each grid."""
    if "t2w" in masks:
        return everywhere(study, redrawn(masks["t2w"], FINE.spacing), masks)
    return {sequence: redrawn(mask, STEM_GRIDS[sequence].spacing) for sequence, mask in masks.items()}


def _candidates(
    study: Mapping[str, Tensor], probability: Tensor, known: Outlines
) -> tuple[dict[int, Tensor], list[Tensor]]:
    """The network's candidates on the fine grid: those of a region by its row, and those of nothing."""
    gland = (study["zones"] == 1) | (study["zones"] == 2)
    found = lesions.extract(probability.cpu().numpy(), gland.cpu().numpy(), float(np.prod(FINE.spacing)),
                            min_peak=MIN_PEAK, min_volume_ml=MIN_VOLUME_ML)  # fmt: skip
    own: dict[int, Tensor] = {}
    of_nothing: list[Tensor] = []
    for candidate in found:
        if not candidate.kept:
            continue
        mask = torch.from_numpy(candidate.mask).to(gland.device)
        row, nothing = whose(study, mask, known)
        if row is not None:
            own.setdefault(row, mask)
        elif nothing:
            of_nothing.append(mask)
    return own, of_nothing


def whose(study: Mapping[str, Tensor], mask: Tensor, known: Outlines) -> tuple[int | None, bool]:
    """What a candidate (bool, fine grid) is a candidate of.

    Args:
        study: one item.
        mask: the candidate.
        known: :func:`drawn` of the study.

    Returns:
        The row of the drawn region that it shares most with, from :data:`SAME` on, or None; and whether it is of
        nothing at all. Neither: it touches a region, or lies where lesions are not known (not every finding of a real
        case is outlined, and some slices are cut), and nobody can say what it shows.
    """
    overlap = {
        row: intersection_over_union(mask, m["t2w"])
        for row, m in known.masks.items()
        if "t2w" in m and row < MAX_REGIONS  # the rows from there on are patches of normal tissue
    }
    best = max(overlap, key=overlap.__getitem__, default=None)
    if best is not None and overlap[best] >= SAME:
        return best, False
    number = study["regions_t2w"][mask]
    told = ((number > 0) & (number <= MAX_REGIONS)) | (study["lesion"][mask] == IGNORE)
    return None, int(told.sum()) < NOTHING * int(mask.sum())


def intersection_over_union(first: Tensor, second: Tensor) -> float:
    """Of two boolean masks; 0 when both are empty."""
    return int((first & second).sum()) / max(1, int((first | second).sum()))


def everywhere(study: Mapping[str, Tensor], mask: Tensor, sequences: Iterable[str]) -> dict[str, Tensor]:
    """A mask on the fine grid, on each sequence's own; where less than 4 voxels are left, not at all."""
    out = {}
    for sequence in sequences:
        there = mask
        if sequence != "t2w":
            there = to_stem(mask, study[f"theta_{sequence}"], STEM_GRIDS[sequence].shape)
        if int(there.sum()) >= LEAST_VOXELS:
            out[sequence] = there
    return out
