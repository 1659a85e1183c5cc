"""The JSON: valid by the published schema, and the schema says no to what is wrong."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import jsonschema
import pytest

from MedRationaleLogic.export import to_json
from MedRationaleLogic.export.json_document import FORMAT, schema
from MedRationaleLogic.imaging.quality import Status
from MedRationaleLogic.imaging.volume import Geometry
from MedRationaleLogic.inference.explanation import Lesion, SuspicionParts
from MedRationaleLogic.pirads.sectors import SECTORS
from Testing.explanation_factory import MIXED, PZ_LEFT, TZ_RIGHT, make_explanation

CASES = {
    "two regions": {},
    "negative": {"lesions": ()},
    "zone uncertain": {"lesions": (MIXED,)},
    "T2W only": {"roles": ("t2w",)},
    "no T2W, no gland, no PSA": {"roles": ("adc", "hbv"), "gland": False, "psa": None},
    "a reader everywhere": {
        "lesions": (PZ_LEFT, TZ_RIGHT),
        "overrides": {
            1: [("size", 15.5, "A"), ("dce", "+", "B"), ("t2w.score", "X", "C"), ("epe", "definite", "D")],
            2: [("zone", "PZ", "A"), ("t2.shape", "drop", "B")],
        },
    },
}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


@pytest.fixture(scope="module")
def explanation():
    return make_explanation()


@pytest.fixture(scope="module")
def document(explanation):
    return json.loads(to_json(explanation))


@pytest.mark.parametrize("case", CASES)
def test_real_output_is_valid(validator, case):
    text = to_json(make_explanation(**CASES[case]))
    errors = [f"{e.json_path}: {e.message}" for e in validator.iter_errors(json.loads(text))]
    assert errors == []
    assert text.isascii()
    assert text.endswith("}\n")


def test_it_holds_what_the_explanation_holds(document, explanation):
    assert document["format"] == FORMAT
    assert document["category"] == {
        "value": 4,
        "index_lesion": 2,
        "reported": [2, 1],
        "text": "highest category of the lesions",
        "protocol": "bpMRI",
    }
    assert [x["number"] for x in document["lesions"]] == [1, 2]
    assert document["lesions"][1]["category_reachable"] == [3, 4]
    assert document["evidence"]["maps"] == list(explanation.evidence)
    assert Geometry.from_dict(document["frame"]) == explanation.frame.geometry
    assert document["psa_density"]["ng_ml_per_ml"] == explanation.psa_density.value


def test_a_region_comes_back_unchanged(document, explanation):
    for data, lesion in zip(document["lesions"], explanation.lesions, strict=True):
        again = Lesion.from_dict(data, lesion.mask)
        assert again.rationale == lesion.rationale
        assert again.measures == lesion.measures
        assert again.readings == lesion.readings
        assert again.to_dict() == lesion.to_dict()


def test_identity_of_the_patient_is_not_in_it(explanation):
    study = replace(explanation.study, patient_id="SECRET-4711")
    assert "SECRET-4711" not in to_json(replace(explanation, study=study))


def test_a_number_that_json_cannot_hold_is_refused(explanation):
    lesion = replace(explanation.lesions[0], suspicion=SuspicionParts(float("nan"), 0.0, (), 0.0, 0.0))
    with pytest.raises(ValueError, match="not finite"):
        to_json(explanation.with_lesion(lesion))


def put(path: str, value):
    def change(data):
        *way, last = path.split("/")
        for key in way:
            data = data[int(key) if key.isdigit() else key]
        data[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("extra", 1),
        put("format", "something else"),
        put("notice", "approved for clinical use"),
        put("category/value", 6),
        put("category/reported", [1, 2, 3, 4, 5]),
        put("lesions/0/category", "4"),
        put("lesions/0/zone", "CZ"),
        put("lesions/0/extra", 1),
        put("lesions/0/number", 0),
        put("lesions/0/suspicion/value", 1.5),
        put("lesions/0/measures/sectors", [{"key": "PZ-mid-L", "share": 1.0}]),
        put("lesions/0/measures/centroid_lps_mm", [1.0, 2.0]),
        put("lesions/0/rationale/dce", "positive"),
        put("lesions/0/rationale/path/steps/0/asserted_by", "nobody"),
        put("lesions/0/rationale/path/steps/0/probability", 2),
        put("lesions/0/attributes", {"t2.texture": {"homogeneous": 1.2}}),
        put("lesions/0/attributes", {"../x": {"a": 0.2}}),
        put("study/study_date", "20260131"),
        put("study/sequences", []),
        put("study/patient_id", "x"),
        put("quality/0/status", "passed"),
        put("provenance/inputs/0/sha256", "abc"),
        put("evidence/maps", ["../../etc"]),
        put("frame/spacing_zyx_mm", [3.0, 0.0, 0.5]),
        lambda data: data.pop("provenance"),
        lambda data: data["lesions"][0].pop("rationale"),
    ],
)
def test_the_schema_refuses_what_is_wrong(validator, document, change):
    data = copy.deepcopy(document)
    change(data)
    assert not validator.is_valid(data)


def test_the_schema_knows_the_same_words_as_the_code():
    definitions = schema()["$defs"]
    assert definitions["sector"]["properties"]["key"]["enum"] == [s.key for s in SECTORS]
    assert set(definitions["quality_flag"]["properties"]["status"]["enum"]) == set(Status.__args__)
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_schema_leaves_no_object_open_by_accident():
    def visit(node, path):
        if isinstance(node, dict):
            if node.get("type") == "object":
                assert "additionalProperties" in node, path
                if "properties" in node and "bundle" not in path:
                    assert node["additionalProperties"] is False, path
            for key, value in node.items():
                visit(value, f"{path}/{key}")
        elif isinstance(node, list):
            for i, value in enumerate(node):
                visit(value, f"{path}/{i}")

    visit(schema(), "")
