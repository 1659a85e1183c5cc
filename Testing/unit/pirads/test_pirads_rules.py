"""Scores and categories against a transcription of the standard's tables that shares no code with the rules."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MedRationaleLogic.pirads import rules
from MedRationaleLogic.pirads.lexicon import load
from MedRationaleLogic.pirads.rules import LesionSummary, Score

NUMBERS = (1, 2, 3, 4, 5)
SCORES: tuple[Score, ...] = (*NUMBERS, "X")
ALL = SCORES
ANY_DCE = ("+", "-", "X")

# One row per line of the tables: zone, T2W, DWI, DCE, category.
TABLE: list[tuple[str, tuple[Score, ...], tuple[Score, ...], tuple[str, ...], Score]] = [
    # peripheral zone, T2W and DWI there
    ("PZ", NUMBERS, (1,), ANY_DCE, 1),
    ("PZ", NUMBERS, (2,), ANY_DCE, 2),
    ("PZ", NUMBERS, (3,), ("-", "X"), 3),
    ("PZ", NUMBERS, (3,), ("+",), 4),
    ("PZ", NUMBERS, (4,), ANY_DCE, 4),
    ("PZ", NUMBERS, (5,), ANY_DCE, 5),
    # transition zone, T2W and DWI there
    ("TZ", (1,), NUMBERS, ANY_DCE, 1),
    ("TZ", (2,), (1, 2, 3), ANY_DCE, 2),
    ("TZ", (2,), (4, 5), ANY_DCE, 3),
    ("TZ", (3,), (1, 2, 3, 4), ANY_DCE, 3),
    ("TZ", (3,), (5,), ANY_DCE, 4),
    ("TZ", (4,), NUMBERS, ANY_DCE, 4),
    ("TZ", (5,), NUMBERS, ANY_DCE, 5),
    # no DWI, adequate DCE: T2W decides
    ("PZ", (1,), ("X",), ("+", "-"), 1),
    ("PZ", (2,), ("X",), ("+", "-"), 2),
    ("PZ", (3,), ("X",), ("-",), 3),
    ("PZ", (3,), ("X",), ("+",), 4),
    ("PZ", (4,), ("X",), ("+", "-"), 4),
    ("PZ", (5,), ("X",), ("+", "-"), 5),
    ("TZ", (1,), ("X",), ("+", "-"), 1),
    ("TZ", (2,), ("X",), ("+", "-"), 2),
    ("TZ", (3,), ("X",), ("+", "-"), 3),
    ("TZ", (4,), ("X",), ("+", "-"), 4),
    ("TZ", (5,), ("X",), ("+", "-"), 5),
    # neither DWI nor DCE: staging only
    ("PZ", NUMBERS, ("X",), ("X",), "X"),
    ("TZ", NUMBERS, ("X",), ("X",), "X"),
    # no T2W
    ("PZ", ("X",), ALL, ANY_DCE, "X"),
    ("TZ", ("X",), ALL, ANY_DCE, "X"),
]
INPUTS = list(product(("PZ", "TZ"), SCORES, SCORES, ANY_DCE))


def test_all_216_category_inputs() -> None:
    assert len(INPUTS) == 216
    for zone, t2w, dwi, dce in INPUTS:
        rows = [row for row in TABLE if zone == row[0] and t2w in row[1] and dwi in row[2] and dce in row[3]]
        assert len(rows) == 1, (zone, t2w, dwi, dce)
        assert rules.overall(zone, t2w, dwi, dce) == rows[0][4], (zone, t2w, dwi, dce)


@pytest.mark.parametrize(
    "row",
    [
        "PZ 5 2 + 2",
        "PZ 1 3 + 4",
        "PZ 1 3 - 3",
        "PZ 4 3 X 3",
        "PZ 3 X + 4",
        "PZ 3 X X X",
        "TZ 1 5 + 1",
        "TZ 2 3 - 2",
        "TZ 2 4 - 3",
        "TZ 2 5 + 3",
        "TZ 3 4 + 3",
        "TZ 3 5 X 4",
        "TZ 4 1 - 4",
        "TZ 5 1 X 5",
        "TZ 2 X - 2",
        "TZ X 5 + X",
        "PZ X 3 + X",
    ],
)
def test_category_rows(row: str) -> None:
    def score(text: str) -> Score:
        return "X" if text == "X" else int(text)

    zone, t2w, dwi, dce, category = row.split()
    assert rules.overall(zone, score(t2w), score(dwi), dce) == score(category)  # type: ignore[arg-type]


def test_dce_is_x_by_default_and_raises_at_most_one_step() -> None:
    assert rules.overall("PZ", 3, 3) == 3
    for zone, t2w, dwi in product(("PZ", "TZ"), NUMBERS, NUMBERS):
        main = dwi if zone == "PZ" else t2w
        for dce in ANY_DCE:
            category = rules.overall(zone, t2w, dwi, dce)  # type: ignore[arg-type]
            assert category in (main, main + 1)
            assert category == main or main in (2, 3)


def test_each_category_cites_its_rule() -> None:
    rows_by_rule: dict[str, set[Score]] = {}
    for given_input in INPUTS:
        matched = rules.overall_rule(*given_input)  # type: ignore[arg-type]
        rows_by_rule.setdefault(matched.rule_id, set()).add(matched.score)
    assert rows_by_rule == {
        "CAT-PZ-DWI": {1, 2, 3, 4, 5},
        "CAT-PZ-DCE": {4},
        "CAT-PZ-T2W": {1, 2, 3, 4, 5},
        "CAT-PZ-T2W-DCE": {4},
        "CAT-PZ-X": {"X"},
        "CAT-TZ-T2W": {1, 2, 3, 4, 5},
        "CAT-TZ-T2W-only": {1, 2, 3, 4, 5},
        "CAT-TZ-2-raised": {3},
        "CAT-TZ-3-raised": {4},
        "CAT-TZ-X": {"X"},
        "CAT-X": {"X"},
    }
    match = rules.overall_rule("TZ", 2, 4)
    assert (match.score, match.rule_id) == (3, "CAT-TZ-2-raised")
    assert "T2W 2 with DWI 4 or 5 gives category 3" in match.text
    assert match.used_attributes == ("zone", "t2w.score", "dwi.score")


@pytest.mark.parametrize(
    ("given_input", "message"),
    [
        (("CZ", 3, 3, "X"), "zone must be"),
        (("PZ", 0, 3, "X"), "t2w must be"),
        (("PZ", 6, 3, "X"), "t2w must be"),
        (("PZ", "3", 3, "X"), "t2w must be"),
        (("PZ", True, 3, "X"), "t2w must be"),
        (("PZ", 3, 3.5, "X"), "dwi must be"),
        (("PZ", 3, None, "X"), "dwi must be"),
        (("PZ", 3, 3, "positive"), "dce must be"),
    ],
)
def test_bad_category_input(given_input: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules.overall(*given_input)


def test_primary_sequence() -> None:
    assert (rules.primary_sequence("PZ"), rules.primary_sequence("TZ")) == ("dwi", "t2w")


# ------------------------------------------------------------------------------------------------ scores by sequence

T2_KEYS = ("pattern", "signal", "texture", "margin", "shape", "capsule")


def t2(*values: str) -> dict[str, str]:
    """Each value under the T2W attribute that has it."""
    return {a.id: value for value in values for a in load().attributes_of("t2w") if value in a.value_ids}


def dwi(adc_signal: str, adc_pattern: str, hbv_signal: str, hbv_pattern: str) -> dict[str, str]:
    return {
        "adc.signal": adc_signal,
        "adc.pattern": adc_pattern,
        "hbv.signal": hbv_signal,
        "hbv.pattern": hbv_pattern,
    }


@pytest.mark.parametrize(
    ("zone", "values", "size", "epe", "score", "rule_id"),
    [
        ("PZ", t2("normal", "hyper", "homogeneous"), 20.0, True, 1, "T2W-PZ-1"),
        ("PZ", t2("linear", "moderate_hypo", "indistinct"), 20.0, True, 2, "T2W-PZ-2-linear"),
        ("PZ", t2("wedge", "mild_hypo", "homogeneous"), 9.0, False, 2, "T2W-PZ-2-wedge"),
        ("PZ", t2("diffuse", "mild_hypo"), 9.0, False, 2, "T2W-PZ-2-diffuse"),
        ("PZ", t2("diffuse", "moderate_hypo", "homogeneous"), 9.0, False, 3, "T2W-PZ-3"),
        ("PZ", t2("focal", "moderate_hypo", "homogeneous", "circumscribed"), 14.9, False, 4, "T2W-PZ-4"),
        ("PZ", t2("focal", "moderate_hypo", "homogeneous", "circumscribed"), 15.0, False, 5, "T2W-PZ-5"),
        ("PZ", t2("focal", "moderate_hypo", "homogeneous", "circumscribed"), 8.0, True, 5, "T2W-PZ-5"),
        ("PZ", t2("focal", "moderate_hypo", "homogeneous", "non_circumscribed", "round"), 30.0, True, 3, "T2W-PZ-3"),
        ("PZ", t2("focal", "moderate_hypo", "heterogeneous", "circumscribed"), 30.0, False, 3, "T2W-PZ-3"),
        ("PZ", t2("focal", "mild_hypo", "homogeneous", "circumscribed"), 10.0, False, 3, "T2W-PZ-3"),
        ("PZ", t2("normal", "hyper", "heterogeneous"), 10.0, False, 3, "T2W-PZ-3"),
        ("TZ", t2("normal", "moderate_hypo", "homogeneous", "lenticular"), 20.0, True, 1, "T2W-TZ-1-normal"),
        ("TZ", t2("nodule", "round", "complete", "heterogeneous"), 25.0, True, 1, "T2W-TZ-1-nodule"),
        ("TZ", t2("nodule", "irregular", "complete"), 25.0, False, 2, "T2W-TZ-2-complete"),
        ("TZ", t2("nodule", "round", "partial"), 25.0, False, 2, "T2W-TZ-2-partial"),
        (
            "TZ",
            t2("nodule", "lenticular", "homogeneous", "moderate_hypo", "partial"),
            9.0,
            False,
            2,
            "T2W-TZ-2-partial",
        ),
        ("TZ", t2("focal", "lenticular", "homogeneous", "moderate_hypo"), 9.0, False, 4, "T2W-TZ-4-lenticular"),
        ("TZ", t2("focal", "lenticular", "homogeneous", "moderate_hypo"), 15.0, False, 5, "T2W-TZ-5-lenticular"),
        (
            "TZ",
            t2("focal", "irregular", "homogeneous", "moderate_hypo", "non_circumscribed"),
            9.0,
            True,
            5,
            "T2W-TZ-5-noncircumscribed",
        ),
        (
            "TZ",
            t2("focal", "homogeneous", "moderate_hypo", "indistinct"),
            9.0,
            False,
            4,
            "T2W-TZ-4-noncircumscribed",
        ),
        ("TZ", t2("focal", "lenticular", "homogeneous", "moderate_hypo", "partial"), 9.0, False, 3, "T2W-TZ-3"),
        ("TZ", t2("nodule", "round", "homogeneous", "circumscribed", "none"), 9.0, False, 2, "T2W-TZ-2-nodule"),
        ("TZ", t2("diffuse", "homogeneous", "mild_hypo", "indistinct"), 9.0, False, 2, "T2W-TZ-2-between"),
        ("TZ", t2("focal", "heterogeneous", "moderate_hypo", "obscured"), 20.0, True, 3, "T2W-TZ-3"),
        ("TZ", t2("nodule", "heterogeneous", "circumscribed", "none"), 20.0, False, 3, "T2W-TZ-3"),
        ("TZ", t2("focal", "heterogeneous", "lenticular", "moderate_hypo"), 20.0, True, 3, "T2W-TZ-3"),
    ],
)
def test_t2w_cases(zone: str, values: dict[str, str], size: float, epe: bool, score: int, rule_id: str) -> None:
    match = rules.t2w_rule(zone, values, size, epe)  # type: ignore[arg-type]
    assert (match.score, match.rule_id) == (score, rule_id)
    assert rules.t2w_score(zone, values, size, epe) == score  # type: ignore[arg-type]
    assert f"score {score}" in match.text


@pytest.mark.parametrize(
    ("values", "size", "epe", "score", "rule_id"),
    [
        (dwi("normal", "none", "normal", "none"), 20.0, True, 1, "DWI-1"),
        (dwi("altered", "linear", "normal", "none"), 20.0, True, 2, "DWI-2-adc"),
        (dwi("normal", "none", "marked", "wedge"), 20.0, False, 2, "DWI-2-hbv"),
        (dwi("marked", "wedge", "marked", "linear"), 20.0, False, 2, "DWI-2-adc"),
        (dwi("marked", "focal", "marked", "focal"), 14.9, False, 4, "DWI-4-adc"),
        (dwi("marked", "focal", "marked", "focal"), 15.0, False, 5, "DWI-5-adc"),
        (dwi("marked", "focal", "marked", "focal"), 7.0, True, 5, "DWI-5-adc"),
        (dwi("marked", "diffuse", "marked", "focal"), 7.0, False, 4, "DWI-4-hbv"),
        (dwi("marked", "focal", "altered", "focal"), 30.0, True, 3, "DWI-3-adc"),
        (dwi("altered", "focal", "marked", "focal"), 30.0, True, 3, "DWI-3-adc"),
        (dwi("altered", "focal", "normal", "none"), 30.0, False, 3, "DWI-3-adc"),
        (dwi("normal", "none", "altered", "focal"), 30.0, False, 3, "DWI-3-hbv"),
        (dwi("altered", "linear", "altered", "focal"), 30.0, False, 3, "DWI-3-hbv"),
        (dwi("altered", "diffuse", "altered", "diffuse"), 30.0, True, 2, "DWI-2-diffuse"),
        (dwi("altered", "diffuse", "altered", "linear"), 30.0, False, 2, "DWI-2-diffuse"),
        (dwi("altered", "none", "normal", "none"), 30.0, False, 2, "DWI-2-diffuse"),
    ],
)
def test_dwi_cases(values: dict[str, str], size: float, epe: bool, score: int, rule_id: str) -> None:
    match = rules.dwi_rule(values, size, epe)
    assert (match.score, match.rule_id) == (score, rule_id)
    assert rules.dwi_score(values, size, epe) == score


def plain_t2w(zone: str, v: Mapping[str, str], size: float, epe: bool) -> int:
    """The feature-to-score procedure written out once more, as plain conditions."""
    big = 5 if size >= 15 or epe else 4
    homogeneous, dark = v["texture"] == "homogeneous", v["signal"] == "moderate_hypo"
    if zone == "PZ":
        if v["signal"] == "hyper" and homogeneous:
            return 1
        if (
            v["pattern"] == "linear"
            or v["pattern"] == "wedge"
            or (v["pattern"], v["signal"]) == ("diffuse", "mild_hypo")
        ):
            return 2
        return big if v["pattern"] == "focal" and v["margin"] == "circumscribed" and homogeneous and dark else 3
    nodule = v["pattern"] == "nodule"
    if v["pattern"] == "normal" or (nodule and v["shape"] == "round" and v["capsule"] == "complete"):
        return 1
    if v["capsule"] == "complete" or (nodule and v["capsule"] == "partial"):
        return 2
    vague = v["margin"] in ("non_circumscribed", "indistinct", "spiculated")
    if (v["shape"] == "lenticular" or vague) and homogeneous and dark and v["capsule"] == "none":
        return big
    if homogeneous and nodule and v["margin"] == "circumscribed":
        return 2
    return 2 if homogeneous and v["signal"] == "mild_hypo" and not nodule else 3


def test_t2w_agrees_with_the_plain_transcription_on_every_combination() -> None:
    ids = [a.value_ids for a in load().attributes_of("t2w")]
    combinations = [dict(zip(T2_KEYS, values, strict=True)) for values in product(*ids)]
    assert len(combinations) == 6 * 4 * 2 * 5 * 4 * 3
    for zone, v in product(("PZ", "TZ"), combinations):
        values = {f"t2.{key}": value for key, value in v.items()}
        for size, epe in ((14.9, False), (15.0, False)):
            assert rules.t2w_score(zone, values, size, epe) == plain_t2w(zone, v, size, epe), (zone, v)  # type: ignore[arg-type]


def plain_dwi(a: str, ap: str, h: str, hp: str, size: float) -> int:
    patterns = {ap, hp}
    if (a, h, patterns) == ("normal", "normal", {"none"}):
        return 1
    if "focal" in patterns:
        return 3 if (a, h) != ("marked", "marked") else 4 if size < 15 else 5
    return 2


def test_dwi_agrees_with_the_plain_transcription_on_every_combination() -> None:
    for a, ap, h, hp in product(
        *(load().attribute(f"{s}.{k}").value_ids for s in ("adc", "hbv") for k in ("signal", "pattern"))
    ):
        for size in (14.9, 15.0):
            assert rules.dwi_score(dwi(a, ap, h, hp), size) == plain_dwi(a, ap, h, hp, size)


@pytest.mark.parametrize(
    ("zone", "size", "category"), [("PZ", 14.9, 4), ("PZ", 15.0, 5), ("TZ", 14.9, 3), ("TZ", 15.0, 4)]
)
def test_the_category_without_dce_is_that_of_both_scores(zone: rules.Zone, size: float, category: int) -> None:
    # heterogeneous with obscured margins: T2W 3 in the TZ; a marked focus: DWI 4, from 15 mm on 5, which raises TZ
    # 3 to 4 and decides in the PZ (PI-RADS v2.1)
    values = t2("focal", "mild_hypo", "heterogeneous", "obscured") | dwi("marked", "focal", "marked", "focal")
    t2w, diffusion = rules.t2w_score(zone, values, size), rules.dwi_score(values, size)
    assert rules.biparametric(zone, values, size) == rules.overall(zone, t2w, diffusion, "X")
    assert rules.biparametric(zone, values, size) == category


def test_missing_attributes_meet_no_requirement() -> None:
    assert rules.t2w_score("PZ", {"t2.pattern": "linear"}, 9.0) == 2
    assert rules.t2w_score("TZ", {"t2.pattern": "focal"}, 9.0) == 3
    assert rules.dwi_score({"adc.pattern": "none", "hbv.pattern": "none"}, 9.0) == 1
    assert rules.dwi_score({"adc.pattern": "focal", "hbv.pattern": "focal"}, 9.0) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rules.t2w_score("AFS", t2("focal"), 9.0), "zone must be"),  # type: ignore[arg-type]
        (lambda: rules.t2w_score("PZ", {}, 9.0), "without T2W the score is 'X'"),
        (lambda: rules.t2w_score("PZ", {"adc.signal": "marked"}, 9.0), "without T2W"),
        (lambda: rules.t2w_score("PZ", {"t2.colour": "red"}, 9.0), "no attribute 't2.colour'"),
        (lambda: rules.t2w_score("PZ", {"t2.shape": "square"}, 9.0), "no value 'square'"),
        (lambda: rules.t2w_score("PZ", t2("focal"), -1.0), "size must be"),
        (lambda: rules.t2w_score("PZ", t2("focal"), float("nan")), "size must be"),
        (lambda: rules.t2w_score("PZ", t2("focal"), "15"), "size must be"),  # type: ignore[arg-type]
        (lambda: rules.dwi_score({"adc.signal": "marked"}, 9.0), "without high-b"),
        (lambda: rules.dwi_score({"hbv.signal": "marked"}, 9.0), "without ADC"),
    ],
)
def test_bad_score_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_near_threshold() -> None:
    assert [rules.near_threshold(s) for s in (13.9, 14.0, 15.0, 16.0, 16.1)] == [False, True, True, True, False]
    focus = t2("focal", "moderate_hypo", "homogeneous", "circumscribed")
    assert rules.t2w_rule("PZ", focus, 14.5).near_threshold
    assert not rules.t2w_rule("PZ", focus, 14.5, epe=True).near_threshold
    assert not rules.t2w_rule("PZ", t2("linear"), 14.5).near_threshold


def attribute_values(*sequences: str) -> st.SearchStrategy[dict[str, str]]:
    return st.fixed_dictionaries(
        {a.id: st.sampled_from(a.value_ids) for a in load().attributes if a.sequence in sequences}
    )


ZONES = st.sampled_from(["PZ", "TZ"])
SIZES = st.floats(0, 60)


@settings(deadline=None)
@given(ZONES, attribute_values("t2w"), SIZES, SIZES, st.booleans())
def test_t2w_properties(zone: Any, values: dict[str, str], one: float, two: float, epe: bool) -> None:
    small, large = sorted((one, two))
    score = rules.t2w_score(zone, values, small, epe)
    assert score in NUMBERS
    assert rules.t2w_score(zone, values, large, epe) >= score
    if score == 5:
        assert small >= 15 or epe
        assert rules.t2w_score(zone, values, 5.0) == 4
    else:
        assert rules.t2w_score(zone, values, small, True) == (5 if score == 4 else score)


@settings(deadline=None)
@given(attribute_values("adc", "hbv"), SIZES, SIZES, st.booleans())
def test_dwi_properties(values: dict[str, str], one: float, two: float, epe: bool) -> None:
    small, large = sorted((one, two))
    score = rules.dwi_score(values, small, epe)
    assert score in NUMBERS
    assert rules.dwi_score(values, large, epe) >= score
    if score >= 4:
        assert values["adc.signal"] == values["hbv.signal"] == "marked"
        assert "focal" in (values["adc.pattern"], values["hbv.pattern"])
    assert (score == 1) == load().concept("dwi.none").holds(values)


# -------------------------------------------------------------------------------------------------- reachable scores

SURE_FOCUS = {
    "t2.pattern": {"focal": 0.9, "diffuse": 0.1},
    "t2.signal": {"moderate_hypo": 0.9, "mild_hypo": 0.1},
    "t2.texture": {"homogeneous": 0.9, "heterogeneous": 0.1},
    "t2.margin": {"circumscribed": 0.9, "indistinct": 0.1},
    "t2.shape": {"round": 0.9, "irregular": 0.1},
    "t2.capsule": {"none": 0.9, "partial": 0.1},
}
SURE_DARK = {
    "adc.signal": {"marked": 0.9, "altered": 0.1},
    "adc.pattern": {"focal": 0.9, "diffuse": 0.1},
    "hbv.signal": {"marked": 0.9, "altered": 0.1},
    "hbv.pattern": {"focal": 0.9, "diffuse": 0.1},
}


def test_plausible_values() -> None:
    assert rules.plausible("t2.texture", {"homogeneous": 0.7, "heterogeneous": 0.3}) == ("homogeneous",)
    assert rules.plausible("t2.texture", {"homogeneous": 0.6, "heterogeneous": 0.4}) == ("homogeneous", "heterogeneous")
    assert rules.plausible("t2.texture", {"homogeneous": 0.6, "heterogeneous": 0.4}, 0.9) == ("homogeneous",)
    # Independent probabilities: both above one half contradict each other at any ratio.
    both = {"circumscribed": 0.99, "non_circumscribed": 0.51}
    assert rules.plausible("t2.margin", both, 0.9) == ("circumscribed", "non_circumscribed")
    assert rules.plausible("t2.capsule", {"none": 0.0}) == ("none", "partial", "complete")
    for wrong in (0.0, 1.1):
        with pytest.raises(ValueError, match="threshold"):
            rules.plausible("t2.texture", {"homogeneous": 1.0}, wrong)


def test_sure_readings_reach_one_score() -> None:
    scores = rules.reachable_t2w("PZ", SURE_FOCUS, 10.0)
    assert (scores.best, scores.reachable, scores.uncertain, scores.unknown) == (4, frozenset({4}), False, ())
    assert scores.match.rule_id == "T2W-PZ-4"
    assert rules.reachable_dwi(SURE_DARK, 10.0).reachable == {4}


def test_contradictory_readings_reach_several_scores() -> None:
    readings = {**SURE_FOCUS, "t2.margin": {"circumscribed": 0.8, "non_circumscribed": 0.7}}
    assert rules.reachable_t2w("PZ", readings, 10.0) == rules.ScoreSet(
        4,
        frozenset({3, 4}),
        True,
        rules.t2w_rule("PZ", {k: max(v, key=v.get) for k, v in readings.items()}, 10.0),  # type: ignore[arg-type]
    )
    doubtful = {**SURE_DARK, "hbv.signal": {"marked": 0.5, "altered": 0.4}}
    assert rules.reachable_dwi(doubtful, 10.0).reachable == {3, 4}
    assert rules.reachable_dwi(doubtful, 10.0, threshold=0.9).reachable == {4}


def test_both_sides_of_15_mm() -> None:
    for size in (14.0, 14.9, 15.0, 16.0):
        assert rules.reachable_t2w("PZ", SURE_FOCUS, size).reachable == {4, 5}
        assert rules.reachable_dwi(SURE_DARK, size).uncertain
    assert rules.reachable_dwi(SURE_DARK, 16.1).reachable == {5}
    assert rules.reachable_dwi(SURE_DARK, 14.5, epe=True).reachable == {5}
    assert rules.reachable_dwi(SURE_DARK, 14.5, size_settled=True).reachable == {4}


def test_what_was_not_read_may_be_anything() -> None:
    readings = {key: value for key, value in SURE_FOCUS.items() if key != "t2.margin"}
    scores = rules.reachable_t2w("PZ", readings, 10.0)
    assert (scores.reachable, scores.unknown) == ({3, 4}, ("t2.margin",))
    blank = {**SURE_FOCUS, "t2.margin": {"circumscribed": 0.0, "indistinct": 0.0}}
    assert rules.reachable_t2w("PZ", blank, 10.0) == scores
    # Not knowing the shape makes no difference in the peripheral zone: nothing is uncertain then.
    assert not rules.reachable_t2w("PZ", {k: v for k, v in SURE_FOCUS.items() if k != "t2.shape"}, 10.0).uncertain
    for readings in ({}, {"t2.margin": {"circumscribed": 0.0}}):
        with pytest.raises(ValueError, match="without T2W"):
            rules.reachable_t2w("PZ", readings, 10.0)
    with pytest.raises(ValueError, match="without high-b"):
        rules.reachable_dwi({"adc.signal": {"marked": 1.0}}, 10.0)


def test_a_nodule_in_the_peripheral_zone_may_be_a_focus() -> None:
    scores = rules.reachable_t2w("PZ", {**SURE_FOCUS, "t2.pattern": {"nodule": 1.0}}, 10.0)
    assert (scores.best, scores.reachable) == (3, {3, 4})


def test_concept_probabilities_become_readings() -> None:
    concepts = {
        "t2.circ": 0.8,
        "t2.noncirc": 0.7,
        "t2.homog": 0.9,
        "t2.mod_hypo": 0.9,
        "t2.focal": 0.9,
        "t2.linear": 0.2,
    }
    readings = rules.readings_from_concepts(concepts)
    assert readings["t2.signal"] == {"moderate_hypo": 0.9}  # t2.linear accepts it too, but names no signal alone
    assert readings["t2.pattern"] == {"focal": 0.9, "linear": 0.2}
    scores = rules.reachable_t2w("PZ", readings, 10.0)
    assert (scores.best, scores.reachable, scores.uncertain) == (4, {3, 4}, True)
    assert rules.readings_from_concepts({"adc.hypo": 0.6}) == {"adc.signal": {"altered": 0.6, "marked": 0.6}}
    for wrong, message in (
        ({"t2.x": 0.5}, "no concept"),
        ({"dwi.focal": 0.5}, "not seen"),
        ({"t2.circ": 1.5}, "0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            rules.readings_from_concepts(wrong)


@st.composite
def readings_of(draw: st.DrawFn, *sequences: str) -> dict[str, dict[str, float]]:
    probability = st.floats(0.01, 1)
    return {
        a.id: {value: draw(probability) for value in a.value_ids} for a in load().attributes if a.sequence in sequences
    }


@settings(deadline=None)
@given(ZONES, readings_of("t2w"), SIZES, st.booleans())
def test_reachable_t2w_contains_best_and_grows_with_tolerance(
    zone: Any, readings: dict[str, dict[str, float]], size: float, epe: bool
) -> None:
    strict = rules.reachable_t2w(zone, readings, size, epe, threshold=0.9)
    loose = rules.reachable_t2w(zone, readings, size, epe, threshold=0.3)
    best = {a: rules.best_value(a, p) for a, p in readings.items()}
    assert strict.best == loose.best == rules.t2w_score(zone, best, size, epe)
    assert strict.best in strict.reachable <= loose.reachable <= set(NUMBERS)
    assert strict.uncertain == (len(strict.reachable) > 1)


@settings(deadline=None)
@given(readings_of("adc", "hbv"), SIZES)
def test_reachable_dwi_contains_best(readings: dict[str, dict[str, float]], size: float) -> None:
    scores = rules.reachable_dwi(readings, size)
    assert scores.best == rules.dwi_score({a: rules.best_value(a, p) for a, p in readings.items()}, size)
    assert scores.best in scores.reachable <= set(NUMBERS)


@pytest.mark.parametrize(
    ("readings", "message"),
    [
        ({"t2.colour": {"red": 1.0}}, "no attribute"),
        ({"t2.margin": {"fuzzy": 1.0}}, "no value"),
        ({"t2.margin": {}}, "has no value"),
        ({"t2.margin": {"circumscribed": 1.2}}, "0 to 1"),
        ({"t2.margin": {"circumscribed": float("nan")}}, "0 to 1"),
    ],
)
def test_bad_readings(readings: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules.reachable_t2w("PZ", readings, 10.0)


# ----------------------------------------------------------------------------------------------------- patient level


def lesion(key: str, category: Score, size: float = 10.0, epe: bool = False) -> LesionSummary:
    return LesionSummary(key, category, size, epe)


@pytest.mark.parametrize(
    ("lesions", "adequate", "category", "unscored"),
    [
        ([], (True, True), 1, False),
        ([], (False, True), "X", False),
        ([], (True, False), "X", False),
        ([lesion("a", 2), lesion("b", 1)], (True, True), 2, False),
        ([lesion("a", 1)], (True, True), 1, False),
        ([lesion("a", 1)], (True, False), "X", False),
        ([lesion("a", 3), lesion("b", 5)], (True, True), 5, False),
        ([lesion("a", 3), lesion("b", "X")], (True, False), 3, True),
        ([lesion("a", "X"), lesion("b", "X")], (True, False), "X", True),
    ],
)
def test_patient_category(
    lesions: list[LesionSummary], adequate: tuple[bool, bool], category: Score, unscored: bool
) -> None:
    result = rules.patient_category(lesions, t2w_adequate=adequate[0], dwi_adequate=adequate[1])
    assert (result.category, result.has_unscored) == (category, unscored)
    assert ("given a category" in result.text) == unscored


def test_where_no_gland_was_found_nothing_is_no_category_1() -> None:
    result = rules.patient_category([], searched=False)
    assert (result.category, result.text) == ("X", "no suspicious region, but the gland was not found")
    assert rules.patient_category([lesion("a", 1)], searched=False).category == "X"
    assert rules.patient_category([lesion("a", 4)], searched=False).category == 4, "a reader outlined it"


def test_index_lesion() -> None:
    assert rules.index_lesion([]) is None
    assert rules.index_lesion([lesion("a", "X")]) is None
    by_category = [lesion("a", 4, 30.0, True), lesion("b", 5, 16.0)]
    by_epe = [lesion("a", 5, 30.0), lesion("b", 5, 9.0, True)]
    by_size = [lesion("a", 4, 9.0), lesion("b", 4, 12.0), lesion("c", 3, 14.0), lesion("d", "X", 40.0)]
    for lesions in (by_category, by_epe, by_size):
        index = rules.index_lesion(lesions)
        assert index is not None
        assert index.key == "b"


def test_at_most_four_findings_of_category_3_to_5_are_reported() -> None:
    lesions = [lesion(f"three-{i}", 3, 10.0 + i) for i in range(4)] + [lesion("five", 5, 20.0), lesion("two", 2, 40.0)]
    result = rules.patient_category(lesions)
    assert result.reported == ("five", "three-3", "three-2", "three-1")
    assert result.index == "five"
    assert rules.patient_category([lesion("two", 2), lesion("x", "X")]).reported == ()


def test_bad_lesions() -> None:
    with pytest.raises(ValueError, match="keys must differ"):
        rules.patient_category([lesion("a", 3), lesion("a", 4)])
    with pytest.raises(ValueError, match="category of a"):
        rules.patient_category([lesion("a", 7)])
