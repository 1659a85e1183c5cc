"""The front: what browsers talk to. It gives each tab its process, passes requests on to it, and keeps the rest alive.

    GET  /                       a new tab; the browser is sent on to it
    GET  /tab/{id}/              its page; at once, also while its process is being started
         /tab/{id}/ws            websocket  \\
    GET  /tab/{id}/download/...             |  passed on to the tab's process
    POST /tab/{id}/upload                  /
    GET  /static/{module}/...    trame's client, trame-rca and our own files
    GET  /healthz                for scripts and supervisors; open to everybody

What of a tab dies with its process; the front and the other tabs go on. See :mod:`MedRationaleViewer.security` for who
may ask. Research use only.
"""

from __future__ import annotations

import asyncio
import errno
import html
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol, Self, TypeVar

import aiohttp
from aiohttp import WSMsgType, web

from MedRationaleLogic import __version__
from MedRationaleViewer.assets import Asset, Assets
from MedRationaleViewer.security import Guard, is_loopback, response_headers
from MedRationaleViewer.studies import MIB, too_large
from MedRationaleViewer.tab_options import SECRET_HEADER
from MedRationaleViewer.tabs import Tab, TabError, Tabs, TooManyTabsError

__all__ = ["CLOSE_ENDED", "Front", "ListenError", "Model"]

CLOSE_ENDED: Final = 4001
"""A websocket is closed with this when the tab's process has ended or could not be started."""
MAX_MESSAGE: Final = 256 * MIB
"""Of a tab; a picture is far below it, and trame cuts what is longer than 4 MiB."""
MAX_ASKED: Final = 64 * MIB
"""Of a browser; files do not come this way."""
HEARTBEAT_S: Final = 30.0
"""A browser that does not answer for half of this is gone, whatever its network says."""
CHUNK: Final = 256 * 1024
UPLOAD_OVERHEAD: Final = MIB
"""What names and boundaries may add to an upload."""
FIRST_PAGE_S: Final = 8.0
"""The network is loaded after the first tab has its study, or after so long."""
PAINT_S: Final = 0.8
"""So long the first page has both cores to be painted."""
CHECK_S: Final = 1.0

_PASSED_ON: Final = ("Content-Type", "Content-Length", "Content-Disposition")
_NO_CODE: Final = (None, 1005, 1006, 1015)
_FOREVER: Final = "public, max-age=31536000, immutable"

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Model(Protocol):
    """The shared network, see :class:`~MedRationaleLogic.inference.shared.SharedModel`."""

    @property
    def rooms(self) -> Any:
        """Folder through which tabs reach it."""

    @property
    def state(self) -> Mapping[str, Any]:
        """How it stands; of it ``state`` and ``bundle`` are told to everybody."""

    def start(self) -> None:
        """Start its process; returns at once."""

    def check(self) -> None:
        """Start it again if it has died."""

    def close(self) -> None:
        """End it."""


class ListenError(RuntimeError):
    """The address cannot be listened on; the text says why and what to do.

    Attributes:
        option: of the command line, that another value of would help.
    """

    def __init__(self, text: str, option: str) -> None:
        super().__init__(text)
        self.option = option


class Front:
    """The server; see the module's text.

        async with Front(tabs, port=0) as front:
            print(front.url)

    Args:
        tabs: not started yet.
        host: to listen on.
        port: 0 picks a free one.
        token: browsers must know it; needed for any host but this machine's own names.
        model: makes the shared network; called, like all its methods, beside the event loop. Without one, or when it
            fails, each tab has a network of its own.
        upload_mb: an upload may be so large, in MiB.

    Raises:
        ValueError: a host that others can reach, without a token.
    """

    def __init__(
        self,
        tabs: Tabs,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        token: str | None = None,
        model: Callable[[], Model] | None = None,
        upload_mb: int = 512,
    ) -> None:
        if token is None and not is_loopback(host):
            raise ValueError(f"a token is needed to listen on {host}")
        # the name may stand for two addresses, each with a free port of its own
        self.tabs, self.host, self.port = tabs, "127.0.0.1" if host.lower() == "localhost" else host, port
        self.guard = Guard(host, token)
        self._assets = Assets()
        self._make_model = model
        self._model: Model | None = None
        # the network is looked after from one thread, which lives as long as the front
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._upload_mb = upload_mb
        self._tabs_up = asyncio.Event()
        self._sockets: set[web.WebSocketResponse] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    # ------------------------------------------------------------------------------------------------ beginning, end

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """Where it is, with the token if there is one; on all addresses, this machine's own name for itself."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        address = f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"
        return address if self.guard.token is None else f"{address}?token={self.guard.token}"

    async def start(self) -> None:
        """Listen; the network and the first tab's process are brought up meanwhile.

        Raises:
            ListenError: the port or the address cannot be had.
        """
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        self._runner = web.AppRunner(self._application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host or None, self.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            await self._client.close()
            raise _listen_error(error, self.host, self.port) from error
        self.port = self._runner.addresses[0][1]
        self._keep(self._bring_up())

    async def close(self) -> None:
        """End the tabs, the network and the server; returns when nothing of it is left."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        for socket in list(self._sockets):
            with suppress(Exception):
                await socket.close(code=aiohttp.WSCloseCode.GOING_AWAY, message=b"the viewer is ending", drain=False)
        await self.tabs.close()
        await self._client.close()
        await self._runner.cleanup()
        if self._model is not None:
            await self._in_its_thread(self._model.close)
        self._beside.shutdown(wait=False)

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _in_its_thread(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._beside, action)

    async def _bring_up(self) -> None:
        try:
            if self._make_model is not None:
                self._model = await self._in_its_thread(self._make_model)
                self.tabs.options = replace(self.tabs.options, rooms=str(self._model.rooms))
        except Exception as error:
            _log.warning("the shared network did not start (%s: %s); each tab has its own", type(error).__name__, error)
            self._make_model = None
        try:
            self.tabs.start()
            self._tabs_up.set()
            await asyncio.to_thread(self._assets.index)  # packed before it is asked for
        except OSError as error:
            _log.error("no tab can be opened: %s: %s", type(error).__name__, error)
        finally:
            self._tabs_up.set()
        if self._model is None:
            return
        # the first page before the network: both at once would keep the reader waiting for either
        await self.tabs.first_open(FIRST_PAGE_S)
        await asyncio.sleep(PAINT_S)
        try:
            await self._in_its_thread(self._model.start)
        except Exception as error:
            _log.warning("the shared network did not start: %s: %s", type(error).__name__, error)
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                await self._in_its_thread(self._model.check)
            except Exception as error:
                _log.warning("the shared network could not be looked after: %s: %s", type(error).__name__, error)

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._gate], client_max_size=CHUNK)
        app.on_response_prepare.append(self._add_headers)
        route, tab = app.router, "/tab/{id:[0-9a-f]+}"
        route.add_get("/", self._new_tab, allow_head=False)
        route.add_get(tab, self._slash)
        route.add_get(f"{tab}/", self._page)
        route.add_get(f"{tab}/ws", self._websocket, allow_head=False)
        route.add_get(f"{tab}/download/{{name:[A-Za-z0-9._-]+}}", self._download, allow_head=False)
        route.add_post(f"{tab}/upload", self._upload)
        route.add_post(f"{tab}/paraview/", self._session)
        route.add_get(f"{tab}/{{module:__[A-Za-z0-9._-]+}}/{{path:.+}}", self._module)
        route.add_get("/static/{module:[a-z]+}/{path:.+}", self._static)
        route.add_get("/healthz", self._health)
        route.add_get("/favicon.ico", self._no_icon)
        return app

    # ------------------------------------------------------------------------------------------------------ the gate

    @property
    def _cookie(self) -> str:
        # cookies do not tell ports apart, and another viewer may run on this machine
        return f"medrationale-{self.port}"

    def _browser(self, request: web.Request) -> str | None:
        return self.guard.browser(request.cookies.get(self._cookie))

    @web.middleware
    async def _gate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return self._refusal(request) or await handler(request)
        except _NoTabError as error:
            if request.method == "POST":
                return web.json_response({"error": " ".join(error.texts)}, status=404)
            return _page(404, *error.texts, home=True)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            known = {404: "There is no such page here.", 405: "This is not how this page is asked for."}
            return _page(error.status, known.get(error.status, error.reason), home=True)

    def _refusal(self, request: web.Request) -> web.Response | None:
        """What a request gets that may not pass; None for one that may."""
        host = request.headers.get("Host")
        if not self.guard.knows_host(host):
            return _page(
                403, "This server does not go by the name in the address.", f"Start it with --host {host or ''}"
            )
        socket = "upgrade" in request.headers.get("Connection", "").lower()
        if request.method not in ("GET", "HEAD") or socket:
            if not self.guard.same_origin(request.headers.get("Origin"), host):
                return _page(403, "This request came from another page than the viewer's.")
        elif refused := _from_elsewhere(request):
            return refused
        if request.path == "/healthz":
            return None
        if self.guard.token is None:
            return None
        browser = self._browser(request)
        if request.method == "GET" and self.guard.opens(request.query.get("token", "")):
            response = web.Response(status=303, headers={"Location": _here(request.path)})
            self._set_cookie(response, self.guard.new_cookie() if browser is None else None)
            return response
        if browser is None:
            return _page(401, "This viewer asks for its token.", "Open the whole address that the server printed.")
        return None

    def _set_cookie(self, response: web.Response, value: str | None) -> None:
        if value is not None:
            response.set_cookie(self._cookie, value, httponly=True, samesite="Strict", path="/")

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        host = request.headers.get("Host", "")
        headers = response_headers(host if self.guard.knows_host(host) else "localhost")
        for name, value in {**headers, "Cache-Control": "no-store"}.items():
            if name == "Server" or name not in response.headers:
                response.headers[name] = value

    # --------------------------------------------------------------------------------------------------------- pages

    async def _new_tab(self, request: web.Request) -> web.Response:
        await self._tabs_up.wait()
        browser, cookie = self._browser(request), None
        if browser is None:
            cookie = self.guard.new_cookie()
            browser = self.guard.browser(cookie)
        try:
            tab = self.tabs.open(str(browser))
        except TooManyTabsError as error:
            wait = max(1, round(self.tabs.grace_s))
            response = _page(
                503, f"{error}.", f"Close one; a closed tab is freed after {wait} s. Then try again.", home=True
            )
            response.headers["Retry-After"] = str(wait)
            return response
        except TabError as error:
            return _page(503, f"{error}.")
        response = web.Response(status=303, headers={"Location": f"/tab/{tab.id}/"})
        self._set_cookie(response, cookie)
        return response

    async def _slash(self, request: web.Request) -> web.Response:
        return web.Response(status=308, headers={"Location": f"{request.path}/"})

    async def _page(self, request: web.Request) -> web.Response:
        self._tab(request)
        return web.Response(body=self._assets.index(), content_type="text/html", charset="utf-8")

    def _tab(self, request: web.Request) -> Tab:
        """The tab that a request is for.

        Raises:
            web.HTTPNotFound: it has ended, or never was this browser's.
        """
        id, browser = request.match_info["id"], self._browser(request)
        tab = self.tabs.get(id, browser)
        if tab is None:
            why = self.tabs.ended(id, browser)
            raise _NoTabError(why)
        return tab

    async def _session(self, request: web.Request) -> web.Response:
        """trame's client asks for its websocket's address here, before it makes up its own."""
        tab = self._tab(request)
        return web.json_response({"sessionURL": f"ws://USE_HOST/tab/{tab.id}/ws"})

    async def _module(self, request: web.Request) -> web.Response:
        self._tab(request)
        return self._file(request, self._assets.of_client(request.match_info["module"], request.match_info["path"]))

    async def _static(self, request: web.Request) -> web.Response:
        return self._file(request, self._assets.get(request.match_info["module"], request.match_info["path"]))

    @staticmethod
    def _file(request: web.Request, asset: Asset | None) -> web.Response:
        if asset is None:
            raise web.HTTPNotFound
        tag = f'"{asset.version}"'
        lasts = _FOREVER if request.query.get("v") == asset.version else "no-cache"
        headers = {"ETag": tag, "Cache-Control": lasts, "Vary": "Accept-Encoding"}
        asked = request.headers.get("If-None-Match", "")
        if tag in (part.strip().removeprefix("W/") for part in asked.split(",")):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = asset.type
        if asset.packed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=asset.packed, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=asset.data, headers=headers)

    async def _health(self, _request: web.Request) -> web.Response:
        state = {} if self._model is None else self._model.state
        how = state.get("state", "starting" if self._make_model is not None else "none")
        return web.json_response(
            {
                "status": "ok",
                "version": __version__,
                "bundle": state.get("bundle"),
                "model": "starting" if how == "closed" else how,  # it waits for the first page
                "tabs": self.tabs.count,
            }
        )

    async def _no_icon(self, _request: web.Request) -> web.Response:
        return web.Response(status=204)

    # ------------------------------------------------------------------------------------------------------ passed on

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        tab = self._tab(request)
        # on this machine packing costs more than it saves, and pictures are packed already
        outer = web.WebSocketResponse(max_msg_size=MAX_ASKED, compress=False, heartbeat=HEARTBEAT_S)
        await outer.prepare(request)
        self._sockets.add(outer)
        try:
            with tab.used(self.tabs.grace_s):
                code, why = await self._relay(outer, tab)
        finally:
            self._sockets.discard(outer)
        if not outer.closed:
            await outer.close(code=code, message=why.encode()[:120])
        return outer

    async def _relay(self, outer: web.WebSocketResponse, tab: Tab) -> tuple[int, str]:
        """Pass on both ways until one side ends; returns what the browser's side is to be closed with."""
        try:
            port = await tab.port()
            inner = await self._client.ws_connect(
                f"http://127.0.0.1:{port}/ws",
                headers={SECRET_HEADER: tab.secret},
                max_msg_size=MAX_MESSAGE,
                compress=0,
            )
        except (TabError, aiohttp.ClientError, OSError) as error:
            return CLOSE_ENDED, str(error) if isinstance(error, TabError) else "this tab's process does not answer"
        there, back = asyncio.create_task(_pump(outer, inner)), asyncio.create_task(_pump(inner, outer))
        try:
            await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            if not back.done():
                code = _done(there)
                await inner.close(code=1000 if code in _NO_CODE else int(code or 1000))
                return 1000, ""
            code = _done(back)
            if self._closing:
                return aiohttp.WSCloseCode.GOING_AWAY, "the viewer is ending"
            return (CLOSE_ENDED, "this tab's process has ended") if code in _NO_CODE else (int(code or 1000), "")
        finally:
            for task in (there, back):
                task.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
            if not inner.closed:
                await inner.close()

    async def _download(self, request: web.Request) -> web.StreamResponse:
        tab = self._tab(request)
        with tab.used(self.tabs.grace_s):
            try:
                port = await tab.port()
                url = f"http://127.0.0.1:{port}/download/{request.match_info['name']}"
                answer = await self._client.get(url, headers={SECRET_HEADER: tab.secret}, allow_redirects=False)
            except (TabError, aiohttp.ClientError, OSError):
                return _page(502, "This tab's process does not answer.")
            async with answer:
                if not (200 <= answer.status < 300 or answer.status >= 400):
                    return _page(502, "This tab's process gave an answer that cannot be passed on.")
                headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
                if answer.status == 200:
                    headers.setdefault("Content-Disposition", "attachment")
                # a report is a page: opened in the browser it must not become one of the viewer's
                headers["Content-Security-Policy"] = (
                    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
                )
                response = web.StreamResponse(status=answer.status, headers=headers)
                await response.prepare(request)
                try:
                    async for chunk in answer.content.iter_chunked(CHUNK):
                        await response.write(chunk)
                except (aiohttp.ClientError, OSError):
                    # the browser must see that it is not whole
                    if request.transport is not None:
                        request.transport.abort()
                    return response
                await response.write_eof()
                return response

    async def _upload(self, request: web.Request) -> web.Response:
        tab = self._tab(request)
        body = _Body(request, self._upload_mb)
        if (request.content_length or 0) > body.limit:
            return _refused_upload(self._upload_mb)
        headers = {SECRET_HEADER: tab.secret, "Content-Type": request.headers.get("Content-Type", "")}
        with tab.used(self.tabs.grace_s):
            try:
                port = await tab.port()
                url = f"http://127.0.0.1:{port}/upload"
                async with self._client.post(url, headers=headers, data=body.chunks()) as answer:
                    said = await answer.read()
                    return web.Response(status=answer.status, body=said, content_type="application/json")
            except (TabError, aiohttp.ClientError, OSError):
                if body.too_large:
                    return _refused_upload(self._upload_mb)
                text = "the upload broke off: this tab's process does not answer; reload the page"
                return web.json_response({"error": text}, status=502)


class _NoTabError(web.HTTPNotFound):
    def __init__(self, why: str | None) -> None:
        if why is None:
            texts = ("There is no such tab.", "It may have ended, or it is another browser's.")
        elif why:
            texts = ("This tab could not go on.", f"{why[:1].upper()}{why[1:]}.")
        else:
            texts = ("This tab has ended.", "Its page was closed for a while, and its process with it.")
        self.texts = texts
        super().__init__(reason="no such tab")


class _Body:
    """The body of an upload, counted as it passes."""

    def __init__(self, request: web.Request, limit_mb: int) -> None:
        self._request, self.limit = request, limit_mb * MIB + UPLOAD_OVERHEAD
        self.too_large = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises ConnectionError as soon as it is too large: whoever reads breaks off."""
        passed = 0
        async for chunk in self._request.content.iter_chunked(CHUNK):
            passed += len(chunk)
            if passed > self.limit:
                self.too_large = True
                raise ConnectionError("the upload is too large")
            yield chunk


_Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _pump(source: _Socket, sink: _Socket) -> int | None:
    """Pass messages on, one at a time: a slow reader slows down the writer. Returns the code of a proper close."""
    while True:
        message = await source.receive()
        if message.type == WSMsgType.BINARY:
            await sink.send_bytes(message.data)
        elif message.type == WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type == WSMsgType.CLOSE:
            return int(message.data) if message.data else None
        else:  # lost, or an error of the protocol, which has a code
            code = source.close_code
            return code if message.type == WSMsgType.ERROR else None


def _done(task: asyncio.Task[int | None]) -> int | None:
    """A pump's code; one that broke has none."""
    return None if task.cancelled() or task.exception() is not None else task.result()


def _from_elsewhere(request: web.Request) -> web.Response | None:
    """What another site's page gets, as far as the browser tells: no part of ours, and a link only by a detour."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    if "prefetch" in request.headers.get("Sec-Purpose", ""):
        return _page(503, "Nothing is opened ahead.")
    if site in ("none", "same-origin"):
        return None
    if request.headers.get("Sec-Fetch-Mode") != "navigate" or request.headers.get("Sec-Fetch-Dest") != "document":
        return _page(403, "Other pages may not use parts of the viewer.")
    # Strict cookies do not come with a link on another site; from this page they do.
    target = html.escape(_here(request.raw_path))
    return _page(200, "Opening ...", head=f'<meta http-equiv="refresh" content="0;url={target}">')


def _here(path: str) -> str:
    """A path of this server: with two slashes in front it would be another server's name."""
    return f"/{path.lstrip('/')}"


def _refused_upload(limit_mb: int) -> web.Response:
    return web.json_response({"error": str(too_large(limit_mb))}, status=413)


def _listen_error(error: OSError, host: str, port: int) -> ListenError:
    if error.errno == errno.EADDRINUSE:
        return ListenError(f"port {port} is in use; take another, or 0 for a free one", "--port")
    if error.errno == errno.EACCES:
        return ListenError(f"port {port} may not be used; take one above 1023, or 0 for a free one", "--port")
    return ListenError(f"{host} cannot be listened on; it must be a name or an address of this machine", "--host")


def _page(status: int, text: str, more: str = "", *, home: bool = False, head: str = "") -> web.Response:
    """A page that says one thing."""
    link = '<p><a href="/">Open a new tab of the viewer</a></p>' if home else ""
    body = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>MedRationale</title><link rel="icon" href="data:,">{head}
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="dark"><style>
body {{ margin: 18vh auto; max-width: 34em; padding: 0 1em; background: #0f1317; color: #c9d3dd;
font: 16px/1.5 system-ui, sans-serif }} h1 {{ font-size: 18px; font-weight: 500 }} a {{ color: #8fc1ff }}
.use {{ color: #9aa7b4; font-size: 12px }}</style></head>
<body><main><h1>{html.escape(text)}</h1><p>{html.escape(more)}</p>{link}
<p class="use">MedRationale. Research use only.</p></main></body></html>"""
    return web.Response(status=status, text=body, content_type="text/html")
