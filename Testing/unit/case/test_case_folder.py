"""A saved case is the same case; a folder that is none, or is no longer whole, is refused by name."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from MedRationaleLogic import case as case_module
from MedRationaleLogic.case import CASE_FILE, Case, CaseError
from MedRationaleLogic.imaging.study import Study
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference.explanation import Explanation
from Testing.explanation_factory import IDENTITY, PZ_LEFT, Region, flipped, grid, make_explanation, oblique, sphere
from Testing.unit.case.fake_explainer import FakeExplainer, opened

READER = "Dr A"
FREE = (-16.0, 6.0, 0.0)
SMALL = {"shape": (10, 40, 44)}
MOVED = (PZ_LEFT, Region((0.0, 12.0, 9.0), 4.0, PZ_LEFT.readings))


def same(a: Explanation | None, b: Explanation | None) -> None:
    """Both explanations say the same, to the bit."""
    if a is None or b is None:
        assert a is b
        return
    assert json.dumps(a.to_dict()) == json.dumps(b.to_dict())
    for x, y in zip(a.lesions, b.lesions, strict=True):
        assert x.rationale == y.rationale
        assert x.mask.sha256 == y.mask.sha256
        assert x.mask.array.dtype == bool
    for name in ("zones", "lesion_probability"):
        assert getattr(a, name).sha256 == getattr(b, name).sha256
    assert (a.gland, a.quality, a.dropped, a.provenance) == (b.gland, b.quality, b.dropped, b.provenance)
    for role in a.study.roles:
        assert a.study.volume(role).sha256 == b.study.volume(role).sha256
        assert a.study.volume(role).name == b.study.volume(role).name
    assert (a.study.headers, a.study.choices, a.study.inputs) == (b.study.headers, b.study.choices, b.study.inputs)


def same_case(a: Case, b: Case) -> None:
    same(a.explanation, b.explanation)
    same(a.original, b.original)
    assert a.log == b.log
    assert b.verify_log()
    assert (a.selection, a.signed_off) == (b.selection, b.signed_off)


def edited() -> Case:
    """A case with everything in it: answers, a drawn region, a deleted one, a shift, another PSA, a signature."""
    case = opened(options=SMALL, after_shift=MOVED)
    frame = case.study.frame.geometry
    case.override(1, "dce", "+", READER)
    case.add_region(Volume(sphere(frame, FREE, 4.0), frame), READER)
    case.delete(2, READER)
    case.shift("adc", (0.1, 1 / 3, -2.0), READER)
    case.set_psa(0.1 + 0.2, READER)
    case.undo("Dr B")
    case.select(3, next(iter(case.explanation.evidence)))
    case.sign_off(READER)
    return case


def test_a_saved_case_is_the_same_case(tmp_path: Path):
    case = edited()
    assert case.unsaved
    folder = case.save(tmp_path / "deep" / "case")
    assert not case.unsaved
    loaded = Case.load(folder, FakeExplainer(options=SMALL))
    same_case(case, loaded)
    assert not loaded.unsaved
    assert loaded.history == ()
    assert not loaded.can_undo
    assert sorted(p.name for p in folder.parent.iterdir()) == ["case"]
    assert (folder / "removed" / "2.nii.gz").is_file()
    assert (folder / "original" / "images" / "adc.nii.gz").is_file()
    assert not (folder / "original" / "images" / "t2w.nii.gz").exists()  # the T2W did not move: written once


@pytest.mark.parametrize("explained", [False, True])
def test_a_case_can_be_saved_before_anyone_edits_it(tmp_path: Path, explained: bool):
    fake = FakeExplainer(options=SMALL)
    case = Case.open(fake.study, fake)
    if explained:
        case.explain()
    loaded = Case.load(case.save(tmp_path / "case"), fake)
    same_case(case, loaded)
    if not explained:
        loaded.explain()
    loaded.override(1, "dce", "+", READER)
    loaded.reset()
    assert loaded.explanation is loaded.original


def test_a_loaded_case_runs_the_network_only_when_it_must(tmp_path: Path):
    case = edited()
    case.save(tmp_path / "case")
    fake = FakeExplainer(options=SMALL, after_shift=MOVED)
    loaded = Case.load(tmp_path / "case", fake)
    loaded.reopen(READER, "more to say")
    loaded.override(1, "dce", "-", READER)
    loaded.delete(1, READER)
    loaded.undo()
    names = list(loaded.explanation.evidence)
    assert names == list(case.explanation.evidence)
    loaded.save(tmp_path / "case")
    assert (fake.runs, fake.sights) == (0, 0)
    given, again = case.explanation.evidence[names[0]], loaded.explanation.evidence[names[0]]
    assert np.array_equal(given.array, again.array)
    assert (fake.runs, fake.sights) == (0, 1)
    frame = loaded.study.frame.geometry
    added = loaded.add_region(Volume(sphere(frame, (0.0, 12.0, -6.0), 4.0), frame), READER)
    assert added.number > max(x.number for x in case.explanation.lesions)
    assert (fake.runs, fake.sights) == (0, 1)
    assert loaded.original.evidence[names[0]].array.shape == frame.shape
    assert (fake.runs, fake.sights) == (0, 2)  # the original is the study before the shift


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["override", "edit", "add", "delete", "merge", "split", "psa", "undo", "redo", "reset", "select"]
        ),
        st.integers(0, 5),
        st.integers(2, 6),
    ),
    max_size=6,
)


def act(case: Case, kind: str, which: int, size: int) -> None:
    """One action on some region; actions that the case refuses are part of the play."""
    frame, there = case.study.frame.geometry, [x.number for x in case.explanation.lesions]
    number = there[which % len(there)] if there else 1
    mask = Volume(sphere(frame, (6.0 * which - 15.0, 5.0, 0.0), float(size)), frame)
    actions = {
        "override": lambda: case.override(number, "t2w.score", 1 + which % 5, READER),
        "edit": lambda: case.edit_region(number, mask, READER),
        "add": lambda: case.add_region(mask, READER),
        "delete": lambda: case.delete(number, READER),
        "merge": lambda: case.merge(there[:2], READER),
        "split": lambda: case.split(number, READER, plane=((6.0 * which, -5.0, 25.0), (1.0, 0.3, 0.0))),
        "psa": lambda: case.set_psa(size / 3, READER),
        "undo": case.undo,
        "redo": case.redo,
        "reset": case.reset,
        "select": lambda: case.select(number),
    }
    with contextlib.suppress(CaseError):
        actions[kind]()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_was_done_survives_saving(tmp_path: Path, steps: list[tuple[str, int, int]]):
    case = opened(options=SMALL)
    used: set[int] = set()
    for step in steps:
        before = {x.number: x for x in case.explanation.lesions}
        act(case, *step)
        now = {x.number for x in case.explanation.lesions}
        assert len(now) == len(case.explanation.lesions)
        if step[0] in ("add", "split"):
            assert not (now - set(before)) & used  # a number that was given is never given again
        used |= now
    assert case.original.to_dict() == opened(options=SMALL).original.to_dict()
    loaded = Case.load(case.save(tmp_path / "case"), FakeExplainer(options=SMALL))
    same_case(case, loaded)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(["<i2", ">i2", "<u2", "|u1", "<i4", "<f4", ">f4", "<f8"]),
    direction=st.sampled_from([IDENTITY, oblique(), flipped(), oblique((70.0, 20.0, -130.0))]),
    spacing=st.tuples(*[st.floats(0.21, 4.9)] * 3),
    seed=st.integers(0, 2**16),
)
def test_voxels_and_geometry_survive_to_the_bit(tmp_path: Path, dtype: str, direction, spacing, seed: int):
    values = np.random.default_rng(seed).uniform(0, 250, (4, 6, 5)).astype(dtype)
    volume = Volume(values, grid((4, 6, 5), spacing, direction), "series 7")
    case = Case.open(Study("a study", t2w=volume))
    loaded = Case.load(case.save(tmp_path / "case")).study.t2w
    assert loaded.sha256 == volume.sha256
    assert loaded.array.dtype == volume.array.dtype
    assert loaded.geometry == volume.geometry
    assert loaded.name == "series 7"


def test_the_patient_is_left_out(tmp_path: Path):
    study = make_explanation(**SMALL).study
    named = Study("a study", t2w=study.t2w, patient_id="PAT-4711", study_uid="1.2.3")
    folder = Case.open(named).save(tmp_path / "case")
    assert Case.load(folder).study.patient_id is None
    assert Case.load(folder).study.study_uid == "1.2.3"
    for file in folder.rglob("*"):
        assert not file.is_file() or b"PAT-4711" not in file.read_bytes()


# --------------------------------------------------------------------------------------------------------- overwriting


def test_saving_again_replaces_the_case_and_leaves_other_files(tmp_path: Path):
    case = opened(options=SMALL)
    folder = case.save(tmp_path / "case")
    (folder / "report.html").write_text("a report")
    case.delete(2, READER)
    case.save(folder)
    assert not (folder / "regions" / "2.nii.gz").exists()
    assert (folder / "report.html").read_text() == "a report"
    same_case(case, Case.load(folder))
    assert [p.name for p in tmp_path.iterdir()] == ["case"]


def test_an_empty_folder_is_taken_and_anything_else_left_alone(tmp_path: Path):
    case = Case.open(make_explanation(**SMALL).study)
    (tmp_path / "empty").mkdir()
    case.save(tmp_path / "empty")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / CASE_FILE).write_text('{"format": "something"}')
    (tmp_path / "file").write_text("text")
    for name in ("photos", "other"):
        before = sorted((p.name, p.read_bytes()) for p in (tmp_path / name).iterdir())
        with pytest.raises(CaseError, match=f"{name} exists and is not a case"):
            case.save(tmp_path / name)
        assert sorted((p.name, p.read_bytes()) for p in (tmp_path / name).iterdir()) == before
    with pytest.raises(CaseError, match="file is a file"):
        case.save(tmp_path / "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "other", "photos"]


def test_a_save_that_fails_leaves_the_old_case_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    case = opened(options=SMALL)
    folder = case.save(tmp_path / "case")
    log = case.log
    case.override(1, "dce", "+", READER)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(case_module, "_write", full)
    with pytest.raises(CaseError, match=r"cannot be written.*No space left"):
        case.save(folder)
    monkeypatch.undo()
    assert case.unsaved
    assert [p.name for p in tmp_path.iterdir()] == ["case"]
    assert Case.load(folder).log == log


def test_when_the_exchange_fails_the_old_case_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    case = opened(options=SMALL)
    folder = case.save(tmp_path / "case")
    log = case.log
    case.override(1, "dce", "+", READER)
    rename = Path.rename

    def refuses(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(CaseError, match="Permission denied"):
        case.save(folder)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["case"]
    assert Case.load(folder).log == log


def test_a_link_stays_a_link_and_its_folder_is_written(tmp_path: Path):
    case = opened(options=SMALL)
    folder = case.save(tmp_path / "confidential" / "case")
    (folder / "report.pdf").write_text("exported")
    link = tmp_path / "link"
    link.symlink_to(folder, target_is_directory=True)
    case.override(1, "dce", "+", READER)
    assert case.save(link) == folder.resolve()
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["confidential", "link"]
    assert (folder / "report.pdf").read_text() == "exported"
    assert Case.load(link).log == case.log


def test_a_foreign_file_that_cannot_be_moved_is_told_and_the_case_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    case = opened(options=SMALL)
    folder = case.save(tmp_path / "case")
    (folder / "held.pdf").write_text("exported")
    (folder / "other.pdf").write_text("exported")
    case.override(1, "dce", "+", READER)
    rename = Path.rename

    def refuses(self: Path, target: Path) -> Path:
        if self.name == "held.pdf":
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(CaseError, match=r"case: the case is saved, but .* they lie in \.case\.old-"):
        case.save(folder)
    monkeypatch.undo()
    assert not case.unsaved
    assert Case.load(folder).log == case.log
    assert (folder / "other.pdf").is_file()
    [left] = tmp_path.glob(".case.old-*")
    assert (left / "held.pdf").read_text() == "exported"


# ------------------------------------------------------------------------------------------------- what is not a case


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edited().save(tmp_path_factory.mktemp("saved") / "case")


def rewrite(folder: Path, change) -> None:
    """A change of case.json that also makes its own checksum fit."""
    data = json.loads((folder / CASE_FILE).read_text())
    data.pop("sha256")
    change(data)
    case_module._write(folder, data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def change_voxels(folder: Path) -> None:
    import SimpleITK as sitk

    file = str(folder / "regions" / "1.nii.gz")
    sitk.WriteImage(1 - sitk.ReadImage(file), file)


BROKEN = {
    "no json": (lambda f: (f / CASE_FILE).unlink(), "not a case: it has no case.json"),
    "not json": (lambda f: (f / CASE_FILE).write_text("{"), "case.json cannot be read as JSON"),
    "a list": (lambda f: (f / CASE_FILE).write_text("[]"), "case.json is not of MedRationale"),
    "foreign": (lambda f: (f / CASE_FILE).write_text('{"format": "x"}'), "case.json is not of MedRationale"),
    "newer": (lambda f: rewrite(f, lambda d: d.update(format_version=2)), "version 2.*update MedRationale"),
    "edited": (
        lambda f: (f / CASE_FILE).write_text((f / CASE_FILE).read_text().replace("Dr A", "Dr X")),
        "case.json is damaged or was changed",
    ),
    "log edited": (lambda f: rewrite(f, lambda d: d["log"][2].update(reader="Dr X")), "audit log was changed"),
    "log cut": (lambda f: rewrite(f, lambda d: d["log"].pop(2)), "audit log was changed"),
    "entry missing": (lambda f: rewrite(f, lambda d: d.pop("next_number")), "entry is missing.*next_number"),
    "entry malformed": (lambda f: rewrite(f, lambda d: d.update(images=[])), "missing or malformed"),
    "leads out": (
        lambda f: rewrite(f, lambda d: d["current"]["study"]["volumes"].update(t2w="../secret.nii.gz")),
        "no image of a case",
    ),
    "image missing": (lambda f: (f / "zones.nii.gz").unlink(), "case/zones.nii.gz is missing"),
    "image is text": (lambda f: (f / "zones.nii.gz").write_text("zones"), "case/zones.nii.gz cannot be read as NIfTI"),
    "image cut": (
        lambda f: truncate(f / "images" / "t2w.nii.gz"),
        "case/images/t2w.nii.gz (is da|cannot be)",
    ),
    "image changed": (change_voxels, "case/regions/1.nii.gz is damaged or was changed"),
    "image exchanged": (
        lambda f: shutil.copy(f / "images" / "adc.nii.gz", f / "images" / "t2w.nii.gz"),
        "case/images/t2w.nii.gz is damaged or was changed",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_is_no_longer_whole_is_refused_by_name(tmp_path: Path, whole: Path, name: str):
    damage, said = BROKEN[name]
    folder = shutil.copytree(whole, tmp_path / "case")
    Case.load(folder)
    damage(folder)
    with pytest.raises(CaseError, match=said) as caught:
        Case.load(folder)
    assert any(hint in str(caught.value) for hint in ("restore", "choose", "update MedRationale", "no image of a case"))


def test_there_is_no_folder(tmp_path: Path):
    with pytest.raises(CaseError, match="nowhere is not a case"):
        Case.load(tmp_path / "nowhere")
