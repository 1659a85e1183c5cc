"""A child without a network, for tests of the worker: the real protocol, and mischief by the name of the study.

It imports neither numpy nor torch, so that it is there in a moment.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from MedRationaleLogic.inference import worker_child

Json = dict[str, Any]


class StudyError(ValueError):
    """Of the name that the parent knows."""


class BundleError(ValueError):
    """Of the name that the parent knows."""


class StubModel(worker_child.Model):
    """Says that it is ready, or not."""

    def load(self) -> Json:
        """Ready, or not."""
        print("a library says hello")
        mischief = os.environ.get("STUB_START", "")
        if mischief == "no bundle":
            raise BundleError("bundle tiny: weights are missing; install the bundle again")
        if mischief == "crash":
            raise SystemExit("libtorch.so: undefined symbol")
        if mischief == "slow":
            time.sleep(600)
        return {
            "thresholds": {"evidence": 0.5}, "device": "cpu", "precision": "float32", "bundle": "stub", "version": "1",
        }  # fmt: skip


class StubRoom(worker_child.Room):
    """Does what the name of a study says."""

    def _explain(self, command: Json) -> None:
        number = command["id"]
        described = json.loads((self.folder / command["study"]).read_text(encoding="utf-8"))
        name = described["study"]["name"]
        if name == "grandchild":
            helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            self._progress(number, 0.5, str(helper.pid))
            time.sleep(600)
        if name == "long":
            self._progress(number, 0.5, "working")
            time.sleep(600)
        if name == "held":  # works until it is told to go on, in stages
            self._progress(number, 0.5, "working")
            while not Path(os.environ["STUB_GO"]).exists():
                if self.closed:
                    raise RuntimeError("stopped")
                time.sleep(0.01)
        if name == "abort":
            print("the last words", flush=True)
            os.abort()
        if name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "exit":
            print("leaving", flush=True)
            os._exit(7)
        if name == "frozen":
            os.kill(os.getpid(), signal.SIGSTOP)
        if name == "memory":
            raise MemoryError("Unable to allocate 40.0 GiB")
        if name == "bad study":
            raise StudyError("ADC: the fields of view do not overlap")
        if name == "bug":
            raise KeyError("no such thing")
        if name == "chatter":
            print(json.dumps({"kind": "done", "id": number, "key": command["key"]}), flush=True)
            os.write(1, b'{"kind": "failed", "id": %d' % number)
            line = json.dumps({"kind": "progress", "id": number, "share": 0.25, "stage": "torn in two"}).encode()
            file = os.open(self.folder / worker_child.MESSAGES, os.O_WRONLY | os.O_APPEND)
            with self.messages._lock:
                os.write(file, line[:20])
                time.sleep(0.3)
                os.write(file, line[20:] + b"\n")
        self.tell("done", id=number, key=command["key"])
        if name == "full disk":
            raise OSError(28, "No space left on device")
        self.tell("evidence", key=command["key"], fields={})

    def _region_at(self, command: Json) -> None:
        """All of the gland, wherever one points; nothing below the patient's feet."""
        if command["point"][2] < -5000:
            raise StudyError("the point lies outside the images")
        file = f"answer-{command['id']}.npy"
        shutil.copy(self.folder / command["zones"]["file"], self.folder / file)
        self.tell("answer", id=command["id"], file=file, name="region")


def main() -> int:
    """As the real one, with the stub in it."""
    worker_child.Model, worker_child.Room = StubModel, StubRoom  # type: ignore[misc]
    return worker_child.main()
