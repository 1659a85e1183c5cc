"""How sharply conspicuity says so, fitted once when a bundle is made.

A sigmoid of .05 over three hundred thousand voxels of nothing is more than a region of ones, and a product of two
factors seldom passes the threshold from which a map is shown. Neither is seen by a loss that weighs voxels alike. So
each conspicuity map (a sequence, an extent class) gets a slope and an offset of its logit, chosen on studies of the
training maps by what a reader sees of the finished maps: how well what is shown covers the extent, and how much of the
map's mass lies in it. Both go into the layer's own weights. Masks, readings and suspicion do not pass here.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from MedRationaleLogic.model.grids import SEQUENCES, STEM_GRIDS
from MedRationaleLogic.model.network import QUIET_VALUES, RationaleNet
from MedRationaleLogic.model.pooling import EXTENTS, supports, window
from MedRationaleLogic.training.data import ROWS, Item

SLOPES: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
OFFSETS: Final = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)
#: A map is shown from here on.
SHOWN: Final = 0.5

Choice = tuple[float, float]


@torch.no_grad()
def fit(net: RationaleNet, data: Dataset[Item], numbers: Sequence[int]) -> dict[str, Any]:
    """Choose slope and offset of every conspicuity map and write them into the network, in place.

    Args:
        net: in evaluation mode.
        data: simulated studies with all sequences.
        numbers: which of them.

    Returns:
        Facts for the record: "sequence extent" -> slope, offset, and the figure as it was and as it became (mean over
        regions of the IoU of what is shown with the extent, plus the mean share of a map's mass in its extents).

    Raises:
        ValueError: a network without towers has no conspicuity.
    """
    if not net.spec.tower:
        raise ValueError("this network has no conspicuity to fit; it has no towers")
    found: dict[tuple[str, str], dict[Choice, tuple[list[float], list[float]]]] = defaultdict(
        lambda: {choice: ([], []) for choice in itertools.product(SLOPES, OFFSETS)}
    )
    values = net.value_embeddings()
    for number in numbers:
        item = data[number]
        for sequence in SEQUENCES:
            with torch.autocast("cpu", torch.bfloat16):
                features = net.for_concepts(sequence, net.stems[sequence](item[sequence][None]))
            _measure(net, item, sequence, features[0].flatten(1), values, found)
    facts = {}
    for (sequence, extent), by_choice in sorted(found.items()):
        figure = {c: _mean(cover) + _mean(share) for c, (cover, share) in by_choice.items()}
        slope, offset = max(figure, key=lambda c: figure[c])
        layer = net.stem(sequence).conspicuity
        assert layer is not None
        assert layer.bias is not None
        row = EXTENTS.index(extent)
        layer.weight[row] *= slope
        layer.bias[row] = layer.bias[row] * slope + offset
        facts[f"{sequence} {extent}"] = {
            "slope": slope, "offset": offset, "before": round(figure[1.0, 0.0], 4),
            "after": round(figure[slope, offset], 4),
        }  # fmt: skip
    return {"studies": len(numbers), "maps": facts}


def _measure(net: RationaleNet, item: Item, sequence: str, features: Tensor, values: Tensor,
             found: dict[tuple[str, str], dict[Choice, tuple[list[float], list[float]]]]) -> None:  # fmt: skip
    """Add what each choice makes of one study's maps of one sequence."""
    regions = item[f"regions_{sequence}"]
    spacing = STEM_GRIDS[sequence].spacing
    masks = {row: regions == row + 1 for row in range(ROWS) if bool((item["labels"][row] >= 0).any())}
    parts = {row: supports(m, spacing) for row, m in masks.items() if int(m.sum()) >= 4}
    seen = net.embed(sequence, features)
    logits = seen.conspicuity
    assert logits is not None
    what = net.evidence(sequence, seen._replace(conspicuity=None), values)
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
            for (slope, offset), (cover, share) in found[sequence, extent].items():
                heat = what[attribute.id][label] * torch.sigmoid(slope * logits[EXTENTS.index(extent)] + offset)
                share.append(float(heat[own].sum() / heat.sum().clamp_min(1e-6)))
                for row in mine:
                    around, extents = windows[row]
                    shown, truth = heat[around] > SHOWN, extents[extent]
                    cover.append(float((shown & truth).sum() / (shown | truth).sum().clamp_min(1)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
