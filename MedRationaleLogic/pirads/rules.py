"""PI-RADS v2.1 as pure functions: scores per sequence, the category of a lesion, the category of a patient.

Nothing here is learned and no model number decides: values and measurements go in, scores come out, each with the
rule that gave it. Source: PI-RADS v2.1 (ACR, 2019), tables for T2W, DWI, DCE and the overall category; lines that are
our own reading of the standard say "design rule". Research use only.

Three readings of the standard are ours (design rules):

* A non-circumscribed margin includes an indistinct or spiculated one. An *obscured* margin does not: it is the term of
  T2W score 3 in the transition zone.
* "Linear" and "wedge" decide by pattern alone; what is neither focal, linear, wedge-shaped nor absent on diffusion is
  "diffuse or indistinct" (score 2, as in PI-RADS v2).
* On diffusion, "focal" means focal on ADC and/or high-b; scores 4 and 5 need both images marked as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from numbers import Real
from typing import Literal, get_args

from MedRationaleLogic.pirads.lexicon import ZONE_NAMES, load

Zone = Literal["PZ", "TZ"]
Score = int | Literal["X"]
Dce = Literal["+", "-", "X"]

SIZE_THRESHOLD_MM = 15.0
NEAR_THRESHOLD_MM = (14.0, 16.0)
PLAUSIBLE_RATIO = 0.5
MAX_REPORTED = 4

_Values = Mapping[str, str]
_Readings = Mapping[str, Mapping[str, float]]

_NON_CIRCUMSCRIBED = ("non_circumscribed", "indistinct", "spiculated")


@dataclass(frozen=True)
class RuleMatch:
    """A score and the rule that gave it.

    Attributes:
        score: 1 to 5, or "X".
        rule_id: stable name of the rule, e.g. "T2W-TZ-4-lenticular".
        text: the rule as a citation for a reader.
        used_attributes: what the rule looked at: attribute ids, and "size", "epe", "zone", "t2w.score", "dwi.score",
            "dce".
        near_threshold: the size decided between 4 and 5 and lies within 14.0 to 16.0 mm.
    """

    score: Score
    rule_id: str
    text: str
    used_attributes: tuple[str, ...]
    near_threshold: bool = False


@dataclass(frozen=True)
class ScoreSet:
    """The scores that readings allow.

    Attributes:
        best: the score of the most probable value of each attribute.
        reachable: every score of a combination of plausible values; contains ``best``.
        uncertain: more than one score is reachable.
        match: the rule behind ``best``.
        unknown: attributes that were not read; all their values count as plausible.
    """

    best: int
    reachable: frozenset[int]
    uncertain: bool
    match: RuleMatch
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class LesionSummary:
    """What the patient level needs of one lesion.

    Attributes:
        key: any name that tells lesions apart.
        category: 1 to 5, or "X".
        size_mm: greatest dimension.
        epe: definite extraprostatic extension, asserted by a reader.
    """

    key: str
    category: Score
    size_mm: float
    epe: bool = False


@dataclass(frozen=True)
class PatientCategory:
    """The category of a patient.

    Attributes:
        category: 1 to 5, or "X".
        index: key of the index (dominant) lesion; None when no lesion has a numeric category.
        reported: keys of at most four findings of category 3 to 5, the index lesion first.
        has_unscored: some lesion has category X.
        text: why, for a reader.
    """

    category: Score
    index: str | None
    reported: tuple[str, ...]
    has_unscored: bool
    text: str


# --------------------------------------------------------------------------------------------------- sequence scores


@dataclass(frozen=True)
class _Rule:
    """Holds when every attribute of ``needs`` has one of its values and no attribute of ``unless`` does."""

    id: str
    score: int
    text: str
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unless: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def holds(self, values: _Values) -> bool:
        return all(values.get(attribute) in accepted for attribute, accepted in self.needs.items()) and not any(
            values.get(attribute) in excluded for attribute, excluded in self.unless.items()
        )


_T2W_PZ = (
    _Rule(
        "T2W-PZ-1",
        1,
        "uniform hyperintense signal",
        {"t2.signal": ("hyper",), "t2.texture": ("homogeneous",)},
    ),
    _Rule("T2W-PZ-2-linear", 2, "linear hypointensity", {"t2.pattern": ("linear",)}),
    _Rule("T2W-PZ-2-wedge", 2, "wedge-shaped hypointensity", {"t2.pattern": ("wedge",)}),
    _Rule(
        "T2W-PZ-2-diffuse",
        2,
        "diffuse mild hypointensity",
        {"t2.pattern": ("diffuse",), "t2.signal": ("mild_hypo",)},
    ),
    _Rule(
        "T2W-PZ-4",
        4,
        "circumscribed, homogeneous, moderately hypointense focus or mass",
        {
            "t2.pattern": ("focal",),
            "t2.margin": ("circumscribed",),
            "t2.texture": ("homogeneous",),
            "t2.signal": ("moderate_hypo",),
        },
    ),
    _Rule(
        "T2W-PZ-3",
        3,
        "heterogeneous, or non-circumscribed, rounded, moderately hypointense, or not any of 1, 2, 4 and 5",
    ),
)

_DARK_HOMOGENEOUS = {"t2.texture": ("homogeneous",), "t2.signal": ("moderate_hypo",)}
_ENCAPSULATED = {"t2.capsule": ("partial", "complete")}

_T2W_TZ = (
    _Rule("T2W-TZ-1-normal", 1, "normal transition zone", {"t2.pattern": ("normal",)}),
    _Rule(
        "T2W-TZ-1-nodule",
        1,
        "round, completely encapsulated nodule",
        {"t2.pattern": ("nodule",), "t2.shape": ("round",), "t2.capsule": ("complete",)},
    ),
    _Rule("T2W-TZ-2-complete", 2, "completely encapsulated, not a round nodule", {"t2.capsule": ("complete",)}),
    _Rule(
        "T2W-TZ-2-partial",
        2,
        "mostly encapsulated nodule",
        {"t2.pattern": ("nodule",), "t2.capsule": ("partial",)},
    ),
    _Rule(
        "T2W-TZ-4-lenticular",
        4,
        "lenticular, homogeneous, moderately hypointense",
        {"t2.shape": ("lenticular",), **_DARK_HOMOGENEOUS},
        unless=_ENCAPSULATED,
    ),
    _Rule(
        "T2W-TZ-4-noncircumscribed",
        4,
        "non-circumscribed, homogeneous, moderately hypointense",
        {"t2.margin": _NON_CIRCUMSCRIBED, **_DARK_HOMOGENEOUS},
        unless=_ENCAPSULATED,
    ),
    _Rule(
        "T2W-TZ-2-nodule",
        2,
        "homogeneous circumscribed nodule without capsule",
        {"t2.pattern": ("nodule",), "t2.texture": ("homogeneous",), "t2.margin": ("circumscribed",)},
    ),
    _Rule(
        "T2W-TZ-2-between",
        2,
        "homogeneous mildly hypointense area between nodules",
        {
            "t2.pattern": ("focal", "linear", "wedge", "diffuse"),
            "t2.texture": ("homogeneous",),
            "t2.signal": ("mild_hypo",),
        },
    ),
    _Rule("T2W-TZ-3", 3, "heterogeneous with obscured margins, or not any of 1, 2, 4 and 5"),
)

_BOTH_MARKED = {"adc.signal": ("marked",), "hbv.signal": ("marked",)}
_LINE_OR_WEDGE = ("linear", "wedge")
_NOT_A_LINE = ("focal", "diffuse")

_DWI = (
    _Rule(
        "DWI-1",
        1,
        "no abnormality on ADC and on high-b",
        unless={
            "adc.signal": ("altered", "marked"),
            "hbv.signal": ("altered", "marked"),
            "adc.pattern": ("linear", "wedge", "focal", "diffuse"),
            "hbv.pattern": ("linear", "wedge", "focal", "diffuse"),
        },
    ),
    _Rule(
        "DWI-2-adc",
        2,
        "linear or wedge-shaped on ADC, not focal",
        {"adc.pattern": _LINE_OR_WEDGE},
        unless={"hbv.pattern": _NOT_A_LINE},
    ),
    _Rule(
        "DWI-2-hbv",
        2,
        "linear or wedge-shaped on high-b, not focal",
        {"hbv.pattern": _LINE_OR_WEDGE},
        unless={"adc.pattern": _NOT_A_LINE},
    ),
    _Rule(
        "DWI-4-adc",
        4,
        "focal, markedly hypointense on ADC and markedly hyperintense on high-b",
        {"adc.pattern": ("focal",), **_BOTH_MARKED},
    ),
    _Rule(
        "DWI-4-hbv",
        4,
        "focal, markedly hypointense on ADC and markedly hyperintense on high-b",
        {"hbv.pattern": ("focal",), **_BOTH_MARKED},
    ),
    _Rule("DWI-3-adc", 3, "focal on ADC, not marked on both ADC and high-b", {"adc.pattern": ("focal",)}),
    _Rule("DWI-3-hbv", 3, "focal on high-b, not marked on both ADC and high-b", {"hbv.pattern": ("focal",)}),
    _Rule("DWI-2-diffuse", 2, "diffuse or indistinct, not focal (design rule after PI-RADS v2)"),
)

_T2W_RULES: dict[str, tuple[_Rule, ...]] = {"PZ": _T2W_PZ, "TZ": _T2W_TZ}


def t2w_score(zone: Zone, values: Mapping[str, str], size_mm: float, epe: bool = False) -> int:
    """The T2W score of a lesion; see :func:`t2w_rule`."""
    return _number(t2w_rule(zone, values, size_mm, epe).score)


def dwi_score(values: Mapping[str, str], size_mm: float, epe: bool = False) -> int:
    """The DWI score of a lesion; see :func:`dwi_rule`."""
    return _number(dwi_rule(values, size_mm, epe).score)


def t2w_rule(zone: Zone, values: Mapping[str, str], size_mm: float, epe: bool = False) -> RuleMatch:
    """The T2W score of a lesion and the rule that gave it; the first rule that holds wins.

    Args:
        zone: whose table is used.
        values: attribute id -> value, as in the lexicon. Attributes of other sequences are ignored. A missing attribute
            meets no requirement and violates none: an unmentioned capsule is no capsule.
        size_mm: greatest dimension. Decides between 4 and 5 only.
        epe: *definite* extraprostatic extension or invasive behaviour; turns 4 into 5, nothing else.

    Raises:
        ValueError: unknown zone, attribute or value, a size that is not a number >= 0, or no T2W value at all.
    """
    _check_zone(zone)
    _check_values(values)
    _check_size(size_mm)
    if not any(attribute.startswith("t2.") for attribute in values):
        raise ValueError("no T2W value given: without T2W the score is 'X'")
    return _t2w(zone, values, size_mm, epe)


def dwi_rule(values: Mapping[str, str], size_mm: float, epe: bool = False) -> RuleMatch:
    """The DWI score of a lesion (same table in both zones) and the rule that gave it; the first rule that holds wins.

    Args and errors as :func:`t2w_rule`.

    Raises:
        ValueError: also when ADC or high-b has no value at all: then the score is "X".
    """
    _check_values(values)
    _check_size(size_mm)
    _check_diffusion(values)
    return _dwi(values, size_mm, epe)


def near_threshold(size_mm: float) -> bool:
    """Whether a measured size is too close to 15 mm to decide alone (14.0 to 16.0 mm, design rule)."""
    return NEAR_THRESHOLD_MM[0] <= size_mm <= NEAR_THRESHOLD_MM[1]


def _t2w(zone: str, values: _Values, size_mm: float, epe: bool) -> RuleMatch:
    return _first(_T2W_RULES[zone], f"PI-RADS v2.1, T2W, {ZONE_NAMES[zone]}", "t2.", values, size_mm, epe)


def _dwi(values: _Values, size_mm: float, epe: bool) -> RuleMatch:
    return _first(_DWI, "PI-RADS v2.1, DWI", ("adc.", "hbv."), values, size_mm, epe)


def _first(
    rules: Iterable[_Rule], table: str, prefix: str | tuple[str, ...], values: _Values, size_mm: float, epe: bool
) -> RuleMatch:
    rule = next(rule for rule in rules if rule.holds(values))
    used = tuple(dict.fromkeys([*rule.needs, *rule.unless]))
    if not used:  # "otherwise": every attribute of the table had its say
        used = tuple(attribute.id for attribute in load().attributes if attribute.id.startswith(prefix))
    if rule.score != 4:
        return RuleMatch(rule.score, rule.id, f"{table}, score {rule.score}: {rule.text}", used)
    if epe:
        score, why = 5, "definite extraprostatic extension or invasive behaviour"
    elif size_mm >= SIZE_THRESHOLD_MM:
        score, why = 5, "at least 15 mm"
    else:
        score, why = 4, "below 15 mm"
    return RuleMatch(
        score,
        rule.id.replace("-4", f"-{score}", 1),
        f"{table}, score {score}: {rule.text}; {why}",
        (*used, "size", "epe"),
        near_threshold(size_mm) and not epe,
    )


# -------------------------------------------------------------------------------------------------- reachable scores


def plausible(
    attribute_id: str, probabilities: Mapping[str, float], threshold: float = PLAUSIBLE_RATIO
) -> tuple[str, ...]:
    """The values of an attribute that its probabilities do not rule out, in the lexicon's order.

    A value is plausible when its probability is at least ``threshold`` times that of the best, or above 0.5. The second
    matters for probabilities that are independent of each other (circumscribed *and* non-circumscribed, each above 0.5,
    contradict each other whatever their ratio); the first for a softmax. When every probability is 0, nothing is ruled
    out.

    Raises:
        ValueError: unknown attribute or value, a probability outside 0..1, or a threshold outside ]0, 1].
    """
    check_readings({attribute_id: probabilities})
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    values = load().attribute(attribute_id).value_ids
    best = max(probabilities.values(), default=0.0)
    if best <= 0:
        return values
    floor = threshold * best
    return tuple(v for v in values if probabilities.get(v, 0.0) >= floor or probabilities.get(v, 0.0) > 0.5)


def best_value(attribute_id: str, probabilities: Mapping[str, float]) -> str:
    """The most probable value of an attribute; of equals, the first in the lexicon's order."""
    return max(load().attribute(attribute_id).value_ids, key=lambda value: probabilities.get(value, 0.0))


def reachable_t2w(
    zone: Zone,
    readings: Mapping[str, Mapping[str, float]],
    size_mm: float,
    epe: bool = False,
    *,
    threshold: float = PLAUSIBLE_RATIO,
    size_settled: bool = False,
) -> ScoreSet:
    """All T2W scores that the readings allow: contradictions are shown, not resolved silently.

    Every combination of :func:`plausible` values is scored, on both sides of 15 mm when the size is 14.0 to 16.0 mm. An
    attribute that was not read may have any value. In the peripheral zone a nodule may also be a focus: the table
    speaks of a "focus/mass" and knows no nodule, so both scores count as reachable.

    Args:
        zone: whose table is used.
        readings: attribute id -> value -> probability; other sequences are ignored, and so are attributes whose
            probabilities are all zero. Independent concept probabilities come in through
            :func:`readings_from_concepts`.
        size_mm: greatest dimension.
        epe: definite extraprostatic extension, asserted by a reader.
        threshold: see :func:`plausible`.
        size_settled: the size was set by a reader; its other side of 15 mm is not considered.

    Raises:
        ValueError: as :func:`t2w_rule` and :func:`plausible`.
    """
    _check_zone(zone)
    own = _own(readings, "t2.")
    if not own:
        raise ValueError("no T2W reading given: without T2W the score is 'X'")
    options = _options("t2.", own, threshold)
    if zone == "PZ" and "nodule" in options["t2.pattern"]:
        options["t2.pattern"] = tuple(dict.fromkeys([*options["t2.pattern"], "focal"]))
    sizes = _sizes(size_mm, size_settled)
    match = _t2w(zone, {a: best_value(a, p) for a, p in own.items()}, size_mm, epe)
    scores = {_number(_t2w(zone, values, size, epe).score) for values in _combinations(options) for size in sizes}
    return _score_set(match, scores, options, own)


def reachable_dwi(
    readings: Mapping[str, Mapping[str, float]],
    size_mm: float,
    epe: bool = False,
    *,
    threshold: float = PLAUSIBLE_RATIO,
    size_settled: bool = False,
) -> ScoreSet:
    """All DWI scores that the readings allow; as :func:`reachable_t2w`.

    Raises:
        ValueError: as :func:`dwi_rule` and :func:`plausible`.
    """
    own = _own(readings, ("adc.", "hbv."))
    _check_diffusion(own)
    options = _options(("adc.", "hbv."), own, threshold)
    sizes = _sizes(size_mm, size_settled)
    match = _dwi({a: best_value(a, p) for a, p in own.items()}, size_mm, epe)
    scores = {_number(_dwi(values, size, epe).score) for values in _combinations(options) for size in sizes}
    return _score_set(match, scores, options, own)


def readings_from_concepts(probabilities: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Attribute readings out of independent probabilities of concepts that are seen.

    A value is as probable as the most probable concept that asserts it. A concept that accepts several values of an
    attribute ("linear hypointensity" accepts mild and moderate) speaks for them only where no concept names one of them
    alone.

    Raises:
        ValueError: unknown concept, one that is not seen on a single sequence, or a probability outside 0..1.
    """
    requirements: list[tuple[str, tuple[str, ...], float]] = []
    for concept_id, probability in probabilities.items():
        try:
            concept = load().concept(concept_id)
        except KeyError as error:
            raise ValueError(f"the lexicon has no concept {concept_id!r}") from error
        if concept.kind != "seen":
            raise ValueError(f"{concept_id} is {concept.kind}, not seen: give the concepts of its sequences instead")
        _check_probability(concept_id, probability)
        requirements += [(attribute, accepted, probability) for attribute, accepted in concept.requires.items()]
    readings: dict[str, dict[str, float]] = {}
    named = {(attribute, accepted[0]) for attribute, accepted, _ in requirements if len(accepted) == 1}
    for attribute, accepted, probability in requirements:
        if len(accepted) > 1 and any((attribute, value) in named for value in accepted):
            continue
        values = readings.setdefault(attribute, {})
        for value in accepted:
            values[value] = max(values.get(value, 0.0), probability)
    return readings


def check_readings(readings: Mapping[str, Mapping[str, float]]) -> None:
    """Check readings against the lexicon.

    Raises:
        ValueError: unknown attribute or value, an attribute without any value, or a probability outside 0..1.
    """
    for attribute_id, probabilities in readings.items():
        if not probabilities:
            raise ValueError(f"{attribute_id} has no value; leave it out when it was not read")
        for value, probability in probabilities.items():
            _check_value(attribute_id, value)
            _check_probability(f"{attribute_id} = {value}", probability)


def _own(readings: _Readings, prefix: str | tuple[str, ...]) -> _Readings:
    check_readings(readings)
    # Probabilities that are all zero say as little as no reading.
    return {a: values for a, values in readings.items() if a.startswith(prefix) and any(values.values())}


def _options(prefix: str | tuple[str, ...], readings: _Readings, threshold: float) -> dict[str, tuple[str, ...]]:
    return {
        attribute.id: plausible(attribute.id, readings[attribute.id], threshold)
        if attribute.id in readings
        else attribute.value_ids
        for attribute in load().attributes
        if attribute.id.startswith(prefix)
    }


def _combinations(options: Mapping[str, tuple[str, ...]]) -> Iterable[dict[str, str]]:
    for values in product(*options.values()):
        yield dict(zip(options, values, strict=True))


def _sizes(size_mm: float, settled: bool) -> tuple[float, ...]:
    _check_size(size_mm)
    return NEAR_THRESHOLD_MM if near_threshold(size_mm) and not settled else (size_mm,)


def _score_set(match: RuleMatch, scores: set[int], options: Mapping[str, object], readings: _Readings) -> ScoreSet:
    best = _number(match.score)
    reachable = frozenset(scores | {best})
    unknown = tuple(attribute for attribute in options if attribute not in readings)
    return ScoreSet(best, reachable, len(reachable) > 1, match, unknown)


# ---------------------------------------------------------------------------------------------------------- category


def overall(zone: Zone, t2w: Score, dwi: Score, dce: Dce = "X") -> Score:
    """The PI-RADS v2.1 category of a lesion; see :func:`overall_rule`."""
    return overall_rule(zone, t2w, dwi, dce).score


def biparametric(zone: Zone, values: Mapping[str, str], size_mm: float) -> Score:
    """The category that a lesion's values lead to without DCE.

    Args:
        zone: PZ or TZ.
        values: attribute id -> value, of T2W, ADC and high-b.
        size_mm: greatest dimension.

    Raises:
        ValueError: there is no value of T2W, ADC or high-b, one is unknown, or the size is no length.
    """
    return overall(zone, t2w_score(zone, values, size_mm), dwi_score(values, size_mm), "X")


def overall_rule(zone: Zone, t2w: Score, dwi: Score, dce: Dce = "X") -> RuleMatch:
    """The PI-RADS v2.1 category of a lesion and the rule that gave it.

    Args:
        zone: PZ (DWI decides, DCE can raise 3) or TZ (T2W decides, DWI can raise 2 and 3).
        t2w: 1 to 5, or "X" when absent or inadequate.
        dwi: the same.
        dce: "+", "-", or "X" when absent or inadequate (biparametric MRI).

    Raises:
        ValueError: any input that is none of these.
    """
    _check_zone(zone)
    _check_score("t2w", t2w)
    _check_score("dwi", dwi)
    if dce not in get_args(Dce):
        raise ValueError(f"dce must be '+', '-' or 'X', got {dce!r}")
    return _peripheral(t2w, dwi, dce) if zone == "PZ" else _transition(t2w, dwi, dce)


def primary_sequence(zone: Zone) -> Literal["t2w", "dwi"]:
    """The sequence that decides in a zone.

    Raises:
        ValueError: unknown zone.
    """
    _check_zone(zone)
    return "dwi" if zone == "PZ" else "t2w"


def _category(score: Score, rule_id: str, text: str, *used: str) -> RuleMatch:
    return RuleMatch(score, rule_id, f"PI-RADS v2.1: {text}", ("zone", *used))


def _peripheral(t2w: Score, dwi: Score, dce: Dce) -> RuleMatch:
    if t2w == "X":
        return _category("X", "CAT-PZ-X", "no category without T2W; the DWI score is shown (design rule)", "t2w.score")
    if dwi != "X":
        if dwi == 3 and dce == "+":
            text = "in the peripheral zone, DWI 3 with positive DCE gives category 4"
            return _category(4, "CAT-PZ-DCE", text, "dwi.score", "dce")
        text = "in the peripheral zone, the DWI score is the category"
        return _category(dwi, "CAT-PZ-DWI", text, "dwi.score", *(("dce",) if dwi == 3 else ()))
    if dce == "X":
        return _no_diffusion_no_dce()
    if t2w == 3 and dce == "+":
        text = "in the peripheral zone without DWI, T2W 3 with positive DCE gives category 4"
        return _category(4, "CAT-PZ-T2W-DCE", text, "t2w.score", "dwi.score", "dce")
    text = "in the peripheral zone without DWI, the T2W score is the category"
    return _category(t2w, "CAT-PZ-T2W", text, "t2w.score", "dwi.score", "dce")


def _transition(t2w: Score, dwi: Score, dce: Dce) -> RuleMatch:
    if t2w == "X":
        return _category("X", "CAT-TZ-X", "no category without T2W; the DWI score is shown (design rule)", "t2w.score")
    if dwi == "X":
        if dce == "X":
            return _no_diffusion_no_dce()
        text = "in the transition zone without DWI, the T2W score is the category"
        return _category(t2w, "CAT-TZ-T2W-only", text, "t2w.score", "dwi.score", "dce")
    if t2w == 2 and dwi >= 4:
        text = "in the transition zone, T2W 2 with DWI 4 or 5 gives category 3"
        return _category(3, "CAT-TZ-2-raised", text, "t2w.score", "dwi.score")
    if t2w == 3 and dwi == 5:
        text = "in the transition zone, T2W 3 with DWI 5 gives category 4"
        return _category(4, "CAT-TZ-3-raised", text, "t2w.score", "dwi.score")
    text = "in the transition zone, the T2W score is the category"
    return _category(t2w, "CAT-TZ-T2W", text, "t2w.score", *(("dwi.score",) if t2w in (2, 3) else ()))


def _no_diffusion_no_dce() -> RuleMatch:
    text = "no category when DWI and DCE are both absent or inadequate; limited to staging"
    return _category("X", "CAT-X", text, "dwi.score", "dce")


# ----------------------------------------------------------------------------------------------------- patient level


def rank(lesions: Iterable[LesionSummary]) -> tuple[LesionSummary, ...]:
    """Lesions by category, then definite EPE, then size, highest first; X last. The first numeric one is the index."""
    return tuple(sorted(lesions, key=_rank_key))


def index_lesion(lesions: Iterable[LesionSummary]) -> LesionSummary | None:
    """The index (dominant) lesion: highest category; if equal, with EPE; if still equal, the largest.

    Returns:
        None when no lesion has a numeric category.
    """
    return next((lesion for lesion in rank(lesions) if lesion.category != "X"), None)


def patient_category(
    lesions: Sequence[LesionSummary], *, t2w_adequate: bool = True, dwi_adequate: bool = True, searched: bool = True
) -> PatientCategory:
    """The category of a patient from the lesions: the highest numeric one.

    All X gives X. No lesion gives 1, but X, never 1, when T2W or DWI is absent or inadequate, or nothing was searched.

    Args:
        lesions: all lesions of the patient.
        t2w_adequate: T2W is there and readable.
        dwi_adequate: ADC and high-b are both there and readable.
        searched: the gland was found and looked at; where it was not, that no region was found says nothing.

    Raises:
        ValueError: a category or size that is none, or a key that is there twice.
    """
    _check_lesions(lesions)
    numeric = [lesion.category for lesion in lesions if lesion.category != "X"]
    ranked = rank(lesions)
    index = index_lesion(lesions)
    reported = tuple(lesion.key for lesion in ranked if lesion.category in (3, 4, 5))[:MAX_REPORTED]
    category: Score
    if lesions and not numeric:
        category, text = "X", "no lesion could be given a category"
    else:
        category = max(numeric, default=1)
        text = "highest category of the lesions" if numeric else "no suspicious region"
        if category == 1 and not (t2w_adequate and dwi_adequate):
            category, text = "X", f"{text}, but T2W or DWI is absent or inadequate"
        elif category == 1 and not searched:
            category, text = "X", f"{text}, but the gland was not found"
    unscored = len(numeric) < len(lesions)
    if unscored and numeric:
        text += "; at least one further region could not be given a category"
    return PatientCategory(category, index.key if index else None, reported, unscored, text)


def _rank_key(lesion: LesionSummary) -> tuple[int, bool, float]:
    return (0 if lesion.category == "X" else -lesion.category, not lesion.epe, -lesion.size_mm)


def _check_lesions(lesions: Sequence[LesionSummary]) -> None:
    keys = [lesion.key for lesion in lesions]
    if len(set(keys)) < len(keys):
        raise ValueError(f"lesion keys must differ, got {keys}")
    for lesion in lesions:
        _check_score(f"category of {lesion.key}", lesion.category)
        _check_size(lesion.size_mm)


# ------------------------------------------------------------------------------------------------------------ checks


def _number(score: Score) -> int:
    if score == "X":
        raise ValueError("a sequence score by rule is a number")
    return score


def _check_zone(zone: str) -> None:
    if zone not in get_args(Zone):
        raise ValueError(f"zone must be 'PZ' or 'TZ' (score CZ and AFS as the zone of likely origin), got {zone!r}")


def _check_score(name: str, score: object) -> None:
    # bool is an int to Python; a flag passed for a score is a mistake.
    if score != "X" and (isinstance(score, bool) or not isinstance(score, int) or not 1 <= score <= 5):
        raise ValueError(f"{name} must be a whole number 1 to 5 or 'X', got {score!r}")


def _check_size(size_mm: float) -> None:
    number = isinstance(size_mm, Real) and not isinstance(size_mm, bool)
    if not number or not math.isfinite(size_mm) or size_mm < 0:
        raise ValueError(f"size must be a number of millimetres >= 0, got {size_mm!r}")


def _check_value(attribute_id: str, value: str) -> None:
    try:
        load().attribute(attribute_id).value(value)
    except KeyError as error:
        raise ValueError(error.args[0]) from error


def _check_values(values: _Values) -> None:
    for attribute_id, value in values.items():
        _check_value(attribute_id, value)


def _check_diffusion(given: Iterable[str]) -> None:
    names = list(given)
    for prefix, sequence in (("adc.", "ADC"), ("hbv.", "high-b")):
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"no {sequence} value given: without {sequence} the DWI score is 'X'")


def _check_probability(what: str, probability: float) -> None:
    number = isinstance(probability, Real) and not isinstance(probability, bool)
    if not number or not 0 <= probability <= 1:
        raise ValueError(f"probability of {what} must be 0 to 1, got {probability!r}")
