"""The rationale: computed by rule, open to a reader, and the same after a round trip."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MedRationaleLogic.pirads import rules
from MedRationaleLogic.pirads.lexicon import load
from MedRationaleLogic.pirads.rationale import Answer, Findings, Rationale, build, zone_of_origin

PZ_ATTRIBUTES = {
    "t2.pattern": {"focal": 0.85, "diffuse": 0.1, "normal": 0.05},
    "t2.signal": {"moderate_hypo": 0.9, "mild_hypo": 0.1},
    "t2.texture": {"homogeneous": 0.9, "heterogeneous": 0.1},
    "t2.margin": {"circumscribed": 0.8, "indistinct": 0.2},
    "t2.shape": {"round": 1.0},
    "t2.capsule": {"none": 1.0},
    "adc.signal": {"marked": 0.8, "altered": 0.2},
    "adc.pattern": {"focal": 0.9, "diffuse": 0.1},
    "hbv.signal": {"altered": 0.8, "marked": 0.2},
    "hbv.pattern": {"focal": 0.9, "diffuse": 0.1},
}


def findings(**changes: Any) -> Findings:
    base: dict[str, Any] = {
        "zone_shares": {"PZ": 0.9, "TZ": 0.1},
        "attributes": PZ_ATTRIBUTES,
        "size_mm": 11.2,
        "size_source": "axial ADC, slice 9",
        "suspicion": 0.7,
    }
    return Findings(**{**base, **changes})


def test_steps_stand_in_order_of_dependence_and_cite_their_rule() -> None:
    rationale = build(findings())
    t2 = [f"t2.{name}" for name in ("pattern", "signal", "texture", "margin", "shape", "capsule")]
    diffusion = ["adc.signal", "adc.pattern", "hbv.signal", "hbv.pattern"]
    expected = ["zone", "size", "epe", *t2, "t2w.score", *diffusion, "dwi.score", "dce", "category"]
    assert [step.id for step in rationale.steps] == expected
    assert all(step.rule for step in rationale.steps)
    by = {step.id: step.asserted_by for step in rationale.steps}
    assert (by["zone"], by["size"], by["t2.margin"], by["t2w.score"]) == ("measured", "measured", "model", "rule")
    order = {step_id: n for n, step_id in enumerate(expected)}
    for step in rationale.steps:
        assert all(order[source] < order[step.id] for source in step.based_on)


def test_scores_category_and_evidence() -> None:
    rationale = build(findings())
    assert (rationale.zone, rationale.t2w, rationale.dwi, rationale.dce, rationale.category) == ("PZ", 4, 3, "X", 3)
    assert (rationale.flags, rationale.uncertain, rationale.protocol) == ((), False, "bpMRI")
    margin = rationale.step("t2.margin")
    assert (margin.answer, margin.probability, margin.evidence) == ("circumscribed", 0.8, "t2.circ")
    assert margin.alternatives == (("indistinct", 0.2),)
    assert "score 4 or 5" in margin.rule
    assert rationale.step("adc.signal").evidence == "adc.marked"
    assert rationale.step("t2w.score").sequence == "t2w"
    assert rationale.step("category").based_on == ("zone", "dwi.score", "dce")


def test_evidence_and_meaning_follow_the_zone() -> None:
    rationale = build(findings(zone_shares={"TZ": 1.0}))
    assert rationale.zone == "TZ"
    assert rationale.step("t2.margin").rule == "PI-RADS v2.1 term, transition zone: circumscribed, speaks for score 2"
    normal = {**PZ_ATTRIBUTES, "t2.pattern": {"normal": 1.0}}
    assert build(findings(attributes=normal)).step("t2.pattern").evidence == "t2.normal_pz"
    tz = build(findings(attributes=normal, zone_shares={"TZ": 1.0}))
    assert (tz.step("t2.pattern").evidence, tz.t2w) == ("t2.normal_tz", 1)


def test_readings_may_differ_by_zone() -> None:
    given_findings = findings(
        zone_shares={"PZ": 0.5, "TZ": 0.5}, zone_attributes={"TZ": {"t2.pattern": {"nodule": 1.0}}}
    )
    rationale = build(given_findings)
    assert rationale.other is not None
    assert (rationale.step("t2.pattern").answer, rationale.other.step("t2.pattern").answer) == ("focal", "nodule")
    assert rationale.override("zone", "TZ", "R").step("t2.pattern").original == "focal"


@pytest.mark.parametrize(
    ("shares", "zone", "uncertain"),
    [
        ({"PZ": 1.0}, "PZ", False),
        ({"PZ": 0.76, "TZ": 0.24}, "PZ", False),
        ({"PZ": 0.75, "TZ": 0.25}, "PZ", True),
        ({"PZ": 0.25, "TZ": 0.75}, "TZ", True),
        ({"PZ": 0.2, "TZ": 0.8}, "TZ", False),
        ({"PZ": 0.3, "TZ": 0.2, "outside": 0.5}, "PZ", True),
        ({"PZ": 0.3, "CZ": 0.7}, "PZ", True),
        ({"TZ": 0.9, "AFS": 0.1}, "TZ", False),
        ({"TZ": 0.3, "AFS": 0.6}, "TZ", True),
        ({"outside": 1.0}, "PZ", True),
        ({}, "PZ", True),
    ],
)
def test_zone_of_origin(shares: dict[str, float], zone: str, uncertain: bool) -> None:
    assert zone_of_origin(shares) == (zone, uncertain)
    assert build(findings(zone_shares=shares)).zone_uncertain == uncertain


def test_an_uncertain_zone_shows_both_paths_until_a_reader_chooses() -> None:
    rationale = build(findings(zone_shares={"PZ": 0.6, "TZ": 0.4}))
    assert rationale.other is not None
    assert (rationale.zone, rationale.other.zone) == ("PZ", "TZ")
    # Round, homogeneous, circumscribed, moderately dark, no capsule, not a nodule: "others" in the TZ.
    assert (rationale.category, rationale.other.category, rationale.other.t2w) == (3, 3, 3)
    assert "zone uncertain" in rationale.flags
    assert rationale.step("zone").uncertain
    assert "Zone uncertain" in rationale.explain()
    chosen = rationale.override("zone", "TZ", "Dr Reader")
    assert (chosen.zone, chosen.other, chosen.zone_uncertain) == ("TZ", None, False)
    zone = chosen.step("zone")
    assert (zone.answer, zone.original, zone.asserted_by, zone.reader) == ("TZ", "PZ", "reader", "Dr Reader")
    assert chosen.reset("zone") == rationale


def test_a_category_that_depends_on_the_zone_is_uncertain() -> None:
    dark = {**PZ_ATTRIBUTES, "hbv.signal": {"marked": 0.9, "altered": 0.1}}
    rationale = build(findings(attributes=dark, zone_shares={"PZ": 0.6, "TZ": 0.4}))
    assert rationale.other is not None
    assert (rationale.category, rationale.other.category) == (4, 3)
    assert rationale.category_reachable == {3, 4}
    assert rationale.uncertain
    assert rationale.step("category").uncertain
    assert "transition zone: category 3" in rationale.step("category").detail


def test_override_of_a_finding_recomputes_below_and_keeps_the_original() -> None:
    before = build(findings())
    after = before.override("hbv.signal", "marked", "Dr Reader")
    step = after.step("hbv.signal")
    assert (step.answer, step.original, step.asserted_by, step.probability) == ("marked", "altered", "reader", None)
    assert ("altered", 0.8) in step.alternatives
    assert step.evidence == "hbv.marked"
    assert (after.dwi, after.category) == (4, 4)
    assert (after.step("dwi.score").original, after.step("category").original) == (3, 3)
    assert not after.step("dwi.score").overridden
    assert (after.t2w, after.step("t2w.score").original) == (4, None)
    again = after.override("hbv.signal", "normal", "Dr Other")
    assert (again.step("hbv.signal").original, again.step("hbv.signal").reader) == ("altered", "Dr Other")
    assert len(again.overrides) == 1
    assert again.reset("hbv.signal") == before == again.original()


def test_a_readers_score_stands_in_place_of_the_rule_and_says_so() -> None:
    after = build(findings()).override("dwi.score", 5, "Dr Reader")
    step = after.step("dwi.score")
    assert (after.dwi, after.category, step.original) == (5, 5, 3)
    assert step.rule.startswith("reader's judgement in place of the rule (PI-RADS v2.1, DWI, score 3")
    assert "at least 15 mm" in step.detail
    assert after.dwi_reachable == {5}
    inadequate = build(findings()).override("dwi.score", "X", "Dr Reader")
    assert (inadequate.dwi, inadequate.category) == ("X", "X")
    assert "DWI score X" in inadequate.flags
    large = build(findings(size_mm=20.0)).override("t2w.score", 4, "Dr Reader")
    assert "score 4 is for less than 15 mm" in large.step("t2w.score").detail


def test_dce_and_epe_enter_by_the_reader_only() -> None:
    rationale = build(findings())
    assert (rationale.step("dce").answer, rationale.step("epe").answer) == ("X", "not asserted")
    with_dce = rationale.override("dce", "+", "Dr Reader")
    assert (with_dce.category, with_dce.protocol, with_dce.step("dce").asserted_by) == (4, "mpMRI", "reader")
    assert rationale.override("dce", "-", "Dr Reader").category == 3
    assert rationale.override("epe", "suspected", "Dr Reader").t2w == 4
    definite = rationale.override("epe", "definite", "Dr Reader")
    assert (definite.t2w, definite.dwi, definite.epe_definite) == (5, 3, True)


def test_size_is_kept_to_one_decimal_and_near_the_threshold_both_scores_are_within_reach() -> None:
    rationale = build(findings(size_mm=14.96))
    assert (rationale.size_mm, rationale.t2w) == (15.0, 5)
    assert rationale.t2w_reachable == {4, 5}
    assert "size near the 15 mm threshold (14-16 mm)" in rationale.flags
    measured = rationale.override("size", 14.4, "Dr Reader")
    assert (measured.t2w, measured.t2w_reachable, measured.flags) == (4, {4}, ())
    assert (measured.step("size").original, measured.step("t2w.score").original) == (15.0, 5)


def test_contradictory_readings_give_the_set_and_a_flag() -> None:
    rationale = build(findings(attributes={**PZ_ATTRIBUTES, "hbv.signal": {"altered": 0.5, "marked": 0.45}}))
    assert rationale.step("hbv.signal").uncertain
    assert (rationale.dwi, rationale.dwi_reachable, rationale.category_reachable) == (3, {3, 4}, {3, 4})
    assert rationale.step("dwi.score").alternatives == ((4, None),)
    assert rationale.step("category").uncertain
    assert "DWI score uncertain" in rationale.flags
    assert "uncertain against markedly hyperintense (0.45)" in rationale.explain()
    settled = rationale.override("hbv.signal", "altered", "Dr Reader")
    assert not settled.uncertain
    strict = build(replace(rationale.findings, plausible_ratio=0.95))
    assert not strict.uncertain


@pytest.mark.parametrize(
    ("available", "t2w", "dwi", "category"),
    [
        ({"t2w", "adc", "hbv"}, 4, 3, 3),
        ({"t2w", "adc"}, 4, "X", "X"),
        ({"t2w", "hbv"}, 4, "X", "X"),
        ({"t2w"}, 4, "X", "X"),
        ({"adc", "hbv"}, "X", 3, "X"),
        (set(), "X", "X", "X"),
    ],
)
def test_an_absent_sequence_has_score_x(available: set[str], t2w: Any, dwi: Any, category: Any) -> None:
    rationale = build(findings(available=frozenset(available)))
    assert (rationale.t2w, rationale.dwi, rationale.category) == (t2w, dwi, category)
    prefixes = {"t2w": "t2.", "adc": "adc.", "hbv": "hbv."}
    shown = {s for s, prefix in prefixes.items() if any(step.id.startswith(prefix) for step in rationale.steps)}
    assert shown == available
    if "adc" not in available:
        assert "ADC" in rationale.step("dwi.score").rule
        with pytest.raises(ValueError, match="the score stays X"):
            rationale.override("dwi.score", 4, "Dr Reader")
        with pytest.raises(ValueError, match="ADC is not available"):
            rationale.override("adc.signal", "marked", "Dr Reader")
    if dwi == "X" and t2w == 4:
        assert rationale.override("dce", "-", "Dr Reader").category == 4


def test_what_was_not_read_is_unknown() -> None:
    attributes = {key: value for key, value in PZ_ATTRIBUTES.items() if key != "hbv.signal"}
    attributes["t2.margin"] = {"circumscribed": 0.0}
    rationale = build(findings(attributes=attributes))
    for step_id in ("hbv.signal", "t2.margin"):
        step = rationale.step(step_id)
        assert (step.answer, step.probability, step.evidence, step.uncertain) == ("unknown", None, None, True)
    assert rationale.dwi_reachable == {3, 4}
    assert rationale.override("hbv.signal", "marked", "Dr Reader").dwi == 4
    nothing = {key: value for key, value in PZ_ATTRIBUTES.items() if key.startswith("t2.")}
    with pytest.raises(ValueError, match="without ADC"):
        build(findings(attributes=nothing))


@pytest.mark.parametrize(
    ("step_id", "answer", "reader", "message"),
    [
        ("category", 4, "R", "the category is computed"),
        ("t2.colour", "red", "R", "no step"),
        ("t2.margin", "fuzzy", "R", "must be one of circumscribed"),
        ("zone", "AFS", "R", "must be one of PZ, TZ"),
        ("dce", "positive", "R", r"must be one of \+, -, X"),
        ("epe", True, "R", "must be one of absent"),
        ("t2w.score", 0, "R", "whole number 1 to 5"),
        ("t2w.score", True, "R", "whole number 1 to 5"),
        ("dwi.score", "4", "R", "whole number 1 to 5"),
        ("size", "14", "R", "millimetres"),
        ("size", -1.0, "R", "millimetres"),
        ("size", float("nan"), "R", "millimetres"),
        ("zone", "TZ", "  ", "reader's name"),
    ],
)
def test_overrides_that_are_refused(step_id: str, answer: Answer, reader: str, message: str) -> None:
    rationale = build(findings())
    with pytest.raises(ValueError, match=message):
        rationale.override(step_id, answer, reader)


def test_reset() -> None:
    rationale = build(findings())
    assert rationale.reset("t2.margin") is rationale
    with pytest.raises(ValueError, match="no step 'margin'"):
        rationale.reset("margin")
    with pytest.raises(KeyError, match="no step 'margin'"):
        rationale.step("margin")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zone_shares": {"XX": 1.0}}, "unknown zone 'XX'"),
        ({"zone_shares": {"PZ": 1.5}}, "share of PZ"),
        ({"zone_shares": {"PZ": 0.8, "TZ": 0.8}}, "more than 1"),
        ({"size_mm": float("inf")}, "size must be"),
        ({"size_mm": None}, "size must be"),
        ({"available": frozenset({"t1"})}, "available sequences"),
        ({"suspicion": 2.0}, "suspicion"),
        ({"attributes": {"t2.margin": {"fuzzy": 1.0}}}, "no value 'fuzzy'"),
        ({"attributes": {"t2.colour": {"red": 1.0}}}, "no attribute"),
        ({"attributes": {"t2.margin": {"circumscribed": 1.5}}}, "0 to 1"),
        ({"zone_attributes": {"CZ": {}}}, "zone_attributes"),
    ],
)
def test_findings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        findings(**changes)


def test_explanation_reads_as_sentences() -> None:
    after = build(findings()).override("t2.margin", "indistinct", "Dr Reader").override("dce", "+", "Dr Second")
    lines = after.explain().splitlines()
    assert lines[0] == "The suspicious region lies in the peripheral zone (share of volume: PZ 90%, TZ 10%)."
    assert lines[1] == "Its greatest dimension is 11.2 mm (axial ADC, slice 9)."
    assert "margin indistinct (reader Dr Reader; before: circumscribed)" in after.explain()
    assert "T2W score 3 (before a reader's changes: 4)" in after.explain()
    assert "DCE: + (reader Dr Second; before: X)." in lines
    assert "cancer" not in after.explain()
    assert lines[-1].startswith("Research use only")


def test_from_dict_refuses_what_it_does_not_know() -> None:
    data = build(findings()).to_dict()
    with pytest.raises(ValueError, match="schema is 'other'"):
        Rationale.from_dict({**data, "schema": "other"})
    with pytest.raises(ValueError, match="'overrides' is missing"):
        Rationale.from_dict({key: value for key, value in data.items() if key != "overrides"})
    with pytest.raises(ValueError, match="malformed"):
        Rationale.from_dict({**data, "path": 3})


def test_a_stored_rationale_is_a_record_and_can_still_be_overridden() -> None:
    rationale = build(findings()).override("dce", "+", "Dr Reader")
    data = json.loads(json.dumps(rationale.to_dict()))
    data["path"]["category"] = 5  # as a former version of the rules might have had it
    stored = Rationale.from_dict(data)
    assert stored.category == 5
    assert stored.override("dce", "-", "Dr Reader").category == 3


# -------------------------------------------------------------------------------------------------------- properties

READER = "Dr Reader"


@st.composite
def any_findings(draw: st.DrawFn) -> Findings:
    share = draw(st.floats(0, 1))
    probability = st.floats(0, 1)
    attributes = {a.id: {v: draw(probability) for v in a.value_ids} for a in load().attributes}
    for attribute_id in ("t2.pattern", "adc.pattern", "hbv.pattern"):
        attributes[attribute_id][draw(st.sampled_from(load().attribute(attribute_id).value_ids))] = 1.0
    return Findings(
        zone_shares={"PZ": share, "TZ": 1 - share},
        attributes=attributes,
        size_mm=draw(st.floats(0, 60)),
        available=draw(st.frozensets(st.sampled_from(["t2w", "adc", "hbv"]))),
        suspicion=draw(st.none() | st.floats(0, 1)),
    )


def allowed_answers(given_findings: Findings) -> dict[str, st.SearchStrategy[Answer]]:
    answers: dict[str, st.SearchStrategy[Answer]] = {
        "zone": st.sampled_from(["PZ", "TZ"]),
        "size": st.floats(0, 60),
        "epe": st.sampled_from(["absent", "suspected", "definite"]),
        "dce": st.sampled_from(["+", "-", "X"]),
    }
    for attribute in load().attributes:
        if attribute.sequence in given_findings.available:
            answers[attribute.id] = st.sampled_from(attribute.value_ids)
    for step_id, needed in (("t2w.score", {"t2w"}), ("dwi.score", {"adc", "hbv"})):
        if needed <= given_findings.available:
            answers[step_id] = st.sampled_from([1, 2, 3, 4, 5, "X"])
    return answers


@st.composite
def overridden(draw: st.DrawFn, least: int = 0) -> Rationale:
    rationale = build(draw(any_findings()))
    answers = allowed_answers(rationale.findings)
    for step_id in draw(st.lists(st.sampled_from(sorted(answers)), min_size=least, max_size=3, unique=True)):
        rationale = rationale.override(step_id, draw(answers[step_id]), READER)
    return rationale


@settings(deadline=None)
@given(overridden())
def test_round_trip_through_json_changes_nothing(rationale: Rationale) -> None:
    text = json.dumps(rationale.to_dict(), allow_nan=False)
    back = Rationale.from_dict(json.loads(text))
    assert back == rationale
    assert json.dumps(back.to_dict()) == text
    assert back.explain() == rationale.explain()


@settings(deadline=None)
@given(overridden(), st.data())
def test_an_override_leaves_the_steps_above_and_reset_takes_it_back(before: Rationale, data: st.DataObject) -> None:
    answers = allowed_answers(before.findings)
    fresh = sorted(set(answers) - {o.step for o in before.overrides})
    step_id = data.draw(st.sampled_from(fresh))
    after = before.override(step_id, data.draw(answers[step_id]), READER)
    ids = [step.id for step in before.steps]
    assert [step.id for step in after.steps] == ids
    above = ids.index(step_id)
    assert after.steps[:above] == before.steps[:above]
    assert after.step(step_id).asserted_by == "reader"
    assert after.step(step_id).original == build(before.findings).step(step_id).answer
    assert after.reset(step_id) == before


@settings(deadline=None)
@given(overridden(least=1))
def test_resetting_everything_gives_the_original(rationale: Rationale) -> None:
    original = build(rationale.findings)
    assert rationale.original() == original
    for override in rationale.overrides:
        rationale = rationale.reset(override.step)
    assert rationale == original


@settings(deadline=None)
@given(overridden())
def test_the_category_is_the_rule_of_its_scores(rationale: Rationale) -> None:
    for path in (rationale.path, rationale.other):
        if path is None:
            continue
        assert path.category == rules.overall(path.zone, path.t2w, path.dwi, path.dce) == path.step("category").answer
        assert path.t2w in path.t2w_reachable
        assert path.dwi in path.dwi_reachable
        assert path.category in path.category_reachable
        said = {o.step for o in rationale.overrides}
        assert path.dce == "X" or "dce" in said
        if path.t2w == 5 and "t2w.score" not in said:
            assert rationale.size_mm >= 15 or rationale.epe_definite
        if "t2w" not in rationale.findings.available:
            assert path.t2w == "X"
        if not {"adc", "hbv"} <= rationale.findings.available:
            assert path.dwi == "X"


# ------------------------------------------------------------------------------------------------- for the faces


@pytest.mark.parametrize("zone", ["PZ", "TZ"])
def test_branches_hold_every_step_once_dominant_sequence_first(zone: str) -> None:
    shares = {"PZ": 0.95, "TZ": 0.05} if zone == "PZ" else {"PZ": 0.05, "TZ": 0.95}
    path = build(findings(zone_shares=shares)).path
    walked = [step.id for top, below in path.branches() for step in (top, *below)]
    assert sorted([*walked, "category"]) == sorted(step.id for step in path.steps)
    scores = [top.id for top, _ in path.branches() if top.id.endswith("score")]
    assert scores == (["dwi.score", "t2w.score"] if zone == "PZ" else ["t2w.score", "dwi.score"])
    below_dwi = {s.id for top, below in path.branches() if top.id == "dwi.score" for s in below}
    assert below_dwi == {"adc.signal", "adc.pattern", "hbv.signal", "hbv.pattern"}


def test_every_answer_offered_is_taken_and_nothing_else() -> None:
    rationale = build(findings())
    for step in rationale.steps:
        for answer in rationale.answers(step.id):
            assert rationale.override(step.id, answer, "Dr A").step(step.id).answer == answer
    assert rationale.answers("category") == () == rationale.answers("size")
    assert rationale.answers("dce") == ("+", "-", "X")
    without_t2w = build(findings(available=frozenset({"adc", "hbv"})))
    assert without_t2w.answers("t2w.score") == ()
    with pytest.raises(ValueError, match=r"no step 't2.texture'"):
        without_t2w.answers("t2.texture")
