"""What every request passes: the host, the size, who it is from; and what every answer carries: the policy of
its page."""

import hmac
import json
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redline.annotate.people import Person
from redline.types import JsonObject

LARGEST_BODY = 2_000_000  # bytes: the longest text, each character escaped
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self'; "
    "connect-src 'self'; worker-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)  # the nonce is for the one style element that the editor makes
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Forbidden(Exception):
    """A request that is refused; ``status`` and a reason for whoever sent it."""

    def __init__(self, why: str, status: int = 403):
        super().__init__(why)
        self.status = status


class Guard:
    """ASGI middleware: refuses hosts that are not ours (another site's name that points here), adds the
    headers above."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        nonce = secrets.token_urlsafe(16)
        scope.setdefault("state", {})["nonce"] = nonce

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", POLICY.format(nonce=nonce))
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        app: ASGIApp = self.app
        if self.hosts and _name(Request(scope).headers.get("host", "")) not in self.hosts:
            app = PlainTextResponse("This server is not reached by that name; see --url.\n", 400)
        await app(scope, receive, send_with_headers)


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _netloc(url: str) -> str | None:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None


def check_origin(request: Request, url: str | None = None) -> None:
    """Refuse a POST that another site's page makes a browser send. Browsers say where a request comes from;
    so must others.

    ``url``: the address people use, where a proxy does not hand on the host that was asked for.
    """
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if site not in (None, "same-origin"):
        raise Forbidden("Refused: this request comes from another site.")
    if origin is None and site is None:
        raise Forbidden("Refused: the request does not say where it comes from (no Origin header).")
    if origin is not None and origin != url and _netloc(origin) != request.headers.get("host"):
        raise Forbidden("Refused: this request comes from another site.")


def check_token(person: Person, token: object) -> None:
    """Refuse a POST without its visit's CSRF token."""
    if not isinstance(token, str) or not hmac.compare_digest(
        token.encode("utf-8", "replace"), person.csrf.encode()
    ):
        raise Forbidden("Refused: the page is out of date. Reload it; what you wrote is kept.")


async def body_of(request: Request) -> bytes:
    """The request's body, unless it is too large."""
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > LARGEST_BODY:
                raise Forbidden(f"Refused: more than {LARGEST_BODY:,} bytes.", 413)
            parts.append(part)
    except ClientDisconnect as error:
        raise Forbidden("The connection was lost.", 400) from error
    return b"".join(parts)


def json_of(request: Request, body: bytes) -> JsonObject:
    """The JSON object in a body."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise Forbidden("Refused: JSON is expected.", 415)
    try:
        value = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Forbidden(f"Refused: not valid UTF-8 (byte {error.start}).", 400) from error
    except (ValueError, RecursionError) as error:
        raise Forbidden("Refused: not valid JSON.", 400) from error
    if not isinstance(value, dict):
        raise Forbidden("Refused: a JSON object is expected.", 400)
    return value
