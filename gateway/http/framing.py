"""What must hold of a request before anybody looks at what it asks for.

The parser lets through more than two parties can be trusted to read alike. Whatever is ambiguous is refused and the
connection closed, so that nothing which stands inside one request is ever read as another (RFC 9112, sections 6, 11.2).
What stands on a connection besides this one request is `parser`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from aiohttp import HttpVersion11
from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine, HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web import BaseRequest

from gateway.core.hosts import is_loopback
from gateway.http.errors import Problem

MAX_TARGET_BYTES = 8190
# One more than a target may have: it is how a parser error tells which of the two was too long.
MAX_FIELD_BYTES = MAX_TARGET_BYTES + 1
MAX_HEAD_BYTES = 65_536

_HOST = re.compile(r"(?:(?P<name>[A-Za-z0-9._~-]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{0,5}))?", re.ASCII)
# Printable ASCII without the fragment that no request has. What RFC 3986 would not let stand among these is refused,
# with a better word, by whoever reads the path or the query.
_TARGET = re.compile(r"[!\"$-~]+", re.ASCII)
_LENGTH = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_SINGLE = frozenset(("host", "content-length", "transfer-encoding", "expect", "content-type"))


@dataclass(frozen=True, slots=True)
class Target:
    """Path and query of a request as they were sent, undecoded."""

    path: str
    query: str


def check(request: BaseRequest, *, loopback_only: bool) -> Target:
    """Refuse what is ambiguous, and split the target. `loopback_only` admits loopback Host values only (DNS rebinding).

    Raises Problem, always one that closes the connection.
    """
    unreadable = request.content.exception()
    if isinstance(unreadable, Problem):
        raise unreadable
    message = request._message  # noqa: SLF001 - raw headers and the raw target have no public name on BaseRequest
    seen = _single_headers(message)
    _check_body(request, seen)
    if "expect" in seen:
        raise refused(417, "expectation_failed", "no expectation is met here")
    if request.method == "CONNECT":  # which asks for no path, so no route can answer it (RFC 9110, section 9.3.6)
        allow = {"Allow": "GET, HEAD"}
        raise Problem(405, "method_not_allowed", "this is no proxy", headers=allow, close=True)
    if not _TARGET.fullmatch(message.path):
        raise _bad("the request target has characters that belong percent-encoded")
    host = _host(seen, required=message.version == HttpVersion11)
    path = message.path
    if not path.startswith("/"):
        path = _path_of_absolute_form(path, seen.get("host", ""))
    if loopback_only and host is not None and not is_loopback(host):
        raise _bad("only a loopback Host is answered while the gateway is open to everybody on this machine")
    path, _, query = path.partition("?")
    return Target(path, query)


def parser_problem(error: HttpProcessingError) -> Problem:
    """The answer to a request that the parser refused. Nothing of the request is quoted."""
    match error:
        case LineTooLong():
            if str(error.args[1]) == str(MAX_TARGET_BYTES):
                return refused(414, "uri_too_long", f"a target has at most {MAX_TARGET_BYTES} bytes")
            return refused(431, "headers_too_large", f"a header has at most {MAX_FIELD_BYTES} bytes")
        case BadHttpMethod():
            return _bad("this is not HTTP")
        case BadStatusLine() if "Invalid HTTP version" in error.message:
            return unknown_version()
        case _ if "Too many headers" in error.message:
            return refused(431, "headers_too_large", "too many headers")
        case _:
            return _bad("the request is not valid HTTP/1.1")


def refused(status: int, code: str, message: str) -> Problem:
    """A Problem that closes the connection."""
    return Problem(status, code, message, close=True)


def unknown_version() -> Problem:
    """The answer to what is HTTP, but neither 1.0 nor 1.1."""
    return refused(505, "http_version_not_supported", "HTTP/1.1 is spoken here")


def _bad(message: str) -> Problem:
    return refused(400, "bad_request", message)


def _single_headers(message: RawRequestMessage) -> dict[str, str]:
    """Those headers that may stand only once, by lower-case name."""
    seen: dict[str, str] = {}
    for raw_name, raw_value in message.raw_headers:
        name = raw_name.lower().decode("latin-1")
        if name in _SINGLE:
            if name in seen:
                raise _bad("a header that may stand once stands twice")
            seen[name] = raw_value.decode("latin-1").strip(" \t")
        elif "_" in name and name.replace("_", "-") in _SINGLE:
            # Some servers read an underscore as a dash; whoever sends this counts on one of us doing so.
            raise _bad("a header name that others may read differently")
    return seen


def _check_body(request: BaseRequest, seen: dict[str, str]) -> None:
    length, coding = seen.get("content-length"), seen.get("transfer-encoding")
    if length is not None and (coding is not None or not _LENGTH.fullmatch(length)):
        raise _bad("the length of the body is not clear")
    if coding is not None and (coding.lower() != "chunked" or request.version != HttpVersion11):
        raise _bad("the length of the body is not clear")
    if request.method in ("GET", "HEAD") and (coding is not None or length not in (None, "0")):
        raise refused(400, "body_not_allowed", f"a {request.method} has no body here")


def _host(seen: dict[str, str], *, required: bool) -> str | None:
    value = seen.get("host")
    if value is None:
        if required:
            raise _bad("the Host header is missing")
        return None  # HTTP/1.0 has no such header; old health checks are sent so
    match = _HOST.fullmatch(value)
    if match is None or int(match["port"] or 0) > 65_535:
        raise _bad("the Host header is malformed")
    try:
        return match["name"] or str(IPv6Address(match["v6"]))
    except AddressValueError:
        raise _bad("the Host header is malformed") from None


def _path_of_absolute_form(target: str, host: str) -> str:
    """RFC 9112, section 3.2.2: a server must take the absolute form; its authority must be what Host says."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise _bad("the request target is not a path")
    authority, slash, path = rest.partition("/")
    if "?" in authority or authority.lower() != host.lower():
        raise _bad("the request target names another host than the Host header")
    return slash + path or "/"
