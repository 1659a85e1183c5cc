"""The sample study: one fixed simulated prostate MRI, as DICOM and as NIfTI, the same bytes every time.

Nothing of a patient is in it: the gland is a formula, its regions are placed by hand, and the images are made by the
project's own simulation on the grids that a scanner uses. So the truth is known, and anybody may pass it on.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.model.grids import GridSpec
from MedRationaleLogic.resources import put_folder
from MedRationaleLogic.simulation import labels
from MedRationaleLogic.simulation.regions import Region
from MedRationaleLogic.simulation.study import Scene, one_thread, render_diffusion, render_t2w

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

#: File at the top of a written sample: what it is and what was drawn.
RECORD: Final = "sample.json"
FORMAT: Final = "medrationale-sample"
#: b-values of the acquired diffusion images, and of the calculated one, s/mm2.
ACQUIRED_B: Final = (50.0, 400.0, 800.0)
CALCULATED_B: Final = 1400.0
#: Patient point (LPS, mm) of the gland's centre.
CENTER: Final = (2.0, -14.0, -30.0)

_T2W: Final = GridSpec((24, 384, 384), (3.0, 0.4, 0.4))
_SAGITTAL: Final = GridSpec((200, 200, 20), (0.8, 0.8, 3.0))
_DIFFUSION: Final = GridSpec((24, 100, 100), (3.0, 2.0, 2.0))
# Chosen by eye: a usual contrast, little noise, air in the rectum; a test holds what that means.
_SEEDS: Final = {"anatomy": 5, "t2w": 9, "sagittal": 1, "diffusion": 12}
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/medrationale/SlicerMedRationale/sample")
_ADVICE: Final = "give a new or empty folder"
_MR_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.4"


class SampleError(OSError):
    """The sample cannot be written where it was asked for; the text says why and what to do."""


@dataclass(frozen=True, eq=False)
class Sample:
    """The sample study and its truth.

    Attributes:
        t2w, t2w_sagittal: uint16, arbitrary units.
        adc: uint16, 1e-6 mm2/s.
        diffusion: b-value (s/mm2) -> uint16 image; all on the ADC's grid.
        zones: uint8 on the T2W's grid: 0 background, 1 PZ, 2 TZ.
        regions: uint8 on the T2W's grid: number i + 1 for ``drawn[i]``.
        drawn: what was drawn; 1 is the suspicious region, 2 a benign nodule.
    """

    t2w: Volume
    t2w_sagittal: Volume
    adc: Volume
    diffusion: Mapping[float, Volume]
    zones: Volume
    regions: Volume
    drawn: tuple[Region, ...]

    @property
    def hbv(self) -> Volume:
        """The high-b image."""
        return self.diffusion[CALCULATED_B]

    @cached_property
    def key(self) -> str:
        """What the UIDs are made from: other voxels, other UIDs."""
        volumes = (self.t2w, self.t2w_sagittal, self.adc, *self.diffusion.values())
        return "/".join(v.sha256 for v in volumes)

    def truth(self) -> dict[str, Any]:
        """What was drawn, as plain values for JSON; points are LPS millimetres."""
        voxel_ml = self.zones.geometry.voxel_volume / 1000.0
        return {
            "format": FORMAT,
            "notice": "Simulated: no patient. Research use only.",
            "gland_center_lps_mm": list(CENTER),
            "gland_ml": round(float((self.zones.array > 0).sum()) * voxel_ml, 2),
            "regions": [
                {
                    "number": number,
                    "kind": region.archetype,
                    "zone": region.zone,
                    "center_lps_mm": [round(c + d, 2) for c, d in zip(CENTER, region.center[::-1], strict=True)],
                    "diameter_mm": region.diameter_mm,
                    "volume_ml": round(float((self.regions.array == number).sum()) * voxel_ml, 3),
                    "values": dict(region.values),
                    "t2w_score": region.t2w_score,
                    "dwi_score": region.dwi_score,
                    "category": region.category,
                }
                for number, region in enumerate(self.drawn, 1)
            ],
        }


# ---------------------------------------------------------------------------------------------------------------------
# What is drawn


def sample_bank() -> labels.LabelBank:
    """One gland of about 45 mL with a TZ of about 20 mL, as signed distances; formulas only, no label map.

    The gland is a superellipsoid that narrows to the apex, with a shallow groove behind; the TZ is one in front of and
    above its middle, so that the PZ is the crescent that remains behind, beside and below it.
    """
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(labels.SHAPE, labels.SPACING, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    taper = 1.0 + 0.10 * np.clip(z / 21.0, -1.2, 0.5)  # narrower at the apex
    groove = 0.07 * np.exp(-((x / 8.0) ** 2)) * np.clip(y / 17.0, 0.0, 1.0)
    gland = _superellipsoid(z / 21.0, (y + 0.06 * z) / (18.0 * taper), x / (26.5 * taper), 2.3) - 1.0 + groove
    transition = _superellipsoid((z - 4.0) / 15.5, (y + 4.5) / 12.0, x / 18.0, 2.4) - 1.0
    gland_mm, transition_mm = _millimetres(gland), _millimetres(transition)
    # fibromuscular tissue in front keeps the TZ from touching the capsule
    transition_mm = np.maximum(transition_mm, gland_mm + 1.5)
    maps = [np.clip(np.round(d / labels.STEP_MM), -127, 127).astype(np.int8)[None] for d in (gland_mm, transition_mm)]
    return labels.LabelBank(maps[0], maps[1], ("",))


def _superellipsoid(
    z: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64], power: float
) -> NDArray[np.float64]:
    return (np.abs(z) ** power + np.abs(y) ** power + np.abs(x) ** power) ** (1.0 / power)


def _millimetres(level: NDArray[np.float64]) -> NDArray[np.float64]:
    """An implicit function turned into distances, to first order: its value over the size of its gradient."""
    slope = np.sqrt(sum(g**2 for g in np.gradient(level, *labels.SPACING)))
    return level / np.maximum(slope, 0.02)


def sample_regions() -> tuple[Region, Region]:
    """The suspicious region in the left posterolateral PZ at mid-gland, and an encapsulated TZ nodule on the right."""
    waves = torch.tensor([[0.35, 0.5, 0.7, 0.3, 0.1], [0.25, -0.4, 0.3, 0.8, 0.6]])
    suspicious = Region(
        archetype="suspicious focus", zone="PZ",
        values={
            "t2.pattern": "focal", "t2.signal": "moderate_hypo", "t2.texture": "homogeneous",
            "t2.margin": "circumscribed", "t2.shape": "round", "t2.capsule": "none",
            "adc.signal": "marked", "adc.pattern": "focal", "hbv.signal": "marked", "hbv.pattern": "focal",
        },
        center=(-1.0, 9.5, 15.5), radii=(5.5, 5.0, 6.5), angle=0.0, waves=waves, capsule_wave=(0.0, 0.5),
        levels=(0.48, 0.46, 3.2), diameter_mm=13.0,
    )  # fmt: skip
    nodule = Region(
        archetype="typical nodule", zone="TZ",
        values={
            "t2.pattern": "nodule", "t2.signal": "hyper", "t2.texture": "heterogeneous",
            "t2.margin": "circumscribed", "t2.shape": "round", "t2.capsule": "complete",
            "adc.signal": "normal", "adc.pattern": "none", "hbv.signal": "normal", "hbv.pattern": "none",
        },
        center=(0.5, -5.5, -9.0), radii=(7.0, 6.5, 7.0), angle=0.2, waves=0.8 * waves, capsule_wave=(0.0, 1.0),
        levels=(1.4, 1.0, 1.0), diameter_mm=14.0,
    )  # fmt: skip
    return suspicious, nodule


def sample_scene() -> Scene:
    """The anatomy of the sample: gland, an ordinary pelvis around it, two regions."""
    bank = sample_bank()
    gland = torch.from_numpy(bank.gland[0]).float() * labels.STEP_MM
    transition = torch.from_numpy(bank.transition[0]).float() * labels.STEP_MM
    pelvis = {
        "top": 21.0, "back": 17.5, "side": 27.0, "front": -18.0, "coil": 0.0,
        "rectum_r": 13.0, "rectum_x": 1.5, "rectum_gap": 2.5, "rectum_tilt": 0.15,
        "bladder_r": 28.0, "bladder_y": -10.0, "bladder_z": 2.0, "muscle_x": 35.0, "muscle_tilt": 0.15,
        "muscle_w": 16.0, "bone_y": -33.0, "bone_z": -8.0, "hip_x": 72.0, "levator": 30.0,
    }  # fmt: skip
    elastic = 0.7 * torch.randn((3, 7, 7, 7), generator=torch.Generator().manual_seed(_SEEDS["anatomy"]))
    return Scene(gland, transition, torch.eye(3), elastic, pelvis, list(sample_regions()))


def make_sample() -> Sample:
    """Draw and image the sample study; takes some seconds, and gives the same voxels every time."""
    scene = sample_scene()
    with one_thread():
        picture, zones = render_t2w(scene, _SEEDS["t2w"], _T2W)
        side, _ = render_t2w(scene, _SEEDS["sagittal"], _SAGITTAL)
        adc, diffusion = render_diffusion(scene, _SEEDS["diffusion"], _DIFFUSION, (*ACQUIRED_B, CALCULATED_B))
    t2w_grid, grid = _place(_T2W), _place(_DIFFUSION)
    return Sample(
        t2w=_volume(picture.image, 500.0, t2w_grid, "t2w"),
        t2w_sagittal=_sagittal(_volume(side.image, 500.0, _place(_SAGITTAL), "t2w_sag")),
        adc=_volume(adc.image, 1000.0, grid, "adc"),
        diffusion={b: _volume(p.image, 1000.0, grid, f"dwi_b{b:.0f}") for b, p in diffusion.items()},
        zones=Volume(zones.numpy(), t2w_grid, "zones"),
        regions=Volume(picture.regions.numpy(), t2w_grid, "regions"),
        drawn=tuple(scene.drawn),
    )


def _place(spec: GridSpec) -> Geometry:
    return Geometry(spec.shape, spec.spacing).centered_on(CENTER, spec.shape, spec.spacing)


def _volume(image: torch.Tensor, scale: float, grid: Geometry, name: str) -> Volume:
    return Volume(np.clip(np.round(image.numpy() * scale), 0, 4095).astype(np.uint16), grid, name)


def _sagittal(volume: Volume) -> Volume:
    """An axially ordered volume as sagittal slices from left to right: columns run to the back, rows down."""
    array = np.ascontiguousarray(volume.array[::-1, :, ::-1].transpose(2, 0, 1))
    z, y, x = volume.geometry.spacing
    nz, _, nx = volume.geometry.shape
    first = volume.geometry.to_patient((nz - 1, 0, nx - 1))
    # its columns: along a row (P), along a column (I), along the slices (R)
    direction = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    place = Geometry(array.shape, (x, z, y), (float(first[0]), float(first[1]), float(first[2])), direction)
    return Volume(array, place, volume.name)


# ---------------------------------------------------------------------------------------------------------------------
# Writing


@dataclass(frozen=True)
class SampleFiles:
    """Where a written sample lies.

    Attributes:
        folder: the whole of it, with :data:`RECORD`.
        dicom, nifti, truth: its parts; ``truth`` holds ``zones.nii.gz`` and ``regions.nii.gz`` on the T2W's grid.
    """

    folder: Path

    @property
    def dicom(self) -> Path:
        """One examination: T2W in two planes, acquired DWI, ADC, calculated high-b."""
        return self.folder / "dicom"

    @property
    def nifti(self) -> Path:
        """``t2w.nii.gz``, ``adc.nii.gz`` and ``hbv_b1400.nii.gz``: the same voxels in the same place."""
        return self.folder / "nifti"

    @property
    def truth(self) -> Path:
        """The drawn zones and regions."""
        return self.folder / "truth"


def write_sample(folder: Path, sample: Sample | None = None) -> SampleFiles:
    """Write the sample study into a folder: ``dicom/``, ``nifti/``, ``truth/`` and ``sample.json``.

    Everything is made beside the folder and put in place at the end. The bytes are the same every time, whatever the
    number of threads; another version of PyTorch or of zlib may give others.

    Args:
        folder: absent, empty, or a sample written before, which is replaced.
        sample: from :func:`make_sample`; made here if None.

    Raises:
        SampleError: the folder holds something else, or cannot be written.
    """
    if problem := _not_a_sample(folder):
        raise SampleError(problem)
    made = sample or make_sample()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".sample-") as scratch:
            place = SampleFiles(Path(scratch) / "sample")
            place.folder.mkdir()
            _write_dicom(made, place.dicom)
            _write_images(place.nifti, {"t2w": made.t2w, "adc": made.adc, f"hbv_b{CALCULATED_B:.0f}": made.hbv})
            _write_images(place.truth, {"zones": made.zones, "regions": made.regions})
            record = json.dumps(made.truth(), indent=2) + "\n"
            (place.folder / RECORD).write_bytes(record.encode())
            added = sorted(_files(folder) - _files(place.folder))
            if added:
                raise SampleError(f"{folder} holds a sample, but also {added[0]}, which would be lost; {_ADVICE}")
            put_folder(place.folder, folder)
    except SampleError:
        raise
    except OSError as error:
        raise SampleError(f"{folder}: the sample cannot be written ({error.strerror or error})") from error
    return SampleFiles(folder)


def _not_a_sample(folder: Path) -> str | None:
    """Why a folder may not be replaced, or None."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        return f"{folder} is a file; {_ADVICE}"
    if not _files(folder):
        return None
    try:
        if json.loads((folder / RECORD).read_text(encoding="utf-8"))["format"] == FORMAT:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return f"{folder} is not empty and holds no sample; {_ADVICE}"


def _files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def _write_images(folder: Path, volumes: Mapping[str, Volume]) -> None:
    import SimpleITK as sitk

    folder.mkdir()
    for name, volume in volumes.items():
        sitk.WriteImage(volume.to_sitk(), str(folder / f"{name}.nii.gz"))


@dataclass(frozen=True)
class _Series:
    """A series to be written: its volumes (one per b-value) and the attributes that tell it from the others."""

    number: int
    description: str
    image_type: tuple[str, ...]
    volumes: tuple[tuple[Volume, dict[str, Any]], ...]
    common: Mapping[str, Any] = field(default_factory=dict)


def _series(sample: Sample) -> Iterator[_Series]:
    # What a scanner would have been set to; nominal, as DerivationDescription says.
    spin_echo = {"ScanningSequence": "SE", "SequenceVariant": "SK", "RepetitionTime": 4500, "EchoTime": 104,
                 "EchoTrainLength": 20}  # fmt: skip
    planar = {"ScanningSequence": "EP", "SequenceVariant": "SK", "RepetitionTime": 4200, "EchoTime": 70,
              "EchoTrainLength": 60}  # fmt: skip
    made = ("DERIVED", "PRIMARY")
    yield _Series(1, "SIMULATED t2_tse_sag", (*made, "M"), ((sample.t2w_sagittal, {}),), spin_echo)
    yield _Series(2, "SIMULATED t2_tse_tra", (*made, "M"), ((sample.t2w, {}),), spin_echo)
    acquired = tuple((sample.diffusion[b], {"DiffusionBValue": b}) for b in ACQUIRED_B)
    yield _Series(3, "SIMULATED dwi_tra", (*made, "DIFFUSION", "TRACEW"), acquired, planar)
    name = f"SIMULATED dwi_tra ADC b{'_'.join(f'{b:.0f}' for b in ACQUIRED_B)}"
    yield _Series(4, name, (*made, "DIFFUSION", "ADC"), ((sample.adc, {}),), planar)
    high = ((sample.hbv, {"DiffusionBValue": CALCULATED_B}),)
    name = f"SIMULATED dwi_tra calculated b{CALCULATED_B:.0f}"
    yield _Series(5, name, (*made, "DIFFUSION", "CALCULATED"), high, planar)


def _write_dicom(sample: Sample, folder: Path) -> None:
    for series in _series(sample):
        place = folder / f"series{series.number:03d}"
        place.mkdir(parents=True)
        number = 0
        for volume, own in series.volumes:
            for k in range(volume.geometry.shape[0]):
                number += 1
                _slice(sample, series, volume, k, number, own).save_as(
                    place / f"image{number:04d}.dcm", enforce_file_format=True
                )


def _uid(sample: Sample, *names: object) -> str:
    """A UID under 2.25 (a UUID as a number, PS3.5 B.2) that says the same for the same voxels."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join([sample.key, *map(str, names)])).int}"


def _slice(sample: Sample, series: _Series, volume: Volume, k: int, number: int, own: Mapping[str, Any]) -> FileDataset:
    """One MR Image (PS3.3 A.4) with every mandatory attribute."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    grid = volume.geometry
    dz, dy, dx = grid.spacing
    axes = np.asarray(grid.direction).reshape(3, 3)
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = UID(_MR_IMAGE)
    meta.MediaStorageSOPInstanceUID = UID(_uid(sample, series.number, number))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # pydicom's own would change with its version
    meta.ImplementationClassUID = UID(f"2.25.{_NAMESPACE.int}")
    meta.ImplementationVersionName = "MEDRATIONALE"
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192", "ImageType": list(series.image_type),
        "SOPClassUID": _MR_IMAGE, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyDate": "20250101", "StudyTime": "120000", "AccessionNumber": "", "Modality": "MR",
        "Manufacturer": "MedRationale (simulated)", "ReferringPhysicianName": "",
        "StudyDescription": "SIMULATED prostate MRI, no patient", "SeriesDescription": series.description,
        "DerivationDescription": "Simulated from formulas; acquisition parameters are nominal",
        "PatientName": "SAMPLE^SIMULATED", "PatientID": "SAMPLE-SIMULATED", "PatientBirthDate": "", "PatientSex": "M",
        "PatientIdentityRemoved": "YES", "DeidentificationMethod": "simulated: there is no patient",
        "BodyPartExamined": "PROSTATE", "ScanOptions": "", "MRAcquisitionType": "2D", "MagneticFieldStrength": 3,
        **series.common, **own,
        "SliceThickness": _ds(dz), "SpacingBetweenSlices": _ds(dz), "PatientPosition": "HFS",
        "StudyInstanceUID": _uid(sample, "study"), "SeriesInstanceUID": _uid(sample, "series", series.number),
        "StudyID": "1", "SeriesNumber": series.number, "InstanceNumber": number,
        "ImagePositionPatient": [_ds(v) for v in grid.to_patient((k, 0, 0))],
        "ImageOrientationPatient": [_ds(v) for v in (*axes[:, 0], *axes[:, 1])],
        "FrameOfReferenceUID": _uid(sample, "frame"), "PositionReferenceIndicator": "", "Laterality": "",
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": grid.shape[1],
        "Columns": grid.shape[2], "PixelSpacing": [_ds(dy), _ds(dx)], "BitsAllocated": 16, "BitsStored": 12,
        "HighBit": 11, "PixelRepresentation": 0,
    }  # fmt: skip
    for keyword, value in values.items():
        setattr(image, keyword, value)
    image.PixelData = np.ascontiguousarray(volume.array[k], dtype="<u2").tobytes()
    return image


def _ds(value: float) -> str:
    """A decimal string without a float's last digits: ``-76.6``, not ``-76.60000000000001``."""
    return f"{round(float(value), 6) + 0.0:.10g}"
