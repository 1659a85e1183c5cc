"""Public folder layouts as a list of cases, nothing read but names and tables.

| layout | what it must look like |
|---|---|
| ``picai`` | ``<patient>/<patient>_<study>_{t2w,adc,hbv}.mha`` (also in ``images/``), labels as in picai_labels |
| ``prostate158`` | ``train|test/<id>/{t2,adc,dwi}.nii.gz``, ``t2_anatomy_reader1``, ``adc_tumor_reader1`` |
| ``msd`` | Medical Segmentation Decathlon Task05: 4D ``imagesTr`` (T2W, ADC), ``labelsTr``, ``dataset.json`` |
| ``nnunet`` | ``imagesTr/<case>_0000.nii.gz``, ``labelsTr``, ``dataset.json`` with ``channel_names`` and ``labels`` |
| ``cases`` | our own signed-off cases (``case.json``), with their corrections |
| ``simulated`` | what ``medrationale simulate`` writes |
| ``studies`` | a folder a study: images that our reader knows, ``zones``, ``regions``, ``report.txt`` or ``.json`` |

What a label means is read from the data set's own tables where it has them; see docs/triples.md for each.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from MedRationaleLogic.training.triples import RATIONALE, Region, TripleError, positive_of

ENDINGS: Final = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")


@dataclass(frozen=True)
class Image:
    """An image file, or one channel of a 4D one (the last axis)."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class Mask:
    """A label file and what its numbers mean.

    Attributes:
        path: of the file.
        meaning: label -> our label (zones: 1 PZ, 2 TZ, 3 gland; regions: any number > 0). Labels that are not named
            are background; with None every label above 0 means ``otherwise``.
        otherwise: what every positive label means without ``meaning``; 0 keeps the numbers.
    """

    path: Path
    meaning: Mapping[int, int] | None = None
    otherwise: int = 1


@dataclass(frozen=True)
class SourceCase:
    """A case as a layout lists it.

    Attributes:
        id: unique in the layout, usable as a folder's name.
        patient, study: as the data set names them.
        images: role -> file.
        zones: zone or gland labels.
        lesions: outlined regions, of which nothing else is known; 3D components are numbered.
        numbered: outlined regions whose numbers ``regions`` speaks of, in place of ``lesions``.
        regions: what is known of the numbered regions.
        positive: what a region of ``lesions`` is: True proven or stated positive, None unknown.
        complete: every positive region is outlined.
        report: of the study.
        split: as published.
        source: what the labels are, for a person.
    """

    id: str
    patient: str
    study: str
    images: Mapping[str, Image]
    zones: Mask | None = None
    lesions: Mask | None = None
    numbered: Mask | None = None
    regions: tuple[Region, ...] = ()
    positive: bool | None = None
    complete: bool = False
    report: Path | None = None
    split: str | None = None
    source: str = ""
    notes: tuple[str, ...] = field(default=())


def _file(folder: Path, stem: str) -> Path | None:
    """``stem`` with any of the image endings, or None."""
    return next((p for ending in ENDINGS if (p := folder / f"{stem}{ending}").is_file()), None)


def _stem(path: Path) -> str:
    return next((path.name[: -len(e)] for e in ENDINGS if path.name.endswith(e)), path.name)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TripleError(f"{path.parent}: no {path.name}; is this the layout that was named?") from None
    except (OSError, ValueError) as error:
        raise TripleError(f"{path}: cannot be read as JSON ({error})") from error


# ---------------------------------------------------------------------------------------------------------------------
# Data sets


_PICAI: Final = re.compile(r"^(?P<patient>\d+)_(?P<study>\d+)_(?P<role>t2w|adc|hbv)\.(mha|nii\.gz)$")


def picai(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """PI-CAI public training data. ``labels``: a clone of picai_labels, by default ``root/picai_labels``.

    csPCa labels hold the ISUP grade per voxel; from 2 on it is a positive. A human delineation comes before an AI one
    of the same study; the marksheet's ``case_csPCa`` NO with an empty mask makes a complete negative.
    """
    labels = labels or root / "picai_labels"
    found: dict[tuple[str, str], dict[str, Image]] = {}
    for path in sorted(root.rglob("*")):
        match = _PICAI.match(path.name)
        if match and labels not in path.parents:
            found.setdefault((match["patient"], match["study"]), {})[match["role"]] = Image(path)
    marks = _marksheet(labels / "clinical_information" / "marksheet.csv")
    lesion_folders = [labels / "csPCa_lesion_delineations" / p
                      for p in ("human_expert/resampled", "human_expert/original", "AI/Bosma22a")]  # fmt: skip
    anatomy = labels / "anatomical_delineations"
    zone_folders = sorted((anatomy / "zonal_pz_tz" / "AI").glob("*"))
    gland_folders = sorted((anatomy / "whole_gland" / "AI").glob("*"))
    for (patient, study), images in found.items():
        name = f"{patient}_{study}"
        lesion = next((p for f in lesion_folders if (p := _file(f, name))), None)
        zones = next((p for f in zone_folders if (p := _file(f, name))), None)
        gland = next((p for f in gland_folders if (p := _file(f, name))), None)
        mark = marks.get((patient, study), {})
        human = lesion is not None and "human_expert" in lesion.parts
        yield SourceCase(
            name, patient, study, images,
            zones=Mask(zones, {1: 1, 2: 2}) if zones else Mask(gland, otherwise=3) if gland else None,
            lesions=Mask(lesion, dict.fromkeys(range(2, 6), 1)) if lesion else None,
            positive=True, complete=human or mark.get("case_csPCa", "").upper() == "NO",
            source=f"PI-CAI, csPCa {'by a human' if human else 'by AI' if lesion else 'not outlined'}, "
            f"marksheet {mark.get('case_csPCa', 'absent')}",
        )  # fmt: skip


def _marksheet(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {(r.get("patient_id", ""), r.get("study_id", "")): r for r in csv.DictReader(file)}


def prostate158(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """Prostate158: anatomy 1 central gland, 2 PZ; tumour outlined on ADC; no tumour file or an empty one is a negative.

    The published validation cases lie in ``train``; a ``valid.csv`` beside it names them by ``ID``.
    """
    validation: set[str] = set()
    for table in (root / "valid.csv", root / "train" / "valid.csv"):
        if table.is_file():
            with table.open(encoding="utf-8", newline="") as file:
                validation |= {str(int(float(row["ID"]))) for row in csv.DictReader(file) if row.get("ID")}
    for group, split in (("train", "train"), ("test", "test")):
        for folder in sorted(p for p in (root / group).glob("*") if p.is_dir()):
            names = {"t2w": "t2", "adc": "adc", "hbv": "dwi"}
            images = {role: Image(p) for role, stem in names.items() if (p := _file(folder, stem))}
            zones = _file(folder, "t2_anatomy_reader1")
            tumour = _file(folder, "adc_tumor_reader1")
            mine = "val" if folder.name.lstrip("0") in validation else split
            yield SourceCase(
                f"p158_{folder.name}", f"p158_{folder.name}", folder.name, images,
                zones=Mask(zones, {1: 2, 2: 1}) if zones else None, lesions=Mask(tumour) if tumour else None,
                positive=True, complete=True, split=mine, source="Prostate158, reader 1",
            )  # fmt: skip


def msd(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """MSD Task05_Prostate: 4D files of T2W and ADC; which is which, and which label is PZ, ``dataset.json`` says."""
    facts = _json(root / "dataset.json")
    channels = {_role(str(name)): int(k) for k, name in dict(facts.get("modality", {})).items()}
    zones = _zone_labels({int(k): str(v) for k, v in dict(facts.get("labels", {})).items()}, root)
    for path in sorted((root / "imagesTr").glob("*.nii.gz")):
        if path.name.startswith("."):
            continue
        label = _file(root / "labelsTr", _stem(path))
        images = {role: Image(path, k) for role, k in channels.items() if role}
        yield SourceCase(_stem(path), _stem(path), "", images, zones=Mask(label, zones) if label else None,
                         source="MSD Task05")  # fmt: skip


def nnunet(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """An nnU-Net raw data set (versions 1 and 2): channels and labels by their names in ``dataset.json``.

    A label whose name speaks of PZ, TZ, central gland or prostate is anatomy; one that speaks of a lesion, csPCa,
    tumour or cancer is an outlined region.
    """
    facts = _json(root / "dataset.json")
    named = facts.get("channel_names") or facts.get("modality") or {}
    channels = {int(k): role for k, name in named.items() if (role := _role(str(name)))}
    if not channels:
        raise TripleError(f"{root}/dataset.json: no channel is named T2W, ADC or high-b (HBV, DWI); name them there")
    raw = facts.get("labels", {})
    numbers: dict[int, str] = {}
    for key, value in raw.items():
        if isinstance(value, int):
            numbers[value] = str(key)
        elif str(key).isdigit():
            numbers[int(key)] = str(value)
    lesions = {n: 1 for n, text in numbers.items() if _is_lesion(text)}
    zones = _zone_labels({n: t for n, t in numbers.items() if n not in lesions}, root, strict=not lesions)
    stems = sorted({_stem(p)[:-5] for p in (root / "imagesTr").iterdir() if re.search(r"_\d{4}$", _stem(p))})
    for case in stems:
        images = {role: Image(p) for k, role in channels.items() if (p := _file(root / "imagesTr", f"{case}_{k:04d}"))}
        label = _file(root / "labelsTr", case)
        yield SourceCase(
            case, case.split("_")[0] if re.fullmatch(r"\d+_\d+", case) else case, "", images,
            zones=Mask(label, zones) if label and zones else None,
            lesions=Mask(label, lesions) if label and lesions else None,
            positive=True, complete=bool(label and lesions), source=f"nnU-Net data set {root.name}",
        )  # fmt: skip


def _role(name: str) -> str:
    text = name.strip().lower().replace("-", "").replace("_", "")
    if text in ("t2", "t2w", "t2wi", "mrit2"):
        return "t2w"
    if text in ("adc", "mriadc"):
        return "adc"
    return "hbv" if text in ("hbv", "highb", "dwi", "highbvalue") else ""


def _is_lesion(name: str) -> bool:
    return any(word in name.lower() for word in ("lesion", "cspca", "tumor", "tumour", "cancer", "pca"))


def _zone_labels(labels: Mapping[int, str], root: Path, strict: bool = True) -> dict[int, int]:
    out = {}
    for number, name in labels.items():
        text = name.strip().lower()
        if number == 0 or text == "background":
            continue
        if text in ("pz", "peripheral", "peripheral zone", "peripheral_zone"):
            out[number] = 1
        elif text in ("tz", "transition", "transition zone", "transition_zone", "central gland", "central_gland", "cg"):
            out[number] = 2
        elif text in ("prostate", "gland", "whole gland", "whole_gland"):
            out[number] = 3
        elif strict:
            raise TripleError(f"{root}/dataset.json: label {number} is named {name!r}; expected PZ, TZ, central gland, "
                              "prostate, or a name with lesion, csPCa, tumour")  # fmt: skip
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Our own folders


def cases(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """Our own cases: signed-off ones only, with what the reader corrected."""
    from MedRationaleLogic.case import CASE_FILE

    for file in sorted(root.rglob(CASE_FILE)):
        folder = file.parent
        data = _json(file)
        sign_off = data.get("sign_off")
        name = folder.relative_to(root).as_posix().replace("/", "_") if folder != root else folder.name
        if not sign_off:
            yield SourceCase(name, name, "", {}, notes=("not signed off by a reader",))
            continue
        yield SourceCase(name, name, "", {"case": Image(folder)}, complete=True,
                         source="signed-off case, answers of model and reader")  # fmt: skip


def simulated(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """A set that ``medrationale simulate`` wrote: every value as it was drawn."""
    record = _json(root / "cohort.json")
    patients = {s["name"]: s.get("patient") or s["name"] for s in record.get("studies", [])}
    for name, patient in patients.items():
        folder = root / name
        truth = _json(folder / RATIONALE)
        regions = tuple(
            Region(r["number"], r["zone"], r["category"], positive_of(r["category"]), r["values"],
                   dict.fromkeys(r["values"], "gold"))
            for r in truth["regions"]
        )  # fmt: skip
        hbv = next(folder.glob("hbv_b*.nii.gz"), None)
        images = {"t2w": Image(folder / "t2w.nii.gz"), "adc": Image(folder / "adc.nii.gz")}
        if hbv is not None:
            images["hbv"] = Image(hbv)
        yield SourceCase(
            name, str(patient), "", images, zones=Mask(folder / "zones.nii.gz", {1: 1, 2: 2}),
            numbered=Mask(folder / "regions.nii.gz", otherwise=0), regions=regions, complete=True,
            source=f"simulated, generator {record.get('generator')}, seed {record.get('seed')}: no patient",
        )  # fmt: skip


def studies(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """One folder a study; images are found by our study reader, a report beside them is parsed."""
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        zones = _file(folder, "zones")
        gland = _file(folder, "gland")
        regions = _file(folder, "regions") or _file(folder, "lesions")
        report = next((p for n in ("report.json", "report.txt") if (p := folder / n).is_file()), None)
        yield SourceCase(
            folder.name, folder.name, "", {"study": Image(folder)},
            zones=Mask(zones, {1: 1, 2: 2, 3: 3}) if zones else Mask(gland, otherwise=3) if gland else None,
            lesions=Mask(regions, otherwise=0) if regions else None, report=report,
            source=f"study folder with {'a report' if report else 'no report'}",
        )  # fmt: skip


LAYOUTS: Final[Mapping[str, Callable[[Path, Path | None], Iterator[SourceCase]]]] = {
    "picai": picai, "prostate158": prostate158, "msd": msd, "nnunet": nnunet, "cases": cases, "simulated": simulated,
    "studies": studies,
}  # fmt: skip


def detect(root: Path) -> str:
    """Which layout a folder has, by what lies in it.

    Raises:
        TripleError: no folder, or none of the layouts.
    """
    if not root.is_dir():
        raise TripleError(f"{root} is not a folder; give the root of a data set")
    if (root / "cohort.json").is_file():
        return "simulated"
    if (root / "dataset.json").is_file():
        first = next((root / "imagesTr").glob("*"), None) if (root / "imagesTr").is_dir() else None
        return "nnunet" if first is not None and re.search(r"_\d{4}$", _stem(first)) else "msd"
    if (root / "train").is_dir() and any((root / "train").glob("*/t2.nii*")):
        return "prostate158"
    if any(root.rglob("case.json")):
        return "cases"
    if any(_PICAI.match(p.name) for p in root.rglob("*_t2w.*")):
        return "picai"
    if any(p.is_dir() for p in root.iterdir()):
        return "studies"
    raise TripleError(f"{root}: none of the layouts {', '.join(LAYOUTS)}; name one with --layout")


def read_folds(path: Path) -> dict[str, int]:
    """Case name -> fold of an official cross-validation: nnU-Net's ``splits`` JSON, a list of {"train", "val"} lists
    (picai_baseline ships its five PI-CAI folds in this form).

    Raises:
        TripleError: not such a file, or a case in two folds.
    """
    data = _json(path)
    try:
        pairs = [(str(name), fold) for fold, entry in enumerate(data) for name in entry["val"]]
    except (TypeError, KeyError) as error:
        raise TripleError(f'{path}: expected a list of {{"train": [...], "val": [...]}}, one a fold') from error
    out: dict[str, int] = {}
    for name, fold in pairs:
        if out.setdefault(name, fold) != fold:
            raise TripleError(f"{path}: {name} is in the validation part of folds {out[name]} and {fold}")
    return out
