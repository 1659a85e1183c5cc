"""Every store gives back what it was given, to the bit, and refuses what is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference.storage import (
    Inline,
    NiftiFolder,
    NpyFolder,
    StorageError,
    explanation_from_json,
    explanation_to_json,
    load_array,
    save_array,
    study_from_json,
    study_to_json,
)
from Testing.explanation_factory import IDENTITY, flipped, grid, make_explanation, oblique

SMALL = {"shape": (10, 40, 44)}
STORES = ["nifti", "npy", "inline"]


def empty(kind: str, folder: Path):
    """A store of a kind."""
    return Inline() if kind == "inline" else {"nifti": NiftiFolder, "npy": NpyFolder}[kind](folder)


def reopened(kind: str, folder: Path, store):
    """The same store as another process finds it: only files and JSON."""
    records = json.loads(json.dumps(store.records))
    return Inline(records) if kind == "inline" else {"nifti": NiftiFolder, "npy": NpyFolder}[kind](folder, records)


@pytest.mark.parametrize("kind", STORES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(["?", "|u1", "<i2", ">i2", "<u2", "<i4", "<f4", ">f4", "<f8"]),
    direction=st.sampled_from([IDENTITY, oblique(), flipped()]),
    spacing=st.tuples(*[st.floats(0.21, 4.9)] * 3),
    filled=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_a_volume_comes_back_to_the_bit(tmp_path: Path, kind: str, dtype: str, direction, spacing, filled, seed: int):
    draw = np.random.default_rng(seed)
    values = np.where(draw.uniform(size=(4, 6, 5)) < filled, draw.uniform(-2, 250, (4, 6, 5)), 0)
    volume = Volume(
        values.clip(0 if dtype in "|u1<u2" else None).astype(dtype), grid((4, 6, 5), spacing, direction), "a"
    )
    folder = tmp_path / str(seed)
    store = empty(kind, folder)
    name = store.put(volume, "images/t2w")
    again = reopened(kind, folder, store)
    back = again.get(name)
    assert back.sha256 == volume.sha256
    assert back.array.dtype == volume.array.dtype
    assert back.geometry == volume.geometry
    assert back.name == "a"
    assert not back.array.flags.writeable
    assert again.get(name) is back


def test_inline_keeps_what_equals_zero_and_is_not():
    values = np.zeros((3, 4, 5), np.float32)
    values[1, 2, 3] = -0.0
    values[2, 3, 4] = np.nan
    volume = Volume(values, grid((3, 4, 5), (1, 1, 1), IDENTITY))
    store = Inline()
    name = store.put(volume, "zones")
    assert store.records[name]["box"] == [[1, 3], [2, 4], [3, 5]]
    assert Inline(store.records).get(name).array.tobytes() == values.tobytes()


def test_inline_takes_little_for_a_mask():
    mask = np.zeros((30, 400, 400), bool)
    mask[10:16, 180:220, 190:230] = True
    store = Inline()
    store.put(Volume(mask, grid(mask.shape, (3, 0.5, 0.5), IDENTITY)), "regions/1")
    assert len(json.dumps(store.records)) < 1000


@pytest.mark.parametrize("kind", STORES)
def test_an_explanation_comes_back_to_the_bit(tmp_path: Path, kind: str):
    made = make_explanation(overrides={1: [("t2.shape", "lenticular", "Dr A")]}, **SMALL)
    store = empty(kind, tmp_path)
    study = study_to_json(replace(made.study, patient_id="PAT-4711"), store)
    data = json.loads(json.dumps(explanation_to_json(made, store)))
    assert "PAT-4711" not in json.dumps([study, data, store.records])
    again = reopened(kind, tmp_path, store)
    back = explanation_from_json(data, again, study_from_json(json.loads(json.dumps(study)), again))
    assert back.to_dict() == made.to_dict() | {"evidence": {"threshold": made.evidence.threshold, "maps": []}}
    assert back.zones.sha256 == made.zones.sha256
    assert back.lesion_probability.sha256 == made.lesion_probability.sha256
    assert [x.mask.sha256 for x in back.lesions] == [x.mask.sha256 for x in made.lesions]
    assert [x.rationale for x in back.lesions] == [x.rationale for x in made.lesions]
    assert back.study.headers == made.study.headers
    assert back.study.inputs == made.study.inputs
    assert (back.gland, back.quality, back.provenance) == (made.gland, made.quality, made.provenance)


def test_regions_of_before_they_knew_the_threshold_have_that_of_the_provenance():
    explanation = make_explanation()
    store = Inline()
    data = explanation_to_json(explanation, store, "")
    for region in data["lesions"]:
        del region["suspicion"]["threshold"]
    back = explanation_from_json(data, Inline(store.records, "text"), explanation.study)
    assert [x.suspicion for x in back.lesions] == [x.suspicion for x in explanation.lesions]


@pytest.mark.parametrize("kind", STORES)
def test_the_same_image_is_kept_once(tmp_path: Path, kind: str):
    volume = make_explanation(**SMALL).zones
    store = empty(kind, tmp_path)
    first = store.put(volume, "zones")
    assert store.put(volume, "original/zones") == first
    assert list(store.records) == [first]


@pytest.mark.parametrize("kind", STORES)
def test_a_name_must_not_lead_out(tmp_path: Path, kind: str):
    store = empty(kind, tmp_path)
    for name in ("../zones", "/etc/passwd", "images/ct", "regions/1/../../x", "regions/x"):
        store.records[name + store.suffix] = {}
        with pytest.raises(StorageError, match="no image of a case"):
            store.get(name + store.suffix)


def test_a_damaged_image_is_refused_by_name(tmp_path: Path):
    made = make_explanation(**SMALL)
    store = Inline()
    name = store.put(made.zones, "zones")
    whole = json.dumps(store.records)
    for field, value in {"data": "AAAA", "box": [[0, 1], [0, 1], [0, 1]], "sha256": "0" * 64, "dtype": "|i1"}.items():
        records = json.loads(whole)
        records[name][field] = value
        with pytest.raises(StorageError, match="image zones is damaged"):
            Inline(records).get(name)
    folder = NpyFolder(tmp_path)
    name = folder.put(made.zones, "zones")
    (tmp_path / name).write_bytes(b"no array")
    with pytest.raises(StorageError, match=r"zones\.npy cannot be read"):
        NpyFolder(tmp_path, folder.records).get(name)


def test_an_array_is_mapped_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    save_array(tmp_path / "deep" / "a.npy", values[:, ::-1])
    back = load_array(tmp_path / "deep" / "a.npy")
    assert isinstance(back.base, np.memmap)
    assert np.array_equal(back, values[:, ::-1])
    (tmp_path / "deep" / "a.npy").unlink()
    assert np.array_equal(back, values[:, ::-1])  # a mapped array outlives its file

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_array(tmp_path / "b.npy", values)
    assert not (tmp_path / "b.npy").exists()
