"""The sector map of PI-RADS v2.1: 41 regions, their names and SNOMED CT codes (DICOM PS3.16 CID 6304).

PZ 18, TZ 12, CZ 2, AFS 6, external urethral sphincter (US) 1, seminal vesicles (SV) 2. The numbers are ours, not
official ones. "a" anterior, "p" posterior, "pl" posterolateral, "pm" posteromedial; sides are the patient's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from MedRationaleLogic.pirads.lexicon import ZONE_NAMES, Code

SectorZone = Literal["PZ", "TZ", "CZ", "AFS", "US", "SV"]
SubSector = Literal["a", "p", "pl", "pm", "-"]
Level = Literal["base", "mid", "apex", "-"]
Side = Literal["R", "L", "-"]

_SIDES = {"R": "right", "L": "left"}
_SUBS = {"a": "anterior", "p": "posterior", "pl": "posterolateral", "pm": "posteromedial"}
_LEVELS = {"base": "base", "mid": "mid-gland", "apex": "apex"}
_ZONES = {**ZONE_NAMES, "US": "external urethral sphincter", "SV": "seminal vesicle"}


@dataclass(frozen=True)
class Sector:
    """One region of the sector map.

    Attributes:
        number: 1 to 41, ours.
        key: e.g. "PZpl-mid-R".
        zone: PZ, TZ, CZ, AFS, US (external urethral sphincter) or SV (seminal vesicle).
        sub: a, p, pl, pm, or "-" where the zone is not divided.
        level: base, mid, apex, or "-" for the seminal vesicles.
        side: the patient's R or L, or "-" for the sphincter.
        sct: SNOMED CT code.
        meaning: its meaning in DICOM PS3.16.
    """

    number: int
    key: str
    zone: SectorZone
    sub: SubSector
    level: Level
    side: Side
    sct: str
    meaning: str

    @property
    def code(self) -> Code:
        """The SNOMED CT code with its meaning."""
        return Code("SCT", self.sct, self.meaning)

    @property
    def name(self) -> str:
        """For a reader, e.g. "right posterolateral PZ, mid-gland"."""
        return self._words(self.zone if self.zone in ZONE_NAMES else _ZONES[self.zone])

    @property
    def long_name(self) -> str:
        """Without abbreviations, e.g. "right posterolateral peripheral zone, mid-gland"."""
        return self._words(_ZONES[self.zone])

    def _words(self, zone: str) -> str:
        words = " ".join(word for word in (_SIDES.get(self.side), _SUBS.get(self.sub), zone) if word)
        # The sphincter has one place only: its level would say nothing.
        return f"{words}, {_LEVELS[self.level]}" if self.level in _LEVELS and self.zone != "US" else words


SECTORS: tuple[Sector, ...] = (
    Sector(1, "PZa-base-R", "PZ", "a", "base", "R", "716904003", "Right anterior basal peripheral zone of prostate"),
    Sector(2, "PZa-base-L", "PZ", "a", "base", "L", "716905002", "Left anterior basal peripheral zone of prostate"),
    Sector(
        3, "PZpl-base-R", "PZ", "pl", "base", "R", "716906001", "Right posterolateral basal peripheral zone of prostate"
    ),
    Sector(
        4, "PZpl-base-L", "PZ", "pl", "base", "L", "716907005", "Left posterolateral basal peripheral zone of prostate"
    ),
    Sector(
        5, "PZpm-base-R", "PZ", "pm", "base", "R", "836428004", "Right posteromedial basal peripheral zone of prostate"
    ),
    Sector(
        6, "PZpm-base-L", "PZ", "pm", "base", "L", "836427009", "Left posteromedial basal peripheral zone of prostate"
    ),
    Sector(7, "TZa-base-R", "TZ", "a", "base", "R", "716896009", "Right anterior basal transition zone of prostate"),
    Sector(8, "TZa-base-L", "TZ", "a", "base", "L", "716897000", "Left anterior basal transition zone of prostate"),
    Sector(9, "TZp-base-R", "TZ", "p", "base", "R", "716898005", "Right posterior basal transition zone of prostate"),
    Sector(10, "TZp-base-L", "TZ", "p", "base", "L", "716899002", "Left posterior basal transition zone of prostate"),
    Sector(11, "CZ-base-R", "CZ", "-", "base", "R", "716900007", "Central zone of right half prostate"),
    Sector(12, "CZ-base-L", "CZ", "-", "base", "L", "716901006", "Central zone of left half prostate"),
    Sector(
        13, "AFS-base-R", "AFS", "-", "base", "R", "716892006", "Right basal anterior fibromuscular stroma of prostate"
    ),
    Sector(
        14, "AFS-base-L", "AFS", "-", "base", "L", "716893001", "Left basal anterior fibromuscular stroma of prostate"
    ),
    Sector(15, "PZa-mid-R", "PZ", "a", "mid", "R", "716919002", "Right anterior middle peripheral zone of prostate"),
    Sector(16, "PZa-mid-L", "PZ", "a", "mid", "L", "716920008", "Left anterior middle peripheral zone of prostate"),
    Sector(
        17, "PZpl-mid-R", "PZ", "pl", "mid", "R", "716921007", "Right posterolateral middle peripheral zone of prostate"
    ),
    Sector(
        18, "PZpl-mid-L", "PZ", "pl", "mid", "L", "716922000", "Left posterolateral middle peripheral zone of prostate"
    ),
    Sector(
        19, "PZpm-mid-R", "PZ", "pm", "mid", "R", "716923005", "Right posteromedial middle peripheral zone of prostate"
    ),
    Sector(
        20, "PZpm-mid-L", "PZ", "pm", "mid", "L", "716924004", "Left posteromedial middle peripheral zone of prostate"
    ),
    Sector(21, "TZa-mid-R", "TZ", "a", "mid", "R", "716913001", "Right anterior middle transition zone of prostate"),
    Sector(22, "TZa-mid-L", "TZ", "a", "mid", "L", "716914007", "Left anterior middle transition zone of prostate"),
    Sector(23, "TZp-mid-R", "TZ", "p", "mid", "R", "716915008", "Right posterior middle transition zone of prostate"),
    Sector(24, "TZp-mid-L", "TZ", "p", "mid", "L", "716916009", "Left posterior middle transition zone of prostate"),
    Sector(
        25, "AFS-mid-R", "AFS", "-", "mid", "R", "716909008", "Right middle anterior fibromuscular stroma of prostate"
    ),
    Sector(
        26, "AFS-mid-L", "AFS", "-", "mid", "L", "716910003", "Left middle anterior fibromuscular stroma of prostate"
    ),
    Sector(27, "PZa-apex-R", "PZ", "a", "apex", "R", "716936005", "Right anterior apical peripheral zone of prostate"),
    Sector(28, "PZa-apex-L", "PZ", "a", "apex", "L", "716937001", "Left anterior apical peripheral zone of prostate"),
    Sector(
        29,
        "PZpl-apex-R",
        "PZ",
        "pl",
        "apex",
        "R",
        "716938006",
        "Right posterolateral apical peripheral zone of prostate",
    ),
    Sector(
        30,
        "PZpl-apex-L",
        "PZ",
        "pl",
        "apex",
        "L",
        "716939003",
        "Left posterolateral apical peripheral zone of prostate",
    ),
    Sector(
        31,
        "PZpm-apex-R",
        "PZ",
        "pm",
        "apex",
        "R",
        "716940001",
        "Right posteromedial apical peripheral zone of prostate",
    ),
    Sector(
        32, "PZpm-apex-L", "PZ", "pm", "apex", "L", "716941002", "Left posteromedial apical peripheral zone of prostate"
    ),
    Sector(33, "TZa-apex-R", "TZ", "a", "apex", "R", "716930004", "Right anterior apical transition zone of prostate"),
    Sector(34, "TZa-apex-L", "TZ", "a", "apex", "L", "716931000", "Left anterior apical transition zone of prostate"),
    Sector(35, "TZp-apex-R", "TZ", "p", "apex", "R", "716932007", "Right posterior apical transition zone of prostate"),
    Sector(36, "TZp-apex-L", "TZ", "p", "apex", "L", "716933002", "Left posterior apical transition zone of prostate"),
    Sector(
        37, "AFS-apex-R", "AFS", "-", "apex", "R", "716926002", "Right apical anterior fibromuscular stroma of prostate"
    ),
    Sector(
        38, "AFS-apex-L", "AFS", "-", "apex", "L", "716927006", "Left apical anterior fibromuscular stroma of prostate"
    ),
    Sector(39, "US-apex--", "US", "-", "apex", "-", "717027004", "Male external urethral sphincter"),
    Sector(40, "SV---R", "SV", "-", "-", "R", "74308000", "Right seminal vesicle"),
    Sector(41, "SV---L", "SV", "-", "-", "L", "42320003", "Left seminal vesicle"),
)

_BY_KEY = {sector.key: sector for sector in SECTORS}
_BY_CODE = {sector.sct: sector for sector in SECTORS}
_BY_PLACE: dict[tuple[str, str, str, str], Sector] = {
    (sector.zone, sector.sub, sector.level, sector.side): sector for sector in SECTORS
}


def sector(key: str) -> Sector:
    """The sector of this key, e.g. "PZpl-mid-R".

    Raises:
        KeyError: there is none.
    """
    if key not in _BY_KEY:
        raise KeyError(f"no sector {key!r}; keys look like 'PZpl-mid-R', 'TZa-base-L', 'CZ-base-R', 'SV---L'")
    return _BY_KEY[key]


def by_code(sct: str) -> Sector:
    """The sector of this SNOMED CT code.

    Raises:
        KeyError: no sector has it.
    """
    if sct not in _BY_CODE:
        raise KeyError(f"no PI-RADS v2.1 sector has the SNOMED CT code {sct!r}")
    return _BY_CODE[sct]


def find(zone: str, sub: str = "-", level: str = "-", side: str = "-") -> Sector:
    """The sector of this place, e.g. ``find("PZ", "pl", "mid", "R")``.

    Raises:
        KeyError: the map has no such place (the central zone, say, exists at the base only).
    """
    place = (zone, sub, level, side)
    if place not in _BY_PLACE:
        raise KeyError(f"the sector map has no place zone={zone!r}, sub={sub!r}, level={level!r}, side={side!r}")
    return _BY_PLACE[place]


def in_zone(zone: str) -> tuple[Sector, ...]:
    """All sectors of a zone, in the map's order; empty for an unknown zone."""
    return tuple(one for one in SECTORS if one.zone == zone)
