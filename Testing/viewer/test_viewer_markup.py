"""The page in Chromium, served by mock_page.py: what it sends, what it never sends, and who can use it."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from MedRationaleLogic.export.palette import luminance

pytest.importorskip("trame", reason="the viewer's packages are not installed")
pytest.importorskip("playwright", reason="playwright is not installed")
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright

HERE = Path(__file__).resolve().parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SIZES = ((1280, 800), (1920, 1080), (1024, 700))
SCENARIOS = (
    "everything", "nameless", "unexplained", "running", "failed", "negative", "error", "question", "signed", "closed",
    "aiming",
)  # fmt: skip
KEYS = {
    "ArrowUp": ["scroll", {"by": 1}],
    "ArrowDown": ["scroll", {"by": -1}],
    "PageUp": ["scroll", {"by": 5}],
    "PageDown": ["scroll", {"by": -5}],
    "ArrowRight": ["next_concept", {"by": 1}],
    "ArrowLeft": ["next_concept", {"by": -1}],
    "n": ["next_lesion", {"by": 1}],
    "p": ["next_lesion", {"by": -1}],
    "j": ["next_concept", {"by": 1}],
    "k": ["next_concept", {"by": -1}],
    "e": ["evidence", {"on": False}],
    "g": ["gland", {"on": False}],
    "1": ["layout", {"n": 1}],
    "3": ["layout", {"n": 3}],
    "5": ["layout", {"n": 5}],
    "u": ["undo", {}],
    "r": ["reset_views", {}],
    "Control+z": ["undo", {}],
    "Control+y": ["redo", {}],
    "Control+Shift+z": ["redo", {}],
}
SILENT = ("Alt+n", "Meta+e", "Control+n", "Shift+ArrowUp", "x", "6", "Tab", "Escape")
PARTS = ("study", "job", "findings", "rationale", "evidence", "review", "sectors", "chooser", "notice")
LISTEN = """() => {
  window.heard = [];
  window.listening?.abort();
  window.listening = new AbortController();
  const options = { signal: window.listening.signal };
  for (const area of document.querySelectorAll(".remote-controlled-area"))
    for (const type of ["pointerdown", "mousedown", "pointerup", "click", "keydown", "keyup", "wheel"])
      area.addEventListener(type, (event) => window.heard.push(event.type), options);
  document.addEventListener("keyup", (event) => window.heard.push("document " + event.type), options);
}"""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Address of the page."""
    with subprocess.Popen([sys.executable, str(HERE / "mock_page.py")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


class Desk:
    """The page and what it sent."""

    def __init__(self, page: Page) -> None:
        self.page, self.said, self._tokens = page, [], itertools.count(1)
        page.on("console", lambda line: self.said.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))

    def show(self, scenario: str) -> None:
        """Show a scenario; nothing was sent then."""
        token = next(self._tokens)
        self.page.evaluate("(given) => window.trame.trigger('mock', given)", [scenario, token])
        self.page.wait_for_function("(token) => window.trame.state.get('mock_shown') === token", arg=token)
        self.page.evaluate("document.activeElement?.blur()")

    def set(self, key: str, **changes: Any) -> None:
        """Change a part of the state, in the browser only."""
        # what the page itself sees to before it first changes its own state
        self.page.evaluate(
            """([key, changes]) => {
              const all = window.trame.state, own = all.get("trame__client_only") ?? [];
              if (key === "ui" && !own.includes(key)) all.state.trame__client_only = [...own, key];
              return all.set(key, { ...all.get(key), ...changes });
            }""",
            [key, changes],
        )

    def look_at(self, step: str) -> None:
        """Make a step of the rationale the selected one, as the server would."""
        steps = self.page.evaluate("window.trame.state.get('rationale').steps")
        self.set("rationale", steps=[{**one, "selected": one["id"] == step} for one in steps])

    def sent(self) -> list[Any]:
        """All commands since the scenario was shown, once the server has heard of everything."""
        ends = "window.trame.state.get('mock_calls').filter((call) => call[0] === 'end').length"
        for _ in range(2):  # what came faster than it was done is sent when that is done, behind the first end
            before = self.page.evaluate(ends)
            self.page.evaluate("() => window.mr.run('end')")
            self.page.wait_for_function(f"(before) => {ends} > before", arg=before)
        return [call for call in self.page.evaluate("window.trame.state.get('mock_calls')") if call[0] != "end"]

    def focused(self) -> str | None:
        """Step or region of the row that has the focus."""
        return self.page.evaluate("document.activeElement.dataset.step ?? document.activeElement.dataset.row")


@pytest.fixture(scope="module")
def opened(browser: Browser, site: str) -> Iterator[Desk]:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(10_000)
    desk = Desk(page)
    page.goto(site)
    page.wait_for_selector(".page")
    yield desk
    page.close()


@pytest.fixture
def desk(opened: Desk) -> Iterator[Desk]:
    """The page with three regions; afterwards its console has to be without errors."""
    opened.said.clear()
    opened.page.set_viewport_size({"width": 1280, "height": 800})
    opened.show("explained")
    yield opened
    assert opened.said == []


# ----------------------------------------------------------------------------------------------------- who can use it


@pytest.fixture(scope="module")
def violations() -> Callable[[Page], list[str]]:
    """Finds what axe-core objects to."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def find(page: Page) -> list[str]:
        found = axe.run(page).response["violations"]
        return [f"{x['id']}: {node['html'][:160]}" for x in found for node in x["nodes"]]

    return find


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_axe_finds_nothing(desk: Desk, violations: Callable[[Page], list[str]], scenario: str) -> None:
    desk.show(scenario)
    assert violations(desk.page) == []


def test_axe_finds_nothing_in_help_menu_and_upload(desk: Desk, violations: Callable[[Page], list[str]]) -> None:
    desk.page.get_by_text("Window", exact=True).click()
    desk.set("ui", upload={"state": "sending", "text": "Sending 3 files, 2.0 MB", "share": 0.4}, open={"study": True})
    assert violations(desk.page) == []
    desk.page.keyboard.press("Escape")
    desk.page.keyboard.press("?")
    expect(desk.page.get_by_role("dialog")).to_be_visible()
    assert violations(desk.page) == []
    desk.page.keyboard.press("Escape")


def test_axe_would_find_something(desk: Desk, violations: Callable[[Page], list[str]]) -> None:
    button = "<button id=nameless></button>"
    desk.page.evaluate("(html) => document.querySelector('.bar').insertAdjacentHTML('beforeend', html)", button)
    assert any(line.startswith("button-name") for line in violations(desk.page))
    desk.page.evaluate("document.querySelector('#nameless').remove()")


@pytest.mark.parametrize(
    ("ink", "least"), [("edge", 3.0), ("accent", 3.0), ("text", 4.5), ("dim", 4.5), ("reader", 4.5)]
)
@pytest.mark.parametrize("ground", ["panel", "raised", "bar"])
def test_colours_stand_out(repository: Path, ink: str, ground: str, least: float) -> None:
    css = (repository / "MedRationaleViewer" / "static" / "medrationale.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", css))
    lighter, darker = (luminance(colours[name]) + 0.05 for name in (ink, ground))
    assert lighter / darker >= least


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_page_fits_the_window_and_the_panel_scrolls(desk: Desk, width: int, height: int) -> None:
    desk.page.set_viewport_size({"width": width, "height": height})
    desk.show("everything")
    root = "document.documentElement"
    assert desk.page.evaluate(f"[{root}.scrollWidth, {root}.scrollHeight]") == [width, height]
    assert desk.page.evaluate("(e => e.scrollHeight > e.clientHeight && e.scrollWidth <= e.clientWidth)"
                              "(document.querySelector('.sections'))")  # fmt: skip
    for control in desk.page.locator(".bar button:visible, .bar input:visible, .bar summary:visible").all():
        box = control.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_motion_is_reduced_where_asked(desk: Desk) -> None:
    desk.show("running")
    style = "getComputedStyle(document.querySelector('.progress span')).transitionDuration"
    assert desk.page.evaluate(style) == "0.2s"
    desk.page.emulate_media(reduced_motion="reduce")
    assert desk.page.evaluate(style) == "0s"
    desk.page.emulate_media(reduced_motion="no-preference")


# --------------------------------------------------------------------------------------------------------------- keys


def test_keys_are_commands(desk: Desk) -> None:
    for key in KEYS:
        desk.page.keyboard.press(key)
        desk.page.evaluate("() => window.mr.run('pause')")
    sent = [call for call in desk.sent() if call[0] != "pause"]
    assert sent == list(KEYS.values())


def test_other_keys_are_none(desk: Desk) -> None:
    for key in SILENT:
        desk.page.keyboard.press(key)
    assert desk.sent() == []


@pytest.mark.parametrize("label", ["Reader", "PSA, ng/mL", "ADC, mm upwards", "Your measurement, mm"])
def test_typing_is_no_command(desk: Desk, label: str) -> None:
    desk.show("everything")
    desk.set("ui", editing="size")
    desk.look_at("size")
    field = desk.page.get_by_label(label, exact=True)
    field.click()
    for key in (*"npjkegur?12345", "ArrowUp", "ArrowLeft", "PageDown", "Control+z"):
        desk.page.keyboard.press(key)
    assert desk.sent() == []


def test_typed_text_outlives_news(desk: Desk) -> None:
    desk.show("everything")
    field = desk.page.get_by_label("Reader", exact=True)
    field.fill("B. Reader")
    desk.set("views", position={"slice": 5, "slices": 10, "text": "slice 5 of 10"})
    expect(desk.page.locator(".slice-text")).to_have_text("5 / 10")
    assert field.input_value() == "B. Reader"
    field.press("Tab")
    assert desk.sent() == [["reader", {"name": "B. Reader"}]]


def test_what_was_typed_goes_with_its_study(desk: Desk) -> None:
    desk.show("everything")
    psa, editor = desk.page.get_by_label("PSA, ng/mL"), desk.page.locator(".editor")
    psa.fill("23.5")
    desk.page.get_by_role("button", name="Change the answer to signal").click()
    desk.page.get_by_role("radio", name="isointense").check()
    desk.set("rationale", lesion=2)
    expect(editor).to_have_count(0)
    assert psa.input_value() == "23.5", "it is the same patient's"
    change = desk.page.get_by_role("button", name="Change the answer to signal")
    for case in (1, 2):
        change.click()
        expect(desk.page.get_by_role("radio", name="moderately hypointense")).to_be_checked()
        desk.page.get_by_role("radio", name="isointense").check()
        desk.set("study", case=case)
        expect(editor).to_have_count(0)
        expect(psa).to_have_value("6.8")
    assert desk.page.evaluate("window.trame.state.get('ui').draft") == {}
    assert desk.sent() == []


def test_an_answer_is_not_given_to_a_region_that_came_meanwhile(desk: Desk) -> None:
    desk.show("nameless")
    desk.page.get_by_role("radio", name="isointense").check()
    desk.page.get_by_label("Your name or initials").fill("B. R.")
    desk.page.evaluate("""() => {
      const state = window.trame.state, rationale = state.get("rationale");
      window.mr.apply(rationale.steps.find((x) => x.id === "t2.signal"));
      return state.set("rationale", { ...rationale, lesion: 2 });
    }""")
    expect(desk.page.locator(".editor")).to_have_count(0)
    assert desk.sent() == [["reader", {"name": "B. R."}]]


def test_a_held_key_is_not_queued_but_nothing_is_lost(desk: Desk) -> None:
    desk.page.evaluate("""() => { for (let k = 0; k < 60; k++)
      document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp", bubbles: true })); }""")
    desk.page.wait_for_function("() => window.trame.state.get('mock_calls').reduce((n, x) => n + x[1].by, 0) === 60")
    assert len(desk.sent()) < 10


def test_keys_rest_while_help_is_open(desk: Desk) -> None:
    desk.page.get_by_role("button", name="Help and keys").focus()
    desk.page.keyboard.press("?")
    expect(desk.page.get_by_role("dialog", name="Help and keys")).to_be_visible()
    for key in ("n", "e", "ArrowUp", "2"):
        desk.page.keyboard.press(key)
    desk.page.keyboard.press("Escape")
    expect(desk.page.get_by_role("dialog")).to_have_count(0)
    expect(desk.page.get_by_role("button", name="Help and keys")).to_be_focused()
    assert desk.sent() == []


def test_escape_closes_the_nearest_first(desk: Desk) -> None:
    desk.show("error")
    desk.set("views", mode="explain_here")
    desk.page.get_by_text("Window", exact=True).click()
    desk.page.keyboard.press("Escape")
    assert desk.page.locator("details.menu[open]").count() == 0
    desk.page.keyboard.press("Escape")
    assert desk.sent() == [["explain_here", {}]]
    desk.set("views", mode="")
    desk.page.keyboard.press("Escape")
    assert desk.sent()[1:] == [["dismiss", {}]]


# ------------------------------------------------------------------------------------------------- table and rationale


def test_table_is_walked_by_arrows(desk: Desk) -> None:
    desk.page.locator("tr[data-row='1']").focus()
    desk.page.keyboard.press("ArrowDown")
    assert desk.focused() == "2"
    desk.page.keyboard.press("End")
    desk.page.keyboard.press("ArrowDown")
    assert desk.focused() == "3"
    assert [call for call in desk.sent() if call[0] != "select"] == []
    assert desk.sent()[-1] == ["select", {"lesion": 3}]


def test_a_click_selects_and_the_box_only_marks(desk: Desk) -> None:
    desk.page.locator("tr[data-row='2'] td").last.click()
    desk.page.get_by_label("Mark region 3 for merging").click()
    assert desk.sent() == [["select", {"lesion": 2}], ["mark", {"lesion": 3}]]


def test_tree_is_walked_by_arrows(desk: Desk) -> None:
    desk.page.locator("[data-step='t2w.score']").focus()
    desk.page.keyboard.press("ArrowDown")
    assert desk.focused() == "t2.pattern"
    desk.page.keyboard.press("ArrowLeft")
    assert desk.focused() == "t2w.score"
    desk.page.keyboard.press("ArrowLeft")
    expect(desk.page.locator("[data-step='t2.pattern']")).to_have_count(0)
    expect(desk.page.locator("[data-step='t2w.score']")).to_have_attribute("aria-expanded", "false")
    desk.page.keyboard.press("ArrowRight")
    expect(desk.page.locator("[data-step='t2.pattern']")).to_have_count(1)
    desk.page.keyboard.press("Home")
    assert desk.focused() == "category"
    assert desk.sent()[-1] == ["choose_step", {"step": "category"}]
    assert {name for name, _ in desk.sent()} == {"choose_step"}


def test_tree_says_where_a_row_stands(desk: Desk) -> None:
    row = desk.page.locator("[data-step='t2.signal']")
    for name, value in {"level": "3", "posinset": "2", "setsize": "6", "selected": "true"}.items():
        expect(row).to_have_attribute(f"aria-{name}", value)
    expect(row).to_have_accessible_name("signal: moderately hypointense, probability 91 %")
    expect(desk.page.locator("[data-step='t2.margin']")).to_have_accessible_name("margin: indistinct, by a reader")


def test_an_answer_needs_apply(desk: Desk) -> None:
    desk.page.get_by_role("button", name="Change the answer to signal").click()
    desk.page.get_by_role("radio", name="isointense").check()
    desk.page.mouse.wheel(0, 300)
    desk.page.keyboard.press("ArrowDown")
    assert desk.sent() == []
    expect(desk.page.get_by_role("radio", name="mildly hypointense")).to_be_checked()
    desk.page.get_by_role("button", name="Apply").click()
    assert desk.sent() == [["answer", {"step": "t2.signal", "index": 2}]]
    expect(desk.page.get_by_role("button", name="Apply")).to_have_count(0)
    assert desk.focused() == "t2.signal"


def test_the_answer_in_force_cannot_be_applied_again(desk: Desk) -> None:
    desk.show("editing")
    apply = desk.page.get_by_role("button", name="Apply")
    expect(apply).to_be_disabled()
    desk.page.get_by_role("radio", name="isointense").check()
    expect(apply).to_be_enabled()
    desk.page.get_by_role("button", name="Cancel").click()
    desk.page.get_by_role("button", name="Change the answer to signal").click()
    expect(desk.page.get_by_role("radio", name="moderately hypointense")).to_be_checked()
    assert desk.sent() == []


def test_without_a_name_the_editor_asks_for_it(desk: Desk) -> None:
    desk.show("nameless")
    desk.page.get_by_role("radio", name="isointense").check()
    apply = desk.page.get_by_role("button", name="Apply")
    apply.click()
    assert desk.sent() == []
    desk.page.get_by_label("Your name or initials").fill("B. R.")
    apply.click()
    # the answer is sent once the name has arrived
    desk.page.wait_for_function("() => window.trame.state.get('mock_calls').some((call) => call[0] === 'answer')")
    assert desk.sent() == [["reader", {"name": "B. R."}], ["answer", {"step": "t2.signal", "index": 1}]]


def test_a_size_is_a_number_of_millimetres(desk: Desk) -> None:
    desk.look_at("size")
    desk.page.get_by_role("button", name="Change the answer to size").click()
    field = desk.page.get_by_label("Your measurement, mm")
    for wrong in ("", "large", "-4", "1e3", "12.5.1"):
        field.fill(wrong)
        field.press("Enter")
    assert desk.sent() == []
    field.fill(" 12,5")
    desk.page.mouse.wheel(0, 100)
    field.press("Enter")
    assert desk.sent() == [["answer", {"step": "size", "size_mm": 12.5}]]


def test_a_signed_case_offers_no_change(desk: Desk) -> None:
    desk.show("signed")
    for name in ("Change the answer to signal", "Delete region 1", "Sign off", "Set the PSA", "Undo"):
        expect(desk.page.get_by_role("button", name=name)).to_have_count(0)
    reopen = desk.page.get_by_role("button", name="Reopen")
    reopen.click()
    assert desk.sent() == []
    desk.page.get_by_label("Reason").fill("second reading")
    reopen.click()
    assert desk.sent() == [["reopen", {"reason": "second reading"}]]


# ------------------------------------------------------------------------------------------------ review and evidence


def test_review_sends_plain_numbers(desk: Desk) -> None:
    desk.show("everything")
    desk.page.get_by_label("PSA, ng/mL").fill("7,4")
    desk.page.get_by_label("PSA, ng/mL").press("Enter")
    assert desk.sent() == [["psa", {"value": 7.4}]]  # heard: nobody types faster than that
    desk.page.get_by_label("PSA, ng/mL").fill("")
    desk.page.get_by_role("button", name="Set the PSA").click()
    desk.page.get_by_label("ADC, mm to the back").fill("-1.5")
    desk.page.get_by_role("button", name="Shift ADC").click()
    assert desk.sent() == [
        ["psa", {"value": 7.4}], ["psa", {"value": None}], ["shift", {"role": "adc", "x": 0, "y": -1.5, "z": 0}],
    ]  # fmt: skip


def test_explain_here_without_a_name_leads_to_its_field(desk: Desk) -> None:
    desk.set("review", reader="")
    desk.page.get_by_role("button", name="Explain here").click()
    expect(desk.page.get_by_label("Reader", exact=True)).to_be_focused()


def test_concepts_and_sectors_select(desk: Desk) -> None:
    desk.show("everything")
    desk.page.get_by_role("button", name="texture: homogeneous").click()
    desk.page.get_by_role("button", name="signal: moderately hypointense").click()
    desk.page.locator(".map [data-lesion='1'] path").first.click()
    assert desk.sent() == [
        ["concept", {"id": "t2.homog"}], ["concept", {"id": None}], ["select", {"lesion": 1}],
    ]  # fmt: skip


def test_a_question_is_answered_by_its_own_command(desk: Desk) -> None:
    desk.show("question")
    desk.page.get_by_role("button", name="Put it away").click()
    desk.page.get_by_role("button", name="Keep it").click()
    assert desk.sent() == [["close", {"confirmed": True}], ["dismiss", {}]]


def test_the_shelf_is_listed_when_it_is_opened(desk: Desk) -> None:
    desk.set("ui", open={"study": True})
    chooser = desk.page.get_by_text("Open another study")
    expect(chooser).to_be_visible()
    assert desk.sent() == []
    chooser.click()
    desk.page.wait_for_function("() => window.trame.state.get('mock_calls').length")
    assert desk.sent() == [["browse", {"id": "outpatients"}]]
    desk.set("chooser", listing=True, folders=[], studies=[])
    expect(desk.page.locator(".chooser")).to_contain_text("Looking into the folder")
    expect(desk.page.locator(".chooser")).not_to_contain_text("Nothing here")
    chooser.click()
    assert len(desk.sent()) == 1


def test_windows_are_chosen_from_the_menu(desk: Desk) -> None:
    for name in ("0 to 2000", "From each image"):
        desk.page.get_by_text("Window", exact=True).click()
        desk.page.get_by_role("button", name=name).click()
    assert desk.sent() == [["window", {"role": "adc", "low": 0, "high": 2000}], ["window", {}]]


def test_sliders_send_where_they_end(desk: Desk) -> None:
    desk.page.get_by_label("Slice", exact=True).fill("9")
    desk.page.get_by_label("Opacity of the evidence").fill("0.8")
    sent = desk.sent()
    assert [call for call in sent if call[0] == "jump"][-1] == ["jump", {"slice": 9}]
    assert [call for call in sent if call[0] == "opacity"][-1] == ["opacity", {"value": 0.8}]
    desk.page.get_by_label("Slice", exact=True).hover()
    desk.page.mouse.wheel(0, 300)
    assert desk.sent() == sent


# -------------------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize(("layout", "shown"), [
    (1, ["MR_T2W", "MR_ADC", "MR_HBV", "MR_3D"]), (2, ["MR_T2W", "MR_ADC", "MR_HBV", "MR_3D"]),
    (3, ["MR_T2W", "MR_ADC", "MR_HBV"]), (4, ["MR_T2W"]), (5, ["MR_3D"]),
])  # fmt: skip
def test_layouts(desk: Desk, layout: int, shown: list[str]) -> None:
    desk.page.keyboard.press(str(layout))
    expect(desk.page.locator(f".views[data-layout='{layout}']")).to_have_count(1)
    views = desk.page.locator(".view:visible")
    assert views.evaluate_all("all => all.map(one => one.dataset.view)") == shown
    sizes = [one.bounding_box() for one in views.all()]
    area = sum(box["width"] * box["height"] for box in sizes if box)
    box = desk.page.locator(".views").bounding_box()
    assert box is not None
    assert area == pytest.approx(box["width"] * box["height"], rel=0.01)
    if layout == 2:
        assert sizes[0]["width"] > 1.8 * sizes[1]["width"]  # type: ignore[index]


def test_a_place_is_clicked_for_an_explanation(desk: Desk) -> None:
    desk.show("aiming")
    desk.page.evaluate(LISTEN)
    box = desk.page.locator("[data-view='MR_ADC']").bounding_box()
    assert box is not None
    desk.page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.75 * box["height"])
    desk.page.mouse.wheel(0, 10)
    desk.page.locator("[data-view='MR_3D']").click()
    ((name, args),) = desk.sent()
    assert (name, args["view"]) == ("explain_at", "MR_ADC")
    assert (args["x"], args["y"]) == (pytest.approx(0.25, abs=0.003), pytest.approx(0.75, abs=0.003))
    heard = desk.page.evaluate("window.heard")
    assert heard.count("click") == 1, "the 3D view keeps its mouse, the slice view does not hear of the click"
    assert heard[0] == "wheel"
    cursor = "(name) => getComputedStyle(document.querySelector(`[data-view=${name}] .mock`)).cursor"
    assert [desk.page.evaluate(cursor, name) for name in ("MR_T2W", "MR_3D")] == ["crosshair", "auto"]


def test_a_view_names_only_the_evidence_that_lies_over_it(desk: Desk) -> None:
    said = desk.page.locator(".view-said")
    expect(said).to_have_text("Evidence: moderately hypointense")
    desk.set("views", map=None)
    expect(said).to_have_count(0)
    desk.set("job", running=True)
    expect(said).to_have_text("Evidence is being read: moderately hypointense")
    desk.set("views", map="t2.homog")
    expect(said).to_have_text("Evidence is being read: moderately hypointense")
    desk.set("views", evidence=False)
    expect(said).to_have_count(0)


def test_views_hear_the_mouse_and_no_keys(desk: Desk) -> None:
    desk.page.evaluate(LISTEN)
    desk.page.locator("[data-view='MR_T2W']").click()
    for key in ("n", "q", "Shift"):
        desk.page.keyboard.press(key)
    desk.page.get_by_role("button", name="Reset", exact=True).focus()
    desk.page.keyboard.press("w")
    assert desk.sent() == [["next_lesion", {"by": 1}]]
    assert desk.page.evaluate("window.heard") == ["pointerdown", "mousedown", "pointerup", "click"]


# ------------------------------------------------------------------------------------------------------------- upload

DROP = """(names) => {
  const transfer = new DataTransfer();
  for (const name of names) transfer.items.add(new File(["four"], name));
  for (const type of ["dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def test_dropped_files_are_sent(desk: Desk) -> None:
    desk.page.evaluate(DROP, ["a.dcm", "b.dcm"])
    desk.page.wait_for_function("() => window.trame.state.get('mock_calls').length")
    assert desk.sent() == [["upload", [["file", "a.dcm", 4], ["file", "b.dcm", 4]]]]
    expect(desk.page.locator(".upload")).to_have_count(0)


def test_a_folder_keeps_its_paths(desk: Desk, tmp_path: Path) -> None:
    for name in ("study/t2/1.dcm", "study/adc/1.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"xy")
    desk.show("closed")
    with desk.page.expect_file_chooser() as chosen:
        desk.page.get_by_role("button", name="A folder").click()
    chosen.value.set_files(tmp_path / "study")
    uploads = "window.trame.state.get('mock_calls').filter((call) => call[0] === 'upload')"
    desk.page.wait_for_function(f"() => {uploads}.length")
    ((_, files),) = desk.page.evaluate(uploads)
    assert sorted(files) == [["file", "study/adc/1.dcm", 2], ["file", "study/t2/1.dcm", 2]]


def test_a_refused_upload_says_why(desk: Desk) -> None:
    desk.page.evaluate(DROP, ["refused.zip"])
    expect(desk.page.locator(".upload")).to_contain_text("refused.zip: <img src=x")
    assert desk.page.evaluate("window.hacked") is None
    assert [line for line in desk.said if "400" not in line] == []
    desk.said.clear()


def test_too_much_is_not_sent(desk: Desk) -> None:
    desk.set("chooser", limit_mb=0.000001)
    desk.page.evaluate(DROP, ["a.dcm"])
    expect(desk.page.locator(".upload")).to_contain_text("is more than")
    desk.set("chooser", uploads=False)
    desk.page.evaluate(DROP, ["a.dcm"])
    expect(desk.page.locator(".upload")).to_contain_text("takes no uploads")
    assert desk.sent() == []


# ------------------------------------------------------------------------------------------------------------ hardness


def test_hostile_text_stays_text(desk: Desk) -> None:
    desk.show("hostile")
    expect(desk.page.locator(".notice-body p").first).to_contain_text("<img src=x onerror=")
    expect(desk.page.locator(".study-name")).to_contain_text("{{ window.hacked = 1 }}")
    desk.page.keyboard.press("?")
    assert desk.page.evaluate("document.querySelectorAll('img[src=x], .page b').length") == 0
    assert desk.page.evaluate("window.hacked") is None
    desk.page.keyboard.press("Escape")


def test_what_is_not_there_yet_is_left_out(desk: Desk) -> None:
    for key in (*PARTS, "views", "ui"):
        desk.show("everything")
        desk.page.evaluate("(key) => window.trame.state.set(key, null)", key)
        expect(desk.page.locator(".opening" if key in ("views", "ui") else ".page")).to_have_count(1)
    desk.show("everything")
    desk.page.evaluate("(given) => window.trame.state.update(given)", dict.fromkeys(PARTS))
    expect(desk.page.locator(".page .bar")).to_have_count(1)
    assert desk.sent() == []


def test_a_command_names_the_study_that_was_shown(desk: Desk) -> None:
    desk.show("explained")
    for study in (3, 4):
        desk.set("study", case=study)
        desk.sent()
        assert desk.page.evaluate("window.trame.state.get('mock_study')") == study


def test_the_browser_asks_before_unsaved_work_goes_with_its_page(browser: Browser, site: str) -> None:
    page, asked = browser.new_page(), []
    desk, leave = Desk(page), "() => { setTimeout(() => location.assign('about:blank')) }"

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    page.goto(site)
    page.wait_for_selector(".page")
    desk.show("explained")
    reset = page.get_by_role("button", name="Reset", exact=True)
    reset.click()  # a browser asks only where somebody was at work
    desk.set("review", unsaved=True)
    with page.expect_event("dialog"):
        page.evaluate(leave)
    reset.click()
    assert desk.sent() == [["reset_views", {}]] * 2, "the page that stays has its server"
    desk.set("review", unsaved=False)
    page.evaluate(leave)
    page.wait_for_url("about:blank")
    assert asked == ["beforeunload"]
    page.close()


def test_a_lost_connection_is_said(browser: Browser, site: str) -> None:
    sockets = []
    page = browser.new_page()
    page.route_web_socket("**/ws", lambda socket: sockets.append((socket, socket.connect_to_server())))
    page.goto(site)
    page.wait_for_selector(".page")
    sockets[0][0].close()
    expect(page.get_by_role("heading", name="The connection has ended")).to_be_visible()
    page.close()
