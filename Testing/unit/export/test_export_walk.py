"""How a reader walks through a case, and the words that both faces use for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from MedRationaleLogic.case import AuditEntry, SignOff
from MedRationaleLogic.export import walk, words
from MedRationaleLogic.imaging.quality import QualityFlag
from Testing.explanation_factory import MIXED, PZ_LEFT, TZ_RIGHT, make_explanation

SMALL = (10, 60, 64)


@pytest.fixture(scope="module")
def explanation():
    return make_explanation(lesions=(PZ_LEFT, TZ_RIGHT, MIXED), shape=SMALL)


# ---------------------------------------------------------------------------------------------------------- the walk


def test_a_regions_concepts_are_its_answers_with_a_map(explanation) -> None:
    for lesion in explanation.lesions:
        offers = walk.concepts(explanation, lesion.number)
        with_map = [s.evidence for s in lesion.rationale.steps if s.evidence is not None]
        assert [o.concept for o in offers] == list(dict.fromkeys(with_map))
        assert all(o.named.startswith(words.CONCEPT_GROUPS[o.sequence]) for o in offers)
    first = walk.concepts(explanation, 1)[0]
    assert (first.concept, first.sequence, first.named) == ("t2.focal", "t2w", "T2W pattern: focal")


def test_without_a_region_every_map_of_the_study_is_there(explanation) -> None:
    offers = walk.concepts(explanation)
    assert [o.concept for o in offers] == list(explanation.evidence)
    assert all(o.text == words.concept_phrase(o.concept) for o in offers)
    assert [o.sequence for o in offers] == sorted((o.sequence for o in offers), key=["t2w", "adc", "hbv"].index)
    with pytest.raises(KeyError, match="no lesion 9"):
        walk.concepts(explanation, 9)


def test_the_walk_goes_round() -> None:
    assert [walk.following([1, 2, 5], now, 1) for now in (None, 1, 2, 5, 9)] == [1, 2, 5, 1, 1]
    assert [walk.following([1, 2, 5], now, -1) for now in (None, 1, 2, 5, 9)] == [5, 5, 1, 2, 5]
    assert walk.following([7], 7, 1) == 7
    assert walk.following([1, 2, 5], 1, 7) == 2
    assert walk.following([], None, 1) is None


def test_the_shown_step_is_the_chosen_one_while_its_map_is_shown(explanation) -> None:
    rationale = explanation.lesion(1).rationale
    maps = {s.id: s.evidence for s in rationale.steps}
    assert walk.step_shown(rationale, "adc.signal", maps["adc.signal"]) == "adc.signal"
    assert walk.step_shown(rationale, "size", maps["adc.signal"]) == "size"
    assert walk.step_shown(rationale, "t2.shape", maps["adc.signal"]) == "adc.signal"
    assert walk.step_shown(rationale, None, maps["adc.signal"]) == "adc.signal"
    assert walk.step_shown(rationale, "gone", None) is None
    assert walk.step_shown(rationale, "t2.shape", None) is None


# --------------------------------------------------------------------------------------------------------- the words


def test_the_quality_is_told_as_it_is(explanation) -> None:
    short = QualityFlag("DWI", "slice thickness", "below minimum", "5.00 mm", "<= 4 mm")
    unknown = QualityFlag("T2W", "echo time", "unknown", "", "<= 200 ms")
    met = QualityFlag("T2W", "field of view", "met", "200 mm", "120-200 mm")
    good = replace(explanation, quality=(met,), flags=())
    assert words.quality_words(good) == [(words.NONE_BELOW, "ok")]
    bad = replace(explanation, quality=(met, short, unknown), flags=("no gland was found",))
    assert words.quality_words(bad) == [
        ("no gland was found", "warn"),
        ("DWI, slice thickness: 5.00 mm (PI-RADS minimum: <= 4 mm)", "warn"),
        ("1 requirement cannot be checked: the headers do not say.", "note"),
    ]


def test_nothing_outlined_excludes_nothing() -> None:
    nothing = make_explanation(lesions=(), shape=SMALL, psa=None)
    assert words.summary_words(nothing)[0] == "No suspicious region was outlined. That excludes nothing."
    assert words.summary_words(nothing)[1].startswith("Gland ")
    assert words.summary_words(replace(nothing, gland=None)) == [words.NO_REGION]


def test_the_other_zone_and_the_suspicion_stand_above_the_rationale(explanation) -> None:
    mixed = explanation.lesion(3)
    assert mixed.rationale.other is not None
    lines = words.rationale_words(mixed)
    assert lines[0] == f"By the tables of the {mixed.rationale.other.zone}: PI-RADS {mixed.rationale.other.category}"
    assert lines[1].startswith("Suspicion 0.61; ")
    assert words.rationale_words(replace(explanation.lesion(1), suspicion=None)) == []


def test_evidence_is_told_only_where_there_is_a_map(explanation) -> None:
    lesion = explanation.lesion(1)
    said = words.evidence_words(explanation, lesion, "adc.focal")
    assert said.startswith("probability 93%; strongest evidence 0.93, slice ")
    assert words.evidence_words(explanation, None, "adc.focal") == ""
    assert words.evidence_words(explanation, replace(lesion, readings=()), "adc.focal") == ""


def test_a_step_is_named_by_its_sequence_where_two_have_the_same_name(explanation) -> None:
    path = explanation.lesion(1).rationale.path
    names = [words.step_name(step) for step in path.steps]
    assert len(set(names)) == len(names)
    assert {"ADC signal", "high-b DWI signal", "signal", "DWI score"} <= set(names)


def entry(action: str, lesion: int | None = None, detail: str = "", before=None, after=None, reader=None) -> AuditEntry:
    return AuditEntry(1, "2026-01-31T10:20:33.123+00:00", reader, action, lesion, before or {}, after or {}, detail, "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (entry("open"), "study opened"),
        (entry("override", 1, "t2.shape = lenticular", after={"regions": {"1": {"answers": {
            "t2.shape": {"answer": "lenticular", "reader": "A"}}}}}), "region 1: T2W shape answered lenticular"),
        (entry("override", 2, "size = 15.2", after={"regions": {"2": {"answers": {
            "size": {"answer": 15.2, "reader": "A"}}}}}), "region 2: size answered 15.2 mm"),
        (entry("override", 2, "dce = +"), "region 2: DCE answered +"),
        (entry("override", 2, "old.step = gone", after={"regions": {"2": {"answers": {
            "old.step": {"answer": "gone", "reader": "A"}}}}}), "region 2: old.step answered gone"),
        (entry("reset_step", 1, "zone"), "region 1: zone, answer taken back"),
        (entry("delete", 3, before={"category": 4}, after={"category": 2}),
         "region 3: deleted; patient's category 4 -> 2"),
        (entry("undo", None, "merge"), "undone: merged"),
        (entry("redo", None, "set_psa"), "done again: PSA entered"),
        (entry("shift", None, "hbv by (+0.0, -2.0, +0.0) mm LPS"),
         "sequence moved: high-b by (+0.0, -2.0, +0.0) mm LPS"),
        (entry("set_psa", None, "", {"psa_ng_ml": None}, {"psa_ng_ml": 7.25}), "PSA: 7.25 ng/mL"),
        (entry("sign_off", None, "", {}, {"reader": "A"}), "signed off"),
        (entry("reopen", None, "second look"), "reopened: second look"),
        (entry("explain", None, "", {}, {"category": "X"}), "explained"),
    ],
)  # fmt: skip
def test_an_entry_of_the_log_is_told_in_words(given, said) -> None:
    assert words.audit_words(given) == said


def test_who_and_when() -> None:
    assert words.audit_reader(entry("explain")) == "model"
    assert words.audit_reader(entry("undo")) == "-"
    assert words.audit_reader(entry("delete", 1, reader="Dr A")) == "Dr A"
    signature = SignOff("Dr A", "2026-01-31T10:20:33.123+00:00", "0" * 64)
    assert words.signed_words(signature) == "Signed off by Dr A, 2026-01-31 10:20 UTC"
