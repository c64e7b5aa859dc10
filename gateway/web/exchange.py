"""What is known of one request while it is answered: its id, its client, and what the log and metrics will say."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from ipaddress import IPv4Network, IPv6Network

import msgspec
from aiohttp.web import BaseRequest

_IDS_AT_ONCE = 256
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Exchange(msgspec.Struct):
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
        """An address. X-Forwarded-For is read from its end, as far as those who added to it are trusted."""
        if not self._trusts(peer):
            return peer
        client = peer
        for hop in reversed(forwarded.split(",")):
            # A zone (RFC 4007, section 11) means nothing on another machine, and `ipaddress` takes any text for one.
            if "%" in hop:
                break
            try:
                client = str(ipaddress.ip_address(hop.strip()))
            except ValueError:
                break
            if not self._trusts(client):
                break
        return client

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)
