"""``medrationale evaluate`` as called: a frozen cohort, a tiny bundle, a twin; what comes out and what is not taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from MedRationaleLogic import cli
from MedRationaleLogic.evaluation import cohort, summary
from MedRationaleLogic.model.bundle import Bundle
from MedRationaleLogic.simulation.cohort import CohortError, freeze
from MedRationaleLogic.simulation.sample import sample_bank
from MedRationaleLogic.simulation.study import VERSION
from Testing.bundle_factory import tiny_bundle
from Testing.unit.training import coarse_grids

COUNT = 2


class Room:
    """A folder with a frozen cohort, its label maps and a bundle, on the coarse grids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.labels = folder / "labels.npz"
        sample_bank().save(self.labels)
        self.cohort = folder / "tiny.json"
        freeze(sample_bank(), "tiny", 11, COUNT).save(self.cohort)
        self.bundle: Bundle = tiny_bundle(folder)

    def evaluate(self, *options: str | Path, output: str) -> Result:
        command = [
            "evaluate", str(self.cohort), "--labels", str(self.labels), "--bundle", str(self.bundle.path),
            "--output", str(self.folder / output), "--no-shift", "--controls", "1", "--threads", "1",
        ]  # fmt: skip
        return CliRunner().invoke(cli.app, [*command, *map(str, options)])

    def table(self, output: str) -> dict[str, Any]:
        rows = json.loads((self.folder / output / "results.json").read_text(encoding="utf-8"))["table"]
        return {row["name"]: row for row in rows}


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    pytest.importorskip("picai_eval")
    coarse_grids.exchange(monkeypatch)
    monkeypatch.setattr(summary, "DRAWS", 10)
    return Room(tmp_path)


def test_a_twin_is_a_bundle_or_a_checkpoint_and_stands_in_the_table(room: Room) -> None:
    result = room.evaluate("--twin", room.bundle.path, output="bundle")
    assert result.exit_code == 0, result.exception
    assert "Research use only" in result.output
    net = room.bundle.network()
    checkpoint = room.folder / "twin.ckpt"
    state = {f"net.{k}": v for k, v in net.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"spec": net.spec.to_dict()}}, checkpoint)
    assert room.evaluate("--twin", checkpoint, "--jobs", "2", output="checkpoint").exit_code == 0
    again = room.evaluate("--twin", checkpoint, output="bundle")
    assert again.exit_code != 0, "records of one model are not gone on with for another"
    assert "another calibration, weights" in again.output + str(again.exception)
    for output in ("bundle", "checkpoint"):
        table = room.table(output)
        assert table["reported regions, a study"]["values"].keys() == {summary.OURS}
        # the same weights as ours: the same masks and readings
        for name in ("gland DSC", "attribute AUROC, macro, on drawn regions"):
            assert table[name]["differences"][summary.TWIN]["value"] == 0.0
        # but evidence without conspicuity, which a twin never learnt
        mine, twin = (table["pointing game"]["values"][m] for m in (summary.OURS, summary.TWIN))
        assert None not in (mine["value"], twin["value"])
    maps = [
        [region["means"] for r in cohort.read(room.folder / "bundle" / f"records-{m}.jsonl") for region in r["regions"]]
        for m in (summary.OURS, summary.TWIN)
    ]
    assert maps[0]
    assert maps[0] != maps[1]
    # records of other temperatures are not gone on with either
    manifest = room.bundle.path / "manifest.json"
    data = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps(data | {"calibration": {"t2.margin": 7.0}}), encoding="utf-8")
    again = room.evaluate(output="bundle")
    assert isinstance(again.exception, CohortError)
    assert "another calibration;" in str(again.exception)
    # what is reported hangs on the thresholds
    manifest.write_text(json.dumps(data | {"thresholds": data["thresholds"] | {"equivocal": 0.9}}), encoding="utf-8")
    again = room.evaluate(output="bundle")
    assert isinstance(again.exception, CohortError)
    assert "another thresholds;" in str(again.exception)


def test_a_cohort_of_another_generator_is_refused(room: Room) -> None:
    data = json.loads(room.cohort.read_text(encoding="utf-8"))
    room.cohort.write_text(json.dumps(data | {"version": "0.0.1"}), encoding="utf-8")
    result = room.evaluate(output="none")
    assert isinstance(result.exception, CohortError)
    assert f"frozen with simulation 0.0.1, this is {VERSION}" in str(result.exception)
    assert not (room.folder / "none").exists()


def test_a_cohort_of_another_seed_is_refused(room: Room) -> None:
    data = json.loads(room.cohort.read_text(encoding="utf-8"))
    room.cohort.write_text(json.dumps(data | {"seed": 12}), encoding="utf-8")
    result = room.evaluate(output="none")
    assert isinstance(result.exception, CohortError)
    assert "study 0 is another one than was frozen" in str(result.exception)
    assert not (room.folder / "none").exists()


@pytest.mark.parametrize(
    ("cohort_name", "labels", "code", "told"),
    [
        ("nosuch.json", "labels.npz", cli.ExitCode.MISSING, "there is no cohort nosuch.json"),
        ("nosuch", "labels.npz", cli.ExitCode.MISSING, "there is no cohort nosuch; give a JSON file, or one of:"),
        ("tiny.json", "notes.npz", cli.ExitCode.BAD_STUDY, "notes.npz: expected label maps"),
        ("tiny.json", "nosuch.npz", cli.ExitCode.MISSING, "nosuch.npz is not a file"),
        ("notes.json", "labels.npz", cli.ExitCode.BAD_STUDY, "notes.json: expected a cohort"),
        ("folder.json", "labels.npz", cli.ExitCode.BAD_STUDY, "folder.json: expected a cohort"),
    ],
)
def test_what_cannot_be_used_ends_in_its_exit_code(
    cohort_name: str, labels: str, code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("picai_eval")
    monkeypatch.chdir(tmp_path)
    sample_bank().save(Path("labels.npz"))
    freeze(sample_bank(), "tiny", 11, 1).save(Path("tiny.json"))
    for name in ("notes.npz", "notes.json"):
        Path(name).write_text("remember the milk", encoding="utf-8")
    Path("folder.json").mkdir()
    assert cli.run(["evaluate", cohort_name, "--labels", labels, "--output", "out"]) == code
    text = " ".join(capsys.readouterr().err.split())
    assert told in text
    assert "pickle" not in text
    assert "install MedRationale again" not in text
    assert not Path("out").exists()


def test_what_is_missing_is_named(room: Room) -> None:
    missing = room.folder / "nowhere.ckpt"
    for option in ("--twin", "--unet"):
        result = room.evaluate(option, missing, output="none")
        assert result.exit_code != 0
        assert str(missing) in result.output + str(result.exception)
    assert not (room.folder / "none").exists()
