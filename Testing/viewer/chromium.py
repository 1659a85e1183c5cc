"""A running `medrationale view` and its page in Chromium, for tests."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import Error as PlaywrightError

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 90_000
"""What a busy machine of two cores may take; nothing here measures speed."""


@dataclass(frozen=True)
class Server:
    """A running `medrationale view`."""

    url: str
    pid: int
    root: Path

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}healthz", timeout=30) as answer:
            return dict(json.load(answer))

    def children(self) -> dict[int, str]:
        """All processes below it, by number, with their command lines."""
        found, parents = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        todo = [self.pid]
        while todo:
            parent = todo.pop()
            for pid in [p for p, of in parents.items() if of == parent]:
                with contextlib.suppress(OSError):
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                todo.append(pid)
        return found


@contextlib.contextmanager
def serving(place: Path, *arguments: str) -> Iterator[Server]:
    """A viewer on a free port; its home and its studies' root lie in ``place``. At its end nothing of it may live."""
    root = place / "studies"
    root.mkdir()
    environment = {**os.environ, "MEDRATIONALE_HOME": str(place / "home"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "MedRationaleLogic.cli", "view", "--port", "0", "--no-browser", *arguments]
    with (place / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            said = process.stdout
            assert said is not None
            url = next((found[0] for line in said if (found := re.search(r"http://\S+/", line))), None)
            assert url is not None, (place / "log.txt").read_text()
            threading.Thread(target=lambda: [None for _ in said], daemon=True).start()
            yield Server(url, process.pid, root)
            assert process.poll() is None, "the server ended by itself"
        finally:
            below = Server("", process.pid, root).children()
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [line for pid, line in below.items() if Path(f"/proc/{pid}").exists()] == []


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def state(page: Page, name: str) -> Any:
    return page.evaluate(f"JSON.parse(JSON.stringify(trame.state.state.{name} ?? null))")


SEEN = """() => window.trame?.state?.state
  ? JSON.stringify(Object.fromEntries(['job', 'notice', 'study'].map((n) => [n, trame.state.state[n]])))
  : document.body.innerText"""


def until(page: Page, condition: str) -> None:
    """Wait until the page's state ``s`` fulfils a condition; what is there instead is told."""
    script = f"(() => {{ const s = window.trame?.state?.state; return !!s && ({condition}) }})()"
    try:
        page.wait_for_function(script, timeout=PATIENCE_MS)
    except PlaywrightError as error:
        raise AssertionError(f"never: {condition}; the page has {page.evaluate(SEEN)}") from error


def do(page: Page, name: str, /, **args: Any) -> None:
    page.evaluate("([name, args]) => trame.trigger('do', [name, args])", [name, args])


def explained(page: Page) -> Page:
    until(page, "s.findings.summary && !s.job.running")
    return page


def picture(page: Page, view: str = "MR_T2W") -> np.ndarray:
    """What a view shows, once it has stood still: uint8 (y, x, 3)."""
    last, image = None, page.locator(f"[data-view={view}] img")
    for _ in range(60):
        now = image.get_attribute("src")
        if now is not None and now == last:
            break
        last = now
        page.wait_for_timeout(350)
    return np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("RGB"))
