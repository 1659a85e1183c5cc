"""Inference in a warm child process, so that the process with the windows never waits, and can end it at any moment.

    explainer = RemoteExplainer()
    explainer.warm()                       # starts the child; returns at once
    explainer.begin(study)                 # returns at once
    for event in explainer.poll(): ...     # from a timer; never blocks
    explanation, reader = explainer.open(study)   # at once when the study is ready, else waits
    explainer.cancel()                     # ends the child and all that it started

    explainer = RemoteExplainer(rooms=model.rooms)      # not a child of its own, but a process that several share

A :class:`RemoteExplainer` stands in for an :class:`~MedRationaleLogic.inference.explainer.Explainer` wherever a case
wants one; :class:`InProcess` gives the latter the same face, for tests and where no child can be started.

How the two processes talk is told in :mod:`~MedRationaleLogic.inference.worker_link`; the process that several share is
started by :class:`~MedRationaleLogic.inference.shared.SharedModel`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from MedRationaleLogic.imaging.study import Study, StudyError
from MedRationaleLogic.imaging.volume import Geometry, Volume
from MedRationaleLogic.inference.device import Device, DeviceError
from MedRationaleLogic.inference.evidence import EvidenceField, EvidenceMaps
from MedRationaleLogic.inference.explainer import Cancelled, ExplainCancelledError, Precision, Progress
from MedRationaleLogic.inference.explanation import Explanation, Lesion
from MedRationaleLogic.inference.storage import (
    NpyFolder,
    StorageError,
    explanation_from_json,
    load_array,
    save_array,
    study_to_json,
)
from MedRationaleLogic.inference.worker_child import OWN_ERRORS
from MedRationaleLogic.inference.worker_link import Child, Guest, Link, WorkerError, end_all, python_executable, sweep
from MedRationaleLogic.model.bundle import Bundle, BundleError, find

__all__ = [
    "Event",
    "InProcess",
    "NotYetError",
    "PollingExplainer",
    "RemoteExplainer",
    "RemoteReader",
    "Task",
    "WorkerError",
    "python_executable",
]

T = TypeVar("T")
Json = dict[str, Any]
Task = Literal["explain", "see"]
"""All of the road, or only what is needed to read regions and evidence."""

KEPT_STUDIES: Final = 2
"""Studies that the child keeps for further reading, about 100 MB each."""
WRITE_S: Final = 0.04
"""How long one call may write images for the child; the rest is written by the next ones."""
AT_ONCE_S: Final = 0.2
"""So long a question that may be answered later is waited for: most are answered by then."""

_log = logging.getLogger(__name__)


_ERRORS: Final[Mapping[str, type[Exception]]] = {
    "StudyError": StudyError, "BundleError": BundleError, "DeviceError": DeviceError, "StorageError": StorageError,
    "ExplainCancelledError": ExplainCancelledError, "ValueError": ValueError,
}  # fmt: skip
assert set(_ERRORS) == set(OWN_ERRORS)


class NotYetError(WorkerError):
    """A question is not answered yet; see :meth:`PollingExplainer.deferring`."""


@dataclass(frozen=True)
class Event:
    """What happened since the last :meth:`PollingExplainer.poll`.

    Attributes:
        kind: ``ready`` (the network is loaded), ``progress``, ``done`` or ``failed`` (the task).
        share: done so far, 0..1.
        stage: in words.
        error: of ``failed``: of its own class where it is one of ours, else a :class:`WorkerError`.
    """

    kind: Literal["ready", "progress", "done", "failed"]
    share: float = 0.0
    stage: str = ""
    error: Exception | None = None

    @property
    def message(self) -> str:
        """The error's text."""
        return str(self.error) if self.error is not None else ""

    @property
    def log_tail(self) -> str:
        """Last lines of the child's log, where there is something to see."""
        return getattr(self.error, "log_tail", "")


class _Reader(Protocol):
    def lesion(
        self, number: int, mask: Volume, zones: Volume, *, origin: Literal["model", "reader"] = "model",
        sectors: Volume | None = None,
    ) -> Lesion: ...  # fmt: skip

    def region_at(self, point: ArrayLike, zones: Volume) -> Volume: ...

    def evidence(self) -> EvidenceMaps: ...


class _Explainer(Protocol):
    def open(
        self, study: Study, *, progress: Progress | None = None, cancelled: Cancelled | None = None
    ) -> tuple[Explanation, _Reader]: ...

    def see(self, study: Study) -> _Reader: ...


class PollingExplainer(Protocol):
    """An explainer that can be started and asked later; ``open`` and ``see`` wait unless the study is ready."""

    @property
    def running(self) -> bool:
        """Whether a task was begun and has not ended."""

    def warm(self) -> None:
        """Get ready; returns at once."""

    def begin(self, study: Study, task: Task = "explain") -> None:
        """Start a task; returns at once, :meth:`poll` tells how it goes.

        Raises:
            WorkerError: another task is running, or this explainer is closed.
        """

    def poll(self) -> list[Event]:
        """What happened since the last call."""

    def ready_for(self, study: Study, task: Task = "see") -> bool:
        """Whether ``open`` (``explain``) or ``see`` would return at once."""

    def open(
        self, study: Study, *, progress: Progress | None = None, cancelled: Cancelled | None = None
    ) -> tuple[Explanation, _Reader]:
        """Explain a study; raises as :meth:`~MedRationaleLogic.inference.explainer.Explainer.open`, or WorkerError."""

    def see(self, study: Study) -> _Reader:
        """Only what is needed to read regions."""

    def deferring(self) -> contextlib.AbstractContextManager[None]:
        """Within it, a region that is not read at once (the network is at work for somebody else) raises
        :class:`NotYetError`, and :meth:`poll` tells "done" when it is. Whoever asks then does all of it again, within
        another such context, until nothing is raised: what was answered before is at hand."""

    def cancel(self) -> None:
        """End the running task, whatever it takes; no event follows."""

    def close(self) -> None:
        """End everything."""


# ------------------------------------------------------------------------------------------------------ in process


class InProcess:
    """An explainer in this process, with the face of a :class:`RemoteExplainer`. :meth:`poll` does the work and blocks.

    Args:
        explainer: what runs the network.
        tick: called with every progress event while the work goes on: a face may repaint there, and call
            :meth:`cancel`.
    """

    def __init__(self, explainer: _Explainer, *, tick: Callable[[Event], None] | None = None) -> None:
        self.explainer, self._tick = explainer, tick
        self._task: tuple[Study, Task] | None = None
        self._begun = self._stop = False
        self._events: list[Event] = []
        self._seen: dict[str, _Reader] = {}
        self._explained: dict[str, tuple[Explanation, _Reader]] = {}

    @property
    def bundle(self) -> Any:
        """The explainer's bundle, if it tells."""
        return getattr(self.explainer, "bundle", None)

    @property
    def running(self) -> bool:
        """See :attr:`PollingExplainer.running`."""
        return self._task is not None

    def warm(self) -> None:
        """Nothing to do."""

    def begin(self, study: Study, task: Task = "explain") -> None:
        """See :meth:`PollingExplainer.begin`."""
        if self._task is not None:
            raise WorkerError("another task is running; wait for it, or cancel it")
        if self.ready_for(study, task):
            self._events.append(Event("done", 1.0))
        else:
            self._task, self._begun, self._stop = (study, task), False, False
            self._events.append(Event("progress", 0.0, "starting"))

    def poll(self) -> list[Event]:
        """See :meth:`PollingExplainer.poll`; the work is done in the second call after :meth:`begin`, so that a face
        has shown that it began. A call from within (out of ``tick``) does nothing."""
        events, self._events = self._events, []
        if events or self._task is None or self._begun:
            return events
        self._begun = True
        try:
            self._work(*self._task)
            return [Event("done", 1.0)]
        except ExplainCancelledError as error:
            return [] if self._stop else [Event("failed", error=error)]
        except Exception as error:
            return [Event("failed", error=error)]
        finally:
            self._task = None

    def _work(self, study: Study, task: Task) -> None:
        if task == "see":
            _remember(self._seen, _voxel_key(study), self.explainer.see(study))
            return
        found = self.explainer.open(study, progress=self._progress, cancelled=lambda: self._stop)
        if self._stop:
            raise ExplainCancelledError("stopped at the caller's wish")
        self._keep(study, found)

    def _keep(self, study: Study, found: tuple[Explanation, _Reader]) -> None:
        _remember(self._explained, _study_key(study), found)
        _remember(self._seen, _voxel_key(study), found[1])

    def _progress(self, share: float, stage: str) -> None:
        if self._tick is not None:
            self._tick(Event("progress", share, stage))

    def ready_for(self, study: Study, task: Task = "see") -> bool:
        """See :meth:`PollingExplainer.ready_for`."""
        return _voxel_key(study) in self._seen if task == "see" else _study_key(study) in self._explained

    def open(
        self, study: Study, *, progress: Progress | None = None, cancelled: Cancelled | None = None
    ) -> tuple[Explanation, _Reader]:
        """See :meth:`PollingExplainer.open`."""
        found = self._explained.get(_study_key(study))
        if found is None:
            found = self.explainer.open(study, progress=progress, cancelled=cancelled)
            self._keep(study, found)
        return replace(found[0], study=study), found[1]

    def see(self, study: Study) -> _Reader:
        """See :meth:`PollingExplainer.see`."""
        if not self.ready_for(study):
            _remember(self._seen, _voxel_key(study), self.explainer.see(study))
        return self._seen[_voxel_key(study)]

    def deferring(self) -> contextlib.AbstractContextManager[None]:
        """See :meth:`PollingExplainer.deferring`; here all is read at once."""
        return contextlib.nullcontext()

    def cancel(self) -> None:
        """See :meth:`PollingExplainer.cancel`; work that has begun stops before its next stage."""
        self._stop = True
        self._events.clear()
        if not self._begun:
            self._task = None

    def close(self) -> None:
        """Forget everything."""
        self.cancel()
        self._seen.clear()
        self._explained.clear()


def _remember(kept: dict[str, T], key: str, value: T) -> None:
    """Keep a value as the newest; the oldest go."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > KEPT_STUDIES:
        del kept[next(iter(kept))]


class _Hashes:
    """A store that keeps nothing and names every image by what it holds."""

    def __init__(self) -> None:
        self.records: dict[str, Json] = {}

    def put(self, volume: Volume, path: str) -> str:
        return f"{volume.sha256} {volume.name}"

    def get(self, path: str) -> Volume:
        raise NotImplementedError


def _voxel_key(study: Study) -> str:
    """Equal for studies that a reader of regions cannot tell apart: images in their places."""
    images = {role: volume.sha256 for role in study.roles if (volume := study.volume(role)) is not None}
    return _digest(images)


def _study_key(study: Study) -> str:
    """Equal for studies that are explained alike: images, names, headers, notes; not the PSA."""
    return _digest(study_to_json(replace(study, psa=None), _Hashes()))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# --------------------------------------------------------------------------------------------------------- the parent


@dataclass
class _Job:
    """The task that was begun.

    Attributes:
        number: of its command.
        key: of the study's voxels.
        waiting: images that are still to be written for the child.
        command: to be sent then; None once it is.
    """

    study: Study
    task: Task
    number: int
    key: str
    waiting: dict[str, Volume]
    command: Json | None


@dataclass
class _Seen:
    """A study that the child holds.

    Attributes:
        reader: to read regions with.
        files, folders: of the shared folder, that go when the child forgets the study.
        explained: by :func:`_study_key`.
    """

    reader: RemoteReader
    files: set[str]
    folders: set[str] = field(default_factory=set)
    explained: dict[str, Explanation] = field(default_factory=dict)


@dataclass(frozen=True)
class _Question:
    """A question that was asked and is not answered yet.

    Attributes:
        number: of its command.
        key: equal for equal questions.
        once: files that only it needed.
        taken: what the asker makes of the answer and the folder that its files are in.
    """

    number: int
    key: str
    once: frozenset[str]
    taken: Callable[[Json, Path], Any]


class RemoteExplainer:
    """An explainer whose network lives in a child process; see the module's text. Use it from one thread.

    Args:
        bundle: name, folder or bundle; the default one if None.
        device, precision: as :class:`~MedRationaleLogic.inference.explainer.Explainer`.
        python: the child's interpreter; see :func:`python_executable`.
        env: added to the child's environment.
        rooms: of a :class:`~MedRationaleLogic.inference.shared.SharedModel`, whose process takes the child's place. It
            was started with a bundle, device and so on of its own, so that the other arguments say nothing. A task
            waits for those of others, and to cancel or close leaves the process as it is.
    """

    def __init__(
        self, bundle: Bundle | str | None = None, device: Device = "auto", *, precision: Precision = "auto",
        python: str | Path | None = None, env: Mapping[str, str] | None = None, rooms: Path | str | None = None,
    ) -> None:  # fmt: skip
        self._bundle, self._device, self._precision = bundle, device, precision
        self._python, self._env = python, env
        self._rooms = None if rooms is None else Path(rooms)
        self._child: Link | None = None
        self._children: list[Link] = []
        self._job: _Job | None = None
        self._events: list[Event] = []
        self._answers: dict[int, Json] = {}
        self._defers = False
        self._question: _Question | None = None  # not answered at once
        self._given_up: dict[int, frozenset[str]] = {}  # number -> files of its own
        self._answered: dict[str, Any] = {}  # by the question's key, until what asked them is done
        self._seen: dict[str, _Seen] = {}
        self._number = self._asked = 0
        self._closed = False
        self._last_error: Exception | None = None
        self._finalizer = weakref.finalize(self, end_all, os.getpid(), self._children)

    # ---------------------------------------------------------------------------------------------- what is there

    @property
    def bundle(self) -> Bundle:
        """The bundle that the child uses; of a shared process once it is loaded, before that the one given here.

        Raises:
            BundleError: no such bundle, or it is refused.
        """
        if not isinstance(self._bundle, Bundle):
            self._bundle = find(self._bundle)
        return self._bundle

    @property
    def running(self) -> bool:
        """See :attr:`PollingExplainer.running`."""
        return self._job is not None or self._question is not None

    @property
    def pid(self) -> int | None:
        """The child's process (in Slicer its launcher's), or None where there is none of our own."""
        return self._child.pid if self._alive() and self._child is not None else None

    @property
    def loaded(self) -> bool:
        """Whether the child is there and has its network loaded."""
        return self._alive() and self._child is not None and self._child.ready is not None

    @property
    def place(self) -> str:
        """Device and precision that the child runs with, e.g. ``cpu, float32``; empty before it is loaded."""
        ready = self._child.ready if self._child is not None else None
        return f"{ready['device']}, {ready['precision']}" if ready is not None else ""

    def ready_for(self, study: Study, task: Task = "see") -> bool:
        """See :meth:`PollingExplainer.ready_for`."""
        if not self._alive():
            return False
        seen = self._seen.get(_voxel_key(study))
        return seen is not None and (task == "see" or _study_key(study) in seen.explained)

    def _alive(self) -> bool:
        return self._child is not None and self._child.alive

    # ------------------------------------------------------------------------------------------------ begin and poll

    def warm(self) -> None:
        """Start the child where there is none, so that it is loaded when a study comes; returns at once.

        Raises:
            WorkerError: it cannot be started or reached, or this explainer is closed.
            BundleError: no such bundle.
        """
        self._open_for_work()
        if not self._alive():
            self._drop_child()
            self._child = self._start() if self._rooms is None else Guest(self._rooms)
            self._children.append(self._child)

    def _start(self) -> Child:
        sweep()
        bundle = str(self.bundle.path.resolve())
        arguments = ["--bundle", bundle, "--device", self._device, "--precision", self._precision]
        return Child(arguments, self._python, self._env)

    def begin(self, study: Study, task: Task = "explain") -> None:
        """See :meth:`PollingExplainer.begin`. A child that cannot be started is told by :meth:`poll`."""
        self._open_for_work()
        if self.running:
            raise WorkerError("the network is at work on a study; wait for it, or cancel it")
        self._advance()
        if self.ready_for(study, task):
            self._events.append(Event("done", 1.0))
            return
        try:
            self.warm()
        except (WorkerError, BundleError) as error:
            self._events.append(Event("failed", error=error))
            return
        try:
            self._job = self._prepared(study, task)
        except OSError as error:
            self._drop_child()
            self._events.append(Event("failed", error=_unusable(error)))
            return
        assert self._child is not None
        self._events.append(Event("progress", 0.0, self._child.stage))
        self._advance()

    def _prepared(self, study: Study, task: Task) -> _Job:
        """The job of a study: what is to be written, and the command that follows."""
        key = _voxel_key(study)
        volumes = {role: volume for role in study.roles if (volume := study.volume(role)) is not None}
        self._make_room(key, {_file(volume) for volume in volumes.values()})
        records = {f"images/{role}": _record(volume) for role, volume in volumes.items()}
        number = self._new_number()
        described = replace(study, patient_id=None, study_uid=None, study_date=None)
        assert self._child is not None
        contents = {"study": study_to_json(described, _Named()), "images": records}
        file = f"study-{number}.json"
        (self._child.folder / file).write_text(json.dumps(contents), encoding="utf-8")
        command = {"id": number, "do": task, "key": key, "study": file}
        waiting = {_file(v): v for v in volumes.values() if _file(v) not in self._child.files}
        return _Job(study, task, number, key, waiting, command)

    def _make_room(self, key: str, needed: set[str]) -> None:
        """Have the child forget the oldest studies, unless it is one of them that is asked for."""
        while len(self._seen) >= KEPT_STUDIES and key not in self._seen:
            oldest = next(iter(self._seen))
            gone = self._seen.pop(oldest)
            assert self._child is not None
            files = gone.files - needed - {f for seen in self._seen.values() for f in seen.files}
            self._child.files -= files
            self._child.send({"do": "forget", "key": oldest, "folders": sorted(gone.folders), "files": sorted(files)})

    def poll(self) -> list[Event]:
        """See :meth:`PollingExplainer.poll`; never blocks."""
        self._advance()
        if self._question is not None and self._question.number in self._answers:
            try:
                key = self._question.key
                self._answered[key] = self._take_answer(self._question)
                self._events.append(Event("done", 1.0))
            except Exception as error:
                self._events.append(Event("failed", error=error))
        events, self._events = self._events, []
        return events

    @contextlib.contextmanager
    def deferring(self) -> Iterator[None]:
        """See :meth:`PollingExplainer.deferring`."""
        self._defers, later = True, False
        try:
            yield
        except NotYetError:
            later = True
            raise
        finally:
            self._defers = False
            if not later:
                self._answered.clear()

    def _advance(self) -> None:
        """Read what has come, see whether the child still lives, write what is to be written."""
        self._children[:] = [c for c in self._children if c is self._child or not c.clean()]
        child = self._child
        if child is None:
            return
        stage = child.stage
        try:
            for message in child.listen():
                self._hear(message)
                if self._child is not child:
                    return
            trouble = child.trouble()
            if trouble is None:
                self._write_ahead(child)
        except (OSError, StorageError) as error:
            trouble = _unusable(error)
        if trouble is not None:
            self._lost(trouble)
        elif self._job is not None and not self.loaded and child.stage != stage:
            self._events.append(Event("progress", 0.0, child.stage))

    def _write_ahead(self, child: Link) -> None:
        job = self._job
        if job is None or job.command is None:
            return
        start = time.monotonic()
        while job.waiting and time.monotonic() - start < WRITE_S:
            name, volume = job.waiting.popitem()
            save_array(child.folder / name, volume.array)
            child.files.add(name)
        if not job.waiting:
            child.send(job.command)
            job.command = None

    def _hear(self, message: Json) -> None:
        kind, number = message.get("kind"), message.get("id")
        job = self._job
        assert self._child is not None
        if kind == "ready":
            path = message.get("path", "")
            if self._rooms is not None and not (isinstance(self._bundle, Bundle) and str(self._bundle.path) == path):
                self._bundle = path or self._bundle
            self._events.append(Event("ready", 0.0, "the network is loaded"))
        elif kind == "progress" and job is not None and number == job.number:
            self._events.append(Event("progress", float(message["share"]), str(message["stage"])))
        elif kind == "done" and job is not None and number == job.number:
            self._done(job, message)
        elif kind == "evidence" and message["key"] in self._seen:
            self._seen[message["key"]].reader._take(self._child.folder, message["fields"])
        elif kind == "answer" and number == self._asked:
            self._answers[number] = message
        elif kind == "answer":
            self._clear_away(int(message["id"]), message.get("file"))
        elif kind == "failed":
            self._failed(message)

    def _done(self, job: _Job, message: Json) -> None:
        """Take over what the child made of a study."""
        assert self._child is not None
        number = job.number
        reader = RemoteReader(self, job.study, float(self._ready["thresholds"]["evidence"]))
        files = {_file(v) for role in job.study.roles if (v := job.study.volume(role)) is not None}
        before = self._seen.pop(job.key, None)
        seen = _Seen(reader, files, {f"evidence-{number}"})
        if before is not None:  # seen before, and now explained: the same voxels, and more to say
            seen.files |= before.files
            seen.folders |= before.folders
            seen.explained.update(before.explained)
        if "result" in message:
            place = self._child.folder / message["result"]
            contents = json.loads((place / "result.json").read_text(encoding="utf-8"))
            made = explanation_from_json(contents["explanation"], NpyFolder(place, contents["images"]), job.study)
            seen.explained[_study_key(job.study)] = replace(made, evidence=reader.evidence())
            seen.folders.add(message["result"])
        self._seen[job.key] = seen
        with contextlib.suppress(OSError):
            (self._child.folder / f"study-{number}.json").unlink()
        self._job = None
        self._events.append(Event("done", 1.0, "done"))

    @property
    def _ready(self) -> Json:
        assert self._child is not None
        assert self._child.ready is not None
        return self._child.ready

    def _failed(self, message: Json) -> None:
        assert self._child is not None
        error = _error(message, self._child)
        number = int(message["id"])
        if number == 0:  # it could not load
            self._lost(error)
        elif self._job is not None and number == self._job.number:
            self._job = None
            self._events.append(Event("failed", error=error))
        elif number == self._asked:
            self._answers[number] = {"error": error}
        elif number in self._given_up:
            self._clear_away(number)
        else:  # after it had said "done": the evidence could not be written
            for seen in self._seen.values():
                if f"evidence-{number}" in seen.folders:
                    seen.reader.failed = error

    def _lost(self, error: Exception) -> None:
        """The child is no more; the next task starts another one."""
        if self.running:
            self._events.append(Event("failed", error=error))
        else:
            _log.warning("the network's process ended while it had nothing to do (%s)", type(error).__name__)
        self._job = None
        self._drop_child(error)

    def _drop_child(self, error: Exception | None = None) -> None:
        if self._child is not None:
            self._child.end()
        self._last_error = error
        self._child = None
        self._seen.clear()
        self._give_up_question()
        self._given_up.clear()  # gone with the folder

    def _give_up_question(self) -> None:
        if self._question is not None and self._child is not None:
            self._given_up[self._question.number] = self._question.once
        self._question, self._asked = None, 0
        self._answers.clear()
        self._answered.clear()

    def _clear_away(self, number: int, answer: str | None = None) -> None:
        """Remove the files of a question that was given up, once the child has done with it."""
        assert self._child is not None
        for file in (*self._given_up.pop(number, ()), *([answer] if answer else [])):
            with contextlib.suppress(OSError):
                (self._child.folder / file).unlink()

    # ----------------------------------------------------------------------------------------------------- the road

    def open(
        self, study: Study, *, progress: Progress | None = None, cancelled: Cancelled | None = None
    ) -> tuple[Explanation, RemoteReader]:
        """Explain a study and keep what is needed to read further regions of it; at once where it is ready.

        Raises:
            StudyError, BundleError, DeviceError: as :class:`~MedRationaleLogic.inference.explainer.Explainer`.
            ExplainCancelledError: ``cancelled`` said so; the child was ended.
            WorkerError: the child failed, or is at work on another study or a region.
        """
        self._finish(study, "explain", progress, cancelled)
        seen = self._seen[_voxel_key(study)]
        if progress is not None:
            progress(1.0, "done")
        return replace(seen.explained[_study_key(study)], study=study), seen.reader

    def see(self, study: Study) -> RemoteReader:
        """Only what is needed to read regions of a study; at once where it is ready; raises as :meth:`open`."""
        self._finish(study, "see", None, None)
        return self._seen[_voxel_key(study)].reader

    def _finish(self, study: Study, task: Task, progress: Progress | None, cancelled: Cancelled | None) -> None:
        """Wait until a study is ready; events of others stay for :meth:`poll`."""
        if self.ready_for(study, task):
            return
        mine = self._job is None
        if self._question is not None:
            raise WorkerError("the network is at work on a region; wait for it, or cancel it")
        if self._job is not None and not _gives(self._job, study, task):
            raise WorkerError("the network is at work on another study; wait for it, or cancel it")
        kept, self._events = self._events, []
        try:
            if mine:
                self.begin(study, task)
            while not self.ready_for(study, task):
                for event in self.poll():
                    if not mine or event.kind == "ready":
                        kept.append(event)
                    if event.kind == "failed" and event.error is not None:
                        raise event.error
                    if event.kind == "progress" and progress is not None:
                        progress(event.share, event.stage)
                if cancelled is not None and cancelled():
                    raise ExplainCancelledError("stopped at the caller's wish")
                if not self.running and not self.ready_for(study, task):
                    raise WorkerError("the network's process ended before the study was ready; try again")
                time.sleep(0.005)
        except BaseException:  # also Ctrl+C, also out of `progress`
            self.cancel()
            raise
        finally:
            self._events = [*kept, *(e for e in self._events if not mine or e.kind == "ready")]

    def cancel(self) -> None:
        """End the running task at once, with the child and all that it started; the next task starts another child.

        A shared process stays: it stops the task before its next stage, and this explainer is free at once.
        """
        self._events.clear()
        if self._job is not None:
            self._job = None
            self._drop_child()
        self._give_up_question()  # a short one: the child goes on with it, and nobody hears of it

    def close(self) -> None:
        """End the child and remove what was shared; later calls are refused."""
        self._closed, self._job = True, None
        self._events.clear()
        self._drop_child()
        self._finalizer()

    def _open_for_work(self) -> None:
        if self._closed:
            raise WorkerError("this explainer was closed; make another one")

    def _new_number(self) -> int:
        self._number += 1
        return self._number

    # ---------------------------------------------------------------------------------------------- for the reader

    def _ask(
        self, study: Study, command: Json, images: Mapping[str, Volume | None], taken: Callable[[Json, Path], T]
    ) -> T:
        """A short question about a study; waits for the answer. Sees the study again where the child was lost.

        Args:
            study: that it is about.
            command: to the child, without what is the same for all.
            images: of the command, by name.
            taken: makes something of the answer and the folder that its files are in.

        Raises:
            NotYetError: within :meth:`deferring`, no answer at once.
        """
        told = {**command, **{name: None if v is None else _record(v) for name, v in images.items()}}
        key = _digest([_voxel_key(study), told])
        if key in self._answered:
            found: T = self._answered[key]
            return found
        if self.running:
            raise WorkerError("the network is at work; wait for it, or cancel it")
        self.see(study)
        try:
            once = self._send_images(study, images)
            assert self._child is not None
            number = self._asked = self._new_number()
            self._child.send({"id": number, "key": _voxel_key(study), **told})
            question = _Question(number, key, frozenset(once), taken)
            self._await(question)
            answer: T = self._take_answer(question)
            if self._defers:
                self._answered[key] = answer
            return answer
        except OSError as error:
            raise _unusable(error) from error

    def _send_images(self, study: Study, images: Mapping[str, Volume | None]) -> set[str]:
        """Write what the child does not have; returns the files that are of no more use once it has answered."""
        child, once = self._child, set()
        assert child is not None
        for name, volume in images.items():
            if volume is None or _file(volume) in child.files:
                continue
            save_array(child.folder / _file(volume), volume.array)
            if name == "mask":
                once.add(_file(volume))
            else:
                child.files.add(_file(volume))
                self._seen[_voxel_key(study)].files.add(_file(volume))
        return once

    def _await(self, question: _Question) -> None:
        child, since = self._child, time.monotonic()
        while question.number not in self._answers:
            self._advance()
            if self._child is not child:
                raise self._last_error or WorkerError("the network's process ended; try again")
            if self._defers and time.monotonic() - since > AT_ONCE_S:
                self._question = question
                raise NotYetError("the network has not answered yet; wait for it")
            time.sleep(0.003)

    def _take_answer(self, question: _Question) -> Any:
        """What was made of an answer that is there."""
        assert self._child is not None
        self._question = None
        answer = self._answers.pop(question.number)
        for file in question.once:
            with contextlib.suppress(OSError):
                (self._child.folder / file).unlink()
        if "error" in answer:
            raise answer["error"]
        return question.taken(answer, self._child.folder)

    def _fields(self, study: Study) -> Mapping[str, EvidenceField]:
        """Evidence of a study, once it is written."""
        while True:
            reader = self.see(study)
            self._advance()
            if reader.fields is not None:
                return reader.fields
            if reader.failed is not None:
                raise reader.failed
            time.sleep(0.003)


class RemoteReader:
    """A study as the child's network saw it; stays of use when the child is lost, then the study is seen again.

    Attributes:
        study: what was seen.
        threshold: below this evidence is shown transparent.
        fields: evidence by sequence, memory-mapped; None until it is there.
        failed: why it will never be there.
    """

    def __init__(self, explainer: RemoteExplainer, study: Study, threshold: float) -> None:
        self._explainer, self.study, self.threshold = explainer, study, threshold
        self.fields: dict[str, EvidenceField] | None = None
        self.failed: Exception | None = None

    def lesion(
        self, number: int, mask: Volume, zones: Volume, *, origin: Literal["model", "reader"] = "model",
        sectors: Volume | None = None,
    ) -> Lesion:  # fmt: skip
        """As :meth:`~MedRationaleLogic.inference.explainer.StudyReader.lesion`, by a short call to the child."""
        command = {"do": "lesion", "number": number, "origin": origin}
        images = {"mask": mask, "zones": zones, "sectors": sectors}
        return self._explainer._ask(
            self.study, command, images, lambda answer, _folder: Lesion.from_dict(answer["lesion"], mask)
        )

    def region_at(self, point: ArrayLike, zones: Volume) -> Volume:
        """As :meth:`~MedRationaleLogic.inference.explainer.StudyReader.region_at`, by a short call to the child."""
        at = [float(v) for v in np.asarray(point, dtype=float)]

        def taken(answer: Json, folder: Path) -> Volume:
            file = folder / answer["file"]
            array = load_array(file).copy()
            with contextlib.suppress(OSError):
                file.unlink()
            return Volume(array, self.study.frame.geometry, answer["name"])

        return self._explainer._ask(self.study, {"do": "region_at", "point": at}, {"zones": zones}, taken)

    def evidence(self) -> EvidenceMaps:
        """The study's evidence, brought to the frame's grid when asked for."""
        return EvidenceMaps(_Fields(self), self.study.frame.geometry, self.threshold)

    def _take(self, folder: Path, fields: Json) -> None:
        """Map the arrays that the child has written: they stay readable when the files go."""
        self.fields = {
            sequence: EvidenceField(
                sequence, Geometry.from_dict(data["geometry"]),
                {attribute: load_array(folder / file) for attribute, file in data["values"].items()},
            )
            for sequence, data in fields.items()
        }  # fmt: skip


class _Fields(Mapping[str, EvidenceField]):
    """Evidence that names its sequences at once and waits for its arrays when one is asked for."""

    def __init__(self, reader: RemoteReader) -> None:
        self._reader = reader

    def __getitem__(self, sequence: str) -> EvidenceField:
        if sequence not in self._reader.study.roles:
            raise KeyError(sequence)
        if self._reader.fields is None:
            self._reader.fields = dict(self._reader._explainer._fields(self._reader.study))
        return self._reader.fields[sequence]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.study.roles)

    def __len__(self) -> int:
        return len(self._reader.study.roles)


class _Named(_Hashes):
    """Names an image by the path that the codec gives it."""

    def put(self, volume: Volume, path: str) -> str:
        return path


def _gives(job: _Job, study: Study, task: Task) -> bool:
    """Whether a study will be ready for a task once this job is done."""
    if task == "see":
        return job.key == _voxel_key(study)
    return job.task == "explain" and _study_key(job.study) == _study_key(study)


def _unusable(error: Exception) -> WorkerError:
    return WorkerError(f"the folder shared with the network cannot be used ({error}); is the disk full?")


def _file(volume: Volume) -> str:
    return f"{volume.sha256}.npy"


def _record(volume: Volume) -> Json:
    return {"file": _file(volume), "geometry": volume.geometry.to_dict(), "name": volume.name}


def _error(message: Json, child: Link) -> Exception:
    """What the child ran into, as the caller is to see it."""
    text = str(message["text"])
    if message["error"] in _ERRORS:
        return _ERRORS[message["error"]](text)
    if message["memory"]:
        text = f"not enough memory for this study ({text}); close other programs, or choose the CPU as the device"
    return WorkerError(text, log_tail=child.log_tail())


if __name__ == "__main__":
    import sys

    from MedRationaleLogic.inference.worker_child import main

    sys.exit(main())
