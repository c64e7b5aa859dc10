"""The image as built by .ci/image, run with runc: on every base, as its own user and as one chosen at random."""

from __future__ import annotations

import json
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest
from containers import Container, Image, image_directories
from harness import PATIENCE, until

pytestmark = [pytest.mark.image, pytest.mark.skipif(sys.platform != "linux", reason="containers need Linux")]
AOI = "fa851d3b-39e7-4269-a94e-6db618d3c9a0"
KEY = "vendor-key"


@pytest.fixture(params=image_directories(), ids=lambda path: path.name)
def image(request: pytest.FixtureRequest) -> Image:
    return Image.load(request.param)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def random_user() -> str:
    """A user as OpenShift assigns it: a uid that no passwd file knows, in the root group."""
    return f"{random.randrange(1_000_000_000, 2_000_000_000)}:0"


def get(port: int, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


class Running:
    """A stand-in vendor and a gateway in front of it, both from the image, on ports of this machine."""

    def __init__(self, image: Image, directory: Path, stack: ExitStack, user: str | None, **environ: str) -> None:
        vendor_port, self.port = free_port(), free_port()
        self.vendor = stack.enter_context(
            Container(
                image, directory, user=user,
                arguments=[*image.entrypoint, "mock-vendor", "--port", str(vendor_port), "--key", KEY],
            )
        )  # fmt: skip
        self.gateway = stack.enter_context(
            Container(
                image, directory, user=user, arguments=[*image.entrypoint, *image.command],
                environ={
                    "GATEWAY_SERVER__PORT": str(self.port),
                    "GATEWAY_AUTH__MODE": "open",
                    "GATEWAY_UPSTREAM__API_KEY": KEY,
                    "GATEWAY_UPSTREAM__BASE_URL": f"http://127.0.0.1:{vendor_port}",
                    **environ,
                },
            )
        )  # fmt: skip

    def healthy(self) -> bool:
        """Whether the image's health check succeeds, run as a container engine runs it."""
        assert not self.gateway.ended, self.gateway.output
        return self.gateway.execute(*self.gateway.image.healthcheck).returncode == 0


@pytest.fixture(params=["the user of the image", "a random user"])
async def running(image: Image, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    with ExitStack() as stack:
        started = Running(image, tmp_path, stack, random_user() if "random" in request.param else None)
        await until(started.healthy)
        yield started


async def test_image_serves_a_page_and_stops_on_sigterm(running: Running) -> None:
    status, headers, body = get(running.port, f"/v0/aois/{AOI}/assets?limit=3")
    assert (status, headers["Cache-Status"]) == (200, "pixxel-gateway; fwd=miss; fwd-status=200; stored")
    assert json.loads(body)["pagination"]["limit"] == 3
    assert get(running.port, f"/v0/aois/{AOI}/assets?limit=3")[2] == body
    process = running.gateway.execute("cat", "/proc/1/status").stdout
    assert "\nUid:\t0\t" not in process
    assert "\nCapEff:\t0000000000000000\n" in process
    written = running.gateway.execute("touch", "/etc/pixxel-gateway/written")
    assert (written.returncode, "Read-only file system" in written.stderr) == (1, True)

    stop = running.gateway.image.config["StopSignal"]
    running.gateway.signal(stop)
    assert running.gateway.wait(PATIENCE) == 0, running.gateway.output
    assert "Traceback" not in running.gateway.output


UNCOMPILED = """
import importlib.util, pathlib, sys
import gateway.cli.main, gateway.app.run, uvloop, encodings.idna
for module in list(sys.modules.values()):
    spec = getattr(module, "__spec__", None)
    if spec and spec.origin and spec.origin.endswith(".py"):
        if not pathlib.Path(importlib.util.cache_from_source(spec.origin)).exists():
            print(spec.origin)
"""


def test_image_has_the_bytecode_of_every_module_that_serve_imports(image: Image, tmp_path: Path) -> None:
    with Container(image, tmp_path, arguments=["python", "-P", "-c", UNCOMPILED], user=random_user()) as container:
        assert container.wait(PATIENCE) == 0, container.output
    assert container.output.split() == []


async def test_image_ends_as_process_1_when_it_is_stopped_during_startup(image: Image, tmp_path: Path) -> None:
    arguments = [*image.entrypoint, *image.command]
    environ = {"GATEWAY_SERVER__PORT": "0", "GATEWAY_AUTH__MODE": "open", "GATEWAY_UPSTREAM__API_KEY": KEY}
    with Container(image, tmp_path, arguments, environ) as container:
        # The kernel ignores a signal to process 1 without a handler.
        await until(lambda: catches_sigterm(container.execute("cat", "/proc/1/status").stdout) or container.ended)
        container.signal("TERM")
        assert container.wait(PATIENCE) == 0, container.output
    assert "Traceback" not in container.output


def catches_sigterm(status: str) -> bool:
    """Whether a process with this /proc/PID/status has a handler for SIGTERM."""
    [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")] or ["0"]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_image_without_a_key_ends_with_the_exit_code_of_a_configuration_error(image: Image, tmp_path: Path) -> None:
    with Container(image, tmp_path, [*image.entrypoint, *image.command], {"GATEWAY_AUTH__MODE": "open"}) as container:
        assert container.wait(PATIENCE) == 3
    assert "upstream.api_key" in container.output
