"""A cohort: what is found in a folder or a table, what becomes of each case, and what the tables say.

The network is stood in for by ready explanations, but for the last test, which takes the whole road with a tiny bundle.
"""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import numpy as np
import pytest
import SimpleITK as sitk

from MedRationaleLogic import batch, cli
from MedRationaleLogic.batch import BatchError, read_source, run
from MedRationaleLogic.export.files import ResultsError
from MedRationaleLogic.imaging.study import Study
from MedRationaleLogic.inference.explainer import ExplainCancelledError, Explainer
from MedRationaleLogic.inference.explanation import Explanation
from MedRationaleLogic.model.bundle import BundleError
from Testing.bundle_factory import tiny_bundle
from Testing.explanation_factory import make_explanation

ONE = make_explanation(shape=(6, 24, 28), name="made up")
NONE = make_explanation(shape=(6, 24, 28), name="made up", lesions=())


class FakeExplainer:
    """Gives a ready explanation for each study, as if it had been made from it; raises what a test asks for."""

    def __init__(self, sha256: str = "a" * 64) -> None:
        self.bundle = SimpleNamespace(manifest=SimpleNamespace(sha256=sha256))
        self.opened: list[str] = []
        self.raises: dict[str, BaseException] = {}
        self.held: dict[str, threading.Event] = {}
        self.without_regions: set[str] = set()

    def open(self, study: Study, *, progress: Any = None, cancelled: Any = None) -> tuple[Explanation, Any]:
        self.opened.append(study.name)
        if progress is not None:
            progress(0.5, "reading T2W")
        if study.name in self.held:
            assert self.held[study.name].wait(60)
        if study.name in self.raises:
            raise self.raises[study.name]
        if cancelled is not None and cancelled():
            raise ExplainCancelledError("stopped at the caller's wish")
        made = NONE if study.name in self.without_regions else ONE
        inputs = tuple({"role": i.role, "name": i.name, "series_uid": None, "sha256": i.sha256} for i in study.inputs)
        used = dict(made.provenance.bundle) | {"sha256": self.bundle.manifest.sha256}
        own = replace(made.study, name=study.name, psa=study.psa)
        return replace(made, study=own, provenance=replace(made.provenance, inputs=inputs, bundle=used)), None

    def see(self, study: Study) -> Any:
        raise AssertionError("a batch reads no further regions")


def write_image(path: Path, level: int = 400) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((8, 24, 24), level, np.int16)
    array[2:6, 8:16, 8:16] += np.arange(8, dtype=np.int16)[None, :, None] * 10
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((4.0, 4.0, 3.0))
    sitk.WriteImage(image, str(path))
    return path


def write_study(folder: Path, level: int = 400) -> Path:
    write_image(folder / "t2w.nii.gz", level)
    return folder


@pytest.fixture(autouse=True)
def plain_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of figures for every case would take minutes; the whole road draws its own."""
    if request.node.name != "test_the_whole_road":
        monkeypatch.setattr("MedRationaleLogic.export.files.render_report", lambda explanation: "<!doctype html>")


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Three studies."""
    for number, name in enumerate(("case 10", "case 2", "case 1")):
        write_study(tmp_path / "cohort" / name, 300 + 10 * number)
    return tmp_path / "cohort"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(folder: Path, text: str, name: str = "cohort.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


# ------------------------------------------------------------------------------------------------------------ a folder


def test_a_folder_of_studies(cohort: Path, out: Path) -> None:
    explainer = FakeExplainer()
    explainer.without_regions.add("case 2")
    said: list[tuple[float, str]] = []
    made = run(cohort, out, explainer=explainer, progress=lambda share, what: said.append((share, what)))
    assert made.done == ("case 1", "case 2", "case 10")  # as people count
    assert (made.skipped, made.failed, made.passed_over, made.stopped) == ((), (), (), False)
    assert sorted(p.name for p in out.iterdir()) == ["case 1", "case 10", "case 2", "failures.csv", "summary.csv"]
    assert (out / "case 2" / "report.html").is_file()
    shares = [share for share, _ in said]
    assert shares == sorted(shares)
    assert said[-1] == (1.0, "done")
    assert (1 + 0.1 + 0.7 * 0.5) / 3 in [pytest.approx(share) for share in shares]
    assert "2 of 3, case 2: reading T2W" in [what for _, what in said]
    assert rows(made.failures) == []

    found = rows(made.summary)
    assert [(row["case"], row["region"]) for row in found] == [
        ("case 1", "1"), ("case 1", "2"), ("case 2", ""), ("case 10", "1"), ("case 10", "2"),
    ]  # fmt: skip
    first, lesion = found[0], ONE.lesions[0]
    assert first["category"] == str(lesion.category)
    assert float(first["size_mm"]) == pytest.approx(lesion.measures.in_plane.mm, abs=0.05)
    assert float(first["volume_ml"]) == pytest.approx(lesion.measures.volume_ml, abs=0.0005)
    assert first["sectors"].split() == [key for key, _ in lesion.measures.sectors]
    assert (first["t2w"], first["dwi"], first["dce"]) == ("4", "4", "X")
    assert float(first["suspicion"]) == pytest.approx(0.83)
    assert "a made-up remark" in found[1]["flags"]
    assert first["bundle"] == "bundle of made up 0.0.1"
    assert float(first["seconds"]) == pytest.approx(0.6)
    assert {row["notice"] for row in found} == {"Research use only. AI-generated, unverified."}
    assert (found[2]["category"], found[2]["case_category"]) == ("", str(NONE.category.category))
    assert "3 cases explained" in str(made)
    assert "Research use only" in str(made)


def test_what_is_no_study_is_passed_over_and_said(cohort: Path) -> None:
    (cohort / ".git").mkdir()
    (cohort / "__MACOSX").mkdir()
    (cohort / "notes").mkdir()
    (cohort / "notes" / "protocol.pdf").write_bytes(b"%PDF" + bytes(200))
    (cohort / "notes" / ".hidden.dcm").write_bytes(bytes(200))
    (cohort / "empty").mkdir()
    (cohort / "readme.txt").write_text("hello")
    out = cohort / "results"
    out.mkdir()
    first = run(cohort, out, explainer=FakeExplainer())
    told = {failure.case: failure.reason for failure in first.passed_over}
    assert set(told) == {".git", "__MACOSX", "notes", "empty", "results"}
    assert "hidden" in told[".git"]
    assert "neither DICOM nor an image" in told["notes"]
    assert "the results go there" in told["results"]
    assert len(first.done) == 3
    assert {(row["case"], row["kind"]) for row in rows(first.failures)} == {(name, "passed over") for name in told}
    # a result of ours beside studies is not explained again
    (out / "case 1").rename(cohort / "old result")
    assert "old result" in {f.case for f in run(cohort, out, explainer=FakeExplainer()).passed_over}


def test_an_unmarked_dicom_file_makes_a_study(cohort: Path) -> None:
    (cohort / "dicom" / "series").mkdir(parents=True)
    (cohort / "dicom" / "series" / "IM0001").write_bytes(b"\x08\0\x05\0" + bytes(400))
    (cohort / "marked").mkdir()
    (cohort / "marked" / "1.2.3").write_bytes(bytes(128) + b"DICM")
    assert {"dicom", "marked"} <= {job.case for job in read_source(cohort)[0]}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p / "absent", "absent: there is no such folder or table"),
        (lambda p: p, "none of its 0 sub-folders is a study"),
        (lambda p: write_study(p / "case"), "it is a study itself"),
        (lambda p: write_image(p / "t2w.nii.gz"), "an image, not a table"),
    ],
)
def test_a_source_that_is_no_cohort(make: Callable[[Path], Path], says: str, tmp_path: Path, out: Path) -> None:
    with pytest.raises(BatchError, match=says):
        run(make(tmp_path), out, explainer=FakeExplainer())
    assert not out.exists()


def test_results_do_not_go_where_the_studies_lie(cohort: Path) -> None:
    before = sorted(cohort.rglob("*"))
    with pytest.raises(BatchError, match="another output folder"):
        run(cohort, cohort, explainer=FakeExplainer())
    assert sorted(cohort.rglob("*")) == before


# ------------------------------------------------------------------------------------------------------------- a table


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_by_any_separator(delimiter: str, encoding: str, cohort: Path, tmp_path: Path, out: Path) -> None:
    adc = write_image(tmp_path / "maps" / "somewhere" / "adc.nii.gz", 1200)
    lines = [
        [" Case ", "STUDY", "t2w", "adc", "psa", ""],
        ["Müller, J", "cohort/case 1", "", "maps/somewhere/adc.nii.gz", "6.5"],
        [],
        ["second", "", str(cohort / "case 2" / "t2w.nii.gz"), "", "", ""],
    ]
    text = "\r\n".join(delimiter.join(f'"{c}"' if delimiter in c else c for c in line) for line in lines)
    jobs, passed_over = read_source(table(tmp_path, text, encoding=encoding))
    assert passed_over == ()
    assert [job.case for job in jobs] == ["Müller, J", "second"]
    assert [job.where for job in jobs] == ["row 2", "row 4"]
    assert jobs[0].study == (tmp_path / "cohort" / "case 1")
    assert jobs[0].files == {"adc": adc}
    assert (jobs[0].psa, jobs[1].psa) == (6.5, None)
    assert jobs[1].files == {"t2w": cohort / "case 2" / "t2w.nii.gz"}
    assert all(job.problem is None for job in jobs)


def test_a_table_is_explained_in_its_own_order_with_its_names(cohort: Path, out: Path) -> None:
    source = table(cohort, "case,study,psa\nz,case 1,7.5\na,case 2,\n,case 10,\n")
    explainer = FakeExplainer()
    made = run(source, out, explainer=explainer)
    assert explainer.opened == ["z", "a", "case 10"]
    assert [row["case"] for row in rows(made.summary) if row["region"] == "1"] == ["z", "a", "case 10"]
    assert [row["psa_ng_ml"] for row in rows(made.summary) if row["region"] == "1"] == ["7.5", "", ""]
    assert json.loads((out / "z" / "explanation.json").read_text())["study"]["name"] == "z"


def test_a_comma_in_a_number_where_it_is_not_the_separator(cohort: Path) -> None:
    jobs, _ = read_source(table(cohort, "study;psa\ncase 1;6,5\n"))
    assert jobs[0].psa == 6.5
    jobs, _ = read_source(table(cohort, 'study,psa\ncase 1,"6,5"\n'))
    assert "not a positive number" in str(jobs[0].problem)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the table is empty"),
        ("\n \n", "the table is empty"),
        ("case,study\n", "no row below its header"),
        ("case,psa\na,3\n", "no column tells where the images are"),
        (
            "case,study,dwi,notes\na,b,c,d\n",
            r"unknown column 'dwi', 'notes'; known are case, study, t2w, adc, hbv, psa",
        ),
        ("study,Study\na,b\n", "column 'study' stands there twice"),
        ('study\n"a"b\n', "cannot be read as a table"),
        ("study\na\0b\n", "not a text table"),
    ],
)
def test_a_table_that_is_none(text: str, says: str, tmp_path: Path, out: Path) -> None:
    with pytest.raises(BatchError, match=says):
        run(table(tmp_path, text), out, explainer=FakeExplainer())
    assert not out.exists()


def test_a_table_in_another_encoding(tmp_path: Path, out: Path) -> None:
    with pytest.raises(BatchError, match=r"cohort\.csv: not UTF-8 text \(byte 8\); save it as 'CSV UTF-8'"):
        run(table(tmp_path, "study\nMüller\n", encoding="latin-1").rename(tmp_path / "cohort.csv"), out)
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04\x14\0\x06\0\x08\0")
    with pytest.raises(BatchError, match="not as a workbook"):
        run(tmp_path / "book.xlsx", out)


def test_bad_rows_are_listed_and_the_rest_goes_on(cohort: Path, out: Path) -> None:
    source = table(
        cohort,
        "case,study,t2w,psa\n"
        "good,case 1,,\n"
        "gone,case 99,,\n"
        "twice,case 1,,\n"
        "TWICE,case 2,,\n"
        "nothing,,,\n"
        "odd psa,case 1,,-3\n"
        "../../escape,case 1,,\n"
        "..,case 1,,\n"
        "C:\\Windows\\x,case 1,,\n"
        "long,case 1,,,more,cells\n"
        "home,~nosuchuser/x,,\n"
        "last,case 10,,\n",
    )
    before = sorted(p.name for p in out.parent.iterdir())
    made = run(source, out, explainer=FakeExplainer())
    assert made.done == ("good", "last")
    assert [failure.where for failure in made.failed] == [f"row {n}" for n in range(3, 13)]
    assert {failure.kind for failure in made.failed} == {"table", "study"}
    reasons = [failure.reason for failure in made.failed]
    for reason, says in zip(
        reasons,
        ["case 99: there is no such file or folder", "that of row 5", "that of row 4", "names no study",
         "'-3' is not a positive number", "is a path", "is a path", "is a path", "more cells than the header",
         "~nosuchuser: there is no home folder of that name"],
        strict=True,
    ):  # fmt: skip
        assert says in reason
    assert [row["where"] for row in rows(made.failures)] == [f"row {n}" for n in range(3, 13)]
    assert sorted(p.name for p in out.iterdir()) == ["failures.csv", "good", "last", "summary.csv"]
    assert sorted(p.name for p in out.parent.iterdir()) == sorted([*before, "results"])


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("plain", "plain"),
        ("a:b*c?", "a_b_c_"),
        ("con", "con_"),
        ("LPT1.mri", "LPT1.mri_"),
        ("ends. ", "ends"),
        (".hidden", "_hidden"),
        ("Summary.csv", "Summary.csv_"),
        ("tab\tand\nline", "tab_and_line"),
        ("e\u0301tude", "étude"),
        ("x" * 300, "x" * 80),
    ],
)
def test_a_name_is_a_folder_on_every_system(name: str, folder: str, cohort: Path) -> None:
    quoted = '"' + name + '"'
    jobs, _ = read_source(table(cohort, f"study,case\ncase 1,{quoted}\n"))
    assert [(job.case, job.problem) for job in jobs] == [(folder, None)]


# ------------------------------------------------------------------------------------------------------------ going on


def test_a_second_run_passes_over_what_is_there(cohort: Path, out: Path) -> None:
    run(cohort, out, explainer=FakeExplainer())
    stamp = (out / "case 1" / "report.html").stat().st_mtime_ns
    again = FakeExplainer()
    made = run(cohort, out, explainer=again)
    assert again.opened == []
    assert (made.done, made.skipped) == ((), ("case 1", "case 2", "case 10"))
    assert (out / "case 1" / "report.html").stat().st_mtime_ns == stamp
    assert [row["result"] for row in rows(made.summary)] == ["kept"] * 6
    made = run(cohort, out, explainer=again, overwrite=True)
    assert again.opened == ["case 1", "case 2", "case 10"]
    assert (out / "case 1" / "report.html").stat().st_mtime_ns > stamp


def test_what_changed_is_done_again(cohort: Path, out: Path) -> None:
    source = table(cohort, "study,psa\ncase 1,5\ncase 2,5\ncase 10,5\n")
    run(source, out, explainer=FakeExplainer())
    write_study(cohort / "case 2", 777)
    (out / "case 10" / "zones.nii.gz").unlink()
    made = run(source, out, explainer=FakeExplainer())
    assert (made.done, made.skipped) == (("case 2", "case 10"), ("case 1",))
    table(cohort, "study,psa\ncase 1,6\ncase 2,5\ncase 10,5\n")
    made = run(source, out, explainer=FakeExplainer())
    assert (made.done, made.skipped) == (("case 1",), ("case 2", "case 10"))
    first = next(p for p in sorted((out / "case 1" / "evidence").iterdir()))
    first.unlink()
    (out / "case 2" / "explanation.json").write_text('{"format": "medrationale-explanation"}')
    made = run(source, out, explainer=FakeExplainer())
    assert (made.done, made.skipped) == (("case 1", "case 2"), ("case 10",))
    other = FakeExplainer("b" * 64)
    assert run(source, out, explainer=other).done == ("case 1", "case 2", "case 10")


def test_a_finished_cohort_loads_no_network(cohort: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(cohort, out, explainer=FakeExplainer())
    found = SimpleNamespace(manifest=SimpleNamespace(sha256="a" * 64))
    monkeypatch.setattr("MedRationaleLogic.model.bundle.find", lambda name: found)
    monkeypatch.setattr("MedRationaleLogic.inference.explainer.Explainer", None)
    assert len(run(cohort, out).skipped) == 3


# ------------------------------------------------------------------------------------------------- what may go wrong


def test_a_case_that_fails_stops_no_other(cohort: Path, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_study(cohort / "case 3 Doe John")
    (cohort / "case 3 Doe John" / "t2w.nii.gz").write_bytes(b"not an image" * 30)
    write_study(cohort / "case 4 Doe Jane")
    explainer = FakeExplainer()
    explainer.raises["case 2"] = RuntimeError("shape mismatch\nfor Doe^John")
    explainer.raises["case 4 Doe Jane"] = MemoryError()
    with caplog.at_level(logging.DEBUG):
        made = run(cohort, out, explainer=explainer)
    assert made.done == ("case 1", "case 10")
    assert [(f.case, f.kind) for f in made.failed] == [
        ("case 2", "unexpected"), ("case 3 Doe John", "study"), ("case 4 Doe Jane", "memory"),
    ]  # fmt: skip
    assert made.failed[0].reason == "RuntimeError: shape mismatch for Doe^John"
    assert "t2w.nii.gz" in made.failed[1].reason
    assert "not enough memory" in made.failed[2].reason
    assert [row["reason"] for row in rows(made.failures)] == [f.reason for f in made.failed]
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("MedRationaleLogic")]
    assert ours[0] == "case 2 of 5 failed: RuntimeError"
    assert len(ours) == 3
    assert "Doe" not in " ".join(ours)
    explainer.raises.clear()
    write_study(cohort / "case 3 Doe John")
    made = run(cohort, out, explainer=explainer)  # and once it is mended, only what failed is done
    assert len(made.done) == 3
    assert rows(made.failures) == []


def test_a_foreign_file_in_a_result_folder_is_not_lost(cohort: Path, out: Path) -> None:
    (out / "case 1").mkdir(parents=True)
    (out / "case 1" / "thesis.docx").write_bytes(b"years of work")
    made = run(cohort, out, explainer=FakeExplainer())
    assert [(f.case, f.kind) for f in made.failed] == [("case 1", "output")]
    assert (out / "case 1" / "thesis.docx").read_bytes() == b"years of work"
    assert made.done == ("case 2", "case 10")


def test_ctrl_c_leaves_whole_tables(cohort: Path, out: Path) -> None:
    explainer = FakeExplainer()
    explainer.raises["case 2"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(cohort, out, explainer=explainer)
    assert {row["case"] for row in rows(out / "summary.csv")} == {"case 1"}
    assert rows(out / "failures.csv") == []
    assert sorted(p.name for p in out.iterdir()) == ["case 1", "failures.csv", "summary.csv"]
    explainer = FakeExplainer()
    made = run(cohort, out, explainer=explainer)
    assert (made.skipped, made.done) == (("case 1",), ("case 2", "case 10"))


def test_an_interrupted_second_run_keeps_what_it_did_not_reach(cohort: Path, out: Path) -> None:
    run(cohort, out, explainer=FakeExplainer())
    calls = iter([False, False, True, True, True])
    made = run(cohort, out, explainer=FakeExplainer(), cancelled=lambda: next(calls))
    assert (made.skipped, made.pending) == (("case 1", "case 2"), ("case 10",))
    states = [(row["case"], row["result"]) for row in rows(made.summary) if row["region"] == "1"]
    assert states == [("case 1", "kept"), ("case 2", "kept"), ("case 10", "not checked")]


@pytest.mark.parametrize("when", ["between", "within"])
def test_cancelled(when: str, cohort: Path, out: Path) -> None:
    explainer = FakeExplainer()

    def cancelled() -> bool:
        if when == "between":
            return len(explainer.opened) == 1 and (out / "case 1" / "report.html").exists()
        return len(explainer.opened) == 2

    said: list[str] = []
    made = run(cohort, out, explainer=explainer, cancelled=cancelled, progress=lambda share, what: said.append(what))
    assert made.done == ("case 1",)
    assert made.pending == ("case 2", "case 10")
    assert made.stopped
    assert made.failed == ()
    assert "done" not in said
    assert "2 not reached" in str(made)
    assert not (out / "case 2").exists()


def test_a_full_disk_ends_the_run_and_keeps_what_is_done(
    cohort: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = batch.write_results

    def full(explanation: Explanation, folder: Path) -> Path:
        if folder.name == "case 2":
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise ResultsError("results cannot be written below results: No space left on device") from error
        return real(explanation, folder)

    monkeypatch.setattr(batch, "write_results", full)
    explainer = FakeExplainer()
    with pytest.raises(ResultsError, match="the disk is full after 1 of 3 cases"):
        run(cohort, out, explainer=explainer)
    assert explainer.opened == ["case 1", "case 2"]
    assert {row["case"] for row in rows(out / "summary.csv")} == {"case 1"}
    assert [(row["case"], row["kind"]) for row in rows(out / "failures.csv")] == [("case 2", "output")]


def test_tables_that_cannot_be_replaced_for_a_while_do_not_stop_the_run(
    cohort: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.replace, [0]

    def busy(source: Any, target: Any) -> None:
        calls[0] += 1
        if 3 <= calls[0] <= 4:  # open in a spreadsheet after the first case
            raise PermissionError(errno.EACCES, "Permission denied")
        real(source, target)

    monkeypatch.setattr(batch.os, "replace", busy)
    made = run(cohort, out, explainer=FakeExplainer())
    assert len(made.done) == 3
    assert len(rows(made.summary)) == 6
    assert not list(out.glob(".*"))


def test_an_output_that_cannot_be_written_is_told_before_any_work(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    explainer = FakeExplainer()
    with pytest.raises(ResultsError, match=r"summary\.csv and failures\.csv cannot be written"):
        run(cohort, tmp_path / "file", explainer=explainer)
    assert explainer.opened == []


def test_a_bundle_that_is_not_there_is_told_before_any_work(
    cohort: Path, out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEDRATIONALE_HOME", str(tmp_path / "home"))
    with pytest.raises(BundleError):
        run(cohort, out, bundle="no-such-bundle")
    assert not out.exists()


def test_a_network_that_no_case_can_use_ends_the_run(cohort: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def broken(*arguments: object) -> None:
        tried.append(arguments)
        raise RuntimeError("libcudart.so: cannot open shared object file")

    found = SimpleNamespace(manifest=SimpleNamespace(sha256="a" * 64))
    monkeypatch.setattr("MedRationaleLogic.model.bundle.find", lambda name: found)
    monkeypatch.setattr("MedRationaleLogic.inference.explainer.Explainer", broken)
    with pytest.raises(RuntimeError, match="libcudart"):
        run(cohort, out, bundle="b", device="cpu")
    assert tried == [("b", "cpu")]


# ----------------------------------------------------------------------------------------------------------- the tables


def test_tables_are_by_the_book(cohort: Path, out: Path) -> None:
    source = table(cohort, 'study,case\ncase 1,"=HYPERLINK(""x"",y)"\ncase 2,"+1; ""a"", b"\ncase 77,@x\n')
    made = run(source, out, explainer=FakeExplainer())
    raw = made.summary.read_bytes()
    assert raw.count(b"\r\n") == raw.count(b"\n") == 1 + 4
    raw.decode("utf-8")
    found = rows(made.summary)
    assert found[0]["case"] == "'=HYPERLINK(_x_,y)"
    assert found[2]["case"] == "'+1; _a_, b"
    assert rows(made.failures)[0]["case"] == "'@x"
    assert found[0]["size_mm"] == f"{ONE.lesions[0].measures.in_plane.mm:.1f}"  # numbers stay numbers
    assert set(found[0]) == set(batch.SUMMARY_COLUMNS)


@pytest.mark.parametrize(
    ("value", "cell"),
    [("=1+1", "'=1+1"), ("-x", "'-x"), (" @x", "' @x"), ("\r=1", "' =1"), ("a=b", "a=b"), (-3.5, -3.5), (None, "")],
)
def test_text_is_no_formula(value: object, cell: object) -> None:
    assert batch._cell(value) == cell


# --------------------------------------------------------------------------------------------------------- command line


def test_the_command(
    cohort: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    explainer = FakeExplainer()
    found = SimpleNamespace(manifest=SimpleNamespace(sha256="a" * 64))
    monkeypatch.setattr("MedRationaleLogic.model.bundle.find", lambda name: found)
    monkeypatch.setattr("MedRationaleLogic.inference.explainer.Explainer", lambda bundle, device: explainer)
    (cohort / "notes").mkdir()
    assert cli.run(["batch", str(cohort), "-o", str(out)]) == 0
    told = capsys.readouterr()
    assert "3 cases explained" in told.out
    assert "passed over: folder notes" in told.out
    assert "Research use only" in told.out
    assert told.err.splitlines()[:2] == ["1 of 3, case 1 ...", "2 of 3, case 2 ..."]

    explainer.raises["case 10"] = RuntimeError("odd")
    assert cli.run(["batch", str(cohort), "-o", str(out), "--overwrite", "--quiet"]) == 4
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "medrationale: case 10 (folder case 10): RuntimeError: odd\n"
    assert cli.run(["batch", str(cohort), "-o", str(out), "--overwrite", "--json", "--quiet"]) == 4
    facts = json.loads(capsys.readouterr().out)
    assert facts["exit_code"] == 4
    assert facts["done"] == ["case 1", "case 2"]
    assert facts["failed"][0]["reason"] == "RuntimeError: odd"

    explainer.raises["case 2"] = KeyboardInterrupt()
    assert cli.run(["batch", str(cohort), "-o", str(out), "--overwrite"]) == 130
    assert cli.run(["batch", str(cohort / "nowhere"), "-o", str(out)]) == 4
    assert "no such folder or table" in capsys.readouterr().err


def test_the_command_is_documented(repository: Path) -> None:
    text = (repository / "docs" / "cli.md").read_text(encoding="utf-8")
    assert "## medrationale batch" in text
    assert all(f"`{column}`" in text for column in batch.COLUMNS)


# ---------------------------------------------------------------------------------------------------- several at once


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ThreadPoolExecutor, FakeExplainer]]:
    """An executor in this process, and what stands in for the network there."""
    explainer = FakeExplainer()
    found = SimpleNamespace(manifest=SimpleNamespace(sha256="a" * 64))
    monkeypatch.setattr("MedRationaleLogic.model.bundle.find", lambda name: found)
    monkeypatch.setattr("MedRationaleLogic.inference.explainer.Explainer", lambda bundle, device: explainer)
    batch._network_here.cache_clear()
    with ThreadPoolExecutor(1) as pool:
        yield pool, explainer
    batch._network_here.cache_clear()


Threads = tuple[ThreadPoolExecutor, FakeExplainer]


def test_an_executor_explains_the_cases(cohort: Path, out: Path, threads: Threads) -> None:
    pool, explainer = threads
    explainer.raises["case 2"] = RuntimeError("odd")
    said: list[tuple[float, str]] = []
    made = run(cohort, out, executor=pool, progress=lambda share, what: said.append((share, what)))
    assert made.done == ("case 1", "case 10")
    assert [(f.case, f.kind, f.reason) for f in made.failed] == [("case 2", "unexpected", "RuntimeError: odd")]
    assert [row["case"] for row in rows(made.summary)] == ["case 1", "case 1", "case 10", "case 10"]
    assert [share for share, _ in said] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert sorted(what.partition(", ")[2] for _, what in said) == [
        "", "case 10: explained", "case 1: explained", "case 2: failed",
    ]  # fmt: skip
    explainer.raises.clear()
    explainer.opened.clear()
    made = run(cohort, out, executor=pool)
    assert (made.skipped, made.done, explainer.opened) == (("case 1", "case 10"), ("case 2",), ["case 2"])
    assert run(cohort, out, executor=pool, overwrite=True).done == ("case 1", "case 2", "case 10")
    assert not pool._shutdown  # it is the caller's


def test_an_executor_is_stopped_between_cases(cohort: Path, out: Path, threads: Threads) -> None:
    pool, explainer = threads
    hold = explainer.held["case 2"] = threading.Event()

    def cancelled() -> bool:
        hold.set()
        return True

    made = run(cohort, out, executor=pool, cancelled=cancelled)
    assert made.stopped
    assert (made.done, made.pending) == (("case 1", "case 2"), ("case 10",))  # what had begun was waited for
    assert explainer.opened == ["case 1", "case 2"]
    assert {row["case"] for row in rows(made.summary)} == set(made.done)


def test_ctrl_c_takes_back_what_no_process_has_begun(cohort: Path, out: Path, threads: Threads) -> None:
    pool, explainer = threads
    hold = explainer.held["case 2"] = threading.Event()

    def interrupted(share: float, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cohort, out, executor=pool, progress=interrupted)
    hold.set()
    pool.submit(int).result()  # whatever was begun has ended
    assert explainer.opened == ["case 1", "case 2"]
    assert (out / "summary.csv").is_file()
    made = run(cohort, out, executor=pool)
    assert (made.skipped, made.done) == (("case 1", "case 2"), ("case 10",))


def test_a_full_disk_elsewhere_ends_the_run(
    cohort: Path, out: Path, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(explanation: Explanation, folder: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(batch, "write_results", full)
    with pytest.raises(ResultsError, match="the disk is full after 0 of 3 cases"):
        run(cohort, out, executor=threads[0])
    assert [row["kind"] for row in rows(out / "failures.csv")] == ["output"]


class OddError(Exception):
    """One that does not survive being sent."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (BundleError("b: no weights"), BundleError, "b: no weights"),
        (OddError("no", "card"), RuntimeError, "OddError: no card"),
    ],
)
def test_a_network_that_stands_nowhere_ends_the_run(
    error: Exception, kind: type[Exception], says: str,
    cohort: Path, out: Path, threads: Threads, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def broken(bundle: object, device: object) -> None:
        raise error

    monkeypatch.setattr("MedRationaleLogic.inference.explainer.Explainer", broken)
    with pytest.raises(kind, match=f"^{says}$"):
        run(cohort, out, executor=threads[0])
    assert (rows(out / "summary.csv"), rows(out / "failures.csv")) == ([], [])


def test_another_bundle_elsewhere_is_not_used(
    cohort: Path, out: Path, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = iter(["a" * 64, "b" * 64])
    monkeypatch.setattr(
        "MedRationaleLogic.model.bundle.find",
        lambda name: SimpleNamespace(manifest=SimpleNamespace(sha256=next(hashes))),
    )
    with pytest.raises(BundleError, match="another bundle of that name"):
        run(cohort, out, executor=threads[0])
    assert threads[1].opened == []


def test_a_process_that_is_ended_from_outside_is_told(cohort: Path, out: Path) -> None:
    class Killed(ThreadPoolExecutor):
        def submit(self, function: Any, /, *arguments: Any, **more: Any) -> Any:
            return super().submit(self.die)

        @staticmethod
        def die() -> None:
            raise BrokenProcessPool("a process in the process pool was terminated abruptly")

    with Killed(1) as pool, pytest.raises(BatchError, match="what is done stays: run again with fewer jobs"):
        run(cohort, out, executor=pool)
    assert rows(out / "failures.csv") == []


def test_a_case_that_others_give_back_ends_the_run(cohort: Path, out: Path, threads: Threads) -> None:
    """As Dask does with all of them when its scheduler is gone."""

    class Lost(ThreadPoolExecutor):
        def submit(self, function: Any, /, *arguments: Any, **more: Any) -> Any:
            made = super().submit(function, *arguments, **more) if arguments[0].case == "case 1" else Future()
            if arguments[0].case != "case 1":
                made.cancel()
                made.set_running_or_notify_cancel()
            return made

    with Lost(1) as pool, pytest.raises(BatchError, match=r"ended in the middle of a case.*CancelledError"):
        run(cohort, out, executor=pool)
    assert run(cohort, out, explainer=FakeExplainer()).pending == ()


@pytest.mark.parametrize("lost", ["worker", "scheduler"])
def test_a_cluster_that_nobody_works_for_is_told(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from MedRationaleLogic.commands import batch as command

    answers: list[Any] = [{"a": 1}, {}, {}, {}] if lost == "worker" else [{"a": 1}, OSError("Timed out")]

    def nthreads() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    clock = iter([0.0, 10.0, 20.0, 60.0, 71.0])
    monkeypatch.setattr(command.time, "monotonic", lambda: next(clock))
    look = command._watch(SimpleNamespace(nthreads=nthreads), "tcp://host:8786")
    assert look() is False
    if lost == "scheduler":
        with pytest.raises(BatchError, match="does not answer any more"):
            look()
        return
    assert look() is False
    assert look() is False
    with pytest.raises(BatchError, match="no worker for 60 s"):
        look()


def test_one_way_to_explain_at_a_time(cohort: Path, out: Path, threads: Threads) -> None:
    for wrong in ({"jobs": 0}, {"jobs": 2, "explainer": FakeExplainer()}, {"jobs": 2, "executor": threads[0]}):
        with pytest.raises(ValueError, match="jobs of 1 or more, or one explainer, or one executor"):
            run(cohort, out, **wrong)
    assert not out.exists()


def test_a_cluster_without_dask(
    cohort: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert cli.run(["batch", str(cohort), "-o", str(out), "--cluster", "tcp://127.0.0.1:8786"]) == 3
    assert 'pip install -c requirements/constraints.txt -e ".[cluster]"' in capsys.readouterr().err
    assert not out.exists()


def test_a_cluster(
    cohort: Path, out: Path, threads: Threads, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scheduler of Dask, on the loopback, with a worker in this process."""
    with monkeypatch.context() as hurried:
        hurried.setattr("MedRationaleLogic.commands.batch.CLUSTER_S", 1)
        assert cli.run(["batch", str(cohort), "-o", str(out), "--cluster", "tcp://127.0.0.1:1"]) == 2
    assert "no Dask scheduler answers at" in " ".join(capsys.readouterr().err.split())
    assert cli.run(["batch", str(cohort), "-o", str(out), "--cluster", "tcp://127.0.0.1:1", "--jobs", "2"]) == 2
    assert not out.exists()
    explainer = threads[1]
    explainer.raises["case 10"] = RuntimeError("odd")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None
    ) as cluster:
        command = ["batch", str(cohort), "-o", str(out), "--cluster", cluster.scheduler_address]
        assert cli.run(command) == 4
        told = capsys.readouterr()
        assert "2 cases explained, 0 already there, 1 failed" in told.out
        assert {line.partition(", ")[2] for line in told.err.splitlines()} >= {"case 1: explained", "case 10: failed"}
        explainer.raises.clear()
        assert cli.run([*command, "--overwrite"]) == 0  # nothing is taken from what the scheduler remembers
    assert sorted(explainer.opened) == ["case 1", "case 1", "case 10", "case 10", "case 2", "case 2"]


# ------------------------------------------------------------------------------------------------------- the whole road


def test_the_whole_road(tmp_path: Path, out: Path) -> None:
    cohort = tmp_path / "cohort"
    for name, level in (("a", 400), ("b", 500)):
        write_study(cohort / name, level)
    explainer = Explainer(tiny_bundle(tmp_path), "cpu", "float32")
    made = run(cohort, out, explainer=explainer)
    assert made.done == ("a", "b"), made.failed
    for name in made.done:
        record = json.loads((out / name / "explanation.json").read_text())
        assert record["provenance"]["bundle"]["sha256"] == explainer.bundle.manifest.sha256
        regions = [row for row in rows(made.summary) if row["case"] == name]
        assert len(regions) == max(1, len(record["lesions"]))
    assert run(cohort, out, explainer=explainer).skipped == ("a", "b")


def test_the_whole_road_by_two_processes(tmp_path: Path, out: Path) -> None:
    """Two processes of their own give what this one gives, and what fails there is listed here."""
    cohort = tmp_path / "cohort"
    for name, level in (("a", 400), ("b", 500), ("c", 450)):
        write_study(cohort / name, level)
    (cohort / "c" / "t2w.nii.gz").write_bytes(b"not an image" * 30)
    bundle = str(tiny_bundle(tmp_path).path)
    made = run(cohort, out, bundle=bundle, device="cpu", jobs=2)
    assert made.done == ("a", "b"), made.failed
    assert [(f.case, f.kind) for f in made.failed] == [("c", "study")]
    here = run(cohort, tmp_path / "here", bundle=bundle, device="cpu")
    assert here.failed == made.failed
    for name in ("a", "b"):
        for file in ("zones.nii.gz", "lesions.nii.gz"):
            assert (out / name / file).read_bytes() == (tmp_path / "here" / name / file).read_bytes()
    kept = run(cohort, out, bundle=bundle, device="cpu", jobs=2)
    assert kept.skipped == ("a", "b")
