"""The Lightning module: one step over a batch of items, whatever they come from."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from MedRationaleLogic.model.grids import DIFFUSION, FINE, SEQUENCES
from MedRationaleLogic.model.network import NetworkSpec, RationaleNet
from MedRationaleLogic.model.pooling import EXTENTS, gather, supports
from MedRationaleLogic.training.data import IGNORE, ROWS
from MedRationaleLogic.training.losses import QUIET_VALUES, attribute_loss, gland_loss, lesion_loss, zone_loss

#: Chance that a sequence which is there is taken from the trunk, in training.
DROP = 0.15
#: Voxels a step looks at for evidence outside regions.
BACKGROUND = 3000


class RationaleTask(L.LightningModule):
    """Segmentation, alignment, localisation, exclusion, suspicion.

    Args:
        spec: the network, as a dict (so that a checkpoint rebuilds it).
        phrases: (values, paraphrases, 384) text vectors, or None when a checkpoint brings them.
        lr: peak learning rate of AdamW; linear warm-up, cosine decay.
        steps: optimisation steps of the whole run.
        seed: of the draws made in training steps.
    """

    def __init__(self, spec: dict[str, Any], phrases: Tensor | None = None, lr: float = 1e-3, steps: int = 1000,
                 seed: int = 0) -> None:  # fmt: skip
        super().__init__()
        self.save_hyperparameters(ignore=["phrases"])
        self.net = RationaleNet(NetworkSpec.from_dict(spec))
        if phrases is not None:
            self.net.phrases.copy_(phrases)
        self.lr, self.steps = lr, steps
        attributes = self.net.spec.attributes
        self.quiet = torch.tensor([(a.id, v) in QUIET_VALUES for a in attributes for v in a.values])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=1e-4)
        warm = min(100, max(1, self.steps // 20))

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            return 0.02 + 0.98 * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * min(1.0, step / self.steps)))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        losses = self.losses(batch, train=True)
        total = torch.stack(list(losses.values())).sum()
        self.log_dict({f"train/{k}": v for k, v in losses.items()}, prog_bar=False)
        self.log("train/loss", total, prog_bar=True)
        return total

    def losses(self, batch: dict[str, Tensor], train: bool) -> dict[str, Tensor]:
        """Weighted terms of one batch, by name."""
        net = self.net
        n = batch["presence"].shape[0]
        features: dict[str, Tensor | None] = {s: net.stems[s](batch[s]) for s in SEQUENCES}
        presence = batch["presence"].clone()
        if train:
            keep = (torch.rand(presence.shape) > DROP).to(presence)
            kept = presence * keep
            # a study of nothing teaches nothing
            presence = torch.where(kept.sum(1, keepdim=True) > 0, kept, presence)
        thetas = {"adc": batch["theta_adc"], "hbv": batch["theta_hbv"]}
        zones, lesion, residual = net.trunk(features, thetas, presence)
        losses = {
            "zones": zone_loss(zones, batch["zones"], batch["gland_only"]),
            "lesion": lesion_loss(lesion, batch["lesion"]),
        }
        coarse = self._coarse(batch)
        if coarse is not None:
            losses["coarse"] = 0.5 * coarse
        losses.update(self._concepts(batch, features, residual, presence, n))
        return losses

    def _coarse(self, batch: dict[str, Tensor]) -> Tensor | None:
        parts = []
        for k, sequence in enumerate(SEQUENCES):
            mine = batch["coarse_sequence"] == k
            if mine.any():
                logits = self.net.locate(sequence, batch["coarse"][mine])
                parts.append(gland_loss(logits, batch["coarse_gland"][mine]) * mine.sum())
        return torch.stack(parts).sum() / len(batch["coarse_sequence"]) if parts else None

    def _concepts(self, batch: dict[str, Tensor], features: dict[str, Tensor | None], residual: Tensor,
                  presence: Tensor, n: int) -> dict[str, Tensor]:  # fmt: skip
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
        align: list[Tensor] = []
        localise: list[Tensor] = []
        suspect: list[Tensor] = []
        for b in range(n):
            if not (batch["labels"][b] >= 0).any():
                continue
            readings: dict[int, dict[str, Tensor]] = {row: {} for row in range(ROWS)}
            for s, sequence in enumerate(SEQUENCES):
                f = features[sequence]
                if f is None or not bool(batch["presence"][b, s]):
                    continue
                regions = batch[f"regions_{sequence}"][b]
                grid = FINE if sequence == "t2w" else DIFFUSION
                parts: dict[str, Tensor] = {"outside": _outside(regions)}
                rows = []
                for row in range(ROWS):
                    mask = regions == row + 1
                    if (batch["labels"][b, row] >= 0).any() and int(mask.sum()) >= 4:
                        rows.append(row)
                        parts |= {f"{row} {e}": part for e, part in supports(mask, grid.spacing).items()}
                index, place = gather(parts)
                embedding, attention = net.embed(sequence, f[b].flatten(1)[:, index])
                found = {row: {e: place[f"{row} {e}"] for e in EXTENTS} for row in rows}
                for row in rows:
                    logits = net.read(sequence, embedding, attention, found[row], values)
                    for i, attribute in enumerate(spec.attributes):
                        if attribute.id not in logits:
                            continue
                        readings[row][attribute.id] = torch.softmax(logits[attribute.id], 0)
                        label = batch["labels"][b, row, i]
                        if label >= 0:
                            align.append(attribute_loss(logits[attribute.id], label))
                evidence = net.evidence_logits(sequence, embedding, values)
                localise.append(self._localise(evidence, place["outside"], found, batch["labels"][b]))
            suspect += self._suspect(batch, b, readings, residual, presence)
        out = {"apart": apart}
        if align:
            out["align"] = 1.0 * torch.stack(align).mean()
            out["localise"] = 0.5 * torch.stack(localise).mean()
        if suspect:
            out["suspicion"] = 0.3 * torch.stack(suspect).mean()
        return out

    def _localise(self, evidence: dict[str, Tensor], outside: Tensor, found: dict[int, dict[str, Tensor]],
                  labels: Tensor) -> Tensor:  # fmt: skip
        """Evidence outside every region low; a region's summed evidence high in it; exclusive values not together."""
        slices = self.net.slices()
        terms = []
        for i, attribute in enumerate(self.net.spec.attributes):
            if attribute.id not in evidence:
                continue
            x = evidence[attribute.id]
            loud = ~self.quiet[slices[attribute.id]]
            terms.append(F.softplus(x[loud][:, outside]).mean())
            for row, support in found.items():
                label = int(labels[row, i])
                if label < 0:
                    continue
                mine = torch.sigmoid(x[:, support[attribute.extent]])
                if loud[label]:
                    # summed over its extent, not voxel by voxel: where in it the evidence lies is the map's to say
                    terms.append(0.3 * F.relu(0.6 - mine[label].mean()))
                other = loud.clone()
                other[label] = False
                if other.any():
                    terms.append(0.3 * mine[other].mean())
        return torch.stack(terms).mean()

    def _suspect(self, batch: dict[str, Tensor], b: int, readings: dict[int, dict[str, Tensor]], residual: Tensor,
                 presence: Tensor) -> list[Tensor]:  # fmt: skip
        out = []
        for row, known in readings.items():
            category = int(batch["category"][b, row])
            mask = batch["regions_t2w"][b] == row + 1
            if not known or category in (0, 3) or not mask.any():
                continue
            there = [bool(v) for v in presence[b]]
            # the reading is trained by its label alone; suspicion only learns how to weigh it
            mine = {k: v.detach() for k, v in known.items() if there[SEQUENCES.index(_sequence(k))]}
            if not mine:
                continue
            zone = "PZ" if int(batch["zone"][b, row]) == 0 else "TZ"
            pooled = residual[b, 0][mask].float().mean()
            logit = self.net.suspicion(zone, mine, pooled, there).logit
            out.append(F.binary_cross_entropy_with_logits(logit, logit.new_tensor(float(category >= 4))))
            # the residual is a last resort
            out.append(0.1 * torch.tanh(pooled).abs())
        return out


def _outside(regions: Tensor) -> Tensor:
    """Random flat indices of voxels away from every region; a region's seam belongs to nobody."""
    near = F.max_pool3d((regions > 0).float()[None, None], (3, 9, 9), 1, (1, 4, 4)).reshape(-1) > 0
    index = torch.randint(near.numel(), (2 * BACKGROUND,))
    return index[~near[index]]


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
