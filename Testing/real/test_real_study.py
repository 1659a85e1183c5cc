"""The real studies under MEDRATIONALE_DATA: every case reads, and DICOM and NIfTI of one patient agree."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MedRationaleLogic.imaging.study import check_geometry, read_study
from MedRationaleLogic.imaging.volume import Volume

BPMRI = ["PICAI-10021_1000021", "PICAI-10574_1000586", "ProstateX-0001", "ProstateX-0218"]
ADC_DWI_ONLY = ["PICAI-10032_1000032", "PICAI-10270_1000274"]
T2_ONLY = [
    "Prostate3T-03-0001",
    "Prostate3T-03-0002",
    "Prostate3T-03-0003",
    "ProstateDx-01-0003",
    "ProstateDx-01-0016",
    "ProstateDx-01-0049",
    "ProstateX-0002",
    "ProstateX-0003",
    "ProstateX-0101",
    "ProstateX-0199",
    "ProstateX-0217",
]


@pytest.mark.parametrize("case", BPMRI)
def test_biparametric_cases(real_data: Path, case: str):
    study = read_study(real_data / "bpmri" / case)
    assert study.roles == ("t2w", "adc", "hbv")
    images = json.loads((real_data / "bpmri" / case / "meta.json").read_text()).get("images", {})
    for role in study.roles:
        if "size" in images.get(role, {}):
            assert study.volume(role).geometry.shape[::-1] == tuple(images[role]["size"])
    assert min(check_geometry(study).coverage.values()) > 0.95
    assert study.adc.array.dtype == np.float32
    assert not any("recognised by its range" in note for note in study.notes), "stored in 1e-6 mm2/s already"


@pytest.mark.parametrize("case", ADC_DWI_ONLY)
def test_cases_without_t2w(real_data: Path, case: str):
    study = read_study(real_data / "adc_dwi_only" / case)
    assert study.roles == ("adc", "hbv")
    assert study.frame is study.adc
    assert check_geometry(study).coverage["hbv"] == 1.0


@pytest.mark.parametrize("case", T2_ONLY)
def test_cases_with_t2w_alone(real_data: Path, case: str):
    study = read_study(real_data / "t2_only" / case)
    assert study.roles == ("t2w",)
    assert study.notes == ()


def test_several_cases_at_once_are_refused(real_data: Path):
    with pytest.raises(ValueError, match="images of 4 cases"):
        read_study(real_data / "bpmri")


def test_the_raw_dicom_study(real_data: Path):
    start = time.process_time()  # the processor's time: how busy the machine is must not decide
    study = read_study(real_data / "dicom" / "ProstateX-0001")
    seconds = time.process_time() - start
    labels = {c.role: c.label for c in study.choices}
    assert labels["t2w"] == "series 10 (t2_tse_tra)"
    assert labels["adc"] == "series 8 (ep2d_diff_tra_DYNDIST_MIX_ADC)"
    # The scanner wrote 1000, and the voxels agree (see below), although the data set's description says b1400.
    assert labels["hbv"] == "series 9, calculated b1000"
    assert study.headers["hbv"].b_values == (50.0, 400.0, 800.0)
    assert study.orthogonal_t2w == ("series 4, sagittal (t2_tse_sag)",)
    assert (study.headers["t2w"].field_strength_t, study.headers["t2w"].te_ms) == (3.0, 104.0)
    assert check_geometry(study).coverage == {"adc": 1.0, "hbv": 1.0}
    assert seconds < 3, "about half a second on two idle cores"


def test_the_calculated_image_is_the_b_value_of_its_header(real_data: Path):
    """Mono-exponential decay from the acquired b800 by the ADC predicts the calculated image at b1000, not b1400."""
    folder = real_data / "dicom" / "ProstateX-0001"
    study = read_study(folder)
    b800 = read_study(folder, series={"hbv": "7:800"}).hbv.array.astype(float)
    adc, high = study.adc.array * 1e-6, study.hbv.array.astype(float)
    tissue = (adc > 0.6e-3) & (adc < 2.2e-3) & (high > 15) & (b800 > 20)
    implied = 800 + np.log(b800[tissue] / high[tissue]) / adc[tissue]
    assert np.median(implied) == pytest.approx(1000, abs=60)


def test_dicom_and_nifti_of_one_patient_agree(real_data: Path):
    dicom = read_study(real_data / "dicom" / "ProstateX-0001")
    nifti = read_study(real_data / "bpmri" / "ProstateX-0001")
    for role in ("t2w", "adc", "hbv"):
        one, other = dicom.volume(role), nifti.volume(role)
        assert isinstance(one, Volume)
        assert one.geometry.almost_equal(other.geometry, 1e-3), role
        if role != "t2w":  # the NIfTI's T2W is another acquisition on the same grid, moved by about a millimetre
            np.testing.assert_array_equal(one.array, other.array)
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(
        str(next((real_data / "dicom" / "ProstateX-0001").glob("10.*")))
    )
    np.testing.assert_array_equal(dicom.t2w.array, sitk.GetArrayFromImage(sitk.ReadImage(files)))
    b800 = read_study(real_data / "dicom" / "ProstateX-0001", series={"hbv": "7:b800"})
    file = read_study(hbv=real_data / "bpmri" / "ProstateX-0001" / "dwi_b0800.nii.gz")
    np.testing.assert_array_equal(b800.hbv.array, file.hbv.array)
    assert file.headers["hbv"].b_value == 800
