"""Who may ask the dashboard, and who may write: rules in front of optuna-dashboard, which has none.

It deletes a study for whoever asks. A page on the internet, too, can have the browser of somebody
who looks at the dashboard ask: by a form sent across sites, or by a host name that is made to mean
127.0.0.1 once the page is loaded (DNS rebinding). So three things are looked at: the password, the
name under which the dashboard is asked, and the page that asks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hpo.dashboard.answers import problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_DRAINED = 1 << 20
"""So many bytes of a refused request are read, so that its sender hears the refusal."""

_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "same-origin"),
]


@dataclass(frozen=True)
class Rules:
    """What is asked of a request.

    Attributes:
        password: The password for HTTP Basic authentication (with any user name); ``None`` asks
            for none, and then lets only loopback names in.
        allow_writes: Whether requests other than GET and HEAD may pass.
        host: The name or address that is served, allowed besides those of loopback.
    """

    password: str | None
    allow_writes: bool
    host: str


@dataclass(frozen=True)
class _Refusal:
    status: str
    reason: str
    headers: tuple[tuple[str, str], ...] = ()


def guarded(application: WSGIApplication, rules: Rules) -> WSGIApplication:
    """Return ``application`` behind ``rules``."""

    def guard(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        refusal = _refusal(environ, rules)
        if refusal is None:
            return application(environ, _with_headers(start))
        environ["wsgi.input"].read(min(_length(environ), _DRAINED))
        answer = problem(refusal.status, refusal.reason)
        headers = [
            ("Content-Type", answer.media_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            *refusal.headers,
        ]
        _with_headers(start)(answer.status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    return guard


def is_loopback(name: str) -> bool:
    """Return whether ``name``, a host's name or address, always means this machine."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _refusal(environ: WSGIEnvironment, rules: Rules) -> _Refusal | None:
    """Return why a request is refused; ``None`` lets it pass."""
    if rules.password is not None and not _knows(environ, rules.password):
        return _Refusal(
            "401 Unauthorized",
            "This dashboard needs its password, with any user name.",
            (("WWW-Authenticate", 'Basic realm="hpo dashboard", charset="UTF-8"'),),
        )
    host = environ.get("HTTP_HOST", "")
    name = _host_name(host)
    if rules.password is None and not is_loopback(name) and name != rules.host:
        return _Refusal(
            "403 Forbidden",
            f"The dashboard is served to this machine, not under the name {host!r}: open it as "
            "localhost, or set a password.",
        )
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return None
    if not rules.allow_writes:
        return _Refusal(
            "403 Forbidden",
            "the dashboard is read-only and nothing was changed; to edit from here, start it with "
            "hpo dashboard --allow-writes",
        )
    if not _same_origin(environ, host):
        return _Refusal("403 Forbidden", "A page of another site may not write here.")
    return None


def _knows(environ: WSGIEnvironment, password: str) -> bool:
    """Return whether a request carries the password; takes equally long if it does not."""
    scheme, _, encoded = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        given = base64.b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(
        hashlib.sha256(given).digest(), hashlib.sha256(password.encode()).digest()
    )


def _same_origin(environ: WSGIEnvironment, host: str) -> bool:
    """Return whether a request comes from a page of this server, or from no page at all."""
    if environ.get("HTTP_SEC_FETCH_SITE", "same-origin") not in ("same-origin", "none"):
        return False
    origin = environ.get("HTTP_ORIGIN")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def _host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets; empty if there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _length(environ: WSGIEnvironment) -> int:
    length = environ.get("CONTENT_LENGTH", "")
    return int(length) if length.isdecimal() else 0


def _with_headers(start: StartResponse) -> Callable[..., Any]:
    """Return ``start`` with headers that keep other sites' pages from showing or reading this."""

    def start_response(
        status: str, headers: list[tuple[str, str]], *error: Any
    ) -> Callable[[bytes], object]:
        return start(status, [*headers, *_HEADERS], *error)

    return start_response
