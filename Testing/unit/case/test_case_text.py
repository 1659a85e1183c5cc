"""A case as text is the same case, once the images that it was made with are given; any other image is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from MedRationaleLogic import case as case_module
from MedRationaleLogic.case import Case, CaseError
from MedRationaleLogic.imaging.study import Study
from MedRationaleLogic.imaging.volume import Volume
from Testing.explanation_factory import PZ_LEFT, Region, make_explanation, sphere
from Testing.unit.case.fake_explainer import FakeExplainer, opened

READER = "Dr A"
SMALL = {"shape": (10, 40, 44)}
MOVED = (PZ_LEFT, Region((0.0, 12.0, 9.0), 4.0, PZ_LEFT.readings))


def fake() -> FakeExplainer:
    return FakeExplainer(options=SMALL, after_shift=MOVED)


def images(study: Study) -> dict[str, Volume]:
    """A study's images as a scene gives them back: rounded geometry, other names, native byte order."""
    return {
        role: Volume(
            np.array(v.array), replace(v.geometry, origin=tuple(round(x, 3) for x in v.geometry.origin)), f"node {role}"
        )
        for role in study.roles
        if (v := study.volume(role)) is not None
    }


def edited() -> Case:
    """A case with everything in it."""
    case = opened(options=SMALL, after_shift=MOVED)
    frame = case.study.frame.geometry
    case.override(1, "dce", "+", READER)
    case.add_region(Volume(sphere(frame, (-16.0, 6.0, 0.0), 4.0), frame), READER)
    case.delete(2, READER)
    case.shift("adc", (0.1, 1 / 3, -2.0), READER)
    case.set_psa(0.1 + 0.2, READER)
    case.select(3, next(iter(case.explanation.evidence)))
    case.sign_off(READER)
    return case


def same(a: Case, b: Case) -> None:
    for x, y in ((a.explanation, b.explanation), (a.original, b.original)):
        assert (x is None) == (y is None)
        if x is None or y is None:
            continue
        assert json.dumps(x.to_dict()) == json.dumps(y.to_dict())
        assert [r.mask.sha256 for r in x.lesions] == [r.mask.sha256 for r in y.lesions]
        assert (x.zones.sha256, x.lesion_probability.sha256) == (y.zones.sha256, y.lesion_probability.sha256)
    for role in a.study.roles:
        assert a.study.volume(role).sha256 == b.study.volume(role).sha256
        assert a.study.volume(role).name == b.study.volume(role).name
    assert (a.log, a.selection, a.signed_off) == (b.log, b.selection, b.signed_off)
    assert b.verify_log()
    assert not b.unsaved


def test_a_case_as_text_is_the_same_case():
    case = edited()
    before = case.log
    text = case.to_text()
    assert case.log == before
    assert case.unsaved  # whether the text is kept is not the case's to know
    network = fake()
    again = Case.from_text(text, images(network.study), network)
    same(case, again)
    assert (network.runs, network.sights) == (0, 0)
    name = next(iter(case.explanation.evidence))
    assert np.array_equal(case.explanation.evidence[name].array, again.explanation.evidence[name].array)
    assert (network.runs, network.sights) == (0, 1)
    same(again, Case.from_text(again.to_text(), images(again.study)))


def test_images_may_lie_where_they_were_opened_or_where_they_were_shifted_to():
    network = fake()
    case = Case.open(network.study, network)
    case.shift("adc", (4.0, 0.0, 0.0), READER)  # before anything was explained: no original that knows the old place
    text = case.to_text()
    for given in (images(network.study), images(case.study)):
        again = Case.from_text(text, given, network)
        assert again.explanation is None
        same(case, again)
        same(case, Case.from_text(again.to_text(), images(network.study), network))


def test_the_text_holds_no_images_and_no_patient():
    made = make_explanation(**SMALL)
    text = Case.open(replace(made.study, patient_id="PAT-4711")).to_text()
    assert "PAT-4711" not in text
    assert len(text) < 20_000  # three images would take 100 kB
    assert Case.from_text(text, images(made.study)).study.patient_id is None


def other_voxels(volume: Volume) -> Volume:
    array = np.array(volume.array)
    array[1, 2, 3] += 1
    return volume.with_array(array)


def moved(volume: Volume) -> Volume:
    x, y, z = volume.geometry.origin
    return replace(volume, geometry=replace(volume.geometry, origin=(x + 0.5, y, z)))


def test_another_image_is_refused_by_the_name_of_its_sequence():
    case = opened(options=SMALL)
    text, given = case.to_text(), images(case.study)
    for change, said in (
        (other_voxels, "ADC: node adc has other voxels"),
        (moved, "ADC: node adc lies elsewhere"),
        (lambda v: v.with_array(v.array[:, ::-1]), "ADC: node adc has other voxels"),
    ):
        with pytest.raises(CaseError, match=said):
            Case.from_text(text, given | {"adc": change(given["adc"])})
    with pytest.raises(CaseError, match="high-b: the case was made with synthetic hbv and it is not here"):
        Case.from_text(text, {role: v for role, v in given.items() if role != "hbv"})
    with pytest.raises(CaseError, match="T2W: node adc lies elsewhere"):
        Case.from_text(text, given | {"t2w": given["adc"]})


def rewritten(text: str, change) -> str:
    data = json.loads(text)
    data.pop("sha256")
    change(data)
    return case_module._signed(data)


BROKEN = {
    "empty": (lambda t: "", "cannot be read as JSON"),
    "cut": (lambda t: t[: len(t) // 2], "cannot be read as JSON"),
    "foreign": (lambda t: '{"format": "x"}', "not of MedRationale"),
    "a saved case": (lambda t: t.replace("medrationale-case-text", "medrationale-case"), "not of MedRationale"),
    "edited": (lambda t: t.replace("Dr A", "Dr X"), "damaged or was changed"),
    "newer": (lambda t: rewritten(t, lambda d: d.update(format_version=2)), "update MedRationale"),
    "log": (lambda t: rewritten(t, lambda d: d["log"].pop(1)), "audit log was changed"),
    "entry": (lambda t: rewritten(t, lambda d: d.pop("opened")), "missing or malformed.*opened"),
    "image": (lambda t: rewritten(t, lambda d: d["images"]["zones"].update(data="AAAA")), "image zones is damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_text_that_is_no_longer_whole_is_refused(name: str):
    change, said = BROKEN[name]
    case = edited()
    with pytest.raises(CaseError, match=said) as caught:
        Case.from_text(change(case.to_text()), images(fake().study))
    assert any(hint in str(caught.value) for hint in ("earlier copy", "choose", "update MedRationale"))
