"""The systemd unit, run: a machine that boots systemd in a container, installed as README, "systemd", says."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from containers import Container, Image, bind, tmpfs
from harness import until
from networks import Network
from tools import ROOT, passes

pytestmark = [pytest.mark.image, pytest.mark.skipif(sys.platform != "linux", reason="systemd needs Linux")]
UNIT = "pixxel-gateway"
KEY_FILE = Path("/etc/pixxel-gateway/secrets/api-key")


def installation() -> list[str]:
    """Return the commands of README, "systemd", but for the virtual environment: the image's is at the same path."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("\n## systemd\n") :]
    block = section[section.index("```console\n") + len("```console\n") : section.index("\n```\n")]
    commands = [line.removeprefix("# ") for line in block.splitlines()]
    assert commands[0].startswith("python3 -m venv /opt/pixxel-gateway && /opt/pixxel-gateway/bin/pip install .")
    return [re.sub(r"\bFILE\b", "/tmp/api-key", command) for command in commands[1:]]


class Machine:
    """A booted machine with the checkout at /src, and the key to install in /tmp/api-key."""

    def __init__(self, container: Container) -> None:
        self._container = container

    def run(self, command: str) -> str:
        """Run a command as root, which must succeed; its output."""
        done = self._container.execute("sh", "-ec", f"cd /src; {command}")
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.journal()}"
        return done.stdout

    def state(self, name: str) -> str:
        return self.run(f"systemctl show --value --property={name} {UNIT}").strip()

    def journal(self) -> str:
        return self._container.execute("journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}").stdout

    def booted(self) -> bool:
        assert not self._container.ended, self._container.output
        return self._container.execute("systemctl", "is-active", "basic.target").stdout.strip() == "active"


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    rootfs = tmp_path / "machine"
    passes("cp", "-a", Path(os.environ["IMAGES"]) / "machine", rootfs)
    image = Image(rootfs, {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "container=docker"]})
    with Network() as network:
        host = network.add_host("machine")
        with Container(
            image, tmp_path, ["/sbin/init"], privileged=True, user="0:0", network=host.namespace,
            mounts=[tmpfs("/tmp"), bind(ROOT, "/src")],
        ) as container:  # fmt: skip
            booted = Machine(container)
            await until(booted.booted)
            booted.run("printf 'vendor-key\\n' >/tmp/api-key")
            yield booted
    shutil.rmtree(rootfs)


async def test_unit_starts_reloads_stops_and_follows_the_key(machine: Machine) -> None:
    for command in installation():
        machine.run(command)
    health = "/opt/pixxel-gateway/bin/pixxel-gateway --config /etc/pixxel-gateway/gateway.toml healthcheck"
    await until(lambda: '"listening"' in machine.journal())
    machine.run(health)
    assert machine.state("ActiveState") == "active"

    machine.run(f"systemctl reload {UNIT}")
    await until(lambda: "the configuration was reloaded" in machine.journal())
    unit = (ROOT / "deploy" / "systemd" / f"{UNIT}.service").read_text(encoding="utf-8")
    replace = re.findall(r"^#   ((?:install|mv) .*)$", unit, flags=re.MULTILINE)
    assert len(replace) == 2
    machine.run("printf 'another-key\\n' >/tmp/new-key")
    for command in replace:
        machine.run(command.replace(" NEW ", " /tmp/new-key "))
    await until(lambda: "the vendor key has changed" in machine.journal())
    assert machine.state("NRestarts") == "0"

    machine.run(f"systemctl stop {UNIT}")
    assert (machine.state("ActiveState"), machine.state("Result")) == ("inactive", "success")
    assert machine.state("ExecMainStatus") == "0"
    assert "Traceback" not in machine.journal()


async def test_unit_is_not_restarted_after_a_configuration_error(machine: Machine) -> None:
    for command in installation()[:-1]:
        machine.run(command)
    machine.run("printf 'server.prot = 1\\n' >/etc/pixxel-gateway/gateway.toml")
    machine.run(installation()[-1])
    await until(lambda: machine.state("ActiveState") == "failed")
    assert (machine.state("ExecMainStatus"), machine.state("NRestarts")) == ("3", "0")
    assert "server.prot" in machine.journal()
