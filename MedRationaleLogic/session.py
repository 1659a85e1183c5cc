"""A session: the case that is open and the network's work for it, for a face that must not wait.

    session = Session(RemoteExplainer())
    session.subscribe(on_event)
    session.open(study)
    session.explain()                          # returns at once
    session.poll()                             # from a timer; finishes what has become ready
    session.perform(lambda: session.case.explain_here(point, reader), "explaining here")

A :class:`~MedRationaleLogic.case.Case` is synchronous. Whatever of it needs the network goes through here: the network
is started first, and the case is called from :meth:`Session.poll` once it would return at once. What does not need the
network (answers, undo, sign-off) is asked of the case itself. One job at a time; a job whose case was replaced comes to
nothing. Plain Python, no toolkit; use it from one thread. Research use only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from MedRationaleLogic.case import Case, CaseError, CaseEvent
from MedRationaleLogic.inference.worker import Event, InProcess, NotYetError, PollingExplainer, Task

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from MedRationaleLogic.case import ExplainerLike
    from MedRationaleLogic.imaging.acquisition import Role
    from MedRationaleLogic.imaging.study import Study

__all__ = ["IDLE", "Job", "Session", "SessionEvent"]

T = TypeVar("T")
RESTARTS: Final = 3
"""So often a job starts over because its study was changed under it; then it fails."""
WAITS: Final = 20
"""So often a job is left because the network does not answer at once; then it waits."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What the network does for the case.

    Attributes:
        kind: ``explain``, ``shift``, or ``action`` for :meth:`Session.perform`; empty before the first job.
        what: in words, for a person.
        share: done so far, 0..1.
        stage: in words.
        state: how it stands. After ``running`` comes one of ``done``, ``failed``, ``cancelled``.
        message: why it failed, and what to do.
        log_tail: last lines of the network's log, where there is something to see.
        error: what was raised.
    """

    kind: Literal["", "explain", "shift", "action"] = ""
    what: str = ""
    share: float = 0.0
    stage: str = ""
    state: Literal["idle", "running", "failed", "cancelled", "done"] = "idle"
    message: str = ""
    log_tail: str = ""
    error: Exception | None = None


IDLE: Final = Job()


@dataclass(frozen=True)
class SessionEvent:
    """Something happened.

    Attributes:
        kind: ``job``: the job changed; ``case``: another case is open, or something happened to it.
        job: as it stands.
        case_event: what happened to the case; None when the case itself was opened, exchanged or closed.
    """

    kind: Literal["job", "case"]
    job: Job
    case_event: CaseEvent | None = None


@dataclass(frozen=True, eq=False)
class _Work:
    """A job's other half.

    Attributes:
        case: what it is for.
        task: what the network has to have done before.
        study: of which study, asked again when the network is ready: the case may have moved on.
        finish: what is then called.
        repeatable: it may be left where the network does not answer at once, and called again.
        restarts: how often the study was another one by then.
        waits: how often it was left.
    """

    case: Case
    task: Task
    study: Callable[[], Study]
    finish: Callable[[], object]
    repeatable: bool = False
    restarts: int = 0
    waits: int = 0


class Session:
    """The open case and its one job; see the module's text.

    Args:
        explainer: a :class:`~MedRationaleLogic.inference.worker.RemoteExplainer`, or any explainer, which then works in
            this process and blocks :meth:`poll`.
    """

    def __init__(self, explainer: PollingExplainer | ExplainerLike) -> None:
        self._explainer: Any = explainer if hasattr(explainer, "poll") else InProcess(explainer)
        self._case: Case | None = None
        self._job = IDLE
        self._work: _Work | None = None
        self._subscribers: dict[object, Callable[[SessionEvent], None]] = {}
        self._leave_case: Callable[[], None] = lambda: None
        self._polling = self._closed = False

    # ------------------------------------------------------------------------------------------------- what is there

    @property
    def explainer(self) -> Any:
        """What runs the network; a :class:`~MedRationaleLogic.inference.worker.PollingExplainer`."""
        return self._explainer

    @property
    def case(self) -> Case | None:
        """The open case, or None."""
        return self._case

    @property
    def job(self) -> Job:
        """The running job, or the last one."""
        return self._job

    @property
    def running(self) -> bool:
        """Whether a job is running."""
        return self._job.state == "running"

    def subscribe(self, callback: Callable[[SessionEvent], None]) -> Callable[[], None]:
        """Hear of the job and of the case; returns what ends the subscription.

        An exception in a callback reaches neither the session nor the other callbacks; its type is logged.
        """
        token = object()
        self._subscribers[token] = callback

        def unsubscribe() -> None:
            self._subscribers.pop(token, None)

        return unsubscribe

    # ------------------------------------------------------------------------------------------------------- the case

    def open(self, study: Study | Path | str) -> Case:
        """Open a study as a new case, in place of the one that is open.

        Raises:
            StudyError: the path cannot be read as a study.
            CaseError: the session is closed.
        """
        self._open_for_work()
        return self.adopt(Case.open(study, self._explainer))

    def adopt(self, case: Case) -> Case:
        """Take over a case that was loaded elsewhere (with :attr:`explainer`). A running job is dropped.

        Raises:
            CaseError: the session is closed.
        """
        self._open_for_work()
        if case is not self._case:
            self._exchange(case, "another case was opened")
        return case

    def close_case(self) -> None:
        """Close the case; the network stays warm. A running job is dropped."""
        if self._case is not None:
            self._exchange(None, "the case was closed")

    def _exchange(self, case: Case | None, why: str) -> None:
        self._drop(why)
        self._leave_case()
        self._case = case
        self._leave_case = (lambda: None) if case is None else case.subscribe(self._case_said)
        self._job = IDLE
        self._tell("case")

    def close(self) -> None:
        """End the job, the network and the session; nothing is told any more."""
        if not self._closed:
            self._subscribers.clear()
            self._leave_case()
            self._finish("cancelled", message="the session was closed")
            self._closed = True
            self._case = None
            self._explainer.close()

    # ------------------------------------------------------------------------------------------------------- the jobs

    def explain(self) -> None:
        """Explain the case's study; returns at once.

        Raises:
            CaseError: no case, explained already, signed off, or a job is running.
        """
        case = self._free_case()
        if case.explanation is not None or case.signed_off is not None:
            case.explain()  # says why not
            return
        self._begin("explain", "explaining the study", _Work(case, "explain", lambda: case.study, case.explain))

    def shift(self, role: Role, lps_mm: ArrayLike, reader: str) -> None:
        """Move ADC or high-b by hand, see :meth:`Case.shift`; returns at once.

        Where the network has to run again, the case is changed when it is ready.

        Raises:
            CaseError: no case, signed off, no reader's name, or a job is running.
            StudyError: the frame, an absent sequence, or not three finite numbers.
        """
        case = self._free_case()
        moved = case.study.with_shift(role, lps_mm)
        direct = case.explanation is None or case.signed_off is not None or moved is case.study or not reader.strip()
        if direct:
            case.shift(role, lps_mm, reader)
            return
        self._begin(
            "shift", "reading the study after the shift",
            _Work(
                case, "explain", lambda: case.study.with_shift(role, lps_mm), lambda: case.shift(role, lps_mm, reader)
            ),
        )  # fmt: skip

    def perform(
        self, action: Callable[[], T], what: str, *, then: Callable[[T], None] | None = None, repeatable: bool = False
    ) -> None:
        """Call something that needs the network to have seen the case's study: an edit, an evidence map.

        It is called at once where the network has seen it, else from :meth:`poll` when it has. An exception that it
        raises is told as a failed job, here and there.

        Args:
            action: what to call.
            what: in words, for the job.
            then: called with what it returned.
            repeatable: ``action`` changes nothing before all that it asks of the network is answered, as one edit of
                the case does. Where an answer takes longer, because the network is at work for others, it is then left
                and called again from :meth:`poll`; otherwise the call waits.

        Raises:
            CaseError: no case, not explained yet, or a job is running.
        """
        case = self._free_case()
        if case.explanation is None:
            raise CaseError("the study is not explained yet; explain it first")

        def finish() -> None:
            result = action()
            if then is not None:
                then(result)

        work = _Work(case, "see", lambda: case.study, finish, repeatable)
        if self._explainer.ready_for(case.study, "see"):
            self._work, self._job = work, Job("action", what, state="running")
            self._complete(work)
        else:
            self._begin("action", what, work)

    def cancel(self) -> None:
        """End the running job; within a second the network has ended with all that it started."""
        if self.running:
            self._explainer.cancel()
            self._finish("cancelled")

    def poll(self) -> Job:
        """Hear what the network says and finish what has become ready; call it from a timer, every 0.05 s or so.

        Returns:
            the job as it stands.
        """
        if self._polling or self._closed:  # out of an action's own event loop: not now
            return self._job
        self._polling = True
        try:
            for event in self._explainer.poll():
                self._hear(event)
        finally:
            self._polling = False
        return self._job

    def wait(self, timeout_s: float | None = None, *, tick: Callable[[Job], None] | None = None) -> Job:
        """Poll until the job has ended: for a console or a script.

        Args:
            timeout_s: None waits as long as it takes.
            tick: called after each poll; a face may handle its events there.

        Raises:
            TimeoutError: it has not ended by then; it goes on.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while self.poll().state == "running":
            if tick is not None:
                tick(self._job)
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"{self._job.what}: not done after {timeout_s} s")
            time.sleep(0.01)
        return self._job

    # --------------------------------------------------------------------------------------------------------- inside

    def _open_for_work(self) -> None:
        if self._closed:
            raise CaseError("this session was closed; start another one")

    def _free_case(self) -> Case:
        self._open_for_work()
        if self._case is None:
            raise CaseError("no study is open; open one first")
        if self.running:
            raise CaseError(f"the network is busy ({self._job.what}); wait for it, or cancel it")
        return self._case

    def _begin(self, kind: Literal["explain", "shift", "action"], what: str, work: _Work) -> None:
        self._work = work
        self._job = Job(kind, what, stage="starting", state="running")
        try:
            self._explainer.begin(work.study(), work.task)
        except Exception as error:
            self._fail(error)
            return
        self._tell("job")

    def _hear(self, event: Event) -> None:
        work = self._work
        if work is None:
            return
        if event.kind == "failed" and event.error is not None:
            self._fail(event.error)
        elif event.kind == "done":
            self._complete(work)
        elif event.stage:
            self._job = replace(self._job, share=max(self._job.share, event.share), stage=event.stage)
            self._tell("job")

    def _complete(self, work: _Work) -> None:
        """The network is ready: have the case do it, unless the study is another one by now."""
        try:
            study = work.study()
            if not self._explainer.ready_for(study, work.task):
                if work.restarts >= RESTARTS:
                    raise CaseError("the study changed again and again while the network ran; try again")
                self._work = work = replace(work, restarts=work.restarts + 1)
                self._explainer.begin(study, work.task)
                return
            with self._explainer.deferring() if work.repeatable and work.waits < WAITS else nullcontext():
                work.finish()
        except NotYetError:
            if self._work is work:
                self._work = replace(work, waits=work.waits + 1)
                self._job = replace(self._job, stage="waiting for the network")
                self._tell("job")
            return
        except Exception as error:
            if self._work is work:
                self._fail(error)
            else:  # cancelled or replaced out of the action's own event loop
                _log.warning("an action failed after its job had ended with %s", type(error).__name__)
            return
        if self._work is work:
            self._finish("done")

    def _fail(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        self._finish("failed", message=text, log_tail=getattr(error, "log_tail", ""), error=error)

    def _finish(
        self, state: Literal["failed", "cancelled", "done"], *, message: str = "", log_tail: str = "",
        error: Exception | None = None,
    ) -> None:  # fmt: skip
        if self._work is None:
            return
        self._work = None
        share = 1.0 if state == "done" else self._job.share
        self._job = replace(
            self._job, state=state, share=share, message=message, log_tail=log_tail, error=error, stage=""
        )
        self._tell("job")

    def _drop(self, why: str) -> None:
        """End a job whose case goes; the network starts again in the background, ready for the next one."""
        if self.running:
            self._explainer.cancel()
            self._finish("cancelled", message=why)
            try:
                self._explainer.warm()
            except Exception as error:  # the next job will say so
                _log.warning("the network could not be started again (%s)", type(error).__name__)

    def _case_said(self, event: CaseEvent) -> None:
        self._tell("case", event)

    def _tell(self, kind: Literal["job", "case"], case_event: CaseEvent | None = None) -> None:
        event = SessionEvent(kind, self._job, case_event)
        for callback in tuple(self._subscribers.values()):
            try:
                callback(event)
            except Exception as error:
                # only the type: a message may quote what it was working on, and that may be a patient's
                _log.warning("a subscriber failed on '%s' with %s", kind, type(error).__name__)
