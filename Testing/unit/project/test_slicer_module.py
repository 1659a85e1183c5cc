"""MedRationale.py with Slicer's classes stood in for: what it reads, calls, shows and refuses.

The layout of panels and the real classes are a matter for Testing/slicer, which runs inside Slicer.
"""

from __future__ import annotations

import importlib.util
import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class FakeLayout:
    def __init__(self) -> None:
        self.widgets: list[Any] = []

    def addWidget(self, widget: Any) -> None:  # noqa: N802
        self.widgets.append(widget)

    def addStretch(self, stretch: int) -> None:  # noqa: N802
        assert stretch == 1


class FakeLabel:
    def __init__(self, text: str) -> None:
        self.text, self.wordWrap = text, False

    def setTextInteractionFlags(self, flags: object) -> None:  # noqa: N802
        self.flags = flags


class FakeModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent


class FakeWidget:
    def setup(self) -> None:
        self.layout = FakeLayout()


class FakeTest(unittest.TestCase):
    __test__ = False  # a base class, not a test for pytest to collect

    def runTest(self) -> None:  # noqa: N802
        raise AssertionError("the module defines its own")


def module_of(name: str, **members: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module


Opener = Callable[[tuple[int, int]], ModuleType]


@pytest.fixture
def opened(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Opener:
    """Loads MedRationale.py in a stand-in for Slicer of the given version."""

    def load(version: tuple[int, int]) -> ModuleType:
        app = SimpleNamespace(majorVersion=version[0], minorVersion=version[1])
        qt = module_of(
            "qt", QLabel=FakeLabel, Qt=SimpleNamespace(TextInteractionFlag=SimpleNamespace(TextSelectableByMouse=1))
        )
        slicer = module_of("slicer", app=app, mrmlScene=SimpleNamespace(Clear=lambda: None), __path__=[])
        classes = module_of(
            "slicer.ScriptedLoadableModule",
            ScriptedLoadableModule=FakeModule,
            ScriptedLoadableModuleLogic=object,
            ScriptedLoadableModuleTest=FakeTest,
            ScriptedLoadableModuleWidget=FakeWidget,
        )
        for module in (qt, slicer, module_of("slicer.i18n", tr=lambda text: text), classes):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(sys, "path", [str(repository), *sys.path])
        path = repository / "MedRationale" / "MedRationale.py"
        spec = importlib.util.spec_from_file_location("MedRationale_under_test", path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return load


def test_module_describes_itself(opened: Opener) -> None:
    parent = SimpleNamespace()
    opened((5, 12)).MedRationale(parent)
    assert parent.title == "MedRationale"
    assert parent.categories == ["Segmentation"]
    assert "Research use only" in parent.helpText
    assert "ICML 2025" in parent.acknowledgementText


def test_panel_shows_version_notice_and_the_console_call(opened: Opener) -> None:
    import MedRationaleLogic

    widget = opened((5, 13)).MedRationaleWidget()
    widget.setup()
    text = "\n".join(label.text for label in widget.layout.widgets)
    assert f"MedRationale {MedRationaleLogic.__version__}." in text
    assert "Research use only" in text
    assert "explainFiles('t2w.nii.gz'" in text


@pytest.mark.parametrize("version", [(5, 8), (5, 11), (4, 13)])
def test_old_slicer_is_refused_in_words(opened: Opener, version: tuple[int, int], tmp_path: Path) -> None:
    module = opened(version)
    widget = module.MedRationaleWidget()
    widget.setup()
    expected = f"MedRationale needs Slicer 5.12 or later, and this is {version[0]}.{version[1]}"
    assert [label.text.startswith(expected) for label in widget.layout.widgets] == [True]
    with pytest.raises(RuntimeError, match=r"needs Slicer 5\.12 or later"):
        module.MedRationaleLogic().explainFiles("t2w.nii.gz", None, None, tmp_path / "out")


@pytest.mark.parametrize("version", [(5, 12), (5, 13), (6, 0)])
def test_newer_slicer_is_welcome(opened: Opener, version: tuple[int, int]) -> None:
    assert opened(version).slicerProblem(version) is None


def test_explaining_reads_explains_and_writes(opened: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[tuple[str, Any]] = []

    def read_study(**files: object) -> str:
        called.append(("read", files))
        return "study"

    def explain(study: str) -> str:
        called.append(("explain", study))
        return "explanation"

    def write_results(explanation: str, folder: Path) -> Path:
        called.append(("write", explanation))
        return folder / "report.html"

    module = opened((5, 12))
    for fake in (
        module_of("MedRationaleLogic", explain=explain, __path__=[]),
        module_of("MedRationaleLogic.imaging", __path__=[]),
        module_of("MedRationaleLogic.imaging.study", read_study=read_study),
        module_of("MedRationaleLogic.export", write_results=write_results),
    ):
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
    report = module.MedRationaleLogic().explainFiles("t.nii.gz", "a.nii.gz", None, str(tmp_path / "out"))
    assert report == str(tmp_path / "out" / "report.html")
    assert called == [
        ("read", {"t2w": "t.nii.gz", "adc": "a.nii.gz", "hbv": None}),
        ("explain", "study"),
        ("write", "explanation"),
    ]


def test_its_own_tests_pass(opened: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = unittest.TestResult()
    opened((5, 12)).MedRationaleTest("runTest").run(outcome)
    assert outcome.testsRun == 1
    assert [text for _, text in outcome.errors + outcome.failures] == []


def test_nothing_heavy_is_imported_when_slicer_starts(opened: Opener, repository: Path) -> None:
    text = (repository / "MedRationale" / "MedRationale.py").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    allowed = {"__future__", "sys", "pathlib", "qt", "slicer"}
    assert {line.split()[1].split(".")[0] for line in lines} <= allowed
