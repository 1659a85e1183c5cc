"""The concept vocabulary: attributes with exclusive values, and the PI-RADS v2.1 terms that are built from them.

The data is ``Resources/Lexicon/lexicon.toml``; this module reads and checks it. An *attribute* is a question to one
sequence with exclusive answers (*values*). A *concept* is a term of the standard: seen as a conjunction of values of
one sequence, or ruled, measured, asserted by a reader, or context.

Source: PI-RADS v2.1 (ACR, 2019); codes as in DICOM PS3.16.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from MedRationaleLogic.resources import resource_path

SequenceName = Literal["t2w", "adc", "hbv"]
ScoringZone = Literal["PZ", "TZ"]
Extent = Literal["interior", "rim", "context"]
Kind = Literal["seen", "ruled", "measured", "reader", "context"]
Combine = Literal["all_of", "any_of"]

SEQUENCES: tuple[SequenceName, ...] = get_args(SequenceName)
SCORING_ZONES: tuple[ScoringZone, ...] = get_args(ScoringZone)
SEQUENCE_NAMES: dict[str, str] = {"t2w": "T2W", "adc": "ADC", "hbv": "high-b DWI"}
ZONE_NAMES: dict[str, str] = {
    "PZ": "peripheral zone",
    "TZ": "transition zone",
    "CZ": "central zone",
    "AFS": "anterior fibromuscular stroma",
}

_ID_PREFIX: dict[str, str] = {"t2w": "t2.", "adc": "adc.", "hbv": "hbv."}
_SEQUENCE_WORDS: dict[str, tuple[str, ...]] = {"t2w": ("T2W", "T2-weighted"), "adc": ("ADC",), "hbv": ("high-b",)}
_PHRASES_PER_ZONE = 5


class LexiconError(ValueError):
    """The lexicon file contradicts itself; the message names the file and the entry."""


@dataclass(frozen=True)
class Code:
    """A coded term.

    Attributes:
        designator: coding scheme (DCM, SCT, RADLEX, UCUM, or 99MEDRATIONALE for our own).
        value: the code.
        meaning: its meaning as DICOM PS3.16 spells it.
        role: what is coded: "finding", or "image", "score", "unit" for a code that accompanies the finding.
    """

    designator: str
    value: str
    meaning: str
    role: str = "finding"


@dataclass(frozen=True)
class Value:
    """One of the exclusive answers of an attribute.

    Attributes:
        id: the answer's name within its attribute.
        label: the same for a reader.
        zones: zones whose PI-RADS table knows the term.
        phrases: zone -> at least five paraphrases for a sentence encoder, each naming the sequence and the zone.
        concepts: zone -> id of the concept whose evidence map belongs to this answer.
    """

    id: str
    label: str
    zones: tuple[str, ...]
    phrases: Mapping[str, tuple[str, ...]]
    concepts: Mapping[str, str]


@dataclass(frozen=True)
class Attribute:
    """A question to one sequence, with exclusive answers.

    Attributes:
        id: prefixed by the sequence ("t2.", "adc.", "hbv.").
        sequence: the only sequence that may be read for it.
        extent: where its evidence lies: inside the region, along its rim, or in and around it.
        label: one word for a reader.
        question: what a reader is asked.
        values: the answers, in a fixed order.
    """

    id: str
    sequence: SequenceName
    extent: Extent
    label: str
    question: str
    values: tuple[Value, ...]

    @property
    def value_ids(self) -> tuple[str, ...]:
        """The ids of the answers, in order."""
        return tuple(value.id for value in self.values)

    def value(self, value_id: str) -> Value:
        """The answer of this id.

        Raises:
            KeyError: the attribute has no such value.
        """
        for value in self.values:
            if value.id == value_id:
                return value
        raise KeyError(f"{self.id} has no value {value_id!r}; it has {', '.join(self.value_ids)}")


@dataclass(frozen=True)
class Concept:
    """A term of the standard or (``extension``) one of ours that the scoring rules need.

    Attributes:
        id: e.g. "t2.lenticular".
        phrase: the descriptor.
        modality: what it is judged on ("T2W", "ADC", "DWI", "DCE", "masks", "measured", "rule", "any").
        kind: who can say it (see the head of the lexicon file).
        zones: where the term applies.
        supports: zone -> scores it speaks for: 1 to 5, or "+" and "-" for DCE.
        codes: coded terms; empty where the standard has none.
        requires: attribute id -> accepted values; empty unless the concept is seen or ruled from ADC and high-b.
        combine: whether all attributes must accept, or any.
        extension: not a row of the standard's tables.
        note: a remark for a reader.
    """

    id: str
    phrase: str
    modality: str
    kind: Kind
    zones: tuple[str, ...]
    supports: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    codes: tuple[Code, ...] = ()
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    combine: Combine = "all_of"
    extension: bool = False
    note: str = ""

    @property
    def sequences(self) -> tuple[SequenceName, ...]:
        """The sequences it is read from: one when seen, ADC and high-b for ``dwi.*``, none otherwise."""
        prefixes = {attribute.split(".")[0] + "." for attribute in self.requires}
        return tuple(sequence for sequence in SEQUENCES if _ID_PREFIX[sequence] in prefixes)

    def prompt(self, zone: str) -> str:
        """Modality, zone and phrase in one text: the same word supports different scores in PZ and TZ."""
        return f"{self.modality}, {ZONE_NAMES[zone]}: {self.phrase}"

    def holds(self, values: Mapping[str, str]) -> bool:
        """Whether the concept follows from one value per attribute; False for one that is not built from values."""
        met = [values.get(attribute) in accepted for attribute, accepted in self.requires.items()]
        return bool(met) and (all(met) if self.combine == "all_of" else any(met))

    def probability(self, readings: Mapping[str, Mapping[str, float]]) -> float | None:
        """Probability of the concept from readings (attribute -> value -> probability).

        Accepted values of an attribute add up; attributes count as independent.

        Returns:
            None when the concept is not built from values, or a needed attribute was not read.
        """
        if not self.requires or any(attribute not in readings for attribute in self.requires):
            return None
        met = [
            min(1.0, sum(readings[attribute].get(value, 0.0) for value in accepted))
            for attribute, accepted in self.requires.items()
        ]
        return math.prod(met) if self.combine == "all_of" else 1.0 - math.prod(1.0 - p for p in met)


@dataclass(frozen=True)
class Lexicon:
    """All attributes and concepts of one version of the lexicon file.

    Attributes:
        version: the file's version; a model bundle names the one it was made with.
        standard: what it encodes.
        attributes: in reading order (T2W, then ADC, then high-b).
        concepts: in the file's order.
        sha256: of the file's bytes with line ends as LF, so that a checkout's line ends do not change it.
    """

    version: str
    standard: str
    attributes: tuple[Attribute, ...]
    concepts: tuple[Concept, ...]
    sha256: str

    def __post_init__(self) -> None:
        # Plain dictionaries beside the tuples: the rules ask thousands of times per study.
        object.__setattr__(self, "_attributes", {attribute.id: attribute for attribute in self.attributes})
        object.__setattr__(self, "_concepts", {concept.id: concept for concept in self.concepts})

    def attribute(self, attribute_id: str) -> Attribute:
        """The attribute of this id.

        Raises:
            KeyError: there is none.
        """
        found: dict[str, Attribute] = self.__dict__["_attributes"]
        if attribute_id not in found:
            raise KeyError(f"the lexicon has no attribute {attribute_id!r}; it has {', '.join(found)}")
        return found[attribute_id]

    def concept(self, concept_id: str) -> Concept:
        """The concept of this id.

        Raises:
            KeyError: there is none.
        """
        found: dict[str, Concept] = self.__dict__["_concepts"]
        if concept_id not in found:
            raise KeyError(f"the lexicon has no concept {concept_id!r}")
        return found[concept_id]

    def attributes_of(self, sequence: SequenceName) -> tuple[Attribute, ...]:
        """The attributes that are read from one sequence, in order."""
        return tuple(attribute for attribute in self.attributes if attribute.sequence == sequence)

    def seen_concepts(self, sequence: SequenceName | None = None) -> tuple[Concept, ...]:
        """The concepts that have an evidence map, of one sequence or of all."""
        return tuple(
            concept
            for concept in self.concepts
            if concept.kind == "seen" and (sequence is None or concept.sequences == (sequence,))
        )

    def ruled_concepts(self) -> tuple[Concept, ...]:
        """The concepts that follow by rule from values of ADC and high-b (``dwi.*``)."""
        return tuple(concept for concept in self.concepts if concept.kind == "ruled" and concept.requires)


@cache
def load(path: Path | None = None) -> Lexicon:
    """The lexicon, read and checked once per path.

    Args:
        path: a lexicon file; the shipped one by default.

    Raises:
        FileNotFoundError: no such file.
        LexiconError: the file is not TOML or contradicts itself; the message names file and entry.
    """
    file = resource_path("Lexicon", "lexicon.toml") if path is None else path
    content = file.read_bytes().replace(b"\r\n", b"\n")
    try:
        data = tomllib.loads(content.decode("utf-8"))
        lexicon = _parse(data, hashlib.sha256(content).hexdigest())
        _check(lexicon)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LexiconError(f"{file.name}: not a TOML file ({error})") from error
    except LexiconError as error:
        raise LexiconError(f"{file.name}: {error}") from error
    return lexicon


def _parse(data: dict[str, Any], sha256: str) -> Lexicon:
    attributes = tuple(_attribute(entry) for entry in data.get("attribute", []))
    concepts = tuple(_concept(entry) for entry in data.get("concept", []))
    return Lexicon(_get(data, "version", "file"), _get(data, "standard", "file"), attributes, concepts, sha256)


def _get(entry: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in entry:
        raise LexiconError(f"{where}: {key!r} is missing")
    return entry[key]


def _choice(entry: Mapping[str, Any], key: str, where: str, allowed: Collection[str]) -> Any:
    chosen = _get(entry, key, where)
    if chosen not in allowed:
        raise LexiconError(f"{where}: {key} is {chosen!r}, expected one of {', '.join(allowed)}")
    return chosen


def _attribute(entry: Mapping[str, Any]) -> Attribute:
    where = f"attribute {_get(entry, 'id', 'an attribute')}"
    return Attribute(
        id=entry["id"],
        sequence=_choice(entry, "sequence", where, SEQUENCES),
        extent=_choice(entry, "extent", where, get_args(Extent)),
        label=_get(entry, "label", where),
        question=_get(entry, "question", where),
        values=tuple(_value(value, where) for value in _get(entry, "value", where)),
    )


def _value(entry: Mapping[str, Any], where: str) -> Value:
    where = f"{where}, value {_get(entry, 'id', where)}"
    phrases = _get(entry, "phrases", where)
    concept = _get(entry, "concept", where)
    return Value(
        id=entry["id"],
        label=_get(entry, "label", where),
        zones=tuple(_get(entry, "zones", where)),
        phrases={zone: _phrases(phrases, zone) for zone in SCORING_ZONES},
        concepts={z: concept if isinstance(concept, str) else _get(concept, z, where) for z in SCORING_ZONES},
    )


def _phrases(phrases: Mapping[str, list[str]], zone: str) -> tuple[str, ...]:
    chosen = phrases.get(zone, phrases.get("both", []))
    return tuple(phrase.replace("{zone}", ZONE_NAMES[zone]) for phrase in chosen)


def _concept(entry: Mapping[str, Any]) -> Concept:
    where = f"concept {_get(entry, 'id', 'a concept')}"
    return Concept(
        id=entry["id"],
        phrase=_get(entry, "phrase", where),
        modality=_get(entry, "modality", where),
        kind=_choice(entry, "kind", where, get_args(Kind)),
        zones=tuple(_get(entry, "zones", where)),
        supports={zone: tuple(scores) for zone, scores in entry.get("supports", {}).items()},
        codes=tuple(_code(code, where) for code in _get(entry, "codes", where)),
        requires={attribute: tuple(values) for attribute, values in entry.get("requires", {}).items()},
        combine=_choice({"combine": "all_of", **entry}, "combine", where, get_args(Combine)),
        extension=entry.get("extension", False),
        note=entry.get("note", ""),
    )


def _code(entry: Mapping[str, str], where: str) -> Code:
    designator, value, meaning = (_get(entry, key, f"{where}, code") for key in ("designator", "value", "meaning"))
    return Code(designator, value, meaning, entry.get("role", "finding"))


def _check(lexicon: Lexicon) -> None:
    _check_unique("attribute", [attribute.id for attribute in lexicon.attributes])
    _check_unique("concept", [concept.id for concept in lexicon.concepts])
    for attribute in lexicon.attributes:
        _check_unique(f"attribute {attribute.id}, value", list(attribute.value_ids))
    for concept in lexicon.concepts:
        _check_concept(concept, lexicon)
    for attribute in lexicon.attributes:
        _check_attribute(attribute, lexicon)


def _check_unique(what: str, ids: list[str]) -> None:
    twice = sorted({one for one in ids if ids.count(one) > 1})
    if twice:
        raise LexiconError(f"{what} {', '.join(twice)} is there twice")


def _check_zones(where: str, zones: Collection[str]) -> None:
    unknown = sorted(set(zones) - set(ZONE_NAMES))
    if unknown or not zones:
        raise LexiconError(f"{where}: unknown zones {unknown}; expected some of {', '.join(ZONE_NAMES)}")


def _check_concept(concept: Concept, lexicon: Lexicon) -> None:
    where = f"concept {concept.id}"
    _check_zones(where, concept.zones)
    for zone, scores in concept.supports.items():
        if zone not in concept.zones or not set(scores) <= {1, 2, 3, 4, 5, "+", "-"}:
            raise LexiconError(f"{where}: supports {zone} = {list(scores)} is no score of one of its zones")
    for attribute_id, values in concept.requires.items():
        try:
            known = set(lexicon.attribute(attribute_id).value_ids)
        except KeyError as error:
            raise LexiconError(f"{where} requires the unknown attribute {attribute_id!r}") from error
        if not values or not set(values) <= known:
            raise LexiconError(
                f"{where} requires {attribute_id} = {list(values)}; known values are {', '.join(sorted(known))}"
            )
    own = next((s for s, prefix in _ID_PREFIX.items() if concept.id.startswith(prefix)), None)
    if concept.kind == "seen" and (own is None or concept.sequences != (own,) or concept.combine != "all_of"):
        # The claim that a T2W concept does not depend on diffusion stands or falls with this.
        raise LexiconError(f"{where}: a seen concept must be a conjunction of values of the one sequence in its id")
    if concept.kind == "ruled" and concept.requires and set(concept.sequences) != {"adc", "hbv"}:
        raise LexiconError(f"{where}: a ruled concept must be ruled from both ADC and high-b")
    if concept.kind not in ("seen", "ruled") and concept.requires:
        raise LexiconError(f"{where}: a concept that is {concept.kind} requires no attribute values")


def _check_attribute(attribute: Attribute, lexicon: Lexicon) -> None:
    where = f"attribute {attribute.id}"
    if not attribute.id.startswith(_ID_PREFIX[attribute.sequence]):
        raise LexiconError(f"{where}: its id must begin with {_ID_PREFIX[attribute.sequence]!r}")
    if len(attribute.values) < 2:
        raise LexiconError(f"{where}: needs at least two values")
    for value in attribute.values:
        _check_value(f"{where}, value {value.id}", attribute, value, lexicon)


def _check_value(where: str, attribute: Attribute, value: Value, lexicon: Lexicon) -> None:
    _check_zones(where, value.zones)
    for zone in SCORING_ZONES:
        phrases = value.phrases[zone]
        if len(set(phrases)) < _PHRASES_PER_ZONE:
            raise LexiconError(f"{where}: {len(set(phrases))} phrases for {zone}, at least {_PHRASES_PER_ZONE} needed")
        for phrase in phrases:
            if ZONE_NAMES[zone] not in phrase or not any(w in phrase for w in _SEQUENCE_WORDS[attribute.sequence]):
                raise LexiconError(f"{where}: phrase {phrase!r} does not name its sequence and {ZONE_NAMES[zone]}")
        try:
            accepted = lexicon.concept(value.concepts[zone]).requires.get(attribute.id, ())
        except KeyError as error:
            raise LexiconError(f"{where}: unknown concept {value.concepts[zone]!r}") from error
        if value.id not in accepted:
            raise LexiconError(f"{where}: concept {value.concepts[zone]} does not accept this value")
