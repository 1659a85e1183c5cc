"""run.py's decisions: they are pure functions, so nothing here makes an environment or needs a network."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def run(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_under_test", repository / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "requirements" / "constraints.txt").write_text("torch==2.13.0\n")
    return tmp_path


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 10), (3, 13, 9)])
def test_supported_python(run: ModuleType, version: tuple[int, ...]) -> None:
    assert run.version_problem(version, []) is None


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 8, 18), (3, 10, 13), (3, 14, 0), (4, 0, 0)])
def test_unsupported_python_names_itself_and_a_way_out(run: ModuleType, version: tuple[int, ...]) -> None:
    text = run.version_problem(version, ["python3.12"])
    assert ".".join(map(str, version)) in text
    assert "3.11, 3.12 or 3.13" in text
    assert "python3.12 run.py" in text
    assert "python.org" in run.version_problem(version, [])


def test_python_range_is_that_of_the_project(run: ModuleType, repository: Path) -> None:
    import tomllib

    wanted = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert wanted == ">={}.{},<{}.{}".format(*run.OLDEST, *run.TOO_NEW)


def test_missing_ensurepip_names_the_debian_package(run: ModuleType) -> None:
    assert run.missing_modules_problem([], (3, 11)) is None
    text = run.missing_modules_problem(["ensurepip"], (3, 12))
    assert "ensurepip" in text
    assert "python3-venv" in text
    assert "python3.12-venv" in text


def test_key_changes_with_all_that_decides_the_environment(run: ModuleType, clone: Path, tmp_path: Path) -> None:
    first = run.environment_key(clone, "3.11.7", "")
    assert run.environment_key(clone, "3.11.7", "") == first
    others = {run.environment_key(clone, "3.12.1", ""), run.environment_key(clone, "3.11.7", "https://example.org")}
    (clone / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    others.add(run.environment_key(clone, "3.11.7", ""))
    (clone / "requirements" / "constraints.txt").write_text("torch==2.14.0\n")
    others.add(run.environment_key(clone, "3.11.7", ""))
    assert first not in others
    assert len(others) == 4


def test_key_changes_with_the_folder(run: ModuleType, clone: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("moved")
    (moved / "requirements").mkdir()
    for name in ("pyproject.toml", "requirements/constraints.txt"):
        (moved / name).write_bytes((clone / name).read_bytes())
    assert run.environment_key(clone, "3.11.7", "") != run.environment_key(moved, "3.11.7", "")


def test_stamp_round_trip(run: ModuleType, tmp_path: Path) -> None:
    stamp = tmp_path / ".run-state.json"
    done = run.Done("abc", frozenset({"dev", "viewer"}), "https://example.org")
    run.write_stamp(stamp, done)
    assert run.read_stamp(stamp) == done
    assert [path.name for path in tmp_path.iterdir()] == [".run-state.json"]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"key": "abc"}', '{"key": "abc", "extras": 3}'])
def test_no_or_damaged_stamp_means_set_up(run: ModuleType, tmp_path: Path, content: str | None) -> None:
    stamp = tmp_path / "stamp"
    if content is not None:
        stamp.write_text(content)
    assert run.read_stamp(stamp) == run.Done()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("home = /usr/bin\nversion = 3.11.7\n", (3, 11)),
        ("version_info = 3.12.1.final.0\n", (3, 12)),
        ("home = /usr/bin\n", ()),
        ("version = nonsense\n", ()),
        (None, ()),
    ],
)
def test_version_of_an_environment(run: ModuleType, tmp_path: Path, text: str | None, version: tuple[int, ...]) -> None:
    if text is not None:
        (tmp_path / "pyvenv.cfg").write_text(text)
    assert run.venv_version(tmp_path) == version


def test_torch_goes_first_and_alone(run: ModuleType) -> None:
    steps = run.install_steps("torch==2.13.0", "", frozenset({"dev", "viewer"}))
    assert [arguments for _, arguments in steps] == [["torch==2.13.0"], ["--editable", ".[dev,viewer]"]]
    assert run.install_steps("torch==2.13.0", "", frozenset())[1][1] == ["--editable", "."]


def test_torch_from_an_index_of_its_own_brings_no_other_versions_along(run: ModuleType) -> None:
    index = "https://download.pytorch.org/whl/cpu"
    torch, project = (arguments for _, arguments in run.install_steps("torch==2.13.0", index, frozenset()))
    assert torch == ["--index-url", index, "--no-deps", "torch==2.13.0"]
    assert index not in project
    torch, project = (arguments for _, arguments in run.install_steps("torch==2.13.0", index, frozenset(), True))
    assert torch == ["--index-url", index, "--no-deps", "--force-reinstall", "torch==2.13.0"]
    assert "--force-reinstall" not in project


def test_pip_is_held_to_the_constraints(run: ModuleType, tmp_path: Path) -> None:
    for terminal in (True, False):
        command = run.pip_command(tmp_path / "python", ["torch==2.13.0"], terminal)
        assert command[:4] == [str(tmp_path / "python"), "-m", "pip", "install"]
        assert command[command.index("--constraint") + 1] == "requirements/constraints.txt"
        assert command[-1] == "torch==2.13.0"
        assert ("--quiet" in command) is not terminal


def test_pinned_torch(run: ModuleType, repository: Path) -> None:
    constraints = (repository / "requirements" / "constraints.txt").read_text(encoding="utf-8")
    assert run.pinned(constraints, "torch").startswith("torch==2.")
    assert run.pinned("torchmetrics==1.0\ntorch==2.13.0\n", "torch") == "torch==2.13.0"
    with pytest.raises(run.SetupError, match="does not pin torch"):
        run.pinned("numpy==2.4.6\n", "torch")


def test_python_of_an_environment(run: ModuleType) -> None:
    assert run.venv_python(Path("v"), windows=False) == Path("v/bin/python")
    assert run.venv_python(Path("v"), windows=True) == Path("v/Scripts/python.exe")


def test_pytest_comes_last_and_gets_the_arguments(run: ModuleType) -> None:
    commands = run.check_commands(Path("python"), ["-k", "geometry"])
    assert [name for name, _ in commands] == ["ruff check", "ruff format", "mypy", "pytest"]
    command = commands[-1][1]
    assert command[:3] == ["python", "-m", "pytest"]
    assert command[-2:] == ["-k", "geometry"]
    assert 1 <= int(command[command.index("-n") + 1]) <= 4, "as many workers as cores, and no more than memory bears"


def test_suite_runs_on_after_a_failure_and_reports_the_first(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [("one", 0), ("two", 3), ("three", 1), ("pytest", 0)]
    script = "import sys; sys.exit(int(sys.argv[1]))"
    planned = [(name, [sys.executable, "-c", script, str(code)]) for name, code in commands]
    monkeypatch.setattr(run, "check_commands", lambda python, arguments: planned)
    assert run.run_checks(Path("python"), []) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "run.py: pytest (already failed: two, three)"


def test_finished_environment_is_used_at_once(run: ModuleType, monkeypatch: pytest.MonkeyPatch, clone: Path) -> None:
    python = run.venv_python(clone / ".venv", run.os.name == "nt")
    python.parent.mkdir(parents=True)
    python.touch()
    stamp = clone / ".venv" / ".run-state.json"
    for name, value in (("ROOT", clone), ("VENV", clone / ".venv"), ("STAMP", stamp)):
        monkeypatch.setattr(run, name, value)
    monkeypatch.delenv(run.TORCH_INDEX, raising=False)
    key = run.environment_key(clone, run.platform.python_version(), "")
    run.write_stamp(stamp, run.Done(key, frozenset({"dev"}), ""))

    started: list[list[str]] = []

    def refuse(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        started.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(run.subprocess, "run", refuse)
    assert run.set_up(frozenset()) == python
    assert run.set_up(frozenset({"dev"})) == python
    assert started == []
    with pytest.raises(run.SetupError):  # an extra that is not there: set-up starts, and here finds no Python
        run.set_up(frozenset({"viewer"}))
    assert started


def test_failed_install_says_what_to_do_and_leaves_no_stamp(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("ROOT", clone), ("VENV", clone / ".venv"), ("STAMP", clone / ".venv" / ".run-state.json")):
        monkeypatch.setattr(run, name, value)
    monkeypatch.setattr(run, "make_venv", lambda python: None)
    monkeypatch.setattr(run.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    assert run.main(["demo"]) == 3
    text = capsys.readouterr().out
    assert "pip failed (exit code 1) while installing torch==2.13.0" in text
    assert "HTTPS_PROXY" in text
    assert not (clone / ".venv" / ".run-state.json").exists()


def test_the_index_of_torch_is_kept_and_changed_only_when_asked(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, clone: Path
) -> None:
    python, stamp = run.venv_python(clone / ".venv", run.os.name == "nt"), clone / ".venv" / ".run-state.json"
    python.parent.mkdir(parents=True)
    python.touch()
    for name, value in (("ROOT", clone), ("VENV", clone / ".venv"), ("STAMP", stamp)):
        monkeypatch.setattr(run, name, value)
    monkeypatch.setattr(run, "make_venv", lambda python: None)
    torch: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        if "torch==2.13.0" in command:
            torch.append([word for word in command if word.startswith("http") or word == "--force-reinstall"])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(run.subprocess, "run", pip)
    index = "https://download.pytorch.org/whl/cpu"
    monkeypatch.setenv(run.TORCH_INDEX, index)
    run.set_up(frozenset({"dev"}))
    monkeypatch.delenv(run.TORCH_INDEX)
    run.set_up(frozenset({"dev"}))
    assert torch == [[index]], "no second set-up, and none with CUDA"
    monkeypatch.setenv(run.TORCH_INDEX, "")
    run.set_up(frozenset())
    assert torch[1:] == [["--force-reinstall"]], "the same version lies there"
    assert run.read_stamp(stamp).extras == {"dev"}, "what was there stays"
    monkeypatch.setenv(run.TORCH_INDEX, index)
    monkeypatch.setattr(run.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(run.SetupError):
        run.set_up(frozenset())
    monkeypatch.setattr(run.subprocess, "run", pip)
    monkeypatch.setenv(run.TORCH_INDEX, "")
    run.set_up(frozenset())
    assert torch[2:] == [["--force-reinstall"]], "whichever lies there after the failure"
    assert run.read_stamp(stamp) == run.Done(run.environment_key(clone, run.platform.python_version(), ""), {"dev"}, "")
    del torch[2:]
    stamp.write_text(json.dumps({"key": "of before indices were kept", "extras": []}))
    monkeypatch.setenv(run.TORCH_INDEX, index)
    run.set_up(frozenset())
    assert torch[2:] == [[index]]


@pytest.mark.skipif(os.name != "posix", reason="Windows cannot put one program in another's place")
def test_the_viewer_takes_the_place_of_run_py_so_that_a_signal_reaches_it(repository: Path) -> None:
    job = [sys.executable, "-c", "import os; print(os.getpid(), flush=True); os.kill(os.getppid(), 0)"]
    code = f"import sys; sys.path.insert(0, {str(repository)!r}); import run; sys.exit(run.become({job!r}))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as started:
        assert int(started.communicate()[0]) == started.pid


def test_help_and_wrong_commands(repository: Path) -> None:
    def answer(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, repository / "run.py", *arguments], capture_output=True, text=True)

    helped = answer("--help")
    assert helped.returncode == 0
    assert "run.py demo [--headless]" in helped.stdout
    assert "Research use only" in helped.stdout
    assert answer().returncode == 2
    wrong = answer("dmeo")
    assert wrong.returncode == 2
    assert "unknown command 'dmeo'" in wrong.stdout


def test_run_py_needs_the_standard_library_only(repository: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(repository)!r}); import run, json; print(json.dumps(list(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    rooms = {name.split(".")[0] for name in json.loads(loaded.stdout)} - {"run", "__main__"}
    assert {name for name in rooms if not name.startswith("_")} <= sys.stdlib_module_names
