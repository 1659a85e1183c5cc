"""The quality sheet: a sample of triples as one HTML page on which a reader agrees or disagrees, and their agreement.

The page is self-contained (pictures inside, no network); answers are saved by the reader's browser as a JSON file,
which :func:`agreement` reads. Agreement is shown with Wilson's interval (Wilson, JASA 1927;22:209) and, where two
readers judged the same items, Cohen's kappa (Cohen, Educ Psychol Meas 1960;20:37). Research use only.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.resources import resource_path
from MedRationaleLogic.training.reports import Span

if TYPE_CHECKING:
    from jinja2 import Template

SCHEMA: Final = "medrationale.quality-answers/1"
NOTICE: Final = "Research use only. Not for clinical use."
FIELD_MM: Final = 90.0
"""Width of a picture around the region."""
PIXEL_MM: Final = 0.5
ANSWERS: Final = ("agree", "disagree")
_Z95: Final = 1.959964


class SheetError(ValueError):
    """Triples or answers of which no sheet or agreement can be made; the text names the file or the triple."""


@dataclass(frozen=True, eq=False)
class SheetItem:
    """One triple as the sheet shows it.

    Attributes:
        id: pseudonymous name, unique among the triples; shown to the reader and kept with the answers.
        images: name -> image, e.g. "T2W", "ADC", "high-b"; each on its own grid (z, y, x), LPS mm.
        outline: mask of the region, bool or int, on any grid.
        rationale: the JSON of :func:`MedRationaleLogic.training.rationales.complete`; its known answers are judged.
        spans: where the source said what; highlighted in ``source``.
        provenance: where the triple comes from, for a reader.
        source: the report's text; empty without one.
    """

    id: str
    images: Mapping[str, Volume]
    outline: Volume
    rationale: Mapping[str, Any]
    spans: Sequence[Span] = ()
    provenance: str = ""
    source: str = ""


@dataclass(frozen=True)
class KindAgreement:
    """Judgements of one kind of item (an attribute, a score, the size ...), or of all.

    Attributes:
        judged, agreed: judgements of all readers, and how many agree with the triple.
        percent: share agreed, in percent; ``low`` and ``high`` its 95 % Wilson interval. None without a judgement.
        pairs: items that exactly two readers judged.
        kappa: Cohen's kappa between them; None without pairs, or where both gave one and the same answer throughout,
            for which it is not defined.
    """

    judged: int
    agreed: int
    percent: float | None
    low: float | None
    high: float | None
    pairs: int = 0
    kappa: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Agreement over answer files.

    Attributes:
        overall: all kinds together.
        kinds: by kind of item.
        readers: who answered.
        comments: (reader, item, kind, text).
    """

    overall: KindAgreement
    kinds: Mapping[str, KindAgreement] = field(default_factory=dict)
    readers: tuple[str, ...] = ()
    comments: tuple[tuple[str, str, str, str], ...] = ()


def write_sheet(triples: Sequence[SheetItem], path: Path | str, n: int, seed: int) -> Path:
    """Write the sheet of ``n`` triples, sampled without repetition; the same seed draws the same.

    Args:
        triples: all there are; with fewer than ``n``, all are shown.
        path: the HTML file; written beside and then moved, so it is whole or not there.
        n: how many.
        seed: of the draw.

    Returns:
        ``path``.

    Raises:
        SheetError: no triple, ``n`` below 1, or the same id twice.
        OSError: the file cannot be written; the message names it.
    """
    ids = [item.id for item in triples]
    if not triples or n < 1:
        raise SheetError(f"a quality sheet needs at least one triple and n of at least 1, got {len(triples)} and {n}")
    if len(set(ids)) < len(ids):
        raise SheetError(f"quality sheet: an id is there twice: {sorted({i for i in ids if ids.count(i) > 1})[0]!r}")
    chosen = random.Random(seed).sample(list(triples), min(n, len(triples)))
    html = _template().render(
        title="Quality sheet of triples",
        notice=NOTICE,
        total=len(triples),
        seed=seed,
        items=[_shown(item, number) for number, item in enumerate(chosen)],
        sheet=_script_json({"schema": SCHEMA, "sheet": _sheet_id([item.id for item in chosen], seed)}),
    )
    target = Path(path)
    handle, name = -1, ""
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(html)
        os.replace(name, target)
    except OSError as error:
        if name and os.path.exists(name):
            os.unlink(name)
        raise OSError(f"{target}: the quality sheet cannot be written ({error.strerror or error}); choose a folder "
                      "that exists and can be written to") from error  # fmt: skip
    return target


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(resource_path("Templates")), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("quality-sheet.html.j2")


def _script_json(data: Mapping[str, Any]) -> Any:
    """JSON that may stand in a script: nothing in it can end the script."""
    from markupsafe import Markup

    text = json.dumps(data, sort_keys=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _sheet_id(ids: Sequence[str], seed: int) -> str:
    return hashlib.sha256("\n".join([str(seed), *ids]).encode()).hexdigest()[:16]


def _shown(item: SheetItem, number: int) -> dict[str, Any]:
    rows = [
        {"kind": answer["step"], "answer": answer["answer"], "status": answer["status"]}
        for answer in item.rationale.get("answers", [])
        if answer["status"] != "unknown"
    ]
    rows.insert(0, {"kind": "outline", "answer": "as drawn", "status": ""})
    return {
        "id": item.id,
        "number": number,
        "pictures": _pictures(item),
        "source": _highlighted(item.source, item.spans) if item.source else [],
        "provenance": item.provenance,
        "rows": [{**row, "number": i} for i, row in enumerate(rows)],
    }


def _highlighted(text: str, spans: Sequence[Span]) -> list[tuple[str, str]]:
    """The source in pieces, each with what was read there; overlapping spans make one piece of all they touch."""
    merged: list[tuple[int, int, str]] = []
    for span in sorted((s for s in spans if not s.source and s.end <= len(text)), key=lambda s: (s.start, s.end)):
        if merged and span.start < merged[-1][1]:
            start, end, what = merged[-1]
            merged[-1] = (start, max(end, span.end), what if span.item in what.split(", ") else f"{what}, {span.item}")
        else:
            merged.append((span.start, span.end, span.item))
    pieces, at = [], 0
    for start, end, what in merged:
        pieces += [(text[at:start], ""), (text[start:end], what)]
        at = end
    return [piece for piece in [*pieces, (text[at:], "")] if piece[0]]


def _pictures(item: SheetItem) -> list[dict[str, str]]:
    """The slice with most of the region, all images on one axial LPS grid: patient's right on the left."""
    inside = item.outline.array.astype(bool)
    if not inside.any():
        raise SheetError(f"{item.id}: the outline is empty; leave the triple out or mend its mask")
    index = np.argwhere(inside)
    points = item.outline.geometry.to_patient(index)
    depth = int(inside.sum((1, 2)).argmax())
    middle = points[index[:, 0] == depth].mean(0)
    size = round(FIELD_MM / PIXEL_MM)
    corner = middle - np.array([FIELD_MM / 2, FIELD_MM / 2, 0.0])
    x, y, z = (float(c) for c in corner)
    grid = Geometry((1, size, size), (1.0, PIXEL_MM, PIXEL_MM), (x, y, z))
    outline = item.outline.with_array(inside.astype(np.float32)).resample(grid).array[0]
    return [
        {"name": name, "png": _png(volume.resample(grid, outside=float("nan")).array[0], outline)}
        for name, volume in item.images.items()
    ]


def _png(image: Any, outline: Any) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6, 2.6), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    known = image[np.isfinite(image)]
    low, high = np.percentile(known, (1, 99)) if known.size else (0.0, 1.0)
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="bilinear")
    if outline.max() > 0.5 > outline.min():
        axes.contour(outline, [0.5], colors="#ffd54a", linewidths=1.2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode("ascii")


# ---------------------------------------------------------------------------------------------------------- agreement


def agreement(answers: Sequence[Path | str]) -> Agreement:
    """Agreement with the triples, and between readers, from answer files of the same sheet.

    Args:
        answers: JSON files that the sheet saved, one per reader.

    Raises:
        SheetError: no file, one that is no answer file, files of different sheets, or a reader or item twice; the
            message names the file.
    """
    if not answers:
        raise SheetError("agreement needs at least one answer file, as saved by the quality sheet")
    sheets: dict[str, str] = {}
    judged: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    comments: list[tuple[str, str, str, str]] = []
    readers: list[str] = []
    for path in map(Path, answers):
        data = _read(path)
        reader = data["reader"].strip()
        sheets[data["sheet"]] = path.name
        if reader in readers:
            raise SheetError(f"{path.name}: reader {reader!r} has another answer file; give one file per reader")
        readers.append(reader)
        for entry in data["answers"]:
            kind, name, given = entry["kind"], entry["id"], entry.get("answer")
            if given in ANSWERS:
                if reader in judged[kind][name]:
                    raise SheetError(f"{path.name}: {kind} of {name} is answered twice")
                judged[kind][name][reader] = given
            if entry.get("comment"):
                comments.append((reader, name, kind, entry["comment"]))
    if len(sheets) > 1:
        raise SheetError(
            f"the answers are of different sheets: {', '.join(sheets.values())}; compare one sheet at a time"
        )
    kinds = {kind: _kind(list(items.values())) for kind, items in sorted(judged.items())}
    overall = _kind([given for items in judged.values() for given in items.values()])
    return Agreement(overall, kinds, tuple(readers), tuple(comments))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SheetError(f"{path.name}: cannot be read as an answer file ({error})") from error
    good = isinstance(data, dict) and data.get("schema") == SCHEMA and isinstance(data.get("answers"), list)
    good = good and isinstance(data.get("sheet"), str) and isinstance(data.get("reader"), str)
    if not good or not data["reader"].strip():
        raise SheetError(f"{path.name}: not an answer file of a quality sheet (expected schema {SCHEMA!r} with sheet, "
                         "reader and answers)")  # fmt: skip
    for entry in data["answers"]:
        fields = (entry.get("id"), entry.get("kind"), entry.get("comment", "")) if isinstance(entry, dict) else (None,)
        if not all(isinstance(f, str) for f in fields) or entry.get("answer") not in (*ANSWERS, None):
            raise SheetError(f"{path.name}: an answer must have id, kind and 'agree' or 'disagree', got {entry!r:.80}")
    return data


def _kind(items: Sequence[Mapping[str, str]]) -> KindAgreement:
    given = [answer for item in items for answer in item.values()]
    agreed = given.count("agree")
    pairs = [(item[a], item[b]) for item in items if len(item) == 2 for a, b in [sorted(item)]]
    if not given:
        return KindAgreement(0, 0, None, None, None)
    low, high = wilson(agreed, len(given))
    return KindAgreement(
        len(given), agreed, 100 * agreed / len(given), 100 * low, 100 * high, len(pairs), cohen_kappa(pairs)
    )


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion, 0 to 1.

    Raises:
        ValueError: ``n`` below 1 or ``hits`` outside 0 to ``n``.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"a proportion needs 0 <= hits <= n and n >= 1, got {hits} of {n}")
    p, z2 = hits / n, _Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of paired answers; None without pairs, or where chance alone would agree always."""
    if not pairs:
        return None
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    labels = {label for pair in pairs for label in pair}
    chance = sum((sum(a == label for a, _ in pairs) / n) * (sum(b == label for _, b in pairs) / n) for label in labels)
    return None if chance >= 1 - 1e-12 else (observed - chance) / (1 - chance)
