"""Structured PI-RADS reports, as English text or as JSON, read into findings; every item keeps its place in the source.

What is recognised: the lexicon's own phrases (word for word), the terms of PI-RADS v2.1 with their common synonyms, and
sizes, places, scores, PSA and gland volume. What is not recognised is left, never guessed: a term that fits several
answers ("hypointense" on T2W is mild or moderate) only excludes the others, and two answers to one question cancel each
other and are listed as a conflict.

Negation follows the idea of NegEx (Chapman et al., J Biomed Inform 2001;34:301): a negating word covers what comes
after it up to "but", "with" or the sentence's end; over a comma only in a list that goes on with "or" / "nor"; "no
change" and the like negate nothing.
Source of terms: ``Resources/Lexicon/lexicon.toml`` (PI-RADS v2.1). Research use only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from MedRationaleLogic.pirads import sectors as sector_map
from MedRationaleLogic.pirads.lexicon import ZONE_NAMES, load

MAX_SIZE_MM: Final = 200.0
"""A longer "size" is a slip or another number; it is not read."""
NEGATION_WORDS: Final = 8
"""How many words after a negating word its scope reaches."""

SIDES: Final = {"right": "R", "left": "L", "bilateral": "both", "midline": "midline", "both": "both",
                "r": "R", "l": "L"}  # fmt: skip
LEVELS: Final = ("base", "mid", "apex")


@dataclass(frozen=True)
class Span:
    """Where an item was said.

    Attributes:
        item: what was read there: an attribute id, "size", "side", "level", "zone", "sector", "t2w", "dwi", "dce",
            "category", "epe", "psa", "volume"; with "not " before it where it was negated.
        start, end: characters of the report's text; of the entry itself in a JSON report.
        text: the words.
        source: path of the entry in a JSON report, e.g. "findings[0].descriptors[1]"; empty for text.
    """

    item: str
    start: int
    end: int
    text: str
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"item": self.item, "start": self.start, "end": self.end, "text": self.text, "source": self.source}


@dataclass(frozen=True)
class Finding:
    """One lesion as a report describes it; what it does not say is None or empty.

    Attributes:
        values: attribute id -> value of the lexicon.
        scores: "t2w" and "dwi" (1 to 5 or "X"), "dce" ("+", "-", "X").
        side: the patient's "R", "L", "both" or "midline".
        level: "base", "mid" or "apex"; None also when it spans several (see ``levels``).
        zone: "PZ", "TZ", "CZ" or "AFS".
        sectors: keys of the sector map that the report names in full.
        size_mm: one to three dimensions in millimetres, in the report's order.
        category: PI-RADS category, 1 to 5 or "X".
        spans: where each item was said.
        uncertain: items said with doubt ("possibly lenticular"); their values are kept.
        levels: all levels named, from base to apex.
        epe: extraprostatic extension: "absent", "suspected", "definite".
        excluded: attribute id -> values that the report rules out.
        conflicts: items to which the report gives two answers; none of them is kept.
        name: the report's own name of the lesion ("Lesion 1").
    """

    values: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, int | str] = field(default_factory=dict)
    side: str | None = None
    level: str | None = None
    zone: str | None = None
    sectors: tuple[str, ...] = ()
    size_mm: tuple[float, ...] = ()
    category: int | str | None = None
    spans: tuple[Span, ...] = ()
    uncertain: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    epe: str | None = None
    excluded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()
    name: str = ""

    @property
    def greatest_mm(self) -> float | None:
        """The greatest dimension in millimetres."""
        return max(self.size_mm, default=None)


@dataclass(frozen=True)
class ParsedReport:
    """A report.

    Attributes:
        findings: in the report's order; empty when it describes no lesion.
        psa: ng/mL.
        volume: of the gland, mL.
        spans: where everything was said, the findings' spans included, by place.
    """

    findings: tuple[Finding, ...] = ()
    psa: float | None = None
    volume: float | None = None
    spans: tuple[Span, ...] = ()


# -------------------------------------------------------------------------------------------------------------- terms


@dataclass(frozen=True)
class _Term:
    """A pattern that asserts values on a sequence: attribute -> accepted values (several: only the others are out)."""

    pattern: re.Pattern[str]
    sequence: str
    means: Mapping[str, tuple[str, ...]]


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{pattern})(?!\w)", re.IGNORECASE)


_LOW = r"[\s-]+(?:T2[\s-]*|ADC[\s-]*)?(?:hypo-?intens\w+|low(?:ered)?[\s-](?:T2[\s-]|ADC[\s-])?(?:signal|ADC|values?)" \
       r"|(?:low|dark|decreased|reduced)(?:[\s-]signal|[\s-]ADC)?|restrict\w+)"  # fmt: skip
_HIGH = r"[\s-]+(?:hyper-?intens\w+|(?:high|raised|increased|elevated|retained)[\s-]signal|bright(?:ness)?)"
_MILD = r"(?:mild(?:ly)?|slight(?:ly)?|faint(?:ly)?|subtl[ey])"
_MODERATE = r"(?<!mildly to )(?<!mild to )(?<!mild-to-)(?:moderate(?:ly)?|clear(?:ly)?|distinct(?:ly)?)"
_MARKED = r"(?:marked(?:ly)?|pronounced|very|severe(?:ly)?|strong(?:ly)?)"
_EDGE = r"(?:margin|border|outline|edge|contour)(?:s|ed)?"

# sequence, attribute, value, pattern. Where PI-RADS v2.1 grades T2W by "mild" and "moderate" only, a report's "marked"
# is the darker of the two.
_SYNONYMS: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("t2", "pattern", "normal", r"normal (?:appearance|(?:T2W? )?signal|glandular tissue)|unremarkable|no nodule and "
                                r"no suspicious area|nothing abnormal"),
    ("t2", "pattern", "focal", r"focal(?: lesion| abnormality| area)?|focus|mass(?:-like)?"),
    ("t2", "pattern", "linear", r"linear|band-?like|streaky?"),
    ("t2", "pattern", "wedge", r"wedge(?:[\s-]?shaped?)?|triangular"),
    ("t2", "pattern", "diffuse", r"diffuse(?:ly)?|widespread"),
    ("t2", "pattern", "nodule", r"(?<!between )(?<!the )nodul(?:e|ar)"),
    ("t2", "signal", "hyper", r"hyper-?intens\w+|high (?:T2W? )?signal|bright(?: signal| tissue)?"),
    ("t2", "signal", "iso", r"iso-?intens\w+"),
    ("t2", "signal", "mild_hypo", _MILD + _LOW),
    ("t2", "signal", "moderate_hypo", rf"(?:{_MODERATE}|{_MARKED}){_LOW}"),
    ("t2", "texture", "homogeneous", r"homogene?ous(?:ly)?|uniform(?:ly)?|even signal"),
    ("t2", "texture", "heterogeneous", r"heterogene?ous(?:ly)?|(?:inhomo|non-?homo)gene?ous(?:ly)?|mixed signal|"
                                       r"not homogeneous|uneven signal"),
    ("t2", "margin", "circumscribed", rf"(?:well[\s-]*)?circumscribed|(?:well|clearly|sharply)[\s-]*(?:defined|"
                                      rf"demarcated|delineated|marginated)|sharp {_EDGE}"),
    ("t2", "margin", "non_circumscribed", r"(?:non[\s-]?|un)circumscribed|not (?:well[\s-]*)?(?:circumscribed|defined|"
                                          r"demarcated)|ill[\s-](?:defined|circumscribed)|poorly[\s-](?:defined|"
                                          r"demarcated|circumscribed|marginated)"),
    ("t2", "margin", "obscured", r"obscured"),
    ("t2", "margin", "indistinct", rf"indistinct|(?:blurred|smudged|smudgy|fuzzy)(?: {_EDGE})?"),
    ("t2", "margin", "spiculated", r"spiculat(?:ed|ion|ions)"),
    ("t2", "shape", "round", r"round(?:ed)?|spherical|circular"),
    ("t2", "shape", "lenticular", r"lenticular|lentiform|lens[\s-]?(?:shaped?|like)|biconvex"),
    ("t2", "shape", "drop", r"(?:(?:water|tear)[\s-]?drop|drop)(?:[\s-]?shaped?)?"),
    ("t2", "shape", "irregular", r"irregular(?:ly)?[\s-](?:shaped?|form(?:ed)?)|irregular in shape"),
    ("t2", "capsule", "none", r"(?:no|without)(?: an?)?(?: visible| discernible| definite)? (?:capsule|encapsulation)|"
                              r"capsule absent|not encapsulated|(?:un|non-?)encapsulated"),
    ("t2", "capsule", "partial", r"(?:mostly|partial(?:ly)?|incomplete(?:ly)?|nearly|almost)[\s-](?:complete(?:ly)? )?"
                                 r"(?:encapsulated|capsule)"),
    ("t2", "capsule", "complete", r"(?<!almost )(?<!nearly )(?:complete(?:ly)?|full(?:y)?)[\s-](?:encapsulated|"
                                  r"capsule)"),
    ("adc", "signal", "normal", r"normal ADC|normal signal|no hypo-?intensity|no (?:signal )?abnormality|"
                                r"iso-?intens\w+"),
    ("adc", "signal", "altered", rf"(?:(?:{_MILD}|{_MODERATE})[\s-]+|{_MILD} to {_MODERATE}[\s-]+)?(?:hypo-?intens\w+|"
                                 r"(?:low|lowered|reduced|decreased)(?: ADC| signal)(?: values?)?)"),
    ("adc", "signal", "marked", _MARKED + _LOW),
    ("hbv", "signal", "normal", r"normal signal|no hyper-?intensity|no (?:signal )?abnormality|iso-?intens\w+"),
    ("hbv", "signal", "altered", rf"(?:(?:{_MILD}|{_MODERATE})[\s-]+|{_MILD} to {_MODERATE}[\s-]+)?(?:hyper-?intens\w+|"
                                 r"(?:raised|increased|elevated|high) signal)"),
    ("hbv", "signal", "marked", _MARKED + _HIGH),
    *((sequence, "pattern", value, pattern) for sequence in ("adc", "hbv") for value, pattern in (
        ("none", r"no (?:abnormal pattern|lesion|focus)|no (?:signal )?abnormality"),
        ("linear", r"linear|band-?like|streaky?"),
        ("wedge", r"wedge(?:[\s-]?shaped?)?|triangular"),
        ("focal", r"focal|focus|mass(?:-like)?"),
        ("diffuse", r"diffuse(?:ly)?|widespread"),
    )),
)  # fmt: skip

# Terms that say less than one answer, or several attributes at once: attribute -> answers that stay possible.
_WHOLE: Final[tuple[tuple[str, str, Mapping[str, tuple[str, ...]]], ...]] = (
    ("t2", r"hypo-?intens\w+|(?:low|lowered|reduced|decreased) (?:T2W? )?signal(?: intensity)?|dark",
     {"t2.signal": ("mild_hypo", "moderate_hypo")}),
    ("t2", r"encapsulated", {"t2.capsule": ("partial", "complete")}),
    ("dwi", r"restricted diffusion|diffusion restriction",
     {"adc.signal": ("altered", "marked"), "hbv.signal": ("altered", "marked")}),
)  # fmt: skip
_CONCEPTS: Final = {
    "t2.charcoal": r"erased[\s-]charcoal(?: sign)?",
    "t2.chaos": r"organi[sz]ed[\s-]chaos",
    "t2.between": r"homogeneous mildly hypointense area between nodules",
}

_SEQUENCE: Final = re.compile(
    r"(?<![\w-])(?:(?P<t2>T2(?:WI?|[\s-]?weighted)?)|(?P<adc>ADC)|(?P<hbv>high[\s-]?b(?:[\s-]?values?)?(?: DWI)?"
    r"|b[\s=-]*1[4-9]\d\d|b[\s=-]*2000)|(?P<dwi>DWI(?:\s*/\s*ADC)?|diffusion[\s-]weighted)|"
    r"(?P<dce>DCE|dynamic contrast))(?!\w)",
    re.IGNORECASE,
)
_ATTACHED: Final = re.compile(
    r"\s*(?:signal|intensity|focus|lesion|area|region|change|hypointensity|hyperintensity|\(|,)*\s*"
    r"(?:on|in|at)\s+(?:both\s+)?(?:the\s+)?$",
    re.IGNORECASE,
)
_ALSO: Final = re.compile(
    r"(?: (?:map|image|images|sequence))?\s*(?:and/or|and|/|&|as well as)\s*(?:on\s+)?(?:the\s+)?$", re.I
)
_NEGATION: Final = re.compile(r"(?<![\w-])(?:no|not|without|absent|lacks?|lack of|neither|nor|never|negative for|free "
                              r"of|rather than)(?![\w-])", re.IGNORECASE)  # fmt: skip
# Words that look like a negation and only say that something is as it was, or is more than that.
_PSEUDO: Final = re.compile(
    r"(?<![\w-])(?:(?:no|without|lack of)(?:\s+(?:significant|interval|relevant|apparent|substantial|further))*\s+"
    r"(?:change|increase|growth|progression)s?|not(?:\s+(?:significantly|substantially))?\s+(?:only|previously|merely|"
    r"just|necessarily|changed|increased|grown)|no\s+doubt)(?![\w-])", re.IGNORECASE,
)  # fmt: skip
_NEGATED_AFTER: Final = re.compile(
    r"\s*(?:is |are |was )?(?:absent|not (?:seen|present|identified|evident)|excluded)(?!\w)"
    r"(?!\s+(?:previously|before|earlier|on (?:the )?(?:previous|prior)))", re.IGNORECASE
)  # fmt: skip
_TERMINATES: Final = re.compile(
    r"(?<![\w-])(?:but|with|however|although|though|except|instead|yet|while|whereas|there (?:is|are))(?![\w-])", re.I
)
_AND_ASSERTED: Final = re.compile(
    r"(?<!\w)and\s+(?:definite|frank|gross|clear|unequivocal|obvious|evident|overt|there|it|is|are|shows?|has)(?!\w)",
    re.IGNORECASE,
)
_AND_GRADED: Final = re.compile(rf"(?<!\w)and\s+(?:{_MARKED}|{_MODERATE}|{_MILD})(?!\w)", re.IGNORECASE)
# What ends or never stands in an item of a negated list: "no A, B or C" against "no A, B at the base or apex".
_CLAUSE: Final = (
    r"of|at|in|on|to|from|by|for|with|within|near|along|through|into|over|towards?|is|are|was|which|that|seen|"
    r"measur\w+|abut\w*|involv\w+|stable|unchanged|larger|smaller|new|known|suspicious|PI-?RADS"
)
_NOT_LISTED: Final = re.compile(rf"\d|(?<![\w-])(?:{_CLAUSE})(?!\w)", re.IGNORECASE)
_OR: Final = re.compile(r"(?<!\w)n?or(?!\w)", re.IGNORECASE)
_LISTED: Final = rf"\s+(?!(?:{_CLAUSE}|n?or)(?!\w))[a-z][\w-]*"
_LIST_GOES_ON: Final = re.compile(
    rf"(?:{_LISTED}){{0,3}}(?P<more>(?:\s*,(?:{_LISTED}){{1,4}})*)(?P<comma>\s*,)?\s+n?or(?!\w)", re.IGNORECASE
)
_DOUBT: Final = re.compile(
    r"(?<![\w-])(?:possibl[ey]|probabl[ey]|likely|suspect(?:ed)?|suspicious for|suspicion of|questionable|equivocal|may"
    r"|might|could|suggest(?:s|ive|ing)?(?: of)?|appears?|presumabl[ey]|perhaps|concern for)(?!\w)", re.IGNORECASE,
)  # fmt: skip
_DOUBT_AFTER: Final = re.compile(
    r"\s*(?:\?|is (?:possible|suspected|likely|questionable)|(?:cannot|can not) be (?:excluded|ruled out)|"
    r"not excluded)", re.IGNORECASE
)  # fmt: skip
# A line's end is a sentence's end, unless a long line goes on in lower case: that one was only wrapped.
_SENTENCE_END: Final = re.compile(r"[.;!?](?=\s|$)|\n(?![ \t]*[a-z])|(?<![^\n]{50})\n")


@cache
def _terms() -> tuple[_Term, ...]:
    terms = [
        _Term(_compile(pattern), sequence, {f"{sequence}.{name}": (value,)})
        for sequence, name, value, pattern in _SYNONYMS
    ]
    terms += [_Term(_compile(pattern), sequence, means) for sequence, pattern, means in _WHOLE]
    terms += [_Term(_compile(pattern), "t2", load().concept(name).requires) for name, pattern in _CONCEPTS.items()]
    return tuple(terms)


@cache
def _phrases() -> tuple[tuple[str, re.Pattern[str], str, str, str], ...]:
    """The lexicon's phrases: (lower case, pattern of the whole words, attribute, value, zone), the longest first."""
    found = [
        (phrase, attribute.id, value.id, zone)
        for attribute in load().attributes
        for value in attribute.values
        for zone, phrases in value.phrases.items()
        for phrase in phrases
    ]
    found.sort(key=lambda entry: -len(entry[0]))
    return tuple((phrase.lower(), _compile(re.escape(phrase)), a, v, z) for phrase, a, v, z in found)


# --------------------------------------------------------------------------------------------------------------- text


_THING: Final = r"(?:lesion|finding|ROI|target|region)"
# What stands in brackets behind the name ("Lesion 1 (left mid PZ, PI-RADS 5):") belongs to the lesion: the heading ends
# before it.
_HEADING: Final = re.compile(
    rf"^[ \t]*(?:[-*#]\s*)?(?P<name>(?P<lead>index |dominant )?{_THING}(?P<number>[ \t]*(?:#|no\.?)?[ \t]*(?:\d{{1,2}}|"
    r"[A-H])(?!\w))?)[ \t]*(?:(?=\([^)\n]*\)[ \t]*(?:(?P<after>:)|[.)–—-]|$))|(?P<colon>:)|[.)–—-](?!\d)|$)",
    re.IGNORECASE | re.MULTILINE,
)
# A word alone opens a lesion only before a colon, and only in a report that numbers none.
_BARE: Final = re.compile(
    rf"^[ \t]*(?:[-*#]\s*)?(?P<name>{_THING})[ \t]*(?:(?=\([^)\n]*\)[ \t]*:)|:)", re.IGNORECASE | re.MULTILINE
)
_SECTION: Final = re.compile(
    r"^[ \t]*(?P<name>clinical (?:history|information)|history|indication|technique|comparison|prostate(?: gland)?"
    r"(?: volume| size)?|findings|impression|conclusion|summary|seminal vesicles?|lymph nodes?|bones?|quality|staging|"
    r"PSA|haemorrhage|hemorrhage|other|extraprostatic findings|recommendation)[ \t]*:", re.IGNORECASE | re.MULTILINE
)  # fmt: skip
_NOT_FINDINGS: Final = frozenset({"findings", "extraprostatic findings"})


def parse_report(text: str) -> ParsedReport:
    """Read a report's text.

    A finding begins at a heading such as "Lesion 1:", "ROI #2 (left apex):" or "Index lesion:" and ends at the next
    one, or at another section ("Impression:"). "Lesion:" alone is a heading only where the report numbers no lesion.
    Without headings the "Findings:" section, or a text without sections, is one finding if it holds a descriptor, a
    score or a size together with a zone or sector.

    Args:
        text: the report, English. It is best free of names; nothing of it is logged.

    Raises:
        ValueError: the text is no text.
    """
    if not isinstance(text, str):
        raise ValueError(f"a report must be text, got {type(text).__name__}; for JSON use parse_structured")
    if text.startswith("\ufeff"):  # a file's byte order mark; as a blank, every place in the text stays what it was
        text = " " + text[1:]
    spans: list[Span] = []
    psa = _number(text, _PSA, "psa", spans)
    volume = _number(text, _VOLUME, "volume", spans)
    findings = []
    for name, start, end in _blocks(text):
        finding = _finding(text, start, end, name)
        if name or _is_lesion(finding):
            findings.append(finding)
            spans += finding.spans
    return ParsedReport(tuple(findings), psa, volume, tuple(sorted(spans, key=lambda s: (s.start, s.end, s.item))))


_PSA: Final = re.compile(
    r"(?<!\w)PSA(?! density)(?: level| value)?(?: of| is| was)?[\s:=]*"
    r"(\d{1,4}(?:\.\d+|,\d{1,2})?)(?![.,]?\d)(?:\s*(?:ng|µg|ug)\s*/\s*m?l)?",
    re.IGNORECASE,
)
_VOLUME: Final = re.compile(
    r"(?:prostat\w*|gland\w*)[^.;\n]{0,60}?(?<![\d.,])(\d{1,3}(?:\.\d+|,\d{1,2})?)\s*(?:ml|cc|cm3|cm³)(?!\w)",
    re.IGNORECASE,
)


def _number(text: str, pattern: re.Pattern[str], item: str, spans: list[Span]) -> float | None:
    found = list(pattern.finditer(text))
    numbers = {float(m[1].replace(",", ".")) for m in found}
    if len(numbers) != 1:  # two different numbers: none is the report's
        return None
    spans.append(Span(item, found[0].start(), found[0].end(), found[0][0]))
    return numbers.pop()


def _blocks(text: str) -> Iterator[tuple[str, int, int]]:
    """The parts that describe a lesion: its name, first and last character."""
    headings = _headings(text)
    sections = [m for m in _SECTION.finditer(text) if not any(h.start() == m.start() for h in headings)]
    if not headings:
        bare = list(_BARE.finditer(text))
        ends = sorted([m.start() for m in (*bare, *sections)] + [len(text)])
        headings = [m for m in bare if _opens(text, m, next(e for e in ends if e > m.start()))]
    borders = sorted([h.start() for h in headings] + [s.start() for s in sections] + [len(text)])
    for heading in headings:
        yield heading["name"].strip(), heading.end(), next(b for b in borders if b > heading.start())
    if headings:
        return
    prose = [s for s in sections if s["name"].lower() in _NOT_FINDINGS]
    if prose:
        yield "", prose[0].end(), next(b for b in borders if b > prose[0].start())
    elif not sections:
        yield "", 0, len(text)


def _headings(text: str) -> list[re.Match[str]]:
    """The headings, without wrapped lines that only begin like one ("... smaller than / lesion 1. It is")."""
    found = [m for m in _HEADING.finditer(text) if m["lead"] or m["number"]]
    names = [" ".join(m["name"].lower().split()) for m in found]
    kept = []
    for match, name in zip(found, names, strict=True):
        line = text[: match.start()].removesuffix("\n").rpartition("\n")[2].rstrip()
        goes_on = line != "" and line[-1] not in ".:;!?" and (len(line) >= 50 or match["name"][0].islower())
        spoken_of = names.count(name) > 1 or not match["number"]
        if match["colon"] or match["after"] or not (goes_on and spoken_of):
            kept.append(match)
    return kept


def _opens(text: str, bare: re.Match[str], end: int) -> bool:
    """Whether a word alone before a colon opens a lesion; "Finding: focal" is a line of one."""
    finding = _finding(text, bare.end(), end, "")
    said = finding.values or finding.scores or finding.size_mm or finding.category
    placed = finding.zone or finding.sectors or finding.side or finding.levels
    return bool(said and (placed or bare["name"].lower() not in ("finding", "region")))


def _is_lesion(finding: Finding) -> bool:
    said = bool(finding.values or finding.scores or finding.size_mm)
    return said and bool(finding.zone or finding.sectors)


@dataclass(frozen=True)
class _Hit:
    """One item read at one place."""

    item: str
    answer: Any
    start: int
    end: int
    negated: bool = False
    doubtful: bool = False


def _finding(text: str, start: int, end: int, name: str, source: str = "") -> Finding:
    phrases = list(_lexicon_hits(text, start, end))
    # A lexicon phrase is read as a whole: "well-defined border of a nodule" is a margin, not a pattern.
    masked = _masked(text, [(hit.start, hit.end) for hit, _ in phrases])
    masked = _masked(masked, list(_elsewhere(masked, start, end)))
    hits = [hit for hit, _ in phrases] + [zone for _, zone in phrases]
    described = _descriptors(masked, start, end)
    # "without capsule in the left TZ": the word negates the capsule, not the place
    own = [(hit.start, hit.end) for hit in described if hit.item in ("t2.margin", "t2.capsule", "t2.texture")]
    hits += described + _places(masked, start, end, own)
    hits += _scores(masked, start, end)
    hits += _sizes(masked, start, end)
    hits += _extension(masked, start, end)
    return _assemble(hits, text, name, source)


def _masked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    for start, end in spans:
        text = text[:start] + " " * (end - start) + text[end:]
    return text


def _lexicon_hits(text: str, start: int, end: int) -> Iterator[tuple[_Hit, _Hit]]:
    taken: list[tuple[int, int]] = []
    low = text[start:end].lower()
    for phrase, pattern, attribute, value, zone in _phrases():
        if phrase not in low:  # a hundred times cheaper than the pattern, and nearly always enough
            continue
        for match in pattern.finditer(text, start, end):
            if all(match.end() <= a or match.start() >= b for a, b in taken):
                taken.append(match.span())
                yield _Hit(attribute, (value,), *match.span()), _Hit("zone", zone, *match.span())


# --------------------------------------------------------------------------------------------------------- descriptors


def _sentence(text: str, at: int, start: int, end: int) -> tuple[int, int]:
    """First and last character of the sentence around ``at``, within a block."""
    ends = [m.end() for m in _SENTENCE_END.finditer(text, start, end)]
    return max([e for e in ends if e <= at], default=start), min([e for e in ends if e > at], default=end)


def _descriptors(text: str, start: int, end: int) -> list[_Hit]:
    sequences = list(_SEQUENCE.finditer(text, start, end))
    matches: list[tuple[re.Match[str], str, tuple[str, ...]]] = []
    for term in _terms():
        for match in term.pattern.finditer(text, start, end):
            if term.sequence != "dwi" and term.sequence not in _sequence_of(text, match, sequences, term, start, end):
                continue
            matches += [(match, attribute, values) for attribute, values in term.means.items()]
    # Within one attribute the longer term wins: "mildly hypointense" over "hypointense".
    kept = [
        (match, attribute, values)
        for match, attribute, values in matches
        if not any(attribute == other and _covers(longer, match) for longer, other, _ in matches if longer is not match)
    ]
    inside = [match.span() for match, _, _ in kept]
    hits = []
    for match, attribute, values in kept:
        negated = _negated(text, match, start, end, inside)
        if negated is None:
            continue
        doubtful = _doubtful(text, match, start, end)
        hits.append(_Hit(attribute, values, *match.span(), negated, doubtful))
    return hits


def _covers(longer: re.Match[str], match: re.Match[str]) -> bool:
    return (
        longer.start() <= match.start()
        and longer.end() >= match.end()
        and longer.end() - longer.start() > match.end() - match.start()
    )


_T2_ONLY: Final = ("texture", "margin", "shape", "capsule")


def _sequence_of(
    text: str, match: re.Match[str], sequences: Sequence[re.Match[str]], term: _Term, start: int, end: int
) -> tuple[str, ...]:
    """The sequences that a descriptor speaks of: the one it is attached to ("... on ADC"), else the last one named
    before it in its sentence, else the next; T2W for what only T2W shows; else none: it is not guessed."""
    first, last = _sentence(text, match.start(), start, end)
    here = [s for s in sequences if first <= s.start() < last]
    for i, after in enumerate(here):
        if after.start() >= match.end() and _ATTACHED.match(text, match.end(), after.start()):
            if not _ATTACHED.fullmatch(text, match.end(), after.start()):
                continue
            named = _images(after)
            if i + 1 < len(here) and _ALSO.fullmatch(text, after.end(), here[i + 1].start()):
                # "on ADC and high-b" names both, "on ADC and on high-b it is bright" too
                named = (*named, *_images(here[i + 1]))
            return named
    inner = [s for s in here if s.start() >= match.start() and s.end() <= match.end()]
    before = [s for s in here if s.end() <= match.start()]
    following = [s for s in here if s.start() >= match.end()]
    chosen = inner[-1] if inner else before[-1] if before else following[0] if following else None
    if chosen is not None:
        named = _images(chosen)
        if not inner and len(before) > 1 and _ALSO.fullmatch(text, before[-2].end(), before[-1].start()):
            named = (*_images(before[-2]), *named)
        if named == ("adc", "hbv"):
            return _by_polarity(text[first:last], named)
        return named
    only_t2 = all(attribute.removeprefix("t2.") in _T2_ONLY for attribute in term.means)
    shapes = term.sequence == "t2" and ("t2.pattern" in term.means)
    return ("t2",) if only_t2 or shapes or len(term.means) > 1 else ()


def _images(sequence: re.Match[str]) -> tuple[str, ...]:
    return ("adc", "hbv") if sequence["dwi"] else (str(sequence.lastgroup),)


def _by_polarity(sentence: str, named: tuple[str, ...]) -> tuple[str, ...]:
    """Under "DWI" alone, a sentence that only speaks of brightness means the high-b image, of darkness the ADC map."""
    dark = re.search(r"hypo-?intens|ADC", sentence, re.IGNORECASE) is not None
    bright = re.search(r"hyper-?intens|high[\s-]?b", sentence, re.IGNORECASE) is not None
    if dark == bright:
        return named
    return ("adc",) if dark else ("hbv",)


def _negated(
    text: str, match: re.Match[str], start: int, end: int, inside: Sequence[tuple[int, int]] = ()
) -> bool | None:
    """Whether a negating word, which is not part of a term itself, covers the match; None where that cannot be told."""
    first, last = _sentence(text, match.start(), start, end)
    if _NEGATED_AFTER.match(text, match.end(), last):
        return True
    inside = [*inside, *(m.span() for m in _PSEUDO.finditer(text, first, last))]
    words = [
        m
        for m in _NEGATION.finditer(text, first, match.start())
        if not any(a <= m.start() and m.end() <= b for a, b in inside)
    ]
    if not words:
        return False
    between = text[words[-1].end() : match.start()]
    if _TERMINATES.search(between) or _closed(between) or len(between.split()) > NEGATION_WORDS:
        return False
    if "," in between:
        return _in_list(text, match, between, last)
    joined = text[words[-1].end() : match.end()]  # "and definite ..." may begin with the match itself
    if _AND_ASSERTED.search(joined):
        return False
    # "no focal and markedly dark lesion" negates both, "no haemorrhage and markedly dark" the first
    return None if _AND_GRADED.search(joined) else True


def _in_list(text: str, match: re.Match[str], between: str, last: int) -> bool | None:
    """Whether a match behind a negating word and a comma is an item of the negated list: "no A, B, or C"."""
    item = re.sub(r"(?:evidence|signs?) of\s+$", "", between.rpartition(",")[2])
    if _NOT_LISTED.search(item):
        return False
    if _OR.search(item):
        return True
    goes_on = _LIST_GOES_ON.match(text, match.end(), last)
    if goes_on is None:
        return False
    # "no A, B, C, or D" is one list; in "no A, B, C or D" the last two may stand for themselves ("stable or larger")
    return True if goes_on["comma"] or not goes_on["more"] else None


def _closed(between: str) -> bool:
    """Whether a bracket closes that was opened before: what was said in it does not reach further."""
    return between.count(")") > between.count("(")


def _doubtful(text: str, match: re.Match[str], start: int, end: int) -> bool:
    first, last = _sentence(text, match.start(), start, end)
    if _DOUBT_AFTER.match(text, match.end(), last):
        return True
    words = list(_DOUBT.finditer(text, first, match.start()))
    if not words:
        return False
    between = text[words[-1].end() : match.start()]
    ended = "," in between or _TERMINATES.search(between) or _closed(between)
    return not ended and len(between.split()) <= NEGATION_WORDS


# ------------------------------------------------------------------------------------------- places, scores and sizes


_ZONES: Final = {
    "PZ": _compile(r"peripheral zone|PZ(?:a|pl|pm)?"),
    "TZ": _compile(r"transition(?:al)? zone|TZ(?:a|p)?"),
    "CZ": _compile(r"central zone|CZ"),
    "AFS": _compile(r"(?:anterior )?fibromuscular stroma|AFM?S"),
}
_SIDE: Final = re.compile(
    r"(?<![\w-])(right|left|bilateral(?:ly)?|midline)(?:[\s-]sided)?(?!\w)(?! (?:seminal|neurovascular|NVB|pelvic|"
    r"iliac|hip|obturator|inguinal|femur|acetabul))", re.IGNORECASE
)  # fmt: skip
_LEVEL: Final = {
    "base": _compile(r"(?<!its )(?<!bladder )base(?! of (?:the )?(?:urinary )?(?:bladder|penis|seminal))|basal"),
    "mid": _compile(r"mid(?:[\s-]?(?:gland|prostate|third|level|zone))?|middle third"),
    "apex": _compile(r"apex|apical"),
}
_SUBS: Final = {
    "pl": _compile(r"postero-?lateral|PZpl"),
    "pm": _compile(r"postero-?medial|PZpm"),
    "a": _compile(r"anterior(?! fibromuscular)|[PT]Za"),
    "p": _compile(r"posterior|TZp"),
}
_SECTOR_KEY: Final = re.compile(r"(?<![\w-])(?:PZ(?:a|pl|pm)|TZ(?:a|p)|CZ|AFS)-(?:base|mid|apex)-[RL](?!\w)")


_PART: Final = (
    r"(?:side|lobe|half|zone|gland|mid-?gland|prostate|stroma|base|apex|level|third|left|right|PZ(?:a|pl|pm)?|TZ[ap]?|"
    r"CZ|AFM?S)"
)
_SPARED: Final = re.compile(
    rf"(?<![\w-]){_PART}(?:\s*:|\s+(?:is|are|appears?|looks?|remains?))?\s+(?:(?:otherwise|entirely|completely|"
    r"largely)\s+)?(?:normal|spared|unremarkable|uninvolved|preserved|not\s+involved|free\s+of)(?!\w)"
    r"(?!\s+(?:in\s+)?(?:signal|appearance|T2|ADC|DWI|high|tissue))", re.IGNORECASE
)  # fmt: skip
_NORMAL_PLACE: Final = re.compile(
    r"(?<![\w-])(?:normal|unremarkable|spares|sparing)(?:\s+(?:of|the|contralateral|peripheral|transition(?:al)?|"
    rf"central|mid|{_PART})(?!\w))+", re.IGNORECASE
)  # fmt: skip
_CLAUSE_END: Final = re.compile(r"[,:)]|(?<!\w)(?:but|while|whereas|although)(?!\w)", re.IGNORECASE)


def _elsewhere(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """First and last character of what speaks of healthy tissue and not of the lesion: "the left side is spared"."""
    for match in _SPARED.finditer(text, start, end):
        first, last = _sentence(text, match.start(), start, end)
        before = [m.end() for m in _CLAUSE_END.finditer(text, first, match.start())]
        after = [m.start() for m in _CLAUSE_END.finditer(text, match.end(), last)]
        # A clause keeps its last sign: the sentence after it must not run into the one before.
        yield max(before, default=first), min(after, default=max(last - 1, match.end()))
    yield from (match.span() for match in _NORMAL_PLACE.finditer(text, start, end))


def _places(text: str, start: int, end: int, inside: Sequence[tuple[int, int]] = ()) -> list[_Hit]:
    hits = []
    for match in _SECTOR_KEY.finditer(text, start, end):
        if match[0] in _keys():
            place = sector_map.sector(match[0])
            hits.append(_Hit("sector", match[0], *match.span()))
            hits += [
                _Hit(item, answer, *match.span())
                for item, answer in (("zone", place.zone), ("side", place.side), ("level", place.level))
            ]
    text = _masked(text, [(h.start, h.end) for h in hits])
    patterns = [("zone", zone, pattern) for zone, pattern in _ZONES.items()]
    patterns += [("level", level, pattern) for level, pattern in _LEVEL.items()]
    patterns += [("sub", sub, pattern) for sub, pattern in _SUBS.items()]
    for item, answer, pattern in patterns:
        for match in pattern.finditer(text, start, end):
            if _negated(text, match, start, end, inside) is False:
                hits.append(_Hit(item, answer, *match.span(), doubtful=_doubtful(text, match, start, end)))
    sides = [m for m in _SIDE.finditer(text, start, end) if _negated(text, m, start, end, inside) is False]
    if sides:  # the first sentence that names a side says where the lesion lies, a later one what lies beside it
        _, last = _sentence(text, sides[0].start(), start, end)
        hits += [
            _Hit("side", SIDES[m[1].lower().removesuffix("ly")], *m.span(), doubtful=_doubtful(text, m, start, end))
            for m in sides
            if m.start() < last
        ]
    return hits


@cache
def _keys() -> frozenset[str]:
    return frozenset(sector.key for sector in sector_map.SECTORS)


_DASH: Final = r"(?<=\s)[-–—−](?=\s)"
# "4/5" is four of five; every other second number ("3-4", "2 or 3", "3+1") makes two answers of it.
_VALUE: Final = rf"(?:\s*(?:score|assessment))?\s*(?:[:=]|of|is|{_DASH})?\s*([1-5X])(?:\s*/\s*5(?!\w))?" \
    r"(?:\s*(?:[-–—−/+]|to(?!\w)|or(?!\w))\s*(?P<second>[1-5X])(?!\w|[.,]\d|[\s-]*(?:mm|cm)|\s*[x×]\s*\d))?" \
    r"(?![\w.,]\d|\w|[\s-]*(?:mm|cm)|\s*[x×]\s*\d|[-–—−/]\d)"  # fmt: skip
_SCORES: Final = {
    "t2w": re.compile(r"(?<![\w-])T2(?:WI?|[\s-]?weighted)?" + _VALUE, re.IGNORECASE),
    "dwi": re.compile(r"(?<![\w-])(?:DWI(?:\s*/\s*ADC)?|ADC\s*/\s*DWI)" + _VALUE, re.IGNORECASE),
    "category": re.compile(
        r"(?<!\w)PI-?RADS(?:\s*(?:TM|®|™))?(?:,?\s*v(?:ersion)?\s*2(?:\.[01])?)?(?:\s*(?:overall|category))*" + _VALUE,
        re.IGNORECASE,
    ),
}
# A dash before a word separates; it is the sign only where nothing follows.
_DCE: Final = re.compile(
    r"(?<![\w-])DCE(?:\s*(?:score|assessment|result))?(?:\s*(?:[:=]|is)\s*|[ \t]*|\s+(?=positive|negative))"
    r"(?:(?:[-–—−][ \t]*)?(?:(?P<plus>\+(?!\s*/)|"
    r"positive|pos|yes)|(?P<minus>negative|neg|no)|(?P<x>X|not (?:performed|acquired|available)))(?!\w)|"
    r"(?P<sign>[-–−])(?=[ \t]*(?:[.,;)]|$)))", re.IGNORECASE | re.MULTILINE
)  # fmt: skip
_EARLY: Final = _compile(r"(?:focal,? )?(?:and )?early (?:contrast )?enhancement")
_LENGTH: Final = r"(\d{1,3}(?:[.,]\d{1,2})?)(?:\s*-?\s*(mm|cm))?"
_SIZE: Final = re.compile(
    rf"(?<![\w.,]){_LENGTH}(?:-?\s*[x×]\s*{_LENGTH})?(?:-?\s*[x×]\s*{_LENGTH})?(?!\w|[.,]\d)", re.IGNORECASE
)
# A length that is not the lesion's.
_OTHER_LENGTH: Final = re.compile(
    r"contact|abut|thickness|distance|\bfrom\b|previous|prior|\bwas\b|formerly|(?<!mid[ -])(?<!mid)gland|volume|slice|"
    r"seminal|node",
    re.I,
)


def _scores(text: str, start: int, end: int) -> list[_Hit]:
    hits = []
    for item, pattern in _SCORES.items():
        for match in pattern.finditer(text, start, end):
            doubtful = _doubtful(text, match, start, end)
            for said in filter(None, (match[1], match["second"])):  # a range is a conflict, as two answers are
                answer: int | str = "X" if said.upper() == "X" else int(said)
                hits.append(_Hit(item, answer, *match.span(), doubtful=doubtful))
    for match in _DCE.finditer(text, start, end):
        sign = "+" if match["plus"] else "X" if match["x"] else "-"
        hits.append(_Hit("dce", sign, *match.span()))
    for match in _EARLY.finditer(text, start, end):
        negated = _negated(text, match, start, end)
        if negated is not None:
            hits.append(_Hit("dce", "-" if negated else "+", *match.span(),
                             doubtful=_doubtful(text, match, start, end)))  # fmt: skip
    return hits


def _sizes(text: str, start: int, end: int) -> list[_Hit]:
    hits = []
    for match in _SIZE.finditer(text, start, end):
        numbers, units = [n for n in match.groups()[::2] if n], [u for u in match.groups()[1::2] if u]
        first, last = _sentence(text, match.start(), start, end)
        # What stands in the heading's brackets, "(previously 10 mm):", is not said of the size behind it.
        before = text[max(first, match.start() - 40) : match.start()].rpartition("):")[2]
        around = before + text[match.start() : min(last, match.end() + 20)]
        if not units or len({u.lower() for u in units}) > 1 or _OTHER_LENGTH.search(around):
            continue
        factor = 10.0 if units[-1].lower() == "cm" else 1.0
        size = tuple(round(float(n.replace(",", ".")) * factor, 2) for n in numbers)
        if 0 < max(size) <= MAX_SIZE_MM:
            hits.append(_Hit("size", size, *match.span(), doubtful=_doubtful(text, match, start, end)))
    return hits


_EPE: Final = _compile(
    r"(?P<sure>definite |frank |gross |clear |unequivocal )?(?:extra[\s-]?prostatic (?:extension|spread)|EPE|"
    r"extra[\s-]?capsular (?:extension|spread)|ECE)(?:\s*[:=]\s*(?P<said>definite|present|yes|suspected|possible|"
    r"probable|absent|none|no|negative))?"
)
_SAID: Final = {
    **dict.fromkeys(("definite", "present", "yes"), "definite"),
    **dict.fromkeys(("suspected", "possible", "probable"), "suspected"),
    **dict.fromkeys(("absent", "none", "no", "negative"), "absent"),
}


def _extension(text: str, start: int, end: int) -> list[_Hit]:
    hits = []
    for match in _EPE.finditer(text, start, end):
        first, _ = _sentence(text, match.start(), start, end)
        asserted = re.search(r"(?:with|shows?|demonstrates?|there is)\s+$", text[first : match.start()], re.IGNORECASE)
        answer = _SAID.get((match["said"] or "").lower())
        if answer is None:
            negated = _negated(text, match, start, end)
            if negated is None:
                continue
            if negated:
                answer = "absent"
            elif _doubtful(text, match, start, end):
                answer = "suspected"
            elif match["sure"] or asserted:
                answer = "definite"
        if answer is not None:  # a bare mention says nothing
            hits.append(_Hit("epe", answer, *match.span()))
    return hits


# ----------------------------------------------------------------------------------------------------------- assembly


def _assemble(hits: Sequence[_Hit], text: str, name: str, source: str) -> Finding:
    lexicon = load()
    by_item: dict[str, list[_Hit]] = {}
    for hit in hits:
        by_item.setdefault(hit.item, []).append(hit)
    values: dict[str, str] = {}
    excluded: dict[str, tuple[str, ...]] = {}
    conflicts: list[str] = []
    for attribute in lexicon.attributes:
        possible = set(attribute.value_ids)
        said = by_item.get(attribute.id, [])
        for hit in said:
            possible &= set(attribute.value_ids) - set(hit.answer) if hit.negated else set(hit.answer)
        affirmed = any(not hit.negated for hit in said)
        if not possible:
            conflicts.append(attribute.id)
        elif affirmed and len(possible) == 1:
            values[attribute.id] = possible.pop()
        elif said:
            excluded[attribute.id] = tuple(v for v in attribute.value_ids if v not in possible)

    def one(item: str) -> Any:
        answers = {hit.answer for hit in by_item.get(item, [])}
        if len(answers) > 1:
            conflicts.append(item)
        return answers.pop() if len(answers) == 1 else None

    scores = {item: one(item) for item in ("t2w", "dwi", "dce")}
    levels = tuple(level for level in LEVELS if level in {hit.answer for hit in by_item.get("level", [])})
    side, zone, sub = _side(by_item, conflicts), one("zone"), one("sub")
    category, epe = one("category"), one("epe")
    if "sub" in conflicts:
        conflicts.remove("sub")  # "anterior and posterior" is a place, not a contradiction
    named = [hit.answer for hit in by_item.get("sector", [])]
    sectors = tuple(dict.fromkeys([*named, *_sectors(zone, sub, levels, side)])) if not named else tuple(
        dict.fromkeys(named))  # fmt: skip
    if len(named) > 1:  # a region over several sectors lies in several zones or on both sides
        conflicts = [c for c in conflicts if c != "zone"]
    size = _size(by_item.get("size", []), text, conflicts)
    kept = [hit for hit in hits if hit.item not in conflicts and hit.item != "sub"]
    spans = tuple(
        Span(("not " if hit.negated else "") + hit.item, hit.start, hit.end, text[hit.start : hit.end], source)
        for hit in sorted(kept, key=lambda hit: (hit.start, hit.end, hit.item))
    )
    return Finding(
        values=values,
        scores={item: score for item, score in scores.items() if score is not None},
        side=side,
        level=levels[0] if len(levels) == 1 else None,
        zone=zone,
        sectors=sectors,
        size_mm=size,
        category=category,
        spans=spans,
        uncertain=tuple(sorted({hit.item for hit in kept if hit.doubtful})),
        levels=levels,
        epe=epe,
        excluded=excluded,
        conflicts=tuple(dict.fromkeys(conflicts)),
        name=name,
    )


def _side(by_item: Mapping[str, Sequence[_Hit]], conflicts: list[str]) -> str | None:
    places = {(hit.start, hit.end) for hit in by_item.get("sector", [])}
    hits = by_item.get("side", [])
    named = {hit.answer for hit in hits if (hit.start, hit.end) in places}
    sides = {hit.answer for hit in hits if (hit.start, hit.end) not in places}
    if named | sides == {"R", "L"} and len(named) == len(sides) == 1:  # "left PZ, sector PZpl-mid-R"
        conflicts.append("side")
        return None
    sides |= named
    if {"R", "L"} <= sides or "both" in sides:
        return "both"
    return sides.pop() if len(sides) == 1 else None


def _sectors(zone: str | None, sub: str | None, levels: Sequence[str], side: str | None) -> list[str]:
    """The sectors of a place that was named in full; none where the map has no such place."""
    if zone is None or (sub is None and zone in ("PZ", "TZ")):
        return []
    part = "-" if zone in ("CZ", "AFS") or sub is None else sub
    found = []
    for level in levels:
        for one in ("R", "L") if side == "both" else (side,):
            try:
                found.append(sector_map.find(zone, part, level, one or "-").key)
            except KeyError:
                continue
    return found


def place_of(sectors: Sequence[str]) -> tuple[str | None, tuple[str, ...], str | None]:
    """Side, levels and zone of sectors by their keys; the zone is None where they lie in several.

    The seminal vesicles and the sphincter are no zone of a lesion; they give what they have of side and level.
    """
    places = [sector_map.sector(key) for key in sectors]
    sides = {place.side for place in places} - {"-"}
    zones = {place.zone for place in places if place.zone in ZONE_NAMES}
    side = "both" if len(sides) > 1 else next(iter(sides), None)
    levels = tuple(level for level in LEVELS if level in {place.level for place in places})
    return side, levels, zones.pop() if len(zones) == 1 else None


def _size(hits: Sequence[_Hit], text: str, conflicts: list[str]) -> tuple[float, ...]:
    """The lesion's size: the one called so where there are several."""
    if len({hit.answer for hit in hits}) > 1:
        called = [h for h in hits if re.search(r"size|measur|diameter|dimension", text[max(0, h.start - 30) : h.start],
                                               re.IGNORECASE)]  # fmt: skip
        if len({hit.answer for hit in called}) != 1:
            conflicts.append("size")
            return ()
        hits = called
    return tuple(hits[0].answer) if hits else ()


# --------------------------------------------------------------------------------------------------------------- JSON


_KEYS: Final = frozenset(("name", "zone", "side", "level", "levels", "sectors", "size_mm", "size_cm", "t2w", "dwi",
                          "dce", "category", "epe", "descriptors"))  # fmt: skip
_FILLER: Final = frozenset((
    "a", "an", "the", "on", "in", "of", "at", "and", "or", "with", "is", "are", "it", "its", "to", "by", "as",
    "has", "shows", "showing", "signal", "intensity", "intensities", "margin", "margins", "border", "borders",
    "outline", "edge", "lesion", "area", "region", "shape", "shaped", "appearance", "texture", "tissue", "focus",
    "image", "images", "map", "dwi", "sequence", "sign", "pattern", "internal", "values", "value", "interior",
    "change",
))  # fmt: skip


def parse_structured(data: Mapping[str, Any]) -> ParsedReport:
    """Read a JSON report.

    ``{"psa": 6.2, "volume_ml": 41, "findings": [{"name": "Lesion 1", "zone": "PZ", "side": "right", "level": "mid",
    "sectors": ["PZpl-mid-R"], "size_mm": [14, 9], "t2w": 4, "dwi": 4, "dce": "+", "category": 4, "epe": "absent",
    "descriptors": ["circumscribed", "markedly hypointense on ADC"]}]}``; every key may be missing. ``descriptors`` may
    also be an object of attribute ids and values. Side, level and zone that are not given follow from the sectors.
    Spans name the entry (``Span.source``).

    Raises:
        ValueError: an unknown key, phrase, zone, side, level, sector, attribute, value or score, a size that is none,
            or sectors that lie elsewhere than the side, level or zone given; the message names the entry, what it
            holds and what was expected.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"a JSON report must be an object with 'findings', got {type(data).__name__}")
    unknown = sorted(set(data) - {"psa", "volume_ml", "findings"})
    if unknown:
        raise ValueError(f"report: unknown keys {', '.join(unknown)}; known are psa, volume_ml, findings")
    listed = data.get("findings", [])
    if not isinstance(listed, list):
        raise ValueError("report: 'findings' must be a list of objects")
    findings = tuple(_structured(entry, f"findings[{i}]") for i, entry in enumerate(listed))
    psa, volume = (_positive(data, key, "report") for key in ("psa", "volume_ml"))
    numbers = (("psa", psa), ("volume", volume))
    spans = [Span(item, 0, len(str(v)), str(v), item) for item, v in numbers if v is not None]
    return ParsedReport(findings, psa, volume, (*spans, *(span for finding in findings for span in finding.spans)))


def _positive(entry: Mapping[str, Any], key: str, where: str) -> float | None:
    given = entry.get(key)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 10_000:
        raise ValueError(f"{where}.{key}: expected a number above 0, got {given!r}")
    return float(given)


def _structured(entry: Any, where: str) -> Finding:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: expected an object, got {type(entry).__name__}")
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        raise ValueError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}")
    described = _described(entry.get("descriptors", []), f"{where}.descriptors")
    spans = list(described.spans)

    def said(item: str, key: str) -> None:
        spans.append(Span(item, 0, len(str(entry[key])), str(entry[key]), f"{where}.{key}"))

    def choose(item: str, key: str, known: Mapping[str, Any]) -> Any:
        if entry.get(key) is None:
            return None
        given = str(entry[key]).strip().lower()
        if given not in known or isinstance(entry[key], bool):
            raise ValueError(f"{where}.{key}: unknown {key} {entry[key]!r}; expected one of {', '.join(known)}")
        said(item, key)
        return known[given]

    zones = {**{k.lower(): k for k in ZONE_NAMES}, **{v: k for k, v in ZONE_NAMES.items()}}
    score: dict[str, Any] = {**{str(n): n for n in range(1, 6)}, "x": "X"}
    scores = {
        "t2w": choose("t2w", "t2w", score),
        "dwi": choose("dwi", "dwi", score),
        "dce": choose("dce", "dce", {"+": "+", "positive": "+", "-": "-", "negative": "-", "x": "X"}),
    }
    listed = entry.get("sectors") or []
    if not isinstance(listed, list):
        raise ValueError(f"{where}.sectors: expected a list of sectors such as 'PZpl-mid-R', got {listed!r}")
    for key in listed:
        if not isinstance(key, str) or key not in _keys():
            raise ValueError(f"{where}.sectors: unknown sector {key!r}; keys look like 'PZpl-mid-R'")
    sectors = tuple(listed)
    if sectors:
        said("sector", "sectors")
    level_names = {"base": "base", "mid": "mid", "mid-gland": "mid", "midgland": "mid", "apex": "apex"}
    level = choose("level", "level", level_names)
    more = [level_names.get(str(one).lower()) for one in entry.get("levels") or ()]
    if None in more:
        raise ValueError(f"{where}.levels: expected some of {', '.join(LEVELS)}, got {entry['levels']!r}")
    levels = tuple(name for name in LEVELS if name in {level, *more})
    zone, side = choose("zone", "zone", zones), choose("side", "side", SIDES)
    _same_place(sectors, side, levels, zone, where)
    side_there, levels_there, zone_there = place_of(sectors)
    conflicts = list(described.conflicts)
    for item, given, there in (
        ("side", side, side_there), ("level", levels, levels_there), ("zone", zone, zone_there),
    ):  # fmt: skip
        if there and not given:
            said(item, "sectors")
    side = side or side_there
    levels = tuple(name for name in LEVELS if name in {*levels, *levels_there})
    if zone is None and zone_there and described.zone and described.zone != zone_there:
        conflicts.append("zone")
    elif zone is None:
        zone = zone_there or described.zone
    size = _structured_size(entry, where)
    if size:
        said("size", _size_key(entry))
    return Finding(
        values=described.values,
        scores={item: value for item, value in scores.items() if value is not None},
        side=side,
        level=levels[0] if len(levels) == 1 else None,
        zone=zone,
        sectors=sectors,
        size_mm=size,
        category=choose("category", "category", score),
        spans=tuple(spans),
        uncertain=described.uncertain,
        levels=levels,
        epe=choose("epe", "epe", {name: name for name in ("absent", "suspected", "definite")}),
        excluded=described.excluded,
        conflicts=tuple(dict.fromkeys(conflicts)),
        name=str(entry.get("name", "")),
    )


def _same_place(sectors: Sequence[str], side: str | None, levels: Sequence[str], zone: str | None, where: str) -> None:
    """Raise where the sectors lie elsewhere than the place given beside them."""
    if not sectors:
        return
    places = [sector_map.sector(key) for key in sectors]
    sides = {place.side for place in places} - {"-"}
    there = {place.level for place in places} - {"-"}
    zones = {place.zone for place in places if place.zone in ZONE_NAMES}
    expected = {"both": {"R", "L"}, "R": {"R"}, "L": {"L"}}.get(side or "", sides)  # the midline has both sides or one
    for item, given, found, fits in (
        ("side", side, sides, not sides or sides == expected),
        ("level", ", ".join(levels), there, not levels or not there or bool(set(levels) & there)),
        ("zone", zone, zones, zone is None or not zones or zone in zones),
    ):
        if not fits:
            raise ValueError(
                f"{where}.sectors: {', '.join(sectors)} contradict the {item} given: expected {given}, "
                f"got {', '.join(sorted(found))}"
            )


def _size_key(entry: Mapping[str, Any]) -> str:
    return "size_mm" if entry.get("size_mm") is not None else "size_cm"


def _structured_size(entry: Mapping[str, Any], where: str) -> tuple[float, ...]:
    key = _size_key(entry)
    given = entry.get(key)
    if given is None:
        return ()
    listed = given if isinstance(given, list) else [given]
    factor = 1.0 if key == "size_mm" else 10.0
    good = 1 <= len(listed) <= 3 and all(isinstance(n, int | float) and not isinstance(n, bool) for n in listed)
    size = tuple(round(float(n) * factor, 2) for n in listed) if good else ()
    if not size or not all(0 < n <= MAX_SIZE_MM for n in size):
        raise ValueError(f"{where}.{key}: expected one to three lengths up to {MAX_SIZE_MM:.0f} mm, got {given!r}")
    return size


def _described(descriptors: Any, where: str) -> Finding:
    """The descriptors of a JSON finding: every phrase must be understood to its last word."""
    if isinstance(descriptors, Mapping):
        for attribute, value in descriptors.items():
            try:
                load().attribute(attribute).value(value)
            except KeyError as error:
                raise ValueError(f"{where}: {error.args[0]}") from error
        spans = tuple(Span(a, 0, len(v), v, f"{where}.{a}") for a, v in descriptors.items())
        return Finding(values=dict(descriptors), spans=spans)
    if not isinstance(descriptors, list):
        raise ValueError(f"{where}: expected a list of phrases or an object of attribute ids and values")
    read: list[Finding] = []
    for i, phrase in enumerate(descriptors):
        if not isinstance(phrase, str):
            raise ValueError(f"{where}[{i}]: expected a phrase, got {phrase!r}")
        finding = _finding(phrase, 0, len(phrase), "", f"{where}[{i}]")
        items = {span.item.removeprefix("not ") for span in finding.spans}
        left = _unread(phrase, finding)
        if left or not items & {attribute.id for attribute in load().attributes}:
            named = f" (not understood: {left})" if items and left else ""
            raise ValueError(
                f"{where}[{i}]: unknown phrase {phrase!r}{named}; use terms of the lexicon, with the sequence where it "
                "matters ('markedly hypointense on ADC'), or an object such as {'t2.shape': 'lenticular'}"
            )
        read.append(finding)
    return _merged(read)


def _unread(phrase: str, finding: Finding) -> str:
    """The words of a phrase that no item accounts for."""
    rest = _masked(phrase, [(span.start, span.end) for span in finding.spans])
    rest = _SEQUENCE.sub(" ", rest)
    words = re.findall(r"[\w-]+", _NEGATION.sub(" ", _DOUBT.sub(" ", rest)))
    return " ".join(word for word in words if word.lower() not in _FILLER)


def _merged(findings: Sequence[Finding]) -> Finding:
    """Descriptors of several phrases as one finding; two answers to one question are a conflict."""
    values: dict[str, str] = {}
    conflicts: list[str] = [c for finding in findings for c in finding.conflicts]
    excluded: dict[str, tuple[str, ...]] = {}
    for finding in findings:
        for attribute, value in finding.values.items():
            if values.setdefault(attribute, value) != value:
                conflicts.append(attribute)
        for attribute, out in finding.excluded.items():
            excluded[attribute] = tuple(dict.fromkeys([*excluded.get(attribute, ()), *out]))
    conflicts += [attribute for attribute, value in values.items() if value in excluded.get(attribute, ())]
    zones = {finding.zone for finding in findings if finding.zone}
    return Finding(
        values={a: v for a, v in values.items() if a not in conflicts},
        zone=zones.pop() if len(zones) == 1 else None,
        spans=tuple(span for finding in findings for span in finding.spans),
        uncertain=tuple(sorted({u for finding in findings for u in finding.uncertain})),
        excluded={a: out for a, out in excluded.items() if a not in values},
        conflicts=tuple(dict.fromkeys(conflicts)),
    )
