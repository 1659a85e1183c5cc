"""A lesion's rationale completed along the PI-RADS tree, said in five ways, and held against its mask.

:func:`complete` takes what is stated or measured and lets :mod:`MedRationaleLogic.pirads.rules` answer what follows; an
answer is given only where every value that is still open leads to it. Each answer says on what authority it stands:
"gold" (stated by a report or a reader), "silver" (measured, or ruled from something measured), "rule" (follows from
stated answers alone) or "unknown". Research use only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast, get_args

from MedRationaleLogic.imaging.measure import LesionMeasures
from MedRationaleLogic.pirads import rules
from MedRationaleLogic.pirads.lexicon import SEQUENCES, ZONE_NAMES, load
from MedRationaleLogic.pirads.rationale import ZONE_SHARE_UNCERTAIN, Findings, build
from MedRationaleLogic.pirads.rules import Dce, Score, Zone
from MedRationaleLogic.training.reports import Finding, Span, place_of

SCHEMA: Final = "medrationale.triple-rationale/1"
PARAPHRASES: Final = 5
SIZE_DIFFERENCE_MM: Final = 5.0
SIZE_DIFFERENCE: Final = 0.30
"""A stated size contradicts the mask beyond the larger of the two: readers differ by some millimetres on the same
lesion, and on a large one by a share of it."""

_OPEN_SIZES: Final = (rules.SIZE_THRESHOLD_MM - 5, rules.SIZE_THRESHOLD_MM + 5)
_NUMBERS: Final = frozenset(range(1, 6))


def complete(
    values: Mapping[str, str],
    zone: str | None,
    size_mm: float | None,
    *,
    silver: Mapping[str, str] | None = None,
    scores: Mapping[str, int | str] | None = None,
    category: int | str | None = None,
    epe: str | None = None,
    measured: Iterable[str] = (),
    available: Iterable[str] = SEQUENCES,
    spans: Sequence[Span] = (),
    source: str = "",
) -> dict[str, Any]:
    """The rationale JSON of one lesion.

    Args:
        values: attribute id -> value, as stated (gold).
        zone: "PZ" or "TZ" chooses the table; "CZ", "AFS" or None leaves it open, and both tables are asked.
        size_mm: greatest dimension in millimetres; None leaves both sides of 15 mm open.
        silver: attribute id -> value, as measured; never in place of a stated one.
        scores: stated "t2w", "dwi" (1 to 5, "X") and "dce" ("+", "-", "X").
        category: stated category.
        epe: "absent", "suspected" or "definite", as stated; without it, not definite.
        measured: which of "zone", "size" come from the mask and not from a report: silver then.
        available: sequences of the study among "t2w", "adc", "hbv"; a score without its sequences is X.
        spans: where the report said what; each answer keeps its own.
        source: where the statements come from, for a person.

    Returns:
        ``schema``, ``zone``, ``size_mm``, ``answers`` (in the tree's order, each with ``step``, ``answer`` or None,
        ``status``, ``reachable``, ``rule``, ``spans``), ``counts`` by status, ``disagreements`` (a stated score that
        the rule does not give), ``paraphrases``, and ``rationale``, the pirads rationale as
        :meth:`Rationale.to_dict` gives it, where zone, size and readings allow one, else None.

    Raises:
        ValueError: an unknown zone, attribute, value, score, sequence or size; the message names it.
    """
    stated_scores = dict(scores or {})
    known = {**dict(silver or {}), **values}
    there = _checked(known, zone, size_mm, stated_scores, category, epe, available)
    soft = set(measured) | (set(known) - set(values))
    answers = [
        _answer("zone", zone, "silver" if "zone" in soft else "gold"),
        _answer("size", size_mm, "silver" if "size" in soft else "gold"),
        _answer("epe", epe, "gold"),
    ]
    options = _Options(known, zone, size_mm, epe == "definite", "size" in soft)
    disagreements: list[str] = []
    reached: dict[str, tuple[frozenset[Score], str]] = {}
    for step, prefix, needed, ask in (
        ("t2w", ("t2.",), ("t2w",), options.t2w),
        ("dwi", ("adc.", "hbv."), ("adc", "hbv"), options.dwi),
    ):
        for attribute in load().attributes:
            if attribute.id.startswith(prefix):
                status = "silver" if attribute.id in soft else "gold"
                answers.append(_answer(attribute.id, known.get(attribute.id), status, rule=attribute.question))
        by_rule: frozenset[Score] = ask() if set(needed) <= there else frozenset({"X"})
        given = stated_scores.get(step)
        if given is not None:
            if given not in by_rule:
                disagreements.append(f"{step} score {given} is stated; the descriptors allow {_listed(by_rule)}")
            answers.append(_answer(f"{step}.score", given, "gold", by_rule))
            reached[step] = (frozenset({cast(Score, given)}), "gold")
        else:
            leans = {"zone", "size"} | {a for a in known if a.startswith(prefix)}
            status = "silver" if leans & soft else "rule"
            answers.append(_settled(f"{step}.score", by_rule, status, options.rule_text(step)))
            reached[step] = (by_rule, status)
    dce = cast(Dce, stated_scores.get("dce", "X"))
    answers.append(_answer("dce", stated_scores.get("dce"), "gold"))
    categories = frozenset(
        rules.overall(z, t, d, dce) for z in options.zones for t in reached["t2w"][0] for d in reached["dwi"][0]
    )
    if category is not None:
        if category not in categories:
            disagreements.append(f"category {category} is stated; the scores allow {_listed(categories)}")
        answers.append(_answer("category", category, "gold", categories))
    else:
        status = "silver" if "silver" in (reached["t2w"][1], reached["dwi"][1]) or "zone" in soft else "rule"
        answers.append(_settled("category", categories, status, ""))
    for answer in answers:
        item = answer["step"].removesuffix(".score")
        answer["spans"] = [span.to_dict() for span in spans if span.item.removeprefix("not ") == item]
    counts = {s: sum(a["status"] == s for a in answers) for s in ("gold", "rule", "silver", "unknown")}
    return {
        "schema": SCHEMA,
        "standard": load().standard,
        "lexicon_version": load().version,
        "notice": "Research use only",
        "source": source,
        "zone": zone,
        "size_mm": size_mm,
        "answers": answers,
        "counts": counts,
        "disagreements": disagreements,
        "paraphrases": paraphrases(known, zone) if zone in get_args(Zone) and known else [],
        "rationale": _tree(known, zone, size_mm, stated_scores, epe, there, source),
    }


class _Options:
    """What zone, size and readings leave open, asked of the rules."""

    def __init__(
        self, known: Mapping[str, str], zone: str | None, size_mm: float | None, epe: bool, soft: bool
    ) -> None:
        self.zones = cast(tuple[Zone, ...], (zone,) if zone in get_args(Zone) else get_args(Zone))
        self.sizes = (size_mm,) if size_mm is not None else _OPEN_SIZES
        self.readings = {attribute: {value: 1.0} for attribute, value in known.items()}
        self.epe, self.settled = epe, not soft

    def t2w(self) -> frozenset[Score]:
        own = {a: p for a, p in self.readings.items() if a.startswith("t2.")}
        if not own:
            return _NUMBERS
        return self._reached(
            lambda zone, size: rules.reachable_t2w(zone, own, size, self.epe, size_settled=self.settled).reachable
        )

    def dwi(self) -> frozenset[Score]:
        own = {a: p for a, p in self.readings.items() if a.startswith(("adc.", "hbv."))}
        # A sequence of which nothing is known may show anything: all its values are plausible.
        for prefix in ("adc.", "hbv."):
            if not any(a.startswith(prefix) for a in own):
                attribute = next(a for a in load().attributes if a.id.startswith(prefix))
                own[attribute.id] = dict.fromkeys(attribute.value_ids, 1.0)
        return self._reached(
            lambda _, size: rules.reachable_dwi(own, size, self.epe, size_settled=self.settled).reachable
        )

    def _reached(self, ask: Callable[[Zone, float], frozenset[int]]) -> frozenset[Score]:
        return frozenset(score for zone in self.zones for size in self.sizes for score in ask(zone, size))

    def rule_text(self, step: str) -> str:
        """The citation, where one zone, one size and readings of all its sequences are known."""
        values = {a: next(iter(p)) for a, p in self.readings.items()}
        prefixes = ("t2.",) if step == "t2w" else ("adc.", "hbv.")
        if (
            len(self.zones) > 1
            or len(self.sizes) > 1
            or any(not any(a.startswith(p) for a in values) for p in prefixes)
        ):
            return ""
        if step == "t2w":
            return rules.t2w_rule(self.zones[0], values, self.sizes[0], self.epe).text
        return rules.dwi_rule(values, self.sizes[0], self.epe).text


def _answer(step: str, answer: Any, status: str, reachable: Iterable[Score] = (), rule: str = "") -> dict[str, Any]:
    return {
        "step": step,
        "answer": answer,
        "status": "unknown" if answer is None else status,
        "reachable": sorted(reachable, key=str),
        "rule": rule,
        "spans": [],
    }


def _settled(step: str, scores: frozenset[Score], status: str, rule: str) -> dict[str, Any]:
    """An answer where one score is left, else unknown with what is left."""
    answer = next(iter(scores)) if len(scores) == 1 else None
    return _answer(step, answer, status, scores, rule if answer is not None else "")


def _listed(scores: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, scores)))


def _tree(
    known: Mapping[str, str], zone: str | None, size_mm: float | None, scores: Mapping[str, int | str],
    epe: str | None, there: frozenset[str], source: str,
) -> dict[str, Any] | None:  # fmt: skip
    """The rationale as the reader's side keeps it; a report's answers enter as a reader's."""
    prefix = {"t2w": "t2.", "adc": "adc.", "hbv": "hbv."}
    read = frozenset(s for s in there if any(a.startswith(prefix[s]) for a in known))
    if zone not in get_args(Zone) or size_mm is None or not read:
        return None
    readings = {attribute: {value: 1.0} for attribute, value in known.items()}
    rationale = build(Findings({cast(str, zone): 1.0}, readings, size_mm, source, read))
    said: dict[str, int | str | None] = {"epe": epe, "dce": scores.get("dce")}
    if "t2w" in read:
        said["t2w.score"] = scores.get("t2w")
    if {"adc", "hbv"} <= read:
        said["dwi.score"] = scores.get("dwi")
    for step, answer in said.items():
        if answer is not None:
            rationale = rationale.override(step, answer, source or "report")
    return rationale.to_dict()


def _checked(
    known: Mapping[str, str], zone: str | None, size_mm: float | None, scores: Mapping[str, int | str],
    category: int | str | None, epe: str | None, available: Iterable[str],
) -> frozenset[str]:  # fmt: skip
    for attribute, value in known.items():
        try:
            load().attribute(attribute).value(value)
        except KeyError as error:
            raise ValueError(error.args[0]) from error
    there = frozenset(available)
    score: tuple[Any, ...] = (1, 2, 3, 4, 5, "X", None)
    allowed: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        ("zone", zone, (*ZONE_NAMES, None)),
        ("epe", epe, ("absent", "suspected", "definite", None)),
        ("t2w score", scores.get("t2w"), score),
        ("dwi score", scores.get("dwi"), score),
        ("dce", scores.get("dce"), ("+", "-", "X", None)),
        ("category", category, score),
    )
    for name, given, choices in allowed:
        if given not in choices or isinstance(given, bool):
            raise ValueError(f"{name}: expected one of {', '.join(str(c) for c in choices if c)}, got {given!r}")
    if not set(scores) <= {"t2w", "dwi", "dce"} or not there <= set(SEQUENCES):
        raise ValueError(f"scores are t2w, dwi, dce and sequences {', '.join(SEQUENCES)}; got {sorted(scores)}, "
                         f"{sorted(there)}")  # fmt: skip
    if size_mm is not None and not 0 < size_mm <= 200:
        raise ValueError(f"size: expected millimetres above 0 and up to 200, got {size_mm!r}")
    return there


# ------------------------------------------------------------------------------------------------------- paraphrases

# Short descriptors for running text; every one is read back by training.reports as the same value. The lexicon's own
# phrases name sequence and zone each time, which a whole rationale says once.
_WORDS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "t2.pattern": {
        "normal": ("normal appearance", "unremarkable tissue"),
        "focal": ("focal lesion", "mass-like focus", "focal abnormality"),
        "linear": ("linear pattern", "band-like pattern"),
        "wedge": ("wedge-shaped area", "triangular area"),
        "diffuse": ("diffuse change", "widespread change"),
        "nodule": ("nodule", "nodular lesion"),
    },
    "t2.signal": {
        "hyper": ("hyperintense signal", "high signal", "hyperintensity"),
        "iso": ("isointense signal", "isointensity"),
        "mild_hypo": ("mildly hypointense signal", "slight hypointensity", "mildly low signal"),
        "moderate_hypo": ("moderately hypointense signal", "moderate hypointensity", "clearly low signal"),
    },
    "t2.texture": {
        "homogeneous": ("homogeneous texture", "uniform texture"),
        "heterogeneous": ("heterogeneous texture", "inhomogeneous texture"),
    },
    "t2.margin": {
        "circumscribed": ("circumscribed margin", "well-defined margin", "sharply demarcated margin"),
        "non_circumscribed": ("non-circumscribed margin", "ill-defined margin", "poorly demarcated margin"),
        "obscured": ("obscured margin", "obscured borders"),
        "indistinct": ("indistinct margin", "blurred margin", "fuzzy margin"),
        "spiculated": ("spiculated margin", "margin with spiculations"),
    },
    "t2.shape": {
        "round": ("round shape", "spherical shape"),
        "lenticular": ("lenticular shape", "lens-shaped form", "biconvex shape"),
        "drop": ("water-drop shape", "teardrop shape"),
        "irregular": ("irregular shape", "irregular form"),
    },
    "t2.capsule": {
        "none": ("no capsule", "no visible capsule", "no encapsulation"),
        "partial": ("incomplete capsule", "partial capsule"),
        "complete": ("complete capsule", "full capsule"),
    },
    "adc.signal": {
        "normal": ("normal signal", "no hypointensity"),
        "altered": ("mild hypointensity", "hypointensity", "lowered signal"),
        "marked": ("marked hypointensity", "pronounced hypointensity"),
    },
    "hbv.signal": {
        "normal": ("normal signal", "no hyperintensity"),
        "altered": ("mild hyperintensity", "hyperintensity", "raised signal"),
        "marked": ("marked hyperintensity", "pronounced hyperintensity"),
    },
    **{
        f"{sequence}.pattern": {
            "none": ("no abnormal pattern", "no focus"),
            "linear": ("linear pattern", "band-like pattern"),
            "wedge": ("wedge-shaped pattern", "triangular pattern"),
            "focal": ("focal pattern", "mass-like pattern"),
            "diffuse": ("diffuse pattern", "widespread pattern"),
        }
        for sequence in ("adc", "hbv")
    },
}  # fmt: skip

# (opening, one sentence per sequence, order of sequences)
_FRAMES: Final = (
    ("The region lies in the {zone}.", "{Sequence}: {words}.", ("t2w", "adc", "hbv")),
    ("Region of the {zone}.", "On {sequence} it shows {words}.", ("t2w", "adc", "hbv")),
    ("This region is located in the {zone}.", "{Sequence} demonstrates {words}.", ("adc", "hbv", "t2w")),
    ("{Zone} region.", "There is, on {sequence}, {words}.", ("hbv", "adc", "t2w")),
    ("In the {zone} there is a region to describe.", "Its {sequence} findings: {words}.", ("t2w", "hbv", "adc")),
)
_SEQUENCE_WORDS: Final = {
    "t2w": ("T2W", "T2-weighted images", "T2W", "T2W", "T2W"),
    "adc": ("ADC", "the ADC map", "the ADC map", "ADC", "ADC"),
    "hbv": ("High-b", "the high-b image", "high-b DWI", "the high-b image", "high-b"),
}


def paraphrases(values: Mapping[str, str], zone: str | None, n: int = PARAPHRASES) -> list[str]:
    """A whole rationale in ``n`` ways of saying the same, from templates; the same input gives the same texts.

    Args:
        values: attribute id -> value.
        zone: "PZ", "TZ", "CZ" or "AFS".
        n: at most five.

    Raises:
        ValueError: no value at all, an unknown zone, attribute or value, or an ``n`` outside 1 to 5.
    """
    if zone not in ZONE_NAMES or not values or not 1 <= n <= PARAPHRASES:
        raise ValueError(
            f"paraphrases need at least one value, a zone of {', '.join(ZONE_NAMES)} and n of 1 to {PARAPHRASES}; "
            f"got {len(values)} values, {zone!r}, {n}"
        )
    _checked(values, zone, None, {}, None, None, SEQUENCES)
    return [_paraphrase(values, ZONE_NAMES[zone], k) for k in range(n)]


def _paraphrase(values: Mapping[str, str], zone: str, k: int) -> str:
    opening, sentence, order = _FRAMES[k]
    lines = [opening.format(zone=zone, Zone=zone.capitalize())]
    for sequence in order:
        words = []
        for attribute in load().attributes_of(sequence):  # type: ignore[arg-type]
            if attribute.id in values:
                choices = _WORDS[attribute.id][values[attribute.id]]
                words.append(choices[k % len(choices)])
        if words:
            name = _SEQUENCE_WORDS[sequence][k]
            joined = f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
            lines.append(sentence.format(sequence=name, Sequence=name[0].upper() + name[1:], words=joined))
    return " ".join(lines)


# ---------------------------------------------------------------------------------------------------- contradictions


def contradictions(finding: Finding, measured: LesionMeasures | None = None) -> list[str]:
    """What a report says of a lesion against its mask, and against itself; each as one sentence, none when it fits.

    Side, level and zone are those that the report states, else those of the sectors it names. Side and level contradict
    when none of the sectors that hold at least 10 % of the mask has them; the zone when it holds less than 25 % of the
    mask (CZ and AFS have no mask and are not judged); the size when it differs from both the in-plane and the 3D
    diameter by more than the larger of 5 mm and 30 % of the stated size.

    Args:
        finding: as :mod:`MedRationaleLogic.training.reports` reads it.
        measured: from :func:`MedRationaleLogic.imaging.measure.measure_lesion`; None judges the report alone.
    """
    found = [f"{item}: the report gives two answers" for item in finding.conflicts]
    if measured is not None:
        found += _against_mask(finding, measured)
    zone, scores = finding.zone, finding.scores
    if zone not in get_args(Zone):
        return found
    completed = complete(
        finding.values, zone, finding.greatest_mm, scores=scores, category=finding.category, epe=finding.epe
    )
    return found + list(completed["disagreements"])


def _against_mask(finding: Finding, measured: LesionMeasures) -> list[str]:
    found = []
    side, stated_levels, zone = place_of(finding.sectors)
    # Where the report gives two answers, its sectors do not choose between them.
    side = finding.side or (None if "side" in finding.conflicts else side)
    zone = finding.zone or (None if "zone" in finding.conflicts else zone)
    stated_levels = finding.levels or stated_levels
    parts = [key.split("-") for key, _ in measured.sectors]
    sides, levels = {part[2] for part in parts}, {part[1] for part in parts}
    if sides and side in ("R", "L") and side not in sides:
        found.append(f"side: the report says {side}, the mask lies in {_listed(sides)}")
    if sides and side == "both" and len(sides) == 1:
        found.append(f"side: the report says both, the mask lies in {_listed(sides)} only")
    if levels and stated_levels and not set(stated_levels) & levels:
        found.append(f"level: the report says {_listed(stated_levels)}, the mask lies in {_listed(levels)}")
    share = measured.zone_shares.get(zone or "", 0.0)
    inside = measured.zone_shares.get("PZ", 0.0) + measured.zone_shares.get("TZ", 0.0)
    if zone in get_args(Zone) and inside > 0 and share < ZONE_SHARE_UNCERTAIN:
        found.append(f"zone: the report says {zone}, which holds {share:.0%} of the mask")
    stated = finding.greatest_mm
    if stated is not None:
        allowed = max(SIZE_DIFFERENCE_MM, SIZE_DIFFERENCE * stated)
        diameters = (measured.in_plane.mm, measured.three_d.mm)
        if min(abs(stated - mm) for mm in diameters) > allowed:
            found.append(
                f"size: the report says {stated:.1f} mm, the mask measures {diameters[0]:.1f} mm in plane and "
                f"{diameters[1]:.1f} mm in 3D"
            )
    return found
