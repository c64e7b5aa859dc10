"""SIGHUP: another configuration at once, or the old one whole."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from harness import PATIENCE, VENDOR_KEY, Play, Process, parse_metrics, playing, spawn
from holding_vendor import HoldingVendor

from gateway.config.loading import load
from gateway.teams.tokens import new_token

ALPHA, ALPHA_DIGEST = new_token()
BETA, BETA_DIGEST = new_token()


class Running:
    """A gateway of its own, its configuration file, and one connection to it."""

    def __init__(self, process: Process, port: int, file: Path, session: aiohttp.ClientSession) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.file = file
        self.session = session

    async def status(self, token: str, aoi: str = "a1") -> int:
        headers = {"Authorization": token}
        async with self.session.get(f"{self.url}/v0/aois/{aoi}/assets", headers=headers) as response:
            await response.read()
            assert "Connection" not in response.headers
            return response.status

    async def metrics(self) -> dict[str, float]:
        async with self.session.get(self.url + "/metrics") as response:
            return parse_metrics(await response.text())

    async def reload(self, text: str, *, result: str = "success") -> dict[str, float]:
        """Write another configuration, ask for it, and wait until it was judged."""
        series = f'gateway_config_reloads_total{{result="{result}"}}'
        before = (await self.metrics())[series]
        self.file.write_text(text, encoding="utf-8")
        self.process.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE):
            while (now := await self.metrics())[series] == before:
                pass
        assert now[series] == before + 1
        return now


def configuration(vendor: HoldingVendor, *, key: str = VENDOR_KEY, teams: str = "", more: str = "") -> str:
    return f"""
[upstream]
base_url = "{vendor.url}"
api_key = "{key}"
{more}
[teams.alpha]
token_sha256 = ["{ALPHA_DIGEST}"]
{teams}
"""


@pytest.fixture
def file(tmp_path: Path, vendor: HoldingVendor) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(configuration(vendor), encoding="utf-8")
    return path


async def test_a_configuration_is_taken_over_without_dropping_a_connection(vendor: HoldingVendor, file: Path) -> None:
    vendor.set_assets("a1", [{"id": "x", "status": "success"}])
    process = spawn("--config", str(file), "serve", "--port", "0")
    try:
        port = int((await asyncio.to_thread(process.wait_for, r"listening.*http://127\.0\.0\.1:(\d+)"))[1])
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            running = Running(process, port, file, session)
            assert (await running.metrics())["gateway_config_last_reload_successful"] == 1
            assert [await running.status(ALPHA), await running.status(BETA)] == [200, 401]

            beta = f'[teams.beta]\ntoken_sha256 = ["{BETA_DIGEST}"]\naois = ["b*"]\nrate = 0.01\n'
            await running.reload(configuration(vendor, teams=beta))
            assert [await running.status(BETA), await running.status(BETA, "b1")] == [403, 429]
            assert await running.status(ALPHA) == 200

            broken = configuration(vendor, more="attempt_timeout = -1\nnonsense = 3")
            counted = await running.reload(broken, result="failure")
            assert counted["gateway_config_last_reload_successful"] == 0
            assert [await running.status(BETA), await running.status(ALPHA)] == [429, 200]
            async with session.get(running.url + "/readyz") as response:
                assert response.status == 200

            no_teams = configuration(vendor).partition("[teams")[0]
            counted = await running.reload(no_teams, result="failure")
            assert await running.status("nobody") == 401  # it did not turn open

            vendor.key = "another-key-of-the-vendor"
            counted = await running.reload(configuration(vendor, key=vendor.key, more="deadline = 7"))
            assert counted["gateway_config_last_reload_successful"] == 1
            vendor.set_assets("c1", [])
            assert [await running.status(ALPHA, "c1"), await running.status(BETA, "b1")] == [200, 401]
        out, _ = await asyncio.to_thread(_ended, process)
        told = out.decode()
        assert "gateway.toml" in told
        assert "nonsense" in told
        assert "upstream.deadline" in told
        assert "another-key" not in told
        assert VENDOR_KEY not in told
    finally:
        process.process.kill()
        process.process.wait()


def _ended(process: Process) -> tuple[bytes, bytes]:
    process.process.send_signal(signal.SIGINT)
    return process.process.communicate(timeout=PATIENCE)


async def test_an_empty_file_of_the_previous_key_says_nothing(vendor: HoldingVendor, tmp_path: Path) -> None:
    """In the middle of a rotation, too: it is ignored until it has content again."""
    previous = tmp_path / "previous"
    previous.write_text(VENDOR_KEY, encoding="utf-8")
    flags = {
        "upstream.base_url": vendor.url, "upstream.api_key": "not-good-yet",
        "upstream.previous_api_key_file": str(previous), "cache.prefetch": 0,
    }  # fmt: skip

    def reload(play: Play, flags: dict[str, Any]) -> None:
        play.gateway.reloads.reload(lambda: load(environ={}, flags=flags, use_file=False))

    async with playing(flags) as play:
        assert (await play.page(vendor.aoi_ids[0])).status == 200
        previous.write_text("", encoding="utf-8")
        reload(play, flags)
        assert (await play.metrics())["gateway_config_last_reload_successful"] == 1
        assert (await play.page(vendor.aoi_ids[1])).status == 200
        del flags["upstream.previous_api_key_file"]
        reload(play, flags)
        assert (await play.page(vendor.aoi_ids[2])).code == "upstream_auth"
