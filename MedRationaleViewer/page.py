"""What the page shows, as plain values: pure functions from what is open to the page's state.

Everything is a view of the case: its words are those of :mod:`MedRationaleLogic.export`, as in every other face, and
nothing is decided here. A section is a dict of text, numbers, lists and dicts, replaced as a whole; all text is plain
text, which the page escapes, but for ``sectors.svg``, which is drawn by us and holds no text of a study.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from MedRationaleLogic.case import AuditEntry, Case
from MedRationaleLogic.export import figures, shown, thumbnails, walk, words
from MedRationaleLogic.export.palette import CATEGORY_COLOURS, text_on
from MedRationaleLogic.export.sector_map import explanation_map_svg
from MedRationaleLogic.imaging.acquisition import ROLE_NAMES
from MedRationaleLogic.inference.explanation import Explanation, Lesion
from MedRationaleLogic.pirads.rationale import RationaleStep
from MedRationaleLogic.pirads.rules import Score
from MedRationaleLogic.session import IDLE, Job
from MedRationaleViewer import downloads

__all__ = [
    "IDLE",
    "Reading",
    "concepts",
    "evidence_section",
    "findings_section",
    "job_section",
    "rationale_section",
    "review_section",
    "sections",
    "sectors_section",
    "study_section",
    "ui",
]

Section = dict[str, Any]

READ_ONLY: Final = "This page is read-only: a case can be looked at and downloaded, not changed."
NO_STUDY: Final = "No study is open."
SAMPLE: Final = "Simulated sample study: no patient."


@dataclass(frozen=True)
class Reading:
    """All that the page is made from.

    Attributes:
        case: the open one, or None.
        job: what the network does for it.
        reader: who reads; empty until a name is given.
        step: the step of the rationale that was chosen.
        marked: regions that are marked for merging.
        evidence_shown: whether evidence is to lie over the images.
        whole: also away from the gland.
        opacity: of the evidence, 0 to 1.
        read_only: nothing may be changed.
        sample: the study is the simulated one.
        name: what to call the study; its own name where empty.
        network: where the network runs, in words.
        message: what there is to say of the study.
        number: of the case: another number, another case.
        unsaved: whether a reader's work would go with the case.
    """

    case: Case | None = None
    job: Job = IDLE
    reader: str = ""
    step: str | None = None
    marked: frozenset[int] = frozenset()
    evidence_shown: bool = True
    whole: bool = False
    opacity: float = 0.5
    read_only: bool = False
    sample: bool = False
    name: str = ""
    network: str = ""
    message: str = ""
    number: int = 0
    unsaved: bool = False

    @property
    def explanation(self) -> Explanation | None:
        """The explanation in force, or None."""
        return None if self.case is None else self.case.explanation

    @property
    def lesion(self) -> Lesion | None:
        """The selected region, or None."""
        number = None if self.case is None else self.case.selection.lesion
        return None if number is None or self.explanation is None else self.explanation.lesion(number)

    @property
    def concept(self) -> str | None:
        """The selected concept, or None."""
        return None if self.case is None else self.case.selection.concept

    @property
    def running(self) -> bool:
        """Whether the network is at work."""
        return self.job.state == "running"

    @property
    def editable(self) -> bool:
        """Whether the case takes a reader's changes now."""
        case = self.case
        changeable = case is not None and case.explanation is not None and case.signed_off is None
        return changeable and not self.running and not self.read_only


def sections(reading: Reading) -> dict[str, Section]:
    """All sections by their names in the page's state."""
    return {
        "study": study_section(reading),
        "job": job_section(reading),
        "findings": findings_section(reading),
        "rationale": rationale_section(reading),
        "evidence": evidence_section(reading),
        "review": review_section(reading),
        "sectors": sectors_section(reading),
    }


def ui() -> Section:
    """What only the page itself changes, as it starts: the dialogs, folded sections, and what is being typed."""
    return {
        "help": False, "map": False, "editing": None, "open": {}, "shut": {}, "draft": {},
        "upload": {"state": "", "text": "", "share": 0},
    }  # fmt: skip


def concepts(explanation: Explanation, lesion: int | None = None) -> list[str]:
    """Ids of the concepts to walk through, in the page's order: those of a region, else all of the study."""
    return [offer.concept for offer in walk.concepts(explanation, lesion)]


# ------------------------------------------------------------------------------------------------------ study and job


def study_section(reading: Reading) -> Section:
    """Which images are open, how good they are, and what holds for all of them."""
    case = reading.case
    if case is None:
        said = [reading.message, READ_ONLY if reading.read_only else ""]
        return {
            "open": False, "case": reading.number, "name": "", "sample": False, "explained": False,
            "read_only": reading.read_only, "images": [], "quality": [], "message": _sentences(*said),
        }  # fmt: skip
    study, explanation = case.study, case.explanation
    quality = [] if explanation is None else words.quality_words(explanation)
    there = {text for text, _ in quality}
    notes: list[tuple[str, words.Level]] = [(note, "note") for note in study.notes if note not in there]
    said = [reading.message, SAMPLE if reading.sample else "", READ_ONLY if reading.read_only else ""]
    return {
        "open": True,
        "case": reading.number,
        "name": reading.name or study.name,
        "sample": reading.sample,
        "explained": explanation is not None,
        "read_only": reading.read_only,
        "images": [
            {"role": role, "name": name, "present": present, "detail": detail}
            for role, name, present, detail in words.images_words(study)
        ],
        "quality": [{"text": text, "level": level} for text, level in [*quality, *notes]],
        "message": _sentences(*said),
    }


def job_section(reading: Reading) -> Section:
    """What the network does, and where."""
    job, explanation = reading.job, reading.explanation
    ran = [] if explanation is None or reading.running else words.provenance_words(explanation)
    return {
        "kind": job.kind,
        "what": job.what,
        "state": job.state,
        "running": reading.running,
        "share": round(min(1.0, max(0.0, job.share)), 3),
        "stage": job.stage,
        "message": job.message,
        "log_tail": job.log_tail,
        "network": "; ".join(text for text in (reading.network, *ran) if text),
    }


# ----------------------------------------------------------------------------------------------------------- findings


def findings_section(reading: Reading) -> Section:
    """The patient's category and every suspicious region in a row."""
    explanation = reading.explanation
    if explanation is None:
        return {"summary": None, "lesions": []}
    category = explanation.category
    return {
        "summary": {
            **_badge(category.category),
            "text": category.text,
            "lines": words.summary_words(explanation),
        },
        "lesions": [_lesion(reading, lesion) for lesion in explanation.lesions],
    }


def _lesion(reading: Reading, lesion: Lesion) -> Section:
    rationale = lesion.rationale
    size, size_detail = words.lesion_size(lesion)
    return {
        "number": lesion.number,
        "origin": lesion.origin,
        "origin_text": words.origin_words(lesion),
        **_badge(lesion.category),
        "reachable": words.reachable_words(rationale.category_reachable, lesion.category),
        "zone": rationale.zone,
        "zone_uncertain": rationale.zone_uncertain,
        "size": size,
        "size_detail": size_detail,
        "t2w": str(rationale.t2w),
        "dwi": str(rationale.dwi),
        "suspicion": None if lesion.suspicion is None else _number(lesion.suspicion.value),
        "flags": list(lesion.all_flags),
        "sectors": words.sectors_words(lesion),
        "selected": reading.lesion is lesion,
        "marked": lesion.number in reading.marked,
    }


# ---------------------------------------------------------------------------------------------------------- rationale


def rationale_section(reading: Reading) -> Section:
    """The selected region's rationale as a tree, from the category down to what was seen."""
    explanation, lesion = reading.explanation, reading.lesion
    if explanation is None or lesion is None:
        hint = [words.NO_REGION_SELECTED] if explanation is not None and explanation.lesions else []
        return {
            "lesion": None, "category": "", "colour": "", "ink": "", "reachable": "", "lines": hint, "flags": [],
            "steps": [], "chosen": None,
        }  # fmt: skip
    rationale = lesion.rationale
    chosen = walk.step_shown(rationale, reading.step, reading.concept)
    maps = frozenset(explanation.evidence)
    return {
        "lesion": lesion.number,
        **_badge(lesion.category),
        "reachable": words.reachable_words(rationale.category_reachable, lesion.category),
        "lines": words.rationale_words(lesion),
        "flags": list(lesion.all_flags),
        "steps": [
            _step(explanation, lesion, step, depth, chosen == step.id, maps) for depth, step in _tree(lesion)
        ],
        "chosen": chosen,
    }  # fmt: skip


def _tree(lesion: Lesion) -> list[tuple[int, RationaleStep]]:
    """(depth, step) in the order in which the tree is read."""
    path = lesion.rationale.path
    rows = [(0, path.step("category"))]
    for top, below in path.branches():
        rows += [(1, top), *((2, step) for step in below)]
    return rows


def _step(
    explanation: Explanation, lesion: Lesion, step: RationaleStep, depth: int, selected: bool, maps: frozenset[str]
) -> Section:
    answers = lesion.rationale.answers(step.id)
    evidence = step.evidence if step.evidence in maps else None
    seen = []
    if evidence is not None:
        seen = [words.concept_phrase(evidence), words.evidence_words(explanation, lesion, evidence)]
    return {
        "id": step.id,
        "depth": depth,
        "label": words.step_name(step),
        "answer": words.answer_words(step.id, step.answer),
        "original": None if step.original is None else words.answer_words(step.id, step.original),
        "uncertain": step.uncertain,
        "probability": None if step.probability is None else _number(step.probability),
        "alternatives": [
            {"text": words.answer_words(step.id, answer), "probability": None if p is None else _number(p)}
            for answer, p in step.alternatives
        ],
        "asserted": words.asserted_words(step),
        "overridden": step.overridden,
        "question": step.question,
        "rule": step.rule,
        "detail": step.detail,
        "evidence": evidence,
        "evidence_text": "; ".join(text for text in seen if text),
        "selected": selected,
        "kind": "size" if step.id == "size" else "choice" if answers else "computed",
        "answers": [
            {"text": words.answer_words(step.id, answer), "current": answer == step.answer} for answer in answers
        ],
        "size_mm": float(step.answer) if step.id == "size" else None,
    }


# ----------------------------------------------------------------------------------------------------------- evidence


def evidence_section(reading: Reading) -> Section:
    """Which concept's evidence is looked at, and which ones there are."""
    explanation, concept = reading.explanation, reading.concept
    base: Section = {
        "shown": reading.evidence_shown, "concept": None, "phrase": "", "sequence_name": "",
        "text": words.WHAT_EVIDENCE_IS, "groups": [], "threshold": None, "whole": reading.whole,
        "opacity": _number(reading.opacity), "stops": [], "thumbnail": None,
    }  # fmt: skip
    if explanation is None:
        return base
    threshold = _number(explanation.evidence.threshold)
    base |= {"groups": _groups(reading, explanation), "threshold": threshold, "stops": _stops(threshold)}
    if concept is None or concept not in explanation.evidence:
        return base
    sequence = walk.sequence_of(concept)
    return base | {
        "concept": concept,
        "phrase": words.concept_phrase(concept),
        "sequence_name": ROLE_NAMES[sequence],
        "text": _evidence_text(reading, explanation, concept),
        "thumbnail": _thumbnail(reading, explanation, concept),
    }


def _groups(reading: Reading, explanation: Explanation) -> list[Section]:
    lesion = reading.lesion
    leading = None if lesion is None else lesion.leading_concept
    groups: dict[str, list[Section]] = {}
    for offer in walk.concepts(explanation, None if lesion is None else lesion.number):
        found = None if lesion is None else lesion.reading(offer.concept)
        groups.setdefault(offer.sequence, []).append({
            "id": offer.concept,
            "phrase": offer.text,
            "selected": offer.concept == reading.concept,
            "probability": None if found is None else _number(found.probability),
            "leads": offer.concept == leading,
        })  # fmt: skip
    return [
        {"sequence": sequence, "name": words.CONCEPT_GROUPS[sequence], "concepts": rows}
        for sequence, rows in groups.items()
    ]


def _evidence_text(reading: Reading, explanation: Explanation, concept: str) -> str:
    said = words.evidence_words(explanation, reading.lesion, concept)
    later = reading.case is not None and not reading.case.evidence_at_hand
    return _sentences(
        f"{said[0].upper()}{said[1:]}." if said else "",
        "The network reads the images once more to show it." if later else "",
        "" if reading.whole else shown.WORDS,
    )


def _stops(threshold: float) -> list[Section]:
    """The colour scale from 0 to 1; what lies below the threshold is transparent in the views."""
    labels = {0.0: "0", threshold: f"{threshold:.2f}", 1.0: "1"}
    return [
        {"colour": colour, "label": labels.get(value, ""), "at": _number(value)}
        for value, colour, _ in figures.legend_stops(threshold)
    ]


def _thumbnail(reading: Reading, explanation: Explanation, concept: str) -> str | None:
    """None without a region, and where the network would have to run for it."""
    lesion = reading.lesion
    if lesion is None or reading.case is None or not reading.case.evidence_at_hand:
        return None
    return _drawn.get(
        explanation,
        ("thumbnail", lesion.number, concept),
        lambda: thumbnails.data_url(thumbnails.thumbnail(explanation, lesion, concept)),
    )


# ------------------------------------------------------------------------------------------------------------- review


def review_section(reading: Reading) -> Section:
    """What a reader has done and can do, what can be taken away, and who signed."""
    case, editable = reading.case, reading.editable
    explanation = reading.explanation
    signed = None if case is None else case.signed_off
    density = None if explanation is None else explanation.psa_density
    log, log_ok = ([], True) if case is None else _log(case)
    return {
        "reader": reading.reader,
        "can_undo": case is not None and editable and case.can_undo,
        "can_redo": case is not None and editable and case.can_redo,
        "can_reset": case is not None and editable and explanation is not case.original,
        "editable": editable,
        "unsaved": reading.unsaved,
        "signed": None
        if signed is None
        else {
            "reader": signed.reader,
            "when": words.time_words(signed.time),
            "text": words.signed_words(signed),
        },
        "psa": None if case is None else case.study.psa,
        "psa_text": "" if density is None else density.text,
        "log": log,
        "log_ok": log_ok,
        "shifts": [] if case is None or explanation is None else _shifts(case),
        "downloads": [] if case is None else _downloads(case),
        "hint": _hint(reading),
    }


def _hint(reading: Reading) -> str:
    """Why nothing can be changed now, or what is missing for it; empty where all is well."""
    case = reading.case
    if case is None:
        return ""
    if reading.read_only:
        return READ_ONLY
    if reading.running:
        return "The network is at work; changes can be made when it is done."
    if case.explanation is None:
        return words.NOT_EXPLAINED
    if case.signed_off is not None:
        return "A signed case cannot be changed; reopen it first, with a reason that the log keeps."
    return "" if reading.reader.strip() else "Enter your name or initials: a change is kept under a name."


def _shifts(case: Case) -> list[Section]:
    """The sequences that can be moved. The millimetres are what a form starts with: each shift is added to where the
    sequence lies; how far it was moved so far is told by the study's notes."""
    return [{"role": role, "name": ROLE_NAMES[role], "x": 0.0, "y": 0.0, "z": 0.0} for role in case.study.roles[1:]]


def _downloads(case: Case) -> list[Section]:
    return [
        {
            "name": offer.download.name,
            "label": offer.download.label,
            "note": offer.download.note,
            "available": offer.available,
            "why": offer.why,
        }
        for offer in downloads.offered(case)
    ]


def _log(case: Case) -> tuple[list[Section], bool]:
    """The log in words, oldest first, and whether it is as it was written; worked out once for each length of it."""
    kept = _logs.get(case)
    if kept is None or kept[0] is not case.log:
        rows = [
            {
                "when": words.time_words(entry.time),
                "reader": words.audit_reader(entry),
                "text": words.audit_words(entry),
            }
            for entry in case.log
        ]
        kept = _logs[case] = (case.log, rows, case.verify_log())
    return list(kept[1]), kept[2]


# ------------------------------------------------------------------------------------------------------------ sectors


def sectors_section(reading: Reading) -> Section:
    """The sector map of all regions."""
    explanation = reading.explanation
    if explanation is None:
        return {"svg": "", "hint": ""}
    if explanation.gland is None:
        return {"svg": "", "hint": "No gland was found, so there is no sector to name."}
    lit = any(lesion.measures.sectors for lesion in explanation.lesions)
    number = None if reading.lesion is None else reading.lesion.number
    svg = _drawn.get(
        explanation,
        ("sectors", number, ""),
        lambda: explanation_map_svg(explanation, prefix="sectors", theme="dark", selected=number),
    )
    return {"svg": svg, "hint": "A click on a lit sector selects its region." if lit else "No sector is lit."}


# -------------------------------------------------------------------------------------------------------------- pieces


@dataclass
class _Drawn:
    """Pictures of the explanation that is shown; of an earlier one nothing is kept."""

    of: Callable[[], Explanation | None] = field(default=lambda: None)
    made: dict[tuple[str, int | None, str], str] = field(default_factory=dict)

    def get(self, explanation: Explanation, key: tuple[str, int | None, str], draw: Callable[[], str]) -> str:
        if self.of() is not explanation:
            self.of, self.made = weakref.ref(explanation), {}
        if key not in self.made:
            self.made[key] = draw()
        return self.made[key]


_drawn: Final = _Drawn()
_logs: Final[weakref.WeakKeyDictionary[Case, tuple[tuple[AuditEntry, ...], list[Section], bool]]] = (
    weakref.WeakKeyDictionary()
)


def _badge(score: Score) -> Mapping[str, str]:
    colour = CATEGORY_COLOURS[score]
    return {"category": str(score), "colour": colour, "ink": text_on(colour)}


def _number(value: float) -> float:
    """A plain number, without digits that nobody sees."""
    return round(float(value), 4)


def _sentences(*parts: str) -> str:
    return " ".join(part for part in parts if part)
