"""The pool of connections to the vendor: which one a request gets, and which ones are kept.

This module, with `connection`, is the adapter to internals of aiohttp's client (3.14.5). They decide about
reuse, and there is no public way:

- `TCPConnector._factory` makes connections, `_create_connection` connects them;
- `_conns` holds the idle ones by key, `_get` takes one for a request, `_release` gives it back, `_close` ends them all;
- `_loop` and `_closed` are state.

`tests/test_client_internals.py` names the one that a new version lacks.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from gateway.config.options import UpstreamOptions
from gateway.core.events import ConnectionReuseSuspended, Emit, UpstreamConnection
from gateway.upstream.connection import VendorConnection
from gateway.upstream.connection_reuse import ReuseGuard

# The vendor's name is looked up again after this time, so that new connections follow a change within 30 s.
_DNS_SECONDS = 10


@dataclass(slots=True)
class Checkout:
    """Which connection a request is to have, and which one it got."""

    fresh: bool
    """Whether it has to be a new one."""
    connection: VendorConnection | None = None
    kept: bool = False
    """Whether it had been idle before."""

    @property
    def is_answered(self) -> bool:
        """Whether a byte of an answer has arrived."""
        return self.connection is not None and self.connection.answering

    @property
    def has_surplus(self) -> bool:
        """Whether bytes that no request asked for have arrived with the answer."""
        return self.connection is not None and self.connection.surplus

    def close(self) -> None:
        """Close the connection, if the request got one."""
        if self.connection is not None:
            self.connection.close()

    def end_dirty(self) -> None:
        """Close the connection, and count that it had bytes that no request asked for."""
        if self.connection is not None:
            self.connection.end_dirty()


_checkout: ContextVar[Checkout | None] = ContextVar("checkout", default=None)


class VendorConnector(aiohttp.TCPConnector):
    """The pool of connections to the vendor."""

    def __init__(
        self,
        options: UpstreamOptions,
        *,
        tls: ssl.SSLContext,
        resolver: AbstractResolver,
        monotonic: Callable[[], float],
        emit: Emit,
    ) -> None:
        super().__init__(
            limit=0,  # `upstream.max_concurrency` is the limit
            keepalive_timeout=None,  # each connection has a timer of its own
            ttl_dns_cache=_DNS_SECONDS,
            resolver=resolver,
            ssl=tls,
        )
        self._most_idle = options.keepalive_connections if options.keepalive_timeout else 0
        self._idle_seconds = options.keepalive_timeout
        self._monotonic = monotonic
        self._emit = emit
        self._host = URL(options.base_url).host or ""
        self._guard = ReuseGuard()
        self._opening: set[asyncio.Task[ResponseHandler]] = set()
        self._factory = partial(  # type: ignore[assignment] # a partial is not covariant
            VendorConnection, loop=self._loop, monotonic=monotonic, dirty=self._count_dirty
        )

    @contextmanager
    def checkout(self, *, fresh: bool) -> Iterator[Checkout]:
        """Tell which connection the requests of this block get."""
        checkout = Checkout(fresh)
        token = _checkout.set(checkout)
        try:
            yield checkout
        finally:
            _checkout.reset(token)

    def replaced(self) -> None:
        """Count a kept connection that was lost before an answer."""
        self._emit(UpstreamConnection("replaced"))
        if self._guard.replaced(self._monotonic()):
            self._suspend("the vendor closed more than a tenth of the connections within a minute")

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Take a kept connection, or make one."""
        connection = await super().connect(req, traces, timeout)
        used = connection.protocol
        if isinstance(used, VendorConnection):
            used.keep = self._reuses
            self._guard.checked_out(self._monotonic())
            self._emit(UpstreamConnection("reused" if used.requests else "new"))
            if (checkout := _checkout.get()) is not None:
                checkout.connection, checkout.kept = used, used.kept
        return connection

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        if self._wants_new or not self._bring_forward(key):
            return None
        return await super()._get(key, traces)

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close or not self._reuses)
        idle = self._conns.get(key)
        if self._closed or not idle or idle[-1][0] is not protocol:
            return
        assert isinstance(protocol, VendorConnection)  # noqa: S101 - the factory makes no others
        protocol.wait_in_pool(self._idle_seconds)
        self._drop_lost(key)
        while len(idle) > self._most_idle:
            idle.popleft()[0].close()  # as nginx does: the one that was used least recently

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        """Make a connection, unless a kept one has been quiet long enough before that is done.

        The one that comes too late is kept for the next request.
        """
        key = req.connection_key
        self._drop_lost(key)
        idle = self._conns.get(key)
        if self._wants_new or not idle:
            return await self._open(req, traces, timeout)
        ready_at = min(one.ready_at for one, _ in idle if isinstance(one, VendorConnection))
        opening = self._loop.create_task(self._open(req, traces, timeout))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            await asyncio.wait({opening}, timeout=max(0.0, ready_at - self._monotonic()))
            if opening.done() and opening.exception() is None:
                return opening.result()
            await asyncio.sleep(max(0.0, ready_at - self._monotonic()))  # no new one can be made: a kept one may do
            if not self._bring_forward(key):
                return await opening
        except BaseException:
            opening.cancel()
            opening.add_done_callback(partial(self._keep_unused, key))
            raise
        opening.add_done_callback(partial(self._keep_unused, key))
        return self._conns[key].popleft()[0]

    async def _open(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        async with asyncio.timeout(timeout.connect):
            opened = await super()._create_connection(req, traces, timeout)
        if isinstance(opened, VendorConnection) and req.proxy is not None and req.is_ssl():
            opened.measure_tunnel()
        return opened

    def _keep_unused(self, key: ConnectionKey, opening: asyncio.Task[ResponseHandler]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            return
        if self._closed:
            opening.result().close()
        else:
            self._release(key, opening.result())

    def _close(self, *, abort_ssl: bool = False) -> list[Awaitable[object]]:
        for opening in self._opening:
            opening.cancel()
        return [*super()._close(abort_ssl=abort_ssl), *self._opening]

    @property
    def _reuses(self) -> bool:
        return self._most_idle > 0 and self._guard.allows(self._monotonic())

    @property
    def _wants_new(self) -> bool:
        checkout = _checkout.get()
        return not self._reuses or (checkout is not None and checkout.fresh)

    def _bring_forward(self, key: ConnectionKey) -> bool:
        """Put the connection that may be used and has been idle longest first; return whether there is one."""
        self._drop_lost(key)
        idle = self._conns.get(key, ())
        for entry in idle:
            if isinstance(entry[0], VendorConnection) and entry[0].is_ready():
                self._conns[key].remove(entry)
                self._conns[key].appendleft(entry)
                return True
        return False

    def _drop_lost(self, key: ConnectionKey) -> None:
        idle = self._conns.get(key)
        if idle is not None and not all(one.is_connected() for one, _ in idle):
            connected = [entry for entry in idle if entry[0].is_connected()]
            idle.clear()
            idle.extend(connected)

    def _count_dirty(self) -> None:
        self._emit(UpstreamConnection("dirty"))
        if self._guard.dirty(self._monotonic()):
            self._suspend("the vendor sent bytes that no request had asked for, twice in ten minutes")

    def _suspend(self, why: str) -> None:
        self._emit(ConnectionReuseSuspended(why, self._host))
        for idle in self._conns.values():
            for one, _ in idle:
                one.close()
        self._conns.clear()
