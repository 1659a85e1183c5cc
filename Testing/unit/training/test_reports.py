"""Reports as text and as JSON: what is read, what is left, and where it was said."""

from __future__ import annotations

from typing import Any

import pytest

from MedRationaleLogic.pirads.lexicon import load
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
    ],
)
def test_bad_json_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_structured({"findings": [{**ENTRY, **change}]})
