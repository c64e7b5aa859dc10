"""What is known of one request while it is answered: its id, its client, and what the log and metrics will say."""

from __future__ import annotations

import ipaddress
import re
import secrets
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from aiohttp.web import BaseRequest

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


@dataclass(slots=True)
class Exchange:
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


def request_id_of(request: BaseRequest) -> str:
    """The client's X-Request-Id if it is one and well-formed, else a new one: 22 URL-safe characters."""
    given = request.headers.getall("X-Request-Id", ())
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return secrets.token_urlsafe(16)


class ClientNames:
    """Who is on the other end, for the log only: the peer, or what trusted proxies say it was."""

    def __init__(self, trusted: list[str]) -> None:
        self._trusted: list[IPv4Network | IPv6Network] = [ipaddress.ip_network(network) for network in trusted]

    def name(self, request: BaseRequest) -> str:
        """An address. X-Forwarded-For is read from its end, as far as those who added to it are trusted."""
        peer = request.remote or ""
        if not self._trusted or not self._trusts(peer):
            return peer
        client = peer
        for hop in reversed(",".join(request.headers.getall("X-Forwarded-For", ())).split(",")):
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
