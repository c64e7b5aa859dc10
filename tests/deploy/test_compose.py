"""The compose file: against the specification, the loader and the files that it mounts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import image
from compose_file import COMPOSE, composed, mounts
from tools import ROOT, parsed, passes, program

from gateway.cli.main import _parser
from gateway.config.loading import Loaded, load

PROMETHEUS = ROOT / "config" / "prometheus"
UP = re.compile(r'\bup\{job="([^"]*)"\}')
KEY_FILE = "/run/secrets/pixxel_api_key"


def gateway_environment(compose: Any) -> dict[str, str]:
    given = {name: str(value) for name, value in compose["services"]["gateway"]["environment"].items()}
    return image.settings() | given


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


def test_the_compose_file_fits_the_specification() -> None:
    passes(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


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
    assert mounts(gateway) == {f"{image.only('WORKDIR')}/config": ROOT / "config"}


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
    asked = _parser().parse_args(vendor["command"])
    assert asked.host == "0.0.0.0"
    settings = configuration(tmp_path, compose, key=key).settings
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == asked.key
    assert settings.upstream.base_url == f"http://vendor:{asked.port}"


def test_there_are_two_gateways_and_one_way_to_them() -> None:
    services = composed()["services"]
    assert services["gateway"]["deploy"]["replicas"] == 2
    assert "ports" not in services["gateway"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {
        "balancer": ["127.0.0.1:8080:8080"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "alertmanager": ["127.0.0.1:9093:9093"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_prometheus_finds_every_gateway_and_the_rules() -> None:
    compose = composed()
    assert mounts(compose["services"]["prometheus"]) == {"/etc/prometheus": PROMETHEUS}
    config = parsed(PROMETHEUS / "prometheus.yml")
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    port = compose["services"]["gateway"]["environment"]["GATEWAY_OPS__PORT"]
    assert (found["names"], found["type"], found["port"]) == (["gateway"], "A", port)
    # The alerts about a target that is down or absent go by it.
    asked = {name for path in (PROMETHEUS / "rules").glob("*.yml") for name in UP.findall(path.read_text("utf-8"))}
    assert asked == {job["job_name"]}
    (pattern,) = config["rule_files"]
    assert len(list(PROMETHEUS.glob(pattern))) == 3


def test_grafana_is_provisioned_with_the_data_source_and_the_dashboard() -> None:
    services = composed()["services"]
    seen = mounts(services["grafana"])
    (source,) = parsed(seen["/etc/grafana/provisioning"] / "datasources" / "prometheus.yml")["datasources"]
    url = urlsplit(source["url"])
    assert f"127.0.0.1:{url.port}:{url.port}" in services[url.hostname]["ports"]
    assert source["type"] == "prometheus"
    assert source["isDefault"]
    interval = parsed(PROMETHEUS / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
    (provider,) = parsed(seen["/etc/grafana/provisioning"] / "dashboards" / "pixxel-gateway.yml")["providers"]
    assert provider["type"] == "file"
    home = Path(services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (seen[provider["options"]["path"]] / home.name).is_file()
