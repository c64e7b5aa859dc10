"""aiohttp's server, told how we want connections bounded, ended and read."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.web.exchange import request_id_of
from gateway.web.framing import MAX_FIELD_BYTES, MAX_TARGET_BYTES
from gateway.web.parser import StrictParser
from gateway.web.problems import INTERNAL_ERROR, render
from gateway.web.router import Router

# A connection on which nothing happens, or never a whole request, is closed after this many seconds. The timer is not
# set back by single bytes, so it bounds a slow sender just as well.
_IDLE_SECONDS = 14.0
# How long is read on after an answer that came before its request was over.
_LINGER_SECONDS = 2.0
# A client whose window stays shut for so long is cut off by the kernel, where it can: an answer that nobody takes holds
# its memory and its connection.
_UNREAD_SECONDS = 30.0
_BACKLOG = 1024
# Connections that the kernel had accepted when the listener closed still get their answer within this time.
_AFTER_CLOSE_SECONDS = 0.3

_log = logging.getLogger("gateway.server")


class Protocol(RequestHandler):
    """One connection."""

    __slots__ = ("_answered", "_gone", "_half_closed")

    def __init__(self, server: GatewayServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=0,  # see finish_response
            max_line_size=MAX_TARGET_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type] # which is how aiohttp is told that there is none
        )
        self._parser = StrictParser(self._parser, self, loop, self._max_msg_queue_size)  # type: ignore[assignment]
        self._gone: asyncio.Future[None] = loop.create_future()
        self._half_closed = False
        self._answered = 0

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nobody is there any more."""
        super().connection_lost(exc)
        if not self._gone.done():
            self._gone.set_result(None)

    def eof_received(self) -> bool:  # type: ignore[override] # aiohttp never keeps a connection open here
        """Keep the connection of a client that has said all it will say, and still waits for answers."""
        answering = self._request_count > self._answered and not self._close
        self._half_closed = answering and self.ssl_context is None  # TLS has no such half
        return self._half_closed

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer, and close if its request is not over: what is left of it cannot be told from a next one."""
        amiss = not request.content.is_eof()
        if amiss or (self._half_closed and not self._messages):
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        self._answered += 1
        if amiss:
            await self._linger()
        elif self._half_closed and not self._messages:  # the other half was closed while the answer was sent
            self.close()
        return finished

    async def _linger(self) -> None:
        """Close in two steps (RFC 9112, section 9.6): over unread bytes the kernel resets, and the answer is lost."""
        self.close()  # from here on, aiohttp throws away what it receives
        transport = self.transport
        if transport is None or not transport.can_write_eof():  # TLS has its own last words
            return
        try:
            transport.write_eof()
        except OSError:  # the client has reset the connection: there is nobody to wait for
            return
        if not transport.is_reading():
            transport.resume_reading()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                await asyncio.shield(self._gone)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 - aiohttp's signature
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's signature
    ) -> web.StreamResponse:
        """Answer for a fault of the router itself; aiohttp's own words would be plain text."""
        self.log_exception(exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        response = render(INTERNAL_ERROR, request_id_of(request))
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002 - aiohttp's signature
        """Tell of an exception that escaped, without the request bytes that its text may hold."""
        error = kw.get("exc_info")
        _log.error("a connection ended by %s", type(error).__name__ if error else "an unknown error")


class GatewayServer(web.Server):
    """Makes a Protocol for each connection of one listener."""

    def __init__(self, router: Router, max_connections: int) -> None:
        super().__init__(router)
        self._max_connections = max_connections

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection in, or close it when there are too many: better some served well than all badly."""
        super().connection_made(handler, transport)
        if len(self.connections) > self._max_connections:
            transport.abort()

    def __call__(self) -> RequestHandler:
        """Begin a connection."""
        return Protocol(self, asyncio.get_running_loop())


class Listener:
    """One listening socket, being served."""

    def __init__(
        self,
        router: Router,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        max_connections: int,
        longest_request: float,
    ) -> None:
        self._server = GatewayServer(router, _below_descriptor_limit(max_connections))
        self._runner = web.ServerRunner(self._server, shutdown_timeout=longest_request)
        self._sock = sock
        self._tls = tls
        self._listening: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept connections."""
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Accepted sockets inherit it (Linux, tcp(7)).
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_UNREAD_SECONDS * 1000))
        await self._runner.setup()
        self._listening = await asyncio.get_running_loop().create_server(
            self._server, sock=self._sock, ssl=self._tls, backlog=_BACKLOG,
            ssl_handshake_timeout=_IDLE_SECONDS if self._tls else None,
        )  # fmt: skip

    async def stop(self, *, patient: bool) -> None:
        """Accept no more, finish what is in flight, and close; if `patient`, wait for what the kernel had accepted."""
        if self._listening is not None:
            self._listening.close()
        if patient:
            await asyncio.sleep(_AFTER_CLOSE_SECONDS)
        await self._runner.cleanup()


def _below_descriptor_limit(connections: int) -> int:
    """Leave descriptors for the vendor, Redis and files, or accepting itself would fail, for everybody and loudly."""
    try:
        import resource  # noqa: PLC0415 - there is none on Windows
    except ImportError:  # Windows has no such limit
        return connections
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - max(24, soft // 4)))
