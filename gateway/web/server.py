"""aiohttp's server, told how we want connections bounded, ended and read."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import ssl
import struct
import sys
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
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it
# How long before it closes a listener lets no new handshake begin, where the kernel can do that: those under way end.
_HANDSHAKE_SECONDS = 0.2
# How long a connection that was accepted last may take to send its first request.
_FIRST_REQUEST_SECONDS = 1.0
_LOOK_SECONDS = 0.02

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

    async def start(self) -> None:
        """Serve, unless the connection was gone before that began: aiohttp would trip over it."""
        if self.transport is not None:
            await super().start()

    @property
    def has_asked(self) -> bool:
        """Whether a request has come in."""
        return self._request_count > 0

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

    @property
    def has_newcomers(self) -> bool:
        """Whether some connection has not sent a request yet."""
        return any(isinstance(handler, Protocol) and not handler.has_asked for handler in self.connections)

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
        self._server = GatewayServer(router, below_descriptor_limit(max_connections))
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

    async def stop(self, *, patient: bool, last: bool = True) -> None:
        """Accept no more, finish what is in flight, and close; if `patient`, answer all whom the kernel has let in.

        Whoever closes a listening socket `last` resets the connections that wait in its backlog. They come all the
        time while clients are told to connect anew, so that there is no moment at which it is known to be empty, but
        one made by force: no handshake begins any more, those under way end, all that wait are accepted, and only
        then it is closed. Where the kernel cannot be told (macOS), what is left is the time between the last accept
        and close, some microseconds. Processes that share the socket may all do this: only the last one's close counts.
        """
        if self._listening is not None:
            if patient and last and _let_no_handshake_begin(self._sock):
                await asyncio.sleep(_HANDSHAKE_SECONDS)
            own = self._sock.dup()
            self._listening.close()  # which may take a turn of the loop, so that our own is what counts
            waiting = _accept_all(own) if patient and last else []
            own.close()
            await asyncio.gather(*map(self._serve, waiting))
        if patient:
            await self._hear_first_requests()
        await self._runner.cleanup()

    async def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError):  # gone again, or no TLS
            await asyncio.get_running_loop().connect_accepted_socket(
                self._server, sock, ssl=self._tls, ssl_handshake_timeout=_FIRST_REQUEST_SECONDS if self._tls else None
            )

    async def _hear_first_requests(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_REQUEST_SECONDS):
                await asyncio.sleep(_LOOK_SECONDS)
                while self._server.has_newcomers:  # noqa: ASYNC110 - it is seen only
                    await asyncio.sleep(_LOOK_SECONDS)


def _let_no_handshake_begin(sock: socket.socket) -> bool:
    """Have the kernel drop every SYN to this socket, as if it were lost on the way; whether it does.

    The client sends it again a second later, and meets whoever listens then, or a refusal: nothing it said is lost.
    """
    if sys.platform != "linux":
        return False
    # Classic BPF (linux/filter.h): load the flags (byte 13 of a TCP header); if SYN is set, take 0 bytes, else all.
    program = b"".join(
        struct.pack("=HBBI", *step)
        for step in ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
    )
    held = ctypes.create_string_buffer(program, len(program))
    try:
        sock.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(held))
        )
    except OSError:  # a sandbox without it
        return False
    return True


def _accept_all(sock: socket.socket) -> list[socket.socket]:
    """Every connection that waits for being accepted."""
    sock.setblocking(False)
    accepted: list[socket.socket] = []
    while True:
        try:
            connection, _ = sock.accept()
        except ConnectionAbortedError:  # it went away while it waited
            continue
        except OSError:  # there is none, or no descriptor for it
            return accepted
        connection.setblocking(False)
        accepted.append(connection)


def below_descriptor_limit(connections: int) -> int:
    """Leave descriptors for the vendor, Redis and files, or accepting itself would fail, for everybody and loudly."""
    try:
        import resource  # noqa: PLC0415 - there is none on Windows
    except ImportError:  # Windows has no such limit
        return connections
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - max(24, soft // 4)))
