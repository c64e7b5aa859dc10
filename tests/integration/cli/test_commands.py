"""The commands, run as a user runs them: as processes, judged by what they print and how they exit."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    PATIENCE,
    REDIS_ENVIRON,
    ROOT,
    VENDOR_KEY,
    Process,
    call,
    clean_environment,
    command,
    nobody_at,
    run,
    spawn,
    until,
)
from holding_vendor import HoldingVendor
from real_redis import RealRedis

from gateway.mock_vendor.server import MockVendor

KEY = {"GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY}


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Whatever a test starts ends with it."""
    started: list[Process] = []
    yield started
    for process in started:
        process.process.kill()
        process.process.wait()
        if process.process.stdout is not None:
            process.process.stdout.close()


def serve(processes: list[Process], **environ: str) -> tuple[Process, int]:
    process = spawn("serve", "--port", "0", environ={**KEY, **environ})
    processes.append(process)
    return process, process.port()


def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    found = (response.status, dict(response.getheaders()), response.read())
    connection.close()
    return found


async def listens(port: int) -> bool:
    """Whether connections are still taken."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    return True


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["serve"],
        ["demo"],
        ["mock-vendor"],
        ["check"],
        ["doctor"],
        ["healthcheck"],
        ["schema"],
        ["openapi"],
        ["purge"],
        ["warm"],
        ["token"],
        ["token", "new"],
    ],
)
def test_every_command_has_help(arguments: list[str]) -> None:
    told = call(*arguments, "--help")
    assert told.returncode == 0
    assert told.stdout.startswith("usage: pixxel-gateway")


def test_wrong_usage_is_2() -> None:
    assert call("nonsense").returncode == 2
    assert call().returncode == 2
    assert call("serve", "--port", "x").returncode == 2


def test_the_schema_is_the_file_in_config() -> None:
    assert call("schema").stdout == (ROOT / "config" / "gateway.schema.json").read_text(encoding="utf-8")


def test_openapi_is_printed_without_a_key(tmp_path: Path) -> None:
    told = call("openapi", cwd=tmp_path, environ={"GATEWAY_QUERY__MAX_LIMIT": "55"})
    assert told.returncode == 0
    limit = json.loads(told.stdout)["paths"]["/v0/aois/{aoi_id}/assets"]["get"]["parameters"][2]
    assert limit["schema"]["maximum"] == 55


def test_a_token_is_printed_with_its_digest() -> None:
    told = call("token", "new", "--team", "alpha")
    token, line = told.stdout.splitlines()
    assert re.fullmatch(r"pgw_[A-Za-z0-9_-]{43}", token)
    assert hashlib.sha256(token.encode()).hexdigest() in line
    assert line.startswith("token_sha256 = [")
    assert call("token", "new", "--team", "anonymous").returncode == 2


def test_check_tells_every_fault_on_a_line(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text('[server]\nprot = 8080\n\n[cache.lifetimes]\nsettled = "soon"\n', encoding="utf-8")
    for arguments in (["check", "--config", str(config)], ["--config", str(config), "check"]):
        told = call(*arguments, environ={**KEY, "GATEWAY_SERVER__HOTS": "x"})
        assert told.returncode == 3
        first, second, third = told.stdout.splitlines()
        assert first.startswith(f"{config}:2: server.prot: ")
        assert "did you mean" in first
        assert second.startswith(f"{config}:5: cache.lifetimes.settled: ")
        assert "GATEWAY_SERVER__HOTS" in third
    serving = call("serve", "--config", str(config), environ=KEY)
    assert (serving.returncode, len(serving.stderr.splitlines())) == (3, 2)


def test_check_is_fine_with_the_example_and_the_key() -> None:
    told = call("check", "--config", "config/gateway.toml", environ=KEY)
    assert (told.returncode, told.stderr) == (0, "")
    without = call("check", "--config", "config/gateway.toml")
    assert without.returncode == 3
    assert "upstream.api_key" in without.stdout


def test_a_public_host_without_teams_is_refused() -> None:
    told = call("serve", "--host", "0.0.0.0", environ=KEY)
    assert told.returncode == 3
    assert len(told.stderr.splitlines()) == 1


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for told in (
            run("serve", "--port", port, environ=KEY),
            run("demo", environ={"GATEWAY_SERVER__PORT": port}),
            run("mock-vendor", "--port", port),
        ):
            assert told.returncode == 1
            assert len((told.stdout + told.stderr).splitlines()) == 1
            assert port in told.stderr


def test_a_certificate_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "no.pem"
    file.write_text("no certificate", encoding="utf-8")
    environ = {**KEY, "GATEWAY_SERVER__TLS_CERT_FILE": str(file), "GATEWAY_SERVER__TLS_KEY_FILE": str(file)}
    redis = {**environ, "GATEWAY_CACHE__URL": "redis://127.0.0.1"}
    for told in (
        run("serve", "--port", "0", environ=environ),
        run("serve", "--port", "0", "--workers", "2", environ=redis),
        run("check", environ=environ),
    ):
        assert told.returncode == 3
        assert len((told.stdout + told.stderr).splitlines()) == 1
        assert "server.tls_cert_file: " in told.stdout + told.stderr


@pytest.mark.parametrize(
    ("variable", "path"),
    [("GATEWAY_CACHE__URL", "cache.url: "), ("GATEWAY_UPSTREAM__CA_FILE", "upstream.ca_file: ")],
)
def test_check_refuses_whatever_serve_refuses(tmp_path: Path, variable: str, path: str) -> None:
    file = tmp_path / "no.pem"
    file.write_text("no certificate", encoding="utf-8")
    environ = {**KEY, variable: str(file) if variable.endswith("FILE") else "redis+sentinel://u:s3cret@h"}
    for told in (run("serve", "--port", "0", environ=environ), run("check", environ=environ)):
        assert told.returncode == 3
        assert path in told.stdout + told.stderr
        assert "s3cret" not in told.stdout + told.stderr


def test_the_demo_prints_a_line_that_works_and_ends_by_ctrl_c(processes: list[Process], tmp_path: Path) -> None:
    demo = spawn("demo", environ={"GATEWAY_SERVER__PORT": "0"}, cwd=tmp_path)
    processes.append(demo)
    line = demo.wait_for(r"^\s*(curl .*)$")[1]
    url = shlex.split(line)[-1]
    demo.wait_for("Ctrl-C")
    host, _, path = url.removeprefix("http://").partition("/")
    port = int(host.rpartition(":")[2])
    status, headers, body = get(port, f"/{path}")
    assert (status, headers["Cache-Status"]) == (200, "pixxel-gateway; fwd=miss; fwd-status=200; stored")
    assert json.loads(body)["assets"]
    assert shlex.quote(url) in get(port, "/")[2].decode().replace("&amp;", "&")
    assert demo.end(signal.SIGINT) == 0


def test_the_stand_in_vendor_alone(processes: list[Process]) -> None:
    process = spawn("mock-vendor", "--host", "0.0.0.0", "--port", "0", "--key", "k", "--aois", "3", "--seed", "7")
    processes.append(process)
    url = process.wait_for(r"Try: curl .*'(http://0.0.0.0:\d+/v0/aois/[^/]+/assets)'")[1]
    host, _, path = url.removeprefix("http://").partition("/")
    port = int(host.rpartition(":")[2])
    assert get(port, f"/{path}")[0] == 401
    assert get(port, f"/{path}", Authorization="k")[0] == 200
    assert process.end(signal.SIGINT) == 0


async def test_serve_answers_logs_and_drains(processes: list[Process], vendor: HoldingVendor) -> None:
    environ = {"GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_SERVER__DRAIN": "3"}
    process, port = await asyncio.to_thread(lambda: serve(processes, **environ))
    path = f"/v0/aois/{vendor.aoi_ids[2]}/assets"
    status, headers, _ = await asyncio.to_thread(get, port, path)
    assert (status, headers["Cache-Status"]) == (200, "pixxel-gateway; fwd=miss; fwd-status=200; stored")
    shown = await asyncio.to_thread(subprocess.check_output, ["ps", "-p", str(process.process.pid), "-o", "args="])
    assert b"serve" in shown
    assert VENDOR_KEY.encode() not in shown
    healthy = await asyncio.to_thread(call, "healthcheck", environ={"GATEWAY_SERVER__PORT": str(port)})
    assert healthy.returncode == 0
    let_go = vendor.hold()
    slow = asyncio.create_task(asyncio.to_thread(get, port, f"/v0/aois/{vendor.aoi_ids[3]}/assets"))
    await until(lambda: len(vendor.requests) == 2)
    process.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(process.wait_for, "stopping")
    status, headers, body = await asyncio.to_thread(get, port, "/readyz")
    assert (status, headers["Connection"]) == (503, "close")
    assert json.loads(body)["error"]["code"] == "draining"
    async with asyncio.timeout(PATIENCE):
        while await listens(port):
            pass
    assert not slow.done()
    let_go.set()
    assert (await slow)[0] == 200  # what was in flight is finished
    out, _ = await asyncio.to_thread(process.process.communicate)
    assert process.process.returncode == 0
    assert b"Traceback" not in out
    healthy = await asyncio.to_thread(call, "healthcheck", environ={"GATEWAY_SERVER__PORT": str(port)})
    assert healthy.returncode == 1


async def test_nothing_stored_is_lost_by_a_restart_with_redis(
    processes: list[Process], vendor: MockVendor, real_redis: RealRedis
) -> None:
    environ = {**REDIS_ENVIRON, "GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_CACHE__URL": real_redis.url}
    path = f"/v0/aois/{vendor.aoi_ids[2]}/assets"
    process, port = await asyncio.to_thread(lambda: serve(processes, **environ))
    first = await asyncio.to_thread(get, port, path)
    await asyncio.to_thread(process.end, signal.SIGKILL)
    process, port = await asyncio.to_thread(lambda: serve(processes, **environ))
    second = await asyncio.to_thread(get, port, path)
    assert second[1]["Cache-Status"].startswith("pixxel-gateway; hit")
    assert (second[2], second[1]["ETag"]) == (first[2], first[1]["ETag"])
    assert len(vendor.requests) == 1
    assert await asyncio.to_thread(process.end, signal.SIGTERM) == 0


async def test_redis_that_is_down_at_start_stops_nobody(processes: list[Process], vendor: MockVendor) -> None:
    with nobody_at() as redis_port:
        environ = {"GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_CACHE__URL": f"redis://127.0.0.1:{redis_port}/0"}
        process, port = await asyncio.to_thread(lambda: serve(processes, **environ))
        for _ in range(20):
            assert (await asyncio.to_thread(get, port, f"/v0/aois/{vendor.aoi_ids[2]}/assets"))[0] == 200
        assert (await asyncio.to_thread(get, port, "/readyz"))[0] == 200
        assert await asyncio.to_thread(process.end, signal.SIGINT) == 0
    assert len([line for line in process.lines if "redis does not answer" in line]) == 1


def test_a_key_in_a_file_serves(processes: list[Process], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(VENDOR_KEY + "\n", encoding="utf-8")
    process = spawn("serve", "--port", "0", environ={"GATEWAY_UPSTREAM__API_KEY_FILE": str(key)})
    processes.append(process)
    process.wait_for("listening")
    assert process.end() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="make is for Linux and macOS")
def test_console_script_and_module_are_the_same() -> None:
    script = Path(sys.executable).with_name("pixxel-gateway")
    told = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, env=clean_environment())
    assert told.stdout == subprocess.run(command("--version"), capture_output=True, text=True, check=True).stdout


async def test_purge_talks_to_the_configured_listener(processes: list[Process], vendor: MockVendor) -> None:
    process, port = await asyncio.to_thread(lambda: serve(processes, GATEWAY_UPSTREAM__BASE_URL=vendor.url))
    environ = {"GATEWAY_SERVER__PORT": str(port)}
    path = f"/v0/aois/{vendor.aoi_ids[2]}/assets"
    for arguments in (["--aoi", vendor.aoi_ids[2]], ["--all"]):
        assert (await asyncio.to_thread(get, port, path))[0] == 200
        told = await asyncio.to_thread(call, "purge", *arguments, environ=environ)
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout.startswith("purged")
    await asyncio.to_thread(get, port, path)
    assert len(vendor.requests) == 3
    told = await asyncio.to_thread(call, "purge", "--aoi", "../x", "--url", f"http://127.0.0.1:{port}")
    assert told.returncode == 1
    assert "invalid_aoi_id" in told.stderr
    assert await asyncio.to_thread(process.end) == 0
    told = await asyncio.to_thread(call, "purge", "--all", environ=environ)
    assert told.returncode == 4
    assert len(told.stderr.splitlines()) == 1


async def test_a_soft_purge_says_so(processes: list[Process], vendor: MockVendor) -> None:
    environ = {"GATEWAY_UPSTREAM__API_KEY": "k", "GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_SERVER__PORT": "0"}
    processes.append(spawn("serve", environ=environ))
    port = await asyncio.to_thread(processes[-1].port)
    for what, done in ((("--all",), "everything"), (("--aoi", "a1"), "a1")):
        url = f"http://127.0.0.1:{port}"
        told = await asyncio.to_thread(call, "purge", "--soft", *what, "--url", url, environ=environ)
        assert (told.returncode, told.stdout) == (0, f"softly purged {done}\n")


def test_purge_needs_to_be_told_what() -> None:
    assert call("purge").returncode == 2
    assert call("purge", "--all", "--aoi", "x").returncode == 2
    assert call("purge", "--all", "--token-file", "no/such/file").returncode == 2
