"""A cohort: every study of a folder or of a table explained in turn, each into a result folder of its own.

    summary = run("studies", "results")              # a folder whose sub-folders are studies
    summary = run("cohort.csv", "results")           # a table with columns among case, study, t2w, adc, hbv, psa

| in the output folder | what |
|---|---|
| ``<case>/`` | the result of one case, as :func:`MedRationaleLogic.export.write_results` writes it |
| ``summary.csv`` | a row for each suspicious region, and one for a case without any |
| ``failures.csv`` | what was not explained and why; only its header when all went well |

Started again, it goes on: a case whose result is complete and was made from the same voxels, PSA and bundle is passed
over. A case that fails is listed and the next one begins. Both tables are written beside their place and put there
after every case, so that they are whole whenever the run ends. Log lines number the cases and never name them: a
case's name, or its folder's, may be a patient's. Research use only.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Final, Literal

from MedRationaleLogic.export.files import EVIDENCE, EXPLANATION, REPORT, ResultsError, write_results
from MedRationaleLogic.export.json_document import FORMAT
from MedRationaleLogic.imaging import files as image_files
from MedRationaleLogic.imaging.acquisition import ROLES, StudyError, count
from MedRationaleLogic.imaging.study import Study, read_study
from MedRationaleLogic.inference.explanation import NOTICE

if TYPE_CHECKING:
    from MedRationaleLogic.case import ExplainerLike
    from MedRationaleLogic.inference.device import Device
    from MedRationaleLogic.inference.explainer import Cancelled, Progress

__all__ = ["BatchError", "BatchSummary", "Failure", "Job", "read_source", "run"]

SUMMARY: Final = "summary.csv"
FAILURES: Final = "failures.csv"
COLUMNS: Final = ("case", "study", *ROLES, "psa")
"""What a table may have; at least one of study, t2w, adc and hbv."""
SUMMARY_COLUMNS: Final = (
    "case", "result", "sequences", "case_category", "region", "category", "category_reachable", "zone", "sectors",
    "size_mm", "volume_ml", "t2w", "dwi", "dce", "suspicion", "flags", "gland_ml", "psa_ng_ml", "psa_density",
    "case_flags", "seconds", "bundle", "notice",
)  # fmt: skip
FAILURE_COLUMNS: Final = ("case", "where", "kind", "reason")
LONGEST_NAME: Final = 80
"""Characters of a case's folder; with the results below it, a path of 260 characters still has room on Windows."""

Kind = Literal["table", "study", "output", "memory", "unexpected", "passed over"]
Json = dict[str, Any]

_FILES: Final = (EXPLANATION, "zones.nii.gz", "lesions.nii.gz", REPORT, "report.txt")
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_FORMULA: Final = ("=", "+", "-", "@")
_FULL: Final = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})

_log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class BatchSummary:
    """What became of a cohort.

    Attributes:
        output: the folder that holds a result folder for each case.
        done: cases that were explained now, in the order of the source.
        skipped: cases whose complete result was there already.
        failed: cases without a result, and why.
        passed_over: sub-folders that are no study, and why.
        pending: cases that were not reached, because the run was stopped.
        summary, failures: the two tables.
    """

    output: Path
    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[Failure, ...]
    passed_over: tuple[Failure, ...]
    pending: tuple[str, ...]
    summary: Path
    failures: Path

    @property
    def stopped(self) -> bool:
        """Whether the run ended before every case had its turn."""
        return bool(self.pending)

    def __str__(self) -> str:
        parts = [f"{count(len(self.done), 'case')} explained", f"{len(self.skipped)} already there"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        parts += [f"{count(len(self.passed_over), 'sub-folder')} passed over"] if self.passed_over else []
        parts += [f"{len(self.pending)} not reached"] if self.pending else []
        return f"{', '.join(parts)}: {self.summary}. {NOTICE}"


def run(
    source: Path | str,
    output: Path | str,
    *,
    bundle: str | None = None,
    device: Device = "auto",
    explainer: ExplainerLike | None = None,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
    overwrite: bool = False,
) -> BatchSummary:
    """Explain every study of a folder or a table.

    Args:
        source: a folder whose sub-folders are studies (DICOM, NIfTI, MHA, NRRD), or a table: UTF-8 or UTF-16 text,
            separated by comma, semicolon or tab, its first row naming columns among :data:`COLUMNS`; paths in it are
            relative to the table, and ``psa`` is in ng/mL.
        output: made if it is not there. Case ``c`` goes to ``output/c``; nothing else in it is touched but the tables.
        bundle: name or folder of a bundle; the default one if None. Not with ``explainer``.
        device: "auto", "cpu" or "cuda". Not with ``explainer``.
        explainer: what runs the network: in process or in a worker.
        progress: called with (share done 0..1, "2 of 9, case: stage").
        cancelled: asked between cases and before each stage; True ends the run, and what is done stays.
        overwrite: also explain the cases that have a complete result already.

    Returns:
        what became of each case.

    Raises:
        BatchError: the source is no cohort.
        BundleError, DeviceError, ImportError: the network cannot run, for whichever case.
        ResultsError: the output folder cannot be written, or the disk is full; what is done stays.
        KeyboardInterrupt: Ctrl-C; what is done stays, and the tables are whole.
    """
    place = _home(output).resolve()
    jobs, passed_over = read_source(source, output=place)
    network = _Network(explainer, bundle, device)
    made_with = network.bundle_sha256()
    tables = _Tables(place, jobs, passed_over)
    tables.write(strict=True)
    pace = _Pace(len(jobs), progress, cancelled)
    try:
        for number, job in enumerate(jobs, 1):
            if pace.stop():
                break
            pace.begin(number, job)
            try:
                tables.outcome(job, _explain(job, place / job.case, network, made_with, pace, overwrite))
            except (_Stopped, KeyboardInterrupt):
                raise
            except Exception as error:
                if _of_the_network(error, network):
                    raise
                tables.failed(job, _failure(job, error))
                # neither text nor name: both may hold a patient's
                _log.warning("case %d of %d failed: %s", number, len(jobs), type(error).__name__)
                if _disk_full(error):
                    raise ResultsError(_full_text(number - 1, len(jobs))) from error
            tables.write()
    except _Stopped:
        pass
    finally:
        tables.write()
    summary = tables.summary()
    tables.write(strict=True)
    pace.end(summary.stopped)
    return summary


# ------------------------------------------------------------------------------------------------------------- one case


class _Stopped(Exception):  # noqa: N818
    """The caller asked to stop, in the middle of a case."""


class _Pace:
    """Progress and cancellation of the whole, seen from one case."""

    def __init__(self, total: int, progress: Progress | None, cancelled: Cancelled | None) -> None:
        self.total, self.progress, self.cancelled = total, progress, cancelled
        self.number, self.title = 0, ""

    def stop(self) -> bool:
        return self.cancelled is not None and bool(self.cancelled())

    def begin(self, number: int, job: Job) -> None:
        self.number, self.title = number, f"{number} of {self.total}, {job.case}"

    def stage(self, share: float, what: str) -> None:
        if self.progress is not None:
            done = self.number - 1 + min(max(share, 0.0), 1.0)
            self.progress(min(done / self.total, 1.0), f"{self.title}: {what}")

    def part(self, low: float, high: float) -> Progress:
        return lambda share, what: self.stage(low + (high - low) * share, what)

    def end(self, stopped: bool) -> None:
        if self.progress is not None and not stopped:
            self.progress(1.0, "done")


class _Network:
    """The explainer, made when the first case needs it: a run that finds all its results there loads no PyTorch."""

    def __init__(self, explainer: ExplainerLike | None, bundle: str | None, device: Device) -> None:
        self._explainer, self._bundle, self._device = explainer, bundle, device
        self.broken = False

    def bundle_sha256(self) -> str:
        """The weights that results have to be made with.

        Raises:
            BundleError: there is no such bundle, or it is refused.
        """
        found = getattr(self._explainer, "bundle", None)
        manifest = getattr(found, "manifest", None)
        if manifest is not None:
            return str(manifest.sha256)
        from MedRationaleLogic.model import bundle as bundles

        return bundles.find(found if isinstance(found, str) else self._bundle).manifest.sha256

    def explainer(self) -> ExplainerLike:
        if self._explainer is None:
            self.broken = True  # until it stands
            from MedRationaleLogic.inference.explainer import Explainer

            self._explainer = Explainer(self._bundle, self._device)
            self.broken = False
        return self._explainer


def _explain(
    job: Job, target: Path, network: _Network, made_with: str, pace: _Pace, overwrite: bool
) -> Literal["done", "skipped"]:
    """Explain one case, unless its result is there.

    Raises:
        _Stopped: the caller asked to stop.
        Exception: whatever went wrong with it.
    """
    if job.problem is not None:
        raise BatchError(job.problem)
    pace.stage(0.0, "reading the study")
    study = _read(job)
    if not overwrite and _is_result_of(target, study, made_with):
        pace.stage(1.0, "already there")
        return "skipped"
    pace.stage(0.1, "loading the model")
    explainer = network.explainer()
    try:
        explanation, _ = explainer.open(study, progress=pace.part(0.1, 0.8), cancelled=pace.cancelled)
    except Exception as error:
        # by name: importing where it is defined costs nothing here, but a worker may raise its own
        if type(error).__name__ == "ExplainCancelledError" or pace.stop():
            raise _Stopped from error
        raise
    pace.stage(0.8, "writing the results")
    write_results(explanation, target)
    pace.stage(1.0, "done")
    return "done"


def _read(job: Job) -> Study:
    """The study of a job, called by the case's name.

    Raises:
        StudyError: it cannot be read.
    """
    files = job.files
    try:
        for given in (job.study, *files.values()):
            if given is not None and not given.exists():
                raise StudyError(f"{given.name}: there is no such file or folder; check the path")
        return read_study(
            job.study, t2w=files.get("t2w"), adc=files.get("adc"), hbv=files.get("hbv"), psa=job.psa, name=job.case
        )
    except OSError as error:
        name = Path(error.filename).name if error.filename else "the study"
        raise StudyError(f"{name}: cannot be read ({error.strerror or error}); check its rights") from error


def _failure(job: Job, error: Exception) -> Failure:
    text = " ".join(str(error).split())
    names = {kind.__name__ for kind in type(error).__mro__}
    if "BatchError" in names:
        return Failure(job.case, job.where, "table", text)
    if "StudyError" in names:
        return Failure(job.case, job.where, "study", text)
    if _disk_full(error):
        return Failure(job.case, job.where, "output", "the disk is full; make room and run again")
    if isinstance(error, OSError):
        return Failure(job.case, job.where, "output", text)
    memory = "RuntimeError" in names and ("allocate memory" in text or "not enough memory" in text)
    if memory or names & {"MemoryError", "OutOfMemoryError"}:
        reason = "not enough memory for this study; close other programs, or try device cpu"
        return Failure(job.case, job.where, "memory", reason)
    return Failure(job.case, job.where, "unexpected", f"{type(error).__name__}: {text}".rstrip(": "))


def _of_the_network(error: Exception, network: _Network) -> bool:
    """Whether no case at all can be explained: the next would fail for the same reason."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return network.broken or bool(names & {"BundleError", "DeviceError", "ImportError"})


def _disk_full(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _full_text(done: int, total: int) -> str:
    return f"the disk is full after {done} of {total} cases; make room and run again: what is done stays and is kept"


# -------------------------------------------------------------------------------------------- results that are there


def _record(folder: Path) -> Json | None:
    """``explanation.json`` of a complete result folder, or None."""
    if not all((folder / name).is_file() for name in _FILES):
        return None
    try:
        data = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            return None
        maps = [folder / EVIDENCE / f"{concept}.nii.gz" for concept in data["evidence"]["maps"]]
        list(_rows("", "", data))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    found: Json = data
    return found if all(path.is_file() for path in maps) else None


def _is_result_of(folder: Path, study: Study, bundle_sha256: str) -> bool:
    """Whether a folder holds the complete result of these voxels, this PSA and this bundle."""
    record = _record(folder)
    if record is None:
        return False
    used = record["provenance"]
    was = sorted((entry["role"], entry["sha256"]) for entry in used["inputs"])
    now = sorted((entry.role, entry.sha256) for entry in study.inputs)
    same_psa = record["study"]["psa_ng_ml"] == study.psa
    return was == now and same_psa and used["bundle"].get("sha256") == bundle_sha256


# ----------------------------------------------------------------------------------------------------------- the tables


class _Tables:
    """The outcome of every job, and the two tables that tell it."""

    def __init__(self, folder: Path, jobs: Sequence[Job], passed_over: Sequence[Failure]) -> None:
        self.folder, self.jobs, self.passed_over = folder, tuple(jobs), tuple(passed_over)
        self._outcome: dict[str, Literal["done", "skipped"]] = {}
        self._failed: dict[str, Failure] = {}
        self._rows: dict[str, list[Json]] = {}

    def outcome(self, job: Job, outcome: Literal["done", "skipped"]) -> None:
        self._outcome[job.where] = outcome
        record = _record(self.folder / job.case)
        word = "new" if outcome == "done" else "kept"
        self._rows[job.where] = list(_rows(job.case, word, record)) if record is not None else []

    def failed(self, job: Job, failure: Failure) -> None:
        self._failed[job.where] = failure
        self._rows[job.where] = []

    def summary(self) -> BatchSummary:
        def names(outcome: str) -> tuple[str, ...]:
            return tuple(job.case for job in self.jobs if self._outcome.get(job.where) == outcome)

        told = self._outcome.keys() | self._failed.keys()
        return BatchSummary(
            output=self.folder, done=names("done"), skipped=names("skipped"),
            failed=tuple(self._failed[job.where] for job in self.jobs if job.where in self._failed),
            passed_over=self.passed_over, pending=tuple(job.case for job in self.jobs if job.where not in told),
            summary=self.folder / SUMMARY, failures=self.folder / FAILURES,
        )  # fmt: skip

    def write(self, *, strict: bool = False) -> None:
        """Put both tables in place.

        Args:
            strict: False lets a table that cannot be replaced now (open in another program) wait for the next time.

        Raises:
            ResultsError: when strict, and a table cannot be written.
        """
        rows = [row for job in self.jobs for row in self._of(job)]
        failed = [self._failed[job.where] for job in self.jobs if job.where in self._failed]
        lines = [{name: getattr(x, name) for name in FAILURE_COLUMNS} for x in (*failed, *self.passed_over)]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _put(self.folder / SUMMARY, SUMMARY_COLUMNS, rows)
            _put(self.folder / FAILURES, FAILURE_COLUMNS, lines)
        except OSError as error:
            if not strict:
                _log.warning("the tables cannot be written now: %s", type(error).__name__)
                return
            raise ResultsError(
                f"{self.folder.name}: {SUMMARY} and {FAILURES} cannot be written ({error.strerror or error}); give a "
                "folder that can be written, and close the tables where they are open"
            ) from error

    def _of(self, job: Job) -> list[Json]:
        """A job's rows; of a job that had no turn yet, those of the result that lies there."""
        if job.where not in self._rows:
            record = None if job.problem else _record(self.folder / job.case)
            self._rows[job.where] = [] if record is None else list(_rows(job.case, "not checked", record))
        return self._rows[job.where]


def _rows(case: str, result: str, record: Json) -> Iterator[Json]:
    """A case's rows of the summary, from its ``explanation.json``.

    Raises:
        KeyError, TypeError, AttributeError: it is none of ours.
    """
    study, used, gland, density = record["study"], record["provenance"], record["gland"], record["psa_density"]
    whole: Json = {
        "case": case,
        "result": result,
        "sequences": " ".join(study["sequences"]),
        "case_category": record["category"]["value"],
        "gland_ml": None if gland is None else round(gland["planimetry_ml"], 2),
        "psa_ng_ml": study["psa_ng_ml"],
        "psa_density": None if density is None else round(density["ng_ml_per_ml"], 3),
        "case_flags": "; ".join(record["flags"]),
        "seconds": round(sum(used["seconds"].values()), 2),
        "bundle": f"{used['bundle'].get('name')} {used['bundle'].get('version')}",
        "notice": record["notice"],
    }
    if not record["lesions"]:
        yield whole
    for lesion in record["lesions"]:
        rationale, measures, suspicion = lesion["rationale"], lesion["measures"], lesion["suspicion"]
        yield whole | {
            "region": lesion["number"],
            "category": lesion["category"],
            "category_reachable": " ".join(str(c) for c in lesion["category_reachable"]),
            "zone": lesion["zone"],
            "sectors": " ".join(sector["key"] for sector in measures["sectors"]),
            "size_mm": round(measures["in_plane"]["mm"], 1),
            "volume_ml": round(measures["volume_ml"], 3),
            "t2w": rationale["t2w"],
            "dwi": rationale["dwi"],
            "dce": rationale["dce"],
            "suspicion": None if suspicion is None else round(suspicion["value"], 4),
            "flags": "; ".join(dict.fromkeys((*lesion["flags"], *rationale["flags"]))),
        }


def _put(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A table by RFC 4180 in UTF-8, written beside its place and renamed."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_bytes(text.getvalue().encode("utf-8", errors="replace"))
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _cell(value: object) -> object:
    """What goes into a cell: text that a spreadsheet would take for a formula is marked as text by an apostrophe."""
    if isinstance(value, str):
        clean = "".join(c if c.isprintable() else " " for c in value)
        return f"'{clean}" if clean.lstrip().startswith(_FORMULA) else clean
    return "" if value is None else value


# ----------------------------------------------------------------------------------------------------------- the source


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
    path = _home(source)
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
                paths[column] = folder / _home(values[column])
            except BatchError as error:  # one row's fault
                paths[column], problem = folder / values[column], f"{where}: {error}"
    name = values.get("case") or _name_from(paths)
    if not paths:
        problem = f"{where}: names no study and no image; fill in study, or t2w, adc or hbv"
    if extra:
        problem = f"{where}: has more cells than the header; put a cell that holds the separator into quotes"
    study = paths.pop("study", None)
    return _job(name or where, where, study=study, files=paths, psa=psa, problem=problem)


def _home(path: Path | str) -> Path:
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
