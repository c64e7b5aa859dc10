"""The only place where concrete classes meet: build the gateway from its settings, start it, stop it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from socket import gethostname, socket
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry

from gateway.app.backends import Backends, memory_backends
from gateway.app.background_tasks import BackgroundTasks
from gateway.app.reload import Reloads
from gateway.app.workers.aggregation import WorkerAggregation
from gateway.app.workers.client import WorkerClient
from gateway.cache.chunks import ChunkedFetch
from gateway.cache.fetcher import Fetcher
from gateway.cache.handler import CacheHandler
from gateway.cache.lookup import Lookup
from gateway.cache.page_limits import PageLimits
from gateway.config.loading import NO_FILE, Settings, read_secret
from gateway.core.clock import Clock, SystemClock
from gateway.core.events import KeyLoaded, LogDropped, LoopLag, RequestServed
from gateway.core.hosts import is_loopback
from gateway.core.query import QueryRules, key_scope
from gateway.http.admin import Admin
from gateway.http.assets import Assets
from gateway.http.auth import Authenticator
from gateway.http.cors import Cors
from gateway.http.fast_path.response_cache import ResponseCache
from gateway.http.listener import Listener
from gateway.http.openapi import document
from gateway.http.operations import Operations
from gateway.http.pages import Pages, StatusPlace
from gateway.http.request_context import ClientNames
from gateway.http.router import Lifecycle, Route, Router
from gateway.http.status_pages import StatusPages
from gateway.http.tls import ListenerTls, listener_tls
from gateway.teams.roster import Roster
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.dispatcher import EventDispatcher
from gateway.telemetry.event_log import EventLog
from gateway.telemetry.log_writer import LineWriter
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.status.collector import StatusCollector
from gateway.telemetry.status.snapshot import State
from gateway.upstream.client import UpstreamClient
from gateway.upstream.keys import KeyRing

_LAG_SECONDS = 0.5
# Of `cache.memory_max_bytes`: what is remembered of requests, and what is left for pages.
_REPLAYS_SHARE = 1 / 8


class Sockets(NamedTuple):
    """Bound listening sockets: for clients and, if configured, for operations."""

    client: socket
    ops: socket | None


class Gateway:
    """One gateway process. `start`, then `stop`; it cannot be started twice. Raises CertificateError."""

    def __init__(
        self,
        settings: Settings,
        keys: KeyRing,
        writer: LineWriter,
        log_form: Literal["text", "json"],
        *,
        source: str = NO_FILE,
        example_aoi: str | None = None,
        worker_client: WorkerClient | None = None,
        tls: ListenerTls | None = None,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._keys = keys
        share = _REPLAYS_SHARE * settings.server.replay
        self._memory_for_pages = int(settings.cache.memory_max_bytes * (1 - share))
        self._worker_client = worker_client
        self._clock = clock = clock or SystemClock()
        self._metrics = Metrics(CollectorRegistry(), settings.teams)
        self._status_collector = StatusCollector(clock, self._fixed_state())
        self._dispatcher = EventDispatcher()
        self._emit = self._dispatcher.emit
        for handlers in (self._metrics.handlers, self._status_collector.handlers, EventLog(clock).handlers):
            self._dispatcher.subscribe(handlers)
        self._access_log = AccessLog(writer, log_form, clock) if settings.log.access else None
        if self._access_log is not None:
            self._dispatcher.subscribe({RequestServed: self._access_log.served})
        self._writer = writer
        self._tls = tls or listener_tls(settings.server)
        self._lifecycle = Lifecycle()
        self._scope = key_scope(settings.upstream.base_url, settings.upstream.account)
        self._backends = backends = self._build_backends()
        self._store, self._guard, self._budgets = backends.store, backends.guard, backends.budgets
        self._upstream = UpstreamClient(
            settings.upstream,
            keys,
            self._guard,
            clock=clock,
            charge=self._budgets.miss,
            chance=chance,
            emit=self._emit,
        )
        self._page_limits = PageLimits(forgotten=backends.validity_tokens.invalidate_all)
        self._fetcher = self._build_fetcher(chance)
        self._cache = self._build_cache()
        self._authenticators: list[Authenticator] = []
        self._response_cache = self._build_response_cache()
        self._aggregation = WorkerAggregation(
            self._metrics, self._status_collector, worker_client, tell=self._flush,
            configuration=lambda: self.reloads.configuration, life=lambda: self._lifecycle.state,
        )  # fmt: skip
        if worker_client is not None:
            worker_client.register(
                numbers=self._aggregation.metrics, snapshot=self._aggregation.snapshot, purge=backends.purge_local,
                lines_lost=self._count_lost_lines,
            )  # fmt: skip
        self._status_pages = StatusPages(self._aggregation.status, gethostname(), clock)
        self._client_router, self._ops_router = self._build_routers(example_aoi)
        self.reloads = Reloads(
            settings, source, authenticators=self._authenticators, budgets=self._budgets,
            response_cache=self._response_cache,
            fetcher=self._fetcher, keys=keys, tls=self._tls, adopt_url=backends.adopt_url, clock=clock,
            emit=self._emit,
        )  # fmt: skip
        self._listeners: list[Listener] = []
        self._background_tasks = BackgroundTasks(clock)
        self._emit(KeyLoaded(clock.now()))

    async def start(self, sockets: Sockets) -> None:
        """Serve on the sockets. Raises OSError or ssl.SSLError when `upstream.ca_file` cannot be used."""
        await self._upstream.open()
        # The whole of a request's vendor time, and as much again for a slow reader of its answer.
        longest = self._settings.upstream.deadline + 15.0
        connections = self._settings.server.max_connections
        tls = None if self._tls is None else self._tls.context
        self._listeners.append(
            Listener(
                self._client_router, sockets.client, tls, connections, longest, response_cache=self._response_cache
            )
        )
        if sockets.ops is not None and self._ops_router is not None:
            self._listeners.append(Listener(self._ops_router, sockets.ops, None, connections, longest))
        if self._backends.listening is not None:
            self._background_tasks.run("word of other replicas", self._backends.listening)
        if self._backends.following is not None:
            self._background_tasks.run("following cache.url_file", self._backends.following)
        self._background_tasks.run("the loop's lag", self._measure_lag)
        self._background_tasks.run("telling of response_cache", self._response_cache.run)
        self.reloads.follow_files()
        for listener in self._listeners:
            await listener.start()
        self._lifecycle.state = "ready"

    def unready(self) -> None:
        """Tell those who ask that requests should go elsewhere."""
        self._lifecycle.state = "draining"
        self._response_cache.close()

    async def stop(self, *, drain: bool = True, alone: bool = False) -> None:
        """End without losing a request: unready at once, closing connections for `server.drain`, then no more.

        A process that goes `alone`, while others serve on, is not unready, unless that changes meanwhile.
        """
        if self._lifecycle.state != "draining":
            self._lifecycle.state = "leaving" if alone else "draining"
        self._response_cache.close()
        if drain:
            await asyncio.sleep(self._settings.server.drain)
        last = self._lifecycle.state == "draining"
        self._status_pages.close()
        self._upstream.abandon_lookups()
        await asyncio.gather(*(listener.stop(patient=drain, last=last) for listener in self._listeners))
        await self._background_tasks.close()
        await self.reloads.close()
        await self._cache.close()
        await self._budgets.close()
        await self._upstream.close()
        await self._store.close()

    def _flush(self) -> None:
        """Flush counters that are aggregated between scrapes."""
        self._count_lost_lines(self._writer.take_dropped())
        self._response_cache.flush()
        self._backends.flush()

    def _count_lost_lines(self, lines: int) -> None:
        if lines:
            self._emit(LogDropped(lines))

    def _fixed_state(self) -> State:
        """What the status page tells that stays as it is."""
        return State(
            redis=self._settings.uses_redis,
            most_in_flight=self._settings.upstream.max_concurrency,
            most_queued=self._settings.upstream.max_queue,
            most_size=self._memory_for_pages,
        )

    def _build_backends(self) -> Backends:
        settings, clock, emit = self._settings, self._clock, self._emit
        memory = self._memory_for_pages
        if not settings.uses_redis:
            others = None if self._worker_client is None else self._worker_client.purge
            return memory_backends(
                memory, settings.upstream, settings.teams, purge_others=others, clock=clock, emit=emit
            )
        # Its client takes as long to import as a third of all the rest, and memory alone has no use for it.
        from gateway.app.redis_backend import redis_backends  # noqa: PLC0415

        return redis_backends(
            settings.cache_url.get_secret_value(), memory, settings.cache, settings.upstream, settings.teams,
            scope=self._scope, read=read_secret, clock=clock, emit=emit,
        )  # fmt: skip

    def _build_fetcher(self, chance: Callable[[], float]) -> Fetcher:
        return Fetcher(
            store=self._store,
            leases=self._backends.leases,
            fetch=self._upstream.fetch,
            check=self._upstream.check,
            budget=self._budgets,
            limits=self._page_limits,
            lifetimes=self._settings.cache.lifetimes,
            deadline=self._settings.upstream.deadline,
            clock=self._clock,
            chance=chance,
            emit=self._emit,
        )

    def _build_cache(self) -> CacheHandler:
        upstream, cache = self._settings.upstream, self._settings.cache
        clock, emit = self._clock, self._emit
        windows = Lookup(self._store, self._page_limits, scope=self._scope, clock=clock, emit=emit)
        return CacheHandler(
            store=self._store,
            lookup=windows,
            fetcher=self._fetcher,
            chunked_fetch=ChunkedFetch(cache.chunk, windows, self._fetcher, self._page_limits, clock=clock),
            leases=self._backends.leases,
            deadline=upstream.deadline,
            patience=upstream.patience,
            prefetch=cache.prefetch,
            idle=lambda: self._guard.idle,
            clock=clock,
            emit=emit,
        )

    def _build_response_cache(self) -> ResponseCache:
        response_cache = ResponseCache(
            self._cache,
            self._backends.validity_tokens,
            max_bytes=int(self._settings.cache.memory_max_bytes * _REPLAYS_SHARE),
            taker=self._budgets.taker,
            clients=ClientNames(self._settings.server.trusted_proxies),
            log=self._access_log,
            clock=self._clock,
            emit=self._emit,
        )
        if not self._settings.server.replay:
            response_cache.close()
        return response_cache

    def _build_routers(self, example_aoi: str | None) -> tuple[Router, Router | None]:
        settings = self._settings
        rules = QueryRules(settings.query.max_limit, tuple(settings.query.filters))
        tokens = settings.auth_mode == "tokens"
        own_listener = settings.ops.port is not None
        local = is_loopback(settings.server.host)
        described = document(rules, tokens=tokens, status=not own_listener)
        pages = partial(Pages, described, tokens=tokens, example_aoi=example_aoi)
        operations = Operations(self._lifecycle, self._aggregation.scrape).routes() | Admin(self._cache.purge).routes()
        operations |= self._status_pages.routes(guarded=not own_listener)
        if own_listener:
            client = self._router(pages(status="elsewhere").routes(), Assets(self._cache, rules))
            return client, self._router(pages(status="here").routes() | operations, None)
        place: StatusPlace = "with a token" if tokens else "here" if local else "nowhere"
        return self._router(pages(status=place).routes() | operations, Assets(self._cache, rules)), None

    def _router(self, routes: dict[str, Route], assets: Assets | None) -> Router:
        settings = self._settings
        host = settings.server.host if assets is not None else settings.ops.host or "127.0.0.1"
        open_to_all, local = settings.auth_mode == "open", is_loopback(host)
        authenticator = Authenticator(None if open_to_all else Roster(settings.teams), self._emit, local=local)
        self._authenticators.append(authenticator)
        return Router(
            routes=routes,
            assets=assets,
            authenticator=authenticator,
            cors=Cors(settings.server.cors_origins),
            clients=ClientNames(settings.server.trusted_proxies),
            lifecycle=self._lifecycle,
            loopback_only=open_to_all and local,
            admit=self._budgets.request,
            clock=self._clock,
            emit=self._emit,
        )

    async def _measure_lag(self) -> None:
        while True:
            expected = self._clock.monotonic() + _LAG_SECONDS
            await self._clock.sleep(_LAG_SECONDS)
            self._emit(LoopLag(max(0.0, self._clock.monotonic() - expected)))
