"""The child's half of :mod:`~MedRationaleLogic.inference.worker`: holds the network, does what its clients ask.

Every client shares a folder with it, its *room*:

- ``commands.jsonl``: the client's commands, one JSON object a line, in order: ``explain``, ``see``, ``lesion``,
  ``region_at``, ``forget``, ``close``.
- ``messages.jsonl``: the child's, in order: ``starting``, ``ready``, ``heartbeat`` (each second), ``progress``,
  ``done``, ``evidence``, ``answer``, ``failed``. Whoever starts the child adds ``ended`` when it is dead.
- arrays as ``.npy``, named in commands and messages.

``--folder`` is the room of the process that started the child, with ``log.txt`` in it: stdout and stderr, of libraries
too, and the trace of a crash. Each subfolder of ``--rooms`` is the room of another client: ``owner.txt`` has its
process's number. Such a room goes when that process has ended, or said ``close``; what is done for it then stops before
its next stage. Rooms take turns, one command each, in the order in which their commands came.

Commands come through a file and not through stdin, because a launcher between the two (Slicer's ``PythonSlicer``) need
not pass stdin on. Where stdin does come through, its end is the parent's end; the parent's process ID tells it besides.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import faulthandler
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from MedRationaleLogic.imaging.study import Study
    from MedRationaleLogic.imaging.volume import Volume
    from MedRationaleLogic.inference.explainer import Explainer, StudyReader

Json = dict[str, Any]
T = TypeVar("T")

COMMANDS: Final = "commands.jsonl"
MESSAGES: Final = "messages.jsonl"
LOG: Final = "log.txt"
OWNER: Final = "owner.txt"
CLOSE: Final = "close"
TASKS: Final = ("explain", "see")
"""Commands that run the network."""
HELLO: Final = b"hello\n"
"""The parent's first line on stdin: from then on, the end of stdin is the end of the parent."""
HEARTBEAT_S: Final = 1.0
LOOK_S: Final = 0.01
"""How often rooms and their command files are looked at: a read of nothing, a few microseconds each."""
KEPT_ROOM_STUDIES: Final = 4
"""Studies of all rooms that stay read, about 100 MB each; an older one is read again when it is asked for."""

APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
#: Errors that come back to the caller as what they are; all others as a WorkerError.
OWN_ERRORS: Final = ("StudyError", "BundleError", "DeviceError", "ExplainCancelledError", "StorageError", "ValueError")


class Lines:
    """JSON objects as whole lines at the end of a file, from any thread; what failed spoils no other line."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, APPEND, 0o600)
        self._lock = threading.RLock()
        self._torn = os.fstat(self._file).st_size > 0  # whoever wrote here before may have been cut short

    def write(self, data: Json) -> None:
        """Append one object, after what a failed one may have left of itself.

        Raises:
            OSError: it could not be written, or not all of it, as on a full disk; the file is closed.
        """
        line = json.dumps(data).encode() + b"\n"
        with self._lock:
            rest = b"\n" + line if self._torn else line
            self._torn = True
            while rest:  # a disk that is nearly full takes a part of it, and says so only when asked for the rest
                written = os.write(self._file, rest)
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                rest = rest[written:]
            self._torn = False

    def close(self) -> None:
        """Write no more."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1


class Messages(Lines):
    """The child's voice in a room."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / MESSAGES)

    def tell(self, kind: str, **more: Any) -> None:
        """Append one message; after the end, none.

        Raises:
            OSError: it could not be written, or not all of it, as on a full disk.
        """
        with self._lock:
            if self._file >= 0:
                self.write({"kind": kind, **more})


class Tail:
    """Whole lines of a file that another process appends to; a torn last line is kept until it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def read(self) -> list[Json]:
        """What has come since the last call; what is no JSON object is passed over."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                fresh = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(fresh)
        *lines, self._rest = (self._rest + fresh).split(b"\n")
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                data = json.loads(line)
                if isinstance(data, dict):
                    found.append(data)
        return found


def main(argv: list[str] | None = None) -> int:
    """Run until the parent ends or kills us; the exit code is 3 when bundle or device cannot be used."""
    parser = argparse.ArgumentParser(prog="medrationale-worker", description="Inference beside other processes.")
    parser.add_argument("--folder", type=Path, required=True, help="shared with the parent; removed when it is gone")
    parser.add_argument("--rooms", type=Path, help="each subfolder is shared with another client; removed as well")
    parser.add_argument("--bundle", default="", help="name or folder; the default bundle if empty")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--parent", type=int, default=0, help="process whose end ends us")
    options = parser.parse_args(argv)
    os.umask(0o077)
    _redirect(options.folder / LOG)
    model = Model(options.bundle, options.device, options.precision)
    hall = Hall(Room(options.folder, model), options.rooms)
    hall.announce("starting", pid=os.getpid())
    _first_to_go()
    _watch(hall, [folder for folder in (options.folder, options.rooms) if folder is not None], options.parent)
    try:
        facts = model.load()
    except Exception as error:
        hall.announce("failed", id=0, **_told(error))
        return 3
    hall.announce("ready", **facts)
    while True:
        room, command = hall.turn()
        room.do(command)


def _redirect(log: Path) -> None:
    """Whatever anyone prints goes to the log, from C too; a crash leaves its trace there."""
    file = os.open(log, APPEND, 0o600)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    faulthandler.enable(2, all_threads=False)


def _first_to_go() -> None:
    """When memory runs out, Linux ends this process rather than the one that the reader works in."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("600", encoding="ascii")


# ------------------------------------------------------------------------------------------------- the parent's end


def _watch(hall: Hall, folders: list[Path], parent: int) -> None:
    """Look for commands, a heartbeat, and an end when the parent has ended."""
    alive = _lives(parent) if parent else lambda: True

    def look() -> None:
        try:
            while True:
                hall.look()
                time.sleep(LOOK_S)
        except BaseException:
            traceback.print_exc()  # nobody would be heard any more: better no process than a deaf one
            sys.stderr.flush()
            os._exit(1)

    def beat() -> None:
        while alive():
            hall.beat()
            time.sleep(HEARTBEAT_S)
        _end(folders)

    def listen() -> None:
        # not sys.stdin: a thread that waits inside of it would break the interpreter's own end
        with contextlib.suppress(OSError):
            if os.read(0, len(HELLO)) == HELLO:
                while os.read(0, 4096):
                    pass
                _end(folders)

    threading.Thread(target=look, daemon=True, name="look").start()
    threading.Thread(target=beat, daemon=True, name="heartbeat").start()
    # on Windows a pending read of stdin can block the loading of libraries; there the parent's handle tells at once
    if os.name != "nt":
        threading.Thread(target=listen, daemon=True, name="lifeline").start()


def _lives(pid: int) -> Callable[[], bool]:
    """A function that says whether a process is still there."""
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(0x00100000, False, pid)  # SYNCHRONIZE
        return lambda: not handle or kernel.WaitForSingleObject(handle, 0) != 0

    def lives() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    return lives


def _end(folders: list[Path]) -> None:
    """Nobody is there any more: remove what was shared, and end with everything that was started from here."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(os.getpid())], check=False, capture_output=True)
    elif os.getpgrp() == os.getsid(0):  # a group of our own, as the parent makes it; a shell's would be the user's
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


# -------------------------------------------------------------------------------------------------------- whose turn


class Hall:
    """The rooms, and whose turn it is. :meth:`turn` is for the thread that works; the others for threads beside it.

    Args:
        own: the parent's room; it stays to the end.
        folder: where other rooms come and go, if they may.
    """

    def __init__(self, own: Room, folder: Path | None = None) -> None:
        self._folder = folder
        self._rooms = [own]
        self._known: set[str] = set()  # names below the folder that were looked at
        self._gone: list[Path] = []  # folders that are to be removed
        self._said: list[tuple[str, Json]] = []  # for those who come later
        self._turns: deque[Room] = deque()
        self._leaving: deque[Room] = deque()
        self._now: tuple[Room, Json] | None = None
        self._changed = threading.Condition()

    def announce(self, kind: str, **more: Any) -> None:
        """Tell every room, and those that come later."""
        with self._changed:
            self._said.append((kind, more))
            for room in self._rooms:
                room.tell(kind, **more)

    def beat(self) -> None:
        """A sign of life to every room; who has ended leaves."""
        with self._changed:
            waiting = sum(room.task is not None for room in self._turns)
            for room in self._rooms:
                with contextlib.suppress(OSError):  # a full disk is no reason to fall silent for good
                    room.tell("heartbeat", waiting=waiting)
                room.closed = room.closed or not room.occupied()
            for folder in self._gone:  # on Windows it stays as long as somebody has an array of it mapped
                shutil.rmtree(folder, ignore_errors=True)
            self._gone = [folder for folder in self._gone if folder.exists()]

    def look(self) -> None:
        """See who has come, what they ask for, and who has left."""
        with self._changed:
            self._enter()
            for room in list(self._rooms):
                if not room.closed and room.read() and room not in self._turns and not self._serves(room):
                    self._turns.append(room)
                if room.closed:
                    self._leave(room)
            self._tell_places()
            if self._turns or self._leaving:
                self._changed.notify()

    def turn(self) -> tuple[Room, Json]:
        """The next command, and whose it is; waits for it. What was given before counts as done."""
        with self._changed:
            last, self._now = self._now, None
            if last is not None:
                self._after(*last)
            while not self._leaving and not self._turns:
                self._changed.wait()
            if self._leaving:
                self._now = self._leaving.popleft(), {"do": CLOSE}
            else:
                room = self._turns.popleft()
                self._now = room, room.waiting.popleft()
                self._tell_places()
            return self._now

    def _after(self, room: Room, command: Json) -> None:
        if command.get("do") == CLOSE:
            self._gone.append(room.folder)
        elif room.waiting and command.get("do") == "forget":  # no work, and belongs to the task that follows
            self._turns.appendleft(room)
        elif room.waiting:
            self._turns.append(room)

    def _serves(self, room: Room) -> bool:
        return self._now is not None and self._now[0] is room

    def _enter(self) -> None:
        if self._folder is None:
            return
        with os.scandir(self._folder) as entries:
            there = {e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)}
        for name in sorted(there - self._known):
            folder = self._folder / name
            # one with messages was a predecessor's: its client has been told, or will be
            if not (folder / MESSAGES).exists():
                with contextlib.suppress(OSError, ValueError):
                    room = Room(folder, self._rooms[0].model, _lives(int((folder / OWNER).read_text("ascii"))))
                    self._rooms.append(room)
                    for kind, more in self._said:
                        room.tell(kind, **more)
        self._known = there

    def _leave(self, room: Room) -> None:
        self._rooms.remove(room)
        if room in self._turns:
            self._turns.remove(room)
        room.waiting.clear()
        self._leaving.append(room)

    def _tell_places(self) -> None:
        before = int(self._now is not None and self._now[1].get("do") in TASKS)
        for room in self._turns:
            if (task := room.task) is not None:
                room.tell_place(task, before)
                before += 1


# ------------------------------------------------------------------------------------------------------- the work


class Model:
    """The one network, and the studies that it has read last.

    Args:
        bundle, device, precision: as :class:`~MedRationaleLogic.inference.explainer.Explainer`; the default bundle if
            empty.

    Attributes:
        readers: by room and study, the one that was asked for last at the end.
    """

    def __init__(self, bundle: str, device: str, precision: str) -> None:
        self.bundle, self.device, self.precision = bundle, device, precision
        self.explainer: Explainer | None = None
        self.readers: dict[tuple[Room, str], StudyReader] = {}

    def load(self) -> Json:
        """Load PyTorch and the network; returns what there is to say of them."""
        from MedRationaleLogic.inference.explainer import Explainer

        explainer = Explainer(self.bundle or None, self.device, self.precision)  # type: ignore[arg-type]
        explainer.bundle.network()
        self.explainer = explainer
        manifest = explainer.bundle.manifest
        return {
            "bundle": manifest.name, "version": manifest.version, "sha256": manifest.sha256,
            "path": str(explainer.bundle.path), "thresholds": dict(manifest.thresholds),
            "device": explainer.place.device, "precision": explainer.place.precision,
        }  # fmt: skip

    def run(self, work: Callable[[Explainer], T], say: Callable[[str], None]) -> T:
        """Run; on the CPU when a GPU that nobody asked for by name has too little memory."""
        from dataclasses import replace

        from MedRationaleLogic.inference.explainer import Explainer

        assert self.explainer is not None
        try:
            return work(self.explainer)
        except Exception as error:
            if not is_memory(error) or self.explainer.place.device != "cuda" or self.device != "auto":
                raise
            error.__traceback__ = None
        import torch

        gc.collect()
        torch.cuda.empty_cache()
        say("the GPU's memory is full: once more on the CPU")
        fallback = Explainer(self.explainer.bundle, "cpu", self.precision)  # type: ignore[arg-type]
        note = "ran on the CPU: the CUDA device ran out of memory"
        fallback.place = replace(fallback.place, notes=(*fallback.place.notes, note))
        return work(fallback)

    def make_way(self) -> None:
        """Drop the readers that were not asked for the longest, so that another one can be kept."""
        while len(self.readers) >= KEPT_ROOM_STUDIES:
            del self.readers[next(iter(self.readers))]
        gc.collect()

    def drop(self, room: Room) -> None:
        """Forget what was read for a room."""
        for name in [name for name in self.readers if name[0] is room]:
            del self.readers[name]
        gc.collect()


class Room:
    """One client: what it asks for, and what is done for it.

    Args:
        folder: shared with the client.
        model: what it is done with.
        alive: whether the client is still there; None for the parent, whose end is ours.

    Attributes:
        waiting: commands that have come and were not begun.
        closed: the client has left.
    """

    def __init__(self, folder: Path, model: Model, alive: Callable[[], bool] | None = None) -> None:
        self.folder, self.model, self.messages = folder, model, Messages(folder)
        self.waiting: deque[Json] = deque()
        self.closed = False
        self.volumes: dict[str, Volume] = {}
        self.studies: dict[str, Study] = {}
        self._alive = alive
        self._commands = Tail(folder / COMMANDS)
        self._place: tuple[Any, int] = (0, 0)

    def tell(self, kind: str, **more: Any) -> None:
        """Append a message; a room that cannot be written to is closed, but for the parent's."""
        try:
            self.messages.tell(kind, **more)
        except OSError:
            if self._alive is None:
                raise
            self.closed = True

    def tell_place(self, task: Json, before: int) -> None:
        """Say how many studies come before a task, where that is new."""
        place = task.get("id", 0), before
        if before and place != self._place:
            self._progress(place[0], 0.0, f"waiting: {before} {'study' if before == 1 else 'studies'} before yours")
        self._place = place

    def occupied(self) -> bool:
        """Whether the client is still there."""
        return self._alive is None or (self._alive() and (self.folder / COMMANDS).exists())

    def read(self) -> bool:
        """Take in new commands; whether any wait."""
        try:
            fresh = self._commands.read()
        except OSError:
            if self._alive is None:
                raise
            self.closed, fresh = True, []
        for command in fresh:
            if command.get("do") == CLOSE:
                self.closed = True
            else:
                self.waiting.append(command)
        return bool(self.waiting)

    @property
    def task(self) -> Json | None:
        """The first command that waits and runs the network."""
        return next((command for command in self.waiting if command.get("do") in TASKS), None)

    def do(self, command: Json) -> None:
        """Do what a command says; what goes wrong is told, and the process stays."""
        actions: dict[str, Callable[[Json], None]] = {
            "explain": self._explain, "see": self._explain, "lesion": self._lesion, "region_at": self._region_at,
            "forget": self._forget, CLOSE: self._close,
        }  # fmt: skip
        if self.closed and command.get("do") != CLOSE:
            return
        try:
            actions[command["do"]](command)
        except Exception as error:
            if self.closed:  # nobody is there to be told
                error.__traceback__ = None
                gc.collect()
            else:
                self.tell("failed", id=command.get("id", 0), **_told(error))

    # one study

    def _explain(self, command: Json) -> None:
        from MedRationaleLogic.inference.storage import NpyFolder, explanation_to_json, save_array

        number, key = int(command["id"]), str(command["key"])
        study = self._study(command["study"])
        told: Json = {"id": number, "key": key}
        if command["do"] == "see":
            reader = self._see(key, study, number)
        else:
            explanation, reader = self._keep(
                key, study, number,
                lambda explainer: explainer.open(
                    study, progress=lambda share, stage: self._progress(number, share, stage),
                    cancelled=lambda: self.closed,
                ),
            )  # fmt: skip
            place = self.folder / f"result-{number}"
            store = NpyFolder(place)
            data = explanation_to_json(explanation, store)
            told["result"] = f"result-{number}"
            contents = json.dumps({"explanation": data, "images": store.records})
            (place / "result.json").write_text(contents, encoding="utf-8")
        self.tell("done", **told)
        # the reader sees the result while this is written
        fields: Json = {}
        for sequence, field in reader.fields.items():
            files = {}
            for index, (attribute, values) in enumerate(field.values.items()):
                files[attribute] = f"evidence-{number}/{sequence}-{index}.npy"
                save_array(self.folder / files[attribute], values)
            fields[sequence] = {"geometry": field.geometry.to_dict(), "values": files}
        self.tell("evidence", key=key, fields=fields)

    def _see(self, key: str, study: Study, number: int) -> StudyReader:
        return self._keep(key, study, number, lambda explainer: (None, explainer.see(study)))[1]

    def _keep(
        self, key: str, study: Study, number: int, work: Callable[[Explainer], tuple[T, StudyReader]]
    ) -> tuple[T, StudyReader]:
        """Have the network run, and keep the reader that comes out of it."""
        readers = self.model.readers
        readers.pop((self, key), None)
        self.model.make_way()
        found = self.model.run(work, lambda stage: self._progress(number, 0.0, stage))
        readers[self, key], self.studies[key] = found[1], study
        return found

    def _reader(self, command: Json) -> StudyReader:
        """The reader of the study that a command is about, now the one asked for last; read again where it went."""
        key = command["key"]
        reader = self.model.readers.pop((self, key), None)
        if reader is None:
            return self._see(key, self.studies[key], command["id"])
        self.model.readers[self, key] = reader
        return reader

    def _study(self, file: str) -> Study:
        from MedRationaleLogic.inference.storage import study_from_json

        data = json.loads((self.folder / file).read_text(encoding="utf-8"))
        return study_from_json(data["study"], Given(self, data["images"]))

    def _progress(self, number: int, share: float, stage: str) -> None:
        self.tell("progress", id=number, share=share, stage=stage)

    def _forget(self, command: Json) -> None:
        self.studies.pop(command["key"], None)
        self.model.readers.pop((self, command["key"]), None)
        for name in command["folders"]:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in command["files"]:
            self.volumes.pop(name, None)
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()
        gc.collect()

    def _close(self, command: Json) -> None:
        self.volumes.clear()
        self.studies.clear()
        self.model.drop(self)
        self.messages.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # one region

    def _lesion(self, command: Json) -> None:
        reader = self._reader(command)
        sectors = command["sectors"]
        lesion = reader.lesion(
            command["number"], self.volume(command["mask"], keep=False), self.volume(command["zones"]),
            origin=command["origin"], sectors=None if sectors is None else self.volume(sectors),
        )  # fmt: skip
        self.tell("answer", id=command["id"], lesion=lesion.to_dict())

    def _region_at(self, command: Json) -> None:
        from MedRationaleLogic.inference.storage import save_array

        region = self._reader(command).region_at(command["point"], self.volume(command["zones"]))
        file = f"answer-{command['id']}.npy"
        save_array(self.folder / file, region.array)
        self.tell("answer", id=command["id"], file=file, name=region.name)

    def volume(self, record: Json, *, keep: bool = True) -> Volume:
        """An image that the client sent; the same one is the same object, so that what was worked out of it stays."""
        from MedRationaleLogic.imaging.volume import Geometry, Volume
        from MedRationaleLogic.inference.storage import load_array

        file = record["file"]
        found = self.volumes.get(file)
        if found is None or found.name != record["name"]:
            found = Volume(load_array(self.folder / file), Geometry.from_dict(record["geometry"]), record["name"])
            if keep:
                self.volumes[file] = found
        return found


class Given:
    """The images of a study that the client sent, as a store to read from."""

    def __init__(self, room: Room, records: dict[str, Json]) -> None:
        self._room, self.records = room, records

    def put(self, volume: Volume, path: str) -> str:
        """Never: the client's images are the client's."""
        raise NotImplementedError

    def get(self, path: str) -> Volume:
        """An image."""
        return self._room.volume(self.records[path])


def _told(error: Exception) -> Json:
    """What there is to say of an error."""
    name = next((c.__name__ for c in type(error).__mro__ if c.__name__ in OWN_ERRORS), "")
    text = str(error)
    memory = is_memory(error)
    if name in ("", "ValueError") or memory:  # nobody meant it to happen: the log has to say where it did
        traceback.print_exception(error)
        sys.stderr.flush()
    if not name or memory:
        text = f"{type(error).__name__}: {text}"
    error.__traceback__ = None  # it holds every tensor of the run
    gc.collect()
    return {"error": "" if memory else name, "text": text, "memory": memory}


def is_memory(error: BaseException) -> bool:
    """Whether an error says that there is too little memory, whoever says it."""
    text = str(error).lower()
    said = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_cpu")
    return isinstance(error, MemoryError) or any(words in text for words in said)
