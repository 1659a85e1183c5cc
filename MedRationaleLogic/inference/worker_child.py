"""The child's half of :mod:`~MedRationaleLogic.inference.worker`: holds the network, does what the parent asks.

In the folder that both share:

- ``commands.jsonl``: the parent's commands, one JSON object a line, in order: ``explain``, ``see``, ``lesion``,
  ``region_at``, ``forget``.
- ``messages.jsonl``: the child's, in order: ``starting``, ``ready``, ``heartbeat`` (each second), ``progress``,
  ``done``, ``evidence``, ``answer``, ``failed``.
- ``log.txt``: stdout and stderr, of libraries too, and the trace of a crash.
- arrays as ``.npy``, named in commands and messages.

Commands come through a file and not through stdin, because a launcher between the two (Slicer's ``PythonSlicer``) need
not pass stdin on. Where stdin does come through, its end is the parent's end; the parent's process ID tells it besides.
"""

from __future__ import annotations

import argparse
import contextlib
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from MedRationaleLogic.imaging.study import Study
    from MedRationaleLogic.imaging.volume import Volume
    from MedRationaleLogic.inference.explainer import Explainer, StudyReader

Json = dict[str, Any]

COMMANDS: Final = "commands.jsonl"
MESSAGES: Final = "messages.jsonl"
LOG: Final = "log.txt"
HELLO: Final = b"hello\n"
"""The parent's first line on stdin: from then on, the end of stdin is the end of the parent."""
HEARTBEAT_S: Final = 1.0
LOOK_S: Final = 0.01
"""How often the command file is looked at: a read of nothing, a few microseconds."""

APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
#: Errors that come back to the caller as what they are; all others as a WorkerError.
OWN_ERRORS: Final = ("StudyError", "BundleError", "DeviceError", "ExplainCancelledError", "StorageError", "ValueError")


class Messages:
    """The child's voice: whole lines, from any thread."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / MESSAGES, APPEND, 0o600)
        self._lock = threading.Lock()

    def tell(self, kind: str, **more: Any) -> None:
        """Append one message."""
        line = json.dumps({"kind": kind, **more}).encode() + b"\n"
        with self._lock:
            os.write(self._file, line)


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
    parser = argparse.ArgumentParser(prog="medrationale-worker", description="Inference beside another process.")
    parser.add_argument("--folder", type=Path, required=True, help="shared with the parent; removed when it is gone")
    parser.add_argument("--bundle", default="", help="name or folder; the default bundle if empty")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--parent", type=int, default=0, help="process whose end ends us")
    options = parser.parse_args(argv)
    _redirect(options.folder / LOG)
    messages = Messages(options.folder)
    messages.tell("starting", pid=os.getpid())
    _first_to_go()
    _watch(messages, options.folder, options.parent)
    worker = Worker(options.folder, messages, options.bundle, options.device, options.precision)
    if not worker.start():
        return 3
    for command in _commands(options.folder / COMMANDS):
        worker.do(command)
    return 0  # pragma: no cover (the commands never end)


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


def _commands(path: Path) -> Iterator[Json]:
    tail = Tail(path)
    while True:
        yield from tail.read()
        time.sleep(LOOK_S)


# ------------------------------------------------------------------------------------------------- the parent's end


def _watch(messages: Messages, folder: Path, parent: int) -> None:
    """Heartbeat, and an end when the parent has ended."""
    alive = _lives(parent) if parent else lambda: True

    def beat() -> None:
        while alive():
            messages.tell("heartbeat")
            time.sleep(HEARTBEAT_S)
        _end(folder)

    def listen() -> None:
        # not sys.stdin: a thread that waits inside of it would break the interpreter's own end
        with contextlib.suppress(OSError):
            if os.read(0, len(HELLO)) == HELLO:
                while os.read(0, 4096):
                    pass
                _end(folder)

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


def _end(folder: Path) -> None:
    """Nobody is there any more: remove what was shared, and end with everything that was started from here."""
    shutil.rmtree(folder, ignore_errors=True)
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(os.getpid())], check=False, capture_output=True)
    elif os.getpgrp() == os.getsid(0):  # a group of our own, as the parent makes it; a shell's would be the user's
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


# ------------------------------------------------------------------------------------------------------- the work


class Worker:
    """The network and the studies that it has seen.

    Args:
        folder: shared with the parent.
        messages: where to tell.
        bundle, device, precision: as :class:`~MedRationaleLogic.inference.explainer.Explainer`.
    """

    def __init__(self, folder: Path, messages: Messages, bundle: str, device: str, precision: str) -> None:
        self.folder, self.messages = folder, messages
        self.bundle, self.device, self.precision = bundle, device, precision
        self.explainer: Explainer | None = None
        self.readers: dict[str, StudyReader] = {}
        self.volumes: dict[str, Volume] = {}

    def start(self) -> bool:
        """Load PyTorch and the network; False when that cannot be."""
        try:
            from MedRationaleLogic.inference.explainer import Explainer

            explainer = Explainer(self.bundle or None, self.device, self.precision)  # type: ignore[arg-type]
            explainer.bundle.network()
        except Exception as error:
            self._failed(0, error)
            return False
        self.explainer = explainer
        manifest = explainer.bundle.manifest
        self.messages.tell(
            "ready", bundle=manifest.name, version=manifest.version, sha256=manifest.sha256,
            thresholds=dict(manifest.thresholds), device=explainer.place.device, precision=explainer.place.precision,
        )  # fmt: skip
        return True

    def do(self, command: Json) -> None:
        """Do what a command says; what goes wrong is told, and the worker stays."""
        actions: dict[str, Callable[[Json], None]] = {
            "explain": self._explain, "see": self._explain, "lesion": self._lesion, "region_at": self._region_at,
            "forget": self._forget,
        }  # fmt: skip
        try:
            actions[command["do"]](command)
        except Exception as error:
            self._failed(command.get("id", 0), error)

    def _failed(self, number: int, error: Exception) -> None:
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
        self.messages.tell("failed", id=number, error="" if memory else name, text=text, memory=memory)

    # one study

    def _explain(self, command: Json) -> None:
        from MedRationaleLogic.inference.storage import NpyFolder, explanation_to_json, save_array

        number, key = int(command["id"]), str(command["key"])
        study = self._study(command["study"])
        told: Json = {"id": number, "key": key}
        if command["do"] == "see":
            reader = self._on_device(lambda explainer: explainer.see(study), number)
        else:
            explanation, reader = self._on_device(
                lambda explainer: explainer.open(
                    study, progress=lambda share, stage: self._progress(number, share, stage)
                ),
                number,
            )
            place = self.folder / f"result-{number}"
            store = NpyFolder(place)
            data = explanation_to_json(explanation, store)
            told["result"] = f"result-{number}"
            contents = json.dumps({"explanation": data, "images": store.records})
            (place / "result.json").write_text(contents, encoding="utf-8")
        self.readers[key] = reader
        self.messages.tell("done", **told)
        # the reader sees the result while this is written
        fields: Json = {}
        for sequence, field in reader.fields.items():
            files = {}
            for index, (attribute, values) in enumerate(field.values.items()):
                files[attribute] = f"evidence-{number}/{sequence}-{index}.npy"
                save_array(self.folder / files[attribute], values)
            fields[sequence] = {"geometry": field.geometry.to_dict(), "values": files}
        self.messages.tell("evidence", key=key, fields=fields)

    def _study(self, file: str) -> Study:
        from MedRationaleLogic.inference.storage import study_from_json

        data = json.loads((self.folder / file).read_text(encoding="utf-8"))
        return study_from_json(data["study"], Given(self, data["images"]))

    def _progress(self, number: int, share: float, stage: str) -> None:
        self.messages.tell("progress", id=number, share=share, stage=stage)

    def _on_device(self, run: Callable[[Explainer], Any], number: int) -> Any:
        """Run; on the CPU when a GPU that nobody asked for by name has too little memory."""
        from dataclasses import replace

        from MedRationaleLogic.inference.explainer import Explainer

        assert self.explainer is not None
        try:
            return run(self.explainer)
        except Exception as error:
            if not is_memory(error) or self.explainer.place.device != "cuda" or self.device != "auto":
                raise
            error.__traceback__ = None
        import torch

        gc.collect()
        torch.cuda.empty_cache()
        self._progress(number, 0.0, "the GPU's memory is full: once more on the CPU")
        fallback = Explainer(self.explainer.bundle, "cpu", self.precision)  # type: ignore[arg-type]
        note = "ran on the CPU: the CUDA device ran out of memory"
        fallback.place = replace(fallback.place, notes=(*fallback.place.notes, note))
        return run(fallback)

    def _forget(self, command: Json) -> None:
        self.readers.pop(command["key"], None)
        for name in command["folders"]:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in command["files"]:
            self.volumes.pop(name, None)
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()
        gc.collect()

    # one region

    def _lesion(self, command: Json) -> None:
        reader = self.readers[command["key"]]
        sectors = command["sectors"]
        lesion = reader.lesion(
            command["number"], self.volume(command["mask"], keep=False), self.volume(command["zones"]),
            origin=command["origin"], sectors=None if sectors is None else self.volume(sectors),
        )  # fmt: skip
        self.messages.tell("answer", id=command["id"], lesion=lesion.to_dict())

    def _region_at(self, command: Json) -> None:
        from MedRationaleLogic.inference.storage import save_array

        region = self.readers[command["key"]].region_at(command["point"], self.volume(command["zones"]))
        file = f"answer-{command['id']}.npy"
        save_array(self.folder / file, region.array)
        self.messages.tell("answer", id=command["id"], file=file, name=region.name)

    def volume(self, record: Json, *, keep: bool = True) -> Volume:
        """An image that the parent sent; the same one is the same object, so that what was worked out of it stays."""
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
    """The images of a study that the parent sent, as a store to read from."""

    def __init__(self, worker: Worker, records: dict[str, Json]) -> None:
        self._worker, self.records = worker, records

    def put(self, volume: Volume, path: str) -> str:
        """Never: the parent's images are the parent's."""
        raise NotImplementedError

    def get(self, path: str) -> Volume:
        """An image."""
        return self._worker.volume(self.records[path])


def is_memory(error: BaseException) -> bool:
    """Whether an error says that there is too little memory, whoever says it."""
    text = str(error).lower()
    said = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_cpu")
    return isinstance(error, MemoryError) or any(words in text for words in said)
