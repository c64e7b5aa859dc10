"""What can be seen from outside: metrics, access log, health, pages, and nowhere the key."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import quote

import http_sf
import pytest
from harness import VENDOR_KEY, Play, playing
from raw_client import Line, asks
from real_redis import RealRedis
from redis.asyncio import Redis

from gateway.http.request_context import ClientNames
from gateway.mock_vendor.server import MockVendor

FIELDS = {
    "ts",
    "request_id",
    "team",
    "client",
    "method",
    "route",
    "aoi_id",
    "status",
    "cache",
    "bytes",
    "duration_ms",
    "upstream_ms",
}


async def test_requests_pages_and_vendor_calls_are_counted(play: Play, vendor: MockVendor) -> None:
    aoi_id = vendor.aoi_ids[2]
    body = (await play.page(aoi_id)).body
    await play.page(aoi_id)
    await play.page("nobody")
    await play.page("nobody")
    await play.page(aoi_id, "?limit=x")
    await play.get("/nowhere", method="PURGE")
    metrics = await play.metrics()
    series = {
        'gateway_http_requests_total{code="200",method="GET",route="assets",team="anonymous"}': 2,
        'gateway_http_requests_total{code="404",method="GET",route="assets",team="anonymous"}': 2,
        'gateway_http_requests_total{code="400",method="GET",route="assets",team="anonymous"}': 1,
        'gateway_http_requests_total{code="404",method="other",route="unknown",team="unknown"}': 1,
        'gateway_http_request_duration_seconds_count{cache="hit",route="assets"}': 1,
        'gateway_http_response_bytes_total{cache="hit",route="assets"}': len(body),
        'gateway_cache_requests_total{result="hit"}': 1,
        'gateway_cache_requests_total{result="miss"}': 2,
        'gateway_cache_requests_total{result="negative"}': 1,
        'gateway_cache_requests_total{result="coalesced"}': 0,
        'gateway_upstream_requests_total{code="200"}': 1,
        'gateway_upstream_requests_total{code="404"}': 1,
        'gateway_upstream_requests_total{code="timeout"}': 0,
        "gateway_upstream_request_duration_seconds_count": 2,
        "gateway_http_requests_in_flight": 1,  # the scrape itself
        "gateway_upstream_in_flight": 0,
        "gateway_cache_entries": 2,
    }
    assert {name: metrics[name] for name in series} == series
    buckets = [name for name in metrics if name.startswith("gateway_http_request_duration_seconds_bucket")]
    assert {'le="0.0001"', 'le="0.5"', 'le="30.0"'} <= {
        match[0] for name in buckets if (match := re.search('le="[^"]*"', name))
    }


async def test_no_label_holds_what_a_client_sent(play: Play) -> None:
    await play.page("marker-aoi", "?offset=4711")
    await play.get("/marker-path?marker", method="MARKER", headers={"X-Request-Id": "marker-id"})
    assert not [series for series in await play.metrics() if "marker" in series.lower() or "4711" in series]


async def test_openmetrics_is_offered(play: Play) -> None:
    reply = await play.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
    assert reply.body.endswith(b"# EOF\n")


async def test_each_request_is_one_line_with_the_promised_fields(play: Play, vendor: MockVendor) -> None:
    aoi_id = vendor.aoi_ids[2]
    await play.page(aoi_id, X_Request_Id="first")
    await play.page(aoi_id, X_Request_Id="second")
    await play.page("..%2f", X_Request_Id="third")
    first, second, third = (line for line in play.log_lines() if line["event"] == "request")
    assert set(first) >= FIELDS
    assert (first["request_id"], first["cache"], first["aoi_id"]) == ("first", "miss", aoi_id)
    assert first["upstream_ms"] > 0
    assert (second["cache"], second["upstream_ms"], second["client"]) == ("hit", None, "127.0.0.1")
    assert (third["status"], third["aoi_id"], third["cache"]) == (400, None, "")


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (("192.0.2.7, 10.1.1.1",), "192.0.2.7"),
        (("6.6.6.6, 192.0.2.7",), "192.0.2.7"),
        (("nonsense, 192.0.2.7",), "192.0.2.7"),
        (("nonsense",), "127.0.0.1"),
        (("",), "127.0.0.1"),
        (("203.0.113.7:51008",), "203.0.113.7"),
        (("203.0.113.7:51008 , 10.1.1.1:80",), "203.0.113.7"),
        (("[2001:db8::1]:443",), "2001:db8::1"),
        (('"[2001:db8::1]:443"',), "2001:db8::1"),
        (("[2001:DB8:0::1]",), "2001:db8::1"),
        (("2001:db8::1",), "2001:db8::1"),
        (("2001:db8::7, [fd00::2]:9",), "2001:db8::7"),
        (("::ffff:203.0.113.7",), "203.0.113.7"),
        (("203.0.113.7, ::ffff:10.0.0.9",), "203.0.113.7"),
        (("[::ffff:203.0.113.7]:80",), "203.0.113.7"),
        (("203.0.113.7", "10.1.1.1", "10.1.1.2"), "203.0.113.7"),
        (("203.0.113.7, , 10.1.1.1,",), "203.0.113.7"),
        (("\t203.0.113.7\t",), "203.0.113.7"),
        (("203.0.113.7, unknown, 10.1.1.1",), "10.1.1.1"),
        (("203.0.113.7, unknown",), "127.0.0.1"),
        (("203.0.113.7:70000",), "127.0.0.1"),
        (("203.0.113.7:",), "127.0.0.1"),
        (("203.0.113.7:http",), "127.0.0.1"),
        (("203.0.113.256",), "127.0.0.1"),
        (("2001:db8::1]:443",), "127.0.0.1"),
        (('"203.0.113.7',), "127.0.0.1"),
        (("[203.0.113.7]:80",), "127.0.0.1"),
        (("fe80::1%eth0",), "127.0.0.1"),
        (("10.1.1.1, 10.1.1.2",), "10.1.1.1"),
    ],
)
def test_the_client_is_the_last_address_that_is_not_a_trusted_proxy(lines: tuple[str, ...], client: str) -> None:
    names = ClientNames(["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"])
    assert names.behind("127.0.0.1", ",".join(lines)) == client
    assert names.behind("::ffff:127.0.0.1", ",".join(lines)) in (client, "::ffff:127.0.0.1")
    assert names.behind("192.0.2.99", ",".join(lines)) == "192.0.2.99"


def test_a_link_local_proxy_is_trusted_whatever_its_zone() -> None:
    assert ClientNames(["fe80::/10"]).behind("fe80::1%eth0", "203.0.113.7") == "203.0.113.7"


async def test_a_trusted_proxy_names_the_client_in_the_log_only(vendor: MockVendor) -> None:
    flags = {"upstream.base_url": vendor.url, "server.trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}
    async with playing(flags) as play:
        path = f"/v0/aois/{vendor.aoi_ids[2]}/assets"
        for sent in ("192.0.2.7, 10.1.1.1", "203.0.113.7:51008", "[2001:db8::1]:443", "nonsense"):
            async with Line(play.port) as line:  # by the long way, and by the short cut
                assert {(await line.ask(asks(path, f"X-Forwarded-For: {sent}"))).status for _ in range(4)} == {200}
        async with Line(play.port) as line:
            await line.ask(asks(path, "X-Forwarded-For: 192.0.2.7:1", "X-Forwarded-For: 10.1.1.1:2"))
        clients = [line["client"] for line in play.log_lines() if line.get("route") == "assets"]
    assert clients == [*["192.0.2.7"] * 4, *["203.0.113.7"] * 4, *["2001:db8::1"] * 4, *["127.0.0.1"] * 4, "192.0.2.7"]


async def test_what_a_client_says_of_itself_cannot_forge_a_line(vendor: MockVendor) -> None:
    """Python takes whatever stands behind the % of an IPv6 address for its zone."""
    flags = {"upstream.base_url": vendor.url, "server.trusted_proxies": ["127.0.0.0/8"]}
    async with playing(flags) as play:
        for zone in (b'" "team":"admin', b"0 team=admin", b"\xff", b"\\"):
            asking = asks(f"/v0/aois/{vendor.aoi_ids[2]}/assets").replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: fe80::1%")
            async with Line(play.port) as line:  # by the long way, and by the short cut
                assert {(await line.ask(asking + zone + b"\r\n\r\n")).status for _ in range(5)} == {200}
        clients = [line["client"] for line in play.log_lines() if line["event"] == "request"]
    assert clients == ["127.0.0.1"] * 20


async def test_a_forwarding_header_of_a_stranger_is_not_believed(play: Play) -> None:
    await play.get("/healthz", headers={"X-Forwarded-For": "192.0.2.7"})
    assert [line["client"] for line in play.log_lines() if line["event"] == "request"] == ["127.0.0.1"]


async def test_cache_status_is_a_structured_field(play: Play, vendor: MockVendor) -> None:
    aoi_id = vendor.aoi_ids[2]
    replies = [await play.page(aoi_id), await play.page(aoi_id)]
    play.clock.skip(1000)
    vendor.set_behaviour(status=503)
    replies.append(await play.page(aoi_id))
    for reply in replies:
        parsed: Any = http_sf.parse(reply.headers["Cache-Status"].encode(), tltype="list")
        assert str(parsed[0][0]) == "pixxel-gateway"


async def test_health_and_readiness(play: Play) -> None:
    assert (await play.get("/healthz")).json == {"status": "ok"}
    assert (await play.get("/readyz")).json == {"status": "ready"}
    play.gateway._lifecycle.state = "draining"
    ready = await play.get("/readyz")
    assert (ready.status, ready.code) == (503, "draining")
    assert ready.headers["Connection"] == "close"
    assert (await play.get("/healthz")).status == 200


async def test_the_pages_stand_on_their_own(play: Play) -> None:
    for path in ("/", "/docs"):
        reply = await play.get(path)
        html = reply.body.decode()
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert not re.findall(r"(?:src|href)=\"(?!/|data:,)[^\"]*\"", html)
        assert f"curl -i &#39;{play.url}" in html or f"curl -i '{play.url}" in html


async def test_openapi_describes_every_code_that_is_answered(play: Play) -> None:
    document = (await play.get("/openapi.json")).json
    operation = document["paths"]["/v0/aois/{aoi_id}/assets"]["get"]
    told = json.dumps(operation["responses"])
    for query, code in (("?limit=0", "invalid_parameter"), ("?x=1", "invalid_parameter")):
        assert (await play.page("a1", query)).code == code
        assert code in told
    assert [parameter["name"] for parameter in operation["parameters"]] == ["aoi_id", "offset", "limit", "X-Explain"]


async def test_an_unexpected_error_is_500_and_tells_nothing(play: Play, vendor: MockVendor) -> None:
    play.gateway._cache._fetcher._chance = lambda: 1 / 0  # a planted mistake
    reply = await play.page(vendor.aoi_ids[2])
    assert (reply.status, reply.code) == (500, "internal_error")
    assert b"ZeroDivision" not in reply.body
    line = next(line for line in play.log_lines() if line["event"] == "an unexpected error")
    assert (line["error"], line["request_id"]) == ("ZeroDivisionError", reply.headers["X-Request-Id"])


async def test_the_key_is_nowhere(vendor: MockVendor, real_redis: RealRedis) -> None:
    key = VENDOR_KEY.encode()
    forms = [
        key,
        quote(VENDOR_KEY, safe="").encode(),
        base64.b64encode(key),
        base64.urlsafe_b64encode(key).rstrip(b"="),
    ]
    seen: list[bytes] = []
    async with playing({"upstream.base_url": vendor.url, "cache.url": real_redis.url}) as play:
        for behaviour in (
            {},
            {"status": 401},
            {"status": 500},
            {"garbage": VENDOR_KEY},
            {"truncate": True},
            {"status": 99},
        ):
            vendor.set_behaviour(**behaviour)
            for path in (
                f"/v0/aois/{vendor.aoi_ids[2]}/assets?offset={len(seen)}",
                "/",
                "/docs",
                "/openapi.json",
                "/metrics",
                "/status",
                "/status.json",
            ):
                reply = await play.get(path, headers={"X-Request-Id": "id"})
                seen += [reply.body, str(reply.headers).encode()]
        async with Redis.from_url(real_redis.url) as raw:
            names: list[Any] = await raw.keys()
            for name in names:
                value: Any = await raw.get(name)
                seen += [name, value]
        play.writer.close()
        seen.append(play.log.getvalue())
    assert len(seen) > 60
    for form in forms:
        assert not [text for text in seen if form in text]
