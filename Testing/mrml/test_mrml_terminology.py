# ruff: noqa: E402 - the imports need slicer-core, which may be missing
"""Our context files as Slicer's Terminologies module reads them, and the codes that segments carry."""

from __future__ import annotations

from typing import Any

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is missing (extra 'viewer')")

from MedRationaleLogic.mrml import terminology

CODES = {
    "gland": ("123037004", "41216001"),
    "pz": ("123037004", "279706003"),
    "tz": ("123037004", "399384005"),
    "region": ("49755003", "52988006"),
}
"""SNOMED CT category and type of each segment, as DICOM PS3.16 gives them."""


@pytest.fixture
def logic(scene: Any) -> Any:
    made = slicer.vtkSlicerTerminologiesModuleLogic()
    assert terminology.load(made)
    return made


@pytest.mark.parametrize("part", CODES)
def test_slicer_understands_what_a_segment_carries(logic: Any, part: terminology.Part) -> None:
    entry = slicer.vtkSlicerTerminologyEntry()
    assert logic.DeserializeTerminologyEntry(terminology.entry(part), entry)
    assert entry.GetTerminologyContextName() == "Segmentation category and type - MedRationale"
    assert (entry.GetCategoryObject().GetCodeValue(), entry.GetTypeObject().GetCodeValue()) == CODES[part]
    assert entry.GetTypeObject().GetCodingSchemeDesignator() == "SCT"
    # and finds it in the context, with the colour that we use
    assert logic.UpdateEntryFromLoadedTerminologies(entry, [], [])
    colour = entry.GetTypeObject().GetRecommendedDisplayRGBValue()
    assert [c / 255 for c in colour] == pytest.approx(terminology.term(part).colour)


@pytest.mark.parametrize(("zone", "code"), [("PZ", "279706003"), ("TZ", "399384005"), (None, "41216001")])
def test_a_region_says_where_it_is(logic: Any, zone: str | None, code: str) -> None:
    entry = slicer.vtkSlicerTerminologyEntry()
    assert logic.DeserializeTerminologyEntry(terminology.entry("region", zone), entry)
    assert entry.GetRegionContextName() == "Anatomic codes - MedRationale"
    assert entry.GetRegionObject().GetCodeValue() == code


def test_the_form_is_the_one_that_slicer_writes(logic: Any) -> None:
    for part in CODES:
        entry = slicer.vtkSlicerTerminologyEntry()
        text = terminology.entry(part)  # type: ignore[arg-type]
        assert logic.DeserializeTerminologyEntry(text, entry)
        assert logic.SerializeTerminologyEntry(entry) == text


def test_loading_twice_and_without_the_module(logic: Any) -> None:
    assert terminology.load(logic)
    if getattr(getattr(slicer, "modules", None), "terminologies", None) is None:
        assert not terminology.load()
