"""A cohort: every study of a folder or of a table explained, each into a result folder of its own.

    summary = run("studies", "results")              # a folder whose sub-folders are studies
    summary = run("cohort.csv", "results")           # a table with columns among case, study, t2w, adc, hbv, psa
    summary = run("studies", "results", jobs=4)      # four at once, each in a process of its own
    summary = run("studies", "results", executor=e)  # by whatever is a concurrent.futures.Executor, as Dask's

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
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from MedRationaleLogic.batch_source import COLUMNS, FAILURES, SUMMARY, BatchError, Failure, Job, home, read_source
from MedRationaleLogic.export.files import EVIDENCE, EXPLANATION, REPORT, ResultsError, write_results
from MedRationaleLogic.export.json_document import FORMAT
from MedRationaleLogic.imaging.acquisition import StudyError, count
from MedRationaleLogic.imaging.study import Study, read_study
from MedRationaleLogic.inference.explanation import NOTICE

if TYPE_CHECKING:
    from MedRationaleLogic.case import ExplainerLike
    from MedRationaleLogic.inference.device import Device
    from MedRationaleLogic.inference.explainer import Cancelled, Progress

__all__ = ["COLUMNS", "BatchError", "BatchSummary", "Failure", "Job", "read_source", "run"]

SUMMARY_COLUMNS: Final = (
    "case", "result", "sequences", "case_category", "region", "category", "category_reachable", "zone", "sectors",
    "size_mm", "volume_ml", "t2w", "dwi", "dce", "suspicion", "flags", "gland_ml", "psa_ng_ml", "psa_density",
    "case_flags", "seconds", "bundle", "notice",
)  # fmt: skip
FAILURE_COLUMNS: Final = ("case", "where", "kind", "reason")
LOOK_S: Final = 1.0
"""How often it is asked whether to stop while others explain."""
Json = dict[str, Any]

_FILES: Final = (EXPLANATION, "zones.nii.gz", "lesions.nii.gz", REPORT, "report.txt")
_FORMULA: Final = ("=", "+", "-", "@")
_FULL: Final = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})

_log = logging.getLogger(__name__)


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
    jobs: int = 1,
    executor: Executor | None = None,
) -> BatchSummary:
    """Explain every study of a folder or a table.

    Args:
        source: a folder whose sub-folders are studies (DICOM, NIfTI, MHA, NRRD), or a table: UTF-8 or UTF-16 text,
            separated by comma, semicolon or tab, its first row naming columns among :data:`COLUMNS`; paths in it are
            relative to the table, and ``psa`` is in ng/mL.
        output: made if it is not there. Case ``c`` goes to ``output/c``; nothing else in it is touched but the tables.
        bundle: name or folder of a bundle; the default one if None. Not with ``explainer``.
        device: "auto", "cpu" or "cuda". Not with ``explainer``.
        explainer: what runs the network: in process or in a worker. Not with ``jobs`` or ``executor``.
        progress: called with (share done 0..1, "2 of 9, case: stage"); where several are explained at once, when one
            of them has ended.
        cancelled: asked between cases and, where one is explained after the other, before each stage, else each
            second; True ends the run, and what is done stays. Cases that others are explaining already are waited for.
        overwrite: also explain the cases that have a complete result already.
        jobs: cases at once, each in a process of its own with its share of the cores. A script that asks for more than
            one needs ``if __name__ == "__main__":``, as everything that starts processes by :mod:`multiprocessing`.
        executor: explains the cases instead, as many at once as it likes; it stays open. Its processes must have this
            package and the bundle, and see source and output under the same paths.

    Returns:
        what became of each case.

    Raises:
        ValueError: ``jobs`` is less than 1, or more than one of ``explainer``, ``jobs`` and ``executor`` is given.
        BatchError: the source is no cohort; or a process ended in the middle of a case.
        BundleError, DeviceError, ImportError: the network cannot run, for whichever case.
        ResultsError: the output folder cannot be written, or the disk is full; what is done stays.
        KeyboardInterrupt: Ctrl-C; what is done stays, and the tables are whole.
    """
    if jobs < 1 or (explainer is not None) + (executor is not None) + (jobs > 1) > 1:
        raise ValueError("give jobs of 1 or more, or one explainer, or one executor")
    place = home(output).resolve()
    cases, passed_over = read_source(source, output=place)
    network = _Network(explainer, bundle, device)
    order = _Order(network.bundle_sha256(), bundle, device, overwrite)
    tables = _Tables(place, cases, passed_over)
    tables.write(strict=True)
    pace = _Pace(len(cases), progress, cancelled)
    try:
        with _pool(min(jobs, len(cases)), executor) as pool:
            ended = _in_turn(cases, place, network, order, pace)
            if pool is not None:
                ended = _at_once(cases, place, pool, order, pace)
            for told, (number, outcome) in enumerate(ended):
                if isinstance(outcome.result, Exception):
                    raise outcome.result
                if not isinstance(outcome.result, Failure):
                    tables.outcome(cases[number], outcome.result)
                else:
                    tables.failed(cases[number], outcome.result)
                    # neither text nor name: both may hold a patient's
                    _log.warning("case %d of %d failed: %s", number + 1, len(cases), outcome.fault)
                    if outcome.disk_full:
                        raise ResultsError(_full_text(told, len(cases)))
                tables.write()
    finally:
        tables.write()
    summary = tables.summary()
    tables.write(strict=True)
    pace.end(summary.stopped)
    return summary


def _in_turn(
    cases: Sequence[Job], place: Path, network: _Network, order: _Order, pace: _Pace
) -> Iterator[tuple[int, _Outcome]]:
    """One case after the other, here: its number from 0, and what became of it."""
    for number, job in enumerate(cases):
        if pace.stop():
            return
        pace.begin(number + 1, job)
        try:
            outcome = _attempt(job, place / job.case, network, order, pace)
        except _Stopped:
            return
        yield number, outcome


def _at_once(
    cases: Sequence[Job], place: Path, pool: Executor, order: _Order, pace: _Pace
) -> Iterator[tuple[int, _Outcome]]:
    """Many cases, wherever the pool runs them: the number from 0 of each that has ended, and what became of it.

    Raises:
        BatchError: a process ended in the middle of a case, or the executor gave one back unexplained.
    """
    begun = {pool.submit(_attempt_here, job, place / job.case, order): number for number, job in enumerate(cases)}
    left, told = set(begun), 0
    try:
        while left:
            ended, left = wait(left, LOOK_S, FIRST_COMPLETED)
            for future in sorted(ended, key=begun.__getitem__):
                try:
                    outcome = future.result()
                except (Exception, CancelledError) as error:  # not the case's: that comes back as an outcome
                    raise BatchError(
                        f"a process ended in the middle of a case, as when memory is short ({type(error).__name__}); "
                        "what is done stays: run again with fewer jobs, or with workers that have more memory"
                    ) from error
                told, number = told + 1, begun[future]
                pace.begin(told, cases[number])
                pace.stage(1.0, outcome.said)
                yield number, outcome
            if pace.stop():
                left = {future for future in left if not future.cancel()}  # those that have begun end first
    finally:
        for future in left:
            future.cancel()


@contextmanager
def _pool(jobs: int, executor: Executor | None) -> Iterator[Executor | None]:
    """The caller's executor, or as many processes as jobs, ended afterwards; None for one job, which needs none."""
    if executor is not None or jobs < 2:
        yield executor
        return
    from MedRationaleLogic.inference.worker_link import python_executable

    context = multiprocessing.get_context("spawn")  # PyTorch's threads do not survive a fork
    context.set_executable(python_executable())  # inside Slicer, sys.executable is Slicer
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ProcessPoolExecutor(jobs, context, _begin_process, (max(1, cores // jobs),))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_process(threads: int) -> None:
    """In a process of a pool, before its first case."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the first process says what happens
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # read by PyTorch when it is imported


# ------------------------------------------------------------------------------------------------------------- one case


@dataclass(frozen=True)
class _Order:
    """How each case is to be explained: what goes to the process that does it.

    Attributes:
        made_with: SHA-256 of the bundle's weights.
        bundle, device, overwrite: as for :func:`run`.
    """

    made_with: str
    bundle: str | None
    device: Device
    overwrite: bool


@dataclass(frozen=True)
class _Outcome:
    """What became of one case: what comes back from the process that did it.

    Attributes:
        result: "explained", "skipped" where its result was there already, why it has none, or, from another process,
            the error that no other case could escape either.
        fault: a failure's type, which names nobody.
        disk_full: whether it failed for want of room.
    """

    result: Literal["explained", "skipped"] | Failure | Exception
    fault: str = ""
    disk_full: bool = False

    @property
    def said(self) -> str:
        """What progress tells."""
        if not isinstance(self.result, str):
            return "failed"
        return "already there" if self.result == "skipped" else self.result


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


@lru_cache(maxsize=1)
def _network_here(order: _Order) -> _Network:
    """This process's network, for the order that it works on.

    Raises:
        BundleError: there is no such bundle here, or it is another one.
    """
    network = _Network(None, order.bundle, order.device)
    if network.bundle_sha256() != order.made_with:
        from MedRationaleLogic.model.bundle import BundleError

        raise BundleError("a process has another bundle of that name than the one that began the run; install the same")
    return network


_ONE_AT_A_TIME: Final = threading.Lock()
"""An executor may give two cases to two threads of one process: they share its network."""


def _attempt_here(job: Job, target: Path, order: _Order) -> _Outcome:
    """Explain one case in a process that is not the caller's; raises nothing, since not every error can be sent."""
    with _ONE_AT_A_TIME:
        try:
            return _attempt(job, target, _network_here(order), order, _Pace(1, None, None))
        except Exception as error:
            return _Outcome(_as_can_be_sent(error))


def _as_can_be_sent(error: Exception) -> Exception:
    """The error itself, or one that says the same, without what it was raised from."""
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an error's own making raises
        again = None
    return again if isinstance(again, type(error)) else RuntimeError(f"{type(error).__name__}: {error}")


def _attempt(job: Job, target: Path, network: _Network, order: _Order, pace: _Pace) -> _Outcome:
    """Explain one case, unless its result is there, and say what became of it.

    Raises:
        _Stopped: the caller asked to stop.
        Exception: what no other case could escape either.
    """
    try:
        return _Outcome(_explain(job, target, network, order, pace))
    except _Stopped:
        raise
    except Exception as error:
        if _of_the_network(error, network):
            raise
        return _Outcome(_failure(job, error), type(error).__name__, _disk_full(error))


def _explain(job: Job, target: Path, network: _Network, order: _Order, pace: _Pace) -> Literal["explained", "skipped"]:
    """Explain one case, unless its result is there.

    Raises:
        _Stopped: the caller asked to stop.
        Exception: whatever went wrong with it.
    """
    if job.problem is not None:
        raise BatchError(job.problem)
    pace.stage(0.0, "reading the study")
    study = _read(job)
    if not order.overwrite and _is_result_of(target, study, order.made_with):
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
    return "explained"


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
        self._outcome: dict[str, Literal["explained", "skipped"]] = {}
        self._failed: dict[str, Failure] = {}
        self._rows: dict[str, list[Json]] = {}

    def outcome(self, job: Job, outcome: Literal["explained", "skipped"]) -> None:
        self._outcome[job.where] = outcome
        record = _record(self.folder / job.case)
        word = "new" if outcome == "explained" else "kept"
        self._rows[job.where] = list(_rows(job.case, word, record)) if record is not None else []

    def failed(self, job: Job, failure: Failure) -> None:
        self._failed[job.where] = failure
        self._rows[job.where] = []

    def summary(self) -> BatchSummary:
        def names(outcome: str) -> tuple[str, ...]:
            return tuple(job.case for job in self.jobs if self._outcome.get(job.where) == outcome)

        told = self._outcome.keys() | self._failed.keys()
        return BatchSummary(
            output=self.folder, done=names("explained"), skipped=names("skipped"),
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
