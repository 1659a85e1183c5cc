"""Stand-ins for the few ctk and qMRML widgets that a .ui of ours uses, and a QUiLoader that makes them.

Only what a panel touches is here: names, properties, signals and what the user sees. Anything else fails with an
AttributeError, so that a test cannot pass by accident.
"""

# ruff: noqa: N801, N802, N805, N815

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import vtk
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

Property, Signal = QtCore.Property, QtCore.Signal


class qMRMLWidget(QtWidgets.QWidget):
    """A container that knows the scene and tells its children by a signal (the .ui connects it)."""

    _stands_for_cpp = True
    mrmlSceneChanged = Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Lets the user choose a node of the scene; follows nodes that come, go and are renamed.

    As in Slicer: without `noneEnabled` the first suitable node is taken by itself; with it nothing is, until chosen.
    """

    _stands_for_cpp = True
    currentNodeChanged = Signal((object,), (bool,))
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    nodeActivated = Signal(object)
    EVENTS = ("EndBatchProcessEvent", "EndImportEvent", "EndCloseEvent")

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._tags: list[tuple[Any, int]] = []
        self._watched: list[tuple[Any, int]] = []
        self._node: Any = None
        self._types: list[str] = []
        self._hidden_types: list[str] = []
        self._attributes: dict[str, dict[str, Any]] = {}
        self._flags = {
            "noneEnabled": False,
            "addEnabled": True,
            "removeEnabled": True,
            "editEnabled": False,
            "renameEnabled": False,
            "showChildNodeTypes": True,
            "showHidden": False,
            "selectNodeUponCreation": True,
        }
        self._none_text, self._base_name = "None", ""
        self._box = QtWidgets.QComboBox(self)
        self._box.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._box.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._box.activated.connect(self._activated)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._fill()

    # what the .ui sets

    def _get(name: str) -> Any:  # type: ignore[misc]
        return lambda self: self._flags[name]

    def _set(name: str) -> Any:  # type: ignore[misc]
        def write(self: Any, value: bool) -> None:
            self._flags[name] = bool(value)
            self._fill()

        return write

    noneEnabled = Property(bool, _get("noneEnabled"), _set("noneEnabled"))
    addEnabled = Property(bool, _get("addEnabled"), _set("addEnabled"))
    removeEnabled = Property(bool, _get("removeEnabled"), _set("removeEnabled"))
    editEnabled = Property(bool, _get("editEnabled"), _set("editEnabled"))
    renameEnabled = Property(bool, _get("renameEnabled"), _set("renameEnabled"))
    showChildNodeTypes = Property(bool, _get("showChildNodeTypes"), _set("showChildNodeTypes"))
    showHidden = Property(bool, _get("showHidden"), _set("showHidden"))
    selectNodeUponCreation = Property(bool, _get("selectNodeUponCreation"), _set("selectNodeUponCreation"))
    setNoneEnabled, setAddEnabled = _set("noneEnabled"), _set("addEnabled")
    setRemoveEnabled, setRenameEnabled = _set("removeEnabled"), _set("renameEnabled")
    setShowChildNodeTypes, setEditEnabled = _set("showChildNodeTypes"), _set("editEnabled")
    setSelectNodeUponCreation, setShowHidden = _set("selectNodeUponCreation"), _set("showHidden")

    def _get_types(self) -> list[str]:
        return list(self._types)

    def setNodeTypes(self, types: Any) -> None:
        self._types = [str(kind) for kind in types]
        self._fill()

    nodeTypes = Property("QStringList", _get_types, setNodeTypes)

    def _get_hidden(self) -> list[str]:
        return list(self._hidden_types)

    def setHideChildNodeTypes(self, types: Any) -> None:
        self._hidden_types = [str(kind) for kind in types]
        self._fill()

    hideChildNodeTypes = Property("QStringList", _get_hidden, setHideChildNodeTypes)

    def _get_none(self) -> str:
        return self._none_text

    def setNoneDisplay(self, text: str) -> None:
        self._none_text = text
        self._fill()

    noneDisplay = Property(str, _get_none, setNoneDisplay)

    def _get_base(self) -> str:
        return self._base_name

    def setBaseName(self, text: str) -> None:
        self._base_name = text

    baseName = Property(str, _get_base, setBaseName)

    def _get_id(self) -> str:
        return self._node.GetID() if self._node is not None else ""

    def setCurrentNodeID(self, node_id: Any) -> None:
        node = self._scene.GetNodeByID(node_id) if self._scene is not None and node_id else None
        self.setCurrentNode(node)

    currentNodeID = Property(str, _get_id, setCurrentNodeID)

    # what a module calls

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        for owner, tag in self._tags + self._watched:
            owner.RemoveObserver(tag)
        self._tags, self._watched, self._scene = [], [], scene
        if scene is not None:
            added = vtk.calldata_type(vtk.VTK_OBJECT)(lambda _scene, _event, node: self._added(node))
            removed = vtk.calldata_type(vtk.VTK_OBJECT)(lambda _scene, _event, node: self._about_to_go(node))
            self._watch(scene.NodeAddedEvent, added)
            self._watch(scene.NodeAboutToBeRemovedEvent, removed)
            self._watch(scene.NodeRemovedEvent, lambda *_: self._fill())
            for name in self.EVENTS:
                self._watch(getattr(scene, name), lambda *_: self._fill())
        self._fill()

    def currentNode(self) -> Any:
        return self._node

    def setCurrentNode(self, node: Any) -> None:
        if isinstance(node, str):
            self.setCurrentNodeID(node)
            return
        self._choose(node if node is None or self._fits(node) else None)

    def nodeCount(self) -> int:
        return len(self._nodes())

    def nodeFromIndex(self, index: int) -> Any:
        nodes = self._nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        self._attributes.setdefault(node_type, {})[name] = value
        self._fill()

    def addNode(self, node_type: str | None = None) -> Any:
        kind = node_type or self._types[0]
        node = self._scene.AddNewNodeByClass(kind, self._scene.GenerateUniqueName(self._base_name or kind[7:-4]))
        for name, value in self._attributes.get(kind, {}).items():
            node.SetAttribute(name, str(value) if value is not None else "1")
        if self._flags["selectNodeUponCreation"]:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        if self._node is not None:
            self._scene.RemoveNode(self._node)

    def renameCurrentNode(self) -> None:
        name = QtWidgets.QInputDialog.getText(self, "Rename", "New name:", 0, self._node.GetName())
        if name:
            self._node.SetName(name)

    # how it follows the scene

    def _watch(self, event: int, call: Callable[..., None]) -> None:
        self._tags.append((self._scene, self._scene.AddObserver(event, call)))

    def _fits(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self._flags["showHidden"]:
            return False
        if any(node.IsA(kind) for kind in self._hidden_types):
            return False
        children = self._flags["showChildNodeTypes"]
        fitting = [kind for kind in self._types if (node.IsA(kind) if children else node.GetClassName() == kind)]
        for kind in fitting:
            wanted = self._attributes.get(kind, {})
            if all(node.GetAttribute(n) is not None and v in (None, node.GetAttribute(n)) for n, v in wanted.items()):
                return True
        return False

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        every = (self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes()))
        return [node for node in every if self._fits(node)]

    def _added(self, node: Any) -> None:
        if node is not None and self._fits(node) and not self._scene.IsBatchProcessing():
            self._fill()
            self.nodeAdded.emit(node)

    def _about_to_go(self, node: Any) -> None:
        if node is not None and self._fits(node):
            self.nodeAboutToBeRemoved.emit(node)

    def _fill(self) -> None:
        nodes = self._nodes()
        for owner, tag in self._watched:
            owner.RemoveObserver(tag)
        self._watched = [(node, node.AddObserver("ModifiedEvent", self._renamed)) for node in nodes]
        chosen = self._node if self._node in nodes else None
        if chosen is None and nodes and not self._flags["noneEnabled"]:
            chosen = nodes[0]
        self._choose(chosen)

    def _renamed(self, node: Any, _event: str) -> None:
        for row in range(self._box.count):
            if self._box.itemData(row) == node.GetID() and self._box.itemText(row) != node.GetName():
                self._show()
                return

    def _choose(self, node: Any) -> None:
        changed, self._node = node is not self._node, node
        self._show()
        if changed:
            self.currentNodeChanged[object].emit(node)
            self.currentNodeChanged[bool].emit(node is not None)
            self.currentNodeIDChanged.emit(self._get_id())

    def _show(self) -> None:
        box = self._box
        blocked = box.blockSignals(True)
        box.clear()
        if self._flags["noneEnabled"]:
            box.addItem(self._none_text, "")
        for node in self._nodes():
            box.addItem(node.GetName() or "", node.GetID())
        row = box.findData(self._get_id())
        box.setCurrentIndex(row)
        for caption, action, wanted in self._actions():
            if wanted:
                box.addItem(caption, action)
        box.setCurrentIndex(row)
        box.blockSignals(blocked)

    def _actions(self) -> list[tuple[str, Any, bool]]:
        scene, types, any_node = self._scene is not None, bool(self._types), self._node is not None
        kind = self._types[0][7:-4] if types else ""
        return [
            (f"Create new {self._base_name or kind}", {"do": "addNode"}, self._flags["addEnabled"] and scene and types),
            (f"Rename current {kind}", {"do": "renameCurrentNode"}, self._flags["renameEnabled"] and any_node),
            (f"Delete current {kind}", {"do": "removeCurrentNode"}, self._flags["removeEnabled"] and any_node),
        ]

    def _activated(self, row: int) -> None:
        data = self._box.itemData(row)
        if isinstance(data, dict):
            getattr(self, data["do"])()
            self._show()
            return
        self.setCurrentNodeID(data)
        self.nodeActivated.emit(self._node)


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A headline with a layout under it; collapsed, it hides the widgets of the layout."""

    _stands_for_cpp = True
    contentsCollapsed = Signal(bool)

    def __init__(self, *args: Any) -> None:
        super().__init__(next((arg for arg in args if isinstance(arg, QtWidgets.QWidget)), None))
        self._shown_again: set[QtWidgets.QWidget] = set()
        self._collapsed = False
        for arg in args:
            if isinstance(arg, str):
                self.setText(arg)
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Preferred, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self._headline(), 0, 0)
        self.toggled.connect(lambda on: self._collapse(not on))

    def _headline(self) -> int:
        return QtGui.QFontMetrics(QtWidgets.QApplication.font()).height() + 10

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def setCollapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = Property(bool, _get_collapsed, setCollapsed)
    # Looks that the bench takes note of and does not draw.
    contentsFrameShape = Property(int, lambda self: 0, lambda self, shape: None)
    flat = Property(bool, lambda self: False, lambda self, flat: None)

    def _contents(self) -> list[QtWidgets.QWidget]:
        return [child for child in self.children() if isinstance(child, QtWidgets.QWidget)]

    def _collapse(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        if collapsed:
            self._shown_again = {child for child in self._contents() if not child.isHidden()}
            self._collapsed = True
            for child in self._shown_again:
                child.hide()
        else:
            self._collapsed = False
            for child in self._contents():
                if child in self._shown_again:
                    child.show()
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        child = event.child()
        if event.added() and isinstance(child, QtWidgets.QWidget):
            child.installEventFilter(self)
        super().childEvent(event)

    def eventFilter(self, child: QtCore.QObject, event: QtCore.QEvent) -> bool:
        # A widget shown while the headline is collapsed waits for it to open.
        if self._collapsed and event.type() == QtCore.QEvent.Type.ShowToParent and child.parent() is self:
            self._shown_again.add(child)
            child.hide()
        return False

    def hitButton(self, position: QtCore.QPoint) -> bool:
        return position.y() < self._headline()

    def sizeHint(self) -> QtCore.QSize:
        inside = QtCore.QSize(0, 0)
        if self.layout() is not None and not self._collapsed:
            inside = self.layout().totalSizeHint()
        text = QtGui.QFontMetrics(self.font).horizontalAdvance(self.text) + 40
        return QtCore.QSize(max(text, inside.width()), max(self._headline(), inside.height()))

    def minimumSizeHint(self) -> QtCore.QSize:
        inside = QtCore.QSize(0, 0)
        if self.layout() is not None and not self._collapsed:
            inside = self.layout().totalMinimumSize()
        return QtCore.QSize(inside.width(), max(self._headline(), inside.height()))

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtGui.QPainter(self)
        head = QtCore.QRect(0, 0, self.width, self._headline())
        painter.fillRect(head, self.palette.color(QtGui.QPalette.ColorRole.Midlight))
        option = QtWidgets.QStyleOption()
        option.initFrom(self)
        option.rect = QtCore.QRect(6, head.height() // 2 - 5, 10, 10)
        element = QtWidgets.QStyle.PrimitiveElement
        arrow = element.PE_IndicatorArrowRight if self._collapsed else element.PE_IndicatorArrowDown
        self.style().drawPrimitive(arrow, option, painter, self)
        painter.setPen(self.palette.color(QtGui.QPalette.ColorRole.ButtonText))
        painter.drawText(head.adjusted(24, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, self.text)
        painter.end()


class ctkPathLineEdit(QtWidgets.QWidget):
    """A path and a button to browse for it."""

    _stands_for_cpp = True
    currentPathChanged = Signal(str)
    Dirs, Files, Drives, NoSymLinks, Readable, Writable, Executable, Hidden = 1, 2, 4, 8, 16, 32, 64, 256

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._filters, self._names, self._label, self._key = self.Files, [], "", ""
        self._line = QtWidgets.QLineEdit(self)
        self._line.textChanged.connect(self.currentPathChanged)
        button = QtWidgets.QToolButton(self)
        button.setText("...")
        button.clicked.connect(self.browse)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line)
        layout.addWidget(button)

    def _get_path(self) -> str:
        return self._line.text

    def setCurrentPath(self, path: Any) -> None:
        self._line.setText(str(path))

    currentPath = Property(str, _get_path, setCurrentPath)

    def _get_filters(self) -> int:
        return self._filters

    def setFilters(self, filters: int) -> None:
        self._filters = int(filters)

    filters = Property(int, _get_filters, setFilters)

    def _get_names(self) -> list[str]:
        return list(self._names)

    def setNameFilters(self, names: Any) -> None:
        self._names = [str(name) for name in names]

    nameFilters = Property("QStringList", _get_names, setNameFilters)

    def _get_label(self) -> str:
        return self._label

    def _set_label(self, label: str) -> None:
        self._label = label

    label = Property(str, _get_label, _set_label)

    def _get_key(self) -> str:
        return self._key

    def _set_key(self, key: str) -> None:
        self._key = key

    settingKey = Property(str, _get_key, _set_key)

    def addCurrentPathToHistory(self) -> None:
        """Slicer keeps a history under `settingKey`; nobody reads it on the bench."""

    def browse(self) -> None:
        title = self._label or "Select"
        if self._filters & self.Dirs:
            chosen = QtWidgets.QFileDialog.getExistingDirectory(self, title, self._line.text)
        else:
            name = "getSaveFileName" if self._filters & self.Writable else "getOpenFileName"
            chosen = getattr(QtWidgets.QFileDialog, name)(self, title, self._line.text, ";;".join(self._names))
        if chosen:
            self.setCurrentPath(chosen)


class ctkMessageBox(QtWidgets.QMessageBox):
    """What slicer.util's displays open; "don't show again" is never set."""

    _stands_for_cpp = True
    dontShowAgainVisible = Property(bool, lambda self: False, lambda self, on: None)
    dontShowAgainSettingsKey = Property(str, lambda self: "", lambda self, key: None)


CTK = (ctkCollapsibleButton, ctkPathLineEdit, ctkMessageBox)
QMRML = (qMRMLWidget, qMRMLNodeComboBox)
BY_NAME = {cls.__name__: cls for cls in CTK + QMRML}


class UiLoader(QtUiTools.QUiLoader):
    """`qt.QUiLoader` that makes the stand-ins too.

    Qt's own cannot connect signals that carry VTK objects, nor read enums of classes made in Python: both are taken
    out of the text before Qt reads it, and done here. An unknown widget class is an error, not a blank.
    """

    def __init__(self, parent: Any = None) -> None:
        # Without its plugins: those of PySide6's addons load a whole web browser, for none of our widgets.
        paths = QtCore.QCoreApplication.libraryPaths()
        QtCore.QCoreApplication.setLibraryPaths([])
        super().__init__(parent)
        QtCore.QCoreApplication.setLibraryPaths(paths)
        self._made: list[Any] = []

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        made: Any
        if class_name in BY_NAME:
            made = BY_NAME[class_name](parent)
            made.setObjectName(name)
        else:
            made = super().createWidget(class_name, parent, name)
        if made is None:
            raise RuntimeError(f"the bench has no widget {class_name} (asked for by {name!r} in the .ui)")
        self._made.append(made)
        return made

    def load(self, device: QtCore.QIODevice, parent: Any = None) -> Any:
        self._made = []
        root = ET.fromstring(bytes(device.readAll().data()))
        later = [*self._take_enums(root), *self._take_connections(root)]
        unknown = {w.get("class") for w in root.iter("widget")} - set(BY_NAME) - set(self.availableWidgets())
        if unknown:
            raise RuntimeError(f"the bench has no widget {', '.join(sorted(map(str, unknown)))}")
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(root))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = super().load(buffer, parent)
        if widget is None:
            raise RuntimeError(f"Qt cannot read the .ui: {self.errorString()}")
        named = {made.objectName: made for made in self._made}
        for action in later:
            action(named)
        widget._bench_children = self._made  # the Python side of the stand-ins lives as long as the panel
        return widget

    @staticmethod
    def _take_enums(root: ET.Element) -> list[Callable[[dict[str, Any]], None]]:
        actions = []
        for element in root.iter("widget"):
            if element.get("class") not in BY_NAME:
                continue
            for prop in list(element.findall("property")):
                value = prop.find("set") if prop.find("set") is not None else prop.find("enum")
                if value is None or not (value.text or "").startswith(("ctk", "qMRML")):
                    continue
                element.remove(prop)
                flags = [part.rpartition("::")[2] for part in (value.text or "").split("|")]

                def put(
                    named: Any, owner: str = element.get("name", ""), what: str = prop.get("name", ""), f: Any = flags
                ):
                    widget = named[owner]
                    setattr(widget, what, sum(getattr(type(widget), flag) for flag in f))

                actions.append(put)
        return actions

    @staticmethod
    def _take_connections(root: ET.Element) -> list[Callable[[dict[str, Any]], None]]:
        actions = []
        block = root.find("connections")
        for element in list(block if block is not None else ()):
            read = {part: (element.findtext(part) or "") for part in ("sender", "signal", "receiver", "slot")}
            block.remove(element)  # type: ignore[union-attr]

            def join(named: dict[str, Any], c: dict[str, str] = read) -> None:
                slot = getattr(named[c["receiver"]], c["slot"].partition("(")[0])
                named[c["sender"]].connect(c["signal"], slot)

            actions.append(join)
        return actions
