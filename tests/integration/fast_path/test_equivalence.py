"""The short cut and the long way cannot be told apart: the same traffic through a gateway with and one without."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from harness import VENDOR_KEY, Play, SteeredClock, parse_metrics, playing, until
from holding_vendor import HoldingVendor
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_client import Line, Raw, asks
from real_redis import RealRedis

from gateway.config.loading import load
from gateway.core.events import RequestsReplayed
from gateway.teams.tokens import new_token

ALPHA, ALPHA_DIGEST = new_token()
BETA, BETA_DIGEST = new_token()
ASSETS = [{"id": f"id{number:03}", "aoi_id": "a1", "status": "success", "path": "p" * 90} for number in range(60)]

PATHS = [
    "/v0/aois/a1/assets",
    "/v0/aois/a1/assets?limit=20",
    "/v0/aois/a1/assets?offset=5&limit=7",
    "/v0/aois/a2/assets",
    "/v0/aois/a1/assets?limit=3",
    "/v0/aois/a1/assets?offset=20&limit=10",
    "/v0/aois/%61%31/assets?limit=20&offset=0",
]
# Asked for with header lines that are familiar all the same.
FAULTY_PATHS = [
    "/v0/aois/a1/assets?limit=0", "/v0/aois/a1/assets?limit=5&", "/v0/aois/a1/assets?limit=%", "/v0/aois/nobody/assets",
    "/v0/aois/a%2F1/assets", "/v0/aois/a1/assets?limit=5&limit=5", "/v0/aois/a1/assets?x=1", "/v0/aois//assets",
    "http://localhost/v0/aois/a1/assets", "http://elsewhere/v0/aois/a1/assets", "/v0/aois/a1/assets#x", "/healthz",
    "/v0/aois/a1/assets/x",
]  # fmt: skip
TOKENS = [f"Authorization: Bearer {ALPHA}", f"X-API-Key: {BETA}", "Authorization: nobody"]
EXTRAS = [
    (), ("Accept-Encoding: gzip",), ("If-None-Match: *",), ("X-Request-Id: mine-100%",), ("X-Request-Id: mine",),
    ("X-Request-Id: mine-1", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("x-request-ID: mine-2",),
    ("X-Request-Id: mine-1", "X-Request-Id: mine-3"), ("X-Request-Id:mine-4",), ("X-REQUEST-ID: mine-6",),
    ("X-Request-Id: mine-5 ",),
    ("Accept-Encoding: gzip;q=0",), ("Cache-Control: no-cache",), ("Connection: close",), ("Origin: https://a.example",),
    ("Cookie: a=%d%s", "X-Forwarded-For: 192.0.2.7"), ("Cache-Control: only-if-cached",), ("Content-Length: 0",),
]  # fmt: skip

METHODS = ["GET", "HEAD"]

requests = st.builds(
    lambda path, token, extra, method, version: asks(path, token, *extra, method=method, version=version),
    st.sampled_from(PATHS * 3 + FAULTY_PATHS),
    st.sampled_from(TOKENS),
    st.sampled_from([EXTRAS[0]] * 10 + EXTRAS),
    st.sampled_from(["GET"] * 8 + ["HEAD", "POST"]),
    st.sampled_from(["1.1"] * 9 + ["1.0"]),
)
Step = tuple[Any, ...]
asking = st.tuples(st.just("ask"), requests, st.integers(1, 5))
steps: st.SearchStrategy[Step] = st.one_of(
    asking,
    asking,
    asking,
    st.tuples(st.just("pipeline"), st.lists(requests, min_size=2, max_size=4)),
    st.tuples(st.just("split"), requests, st.integers(1, 60)),
    st.tuples(st.just("skip"), st.sampled_from([0.3, 0.7, 1.0, 29.5, 290.0, 299.9, 400.0, -2.0])),
    st.tuples(st.just("change"), st.integers(0, 3)),
    st.tuples(st.just("purge"), st.sampled_from(["a1", None])),
    st.tuples(st.just("reload"), st.sampled_from([[BETA_DIGEST], []])),
    st.tuples(st.just("fail"), st.sampled_from([None, 503, 420])),
)


def flags(vendor: HoldingVendor, *, beta: list[str] | None = None) -> dict[str, Any]:
    return {
        "upstream.base_url": vendor.url,
        "upstream.api_key": VENDOR_KEY,
        "upstream.retry_ratio": 0.0,
        "upstream.max_attempts": 1,
        # Whether a connection has been quiet long enough to be used again depends on timing, and so does whether a
        # request is sent again.
        "upstream.keepalive_connections": 0,
        "server.cors_origins": ["https://a.example"],
        "server.trusted_proxies": ["127.0.0.1"],
        "teams.alpha.token_sha256": [ALPHA_DIGEST],
        "teams.alpha.scopes": ["refresh"],
        "teams.beta.token_sha256": [BETA_DIGEST] if beta is None else beta,
        "teams.beta.rate": 0.001,
        "teams.beta.burst": 12,
        "teams.beta.aois": ["a1"],
    }


class Side:
    """One of the two gateways, with a connection that is made anew where the gateway closes it."""

    def __init__(self, play: Play, stack: AsyncExitStack) -> None:
        self.play = play
        self.replayed = 0
        self.generations: dict[str, int] = {}
        self._stack = stack
        self._line: Line | None = None
        play.gateway._dispatcher.subscribe({RequestsReplayed: self._count})

    def _count(self, fact: RequestsReplayed) -> None:
        self.replayed += fact.requests

    async def line(self) -> Line:
        if self._line is None:
            self._line = await self._stack.enter_async_context(Line(self.play.port))
        return self._line

    async def exchange(self, pieces: list[bytes], requests: list[bytes]) -> list[Raw]:
        line = await self.line()
        for piece in pieces:
            line.writer.write(piece)
            await asyncio.sleep(0)
        found = []
        for request in requests:
            found.append(await line.answer(has_body=not request.startswith(b"HEAD ")))
            if any(head.lower() == "connection: close" for head in found[-1].head) or b"HTTP/1.0" in request:
                self._line = None
                break
        flights, gate = self.play.gateway._cache._fetcher._flights._under_way, self.play.gateway._guard
        await until(lambda: gate.idle and not flights and not self.play.gateway._cache.prefetch._under_way)
        return found

    def comparable(self, answer: Raw) -> tuple[list[str], bytes]:
        """Without what is random, or counted in real seconds; generations in the order in which they came."""
        head = []
        for line in answer.head:
            name, _, value = line.partition(": ")
            if name == "X-Listing-Generation":
                head.append(f"{name}: {self.generations.setdefault(value, len(self.generations))}")
            elif (name == "X-Request-Id" and not value.startswith("mine")) or name in (
                "Retry-After",
                "RateLimit-Reset",
            ):
                head.append(name)
            else:
                head.append(line)
        body = answer.body
        if answer.status >= 400 and body:
            error = json.loads(body)["error"]
            body = f"{error['code']} {error['message']}".encode()
        return head, body

    async def counted(self) -> Mapping[str, float]:
        body, _ = await self.play.gateway._aggregation.scrape("")
        return {
            series: value
            for series, value in parse_metrics(body.decode()).items()
            if series.startswith("gateway_") and not re.search("seconds|lag|gateway_build|le=", series)
        }

    def log(self) -> list[dict[str, Any]]:
        lines = [line for line in self.play.log_lines() if line["event"] == "request"]
        for line in lines:
            assert line.pop("duration_ms") >= 0
            line.pop("upstream_ms")
            assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", line["request_id"])
            if not line["request_id"].startswith("mine"):
                del line["request_id"]
        return lines


class Stage:
    """Both gateways, the vendor behind them, and the clock that they share."""

    def __init__(self, vendor: HoldingVendor, clock: SteeredClock, both: list[Side]) -> None:
        self.vendor = vendor
        self.clock = clock
        self.both = both

    async def ask(self, request: bytes, times: int) -> None:
        for _ in range(times):
            await self._compare([request], [request])

    async def pipeline(self, requests: list[bytes]) -> None:
        await self._compare([b"".join(requests)], requests)

    async def split(self, request: bytes, at: int) -> None:
        for _ in range(2):
            await self._compare([request[:at], request[at:]], [request])

    async def skip(self, seconds: float) -> None:
        self.clock.skip(seconds)

    async def change(self, state: int) -> None:
        self.vendor.set_assets("a1", ASSETS[state : state + 50 + state % 2])

    async def purge(self, aoi_id: str | None) -> None:
        for side in self.both:
            await side.play.gateway._cache.purge(aoi_id)

    async def reload(self, beta: list[str]) -> None:
        loaded = load(environ={}, flags=flags(self.vendor, beta=beta), use_file=False)
        for side in self.both:
            side.play.gateway.reloads.reload(lambda: loaded)

    async def fail(self, status: int | None) -> None:
        self.vendor.reset()
        if status is not None:
            self.vendor.set_behaviour(status=status)

    async def judge(self) -> int:
        """Compare what was counted and logged; how many requests took the short cut."""
        with_it, without = self.both
        if with_it.play.gateway._settings.uses_redis:  # where the number of look-ups hangs on when word comes
            for side in self.both:
                assert (await side.counted())['gateway_cache_tier_lookups_total{result="hit",tier="redis"}'] > 20
        else:
            assert await with_it.counted() == await without.counted()
        assert with_it.log() == without.log()
        assert not without.replayed
        return with_it.replayed

    async def _compare(self, pieces: list[bytes], requests: list[bytes]) -> None:
        ours, theirs = [
            [side.comparable(answer) for answer in await side.exchange(pieces, requests)] for side in self.both
        ]
        assert ours == theirs


async def play_through(todo: list[Step], **more: Any) -> int:
    vendor = HoldingVendor(key=VENDOR_KEY)
    await vendor.start()
    vendor.set_assets("a1", ASSETS[:50])
    vendor.set_assets("a2", ASSETS[:3])
    clock = SteeredClock()
    clock.stop()
    try:
        async with AsyncExitStack() as stack:
            plays = []
            for on in (True, False):
                told = {**flags(vendor), **more, "server.replay": on, "cache.key_prefix": f"replay-{on}"}
                plays.append(await stack.enter_async_context(playing(told, clock=clock)))
            stage = Stage(vendor, clock, [Side(play, stack) for play in plays])
            for name, *arguments in todo:
                await getattr(stage, name)(*arguments)
            return await stage.judge()
    finally:
        await vendor.stop()


@settings(max_examples=30)
@given(st.lists(steps, min_size=3, max_size=14))
def test_random_traffic(todo: list[Step]) -> None:
    asyncio.run(play_through(todo))


def test_every_kind_of_request() -> None:
    """And what is compared are two ways, not one with itself."""
    kinds = [
        asks(path, TOKENS[0], *extra, method=method) for path in PATHS[:3] for extra in EXTRAS for method in METHODS
    ]
    todo: list[Step] = [("ask", kind, 4) for kind in kinds]
    assert asyncio.run(play_through([*todo, ("skip", 1.3), *todo])) > 5 * len(kinds) / 2


def test_pages_that_only_redis_has(real_redis: RealRedis) -> None:
    """More than memory has room for."""
    paths = [f"/v0/aois/a1/assets?offset={offset}&limit=45" for offset in range(8)]
    kinds = [asks(path, TOKENS[0], *extra) for extra in EXTRAS[:6] for path in paths]
    todo: list[Step] = [("ask", kind, 1) for kind in kinds]
    skips: list[Step] = [("skip", 1.3), ("purge", "a1"), ("change", 2), ("skip", 400.0)]
    small = {"cache.url": real_redis.url, "cache.memory_max_bytes": 65_536, "cache.prefetch": 0}
    asyncio.run(play_through([*todo, *(step for skip in skips for step in (skip, *todo))], **small))


def test_familiar_lines_before_any_target() -> None:
    learning: list[Step] = [("ask", asks(PATHS[0], TOKENS[0], method=method), 2) for method in METHODS]
    kinds = [asks(path, TOKENS[0], method=method) for path in PATHS + FAULTY_PATHS for method in METHODS]
    asyncio.run(play_through([*learning, *(("ask", kind, 1) for kind in kinds), *(("ask", kind, 3) for kind in kinds)]))
