"""Completion along the tree, paraphrases that mean the same, contradictions with the mask."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from MedRationaleLogic.imaging.measure import LesionMeasures, measure_lesion
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.pirads.lexicon import load
from MedRationaleLogic.pirads.rationale import Rationale
from MedRationaleLogic.training.rationales import complete, contradictions, paraphrases
from MedRationaleLogic.training.reports import Finding, parse_report, parse_structured

FULL = {
    "t2.pattern": "focal", "t2.signal": "moderate_hypo", "t2.texture": "homogeneous", "t2.margin": "circumscribed",
    "t2.shape": "round", "t2.capsule": "none", "adc.signal": "marked", "adc.pattern": "focal", "hbv.signal": "marked",
    "hbv.pattern": "focal",
}  # fmt: skip


def answer(completed: dict[str, Any], step: str) -> tuple[Any, str]:
    found = next(a for a in completed["answers"] if a["step"] == step)
    return found["answer"], found["status"]


def test_scores_follow_by_rule_from_stated_answers() -> None:
    completed = complete(FULL, "PZ", 12.0)
    assert answer(completed, "t2.margin") == ("circumscribed", "gold")
    assert answer(completed, "t2w.score") == (4, "rule")
    assert answer(completed, "category") == (4, "rule")
    assert answer(completed, "dce") == (None, "unknown")
    assert Rationale.from_dict(completed["rationale"]).category == 4
    assert sum(completed["counts"].values()) == len(completed["answers"])


def test_what_rests_on_silver_is_silver() -> None:
    stated = {k: v for k, v in FULL.items() if k != "adc.signal"}
    completed = complete(stated, "PZ", 12.0, silver={"adc.signal": "marked", "t2.margin": "non_circumscribed"})
    assert answer(completed, "adc.signal") == ("marked", "silver")
    assert answer(completed, "t2.margin") == ("circumscribed", "gold")  # stated goes before measured
    assert answer(completed, "t2w.score") == (4, "rule")
    assert answer(completed, "dwi.score") == (4, "silver")
    assert answer(completed, "category") == (4, "silver")


def test_the_category_follows_although_t2w_is_unknown() -> None:
    completed = complete({"adc.signal": "marked", "adc.pattern": "focal", "hbv.signal": "marked"}, "PZ", 12.0)
    assert answer(completed, "t2w.score") == (None, "unknown")
    assert answer(completed, "category") == (4, "rule")


def test_without_a_size_four_and_five_stay_open() -> None:
    completed = complete(FULL, "PZ", None)
    score = next(a for a in completed["answers"] if a["step"] == "t2w.score")
    assert (score["answer"], score["reachable"]) == (None, [4, 5])
    assert completed["rationale"] is None


def test_a_measured_size_near_the_threshold_settles_nothing() -> None:
    assert answer(complete(FULL, "PZ", 14.5), "t2w.score") == (4, "rule")
    assert answer(complete(FULL, "PZ", 14.5, measured={"size"}), "t2w.score") == (None, "unknown")


def test_an_absent_sequence_is_x_and_a_stated_score_that_the_rule_denies_is_told() -> None:
    completed = complete({"t2.shape": "round"}, "TZ", 10.0, available=("t2w",))
    assert answer(completed, "dwi.score") == ("X", "rule")
    completed = complete(FULL, "PZ", 12.0, scores={"t2w": 2}, category=2)
    assert answer(completed, "t2w.score") == (2, "gold")
    assert len(completed["disagreements"]) == 2


def test_spans_go_with_their_answers() -> None:
    (finding,) = parse_report("Lesion 1: PZ, 12 mm. T2W: round. T2W score 3.").findings
    completed = complete(finding.values, finding.zone, finding.greatest_mm, scores=finding.scores, spans=finding.spans)
    said = {a["step"]: [s["text"] for s in a["spans"]] for a in completed["answers"]}
    assert (said["t2.shape"], said["t2w.score"], said["zone"]) == (["round"], ["T2W score 3"], ["PZ"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"values": {"t2.shape": "square"}}, "no value 'square'"),
        ({"zone": "XX"}, "zone"),
        ({"size_mm": -1.0}, "size"),
        ({"scores": {"t2w": 9}}, "t2w score"),
        ({"epe": "maybe"}, "epe"),
    ],
)
def test_bad_input_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        complete(**{"values": FULL, "zone": "PZ", "size_mm": 12.0, **given})


def read_back(text: str) -> Finding:
    (finding,) = parse_report(f"Lesion 1: {text}").findings
    return finding


def test_each_paraphrase_reads_back_as_the_same_values() -> None:
    attributes = load().attributes
    cases = [{a.id: v} for a in attributes for v in a.value_ids]
    rnd = random.Random(7)
    cases += [{a.id: rnd.choice(a.value_ids) for a in attributes} for _ in range(25)]
    for values in cases:
        for zone in ("PZ", "TZ"):
            texts = paraphrases(values, zone)
            assert len(set(texts)) == 5
            for text in texts:
                finding = read_back(text)
                assert (finding.values, finding.zone, finding.conflicts) == (values, zone, ()), text
    assert paraphrases(FULL, "PZ") == paraphrases(FULL, "PZ")
    with pytest.raises(ValueError, match="at least one value"):
        paraphrases({}, "PZ")


@pytest.fixture(scope="module")
def measured() -> LesionMeasures:
    """A 12 mm lesion in the patient's right (low x) posterior PZ, mid-gland."""
    geometry = Geometry((15, 40, 40), (3.0, 1.0, 1.0))
    z, y, x = np.indices(geometry.shape)
    gland = ((z - 7) * 3 / 21) ** 2 + ((y - 20) / 16) ** 2 + ((x - 20) / 18) ** 2 <= 1
    zones = np.where(gland, np.where(y > 22, 1, 2), 0).astype(np.uint8)
    lesion = (((z - 7) * 3) ** 2 + (y - 29) ** 2 + (x - 12) ** 2 <= 36) & gland
    return measure_lesion(Volume(lesion, geometry), Volume(zones, geometry), measuring_grid=None, measured_on="ADC")


def test_a_report_that_fits_its_mask(measured: LesionMeasures) -> None:
    finding = Finding(zone="PZ", side="R", level="mid", levels=("mid",), size_mm=(13.0,), category=4,
                      scores={"t2w": 4, "dwi": 4})  # fmt: skip
    assert contradictions(finding, measured) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"side": "L"}, "side"),
        ({"levels": ("apex",)}, "level"),
        ({"zone": "TZ"}, "zone"),
        ({"size_mm": (25.0,)}, "size"),
        ({"category": 2, "scores": {"t2w": 4, "dwi": 4}}, "category 2"),
        ({"conflicts": ("side",)}, "side: the report gives two answers"),
    ],
)
def test_a_report_that_contradicts_its_mask(measured: LesionMeasures, wrong: dict[str, Any], told: str) -> None:
    finding = Finding(**{"zone": "PZ", "side": "R", "levels": ("mid",), "size_mm": (12.0,), **wrong})
    (only,) = contradictions(finding, measured)
    assert only.startswith(told)


@pytest.mark.parametrize(
    ("sector", "told"),
    [("PZpl-mid-R", []), ("TZp-mid-R", ["zone"]), ("PZpl-mid-L", ["side"]), ("PZpl-apex-R", ["level"])],
)
def test_sectors_are_held_against_the_mask(measured: LesionMeasures, sector: str, told: list[str]) -> None:
    (read,) = parse_structured({"findings": [{"sectors": [sector], "category": 4, "dwi": 4, "t2w": 4}]}).findings
    for finding in (read, Finding(sectors=(sector,))):
        assert [line.split(":")[0] for line in contradictions(finding, measured)] == told


def test_sectors_do_not_settle_what_the_report_leaves_open(measured: LesionMeasures) -> None:
    (finding,) = parse_report("Lesion 1: right PZ. Sector PZpl-mid-L.").findings
    assert contradictions(finding, measured) == ["side: the report gives two answers"]
