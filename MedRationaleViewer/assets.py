"""Files that the front serves by itself: trame's client, trame-rca's, our own, and the page that loads them.

They are found beside their packages without importing those. A file is read and packed once, at its first request; its
URL carries what it hashes to, so that browsers keep it for good and still see a new version at once.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

__all__ = ["Asset", "Assets"]

TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".cjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".json": "application/json",
}
"""What is served, by suffix; the system's own table is not asked: on some it calls scripts plain text."""
_PACKED = frozenset({".js", ".mjs", ".cjs", ".css", ".svg", ".json"})
_OWN = Path(__file__).with_name("static")


@dataclass(frozen=True)
class Asset:
    """A file as it is sent.

    Attributes:
        data: its bytes.
        packed: the same by gzip; None where that does not pay.
        type: for ``Content-Type``.
        version: changes with the bytes.
    """

    data: bytes
    packed: bytes | None
    type: str
    version: str


class Assets:
    """Serves files of a few folders, by the module's name and a path below its folder.

    Raises:
        ImportError: trame's client or trame-rca is not installed.
    """

    def __init__(self) -> None:
        client = _package("trame_client") / "module"
        self._folders = {
            "client": client / "vue3-www",
            "scripts": client / "user_provided_scripts",
            "rca": _package("trame_rca") / "module" / "serve",
            "viewer": _OWN,
        }
        self._known: dict[tuple[str, str], tuple[tuple[int, int], Asset]] = {}

    def get(self, module: str, path: str) -> Asset | None:
        """A file; None if there is none that is served."""
        folder = self._folders.get(module)
        kind = TYPES.get(Path(path).suffix.lower())
        if folder is None or kind is None or "\0" in path or "\\" in path:
            return None
        try:
            file = (folder / path).resolve(strict=True)
            if not file.is_relative_to(folder.resolve()) or not file.is_file():
                return None
            status = file.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            before = self._known.get((module, path))
            if before is None or before[0] != stamp:
                before = self._known[module, path] = (stamp, _read(file, kind))
            return before[1]
        except (OSError, RuntimeError):
            return None

    def of_client(self, prefix: str, path: str) -> Asset | None:
        """A file that trame's client asks for below its page: modules name their folders by a prefix of their own."""
        if prefix.startswith("__trame_rca"):
            return self.get("rca", path)
        return self.get("scripts", path) if prefix.startswith("__trame_client") else None

    def url(self, module: str, path: str) -> str:
        """Where a file is served, for good.

        Raises:
            FileNotFoundError: there is no such file.
        """
        asset = self.get(module, path)
        if asset is None:
            raise FileNotFoundError(f"{module}/{path} is not among the viewer's files")
        return f"/static/{module}/{path}?v={asset.version}"

    def index(self) -> bytes:
        """The page of a tab: trame's client with our own styles and scripts, which are loaded before it.

        Raises:
            FileNotFoundError: trame's client is not made of the files that its own page names.
        """
        theirs = (self._folders["client"] / "index.html").read_text(encoding="utf-8")
        scripts = [(tag, self._client_url(src)) for tag, src in re.findall(r'(<script[^>]*\bsrc="([^"]+)")', theirs)]
        plain = [url for tag, url in scripts if "module" not in tag]
        modules = [url for tag, url in scripts if "module" in tag]
        styles = re.findall(r'<link[^>]*\brel="stylesheet"[^>]*\bhref="([^"]+)"', theirs)
        own = sorted(path.name for path in _OWN.glob("*") if path.suffix in (".css", ".js"))
        tags = [_style(self._client_url(href)) for href in styles]
        tags += [_style(self.url("viewer", name)) for name in own if name.endswith(".css")]
        tags += [_script(url) for url in plain]
        tags += [_script(self.url("viewer", name)) for name in own if name.endswith(".js")]
        tags += [_script(url, module=True) for url in modules]
        page = Template((_OWN / "index.html").read_text(encoding="utf-8"))
        return page.substitute(files="\n    ".join(tags)).encode()

    def _client_url(self, relative: str) -> str:
        return self.url("client", relative.removeprefix("./"))


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return Path(spec.submodule_search_locations[0])


def _read(file: Path, kind: str) -> Asset:
    data = file.read_bytes()
    packed = gzip.compress(data, 6, mtime=0) if file.suffix.lower() in _PACKED and len(data) > 1024 else None
    return Asset(data, packed, kind, hashlib.sha256(data).hexdigest()[:16])


def _style(url: str) -> str:
    return f'<link rel="stylesheet" href="{html.escape(url)}">'


def _script(url: str, *, module: bool = False) -> str:
    # deferred scripts run in their order, and a module after them
    return f'<script {"type=module" if module else "defer"} src="{html.escape(url)}"></script>'
