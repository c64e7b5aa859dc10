"""The files that put the gateway into containers: against their validators, the code and each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ruamel.yaml import YAML

from gateway.cli import _parser
from gateway.settings import ConfigurationError, Loaded, load

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "deploy" / "compose.yml"
PROMETHEUS = ROOT / "config" / "prometheus" / "prometheus.yml"
KEY_FILE = "/run/secrets/pixxel_api_key"
SETTING = re.compile(r"\bGATEWAY_[A-Z0-9_]+")


def program(name: str) -> str:
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    assert found, f"{name} is not installed, which the development extras bring"
    return found


def passes(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr


def parsed(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def interpolated(text: str, environ: Mapping[str, str]) -> str:
    """As Compose does it, as far as compose.yml needs it."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: environ.get(found[1]) or found[2], text)


def composed(**environ: str) -> Any:
    return YAML(typ="safe", pure=True).load(interpolated(COMPOSE.read_text(encoding="utf-8"), environ))


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines()) if name
    ]


def last_stage() -> list[tuple[str, str]]:
    every = instructions()
    return every[max(index for index, (name, _) in enumerate(every) if name == "FROM") :]


def only(name: str) -> str:
    (value,) = [value for found, value in last_stage() if found == name]
    return value


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for name, value in last_stage() if name == "ENV" for pair in value.split())


def gateway_environment(compose: Any) -> dict[str, str]:
    given = {name: str(value) for name, value in compose["services"]["gateway"]["environment"].items()}
    return {name: value for name, value in (image_environment() | given).items() if name.startswith("GATEWAY_")}


def configuration(tmp_path: Path, compose: Any, key: str = "vendor-key", **changes: str) -> Loaded:
    """What the gateway's container loads, with the secret where a test can write."""
    secret = tmp_path / "key"
    secret.write_text(f"{key}\n", encoding="utf-8")
    environ = gateway_environment(compose) | changes
    assert environ["GATEWAY_UPSTREAM__API_KEY_FILE"] == KEY_FILE
    return load(
        file=str(ROOT / "config" / "gateway.toml"),
        environ=environ | {"GATEWAY_UPSTREAM__API_KEY_FILE": str(secret)},
    )


def test_the_dockerfile_passes_hadolint() -> None:
    passes(program("hadolint"), "--failure-threshold", "style", "--no-color", DOCKERFILE)


def test_the_compose_file_fits_the_specification() -> None:
    passes(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_prometheus_scrapes_the_operations_listener_of_the_compose_file() -> None:
    if promtool := shutil.which("promtool"):  # it knows better still, but comes with no Python package
        passes(promtool, "check", "config", PROMETHEUS)
    config = parsed(PROMETHEUS)
    assert config.keys() <= {"global", "scrape_configs", "rule_files"}
    for name in ("scrape_interval", "evaluation_interval"):
        assert re.fullmatch(r"[1-9][0-9]*s", config["global"][name])
    (job,) = config["scrape_configs"]
    port = parsed(COMPOSE)["services"]["gateway"]["environment"]["GATEWAY_OPS__PORT"]
    assert job == {"job_name": "pixxel-gateway", "static_configs": [{"targets": [f"gateway:{port}"]}]}


@pytest.mark.parametrize("path", [DOCKERFILE, COMPOSE, PROMETHEUS], ids=lambda path: path.name)
def test_every_variable_that_is_named_is_a_setting(path: Path) -> None:
    names = set(SETTING.findall(path.read_text(encoding="utf-8")))
    assert names
    for name in names:
        warnings = load(environ={name: ""}, need_key=False, use_file=False).warnings
        assert not [one for one in warnings if "is no setting" in one]


def test_the_image_is_built_in_stages_on_a_base_that_can_be_chosen() -> None:
    every = instructions()
    assert every[0] == ("ARG", "BASE=python:3.13-slim")
    assert [value for name, value in every if name == "FROM"] == ["${BASE} AS build", "${BASE}"]
    (copied,) = [value.split() for name, value in last_stage() if name == "COPY"]
    assert copied[0] == "--from=build"
    assert copied[1] == copied[2]  # a venv and its bytecode know their own path
    assert not [value for name, value in last_stage() if name in ("RUN", "ADD")]
    assert image_environment()["PATH"].startswith(f"{copied[2]}/bin:")


def test_the_image_runs_the_gateway_itself_as_nobody_in_particular() -> None:
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", only("USER"))
    assert only("STOPSIGNAL") == "SIGTERM"
    assert json.loads(only("ENTRYPOINT")) == ["pixxel-gateway"]
    checked = json.loads(only("HEALTHCHECK").partition(" CMD ")[2])
    assert checked[:1] == ["pixxel-gateway"]
    for command in (checked[1:], json.loads(only("CMD"))):
        assert _parser().parse_args(command).run


def test_the_image_listens_where_it_says_and_lets_nobody_in_unasked() -> None:
    environ = {name: value for name, value in image_environment().items() if name.startswith("GATEWAY_")}
    environ["GATEWAY_UPSTREAM__API_KEY"] = "vendor-key"
    with pytest.raises(ConfigurationError, match="no team is configured"):
        load(environ=environ, use_file=False)
    server = load(environ=environ | {"GATEWAY_AUTH__MODE": "open"}, use_file=False).settings.server
    assert (server.host, str(server.port)) == ("0.0.0.0", only("EXPOSE"))


def test_what_the_dockerfile_copies_reaches_the_builder() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    sources = [
        source
        for name, value in instructions()
        if name == "COPY" and not value.startswith("--from")
        for source in value.split()[:-1]
    ]
    assert "pyproject.toml" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        ignored = False
        for rule in rules:
            if fnmatchcase(source, rule.removeprefix("!").strip("/")):
                ignored = not rule.startswith("!")
        assert not ignored, source


def test_the_compose_file_configures_a_gateway(tmp_path: Path) -> None:
    compose = composed()
    loaded = configuration(tmp_path, compose)
    settings = loaded.settings
    assert loaded.warnings == []
    assert settings.auth_mode == "open"
    assert settings.ops.host == "0.0.0.0"
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "vendor-key"
    assert settings.upstream.base_url == load(environ={}, need_key=False, use_file=False).settings.upstream.base_url
    host = urlsplit(settings.cache_url.get_secret_value()).hostname
    assert host == "redis"
    assert host in compose["services"]


def test_the_compose_file_works_with_teams_once_everybody_is_no_longer_let_in(tmp_path: Path) -> None:
    team = {"GATEWAY_TEAMS__ANALYTICS__TOKEN_SHA256": "0" * 64}
    assert configuration(tmp_path, composed(), GATEWAY_AUTH__MODE="", **team).settings.auth_mode == "tokens"


def test_the_compose_file_has_room_for_the_gateway(tmp_path: Path) -> None:
    compose = composed()
    gateway, settings = compose["services"]["gateway"], configuration(tmp_path, compose).settings
    # The gateway leaves a quarter of its descriptors to everything but clients.
    assert gateway["ulimits"]["nofile"] * 3 / 4 >= settings.server.max_connections
    assert float(gateway["stop_grace_period"].removesuffix("s")) > settings.server.drain + settings.upstream.deadline
    mounted = [volume.split(":") for volume in gateway["volumes"]]
    assert mounted == [["../config", f"{only('WORKDIR')}/config", "ro"]]


def test_the_compose_file_hands_the_key_over_as_a_file() -> None:
    compose = composed()
    (name,) = compose["services"]["gateway"]["secrets"]
    assert f"/run/secrets/{name}" == KEY_FILE
    assert compose["secrets"] == {name: {"file": "./secrets/pixxel_api_key"}}
    assert composed(PIXXEL_API_KEY_FILE="/elsewhere")["secrets"] == {name: {"file": "/elsewhere"}}


def test_the_compose_file_publishes_to_this_machine_only_and_pins_what_it_runs() -> None:
    for name, service in composed()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "build" in service or re.search(r":v?\d+\.\d+", service["image"]), name


def test_the_line_for_the_demo_fits_the_stand_in_vendor(tmp_path: Path) -> None:
    (line,) = re.findall(r"^# +(.*--profile demo .*)$", COMPOSE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    key, path = re.findall(r"^echo (\S+) >(\S+) ", line)[0]
    compose = composed(**dict(re.findall(r"\b([A-Z_]+)=(\S+)", line)))
    assert [secret["file"] for secret in compose["secrets"].values()] == [path]
    vendor = compose["services"]["vendor"]
    assert vendor["profiles"] == ["demo"]
    assert vendor["network_mode"] == "service:gateway"
    asked = _parser().parse_args(vendor["command"])
    settings = configuration(tmp_path, compose, key=key).settings
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == asked.key
    assert settings.upstream.base_url == f"http://127.0.0.1:{asked.port}"
    assert asked.port not in (settings.server.port, settings.ops.port)
