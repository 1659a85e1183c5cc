"""Every row of docs/bad-input.md: what is wrong, and what the user is told."""

from __future__ import annotations

import gzip
import re
import shutil
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import JPEGLSLossless, generate_uid

from MedRationaleLogic.imaging.acquisition import AcquisitionHeader
from MedRationaleLogic.imaging.study import StudyError, read_study, study_from_volumes
from MedRationaleLogic.imaging.volume import Volume
from Testing.dicom_factory import CT_IMAGE, OBLIQUE, DicomStudy, anatomy, put_pixels


@pytest.fixture
def study(tmp_path: Path) -> DicomStudy:
    return DicomStudy(tmp_path / "study")


def write(path: Path, array: np.ndarray, spacing=(1.0, 1.0, 3.0), origin=(0.0, 0.0, 0.0)) -> Path:
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing(spacing[: image.GetDimension()] + (1.0,) * (image.GetDimension() - 3))
    image.SetOrigin(origin[: image.GetDimension()] + (0.0,) * (image.GetDimension() - 3))
    sitk.WriteImage(image, str(path))
    return path


def t2w_array() -> np.ndarray:
    return anatomy((6, 80, 80), 300)


def refused(*said: str, **inputs) -> None:
    """Reading raises a StudyError whose text has every part, and no C++ or Python jargon."""
    path = inputs.pop("path", None)
    with pytest.raises(StudyError) as error:
        read_study(path, **inputs)
    text = str(error.value)
    for part in said:
        assert part in text, text
    assert not re.search(r"Traceback|itk::|sitk::|\.cxx|0x[0-9a-f]{6}", text), text
    assert str(Path(path or next(iter(inputs.values()))).parent) not in text, "messages name the file, not its folder"


def edit(path: Path, **values) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


# -- nothing to read --------------------------------------------------------------------------------------------------


def test_nothing_given():
    with pytest.raises(StudyError, match="nothing to read: give a study folder"):
        read_study()


def test_missing_path(tmp_path: Path):
    refused("nowhere", "no such file or folder", path=tmp_path / "nowhere")
    refused("t2w.nii.gz", "no such file", t2w=tmp_path / "t2w.nii.gz")


def test_empty_folder(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    refused("empty: no study found", "the folder is empty", "Give a DICOM folder", path=tmp_path / "empty")


def test_folder_of_junk(tmp_path: Path):
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "readme.txt").write_text("hello")
    (tmp_path / "junk" / "scan").write_bytes(b"\0" * 500)
    refused("2 files, none of them DICOM or an image", path=tmp_path / "junk")


def test_file_that_is_no_study(tmp_path: Path):
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4")
    refused("report.pdf: not a study", "folder that holds the DICOM", path=tmp_path / "report.pdf")
    refused("report.pdf", "not an image format", t2w=tmp_path / "report.pdf")


def test_names_without_role(tmp_path: Path):
    write(tmp_path / "scan1.nii.gz", t2w_array())
    refused("names tell no role (scan1.nii.gz)", "t2w.nii.gz", path=tmp_path)
    refused("scan1.nii.gz", "does not tell the sequence", path=tmp_path / "scan1.nii.gz")


def test_no_usable_series(study: DicomStudy):
    study.localizer()
    study.t2w_sagittal()
    refused(
        "no axial T2W or axial ADC or axial high-b series",
        "series 1 't2_haste_3 planes' (localizer, 9 images)",
        "series 3 't2_tse_sag' (sagittal T2W, 8 images)",
        path=study.folder,
    )


# -- more than one study ----------------------------------------------------------------------------------------------


def test_two_patients(study: DicomStudy):
    study.t2w()
    DicomStudy(study.folder, patient="SOMEBODY-ELSE").t2w(number=14)
    with pytest.raises(StudyError, match="images of 2 patients") as error:
        read_study(study.folder)
    assert "SOMEBODY" not in str(error.value)
    assert study.patient not in str(error.value)


@pytest.mark.parametrize(("keyword", "noun"), [("PatientID", "patient"), ("StudyInstanceUID", "study")])
def test_images_without_identity(study: DicomStudy, keyword: str, noun: str):
    study.t2w()
    study.adc(tags={keyword: ""})
    result = read_study(study.folder)
    assert result.roles == ("t2w", "adc")
    assert (result.patient_id, result.study_uid) == (study.patient, study.study_uid)
    assert result.notes == (f"10 images without {keyword}: taken for the same {noun} as the others",)
    DicomStudy(study.folder, patient="SOMEBODY-ELSE").t2w(number=14)
    refused("images of 2", path=study.folder)


def test_two_studies(study: DicomStudy):
    study.t2w()
    DicomStudy(study.folder).t2w(number=14)
    refused("images of 2 studies", path=study.folder)


def test_two_cases_of_image_files(tmp_path: Path):
    for case in ("10001_1000001", "10002_1000002"):
        write(tmp_path / f"{case}_t2w.mha", t2w_array())
    refused("images of 2 cases", path=tmp_path)


def test_inputs_of_two_patients_by_role(tmp_path: Path):
    DicomStudy(tmp_path / "a").t2w()
    DicomStudy(tmp_path / "b", patient="OTHER").adc()
    refused("different patients", t2w=tmp_path / "a", adc=tmp_path / "b")


# -- not a prostate MRI -----------------------------------------------------------------------------------------------


def test_ct_dicom(study: DicomStudy):
    study.t2w(tags={"Modality": "CT", "SOPClassUID": CT_IMAGE})
    refused("10 DICOM files of modality CT and no MR image", path=study.folder)


def test_ct_values(tmp_path: Path):
    array = t2w_array().astype(np.int16)
    array[array == 0] = -1000
    refused("t2w.nii.gz", "as in a CT", t2w=write(tmp_path / "t2w.nii.gz", array))


def test_sagittal_given_as_t2w(tmp_path: Path):
    image = sitk.GetImageFromArray(t2w_array())
    image.SetSpacing((1.0, 1.0, 3.0))
    image.SetDirection((0, 0, 1, 1, 0, 0, 0, -1, 0))
    sitk.WriteImage(image, str(tmp_path / "sag.nii.gz"))
    refused("sag.nii.gz: a sagittal series; T2W must be axial", t2w=tmp_path / "sag.nii.gz")


def test_adc_of_unknown_unit(tmp_path: Path):
    array = (anatomy((6, 80, 80), 1200) / 50).astype(np.float32)
    refused("adc.nii.gz", "do not look like an ADC map", adc=write(tmp_path / "adc.nii.gz", array))


def test_adc_of_another_unit(tmp_path: Path):
    array = (anatomy((6, 80, 80), 1200) / 1000).astype(np.float32)
    result = read_study(adc=write(tmp_path / "adc.nii.gz", array))
    assert result.adc is not None
    np.testing.assert_allclose(result.adc.array, array * 1000, rtol=1e-6)
    assert any("stored in 1e-3 mm2/s, recognised by its range" in note for note in result.notes)


# -- broken image files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t2w.nii", "t2w.nii.gz", "t2w.mha", "t2w.nrrd"])
def test_text_named_as_image(tmp_path: Path, name: str):
    (tmp_path / name).write_text("this is not an image\n" * 50)
    refused(name, "whatever its name says", t2w=tmp_path / name)


def test_file_of_no_bytes(tmp_path: Path):
    (tmp_path / "t2w.nii.gz").touch()
    refused("t2w.nii.gz: the file is empty", t2w=tmp_path / "t2w.nii.gz")


@pytest.mark.parametrize("name", ["t2w.nii", "t2w.nii.gz", "t2w.mha", "t2w.nrrd"])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_truncated_image_file(tmp_path: Path, name: str, share: float):
    path = write(tmp_path / name, t2w_array())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(name, "cut off", t2w=path)


def test_truncated_after_zipping(tmp_path: Path):
    whole = write(tmp_path / "whole.nii", t2w_array()).read_bytes()
    path = tmp_path / "t2w.nii.gz"
    path.write_bytes(gzip.compress(whole[: len(whole) // 2]))  # a sound gzip of half an image
    refused("t2w.nii.gz", "cut off", t2w=path)


def test_header_without_data_file(tmp_path: Path):
    write(tmp_path / "t2w.mhd", t2w_array())
    (tmp_path / "t2w.raw").unlink()
    refused("t2w.mhd", "missing", t2w=tmp_path / "t2w.mhd")


def test_two_dimensional(tmp_path: Path):
    refused("a.nii.gz: a 2D image", t2w=write(tmp_path / "a.nii.gz", t2w_array()[0]))
    refused("b.nii.gz: a 2D image", t2w=write(tmp_path / "b.nii.gz", t2w_array()[:1]))


def test_four_dimensional_without_b_values(tmp_path: Path):
    series = np.stack([t2w_array(), t2w_array()])
    refused("dwi.nii.gz: 2 volumes in one file (4D)", "dwi.bval", hbv=write(tmp_path / "dwi.nii.gz", series))
    refused("t2.nii.gz: 2 volumes in one file (4D) for T2W", t2w=write(tmp_path / "t2.nii.gz", series))


def test_b_value_file_that_does_not_fit(tmp_path: Path):
    path = write(tmp_path / "dwi.nii.gz", np.stack([t2w_array(), t2w_array()]))
    (tmp_path / "dwi.bval").write_text("0 500 1400\n")
    refused("2 volumes but 3 values in dwi.bval", hbv=path)
    for text in ("low high\n", "0 nan\n", "inf 1400\n"):
        (tmp_path / "dwi.bval").write_text(text)
        refused("dwi.bval: not a list of numbers", hbv=path)


@pytest.mark.parametrize(("b_values", "found"), [("0 400 50", "b0, b50, b400"), ("0 0 0", "b0")])
def test_four_dimensional_of_low_b_values(tmp_path: Path, b_values: str, found: str):
    write(tmp_path / "t2w.nii.gz", t2w_array())
    path = write(tmp_path / "dwi.nii.gz", np.stack([t2w_array()] * 3))
    (tmp_path / "dwi.bval").write_text(b_values)
    for inputs in ({"path": tmp_path}, {"hbv": path}):
        refused(f"dwi.nii.gz: no high-b image among {found};", "b1400 or more", "b500 the least", "give", **inputs)


def test_low_b_value_given_as_high_b(tmp_path: Path):
    """Found by itself it would never be offered; a caller who names it has mistaken one file for another."""
    path = write(tmp_path / "dwi_b50.nii.gz", t2w_array())
    refused("dwi_b50.nii.gz: b50 shows perfusion", "b1400 or more (b500 the least)", "without it", hbv=path)
    volume = Volume.from_sitk(sitk.ReadImage(str(path)), "dwi")
    header = AcquisitionHeader(role="hbv", b_value=499.0)
    with pytest.raises(StudyError, match="dwi: b499 shows perfusion"):
        study_from_volumes("case", {"hbv": volume}, headers={"hbv": header})
    least = study_from_volumes("case", {"hbv": volume}, headers={"hbv": replace(header, b_value=500.0)})
    assert "high-b: b500 is below the 1400 s/mm2 that PI-RADS v2.1 asks for" in least.notes


def test_colour_image(tmp_path: Path):
    image = sitk.GetImageFromArray(np.zeros((4, 16, 16, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "t2w.nrrd"))
    refused("t2w.nrrd: 3 components per voxel", t2w=tmp_path / "t2w.nrrd")


def test_complex_image(tmp_path: Path):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 16, 16), np.complex64)), str(tmp_path / "t2w.nii"))
    refused("t2w.nii: complex values", t2w=tmp_path / "t2w.nii")


def test_sheared_axes(tmp_path: Path):
    path = write(tmp_path / "t2w.nii", t2w_array())
    content = bytearray(path.read_bytes())
    content[252:256] = struct.pack("<2h", 0, 1)  # qform unknown, sform by the scanner
    content[280:328] = struct.pack("<12f", 1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 3, 0)
    path.write_bytes(bytes(content))
    refused("t2w.nii: its axes are not at right angles", t2w=path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("at", "qform", "sform"),
    [(84, 1, 1), (256, 1, 0), (268, 1, 0), (280, 0, 1), (292, 0, 1), (292, 1, 1)],
    ids=["spacing", "quaternion", "origin of qform", "axis of sform", "origin of sform", "origin of one of two"],
)
def test_place_that_is_not_finite(tmp_path: Path, at: int, qform: int, sform: int, value: float):
    content = bytearray(write(tmp_path / "t2w.nii", t2w_array()).read_bytes())
    content[252:256] = struct.pack("<2h", qform, sform)
    content[at : at + 4] = struct.pack("<f", value)
    for name, packed in (("t2w.nii", bytes(content)), ("t2w.nii.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(packed)
        refused(f"{name}: the header has NaN or infinite numbers", "origin", "convert it again", t2w=tmp_path / name)


@pytest.mark.parametrize("name", ["t2w.nii", "t2w.nii.gz"])
@pytest.mark.parametrize(
    ("code", "bits", "offset", "said"),
    [
        (16, 32, -400.0, "header is damaged: voxels of 32 bits from byte -400 on"),
        (4, 16, -400.0, "header is damaged: voxels of 16 bits from byte -400 on"),
        (16, 32, 1e30, "the file is cut off"),
        (16, 8, 352.0, "header is damaged: voxels of 8 bits from byte 352 on, where 32 bits"),
        (4, 8, 352.0, "header is damaged: voxels of 8 bits from byte 352 on, where 16 bits"),
    ],
)
def test_damaged_nifti_header(tmp_path: Path, name: str, code: int, bits: int, offset: float, said: str):
    array = t2w_array().astype(np.float32 if code == 16 else np.int16)
    content = bytearray(write(tmp_path / "whole.nii", array).read_bytes())
    content[70:74] = struct.pack("<2h", code, bits)
    content[108:112] = struct.pack("<f", offset)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else bytes(content))
    refused(name, said, "again", t2w=tmp_path / name)


@pytest.mark.parametrize("size", [32767, 1])
def test_nifti_header_of_a_huge_image(tmp_path: Path, size: int):
    content = bytearray(write(tmp_path / "t2w.nii", t2w_array().astype(np.float32)).read_bytes())
    content[40:56] = struct.pack("<8h", 7, *[32767] * 6, size)  # more bytes than 64 bits can count
    (tmp_path / "t2w.nii").write_bytes(bytes(content))
    refused("t2w.nii: the file is cut off", "copy or download it again", t2w=tmp_path / "t2w.nii")


def test_absurd_voxel_size(tmp_path: Path):
    path = write(tmp_path / "t2w.nii.gz", t2w_array(), spacing=(0.0005, 0.0005, 0.003))
    refused("is the unit millimetres?", t2w=path)


def test_few_nan(tmp_path: Path):
    array = anatomy((6, 80, 80), 1200).astype(np.float32)
    array[2, 40, 40:43] = np.nan
    array[3, 10, 40] = np.inf
    result = read_study(adc=write(tmp_path / "adc.nii.gz", array))
    assert result.adc is not None
    assert np.isfinite(result.adc.array).all()
    assert result.adc.array[2, 40, 40] == array[2, 40, 39], "the nearest finite neighbour, not zero"
    assert any("4 voxels NaN or infinite, replaced" in note for note in result.notes)


def test_many_nan(tmp_path: Path):
    array = t2w_array().astype(np.float32)
    array[:, :20] = np.nan
    refused("t2w.nii.gz", "25.0% of the voxels are NaN", t2w=write(tmp_path / "t2w.nii.gz", array))


@pytest.mark.parametrize("role", ["t2w", "adc", "hbv"])
def test_constant_image(tmp_path: Path, role: str):
    path = write(tmp_path / "flat.nii.gz", np.full((6, 80, 80), 7, np.int16))
    refused("flat.nii.gz", "every voxel is 7", **{role: path})


# -- broken DICOM -----------------------------------------------------------------------------------------------------


def test_truncated_dicom_pixels(study: DicomStudy):
    paths = study.t2w()
    content = paths[4].read_bytes()
    paths[4].write_bytes(content[:-700])
    refused("IM0005.dcm: the pixel data is cut off", path=study.folder)


@pytest.mark.parametrize("size", [140, 400])
def test_truncated_dicom_header(study: DicomStudy, size: int):
    paths = study.t2w()
    paths[4].write_bytes(paths[4].read_bytes()[:size])
    refused("IM0005.dcm: the DICOM file", "copy or export it again", path=study.folder)


def test_missing_slice(study: DicomStudy):
    paths = study.t2w()
    paths[3].unlink()
    refused("series 4 (t2_tse_tra): 1 slice missing between 4.5 and 10.5 mm", "3.00 mm", path=study.folder)


def test_missing_slice_of_one_b_value(study: DicomStudy):
    study.dwi(b_values=(50, 1500))[14].unlink()
    refused("series 7, acquired b1500: 1 slice missing", path=study.folder)


def test_duplicate_slice(study: DicomStudy):
    paths = study.t2w()
    shutil.copy(paths[3], paths[3].with_name("copy_same_object.dcm"))
    shutil.copy(paths[5], paths[5].with_name("copy_new_object.dcm"))
    edit(paths[5].with_name("copy_new_object.dcm"), SOPInstanceUID=generate_uid(), InstanceNumber=99)
    result = read_study(study.folder)
    assert result.t2w is not None
    assert result.t2w.array.shape == (10, 48, 40)
    assert any("1 duplicate slice dropped" in note for note in result.notes)
    assert any("1 DICOM file whose image another file holds already" in note for note in result.notes)


def test_two_images_at_one_position(study: DicomStudy):
    paths = study.t2w()
    edit(paths[3], ImagePositionPatient=pydicom.dcmread(paths[4]).ImagePositionPatient)
    edit(paths[5], ImagePositionPatient=pydicom.dcmread(paths[4]).ImagePositionPatient)
    refused("series 4", "two different images lie at position", "IM0004.dcm", path=study.folder)


def test_tilted_slice(study: DicomStudy):
    paths = study.t2w()
    edit(paths[3], ImageOrientationPatient=[*OBLIQUE[0], *OBLIQUE[1]])
    refused("IM0004.dcm is tilted against the other slices", path=study.folder)


def test_slice_of_another_matrix(study: DicomStudy):
    paths = study.t2w()
    dataset = pydicom.dcmread(paths[3])
    put_pixels(dataset, anatomy((2, 30, 30), 100)[0])
    dataset.save_as(paths[3])
    refused("IM0004.dcm has another matrix or pixel size", path=study.folder)


def test_uneven_slices(study: DicomStudy):
    paths = study.t2w()
    x, y, z = pydicom.dcmread(paths[3]).ImagePositionPatient
    edit(paths[3], ImagePositionPatient=[x, y, z + 1])
    refused("slices are unevenly spaced (2.00 to 4.00 mm)", path=study.folder)


def test_shifted_slice(study: DicomStudy):
    paths = study.t2w()
    x, y, z = pydicom.dcmread(paths[3]).ImagePositionPatient
    edit(paths[3], ImagePositionPatient=[x + 5, y, z])
    refused("slices do not lie straight above each other", path=study.folder)


def test_slices_without_position(study: DicomStudy):
    study.t2w(tags={"ImagePositionPatient": None})
    refused("does not say where it lies in the patient", path=study.folder, series={"t2w": "4"})


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient"])
def test_position_or_orientation_that_is_not_finite(study: DicomStudy, keyword: str, value: str):
    paths = study.t2w()
    paths[6].unlink()  # NaN in one slice hid that another was missing
    dataset = pydicom.dcmread(paths[3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset[keyword].value = [value, *dataset[keyword].value[1:]]
        dataset.save_as(paths[3])
    size = len(dataset[keyword].value)
    refused("IM0004.dcm", f"{keyword} of series 4 is not {size} finite numbers", "export", path=study.folder)


@pytest.mark.parametrize("value", ["inf", "nan", "0", "-1"])
def test_pixel_spacing_that_is_no_length(study: DicomStudy, value: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.t2w(tags=lambda index: {"PixelSpacing": [value, "2.5"] if index == 3 else ["2.5", "2.5"]})
    refused("series 4", "IM0004.dcm does not say where it lies", "finite pixel spacing above 0", path=study.folder)


@pytest.mark.parametrize("cosines", [(1, 0.01, 0, 0, 1, 0), (2, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0.9, 0)])
def test_axes_that_are_not_at_right_angles(study: DicomStudy, cosines: tuple[float, ...]):
    study.t2w(tags={"ImageOrientationPatient": list(cosines)})
    refused(
        "series 4 (t2_tse_tra): the row and column directions of IM0001.dcm are not unit vectors at right angles",
        "export the original series again",
        path=study.folder,
    )


@pytest.mark.parametrize("same", [True, False])
def test_empty_gradient_direction(study: DicomStudy, same: bool):
    uid, arrays = generate_uid(), [anatomy((6, 20, 20), 60, seed=0 if same else nth) for nth in range(2)]
    for nth, array in enumerate(arrays):
        tags = {"DiffusionBValue": 1500.0, "DiffusionGradientDirectionSequence": DicomSequence([])}
        study.series(7, "DWI", array, spacing=(3.0, 4.0, 4.0), uid=uid, first_instance=1 + 6 * nth, tags=tags)
    if same:
        result = read_study(study.folder)
        assert result.hbv is not None
        np.testing.assert_array_equal(result.hbv.array, arrays[0])
        assert any("6 duplicate slices dropped" in note for note in result.notes)
    else:
        refused("series 7", "two different images lie at position", "IM0007.dcm", path=study.folder)


def test_garbled_header_value(study: DicomStudy):
    path = study.t2w()[2]
    content = path.read_bytes()
    at = content.index(b"\x20\x00\x32\x00DS") + 8  # ImagePositionPatient
    path.write_bytes(content[:at] + b"x" + content[at + 1 :])
    refused("IM0003.dcm: a header value cannot be read", path=study.folder)
    at = content.index(b"\x28\x00\x30\x00DS") + 8  # PixelSpacing
    path.write_bytes(content[:at] + b"x" + content[at + 1 :])
    refused("series 4", "IM0003.dcm does not say where it lies", path=study.folder)


def test_single_slice(study: DicomStudy):
    for path in study.t2w()[1:]:
        path.unlink()
    refused("a single slice (IM0001.dcm) is not a volume", path=study.folder)


def test_undecodable_compression(study: DicomStudy):
    for path in study.t2w():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xf7" + b"\0" * 60])
        dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
        dataset.save_as(path)
    refused("IM0001.dcm: the pixels are compressed (JPEG-LS", "pylibjpeg", path=study.folder)


def test_frames_without_places(study: DicomStudy):
    path = study.t2w()[0]
    dataset = pydicom.dcmread(path)
    put_pixels(dataset, anatomy((3, 20, 20), 100))
    dataset.NumberOfFrames = 3
    dataset.save_as(path)
    refused("IM0001.dcm: 3 frames in one file without the functional groups", path=study.folder)


def test_junk_beside_dicom(study: DicomStudy):
    study.t2w()
    (study.folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 20)
    (study.folder / "notes.txt").write_text("hello")
    (study.folder / "viewer.exe").write_bytes(b"MZ" * 200)
    result = read_study(study.folder)
    assert "3 files neither DICOM nor an image: ignored" in result.notes


# -- sequences that do not belong together ----------------------------------------------------------------------------


def test_fields_of_view_apart(tmp_path: Path):
    t2w = write(tmp_path / "t2w.nii.gz", t2w_array())
    adc = write(tmp_path / "adc.nii.gz", anatomy((6, 80, 80), 1200), origin=(300.0, 0.0, 0.0))
    refused("ADC (adc.nii.gz) and T2W (t2w.nii.gz) do not show the same place: 0%", t2w=t2w, adc=adc)


def test_fields_of_view_overlap_in_part(tmp_path: Path):
    t2w = write(tmp_path / "t2w.nii.gz", t2w_array())
    adc = write(tmp_path / "adc.nii.gz", anatomy((6, 80, 80), 1200), origin=(38.0, 0.0, 0.0))
    result = read_study(t2w=t2w, adc=adc)
    assert any("overlap only in part: 53% of the central region" in note for note in result.notes)


def test_different_frames_of_reference(study: DicomStudy):
    study.t2w()
    study.adc(tags={"FrameOfReferenceUID": "1.2.3"})
    assert any("different frames of reference" in note for note in read_study(study.folder).notes)


def test_high_b_that_is_not_high(study: DicomStudy):
    study.dwi(b_values=(50, 800))
    result = read_study(study.folder)
    assert any("b800 is below the 1400" in note for note in result.notes)
    assert "below the 1400" in str(result.choices[0])


# -- wishes that cannot be met ----------------------------------------------------------------------------------------


def test_unknown_series(study: DicomStudy):
    study.t2w()
    study.dwi()
    refused("no series 77 for T2W. Found: series 4 't2_tse_tra'", path=study.folder, series={"t2w": "77"})
    refused("series 7 has no b-value b1400 (found: b50, b400, b800)", path=study.folder, series={"hbv": "7:b1400"})
    refused("'dce' is not a role", path=study.folder, series={"dce": "7"})


def test_ambiguous_series_number(study: DicomStudy):
    study.t2w(name="first")
    study.t2w(name="again")
    refused("series number 4 occurs more than once", path=study.folder, series={"t2w": "4"})


def test_series_without_dicom(tmp_path: Path):
    write(tmp_path / "t2w.nii.gz", t2w_array())
    refused("only from DICOM", path=tmp_path, series={"t2w": "4"})


@pytest.mark.parametrize("psa", [0.0, -3.0, float("nan"), float("inf")])
def test_impossible_psa(tmp_path: Path, psa: float):
    refused("PSA must be a positive number", t2w=write(tmp_path / "t2w.nii.gz", t2w_array()), psa=psa)


# -- the table itself -------------------------------------------------------------------------------------------------


def test_the_table_lists_every_test_of_this_file_and_no_other(repository: Path):
    table = (repository / "docs" / "bad-input.md").read_text(encoding="utf-8")
    listed = re.findall(r"`(test_\w+)` \|$", table, flags=re.MULTILINE)
    here = re.findall(r"^def (test_\w+)", Path(__file__).read_text(encoding="utf-8"), flags=re.MULTILINE)
    here.remove("test_the_table_lists_every_test_of_this_file_and_no_other")
    assert sorted(listed) == sorted(here)
