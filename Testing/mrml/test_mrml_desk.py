"""The desk: a case is put away only once the next one can be opened."""

from __future__ import annotations

import time
from typing import Any

import pytest

from MedRationaleLogic.inference.device import DeviceError
from MedRationaleLogic.mrml.desk import Desk
from MedRationaleLogic.mrml.geometry import node_from_volume
from Testing.unit.case.fake_explainer import FakeExplainer


def test_a_device_that_cannot_be_used_leaves_the_open_case_alone(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeExplainer()
    desk = Desk(scene, in_process=True)
    monkeypatch.setattr(desk, "_explainer", lambda: fake)
    nodes = {role: node_from_volume(scene, fake.study.volume(role), role) for role in fake.study.roles}
    desk.open(**nodes)
    desk.explain()
    end = time.monotonic() + 60
    while desk.explanation is None and time.monotonic() < end:
        desk.poll()
        time.sleep(0.01)
    case, view = desk.case, desk.view
    assert case is not None
    case.override(1, "t2w.score", 5, "Dr A")
    assert desk.readers_work_would_go()

    def broken() -> Any:
        raise DeviceError("there is no such device")

    monkeypatch.setattr(desk, "_explainer", broken)
    desk.configure(bundle=None, device="cuda", in_process=True)
    with pytest.raises(DeviceError, match="no such device"):
        desk.open(**nodes)
    assert (desk.case, desk.view) == (case, view)
    assert desk.readers_work_would_go()

    monkeypatch.setattr(desk, "_explainer", lambda: FakeExplainer())
    assert desk.open(**nodes) is not case
    assert desk.case is not case
    desk.shut_down()
