"""aiohttp's server, told how we want connections bounded, ended and read."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.http.errors import INTERNAL_ERROR, render
from gateway.http.fast_path.header_cache import HEAD_END, CachedHeaders, is_whole
from gateway.http.fast_path.response_cache import ResponseCache
from gateway.http.framing import MAX_FIELD_BYTES, MAX_TARGET_BYTES
from gateway.http.parser import StrictParser
from gateway.http.request_context import request_id_of
from gateway.http.responses import PIECE, AiohttpPageResponse, PageResponse
from gateway.http.router import Router

# A connection on which nothing happens, or never a whole request, is closed after this many seconds. The timer is not
# set back by single bytes, so it bounds a slow sender just as well.
IDLE_SECONDS = 14.0
# Of requests that came before their turn, more than this waits in the kernel.
_MOST_HELD = 65_536

_log = logging.getLogger("gateway.server")


class Protocol(RequestHandler):
    """One connection."""

    __slots__ = (
        "_answered", "_answering", "_between", "_client", "_gone", "_half_closed", "_held", "_lingering",
        "_response_cache", "_router", "_strict", "_whole",
    )  # fmt: skip

    def __init__(self, server: GatewayServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=0,  # see finish_response
            max_line_size=MAX_TARGET_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type] # which is how aiohttp is told that there is none
        )
        self._strict = StrictParser(self._parser, self, loop, self._max_msg_queue_size)
        self._parser = self._strict  # type: ignore[assignment]
        self._router = server.router
        self._response_cache = server.response_cache
        # Whether whatever comes next begins a request, as far as this side of the parser can tell. It is so from the
        # moment that an answer was sent: a client that is quick has asked again before aiohttp waits for that.
        self._between = True
        # The request that is being answered, if all its bytes came at once, and when that was.
        self._whole: tuple[bytes, int] | None = None
        # The answer to a request whose header lines are familiar, while it is made and sent, and what came meanwhile.
        self._answering: asyncio.Task[None] | None = None
        self._held = b""
        self._client: str | None = None
        self._gone: asyncio.Future[None] = loop.create_future()
        self._half_closed = False
        self._answered = 0
        # Set once the last response was sent: input is only discarded from then on.
        self._lingering: LingeringClose | None = None

    async def start(self) -> None:
        """Serve, unless the connection was gone before that began: aiohttp would trip over it."""
        if self.transport is not None:
            await super().start()

    @property
    def has_asked(self) -> bool:
        """Whether a request has come in."""
        return self._request_count > 0

    @property
    def client(self) -> str:
        """The address of the peer."""
        if self._client is None:
            peer = self.peername
            self._client = str(peer[0]) if isinstance(peer, tuple) else peer or ""
        return self._client

    def data_received(self, data: bytes) -> None:
        """Answer a request by the short cut if it can be, else have it read and handled."""
        if self._lingering is not None:
            self._lingering.discarded()
            return
        if self._answering is not None:
            self._hold(data)
            return
        response_cache, transport = self._response_cache, self.transport
        # Everything that was asked is answered and sent, and nothing of the next request is here yet.
        if response_cache is not None and data and self._between and transport is not None and not self._is_closing:
            # TLS does not tell how much it has not sent, but when it is too much.
            if self._strict.at_rest and not self._paused and not transport.get_write_buffer_size():
                if response_cache.answer(data, self):
                    self._next_keepalive_close_time = self._loop.time() + IDLE_SECONDS
                    self._request_count += 1
                    self._answered += 1
                    return
                if (read := response_cache.headers.read(data)) is not None:
                    self._between = False
                    self._request_count += 1
                    self._answering = self._loop.create_task(self._answer(read, data, response_cache.turn))
                    return
                self._whole = (data, response_cache.turn) if is_whole(data) else None
            self._between = False
        super().data_received(data)

    async def _answer(self, read: CachedHeaders, received: bytes, turn: int) -> None:
        """Answer a request whose header lines are familiar."""
        try:
            reply = await self._router.answer_cached_headers(*read, self.client)
            await self._send(reply)
            if self._response_cache is not None:
                self._response_cache.offer(received, turn, read.accepted, reply)
        except ConnectionError:  # nobody is there any more
            self.force_close()
        except Exception as error:  # noqa: BLE001 - as aiohttp does around its handlers
            self.log_exception(exc_info=error)
            self.force_close()
        finally:
            self._answered += 1
            if self._is_closing or self._has_heard_all:
                await self._linger()
                self.force_close()
            self._answering = None
        self._go_on()

    async def _send(self, reply: PageResponse) -> None:
        """Send an answer as aiohttp would; a client that is gone is not told."""
        transport = self.transport
        if transport is None:
            return
        if self._router.is_leaving or self._has_heard_all:
            self._close = True
        head, body = reply.head(reply.headers, closes=self._is_closing), reply.payload
        if len(body) <= PIECE:
            transport.write(head + body)
            return
        transport.write(head)
        whole = memoryview(body)
        for start in range(0, len(body), PIECE):
            transport.write(whole[start : start + PIECE])
            await self._drain_helper()

    def _hold(self, data: bytes) -> None:
        """Let what comes before its turn wait."""
        self._held += data
        if len(self._held) > _MOST_HELD and self.transport is not None:
            self.transport.pause_reading()

    def _go_on(self) -> None:
        """Take the next request, which may be here already."""
        transport = self.transport
        if transport is None:
            return
        self._next_keepalive_close_time = self._loop.time() + IDLE_SECONDS
        self._between = not self._half_closed
        held, self._held = self._held, b""
        if not transport.is_reading():
            transport.resume_reading()
        if held:
            self.data_received(held)

    @property
    def _has_heard_all(self) -> bool:
        """Whether no further request can come: the client has said all, and what is held is none, or not all of one."""
        return self._half_closed and HEAD_END not in self._held.lstrip(b"\r\n")

    @property
    def _is_closing(self) -> bool:
        return self._close or self._force_close

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """End within `timeout` seconds, but not before what was answered has gone out: the loop may end next."""
        transport, ends = self.transport, None if timeout is None else self._loop.time() + timeout
        tells = self.ssl_context is None  # TLS knows nothing of what its own transport holds
        if (answering := self._answering) is not None:
            await asyncio.wait([answering], timeout=timeout)
            answering.cancel()
        await super().shutdown(timeout)
        if transport is not None and tells and transport.get_write_buffer_size():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(ends):
                    await asyncio.shield(self._gone)

    def _process_keepalive(self) -> None:
        """Close an idle connection. One whose request is being answered is not idle, though aiohttp knows of none."""
        if self._answering is None:
            super()._process_keepalive()
        else:
            self._keepalive_handle = self._loop.call_later(IDLE_SECONDS, self._process_keepalive)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nobody is there any more."""
        waiting = None if self._request_in_progress else self._task_handler
        super().connection_lost(exc)
        if waiting is not None:
            waiting.cancel()  # for what came with the end, aiohttp would begin a request without a connection
        if not self._gone.done():
            self._gone.set_result(None)

    def eof_received(self) -> bool:  # type: ignore[override] # aiohttp never keeps a connection open here
        """Keep the connection of a client that has said all it will say, and still waits for answers."""
        answering = self._request_count > self._answered and self._lingering is None
        self._half_closed = answering and self.ssl_context is None  # TLS has no such half
        return self._half_closed

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer, and close if its request is not over: what is left of it cannot be told from a next one."""
        amiss = not request.content.is_eof()
        if amiss or (self._half_closed and not self._messages):
            resp.force_close()
        whole, self._whole = self._whole, None
        finished = await super().finish_response(request, resp, start_time)
        self._answered += 1
        reset = finished[1]
        self._between = not (amiss or reset or self._messages or self._half_closed) and resp.keep_alive is True
        if whole is not None and self._response_cache is not None and isinstance(resp, AiohttpPageResponse):
            self._response_cache.learn(*whole, request, resp.reply)
        if self._half_closed and not self._messages:  # the other half was closed while the answer was sent
            self.close()
        if self._is_closing or not resp.keep_alive:
            await self._linger()
        return finished

    async def _linger(self) -> None:
        """Let the client read everything before the connection is closed."""
        self.close()
        transport = self.transport
        # A client that has closed its half sends nothing more. TLS cannot close a half: uvloop discards input itself.
        if transport is not None and not self._half_closed and transport.can_write_eof():
            self._lingering, self._held = LingeringClose(transport, self._gone), b""
            await self._lingering.run()

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

    def __init__(self, router: Router, max_connections: int, response_cache: ResponseCache | None) -> None:
        super().__init__(router)
        self._max_connections = max_connections
        self.router = router
        self.response_cache = response_cache

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


# How long input is read and discarded before a connection is closed: since the last byte came or left, and in total.
_IDLE_SECONDS = 2.0
_TOTAL_SECONDS = 10.0


class LingeringClose:
    """Close in two steps (RFC 9112, section 9.6): end the output, and discard input until the client closes.

    If the kernel closes a connection with unread input, or receives some later, it resets the connection, and the
    client loses whatever it has not read yet, responses to earlier requests included.
    """

    def __init__(self, transport: asyncio.Transport, lost: asyncio.Future[None]) -> None:
        self._transport = transport
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._active_at = self._loop.time()

    def discarded(self) -> None:
        """Note that input arrived."""
        self._active_at = self._loop.time()

    async def run(self) -> None:
        """End the output, and return when the connection is lost or may be closed."""
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset the connection
            return
        if not self._transport.is_reading():
            self._transport.resume_reading()
        limit = self._loop.time() + _TOTAL_SECONDS
        while not self._lost.done():
            if self._transport.get_write_buffer_size():
                self._active_at = self._loop.time()
            left = min(limit, self._active_at + _IDLE_SECONDS) - self._loop.time()
            if left <= 0:
                return
            await asyncio.wait([self._lost], timeout=left)
