"""One region on one figure, for a notebook: each sequence with its leading evidence, the rationale in words beside it.

    figure = MedRationaleLogic.show(explanation)             # the index region
    figure = MedRationaleLogic.show(explanation, 2, ["t2.mod_hypo", "adc.marked"], dark=False)
    figure.savefig("region-2.png", dpi=200)

The pictures are those of the report (:mod:`MedRationaleLogic.export.figures`): radiological orientation, evidence on
the sequence that it was read from, transparent below the threshold. pyplot is not used, and a user's matplotlib
settings change nothing.
"""

from __future__ import annotations

import base64
import io
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import imread
from matplotlib.patches import FancyBboxPatch
from numpy.typing import NDArray

from MedRationaleLogic.export import figures, shown, words
from MedRationaleLogic.export.palette import CATEGORY_COLOURS, OUTLINE_COLOURS, evidence_table, text_on
from MedRationaleLogic.export.walk import sequence_of
from MedRationaleLogic.imaging.acquisition import ROLE_NAMES, ROLES, Role
from MedRationaleLogic.imaging.measure import Diameter
from MedRationaleLogic.inference.explanation import NOTICE, Explanation, Lesion
from MedRationaleLogic.pirads.rationale import RationaleStep, ZonePath
from MedRationaleLogic.pirads.rules import Score

__all__ = ["ExplanationFigure", "show"]

# Everything is laid out in pixels, from the top left.
_DPI: Final = 100
_EDGE: Final = 14
_GAP: Final = 10
_TOP: Final = 42
_CAPTION: Final = 44
_SCALE: Final = 180
_SIDE: Final = 432
_COLUMNS: Final = 2
# of the table of steps: where answer, probability (its right end) and speaker stand
_ANSWER_AT, _PROBABILITY_AT, _SPEAKER_AT = 146, 346, 356
_INDENT: Final = 12
_FONT: Final = "DejaVu Sans"  # comes with matplotlib: the same everywhere


class ExplanationFigure(Figure):
    """A matplotlib figure that Jupyter shows as it is, whether or not pyplot is loaded.

    Each picture is one of :attr:`axes`, labelled with its caption.
    """

    @property
    def words(self) -> tuple[str, ...]:
        """All lines that are written on it: for whoever cannot see it, and for searching."""
        return tuple(text.get_text() for axes in self.axes for text in axes.texts)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with style.context("default"):
            self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def show(
    explanation: Explanation,
    lesion: int | None = None,
    concepts: Iterable[str] | None = None,
    *,
    dark: bool = True,
) -> ExplanationFigure:
    """A figure of one suspicious region: T2W, ADC and high-b with evidence, and the rationale. Research use only.

    It shows the slice of the region's largest area. Without a region it shows the middle slice of the gland and says
    that nothing was outlined.

    Args:
        explanation: what is shown.
        lesion: number of the region; the patient's index region if None.
        concepts: ids of the evidence maps to show, each over its own sequence; if None the leading one of each
            sequence, that is the answer that speaks for the sequence's score. Empty: none.
        dark: light words on a dark ground, or dark ones on white.

    Returns:
        a matplotlib figure that Jupyter displays; ``savefig`` writes it.

    Raises:
        ValueError: no explanation, no such region, or no such evidence map; says what there is.
    """
    if not isinstance(explanation, Explanation):
        raise ValueError(
            f"show takes an explanation, as explain() or Case.explanation gives it, not {type(explanation).__name__}"
        )
    region = _region(explanation, lesion)
    chosen = None if concepts is None else _maps(explanation, concepts)
    with style.context("default"):
        return _drawn(explanation, region, chosen, _DARK if dark else _LIGHT)


# ---------------------------------------------------------------------------------------------------- what is shown


def _region(explanation: Explanation, number: int | None) -> Lesion | None:
    if number is None:
        if not explanation.lesions:
            return None
        index = explanation.category.index
        return explanation.lesions[0] if index is None else explanation.lesion(int(index))
    for lesion in explanation.lesions:
        if lesion.number == number:
            return lesion
    there = ", ".join(str(x.number) for x in explanation.lesions)
    raise ValueError(f"there is no region {number!r}; there is {there or 'none: no suspicious region was outlined'}")


def _maps(explanation: Explanation, concepts: Iterable[str]) -> list[str]:
    asked = [concepts] if isinstance(concepts, str) else list(dict.fromkeys(concepts))
    there = list(explanation.evidence)
    for concept in asked:
        if concept not in there:
            raise ValueError(f"there is no evidence map {concept!r}; there is {', '.join(there) or 'none'}")
    return asked


@dataclass(frozen=True)
class _Picture:
    """One picture: a sequence, and what of its evidence lies over it."""

    role: Role
    concept: str | None = None


def _pictures(explanation: Explanation, lesion: Lesion | None, chosen: Sequence[str] | None) -> list[_Picture]:
    """The frame's image as it is, then each sequence with its maps; a sequence without one as it is."""
    found: list[_Picture] = []
    for role in ROLES:
        if chosen is None:
            leading = None if lesion is None else _leading(lesion, role)
            own = [] if leading is None or role not in explanation.study.roles else [leading]
        else:
            own = [c for c in chosen if sequence_of(c) == role]
        found += [_Picture(role, concept) for concept in own] or [_Picture(role)]
    plain = _Picture(explanation.study.roles[0])
    return found if plain in found else [plain, *found]


def _leading(lesion: Lesion, role: Role) -> str | None:
    """The concept to look at first on one sequence: the region's leading one if only that sequence had answered."""
    path = lesion.rationale.path
    own = replace(path, steps=tuple(step for step in path.steps if step.sequence == role))
    return replace(lesion, rationale=replace(lesion.rationale, path=own)).leading_concept


def _slice(explanation: Explanation, lesion: Lesion | None) -> int:
    if lesion is not None:
        return lesion.measures.key_slice
    there = np.flatnonzero((explanation.zones.array > 0).any((1, 2)))
    if there.size:
        return int(there[0] + there[-1]) // 2
    return explanation.frame.geometry.shape[0] // 2


def _caption(
    explanation: Explanation, lesion: Lesion | None, part: figures.Window, picture: _Picture
) -> tuple[str, str]:
    """What a picture shows, and how it stands with that."""
    name = ROLE_NAMES[picture.role]
    if explanation.study.volume(picture.role) is None:
        return name, "not in this study: no picture, no evidence from it"
    if picture.concept is None:
        diameter = _diameter(explanation, lesion, picture)
        return name, "" if diameter is None else f"line: {diameter.mm:.1f} mm in-plane"
    reading = None if lesion is None else lesion.reading(picture.concept)
    said = [] if reading is None else [f"probability {reading.probability:.2f}"]
    threshold = explanation.evidence.threshold
    highest = float(figures.evidence_slice(explanation, part, picture.role, picture.concept).max(initial=0.0))
    seen = f"up to {highest:.2f}" if highest >= threshold else f"below {threshold:.2f}"
    said.append(f"evidence {seen} here")
    if reading is not None and reading.peak_slice not in (None, part.index):
        said.append(f"peak on slice {int(reading.peak_slice or 0) + 1}")
    return f"{name}: {words.concept_phrase(picture.concept).removesuffix(f' on {name}')}", ", ".join(said)


def _diameter(explanation: Explanation, lesion: Lesion | None, picture: _Picture) -> Diameter | None:
    """The diameter, on the plain picture of the sequence that it was measured on (the frame's, where it is absent)."""
    if lesion is None or picture.concept is not None:
        return None
    there = [ROLE_NAMES[role] for role in explanation.study.roles]
    on = lesion.measures.measured_on if lesion.measures.measured_on in there else there[0]
    return lesion.measures.in_plane if ROLE_NAMES[picture.role] == on else None


def _image(
    explanation: Explanation, lesion: Lesion | None, part: figures.Window, picture: _Picture
) -> NDArray[Any] | None:
    """A picture's pixels (rows, columns, RGBA); None without its sequence."""
    if explanation.study.volume(picture.role) is None:
        return None
    # White and thin over evidence: the colour in such a picture is the evidence's.
    plain = picture.concept is None
    outlines = []
    for one in sorted(explanation.lesions, key=lambda x: x is lesion):
        colour = OUTLINE_COLOURS[one.category] if plain else "#ffffff"
        if one is lesion:
            outlines.append(figures.Outline(one.mask, colour, 1.7 if plain else 1.2))
        else:
            outlines.append(figures.Outline(one.mask, colour, 0.9, "dotted"))
    diameter = _diameter(explanation, lesion, picture)
    uri = figures.draw(
        explanation, part, picture.role, outlines=outlines, zones=True, diameter=diameter, evidence=picture.concept
    )
    return np.asarray(imread(io.BytesIO(base64.b64decode(uri.partition(",")[2])), format="png"))


# --------------------------------------------------------------------------------------------------------- its words


@dataclass(frozen=True)
class _Row:
    """A line of the table of steps, and a smaller one below it."""

    depth: int
    label: str
    answer: str
    probability: str
    speaker: str
    below: str = ""
    heading: bool = False
    reader: bool = False
    uncertain: bool = False


def _rows(path: ZonePath) -> Iterator[_Row]:
    for step, below in path.branches():
        yield _row(step, 0, heading=bool(below))
        for one in below:
            yield _row(one, 1)


def _row(step: RationaleStep, depth: int, *, heading: bool = False) -> _Row:
    below = []
    if step.original is not None:
        below.append(f"before: {words.answer_words(step.id, step.original)}")
    if step.uncertain and step.alternatives:
        below.append(f"also plausible: {_alternatives(step)}")
    return _Row(
        depth, words.step_name(step), words.answer_words(step.id, step.answer),
        "" if step.probability is None else f"{step.probability:.2f}", words.asserted_words(step), "; ".join(below),
        heading, step.overridden, step.uncertain,
    )  # fmt: skip


def _alternatives(step: RationaleStep) -> str:
    """The most probable other answer, or all other scores within reach."""
    with_probability = [(answer, p) for answer, p in step.alternatives if p is not None]
    if not with_probability:
        return ", ".join(words.answer_words(step.id, answer) for answer, _ in step.alternatives)
    answer, p = with_probability[0]
    return f"{words.answer_words(step.id, answer)} {p:.2f}"


def _score(name: str, score: Score, reachable: Iterable[Score]) -> str:
    others = words.reachable_words(reachable, score)
    return f"{name} {score}" + (f" (or {others})" if others else "")


def _facts(explanation: Explanation, lesion: Lesion) -> list[str]:
    rationale = lesion.rationale
    path = rationale.path
    size, how = words.lesion_size(lesion)
    index = explanation.category.index
    parts = [f"Suspicious region {lesion.number} of {len(explanation.lesions)}"]
    parts += ["index region"] if index is not None and int(index) == lesion.number else []
    parts += [words.origin_words(lesion)] if lesion.origin == "reader" else []
    scores = "     ".join(
        (_score("T2W score", path.t2w, path.t2w_reachable), _score("DWI score", path.dwi, path.dwi_reachable))
    )
    facts = [f"{size} ({how})", words.sectors_words(lesion), *words.rationale_words(lesion)]
    return [", ".join(parts), *facts, f"{scores}     DCE {path.dce}"]


def _flags(explanation: Explanation, lesion: Lesion | None) -> list[str]:
    """What a reader has to know before trusting the category."""
    return list(dict.fromkeys((*(lesion.all_flags if lesion is not None else ()), *explanation.all_flags)))


def _legend_words(explanation: Explanation, pictures: Sequence[_Picture]) -> str:
    low, high = figures.ADC_WINDOW
    bundle = explanation.provenance.bundle
    said = [
        "Dashed blue: gland and transition zone.",
        "Dotted: other regions, and a diameter that was measured on another slice." if explanation.lesions else "",
        f"ADC window {low:.0f} to {high:.0f} × 10⁻⁶ mm²/s." if "adc" in explanation.study.roles else "",
        "R is the patient's right.",
        f"MedRationale {explanation.provenance.software_version},",
        f"{' '.join(str(bundle[key]) for key in ('name', 'version') if key in bundle)}.",
    ]
    if _with_evidence(pictures):
        threshold = explanation.evidence.threshold
        said[:0] = [f"Evidence: the same colours in every picture, transparent below {threshold:.2f}.", shown.WORDS]
    return " ".join(said)


def _with_evidence(pictures: Sequence[_Picture]) -> bool:
    return any(picture.concept is not None for picture in pictures)


# ----------------------------------------------------------------------------------------------------------- drawing


@dataclass(frozen=True)
class _Look:
    """Colours of the figure around the pictures."""

    ground: str
    ink: str
    soft: str
    line: str
    warn: str
    reader: str


_DARK: Final = _Look("#14181f", "#e8ebf0", "#a3adba", "#343c48", "#f0b95b", "#8ab8ff")
_LIGHT: Final = _Look("#ffffff", "#171b22", "#525c6b", "#d0d6de", "#8a5300", "#1d4fa8")


class _Sheet:
    """A sheet of words in pixels: measures, wraps and notes what is to be written where, then writes it at once."""

    def __init__(self, look: _Look) -> None:
        self.look = look
        self._texts: list[tuple[float, float, str, dict[str, Any]]] = []
        # glyphs are fitted to pixels, so a line that is saved at another resolution may be some pixels longer
        self._renderers = [(scale, FigureCanvasAgg(Figure(dpi=_DPI * scale)).get_renderer()) for scale in (1, 4)]

    def width(self, text: str, size: float, weight: str = "normal") -> float:
        """Of one line, pixels; at whatever resolution it is longest."""
        font = FontProperties(family=_FONT, size=size, weight=weight)
        return max(r.get_text_width_height_descent(text, font, ismath=False)[0] / k for k, r in self._renderers)

    def wrapped(self, text: str, width: float, size: float, weight: str = "normal") -> list[str]:
        """A text in lines that fit a width; a word that does not fit is cut."""
        lines: list[str] = []
        for word in text.split():
            piece = self.cut(word, width, size, weight)
            joined = f"{lines[-1]} {piece}" if lines else piece
            if lines and self.width(joined, size, weight) <= width:
                lines[-1] = joined
            else:
                lines.append(piece)
        return lines

    def cut(self, text: str, width: float, size: float, weight: str = "normal") -> str:
        """A text, or as much of it as fits a width."""
        if self.width(text, size, weight) <= width:
            return text
        kept = bisect_right(range(1, len(text)), width, key=lambda n: self.width(f"{text[:n]}…", size, weight))
        return f"{text[:kept]}…"

    def line(
        self, x: float, y: float, text: str, size: float, colour: str | None = None, *, weight: str = "normal",
        align: str = "left",
    ) -> None:  # fmt: skip
        """One line with its upper edge at ``y``."""
        font = {"fontfamily": _FONT, "fontsize": size, "fontweight": weight, "ha": align, "va": "top"}
        self._texts.append((x, y, text, {**font, "color": colour or self.look.ink}))

    def paragraph(
        self, x: float, y: float, text: str, width: float, size: float, colour: str | None = None, *,
        weight: str = "normal", pitch: float = 1.42,
    ) -> float:  # fmt: skip
        """Wrapped lines; returns where the next one would begin."""
        height = size * _DPI / 72 * pitch
        for text_line in self.wrapped(text, width, size, weight):
            self.line(x, y, text_line, size, colour, weight=weight)
            y += height
        return y

    def write(self, axes: Axes) -> None:
        """Put everything on axes whose units are pixels from the top left."""
        for x, y, text, font in self._texts:
            # a name may hold a dollar sign, and is not mathematics
            axes.text(x, y, text, parse_math=False, **font)


def _drawn(
    explanation: Explanation, lesion: Lesion | None, chosen: Sequence[str] | None, look: _Look
) -> ExplanationFigure:
    index = _slice(explanation, lesion)
    part = figures.window(explanation, index, [] if lesion is None else [lesion.mask])
    pictures = _pictures(explanation, lesion, chosen)
    images = [_image(explanation, lesion, part, one) for one in pictures]
    wide = figures.PIXELS
    high = next(image.shape[0] for image in images if image is not None)
    rows = -(-len(pictures) // _COLUMNS)
    side_at = _EDGE + _COLUMNS * (wide + _GAP) + _GAP
    width = side_at + _SIDE + _EDGE

    sheet = _Sheet(look)
    _head(sheet, explanation, index, width)
    places = []
    for number, picture in enumerate(pictures):
        x = _EDGE + (number % _COLUMNS) * (wide + _GAP)
        y = _TOP + (number // _COLUMNS) * (high + _CAPTION)
        head, said = _caption(explanation, lesion, part, picture)
        sheet.line(x, y + high + 5, sheet.cut(head, wide, 8.5, "bold"), 8.5, weight="bold")
        sheet.line(x, y + high + 21, sheet.cut(said, wide, 7.5), 7.5, look.soft)
        places.append((x, y, head))
    legend_at = _TOP + rows * (high + _CAPTION) + 4
    scaled = _with_evidence(pictures)
    legend_x = _EDGE + (_SCALE + 20 if scaled else 0)
    said = _legend_words(explanation, pictures)
    left = sheet.paragraph(legend_x, legend_at, said, side_at - 2 * _GAP - legend_x, 7.5, look.soft)
    if lesion is None:
        bottom = _empty_side(sheet, explanation, side_at)
    else:
        bottom = _side(sheet, explanation, lesion, side_at)
    height = math.ceil(max(left, legend_at + 36, bottom)) + _EDGE

    figure = ExplanationFigure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=look.ground)
    paper = figure.add_axes((0.0, 0.0, 1.0, 1.0), label="words")
    paper.set_axis_off()
    paper.set_xlim(0, width)
    paper.set_ylim(height, 0)
    score = lesion.category if lesion is not None else explanation.category.category
    _badge(paper, side_at, score)
    paper.plot([side_at - _GAP] * 2, [_TOP, height - _EDGE], color=look.line, linewidth=0.8)
    sheet.write(paper)
    for (x, y, head), image in zip(places, images, strict=True):
        at = (x / width, 1 - (y + high) / height, wide / width, high / height)
        _put(figure.add_axes(at, label=head), image, look)
    if scaled:
        at = (_EDGE / width, 1 - (legend_at + 14) / height, _SCALE / width, 12 / height)
        _scale(figure.add_axes(at, label="evidence colours"), explanation.evidence.threshold, look)
    return figure


def _put(axes: Axes, image: NDArray[Any] | None, look: _Look) -> None:
    if image is not None:
        axes.set_axis_off()
        axes.imshow(image, aspect="auto", interpolation="antialiased")
        return
    axes.set_facecolor("none")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(look.line)
    axes.text(0.5, 0.5, "absent", ha="center", va="center", color=look.soft, fontsize=9, fontfamily=_FONT)


def _scale(axes: Axes, threshold: float, look: _Look) -> None:
    """The colours of evidence 0 to 1, empty below the threshold."""
    table = np.asarray(evidence_table())
    there = np.linspace(0, 1, len(table)) >= threshold
    axes.imshow(np.concatenate([table, there[:, None]], axis=1)[None], extent=(0, 1, 0, 1), aspect="auto")
    axes.set_facecolor("none")
    axes.set_yticks([])
    axes.set_xticks(sorted({0.0, round(threshold, 2), 1.0}))
    axes.set_xticklabels([f"{value:g}" for value in axes.get_xticks()], fontfamily=_FONT)
    axes.tick_params(labelsize=7.5, colors=look.soft, length=2, pad=2)
    for spine in axes.spines.values():
        spine.set_color(look.soft)
        spine.set_linewidth(0.6)


def _badge(axes: Axes, x: float, score: Score) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, _TOP), 96, 26, boxstyle="round,pad=0,rounding_size=4", facecolor=CATEGORY_COLOURS[score], linewidth=0
        )
    )


def _head(sheet: _Sheet, explanation: Explanation, index: int, width: float) -> None:
    right = sheet.width(NOTICE, 9, "bold")
    sheet.line(width - _EDGE, 14, NOTICE, 9, sheet.look.warn, weight="bold", align="right")
    place = words.slice_words(explanation.frame.geometry, index)
    room = width - 3 * _EDGE - right
    name = sheet.cut(explanation.study.name, room - sheet.width(place, 8.5) - _EDGE, 10, "bold")
    sheet.line(_EDGE, 13, name, 10, weight="bold")
    sheet.line(_EDGE * 2 + sheet.width(name, 10, "bold"), 15, place, 8.5, sheet.look.soft)


def _category(sheet: _Sheet, x: float, score: Score, reachable: str) -> None:
    """The words in and beside the badge."""
    ink = text_on(CATEGORY_COLOURS[score])
    sheet.line(x + 48, _TOP + 6, f"PI-RADS {score}", 10, ink, weight="bold", align="center")
    text = words.CATEGORY_WORDS[score] + (f"; within reach: {reachable}" if reachable else "")
    sheet.line(x + 108, _TOP + 6, text, 10, weight="bold")


def _side(sheet: _Sheet, explanation: Explanation, lesion: Lesion, x: float) -> float:
    rationale, look = lesion.rationale, sheet.look
    _category(sheet, x, lesion.category, words.reachable_words(rationale.category_reachable, lesion.category))
    y: float = _TOP + 38
    first, *facts = _facts(explanation, lesion)
    y = sheet.paragraph(x, y, first, _SIDE, 9, weight="bold") + 2
    for fact in facts[:-1]:
        y = sheet.paragraph(x, y, fact, _SIDE, 8, look.soft) + 1
    sheet.line(x, y + 6, facts[-1], 9, weight="bold")
    y += 34
    for at, text, align in ((0, "step", "left"), (_ANSWER_AT, "answer", "left"), (_PROBABILITY_AT, "prob.", "right"),
                            (_SPEAKER_AT, "said by", "left")):  # fmt: skip
        sheet.line(x + at, y, text, 7.5, look.soft, align=align)
    y += 17
    for row in _rows(rationale.path):
        y = _write_row(sheet, row, x, y)
    y += 8
    return _take_note(sheet, _flags(explanation, lesion), x, y)


def _take_note(sheet: _Sheet, flags: Sequence[str], x: float, y: float) -> float:
    if flags:
        y = sheet.paragraph(x, y, "Take note", _SIDE, 8, sheet.look.warn, weight="bold") + 1
    for flag in flags:
        y = sheet.paragraph(x, y, flag, _SIDE, 8, sheet.look.warn) + 1
    return y


def _write_row(sheet: _Sheet, row: _Row, x: float, y: float) -> float:
    look, weight = sheet.look, "bold" if row.heading else "normal"
    colour = look.reader if row.reader else look.ink
    at = _INDENT * row.depth
    sheet.line(x + at, y, row.label, 8, look.ink if row.heading else look.soft, weight=weight)
    room = _PROBABILITY_AT - _ANSWER_AT - (34 if row.probability else 0)
    answer = row.answer + (" ?" if row.uncertain else "")
    end = sheet.paragraph(x + _ANSWER_AT, y, answer, room, 8, colour, weight=weight)
    sheet.line(x + _PROBABILITY_AT, y, row.probability, 8, colour, align="right")
    speaker_colour = look.reader if row.reader else look.soft
    other = sheet.paragraph(x + _SPEAKER_AT, y, row.speaker, _SIDE - _SPEAKER_AT, 8, speaker_colour)
    if row.below:
        end = sheet.paragraph(x + _ANSWER_AT, end - 1, row.below, _SIDE - _ANSWER_AT, 7.5, look.soft)
    return max(end, other) + 1


def _empty_side(sheet: _Sheet, explanation: Explanation, x: float) -> float:
    category, look = explanation.category, sheet.look
    _category(sheet, x, category.category, "")
    first, *more = words.summary_words(explanation)
    y = sheet.paragraph(x, _TOP + 40.0, first, _SIDE, 10, weight="bold") + 6
    for line in more:
        y = sheet.paragraph(x, y, line, _SIDE, 8, look.soft) + 1
    y = sheet.paragraph(x, y, f"Category of the patient: {category.text}.", _SIDE, 8, look.soft) + 8
    if explanation.dropped:
        y = sheet.paragraph(x, y, "Looked at and not kept:", _SIDE, 8, weight="bold")
    for one in explanation.dropped:
        text = f"{one.reason}; {one.volume_ml:.2f} mL at {words.point_words(one.center)}"
        y = sheet.paragraph(x, y, text, _SIDE, 8, look.soft) + 1
    return _take_note(sheet, _flags(explanation, None), x, y + 8)
