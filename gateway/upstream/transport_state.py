"""Read what the kernel and the TLS layer know about a connection."""

from __future__ import annotations

import asyncio
import select
import socket
import struct

# Of struct tcp_info (linux/tcp.h): tcpi_rtt (u32, microseconds) and tcpi_bytes_received (u64).
_RTT = struct.Struct("=68xI")
_BYTES_RECEIVED = struct.Struct("=128xQ")


def tcp_round_trip(transport: asyncio.BaseTransport) -> float | None:
    """Return the TCP handshake time in seconds, as the kernel measured it; None where it does not tell."""
    microseconds = _tcp_info(transport, _RTT)
    return microseconds / 1e6 if microseconds else None


def bytes_received(transport: asyncio.BaseTransport) -> int | None:
    """Return how many bytes have arrived in all, TLS records included; None where the kernel does not tell."""
    return _tcp_info(transport, _BYTES_RECEIVED)


def has_unread(transport: asyncio.BaseTransport) -> bool:
    """Return whether bytes, or the end of the connection, wait to be read: in the kernel or in the TLS layer."""
    tls = transport.get_extra_info("ssl_object")
    return (tls is not None and tls.pending() > 0) or _is_readable(transport.get_extra_info("socket"))


def _tcp_info(transport: asyncio.BaseTransport, field: struct.Struct) -> int | None:
    connected = transport.get_extra_info("socket")
    if connected is None or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        (value,) = field.unpack(connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, field.size))
    except (OSError, struct.error):
        return None
    return int(value)


def _is_readable(connected: socket.socket) -> bool:
    """Ask the kernel, as httpcore does."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(connected.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([connected], [], [], 0)[0])  # Windows
