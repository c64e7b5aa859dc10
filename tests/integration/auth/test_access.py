"""Who is let in: tokens, AOIs, hosts, origins, TLS, and what stands on which listener."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest
import trustme
from harness import Play, playing

from gateway.mock_vendor.server import MockVendor

TOKEN, OTHER = "pgw_" + "a" * 43, "pgw_" + "b" * 43


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def teams(vendor: MockVendor) -> dict[str, object]:
    return {
        "upstream.base_url": vendor.url,
        "teams.alpha.token_sha256": [digest(TOKEN)],
        "teams.alpha.aois": [vendor.aoi_ids[2], "x-*"],
        "teams.beta.token_sha256": [digest(OTHER)],
        "teams.beta.scopes": ["refresh"],
    }


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": f"bearer  {TOKEN}"},
        {"X-API-Key": TOKEN}, {"X-API-Key": TOKEN, "Authorization": f"Bearer {TOKEN}"},
    ],
)  # fmt: skip
async def test_a_token_is_taken_in_every_promised_place(vendor: MockVendor, headers: dict[str, str]) -> None:
    async with playing(teams(vendor)) as play:
        assert (await play.get(f"/v0/aois/{vendor.aoi_ids[2]}/assets", headers=headers)).status == 200
        assert (await play.metrics())[
            'gateway_http_requests_total{code="200",method="GET",route="assets",team="alpha"}'
        ] == 1


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "missing"), ({"Authorization": "Bearer nobody"}, "unknown"), ({"X-API-Key": TOKEN + "x"}, "unknown"),
        ({"Authorization": "Bearer"}, "unknown"), ({"Authorization": f"Basic {TOKEN}"}, "unknown"),
        ({"X-API-Key": TOKEN, "Authorization": OTHER}, "conflicting"),
    ],
)  # fmt: skip
async def test_anything_else_is_401(vendor: MockVendor, headers: dict[str, str], reason: str) -> None:
    async with playing(teams(vendor)) as play:
        reply = await play.get("/v0/aois/%2e%2e/assets?nonsense", headers=headers)  # judged before the query
        assert (reply.status, reply.code) == (401, "unauthorized")
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        metrics = await play.metrics()
        assert metrics[f'gateway_auth_failures_total{{reason="{reason}"}}'] == 1
        assert metrics['gateway_http_requests_total{code="401",method="GET",route="assets",team="unknown"}'] == 1
    assert vendor.requests == []


async def test_a_team_without_this_aoi_is_403_even_when_the_page_is_cached(vendor: MockVendor) -> None:
    hidden = vendor.aoi_ids[3]
    async with playing(teams(vendor)) as play:
        assert (await play.page(hidden, Authorization=OTHER)).status == 200
        reply = await play.page(hidden, Authorization=TOKEN)
        assert (reply.status, reply.code) == (403, "forbidden")
        assert (await play.page("y-1", Authorization=TOKEN)).status == 403
        assert (await play.page("x-1", Authorization=TOKEN)).status == 404  # its own, but the vendor has no such AOI
        # The query is judged first.
        assert (await play.page(hidden, "?offset=x", Authorization=TOKEN)).status == 400


async def test_the_refresh_scope_may_force_once_in_ten_seconds(vendor: MockVendor) -> None:
    aoi_id = vendor.aoi_ids[2]
    async with playing(teams(vendor)) as play:
        await play.page(aoi_id, Authorization=OTHER)
        forced = await play.page(aoi_id, Authorization=OTHER, Cache_Control="no-cache")
        assert forced.cache == "fwd=request; fwd-status=200; stored"
        again = await play.page(aoi_id, Authorization=OTHER, Cache_Control="no-cache")
        assert again.cache.startswith("hit")
        play.clock.skip(10)
        vendor.set_behaviour(status=501)
        failed = await play.page(aoi_id, Authorization=OTHER, Pragma="no-cache")
        assert failed.cache == "fwd=request; fwd-status=501; detail=stale-if-error"
        assert (await play.metrics())['gateway_cache_requests_total{result="refresh"}'] == 1


async def test_public_pages_need_no_token(vendor: MockVendor) -> None:
    async with playing(teams(vendor)) as play:
        for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics"):
            assert (await play.get(path)).status == 200


async def test_open_mode_on_loopback_answers_loopback_hosts_only(play: Play) -> None:
    for host in ("localhost", "localhost:1234", "127.0.0.1:1", "127.9.9.9", "[::1]:80"):
        assert (await play.get("/healthz", headers={"Host": host})).status == 200
    for host in ("evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil", "[::2]"):
        reply = await play.get("/", headers={"Host": host})
        assert (reply.status, reply.code) == (400, "bad_request")


async def test_tokens_mode_answers_every_host(vendor: MockVendor) -> None:
    async with playing(teams(vendor)) as play:
        assert (await play.get("/", headers={"Host": "gateway.example"})).status == 200


async def test_an_own_listener_takes_operations_away_from_clients(vendor: MockVendor) -> None:
    async with playing({"upstream.base_url": vendor.url, "ops.port": 0}) as play:
        for path in ("/metrics", "/healthz", "/readyz"):
            assert (await play.get(path)).status == 404
            async with play.session.get(play.ops_url + path) as response:
                assert response.status == 200
        assert (await play.get("/docs")).status == 200
        async with play.session.get(f"{play.ops_url}/v0/aois/{vendor.aoi_ids[2]}/assets") as response:
            assert response.status == 404


ORIGIN = "https://app.example.com"


async def test_browsers_of_listed_origins_may_ask(vendor: MockVendor) -> None:
    path = f"/v0/aois/{vendor.aoi_ids[2]}/assets"
    preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    async with playing({**teams(vendor), "server.cors_origins": [ORIGIN]}) as play:
        allowed = await play.get(path, method="OPTIONS", headers=preflight)
        assert allowed.status == 204
        assert allowed.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert set(allowed.headers["Access-Control-Allow-Headers"].lower().split(", ")) == {
            "authorization", "x-api-key", "cache-control", "if-none-match", "prefer", "x-request-id", "x-explain",
            "traceparent", "tracestate", "baggage",
        }  # fmt: skip
        for wanted in ("traceparent", "TraceParent, tracestate", " baggage ,X-Explain,x-explain", ""):
            asked = {
                **preflight,
                "Access-Control-Request-Headers": wanted,
                "Access-Control-Request-Private-Network": "true",
            }
            again = await play.get(path, method="OPTIONS", headers=asked)
            assert (again.status, again.headers["Vary"]) == (204, "Origin")
            assert again.headers["Access-Control-Allow-Headers"] == allowed.headers["Access-Control-Allow-Headers"]
        page = await play.get(path, headers={"Origin": ORIGIN, "X-API-Key": TOKEN})
        assert page.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert page.headers["Vary"] == "Accept-Encoding, Origin"
        exposed = page.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"Cache-Status", "X-Explain", "Preference-Applied", "WWW-Authenticate", "Allow"} <= set(exposed)
        refused = await play.get(path, headers={"Origin": ORIGIN})
        assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (401, ORIGIN)
        unnamed = {"access-control-allow-origin", "access-control-expose-headers", "date", "server"}
        sent = {name.lower() for reply in (page, refused) for name in reply.headers}
        assert sent - unnamed <= {name.lower() for name in exposed}
        for headers in ({**preflight, "Origin": "https://evil.example"}, {"Origin": ORIGIN}, {}):
            reply = await play.get(path, method="OPTIONS", headers=headers)
            assert (reply.status, reply.code, reply.headers["Allow"]) == (405, "method_not_allowed", "GET, HEAD")
        stranger = await play.get(path, headers={"Origin": "https://evil.example", "X-API-Key": TOKEN})
        assert "Access-Control-Allow-Origin" not in stranger.headers


async def test_tls_on_the_listener(vendor: MockVendor, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    flags = {"upstream.base_url": vendor.url, "server.tls_cert_file": str(cert), "server.tls_key_file": str(key)}
    async with playing(flags, tls=trusting) as play:
        reply = await play.page(vendor.aoi_ids[2])
        assert reply.status == 200
        assert b"https://127.0.0.1" in (await play.get("/")).body


async def test_a_vendor_certificate_that_nobody_signed_is_502_and_never_plain_text(tmp_path: Path) -> None:
    from aiohttp import web  # noqa: PLC0415

    served = trustme.CA().issue_cert("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.configure_cert(context)
    seen: list[web.BaseRequest] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request)
        return web.Response()

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        async with playing({"upstream.base_url": f"https://127.0.0.1:{runner.addresses[0][1]}"}) as play:
            reply = await play.page("a1")
            assert (reply.status, reply.code) == (502, "upstream_unreachable")
            assert (await play.metrics())['gateway_upstream_requests_total{code="tls"}'] == 2
    finally:
        await runner.cleanup()
    assert seen == []


@pytest.mark.parametrize(
    ("sent", "headers", "status", "code"),
    [
        ("{}", {}, 400, "invalid_parameter"),
        ('{"all":false}', {}, 400, "invalid_parameter"),
        ('{"all":true,"aoi_id":"x"}', {}, 400, "invalid_parameter"),
        ('{"all":true,"more":1}', {}, 400, "invalid_parameter"),
        ('{"all":1}', {}, 400, "invalid_parameter"),
        ("nonsense", {}, 400, "invalid_parameter"),
        ("[" * 900, {}, 400, "invalid_parameter"),
        ('{"aoi_id":"../x"}', {}, 400, "invalid_aoi_id"),
        ('{"aoi_id":"a%41"}', {}, 400, "invalid_aoi_id"),
        ('{"aoi_id":"\u00e9"}', {}, 400, "invalid_aoi_id"),
        ('{"all":true}' + " " * 2000, {}, 413, "body_not_allowed"),
        ('{"all":true}', {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ('{"all":true}', {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        ('{"all":true}', {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
        ('{"all":true}', {"X-Forwarded-For": "127.0.0.1"}, 403, "forbidden"),
        ('{"all":true}', {"Forwarded": "for=127.0.0.1"}, 403, "forbidden"),
        ('{"all":true}', {"Host": "evil.example"}, 400, "bad_request"),
        ('{"all":true}', {}, 200, None),
        ('{"aoi_id":"x"}', {"Content-Type": "application/json; charset=utf-8"}, 200, None),
    ],
)
async def test_purge_in_open_mode(
    play: Play, sent: str, headers: dict[str, str], status: int, code: str | None
) -> None:
    told = {"Content-Type": "application/json", **headers}
    async with play.session.post(play.url + "/admin/purge", data=sent.encode(), headers=told) as response:
        body = await response.json(content_type=None)
        assert (response.status, body.get("error", {}).get("code")) == (status, code)
    assert (await play.get("/admin/purge")).headers["Allow"] == "POST"


async def test_purge_with_teams_needs_the_admin_scope(vendor: MockVendor) -> None:
    flags = {
        **teams(vendor),
        "teams.root.token_sha256": [digest("root")],
        "teams.root.scopes": ["admin"],
        "ops.port": 0,
    }
    async with playing(flags) as play:
        for token, status in ((None, 401), (TOKEN, 403), ("root", 200)):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            url = play.ops_url + "/admin/purge"
            async with play.session.post(url, json={"all": True}, headers=headers) as response:
                assert response.status == status
        async with play.session.post(play.url + "/admin/purge", json={"all": True}) as response:
            assert response.status == 404
