"""The balancer: its file against HAProxy, the compose file and the gateway, and requests that go through it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import PATIENCE, VENDOR_KEY, Play, Reply, playing, spawn, until
from holding_vendor import HoldingVendor
from load import Load, loading
from tools import ROOT, parsed, passes, tool

from gateway.config.loading import load

HAPROXY = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
COMPOSE = ROOT / "deploy" / "compose.yml"


def text() -> str:
    return HAPROXY.read_text(encoding="utf-8")


def seconds(pattern: str) -> float:
    return float(re.findall(rf"^ +.*\b{pattern} (\d+)s\b", text(), flags=re.MULTILINE)[0])


def test_haproxy_can_read_it() -> None:
    passes(tool("haproxy", "haproxy"), "-c", "-q", "-f", HAPROXY)


def test_it_fits_the_compose_file_and_the_gateway() -> None:
    services = parsed(COMPOSE)["services"]
    environ = {name: str(value) for name, value in services["gateway"]["environment"].items()}
    environ |= {"GATEWAY_UPSTREAM__BASE_URL": "http://vendor", "GATEWAY_UPSTREAM__API_KEY_FILE": ""}
    settings = load(environ=environ, need_key=False, use_file=False).settings
    assert services["balancer"]["volumes"] == ["./haproxy:/usr/local/etc/haproxy:ro"]
    assert f"gateway:{settings.server.port} " in text()
    assert f"check port {settings.ops.port} " in text()
    assert seconds("timeout server") > settings.upstream.deadline
    (fall,) = re.findall(r"\bfall (\d+)", text())
    assert (seconds("inter") + seconds("timeout check")) * int(fall) <= settings.server.drain
    (most,) = re.findall(r"^ +maxconn (\d+)$", text(), flags=re.MULTILINE)
    assert services["balancer"]["ulimits"]["nofile"] > 2 * int(most)
    (room,) = re.findall(r"server-template gateway (\d+) ", text())
    assert int(room) > services["gateway"]["deploy"]["replicas"]


@contextmanager
def balancing(tmp_path: Path, *servers: tuple[int, int]) -> Iterator[str]:
    """HAProxy with that file in front of these client and operations ports, asking ten times as often."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = re.sub(r"bind :8080", f"bind fd@{listener.fileno()}", text())
        config = re.sub(r"check port \d+ inter 1s", "check inter 100ms", config)
        config = re.sub(r"maxconn \d+", "maxconn 100", config)  # what a newcomer's machine allows
        config, replaced = re.subn(
            r"^ +server-template .*$",
            "\n".join(f"    server s{port} 127.0.0.1:{port} port {ops}" for port, ops in servers),
            config, flags=re.MULTILINE,
        )  # fmt: skip
        assert replaced == 1
        path = tmp_path / "haproxy.cfg"
        path.write_text(config, encoding="utf-8")
        process = subprocess.Popen([tool("haproxy", "haproxy"), "-q", "-db", "-f", path], pass_fds=[listener.fileno()])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.terminate()
            process.wait(30)


async def answered(play: Play) -> list[str]:
    """The clients of the pages that this gateway has answered."""
    lines = [json.loads(line) for line in (await play.said()).splitlines()]
    return [line["client"] for line in lines if line.get("route") == "assets"]


async def all_by_others(play: Play, load: Load) -> None:
    """Wait until so many answers come from elsewhere that the balancer must have seen it."""
    async with asyncio.timeout(PATIENCE):
        count = -1
        while count != (count := len(await answered(play))):
            await load.more(30)


async def some_by(play: Play, load: Load) -> None:
    before = len(await answered(play))
    async with asyncio.timeout(PATIENCE):
        while len(await answered(play)) == before:
            await load.more(10)


async def test_no_request_is_lost_while_gateways_drain_and_die(vendor: HoldingVendor, tmp_path: Path) -> None:
    other = spawn(
        "serve", "--port", "0",
        environ={"GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY},
    )  # fmt: skip
    try:
        port = await asyncio.to_thread(other.port)
        flags = {"upstream.base_url": vendor.url, "ops.port": 0, "server.trusted_proxies": ["127.0.0.0/8"]}
        async with playing(flags) as play:
            ops = int(play.ops_url.rpartition(":")[2])
            with balancing(tmp_path, (port, port), (play.port, ops)) as url:
                # aiohttp would send it again itself, and nobody would see that a connection was cut.
                play.session._retry_connection = False

                async def ask(number: int) -> Reply:
                    # An AOI that nobody has asked for, nor the vendor has: every one is a call to the vendor.
                    path = f"{url}/v0/aois/nobody-{number}/assets"
                    async with play.session.get(path, headers={"X-Forwarded-For": "192.0.2.7"}) as reply:
                        return Reply(reply.status, reply.headers, await reply.read())

                async with loading(ask, pause=0.005) as load:
                    await some_by(play, load)
                    play.gateway.unready()
                    await all_by_others(play, load)
                    play.gateway._lifecycle.state = "ready"
                    await some_by(play, load)
                    let_go = vendor.hold()
                    await until(lambda: vendor.inside == len(load.clients))
                    other.process.send_signal(signal.SIGKILL)  # with requests in its hands
                    let_go.set()
                    await load.more(60)
                assert set(load.statuses) == {404}
                # What a client says of itself is not believed.
                assert set(await answered(play)) == {"127.0.0.1"}
                play.gateway.unready()
                async with asyncio.timeout(PATIENCE):
                    last = await ask(0)
                    while last.status == 404:
                        last = await ask(0)
                assert (last.status, last.code) == (503, "starting")
                assert (last.headers["Content-Type"], last.headers["Cache-Control"]) == ("application/json", "no-store")
    finally:
        other.process.kill()
        other.process.communicate()
