"""A case's values in words that a reader knows; shared by the report, the RIS text and both faces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from MedRationaleLogic.imaging.acquisition import ROLE_NAMES, ROLES, Role, count
from MedRationaleLogic.imaging.study import Study
from MedRationaleLogic.imaging.volume import Geometry
from MedRationaleLogic.inference.explanation import Explanation, Lesion
from MedRationaleLogic.pirads import lexicon, sectors
from MedRationaleLogic.pirads.rationale import UNKNOWN, Answer, RationaleStep
from MedRationaleLogic.pirads.rules import Score

if TYPE_CHECKING:
    from MedRationaleLogic.case import AuditEntry, SignOff

Level = Literal["ok", "note", "warn"]

NOT_EXPLAINED: Final = "Not explained yet."
NO_REGION: Final = "No suspicious region was outlined. That excludes nothing."
NO_REGION_SELECTED: Final = "Select a region to see why it has its category."
WHAT_EVIDENCE_IS: Final = "Evidence is what the network saw for a concept in that concept's own sequence, 0 to 1."
NONE_BELOW: Final = "No acquisition parameter that could be read is below the PI-RADS v2.1 minimum."

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

_STEPS = {
    "zone": "zone",
    "size": "size",
    "epe": "extraprostatic extension",
    "t2w.score": "T2W score",
    "dwi.score": "DWI score",
    "dce": "DCE",
    "category": "PI-RADS category",
}
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
    return _STEPS[step.id] if step.id in _STEPS else lexicon.load().attribute(step.id).label


def step_name(step: RationaleStep) -> str:
    """The same where T2W, ADC and high-b stand together: the DWI score rests on two images with a signal and a pattern
    each, so those say whose they are."""
    label = step_label(step)
    return f"{CONCEPT_GROUPS[step.sequence]} {label}" if step.sequence in ("adc", "hbv") else label


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


def main_sectors(lesion: Lesion) -> list[str]:
    """Names of the (at most two) sectors with most of the lesion; empty where there are none."""
    return [sector_words(key) for key, _ in lesion.measures.sectors[:2]]


def origin_words(lesion: Lesion) -> str:
    """Who outlined a region."""
    return "outlined by a reader" if lesion.origin == "reader" else "outlined by the model"


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


def images_words(study: Study) -> list[tuple[Role, str, bool, str]]:
    """(role, name, whether it is there, what was taken and why or what its absence means), for T2W, ADC and high-b."""
    said = {choice.role: choice for choice in study.choices}
    absent = {
        "t2w": "absent: no T2W readings, T2W score X; masks come from diffusion alone",
        "adc": "absent: no ADC readings, DWI score X",
        "hbv": "absent: no high-b readings, DWI score X",
    }
    out: list[tuple[Role, str, bool, str]] = []
    for role in ROLES:
        volume = study.volume(role)
        if volume is None:
            out.append((role, ROLE_NAMES[role], False, absent[role]))
        else:
            choice = said.get(role)
            taken = str(choice).partition(": ")[2] if choice else volume.name
            out.append((role, ROLE_NAMES[role], True, taken))
    return out


def sequences_words(explanation: Explanation) -> list[tuple[str, bool, str]]:
    """The same of an explained study, without the role."""
    return [(name, there, said) for _, name, there, said in images_words(explanation.study)]


def quality_words(explanation: Explanation) -> list[tuple[str, Level]]:
    """What holds for the whole study, what lies below the PI-RADS minimums, and how much cannot be checked."""
    below = [q for q in explanation.quality if q.status == "below minimum"]
    unknown = sum(q.status == "unknown" for q in explanation.quality)
    lines: list[tuple[str, Level]] = [(flag, "warn") for flag in explanation.all_flags]
    lines += [(f"{q.sequence}, {q.item}: {q.found} (PI-RADS minimum: {q.required})", "warn") for q in below]
    if not below:
        lines.append((NONE_BELOW, "ok"))
    if unknown:
        lines.append((f"{count(unknown, 'requirement')} cannot be checked: the headers do not say.", "note"))
    return lines


def summary_words(explanation: Explanation) -> list[str]:
    """What stands below the patient's category: that nothing was outlined, the gland, the PSA density."""
    lines = [] if explanation.lesions else [NO_REGION]
    if explanation.gland is not None:
        density = explanation.psa_density
        gland = f"Gland {explanation.gland.planimetry_ml:.0f} mL"
        lines.append(gland + (f", {density.text}" if density is not None else ""))
    return lines


def rationale_words(lesion: Lesion) -> list[str]:
    """What stands above a region's rationale: the other zone's category, the suspicion and what it is made of."""
    lines = []
    other = lesion.rationale.other
    if other is not None:
        lines.append(f"By the tables of the {other.zone}: PI-RADS {other.category}")
    if lesion.suspicion is not None:
        share = lesion.suspicion.residual_share
        lines.append(f"Suspicion {lesion.suspicion.value:.2f}; {share:.0%} of it is not accounted for by readings")
    return lines


def evidence_words(explanation: Explanation, lesion: Lesion | None, concept: str) -> str:
    """How probable a concept is for a region, how strong its evidence is there, and where; empty without a map."""
    reading = None if lesion is None else lesion.reading(concept)
    if reading is None or reading.peak_slice is None:
        return ""
    where = slice_words(explanation.frame.geometry, reading.peak_slice)
    return f"probability {reading.probability:.0%}; strongest evidence {reading.peak_value:.2f}, {where}"


def provenance_words(explanation: Explanation) -> list[str]:
    """Which model ran where and how long, and what was said on the way."""
    source = explanation.provenance
    name = " ".join(str(source.bundle[key]) for key in ("name", "version") if source.bundle.get(key))
    ran = f"{name} ran on {source.device} in {source.precision}: {sum(source.seconds.values()):.1f} s"
    return [ran, *source.notes]


def field_strength(explanation: Explanation) -> str | None:
    """Field strength and maker as the headers say, e.g. "3 T (SIEMENS)"; None where they do not."""
    headers = explanation.study.headers.values()
    strength = next((h.field_strength_t for h in headers if h.field_strength_t is not None), None)
    maker = next((h.manufacturer for h in headers if h.manufacturer), None)
    if strength is None:
        return maker
    return f"{strength:g} T" + (f" ({maker})" if maker else "")


# ------------------------------------------------------------------------------------------------------- what was done


def time_words(time: str) -> str:
    """An ISO 8601 time in UTC to the minute, e.g. "2026-01-31 10:20 UTC"."""
    return f"{time[:16].replace('T', ' ')} UTC"


def signed_words(signature: SignOff) -> str:
    """Who signed a case, and when."""
    return f"Signed off by {signature.reader}, {time_words(signature.time)}"


_ACTIONS: Mapping[str, str] = {
    "open": "study opened",
    "explain": "explained",
    "override": "answered",
    "reset_step": "answer taken back",
    "edit_region": "outline changed",
    "add_region": "drawn",
    "explain_here": "added where a reader pointed",
    "delete": "deleted",
    "merge": "merged",
    "split": "split",
    "shift": "sequence moved",
    "set_psa": "PSA entered",
    "undo": "undone",
    "redo": "done again",
    "reset": "back",
    "sign_off": "signed off",
    "reopen": "reopened",
}


def audit_reader(entry: AuditEntry) -> str:
    """Who did it: a reader, "model", or "-" where nobody was named."""
    return entry.reader or ("model" if entry.action == "explain" else "-")


def audit_words(entry: AuditEntry) -> str:
    """An entry of a case's log in words, e.g. "region 1: T2W score answered 5; patient's category 4 -> 5"."""
    region = "" if entry.lesion is None else f"region {entry.lesion}: "
    said = region + _done(entry)
    before, after = entry.before.get("category"), entry.after.get("category")
    if before is not None and after is not None and before != after:
        said += f"; patient's category {before} -> {after}"
    return said


def _done(entry: AuditEntry) -> str:
    name, detail = _ACTIONS.get(entry.action, entry.action), entry.detail
    if entry.action == "override":
        step, _, answer = detail.partition(" = ")
        return f"{_step_of(step)} {name} {_answered(entry, step, answer)}"
    if entry.action == "reset_step":
        return f"{_step_of(detail)}, {name}"
    if entry.action in ("undo", "redo"):
        return f"{name}: {_ACTIONS.get(detail, detail)}"
    if entry.action == "shift":
        role, _, by = detail.partition(" ")
        return f"{name}: {ROLE_NAMES.get(role, role)} {by}"
    if entry.action == "set_psa":
        psa = entry.after.get("psa_ng_ml")
        return "PSA: not known" if psa is None else f"PSA: {psa:g} ng/mL"
    return f"{name}: {detail}" if detail else name


def _answered(entry: AuditEntry, step: str, written: str) -> str:
    """The answer as it was given: the entry's detail holds it as text, its facts hold it as it is."""
    regions: Mapping[str, Any] = entry.after.get("regions") or {}
    given = (regions.get(str(entry.lesion)) or {}).get("answers", {}).get(step)
    try:
        return written if given is None else answer_words(step, given["answer"])
    except (KeyError, TypeError, ValueError):  # an answer of an older lexicon
        return written


def _step_of(step: str) -> str:
    if step in _STEPS:
        return _STEPS[step]
    try:
        attribute = lexicon.load().attribute(step)
    except KeyError:
        return step
    return f"{CONCEPT_GROUPS[attribute.sequence]} {attribute.label}"
