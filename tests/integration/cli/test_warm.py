"""`warm`: what it asks the gateway for, at which pace, and what it says of it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from aiohttp import web
from harness import ROOT, Play, clean_environment, command, nobody_at, playing, run, spawn, until

from gateway.app.admin_client import GatewayUnreachable
from gateway.cli.main import main
from gateway.cli.progress import shown
from gateway.cli.warm import Pace, WarmSummary, ids_in, warm
from gateway.core.clock import SystemClock
from gateway.mock_vendor.server import MockVendor

# What every play here but those about pace and patience is run with.
QUICK: dict[str, Any] = {"rate": 10_000.0}
TOKEN = "pgw_" + "a" * 43


class HastyClock(SystemClock):
    """Waits for nothing, and remembers how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return super().monotonic() + sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture
async def play(vendor: MockVendor) -> AsyncIterator[Play]:
    """A gateway that fetches nothing of its own accord, so that every call at the vendor is ours."""
    async with playing({"upstream.base_url": vendor.url, "cache.prefetch": 0}) as running:
        yield running


class Server:
    """Answers every request with the next of these responses, and with the last one from then on."""

    def __init__(self, *responses: dict[str, Any] | None) -> None:
        self.responses = list(responses)
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.Response:
        told = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        if told is None:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(**(told or {}))

    async def __aenter__(self) -> Self:
        self.runner = web.ServerRunner(web.Server(self.answer))
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()


def assets(count: int) -> list[dict[str, Any]]:
    return [{"id": f"asset-{index}", "status": "success"} for index in range(count)]


def asked(vendor: MockVendor) -> list[tuple[str, int, int]]:
    """AOI, offset and limit of every request that came to the vendor."""
    found = []
    for request in vendor.requests:
        parts = urlsplit(request.target)
        query = parse_qs(parts.query)
        found.append((parts.path.split("/")[3], int(query["offset"][0]), int(query["limit"][0])))
    return found


async def commanded(play: Play, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """`pixxel-gateway warm`, which takes the play's gateway for the configured listener."""
    environ = clean_environment({"GATEWAY_SERVER__PORT": str(play.port)})
    return await asyncio.to_thread(
        subprocess.run, command("warm", *arguments),
        input=text, capture_output=True, text=True, timeout=30, check=False, env=environ,
    )  # fmt: skip


async def test_every_source_is_read_and_every_page_asked_for_once(
    play: Play, vendor: MockVendor, tmp_path: Path
) -> None:
    for aoi_id, count in {"a": 250, "b": 100, "c": 0, "d": 1, "e": 101}.items():
        vendor.set_assets(aoi_id, assets(count))
    file = tmp_path / "aois"
    file.write_text("\ufeffa\n\n# b2\nd  # a comment\n", encoding="utf-8")
    arguments = ["--aoi", "a", "b", "--aoi", "c", "a", "--file", str(file), "-", "--rate", "1000"]
    told = await commanded(play, *arguments, text="e\r\nb\r\n")
    assert (told.returncode, told.stderr) == (0, "")
    assert re.fullmatch(r"warmed 5 of 5 AOIs: 8 pages, 8 fetched, 0 hits, in \d+\.\d s\n", told.stdout)
    expected = [("a", 0), ("a", 100), ("a", 200), ("b", 0), ("c", 0), ("d", 0), ("e", 0), ("e", 100)]
    assert sorted(asked(vendor)) == [(aoi_id, offset, 100) for aoi_id, offset in expected]
    told = await commanded(play, "--file", str(file), "--aoi", "a", "b", "c", "-", text="e\n")
    assert told.stdout.startswith("warmed 5 of 5 AOIs: 8 pages, 0 fetched, 8 hits, in ")
    assert len(vendor.requests) == 8


def test_a_list_has_ids_comments_and_blank_lines() -> None:
    assert list(ids_in("a\n\n  b  \r\n#c\n # d\ne # f\ng#h\n\t#\ni j")) == ["a", "b", "e", "g#h", "i j"]


async def test_a_vendor_that_reduces_the_limit_is_followed(play: Play, vendor: MockVendor) -> None:
    vendor.set_assets("a", assets(30))
    vendor.set_behaviour(max_limit=7)
    tally = await warm(play.url, ["a"], clock=SystemClock(), limit=20, **QUICK)
    assert (tally.pages, tally.hits, tally.failures) == (5, 0, {})
    assert asked(vendor) == [("a", offset, 20) for offset in (0, 7, 14, 21, 28)]


async def test_one_that_fails_is_listed_and_stops_nobody(play: Play, vendor: MockVendor) -> None:
    vendor.set_assets("a", assets(3))
    vendor.set_assets("b", assets(3))
    told = await commanded(play, "-", "--concurrency", "1", text="a\nnope\n\x1b[31mred[bold]\nb\n")
    assert told.returncode == 1
    assert told.stdout.startswith("warmed 2 of 4 AOIs: 2 pages, ")
    first, second = told.stderr.splitlines()
    assert first == "nope: 404 not_found: no such AOI"
    assert second.startswith("\\x1b[31mred[bold]: 400 invalid_aoi_id: ")


async def test_what_is_no_id_gets_to_no_other_path(play: Play, vendor: MockVendor) -> None:
    odd = ["", ".", "..", "../x", "a/../b", "a?offset=1", "a#b", "a%2Fb", "a b", "é", "\udc80", "x" * 65]
    tally = await warm(play.url, odd, clock=SystemClock(), **QUICK)
    assert list(tally.failures) == odd
    assert {why.partition(":")[0] for why in tally.failures.values()} == {"400 invalid_aoi_id"}
    assert vendor.requests == []


async def test_a_wish_for_a_pause_is_granted(play: Play, vendor: MockVendor) -> None:
    vendor.set_assets("a", assets(3))
    vendor.set_behaviour(status=429, retry_after=1, times=1)
    tally = await warm(play.url, ["a"], clock=SystemClock(), **QUICK)
    assert (tally.pages, tally.failures) == (1, {})
    assert tally.seconds >= 1.0


async def test_patience_ends(play: Play, vendor: MockVendor) -> None:
    vendor.set_behaviour(status=429, retry_after=50)
    clock = HastyClock()
    tally = await warm(play.url, [vendor.aoi_ids[0]], clock=clock, **QUICK)
    assert tally.failures[vendor.aoi_ids[0]].startswith("503 upstream_rate_limited: ")
    assert len([seconds for seconds in clock.slept if 1.0 <= seconds <= 60.0]) == 5


async def test_no_pause_is_longer_than_a_minute() -> None:
    clock = HastyClock()
    async with Server({"status": 503, "headers": {"Retry-After": "86400"}}) as server:
        tally = await warm(server.url, ["a"], clock=clock, **QUICK)
    assert tally.failures == {"a": "503, and it does not look like this gateway"}
    assert [round(seconds) for seconds in clock.slept if seconds >= 1.0] == [60] * 5


async def test_a_listing_that_changes_is_begun_anew(play: Play, vendor: MockVendor) -> None:
    vendor.set_assets("a", assets(25))

    def change(tally: WarmSummary) -> None:
        if tally.pages == 1:
            vendor.set_assets("a", assets(26))

    tally = await warm(play.url, ["a"], clock=SystemClock(), limit=10, watch=change, **QUICK)
    assert (tally.pages, tally.failures) == (5, {})
    assert [offset for _, offset, _ in asked(vendor)] == [0, 10, 0, 20]  # 10 is of the new generation already
    assert tally.hits == 1


async def test_a_listing_that_keeps_changing_fails(play: Play, vendor: MockVendor) -> None:
    vendor.set_assets("a", assets(25))

    def change(tally: WarmSummary) -> None:
        vendor.set_assets("a", assets(25 + tally.pages))

    tally = await warm(play.url, ["a"], clock=SystemClock(), limit=10, watch=change, **QUICK)
    assert tally.failures == {"a": "the listing kept changing"}
    assert tally.pages == 8


@pytest.mark.parametrize(
    "page",
    [
        '{"assets":[],"pagination":{"total":5,"offset":0,"limit":0}}',
        '{"assets":[{"id":"x"}],"pagination":{"total":5,"offset":0,"limit":0}}',
        '{"assets":[],"pagination":{"total":9223372036854775807,"offset":0,"limit":1}}',
        '{"assets":null,"pagination":{"total":500,"offset":0,"limit":100}}',
    ],
)
async def test_a_listing_without_end_ends(play: Play, vendor: MockVendor, page: str) -> None:
    vendor.set_behaviour(garbage=page, content_type="application/json")
    tally = await warm(play.url, ["a"], clock=SystemClock(), **QUICK)
    assert tally.failures["a"].startswith("the page at 0 is empty, though the total is ")
    assert len(vendor.requests) == 1


async def test_an_old_page_warms_nothing(play: Play, vendor: MockVendor) -> None:
    vendor.set_assets("a", assets(3))
    await warm(play.url, ["a"], clock=SystemClock(), **QUICK)
    play.clock.skip(1000)
    vendor.set_behaviour(status=500)
    tally = await warm(play.url, ["a"], clock=SystemClock(), **QUICK)
    assert tally.failures == {"a": "the vendor failed, and an old page was served (stale-if-error)"}
    assert tally.pages == 0


async def test_a_page_that_is_not_kept_warms_nothing() -> None:
    body = b'{"assets":[{"id":"x","status":"success"}],"pagination":{"total":1,"offset":0,"limit":100}}'
    answer = {"body": body, "headers": {"Cache-Control": "no-store"}}
    async with Server(answer) as vendor, playing({"upstream.base_url": vendor.url}) as play:
        tally = await warm(play.url, ["a"], clock=SystemClock(), **QUICK)
    assert tally.failures == {"a": "the gateway did not keep the page (fwd=miss; fwd-status=200)"}


async def test_what_is_no_gateway_fails(vendor: MockVendor) -> None:
    async with Server({"body": b"hello"}, {"status": 302, "headers": {"Location": vendor.url}}, None) as server:
        tally = await warm(server.url, ["a", "b", "c"], clock=SystemClock(), concurrency=1, **QUICK)
    assert tally.failures == {
        "a": "200, and it does not look like this gateway",
        "b": "302, and it does not look like this gateway",
        "c": "no whole answer: ServerDisconnectedError",
    }
    assert vendor.requests == []


async def test_nobody_there_is_4_and_one_line() -> None:
    with nobody_at() as port:
        url = f"http://127.0.0.1:{port}"
        told = await asyncio.to_thread(run, "warm", "--aoi", "a", "b", "--url", url)
        assert (told.returncode, told.stdout) == (4, "")
        assert told.stderr == f"no gateway answers at {url}: ClientConnectorError\n"
        with pytest.raises(GatewayUnreachable):
            await warm(url, ["a"] * 20, clock=SystemClock(), **QUICK)


async def test_a_token_opens_and_is_not_told(vendor: MockVendor, tmp_path: Path) -> None:
    vendor.set_assets("ours", assets(3))
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    flags = {
        "upstream.base_url": vendor.url,
        "teams.alpha.token_sha256": [hashlib.sha256(TOKEN.encode()).hexdigest()],
        "teams.alpha.aois": ["ours"],
    }
    async with playing(flags) as play:
        told = await commanded(play, "--aoi", "ours", "theirs", "--token-file", str(file))
        assert told.returncode == 1
        assert told.stdout.startswith("warmed 1 of 2 AOIs: ")
        assert told.stderr.startswith("theirs: 403 forbidden: ")
        assert TOKEN not in told.stdout + told.stderr
        tally = await warm(play.url, ["ours"], clock=SystemClock(), **QUICK)
        assert tally.failures["ours"].startswith("401 unauthorized: ")


async def test_the_configured_listener_may_speak_tls(vendor: MockVendor, tmp_path: Path) -> None:
    vendor.set_assets("a", assets(3))
    pem = tmp_path / "server.pem"
    trustme.CA().issue_cert("gateway.example").private_key_and_cert_chain_pem.write_to_path(pem)
    flags = {"server.tls_cert_file": str(pem), "server.tls_key_file": str(pem)}
    environ = {"GATEWAY_SERVER__TLS_CERT_FILE": str(pem), "GATEWAY_SERVER__TLS_KEY_FILE": str(pem)}
    async with playing({"upstream.base_url": vendor.url, **flags}) as play:
        environ["GATEWAY_SERVER__PORT"] = str(play.port)
        told = await asyncio.to_thread(run, "warm", "--aoi", "a", environ=environ)
        assert (told.returncode, told.stderr) == (0, "")
        with pytest.raises(GatewayUnreachable, match="Certificate"):  # elsewhere the certificate counts
            await warm(play.url, ["a"], clock=SystemClock(), **QUICK)


async def test_no_more_aois_than_wanted_are_in_flight(play: Play, vendor: MockVendor) -> None:
    vendor.set_behaviour(delay=0.2)
    await warm(play.url, vendor.aoi_ids[:9], clock=SystemClock(), concurrency=3, limit=1000, **QUICK)
    times = sorted(request.time for request in vendor.requests)
    assert len(times) == 9
    # Of four requests the last began when one of the others had been answered, and so 0.2 s after its beginning.
    assert all(later - earlier > 0.19 for earlier, later in zip(times, times[3:], strict=False))


async def test_as_many_aois_as_wanted_are_in_flight_and_go_when_it_is_ended(play: Play, vendor: MockVendor) -> None:
    vendor.set_behaviour(hang=True)
    task = asyncio.create_task(warm(play.url, vendor.aoi_ids, clock=SystemClock(), concurrency=3, **QUICK))
    await until(lambda: len(vendor.requests) == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(vendor.requests) == 3
    await vendor.stop()  # else the gateway would wait for it


async def test_turns_are_even_and_a_lull_is_not_made_up_for() -> None:
    class Clock(SystemClock):
        def __init__(self) -> None:
            self.time = 100.0
            super().__init__(monotonic=lambda: self.time)

        async def sleep(self, seconds: float) -> None:
            self.time += seconds

    clock = Clock()
    pace = Pace(4.0, clock)

    async def turn() -> float:
        await pace.turn()
        return clock.time

    assert [await turn() for _ in range(3)] == [100.0, 100.25, 100.5]
    clock.time += 10.0
    assert [await turn() for _ in range(3)] == [110.5, 110.75, 111.0]
    pace.pause(5.0)
    pace.pause(1.0)
    assert [await turn() for _ in range(2)] == [116.0, 116.25]


async def test_the_rate_is_kept_over_all_aois(play: Play, vendor: MockVendor) -> None:
    tally = await warm(play.url, vendor.aoi_ids[:8], clock=SystemClock(), limit=1000, rate=20.0, concurrency=8)
    assert tally.pages == 8
    assert tally.seconds >= 7 / 20


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--aoi"],
        ["--aoi", "a", "--rate", "0"],
        ["--aoi", "a", "--rate", "inf"],
        ["--aoi", "a", "--concurrency", "0"],
        ["--aoi", "a", "--limit", "0"],
        ["--aoi", "a", "--url", "gateway.example"],
        ["--aoi", "a", "--url", "http://user:s3cret@gateway.example"],
        ["--aoi", "a", "--url", "http://user:s3cret@gateway.example:port"],
        ["--aoi", "a", "--url", "http://[::1"],
        ["--file", "no/such/file"],
        ["--file", str(ROOT)],
        ["--file", os.devnull],
        ["--file", sys.executable],
        ["--file", "\0"],
        ["--aoi", "a", "--token-file", "s3cret"],
        ["--aoi", "a", "--token-file", os.devnull],
    ],
)
def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    try:
        code: Any = main(["warm", *arguments])
    except SystemExit as left:  # argparse's own way, with a usage line or some
        code = left.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("usage: ") or len(err.splitlines()) == 1
    assert "s3cret" not in err


async def test_a_limit_is_within_what_the_configuration_allows(vendor: MockVendor) -> None:
    vendor.set_assets("a", assets(3))
    async with playing({"upstream.base_url": vendor.url, "query.max_limit": 50}) as play:
        environ = {"GATEWAY_SERVER__PORT": str(play.port), "GATEWAY_QUERY__MAX_LIMIT": "50"}
        told = await asyncio.to_thread(run, "warm", "--aoi", "a", environ=environ)
    assert (told.returncode, told.stderr) == (0, "")
    assert asked(vendor) == [("a", 0, 50)]


def test_a_log_gets_a_line_now_and_then() -> None:
    stream = io.StringIO()
    with shown(stream) as watch:
        for pages in range(13):
            watch(WarmSummary(aois=9, done=pages // 2, pages=pages, hits=1, seconds=float(pages), failures={"x": ""}))
    first, second = stream.getvalue().splitlines()
    assert first == "2 of 9 AOIs, 5 pages, 1.0/s, 1 hits, 1 failed"
    assert second.startswith("5 of 9 AOIs, 10 pages, ")


def on_a_terminal(*arguments: str, environ: dict[str, str]) -> tuple[int, bytes, bytes]:
    """Exit code, standard output, and what a terminal at standard error was sent."""
    import pty  # noqa: PLC0415 - there is none on Windows

    ours, theirs = pty.openpty()
    sized = clean_environment({"TERM": "xterm", "COLUMNS": "120", **environ})
    with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=theirs, env=sized) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65_536):
                seen += piece
        except OSError:  # how Linux tells that the other side was closed
            pass
        os.close(ours)
        out, _ = process.communicate()
    return process.returncode, out, seen


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
async def test_a_terminal_gets_a_bar_and_nobody_elses_escapes(play: Play, vendor: MockVendor) -> None:
    vendor.set_assets("a", assets(3))
    environ = {"GATEWAY_SERVER__PORT": str(play.port)}
    arguments = ["warm", "--aoi", "a", "\x1b[31mred"]
    code, out, seen = await asyncio.to_thread(lambda: on_a_terminal(*arguments, environ=environ))
    assert code == 1
    assert out.startswith(b"warmed 1 of 2 AOIs: 1 pages")
    assert b"\x1b" not in out
    assert b"2 of 2 AOIs, 1 pages" in seen
    assert b"\x1b[?25h" in seen  # the cursor is back
    assert b"\\x1b[31mred: 400 invalid_aoi_id" in seen


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
async def test_ctrl_c_ends_it_at_once(play: Play, vendor: MockVendor) -> None:
    vendor.set_behaviour(hang=True)
    process = spawn("warm", "--aoi", *vendor.aoi_ids, "--url", play.url)
    await until(lambda: len(vendor.requests) == 4)
    # Before the gateway gives up after 15 s, and answers.
    assert await asyncio.to_thread(process.end, signal.SIGINT, seconds=14.0) == 1
    assert process.lines == []
    await vendor.stop()  # else the gateway would wait for it
