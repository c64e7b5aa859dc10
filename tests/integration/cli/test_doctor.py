"""`doctor`: what it tries, what it says of it, and that it neither hangs nor tells a secret."""

from __future__ import annotations

import asyncio
import email.utils
import re
import resource
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import trustme
from aiohttp import web
from certificates import certificate_of_a_lenient_authority
from harness import VENDOR_KEY, nobody_at, playing, run
from real_redis import RealRedis, RealSentinel

from gateway.app.run import key_ring
from gateway.cli.main import main
from gateway.config.loading import load
from gateway.core.clock import SystemClock
from gateway.doctor.network import why
from gateway.doctor.report import Finding, exit_code, show
from gateway.doctor.run import check_services
from gateway.mock_vendor.server import MockVendor

PASSWORD = "r3dis-pass-word"
GOOD_MEMORY = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
# So that it is the reason, and no haste of ours, when something does not answer.
PATIENT = {"upstream.connect_timeout": 5.0, "cache.redis_timeout": 2.0, "server.port": 0, "server.max_connections": 10}


class Found(dict[str, Finding]):
    """Findings by name, and what they come to."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__({finding.name: finding for finding in findings})
        self.names = [finding.name for finding in findings]
        self.code = exit_code(findings)
        assert len(self) == len(findings)
        assert all(finding.hint for finding in findings if finding.state in {"warn", "FAIL"})
        text = repr(findings)
        for secret in (VENDOR_KEY, PASSWORD):
            assert secret not in text

    def states(self, state: str) -> list[str]:
        return [finding.name for finding in self.values() if finding.state == state]


async def look(url: str, *, aoi_id: str | None = None, **flags: Any) -> Found:
    """Examine a configuration with this vendor. Flags have __ for dots."""
    named = {name.replace("__", "."): value for name, value in flags.items()}
    usual = {"upstream.api_key": VENDOR_KEY, "upstream.base_url": url, **PATIENT}
    settings = load(environ={}, flags={**usual, **named}, use_file=False).settings
    async with asyncio.timeout(60):  # a net; what takes how long is looked at where it matters
        return Found(await check_services(settings, key_ring(settings), clock=SystemClock(), aoi_id=aoi_id))


Answer = Callable[[web.BaseRequest], web.Response]


@asynccontextmanager
async def serving(answer: Answer, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A vendor of our own."""

    async def handle(request: web.BaseRequest) -> web.Response:
        return answer(request)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"{'http' if tls is None else 'https'}://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def saying(data: bytes | None) -> AsyncIterator[int]:
    """A port that says this to whoever connects, whatever is asked; None: nothing at all."""
    writers = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        if data is not None:
            await reader.read(65_536)
            writer.write(data)
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await server.wait_closed()


def unknown_aoi(_: web.BaseRequest) -> web.Response:
    return web.json_response({"error": {"code": "not_found", "message": "", "details": None}}, status=404)


async def test_all_is_well_and_said_in_order(vendor: MockVendor) -> None:
    found = await look(vendor.url)
    assert (found.code, found.states("FAIL"), found.states("warn")) == (0, [], [])
    assert found.names == [
        "clock", "redis", "vendor DNS", "vendor connect", "vendor TLS", "vendor key", "listener", "file descriptors",
    ]  # fmt: skip
    (asked,) = vendor.requests
    assert asked.target == "/v0/aois/00000000-0000-0000-0000-000000000000/assets?offset=0&limit=1"
    assert dict(asked.headers)["Authorization"] == VENDOR_KEY


async def test_a_real_aoi_may_be_tried(vendor: MockVendor) -> None:
    found = await look(vendor.url, aoi_id=vendor.aoi_ids[0])
    assert found["vendor key"].state == "ok"
    assert vendor.requests[0].target.startswith(f"/v0/aois/{vendor.aoi_ids[0]}/")


# --- the key -------------------------------------------------------------------------------------------------------


async def test_a_key_that_is_refused_is_tried_the_other_way_once(vendor: MockVendor) -> None:
    found = await look(vendor.url, upstream__api_key="wrong", upstream__previous_api_key=VENDOR_KEY)
    assert found.code == 1
    assert found["vendor key"].found == "refused (401)"
    assert found["previous key"] == Finding("ok", "previous key", "still accepted")
    sent = [dict(request.headers)["Authorization"] for request in vendor.requests]
    assert sent == ["wrong", "Bearer wrong", VENDOR_KEY]


async def test_a_previous_key_that_has_ended_is_a_word_and_no_failure(vendor: MockVendor) -> None:
    found = await look(vendor.url, upstream__previous_api_key="old-key")
    assert (found.code, found["previous key"].state) == (0, "warn")


@pytest.mark.parametrize("scheme", ["raw", "bearer"])
async def test_the_other_scheme_is_named_when_that_one_works(scheme: str) -> None:
    def picky(request: web.BaseRequest) -> web.Response:
        bearer = request.headers["Authorization"] == f"Bearer {VENDOR_KEY}"
        return web.Response(status=401) if bearer == (scheme == "bearer") else unknown_aoi(request)

    other = "raw" if scheme == "bearer" else "bearer"
    async with serving(picky) as url:
        found = await look(url, upstream__auth_scheme=scheme)
    assert (found.code, found["vendor key"].hint) == (1, f'upstream.auth_scheme = "{other}"')


@pytest.mark.parametrize(
    ("behaviour", "state", "words"),
    [
        ({"status": 403}, "FAIL", "403: the key is refused, or known"),
        ({"status": 429, "retry_after": 7}, "warn", "limits our rate"),
        ({"status": 400}, "warn", "the vendor answers 400"),
        ({"status": 500}, "FAIL", "in trouble (500)"),
        ({"status": 404, "garbage": "<html>"}, "FAIL", "404 without"),
        ({"garbage": "<html>"}, "FAIL", "no listing"),
        ({"garbage": True}, "FAIL", "no listing"),
        ({"redirect_to": "https://evil.example/"}, "FAIL", "redirects (302)"),
        ({"truncate": 3}, "FAIL", "cannot be read: ClientPayloadError"),
    ],
)
async def test_what_an_answer_says_of_the_key(
    vendor: MockVendor, behaviour: dict[str, Any], state: str, words: str
) -> None:
    vendor.set_behaviour(**behaviour)
    found = await look(vendor.url)
    assert (found["vendor key"].state, found.code) == (state, 1 if state == "FAIL" else 0)
    assert words in found["vendor key"].found
    if "retry_after" in behaviour:
        assert found["vendor key"].hint == "try again in 7 s"


async def test_403_for_an_aoi_that_was_named_is_about_that_aoi(vendor: MockVendor) -> None:
    vendor.set_behaviour(status=403)
    found = await look(vendor.url, aoi_id="mine")
    assert found["vendor key"].found == "403: the key is refused, or may not read mine"


async def test_a_vendor_that_hangs_is_unreachable(vendor: MockVendor) -> None:
    vendor.set_behaviour(hang=True)
    found = await look(vendor.url, upstream__attempt_timeout=0.5, upstream__previous_api_key="old-key")
    assert (found.code, found["vendor key"].found) == (4, "no complete answer within 0.5 s")
    assert (found["previous key"].state, found["clock"].state) == ("skip", "skip")


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 500])
async def test_a_key_that_is_echoed_is_not_told(vendor: MockVendor, status: int) -> None:
    def echo(request: web.BaseRequest) -> web.Response:
        key = request.headers["Authorization"]
        error = {"error": {"code": key, "message": f"bad key {key}", "details": {key: key}}}
        page = {"assets": [{"id": key}], "pagination": {"total": 1, "offset": 0, "limit": 1}}
        headers = {"Location": f"https://h/{key}", "Retry-After": key}
        return web.json_response(page if status == 200 else error, status=status, reason=key, headers=headers)

    async with serving(echo) as url:
        found = await look(url)  # which looks for it in all that is told
    assert found["vendor key"].state == ("ok" if status == 404 else "FAIL")


@pytest.mark.parametrize(("data", "code"), [(b"hello\r\n\r\n", 1), (b"", 4)])
async def test_what_speaks_no_http(data: bytes, code: int) -> None:
    async with saying(data) as port:
        found = await look(f"http://127.0.0.1:{port}")
    assert (found["vendor key"].state, found.code) == ("FAIL", code)


# --- the way -------------------------------------------------------------------------------------------------------


async def test_a_closed_port_is_unreachable_and_the_rest_is_skipped() -> None:
    with nobody_at() as port:
        found = await look(f"https://127.0.0.1:{port}")
    assert found.code == 4
    assert found["vendor connect"].found == f"127.0.0.1:{port}: connection refused"
    assert found["vendor TLS"].found == "because vendor connect failed"
    assert (found["vendor key"].state, found["clock"].state, found["listener"].state) == ("skip", "skip", "ok")


async def test_a_name_that_is_none() -> None:
    found = await look("https://nobody.invalid")
    assert (found.code, found["vendor DNS"].state) == (4, "FAIL")
    assert found["vendor connect"].state == "skip"


def certificate(authority: trustme.CA, host: str = "localhost", **options: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host, **options).configure_cert(context)
    return context


async def test_tls_and_each_of_its_failures(tmp_path: Path) -> None:
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    day, now = timedelta(days=1), datetime.now(UTC)
    async with serving(unknown_aoi, tls=certificate(authority)) as url:
        found = await look(url, upstream__ca_file=str(file))
        assert (found.code, found["vendor TLS"].state, found["vendor key"].state) == (0, "ok", "ok")
        assert "more days" in found["vendor TLS"].found
        found = await look(url)
        assert "authority that is not known" in found["vendor TLS"].found
        assert "upstream.ca_file" in found["vendor TLS"].hint
        assert (found.code, found["vendor key"].state) == (1, "skip")
    async with serving(unknown_aoi, tls=certificate(authority, "other.example")) as url:
        found = await look(url, upstream__ca_file=str(file))
        assert (found.code, found["vendor TLS"].found) == (1, "the certificate is for another host than localhost")
    async with serving(unknown_aoi, tls=certificate(authority, not_before=now - 3 * day, not_after=now - day)) as url:
        found = await look(url, upstream__ca_file=str(file))
        assert (found.code, found["vendor TLS"].found) == (1, "the certificate has expired")
    async with serving(unknown_aoi, tls=certificate(authority, not_before=now + day, not_after=now + 3 * day)) as url:
        found = await look(url, upstream__ca_file=str(file))
        assert (found.code, found["vendor TLS"].found) == (1, "the certificate is not valid yet")
    async with serving(unknown_aoi, tls=certificate(authority, not_after=now + 5.5 * day)) as url:
        found = await look(url, upstream__ca_file=str(file))
        assert (found.code, found["vendor TLS"].state) == (0, "warn")
        assert "good for 5 more days" in found["vendor TLS"].found


async def test_a_certificate_that_violates_rfc_5280_is_accepted_with_a_warning(tmp_path: Path) -> None:
    authority, context = certificate_of_a_lenient_authority(tmp_path)
    async with serving(unknown_aoi, tls=context) as url:
        found = await look(url, upstream__ca_file=str(authority))
    assert (found.code, found["vendor TLS"].state, found["vendor key"].state) == (0, "ok", "ok")
    assert found["vendor certificate"].state == "warn"
    assert "violates RFC 5280" in found["vendor certificate"].found
    assert "basicConstraints" in found["vendor certificate"].hint


async def test_a_port_without_tls(vendor: MockVendor) -> None:
    found = await look(vendor.url.replace("http:", "https:"))
    assert (found.code, found["vendor TLS"].found) == (1, "what answers is no TLS")


async def test_a_port_that_is_silent_or_hangs_up_instead_of_tls() -> None:
    async with saying(None) as port:
        found = await look(f"https://127.0.0.1:{port}", upstream__connect_timeout=0.5)
        assert (found.code, found["vendor TLS"].found) == (4, "no answer to the handshake in time")
    async with saying(b"") as port:
        found = await look(f"https://127.0.0.1:{port}")
        assert found["vendor TLS"].found == "the connection was cut during the handshake"


async def test_a_proxy_is_what_is_connected_to(vendor: MockVendor) -> None:
    # The stand-in vendor answers as a proxy would.
    proxy = vendor.url.replace("://", f"://user:{PASSWORD}@")
    found = await look("http://vendor.example", upstream__proxy=proxy)
    assert found.names[2:4] == ["proxy DNS", "proxy connect"]
    assert "through which all calls go" in found["proxy connect"].found
    assert (found["vendor TLS"].state, found["vendor key"].state, found.code) == ("warn", "ok", 0)
    assert vendor.requests[0].target.startswith("http://vendor.example/v0/aois/")
    found = await look("https://vendor.example", upstream__proxy=proxy)
    assert (found.code, found["vendor TLS"].state) == (1, "FAIL")
    assert found["vendor TLS"].found.startswith("the proxy makes no tunnel: it answers ")
    with nobody_at() as port:
        found = await look("https://vendor.example", upstream__proxy=f"http://127.0.0.1:{port}")
    assert (found.code, found["proxy connect"].state) == (4, "FAIL")


async def test_tls_through_a_tunnel(tmp_path: Path) -> None:
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    heads = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            writer.write(piece)
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        there, back = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    async with serving(unknown_aoi, tls=certificate(authority)) as url:
        server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        proxy = f"http://user:{PASSWORD}@127.0.0.1:{port}"
        found = await look(url, upstream__ca_file=str(file), upstream__proxy=proxy)
        server.close()
    assert (found.code, found["vendor TLS"].state, found["vendor key"].state) == (0, "ok", "ok")
    assert len(heads) == 3  # the handshake, the same with strict verification, and the call
    assert all(b"Proxy-Authorization: Basic " in head for head in heads)


# --- clocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "state", "words"),
    [
        (0, "ok", "as that of the vendor"),
        (3.5, "warn", "behind that of the vendor"),
        (3600, "FAIL", "behind that of the vendor"),
        (-3600, "FAIL", "ahead of that of the vendor"),
    ],
)
async def test_a_clock_that_is_off(ahead: float, state: str, words: str) -> None:
    def dated(request: web.BaseRequest) -> web.Response:
        answer = unknown_aoi(request)
        answer.headers["Date"] = email.utils.formatdate(time.time() + ahead, usegmt=True)
        return answer

    async with serving(dated) as url:
        found = await look(url)
    clock = found["clock"]
    if ahead != 3.5:  # a machine that stands still for two seconds takes the certainty away
        assert (clock.state, found.code) == (state, 1 if state == "FAIL" else 0)
        assert words in clock.found
    else:
        assert clock.state in {"ok", "warn"}
    assert ("NTP" in clock.hint) == (clock.state != "ok")


# --- Redis ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def redis_with(directory: Path, *options: str) -> AsyncIterator[RealRedis]:
    server = RealRedis(directory, *options)
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        server.kill()


async def test_a_good_redis_and_nothing_is_left_behind(vendor: MockVendor, tmp_path: Path) -> None:
    async with redis_with(tmp_path, *GOOD_MEMORY) as server:
        found = await look(vendor.url, cache__url=server.url.replace("127.0.0.1", "localhost"))
        client = redis.asyncio.Redis(port=server.port)
        keys = await client.keys("*")
        await client.aclose()
    assert (found.code, found.states("FAIL"), found.states("warn")) == (0, [], [])
    assert found.names[:8] == [
        "clock", "clock and Redis", "redis DNS", "redis connect", "redis login", "redis version", "redis rights",
        "redis memory",
    ]  # fmt: skip
    assert (found["redis memory"].found, found["clock and Redis"].state) == ("at most 64 MiB, allkeys-lru", "ok")
    assert keys == []


async def test_memory_without_bound_is_a_warning(vendor: MockVendor, real_redis: RealRedis) -> None:
    found = await look(vendor.url, cache__url=real_redis.url, cache__redis_timeout=1e-6)
    assert found.code == 0
    assert found["redis memory"].found == "maxmemory is not set and maxmemory-policy is noeviction"
    assert (found["redis memory"].state, found["redis round trip"].state) == ("warn", "warn")


async def test_a_redis_that_is_stopped_and_one_that_is_gone(vendor: MockVendor, real_redis: RealRedis) -> None:
    real_redis.signal(signal.SIGSTOP)
    began = time.monotonic()
    found = await look(vendor.url, cache__url=real_redis.url)
    real_redis.signal(signal.SIGCONT)
    assert time.monotonic() - began < 30
    assert (found.code, found["redis login"].found) == (4, "no answer within 3 s")
    assert (found["redis memory"].state, found["vendor key"].state) == ("skip", "ok")
    real_redis.kill()
    found = await look(vendor.url, cache__url=real_redis.url)
    assert (found.code, found["redis connect"].state) == (4, "FAIL")
    found = await look(vendor.url, cache__url="redis://nobody.invalid")
    assert (found.code, found["redis DNS"].state) == (4, "FAIL")


async def test_passwords_and_rights(vendor: MockVendor, real_redis: RealRedis) -> None:
    admin = redis.asyncio.Redis(port=real_redis.port)
    limited = real_redis.url.replace("://", f"://limited:{PASSWORD}@")
    await admin.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "limited", "on", f">{PASSWORD}", "~else:*", "+ping", "+info"
    )
    found = await look(vendor.url, cache__url=limited.replace(PASSWORD, "wrong-one"))
    assert (found.code, found["redis login"].state, found["redis rights"].state) == (1, "FAIL", "skip")
    found = await look(vendor.url, cache__url=limited)
    assert (found.code, found["redis login"].state, found["redis rights"].state) == (1, "ok", "FAIL")
    assert "SET (NOPERM)" in found["redis rights"].found
    assert "SUBSCRIBE (NOPERM)" in found["redis rights"].found
    assert found["clock and Redis"].state == "skip"
    hint = re.search("`(.*)`", found["redis rights"].hint)
    assert hint is not None
    words = hint[1].replace("USER ", "limited ").replace("SETlimited", "SETUSER").split(" ")
    await admin.execute_command(  # type: ignore[no-untyped-call]
        *words
    )  # the hint mends
    await admin.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "limited", "resetkeys", "~pixxel-gateway:*"
    )
    found = await look(vendor.url, cache__url=limited)
    assert (found.code, found["redis rights"].state) == (0, "ok")
    await admin.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "limited", "-hset", "-info", "resetchannels", "&pixxel-gateway:*"
    )
    found = await look(vendor.url, cache__url=limited)
    assert (found.code, found["redis version"].state, found["redis memory"].state) == (1, "skip", "skip")
    assert re.fullmatch(r"refused: INFO \(NOPERM\), HSET in scripts \([A-Z]+\)", found["redis rights"].found)
    await admin.aclose()


async def test_a_replica_and_a_full_redis(vendor: MockVendor, real_redis: RealRedis) -> None:
    admin = redis.asyncio.Redis(port=real_redis.port)
    await admin.config_set("maxmemory", "1")
    found = await look(vendor.url, cache__url=real_redis.url)
    assert "SET (OOM)" in found["redis rights"].found
    assert "allkeys-lru" in found["redis rights"].hint
    await admin.config_set("maxmemory", "0")
    with nobody_at() as port:
        await admin.execute_command(  # type: ignore[no-untyped-call]
            "REPLICAOF", "127.0.0.1", str(port)
        )
        found = await look(vendor.url, cache__url=real_redis.url)
    await admin.aclose()
    assert found.code == 1
    assert "SET (READONLY)" in found["redis rights"].found
    assert "master" in found["redis rights"].hint


async def test_a_cluster_and_who_is_taken_for_one(
    vendor: MockVendor, real_cluster: RealRedis, real_redis: RealRedis
) -> None:
    found = await look(vendor.url, cache__url=real_cluster.url)
    assert (found.code, found.states("FAIL")) == (0, [])
    found = await look(vendor.url, cache__url=real_cluster.url.replace("redis+cluster", "redis"))
    assert (found.code, found["redis version"].hint) == (1, "cache.url has to begin redis+cluster://")
    found = await look(vendor.url, cache__url=real_redis.url.replace("redis", "redis+cluster").removesuffix("/0"))
    assert (found.code, found["redis login"].found) == (1, "it is no Redis Cluster that is whole")


async def test_sentinel_is_asked_for_the_master(vendor: MockVendor, real_redis: RealRedis, tmp_path: Path) -> None:
    sentinel = RealSentinel(tmp_path, real_redis)
    await asyncio.to_thread(sentinel.start)
    try:
        with nobody_at() as port:
            hosts = f"127.0.0.1:{sentinel.port},127.0.0.1:{port}"
            found = await look(vendor.url, cache__url=f"redis+sentinel://{hosts}/mymaster/0")
        assert (found.code, found["redis connect"].state, found["redis rights"].state) == (0, "warn", "ok")
        found = await look(vendor.url, cache__url=f"redis+sentinel://127.0.0.1:{sentinel.port}/other")
        assert (found.code, found["redis login"].found) == (1, "no Sentinel knows a master of that name")
        found = await look(vendor.url, cache__url=f"redis://127.0.0.1:{sentinel.port}")
        assert (found.code, found["redis version"].hint) == (1, "cache.url has to begin redis+sentinel://")
    finally:
        sentinel.kill()


async def test_sentinel_login_name_and_master_are_told_apart(
    vendor: MockVendor, real_redis: RealRedis, tmp_path: Path
) -> None:
    sentinel = RealSentinel(tmp_path, real_redis, password=PASSWORD)
    await asyncio.to_thread(sentinel.start)
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster"
    mine = f"?sentinel_password={PASSWORD}"
    try:
        found = await look(vendor.url, cache__url=url)
        assert (found.code, found["redis login"].found) == (1, "the Sentinels refuse the login (NOAUTH)")
        found = await look(vendor.url, cache__url=f"{url}?sentinel_password=wrong")
        assert (found.code, found["redis login"].found) == (1, "the Sentinels refuse the login (WRONGPASS)")
        assert "sentinel_password" in found["redis login"].hint
        found = await look(vendor.url, cache__url=url + mine)
        assert (found.code, found["redis rights"].state) == (0, "ok")
        found = await look(vendor.url, cache__url=url.replace("mymaster", "other") + mine)
        assert (found.code, found["redis login"].found) == (1, "no Sentinel knows a master of that name")
        admin = redis.asyncio.Redis(port=sentinel.port, password=PASSWORD)
        await admin.execute_command(  # type: ignore[no-untyped-call]
            "ACL", "SETUSER", "poor", "on", f">{PASSWORD}", "+ping"
        )
        await admin.aclose()
        found = await look(vendor.url, cache__url=f"{url}{mine}&sentinel_username=poor")
        assert (found.code, found["redis login"].found) == (1, "the Sentinels refuse SENTINEL MASTERS (NOPERM)")
        real_redis.kill()
        found = await look(vendor.url, cache__url=url + mine)
        assert (found.code, found["redis login"].state) == (4, "FAIL")
        assert "master" in found["redis login"].found
    finally:
        sentinel.kill()


async def test_what_is_no_redis(vendor: MockVendor) -> None:
    found = await look(vendor.url, cache__url=vendor.url.replace("http", "redis"))
    assert (found.code, found["redis login"].state) == (1, "FAIL")
    found = await look(vendor.url, cache__url=vendor.url.replace("http", "rediss"))
    assert (found.code, found["redis TLS"].found) == (1, "what answers is no TLS")


async def test_redis_with_tls(vendor: MockVendor, tmp_path: Path) -> None:
    """TLS is ended by a relay of our own: not every build of Redis has it."""
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    async with redis_with(tmp_path, *GOOD_MEMORY) as server:

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while piece := await reader.read(65_536):
                writer.write(piece)
            writer.close()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

        listener = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=certificate(authority))
        url = f"rediss://localhost:{listener.sockets[0].getsockname()[1]}/0"
        found = await look(vendor.url, cache__url=f"{url}?ssl_ca_certs={file}")
        assert (found.code, found["redis TLS"].state, found["redis rights"].state) == (0, "ok", "ok")
        found = await look(vendor.url, cache__url=url)
        assert "authority that is not known" in found["redis TLS"].found
        assert "ssl_ca_certs" in found["redis TLS"].hint
        listener.close()


# --- this machine, and the command ---------------------------------------------------------------------------------


async def test_the_port_is_free_or_a_gateways_or_somebody_elses(vendor: MockVendor) -> None:
    async with playing({"upstream.base_url": vendor.url}) as play:
        found = await look(vendor.url, server__port=play.port)
    assert found["listener"].state == "ok"
    assert "serves" in found["listener"].found
    async with serving(lambda _: web.Response(text="ok")) as url:
        found = await look(vendor.url, server__port=int(url.rpartition(":")[2]))
    assert (found.code, found["listener"].state) == (1, "FAIL")
    found = await look(vendor.url, server__host="192.0.2.1", server__port=8080, auth__mode="open", ops__port=0)
    assert (found.code, found["listener"].state, found["ops listener"].state) == (1, "FAIL", "ok")
    assert "server.host" in found["listener"].hint


async def test_descriptors(vendor: MockVendor) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = await look(vendor.url, server__max_connections=max(10, soft) + 1)
    assert (found.code, found["file descriptors"].state) == (0, "warn")
    assert "ulimit -n" in found["file descriptors"].hint


def test_several_errors_are_one_reason() -> None:
    refused = "[Errno 111] Connect call failed ('127.0.0.1', 1)"
    assert why(OSError(f"Multiple exceptions: {refused}, {refused}")) == "connection refused"
    assert why(OSError(f"Multiple exceptions: {refused}, [Errno 113] x")) == "OSError"
    assert why(socket.gaierror(-2, "Name or service not known")) == "name or service not known"
    assert why(TimeoutError()) == "no answer in time"


async def test_the_command_prints_lines_and_tells_by_its_code(vendor: MockVendor, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(VENDOR_KEY, encoding="utf-8")
    environ = {
        "GATEWAY_UPSTREAM__API_KEY_FILE": str(key),
        "GATEWAY_UPSTREAM__BASE_URL": vendor.url,
        "GATEWAY_SERVER__PORT": "0",
    }
    told = await asyncio.to_thread(run, "doctor", environ=environ, cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("ok   configuration: built-in defaults can be used\nok   clock: ")
    assert "\x1b" not in told.stdout
    key.write_text("another-key", encoding="utf-8")
    told = await asyncio.to_thread(run, "doctor", "--aoi", vendor.aoi_ids[0], environ=environ, cwd=tmp_path)
    assert told.returncode == 1
    assert re.search(r"\nFAIL vendor key: refused \(401\)\n {5}hint: put the right key ", told.stdout)
    assert "another-key" not in told.stdout + told.stderr


def test_a_configuration_that_cannot_be_used_is_told_as_check_tells_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for environ in (
        {},
        {"GATEWAY_UPSTREAM__API_KEY": "k", "GATEWAY_SERVER__PROT": "1"},
        {"GATEWAY_UPSTREAM__API_KEY": "k", "GATEWAY_CACHE__URL": "redis+sentinel://u:s3cret@h"},
    ):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            assert main(["doctor"]) == 3
            told = capsys.readouterr()
            assert main(["check"]) == 3
        assert told.out != ""
        assert (told.out, told.err) == capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "--aoi", "a b"])


def test_a_terminal_gets_colours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import io  # noqa: PLC0415

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, file = Terminal(), io.StringIO()
    findings = [Finding("FAIL", "x [bold]", "y " * 90, "z")]
    show(findings, terminal)
    show(findings, file)
    assert file.getvalue() == f"FAIL x [bold]: {'y ' * 90}\n     hint: z\n"
    assert "\x1b[" in terminal.getvalue()
    assert re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()) == file.getvalue()
