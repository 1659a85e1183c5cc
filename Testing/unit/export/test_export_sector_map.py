"""The sector map as XML: all sectors, the lit ones, sides, and nothing that a name could break."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from MedRationaleLogic.export import explanation_map_svg, sector_map_svg
from MedRationaleLogic.export.palette import CATEGORY_COLOURS, luminance, text_on
from MedRationaleLogic.pirads.sectors import SECTORS
from Testing.explanation_factory import MIXED, PZ_LEFT, TZ_RIGHT, make_explanation

SVG = "{http://www.w3.org/2000/svg}"
SHARES = {"PZpl-mid-L": 0.62, "PZpm-mid-L": 0.25, "TZp-mid-L": 0.13}


def sectors(svg: str) -> dict[str, ElementTree.Element]:
    root = ElementTree.fromstring(svg)
    found = [e for e in root.iter(f"{SVG}g") if "data-sector" in e.attrib]
    assert len({e.get("data-sector") for e in found}) == len(found)
    return {str(e.get("data-sector")): e for e in found}


def points(group: ElementTree.Element) -> np.ndarray:
    path = group.find(f"{SVG}path")
    assert path is not None
    numbers = [float(v) for v in re.findall(r"-?\d+\.\d+", str(path.get("d")))]
    return np.array(numbers).reshape(-1, 2)


def test_all_41_sectors_are_drawn_with_a_name():
    drawn = sectors(sector_map_svg(SHARES))
    assert set(drawn) == {s.key for s in SECTORS}
    for sector in SECTORS:
        label = str(drawn[sector.key].get("aria-label"))
        assert label.startswith(sector.long_name)
        assert drawn[sector.key].findtext(f"{SVG}title") == label


def test_exactly_the_given_sectors_are_lit_with_their_share():
    drawn = sectors(sector_map_svg(SHARES, colour="#b3202c"))
    lit = {key: e for key, e in drawn.items() if "lit" in str(e.get("class")).split()}
    assert set(lit) == set(SHARES)
    assert {key: float(str(e.get("data-share"))) for key, e in lit.items()} == SHARES
    assert "62%" in str(lit["PZpl-mid-L"].get("aria-label"))


def test_the_share_is_also_written_in_the_picture():
    texts = [e.text for e in ElementTree.fromstring(sector_map_svg(SHARES)).iter(f"{SVG}text")]
    assert {"62%", "25%", "13%"} <= set(texts)


def test_a_bigger_share_is_darker():
    drawn = sectors(sector_map_svg(SHARES, colour="#b3202c"))
    fills = [str(drawn[key].find(f"{SVG}path").get("fill")) for key in SHARES]  # type: ignore[union-attr]
    assert luminance(fills[0]) < luminance(fills[1]) < luminance(fills[2])


def test_zones_without_a_mask_are_named_not_segmented():
    drawn = sectors(sector_map_svg({}))
    for sector in SECTORS:
        unclaimed = sector.zone in ("CZ", "AFS", "US", "SV")
        assert ("not segmented" in str(drawn[sector.key].get("aria-label"))) == unclaimed


def test_the_patients_right_is_on_the_left_and_anterior_on_top():
    drawn = sectors(sector_map_svg({}))
    for sector in SECTORS:
        if sector.side == "R":
            other = drawn[sector.key.removesuffix("R") + "L"]
            assert points(drawn[sector.key]).max(0)[0] <= points(other).min(0)[0] + 1e-6
    for level in ("base", "mid", "apex"):
        assert points(drawn[f"PZa-{level}-R"]).mean(0)[1] < points(drawn[f"PZpm-{level}-R"]).mean(0)[1]
        assert points(drawn[f"TZa-{level}-L"]).mean(0)[1] < points(drawn[f"TZp-{level}-L"]).mean(0)[1]


@pytest.mark.parametrize("level", ["base", "mid", "apex"])
def test_the_sectors_of_a_section_fill_it_without_overlap(level):
    outlines = [
        points(e) for key, e in sectors(sector_map_svg({})).items() if key.split("-")[1] == level and key[:2] != "US"
    ]
    everything = np.concatenate(outlines)
    (x0, y0), (x1, y1) = everything.min(0), everything.max(0)
    grid = np.stack(np.meshgrid(np.arange(x0, x1, 0.7), np.arange(y0, y1, 0.7)), -1).reshape(-1, 2)
    covered = sum(Outline(o).contains_points(grid, radius=-1e-3).astype(int) for o in outlines)
    assert (covered > 1).mean() < 0.004
    inner = grid[
        (abs(grid[:, 0] - (x0 + x1) / 2) < 0.3 * (x1 - x0)) & (abs(grid[:, 1] - (y0 + y1) / 2) < 0.3 * (y1 - y0))
    ]
    missed = sum(Outline(o).contains_points(inner).astype(int) for o in outlines) == 0
    assert missed.mean() < 0.006


def test_ids_are_prefixed_and_unique_over_two_maps_in_one_document():
    both = sector_map_svg({}, prefix="region-1") + sector_map_svg({}, prefix="region-2")
    ids = Counter(re.findall(r' id="([^"]+)"', both))
    assert set(ids.values()) == {1}
    assert "region-2-PZpl-mid-L" in ids


def test_the_map_has_an_accessible_name_and_says_what_is_lit():
    root = ElementTree.fromstring(sector_map_svg(SHARES, title="A & <b>"))
    assert root.findtext(f"{SVG}title") == "A & <b>"
    assert "left posterolateral peripheral zone, mid-gland: 62%" in str(root.findtext(f"{SVG}desc"))
    assert root.get("aria-labelledby") == "map-title"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sector_map_svg({"PZ-mid": 0.5}), KeyError, "no sector"),
        (lambda: sector_map_svg({"SV---R": 1.2}), ValueError, "0 to 1"),
        (lambda: sector_map_svg({"SV---R": 0.5}, colour="red"), ValueError, "#rrggbb"),
        (lambda: sector_map_svg({}, prefix='"><script>'), ValueError, "prefix"),
    ],
)
def test_what_is_no_map_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_map_of_an_explanation_names_every_region_and_shows_the_worst_one():
    explanation = make_explanation(lesions=(PZ_LEFT, TZ_RIGHT, MIXED))
    drawn = sectors(explanation_map_svg(explanation))
    lit = {key for key, e in drawn.items() if "lit" in str(e.get("class")).split()}
    assert lit == {key for lesion in explanation.lesions for key, _ in lesion.measures.sectors}
    shared = str(drawn["TZa-mid-R"].get("aria-label"))
    assert "region 2" in shared
    assert "region 3" in shared
    assert explanation.lesion(2).category == 4  # region 3 is a 3: the colour is region 2's, which lies there whole
    assert drawn["TZa-mid-R"].find(f"{SVG}path").get("fill") == CATEGORY_COLOURS[4]  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------- the map of a page


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def dark(explanation, **more) -> str:
    return explanation_map_svg(explanation, theme="dark", **more)


def test_every_lit_sector_of_the_dark_map_can_be_clicked():
    explanation = make_explanation(lesions=(PZ_LEFT, TZ_RIGHT, MIXED))
    drawn = sectors(dark(explanation))
    assert set(drawn) == {s.key for s in SECTORS}
    for key, element in drawn.items():
        classes = str(element.get("class")).split()
        by = [x for x in explanation.lesions if key in dict(x.measures.sectors)]
        assert ("lit" in classes) == ("pointer" in classes) == bool(by)
        assert (element.get("cursor") == "pointer") == bool(by)
        strongest = max(by, key=lambda x: (int(x.category), -x.number), default=None)
        assert element.get("data-lesion") == (None if strongest is None else str(strongest.number))
        assert element.findtext(f"{SVG}title") == element.get("aria-label")
        assert "selected" not in classes


def test_the_selected_regions_sectors_are_marked_and_named_first():
    explanation = make_explanation(lesions=(PZ_LEFT, TZ_RIGHT, MIXED))
    svg = dark(explanation, selected=3)
    own = {key for key, _ in explanation.lesion(3).measures.sectors}
    marked = {k: e for k, e in sectors(svg).items() if "selected" in str(e.get("class")).split()}
    assert set(marked) == own
    assert {e.get("data-lesion") for e in marked.values()} == {"3"}
    assert {e.find(f"{SVG}path").get("stroke") for e in marked.values()} == {"#ffffff"}  # type: ignore[union-attr]
    assert sectors(svg)["TZa-mid-R"].find(f"{SVG}path").get("fill") == CATEGORY_COLOURS[4]  # type: ignore[union-attr]
    shared = [e.text for e in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert "3+" in shared  # another region lies there, too
    later = [str(e.get("data-sector")) for e in ElementTree.fromstring(svg).iter(f"{SVG}g") if e.get("data-sector")]
    mid = [key for key in later if key.split("-")[1] == "mid"]
    assert set(mid[-len(own) :]) == own  # no neighbour's border lies over theirs
    assert dark(explanation, selected=9) == dark(explanation)


def test_the_dark_map_is_legible_at_280_pixels():
    root = ElementTree.fromstring(dark(make_explanation(lesions=(PZ_LEFT, TZ_RIGHT, MIXED)), selected=1))
    _, _, width, height = (float(v) for v in str(root.get("viewBox")).split())
    assert width <= 280
    sizes = [float(str(e.get("font-size"))) for e in root.iter(f"{SVG}text")]
    assert min(sizes) >= 10
    for text in root.iter(f"{SVG}text"):
        assert 0 <= float(str(text.get("x"))) <= width
        assert 0 <= float(str(text.get("y"))) <= height
    outlines = [points(e) for e in sectors(ElementTree.tostring(root, "unicode")).values()]
    assert np.concatenate(outlines).min() >= 0
    assert (np.concatenate(outlines).max(0) <= (width, height)).all()


@pytest.mark.parametrize("score", list(CATEGORY_COLOURS))
@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_numbers_and_borders_of_the_dark_map_stand_out(score, share):
    explanation = make_explanation(lesions=(PZ_LEFT,))
    lesion = explanation.lesions[0]
    rationale = replace(lesion.rationale, path=replace(lesion.rationale.path, category=score))
    measures = replace(lesion.measures, sectors=(("TZa-mid-R", share),))
    changed = explanation.with_lesion(replace(lesion, rationale=rationale, measures=measures))
    root = ElementTree.fromstring(dark(changed))
    path = next(e for e in root.iter(f"{SVG}g") if e.get("data-lesion")).find(f"{SVG}path")
    number = next(e for e in root.iter(f"{SVG}text") if e.text == "1")
    assert path is not None
    assert contrast(str(number.get("fill")), str(path.get("fill"))) >= 4.5
    unlit = str(sectors(dark(changed))["TZa-mid-L"].find(f"{SVG}path").get("fill"))  # type: ignore[union-attr]
    assert contrast(str(path.get("stroke")), unlit) >= 3
    for text in root.iter(f"{SVG}text"):
        if text.text != "1":
            assert contrast(str(text.get("fill")), "#1b222c") >= 4.5


def test_the_maps_of_the_report_take_no_clicks():
    light = explanation_map_svg(make_explanation(), selected=1)
    assert light == explanation_map_svg(make_explanation())
    for word in ("data-lesion", 'pointer"', "selected"):
        assert word not in light


def test_no_text_of_a_study_is_in_the_map():
    hostile = make_explanation(name="<script>alert(1)</script>")
    assert dark(hostile, selected=1) == dark(make_explanation(), selected=1)
    assert "script" not in dark(hostile)


@pytest.mark.parametrize("score", list(CATEGORY_COLOURS))
def test_category_colours_carry_readable_text(score):
    colour = CATEGORY_COLOURS[score]
    high, low = sorted((luminance(colour), luminance(text_on(colour))), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 4.5
