"""A tab's process without Slicer and trame, for tests of the front; importable by the process that is forked.

    python Testing/viewer/fake_tab.py port=8080 study=trame       # the whole front with it, as `medrationale view`

Its websocket answers every message with the same; a text ``!...`` makes it do something (see `_obey`). Opened with the
study ``trame`` it speaks trame's protocol instead and shows a made-up study.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack
from aiohttp import web

from MedRationaleViewer.studies import StudiesError, receive
from MedRationaleViewer.tab_options import SECRET_HEADER, TabOptions

BIG = 3_000_000


def run_fake_tab(options: TabOptions, connection: Connection) -> None:
    """As the real one's run_tab, in a few milliseconds."""
    study = options.study or ""
    if study == "fails":
        connection.send(("failed", "no graphics library"))
        return
    if study == "crashes":
        os._exit(7)
    if study.startswith("slow"):
        time.sleep(float(study.removeprefix("slow")))
    (Path(options.folder) / "voxels.bin").write_bytes(b"a patient's")
    asyncio.run(_serve(options, connection))
    os._exit(0)


async def _serve(options: TabOptions, connection: Connection) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def listen() -> None:
        try:
            while connection.recv() != ("end",):
                pass
        except EOFError:
            os._exit(0)
        if options.study != "deaf":
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, daemon=True).start()
    tab = FakeTab(options)
    runner = web.AppRunner(tab.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    connection.send(("ready", runner.addresses[0][1]))
    connection.send(("open",))
    await ended.wait()


class FakeTab:
    """Its routes; all but the secret's own answer are for the front alone."""

    def __init__(self, options: TabOptions) -> None:
        self.options = options
        self.explained = False
        self.flooded, self.code = 0, None

    def application(self) -> web.Application:
        """The web application of one tab."""
        app = web.Application(middlewares=[self._only_the_front])
        app.router.add_get("/ws", self._websocket if self.options.study != "trame" else self._trame)
        app.router.add_get("/download/{name}", self._download)
        app.router.add_post("/upload", self._upload)
        return app

    @web.middleware
    async def _only_the_front(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get(SECRET_HEADER) != self.options.secret or "Cookie" in request.headers:
            raise web.HTTPForbidden
        return await handler(request)

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.type == web.WSMsgType.TEXT and message.data.startswith("!"):
                await self._obey(socket, message.data)
            elif message.type == web.WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type == web.WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        self.code = socket.close_code
        return socket

    async def _obey(self, socket: web.WebSocketResponse, order: str) -> None:
        match order:
            case "!who":
                told = {"pid": os.getpid(), "flooded": self.flooded, "code": self.code, **vars(self.options)}
                await socket.send_str(json.dumps(told))
            case "!die":
                os._exit(9)
            case "!close":
                await socket.close(code=4321)
            case "!flood":
                for _ in range(400):
                    await socket.send_bytes(bytes(250_000))
                    self.flooded += 1

    async def _download(self, request: web.Request) -> web.StreamResponse:
        match request.match_info["name"]:
            case "report.html":
                headers = {"Content-Disposition": 'attachment; filename="report.html"', "X-Inner": "1"}
                return web.Response(text="<p>report</p>", content_type="text/html", headers=headers)
            case "big.bin":
                response = web.StreamResponse()
                await response.prepare(request)
                for _ in range(BIG // 100_000):
                    await response.write(b"x" * 100_000)
                return response
            case "breaks.bin":
                response = web.StreamResponse(headers={"Content-Length": str(BIG)})
                await response.prepare(request)
                await response.write(b"x" * 100_000)
                os._exit(9)
            case "elsewhere":
                raise web.HTTPFound("http://example.org/")
        raise web.HTTPNotFound(text="no such download")

    async def _upload(self, request: web.Request) -> web.Response:
        try:
            folder = await receive(request, Path(self.options.folder) / "uploads", limit_mb=self.options.upload_mb)
        except StudiesError as error:
            return web.json_response({"error": str(error)}, status=error.status)
        files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        return web.json_response({"ok": True, "name": folder.name, "files": files})

    # ------------------------------------------------------------------------------------------- a little of trame

    async def _trame(self, request: web.Request) -> web.WebSocketResponse:
        from wslink.chunking import UnChunker, generate_chunks

        socket, join = web.WebSocketResponse(max_msg_size=0), UnChunker()
        join.set_max_message_size(2**32)
        await socket.prepare(request)

        async def send(id: str, result: Any) -> None:
            for chunk in generate_chunks(msgpack.packb({"wslink": "1.0", "id": id, "result": result}), 4096):
                await socket.send_bytes(chunk)

        async for message in socket:
            asked = join.process_chunk(message.data)
            if asked is None:
                continue
            match asked["method"], asked["args"]:
                case "wslink.hello", [{"secret": "wslink-secret"}]:
                    await send(asked["id"], {"clientID": "c1"})
                case "trame.state.get", []:
                    await send(asked["id"], {"state": self.state()})
                case "trame.rca.size", [name, _, {"w": _, "h": _}]:
                    await send(asked["id"], None)
                    if name == "MR_T2W":
                        picture = {"name": name, "meta": {}, "content": bytes(9000)}
                        await send("publish:trame.rca.topic.stream:1", picture)
                case "trame.trigger", ["do", ["explain", {}], {}]:
                    await send(asked["id"], None)
                    failed = self.options.bundle == "broken"
                    self.explained = not failed
                    job = {"state": "failed", "message": "the bundle is damaged"} if failed else {"state": "done"}
                    await send("publish:trame.state.topic:2", {**self.state(), "job": job})
                case _:
                    await send(asked["id"], None)
        return socket

    def state(self) -> dict[str, Any]:
        """Of the page."""
        summary = {"category": 4, "text": "Category 4"} if self.explained else None
        return {
            "study": {"open": True, "name": "Sample study", "explained": self.explained},
            "job": {"state": "idle", "running": False},
            "findings": {"summary": summary, "lesions": []},
            "padding": "x" * 20_000,
        }


class FakeModel:
    """Stands in for the shared network."""

    def __init__(self, folder: Path) -> None:
        self.rooms, self.calls = folder, list[str]()
        self.state = {"state": "ready", "bundle": "medrationale-bpmri", "message": "/a/private/path"}

    def start(self) -> None:
        """Remembered."""
        self.calls.append("start")

    def check(self) -> None:
        """Remembered; goes wrong."""
        self.calls.append("check")
        raise OSError("no memory")

    def close(self) -> None:
        """Remembered."""
        self.calls.append("close")


def main() -> int:
    """The front with fake tabs and no network."""
    sys.path.insert(0, str(Path(__file__).parent))
    import fake_tab  # by its own name: what is forked later finds it under that

    from MedRationaleViewer import serve, tabs

    options = dict(option.split("=") for option in sys.argv[1:])
    tabs.warm(["fake_tab"])
    wishes = serve.Wishes(
        host=options.get("host", "127.0.0.1"),
        port=int(options.get("port", 0)),
        browser=False,
        study=Path(options["study"]) if "study" in options else None,
        bundle=options.get("bundle"),
        headless="headless" in options,
    )
    return serve.run(wishes, target=fake_tab.run_fake_tab, model=lambda: fake_tab.FakeModel(Path("rooms")))


if __name__ == "__main__":
    sys.exit(main())
