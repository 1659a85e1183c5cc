"""The rationale of a lesion: the PI-RADS v2.1 tree as data, step by step, open to a reader's judgement.

:func:`build` turns findings (readings, size, zone shares) into a :class:`Rationale`; ``override`` lets a reader answer
a step and recomputes every step below it. The original answers are kept. Steps come in the order in which they depend
on each other, so that an override never changes a step above its own:

``zone``, ``size``, ``epe``, ``t2.*``, ``t2w.score``, ``adc.*``, ``hbv.*``, ``dwi.score``, ``dce``, ``category``.

What no reader can change: a sequence that is not there has score X; and what no model can say: DCE and definite
extraprostatic extension enter by a reader only. Source: PI-RADS v2.1 (ACR, 2019). Research use only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, cast, get_args

from MedRationaleLogic.pirads import rules
from MedRationaleLogic.pirads.lexicon import SEQUENCE_NAMES, SEQUENCES, ZONE_NAMES, Attribute, load
from MedRationaleLogic.pirads.rules import Dce, RuleMatch, Score, ScoreSet, Zone

SCHEMA = "medrationale.rationale/1"
ZONE_SHARE_UNCERTAIN = 0.25
UNKNOWN = "unknown"
NOT_ASSERTED = "not asserted"
EPE_ANSWERS = ("absent", "suspected", "definite")
MAX_SIZE_MM = 200.0

Answer = str | int | float
AssertedBy = Literal["model", "reader", "measured", "rule"]

_OUTSIDE = "outside"
_SUBJECTS = {"t2w": "T2W", "adc": "The ADC map", "hbv": "The high-b image"}
_QUESTIONS = {
    "zone": "In which zone does the region lie?",
    "size": "What is its greatest dimension?",
    "epe": "Is there definite extraprostatic extension or invasive behaviour?",
    "t2w.score": "Which T2W score follows?",
    "dwi.score": "Which DWI score follows?",
    "dce": "Is dynamic contrast enhancement positive?",
    "category": "Which PI-RADS category follows?",
}
_ZONE_RULE = (
    "PI-RADS v2.1: the zone of origin chooses the table; the larger share of the volume stands for it, and from a "
    "smaller share of 25 % both tables are shown (design rule)"
)
_SIZE_RULE = "PI-RADS v2.1: from 15 mm an appearance of score 4 is score 5; 14 to 16 mm is near the threshold"
_EPE_RULE = "PI-RADS v2.1: definite extension makes an appearance of score 4 score 5; suspected never changes a score"
_DCE_RULE = "PI-RADS v2.1: without adequate DCE (biparametric MRI) the result is X; only a reader asserts + or -"


@dataclass(frozen=True)
class Findings:
    """What is known of a lesion before any reader speaks.

    Attributes:
        zone_shares: share of the lesion's volume (0 to 1) under "PZ", "TZ", and where masks exist "CZ", "AFS",
            "outside".
        attributes: attribute id -> value -> probability, from the model. Readings of a sequence that is not available
            count for nothing.
        size_mm: greatest dimension in millimetres; kept to one decimal, as it is reported and compared.
        size_source: how it was measured, for a reader ("axial ADC, slice 11").
        available: which of "t2w", "adc", "hbv" are there *and* adequate.
        suspicion: the model's suspicion, 0 to 1; carried along, it decides nothing here.
        zone_attributes: zone -> attribute id -> value -> probability, where readings differ by the zone whose terms are
            asked for; takes the place of ``attributes``, attribute by attribute, on that zone's path.
        plausible_ratio: see :func:`rules.plausible`.

    Raises:
        ValueError: a share, probability, size, sequence, attribute or value that is none.
    """

    zone_shares: Mapping[str, float]
    attributes: Mapping[str, Mapping[str, float]]
    size_mm: float
    size_source: str = ""
    available: frozenset[str] = frozenset(SEQUENCES)
    suspicion: float | None = None
    zone_attributes: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    plausible_ratio: float = rules.PLAUSIBLE_RATIO

    def __post_init__(self) -> None:
        # Plain numbers and dictionaries: what a network hands over must neither change later nor fail in JSON.
        _set(self, zone_shares={str(zone): float(share) for zone, share in self.zone_shares.items()})
        _set(self, attributes=_plain(self.attributes))
        _set(self, zone_attributes={str(zone): _plain(given) for zone, given in self.zone_attributes.items()})
        _set(self, available=frozenset(self.available), size_mm=_size(self.size_mm))
        _set(self, suspicion=None if self.suspicion is None else float(self.suspicion))
        _check_shares(self.zone_shares)
        if not self.available <= set(SEQUENCES):
            raise ValueError(f"available sequences must be among {', '.join(SEQUENCES)}, got {sorted(self.available)}")
        if self.suspicion is not None and not 0 <= self.suspicion <= 1:
            raise ValueError(f"suspicion must be 0 to 1, got {self.suspicion}")
        if not set(self.zone_attributes) <= set(get_args(Zone)):
            raise ValueError(f"zone_attributes must be under 'PZ' and 'TZ', got {sorted(self.zone_attributes)}")
        for readings in (self.attributes, *self.zone_attributes.values()):
            rules.check_readings(readings)

    def readings(self, zone: Zone) -> dict[str, dict[str, float]]:
        """The readings of the available sequences, as they are on a zone's path; all-zero ones say nothing."""
        given = {**self.attributes, **self.zone_attributes.get(zone, {})}
        return {
            a.id: dict(given[a.id])
            for a in load().attributes
            if a.sequence in self.available and any(given.get(a.id, {}).values())
        }


@dataclass(frozen=True)
class Override:
    """A reader's answer to a step."""

    step: str
    answer: Answer
    reader: str


@dataclass(frozen=True)
class RationaleStep:
    """One step of the tree.

    Attributes:
        id: stable name; attribute steps carry the attribute's id.
        question: what is asked.
        answer: the answer in force: a value's id, a zone, a score (1 to 5 or "X"), millimetres, "+", "-", "X".
        probability: the model's for ``answer``; None for what is measured, ruled or said by a reader.
        alternatives: other answers with the model's probability, most probable first; for scores and category the
            other reachable ones, without a probability.
        sequence: "t2w", "adc", "hbv", "dwi" (ADC and high-b), or None.
        evidence: id of the concept whose evidence map shows the answer, or None.
        rule: the rule or term of the standard that the step rests on.
        asserted_by: who says it.
        reader: name of the reader who says it, or None.
        original: the answer without any reader's override, where it was overridden or has changed; else None.
        uncertain: other answers are plausible.
        based_on: ids of the steps it was computed from.
        detail: a remark for a reader.
    """

    id: str
    question: str
    answer: Answer
    probability: float | None = None
    alternatives: tuple[tuple[Answer, float | None], ...] = ()
    sequence: str | None = None
    evidence: str | None = None
    rule: str = ""
    asserted_by: AssertedBy = "rule"
    reader: str | None = None
    original: Answer | None = None
    uncertain: bool = False
    based_on: tuple[str, ...] = ()
    detail: str = ""

    @property
    def overridden(self) -> bool:
        """Whether a reader's answer stands in place of another."""
        return self.reader is not None


@dataclass(frozen=True)
class ZonePath:
    """The steps and their outcome along one zone's tables.

    Attributes:
        zone: whose tables were used.
        steps: in order of dependence.
        t2w, dwi, dce, category: the outcome.
        t2w_reachable, dwi_reachable, category_reachable: every outcome that plausible readings allow.
    """

    zone: Zone
    steps: tuple[RationaleStep, ...]
    t2w: Score
    dwi: Score
    dce: Dce
    category: Score
    t2w_reachable: frozenset[Score]
    dwi_reachable: frozenset[Score]
    category_reachable: frozenset[Score]

    def branches(self) -> tuple[tuple[RationaleStep, tuple[RationaleStep, ...]], ...]:
        """The steps as a reader walks them down from the category: each step that leads to it, with those below.

        The zone's dominant sequence comes first (PZ: DWI, TZ: T2W), then the other one, DCE, size and extension.
        """
        order = ("dwi.score", "t2w.score") if self.zone == "PZ" else ("t2w.score", "dwi.score")
        below = {"t2w.score": ("t2.",), "dwi.score": ("adc.", "hbv.")}
        return tuple(
            (
                self.step(name),
                tuple(s for s in self.steps if s.id.startswith(below.get(name, ())) and "score" not in s.id),
            )
            for name in ("zone", *order, "dce", "size", "epe")
        )

    def step(self, step_id: str) -> RationaleStep:
        """The step of this id.

        Raises:
            KeyError: the path has none.
        """
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(f"the rationale has no step {step_id!r}; it has {', '.join(s.id for s in self.steps)}")


@dataclass(frozen=True)
class Rationale:
    """Why a lesion has its category.

    Attributes:
        findings: what it was built from.
        path: the steps in force.
        other: the other zone's path when the zone is uncertain, else None; shown beside ``path``, never instead.
        overrides: readers' answers, in the order given.
        lexicon_version: the lexicon its terms come from.
    """

    findings: Findings
    path: ZonePath
    other: ZonePath | None = None
    overrides: tuple[Override, ...] = ()
    lexicon_version: str = ""

    @property
    def steps(self) -> tuple[RationaleStep, ...]:
        """The steps in force, in order."""
        return self.path.steps

    @property
    def zone(self) -> Zone:
        """The zone whose tables are in force."""
        return self.path.zone

    @property
    def t2w(self) -> Score:
        """The T2W score."""
        return self.path.t2w

    @property
    def dwi(self) -> Score:
        """The DWI score."""
        return self.path.dwi

    @property
    def dce(self) -> Dce:
        """The DCE result."""
        return self.path.dce

    @property
    def category(self) -> Score:
        """The PI-RADS category."""
        return self.path.category

    @property
    def t2w_reachable(self) -> frozenset[Score]:
        """T2W scores within reach on the path in force."""
        return self.path.t2w_reachable

    @property
    def dwi_reachable(self) -> frozenset[Score]:
        """DWI scores within reach on the path in force."""
        return self.path.dwi_reachable

    @property
    def category_reachable(self) -> frozenset[Score]:
        """Categories within reach, along the other zone too when the zone is uncertain."""
        return self.path.category_reachable | (self.other.category_reachable if self.other else frozenset())

    @property
    def zone_uncertain(self) -> bool:
        """Whether both zones' tables apply and no reader has chosen."""
        return self.other is not None

    @property
    def uncertain(self) -> bool:
        """Whether more than one category is within reach."""
        return len(self.category_reachable) > 1

    @property
    def epe_definite(self) -> bool:
        """Whether a reader asserts definite extraprostatic extension."""
        return self.step("epe").answer == "definite"

    @property
    def size_mm(self) -> float:
        """The greatest dimension in force."""
        return float(self.step("size").answer)

    @property
    def protocol(self) -> Literal["bpMRI", "mpMRI"]:
        """Biparametric unless a reader gives a DCE result."""
        return "bpMRI" if self.dce == "X" else "mpMRI"

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader has to know before trusting the category."""
        flags = []
        if self.zone_uncertain:
            flags.append("zone uncertain")
        if self.step("size").uncertain:
            flags.append("size near the 15 mm threshold (14-16 mm)")
        for step_id, name in (("t2w.score", "T2W"), ("dwi.score", "DWI")):
            step = self.step(step_id)
            if step.answer == "X":
                flags.append(f"{name} score X")
            elif step.uncertain:
                flags.append(f"{name} score uncertain")
        return tuple(flags)

    def step(self, step_id: str) -> RationaleStep:
        """The step of this id on the path in force.

        Raises:
            KeyError: there is none.
        """
        return self.path.step(step_id)

    def override(self, step_id: str, answer: Answer, reader: str) -> Rationale:
        """The rationale with a reader's answer to a step; every step below is computed anew.

        Steps that can be answered: ``zone`` ("PZ", "TZ"; settles an uncertain zone), ``size`` (mm; settles the
        threshold), ``epe`` ("absent", "suspected", "definite"), each attribute of an available sequence (one of its
        values), ``t2w.score`` and ``dwi.score`` (1 to 5, or "X" for an inadequate sequence; stands in place of the
        rule), ``dce`` ("+", "-", "X").

        Args:
            step_id: id of the step.
            answer: the new answer; a second answer to the same step replaces the first, the original stays.
            reader: who says it.

        Raises:
            ValueError: no such step, an answer it cannot have, no reader's name, a sequence that is not available, or
                the category, which is always computed.
        """
        answer = _check_override(self.findings, step_id, answer)
        if not reader.strip():
            raise ValueError("an override needs the reader's name")
        kept = tuple(o for o in self.overrides if o.step != step_id)
        return _assemble(self.findings, (*kept, Override(step_id, answer, reader.strip())))

    def reset(self, step_id: str) -> Rationale:
        """The rationale without a reader's answer to a step; the same one when there is none.

        Raises:
            ValueError: no such step.
        """
        if step_id not in _step_ids(self.findings):
            raise ValueError(f"no step {step_id!r}; the steps are {', '.join(_step_ids(self.findings))}")
        kept = tuple(o for o in self.overrides if o.step != step_id)
        return self if kept == self.overrides else _assemble(self.findings, kept)

    def answers(self, step_id: str) -> tuple[Answer, ...]:
        """The answers that a reader can give to a step, in their own order; empty for ``size`` (any number of
        millimetres), for the category (computed), and for a sequence that is not available.

        Raises:
            ValueError: no such step.
        """
        if step_id not in _step_ids(self.findings):
            raise ValueError(f"no step {step_id!r}; the steps are {', '.join(_step_ids(self.findings))}")
        if step_id in ("size", "category"):
            return ()
        scores: tuple[Answer, ...] = (1, 2, 3, 4, 5, "X")
        asked = scores if step_id in ("t2w.score", "dwi.score") else _allowed(step_id)
        try:
            _check_override(self.findings, step_id, asked[0])
        except ValueError:
            return ()
        return asked

    def original(self) -> Rationale:
        """The rationale before any reader spoke."""
        return _assemble(self.findings, ()) if self.overrides else self

    def explain(self) -> str:
        """The rationale in plain sentences, one per line."""
        return "\n".join(_sentences(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; :meth:`from_dict` reads it back unchanged."""
        return {
            "schema": SCHEMA,
            "standard": load().standard,
            "lexicon_version": self.lexicon_version,
            "zone": self.zone,
            "t2w": self.t2w,
            "dwi": self.dwi,
            "dce": self.dce,
            "category": self.category,
            "category_reachable": _ordered(self.category_reachable),
            "zone_uncertain": self.zone_uncertain,
            "flags": list(self.flags),
            "path": _path_to_dict(self.path),
            "other_path": None if self.other is None else _path_to_dict(self.other),
            "overrides": [asdict(override) for override in self.overrides],
            "findings": _findings_to_dict(self.findings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rationale:
        """The inverse of :meth:`to_dict`. Reads what was stored and computes nothing: a stored rationale is a record.

        Raises:
            ValueError: another schema, or an entry that is missing or malformed.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"rationale: schema is {data.get('schema')!r}, expected {SCHEMA!r}")
        try:
            other = data["other_path"]
            return cls(
                findings=_findings_from_dict(data["findings"]),
                path=_path_from_dict(data["path"]),
                other=None if other is None else _path_from_dict(other),
                overrides=tuple(Override(o["step"], o["answer"], o["reader"]) for o in data["overrides"]),
                lexicon_version=data["lexicon_version"],
            )
        except KeyError as error:
            raise ValueError(f"rationale: entry {error.args[0]!r} is missing") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"rationale: malformed entry ({error})") from error


def build(findings: Findings) -> Rationale:
    """The rationale of findings, before any reader speaks.

    Raises:
        ValueError: an available sequence of which nothing was read.
    """
    return _assemble(findings, ())


# ---------------------------------------------------------------------------------------------------------- assembly


def _assemble(findings: Findings, overrides: tuple[Override, ...]) -> Rationale:
    by_step = {override.step: override for override in overrides}
    measured, share_uncertain = zone_of_origin(findings.zone_shares)
    chosen = by_step.get("zone")
    zone = measured if chosen is None else cast(Zone, chosen.answer)
    path = _path(findings, by_step, zone, uncertain=share_uncertain and chosen is None)
    other = None
    if share_uncertain and chosen is None:
        other = _path(findings, by_step, _other_zone(zone), uncertain=True)
        path, other = _with_other_category(path, other), _with_other_category(other, path)
    if overrides:
        before = _assemble(findings, ())
        path = _with_originals(path, before.path, by_step)
        other = other and before.other and _with_originals(other, before.other, by_step)
    return Rationale(findings, path, other, overrides, load().version)


def zone_of_origin(shares: Mapping[str, float]) -> tuple[Zone, bool]:
    """The zone whose tables apply, and whether that is uncertain.

    The larger of the shares of PZ and TZ stands for the zone of origin (design rule). It is uncertain when the smaller
    is at least 25 % of both together, when most of the lesion lies in the central zone or the anterior fibromuscular
    stroma (which have no table of their own), or when none of it lies in PZ or TZ.

    Args:
        shares: share of volume by zone, as :attr:`Findings.zone_shares`.
    """
    pz, tz = shares.get("PZ", 0.0), shares.get("TZ", 0.0)
    zone: Zone = "TZ" if tz > pz else "PZ"
    if pz + tz <= 0:
        return zone, True
    mixed = min(pz, tz) >= ZONE_SHARE_UNCERTAIN * (pz + tz) - 1e-9
    elsewhere = max(shares.get("CZ", 0.0), shares.get("AFS", 0.0)) > max(pz, tz)
    return zone, mixed or elsewhere


def _other_zone(zone: Zone) -> Zone:
    return "TZ" if zone == "PZ" else "PZ"


def _path(findings: Findings, by_step: Mapping[str, Override], zone: Zone, *, uncertain: bool) -> ZonePath:
    zone_step = _zone_step(findings, zone, by_step.get("zone"), uncertain)
    size_step = _size_step(findings, by_step.get("size"))
    epe_step = _epe_step(by_step.get("epe"))
    readings = _with_readers_values(findings.readings(zone), by_step)
    context = _Context(
        findings, zone, readings, by_step, float(size_step.answer), size_step.overridden, epe_step.answer == "definite"
    )
    t2w_step, t2w_set = _t2w_step(context)
    dwi_step, dwi_set = _dwi_step(context)
    dce_step = _dce_step(by_step.get("dce"))
    dce = cast(Dce, dce_step.answer)
    t2w, dwi = cast(Score, t2w_step.answer), cast(Score, dwi_step.answer)
    match = rules.overall_rule(zone, t2w, dwi, dce)
    categories = frozenset(rules.overall(zone, t, d, dce) for t in t2w_set for d in dwi_set)
    steps = (
        zone_step,
        size_step,
        epe_step,
        *_attribute_steps(context, "t2w"),
        t2w_step,
        *_attribute_steps(context, "adc"),
        *_attribute_steps(context, "hbv"),
        dwi_step,
        dce_step,
        _category_step(match, categories),
    )
    return ZonePath(zone, steps, t2w, dwi, dce, match.score, t2w_set, dwi_set, categories)


@dataclass(frozen=True)
class _Context:
    """What the sequence steps of one path share."""

    findings: Findings
    zone: Zone
    readings: Mapping[str, Mapping[str, float]]
    by_step: Mapping[str, Override]
    size_mm: float
    size_settled: bool
    epe: bool


def _with_readers_values(
    readings: dict[str, dict[str, float]], by_step: Mapping[str, Override]
) -> dict[str, dict[str, float]]:
    said = {a.id: {str(by_step[a.id].answer): 1.0} for a in load().attributes if a.id in by_step}
    return {**readings, **said}


def _zone_step(findings: Findings, zone: Zone, override: Override | None, uncertain: bool) -> RationaleStep:
    shares = findings.zone_shares
    listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share > 0)
    other = _other_zone(zone)
    step = RationaleStep(
        id="zone",
        question=_QUESTIONS["zone"],
        answer=zone,
        alternatives=((other, None),) if uncertain or shares.get(other, 0.0) > 0 else (),
        rule=_ZONE_RULE,
        asserted_by="measured",
        uncertain=uncertain,
        detail=f"share of volume: {listed or 'none in a known zone'}",
    )
    return _said(step, override)


def _size_step(findings: Findings, override: Override | None) -> RationaleStep:
    step = RationaleStep(
        id="size",
        question=_QUESTIONS["size"],
        answer=findings.size_mm,
        rule=_SIZE_RULE,
        asserted_by="measured",
        uncertain=rules.near_threshold(findings.size_mm),
        detail=findings.size_source,
    )
    return _said(step, override)


def _epe_step(override: Override | None) -> RationaleStep:
    step = RationaleStep(id="epe", question=_QUESTIONS["epe"], answer=NOT_ASSERTED, rule=_EPE_RULE)
    return _said(step, override)


def _dce_step(override: Override | None) -> RationaleStep:
    step = RationaleStep(
        id="dce", question=_QUESTIONS["dce"], answer="X", rule=_DCE_RULE, detail="not read by the model"
    )
    return _said(step, override)


def _said(step: RationaleStep, override: Override | None) -> RationaleStep:
    """The step with the reader's answer, if there is one."""
    if override is None:
        return step
    return replace(
        step,
        answer=override.answer,
        probability=None,
        asserted_by="reader",
        reader=override.reader,
        uncertain=False,
    )


def _attribute_steps(context: _Context, sequence: str) -> tuple[RationaleStep, ...]:
    return tuple(
        _attribute_step(context, attribute)
        for attribute in load().attributes
        if attribute.sequence == sequence and sequence in context.findings.available
    )


def _attribute_step(context: _Context, attribute: Attribute) -> RationaleStep:
    read = context.findings.readings(context.zone).get(attribute.id)
    override = context.by_step.get(attribute.id)
    step = RationaleStep(
        attribute.id, attribute.question, UNKNOWN, sequence=attribute.sequence, asserted_by="model", uncertain=True
    )
    if read is not None:
        best = rules.best_value(attribute.id, read)
        likely = rules.plausible(attribute.id, read, context.findings.plausible_ratio)
        step = replace(step, answer=best, probability=read.get(best, 0.0), uncertain=len(likely) > 1)
    step = _said(step, override)
    if step.answer == UNKNOWN:
        return replace(step, detail="not read: every answer is possible")
    concept = load().concept(attribute.value(str(step.answer)).concepts[context.zone])
    scores = concept.supports.get(context.zone, ())
    supports = f", speaks for score {' or '.join(map(str, scores))}" if scores else ""
    others: list[tuple[Answer, float | None]] = [(v, p) for v, p in (read or {}).items() if v != step.answer]
    return replace(
        step,
        alternatives=tuple(sorted(others, key=lambda other: -(other[1] or 0.0))),
        evidence=concept.id,
        rule=f"PI-RADS v2.1 term, {ZONE_NAMES[context.zone]}: {concept.phrase}{supports}",
    )


def _t2w_step(context: _Context) -> tuple[RationaleStep, frozenset[Score]]:
    if "t2w" not in context.findings.available:
        return _absent("t2w.score", "t2w", ["T2W"])
    scores = rules.reachable_t2w(
        context.zone,
        {a: p for a, p in context.readings.items() if a.startswith("t2.")},
        context.size_mm,
        context.epe,
        threshold=context.findings.plausible_ratio,
        size_settled=context.size_settled,
    )
    return _score_step("t2w.score", "t2w", scores, context)


def _dwi_step(context: _Context) -> tuple[RationaleStep, frozenset[Score]]:
    missing = [SEQUENCE_NAMES[s] for s in ("adc", "hbv") if s not in context.findings.available]
    if missing:
        return _absent("dwi.score", "dwi", missing)
    scores = rules.reachable_dwi(
        {a: p for a, p in context.readings.items() if a.startswith(("adc.", "hbv."))},
        context.size_mm,
        context.epe,
        threshold=context.findings.plausible_ratio,
        size_settled=context.size_settled,
    )
    return _score_step("dwi.score", "dwi", scores, context)


def _absent(step_id: str, sequence: str, missing: list[str]) -> tuple[RationaleStep, frozenset[Score]]:
    rule = f"PI-RADS v2.1: {' and '.join(missing)} absent or inadequate: score X"
    return RationaleStep(step_id, _QUESTIONS[step_id], "X", sequence=sequence, rule=rule), frozenset({"X"})


def _score_step(
    step_id: str, sequence: str, scores: ScoreSet, context: _Context
) -> tuple[RationaleStep, frozenset[Score]]:
    override = context.by_step.get(step_id)
    step = RationaleStep(
        id=step_id,
        question=_QUESTIONS[step_id],
        answer=scores.best,
        alternatives=tuple((score, None) for score in sorted(scores.reachable - {scores.best})),
        sequence=sequence,
        rule=scores.match.text,
        uncertain=scores.uncertain,
        based_on=("zone", *scores.match.used_attributes) if sequence == "t2w" else scores.match.used_attributes,
    )
    if override is None:
        return step, frozenset(scores.reachable)
    answer = cast(Score, override.answer)
    step = replace(
        _said(step, override),
        rule=f"reader's judgement in place of the rule ({scores.match.text})",
        based_on=(),
        detail=_size_remark(answer, context),
    )
    return step, frozenset({answer})


def _size_remark(answer: Score, context: _Context) -> str:
    large = context.epe or context.size_mm >= rules.SIZE_THRESHOLD_MM
    if answer == 5 and not large:
        return "score 5 asks for at least 15 mm or definite extraprostatic extension"
    if answer == 4 and large:
        return "score 4 is for less than 15 mm without definite extraprostatic extension"
    return ""


def _category_step(match: RuleMatch, reachable: frozenset[Score]) -> RationaleStep:
    others = _ordered(reachable - {match.score})
    return RationaleStep(
        id="category",
        question=_QUESTIONS["category"],
        answer=match.score,
        alternatives=tuple((score, None) for score in others),
        rule=match.text,
        uncertain=bool(others),
        based_on=match.used_attributes,
    )


def _with_other_category(path: ZonePath, other: ZonePath) -> ZonePath:
    """The path, its category marked uncertain when the other zone's tables lead elsewhere."""
    *above, category = path.steps
    differs = path.category_reachable | other.category_reachable != {path.category}
    detail = f"with the tables of the {ZONE_NAMES[other.zone]}: category {other.category}"
    category = replace(category, uncertain=category.uncertain or differs, detail=detail)
    return replace(path, steps=(*above, category))


def _with_originals(path: ZonePath, before: ZonePath, by_step: Mapping[str, Override]) -> ZonePath:
    originals = {step.id: step.answer for step in before.steps}
    steps = tuple(
        replace(step, original=originals[step.id]) if step.id in by_step or step.answer != originals[step.id] else step
        for step in path.steps
    )
    return replace(path, steps=steps)


# ------------------------------------------------------------------------------------------------------------ checks


def _step_ids(findings: Findings) -> tuple[str, ...]:
    attributes = {
        s: [a.id for a in load().attributes if a.sequence == s and s in findings.available] for s in SEQUENCES
    }
    above = ("zone", "size", "epe", *attributes["t2w"], "t2w.score")
    return (*above, *attributes["adc"], *attributes["hbv"], "dwi.score", "dce", "category")


def _check_override(findings: Findings, step_id: str, answer: Answer) -> Answer:
    """The answer as it is kept."""
    if step_id == "size":
        return _size(answer)
    if step_id in ("t2w.score", "dwi.score"):
        return _check_score_override(findings, step_id, answer)
    if step_id == "category":
        raise ValueError("the category is computed; answer the zone, a finding, a sequence score or DCE instead")
    attribute = next((a for a in load().attributes if a.id == step_id), None)
    if attribute is not None and attribute.sequence not in findings.available:
        name = SEQUENCE_NAMES[attribute.sequence]
        raise ValueError(f"{step_id}: {name} is not available in this study, so nothing can be read from it")
    allowed = _allowed(step_id)
    if not allowed:
        raise ValueError(f"no step {step_id!r}; the steps are {', '.join(_step_ids(findings))}")
    if answer not in allowed:
        raise ValueError(f"{step_id}: the answer must be one of {', '.join(allowed)}, got {answer!r}")
    return answer


def _allowed(step_id: str) -> tuple[str, ...]:
    """The words that answer a step; empty where no word does."""
    fixed: dict[str, tuple[str, ...]] = {"zone": get_args(Zone), "epe": EPE_ANSWERS, "dce": get_args(Dce)}
    attribute = next((a for a in load().attributes if a.id == step_id), None)
    return fixed.get(step_id, ()) if attribute is None else attribute.value_ids


def _check_score_override(findings: Findings, step_id: str, answer: Answer) -> Answer:
    needed = ("t2w",) if step_id == "t2w.score" else ("adc", "hbv")
    missing = [SEQUENCE_NAMES[sequence] for sequence in needed if sequence not in findings.available]
    if missing:
        raise ValueError(f"{step_id}: {' and '.join(missing)} not available in this study, so the score stays X")
    if answer != "X" and (isinstance(answer, bool) or not isinstance(answer, int) or not 1 <= answer <= 5):
        raise ValueError(f"{step_id}: the score must be a whole number 1 to 5 or 'X', got {answer!r}")
    return answer


def _size(size_mm: object) -> float:
    try:
        size = round(float(cast(float, size_mm)), 1)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"size must be a number of millimetres, got {size_mm!r}") from error
    if isinstance(size_mm, (bool, str)) or not 0 <= size <= MAX_SIZE_MM:
        raise ValueError(f"size must be 0 to {MAX_SIZE_MM:.0f} millimetres, got {size_mm!r}")
    return size


def _check_shares(shares: Mapping[str, float]) -> None:
    known = (*ZONE_NAMES, _OUTSIDE)
    for zone, share in shares.items():
        if zone not in known:
            raise ValueError(f"zone_shares has the unknown zone {zone!r}; known are {', '.join(known)}")
        if not 0 <= share <= 1 + 1e-6:
            raise ValueError(f"the share of {zone} must be 0 to 1, got {share}")
    if sum(shares.values()) > 1 + 1e-3:
        raise ValueError(f"zone shares sum to {sum(shares.values()):.3f}, more than 1")


def _plain(readings: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {str(a): {str(v): float(p) for v, p in values.items()} for a, values in readings.items()}


def _set(findings: Findings, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(findings, name, value)


# --------------------------------------------------------------------------------------------------------- sentences


def _sentences(rationale: Rationale) -> list[str]:
    lines = _path_sentences(rationale.path)
    if rationale.other is not None:
        other = rationale.other
        lines.append(
            f"Zone uncertain: with the tables of the {ZONE_NAMES[other.zone]} the region would have "
            f"T2W {other.t2w}, DWI {other.dwi} and category {other.category}. A reader has to choose the zone."
        )
    return [*lines, "Research use only; unverified unless a reader says otherwise."]


def _path_sentences(path: ZonePath) -> list[str]:
    zone, size, epe = (path.step(step_id) for step_id in ("zone", "size", "epe"))
    lines = [
        f"The suspicious region lies in the {ZONE_NAMES[path.zone]} ({zone.detail}){_who(zone)}.",
        f"Its greatest dimension is {size.answer} mm{f' ({size.detail})' if size.detail else ''}{_who(size)}"
        + (", near the threshold of 15 mm." if size.uncertain else "."),
        f"Definite extraprostatic extension: {epe.answer}{_who(epe)}.",
    ]
    for sequence in ("t2w", "adc", "hbv"):
        seen = [step for step in path.steps if step.sequence == sequence and not step.id.endswith(".score")]
        if seen:
            lines.append(f"{_SUBJECTS[sequence]} shows {'; '.join(_reading(step) for step in seen)}.")
        if sequence == "t2w":
            lines.append(_score_sentence("T2W score", path.step("t2w.score")))
    lines.append(_score_sentence("DWI score", path.step("dwi.score")))
    dce = path.step("dce")
    lines.append(f"DCE: {dce.answer}{_who(dce) or ' (not read by the model)'}.")
    lines.append(_score_sentence("PI-RADS category", path.step("category")))
    return lines


def _reading(step: RationaleStep) -> str:
    attribute = load().attribute(step.id)
    if step.answer == UNKNOWN:
        return f"{attribute.label} not read"
    sure = f" ({step.probability:.2f})" if step.probability is not None else ""
    text = f"{attribute.label} {attribute.value(str(step.answer)).label}{sure}{_who(step)}"
    if step.uncertain and step.alternatives:
        rival, probability = step.alternatives[0]
        text += f", uncertain against {attribute.value(str(rival)).label} ({probability:.2f})"
    return text


def _score_sentence(name: str, step: RationaleStep) -> str:
    text = f"{name} {step.answer}{_who(step)}: {step.rule}."
    if step.uncertain and step.alternatives:
        text += f" Also within reach: {', '.join(str(answer) for answer, _ in step.alternatives)}."
    return text + (f" Note: {step.detail}." if step.detail else "")


def _who(step: RationaleStep) -> str:
    if step.reader is not None:
        return f" (reader {step.reader}; before: {step.original})"
    return f" (before a reader's changes: {step.original})" if step.original is not None else ""


# -------------------------------------------------------------------------------------------------------------- JSON


def _ordered(scores: frozenset[Score]) -> list[Score]:
    return sorted(scores, key=lambda score: (score == "X", score))


def _path_to_dict(path: ZonePath) -> dict[str, Any]:
    return {
        "zone": path.zone,
        "t2w": path.t2w,
        "dwi": path.dwi,
        "dce": path.dce,
        "category": path.category,
        "t2w_reachable": _ordered(path.t2w_reachable),
        "dwi_reachable": _ordered(path.dwi_reachable),
        "category_reachable": _ordered(path.category_reachable),
        "steps": [_step_to_dict(step) for step in path.steps],
    }


def _path_from_dict(data: Mapping[str, Any]) -> ZonePath:
    return ZonePath(
        zone=data["zone"],
        steps=tuple(_step_from_dict(step) for step in data["steps"]),
        t2w=data["t2w"],
        dwi=data["dwi"],
        dce=data["dce"],
        category=data["category"],
        t2w_reachable=frozenset(data["t2w_reachable"]),
        dwi_reachable=frozenset(data["dwi_reachable"]),
        category_reachable=frozenset(data["category_reachable"]),
    )


def _step_to_dict(step: RationaleStep) -> dict[str, Any]:
    alternatives = [{"answer": answer, "probability": probability} for answer, probability in step.alternatives]
    return {**asdict(step), "alternatives": alternatives, "based_on": list(step.based_on)}


def _step_from_dict(data: Mapping[str, Any]) -> RationaleStep:
    values = {f.name: data[f.name] for f in fields(RationaleStep)}
    values["alternatives"] = tuple((a["answer"], a["probability"]) for a in data["alternatives"])
    values["based_on"] = tuple(data["based_on"])
    return RationaleStep(**values)


def _findings_to_dict(findings: Findings) -> dict[str, Any]:
    return {**asdict(findings), "available": sorted(findings.available)}


def _findings_from_dict(data: Mapping[str, Any]) -> Findings:
    return Findings(**{f.name: data[f.name] for f in fields(Findings)})
