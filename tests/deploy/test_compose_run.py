"""The compose project, run: every service in a container of its own, on a network with DNS as Docker provides it.

The gateways and the stand-in vendor run from the image. HAProxy, Redis, Prometheus and Alertmanager are the programs of
this machine, started with the commands and files of deploy/compose.yml, because their images cannot be fetched
everywhere. Grafana is left out: Debian has no package of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import pytest
from compose_file import composed, mounts
from containers import Container, Image, bind, image_directories, installed_programs, tmpfs
from harness import PATIENCE, until
from networks import RESOLV_CONF, Host, Network
from tools import tool

pytestmark = [pytest.mark.image, pytest.mark.skipif(sys.platform != "linux", reason="containers need Linux")]
PATH = "/v0/aois/fa851d3b-39e7-4269-a94e-6db618d3c9a0/assets"


class Project:
    """The services of deploy/compose.yml, started as its line for the demo does."""

    def __init__(self, image: Image, directory: Path, network: Network, stack: ExitStack) -> None:
        self._image, self._directory, self._network, self._stack = image, directory, network, stack
        key = directory / "demo-key"
        key.write_text("demo-key\n", encoding="utf-8")
        self._compose = composed(PIXXEL_API_KEY_FILE=str(key), GATEWAY_UPSTREAM__BASE_URL="http://vendor:8081")
        self._resolv_conf = directory / "resolv.conf"
        self._resolv_conf.write_text(RESOLV_CONF, encoding="utf-8")
        self.hosts: dict[str, list[Host]] = {}
        self.containers: dict[str, list[Container]] = {}

    @property
    def gateways(self) -> list[Container]:
        return self.containers["gateway"]

    def service(self, name: str) -> Any:
        return self._compose["services"][name]

    def start(self, name: str) -> None:
        """Start every replica of a service that is built from the image."""
        service = self.service(name)
        arguments = [*self._image.entrypoint, *service.get("command", self._image.command)]
        for _ in range(service.get("deploy", {}).get("replicas", 1)):
            self._start(name, self._image, arguments, [])

    def start_installed(self, name: str, program: str, package: str, *arguments: str) -> None:
        """Start a service whose image is replaced by a program of this machine, from this package of Debian's."""
        image, programs = installed_programs(self._directory)
        self._start(name, image, [tool(program, package), *arguments], programs)

    def _start(self, name: str, image: Image, arguments: Sequence[str], programs: list[dict[str, Any]]) -> None:
        service = self.service(name)
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        host = self._network.add_host(name)
        secrets = [
            bind(Path(self._compose["secrets"][secret]["file"]), f"/run/secrets/{secret}")
            for secret in service.get("secrets", [])
        ]
        container = Container(
            image, self._directory, arguments,
            environ={key: str(value) for key, value in service.get("environment", {}).items()},
            # A container of an image runs as the image's user; of the others only Redis names one.
            user=service.get("user", None if image is self._image else "65534:65534"),
            mounts=[
                *programs,
                bind(self._resolv_conf, "/etc/resolv.conf"),
                *(bind(source, target) for target, source in mounts(service).items()),
                *(tmpfs(target) for target in service.get("tmpfs", [])),
                *secrets,
            ],
            network=host.namespace,
            nofile=service.get("ulimits", {}).get("nofile"),
        )  # fmt: skip
        self._stack.enter_context(container)
        self.hosts.setdefault(name, []).append(host)
        self.containers.setdefault(name, []).append(container)

    def get(self, name: str, port: int, path: str = "/") -> tuple[int, HTTPMessage, bytes]:
        return self.hosts[name][0].get(port, path)

    def get_json(self, name: str, port: int, path: str) -> Any:
        return json.loads(self.get(name, port, path)[2])


def answers(request: Callable[[], tuple[int, HTTPMessage, bytes]], status: int = 200) -> Callable[[], bool]:
    """A condition: the request can be sent, and its response has this status."""

    def condition() -> bool:
        try:
            return request()[0] == status
        except OSError:
            return False

    return condition


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    image = Image.load(image_directories()[-1])
    with ExitStack() as stack:
        started = Project(image, tmp_path, stack.enter_context(Network()), stack)
        redis = started.service("redis")["entrypoint"]
        # What an image's own command would say stands here.
        started.start_installed(
            "redis", redis[0], "redis-server", *redis[1:], "--bind", "0.0.0.0", "--protected-mode", "no"
        )
        started.start("vendor")
        started.start("gateway")
        started.start_installed(
            "balancer", "haproxy", "haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"
        )
        started.start_installed(
            "prometheus", "prometheus", "prometheus",
            "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/var/prometheus",
        )  # fmt: skip
        started.start_installed(
            "alertmanager", "prometheus-alertmanager", "prometheus-alertmanager", "--cluster.listen-address=",
            "--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/var/alertmanager",
        )  # fmt: skip
        await until(lambda: all(gateway.execute(*image.healthcheck).returncode == 0 for gateway in started.gateways))
        await until(answers(lambda: started.get("balancer", 8080, PATH)))
        yield started
        for name, containers in started.containers.items():
            for container in containers:
                assert "Traceback" not in container.output, name


async def test_a_page_reaches_clients_through_the_balancer_and_is_shared_through_redis(project: Project) -> None:
    project.get("balancer", 8080, PATH)
    pages = [project.get("balancer", 8080, PATH) for _ in range(4)]  # both gateways: leastconn alternates
    assert {headers["Cache-Status"].partition(";")[2].strip()[:3] for _, headers, _ in pages} == {"hit"}
    assert len({body for _, _, body in pages}) == 1
    await until(lambda: len(_access_lines(project)) >= 5)
    lines = _access_lines(project)
    # The client is the one that the balancer names, not the balancer; here the requests come from the balancer's host.
    assert {line["client"] for line in lines} == {project.hosts["balancer"][0].address}
    assert len([line for line in lines if line["upstream_ms"] is not None]) == 1


def _access_lines(project: Project) -> list[dict[str, Any]]:
    """Return the lines of the gateways' access logs that are about pages."""
    lines = [line for gateway in project.gateways for line in gateway.output.splitlines()]
    return [json.loads(line) for line in lines if '"route":"assets"' in line]


async def test_health_checks_of_the_services_succeed(project: Project) -> None:
    for gateway in project.gateways:
        assert gateway.execute(*gateway.image.healthcheck).returncode == 0
    kind, *command = project.service("redis")["healthcheck"]["test"]
    assert kind == "CMD"
    [redis] = project.containers["redis"]
    assert redis.execute(*command).stdout == "PONG\n"


async def test_commands_of_the_comments_work_in_the_gateways(project: Project) -> None:
    [gateway, _] = project.gateways
    gateway.signal("HUP")  # `compose kill --signal SIGHUP gateway`
    await until(lambda: "the configuration was reloaded" in gateway.output)
    created = gateway.execute(*gateway.image.entrypoint, "token", "new", "--team", "analytics")
    assert created.stdout.startswith("pgw_"), created.stderr


async def test_prometheus_scrapes_every_gateway_and_sends_alerts_to_alertmanager(project: Project) -> None:
    await until(answers(lambda: project.get("prometheus", 9090, "/-/ready")))

    def healthy_targets() -> int:
        targets = project.get_json("prometheus", 9090, "/api/v1/targets?state=active")["data"]["activeTargets"]
        return sum(target["health"] == "up" for target in targets)

    await until(lambda: healthy_targets() == 2, seconds=60)
    groups = project.get_json("prometheus", 9090, "/api/v1/rules")["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
    assert sum(len(group["rules"]) for group in groups) > 20
    found = project.get_json("prometheus", 9090, "/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
    [url] = [one["url"] for one in found]
    assert url == "http://alertmanager:9093/api/v2/alerts"
    [alertmanager] = project.containers["alertmanager"]
    await until(lambda: answers(lambda: project.get("alertmanager", 9093, "/-/ready"))() or alertmanager.ended)
    assert not alertmanager.ended, alertmanager.output


async def test_stopping_a_gateway_under_load_loses_no_request(project: Project) -> None:
    await until(lambda: _gateways_that_answered(project) == 2)
    [first, _] = project.gateways
    statuses: list[int] = []
    stopped = threading.Event()

    def ask() -> None:
        while not stopped.is_set():
            statuses.append(project.get("balancer", 8080, PATH)[0])

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        await until(lambda: len(statuses) > 50)
        first.signal(first.image.config["StopSignal"])
        grace = float(project.service("gateway")["stop_grace_period"].removesuffix("s"))
        assert await asyncio.to_thread(first.wait, grace) == 0
        count = len(statuses)
        await until(lambda: len(statuses) > count + 50)
    finally:
        stopped.set()
        for client in clients:
            await asyncio.to_thread(client.join, PATIENCE)
    assert set(statuses) == {200}


def _gateways_that_answered(project: Project) -> int:
    """Send one more request, and count the gateways that have answered any."""
    project.get("balancer", 8080, PATH)
    return sum('"route":"assets"' in gateway.output for gateway in project.gateways)
