"""What is known of one request while it is answered: its id, its client, and what the log and metrics will say."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import msgspec
from aiohttp.web import BaseRequest

_IDS_AT_ONCE = 256
# Without zones (RFC 4007, section 11): they mean nothing on another machine, and `ipaddress` takes any text for one.
_HOP = re.compile(
    r'(?P<quote>"?)(?:(?P<v4>[0-9.]+)(?::(?P<port4>[0-9]{1,5}))?'
    r"|\[(?P<bracketed>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]+)\](?::(?P<port6>[0-9]{1,5}))?|(?P<v6>[0-9A-Fa-f:.]+))(?P=quote)",
    re.ASCII,
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class RequestContext(msgspec.Struct):
    """One request and its answer, filled in on the way."""

    request_id: str
    method: str
    client: str
    route: str = "unknown"
    team: str = "unknown"
    aoi_id: str | None = None
    cache: str = ""
    upstream: float | None = None
    problem: str = ""


class RequestIds:
    """Ids for requests that have none: 22 URL-safe characters each, made many at a time, because that is cheap."""

    def __init__(self) -> None:
        self._ready: list[bytes] = []

    def next(self) -> bytes:
        """One that nobody has been given."""
        if not self._ready:
            # 18 random bytes are 24 characters, of which 22 are as many as 16 bytes would have made.
            made = base64.urlsafe_b64encode(os.urandom(18 * _IDS_AT_ONCE))
            self._ready = [made[start : start + 22] for start in range(0, len(made), 24)]
        return self._ready.pop()


_IDS = RequestIds()


def request_id_of(request: BaseRequest) -> str:
    """The client's X-Request-Id if it is one and well-formed, else a new one: 22 URL-safe characters."""
    given = request.headers.getall("X-Request-Id", ())
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return new_request_id()


def new_request_id() -> str:
    """An id that nobody has been given."""
    return _IDS.next().decode()


class ClientNames:
    """Who is on the other end, for the log only: the peer, or what trusted proxies say it was."""

    def __init__(self, trusted: list[str]) -> None:
        self._trusted: list[IPv4Network | IPv6Network] = [ipaddress.ip_network(network) for network in trusted]

    def name(self, request: BaseRequest) -> str:
        """The address of who sent a request."""
        forwarded = self.forwarded(request)
        peer = request.remote or ""
        return peer if forwarded is None else self.behind(peer, forwarded)

    def forwarded(self, request: BaseRequest) -> str | None:
        """What a request's X-Forwarded-For says, None where there is none, or nobody who is trusted with it."""
        lines = request.headers.getall("X-Forwarded-For", ()) if self._trusted else ()
        return ",".join(lines) if lines else None

    def behind(self, peer: str, forwarded: str) -> str:
        """Return the address of the client behind trusted proxies: the last one that is not itself a trusted proxy.

        `forwarded` is the value of X-Forwarded-For. It is read from its end, because each proxy appends the address of
        its peer, and what was there before is as trustworthy as that peer. What is not an address ends it.
        """
        address = _address(peer.partition("%")[0])  # the zone of a link-local peer is one of this machine
        client = peer
        for hop in reversed(forwarded.split(",")):
            if address is None or not self._trusts(address):
                break
            if not (hop := hop.strip(" \t")):
                continue  # RFC 9110, section 5.6.1: empty list elements are ignored
            address = _address(hop)
            client = client if address is None else str(address)
        return client

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address with or without a port, as proxies write them: `192.0.2.7:80`, `[2001:db8::1]:80`, quoted too.

    An IPv4 address that is mapped to IPv6, as a socket for both reports it, is returned as IPv4.
    """
    match = _HOP.fullmatch(text)
    if match is None or int(match["port4"] or match["port6"] or 0) > 65_535:
        return None
    try:
        address = ipaddress.ip_address(match["v4"] or match["bracketed"] or match["v6"])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
