"""Ports: the sockets that a configuration asks for, and the words for one that is taken."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

from gateway.app.build import Sockets
from gateway.config.loading import Settings
from gateway.core.hosts import reachable_host

_BACKLOG = 1024


class PortTakenError(Exception):
    """Somebody listens there already."""

    def __init__(self, host: str, port: int, hint: str) -> None:
        super().__init__(
            f"cannot listen on {host} port {port}: it is in use, or not ours to take; choose another by {hint}"
        )


def bind_all(settings: Settings) -> Sockets:
    """The sockets of both listeners, bound. Raises PortTakenError."""
    server, ops = settings.server, settings.ops
    client = _bind(server.host, server.port, "--port or GATEWAY_SERVER__PORT")
    if ops.port is None:
        return Sockets(client, None)
    try:
        return Sockets(client, _bind(ops.host or "127.0.0.1", ops.port, "GATEWAY_OPS__PORT"))
    except PortTakenError:
        client.close()
        raise


def _bind(host: str, port: int, hint: str) -> socket.socket:
    """A listening socket. Raises PortTakenError, whatever the reason: the words fit all of them."""
    try:
        family, address = _look_up(host, port)
        dual = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    except (OSError, OverflowError):
        raise PortTakenError(host, port, hint) from None


def _look_up(host: str, port: int) -> tuple[int, Any]:
    """Return the address family and the address to listen on. Raises OSError.

    The look-up runs in a thread: while it waits for DNS, no signal handler could run in the main thread.
    """
    found: list[Any] = []

    def run() -> None:
        with suppress(OSError, OverflowError, UnicodeError):
            found.append(socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0])

    thread = threading.Thread(target=run, name="look-up", daemon=True)
    thread.start()
    thread.join()
    if not found:
        raise OSError(f"{host} cannot be looked up")
    family, _, _, _, address = found[0]
    return family, address


def url_of(settings: Settings, sock: socket.socket) -> str:
    """Where the client listener is to be reached from this machine."""
    scheme = "http" if settings.server.tls_cert_file is None else "https"
    host, port = reachable_host(settings.server.host), sock.getsockname()[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
