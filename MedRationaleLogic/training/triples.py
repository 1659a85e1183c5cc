"""Triples of image, mask and rationale on disk, read lazily (docs/triples.md holds the published format).

| in the folder | what |
|---|---|
| ``triples.json`` | format, where the triples come from, counts, what was left out and why |
| ``index.parquet`` | one row a triple: names, patient, split, fold, what it has, SHA-256 |
| ``cases/<id>/t2w.nii.gz``, ``adc.nii.gz``, ``hbv.nii.gz`` | images on their own grids; ADC in 1e-6 mm2/s |
| ``cases/<id>/zones.nii.gz`` | uint8 on the frame's grid: 1 PZ, 2 TZ, 3 gland of unknown zone |
| ``cases/<id>/regions.nii.gz`` | uint8 on the frame's grid: numbers of outlined regions |
| ``cases/<id>/rationale.json`` | what is known of each region, and on what authority |

The frame is T2W, or ADC where there is no T2W. Research use only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.pirads import lexicon
from MedRationaleLogic.simulation.cohort import SHARES, place

FORMAT: Final = "medrationale-triples"
VERSION: Final = 1
HEADER: Final = "triples.json"
INDEX: Final = "index.parquet"
RATIONALE: Final = "rationale.json"
NOTICE: Final = "Research use only. Not a medical device."
ROLES: Final = ("t2w", "adc", "hbv")
GLAND: Final = 3
"""Label of gland whose zone is not known."""
#: A mask lies on its image when this share of it is within the image's field of view.
LEAST_INSIDE: Final = 0.98

Split = Literal["train", "val", "test"]
SPLITS: Final = ("train", "val", "test")


class TripleError(ValueError):
    """A triple or a set of them that cannot be used; the text names it, what was expected and what to do."""


class OutputError(OSError):
    """A set that cannot be written: no case's fault, so none is skipped for it and nothing is published."""


@dataclass(frozen=True)
class Region:
    """What is known of one outlined region.

    Attributes:
        number: its voxels in ``regions.nii.gz``.
        zone: "PZ" or "TZ", the one that holds most of it; None without zones.
        category: PI-RADS category 1 to 5 as stated or drawn; None unknown.
        positive: whether it counts as a suspicious region that segmentation must find: stated category >= 4, or proven
            by pathology; False for a stated category <= 2; None where neither is known, or outline and source do not
            agree on where it lies, which is left out of the loss.
        values: attribute id -> value.
        status: attribute id -> "gold" (stated, drawn) or "silver" (measured).
        rationale: from :func:`MedRationaleLogic.training.rationales.complete`; empty where nothing was stated.
        contradictions: of the source with the mask or with itself, one sentence each.
    """

    number: int
    zone: str | None
    category: int | None
    positive: bool | None
    values: Mapping[str, str] = field(default_factory=dict)
    status: Mapping[str, str] = field(default_factory=dict)
    rationale: Mapping[str, Any] = field(default_factory=dict)
    contradictions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """``rationale.json``: a triple's third part.

    Attributes:
        regions: numbers 1 to n, as in ``regions.nii.gz``.
        complete: whether every positive region of the study is outlined, so that the rest is known to be none.
        source: where the study comes from, for a person.
        report: the report's text or JSON as read, empty without one.
        contradictions: of the report with the masks as a whole.
    """

    regions: tuple[Region, ...] = ()
    complete: bool = False
    source: str = ""
    report: str = ""
    contradictions: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As the file holds it."""
        head = {"format": FORMAT, "version": VERSION, "notice": NOTICE, "lexicon": lexicon.load().version}
        return json.dumps(head | asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str) -> Document:
        """Read and check.

        Raises:
            TripleError: not such a document, or an attribute or value that the lexicon does not have; it is named.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT or data["version"] != VERSION:
                raise TripleError(f"{name}: {RATIONALE} has format {data['format']} {data['version']}, "
                                  f"expected {FORMAT} {VERSION}; curate the set again")  # fmt: skip
            regions = tuple(
                Region(**{**r, "contradictions": tuple(r.get("contradictions", ()))}) for r in data["regions"]
            )
            made = cls(regions, bool(data["complete"]), str(data["source"]), str(data.get("report", "")),
                       tuple(data.get("contradictions", ())))  # fmt: skip
        except TripleError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TripleError(
                f"{name}: {RATIONALE} is not a triple's rationale ({error}); curate the case again"
            ) from error
        for region in made.regions:
            check_region(region, name)
        return made


def check_region(region: Region, name: str) -> None:
    """Refuse what the lexicon does not know.

    Raises:
        TripleError: naming the triple, the region and the unknown attribute, value, zone or category.
    """
    where = f"{name}, region {region.number}"
    known = {a.id: a.value_ids for a in lexicon.load().attributes}
    for attribute, value in region.values.items():
        if attribute not in known:
            raise TripleError(f"{where}: unknown attribute {attribute!r}; expected one of {', '.join(sorted(known))}")
        if value not in known[attribute]:
            raise TripleError(
                f"{where}: unknown value {value!r} of {attribute}; expected one of {', '.join(known[attribute])}"
            )
    if region.zone not in ("PZ", "TZ", None):
        raise TripleError(f"{where}: unknown zone {region.zone!r}; expected PZ, TZ or null")
    if region.category is not None and region.category not in range(1, 6):
        raise TripleError(f"{where}: category {region.category!r}; expected 1 to 5 or null")


def positive_of(category: int | None) -> bool | None:
    """Whether a region of this category is a positive; None for 3 and for an unknown one."""
    return None if category in (None, 3) else category >= 4


def split_of(patient: str) -> Split:
    """The share of a patient by the hash of the id: the same patient is in the same split in every set."""
    at = place(patient)
    return "train" if at < SHARES[0] else "val" if at < SHARES[0] + SHARES[1] else "test"


@dataclass(frozen=True)
class Triple:
    """One row of the index; what it names is read when asked for.

    Attributes:
        id: of the triple, a folder's name.
        patient, study: as the source names them.
        split: "train", "val" or "test"; all of a patient's studies share it.
        fold: of a published cross-validation, -1 without one.
        source: the layout it came from.
        roles: images that are there.
        zones: "zones", "gland" (zone unknown) or "" without either.
        regions, positives: how many are outlined, and how many of these are positive.
        sha256: over the case's files.
        folder: of the case.
    """

    id: str
    patient: str
    study: str
    split: str
    fold: int
    source: str
    roles: tuple[str, ...]
    zones: str
    regions: int
    positives: int
    sha256: str
    folder: Path

    def read(self, name: str) -> Volume:
        """An image ("t2w", "adc", "hbv") or mask ("zones", "regions").

        Raises:
            TripleError: it is missing or cannot be read.
        """
        import SimpleITK as sitk

        path = self.folder / f"{name}.nii.gz"
        try:
            return Volume.from_sitk(sitk.ReadImage(str(path)), f"{self.id}/{path.name}")
        except (RuntimeError, ValueError) as error:
            reason = "is missing" if not path.is_file() else "cannot be read; it may be cut off"
            raise TripleError(f"{self.id}: {path.name} {reason}; curate this case again") from error

    def document(self) -> Document:
        """What is known of its regions.

        Raises:
            TripleError: missing, damaged, or says what the lexicon does not know.
        """
        try:
            text = (self.folder / RATIONALE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TripleError(f"{self.id}: {RATIONALE} cannot be read ({error}); curate this case again") from error
        return Document.from_json(text, self.id)


class TripleSet(Sequence[Triple]):
    """The triples of a folder.

    Args:
        folder: with ``triples.json`` and ``index.parquet``.

    Raises:
        TripleError: it is no set of triples, or of another version.
        ModuleNotFoundError: pyarrow is not installed (the extra ``train``).
    """

    def __init__(self, folder: Path, rows: Sequence[Triple] | None = None) -> None:
        self.folder = folder
        self.triples = tuple(_read_index(folder) if rows is None else rows)

    def __len__(self) -> int:
        return len(self.triples)

    def __getitem__(self, index: Any) -> Any:
        return self.triples[index]

    def __iter__(self) -> Iterator[Triple]:
        return iter(self.triples)

    def split(self, name: str, fold: int | None = None) -> TripleSet:
        """Triples of a split. With a ``fold`` of a published cross-validation, "val" is that fold and "train" the
        others; a triple of the test split is in neither.

        Raises:
            TripleError: no triple of the set has that fold.
        """
        if fold is None:
            return TripleSet(self.folder, [t for t in self if t.split == name])
        folds = sorted({t.fold for t in self if t.fold >= 0})
        if fold not in folds:
            known = ", ".join(map(str, folds)) or "none; curate with --folds"
            raise TripleError(f"{self.folder.name}: no triple has fold {fold}; folds there: {known}")
        if name == "test":
            return TripleSet(self.folder, [t for t in self if t.split == name])
        folded = [t for t in self if t.fold >= 0 and t.split != "test"]
        return TripleSet(self.folder, [t for t in folded if (t.fold == fold) == (name == "val")])


def _read_index(folder: Path) -> list[Triple]:
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    header = folder / HEADER
    try:
        data = json.loads(header.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TripleError(
            f"{folder} is not a set of triples: no {HEADER} of format {FORMAT}. Make one with 'medrationale curate'"
        ) from error
    if data.get("version") != VERSION:
        raise TripleError(f"{folder}: version {data.get('version')} of the format, this MedRationale reads {VERSION}")
    try:
        rows = parquet.read_table(folder / INDEX).to_pylist()
        return [
            Triple(**{k: row[k] for k in _COLUMNS if k != "roles"}, roles=tuple(row["roles"]),
                   folder=folder / "cases" / row["id"])
            for row in rows
        ]  # fmt: skip
    except (OSError, ArrowException, KeyError, TypeError) as error:
        raise TripleError(f"{folder}: {INDEX} cannot be read ({error}); curate the set again") from error


_COLUMNS: Final = tuple(n for n in Triple.__dataclass_fields__ if n != "folder")


class TripleWriter:
    """Writes a set: cases one by one into a hidden folder that takes its place when the index is written.

    Args:
        folder: new or empty.

    Raises:
        TripleError: the folder holds something.
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TripleError(f"{folder} is not an empty folder; give a new or empty one")
        self.scratch = folder.parent / f".{folder.name}.new-{uuid4().hex[:8]}"
        self.rows: list[Triple] = []
        self.skipped: list[dict[str, str]] = []
        self._published: set[str] = set()  # patients whose split the source says
        try:
            (self.scratch / "cases").mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        shutil.rmtree(self.scratch, ignore_errors=True)

    def skip(self, name: str, reason: str) -> None:
        """Count a case that cannot be used, with the reason."""
        self.skipped.append({"id": name, "reason": reason})

    def add(self, name: str, images: Mapping[str, Volume], zones: Volume | None, regions: Volume | None,
            document: Document, *, patient: str, study: str = "", split: str | None = None, fold: int = -1,
            source: str = "") -> Triple:  # fmt: skip
        """Write one triple.

        Args:
            name: of the triple; unique, and usable as a folder's name.
            images: role -> image on its own grid.
            zones: labels 1 PZ, 2 TZ, 3 gland, on any grid; resampled onto the frame where it is another one.
            regions: numbers of outlined regions, on any grid.
            document: one entry for each number.
            patient, study, source: for the index.
            split, fold: as published; the split follows from the patient otherwise. A published test case has no
                fold: nothing is trained or chosen on it.

        Raises:
            TripleError: no image, a name that is no folder's or is taken, masks off their image, numbers that do not
                agree, an unknown phrase.
            OutputError: a full disk.
        """
        import SimpleITK as sitk

        if not name or name.startswith(".") or any(c in '/\\:*?"<>|' or not c.isprintable() for c in name):
            raise TripleError(f"{name!r} cannot be a folder's name")
        frame = images.get("t2w") or images.get("adc")
        if frame is None:
            raise TripleError(f"{name}: neither T2W nor ADC is there")
        masks: dict[str, Volume] = {}
        for label, mask in (("zones", zones), ("regions", regions)):
            if mask is not None:
                masks[label] = on_frame(mask, frame, f"{name}: {mask.name or label}")
        numbers = set(np.unique(masks["regions"].array).tolist()) - {0} if "regions" in masks else set()
        if numbers != {r.number for r in document.regions}:
            raise TripleError(f"{name}: the mask holds regions {sorted(numbers)}, the rationale speaks of "
                              f"{sorted(r.number for r in document.regions)}")  # fmt: skip
        for region in document.regions:
            check_region(region, name)
        folder = self.scratch / "cases" / name
        volumes = {label: volume.to_sitk() for label, volume in {**images, **masks}.items()}
        text = document.to_json()
        try:
            folder.mkdir()
            for label, volume in volumes.items():
                sitk.WriteImage(volume, str(folder / f"{label}.nii.gz"))
            (folder / RATIONALE).write_text(text, encoding="utf-8", newline="\n")
            sha256 = _sha256(folder)
        except FileExistsError as error:
            raise TripleError(f"{name}: two cases have this name") from error
        except (OSError, RuntimeError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
                raise TripleError(f"{name}: too long for a folder's name") from error
            raise OutputError(f"{self.folder}: {name} cannot be written ({error}); is the disk full?") from error
        if split is not None:
            self._published.add(patient)
        if split == "test":
            fold = -1
        kind = "" if "zones" not in masks else "zones" if has_zones(masks["zones"].array) else "gland"
        triple = Triple(
            name, patient, study, split or split_of(patient), fold, source, tuple(r for r in ROLES if r in images),
            kind, len(document.regions), sum(r.positive is True for r in document.regions), sha256, folder,
        )  # fmt: skip
        self.rows.append(triple)
        return triple

    def close(self, facts: Mapping[str, Any]) -> TripleSet:
        """Write the index and header and put the set in its place.

        Args:
            facts: where the triples come from; goes into ``triples.json``.

        Raises:
            TripleError: no triple at all, a patient in two splits or in two folds.
            OutputError: a full disk.
        """
        import pyarrow
        import pyarrow.parquet as parquet

        if not self.rows:
            why = "; ".join(f"{s['id']}: {s['reason']}" for s in self.skipped[:3]) or "no case was found"
            raise TripleError(f"{self.folder}: no usable triple ({why})")
        folds: dict[str, int] = {}
        for row in self.rows:
            if row.fold >= 0 and folds.setdefault(row.patient, row.fold) != row.fold:
                raise TripleError(f"patient {row.patient} is both in fold {folds[row.patient]} and in {row.fold}; "
                                  "give the patient's studies one fold")  # fmt: skip
        # who is in a cross-validation is trained and validated on, so the hash must not make a test case of him
        self.rows = [
            replace(t, split="train") if t.patient in folds and t.patient not in self._published else t
            for t in self.rows
        ]
        splits: dict[str, str] = {}
        for row in self.rows:
            if splits.setdefault(row.patient, row.split) != row.split:
                raise TripleError(f"patient {row.patient} is both in {splits[row.patient]} and in {row.split}; "
                                  "give the patient's studies one split")  # fmt: skip
        self.rows.sort(key=lambda t: t.id)
        rows = [{k: getattr(t, k) for k in _COLUMNS} | {"roles": list(t.roles)} for t in self.rows]
        digest = hashlib.sha256("\n".join(f"{t.id} {t.sha256}" for t in self.rows).encode()).hexdigest()
        header = {
            "format": FORMAT, "version": VERSION, "notice": NOTICE, "triples": len(rows),
            "splits": {s: sum(t.split == s for t in self.rows) for s in SPLITS}, "sha256": digest,
            "skipped": self.skipped, **facts,
        }  # fmt: skip
        try:
            parquet.write_table(pyarrow.Table.from_pylist(rows), self.scratch / INDEX)
            (self.scratch / HEADER).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8", newline="\n")
            if self.folder.exists():
                self.folder.rmdir()
            os.replace(self.scratch, self.folder)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written ({error.strerror or error})") from error
        return TripleSet(self.folder)


def has_zones(labels: NDArray[Any]) -> bool:
    """Whether a map tells PZ from TZ anywhere; where it does, its :data:`GLAND` is gland of unknown zone."""
    return bool(((labels == 1) | (labels == 2)).any())


def on_frame(mask: Volume, frame: Volume, name: str) -> Volume:
    """A label mask on the frame's grid, uint8.

    Raises:
        TripleError: it lies outside the frame's field of view, in part or as a whole.
    """
    from MedRationaleLogic.imaging.measure import in_field

    if mask.geometry.almost_equal(frame.geometry):
        return frame.with_array(_labels(mask.array, name), mask.name)
    inside = np.argwhere(mask.array > 0)
    if len(inside):
        share = float(in_field(frame.geometry, mask.geometry.to_patient(inside)).mean())
        if share < LEAST_INSIDE:
            raise TripleError(
                f"{name} lies off its image: {share:.0%} of it is within the field of view of {frame.name or 'T2W'}; "
                "expected a mask of the same patient in the same physical frame"
            )
    moved = mask.with_array(_labels(mask.array, name)).resample(frame.geometry, nearest=True)
    if len(inside) and not moved.array.any():
        raise TripleError(f"{name}: nothing of it is left on the grid of {frame.name or 'T2W'}")
    return frame.with_array(_labels(moved.array, name), mask.name)


def _labels(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    rounded = np.rint(array)
    if rounded.size and (np.abs(rounded - array).max() > 1e-3 or rounded.min() < 0 or rounded.max() > 255):
        raise TripleError(f"{name} is not a label mask: expected whole numbers from 0 to 255")
    return rounded.astype(np.uint8)


def _sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
