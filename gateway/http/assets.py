"""The endpoint: what is asked for -> AssetsQuery -> Answer -> Reply."""

from __future__ import annotations

from aiohttp import web
from isal import igzip

from gateway.cache.handler import CacheAnswer, CacheHandler
from gateway.core.errors import Denied, GatewayError
from gateway.core.listing import parse_envelope
from gateway.core.query import AssetsQuery, QueryRules, parse_assets_query
from gateway.http import explain
from gateway.http.cache_status import cache_status
from gateway.http.errors import Problem, render, vendor_problem
from gateway.http.framing import Target
from gateway.http.negotiation import etag, is_known
from gateway.http.page_request import PageRequest
from gateway.http.request_context import RequestContext
from gateway.http.responses import PageResponse, PageSource, Part

PREFIX = "/v0/aois/"
SUFFIX = "/assets"


class Assets:
    """`GET` and `HEAD /v0/aois/{aoi_id}/assets`."""

    def __init__(self, cache: CacheHandler, rules: QueryRules) -> None:
        self._cache = cache
        self._rules = rules

    @staticmethod
    def owns(path: str) -> bool:
        """Whether a raw path is this endpoint's: one segment, of whatever characters, in its place."""
        framed = path.startswith(PREFIX) and path.endswith(SUFFIX) and len(path) >= len(PREFIX) + len(SUFFIX)
        return framed and "/" not in path[len(PREFIX) : -len(SUFFIX)]

    async def answer(self, asking: PageRequest, target: Target, context: RequestContext) -> PageResponse | web.Response:
        """Answer a page request. Raises what `errors` has a line for."""
        query = parse_assets_query(target.path[len(PREFIX) : -len(SUFFIX)], target.query, self._rules)
        context.aoi_id = query.aoi_id
        team = asking.team
        if not team.may_read(query.aoi_id):
            raise Denied("this team may not read this AOI")
        if not asking.codings:
            raise Problem(406, "not_acceptable", "pages come as identity or gzip, and Accept-Encoding rules out both")
        try:
            answer = await self._cache.answer(query, context.request_id, asking.directives, team=team.name)
        except GatewayError as error:
            if asking.explain:
                found = await self._cache.lookup(query)
                raise explain.explained(error, found.lack, found.tier, found.exact, found.now) from None
            raise
        context.cache, context.upstream = answer.result, answer.waited
        missing = answer.entry.status == 404
        reply = _not_found(answer, context) if missing else _page(asking, query, answer)
        if asking.explain:
            reply.headers[explain.HEADER] = explain.explanation(answer, refresh_denied=asking.refresh_denied)
        return reply


def _page(asking: PageRequest, query: AssetsQuery, answer: CacheAnswer) -> PageResponse:
    entry = answer.entry
    coding = asking.codings[0]
    body = entry.body
    part: Part | None = "body"
    if coding == "gzip":
        if entry.gzipped is not None:
            part, body = "gzipped", entry.gzipped
        elif "identity" in asking.codings:
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
    if is_known(entry.etag, asking.if_none_match):
        reply, part = PageResponse(asking, 304, headers, b""), "nothing"
    else:
        headers["Content-Type"] = "application/json"
        if coding == "gzip":
            headers["Content-Encoding"] = "gzip"
        reply = PageResponse(asking, 200, headers, body)
        if asking.method == "HEAD":
            part = "nothing"
    reply.source = None if part is None else PageSource(query, answer, part)
    return reply


def _not_found(answer: CacheAnswer, context: RequestContext) -> web.Response:
    envelope = parse_envelope(answer.entry.body)
    assert envelope is not None, "only a 404 with an envelope is admitted"  # noqa: S101 - ensured by `classification`
    response = render(vendor_problem(404, envelope), context.request_id)
    response.headers["Age"] = str(answer.entry.age(answer.now))
    response.headers["Cache-Status"] = cache_status(answer)
    return response
