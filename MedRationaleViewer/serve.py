"""``medrationale view`` from its options to its end: the front with the real tabs and the shared network."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from MedRationaleViewer.security import is_loopback
from MedRationaleViewer.server import Front, ListenError, Model
from MedRationaleViewer.tab_options import TabOptions
from MedRationaleViewer.tabs import Tabs, Target, run_tab

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ListenError", "Wishes", "run"]

CHECK_GRACE_S: Final = 1.0
"""The self-check waits for its tab to be ended."""


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for, checked.

    Attributes:
        study: opened first; None: the sample study.
        root: studies can be chosen below it; None: none can.
        host, port: to listen on.
        browser: open one.
        read_only, bundle, device, upload_mb: as in :class:`~MedRationaleViewer.tab_options.TabOptions`.
        max_tabs: browser tabs at a time.
        headless: check that all of it works, and end.
    """

    study: Path | None = None
    root: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    browser: bool = True
    read_only: bool = False
    bundle: str | None = None
    device: str = "auto"
    upload_mb: int = 512
    max_tabs: int = 12
    headless: bool = False


def run(wishes: Wishes, *, target: Target = run_tab, model: Callable[[], Model] | None = None) -> int:
    """Serve until the process is asked to end, or the self-check is through; returns the exit code.

    The address is printed on standard output once it is listened on, and nothing else is.

    Args:
        wishes: what is asked for.
        target: what runs in each tab's process.
        model: makes the shared network.

    Raises:
        ListenError: the port or the address cannot be had.
    """
    return asyncio.run(_serve(wishes, target, model or (lambda: _model(wishes))))


async def _serve(wishes: Wishes, target: Target, model: Callable[[], Model]) -> int:
    options = TabOptions(
        secret="", folder="", rooms=None, root=_text(wishes.root), study=_text(wishes.study),
        read_only=wishes.read_only, bundle=wishes.bundle, device=wishes.device, upload_mb=wishes.upload_mb,
    )  # fmt: skip
    tabs = Tabs(target, options, max_tabs=wishes.max_tabs)
    if wishes.headless:
        tabs.grace_s = CHECK_GRACE_S
    token = None if is_loopback(wishes.host) else secrets.token_urlsafe(32)
    front = Front(tabs, host=wishes.host, port=wishes.port, token=token, model=model, upload_mb=wishes.upload_mb)
    ended = _signals()
    async with front:
        print(front.url, flush=True)
        if wishes.headless:
            return await _headless(front, ended)
        _say(wishes, token)
        if wishes.browser:
            threading.Thread(target=_open_browser, args=(front.url,), daemon=True).start()
        await ended.wait()
    return 0


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _model(wishes: Wishes) -> Model:
    from MedRationaleLogic.inference.shared import SharedModel

    return SharedModel(wishes.bundle, wishes.device)  # type: ignore[arg-type]


def _signals() -> asyncio.Event:
    """Set when the process is asked to end."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows: Ctrl-C cancels asyncio.run instead
            loop.add_signal_handler(number, ended.set)
    return ended


def _say(wishes: Wishes, token: str | None) -> None:
    print("Ctrl-C ends the viewer. Research use only.", file=sys.stderr, flush=True)
    if token is not None:
        print(
            "Whoever has this address can use the viewer, and what passes between is not encrypted: use it in a "
            "network that you trust, or behind a proxy that encrypts.",
            file=sys.stderr,
            flush=True,
        )


async def _headless(front: Front, ended: asyncio.Event) -> int:
    from MedRationaleViewer.self_check import self_check

    checking, stopping = asyncio.create_task(self_check(front.url)), asyncio.create_task(ended.wait())
    await asyncio.wait((checking, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not checking.done():
        checking.cancel()
        return 1
    checks = checking.result()
    for check in checks:
        print(
            f"{'ok    ' if check.ok else 'FAILED'} {check.name:12} {check.seconds:6.1f} s  {check.detail}",
            file=sys.stderr,
        )
    return 0 if checks and all(check.ok for check in checks) else 1


def _open_browser(url: str) -> None:
    import webbrowser

    with suppress(webbrowser.Error):
        browser = webbrowser.get()
        # a browser of the terminal would take it over, and shows no pictures
        if type(browser) is not webbrowser.GenericBrowser:
            browser.open(url)
