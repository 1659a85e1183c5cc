"""The RIS text: plain, complete, and without a word that nobody said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from MedRationaleLogic.export import ris_text
from MedRationaleLogic.export.text import WIDTH
from Testing.explanation_factory import MIXED, PZ_LEFT, TZ_RIGHT, make_explanation


@pytest.fixture(scope="module")
def explanation():
    return make_explanation(
        overrides={1: [("t2.margin", "spiculated", "Dr. Müller"), ("epe", "definite", "Dr. Müller")]}
    )


@pytest.fixture(scope="module")
def text(explanation) -> str:
    return ris_text(explanation)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_warning_is_the_first_and_the_last_line(text):
    lines = text.splitlines()
    assert lines[0] == lines[-1] == "RESEARCH USE ONLY. AI-GENERATED, UNVERIFIED."


def test_it_is_printable_ascii_in_short_lines():
    text = ris_text(make_explanation(lesions=(PZ_LEFT,), name="Zoë\x07\r\nŁ 日本 ≥15 µm"))
    assert text.isascii()
    assert all(line.isprintable() for line in text.split("\n"))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "Study: Zoe ? ?? >=15 um" in text


def test_all_report_items_are_named_and_unknown_ones_say_so(text):
    for item in (
        "Indication: not provided",
        "PSA: 7.2 ng/mL (date not provided)",
        "Prior biopsy or treatment: not provided",
        "Protocol: read as biparametric; DCE X",
        "Field strength: 3 T (ACME)",
        "PI-QUAL: not assessed",
        "Haemorrhage: not assessed",
        "Seminal vesicles: not assessed",
        "Lymph nodes: not assessed",
        "Bone: not assessed",
        "Impression: not provided",
    ):
        assert item in text


def test_gland_and_psa_density_name_their_method(text, explanation):
    size = explanation.gland
    said = f"Volume: {size.planimetry_ml:.1f} mL by planimetry; {size.ellipsoid_ml:.1f} mL by the ellipsoid formula"
    assert said in flat(text)
    assert f"PSA density {explanation.psa_density.value:.2f} ng/mL/mL, at or above" in text
    assert "planimetric volume" in text


def test_each_region_has_its_block(text):
    first = flat(text[text.index("SUSPICIOUS REGION 1") : text.index("SUSPICIOUS REGION 2")])
    for said in (
        "Location: left posterolateral PZ, mid-gland",
        "Greatest dimension: 10.0 mm (axial, in-plane, on ADC, slice 7)",
        "Image: slice 6 of 14",
        "T2W 3, DWI 5, DCE X",
        "Extraprostatic extension: definite",
        "PI-RADS category: 5 (very high)",
        "T2W margin: spiculated, by reader Dr. Muller [before: circumscribed]",
        "T2W score: 3, by rule [before: 4]",
        "T2W texture: homogeneous (0.83), by model",
    ):
        assert said in first
    second = flat(text[text.index("SUSPICIOUS REGION 2") :])
    assert "PI-RADS category: 4 (high); also within reach: 3" in second
    assert "Flags: mask without rationale: a made-up remark; T2W score uncertain" in second


def test_the_overall_category_and_the_index_region(text):
    overall = flat(text[text.index("OVERALL") :])
    assert "PI-RADS category of the patient: 5 (very high)" in overall
    assert "Index region: 1, left posterolateral PZ" in overall
    assert "Regions to report (at most four of category 3 to 5): 1, 2" in overall


def test_definite_extension_is_said_only_when_a_reader_says_it(text):
    assert "Extraprostatic extension: definite at region 1, asserted by a reader" in text
    assert "Extraprostatic extension: definite" not in ris_text(make_explanation())


def test_an_uncertain_zone_gives_both_tables():
    text = flat(ris_text(make_explanation(lesions=(MIXED,))))
    assert "Zone uncertain. With the tables of the transition zone: T2W 4, DWI 3, DCE X, category 4" in text


def test_dce_by_a_reader_makes_it_multiparametric():
    text = ris_text(make_explanation(lesions=(PZ_LEFT,), overrides={1: [("dce", "+", "A")]}))
    assert "Protocol: multiparametric, DCE by a reader" in text
    assert "DCE: + (positive), by reader A" in text


def test_a_size_near_the_threshold_is_loud():
    region = replace(PZ_LEFT, offset=(0.0, 2.0, 0.0), radius=7.3)
    explanation = make_explanation(lesions=(region,))
    assert explanation.lesions[0].rationale.step("size").uncertain
    assert "NEAR THE 15 MM THRESHOLD" in flat(ris_text(explanation))


def test_a_negative_result_is_said_with_what_was_dropped():
    text = ris_text(make_explanation(lesions=()))
    assert "No suspicious region was outlined. That excludes nothing." in text
    assert "- dropped: too small (synthetic); 0.12 mL at L 16, A 8, S 25 mm" in flat(text)
    assert "PI-RADS category of the patient: 1 (very low); no suspicious region" in flat(text)


def test_absent_sequences_and_gland_are_said():
    text = flat(ris_text(make_explanation(lesions=(), roles=("adc",), gland=False, psa=None)))
    assert "T2W: absent: no T2W readings, T2W score X" in text
    assert "high-b: absent: no high-b readings, DWI score X" in text
    assert "Size: not available, no gland was found" in text
    assert "PSA: not provided" in text
    assert "PI-RADS category of the patient: X (cannot be assigned)" in text


def test_the_words_that_nobody_may_use(text):
    for word in ("cancer", "carcinoma", "malignan", "tumor", "tumour"):
        assert word not in text.lower()


def test_two_regions_are_told_apart():
    text = ris_text(make_explanation(lesions=(TZ_RIGHT, PZ_LEFT)))
    assert text.index("right anterior TZ") < text.index("left posterolateral PZ")
