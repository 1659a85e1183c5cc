"""The front over real sockets, with real processes that stand in for tabs: who may ask, what passes, what ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest
from aiohttp import WSMsgType
from yarl import URL

from MedRationaleLogic import cli
from MedRationaleLogic.cli import ExitCode
from MedRationaleViewer import tabs as tabs_module
from MedRationaleViewer.security import Guard
from MedRationaleViewer.self_check import self_check
from MedRationaleViewer.server import CLOSE_ENDED, Front, ListenError

FAKE = Path(__file__).with_name("fake_tab.py")


class Browser:
    """A browser with cookies of its own and one page."""

    def __init__(self, front: Front) -> None:
        self.front, self.page = front, ""
        self.client = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), auto_decompress=False)
        self.origin = f"http://127.0.0.1:{front.port}"

    async def __aenter__(self) -> Browser:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def open(self) -> str:
        """Open a tab; returns its page's address."""
        async with self.client.get(self.front.url) as answer:
            assert answer.status == 200, await answer.text()
            self.page = str(answer.url)
        return self.page

    @asynccontextmanager
    async def socket(self, page: str | None = None) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """The websocket of a page."""
        address = urljoin(page or self.page, "ws")
        async with self.client.ws_connect(address, origin=self.origin, max_msg_size=0) as found:
            yield found

    async def who(self, page: str | None = None) -> dict[str, Any]:
        """What the tab's process says of itself."""
        async with self.socket(page) as found:
            return await who(found)

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text, without following redirects."""
        url, plain = urljoin(self.origin, path), {"Accept-Encoding": "identity"}
        async with self.client.get(url, headers={**plain, **headers}, allow_redirects=False) as answer:
            return answer.status, await answer.text()


async def who(found: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    await found.send_str("!who")
    told: dict[str, Any] = json.loads(await found.receive_str())
    return told


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text() if Path("/proc/self").exists() else _signalled(pid)
    except FileNotFoundError:
        return False


def _signalled(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


# ------------------------------------------------------------------------------------------------------- page and files


async def test_a_browser_gets_a_page_of_its_own(make_front: Any) -> None:
    async with make_front() as front, Browser(front) as browser:
        page = await browser.open()
        assert re.fullmatch(rf"{browser.origin}/tab/[0-9a-f]{{32}}/", page)
        status, text = await browser.get(page)
        assert status == 200
        assert '<html lang="en"' in text
        assert "<title>MedRationale</title>" in text
        assert "Opening ..." in text
        assert "Research use only." in text
        assert not [tag for tag in re.findall(r"<script[^>]*>", text) if "src=" not in tag]
        links = re.findall(r'(?:src|href)="(/static/[^"]+)"', text)
        assert [re.sub(r"-\w+\.", ".", link.split("?")[0].split("/")[-1]) for link in links if "client" in link] == [
            "index.css", "vue.global.js", "index.js",
        ]  # fmt: skip
        assert any("/viewer/" in link for link in links)
        for link in links:
            async with browser.client.get(urljoin(page, link), headers={"Accept-Encoding": "gzip"}) as answer:
                assert answer.status == 200
                assert "immutable" in answer.headers["Cache-Control"]
                assert re.match(r"text/(javascript|css)", answer.headers["Content-Type"])
                packed, tag = await answer.read(), answer.headers["ETag"]
                assert len(packed) < 1024 or answer.headers["Content-Encoding"] == "gzip"
            status, again = await browser.get(link, **{"If-None-Match": tag})
            assert (status, again) == (304, "")
            plain = {"Accept-Encoding": "identity"}
            async with browser.client.get(urljoin(page, link.split("?")[0]), headers=plain) as answer:
                assert answer.headers["Cache-Control"] == "no-cache"
                assert "Content-Encoding" not in answer.headers
        assert (await browser.get(page.rstrip("/")))[0] == 308


async def test_what_the_client_asks_for_below_its_page(make_front: Any) -> None:
    async with make_front() as front, Browser(front) as browser:
        page = await browser.open()
        for path in ("__trame_rca_2.11.8/trame-rca.umd.js", "__trame_rca_9/style.css"):
            status, text = await browser.get(page + path)
            assert status == 200
            assert text
        for path in ("__trame_rca_9/protocol.py", "__trame_rca_9/%2e%2e/%2e%2e/protocol.py", "__other/style.css"):
            assert (await browser.get(page + path))[0] == 404
        url = urljoin(page, "paraview/")
        async with browser.client.post(url, headers={"Origin": browser.origin}, json={}) as answer:
            told = await answer.json()
        assert told == {"sessionURL": f"ws://USE_HOST{page.removeprefix(browser.origin)}ws"}
        # the client writes addresses in lower case
        assert page == page.lower()


@pytest.mark.parametrize(
    "path",
    [
        "client/../../../../etc/passwd", "client/%2e%2e/%2e%2e/vue3.py", "client/..%2f..%2f__init__.py",
        "viewer/index.html", "client/%2fetc%2fpasswd.js", "viewer/../server.py", "viewer/none.js", "client/a%00.js",
        "nothing/a.js", "rca/../../module/serve/none.css", "client/assets",
    ],
)  # fmt: skip
async def test_nothing_else_is_served(make_front: Any, path: str) -> None:
    async with make_front() as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        # a client library would tidy the path up
        writer.write(f"GET /static/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert answer.split()[1] in (b"404", b"400"), answer[:200]


async def test_every_answer_carries_the_policy(make_front: Any) -> None:
    async with make_front() as front, Browser(front) as browser:
        page = await browser.open()
        for path in ("/", page, "/healthz", "/none", "/static/viewer/none.js", "/static/client/vue.global.js",
                     "/tab/00/", f"{page}download/report.html"):  # fmt: skip
            async with browser.client.get(urljoin(page, path), allow_redirects=False) as answer:
                headers = answer.headers
            policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; ") if " " in part)
            assert policy["default-src"] in ("'self'", "'none'")
            if "download" not in path:
                assert policy["script-src"] == "'self' 'unsafe-eval'"
                assert policy["frame-ancestors"] == policy["object-src"] == "'none'"
                assert policy["base-uri"] == policy["form-action"] == "'self'"
                assert policy["connect-src"] == f"'self' ws://127.0.0.1:{front.port} wss://127.0.0.1:{front.port}"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "camera=()" in headers["Permissions-Policy"]
            assert headers["Cache-Control"] == ("no-cache" if path.endswith("vue.global.js") else "no-store")
            assert "aiohttp" not in headers["Server"]


# ---------------------------------------------------------------------------------------------------------- who may ask


async def test_two_browsers_share_nothing(make_front: Any) -> None:
    async with make_front() as front, Browser(front) as one, Browser(front) as other:
        await one.open()
        await other.open()
        mine, theirs = await asyncio.gather(one.who(), other.who())
        assert all(mine[key] != theirs[key] for key in ("pid", "secret", "folder"))
        assert Path(mine["folder"]).stat().st_mode & 0o777 == 0o700
        status, text = await other.get(one.page)
        assert status == 404
        assert "no such tab" in text
        for path in ("download/report.html", "__trame_rca_9/style.css"):
            assert (await other.get(one.page + path))[0] == 404
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await other.who(one.page)
        assert refused.value.status == 404
        # a second tab of the same browser is as apart
        first = one.page
        await one.open()
        assert (await one.who())["pid"] != mine["pid"]
        assert (await one.who(first))["pid"] == mine["pid"]


async def test_a_token_is_asked_for(make_front: Any) -> None:
    token = "s3cret-token"
    async with make_front(token=token) as front, Browser(front) as browser:
        assert front.url.endswith(f"/?token={token}")
        for path in ("/", "/tab/00/", "/static/viewer/index.html", "/static/client/vue.global.js", "/none",
                     "/?token=", "/?token=S3cret-token", "/?token=s3cret-tokeN%C3%A4"):  # fmt: skip
            status, text = await browser.get(path)
            assert status == 401, path
            assert token not in text
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await browser.who(f"{browser.origin}/tab/00/")
        assert refused.value.status == 401
        assert front.tabs.count == 0
        status, text = await browser.get("/healthz")
        assert status == 200
        async with browser.client.get(front.url, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert token not in cookie
        browser.page = ""
        async with browser.client.get(f"{browser.origin}/") as answer:
            browser.page = str(answer.url)
        assert (await browser.who())["pid"]
        async with Browser(front) as forger:
            name, value = cookie.split(";")[0].split("=")
            for forged in (value[:-1] + ("0" if value[-1] != "0" else "1"), f"x{value}", value.split(".")[0], "", "."):
                assert (await forger.get("/", Cookie=f"{name}={forged}"))[0] == 401
            assert (await forger.get(browser.page, Cookie=f"{name}={value}"))[0] == 200


def test_others_reach_it_only_with_a_token() -> None:
    with pytest.raises(ValueError, match="token is needed"):
        Front(None, host="0.0.0.0")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "known", "unknown"),
    [
        ("127.0.0.1", ["127.0.0.1", "localhost:8080", "LOCALHOST", "[::1]:80", "localhost."],
         ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "localhost@evil.example", "a b", "localhost:x",
          "localhost/evil.example", "[::1", "0.0.0.0"]),
        ("viewer.clinic", ["viewer.clinic:8080", "Viewer.Clinic", "localhost"],
         ["clinic", "10.0.0.1", "viewer.clinic.evil"]),
        ("0.0.0.0", ["10.0.0.1:8080", "[fe80::1]", "localhost", socket.gethostname()],
         ["evil.example", "10.0.0.1.evil.example", "[fe80::1%x;y]"]),
    ],
)  # fmt: skip
def test_names_that_a_server_goes_by(host: str, known: list[str], unknown: list[str]) -> None:
    guard = Guard(host, "token")
    assert [name for name in known if not guard.knows_host(name)] == []
    assert [name for name in unknown if guard.knows_host(name)] == []


async def test_another_name_or_another_page_is_refused(make_front: Any) -> None:
    async with make_front() as front, Browser(front) as browser:
        await browser.open()
        port = front.port
        for host in ("evil.example", f"evil.example:{port}", "10.0.0.1"):
            for path in ("/", browser.page, "/healthz", "/static/client/vue.global.js"):
                assert (await browser.get(path, Host=host))[0] == 403
        assert (await browser.get(browser.page, Host=f"localhost:{port}"))[0] == 200
        for origin in (None, "null", "http://evil.example", f"http://localhost:{port}", "http://127.0.0.1",
                       f"http://127.0.0.1:{port + 1}", f"file://127.0.0.1:{port}"):  # fmt: skip
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with browser.client.ws_connect(urljoin(browser.page, "ws"), origin=origin):
                    pass
            assert refused.value.status == 403
            headers = {"Origin": origin} if origin else {}
            async with browser.client.post(urljoin(browser.page, "upload"), headers=headers, data=b"") as answer:
                assert answer.status == 403
            async with browser.client.put(urljoin(browser.page, "upload"), headers=headers) as answer:
                assert answer.status == 403
        assert (await browser.who())["pid"]


async def test_other_sites_open_nothing_here(make_front: Any) -> None:
    elsewhere = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    async with make_front() as front, Browser(front) as browser:
        for headers in (elsewhere, {**elsewhere, "Sec-Fetch-Site": "same-site"}, {**link, "Sec-Fetch-Dest": "iframe"}):
            assert (await browser.get("/", **headers))[0] == 403
        assert (await browser.get("/", **{"Sec-Purpose": "prefetch;prerender"}))[0] == 503
        # a link is followed by a detour, with which the strict cookie comes along
        status, text = await browser.get('/?token=a"><b>', **link)
        assert status == 200
        assert 'content="0;url=/?token=a%22%3E%3Cb%3E"' in text
        assert front.tabs.count == 0
        await browser.open()
        assert (await browser.get("/", **{"Sec-Fetch-Site": "same-origin"}))[0] == 303
        assert front.tabs.count == 2


# ----------------------------------------------------------------------------------------------------- a tab's life


async def test_a_reload_keeps_the_tab_and_leaving_ends_it(make_front: Any) -> None:
    async with make_front(grace_s=2.0) as front, Browser(front) as browser:
        await browser.open()
        before = await browser.who()
        await asyncio.sleep(0.2)
        assert (await browser.get(browser.page))[0] == 200
        async with browser.socket() as found:
            assert (await who(found))["pid"] == before["pid"]
            await asyncio.sleep(2.3)  # longer than the grace: it counts from the end of the last
            assert (await who(found))["pid"] == before["pid"]
        folder = Path(before["folder"])
        assert folder.is_dir()
        await until(lambda: not alive(before["pid"]) and not folder.exists())
        await until(lambda: front.tabs.count == 0)
        status, text = await browser.get(browser.page)
        assert status == 404
        assert "This tab has ended." in text
        assert 'href="/"' in text
        assert not _zombies()


def _zombies() -> list[str]:
    mine = f" {os.getpid()} "
    stats = [p.read_text() for p in Path("/proc").glob("[0-9]*/stat") if p.exists()]
    return [s for s in stats if mine in s and s.rpartition(")")[2].split()[0] == "Z" and s.split()[3] == mine.strip()]


async def test_a_browser_that_never_comes(make_front: Any) -> None:
    async with make_front(first_s=0.4) as front, Browser(front) as browser:
        await browser.open()
        assert front.tabs.count == 1
        await until(lambda: front.tabs.count == 0)
        assert (await browser.get(browser.page))[0] == 404


async def test_the_page_comes_while_the_process_starts(make_front: Any) -> None:
    async with make_front(study="slow1.5") as front, Browser(front) as browser:
        await browser.open()
        (tab,) = front.tabs._tabs.values()
        async with browser.socket() as found:
            await found.send_str("early")
            assert not tab.ready
            assert await found.receive_str() == "early"


async def test_a_tab_that_dies_takes_nothing_with_it(make_front: Any) -> None:
    async with make_front(spare=True) as front, Browser(front) as one, Browser(front) as other:
        await one.open()
        await other.open()
        async with one.socket() as dying, other.socket() as living:
            before = await who(dying)
            await dying.send_str("!die")
            message = await dying.receive(10)
            assert (message.type, message.data) == (WSMsgType.CLOSE, CLOSE_ENDED)
            assert "ended" in message.extra
            await living.send_str("still here")
            assert await living.receive_str() == "still here"
            await until(lambda: front.tabs.count == 1 and not Path(before["folder"]).exists())
            status, text = await one.get(one.page)
            assert status == 404
            assert "ended by itself" in text
            # killed from outside
            os.kill((await other.who())["pid"], signal.SIGKILL)
            assert (await living.receive(10)).data == CLOSE_ENDED
        await one.open()
        assert (await one.who())["pid"] != before["pid"]


@pytest.mark.parametrize(("study", "says"), [("fails", "no graphics library"), ("crashes", "ended by itself")])
async def test_a_tab_that_does_not_start(make_front: Any, study: str, says: str) -> None:
    async with make_front(study=study, spare=True) as front, Browser(front) as browser:
        await browser.open()
        with suppress(aiohttp.WSServerHandshakeError):  # it had failed before
            async with browser.socket() as found:
                message = await found.receive(10)
                assert message.data == CLOSE_ENDED
                assert says in message.extra
        await until(lambda: front.tabs.count == 0)
        status, text = await browser.get(browser.page)
        assert status == 404
        assert says in text.lower()
        assert (await browser.get("/healthz"))[0] == 200


async def test_a_tab_that_does_not_listen_is_made_to_end(make_front: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabs_module, "END_S", 0.3)
    monkeypatch.setattr(tabs_module, "KILL_S", 0.3)
    async with make_front(study="deaf", grace_s=0.1) as front, Browser(front) as browser:
        await browser.open()
        told = await browser.who()
        await until(lambda: not alive(told["pid"]) and not Path(told["folder"]).exists())
        await browser.open()
        last = await browser.who()
    assert not alive(last["pid"])


async def test_no_more_tabs_than_may_be(make_front: Any) -> None:
    async with make_front(max_tabs=2, spare=True, grace_s=0.2) as front, Browser(front) as browser:
        await browser.open()
        first = browser.page
        await until(lambda: front.tabs.spare is not None)
        await browser.open()
        assert front.tabs.spare is None
        async with browser.socket(first) as held, browser.socket():
            await who(held)
            async with browser.client.get(f"{browser.origin}/") as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) >= 1
                assert "2 tabs are open" in await answer.text()
            await asyncio.sleep(0.2)
            assert front.tabs.spare is None
        await until(lambda: front.tabs.count == 0)
        await browser.open()
        assert (await browser.who())["pid"]


async def test_a_spare_is_ready_before_it_is_asked_for(make_front: Any) -> None:
    async with make_front(spare=True) as front, Browser(front) as browser:
        await until(lambda: front.tabs.spare is not None)
        spare = front.tabs.spare
        await until(lambda: spare.ready)
        await browser.open()
        assert (await browser.who())["pid"] == spare.pid
        await until(lambda: front.tabs.spare not in (None, spare))
        # a spare that died is not given to anybody
        dead = front.tabs.spare
        await dead.port()
        os.kill(dead.pid, signal.SIGKILL)
        await until(lambda: front.tabs.spare is not dead)
        await browser.open()
        assert (await browser.who())["pid"] != dead.pid


# ------------------------------------------------------------------------------------------------------------ passed on


async def test_messages_pass_both_ways_as_they_are(make_front: Any) -> None:
    async with make_front() as front, Browser(front) as browser:
        await browser.open()
        async with browser.socket() as found:
            big = os.urandom(20 * 2**20)
            await found.send_bytes(big)
            message = await found.receive(20)
            assert message.type == WSMsgType.BINARY
            assert message.data == big
            await found.send_str("ü" * 100_000)
            assert await found.receive_str() == "ü" * 100_000
            await found.send_bytes(b"")
            assert await found.receive_bytes() == b""


async def test_a_slow_browser_slows_its_tab_down(make_front: Any) -> None:
    async with make_front() as front, Browser(front) as browser:
        await browser.open()
        async with browser.socket() as slow, browser.socket() as watching:
            await slow.send_str("!flood")
            before = -1
            while (now := (await who(watching))["flooded"]) != before or now == 0:
                before = now
                await asyncio.sleep(0.2)
            assert now < 200, "100 MB were taken for a browser that reads nothing"
            for _ in range(400):
                assert len((await slow.receive(10)).data) == 250_000


async def test_a_close_passes_with_its_code(make_front: Any) -> None:
    async with make_front() as front, Browser(front) as browser:
        await browser.open()
        async with browser.socket() as found:
            await found.send_str("!close")
            message = await found.receive(10)
            assert (message.type, message.data) == (WSMsgType.CLOSE, 4321)
        async with browser.socket() as watching:
            async with browser.socket() as found:
                await found.close(code=4005)
            async with asyncio.timeout(10):
                while (await who(watching))["code"] != 4005:
                    await asyncio.sleep(0.02)


async def test_downloads(make_front: Any, fake_tab: Any) -> None:
    async with make_front() as front, Browser(front) as browser:
        page = await browser.open()
        async with browser.client.get(f"{page}download/report.html") as answer:
            assert await answer.text() == "<p>report</p>"
            assert answer.headers["Content-Disposition"] == 'attachment; filename="report.html"'
            assert answer.headers["Content-Length"] == "13"
            assert "sandbox" in answer.headers["Content-Security-Policy"]
            assert "X-Inner" not in answer.headers
        async with browser.client.get(f"{page}download/big.bin") as answer:
            assert await answer.read() == b"x" * fake_tab.BIG
            assert answer.headers["Content-Disposition"] == "attachment"
        assert await browser.get(f"{page}download/none") == (404, "no such download")
        assert (await browser.get(f"{page}download/elsewhere"))[0] == 502
        assert (await browser.get(f"{page}download/..%2fws"))[0] == 404
        async with browser.client.get(f"{page}download/breaks.bin") as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()


def form(size: int, name: str = "t2w.nii.gz") -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("file", b"x" * size, filename=name)
    return data


async def test_uploads(make_front: Any) -> None:
    async with make_front(upload_mb=2) as front, Browser(front) as browser:
        page, headers = await browser.open(), {"Origin": browser.origin}
        async with browser.client.post(f"{page}upload", headers=headers, data=form(2**20)) as answer:
            assert (answer.status, (await answer.json())["files"]) == (200, {"t2w.nii.gz": 2**20})
        # within what the front lets through: the tab refuses it, and its words pass
        async with browser.client.post(f"{page}upload", headers=headers, data=form(2**21 + 1)) as answer:
            assert answer.status == 413
            assert "2 MiB" in (await answer.json())["error"]
        # it says how large it is: refused before it is sent
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        cookie = browser.client.cookie_jar.filter_cookies(URL(page)).output(header="", sep=";").strip()
        head = f"POST {page.removeprefix(browser.origin)}upload HTTP/1.1\r\nHost: 127.0.0.1:{front.port}\r\n"
        head += f"Origin: {browser.origin}\r\nCookie: {cookie}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        writer.write(f"{head}Content-Length: 99000000\r\n\r\n".encode())
        assert b" 413 " in await asyncio.wait_for(reader.readline(), 10)
        writer.close()

        # it does not say so: refused once it has become too large
        async def endless() -> AsyncIterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'
            while True:
                yield bytes(100_000)

        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        status = 413
        try:
            async with browser.client.post(f"{page}upload", headers={**headers, **kind}, data=endless()) as answer:
                status = answer.status
        except aiohttp.ClientError:  # the connection was closed while it was being sent
            pass
        assert status == 413
        folder = Path((await browser.who())["folder"]) / "uploads"
        await until(lambda: len(list(folder.iterdir())) == 1)
        # broken off by the browser
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(f"{head}Content-Length: 1000000\r\n\r\n--b\r\n".encode())
        writer.write(b'Content-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n' + bytes(5000))
        await until(lambda: len(list(folder.iterdir())) == 2)
        writer.close()
        await until(lambda: len(list(folder.iterdir())) == 1)
        assert (await browser.who())["pid"]


# ---------------------------------------------------------------------------------------------------- the whole server


async def test_health_tells_little(make_front: Any, fake_tab: Any, tmp_path: Path) -> None:
    model = fake_tab.FakeModel(tmp_path / "rooms")
    async with make_front(model=lambda: model) as front, Browser(front) as browser:
        await browser.open()
        told = await browser.who()
        assert told["rooms"] == str(tmp_path / "rooms")
        health = json.loads((await browser.get("/healthz"))[1])
        assert set(health) == {"status", "version", "bundle", "model", "tabs"}
        assert (health["status"], health["model"], health["bundle"], health["tabs"]) == (
            "ok", "ready", "medrationale-bpmri", 1,
        )  # fmt: skip
        await until(lambda: model.calls.count("check") >= 2)  # one that goes wrong is not the last
    assert model.calls[0] == "start"
    assert model.calls[-1] == "close"


async def test_a_network_that_is_not_started_yet_is_starting(make_front: Any, fake_tab: Any, tmp_path: Path) -> None:
    model = fake_tab.FakeModel(tmp_path / "rooms")
    model.state = {"state": "closed", "bundle": None}  # as the shared network says until it is started
    async with make_front(model=lambda: model) as front, Browser(front) as browser:
        health = json.loads((await browser.get("/healthz"))[1])
        assert (health["model"], health["bundle"]) == ("starting", None)


async def test_without_the_shared_network_each_tab_has_its_own(make_front: Any) -> None:
    def broken() -> Any:
        raise OSError("no temporary folder")

    async with make_front(model=broken) as front, Browser(front) as browser:
        await browser.open()
        assert (await browser.who())["rooms"] is None
        assert json.loads((await browser.get("/healthz"))[1])["model"] == "none"


async def test_the_end_of_the_front_is_the_end_of_all(make_front: Any) -> None:
    async with make_front(spare=True) as front, Browser(front) as browser:
        await browser.open()
        told = await browser.who()
        await until(lambda: front.tabs.spare is not None and front.tabs.spare.pid)
        spare = front.tabs.spare.pid
        async with browser.socket() as found:
            await who(found)
            await front.close()
            message = await found.receive(10)
            assert (message.type, message.data) == (WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)
        assert not alive(told["pid"])
        assert not alive(spare)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", front.port)


@asynccontextmanager
async def separate_front(tmp_path: Path, *options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The front in a process of its own, which begins in this folder; yields it and its address."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(FAKE),
        *options,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
    )
    try:
        assert process.stdout is not None
        yield process, (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(process.communicate(), 20)  # until everything that it started has let go of it


async def who_of(client: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with client.get(url) as answer:
        page = str(answer.url)
    async with client.ws_connect(urljoin(page, "ws"), origin=url.rstrip("/")) as found:
        return await who(found)


async def test_a_front_that_others_can_reach(tmp_path: Path) -> None:
    # what lies in the folder where it is started is not taken for a part of it
    (tmp_path / "fake_tab.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w')")
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        separate_front(tmp_path, "host=0.0.0.0") as (process, url),
        aiohttp.ClientSession(cookie_jar=jar) as client,
    ):
        bare, _, token = url.partition("?token=")
        assert len(token) >= 40
        async with client.get(bare) as answer:
            assert answer.status == 401
        async with client.get(url) as answer:
            page = str(answer.url)
        assert token not in page
        async with client.ws_connect(urljoin(page, "ws"), origin=bare.rstrip("/")) as found:
            assert (await who(found))["pid"]
        process.terminate()
        assert process.stderr is not None
        assert "not encrypted" in (await process.stderr.read()).decode()
    assert not (tmp_path / "taken").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_a_front_that_is_ended_from_outside(tmp_path: Path, number: signal.Signals) -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    async with separate_front(tmp_path) as (process, url), aiohttp.ClientSession(cookie_jar=jar) as client:
        told = await who_of(client, url)
        assert Path(told["folder"]).is_relative_to(tmp_path)
        process.send_signal(number)
        code = await asyncio.wait_for(process.wait(), 15)
        assert code == (-9 if number == signal.SIGKILL else 0)
        await until(lambda: not alive(told["pid"]))
    left = list(tmp_path.glob("medrationale-view-*"))
    if number != signal.SIGKILL:
        assert left == []
        return
    # killed, it could not clear up: the next one does, and leaves alone what is in use
    (mine,) = left
    os.utime(mine, (0, 0))
    held, young = tmp_path / "medrationale-view-held", tmp_path / "medrationale-view-young"
    for folder in (held, young):
        folder.mkdir()
    os.utime(held, (0, 0))
    lock = tabs_module._lock(held)
    assert lock is not None
    async with separate_front(tmp_path) as (process, url):
        await until(lambda: not mine.exists())
        assert held.is_dir()
        assert young.is_dir()
        process.terminate()
        await process.wait()
    os.close(lock)


async def test_a_port_in_use(make_front: Any) -> None:
    async with make_front() as front:
        with pytest.raises(ListenError, match=f"port {front.port} is in use") as found:
            async with make_front(port=front.port):
                pass
        assert found.value.option == "--port"
    with pytest.raises(ListenError, match="cannot be listened on") as found:
        async with make_front(host="192.0.2.1", token="t"):
            pass
    assert found.value.option == "--host"


# --------------------------------------------------------------------------------------------------------- self-check


async def test_the_self_check_finds_a_whole_viewer(make_front: Any) -> None:
    async with make_front(study="trame", token="t0ken", grace_s=0.3) as front:
        checks = await self_check(front.url)
    assert [check.name for check in checks] == ["page", "files", "study", "picture", "explanation", "end"]
    assert all(check.ok for check in checks), checks
    details = {check.name: check.detail for check in checks}
    assert details["study"] == "Sample study"
    assert details["picture"] == "MR_T2W, 9000 bytes"
    assert details["explanation"] == "category 4, 0 regions"


async def test_the_self_check_finds_what_is_wrong(make_front: Any) -> None:
    async with make_front(study="trame") as front:
        url = front.url
        front.guard.token = "another"
        checks = await self_check(url)
        assert [(check.name, check.ok) for check in checks] == [("page", False)]
        assert "401" in checks[0].detail
    checks = await self_check(url)
    assert [(check.name, check.ok) for check in checks] == [("page", False)]
    async with make_front(study="fails") as front:
        checks = await self_check(front.url)
        assert [check.ok for check in checks] == [True, True, False]
        assert "4001" in checks[-1].detail or "404" in checks[-1].detail


# -------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is forked ahead."""
    monkeypatch.setattr(tabs_module, "warm", lambda *_: None)


def test_the_command_refuses_before_it_starts(
    cold: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(*arguments: str) -> tuple[int, str]:
        code = cli.run(["view", "--no-browser", *arguments])
        told = capsys.readouterr()
        assert told.out == ""
        return code, " ".join(told.err.replace("│", " ").split())

    assert says(str(tmp_path / "none"))[0] == ExitCode.BAD_STUDY
    assert "there is no such file" in says(str(tmp_path / "none"))[1]
    assert "the folder is empty" in says(str(tmp_path))[1]
    (tmp_path / "file").write_text("")
    code, text = says("--root", str(tmp_path / "file"))
    assert code == ExitCode.USAGE
    assert "--root" in text
    assert says("--bundle", "no-such-bundle", "--port", "0")[0] == ExitCode.MISSING
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        code, text = says("--port", str(port))
        assert code == ExitCode.USAGE
        assert f"port {port} is in use" in text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "trame_slicer" else True)
    code, text = says("--port", "0")
    assert code == ExitCode.MISSING
    assert 'pip install -c requirements/constraints.txt -e ".[viewer]"' in text
    assert "trame-slicer;" in text


def test_the_front_reads_no_heavy_library() -> None:
    program = "import sys, MedRationaleViewer.serve; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "vtk", "vtkmodules", "slicer", "trame", "trame_server", "trame_client", "trame_slicer", "numpy"}
    assert heavy & {name.partition(".")[0] for name in loaded} == set()
