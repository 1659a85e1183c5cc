"""A child without a network, for tests of the worker: the real protocol, and mischief by the name of the study.

It imports neither numpy nor torch, so that it is there in a moment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from MedRationaleLogic.inference import worker_child

Json = dict[str, Any]


class StudyError(ValueError):
    """Of the name that the parent knows."""


class BundleError(ValueError):
    """Of the name that the parent knows."""


class Stub(worker_child.Worker):
    """Says that it is ready and does what the name of a study says."""

    def start(self) -> bool:
        """Ready, or not."""
        print("a library says hello")
        mischief = os.environ.get("STUB_START", "")
        if mischief == "no bundle":
            self._failed(0, BundleError("bundle tiny: weights are missing; install the bundle again"))
            return False
        if mischief == "crash":
            raise RuntimeError("libtorch.so: undefined symbol")
        if mischief == "slow":
            time.sleep(600)
        self.messages.tell("ready", thresholds={"evidence": 0.5}, device="cpu", precision="float32")
        return True

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
        self.messages.tell("done", id=number, key=command["key"])
        if name == "full disk":
            raise OSError(28, "No space left on device")
        self.messages.tell("evidence", key=command["key"], fields={})


def main() -> int:
    """As the real one, with the stub in it."""
    worker_child.Worker = Stub  # type: ignore[misc]
    return worker_child.main()
