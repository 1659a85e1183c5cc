"""The bench: the Slicer module's own file, run without Slicer; it cannot show what is Slicer's C++ (see below).

`MedRationale/MedRationale.py` and its .ui are loaded unchanged. `qt` is PySide6 with PythonQt's semantics, `slicer` is
slicer-core (PyPI) with its real scene, nodes, logics, displayable managers and `slicer.util`; the views are rendered
off-screen. The few ctk and qMRML widgets, `slicer.app`, the module classes and the parameter node wrapper are stand-ins
of this folder.

    with Bench() as bench:
        bench.ui.t2wSelector.setCurrentNode(node)
        bench.answers.append("Yes")                      # for the next modal box; one that finds no answer raises
        bench.click(bench.ui.explainButton)
        bench.process(10, until=lambda: not bench.widget.desk.busy)
        bench.screenshot("panel.png")

What it cannot show: that PythonQt calls a C++ overload as PySide6 does (PythonQt takes no keyword arguments, PySide6
does); that Python threads starve under Slicer's event loop; the looks of Slicer's style and of its real qMRML and ctk
widgets; the Segment Editor, the subject hierarchy's Qt plugins, the DICOM browser; mouse and keys through Qt in the
views (VTK's interactor works); rendering on a graphics card; translucent surfaces in 3D (left out of its pictures);
anything of Slicer's C++ that is newer than slicer-core.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace, TracebackType
from typing import Any, TypeVar

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
import slicer.util
import trame_slicer.resources
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from Testing.bench import application as app_module
from Testing.bench import parameters, pythonqt, scripted, widgets
from Testing.bench.pythonqt import BenchError, Desk, Message, Patches, UnansweredBox
from Testing.bench.views import LayoutManager

__all__ = ["Bench", "BenchError", "Message", "UnansweredBox", "click_through"]

T = TypeVar("T")
MODULE = Path(__file__).resolve().parents[2] / "MedRationale" / "MedRationale.py"
TICK_MS = 5


def click_through() -> ModuleType:
    """Testing/slicer/click_through.py as a module: it runs inside Slicer, so its folder is no package."""
    path = MODULE.parents[1] / "Testing" / "slicer" / "click_through.py"
    spec = importlib.util.spec_from_file_location("click_through", path)
    if spec is None or spec.loader is None:
        raise BenchError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _package_modules() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "MedRationaleLogic"}


class Heartbeat:
    """A 5 ms timer that measures how long the event loop stood still between two of its ticks."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self.wall = self.cpu = 0.0
        self._timer = QtCore.QTimer()
        self._timer.setTimerType(QtCore.Qt.TimerType.PreciseTimer)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._tick)

    def start(self) -> None:
        self._last = time.perf_counter(), time.thread_time()
        self._timer.start()

    def stop(self) -> None:
        self._tick()
        self._timer.stop()
        self._last = None

    def _tick(self) -> None:
        now = time.perf_counter(), time.thread_time()
        if self._last is not None:
            self.wall = max(self.wall, now[0] - self._last[0])
            self.cpu = max(self.cpu, now[1] - self._last[1])
        self._last = now


class Bench:
    """A stand-in for a running Slicer with one scripted module open in it.

    Args:
        size: of the main window in pixels.
        module: the scripted module's file.
        panel_width: of the module panel in pixels; Slicer's is about 500.
        testing: what `slicer.app.testingEnabled()` says. As in Slicer, True makes `slicer.util`'s boxes answer by
            themselves.
        developer: Slicer's developer mode: a section "Reload & Test" on top.
        select: open the module at once; otherwise `slicer.util.selectModule` does.
        settings: what Slicer's settings hold at start, written to a temporary ini file.
        setup: called with the bench before the module is loaded, for what must be in the scene or on the path then.

    Attributes:
        module: the Python module of the file.
        widget: its widget's Python side; `panel` the Qt side; `ui` what `widget.ui` is.
        answers: what the next modal boxes will be answered: a button's caption, True or False, a standard button, a
            path, a text, None for cancel, or a function that is given the box.
        messages: the boxes that were opened, as `Message`.
        pip: calls of `slicer.packaging` that would have installed something; `pip_code` is what pip ends with, and
            `pip_satisfied` answers `pip_check`.
        errors: exceptions that reached Qt or VTK; `process`, `call` and leaving the bench raise them.
        vtk_errors: errors that VTK reported.
        longest_block: the longest time in seconds that the event loop stood still since `reset_block()`;
            `longest_block_cpu` the same in CPU time of this thread, which other processes do not disturb.

    Only one bench at a time can be open in a process.
    """

    _open: Bench | None = None

    def __init__(
        self,
        size: tuple[int, int] = (1600, 1000),
        module: Path | str = MODULE,
        *,
        panel_width: int = 520,
        testing: bool = False,
        developer: bool = False,
        select: bool = True,
        settings: dict[str, Any] | None = None,
        setup: Callable[[Bench], None] | None = None,
    ) -> None:
        self.size, self.path, self.panel_width = size, Path(module).resolve(), panel_width
        self._testing, self._select, self._before = testing, select, setup
        self._settings = {"Developer/DeveloperMode": developer, **(settings or {})}
        self._desk, self._patches = Desk(), Patches()
        self.answers, self.messages = self._desk.answers, self._desk.messages
        self.pip: list[scripted.PipCall] = []
        self.pip_satisfied: Callable[[Any], bool] = lambda requirements: True
        self.pip_code = 0
        self.errors: list[BaseException] = []
        self.vtk_errors: list[str] = []

    # ------------------------------------------------------------------------------------------------ opening, closing

    def __enter__(self) -> Bench:
        if Bench._open is not None:
            raise BenchError("another bench is open; close it first")
        Bench._open = self
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._leave_module()
        finally:
            self._end()
        if error is None:
            self.check()

    def _start(self) -> None:
        self._package = _package_modules()
        self._folder = app_module.temporary_folder()
        folder = Path(self._folder.name)
        self.qapp = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
        self.qapp.setStyle("Fusion")
        self.qapp.setApplicationName("Slicer")
        self.qapp.setOrganizationName("NA-MIC")
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        for scope in (QtCore.QSettings.Scope.UserScope, QtCore.QSettings.Scope.SystemScope):
            QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, scope, str(folder / "settings"))
        for key, value in self._settings.items():
            QtCore.QSettings().setValue(key, value)
        self._listen()
        self.qt = pythonqt.install(self._desk, self._patches, {"QUiLoader": widgets.UiLoader})
        share = Path(str(trame_slicer.resources.resources_path()))
        self.scene, app_logic, modules = app_module.new_scene(share, folder / "home")
        self.app = app_module.Application(folder, app_logic, self.scene, self._testing)
        self._install(modules)
        self.hierarchy = app_module.Hierarchy(self.scene)
        self.window = app_module.qSlicerMainWindow(self.size, self.panel_width)
        selector = app_module.ModuleSelector(self.app.moduleManager(), self.window.show_module)
        self.window._selector = selector
        self.app._layout = self.layout = LayoutManager(self.scene, app_logic, self.window._views)
        self.window.show()
        self._heart = Heartbeat()
        if self._before is not None:
            self._before(self)
        self._load()
        self.app.emit("startupCompleted()")
        if self._select:
            slicer.util.selectModule(self.name)
        self.process(0)

    def _listen(self) -> None:
        def heard(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> None:
            self.errors.append(error)
            traceback.print_exception(kind, error, tb)

        self._patches.set(sys, "excepthook", heard)
        self._vtk_window = vtk.vtkOutputWindow.GetInstance()
        window = vtk.vtkOutputWindow()
        window.SetDisplayModeToAlwaysStdErr()
        said = vtk.calldata_type(vtk.VTK_STRING)(lambda _o, _e, text: self.vtk_errors.append(text.strip()))
        window.AddObserver("ErrorEvent", said)
        vtk.vtkOutputWindow.SetInstance(window)

    def _install(self, modules: dict[str, Any]) -> None:
        patches = self._patches
        ctk = ModuleType("ctk")
        for cls in widgets.CTK:
            setattr(ctk, cls.__name__, cls)
        patches.item(sys.modules, "ctk", ctk)
        for made in (
            scripted.classes(),
            scripted.i18n(),
            parameters.module(),
            scripted.packaging(self.pip, lambda wanted: self.pip_satisfied(wanted), lambda: self.pip_code),
        ):
            patches.item(sys.modules, made.__name__, made)
            patches.set(slicer, made.__name__.partition(".")[2], made)
        for cls in (
            *widgets.QMRML,
            app_module.qSlicerScriptedLoadableModule,
            app_module.qSlicerScriptedLoadableModuleWidget,
        ):
            patches.set(slicer, cls.__name__, cls)
        modules["segmenteditor"] = app_module.SegmentEditor()
        self.modules = SimpleNamespace(**modules)
        for attribute, module in modules.items():
            self.app.moduleManager().modules[attribute] = module
        for name, value in (
            ("app", self.app),
            ("modules", self.modules),
            ("mrmlScene", self.scene),
            ("selfTests", {}),
        ):
            patches.set(slicer, name, value)
        util = slicer.util
        patches.set(util, "delayDisplay", lambda message, *args, **kwargs: self.process(0))
        patches.set(util, "pip_install", slicer.packaging.pip_install)
        patches.set(util, "pip_uninstall", slicer.packaging.pip_uninstall)
        patches.set(util, "saveScene", self._save_scene)
        patches.set(util, "loadScene", self._load_scene)
        patches.set(sys, "path", [str(self.path.parent), *sys.path])

    def _load(self) -> None:
        self.name = self.path.stem
        spec = importlib.util.spec_from_file_location(self.name, self.path)
        if spec is None or spec.loader is None:
            raise BenchError(f"{self.path} is not a Python file")
        before = set(sys.modules)
        self._patches.item(sys.modules, self.name, importlib.util.module_from_spec(spec))
        self._before_load = before
        spec.loader.exec_module(sys.modules[self.name])
        self.handle = app_module.qSlicerScriptedLoadableModule(
            self.name, self.path, lambda: getattr(sys.modules[self.name], f"{self.name}Widget")
        )
        self.app.moduleManager().modules[self.name.lower()] = self.handle
        setattr(self.modules, self.name.lower(), self.handle)
        instance = getattr(self.module, self.name)(self.handle)
        setattr(self.modules, f"{self.name}Instance", instance)

    def _leave_module(self) -> None:
        self._heart.stop()
        if self.app.moduleManager().module(self.name) is not None and self.handle._panel is not None:
            if self.handle._panel.isEntered:
                self.handle._panel.exit()
            self.app.moduleManager().emit("moduleAboutToBeUnloaded(QString)", self.name)
        self.app.emit("aboutToQuit()")

    def _end(self) -> None:
        if hasattr(self, "hierarchy"):
            self.hierarchy.close()
        if hasattr(self, "layout"):
            self.layout.close()
        if hasattr(self, "window"):
            for widget in self.window.findChildren(widgets.qMRMLNodeComboBox):
                widget.setMRMLScene(None)
            self.window.close()
            self.window.deleteLater()
            self.qapp.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)
        self._forget_modules()
        self._patches.undo()
        if hasattr(self, "_vtk_window"):
            vtk.vtkOutputWindow.SetInstance(self._vtk_window)
        self._folder.cleanup()
        Bench._open = None
        gc.collect()

    def _forget_modules(self) -> None:
        """The module's own files are imported afresh by the next bench: they hold on to this one's `qt`."""
        here = str(self.path.parent) + os.sep
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(here):
                del sys.modules[name]
        if any(sys.modules.get(name) is not module for name, module in self._package.items()):
            # it was reloaded: whoever imported from the package before must go on with the same classes
            for name in _package_modules():
                del sys.modules[name]
            sys.modules.update(self._package)

    # ---------------------------------------------------------------------------------------------------- what is open

    @property
    def module(self) -> ModuleType:
        return sys.modules[self.name]

    @property
    def panel(self) -> Any:
        return self.handle.widgetRepresentation()

    @property
    def widget(self) -> Any:
        return self.panel.self()

    @property
    def ui(self) -> Any:
        return self.widget.ui

    @property
    def status(self) -> str:
        """What the status bar says."""
        return str(self.window.statusBar().currentMessage())

    @property
    def visited(self) -> list[str]:
        """Modules that were selected, in order."""
        return list(self.window.moduleSelector().visited)

    # --------------------------------------------------------------------------------------------------- the event loop

    def process(self, seconds: float = 0.05, until: Callable[[], Any] | None = None) -> bool:
        """Run Qt's event loop.

        Args:
            seconds: for how long, or at most when `until` is given.
            until: asked every 5 ms; the loop ends when it is true.

        Returns:
            Whether `until` became true (True without one).

        Raises:
            The exception of a slot, timer or observer, after the loop.
        """
        loop, done = QtCore.QEventLoop(), until is None
        timer = QtCore.QTimer()
        timer.setInterval(TICK_MS)

        def look() -> None:
            nonlocal done
            if until is not None and until():
                done = True
                loop.quit()

        timer.timeout.connect(look)
        timer.start()
        QtCore.QTimer.singleShot(max(0, round(seconds * 1000)), loop.quit)
        self._heart.start()
        try:
            loop.exec()
        finally:
            self._heart.stop()
            timer.stop()
        self.check()
        return bool(done or (until is not None and until()))

    def call(self, function: Callable[[], T], seconds: float = 30.0) -> T:
        """Call a function within the event loop, so that `longest_block` counts it; its exception is raised here."""
        box: dict[str, Any] = {}

        def run() -> None:
            try:
                box["value"] = function()
            except BaseException as error:
                box["error"] = error

        QtCore.QTimer.singleShot(0, run)
        self.process(seconds, until=lambda: bool(box))
        if "error" in box:
            raise box["error"]
        return box["value"]

    def click(self, button: Any) -> None:
        """Click a button within the event loop. Raises BenchError for one that a user could not click."""
        if not button.enabled or not button.isVisibleTo(self.window):
            state = "disabled" if not button.enabled else "not visible"
            raise BenchError(f"'{button.objectName or button.text}' is {state}: a user could not click it")
        self.call(button.click)

    def reset_block(self) -> None:
        self._heart.wall = self._heart.cpu = 0.0

    @property
    def longest_block(self) -> float:
        return self._heart.wall

    @property
    def longest_block_cpu(self) -> float:
        return self._heart.cpu

    def check(self) -> None:
        """Raise the first exception that nobody caught, and forget them all."""
        if self.errors:
            first, *rest = self.errors
            self.errors.clear()
            for other in rest:
                first.add_note(f"and then {type(other).__name__}: {other}")
            raise first

    # ------------------------------------------------------------------------------------------------------ the picture

    def render(self) -> dict[str, Any]:
        """Render the views of the layout; name -> (rows, columns, 3) uint8."""
        self.process(0)
        return self.layout.render()

    def screenshot(self, path: Path | str | None = None, *, whole_panel: bool = False) -> QtGui.QImage:
        """The window as in Slicer: the panel on the left, the rendered views on the right.

        Args:
            path: a PNG file to write, if any.
            whole_panel: the panel alone, with all that one would have to scroll to.
        """
        self.window.widen()
        self.process(0.02)
        self.render()
        self.process(0.02)
        if whole_panel:
            panel, scroll = self.panel, self.window._scroll
            scroll.takeWidget()
            panel.resize(panel.width, max(panel.sizeHint.height(), panel.height))
            panel.show()
            self.process(0.02)
            picture = panel.grab()
            scroll.setWidget(panel)
        else:
            picture = self.window.grab()
        if path is not None and not picture.save(str(path), "PNG"):
            raise BenchError(f"the screenshot could not be written to {path}")
        return picture.toImage()

    # ------------------------------------------------------------------------------------------------------- the scene

    def _save_scene(self, filename: str, properties: dict[str, Any] | None = None) -> bool:
        self.scene.SetURL(str(filename))
        self.scene.SetRootDirectory(str(Path(filename).resolve().parent))
        if str(filename).endswith(".mrb"):
            return bool(self.scene.WriteToMRB(str(filename), None))
        return bool(self.scene.Commit())

    def _load_scene(self, filename: str, properties: dict[str, Any] | None = None) -> bool:
        if str(filename).endswith(".mrb"):
            return bool(self.scene.ReadFromMRB(str(filename), bool((properties or {}).get("clear", False))))
        self.scene.SetURL(str(filename))
        return bool(self.scene.Connect() if (properties or {}).get("clear") else self.scene.Import())
