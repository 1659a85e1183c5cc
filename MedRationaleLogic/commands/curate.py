"""``medrationale curate``, ``sheet`` and ``agreement``: triples from data sets, cases and reports; a reader's check."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from MedRationaleLogic.training.quality_sheet import SheetItem
    from MedRationaleLogic.training.triples import Triple


class LayoutName(StrEnum):
    """How the source folder is laid out."""

    AUTO = "auto"
    PICAI = "picai"
    PROSTATE158 = "prostate158"
    MSD = "msd"
    NNUNET = "nnunet"
    CASES = "cases"
    SIMULATED = "simulated"
    STUDIES = "studies"


def curate(
    source: Annotated[Path, typer.Argument(help="Root of a data set, of signed-off cases, or of study folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New or empty folder for the triples.")],
    layout: Annotated[LayoutName, typer.Option("--layout", help="auto: by what lies in the folder.")] = LayoutName.AUTO,
    labels: Annotated[Path | None, typer.Option("--labels", help="PI-CAI: where picai_labels lies.")] = None,
    folds: Annotated[
        Path | None, typer.Option("--folds", help="Official folds: nnU-Net's splits JSON, as picai_baseline has it.")
    ] = None,
    silver: Annotated[bool, typer.Option("--silver/--no-silver", help="Measure what nothing states.")] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary; only errors.")] = False,
) -> None:  # fmt: skip
    """Write triples of image, mask and rationale; a case that cannot be used is skipped and listed with its reason."""
    from MedRationaleLogic.training import layouts
    from MedRationaleLogic.training.curate import curate as write
    from MedRationaleLogic.training.triples import HEADER

    root = source.expanduser()
    name = layouts.detect(root) if layout is LayoutName.AUTO else layout.value

    def report(case: str, state: str) -> None:
        if not quiet and not as_json:
            print(f"{case}: {state}", file=sys.stderr)

    made = write(
        layouts.LAYOUTS[name](root, labels), output.expanduser().resolve(), measure_silver=silver,
        folds=layouts.read_folds(folds) if folds else None, facts={"layout": name}, progress=report,
    )  # fmt: skip
    header = json.loads((made.folder / HEADER).read_text(encoding="utf-8"))
    skipped = header["skipped"]
    against = sum(len(r.contradictions) for t in made for r in t.document().regions)
    against += sum(len(t.document().contradictions) for t in made)
    regions, positives = sum(t.regions for t in made), sum(t.positives for t in made)
    alone = sum(t.patient == t.id for t in made) if name in ("studies", "cases") else 0
    if as_json:
        summary = {
            "exit_code": 0, "folder": str(made.folder), "layout": name, "triples": len(made), "regions": regions,
            "positives": positives, "splits": header["splits"], "contradictions": against, "skipped": skipped,
            "sha256": header["sha256"],
        }  # fmt: skip
        print(json.dumps(summary, indent=2))
    elif not quiet:
        splits = ", ".join(f"{count} {split}" for split, count in header["splits"].items())
        print(f"{len(made)} triples ({splits}), layout {name}: {made.folder}")
        print(f"  {regions} outlined regions, {positives} positive; {against} contradictions; {len(skipped)} skipped")
        if alone > 1 and not (root / layouts.PATIENTS).is_file():
            print(f"  {alone} studies are each taken for a patient of their own; where that is wrong, put a "
                  f"{layouts.PATIENTS} (columns case, patient) into {root}")  # fmt: skip


def sheet(
    triples: Annotated[Path, typer.Argument(help="Folder of triples.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML page.")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many regions are drawn.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draw.")] = 1,
) -> None:
    """Write a page on which a reader agrees or disagrees with sampled triples; it needs no network."""
    import random

    from MedRationaleLogic.training.quality_sheet import write_sheet
    from MedRationaleLogic.training.triples import TripleError, TripleSet

    # drawn among the index's rows first: a large set is not read as a whole
    rows = [t for t in TripleSet(triples.expanduser()) if t.regions]
    random.Random(seed).shuffle(rows)
    items = [item for triple in rows[:n] for item in sheet_items(triple)]
    if not items:
        raise TripleError(f"{triples}: no triple has an outlined region with a rationale to judge")
    print(write_sheet(items, output.expanduser(), min(n, len(items)), seed))


def sheet_items(triple: Triple) -> list[SheetItem]:
    """One entry for each region of a triple that has a completed rationale."""
    from MedRationaleLogic.training.quality_sheet import SheetItem
    from MedRationaleLogic.training.reports import Span

    names = {"t2w": "T2W", "adc": "ADC", "hbv": "high-b"}
    document = triple.document()
    regions = triple.read("regions")
    images = {names[role]: triple.read(role) for role in triple.roles}
    return [
        SheetItem(
            f"{triple.id}-{region.number}", images, regions.with_array(regions.array == region.number),
            region.rationale, [Span(**s) for a in region.rationale["answers"] for s in a.get("spans", ())],
            document.source, document.report,
        )
        for region in document.regions
        if region.rationale.get("answers")
    ]  # fmt: skip


def agreement(
    answers: Annotated[list[Path], typer.Argument(help="One JSON file of answers a reader, saved from the sheet.")],
) -> None:
    """Percent agreement with its 95 % interval, and Cohen's kappa between two readers."""
    from dataclasses import asdict

    from MedRationaleLogic.training.quality_sheet import NOTICE
    from MedRationaleLogic.training.quality_sheet import agreement as compute

    print(json.dumps({"notice": NOTICE, **asdict(compute(answers))}, indent=2))
