"""Small synthetic DICOM studies for tests: real headers of several vendors, no patient.

    study = DicomStudy(tmp_path / "study", vendor="siemens")
    study.t2w()
    study.dwi(b_values=(50, 800))
    study.adc()

Every method writes one series into its own sub-folder and returns the paths in slice order. Nothing here is clever:
what a scanner writes is spelled out, so that a test can bend one attribute (``tags``) and see what the reader says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.1"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"

MANUFACTURERS = {"siemens": "SIEMENS", "ge": "GE MEDICAL SYSTEMS", "philips": "Philips", "plain": "ACME"}

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
OBLIQUE = ((0.9848078, 0.1736482, 0.0), (-0.1631759, 0.9254166, -0.3420201))  # 10 degrees about z, then 20 about x
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))

Tags = Mapping[str, Any] | Callable[[int], Mapping[str, Any]]


def anatomy(shape: tuple[int, int, int], level: float, seed: int = 0) -> NDArray[np.uint16]:
    """A body of brightness ``level`` with texture, background 0; shape (z, y, x); deterministic."""
    z, y, x = (np.linspace(-1, 1, n) for n in shape)
    body = (y[None, :, None] ** 2 + x[None, None, :] ** 2 + 0 * z[:, None, None]) < 0.9
    texture = np.random.default_rng(seed).normal(1.0, 0.1, shape)
    return np.where(body, np.clip(level * texture, 1, 60000), 0).astype(np.uint16)


@dataclass
class DicomStudy:
    """Writes series of one examination into ``folder``.

    Attributes:
        folder: made when needed.
        vendor: ``siemens``, ``ge``, ``philips`` (b-value in the vendor's private tag) or ``plain`` (standard tag).
        oblique: tilt all axial series.
        center: patient point (LPS, mm) in the middle of all series.
        patient: PatientID.
    """

    folder: Path
    vendor: str = "siemens"
    oblique: bool = False
    center: tuple[float, float, float] = (5.0, -20.0, 12.0)
    patient: str = "TEST-PATIENT"
    study_uid: str = field(default_factory=generate_uid)
    frame_uid: str = field(default_factory=generate_uid)

    @property
    def axes(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Row and column direction of the axial series."""
        return OBLIQUE if self.oblique else AXIAL

    def positions(
        self, shape: tuple[int, int, int], spacing: tuple[float, float, float], axes: Any = None
    ) -> NDArray[np.float64]:
        """ImagePositionPatient of every slice, shape (z, 3), in order along the normal."""
        row, column = np.asarray(axes or self.axes)
        normal = np.cross(row, column)
        half = (np.asarray(shape) - 1) / 2 * np.asarray(spacing)
        corner = np.asarray(self.center) - half[2] * row - half[1] * column
        return corner + np.outer(np.arange(shape[0]) * spacing[0] - half[0], normal)

    def series(
        self,
        number: int,
        description: str,
        array: NDArray[Any],
        *,
        spacing: tuple[float, float, float],
        axes: Any = None,
        tags: Tags | None = None,
        name: str | None = None,
        uid: str | None = None,
        first_instance: int = 1,
        prefix: str = "IM",
        suffix: str = ".dcm",
    ) -> list[Path]:
        """One classic series: ``array`` (z, y, x), ``spacing`` (z, y, x) mm, ``tags`` for all or by slice."""
        folder = self.folder / (name or f"series{number:03d}")
        folder.mkdir(parents=True, exist_ok=True)
        uid = uid or generate_uid()
        paths = []
        row, column = axes or self.axes
        for index, position in enumerate(self.positions(array.shape, spacing, axes)):
            instance = first_instance + index
            dataset = self._dataset(MR_IMAGE, description, number, uid)
            dataset.InstanceNumber = instance
            dataset.ImagePositionPatient = [f"{v:.8g}" for v in position]
            dataset.ImageOrientationPatient = [f"{v:.8g}" for v in (*row, *column)]
            dataset.PixelSpacing = [spacing[1], spacing[2]]
            dataset.SliceThickness = spacing[0]
            dataset.SpacingBetweenSlices = spacing[0]
            put_pixels(dataset, array[index])
            for keyword, value in (tags(index) if callable(tags) else tags or {}).items():
                put(dataset, keyword, value)
            path = folder / f"{prefix}{instance:04d}{suffix}"
            dataset.save_as(path, enforce_file_format=True)
            paths.append(path)
        return paths

    def _dataset(self, sop_class: str, description: str, number: int, series_uid: str) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = sop_class
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID = sop_class
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        dataset.Modality = "MR"
        dataset.Manufacturer = MANUFACTURERS[self.vendor]
        dataset.MagneticFieldStrength = 3
        dataset.PatientID = self.patient
        dataset.PatientName = f"Name^{self.patient}"
        dataset.StudyInstanceUID = self.study_uid
        dataset.StudyDate = "20240131"
        dataset.SeriesInstanceUID = series_uid
        dataset.SeriesNumber = number
        dataset.SeriesDescription = description
        dataset.FrameOfReferenceUID = self.frame_uid
        return dataset

    # -- the series of a prostate MRI ---------------------------------------------------------------------------------

    def t2w(self, number: int = 4, shape: tuple[int, int, int] = (10, 48, 40), **more: Any) -> list[Path]:
        """Axial T2W; 3.0 x 2.5 x 2.5 mm so that a tiny matrix still spans a pelvis."""
        array = more.pop("array", None)
        array = anatomy(shape, 400, seed=number) if array is None else array
        return self._spin_echo(number, more.pop("description", "t2_tse_tra"), array, **more)

    def t2w_sagittal(self, number: int = 3, **more: Any) -> list[Path]:
        """Sagittal T2W."""
        return self._spin_echo(number, "t2_tse_sag", anatomy((8, 40, 40), 400, seed=number), axes=SAGITTAL, **more)

    def t2w_coronal(self, number: int = 5, **more: Any) -> list[Path]:
        """Coronal T2W."""
        return self._spin_echo(number, "t2_tse_cor", anatomy((8, 40, 40), 400, seed=number), axes=CORONAL, **more)

    def _spin_echo(self, number: int, description: str, array: NDArray[Any], **more: Any) -> list[Path]:
        base = {
            "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"],
            "ScanningSequence": "SE",
            "SequenceName": "*tse2d1_25",
            "RepetitionTime": 5660,
            "EchoTime": 104,
            "AcquisitionMatrix": [0, array.shape[2], array.shape[1], 0],
        }
        more.setdefault("spacing", (3.0, 2.5, 2.5))
        return self.series(number, description, array, tags=merged(base, more), **more)

    def localizer(self, number: int = 1) -> list[Path]:
        """Three planes in one series."""
        uid, paths = generate_uid(), []
        for plane, axes in enumerate((AXIAL, SAGITTAL, CORONAL)):
            paths += self.series(
                number,
                "t2_haste_3 planes",
                anatomy((3, 32, 32), 300, seed=plane),
                spacing=(10.0, 8.0, 8.0),
                axes=axes,
                uid=uid,
                first_instance=1 + 3 * plane,
                tags={"ScanningSequence": "SE", "RepetitionTime": 1800, "EchoTime": 92},
            )
        return paths

    def dwi(
        self,
        number: int = 7,
        b_values: Sequence[float] = (50, 400, 800),
        shape: tuple[int, int, int] = (10, 32, 24),
        description: str = "ep2d_diff_tra",
        **more: Any,
    ) -> list[Path]:
        """All b-values in one series, one after the other, as scanners write them."""
        uid, paths = generate_uid(), []
        spacing = more.pop("spacing", (3.0, 4.0, 4.0))
        given = more.pop("tags", None)
        for nth, b_value in enumerate(b_values):
            base = {
                "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"],
                "ScanningSequence": "EP",
                "RepetitionTime": 3300,
                "EchoTime": 63,
                **self.b_tags(b_value),
            }
            paths += self.series(
                number,
                description,
                anatomy(shape, 300 * float(np.exp(-b_value * 1e-3)) + 5, seed=int(b_value)),
                spacing=spacing,
                uid=uid,
                first_instance=1 + nth * shape[0],
                tags=merged(base, {"tags": given}),
                **more,
            )
        return paths

    def b_tags(self, b_value: float) -> dict[str, Any]:
        """How this vendor writes a b-value into an image."""
        if self.vendor == "siemens":
            return {
                "private:0019,SIEMENS MR HEADER,0C": ("IS", int(b_value)),
                "SequenceName": f"*ep_b{b_value:.0f}t",
            }
        if self.vendor == "ge":
            return {"private:0043,GEMS_PARM_01,39": ("IS", [1_000_000_000 + int(b_value), 8, 0, 0])}
        if self.vendor == "philips":
            return {"private:2001,Philips Imaging DD 001,03": ("FL", float(b_value))}
        return {"DiffusionBValue": float(b_value)}

    def adc(self, number: int = 8, shape: tuple[int, int, int] = (10, 32, 24), **more: Any) -> list[Path]:
        """ADC map in 1e-6 mm2/s."""
        base = {
            "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"],
            "ScanningSequence": "EP",
            "SequenceName": "*ep_b50_800",
            "RepetitionTime": 3300,
            "EchoTime": 63,
            **({} if self.vendor == "siemens" else self.b_tags(800)),
        }
        array = more.pop("array", None)
        array = anatomy(shape, 1200, seed=number) if array is None else array
        more.setdefault("spacing", (3.0, 4.0, 4.0))
        return self.series(number, more.pop("description", "ep2d_diff_ADC"), array, tags=merged(base, more), **more)

    def high_b(
        self, number: int = 9, b_value: float = 1400, shape: tuple[int, int, int] = (10, 32, 24), **more: Any
    ) -> list[Path]:
        """Calculated high-b image."""
        base = {
            "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"],
            "ScanningSequence": "EP",
            "RepetitionTime": 3300,
            "EchoTime": 63,
            **self.b_tags(b_value),
            "SequenceName": "*ep_b50_800",
        }
        more.setdefault("spacing", (3.0, 4.0, 4.0))
        name = more.pop("description", "ep2d_diff_CALC_BVAL")
        return self.series(number, name, anatomy(shape, 60, seed=number), tags=merged(base, more), **more)

    def dce(self, number: int = 11, frames: int = 4, shape: tuple[int, int, int] = (6, 24, 24)) -> list[Path]:
        """Dynamic T1 series, all time points in one series."""
        uid, paths = generate_uid(), []
        for frame in range(frames):
            paths += self.series(
                number,
                "t1_vibe_tra_dynamic",
                anatomy(shape, 200 + 40 * frame, seed=frame),
                spacing=(3.0, 5.0, 5.0),
                uid=uid,
                first_instance=1 + frame * shape[0],
                tags={
                    "ScanningSequence": "GR",
                    "RepetitionTime": 4.2,
                    "EchoTime": 1.4,
                    "ContrastBolusAgent": "GD",
                    "TemporalPositionIdentifier": frame + 1,
                    "TemporalResolution": 9000,
                },
            )
        return paths

    def full(self) -> DicomStudy:
        """Localizer, T2W in three planes, DWI, ADC, calculated b1400 and DCE."""
        self.localizer()
        self.t2w_sagittal()
        self.t2w()
        self.t2w_coronal()
        self.dwi()
        self.adc()
        self.high_b()
        self.dce()
        return self

    def enhanced_dwi(self, number: int = 7, b_values: Sequence[float] = (50, 1500)) -> Path:
        """All b-values in one Enhanced MR (multi-frame) file, frames interleaved by slice."""
        shape, spacing = (6, 20, 16), (3.0, 4.0, 4.0)
        dataset = self._dataset(ENHANCED_MR_IMAGE, "DWI enhanced", number, generate_uid())
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]
        row, column = self.axes
        shared, frames, pixels = Dataset(), [], []
        shared.PlaneOrientationSequence = _item(ImageOrientationPatient=[f"{v:.8g}" for v in (*row, *column)])
        shared.PixelMeasuresSequence = _item(PixelSpacing=[4.0, 4.0], SliceThickness=3.0)
        shared.MRTimingAndRelatedParametersSequence = _item(RepetitionTime=3300.0)
        shared.MREchoSequence = _item(EffectiveEchoTime=63.0)
        for index, position in enumerate(self.positions(shape, spacing)):
            for b_value in b_values:
                frame = Dataset()
                frame.PlanePositionSequence = _item(ImagePositionPatient=[f"{v:.8g}" for v in position])
                frame.MRDiffusionSequence = _item(DiffusionBValue=float(b_value), DiffusionDirectionality="ISOTROPIC")
                frame.PixelValueTransformationSequence = _item(RescaleSlope=2.0, RescaleIntercept=0.0, RescaleType="US")
                frames.append(frame)
                pixels.append(anatomy(shape, 100 + b_value / 10, seed=int(b_value))[index])
        dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
        dataset.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
        dataset.NumberOfFrames = len(frames)
        put_pixels(dataset, np.stack(pixels))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"enhanced{number:03d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path


def _item(**values: Any) -> DicomSequence:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return DicomSequence([item])


def merged(base: Mapping[str, Any], more: dict[str, Any]) -> Callable[[int], Mapping[str, Any]]:
    """``base`` overlaid by ``more['tags']`` (taken out of ``more``); None removes an attribute."""
    given = more.pop("tags", None)

    def tags(index: int) -> Mapping[str, Any]:
        extra = given(index) if callable(given) else given or {}
        return {**base, **extra}

    return tags


def put(dataset: Dataset, keyword: str, value: Any) -> None:
    """Sets an attribute; ``private:gggg,CREATOR,ee`` with (VR, value) a private one; None removes it."""
    if keyword.startswith("private:"):
        group, creator, element = keyword.removeprefix("private:").split(",")
        vr, content = value
        dataset.private_block(int(group, 16), creator, create=True).add_new(int(element, 16), vr, content)
    elif value is None:
        if keyword in dataset:
            delattr(dataset, keyword)
    else:
        setattr(dataset, keyword, value)


def put_pixels(dataset: Dataset, array: NDArray[Any]) -> None:
    """16-bit pixels of one slice (y, x) or of all frames (n, y, x)."""
    dataset.Rows, dataset.Columns = array.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(np.issubdtype(array.dtype, np.signedinteger))
    dataset.PixelData = np.ascontiguousarray(array).tobytes()
