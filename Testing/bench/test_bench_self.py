"""The bench holds what it promises: PythonQt's semantics, the stand-ins, and pictures of real views.

A small module of the tests' own (fixtures/BenchSample) is opened on it, and then MedRationale's.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from Testing.bench.bench import Bench, BenchError, UnansweredBox

HERE = Path(__file__).parent
SAMPLE = HERE / "fixtures" / "BenchSample" / "BenchSample.py"


@pytest.fixture(scope="module")
def shared() -> Iterator[Bench]:
    with Bench((1200, 800), SAMPLE) as opened:
        yield opened


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    """The sample module, open, with an empty scene and nothing left over from the test before."""
    import slicer

    shared.answers.clear()
    shared.messages.clear()
    shared.errors.clear()
    slicer.mrmlScene.Clear()
    shared.widget.parameters.disconnectGui(shared.widget.tag)
    shared.widget.bind()
    shared.widget.heard.clear()
    yield shared
    assert shared.errors == []


def add_volume(name: str, value: float = 0.0, shape: tuple[int, int, int] = (10, 64, 64)) -> Any:
    import slicer

    array = np.full(shape, value, dtype=np.float32)
    array[shape[0] // 2, 16:48, 16:48] = 500.0
    node = slicer.util.addVolumeFromArray(array, name=name)
    node.CreateDefaultDisplayNodes()
    return node


# Properties ----------------------------------------------------------------------------------------------------------


def test_properties_are_attributes_and_their_getters_are_not_callable(bench: Bench) -> None:
    import qt

    label = qt.QLabel("before")
    assert label.text == "before"
    label.text = "after"
    assert label.text == "after"
    label.setText("set")
    assert label.text == "set"
    with pytest.raises(TypeError, match="not callable"):
        label.text()
    button = qt.QPushButton("b")
    button.enabled = False
    button.toolTip = "why"
    assert (button.enabled, button.isEnabled(), button.toolTip) == (False, False, "why")
    bar = qt.QProgressBar()
    bar.value = 40
    assert bar.value == 40
    label.alignment = qt.Qt.AlignmentFlag.AlignCenter
    assert label.alignment == qt.Qt.AlignmentFlag.AlignCenter
    assert isinstance(label.sizeHint, qt.QSize)


def test_what_qt_hands_out_behaves_alike(bench: Bench) -> None:
    import qt

    tree = bench.ui.tree
    assert tree.columnCount == 2
    tree.header().stretchLastSection = False
    assert tree.header().stretchLastSection is False
    assert bench.ui.applyButton.parentWidget().objectName == "BenchSample"
    holder = qt.QWidget()
    layout = qt.QVBoxLayout(holder)
    layout.addWidget(qt.QLabel("inside"))
    assert layout.itemAt(0).widget().text == "inside"
    assert [child.text for child in holder.findChildren("QLabel")] == ["inside"]
    assert holder.findChild(qt.QLabel).className() == "QLabel"


def test_what_pythonqt_would_refuse_is_refused(bench: Bench) -> None:
    import qt

    label = qt.QLabel()
    with pytest.raises(AttributeError, match="no property 'wordwrap'"):
        label.wordwrap = True  # the property is wordWrap
    with pytest.raises(AttributeError, match="method"):
        label.setText = None
    with pytest.raises(AttributeError, match="not writable"):
        label.sizeHint = qt.QSize(1, 1)
    for name in ("Signal", "Slot", "Property"):
        with pytest.raises(AttributeError, match=f"qt.{name}"):
            getattr(qt, name)
    timer = qt.QTimer()
    with pytest.raises(AttributeError):
        timer.singleShot = True
    with pytest.raises(BenchError, match="has no signal pressed\\(int\\)"):
        qt.QPushButton().connect("pressed(int)", print)

    class Mine(qt.QWidget):
        def __init__(self) -> None:
            super().__init__()
            self.own = 3  # a class made in Python may have its own

    assert Mine().own == 3


def test_enums_scoped_and_short(bench: Bench) -> None:
    import qt

    assert qt.Qt.ItemDataRole.UserRole == qt.Qt.UserRole
    assert qt.QMessageBox.StandardButton.Yes == qt.QMessageBox.Yes
    item = qt.QTreeWidgetItem(["a"])
    item.setData(0, qt.Qt.ItemDataRole.UserRole, {"id": 3})
    assert item.data(0, qt.Qt.UserRole) == {"id": 3}


def test_qt_is_as_it_was_when_no_bench_is_open() -> None:
    """In a process of its own: after a bench has closed, PySide6 is unpatched and Slicer's names are gone."""
    code = f"""
        import sys
        from PySide6 import QtCore, QtWidgets
        before = {{c: dict(vars(c)) for c in (QtCore.QObject, QtWidgets.QLabel, QtWidgets.QDialog, QtWidgets.QMenu)}}
        from Testing.bench.bench import Bench
        for _ in range(2):
            with Bench((800, 600), {str(SAMPLE)!r}) as bench:
                pass
        import slicer
        for cls, members in before.items():
            assert vars(cls).keys() == members.keys(), cls
            assert all(vars(cls)[name] is member for name, member in members.items() if name != "staticMetaObject"), cls
        assert QtWidgets.QLabel("x").text() == "x"
        assert not hasattr(slicer, "app") and "qt" not in sys.modules and "BenchSample" not in sys.modules
        print("unpatched")
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=HERE.parents[1], timeout=120, check=False)
    assert done.stdout.strip().endswith("unpatched"), done.stderr[-2000:]


# Signals -------------------------------------------------------------------------------------------------------------


def test_signals_by_attribute_and_by_signature(bench: Bench) -> None:
    import qt

    heard: list[Any] = []
    box = qt.QComboBox()
    box.addItem("a", 1)
    box.addItem("b", {"two": 2})

    def changed(index: int) -> None:
        heard.append(index)

    def told() -> None:
        heard.append("told")

    box.connect("currentIndexChanged(int)", changed)
    box.currentIndexChanged.connect(changed)
    box.connect("currentTextChanged(QString)", told)  # takes fewer arguments than the signal has
    box.currentIndex = 1
    assert sorted(map(str, heard)) == ["1", "1", "told"]
    assert box.itemData(1) == {"two": 2}
    box.disconnect("currentIndexChanged(int)", changed)
    blocked = box.blockSignals(True)
    box.currentIndex = 0
    box.blockSignals(blocked)
    heard.clear()
    box.currentIndex = 1
    assert sorted(map(str, heard)) == ["1", "told"]


def test_timers(bench: Bench) -> None:
    import qt

    heard = []
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.interval = 1
    timer.connect("timeout()", lambda: heard.append("timer"))
    timer.start()
    qt.QTimer.singleShot(0, lambda: heard.append("shot"))
    assert bench.process(2, until=lambda: len(heard) == 2)
    assert sorted(heard) == ["shot", "timer"]
    assert timer.active is False


def test_an_exception_in_a_slot_is_not_lost(bench: Bench) -> None:
    import qt

    def broken() -> None:
        raise KeyError("broken slot")

    qt.QTimer.singleShot(0, broken)
    with pytest.raises(KeyError, match="broken slot"):
        bench.process(0.05)


def test_process_of_qt(bench: Bench) -> None:
    import qt

    process, heard = qt.QProcess(), []
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: heard.append(code))
    process.start(sys.executable, ["-c", "print(input()[::-1]); raise SystemExit(3)"])
    process.write(b"abc\n")
    assert bench.process(20, until=lambda: heard)
    assert heard == [3]
    assert bytes(process.readAllStandardOutput().data()).strip() == b"cba"


# Modal boxes ---------------------------------------------------------------------------------------------------------


def test_a_box_without_an_answer_raises(bench: Bench) -> None:
    import qt
    import slicer

    for ask in (
        lambda: slicer.util.errorDisplay("it broke"),
        lambda: qt.QMessageBox.question(None, "title", "it broke?"),
        lambda: qt.QFileDialog.getOpenFileName(None, "it broke", ""),
        lambda: qt.QDialog().exec_(),
    ):
        started = time.monotonic()
        with pytest.raises(UnansweredBox):
            ask()
        assert time.monotonic() - started < 5
    assert len(bench.messages) == 4


def test_boxes_take_their_answers_in_turn(bench: Bench, tmp_path: Path) -> None:
    import qt
    import slicer

    util = slicer.util
    bench.answers += ["Yes", False, "OK", "ok", tmp_path, None, "a name", "Both"]
    assert util.confirmYesNoDisplay("replace?", windowTitle="Results") is True
    assert util.confirmOkCancelDisplay("go on?") is False
    assert qt.QMessageBox.information(None, "t", "so it is") == qt.QMessageBox.Ok
    util.errorDisplay("no file", detailedText="line 3")
    assert qt.QFileDialog.getExistingDirectory(None, "where", "") == str(tmp_path)
    assert qt.QFileDialog.getSaveFileName(None, "where", "", "*.html") == ""
    assert qt.QInputDialog.getText(None, "Rename", "New name:") == "a name"
    box = qt.QMessageBox()
    box.text = "which?"
    box.addButton("One", qt.QMessageBox.ButtonRole.AcceptRole)
    both = box.addButton("Both", qt.QMessageBox.ButtonRole.AcceptRole)
    box.exec_()
    assert box.clickedButton() is both
    assert [message.kind for message in bench.messages] == [
        "question", "question", "info", "error", "file", "file", "input", "box",
    ]  # fmt: skip
    assert (bench.messages[0].text, bench.messages[0].title) == ("replace?", "Results")
    assert bench.messages[3].detail == "line 3"
    assert bench.answers == []


def test_a_wrong_answer_is_told(bench: Bench) -> None:
    import slicer

    bench.answers.append("Perhaps")
    with pytest.raises(BenchError, match="was answered 'Perhaps'"):
        slicer.util.confirmYesNoDisplay("sure?")


def test_dialogs_and_menus_may_be_worked_by_a_function(bench: Bench) -> None:
    import qt

    dialog = qt.QDialog()
    dialog.windowTitle = "Sign"
    line = qt.QLineEdit(dialog)

    def fill(shown: Any) -> bool:
        line.text = "A. Reader"
        return True

    bench.answers += [fill, "Second"]
    assert dialog.exec_() == 1
    assert line.text == "A. Reader"
    menu, heard = qt.QMenu(), []
    menu.addAction("First")
    menu.addAction("Second").connect("triggered(bool)", lambda: heard.append("second"))
    assert menu.exec_(qt.QPoint(0, 0)).text == "Second"
    assert heard == ["second"]


# Slicer's widgets ----------------------------------------------------------------------------------------------------


def test_node_box_follows_the_scene(bench: Bench) -> None:
    import slicer

    box = bench.ui.t2w
    assert box.currentNode() is None
    first, second = add_volume("first"), add_volume("second")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "a label map")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "a segmentation")
    drop_down = box.findChildren("QComboBox")[0]
    assert [drop_down.itemText(i) for i in range(3)] == ["None", "first", "second"]
    assert box.nodeCount() == 2
    assert box.currentNode() is None, "with noneEnabled nothing is taken by itself"
    box.setCurrentNode(second)
    assert (box.currentNodeID, drop_down.currentText) == (second.GetID(), "second")
    second.SetName("renamed")
    assert drop_down.currentText == "renamed"
    slicer.mrmlScene.RemoveNode(second)
    assert box.currentNode() is None
    box.setCurrentNode(first)
    assert bench.widget.heard == [("node", second), ("node", None), ("node", first)]
    slicer.mrmlScene.Clear()
    assert box.currentNode() is None
    assert box.nodeCount() == 0


def test_node_box_without_none_takes_the_first_and_its_menu_works(bench: Bench) -> None:
    import slicer

    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLSegmentationNode"]
    box.renameEnabled = True
    box.setMRMLScene(slicer.mrmlScene)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "first")
    assert box.currentNode() is node
    drop_down = box.findChildren("QComboBox")[0]
    captions = [drop_down.itemText(i) for i in range(drop_down.count)]
    kind = "Segmentation"
    assert captions == ["first", f"Create new {kind}", f"Rename current {kind}", f"Delete current {kind}"]
    bench.answers.append("other name")
    drop_down.activated.emit(2)
    assert node.GetName() == "other name"
    drop_down.activated.emit(1)
    assert box.nodeCount() == 2
    assert box.currentNode().GetName() == "Segmentation"
    drop_down.activated.emit(4)
    assert box.nodeCount() == 1
    box.setMRMLScene(None)


def test_collapsible_button_hides_what_is_in_it(bench: Bench) -> None:
    button = bench.ui.inputs
    assert button.text == "Inputs"
    assert bench.ui.reader.isVisible()
    tall = button.height
    heard: list[bool] = []
    button.connect("contentsCollapsed(bool)", heard.append)
    button.collapsed = True
    bench.process(0.02)
    assert button.collapsed is True
    assert not bench.ui.reader.isVisible()
    assert button.height < tall
    bench.ui.reader.setVisible(True)  # waits for the button to open
    assert not bench.ui.reader.isVisible()
    with pytest.raises(BenchError, match="not visible"):
        bench.click(bench.ui.invert)
    button.click()
    bench.process(0.02)
    assert bench.ui.reader.isVisible()
    assert heard == [True, False]


def test_path_line(bench: Bench, tmp_path: Path) -> None:
    import ctk

    line, heard = bench.ui.folder, []
    assert line.filters == ctk.ctkPathLineEdit.Dirs | ctk.ctkPathLineEdit.Writable
    line.connect("currentPathChanged(QString)", heard.append)
    bench.answers.append(tmp_path)
    line.findChildren("QToolButton")[0].click()
    assert line.currentPath == str(tmp_path)
    assert heard == [str(tmp_path)]
    line.disconnect("currentPathChanged(QString)", heard.append)


def test_an_unknown_widget_in_a_ui_is_named(bench: Bench, tmp_path: Path) -> None:
    import slicer

    path = tmp_path / "x.ui"
    path.write_text('<ui version="4.0"><class>x</class><widget class="qMRMLTreeView" name="x"/></ui>')
    with pytest.raises(RuntimeError, match="qMRMLTreeView"):
        slicer.util.loadUI(str(path))


# Parameter node ------------------------------------------------------------------------------------------------------


def test_parameter_node_both_ways(bench: Bench) -> None:
    parameters, ui, node = bench.widget.parameters, bench.ui, bench.widget.parameters.parameterNode
    assert (ui.percent.value, ui.psa.value, ui.invert.checked, ui.manner.currentText) == (60, 4.5, False, "exact")
    assert ui.low.value == 0.25
    volume = add_volume("t2w")
    ui.t2w.setCurrentNode(volume)
    ui.percent.value = 33
    ui.reader.setText("RB")
    ui.invert.checked = True
    ui.manner.setCurrentIndex(0)
    ui.low.value = 0.5
    assert parameters.t2w is volume
    assert (parameters.percent, parameters.reader, parameters.invert) == (33, "RB", True)
    assert parameters.manner.name == "FAST"
    assert parameters.limits.low == 0.5
    assert node.GetNodeReferenceID("t2w") == volume.GetID()
    assert node.GetParameter("percent") == "33"
    assert node.GetParameter("manner") == "FAST"
    assert node.GetParameter("invert") == "True"
    assert node.GetParameter("limits.low") == "0.5"
    parameters.percent = 71
    parameters.t2w = None
    parameters.limits.low = 0.125
    parameters.manner = type(parameters.manner).EXACT
    assert (ui.percent.value, ui.low.value, ui.manner.currentText) == (71, pytest.approx(0.13), "exact")
    assert ui.t2w.currentNode() is None


def test_parameter_node_refuses_what_slicer_refuses(bench: Bench) -> None:
    parameters = bench.widget.parameters
    for name, value, error in (("percent", 101, ValueError), ("percent", "1", TypeError), ("t2w", "x", TypeError)):
        with pytest.raises(error):
            setattr(parameters, name, value)
    assert parameters.percent == 60
    with pytest.raises(ValueError, match="no parameter 'nothing'"):
        parameters.setValue("nothing", 1)


def test_disconnected_widgets_are_left_alone(bench: Bench) -> None:
    widget, ui = bench.widget, bench.ui
    widget.parameters.disconnectGui(widget.tag)
    ui.percent.value = 12
    assert widget.parameters.percent == 60
    widget.parameters.percent = 80
    assert ui.percent.value == 12
    widget.tag = widget.parameters.connectGui(ui)
    assert ui.percent.value == 80


def test_a_saved_scene_brings_its_parameters_back(bench: Bench, tmp_path: Path) -> None:
    import slicer

    bench.widget.parameters.percent = 5
    assert slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Clear()
    assert "closed" in bench.widget.heard
    slicer.util.loadScene(str(tmp_path / "scene.mrml"))
    assert bench.widget.logic.getParameterNode().GetParameter("percent") == "5"


# slicer.app, modules, util -------------------------------------------------------------------------------------------


def test_app_and_modules(bench: Bench, tmp_path: Path) -> None:
    import qt
    import slicer

    assert (int(slicer.app.majorVersion), int(slicer.app.minorVersion)) >= (5, 12)
    assert slicer.app.testingEnabled() is False
    assert Path(slicer.app.temporaryPath).is_dir()
    assert slicer.util.mainWindow().className() == "qSlicerMainWindow"
    slicer.util.showStatusMessage("working", 1000)
    assert bench.status == "working"
    settings = Path(qt.QSettings().fileName())
    qt.QSettings().setValue("Sample/on", True)
    assert slicer.util.settingsValue("Sample/on", False, converter=slicer.util.toBool) is True
    assert Path.home() not in settings.parents
    assert slicer.app.mrmlScene() is slicer.mrmlScene
    for name in ("segmentations", "volumes", "colors", "terminologies", "markups", "subjecthierarchy"):
        assert getattr(slicer.modules, name).logic().GetMRMLScene() is slicer.mrmlScene
    assert slicer.util.getModuleLogic("Segmentations").IsA("vtkSlicerSegmentationsModuleLogic")
    with pytest.raises(AttributeError, match="no 'nonsense'"):
        _ = slicer.app.nonsense
    volume = add_volume("a")
    assert slicer.util.getNode("a") is volume
    assert slicer.util.arrayFromVolume(volume).shape == (10, 64, 64)
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    assert hierarchy.GetItemByDataNode(volume) > 0
    slicer.mrmlScene.RemoveNode(volume)
    assert slicer.util.getSubjectHierarchyItemChildren() == []


def test_files_are_read_into_the_scene(bench: Bench, tmp_path: Path) -> None:
    import SimpleITK as sitk
    import slicer

    sitk.WriteImage(sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)), str(tmp_path / "v.nii.gz"))
    node = slicer.util.loadVolume(str(tmp_path / "v.nii.gz"))
    assert node.GetName() == "v"
    assert slicer.util.arrayFromVolume(node).tolist() == np.arange(24).reshape(2, 3, 4).tolist()


def test_entering_leaving_and_reloading(bench: Bench) -> None:
    import slicer

    widget = bench.widget
    assert slicer.util.getModuleWidget("BenchSample") is widget
    assert slicer.util.getModuleLogic("BenchSample") is widget.logic
    assert bench.handle.title == "Bench sample"
    assert bench.handle.helpText == "started"
    assert bench.panel.isEntered is True
    slicer.util.selectModule("Segmentations")
    assert bench.panel.isEntered is False
    slicer.util.selectModule("BenchSample")
    assert widget.heard == ["exit", "enter"]
    assert bench.visited[-2:] == ["Segmentations", "BenchSample"]
    widget.onReload()
    assert widget.heard[-1] == "cleanup"
    assert bench.widget is not widget
    assert bench.widget.heard == ["enter"]
    assert slicer.util.getModuleWidget("BenchSample") is bench.widget
    slicer.selfTests["BenchSample"]()
    assert bench.widget.heard[-1] == "tested"


def test_nothing_is_installed(bench: Bench) -> None:
    import slicer

    ended: list[int] = []
    slicer.packaging.pip_ensure("no-such-package==1", requester="MedRationale")
    slicer.util.pip_install(["no-such-package"], blocking=False, completedCallback=ended.append)
    assert [(call.function, call.requirements, call.options) for call in bench.pip] == [
        ("pip_ensure", "no-such-package==1", {"requester": "MedRationale"}),
        ("pip_install", ["no-such-package"], {"blocking": False}),
    ]
    assert ended == [0]
    with pytest.raises(TypeError, match="interactive"):
        slicer.packaging.pip_install("x", interactive=False)
    bench.pip_code = 1
    with pytest.raises(subprocess.CalledProcessError):
        slicer.packaging.pip_install("x")
    bench.pip_code = 0
    bench.pip.clear()


def test_the_segment_editor_can_be_given_a_segmentation(bench: Bench) -> None:
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.util.getModuleWidget("SegmentEditor").editor
    editor.setSegmentationNode(node)
    assert editor.segmentationNode() is node
    slicer.util.selectModule("BenchSample")


# Pictures ------------------------------------------------------------------------------------------------------------


def pixels(image: Any) -> np.ndarray:
    import qt

    image = image.convertToFormat(qt.QImage.Format.Format_RGB888)
    array = np.frombuffer(bytes(image.constBits()), dtype=np.uint8).reshape(image.height(), image.bytesPerLine())
    return array[:, : 3 * image.width()].reshape(image.height(), image.width(), 3)


def test_layout_views_and_screenshot(bench: Bench, tmp_path: Path) -> None:
    import slicer

    volume = add_volume("t2w", 100.0)
    bench.widget.logic.showLayout(volume)
    bench.process(0.05)
    manager = slicer.app.layoutManager()
    assert list(bench.layout.shown()) == ["MR_T2W", "MR_ADC", "MR_HBV", "MR_3D"]
    slice_widget = manager.sliceWidget("MR_ADC")
    assert slice_widget.mrmlSliceNode().GetLayoutName() == "MR_ADC"
    assert slice_widget.mrmlSliceCompositeNode().GetLayoutName() == "MR_ADC"
    assert slice_widget.mrmlSliceNode().GetScene() is slicer.mrmlScene
    slicer.util.resetSliceViews()
    pictures = bench.render()
    for name in ("MR_T2W", "MR_ADC", "MR_HBV"):
        middle = pictures[name][pictures[name].shape[0] // 2, pictures[name].shape[1] // 2]
        assert middle.min() > 200, "the bright square of the middle slice"
        assert (pictures[name] == 0).any(), "and it does not fill the view"
    image = bench.screenshot(tmp_path / "shot.png")
    assert (image.width(), image.height()) == (1200, 800)
    shot = pixels(image)
    panel, views = shot[:, :500], shot[:, 560:]
    assert len(np.unique(panel.reshape(-1, 3), axis=0)) > 20, "text and widgets, not a blank"
    assert (views > 200).all(axis=2).sum() > 3000, "the three bright squares"
    assert (tmp_path / "shot.png").stat().st_size > 5000


def test_a_jump_moves_every_view(bench: Bench) -> None:
    import slicer

    bench.widget.logic.showLayout(add_volume("t2w", 100.0))
    slicer.util.resetSliceViews()
    bright = bench.render()["MR_T2W"].max()
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, 0.0, 0.0, 2.0, 0)
    logic = slicer.app.layoutManager().sliceWidget("MR_T2W").sliceLogic()
    assert logic.GetSliceOffset() == pytest.approx(2.0)
    assert bright > bench.render()["MR_T2W"].max(), "only the middle slice holds the bright square"


def test_segmentation_is_drawn_in_the_views(bench: Bench) -> None:
    import slicer

    volume = add_volume("t2w", 100.0)
    bench.widget.logic.showLayout(volume)
    slicer.util.resetSliceViews()
    plain = bench.render()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "MedRationale")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = node.GetSegmentation().AddEmptySegment("region", "Region 1", [1.0, 0.0, 0.0])
    mask = np.zeros((10, 64, 64), np.uint8)
    mask[3:7, 24:40, 24:40] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, volume)
    node.CreateClosedSurfaceRepresentation()
    slicer.app.layoutManager().threeDWidget("MR_3D").threeDView().resetFocalPoint()
    drawn = bench.render()
    for name in ("MR_T2W", "MR_3D"):
        red = (drawn[name].astype(int) - plain[name].astype(int)).reshape(-1, 3)
        assert ((red[:, 0] - red[:, 1]) > 30).sum() > 200, name


def test_a_click_in_a_view_places_a_point(bench: Bench) -> None:
    import slicer

    bench.widget.logic.showLayout(add_volume("t2w", 100.0))
    slicer.util.resetSliceViews()
    bench.render()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "here")
    node.CreateDefaultDisplayNodes()
    logic = slicer.modules.markups.logic()
    logic.SetActiveList(node)
    logic.StartPlaceMode(False)
    view = slicer.app.layoutManager().sliceWidget("MR_T2W")
    slicer.util.clickAndDrag(view, start=(100, 90), end=(100, 90), steps=1)
    assert node.GetNumberOfDefinedControlPoints() == 1
    xy = (100, 90, 0, 1)
    expected = view.mrmlSliceNode().GetXYToRAS().MultiplyPoint(xy)[:3]
    assert node.GetNthControlPointPositionWorld(0) == pytest.approx(expected, abs=1.0)


def test_there_is_a_font_to_write_with(bench: Bench) -> None:
    import qt

    metrics = qt.QFontMetrics(qt.QLabel("x").font)
    boxes = metrics.horizontalAdvance("W") == metrics.horizontalAdvance("i")
    assert not boxes, "letters are drawn as boxes: install a font (Debian: fonts-dejavu-core)"


def test_how_long_the_event_loop_stood_still(bench: Bench) -> None:
    import qt

    bench.process(0.1)
    bench.reset_block()
    assert bench.longest_block == 0.0
    qt.QTimer.singleShot(10, lambda: time.sleep(0.15))
    bench.process(0.3)
    assert 0.14 < bench.longest_block < 2.0
    assert bench.longest_block_cpu < bench.longest_block
    bench.reset_block()
    assert bench.call(lambda: time.sleep(0.06) or "value") == "value"
    assert bench.longest_block > 0.05
    time.sleep(0.2)  # outside the loop: the test waits, not the user
    bench.process(0.02)
    assert bench.longest_block < 0.2


def test_click_is_what_a_user_can_do(bench: Bench) -> None:
    bench.click(bench.ui.applyButton)
    assert bench.widget.heard == ["applied"]
    assert bench.ui.applyButton.text == "Applied"
    bench.ui.applyButton.enabled = False
    with pytest.raises(BenchError, match="disabled"):
        bench.click(bench.ui.applyButton)
    bench.ui.applyButton.enabled = True


def test_only_one_bench_at_a_time(bench: Bench) -> None:
    with pytest.raises(BenchError, match="another bench is open"):
        Bench().__enter__()
