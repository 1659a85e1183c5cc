"""``medrationale batch``: every study of a folder or a table, each into a result folder of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

INSTALL = 'pip install -c requirements/constraints.txt -e ".[cluster]"'

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from MedRationaleLogic.batch import BatchSummary


class DeviceName(StrEnum):
    """Where the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


CLUSTER_S = 15
"""How long a scheduler may take to answer, seconds."""
WORKERS_S = 60.0
"""How long a scheduler may be without any worker, seconds: they may be starting."""
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
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Cases at once, each in a process with its share of the cores.")
    ] = 1,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Address of a Dask scheduler whose workers explain the cases.")
    ] = None,
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
            several = jobs > 1 or cluster is not None  # they tell the end of a case, not its begin
            print(what if several else f"{case} ..." if share < 1.0 else case, file=sys.stderr, flush=True)
        told.add(case)

    with _executor(cluster, jobs) as (executor, alone):
        made = batches.run(
            source, output, bundle=bundle, device=device.value, progress=report, cancelled=alone, overwrite=overwrite,
            jobs=jobs, executor=executor,
        )  # fmt: skip
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


@contextmanager
def _executor(cluster: str | None, jobs: int) -> Iterator[tuple[Executor | None, Callable[[], bool] | None]]:
    """What explains the cases on a cluster, and what watches over its workers; None without one.

    Raises:
        typer.BadParameter: both a cluster and jobs; nobody answers there.
        ModuleNotFoundError: Dask is not installed.
    """
    if cluster is None:
        yield None, None
        return
    if jobs > 1:
        raise typer.BadParameter("a cluster has its own number of workers; leave --jobs out", param_hint="--cluster")
    try:
        from distributed import Client
    except ImportError as error:
        raise ModuleNotFoundError(f"Dask is not installed, here or on a worker; install with: {INSTALL}") from error
    try:
        client = Client(cluster, timeout=CLUSTER_S)
    except (OSError, ValueError) as error:
        text = f"no Dask scheduler answers at {cluster}; give the address that it printed, as tcp://host:8786"
        raise typer.BadParameter(text, param_hint="--cluster") from error
    with client:
        # not pure: a case that is asked for again is done again
        yield client.get_executor(pure=False), _watch(client, cluster)


def _watch(client: Any, cluster: str) -> Callable[[], bool]:
    """What is asked each second whether to stop: never, but it says so when nobody is left who could go on."""
    from MedRationaleLogic.batch import BatchError

    seen = [time.monotonic()]

    def look() -> bool:
        try:
            there = bool(client.nthreads())
        except (OSError, RuntimeError) as error:
            text = f"the Dask scheduler at {cluster} does not answer any more; what is done stays: run again"
            raise BatchError(text) from error
        now = time.monotonic()
        if there:
            seen[0] = now
        elif now - seen[0] > WORKERS_S:
            raise BatchError(
                f"the Dask scheduler at {cluster} has had no worker for {WORKERS_S:.0f} s; what is done stays: start "
                "workers and run again"
            )
        return False

    return look


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
