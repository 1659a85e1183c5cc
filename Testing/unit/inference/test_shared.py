"""One process for several clients: whose turn it is, what a client that leaves or a process that dies does to others.

Most tests run a process without a network (``worker_stub``), or the process's own parts in this one.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MedRationaleLogic.imaging.study import Study, StudyError
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference import shared, worker, worker_child, worker_link
from MedRationaleLogic.inference.explainer import Cancelled, ExplainCancelledError, Explainer, Progress
from MedRationaleLogic.inference.shared import SharedModel
from MedRationaleLogic.inference.worker import Event, NotYetError, RemoteExplainer, RemoteReader, WorkerError
from MedRationaleLogic.inference.worker_child import Hall, Model, Room
from MedRationaleLogic.model.bundle import Bundle, BundleError
from Testing.study_factory import CENTER

posix = pytest.mark.skipif(os.name != "posix", reason="process groups and signals of POSIX")


def named(study: Study, name: str) -> Study:
    """The same images under another name: the stub does what the name says."""
    return replace(study, name=name)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def stages(events: list[Event]) -> list[str]:
    return [event.stage for event in events if event.kind == "progress"]


class Client:
    """An explainer whose events are kept."""

    def __init__(self, rooms: Path) -> None:
        self.explainer = RemoteExplainer(rooms=rooms)
        self.told: list[Event] = []

    def poll(self) -> list[Event]:
        self.told += self.explainer.poll()
        return self.told

    def hears(self, stage: str) -> bool:
        return stage in stages(self.poll())

    def ends(self) -> Event:
        """The event that ends the task."""
        until(lambda: self.poll() and not self.explainer.running)
        return self.poll()[-1]

    @property
    def folder(self) -> Path:
        return self.explainer._child.folder


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Where temporary folders are made; whatever happens in a test, nothing is left there."""
    monkeypatch.setattr(worker_link, "CHILD", "Testing.unit.inference.worker_stub")
    monkeypatch.setattr(worker_link.tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert not list(tmp_path.glob(f"{worker_link.PREFIX}*"))


@pytest.fixture
def model(place: Path, eager: Bundle) -> Iterator[SharedModel]:
    made = SharedModel(eager, "cpu", env={"STUB_GO": str(place / "go")})
    made.start()
    yield made
    made.close()


@pytest.fixture
def clients(model: SharedModel) -> Iterator[list[Client]]:
    made = [Client(model.rooms) for _ in range(3)]
    yield made
    for client in made:
        client.explainer.close()


def names(model: SharedModel) -> set[str]:
    return {room.name for room in model.rooms.iterdir()}


def checked(model: SharedModel, state: str) -> bool:
    model.check()
    return model.state["state"] == state


# ------------------------------------------------------------------------------------------------------- whose turn


def test_studies_wait_for_those_that_came_before(model: SharedModel, clients: list[Client], study: Study, place: Path):
    first, second, third = clients
    first.explainer.begin(named(study, "held"), "see")
    until(lambda: first.hears("working"))
    second.explainer.begin(study, "see")
    until(lambda: second.hears("waiting: 1 study before yours"))
    third.explainer.begin(study, "see")
    until(lambda: third.hears("waiting: 2 studies before yours"))
    until(lambda: (model.check(), model.state["waiting"] == 2)[1])
    beats = (third.folder / "messages.jsonl").read_bytes().count(b"heartbeat")
    until(lambda: (third.folder / "messages.jsonl").read_bytes().count(b"heartbeat") > beats)  # while another's runs
    assert all(event.share == 0.0 for event in [*second.poll(), *third.poll()])
    second.explainer.cancel()
    until(lambda: third.hears("waiting: 1 study before yours"))
    assert first.explainer.running
    (place / "go").touch()
    assert first.ends().kind == third.ends().kind == "done"
    assert third.explainer.ready_for(study)
    assert second.explainer.poll() == []
    assert third.explainer.pid is None
    assert third.explainer.place == "cpu, float32"
    until(lambda: (model.check(), model.state["waiting"] == 0)[1])


@contextmanager
def by_hand(tmp_path: Path, *rooms: str) -> Iterator[tuple[Hall, Callable[..., None]]]:
    """A hall whose threads are the test's own, and a way to give commands in its rooms."""
    (tmp_path / "own").mkdir()
    for name in rooms:
        folder = tmp_path / "rooms" / name
        folder.mkdir(parents=True)
        (folder / "owner.txt").write_text(str(os.getpid()))
        (folder / "commands.jsonl").touch()

    def give(name: str, *commands: str, look: bool = True) -> None:
        with (tmp_path / "rooms" / name / "commands.jsonl").open("a") as file:
            for number, command in enumerate(commands, 1):
                file.write(json.dumps({"id": number, "do": command}) + "\n")
        if look:
            hall.look()

    hall = Hall(Room(tmp_path / "own", Model("", "cpu", "auto")), tmp_path / "rooms")
    hall.look()
    yield hall, give


def turns(hall: Hall, number: int) -> list[str]:
    found = []
    for _ in range(number):
        room, command = hall.turn()
        found.append(f"{room.folder.name} {command['do']}")
    return found


def test_many_short_commands_do_not_keep_others_from_their_turn(tmp_path: Path):
    with by_hand(tmp_path, "a", "b", "c") as (hall, give):
        give("a", *["lesion"] * 4)
        give("b", "forget", "forget", "explain")
        give("c", "region_at")
        expected = ["a lesion", "b forget", "b forget", "b explain", "c region_at", "a lesion", "a lesion"]
        assert turns(hall, 7) == expected
        give("c", "see")  # while the third of these is done
        assert turns(hall, 2) == ["c see", "a lesion"]


def test_who_leaves_is_seen_off_first_and_asks_for_nothing_more(tmp_path: Path):
    with by_hand(tmp_path, "a", "b") as (hall, give):
        give("a", "see", "see")
        give("b", "see")
        room, command = hall.turn()
        give("a", "close")
        assert room.closed
        room.do(command)  # the client is not there any more: not even tried
        room, command = hall.turn()
        assert command == {"do": "close"}
        room.do(command)
        assert not (tmp_path / "rooms" / "a").exists()
        assert turns(hall, 1) == ["b see"]
        room.tell("heartbeat")  # nothing happens, and no other file is written to
        assert not (tmp_path / "rooms" / "a").exists()


def test_a_room_that_cannot_be_used_is_no_harm_to_others(tmp_path: Path):
    with by_hand(tmp_path, "a", "b", "no owner", ".unfinished") as (hall, give):
        (tmp_path / "rooms" / "served before").mkdir()
        for name in ("owner.txt", "messages.jsonl"):
            (tmp_path / "rooms" / "served before" / name).write_text("1")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "owner.txt").write_text(str(os.getpid()))
        (tmp_path / "rooms" / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "rooms" / "no owner" / "owner.txt").write_text("nobody")
        (tmp_path / "rooms" / "a" / "commands.jsonl").unlink()  # its client has removed it
        hall.look()
        hall.announce("ready")
        hall.beat()
        give("b", "see", "nonsense")
        room, command = hall.turn()
        assert command == {"do": "close"}
        room.do(command)
        assert turns(hall, 1) == ["b see"]
        room, command = hall.turn()
        room.do(command)
        said = [json.loads(line)["kind"] for line in (room.folder / "messages.jsonl").open()]
        assert said == ["ready", "heartbeat", "failed"]
        assert not (tmp_path / "elsewhere" / "messages.jsonl").exists()
        assert not (tmp_path / "rooms" / ".unfinished" / "messages.jsonl").exists()


# ----------------------------------------------------------------------------------------------- who comes and leaves


def test_who_cancels_is_free_at_once_and_others_are_served(model: SharedModel, clients: list[Client], study: Study):
    first, second, _ = clients
    first.explainer.begin(named(study, "held"), "see")
    until(lambda: first.hears("working"))
    second.explainer.begin(study, "see")
    until(lambda: second.hears("waiting: 1 study before yours"))
    left = first.folder
    start = time.perf_counter()
    first.explainer.cancel()
    first.explainer.begin(study, "see")  # in a room of its own again
    assert time.perf_counter() - start < 10.0  # the other study is held for as long as this test likes
    assert first.folder != left
    assert second.ends().kind == first.ends().kind == "done"
    until(lambda: not left.exists())
    assert "stopped" not in str([event.message for event in first.told])
    model.check()
    assert (model.state["state"], model.state["restarts"]) == ("ready", 0)


@pytest.fixture
def held(model: SharedModel, clients: list[Client], study: Study) -> tuple[Client, RemoteReader, Volume]:
    """One who has a study open that the network has seen, while it is at work for another; and the study's zones."""
    first, second, _ = clients
    reader = second.explainer.see(study)
    second.poll()
    first.explainer.begin(named(study, "held"), "see")
    until(lambda: first.hears("working"))
    return second, reader, study.frame.with_array(np.ones(study.frame.geometry.shape, np.uint8), "zones")


def test_a_region_is_read_later_where_others_are_served(
    held: tuple[Client, RemoteReader, Volume], place: Path, monkeypatch: pytest.MonkeyPatch
):
    client, reader, zones = held

    def asks(point: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> Volume:
        with client.explainer.deferring():
            return reader.region_at(point, zones)

    start = time.perf_counter()
    with pytest.raises(NotYetError):
        asks()
    assert time.perf_counter() - start < 10.0
    assert client.explainer.running
    with pytest.raises(WorkerError, match="at work"):
        asks((7.0, 8.0, 9.0))
    (place / "go").touch()
    assert client.ends().kind == "done"
    commands = (client.folder / "commands.jsonl").read_bytes()
    assert (asks().array == 1).all()
    assert (client.folder / "commands.jsonl").read_bytes() == commands, "it was not asked for a second time"
    assert not list(client.folder.glob("answer-*"))
    monkeypatch.setattr(worker, "AT_ONCE_S", 30.0)  # nobody is before it now, however slow this machine is
    assert asks().name == "region"
    assert (client.folder / "commands.jsonl").read_bytes() != commands, "another action asks anew"


def test_what_cannot_be_read_later_is_told(held: tuple[Client, RemoteReader, Volume], place: Path):
    client, reader, zones = held
    with pytest.raises(NotYetError), client.explainer.deferring():
        reader.region_at((0.0, 0.0, -9999.0), zones)
    (place / "go").touch()
    event = client.ends()
    assert (event.kind, event.message) == ("failed", "the point lies outside the images")
    assert isinstance(event.error, StudyError)
    assert not client.explainer.running


def test_who_asks_for_something_else_meanwhile_is_told_and_the_question_stays(
    held: tuple[Client, RemoteReader, Volume], place: Path, study: Study
):
    client, reader, zones = held
    with pytest.raises(NotYetError), client.explainer.deferring():
        reader.region_at((1.0, 2.0, 3.0), zones)
    with pytest.raises(WorkerError, match="at work on a region"):
        client.explainer.see(study.with_shift("adc", (1.0, 0.0, 0.0)))
    (place / "go").touch()
    assert client.ends().kind == "done"


def test_a_question_that_was_given_up_is_heard_of_no_more(
    held: tuple[Client, RemoteReader, Volume], place: Path, study: Study
):
    client, reader, zones = held
    with pytest.raises(NotYetError), client.explainer.deferring():
        reader.region_at((1.0, 2.0, 3.0), zones)
    room = client.folder
    client.explainer.cancel()
    assert not client.explainer.running
    (place / "go").touch()
    until(lambda: b'"answer"' in (room / "messages.jsonl").read_bytes())
    assert client.explainer.poll() == []
    assert not list(room.glob("answer-*"))
    assert (reader.region_at((1.0, 2.0, 3.0), zones).array == 1).all()
    assert client.explainer.ready_for(study)


@posix
def test_a_question_goes_with_the_process(
    held: tuple[Client, RemoteReader, Volume], model: SharedModel, place: Path, monkeypatch: pytest.MonkeyPatch
):
    client, reader, zones = held
    with pytest.raises(NotYetError), client.explainer.deferring():
        reader.region_at((1.0, 2.0, 3.0), zones)
    os.killpg(model._child.pid, signal.SIGKILL)
    model._child.process.wait()
    model.check()
    event = client.ends()
    assert event.kind == "failed"
    assert "SIGKILL" in event.message
    until(lambda: checked(model, "ready"))
    monkeypatch.setattr(worker, "AT_ONCE_S", 30.0)
    with client.explainer.deferring():
        assert (reader.region_at((1.0, 2.0, 3.0), zones).array == 1).all(), "seen and read again"


def test_rooms_are_private_and_go_with_their_clients(model: SharedModel, clients: list[Client], study: Study):
    for client in clients:
        client.explainer.see(study)
    assert len(names(model)) == 3
    if os.name == "posix":
        for folder in (model.rooms, *(client.folder for client in clients)):
            assert folder.stat().st_mode & 0o777 == 0o700
        for name in ("commands.jsonl", "messages.jsonl", "owner.txt"):
            assert (clients[0].folder / name).stat().st_mode & 0o777 == 0o600
    clients[0].explainer.close()
    until(lambda: len(names(model)) == 2)
    with pytest.raises(WorkerError, match="was closed"):
        clients[0].explainer.begin(study)
    clients[1].explainer.see(study)


CLIENT = """
    import sys, time
    from MedRationaleLogic.inference.worker import RemoteExplainer
    from Testing.study_factory import make_study
    explainer = RemoteExplainer(rooms=sys.argv[1])
    explainer.begin(make_study(name="held"), "see")
    while True:
        for event in explainer.poll():
            print(event.stage, flush=True)
        time.sleep(0.01)
"""


@posix
def test_the_room_of_a_client_that_was_killed_goes_and_its_task_stops(
    model: SharedModel, clients: list[Client], study: Study
):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", textwrap.dedent(CLIENT), str(model.rooms)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while process.stdout.readline() != "working\n":
        assert process.poll() is None
    (room,) = names(model)
    clients[0].explainer.begin(study, "see")
    until(lambda: clients[0].hears("waiting: 1 study before yours"))
    process.kill()
    process.wait()
    assert clients[0].ends().kind == "done"
    until(lambda: room not in names(model))
    assert len(names(model)) == 1


def test_nothing_is_left_when_it_is_closed(model: SharedModel, clients: list[Client], study: Study, place: Path):
    clients[0].explainer.see(study)
    clients[1].explainer.begin(named(study, "held"), "see")
    until(lambda: clients[1].hears("working"))
    model.close()
    assert not list(place.glob(f"{worker_link.PREFIX}*"))
    assert model.state["state"] == "closed"
    model.check()
    error = clients[1].ends().error
    assert isinstance(error, WorkerError)
    assert str(error) == "the network's process ended by itself (its folder is gone); try again"
    assert not clients[0].explainer.ready_for(study)
    clients[0].explainer.begin(study, "see")
    assert "cannot be reached" in clients[0].ends().message
    with pytest.raises(WorkerError, match="was closed"):
        model.start()


SERVER = """
    import sys, time
    from MedRationaleLogic.inference import worker_link
    from MedRationaleLogic.inference.shared import SharedModel
    worker_link.CHILD = "Testing.unit.inference.worker_stub"
    model = SharedModel(sys.argv[1])
    model.start()
    if len(sys.argv) > 2:
        raise SystemExit  # without closing it
    while True:
        model.check()
        print(model.state["state"], model.rooms, flush=True)
        time.sleep(0.05)
"""


def server(eager: Bundle, place: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(place), "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", textwrap.dedent(SERVER), str(eager.path), *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@posix
def test_the_end_of_the_server_is_the_end_of_all(eager: Bundle, place: Path, study: Study):
    process = server(eager, place)
    assert process.stdout is not None
    state, rooms = "", ""
    while state != "ready":
        state, rooms = process.stdout.readline().split()
    client = Client(Path(rooms))
    client.explainer.see(study)
    process.kill()
    process.wait()
    until(lambda: not list(place.glob(f"{worker_link.PREFIX}*")))
    client.explainer.begin(study, "see")
    assert "cannot be reached" in client.ends().message
    client.explainer.close()


@posix
def test_a_server_that_forgets_to_close_leaves_nothing(eager: Bundle, place: Path):
    assert server(eager, place, "forget").wait(60) == 0


# ------------------------------------------------------------------------------------------------ the process's end


@posix
def test_a_process_that_was_killed_is_started_again(model: SharedModel, clients: list[Client], study: Study):
    first, second, third = clients
    first.explainer.see(study)
    second.explainer.begin(named(study, "held"), "see")
    until(lambda: second.hears("working"))
    until(lambda: checked(model, "ready"))
    assert {k: v for k, v in model.state.items() if k not in ("waiting", "restarts")} == {
        "state": "ready", "device": "cpu", "precision": "float32", "bundle": "stub", "version": "1", "message": "",
    }  # fmt: skip
    os.killpg(model._child.pid, signal.SIGKILL)
    model._child.process.wait()
    third.explainer.begin(study, "see")  # before anybody has seen that it is dead
    assert stages(third.poll()) == ["waiting for the network"]
    model.check()
    assert model.state["state"] == "restarting"
    assert "SIGKILL" in model.state["message"]
    error = second.ends().error
    assert isinstance(error, WorkerError)
    assert error.exit_code == -signal.SIGKILL
    assert str(error).startswith("the network's process ended by itself (signal SIGKILL)")
    assert str(error).endswith("try again")
    assert [event.kind for event in first.explainer.poll()] == ["ready"]  # of before: nothing ran there
    assert not first.explainer.ready_for(study)
    second.explainer.begin(study, "see")
    until(lambda: checked(model, "ready"))
    assert second.ends().kind == third.ends().kind == "done"
    first.explainer.see(study)  # by itself, as for a region that is asked for
    assert (model.state["restarts"], model.state["message"]) == (1, "")
    assert len(names(model)) == 3


@posix
def test_a_silent_process_is_started_again(
    model: SharedModel, clients: list[Client], study: Study, monkeypatch: pytest.MonkeyPatch
):
    until(lambda: checked(model, "ready"))
    monkeypatch.setattr(worker_link, "SILENCE_S", 2.5)
    clients[0].explainer.begin(named(study, "frozen"), "see")
    until(lambda: (clients[0].poll(), checked(model, "restarting"))[1])
    error = clients[0].ends().error
    assert isinstance(error, WorkerError)
    assert "has not answered for" in str(error)
    clients[0].explainer.begin(study, "see")
    until(lambda: (clients[0].poll(), checked(model, "ready"))[1])
    assert clients[0].ends().kind == "done"


def test_one_that_dies_again_and_again_is_given_time(place: Path, eager: Bundle, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    model = SharedModel(eager, env={"STUB_START": "crash"})
    model.start()
    model.start()  # once is enough
    for restart in range(4):
        until(lambda: checked(model, "restarting") and model._child is None)
        assert model.state["restarts"] == restart
        model._next_start = min(model._next_start, time.monotonic())
        model.check()
    assert [record.getMessage().rpartition(" (")[2] for record in caplog.records] == [
        f"starts again in {s} s)" for s in (0, 1, 2, 4)
    ]
    assert "exit code 1" in model.state["message"]
    model.close()


def test_who_waits_hears_for_what(place: Path, eager: Bundle, study: Study):
    model = SharedModel(eager, env={"STUB_START": "slow"})
    assert model.state["state"] == "closed"
    clients = [Client(model.rooms) for _ in range(2)]
    for client in clients:
        client.explainer.begin(study, "see")
    time.sleep(0.1)
    assert stages(clients[0].poll()) == ["waiting for the network"]
    model.start()
    assert model.state["state"] == "loading"
    until(lambda: all(client.hears("loading the network") for client in clients))
    until(lambda: any(client.hears("waiting: 1 study before yours") for client in clients))
    assert not any(client.explainer.loaded or client.explainer.place for client in clients)
    for client in clients:
        client.explainer.close()
    model.close()


def test_what_is_refused_is_not_tried_again(place: Path, eager: Bundle, study: Study):
    model = SharedModel(eager, env={"STUB_START": "no bundle"})
    early, late = Client(model.rooms), Client(model.rooms)
    early.explainer.begin(study, "see")
    model.start()
    until(lambda: checked(model, "failed"))
    assert model.state["message"] == "bundle tiny: weights are missing; install the bundle again"
    error = early.ends().error
    assert type(error) is BundleError
    assert str(error) == model.state["message"]
    late.explainer.begin(study, "see")
    until(lambda: (model.check(), late.poll(), not late.explainer.running)[2])
    assert type(late.poll()[-1].error) is BundleError
    assert model.state["restarts"] == 0
    for client in (early, late):
        client.explainer.close()
    assert not names(model)
    assert model.state["state"] == "failed"
    model.close()


@pytest.mark.parametrize(("arguments", "kind", "said"), [
    ({"bundle": "no-such-bundle"}, BundleError, "no-such-bundle"),
    ({"python": "/no/such/python"}, WorkerError, "is no program"),
])  # fmt: skip
def test_what_cannot_be_started_is_told_to_all(
    place: Path, eager: Bundle, study: Study, arguments: dict[str, Any], kind: type[Exception], said: str
):
    model = SharedModel(**{"bundle": eager, **arguments})
    model.start()
    assert model.state["state"] == "failed"
    assert said in model.state["message"]
    client = Client(model.rooms)
    client.explainer.begin(study)
    model.check()
    error = client.ends().error
    assert type(error) is kind
    assert said in str(error)
    client.explainer.close()
    model.close()


def test_who_was_told_and_does_not_go_is_seen_off(
    place: Path, eager: Bundle, study: Study, monkeypatch: pytest.MonkeyPatch
):
    model = SharedModel("no-such-bundle")
    model.start()
    client = Client(model.rooms)
    client.explainer.begin(study)
    model.check()
    assert len(names(model)) == 1
    monkeypatch.setattr(shared, "FAREWELL_S", 0.0)
    model.check()
    assert not names(model)
    assert client.ends().kind == "failed"
    model.close()


def test_a_network_that_never_comes_is_told(tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker_link, "COMING_S", 0.2)
    client = Client(tmp_path)
    client.explainer.begin(study)
    error = client.ends().error
    assert isinstance(error, WorkerError)
    assert "ask whoever runs the server" in str(error)
    assert client.explainer.pid is None
    assert not list(tmp_path.iterdir())
    client.explainer.close()


# --------------------------------------------------------------------------------------------------- with the network


@pytest.fixture
def served(eager: Bundle, tmp_path: Path) -> Iterator[tuple[Model, Path]]:
    """The process's own parts with the real network, in threads of this process."""
    own, rooms = tmp_path / "own", tmp_path / "rooms"
    own.mkdir()
    rooms.mkdir()
    model, stop = Model(str(eager.path), "cpu", "float32"), threading.Event()
    hall = Hall(Room(own, model), rooms)
    hall.announce("ready", **model.load())

    def look() -> None:
        while not stop.wait(0.01):
            hall.look()

    def work() -> None:
        while True:
            room, command = hall.turn()
            if stop.is_set():
                return
            room.do(command)

    threads = [threading.Thread(target=target) for target in (look, work)]
    for thread in threads:
        thread.start()
    yield model, rooms
    stop.set()
    threads[0].join()
    (own / "commands.jsonl").write_text('{"do": "forget"}\n')
    hall.look()
    threads[1].join(60)
    assert not threads[1].is_alive()


def test_few_studies_stay_read_and_others_are_read_again(
    served: tuple[Model, Path], study: Study, monkeypatch: pytest.MonkeyPatch
):
    model, rooms = served
    monkeypatch.setattr(worker_child, "KEPT_ROOM_STUDIES", 1)
    clients = [Client(rooms) for _ in range(2)]
    studies = [replace(study, adc=None, hbv=None), replace(study, hbv=None)]
    readers = [c.explainer.see(s) for c, s in zip(clients, studies, strict=True)]
    zones = study.t2w.with_array(np.ones(study.t2w.array.shape, np.uint8), "zones")
    z, y, x = np.indices(study.t2w.array.shape)
    mask = study.t2w.with_array((abs(z - 6) < 2) & (abs(y - 46) < 6) & (abs(x - 46) < 6), "mask")
    first = readers[1].lesion(1, mask, zones).to_dict()
    other = readers[0].lesion(1, mask, zones).to_dict()  # the other one has to go
    assert len(model.readers) == 1
    assert readers[1].lesion(1, mask, zones).to_dict() == first != other
    assert len(model.readers) == 1
    assert all(c.explainer.ready_for(s) for c, s in zip(clients, studies, strict=True))
    for client in clients:
        client.explainer.close()
    until(lambda: not list(rooms.iterdir()))
    assert not model.readers


def test_what_was_cancelled_stops_before_its_next_stage(
    served: tuple[Model, Path], study: Study, monkeypatch: pytest.MonkeyPatch
):
    model, rooms = served
    clients, study = [Client(rooms) for _ in range(2)], replace(study, adc=None, hbv=None)
    ends: list[type[Exception]] = []
    real = model.explainer.open

    def slow(study: Study, *, progress: Progress, cancelled: Cancelled) -> Any:
        def told(share: float, stage: str) -> None:
            progress(share, stage)
            if share > 0:
                until(cancelled)

        try:
            return real(study, progress=told, cancelled=cancelled)
        except Exception as error:
            ends.append(type(error))
            raise

    monkeypatch.setattr(model.explainer, "open", slow)
    clients[0].explainer.begin(study)
    until(lambda: any(event.share > 0 for event in clients[0].poll()))
    clients[1].explainer.begin(study, "see")
    folder = clients[0].folder
    clients[0].explainer.cancel()
    assert clients[1].ends().kind == "done"
    assert ends == [ExplainCancelledError]
    assert not folder.exists()
    assert len(model.readers) == 1  # nothing came of the other
    for client in clients:
        client.explainer.close()


def plain(value: object) -> object:
    """As JSON, without how long it took."""
    data = json.loads(json.dumps(value))
    data.get("provenance", {}).pop("seconds", None)
    return data


def test_each_gets_what_the_explainer_says_of_its_own_study(
    served: tuple[Model, Path], eager: Bundle, explainer: Explainer, study: Study, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    _, rooms = served
    clients = [Client(rooms) for _ in range(2)]
    studies = [replace(study, adc=None, hbv=None, patient_id="PAT-4711"), replace(study, hbv=None)]
    for client, one in zip(clients, studies, strict=True):
        client.explainer.begin(one)
    until(lambda: all(client.poll() and not client.explainer.running for client in clients), 120)
    said = []
    for client, one in zip(clients, studies, strict=True):
        found, reader = client.explainer.open(one)
        expected, local = explainer.open(one)
        assert found.study is one
        assert plain(found.to_dict()) == plain(expected.to_dict())
        said.append(plain(found.to_dict()))
        name = next(iter(expected.evidence))
        assert np.array_equal(found.evidence[name].array, expected.evidence[name].array)
        assert reader.region_at(CENTER, found.zones).sha256 == local.region_at(CENTER, found.zones).sha256
        assert client.explainer.bundle.manifest == eager.manifest
    assert said[0] != said[1]
    for file in rooms.rglob("*"):
        assert not file.is_file() or b"PAT-4711" not in file.read_bytes()
    assert "PAT-4711" not in caplog.text
    for client in clients:
        client.explainer.close()
