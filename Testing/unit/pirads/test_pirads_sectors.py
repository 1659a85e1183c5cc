"""The sector map: 41 regions, each with its own code."""

from __future__ import annotations

from collections import Counter

import pytest

from MedRationaleLogic.pirads import sectors
from MedRationaleLogic.pirads.sectors import SECTORS, by_code, find, in_zone, sector


def test_forty_one_regions_with_distinct_keys_and_codes() -> None:
    assert [s.number for s in SECTORS] == list(range(1, 42))
    assert len({s.key for s in SECTORS}) == len({s.sct for s in SECTORS}) == len({s.name for s in SECTORS}) == 41
    assert Counter(s.zone for s in SECTORS) == {"PZ": 18, "TZ": 12, "CZ": 2, "AFS": 6, "US": 1, "SV": 2}


def test_keys_and_meanings_agree_with_the_place() -> None:
    sides = {"R": "Right", "L": "Left"}
    levels = {"base": "basal", "mid": "middle", "apex": "apical"}
    subs = {"a": "anterior", "p": "posterior", "pl": "posterolateral", "pm": "posteromedial"}
    for s in SECTORS:
        if s.zone in ("PZ", "TZ"):
            assert s.key == f"{s.zone}{s.sub}-{s.level}-{s.side}"
            zone = "peripheral zone" if s.zone == "PZ" else "transition zone"
            assert s.meaning == f"{sides[s.side]} {subs[s.sub]} {levels[s.level]} {zone} of prostate"
        if s.zone == "AFS":
            assert s.meaning == f"{sides[s.side]} {levels[s.level]} anterior fibromuscular stroma of prostate"


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("PZpm-base-R", "836428004"),
        ("PZpm-base-L", "836427009"),
        ("PZpl-mid-R", "716921007"),
        ("TZa-apex-L", "716931000"),
        ("CZ-base-L", "716901006"),
        ("AFS-mid-R", "716909008"),
        ("US-apex--", "717027004"),
        ("SV---R", "74308000"),
    ],
)
def test_codes(key: str, code: str) -> None:
    assert sector(key).sct == code
    assert by_code(code).key == key
    assert (sector(key).code.designator, sector(key).code.value) == ("SCT", code)


def test_codes_are_those_of_dicom() -> None:
    concepts = pytest.importorskip("pydicom.sr._concepts_dict").concepts
    for s in SECTORS:
        meanings = {entry[s.sct][0] for entry in concepts["SCT"].values() if s.sct in entry}
        assert s.meaning in meanings, s.key


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("PZpl-mid-R", "right posterolateral PZ, mid-gland"),
        ("TZa-base-L", "left anterior TZ, base"),
        ("CZ-base-R", "right CZ, base"),
        ("AFS-apex-L", "left AFS, apex"),
        ("US-apex--", "external urethral sphincter"),
        ("SV---L", "left seminal vesicle"),
    ],
)
def test_names(key: str, name: str) -> None:
    assert sector(key).name == name


def test_lookups() -> None:
    assert sector("PZpl-mid-R").long_name == "right posterolateral peripheral zone, mid-gland"
    assert all(find(s.zone, s.sub, s.level, s.side) is s for s in SECTORS)
    assert [s.key for s in in_zone("CZ")] == ["CZ-base-R", "CZ-base-L"]
    for call in (lambda: sector("PZx-mid-R"), lambda: by_code("1"), lambda: find("CZ", "-", "apex", "R")):
        with pytest.raises(KeyError, match="sector"):
            call()
    assert sectors.in_zone("XX") == ()
