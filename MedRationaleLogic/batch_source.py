"""What a cohort consists of: the cases of a folder or of a table, found without reading an image.

:mod:`MedRationaleLogic.batch` explains them.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final, Literal

from MedRationaleLogic.export.files import EXPLANATION
from MedRationaleLogic.imaging import files as image_files
from MedRationaleLogic.imaging.acquisition import ROLES, StudyError, count

__all__ = ["COLUMNS", "FAILURES", "SUMMARY", "BatchError", "Failure", "Job", "home", "read_source"]

SUMMARY: Final = "summary.csv"
FAILURES: Final = "failures.csv"
"""The two tables in the output folder; no case may have their names."""
COLUMNS: Final = ("case", "study", *ROLES, "psa")
"""What a table may have; at least one of study, t2w, adc and hbv."""
LONGEST_NAME: Final = 80
"""Characters of a case's folder; with the results below it, a path of 260 characters still has room on Windows."""

Kind = Literal["table", "study", "output", "memory", "unexpected", "passed over"]
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


class BatchError(StudyError):
    """The source is no cohort: not a folder or table, an unknown column, nothing in it; the text says what to do."""


@dataclass(frozen=True)
class Job:
    """One case that is to be explained.

    Attributes:
        case: its name, which is that of its result folder.
        where: the row of the table or the sub-folder, in words.
        study: a folder or file that :func:`~MedRationaleLogic.imaging.study.read_study` reads, or None.
        files: by role, what wins over ``study``.
        psa: ng/mL.
        problem: why it cannot be explained, found before anything was read; None for a job that can be tried.
    """

    case: str
    where: str
    study: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    psa: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Failure:
    """Something that has no result, and why.

    Attributes:
        case: its name, or that of a sub-folder that was passed over.
        where: the row of the table or the sub-folder, in words.
        kind: "table" (a bad row), "study" (its images), "output" (its result folder), "memory", "unexpected" (a fault
            of the program), or "passed over" (a sub-folder that is no study).
        reason: in words, with what to do.
    """

    case: str
    where: str
    kind: Kind
    reason: str


def read_source(source: Path | str, *, output: Path | None = None) -> tuple[tuple[Job, ...], tuple[Failure, ...]]:
    """The cases of a folder or a table, without reading an image.

    Args:
        source: as for :func:`run`.
        output: where the results will go; no study is looked for there.

    Returns:
        the jobs in the order of the rows, or of the sub-folders' names, and the sub-folders that are no study. A job
        whose row is bad carries its ``problem``.

    Raises:
        BatchError: neither a folder nor a table; no case in it; an unknown column; not text.
    """
    path = home(source)
    if not path.exists():
        raise BatchError(f"{path.name}: there is no such folder or table; give a folder of studies, or a CSV table")
    if path.is_dir():
        jobs, passed_over = _from_folder(path.resolve(), output)
    else:
        jobs, passed_over = _from_table(path.resolve()), []
    return tuple(_told_apart(jobs)), tuple(passed_over)


def _from_folder(folder: Path, output: Path | None) -> tuple[list[Job], list[Failure]]:
    if output == folder:
        raise BatchError(f"{folder.name}: the results cannot go where the studies lie; give another output folder")
    jobs, passed_over = [], []
    try:
        children = sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: _natural(p.name))
        for child in children:
            reason = _no_study(child, output)
            if reason is None:
                jobs.append(_job(child.name, f"folder {child.name}", study=child))
            else:
                passed_over.append(Failure(child.name, f"folder {child.name}", "passed over", reason))
    except OSError as error:
        raise BatchError(f"{folder.name}: cannot be read ({error.strerror or error}); check its rights") from error
    if not jobs:
        advice = "give a folder whose sub-folders are studies, or a table"
        if any(_may_be_image(p) for p in folder.iterdir() if p.is_file()):
            advice = f"it is a study itself: explain it by itself, or {advice}"
        raise BatchError(f"{folder.name}: none of its {count(len(children), 'sub-folder')} is a study; {advice}")
    return jobs, passed_over


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Case 2 before case 10; the name itself tells apart what reads the same."""
    parts = [(0, int(p), "") if p.isdecimal() else (1, 0, p.casefold()) for p in re.split(r"(\d+)", name) if p]
    return parts, name


def _no_study(folder: Path, output: Path | None) -> str | None:
    """Why a sub-folder is passed over, or None for a study."""
    if folder.name.startswith(".") or folder.name == "__MACOSX":
        return "a hidden folder"
    if output is not None and (folder.resolve() == output or output.is_relative_to(folder.resolve())):
        return "the results go there"
    if (folder / EXPLANATION).is_file():
        return "it holds a result of MedRationale"
    inside = (p for p in folder.rglob("*") if not any(q.startswith(".") for q in p.relative_to(folder).parts))
    if not any(p.is_file() and _may_be_image(p) for p in inside):
        return "neither DICOM nor an image file in it"
    return None


def _may_be_image(path: Path) -> bool:
    """By its name, or by DICOM's mark; a DICOM file without the mark is known by having no ending or a usual one."""
    if path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini"):
        return False
    if image_files.is_image_file(path) or path.suffix.lower() in (".dcm", ".ima"):
        return True
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return True  # a study that may not be read is one that failed, not one that is passed over
    return start[128:] == b"DICM" or (not path.suffix and len(start) == 132 and b"\0" in start)


def _from_table(table: Path) -> list[Job]:
    if image_files.is_image_file(table):
        raise BatchError(f"{table.name}: an image, not a table; explain it by itself, or give a folder of studies")
    text = _text(table)
    head = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=head.count) if head else ","
    try:
        rows = [
            (reader.line_num, row)
            for reader in (csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True),)
            for row in reader
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise BatchError(f"{table.name}: cannot be read as a table ({error}); save it as CSV again") from error
    if not rows:
        raise BatchError(f"{table.name}: the table is empty; its first row names columns: {', '.join(COLUMNS)}")
    names = [cell.strip().lower() for cell in rows[0][1]]
    while names and not names[-1]:
        names.pop()
    _check_columns(names, table.name)
    if len(rows) == 1:
        raise BatchError(f"{table.name}: the table has no row below its header; add a row for each case")
    return [_from_row(names, row, f"row {line}", table.parent, delimiter) for line, row in rows[1:]]


def _text(table: Path) -> str:
    try:
        raw = table.read_bytes()
    except OSError as error:
        raise BatchError(f"{table.name}: cannot be read ({error.strerror or error}); check its rights") from error
    marked = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = raw.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise BatchError(
            f"{table.name}: not UTF-8 text (byte {error.start + 1}); save it as 'CSV UTF-8', not as a workbook"
        ) from error
    if "\0" in text:
        raise BatchError(f"{table.name}: not a text table; save it as 'CSV UTF-8', not as a workbook")
    return text


def _check_columns(names: Sequence[str], table: str) -> None:
    known = f"known are {', '.join(COLUMNS)}"
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        shown = ", ".join(repr(name) for name in unknown[:5])
        raise BatchError(f"{table}: unknown column {shown}; {known}: rename or remove it")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise BatchError(f"{table}: column {twice[0]!r} stands there twice; keep one")
    if not set(names) & {"study", *ROLES}:
        raise BatchError(f"{table}: no column tells where the images are; add study, or t2w, adc and hbv")


def _from_row(names: Sequence[str], row: Sequence[str], where: str, folder: Path, delimiter: str) -> Job:
    cells = [cell.strip() for cell in row]
    extra = any(cells[len(names) :])
    values = {name: cell for name, cell in zip(names, cells, strict=False) if cell}
    psa, problem = _psa(values.get("psa"), delimiter)
    paths: dict[str, Path] = {}
    for column in ("study", *ROLES):
        if column in values:
            try:
                paths[column] = folder / home(values[column])
            except BatchError as error:  # one row's fault
                paths[column], problem = folder / values[column], f"{where}: {error}"
    name = values.get("case") or _name_from(paths)
    if not paths:
        problem = f"{where}: names no study and no image; fill in study, or t2w, adc or hbv"
    if extra:
        problem = f"{where}: has more cells than the header; put a cell that holds the separator into quotes"
    study = paths.pop("study", None)
    return _job(name or where, where, study=study, files=paths, psa=psa, problem=problem)


def home(path: Path | str) -> Path:
    """A path with its ``~`` spelt out.

    Raises:
        BatchError: it is the home of nobody.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise BatchError(f"{Path(path).parts[0]}: there is no home folder of that name; write the path out") from error


def _name_from(paths: Mapping[str, Path]) -> str:
    """A case's name where no column gives one: the study folder's, else the first file's without its ending."""
    first = next(iter(paths.values()), None)
    if first is None:
        return ""
    return image_files.stem(first) if image_files.is_image_file(first) else first.resolve().name


def _psa(text: str | None, delimiter: str) -> tuple[float | None, str | None]:
    """A PSA and what is wrong with it; a comma may be the decimal point where it is not the separator."""
    if text is None:
        return None, None
    plain = text.replace(",", ".") if delimiter != "," else text
    try:
        value = float(plain)
    except ValueError:
        value = 0.0
    if 0.0 < value < float("inf"):
        return value, None
    return None, f"PSA {text!r} is not a positive number in ng/mL; correct it or leave the cell empty"


def _job(name: str, where: str, *, problem: str | None = None, **more: Any) -> Job:
    """A job under a name that is a folder's on every system; a name that leads elsewhere is a problem."""
    refused = _refused(name)
    return Job(_safe(name), where, problem=problem or refused, **more)


def _refused(name: str) -> str | None:
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    if ".." in parts or "/" in name or "\\" in name or name.strip() in (".", ""):
        return f"case name {name!r} is a path; give a plain name"
    return None


def _safe(name: str) -> str:
    """A name that Windows, macOS and Linux take for a folder: no reserved sign or word, no dot or blank at the ends."""
    text = unicodedata.normalize("NFC", name)
    text = "".join("_" if c in '<>:"/\\|?*' or not c.isprintable() else c for c in text).strip()
    text = re.sub(r"^\.+", "_", text)[:LONGEST_NAME].rstrip(". ")
    if not text or _RESERVED.fullmatch(text) or text.casefold() in (SUMMARY, FAILURES):
        text += "_"
    return text


def _told_apart(jobs: Sequence[Job]) -> Iterator[Job]:
    """The jobs; those that would share one result folder are all refused, since none of them is the right one."""
    of: dict[str, list[Job]] = {}
    for job in jobs:
        of.setdefault(job.case.casefold(), []).append(job)
    for job in jobs:
        same = of[job.case.casefold()]
        if len(same) > 1 and job.problem is None:
            others = ", ".join(other.where for other in same if other is not job)
            text = f"the result folder {job.case!r} would also be that of {others}; give each case a name of its own"
            yield Job(job.case, job.where, job.study, job.files, job.psa, text)
        else:
            yield job
