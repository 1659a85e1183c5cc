"""Made-up miniatures of public data sets, laid out exactly as the public ones are; noise with a gland and a lesion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

SHAPE, SPACING = (12, 40, 40), (3.0, 1.5, 1.5)


def _grid(shape: tuple[int, int, int]) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij"))


def gland() -> NDArray[np.uint8]:
    """1 PZ behind, 2 TZ before."""
    z, y, x = _grid(SHAPE)
    inside = (z / 5) ** 2 + (y / 12) ** 2 + (x / 14) ** 2 < 1
    return (inside * np.where(y > 3, 1, 2)).astype(np.uint8)


def lesion(*centers: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Balls of 3 voxels in plane around (z, y, x) from the middle."""
    z, y, x = _grid(SHAPE)
    out = np.zeros(SHAPE, bool)
    for cz, cy, cx in centers or ((0.0, 7.0, 5.0),):
        out |= ((z - cz) * 2) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 9.5
    return out.astype(np.uint8)


def picture(seed: int, low: NDArray[np.uint8] | None = None, level: float = 300.0) -> NDArray[np.float32]:
    """Noise about a level, the gland brighter, ``low`` darker."""
    noise = np.random.default_rng(seed).normal(level, level / 20, SHAPE)
    dark = np.zeros(SHAPE, bool) if low is None else low > 0
    return np.where(dark, noise * 0.5, noise * np.where(gland() > 0, 1.3, 1.0)).astype(np.float32)


def write(path: Path, array: NDArray[np.generic], origin: tuple[float, float, float] = (-30.0, -30.0, -16.5)) -> None:
    """An axial stack, LPS; 4D arrays are (channel, z, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if array.ndim == 4:
        image = sitk.JoinSeries([_image(a, origin) for a in array])
    else:
        image = _image(array, origin)
    sitk.WriteImage(image, str(path))


def _image(array: NDArray[np.generic], origin: tuple[float, float, float]) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin(origin)
    return image


def picai(root: Path) -> Path:
    """Two patients: 10001 with a human csPCa label of ISUP 3, 10002 marked NO with an empty one; 10003 without any."""
    labels = root / "picai_labels"
    rows = ["patient_id,study_id,mri_date,patient_age,psa,psad,prostate_volume,histopath_type,lesion_GS,lesion_ISUP,"
            "case_ISUP,case_csPCa,center"]  # fmt: skip
    for k, (patient, study, answer) in enumerate((("10001", "1000001", "YES"), ("10002", "1000002", "NO"),
                                                  ("10003", "1000003", "YES"))):  # fmt: skip
        name = f"{patient}_{study}"
        tumour = lesion() if k != 1 else np.zeros(SHAPE, np.uint8)
        for role, level in (("t2w", 300.0), ("adc", 1400.0), ("hbv", 60.0), ("cor", 300.0), ("sag", 300.0)):
            write(root / patient / f"{name}_{role}.mha", picture(k, tumour, level))
        write(labels / "anatomical_delineations/zonal_pz_tz/AI/HeviAI23" / f"{name}.nii.gz", gland())
        if k < 2:
            write(labels / "csPCa_lesion_delineations/human_expert/resampled" / f"{name}.nii.gz", tumour * 3)
        rows.append(f"{patient},{study},2019-07-02,70,5.0,0.1,50,MRBx,4+3,3,3,{answer},RUMC")
    table = labels / "clinical_information" / "marksheet.csv"
    table.parent.mkdir(parents=True)
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def prostate158(root: Path) -> Path:
    """020 with a tumour, 021 without, in train; 001 in test; 021 is a validation case."""
    for group, name, tumour in (("train", "020", True), ("train", "021", False), ("test", "001", True)):
        folder = root / group / name
        drawn = lesion() if tumour else np.zeros(SHAPE, np.uint8)
        for file, level in (("t2", 300.0), ("adc", 1400.0), ("dwi", 60.0)):
            write(folder / f"{file}.nii.gz", picture(int(name), drawn, level))
        write(folder / "t2_anatomy_reader1.nii.gz", np.array([0, 2, 1], np.uint8)[gland()])
        if tumour:
            write(folder / "adc_tumor_reader1.nii.gz", drawn)
        else:
            write(folder / "empty.nii.gz", drawn)
    (root / "valid.csv").write_text("ID,t2,adc\n21,train/021/t2.nii.gz,train/021/adc.nii.gz\n", encoding="utf-8")
    return root


def msd(root: Path) -> Path:
    """Two cases, 4D T2W and ADC; 1 PZ, 2 TZ."""
    for k in (0, 2):
        both = np.stack([picture(k), picture(k, None, 1400.0)])
        write(root / "imagesTr" / f"prostate_{k:02d}.nii.gz", both)
        write(root / "labelsTr" / f"prostate_{k:02d}.nii.gz", gland())
    facts = {"name": "PROSTATE", "tensorImageSize": "4D", "modality": {"0": "T2", "1": "ADC"},
             "labels": {"0": "background", "1": "PZ", "2": "TZ"}, "numTraining": 2}  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return root


def nnunet(root: Path) -> Path:
    """Version 2 of the format: three channels, one lesion label, two studies of one patient."""
    for k, case in enumerate(("10001_1000001", "10001_1000009")):
        for channel, level in enumerate((300.0, 1400.0, 60.0)):
            write(root / "imagesTr" / f"{case}_{channel:04d}.nii.gz", picture(k, lesion(), level))
        write(root / "labelsTr" / f"{case}.nii.gz", lesion())
    facts = {"channel_names": {"0": "T2W", "1": "ADC", "2": "HBV"}, "labels": {"background": 0, "csPCa lesion": 1},
             "numTraining": 2, "file_ending": ".nii.gz"}  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return root


def studies(root: Path, report: str | None = None) -> Path:
    """One study folder with zones, two outlined regions and a report."""
    folder = root / "caseA"
    drawn = lesion((0.0, 7.0, 6.0), (0.0, -4.0, -5.0))
    for file, level in (("t2w", 300.0), ("adc", 1400.0), ("hbv", 60.0)):
        write(folder / f"{file}.nii.gz", picture(1, drawn, level))
    write(folder / "zones.nii.gz", gland())
    write(folder / "regions.nii.gz", drawn)
    if report is not None:
        (folder / "report.txt").write_text(report, encoding="utf-8")
    return root
