"""Exceptions that nobody caught, with the vendor key in their text."""

from __future__ import annotations

import asyncio
import sys

import pytest
from harness import VENDOR_KEY, Play, clean_environment, nobody_at, until
from invariants import holds_key

_PLANTED = """
import asyncio, sys, threading
from gateway.app.build import Gateway
from gateway.cli.main import main

KEY, start = "{key}", Gateway.start

class Dying:
    def __del__(self):
        raise ValueError("unraisable " + KEY)

def thread():
    raise ValueError("thread " + KEY)

async def task():
    raise ValueError("task " + KEY)

async def started(self, sockets):
    await start(self, sockets)
    Dying()
    running = threading.Thread(target=thread)
    running.start()
    running.join()
    asyncio.get_running_loop().call_soon(next, iter(()))
    lost = asyncio.create_task(task())
    await asyncio.wait([lost])
    del lost
    raise RuntimeError("main " + KEY)

Gateway.start = started
sys.exit(main(["serve", "--port", "0"]))
"""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_no_traceback_holds_the_key(workers: str) -> None:
    with nobody_at() as port:
        environ = {
            "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY, "GATEWAY_UPSTREAM__BASE_URL": f"http://127.0.0.1:{port}",
            "GATEWAY_SERVER__WORKERS": workers,
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _PLANTED.format(key=VENDOR_KEY), env=clean_environment(environ),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
    assert process.returncode == 1
    for what in (b"unraisable", b"thread", b"task", b"main"):
        assert b"Error: %b [withheld]" % what in said or b"Error('%b [withheld]')" % what in said
    assert not holds_key(said, VENDOR_KEY)


async def test_a_part_that_stops_is_told_of_and_begins_anew(play: Play) -> None:
    begun: list[int] = []

    async def dies_once() -> None:
        begun.append(len(begun))
        if len(begun) == 1:
            raise LookupError(VENDOR_KEY)
        await asyncio.Event().wait()

    play.gateway._background_tasks.run("a part", dies_once)
    await until(lambda: begun == [0, 1])
    said = await play.said()
    assert b"a part of the gateway has stopped" in said
    assert b"LookupError" in said
