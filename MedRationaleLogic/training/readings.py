"""The last stage: what reads a region, fitted to many regions as they are met.

A training step sees some eight regions and spends nearly all of its time on images. Here the images of some hundred
simulated studies of the training maps are read once, the features of their regions kept, and only what nothing but
readings use is trained on them, many times over: attention, an outline's say and what extents say together
(``Stem.attention``, ``Stem.placed``, ``Stem.together``).
Masks and evidence maps stay as they are, to the bit. The same regions then serve the suspicion
(:mod:`MedRationaleLogic.training.suspicion`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from MedRationaleLogic.inference import lesions
from MedRationaleLogic.model import pooling
from MedRationaleLogic.model.grids import FINE, SEQUENCES, STEM_GRIDS
from MedRationaleLogic.model.network import RationaleNet
from MedRationaleLogic.simulation.study import MAX_REGIONS
from MedRationaleLogic.training.data import IGNORE, NORMAL, Item, write_labels
from MedRationaleLogic.training.losses import attribute_loss
from MedRationaleLogic.training.outlines import by_another_hand, drawn, everywhere, whose
from MedRationaleLogic.training.ruled import RuleLoss
from MedRationaleLogic.training.spread import spread
from MedRationaleLogic.training.suspicion import Judged

#: Candidates from here on are ranked.
MIN_PEAK: Final = 0.05
MIN_VOLUME_ML: Final = 0.05
#: Weight of what the readings' scores are off by (:class:`MedRationaleLogic.training.ruled.RuleLoss`).
RULES: Final = 0.1
#: Voxels of an extent that a training draw looks at; other ones each time, so that large regions cost no more.
MOST: Final = 500
#: What a region of normal tissue counts beside one that was drawn. Of the samples about half are of normal tissue, of
#: the regions that are reported less than one in six is; fitted to the mixture as sampled, readings say "normal" too
#: often and are too sure of it. Chosen on validation studies (docs/training.md).
NORMAL_WEIGHT: Final = 0.15
#: All three sequences there.
WHOLE: Final = 2 ** len(SEQUENCES) - 1


@dataclass(frozen=True)
class Sample:
    """A region that is met, with what it takes to read it.

    Attributes:
        study: number of its study.
        looks: sequence -> features float16 (c, k) of the region's voxels, and the region on that stem's grid.
        labels: int64 (attributes,), -1 unknown.
        zone: 0 PZ, 1 TZ.
        lesions: state (which sequences were there, as in :meth:`RationaleNet.suspicion`) -> mean lesion logit of the
            trunk over the region.
        positive: category 4 or 5, or a candidate that hits such a region; None where that is open (category 3).
        outline: "drawn", "another hand" or "candidate".
        normal: a patch of normal tissue, or a candidate that is of no drawn region; it is labelled as normal tissue
            where it touches none, else not at all.
        peak: of a candidate, its largest lesion probability; else 0.
    """

    study: int
    looks: Mapping[str, tuple[Tensor, pooling.Region]]
    labels: Tensor
    zone: int
    lesions: Mapping[int, float]
    positive: bool | None
    outline: str
    normal: bool = False
    peak: float = 0.0

    @property
    def weight(self) -> float:
        """What it counts where readings are fitted or calibrated."""
        return NORMAL_WEIGHT if self.normal else 1.0

    def meets(self, sequence: str) -> bool:
        """Whether the region, so outlined, is ever read on a sequence: an automatic outline that was made of some
        sequences is read on these only."""
        return self.outline != "candidate" or any(k >> SEQUENCES.index(sequence) & 1 for k in self.lesions)


class Met(Dataset[list[Sample]]):
    """The regions of simulated studies as they are met, a list a study; see :func:`collect`."""

    def __init__(self, net: RationaleNet, data: Dataset[Item]) -> None:
        self.net, self.data = net, data

    @torch.no_grad()
    def __getitem__(self, number: int) -> list[Sample]:
        item = self.data[number]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            return list(_of_study(self.net, item, number))


def collect(net: RationaleNet, data: Dataset[Item], numbers: Sequence[int], jobs: int = 1) -> Iterator[Sample]:
    """The regions of simulated studies: drawn, by another hand, and the network's candidates.

    Candidates are those of the whole study and those of one with some sequences only, each with the lesion logit of
    just these. One that hits no region is labelled as the normal tissue that it is; one that lies mostly where the
    truth is open (cut slices) is left out.

    Args:
        net: in evaluation mode.
        data: simulated studies with all sequences.
        numbers: which of them; the draws of a study depend on its number alone.
        jobs: processes, see :func:`MedRationaleLogic.training.spread.spread`.
    """
    for met in spread(Met(net, data), numbers, jobs):
        yield from met


def _of_study(net: RationaleNet, item: Item, number: int) -> Iterator[Sample]:
    some = int(torch.randint(1, WHOLE, ()))
    logits: dict[int, Tensor] = {}
    zones: dict[int, Tensor] = {}
    thetas = {"adc": item["theta_adc"][None], "hbv": item["theta_hbv"][None]}
    with torch.autocast("cpu", torch.bfloat16):
        features = {s: net.stems[s](item[s][None]) for s in SEQUENCES}
        for state in (WHOLE, some):
            there = {s: features[s] for i, s in enumerate(SEQUENCES) if state >> i & 1}
            presence = torch.tensor([[float(s in there) for s in SEQUENCES]])
            by_zone, by_lesion, _ = net.trunk(there, thetas, presence)
            zones[state], logits[state] = by_zone[0].argmax(0), by_lesion[0, 0].float()
        flat = {s: net.for_concepts(s, f)[0].flatten(1).half() for s, f in features.items()}

    def sample(masks: Mapping[str, Tensor], labels: Tensor, zone: int, states: Sequence[int], positive: bool | None,
               outline: str, normal: bool, peak: float = 0.0) -> Sample:  # fmt: skip
        looks = {}
        for s, mask in masks.items():
            region = pooling.region(mask, STEM_GRIDS[s].spacing)
            looks[s] = (flat[s][:, region.index].clone(), region)
        where = masks.get("t2w")
        means = {k: float(logits[k][where].mean()) for k in states} if where is not None else {}
        return Sample(number, looks, labels, zone, means, positive, outline, normal, peak)

    known = drawn(item)
    for row, masks in known.masks.items():
        category = int(known.category[row])
        positive = None if category == 3 else category >= 4
        labels, zone, normal = known.labels[row], int(known.zone[row]), row >= MAX_REGIONS
        yield sample(masks, labels, zone, (WHOLE, some), positive, "drawn", normal)
        other = by_another_hand(item, masks)
        yield sample(other, labels, zone, (WHOLE, some), positive, "another hand", normal)
    open_ = item["zones"] == IGNORE
    for state in (WHOLE, some):
        probability, gland = torch.sigmoid(logits[state]).numpy(), (zones[state] > 0).numpy()
        found = lesions.extract(probability, gland, float(np.prod(FINE.spacing)), min_peak=MIN_PEAK,
                                min_volume_ml=MIN_VOLUME_ML)  # fmt: skip
        for candidate in found:
            mask = torch.from_numpy(candidate.mask)
            if not candidate.kept or float((open_ & mask).sum()) >= 0.5 * float(mask.sum()):
                continue
            of, nothing = whose(item, mask, known)
            inside = zones[state][mask]
            zone = 0 if int((inside == 1).sum()) >= int((inside == 2).sum()) else 1
            if of is not None:
                category = int(known.category[of])
                labels, positive = known.labels[of], None if category == 3 else category >= 4
            else:
                labels, positive = torch.full_like(known.labels[0], -1), False
                if nothing:
                    write_labels(labels, NORMAL["PZ" if zone == 0 else "TZ"], net.spec)
            yield sample(everywhere(item, mask, SEQUENCES), labels, zone, (state,), positive, "candidate", of is None,
                         candidate.peak)  # fmt: skip


def read(net: RationaleNet, sample: Sample, values: Tensor) -> dict[str, Tensor]:
    """A sample's logits by attribute, before calibration."""
    out: dict[str, Tensor] = {}
    for s, (features, region) in sample.looks.items():
        out |= net.read(s, net.embed(s, features.float()), region, values)
    return out


def thinned(sample: Sample, generator: torch.Generator) -> Sample:
    """The sample with at most :data:`MOST` random voxels of each extent, drawn for each extent on its own.

    A context has the voxels of the interior, too; what the draw for the interior keeps does not count in the context.
    """
    looks = {}
    for s, (features, region) in sample.looks.items():
        chosen = {e: at[torch.randperm(len(at), generator=generator)[:MOST]] for e, at in region.place.items()}
        keep, place = pooling.gather(chosen)
        looks[s] = features[:, keep], pooling.Region(region.index[keep], place, region.geometry[:, keep])
    return replace(sample, looks=looks)


@torch.inference_mode()
def judge(net: RationaleNet, samples: Sequence[Sample], calibration: Mapping[str, float]) -> list[Judged]:
    """The samples as the suspicion's fit takes them, once for each state; those of category 3 are left out."""
    values = net.value_embeddings()
    sequence = {a.id: SEQUENCES.index(a.sequence) for a in net.spec.attributes}
    out = []
    for sample in samples:
        if sample.positive is None or sample.outline == "another hand":
            continue
        p = {a: torch.softmax(x / calibration.get(a, 1.0), 0) for a, x in read(net, sample, values).items()}
        for state, lesion in sample.lesions.items():
            mine = {a: v for a, v in p.items() if state >> sequence[a] & 1}
            if mine:
                out.append(Judged(sample.zone, state, mine, lesion, sample.positive, sample.outline == "drawn"))
    return out


def fit(
    net: RationaleNet, samples: Sequence[Sample], *, epochs: int = 8, batch: int = 16, lr: float = 2e-3, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Train what only readings use on the samples, in place; the best epoch stays.

    A fifth of the studies is held out: the epoch is chosen by the loss on them. Each sample counts by its
    :attr:`Sample.weight`.

    Returns:
        Facts for the record: samples, and the held-out loss of the start and of each epoch.

    Raises:
        ValueError: too few studies to hold any out, or a network without towers.
    """
    studies = sorted({s.study for s in samples})
    held = set(studies[:: max(2, min(5, len(studies)))])
    training = [s for s in samples if s.study not in held and bool((s.labels >= 0).any())]
    testing = [s for s in samples if s.study in held and bool((s.labels >= 0).any())]
    stems = [net.stem(s) for s in SEQUENCES]
    readers = [m for s in stems if s.placed is not None for m in (s.placed, s.attention, s.together) if m is not None]
    parts = [p for m in readers for p in m.parameters()]
    if not training or not testing or not parts:
        raise ValueError(f"readings need towers and labelled regions of some studies; {len(studies)} studies found")
    wanted = {id(p): p.requires_grad for p in parts}
    for p in parts:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(parts, lr=lr, weight_decay=1e-3)
    g = torch.Generator().manual_seed(seed)
    values = net.value_embeddings().detach()
    total = epochs * math.ceil(len(training) / batch)
    step = 0
    typical = sum(s.weight for s in training) / len(training)
    ruled = RuleLoss(net.spec)
    best, losses = [p.detach().clone() for p in parts], [_held_out(net, testing, values, ruled)]
    for _ in range(epochs):
        order = torch.randperm(len(training), generator=g).tolist()
        for start in range(0, len(order), batch):
            for group in optimizer.param_groups:
                group["lr"] = lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / total)))
            chosen = [training[k] for k in order[start : start + batch]]
            mine = [s.weight * _loss(net, thinned(s, g), values, ruled) for s in chosen]
            optimizer.zero_grad()
            # by how many there are, not by what they weigh: a batch of little but normal tissue says little
            (torch.stack(mine).mean() / typical).backward()
            optimizer.step()
            step += 1
        losses.append(_held_out(net, testing, values, ruled))
        if losses[-1] == min(losses):
            best = [p.detach().clone() for p in parts]
    with torch.no_grad():
        for p, kept in zip(parts, best, strict=True):
            p.copy_(kept)
    for p in parts:
        p.requires_grad_(wanted[id(p)])
    return {
        "rules": RULES, "normal_weight": NORMAL_WEIGHT, "studies": len(studies), "samples": len(training),
        "held_out": len(testing), "loss_by_epoch": [round(x, 4) for x in losses],
    }  # fmt: skip


def _loss(net: RationaleNet, sample: Sample, values: Tensor, ruled: RuleLoss) -> Tensor:
    logits = read(net, sample, values)
    known = {a.id: sample.labels[i] for i, a in enumerate(net.spec.attributes) if int(sample.labels[i]) >= 0}
    terms = [attribute_loss(logits[a], label) for a, label in known.items() if a in logits]
    if not terms:
        return values.new_zeros((), requires_grad=True)
    by_rule = ruled(logits, sample.labels, sample.zone)
    return torch.stack(terms).mean() + (0.0 if by_rule is None else RULES * by_rule)


@torch.inference_mode()
def _held_out(net: RationaleNet, samples: Sequence[Sample], values: Tensor, ruled: RuleLoss) -> float:
    weights = torch.tensor([s.weight for s in samples])
    losses = torch.stack([_loss(net, s, values, ruled) for s in samples])
    return float((weights * losses).sum() / weights.sum())
