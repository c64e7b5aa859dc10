"""Sending one request once, and what the ways in which its connection fails are called here."""

from __future__ import annotations

import ssl

import aiohttp

from gateway.core.errors import UpstreamUnreachable

# The longest line in the head of a response, and the most header lines. Some vendors send cookies or policies of many
# kilobytes; the limits keep a head from filling the memory.
MAX_LINE_BYTES = 131_072
MAX_HEADERS = 512


class NoConnection(UpstreamUnreachable):
    """Nobody took the connection."""


class NoTls(UpstreamUnreachable):
    """The connection was not safe."""


async def send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request, and give it up when its connection fails: aiohttp would send it again, uncounted."""
    try:
        return await handler(request)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise unreachable(error) from None


def unreachable(error: Exception) -> UpstreamUnreachable:
    """What a failure of the connection is called here."""
    name = type(error).__name__
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return NoTls(f"TLS failed: {name}")
        case aiohttp.ClientConnectorError() | aiohttp.ClientProxyConnectionError():
            return NoConnection(f"no connection: {name}")
        case _:
            return UpstreamUnreachable(f"the connection was cut: {name}")
