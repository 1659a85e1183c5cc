"""The command line: what it prints where, its exit codes, and that nothing half-written stays.

The network is stood in for by ready explanations; test_cli_road.py runs it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch
import typer
from typer.testing import CliRunner

import MedRationaleLogic
from MedRationaleLogic import cli
from MedRationaleLogic.cli import ExitCode, app, failure, run
from MedRationaleLogic.imaging.study import Study, StudyError
from MedRationaleLogic.inference.device import DeviceError
from MedRationaleLogic.inference.explanation import Explanation
from MedRationaleLogic.model import bundle as bundles
from MedRationaleLogic.simulation.cohort import CohortError
from MedRationaleLogic.training.quality_sheet import SheetError
from MedRationaleLogic.training.triples import OutputError, TripleError
from Testing.bundle_factory import tiny_bundle
from Testing.dicom_factory import DicomStudy, anatomy
from Testing.explanation_factory import make_explanation

COMMANDS = tuple(sorted(typer.main.get_command(app).commands))


@pytest.fixture(autouse=True)
def no_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests see no bundle of the user's or of the repository's; returns the folder where they may put theirs."""
    place = tmp_path / "bundles-of-the-test"
    monkeypatch.setenv("MEDRATIONALE_HOME", str(tmp_path / "home-of-the-test"))
    monkeypatch.setenv("MEDRATIONALE_BUNDLES", str(place))
    monkeypatch.setattr(bundles, "resource_path", lambda *parts: tmp_path / "nothing-shipped")
    monkeypatch.delenv("MEDRATIONALE_DEBUG", raising=False)
    return place


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small image files."""
    folder = tmp_path_factory.mktemp("study") / "case"
    folder.mkdir()
    for name, level in (("t2w", 400), ("adc", 1200), ("hbv_b1400", 60)):
        image = sitk.GetImageFromArray(anatomy((10, 32, 32), level))
        image.SetSpacing((4.0, 4.0, 3.0))
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bundles.Bundle:
    """Made once; tests take copies."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`explain` gives this explanation at once; the dict tells what it was called with."""
    seen: dict[str, Any] = {"gives": make_explanation()}

    def stand_in(study: Study, **options: Any) -> Explanation:
        seen.update(options, study=study)
        options["progress"](0.5, "reading the regions")
        return seen["gives"]  # type: ignore[no-any-return]

    monkeypatch.setattr(MedRationaleLogic, "explain", stand_in)
    return seen


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one_object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


# ------------------------------------------------------------------------------------------------------------ the frame


def test_help_lists_the_commands_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from MedRationaleLogic import cli; code = cli.run(['--help'])\n"
        "heavy = {'torch', 'numpy', 'scipy', 'SimpleITK', 'pydicom', 'matplotlib', 'jinja2'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f" {name} " in done.stdout for name in COMMANDS)
    assert "Research use only" in " ".join(done.stdout.split())


@pytest.mark.parametrize("command", [*COMMANDS, "bundle list", "bundle verify", "bundle install", "bundle remove"])
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(cli.app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "usage" in result.output.lower()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"medrationale {MedRationaleLogic.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explain", "x"], "--output"),
        (["explain", "-o", "out"], "give a STUDY folder"),
        (["explain", "x", "-o", "out", "--series", "hbv"], "ROLE=SERIES"),
        (["explain", "x", "-o", "out", "--series", "dce=3"], "t2w, adc, hbv"),
        (["explain", "x", "-o", "out", "--psa", "-1"], "positive"),
        (["explain", "x", "-o", "out", "--psa", "nan"], "positive"),
        (["explain", "x", "-o", "out", "--device", "tpu"], "cuda"),
        (["explain", "x", "-o", "out", "--presision", "float32"], "--presision"),
        (["explane"], "explane"),
        (["bundle", "install"], "file"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == ExitCode.USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert says.lower() in told.err.lower()
    assert run([*arguments, "--json"]) == ExitCode.USAGE
    told = capsys.readouterr()
    assert told.err == ""
    assert one_object(told.out)["exit_code"] == ExitCode.USAGE
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (StudyError("case: no\nstudy"), ExitCode.BAD_STUDY, "case: no study"),
        (TripleError("no usable triple"), ExitCode.BAD_STUDY, "no usable triple"),
        (CohortError("no such cohort"), ExitCode.BAD_STUDY, "no such cohort"),
        (SheetError("no answers"), ExitCode.BAD_STUDY, "no answers"),
        (OutputError("out: cannot be written"), ExitCode.OUTPUT, "out: cannot be written"),
        (bundles.BundleError("no bundle named x"), ExitCode.MISSING, "no bundle named x"),
        (DeviceError("no CUDA device"), ExitCode.DEVICE, "no CUDA device"),
        (MemoryError(), ExitCode.DEVICE, "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), ExitCode.DEVICE, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: ..."), ExitCode.DEVICE, "not enough memory"),
        (ModuleNotFoundError("No module named 'safetensors'"), ExitCode.MISSING, "No module named 'safetensors'"),
        (FileNotFoundError("resource Lexicon is missing"), ExitCode.MISSING, "Lexicon"),
        (PermissionError(13, "Permission denied", "out"), ExitCode.OUTPUT, "Permission denied"),
        (KeyError("odd"), ExitCode.UNEXPECTED, "--debug"),
        (RuntimeError("shape mismatch"), ExitCode.UNEXPECTED, "RuntimeError: shape mismatch"),
    ],
)
def test_every_failure_has_its_code_and_one_line(error: Exception, code: ExitCode, says: str) -> None:
    found, text = failure(error)
    assert found == code
    assert says in text
    assert "\n" not in text


def test_failures_of_the_road_are_told_in_one_line(
    study_folder: Path, work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(MedRationaleLogic, "explain", broken)
    arguments = ["explain", str(study_folder), "-o", "out", "-q"]
    assert run(arguments) == ExitCode.UNEXPECTED
    quiet = capsys.readouterr().err
    assert len(quiet.splitlines()) == 1
    assert "shape mismatch" in quiet
    assert run(["--debug", *arguments]) == run([*arguments, "--debug"]) == ExitCode.UNEXPECTED
    assert capsys.readouterr().err.count("Traceback") == 2
    monkeypatch.setenv("MEDRATIONALE_DEBUG", "1")
    assert run([*arguments, "--json"]) == ExitCode.UNEXPECTED
    told = capsys.readouterr()
    assert "Traceback" in told.err
    assert one_object(told.out)["exit_code"] == 1
    assert list(work.iterdir()) == []


def test_exit_codes_are_documented(repository: Path) -> None:
    text = (repository / "docs" / "cli.md").read_text(encoding="utf-8")
    listed = {int(line.split("|")[1]) for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()}
    assert listed == {int(code) for code in ExitCode}
    assert all(f"medrationale {name}" in text for name in COMMANDS)


# -------------------------------------------------------------------------------------------------------------- explain


def test_explain_writes_and_tells(
    explained: dict[str, Any], study_folder: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", str(study_folder), "-o", "deep/out", "--psa", "6.5"]) == ExitCode.OK
    told = capsys.readouterr()
    assert str(explained["gives"].category.category) in told.out
    assert str(work / "deep" / "out" / "report.html") in told.out
    assert "Research use only" in told.out
    assert told.err.splitlines()[0] == "reading the study ..."
    assert "reading the regions ..." in told.err
    assert {p.name for p in (work / "deep" / "out").iterdir()} == {
        "explanation.json", "zones.nii.gz", "lesions.nii.gz", "evidence", "report.html", "report.txt",
    }  # fmt: skip
    assert explained["study"].roles == ("t2w", "adc", "hbv")
    assert explained["study"].psa == 6.5
    assert (explained["bundle"], explained["device"], explained["precision"]) == (None, "auto", "auto")


def test_json_is_one_object_and_nothing_else(
    explained: dict[str, Any], study_folder: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t2w = str(study_folder / "t2w.nii.gz")
    options = ["--bundle", "b", "--device", "cpu", "--precision", "float32"]
    assert run(["explain", "--t2w", t2w, "-o", "out", "--json", *options]) == ExitCode.OK
    told = capsys.readouterr()
    found = one_object(told.out)
    assert found["exit_code"] == 0
    gives = explained["gives"]
    assert [x["number"] for x in found["lesions"]] == [x.number for x in gives.lesions]
    assert [x["category"] for x in found["lesions"]] == [x.category for x in gives.lesions]
    assert found["category"]["value"] == gives.category.category
    assert json.loads(Path(found["explanation"]).read_text())["category"] == found["category"]
    assert Path(found["report"]).is_file()
    assert explained["study"].roles == ("t2w",)
    assert (explained["bundle"], explained["device"], explained["precision"]) == ("b", "cpu", "float32")


def test_a_negative_result_is_a_result(
    explained: dict[str, Any], study_folder: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explained["gives"] = make_explanation(lesions=())
    assert run(["explain", str(study_folder), "-o", "out"]) == ExitCode.OK
    assert "No suspicious region was outlined. That excludes nothing." in capsys.readouterr().out
    assert "No suspicious region was outlined" in (work / "out" / "report.txt").read_text()
    assert run(["explain", str(study_folder), "-o", "out", "--json", "--quiet"]) == ExitCode.OK  # replaces the first
    told = capsys.readouterr()
    assert told.err == ""
    assert one_object(told.out)["lesions"] == []


def test_quiet_is_quiet(
    explained: dict[str, Any], study_folder: Path, work: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("MedRationaleLogic.export.write_results", lambda explanation, folder: Path(folder) / "r")
    assert run(["explain", str(study_folder), "-o", "out", "--quiet"]) == ExitCode.OK
    assert capsys.readouterr() == ("", "")


def test_series_are_chosen_by_hand(
    explained: dict[str, Any], work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("MedRationaleLogic.export.write_results", lambda explanation, folder: Path(folder) / "r")
    made = DicomStudy(tmp_path / "dicom")
    made.t2w(4)
    made.t2w(14)
    made.dwi(7)
    arguments = ["explain", str(made.folder), "-o", "out", "--series", "t2w=4", "--series", "HBV=7:b800"]
    assert run(arguments) == ExitCode.OK
    labels = [choice.label for choice in explained["study"].choices]
    assert labels == ["series 4 (t2_tse_tra)", "series 7, acquired b800"]
    assert run([*arguments[:-1], "hbv=7:b999"]) == ExitCode.BAD_STUDY
    assert "b999" in capsys.readouterr().err
    assert run([*arguments[:-1], "hbv=7:b400"]) == ExitCode.BAD_STUDY
    assert "b400 shows perfusion" in capsys.readouterr().err


BAD: dict[str, str] = {
    "absent": "no such file or folder",
    "empty": "the folder is empty",
    "text": "not a NIfTI file",
    "truncated": "cut off",
    "two patients": "2 patients",
}


@pytest.fixture
def bad(tmp_path: Path, study_folder: Path) -> Path:
    """Folders with what can be wrong; by name, as in BAD."""
    root = tmp_path / "bad"
    for name in BAD:
        if name != "absent":
            (root / name).mkdir(parents=True)
    (root / "text" / "t2w.nii").write_text("not an image at all, although it is called one\n" * 20)
    whole = (study_folder / "t2w.nii.gz").read_bytes()
    (root / "truncated" / "t2w.nii.gz").write_bytes(whole[: len(whole) // 2])
    for patient in ("A", "B"):
        DicomStudy(root / "two patients" / patient, patient=patient).t2w(shape=(3, 16, 16))
    return root


@pytest.mark.parametrize("name", BAD)
def test_a_bad_study_leaves_nothing(
    name: str, bad: Path, work: Path, explained: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", str(bad / name), "-o", "deep/out"]) == ExitCode.BAD_STUDY
    told = capsys.readouterr()
    assert told.out == ""
    assert BAD[name] in told.err.splitlines()[-1]
    assert "Traceback" not in told.err
    assert run(["explain", str(bad / name), "-o", "deep/out", "--json"]) == ExitCode.BAD_STUDY
    found = one_object(capsys.readouterr().out)
    assert BAD[name] in found["error"]
    assert found["exit_code"] == ExitCode.BAD_STUDY
    assert "study" not in explained
    assert list(work.iterdir()) == []


def test_a_study_that_may_not_be_read(
    study_folder: Path, work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/home/somebody/t2w.nii.gz")

    monkeypatch.setattr("MedRationaleLogic.imaging.study.read_study", locked)
    assert run(["explain", str(study_folder), "-o", "out", "-q"]) == ExitCode.BAD_STUDY
    told = capsys.readouterr().err
    assert "t2w.nii.gz: cannot be read (Permission denied)" in told
    assert "somebody" not in told


def test_no_bundle(study_folder: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(study_folder), "-o", "out", "-q"]) == ExitCode.MISSING
    assert "no bundle named medrationale-bpmri" in capsys.readouterr().err
    assert run(["demo", "--headless", "-q"]) == ExitCode.MISSING
    assert list(work.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there(
    study_folder: Path, work: Path, no_bundles: Path, tiny: bundles.Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny.path.parent, no_bundles)
    arguments = ["explain", str(study_folder), "-o", "out", "-q", "--bundle", "tiny", "--device", "cuda"]
    assert run(arguments) == ExitCode.DEVICE
    assert "CUDA" in capsys.readouterr().err
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("place", ["foreign", "foreign/note.txt"])
def test_an_output_that_is_somebody_elses(
    place: str, explained: dict[str, Any], study_folder: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "foreign").mkdir()
    (work / "foreign" / "note.txt").write_text("mine")
    assert run(["explain", str(study_folder), "-o", place, "--json"]) == ExitCode.OUTPUT
    assert "give a" in one_object(capsys.readouterr().out)["error"]
    assert contents(work) == {"foreign/note.txt": b"mine"}


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_while_writing_leaves_nothing(
    as_json: bool, explained: dict[str, Any], study_folder: Path, work: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def interrupted(explanation: Explanation) -> str:
        assert list(work.rglob("zones.nii.gz"))  # the masks are on the disk by now
        raise KeyboardInterrupt

    monkeypatch.setattr("MedRationaleLogic.export.files.render_report", interrupted)
    arguments = ["explain", str(study_folder), "-o", "deep/out", "-q", *(["--json"] if as_json else [])]
    assert run(arguments) == ExitCode.CANCELLED
    told = capsys.readouterr()
    if as_json:
        assert one_object(told.out) == {"error": "stopped", "exit_code": 130}
    else:
        assert told == ("", "medrationale: stopped\n")
    assert list(work.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_from_outside(study_folder: Path, work: Path, no_bundles: Path, tiny: bundles.Bundle) -> None:
    shutil.copytree(tiny.path.parent, no_bundles)
    command = [sys.executable, "-m", "MedRationaleLogic.cli", "explain", str(study_folder), "-o", "out"]
    process = subprocess.Popen(
        [*command, "--bundle", "tiny"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        # a test run in the background hands down an ignored SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "PYTHONPATH": str(Path(MedRationaleLogic.__file__).parents[1])},
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == "reading the study ...\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "medrationale: stopped"
    assert list(work.iterdir()) == []


# --------------------------------------------------------------------------------------------------------- bundle, info


def test_bundles_come_and_go(
    work: Path, tmp_path: Path, tiny: bundles.Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bundle", "list"]) == ExitCode.OK
    assert "No bundle found" in capsys.readouterr().out
    assert run(["bundle", "verify"]) == ExitCode.MISSING
    capsys.readouterr()

    archive = tmp_path / "tiny.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for part in tiny.path.iterdir():
            file.write(part, f"tiny-0.0.1/{part.name}")
    wrong = ["bundle", "install", str(archive), "--sha256", "0" * 64, "--json"]
    assert run(wrong) == ExitCode.MISSING
    assert "SHA-256" in one_object(capsys.readouterr().out)["error"]
    assert run(["bundle", "install", str(archive), "--sha256", bundles.file_sha256(archive)]) == ExitCode.OK
    assert "Installed tiny 0.0.1 (Apache-2.0)" in capsys.readouterr().out

    assert run(["bundle", "list", "--json"]) == ExitCode.OK
    (row,) = one_object(capsys.readouterr().out)["bundles"]
    assert (row["name"], row["version"], row["place"], row["in_use"]) == ("tiny", "0.0.1", "user", True)
    assert row["sha256"] == tiny.manifest.sha256
    assert run(["bundle", "list"]) == ExitCode.OK
    assert "in use" in capsys.readouterr().out
    assert run(["bundle", "verify"]) == run(["bundle", "verify", "tiny"]) == ExitCode.OK
    assert "tiny 0.0.1: verified" in capsys.readouterr().out

    assert run(["bundle", "remove", "tiny", "--json"]) == ExitCode.OK
    assert Path(one_object(capsys.readouterr().out)["removed"]).name == "tiny-0.0.1"
    assert run(["bundle", "remove", "tiny"]) == ExitCode.MISSING


def test_a_damaged_bundle_is_refused_by_name(
    study_folder: Path, work: Path, no_bundles: Path, tiny: bundles.Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny.path.parent, no_bundles)
    broken = shutil.copytree(tiny.path, no_bundles / "bad-0.0.1")
    weights = broken / bundles.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert run(["bundle", "verify", "--json"]) == ExitCode.MISSING
    found = one_object(capsys.readouterr().out)
    assert found["error"] == "refused: bad-0.0.1"
    problems = {row["name"]: row["problem"] for row in found["bundles"]}
    assert problems[tiny.manifest.name] is None
    assert "SHA-256" in problems["bad-0.0.1"]
    assert run(["bundle", "verify"]) == ExitCode.MISSING
    assert "damaged" in capsys.readouterr().out
    assert run(["explain", str(study_folder), "-o", "out", "-q", "--bundle", "bad"]) == ExitCode.MISSING
    assert list(work.iterdir()) == []


def test_info(no_bundles: Path, repository: Path, tiny: bundles.Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny.path.parent, no_bundles)
    assert run(["info", "--json"]) == ExitCode.OK
    found = one_object(capsys.readouterr().out)
    assert found["medrationale"] == MedRationaleLogic.__version__
    built = importlib.metadata.version("torch")  # torch.__version__ may have "+cu126" behind it
    assert found["packages"]["torch"] == built
    assert [row["name"] for row in found["bundles"]] == ["tiny"]
    assert Path(found["folders"]["resources"]) == repository / "Resources"
    assert isinstance(found["device"]["bfloat16 is faster"]["cpu"], bool)
    assert run(["info"]) == ExitCode.OK
    told = capsys.readouterr().out
    assert "tiny 0.0.1 (MEDRATIONALE_BUNDLES): in use" in told
    assert f"torch: {built}" in told
