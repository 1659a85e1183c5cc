"""Who may ask the front, and what a browser may do with its answers.

Three things are checked of every request. Its ``Host`` must be a name that this server goes by: a page elsewhere whose
name is made to point here (DNS rebinding) is refused by that. Where it may change something (a websocket, a POST) its
``Origin`` must be this server. And it must come from a known browser: by a signed cookie, which a browser gets with its
first tab on this machine, or, beyond it, only for the token of the printed URL.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

__all__ = ["Guard", "is_loopback", "response_headers"]

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::", ""})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on ``host``."""
    if host.lower() == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return None if "%" in host else ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _name(header: str) -> str | None:
    """The host's name in a ``Host`` header, without port and brackets; None for what is no such header."""
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    if parts.netloc != header or "@" in header or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


class Guard:
    """Knows this server's names, its token and its browsers.

    Args:
        host: what the server listens on.
        token: asked for before anything else; None: not asked for.
    """

    def __init__(self, host: str, token: str | None = None) -> None:
        self.token = token
        self._key = secrets.token_bytes(32)
        self._any_address = host in _EVERYWHERE
        self._names = LOOPBACK | {host.lower().strip("[]").rstrip(".")}
        if self._any_address:
            mine = socket.gethostname().lower()
            self._names |= {mine, mine.partition(".")[0]} - {""}

    def knows_host(self, header: str | None) -> bool:
        """Whether a ``Host`` header names this server. On all addresses any address does: rebinding needs a name."""
        name = _name(header or "")
        return name is not None and (name in self._names or (self._any_address and _address(name) is not None))

    @staticmethod
    def same_origin(origin: str | None, host: str | None) -> bool:
        """Whether an ``Origin`` header is the server that ``Host`` names; behind a proxy its scheme may differ."""
        if not origin or not host:
            return False
        scheme, _, rest = origin.partition("://")
        return scheme in ("http", "https") and rest.lower() == host.lower()

    def opens(self, token: str) -> bool:
        """Whether this is the token."""
        return self.token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def new_cookie(self) -> str:
        """A value for a new browser's cookie."""
        name = secrets.token_urlsafe(18)
        return f"{name}.{self._sign(name)}"

    def browser(self, cookie: str | None) -> str | None:
        """Which browser a cookie belongs to; None where this server has not signed it."""
        name, _, signature = (cookie or "").partition(".")
        fits = hmac.compare_digest(signature.encode(), self._sign(name).encode())
        return name if name and fits else None

    def _sign(self, name: str) -> str:
        return hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()


def response_headers(host: str) -> Mapping[str, str]:
    """What every answer carries.

    Args:
        host: as the browser calls this server; it has passed :meth:`Guard.knows_host`.
    """
    policy = {
        "default-src": "'self'",
        # 'unsafe-eval': Vue compiles the page's templates in the browser, and trame's client looks up plug-ins by
        # eval. No inline script runs, and nothing from elsewhere.
        "script-src": "'self' 'unsafe-eval'",
        # Vue and trame-rca set style attributes
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "media-src": "'self' blob:",
        # trame-rca decodes pictures in a worker that it makes from a blob
        "worker-src": "'self' blob:",
        # 'self' covers websockets only in newer browsers
        "connect-src": f"'self' ws://{host} wss://{host}",
        "object-src": "'none'",
        "frame-ancestors": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=(), display-capture=(), usb=(), "
        "payment=(), browsing-topics=()",
        "Server": "MedRationale",
    }
