"""A tiny bundle and small studies that the tests of this room share."""

from __future__ import annotations

import pytest
import torch

from MedRationaleLogic.imaging.study import Study
from MedRationaleLogic.inference.explainer import Explainer, StudyReader
from MedRationaleLogic.inference.explanation import Explanation
from MedRationaleLogic.model.bundle import Bundle, save
from Testing.bundle_factory import tiny_bundle
from Testing.study_factory import make_study


@pytest.fixture(scope="session")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Random weights, turned so that the whole crop is gland and its lesion map has several separate peaks."""
    folder = tmp_path_factory.mktemp("eager")
    net = tiny_bundle(folder).network()
    with torch.no_grad():
        net.trunk.zones.bias[0] -= 10.0
        net.trunk.lesion.weight *= 6.0
        net.trunk.lesion.bias.fill_(-7.0)
        net.suspicion_weight.copy_(torch.linspace(-2.0, 1.0, net.suspicion_weight.numel()).reshape(2, -1))
    return save(net, folder / "eager-0.0.1", tiny_bundle(folder).manifest)


@pytest.fixture(scope="session")
def explainer(eager: Bundle) -> Explainer:
    return Explainer(eager, "cpu", "float32")


@pytest.fixture(scope="session")
def study() -> Study:
    """All three sequences; ADC and high-b on a tilted grid of their own."""
    return make_study()


@pytest.fixture(scope="session")
def opened(explainer: Explainer, study: Study) -> tuple[Explanation, StudyReader]:
    """The study, explained once for all tests that only look."""
    return explainer.open(study)
