"""Stand-ins for `slicer.ScriptedLoadableModule`, `slicer.i18n` and `slicer.packaging`."""

# ruff: noqa: N802

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any


class ScriptedLoadableModule:
    """What a module says of itself before it is opened."""

    def __init__(self, parent: Any) -> None:
        import qt
        import slicer

        super().__init__()
        self.parent = parent
        self.moduleName = type(self).__name__
        for suffix in (".svg", ".png"):
            icon = self.resourcePath(f"Icons/{self.moduleName}{suffix}")
            if os.path.isfile(icon):
                parent.icon = qt.QIcon(icon)
                break
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename: str) -> str:
        return os.path.join(os.path.dirname(self.parent.path), "Resources", filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        return f'<p>See <a href="https://slicer.readthedocs.io/{docPage or self.moduleName}">the documentation</a>.</p>'

    def runTest(self, msec: int = 100, **kwargs: Any) -> None:
        case = getattr(importlib.import_module(type(self).__module__), f"{self.moduleName}Test")()
        case.messageDelay = msec
        case.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    """The panel's Python side: `self.parent` is the widget, `self.layout` its layout."""

    def __init__(self, parent: Any = None) -> None:
        import qt
        import slicer

        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        alone = parent is None
        if alone:
            parent = slicer.qMRMLWidget()
            parent.setLayout(qt.QVBoxLayout())
            parent.setMRMLScene(slicer.mrmlScene)
        self.parent = parent
        self.layout = parent.layout()
        if alone:
            self.setup()
            parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)
        setattr(slicer.modules, f"{self.moduleName}Widget", self)

    def resourcePath(self, filename: str) -> str:
        import slicer

        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", filename)

    def setup(self) -> None:
        self.setupDeveloperSection()

    def cleanup(self) -> None:
        """For the module to override."""

    def _onModuleAboutToBeUnloaded(self, name: str) -> None:
        if name == self.moduleName:
            self.cleanup()

    def setupDeveloperSection(self) -> None:
        if not self.developerMode:
            return
        import ctk
        import qt

        self.reloadCollapsibleButton = ctk.ctkCollapsibleButton()
        self.reloadCollapsibleButton.text = "Reload & Test"
        self.layout.addWidget(self.reloadCollapsibleButton)
        row = qt.QHBoxLayout(self.reloadCollapsibleButton)
        self.reloadButton = qt.QPushButton("Reload")
        self.reloadButton.connect("clicked()", self.onReload)
        self.reloadTestButton = qt.QPushButton("Reload and Test")
        self.reloadTestButton.connect("clicked()", self.onReloadAndTest)
        row.addWidget(self.reloadButton)
        row.addWidget(self.reloadTestButton)

    def onReload(self) -> None:
        import slicer

        slicer.util.reloadScriptedModule(self.moduleName)

    def onReloadAndTest(self, **kwargs: Any) -> None:
        import slicer

        with slicer.util.tryWithErrorDisplay("Reload and Test failed."):
            self.onReload()
            slicer.selfTests[self.moduleName](**kwargs)


class ScriptedLoadableModuleLogic:
    """The logic's parameter node, kept in the scene."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getAllParameterNodes(self) -> list[Any]:
        import slicer

        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def getParameterNode(self) -> Any:
        import slicer

        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                node.SetAttribute("ModuleName", self.moduleName)  # closing a scene takes it away
                return node
        elif self.getAllParameterNodes():
            return self.getAllParameterNodes()[0]
        return slicer.mrmlScene.AddNode(self.createParameterNode())

    def createParameterNode(self) -> Any:
        import slicer

        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """A module's own tests; run by Reload and Test."""

    __test__ = False  # a base class, not a test for pytest to collect

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.messageDelay = 0

    def setUp(self) -> None:
        """For the module to override."""

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        import slicer

        slicer.util.delayDisplay(message, self.messageDelay)

    def runTest(self, *args: Any, **kwargs: Any) -> None:
        """For the module to override."""


def classes() -> ModuleType:
    """`slicer.ScriptedLoadableModule`."""
    made = ModuleType("slicer.ScriptedLoadableModule")
    for cls in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ):
        setattr(made, cls.__name__, cls)
    made.__all__ = [name for name in vars(made) if name.startswith("Scripted")]  # type: ignore[attr-defined]
    return made


def i18n() -> ModuleType:
    """`slicer.i18n`, untranslated."""
    made = ModuleType("slicer.i18n")
    made.tr = lambda text, context=None: text  # type: ignore[attr-defined]
    made.translate = lambda context, text: text  # type: ignore[attr-defined]
    made.getContext = lambda path: os.path.splitext(os.path.basename(path))[0]  # type: ignore[attr-defined]
    return made


@dataclass(frozen=True)
class PipCall:
    """A call that would have installed or removed packages."""

    function: str
    requirements: Any
    options: dict[str, Any]


#: Parameters of Slicer's functions: a name that Slicer does not know is refused here too.
PIP = {
    "pip_ensure": (
        "requirements", "constraints", "skip_packages", "prompt_install", "prompt_restart", "requester",
        "skip_in_testing", "show_progress",
    ),
    "pip_install": (
        "requirements", "constraints", "no_deps_requirements", "skip_packages", "blocking", "show_progress",
        "requester", "parent", "logCallback", "completedCallback",
    ),
    "pip_uninstall": ("requirements", "blocking", "logCallback", "completedCallback"),
}  # fmt: skip


def packaging(calls: list[PipCall], satisfied: Callable[[Any], bool], code: Callable[[], int]) -> ModuleType:
    """`slicer.packaging`, which installs nothing: it writes down what it was asked for.

    Args:
        calls: where the calls go.
        satisfied: what `pip_check` answers for its requirements.
        code: pip's exit code for the next call: handed to `completedCallback`, or raised as Slicer does.
    """
    made = ModuleType("slicer.packaging")

    def recorder(name: str) -> Callable[..., Any]:
        kind, none = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
        signature = inspect.Signature(
            [inspect.Parameter(word, kind, default=none if word == "requirements" else None) for word in PIP[name]]
        )

        def record(*args: Any, **kwargs: Any) -> None:
            given = dict(signature.bind(*args, **kwargs).arguments)
            requirements = given.pop("requirements")
            told = {key: value for key, value in given.items() if key not in ("logCallback", "completedCallback")}
            calls.append(PipCall(name, requirements, told))
            if given.get("completedCallback") is not None:
                given["completedCallback"](code())
            elif code():
                raise subprocess.CalledProcessError(code(), ["pip", str(requirements)])

        return record

    for name in PIP:
        setattr(made, name, recorder(name))
    made.pip_check = satisfied  # type: ignore[attr-defined]
    made.isPipInstallInProgress = lambda: False  # type: ignore[attr-defined]
    return made
