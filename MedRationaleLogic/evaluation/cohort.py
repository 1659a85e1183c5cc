"""Runs a model over a simulated cohort, one forward pass a study, and keeps one record a study as a JSON line.

Records are plain data: everything that :mod:`MedRationaleLogic.evaluation.summary` needs, nothing that has to be
recomputed. A run that is started again goes on behind the last whole line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from MedRationaleLogic.evaluation.measures import cosine, dsc, extent_figures, jaccard, relevance_mass, slice_dsc
from MedRationaleLogic.imaging.measure import feret_in_plane
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.inference import lesions
from MedRationaleLogic.model import pooling
from MedRationaleLogic.model.grids import FINE, SEQUENCES, STEM_GRIDS
from MedRationaleLogic.model.network import QUIET_VALUES, RationaleNet
from MedRationaleLogic.pirads import rules
from MedRationaleLogic.simulation.cohort import CohortError
from MedRationaleLogic.simulation.study import MAX_REGIONS
from MedRationaleLogic.training.data import IGNORE, ROWS, Item, to_stem
from MedRationaleLogic.training.outlines import NOTHING
from MedRationaleLogic.training.spread import spread

#: Grow when a figure of a record changes its meaning: records of before are not gone on with. The second is of models
#: with concepts.
RECORDS, OF_CONCEPTS = 2, 3
#: IoU from which on a candidate is one of a drawn region, as picai_eval has it.
HIT = 0.1
#: Candidates from here on are ranked; what a reader is shown starts higher.
MIN_PEAK, MIN_VOLUME_ML = 0.05, 0.05


@dataclass(frozen=True)
class Candidate:
    """A ranked candidate: bool (z, y, x) on the fine grid, and what AP and AUROC rank it by."""

    mask: Tensor
    confidence: float
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """What a model says of one study.

    Attributes:
        zones: uint8 (z, y, x) on the fine grid: 0, 1 PZ, 2 TZ.
        lesion: float32 (z, y, x) probability on the fine grid.
        candidates: by falling confidence.
        shown: those that a reader would be shown as suspicious regions, by a bundle's thresholds; None without any.
        regions: for each drawn region (row): probabilities by attribute and what follows from them.
        evidence: attribute id -> (values, z, y, x) on the stem's grid; empty for a model without evidence.
        heat: float32 (z, y, x) on the fine grid, where a model without concepts looks (Grad-CAM); else None.
    """

    zones: Tensor
    lesion: Tensor
    candidates: tuple[Candidate, ...]
    regions: dict[int, dict[str, Any]] = field(default_factory=dict)
    evidence: dict[str, Tensor] = field(default_factory=dict)
    heat: Tensor | None = None
    shown: tuple[Candidate, ...] | None = None


class Predictor(Protocol):
    """A model to be measured."""

    def predict(self, item: Item) -> Prediction: ...


def _extract(
    lesion: Tensor, zones: Tensor, min_peak: float = MIN_PEAK, min_volume_ml: float = MIN_VOLUME_ML
) -> list[lesions.Candidate]:
    found = lesions.extract(lesion.numpy(), (zones > 0).numpy(), float(np.prod(FINE.spacing)), min_peak=min_peak,
                            min_volume_ml=min_volume_ml)  # fmt: skip
    return [c for c in found if c.kept]


class ConceptPredictor:
    """Our network, constrained or twin.

    Args:
        net: in evaluation mode.
        calibration: attribute id -> temperature; empty for none.
        shuffle: permute all values' embeddings, over all attributes: a control that must read nothing.
        conspicuity: False for a network that never learnt any, as the twin: its evidence is what the phrases say alone.
        thresholds: of the bundle, to tell what a reader would be shown; None: not told.
    """

    def __init__(
        self, net: RationaleNet, calibration: Mapping[str, float] | None = None, shuffle: bool = False,
        conspicuity: bool = True, thresholds: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.thresholds = thresholds
        self.net, self.calibration, self.conspicuity = net, dict(calibration or {}), conspicuity
        with torch.inference_mode():
            self.values = net.value_embeddings()
            if shuffle:
                # within an attribute it would read the opposite, which is something
                g = torch.Generator().manual_seed(0)
                self.values = self.values[torch.randperm(len(self.values), generator=g)]

    @torch.inference_mode()
    def predict(self, item: Item) -> Prediction:
        net = self.net
        with torch.autocast("cpu", torch.bfloat16):
            features = {s: net.stems[s](item[s][None]) for i, s in enumerate(SEQUENCES) if bool(item["presence"][i])}
            thetas = {"adc": item["theta_adc"][None], "hbv": item["theta_hbv"][None]}
            zone_logits, lesion_logit, residual = net.trunk(features, thetas, item["presence"][None])
            flat = {s: net.for_concepts(s, f)[0].flatten(1) for s, f in features.items()}
        zones = zone_logits[0].argmax(0).to(torch.uint8)
        lesion = torch.sigmoid(lesion_logit[0, 0].float())
        there = [bool(v) for v in item["presence"]]

        def judged(found: lesions.Candidate) -> Candidate:
            mask = torch.from_numpy(found.mask)
            masks = {s: mask if s == "t2w" else to_stem(mask, item[f"theta_{s}"], STEM_GRIDS[s].shape) for s in flat}
            readings = self._read(flat, masks)
            inside = zones[mask]
            zone = "PZ" if int((inside == 1).sum()) >= int((inside == 2).sum()) else "TZ"
            said = net.suspicion(zone, readings, residual[0, 0][mask].float().mean(), there)
            facts = {"share": float(said.residual_share), "terms": {n: float(t) for n, t in said.terms},
                     "logit": float(said.logit), "peak": found.peak, "zone": zone,
                     "p": {a: [round(float(v), 4) for v in p] for a, p in readings.items()}}  # fmt: skip
            return Candidate(mask, float(torch.sigmoid(said.logit)), facts)

        candidates = sorted((judged(c) for c in _extract(lesion, zones)), key=lambda c: -c.confidence)
        shown: tuple[Candidate, ...] | None = None
        if self.thresholds is not None:
            # extracted anew: a core too small to be shown may stand in the way of what would be
            t = self.thresholds
            those = [judged(c) for c in _extract(lesion, zones, t["lesion_peak"], t["min_volume_ml"])]
            shown = tuple(c for c in those if lesions.is_reported(c.confidence, category_of(c, net), t))
        regions: dict[int, dict[str, Any]] = {}
        for row in range(ROWS):
            if not (item["labels"][row] >= 0).any():
                continue
            masks = {s: item[f"regions_{s}"] == row + 1 for s in flat}
            readings = self._read(flat, masks)
            mask = item["regions_t2w"] == row + 1
            if not readings or not bool(mask.any()):
                continue
            zone = "PZ" if int(item["zone"][row]) == 0 else "TZ"
            said = net.suspicion(zone, readings, residual[0, 0][mask].float().mean(), there)
            regions[row] = {
                "p": {a: [round(float(v), 4) for v in p] for a, p in readings.items()},
                "suspicion": float(torch.sigmoid(said.logit)), "share": float(said.residual_share),
                "terms": {n: float(t) for n, t in said.terms}, "logit": float(said.logit),
            }  # fmt: skip
        evidence: dict[str, Tensor] = {}
        for s, f in flat.items():
            seen = net.embed(s, f)
            if not self.conspicuity:
                seen = seen._replace(conspicuity=None)
            for a, x in net.evidence(s, seen, self.values).items():
                evidence[a] = net.as_shown(s, x.reshape(-1, *STEM_GRIDS[s].shape))
                if s == "t2w":  # where the sequence has no voxel it shows nothing: slices are cut of T2W alone
                    evidence[a] = evidence[a] * (item["zones"] != IGNORE)
        return Prediction(zones, lesion, tuple(candidates), regions, evidence, shown=shown)

    def _read(self, flat: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for s, mask in masks.items():
            if int(mask.sum()) < pooling.LEAST_VOXELS:
                continue
            region = pooling.region(mask, STEM_GRIDS[s].spacing)
            seen = self.net.embed(s, flat[s][:, region.index])
            for a, x in self.net.read(s, seen, region, self.values).items():
                out[a] = torch.softmax(x / self.calibration.get(a, 1.0), 0)
        return out


class PeerPredictor:
    """The plain U-Net with Grad-CAM of what it outlines."""

    def __init__(self, net: Any) -> None:
        self.net = net

    def predict(self, item: Item) -> Prediction:
        from MedRationaleLogic.training import baseline

        zones, lesion = baseline.predict(self.net, item)
        zones, lesion = zones.clone(), lesion.clone()
        found = _extract(lesion, zones)
        candidates = tuple(Candidate(torch.from_numpy(c.mask), c.peak) for c in found)
        heat = None
        if bool((item["lesion"] == 1).any()):
            target = lesion > 0.5
            if not bool(target.any()):
                target = candidates[0].mask if candidates else torch.zeros_like(target)
            heat = baseline.grad_cam(self.net, item, target) if bool(target.any()) else torch.zeros_like(lesion)
        return Prediction(zones, lesion, candidates, heat=heat)


def detection(prediction: Prediction, item: Item) -> dict[str, Any]:
    """Hits and misses of one study by picai_eval's rule (a candidate hits from an IoU of .1 on).

    A candidate that lies mostly where the truth is left open (category 3, cut slices) is passed over.

    Raises:
        ModuleNotFoundError: picai_eval is not installed.
    """
    try:
        from picai_eval.eval import evaluate_case
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error.name} is missing; pip install 'medrationale[train]'") from error
    truth = item["lesion"] == 1
    open_ = item["lesion"] == IGNORE
    detections = np.zeros(FINE.shape, np.float32)
    for c in reversed(prediction.candidates):
        if float(open_[c.mask].float().mean()) < 0.5:
            detections[c.mask.numpy()] = max(c.confidence, 1e-6)
    # its annotation names two values, it returns four
    judged: Any = evaluate_case(detections, truth.numpy().astype(np.int32))
    results = judged[0]
    confidences = [float(c) for _, c, _ in results] + [float(detections.max())]
    return {
        "results": [[int(hit), float(confidence), float(overlap)] for hit, confidence, overlap in results],
        "case": max(confidences), "target": int(truth.any()),
    }  # fmt: skip


def record(prediction: Prediction, item: Item, net: RationaleNet | None) -> dict[str, Any]:
    """Everything that is measured of one study, as plain data."""
    known = item["zones"] != IGNORE
    truth, target = item["zones"], item["lesion"]
    seen = target != IGNORE
    positive = target == 1
    predicted = (prediction.lesion > 0.5) & seen
    out: dict[str, Any] = {
        "dsc": {
            "gland": dsc(prediction.zones > 0, truth > 0, known), "pz": dsc(prediction.zones == 1, truth == 1, known),
            "tz": dsc(prediction.zones == 2, truth == 2, known), "lesion": dsc(predicted, positive),
            "lesion_slice": slice_dsc(predicted, positive),
        },
        "detection": detection(prediction, item),
    }  # fmt: skip
    if positive.any():
        out["share"] = float(positive.float().mean())
        control = prediction.lesion > 0.5
        out["rma_control"] = relevance_mass(control.float(), positive)
        if prediction.heat is not None:
            out["rma"] = relevance_mass(prediction.heat, positive)
    if net is not None:
        out.update(_concepts(prediction, item, net))
    return out


def _concepts(prediction: Prediction, item: Item, net: RationaleNet) -> dict[str, Any]:
    regions = []
    attributes = net.spec.attributes
    controls = {
        s: prediction.lesion > 0.5 if s == "t2w" else to_stem(
            prediction.lesion > 0.5, item[f"theta_{s}"], STEM_GRIDS[s].shape)
        for s in SEQUENCES
    }  # fmt: skip
    for row, said in prediction.regions.items():
        category = int(item["category"][row])
        mine = {
            "row": row, "zone": "PZ" if int(item["zone"][row]) == 0 else "TZ", "category": category,
            "labels": {a.id: int(item["labels"][row, i]) for i, a in enumerate(attributes)
                       if int(item["labels"][row, i]) >= 0},
            **said,
        }  # fmt: skip
        mask = item["regions_t2w"] == row + 1
        mine["cut"] = _cut(item, mask)
        mine["diameter"] = round(feret_in_plane(_volume(mask)).mm, 2)
        overlap = [(int((c.mask & mask).sum()) / max(1, int((c.mask | mask).sum())), c) for c in prediction.candidates]
        best = max(overlap, key=lambda pair: pair[0], default=None)
        if best is not None and best[0] >= HIT:
            mine["matched"] = {"overlap": best[0], "p": best[1].facts.get("p", {})}
        extents: list[dict[str, Any]] = []
        means: dict[str, list[float]] = {}
        for s in SEQUENCES:
            region = item[f"regions_{s}"] == row + 1
            if int(region.sum()) < pooling.LEAST_VOXELS:
                continue
            others = (item[f"regions_{s}"] > 0) & ~region
            index, inside = pooling.window(region, STEM_GRIDS[s].spacing, others)
            by_control = _control(item, row, s, controls[s])
            for i, a in enumerate(attributes):
                label = int(item["labels"][row, i])
                if a.sequence != s or label < 0 or a.id not in prediction.evidence:
                    continue
                maps = prediction.evidence[a.id].flatten(1)[:, index]
                means[a.id] = [round(float(v), 4) for v in maps[:, inside[a.extent]].mean(1)]
                if (a.id, a.values[label]) in QUIET_VALUES:
                    continue
                iou, hit = extent_figures(maps[label], inside, a.extent)
                extents.append({"attribute": a.id, "extent": a.extent, "iou": round(iou, 4),
                                "control": round(by_control[a.extent], 4), "hit": hit})  # fmt: skip
        mine["extents"], mine["means"] = extents, means
        regions.append(mine)
    told = {} if prediction.shown is None else {"reported": _reported(prediction, item, net)}
    return {"regions": regions} | told | _masses(prediction, item, net)


def _reported(prediction: Prediction, item: Item, net: RationaleNet) -> list[dict[str, Any]]:
    """What a reader would be shown, and what it is.

    ``of`` are the rows of drawn regions that it shares an IoU of .1 with; ``nothing`` is true where less than a
    twentieth of it lies in any. One that lies mostly in cut slices, where nobody knows, is left out.
    """
    drawn = item["regions_t2w"]
    region = (drawn > 0) & (drawn <= MAX_REGIONS)
    out = []
    for c in prediction.shown or ():
        if _cut(item, c.mask):
            continue
        of = [row for row in prediction.regions if row < MAX_REGIONS and jaccard(c.mask, drawn == row + 1) >= HIT]
        nothing = float(region[c.mask].float().mean()) < NOTHING
        out.append({"suspicion": c.confidence, "category": category_of(c, net), "of": of, "nothing": nothing})
    return out


def _cut(item: Item, mask: Tensor) -> bool:
    """Whether at least half of a mask lies in slices that the study does not have."""
    return float((item["zones"] == IGNORE)[mask].float().mean()) >= 0.5


def category_of(candidate: Candidate, net: RationaleNet) -> int | Literal["X"]:
    """A candidate's category by rule, from its most probable readings and its size, as when a study is explained."""
    read = {a.id: a.values[int(np.argmax(candidate.facts["p"][a.id]))] for a in net.spec.attributes
            if a.id in candidate.facts["p"]}  # fmt: skip
    if len(read) < len(net.spec.attributes):
        return "X"
    return int(rules.biparametric(candidate.facts["zone"], read, feret_in_plane(_volume(candidate.mask)).mm))


def _control(item: Item, row: int, sequence: str, control: Tensor) -> dict[str, float]:
    """IoU of the predicted lesion mask with each extent of a region on a sequence's grid.

    The mask is outlined on T2W and knows nothing of how diffusion images are distorted. So it is compared with the
    region as T2W has it: a control that is handicapped is none.
    """
    grid = STEM_GRIDS[sequence]
    drawn = item["regions_t2w"]
    region, others = drawn == row + 1, (drawn > 0) & (drawn != row + 1)
    if sequence != "t2w":
        region, others = (to_stem(m, item[f"theta_{sequence}"], grid.shape) for m in (region, others))
    if not bool(region.any()):
        return dict.fromkeys(pooling.EXTENTS, 0.0)
    index, inside = pooling.window(region, grid.spacing, others & ~region)
    return {extent: jaccard(control.flatten()[index], truth) for extent, truth in inside.items()}


def _volume(mask: Tensor) -> Volume:
    """A mask of the fine grid with its spacing, somewhere."""
    return Volume(mask.numpy(), Geometry(FINE.shape, FINE.spacing, (0.0, 0.0, 0.0)), "region")


def _masses(prediction: Prediction, item: Item, net: RationaleNet) -> dict[str, float]:
    """Relevance mass accuracy of the maps of what a study's positive regions show: all, and by extent class.

    Beside each (``_truth``) that of a perfect map: 1 in the extents of every region that has the value, 0 elsewhere. A
    context reaches beyond its region, and another region may have the same value, so that even this is below 1.
    """
    masses: dict[str, list[float]] = {}
    positive = [row for row in prediction.regions if int(item["category"][row]) >= 4]
    for s in SEQUENCES:
        masks = {row: item[f"regions_{s}"] == row + 1 for row in prediction.regions}
        # as this sequence shows it: diffusion images are distorted
        lesion = torch.zeros(STEM_GRIDS[s].shape, dtype=torch.bool)
        for row in positive:
            lesion |= masks[row]
        if s == "t2w":
            lesion &= item["lesion"] == 1  # but for cut slices
        parts = {
            row: pooling.supports(m, STEM_GRIDS[s].spacing)
            for row, m in masks.items()
            if int(m.sum()) >= pooling.LEAST_VOXELS
        }
        for i, a in enumerate(net.spec.attributes):
            if a.sequence != s or a.id not in prediction.evidence:
                continue
            labels = {row: int(item["labels"][row, i]) for row in prediction.regions}
            for label in {labels[row] for row in positive}:
                if label < 0 or (a.id, a.values[label]) in QUIET_VALUES or not lesion.any():
                    continue
                perfect = torch.zeros(lesion.numel())
                for row, part in parts.items():
                    if labels[row] == label:
                        perfect[part[a.extent]] = 1
                for heat, name in ((prediction.evidence[a.id][label].flatten(), ""), (perfect, "_truth")):
                    mass = relevance_mass(heat, lesion.flatten())
                    masses.setdefault(f"rma{name}", []).append(mass)
                    masses.setdefault(f"rma_{a.extent}{name}", []).append(mass)
    return {name: float(np.mean(values)) for name, values in masses.items()}


def shift(first: Prediction, second: Prediction, item: Item, net: RationaleNet | None) -> float | None:
    """Mean cosine of the T2W evidence of one anatomy under two scanners, over the loud values that the study has.

    Diffusion is left out: its distortion is the scanner's, so that true maps differ.
    """
    if first.heat is not None and second.heat is not None:
        return cosine(first.heat, second.heat)
    if net is None:
        return None
    values = []
    for i, a in enumerate(net.spec.attributes):
        if a.sequence != "t2w" or a.id not in first.evidence or a.id not in second.evidence:
            continue
        for label in sorted({int(k) for k in item["labels"][:, i] if int(k) >= 0}):
            if (a.id, a.values[label]) not in QUIET_VALUES:
                c = cosine(first.evidence[a.id][label], second.evidence[a.id][label])
                if c is not None:
                    values.append(c)
    return float(np.mean(values)) if values else None


class Measured(Dataset[dict[str, Any]]):
    """A cohort as its records: what :func:`run` writes a line of, one a study.

    Args:
        predictor: the model.
        items: the cohort.
        unseen: the same anatomies by unseen scanners, or None.
        net: for concept figures; None for a model without concepts.
    """

    def __init__(
        self, predictor: Predictor, items: Dataset[Item], unseen: Dataset[Item] | None, net: RationaleNet | None
    ) -> None:
        self.predictor, self.items, self.unseen, self.net = predictor, items, unseen, net

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        prediction = self.predictor.predict(item)
        line: dict[str, Any] = {"index": index} | record(prediction, item, self.net)
        if self.unseen is not None:
            other = self.unseen[index]
            again = self.predictor.predict(other)
            line["unseen"] = record(again, other, self.net)
            for large in ("regions", "reported"):
                line["unseen"].pop(large, None)
            line["cosine"] = shift(prediction, again, item, self.net)
        return line


def run(
    predictor: Predictor, items: Dataset[Item], indices: Sequence[int], file: Path, *,
    unseen: Dataset[Item] | None = None, net: RationaleNet | None = None, facts: Mapping[str, Any] | None = None,
    jobs: int = 1,
) -> Iterator[int]:  # fmt: skip
    """Measure studies, each line written when its study is done; yields how many are.

    Args:
        predictor: the model.
        items: the cohort.
        indices: which of it, in order.
        file: JSON lines, one a study; those already there are not done again, a torn last line is dropped.
        unseen: the same anatomies by unseen scanners, or None.
        net: for concept figures; None for a model without concepts.
        facts: what the records are of (cohort, weights), kept beside them.
        jobs: processes, see :func:`MedRationaleLogic.training.spread.spread`.

    Raises:
        CohortError: the file's records are of something else.
    """
    meaning = RECORDS if net is None else OF_CONCEPTS
    _claim(file, {"records": meaning, "unseen": unseen is not None, **(facts or {})})
    done = {r["index"] for r in read(file)}
    if file.is_file():  # what a kill left of a line
        whole = [line for line in file.read_text(encoding="utf-8").splitlines() if _whole(line)]
        beside = file.with_suffix(".tmp")
        beside.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
        beside.replace(file)
    missing = [index for index in indices if index not in done]
    lines = spread(Measured(predictor, items, unseen, net), missing, jobs)
    for count, index in enumerate(indices, 1):
        if index not in done:
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(next(lines), allow_nan=False) + "\n")
        yield count


def _claim(file: Path, facts: Mapping[str, Any]) -> None:
    """Records are gone on with only when they are of the same thing."""
    about = file.with_suffix(".about.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    if read(file):
        try:
            before = json.loads(about.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = {}
        if other := sorted(k for k in before.keys() | facts.keys() if before.get(k) != facts.get(k)):
            raise CohortError(f"{file.name}: its records are of another {', '.join(other)}; give a new --output")
    beside = about.with_suffix(".tmp")
    beside.write_text(json.dumps(dict(facts), indent=1) + "\n", encoding="utf-8")
    beside.replace(about)


def _whole(line: str) -> bool:
    try:
        return "index" in json.loads(line)
    except ValueError:
        return False


def read(file: Path) -> list[dict[str, Any]]:
    """The records of a file in order of their studies; [] without one."""
    if not file.is_file():
        return []
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if _whole(line)]
    return sorted(lines, key=lambda r: int(r["index"]))
