"""The sample study: the same bytes every time, one study in two forms, and images that show what was drawn."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from scipy import ndimage

from MedRationaleLogic.imaging import measure, quality
from MedRationaleLogic.imaging.study import Study, read_study
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.model.grids import GridSpec
from MedRationaleLogic.simulation import labels
from MedRationaleLogic.simulation import sample as sample_module
from MedRationaleLogic.simulation.sample import (
    CALCULATED_B,
    CENTER,
    Sample,
    SampleError,
    SampleFiles,
    make_sample,
    sample_bank,
    sample_regions,
    sample_scene,
    write_sample,
)
from MedRationaleLogic.simulation.study import render_diffusion, render_t2w


@pytest.fixture(scope="module")
def made() -> Sample:
    return make_sample()


@pytest.fixture(scope="module")
def written(made: Sample, tmp_path_factory: pytest.TempPathFactory) -> SampleFiles:
    return write_sample(tmp_path_factory.mktemp("sample") / "first", made)


@pytest.fixture(scope="module")
def study(written: SampleFiles) -> Study:
    return read_study(written.dicom)


@pytest.fixture(scope="module")
def small(made: Sample) -> Sample:
    """The first slices of everything: for tests of writing, not of images."""

    def cut(volume: Volume) -> Volume:
        array = volume.array[:2, :16, :16]
        return Volume(array, replace(volume.geometry, shape=array.shape), volume.name)

    pictures = {b: cut(v) for b, v in made.diffusion.items()}
    axial = [cut(v) for v in (made.t2w, made.t2w_sagittal, made.adc)]
    return Sample(axial[0], axial[1], axial[2], pictures, cut(made.zones), cut(made.regions), made.drawn)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------------------------------------------------------- gland


def test_the_gland_is_of_ordinary_size_and_shape() -> None:
    bank = sample_bank()
    assert bank.gland.shape == (1, *labels.SHAPE)
    assert bank.gland.dtype == bank.transition.dtype == np.int8
    assert bank.patients == ("",)
    gland, transition = bank.gland[0] < 0, bank.transition[0] < 0
    ml = float(np.prod(labels.SPACING)) / 1000
    assert 40 <= gland.sum() * ml <= 52
    assert 12 <= transition.sum() * ml <= 22
    assert not (transition & ~gland).any()
    # behind the TZ lies more PZ than in front of it: a crescent
    k, _, x = (n // 2 for n in labels.SHAPE)
    rows = np.flatnonzero(transition[k, :, x])
    column = gland[k, :, x]
    assert column[rows[-1] + 1 :].sum() >= 3
    assert column[: rows[0]].sum() < column[rows[-1] + 1 :].sum()
    # and it narrows to the apex
    widths = gland.any(1).sum(-1)
    filled = np.flatnonzero(widths)
    assert widths[filled[1]] < widths[filled[-2]]


def test_distances_of_the_gland_are_millimetres() -> None:
    bank = sample_bank()
    k, y, x = (n // 2 for n in labels.SHAPE)
    along = bank.gland[0][k, y, x:].astype(float) * labels.STEP_MM
    inside = along[(along > -8) & (along < 8)]
    assert np.diff(inside) == pytest.approx(labels.SPACING[2], rel=0.25)


def test_what_was_drawn_scores_as_meant() -> None:
    suspicious, nodule = sample_regions()
    assert (suspicious.t2w_score, suspicious.dwi_score, suspicious.category) == (4, 4, 4)
    assert nodule.category <= 2


def test_regions_lie_where_they_are_said_to_lie(made: Sample) -> None:
    sectors = measure.sector_map(made.zones)
    focus = Volume(made.regions.array == 1, made.regions.geometry)
    lesion = measure.measure_lesion(
        focus, made.zones, measuring_grid=made.adc.geometry, measured_on="ADC", sectors=sectors
    )
    assert lesion.zone_shares["PZ"] > 0.95
    assert lesion.sectors[0][0] == "PZpl-mid-L"
    assert 10 <= lesion.in_plane.mm < 15
    nodule = Volume(made.regions.array == 2, made.regions.geometry)
    assert measure.zone_shares(nodule, made.zones)["TZ"] > 0.95
    where = made.regions.geometry.to_patient(np.argwhere(made.regions.array == 2)).mean(0)
    assert where[0] < CENTER[0]  # the patient's right


def test_the_record_tells_the_truth(made: Sample) -> None:
    record = made.truth()
    assert record["format"] == "medrationale-sample"
    assert 40 <= record["gland_ml"] <= 52
    first = record["regions"][0]
    point = made.regions.geometry.to_index(first["center_lps_mm"])
    assert made.regions.array[tuple(np.round(point).astype(int))] == 1
    inside = made.regions.geometry.to_patient(np.argwhere(made.regions.array == 1))
    assert np.abs(inside.mean(0) - first["center_lps_mm"]).max() < 2.5


# --------------------------------------------------------------------------------------------------------------- images


def median(volume: Volume | None, where: Volume | NDArray[np.bool_]) -> float:
    assert volume is not None
    if isinstance(where, Volume):
        where = where.resample(volume.geometry, nearest=True).array.astype(bool)
    return float(np.median(volume.array[where]))


def test_images_show_what_was_drawn(made: Sample, study: Study) -> None:
    zones, regions = made.zones.array, made.regions.array

    def mask(array: NDArray[np.bool_]) -> Volume:
        return Volume(array, made.zones.geometry)

    rest = regions == 0
    pz, tz, focus = mask((zones == 1) & rest), mask((zones == 2) & rest), mask(regions == 1)
    assert median(study.t2w, tz) < 0.75 * median(study.t2w, pz)
    assert median(study.t2w, focus) < 0.75 * median(study.t2w, pz)
    assert median(study.adc, focus) < 0.65 * median(study.adc, pz)
    assert median(study.hbv, focus) > 1.8 * median(study.hbv, pz)
    assert 1100 <= median(study.adc, pz) <= 1900  # 1e-6 mm2/s: of the order of real ones
    # the nodule is brighter than its zone, within a dark capsule
    nodule = regions == 2
    inner = ndimage.binary_erosion(nodule, np.ones((1, 9, 9), bool))
    rim = nodule & ~ndimage.binary_erosion(nodule, np.ones((1, 3, 3), bool))
    assert median(study.t2w, mask(inner)) > 1.3 * median(study.t2w, tz)
    assert median(study.t2w, mask(rim)) < 0.8 * median(study.t2w, mask(inner))


def test_diffusion_images_belong_together(made: Sample) -> None:
    gland = Volume(made.zones.array > 0, made.zones.geometry)
    levels = [median(made.diffusion[b], gland) for b in sorted(made.diffusion)]
    assert levels == sorted(levels, reverse=True)
    # a fall from b50 to b800 that the ADC map explains
    fall = np.log(levels[0] / levels[2]) / 750 * 1e6
    assert fall == pytest.approx(median(made.adc, gland), rel=0.2)


def test_sagittal_shows_the_same_place(made: Sample) -> None:
    grid = made.t2w_sagittal.geometry
    x, y, z = CENTER

    def at(*point: float) -> float:
        k, j, i = np.round(grid.to_index(point)).astype(int)
        return float(np.median(made.t2w_sagittal.array[k, j - 1 : j + 2, i - 1 : i + 2]))

    lumen = at(x + 1.5, y + 33, z)  # air, 33 mm behind the gland's centre
    bladder = at(x, y - 10, z + 45)
    assert lumen < 0.5 * at(x, y + 12, z)
    assert bladder > at(x, y + 12, z) > lumen
    assert np.allclose(np.linalg.det(np.asarray(grid.direction).reshape(3, 3)), 1.0)


# -------------------------------------------------------------------------------------------------------------- writing


def test_same_bytes_every_time(written: SampleFiles, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))  # another number than the first time
    try:
        again = write_sample(tmp_path / "again")  # made anew
        assert torch.get_num_threads() == 3 - min(threads, 2)
    finally:
        torch.set_num_threads(threads)
    first, second = contents(written.folder), contents(again.folder)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert len([n for n in first if n.endswith(".dcm")]) == 20 + 24 * 6


def test_both_forms_are_one_study(made: Sample, written: SampleFiles, study: Study) -> None:
    files = read_study(written.nifti)
    assert study.roles == files.roles == ("t2w", "adc", "hbv")
    for role, source in (("t2w", made.t2w), ("adc", made.adc), ("hbv", made.hbv)):
        a, b = study.volume(role), files.volume(role)
        assert a is not None
        assert b is not None
        assert a.geometry.almost_equal(b.geometry, 1e-3)
        assert a.geometry.almost_equal(source.geometry, 1e-3)
        assert np.array_equal(a.array, b.array)
        assert np.array_equal(a.array, source.array)
    assert study.notes == files.notes == ()


def test_dicom_is_read_as_meant(study: Study) -> None:
    assert [str(c).split(" (")[0] for c in study.choices] == [
        "T2W: series 2",
        "ADC: series 4",
        "high-b: series 5, calculated b1400; series 3, acquired b800, series 3, acquired b400, series 3, acquired b50 "
        "available",
    ]
    assert len(study.orthogonal_t2w) == 1
    assert "sagittal" in study.orthogonal_t2w[0]
    assert [f.item for f in quality.check(study) if f.status == "below minimum"] == []


def test_truth_lies_on_the_t2w(made: Sample, written: SampleFiles) -> None:
    for name, volume in (("zones", made.zones), ("regions", made.regions)):
        read = Volume.from_sitk(sitk.ReadImage(str(written.truth / f"{name}.nii.gz")))
        assert np.array_equal(read.array, volume.array)
        assert read.geometry.almost_equal(made.t2w.geometry, 1e-3)
    assert json.loads((written.folder / "sample.json").read_text()) == made.truth()


def test_dicom_says_that_it_is_simulated(written: SampleFiles) -> None:
    headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in written.dicom.rglob("*.dcm")]
    assert {str(h.PatientName) for h in headers} == {"SAMPLE^SIMULATED"}
    assert all("SIMULATED" in h.SeriesDescription and "imulated" in h.DerivationDescription for h in headers)
    assert all(h.ImageType[0] == "DERIVED" for h in headers)
    assert len({h.SOPInstanceUID for h in headers}) == len(headers)
    assert len({h.SeriesInstanceUID for h in headers}) == 5
    assert len({h.StudyInstanceUID for h in headers}) == 1
    for uid in {u for h in headers for u in (h.SOPInstanceUID, h.SeriesInstanceUID, h.StudyInstanceUID)}:
        assert uid.is_valid
        prefix, _, rest = uid.rpartition(".")
        assert prefix == "2.25"
        assert uuid.UUID(int=int(rest)).version == 5
    b_values = {h.SeriesNumber: h.get("DiffusionBValue") for h in headers}
    assert b_values[5] == CALCULATED_B
    assert b_values[2] is None


def test_uids_follow_the_voxels(small: Sample, tmp_path: Path) -> None:
    array = small.adc.array.copy()
    array[0, 0, 0] += 1
    changed = replace(small, adc=small.adc.with_array(array))
    name = "series002/image0001.dcm"
    written = [write_sample(tmp_path / str(i), s) for i, s in enumerate((small, changed))]
    a, b = (pydicom.dcmread(f.dicom / name, stop_before_pixels=True) for f in written)
    assert a.StudyInstanceUID != b.StudyInstanceUID
    assert a.SOPInstanceUID != b.SOPInstanceUID


def test_an_earlier_sample_is_replaced(small: Sample, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "sample"
    before = contents(write_sample(folder, small).folder)
    (folder / "dicom" / "series002" / "image0001.dcm").unlink()
    assert contents(write_sample(folder, small).folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["sample"]


@pytest.mark.parametrize(
    ("place", "says"), [("full", "not empty"), ("full/note.txt", "is a file"), ("grown", "also mine.txt")]
)
def test_foreign_files_are_never_lost(small: Sample, tmp_path: Path, place: str, says: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    if place == "grown":
        write_sample(tmp_path / "grown", small)
        (tmp_path / "grown" / "mine.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(SampleError, match=says):
        write_sample(tmp_path / place, small)
    assert contents(tmp_path) == before


def test_nothing_is_left_when_writing_fails(small: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(folder: Path, volumes: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample_module, "_write_images", full_disk)
    with pytest.raises(SampleError, match="No space left"):
        write_sample(tmp_path / "sample", small)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------ rendering


def test_rendering_follows_the_seed_on_any_grid() -> None:
    scene = sample_scene()
    spec = GridSpec((6, 40, 40), (6.0, 2.0, 2.0))
    first, zones = render_t2w(scene, 9, spec)
    again, _ = render_t2w(scene, 9, spec)
    other, same_zones = render_t2w(scene, 10, spec)
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    assert torch.equal(zones, same_zones)  # the anatomy is the scene's, whatever the seed


def test_another_b_value_is_the_same_acquisition() -> None:
    scene = sample_scene()
    spec = GridSpec((6, 40, 40), (6.0, 2.0, 2.0))
    adc, shown = render_diffusion(scene, 12, spec, (50.0, 1400.0))
    alone, only = render_diffusion(scene, 12, spec, (1400.0,))
    assert torch.equal(adc.image, alone.image)
    assert torch.equal(shown[1400.0].image, only[1400.0].image)
    assert float(shown[50.0].image.median()) > float(shown[1400.0].image.median())
    with pytest.raises(ValueError, match="b-value"):
        render_diffusion(scene, 12, spec, ())
