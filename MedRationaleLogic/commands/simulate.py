"""``medrationale simulate``: simulated studies with their truth, as folders that every reader of ours opens."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from MedRationaleLogic.simulation.labels import LabelBank


class DomainName(StrEnum):
    """Which scanners."""

    SEEN = "seen"
    UNSEEN = "unseen"


def simulate(
    output: Annotated[Path, typer.Option("--output", "-o", help="New or empty folder for the studies.")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many studies.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same studies.")] = 1,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Zone maps (folder of NIfTI, 1 PZ and 2 TZ; or a packed .npz).",
                     show_default="a gland by formula"),
    ] = None,
    first: Annotated[int, typer.Option("--first", min=0, help="Index of the first study.")] = 0,
    scanner: Annotated[
        int, typer.Option("--scanner", min=0, help="Another number: the same anatomy by another scanner.")
    ] = 0,
    domain: Annotated[
        DomainName, typer.Option("--domain", help="seen: scanners as in training; unseen: outside their ranges.")
    ] = DomainName.SEEN,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; the bytes stay the same.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary; only errors.")] = False,
) -> None:  # fmt: skip
    """Write simulated studies (no patient) as NIfTI, each with its zones, regions and rationale."""
    from MedRationaleLogic.simulation import files

    def report(done: int, of: int) -> None:
        if not quiet and not as_json and (done % 10 == 0 or done == of):
            print(f"{done} of {of} studies", file=sys.stderr)

    bank = label_bank(labels)
    folder = files.write_set(
        output.expanduser().resolve(), bank, seed, n, first=first, scanner=scanner, domain=domain.value,
        workers=workers, progress=report,
    )  # fmt: skip
    record = json.loads((folder / files.RECORD).read_text(encoding="utf-8"))
    found = [c for study in record["studies"] for c in study["categories"]]
    counts = {str(c): found.count(c) for c in range(1, 6)}
    if as_json:
        summary = {"exit_code": 0, "folder": str(folder), "studies": n, "regions_by_category": counts}
        print(json.dumps({**summary, "sha256": record["sha256"]}, indent=2))
    elif not quiet:
        regions = ", ".join(f"{count} of category {c}" for c, count in counts.items())
        print(f"{n} simulated studies (no patient): {folder}\n  regions: {regions}\n  SHA-256 {record['sha256']}")


def label_bank(source: Path | None) -> LabelBank:
    """Label maps from a folder of NIfTI zone maps or a packed .npz; a gland by formula without a source.

    Raises:
        typer.BadParameter: the source is missing, or holds no usable maps.
    """
    from MedRationaleLogic.simulation.cohort import CohortError, load_bank
    from MedRationaleLogic.simulation.labels import read_bank
    from MedRationaleLogic.simulation.sample import sample_bank

    if source is None:
        return sample_bank()
    source = source.expanduser()
    expected = "expected a folder of NIfTI zone maps (1 = PZ, 2 = TZ) or a packed .npz"
    if source.is_dir():
        found = [p for p in source.iterdir() if p.name.endswith((".nii.gz", ".nii"))]
        if not found:
            raise typer.BadParameter(f"{source} holds no zone map; {expected}", param_hint="--labels")
        try:
            return read_bank(found)
        except (ValueError, RuntimeError) as error:
            raise typer.BadParameter(f"{source}: {error}", param_hint="--labels") from error
    if not source.is_file():
        raise typer.BadParameter(f"{source} is not there; {expected}", param_hint="--labels")
    try:
        return load_bank(source)
    except CohortError as error:
        raise typer.BadParameter(
            f"{source} is no packed set of zone maps; {expected}", param_hint="--labels"
        ) from error
