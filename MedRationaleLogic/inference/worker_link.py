"""A process that holds the network, as its clients reach it: one of their own, or one that several share.

Client and process share a private folder (mode 0700, removed at the end): commands and messages as JSON lines in files
that are read from where reading stopped, arrays as ``.npy`` that are memory-mapped. No thread runs in the client, and
no pipe can fill up: an event loop that starves Python's threads does not matter. What the folder holds besides voxels
is a study's name and its series, not the patient's ID; nothing of it is logged.

- :class:`Child`: a process of the client's own; it is killed to stop it.
- :class:`Guest`: a room (a subfolder) of a process that serves several clients; the client leaves to stop it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from MedRationaleLogic.inference.worker_child import CLOSE, COMMANDS, HELLO, LOG, MESSAGES, OWNER, Lines, Tail

__all__ = ["Child", "Guest", "Link", "WorkerError", "end_all", "python_executable", "sweep"]

Json = dict[str, Any]

SILENCE_S: Final = 30.0
"""Without any message for so long a warm process counts as dead; it sends a heartbeat each second."""
LOADING_SILENCE_S: Final = 300.0
"""The same while it loads PyTorch: a library that comes from a cold disk stops its heartbeat too."""
COMING_S: Final = 300.0
"""How long a client waits for a shared process that has not seen its room yet."""
LEFT_BEHIND_S: Final = 24 * 3600.0
"""A private folder that nobody has written to for so long belongs to nobody."""
PREFIX: Final = "medrationale-worker-"
LOG_LINES: Final = 30
CHILD: Final = "MedRationaleLogic.inference.worker_child"


class WorkerError(RuntimeError):
    """The child could not be started, ended, fell silent or ran into something unforeseen; the text says what to do.

    Attributes:
        exit_code: of the child; negative for a signal (POSIX), None while it lives.
        log_tail: last lines of its log.
    """

    def __init__(self, text: str, *, exit_code: int | None = None, log_tail: str = "") -> None:
        super().__init__(text)
        self.exit_code, self.log_tail = exit_code, log_tail


def python_executable(python: str | Path | None = None) -> str:
    """The interpreter that the child runs in.

    Taken in this order: ``python``; the environment's ``MEDRATIONALE_PYTHON``; the ``PythonSlicer`` of the Slicer that
    this process is (``SLICER_HOME``/bin, or beside its executable); this process's own executable where it is a Python.

    Raises:
        WorkerError: none of them is there.
    """
    for given, origin in ((python, "python"), (os.environ.get("MEDRATIONALE_PYTHON"), "MEDRATIONALE_PYTHON")):
        if given:
            found = shutil.which(str(given))
            if found is None:
                raise WorkerError(f"{origin} names {given}, which is no program; give the path of a Python interpreter")
            return found
    name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
    here = Path(sys.executable).parent if sys.executable else None
    home = os.environ.get("SLICER_HOME")
    for folder in (Path(home) / "bin" if home else None, here, here / "bin" if here else None):
        if folder is not None and (folder / name).is_file():
            return str(folder / name)
    if sys.executable and Path(sys.executable).name.lower().startswith("python"):
        return sys.executable
    raise WorkerError("no Python interpreter was found for the network; set MEDRATIONALE_PYTHON to the path of one")


class Link(ABC):
    """A process that holds the network, and the folder that we share with it.

    Attributes:
        folder: private; removed at the end.
        ready: what the process said when the network was loaded; None before.
        silence: seconds without a message, as far as somebody was listening.
        files: images that it was sent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ready: Json | None = None
        self.silence = 0.0
        self.files: set[str] = set()
        self._tail = Tail(folder / MESSAGES)
        self._listened = time.monotonic()
        self._commands = Lines(folder / COMMANDS)

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """The process, where it is ours."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it is there, as far as can be told at once."""

    @property
    def stage(self) -> str:
        """What a task that begins now waits for, in words."""
        return "starting" if self.ready is not None else "loading the network"

    def send(self, command: Json) -> None:
        """Give a command.

        Raises:
            OSError: it could not be written, or not all of it, as on a full disk.
        """
        self._commands.write(command)

    def listen(self) -> list[Json]:
        """Messages since the last call."""
        found = self._tail.read()
        now = time.monotonic()
        # at most a little for each call: a machine that slept, or a caller that was away, is not the process's silence
        self.silence = 0.0 if found else self.silence + min(now - self._listened, 1.0)
        self._listened = now
        for message in found:
            if message.get("kind") == "ready":
                self.ready = message
        return found

    def trouble(self) -> WorkerError | None:
        """Why nothing comes any more after what :meth:`listen` has given; None as long as something may."""
        if self.silence <= (SILENCE_S if self.ready is not None else LOADING_SILENCE_S):
            return None
        then = "" if self.pid is None else " and was ended"
        text = f"the network's process has not answered for {self.silence:.0f} s{then}; try again"
        return WorkerError(text, log_tail=self.log_tail())

    @abstractmethod
    def log_tail(self) -> str:
        """Last lines of the log, where it is ours."""

    @abstractmethod
    def end(self) -> None:
        """Stop whatever is done for us; returns within a tenth of a second."""

    @abstractmethod
    def clean(self) -> bool:
        """Once ended: whether nothing is left that is ours to remove."""

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._commands.close()


class Child(Link):
    """A process of our own, that serves one folder, and what others put into ``rooms``.

    Args:
        arguments: of the process, besides the folder and our own number.
        python: see :func:`python_executable`.
        env: added to its environment.

    Attributes:
        process: the child, or a launcher that it runs under.

    Raises:
        WorkerError: it cannot be started.
    """

    def __init__(self, arguments: list[str], python: str | Path | None, env: Mapping[str, str] | None) -> None:
        program = python_executable(python)
        super().__init__(Path(tempfile.mkdtemp(prefix=PREFIX)))  # mode 0700
        self._ended = False
        self._code: int | None = None
        # not `-m`: a launcher may set PYTHONPATH anew
        root = str(Path(__file__).resolve().parents[2])
        code = f"import sys; sys.path.insert(0, {root!r}); from {CHILD} import main; sys.exit(main())"
        try:
            with (self.folder / LOG).open("ab") as log:
                self.process = subprocess.Popen(
                    [program, "-c", code, "--folder", str(self.folder), "--parent", str(os.getpid()), *arguments],
                    stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, bufsize=0,
                    env=_environment(root, env),
                    start_new_session=os.name != "nt",  # a group of its own, to be ended as one
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )  # fmt: skip
            self._say_hello()
        except OSError as error:
            self._hang_up()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise WorkerError(f"{Path(program).name} cannot be started ({error.strerror or error})") from error

    def _say_hello(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which shows soon enough
            self.process.stdin.write(HELLO)

    @property
    def pid(self) -> int:
        """See :attr:`Link.pid`; in Slicer the launcher's."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """See :attr:`Link.alive`."""
        return self.process.poll() is None

    def listen(self) -> list[Json]:
        """See :meth:`Link.listen`."""
        self._code = self.process.poll()  # before reading: all that a dead child said is there
        return super().listen()

    def trouble(self) -> WorkerError | None:
        """See :meth:`Link.trouble`."""
        return super().trouble() if self._code is None else _ended(self._code, self.log_tail())

    def log_tail(self) -> str:
        """See :meth:`Link.log_tail`."""
        try:
            text = (self.folder / LOG).read_bytes()[-16384:].decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-LOG_LINES:])

    def end(self) -> None:
        """Kill it with all that it started, and remove the folder; returns within a tenth of a second."""
        if not self._ended:
            _kill_tree(self.process)
        self._ended = True
        self._hang_up()
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.08)
        self.clean()

    def clean(self) -> bool:
        """Whether nothing is left; on Windows a folder stays as long as somebody has an array of it mapped."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.process.poll() is not None and not self.folder.exists()


class Guest(Link):
    """A room of our own in a process that serves several clients; the process removes it when we have left or ended.

    Args:
        rooms: where rooms are, as :attr:`~MedRationaleLogic.inference.shared.SharedModel.rooms` tells.

    Raises:
        WorkerError: there is no such folder any more, or nothing can be written there.
    """

    def __init__(self, rooms: Path) -> None:
        try:
            # the process passes over names with a dot: a room is whole when it is seen
            made = Path(tempfile.mkdtemp(prefix=".", dir=rooms))  # mode 0700
            for name, text in ((OWNER, str(os.getpid())), (COMMANDS, "")):
                (made / name).write_text(text, encoding="ascii")
                (made / name).chmod(0o600)
            super().__init__(made.rename(made.with_name(f"room-{os.getpid()}-{made.name[1:]}")))
        except OSError as error:
            why = error.strerror or error
            raise WorkerError(f"the shared network cannot be reached ({why}); ask whoever runs the server") from error
        self._seen = self._left = False
        self._end: WorkerError | None = None

    @property
    def pid(self) -> None:
        """See :attr:`Link.pid`."""
        return None

    @property
    def alive(self) -> bool:
        """See :attr:`Link.alive`."""
        return self._end is None and self.folder.exists()

    @property
    def stage(self) -> str:
        """See :attr:`Link.stage`."""
        return super().stage if self._seen else "waiting for the network"

    def listen(self) -> list[Json]:
        """See :meth:`Link.listen`."""
        there = self.folder.exists()  # before reading, as for a child
        found = super().listen()
        self._seen = self._seen or bool(found)
        for message in found:
            # whoever starts the process says in its place that it has ended
            if message.get("kind") == "ended" or (message.get("kind") == "failed" and message.get("id") == 0):
                self._end = WorkerError(str(message["text"]), exit_code=message.get("code"))
        if not there and self._end is None:
            self._end = _ended(None, "")
        return found

    def trouble(self) -> WorkerError | None:
        """See :meth:`Link.trouble`."""
        if self._end is not None or self._seen:
            return self._end or super().trouble()
        if self.silence <= COMING_S:
            return None
        return WorkerError(
            f"the shared network has not answered for {self.silence:.0f} s; ask whoever runs the server, or try again"
        )

    def log_tail(self) -> str:
        """Nothing: the log tells of others too."""
        return ""

    def end(self) -> None:
        """Leave; what is done for us stops before its next stage, and the room goes."""
        if self._left:
            return
        self._left = True
        with contextlib.suppress(OSError):
            self.send({"do": CLOSE})
        self._hang_up()
        if self._end is not None or not self._seen:  # nobody is there to remove it
            shutil.rmtree(self.folder, ignore_errors=True)

    def clean(self) -> bool:
        """True: the rest is the process's."""
        return True


def _environment(root: str, more: Mapping[str, str] | None) -> dict[str, str]:
    env = {**os.environ, **(more or {})}
    env["PYTHONPATH"] = os.pathsep.join(p for p in (root, env.get("PYTHONPATH")) if p)
    env["PYTHONSAFEPATH"] = "1"  # what lies in the current folder is nobody's module
    env["PYTHONUNBUFFERED"] = "1"
    env["PYTHONIOENCODING"] = "utf-8"
    return env


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, its children and theirs."""
    if sys.platform == "win32":
        if process.poll() is None:
            flags = subprocess.CREATE_NO_WINDOW
            subprocess.Popen(["taskkill", "/F", "/T", "/PID", str(process.pid)], creationflags=flags)
        return
    # the group outlives its leader as long as one member lives, and its number is not given again before
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _ended(code: int | None, tail: str) -> WorkerError:
    """The end of a process that nobody wanted."""
    why = "its folder is gone" if code is None else f"exit code {code}"
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            why = f"signal {signal.Signals(-code).name}"
    # Slicer's launcher does not pass the signal on
    killed = code == -9 or (code is not None and code > 0 and "exit abnormally" in tail)
    advice = "most often memory has run out: close other programs and try again" if killed else "try again"
    return WorkerError(f"the network's process ended by itself ({why}); {advice}", exit_code=code, log_tail=tail)


def end_all(owner: int, links: list[Link]) -> None:
    """The end of whoever made these, or of the interpreter; not of a fork of it.

    Args:
        owner: process that made them.
        links: emptied.
    """
    if os.getpid() != owner:
        return
    for link in links:
        link.end()
    deadline = time.monotonic() + 1.0
    while sum(not link.clean() for link in links) and time.monotonic() < deadline:
        time.sleep(0.02)
    links.clear()


def sweep() -> None:
    """Remove folders of processes that ended without being able to."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            newest = max(p.stat().st_mtime for p in (folder, folder / LOG, folder / MESSAGES) if p.exists())
            if time.time() - newest > LEFT_BEHIND_S:
                shutil.rmtree(folder, ignore_errors=True)
