"""The whole face as a reader meets it: `medrationale view` in Chromium, with the shipped bundle and the sample study.

One server for all; each test has a browser of its own, and with it a tab, a scene and a case of its own.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("trame_slicer", reason="the viewer's packages are not installed")
pytest.importorskip("playwright", reason="playwright is not installed")
from playwright.sync_api import Browser, Page, expect

from MedRationaleLogic.imaging.volume import Volume
from Testing.viewer.chromium import (
    CHROMIUM,
    PATIENCE_MS,
    Server,
    chromium,
    do,
    explained,
    picture,
    serving,
    state,
    until,
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("viewer")
    with serving(place, "--root", str(place / "studies")) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


Open = Callable[..., Page]
SEND = """async ([name, data]) => {
  const body = new FormData();
  body.append('file', new Blob([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))]), name);
  const answer = await fetch('upload', { method: 'POST', body });
  return [answer.status, await answer.json()];
}"""


@pytest.fixture
def open_page(server: Server, browser: Browser) -> Iterator[Open]:
    """Opens pages, each in a browser session of its own; what their consoles complain of fails the test."""
    contexts, complaints = [], []

    def new(url: str = server.url, *, wait: bool = True) -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        if wait:
            until(page, "s.study?.open")
        return page

    yield new
    for context in contexts:
        context.close()
    # a call that is under way while its page is reloaded is given up by trame's client, with a plain object
    assert [text for text in complaints if text != "Object"] == []


def masks(page: Page, folder: Path) -> tuple[Volume, Volume]:
    """Zones and numbered regions as they can be downloaded."""
    import SimpleITK as sitk

    with page.expect_download() as download:
        page.evaluate("""() => { const a = document.createElement('a'); a.href = 'download/results.zip';
                         a.download = ''; document.body.append(a); a.click(); a.remove(); }""")
    download.value.save_as(folder / "results.zip")
    found = {}
    with zipfile.ZipFile(folder / "results.zip") as archive:
        for name in archive.namelist():
            if Path(name).name in ("zones.nii.gz", "lesions.nii.gz"):
                (folder / Path(name).name).write_bytes(archive.read(name))
                found[Path(name).name] = Volume.from_sitk(sitk.ReadImage(str(folder / Path(name).name)))
    return found["zones.nii.gz"], found["lesions.nii.gz"]


# ------------------------------------------------------------------------------------------------------------- reading


def test_a_newcomer_sees_the_sample_explained(server: Server, open_page: Open) -> None:
    page = open_page()
    assert state(page, "study")["sample"] is True
    explained(page)
    expect(page.get_by_text("Research use only.").first).to_be_visible()
    expect(page.get_by_text("Sample study (simulated, no patient)").first).to_be_visible()
    findings = state(page, "findings")
    assert findings["lesions"], "the sample has a region that the shipped bundle outlines"
    rows = page.get_by_role("grid", name="Suspicious regions").get_by_role("row")
    assert rows.count() == len(findings["lesions"]) + 1
    for view in ("MR_T2W", "MR_ADC", "MR_HBV"):
        grey = picture(page, view).astype(float).mean(2)
        assert grey.std() > 20, f"{view} shows an image"
    assert server.health()["status"] == "ok"


def test_the_outline_lies_on_the_region(open_page: Open, tmp_path: Path) -> None:
    """The view shows the gland's middle in its middle, with 20 mm around it: where the region must then be drawn is
    worked out here from the downloaded mask alone, without any of the views' own matrices."""
    page = explained(open_page())
    do(page, "evidence", on=False)
    lesion = next(x for x in state(page, "findings")["lesions"] if x["selected"])
    zones, labels = masks(page, tmp_path)
    drawn = labels.array == lesion["number"]
    middle = int(drawn.sum((1, 2)).argmax())
    do(page, "jump", slice=middle + 1)
    until(page, f"s.views.position.slice === {middle + 1}")
    shot = picture(page)
    height, width = shot.shape[:2]
    dy, dx = labels.geometry.spacing[1:]
    _, rows, columns = np.nonzero(zones.array)
    reach = max((rows.max() - rows.min()) * dy, (columns.max() - columns.min()) * dx) + 40.0
    scale = min(width, height) / reach
    centre = (rows.max() + rows.min()) / 2, (columns.max() + columns.min()) / 2
    inner = drawn[middle] & np.roll(drawn[middle], 1, 0) & np.roll(drawn[middle], -1, 0)
    border = drawn[middle] & ~(inner & np.roll(drawn[middle], 1, 1) & np.roll(drawn[middle], -1, 1))
    ys, xs = np.nonzero(border)
    expected = np.stack([height / 2 + (ys - centre[0]) * dy * scale, width / 2 + (xs - centre[1]) * dx * scale], axis=1)
    colour = np.array([int(lesion["colour"][k : k + 2], 16) for k in (1, 3, 5)], float)
    # the hue of its category: the images are grey, gland and zones have hues of their own
    rgb = shot.astype(float)
    vivid = rgb.max(2) - rgb.min(2) > 70
    along = (rgb - rgb.mean(2, keepdims=True)) @ (colour - colour.mean())
    cosine = along / (
        np.linalg.norm(rgb - rgb.mean(2, keepdims=True), axis=2) * np.linalg.norm(colour - colour.mean()) + 1e-9
    )
    painted = np.argwhere(vivid & (cosine > 0.93))
    assert len(painted) > 20, "the region's outline is drawn in its category's colour"
    away = np.linalg.norm(expected[:, None] - painted[None], axis=2).min(1)
    # the outline runs along voxel edges, half a voxel from their centres
    assert np.quantile(away, 0.9) < 0.75 * max(dy, dx) * scale + 2, away


def test_walk_override_undo(open_page: Open) -> None:
    page = explained(open_page())
    number = state(page, "rationale")["lesion"]
    before = state(page, "findings")["lesions"][0]["category"]
    # the tree: another step brings its evidence into the views
    tree = page.get_by_role("tree")
    steps = [s for s in state(page, "rationale")["steps"] if s["evidence"]]
    other = next(s for s in steps if s["evidence"] != state(page, "evidence")["concept"])
    tree.locator(f"[data-step='{other['id']}'] .line").first.click()
    until(page, f"s.evidence.concept === '{other['evidence']}'")
    # an answer of the reader's
    step = next(s for s in state(page, "rationale")["steps"] if s["id"] == other["id"])
    wanted = next(k for k, a in enumerate(step["answers"]) if not a["current"])
    tree.locator(f"[data-step='{other['id']}']").get_by_role("button", name="Change the answer").click()
    form = tree.locator(f"[data-step='{other['id']}'] form")
    form.get_by_label("Your name or initials").fill("A. Reader")
    form.get_by_role("radio").nth(wanted).check()
    form.get_by_role("button", name="Apply").click()
    until(page, "s.rationale.steps.some((x) => x.overridden)")
    changed = next(s for s in state(page, "rationale")["steps"] if s["id"] == other["id"])
    assert changed["answer"] == step["answers"][wanted]["text"]
    assert changed["original"] == step["answer"]
    assert "A. Reader" in changed["asserted"]
    # the size decides between 4 and 5: changed by number, seen in the category that the rules compute
    assert state(page, "review")["can_undo"]
    page.keyboard.press("Escape")
    page.locator("[data-view=MR_T2W]").hover()
    page.keyboard.press("u")
    until(page, "!s.rationale.steps.some((x) => x.overridden)")
    page.keyboard.press("Control+y")
    until(page, "s.rationale.steps.some((x) => x.overridden)")
    do(page, "undo")
    until(page, "!s.review.can_undo")
    assert state(page, "findings")["lesions"][0]["category"] == before
    assert state(page, "rationale")["lesion"] == number
    assert [e["reader"] for e in state(page, "review")["log"]].count("A. Reader") >= 1
    assert state(page, "review")["log_ok"]


def test_a_change_needs_a_name(open_page: Open) -> None:
    page = explained(open_page())
    do(page, "delete")
    until(page, "s.notice.kind === 'error'")
    assert "name or initials" in state(page, "notice")["text"]
    assert state(page, "findings")["lesions"]


def test_explain_here_by_a_click(open_page: Open) -> None:
    page = explained(open_page())
    before = len(state(page, "findings")["lesions"])
    do(page, "reader", name="A. Reader")
    do(page, "explain_here")
    until(page, "s.views.mode === 'explain_here'")
    box = page.locator("[data-view=MR_T2W] img").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.42 * box["width"], box["y"] + 0.45 * box["height"])
    until(page, f"s.findings.lesions.length === {before + 1} || s.notice.kind === 'error'")
    assert state(page, "notice")["kind"] == "", state(page, "notice")["text"]
    assert state(page, "views")["mode"] == ""
    assert [x["origin"] for x in state(page, "findings")["lesions"]].count("reader") == 1


def test_merge_delete_psa_and_sign_off(open_page: Open) -> None:
    page = explained(open_page())
    first = state(page, "findings")["lesions"][0]["number"]
    do(page, "reader", name="A. Reader")
    do(page, "explain_at", view="MR_T2W", x=0.42, y=0.45)
    until(page, "s.findings.lesions.length === 2")
    added = next(x["number"] for x in state(page, "findings")["lesions"] if x["number"] != first)
    do(page, "select", lesion=first)
    do(page, "mark", lesion=added)
    do(page, "merge")
    until(page, "s.findings.lesions.length === 1")
    do(page, "undo")
    until(page, "s.findings.lesions.length === 2")
    do(page, "select", lesion=added)
    do(page, "delete")
    until(page, "s.findings.lesions.length === 1")
    do(page, "psa", value=9.8)
    until(page, "s.review.psa === 9.8")
    do(page, "sign_off")
    until(page, "s.review.signed?.reader === 'A. Reader' && !s.review.editable")
    do(page, "delete")
    until(page, "s.notice.kind === 'error'")
    assert len(state(page, "findings")["lesions"]) == 1, "what is signed is not changed"
    do(page, "reopen", reason="a second look")
    until(page, "s.review.signed === null && s.review.editable")


def test_a_concept_that_is_chosen_is_shown_where_it_is_strongest(open_page: Open) -> None:
    page = explained(open_page())
    concept = state(page, "evidence")["concept"]
    largest = state(page, "views")["position"]["slice"]
    do(page, "jump", slice=1)
    until(page, "s.views.position.slice === 1")
    do(page, "concept", id=concept)
    until(page, "s.views.position.slice !== 1")
    said = state(page, "evidence")["text"]
    assert f"slice {state(page, 'views')['position']['slice']} of" in said
    do(page, "select", lesion=state(page, "rationale")["lesion"])
    until(page, f"s.views.position.slice === {largest}")


def test_a_read_only_server_lets_look_and_not_change(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, "--read-only") as server:
        page = browser.new_context().new_page()
        page.goto(server.url)
        until(page, "s.study?.open")
        explained(page)
        before = state(page, "findings")
        do(page, "reader", name="A. Reader")
        for name, args in (("delete", {}), ("psa", {"value": 5.0}), ("sign_off", {}), ("explain_here", {})):
            do(page, "dismiss")
            until(page, "s.notice.kind === ''")
            do(page, name, **args)
            until(page, "s.notice.kind === 'error'")
            assert "read-only" in state(page, "notice")["text"]
        assert page.evaluate(SEND, ["t2w.nii.gz", ""])[0] == 400
        assert state(page, "findings") == before
        assert state(page, "review")["signed"] is None
        page.context.close()


def test_downloads(open_page: Open, tmp_path: Path) -> None:
    page = explained(open_page())
    page.get_by_role("button", name="Report and downloads").click()
    contents = {}
    for name in ("report.html", "rationale.json", "case.zip"):
        with page.expect_download() as download:
            page.locator(f"a[href='download/{name}']").click()
        download.value.save_as(tmp_path / name)
        contents[name] = (tmp_path / name).read_bytes()
    assert b"Research use only" in contents["report.html"]
    document = json.loads(contents["rationale.json"])
    assert len(document["lesions"]) == len(state(page, "findings")["lesions"])
    with zipfile.ZipFile(tmp_path / "case.zip") as archive:
        assert archive.testzip() is None


def test_a_downloaded_case_goes_on_in_another_browser(open_page: Open, tmp_path: Path) -> None:
    page = explained(open_page())
    do(page, "reader", name="A. Reader")
    step = next(s for s in state(page, "rationale")["steps"] if s["kind"] == "choice" and len(s["answers"]) > 1)
    do(page, "answer", step=step["id"], index=next(k for k, a in enumerate(step["answers"]) if not a["current"]))
    until(page, "s.rationale.steps.some((x) => x.overridden)")
    page.get_by_role("button", name="Report and downloads").click()
    with page.expect_download() as download:
        page.locator("a[href='download/case.zip']").click()
    download.value.save_as(tmp_path / "case.zip")
    other = explained(open_page())
    data = base64.b64encode((tmp_path / "case.zip").read_bytes()).decode()
    assert other.evaluate(SEND, ["case.zip", data]) == [200, {"ok": True}]
    until(other, "s.rationale.steps.some((x) => x.overridden)")
    answers = {x["id"]: x["answer"] for x in state(page, "rationale")["steps"]}
    assert {x["id"]: x["answer"] for x in state(other, "rationale")["steps"]} == answers
    assert "A. Reader" in [x["reader"] for x in state(other, "review")["log"]]
    assert state(other, "review")["log_ok"]


# ---------------------------------------------------------------------------------------------------- several, and ends


def test_two_users_do_not_meet(open_page: Open) -> None:
    first, second = open_page(), open_page()
    explained(first), explained(second)
    do(first, "reader", name="First")
    step = next(s for s in state(first, "rationale")["steps"] if s["kind"] == "choice" and len(s["answers"]) > 1)
    wanted = next(k for k, a in enumerate(step["answers"]) if not a["current"])
    do(first, "answer", step=step["id"], index=wanted)
    until(first, "s.rationale.steps.some((x) => x.overridden)")
    assert not any(s["overridden"] for s in state(second, "rationale")["steps"])
    assert state(second, "review")["reader"] == ""
    answer = second.request.get(first.url)
    assert answer.status == 404, "a tab belongs to its browser"


def test_reload_in_the_middle_keeps_the_case(open_page: Open) -> None:
    page = open_page()
    until(page, "s.job.running || s.findings.summary")
    address = page.url
    page.reload()
    until(page, "s.study?.open")
    assert page.url == address
    explained(page)
    do(page, "reader", name="A. Reader")
    until(page, "s.review.reader === 'A. Reader'")
    page.reload()
    until(page, "s.findings?.summary")
    assert state(page, "review")["reader"] == "A. Reader"
    assert picture(page).astype(float).mean(2).std() > 20, "a page that came back has its pictures"


def test_cancel_then_again(server: Server, open_page: Open) -> None:
    page = explained(open_page())
    do(page, "close", confirmed=True)
    until(page, "!s.study.open")
    do(page, "open_sample")
    until(page, "s.study.open && !s.study.explained")
    do(page, "explain")
    do(page, "explain")  # a second one while it runs is refused in words
    until(page, "s.notice.kind === 'error'")
    assert "busy" in state(page, "notice")["text"]
    do(page, "cancel")
    until(page, "!s.job.running")
    assert state(page, "job")["state"] == "cancelled"
    assert state(page, "findings")["summary"] is None
    do(page, "dismiss")
    do(page, "explain")
    explained(page)
    assert server.health()["status"] == "ok"


def test_a_killed_network_is_told_and_comes_back(server: Server, open_page: Open) -> None:
    page = explained(open_page())
    (network,) = [pid for pid, line in server.children().items() if "worker_child" in line]
    do(page, "close", confirmed=True)
    do(page, "open_sample")
    until(page, "s.study.open && !s.study.explained")
    do(page, "explain")
    until(page, "s.job.running")
    os.kill(network, signal.SIGKILL)
    until(page, "!s.job.running")
    if state(page, "job")["state"] != "done":  # it may have been quicker than the signal
        assert state(page, "job")["state"] == "failed"
        assert "ended" in state(page, "job")["message"]
    do(page, "dismiss")
    if state(page, "findings")["summary"] is None:
        do(page, "explain")
    explained(page)
    other = explained(open_page())
    assert state(other, "notice")["kind"] == ""


def test_a_browser_that_goes_leaves_nothing(server: Server, browser: Browser, open_page: Open) -> None:
    before = server.health()["tabs"]
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    until(page, "s.job?.running || s.findings?.summary")
    context.close()
    deadline = time.monotonic() + 60
    while server.health()["tabs"] > before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert server.health()["tabs"] <= before
    assert explained(open_page()).title() == "MedRationale"


def test_chosen_from_the_shelf_and_deleted_meanwhile(server: Server, open_page: Open) -> None:
    page = explained(open_page())
    made = next(iter(sorted((server.root.parent / "home").glob("sample-*"))))
    study = server.root / "patient <i>1"
    shutil.copytree(made / "nifti", study)
    page.evaluate("window.mr.fold('review', true)")
    psa = page.get_by_label("PSA, ng/mL")
    psa.fill("23.5")  # of the sample, and not sent
    do(page, "browse", id="")
    until(page, "s.chooser.studies.length === 1")
    entry = state(page, "chooser")["studies"][0]
    page.get_by_role("button", name="Study", exact=False).first.click()
    assert page.locator("i", has_text="1").count() == 0, "a folder's name is text"
    do(page, "open_study", id=entry["id"])
    until(page, "s.study.open && !s.study.sample")
    assert state(page, "study")["name"] == "patient <i>1"
    shutil.rmtree(study)
    do(page, "explain")
    explained(page)
    expect(psa).not_to_have_value("23.5")
    do(page, "open_study", id=entry["id"])
    until(page, "s.notice.kind === 'error'")
    assert "no such folder" in state(page, "notice")["text"]
    assert state(page, "findings")["summary"], "the open study stays"


def test_upload_of_a_zip_and_of_rubbish(server: Server, open_page: Open) -> None:
    page = explained(open_page())
    made = next(iter(sorted((server.root.parent / "home").glob("sample-*"))))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted((made / "nifti").iterdir()):
            archive.write(file, f"study/{file.name}")
    status, said = page.evaluate(SEND, ["notes.txt", base64.b64encode(b"hello").decode()])
    assert status == 400
    assert said["error"]
    assert state(page, "study")["sample"]
    status, said = page.evaluate(SEND, ["study.zip", base64.b64encode(packed.getvalue()).decode()])
    assert (status, said) == (200, {"ok": True})
    until(page, "s.study.open && !s.study.sample")
    assert sum(x["present"] for x in state(page, "study")["images"]) == 3


def test_accessible_and_sized(open_page: Open) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = explained(open_page())
    overflow = page.evaluate(
        "[document.documentElement.scrollWidth - innerWidth, document.documentElement.scrollHeight - innerHeight]"
    )
    assert max(overflow) <= 0, "the page itself does not scroll"
    found = Axe().run(page)
    assert [v["id"] for v in found.response["violations"]] == []
