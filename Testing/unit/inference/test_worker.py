"""The child process: what it says is what the explainer says, and it ends whenever it has to.

Most tests run a child without a network (``worker_stub``): the protocol and the processes are real.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from MedRationaleLogic.imaging.study import Study, StudyError
from MedRationaleLogic.imaging.volume import Volume
from MedRationaleLogic.inference import worker_link
from MedRationaleLogic.inference.device import Placement
from MedRationaleLogic.inference.explainer import ExplainCancelledError, Explainer
from MedRationaleLogic.inference.worker import (
    Event,
    InProcess,
    RemoteExplainer,
    WorkerError,
    python_executable,
)
from MedRationaleLogic.inference.worker_child import Messages, Model, Tail
from MedRationaleLogic.inference.worker_link import Guest
from MedRationaleLogic.model.bundle import Bundle, BundleError
from Testing.study_factory import CENTER
from Testing.unit.case.fake_explainer import FakeExplainer

posix = pytest.mark.skipif(os.name != "posix", reason="process groups and signals of POSIX")


def named(study: Study, name: str) -> Study:
    """The same images under another name: the stub does what the name says."""
    return replace(study, name=name)


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.is_file() and status.read_text().rpartition(")")[2].split()[0] == "Z"


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def events(explainer: RemoteExplainer | InProcess, seconds: float = 60.0) -> list[Event]:
    """All events of the running task."""
    found, end = list(explainer.poll()), time.monotonic() + seconds
    while explainer.running:
        assert time.monotonic() < end, found
        time.sleep(0.01)
        found += explainer.poll()
    return found + explainer.poll()


def folder_of(explainer: RemoteExplainer) -> Path:
    return explainer._child.folder


# --------------------------------------------------------------------------------------------- with a stub of a child


@pytest.fixture
def stub(eager: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RemoteExplainer]:
    monkeypatch.setattr(worker_link, "CHILD", "Testing.unit.inference.worker_stub")
    monkeypatch.setattr(worker_link.tempfile, "tempdir", str(tmp_path))
    explainer = RemoteExplainer(eager)
    yield explainer
    explainer.close()
    assert not list(tmp_path.glob(f"{worker_link.PREFIX}*"))  # whatever happened, nothing is left


@posix
def test_the_folder_is_private_and_no_call_waits(stub: RemoteExplainer, study: Study):
    study.t2w.sha256  # noqa: B018 (a case has it already)
    for volume in (study.adc, study.hbv):
        volume.sha256  # noqa: B018
    assert stub.bundle.manifest.name
    longest = 0.0
    start = time.perf_counter()
    stub.begin(study, "see")
    longest = time.perf_counter() - start
    assert folder_of(stub).stat().st_mode & 0o777 == 0o700
    told = []
    while stub.running:
        start = time.perf_counter()
        told += stub.poll()
        longest = max(longest, time.perf_counter() - start)
        time.sleep(0.005)
    assert longest < 2.0, "it waited for the child"
    assert [e.kind for e in told] == ["progress", "ready", "done"]
    assert stub.loaded
    assert stub.place == "cpu, float32"


def test_an_image_that_was_sent_is_not_sent_again(stub: RemoteExplainer, study: Study):
    stub.see(study)
    assert stub.ready_for(study)
    assert stub.ready_for(replace(study, psa=3.0, name="another name"))  # the same voxels
    assert not stub.ready_for(study, "explain")
    pid, folder = stub.pid, folder_of(stub)
    files = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.npy")}
    assert len(files) == 3
    shifted = study.with_shift("adc", (2.0, 0.0, 0.0))
    assert not stub.ready_for(shifted)
    stub.see(shifted)
    stub.see(study)
    assert stub.pid == pid
    now = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.npy")}
    assert len(now) == 4
    assert files.items() <= now.items()


def test_the_oldest_study_is_forgotten_with_its_files(stub: RemoteExplainer, study: Study):
    seen = [study, *(study.with_shift("adc", (float(mm), 0.0, 0.0)) for mm in (1, 2))]
    for one in seen:
        stub.see(one)
    assert [stub.ready_for(one) for one in seen] == [False, True, True]
    files = {f"{one.volume(role).sha256}.npy" for one in seen[1:] for role in one.roles}
    until(lambda: {p.name for p in folder_of(stub).glob("*.npy")} == files)


def test_what_libraries_print_does_not_tear_the_protocol(stub: RemoteExplainer, study: Study):
    stub.begin(named(study, "chatter"), "see")
    told = events(stub)
    assert [e.stage for e in told if e.share == 0.25] == ["torn in two"]
    assert told[-1].kind == "done"
    log = (folder_of(stub) / "log.txt").read_text()
    assert "a library says hello" in log
    assert '{"kind": "failed"' in log


def test_errors_come_back_as_what_they_are(stub: RemoteExplainer, study: Study):
    stub.warm()
    pid = stub.pid
    stub.begin(named(study, "bad study"), "see")
    error = events(stub)[-1].error
    assert type(error) is StudyError
    assert str(error) == "ADC: the fields of view do not overlap"
    stub.begin(named(study, "bug"), "see")
    last = events(stub)[-1]
    assert type(last.error) is WorkerError
    assert "KeyError" in last.message
    assert "no such thing" in last.log_tail
    assert "worker_stub.py" in last.log_tail
    with pytest.raises(WorkerError, match=r"not enough memory.*40\.0 GiB.*close other programs"):
        stub.see(named(study, "memory"))
    stub.see(study)
    assert stub.pid == pid  # an error is no reason to end


@posix
@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("abort", -signal.SIGABRT, "SIGABRT"),
        ("killed", -signal.SIGKILL, "SIGKILL.*memory has run out"),
        ("exit", 7, "exit code 7"),
    ],
)
def test_a_crash_is_told_and_the_next_click_starts_again(
    stub: RemoteExplainer, study: Study, name: str, code: int, said: str
):
    stub.begin(named(study, name), "see")
    last = events(stub)[-1]
    assert last.kind == "failed"
    assert isinstance(last.error, WorkerError)
    assert last.error.exit_code == code
    with pytest.raises(WorkerError, match=said):
        raise last.error
    words = {"abort": ("the last words", "Fatal Python error: Aborted"), "killed": ("hello",), "exit": ("leaving",)}
    assert all(word in last.log_tail for word in words[name])
    assert stub.pid is None
    assert not stub.ready_for(study)
    stub.see(study)
    assert stub.pid is not None


@pytest.mark.parametrize(("mischief", "kind", "said"), [
    ("no bundle", BundleError, "weights are missing"), ("crash", WorkerError, "exit code 1"),
])  # fmt: skip
def test_a_child_that_cannot_load_says_why(
    stub: RemoteExplainer, study: Study, mischief: str, kind: type[Exception], said: str
):
    stub._env = {"STUB_START": mischief}
    stub.begin(study)
    error = events(stub)[-1].error
    assert type(error) is kind
    assert said in str(error)
    if mischief == "crash":
        assert "libtorch.so: undefined symbol" in error.log_tail
    stub._env = None
    stub.see(study)


def test_what_cannot_be_started_is_told_by_poll(stub: RemoteExplainer, study: Study, tmp_path: Path):
    stub._python = tmp_path / "nothing"
    stub.begin(study)
    assert not stub.running
    (event,) = stub.poll()
    assert "nothing, which is no program" in event.message
    with pytest.raises(WorkerError):
        stub.warm()
    other = RemoteExplainer("no-such-bundle")
    other.begin(study)
    assert isinstance(other.poll()[0].error, BundleError)
    other.close()


@posix
def test_silence_is_the_end(stub: RemoteExplainer, study: Study, monkeypatch: pytest.MonkeyPatch):
    stub.warm()
    until(lambda: bool(stub.poll()))
    monkeypatch.setattr(worker_link, "SILENCE_S", 2.5)
    pid = stub.pid
    time.sleep(3.0)  # a caller that is away: the heartbeats wait in the file
    assert stub.poll() == []
    assert stub.pid == pid
    stub.begin(named(study, "frozen"), "see")
    last = events(stub)[-1]
    assert isinstance(last.error, WorkerError)
    assert "has not answered for" in last.message
    assert gone(pid)


@posix
def test_cancel_leaves_no_process_behind(stub: RemoteExplainer, study: Study):
    stub.begin(named(study, "grandchild"), "see")
    stages: list[str] = []
    until(lambda: any(s.isdigit() for s in stages) or bool(stages.extend(e.stage for e in stub.poll())))
    child, grandchild = stub.pid, int(next(s for s in stages if s.isdigit()))
    folder = folder_of(stub)
    assert not gone(grandchild)
    start = time.perf_counter()
    stub.cancel()
    assert time.perf_counter() - start < 5.0  # it works for ten minutes
    until(lambda: gone(child) and gone(grandchild), 5.0)
    assert not folder.exists()
    assert not stub.running
    assert stub.poll() == []
    stub.see(study)


@posix
def test_cancel_while_it_loads(stub: RemoteExplainer, study: Study):
    stub._env = {"STUB_START": "slow"}
    stub.begin(study)
    pid = stub.pid
    stub.cancel()
    until(lambda: gone(pid), 1.0)
    stub.begin(study)
    stub.close()
    with pytest.raises(WorkerError, match="was closed"):
        stub.begin(study)


def test_waiting_calls_can_be_ended_too(stub: RemoteExplainer, study: Study):
    told: list[str] = []
    with pytest.raises(ExplainCancelledError):
        stub.open(
            named(study, "long"), progress=lambda _, stage: told.append(stage), cancelled=lambda: "working" in told
        )
    assert stub.pid is None

    def interrupted(share: float, stage: str) -> None:
        if stage == "working":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stub.open(named(study, "long"), progress=interrupted)
    assert not stub.running


def test_one_task_at_a_time(stub: RemoteExplainer, study: Study):
    stub.begin(named(study, "long"), "see")
    other = study.with_shift("adc", (1.0, 0.0, 0.0))
    with pytest.raises(WorkerError, match="wait for it, or cancel it"):
        stub.begin(other)
    with pytest.raises(WorkerError, match="another study"):
        stub.see(other)
    stub.cancel()


def test_waiting_for_a_task_that_was_begun_leaves_its_events(stub: RemoteExplainer, study: Study):
    stub.begin(study, "see")
    stub.see(study)
    assert [e.kind for e in stub.poll()] == ["progress", "ready", "done"]
    stub.begin(study, "see")
    assert [e.kind for e in stub.poll()] == ["done"]


def test_evidence_that_could_not_be_written_is_told(stub: RemoteExplainer, study: Study):
    maps = stub.see(named(study, "full disk")).evidence()
    with pytest.raises(WorkerError, match="No space left"):
        maps["t2.focal" if "t2.focal" in maps else next(iter(maps))]


PARENT = """
    import sys, time
    from MedRationaleLogic.inference import worker, worker_link
    from Testing.study_factory import make_study
    worker_link.CHILD = "Testing.unit.inference.worker_stub"
    explainer = worker.RemoteExplainer(sys.argv[1], python=sys.argv[2] or None)
    if len(sys.argv) > 3:
        explainer.see(make_study())
        raise SystemExit  # without closing it
    explainer.begin(make_study(name="grandchild"), "see")
    while True:
        for event in explainer.poll():
            if event.stage.isdigit():
                print(explainer.pid, event.stage, explainer._child.folder, flush=True)
        time.sleep(0.01)
"""


def parent(eager: Bundle, tmp_path: Path, python: str, *more: str) -> subprocess.Popen[str]:
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(eager.path), python, *more]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


@posix
@pytest.mark.parametrize("launched", [False, True], ids=["directly", "behind a launcher"])
def test_the_end_of_the_parent_is_the_end_of_the_child(eager: Bundle, tmp_path: Path, launched: bool):
    """Also where a launcher stands between them that passes neither stdin nor signals on, as Slicer's does."""
    launcher = tmp_path / "launcher"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@" < /dev/null &\nwait $!\n')
    launcher.chmod(0o755)
    process = parent(eager, tmp_path, str(launcher) if launched else "")
    child, grandchild, folder = process.stdout.readline().split()
    assert Path(folder).is_dir()
    process.kill()
    process.wait()
    until(lambda: gone(int(child)) and gone(int(grandchild)), 5.0)
    until(lambda: not Path(folder).exists(), 5.0)


@posix
def test_a_parent_that_forgets_to_close_leaves_nothing(eager: Bundle, tmp_path: Path):
    assert parent(eager, tmp_path, "", "forget").wait(60) == 0
    assert not list(tmp_path.glob(f"{worker_link.PREFIX}*"))


def test_what_was_left_behind_is_swept_up(stub: RemoteExplainer, tmp_path: Path):
    old, recent = (tmp_path / f"{worker_link.PREFIX}{name}" for name in ("old", "recent"))
    for folder in (old, recent):
        folder.mkdir()
        (folder / "messages.jsonl").write_text("")
    for path in (old / "messages.jsonl", old):
        os.utime(path, (0, 0))
    stub.warm()
    assert not old.exists()
    assert recent.exists()
    recent.joinpath("messages.jsonl").unlink()
    recent.rmdir()


# ----------------------------------------------------------------------------------------------------- the pieces


def test_a_torn_line_is_kept_until_it_is_complete(tmp_path: Path):
    file = tmp_path / "messages.jsonl"
    tail = Tail(file)
    assert tail.read() == []
    with file.open("ab", buffering=0) as stream:
        stream.write(b'{"a": 1}\n{"b": "\xc3')
        assert tail.read() == [{"a": 1}]
        assert tail.read() == []
        stream.write(b'\xa4"}')
        assert tail.read() == []
        stream.write(b"\nnot json\n[1]\n{}\n")
        assert tail.read() == [{"b": "ä"}, {}]


def test_a_message_that_is_written_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    messages, tail = Messages(tmp_path), Tail(tmp_path / "messages.jsonl")
    messages.tell("done", id=7, result="result-7")
    messages.tell("heartbeat", waiting=0)
    assert tail.read() == [
        {"kind": "done", "id": 7, "result": "result-7"}, {"kind": "heartbeat", "waiting": 0},
    ]  # fmt: skip
    messages.close()


@pytest.mark.parametrize("taken", [0, 30])
def test_a_message_that_a_full_disk_cuts_short_is_told_and_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
):
    write, room = os.write, [taken]

    def nearly_full(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, data[: room[0]])
        room[0] -= written
        return written

    messages, tail = Messages(tmp_path), Tail(tmp_path / "messages.jsonl")
    with monkeypatch.context() as full:
        full.setattr(os, "write", nearly_full)
        with pytest.raises(OSError, match="No space left"):
            messages.tell("done", id=7, result="result-7")
        with pytest.raises(OSError, match="No space left"):
            messages.tell("heartbeat", waiting=0)
        full.setattr(os, "write", lambda file, data: 0)
        with pytest.raises(OSError, match="No space left"):
            messages.tell("heartbeat", waiting=0)
    assert tail.read() == []
    messages.tell("failed", id=7)
    messages.tell("heartbeat", waiting=1)
    assert tail.read() == [{"kind": "failed", "id": 7}, {"kind": "heartbeat", "waiting": 1}]
    messages.close()


def test_a_command_that_a_full_disk_cuts_short_is_told_to_who_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    guest = Guest(rooms)
    tail, write = Tail(guest.folder / "commands.jsonl"), os.write
    with monkeypatch.context() as parts:
        parts.setattr(os, "write", lambda file, data: write(file, data[:5]))
        guest.send({"do": "explain", "id": 1})
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, data: write(file, data[:9]) if len(data) > 12 else 0)
        with pytest.raises(OSError, match="No space left"):
            guest.send({"do": "explain", "id": 2})
    guest.send({"do": "forget", "key": "a"})
    assert tail.read() == [{"do": "explain", "id": 1}, {"do": "forget", "key": "a"}]
    guest.end()
    with pytest.raises(OSError, match="file descriptor"):
        guest.send({"do": "explain", "id": 3})


def test_who_speaks_after_a_message_that_was_cut_short_is_heard(tmp_path: Path):
    (tmp_path / "messages.jsonl").write_bytes(b'{"kind": "heartbeat"}\n{"kind": "done", "i')  # the child was killed
    messages = Messages(tmp_path)
    messages.tell("ended", text="killed")
    messages.close()
    assert Tail(tmp_path / "messages.jsonl").read() == [{"kind": "heartbeat"}, {"kind": "ended", "text": "killed"}]


def test_the_interpreter_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def program(path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
    monkeypatch.delenv("SLICER_HOME", raising=False)
    monkeypatch.delenv("MEDRATIONALE_PYTHON", raising=False)
    assert python_executable() == sys.executable
    slicer = program(tmp_path / "slicer" / "SlicerApp-real")
    monkeypatch.setattr(sys, "executable", slicer)
    with pytest.raises(WorkerError, match="set MEDRATIONALE_PYTHON"):
        python_executable()
    beside = program(tmp_path / "slicer" / "bin" / name)
    assert python_executable() == beside
    home = program(tmp_path / "home" / "bin" / name)
    monkeypatch.setenv("SLICER_HOME", str(tmp_path / "home"))
    assert python_executable() == home
    chosen = program(tmp_path / "chosen")
    monkeypatch.setenv("MEDRATIONALE_PYTHON", chosen)
    assert python_executable() == chosen
    given = program(tmp_path / "given")
    assert python_executable(given) == given
    monkeypatch.setenv("MEDRATIONALE_PYTHON", str(tmp_path / "gone"))
    with pytest.raises(WorkerError, match="MEDRATIONALE_PYTHON names"):
        python_executable()


def test_a_full_gpu_falls_back_to_the_cpu(eager: Bundle):
    made = Model(str(eager.path), "auto", "float32")
    made.explainer = Explainer(eager, "cpu", "float32")
    made.explainer.place = Placement("cuda", False)
    tried, said = [], []

    def run(explainer: Explainer) -> Placement:
        tried.append(explainer.place.device)
        if explainer.place.device == "cuda":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return explainer.place

    assert "ran out of memory" in made.run(run, said.append).notes[-1]
    assert tried == ["cuda", "cpu"]
    assert said == ["the GPU's memory is full: once more on the CPU"]
    made.device = "cuda"  # asked for by name
    with pytest.raises(RuntimeError, match="out of memory"):
        made.run(run, said.append)


def test_in_process_has_the_same_face():
    fake = FakeExplainer(options={"shape": (10, 40, 44)})
    ticks: list[Event] = []
    local, study = InProcess(fake, tick=ticks.append), fake.study
    local.begin(study)
    assert local.running
    assert [e.stage for e in local.poll()] == ["starting"]
    assert [e.kind for e in local.poll()] == ["done"]
    assert not local.running
    assert ticks == [Event("progress", 0.5, "reading")]
    assert local.ready_for(study)
    assert local.ready_for(replace(study, psa=1.0), "explain")
    assert not local.ready_for(named(study, "other"), "explain")
    told, reader = local.open(replace(study, psa=1.0))
    assert told.study.psa == 1.0
    assert local.see(study) is reader
    local.begin(study)
    assert [e.kind for e in local.poll()] == ["done"]
    assert (fake.runs, fake.sights) == (1, 0)

    local._tick = lambda event: local.cancel()
    local.begin(named(study, "other"))
    local.poll()
    assert local.poll() == []
    assert not local.running
    local.begin(named(study, "other"))
    local.cancel()
    assert local.poll() == []
    assert (fake.runs, fake.sights) == (1, 0)
    fake.options = {"shape": "nonsense"}
    local._tick = None
    local.begin(named(study, "other"))
    assert [e.kind for e in local.poll() + local.poll()] == ["progress", "failed"]


# --------------------------------------------------------------------------------------------------- with the network


@pytest.fixture(scope="module")
def remote(eager: Bundle) -> Iterator[RemoteExplainer]:
    explainer = RemoteExplainer(eager, "cpu", precision="float32", env={"OMP_NUM_THREADS": "1"})
    explainer.warm()
    yield explainer
    explainer.close()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The child's: sums depend on how they are split."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plain(value: object) -> object:
    """As JSON, without how long it took."""
    data = json.loads(json.dumps(value))
    data.get("provenance", {}).pop("seconds", None)
    return data


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_it_says_what_the_explainer_says(
    remote: RemoteExplainer, eager: Bundle, study: Study, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    caplog.set_level(logging.DEBUG)
    secret = replace(study, patient_id="PAT-4711", study_uid="1.2.840.4711")
    here, local = Explainer(eager, "cpu", "float32").open(secret)
    assert here.lesions
    remote.begin(secret)
    told = events(remote)
    assert told[-1].kind == "done"
    shares = [e.share for e in told if e.kind == "progress"]
    assert shares == sorted(shares)
    assert "reading ADC" in [e.stage for e in told]
    pid = remote.pid
    with monkeypatch.context() as strict:
        strict.setattr(RemoteExplainer, "begin", None)  # what is ready is not begun again
        there, reader = remote.open(secret)
    assert remote.pid == pid

    assert there.study is secret
    assert plain(there.to_dict()) == plain(here.to_dict())
    assert there.zones.sha256 == here.zones.sha256
    assert there.lesion_probability.sha256 == here.lesion_probability.sha256
    for a, b in zip(there.lesions, here.lesions, strict=True):
        assert (a.mask.sha256, a.mask.array.dtype) == (b.mask.sha256, np.dtype(bool))
        assert a.rationale == b.rationale
    for sequence, field in here.evidence.fields.items():
        other = there.evidence.fields[sequence]
        assert other.geometry == field.geometry
        assert list(other.values) == list(field.values)
        for attribute, values in field.values.items():
            assert isinstance(other.values[attribute].base, np.memmap)
            assert np.array_equal(other.values[attribute], values)
    assert list(there.evidence) == list(here.evidence)
    assert there.evidence.threshold == here.evidence.threshold
    name = next(iter(here.evidence))
    assert np.array_equal(there.evidence[name].array, here.evidence[name].array)

    ball = there.lesions[0].mask.with_array(np.roll(there.lesions[0].mask.array, 3, axis=2), "drawn")
    for sectors in (None, there.zones):
        a, b = (r.lesion(7, ball, there.zones, origin="reader", sectors=sectors) for r in (reader, local))
        assert plain(a.to_dict()) == plain(b.to_dict())
        assert a.mask is ball
    a, b = (r.region_at(CENTER, there.zones) for r in (reader, local))
    assert a.sha256 == b.sha256
    assert a.array.any()
    with pytest.raises(ValueError, match="outside the images"):
        reader.region_at((900.0, 0.0, 0.0), there.zones)

    shifted = remote.see(study.with_shift("adc", (3.0, 0.0, 0.0)))
    assert remote.ready_for(secret, "explain")
    assert set(shifted.evidence().fields["adc"].values)  # all is written: the child is at rest
    for file in folder_of(remote).rglob("*"):
        assert not file.is_file() or not any(s in file.read_bytes() for s in (b"PAT-4711", b"1.2.840.4711"))
    assert "PAT-4711" not in caplog.text


@posix
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_reader_outlives_its_child(remote: RemoteExplainer, eager: Bundle, study: Study):
    there, reader = remote.open(study)
    name = next(iter(there.evidence))
    there.evidence.fields["t2w"]
    os.killpg(remote.pid, signal.SIGKILL)
    until(lambda: not remote.ready_for(study))
    zones = Volume(np.array(there.zones.array), there.zones.geometry)
    assert there.evidence[name].array.any()
    first, pid = there.lesions[0], remote.pid
    assert pid is None
    again = reader.lesion(first.number, first.mask, zones, sectors=None)
    assert plain(again.to_dict())["attributes"] == plain(first.to_dict())["attributes"]
    assert remote.pid is not None
    with pytest.raises(StudyError, match="do not show the same place"):
        remote.open(study.with_shift("adc", (5000.0, 0.0, 0.0)))
