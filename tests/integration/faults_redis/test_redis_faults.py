"""Redis goes away, hangs, lies or forgets: clients do not notice, and it is used again as soon as it is well."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import pytest
from harness import PATIENCE, VENDOR_KEY, Play, Reply, parse_metrics, playing, spawn, until
from holding_vendor import HoldingVendor
from invariants import aftermath
from load import loading
from real_redis import RealRedis
from redis.asyncio import Redis
from relay import relaying

from gateway.core.errors import StoreDown
from gateway.mock_vendor.server import MockVendor

pytestmark = pytest.mark.usefixtures("nothing_left")

STORED = "fwd=miss; fwd-status=200; stored"
AOI = "a1"


@pytest.fixture(autouse=True)
def _a_long_listing(vendor: HoldingVendor) -> None:
    vendor.set_assets(AOI, [{"id": f"n{number}", "status": "success"} for number in range(2000)])


@pytest.fixture
async def raw(real_redis: RealRedis) -> AsyncIterator[Any]:
    async with Redis.from_url(real_redis.url) as client:
        yield client


def flags(vendor: MockVendor, redis: RealRedis, **more: Any) -> dict[str, Any]:
    return {"upstream.base_url": vendor.url, "cache.url": redis.url, "cache.prefetch": 0, **more}


async def hears(play: Play) -> None:
    await until(lambda: play.gateway._store._validity.is_live)  # type: ignore[attr-defined]


async def is_up(play: Play, value: int) -> None:
    """Wait until the gateway reports Redis as usable (1) or not (0)."""
    async with asyncio.timeout(PATIENCE):
        while (await play.metrics())["gateway_redis_up"] != value:
            pass  # each look is a request, and so a turn of the loop


async def one(play: Play, number: int) -> Reply:
    """A page of its own for each number."""
    return await play.page(AOI, f"?offset={number}&limit=1")


async def told(play: Play, level: str) -> list[str]:
    """What was logged of Redis."""
    marks = (f'"level":"{level}'.encode(), b"redis")
    return [line.decode() for line in (await play.said()).splitlines() if all(mark in line for mark in marks)]


async def seconds_until(condition: Callable[[], Awaitable[bool]]) -> float:
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            pass  # each look is a request, and so a turn of the loop
    return time.monotonic() - began


async def seconds_until_used(play: Play, raw: Any, *, first: int) -> float:
    """How long it takes until pages are kept in Redis again."""
    numbers = iter(range(first, 2000))

    async def used() -> bool:
        number = next(numbers)
        assert (await one(play, number)).status == 200
        return bool(await raw.keys(f"*:page:*offset={number}&limit=1"))

    return await seconds_until(used)


# A promise of two seconds, on a machine that others use as well; half a minute passes where it is broken.
SOON = 2.0 + 4.0


async def test_down_at_start(vendor: HoldingVendor, real_redis: RealRedis, raw: Any) -> None:
    real_redis.kill()
    async with playing(flags(vendor, real_redis)) as play:
        assert (await play.get("/readyz")).status == 200
        assert (await one(play, 0)).cache == STORED
        assert (await one(play, 0)).cache.startswith("hit")
        assert len(vendor.requests) == 1
        assert (await play.metrics())["gateway_redis_up"] == 0
        await play.reaches('gateway_redis_commands_total{command="ping",result="error"}', 3)
        assert len(await told(play, "warning")) == 1
        real_redis.start()
        assert await seconds_until_used(play, raw, first=1) < SOON
        assert len(await told(play, "info")) == 1
        real_redis.kill()
        await play.reaches('gateway_redis_commands_total{command="ping",result="error"}', 5)
        assert len(await told(play, "warning")) == 2, await told(play, "")
        metrics = await aftermath(play, vendor)
        assert metrics["gateway_redis_up"] == 0


async def test_killed_under_load(vendor: HoldingVendor, real_redis: RealRedis, raw: Any) -> None:
    async with playing(flags(vendor, real_redis)) as play:
        await hears(play)
        async with loading(lambda number: one(play, number % 50)) as load:
            await load.more(60)
            real_redis.kill()
            await load.more(150)
            assert load.statuses == {200: len(load.replies)}
            assert len(vendor.requests) == 50
            real_redis.start()
            assert await seconds_until_used(play, raw, first=100) < SOON
            await load.more(100)
        assert load.statuses == {200: len(load.replies)}
        await aftermath(play, vendor, real_redis)


def timeouts(metrics: dict[str, float]) -> float:
    """How many commands that somebody waited for took too long."""
    ours = [name for name in metrics if 'result="timeout"' in name and "ping" not in name]
    return sum(metrics[name] for name in ours if name.startswith("gateway_redis_commands_total"))


async def test_hangs_under_load(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    """In a process of its own: what is to be measured is how long it waits, and not how busy this one is."""
    environ = {
        "GATEWAY_UPSTREAM__BASE_URL": vendor.url,
        "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY,
        "GATEWAY_CACHE__URL": real_redis.url,
        "GATEWAY_CACHE__PREFETCH": "0",
        "GATEWAY_LOG__ACCESS": "false",
    }
    gateway = spawn("serve", "--port", "0", environ=environ)
    try:
        url = f"http://127.0.0.1:{await asyncio.to_thread(gateway.port)}"
        async with aiohttp.ClientSession() as session:

            async def ask(number: int) -> Reply:
                async with session.get(f"{url}/v0/aois/{AOI}/assets?offset={number}&limit=1") as response:
                    return Reply(response.status, response.headers.copy(), await response.read())

            async def metrics() -> dict[str, float]:
                async with session.get(url + "/metrics") as response:
                    return parse_metrics(await response.text())

            async with loading(ask, clients=4, pause=0.005) as load:
                await load.more(20)
                before, known = await load.more(100), timeouts(await metrics())
                real_redis.signal(signal.SIGSTOP)
                try:
                    start = len(load.replies)
                    async with asyncio.timeout(PATIENCE):
                        while timeouts(await metrics()) < known + 5:  # noqa: ASYNC110 - nobody tells
                            await asyncio.sleep(0.02)  # to look is work, and would slow down the others
                    hanging = load.took[start:]
                    after = await load.more(100)
                    counted = await metrics()
                finally:
                    real_redis.signal(signal.SIGCONT)
        # One time-out for a request, though it has five commands to send; and none for those that come later.
        assert median(hanging) < 2 * median(before) + 0.06 + 0.06
        assert max(hanging) < 2 * max(before) + 0.5
        assert median(after) < 1.5 * median(before) + 0.02
        assert timeouts(counted) - known <= 5 + 4
        assert counted["gateway_redis_up"] == 0
        assert load.statuses == {200: len(load.replies)}
        assert len(vendor.requests) == len(load.replies)
    finally:
        await asyncio.to_thread(gateway.end)
    # A line for each time that it turned, which on a busy machine it does now and then before it is stopped.
    turns = [json.loads(line)["event"] for line in gateway.lines if '"event":"redis ' in line]
    assert all(one != next_one for one, next_one in pairwise(turns))
    assert len(turns) <= 3 + 2 * (known + 1)


@pytest.fixture
def debuggable(tmp_path: Path) -> Any:
    server = RealRedis(tmp_path, "--enable-debug-command", "yes")
    server.start()
    yield server
    server.kill()


async def full(raw: Any) -> None:
    await raw.config_set("maxmemory", "1")


async def read_only(raw: Any) -> None:
    await raw.execute_command("REPLICAOF", "127.0.0.1", "1")


async def without_master(raw: Any) -> None:
    await raw.config_set("replica-serve-stale-data", "no")
    await read_only(raw)


async def well(raw: Any) -> None:
    await raw.config_set("maxmemory", "0")
    await raw.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize(
    ("fault", "reason"), [(full, "OOM: SET"), (read_only, "READONLY: SET"), (without_master, "MASTERDOWN: GET")]
)
async def test_refuses_to_write(
    vendor: HoldingVendor, real_redis: RealRedis, raw: Any, fault: Any, reason: str
) -> None:
    settings = flags(vendor, real_redis)
    async with playing(settings) as writer, playing(settings) as reader:
        await hears(writer)
        await hears(reader)
        for number in range(5):
            assert (await one(writer, number)).cache == STORED
        before = await writer.metrics()
        await fault(raw)
        for number in range(5):  # out of memory, and out of Redis where it lets itself be read
            assert (await one(writer, number)).cache.startswith("hit")
            if fault is not without_master:
                assert (await one(reader, number)).cache.startswith("hit")
        assert len(vendor.requests) == 5
        for number in (5, 6, 7, 8, 9, 5, 6, 7, 8, 9):
            assert (await one(writer, number)).status == 200
        assert len(vendor.requests) == 10
        refused = [name for name in before if "gateway_redis_commands_total" in name and 'result="error"' in name]
        after = await writer.metrics()
        assert sum(after[name] - before[name] for name in refused) > 0
        await is_up(writer, 0)
        status = await writer.get("/status.json")
        assert status.json["verdict"]["level"] == "degraded"
        assert reason in status.json["redis"]["reason"]
        await well(raw)
        assert await seconds_until_used(writer, raw, first=10) < SOON
        await is_up(writer, 1)
        await hears(writer)
        await aftermath(writer, None, real_redis)
        await aftermath(reader)


async def test_loads_its_data_anew(vendor: HoldingVendor, debuggable: RealRedis) -> None:
    async with playing(flags(vendor, debuggable)) as play, Redis.from_url(debuggable.url) as raw:
        await hears(play)
        for number in range(5):
            await one(play, number)
        await raw.mset({f"pixxel-gateway:1:{{x}}:other:{number}": "x" * 2000 for number in range(100)})
        await raw.config_set("loading-process-events-interval-bytes", "1024")
        await raw.config_set("key-load-delay", "10000")
        loading_anew = asyncio.create_task(raw.execute_command("DEBUG", "RELOAD"))  # type: ignore[no-untyped-call]
        busy: list[Reply] = []
        while not loading_anew.done():
            busy += [await one(play, number) for number in (0, 1, 2, 3, 4, 5)]
        await loading_anew
        assert {reply.status for reply in busy} == {200}
        assert len(vendor.requests) == 6
        metrics = await play.metrics()
        assert sum(value for name, value in metrics.items() if "redis_commands_total" in name and "error" in name) > 0
        assert await seconds_until_used(play, raw, first=6) < SOON
        await aftermath(play, vendor)


async def test_connections_are_killed_under_load(vendor: HoldingVendor, real_redis: RealRedis, raw: Any) -> None:
    async with playing(flags(vendor, real_redis)) as play:
        await hears(play)
        async with loading(lambda number: one(play, number)) as load:
            for _ in range(6):
                await load.more(20)
                for kind in ("normal", "pubsub"):
                    await raw.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        assert load.statuses == {200: len(load.replies)}
        assert len(vendor.requests) == len(load.replies)
        assert await seconds_until_used(play, raw, first=len(load.replies)) < SOON
        await aftermath(play, vendor, real_redis)


@pytest.mark.parametrize("kind", ["flipped", "cut", "empty", "another type", "swapped", "newer"])
async def test_spoilt_values_are_misses(vendor: HoldingVendor, real_redis: RealRedis, raw: Any, kind: str) -> None:
    settings = flags(vendor, real_redis)
    async with playing(settings) as play:
        good = [(await one(play, number)).body for number in range(2)]
    names = [(await raw.keys(f"*:page:*offset={number}&limit=1"))[0] for number in range(2)]
    values = [await raw.get(name) for name in names]
    flipped = bytearray(values[0])
    flipped[random.randrange(5, len(flipped))] ^= 1 << random.randrange(8)
    spoilt = {
        "flipped": bytes(flipped), "cut": values[0][:-1], "empty": b"", "swapped": values[1],
        "newer": b"pxgw\xff" + b"newer" * 20,
    }.get(kind)  # fmt: skip
    await raw.delete(names[0])
    if spoilt is None:
        await raw.lpush(names[0], "x")
    else:
        await raw.set(names[0], spoilt, ex=100)
    if kind == "swapped":
        await raw.set(names[1], values[0], ex=100)
    spoilt_ones = 2 if kind == "swapped" else 1
    vendor.reset()
    async with playing(settings) as play, playing(settings) as other:
        for either in (play, other):  # a page that is fetched before the session begins is not kept in memory alone
            await until(lambda either=either: either.gateway._store._validity.is_live)  # type: ignore[misc]
        for number in range(2):
            reply = await one(play, number)
            assert reply.body == good[number]
            assert (reply.cache == STORED) == (number < spoilt_ones)
        assert len(vendor.requests) == spoilt_ones
        metrics = await aftermath(play, vendor, None if kind == "newer" else real_redis)
        assert (metrics["gateway_cache_corrupt_total"] > 0) == (kind != "newer")
        assert [(await one(other, number)).body for number in range(2)] == good
        if kind == "newer":
            assert await raw.get(names[0]) == spoilt
        else:
            assert len(vendor.requests) == spoilt_ones  # they were overwritten
            assert (await other.metrics())["gateway_cache_corrupt_total"] == 0


async def test_the_port_speaks_http(vendor: HoldingVendor) -> None:
    stranger = MockVendor(key=VENDOR_KEY)
    await stranger.start()
    url = stranger.url.replace("http", "redis")
    async with playing({"upstream.base_url": vendor.url, "cache.url": url, "cache.prefetch": 0}) as play:
        assert (await play.get("/readyz")).status == 200
        assert (await one(play, 0)).cache == STORED
        assert (await one(play, 0)).cache.startswith("hit")
        async with play.session.post(play.ops_url + "/admin/purge", json={"all": True}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "store_unavailable")
        assert (await one(play, 0)).cache == STORED  # memory was purged all the same
        await play.reaches('gateway_redis_commands_total{command="ping",result="error"}', 3)
        assert len(await told(play, "warning")) == 1
        metrics = await aftermath(play, vendor)
        assert metrics["gateway_redis_up"] == 0
    await stranger.stop()


async def test_no_reply_reaches_another_request(vendor: HoldingVendor, real_redis: RealRedis, raw: Any) -> None:
    settings = flags(vendor, real_redis)
    async with playing(settings) as play:
        good = [(await one(play, number)).body for number in range(40)]
    vendor.reset()
    await raw.mset({f"k{number}": number for number in range(400)})
    async with playing(settings) as play:
        await hears(play)
        calls = play.gateway._store._remote._calls  # type: ignore[attr-defined]

        def get(number: int) -> asyncio.Task[Any]:
            return asyncio.create_task(calls.run("get", lambda client: client.get(f"k{number}")))

        async def all_right() -> None:
            assert await asyncio.gather(*map(get, range(400))) == [b"%d" % number for number in range(400)]

        # Cancelled at any moment, by whoever waited for them.
        leaving = [get(number) for number in range(400)]
        for number, task in enumerate(leaving):
            if number % 7 == 0:
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await all_right()
        # Cut by the time-out, so that the replies come later.
        real_redis.signal(signal.SIGSTOP)
        calls._timeout = 0.05
        try:
            late = await asyncio.gather(*map(get, range(400)), return_exceptions=True)
        finally:
            calls._timeout = 5.0
            real_redis.signal(signal.SIGCONT)
        assert {type(result) for result in late} == {StoreDown}
        await calls.ping()
        await all_right()
        # And by clients that leave.
        asking = [asyncio.create_task(one(play, number % 40)) for number in range(400)]
        for task in asking:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        replies = await asyncio.gather(*(one(play, number) for number in range(40)))
        assert [reply.body for reply in replies] == good
        assert vendor.requests == []
        await raw.delete(*(f"k{number}" for number in range(400)))
        await aftermath(play, vendor, real_redis)


async def test_empties_under_hundreds_of_hot_pages(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    bounds = {"upstream.max_concurrency": 8, "upstream.max_queue": 200, "upstream.deadline": 100}
    async with playing(flags(vendor, real_redis, **bounds)) as play:
        await hears(play)

        async def everybody() -> None:
            replies = await asyncio.gather(*(one(play, number) for number in range(200)))
            assert {reply.status for reply in replies} == {200}

        vendor.set_behaviour(delay=0.01)
        await everybody()
        assert len(vendor.requests) == 200
        real_redis.flush()
        async with asyncio.timeout(PATIENCE):
            while (await one(play, 0)).cache.startswith("hit"):
                pass  # memory goes on until a heartbeat finds that all is gone
        await everybody()
        assert len(vendor.requests) == 400
        assert vendor.most_inside == 8
        await aftermath(play, vendor, real_redis)


async def test_word_is_lost_while_others_purge(vendor: HoldingVendor, real_redis: RealRedis) -> None:
    async with (
        relaying(real_redis.port) as relay,
        playing(flags(vendor, real_redis)) as purging,
        playing(flags(vendor, real_redis, **{"cache.url": relay.url})) as deaf,
    ):
        await hears(purging)
        await hears(deaf)
        old = await one(deaf, 0)
        relay.cut(b"SUBSCRIBE")
        await until(lambda: not deaf.gateway._store._validity.is_live)  # type: ignore[attr-defined]
        async with purging.session.post(purging.ops_url + "/admin/purge", json={"aoi_id": AOI}) as response:
            assert response.status == 200
        vendor.set_assets(AOI, [{"id": "new", "status": "success"}])
        assert (await one(deaf, 0)).cache.startswith("hit")  # for as long as it may
        deaf.clock.pass_by(5.0)
        for _ in range(3):
            reply = await one(deaf, 0)
            assert reply.body != old.body
            deaf.clock.pass_by(1.0)
        assert len(vendor.requests) == 2
        relay.mend()
        await hears(deaf)
        assert (await one(deaf, 0)).body == reply.body
        assert len(vendor.requests) == 2
        await aftermath(deaf, vendor, real_redis)
        await aftermath(purging)
