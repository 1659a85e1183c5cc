"""What a reader can take away from a case, file by file: made whole in a private folder, under names that tell nothing
of the patient. The files are those of :mod:`MedRationaleLogic.export`; what is in them is decided there. Research use
only.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final
from uuid import uuid4

from MedRationaleLogic.case import Case
from MedRationaleLogic.export.files import EVIDENCE_SLOPE, evidence_bytes, write_results
from MedRationaleLogic.export.json_document import to_json
from MedRationaleLogic.export.nifti import nifti_gz
from MedRationaleLogic.export.report import render_report
from MedRationaleLogic.export.text import ris_text
from MedRationaleLogic.inference.explanation import Explanation

__all__ = ["DOWNLOADS", "Download", "DownloadError", "Offer", "UnknownDownloadError", "make", "offered"]


class UnknownDownloadError(KeyError):
    """There is no download of this name."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError's own text is quoted


class DownloadError(ValueError):
    """A download that cannot be had now; the text says why."""


@dataclass(frozen=True)
class Download:
    """A file that a case can be taken away as.

    Attributes:
        name: of the file.
        label: for a link.
        media_type: for its ``Content-Type``.
        note: what is in it, in words.
        needs_evidence: it holds evidence maps, so they have to be at hand.
    """

    name: str
    label: str
    media_type: str
    note: str
    needs_evidence: bool = False


@dataclass(frozen=True)
class Offer:
    """A download and whether it can be had now.

    Attributes:
        download: which.
        available: whether :meth:`make` would make it.
        why: why not; empty where it can be had.
    """

    download: Download
    available: bool
    why: str = ""


CASE: Final = "case.zip"
_ALL: Final = (
    Download(
        "report.html", "Report", "text/html; charset=utf-8", "One page with pictures, for any browser.",
        needs_evidence=True,
    ),
    Download("report.txt", "Report as text", "text/plain; charset=us-ascii", "For a RIS."),
    Download(
        "rationale.json", "Rationale", "application/json", "Every step, reading and measurement, for a program."
    ),
    Download(
        "segmentation.nii.gz", "Suspicious regions", "application/gzip",
        "NIfTI on the T2W's grid (else ADC's or high-b's): the number of the region, 0 elsewhere.",
    ),
    Download(
        "evidence.zip", "Evidence maps", "application/zip", "NIfTI on the same grid, 0 to 1, one a concept.",
        needs_evidence=True,
    ),
    Download(
        "results.zip", "All results", "application/zip", "Report, rationale, zones, regions and evidence maps.",
        needs_evidence=True,
    ),
    Download(
        CASE, "Case", "application/zip",
        "Images, outlines, answers and log, to go on with later. As confidential as the study itself.",
    ),
)  # fmt: skip
DOWNLOADS: Final[Mapping[str, Download]] = {one.name: one for one in _ALL}
"""By name, in the order in which they are offered."""

_NOT_EXPLAINED: Final = "The study is not explained yet."
_NO_EVIDENCE: Final = "The evidence of a case that was opened again is computed first: look at a concept."
# Drawing is not made for two threads at once, and a case is written whole.
_one_at_a_time: Final = Lock()


def offered(case: Case | None) -> list[Offer]:
    """All downloads, each with whether it can be had of the case now."""
    return [Offer(one, not why, why) for one in DOWNLOADS.values() for why in [_refused(one, case)]]


def _refused(download: Download, case: Case | None) -> str:
    if case is None or case.explanation is None:
        return _NOT_EXPLAINED
    return _NO_EVIDENCE if download.needs_evidence and not case.evidence_at_hand else ""


def make(case: Case, name: str, folder: Path | str) -> Path:
    """Write a download, all of it or nothing; an earlier one of its name is replaced.

    All but ``case.zip`` are made of results that no longer change, so another thread than the case's own may make them.
    ``case.zip`` counts as saving the case (:attr:`Case.unsaved`) and is made in the case's own thread.

    Args:
        case: explained.
        name: one of :data:`DOWNLOADS`.
        folder: private to whoever asks; made (mode 0700) if it is not there.

    Returns:
        the path of the file, which is ``folder / name``.

    Raises:
        UnknownDownloadError: no download has this name.
        DownloadError: it cannot be had now.
        OSError: it cannot be written; nothing is left behind.
    """
    if name not in DOWNLOADS:
        raise UnknownDownloadError(f"there is no download {name!r}; there are {', '.join(DOWNLOADS)}")
    explanation = case.explanation
    why = _refused(DOWNLOADS[name], case)
    if why or explanation is None:
        raise DownloadError(f"{name}: {why}")
    place = Path(folder)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _one_at_a_time, _beside(place / name) as beside:
        if name == CASE:
            _case(case, beside)
        else:
            _WRITERS[name](explanation, beside)
    return place / name


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A place for what is to become a file; it takes the file's name once it is complete."""
    beside = target.with_name(f".{uuid4().hex}.part")
    try:
        yield beside
        beside.chmod(0o600)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _scratch(file: Path) -> Iterator[Path]:
    """A private folder beside a file, gone at the end."""
    folder = file.with_name(f"{file.name}.d")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------ the files


def _report(explanation: Explanation, file: Path) -> None:
    file.write_text(render_report(explanation), encoding="utf-8", newline="\n")


def _text(explanation: Explanation, file: Path) -> None:
    file.write_text(ris_text(explanation), encoding="ascii", newline="\n")


def _rationale(explanation: Explanation, file: Path) -> None:
    file.write_text(to_json(explanation), encoding="utf-8", newline="\n")


def _segmentation(explanation: Explanation, file: Path) -> None:
    said = "suspicious regions by number. Research use only"
    file.write_bytes(nifti_gz(explanation.lesion_labels, description=said))


def _evidence(explanation: Explanation, file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for concept in explanation.evidence:
            said = f"{concept}. Research use only"
            content = nifti_gz(evidence_bytes(explanation, concept), slope=EVIDENCE_SLOPE, description=said)
            archive.writestr(f"evidence/{concept}.nii.gz", content)


def _results(explanation: Explanation, file: Path) -> None:
    with _scratch(file) as scratch:
        write_results(explanation, scratch / "results")
        _pack(scratch / "results", file)


def _case(case: Case, file: Path) -> None:
    with _scratch(file) as scratch:
        case.save(scratch / "case")
        _pack(scratch / "case", file)


def _pack(folder: Path, file: Path) -> None:
    """A folder as a zip that unpacks into a folder of its name; what is compressed already is stored as it is."""
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            how = zipfile.ZIP_STORED if path.suffix == ".gz" else zipfile.ZIP_DEFLATED
            archive.write(path, path.relative_to(folder.parent).as_posix(), compress_type=how)


_WRITERS: Final[Mapping[str, Callable[[Explanation, Path], None]]] = {
    "report.html": _report, "report.txt": _text, "rationale.json": _rationale, "segmentation.nii.gz": _segmentation,
    "evidence.zip": _evidence, "results.zip": _results,
}  # fmt: skip
