"""A session runs the network for the open case, one job at a time, and loses nothing that goes wrong."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MedRationaleLogic.case import Case, CaseError, CaseSignedOffError
from MedRationaleLogic.imaging.study import Study, StudyError
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference.worker import Event, InProcess, NotYetError, RemoteExplainer, WorkerError
from MedRationaleLogic.session import IDLE, WAITS, Session, SessionEvent
from Testing.bundle_factory import tiny_bundle
from Testing.explanation_factory import CENTER, PZ_LEFT, sphere
from Testing.study_factory import make_study
from Testing.unit.case.fake_explainer import FakeExplainer, FakeReader

READER = "Dr A"
SMALL = {"shape": (10, 40, 44)}


@dataclass
class Scripted:
    """A network that has something to tell when a test says so.

    Attributes:
        begun: what was asked for.
        ready: what it is ready for.
        calls: everything else that was asked of it.
    """

    fake: FakeExplainer = field(default_factory=lambda: FakeExplainer(options=SMALL))
    begun: list[tuple[str, str]] = field(default_factory=list)
    ready: set[tuple[str, ...]] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    refuse: Exception | None = None
    defers: bool = False

    @staticmethod
    def key(study: Study, task: str) -> tuple[str, ...]:
        return (task, *(study.volume(role).sha256 for role in study.roles))

    def begin(self, study: Study, task: str = "explain") -> None:
        if self.refuse is not None:
            raise self.refuse
        self.begun.append((task, study.name))
        self.asked = self.key(study, task)

    def finish(self) -> None:
        """What was begun is ready."""
        self.ready |= {self.asked, ("see", *self.asked[1:])}
        self.events.append(Event("done", 1.0))

    def poll(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def ready_for(self, study: Study, task: str = "see") -> bool:
        return self.key(study, task) in self.ready

    def die(self) -> None:
        """The child is gone, and what it knew."""
        self.ready.clear()

    def open(self, study: Study, **more: Any) -> Any:
        assert self.ready_for(study, "explain"), "the case would wait"
        return self.fake.open(study, **more)

    def see(self, study: Study) -> Any:
        assert self.ready_for(study), "the case would wait"
        return self.fake.see(study)

    @contextmanager
    def deferring(self) -> Iterator[None]:
        self.defers = True
        try:
            yield
        finally:
            self.defers = False

    def read_by_turns(self, monkeypatch: pytest.MonkeyPatch, busy: Iterator[bool]) -> None:
        """From now on each region is asked for while the network is at work for somebody else, or not."""
        read = FakeReader.lesion

        def lesion(reader: FakeReader, *args: Any, **more: Any) -> Any:
            if next(busy) and self.defers:
                raise NotYetError("not yet")
            return read(reader, *args, **more)

        monkeypatch.setattr(FakeReader, "lesion", lesion)

    def warm(self) -> None:
        self.calls.append("warm")

    def cancel(self) -> None:
        self.calls.append("cancel")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def network() -> Scripted:
    return Scripted()


@pytest.fixture
def session(network: Scripted) -> Session:
    made = Session(network)
    made.open(network.fake.study)
    return made


@pytest.fixture
def explained(session: Session, network: Scripted) -> Session:
    session.explain()
    network.finish()
    session.poll()
    assert session.job.state == "done"
    network.begun.clear()
    return session


def heard(session: Session) -> list[SessionEvent]:
    events: list[SessionEvent] = []
    session.subscribe(events.append)
    return events


def ball(case: Case) -> Volume:
    frame = case.study.frame.geometry
    return Volume(sphere(frame, (-16.0, 6.0, 0.0), 4.0), frame)


# ------------------------------------------------------------------------------------------------------------ explain


def test_explaining_goes_on_between_polls(session: Session, network: Scripted):
    events = heard(session)
    session.explain()
    assert session.running
    assert session.case.explanation is None
    network.events += [
        Event("ready", 0.0, "loaded"),
        Event("progress", 0.4, "reading ADC"),
        Event("progress", 0.3, "x"),
    ]
    session.poll()
    assert (session.job.kind, session.job.share, session.job.stage) == ("explain", 0.4, "x")
    network.finish()
    job = session.poll()
    assert (job.state, job.share, job.message) == ("done", 1.0, "")
    assert [x.number for x in session.case.explanation.lesions] == [1, 2]
    kinds = [(e.kind, e.job.state, e.case_event.kind if e.case_event else None) for e in events]
    assert kinds == [*[("job", "running", None)] * 4, ("case", "running", "explain"), ("job", "done", None)]
    assert session.poll() is job


def test_what_the_case_refuses_is_refused_at_once(explained: Session, network: Scripted):
    with pytest.raises(CaseError, match="explained already"):
        explained.explain()
    explained.case.sign_off(READER)
    with pytest.raises(CaseSignedOffError):
        explained.explain()
    with pytest.raises(CaseSignedOffError):
        explained.shift("adc", (1.0, 0.0, 0.0), READER)
    assert network.begun == []
    assert explained.job.state == "done"


def test_nothing_is_open():
    session = Session(Scripted())
    for call in (session.explain, lambda: session.perform(int, "x"), lambda: session.shift("adc", (1, 0, 0), READER)):
        with pytest.raises(CaseError, match="no study is open"):
            call()
    session.cancel()
    session.close_case()
    assert session.job is IDLE


def test_one_job_at_a_time(session: Session, network: Scripted):
    session.explain()
    for call in (session.explain, lambda: session.shift("adc", (1, 0, 0), READER)):
        with pytest.raises(CaseError, match=r"busy \(explaining the study\); wait for it, or cancel it"):
            call()
    assert network.begun == [("explain", "synthetic")]
    with pytest.raises(CaseError, match="busy"):
        session.perform(int, "x")


def test_a_failure_is_told_with_the_log(session: Session, network: Scripted):
    session.explain()
    network.events.append(
        Event("failed", error=WorkerError("it ended (signal SIGKILL)", exit_code=-9, log_tail="last"))
    )
    job = session.poll()
    assert (job.state, job.message, job.log_tail) == ("failed", "it ended (signal SIGKILL)", "last")
    assert session.case.explanation is None
    session.explain()  # the next click starts again
    network.finish()
    assert session.poll().state == "done"
    network.refuse = WorkerError("no Python interpreter")
    session.open(network.fake.study)
    session.explain()
    assert (session.job.state, session.job.message) == ("failed", "no Python interpreter")


def test_cancel(session: Session, network: Scripted):
    session.explain()
    session.cancel()
    assert session.job.state == "cancelled"
    assert network.calls == ["cancel"]
    network.events.append(Event("done", 1.0))  # said before it heard
    session.poll()
    assert session.case.explanation is None
    assert session.job.state == "cancelled"


def test_a_study_that_changes_while_it_is_explained_is_explained_as_it_is(session: Session, network: Scripted):
    session.explain()
    session.case.shift("adc", (1.0, 0.0, 0.0), READER)
    network.finish()
    session.poll()
    assert session.running  # once more, on the shifted study
    assert len(network.begun) == 2
    session.case.set_psa(4.0, READER)  # no matter to the network
    network.finish()
    assert session.poll().state == "done"
    assert session.case.explanation.study.psa == 4.0
    session.open(network.fake.study)
    network.die()
    session.explain()
    for _ in range(4):
        session.case.shift("adc", (1.0, 0.0, 0.0), READER)
        network.finish()
        session.poll()
    assert session.job.state == "failed"
    assert "changed again and again" in session.job.message


def test_a_case_that_was_explained_meanwhile_is_left_alone(session: Session, network: Scripted):
    session.explain()
    network.finish()
    session.case.explain()
    first = session.case.explanation
    assert session.poll().state == "failed"
    assert "explained already" in session.job.message
    assert session.case.explanation is first


# ------------------------------------------------------------------------------------------- another case, the end


def test_a_job_whose_case_was_replaced_comes_to_nothing(session: Session, network: Scripted):
    old = session.case
    session.explain()
    events = heard(session)
    new = session.open(network.fake.study)
    assert session.case is new
    assert network.calls == ["cancel", "warm"]  # the network is ready for the new one
    assert [(e.kind, e.job.state) for e in events] == [("job", "cancelled"), ("case", "idle")]
    network.finish()
    session.poll()
    assert old.explanation is None
    assert new.explanation is None
    old.set_psa(3.0, READER)  # nobody listens to it any more
    assert len(events) == 2
    session.adopt(new)
    assert len(events) == 2
    session.close_case()
    assert session.case is None
    assert len(events) == 3


def test_closing_during_a_job(session: Session, network: Scripted):
    session.explain()
    events = heard(session)
    session.close()
    assert network.calls == ["close"]
    assert events == []
    network.finish()
    assert session.poll().state == "cancelled"
    for call in (session.explain, lambda: session.open(network.fake.study)):
        with pytest.raises(CaseError, match="closed"):
            call()
    session.close()
    assert network.calls == ["close"]


# ------------------------------------------------------------------------------------------------- actions and shifts


def test_an_action_is_done_at_once_when_the_network_is_warm(explained: Session, network: Scripted):
    results: list[Any] = []
    explained.perform(lambda: explained.case.add_region(ball(explained.case), READER), "adding", then=results.append)
    assert explained.job.state == "done"
    assert results[0].number == 3
    assert network.begun == []
    explained.open(network.fake.study)
    with pytest.raises(CaseError, match="not explained yet"):
        explained.perform(int, "x")


def test_an_action_waits_for_a_network_that_died_meanwhile(explained: Session, network: Scripted):
    network.die()
    explained.perform(lambda: explained.case.add_region(ball(explained.case), READER), "adding a region")
    assert (explained.job.state, explained.job.what) == ("running", "adding a region")
    assert network.begun == [("see", "synthetic")]
    assert len(explained.case.explanation.lesions) == 2
    network.finish()
    network.die()  # and once more, before anybody looked
    explained.poll()
    assert explained.running
    network.finish()
    assert explained.poll().state == "done"
    assert len(explained.case.explanation.lesions) == 3


def test_an_action_is_left_and_repeated_while_the_network_is_at_work_for_others(
    explained: Session, network: Scripted, monkeypatch: pytest.MonkeyPatch
):
    case, busy = explained.case, iter([True, True, False, True])
    network.read_by_turns(monkeypatch, busy)
    events = heard(explained)
    explained.perform(lambda: case.add_region(ball(case), READER), "adding", repeatable=True)
    assert (explained.job.state, explained.job.stage) == ("running", "waiting for the network")
    assert events[-1].job is explained.job
    assert explained.poll().state == "running", "nothing has come"
    for state in ("running", "done"):
        network.events.append(Event("done", 1.0))
        assert explained.poll().state == state
    assert [one.number for one in case.explanation.lesions] == [1, 2, 3], "no number was used up"
    explained.perform(lambda: case.add_region(ball(case), READER), "adding")
    assert explained.job.state == "done", "what may not be called twice waits"
    assert next(busy, None) is None


def test_a_network_that_never_answers_at_once_is_waited_for_in_the_end(
    explained: Session, network: Scripted, monkeypatch: pytest.MonkeyPatch
):
    case = explained.case
    network.read_by_turns(monkeypatch, itertools.repeat(True))
    explained.perform(lambda: case.add_region(ball(case), READER), "adding", repeatable=True)
    for _ in range(WAITS):
        assert explained.job.state == "running"
        network.events.append(Event("done", 1.0))
        explained.poll()
    assert explained.job.state == "done"


@pytest.mark.parametrize("warm", [True, False])
def test_an_exception_of_an_action_is_told(explained: Session, network: Scripted, warm: bool):
    def fails() -> None:
        raise ValueError("the point lies outside the images; click inside the prostate")

    if not warm:
        network.die()
    events = heard(explained)
    explained.perform(fails, "explaining here")
    if not warm:
        network.finish()
        explained.poll()
    assert explained.job.state == "failed"
    assert explained.job.message == "the point lies outside the images; click inside the prostate"
    assert isinstance(explained.job.error, ValueError)
    assert events[-1].job is explained.job
    explained.perform(int, "again")
    assert explained.job.state == "done"


def test_an_action_may_poll_and_cancel_out_of_its_own_event_loop(explained: Session, network: Scripted):
    done: list[int] = []

    def shows_a_dialog() -> None:
        network.events.append(Event("done", 1.0))
        explained.poll()
        done.append(1)
        with pytest.raises(CaseError, match="busy"):
            explained.perform(int, "x")
        explained.cancel()

    network.die()
    explained.perform(shows_a_dialog, "dialog")
    network.finish()
    explained.poll()
    explained.poll()
    assert done == [1]
    assert explained.job.state == "cancelled"


def test_a_shift_of_an_explained_case_waits_for_the_network(explained: Session, network: Scripted):
    log = explained.case.log
    explained.shift("adc", (2.0, 0.0, 0.0), READER)
    assert explained.running
    assert explained.case.log == log
    network.finish()
    assert explained.poll().state == "done"
    assert explained.case.log[-1].action == "shift"
    assert explained.case.explanation.study.adc.geometry.origin[0] == pytest.approx(
        network.fake.study.adc.geometry.origin[0] + 2.0
    )


def test_a_shift_that_needs_no_network_is_done_at_once(session: Session, network: Scripted):
    session.shift("adc", (2.0, 0.0, 0.0), READER)
    assert session.case.log[-1].action == "shift"
    with pytest.raises(StudyError, match="frame of reference"):
        session.shift("t2w", (2.0, 0.0, 0.0), READER)
    with pytest.raises(CaseError, match="reader's name"):
        session.shift("adc", (2.0, 0.0, 0.0), "  ")
    assert network.begun == []
    assert session.job is IDLE


def test_a_subscriber_that_fails_harms_nobody(session: Session, caplog: pytest.LogCaptureFixture):
    def fails(event: SessionEvent) -> None:
        raise RuntimeError("PAT-4711")

    stop = session.subscribe(fails)
    events = heard(session)
    with caplog.at_level(logging.WARNING):
        session.explain()
        session.case.set_psa(2.0, READER)
    assert [e.kind for e in events] == ["job", "case"]
    assert "RuntimeError" in caplog.text
    assert "PAT-4711" not in caplog.text
    stop()
    caplog.clear()
    session.cancel()
    assert not caplog.records


# ------------------------------------------------------------------------------------------------------- for real


def test_any_explainer_will_do_in_process():
    fake = FakeExplainer(options=SMALL)
    session = Session(fake)
    assert isinstance(session.explainer, InProcess)
    session.open(fake.study)
    session.explain()
    assert session.wait().state == "done"
    session.perform(lambda: session.case.explain_here(np.asarray(CENTER) + PZ_LEFT.offset, READER), "here")
    session.shift("adc", (1.0, 0.0, 0.0), READER)
    assert session.wait().state == "done"
    assert (fake.runs, fake.sights) == (2, 0)
    session.open(fake.study)
    ticks: list[str] = []
    session.explain()
    session.wait(10, tick=lambda job: ticks.append(job.state))
    assert session.job.state == "done"
    assert session.case.explanation is not None


def test_waiting_has_an_end(session: Session):
    session.explain()
    with pytest.raises(TimeoutError, match="explaining the study"):
        session.wait(0.05)
    assert session.running


@pytest.mark.slow
def test_the_road_through_a_child(tmp_path: Path):
    """Explain, edit, shift, lose the child, edit again, keep as text and go on in another session."""
    bundle = tiny_bundle(tmp_path)
    remote = RemoteExplainer(bundle, "cpu", precision="float32", env={"OMP_NUM_THREADS": "1"})
    session = Session(remote)
    polls: list[Callable[[], object]] = []
    try:
        case = session.open(make_study())
        session.explain()
        assert session.wait(300).state == "done", session.job
        frame = case.study.frame
        far = np.moveaxis(np.indices(frame.array.shape), 0, -1) - (6, 48, 48)
        drawn = frame.with_array(np.linalg.norm(far, axis=-1) < 5)
        session.perform(lambda: case.add_region(drawn, READER), "adding", then=lambda x: polls.append(x.to_dict))
        assert session.job.state == "done", session.job
        assert len(polls) == 1
        number = case.explanation.lesions[-1].number
        session.shift("adc", (3.0, 0.0, 0.0), READER)
        assert session.wait(300).state == "done", session.job
        assert case.explanation.lesion(number).attributes["adc.signal"] != polls[0]()["attributes"]["adc.signal"]
        name = next(iter(case.explanation.evidence))
        shown = case.explanation.evidence[name].array
        text = case.to_text()

        remote._child.process.kill()
        remote._child.process.wait()
        restored = Case.from_text(text, {role: make_study().volume(role) for role in case.study.roles}, remote)
        session.adopt(restored)
        found: list[np.ndarray] = []
        session.perform(lambda: restored.explanation.evidence[name].array, "evidence", then=found.append)
        assert session.running
        assert session.wait(300).state == "done", session.job
        assert np.array_equal(found[0], shown)
        pid = remote.pid
    finally:
        session.close()
    assert remote.pid is None
    assert pid is not None
