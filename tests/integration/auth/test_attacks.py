"""What is tried against the doors, the budgets and the data; framing and targets have plays of their own."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import VENDOR_KEY, Play, playing
from holding_vendor import HoldingVendor
from real_redis import RealRedis
from redis.asyncio import Redis
from wire import answers, request, until_closed

from gateway.teams import roster

TOKEN = "pgw_" + "Tt-0_" * 8 + "xyz"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
ORIGIN = "https://app.example.com"


def of_a_team(vendor: HoldingVendor, **more: Any) -> dict[str, Any]:
    return {
        "upstream.base_url": vendor.url,
        "cache.prefetch": 0,
        "teams.alpha.token_sha256": [DIGEST],
        **{name.replace("__", "."): value for name, value in more.items()},
    }


def assets(count: int) -> list[dict[str, Any]]:
    return [{"id": str(number), "status": "success"} for number in range(count)]


# --- tokens ---------------------------------------------------------------------------------------------------


CLOSE_TO_A_TOKEN = [
    DIGEST, DIGEST.upper(), TOKEN[:-1], TOKEN + "A", TOKEN.upper(), TOKEN.lower(), TOKEN.removeprefix("pgw_"),
    f'"{TOKEN}"', f"{TOKEN},{TOKEN}", f"{TOKEN} {TOKEN}", f"Token {TOKEN}", f"Bearer{TOKEN}", f"Bearer:{TOKEN}",
    TOKEN + "%00", "pgw_", "*", "Bearer *", "null", "'; --", TOKEN + "\u00e9", "x" * 8000,
]  # fmt: skip


async def test_what_is_close_to_a_token_is_none(vendor: HoldingVendor) -> None:
    async with playing(of_a_team(vendor)) as play:
        for sent in CLOSE_TO_A_TOKEN:
            for name in (b"Authorization: ", b"X-API-Key: "):
                data = request(name + sent.encode(), b"Connection: close")
                [refused] = answers(await until_closed(play.port, data))
                assert (refused.status, refused.error["code"]) == (401, "unauthorized"), sent
                assert sent.encode() not in refused.body
    assert vendor.requests == []
    assert TOKEN.encode() not in play.log.getvalue()


async def test_a_good_token_does_not_carry_a_bad_one(vendor: HoldingVendor) -> None:
    good, other = b"Authorization: Bearer " + TOKEN.encode(), b"Authorization: Bearer " + b"x" * 47
    async with playing(of_a_team(vendor)) as play:
        for lines in ((good, other), (other, good), (good, b"X-API-Key: x"), (b"X-API-Key: x", good)):
            [refused] = answers(await until_closed(play.port, request(*lines, b"Connection: close")))
            assert (refused.status, refused.error["code"]) == (401, "unauthorized")
    assert vendor.requests == []


async def test_tokens_are_compared_by_digest_in_constant_time(
    vendor: HoldingVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[str, str]] = []

    class Watched:
        @staticmethod
        def compare_digest(known: str, given: str) -> bool:
            compared.append((known, given))
            return hmac.compare_digest(known, given)

    monkeypatch.setattr(roster, "hmac", Watched)
    vendor.set_assets("shown", [])
    async with playing(of_a_team(vendor)) as play:
        assert (await play.page("shown", X_API_Key=TOKEN)).status == 200
        assert (await play.page("shown", X_API_Key=TOKEN[:-1])).status == 401
    assert compared == [(DIGEST, DIGEST)]


# --- pages of another origin ----------------------------------------------------------------------------------


async def test_a_page_of_another_origin_cannot_purge(vendor: HoldingVendor) -> None:
    """What a browser sends unasked is refused, and what it must ask for first is not granted, listed or not."""
    vendor.set_assets("shown", [])
    order = b'{"all":true}'
    length = b"Content-Length: %d" % len(order)
    async with playing({"upstream.base_url": vendor.url, "server.cors_origins": [ORIGIN]}) as play:
        await play.page("shown")
        for origin in (ORIGIN.encode(), b"https://evil.example", b"null"):
            sender = b"Origin: " + origin
            for kind in (
                b"Content-Type: text/plain", b"Content-Type: application/x-www-form-urlencoded",
                b"Content-Type: multipart/form-data; boundary=x", b"Content-Type: text/plain, application/json",
                b"Content-Type: text/plain; application/json", b"X-Content-Type: application/json", b"Content-Type:",
            ):  # fmt: skip
                data = request(sender, kind, length, method=b"POST", path=b"/admin/purge", body=order)
                [refused] = answers(await until_closed(play.port, data))
                assert (refused.status, refused.error["code"]) == (415, "unsupported_media_type")
            wish = (b"Access-Control-Request-Method: POST", b"Access-Control-Request-Headers: content-type")
            data = request(sender, *wish, b"Connection: close", method=b"OPTIONS", path=b"/admin/purge")
            [refused] = answers(await until_closed(play.port, data))
            assert (refused.status, refused.headers["Allow"]) == (405, "POST")
            assert "Access-Control-Allow-Methods" not in refused.headers
            assert "Access-Control-Allow-Headers" not in refused.headers
        assert (await play.page("shown")).cache.startswith("hit")
        assert (await play.metrics())['gateway_cache_purges_total{scope="all"}'] == 0


# --- what the vendor is asked ---------------------------------------------------------------------------------


@asynccontextmanager
async def recording() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A vendor that keeps each request as the bytes that came; it answers every one with an empty page."""
    body = b'{"assets":[],"pagination":{"total":0,"offset":0,"limit":10}}'
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                seen.append(head)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()
        await server.wait_closed()


async def test_the_vendor_request_is_the_same_to_the_byte_whatever_a_client_sends() -> None:
    sent = (
        b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-Host: evil.example", b"X-Forwarded-Proto: https",
        b"X-Forwarded-Port: 1", b"X-Forwarded-Prefix: /evil", b"X-Original-URL: /v0/users", b"X-Rewrite-URL: /v0/users",
        b"X-HTTP-Method-Override: DELETE", b"X-HTTP-Method: DELETE", b"Cookie: a=b", b"Accept: text/html",
        b"Accept: application/xml", b"Accept-Encoding: br, zstd", b"Accept-Language: xx", b"Origin: https://evil.example",
        b"Referer: https://evil.example/", b"User-Agent: evil", b"Range: bytes=0-0", b"If-Range: x", b"Via: 1.1 evil",
        b"Connection: close, authorization, host, x-request-id", b"Keep-Alive: timeout=999", b"Upgrade: h2c",
        b"Proxy-Authorization: Basic eDp5", b"Authorization: Bearer mine", b"X-API-Key: mine", b"TE: trailers",
        b"Cache-Control: no-cache, no-store, max-age=0", b"Pragma: no-cache", b'If-None-Match: W/"x"',
        b"If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT", b"Content-Length: 0", b"Content-Type: text/plain",
        b"Content-Encoding: gzip", b"Max-Forwards: 0", b"Forwarded: for=x;host=evil.example", b"Priority: u=0",
    )  # fmt: skip
    async with recording() as (url, seen), playing({"upstream.base_url": url}) as play:
        same = b"X-Request-Id: same"
        for lines in ((), sent, *((line,) for line in sent)):
            play.clock.skip(1_000_000)  # whatever was cached is gone
            data = request(same, *lines) + request(b"Connection: close", path=b"/healthz")
            first, *_ = answers(await until_closed(play.port, data))
            assert first.status == 200
            assert first.body.endswith(b'"limit":10}}')
    assert len(seen) == 2 + len(sent)
    assert set(seen) == {seen[0]}
    assert f"\r\nAuthorization: {VENDOR_KEY}\r\n".encode() in seen[0]


async def test_a_client_without_the_scope_cannot_get_past_the_cache(play: Play, vendor: HoldingVendor) -> None:
    vendor.set_assets("shown", assets(3))
    body = (await play.page("shown")).body
    for line in (
        b"Cache-Control: no-cache", b"Cache-Control: no-store", b"Cache-Control: max-age=0", b"Pragma: no-cache",
        b"Cache-Control: min-fresh=999999", b"cache-control: NO-CACHE", b'Cache-Control: no-cache="x", max-age=0',
        b"Cache-Control: private, must-revalidate", b"Range: bytes=0-0",
    ):  # fmt: skip
        [answer] = answers(await until_closed(play.port, request(line, b"Connection: close")))
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["Cache-Status"].startswith("pixxel-gateway; hit; ttl=")
        assert "Content-Range" not in answer.headers
    assert len(vendor.requests) == 1


# --- budgets --------------------------------------------------------------------------------------------------


async def test_a_flood_of_offsets_meets_the_miss_rate_while_hits_go_on(vendor: HoldingVendor) -> None:
    vendor.set_assets("shown", assets(1000))
    allowed = of_a_team(vendor, teams__alpha__miss_rate=0.001, teams__alpha__miss_burst=5)
    async with playing(allowed) as play:
        good = await play.page("shown", "?offset=0&limit=1", Authorization=TOKEN)
        flood = [
            asyncio.create_task(play.page("shown", f"?offset={2 * number}&limit=1", Authorization=TOKEN))
            for number in range(1, 301)
        ]
        hits = [await play.page("shown", "?offset=0&limit=1", Authorization=TOKEN) for _ in range(50)]
        replies = [await task for task in flood]
    assert {(hit.status, hit.body, hit.cache.split(";")[0]) for hit in hits} == {(200, good.body, "hit")}
    refused = [reply for reply in replies if reply.status != 200]
    assert {(reply.status, reply.code, reply.details["budget"]) for reply in refused} == {
        (429, "rate_limited", "misses")
    }
    assert len(refused) == 300 - 4
    assert len(vendor.requests) == 5


async def test_five_thousand_requests_at_once_are_held_to_the_rate(vendor: HoldingVendor) -> None:
    vendor.set_assets("shown", [])
    token = b"X-API-Key: " + TOKEN.encode()
    async with playing(of_a_team(vendor, teams__alpha__rate=0.001, teams__alpha__burst=7)) as play:
        sent = [request(b"X-Request-Id: r%d" % number, token) for number in range(5000)]
        last = request(b"X-Request-Id: last", token, b"Connection: close")
        received = answers(await until_closed(play.port, b"".join((*sent, last)), seconds=120))
    assert [answer.status for answer in received] == [200] * 7 + [429] * 4994
    assert [answer.headers["X-Request-Id"] for answer in received] == [f"r{number}" for number in range(5000)] + [
        "last"
    ]
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in received[7:])
    assert len(vendor.requests) == 1


# --- data -----------------------------------------------------------------------------------------------------


class Planted:
    """What a pickle may do to whoever reads it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


async def test_a_value_that_somebody_else_wrote_into_redis_is_a_miss(
    vendor: HoldingVendor, real_redis: RealRedis, tmp_path: Path
) -> None:
    vendor.set_assets("shown", assets(20))
    shared = {"upstream.base_url": vendor.url, "cache.url": real_redis.url, "cache.prefetch": 0}
    async with playing(shared) as play:
        good = await play.page("shown")
        await play.page("shown", "?offset=10")
    planted = tmp_path / "planted"
    async with Redis.from_url(real_redis.url) as raw:
        names: list[Any] = await raw.keys("*:page:*")
        name, other = sorted(names, key=lambda name: b"offset=10" in name)
        whole: Any = await raw.get(name)
        another: Any = await raw.get(other)
        for foreign in (
            pickle.dumps(Planted(planted)), another, whole[:-1] + bytes([whole[-1] ^ 1]), whole + b"\0", good.body,
        ):  # fmt: skip
            await raw.set(name, foreign)
            async with playing(shared) as play:
                vendor.requests.clear()
                reply = await play.page("shown")
                assert (reply.status, reply.body) == (200, good.body)
                assert reply.cache == "fwd=miss; fwd-status=200; stored"
                assert len(vendor.requests) == 1
                assert (await play.metrics())["gateway_cache_corrupt_total"] >= 1
    assert not planted.exists()


async def test_what_the_vendor_says_of_our_request_keeps_the_key(play: Play, vendor: HoldingVendor) -> None:
    """Its whole request, as an error page of a careless server quotes it, whatever the status."""
    head = f"GET /v0/aois/shown/assets HTTP/1.1\\r\\nAuthorization: {VENDOR_KEY}\\r\\n"
    quoting = f'{{"error":{{"code":"{VENDOR_KEY}","message":"{head}","details":{{"{VENDOR_KEY}":["{head}"]}}}}}}'
    page = f'{{"assets":[],"pagination":{{"total":0,"offset":0,"limit":10,"key":"{VENDOR_KEY}"}}}}'
    cases = [(status, quoting) for status in (400, 401, 403, 404, 409, 418, 422, 429, 500, 502, 503)]
    for status, told in (*cases, (200, quoting), (200, page)):
        vendor.set_behaviour(status=status, garbage=told)
        for _ in range(2):  # the second time, from whatever was kept
            reply = await play.page(f"a{status}")
            assert reply.status >= 400
            assert reply.status == 502 or status != 200
            for form in (VENDOR_KEY, VENDOR_KEY.replace("/", "\\/"), VENDOR_KEY[:20]):
                assert form.encode() not in reply.body
                assert form not in str(reply.headers)
        play.clock.pass_by(100)
    play.writer.close()
    assert VENDOR_KEY.encode() not in play.log.getvalue()
