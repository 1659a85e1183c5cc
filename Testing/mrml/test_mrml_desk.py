"""The desk: a case is put away only once the next one can be opened."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from MedRationaleLogic.case import Case
from MedRationaleLogic.inference.device import DeviceError
from MedRationaleLogic.model.bundle import save
from MedRationaleLogic.mrml.desk import Desk
from MedRationaleLogic.mrml.geometry import node_from_volume
from MedRationaleLogic.mrml.inputs import NodeQuestion, find_inputs
from Testing.bundle_factory import tiny_bundle
from Testing.unit.case.fake_explainer import FakeExplainer


def until(desk: Desk, done: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not done() and time.monotonic() < end:
        desk.poll()
        time.sleep(0.01)
    assert done()


@pytest.fixture
def explained(scene: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A desk with an explained case that no reader has touched."""
    fake = FakeExplainer()
    desk = Desk(scene, in_process=True)
    monkeypatch.setattr(desk, "_explainer", lambda bundle=None: fake)
    desk.open(**{role: node_from_volume(scene, fake.study.volume(role), role) for role in fake.study.roles})
    desk.explain()
    until(desk, lambda: desk.explanation is not None)
    yield desk
    desk.shut_down()


def opened_again(desk: Desk) -> Case:
    """The case of the scene, read by a network that has not seen it."""
    desk.save()
    desk.configure(bundle=None, device="cpu", in_process=True)
    return desk.restore(desk.saved_cases()[0])


def test_a_device_that_cannot_be_used_leaves_the_open_case_alone(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeExplainer()
    desk = Desk(scene, in_process=True)
    monkeypatch.setattr(desk, "_explainer", lambda bundle=None: fake)
    nodes = {role: node_from_volume(scene, fake.study.volume(role), role) for role in fake.study.roles}
    desk.open(**nodes)
    desk.explain()
    until(desk, lambda: desk.explanation is not None)
    case, view = desk.case, desk.view
    assert case is not None
    case.override(1, "t2w.score", 5, "Dr A")
    assert desk.readers_work_would_go()

    def broken(bundle: str | None = None) -> Any:
        raise DeviceError("there is no such device")

    monkeypatch.setattr(desk, "_explainer", broken)
    desk.configure(bundle=None, device="cuda", in_process=True)
    with pytest.raises(DeviceError, match="no such device"):
        desk.open(**nodes)
    assert (desk.case, desk.view) == (case, view)
    assert desk.readers_work_would_go()

    monkeypatch.setattr(desk, "_explainer", lambda bundle=None: FakeExplainer())
    assert desk.open(**nodes) is not case
    assert desk.case is not case
    desk.shut_down()


def test_a_signature_and_taking_it_back_are_a_readers_work(explained: Desk, tmp_path: Path) -> None:
    case = explained.case
    assert not explained.readers_work_would_go()
    case.sign_off("Dr A")
    assert explained.readers_work_would_go()
    case.save(tmp_path / "case")
    assert not explained.readers_work_would_go()
    case.reopen("Dr A", "the wrong study")
    assert explained.readers_work_would_go()


def test_what_only_the_scene_has_would_go(explained: Desk, tmp_path: Path) -> None:
    explained.case.override(1, "epe", "definite", "Dr A")
    explained.save()
    text = explained.saved_cases()[0]
    explained.forget()
    assert not explained.readers_work_would_go()
    again = explained.restore(text)
    assert not again.unsaved
    assert explained.readers_work_would_go()
    again.save(tmp_path / "case")
    assert not explained.readers_work_would_go()


def test_the_map_that_is_chosen_while_the_network_reads_is_the_one_that_comes(explained: Desk) -> None:
    case = opened_again(explained)
    first, second = list(case.explanation.evidence)[:2]
    case.select(1, first)
    assert explained.show_evidence()
    assert explained.busy
    case.select(1, second)
    assert not explained.show_evidence()  # who asks is told to ask again
    until(explained, lambda: not explained.busy)
    assert explained.view.evidence_concept == second
    assert explained.show_evidence(shown=False)
    assert not explained.view.evidence_shown


def test_maps_that_were_switched_off_meanwhile_do_not_come(explained: Desk) -> None:
    case = opened_again(explained)
    case.select(1, next(iter(case.explanation.evidence)))
    explained.show_evidence()
    explained.show_evidence(shown=False)
    until(explained, lambda: not explained.busy)
    assert not explained.view.evidence_shown


def test_a_case_that_is_opened_again_is_read_by_its_own_bundle(
    scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as that is installed, whatever is chosen for the next study."""
    fake = FakeExplainer()
    used = fake.open(fake.study)[0].provenance.bundle
    chosen = tiny_bundle(tmp_path / "bundles")
    name = f"{used['name']}-{used['version']}"
    own = save(
        chosen.network(),
        tmp_path / "bundles" / name,
        replace(chosen.manifest, name=used["name"], version=used["version"]),
    )
    monkeypatch.setenv("MEDRATIONALE_BUNDLES", str(tmp_path / "bundles"))
    case = Case.open(fake.study, fake)
    case.explain()
    case.save(tmp_path / "case")
    desk = Desk(scene, bundle=str(chosen.path), in_process=True)
    asked: list[str | None] = []
    monkeypatch.setattr(desk, "_explainer", lambda bundle=None: asked.append(bundle) or FakeExplainer())
    desk.load_case(tmp_path / "case")
    assert asked == [name]
    desk.load_case(tmp_path / "case")
    assert len(asked) == 1  # the session that has it stays
    desk.open(**desk.nodes)
    assert asked[1:] == [None]  # the next study is read by what was chosen
    shutil.rmtree(own.path)
    desk.load_case(tmp_path / "case")
    assert len(asked) == 2  # where it is not installed any more, by what is chosen: the case says so when it is asked
    desk.shut_down()


def test_images_of_two_studies_are_not_read_together_unasked(scene: Any, tmp_path: Path) -> None:
    """Loaded from two folders, without DICOM: what tells them apart is where they came from."""
    first, second = (tmp_path / name for name in ("ADC study of A", "b"))
    study = FakeExplainer().study
    for folder, roles in ((first, ("t2w",)), (second, ("t2w", "adc", "hbv"))):
        folder.mkdir()
        for role in roles:
            sitk.WriteImage(study.volume(role).to_sitk(), str(folder / f"{role}.nii.gz"))
    desk = Desk(scene)
    a, b = desk.load_folder(first), desk.load_folder(second)
    assert (a["t2w"].GetName(), b["adc"].GetName()) == ("T2W (ADC study of A)", "ADC (b)")
    with pytest.raises(NodeQuestion, match="different patients"):
        desk.study({"t2w": a["t2w"], "adc": b["adc"]})
    assert find_inputs(scene).nodes == b  # one study, and no folder's name mistaken for a sequence
    desk._loaded = None
    assert desk.study(b).roles == ("t2w", "adc", "hbv")
