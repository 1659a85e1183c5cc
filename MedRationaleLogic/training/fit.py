"""Training and fine-tuning on triples: from a folder to a bundle that every face lists.

An epoch is a fixed number of items in an order that follows from the seed; a checkpoint is written after each, beside
its place and then renamed, so that the last good one always loads. Started again, a run goes on from there and, on the
CPU with fixed threads and float32, ends in the same bits as one that was never stopped. Research use only.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.utils.data import DataLoader, Dataset, Sampler

from MedRationaleLogic.model import bundle as bundles
from MedRationaleLogic.model.network import NetworkSpec, spec_from_lexicon
from MedRationaleLogic.model.text import load_cached
from MedRationaleLogic.pirads import lexicon
from MedRationaleLogic.simulation.cohort import load_bank, place, split_bank
from MedRationaleLogic.simulation.labels import LabelBank
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.simulation.study import VERSION
from MedRationaleLogic.training import ship
from MedRationaleLogic.training.data import Item, SimulatedSet
from MedRationaleLogic.training.items import CachedCases, TripleItems, skipped
from MedRationaleLogic.training.module import RationaleTask, SegmentationScore
from MedRationaleLogic.training.run import HELD_OUT, fitting_precision
from MedRationaleLogic.training.triples import HEADER, TripleError, TripleSet

LAST: Final = "last.ckpt"
SKIPPED: Final = "skipped.jsonl"
SCORE: Final = "val/score"
#: So many of the cases that are left out are told on the terminal.
MOST_TOLD: Final = 10
#: From so many labelled regions an attribute's temperature is measured anew; with fewer that of --init stays.
ENOUGH: Final = 20
_DEFAULT_THRESHOLDS: Final = {"lesion_peak": 0.3, "suspicion": 0.5, "evidence": 0.5, "min_volume_ml": 0.1}


class TrainingError(ValueError):
    """Training cannot go on; the text says what, and what to do. ``output``: it was the writing that failed."""

    def __init__(self, text: str, *, output: bool = False) -> None:
        super().__init__(text)
        self.output = output


class Stopped(Exception):  # noqa: N818 - a wish, no error
    """Ctrl-C after at least one epoch; the text names the checkpoint that the next start goes on from."""


@dataclass(frozen=True)
class Settings:
    """What a run is made of; see :func:`MedRationaleLogic.training.backend.parser` for each."""

    data: Path
    output: Path
    init: str | None = None
    name: str = "medrationale-finetuned"
    version: str = "1.0.0"
    register: bool = True
    fold: int | None = None
    silver: bool = False
    labels: Path | None = None
    simulated_share: float = 0.5
    epochs: int = 20
    items: int | None = None
    batch: int = 2
    accumulate: int = 1
    lr: float | None = None
    patience: int = 5
    seed: int = 1
    constrained: bool = True
    accelerator: str = "auto"
    devices: int = 1
    precision: str = "auto"
    workers: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "devices"):
            if getattr(self, name) < 1:
                raise TrainingError(f"--{name} is {getattr(self, name)}; expected at least 1")
        for name in ("items", "threads"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise TrainingError(f"--{name} is {getattr(self, name)}; expected at least 1")
        for name in ("patience", "workers", "seed"):
            if getattr(self, name) < 0:
                raise TrainingError(f"--{name} is {getattr(self, name)}; expected 0 or more")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise TrainingError(f"--lr is {self.lr}; expected above 0")
        if not 0 <= self.simulated_share < 1:
            raise TrainingError(f"--simulated-share is {self.simulated_share}; expected from 0 to below 1")
        # the bundle is written last: what cannot be its folder is said before the first epoch
        for name in ("name", "version"):
            text = getattr(self, name)
            if not text or text.startswith(".") or any(c in '/\\:*?"<>|' or not c.isprintable() for c in text):
                raise TrainingError(f"--{name} {text!r} cannot be part of a folder's name; give letters and digits")


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        bundle: the new one, where it is registered or else in the run folder.
        score: best validation score; best_epoch: where, from 0; epochs: how many were run in all.
        skipped: triples that could not be read.
        left_out: cases of a layout given as ``data`` that were no triple.
    """

    bundle: bundles.Bundle
    score: float
    best_epoch: int
    epochs: int
    skipped: int
    left_out: int = 0


def settings_of(options: argparse.Namespace) -> Settings:
    """Settings from parsed options."""
    known = {k: v for k, v in vars(options).items() if k in Settings.__dataclass_fields__}
    return Settings(**known, register=not options.no_register, constrained=not options.unconstrained)


# ---------------------------------------------------------------------------------------------------------------------
# Data


class Blend(Dataset[Item]):
    """Triples and simulated studies in turn, ``share`` of them simulated."""

    def __init__(self, triples: Dataset[Item], simulated: Dataset[Item] | None, share: float) -> None:
        self.triples, self.simulated, self.share = triples, simulated, share

    def __len__(self) -> int:
        return len(self.triples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        before = int(index * self.share)
        if self.simulated is not None and int((index + 1) * self.share) > before:
            return self.simulated[before]
        return self.triples[index - before]


class Portions(Sampler[list[int]]):
    """Batches of consecutive items: of one epoch, dealt to the processes in turn.

    So one process that gathers ``world`` batches a step sees what ``world`` processes with one batch each see.
    """

    def __init__(self, first: int, count: int, batch: int, rank: int = 0, world: int = 1) -> None:
        self.first, self.batch, self.rank, self.world = first, batch, rank, world
        self.batches = count // (batch * world)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        for k in range(self.batches):
            at = self.first + (k * self.world + self.rank) * self.batch
            yield list(range(at, at + self.batch))


class Data(L.LightningDataModule):
    """Epoch e is items ``e * size`` to ``(e + 1) * size``, however often the run was stopped."""

    def __init__(self, train: Dataset[Item], validation: Dataset[Item], size: int, batch: int, workers: int) -> None:
        super().__init__()
        self.train, self.validation, self.size, self.batch, self.workers = train, validation, size, batch, workers

    def train_dataloader(self) -> DataLoader[Item]:
        trainer = self.trainer
        assert trainer is not None
        portions = Portions(trainer.current_epoch * self.size, self.size, self.batch, trainer.global_rank,
                            trainer.world_size)  # fmt: skip
        return DataLoader(self.train, batch_sampler=portions, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Item]:
        return DataLoader(self.validation, batch_size=1)


# ---------------------------------------------------------------------------------------------------------------------
# The module and its callbacks


class FitTask(RationaleTask):
    """The rationale task with a validation score: mean of the gland's DSC and, where there are positives, theirs."""

    def training_step(self, batch: dict[str, Any], index: int) -> Any:
        # the draws of a batch follow from its number alone: resumed, or dealt to several processes, they are the same
        turn = self.current_epoch * 1_000_003 + index * self.trainer.world_size + self.trainer.global_rank
        torch.manual_seed(self.hparams["seed"] * 7_368_787 + turn)
        return super().training_step(batch, index)

    def on_validation_epoch_start(self) -> None:
        self._dsc: dict[str, list[float]] = {"gland": [], "pz": [], "tz": [], "lesion": []}

    def validation_step(self, batch: dict[str, Any], _index: int) -> None:
        found = SegmentationScore.of(self.net, {k: v[0] for k, v in batch.items()})
        known = bool((batch["zones"] != 255).any())
        for name, value in found.items():
            if not math.isnan(value) and (known or name == "lesion"):
                self._dsc[name].append(value)

    def on_validation_epoch_end(self) -> None:
        means = {k: sum(v) / len(v) for k, v in self._dsc.items() if v}
        parts = [means[k] for k in ("gland", "lesion") if k in means]
        score = sum(parts) / len(parts) if parts else 0.0
        for name, value in means.items():
            self.log(f"val/dsc_{name}", value, rank_zero_only=True)
        self.log(SCORE, score)


class SafeCheckpoints(TorchCheckpointIO):
    """Writes beside and renames; a write that fails leaves the last good checkpoint as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.save(checkpoint, beside)
            os.replace(beside, target)
        except (OSError, RuntimeError) as error:
            beside.unlink(missing_ok=True)
            kept = f"; {target.name} of an earlier epoch is intact" if target.is_file() else ""
            raise TrainingError(
                f"{target}: the checkpoint cannot be written ({error}); is the disk full?{kept}", output=True
            ) from error


class Patience(EarlyStopping):
    """Stops after so many epochs without a better score; a run that stopped so does not go on when started again.

    It looks only where a score was just measured: a resumed run begins with the end of an epoch, and has none there.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__(SCORE, mode="max", patience=epochs, check_on_train_epoch_end=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # a start has the patience that it was given, not that of the one before it
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class Told(Callback):
    """One line an epoch."""

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        m = {k: float(v) for k, v in trainer.callback_metrics.items()}
        shown = " ".join(f"{k.removeprefix('val/')} {v:.3f}" for k, v in sorted(m.items()) if k.startswith("val/"))
        loss = f" loss {m['train/loss']:.3f}" if "train/loss" in m else ""
        print(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: {shown}{loss}", flush=True)


class Pictures(Callback):
    """Each epoch the first validation study with outlines and evidence, into TensorBoard and ``figures/``."""

    def __init__(self, items: Dataset[Item], folder: Path) -> None:
        self.items, self.folder = items, folder

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        from MedRationaleLogic.training.figures import sample_figure

        figure = sample_figure(module.net, self.items[0], f"epoch {trainer.current_epoch + 1}")
        self.folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.folder / f"epoch-{trainer.current_epoch + 1:03d}.png", dpi=80)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("sample", figure, trainer.current_epoch + 1)


# ---------------------------------------------------------------------------------------------------------------------
# A run


def fit(settings: Settings) -> Result:
    """Train, and write the bundle.

    Raises:
        TrainingError: nothing to train or validate on, an output that cannot be written or belongs to another run.
        TripleError: the triples cannot be used.
        CohortError: ``labels`` is no file of label maps.
        BundleError: ``init`` cannot be used.
        Stopped: Ctrl-C.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    # what Lightning tells of itself is no news, and not plain ASCII
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    triples = _triples(settings)
    init = bundles.find(settings.init) if settings.init else None
    spec = NetworkSpec.from_dict(init.manifest.network) if init else spec_from_lexicon()
    train, validation = _split(triples, settings.fold)
    if not len(train):
        raise TrainingError(f"{settings.data}: no triple is in the training split; curate more cases")
    bank, held_out = _maps(settings)
    validating = _validation(settings, spec, train, validation, held_out)
    size = _epoch_size(settings, len(train))
    items = _items(settings, spec, train, bank, size)
    record = {
        "settings": json.loads(json.dumps(asdict(settings), default=str)), "spec": spec.to_dict(),
        "triples_sha256": _header(triples.folder)["sha256"],
        "init": init.manifest.sha256 if init else None, "train": len(train), "val": len(validation),
        "items_an_epoch": size, "labels_sha256": bank.sha256, "generator": VERSION,
    }  # fmt: skip
    record = json.loads(json.dumps(record))  # as it will be read back
    _claim(settings.output, record)
    task = _task(settings, spec, init, size)
    data = Data(items, validating, size, settings.batch, settings.workers)
    trainer = _trainer(settings, validating)
    last = settings.output / LAST
    _run(trainer, task, data, last)
    if trainer.global_rank:
        raise SystemExit(0)  # the first process alone makes the bundle
    best = next(c for c in trainer.callbacks if isinstance(c, ModelCheckpoint) and c.monitor)  # type: ignore[attr-defined]
    chosen = Path(best.best_model_path) if best.best_model_path else last
    score = float(best.best_model_score) if best.best_model_score is not None else float("nan")
    made = _bundle(settings, spec, chosen, validating, init, record | {"score": score})
    epoch = int(torch.load(chosen, map_location="cpu", weights_only=True)["epoch"])
    return Result(made, score, epoch, trainer.current_epoch, len(skipped(settings.output / SKIPPED)),
                  0 if triples.folder == settings.data else len(_header(triples.folder)["skipped"]))  # fmt: skip


def _triples(settings: Settings) -> TripleSet:
    """The set itself, or one curated from a layout that is recognised, kept in the run folder.

    Raises:
        TrainingError: the run folder keeps triples of other data.
    """
    if (settings.data / HEADER).is_file():
        return TripleSet(settings.data)
    from MedRationaleLogic.training import layouts
    from MedRationaleLogic.training.curate import curate

    kept, source = settings.output / "triples", str(settings.data.resolve())
    if (kept / HEADER).is_file():
        triples = TripleSet(kept)
        before = _header(kept).get("source")
        if before != source:
            raise TrainingError(
                f"{kept} was made of {before or 'data that it does not name'}, not of {source}; give a new --output, "
                "or the same --data again"
            )
        _tell_left_out(kept)
        return triples
    layout = layouts.detect(settings.data)
    settings.output.mkdir(parents=True, exist_ok=True)
    print(f"{settings.data.name}: read as layout {layout}", flush=True)
    facts = {"layout": layout, "source": source}
    triples = curate(layouts.LAYOUTS[layout](settings.data, None), kept, facts=facts)
    _tell_left_out(kept)
    return triples


def _header(folder: Path) -> dict[str, Any]:
    """``triples.json`` of a set that was opened already."""
    data: dict[str, Any] = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    return data


def _tell_left_out(folder: Path) -> None:
    left_out = _header(folder)["skipped"]
    if left_out:
        print(f"{len(left_out)} cases cannot be used and are left out; {folder / HEADER} lists all:", flush=True)
    for case in left_out[:MOST_TOLD]:
        print(f"  {case['id']}: {case['reason']}", flush=True)


def _maps(settings: Settings) -> tuple[LabelBank, LabelBank]:
    """Label maps that simulated studies are trained and validated on: the shares that the frozen test cohort has no
    patient of, without the patients that real results are of. Too few maps to have both shares serve for either."""
    if settings.labels is None:
        return sample_bank(), sample_bank()
    bank = load_bank(settings.labels).without(HELD_OUT)
    if not len(bank):
        raise TrainingError(f"{settings.labels}: all its maps are of patients that real results are of; give others")
    train, validation, _ = split_bank(bank)
    return (train, validation) if len(train) and len(validation) else (bank, bank)


def _split(triples: TripleSet, fold: int | None) -> tuple[TripleSet, TripleSet]:
    """Training and validation triples. A set too small to have any of the latter gives a fifth of its training
    patients, those last by the hash of their ids."""
    train, validation = triples.split("train", fold), triples.split("val", fold)
    patients = sorted({t.patient for t in train}, key=place)
    if len(validation) or len(patients) < 4:
        return train, validation
    held = set(patients[-max(1, len(patients) // 5) :])
    return (TripleSet(triples.folder, [t for t in train if t.patient not in held]),
            TripleSet(triples.folder, [t for t in train if t.patient in held]))  # fmt: skip


def _authorities(settings: Settings) -> tuple[str, ...]:
    return ("gold", "accepted", "silver") if settings.silver else ("gold", "accepted")


def _validation(settings: Settings, spec: NetworkSpec, train: TripleSet, validation: TripleSet,
                bank: LabelBank) -> Dataset[Item]:  # fmt: skip
    """Unaugmented validation triples; simulated studies of another seed where no triple is left for it."""
    if len(validation):
        cases = CachedCases(validation, settings.output / "cache", _authorities(settings))
        return _Readable(cases, spec, settings.output / SKIPPED)
    print("no triple is in the validation split: validated on simulated studies", flush=True)
    return SimulatedSet(bank, spec, ship.VALIDATION_SEED, 12)


class _Readable(Dataset[Item]):
    """Every readable validation triple once, as it is."""

    def __init__(self, cases: CachedCases, spec: NetworkSpec, log: Path) -> None:
        self.items: list[TripleItems] = []
        log.parent.mkdir(parents=True, exist_ok=True)
        for triple in cases.triples:
            one = TripleItems(CachedCases([triple], cases.folder, cases.authorities), spec, 0, 1, strength=0.0, log=log)
            try:
                one[0]
            except TripleError:
                continue
            self.items.append(one)
        if not self.items:
            raise TrainingError(f"none of the {len(cases)} validation triples can be read; see {log.name}")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index][0]


def _epoch_size(settings: Settings, triples: int) -> int:
    """Items an epoch: whole steps."""
    step = settings.batch * settings.devices * settings.accumulate
    wanted = settings.items or max(20, round(triples / (1 - settings.simulated_share)))
    return math.ceil(wanted / step) * step


def _items(settings: Settings, spec: NetworkSpec, train: TripleSet, bank: LabelBank, size: int) -> Dataset[Item]:
    total = size * settings.epochs
    cases = CachedCases(train, settings.output / "cache", _authorities(settings))
    mine = TripleItems(cases, spec, settings.seed, total, log=settings.output / SKIPPED)
    drawn = SimulatedSet(bank, spec, settings.seed, total) if settings.simulated_share > 0 else None
    return Blend(mine, drawn, settings.simulated_share)


def _claim(output: Path, record: dict[str, Any]) -> None:
    """The run folder is ours, and of this very run."""
    file = output / "run.json"
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingError(f"{file} is damaged; give a new --output") from error
        fixed = ("triples_sha256", "init", "items_an_epoch", "spec", "labels_sha256")
        other = [k for k in fixed if before.get(k) != record[k]]
        # what shapes a step and the order of items; workers, threads, patience and where things lie may change, and a
        # run may be given more epochs
        shaping = ("seed", "lr", "batch", "accumulate", "devices", "simulated_share", "silver", "constrained", "fold")
        other += [k for k in shaping if before.get("settings", {}).get(k) != record["settings"][k]]
        if other:
            raise TrainingError(
                f"{output} holds a run with another {', '.join(other)}; give a new --output, or the same options again"
            )
    try:
        output.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".tmp")
        beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")
        beside.replace(file)
    except OSError as error:
        raise TrainingError(f"{output}: cannot be written ({error.strerror or error})", output=True) from error


def _task(settings: Settings, spec: NetworkSpec, init: bundles.Bundle | None, size: int) -> FitTask:
    L.seed_everything(settings.seed, workers=True, verbose=False)
    steps = settings.epochs * size // (settings.batch * settings.devices * settings.accumulate)
    lr = settings.lr or (3e-4 if init else 1.5e-3)
    task = FitTask(spec.to_dict(), load_cached(), lr=lr, steps=steps, seed=settings.seed,
                   constrained=settings.constrained)  # fmt: skip
    if init is not None:
        task.net.load_state_dict(init.network().state_dict())
        task.net.requires_grad_(True)
    return task


def _trainer(settings: Settings, validating: Dataset[Item]) -> L.Trainer:
    accelerator = settings.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    precision = fitting_precision(settings.precision, accelerator)
    folder = settings.output
    callbacks: list[Callback] = [
        ModelCheckpoint(folder, filename="best", monitor=SCORE, mode="max", enable_version_counter=False,
                        save_on_train_epoch_end=False),
        # one of its own: with ``save_last`` Lightning writes the last epoch only where it is the best, too
        ModelCheckpoint(folder, filename=Path(LAST).stem, enable_version_counter=False, save_on_train_epoch_end=False),
        EMAWeightAveraging(decay=0.99, update_starting_at_step=1),
        Pictures(validating, folder / "figures"), Told(),
    ]  # fmt: skip
    if settings.patience:
        callbacks.append(Patience(settings.patience))
    return L.Trainer(
        accelerator=accelerator, devices=settings.devices, precision=precision,  # type: ignore[arg-type]
        strategy=_strategy(accelerator) if settings.devices > 1 else "auto",
        max_epochs=settings.epochs, accumulate_grad_batches=settings.accumulate, gradient_clip_val=1.0,
        callbacks=callbacks, plugins=[SafeCheckpoints()], use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1, num_sanity_val_steps=0, log_every_n_steps=1,
        logger=[CSVLogger(str(folder), name="logs"), TensorBoardLogger(str(folder), name="tensorboard")],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def _strategy(accelerator: str) -> Any:
    from lightning.pytorch.strategies import DDPStrategy

    backend = "nccl" if accelerator == "gpu" else "gloo"
    # a batch without a region leaves some heads without a gradient
    return DDPStrategy(process_group_backend=backend, find_unused_parameters=True)


def _run(trainer: L.Trainer, task: FitTask, data: Data, last: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        if not trainer.interrupted:
            raise
    finally:
        signal.signal(signal.SIGINT, before)
    if trainer.interrupted:
        if not last.is_file():
            raise Stopped("stopped before the first epoch was over; no checkpoint was written yet")
        raise Stopped(f"stopped; the same command goes on from {last}")


# ---------------------------------------------------------------------------------------------------------------------
# The bundle


def _bundle(settings: Settings, spec: NetworkSpec, checkpoint: Path, validating: Dataset[Item],
            init: bundles.Bundle | None, record: dict[str, Any]) -> bundles.Bundle:  # fmt: skip
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    task = FitTask(spec.to_dict())
    task.load_state_dict(state["state_dict"])
    net = task.net.eval()
    seen = ship.validate(net, validating)
    old = init.manifest if init else None
    calibration = ship.calibrate(seen)
    for attribute in (a.id for a in spec.attributes):
        if len(seen["labels"].get(attribute, ())) < ENOUGH:
            calibration[attribute] = float(old.calibration.get(attribute, 1.0)) if old else 1.0
    thresholds, figures = ship.summarise(net, seen, calibration)
    hits = sum(hit for _, hit in seen["peaks"])
    if hits < ENOUGH // 2:
        thresholds["lesion_peak"] = float((old.thresholds if old else _DEFAULT_THRESHOLDS)["lesion_peak"])
    positives = sum(r.category >= 4 for r in seen["regions"])
    if positives < ENOUGH // 2:
        thresholds["suspicion"] = float((old.thresholds if old else _DEFAULT_THRESHOLDS)["suspicion"])
    if old and "equivocal" in old.thresholds:  # measured where a bundle is shipped, on its own candidates
        thresholds["equivocal"] = float(old.thresholds["equivocal"])
    manifest = bundles.Manifest(
        name=settings.name, version=settings.version, sha256="", network=spec.to_dict(),
        lexicon_version=lexicon.load().version, thresholds=thresholds, calibration=calibration,
        training={k: v for k, v in record.items() if k != "spec"}, results={"validation": figures},
        licence=f"derived from {old.name} {old.version}: {old.licence}" if old else "of whoever trained it",
    )  # fmt: skip
    folder = settings.output / "bundle" / f"{settings.name}-{settings.version}"
    made = bundles.save(net, folder, manifest)
    return bundles.install(folder) if settings.register else made
