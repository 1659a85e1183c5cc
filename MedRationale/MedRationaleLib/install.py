"""What MedRationale needs and Slicer does not ship: what is missing, what is broken, and installing it with consent.

    report = check()                                  # what is missing; PyTorch is tried in a child process
    if not report.complete:
        outcome = install(report, ask)                # `ask` gets a text with the size of the download; True agrees

Nothing is installed before ``ask`` agreed. PyTorch comes through the PyTorch extension, which picks the build for this
machine; the rest through ``slicer.packaging``. That build and the versions of what Slicer bundles are pinned meanwhile.
Without a network everything comes from a folder of wheels. No Qt here: the panel brings the questions and shows the
answers.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

OLDEST_SLICER: Final = (5, 12)
TORCH_TIMEOUT_S: Final = 300.0
"""The first import of PyTorch from a cold or scanned disk takes up to a minute; after five something hangs."""
LAST_LINES: Final = 12


@dataclass(frozen=True)
class Package:
    """A package that is needed and not bundled with Slicer.

    Attributes:
        name: as pip calls it.
        module: as Python imports it.
        title: as people call it.
        specifier: versions that work, in pip's form; the same as in pyproject.toml.
        megabytes: least and greatest size of the download, with what it brings along.
        how: "pytorch" by the PyTorch extension, "pip" in the usual way.
    """

    name: str
    module: str
    title: str
    specifier: str
    megabytes: tuple[int, int]
    how: Literal["pytorch", "pip"]

    @property
    def requirement(self) -> str:
        """For pip."""
        return f"{self.name}{self.specifier}"


REQUIRED: Final = (
    Package("torch", "torch", "PyTorch", ">=2.8", (200, 3500), "pytorch"),
    Package("safetensors", "safetensors", "safetensors", ">=0.4.5", (1, 1), "pip"),
    Package("jinja2", "jinja2", "Jinja2", ">=3.1", (1, 1), "pip"),
    Package("matplotlib", "matplotlib", "Matplotlib", ">=3.9", (20, 20), "pip"),
)
"""In the order of installing. A test holds the list against what the module's road imports."""

BUNDLED: Final = ("numpy", "scipy", "SimpleITK", "pydicom", "requests", "highdicom", "packaging", "pillow", "vtk")
"""What Slicer ships and nothing that is installed here may change."""

Ask = Callable[[str], bool]
Log = Callable[[str], None]


class Run(Protocol):
    """What starts a process."""

    def __call__(self, command: Sequence[str], *, timeout_s: float | None) -> tuple[int | None, str]:
        """Exit code (None after a timeout) and what was printed."""


class InstallError(RuntimeError):
    """Something cannot be installed; the text says what, why in pip's own last lines, and what to do."""


@dataclass(frozen=True)
class Missing:
    """A package that is not there, too old, or broken.

    Attributes:
        package: which.
        problem: in words.
        found: the version that is there, or None.
        broken: it is there in the right version and does not work.
    """

    package: Package
    problem: str
    found: str | None = None
    broken: bool = False


@dataclass(frozen=True)
class TorchState:
    """What a child process found out about PyTorch.

    Attributes:
        works: it was imported and added two numbers.
        version: its own, with the build (``2.13.0+cpu``); None where it does not say.
        cuda: it sees a CUDA device.
        problem: why it does not work, with the exit code and the last lines; None when it works.
    """

    works: bool
    version: str | None = None
    cuda: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Report:
    """What is there and what is not.

    Attributes:
        missing: what has to be installed, in the order of installing.
        versions: of what is there, by pip's name.
        slicer_problem: why this Slicer will not do, or None.
        torch: what the child process said; None when it was not asked.
    """

    missing: tuple[Missing, ...]
    versions: Mapping[str, str]
    slicer_problem: str | None = None
    torch: TorchState | None = None

    @property
    def complete(self) -> bool:
        """Whether a study can be explained."""
        return not self.missing and self.slicer_problem is None

    @property
    def download(self) -> str:
        """The size of what is missing, in words; empty when nothing is."""
        return _size([m.package for m in self.missing]) if self.missing else ""

    @property
    def text(self) -> str:
        """For the panel and a bug report."""
        if self.slicer_problem:
            return self.slicer_problem
        if not self.missing:
            return "Everything that MedRationale needs is installed."
        lines = [f"- {m.problem}" for m in self.missing]
        return "\n".join(["MedRationale cannot explain a study yet:", *lines, f"Download: {self.download}."])

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Outcome:
    """What installing came to.

    Attributes:
        report: what is missing now.
        installed: pip's names of what was installed.
        declined: the user did not agree; nothing was done.
        restart: Slicer has an older or broken one loaded and must be restarted.
    """

    report: Report
    installed: tuple[str, ...] = ()
    declined: bool = False
    restart: bool = False


# ------------------------------------------------------------------------------------------------------------- checking


def slicer_problem(version: tuple[int, int] | None) -> str | None:
    """Why this Slicer (major, minor) will not do, or None; None outside Slicer is no problem."""
    if version is None or version >= OLDEST_SLICER:
        return None
    oldest = ".".join(str(part) for part in OLDEST_SLICER)
    return f"MedRationale needs Slicer {oldest} or later, and this is {version[0]}.{version[1]}. Please update Slicer."


def running_slicer() -> tuple[int, int] | None:
    """Version of the Slicer that this runs in, or None in a plain Python."""
    app = _slicer_app()
    return None if app is None else (int(app.majorVersion), int(app.minorVersion))


def check(*, probe: bool = True, run: Run | None = None, log: Log | None = None) -> Report:
    """What is missing.

    Args:
        probe: also import PyTorch in a child process, which takes seconds; False looks only at what is installed.
        run: starts a process; for tests.
        log: told what is looked at.
    """
    old = slicer_problem(running_slicer())
    if old:
        return Report((), {}, old)
    importlib.invalidate_caches()
    versions: dict[str, str] = {}
    missing: list[Missing] = []
    torch: TorchState | None = None
    for package in REQUIRED:
        found = _installed(package.name)
        if found is not None:
            versions[package.name] = found
        problem = _problem(package, found)
        broken = False
        if problem is None and package.how == "pytorch" and probe:
            if log:
                log("trying PyTorch in a process of its own")
            torch = diagnose_torch(run=run)
            problem, broken = torch.problem, not torch.works
        if problem is not None:
            missing.append(Missing(package, problem, found, broken))
    return Report(tuple(missing), versions, None, torch)


def missingNames() -> list[str]:
    """pip's names of what is missing, at a glance: nothing is imported and no process started."""
    return [missing.package.name for missing in check(probe=False).missing]


def diagnose_torch(*, run: Run | None = None, timeout_s: float = TORCH_TIMEOUT_S) -> TorchState:
    """Import PyTorch in a child process: a broken one may end the process that imports it, and that is not Slicer's.

    Args:
        run: starts a process; for tests.
        timeout_s: seconds after which the child is ended.
    """
    code, text = (run or run_process)([python_executable(), "-c", _TORCH_PROBE], timeout_s=timeout_s)
    if code == 0:
        for line in reversed(text.splitlines()):
            if line.startswith(_MARK):
                said = json.loads(line.removeprefix(_MARK))
                return TorchState(True, said["version"], said["cuda"])
    if "No module named 'torch'" in text:
        return TorchState(False, problem="PyTorch is not installed")
    why = f"took longer than {timeout_s:.0f} s to import" if code is None else f"does not work ({_exit_words(code)})"
    return TorchState(False, problem=f"PyTorch is installed but {why}.{_torch_advice(text)}{_quoted(text)}")


_MARK: Final = "medrationale-torch "
_TORCH_PROBE: Final = (
    "import json, torch\n"
    "assert float(torch.ones(2).sum()) == 2.0\n"
    f"print({_MARK!r} + json.dumps({{'version': torch.__version__, 'cuda': torch.cuda.is_available()}}))\n"
)


def _installed(name: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _problem(package: Package, found: str | None) -> str | None:
    from packaging.specifiers import SpecifierSet

    if found is None:
        return f"{package.title} is not installed"
    # a development build of a version that would do will do
    if not SpecifierSet(package.specifier).contains(found, prereleases=True):
        return f"{package.title} {found} is too old; {package.specifier.lstrip('>=')} or later is needed"
    try:
        there = importlib.util.find_spec(package.module) is not None
    except (ImportError, ValueError):
        there = False
    return None if there else f"{package.title} {found} is installed, but its files are gone"


def _size(packages: Sequence[Package]) -> str:
    low, high = (sum(package.megabytes[i] for package in packages) for i in (0, 1))
    if high > 2 * low:
        return f"about {_megabytes(low)} without CUDA, up to {_megabytes(high)} with it"
    return f"about {_megabytes(high)}"


def _megabytes(value: float) -> str:
    return f"{value / 1000:.1f} GB" if value >= 1000 else f"{value:.0f} MB"


# ----------------------------------------------------------------------------------------------------------- installing


def install(
    report: Report,
    ask: Ask,
    *,
    wheels: Path | None = None,
    run: Run | None = None,
    log: Log | None = None,
) -> Outcome:
    """Install what is missing, once the user has agreed to it.

    Args:
        report: from :func:`check`.
        ask: gets a text that names the packages and the size; True agrees.
        wheels: a folder of wheels to install from, without any network; None goes online.
        run: starts a process; for tests.
        log: gets pip's lines.

    Returns:
        what was done, and what is missing now.

    Raises:
        InstallError: this Slicer is too old; the PyTorch extension is missing; a wheel is missing; pip failed; a
            version that Slicer bundles was changed.
    """
    if report.slicer_problem:
        raise InstallError(report.slicer_problem)
    if report.complete:
        return Outcome(report)
    packages = [m.package for m in report.missing]
    if wheels is not None:
        _check_wheels(packages, wheels)
    elif any(package.how == "pytorch" for package in packages):
        _pytorch_utils()  # tell that it is missing before asking for consent to use it
    if not ask(consent_text(report, wheels)):
        return Outcome(report, declined=True)
    restart = any(package.module in sys.modules for package in packages)
    before = _protected()
    for missing in report.missing:
        package = missing.package
        if log:
            log(f"installing {package.requirement}")
        if wheels is not None:
            _from_wheels(missing, wheels, run or run_process, log)
        elif package.how == "pytorch":
            _torch_by_extension(missing)
        else:
            _by_slicer(package, log)
        importlib.invalidate_caches()
    _check_unchanged(before, except_for={package.name for package in packages})
    now = check(run=run, log=log)
    still = [m.problem for m in now.missing if m.package in packages]
    if still and not restart:
        raise InstallError("pip ended without an error, and yet: " + "; ".join(still))
    return Outcome(now, tuple(package.name for package in packages), restart=restart)


def consent_text(report: Report, wheels: Path | None = None) -> str:
    """The question that :func:`install` asks: what, how much, from where, into what."""
    lines = [f"- {m.package.title} {m.package.specifier.lstrip('>=')} or later ({m.problem})" for m in report.missing]
    if wheels is None:
        source = f"They are downloaded from the Internet: {report.download}."
    else:
        source = f"They are installed from the folder {wheels.name}, without any network."
    return "\n".join(
        [
            "MedRationale needs packages that Slicer does not bring along:",
            *lines,
            "",
            source,
            "They go into Slicer's own Python, where other extensions can use them too; nothing that Slicer brings "
            "along is changed. No image and no patient data leave this computer.",
            "",
            "Install them now?",
        ]
    )


def _pytorch_utils() -> Any:
    """The logic of the PyTorch extension.

    Raises:
        InstallError: it is not installed.
    """
    try:
        utils = importlib.import_module("PyTorchUtils")
    except ImportError as error:
        raise InstallError(
            "the PyTorch extension is not installed. In Slicer's Extensions Manager install PyTorch, restart Slicer, "
            "and try again; without a network, choose a folder of wheels instead"
        ) from error
    return utils.PyTorchUtilsLogic()


def _torch_by_extension(missing: Missing) -> None:
    logic = _pytorch_utils()
    loaded = "torch" in sys.modules
    try:
        if missing.broken:  # pip would take a broken one of the right version for done
            logic.uninstallTorch()
        made = logic.installTorch(askConfirmation=False, torchVersionRequirement=missing.package.specifier)
    except Exception as error:
        if loaded:
            raise InstallError(
                "PyTorch cannot be replaced while Slicer has it loaded; restart Slicer and install it before anything "
                f"else is used.{_quoted(_text_of(error))}"
            ) from error
        state = diagnose_torch()
        if state.works:
            return  # it stands; only loading it into this process failed
        text = _text_of(error)
        raise InstallError(f"PyTorch could not be installed.{_pip_advice(text)}{_quoted(text)}") from error
    if made is None:
        raise InstallError("PyTorch was not installed: the PyTorch extension was told not to")


def _by_slicer(package: Package, log: Log | None) -> None:
    """Install by ``slicer.packaging`` and wait for it, the windows alive meanwhile."""
    try:
        packaging = importlib.import_module("slicer.packaging")
    except ImportError as error:
        raise InstallError(
            f"{package.title} can be installed from here only inside Slicer {OLDEST_SLICER[0]}.{OLDEST_SLICER[1]} or "
            f"later; in a plain Python use: pip install '{package.requirement}'"
        ) from error
    lines: list[str] = []
    ended: list[int] = []

    def hear(line: str) -> None:
        lines.append(line)
        if log:
            log(line)

    with _constraints() as constraints:
        try:
            packaging.pip_install(
                [package.requirement], constraints=str(constraints), blocking=False,
                requester="MedRationale", logCallback=hear, completedCallback=lambda code: ended.append(int(code)),
            )  # fmt: skip
            # without an application, and in testing mode, it has waited by itself and calls nothing back
            while not ended and packaging.isPipInstallInProgress():
                _breathe()
        except subprocess.CalledProcessError as error:
            lines.append(_text_of(error))
            ended.append(error.returncode or 1)
    if ended and ended[0] != 0:
        text = "\n".join(lines)
        raise InstallError(
            f"{package.title} could not be installed (pip ended with {ended[0]}).{_pip_advice(text)}{_quoted(text)}"
        )


@contextmanager
def _constraints() -> Iterator[Path]:
    """A constraints file that pins what must not change: what Slicer bundles, and PyTorch."""
    with tempfile.TemporaryDirectory(prefix="medrationale-") as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text("".join(f"{name}=={version}\n" for name, version in _protected().items()), encoding="utf-8")
        yield path


def _protected() -> dict[str, str]:
    return {name: version for name in (*BUNDLED, "torch") if (version := _installed(name)) is not None}


def _check_unchanged(before: Mapping[str, str], except_for: set[str]) -> None:
    importlib.invalidate_caches()
    for name, version in before.items():
        now = _installed(name)
        if now != version and name not in except_for:
            raise InstallError(
                f"{name} was changed from {version} to {now or 'nothing'} while packages were installed; install "
                f"{name}=={version} again, and report this"
            )


# ---------------------------------------------------------------------------------------------------------- from wheels


def _check_wheels(packages: Sequence[Package], folder: Path) -> None:
    """Name what a folder lacks before anything is installed.

    Raises:
        InstallError: it is no folder, or holds no fitting wheel of a package.
    """
    from packaging.specifiers import SpecifierSet

    if not folder.is_dir():
        raise InstallError(f"{folder.name}: there is no such folder; choose the folder that holds the .whl files")
    found = _wheels(folder)
    for package in packages:
        mine = [(version, fits) for name, version, fits in found if name == package.name]
        if not mine:
            problem = f"{folder.name} holds no wheel of {package.name}"
        elif not any(SpecifierSet(package.specifier).contains(version, prereleases=True) for version, _ in mine):
            problem = f"{folder.name} holds {package.name} {mine[0][0]} only; {package.requirement} is needed"
        elif not any(fits for _, fits in mine):
            problem = f"the wheels of {package.name} in {folder.name} are for another system or Python"
        else:
            continue
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise InstallError(
            f"{problem}. On a computer with a network, the same system and Python {version}, run: "
            f"pip download -d {folder.name} {' '.join(package.requirement for package in REQUIRED)}"
        )


def _wheels(folder: Path) -> list[tuple[str, str, bool]]:
    """(name, version, whether this Python takes it) of every wheel in a folder."""
    from packaging.tags import sys_tags
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    mine = set(sys_tags())
    out = []
    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        out.append((str(name), str(version), bool(mine & tags)))
    return out


def pip_offline(package: Package, folder: Path, *extra: str) -> list[str]:
    """The command that installs one package from a folder of wheels and asks no index."""
    return [
        python_executable(), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-index",
        "--only-binary=:all:", "--find-links", str(folder), *extra, package.requirement,
    ]  # fmt: skip


def _from_wheels(missing: Missing, folder: Path, run: Run, log: Log | None) -> None:
    package = missing.package
    # --force-reinstall alone would also touch what Slicer bundles
    again = ["--force-reinstall", "--no-deps"] if missing.broken else []
    with _constraints() as constraints:
        # a PyTorch that is to be replaced must not be pinned
        pins = [] if package.how == "pytorch" else ["--constraint", str(constraints)]
        code, text = run(pip_offline(package, folder, *again, *pins), timeout_s=None)
    if log:
        for line in text.splitlines():
            log(line)
    if code == 0:
        return
    lacks = re.search(r"No matching distribution found for ([^\s(;]+)", text)
    why = f" {folder.name} lacks a fitting wheel of {lacks[1]}." if lacks else _pip_advice(text)
    raise InstallError(f"{package.title} could not be installed ({_exit_words(code)}).{why}{_quoted(text)}")


# ------------------------------------------------------------------------------------------------------------ processes


def run_process(command: Sequence[str], *, timeout_s: float | None) -> tuple[int | None, str]:
    """Run a process to its end while Slicer's windows stay alive.

    Returns:
        its exit code (None when it took longer than ``timeout_s`` and was ended), and what it printed.
    """
    # Into a file: a pipe would have to be read by a thread, which Slicer's event loop starves.
    with tempfile.TemporaryFile() as output:
        hidden = getattr(subprocess, "CREATE_NO_WINDOW", 0)
        try:
            child = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, creationflags=hidden
            )
        except OSError as error:
            return 127, f"{Path(command[0]).name} cannot be started: {error.strerror or error}"
        end = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            while child.poll() is None and (end is None or time.monotonic() < end):
                _breathe()
        finally:
            late = child.poll() is None
            if late:
                child.kill()
                child.wait()
        output.seek(0)
        return None if late else child.returncode, output.read().decode(errors="replace")


def python_executable() -> str:
    """The Python that Slicer's packages are installed into: PythonSlicer, or this one outside Slicer."""
    own = Path(sys.executable or "")
    if own.name.lower().startswith("python"):
        return str(own)
    home = os.environ.get("SLICER_HOME")
    return shutil.which("PythonSlicer", path=str(Path(home) / "bin") if home else None) or str(own)


def _slicer_app() -> Any:
    """Slicer's application, or None outside of it; an unrelated package on PyPI is also called slicer."""
    module = sys.modules.get("slicer")
    app = getattr(module, "app", None)
    return app if hasattr(app, "majorVersion") else None


def _breathe() -> None:
    app = _slicer_app()
    if hasattr(app, "processEvents"):
        app.processEvents()
    time.sleep(0.02)


# ---------------------------------------------------------------------------------------------------------------- words


def _exit_words(code: int | None) -> str:
    """An exit code as people know it."""
    if code is None:
        return "it was ended because it took too long"
    windows = {0xC0000005: "access violation", 0xC0000135: "a DLL was not found", 0xC000001D: "illegal instruction"}
    known = windows.get(code & 0xFFFFFFFF)
    if known:
        return f"exit code {code & 0xFFFFFFFF:#x}, {known}"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"its process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process was ended by signal {-code}"


def _torch_advice(text: str) -> str:
    low = text.lower()
    if "dll load failed" in low or "winerror 126" in low or "c10.dll" in low:
        return " Install Microsoft's Visual C++ Redistributable, restart, and try again."
    if "libcu" in low or "libnv" in low or "cudnn" in low:
        return " Its CUDA libraries are incomplete: install it again."
    if "numpy" in low and ("abi" in low or "compiled using" in low or "multiarray" in low):
        return " It was built for another NumPy: install it again, and leave Slicer's NumPy as it is."
    if "undefined symbol" in low or "invalid elf" in low or "mach-o" in low:
        return " Its files do not belong together: install it again."
    return " Install it again."


_ADVICE: Final = (
    (r"no space left|errno 28|not enough space", "The disk is full: make room, and try again."),
    (r"being used by another process|winerror 5\b|winerror 32",
     "Its files are in use: restart Slicer, and install before anything else is used."),
    (r"permission denied|errno 13|access is denied",
     "Slicer's folder cannot be written: start Slicer as the user who installed it, or install Slicer into your own "
     "folder."),
    (r"certificate|ssl", "The connection is not trusted: behind a proxy, set PIP_CERT to its certificate."),
    (r"proxy|name resolution|getaddrinfo|connection|timed out|network is unreachable|max retries",
     "There is no way to the package index: check the network, set HTTPS_PROXY, or install from a folder of wheels."),
    (r"no matching distribution", "The index has no build for this system and Python: use a folder of wheels."),
)  # fmt: skip


def _pip_advice(text: str) -> str:
    low = text.lower()
    return next((f" {advice}" for pattern, advice in _ADVICE if re.search(pattern, low)), "")


def _quoted(text: str) -> str:
    """The last lines of an output, under a message."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-LAST_LINES:]
    return "\nIts last lines:\n" + "\n".join(f"  {line[:300]}" for line in lines) if lines else ""


def _text_of(error: BaseException) -> str:
    """An error with what its process printed, where it kept that."""
    printed = [getattr(error, name, None) for name in ("output", "stderr")]
    parts = [p.decode(errors="replace") if isinstance(p, bytes) else str(p) for p in printed if p]
    return "\n".join([*parts, f"{type(error).__name__}: {error}"])
