"""How sharply conspicuity says so, fitted once when a bundle is made.

A sigmoid of .05 over three hundred thousand voxels of nothing is more than a region of ones, and a product of two
factors seldom passes the threshold from which a map is shown. Neither is seen by a loss that weighs voxels alike. So
each conspicuity map (a sequence, an extent class) gets a slope and an offset of its logit, chosen by the finished maps
of studies of the training maps, each imaged by two scanners: how well what is shown covers the extent (IoU), and half
as much how much of a map's mass lies in it and, of T2W, how alike both scanners' maps are (cosine). They pull apart: a
sharper map holds more of its mass together, and changes more from scanner to scanner. Both numbers go into the layer's
own weights. Masks, readings and suspicion do not pass here.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from MedRationaleLogic.model.grids import SEQUENCES, STEM_GRIDS
from MedRationaleLogic.model.network import QUIET_VALUES, RationaleNet
from MedRationaleLogic.model.pooling import EXTENTS, LEAST_VOXELS, supports, window
from MedRationaleLogic.training.data import ROWS, Item

SLOPES: Final = (1.0, 1.5, 2.0, 3.0, 4.0)
OFFSETS: Final = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)
#: A map is shown from here on, in the fit, in the bundle's thresholds and in the evaluation.
SHOWN: Final = 0.5

Choice = tuple[float, float]


@dataclass
class Figures:
    """What one choice makes of the maps, one number a region or a map."""

    cover: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    alike: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        """What is chosen by."""
        return _mean(self.cover) + (_mean(self.share) + _mean(self.alike)) / 2


@torch.no_grad()
def fit(net: RationaleNet, data: Dataset[Item], pairs: int) -> dict[str, Any]:
    """Choose slope and offset of every conspicuity map and write them into the network, in place.

    Args:
        net: in evaluation mode.
        data: simulated studies with all sequences; 2k and 2k + 1 are one anatomy by two scanners.
        pairs: how many of them.

    Returns:
        Facts for the record: "sequence extent" -> slope, offset, and (IoU, share of mass, cosine) before and after.

    Raises:
        ValueError: a network without towers has no conspicuity.
    """
    if not net.spec.tower:
        raise ValueError("this network has no conspicuity to fit; it has no towers")
    found: dict[tuple[str, str], dict[Choice, Figures]] = defaultdict(
        lambda: {choice: Figures() for choice in itertools.product(SLOPES, OFFSETS)}
    )
    values = net.value_embeddings()
    for number in range(pairs):
        item, again = data[2 * number], data[2 * number + 1]
        for sequence in SEQUENCES:
            with torch.autocast("cpu", torch.bfloat16):
                image = torch.stack([item[sequence], again[sequence]])
                features = net.for_concepts(sequence, net.stems[sequence](image))
            _measure(net, item, sequence, features.flatten(2), values, found)
    facts = {}
    for (sequence, extent), by_choice in sorted(found.items()):
        slope, offset = max(by_choice, key=lambda c: by_choice[c].value)
        layer = net.stem(sequence).conspicuity
        assert layer is not None
        assert layer.bias is not None
        row = EXTENTS.index(extent)
        layer.weight[row] *= slope
        layer.bias[row] = layer.bias[row] * slope + offset
        facts[f"{sequence} {extent}"] = {
            "slope": slope, "offset": offset,
            **{
                when: [round(_mean(x), 4) for x in (f.cover, f.share, f.alike)]
                for when, f in (("before", by_choice[1.0, 0.0]), ("after", by_choice[slope, offset]))
            },
        }  # fmt: skip
    return {"pairs": pairs, "maps": facts}


def _measure(net: RationaleNet, item: Item, sequence: str, features: Tensor, values: Tensor,
             found: Mapping[tuple[str, str], Mapping[Choice, Figures]]) -> None:  # fmt: skip
    """Add what each choice makes of one anatomy's maps of one sequence; features (2, c, voxels), by both scanners."""
    regions = item[f"regions_{sequence}"]
    spacing = STEM_GRIDS[sequence].spacing
    masks = {row: regions == row + 1 for row in range(ROWS) if bool((item["labels"][row] >= 0).any())}
    parts = {row: supports(m, spacing) for row, m in masks.items() if int(m.sum()) >= LEAST_VOXELS}
    both = [net.embed(sequence, f) for f in features]
    what = [net.evidence(sequence, seen._replace(conspicuity=None), values) for seen in both]
    logits = [seen.conspicuity for seen in both if seen.conspicuity is not None]
    windows = {row: window(masks[row], spacing, (regions > 0) & ~masks[row]) for row in parts}
    for i, attribute in enumerate(net.spec.attributes):
        if attribute.sequence != sequence:
            continue
        extent = attribute.extent
        labels = {row: int(item["labels"][row, i]) for row in parts}
        for label in sorted(set(labels.values())):
            if label < 0 or (attribute.id, attribute.values[label]) in QUIET_VALUES:
                continue
            mine = [row for row in parts if labels[row] == label]
            own = torch.unique(torch.cat([parts[row][extent] for row in mine]))
            for (slope, offset), figures in found[sequence, extent].items():
                heat, other = (
                    w[attribute.id][label] * torch.sigmoid(slope * x[EXTENTS.index(extent)] + offset)
                    for w, x in zip(what, logits, strict=True)
                )
                figures.share.append(float(heat[own].sum() / heat.sum().clamp_min(1e-6)))
                if sequence == "t2w":  # diffusion's distortion is the scanner's: true maps differ
                    figures.alike.append(float(F.cosine_similarity(heat, other, dim=0)))
                for row in mine:
                    around, extents = windows[row]
                    shown, truth = heat[around] > SHOWN, extents[extent]
                    figures.cover.append(float((shown & truth).sum() / (shown | truth).sum().clamp_min(1)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
