"""An explanation's values in words that a reader knows; shared by the report and the RIS text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from MedRationaleLogic.imaging.acquisition import ROLE_NAMES, ROLES
from MedRationaleLogic.imaging.volume import Geometry
from MedRationaleLogic.inference.explanation import Explanation, Lesion
from MedRationaleLogic.pirads import lexicon, sectors
from MedRationaleLogic.pirads.rationale import UNKNOWN, Answer, RationaleStep
from MedRationaleLogic.pirads.rules import Score

CATEGORY_WORDS: dict[Score, str] = {
    1: "very low",
    2: "low",
    3: "intermediate",
    4: "high",
    5: "very high",
    "X": "cannot be assigned",
}
"""PI-RADS v2.1: how likely clinically significant disease is."""

CONCEPT_GROUPS = {"t2w": "T2W", "adc": "ADC", "hbv": "high-b DWI", "dwi": "ADC and high-b, by rule"}

_DCE = {"+": "+ (positive)", "-": "- (negative)", "X": "X (not available or not read)"}


def answer_words(step_id: str, answer: Answer) -> str:
    """An answer of a rationale step in words, e.g. "moderately hypointense", "12.4 mm", "peripheral zone"."""
    if answer == UNKNOWN:
        return "not read"
    if step_id == "zone":
        return lexicon.ZONE_NAMES.get(str(answer), str(answer))
    if step_id == "size":
        return f"{float(answer):.1f} mm"
    if step_id == "dce":
        return _DCE.get(str(answer), str(answer))
    if step_id in {a.id for a in lexicon.load().attributes}:
        return lexicon.load().attribute(step_id).value(str(answer)).label
    return str(answer)


def step_label(step: RationaleStep) -> str:
    """The short name of a step: "texture", "T2W score"."""
    fixed = {
        "zone": "zone",
        "size": "size",
        "epe": "extraprostatic extension",
        "t2w.score": "T2W score",
        "dwi.score": "DWI score",
        "dce": "DCE",
        "category": "PI-RADS category",
    }
    return fixed[step.id] if step.id in fixed else lexicon.load().attribute(step.id).label


def asserted_words(step: RationaleStep) -> str:
    """Who says it: "model", "measured", "rule", "default" for what only a reader asserts, or "reader NAME"."""
    if step.reader is None and step.id in ("epe", "dce"):
        return "default"
    return f"reader {step.reader}" if step.reader is not None else step.asserted_by


def concept_phrase(concept_id: str) -> str:
    """The phrase of a concept; the id where the lexicon does not know it (a result of an older lexicon)."""
    try:
        return lexicon.load().concept(concept_id).phrase
    except KeyError:
        return concept_id


def term_words(name: str) -> str:
    """The name of a term of the suspicion: an attribute's or concept's label with its sequence."""
    known = lexicon.load()
    for attribute in known.attributes:
        if attribute.id == name:
            return f"{ROLE_NAMES[attribute.sequence]} {attribute.label}"
    return concept_phrase(name)


def sector_words(key: str) -> str:
    """A sector's name, e.g. "right posterolateral PZ, mid-gland"; the key where it is no sector."""
    try:
        return sectors.sector(key).name
    except KeyError:
        return key


def sectors_words(lesion: Lesion) -> str:
    """All sectors of a lesion with their shares, biggest first."""
    parts = [f"{sector_words(key)} ({share:.0%})" for key, share in lesion.measures.sectors]
    return "; ".join(parts) or "no sector (no gland near)"


def zone_shares_words(shares: Mapping[str, float]) -> str:
    """E.g. "PZ 78 %, TZ 20 %, outside 2 %"; empty shares left out."""
    return ", ".join(f"{zone} {share:.0%}" for zone, share in shares.items() if share >= 0.005) or "none"


def reachable_words(scores: Iterable[Score], best: Score) -> str:
    """The other reachable scores, e.g. "3, 5"; empty when there is none."""
    others = sorted((s for s in scores if s != best), key=lambda s: (s == "X", str(s)))
    return ", ".join(str(s) for s in others)


def lesion_size(lesion: Lesion) -> tuple[str, str]:
    """The size in force, and what it was measured on, where, and by whom, e.g. ("12.4 mm", "ADC, axial, ...")."""
    step = lesion.rationale.step("size")
    measured = lesion.measures.in_plane
    if step.overridden:
        return answer_words("size", step.answer), f"by reader {step.reader}; measured {measured.mm:.1f} mm"
    place = "" if measured.slice_index is None else f", slice {measured.slice_index + 1}"
    return answer_words("size", step.answer), f"{measured.plane}, on {lesion.measures.measured_on}{place}"


def slice_words(frame: Geometry, index: int) -> str:
    """Where a slice lies, for a person: its number along the stack, from 1, and its middle's height in the patient."""
    z, y, x = frame.shape
    height = float(frame.to_patient((index, (y - 1) / 2, (x - 1) / 2))[2])
    return f"slice {index + 1} of {z} ({'S' if height >= 0 else 'I'} {abs(height):.1f} mm)"


def point_words(point: Iterable[float]) -> str:
    """A patient point (LPS, mm) as a reader says it, e.g. "L 16, A 8, S 25 mm"."""
    pairs = zip(point, ("RL", "AP", "IS"), strict=True)
    return ", ".join(f"{letters[value >= 0]} {abs(value):.0f}" for value, letters in pairs) + " mm"


def sequences_words(explanation: Explanation) -> list[tuple[str, bool, str]]:
    """(name, whether it is there, what was taken and why or what its absence means), for T2W, ADC and high-b."""
    study = explanation.study
    said = {choice.role: choice for choice in study.choices}
    absent = {
        "t2w": "absent: no T2W readings, T2W score X; masks come from diffusion alone",
        "adc": "absent: no ADC readings, DWI score X",
        "hbv": "absent: no high-b readings, DWI score X",
    }
    out = []
    for role in ROLES:
        volume = study.volume(role)
        if volume is None:
            out.append((ROLE_NAMES[role], False, absent[role]))
        else:
            choice = said.get(role)
            out.append((ROLE_NAMES[role], True, str(choice).partition(": ")[2] if choice else volume.name))
    return out


def field_strength(explanation: Explanation) -> str | None:
    """Field strength and maker as the headers say, e.g. "3 T (SIEMENS)"; None where they do not."""
    headers = explanation.study.headers.values()
    strength = next((h.field_strength_t for h in headers if h.field_strength_t is not None), None)
    maker = next((h.manufacturer for h in headers if h.manufacturer), None)
    if strength is None:
        return maker
    return f"{strength:g} T" + (f" ({maker})" if maker else "")
