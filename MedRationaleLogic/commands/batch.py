"""``medrationale batch``: every study of a folder or a table, each into a result folder of its own."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from MedRationaleLogic.batch import BatchSummary


class DeviceName(StrEnum):
    """Where the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


FAILED = 4
"""Exit code when a case has no result; that of ``explain`` for a study that cannot be used."""


def batch(
    source: Annotated[
        Path, typer.Argument(help="A folder whose sub-folders are studies, or a CSV or TSV table.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Gets a result folder a case, and the two tables.")],
    bundle: Annotated[
        str | None, typer.Option("--bundle", help="Name or folder of a bundle.", show_default="medrationale-bpmri")
    ] = None,
    device: Annotated[DeviceName, typer.Option("--device", help="Where the network runs.")] = DeviceName.AUTO,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also explain cases that have their result already.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary; only errors.")] = False,
) -> None:  # fmt: skip
    """Explain many studies; one that fails is listed and the next begins. Started again, it goes on."""
    from MedRationaleLogic import batch as batches
    from MedRationaleLogic.inference.explanation import NOTICE

    told: set[str] = set()

    def report(share: float, what: str) -> None:
        case = what.partition(": ")[0]  # a line for each case, not for each of its stages
        if case not in told and not quiet:
            print(f"{case} ..." if share < 1.0 else case, file=sys.stderr, flush=True)
        told.add(case)

    made = batches.run(source, output, bundle=bundle, device=device.value, progress=report, overwrite=overwrite)
    if as_json:
        print(json.dumps({"exit_code": FAILED if made.failed else 0, "notice": NOTICE, **_facts(made)}, indent=2))
    elif not quiet:
        for failure in made.passed_over:
            print(f"passed over: {failure.where}: {failure.reason}")
        print(made)
    if not as_json:
        for failure in made.failed:
            print(f"medrationale: {failure.case} ({failure.where}): {failure.reason}", file=sys.stderr)
    if made.failed:
        raise typer.Exit(FAILED)


def _facts(made: BatchSummary) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "output": str(made.output),
        "summary": str(made.summary),
        "failures": str(made.failures),
        "done": list(made.done),
        "skipped": list(made.skipped),
        "failed": [asdict(failure) for failure in made.failed],
        "passed_over": [asdict(failure) for failure in made.passed_over],
    }
