"""Whether a running viewer works, asked as a browser asks it: page, files, websocket, picture, explanation, end.

    checks = await self_check("http://127.0.0.1:8080/")
    all(check.ok for check in checks)

Speaks trame's protocol over the same websocket as its client; no browser is needed. Research use only.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgpack
from wslink.chunking import UnChunker, generate_chunks

__all__ = ["Check", "Page", "self_check"]

SECRET: Final = "wslink-secret"
"""Known to every client; who may ask is decided before the websocket."""
VIEWS: Final = ("MR_T2W", "MR_ADC", "MR_HBV", "MR_3D")
NEEDED_HEADERS: Final = ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cache-Control")
ANSWER_S: Final = 60.0
"""For a process to start and a study to be read."""
END_S: Final = 30.0


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what was checked.
        ok: whether it held.
        detail: what was found, or what went wrong.
        seconds: it took.
    """

    name: str
    ok: bool
    detail: str
    seconds: float


class _FailedError(Exception):
    pass


async def self_check(url: str, *, explain_s: float = 300.0) -> list[Check]:
    """Check a running viewer in the order in which a user meets it; stops at what fails.

    Args:
        url: as the server prints it, with the token if there is one.
        explain_s: an explanation must arrive after so long.
    """
    checks: list[Check] = []
    # cookies of an address without a name are kept only by an "unsafe" jar
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as client:
        try:
            async with _timed(checks, "page") as found:
                address, text = await _open(client, url)
                found.append("opens with its policy")
            async with _timed(checks, "files") as found:
                found.append(f"{await _load_files(client, address, text)} files of the page")
            async with Page.connect(client, address) as page:
                await _check_page(checks, page, explain_s)
            async with _timed(checks, "end") as found:
                await _wait_ended(client, url)
                found.append("the closed tab's process is gone")
        except _FailedError:
            pass
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            checks.append(Check("connection", False, f"{type(error).__name__}: {error}", 0.0))
    return checks


@asynccontextmanager
async def _timed(checks: list[Check], name: str) -> AsyncIterator[list[str]]:
    """Adds a check of what is done within; whatever goes wrong there ends the self-check."""
    began, found = time.monotonic(), list[str]()
    try:
        yield found
    except Exception as error:
        text = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        checks.append(Check(name, False, text, time.monotonic() - began))
        raise _FailedError from error
    checks.append(Check(name, True, "; ".join(found), time.monotonic() - began))


async def _open(client: aiohttp.ClientSession, url: str) -> tuple[str, str]:
    """Open a tab; returns its address and its page."""
    async with client.get(url) as answer:
        text = await answer.text()
        if answer.status != 200:
            raise RuntimeError(f"the page answers {answer.status}")
        missing = [name for name in NEEDED_HEADERS if name not in answer.headers]
        if missing:
            raise RuntimeError(f"the page lacks {', '.join(missing)}")
        if not re.search(r"/tab/[0-9a-f]+/$", answer.url.path):
            raise RuntimeError("the page is no tab's")
        return str(answer.url), text


async def _load_files(client: aiohttp.ClientSession, address: str, text: str) -> int:
    links = re.findall(r'<(?:script|link)[^>]*\b(?:src|href)="(/[^"]+)"', text)
    for link in links:
        async with client.get(urljoin(address, link)) as answer:
            if answer.status != 200 or not await answer.read():
                raise RuntimeError(f"{urlsplit(link).path} answers {answer.status}")
    if not links:
        raise RuntimeError("the page names no files")
    return len(links)


async def _check_page(checks: list[Check], page: Page, explain_s: float) -> None:
    async with _timed(checks, "study") as found:
        await page.begin()
        await page.until(lambda: bool(page.section("study").get("open")), ANSWER_S)
        found.append(str(page.section("study").get("name", "")))
    async with _timed(checks, "picture") as found:
        await page.ask_pictures()
        await page.until(lambda: bool(page.pictures), ANSWER_S)
        name, size = next(iter(page.pictures.items()))
        found.append(f"{name}, {size} bytes")
    async with _timed(checks, "explanation") as found:
        # the sample is explained without being asked
        await asyncio.sleep(0.5)
        if not page.section("study").get("explained") and not page.section("job").get("running"):
            await page.do("explain")
        await page.until(lambda: page.explained() or page.failure() != "", explain_s)
        if not page.explained():
            raise RuntimeError(page.failure())
        findings = page.section("findings")
        count = len(findings.get("lesions", []))
        category = findings["summary"].get("category")
        found.append(f"category {category}, {count} {'region' if count == 1 else 'regions'}")


async def _wait_ended(client: aiohttp.ClientSession, url: str) -> None:
    health = urljoin(url, "/healthz")
    async with asyncio.timeout(END_S):
        while True:
            async with client.get(health) as answer:
                if (await answer.json())["tabs"] == 0:
                    return
            await asyncio.sleep(0.1)


class Page:
    """A tab's page as its server sees it: trame's protocol on a websocket.

    Attributes:
        state: what the page shows, by key.
        pictures: bytes of the last picture, by view.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.state: dict[str, Any] = {}
        self.pictures: dict[str, int] = {}
        self._socket, self._count = socket, 0
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._changed = asyncio.Event()
        self._lost = ""

    @classmethod
    @asynccontextmanager
    async def connect(cls, client: aiohttp.ClientSession, address: str) -> AsyncIterator[Page]:
        """Connect to a tab's page.

        Args:
            client: whose cookies open the tab.
            address: of the tab's page.
        """
        parts = urlsplit(address)
        origin = f"{parts.scheme}://{parts.netloc}"
        async with client.ws_connect(urljoin(address, "ws"), origin=origin, max_msg_size=0) as socket:
            page = cls(socket)
            reading = asyncio.create_task(page._read())
            try:
                yield page
            finally:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading

    async def begin(self) -> None:
        """Say hello, and get the whole state as the client does."""
        await self.call("wslink.hello", [{"secret": SECRET}], id="system:c0:0")
        self.state.update((await self.call("trame.state.get"))["state"])
        self._changed.set()
        await self.call("trame.lifecycle.update", ["client_connected"])

    async def do(self, name: str, **args: Any) -> None:
        """Ask for a command as the page does."""
        await self.call("trame.trigger", ["do", [name, args], {}])

    async def ask_pictures(self) -> None:
        """Tell the views their size; they are drawn for it."""
        for name in VIEWS:
            await self.call("trame.rca.size", [name, {}, {"w": 400, "h": 300, "p": 1}])

    async def call(self, method: str, args: list[Any] | None = None, *, id: str | None = None) -> Any:
        """Call a procedure of the server and wait for its answer.

        Raises:
            RuntimeError: the server could not do it, or the websocket has closed.
        """
        self._count += 1
        id = id or f"rpc:c0:{self._count}"
        answer = self._answers[id] = asyncio.get_running_loop().create_future()
        packed = msgpack.packb({"wslink": "1.0", "id": id, "method": method, "args": args or [], "kwargs": {}})
        for chunk in generate_chunks(packed, 0):
            await self._socket.send_bytes(chunk)
        if self._lost:
            raise RuntimeError(self._lost)
        async with asyncio.timeout(ANSWER_S):
            return await answer

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for something to become true.

        Raises:
            TimeoutError: it did not in time.
            RuntimeError: the websocket has closed.
        """
        async with asyncio.timeout(seconds):
            while not condition():
                if self._lost:
                    raise RuntimeError(self._lost)
                self._changed.clear()
                await self._changed.wait()

    def section(self, key: str) -> dict[str, Any]:
        """A part of the state; empty before it is known."""
        return self.state.get(key) or {}

    def explained(self) -> bool:
        """Whether the explanation is shown."""
        return self.section("findings").get("summary") is not None

    def failure(self) -> str:
        """Why there will be no explanation; empty while there may be one."""
        job = self.section("job")
        if job.get("state") in ("failed", "cancelled"):
            return str(job.get("message") or f"the explanation was {job['state']}")
        notice = self.section("notice")
        return str(notice.get("text")) if notice.get("kind") == "error" else ""

    async def _read(self) -> None:
        join = UnChunker()
        join.set_max_message_size(2**32)
        async for message in self._socket:
            if message.type == aiohttp.WSMsgType.BINARY and (whole := join.process_chunk(message.data)) is not None:
                self._take(whole)
        self._lost = f"the websocket was closed ({self._socket.close_code})"
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(RuntimeError(self._lost))
        self._changed.set()

    def _take(self, message: Any) -> None:
        id = str(message.get("id", ""))
        if id.startswith("publish:trame.state.topic"):
            self.state.update(message["result"])
        elif id.startswith("publish:trame.rca.topic.stream"):
            picture = message["result"]
            if picture.get("content"):
                self.pictures[str(picture["name"])] = len(picture["content"])
        elif (answer := self._answers.pop(id, None)) is not None and not answer.done():
            if "error" in message:
                answer.set_exception(RuntimeError(str(message["error"].get("message", "the server failed"))))
            else:
                answer.set_result(message.get("result"))
        self._changed.set()
