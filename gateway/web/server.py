"""aiohttp's server, told how we want parser errors answered and connections bounded."""

from __future__ import annotations

import asyncio
import logging
import ssl
from socket import socket
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.web.framing import MAX_FIELD_BYTES, MAX_TARGET_BYTES
from gateway.web.router import Router

# A connection on which nothing happens, or never a whole request, is closed after this many seconds. The timer is not
# set back by single bytes, so it bounds a slow sender just as well.
_IDLE_SECONDS = 14.0
# How long the rest of a refused body is read, so that the refusal is not lost to a reset.
_LINGER_SECONDS = 2.0
_BACKLOG = 1024
# Connections that the kernel had accepted when the listener closed still get their answer within this time.
_AFTER_CLOSE_SECONDS = 0.3

_log = logging.getLogger("gateway.server")


class Protocol(RequestHandler):
    """One connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 - aiohttp's signature
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's signature
    ) -> web.StreamResponse:
        """Answer what the parser refused, in our envelope: aiohttp's own answer quotes the offending line."""
        manager = self._manager
        if not isinstance(manager, GatewayServer) or request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        return manager.router.reject(request, exc)

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002 - aiohttp's signature
        """Tell of an exception that escaped, without the request bytes that its text may hold."""
        error = kw.get("exc_info")
        _log.error("a connection ended by %s", type(error).__name__ if error else "an unknown error")


class GatewayServer(web.Server):
    """Makes a Protocol for each connection of one listener."""

    def __init__(self, router: Router, max_connections: int) -> None:
        super().__init__(router)
        self.router = router
        self._max_connections = max_connections

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection in, or close it when there are too many: better some served well than all badly."""
        super().connection_made(handler, transport)
        if len(self.connections) > self._max_connections:
            transport.abort()

    def __call__(self) -> RequestHandler:
        """Begin a connection."""
        return Protocol(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            max_line_size=MAX_TARGET_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type] # which is how aiohttp is told that there is none
        )


class Listener:
    """One listening socket, being served."""

    def __init__(
        self, router: Router, sock: socket, tls: ssl.SSLContext | None, max_connections: int, longest_request: float
    ) -> None:
        server = GatewayServer(router, _below_descriptor_limit(max_connections))
        self._runner = web.ServerRunner(server, shutdown_timeout=longest_request)
        self._sock = sock
        self._tls = tls

    async def start(self) -> None:
        """Accept connections."""
        await self._runner.setup()
        await web.SockSite(self._runner, self._sock, ssl_context=self._tls, backlog=_BACKLOG).start()

    async def stop(self) -> None:
        """Accept no more, finish what is in flight, and close."""
        for site in self._runner.sites:
            await site.stop()
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
