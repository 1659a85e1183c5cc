"""A tab without a browser: real scene, views and trame server, a made-up network that works when it is polled."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("trame_slicer", reason="the viewer's packages are not installed")

from MedRationaleLogic.imaging.volume import Volume
from MedRationaleViewer import sample
from MedRationaleViewer.studies import Listing
from MedRationaleViewer.tab import Tab
from MedRationaleViewer.tab_options import TabOptions
from Testing.unit.case.fake_explainer import FakeExplainer, opened

READER = "Dr A"
SMALL = {"shape": (10, 40, 44)}


def written(folder: Path) -> Path:
    """The made-up study as files of a folder."""
    import SimpleITK as sitk

    folder.mkdir(parents=True)
    study = FakeExplainer(options=SMALL).study
    for role in study.roles:
        volume: Volume = study.volume(role)
        sitk.WriteImage(volume.to_sitk(), str(folder / f"{role}.nii.gz"))
    return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two studies and the sample."""
    root = tmp_path_factory.mktemp("shelf")
    first = written(root / "patient A")
    for name in ("patient B", "sample"):
        shutil.copytree(first, root / name)
    return root


@pytest.fixture
def tab(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tab]:
    monkeypatch.setattr("sys.argv", ["medrationale"])
    monkeypatch.setenv("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    tab = Tab(TabOptions(secret="s", folder=str(tmp_path), rooms=None, root=str(shelf), study=None))
    monkeypatch.setattr(tab.desk, "_explainer", lambda *_: FakeExplainer(options=SMALL))
    yield tab
    tab.close()


async def settled() -> None:
    """Until what was put off to a later turn of the loop is done."""
    for _ in range(5):
        await asyncio.sleep(0)


async def idle(tab: Tab) -> None:
    """Until the network has nothing to do."""
    await settled()
    while tab.desk.busy:
        await asyncio.sleep(0.01)
        tab.desk.poll()
    await settled()


async def explained(tab: Tab) -> None:
    """Open a patient's study and have it explained under a reader's name."""
    tab._do("open_study", {"id": "patient A"})
    tab._do("explain")
    await idle(tab)
    assert tab.desk.explanation is not None
    tab._do("reader", {"name": READER})


# ----------------------------------------------------------------------------------------------------------- the study


async def test_another_case_has_another_number(tab: Tab) -> None:
    numbers = [tab.reading().number]
    for command, args in (("open_study", {"id": "patient A"}), ("open_study", {"id": "patient A"}), ("close", {})):
        tab._do(command, args)
        numbers.append(tab.reading().number)
    assert len(set(numbers)) == 4
    tab._do("open_study", {"id": "patient A"})
    before = tab.reading().number
    tab._do("explain")
    await idle(tab)
    tab._do("open_study", {"id": "no such folder"})
    assert tab._notice["kind"] == "error"
    assert tab.reading().number == before


@pytest.fixture
def drawn(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The sample is there once this is set."""
    ready = asyncio.Event()

    async def slow() -> Path:
        await ready.wait()
        return shelf / "sample"

    monkeypatch.setattr(sample, "folder", slow)
    return ready


@pytest.mark.parametrize("first", [True, False])
async def test_a_sample_that_comes_late_leaves_what_was_opened_meanwhile(
    tab: Tab, drawn: asyncio.Event, first: bool
) -> None:
    if first:
        tab.spawn(tab.open_first())
    else:
        tab._do("open_study", {"id": "patient A"})
        tab._do("open_sample")
    await settled()
    tab._do("open_study", {"id": "patient B"})
    drawn.set()
    await settled()
    assert (tab.name, tab.sample) == ("patient B", False)
    assert tab._notice["kind"] == ""
    # put away, it is in nobody's way
    drawn.clear()
    tab._do("open_sample")
    await settled()
    tab._do("close")
    drawn.set()
    await settled()
    assert tab.sample


async def test_work_done_while_the_sample_is_drawn_is_asked_about(tab: Tab, drawn: asyncio.Event) -> None:
    await explained(tab)
    tab._do("open_sample")
    await settled()
    tab._do("answer", {"step": "dce", "index": 1})
    assert tab.reading().unsaved
    drawn.set()
    await settled()
    assert tab.name == "patient A"
    question = tab._notice["question"]
    assert (question["command"], question["args"]) == ("open_sample", {"confirmed": True})
    tab._do(question["command"], question["args"])
    await settled()
    assert tab.sample


# ---------------------------------------------------------------------------------------------- what would be lost


async def test_a_signature_is_not_thrown_away_unasked(tab: Tab, shelf: Path, tmp_path: Path) -> None:
    await explained(tab)
    tab._do("sign_off")
    case = tab.desk.case
    assert case is not None
    assert case.signed_off is not None
    assert tab.state["review"]["unsaved"] is False, "the page hears of it with the next turn of the loop"
    await settled()
    assert tab.state["review"]["unsaved"]
    for command, args in (("open_study", {"id": "patient B"}), ("open_sample", {}), ("close", {})):
        tab._do(command, args)
        assert tab._notice["question"] == {
            "yes": "Put it away", "no": "Keep it", "command": command, "args": {**args, "confirmed": True},
        }  # fmt: skip
        tab._do("dismiss")
    tab.commands.take_upload(shelf / "patient B", tab.number)
    assert tab._notice["question"]["command"] == "open_upload"
    assert tab.desk.case is case
    case.save(tmp_path / "saved")
    tab._do("open_study", {"id": "patient B"})
    assert (tab.name, tab._notice["kind"]) == ("patient B", "")


async def test_an_upload_that_ends_late_is_opened_only_when_the_reader_says_so(
    tab: Tab, shelf: Path, tmp_path: Path
) -> None:
    uploaded = Path(shutil.copytree(shelf / "sample", tmp_path / "uploaded"))
    tab._do("open_study", {"id": "patient A"})
    before = tab.number
    tab._do("open_study", {"id": "patient B"})
    tab.commands.take_upload(uploaded, before)
    assert tab.name == "patient B"
    question = tab._notice["question"]
    assert (question["command"], question["args"]) == ("open_upload", {})
    tab._do("reader", {"name": READER})
    tab._do("explain")
    tab.desk.poll()
    tab.desk.poll()
    tab._do("answer", {"step": "dce", "index": 1})
    assert tab.reading().unsaved
    tab._do(question["command"], question["args"])
    assert tab.name == "patient B", "work that was done before the answer is asked about"
    question = tab._notice["question"]
    assert (question["command"], question["args"]) == ("open_upload", {"confirmed": True})
    tab._do(question["command"], question["args"])
    assert (tab.name, tab._notice["kind"]) == ("uploaded", "")
    tab._do(question["command"], question["args"])
    assert tab._notice["text"] == "the upload is not there any more; upload the study again"
    # where nothing was opened meanwhile, or all was put away, it is what the reader waits for
    tab.commands.take_upload(shelf / "patient A", tab.number)
    assert tab.name == "patient A"
    before = tab.number
    tab._do("close")
    tab.commands.take_upload(uploaded, before)
    assert tab.name == "uploaded"
    shutil.rmtree(uploaded)
    with pytest.raises(ValueError, match="upload the study again"):
        tab.commands.take_upload(uploaded, tab.number)


async def test_what_was_asked_of_one_study_is_not_done_to_the_next(tab: Tab) -> None:
    await explained(tab)
    shown = tab.number
    tab._do("open_study", {"id": "patient B"})
    for command, args in (("psa", {"value": 9.0}), ("explain", {}), ("close", {}), ("sign_off", {})):
        tab._do(command, args, shown)
        assert tab._notice["text"].startswith("another study has come meanwhile"), command
    assert tab.name == "patient B"
    assert tab.desk.case is not None
    assert tab.desk.case.study.psa is None
    assert not tab.desk.busy
    tab._do("psa", {"value": 9.0}, tab.number)
    assert tab.desk.case.study.psa == 9.0
    tab._do("layout", {"n": 2}, shown)
    assert tab.views.layout == 2, "what belongs to the page is done, whatever it shows"


# ------------------------------------------------------------------------------------------------------------ evidence


@pytest.fixture
def reopened(tab: Tab, tmp_path: Path) -> Tab:
    """A tab and the folder of a case that was saved: its maps are not at hand."""
    opened(options=SMALL).save(tmp_path / "case")
    return tab


async def test_a_map_that_is_chosen_while_the_network_reads_comes(reopened: Tab, tmp_path: Path) -> None:
    tab = reopened
    tab.open(tmp_path / "case")
    await settled()
    assert tab.desk.busy
    first = tab.state["evidence"]["concept"]
    assert first is not None
    assert tab.state["views"]["map"] is None, "nothing lies over the images yet"
    tab._do("next_concept", {"by": 1})
    await settled()
    second = tab.state["evidence"]["concept"]
    assert second != first
    assert tab.state["views"]["map"] is None
    tab._do("jump", {"slice": 2})
    await settled()
    tab.refresh_soon()
    await settled()
    assert tab.views.position(tab.desk.nodes) == (2, 10), "what the network says moves no view"
    await idle(tab)
    assert tab.desk.view is not None
    assert tab.desk.view.evidence_shown
    assert tab.desk.view.evidence_concept == tab.state["views"]["map"] == second
    assert tab.views.position(tab.desk.nodes) == (2, 10)


async def test_a_map_that_is_asked_for_while_the_network_does_something_else_comes(
    reopened: Tab, tmp_path: Path
) -> None:
    tab = reopened
    tab._do("evidence", {"on": False})
    tab.open(tmp_path / "case")
    await settled()
    assert not tab.desk.busy
    case = tab.desk.case
    assert case is not None
    tab.desk.perform(lambda: case.explain_here([0.0, 0.0, 900.0], READER), "reading this place")
    tab._do("evidence", {"on": True})
    await settled()
    assert tab.desk.busy
    assert tab.state["views"]["map"] is None
    await idle(tab)
    assert tab.desk.job is not None
    assert tab.desk.job.state == "failed", "far outside: no region is added that would be looked at"
    assert tab.state["views"]["map"] == tab.state["evidence"]["concept"] is not None


async def test_a_reading_that_was_stopped_is_not_begun_again(reopened: Tab, tmp_path: Path) -> None:
    tab = reopened
    tab.open(tmp_path / "case")
    await settled()
    tab._do("next_concept", {"by": 1})
    await settled()
    tab._do("cancel")
    await idle(tab)
    assert not tab.desk.busy
    assert tab.desk.job is not None
    assert tab.desk.job.state == "cancelled"
    assert tab.state["views"]["map"] is None
    tab._do("next_concept", {"by": 1})
    await idle(tab)
    assert tab.state["views"]["map"] == tab.state["evidence"]["concept"]


# ----------------------------------------------------------------------------------------------------------- the shelf


async def test_the_shelf_is_listed_when_asked_and_beside_the_loop(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tab.shelf is not None
    calls: list[tuple[str, bool]] = []
    released, real = threading.Event(), tab.shelf.list

    def listing(id: str = "") -> Listing:
        calls.append((id, threading.current_thread() is threading.main_thread()))
        assert released.wait(20)
        return real(id)

    async def listed() -> None:
        await settled()
        while tab.commands.chooser()["listing"]:
            await asyncio.sleep(0.01)
        await settled()

    monkeypatch.setattr(tab.shelf, "list", listing)
    tab._do("open_study", {"id": "patient A"})
    tab._do("opacity", {"value": 0.3})
    tab._do("scroll", {"by": 1})
    await settled()
    assert calls == []
    tab._do("browse", {"id": ""})
    tab._do("browse", {"id": ""})
    await settled()
    assert tab.state["chooser"]["listing"]
    released.set()
    await listed()
    assert calls == [("", False)], "it is under way already"
    names = [study["name"] for study in tab.state["chooser"]["studies"]]
    assert names == ["patient A", "patient B", "sample"]
    tab._do("opacity", {"value": 0.4})
    await settled()
    assert len(calls) == 1
    # the last folder that was asked for is shown, whichever comes first
    released.clear()
    tab._do("browse", {"id": "patient A"})
    tab._do("browse", {"id": "gone"})
    released.set()
    await listed()
    assert (tab.state["chooser"]["folder"], tab.state["chooser"]["up"]) == ("gone", "")
    assert "no such folder" in tab.state["chooser"]["message"]
    tab.commands.list_again()
    await listed()
    assert [id for id, _ in calls] == ["", "patient A", "gone", "gone"]
