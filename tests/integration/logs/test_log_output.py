"""Standard output that blocks, fails or is closed: whole log lines are dropped and counted, and requests continue."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from harness import PATIENCE, ROOT, VENDOR_KEY, clean_environment, command, parse_metrics, until
from holding_vendor import HoldingVendor

from gateway.telemetry.line_buffer import LineBuffer
from gateway.telemetry.log_writer import LineWriter

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full disk to write to")
DROPPED = "gateway_log_dropped_total"


class Running:
    """A gateway whose standard output the test has chosen."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, session: aiohttp.ClientSession) -> None:
        self.process = process
        self.url = url
        self.session = session
        self.requests = 0

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.url + path) as response:
            self.requests += 1
            return response.status, await response.text()

    async def metrics(self) -> dict[str, float]:
        return parse_metrics((await self.get("/metrics"))[1])

    async def end(self) -> str:
        """End it by SIGTERM, which it must do well; what it wrote to standard error."""
        self.process.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(self.process.communicate, timeout=PATIENCE)
        assert self.process.returncode == 0
        return said.decode()


@asynccontextmanager
async def running(
    vendor: HoldingVendor, stdout: int | None, *arguments: str, before: tuple[str, ...] = ()
) -> AsyncIterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {
        "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY, "GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_SERVER__DRAIN": "0",
    }  # fmt: skip
    process = subprocess.Popen(  # noqa: ASYNC220 - it takes no time to be waited for
        [*before, *command("serve", "--port", str(port), *arguments)],
        stdout=stdout, stderr=subprocess.PIPE, env=clean_environment(environ), cwd=ROOT,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:
            gateway = Running(process, f"http://127.0.0.1:{port}", session)
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        assert (await gateway.get("/readyz"))[0] == 200
                        break
                    except aiohttp.ClientConnectorError:
                        assert process.poll() is None
                        await asyncio.sleep(0.02)
            yield gateway
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("output", "workers"), [("full disk", "1"), ("closed", "1"), ("reader gone", "1"), ("reader gone", "2")]
)
async def test_lines_that_cannot_be_written_are_counted(vendor: HoldingVendor, output: str, workers: str) -> None:
    before: tuple[str, ...] = ()
    if output == "closed":
        before, stdout = ("sh", "-c", 'exec "$@" >&-', "sh"), None
    elif output == "full disk":
        stdout = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, stdout = os.pipe()
        os.close(reading)
    try:
        async with running(vendor, stdout, "--workers", workers, before=before) as gateway:
            vendor.set_assets("a1", [])
            for number in range(3):
                assert (await gateway.get(f"/v0/aois/a1/assets?limit={number + 1}"))[0] == 200
            async with asyncio.timeout(PATIENCE):
                while True:
                    # One line for each request so far, the line `listening` and, with two workers, the warning that
                    # workers do not share memory://.
                    lines = gateway.requests + int(workers)
                    dropped = (await gateway.metrics())[DROPPED]
                    assert dropped <= lines
                    if dropped == lines:
                        break
                    await asyncio.sleep(0.2)  # longer than a line waits, or each look would add one that still does
            assert await gateway.end() == ""
    finally:
        if stdout is not None:
            os.close(stdout)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_full_non_blocking_pipe_loses_no_line_uncounted(vendor: HoldingVendor, workers: str) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    received = bytearray()

    def read() -> None:
        while True:
            try:
                received.extend(os.read(reading, 65_536))
            except BlockingIOError:
                return

    def answered() -> int:
        read()
        return received.count(b'"route":"assets"')

    try:
        async with running(vendor, writing, "--workers", workers) as gateway:
            vendor.set_assets("a1", [])
            for _ in range(100):  # several times what the pipe takes
                assert (await gateway.get("/v0/aois/a1/assets"))[0] == 200
            await until(lambda: answered() == 100)
            assert (await gateway.metrics())[DROPPED] == 0
            # The pipe has room for one line, or for few, so it is read until the end.
            ending = asyncio.create_task(gateway.end())
            await until(lambda: answered() == 100 and ending.done())
            assert await ending == ""
        assert {json.loads(line)["event"] for line in received.splitlines()} >= {"request", "stopping", "stopped"}
    finally:
        os.close(reading)
        os.close(writing)


class Disk:
    """A stream with so much room, on which further writes fail."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.data = b""

    def fileno(self) -> int:
        raise OSError

    def write(self, data: bytearray) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        self.data += taken
        return len(taken)


async def test_a_line_that_was_begun_is_finished_when_the_disk_has_room_again() -> None:
    disk = Disk(10)
    writer = LineWriter(disk, bytes)
    dropped = 0

    def lost(lines: int) -> Callable[[], bool]:
        def reached() -> bool:
            nonlocal dropped
            dropped += writer.take_dropped()
            return dropped == lines

        return reached

    for number in range(4):
        writer.write(b"line %d" % number)
    await until(lost(2))
    assert disk.data == b"line 0\nlin"
    writer.write(b"line 4")
    await until(lost(3))
    disk.room = 1000
    writer.write(b"line 5")
    await asyncio.to_thread(writer.close)
    assert disk.data == b"line 0\nline 1\nline 5\n"
    assert writer.take_dropped() == 0


def test_a_buffer_drops_whole_lines_alone() -> None:
    buffer = LineBuffer()
    buffer.add(b"one\ntwo\nthree\n")
    buffer.written(0)
    assert buffer.drop() == 3
    buffer.add(b"one\ntwo\nthree\n")
    buffer.written(4)
    assert (buffer.drop(), bool(buffer)) == (2, False)
    buffer.add(b"one\ntwo\nthree\n")
    buffer.written(5)
    assert (buffer.drop(), bytes(buffer.data)) == (1, b"wo\n")


async def test_the_demo_serves_without_standard_output() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(  # noqa: ASYNC220 - it takes no time to be waited for
        ["sh", "-c", 'exec "$@" >&-', "sh", *command("demo", "--port", str(port))],
        stderr=subprocess.PIPE, env=clean_environment(), cwd=ROOT,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                        if parse_metrics(await response.text())[DROPPED]:
                            break
                except aiohttp.ClientConnectorError:
                    assert process.poll() is None
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
        assert (process.returncode, said) == (0, b"")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("output", ["/dev/full", "&-"])
def test_a_command_whose_output_is_lost_fails_with_one_line(output: str) -> None:
    shown = subprocess.run(
        ["sh", "-c", f'exec "$@" >{output}', "sh", *command("schema")],
        stderr=subprocess.PIPE, text=True, env=clean_environment(), cwd=ROOT, check=False,
    )  # fmt: skip
    assert (shown.returncode, shown.stderr.count("\n")) == (1, 1)
    assert shown.stderr.startswith("standard output cannot be written: ")


@pytest.mark.parametrize("error", ["/dev/full", "&-"])
def test_an_exit_code_does_not_depend_on_standard_error(error: str) -> None:
    shown = subprocess.run(
        ["sh", "-c", f'exec "$@" 2>{error}', "sh", *command("--config", "no/such/file", "serve")],
        stdout=subprocess.PIPE, env=clean_environment(), cwd=ROOT, check=False,
    )  # fmt: skip
    assert (shown.returncode, shown.stdout) == (3, b"")
