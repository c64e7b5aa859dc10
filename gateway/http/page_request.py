"""What a request for a page says besides which page: who asks, and in which form the page is wanted."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from gateway.cache.handler import NO_DIRECTIVES, CacheDirectives
from gateway.core.cache_control import directives
from gateway.http import explain
from gateway.http.negotiation import Coding, codings
from gateway.teams.roster import Team

_NO_DIRECTIVES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What is asked for, without the page's own name.

    `codings` are acceptable, the better one first; `if_none_match` is the header, None where it is absent.
    `explain` and `refresh_denied` are about `X-Explain`: whether it is asked for, and what it has to tell.
    """

    method: str
    team: Team
    codings: tuple[Coding, ...]
    if_none_match: str | None
    directives: CacheDirectives = NO_DIRECTIVES
    explain: bool = False
    refresh_denied: bool = False


def parse_page_request(request: web.BaseRequest, team: Team) -> PageRequest:
    """What a team's request asks for."""
    told = _directives(request)
    return PageRequest(
        request.method,
        team,
        codings(_joined(request, "Accept-Encoding")),
        _joined(request, "If-None-Match"),
        _cache_directives(told, team) if told else NO_DIRECTIVES,
        explain.is_requested(request, team),
        refresh_denied="no-cache" in told and "refresh" not in team.scopes,
    )


def _joined(request: web.BaseRequest, name: str) -> str | None:
    """A list header as one line (RFC 9110, section 5.3); None when it is absent."""
    lines = request.headers.getall(name, ())
    return ",".join(lines) if lines else None


def _directives(request: web.BaseRequest) -> frozenset[str]:
    """The names of the Cache-Control directives of a request."""
    headers = request.headers
    if "Cache-Control" in headers:
        return frozenset(directives(headers.getall("Cache-Control")))
    # RFC 9111, section 5.4: Pragma counts only where there is no Cache-Control.
    if "no-cache" in directives(headers.getall("Pragma", ())):
        return frozenset(("no-cache",))
    return _NO_DIRECTIVES


def _cache_directives(told: frozenset[str], team: Team) -> CacheDirectives:
    return CacheDirectives(
        refresh="no-cache" in told and "refresh" in team.scopes,
        only_if_cached="only-if-cached" in told,
    )
