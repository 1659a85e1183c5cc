"""Pictures for the training log: a study with outlines and the evidence of what is read. Research use only."""

from __future__ import annotations

from typing import Any, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from MedRationaleLogic.model import pooling
from MedRationaleLogic.model.grids import SEQUENCES, STEM_GRIDS
from MedRationaleLogic.model.network import RationaleNet
from MedRationaleLogic.training.data import IGNORE, Item

_NAMES: Final = {"t2w": "T2W", "adc": "ADC", "hbv": "high-b"}


@torch.inference_mode()
def sample_figure(net: RationaleNet, item: Item, title: str) -> Figure:
    """One study: each sequence with outlines, below it the evidence of its most probable reading.

    The slice is the one where the first labelled region, or else the gland, is largest. Outlines: gland white, PZ/TZ
    border grey, lesion (p > .5) red; truth dashed.

    Args:
        net: in any mode, on any device.
        item: one study, see :mod:`MedRationaleLogic.training.data`.
        title: stands above.

    Returns:
        A figure of 2 rows and 3 columns; a sequence that is not there leaves its column empty.
    """
    device = next(net.parameters()).device
    item = {k: v.to(device) for k, v in item.items()}
    there = [bool(p) for p in item["presence"]]
    features = {s: net.stems[s](item[s][None]) if there[k] else None for k, s in enumerate(SEQUENCES)}
    thetas = {s: item[f"theta_{s}"][None] for s in ("adc", "hbv")}
    zones, lesion, _ = net.trunk(features, thetas, item["presence"][None])
    gland, tz = zones[0].argmax(0) > 0, zones[0].argmax(0) == 2
    positive = torch.sigmoid(lesion[0, 0].float()) > 0.5
    row = next((r for r in range(len(item["labels"])) if (item["labels"][r] >= 0).any()), None)
    figure = Figure(figsize=(10.5, 7.4), facecolor="black", layout="constrained")
    figure.suptitle(f"{title}   (research use only)", color="white", fontsize=11)
    axes = figure.subplots(2, 3)
    values = net.value_embeddings()
    for k, s in enumerate(SEQUENCES):
        upper, lower = axes[0][k], axes[1][k]
        for ax in (upper, lower):
            ax.set_axis_off()
        f = features[s]
        if f is None:
            upper.set_title(f"{_NAMES[s]}: not there", color="white", fontsize=9)
            continue
        mask = item[f"regions_{s}"] == row + 1 if row is not None else torch.zeros_like(item[f"regions_{s}"])
        truth = item["zones"] if s == "t2w" else None
        z = _slice(mask, gland if s == "t2w" else None)
        aspect = STEM_GRIDS[s].spacing[1] / STEM_GRIDS[s].spacing[2]
        image = item[s][0, z].float().cpu().numpy()
        for ax in (upper, lower):
            ax.imshow(image, cmap="gray", vmin=-2, vmax=2.5, aspect=aspect)
        upper.set_title(f"{_NAMES[s]}, slice {z + 1}", color="white", fontsize=9)
        if truth is not None:
            _contour(upper, gland[z], "white", "solid")
            _contour(upper, tz[z], "#bbbbbb", "solid")
            _contour(upper, positive[z], "#ff5c6a", "solid")
            _contour(upper, (truth[z] > 0) & (truth[z] != IGNORE), "#9fd8ff", "dashed")
        if mask.any():
            _contour(upper, mask[z], "#ffd23d", "dashed")
        said, heat = _strongest(net, s, f, mask, values)
        shown = heat[z].cpu().numpy()
        lower.imshow(shown, cmap="magma", vmin=0, vmax=1, alpha=0.75 * (shown > 0.2), aspect=aspect)
        lower.set_title(f"evidence: {said}", color="white", fontsize=9)
    return figure


def _slice(mask: Tensor, gland: Tensor | None) -> int:
    for volume in (mask, gland):
        if volume is not None and volume.any():
            return int(volume.sum((1, 2)).argmax())
    return mask.shape[0] // 2


def _strongest(net: RationaleNet, s: str, features: Tensor, mask: Tensor, values: Tensor) -> tuple[str, Tensor]:
    """Name and dense evidence (z, y, x) of the most probable signal: over the region, or over the whole volume."""
    seen = net.embed(s, net.for_concepts(s, features)[0].flatten(1))
    maps = net.evidence(s, seen, values)
    attribute = next(a for a in net.spec.attributes if a.sequence == s and a.id.endswith("signal"))
    if int(mask.sum()) >= pooling.LEAST_VOXELS:
        # every voxel was embedded, so a region's places are its flat indices
        region = pooling.region(mask, STEM_GRIDS[s].spacing)
        logits = net.read(s, seen.at(region.index), region, values)
        best = int(logits[attribute.id].argmax())
    else:
        best = int(maps[attribute.id].float().mean(1).argmax())
    return f"{attribute.id} = {attribute.values[best]}", maps[attribute.id][best].reshape(mask.shape).float()


def _contour(axes: Any, mask: Tensor, colour: str, style: str) -> None:
    if mask.any() and not mask.all():
        axes.contour(mask.float().cpu().numpy(), [0.5], colors=[colour], linewidths=1.0, linestyles=[style])
