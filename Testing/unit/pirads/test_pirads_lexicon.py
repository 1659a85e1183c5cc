"""The lexicon: complete against the vocabulary, exact codes, faithful per sequence, and wrong files refused by name."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest

from MedRationaleLogic.pirads import lexicon as lex
from MedRationaleLogic.pirads.lexicon import Code, LexiconError, load
from MedRationaleLogic.resources import resource_path

ATTRIBUTES = {
    "t2.pattern": ("normal", "focal", "linear", "wedge", "diffuse", "nodule"),
    "t2.signal": ("hyper", "iso", "mild_hypo", "moderate_hypo"),
    "t2.texture": ("homogeneous", "heterogeneous"),
    "t2.margin": ("circumscribed", "non_circumscribed", "obscured", "indistinct", "spiculated"),
    "t2.shape": ("round", "lenticular", "drop", "irregular"),
    "t2.capsule": ("none", "partial", "complete"),
    "adc.signal": ("normal", "altered", "marked"),
    "hbv.signal": ("normal", "altered", "marked"),
    "adc.pattern": ("none", "linear", "wedge", "focal", "diffuse"),
    "hbv.pattern": ("none", "linear", "wedge", "focal", "diffuse"),
}
EXTENT = {
    "texture": "interior",
    "signal": "interior",
    "margin": "rim",
    "capsule": "rim",
    "pattern": "context",
    "shape": "context",
}
STANDARD_IDS = {
    "t2.uniform_hyper",
    "t2.linear",
    "t2.wedge",
    "t2.diffuse_mild",
    "t2.indistinct",
    "t2.hetero",
    "t2.noncirc",
    "t2.round",
    "t2.mod_hypo",
    "t2.circ",
    "t2.homog",
    "t2.mass",
    "t2.enc_full",
    "t2.enc_part",
    "t2.nocapsule",
    "t2.between",
    "t2.obscured",
    "t2.lenticular",
    "t2.charcoal",
    "t2.chaos",
    "t2.drop",
    "t2.spiculated",
    "dwi.none",
    "dwi.linear",
    "dwi.wedge",
    "dwi.focal",
    "adc.hypo",
    "adc.marked",
    "hbv.hyper",
    "hbv.marked",
    "dwi.restricted",
    "dce.pos",
    "dce.neg",
    "size.ge15",
    "size.lt15",
    "epe.def",
    "loc.pz",
    "loc.tz",
    "loc.cz",
    "loc.afs",
    "prim.dwi",
    "prim.t2",
    "ben.bph",
    "ben.cyst",
    "ben.haem",
    "ben.prostatitis",
    "ben.atrophy",
    "ben.fibrosis",
    "ben.calc",
}
SUPPORTS = {
    "t2.uniform_hyper": {"PZ": (1,)},
    "t2.linear": {"PZ": (2,)},
    "t2.hetero": {"PZ": (3,), "TZ": (3,)},
    "t2.noncirc": {"PZ": (3,), "TZ": (4, 5)},
    "t2.round": {"PZ": (3,), "TZ": (1,)},
    "t2.mod_hypo": {"PZ": (3, 4, 5), "TZ": (4, 5)},
    "t2.circ": {"PZ": (4, 5), "TZ": (2,)},
    "t2.homog": {"PZ": (4, 5), "TZ": (2, 4, 5)},
    "t2.mass": {"PZ": (4,)},
    "t2.lenticular": {"TZ": (4, 5)},
    "t2.chaos": {"TZ": (1, 2)},
    "t2.spiculated": {},
    "dwi.focal": {"PZ": (3, 4, 5), "TZ": (3, 4, 5)},
    "size.ge15": {"PZ": (5,), "TZ": (5,)},
    "dce.pos": {"PZ": ("+",), "TZ": ("+",)},
    "ben.bph": {},
}


def test_attributes_are_exactly_the_agreed_ones() -> None:
    assert {a.id: a.value_ids for a in load().attributes} == ATTRIBUTES
    assert {a.id: a.extent for a in load().attributes} == {i: EXTENT[i.split(".")[1]] for i in ATTRIBUTES}
    assert all(a.question.endswith("?") for a in load().attributes)


def test_every_concept_of_the_standard_is_there_and_the_rest_is_marked_as_ours() -> None:
    assert {c.id for c in load().concepts if not c.extension} == STANDARD_IDS
    ours = {c.id for c in load().concepts if c.extension}
    assert {"t2.focal", "t2.nodule", "t2.normal_tz", "t2.mild_hypo", "t2.nocap"} <= ours


@pytest.mark.parametrize(("concept_id", "supports"), SUPPORTS.items())
def test_supports(concept_id: str, supports: dict[str, tuple[int | str, ...]]) -> None:
    assert load().concept(concept_id).supports == supports


@pytest.mark.parametrize(
    ("concept_id", "codes"),
    [
        ("t2.uniform_hyper", [("RADLEX", "RID39467", "T2 Hyperintensity")]),
        ("t2.linear", [("DCM", "112150", "Linear")]),
        ("t2.diffuse_mild", [("SCT", "19648000", "Diffuse"), ("RADLEX", "RID35804", "Hypointense")]),
        ("t2.noncirc", [("RADLEX", "RID34355", "Non-circumscribed margin")]),
        ("t2.mod_hypo", [("RADLEX", "RID49501", "T2 hypointensity")]),
        ("t2.enc_full", [("DCM", "130594", "Completely encapsulated"), ("SCT", "27925004", "Nodule")]),
        ("t2.nocapsule", [("SCT", "129738007", "Circumscribed lesion"), ("SCT", "27925004", "Nodule")]),
        ("t2.between", []),
        ("t2.lenticular", [("RADLEX", "RID49495", "Lenticular")]),
        ("t2.charcoal", [("RADLEX", "RID49497", "Erased charcoal sign")]),
        ("t2.drop", [("SCT", "1312007", "Drop-shaped")]),
        ("dwi.none", []),
        ("dwi.focal", [("SCT", "87017008", "Focal"), ("DCM", "130591", "Focal abnormality")]),
        ("adc.marked", [("RADLEX", "RID49500", "Markedly hypointense")]),
        ("hbv.marked", [("RADLEX", "RID39536", "Diffusion-weighted hypersensitivity")]),
        ("dce.pos", [("DCM", "130600", "Positive DCE"), ("RADLEX", "RID50321", "PI-RADS DCE +ve")]),
        ("dce.neg", [("DCM", "130601", "Negative DCE"), ("RADLEX", "RID50320", "PI-RADS DCE -ve")]),
        ("loc.tz", [("SCT", "399384005", "Transition zone of the prostate")]),
        ("ben.haem", [("SCT", "50960005", "Hemorrhage")]),
    ],
)
def test_codes(concept_id: str, codes: list[tuple[str, str, str]]) -> None:
    assert [(c.designator, c.value, c.meaning) for c in load().concept(concept_id).codes] == codes


def test_codes_are_those_of_dicom() -> None:
    concepts = pytest.importorskip("pydicom.sr._concepts_dict").concepts
    for concept in load().concepts:
        for code in concept.codes:
            if code.designator.startswith("99"):
                continue
            meanings = {entry[code.value][0] for entry in concepts[code.designator].values() if code.value in entry}
            assert code.meaning in meanings, concept.id


def test_a_concept_reads_the_sequence_of_its_id_only() -> None:
    own = {"t2": {"t2w"}, "adc": {"adc"}, "hbv": {"hbv"}, "dwi": {"adc", "hbv"}}
    for concept in load().concepts:
        assert set(concept.sequences) == own.get(concept.id.split(".")[0], set()), concept.id
        assert (concept.kind == "seen") == (concept.id.split(".")[0] in ("t2", "adc", "hbv"))
    assert len(load().seen_concepts("t2w")) >= 10
    assert {c.id for c in load().seen_concepts("adc")} >= {"adc.hypo", "adc.marked"}


def test_every_value_has_an_evidence_concept_of_its_own_sequence() -> None:
    for attribute in load().attributes:
        for value in attribute.values:
            for concept_id in value.concepts.values():
                concept = load().concept(concept_id)
                assert concept.kind == "seen"
                assert value.id in concept.requires[attribute.id]


def test_phrases_tell_the_zones_and_the_values_apart() -> None:
    seen: dict[str, str] = {}
    for attribute in load().attributes:
        for value in attribute.values:
            assert not set(value.phrases["PZ"]) & set(value.phrases["TZ"])
            for zone, phrases in value.phrases.items():
                for phrase in phrases:
                    owner = f"{attribute.id}={value.id} {zone}"
                    assert seen.setdefault(phrase, owner) == owner
    assert len(seen) >= 2 * 5 * sum(map(len, ATTRIBUTES.values()))


def test_concepts_hold_and_have_a_probability() -> None:
    between = load().concept("t2.between")
    values = {"t2.pattern": "diffuse", "t2.texture": "homogeneous", "t2.signal": "mild_hypo"}
    assert between.holds(values)
    assert not between.holds({**values, "t2.pattern": "nodule"})
    assert not between.holds({"t2.pattern": "diffuse"})
    readings = {
        "t2.pattern": {"diffuse": 0.5, "focal": 0.3, "nodule": 0.2},
        "t2.texture": {"homogeneous": 0.5},
        "t2.signal": {"mild_hypo": 0.25},
    }
    assert between.probability(readings) == pytest.approx(0.8 * 0.5 * 0.25)
    assert between.probability({"t2.pattern": {"diffuse": 1.0}}) is None
    focal = load().concept("dwi.focal")
    assert focal.holds({"adc.pattern": "none", "hbv.pattern": "focal"})
    assert focal.probability({"adc.pattern": {"focal": 0.5}, "hbv.pattern": {"focal": 0.5}}) == pytest.approx(0.75)
    restricted = load().concept("dwi.restricted")
    assert not restricted.holds({"adc.signal": "marked", "hbv.signal": "normal"})
    assert not load().concept("ben.bph").holds({})


def test_prompts_name_modality_and_zone() -> None:
    assert load().concept("t2.lenticular").prompt("TZ") == "T2W, transition zone: lenticular shape"


def test_lookups_and_hash() -> None:
    assert load() is load()
    assert load().attribute("t2.margin").value("spiculated").label == "spiculated"
    assert load().concept("size.ge15").codes[0] == Code("SCT", "103339001", "Long axis")
    content = resource_path("Lexicon", "lexicon.toml").read_bytes().replace(b"\r\n", b"\n")
    assert load().sha256 == hashlib.sha256(content).hexdigest()
    assert pickle.loads(pickle.dumps(load())) == load()
    with pytest.raises(KeyError, match=r"t2\.colour"):
        load().attribute("t2.colour")
    with pytest.raises(KeyError, match=r"no concept 't2\.purple'"):
        load().concept("t2.purple")
    with pytest.raises(KeyError, match="has no value 'fuzzy'"):
        load().attribute("t2.margin").value("fuzzy")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('requires = { "t2.shape" = ["drop"] }', 'requires = { "t2.form" = ["drop"] }', "unknown attribute 't2.form'"),
        ('requires = { "t2.shape" = ["drop"] }', 'requires = { "t2.shape" = ["tear"] }', "concept t2.drop requires"),
        ('requires = { "t2.shape" = ["drop"] }', 'requires = { "adc.signal" = ["marked"] }', "one sequence"),
        ('id = "t2.circ"', 'id = "t2.homog"', "concept t2.homog is there twice"),
        ('id = "t2.texture"', 'id = "t2.margin"', "attribute t2.margin is there twice"),
        ('id = "wedge"', 'id = "linear"', "value linear is there twice"),
        ('extent = "rim"', 'extent = "edge"', "extent is 'edge'"),
        ('sequence = "hbv"', 'sequence = "dce"', "sequence is 'dce'"),
        ('concept = "t2.drop"', 'concept = "t2.round"', "does not accept this value"),
        ('"T2W, {zone}: water-drop shape"', '"water-drop shape"', "does not name its sequence"),
        ('  "T2W, {zone}: teardrop form",\n', "", "4 phrases for PZ"),
        ("supports = { TZ = [3] }", "supports = { TZ = [6] }", "supports TZ"),
        ('phrase = "lenticular shape"\n', "", "'phrase' is missing"),
        ('version = "1.0.0"', 'version = "1.0.0', "not a TOML file"),
        ('kind = "context"\n', 'kind = "context"\nrequires = { "t2.shape" = ["drop"] }\n', "requires no attribute"),
    ],
)
def test_a_wrong_lexicon_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = resource_path("Lexicon", "lexicon.toml").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "broken.toml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(LexiconError, match=r"broken\.toml") as caught:
        lex.load(file)
    assert message in str(caught.value)
