"""What is asked of whom: the cases of the comparison, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from contenders import TOKEN, Place, Server, baseline_app, gateway, nginx, varnish
from wrk import Paths

# As long as the vendor's own.
_AOI, _WHOLE, _MISSED, FILLED = (
    f"{name}-550e-4464-a677-%012d" for name in ("e9767554", "5b3ee79a", "cb4c2bd4", "1c61a7f3")
)
SMALL, LARGE = "offset=0&limit=10", "offset=0&limit=102"
# Few enough that no window is ever asked for twice, and that each has 8.8 KB.
_WINDOW_AOIS = 300


@dataclass(frozen=True)
class Contender:
    """One who takes part. `redis` tells that part of its work is done in Redis, `needs` what must be installed."""

    name: str
    start: Callable[[Place], Server]
    redis: bool = False
    needs: str = ""
    package: str = ""


GATEWAY = Contender("gateway", gateway)
LONG_WAY = Contender("gateway, replay = false", partial(gateway, replay=False))
BEFORE_REDIS = Contender("gateway, Redis behind", partial(gateway, redis=True), redis=True)
# The least that may be configured: a handful of pages, which no round of a thousand finds again.
REDIS_ONLY = Contender("gateway, 64 KiB of memory", partial(gateway, redis=True, memory=65_536), redis=True)
NGINX = Contender("nginx", nginx, needs="nginx", package="nginx-light")
VARNISH = Contender("Varnish", varnish, needs="varnishd", package="varnish")
BASELINE_APP = Contender("aiohttp + Redis", baseline_app, redis=True)

ALL = (GATEWAY, NGINX, VARNISH, BASELINE_APP)
SERVERS = (GATEWAY, NGINX, VARNISH)


@dataclass(frozen=True)
class Case:
    """One question to several contenders. What is asked for is cached beforehand, `primed` or the paths themselves.

    `etag` sends the page's own ETag; `vendor` asks the vendor itself, too. Several workers share the one
    core that servers have: what they cost is told, not what they bring.
    """

    name: str
    title: str
    who: tuple[Contender, ...]
    paths: Paths
    connections: int = 32
    headers: Mapping[str, str] = field(default_factory=dict)
    primed: Paths | None = None
    status: int = 200
    token: str = TOKEN
    etag: bool = False
    vendor: bool = False
    log: bool = False
    workers: int = 1

    @property
    def all_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", **self.headers}


def filled_aoi(number: int) -> str:
    """An AOI of `filled_gateway`."""
    return FILLED % number


def _one(window: str = SMALL) -> Paths:
    return Paths(f"/v0/aois/{_AOI}/assets?" + window, count=1)


def _many(count: int) -> Paths:
    return Paths(f"/v0/aois/{_AOI}/assets?" + SMALL, count=count)


_GZIP = {"Accept-Encoding": "gzip"}
_WINDOWS_OF = Paths(f"/v0/aois/{_WHOLE}/assets?" + LARGE, count=_WINDOW_AOIS)

CASES = (
    Case("memory", "hit in memory, 8.8 KB", (GATEWAY, LONG_WAY, BEFORE_REDIS, NGINX, VARNISH, BASELINE_APP), _one()),
    Case("log", "the same with access log (to /dev/null)", (GATEWAY, LONG_WAY, NGINX, BASELINE_APP), _one(), log=True),
    Case("ids", "the same with a new X-Request-Id each time", (GATEWAY, LONG_WAY, NGINX, BASELINE_APP), _one(),
         headers={"X-Request-Id": "bench-%d"}),
    Case("one-connection", "1 connection", ALL, _one(), connections=1),
    Case("512-connections", "512 connections", ALL, _one(), connections=512),
    Case("10000-urls", "10,000 URLs", ALL, _many(10_000)),
    Case("gzip", "8.8 KB as gzip", SERVERS, _one(), headers=_GZIP),
    Case("large", "88 KB", ALL, _one(LARGE)),
    Case("large-gzip", "88 KB as gzip", SERVERS, _one(LARGE), headers=_GZIP),
    Case("304", "304", SERVERS, _one(), status=304, etag=True),
    Case("redis", "hit in Redis only, 1,000 URLs", (REDIS_ONLY, BASELINE_APP), _many(1000)),
    Case("window", "window of 8.8 KB, asked for before", (GATEWAY,),
         Paths(f"/v0/aois/{_WHOLE}/assets?offset=31&limit=10", count=1), primed=_WINDOWS_OF),
    Case("first-window", "window of 8.8 KB, cut for the first time", (GATEWAY,),
         Paths(f"/v0/aois/{_WHOLE}/assets?offset=%d&limit=10", count=0, across=_WINDOW_AOIS), primed=_WINDOWS_OF),
    Case("miss", "miss, 1 connection", ALL, Paths(f"/v0/aois/{_MISSED}/assets?" + SMALL, count=0),
         connections=1, vendor=True),
    Case("unauthorized", "unknown token: 401", ALL, _one(), status=401, token="pgw_" + "x" * 43),
    Case("two-workers", "2 workers on one core", (GATEWAY, NGINX), _one(), workers=2),
)  # fmt: skip
