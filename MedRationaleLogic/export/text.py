"""The report as plain text for a RIS: ASCII, short lines, every report item of PI-RADS v2.1 named, known or not."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator

from MedRationaleLogic.export import words
from MedRationaleLogic.inference.explanation import NOTICE, Explanation, Lesion
from MedRationaleLogic.pirads import lexicon
from MedRationaleLogic.pirads.rationale import RationaleStep, ZonePath

WIDTH = 78
"""Characters in a line; what terminals and RIS text fields show without wrapping."""
NOT_PROVIDED = "not provided"

# What ASCII lacks and our own words use.
_ASCII = str.maketrans(
    {"×": "x", "–": "-", "—": "-", "µ": "u", "μ": "u", "²": "2", "≥": ">=", "≤": "<=", "’": "'", "°": " degrees"}
)


def ris_text(explanation: Explanation) -> str:
    """The report as text: research-use line first and last, one item per paragraph, lines up to :data:`WIDTH`.

    Items that nobody gave are said to be "not provided", never left out. The text is a draft for a radiologist: it
    asserts no diagnosis and no extraprostatic extension that a reader did not assert.

    Returns:
        printable ASCII and line feeds; other letters are transliterated or become "?", control characters go.
    """
    lines: list[str] = [_clean(NOTICE).upper(), ""]
    for heading, items in _sections(explanation):
        lines += [heading.upper(), *(line for item in items for line in _wrapped(item)), ""]
    lines.append(_clean(NOTICE).upper())
    return "\n".join(lines) + "\n"


def _sections(explanation: Explanation) -> Iterator[tuple[str, list[str]]]:
    study, bundle = explanation.study, explanation.provenance.bundle
    yield (
        "Examination",
        [
            f"Study: {study.name}",
            f"Date: {study.study_date or NOT_PROVIDED}",
            "Standard: PI-RADS v2.1",
            f"Prepared by: MedRationale {explanation.provenance.software_version}, "
            f"model {' '.join(str(bundle[key]) for key in ('name', 'version') if key in bundle)}",
        ],
    )
    density = explanation.psa_density
    yield (
        "Clinical information",
        [
            f"Indication: {NOT_PROVIDED}",
            f"PSA: {NOT_PROVIDED if study.psa is None else f'{study.psa:g} ng/mL (date not provided)'}",
            f"{density.text}; planimetric volume" if density else "PSA density: not available",
            f"Prior biopsy or treatment: {NOT_PROVIDED}",
        ],
    )
    yield "Technique", list(_technique(explanation))
    yield "Quality", list(_quality(explanation))
    yield "Prostate", list(_gland(explanation))
    if not explanation.lesions:
        yield "Findings", [words.NO_REGION, *_dropped(explanation)]
    for lesion in explanation.lesions:
        yield f"Suspicious region {lesion.number}", list(_lesion(explanation, lesion))
    if explanation.lesions:
        yield "Regions looked at and not reported", _dropped(explanation) or ["None."]
    yield "Outside the prostate", _outside(explanation)
    yield "Overall", list(_overall(explanation))
    if explanation.all_flags:
        yield "Take note", list(explanation.all_flags)


def _technique(explanation: Explanation) -> Iterator[str]:
    with_dce = any(x.rationale.protocol == "mpMRI" for x in explanation.lesions)
    yield f"Protocol: {'multiparametric, DCE by a reader' if with_dce else 'read as biparametric; DCE X'}"
    yield f"Field strength: {words.field_strength(explanation) or NOT_PROVIDED}"
    for name, _, said in words.sequences_words(explanation):
        yield f"{name}: {said}"


def _quality(explanation: Explanation) -> Iterator[str]:
    yield "PI-QUAL: not assessed (a reader's visual score)"
    below = [q for q in explanation.quality if q.status == "below minimum"]
    unknown = sum(q.status == "unknown" for q in explanation.quality)
    for flag in below:
        yield f"Below minimum: {flag.sequence} {flag.item}: {flag.found} (asked for: {flag.required})"
    if not below:
        yield words.NONE_BELOW
    if unknown:
        yield f"Acquisition parameters that the input does not state: {unknown}"


def _gland(explanation: Explanation) -> Iterator[str]:
    size = explanation.gland
    if size is None:
        yield "Size: not available, no gland was found"
    else:
        yield (
            f"Size: {size.transverse_mm:.0f} (transverse) x {size.ap_mm:.0f} (AP) x {size.longitudinal_mm:.0f} "
            "(longitudinal) mm, from the segmented gland"
        )
        yield f"Volume: {size.planimetry_ml:.1f} mL by planimetry; {size.ellipsoid_ml:.1f} mL by the ellipsoid formula"
    yield "Haemorrhage: not assessed"


def _lesion(explanation: Explanation, lesion: Lesion) -> Iterator[str]:
    rationale, frame = lesion.rationale, explanation.frame.geometry
    size, how = words.lesion_size(lesion)
    yield f"Outlined by: {'the model' if lesion.origin == 'model' else 'a reader'}"
    yield f"Location: {words.sectors_words(lesion)}"
    yield f"Zone: {words.answer_words('zone', rationale.zone)} ({words.zone_shares_words(lesion.measures.zone_shares)})"
    near = "; NEAR THE 15 MM THRESHOLD (14-16 mm)" if rationale.step("size").uncertain else ""
    yield f"Greatest dimension: {size} ({how}){near}"
    yield f"Image: {words.slice_words(frame, lesion.measures.key_slice)} of {explanation.frame.name or 'the frame'}"
    yield f"Volume: {lesion.measures.volume_ml:.2f} mL"
    yield _scores(rationale.path)
    yield f"Extraprostatic extension: {words.answer_words('epe', rationale.step('epe').answer)}"
    if lesion.suspicion is not None:
        parts = lesion.suspicion
        yield (
            f"Model's suspicion: {parts.value:.2f} (0 to 1; {parts.residual_share:.0%} of it from the network beyond "
            "the readings)"
        )
    others = words.reachable_words(rationale.category_reachable, rationale.category)
    yield (
        f"PI-RADS category: {rationale.category} ({words.CATEGORY_WORDS[rationale.category]})"
        + (f"; also within reach: {others}" if others else "")
    )
    if rationale.other is not None:
        other = rationale.other
        zone = words.answer_words("zone", other.zone)
        yield f"Zone uncertain. With the tables of the {zone}: {_scores(other)}, category {other.category}"
    yield "Rationale:"
    yield from (_step(step) for step in rationale.steps)
    if lesion.all_flags:
        yield f"Flags: {'; '.join(lesion.all_flags)}"


def _step(step: RationaleStep) -> str:
    sure = f" ({step.probability:.2f})" if step.probability is not None else ""
    before = "" if step.original is None else f" [before: {words.answer_words(step.id, step.original)}]"
    # "T2W score" names its sequence already.
    seen = step.sequence in lexicon.SEQUENCE_NAMES and not step.id.endswith(".score")
    source = f"{lexicon.SEQUENCE_NAMES[str(step.sequence)]} " if seen else ""
    return (
        f"- {source}{words.step_label(step)}: {words.answer_words(step.id, step.answer)}{sure}, "
        f"by {words.asserted_words(step)}{before}"
    )


def _scores(path: ZonePath) -> str:
    return f"T2W {path.t2w}, DWI {path.dwi}, DCE {path.dce}"


def _dropped(explanation: Explanation) -> list[str]:
    return [f"- {x.reason}; {x.volume_ml:.2f} mL at {words.point_words(x.center)}" for x in explanation.dropped]


def _outside(explanation: Explanation) -> list[str]:
    definite = [str(x.number) for x in explanation.lesions if x.rationale.epe_definite]
    epe = f"definite at region {', '.join(definite)}, asserted by a reader" if definite else "not asserted"
    return [
        f"Extraprostatic extension: {epe}",
        "Seminal vesicles: not assessed",
        "Lymph nodes: not assessed",
        "Bone: not assessed",
    ]


def _overall(explanation: Explanation) -> Iterator[str]:
    category = explanation.category
    yield (
        f"PI-RADS category of the patient: {category.category} ({words.CATEGORY_WORDS[category.category]}); "
        f"{category.text}"
    )
    if category.index is not None:
        index = explanation.lesion(int(category.index))
        size, _ = words.lesion_size(index)
        yield f"Index region: {index.number}, {words.sectors_words(index)}, {size}"
    if category.reported:
        yield f"Regions to report (at most four of category 3 to 5): {', '.join(category.reported)}"
    yield f"Impression: {NOT_PROVIDED}; for the reading radiologist"


def _wrapped(item: str) -> list[str]:
    text = _clean(item)
    indent = "    " if text.startswith("- ") else "  "
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]


def _clean(text: str) -> str:
    """Printable ASCII on one line."""
    plain = unicodedata.normalize("NFKD", text.translate(_ASCII))
    kept = "".join(c for c in plain if not unicodedata.combining(c))
    ascii_text = kept.encode("ascii", "replace").decode("ascii")
    return " ".join("".join(c if c.isprintable() else " " for c in ascii_text).split())
