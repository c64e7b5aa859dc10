"""When the vendor is not asked at all: breaker, pause, refused keys; and how it is asked again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from email.utils import formatdate
from typing import Any

import pytest
from harness import PATIENCE, Play, Reply, playing, until
from holding_vendor import HoldingVendor
from invariants import aftermath
from real_redis import RealRedis

pytestmark = pytest.mark.usefixtures("nothing_left")

FRESH = "fwd=miss; fwd-status=200; stored"


@pytest.fixture
async def play(vendor: HoldingVendor) -> AsyncIterator[Play]:
    flags = {"upstream.base_url": vendor.url, "upstream.max_attempts": 1, "cache.prefetch": 0}
    async with playing(flags) as running:
        yield running


async def pages(play: Play, vendor: HoldingVendor, *numbers: int) -> list[Reply]:
    """Pages of the first AOI, one after the other, none of which is cached."""
    return [await play.page(vendor.aoi_ids[0], f"?offset={number}&limit=1") for number in numbers]


def codes(replies: list[Reply]) -> list[str]:
    return [reply.code if reply.status != 200 else "fine" for reply in replies]


async def state(play: Play) -> str:
    counted = await play.metrics()
    (now,) = (
        name for name in ("closed", "open", "half_open")
        if counted[f'gateway_upstream_breaker_state{{state="{name}"}}']
    )  # fmt: skip
    return now


async def test_the_breaker_opens_after_five_failures_in_a_row(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_behaviour(status=500)
    assert codes(await pages(play, vendor, *range(4))) == ["upstream_error"] * 4
    vendor.reset()
    assert codes(await pages(play, vendor, 4)) == ["fine"]  # which begins the count anew
    vendor.set_behaviour(status=500)
    assert await state(play) == "closed"
    assert codes(await pages(play, vendor, *range(10, 18))) == ["upstream_error"] * 5 + ["upstream_circuit_open"] * 3
    refused = (await pages(play, vendor, 18))[0]
    assert (refused.status, refused.code) == (503, "upstream_circuit_open")
    assert 1 <= int(refused.headers["Retry-After"]) <= 5
    assert await state(play) == "open"
    assert len(vendor.requests) == 1 + 5
    assert (await pages(play, vendor, 4))[0].cache.startswith("hit")


async def test_a_single_probe_and_then_it_closes(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_behaviour(status=503)
    await pages(play, vendor, *range(5))
    play.clock.pass_by(5.1)
    assert codes(await pages(play, vendor, 5, 6)) == ["upstream_error", "upstream_circuit_open"]  # the probe fails
    play.clock.pass_by(5.1)
    vendor.reset()
    let_go = vendor.hold()
    probe = asyncio.create_task(pages(play, vendor, 7))
    await until(lambda: len(vendor.requests) == 1)
    assert await state(play) == "half_open"
    assert codes(await pages(play, vendor, 8, 9)) == ["upstream_circuit_open"] * 2
    let_go.set()
    assert codes(await probe) == ["fine"]
    assert await state(play) == "closed"
    assert codes(await pages(play, vendor, 8, 9)) == ["fine"] * 2
    assert len(vendor.requests) == 3


async def test_answers_from_before_it_opened_change_nothing(play: Play, vendor: HoldingVendor) -> None:
    let_go = vendor.hold(times=1)
    late = asyncio.create_task(pages(play, vendor, 50))
    await until(lambda: len(vendor.requests) == 1)
    vendor.set_behaviour(status=500)
    await pages(play, vendor, *range(5))
    let_go.set()
    assert codes(await late) == ["fine"]
    assert await state(play) == "open"
    assert codes(await pages(play, vendor, 6)) == ["upstream_circuit_open"]


async def test_nonsense_is_no_reason_to_leave_the_vendor_alone(play: Play, vendor: HoldingVendor) -> None:
    for behaviour in ({"garbage": True}, {"status": 404}, {"status": 418}, {"gzip_bomb": True}):
        vendor.set_behaviour(**behaviour)
        await pages(play, vendor, *range(8))
        vendor.reset()
        assert await state(play) == "closed"


async def test_old_pages_serve_while_it_is_open(play: Play, vendor: HoldingVendor) -> None:
    first = (await pages(play, vendor, 3))[0]
    play.clock.pass_by(1000)
    vendor.set_behaviour(status=500)
    await pages(play, vendor, *range(10, 15))
    old = (await pages(play, vendor, 3))[0]
    assert (old.body, old.cache) == (first.body, "fwd=stale; detail=stale-if-error")
    assert len(vendor.requests) == 6


@pytest.mark.parametrize(
    ("status", "retry_after", "least", "most"),
    [
        (429, 5, 4, 5),
        (429, None, 1, 1),
        (429, "x", 1, 1),
        (429, 1_000_000_000, 59, 60),
        (429, 0, 1, 1),
        (429, formatdate(0, usegmt=True), 1, 1),
        (503, 7, 6, 7),
        (503, "x", 1, 1),
    ],
)
async def test_a_pause_is_kept(
    play: Play, vendor: HoldingVendor, status: int, retry_after: Any, least: int, most: int
) -> None:
    (known,) = await pages(play, vendor, 0)
    behaviour = {"status": status} | ({} if retry_after is None else {"retry_after": retry_after})
    vendor.set_behaviour(**behaviour, times=1)
    play.clock.stop()
    replies = await pages(play, vendor, 1, 2, 3)
    assert codes(replies) == ["upstream_rate_limited"] * 3
    assert all(least <= int(reply.headers["Retry-After"]) <= most for reply in replies)
    assert all(reply.status == 503 for reply in replies)
    paused = (await play.metrics())["gateway_upstream_paused_until_timestamp_seconds"]
    assert least <= round(paused - play.clock.now(), 3) <= most
    assert (await pages(play, vendor, 0))[0].body == known.body
    play.clock.pass_by(1000)
    play.clock.pass_by(-1000 + least - 0.5)
    assert codes(await pages(play, vendor, 4)) == ["upstream_rate_limited"]
    assert len(vendor.requests) == 2
    play.clock.pass_by(1.5)
    assert codes(await pages(play, vendor, 4)) == ["fine"]


async def test_a_date_names_the_end_of_the_pause(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_behaviour(status=429, retry_after=formatdate(play.clock.now() + 30, usegmt=True))
    (reply,) = await pages(play, vendor, 1)
    assert 20 <= int(reply.headers["Retry-After"]) <= 30


async def test_one_probe_after_a_pause_and_then_a_ramp(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_behaviour(status=429, retry_after=5, times=1)
    await pages(play, vendor, 0)
    play.clock.pass_by(5.1)
    let_go = vendor.hold()
    probe = asyncio.create_task(pages(play, vendor, 1))
    await until(lambda: len(vendor.requests) == 2)
    assert codes(await pages(play, vendor, 2)) == ["upstream_rate_limited"]
    let_go.set()
    assert codes(await probe) == ["fine"]
    let_go = vendor.hold()
    herd = [asyncio.create_task(pages(play, vendor, number)) for number in range(10, 20)]
    await play.reaches("gateway_upstream_queued", 8)
    assert (await play.metrics())["gateway_upstream_in_flight"] == 2
    await until(lambda: len(vendor.requests) == 4)
    let_go.set()
    assert [codes(await one) for one in herd] == [["fine"]] * 10
    assert len(vendor.requests) == 12


async def test_a_probe_that_is_told_to_wait_begins_another_pause(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_behaviour(status=429, retry_after=5)
    await pages(play, vendor, 0)
    play.clock.pass_by(5.1)
    assert codes(await pages(play, vendor, 1, 2)) == ["upstream_rate_limited"] * 2
    assert len(vendor.requests) == 2


@pytest.fixture
async def replicas(vendor: HoldingVendor, real_redis: RealRedis) -> AsyncIterator[list[Play]]:
    flags = {"upstream.base_url": vendor.url, "cache.url": real_redis.url, "cache.prefetch": 0}
    async with AsyncExitStack() as stack:
        plays = [await stack.enter_async_context(playing(flags)) for _ in range(2)]
        for play in plays:
            await until(lambda play=play: play.gateway._store._validity.is_live)  # type: ignore[misc]
        yield plays


async def paused(play: Play, since: float) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await play.metrics())["gateway_upstream_paused_until_timestamp_seconds"] <= since:
            pass


async def test_every_replica_keeps_a_pause_and_one_of_them_probes(replicas: list[Play], vendor: HoldingVendor) -> None:
    one, two = replicas
    vendor.set_behaviour(status=429, retry_after=50, times=1)
    assert codes(await pages(one, vendor, 0)) == ["upstream_rate_limited"]
    await paused(two, 0)
    assert codes(await pages(two, vendor, 1)) == ["upstream_rate_limited"]
    assert len(vendor.requests) == 1
    for play in replicas:
        play.clock.pass_by(51)
    let_go = vendor.hold()
    probe = asyncio.create_task(pages(one, vendor, 2))
    await until(lambda: len(vendor.requests) == 2)
    assert codes(await pages(two, vendor, 3)) == ["upstream_rate_limited"]
    let_go.set()
    assert codes(await probe) == ["fine"]
    async with asyncio.timeout(PATIENCE):
        while codes(await pages(two, vendor, 3)) != ["fine"]:
            pass
    assert len(vendor.requests) == 3


async def test_a_replica_that_comes_later_keeps_the_pause(
    replicas: list[Play], vendor: HoldingVendor, real_redis: RealRedis
) -> None:
    vendor.set_behaviour(status=429, retry_after=50)
    await pages(replicas[0], vendor, 0)
    async with playing({"upstream.base_url": vendor.url, "cache.url": real_redis.url}) as third:
        await paused(third, 0)
        assert codes(await pages(third, vendor, 1)) == ["upstream_rate_limited"]
    assert len(vendor.requests) == 1


async def test_a_refused_key_is_tried_once_in_ten_seconds(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_behaviour(status=401)
    assert codes(await pages(play, vendor, 0, 1, 2)) == ["upstream_auth"] * 3
    assert len(vendor.requests) == 1
    play.clock.pass_by(9.0)
    assert codes(await pages(play, vendor, 3)) == ["upstream_auth"]
    assert len(vendor.requests) == 1
    play.clock.pass_by(1.1)
    assert codes(await pages(play, vendor, 4, 5)) == ["upstream_auth"] * 2
    assert len(vendor.requests) == 2
    play.clock.pass_by(10.1)
    vendor.reset()
    assert codes(await pages(play, vendor, 6, 7)) == ["fine"] * 2


async def test_who_waited_for_a_place_does_not_try_a_refused_key_either(vendor: HoldingVendor) -> None:
    flags = {"upstream.base_url": vendor.url, "upstream.max_concurrency": 1, "cache.prefetch": 0}
    async with playing(flags) as play:
        vendor.set_behaviour(status=401)
        let_go = vendor.hold()
        herd = [asyncio.create_task(pages(play, vendor, number)) for number in range(6)]
        await play.reaches("gateway_upstream_queued", 5)
        let_go.set()
        assert [codes(await one) for one in herd] == [["upstream_auth"]] * 6
        assert len(vendor.requests) == 1


async def test_a_403_of_a_key_that_has_worked_is_about_its_aoi(play: Play, vendor: HoldingVendor) -> None:
    await pages(play, vendor, 0)
    vendor.set_behaviour(aoi_id="private", status=403)
    assert codes([await play.page("private"), await play.page("private")]) == ["upstream_auth"] * 2
    assert len(vendor.requests) == 2
    assert codes(await pages(play, vendor, 1)) == ["fine"]
    play.clock.pass_by(10.1)
    assert (await play.page("private", "?limit=3")).code == "upstream_auth"
    assert len(vendor.requests) == 4


async def test_a_403_of_a_key_that_never_worked_is_about_the_key(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_behaviour(aoi_id="private", status=403)
    assert (await play.page("private")).code == "upstream_auth"
    assert codes(await pages(play, vendor, 1)) == ["upstream_auth"]
    assert len(vendor.requests) == 1


async def test_another_key_is_tried_at_once(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_behaviour(status=401, times=1)
    assert codes(await pages(play, vendor, 0, 1)) == ["upstream_auth"] * 2
    vendor.key = "another-key"
    play.gateway._keys.replace("current", "another-key")
    assert codes(await pages(play, vendor, 2)) == ["fine"]


async def test_retries_are_a_tenth_of_the_calls_and_ten(vendor: HoldingVendor) -> None:
    flags = {"upstream.base_url": vendor.url, "upstream.breaker.failures": 1000, "cache.prefetch": 0}
    async with playing(flags) as play:
        vendor.set_behaviour(status=502)
        await pages(play, vendor, *range(100))
        counted = await play.metrics()
    assert len(vendor.requests) <= 100 * 1.1 + 10
    assert counted['gateway_upstream_retries_total{reason="502"}'] == len(vendor.requests) - 100
    assert counted['gateway_upstream_requests_total{code="502"}'] == len(vendor.requests)


async def test_half_a_minute_of_errors(vendor: HoldingVendor) -> None:
    """Ten askers a second: the vendor sees five failures, one probe for each cooldown, and hardly a call more."""
    async with playing({"upstream.base_url": vendor.url, "cache.prefetch": 0}) as play:
        asked, told = 0, set()
        began = play.clock.monotonic()
        for second in range(30):
            for tenth in range(10):
                vendor.set_behaviour(status=(500, 502, 503)[asked % 3])
                (reply,) = await pages(play, vendor, asked)
                told.add((reply.status, reply.code))
                asked += 1
                play.clock.pass_by(0.1)
                if (second, tenth) == (0, 5):
                    assert await state(play) == "open"
        assert {status for status, _ in told} == {500, 502, 503}
        assert {code for _, code in told} == {"upstream_error", "upstream_circuit_open"}
        cooldowns = math.ceil((play.clock.monotonic() - began) / 5)  # six, and more where the requests took long
        assert 5 + 5 <= len(vendor.requests) <= 5 + cooldowns
        vendor.set_behaviour()
        served = 0
        while await state(play) != "closed":
            await pages(play, vendor, asked + served)
            served += 1
            play.clock.pass_by(0.1)
        assert served <= 50 + 1  # a cooldown
        assert codes(await pages(play, vendor, *range(1000, 1020))) == ["fine"] * 20
        metrics = await aftermath(play, vendor)
        assert sum(metrics[f'gateway_upstream_requests_total{{code="{code}"}}'] for code in (500, 502, 503)) <= 11


async def test_a_refusal_that_comes_late_does_not_fail_with_the_new_key(play: Play, vendor: HoldingVendor) -> None:
    """The old key ends while it is on its way: whoever asked with it is asked for again, and nobody is held."""
    let_go = vendor.hold(times=1)
    vendor.key = "another-key"
    late = asyncio.create_task(play.page(vendor.aoi_ids[0]))
    await until(lambda: vendor.inside == 1)
    play.gateway._keys.replace("current", vendor.key)
    assert (await play.page(vendor.aoi_ids[1])).status == 200
    let_go.set()
    assert [(await late).status, (await play.page(vendor.aoi_ids[2])).status] == [200, 200]
    assert (await play.metrics())["gateway_upstream_key_refusals_total"] == 1
