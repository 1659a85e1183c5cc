"""Fine-tuning for real, with few channels: from triples to a bundle that is listed, stopped and resumed, with faults.

The network is the real one with a few channels, on grids of half the resolution; studies are simulated from the
procedural gland.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import SimpleITK as sitk
import torch
from lightning.pytorch.callbacks import Callback

from MedRationaleLogic.model import bundle as bundles
from MedRationaleLogic.simulation import files
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.training import backend, fit, layouts
from MedRationaleLogic.training.curate import curate
from MedRationaleLogic.training.data import IGNORE
from MedRationaleLogic.training.fit import Settings, Stopped, TrainingError
from MedRationaleLogic.training.items import CachedCases, TripleItems, skipped, wide_case
from MedRationaleLogic.training.triples import HEADER, TripleError, TripleSet
from Testing.bundle_factory import tiny_bundle
from Testing.unit.training import coarse_grids
from Testing.unit.training import layout_factory as made

pytestmark = pytest.mark.usefixtures("coarse_module")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDRATIONALE_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten simulated studies as triples, each of a patient of its own."""
    folder = tmp_path_factory.mktemp("ten")
    files.write_set(folder / "sim", sample_bank(), 3, 10)
    record = json.loads((folder / "sim" / "cohort.json").read_text(encoding="utf-8"))
    for k, study in enumerate(record["studies"]):
        study["patient"] = f"made-up-{k}"  # the procedural gland has no patient
    (folder / "sim" / "cohort.json").write_text(json.dumps(record), encoding="utf-8")
    curate(layouts.simulated(folder / "sim"), folder / "triples", facts={"layout": "simulated"})
    return folder / "triples"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("tiny"), thresholds={"equivocal": 0.2}).path


def short(ten: Path, tiny: Path, output: Path, **changes: Any) -> Settings:
    """Two epochs of two steps, in float32 so that bits can be compared."""
    usual: dict[str, Any] = {
        "epochs": 2, "items": 4, "batch": 2, "precision": "32-true", "accelerator": "cpu", "workers": 0, "threads": 1,
        "patience": 0, "simulated_share": 0.25, "name": "made",
    }  # fmt: skip
    return Settings(ten, output, init=str(tiny), **(usual | changes))


@pytest.fixture(scope="module")
def whole(ten: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, fit.Result]:
    """(run folder, home, result) of a run that was never stopped."""
    run, home = (tmp_path_factory.mktemp(name) for name in ("whole", "home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDRATIONALE_HOME", str(home))
        return run, home, fit.fit(short(ten, tiny, run))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return state


def test_ten_studies_give_a_bundle_that_is_listed_at_once(
    ten: Path, tiny: Path, whole: tuple[Path, Path, fit.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, home, result = whole
    monkeypatch.setenv("MEDRATIONALE_HOME", str(home))
    assert result.bundle.path in list(bundles.available())
    found = bundles.find("made")
    assert found.manifest.training["triples_sha256"] == json.loads((ten / HEADER).read_text(encoding="utf-8"))["sha256"]
    assert found.manifest.training["init"] == bundles.read(tiny).manifest.sha256
    assert found.manifest.results["validation"]["studies"] >= 1
    assert found.network() is not None
    assert found.manifest.thresholds["equivocal"] == 0.2, "not measured here: that of --init"
    assert set(found.manifest.calibration) == set(bundles.read(tiny).manifest.calibration)
    before, after = bundles.read(tiny).network().state_dict(), found.network().state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    assert sorted(p.name for p in (run / "figures").iterdir()) == ["epoch-001.png", "epoch-002.png"]
    assert list(run.glob("tensorboard/version_0/events*"))
    log = (run / "logs" / "version_0" / "metrics.csv").read_text(encoding="utf-8")
    assert "val/score" in log
    assert "train/localise" in log
    assert 0 <= result.score <= 1


def test_no_module_keeps_the_fine_grids(repository: Path) -> None:
    """Whoever takes a grid by its name is exchanged; one that is not would mix both resolutions."""
    wanted = re.compile(r"^from MedRationaleLogic\.model\.grids import .*\b(FINE|DIFFUSION|COARSE|STEM_GRIDS)\b", re.M)
    package = repository / "MedRationaleLogic"
    takers = {
        ".".join(p.relative_to(package).with_suffix("").parts)
        for p in package.rglob("*.py")
        if wanted.search(p.read_text(encoding="utf-8"))
    }
    assert takers <= set(coarse_grids.TAKERS)
    assert fit.SimulatedSet.__getitem__.__globals__["FINE"].shape == (12, 56, 56)


def test_validation_patients_are_not_trained_on(ten: Path) -> None:
    train, validation = fit._split(TripleSet(ten), None)
    assert len(train) >= 1
    assert len(validation) >= 1
    assert not {t.patient for t in train} & {t.patient for t in validation}
    assert not {t.id for t in TripleSet(ten).split("test")} & {t.id for t in (*train, *validation)}


class _Interrupt(Callback):
    """Ctrl-C at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == self.at:
            raise KeyboardInterrupt


def test_stopped_and_resumed_is_the_same_to_the_bit(
    ten: Path, tiny: Path, whole: tuple[Path, Path, fit.Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = short(ten, tiny, tmp_path / "parts")
    usual = fit._trainer

    def interrupted(*arguments: Any) -> Any:
        trainer = usual(*arguments)
        trainer.callbacks.append(_Interrupt(3))  # in the second epoch
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(fit, "_trainer", interrupted)
        with pytest.raises(Stopped, match=r"goes on from .*last\.ckpt"):
            fit.fit(settings)
    assert weights(tmp_path / "parts" / "last.ckpt")
    torch.rand(100)  # whatever else drew random numbers in between
    fit.fit(settings)
    last = [run / "last.ckpt" for run in (whole[0], tmp_path / "parts")]
    # the last epoch's, whether or not its score was better than the one before it
    assert [torch.load(p, map_location="cpu", weights_only=True)["global_step"] for p in last] == [4, 4]
    unstopped, parts = map(weights, last)
    assert unstopped.keys() == parts.keys()
    assert all(torch.equal(unstopped[k], parts[k]) for k in unstopped)


def test_with_patience_a_run_is_resumed_given_more_epochs_and_not_trained_on_once_stopped(
    ten: Path, tiny: Path, whole: tuple[Path, Path, fit.Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    usual = fit._trainer
    rising = count(
        1
    )  # as it is, the second epoch is now better, now worse than the first, by the processor's arithmetic
    monkeypatch.setattr(fit.SegmentationScore, "of", lambda *_: {"gland": next(rising) / 1000})

    def interrupted(*arguments: Any) -> Any:
        trainer = usual(*arguments)
        trainer.callbacks.append(_Interrupt(3))
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(fit, "_trainer", interrupted)
        with pytest.raises(Stopped):
            fit.fit(short(ten, tiny, run, patience=5))
    assert fit.fit(short(ten, tiny, run, patience=5)).epochs == 2
    unstopped, resumed = weights(whole[0] / "last.ckpt"), weights(run / "last.ckpt")
    assert all(torch.equal(unstopped[k], resumed[k]) for k in unstopped)
    assert fit.fit(short(ten, tiny, run, patience=5)).epochs == 2  # it was done
    # more epochs, and a score that gets no better from here on
    monkeypatch.setattr(fit.SegmentationScore, "of", lambda *_: {"gland": 0.0})
    stopped = fit.fit(short(ten, tiny, run, epochs=6, patience=1))
    assert stopped.epochs == 3
    before = weights(run / "last.ckpt")
    again = fit.fit(short(ten, tiny, run, epochs=6, patience=1))
    assert (again.epochs, again.best_epoch, again.score) == (3, stopped.best_epoch, stopped.score)
    assert again.bundle.manifest.sha256 == stopped.bundle.manifest.sha256
    after = weights(run / "last.ckpt")
    assert all(torch.equal(before[k], after[k]) for k in before)
    # the patience of this start counts
    assert fit.fit(short(ten, tiny, run, epochs=4, patience=3)).epochs == 4


def test_a_corrupt_volume_in_an_epoch_is_skipped_and_counted(ten: Path, tiny: Path, tmp_path: Path) -> None:
    import shutil

    data = tmp_path / "triples"
    shutil.copytree(ten, data)
    train, _ = fit._split(TripleSet(data), None)
    (train[0].folder / "adc.nii.gz").write_bytes(b"\x1f\x8b broken")
    result = fit.fit(short(data, tiny, tmp_path / "run", items=10, epochs=1, simulated_share=0.0))
    assert result.skipped == 1
    assert "adc.nii.gz cannot be read" in skipped(tmp_path / "run" / "skipped.jsonl")[train[0].id]


def test_when_most_is_corrupt_training_stops_with_a_reason(ten: Path, tmp_path: Path) -> None:
    import shutil

    data = tmp_path / "triples"
    shutil.copytree(ten, data)
    triples = TripleSet(data)
    for triple in triples[:6]:
        (triple.folder / "t2w.nii.gz").write_bytes(b"")
    spec = fit.spec_from_lexicon()
    items = TripleItems(CachedCases(triples, None, ("gold",)), spec, 1, 40)
    with pytest.raises(TripleError, match="6 of 10 triples cannot be read"):
        [items[index] for index in range(40)]


def test_a_full_disk_leaves_the_last_good_checkpoint(
    ten: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, written = torch.save, []

    def full(data: Any, path: Any, *rest: Any, **named: Any) -> None:
        if str(path).endswith(".tmp") and ".ckpt" in str(path):
            written.append(path)
            if len(written) > 2:
                Path(path).write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, "No space left on device")
        usual(data, path, *rest, **named)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"is the disk full\?; .*is intact") as told:
        fit.fit(short(ten, tiny, tmp_path / "run", epochs=3))
    assert told.value.output
    assert not list((tmp_path / "run").glob(".*tmp"))
    assert weights(tmp_path / "run" / "last.ckpt")


def test_a_run_folder_of_other_data_is_refused(ten: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"triples_sha256": "other"}', encoding="utf-8")
    with pytest.raises(TrainingError, match="holds a run with another"):
        fit.fit(short(ten, tiny, tmp_path / "run"))


def test_a_layout_is_curated_once_and_what_is_left_out_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = made.nnunet(tmp_path / "first"), made.prostate158(tmp_path / "second")
    (first / "imagesTr" / "10001_1000009_0001.nii.gz").write_bytes(b"broken")
    settings = Settings(first, tmp_path / "run")
    for _ in range(2):  # curated, and found again
        assert [t.id for t in fit._triples(settings)] == ["10001_1000001"]
        told = capsys.readouterr().out
        assert "1 cases cannot be used" in told
        assert "10001_1000009: 10001_1000009_0001.nii.gz" in told
    with pytest.raises(TrainingError, match=r"was made of .*first, not of .*second; give a new --output"):
        fit._triples(Settings(second, tmp_path / "run"))


def test_two_processes_train_as_one_that_gathers_two_batches(ten: Path, tiny: Path, tmp_path: Path) -> None:
    """Twenty steps in float32: the same global batch, dealt to two gloo processes or gathered by one."""
    common = [
        "--data", ten, "--init", tiny, "--epochs", "1", "--items", "40", "--batch", "1", "--precision", "32-true",
        "--accelerator", "cpu", "--workers", "0", "--threads", "1", "--patience", "0", "--no-register",
        "--simulated-share", "0", "--lr", "1e-3",
    ]  # fmt: skip
    gathered = [*map(str, common), "--accumulate", "2", "--output", str(tmp_path / "one")]
    assert backend.main(gathered) == backend.OK
    dealt = [sys.executable, coarse_grids.__file__, *map(str, common), "--devices", "2", "--output",
             str(tmp_path / "two")]  # fmt: skip
    done = subprocess.run(dealt, capture_output=True, text=True, timeout=1500, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("one", "two"):
        assert torch.load(tmp_path / name / "last.ckpt", weights_only=True)["global_step"] == 20
    one, two = weights(tmp_path / "one" / "last.ckpt"), weights(tmp_path / "two" / "last.ckpt")
    start = bundles.read(tiny).network().state_dict()
    moved = sum(float((one[f"net.{k}"] - v).square().sum()) for k, v in start.items()) ** 0.5
    apart = sum(float((one[k] - two[k]).square().sum()) for k in one) ** 0.5
    size = sum(float(v.square().sum()) for v in one.values()) ** 0.5
    assert moved > 0
    assert apart / size <= 1e-4


# ---------------------------------------------------------------------------------------------------------------------
# Items


def test_a_triple_is_read_once_and_cached(ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    triples = TripleSet(ten)[:1]
    cases = CachedCases(triples, tmp_path / "cache", ("gold",))
    first = cases[0]
    from MedRationaleLogic.training import items

    monkeypatch.setattr(items, "wide_case", lambda *_: pytest.fail("read again"))
    again = cases[0]
    assert torch.equal(first.images["t2w"].nan_to_num(), again.images["t2w"].nan_to_num())
    assert first.known == again.known
    monkeypatch.undo()
    next((tmp_path / "cache").iterdir()).write_bytes(b"damaged")
    assert torch.equal(cases[0].zones, first.zones)


def test_a_triple_with_more_regions_than_a_study_holds_is_a_named_error(
    ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triple = TripleSet(ten)[0]
    document = triple.document()
    many = replace(document, regions=(document.regions or (SimpleNamespace(),))[:1] * 7)
    monkeypatch.setattr(type(triple), "document", lambda _: many)
    with pytest.raises(TripleError, match=rf"{triple.id}: 7 regions, at most 6"):
        wide_case(triple)


def test_what_is_unknown_is_not_trained(tmp_path: Path) -> None:
    triples = curate(layouts.picai(made.picai(tmp_path / "picai")), tmp_path / "out")
    positive, negative, unknown = (wide_case(t) for t in triples)
    assert set(positive.lesion.unique().tolist()) == {0, 1}
    assert set(negative.lesion.unique().tolist()) == {0}
    assert set(unknown.lesion.unique().tolist()) == {IGNORE}
    assert positive.known[0].category == 4  # proven by pathology: on the positive side of 4
    assert not positive.known[0].values  # silver answers are left out unless they are asked for
    assert wide_case(triples[0], ("gold", "silver")).known[0].values


# ---------------------------------------------------------------------------------------------------------------------
# The door


def test_missing_packages_are_told_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(backend, "missing", lambda: ["lightning>=2.5"])
    arguments = ["--data", str(tmp_path), "--output", str(tmp_path / "run")]
    assert backend.main(arguments) == backend.MISSING
    told = capsys.readouterr().err
    assert "-m pip install" in told
    assert '"lightning>=2.5"' in told
    asked: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.append(command))
    assert backend.main([*arguments, "--install"]) == backend.MISSING  # pip said it had installed, and had not
    assert asked[0][1:] == ["-m", "pip", "install", "lightning>=2.5"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--help"], 0, ""),
        ([], 2, "--data"),
        (["--data", "nowhere", "--output", "run"], 4, "nowhere is not a folder"),
    ],
)
def test_train_backend_ends_in_an_exit_code(repository: Path, tmp_path: Path, arguments: list[str], code: int,
                                            text: str) -> None:  # fmt: skip
    command = [sys.executable, str(repository / "train_backend.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == code, done.stderr
    assert text in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--epochs", "0", "--epochs is 0"),
        ("--items", "-5", "--items is -5"),
        ("--patience", "-1", "--patience is -1"),
        ("--threads", "0", "--threads is 0"),
        ("--lr", "0", "--lr is 0"),
        ("--name", "my/model", "--name 'my/model' cannot be part of a folder's name"),
        ("--name", "a:b", "--name 'a:b'"),
        ("--version", "", "--version ''"),
    ],
)
def test_options_that_make_no_run_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, told: str
) -> None:
    arguments = ["--data", str(tmp_path), "--output", str(tmp_path / "run"), option, value]
    assert backend.main(arguments) == backend.DATA == 4
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_label_maps_that_are_none_are_named(ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.npz").write_text("remember the milk", encoding="utf-8")
    arguments = ["--data", str(ten), "--output", str(tmp_path / "run"), "--labels", str(tmp_path / "notes.npz")]
    assert backend.main(arguments) == backend.DATA
    assert "expected label maps" in capsys.readouterr().err


def test_triples_that_cannot_be_written_are_an_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("No space left on device")

    root = made.nnunet(tmp_path / "Dataset001")
    monkeypatch.setattr(sitk, "WriteImage", full)
    assert backend.main(["--data", str(root), "--output", str(tmp_path / "run")]) == backend.OUTPUT
    assert "is the disk full?" in capsys.readouterr().err
    assert list((tmp_path / "run").iterdir()) == []


def test_train_backend_says_when_nothing_can_be_imported(repository: Path, tmp_path: Path) -> None:
    script = tmp_path / "train_backend.py"
    script.write_bytes((repository / "train_backend.py").read_bytes())
    done = subprocess.run([sys.executable, "-I", "-S", str(script)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 3
    assert "MedRationaleLogic" in done.stderr


def test_train_backend_is_ascii_and_ends_in_exit(repository: Path) -> None:
    text = (repository / "train_backend.py").read_text(encoding="ascii")
    assert text.rstrip().endswith("sys.exit(code)")
