"""The report: one self-contained HTML file for a reader. No script, no network, every text escaped.

Here the explanation is turned into plain rows of words and pictures; how they look is the template's business
(``Resources/Templates/report.html.j2``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from MedRationaleLogic.export import figures, shown, words
from MedRationaleLogic.export.palette import CATEGORY_COLOURS, OUTLINE_COLOURS, text_on
from MedRationaleLogic.export.sector_map import explanation_map_svg, sector_map_svg
from MedRationaleLogic.imaging import measure
from MedRationaleLogic.imaging.acquisition import ROLE_NAMES, ROLES, Role
from MedRationaleLogic.inference.explanation import NOTICE, Explanation, Lesion
from MedRationaleLogic.pirads import lexicon
from MedRationaleLogic.pirads.rationale import RationaleStep, ZonePath
from MedRationaleLogic.pirads.rules import Score
from MedRationaleLogic.resources import resource_path

if TYPE_CHECKING:
    from jinja2 import Template

MAPS_PER_SEQUENCE = 2
"""Evidence overlays beside each sequence's plain image."""
SUSPICIOUS_SCORE = 4
"""A concept that speaks for this score or more counts as suspicious in the strip of a study without a region."""


def render_report(explanation: Explanation, *, title: str | None = None) -> str:
    """The report of an explanation as one HTML document.

    It shows the study and its sequences, the patient's category, all suspicious regions with their rationale step by
    step (a reader's answers apart from the model's, the original kept), concepts, evidence on the image of their own
    sequence, the sector map, quality, and provenance. Without a region it says so, shows the strongest evidence all the
    same, and what was dropped and why.

    Args:
        explanation: what is shown.
        title: of the document; made from the study's name by default.

    Returns:
        HTML 5, UTF-8; no external resource, no script, a content security policy that forbids both. The same
        explanation gives the same text.
    """
    from markupsafe import Markup

    return _template().render(
        title=title or f"Prostate MRI explanation: {explanation.study.name}",
        notice=NOTICE,
        study=_study(explanation),
        category=_category(explanation),
        lesions=[_lesion(explanation, lesion) for lesion in explanation.lesions],
        # The only text that enters unescaped: drawn and escaped by us.
        map=Markup(explanation_map_svg(explanation)) if explanation.gland and explanation.lesions else None,
        empty_map=Markup(sector_map_svg({}, title="Sector map, nothing lit")),
        strip=_strip(explanation) if not explanation.lesions else None,
        dropped=_dropped(explanation),
        quality=[{"status_class": q.status.replace(" ", "-"), **q.to_dict()} for q in explanation.quality],
        provenance=_provenance(explanation),
        legend=_legend(explanation),
        adc_window=figures.ADC_WINDOW,
        colours=_colours(),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(resource_path("Templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


# --------------------------------------------------------------------------------------------------------------- study


def _study(explanation: Explanation) -> dict[str, Any]:
    study, gland, density = explanation.study, explanation.gland, explanation.psa_density
    geometry = explanation.frame.geometry
    z, y, x = geometry.spacing
    return {
        "name": study.name,
        "date": study.study_date or "not stated",
        "sequences": [
            {"name": name, "there": there, "said": said} for name, there, said in words.sequences_words(explanation)
        ],
        "field": words.field_strength(explanation) or "not stated",
        "frame": f"{explanation.frame.name or 'frame'}: {geometry.shape[0]} slices of {z:.1f} mm, "
        f"pixels {y:.2f} x {x:.2f} mm, {measure.slice_plane(geometry)}",
        "notes": study.notes,
        "gland": None
        if gland is None
        else {
            "planimetry": f"{gland.planimetry_ml:.1f} mL",
            "ellipsoid": f"{gland.ellipsoid_ml:.1f} mL",
            "diameters": f"{gland.transverse_mm:.0f} x {gland.ap_mm:.0f} x {gland.longitudinal_mm:.0f} mm",
        },
        "psa": None if study.psa is None else f"{study.psa:g} ng/mL",
        "density": density.text.removeprefix("PSA density ") if density else None,
        "flags": explanation.all_flags,
    }


def _category(explanation: Explanation) -> dict[str, Any]:
    category = explanation.category
    with_dce = any(x.rationale.protocol == "mpMRI" for x in explanation.lesions)
    return {
        **_badge(category.category),
        "text": category.text,
        "index": category.index,
        "reported": category.reported,
        "protocol": "multiparametric (DCE given by a reader)" if with_dce else "read as biparametric (DCE X)",
    }


def _badge(score: Score) -> dict[str, Any]:
    return {"score": score, "words": words.CATEGORY_WORDS[score], "style": f"cat-{score}"}


def _colours() -> list[dict[str, str]]:
    return [
        {"style": f"cat-{score}", "back": colour, "ink": text_on(colour), "line": OUTLINE_COLOURS[score]}
        for score, colour in CATEGORY_COLOURS.items()
    ]


# -------------------------------------------------------------------------------------------------------------- lesion


def _lesion(explanation: Explanation, lesion: Lesion) -> dict[str, Any]:
    from markupsafe import Markup

    rationale, measures = lesion.rationale, lesion.measures
    size, how = words.lesion_size(lesion)
    index = explanation.category.index
    return {
        "number": lesion.number,
        "origin": lesion.origin,
        "is_index": index is not None and int(index) == lesion.number,
        **_badge(lesion.category),
        "reachable": words.reachable_words(rationale.category_reachable, lesion.category),
        "zone": rationale.zone,
        "zone_words": words.answer_words("zone", rationale.zone),
        "zone_shares": words.zone_shares_words(measures.zone_shares),
        "sectors": [(words.sector_words(key), f"{share:.0%}") for key, share in measures.sectors],
        "size": size,
        "size_how": how,
        "near_threshold": rationale.step("size").uncertain,
        "three_d": f"{measures.three_d.mm:.1f} mm",
        "volume": f"{measures.volume_ml:.2f} mL",
        "contact": None if measures.contact_mm is None else f"{measures.contact_mm:.0f} mm",
        "slice": words.slice_words(explanation.frame.geometry, measures.key_slice),
        "slices": f"{measures.slice_range[0] + 1} to {measures.slice_range[1] + 1}",
        "measure_notes": measures.notes,
        "scores": _scores(rationale.path),
        "suspicion": _suspicion(lesion),
        "flags": lesion.all_flags,
        "steps": [_step(step) for step in rationale.steps],
        "other": _other(rationale.other) if rationale.other is not None else None,
        "overridden": bool(rationale.overrides),
        "original_category": rationale.original().category if rationale.overrides else lesion.category,
        "concepts": _concepts(explanation, lesion),
        "pictures": _pictures(explanation, lesion),
        "map": Markup(
            sector_map_svg(
                dict(measures.sectors),
                colour=CATEGORY_COLOURS[lesion.category],
                title=f"Sectors of suspicious region {lesion.number}",
                prefix=f"region-{lesion.number}",
            )
        ),
    }


def _scores(path: ZonePath) -> list[dict[str, Any]]:
    return [
        {"name": "T2W", "score": path.t2w, "reachable": words.reachable_words(path.t2w_reachable, path.t2w)},
        {"name": "DWI", "score": path.dwi, "reachable": words.reachable_words(path.dwi_reachable, path.dwi)},
        {"name": "DCE", "score": path.dce, "reachable": ""},
    ]


def _suspicion(lesion: Lesion) -> dict[str, Any] | None:
    parts = lesion.suspicion
    if parts is None:
        return None
    largest = max([abs(c) for _, c in parts.terms] + [abs(parts.residual), 1e-9])
    terms = sorted(parts.terms, key=lambda term: -term[1])
    return {
        "value": f"{parts.value:.2f}",
        "percent": _percent(parts.value),
        "residual_share": f"{parts.residual_share:.0%}",
        "residual_percent": _percent(parts.residual_share),
        "terms": [
            {"name": words.term_words(name), "value": f"{c:+.2f}", "percent": _percent(abs(c) / largest)}
            for name, c in terms
        ],
        "residual": {"value": f"{parts.residual:+.2f}", "percent": _percent(abs(parts.residual) / largest)},
        "bias": f"{parts.bias:+.2f}",
    }


def _step(step: RationaleStep) -> dict[str, Any]:
    return {
        "id": step.id,
        "question": step.question,
        "answer": words.answer_words(step.id, step.answer),
        "probability": None if step.probability is None else f"{step.probability:.2f}",
        "percent": None if step.probability is None else _percent(step.probability),
        "alternatives": [
            {
                "answer": words.answer_words(step.id, answer),
                "probability": None if p is None else f"{p:.2f}",
                "percent": None if p is None else _percent(p),
            }
            for answer, p in step.alternatives
        ],
        "rule": step.rule,
        "by": words.asserted_words(step),
        "kind": "reader" if step.overridden else step.asserted_by,
        "original": None if step.original is None else words.answer_words(step.id, step.original),
        "uncertain": step.uncertain,
        "detail": step.detail,
        "evidence": step.evidence,
        "major": step.id in ("t2w.score", "dwi.score", "category"),
    }


def _other(path: ZonePath) -> dict[str, Any]:
    return {
        "zone": path.zone,
        "zone_words": words.answer_words("zone", path.zone),
        **_badge(path.category),
        "reachable": words.reachable_words(path.category_reachable, path.category),
        "scores": _scores(path),
        "steps": [_step(path.step(name)) for name in ("t2w.score", "dwi.score", "category")],
    }


def _concepts(explanation: Explanation, lesion: Lesion) -> list[dict[str, Any]]:
    """Concept bars by sequence, strongest first."""
    zone = lesion.rationale.zone
    groups = []
    for sequence, name in words.CONCEPT_GROUPS.items():
        readings = sorted((r for r in lesion.readings if r.sequence == sequence), key=lambda r: -r.probability)
        rows = []
        for reading in readings:
            scores = _supports(reading.concept, zone)
            where = ""
            if reading.peak_slice is not None and reading.peak_value is not None:
                where = f"evidence at most {reading.peak_value:.2f}, on slice {reading.peak_slice + 1}"
            rows.append(
                {
                    "id": reading.concept,
                    "phrase": words.concept_phrase(reading.concept),
                    "value": f"{reading.probability:.2f}",
                    "percent": _percent(reading.probability),
                    "scores": ", ".join(map(str, scores)),
                    "where": where,
                }
            )
        role_there = sequence == "dwi" or sequence in explanation.study.roles
        groups.append({"name": name, "rows": rows, "there": role_there})
    return groups


def _supports(concept: str, zone: str) -> tuple[int | str, ...]:
    try:
        return lexicon.load().concept(concept).supports.get(zone, ())
    except KeyError:
        return ()


# ------------------------------------------------------------------------------------------------------------ pictures


@dataclass(frozen=True)
class _Shown:
    """A concept whose evidence is drawn, and the words around it."""

    concept: str
    said: str


def _pictures(explanation: Explanation, lesion: Lesion) -> list[dict[str, Any]]:
    """A row per sequence: its image with the outline, then its strongest evidence on that same image."""
    index = lesion.measures.key_slice
    part = figures.window(explanation, index, [lesion.mask])
    others = [
        figures.Outline(x.mask, OUTLINE_COLOURS[x.category], 0.9, "dotted")
        for x in explanation.lesions
        if x.number != lesion.number
    ]
    outlines = [*others, figures.Outline(lesion.mask, OUTLINE_COLOURS[lesion.category])]
    subject = f"suspicious region {lesion.number}"
    rows = []
    for role in ROLES:
        diameter = lesion.measures.in_plane if _measured_here(explanation, lesion, role) else None
        rows.append(_row(explanation, role, part, outlines, subject, _strongest(lesion, role), diameter))
    return rows


def _row(
    explanation: Explanation,
    role: Role,
    part: figures.Window,
    outlines: Sequence[figures.Outline],
    subject: str,
    shown: Sequence[_Shown],
    diameter: measure.Diameter | None = None,
) -> dict[str, Any]:
    name = ROLE_NAMES[role]
    row: dict[str, Any] = {"name": name, "there": explanation.study.volume(role) is not None, "pictures": []}
    if not row["there"]:
        return row
    place = words.slice_words(explanation.frame.geometry, part.index)
    said = place
    if diameter is not None:
        ends = " and ".join(f"({words.point_words(end)})" for end in diameter.ends)
        said += f"; line: {diameter.mm:.1f} mm in-plane between {ends}"
    row["pictures"].append(
        {
            "src": figures.draw(explanation, part, role, outlines=outlines, zones=True, diameter=diameter),
            "alt": f"{name}, {place}: {subject}",
            "head": name,
            "said": said,
        }
    )
    threshold = explanation.evidence.threshold
    # White and thin: the colour in these pictures is the evidence's.
    thin = [figures.Outline(x.mask, "#ffffff", 0.8, x.style) for x in outlines]
    for one in shown:
        highest = float(figures.evidence_slice(explanation, part, role, one.concept).max(initial=0.0))
        seen = f"up to {highest:.2f}" if highest >= threshold else f"below {threshold:.2f}, so transparent,"
        seen += " in this picture"
        row["pictures"].append(
            {
                "src": figures.draw(explanation, part, role, outlines=thin, evidence=one.concept),
                "alt": f"{name}, {place}: evidence of {words.concept_phrase(one.concept)}, {seen}",
                "head": words.concept_phrase(one.concept),
                "said": f"{one.said}{seen}",
            }
        )
    return row


def _measured_here(explanation: Explanation, lesion: Lesion, role: Role) -> bool:
    """Whether the diameter is drawn on this sequence: on the one it was measured on, else on the frame."""
    on = {"ADC": "adc", "T2W": "t2w"}.get(lesion.measures.measured_on)
    roles = explanation.study.roles
    return role == (on if on in roles else roles[0])


def _strongest(lesion: Lesion, role: Role) -> list[_Shown]:
    """The concepts behind a sequence's answers, in order: what its score rests on, whose map lies closest to the region
    (as :attr:`Lesion.leading_concept` has it), the more probable.

    One per attribute, so no near-duplicates ("hypointense" beside "markedly hypointense")."""
    rationale = lesion.rationale
    extents = get_args(lexicon.Extent)
    score = rationale.step("t2w.score" if role == "t2w" else "dwi.score")
    readings = {r.concept: r for r in lesion.readings if r.peak is not None}
    cited = [
        (
            step.id not in score.based_on,
            extents.index(lexicon.load().attribute(step.id).extent),
            readings[step.evidence],
        )
        for step in rationale.steps
        if step.sequence == role and step.evidence is not None and step.evidence in readings
    ]
    ranked = sorted(cited, key=lambda one: (one[0], one[1], -one[2].probability))
    return [
        _Shown(r.concept, f"probability {r.probability:.2f}; strongest on slice {(r.peak_slice or 0) + 1}; ")
        for *_, r in ranked[:MAPS_PER_SEQUENCE]
    ]


def _strip(explanation: Explanation) -> dict[str, Any]:
    """Evidence of a study without a region: what came nearest, on the slice where it did."""
    found = {role: _suspicious(explanation, role) for role in explanation.study.roles}
    threshold = explanation.evidence.threshold
    highest = max((one for ones in found.values() for one in ones), key=lambda one: one.value, default=None)
    if highest is not None and highest.value >= threshold:
        index, why = highest.index, f"on the slice of the highest one ({words.concept_phrase(highest.concept)})"
    else:
        areas = (explanation.zones.array > 0).sum((1, 2))
        index = int(areas.argmax()) if areas.any() else explanation.frame.geometry.shape[0] // 2
        place = "the gland's largest slice" if areas.any() else "the middle slice, as no gland was found"
        why = f"none reaches {threshold:.2f}, so on {place}"
    part = figures.window(explanation, index)
    rows = []
    for role in ROLES:
        shown = [_Shown(x.concept, f"highest in the gland {x.value:.2f}; ") for x in found.get(role, [])]
        rows.append(_row(explanation, role, part, [], "no suspicious region", shown))
    return {"slice": words.slice_words(explanation.frame.geometry, index), "why": why, "rows": rows}


@dataclass(frozen=True)
class _Peak:
    """The highest evidence of a concept in the gland, and the frame's slice where it lies."""

    value: float
    concept: str
    index: int


def _suspicious(explanation: Explanation, role: Role) -> list[_Peak]:
    """A sequence's concepts that speak for a high score, by their highest evidence in the gland."""
    field = explanation.evidence.fields.get(role)
    if field is None:
        return []
    inside = explanation.zones.resample(field.geometry, nearest=True).array > 0
    if not inside.any():
        inside = np.ones(field.geometry.shape, bool)
    frame = explanation.frame.geometry
    found = []
    for concept in lexicon.load().seen_concepts(role):
        scores = [s for zone in concept.supports.values() for s in zone if isinstance(s, int)]
        if max(scores, default=0) < SUSPICIOUS_SCORE:
            continue
        values = np.where(inside, explanation.evidence.native(concept.id).array, -1.0)
        at = np.unravel_index(int(values.argmax()), values.shape)
        height = float(frame.to_index(field.geometry.to_patient(at))[0])
        index = int(np.clip(round(height), 0, frame.shape[0] - 1))
        found.append(_Peak(float(values[at]), concept.id, index))
    return sorted(found, key=lambda one: -one.value)[:MAPS_PER_SEQUENCE]


def _legend(explanation: Explanation) -> dict[str, Any]:
    threshold = explanation.evidence.threshold
    stops = [
        {"offset": f"{value:.3f}", "colour": colour, "opacity": f"{opacity:.2f}"}
        for value, colour, opacity in figures.legend_stops(threshold)
        if value >= threshold
    ]
    start = 240 * threshold
    return {"threshold": f"{threshold:.2f}", "left": start, "stops": stops, "start": threshold, "where": shown.WORDS}


# ---------------------------------------------------------------------------------------------------------- background


def _dropped(explanation: Explanation) -> list[dict[str, str]]:
    return [
        {
            "reason": x.reason,
            "peak": f"{x.peak:.2f}",
            "volume": f"{x.volume_ml:.2f} mL",
            "place": words.point_words(x.center),
        }
        for x in explanation.dropped
    ]


def _provenance(explanation: Explanation) -> dict[str, Any]:
    source = explanation.provenance
    bundle = dict(source.bundle)
    return {
        "inputs": [
            {
                "role": ROLE_NAMES.get(str(i.get("role")), str(i.get("role"))),
                "name": str(i.get("name", "")),
                "series_uid": str(i.get("series_uid") or "none (image file)"),
                "sha256": str(i.get("sha256", "")),
            }
            for i in source.inputs
        ],
        "bundle": {key: str(bundle.get(key, "not stated")) for key in ("name", "version", "sha256", "licence")},
        "lexicon": source.lexicon_version,
        "software": source.software_version,
        "thresholds": {name: f"{value:g}" for name, value in source.thresholds.items()},
        "device": f"{source.device}, {source.precision}",
        "seconds": {stage: f"{value:.2f} s" for stage, value in source.seconds.items()},
        "total": f"{sum(source.seconds.values()):.2f} s",
        "notes": source.notes,
        "study_uid": explanation.study.study_uid or "none",
    }


def _percent(share: float) -> str:
    """A share as the width of a bar."""
    return f"{100 * min(1.0, max(0.0, share)):.1f}"
