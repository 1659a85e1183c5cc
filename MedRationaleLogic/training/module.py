"""The Lightning module: one step over a batch of items, whatever they come from.

Two variants over one architecture, data and budget: the *constrained* one, whose evidence losses are minimised subject
to a segmentation as good as the twin's, and the unconstrained *twin*, which segments and aligns and has no say on where
its evidence lies (docs/training.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from MedRationaleLogic.model.grids import SEQUENCES, STEM_GRIDS
from MedRationaleLogic.model.network import QUIET_VALUES, NetworkSpec, RationaleNet
from MedRationaleLogic.model.pooling import EXTENTS, LEAST_VOXELS, gather, region, supports
from MedRationaleLogic.training.data import IGNORE, ROWS, to_stem
from MedRationaleLogic.training.losses import (
    Multiplier,
    attribute_loss,
    branch,
    gland_loss,
    jaccard_loss,
    lesion_loss,
    overlap_excess,
    zone_loss,
)
from MedRationaleLogic.training.outlines import Outlines, drawn, varied

#: Chance that a sequence which is there is taken from the trunk, in training.
DROP = 0.15
#: Voxels a step looks at for evidence outside regions, and where two views of a study are compared.
BACKGROUND = 3000
#: Of the terms that say where evidence may lie.
WEIGHTS = {"conspicuous": 1.0, "localise": 0.5, "mass": 0.3, "exclude": 0.5, "disentangle": 0.5}
#: Steps between two looks at another view of the batch (flipped, mixed).
VIEW_EVERY = 4


class RationaleTask(L.LightningModule):
    """Segmentation, alignment, suspicion; and, when constrained, localisation, exclusion, disentanglement, views.

    Args:
        spec: the network, as a dict (so that a checkpoint rebuilds it).
        phrases: (values, paraphrases, 384) text vectors, or None when a checkpoint brings them.
        lr: peak learning rate of AdamW; linear warm-up, cosine decay.
        steps: optimisation steps of the whole run.
        seed: of the draws made in training steps.
        constrained: False trains the unconstrained twin.
        twin: (step, moving average of the twin's segmentation loss), the constraint of the dual ascent; without it the
            multiplier stays at 1.
        locate: train the coarse localiser, too.
        frozen: what the masks come from (stems' bodies, trunk but for its residual, localiser) stays as it is; only
            what belongs to concepts learns, and the masks stay the same to the bit.
    """

    def __init__(self, spec: dict[str, Any], phrases: Tensor | None = None, lr: float = 1e-3, steps: int = 1000,
                 seed: int = 0, constrained: bool = True, twin: Sequence[tuple[int, float]] = (),
                 locate: bool = True, frozen: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.save_hyperparameters(ignore=["phrases", "twin"])
        self.net = RationaleNet(NetworkSpec.from_dict(spec))
        if phrases is not None:
            self.net.phrases.copy_(phrases)
        self.lr, self.steps, self.constrained, self.locate = lr, steps, constrained, locate and not frozen
        self.frozen = frozen
        if frozen:
            for part in (self.net.trunk, self.net.localizer, *(self.net.stem(s).body for s in SEQUENCES)):
                part.requires_grad_(False)
            self.net.trunk.residual.requires_grad_(True)  # a part of the suspicion, not of the masks
        self.multiplier = Multiplier(twin if constrained else ())
        attributes = self.net.spec.attributes
        self.quiet = torch.tensor([(a.id, v) in QUIET_VALUES for a in attributes for v in a.values])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.lr, weight_decay=1e-4)
        warm = min(100, max(1, self.steps // 20))

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            return 0.02 + 0.98 * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * min(1.0, step / self.steps)))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["multiplier"] = {"value": self.multiplier.value, "average": self.multiplier.average}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("multiplier", {})
        self.multiplier.value = state.get("value", self.multiplier.value)
        self.multiplier.average = state.get("average", self.multiplier.average)

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        losses = self.losses(batch, train=True)
        total = torch.stack([v for k, v in losses.items() if k not in ("zones", "lesion")]).sum()
        if not self.frozen:
            segmentation = losses["zones"] + losses["lesion"]
            total = self.multiplier.value * segmentation + total
            self.multiplier.update(self.global_step, float(segmentation.detach()))
        self.log_dict({f"train/{k}": v for k, v in losses.items()}, prog_bar=False)
        self.log("train/loss", total, prog_bar=True)
        self.log("train/segmentation", float(self.multiplier.average or 0.0))
        self.log("train/multiplier", self.multiplier.value)
        return total

    def losses(self, batch: dict[str, Tensor], train: bool) -> dict[str, Tensor]:
        """Weighted terms of one batch, by name."""
        net = self.net
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = {s: net.stems[s](batch[s]) for s in SEQUENCES}
        for_masks: dict[str, Tensor | None] = dict(features)
        for_evidence = dict(features)
        if train and self.constrained and not self.frozen:
            for s, f in features.items():
                for_masks[s], for_evidence[s] = branch(f)
        for_evidence = {s: net.for_concepts(s, f) for s, f in for_evidence.items()}
        presence = batch["presence"].clone()
        if train:
            keep = (torch.rand(presence.shape) > DROP).to(presence)
            kept = presence * keep
            # a study of nothing teaches nothing
            presence = torch.where(kept.sum(1, keepdim=True) > 0, kept, presence)
        thetas = {"adc": batch["theta_adc"], "hbv": batch["theta_hbv"]}
        zones, lesion, residual = net.trunk(for_masks, thetas, presence)
        losses: dict[str, Tensor] = {}
        if not self.frozen:
            losses["zones"] = zone_loss(zones, batch["zones"], batch["gland_only"])
            losses["lesion"] = lesion_loss(lesion, batch["lesion"])
        coarse = self._coarse(batch) if self.locate else None
        if coarse is not None:
            losses["coarse"] = 0.5 * coarse
        outlines = self._outlines(batch, torch.sigmoid(lesion[:, 0].detach().float()) if train else None)
        losses.update(self._concepts(batch, outlines, for_evidence, residual, presence))
        if train and self.constrained:
            losses.update(self._views(batch, for_evidence))
        return losses

    def _coarse(self, batch: dict[str, Tensor]) -> Tensor | None:
        parts = []
        for k, sequence in enumerate(SEQUENCES):
            mine = batch["coarse_sequence"] == k
            if mine.any():
                logits = self.net.locate(sequence, batch["coarse"][mine])
                parts.append(gland_loss(logits, batch["coarse_gland"][mine]) * mine.sum())
        return torch.stack(parts).sum() / len(batch["coarse_sequence"]) if parts else None

    def _outlines(self, batch: dict[str, Tensor], probability: Tensor | None) -> list[Outlines]:
        """What each study's regions are read by: as drawn, or varied, given a lesion probability (n, z, y, x)."""
        needed = ("labels", "category", "zone", "zones", "lesion", "presence", "theta_adc", "theta_hbv",
                  *(f"regions_{s}" for s in SEQUENCES))  # fmt: skip
        studies = [{name: batch[name][b] for name in needed} for b in range(len(batch["presence"]))]
        if probability is None:
            return [drawn(study) for study in studies]
        return [
            varied(study, p, self.net.spec) if bool((study["labels"] >= 0).any()) else drawn(study)
            for study, p in zip(studies, probability, strict=True)
        ]

    def _concepts(self, batch: dict[str, Tensor], outlines: Sequence[Outlines], features: Mapping[str, Tensor],
                  residual: Tensor, presence: Tensor) -> dict[str, Tensor]:  # fmt: skip
        net = self.net
        spec = net.spec
        paraphrase = int(torch.randint(spec.paraphrases, ())) if self.training else None
        values = net.value_embeddings(paraphrase)
        slices = net.slices()
        # phrases of one attribute's different values must lie apart
        apart = torch.stack([
            F.relu((values[w] @ values[w].T - 2 * torch.eye(w.stop - w.start, device=values.device)) - 0.2).mean()
            for w in slices.values()
        ]).mean()  # fmt: skip
        # taken apart once: indexing a study out of the batch costs a batch of zeros on the way back, each time
        by_study = {s: f.unbind(0) for s, f in features.items()}
        align: list[Tensor] = []
        names = ("conspicuous", "localise", "mass", "exclude", "disentangle")
        where: dict[str, list[Tensor]] = {name: [] for name in names}
        suspect: list[Tensor] = []
        for b, outlined in enumerate(outlines):
            if not outlined.masks:
                continue
            readings: dict[int, dict[str, Tensor]] = {row: {} for row in range(ROWS)}
            for s, sequence in enumerate(SEQUENCES):
                if not bool(batch["presence"][b, s]):
                    continue
                regions = batch[f"regions_{sequence}"][b]
                unknown = _unknown(batch, b, sequence)
                parts: dict[str, Tensor] = {"outside": _outside(regions, unknown)}
                spacing = STEM_GRIDS[sequence].spacing
                rows = []
                for row in range(ROWS):
                    mask = regions == row + 1
                    if (batch["labels"][b, row] >= 0).any() and int(mask.sum()) >= LEAST_VOXELS:
                        rows.append(row)
                        parts |= {f"{row} {e}": part for e, part in supports(mask, spacing).items()}
                read = {row: region(m[sequence], spacing) for row, m in outlined.masks.items() if sequence in m}
                parts |= {f"read {row}": r.index for row, r in read.items()}
                index, place = gather(parts)
                seen = net.embed(sequence, by_study[sequence][b].flatten(1)[:, index])
                found = {row: {e: place[f"{row} {e}"] for e in EXTENTS} for row in rows}
                for row, mine in read.items():
                    logits = net.read(sequence, seen.at(place[f"read {row}"]), mine, values)
                    for i, attribute in enumerate(spec.attributes):
                        if attribute.id not in logits:
                            continue
                        readings[row][attribute.id] = torch.softmax(logits[attribute.id], 0)
                        label = outlined.labels[row, i]
                        if label >= 0:
                            align.append(attribute_loss(logits[attribute.id], label))
                if self.constrained:
                    shown = net.conspicuity(sequence, by_study[sequence][b].flatten(1))
                    if shown is not None:
                        extents = self._extents(sequence, rows, parts, batch["labels"][b], regions.numel())
                        extents[(extents == 0) & unknown.flatten()] = IGNORE
                        where["conspicuous"] += [
                            lesion_loss(x[None, None], e[None]) for x, e in zip(shown, extents, strict=True)
                        ]
                    evidence = net.evidence(sequence, seen, values)
                    # a sampled voxel stands for this many
                    weight = float(((regions == 0) & ~unknown).sum()) / max(1, len(place["outside"]))
                    terms = self._evidence(evidence, place["outside"], weight, found, batch["labels"][b])
                    for name, term in terms.items():
                        where[name].append(term)
            suspect += self._suspect(outlined, readings, residual[b, 0], [bool(v) for v in presence[b]])
        out = {"apart": apart}
        if align:
            out["align"] = 1.0 * torch.stack(align).mean()
        for name, parts_of in where.items():
            if parts_of:
                out[name] = WEIGHTS[name] * torch.stack(parts_of).mean()
        if suspect:
            out["suspicion"] = 0.3 * torch.stack(suspect).mean()
        return out

    def _extents(self, sequence: str, rows: Sequence[int], parts: Mapping[str, Tensor], labels: Tensor,
                 count: int) -> Tensor:  # fmt: skip
        """uint8 (3, count) of one study's sequence: where anything that this sequence shows has its extent.

        Args:
            rows: regions with labels.
            parts: "row extent" -> flat voxel indices.
            labels: (rows, attributes), -1 unknown.
            count: voxels of the sequence's grid.
        """
        slices = self.net.slices()
        out = torch.zeros((len(EXTENTS), count), dtype=torch.uint8, device=labels.device)
        for i, a in enumerate(self.net.spec.attributes):
            loud = ~self.quiet[slices[a.id]]
            for row in rows:
                label = int(labels[row, i])
                if a.sequence == sequence and label >= 0 and loud[label]:
                    out[EXTENTS.index(a.extent), parts[f"{row} {a.extent}"]] = 1
        return out

    def _evidence(self, evidence: dict[str, Tensor], outside: Tensor, weight: float,
                  found: dict[int, dict[str, Tensor]], labels: Tensor) -> dict[str, Tensor]:  # fmt: skip
        """Where evidence may lie, of one study's sequence.

        * conspicuous (not here): one map an extent class against the extents of all that is to be described;
        * localise: a region's evidence against its extent class's extent, evidence outside low;
        * mass: of all evidence of an attribute, the share inside the extents of regions that have the concept;
        * exclude: over a region, its own value there and the contradictory ones not;
        * disentangle: two extent classes' maps overlap no more than their true extents do.

        Args:
            evidence: attribute id -> (values, k) in 0..1, at k gathered voxels.
            outside: places of sampled voxels away from every region.
            weight: how many voxels one of ``outside`` stands for.
            found: row -> extent class -> places.
            labels: (rows, attributes), -1 unknown.
        """
        slices = self.net.slices()
        localise: list[Tensor] = []
        mass: list[Tensor] = []
        exclude: list[Tensor] = []
        disentangle: list[Tensor] = []
        mine = [(i, a, evidence[a.id]) for i, a in enumerate(self.net.spec.attributes) if a.id in evidence]
        for i, attribute, p in mine:
            loud = ~self.quiet[slices[attribute.id]]
            if len(outside):
                localise.append(-torch.log1p(-p[loud][:, outside].clamp(max=1 - 1e-4)).mean())
            inside = p.new_zeros(())
            for row, support in found.items():
                label = int(labels[row, i])
                if label < 0:
                    continue
                # summed over the extent, not voxel by voxel: where in it the evidence lies is the map's to say
                here = p[:, support[attribute.extent]].mean(1).clamp(1e-4, 1 - 1e-4)
                if loud[label]:
                    exclude.append(-torch.log(here[label]))
                    inside = inside + p[label][support[attribute.extent]].sum()
                other = loud.clone()
                other[label] = False
                if other.any():
                    exclude.append(-torch.log1p(-here[other]).mean())
            if float(inside.detach()) > 0:
                stray = weight * p[loud][:, outside].sum()
                # -log of the share inside: unlike the share itself it still has a slope when nearly all is outside
                mass.append(torch.log1p(stray / inside))
        for row, support in found.items():
            near = torch.unique(torch.cat(list(support.values())))
            maps: dict[str, list[Tensor]] = {}
            for i, attribute, p in mine:
                label = int(labels[row, i])
                if label >= 0 and not self.quiet[slices[attribute.id]][label]:
                    maps.setdefault(attribute.extent, []).append(p[label][near])
            extents = {e: torch.isin(near, support[e]) for e in maps}
            summed = {e: torch.stack(m).mean(0) for e, m in maps.items()}
            localise += [jaccard_loss(summed[e], extents[e]) for e in summed]
            names = sorted(summed)
            for k, first in enumerate(names):
                for second in names[k + 1 :]:
                    a, b = extents[first], extents[second]
                    allowed = float((a & b).sum()) / max(1, int((a | b).sum()))
                    disentangle.append(overlap_excess(summed[first], summed[second], allowed))
        out = {}
        if localise:
            out["localise"] = torch.stack(localise).mean()
        if mass:
            out["mass"] = torch.stack(mass).mean()
        if exclude:
            out["exclude"] = torch.stack(exclude).mean()
        if disentangle:
            out["disentangle"] = torch.stack(disentangle).mean()
        return out

    def _views(self, batch: dict[str, Tensor], features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Another view of the same study must carry the same evidence.

        One anatomy by two scanners (every such pair); in turn, every few steps, a mirrored study (equivariance), and a
        mix of two studies whose evidence must be the same mix (distributionally robust explanations, CVPR 2023).
        """
        values = self.net.value_embeddings()
        out: dict[str, Tensor] = {}
        twins = batch.get("twin_of_previous")
        if twins is not None and twins[1:].any():
            k = int(twins[1:].nonzero()[0, 0])
            regions = batch["regions_t2w"][k]
            index = torch.unique(torch.cat([_outside(regions), regions.flatten().nonzero()[:, 0]]))
            first, second = (self._probability("t2w", features["t2w"][j], index, values) for j in (k, k + 1))
            out["scanner"] = 2.0 * F.mse_loss(first, second) + (1.0 - _agreement(first, second))
        turn, rest = divmod(self.global_step, VIEW_EVERY)
        if rest:
            return out
        n = len(batch["presence"])
        mixed = turn % 2 == 1 and n > 1
        share = float(torch.empty(()).uniform_(0.3, 0.7))
        terms = []
        for s, sequence in enumerate(SEQUENCES):
            if not bool(batch["presence"][: 2 if mixed else 1, s].all()):
                continue
            regions = batch[f"regions_{sequence}"][0]
            places = [_outside(regions), regions.flatten().nonzero()[:, 0]]
            image = batch[sequence]
            if mixed:
                places.append(batch[f"regions_{sequence}"][1].flatten().nonzero()[:, 0])
                image = share * image[:1] + (1 - share) * image[1:2]
            else:
                image = image[:1].flip(-1)
            with torch.set_grad_enabled(not self.frozen):
                view = self.net.stems[sequence](image)
            view = self.net.for_concepts(sequence, view)
            view = view if mixed else view.flip(-1)
            index = torch.unique(torch.cat(places))
            with torch.no_grad():
                target = self._probability(sequence, features[sequence][0], index, values)
                if mixed:
                    other = self._probability(sequence, features[sequence][1], index, values)
                    target = share * target + (1 - share) * other
            terms.append(F.mse_loss(self._probability(sequence, view[0], index, values), target))
        if terms:
            out["mix" if mixed else "mirror"] = VIEW_EVERY * 0.5 * torch.stack(terms).mean()
        return out

    def _probability(self, sequence: str, features: Tensor, index: Tensor, values: Tensor) -> Tensor:
        """Evidence of all values of a sequence at flat voxel indices: (values of the sequence, k)."""
        seen = self.net.embed(sequence, features.flatten(1)[:, index])
        return torch.cat(list(self.net.evidence(sequence, seen, values).values()))

    def _suspect(self, outlined: Outlines, readings: dict[int, dict[str, Tensor]], residual: Tensor,
                 there: Sequence[bool]) -> list[Tensor]:  # fmt: skip
        """Of one study: its regions' suspicion, against their category being 4 or 5, and the residual's size."""
        out = []
        for row, known in readings.items():
            category = int(outlined.category[row])
            mask = outlined.masks.get(row, {}).get("t2w")
            if not known or category in (0, 3) or mask is None:
                continue
            # the reading is trained by its label alone; suspicion only learns how to weigh it
            mine = {k: v.detach() for k, v in known.items() if there[SEQUENCES.index(_sequence(k))]}
            if not mine:
                continue
            zone = "PZ" if int(outlined.zone[row]) == 0 else "TZ"
            pooled = residual[mask].float().mean()
            logit = self.net.suspicion(zone, mine, pooled, there).logit
            out.append(F.binary_cross_entropy_with_logits(logit, logit.new_tensor(float(category >= 4))))
            # the residual is a last resort
            out.append(0.1 * torch.tanh(pooled).abs())
        return out


def _agreement(first: Tensor, second: Tensor) -> Tensor:
    """Mean cosine of two views' maps (values, k), over the values that either view shows; 1 when there are none.

    The mean squared error hardly sees a small map that one view has and the other has not: nearly all of both is 0.
    """
    shown = torch.maximum(first, second).detach().amax(1) > 0.3
    if not shown.any():
        return first.new_ones(())
    return F.cosine_similarity(first[shown], second[shown], dim=1).mean()


def _unknown(batch: Mapping[str, Tensor], b: int, sequence: str) -> Tensor:
    """Bool (z, y, x) on a sequence's grid: outside the drawn regions of study b, where nobody said that there is none.

    Not every finding of a real case is outlined, and a cut slice has no image.
    """
    unknown = batch["lesion"][b] == IGNORE
    if sequence != "t2w":
        unknown = to_stem(unknown, batch[f"theta_{sequence}"][b], STEM_GRIDS[sequence].shape)
    return unknown & (batch[f"regions_{sequence}"][b] == 0)


def _outside(regions: Tensor, unknown: Tensor | None = None) -> Tensor:
    """Random flat indices of voxels away from every region and from where regions are not known; a region's seam
    belongs to nobody."""
    # one look per 4x4 block is enough to keep a distance of at least two pixels, and costs a sixteenth
    near = F.max_pool3d((regions > 0).float()[None, None], (3, 9, 9), (1, 4, 4), (1, 4, 4))[0, 0] > 0
    _, height, width = regions.shape
    index = torch.randint(regions.numel(), (2 * BACKGROUND,), device=regions.device)
    z, y, x = index // (height * width), index // width % height, index % width
    _, rows, columns = near.shape
    taken = near[z, ((y + 2) // 4).clamp(max=rows - 1), ((x + 2) // 4).clamp(max=columns - 1)]
    return index[~taken] if unknown is None else index[~(taken | unknown.flatten()[index])]


def _sequence(attribute: str) -> str:
    return {"t2": "t2w", "adc": "adc", "hbv": "hbv"}[attribute.split(".")[0]]


def dice(a: Tensor, b: Tensor) -> float:
    """Dice similarity coefficient of two boolean masks; 1 when both are empty."""
    total = int(a.sum() + b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total


class SegmentationScore:
    """Mean DSC over items as they are, for validation."""

    @staticmethod
    @torch.inference_mode()
    def of(net: RationaleNet, item: dict[str, Tensor]) -> dict[str, float]:
        """DSC of gland, PZ and TZ (NaN where only the gland is labelled) of one item, all sequences used."""
        batch = {k: v[None] for k, v in item.items()}
        features = {
            s: net.stems[s](batch[s]) if bool(batch["presence"][0, i]) else None for i, s in enumerate(SEQUENCES)
        }
        thetas = {"adc": batch["theta_adc"], "hbv": batch["theta_hbv"]}
        zones, lesion, _ = net.trunk(features, thetas, batch["presence"])
        predicted, truth = zones[0].argmax(0), item["zones"]
        known = truth != IGNORE
        out = {"gland": dice((predicted > 0) & known, (truth > 0) & known)}
        for k, name in ((1, "pz"), (2, "tz")):
            known_zone = not bool(item["gland_only"])
            out[name] = dice((predicted == k) & known, (truth == k) & known) if known_zone else float("nan")
        target = item["lesion"]
        seen = target != IGNORE
        out["lesion"] = (
            dice((torch.sigmoid(lesion[0, 0]) > 0.5) & seen, (target == 1) & seen)
            if (target == 1).any()
            else float("nan")
        )
        return out
