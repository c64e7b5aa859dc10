"""The vendor misbehaves: a client gets one clear error, nothing bad is stored, and the number of calls is known."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from harness import PATIENCE, VENDOR_KEY, Play, Reply, nobody_at, playing, until
from holding_vendor import HoldingVendor
from invariants import aftermath, calls

from gateway.mock_vendor.server import MockVendor

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
async def quick(vendor: MockVendor) -> AsyncIterator[Play]:
    """A gateway that waits for an answer no longer than the machine may need for one."""
    async with playing({"upstream.base_url": vendor.url, "upstream.attempt_timeout": 1.5}) as running:
        yield running


def page(assets: str, pagination: str = '"pagination":{"total":1,"offset":0,"limit":10}') -> str:
    return f'{{"assets":{assets},{pagination}}}'


@pytest.mark.parametrize(
    ("behaviour", "status", "code", "calls"),
    [
        ({"status": 500}, 500, "upstream_error", 2),
        ({"status": 502}, 502, "upstream_error", 2),
        ({"status": 503}, 503, "upstream_error", 2),
        ({"status": 504}, 504, "upstream_error", 2),
        ({"status": 501}, 502, "upstream_invalid", 1),
        ({"status": 503, "retry_after": 5}, 503, "upstream_rate_limited", 1),
        ({"status": 429, "retry_after": 5}, 503, "upstream_rate_limited", 1),
        ({"status": 429, "retry_after": "x"}, 503, "upstream_rate_limited", 1),
        ({"status": 401}, 502, "upstream_auth", 1),
        ({"status": 403}, 502, "upstream_auth", 1),
        ({"status": 206}, 502, "upstream_invalid", 1),
        ({"status": 204}, 502, "upstream_invalid", 1),
        ({"status": 304}, 502, "upstream_invalid", 1),
        ({"status": 999}, 502, "upstream_invalid", 1),
        ({"status": 99}, 502, "upstream_invalid", 1),
        ({"redirect_to": "http://127.0.0.1:9/"}, 502, "upstream_invalid", 1),
        ({"garbage": True}, 502, "upstream_invalid", 1),
        ({"garbage": "<html>"}, 502, "upstream_invalid", 1),
        ({"garbage": page('[{"aoi_id":"somebody-elses"}]')}, 502, "upstream_invalid", 1),
        ({"garbage": page('[{"x":NaN}]')}, 502, "upstream_invalid", 1),
        ({"garbage": "\ufeff" + page("[]")}, 502, "upstream_invalid", 1),
        ({"garbage": page('[{"x":' + "[" * 100_000 + "]" * 100_000 + "}]")}, 502, "upstream_invalid", 1),
        ({"garbage": page('[{"x":' + "1" * 5000 + "}]")}, 502, "upstream_invalid", 1),
        ({"garbage": page(f'[{{"x":"{VENDOR_KEY}"}}]')}, 502, "upstream_invalid", 1),
        ({"garbage": '{"error":{"code":"x","message":"y","details":null}}'}, 502, "upstream_invalid", 1),
        ({"gzip_bomb": True}, 502, "upstream_too_large", 1),
        ({"truncate": True}, 502, "upstream_invalid", 2),
        ({"reset_after_bytes": 100}, 502, "upstream_invalid", 2),
        ({"hang": True}, 504, "upstream_timeout", 2),
        ({"trickle": True}, 504, "upstream_timeout", 2),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_failure_with_nothing_at_hand(
    quick: Play, vendor: MockVendor, behaviour: dict[str, Any], status: int, code: str, calls: int
) -> None:
    aoi_id = vendor.aoi_ids[2]
    vendor.set_behaviour(**behaviour)
    reply = await quick.page(aoi_id)
    assert (reply.status, reply.code) == (status, code)
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.details["request_id"] == reply.headers["X-Request-Id"]
    assert ("Retry-After" in reply.headers) == (code == "upstream_rate_limited")
    if code == "upstream_error":
        assert reply.details["upstream_status"] == status
    assert len(vendor.requests) == calls
    await aftermath(quick, vendor)
    vendor.reset()
    quick.clock.pass_by(61)  # beyond what the vendor may ask for
    assert (await quick.page(aoi_id)).cache == "fwd=miss; fwd-status=200; stored"  # nothing bad was kept


async def test_a_failure_leaves_the_last_good_page(quick: Play, vendor: MockVendor) -> None:
    aoi_id = vendor.aoi_ids[2]
    good = await quick.page(aoi_id)
    for behaviour in ({"garbage": True}, {"status": 401}, {"truncate": True}, {"status": 429}, {"hang": True}):
        quick.clock.skip(1000)
        vendor.set_behaviour(**behaviour)
        old = await quick.page(aoi_id)
        assert (old.status, old.body) == (200, good.body)
        assert old.cache.endswith("detail=stale-if-error")


async def test_one_bad_answer_is_tried_again_within_the_request(play: Play, vendor: MockVendor) -> None:
    for behaviour in ({"status": 502}, {"truncate": True}, {"reset_after_bytes": 0}):
        play.clock.skip(100_000)
        vendor.reset()
        vendor.set_behaviour(**behaviour, times=1)
        assert (await play.page(vendor.aoi_ids[2])).status == 200
        assert len(vendor.requests) == 2
    metrics = await play.metrics()
    assert metrics['gateway_upstream_retries_total{reason="502"}'] == 1
    assert metrics['gateway_upstream_retries_total{reason="reset"}'] == 2


async def test_a_hang_ends_at_the_deadline(vendor: MockVendor) -> None:
    flags = {"upstream.base_url": vendor.url, "upstream.attempt_timeout": 60, "upstream.deadline": 0.8}
    async with playing(flags) as play:
        vendor.set_behaviour(hang=True)
        began = time.monotonic()
        replies = await asyncio.gather(*(play.page(vendor.aoi_ids[2]) for _ in range(5)))
        assert [reply.status for reply in replies] == [504] * 5
        assert 0.75 < time.monotonic() - began < 10  # the machine may be busy, and an attempt would take a minute


async def test_patience_ends_before_the_deadline_where_an_old_page_is_at_hand(vendor: HoldingVendor) -> None:
    aoi_id = vendor.aoi_ids[2]
    async with playing({"upstream.base_url": vendor.url, "upstream.patience": 0.1}) as play:
        good = await play.page(aoi_id)
        play.clock.skip(1000)
        let_go = vendor.hold()
        old = await play.page(aoi_id)
        assert (old.body, old.cache) == (good.body, "fwd=stale; detail=stale-if-error")
        # The fetch goes on, and is stored once it lands.
        let_go.set()
        async with asyncio.timeout(PATIENCE):
            while (reply := await play.page(aoi_id)).cache.endswith("stale-if-error"):
                assert reply.body == good.body
        assert int(reply.headers["Age"]) < 1000
        assert len(vendor.requests) == 2


async def test_patience_and_deadline_are_kept_to_the_tenth(vendor: MockVendor) -> None:
    """By the median of five: a machine that others use stalls now and then, and for longer than that."""
    aoi_id = vendor.aoi_ids[2]
    bounds = {"upstream.patience": 0.4, "upstream.deadline": 0.8, "upstream.attempt_timeout": 60}
    async with playing({"upstream.base_url": vendor.url, "cache.prefetch": 0, **bounds}) as play:

        async def seconds(offset: int, status: int) -> float:
            began = time.monotonic()
            assert (await play.page(aoi_id, f"?offset={offset}")).status == status
            return time.monotonic() - began

        for offset in range(5):
            await play.page(aoi_id, f"?offset={offset}")
        play.clock.skip(1000)
        vendor.set_behaviour(hang=True)
        assert 0.39 < median([await seconds(offset, 200) for offset in range(5)]) < 0.5 + 0.2
        followers = asyncio.gather(*(seconds(10, 504) for _ in range(20)))
        assert 0.79 < median(await followers) < 0.9 + 0.3
        await aftermath(play, vendor)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses")
async def test_nobody_takes_the_connection(vendor: MockVendor) -> None:
    """Neither refused nor accepted, as behind a firewall: two attempts, each as long as a connection may take."""
    with socket.socket() as full, ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # as many as the kernel queues, and then some
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        for deadline, code, status in ((15.0, "upstream_unreachable", 502), (0.5, "upstream_timeout", 504)):
            bounds = {"upstream.connect_timeout": 0.3, "upstream.deadline": deadline}
            async with playing({"upstream.base_url": url, **bounds}) as play:
                began = time.monotonic()
                reply = await play.page("a1")
                assert (reply.status, reply.code) == (status, code)
                assert time.monotonic() - began < 0.6 + 4.0
                assert calls(await aftermath(play)) == 2


async def test_a_vendor_that_is_gone_leaves_the_old_page(vendor: MockVendor) -> None:
    aoi_id = vendor.aoi_ids[2]
    async with playing({"upstream.base_url": vendor.url, "cache.prefetch": 0}) as play:
        good = await play.page(aoi_id)
        play.clock.skip(1000)
        port = int(vendor.url.rpartition(":")[2])
        await vendor.stop()
        old = await play.page(aoi_id)
        assert (old.body, old.cache) == (good.body, "fwd=stale; detail=stale-if-error")
        metrics = await aftermath(play)
        assert metrics['gateway_upstream_requests_total{code="connect"}'] == 2
        assert metrics['gateway_cache_requests_total{result="stale_if_error"}'] == 1
        await vendor.start(port=port)
        assert (await play.page(aoi_id)).cache == "fwd=stale; fwd-status=200; stored"


async def test_a_404_after_a_page_is_a_404_for_a_while(play: Play, vendor: MockVendor) -> None:
    aoi_id = vendor.aoi_ids[2]
    first = await play.page(aoi_id)
    play.clock.skip(1000)
    vendor.set_behaviour(status=404)
    gone = await play.page(aoi_id)
    assert (gone.status, gone.cache) == (404, "fwd=stale; fwd-status=404; stored")
    vendor.reset()
    assert (await play.page(aoi_id)).cache.startswith("hit")  # for at most thirty seconds
    play.clock.skip(31)
    back = await play.page(aoi_id)
    assert (back.status, back.cache) == (200, "fwd=miss; fwd-status=200; stored")
    assert back.headers["X-Listing-Generation"] != first.headers["X-Listing-Generation"]
    assert len(vendor.requests) == 1


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:{port}", "http://no-such-host.invalid"])
async def test_nobody_there_is_502(base_url: str) -> None:
    with nobody_at() as port:
        async with playing({"upstream.base_url": base_url.format(port=port)}) as play:
            reply = await play.page("a1")
            assert (reply.status, reply.code) == (502, "upstream_unreachable")
            assert (await play.metrics())['gateway_upstream_requests_total{code="connect"}'] == 2


async def test_the_previous_key_bridges_a_rotation(vendor: MockVendor) -> None:
    flags = {"upstream.base_url": vendor.url, "upstream.api_key": "new", "upstream.previous_api_key": VENDOR_KEY}
    async with playing(flags) as play:
        assert (await play.page(vendor.aoi_ids[2])).status == 200
        assert (await play.metrics())["gateway_upstream_key_refusals_total"] == 1
    assert [dict(request.headers)["Authorization"] for request in vendor.requests] == ["new", VENDOR_KEY]


@pytest.mark.parametrize("status", [400, 409, 422])
async def test_another_4xx_passes_with_its_envelope_and_is_not_stored(
    play: Play, vendor: MockVendor, status: int
) -> None:
    vendor.set_behaviour(status=status)
    for _ in range(2):
        reply = await play.page(vendor.aoi_ids[2])
        assert reply.status == status
        assert set(reply.json["error"]) == {"code", "message", "details"}
        assert reply.details["request_id"] == reply.headers["X-Request-Id"]
    assert len(vendor.requests) == 2


async def test_an_error_that_echoes_the_key_is_not_passed_on(play: Play, vendor: MockVendor) -> None:
    envelope = f'{{"error":{{"code":"c","message":"bad key {VENDOR_KEY}","details":{{"sent":"{VENDOR_KEY}"}}}}}}'
    for status in (400, 404):
        vendor.set_behaviour(status=status, garbage=envelope)
        reply = await play.page(f"a{status}")
        assert reply.status == status
        assert VENDOR_KEY.encode() not in reply.body


async def test_places_and_queue_are_bounded(vendor: HoldingVendor) -> None:
    flags = {"upstream.base_url": vendor.url, "upstream.max_concurrency": 2, "upstream.max_queue": 3}
    async with playing(flags) as play:
        let_go = vendor.hold()
        asking = [asyncio.create_task(play.page(vendor.aoi_ids[2], f"?offset={n}")) for n in range(10)]
        await until(lambda: sum(task.done() for task in asking) == 5)
        refused = [task.result() for task in asking if task.done()]
        assert {(reply.status, reply.code) for reply in refused} == {(503, "overloaded")}
        assert all(int(reply.headers["Retry-After"]) >= 1 for reply in refused)
        let_go.set()
        assert sorted([reply.status for reply in await asyncio.gather(*asking)]) == [200] * 5 + [503] * 5
        metrics = await play.metrics()
        assert metrics["gateway_upstream_in_flight"] == metrics["gateway_upstream_queued"] == 0


async def all_wait(play: Play, count: int) -> None:
    """Until so many requests are being answered, besides the one that asks."""
    await play.reaches("gateway_http_requests_in_flight", count + 1)


async def test_a_thousand_askers_are_one_call_and_share_an_error(play: Play, vendor: HoldingVendor) -> None:
    async def at_once(aoi_id: str) -> list[Reply]:
        let_go = vendor.hold()
        asking = [asyncio.create_task(play.page(aoi_id)) for _ in range(200)]
        await all_wait(play, 200)
        let_go.set()
        return await asyncio.gather(*asking)

    replies = await at_once(vendor.aoi_ids[2])
    assert {reply.status for reply in replies} == {200}
    assert sum(reply.cache.endswith("collapsed") for reply in replies) == 199
    assert len(vendor.requests) == 1
    vendor.reset()
    vendor.set_behaviour(status=501)
    replies = await at_once(vendor.aoi_ids[3])
    assert {reply.status for reply in replies} == {502}
    assert len(vendor.requests) == 1


async def test_a_leader_that_leaves_takes_nobody_along(play: Play, vendor: HoldingVendor) -> None:
    let_go = vendor.hold()
    leader = asyncio.create_task(play.page(vendor.aoi_ids[2]))
    await until(lambda: len(vendor.requests) == 1)
    followers = [asyncio.create_task(play.page(vendor.aoi_ids[2])) for _ in range(5)]
    await all_wait(play, 6)
    leader.cancel()
    await asyncio.wait([leader])
    await play.metrics()  # by now the gateway knows that it left
    let_go.set()
    assert {(await follower).status for follower in followers} == {200}
    assert len(vendor.requests) == 1


async def test_a_key_file_that_changes_is_used_without_a_restart(vendor: MockVendor, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(VENDOR_KEY, encoding="utf-8")
    aoi_id = vendor.aoi_ids[2]
    async with playing(
        {"upstream.base_url": vendor.url, "upstream.api_key": None, "upstream.api_key_file": str(file)}
    ) as play:
        assert (await play.page(aoi_id)).status == 200
        loaded = (await play.metrics())["gateway_upstream_key_loaded_timestamp_seconds"]
        for nothing in ("", "\n", "two\nlines", "\xff"):
            file.write_text(nothing, encoding="latin-1")
        vendor.key = "another-key"
        aside = tmp_path / "aside"
        aside.write_text("another-key\n", encoding="utf-8")
        aside.replace(file)  # as a mounted Secret changes
        async with asyncio.timeout(PATIENCE):
            while (await play.metrics())["gateway_upstream_key_loaded_timestamp_seconds"] == loaded:
                pass  # each look is a request, and so a turn of the loop
        assert (await play.page(aoi_id, "?offset=1")).status == 200
        assert (await play.page(aoi_id)).cache.startswith("hit")  # pages survive
        lines = play.log_lines()
    assert not [line for line in lines if "another-key" in str(line) or VENDOR_KEY in str(line)]
