"""``medrationale batch`` with several jobs against one job, on the same folder of studies, paired.

    python Testing/benchmark/bench_batch.py --studies DIR [--jobs 2] [--pairs 3] [--output FILE.json]

Whole commands are timed, from the start of Python to its end, in turn, A B A B ..., each into an empty folder; the
figure is the median of the pairs' ratios. What both wrote is compared: the tables but for the seconds in them. Nothing
here is a test: a time is measured, never asserted.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def batch(studies: Path, output: Path, jobs: int) -> float:
    """Seconds of one command."""
    command = [sys.executable, "-m", "MedRationaleLogic.cli", "batch", str(studies), "-o", str(output), "--quiet"]
    start = time.perf_counter()
    subprocess.run([*command, "--device", "cpu", "--jobs", str(jobs)], cwd=ROOT, check=True)
    return time.perf_counter() - start


def table(output: Path) -> list[dict[str, str]]:
    """The summary without its times."""
    with (output / "summary.csv").open(encoding="utf-8", newline="") as file:
        return [{name: text for name, text in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def measure(studies: Path, jobs: int, pairs: int) -> dict[str, Any]:
    """All figures of one folder."""
    one: list[float] = []
    several: list[float] = []
    same = True
    with tempfile.TemporaryDirectory() as scratch:
        batch(studies, Path(scratch) / "cold", 1)  # the disk's cache, for whoever comes first
        for pair in range(pairs):
            first, second = Path(scratch) / f"one-{pair}", Path(scratch) / f"several-{pair}"
            turns = [(one, first, 1), (several, second, jobs)]
            for times, place, processes in turns if pair % 2 == 0 else turns[::-1]:
                times.append(batch(studies, place, processes))
            same = same and table(first) == table(second)
        cases = len({row["case"] for row in table(first)})
    ratios = [b / a for a, b in zip(one, several, strict=True)]
    return {
        "cases": cases, "jobs": jobs, "pairs": pairs, "one_s": spread(one), "several_s": spread(several),
        "ratio": spread(ratios), "same_tables": same, "one_each_s": one, "several_each_s": several,
    }  # fmt: skip


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, required=True, help="a folder whose sub-folders are studies")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    text = json.dumps(measure(args.studies.resolve(), args.jobs, args.pairs), indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
