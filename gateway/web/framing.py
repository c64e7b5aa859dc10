"""What must hold of a request before anybody looks at what it asks for.

The parser lets through more than two parties can be trusted to read alike. Whatever is ambiguous is refused and the
connection closed, so that nothing which stands inside one request is ever read as another (RFC 9112, sections 6, 11.2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web import BaseRequest

from gateway.core.hosts import is_loopback
from gateway.web.problems import Problem

MAX_TARGET_BYTES = 8190
# One more than a target may have: it is how a parser error tells which of the two was too long.
MAX_FIELD_BYTES = MAX_TARGET_BYTES + 1
_MAX_HEADER_BYTES = 65_536

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?", re.ASCII)
# What may stand in a target: RFC 3986's characters, without the fragment that no request has.
_TARGET = re.compile(r"[!-\"$-~]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Target:
    """Path and query of a request as they were sent, undecoded."""

    path: str
    query: str


def check(request: BaseRequest, *, loopback_only: bool) -> Target:
    """Refuse what is ambiguous, and split the target. `loopback_only` admits loopback Host values only (DNS rebinding).

    Raises Problem, always one that closes the connection.
    """
    message = request._message  # noqa: SLF001 - raw headers and the raw target have no public name on BaseRequest
    if message.version not in (HttpVersion10, HttpVersion11):
        raise _refused(505, "http_version_not_supported", "HTTP/1.1 is spoken here")
    seen = _single_headers(message)
    _check_body(request, seen)
    if "expect" in seen:
        raise _refused(417, "expectation_failed", "no expectation is met here")
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


def parser_problem(error: BaseException | None) -> Problem:
    """The answer to a request that the parser refused. Nothing of the request is quoted."""
    match error:
        case LineTooLong():
            if str(error.args[1]) == str(MAX_TARGET_BYTES):
                return _refused(414, "uri_too_long", f"a target has at most {MAX_TARGET_BYTES} bytes")
            return _refused(431, "headers_too_large", f"a header has at most {MAX_FIELD_BYTES} bytes")
        case BadHttpMethod():
            return _bad("this is not HTTP")
        case HttpProcessingError() if "Too many headers" in error.message:
            return _refused(431, "headers_too_large", "too many headers")
        case _:
            return _bad("the request is not valid HTTP/1.1")


def _bad(message: str) -> Problem:
    return _refused(400, "bad_request", message)


def _refused(status: int, code: str, message: str) -> Problem:
    return Problem(status, code, message, close=True)


def _single_headers(message: RawRequestMessage) -> dict[str, str]:
    """Those headers that may stand only once, by lower-case name."""
    size = 0
    seen: dict[str, str] = {}
    for raw_name, raw_value in message.raw_headers:
        size += len(raw_name) + len(raw_value) + 4
        name = raw_name.lower().decode("latin-1")
        if name in ("host", "content-length", "transfer-encoding", "expect", "content-type"):
            if name in seen:
                raise _bad("a header that may stand once stands twice")
            seen[name] = raw_value.decode("latin-1").strip(" \t")
        elif "_" in name and name.replace("_", "-") in ("content-length", "transfer-encoding"):
            # Some servers read an underscore as a dash; whoever sends this counts on one of us doing so.
            raise _bad("a header name that others may read differently")
    if size > _MAX_HEADER_BYTES:
        raise _refused(431, "headers_too_large", f"all headers have at most {_MAX_HEADER_BYTES} bytes together")
    return seen


def _check_body(request: BaseRequest, seen: dict[str, str]) -> None:
    length, coding = seen.get("content-length"), seen.get("transfer-encoding")
    if length is not None and (coding is not None or not re.fullmatch(r"0|[1-9][0-9]{0,17}", length, re.ASCII)):
        raise _bad("the length of the body is not clear")
    if coding is not None and (coding.lower() != "chunked" or request.version != HttpVersion11):
        raise _bad("the length of the body is not clear")
    if request.method in ("GET", "HEAD") and (coding is not None or length not in (None, "0")):
        raise _refused(400, "body_not_allowed", f"a {request.method} has no body here")


def _host(seen: dict[str, str], *, required: bool) -> str | None:
    value = seen.get("host")
    if value is None:
        if required:
            raise _bad("the Host header is missing")
        return None  # HTTP/1.0 has no such header; old health checks are sent so
    match = _HOST.fullmatch(value)
    if match is None:
        raise _bad("the Host header is malformed")
    return match["name"].strip("[]")


def _path_of_absolute_form(target: str, host: str) -> str:
    """RFC 9112, section 3.2.2: a server must take the absolute form; its authority must be what Host says."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise _bad("the request target is not a path")
    authority, slash, path = rest.partition("/")
    if "?" in authority or authority.lower() != host.lower():
        raise _bad("the request target names another host than the Host header")
    return slash + path or "/"
