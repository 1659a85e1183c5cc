"""Downloads: what the export functions make, whole or not at all, under names that tell nothing."""

from __future__ import annotations

import json
import re
import stat
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from MedRationaleLogic.case import Case
from MedRationaleLogic.export import render_report, ris_text, to_json
from MedRationaleViewer import downloads
from MedRationaleViewer.downloads import DOWNLOADS, DownloadError, UnknownDownloadError, make, offered
from Testing.unit.case.fake_explainer import FakeExplainer, opened

READER = "Dr A"
SMALL = {"shape": (10, 40, 44)}
PATIENT = "Müller^Hans <1950>"
NAMES = (
    "report.html", "report.txt", "rationale.json", "segmentation.nii.gz", "evidence.zip", "results.zip", "case.zip",
)  # fmt: skip


def fresh() -> Case:
    case = opened(options={**SMALL, "name": PATIENT})
    case.override(1, "dce", "+", READER)
    return case


@pytest.fixture
def case() -> Case:
    return fresh()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path]:
    """A case and a folder with every download of it: drawing two reports takes seconds."""
    case, folder = fresh(), tmp_path_factory.mktemp("downloads") / "private"
    for name in NAMES:
        assert make(case, name, folder) == folder / name
    return case, folder


def unpacked(path: Path, folder: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
        return archive.namelist()


def read(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path))


def test_the_names_are_those_of_the_page_and_each_can_be_made(made: tuple[Case, Path]) -> None:
    case, folder = made
    assert tuple(DOWNLOADS) == NAMES
    assert [offer.download.name for offer in offered(case)] == list(NAMES)
    assert all(offer.available and not offer.why for offer in offered(case))
    assert all(one.label and one.note and "/" in one.media_type for one in DOWNLOADS.values())
    assert sorted(p.name for p in folder.iterdir()) == sorted(NAMES)
    if sys.platform != "win32":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}


def test_texts_are_those_of_the_export(made: tuple[Case, Path]) -> None:
    case, folder = made
    assert (folder / "report.html").read_text(encoding="utf-8") == render_report(case.explanation)
    assert (folder / "report.txt").read_text(encoding="ascii") == ris_text(case.explanation)
    assert (folder / "rationale.json").read_text(encoding="utf-8") == to_json(case.explanation)
    dce = json.loads((folder / "rationale.json").read_text(encoding="utf-8"))["lesions"][0]["rationale"]["dce"]
    assert dce == "+"  # a reader's answers are in it


def test_the_segmentation_holds_the_regions_by_number_in_their_place(case: Case, tmp_path: Path) -> None:
    image = read(make(case, "segmentation.nii.gz", tmp_path))
    labels = case.explanation.lesion_labels
    assert np.array_equal(sitk.GetArrayFromImage(image), labels.array)
    assert {1, 2} <= set(np.unique(labels.array))
    for lesion in case.explanation.lesions:
        k, j, i = (int(v) for v in np.round(np.argwhere(labels.array == lesion.number).mean(0)))
        point = image.TransformIndexToPhysicalPoint((i, j, k))
        assert np.allclose(point, labels.geometry.to_patient((k, j, i)), atol=1e-3)


def test_a_study_without_a_region_has_an_empty_segmentation(tmp_path: Path) -> None:
    case = opened(regions=(), options=SMALL)
    assert not sitk.GetArrayFromImage(read(make(case, "segmentation.nii.gz", tmp_path))).any()


def test_the_evidence_is_one_map_a_concept_from_0_to_1(case: Case, tmp_path: Path) -> None:
    names = unpacked(make(case, "evidence.zip", tmp_path), tmp_path / "out")
    assert names == [f"evidence/{concept}.nii.gz" for concept in case.explanation.evidence]
    for concept in ("t2.homog", "adc.focal"):
        values = sitk.GetArrayFromImage(read(tmp_path / "out" / "evidence" / f"{concept}.nii.gz"))
        assert np.abs(values - case.explanation.evidence[concept].array).max() <= 0.5 / 255 + 1e-6
        assert values.max() > 0.5
        header = read(tmp_path / "out" / "evidence" / f"{concept}.nii.gz").GetMetaData("descrip")
        assert header.strip() == f"{concept}. Research use only"


def test_the_results_are_a_result_folder(made: tuple[Case, Path], tmp_path: Path) -> None:
    case, folder = made
    names = unpacked(folder / "results.zip", tmp_path / "out")
    assert {n.partition("/")[0] for n in names} == {"results"}
    top = {n.split("/")[1] for n in names}
    assert top == {"explanation.json", "zones.nii.gz", "lesions.nii.gz", "evidence", "report.html", "report.txt"}
    assert (tmp_path / "out" / "results" / "report.txt").read_text() == ris_text(case.explanation)


def test_the_case_goes_on_where_it_was_left(case: Case, tmp_path: Path) -> None:
    assert case.unsaved
    unpacked(make(case, "case.zip", tmp_path), tmp_path / "out")
    assert not case.unsaved
    again = Case.load(tmp_path / "out" / "case", FakeExplainer(options=SMALL))
    assert [e.sha256 for e in again.log] == [e.sha256 for e in case.log]
    assert again.explanation.lesion(1).rationale.dce == "+"
    assert np.array_equal(again.explanation.lesion(2).mask.array, case.explanation.lesion(2).mask.array)


def test_no_name_of_a_file_tells_of_the_patient(made: tuple[Case, Path], tmp_path: Path) -> None:
    for name in NAMES:
        if name.endswith(".zip"):
            for inside in unpacked(made[1] / name, tmp_path / name):
                assert re.fullmatch(r"[A-Za-z0-9._/-]+", inside)
                assert "Hans" not in inside
                assert not inside.startswith("/")
                assert ".." not in inside


@pytest.mark.parametrize("name", ["", "report.pdf", "../report.html", "case.zip/../x", "REPORT.HTML", ".."])
def test_another_name_is_refused_in_words(case: Case, tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownDownloadError) as error:
        make(case, name, tmp_path / "private")
    assert str(error.value).startswith(f"there is no download {name!r}; there are report.html, ")
    assert isinstance(error.value, KeyError)
    assert not (tmp_path / "private").exists()


def test_nothing_can_be_had_of_a_study_that_is_not_explained(tmp_path: Path) -> None:
    fake = FakeExplainer(options=SMALL)
    case = Case.open(fake.study, fake)
    assert {offer.available for offer in [*offered(case), *offered(None)]} == {False}
    assert {offer.why for offer in offered(case)} == {"The study is not explained yet."}
    for name in NAMES:
        with pytest.raises(DownloadError, match=rf"{re.escape(name)}: The study is not explained yet"):
            make(case, name, tmp_path / "private")
    assert fake.runs == 0
    assert not (tmp_path / "private").exists()


def test_a_download_never_runs_the_network(case: Case, tmp_path: Path) -> None:
    case.save(tmp_path / "kept")
    fake = FakeExplainer(options={**SMALL, "name": PATIENT})
    again = Case.load(tmp_path / "kept", fake)
    had = {offer.download.name for offer in offered(again) if offer.available}
    assert had == {"report.txt", "rationale.json", "segmentation.nii.gz", "case.zip"}
    for name in NAMES:
        if name in had:
            assert make(again, name, tmp_path / "private").stat().st_size > 0
        else:
            with pytest.raises(DownloadError, match="look at a concept"):
                make(again, name, tmp_path / "private")
    assert (fake.runs, fake.sights) == (0, 0)
    again.explanation.evidence.native("adc.focal")
    assert all(offer.available for offer in offered(again))
    assert make(again, "evidence.zip", tmp_path / "private").is_file()


@pytest.mark.parametrize(
    ("name", "part"),
    [("report.html", "render_report"), ("evidence.zip", "evidence_bytes"), ("results.zip", "write_results")],
)
def test_what_fails_leaves_the_earlier_file_and_nothing_else(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: str
) -> None:
    (tmp_path / name).write_bytes(b"the earlier one")
    real, calls = getattr(downloads, part), []

    def fails(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > 1 or part != "evidence_bytes":  # in the middle of the archive
            raise OSError("no space left on device")
        return real(*args)

    monkeypatch.setattr(downloads, part, fails)
    with pytest.raises(OSError, match="no space left"):
        make(case, name, tmp_path)
    assert calls
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"the earlier one"


def test_a_file_stands_in_its_place_only_when_it_is_whole(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    real = downloads.evidence_bytes

    def watched(*args: Any) -> Any:
        seen.append([p.name for p in tmp_path.iterdir()])
        return real(*args)

    monkeypatch.setattr(downloads, "evidence_bytes", watched)
    make(case, "evidence.zip", tmp_path)
    assert seen
    assert not any("evidence.zip" in names for names in seen)
    assert [p.name for p in tmp_path.iterdir()] == ["evidence.zip"]
