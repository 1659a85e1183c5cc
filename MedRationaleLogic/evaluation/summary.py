"""From records to the table "same data, same budget": one figure a row, a model a column, the bar beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from MedRationaleLogic.evaluation.statistics import (
    Interval,
    bootstrap,
    confusion,
    mean_of,
    paired,
    quadratic_kappa,
    risk_coverage,
)
from MedRationaleLogic.model.network import QUIET_VALUES, NetworkSpec
from MedRationaleLogic.pirads import rules
from MedRationaleLogic.simulation.study import MAX_REGIONS
from MedRationaleLogic.training.ship import area_under_roc, calibration_gap, expected_calibration_error

Records = Sequence[Mapping[str, Any]]
Statistic = Callable[[NDArray[np.int64]], float]

OURS, TWIN, PEER = "constrained", "twin", "U-Net"
DRAWS: Final = 500
EXTENTS: Final = ("interior", "rim", "context")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what is measured.
        values: model or baseline to its interval.
        differences: baseline to the paired interval of ours minus it.
        bar: what must hold, in words; met: whether it does, None where there is nothing to compare with.
    """

    name: str
    values: dict[str, Interval]
    differences: dict[str, Interval] = field(default_factory=dict)
    bar: str = ""
    met: bool | None = None


def detection_metrics(records: Records, index: NDArray[np.int64], part: str | None = None) -> Any:
    """picai_eval's metrics of some studies; None where none of them has a region of category >= 4 to be found.

    Args:
        records: of one model.
        index: which of them, with repeats.
        part: "unseen" for those by unseen scanners.
    """
    from picai_eval.metrics import Metrics

    chosen = [(records[i] if part is None else records[i][part])["detection"] for i in index]
    if not any(d["target"] for d in chosen):
        return None
    return Metrics(
        lesion_results={str(k): [tuple(x) for x in d["results"]] for k, d in enumerate(chosen)},
        case_target={str(k): d["target"] for k, d in enumerate(chosen)},
        case_pred={str(k): d["case"] for k, d in enumerate(chosen)},
    )


def average_precision(records: Records, part: str | None = None) -> Statistic:
    """AP over lesions by picai_eval, as a statistic of indices of studies; NaN where there is no lesion."""

    def statistic(index: NDArray[np.int64]) -> float:
        metrics = detection_metrics(records, index, part)
        return math.nan if metrics is None else float(metrics.AP)

    return statistic


def case_auroc(records: Records, part: str | None = None) -> Statistic:
    """AUROC over studies: has a region of category >= 4 or not."""
    d = [(r if part is None else r[part])["detection"] for r in records]
    score, target = np.array([x["case"] for x in d]), np.array([x["target"] for x in d], dtype=bool)
    return lambda index: area_under_roc(score[index], target[index])


def dsc(records: Records, name: str, part: str | None = None) -> Statistic:
    """Mean DSC over the studies that have the structure."""
    return mean_of([(r if part is None else r[part])["dsc"][name] for r in records])


def value(records: Records, name: str, part: str | None = None) -> Statistic:
    """Mean of a figure over the studies that have it."""
    return mean_of([(r if part is None else r[part]).get(name) for r in records])


def drawn(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A record's drawn regions, without the patches of normal tissue that are read beside them."""
    return [region for region in record.get("regions", ()) if region["row"] < MAX_REGIONS]


def normal(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A record's patches of normal tissue."""
    return [region for region in record.get("regions", ()) if region["row"] >= MAX_REGIONS]


def extent_iou(records: Records, extent: str, key: str) -> Statistic:
    """Mean IoU of evidence (``iou``), of the control (``control``), or hits (``hit``) over concepts of a class."""
    per = [
        [float(e[key]) for region in drawn(r) for e in region["extents"] if extent in ("all", e["extent"])]
        for r in records
    ]

    def statistic(index: NDArray[np.int64]) -> float:
        values = [v for i in index for v in per[i]]
        return float(np.mean(values)) if values else math.nan

    return statistic


def absent_over_present(records: Records, spec: NetworkSpec) -> Statistic:
    """Mean evidence of loud values in drawn regions that have another value, over that in those that have them."""
    has: list[list[float]] = []
    lacks: list[list[float]] = []
    for r in records:
        h: list[float] = []
        other: list[float] = []
        for region in drawn(r):
            for a in spec.attributes:
                means, label = region["means"].get(a.id), region["labels"].get(a.id)
                if means is None or label is None:
                    continue
                for k, mean in enumerate(means):
                    if (a.id, a.values[k]) not in QUIET_VALUES:
                        (h if k == label else other).append(mean)
        has.append(h)
        lacks.append(other)

    def statistic(index: NDArray[np.int64]) -> float:
        a = [v for i in index for v in has[i]]
        b = [v for i in index for v in lacks[i]]
        return float(np.mean(b) / np.mean(a)) if a and b else math.nan

    return statistic


def concept_table(records: Records, spec: NetworkSpec, *, matched: bool = False) -> dict[str, dict[str, Any]]:
    """Per attribute: n, accuracy, macro AUROC one against the rest, ECE; on drawn regions or on matched candidates."""
    out: dict[str, dict[str, Any]] = {}
    regions = [region for record in records for region in drawn(record)]
    for a in spec.attributes:
        pairs = []
        for region in regions:
            p = (region.get("matched", {}).get("p", {}) if matched else region["p"]).get(a.id)
            label = region["labels"].get(a.id)
            if p is not None and label is not None:
                pairs.append((p, label))
        if not pairs:
            continue
        p, y = np.array([p for p, _ in pairs]), np.array([y for _, y in pairs])
        auc = [area_under_roc(p[:, k], y == k) for k in range(p.shape[1]) if 0 < (y == k).sum() < len(y)]
        out[a.id] = {
            "n": len(y), "accuracy": float((p.argmax(1) == y).mean()),
            "auroc": float(np.mean(auc)) if auc else None,
            "ece": expected_calibration_error(torch.tensor(p), torch.tensor(y)),
        }  # fmt: skip
    return out


def macro_auroc(records: Records, spec: NetworkSpec) -> Statistic:
    """Mean over attributes of their macro AUROC on drawn regions."""

    def statistic(index: NDArray[np.int64]) -> float:
        table = concept_table([records[i] for i in index], spec)
        values = [t["auroc"] for t in table.values() if t["auroc"] is not None]
        return float(np.mean(values)) if values else math.nan

    return statistic


Where = Literal["drawn", "candidates", "normal"]
"""What is read: a region by its drawn outline, by that of the candidate which found it, a patch of normal tissue."""


def answers(record: Mapping[str, Any], where: Where) -> list[tuple[float, bool]]:
    """(stated probability, whether it was right) of every reading of a record."""
    out = []
    for region in normal(record) if where == "normal" else drawn(record):
        said = region.get("matched", {}).get("p", {}) if where == "candidates" else region["p"]
        out += [(max(p), int(np.argmax(p)) == region["labels"][a]) for a, p in said.items() if a in region["labels"]]
    return out


def calibration_error(records: Records, where: Where = "drawn") -> Statistic:
    """ECE of all readings of a kind together."""
    per = [answers(r, where) for r in records]

    def statistic(index: NDArray[np.int64]) -> float:
        chosen = [answer for i in index for answer in per[i]]
        if not chosen:
            return math.nan
        confidence, right = zip(*chosen, strict=True)
        return calibration_gap(torch.tensor(confidence), torch.tensor(right))

    return statistic


def reported(records: Records, *, of_nothing: bool = False) -> Statistic:
    """Regions a study that a reader would be shown: all, or those of nothing."""
    return mean_of([float(sum(c["nothing"] or not of_nothing for c in r["reported"])) for r in records])


def shown_share(records: Records, categories: Sequence[int]) -> Statistic:
    """Share of the drawn regions of some categories that a reader would be shown one for; those that lie mostly in cut
    slices do not count."""
    per = []
    for r in records:
        found = {row for c in r["reported"] for row in c["of"]}
        mine = [region for region in drawn(r) if region["category"] in categories and not region["cut"]]
        per.append([region["row"] in found for region in mine])

    def statistic(index: NDArray[np.int64]) -> float:
        hits = [hit for i in index for hit in per[i]]
        return float(np.mean(hits)) if hits else math.nan

    return statistic


def scores(region: Mapping[str, Any], spec: NetworkSpec) -> tuple[dict[str, int], dict[str, int]] | None:
    """(true, read) T2W score, DWI score and category of a drawn region by the rules, its size as measured on the mask;
    None where not every attribute is known."""
    attributes = {a.id: a.values for a in spec.attributes}
    if not {"t2.margin", "adc.signal", "hbv.signal"} <= set(region["labels"]):
        return None
    true_values = {a: attributes[a][k] for a, k in region["labels"].items()}
    read_values = {a: attributes[a][int(np.argmax(p))] for a, p in region["p"].items()}
    if set(read_values) < set(attributes):
        return None
    out = []
    for values in (true_values, read_values):
        t2w = rules.t2w_score(region["zone"], values, region["diameter"])
        dwi = rules.dwi_score(values, region["diameter"])
        category = rules.overall(region["zone"], t2w, dwi, "X")
        out.append({"T2W score": int(t2w), "DWI score": int(dwi), "category": int(category)})
    return out[0], out[1]


def score_pairs(records: Records, spec: NetworkSpec) -> list[list[tuple[dict[str, int], dict[str, int]]]]:
    """By study: the drawn regions' true and read scores."""
    return [[s for region in drawn(r) if (s := scores(region, spec)) is not None] for r in records]


def kappa(pairs: Sequence[Sequence[tuple[dict[str, int], dict[str, int]]]], name: str) -> Statistic:
    """Quadratic kappa of one score over all drawn regions."""

    def statistic(index: NDArray[np.int64]) -> float:
        chosen = [pair for i in index for pair in pairs[i]]
        return quadratic_kappa([t[name] for t, _ in chosen], [r[name] for _, r in chosen]) if chosen else math.nan

    return statistic


def residual_share(records: Records, smallest_category: int = 1) -> Statistic:
    """Median share of the residual in a drawn region's suspicion, over regions of a category and above."""
    per = [[float(region["share"]) for region in drawn(r) if region["category"] >= smallest_category] for r in records]

    def statistic(index: NDArray[np.int64]) -> float:
        values = [v for i in index for v in per[i]]
        return float(np.median(values)) if values else math.nan

    return statistic


def deletion(records: Records, seed: int = 0) -> dict[str, float]:
    """Mean suspicion left when a positive region's terms are taken away: most important first, least first, at random.

    Area under the curve over the share of terms taken; a faithful order falls fastest.
    """
    g = np.random.default_rng(seed)
    areas: dict[str, list[float]] = {"most important first": [], "at random": [], "least important first": []}
    for r in records:
        for region in drawn(r):
            terms = np.array(list(region["terms"].values()))
            if region["category"] < 4 or not len(terms):
                continue
            order = np.argsort(-terms, kind="stable")
            for name, o in (("most important first", order), ("at random", g.permutation(len(terms))),
                            ("least important first", order[::-1])):  # fmt: skip
                logits = region["logit"] - np.concatenate([[0.0], np.cumsum(terms[o])])
                areas[name].append(float(np.mean(1 / (1 + np.exp(-logits)))))
    return {name: float(np.mean(v)) for name, v in areas.items() if v}


def _kappa_of(name: str, spec: NetworkSpec) -> Callable[[Records], Statistic]:
    return lambda records: kappa(score_pairs(records, spec), name)


Intervals = Mapping[str, Interval]
Judge = Callable[[Intervals, Intervals], bool | None]
"""From the values and our differences, by model, to whether the bar is met."""


def _unjudged(_values: Intervals, _differences: Intervals) -> bool | None:
    return None


def _over_both(slack: float) -> Judge:
    def judge(_values: Intervals, differences: Intervals) -> bool | None:
        known = [differences[m].low > (0.0 if m == PEER else -slack) for m in (PEER, TWIN) if m in differences]
        return all(known) if known else None

    return judge


def _at_least(bar: float) -> Judge:
    return lambda values, _differences: values[OURS].value >= bar


def _at_most(bar: float) -> Judge:
    return lambda values, _differences: values[OURS].value <= bar


def _not_under_peer(bar: float) -> Judge:
    return lambda values, differences: (
        values[OURS].value >= bar and (PEER not in differences or differences[PEER].value >= 0)
    )


def _over_control(margin: float) -> Judge:
    return lambda _values, differences: differences["control"].value >= margin


def _half_of_peer(values: Intervals, _differences: Intervals) -> bool | None:
    return values[OURS].value <= 0.5 * values[PEER].value if PEER in values else None


def _common(first: Records, second: Records, name: str) -> Statistic:
    """Mean difference of a figure over the studies in which both models have it."""
    pairs = [(a.get(name), b.get(name)) for a, b in zip(first, second, strict=True)]
    return mean_of([None if a is None or b is None else a - b for a, b in pairs])


def _zone(name: str) -> Callable[[Records], Statistic]:
    return lambda records: dsc(records, name)


def _extent(extent: str, key: str) -> Callable[[Records], Statistic]:
    return lambda records: extent_iou(records, extent, key)


def _mass(extent: str) -> Callable[[Records], Statistic]:
    return lambda records: value(records, f"rma_{extent}")


def _loss(make: Callable[[Records, str | None], Statistic]) -> Callable[[Records], Statistic]:
    def of(records: Records) -> Statistic:
        seen, unseen = make(records, None), make(records, "unseen")
        return lambda index: seen(index) - unseen(index)

    return of


def table(models: Mapping[str, Records], spec: NetworkSpec, thresholds: Mapping[str, float] | None = None) -> list[Row]:
    """The issue's table on records of the same studies in the same order.

    Args:
        models: "constrained" and any of "twin" and "U-Net".
        spec: our network's concepts.

    Raises:
        ValueError: the models were not measured on the same studies.
    """
    order = [r["index"] for r in models[OURS]]
    for name, records in models.items():
        if [r["index"] for r in records] != order:
            raise ValueError(f"{name} was measured on other studies than {OURS}; run it on the same cohort")
    n = len(order)
    ours = models[OURS]
    rows: list[Row] = []

    def line(
        name: str, make: Callable[[Records], Statistic], bar: str = "", ok: Judge = _unjudged,
        only: Sequence[str] = (OURS, TWIN, PEER), more: Mapping[str, Statistic] | None = None, common: str = "",
    ) -> None:  # fmt: skip
        statistics = {m: make(models[m]) for m in only if m in models} | dict(more or {})
        values = {m: bootstrap(n, s, draws=DRAWS) for m, s in statistics.items()}
        differences = {m: paired(n, statistics[OURS], s, draws=DRAWS) for m, s in statistics.items() if m != OURS}
        if common:
            differences |= {m: bootstrap(n, _common(ours, models[m], common), draws=DRAWS) for m in differences}
        rows.append(Row(name, values, differences, bar, ok(values, differences)))

    both = (OURS, TWIN)
    versus = "difference to the U-Net: lower bound > 0; to the twin: > -"
    line("lesion DSC, per study", _zone("lesion"), versus + ".02", _over_both(0.02))
    line("lesion AP (picai_eval)", average_precision, versus + ".035", _over_both(0.035))
    line("AUROC per study", case_auroc, versus + ".02", _over_both(0.02))
    line("lesion DSC, per positive slice", _zone("lesion_slice"))
    line("gland DSC", _zone("gland"), ">= .93 and not under the U-Net's", _not_under_peer(0.93))
    for zone in ("pz", "tz"):
        line(f"{zone.upper()} DSC", _zone(zone), ">= .86 and not under the U-Net's", _not_under_peer(0.86))
    line("RMA over positives", lambda r: value(r, "rma"), ">= .60", _at_least(0.60), more={
        "mask's area share": value(ours, "share"), "predicted lesion as map": value(ours, "rma_control"),
        "true extents as map": value(ours, "rma_truth"),
    })  # fmt: skip
    for extent in EXTENTS:
        line(f"RMA over positives, {extent} concepts", _mass(extent), only=both,
             more={"true extents as map": value(ours, f"rma_{extent}_truth")})  # fmt: skip
    for extent, margin in (("interior", -0.02), ("rim", 0.10), ("context", 0.10)):
        line(f"evidence against true extent, {extent}: mean IoU", _extent(extent, "iou"),
             f"at least the control's {margin:+.2f}", _over_control(margin), both,
             {"control": extent_iou(ours, extent, "control")})  # fmt: skip
    line("pointing game", _extent("all", "hit"), ">= .80", _at_least(0.80), both)
    line("evidence where a concept is absent over where it is present", lambda r: absent_over_present(r, spec),
         "<= .5", _at_most(0.5), both)  # fmt: skip
    line("attribute AUROC, macro, on drawn regions", lambda r: macro_auroc(r, spec), ">= .85", _at_least(0.85), both)
    for name in ("T2W score", "DWI score", "category"):
        line(f"quadratic kappa of the {name}", _kappa_of(name, spec), ">= .65", _at_least(0.65), both)
    line("residual's share of a drawn region's suspicion, median", residual_share, "<= .20", _at_most(0.2), both)
    line("the same over regions of category 4 and 5", lambda r: residual_share(r, 4), "<= .20", _at_most(0.2), both)
    line("ECE of readings, on drawn regions", calibration_error, "<= .05", _at_most(0.05), (OURS,))
    line(
        "the same on the outlines of the model's own candidates",
        lambda r: calibration_error(r, "candidates"),
        only=(OURS,),
    )
    line("the same on patches of normal tissue", lambda r: calibration_error(r, "normal"), only=(OURS,))
    if all("reported" in r for r in ours):
        line("reported regions, a study", reported, only=(OURS,))
        line("of these of nothing", partial(reported, of_nothing=True), only=(OURS,))
        for name, categories in (("4 and 5", (4, 5)), ("3", (3,)), ("1 and 2 (none need be)", (1, 2))):
            line(f"share of drawn regions of category {name} that are reported",
                 partial(shown_share, categories=categories), only=(OURS,))  # fmt: skip
    if all("unseen" in r for r in ours):
        line("loss of lesion DSC on unseen scanners", _loss(lambda r, part: dsc(r, "lesion", part)),
             "<= half of the U-Net's", _half_of_peer)  # fmt: skip
        line("loss of AP on unseen scanners", _loss(average_precision), "<= half of the U-Net's", _half_of_peer)
        line("loss of RMA on unseen scanners", _loss(lambda r, part: value(r, "rma", part)), "<= half of Grad-CAM's",
             _half_of_peer)  # fmt: skip
        line("cosine of evidence, seen to unseen scanner", lambda r: value(r, "cosine"), ">= .80", _at_least(0.80),
             common="cosine")  # fmt: skip
    return rows


def details(records: Records, spec: NetworkSpec) -> dict[str, Any]:
    """What stands beside the table: concepts, confusion of scores, deletion, risk-coverage."""
    pairs = [pair for study in score_pairs(records, spec) for pair in study]
    confidence, right = [], []
    for record in records:
        for p, good in answers(record, "drawn"):
            confidence.append(p)
            right.append(good)
    return {
        "concepts_on_drawn_regions": concept_table(records, spec),
        "concepts_on_matched_candidates": concept_table(records, spec, matched=True),
        "confusion": {
            name: confusion([t[name] for t, _ in pairs], [r[name] for _, r in pairs]).tolist()
            for name in ("T2W score", "DWI score", "category")
        },
        "deletion": deletion(records),
        "risk_coverage": risk_coverage(confidence, right) if confidence else [],
        "regions": len(pairs),
        "positive_studies": sum(r["detection"]["target"] for r in records),
    }


def plain(row: Row) -> dict[str, Any]:
    """A row for JSON, rounded."""
    out: dict[str, Any] = cleaned(asdict(row), digits=4)
    return out


def cleaned(x: Any, digits: int | None = None) -> Any:
    """Plain data for JSON: NaN and infinities, which JSON does not know, become null.

    Args:
        x: of dicts, lists, tuples, numbers, texts.
        digits: round floats to this.
    """
    if isinstance(x, float):
        return (x if digits is None else round(x, digits)) if math.isfinite(x) else None
    if isinstance(x, Mapping):
        return {k: cleaned(v, digits) for k, v in x.items()}
    return [cleaned(v, digits) for v in x] if isinstance(x, list | tuple) else x
