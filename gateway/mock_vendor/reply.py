"""One answer of the stand-in vendor, and the ways of getting it wrong on the wire.

Owns the vendor's error envelope, what a behaviour makes of a good answer, and the sending: slow,
cut short or reset. Refuses to know routes, keys and assets.
"""

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp import web

from gateway.mock_vendor.behaviour import Behaviour, gzip_bomb
from gateway.mock_vendor.catalogue import go_json


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, body and the headers beyond the usual ones."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


async def spoil(reply: Reply, behaviour: Behaviour) -> Reply:
    """Return what goes out instead of `reply`: another status, other headers, another body."""
    status, body, headers = reply.status, reply.body, dict(reply.headers)
    if behaviour.status is not None:
        status = behaviour.status
        if status >= 400:
            body = envelope(status, "as requested").body
    elif behaviour.redirect_to is not None:
        status = 302
    elif behaviour.garbage is not None or behaviour.gzip_bomb is not None:
        status = 200
    if behaviour.redirect_to is not None:
        headers["Location"] = behaviour.redirect_to
        body = body if status >= 400 else b""
    if behaviour.garbage is not None:
        body = behaviour.garbage
    if behaviour.gzip_bomb is not None:
        headers["Content-Encoding"] = "gzip"
        pieces = []
        for piece in gzip_bomb(behaviour.gzip_bomb, body):
            pieces.append(piece)
            await asyncio.sleep(0)
        body = b"".join(pieces)
    if behaviour.retry_after is not None:
        headers["Retry-After"] = behaviour.retry_after
    if behaviour.content_type is not None:
        headers["Content-Type"] = behaviour.content_type
    if 100 <= status < 200 or status in {204, 304}:
        body = b""
    return Reply(status, body, headers)


async def send(request: web.BaseRequest, reply: Reply, behaviour: Behaviour) -> web.StreamResponse:
    """Put the reply on the wire, slowly or only in part if the behaviour says so."""
    cut = behaviour.cut(len(reply.body))
    if cut is None and behaviour.trickle is None:
        return web.Response(status=reply.status, body=reply.body or None, headers=_head(reply))
    response = web.StreamResponse(status=reply.status, headers=_head(reply))
    response.content_length = len(reply.body)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    # A full buffer counts as soon as one byte is in it: what was written has left when drained.
    transport.set_write_buffer_limits(high=0)
    writer = await response.prepare(request)
    body = reply.body[:cut]
    if behaviour.trickle is None:
        await response.write(body)
    else:
        for index in range(len(body)):
            await asyncio.sleep(behaviour.trickle)
            await response.write(body[index : index + 1])
    if cut is None:
        return response
    if writer is not None:
        await writer.drain()
    if behaviour.reset_after_bytes is not None:
        # A linger of zero makes the close an RST. Of a body larger than the socket's buffer
        # fewer bytes may arrive, as the kernel drops what it had not sent.
        form = "hh" if hasattr(socket, "SO_EXCLUSIVEADDRUSE") else "ii"  # Windows, or not
        linger = struct.pack(form, 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    else:
        transport.close()
    return response


def envelope(status: int, message: str, details: object = None) -> Reply:
    """Return the vendor's error answer; its code is the status' name in lower case."""
    try:
        code = HTTPStatus(status).name.lower()
    except ValueError:
        code = f"status_{status}"
    error = {"code": code, "message": message, "details": details}
    return Reply(status, go_json({"error": error}))


def _head(reply: Reply) -> dict[str, str]:
    # aiohttp would print its own name and version.
    return {"Content-Type": "application/json", "Server": "mock-vendor", **reply.headers}
