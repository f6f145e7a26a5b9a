"""What every response carries and what every request that changes something must show."""

from __future__ import annotations

from urllib.parse import urlsplit

from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.exceptions import PermissionDeniedException
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


async def harden(message: Message, scope: Scope) -> None:
    """Put the security headers on every response, error pages and redirects included."""
    if message["type"] != "http.response.start":
        return
    headers = MutableScopeHeaders.from_message(message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if not scope["path"].startswith("/static/"):
        headers.setdefault("Cache-Control", "no-store")


class SameOrigin(ASGIMiddleware):
    """Refuse requests that change something when a browser says that another site sent them.

    Browsers send `Origin` with every such request; programs with a bearer token send none and are not concerned.
    The origin must be the address the request went to, or the configured public one.
    """

    def __init__(self, public_url: str = "") -> None:
        self._public = urlsplit(public_url).netloc.lower() if public_url else ""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        if scope["type"] == ScopeType.HTTP and scope["method"] not in SAFE_METHODS:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            origin = headers.get("origin")
            allowed = {headers.get("host", "").lower(), self._public} - {""}
            if origin is not None and urlsplit(origin).netloc.lower() not in allowed:
                raise PermissionDeniedException("another site sent this request")
            if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
                raise PermissionDeniedException("another site sent this request")
        await next_app(scope, receive, send)


def local_path(text: str | None, default: str = "/") -> str:
    """Give `text` when it is a path on this console, else `default`: where to go after a login."""
    if not text or not text.startswith("/") or text.startswith(("//", "/\\")) or not text.isprintable():
        return default
    return text
