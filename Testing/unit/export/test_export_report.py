"""The report: complete, self-contained, escaped, and honest about what is not there."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from MedRationaleLogic.export import render_report
from MedRationaleLogic.inference.explanation import NOTICE, Dropped
from MedRationaleLogic.pirads import lexicon
from Testing.explanation_factory import MIXED, PZ_LEFT, TZ_RIGHT, make_explanation

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}&lt;b&gt;"


class Page(HTMLParser):
    """Elements with their attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag]


@pytest.fixture(scope="module")
def explanation():
    return make_explanation(
        lesions=(PZ_LEFT, TZ_RIGHT),
        overrides={1: [("t2.margin", "spiculated", "Dr. Reader"), ("epe", "definite", "Dr. Reader")]},
    )


@pytest.fixture(scope="module")
def html(explanation) -> str:
    return render_report(explanation)


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def negative() -> Page:
    explanation = make_explanation(lesions=())
    return Page(render_report(explanation))


def row(html: str, question: str) -> str:
    rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    return next(r for r in rows if question in r)


def test_it_is_one_file_that_loads_nothing(html, page):
    assert html.lstrip().startswith("<!DOCTYPE html>")
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("iframe")
    policies = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_the_warning_is_on_top_at_every_region_and_at_the_end(page):
    assert page.text.count(NOTICE) >= 4  # banner, two regions, footer
    banner = next(a for t, a in page.elements if t == "div" and a.get("class") == "banner")
    assert banner["role"] == "note"


def test_ids_are_unique_and_every_link_leads_somewhere(page):
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.all("a")} <= {f"#{i}" for i in ids}


def test_hostile_text_stays_text():
    explanation = make_explanation(
        name=HOSTILE, lesions=(replace(PZ_LEFT, flags=(HOSTILE,)),), overrides={1: [("dce", "+", HOSTILE)]}
    )
    explanation = replace(explanation, flags=(HOSTILE,))
    html = render_report(explanation)
    page = Page(html)
    assert not page.all("script")
    assert all(a["src"].startswith("data:") for a in page.all("img"))
    assert not [n for _, a in page.elements for n in a if n.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert "{{ 7*7 }}" in page.text
    assert page.all("title")
    assert HOSTILE in page.text


def test_a_title_can_be_given_and_is_escaped(explanation):
    page = Page(render_report(replace(explanation, lesions=()), title="A <i>title</i>"))
    assert "A <i>title</i>" in page.text
    assert not page.all("i")


def test_the_same_explanation_gives_the_same_text(explanation, html):
    assert render_report(explanation) == html


def test_the_study_is_summarised(page, explanation):
    for said in (
        "series 0, synthetic; series 99 available (made up)",
        f"{explanation.gland.planimetry_ml:.1f} mL by planimetry",
        f"{explanation.gland.ellipsoid_ml:.1f} mL by ellipsoid",
        "7.2 ng/mL",
        f"{explanation.psa_density.value:.2f} ng/mL/mL",
        "3 T (ACME)",
        "2026-01-31",
        "a note on synthetic",
    ):
        assert said in page.text


def test_the_category_and_the_index_region_stand_first(page, explanation):
    assert explanation.category.category == 5
    assert page.text.index("PI-RADS 5: very high") < page.text.index("Suspicious region 1: PI-RADS 5")
    assert "Index region number 1" in page.text


def test_the_table_holds_each_region_with_its_place_size_and_scores(html, explanation):
    table = html[html.index('<table class="regions">') :]
    rows = re.findall(r"<tr>.*?</tr>", table[table.index("<tbody>") : table.index("</tbody>")], re.DOTALL)
    assert len(rows) == 2
    first, second = (Page(r).text for r in rows)
    assert "left posterolateral PZ, mid-gland" in first
    assert "10.0 mm axial, in-plane, on ADC, slice 7" in first
    assert "right anterior TZ, mid-gland 100%" in second
    assert "4 or 3" in second  # the category, with what is within reach
    assert "T2W score uncertain" in second
    assert "mask without rationale: a made-up remark" in second


def test_every_step_is_a_row_with_question_answer_rule_and_speaker(html, explanation):
    for lesion in explanation.lesions:
        article = html[html.index(f'<article id="region-{lesion.number}">') :].partition("</article>")[0]
        text = Page(article).text
        for step in lesion.rationale.steps:
            assert step.question in text
            assert step.rule in text
        assert article.count('<th scope="row">') == len(lesion.rationale.steps)


def test_a_models_answer_has_its_probability_as_bar_and_the_alternatives(html):
    pattern = row(html, "Which pattern does the region show on T2W?")
    text = Page(pattern).text
    assert "focal" in text
    assert "0.86" in text
    assert "diffuse 0.09" in text
    assert 'style="width:86.0%"' in pattern
    assert 'class="chip by-model"' in pattern


def test_a_readers_answer_looks_different_and_keeps_the_original(html):
    margin = row(html, "margin of the region on T2W")
    assert 'class="reader' in margin
    assert 'class="chip by-reader">reader Dr. Reader<' in margin
    assert "<s>circumscribed</s>" in margin
    assert "spiculated" in margin
    score = row(html, "Which T2W score follows?")  # not overridden itself, but changed by it
    assert "before the reader spoke" in score
    assert "<s>4</s>" in score
    assert 'class="reader' not in score


def test_an_untouched_region_shows_no_reader(html):
    article = html[html.index('<article id="region-2">') :].partition("</article>")[0]
    assert "by-reader" not in article
    assert "<s>" not in article


def test_every_concept_has_a_bar(html, explanation):
    lesion = explanation.lesions[0]
    article = html[html.index('<article id="region-1">') :].partition("</article>")[0]
    for reading in lesion.readings:
        phrase = lexicon.load().concept(reading.concept).phrase
        line = next(r for r in re.findall(r"<tr.*?</tr>", article, re.DOTALL) if f'title="{reading.concept}' in r)
        assert phrase in line
        assert f"width:{100 * reading.probability:.1f}%" in line


def test_the_suspicion_shows_its_parts(html, explanation):
    parts = explanation.lesions[0].suspicion
    text = Page(html[html.index('<article id="region-1">') :].partition("</article>")[0]).text
    assert f"{parts.residual_share:.0%} of its contributions come from the network beyond the readings" in text
    assert f"residual of the network {parts.residual:+.2f}" in text
    assert "T2W pattern +0.17" in text


def test_each_sequence_has_its_image_and_its_own_evidence(html):
    article = html[html.index('<article id="region-1">') :].partition("</article>")[0]
    alts = [a["alt"] for a in Page(article).all("img")]
    assert len(alts) == 9
    for name, last in (("T2W", "T2W"), ("ADC", "on ADC"), ("high-b", "on high-b")):
        own = [a for a in alts if a.startswith(f"{name}, slice ")]
        assert len(own) == 3
        assert own[0].endswith("suspicious region 1")
        assert all(": evidence of " in a for a in own[1:])
        if last != "T2W":
            assert all(last in a for a in own[1:])
    assert len({a["src"] for a in Page(article).all("img")}) == 9


def test_pictures_name_slice_diameter_and_colour_scale(page):
    assert re.search(r"slice \d+ of 14 \(S \d+\.\d mm\); line: 10\.0 mm in-plane between", page.text)
    assert "below 0.50 it is transparent" in page.text
    assert page.all("lineargradient") or page.all("linearGradient")


def test_the_sector_map_is_inline_with_the_lit_sectors(html):
    lit = re.findall(r'id="([\w-]+)" class="sector lit"', html)
    assert set(lit) == {"all-PZpl-mid-L", "all-TZa-mid-R", "region-1-PZpl-mid-L", "region-2-TZa-mid-R"}
    assert "never claimed" in html


def test_quality_shows_every_flag_with_its_status(html, explanation):
    table = html[html.index('<section id="quality">') :].partition("</section>")[0]
    rows = re.findall(r"<tr>.*?</tr>", table.partition("<tbody>")[2], re.DOTALL)
    assert len(rows) == len(explanation.quality)
    for flag, line in zip(explanation.quality, rows, strict=True):
        text = Page(line).text
        assert text.startswith(f"{flag.sequence} {flag.item} {flag.status}")


def test_provenance_names_inputs_bundle_versions_thresholds_and_time(html, explanation):
    text = Page(html[html.index('<section id="provenance">') :]).text
    for part in explanation.provenance.inputs:
        assert part["sha256"][:16] in text
        assert f'title="{part["sha256"]}"' in html
    for said in ("bundle of synthetic 0.0.1", "CC-BY-4.0", "lexicon ", "suspicion 0.4", "cpu, float32", "0.60 s"):
        assert said in text


def test_what_was_dropped_is_said_with_its_reason(page):
    assert "dropped: too small (synthetic) 0.31 0.12 mL L 16, A 8, S 25 mm" in page.text


def test_an_uncertain_zone_shows_both_tables():
    explanation = make_explanation(lesions=(MIXED,))
    other = explanation.lesions[0].rationale.other
    page = Page(render_report(explanation))
    assert f"with the tables of the {lexicon.ZONE_NAMES[other.zone]}" in page.text
    assert "A reader has to choose the zone" in page.text
    assert f"category {other.category}," in page.text


def test_a_negative_study_is_a_result_with_evidence(negative):
    assert "No suspicious region found" in negative.text
    assert "PI-RADS 1 (very low): no suspicious region" in negative.text
    assert len(negative.all("img")) == 9
    assert "none reaches 0.50" in negative.text
    assert "dropped: too small" in negative.text
    assert not [a for _, a in negative.elements if a.get("class") == "sector lit"]


def test_a_negative_study_is_shown_where_evidence_is_highest():
    # Evidence without a region: the candidate was dropped, its evidence stays.
    found = make_explanation(lesions=(PZ_LEFT,))
    text = Page(render_report(replace(found, lesions=()))).text
    assert "on the slice of the highest one" in text
    assert "up to 0.9" in text


def test_an_absent_sequence_is_said_and_the_category_is_x():
    page = Page(render_report(make_explanation(lesions=(), roles=("t2w",))))
    assert "PI-RADS X (cannot be assigned)" in page.text
    assert "ADC is not in this study: no picture, no evidence from it." in page.text
    assert "absent: no ADC readings, DWI score X" in page.text
    assert len(page.all("img")) == 3


def test_a_region_without_diffusion_has_score_x_and_no_diffusion_bars():
    explanation = make_explanation(lesions=(TZ_RIGHT,), roles=("t2w",))
    text = Page(render_report(explanation)).text
    assert "DWI X" in text
    assert "the sequence is absent: nothing was read" in text


def test_without_t2w_the_adc_is_the_frame():
    page = Page(render_report(make_explanation(lesions=(PZ_LEFT,), roles=("adc", "hbv"))))
    assert "absent: no T2W readings, T2W score X" in page.text
    assert len(page.all("img")) == 6


def test_without_a_gland_nothing_is_claimed_about_it():
    explanation = replace(make_explanation(lesions=(PZ_LEFT,), gland=False, psa=None), dropped=())
    text = Page(render_report(explanation)).text
    assert "no gland was found" in text
    assert "PSA density not available" in text
    assert "No candidate was dropped." in text


def test_a_reason_cannot_break_out_of_the_table(explanation):
    dropped = Dropped(0.2, (0.0, 0.0, 0.0), 0.1, "</td></tr></table><h1>x</h1>")
    page = Page(render_report(replace(explanation, lesions=(), dropped=(dropped,))))
    assert len(page.all("h1")) == 1


def test_importing_the_room_loads_neither_jinja_nor_matplotlib(repository):
    code = (
        "import sys, MedRationaleLogic.export\n"
        "from MedRationaleLogic.export import ris_text, to_json\n"
        "print([m for m in ('jinja2', 'matplotlib', 'torch', 'SimpleITK') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=repository, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
