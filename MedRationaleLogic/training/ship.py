"""From a checkpoint to a bundle: calibration and thresholds on simulated validation studies, never on test cases."""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from MedRationaleLogic.imaging.measure import feret_in_plane
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.inference import lesions
from MedRationaleLogic.model import bundle, pooling
from MedRationaleLogic.model.grids import FINE, SEQUENCES, STEM_GRIDS
from MedRationaleLogic.model.network import NetworkSpec, RationaleNet, spec_from_lexicon
from MedRationaleLogic.pirads import lexicon, rules
from MedRationaleLogic.simulation.cohort import split_bank
from MedRationaleLogic.simulation.labels import LabelBank
from MedRationaleLogic.simulation.study import MAX_REGIONS
from MedRationaleLogic.training import conspicuity, readings, suspicion
from MedRationaleLogic.training.data import IGNORE, ROWS, Item, SimulatedSet
from MedRationaleLogic.training.module import dice
from MedRationaleLogic.training.run import HELD_OUT, take_over

VALIDATION_SEED = 9001
RANKING_SEED = 9002
LOOKING_SEED = 9003
#: What a manifest's training facts say of validation studies: of one bundle, not of the next that is made from it.
OF_VALIDATION = ("validation_as_met", "temperatures")
#: Share of the candidates of category 3 and above, read as 3, that are to be reported.
EQUIVOCAL = 0.8
LICENCE = (
    "CC BY-NC 4.0: trained on label maps and images of PI-CAI (CC BY-NC 4.0), PROSTATEx, PROSTATE-DIAGNOSIS and "
    "Prostate-3T (CC BY 3.0). Non-commercial research only."
)


def load_network(checkpoint: Path) -> RationaleNet:
    """The network of a training checkpoint, or of a bundle folder, in evaluation mode.

    One with towers, of before there was :class:`~MedRationaleLogic.model.network.Together`, gets it; fresh it adds
    nothing.

    Raises:
        BundleError: the folder is no bundle.
        ValueError: the checkpoint's weights are not those of its network.
    """
    if checkpoint.is_dir():
        spec = NetworkSpec.from_dict(bundle.read(checkpoint).manifest.network)
    else:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        spec = NetworkSpec.from_dict(state["hyper_parameters"]["spec"])
    if spec.tower and not spec.together:
        spec = replace(spec, together=spec_from_lexicon().together)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a fresh part is fitted later: the same command makes the same bundle
        net = RationaleNet(spec)
    take_over(net, checkpoint)
    return net.eval()


def temperature(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Temperature (0.25 to 8) that minimises the negative log-likelihood.

    1 where there is nothing to measure it on.

    Args:
        logits: (n, values).
        labels: (n,).
        weights: (n,) what each counts; None: all the same.
    """
    if not len(labels):
        return 1.0
    grid = torch.exp(torch.linspace(np.log(0.25), np.log(8.0), 61))
    by = torch.ones(len(labels)) if weights is None else weights
    losses = torch.stack([(by * F.cross_entropy(logits / t, labels, reduction="none")).sum() for t in grid])
    return round(float(grid[int(losses.argmin())]), 4)


def expected_calibration_error(p: Tensor, labels: Tensor) -> float:
    """ECE of the top answer (:func:`calibration_gap`); p (n, values), labels (n,)."""
    confidence, answer = p.max(1)
    return calibration_gap(confidence, answer == labels)


def calibration_gap(confidence: Tensor, right: Tensor, bins: int = 10) -> float:
    """ECE by equal-width bins (Guo 2017): confidence (n,) 0..1 of the answers, right (n,) whether each was."""
    right = right.float()
    index = (confidence * bins).long().clamp(max=bins - 1)
    error = 0.0
    for k in range(bins):
        mine = index == k
        if mine.any():
            error += float(mine.float().mean()) * abs(float(right[mine].mean() - confidence[mine].mean()))
    return error


@dataclass(frozen=True)
class DrawnRegion:
    """What a drawn region's suspicion follows from.

    Attributes:
        zone: "PZ" or "TZ".
        category: 1 to 5.
        logits: by attribute, of the sequences that were there.
        residual: () the trunk's, pooled over the region.
        presence: of t2w, adc, hbv.
        normal: a patch of normal tissue, in which nothing was drawn.
    """

    zone: str
    category: int
    logits: dict[str, Tensor]
    residual: Tensor
    presence: tuple[bool, ...]
    normal: bool = False


@torch.inference_mode()
def validate(net: RationaleNet, data: Dataset[Item]) -> dict[str, Any]:
    """Reads every labelled region of a set: logits with their truth, what suspicion needs, masks, peaks.

    ``of`` is the study of each reading, in their order. Patches of normal tissue are among what suspicion is judged on,
    not among the readings: they would be half of them. A sequence that a study does not have is neither read nor fused,
    as when the study is explained. A structure's DSC is that of the studies in which it is labelled.
    """
    values = net.value_embeddings()
    attributes = net.spec.attributes
    slices = {a.id: i for i, a in enumerate(attributes)}
    logits: dict[str, list[Tensor]] = defaultdict(list)
    labels: dict[str, list[int]] = defaultdict(list)
    of: dict[str, list[int]] = defaultdict(list)
    regions: list[DrawnRegion] = []
    peaks: list[tuple[float, bool]] = []
    dsc: dict[str, list[float]] = defaultdict(list)
    for n in range(len(data)):  # type: ignore[arg-type]
        item = data[n]
        presence = tuple(bool(v) for v in item["presence"])
        with torch.autocast("cpu", torch.bfloat16):
            features = {s: net.stems[s](item[s][None]) for s, there in zip(SEQUENCES, presence, strict=True) if there}
            thetas = {"adc": item["theta_adc"][None], "hbv": item["theta_hbv"][None]}
            zones, lesion, residual = net.trunk(features, thetas, item["presence"][None])
            concepts = {s: net.for_concepts(s, f)[0].flatten(1) for s, f in features.items()}
        predicted, truth = zones[0].argmax(0), item["zones"]
        known = truth != IGNORE
        labelled = [("gland", predicted > 0, truth > 0)]
        if not bool(item["gland_only"]):
            labelled += [("pz", predicted == 1, truth == 1), ("tz", predicted == 2, truth == 2)]
        if bool((known & (truth > 0)).any()):
            for name, a, b in labelled:
                dsc[name].append(dice(a & known, b & known))
        probability = torch.sigmoid(lesion[0, 0].float())
        target = item["lesion"]
        if (target == 1).any():
            dsc["lesion"].append(dice((probability > 0.5) & (target != IGNORE), target == 1))
        found = lesions.extract(
            probability.numpy(),
            (predicted > 0).numpy(),
            float(np.prod(FINE.spacing)),
            min_peak=0.02,
            min_volume_ml=0.05,
        )
        peaks += [
            (c.peak, bool((target == 1).numpy()[c.mask].any())) for c in found
            if c.kept and not (target == IGNORE).numpy()[c.mask].any()
        ]  # fmt: skip
        for row in range(ROWS):
            if not (item["labels"][row] >= 0).any():
                continue
            mine: dict[str, Tensor] = {}
            normal = row >= MAX_REGIONS
            for s in concepts:
                mask = item[f"regions_{s}"] == row + 1
                if int(mask.sum()) < pooling.LEAST_VOXELS:
                    continue
                region = pooling.region(mask, STEM_GRIDS[s].spacing)
                voxels = net.embed(s, concepts[s][:, region.index])
                for a, x in net.read(s, voxels, region, values).items():
                    mine[a] = x
                    label = int(item["labels"][row, slices[a]])
                    if label >= 0 and not normal:
                        logits[a].append(x)
                        labels[a].append(label)
                        of[a].append(n)
            mask = item["regions_t2w"] == row + 1
            category = int(item["category"][row])
            if mine and mask.any() and category:
                zone = "PZ" if int(item["zone"][row]) == 0 else "TZ"
                pooled = residual[0, 0][mask].float().mean()
                regions.append(DrawnRegion(zone, category, mine, pooled, presence, normal))
    return {
        "studies": len(data),  # type: ignore[arg-type]
        "logits": {a: torch.stack(x) for a, x in logits.items()},
        "labels": {a: torch.tensor(x) for a, x in labels.items()},
        "of": dict(of),
        "regions": regions,
        "peaks": peaks,
        "dsc": dict(dsc),
    }


def area_under_roc(scores: np.ndarray[Any, Any], positive: np.ndarray[Any, Any]) -> float:
    """AUROC by ranks (Mann-Whitney), ties counted half; NaN without both classes."""
    from scipy.stats import rankdata

    n1, n0 = int(positive.sum()), int((~positive).sum())
    if not n1 or not n0:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


@torch.inference_mode()
def suspicions(
    net: RationaleNet, regions: Sequence[DrawnRegion], calibration: Mapping[str, float]
) -> list[tuple[float, int, float]]:
    """(suspicion, category, residual's share) by region, from calibrated readings as inference has them."""
    out = []
    for region in regions:
        readings = {a: torch.softmax(x / calibration.get(a, 1.0), 0) for a, x in region.logits.items()}
        s = net.suspicion(region.zone, readings, region.residual, region.presence)
        out.append((float(torch.sigmoid(s.logit)), region.category, float(s.residual_share)))
    return out


def calibrate(seen: Mapping[str, Any]) -> dict[str, float]:
    """Temperature of each attribute, on the first half of its regions; :func:`summarise` reports on the second."""
    return {a: temperature(x[: len(x) // 2], seen["labels"][a][: len(x) // 2]) for a, x in seen["logits"].items()}


@torch.inference_mode()
def calibrate_as_met(net: RationaleNet, samples: Sequence[readings.Sample]) -> dict[str, float]:
    """Temperature of each attribute over regions as they are met: drawn, by another hand, the network's candidates.

    On drawn outlines alone readings are surer than on automatic ones, which most are read by. Each counts by its
    :attr:`~MedRationaleLogic.training.readings.Sample.weight`.
    """
    known: dict[str, list[tuple[Tensor, int, float]]] = defaultdict(list)
    for s, a, logits, label in _answers(net, samples):
        known[a].append((logits, label, s.weight))
    out = {}
    for a, triples in known.items():
        x, y, w = zip(*triples, strict=True)
        out[a] = temperature(torch.stack(x), torch.tensor(y), torch.tensor(w))
    return out


def _answers(
    net: RationaleNet, samples: Sequence[readings.Sample]
) -> Iterator[tuple[readings.Sample, str, Tensor, int]]:
    """(sample, attribute, logits, truth) of whatever is read of the samples and known."""
    values = net.value_embeddings()
    for s in samples:
        read = readings.read(net, s, values)
        for i, a in enumerate(net.spec.attributes):
            if a.id in read and int(s.labels[i]) >= 0 and s.meets(a.sequence):
                yield s, a.id, read[a.id], int(s.labels[i])


@torch.inference_mode()
def as_met(
    net: RationaleNet, samples: Sequence[readings.Sample], calibration: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """By kind of outline ("drawn", "another hand", "candidate", and "normal" whatever the outline): how many readings,
    how many of them are right, and their ECE."""
    told: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for s, a, logits, label in _answers(net, samples):
        p = torch.softmax(logits / calibration.get(a, 1.0), 0)
        told["normal" if s.normal else s.outline].append((float(p.max()), int(p.argmax()) == label))
    out = {}
    for kind, pairs in sorted(told.items()):
        confidence, right = torch.tensor([c for c, _ in pairs]), torch.tensor([r for _, r in pairs])
        out[kind] = {"readings": len(pairs), "accuracy": round(float(right.float().mean()), 3),
                     "ece": round(calibration_gap(confidence, right), 3)}  # fmt: skip
    return out


def summarise(
    net: RationaleNet, seen: Mapping[str, Any], calibration: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Thresholds and validation figures from :func:`validate`, of readings under the temperatures that are shipped.

    Candidates' smallest peak: the Youden-optimal one over peaks of candidates on and off drawn positives, in 0.1..0.5.
    Suspicion: Youden-optimal over drawn regions of category >= 4 against 1, 2 and normal tissue; its AUROC leaves
    normal tissue out.
    """
    concepts = {}
    for a, x in seen["logits"].items():
        y = seen["labels"][a]
        half = len(y) // 2
        p = torch.softmax(x[half:] / calibration.get(a, 1.0), 1)
        rest = y[half:]
        auc = [
            area_under_roc(p[:, k].numpy(), (rest == k).numpy()) for k in range(x.shape[1])
            if 0 < int((rest == k).sum()) < len(rest)
        ]  # fmt: skip
        concepts[a] = {
            "n": len(rest), "accuracy": _mean((p.argmax(1) == rest).tolist()), "auroc_macro": _mean(auc),
            "ece": round(expected_calibration_error(p, rest), 3),
        }  # fmt: skip
    judged = suspicions(net, seen["regions"], calibration)
    s = np.array([value for value, category, _ in judged if category != 3])
    c = np.array([category >= 4 for _, category, _ in judged if category != 3], dtype=bool)
    of_region = np.array([not r.normal for r in seen["regions"] if r.category != 3], dtype=bool)
    peaks = np.array([p for p, _ in seen["peaks"]])
    hits = np.array([h for _, h in seen["peaks"]], dtype=bool)
    thresholds = {
        "lesion_peak": _youden(peaks, hits, 0.1, 0.5), "suspicion": _youden(s, c, 0.05, 0.8),
        "evidence": conspicuity.SHOWN, "min_volume_ml": 0.1,
    }  # fmt: skip
    auroc = area_under_roc(s[of_region], c[of_region])
    figures = {
        "studies": seen["studies"],
        "dsc": {k: {"mean": _mean(v), "n": len(v)} for k, v in seen["dsc"].items()},
        "attributes_on_drawn_regions": concepts,
        "suspicion_auroc": {
            "value": None if np.isnan(auroc) else round(auroc, 3),
            "n": int(of_region.sum()),
            "positive": int(c.sum()),
        },
        "residual_share_median": _median(
            [share for (*_, share), r in zip(judged, seen["regions"], strict=True) if not r.normal]
        ),
        "candidates": {"on_positives": int(hits.sum()), "elsewhere": int((~hits).sum())},
    }
    return thresholds, figures


def _mean(values: Sequence[float]) -> float | None:
    """Rounded for the manifest; None, which JSON knows, where there is nothing to average."""
    return round(float(np.mean(values)), 3) if len(values) else None


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 3) if len(values) else None


def _youden(scores: np.ndarray[Any, Any], positive: np.ndarray[Any, Any], low: float, high: float) -> float:
    """The Youden-optimal threshold within limits: the middle of those that are but a hundredth worse than the best.

    With some sixty positives the very best is one of many, and as often as not the first of them.
    """
    grid = np.linspace(low, high, 71)
    if not positive.any() or positive.all():
        return float(round((low + high) / 2, 3))
    gain = np.array([(scores[positive] >= t).mean() - (scores[~positive] >= t).mean() for t in grid])
    good = grid[gain >= gain.max() - 0.01]
    return float(round(good[len(good) // 2], 3))  # one of them: between two groups of good ones lie bad ones


def finish(net: RationaleNet, samples: Sequence[readings.Sample]) -> dict[str, Any]:
    """Fit readings and suspicion to regions as they are met, in place; facts for the manifest.

    Raises:
        ValueError: a network without towers, whose residual is of another form; too few studies or regions.
    """
    facts: dict[str, Any] = {"readings": readings.fit(net, samples)}
    # for the fit's own purpose; the bundle's temperatures are measured on validation studies
    calibration = calibrate_as_met(net, samples)
    facts["suspicion"] = suspicion.fit(net, readings.judge(net, samples, calibration))
    return facts


def _facts_of(folder: Path) -> dict[str, Any]:
    """What a bundle's manifest says of its training, and which bundle that was; not what it measured of itself."""
    old = bundle.read(folder).manifest
    stages = [*old.training.get("stages", []), {"bundle": f"{old.name}-{old.version}", "sha256": old.sha256}]
    return {k: v for k, v in old.training.items() if k not in OF_VALIDATION} | {"stages": stages}


@torch.inference_mode()
def _threshold_of_equivocal(
    net: RationaleNet, samples: Sequence[readings.Sample], calibration: Mapping[str, float], least_peak: float
) -> dict[str, float]:
    """The suspicion from which a candidate that is read as category 3 is reported.

    The largest that still reports :data:`EQUIVOCAL` of such candidates which are of a drawn region of category 3 and
    above; {} where there is none of these. (Youden's would leave out a third of them.)
    """
    values = net.value_embeddings()
    attributes = {a.id: a.values for a in net.spec.attributes}
    found = []
    for s in samples:
        if s.outline != "candidate" or readings.WHOLE not in s.lesions or s.peak < least_peak or s.positive is False:
            continue
        p = {a: torch.softmax(x / calibration.get(a, 1.0), 0) for a, x in readings.read(net, s, values).items()}
        if len(p) < len(attributes):
            continue
        read = {a: attributes[a][int(x.argmax())] for a, x in p.items()}
        zone: rules.Zone = "PZ" if s.zone == 0 else "TZ"
        if rules.biparametric(zone, read, _longest_in_plane(s.looks["t2w"][1])) == 3:
            lesion = s.lesions[readings.WHOLE]
            judged = suspicion.Judged(s.zone, readings.WHOLE, p, lesion, positive=bool(s.positive), drawn=False)
            found.append(suspicion.of(net, judged))
    if not found:
        return {}
    least = sorted(found)[len(found) - math.ceil(EQUIVOCAL * len(found))]
    return {"equivocal": math.floor(least * 1000) / 1000}  # rounded down: what is to be reported is


def _longest_in_plane(region: pooling.Region) -> float:
    """Largest diameter in an axial slice, mm, of a region on the fine grid."""
    mask = np.zeros(FINE.shape, dtype=bool)
    mask.reshape(-1)[region.index[region.place["interior"]].numpy()] = True
    return feret_in_plane(Volume(mask, Geometry(FINE.shape, FINE.spacing), "region")).mm


def ship(checkpoint: Path, bank: LabelBank, folder: Path, *, name: str, version: str, studies: int,
         training: dict[str, Any], ranking: Dataset[Item] | None = None,
         looked_at: Dataset[Item] | None = None, jobs: int = 1) -> bundle.Bundle:  # fmt: skip
    """Fit conspicuity, readings and suspicion, calibrate, choose thresholds, write the bundle.

    Temperatures are measured on regions as they are met; where ``ranking`` is None, on drawn ones.

    Args:
        checkpoint: of a training run, or a bundle folder, whose last stage is fitted once more: what is not fitted
            stays as it is there, and the new manifest goes on from its facts.
        bank: validation maps, for temperatures and thresholds.
        folder: of the bundle.
        name, version: of the bundle.
        studies: how many validation studies.
        training: facts for the manifest.
        ranking: studies of the training maps that readings and suspicion are fitted to; None, or a network without
            towers, leaves both as trained.
        looked_at: pairs of studies of the training maps, as :func:`conspicuity.fit` takes them; None leaves conspicuity
            as it is. A slope is multiplied into what is there: fitted to a bundle, it comes on top of the bundle's own.
        jobs: processes that read the ranking studies and, for temperatures, the validation studies.

    Raises:
        BundleError: the checkpoint is a folder and no bundle, or the new bundle cannot be written.
        ValueError: the checkpoint's weights are not those of its network, or there are too few validation studies.
    """
    net = load_network(checkpoint)
    licence, told = LICENCE, dict[str, float]()
    if checkpoint.is_dir():
        before, old = _facts_of(checkpoint), bundle.read(checkpoint).manifest
        stages = [*before["stages"], *training.get("stages", [])]
        training = before | training | {"stages": stages}
        licence, told = old.licence, {k: v for k, v in old.thresholds.items() if k == "equivocal"}
    if looked_at is not None and net.spec.tower:
        training = training | {"conspicuity": conspicuity.fit(net, looked_at, len(looked_at) // 2)}  # type: ignore[arg-type]
    if ranking is not None and net.spec.tower:
        met = list(readings.collect(net, ranking, range(len(ranking)), jobs))  # type: ignore[arg-type]
        training = training | finish(net, met)
        del met  # some gigabytes
    validation = SimulatedSet(bank, net.spec, VALIDATION_SEED, studies)
    seen = validate(net, validation)
    if ranking is not None and net.spec.tower:
        # no study gives a temperature and an attribute's figure under it, here or in `summarise`
        middle = min((of[len(of) // 2] for of in seen["of"].values()), default=0)
        met = list(readings.collect(net, validation, range(studies), jobs))
        first, second = [s for s in met if s.study < middle], [s for s in met if s.study >= middle]
        if not first:
            raise ValueError(f"{studies} validation studies are too few to measure temperatures on half of them")
        calibration = calibrate_as_met(net, first)
        told = _threshold_of_equivocal(net, met, calibration, summarise(net, seen, calibration)[0]["lesion_peak"])
        training = training | {
            "temperatures": {"studies": middle, "samples": len(first), "normal_weight": readings.NORMAL_WEIGHT},
            "validation_as_met": as_met(net, second, calibration),
        }
    else:
        calibration = calibrate(seen)
    thresholds, figures = summarise(net, seen, calibration)
    thresholds |= told
    manifest = bundle.Manifest(
        name=name, version=version, sha256="", network=NetworkSpec.to_dict(net.spec),
        lexicon_version=lexicon.load().version, thresholds=thresholds, calibration=calibration,
        training=training | {"validation_seed": VALIDATION_SEED, "labels_sha256": bank.sha256},
        results={"simulated_validation": figures}, licence=licence,
    )  # fmt: skip
    return bundle.save(net, folder, manifest)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m MedRationaleLogic.training.ship --checkpoint C --bank B --output DIR``"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="of a training run, or a bundle folder")
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the new bundle, <name>-<version>")
    parser.add_argument("--studies", type=int, default=80)
    parser.add_argument(
        "--ranking", type=int, default=400, help="studies to fit readings and suspicion to; 0: as trained"
    )
    parser.add_argument("--looking", type=int, help="pairs to fit conspicuity to; 0: as it is. 40 for a training run's "
                        "checkpoint, 0 for a bundle, whose conspicuity has been fitted")  # fmt: skip
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes that read the ranking studies: one a core is fastest"
    )
    parser.add_argument("--training", type=Path, help="JSON with facts for the manifest")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    looking = args.looking if args.looking is not None else 0 if args.checkpoint.is_dir() else 40
    name, _, version = args.output.name.rpartition("-")
    facts = json.loads(args.training.read_text(encoding="utf-8")) if args.training else {}
    for_training, bank, _ = split_bank(LabelBank.load(args.bank).without(HELD_OUT))
    spec = spec_from_lexicon()
    ranking = SimulatedSet(for_training, spec, RANKING_SEED, args.ranking) if args.ranking else None
    pairs = SimulatedSet(for_training, spec, LOOKING_SEED, 2 * looking, paired=1.0) if looking else None
    made = ship(args.checkpoint, bank, args.output, name=name, version=version, studies=args.studies, training=facts,
                ranking=ranking, looked_at=pairs, jobs=args.jobs)  # fmt: skip
    print(json.dumps(made.manifest.results, indent=1))


if __name__ == "__main__":
    main()
