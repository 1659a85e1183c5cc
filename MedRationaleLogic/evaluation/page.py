"""The evaluation as one HTML page, a CSV, a JSON and a Markdown table."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from MedRationaleLogic.evaluation.statistics import Interval
from MedRationaleLogic.evaluation.summary import (
    OURS,
    Records,
    Row,
    Where,
    answers,
    cleaned,
    detection_metrics,
    plain,
)
from MedRationaleLogic.resources import resource_path

#: What the cohort's figures do not cover.
ROAD = (
    "All models read crops that are centred on the gland, as in training: finding the gland, zooming in on it and "
    "cleaning its outline are not part of these figures. "
    "Reported is what the bundle's thresholds and the rules make of candidates in these crops."
)


def _number(x: float | None) -> str:
    return "n/a" if x is None or not math.isfinite(x) else f"{x:.3f}"


def _cell(row: Row, model: str) -> dict[str, str] | None:
    interval = row.values.get(model)
    if interval is None:
        return None
    difference = row.differences.get(model)
    return {
        "value": _number(interval.value), "interval": f"{_number(interval.low)} to {_number(interval.high)}",
        "difference": "" if difference is None else
        f"{difference.value:+.3f} ({_number(difference.low)} to {_number(difference.high)})",
    }  # fmt: skip


def _picture(figure: Any) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def figures(models: Mapping[str, Records], details: Mapping[str, Any]) -> list[dict[str, str]]:
    """ROC, FROC, calibration, evidence against mask, confusion of scores, as embedded PNGs with alternative texts."""
    from matplotlib.figure import Figure

    out = []

    def add(figure: Any, alt: str) -> None:
        figure.tight_layout()
        out.append({"src": _picture(figure), "alt": alt})

    roc, froc = Figure(figsize=(5, 4)), Figure(figsize=(5, 4))
    a, b = roc.subplots(), froc.subplots()
    for name, records in models.items():
        m = detection_metrics(records, np.arange(len(records)))
        if m is None:
            continue
        a.plot(m.case_FPR, m.case_TPR, label=name)
        b.plot(m.lesion_FPR, m.lesion_TPR, label=name)
    a.set(xlabel="false positive rate (studies)", ylabel="true positive rate", title="ROC, studies")
    b.set(xlabel="false positives per study", ylabel="sensitivity (lesions)", title="FROC", xlim=(0, 5), ylim=(0, 1))
    if a.lines:
        for axes in (a, b):
            axes.legend()
            axes.grid(alpha=0.3)
        add(roc, "ROC over studies with and without a region of category 4 or 5")
        add(froc, "FROC: sensitivity for regions of category 4 or 5 against false positives per study")
    kinds: Mapping[Where, str] = {"drawn": "drawn outlines", "candidates": "the model's own outlines"}
    said = {name: [x for r in models[OURS] for x in answers(r, where)] for where, name in kinds.items()}
    if said["drawn outlines"]:
        figure = Figure(figsize=(5, 4))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="0.7")
        for name, pairs in said.items():
            c, ok = np.array([p for p, _ in pairs]), np.array([float(good) for _, good in pairs])
            bins = np.clip((c * 10).astype(int), 0, 9)
            there = [k for k in range(10) if (bins == k).any()]
            axes.plot(
                [c[bins == k].mean() for k in there], [ok[bins == k].mean() for k in there], marker="o", label=name
            )
        axes.set(xlabel="stated probability", ylabel="share right", title="Calibration of readings of regions")
        axes.legend()
        add(figure, "Calibration: share of right readings of regions against the stated probability")
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    boxes = {name: [r["rma"] for r in records if r.get("rma") is not None] for name, records in models.items()}
    boxes["lesion as map"] = [r["rma_control"] for r in models[OURS] if r.get("rma_control") is not None]
    boxes["area share"] = [r["share"] for r in models[OURS] if "share" in r]
    boxes = {k: v for k, v in boxes.items() if v}
    if boxes:
        axes.boxplot(list(boxes.values()), tick_labels=list(boxes), showfliers=False)
        axes.set(ylabel="share of heat inside the mask", title="Evidence against mask", ylim=(0, 1))
        axes.tick_params(axis="x", rotation=20)
        add(figure, "Share of each map's heat inside the drawn regions of category 4 or 5")
    for name, counts in details.get("confusion", {}).items():
        figure = Figure(figsize=(3.6, 3.4))
        axes = figure.subplots()
        axes.imshow(counts, cmap="Blues")
        for i, row in enumerate(counts):
            for j, n in enumerate(row):
                axes.text(j, i, str(n), ha="center", va="center", color="white" if n > np.max(counts) / 2 else "black")
        axes.set(xlabel="from readings", ylabel="as drawn", title=name, xticks=range(5), yticks=range(5),
                 xticklabels=range(1, 6), yticklabels=range(1, 6))  # fmt: skip
        add(figure, f"Confusion of the {name}: rows as drawn, columns from the readings")
    return out


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; what would end a cell is escaped."""
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in row) + " |" for row in cells]


def _markdown(
    rows: Sequence[Row], models: Sequence[str], concepts: Sequence[Mapping[str, Any]],
    controls: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], details: Mapping[str, Any],
) -> str:  # fmt: skip
    """The tables of the page as text, to be kept under version control."""
    met = {True: "met", False: "**missed**", None: ""}
    beside = [m for m in models if m != OURS]

    def shown(row: Row, model: str) -> str:
        cell = _cell(row, model)
        if cell is None:
            return ""
        if model == OURS:
            return f"{cell['value']} ({cell['interval']})"
        return cell["value"] + (f"; ours minus it {cell['difference']}" if cell["difference"] else "")

    table = [
        [row.name, shown(row, OURS), "<br>".join(f"{m}: {c}" for m in beside if (c := shown(row, m))), row.bar,
         met[row.met]]
        for row in rows
    ]  # fmt: skip
    head = ["attribute", "drawn regions: n", "accuracy", "AUROC, macro", "ECE", "matched: n", "accuracy",
            "AUROC, macro", "ECE"]  # fmt: skip
    confusions = [
        line
        for name, counts in details.get("confusion", {}).items()
        for line in (
            *_lines([f"{name}: as drawn", *(f"read {k}" for k in range(1, len(counts) + 1))],
                    [[str(k), *map(str, row)] for k, row in enumerate(counts, 1)]),
            "",
        )
    ]  # fmt: skip
    control = [[c["control"], c["figure"], _number(c["value"])] for c in controls]
    return "\n".join([
        "# Results on simulated studies", "",
        "Research use only. Written by `medrationale evaluate` (docs/training.md).",
        "Intervals: bootstrap over studies, 95 %; differences are paired. " + ROAD, "",
        *_lines(["", ""], [[k, str(v)] for k, v in facts.items() if v != ""]), "",
        "## Same data, same budget", "", *_lines(["figure", "ours", "beside it", "asked", ""], table), "",
        "## By attribute", "", *_lines(head, [[str(v) for v in c.values()] for c in concepts]), "",
        "## Scores of drawn regions", "",
        "As drawn: by the rules from the drawn values, and the size as measured on the mask.", "", *confusions,
        "## Controls", "", *_lines(["control", "figure", "value"], control), "",
    ])  # fmt: skip


def write(
    folder: Path, rows: Sequence[Row], models: Mapping[str, Records], details: Mapping[str, Any],
    controls: Sequence[Mapping[str, Any]], facts: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Write the page, ``results.csv``, ``results.json`` and ``results.md``, each beside first; returns the page.

    Raises:
        OSError: the folder cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(m for row in rows for m in row.values))
    matched = details["concepts_on_matched_candidates"]
    concepts = [
        {
            "name": a, "n": c["n"], "accuracy": _number(c["accuracy"]), "auroc": _number(c["auroc"]),
            "ece": _number(c["ece"]), "n_matched": matched.get(a, {}).get("n", 0),
            "accuracy_matched": _number(matched.get(a, {}).get("accuracy")),
            "auroc_matched": _number(matched.get(a, {}).get("auroc")),
            "ece_matched": _number(matched.get(a, {}).get("ece")),
        }
        for a, c in details["concepts_on_drawn_regions"].items()
    ]  # fmt: skip
    source = resource_path("Templates", "evaluation.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(source).render(
        rows=[{"name": r.name, "cells": {m: _cell(r, m) for m in names}, "bar": r.bar, "met": r.met} for r in rows],
        models=names, concepts=concepts, figures=figures(models, details), facts=facts, road=ROAD,
        controls=[{**c, "value": _number(c["value"])} for c in controls],
    )  # fmt: skip
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(
        ["measure", "model", "value", "low", "high", "studies", "ours minus it", "low", "high", "bar", "met"]
    )
    for row in rows:
        for model, v in row.values.items():
            d: Interval | None = row.differences.get(model)
            rest = [d.value, d.low, d.high] if d is not None else ["", "", ""]
            writer.writerow([row.name, model, v.value, v.low, v.high, v.n, *rest, row.bar, row.met])
    document = cleaned({
        "format": "medrationale-evaluation-1", "facts": dict(facts), "table": [plain(r) for r in rows],
        "details": dict(details), "controls": [dict(c) for c in controls],
    })  # fmt: skip
    for name, text in (("evaluation.html", page), ("results.csv", table.getvalue()),
                       ("results.json", json.dumps(document, indent=1, allow_nan=False) + "\n"),
                       ("results.md", _markdown(rows, names, concepts, controls, facts, details))):  # fmt: skip
        beside = folder / f"{name}.part"
        beside.write_text(text, encoding="utf-8", newline="\n")
        os.replace(beside, folder / name)
    return folder / "evaluation.html"
