"""The endpoint: request -> AssetsQuery -> Answer -> response."""

from __future__ import annotations

from aiohttp import web
from isal import igzip

from gateway.cache import NO_WISH, Answer, Cache, Wish
from gateway.core.cache_control import directives
from gateway.core.errors import Denied, GatewayError
from gateway.core.listing import parse_envelope
from gateway.core.query import AssetsQuery, QueryRules, parse_assets_query
from gateway.core.teams import Team
from gateway.web import explain
from gateway.web.cache_status import cache_status
from gateway.web.exchange import Exchange
from gateway.web.framing import Target
from gateway.web.negotiation import Coding, codings, etag, is_known
from gateway.web.problems import Problem, render, vendor_problem
from gateway.web.ready import Origin, Part

PREFIX = "/v0/aois/"
SUFFIX = "/assets"
# More of a body than this is sent in pieces.
_PIECE = 65_536


class Assets:
    """`GET` and `HEAD /v0/aois/{aoi_id}/assets`."""

    def __init__(self, cache: Cache, rules: QueryRules) -> None:
        self._cache = cache
        self._rules = rules

    @staticmethod
    def owns(path: str) -> bool:
        """Whether a raw path is this endpoint's: one segment, of whatever characters, in its place."""
        framed = path.startswith(PREFIX) and path.endswith(SUFFIX) and len(path) >= len(PREFIX) + len(SUFFIX)
        return framed and "/" not in path[len(PREFIX) : -len(SUFFIX)]

    async def answer(
        self, request: web.BaseRequest, target: Target, team: Team, exchange: Exchange
    ) -> web.StreamResponse:
        """Answer a page request. Raises what `problems` has a line for."""
        query = parse_assets_query(target.path[len(PREFIX) : -len(SUFFIX)], target.query, self._rules)
        exchange.aoi_id = query.aoi_id
        if not team.may_read(query.aoi_id):
            raise Denied("this team may not read this AOI")
        acceptable = codings(_joined(request, "Accept-Encoding"))
        if not acceptable:
            raise Problem(406, "not_acceptable", "pages come as identity or gzip, and Accept-Encoding rules out both")
        wish, asks_why = _wish(request, team), explain.is_asked(request, team)
        try:
            answer = await self._cache.answer(query, exchange.request_id, wish, team=team.name)
        except GatewayError as error:
            if asks_why:
                found = await self._cache.look(query)
                raise explain.explained(error, found.lack, found.tier, found.exact, found.now) from None
            raise
        exchange.cache, exchange.upstream = answer.result, answer.waited
        missing = answer.entry.status == 404
        response: web.Response = (
            _not_found(answer, exchange) if missing else _page(request, query, team, answer, acceptable)
        )
        if asks_why:
            denied = not wish.refresh and "no-cache" in _directives(request)
            response.headers[explain.HEADER] = explain.explanation(answer, refresh_denied=denied)
        return response


class Page(web.Response):
    """A page that is handed to the connection as fast as its client takes it, and not copied whole for each.

    `origin` tells how to answer so again, None where that takes more than writing it.
    """

    origin: Origin | None = None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body, and end."""
        body, writer = self.body, self._payload_writer
        if isinstance(body, bytes) and len(body) > _PIECE and writer is not None and not self._must_be_empty_body:
            whole = memoryview(body)
            for start in range(0, len(body), _PIECE):
                await writer.write(whole[start : start + _PIECE])
            await web.StreamResponse.write_eof(self)
        else:
            await super().write_eof(data)


def _joined(request: web.BaseRequest, name: str) -> str | None:
    """A list header as one line (RFC 9110, section 5.3); None when it is absent."""
    lines = request.headers.getall(name, ())
    return ",".join(lines) if lines else None


def _directives(request: web.BaseRequest) -> dict[str, str]:
    line = _joined(request, "Cache-Control")
    if line is None:
        # RFC 9111, section 5.4: Pragma counts only where there is no Cache-Control.
        line = "no-cache" if "no-cache" in directives(_joined(request, "Pragma") or "") else ""
    return directives(line) if line else {}


def _wish(request: web.BaseRequest, team: Team) -> Wish:
    told = _directives(request)
    if not told:
        return NO_WISH
    return Wish(
        refresh="no-cache" in told and "refresh" in team.scopes,
        only_if_cached="only-if-cached" in told,
    )


def _page(
    request: web.BaseRequest, query: AssetsQuery, team: Team, answer: Answer, acceptable: tuple[Coding, ...]
) -> Page:
    entry = answer.entry
    coding = acceptable[0]
    body = entry.body
    part: Part | None = "body"
    if coding == "gzip":
        if entry.gzipped is not None:
            part, body = "gzipped", entry.gzipped
        elif "identity" in acceptable:
            coding = "identity"  # too small to be worth it
        else:
            part, body = None, igzip.compress(body, compresslevel=1, mtime=0)
    headers = {
        "ETag": etag(entry.etag, coding),
        "Vary": "Accept-Encoding",
        "Age": str(entry.age(answer.now)),
        "Cache-Control": "private, no-cache",
        "Cache-Status": cache_status(answer),
        "X-Listing-Generation": entry.generation,
    }
    if is_known(entry.etag, _joined(request, "If-None-Match")):
        page, part = Page(status=304, headers=headers), "nothing"
    else:
        headers["Content-Type"] = "application/json"
        if coding == "gzip":
            headers["Content-Encoding"] = "gzip"
        page = Page(body=body, headers=headers)
        if request.method == "HEAD":
            part = "nothing"
    page.origin = None if part is None else Origin(query, answer, team.name, part)
    return page


def _not_found(answer: Answer, exchange: Exchange) -> web.Response:
    envelope = parse_envelope(answer.entry.body)
    assert envelope is not None, "only a 404 with an envelope is admitted"  # noqa: S101 - holds by `vendor_answer`
    response = render(vendor_problem(404, envelope), exchange.request_id)
    response.headers["Age"] = str(answer.entry.age(answer.now))
    response.headers["Cache-Status"] = cache_status(answer)
    return response
