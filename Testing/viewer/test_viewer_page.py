"""The page's state: complete against what the templates read, true to the case, and plain."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from MedRationaleLogic.case import Case
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference.explanation import Explanation
from MedRationaleLogic.pirads.rationale import build
from MedRationaleLogic.session import Job
from MedRationaleViewer import page
from MedRationaleViewer.page import Reading
from Testing.explanation_factory import CENTER, MIXED, PZ_LEFT, TZ_RIGHT, sphere
from Testing.unit.case.fake_explainer import FakeExplainer, opened

READER = "Dr A"
SMALL = {"shape": (10, 40, 44)}
HOSTILE = "<script>alert('x')</script>\"&'Müller^Hans"


def case_of(*regions: Any, **options: Any) -> Case:
    return opened(regions=regions or (PZ_LEFT, TZ_RIGHT), options={**SMALL, **options})


def shown(case: Case | None, **more: Any) -> dict[str, Any]:
    return page.sections(Reading(case=case, **{"reader": READER, **more}))


def steps(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["id"]: step for step in state["rationale"]["steps"]}


# ------------------------------------------------------------------------------------------------ what the page reads


class Maybe:
    def __init__(self, shape: Any) -> None:
        self.shape = shape


class OneOf:
    def __init__(self, *values: Any) -> None:
        self.values = values


COLOUR = OneOf(*(f"#{c}" for c in ("2f7d5b", "5f8f2f", "c99700", "d2601a", "b3202c", "6b7280")))
INK = OneOf("#000000", "#ffffff")
CATEGORY = OneOf("1", "2", "3", "4", "5", "X")
STEP = {
    "id": str, "depth": OneOf(0, 1, 2), "label": str, "answer": str, "original": Maybe(str), "uncertain": bool,
    "probability": Maybe(float), "alternatives": [{"text": str, "probability": Maybe(float)}], "asserted": str,
    "overridden": bool, "question": str, "rule": str, "detail": str, "evidence": Maybe(str), "evidence_text": str,
    "selected": bool, "kind": OneOf("choice", "size", "computed"), "answers": [{"text": str, "current": bool}],
    "size_mm": Maybe(float),
}  # fmt: skip
LESION = {
    "number": int, "origin": OneOf("model", "reader"), "origin_text": str, "category": CATEGORY, "reachable": str,
    "colour": COLOUR, "ink": INK, "zone": OneOf("PZ", "TZ"), "zone_uncertain": bool, "size": str, "size_detail": str,
    "t2w": CATEGORY, "dwi": CATEGORY, "suspicion": Maybe(float), "flags": [str], "sectors": str, "selected": bool,
    "marked": bool,
}  # fmt: skip
SHAPE: dict[str, Any] = {
    "study": {
        "open": bool, "case": int, "name": str, "sample": bool, "explained": bool, "read_only": bool,
        "images": [{"role": OneOf("t2w", "adc", "hbv"), "name": str, "present": bool, "detail": str}],
        "quality": [{"text": str, "level": OneOf("ok", "note", "warn")}], "message": str,
    },
    "job": {
        "kind": OneOf("", "explain", "shift", "action"), "what": str,
        "state": OneOf("idle", "running", "failed", "cancelled", "done"), "running": bool, "share": float,
        "stage": str, "message": str, "log_tail": str, "network": str,
    },
    "findings": {
        "summary": Maybe({"category": CATEGORY, "colour": COLOUR, "ink": INK, "text": str, "lines": [str]}),
        "lesions": [LESION],
    },
    "rationale": {
        "lesion": Maybe(int), "category": str, "colour": str, "ink": str, "reachable": str, "lines": [str],
        "flags": [str], "steps": [STEP], "chosen": Maybe(str),
    },
    "evidence": {
        "shown": bool, "concept": Maybe(str), "phrase": str, "sequence_name": str, "text": str,
        "groups": [{
            "sequence": OneOf("t2w", "adc", "hbv"), "name": str,
            "concepts": [
                {"id": str, "phrase": str, "selected": bool, "probability": Maybe(float), "leads": bool}
            ],
        }],
        "threshold": Maybe(float), "whole": bool, "opacity": float,
        "stops": [{"colour": str, "label": str, "at": float}], "thumbnail": Maybe(str),
    },
    "review": {
        "reader": str, "can_undo": bool, "can_redo": bool, "can_reset": bool, "editable": bool, "unsaved": bool,
        "signed": Maybe({"reader": str, "when": str, "text": str}), "psa": Maybe(float), "psa_text": str,
        "log": [{"when": str, "reader": str, "text": str}], "log_ok": bool,
        "shifts": [{"role": OneOf("adc", "hbv"), "name": str, "x": float, "y": float, "z": float}],
        "downloads": [{"name": str, "label": str, "note": str, "available": bool, "why": str}], "hint": str,
    },
    "sectors": {"svg": str, "hint": str},
}  # fmt: skip


def faults(value: Any, shape: Any, at: str) -> Iterator[str]:
    """What of a value is not as the shape says; the type counts exactly, so no tuple, no number of numpy's."""
    if isinstance(shape, Maybe):
        if value is not None:
            yield from faults(value, shape.shape, at)
    elif isinstance(shape, OneOf):
        if value not in shape.values or type(value) not in {type(v) for v in shape.values}:
            yield f"{at} is {value!r}"
    elif isinstance(shape, list):
        if type(value) is not list:
            yield f"{at} is a {type(value).__name__}"
            return
        for k, one in enumerate(value):
            yield from faults(one, shape[0], f"{at}[{k}]")
    elif isinstance(shape, dict):
        if type(value) is not dict or list(map(str, value)) != list(value) or set(value) != set(shape):
            yield f"{at} has {sorted(set(value) ^ set(shape))}"
            return
        for key, one in shape.items():
            yield from faults(value[key], one, f"{at}.{key}")
    elif type(value) is not shape or (shape is float and not math.isfinite(value)):
        yield f"{at} is {value!r}"


def checked(state: dict[str, Any]) -> dict[str, Any]:
    assert list(faults(state, SHAPE, "state")) == []
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    return state


def test_the_check_of_the_shape_finds_what_is_wrong() -> None:
    good = shown(case_of())
    for name, wrong in (
        ("study", {**good["study"], "images": tuple(good["study"]["images"])}),
        ("study", {**good["study"], "extra": 1}),
        ("job", {k: v for k, v in good["job"].items() if k != "share"}),
        ("evidence", {**good["evidence"], "opacity": math.nan}),
        ("findings", {**good["findings"], "lesions": [{**good["findings"]["lesions"][0], "zone": "XZ"}]}),
    ):
        assert list(faults({**good, name: wrong}, SHAPE, "state"))


@pytest.mark.parametrize("options", [
    {}, {"roles": ("t2w",)}, {"roles": ("adc", "hbv")}, {"gland": False}, {"psa": None},
])  # fmt: skip
@pytest.mark.parametrize("regions", [(PZ_LEFT, TZ_RIGHT), (MIXED,), ()])
def test_every_section_is_complete_and_plain(regions: Any, options: Any) -> None:
    fake = FakeExplainer(regions=regions, options={**SMALL, **options})
    case = Case.open(fake.study, fake)
    checked(shown(case))
    case.explain()
    checked(shown(case))
    for lesion in case.explanation.lesions:
        for concept in (None, *page.concepts(case.explanation, lesion.number)):
            case.select(lesion.number, concept)
            state = checked(shown(case, step="t2w.score"))
            assert state["rationale"]["lesion"] == lesion.number
            assert [s["selected"] for s in state["rationale"]["steps"]].count(True) <= 1


def test_without_a_study_the_page_says_so_and_offers_nothing() -> None:
    state = checked(page.sections(Reading()))
    assert not state["study"]["open"]
    assert state["findings"] == {"summary": None, "lesions": []}
    assert state["review"]["downloads"] == []
    assert not state["review"]["editable"]
    assert state["sectors"]["svg"] == ""


def test_the_page_hears_which_case_it_is_and_whether_work_would_go() -> None:
    for case in (None, case_of()):
        for number, unsaved in ((3, False), (4, True)):
            state = checked(shown(case, number=number, unsaved=unsaved))
            assert (state["study"]["case"], state["review"]["unsaved"]) == (number, unsaved)


def test_the_presenter_needs_neither_slicer_nor_a_server_nor_torch() -> None:
    code = (
        "import sys, MedRationaleViewer.page, MedRationaleViewer.downloads;"
        "print(sorted({'slicer', 'vtk', 'trame', 'trame_slicer', 'aiohttp', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ----------------------------------------------------------------------------------------------------------- the study


def test_the_study_before_and_after_it_is_explained() -> None:
    fake = FakeExplainer(options=SMALL)
    case = Case.open(fake.study, fake)
    before = shown(case, sample=True, name="Sample")
    assert before["study"]["name"] == "Sample"
    assert "no patient" in before["study"]["message"]
    assert not before["study"]["explained"]
    assert {"text": "a note on synthetic", "level": "note"} in before["study"]["quality"]
    assert before["findings"]["summary"] is None
    assert before["review"]["hint"] == "Not explained yet."
    assert {d["why"] for d in before["review"]["downloads"]} == {"The study is not explained yet."}
    case.explain()
    after = shown(case)
    assert after["study"]["name"] == "synthetic"
    assert after["study"]["explained"]
    assert "requirements cannot be checked" in str(after["study"]["quality"])
    assert all(d["available"] and not d["why"] for d in after["review"]["downloads"])


def test_an_absent_sequence_is_named_with_what_its_absence_means() -> None:
    state = shown(case_of(roles=("t2w",)))
    images = {i["role"]: i for i in state["study"]["images"]}
    assert images["t2w"]["present"]
    assert not images["adc"]["present"]
    assert "DWI score X" in images["adc"]["detail"]
    assert {"text": "absent: some sequence", "level": "warn"} in state["study"]["quality"]
    assert [g["sequence"] for g in state["evidence"]["groups"]] == ["t2w"]
    assert state["review"]["shifts"] == []


def test_the_job_is_told_as_it_stands() -> None:
    case = case_of()
    failed = Job("explain", "explaining the study", 0.4, state="failed", message="no memory", log_tail="last line")
    state = shown(case, job=failed, network="CPU, shared")
    assert state["job"]["state"] == "failed"
    assert state["job"]["message"] == "no memory"
    assert state["job"]["log_tail"] == "last line"
    assert state["job"]["network"].startswith("CPU, shared; ")
    assert "no GPU: the CPU was used" in state["job"]["network"]
    running = Job("action", "merging", 0.123456, "reading", "running")
    state = shown(case, job=running, network="CPU, shared")
    assert state["job"]["running"]
    assert state["job"]["network"] == "CPU, shared"
    assert not state["review"]["editable"]
    assert not state["review"]["can_reset"]
    assert "at work" in state["review"]["hint"]


# -------------------------------------------------------------------------------------------------------- the findings


def test_the_findings_are_those_of_the_explanation() -> None:
    case = case_of()
    case.select(2)
    state = shown(case, marked=frozenset({1}))
    summary, lesions = state["findings"]["summary"], state["findings"]["lesions"]
    assert summary["category"] == str(case.explanation.category.category)
    assert summary["text"] == case.explanation.category.text
    assert "PSA density" in summary["lines"][0]
    assert [x["number"] for x in lesions] == [1, 2]
    assert [x["selected"] for x in lesions] == [False, True]
    assert [x["marked"] for x in lesions] == [True, False]
    assert [x["zone"] for x in lesions] == ["PZ", "TZ"]
    assert (lesions[1]["category"], lesions[1]["reachable"]) == ("4", "3")
    assert "mask without rationale: a made-up remark" in lesions[1]["flags"]
    assert lesions[0]["suspicion"] == 0.83
    assert "PZ, mid-gland" in lesions[0]["sectors"]


def test_a_study_without_a_region_excludes_nothing() -> None:
    fake = FakeExplainer(regions=(), options=SMALL)
    case = Case.open(fake.study, fake)
    case.explain()
    state = checked(shown(case))
    assert "No suspicious region was outlined. That excludes nothing." in state["findings"]["summary"]["lines"]
    assert state["rationale"]["lesion"] is None
    assert state["evidence"]["groups"]
    assert state["sectors"]["hint"] == "No sector is lit."


def test_no_word_of_the_page_names_a_diagnosis() -> None:
    case = case_of()
    case.select(1, case.explanation.lesion(1).leading_concept)
    assert "cancer" not in json.dumps(shown(case)).lower()


# ------------------------------------------------------------------------------------------------------- the rationale


def test_the_tree_is_the_path_from_the_category_down() -> None:
    case = case_of()
    for number, dominant in ((1, "dwi.score"), (2, "t2w.score")):
        case.select(number)
        state = shown(case)
        rows = state["rationale"]["steps"]
        rationale = case.explanation.lesion(number).rationale
        assert sorted(r["id"] for r in rows) == sorted(s.id for s in rationale.steps)
        assert [r["id"] for r in rows if r["depth"] == 0] == ["category"]
        assert [r["id"] for r in rows if r["depth"] == 1][1] == dominant
        assert all(r["depth"] == 2 for r in rows if r["id"].split(".")[0] in ("t2", "adc", "hbv"))
        assert {r["label"] for r in rows} >= {"ADC signal", "high-b DWI signal", "texture"}
        assert state["rationale"]["reachable"] == next(
            x["reachable"] for x in state["findings"]["lesions"] if x["selected"]
        )
        assert f"{case.explanation.lesion(number).suspicion.value:.2f}" in state["rationale"]["lines"][-1]


def test_the_other_zone_is_told_where_the_zone_is_uncertain() -> None:
    case = case_of(MIXED)
    case.select(1)
    other = case.explanation.lesion(1).rationale.other
    assert shown(case)["rationale"]["lines"][0] == f"By the tables of the {other.zone}: PI-RADS {other.category}"
    case.override(1, "zone", "TZ", READER)
    assert "By the tables" not in str(shown(case)["rationale"]["lines"])


def test_the_chosen_step_goes_with_the_map_that_is_looked_at() -> None:
    case = case_of()
    by_id = {s.id: s.evidence for s in case.explanation.lesion(1).rationale.steps}
    case.select(1, by_id["adc.signal"])
    assert shown(case)["rationale"]["chosen"] == "adc.signal"
    assert shown(case, step="size")["rationale"]["chosen"] == "size"
    assert shown(case, step="t2.shape")["rationale"]["chosen"] == "adc.signal"
    assert shown(case, step="no such step")["rationale"]["chosen"] == "adc.signal"
    case.select(1)
    assert shown(case)["rationale"]["chosen"] is None


@pytest.mark.parametrize("region", [PZ_LEFT, TZ_RIGHT, MIXED])
def test_every_answer_by_its_place_becomes_the_current_one(region: Any) -> None:
    case = case_of(region)
    case.select(1)
    tried = 0
    for step, row in steps(shown(case)).items():
        answers = case.explanation.lesion(1).rationale.answers(step)
        assert [a["text"] for a in row["answers"]] == [page.words.answer_words(step, a) for a in answers]
        assert (row["kind"] == "choice") == bool(answers)
        for index, answer in enumerate(answers):
            changed = case.override(1, step, answer, READER)
            case.select(1, changed.rationale.step(step).evidence)  # as the page does when a step is chosen
            state = checked(shown(case, step=step))
            now = steps(state)[step]
            assert [a["current"] for a in now["answers"]].index(True) == index
            assert sum(a["current"] for a in now["answers"]) == 1
            assert now["answer"] == now["answers"][index]["text"]
            assert now["overridden"]
            assert now["asserted"] == f"reader {READER}"
            assert now["original"] == row["answer"]
            assert state["rationale"]["chosen"] == step
            assert now["selected"]
            assert state["review"]["log"][-1]["text"].startswith("region 1: ")
            case.undo()
            case.select(1)
            tried += 1
        assert steps(shown(case))[step] == row
    assert tried > 50


def test_the_size_is_answered_by_a_number() -> None:
    case = case_of()
    case.select(1)
    row = steps(shown(case))["size"]
    assert row["kind"] == "size"
    assert row["answers"] == []
    assert row["size_mm"] == case.explanation.lesion(1).rationale.size_mm
    case.override(1, "size", 21.44, READER)
    state = checked(shown(case))
    assert steps(state)["size"]["size_mm"] == 21.4
    assert steps(state)["size"]["original"] == row["answer"]
    assert state["findings"]["lesions"][0]["size"] == "21.4 mm"
    assert "by reader Dr A" in state["findings"]["lesions"][0]["size_detail"]


def test_what_only_a_reader_asserts_has_no_current_answer_until_one_does() -> None:
    case = case_of()
    case.select(1)
    epe = steps(shown(case))["epe"]
    assert epe["answer"] == "not asserted"
    assert [a["text"] for a in epe["answers"]] == ["absent", "suspected", "definite"]
    assert not any(a["current"] for a in epe["answers"])
    assert epe["asserted"] == "default"
    assert steps(shown(case))["dce"]["answers"][2] == {"text": "X (not available or not read)", "current": True}


def test_an_absent_sequence_can_be_answered_nowhere() -> None:
    case = case_of(PZ_LEFT, roles=("t2w",))
    case.select(1)
    rows = steps(shown(case))
    assert rows["dwi.score"]["answer"] == "X"
    assert rows["dwi.score"]["kind"] == "computed"
    assert not [r for r in rows if r.startswith(("adc.", "hbv."))]


def test_a_step_that_was_not_read_says_so() -> None:
    class Partly(FakeExplainer):
        """Reads no capsule."""

        def _made(self, regions: Any) -> Explanation:
            whole = super()._made(regions)
            lesion = whole.lesion(1)
            read = {a: v for a, v in lesion.rationale.findings.attributes.items() if a != "t2.capsule"}
            less = build(replace(lesion.rationale.findings, attributes=read))
            return whole.with_lesion(replace(lesion, rationale=less))

    fake = Partly(options=SMALL)
    case = Case.open(fake.study, fake)
    case.explain()
    case.select(1)
    capsule = steps(checked(shown(case)))["t2.capsule"]
    assert capsule["answer"] == "not read"
    assert capsule["uncertain"]
    assert capsule["evidence"] is None
    assert capsule["kind"] == "choice"
    assert not any(a["current"] for a in capsule["answers"])


def test_a_region_that_a_reader_added_has_no_suspicion() -> None:
    case = case_of()
    case.explain_here([CENTER[0] - 16, CENTER[1] + 6, CENTER[2]], READER)
    state = checked(shown(case))
    added = state["findings"]["lesions"][-1]
    assert added["selected"]
    assert (added["origin"], added["origin_text"]) == ("reader", "outlined by a reader")
    assert added["suspicion"] is None
    assert state["rationale"]["lines"] == []


# -------------------------------------------------------------------------------------------------------- the evidence


def test_the_concepts_are_those_of_the_selected_region_by_sequence() -> None:
    case = case_of()
    every = shown(case)["evidence"]
    assert [g["sequence"] for g in every["groups"]] == ["t2w", "adc", "hbv"]
    assert {c["id"] for g in every["groups"] for c in g["concepts"]} == set(case.explanation.evidence)
    assert not any(c["leads"] or c["selected"] for g in every["groups"] for c in g["concepts"])
    lesion = case.explanation.lesion(1)
    case.select(1, lesion.leading_concept)
    state = shown(case)["evidence"]
    listed = [c for g in state["groups"] for c in g["concepts"]]
    assert [c["id"] for c in listed] == page.concepts(case.explanation, 1)
    assert [c["id"] for c in listed if c["leads"]] == [lesion.leading_concept]
    assert [c["id"] for c in listed if c["selected"]] == [lesion.leading_concept]
    assert all(c["probability"] == round(lesion.reading(c["id"]).probability, 4) for c in listed)
    assert state["groups"][1]["concepts"][0]["phrase"].startswith("signal: ")
    assert state["sequence_name"] == "ADC"
    assert "strongest evidence" in state["text"]
    assert "within 6 mm" in state["text"]
    assert "within 6 mm" not in shown(case, whole=True)["evidence"]["text"]
    assert state["thumbnail"].startswith("data:image/png;base64,")


def test_without_a_concept_nothing_is_claimed() -> None:
    case = case_of()
    case.select(1)
    state = shown(case, evidence_shown=False, opacity=0.25)["evidence"]
    assert state["concept"] is None
    assert state["thumbnail"] is None
    assert state["text"].startswith("Evidence is what the network saw")
    assert not state["shown"]
    assert state["opacity"] == 0.25


def test_the_scale_runs_from_nothing_to_one_and_names_the_threshold() -> None:
    stops = shown(case_of())["evidence"]["stops"]
    assert [s["at"] for s in stops] == sorted(s["at"] for s in stops)
    assert {s["label"]: s["at"] for s in stops if s["label"]} == {"0": 0.0, "0.50": 0.5, "1": 1.0}
    assert len({s["colour"] for s in stops}) == len(stops)


def test_a_case_that_was_opened_again_shows_no_picture_until_the_network_has_run(tmp_path: Path) -> None:
    case_of().save(tmp_path / "case")
    fake = FakeExplainer(options=SMALL)
    case = Case.load(tmp_path / "case", fake)
    case.select(1, case.explanation.lesion(1).leading_concept)
    state = checked(shown(case))
    assert state["evidence"]["thumbnail"] is None
    assert "once more" in state["evidence"]["text"]
    offered = {d["name"]: d for d in state["review"]["downloads"]}
    assert not offered["evidence.zip"]["available"]
    assert "look at a concept" in offered["evidence.zip"]["why"]
    assert offered["rationale.json"]["available"]
    assert fake.sights == 0
    case.explanation.evidence.native(case.selection.concept)
    state = checked(shown(case))
    assert state["evidence"]["thumbnail"]
    assert all(d["available"] for d in state["review"]["downloads"])


# ---------------------------------------------------------------------------------------------------------- the review


def test_the_page_follows_what_a_reader_does() -> None:
    case = case_of()
    case.select(1)
    first = checked(shown(case))
    assert first["review"]["editable"]
    assert not any(first["review"][k] for k in ("can_undo", "can_redo", "can_reset"))
    case.override(1, "dwi.score", 5, READER)
    changed = checked(shown(case))
    assert changed["findings"]["summary"]["category"] == "5"
    assert changed["rationale"]["category"] == "5"
    assert steps(changed)["category"]["original"] == first["rationale"]["category"]
    assert changed["review"]["can_undo"]
    assert changed["review"]["can_reset"]
    assert changed["review"]["log"][-1]["reader"] == READER
    assert changed["review"]["log"][-1]["text"] == "region 1: DWI score answered 5; patient's category 4 -> 5"
    assert changed["sectors"]["svg"] != first["sectors"]["svg"]
    case.undo(READER)
    undone = checked(shown(case))
    assert undone["review"]["can_redo"]
    assert undone["findings"] == first["findings"]
    assert undone["rationale"] == first["rationale"]
    assert undone["sectors"] == first["sectors"]
    assert undone["review"]["log"][-1]["text"] == "undone: answered; patient's category 5 -> 4"
    case.redo()
    assert shown(case)["findings"] == changed["findings"]
    assert shown(case)["review"]["log"][-1]["reader"] == "-"
    case.reset_step(1, "dwi.score", READER)
    assert shown(case)["review"]["log"][-1]["text"].startswith("region 1: DWI score, answer taken back")


def test_a_deleted_region_is_gone_and_named_in_the_log() -> None:
    case = case_of()
    case.select(1, case.explanation.lesion(1).leading_concept)
    case.delete(1, READER)
    state = checked(shown(case, step="dwi.score"))
    assert [x["number"] for x in state["findings"]["lesions"]] == [2]
    assert state["rationale"]["lesion"] is None
    assert state["rationale"]["lines"] == ["Select a region to see why it has its category."]
    assert 'data-lesion="1"' not in state["sectors"]["svg"]
    assert state["review"]["log"][-1]["text"].startswith("region 1: deleted")
    case.delete(2, READER)
    state = checked(shown(case))
    assert state["findings"]["lesions"] == []
    assert state["rationale"]["lines"] == []
    assert state["findings"]["summary"]["lines"][0].endswith("That excludes nothing.")


def test_a_signed_case_takes_no_changes_until_it_is_reopened() -> None:
    case = case_of()
    case.select(1)
    case.override(1, "dce", "+", READER)
    signature = case.sign_off(READER)
    state = checked(shown(case))
    when = f"{signature.time[:10]} {signature.time[11:16]} UTC"
    assert state["review"]["signed"] == {"reader": READER, "when": when, "text": f"Signed off by {READER}, {when}"}
    assert not any(state["review"][k] for k in ("editable", "can_undo", "can_redo", "can_reset"))
    assert "reopen" in state["review"]["hint"]
    assert all(d["available"] for d in state["review"]["downloads"])
    case.reopen(READER, "DCE was another patient's")
    state = checked(shown(case))
    assert state["review"]["signed"] is None
    assert state["review"]["editable"]
    assert state["review"]["log"][-1]["text"] == "reopened: DCE was another patient's"


def test_what_is_missing_for_a_change_is_said() -> None:
    case = case_of()
    assert shown(case)["review"]["hint"] == ""
    assert "name or initials" in shown(case, reader="  ")["review"]["hint"]
    read_only = checked(shown(case, read_only=True))
    assert "read-only" in read_only["review"]["hint"]
    assert "read-only" in read_only["study"]["message"]
    assert not read_only["review"]["editable"]


def test_every_kind_of_entry_is_told_in_words() -> None:
    case = case_of()
    frame = case.study.frame.geometry
    case.set_psa(4.0, READER)
    case.set_psa(None, READER)
    case.shift("adc", (1.5, 0, 0), READER)
    case.explain_here([CENTER[0] - 16, CENTER[1] + 6, CENTER[2]], READER)
    added = case.explanation.lesions[-1].number
    case.edit_region(added, Volume(sphere(frame, (-16, 6, 0), 3.0), frame), READER)
    case.add_region(Volume(sphere(frame, (0, 10, -6), 4.0), frame), READER)
    case.merge([1, added], READER)
    case.reset(READER)
    said = [entry["text"].partition("; patient's")[0] for entry in checked(shown(case))["review"]["log"]]
    assert said[:2] == ["study opened", "explained: bundle of synthetic 0.0.1"]
    assert said[2:4] == ["PSA: 4 ng/mL", "PSA: not known"]
    assert said[4].startswith("sequence moved: ADC by (+1.5, +0.0, +0.0) mm LPS")
    assert said[5].startswith(f"region {added}: added where a reader pointed: at (")
    assert said[6] == f"region {added}: outline changed"
    assert said[7] == f"region {added + 1}: drawn"
    assert said[8].startswith(f"region 1: merged: regions 1, {added}")
    assert said[9] == "back: to the model's own result"
    assert {e["reader"] for e in shown(case)["review"]["log"]} == {"-", "model", READER}


def test_a_log_that_was_changed_is_shown_as_such() -> None:
    case = case_of()
    assert shown(case)["review"]["log_ok"]
    case._log = (*case._log[:-1], replace(case._log[-1], detail="another model"))  # what memory cannot do by itself
    assert not shown(case)["review"]["log_ok"]


def test_a_moved_sequence_is_told_and_the_form_starts_anew() -> None:
    case = case_of()
    case.shift("hbv", (0, -2.0, 0), READER)
    state = shown(case)
    assert state["review"]["shifts"] == [
        {"role": "adc", "name": "ADC", "x": 0.0, "y": 0.0, "z": 0.0},
        {"role": "hbv", "name": "high-b", "x": 0.0, "y": 0.0, "z": 0.0},
    ]
    assert "high-b moved by hand" in str(state["study"]["quality"])


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.integers(0, 15), st.integers(0, 8)),
        st.tuples(st.just("size"), st.floats(0, 60), st.just(0)),
        st.sampled_from([(name, 0, 0) for name in ("undo", "redo", "reset", "delete", "sign", "reopen", "next")]),
    ),
    max_size=8,
)


def act(case: Case, name: str, a: Any, b: int) -> None:
    lesion = case.selection.lesion
    if name == "next":
        numbers = [x.number for x in case.explanation.lesions]
        case.select(page.walk.following(numbers, lesion, 1))
    elif name in ("answer", "size", "delete") and lesion is not None:
        rationale = case.explanation.lesion(lesion).rationale
        if name == "size":
            case.override(lesion, "size", a, READER)
        elif name == "delete":
            case.delete(lesion, READER)
        else:
            step = rationale.steps[a % len(rationale.steps)].id
            answers = rationale.answers(step)
            if answers:
                case.override(lesion, step, answers[b % len(answers)], READER)
    elif name in ("undo", "redo", "reset"):
        getattr(case, name)()
    elif name == "sign":
        case.sign_off(READER)
    elif name == "reopen":
        case.reopen(READER, "again")


@given(ACTIONS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_reader_does_the_page_is_whole_and_agrees_with_itself(actions: list[tuple[str, Any, int]]) -> None:
    case = case_of()
    case.select(1)
    for name, a, b in actions:
        try:
            act(case, name, a, b)
        except ValueError:
            continue  # nothing to undo, or signed: the page stays as it was
        state = checked(shown(case))
        assert state["review"]["can_undo"] == case.can_undo
        assert state["review"]["can_redo"] == case.can_redo
        assert (state["review"]["signed"] is None) == state["review"]["editable"]
        assert len(state["review"]["log"]) == len(case.log)
        assert state["review"]["log_ok"]
        chosen = [x for x in state["findings"]["lesions"] if x["selected"]]
        assert [x["number"] for x in chosen] == [n for n in [case.selection.lesion] if n is not None]
        for one in chosen:
            assert one["category"] == state["rationale"]["category"] == steps(state)["category"]["answer"]
            assert one["flags"] == state["rationale"]["flags"]


# -------------------------------------------------------------------------------------------------- sectors and safety


def test_the_sector_map_is_drawn_for_the_page_and_marks_the_selected_region() -> None:
    case = case_of()
    case.select(2)
    svg = shown(case)["sectors"]["svg"]
    marked = [e for e in ElementTree.fromstring(svg).iter() if "selected" in str(e.get("class")).split()]
    assert {e.get("data-lesion") for e in marked} == {"2"}
    assert {e.get("data-sector") for e in marked} == {k for k, _ in case.explanation.lesion(2).measures.sectors}
    assert shown(case_of(gland=False))["sectors"]["svg"] == ""


def test_a_picture_is_drawn_once_for_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of()
    case.select(1, case.explanation.lesion(1).leading_concept)
    drawn: list[str] = []
    real = page.thumbnails.thumbnail
    monkeypatch.setattr(page.thumbnails, "thumbnail", lambda *a: (drawn.append("picture"), real(*a))[1])
    first = shown(case)
    assert shown(case, step="size")["evidence"]["thumbnail"] == first["evidence"]["thumbnail"]
    assert drawn == ["picture"]
    case.override(1, "dce", "+", READER)  # another explanation: nothing of the earlier one is kept
    shown(case)
    assert drawn == ["picture"] * 2


def test_hostile_text_passes_through_as_text_and_never_into_the_drawing() -> None:
    case = opened(options={**SMALL, "name": HOSTILE})
    case.select(1, case.explanation.lesion(1).leading_concept)
    case.override(1, "dce", "+", HOSTILE)
    state = checked(shown(case, reader=HOSTILE, message=HOSTILE))
    assert state["study"]["name"] == HOSTILE
    assert HOSTILE in state["study"]["images"][0]["detail"]
    assert {"text": f"a note on {HOSTILE}", "level": "note"} in state["study"]["quality"]
    assert state["review"]["reader"] == HOSTILE
    assert state["review"]["log"][-1]["reader"] == HOSTILE
    assert steps(state)["dce"]["asserted"] == f"reader {HOSTILE}"
    svg = state["sectors"]["svg"]
    names = {e.tag.rpartition("}")[2] for e in ElementTree.fromstring(svg).iter()}
    assert names <= {"svg", "title", "desc", "defs", "pattern", "rect", "line", "g", "path", "circle", "text"}
    attributes = {a for e in ElementTree.fromstring(svg).iter() for a in e.attrib}
    assert not [a for a in attributes if a.startswith("on") or a in ("style", "href")]
    assert "alert" not in svg
    assert "Müller" not in svg
