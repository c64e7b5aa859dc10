"""Signals that arrive before the gateway is ready, and ends that a hung DNS look-up must not delay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import PATIENCE, ROOT, VENDOR_KEY, clean_environment, command
from tools import unshare

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there are no such signals on Windows")


class Starting:
    """A `serve` whose configuration is a named pipe, so that the test decides when startup goes on."""

    def __init__(self, directory: Path, *arguments: str, before: Sequence[str] = ()) -> None:
        self._pipe = directory / "gateway.toml"
        os.mkfifo(self._pipe)
        self.process = subprocess.Popen(
            [*before, *command("--config", str(self._pipe), "serve", "--port", "0", *arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, text=True,
            env=clean_environment({"GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY}),
        )  # fmt: skip

    def wait_until_loading(self) -> int:
        """Wait until the process reads its configuration; return the descriptor whose closing lets it continue."""
        return os.open(self._pipe, os.O_WRONLY)

    def configure(self, held: int, text: str) -> None:
        """Give the process its configuration, and an ordinary file with the same content to whoever reads it later."""
        self._pipe.unlink()
        self._pipe.write_text(text, encoding="utf-8")
        os.write(held, text.encode())
        os.close(held)

    def wait_for(self, event: str) -> None:
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if event in line:
                return
        raise AssertionError(f"{event!r} never came: {said}")


@contextmanager
def starting(directory: Path, *arguments: str, before: Sequence[str] = ()) -> Iterator[Starting]:
    started = Starting(directory, *arguments, before=before)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


def test_the_entry_point_imports_nothing_that_takes_long_before_signals_are_caught() -> None:
    script = (
        "import sys; before = set(sys.modules); import gateway.__main__;"
        "print(sorted(name for name in set(sys.modules) - before))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (
        shown.stdout.strip()
        == "['__future__', 'errno', 'gateway', 'gateway.__main__', 'gateway.app', 'gateway.app.startup']"
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_during_startup_is_carried_out_when_startup_is_complete(tmp_path: Path, workers: str) -> None:
    with starting(tmp_path, "--workers", workers) as gateway:
        held = gateway.wait_until_loading()
        gateway.process.send_signal(signal.SIGHUP)
        gateway.configure(held, "[server]\ndrain = 0.1\n")
        gateway.wait_for("the configuration was reloaded")
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.communicate(timeout=PATIENCE)
        assert gateway.process.returncode == 0


# Executes its arguments with SIGTERM blocked, and with a SIGTERM that waits to be delivered.
BLOCKING = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.kill(os.getpid(), signal.SIGTERM)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_sigterm_that_the_parent_had_blocked_ends_the_process_before_it_reads_its_configuration(tmp_path: Path) -> None:
    with starting(tmp_path, before=(sys.executable, "-c", BLOCKING)) as gateway:
        said, _ = gateway.process.communicate(timeout=PATIENCE)
        assert (gateway.process.returncode, said) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_configuration_is_read_ends_the_process_at_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    with starting(tmp_path) as gateway:
        held = gateway.wait_until_loading()
        gateway.process.send_signal(number)
        said, _ = gateway.process.communicate(timeout=PATIENCE)
        os.close(held)
        assert (gateway.process.returncode, said) == (0, "")


def test_process_1_obeys_sigterm_while_the_configuration_is_read(tmp_path: Path) -> None:
    """The kernel discards a signal that process 1 has no handler for."""
    with starting(tmp_path, before=unshare("--pid", "--fork")) as gateway:
        held = gateway.wait_until_loading()
        children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text(encoding="ascii")
        os.kill(int(children), signal.SIGTERM)
        said, _ = gateway.process.communicate(timeout=PATIENCE)
        os.close(held)
        assert (gateway.process.returncode, said) == (0, "")


# A gateway that never becomes ready, and says when it waits.
STUCK = """
import asyncio, sys
from gateway.app.build import Gateway
from gateway import __main__

async def start(self, sockets):
    sys.stderr.write("stuck\\n")
    sys.stderr.flush()
    await asyncio.Event().wait()

Gateway.start = start
__main__.main()
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_gateway_that_is_not_ready_survives_sighup_and_ends_by_sigterm_without_a_drain(workers: str) -> None:
    environ = {"GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY, "GATEWAY_SERVER__DRAIN": "300"}
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, "serve", "--port", "0", "--workers", workers],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=clean_environment(environ),
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "stuck\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        said, told = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert "Traceback" not in said + told
    finally:
        process.kill()
        process.wait()


# Runs in a network namespace whose name server never answers. Starts the gateway, causes a DNS look-up by a request or
# by the Redis client, sends SIGTERM, and prints how long the exit took.
DRIVER = """
import fcntl, http.client, json, os, re, signal, socket, struct, subprocess, sys, threading, time

arguments, ask, number = json.loads(sys.argv[1]), sys.argv[2] == "ask", int(sys.argv[3])
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
command = [sys.executable, "-m", "gateway", *arguments]
process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
statuses = []
if ask:
    for line in process.stdout:
        if found := re.search(rb'"url":"http://127.0.0.1:([0-9]+)', line):
            break
    def get():
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]))
        connection.request("GET", "/v0/aois/a1/assets")
        statuses.append(connection.getresponse().status)
    asking = threading.Thread(target=get)
    asking.start()
server.recvfrom(512)  # the look-up has begun
began = time.monotonic()
process.send_signal(number)
said, _ = process.communicate()
took = time.monotonic() - began
if ask:
    asking.join()
print(json.dumps([process.returncode, took, statuses, said.decode()]))
"""


@pytest.mark.parametrize(
    ("arguments", "asks", "number", "code"),
    [
        (["serve", "--port", "0"], True, signal.SIGTERM, 0),
        (["serve", "--port", "0", "--workers", "2"], True, signal.SIGTERM, 0),
        (["serve", "--port", "0", "--host", "gateway.test"], False, signal.SIGTERM, 0),
        (["warm", "--url", "http://gateway.test", "--aoi", "a"], False, signal.SIGINT, 1),
    ],
    ids=["serve", "workers", "listener", "warm"],
)
def test_a_hung_name_server_delays_no_end(
    tmp_path: Path, arguments: list[str], asks: bool, number: signal.Signals, code: int
) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:20 attempts:1\n", encoding="ascii")
    inside = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
    namespace = [*unshare("--net", "--mount"), "sh", "-c", inside, "sh", str(resolver)]
    environ = {
        "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY, "GATEWAY_UPSTREAM__BASE_URL": "http://vendor.test",
        "GATEWAY_SERVER__DRAIN": "0.1", "GATEWAY_UPSTREAM__CONNECT_TIMEOUT": "14", "GATEWAY_AUTH__MODE": "open",
    }  # fmt: skip
    driver = [sys.executable, "-c", DRIVER, json.dumps(arguments), "ask" if asks else "", str(int(number))]
    out = subprocess.check_output([*namespace, *driver], env=clean_environment(environ), cwd=ROOT, timeout=100)
    returncode, took, statuses, said = json.loads(out)
    assert (returncode, statuses) == (code, [502] if asks else []), said
    assert took < 10.0  # the look-up takes twice that
    assert "Traceback" not in said
