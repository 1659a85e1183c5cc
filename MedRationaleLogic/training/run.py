"""Training runs: a pretraining on simulation alone, then fine-tuning on real labelled cases and simulation together.

``python -m MedRationaleLogic.training.run base --labels BANK --output DIR`` and so on; docs/training.md holds the very
commands that made the shipped bundle. Checkpoints are written every ``--every`` steps and a run goes on from its last.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, Dataset, Sampler

from MedRationaleLogic.model.grids import COARSE, FINE, SEQUENCES
from MedRationaleLogic.model.network import NetworkSpec, spec_from_lexicon
from MedRationaleLogic.model.text import load_cached
from MedRationaleLogic.simulation.labels import LabelBank, read_bank
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
        # the fractional part of a multiple of the share: real items come evenly, whatever the order of asking
        if self.real is not None and int((index + 1) * self.share) > int(index * self.share):
            return self.real[int(index * self.share)]
        return self.simulated[index]


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


def train(
    output: Path, dataset: Dataset[Item], spec: NetworkSpec, *, steps: int, batch: int = 2, lr: float = 1e-3,
    seed: int = 0, init: Path | None = None, stop: int | None = None, every: int = 100, workers: int = 1,
    precision: str = "bf16-mixed",
    accelerator: str = "cpu",
) -> Path:  # fmt: skip
    """Train, going on from the last checkpoint in ``output`` if there is one; returns the last checkpoint.

    Args:
        output: run folder (checkpoints, CSV log).
        dataset: items; ``steps * batch`` of them are used, in order.
        spec: the network.
        steps, batch, lr, seed: optimisation; the learning rate falls over ``steps``.
        stop: end the run at this step already.
        init: checkpoint whose weights a fresh run starts from.
        every: steps between checkpoints.
        workers: loading processes.
        precision, accelerator: Lightning's.
    """
    L.seed_everything(seed, workers=True, verbose=False)
    task = RationaleTask(spec.to_dict(), load_cached(), lr=lr, steps=steps, seed=seed)
    last = output / "last.ckpt"
    if init is not None and not last.exists():
        task.load_state_dict(torch.load(init, map_location="cpu", weights_only=True)["state_dict"])
    trainer = L.Trainer(
        accelerator=accelerator, devices=1, precision=precision, max_steps=stop or steps,  # type: ignore[arg-type]
        logger=CSVLogger(str(output), name=""),
        callbacks=[ModelCheckpoint(output, save_last=True, every_n_train_steps=every, save_top_k=0), Progress(25)],
        gradient_clip_val=1.0, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=10,
    )  # fmt: skip
    done = int(torch.load(last, map_location="cpu", weights_only=True)["global_step"]) if last.exists() else 0
    loader = DataLoader(
        dataset, batch_size=batch, sampler=FromStep(done * batch, len(dataset)),  # type: ignore[arg-type]
        num_workers=workers, persistent_workers=workers > 0,
    )  # fmt: skip
    trainer.fit(task, loader, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    trainer.save_checkpoint(last)
    return last


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
    for name in ("base", "fold-A", "fold-B", "all"):
        p = sub.add_parser(name)
        p.add_argument("--bank", type=Path, required=True)
        p.add_argument("--data", type=Path, help="folder of real labelled cases (fold-A, fold-B, all)")
        p.add_argument("--output", type=Path, required=True)
        p.add_argument("--init", type=Path)
        p.add_argument("--steps", type=int, required=True)
        p.add_argument("--stop", type=int, help="end here, on the schedule of --steps")
        p.add_argument("--batch", type=int, default=2)
        p.add_argument("--lr", type=float, default=1e-3)
        p.add_argument("--seed", type=int, default=1)
        p.add_argument("--real-share", type=float, default=0.6)
        p.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(arguments)
    if args.what == "bank":
        read_bank(sorted(args.labels.glob("*.nii.gz"))).save(args.output)
        return
    if args.what == "soup":
        soup(args.checkpoints, args.output)
        return
    torch.set_num_threads(args.threads)
    spec = spec_from_lexicon()
    maps = LabelBank.load(args.bank).without(HELD_OUT)
    simulated = SimulatedSet(maps, spec, args.seed, args.steps * args.batch)
    real: RealSet | None = None
    test: list[RealCase] = []
    if args.what != "base":
        cases = read_real_cases(args.data, machine_labelled=True)
        mine = cases
        for name, training, held in _folds(cases):
            if args.what == f"fold-{name}":
                mine, test = training, held
        real = RealSet(mine, spec, args.seed, args.steps * args.batch)
    last = train(args.output, Mixture(real, simulated, args.real_share), spec, steps=args.steps, batch=args.batch,
                 lr=args.lr, seed=args.seed, init=args.init, stop=args.stop)  # fmt: skip
    facts = {
        "command": vars(args), "labels_sha256": maps.sha256, "maps": len(maps), "fine": FINE.shape,
        "test": [c.name for c in test], "scores_on_crops": score_crops(last, test, spec) if test else {},
    }  # fmt: skip
    (args.output / "run.json").write_text(json.dumps(facts, indent=1, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
