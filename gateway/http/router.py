"""Route every request, and finish every response.

A request is checked in the order of the contract: framing, route, method, authentication, team rate, then what the
route itself requires. Errors become envelopes here, and responses are counted and logged here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from gateway.core.clock import Clock
from gateway.core.errors import Denied, LimitReached
from gateway.core.events import Emit, RateLimited, RequestBegan, RequestServed, UnhandledError
from gateway.core.http_fields import http_date
from gateway.http.assets import Assets
from gateway.http.auth import Authenticator
from gateway.http.cors import Cors
from gateway.http.errors import INTERNAL_ERROR, Problem, problem_of, render
from gateway.http.fast_path.header_cache import AcceptedHeaders
from gateway.http.framing import Target, check
from gateway.http.page_request import parse_page_request
from gateway.http.request_context import ClientNames, RequestContext, new_request_id, request_id_of
from gateway.http.responses import AiohttpPageResponse, PageResponse, page_response
from gateway.http.server_sent_events import EventStream
from gateway.teams.roster import Team

# nginx's number for "the client went away before it had an answer"; it is never sent.
_CLIENT_LEFT = 499

RouteName = Literal[
    "assets", "landing", "docs", "openapi", "metrics", "healthz", "readyz", "purge",
    "status", "status_json", "status_events", "unknown", "invalid",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Route:
    """A path with its answer; only an `admin` route asks who is there, and a `browser` one in a browser's way too."""

    name: RouteName
    answer: Callable[[web.BaseRequest], Awaitable[web.Response | EventStream]]
    methods: tuple[str, ...] = ("GET", "HEAD")
    admin: bool = False
    browser: bool = False


Answered = web.StreamResponse | PageResponse


class Lifecycle:
    """Where in its life the gateway is: starting, ready, draining; `leaving` if only this one of its processes ends."""

    def __init__(self) -> None:
        self.state: Literal["starting", "ready", "leaving", "draining"] = "starting"


class Router:
    """The handler of one listener: fixed routes by path and, where `assets` is given, the endpoint.

    `admit` counts a team's request for a page, or raises LimitReached.
    """

    def __init__(
        self,
        *,
        routes: Mapping[str, Route],
        assets: Assets | None,
        authenticator: Authenticator,
        cors: Cors,
        clients: ClientNames,
        lifecycle: Lifecycle,
        loopback_only: bool,
        admit: Callable[[str], Awaitable[None]],
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._admit = admit
        self._routes = routes
        self._assets = assets
        self._authenticator = authenticator
        self._cors = cors
        self._clients = clients
        self._lifecycle = lifecycle
        self._loopback_only = loopback_only
        self._clock = clock
        self._emit = emit

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; never raises but when the connection is gone."""
        began = self._clock.monotonic()
        self._emit(RequestBegan())
        context = RequestContext(request_id_of(request), request.method, self._clients.name(request))
        response: Answered | None = None
        try:
            response = await self._answer(request, context)
            if isinstance(response, EventStream):
                self._finished(request, context, response)
                await response.run(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - this is the one place where nothing may escape
            response = self._failed(error, context)
        finally:
            self._served(context, response, began)
        return self._finished(request, context, response)

    async def answer_cached_headers(
        self, familiar: AcceptedHeaders, target: Target, request_id: str | None, peer: str
    ) -> PageResponse:
        """The same for a page, asked for by a peer with header lines that were read before."""
        assert self._assets is not None, "only who has pages learns header lines"  # noqa: S101 - see `server`
        began = self._clock.monotonic()
        self._emit(RequestBegan())
        asking = familiar.request
        client = peer if familiar.forwarded is None else self._clients.behind(peer, familiar.forwarded)
        context = RequestContext(request_id or new_request_id(), asking.method, client, "assets", asking.team.name)
        reply: PageResponse | None = None
        try:
            await self._admit(context.team)
            answered = await self._assets.answer(asking, target, context)
            reply = answered if isinstance(answered, PageResponse) else page_response(asking, answered)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - and this is the other one
            reply = page_response(asking, self._failed(error, context))
        finally:
            self._served(context, reply, began)
        self._sign(reply.headers, context, familiar.origin)
        return reply

    @property
    def is_leaving(self) -> bool:
        """Whether clients are told to connect anew."""
        return self._lifecycle.state in ("draining", "leaving")

    async def _answer(self, request: web.BaseRequest, context: RequestContext) -> Answered:
        context.route = "invalid"
        target = check(request, loopback_only=self._loopback_only)
        context.route = "unknown"
        if self._assets is not None and self._assets.owns(target.path):
            context.route = "assets"
            if request.method == "OPTIONS" and (preflight := self._cors.preflight(request)) is not None:
                return preflight
            self._check_method(request, ("GET", "HEAD"))
            team = self._authenticated(request, context)
            await self._admit(team.name)
            return await self._assets.answer(parse_page_request(request, team), target, context)
        return await self._answer_route(request, target, context)

    async def _answer_route(
        self, request: web.BaseRequest, target: Target, context: RequestContext
    ) -> web.StreamResponse:
        route = self._routes.get(target.path)
        if route is None:
            raise Problem(404, "not_found", "there is nothing here; / tells what there is")
        context.route = route.name
        self._check_method(request, route.methods)
        if route.admin and "admin" not in self._authenticated(request, context, browser=route.browser).scopes:
            raise Denied("this needs the scope admin or, in open mode, a client on this machine")
        return await route.answer(request)

    def _authenticated(self, request: web.BaseRequest, context: RequestContext, *, browser: bool = False) -> Team:
        team = self._authenticator.team_of(request, browser=browser)
        context.team = team.name
        return team

    @staticmethod
    def _check_method(request: web.BaseRequest, methods: tuple[str, ...]) -> None:
        if request.method not in methods:
            allow = {"Allow": ", ".join(methods)}
            raise Problem(405, "method_not_allowed", f"this takes {' and '.join(methods)}", headers=allow)

    def _failed(self, error: Exception, context: RequestContext) -> web.Response:
        problem = problem_of(error)
        context.problem = problem.code.encode(errors="replace").decode()  # a vendor's code may have lone surrogates
        if isinstance(error, LimitReached):
            self._emit(RateLimited(error.team, error.budget))
        if problem is INTERNAL_ERROR:
            self._emit(UnhandledError(type(error).__name__, _where(error), context.request_id))
        return render(problem, context.request_id)

    def _finished(self, request: web.BaseRequest, context: RequestContext, response: Answered) -> web.StreamResponse:
        self._sign(response.headers, context, request.headers.get("Origin", ""))
        finished = AiohttpPageResponse(response) if isinstance(response, PageResponse) else response
        if self.is_leaving:
            finished.force_close()
        return finished

    def _sign(self, headers: MutableMapping[str, str], context: RequestContext, origin: str) -> None:
        """What stands in every answer."""
        headers["X-Request-Id"] = context.request_id
        headers["Server"] = "pixxel-gateway"
        headers["Date"] = http_date(int(self._clock.now()))
        self._cors.mark(headers, origin)

    def _served(self, context: RequestContext, response: Answered | None, began: float) -> None:
        body = response.body if isinstance(response, web.Response | PageResponse) else None
        sends_body = context.method != "HEAD" and isinstance(body, bytes)
        stream = response if isinstance(response, EventStream) else None
        self._emit(
            RequestServed(
                request_id=context.request_id,
                route=context.route,
                method=context.method if context.method in ("GET", "HEAD", "OPTIONS") else "other",
                team=context.team,
                client=context.client,
                aoi_id=context.aoi_id,
                status=_CLIENT_LEFT if response is None else response.status,
                cache=context.cache,
                body_bytes=len(body) if sends_body and isinstance(body, bytes) else stream.sent if stream else 0,
                duration=self._clock.monotonic() - began,
                upstream=context.upstream,
                problem=context.problem,
                streamed=stream is not None,
            )
        )


def _where(error: BaseException) -> str:
    """File and line where an exception was raised: enough to find it, and free of any value."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
