#!/usr/bin/env python3
"""MedRationale from a fresh clone: makes its own environment in .venv, then does what was asked.

    python3 run.py demo [--headless] [...]   the reading room in a browser, with the sample study explained;
                                             further options go to `medrationale view`
    python3 run.py test [...]                ruff, mypy, then pytest; further options go to pytest
    python3 run.py --help                    this text

It needs Python 3.11, 3.12 or 3.13 and, the first time, a network: the packages pinned in requirements/constraints.txt
go into .venv and nowhere else. It starts at once when nothing has changed, and carries on where it was interrupted.
To start over, delete .venv.

PyTorch comes from pip's usual index, which on Linux brings several gigabytes of CUDA. For a machine without a GPU:

    MEDRATIONALE_TORCH_INDEX=https://download.pytorch.org/whl/cpu python3 run.py demo

A later run without the variable keeps to the index of the one before; an empty one goes back to pip's usual index.

Exit code: that of the job; 2 for a wrong command; 3 if the environment could not be made; 130 after Ctrl-C during the
set-up or the tests.
Research use only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / ".run-state.json"
CONSTRAINTS = "requirements/constraints.txt"
OLDEST, TOO_NEW = (3, 11), (3, 14)
EXTRAS: dict[str, tuple[str, ...]] = {"demo": ("viewer",), "test": ("dev", "viewer")}
TORCH_INDEX = "MEDRATIONALE_TORCH_INDEX"


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


def say(text: str) -> None:
    print(f"run.py: {text}", flush=True)


def version_problem(version: tuple[int, ...], others: list[str]) -> str | None:
    """Why this Python will not do, or None. `others` are interpreters on the PATH that would."""
    if OLDEST <= version[:2] < TOO_NEW:
        return None
    advice = f"Run it with another one: {others[0]} run.py ..." if others else "Install one from https://python.org."
    found = ".".join(str(part) for part in version[:3])
    return f"MedRationale needs Python 3.11, 3.12 or 3.13, and this is {found} ({sys.executable}). {advice}"


def suitable_interpreters() -> list[str]:
    names = [f"python3.{minor}" for minor in range(TOO_NEW[1] - 1, OLDEST[1] - 1, -1)]
    return [name for name in names if shutil.which(name)]


def missing_modules_problem(missing: list[str], version: tuple[int, ...]) -> str | None:
    """What to install when Python came without the modules that make environments, or None."""
    if not missing:
        return None
    package = f"python3-venv (or python{version[0]}.{version[1]}-venv)"
    return (
        f"this Python lacks {' and '.join(missing)}, so it cannot make an environment. "
        f"On Debian or Ubuntu: sudo apt-get install {package}. Elsewhere, install Python from https://python.org."
    )


def environment_key(root: Path, version: str, torch_index: str) -> str:
    """SHA-256 of all that decides what lies in .venv: the two requirement files, Python, this folder, torch's index."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", CONSTRAINTS):
        digest.update((root / name).read_bytes())
    digest.update(json.dumps([version, str(root), torch_index]).encode())
    return digest.hexdigest()


class Done(NamedTuple):
    """The last set-up: what decided it (nothing while it is unfinished), the extras in it, the index that its torch
    came from (None: not known), and whether another torch of the same version may lie there."""

    key: str = ""
    extras: frozenset[str] = frozenset()
    torch_index: str | None = None
    torch_in_doubt: bool = False


def read_stamp(stamp: Path) -> Done:
    """The last finished set-up; an empty record when there was none or it is damaged."""
    try:
        state = json.loads(stamp.read_text(encoding="utf-8"))
        index = state.get("torch_index")
        index = None if index is None else str(index)
        return Done(str(state["key"]), frozenset(state["extras"]), index, bool(state.get("torch_in_doubt", False)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Done()


def write_stamp(stamp: Path, done: Done) -> None:
    # Replaced in one step: an interruption leaves the old record or the new one, never half of one.
    draft = stamp.with_suffix(".tmp")
    draft.write_text(json.dumps({**done._asdict(), "extras": sorted(done.extras)}), encoding="utf-8")
    os.replace(draft, stamp)


def venv_python(venv: Path, windows: bool) -> Path:
    return venv / "Scripts" / "python.exe" if windows else venv / "bin" / "python"


def venv_version(venv: Path) -> tuple[int, ...]:
    """(major, minor) that made the environment, from its pyvenv.cfg; () when it does not say."""
    try:
        lines = (venv / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    version = fields.get("version") or fields.get("version_info") or ""
    numbers = version.split(".")[:2]
    return tuple(int(number) for number in numbers) if all(number.isdigit() for number in numbers) else ()


def pinned(constraints: str, package: str) -> str:
    """The `package==version` line of a constraints file.

    Raises:
        SetupError: the package is not pinned there.
    """
    for line in constraints.splitlines():
        if line.strip().startswith(f"{package}=="):
            return line.strip()
    raise SetupError(f"{CONSTRAINTS} does not pin {package}; restore the file (git checkout {CONSTRAINTS}).")


def pip_command(python: Path, arguments: list[str], terminal: bool) -> list[str]:
    # Without a terminal pip's line per package is noise; errors are shown either way.
    manner = [] if terminal else ["--quiet", "--progress-bar", "off"]
    shared = ["--disable-pip-version-check", "--no-input", *manner, "--constraint", CONSTRAINTS]
    return [str(python), "-m", "pip", "install", *shared, *arguments]


def install_steps(
    torch: str, torch_index: str, extras: frozenset[str], another_index: bool = False
) -> list[tuple[str, list[str]]]:
    """What to install, in order: (what to tell the user, pip's arguments).

    torch goes first and alone: a CPU build that pip is configured for is taken as it is, and nothing that comes later
    may swap it. From an index of its own it comes without dependencies, which that index need not have in our versions.
    Where one of the same version from `another_index` lies there, pip has to be told to take the new one.
    """
    from_index = ["--index-url", torch_index, "--no-deps"] if torch_index else []
    from_index += ["--force-reinstall"] if another_index else []
    project = f".[{','.join(sorted(extras))}]" if extras else "."
    where = torch_index or "pip's index; a large download"
    return [
        (f"installing {torch} (from {where})", [*from_index, torch]),
        (f"installing MedRationale and its pinned packages ({project})", ["--editable", project]),
    ]


def check_commands(python: Path, pytest_arguments: list[str]) -> list[tuple[str, list[str]]]:
    """The suite: quick checks first, pytest last, so that its closing line ends the output.

    Pytest shares whole files out to as many workers as there are cores, four at most: each may need some GB.
    """
    workers = str(max(1, min(4, os.cpu_count() or 1)))
    shared = ["-n", workers, "--dist", "loadfile", "--no-loadscope-reorder"]
    tools = {
        "ruff check": ["ruff", "check"],
        "ruff format": ["ruff", "format", "--check"],
        "mypy": ["mypy"],
        "pytest": ["pytest", *shared, *pytest_arguments],
    }
    return [(name, [str(python), "-m", *arguments]) for name, arguments in tools.items()]


def make_venv(python: Path) -> None:
    """Make .venv afresh unless the one there works with this Python.

    Raises:
        SetupError: Python came without venv or ensurepip, or making the environment failed.
    """
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    works = venv_version(VENV) == sys.version_info[:2] and python.exists()
    if works and subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True).returncode == 0:
        say("found .venv, bringing it up to date")
        return
    problem = missing_modules_problem(missing, sys.version_info[:2])
    if problem:
        raise SetupError(problem)
    if Path(sys.prefix).resolve() == VENV.resolve():
        raise SetupError("the environment in .venv is damaged and in use; run `deactivate`, then the same command.")
    again = " again: the one there is unfinished or of another Python" if VENV.exists() else ""
    say(f"making .venv with Python {platform.python_version()}{again}")
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)]).returncode != 0:
        raise SetupError(f"could not make {VENV}; is the folder writable, and does the disk have room?")


def set_up(extras: frozenset[str]) -> Path:
    """Make .venv hold the project with `extras`, doing nothing if it does already. Returns its Python.

    Raises:
        SetupError: see the message.
    """
    done = read_stamp(STAMP)
    torch_index = os.environ.get(TORCH_INDEX, done.torch_index or "")
    another_index = done.torch_in_doubt or done.torch_index not in (None, torch_index)
    key = environment_key(ROOT, platform.python_version(), torch_index)
    python = venv_python(VENV, os.name == "nt")
    if done.key == key and extras <= done.extras and python.exists():
        return python
    started = time.monotonic()
    make_venv(python)
    wanted = extras | (done.extras if done.key == key or another_index else frozenset())
    constraints = (ROOT / CONSTRAINTS).read_text(encoding="utf-8")
    if another_index:  # an interruption must not leave the old record beside the new torch
        write_stamp(STAMP, Done("", wanted, torch_index, torch_in_doubt=True))
    for what, arguments in install_steps(pinned(constraints, "torch"), torch_index, wanted, another_index):
        say(what)
        code = subprocess.run(pip_command(python, arguments, sys.stdout.isatty()), cwd=ROOT).returncode
        if code != 0:
            free = shutil.disk_usage(ROOT).free / 1e9
            raise SetupError(
                f"pip failed (exit code {code}) while {what}; its own words stand above. Usual causes: no network or a "
                f"proxy (set HTTPS_PROXY, or PIP_INDEX_URL for a mirror), or a full disk ({free:.0f} GB free here, "
                "about 3 GB needed, 8 GB with CUDA). Run the same command again: what is done is not done twice."
            )
    write_stamp(STAMP, Done(key, wanted, torch_index))
    say(f"environment ready after {time.monotonic() - started:.0f} s")
    return python


def run_checks(python: Path, pytest_arguments: list[str]) -> int:
    """Run the suite to its end whatever fails. Returns 0, or the code of the first that failed."""
    codes: dict[str, int] = {}
    for name, command in check_commands(python, pytest_arguments):
        failed = [other for other, code in codes.items() if code != 0]
        say(name + (f" (already failed: {', '.join(failed)})" if failed else ""))
        codes[name] = subprocess.run(command, cwd=ROOT).returncode
    return next((code for code in codes.values() if code != 0), 0)


def become(command: list[str]) -> int:
    """Run a command in this process's place: whoever stops it by a signal stops the job. Windows has no such thing."""
    if os.name == "nt":
        return subprocess.run(command).returncode
    sys.stdout.flush()
    os.execv(command[0], command)


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command not in EXTRAS:
        say(f"unknown command {command!r}; use demo or test (python3 run.py --help)")
        return 2
    problem = version_problem(sys.version_info[:3], suitable_interpreters())
    if problem:
        say(problem)
        return 3
    try:
        python = set_up(frozenset(EXTRAS[command]))
        if command == "test":
            return run_checks(python, rest)
        return become([str(python), "-m", "MedRationaleLogic.cli", "view", *rest])
    except SetupError as error:
        say(str(error))
        return 3
    except KeyboardInterrupt:
        say("stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
