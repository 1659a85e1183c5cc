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

What a label means is read from the data set's own tables where it has them; see docs/triples.md for each. A case whose
files cannot be listed is a case with a note; only what is said of all cases (``dataset.json``, a table) ends the list.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from MedRationaleLogic.training.triples import GLAND, RATIONALE, Region, TripleError, positive_of

ENDINGS: Final = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")
#: In the root of ``nnunet``, ``cases`` or ``studies``: columns ``case`` and ``patient``.
PATIENTS: Final = "patients.csv"


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
        within: labels of ``meaning`` that lie in place of the tissue around them: a part of them that touches nothing
            else that is named is background.
    """

    path: Path
    meaning: Mapping[int, int] | None = None
    otherwise: int = 1
    within: frozenset[int] = frozenset()


@dataclass(frozen=True)
class SourceCase:
    """A case as a layout lists it.

    Attributes:
        id: unique in the layout, usable as a folder's name.
        patient, study: as the data set names them; without a patient DICOM's is taken, or the case's own id.
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
        notes: why the case cannot be used.
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


def _object(path: Path) -> dict[str, Any]:
    data = _json(path)
    if not isinstance(data, dict):
        raise TripleError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def _table(path: Path, *columns: str) -> list[dict[str, str]]:
    """Rows of a CSV file.

    Raises:
        TripleError: it cannot be read, or has none of these columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [{k: (v or "").strip() for k, v in row.items() if isinstance(k, str)} for row in reader]
            there = reader.fieldnames or ()
    except (OSError, ValueError, csv.Error) as error:
        raise TripleError(f"{path}: cannot be read as CSV ({error})") from error
    absent = [c for c in columns if c not in there]
    if absent:
        raise TripleError(f"{path}: no column {', '.join(absent)}; expected {', '.join(columns)}")
    return rows


_Unit = TypeVar("_Unit")


def _each(units: Iterable[_Unit], name: Callable[[_Unit], str], make: Callable[[_Unit], SourceCase]
          ) -> Iterator[SourceCase]:  # fmt: skip
    """One case a unit; where it cannot be listed, a case that says why, and the others all the same."""
    for unit in units:
        try:
            case = make(unit)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            told = str(error) if isinstance(error, OSError | TripleError) else f"{type(error).__name__}: {error}"
            case = SourceCase(name(unit), name(unit), "", {}, notes=(f"cannot be read ({told})",))
        yield case


def _patients(root: Path) -> Callable[[str, str], str]:
    """(case, the patient otherwise) -> patient, by :data:`PATIENTS` where it lies in the root.

    Raises:
        TripleError: the table cannot be read; or (when asked) it does not name the case.
    """
    file = root / PATIENTS
    if not file.is_file():
        return lambda _case, otherwise: otherwise
    table = {row["case"]: row["patient"] for row in _table(file, "case", "patient")}

    def look(case: str, _otherwise: str) -> str:
        if not table.get(case):
            raise TripleError(f"{PATIENTS} names no patient of it")
        return table[case]

    return look


# ---------------------------------------------------------------------------------------------------------------------
# Data sets


_PICAI: Final = re.compile(r"^(?P<patient>\d+)_(?P<study>\d+)_(?P<role>t2w|adc|hbv)\.(mha|nii\.gz)$")


def picai(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """PI-CAI public training data. ``labels``: a clone of picai_labels, by default ``root/picai_labels``.

    A human's csPCa labels hold the ISUP grade per voxel; from 2 on it is a positive. Those by AI hold 1 for csPCa. A
    human delineation comes before an AI one of the same study; the marksheet's ``case_csPCa`` NO with an empty mask
    makes a complete negative.
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

    def case(unit: tuple[tuple[str, str], dict[str, Image]]) -> SourceCase:
        (patient, study), images = unit
        name = f"{patient}_{study}"
        lesion = next((p for f in lesion_folders if (p := _file(f, name))), None)
        zones = next((p for f in zone_folders if (p := _file(f, name))), None)
        gland = next((p for f in gland_folders if (p := _file(f, name))), None)
        mark = marks.get((patient, study), {})
        human = lesion is not None and "human_expert" in lesion.relative_to(labels).parts
        return SourceCase(
            name, patient, study, images,
            zones=Mask(zones, {1: 1, 2: 2}) if zones else Mask(gland, otherwise=3) if gland else None,
            lesions=Mask(lesion, dict.fromkeys(range(2 if human else 1, 6), 1)) if lesion else None,
            positive=True, complete=human or mark.get("case_csPCa", "").upper() == "NO",
            source=f"PI-CAI, csPCa {'by a human' if human else 'by AI' if lesion else 'not outlined'}, "
            f"marksheet {mark.get('case_csPCa', 'absent')}",
        )  # fmt: skip

    yield from _each(found.items(), lambda unit: "_".join(unit[0]), case)


def _marksheet(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    if not path.is_file():
        return {}
    return {(r["patient_id"], r["study_id"]): r for r in _table(path, "patient_id", "study_id")}


def prostate158(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """Prostate158: anatomy 1 central gland, 2 PZ; tumour outlined on ADC; no tumour file or an empty one is a negative.

    The published validation cases lie in ``train``; a ``valid.csv`` beside it names them by ``ID``. One that it names
    and that is not there is a case with a note: were its name misread, it would be trained on.
    """
    validation: dict[str, str] = {}
    for table in (root / "valid.csv", root / "train" / "valid.csv"):
        if table.is_file():
            validation |= {_short(row["ID"]): row["ID"] for row in _table(table, "ID") if row["ID"]}
    folders = [p for group in ("train", "test") for p in sorted((root / group).glob("*")) if p.is_dir()]

    def case(folder: Path) -> SourceCase:
        names = {"t2w": "t2", "adc": "adc", "hbv": "dwi"}
        images = {role: Image(p) for role, stem in names.items() if (p := _file(folder, stem))}
        zones = _file(folder, "t2_anatomy_reader1")
        tumour = _file(folder, "adc_tumor_reader1")
        mine = folder.parent.name
        if mine == "train" and _short(folder.name) in validation:
            mine = "val"
        return SourceCase(
            f"p158_{folder.name}", f"p158_{folder.name}", folder.name, images,
            zones=Mask(zones, {1: 2, 2: 1}) if zones else None, lesions=Mask(tumour) if tumour else None,
            positive=True, complete=True, split=mine, source="Prostate158, reader 1",
        )  # fmt: skip

    yield from _each(folders, lambda folder: f"p158_{folder.name}", case)
    there = {_short(folder.name) for folder in folders}
    for short, given in validation.items():
        if short not in there:
            yield SourceCase(f"p158_{given}", f"p158_{given}", given, {},
                             notes=("valid.csv names it, and no folder of train has this name",))  # fmt: skip


def _short(name: str) -> str:
    """What names of one case have in common, "p021", "021", "21" and "21.0": the number, else the text."""
    match = re.fullmatch(r"\D*?0*(\d+)(\.0*)?", name.strip())
    return match[1] if match else name.strip()


def msd(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """MSD Task05_Prostate: 4D files of T2W and ADC; which is which, and which label is PZ, ``dataset.json`` says."""
    facts = _object(root / "dataset.json")
    channels = {_role(name): k for k, name in _channels(facts, root).items()}
    zones, _ = _meanings(facts, root)

    def case(path: Path) -> SourceCase:
        label = _file(root / "labelsTr", _stem(path))
        images = {role: Image(path, k) for role, k in channels.items() if role}
        return SourceCase(_stem(path), _stem(path), "", images, zones=Mask(label, zones) if label else None,
                          source="MSD Task05")  # fmt: skip

    paths = [p for p in sorted((root / "imagesTr").glob("*.nii.gz")) if not p.name.startswith(".")]
    yield from _each(paths, _stem, case)


def nnunet(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """An nnU-Net raw data set (versions 1 and 2): channels and labels by their names in ``dataset.json``.

    A label whose name speaks of PZ, TZ, central gland or prostate is anatomy; one that speaks of a lesion, csPCa,
    tumour or cancer is an outlined region. Version 2 may give a name several numbers, which are then the parts of it.
    Where lesions have a number of their own in a map of anatomy, they lie in gland of unknown zone.
    """
    facts = _object(root / "dataset.json")
    channels = {k: role for k, name in _channels(facts, root).items() if (role := _role(name))}
    if not channels:
        raise TripleError(f"{root}/dataset.json: no channel is named T2W, ADC or high-b (HBV, DWI); name them there")
    zones, lesions = _meanings(facts, root)
    within = frozenset(lesions) - frozenset(zones)
    if zones:
        zones |= dict.fromkeys(within, GLAND)
    patient = _patients(root)

    def case(name: str) -> SourceCase:
        images = {role: Image(p) for k, role in channels.items() if (p := _file(root / "imagesTr", f"{name}_{k:04d}"))}
        label = _file(root / "labelsTr", name)
        return SourceCase(
            name, patient(name, name.split("_")[0] if re.fullmatch(r"\d+_\d+", name) else name), "", images,
            zones=Mask(label, zones, within=within) if label and zones else None,
            lesions=Mask(label, lesions) if label and lesions else None,
            positive=True, complete=bool(label and lesions), source=f"nnU-Net data set {root.name}",
        )  # fmt: skip

    if not (root / "imagesTr").is_dir():
        raise TripleError(f"{root}: no folder imagesTr; is this the layout that was named?")
    stems = sorted({_stem(p)[:-5] for p in (root / "imagesTr").iterdir() if re.search(r"_\d{4}$", _stem(p))})
    yield from _each(stems, str, case)


def _channels(facts: Mapping[str, Any], root: Path) -> dict[int, str]:
    named = facts.get("channel_names") or facts.get("modality") or {}
    try:
        return {int(k): str(name) for k, name in named.items()}
    except (ValueError, AttributeError) as error:
        raise TripleError(f"{root}/dataset.json: channels must be numbers with a name each ({error})") from error


def _meanings(facts: Mapping[str, Any], root: Path) -> tuple[dict[int, int], dict[int, int]]:
    """Number of a label map -> zone (:func:`_zone`), and number -> 1 where it is an outlined region.

    Raises:
        TripleError: a label that is not understood, by its name; or a number of two zones.
    """
    file = f"{root}/dataset.json"
    labels = facts.get("labels") or {}
    if not isinstance(labels, Mapping):
        raise TripleError(f"{file}: 'labels' must be an object of names and numbers")
    zones: dict[int, int] = {}
    lesions: dict[int, int] = {}
    for key, value in labels.items():
        if isinstance(value, str) and str(key).isdigit():  # version 1: number -> name
            name, numbers = value, [int(key)]
        else:  # version 2: name -> number, or the numbers whose union it is
            name, numbers = str(key), value if isinstance(value, list) else [value]
        if not numbers or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
            raise TripleError(f"{file}: label {name!r} is {value!r}; expected a number, or a list of numbers")
        zone = None if _is_lesion(name) else _zone(name)
        if zone is None and not _is_lesion(name) and numbers != [0]:
            raise TripleError(f"{file}: label {value if key == name else key} is named {name!r}; expected PZ, TZ, "
                              "central gland, prostate, a name with lesion, csPCa, tumour, or a neighbour (bladder, "
                              "rectum, seminal vesicles)")  # fmt: skip
        for number in numbers:
            if number == 0 or zone == 0:
                continue
            if zone is None:
                lesions[number] = 1
            elif zones.get(number, GLAND) == GLAND:  # a zone says more than the gland that it is a part of
                zones[number] = zone
            elif zone not in (GLAND, zones[number]):
                raise TripleError(f"{file}: number {number} is both PZ and TZ")
    return zones, lesions


def _role(name: str) -> str:
    text = name.strip().lower().replace("-", "").replace("_", "")
    if text in ("t2", "t2w", "t2wi", "mrit2"):
        return "t2w"
    if text in ("adc", "mriadc"):
        return "adc"
    return "hbv" if text in ("hbv", "highb", "dwi", "highbvalue") else ""


def _is_lesion(name: str) -> bool:
    return any(word in name.lower() for word in ("lesion", "cspca", "tumor", "tumour", "cancer", "pca"))


_ZONES: Final[Mapping[int, tuple[str, ...]]] = {
    0: ("background", "bladder", "rectum", "seminal vesicle", "seminal vesicles", "sv"),
    1: ("pz", "peripheral", "peripheral zone"),
    2: ("tz", "transition", "transition zone", "central gland", "cg"),
    GLAND: ("prostate", "gland", "whole gland", "whole prostate", "prostate gland"),
}


def _zone(name: str) -> int | None:
    """1 PZ, 2 TZ, 3 gland of unknown zone, 0 outside the gland; None where the name says none of these."""
    text = re.sub(r"[\s_-]+", " ", name.strip().lower())
    return next((zone for zone, names in _ZONES.items() if text in names), None)


# ---------------------------------------------------------------------------------------------------------------------
# Our own folders


def cases(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """Our own cases: signed-off ones only, with what the reader corrected."""
    from MedRationaleLogic.case import CASE_FILE

    patient = _patients(root)

    def named(file: Path) -> str:
        folder = file.parent
        return folder.relative_to(root).as_posix().replace("/", "_") if folder != root else folder.name

    def case(file: Path) -> SourceCase:
        name = named(file)
        if not _object(file).get("sign_off"):
            return SourceCase(name, name, "", {}, notes=("not signed off by a reader",))
        return SourceCase(name, patient(name, ""), "", {"case": Image(file.parent)}, complete=True,
                          source="signed-off case, answers of model and reader")  # fmt: skip

    yield from _each(sorted(root.rglob(CASE_FILE)), named, case)


def simulated(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """A set that ``medrationale simulate`` wrote: every value as it was drawn."""
    record = _object(root / "cohort.json")
    try:
        patients = {str(s["name"]): str(s.get("patient") or s["name"]) for s in record.get("studies", [])}
    except (KeyError, TypeError, AttributeError) as error:
        raise TripleError(f"{root}/cohort.json: expected studies with a name each ({error!r})") from error

    def case(name: str) -> SourceCase:
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
        return SourceCase(
            name, patients[name], "", images, zones=Mask(folder / "zones.nii.gz", {1: 1, 2: 2}),
            numbered=Mask(folder / "regions.nii.gz", otherwise=0), regions=regions, complete=True,
            source=f"simulated, generator {record.get('generator')}, seed {record.get('seed')}: no patient",
        )  # fmt: skip

    yield from _each(patients, str, case)


def studies(root: Path, labels: Path | None = None) -> Iterator[SourceCase]:
    """One folder a study; images are found by our study reader, a report beside them is parsed.

    Which studies are of one patient a table says (:data:`PATIENTS`), else DICOM; a folder of other files is a patient
    of its own.
    """
    patient = _patients(root)

    def case(folder: Path) -> SourceCase:
        zones = _file(folder, "zones")
        gland = _file(folder, "gland")
        regions = _file(folder, "regions") or _file(folder, "lesions")
        report = next((p for n in ("report.json", "report.txt") if (p := folder / n).is_file()), None)
        return SourceCase(
            folder.name, patient(folder.name, ""), "", {"study": Image(folder)},
            zones=Mask(zones, {1: 1, 2: 2, 3: 3}) if zones else Mask(gland, otherwise=3) if gland else None,
            lesions=Mask(regions, otherwise=0) if regions else None, report=report,
            source=f"study folder with {'a report' if report else 'no report'}",
        )  # fmt: skip

    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    yield from _each(folders, lambda folder: folder.name, case)


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
