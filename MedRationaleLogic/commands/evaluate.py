"""``medrationale evaluate``: a bundle on a frozen simulated cohort, beside its twin and a plain U-Net."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from MedRationaleLogic.model.network import RationaleNet


def evaluate(
    cohort: Annotated[str, typer.Argument(help="A frozen cohort: its name in Resources/Cohorts, or its JSON file.")],
    labels: Annotated[Path, typer.Option("--labels", help="The packed label maps it is drawn from (.npz).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the page, the tables, the records.")],
    bundle: Annotated[str | None, typer.Option("--bundle", help="Name or folder of the bundle to measure.")] = None,
    twin: Annotated[
        Path | None, typer.Option("--twin", help="Checkpoint or bundle folder of the unconstrained twin.")
    ] = None,
    unet: Annotated[Path | None, typer.Option("--unet", help="Checkpoint of the plain U-Net.")] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Only the first so many studies.")] = None,
    shift: Annotated[bool, typer.Option("--shift/--no-shift", help="Also image them by unseen scanners.")] = True,
    controls: Annotated[int, typer.Option("--controls", min=0, help="Studies for the control models.")] = 40,
    remark: Annotated[str, typer.Option("--remark", help="Stands on the page: budget, what is preliminary.")] = "",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of PyTorch.")] = 2,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Processes, with one thread each from two on: one a core is fastest.")
    ] = 1,
) -> None:
    """Measure a bundle on simulated studies whose truth is known: one page, a
    Markdown table, a CSV, a JSON. Started again, it goes on.

    Raises:
        FileNotFoundError: the cohort, the label maps, the bundle or a checkpoint is missing.
        CohortError: the cohort or the label maps are none, they do not belong together, the cohort is of another
            generator, or the output's records are of another model.
        ModuleNotFoundError: picai_eval is not installed.
    """
    import torch

    from MedRationaleLogic.evaluation import cohort as runs
    from MedRationaleLogic.evaluation import page, summary
    from MedRationaleLogic.model import bundle as bundles
    from MedRationaleLogic.model.network import RationaleNet
    from MedRationaleLogic.simulation.cohort import load_bank, load_cohort
    from MedRationaleLogic.training import baseline, ship
    from MedRationaleLogic.training.data import SimulatedSet

    torch.set_num_threads(threads)
    for file in (labels, unet, None if twin is None or twin.is_dir() else twin):
        if file is not None and not file.is_file():
            raise FileNotFoundError(f"{file} is not a file; give label maps packed by `training.run bank`, checkpoints")
    frozen = load_cohort(Path(cohort) if cohort.endswith(".json") else cohort)
    frozen.check_generator()  # the numbers would be told under this cohort's hash, of other studies
    maps = frozen.maps(load_bank(labels))
    frozen.check_studies(maps)
    found = bundles.find(bundle)
    net = found.network().eval()
    count = min(n or frozen.count, frozen.count)
    items = SimulatedSet(maps, net.spec, frozen.seed, count)
    unseen = SimulatedSet(maps, net.spec, frozen.seed, count, scanner=1, domain="unseen") if shift else None
    predictors: dict[str, tuple[runs.Predictor, RationaleNet | None, dict[str, str]]] = {
        summary.OURS: (
            runs.ConceptPredictor(net, found.manifest.calibration, thresholds=found.manifest.thresholds), net,
            _of(found.manifest.sha256, found.manifest.calibration) | {"thresholds": _hash(found.manifest.thresholds)},
        )
    }  # fmt: skip
    if twin is not None:
        # a checkpoint is as trained, a bundle has been through the last stage, too (training.ship)
        made = bundles.read(twin) if twin.is_dir() else None
        other = ship.load_network(twin) if made is None else made.network().eval()
        calibration = None if made is None else made.manifest.calibration
        weights = bundles.file_sha256(twin) if made is None else made.manifest.sha256
        predictor = runs.ConceptPredictor(other, calibration, conspicuity=False)
        predictors[summary.TWIN] = (predictor, other, _of(weights, calibration))
    if unet is not None:
        predictors[summary.PEER] = (runs.PeerPredictor(baseline.load(unet)), None, _of(bundles.file_sha256(unet)))
    models: dict[str, summary.Records] = {}
    for name, (model, mine, facts_of) in predictors.items():
        file = output / f"records-{name}.jsonl"
        of = {"cohort": frozen.sha256, **facts_of}
        for done in runs.run(model, items, range(count), file, unseen=unseen, net=mine, facts=of, jobs=jobs):
            if done % 20 == 0:
                typer.echo(f"{name}: {done} of {count}", err=True)
        models[name] = [r for r in runs.read(file) if r["index"] < count]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blank = RationaleNet(net.spec).eval()
    blank.phrases.copy_(net.phrases)
    beside = []
    few = [r for r in models[summary.OURS] if r["index"] < controls]
    for name, predictor, mine, calibration in (
        ("shuffled phrases", runs.ConceptPredictor(net, found.manifest.calibration, shuffle=True), net,
         found.manifest.calibration),
        ("random weights", runs.ConceptPredictor(blank), blank, None),
    ):  # fmt: skip
        file = output / f"records-{name.replace(' ', '-')}.jsonl"
        of = {"cohort": frozen.sha256, **_of(found.manifest.sha256, calibration)}
        for _ in runs.run(predictor, items, range(min(controls, count)), file, net=mine, facts=of, jobs=jobs):
            pass
        beside += _control(name, [r for r in runs.read(file) if r["index"] < controls], net)
    beside += _control(f"the model, on the same {len(few)} studies", few, net)
    details = summary.details(models[summary.OURS], net.spec)
    beside += [
        {"control": f"deletion, {order}", "figure": "mean suspicion left (area)", "value": area}
        for order, area in details["deletion"].items()
    ]
    facts = {
        "cohort": frozen.name, "cohort SHA-256": frozen.sha256, "generator": frozen.version, "seed": frozen.seed,
        "studies": count, "positive_studies": details["positive_studies"], "regions": details["regions"],
        "bundle": f"{found.manifest.name} {found.manifest.version}", "bundle SHA-256": found.manifest.sha256,
        "draws": summary.DRAWS, "remark": remark,
    }  # fmt: skip
    written = page.write(output, summary.table(models, net.spec), models, details, beside, facts)
    typer.echo(f"{written}\nResearch use only.")


def _of(weights: str, calibration: Mapping[str, float] | None = None) -> dict[str, str]:
    """What a model's records are of: its weights, and the temperatures that its readings are divided by."""
    return {"weights": weights, "calibration": _hash(calibration or {})}


def _hash(numbers: Mapping[str, float]) -> str:
    return hashlib.sha256(json.dumps(dict(numbers), sort_keys=True).encode()).hexdigest()


def _control(name: str, records: Sequence[Mapping[str, Any]], net: RationaleNet) -> list[dict[str, object]]:
    import numpy as np

    from MedRationaleLogic.evaluation import summary

    if not records:
        return []
    index = np.arange(len(records))
    spec = net.spec
    return [
        {"control": name, "figure": "RMA over positives", "value": summary.value(records, "rma")(index)},
        {"control": name, "figure": "attribute AUROC, macro", "value": summary.macro_auroc(records, spec)(index)},
    ]
