"""Who may use the pages: the browser of the person who started the server, and no other program.

Everything on this machine can connect to 127.0.0.1, and so can every page that a browser shows:

- The address that is printed holds a secret key. The browser gets it as a cookie, and requests
  without it see nothing: neither other users of the machine nor other programs.
- A name that somebody points at 127.0.0.1 (DNS rebinding) is not a host that is answered.
- What a page of another origin sends (CSRF) is refused, even if the cookie comes with it.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastapi import Response
from fastapi.responses import PlainTextResponse, RedirectResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost")
"""Names under which the pages are answered, on any port: `ssh -L` may forward another one."""
READING = ("GET", "HEAD")
KEY = "key"
"""Name of the key in the address that is printed."""
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
NO_KEY = (
    "This page needs the key of the server.\n"
    "Open the whole address that `deepcluster look` has printed."
)


class Guard:
    """Answers requests of the person's own browser, and adds headers that restrict the pages."""

    def __init__(self, pages: Application, key: str | None = None) -> None:
        self._pages = pages
        self.key = key or secrets.token_urlsafe(24)
        # Browsers send cookies of all ports of a host, so each server needs a name of its own.
        self._cookie = f"deepcluster-look-{secrets.token_hex(4)}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by the pages, or say why not."""
        if scope["type"] != "http":  # the pages use no web sockets
            return
        answer = self._refusal(scope)
        await (answer or self._pages)(scope, receive, _restricted(send))

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that does not get to the pages."""
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers[name.decode("latin-1")] = value.decode("latin-1")
        host = headers.get("host", "")
        if _host_name(f"//{host}") not in HOSTS:
            return _refused(f"{host!r} is not an address of this server")
        if self._has_key_in_address(scope):
            return self._with_cookie()
        if not self._has_cookie(headers.get("cookie", "")):
            return _refused(NO_KEY)
        if scope["method"] in READING:
            return None
        # Browsers name the origin in every request that can change something.
        if urlsplit(headers.get("origin", "")).netloc != host:
            return _refused("requests that change something must come from the page itself")
        return None

    def _has_key_in_address(self, scope: Scope) -> bool:
        found = parse_qs(scope["query_string"].decode("latin-1")).get(KEY, [])
        return scope["method"] == "GET" and any(map(self._is_key, found))

    def _has_cookie(self, header: str) -> bool:
        try:
            morsel = SimpleCookie(header).get(self._cookie)
        except CookieError:  # another program on this machine has set an invalid one
            return False
        return morsel is not None and self._is_key(morsel.value)

    def _is_key(self, text: str) -> bool:
        # The time of this comparison does not depend on how many characters agree.
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.key.encode())

    def _with_cookie(self) -> Response:
        """Return a redirection to the first page, whose address is without the key."""
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(self._cookie, self.key, httponly=True, samesite="strict")
        return answer


def _host_name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:  # an incomplete IPv6 address
        return None


def _refused(why: str) -> Response:
    return PlainTextResponse(f"{why}\n", status_code=403)


def _restricted(send: Send) -> Send:
    """Return `send` with our headers added to each answer."""

    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *HEADERS]
        await send(message)

    return send_with_headers
