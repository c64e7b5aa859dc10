"""The only place where concrete classes meet: build the gateway from its settings, start it, stop it."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Coroutine
from socket import socket
from typing import Any, Literal, NamedTuple

from prometheus_client import CollectorRegistry

from gateway import exposition
from gateway.backing import Backing, around_redis, in_memory
from gateway.cache import Cache
from gateway.clock import Clock, SystemClock
from gateway.core.facts import KeyLoaded, LoopLag
from gateway.core.hosts import is_loopback
from gateway.core.limits import Limits
from gateway.core.options import ServerOptions
from gateway.core.query import QueryRules, key_scope
from gateway.core.teams import Roster
from gateway.errands import Errands
from gateway.journal import Journal
from gateway.keys import KeyRing
from gateway.logs import LineWriter
from gateway.metrics import Metrics
from gateway.reload import Reloads
from gateway.settings import Settings
from gateway.stretches import Stretches
from gateway.upstream import Upstream
from gateway.web.access_log import AccessLog
from gateway.web.admin import Admin
from gateway.web.assets import Assets
from gateway.web.auth import Authenticator
from gateway.web.cors import Cors
from gateway.web.exchange import ClientNames
from gateway.web.listener import Listener
from gateway.web.openapi import document
from gateway.web.operations import Operations
from gateway.web.pages import Pages
from gateway.web.replay import Replays
from gateway.web.router import Lifecycle, Route, Router
from gateway.windows import Windows
from gateway.workers.peers import Peers

_LAG_SECONDS = 0.5
# Of `cache.memory_max_bytes`: what is remembered of requests, and what is left for pages.
_REPLAYS_SHARE = 1 / 8

_log = logging.getLogger("gateway")


class Sockets(NamedTuple):
    """Bound listening sockets: for clients and, if configured, for operations."""

    client: socket
    ops: socket | None


class Gateway:
    """One gateway process. `start`, then `stop`; it cannot be started twice."""

    def __init__(
        self,
        settings: Settings,
        keys: KeyRing,
        writer: LineWriter,
        log_form: Literal["text", "json"],
        *,
        example_aoi: str | None = None,
        peers: Peers | None = None,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._peers = peers
        self._clock = clock = clock or SystemClock()
        self._metrics = Metrics(CollectorRegistry(), settings.teams)
        self._sinks: list[Callable[[NamedTuple], None]] = [self._metrics.observe, Journal(clock).observe]
        self._access_log = AccessLog(writer, log_form, clock) if settings.log.access else None
        if self._access_log is not None:
            self._sinks.append(self._access_log.observe)
        writer.subscribe(self._observe)
        self._lifecycle = Lifecycle()
        self._scope = key_scope(settings.upstream.base_url, settings.upstream.account)
        self._backing = backing = self._build_backing()
        self._store, self._gate, self._budgets = backing.store, backing.gate, backing.budgets
        self._upstream = Upstream(
            settings.upstream, keys, self._gate, clock=clock, chance=chance, observe=self._observe
        )
        if peers is not None:
            peers.take_part(numbers=lambda: exposition.encode(self._numbers()), purge=backing.purge_here)
        self._limits = Limits(forgotten=backing.seals.break_all)
        self._errands = self._build_errands(chance)
        self._cache = self._build_cache()
        self._authenticators: list[Authenticator] = []
        self._replays = self._build_replays()
        self._client_router, self._ops_router = self._build_routers(example_aoi)
        self.reloads = Reloads(
            settings, authenticators=self._authenticators, budgets=self._budgets, replays=self._replays,
            errands=self._errands, keys=keys, clock=clock, observe=self._observe,
        )  # fmt: skip
        self._listeners: list[Listener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._observe(KeyLoaded(clock.now()))

    async def start(self, sockets: Sockets) -> None:
        """Serve on the sockets. Raises OSError or ssl.SSLError when a certificate cannot be used."""
        await self._upstream.open()
        tls = server_tls(self._settings.server)
        # The whole of a request's vendor time, and as much again for a slow reader of its answer.
        longest = self._settings.upstream.deadline + 15.0
        connections = self._settings.server.max_connections
        self._listeners.append(
            Listener(self._client_router, sockets.client, tls, connections, longest, replays=self._replays)
        )
        if sockets.ops is not None and self._ops_router is not None:
            self._listeners.append(Listener(self._ops_router, sockets.ops, None, connections, longest))
        if self._backing.listening is not None:
            self._run(self._backing.listening())
        self._run(self._measure_lag())
        self._run(self._replays.run())
        self.reloads.follow_key_files()
        for listener in self._listeners:
            await listener.start()
        self._lifecycle.state = "ready"

    def unready(self) -> None:
        """Tell those who ask that requests should go elsewhere."""
        self._lifecycle.state = "draining"
        self._replays.close()

    async def stop(self, *, drain: bool = True, alone: bool = False) -> None:
        """End without losing a request: unready at once, closing connections for `server.drain`, then no more.

        A process that goes `alone`, while others serve on, is not unready, unless that changes meanwhile.
        """
        if self._lifecycle.state != "draining":
            self._lifecycle.state = "leaving" if alone else "draining"
        self._replays.close()
        if drain:
            await asyncio.sleep(self._settings.server.drain)
        last = self._lifecycle.state == "draining"
        await asyncio.gather(*(listener.stop(patient=drain, last=last) for listener in self._listeners))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.reloads.close()
        await self._cache.close()
        await self._budgets.close()
        await self._upstream.close()
        await self._store.close()

    def _observe(self, fact: NamedTuple) -> None:
        for sink in self._sinks:
            sink(fact)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(_tell_of_death)
        self._tasks.append(task)

    def _build_backing(self) -> Backing:
        settings, clock, observe = self._settings, self._clock, self._observe
        # What remembers requests has its share of it.
        memory = int(settings.cache.memory_max_bytes * (1 - _REPLAYS_SHARE * settings.server.replay))
        if not settings.uses_redis:
            others = None if self._peers is None else self._peers.purge
            return in_memory(
                memory, settings.upstream, settings.teams, purge_others=others, clock=clock, observe=observe
            )
        return around_redis(
            settings.cache_url.get_secret_value(), memory, settings.cache, settings.upstream, settings.teams,
            scope=self._scope, clock=clock, observe=observe,
        )  # fmt: skip

    def _build_errands(self, chance: Callable[[], float]) -> Errands:
        return Errands(
            store=self._store,
            turns=self._backing.turns,
            fetch=self._upstream.fetch,
            check=self._upstream.check,
            charge=self._budgets.miss,
            limits=self._limits,
            lifetimes=self._settings.cache.lifetimes,
            deadline=self._settings.upstream.deadline,
            clock=self._clock,
            chance=chance,
            observe=self._observe,
        )

    def _build_cache(self) -> Cache:
        upstream, cache = self._settings.upstream, self._settings.cache
        clock, observe = self._clock, self._observe
        windows = Windows(self._store, self._limits, scope=self._scope, clock=clock, observe=observe)
        return Cache(
            store=self._store,
            windows=windows,
            errands=self._errands,
            stretches=Stretches(cache.chunk, windows, self._errands, self._limits, clock=clock),
            turns=self._backing.turns,
            deadline=upstream.deadline,
            patience=upstream.patience,
            prefetch=cache.prefetch,
            idle=lambda: self._gate.idle,
            clock=clock,
            observe=observe,
        )

    def _build_replays(self) -> Replays:
        replays = Replays(
            self._cache,
            self._backing.seals,
            max_bytes=int(self._settings.cache.memory_max_bytes * _REPLAYS_SHARE),
            taker=self._budgets.taker,
            clients=ClientNames(self._settings.server.trusted_proxies),
            log=self._access_log,
            clock=self._clock,
            observe=self._observe,
        )
        if not self._settings.server.replay:
            replays.close()
        return replays

    def _build_routers(self, example_aoi: str | None) -> tuple[Router, Router | None]:
        settings = self._settings
        rules = QueryRules(settings.query.max_limit, tuple(settings.query.filters))
        tokens = settings.auth_mode == "tokens"
        pages = Pages(document(rules, tokens=tokens), tokens=tokens, example_aoi=example_aoi).routes()
        operations = Operations(self._lifecycle, self._scrape).routes() | Admin(self._cache.purge).routes()
        own_listener = settings.ops.port is not None
        client = self._router(pages if own_listener else pages | operations, Assets(self._cache, rules))
        return client, self._router(pages | operations, None) if own_listener else None

    def _router(self, routes: dict[str, Route], assets: Assets | None) -> Router:
        settings = self._settings
        host = settings.server.host if assets is not None else settings.ops.host or "127.0.0.1"
        open_to_all, local = settings.auth_mode == "open", is_loopback(host)
        authenticator = Authenticator(None if open_to_all else Roster(settings.teams), self._observe, local=local)
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
            observe=self._observe,
        )

    async def _scrape(self, accept: str) -> tuple[bytes, str]:
        if self._peers is None:
            return exposition.rendered(self._numbers(), accept)
        # Numbers of many processes take their time, and the loop has none.
        return await asyncio.to_thread(_written, await self._peers.numbers(), accept)

    def _numbers(self) -> exposition.Numbers:
        self._replays.tell()
        return self._metrics.numbers()

    async def _measure_lag(self) -> None:
        while True:
            expected = self._clock.monotonic() + _LAG_SECONDS
            await self._clock.sleep(_LAG_SECONDS)
            self._observe(LoopLag(max(0.0, self._clock.monotonic() - expected)))


def _tell_of_death(task: asyncio.Task[None]) -> None:
    """Nobody waits for what is to run for ever, so that its end would go unseen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error(
            "a part of the gateway has stopped",
            extra={"part": getattr(task.get_coro(), "__qualname__", ""), "why": type(error).__name__},
        )


def _written(told: list[bytes], accept: str) -> tuple[bytes, str]:
    return exposition.rendered(exposition.merged(map(exposition.decode, told)), accept)


def server_tls(server: ServerOptions) -> ssl.SSLContext | None:
    """The TLS of the client listener, if it has any. Raises ssl.SSLError or OSError when its files cannot be used."""
    if server.tls_cert_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.tls_cert_file, server.tls_key_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
