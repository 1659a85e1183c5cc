# ruff: noqa: E402 - the imports need slicer-core, which may be missing
"""Real studies as nodes: found by name, and the same study as read from the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is missing (extra 'viewer')")

from MedRationaleLogic.imaging.study import read_study
from MedRationaleLogic.mrml.geometry import node_from_volume
from MedRationaleLogic.mrml.inputs import find_inputs, study_from_nodes

CASES = (
    "bpmri/PICAI-10021_1000021",
    "bpmri/PICAI-10574_1000586",
    "bpmri/ProstateX-0001",
    "bpmri/ProstateX-0218",
    "adc_dwi_only/PICAI-10032_1000032",
    "dicom/ProstateX-0001",
)


@pytest.mark.parametrize("case", CASES)
def test_nodes_of_a_real_study_are_found_and_no_question_is_asked(real_data: Path, case: str) -> None:
    files = read_study(real_data / case)
    scene = slicer.vtkMRMLScene()
    nodes = {role: node_from_volume(scene, files.volume(role), role) for role in files.roles}
    found = find_inputs(scene)
    assert found.nodes == nodes
    study = study_from_nodes(found.t2w, found.adc, found.hbv)
    assert study.roles == files.roles
    for role in files.roles:
        mine, theirs = study.volume(role), files.volume(role)
        assert mine is not None
        assert theirs is not None
        assert np.array_equal(mine.array, theirs.array)
        assert mine.geometry.almost_equal(theirs.geometry, 1e-3)
