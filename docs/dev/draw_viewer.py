"""Screenshots of the browser face and of the report for README and docs, taken from the real server in Chromium.

    python docs/dev/draw_viewer.py                                       # the sample study (simulated, no patient)
    python docs/dev/draw_viewer.py --study FOLDER --name viewer-NAME     # one picture of another one; mind its licence

Needs the extras ``viewer`` and ``dev`` and Debian's Chromium (or CHROMIUM with the path of one). Look at every picture
before it is committed.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT: Final = Path(__file__).resolve().parents[2]
FLAGS: Final = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WINDOW: Final = (1280, 800)
REPORT: Final = (1080, 1560)
"""CSS pixels of the report that are shown, at REPORT_SCALE."""
REPORT_SCALE: Final = 0.8
PATIENCE_MS: Final = 180_000
PICTURES: Final = "[...document.querySelectorAll('.view img')].map((image) => image.src).join()"


@contextmanager
def serving(study: Path | None) -> Iterator[str]:
    """The address of a viewer of its own; the sample study and what else it keeps go with it."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "MedRationaleLogic.cli", "view", "--port", "0", "--no-browser"]
        process = subprocess.Popen(
            command if study is None else [*command, str(study)],
            cwd=ROOT, env={**os.environ, "MEDRATIONALE_HOME": home}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            yield next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
        finally:
            process.terminate()
            process.wait(60)


def explained(browser: Browser, address: str, *, ask: bool = False) -> Page:
    """A page on which everything has arrived, the surfaces last; the sample is explained without being asked for."""
    page = browser.new_page(viewport={"width": WINDOW[0], "height": WINDOW[1]})
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    page.wait_for_function("window.trame?.state?.state.study?.open")
    if ask:
        page.get_by_role("button", name="Explain", exact=True).click()
    page.wait_for_function("trame.state.state.findings?.summary && !trame.state.state.job.running")
    page.wait_for_timeout(2000)
    return page


def still(page: Page) -> None:
    """Wait until no view has sent another picture for a while: the fine ones come last."""
    before, quiet = "", 0
    while quiet < 4:
        page.wait_for_timeout(400)
        now = page.evaluate(PICTURES)
        before, quiet = now, quiet + 1 if now == before else 0


def shot(page: Page, path: Path) -> None:
    page.mouse.move(WINDOW[0] / 2, WINDOW[1] - 2)  # over nothing that would light up
    still(page)
    save(page.screenshot(), path)


def save(png: bytes, path: Path) -> None:
    """In 256 colours, those of thin lines among them: a third of the size, and hardly seen."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=8, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}  {image.width}x{image.height}  {path.stat().st_size / 1000:.0f} kB")


def open_step(page: Page, sequence: str) -> None:
    """Choose the most probable step of the rationale that was read from a sequence; the rationale begins at the top."""
    step = page.evaluate(
        """(sequence) => {
          const { rationale, evidence } = trame.state.state;
          const there = evidence.groups.find((group) => group.sequence === sequence).concepts.map((x) => x.id);
          const steps = rationale.steps.filter((step) => there.includes(step.evidence));
          return steps.sort((a, b) => (b.probability ?? 0) - (a.probability ?? 0))[0].id;
        }""",
        sequence,
    )
    line = page.locator(f"[data-step='{step}'] .line").first
    line.click()
    page.wait_for_function("(step) => trame.state.state.rationale.chosen === step", arg=step)
    line.evaluate("(line) => line.closest('section').scrollIntoView()")


def report(browser: Browser, page: Page, path: Path) -> None:
    """The card of the first region, out of the report that the page offers."""
    html = page.request.get(f"{page.url}download/report.html").body().decode()
    paper = browser.new_page(viewport={"width": REPORT[0], "height": REPORT[1]}, device_scale_factor=REPORT_SCALE)
    paper.set_content(html, wait_until="load")
    top = paper.evaluate("document.querySelector('article').getBoundingClientRect().top + scrollY")
    # of the whole page: in a window the notice at its top would lie over the card
    shown = paper.screenshot(full_page=True, clip={"x": 0, "y": top - 16, "width": REPORT[0], "height": REPORT[1]})
    save(shown, path)
    paper.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="a study folder; the sample study by default")
    parser.add_argument("--name", default="viewer", help="of the picture of another study")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    args = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        parser.error("Chromium is not installed; set CHROMIUM to the path of one")
    study = None if args.study is None else args.study.resolve()
    with serving(study) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = explained(browser, address, ask=study is not None)
        if study is not None:
            shot(page, args.output / f"{args.name}.png")
        else:
            shot(page, args.output / "viewer-sample.png")
            report(browser, page, args.output / "report.png")
            page.keyboard.press("2")
            open_step(page, "hbv")
            shot(page, args.output / "viewer-rationale.png")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
