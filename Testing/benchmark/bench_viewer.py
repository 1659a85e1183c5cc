"""The browser face in Chromium: page ready, frames while scrolling, evidence switch to paint, memory over ten tabs.

    python Testing/benchmark/bench_viewer.py --study FOLDER [--runs 5] [--tabs 10] [--output docs/benchmark-viewer.json]

Everything is measured in the browser, at 1280x800: a frame counts when Chromium has decoded it. The peer of scrolling
is trame_slicer's own remote views with their defaults, the same study, size and wheel events, without our front between
them and the browser; both are measured in turn, `--runs` times. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BROWSER = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZE = {"width": 1280, "height": 800}
SCROLLED, LINKED = "MR_T2W", ("MR_ADC", "MR_HBV")
WATCH = """(names) => {
  window.frames_ = [];
  if (window.watching_) return;
  window.watching_ = true;
  for (const name of names)
    for (const image of document.querySelectorAll(`[data-view=${name}] img`))
      image.addEventListener('load', () => image.decode().then(
        () => window.frames_.push([name, performance.now()]), () => {}));
}"""
PEER = Path(__file__).with_name("peer_views.py")


@contextmanager
def serving(command: list[str]) -> Iterator[tuple[str, float, int]]:
    """A server; yields its address, when it was started (monotonic) and its process."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            found = re.search(r"http://\S+", line)
            if found:
                yield found[0], began, process.pid
                return
        raise RuntimeError(f"{command[:4]} ended with {process.wait()}")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def ours(study: Path) -> list[str]:
    return [sys.executable, "-m", "MedRationaleLogic.cli", "view", str(study), "--port", "0", "--no-browser"]


def shown(page: Any, timeout_s: float = 60) -> None:
    """Wait for the first picture of the T2W view."""
    script = f"(document.querySelector('[data-view={SCROLLED}] img') ?? {{}}).naturalWidth > 50"
    page.wait_for_function(script, timeout=1000 * timeout_s, polling=20)


def open_page(browser: Any, address: str, page: Any = None) -> Any:
    """A page of its own session, opened now if none is given; close its context, too."""
    page = browser.new_context(viewport=SIZE).new_page() if page is None else page
    for attempt in range(100):
        try:
            page.goto(address)
            break
        except Exception:
            if attempt == 99:
                raise
            time.sleep(0.05)
    shown(page)
    return page


def explain(page: Any, timeout_s: float = 180) -> None:
    page.wait_for_function("trame.state.state.study.open", timeout=60_000)
    if not page.evaluate("!!trame.state.state.findings.summary || trame.state.state.job.running"):
        page.evaluate("trame.trigger('do', ['explain', {}])")
    page.wait_for_function("trame.state.state.findings.summary", timeout=1000 * timeout_s)


def scroll(page: Any, seconds: float = 4.0) -> dict[str, float]:
    """Frames a second that are decoded while the wheel turns forth and back over T2W, by view."""
    box = page.locator(f"[data-view={SCROLLED}] img").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.evaluate(WATCH, [SCROLLED, *LINKED])
    began, turn = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        page.mouse.wheel(0, 100 if (turn // 8) % 2 == 0 else -100)
        turn += 1
        time.sleep(max(0.0, began + turn / 40 - time.monotonic()))  # forty notches a second
    took = time.monotonic() - began
    frames = [name for name, _ in page.evaluate("window.frames_")]
    return {name: frames.count(name) / took for name in (SCROLLED, *LINKED)}


def until_frame(page: Any, views: list[str], action: Callable[[], object]) -> float:
    """Seconds from an input event in the page to the first frame decoded after it."""
    page.evaluate(WATCH, [SCROLLED, *LINKED])
    page.evaluate("""() => { window.began_ = null;
      for (const kind of ['wheel', 'keydown']) addEventListener(kind, (e) => { window.began_ ??= performance.now(); },
        {capture: true, once: true, passive: true}); }""")
    action()
    seen = (
        "(views) => window.frames_.filter(([name, at]) => window.began_ && views.includes(name) && at > window.began_)"
    )
    page.wait_for_function(f"(views) => ({seen})(views).length > 0", arg=views, timeout=10_000, polling=5)
    first = page.evaluate(f"(views) => ({seen})(views)[0][1] - window.began_", views)
    return float(first) / 1000


def latencies(page: Any, count: int = 12) -> list[float]:
    out = []
    for turn in range(count):
        time.sleep(0.5)  # the fine picture of the last one has come
        out.append(until_frame(page, [SCROLLED], lambda turn=turn: page.mouse.wheel(0, 100 if turn % 2 else -100)))
    return out


def switches(page: Any, count: int = 16) -> list[float]:
    """Seconds from the key J to the next concept's map on its own sequence; the first one is left out."""
    out = []
    for _ in range(count + 1):
        time.sleep(0.8)
        out.append(until_frame(page, [SCROLLED, *LINKED], lambda: page.keyboard.press("j")))
    return out[1:]


def memory_mb(root: int) -> float:
    """Proportional set size of a process and all below it: what is shared counts once."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    total, todo = 0.0, [root]
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
        total += int(found[1]) / 1024 if found else 0.0
    return total


def tabs(browser: Any, address: str, pid: int, count: int) -> list[float]:
    """Memory after each of `count` tabs was opened, explained and closed."""
    out = []
    for _ in range(count):
        page = open_page(browser, address)
        explain(page)
        time.sleep(2)
        page.context.close()
        time.sleep(26)  # the server waits twenty seconds for a page that is only reloaded
        out.append(memory_mb(pid))
        print(f"tab closed, {out[-1]:.0f} MB", flush=True)
    return out


def middle(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "n": len(values)}


def ready(browser: Any, study: Path, runs: int) -> dict[str, Any]:
    """From the start of the command to the first picture, in a window that is open already and in a new one."""
    out: dict[str, list[float]] = {"open": [], "new": []}
    for _ in range(runs):
        for window, seconds in out.items():
            page = browser.new_context(viewport=SIZE).new_page() if window == "open" else None
            time.sleep(1.0)
            with serving(ours(study)) as (address, began, _pid):
                page = open_page(browser, address, page)
                seconds.append(time.monotonic() - began)
                page.context.close()
    return {f"page ready after start, {window} window, s": middle(seconds) for window, seconds in out.items()}


def frames(browser: Any, study: Path, runs: int) -> dict[str, Any]:
    """Scrolling beside the peer, then single turns of the wheel and switches of evidence."""
    mine: dict[str, list[float]] = {}
    peers: dict[str, list[float]] = {}
    with (
        serving(ours(study)) as (address, _, _pid),
        serving([sys.executable, str(PEER), str(study), "18099"]) as peer,
    ):
        page, other = open_page(browser, address), open_page(browser, peer[0])
        time.sleep(12)  # the network is loaded meanwhile
        for _ in range(runs):
            for target, into in ((page, mine), (other, peers)):
                target.bring_to_front()
                time.sleep(1.5)
                for name, rate in scroll(target).items():
                    into.setdefault(name, []).append(rate)
        page.bring_to_front()
        turns = latencies(page)
        other.context.close()
        explain(page)
        time.sleep(4)
        maps = switches(page)
        page.context.close()
    return {
        "frames a second, scrolled": middle(mine[SCROLLED]),
        "frames a second, linked": middle([min(pair) for pair in zip(*(mine[n] for n in LINKED), strict=True)]),
        "peer's, scrolled": middle(peers[SCROLLED]),
        "ratio to the peer, scrolled": middle([a / b for a, b in zip(mine[SCROLLED], peers[SCROLLED], strict=True)]),
        "wheel to frame, s": middle(turns),
        "evidence switch to frame, s": middle(maps),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tabs", type=int, default=10)
    parser.add_argument("--parts", nargs="+", choices=("ready", "frames", "tabs"), default=["ready", "frames", "tabs"])
    parser.add_argument("--output", type=Path, help="JSON; parts that are not measured stay as they are in it")
    args = parser.parse_args()
    study = args.study.resolve()
    from playwright.sync_api import sync_playwright

    result: dict[str, Any] = {"cores": os.cpu_count(), "study": study.name, "size": "1280x800"}
    if args.output is not None and args.output.is_file():
        before = json.loads(args.output.read_text(encoding="utf-8"))
        if other := [k for k, v in result.items() if before.get(k) != v]:
            parser.error(f"{args.output} holds figures of another {', '.join(other)}; give another --output")
        result = before
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=BROWSER
        )
        if "ready" in args.parts:
            result |= ready(browser, study, args.runs)
        if "frames" in args.parts:
            result |= frames(browser, study, args.runs)
        if "tabs" in args.parts:
            with serving(ours(study)) as (address, _, pid):
                levels = tabs(browser, address, pid, args.tabs)
            result["memory after each tab, MB"] = [round(v) for v in levels]
            result["memory, last against second, MB"] = round(levels[-1] - levels[1]) if len(levels) > 1 else None
        browser.close()
    text = json.dumps(result, indent=2)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
