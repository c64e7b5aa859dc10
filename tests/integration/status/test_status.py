"""`/status`: who may see it, that it tells what happens, and that those who look cost nobody anything."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from harness import PATIENCE, VENDOR_KEY, Play, playing, until
from multidict import CIMultiDict
from worker_group import Connection, working

from gateway.http.status_view import StatusView
from gateway.mock_vendor.server import MockVendor
from gateway.telemetry.status.document import Report

PATHS = ("/status", "/status.json", "/status/events")
ADMIN, CLIENT = "pgw_" + "a" * 43, "pgw_" + "b" * 43
PAGE = "/v0/aois/shown/assets"


def teams(vendor: MockVendor) -> dict[str, object]:
    digests = [[hashlib.sha256(token.encode()).hexdigest()] for token in (ADMIN, CLIENT)]
    return {
        "upstream.base_url": vendor.url,
        "teams.ops.token_sha256": digests[0], "teams.ops.scopes": ["admin"], "teams.app.token_sha256": digests[1],
    }  # fmt: skip


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


async def knock(play: Play, url: str, **headers: str) -> tuple[int, CIMultiDict[str]]:
    """Status and headers of an answer whose body may never end."""
    async with play.session.get(
        url, headers={name.replace("_", "-"): value for name, value in headers.items()}
    ) as reply:
        return reply.status, reply.headers.copy()


def told(data: bytes) -> Report:
    """The document, which has no field that is not promised either."""
    report = msgspec.json.decode(data, type=Report)
    assert msgspec.json.decode(data) == msgspec.to_builtins(report)
    return report


async def status(play: Play) -> Report:
    return told((await play.get("/status.json")).body)


class Viewer:
    """Somebody who looks at the events."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    async def event(self) -> tuple[Report, StatusView]:
        """The next document, and the words that go with it."""
        fields: list[tuple[bytes, bytes]] = []
        while b"page" not in [value for _, value in fields] or fields[-1][0]:
            line = await asyncio.wait_for(self._content.readline(), PATIENCE)
            assert line, "the stream has ended"
            name, _, value = line.rstrip(b"\n").partition(b": ")
            fields.append((name, value))
        *before, (first, document), _, (kind, name), (last, page), _ = fields
        assert [first, kind, name, last] == [b"data", b"event", b"page", b"data"]
        assert before in ([], [(b"retry", b"2000"), (b"", b"")])
        return told(document), msgspec.json.decode(page, type=StatusView)

    async def ended(self) -> bool:
        """Wait for the end; whether it came in good order, rather than by a cut."""
        try:
            await asyncio.wait_for(self._content.read(), PATIENCE)
        except aiohttp.ClientPayloadError:
            return False
        return True


@asynccontextmanager
async def viewing(play: Play) -> AsyncIterator[Viewer]:
    async with play.session.get(play.url + "/status/events") as reply:
        assert (reply.status, reply.headers["Content-Type"]) == (200, "text/event-stream")
        assert reply.headers["Cache-Control"] == "no-store"
        yield Viewer(reply.content)


async def test_with_teams_it_is_for_admins_and_a_browser_is_asked_for_a_token(vendor: MockVendor) -> None:
    async with playing(teams(vendor)) as play:
        for path in PATHS:
            url = play.url + path
            refused, headers = await knock(play, url)
            challenges = headers.getall("WWW-Authenticate")
            assert (refused, challenges[0]) == (401, "Bearer")
            assert challenges[1].startswith('Basic realm="')
            for sent, expected in (
                ({"Authorization": f"Bearer {ADMIN}"}, 200), ({"X_API_Key": ADMIN}, 200),
                ({"Authorization": basic(f"me:{ADMIN}")}, 200), ({"Authorization": basic(f":{ADMIN}")}, 200),
                ({"Authorization": basic(f"me:{CLIENT}")}, 403), ({"Authorization": CLIENT}, 403),
                ({"Authorization": basic(f"{ADMIN}:")}, 401), ({"Authorization": "Basic !"}, 401),
                ({"Authorization": basic("me:wrong")}, 401), ({"Authorization": "Basic /w=="}, 401),
                ({"Authorization": basic(f"me:{ADMIN}"), "X_API_Key": CLIENT}, 401),
            ):  # fmt: skip
                assert (await knock(play, url, **sent))[0] == expected, (path, sent)
            assert (await play.get(path, method="POST")).headers["Allow"] == "GET, HEAD"
        # Nowhere else is a browser made to ask.
        for path in (PAGE, "/admin/purge"):
            reply, headers = await knock(play, play.url + path, Authorization=basic(f"me:{ADMIN}"))
            assert (reply, headers.getall("WWW-Authenticate", [])) in ((401, ["Bearer"]), (405, []))
        landing = (await play.get("/")).body
        assert b'<a href="/status">' in landing
        assert b"scope <code>admin</code>" in landing


async def test_without_teams_it_is_for_this_machine(play: Play, vendor: MockVendor) -> None:
    for path in PATHS:
        assert (await knock(play, play.url + path))[0] == 200
        for header in ("X-Forwarded-For", "Forwarded", "Via"):
            assert (await knock(play, play.url + path, **{header: "127.0.0.1"}))[0] == 403
        assert (await knock(play, play.url + path, Host="evil.example"))[0] == 400
        head = await play.get(path, method="HEAD")
        assert (head.status, head.body) == (200, b"")
    assert b'<a href="/status">' in (await play.get("/")).body


async def test_on_the_operations_listener_it_is_for_all_who_reach_it(vendor: MockVendor) -> None:
    async with playing({**teams(vendor), "ops.port": 0}) as play:
        for path in PATHS:
            assert (await knock(play, play.url + path, Authorization=ADMIN))[0] == 404
            assert (await knock(play, play.ops_url + path))[0] == 200
        assert b"operations listener" in (await play.get("/")).body
        async with play.session.get(play.ops_url + "/") as reply:
            assert b'<a href="/status">' in await reply.read()


async def test_it_tells_what_happens_in_the_document_on_the_page_and_as_events(play: Play, vendor: MockVendor) -> None:
    aoi_id = vendor.aoi_ids[2]
    async with viewing(play) as viewer:
        before, _ = await viewer.event()
        assert before.verdict.sentence == "Healthy: nobody asked for a page in the last 5 minutes"
        for _ in range(20):
            await play.page(aoi_id)
        vendor.set_behaviour(status=500)
        failed = await play.page(aoi_id, "?offset=90", X_Request_Id="for-the-page")
        assert failed.status == 500
        now = await status(play)
        assert (now.requests.count, now.requests.outcomes["hit"], now.requests.outcomes["miss"]) == (21, 19, 1)
        assert (now.vendor.calls, now.vendor.calls_saved) == (len(vendor.requests), 20 - len(vendor.requests))
        assert now.busiest_aois[0].aoi_id == aoi_id
        assert now.hits.count == 19
        assert 0 < now.hits.p50 < now.misses.p50 < 30  # type: ignore[operator]
        [error] = now.errors
        assert (error.request_id, error.code, error.aoi_id) == ("for-the-page", "upstream_error", aoi_id)
        assert now.instance.name == socket.gethostname()
        while (told := await viewer.event())[0].requests.count < 21:
            pass
        report, view = told
        assert view.texts["requests"].startswith("21 (")
        assert view.verdict == report.verdict.sentence == now.verdict.sentence
    html = (await play.get("/status")).body.decode()
    assert '<dd id="without-vendor">90.5 %</dd>' in html
    assert "for-the-page" in html
    assert f">{now.verdict.sentence}</p>" in html
    assert VENDOR_KEY not in html


async def test_what_a_client_sends_is_text_on_the_page(vendor: MockVendor) -> None:
    vendor.set_behaviour(status=500)
    async with playing({"upstream.base_url": vendor.url}) as play:
        await play.page("a1", X_Request_Id="</script><script>alert(1)")
        await play.get("/v0/aois/<script>/assets")
        html = (await play.get("/status")).body
        assert html.count(b"<script") == 3
        assert b"alert(1)" not in html


async def test_events_are_made_once_for_all_and_for_nobody_not_at_all(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.http.server_sent_events._EVERY_SECONDS", 0.2)
    broadcast = play.gateway._status_pages._broadcast
    assert broadcast._making is None
    async with AsyncExitStack() as stack:
        began = time.monotonic()
        viewers = [await stack.enter_async_context(viewing(play)) for _ in range(20)]
        first = [await viewer.event() for viewer in viewers]
        second = [await viewer.event() for viewer in viewers]
        made = {report.instance.time for report, _ in first + second}
        assert len(made) <= 1 + (time.monotonic() - began) / 0.2  # one each 0.2 s, for 20 viewers
        refused = await play.get("/status/events")
        assert (refused.status, refused.code, refused.headers["Retry-After"]) == (503, "overloaded", "5")
        metrics = await play.metrics()
        assert metrics["gateway_http_requests_in_flight"] == 21  # they, and the scrape
        assert (
            'gateway_http_requests_total{code="200",method="GET",route="status_events",team="anonymous"}' not in metrics
        )
    await until(lambda: broadcast._making is None)
    await play.settled()
    metrics = await play.metrics()
    assert metrics['gateway_http_requests_total{code="200",method="GET",route="status_events",team="anonymous"}'] == 20
    # The refusal alone has a latency.
    assert metrics['gateway_http_request_duration_seconds_count{cache="",route="status_events"}'] == 1
    assert metrics['gateway_http_response_bytes_total{cache="",route="status_events"}'] > 20 * 2000
    async with viewing(play) as viewer:
        await viewer.event()
    lines = [line for line in play.log_lines() if line.get("route") == "status_events"]
    assert len([line for line in lines if line["status"] == 200 and line["duration_ms"] > 100]) == 20


async def test_a_viewer_that_does_not_read_is_let_go_and_holds_nothing_up(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.http.server_sent_events._EVERY_SECONDS", 0.001)
    monkeypatch.setattr("gateway.http.server_sent_events._SLOW_SECONDS", 0.2)
    broadcast = play.gateway._status_pages._broadcast
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", play.port))
        stuck.sendall(b"GET /status/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: broadcast._viewers == 1)
        async with viewing(play) as viewer:
            await until(lambda: broadcast._viewers == 2)
            while broadcast._viewers == 2:
                await viewer.event()
                assert (await play.get("/healthz")).status == 200
            await viewer.event()
        stuck.settimeout(PATIENCE)
        held = b""
        while data := stuck.recv(65_536):
            held += data
        assert 0 < len(held) < 1_000_000
        assert not held.endswith(b"0\r\n\r\n")  # it was cut, not told to the end


async def test_a_failure_while_making_events_ends_them_and_is_logged(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with viewing(play) as viewer:
        await viewer.event()
        monkeypatch.setattr("gateway.http.status_pages.view_of", lambda _: 1 / 0)  # a planted mistake
        assert await viewer.ended()
    assert (await play.get("/status/events")).status == 503
    assert b"ZeroDivisionError" in await play.said()


def configuration(vendor: MockVendor, more: str = "") -> str:
    return f"""
[upstream]
base_url = "{vendor.url}"
api_key = "{VENDOR_KEY}"
[cache.lifetimes]
settled = 60
{more}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="on Windows one process serves")
async def test_workers_tell_as_one_which_configuration_is_live_and_end_with_those_who_look(
    vendor: MockVendor, tmp_path: Path
) -> None:
    vendor.set_assets("shown", [{"id": "one", "status": "success"}])
    file = tmp_path / "gateway.toml"
    file.write_text(configuration(vendor), encoding="utf-8")
    environ = {"GATEWAY_CONFIG": str(file), "GATEWAY_UPSTREAM__BASE_URL": vendor.url}
    async with working(2, **environ) as group:
        connections = await group.connect_to_all()
        for times, connection in enumerate(connections.values(), start=2):
            for _ in range(times):
                assert (await connection.get(PAGE)).status == 200

        async def reports() -> list[Report]:
            return [told((await connection.get("/status.json")).body) for connection in connections.values()]

        async def reload(text: str, *, successful: bool, since: float) -> Report:
            """Write another configuration, and wait until all workers have judged it."""
            file.write_text(text, encoding="utf-8")
            group.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(PATIENCE):
                while True:
                    one, other = await reports()
                    last = one.configuration.last_reload
                    judged = last is not None and last.at > since and last.successful == successful
                    if judged and one.configuration.workers_agree and other.configuration == one.configuration:
                        return one

        one, other = await reports()
        for report in (one, other):
            assert (report.requests.count, report.instance.workers, report.memory.entries) == (5, 2, 2)
            assert (report.vendor.calls, report.requests.outcomes["hit"]) == (2, 3)
            assert report.vendor.most_in_flight == 128
        live = one.configuration
        assert (live.file, live.last_reload, live.workers_agree) == (str(file), None, True)

        changed = await reload(configuration(vendor, "grace = 5"), successful=True, since=live.loaded_at)
        assert changed.configuration.digest != live.digest
        assert changed.configuration.loaded_at > live.loaded_at
        refused = await reload(
            configuration(vendor, 'grace = "x"'), successful=False, since=changed.configuration.loaded_at
        )
        kept, last = refused.configuration, refused.configuration.last_reload
        assert (kept.digest, kept.loaded_at) == (changed.configuration.digest, changed.configuration.loaded_at)
        assert last is not None
        assert "gateway.toml:7: cache.lifetimes.grace" in (last.why or "")
        assert [finding.code for finding in refused.verdict.findings] == ["reload_refused"]
        back = await reload(configuration(vendor), successful=True, since=last.at)
        assert back.configuration.digest == live.digest
        assert back.verdict.level == "healthy"

        [killed, asked] = connections
        os.kill(killed, signal.SIGKILL)
        await until(lambda: killed not in (pids := group.pids()) and len(pids) == 2, seconds=20)
        report = told((await connections[asked].get("/status.json")).body)
        assert (report.requests.count, report.memory.entries) == (5, 1)  # it had told its counts when somebody looked

        viewer = Connection(*await asyncio.open_connection("127.0.0.1", group.port))
        viewer.writer.write(b"GET /status/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"text/event-stream" in await viewer._reader.readuntil(b"\r\n\r\n")
        assert b'"workers":2' in await viewer._reader.readuntil(b"event: page")
        began = time.monotonic()
        assert await group.end() == 0
        assert time.monotonic() - began < 4
        assert (await viewer._reader.read()).endswith(b"0\r\n\r\n")
        viewer.writer.close()
        assert json.dumps(VENDOR_KEY)[1:-1] not in "".join(group.lines)
