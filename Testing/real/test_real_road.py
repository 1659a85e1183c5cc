"""The whole road on real studies: ``bpmri``, ``adc_dwi_only`` and the raw DICOM study run, and the result is sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from MedRationaleLogic.export import write_results
from MedRationaleLogic.imaging.study import Study, read_study
from MedRationaleLogic.inference.explainer import Explainer
from MedRationaleLogic.inference.explanation import Explanation

# the two copies of one patient come last: they are compared after both were explained
CASES = (
    "bpmri/PICAI-10021_1000021",
    "bpmri/PICAI-10574_1000586",
    "bpmri/ProstateX-0218",
    "adc_dwi_only/PICAI-10032_1000032",
    "adc_dwi_only/PICAI-10270_1000274",
    "bpmri/ProstateX-0001",
    "dicom/ProstateX-0001",
)


@pytest.fixture(scope="module")
def explained(real_data: Path) -> Callable[[str], tuple[Study, Explanation]]:
    """A case by the shipped bundle on the CPU; the last two are kept."""
    explainer = Explainer(device="cpu")

    @lru_cache(2)
    def of(case: str) -> tuple[Study, Explanation]:
        study = read_study(real_data / case)
        return study, explainer.explain(study)

    return of


@pytest.mark.parametrize("case", CASES)
def test_a_real_study_is_explained_and_written(
    case: str, explained: Callable[[str], tuple[Study, Explanation]], tmp_path: Path
) -> None:
    study, explanation = explained(case)
    frame = study.frame.geometry

    assert explanation.zones.geometry == frame
    assert explanation.gland is not None
    assert 10 < explanation.gland.planimetry_ml < 200
    assert set(np.unique(explanation.zones.array)) == {0, 1, 2}
    for lesion in explanation.lesions:
        assert lesion.mask.geometry == frame
        assert lesion.mask.array.any()
        assert lesion.suspicion is not None
        assert 0 <= lesion.suspicion.value <= 1
        assert {r.sequence for r in lesion.readings} >= set(study.roles)
        if "t2w" not in study.roles:
            assert lesion.rationale.t2w == "X"
            assert lesion.category == "X"
    t2w_maps = [name for name in explanation.evidence if name.startswith("t2.")]
    assert len(t2w_maps) >= 10 if "t2w" in study.roles else not t2w_maps

    write_results(explanation, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "explanation.json").read_text(encoding="utf-8"))
    assert document["category"]["value"] == explanation.category.category
    written = {p.name.removesuffix(".nii.gz") for p in (tmp_path / "out" / "evidence").iterdir()}
    assert written == set(explanation.evidence)
    assert "Research use only" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_dicom_and_nifti_of_one_diffusion_study_give_the_same_evidence(
    explained: Callable[[str], tuple[Study, Explanation]],
) -> None:
    """The T2W of the two copies are different acquisitions; ADC and high-b are the same, and read without the T2W."""
    (_, nifti), (_, dicom) = explained("bpmri/ProstateX-0001"), explained("dicom/ProstateX-0001")
    for name in ("adc.marked", "hbv.marked"):
        first, second = nifti.evidence.native(name), dicom.evidence.native(name)
        assert first.geometry.almost_equal(second.geometry, 1e-2)
        assert first.array.max() > 0.5, "it shows something"
        np.testing.assert_allclose(first.array, second.array, atol=0.05)
