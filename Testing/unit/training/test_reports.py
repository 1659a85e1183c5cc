"""Reports as text and as JSON: what is read, what is left, and where it was said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from MedRationaleLogic.pirads.lexicon import load
from MedRationaleLogic.training import curate
from MedRationaleLogic.training.layouts import SourceCase
from MedRationaleLogic.training.reports import Finding, parse_report, parse_structured

REPORT = """PSA: 7.4 ng/ml. Prostate volume 45 mL.
FINDINGS:
Lesion 1: right posterolateral peripheral zone, mid-gland, 1.4 x 0.9 cm.
T2W: circumscribed, homogeneous, moderately hypointense focus without capsule. T2W score 4.
DWI: focal, markedly hypointense on ADC and markedly hyperintense on high-b. DWI score: 4/5.
DCE: positive. No extraprostatic extension. PI-RADS v2.1: 4.
Lesion 2: left anterior transition zone at base to mid; size 18 mm. T2: lenticular, not circumscribed, hypointense,
possibly heterogeneous. Mildly hypointense on ADC. No linear, wedge-shaped or diffuse change on high-b.
Capsular contact 12 mm. Possible EPE.
Impression: PI-RADS 5 lesion on the left.
"""


def one(text: str) -> Finding:
    (finding,) = parse_report(f"Lesion 1: {text}").findings
    return finding


def test_a_report_is_read_into_its_findings() -> None:
    report = parse_report(REPORT)
    first, second = report.findings
    assert (report.psa, report.volume) == (7.4, 45.0)
    assert first.values == {
        "t2.pattern": "focal", "t2.signal": "moderate_hypo", "t2.texture": "homogeneous",
        "t2.margin": "circumscribed", "t2.capsule": "none", "adc.signal": "marked", "adc.pattern": "focal",
        "hbv.signal": "marked", "hbv.pattern": "focal",
    }  # fmt: skip
    assert first.scores == {"t2w": 4, "dwi": 4, "dce": "+"}
    assert (first.category, first.epe, first.size_mm) == (4, "absent", (14.0, 9.0))
    assert (first.side, first.level, first.zone, first.sectors) == ("R", "mid", "PZ", ("PZpl-mid-R",))
    assert (second.side, second.level, second.levels) == ("L", None, ("base", "mid"))
    assert second.size_mm == (18.0,)  # not the capsular contact
    assert second.values == {
        "t2.shape": "lenticular", "t2.margin": "non_circumscribed", "t2.texture": "heterogeneous",
        "adc.signal": "altered",
    }  # fmt: skip
    assert second.excluded["t2.signal"] == ("hyper", "iso")  # ungraded: mild or moderate
    assert second.excluded["hbv.pattern"] == ("linear", "wedge", "diffuse")
    assert second.uncertain == ("t2.texture",)
    assert (second.epe, second.category) == ("suspected", None)  # the impression belongs to no lesion


def test_every_span_is_the_text_at_its_place() -> None:
    report = parse_report(REPORT)
    assert {"psa", "volume", "size", "side", "zone", "t2w", "dwi", "dce", "category", "epe", "t2.shape"} <= {
        span.item for span in report.spans
    }
    assert all(REPORT[span.start : span.end] == span.text for span in report.spans)


def test_every_phrase_of_the_lexicon_is_read_as_its_value() -> None:
    for attribute in load().attributes:
        for value in attribute.values:
            for zone, phrases in value.phrases.items():
                for phrase in phrases:
                    finding = one(f"{phrase}.")
                    assert (finding.values, finding.zone) == ({attribute.id: value.id}, zone), phrase


@pytest.mark.parametrize(
    ("text", "attribute", "value"),
    [
        ("T2W: ill-defined dark area", "t2.margin", "non_circumscribed"),
        ("a lens-shaped lesion", "t2.shape", "lenticular"),
        ("T2W: unencapsulated", "t2.capsule", "none"),
        ("T2W: almost completely encapsulated nodule", "t2.capsule", "partial"),
        ("erased charcoal sign", "t2.signal", "moderate_hypo"),
        ("organized chaos", "t2.pattern", "nodule"),
        ("very low ADC on the ADC map", "adc.signal", "marked"),
        ("marked hyperintensity on DWI", "hbv.signal", "marked"),
        ("inhomogeneous signal on T2-weighted images", "t2.texture", "heterogeneous"),
        ("T2W is not round but lenticular", "t2.shape", "lenticular"),
    ],
)
def test_synonyms(text: str, attribute: str, value: str) -> None:
    assert one(f"{text}.").values[attribute] == value


@pytest.mark.parametrize(
    ("text", "attribute"),
    [
        ("hypointense.", "t2.signal"),  # of no named sequence
        ("T2W: mildly to moderately hypointense.", "t2.signal"),
        ("T2W: no lenticular shape.", "t2.shape"),
        ("T2W: encapsulated.", "t2.capsule"),  # wholly or partly?
        ("Some wholly unknown wording.", "t2.pattern"),
    ],
)
def test_what_is_not_said_is_not_guessed(text: str, attribute: str) -> None:
    assert attribute not in one(text).values


def test_two_answers_are_a_conflict_and_neither_is_kept() -> None:
    finding = one("PZ. T2W: round. T2W: lenticular. 12 mm. Size 12 mm. PI-RADS 4. PI-RADS 3.")
    assert "t2.shape" not in finding.values
    assert set(finding.conflicts) == {"t2.shape", "category"}
    assert (finding.category, finding.size_mm) == (None, (12.0,))


def test_a_comma_ends_a_negation_unless_the_list_goes_on() -> None:
    assert one("T2W: no capsule, round, homogeneous.").values == {
        "t2.capsule": "none", "t2.shape": "round", "t2.texture": "homogeneous",
    }  # fmt: skip
    assert "t2.shape" not in one("T2W: no round, lenticular or irregular shape.").values


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1.2 x 0.8 x 1,1 cm.", (12.0, 8.0, 11.0)),
        ("Size 9 mm, previously 7 mm.", ()),  # which one is now is not said in a way that is understood
        ("900 mm.", ()),
        ("PI-RADS 2.1, T2W 4.", ()),
    ],
)
def test_sizes(text: str, size: tuple[float, ...]) -> None:
    assert one(text).size_mm in (size, (9.0,) if "previously" in text else size)


def test_version_numbers_are_no_categories() -> None:
    assert one("PI-RADS 2.1.").category is None
    assert one("PI-RADS v2.1 category 5.").category == 5


def test_the_brackets_of_a_heading_belong_to_the_lesion() -> None:
    text = "Lesion 1 (left mid PZpl, PI-RADS 5): 14 mm.\nLesion 2 (previously 10 mm): 12 mm, right apex.\n"
    first, second = parse_report(text).findings
    assert (first.name, first.side, first.levels, first.zone) == ("Lesion 1", "L", ("mid",), "PZ")
    assert (first.category, first.size_mm) == (5, (14.0,))
    assert (second.side, second.size_mm) == ("R", (12.0,))
    (finding,) = parse_report("ROI 3 (no prior, likely new): left PZ, 9 mm.").findings
    assert (finding.name, finding.side, finding.zone, finding.uncertain) == ("ROI 3", "L", "PZ", ())


@pytest.mark.parametrize(
    ("text", "conflicts"),
    [
        ("PI-RADS 2-3.", ("category",)),
        ("PI-RADS 2/3.", ("category",)),
        ("PI-RADS 2 or 3.", ("category",)),
        ("PI-RADS 4 to 5.", ("category",)),
        ("PI-RADS 4–5.", ("category",)),
        ("T2W 3-4, DWI 3/4.", ("t2w", "dwi")),
        ("DWI 3+1.", ("dwi",)),
    ],
)
def test_a_range_of_scores_is_a_conflict(text: str, conflicts: tuple[str, ...]) -> None:
    finding = one(text)
    assert (finding.scores, finding.category, finding.conflicts) == ({}, None, conflicts)
    assert finding.spans == ()


def test_what_follows_a_score_need_not_be_a_range() -> None:
    finding = one("T2W: 3 - DWI: 4/5 - PI-RADS 4 - 5 mm.")
    assert (finding.scores, finding.category, finding.size_mm) == ({"t2w": 3, "dwi": 4}, 4, (5.0,))
    assert one("DWI 3-mm slices.").scores == {}


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("T2W - 3, DWI - 4, DCE - positive.", {"t2w": 3, "dwi": 4, "dce": "+"}),
        ("DCE – negative.", {"dce": "-"}),
        ("DCE-positive.", {"dce": "+"}),
        ("DCE: -. T2W 3.", {"t2w": 3, "dce": "-"}),
        ("DCE -, T2W 3.", {"t2w": 3, "dce": "-"}),
        ("DCE -\nT2W 3.", {"t2w": 3, "dce": "-"}),
        ("DCE: +/-", {}),
        ("T2W, DWI, DCE\n- No lymph node.", {}),
    ],
)
def test_a_dash_separates_and_is_the_sign_only_where_nothing_follows(text: str, scores: dict[str, Any]) -> None:
    assert one(text).scores == scores


def test_and_ends_a_negation_where_something_is_asserted() -> None:
    assert one("No calcification and definite extraprostatic extension.").epe == "definite"
    assert one("No enlarged nodes, frank extraprostatic extension at the base or mid-gland.").epe == "definite"
    # "no haemorrhage, but ..." or "no ... lesion of both kinds": neither is guessed
    finding = one("No haemorrhage and markedly hypointense on ADC.")
    assert (finding.values, finding.excluded) == ({}, {})
    assert one("T2W: no round and spiculated lesion.").excluded["t2.margin"] == ("spiculated",)


@pytest.mark.parametrize(
    "text",
    [
        "No extraprostatic extension or seminal vesicle invasion.",
        "No seminal vesicle invasion or extraprostatic extension.",
        "No lymphadenopathy, extraprostatic extension, or bone lesion.",
        "No lymphadenopathy, extraprostatic extension, seminal vesicle invasion, or bone lesion.",
        "No nodes, bone lesion or evidence of extraprostatic extension.",
        "Neither extraprostatic extension nor nodes.",
    ],
)
def test_lists_are_negated_to_their_end(text: str) -> None:
    assert one(text).epe == "absent"


def test_no_change_and_its_like_negate_nothing() -> None:
    assert one("No interval change, early enhancement, stable or slightly larger.").scores == {"dce": "+"}
    finding = one("No change in the left mid peripheral zone lesion, 12 mm.")
    assert (finding.side, finding.levels, finding.zone) == ("L", ("mid",), "PZ")
    finding = one("Not previously seen markedly hypointense focus on ADC.")
    assert finding.values == {"adc.signal": "marked", "adc.pattern": "focal"}
    finding = one("Not only round but circumscribed on T2W.")
    assert finding.values == {"t2.shape": "round", "t2.margin": "circumscribed"}


def test_a_negated_thing_leaves_the_place_behind_it() -> None:
    finding = one("No calcification, PZ lesion of the left, 12 mm, PI-RADS 4 or 5.")
    assert (finding.side, finding.zone, finding.size_mm) == ("L", "PZ", (12.0,))
    finding = one("No haemorrhage, lesion in the left peripheral zone at mid or apex, 12 mm.")
    assert (finding.side, finding.levels, finding.zone) == ("L", ("mid", "apex"), "PZ")
    finding = one("Lesion without capsule in the left mid TZ.")
    assert (finding.values, finding.side, finding.levels, finding.zone) == ({"t2.capsule": "none"}, "L", ("mid",), "TZ")
    assert one("No lesion in the left PZ.").side is None


def test_a_byte_order_mark_hides_no_lesion() -> None:
    text = "\ufeffLesion 1: left mid PZ, 12 mm, PI-RADS 5.\nLesion 2: right apex PZ, 7 mm, PI-RADS 3."
    report = parse_report(text)
    assert [(f.name, f.category) for f in report.findings] == [("Lesion 1", 5), ("Lesion 2", 3)]
    assert all(text[span.start : span.end] == span.text for span in report.spans)


@pytest.mark.parametrize(("name", "text"), [("a.txt", "Lesion 1: left PZ."), ("a.json", '{"findings": [{}]}')])
def test_curation_reads_what_an_editor_saved_with_a_byte_order_mark(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    read, findings = curate._report(SourceCase("a", "p", "s", {}, report=tmp_path / name))
    assert (read, len(findings)) == (text, 1)


@pytest.mark.parametrize(
    "text",
    [
        "Findings: In the left mid PZ there is a 12 mm, lenticular\nlesion. PI-RADS 4.",
        "Findings: In the left mid PZ, 12 mm, lenticular, and larger than the other\nindex lesion. PI-RADS 4.",
        "In the left mid PZ a lenticular\nlesion 1.2 cm, PI-RADS 4.",
        "Location: left mid PZ\nSize: 12 mm\nFinding: lenticular\nPI-RADS: 4",
        "Lesion 1: left mid PZ\nSize: 12 mm\nPI-RADS: 4\nFinding: lenticular",
        "Lesion 1\nLocation: left mid PZ\nSize: 12 mm, lenticular\nPI-RADS: 4",
        "PSA: 7\nLesion: left mid PZ, 12 mm, lenticular. PI-RADS 4.",
    ],
)
def test_a_word_at_the_start_of_a_line_is_no_heading(text: str) -> None:
    (finding,) = parse_report(text).findings
    assert (finding.side, finding.levels, finding.zone, finding.size_mm) == ("L", ("mid",), "PZ", (12.0,))
    assert (finding.values, finding.category) == ({"t2.shape": "lenticular"}, 4)


def test_a_lesion_spoken_of_in_a_wrapped_line_is_not_a_new_one() -> None:
    text = (
        "Lesion 2: left PZ, 12 mm, smaller than\nlesion 1. PI-RADS 4.\nFindings\nLesion 1. Right PZ, 15 mm. PI-RADS 5."
    )
    assert [(f.name, f.side, f.category) for f in parse_report(text).findings] == [
        ("Lesion 2", "L", 4), ("Lesion 1", "R", 5),
    ]  # fmt: skip


def test_a_wrapped_sentence_is_one() -> None:
    finding = one("lenticular lesion of the peripheral zone, on T2W not\ncircumscribed.")
    assert finding.excluded == {"t2.margin": ("circumscribed",)}
    assert one("12 mm lesion of the left peripheral zone and without\nextraprostatic extension.").epe == "absent"
    assert one("12 mm lesion of the posterior gland, of the right and\nleft peripheral zone.").side == "both"
    assert one("T2W: no lenticular shape\nround").values == {"t2.shape": "round"}  # a short line was not wrapped


@pytest.mark.parametrize(
    "text",
    [
        "right mid PZ, 12 mm. The left peripheral zone is normal.",
        "right mid PZ, 12 mm. The left side is spared.",
        "right mid PZ, 12 mm. Left TZ: unremarkable.",
        "The left PZ is normal. Right mid PZ, 12 mm.",
        "right mid PZ, 12 mm, the left base is spared.",
        "right mid PZ, 12 mm. Smaller foci on the left.",
        "right mid PZ, 12 mm, darker than normal left PZ.",
        "right mid PZ, 12 mm. It abuts the bladder base.",
        "right mid PZ, 12 mm. It abuts the base of the bladder.",
    ],
)
def test_the_place_is_the_lesions_own(text: str) -> None:
    finding = one(text)
    assert (finding.side, finding.levels, finding.zone, finding.size_mm) == ("R", ("mid",), "PZ", (12.0,))
    assert (finding.values, finding.conflicts) == ({}, ())


def test_both_sides_and_sides_that_contradict() -> None:
    assert one("right and left mid PZ.").side == "both"
    assert one("PZpl-mid-R; PZpl-mid-L.").side == "both"
    finding = one("left PZ. Sector PZpl-mid-R.")
    assert (finding.side, finding.conflicts) == (None, ("side",))


def test_decimal_commas_and_hyphened_units() -> None:
    report = parse_report("Prostate volume 45,5 mL. PSA 6,2 ng/mL.")
    assert (report.psa, report.volume) == (6.2, 45.5)
    report = parse_report("Prostate volume 1,234 mL. PSA 1,234 ng/mL.")  # thousands or a decimal?
    assert (report.psa, report.volume) == (None, None)
    assert one("12-mm focus.").size_mm == (12.0,)
    assert one("1.2- x 0.9-cm focus.").size_mm == (12.0, 9.0)


def test_reports_without_headings() -> None:
    (finding,) = parse_report("Round 11 mm lesion in the left transition zone apex.").findings
    assert (finding.side, finding.level, finding.zone, finding.size_mm) == ("L", "apex", "TZ", (11.0,))
    assert parse_report("Indication: PSA 5.1. Findings: No suspicious lesion. Impression: PI-RADS 1.").findings == ()
    with pytest.raises(ValueError, match="parse_structured"):
        parse_report({})  # type: ignore[arg-type]


ENTRY: dict[str, Any] = {
    "zone": "PZ", "side": "right", "level": "mid", "sectors": ["PZpl-mid-R"], "size_mm": [14, 9], "t2w": 4, "dwi": 4,
    "dce": "+", "category": 4, "epe": "absent",
    "descriptors": ["circumscribed margin", "markedly hypointense on ADC", "not lenticular"],
}  # fmt: skip


def test_json() -> None:
    report = parse_structured({"psa": 6.2, "volume_ml": 41, "findings": [ENTRY]})
    (finding,) = report.findings
    assert finding.values == {"t2.margin": "circumscribed", "adc.signal": "marked"}
    assert finding.excluded == {"t2.shape": ("lenticular",)}
    assert (finding.side, finding.level, finding.size_mm, finding.category) == ("R", "mid", (14.0, 9.0), 4)
    assert finding.scores == {"t2w": 4, "dwi": 4, "dce": "+"}
    assert {s.source for s in report.spans} >= {"psa", "findings[0].category", "findings[0].descriptors[1]"}


def place(**entry: Any) -> Finding:
    (finding,) = parse_structured({"findings": [entry]}).findings
    return finding


def test_json_sectors_give_the_place() -> None:
    finding = place(sectors=["PZpl-mid-R"])
    assert (finding.side, finding.level, finding.levels, finding.zone) == ("R", "mid", ("mid",), "PZ")
    assert {(span.item, span.source) for span in finding.spans} == {
        (item, "findings[0].sectors") for item in ("sector", "side", "level", "zone")
    }
    finding = place(sectors=["PZpl-mid-R", "TZa-base-L"])
    assert (finding.side, finding.levels, finding.zone) == ("both", ("base", "mid"), None)
    assert place(sectors=["PZpl-mid-R", "TZa-base-R"], zone="TZ").zone == "TZ"  # the zone that it grew from
    assert place(sectors=["PZpl-mid-R", "SV---R"]).zone == "PZ"  # it reaches the vesicle
    assert place(sectors=["TZa-mid-R"], side="midline").side == "midline"


def test_a_size_in_centimetres_beside_an_empty_one() -> None:
    finding = place(size_mm=None, size_cm=[1.4, 0.9])
    assert (finding.size_mm, [s.source for s in finding.spans]) == ((14.0, 9.0), ["findings[0].size_cm"])
    assert place(size_cm=1.1).size_mm == (11.0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"descriptors": ["frobnicated margin"]},
            r"findings\[0\].descriptors\[0\]: unknown phrase 'frobnicated margin'",
        ),
        ({"descriptors": ["lenticular and blobby"]}, "not understood: blobby"),
        ({"descriptors": {"t2.shape": "square"}}, "no value 'square'"),
        ({"zone": "QZ"}, "unknown zone 'QZ'"),
        ({"t2w": 7}, "unknown t2w 7"),
        ({"size_mm": -3}, "one to three lengths"),
        ({"colour": "red"}, "unknown keys colour"),
        ({"sectors": ["PZx-mid-R"]}, "unknown sector"),
        ({"sectors": "PZpl-mid-R"}, "expected a list of sectors"),
        ({"sectors": [["PZpl-mid-R"]]}, "unknown sector"),
        ({"side": "left"}, r"findings\[0\].sectors: PZpl-mid-R contradict the side given: expected L, got R"),
        ({"side": "both"}, "contradict the side given: expected both, got R"),
        ({"zone": "TZ"}, "contradict the zone given: expected TZ, got PZ"),
        ({"level": "apex"}, "contradict the level given: expected apex, got mid"),
    ],
)
def test_bad_json_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_structured({"findings": [{**ENTRY, **change}]})
