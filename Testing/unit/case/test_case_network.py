"""A case over the real road: a tiny network with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from MedRationaleLogic.case import Case, CaseError
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference.explainer import Explainer
from MedRationaleLogic.model.bundle import save
from Testing.bundle_factory import tiny_bundle
from Testing.explanation_factory import CENTER, PZ_LEFT, make_explanation, sphere

READER = "Dr A"


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory):
    """The tiny network, turned so that the whole crop is gland and its peaks are regions; one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = tiny_bundle(tmp_path_factory.mktemp("bundle"))
    net = made.network()
    with torch.no_grad():
        net.trunk.zones.bias[0] -= 10.0
        net.trunk.lesion.weight *= 6.0
        net.trunk.lesion.bias.fill_(-7.0)
    yield Explainer(save(net, made.path, made.manifest), "cpu", "float32")
    torch.set_num_threads(threads)


def test_edits_are_read_by_the_network_also_after_loading(
    explainer: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    case = Case.open(make_explanation().study, explainer)
    result = case.explain()
    assert result.lesions
    drawn = Volume(sphere(case.study.frame.geometry, PZ_LEFT.offset, 6.0), case.study.frame.geometry)
    added = case.add_region(drawn, READER)
    assert set(added.attributes) == set(result.lesions[0].attributes)
    assert added.suspicion is not None
    assert added.readings
    case.explain_here(np.asarray(CENTER) + PZ_LEFT.offset, READER)
    case.save(tmp_path / "case")

    # the bundle is found by the name that the case was explained with
    monkeypatch.setenv("MEDRATIONALE_BUNDLES", str(explainer.bundle.path.parent))
    loaded = Case.load(tmp_path / "case", device="cpu")
    assert loaded.explanation.to_dict() == case.explanation.to_dict()
    loaded._explainer = Explainer(loaded._bundle, "cpu", "float32")
    assert loaded._explainer.bundle.manifest == explainer.bundle.manifest
    name = next(iter(case.explanation.evidence))
    assert np.array_equal(loaded.explanation.evidence[name].array, case.explanation.evidence[name].array)
    bigger = drawn.with_array(sphere(drawn.geometry, PZ_LEFT.offset, 8.0))
    one, other = (c.edit_region(added.number, bigger, READER) for c in (case, loaded))
    assert one.to_dict() == other.to_dict()
    assert one.attributes != added.attributes

    case.shift("adc", (3.0, 0.0, 0.0), READER)
    shifted = case.explanation.lesion(added.number)
    assert np.array_equal(shifted.mask.array, one.mask.array)
    assert shifted.attributes["adc.signal"] != one.attributes["adc.signal"]
    assert shifted.attributes["t2.signal"] == one.attributes["t2.signal"]


def test_readings_of_two_bundles_do_not_meet_in_one_case(explainer: Explainer, tmp_path: Path):
    made = make_explanation()
    used = {"name": "tiny", "version": "0.0.1", "sha256": "0" * 64}
    explained = replace(made, provenance=replace(made.provenance, bundle=used))

    class Once:
        def open(self, study, *, progress=None, cancelled=None):
            return explained, None

        def see(self, study):
            raise AssertionError("not asked")

    case = Case.open(made.study, Once())
    case.explain()
    loaded = Case.load(case.save(tmp_path / "case"), explainer)
    with pytest.raises(CaseError, match=r"explained with bundle tiny 0\.0\.1.*other weights"):
        loaded.edit_region(1, Volume(np.ones(made.zones.geometry.shape, bool), made.zones.geometry), READER)
