"""What plays are made of: a real gateway on a real socket, a client, and what can be read off both.

The gateway runs in the test's own loop, so that a test may hand it a clock; plays about processes start
`pixxel-gateway` itself (see `spawn`).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from invariants import judge

from gateway.app.build import Gateway, Sockets
from gateway.app.run import key_ring
from gateway.cli.main import main
from gateway.config.loading import load
from gateway.core.clock import SystemClock
from gateway.telemetry.log_writer import LineWriter, configure

ROOT = Path(__file__).parents[2]
# Held by no file, and odd enough to be found wherever it leaks: the slash and the plus change when encoded.
VENDOR_KEY = "k3y/With+Odd=Characters.0123456789"
# A net under a wait for what must come, and no measure of how soon it comes.
PATIENCE = 30.0
# The gateway rightly does without a Redis that takes longer than 50 ms, which a healthy one does now and then where the
# machine is busy. Plays about something else wait; plays about a Redis that hangs name a time-out of their own.
REDIS_TIMEOUT = 5.0
REDIS_ENVIRON = {"GATEWAY_CACHE__REDIS_TIMEOUT": str(REDIS_TIMEOUT)}


class SteeredClock(SystemClock):
    """Real time, moved on by hand: expiry is a matter of `skip`, not of waiting."""

    def __init__(self) -> None:
        self._passed = 0.0
        super().__init__(monotonic=lambda: time.monotonic() + self._passed)
        self.skipped = 0.0
        self._stopped: float | None = None

    def now(self) -> float:
        return (super().now() if self._stopped is None else self._stopped) + self.skipped

    def correct(self, earliest: float, latest: float) -> None:
        skipped = self.skipped + self._passed  # on purpose
        super().correct(earliest + skipped, latest + skipped)

    def skip(self, seconds: float) -> None:
        self.skipped += seconds

    def pass_by(self, seconds: float) -> None:
        """Skip on both clocks, as if so much time had passed; timers that are set already go on as they were."""
        self._passed += seconds

    def stop(self) -> None:
        """Let wall time pass by `skip` alone, so that ages come out exact however long a request takes."""
        self._stopped = super().now()


@dataclass
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])

    @property
    def details(self) -> dict[str, Any]:
        details: dict[str, Any] = self.json["error"]["details"]
        return details

    @property
    def cache(self) -> str:
        return self.headers["Cache-Status"].removeprefix("pixxel-gateway; ")


@dataclass
class Play:
    """A running gateway and a client of it."""

    url: str
    ops_url: str
    port: int
    clock: SteeredClock
    gateway: Gateway
    session: aiohttp.ClientSession
    log: io.BytesIO
    writer: LineWriter
    vendor_key: str = VENDOR_KEY

    async def get(self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request whose path goes out exactly as it stands here."""
        from yarl import URL  # noqa: PLC0415

        sent = {"Accept-Encoding": "identity", **(headers or {})}
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, headers=sent, allow_redirects=False) as response:
            reply = Reply(response.status, response.headers.copy(), await response.read())
        judge(reply, self.vendor_key, method=method)
        return reply

    async def page(self, aoi_id: str, query: str = "", **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.get(f"/v0/aois/{aoi_id}/assets{query}", headers=named)

    async def raw(self, data: bytes, *, seconds: float = 5.0) -> bytes:
        """Send bytes on a connection of their own and read until the gateway closes it, or `seconds` are over."""
        return await talk(self.port, data, seconds=seconds)

    async def metrics(self) -> dict[str, float]:
        async with self.session.get(self.ops_url + "/metrics") as response:
            return parse_metrics(await response.text())

    async def reaches(self, series: str, value: float) -> None:
        """Wait until a metric is at least this."""
        async with asyncio.timeout(PATIENCE):
            while (await self.metrics())[series] < value:
                pass  # each look is a request, and so a turn of the loop

    async def settled(self) -> None:
        """Wait until nothing is under way to the vendor, nor for anybody."""
        flights = self.gateway._cache._fetcher._flights._under_way
        await until(lambda: self.gateway._guard.idle and not flights)
        async with asyncio.timeout(PATIENCE):
            while (await self.metrics())["gateway_http_requests_in_flight"] > 1:
                pass  # each look is a request, and so a turn of the loop

    async def said(self) -> bytes:
        """All that was logged so far."""
        mark = b'{"event":"so far","mark":%d}' % time.monotonic_ns()
        self.writer.write(mark)
        await until(lambda: mark in self.log.getvalue())
        return self.log.getvalue()

    def log_lines(self) -> list[dict[str, Any]]:
        self.writer.close()
        self.writer._thread.join()  # it goes on where close() gives up, and nobody holds it up here
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


def hit(told: str, ttl: int, *, window: bool = True) -> bool:
    """Whether Cache-Status tells of a hit with so many seconds left, or a few less on a slow machine."""
    found = re.fullmatch(r"hit; ttl=(-?\d+)(; detail=window)?", told)
    return found is not None and ttl - 20 < int(found[1]) <= ttl and bool(found[2]) == window


async def talk(port: int, data: bytes, *, seconds: float = 5.0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(data)
        async with asyncio.timeout(seconds):
            while piece := await reader.read(65_536):
                received += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return received


def parse_metrics(text: str) -> dict[str, float]:
    """Series by `name{labels}` as they stand in the exposition."""
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {series: float(value) for series, value in pairs}


async def until(condition: Callable[[], bool], *, seconds: float = PATIENCE) -> None:
    """Wait for something that is seen from outside only; fails when it does not come."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.005)


@contextmanager
def nobody_at() -> Iterator[int]:
    """A port that refuses connections, and that nobody else is given meanwhile: it is taken, but not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@asynccontextmanager
async def playing(
    flags: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    clock: SteeredClock | None = None,
) -> AsyncIterator[Play]:
    """Start a gateway with these settings over the defaults, on free ports; it may share another one's clock."""
    ops = flags.get("ops.port") is not None
    usual = {"upstream.api_key": VENDOR_KEY, "server.port": 0, "cache.redis_timeout": REDIS_TIMEOUT}
    settings = load(environ=environ or {}, flags={**usual, **flags}, use_file=False).settings
    keys = key_ring(settings)
    log = io.BytesIO()
    writer = LineWriter(log, keys.redact)
    configure(writer, "json", settings.log.level)
    clock = clock or SteeredClock()
    gateway = Gateway(settings, keys, writer, "json", clock=clock, chance=lambda: 0.0)
    sockets = Sockets(socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0)) if ops else None)
    await gateway.start(sockets)
    port = sockets.client.getsockname()[1]
    scheme = "http" if settings.server.tls_cert_file is None else "https"
    url = f"{scheme}://127.0.0.1:{port}"
    ops_url = f"http://127.0.0.1:{sockets.ops.getsockname()[1]}" if sockets.ops else url
    session = aiohttp.ClientSession(
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0, ssl=tls or False),
    )
    try:
        yield Play(url, ops_url, port, clock, gateway, session, log, writer)
    finally:
        await session.close()
        await gateway.stop(drain=False)
        writer.close()


@dataclass
class Process:
    """A gateway, or another command, as a process of its own."""

    process: subprocess.Popen[bytes]
    lines: list[str] = field(default_factory=list)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read standard output until a line matches."""
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode()
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{pattern!r} never came; it said: {''.join(self.lines)}")

    def port(self) -> int:
        """Wait until a gateway listens, and tell where."""
        return int(self.wait_for(r"listening.*http://127\.0\.0\.1:(\d+)")[1])

    def end(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 60.0) -> int:
        """Send a signal, read what it still says, and give its exit code."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=seconds)
        self.lines += (out or b"").decode().splitlines(keepends=True)
        return self.process.returncode


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateway", *arguments]


def clean_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings of whoever runs the tests, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return {**kept, "PYTHONUNBUFFERED": "1", **(environ or {})}


def spawn(
    *arguments: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None, before: Sequence[str] = ()
) -> Process:
    """Start `pixxel-gateway` with these arguments, by another command if need be; what it writes is one stream."""
    return Process(
        subprocess.Popen(
            [*before, *command(*arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            bufsize=0,  # lines are read one by one first, and the rest at the end
            env=clean_environment(environ), cwd=cwd or ROOT,
        )
    )  # fmt: skip


_ONE_CALL = threading.Lock()


def call(
    *arguments: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """As `run`, without a process of its own, which takes longer than most commands: for those that start nothing."""
    out, err = io.StringIO(), io.StringIO()
    with _ONE_CALL, contextlib.chdir(cwd or ROOT), redirect_stdout(out), redirect_stderr(err):
        before = dict(os.environ)
        os.environ.clear()
        os.environ.update(clean_environment(environ))
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            os.environ.clear()
            os.environ.update(before)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def run(
    *arguments: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `pixxel-gateway` with these arguments to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=100, check=False,
        env=clean_environment(environ), cwd=cwd or ROOT,
    )  # fmt: skip
