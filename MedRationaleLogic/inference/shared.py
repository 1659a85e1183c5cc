"""One warm network for several client processes: a child that is started again when it dies.

    model = SharedModel(device="cpu")
    model.start()                                       # returns at once
    RemoteExplainer(rooms=model.rooms)                  # in any process of this user
    model.check()                                       # once a second, from a timer; never blocks
    model.state                                         # for whoever looks after the server
    model.close()

The clients ask the child directly, each through a room of its own below :attr:`SharedModel.rooms`; this process only
sees to it that there is one, and tells the clients where it has ended. It has no part in what they ask.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from MedRationaleLogic.inference.worker_child import MESSAGES, Messages
from MedRationaleLogic.inference.worker_link import (
    PREFIX,
    Child,
    Link,
    WorkerError,
    end_all,
    python_executable,
    sweep,
)
from MedRationaleLogic.model.bundle import Bundle, BundleError, find

if TYPE_CHECKING:
    from MedRationaleLogic.inference.device import Device
    from MedRationaleLogic.inference.explainer import Precision

__all__ = ["SharedModel"]

Json = dict[str, Any]
State = Literal["loading", "ready", "restarting", "failed", "closed"]

REFUSED: Final = 3
"""Exit code of a child that cannot use its bundle or device."""
STEADY_S: Final = 60.0
"""A child that was ready for so long and dies is started again at once."""
LONGEST_PAUSE_S: Final = 60.0
FAREWELL_S: Final = 60.0
"""How long a client may take to hear that the child has ended, before its room is removed."""

_log = logging.getLogger(__name__)


class SharedModel:
    """The child that several clients share; see the module's text. Use it from one thread.

    Args:
        bundle: name, folder or bundle; the default one if None.
        device, precision: as :class:`~MedRationaleLogic.inference.explainer.Explainer`.
        python: the child's interpreter; see :func:`~MedRationaleLogic.inference.worker_link.python_executable`.
        env: added to the child's environment.
    """

    def __init__(
        self, bundle: Bundle | str | None = None, device: Device = "auto", precision: Precision = "auto",
        python: str | Path | None = None, env: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._bundle, self._device, self._precision = bundle, device, precision
        self._python, self._env = python, env
        self._rooms = Path(tempfile.mkdtemp(prefix=f"{PREFIX}rooms-"))  # mode 0700
        self._child: Child | None = None
        self._children: list[Link] = []
        self._state: State = "closed"
        self._message = ""
        self._facts: Json = {}
        self._restarts = self._waiting = self._quick_ends = 0
        self._next_start = self._ready_since = 0.0
        self._failure: Json | None = None  # why the child could not load
        self._refusal: Json | None = None  # said to all from then on
        self._told: dict[str, float] = {}
        self._finalizer = weakref.finalize(self, _leave_nothing, os.getpid(), self._children, self._rooms)

    @property
    def rooms(self) -> Path:
        """Where clients have their rooms; private to this user, and gone when this is closed."""
        return self._rooms

    @property
    def state(self) -> Json:
        """How it stands.

        Returns:
            ``state``: ``loading``, ``ready``, ``restarting`` (it has ended and is not ready again), ``failed`` (bundle
            or device cannot be used), ``closed`` (or not started); ``device``, ``precision``, ``bundle`` and
            ``version``: None before it was ready; ``restarts``; ``waiting``: studies that wait for others;
            ``message``: what went wrong last, else empty.
        """
        facts = {name: self._facts.get(name) for name in ("device", "precision", "bundle", "version")}
        return {
            "state": self._state, **facts, "restarts": self._restarts, "waiting": self._waiting,
            "message": self._message,
        }  # fmt: skip

    def start(self) -> None:
        """Start the child; returns at once. What keeps it from loading is told by :attr:`state`, and to the clients.

        Raises:
            WorkerError: this was closed.
        """
        if not self._finalizer.alive:
            raise WorkerError("this shared model was closed; make another one")
        if self._state != "closed":
            return
        self._state = "loading"
        sweep()
        try:
            python_executable(self._python)
            if not isinstance(self._bundle, Bundle):
                self._bundle = find(self._bundle)
        except (BundleError, WorkerError) as error:
            self._refuse(type(error).__name__, str(error))
        else:
            self._launch()

    def check(self) -> None:
        """See how the child is, and start it again where it has ended; call it once a second."""
        if self._state == "closed":
            return
        self._children[:] = [c for c in self._children if c is self._child or not c.clean()]
        with contextlib.suppress(OSError):
            os.utime(self._rooms)  # in use, whoever looks for what was left behind
            self._clear_rooms()
        if self._refusal is not None:
            self._tell(self._refusal, served=False)
        elif self._child is not None:
            self._listen(self._child)
        elif time.monotonic() >= self._next_start:
            self._restarts += 1
            self._launch()

    def close(self) -> None:
        """End the child, and remove all rooms; what runs there fails."""
        self._state, self._child = "closed", None
        self._finalizer()

    # ---------------------------------------------------------------------------------------------------- the child

    def _launch(self) -> None:
        assert isinstance(self._bundle, Bundle)
        arguments = [
            "--rooms", str(self._rooms), "--bundle", str(self._bundle.path.resolve()),
            "--device", self._device, "--precision", self._precision,
        ]  # fmt: skip
        try:
            self._rooms.mkdir(mode=0o700, exist_ok=True)
            self._child = Child(arguments, self._python, self._env)
        except (WorkerError, OSError) as error:
            self._try_later(str(error))
        else:
            self._children.append(self._child)

    def _listen(self, child: Child) -> None:
        for message in child.listen():
            kind = message.get("kind")
            if kind == "ready":
                self._state, self._message, self._facts = "ready", "", message
                self._ready_since = time.monotonic()
            elif kind == "heartbeat":
                self._waiting = int(message.get("waiting", 0))
            elif kind == "failed":  # in this room only loading fails
                self._failure = message
        trouble = child.trouble()
        if trouble is not None:
            self._lost(child, trouble)

    def _lost(self, child: Child, trouble: WorkerError) -> None:
        if child.ready is not None and time.monotonic() - self._ready_since > STEADY_S:
            self._quick_ends = 0
        child.end()
        self._child, self._waiting = None, 0
        self._tell({"kind": "ended", "code": trouble.exit_code, "text": str(trouble)}, served=True)
        failure, self._failure = self._failure, None
        if failure is not None and trouble.exit_code == REFUSED and not failure["memory"]:
            self._refuse(failure["error"], failure["text"])
        else:
            self._try_later(str(trouble))

    def _try_later(self, why: str) -> None:
        self._quick_ends += 1
        # at once, then after 1 s, 2 s, 4 s, ...
        pause = min(2.0 ** min(self._quick_ends - 2, 10), LONGEST_PAUSE_S) if self._quick_ends > 1 else 0.0
        self._next_start = time.monotonic() + pause
        self._state, self._message = "restarting", why
        _log.warning("%s (starts again in %.0f s)", why, pause)

    def _refuse(self, error: str, text: str) -> None:
        """Nothing will come of it however often it is started."""
        self._state, self._message = "failed", text
        self._refusal = {"kind": "failed", "id": 0, "error": error, "text": text, "memory": False}
        _log.error("the network cannot be loaded: %s", text)
        self._tell(self._refusal, served=False)

    # ---------------------------------------------------------------------------------------------------- the rooms

    def _tell(self, message: Json, *, served: bool) -> None:
        """Say something in the child's place, once in each room.

        Args:
            served: only where a child was heard; the others wait for the next one.
        """
        with contextlib.suppress(OSError):
            for room in [room for room in self._rooms.iterdir() if not room.name.startswith(".")]:
                if room.name in self._told or (served and not (room / MESSAGES).exists()):
                    continue
                self._told[room.name] = time.monotonic()
                with contextlib.suppress(OSError):
                    voice = Messages(room)
                    voice.tell(**message)
                    voice.close()

    def _clear_rooms(self) -> None:
        """Remove the rooms of those who were told and did not go."""
        now = time.monotonic()
        for name in [name for name, when in self._told.items() if now - when > FAREWELL_S]:
            shutil.rmtree(self._rooms / name, ignore_errors=True)
            del self._told[name]


def _leave_nothing(owner: int, children: list[Link], rooms: Path) -> None:
    """The end of a shared model, or of the interpreter; not of a fork of it."""
    if os.getpid() != owner:
        return
    end_all(owner, children)
    shutil.rmtree(rooms, ignore_errors=True)
