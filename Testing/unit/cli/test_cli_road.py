"""The commands that run the whole road: ``sample`` and ``demo``, with a network that has learnt nothing."""

from __future__ import annotations

import json
import shutil
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from MedRationaleLogic import cli
from MedRationaleLogic.cli import DEMO_GLAND_DSC, ExitCode, check_demo, demo_agreement, run
from MedRationaleLogic.inference.explanation import Explanation
from MedRationaleLogic.model import bundle as bundles
from MedRationaleLogic.simulation import sample as sample_module
from MedRationaleLogic.simulation.sample import Sample, SampleFiles, make_sample
from Testing.bundle_factory import tiny_bundle


@pytest.fixture(scope="module")
def drawn() -> Sample:
    return make_sample()


@dataclass
class Demo:
    """One run of the demo."""

    folder: Path
    code: int
    out: dict[str, Any]
    explanation: Explanation
    opened: list[str]


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as made:
        yield made


@pytest.fixture(scope="module")
def demo(drawn: Sample, patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """``medrationale demo`` with the tiny bundle and a browser that does not open."""
    root = tmp_path_factory.mktemp("demo")
    tiny_bundle(root / "bundles")
    patch.setenv("MEDRATIONALE_BUNDLES", str(root / "bundles"))
    patch.setenv("MEDRATIONALE_HOME", str(root / "home"))
    patch.setattr(sample_module, "make_sample", lambda: drawn)
    seen: dict[str, Any] = {"opened": []}

    def browser(address: str) -> bool:
        seen["opened"].append(address)
        raise webbrowser.Error("no browser")

    def keep_json(data: dict[str, Any]) -> None:
        seen["out"] = json.loads(json.dumps(data, allow_nan=False))

    keep_check = cli.check_demo

    def keep(made: Sample, explanation: Explanation, folder: Path) -> dict[str, bool]:
        seen["explanation"] = explanation
        return keep_check(made, explanation, folder)

    patch.setattr(webbrowser, "open", browser)
    with pytest.MonkeyPatch.context() as once:
        once.setattr(cli, "_print_json", keep_json)
        once.setattr(cli, "check_demo", keep)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so small a network gains nothing by more
        code = run(["demo", "-o", str(root / "out"), "--bundle", "tiny", "--device", "cpu", "--json"])
        torch.set_num_threads(threads)
    return Demo(root / "out", code, seen["out"], seen["explanation"], seen["opened"])


def test_demo_makes_explains_and_checks(demo: Demo) -> None:
    assert demo.out["checks"]
    assert [check for check, ok in demo.out["checks"].items() if not ok] == []
    assert demo.code == demo.out["exit_code"] == ExitCode.OK
    assert {p.name for p in demo.folder.iterdir()} == {"sample", "results"}
    results = demo.folder / "results"
    assert Path(demo.out["report"]) == results / "report.html"
    assert len(list((results / "evidence").glob("t2.*.nii.gz"))) >= 10
    assert demo.opened == [(results / "report.html").as_uri()]  # and that none opened is no failure
    assert not any(check.startswith("gland found") for check in demo.out["checks"])  # random weights: only reported
    assert set(demo.out["agreement"]) == {
        "DSC of the gland with what was drawn",
        "DSC of all regions with the suspicious one that was drawn",
    }


def test_agreement_is_with_what_was_drawn(drawn: Sample, demo: Demo) -> None:
    perfect = replace(demo.explanation, zones=drawn.zones, lesions=())
    assert demo_agreement(drawn, perfect) == {
        "DSC of the gland with what was drawn": 1.0,
        "DSC of all regions with the suspicious one that was drawn": 0.0,
    }


def test_the_shipped_bundle_must_find_the_gland(drawn: Sample, demo: Demo) -> None:
    shipped = replace(demo.explanation.provenance, bundle={"name": bundles.DEFAULT})
    name = f"gland found, DSC at least {DEMO_GLAND_DSC:.2f}"
    for zones, holds in ((drawn.zones, True), (drawn.zones.with_array(np.zeros_like(drawn.zones.array)), False)):
        explanation = replace(demo.explanation, zones=zones, provenance=shipped)
        assert check_demo(drawn, explanation, demo.folder / "results")[name] is holds


@pytest.mark.parametrize("damage", ["report", "maps", "json", "zones", "lesions"])
def test_the_demo_notices_a_bad_result(damage: str, drawn: Sample, demo: Demo, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(demo.folder / "results", folder)
    match damage:
        case "report":
            (folder / "report.html").write_text("")
        case "maps":
            for path in list((folder / "evidence").glob("t2.*"))[9:]:
                path.unlink()
        case "json":
            written = json.loads((folder / "explanation.json").read_text())
            del written["frame"]
            (folder / "explanation.json").write_text(json.dumps(written))
        case "zones":
            image = sitk.ReadImage(str(folder / "zones.nii.gz"))
            image.SetSpacing((1.0, 1.0, 1.0))
            sitk.WriteImage(image, str(folder / "zones.nii.gz"))
        case "lesions":
            sitk.WriteImage(sitk.ReadImage(str(folder / "lesions.nii.gz")) + 7, str(folder / "lesions.nii.gz"))
    checks = check_demo(drawn, demo.explanation, folder)
    assert sum(not ok for ok in checks.values()) == 1


def test_a_failed_check_fails_the_demo(
    demo: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_explain", lambda *_: (demo.explanation, demo.folder / "results" / "report.html"))
    monkeypatch.setattr(cli, "check_demo", lambda *_: {"explanation.json fits its schema": False})
    monkeypatch.setattr(sample_module, "write_sample", lambda folder, _: SampleFiles(folder))
    before = len(demo.opened)
    assert run(["demo", "-o", str(demo.folder), "--bundle", "tiny", "--json", "-q"]) == ExitCode.UNEXPECTED
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == ExitCode.UNEXPECTED
    assert "fits its schema" in found["error"]
    assert run(["demo", "-o", str(demo.folder), "--bundle", "tiny", "-q"]) == ExitCode.UNEXPECTED
    assert capsys.readouterr() == ("", "medrationale: the demo's checks failed\n")
    assert len(demo.opened) == before


def test_demo_tells_a_person(demo: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    report = demo.folder / "results" / "report.html"
    monkeypatch.setattr(cli, "_explain", lambda *_: (demo.explanation, report))
    monkeypatch.setattr(sample_module, "write_sample", lambda folder, _: SampleFiles(folder))
    before = len(demo.opened)
    assert run(["demo", "-o", str(demo.folder), "--bundle", "tiny", "--headless"]) == ExitCode.OK
    told = capsys.readouterr()
    assert str(report) in told.out
    assert told.out.count("  ok     ") == len(demo.out["checks"])
    assert "FAILED" not in told.out
    assert len(demo.opened) == before  # headless


def test_demo_touches_nothing_of_others(demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "mine" / "sample"
    foreign.mkdir(parents=True)
    (foreign / "note.txt").write_text("mine")
    arguments = ["demo", "-o", str(tmp_path / "mine"), "--bundle", "tiny", "--headless", "--json"]
    assert run(arguments) == ExitCode.OUTPUT
    assert "not empty" in json.loads(capsys.readouterr().out)["error"]
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "sample", "note.txt"]


def test_sample_command(drawn: Sample, demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", str(tmp_path / "s"), "--json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert {p.name for p in Path(found["folder"]).iterdir()} == {"dicom", "nifti", "truth", "sample.json"}
    first = {p.name: p.read_bytes() for p in Path(found["nifti"]).iterdir()}
    assert first == {p.name: p.read_bytes() for p in (demo.folder / "sample" / "nifti").iterdir()}
    (tmp_path / "s" / "note.txt").write_text("mine")
    assert run(["sample", str(tmp_path / "s"), "-q"]) == ExitCode.OUTPUT
    assert "note.txt" in capsys.readouterr().err
    assert (tmp_path / "s" / "note.txt").read_text() == "mine"
