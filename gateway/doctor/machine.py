"""This machine: whether the ports are free, and file descriptors enough."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys

from gateway.app.admin_client import is_gateway
from gateway.config.options import OpsOptions, ServerOptions
from gateway.doctor.network import Endpoint, why
from gateway.doctor.report import CheckReport
from gateway.http.listener import below_descriptor_limit


async def check_machine(report: CheckReport, server: ServerOptions, ops: OpsOptions) -> None:
    """Try to take the ports, without listening on them, and count descriptors."""
    await _port(report, "listener", "server", Endpoint(server.host, server.port), server=server, ops=ops)
    if ops.port is not None:
        await _port(report, "ops listener", "ops", Endpoint(ops.host or "127.0.0.1", ops.port), server=server, ops=ops)
    _descriptors(report, server)


async def _port(
    report: CheckReport, name: str, section: str, place: Endpoint, *, server: ServerOptions, ops: OpsOptions
) -> None:
    try:
        await asyncio.to_thread(_take, place)
    except (OSError, OverflowError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EADDRINUSE and await asyncio.to_thread(is_gateway, server, ops):
            report.ok(name, f"a gateway serves at {place} already")
        elif number == errno.EADDRINUSE:
            hint = f"end what listens there (`ss -ltnp 'sport = :{place.port}'` names it), or choose {section}.port"
            report.fail(name, f"{place} is taken, and not by a gateway that answers", hint)
        elif number in {errno.EACCES, errno.EPERM}:
            hint = f"choose {section}.port above 1023, or give the process the capability CAP_NET_BIND_SERVICE"
            report.fail(name, f"{place} is not ours to take", hint)
        else:
            hint = f"{section}.host has to be an address of this machine, or 0.0.0.0 for all"
            report.fail(name, f"{place} cannot be listened on: {why(error)}", hint)
        return
    report.ok(name, f"{place} is free" if place.port else f"a free port of {place.host} is taken at the start")


def _take(place: Endpoint) -> None:
    family, kind, _, _, address = socket.getaddrinfo(
        place.host or None, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind) as probe:
        if os.name == "posix":  # as `serve` does: what lingers of an earlier one is nobody's
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _descriptors(report: CheckReport, server: ServerOptions) -> None:
    name, wanted = "file descriptors", server.max_connections
    if sys.platform == "win32":
        report.skip(name, "Windows has no such limit")
        return
    possible = below_descriptor_limit(wanted)
    if possible < wanted:
        report.warn(
            name,
            f"the limit leaves room for {possible} connections, and server.max_connections is {wanted}",
            f"`ulimit -n {wanted * 4 // 3 + 32}` (systemd: LimitNOFILE=), or server.max_connections = {possible}",
        )
    else:
        report.ok(name, f"enough for {wanted} connections")
