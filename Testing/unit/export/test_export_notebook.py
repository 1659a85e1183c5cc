"""The notebook's figure: what is on it, where, and that it touches nothing else; and the example notebook, run."""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

import MedRationaleLogic
from MedRationaleLogic.export import figures, words
from MedRationaleLogic.export.notebook import ExplanationFigure, show
from MedRationaleLogic.export.palette import CATEGORY_COLOURS, OUTLINE_COLOURS, evidence_colour
from MedRationaleLogic.inference.explanation import NOTICE
from MedRationaleLogic.pirads import lexicon, rationale
from Testing.explanation_factory import CENTER, MIXED, PZ_LEFT, TZ_RIGHT, flipped, make_explanation


@pytest.fixture(scope="module")
def explanation():
    return made()


@pytest.fixture(scope="module")
def negative():
    return made(lesions=())


made = cache(make_explanation)


@cache
def drawn(number: int | None = None, concepts: tuple[str, ...] | None = None, *, dark: bool = True):
    """The figure of the explanation that most tests look at."""
    return show(made(), number, concepts, dark=dark)


def read_by_a_reader(explanation, number):
    """A region that a reader drew and the network could not read."""
    drawn = explanation.lesion(number)
    findings = rationale.Findings(zone_shares=drawn.measures.zone_shares, attributes={}, size_mm=9.0, available=set())
    unread = replace(
        drawn, origin="reader", suspicion=None, readings=(), attributes={}, rationale=rationale.build(findings)
    )
    return explanation.with_lesion(unread)


@cache
def pixels(figure: ExplanationFigure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("RGB")).astype(int)


def picture(figure: ExplanationFigure, label: str) -> np.ndarray:
    """The pixels of one picture, cut out of the rendered figure."""
    axes = next(a for a in figure.axes if a.get_label() == label)
    height = round(figure.bbox.height)
    box = axes.get_window_extent()
    rows = slice(height - round(box.y1), height - round(box.y0))
    return pixels(figure)[rows, round(box.x0) : round(box.x1)]


def labels(figure: ExplanationFigure) -> list[str]:
    return [a.get_label() for a in figure.axes if a.get_label() not in ("words", "evidence colours")]


def text(figure: ExplanationFigure) -> str:
    return " ".join(figure.words)


def projected(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask (rows, columns) of a slice's part, in the pixels of a picture."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(shape[:2], mask.shape, strict=True))
    return mask[np.ix_(rows, columns)]


# ------------------------------------------------------------------------------------------------------ the pictures


def sequences(figure: ExplanationFigure) -> list[tuple[str, bool]]:
    """Of each picture its sequence, and whether evidence lies over it."""
    return [(label.partition(":")[0], ":" in label) for label in labels(figure)]


def test_each_sequence_stands_with_its_own_evidence_and_the_frame_also_without():
    assert sequences(drawn(1)) == [("T2W", False), ("T2W", True), ("ADC", True), ("high-b", True)]


def test_the_leading_map_is_an_answer_of_its_sequence_that_speaks_for_its_score(explanation):
    known = lexicon.load()
    for lesion in explanation.lesions:
        shown = {label.partition(": ")[2] for label in labels(drawn(lesion.number)) if ":" in label}
        zone = lesion.rationale.zone
        for role, name in (("t2w", "T2W"), ("adc", "ADC"), ("hbv", "high-b")):
            answers = [s.evidence for s in lesion.rationale.steps if s.sequence == role and s.evidence is not None]
            score = lesion.rationale.t2w if role == "t2w" else lesion.rationale.dwi
            speaking = [c for c in answers if score in known.concept(c).supports.get(zone, ())]
            best = {words.concept_phrase(c).removesuffix(f" on {name}") for c in speaking or answers}
            assert len(best & shown) == 1
        assert words.concept_phrase(lesion.leading_concept).partition(" on ")[0] in shown


def test_a_picture_is_the_reports_pixel_for_pixel(explanation):
    lesion, other = explanation.lesions
    part = figures.window(explanation, lesion.measures.key_slice, [lesion.mask])
    outlines = [
        figures.Outline(other.mask, "#ffffff", 0.9, "dotted"),
        figures.Outline(lesion.mask, "#ffffff", 1.2),
    ]
    uri = figures.draw(explanation, part, "adc", outlines=outlines, zones=True, evidence="adc.marked")
    expected = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")).astype(int)
    got = picture(drawn(1, ("adc.marked",)), "ADC: markedly hypointense")
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("direction", [None, flipped()], ids=["oblique", "flipped"])
def test_the_evidence_lies_over_the_region(direction):
    explanation = make_explanation(lesions=(PZ_LEFT,), direction=direction)
    lesion = explanation.lesions[0]
    plain, shown = show(explanation, 1, []), show(explanation, 1, ["t2.mod_hypo", "adc.marked", "hbv.marked"])
    part = figures.window(explanation, lesion.measures.key_slice, [lesion.mask])
    pixel = figures.PIXELS / part.grid.shape[2]  # of the frame, in the picture
    mm = pixel / part.grid.spacing[2]
    column, row, _ = part.pixel(np.add(CENTER, PZ_LEFT.offset))
    for label in ("T2W: moderately hypointense", "ADC: markedly hypointense", "high-b: markedly hyperintense"):
        image, without = picture(shown, label), picture(plain, label.partition(":")[0])
        region = projected(part.crop(lesion.mask), image.shape)
        # its outline is white, and its middle shows whether the evidence is there
        coloured = (np.ptp(image, axis=-1) > 40) & (np.abs(image - without).max(-1) > 40)
        assert coloured[ndimage.binary_erosion(region, iterations=4)].mean() > 0.9
        # it fades over 3 mm, on grids of 1 to 2 mm
        assert not coloured[~ndimage.binary_dilation(region, iterations=round(5 * mm))].any()
        rows, columns = np.nonzero(coloured)
        assert columns.mean() == pytest.approx((column + 0.5) * pixel, abs=1.5 * mm)
        assert rows.mean() == pytest.approx((row + 0.5) * pixel, abs=1.5 * mm)
        assert columns.mean() > image.shape[1] / 2  # the patient's left
        assert rows.mean() > image.shape[0] / 2  # behind


def test_the_region_is_outlined_in_the_colour_of_its_category_on_the_plain_picture(explanation):
    lesion = explanation.lesions[0]
    image = picture(drawn(1), "T2W")
    colour = np.array([int(OUTLINE_COLOURS[lesion.category][i : i + 2], 16) for i in (1, 3, 5)])
    line = np.abs(image - colour).max(-1) < 60
    part = figures.window(explanation, lesion.measures.key_slice, [lesion.mask])
    region = projected(part.crop(lesion.mask), image.shape)
    border = ndimage.binary_dilation(region, iterations=6) & ~ndimage.binary_erosion(region, iterations=6)
    assert line.sum() > 60
    assert line[border].sum() / line.sum() > 0.9
    # all the way round
    rows, columns = np.nonzero(line & border)
    angles = np.degrees(np.arctan2(rows - np.nonzero(region)[0].mean(), columns - np.nonzero(region)[1].mean()))
    assert len(np.unique(angles // 45)) == 8


def blue(image: np.ndarray) -> np.ndarray:
    return (image[..., 2] - image[..., 0] > 40) & (image[..., 2] > 120)


def test_the_gland_is_outlined_on_every_picture(explanation):
    part = figures.window(explanation, explanation.lesions[0].measures.key_slice, [explanation.lesions[0].mask])
    for label in ("T2W", "ADC", "high-b"):
        line = blue(picture(drawn(1, ()), label))
        gland = projected(part.crop(explanation.zones) > 0, line.shape)
        border = ndimage.binary_dilation(gland, iterations=5) & ~ndimage.binary_erosion(gland, iterations=5)
        assert line[border].sum() > 150


def test_the_diameter_is_on_the_picture_of_the_sequence_that_it_was_measured_on(explanation):
    peripheral, transitional = explanation.lesions
    assert (peripheral.measures.measured_on, transitional.measures.measured_on) == ("ADC", "T2W")
    assert f"line: {transitional.measures.in_plane.mm:.1f} mm in-plane" in drawn(2).words
    assert not [line for line in drawn(1).words if line.startswith("line:")]
    assert f"line: {peripheral.measures.in_plane.mm:.1f} mm in-plane" in drawn(1, ()).words


def test_a_caption_says_how_strong_the_evidence_is_in_this_picture(explanation):
    lesion = explanation.lesions[0]
    sure = text(drawn(1, ("adc.marked",)))
    assert "probability 0.88, evidence up to 0.88 here" in sure
    faint = text(drawn(1, ("adc.diffuse",)))
    assert "probability 0.07, evidence below 0.50 here" in faint
    lower = replace(lesion, measures=replace(lesion.measures, key_slice=lesion.measures.key_slice + 1))
    moved = text(show(explanation.with_lesion(lower), 1, ["adc.marked"]))
    assert f"peak on slice {lesion.reading('adc.marked').peak_slice + 1}" in moved
    assert "peak on slice" not in sure


def test_the_colours_are_the_published_ones_and_start_at_the_threshold(explanation):
    figure = drawn(1)
    axes = next(a for a in figure.axes if a.get_label() == "evidence colours")
    (image,) = axes.get_images()
    row = np.asarray(image.get_array())[0]
    assert to_hex(row[-1]) == evidence_colour(1.0)
    assert to_hex(row[128]) == evidence_colour(128 / 255)
    assert (row[:127, 3] == 0).all()
    assert (row[129:, 3] == 1).all()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.5", "1"]
    said = text(figure)
    assert "transparent below 0.50" in said
    assert "Shown within 6 mm of the outlined gland" in said


# --------------------------------------------------------------------------------------------------------- the words


def test_the_rationale_is_written_beside_the_pictures(explanation):
    lesion = explanation.lesions[1]
    figure = drawn(2)
    lines, said = figure.words, text(figure)
    assert NOTICE in lines
    assert "Research use only" in NOTICE
    assert "PI-RADS 4" in lines
    assert "high; within reach: 3" in lines
    assert "Suspicious region 2 of 2" + ", index region" * (explanation.category.index == "2") in lines
    assert "T2W score 4 (or 3)     DWI score 3     DCE X" in lines
    assert f"{lesion.measures.in_plane.mm:.1f} mm (axial, in-plane, on T2W, slice" in said
    assert "right anterior TZ, mid-gland (100%)" in said
    assert f"slice {lesion.measures.key_slice + 1} of 14" in said
    assert "T2W score uncertain" in lines
    assert "mask without rationale: a made-up remark" in lines
    assert "also plausible: heterogeneous 0.48" in lines
    assert "also plausible: 3" in lines


def test_every_step_has_its_answer_its_probability_and_who_said_it(explanation):
    lesion = explanation.lesions[0]
    rows = table(drawn(1))
    steps = [one for step, below in lesion.rationale.path.branches() for one in (step, *below)]
    assert len(rows) == len(steps) == 16
    for row, step in zip(rows, steps, strict=True):
        assert row[0] == words.step_name(step)
        assert row[1].removesuffix(" ?") == words.answer_words(step.id, step.answer)
        assert row[1].endswith("?") == step.uncertain
        assert row[2] == ("" if step.probability is None else f"{step.probability:.2f}")
        assert row[3] == words.asserted_words(step)
    assert [row[0] for row in rows][1:4] == ["DWI score", "ADC signal", "ADC pattern"]  # the dominant sequence first


def table(figure: ExplanationFigure) -> list[list[str]]:
    """Label, answer, probability and speaker of each row, by where they stand."""
    texts = [t for t in figure.axes[0].texts if t.get_text()]
    top = next(t for t in texts if t.get_text() == "step")
    heads = [next(t for t in texts if t.get_text() == name) for name in ("step", "answer", "prob.", "said by")]
    rows: dict[float, list[str]] = {}
    for one in texts:
        x, y = one.get_position()
        if y <= top.get_position()[1] or one.get_fontsize() != 8 or x < top.get_position()[0]:
            continue
        column = max(i for i, head in enumerate(heads) if x >= head.get_position()[0])
        row = rows.setdefault(round(y, 3), ["", "", "", ""])
        row[column] = one.get_text()
    return [row for row in rows.values() if row[1]]


def test_a_readers_answer_stands_out_with_the_models_below_it():
    explanation = make_explanation(lesions=(PZ_LEFT,), overrides={1: [("t2.margin", "spiculated", "Dr. Reader")]})
    figure = show(explanation)
    mine = [t for t in figure.axes[0].texts if t.get_text() in ("spiculated", "reader Dr.", "Reader")]
    assert len(mine) == 3
    colours = {to_hex(t.get_color()) for t in mine}
    others = {to_hex(t.get_color()) for t in figure.axes[0].texts if t.get_text() == "homogeneous"}
    assert len(colours) == 1
    assert not colours & others
    assert "before: circumscribed" in figure.words
    assert "before: 4" in figure.words  # the score that followed from it


def test_an_uncertain_zone_shows_both_categories():
    explanation = make_explanation(lesions=(MIXED,))
    other = explanation.lesions[0].rationale.other
    figure = show(explanation)
    assert f"By the tables of the {other.zone}: PI-RADS {other.category}" in figure.words
    assert "zone uncertain" in figure.words


def test_a_readers_region_that_nobody_could_read_is_shown_all_the_same(explanation):
    changed = read_by_a_reader(explanation, 2)
    figure = show(changed, 2)
    assert "Suspicious region 2 of 2, outlined by a reader" in figure.words
    assert "PI-RADS X" in figure.words
    assert labels(figure) == ["T2W", "ADC", "high-b"]
    assert not [a for a in figure.axes if a.get_label() == "evidence colours"]
    assert "Evidence:" not in text(figure)


def test_without_a_number_it_is_the_index_region():
    explanation = make_explanation(lesions=(TZ_RIGHT, PZ_LEFT), overrides={2: [("size", 15.0, "Dr. A")]})
    assert explanation.category.index == "2"
    assert "Suspicious region 2 of 2, index region" in show(explanation).words


# -------------------------------------------------------------------------------------------- what is not there


def test_without_a_region_it_says_so_on_the_glands_middle_slice(negative):
    figure = show(negative)
    said = text(figure)
    assert "No suspicious region was outlined. That excludes nothing." in said
    assert f"Gland {negative.gland.planimetry_ml:.0f} mL" in said
    assert NOTICE in figure.words
    there = np.flatnonzero((negative.zones.array > 0).any((1, 2)))
    assert f"slice {(there[0] + there[-1]) // 2 + 1} of 14" in said
    assert labels(figure) == ["T2W", "ADC", "high-b"]
    assert "PI-RADS 1" in figure.words
    assert "dropped: too small (synthetic); 0.12 mL at L 16, A 8, S 25 mm" in said
    assert "step" not in figure.words


def test_without_a_region_evidence_can_be_asked_for(negative):
    assert labels(show(negative, concepts=["adc.marked"])) == ["T2W", "ADC: markedly hypointense", "high-b"]


def test_without_gland_and_region_the_middle_of_the_images_is_shown():
    figure = show(make_explanation(lesions=(), gland=False))
    assert "slice 8 of 14" in text(figure)
    image = picture(figure, "T2W")
    assert image.std() > 5
    assert not blue(image).any()


def test_with_t2w_only_the_other_sequences_are_said_to_be_absent():
    figure = show(make_explanation(roles=("t2w",)), 1)
    assert sequences(figure) == [("T2W", False), ("T2W", True), ("ADC", False), ("high-b", False)]
    assert figure.words.count("not in this study: no picture, no evidence from it") == 2
    assert figure.words.count("absent") == 2
    assert "PI-RADS X" in figure.words
    assert "T2W score 4     DWI score X     DCE X" in figure.words
    assert "ADC window" not in text(figure)
    assert np.ptp(picture(figure, "ADC")[5:100, 5:100], axis=(0, 1)).max() == 0  # nothing is drawn there


def test_without_t2w_the_adc_is_the_frame():
    figure = show(make_explanation(lesions=(PZ_LEFT,), roles=("adc", "hbv")))
    assert sequences(figure) == [("ADC", False), ("T2W", False), ("ADC", True), ("high-b", True)]
    assert figure.words.count("absent") == 1


# --------------------------------------------------------------------------------------------------- the arguments


def test_maps_are_chosen_by_concept(explanation):
    figure = drawn(1, ("hbv.marked", "adc.hypo", "adc.marked", "adc.marked"))
    assert labels(figure) == ["T2W", "ADC: hypointense", "ADC: markedly hypointense", "high-b: markedly hyperintense"]
    assert labels(show(explanation, 1, "adc.marked")) == ["T2W", "ADC: markedly hypointense", "high-b"]
    assert labels(show(explanation, 1, (c for c in ()))) == ["T2W", "ADC", "high-b"]


@pytest.mark.parametrize("number", [3, 0, -1, "1", 1.5])
def test_a_region_that_is_not_there_is_named_with_those_that_are(explanation, number):
    with pytest.raises(ValueError, match=rf"^there is no region {re.escape(repr(number))}; there is 1, 2$"):
        show(explanation, number)


def test_no_region_at_all_is_said(negative):
    with pytest.raises(ValueError, match="there is none: no suspicious region was outlined"):
        show(negative, 1)


@pytest.mark.parametrize("concept", ["adc.nonsense", "dwi.4", "", 7])
def test_a_map_that_is_not_there_is_named_with_those_that_are(explanation, concept):
    with pytest.raises(
        ValueError, match=rf"^there is no evidence map {re.escape(repr(concept))}; there is t2\..*adc\."
    ):
        drawn(1, (concept,))


def test_a_map_of_an_absent_sequence_is_none():
    with pytest.raises(ValueError, match=r"no evidence map 'adc.marked'; there is t2\.[^a]"):
        show(make_explanation(roles=("t2w",)), 1, ["adc.marked"])


@pytest.mark.parametrize("wrong", [None, "folder", 3])
def test_what_is_no_explanation_is_refused(wrong):
    with pytest.raises(ValueError, match=f"show takes an explanation, .* not {type(wrong).__name__}$"):
        show(wrong)


# ------------------------------------------------------------------------------------------------------- the figure


def test_jupyter_gets_a_png_of_the_figures_size_and_the_same_one_each_time(explanation):
    figure = drawn(1)
    data = figure._repr_png_()
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    assert image.size == tuple(round(v) for v in figure.get_size_inches() * figure.dpi)
    assert "Software" not in image.info
    assert show(explanation, 1)._repr_png_() == data


def test_it_is_a_matplotlib_figure_that_can_be_saved(tmp_path):
    assert isinstance(drawn(1), Figure)
    drawn(1).savefig(tmp_path / "figure.pdf")
    drawn(1).savefig(tmp_path / "figure.png", dpi=50)
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert Image.open(tmp_path / "figure.png").size[0] == 575


def test_the_ground_is_dark_or_white(negative):
    assert pixels(drawn(1))[2, 2].max() < 50
    assert pixels(show(negative, dark=False))[2, 2].min() == 255


def test_the_badge_has_the_colour_of_the_category(explanation):
    image = pixels(drawn(1))
    colour = np.array([int(CATEGORY_COLOURS[explanation.lesions[0].category][i : i + 2], 16) for i in (1, 3, 5)])
    assert (np.abs(image - colour).max(-1) <= 2).sum() > 1000


VARIANTS: dict[str, Any] = {
    "two regions": {},
    "long names": {
        "name": "$\\undefined{ $5 " + "x" * 300,
        "overrides": {1: [("t2.capsule", "partial", "Dr. " + "Verylongname" * 9), ("size", 17.2, "$x^2$ Dr. B C D E")]},
    },
    "T2W only": {"roles": ("t2w",)},
    "uncertain zone": {"lesions": (MIXED,)},
    "no region": {"lesions": ()},
}


@pytest.mark.parametrize(("variant", "dpi"), [*((name, 100) for name in VARIANTS), ("two regions", 230)])
def test_words_lie_on_the_figure_and_never_on_each_other_or_on_a_picture(variant, dpi):
    figure = show(make_explanation(**VARIANTS[variant]), dark=False)
    figure.dpi = dpi
    boxes = [(t.get_text(), t.get_window_extent()) for t in figure.axes[0].texts if t.get_text()]
    if variant == "long names":  # a dollar is a dollar
        assert [said for said, _ in boxes if said.startswith("$\\undefined{ $5 xxx") and said.endswith("…")]
        assert [said for said, _ in boxes if "$x^2$" in said]
    width, height = figure.bbox.width, figure.bbox.height
    pictures = [(a.get_label(), a.get_window_extent()) for a in figure.axes if a.get_label() in labels(figure)]
    top, edge = max(there.y1 for _, there in pictures), max(there.x1 for _, there in pictures)
    for i, (said, box) in enumerate(boxes):
        if box.y1 < top and box.x0 < edge:  # what belongs to the pictures ends with them
            assert box.x1 <= edge + 1, said
        assert box.x0 >= 0, said
        assert box.x1 <= width, said
        assert box.y0 >= 0, said
        assert box.y1 <= height, said
        for other, there in (*boxes[i + 1 :], *pictures):
            across = min(box.x1, there.x1) - max(box.x0, there.x0)
            down = min(box.y1, there.y1) - max(box.y0, there.y0)
            assert across <= 1 or down <= dpi / 50, f"{said!r} lies on {other!r}"


def test_a_users_settings_change_nothing_and_are_left_alone(explanation):
    expected = drawn(1)._repr_png_()
    strange = {
        "text.usetex": True, "figure.autolayout": True, "image.origin": "lower", "savefig.facecolor": "red",
        "savefig.bbox": "tight", "savefig.dpi": 33, "font.size": 30, "axes.edgecolor": "green", "image.cmap": "jet",
        "lines.linewidth": 9, "figure.dpi": 40,
    }  # fmt: skip
    with matplotlib.rc_context(strange):
        before = dict(matplotlib.rcParams)
        assert show(explanation, 1)._repr_png_() == expected
        assert dict(matplotlib.rcParams) == before


def test_pyplot_stays_as_it_is(negative):
    import matplotlib.pyplot as plt

    mine = plt.figure()
    try:
        backend, numbers, current = matplotlib.get_backend(), plt.get_fignums(), plt.gcf()
        show(negative)._repr_png_()
        assert (matplotlib.get_backend(), plt.get_fignums()) == (backend, numbers)
        assert plt.gcf() is current is mine
        assert not mine.axes
    finally:
        plt.close(mine)


def test_it_is_loaded_when_it_is_first_asked_for_and_never_loads_pyplot(repository):
    code = (
        "import sys, MedRationaleLogic\n"
        "print([m for m in ('matplotlib', 'torch', 'SimpleITK', 'numpy') if m in sys.modules])\n"
        "show = MedRationaleLogic.show\n"
        "from Testing.explanation_factory import make_explanation\n"
        "assert show(make_explanation(lesions=()))._repr_png_().startswith(b'\\x89PNG')\n"
        "print([m for m in ('matplotlib.pyplot', 'torch', 'tkinter') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=repository, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_show_is_part_of_the_public_face():
    assert MedRationaleLogic.show is show
    assert "show" in MedRationaleLogic.__all__


# ---------------------------------------------------------------------------------------------- the example notebook


@pytest.fixture(scope="module")
def notebook(repository: Path) -> dict[str, Any]:
    return json.loads((repository / "docs" / "notebooks" / "explain.ipynb").read_text(encoding="utf-8"))


def test_the_example_is_a_notebook_of_format_4_without_outputs(notebook):
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]["kernelspec"]) >= {"name", "display_name"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", name) for name in ids)
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        assert all(isinstance(line, str) for line in cell["source"])
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        if cell["cell_type"] == "code":
            assert set(cell) == {"cell_type", "execution_count", "id", "metadata", "outputs", "source"}
            assert cell["execution_count"] is None
            assert cell["outputs"] == []
        else:
            assert cell["cell_type"] == "markdown"
            assert set(cell) == {"cell_type", "id", "metadata", "source"}
    assert "Research use only" in "".join(notebook["cells"][0]["source"])


def run(notebook: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the code cells in order in one namespace; the namespace, and what each cell would display, by its id."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    displayed: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, cell["id"], "exec"), namespace)
        if isinstance(last, ast.Expr):
            displayed[cell["id"]] = eval(compile(ast.Expression(last.value), cell["id"], "eval"), namespace)
    return namespace, displayed


class Known:
    """In the network's place: the explanation by construction, for the study that was read."""

    def __init__(self, *_: Any) -> None:
        pass

    def open(self, study, **_: Any):
        return replace(make_explanation(lesions=(TZ_RIGHT,)), study=study), None


def test_the_example_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch, capsys):
    from MedRationaleLogic.inference import explainer
    from MedRationaleLogic.simulation import sample

    def small_sample(folder: Path) -> sample.SampleFiles:
        files = sample.SampleFiles(folder)
        files.dicom.mkdir(parents=True)
        for role, name in (("t2w", "t2w"), ("adc", "adc"), ("hbv", "hbv_b1400")):
            sitk.WriteImage(made().study.volume(role).to_sitk(), str(files.dicom / f"{name}.nii.gz"))
        return files

    # drawing the sample and running the network on it take twenty seconds, and have tests of their own
    monkeypatch.setattr(sample, "write_sample", small_sample)
    monkeypatch.setattr(explainer, "Explainer", Known)
    monkeypatch.chdir(tmp_path)

    names, displayed = run(notebook)

    assert [p.name for p in tmp_path.iterdir()] == ["medrationale-example"]
    assert isinstance(displayed["show"], ExplanationFigure)
    assert NOTICE in displayed["show"].words
    assert displayed["override"] is not displayed["show"]
    assert "reader Dr." in displayed["override"].words
    assert labels(displayed["override"]) == ["T2W", "ADC: markedly hypointense", "high-b: markedly hyperintense"]
    case, region = names["case"], names["region"]
    assert case.explanation.lesion(region.number).rationale.step("adc.signal").answer == "marked"
    assert case.log[-1].reader == "Dr. Example"
    assert case.verify_log()
    printed = capsys.readouterr().out
    assert region.rationale.explain() in printed
    assert "Dr. Example: adc.signal = marked" in printed
    assert names["evidence"].array.shape == case.study.t2w.array.shape
    assert names["image"].GetOrigin() == pytest.approx(case.study.t2w.geometry.origin)
    assert displayed["results"] == sorted(p.name for p in Path("medrationale-example/results").iterdir())
    assert "explanation.json" in displayed["results"]
    assert Image.open("medrationale-example/region.png").size[0] == 2300
