"""The runs that made the shipped bundle and what it is compared with: one mixture of simulated and real items, in one
order, for the constrained model and its unconstrained twin.

``python -m MedRationaleLogic.training.run twin --bank BANK --data DATA --output DIR`` and so on; docs/training.md holds
the very commands. Checkpoints are written every 100 steps and a run goes on from its last.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import safetensors.torch
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, Dataset, Sampler

from MedRationaleLogic.inference.device import bfloat16_is_faster
from MedRationaleLogic.model.grids import COARSE, FINE, SEQUENCES
from MedRationaleLogic.model.network import OF_A_TOWER, NetworkSpec, RationaleNet, spec_from_lexicon
from MedRationaleLogic.model.text import load_cached
from MedRationaleLogic.pirads import lexicon
from MedRationaleLogic.simulation.cohort import split_bank
from MedRationaleLogic.simulation.labels import LabelBank, read_bank
from MedRationaleLogic.simulation.study import VERSION
from MedRationaleLogic.training.data import Item, RealCase, RealSet, SimulatedSet, read_real_cases
from MedRationaleLogic.training.module import RationaleTask, SegmentationScore

#: The two folds by patient: what fold A tests, fold B trains on. Scanners and kinds are spread over both.
FOLD_A = ("PICAI-10021_1000021", "ProstateX-0001", "ProstateX-0003", "ProstateX-0199", "ProstateDx-01-0016",
          "PICAI-10270_1000274")  # fmt: skip
FOLD_B = ("PICAI-10574_1000586", "ProstateX-0002", "ProstateX-0101", "ProstateDx-01-0003", "ProstateDx-01-0049",
          "PICAI-10032_1000032")  # fmt: skip
#: Patients whose label maps no simulation may use: those of every real labelled case.
HELD_OUT = ("10021", "10574", "10795", "10032", "10270", "11149", "10310", "10190", "10570")


class Mixture(Dataset[Item]):
    """Items in turn from real and simulated sets, ``share`` of them real."""

    def __init__(self, real: RealSet | None, simulated: SimulatedSet, share: float) -> None:
        self.real, self.simulated, self.share = real, simulated, share

    def __len__(self) -> int:
        return self.simulated.count

    def __getitem__(self, index: int) -> Item:
        if self.real is not None and self._is_real(index):
            return self.real[int(index * self.share)]
        item = self.simulated[index]
        if self.real is not None and self._is_real(index - 1):
            item["twin_of_previous"] = torch.tensor(False)  # the anatomy it shares was not shown
        return item

    def _is_real(self, index: int) -> bool:
        # the fractional part of a multiple of the share: real items come evenly, whatever the order of asking
        return int((index + 1) * self.share) > int(index * self.share)


class Kept(Dataset[Item]):
    """Items of another set, kept on disk as half floats once made: several models can then train on the same ones.

    Args:
        items: what is kept.
        folder: where; one file an item, written beside and renamed, so that several runs may share it.
        key: whatever identifies the set; another one gets files of its own.
    """

    def __init__(self, items: Dataset[Item], folder: Path, key: str) -> None:
        self.items, self.folder, self.key = items, folder, key
        folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        file = self.folder / f"{self.key}-{index}.pt"
        if file.is_file():
            stored: Item = torch.load(file, weights_only=True)
        else:
            item = self.items[index]
            # images are normalised to a few units: half precision is finer than any scanner's noise
            stored = {k: v.half() if v.dtype == torch.float32 and v.ndim > 2 else v for k, v in item.items()}
            beside = file.with_suffix(f".{os.getpid()}.tmp")
            torch.save({k: v.clone() for k, v in stored.items()}, beside)
            beside.replace(file)
        return {k: v.float() if v.dtype == torch.float16 else v for k, v in stored.items()}


class FromStep(Sampler[int]):
    """Indices in order from ``first`` on, of a set of ``count``; a run that goes on sees what it has not seen yet."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.count))

    def __len__(self) -> int:
        return self.count  # of the whole: Lightning counts the batches of the earlier part as well


class Progress(L.Callback):
    """A line every ``every`` steps: step, mean of each loss since the last line, seconds a step."""

    def __init__(self, every: int) -> None:
        self.every, self.sums, self.count, self.since = every, dict[str, float](), 0, time.monotonic()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for name, value in trainer.callback_metrics.items():
            if name.startswith("train/"):
                self.sums[name[6:]] = self.sums.get(name[6:], 0.0) + float(value)
        self.count += 1
        if self.count == self.every:
            means = " ".join(f"{k} {v / self.count:.3f}" for k, v in self.sums.items())
            seconds = (time.monotonic() - self.since) / self.count
            print(f"step {trainer.global_step} {means} ({seconds:.2f} s a step)", flush=True)
            self.sums, self.count, self.since = {}, 0, time.monotonic()


def fitting_precision(precision: str, accelerator: str) -> str:
    """Lightning's name of a precision; "auto" is bfloat16 where that is faster on this machine, else float32."""
    if precision != "auto":
        return precision
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    return "bf16-mixed" if bfloat16_is_faster("cuda" if on_gpu else "cpu") else "32-true"


def twin_curve(run: Path) -> list[tuple[int, float]]:
    """(step, moving average of the segmentation loss) of a run, from its CSV log; empty before it has logged one."""
    curve: dict[int, float] = {}
    for file in sorted(run.glob("version_*/metrics.csv"), key=lambda f: f.stat().st_mtime):
        with file.open(encoding="utf-8", newline="") as rows:
            for row in csv.DictReader(rows):
                if row.get("train/segmentation"):
                    curve[int(row["step"])] = float(row["train/segmentation"])
    return sorted(curve.items())


class AtStop(L.Callback):
    """Writes the checkpoint of a stop between two others while the run still has its own weights: after the fit only
    their moving average is left, with optimiser moments that are not its."""

    def __init__(self, step: int, file: Path) -> None:
        self.step, self.file = step, file

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)


class FollowTwin(L.Callback):
    """Reads the twin's curve again every ``every`` steps: the twin may still be training beside us."""

    def __init__(self, run: Path, every: int = 25) -> None:
        self.run, self.every = run, every

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every == 0 or not module.multiplier.twin:
            module.multiplier.twin = twin_curve(self.run)


def train(
    output: Path, dataset: Dataset[Item], spec: NetworkSpec, *, steps: int, batch: int = 2, lr: float = 1e-3,
    seed: int = 0, init: Path | None = None, stop: int | None = None, every: int = 100, workers: int = 1,
    precision: str = "auto", accelerator: str = "cpu", first: int = 0, constrained: bool = True,
    twin: Path | None = None, localizer: Path | None = None, ema: float = 0.995, branch: Path | None = None,
    frozen: bool = False,
) -> Path:  # fmt: skip
    """Train, going on from the last checkpoint in ``output`` if there is one; returns the last checkpoint.

    Args:
        output: run folder (checkpoints, CSV log).
        dataset: items; ``steps * batch`` of them are used, in order.
        spec: the network.
        steps, batch, lr, seed: optimisation; the learning rate falls over ``steps``.
        stop: end the run at this step already.
        init: checkpoint or bundle folder whose weights a fresh run starts from.
        every: steps between checkpoints.
        workers: loading processes.
        precision, accelerator: Lightning's; precision "auto" is bfloat16 where that is faster here.
        first: index of the first item to use.
        constrained: see :class:`RationaleTask`.
        localizer: bundle folder whose coarse localiser a fresh run takes over and does not train.
        twin: the twin's run folder, whose segmentation loss is the constraint.
        branch: checkpoint of another run that a fresh run carries on: weights, optimiser, schedule, place in the data.
        frozen: the masks stay as they are, see :class:`RationaleTask`.
        ema: decay of the moving average of the weights, which is what checkpoints hold as the model.
    """
    L.seed_everything(seed, workers=True, verbose=False)
    task = RationaleTask(spec.to_dict(), load_cached(), lr=lr, steps=steps, seed=seed, constrained=constrained,
                         locate=localizer is None, frozen=frozen)  # fmt: skip
    last = output / "last.ckpt"
    # carried on from where it lies: a copy in the run's folder would make Lightning number its own checkpoints
    start = last if last.exists() else branch
    if init is not None and not last.exists():
        take_over(task.net, init)
    if localizer is not None and not last.exists():
        tensors = safetensors.torch.load_file(localizer / "weights.safetensors")
        mine = {k.removeprefix("localizer."): v for k, v in tensors.items() if k.startswith("localizer.")}
        try:
            task.net.localizer.load_state_dict(mine)
        except RuntimeError as error:
            text = f"{localizer}: its localiser does not fit this network; leave --localizer out"
            raise ValueError(text) from error
    trainer = L.Trainer(
        accelerator=accelerator, devices=1, max_steps=stop or steps,
        precision=fitting_precision(precision, accelerator),  # type: ignore[arg-type]
        logger=CSVLogger(str(output), name="", flush_logs_every_n_steps=20),
        callbacks=[ModelCheckpoint(output, save_last=True, every_n_train_steps=every, save_top_k=0,
                                   enable_version_counter=False), Progress(25),
                   EMAWeightAveraging(decay=ema, update_starting_at_step=min(50, steps // 10)),
                   *([AtStop(stop or steps, last)] if (stop or steps) % every else []),
                   *([FollowTwin(twin)] if twin is not None and constrained else [])],
        gradient_clip_val=1.0, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=10,
    )  # fmt: skip
    done = int(torch.load(start, map_location="cpu", weights_only=True)["global_step"]) if start is not None else 0
    loader = DataLoader(
        dataset, batch_size=batch, sampler=FromStep(first + done * batch, len(dataset)),  # type: ignore[arg-type]
        num_workers=workers, persistent_workers=workers > 0,
    )  # fmt: skip
    trainer.fit(task, loader, ckpt_path=None if start is None else str(start), weights_only=True)
    return last


def take_over(net: RationaleNet, init: Path) -> None:
    """Give a network the weights of a checkpoint or a bundle folder; a tower that these do not have stays fresh.

    Raises:
        ValueError: they are of another network.
    """
    if init.is_dir():
        weights = {k: v.float() for k, v in safetensors.torch.load_file(init / "weights.safetensors").items()}
    else:
        state = torch.load(init, map_location="cpu", weights_only=True)["state_dict"]
        weights = {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}
    try:
        missing, unknown = net.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{init}: its weights do not fit this network: {error}") from error
    missing = [name for name in missing if not set(name.split(".")) & set(OF_A_TOWER)]
    if missing or (unknown := [name for name in unknown if name not in dict(net.named_buffers())]):
        raise ValueError(f"{init}: its weights are of another network; {(missing or unknown)[0]} first")


def score_crops(checkpoint: Path, cases: Sequence[RealCase], spec: NetworkSpec) -> dict[str, dict[str, float]]:
    """DSC of each real case on its own gland-centred crop, unaugmented: a quick look, not the reported figure.

    The reported figure comes from the whole road, coarse pass included (``evaluation.real``).
    """
    task = RationaleTask(spec.to_dict())
    task.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    task.eval()
    out = {}
    data = RealSet(cases, spec, 0, len(cases), strength=0.0)
    for i, case in enumerate(cases):
        item = data[i]
        scores = SegmentationScore.of(task.net, item)
        with torch.inference_mode():
            name = SEQUENCES[int(item["coarse_sequence"])]
            coarse = task.net.locate(name, item["coarse"][None])[0, 0]
        truth = item["coarse_gland"] > 0
        predicted = torch.sigmoid(coarse) > 0.5
        if predicted.any() and truth.any():
            shift = predicted.nonzero().float().mean(0) - truth.nonzero().float().mean(0)
            scores["coarse_mm"] = float((shift * torch.tensor(COARSE.spacing)).norm())
        out[case.name] = scores
    return out


def soup(checkpoints: Sequence[Path], output: Path) -> None:
    """Mean of the weights of runs that were fine-tuned from one base (model soups, Wortsman 2022), as a checkpoint."""
    states = [torch.load(path, map_location="cpu", weights_only=True) for path in checkpoints]
    mean = dict(states[0]["state_dict"])
    for name, value in mean.items():
        if value.is_floating_point():
            mean[name] = torch.stack([s["state_dict"][name].double() for s in states]).mean(0).to(value.dtype)
    output.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": mean, "hyper_parameters": states[0]["hyper_parameters"]}, output)


def _folds(cases: Sequence[RealCase]) -> Iterator[tuple[str, list[RealCase], list[RealCase]]]:
    for name, test in (("A", FOLD_A), ("B", FOLD_B)):
        yield name, [c for c in cases if c.name not in test], [c for c in cases if c.name in test]


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """What every model of a comparison has in common: data, budget, seed."""
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of real labelled cases")
    parser.add_argument("--test-fold", choices=("A", "B", "none"), default="none", help="real cases left out")
    parser.add_argument("--real-share", type=float, default=0.3)
    parser.add_argument("--keep", type=Path, help="folder that keeps the items made, for other runs on the same ones")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto", help="Lightning's, or auto: bfloat16 where that is faster here")
    parser.add_argument("--accelerator", default="cpu", help="Lightning's: cpu, gpu, auto")


def mixture(args: argparse.Namespace, paired: float = 0.2) -> tuple[Dataset[Item], list[RealCase], dict[str, Any]]:
    """The items of :func:`add_data_arguments`, the real cases left out, and facts for the record.

    Args:
        args: of the command line.
        paired: share of the simulated pairs that are one anatomy by two scanners.
    """
    spec = spec_from_lexicon()
    maps = split_bank(LabelBank.load(args.bank).without(HELD_OUT))[0]
    count = args.steps * args.batch
    simulated = SimulatedSet(maps, spec, args.seed, count, paired=paired)
    real: RealSet | None = None
    test: list[RealCase] = []
    if args.data is not None:
        mine = read_real_cases(args.data, machine_labelled=True)
        for name, training, held in _folds(mine):
            if args.test_fold == name:
                mine, test = training, held
        real = RealSet(mine, spec, args.seed, count)
    items: Dataset[Item] = Mixture(real, simulated, args.real_share if real is not None else 0.0)
    if args.keep is not None:
        # whatever makes an item another one: also the real cases' files, and how labels are laid out
        of = json.dumps([[c.name for c in real.cases] if real else [], args.real_share, spec.to_dict()["attributes"],
                         lexicon.load().version, VERSION])  # fmt: skip
        key = f"{maps.sha256[:8]}-{hashlib.sha256(of.encode()).hexdigest()[:8]}-{args.seed}-{args.test_fold}-{paired}"
        items = Kept(items, args.keep, key)
    facts = {"labels_sha256": maps.sha256, "maps": len(maps), "fine": FINE.shape, "test": [c.name for c in test]}
    return items, test, facts


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of a training run; see the module's text."""
    parser = argparse.ArgumentParser(description="Train the rationale model (research use only).")
    sub = parser.add_subparsers(dest="what", required=True)
    bank = sub.add_parser("bank", help="pack zone maps for the simulation")
    bank.add_argument("--labels", type=Path, required=True, help="folder of <patient>_<study>.nii.gz zone maps")
    bank.add_argument("--output", type=Path, required=True)
    mean = sub.add_parser("soup", help="mean weights of several checkpoints of one base")
    mean.add_argument("--checkpoints", type=Path, nargs="+", required=True)
    mean.add_argument("--output", type=Path, required=True)
    for name, text in (
        ("base", "what both variants have in common: the unconstrained losses"),
        ("twin", "the unconstrained twin"),
        ("constrained", "the model itself"),
        ("concepts", "only what belongs to concepts, the masks of --init stay as they are"),
    ):
        p = sub.add_parser(name, help=text)
        add_data_arguments(p)
        p.add_argument("--init", type=Path, help="checkpoint or bundle folder whose weights a fresh run starts from")
        p.add_argument("--branch", type=Path, help="checkpoint that a fresh run carries on")
        p.add_argument("--twin", type=Path, help="the twin's run folder (constrained)")
        p.add_argument("--localizer", type=Path, help="bundle whose coarse localiser is taken over and left as it is")
        p.add_argument("--stop", type=int, help="end here, on the schedule of --steps")
        p.add_argument("--tower", type=int, help="channels of the concepts' own part; 0: none, as in the first stage")
        p.add_argument("--paired", type=float, default=0.2, help="simulated pairs that are one anatomy by two scanners")
        p.add_argument(
            "--unconstrained", action="store_true", help="no loss says where evidence lies (the twin's concepts)"
        )
    args = parser.parse_args(arguments)
    if args.what == "bank":
        read_bank(sorted(args.labels.glob("*.nii.gz"))).save(args.output)
        return
    if args.what == "soup":
        soup(args.checkpoints, args.output)
        return
    torch.set_num_threads(args.threads)
    items, test, facts = mixture(args, args.paired)
    spec = spec_from_lexicon() if args.tower is None else spec_from_lexicon(tower=args.tower)
    last = train(args.output, items, spec, steps=args.steps, batch=args.batch, lr=args.lr, seed=args.seed,
                 init=args.init, stop=args.stop, twin=args.twin, branch=args.branch, localizer=args.localizer,
                 constrained=args.what in ("constrained", "concepts") and not args.unconstrained,
                 frozen=args.what == "concepts", precision=args.precision, accelerator=args.accelerator)  # fmt: skip
    facts |= {"command": vars(args), "scores_on_crops": score_crops(last, test, spec) if test else {}}
    (args.output / "run.json").write_text(json.dumps(facts, indent=1, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
