"""A listening socket: accepting connections, and ending without losing one that was accepted."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import ssl
import struct
import sys
from contextlib import suppress

from aiohttp import web

from gateway.http.fast_path.response_cache import ResponseCache
from gateway.http.protocol import IDLE_SECONDS, GatewayServer
from gateway.http.router import Router

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


class Listener:
    """One listening socket, being served."""

    def __init__(
        self,
        router: Router,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        max_connections: int,
        longest_request: float,
        *,
        response_cache: ResponseCache | None = None,
    ) -> None:
        self._server = GatewayServer(router, below_descriptor_limit(max_connections), response_cache)
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
            ssl_handshake_timeout=IDLE_SECONDS if self._tls else None,
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
