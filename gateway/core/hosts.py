"""What a host's name or address says by itself: whether it is this machine, and whether two listeners collide.

Refuses to resolve: a name other than `localhost` is never loopback here, whatever DNS would answer today.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=256)  # asked of every request
def is_loopback(host: str) -> bool:
    """Whether a host, without port and brackets, can only be this machine: `localhost`, 127.0.0.0/8 or `::1`."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # A dual-stack socket reports an IPv4 peer as ::ffff:127.0.0.1, which Python calls loopback only from 3.13 on.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def collide(one: str, other: str) -> bool:
    """Whether two listeners on these hosts cannot share a port: the same host, or one is every host of its family."""
    first, second = _address(one), _address(other)
    same_family = (":" in first) == (":" in second)
    return first == second or (same_family and bool({"0.0.0.0", "::"} & {first, second}))


def _address(host: str) -> str:
    lowered = host.lower()
    return "127.0.0.1" if lowered == "localhost" else lowered or "0.0.0.0"


def reachable_host(host: str) -> str:
    """A host to connect to where one is listened on: every host is reached by loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
