"""Stand-ins for `slicer.app`, `slicer.modules`, the main window and the module panel."""

# ruff: noqa: N801, N802, N815

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtWidgets

from Testing.bench.pythonqt import BenchError
from Testing.bench.views import LayoutManager
from Testing.bench.widgets import qMRMLWidget

VERSION = (5, 12, 3)
#: attribute of `slicer.modules` -> name, class of its logic, folder of shared files that it reads
LOGICS = {
    "colors": ("Colors", "vtkSlicerColorLogic", ""),
    "cropvolume": ("CropVolume", "vtkSlicerCropVolumeLogic", ""),
    "markups": ("Markups", "vtkSlicerMarkupsLogic", ""),
    "models": ("Models", "vtkSlicerModelsLogic", ""),
    "segmentations": ("Segmentations", "vtkSlicerSegmentationsModuleLogic", ""),
    "sequences": ("Sequences", "vtkSlicerSequencesLogic", ""),
    "subjecthierarchy": ("SubjectHierarchy", "vtkSlicerSubjectHierarchyModuleLogic", ""),
    "tables": ("Tables", "vtkSlicerTablesLogic", ""),
    "terminologies": ("Terminologies", "vtkSlicerTerminologiesModuleLogic", "terminologies"),
    "texts": ("Texts", "vtkSlicerTextsLogic", ""),
    "transforms": ("Transforms", "vtkSlicerTransformLogic", ""),
    "units": ("Units", "vtkSlicerUnitsLogic", ""),
    "volumerendering": ("VolumeRendering", "vtkSlicerVolumeRenderingLogic", ""),
    "volumes": ("Volumes", "vtkSlicerVolumesLogic", ""),
}


class Emitter:
    """Signals of objects that are no QObject on the bench: connected and disconnected by signature."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Callable[..., Any]]] = {}

    def connect(self, signal: str, call: Callable[..., Any]) -> bool:
        self._listeners.setdefault(signal, []).append(call)
        return True

    def disconnect(self, signal: str, call: Callable[..., Any]) -> bool:
        listeners = self._listeners.get(signal, [])
        if call in listeners:
            listeners.remove(call)
            return True
        return False

    def emit(self, signal: str, *args: Any) -> None:
        for call in list(self._listeners.get(signal, [])):
            try:
                call(*args)
            except Exception:
                sys.excepthook(*sys.exc_info())  # as from any slot: told, and the others are called all the same


class CoreModule:
    """A C++ module: its logic is slicer-core's own."""

    def __init__(self, name: str, logic: Any) -> None:
        self.name = self.title = name
        self._logic = logic

    def logic(self) -> Any:
        return self._logic

    def widgetRepresentation(self) -> Any:
        raise BenchError(f"the panel of Slicer's module {self.name} is C++ and not on the bench")


class Editor:
    """qMRMLSegmentEditorWidget, as far as a module hands it a segmentation; it draws nothing."""

    def __init__(self) -> None:
        self._nodes: dict[str, Any] = {"segmentation": None, "source": None}
        self._segment, self._effect = "", ""

    def setSegmentationNode(self, node: Any) -> None:
        self._nodes["segmentation"] = node

    def segmentationNode(self) -> Any:
        return self._nodes["segmentation"]

    def setSourceVolumeNode(self, node: Any) -> None:
        self._nodes["source"] = node

    def sourceVolumeNode(self) -> Any:
        return self._nodes["source"]

    def setCurrentSegmentID(self, segment_id: str) -> None:
        self._segment = segment_id

    def currentSegmentID(self) -> str:
        return self._segment

    def setActiveEffectByName(self, name: str) -> None:
        self._effect = name


class SegmentEditor:
    """The module SegmentEditor: it can be selected and given a segmentation."""

    name = title = "SegmentEditor"

    def __init__(self) -> None:
        self.editor = Editor()

    def widgetRepresentation(self) -> SegmentEditor:
        return self


class qSlicerScriptedLoadableModule:
    """A scripted module as Slicer holds it; also the `parent` that the module's class writes its description into."""

    def __init__(self, name: str, path: Path, widget_class: Callable[[], type]) -> None:
        self.name, self.path = name, str(path)
        self.title, self.helpText, self.acknowledgementText = name, "", ""
        self.categories: list[str] = []
        self.dependencies: list[str] = []
        self.contributors: list[str] = []
        self.associatedNodeTypes: list[str] = []
        self.icon: Any = None
        self.index, self.hidden = -1, False
        self.widgetRepresentationCreationEnabled = True
        self._widget_class = widget_class
        self._panel: qSlicerScriptedLoadableModuleWidget | None = None

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        if self._panel is None:
            self._panel = qSlicerScriptedLoadableModuleWidget(self._widget_class, self.name)
            self._panel.build()
        return self._panel

    def createNewWidgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        panel = qSlicerScriptedLoadableModuleWidget(self._widget_class, self.name)
        panel.build()
        return panel

    def logic(self) -> Any:
        return self.widgetRepresentation().self().logic


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The panel: `self.parent` of the Python class, which it makes, tells of its entering and leaving, and reloads."""

    _stands_for_cpp = True

    def __init__(self, widget_class: Callable[[], type], name: str) -> None:
        super().__init__()
        self.setObjectName(f"{name}ModuleWidget")
        self.setLayout(QtWidgets.QVBoxLayout())
        self._widget_class, self._self, self._entered = widget_class, None, False
        self._module_name = name

    def _get_entered(self) -> bool:
        return self._entered

    isEntered = QtCore.Property(bool, _get_entered)

    def _get_module_name(self) -> str:
        return self._module_name

    moduleName = QtCore.Property(str, _get_module_name)

    def self(self) -> Any:
        return self._self

    def build(self) -> None:
        self._self = self._widget_class()(self)
        self.setMRMLScene(slicer.mrmlScene)
        self._self.setup()

    def reload(self) -> None:
        entered = self._entered
        self.build()
        if entered:
            self._call("enter")

    def enter(self) -> None:
        self._entered = True
        self._call("enter")

    def exit(self) -> None:
        self._entered = False
        self._call("exit")

    def _call(self, hook: str) -> None:
        if hasattr(self._self, hook):
            getattr(self._self, hook)()


class ModuleManager(Emitter):
    """`slicer.app.moduleManager()`."""

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        return self.modules.get(name.lower())

    def factoryManager(self) -> Any:
        return SimpleNamespace(loadedModuleNames=self.modulesNames, isLoaded=lambda name: name.lower() in self.modules)

    def modulesNames(self) -> list[str]:
        return [module.name for module in self.modules.values()]


class ModuleSelector:
    """`slicer.util.moduleSelector()`; `slicer.util.selectModule` goes through it."""

    def __init__(self, manager: ModuleManager, show: Callable[[Any], None]) -> None:
        self._manager, self._show = manager, show
        self.selectedModule = ""
        self.visited: list[str] = []

    def selectModule(self, name: str) -> None:
        module = self._manager.module(name)
        if module is None:
            raise BenchError(f"there is no module '{name}' on the bench; there are {self._manager.modulesNames()}")
        if name == self.selectedModule:
            return
        current = self._manager.module(self.selectedModule) if self.selectedModule else None
        if isinstance(current, qSlicerScriptedLoadableModule):
            current.widgetRepresentation().exit()
        self.selectedModule = module.name
        self.visited.append(module.name)
        self._show(module)
        if isinstance(module, qSlicerScriptedLoadableModule):
            module.widgetRepresentation().enter()


class qSlicerMainWindow(QtWidgets.QMainWindow):
    """Slicer's window as far as a screenshot needs it: the panel on the left, the views on the right, a status bar."""

    _stands_for_cpp = True

    def __init__(self, size: tuple[int, int], panel_width: int) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.setWindowTitle("3D Slicer (bench)")
        self.resize(*size)
        self._dock = QtWidgets.QDockWidget("Module", self)
        self._dock.setObjectName("PanelDockWidget")
        self._dock.setFeatures(QtWidgets.QDockWidget.DockWidgetFeature.NoDockWidgetFeatures)
        self._scroll = QtWidgets.QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._panel_width = panel_width
        self._scroll.setMinimumWidth(panel_width)
        self._scroll.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._dock.setWidget(self._scroll)
        self.addDockWidget(QtCore.Qt.DockWidgetArea.LeftDockWidgetArea, self._dock)
        self._views = QtWidgets.QWidget()
        self._views.setAutoFillBackground(True)
        self.setCentralWidget(self._views)
        self.statusBar()
        self._selector: ModuleSelector | None = None

    def moduleSelector(self) -> ModuleSelector | None:
        return self._selector

    def pythonConsole(self) -> None:
        return None

    def show_module(self, module: Any) -> None:
        self._dock.setWindowTitle(f"Module: {module.title}")
        shown = self._scroll.takeWidget()
        if shown is not None:
            shown.setParent(None)
            shown.hide()
        if isinstance(module, qSlicerScriptedLoadableModule):
            panel = module.widgetRepresentation()
            self._scroll.setWidget(panel)
            panel.show()
            self.widen()

    def widen(self) -> None:
        """As in Slicer, the panel is never narrower than what stands in it."""
        shown = self._scroll.widget()
        needed = shown.minimumSizeHint.width() + self._scroll.verticalScrollBar().sizeHint.width() if shown else 0
        self._scroll.setFixedWidth(max(self._panel_width, needed))


class Application(Emitter):
    """`slicer.app`. What is not here goes to the QApplication, as in Slicer, where it is one."""

    def __init__(self, folder: Path, app_logic: Any, scene: Any, testing: bool) -> None:
        super().__init__()
        self.majorVersion, self.minorVersion, self.patchVersion = VERSION
        self.applicationVersion = ".".join(str(part) for part in VERSION)
        self.revision, self.applicationName, self.organizationName = "bench", "Slicer", "NA-MIC"
        self.slicerHome, self.temporaryPath = str(folder / "home"), str(folder / "temporary")
        self.slicerUserSettingsFilePath = str(folder / "settings" / "Slicer.ini")
        self.cachePath, self.defaultScenePath = str(folder / "cache"), str(folder)
        for path in (self.slicerHome, self.temporaryPath, self.cachePath):
            Path(path).mkdir(parents=True, exist_ok=True)
        self._testing, self._app_logic, self._scene = testing, app_logic, scene
        self._manager = ModuleManager()
        self._options = SimpleNamespace(runPythonAndExit=False, testingEnabled=testing, noMainWindow=False)
        self._layout: LayoutManager | None = None
        self.exit_codes: list[int] = []
        self.paused = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        application = QtWidgets.QApplication.instance()
        try:
            return getattr(application, name)
        except AttributeError:
            raise AttributeError(f"slicer.app has no '{name}' on the bench") from None

    def testingEnabled(self) -> bool:
        return self._testing

    def commandOptions(self) -> Any:
        return self._options

    def applicationLogic(self) -> Any:
        return self._app_logic

    def mrmlScene(self) -> Any:
        return self._scene

    def moduleManager(self) -> ModuleManager:
        return self._manager

    def layoutManager(self) -> LayoutManager | None:
        return self._layout

    def userSettings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    settings = revisionUserSettings = userSettings

    def processEvents(self, *args: Any) -> None:
        QtWidgets.QApplication.processEvents(*args)

    def coreIOManager(self) -> FileReader:
        return FileReader()

    def pauseRender(self) -> None:
        self.paused += 1

    def resumeRender(self) -> None:
        self.paused -= 1

    def setRenderPaused(self, paused: bool) -> None:
        self.paused += 1 if paused else -1

    def pythonConsole(self) -> None:
        return None

    def startupEnvironment(self) -> dict[str, str]:
        import os

        return dict(os.environ)

    def exit(self, code: int = 0) -> None:
        self.exit_codes.append(code)

    def quit(self) -> None:
        self.exit(0)

    def restart(self) -> None:
        self.exit(0)


class FileReader:
    """`slicer.app.coreIOManager()`: volumes, segmentations and scenes, through the nodes' own storage."""

    NODES: ClassVar = {
        "VolumeFile": ("vtkMRMLScalarVolumeNode", "vtkMRMLVolumeArchetypeStorageNode"),
        "SegmentationFile": ("vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode"),
    }

    def loadNodes(self, kind: str, properties: dict[str, Any], collection: Any, *_: Any) -> bool:
        if kind not in self.NODES:
            raise BenchError(f"the bench cannot read {kind}; it can {', '.join(self.NODES)}")
        node_class, storage_class = self.NODES[kind]
        if properties.get("labelmap"):
            node_class = "vtkMRMLLabelMapVolumeNode"
        path = Path(str(properties["fileName"]))
        if not path.exists():
            return False
        name = str(properties.get("name") or path.name.partition(".")[0])
        node = slicer.mrmlScene.AddNewNodeByClass(node_class, slicer.mrmlScene.GenerateUniqueName(name))
        storage = slicer.mrmlScene.AddNewNodeByClass(storage_class)
        storage.SetFileName(str(path))
        if not storage.ReadData(node):
            slicer.mrmlScene.RemoveNode(storage)
            slicer.mrmlScene.RemoveNode(node)
            return False
        node.SetAndObserveStorageNodeID(storage.GetID())
        node.CreateDefaultDisplayNodes()
        collection.AddItem(node)
        return True


class Hierarchy:
    """Gives every new node an item in the subject hierarchy, which Slicer's Qt plugins do."""

    KINDS = ("vtkMRMLDisplayableNode", "vtkMRMLTableNode", "vtkMRMLTextNode", "vtkMRMLSequenceNode")

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        added = vtk.calldata_type(vtk.VTK_OBJECT)(lambda _s, _e, node: self._added(node))
        going = vtk.calldata_type(vtk.VTK_OBJECT)(lambda _s, _e, node: self._going(node))
        done = lambda *_: self._every()  # noqa: E731
        self._tags = [
            scene.AddObserver(scene.NodeAddedEvent, added),
            scene.AddObserver(scene.NodeAboutToBeRemovedEvent, going),
            scene.AddObserver(scene.EndImportEvent, done),
            scene.AddObserver(scene.EndBatchProcessEvent, done),
        ]

    def _node(self) -> Any:
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene)

    def _added(self, node: Any) -> None:
        if node is None or self._scene.IsImporting() or self._scene.IsBatchProcessing() or self._scene.IsClosing():
            return
        if node.GetHideFromEditors() or not any(node.IsA(kind) for kind in self.KINDS):
            return
        hierarchy = self._node()
        if hierarchy is not None and not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    def _every(self) -> None:
        for i in range(self._scene.GetNumberOfNodes()):
            self._added(self._scene.GetNthNode(i))

    def _going(self, node: Any) -> None:
        if node is None or self._scene.IsClosing() or node.IsA("vtkMRMLSubjectHierarchyNode"):
            return
        item = self._node().GetItemByDataNode(node)
        if item:
            self._node().RemoveItem(item, False, False)

    def close(self) -> None:
        for tag in self._tags:
            self._scene.RemoveObserver(tag)


def new_scene(share: Path, home: Path) -> tuple[Any, Any, dict[str, CoreModule]]:
    """A scene with what Slicer's own has at start, its application logic, and the C++ modules with their logics."""
    scene = slicer.vtkMRMLScene()
    for node in (slicer.vtkMRMLCrosshairNode(), slicer.vtkMRMLInteractionNode(), slicer.vtkMRMLSelectionNode()):
        if node.IsA("vtkMRMLCrosshairNode"):
            node.SetCrosshairName("default")
        scene.AddNode(node)
    logic = slicer.vtkSlicerApplicationLogic()
    (home / "share" / "ColorFiles").mkdir(parents=True, exist_ok=True)
    logic.SetHomeDirectory(str(home))
    logic.SetShareDirectory("share")
    logic.SetMRMLScene(scene)
    logic.GetColorLogic().SetMRMLScene(scene)
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    for kind in ("ThreeD", "Slice"):
        factory = getattr(slicer, f"vtkMRML{kind}ViewDisplayableManagerFactory")
        factory.GetInstance().SetMRMLApplicationLogic(logic)
    modules = {}
    for attribute, (name, cls, folder) in LOGICS.items():
        made = getattr(slicer, cls)()
        if hasattr(made, "SetModuleShareDirectory"):
            made.SetModuleShareDirectory(str(share / folder))
        made.SetMRMLApplicationLogic(logic)
        made.SetMRMLScene(scene)
        logic.SetModuleLogic(name, made)
        modules[attribute] = CoreModule(name, made)
    modules["remoteio"] = CoreModule("RemoteIO", _data_io(scene, logic, home / "cache"))
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    return scene, logic, modules


def _data_io(scene: Any, logic: Any, cache: Path) -> Any:
    """Slicer's data manager, without which a scene bundle (.mrb) is not read."""
    cache.mkdir(parents=True, exist_ok=True)
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.SetMRMLScene(scene)
    remote.SetMRMLApplicationLogic(logic)
    remote.GetCacheManager().SetRemoteCacheDirectory(str(cache))
    manager = slicer.vtkDataIOManagerLogic()
    manager.SetMRMLScene(scene)
    manager.SetMRMLApplicationLogic(logic)
    manager.SetAndObserveDataIOManager(remote.GetDataIOManager())
    remote.AddDataIOToScene()
    remote.manager = manager  # lives as long as the logic does
    return remote


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="medrationale-bench-")
