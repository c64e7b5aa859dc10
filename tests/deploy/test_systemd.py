"""The systemd unit: against systemd's own checks and the loader."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from tools import ROOT, passes, program, tool

from gateway.cli.main import _parser
from gateway.config.loading import load

UNIT = ROOT / "deploy" / "systemd" / "pixxel-gateway.service"
USERS = ROOT / "deploy" / "systemd" / "sysusers.conf"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux'")


def said(name: str) -> list[str]:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return [value for key, _, value in (line.partition("=") for line in lines) if key == name]


def started() -> list[str]:
    """The command that the shell of ExecStart executes once it ignores SIGHUP."""
    shell, option, script = shlex.split(said("ExecStart")[0])
    assert (shell, option) == ("/bin/sh", "-c")
    prepares, _, command = script.partition("; exec ")
    assert prepares == 'trap "" HUP'
    return shlex.split(command)


def test_systemd_can_read_it(tmp_path: Path) -> None:
    # It looks for the program, which is not at its place on the machine that runs the tests.
    installed = started()[0]
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(installed, program("pixxel-gateway")), encoding="utf-8")
    assert not passes(tool("systemd-analyze", "systemd"), "verify", "--man=no", "--recursive-errors=no", unit)


def test_it_may_do_little() -> None:
    # Exposure is 0.0 to 10.0, here times ten; a unit without any of the settings has 9.6.
    passes(tool("systemd-analyze", "systemd"), "security", "--offline=true", "--no-pager", "--threshold=13", UNIT)


def test_its_user_is_made_as_it_should_be(tmp_path: Path) -> None:
    planned = passes(tool("systemd-sysusers", "systemd"), "--dry-run", f"--root={tmp_path}", USERS)
    (user,) = said("User")
    assert f"Creating user '{user}'" in planned


def test_it_configures_a_gateway(tmp_path: Path) -> None:
    environ = dict(pair.split("=", 1) for pair in said("Environment"))
    key = tmp_path / "api-key"
    key.write_text("vendor-key\n", encoding="utf-8")
    assert environ["GATEWAY_CONFIG"].startswith("/etc/pixxel-gateway/")
    assert environ["GATEWAY_UPSTREAM__API_KEY_FILE"].startswith("/etc/pixxel-gateway/secrets/")
    environ |= {
        "GATEWAY_CONFIG": str(ROOT / "config" / "gateway.toml"),
        "GATEWAY_UPSTREAM__API_KEY_FILE": str(key),
    }
    loaded = load(environ=environ)
    assert loaded.warnings == []
    settings = loaded.settings
    assert float(said("TimeoutStopSec")[0]) > settings.server.drain + settings.upstream.deadline
    # The gateway leaves a quarter of its descriptors to everything but clients.
    assert int(said("LimitNOFILE")[0]) * 3 / 4 >= settings.server.max_connections


def test_it_starts_and_reloads_the_gateway() -> None:
    name, *arguments = started()
    assert Path(name).name == "pixxel-gateway"
    assert _parser().parse_args(arguments).run
    assert said("ExecReload") == ["/bin/sh -c 'kill -HUP $MAINPID'"]
    # SIGTERM, its default, is what drains; SIGTERM to every process would end workers before their parent.
    assert (said("KillSignal"), said("KillMode")) == ([], ["mixed"])
