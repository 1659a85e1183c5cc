"""Coded names and colours of the segments, from ``Resources/Terminology`` (codes: SNOMED CT, as in DICOM PS3.16).

Slicer's shipped lists know no zone of the prostate and no "Lesion"; a segment without a code loses its meaning in DICOM
SEG. "Lesion", not "Neoplasm": an image asserts no histology.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from MedRationaleLogic.resources import resource_path

Part = Literal["gland", "pz", "tz", "region"]
SEGMENTS_FILE: Final = "SegmentationCategoryTypeModifier-MedRationale.term.json"
REGIONS_FILE: Final = "AnatomicRegionAndModifier-MedRationale.term.json"

_LABELS: Final[dict[Part, str]] = {
    "gland": "prostate", "pz": "peripheral zone", "tz": "transition zone", "region": "lesion",
}  # fmt: skip
_ZONES: Final = {"PZ": "279706003", "TZ": "399384005"}
_PROSTATE: Final = "41216001"


@dataclass(frozen=True)
class Code:
    """A coded concept."""

    scheme: str
    value: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.scheme}^{self.value}^{self.meaning}"


@dataclass(frozen=True)
class SegmentTerm:
    """What a segment is: category, type and colour (red, green, blue; 0..1)."""

    context: str
    category: Code
    type: Code
    colour: tuple[float, float, float]


def files() -> tuple[Path, Path]:
    """The context file of segments and that of anatomic regions."""
    return resource_path("Terminology", SEGMENTS_FILE), resource_path("Terminology", REGIONS_FILE)


@cache
def term(part: Part) -> SegmentTerm:
    """What a kind of segment is called and looks like."""
    data = json.loads(files()[0].read_text(encoding="utf-8"))
    for category in data["SegmentationCodes"]["Category"]:
        for kind in category["Type"]:
            if kind["3dSlicerLabel"] == _LABELS[part]:
                red, green, blue = (value / 255 for value in kind["recommendedDisplayRGBValue"])
                context = data["SegmentationCategoryTypeContextName"]
                return SegmentTerm(context, _code(category), _code(kind), (red, green, blue))
    raise KeyError(f"{SEGMENTS_FILE} has no type '{_LABELS[part]}'")


@cache
def _regions() -> tuple[str, dict[str, Code]]:
    data = json.loads(files()[1].read_text(encoding="utf-8"))
    codes = [_code(one) for one in data["AnatomicCodes"]["AnatomicRegion"]]
    return data["AnatomicContextName"], {code.value: code for code in codes}


def entry(part: Part, zone: str | None = None) -> str:
    """Slicer's serialised terminology entry: context, category, type, modifier, region context, region, modifier.

    Args:
        part: what the segment is.
        zone: of a suspicious region: "PZ" or "TZ"; the whole prostate otherwise.
    """
    one = term(part)
    where = ("", "^^")
    if part == "region":
        context, codes = _regions()
        where = (context, str(codes[_ZONES.get(zone or "", _PROSTATE)]))
    return "~".join([one.context, str(one.category), str(one.type), "^^", *where, "^^"])


def load(logic: Any = None) -> bool:
    """Make both contexts known to Slicer's Terminologies module, so that its selectors show the names.

    Args:
        logic: vtkSlicerTerminologiesModuleLogic; that of the running Slicer by default.

    Returns:
        Whether they are known now; False without the module.
    """
    if logic is None:
        import slicer

        module = getattr(getattr(slicer, "modules", None), "terminologies", None)
        logic = module.logic() if module is not None else None
    if logic is None:
        return False
    segments, regions = files()
    if logic.IsTerminologyContextLoaded(term("gland").context):
        return True
    return bool(logic.LoadTerminologyFromFile(str(segments))) and bool(logic.LoadRegionContextFromFile(str(regions)))


def _code(data: dict[str, Any]) -> Code:
    return Code(data["CodingSchemeDesignator"], data["CodeValue"], data["CodeMeaning"])
