"""The pods of the example overlay, run: container specification, ConfigMap, Secret, memory limit and probes.

There is no kubelet here. What it would do with the rendered objects is done by this file: it mounts volumes, resolves
the names of Services and sends the probes. The gateway runs from the image, Redis is the program of this machine, and
the vendor is the stand-in vendor of the image, in place of the one on the Internet.
"""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from containers import Container, Image, bind, image_directories, installed_programs, tmpfs
from harness import REDIS_ENVIRON, until
from kustomized import only, rendered
from networks import RESOLV_CONF, Host, Network
from tools import ROOT, tool

pytestmark = [pytest.mark.image, pytest.mark.skipif(sys.platform != "linux", reason="containers need Linux")]
EXAMPLE = ROOT / "deploy" / "kubernetes" / "overlays" / "example"
KEY = "vendor-key"
MIB = 1 << 20


class Pod:
    """A pod of one container, with an address of its own."""

    def __init__(self, deployment: Any, host: Host, container: Container) -> None:
        self.specification = deployment["spec"]["template"]["spec"]
        [self.declared] = self.specification["containers"]
        self.host = host
        self.container = container

    def succeeds(self, probe: str) -> bool:
        """Send a probe as the kubelet does; whether it succeeds."""
        declared = self.declared[probe]
        assert not self.container.ended, self.container.output
        if "exec" in declared:
            return self.container.execute(*declared["exec"]["command"]).returncode == 0
        ports = {port["name"]: port["containerPort"] for port in self.declared["ports"]}
        try:
            if "tcpSocket" in declared:
                self.host.connect(ports[declared["tcpSocket"]["port"]]).close()
                return True
            request = declared["httpGet"]
            status, _, _ = self.host.get(ports[request["port"]], request["path"])
        except OSError:
            return False
        return 200 <= status < 400


class Cluster:
    """The objects of the example overlay, and the pods started from them."""

    def __init__(self, image: Image, directory: Path, network: Network, stack: ExitStack) -> None:
        self._image, self._directory, self._network, self._stack = image, directory, network, stack
        self._objects = rendered(EXAMPLE)
        (directory / "resolv.conf").write_text(RESOLV_CONF, encoding="utf-8")
        self._secret = directory / "secret"
        self._secret.mkdir()
        (self._secret / "api-key").symlink_to("..data/api-key")
        self.write_secret(KEY)

    def write_secret(self, key: str) -> None:
        """Change the Secret as the kubelet does: a new directory, and a symbolic link that is replaced at once."""
        volumes = only(self._objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
        [mode] = [volume["secret"]["defaultMode"] for volume in volumes if "secret" in volume]
        written = self._secret / f"..{uuid.uuid4().hex}"
        written.mkdir()
        file = written / "api-key"
        file.write_text(f"{key}\n", encoding="utf-8")
        file.chmod(mode)
        os.chown(file, 0, only(self._objects, "Deployment")["spec"]["template"]["spec"]["securityContext"]["fsGroup"])
        link = self._secret / "..data_tmp"
        link.symlink_to(written.name)
        link.rename(self._secret / "..data")

    def start_vendor(self) -> None:
        arguments = [*self._image.entrypoint, "mock-vendor", "--host", "0.0.0.0", "--port", "8081", "--key", KEY]
        host = self._network.add_host("vendor")
        self._stack.enter_context(Container(self._image, self._directory, arguments, network=host.namespace))

    def start_redis(self) -> Pod:
        deployment = only(self._objects, "Deployment", "pixxel-gateway-redis")
        [declared] = deployment["spec"]["template"]["spec"]["containers"]
        [program] = declared["command"]
        image, programs = installed_programs(self._directory)
        # The Redis image listens on every address; Debian's program does not by default.
        arguments = [tool(program, "redis-server"), *declared["args"], "--bind", "0.0.0.0", "--protected-mode", "no"]
        return self._start(deployment, image, arguments, programs)

    def start_gateway(self, **environ: str) -> Pod:
        deployment = only(self._objects, "Deployment")
        [declared] = deployment["spec"]["template"]["spec"]["containers"]
        arguments = [*self._image.entrypoint, *declared["args"]]
        return self._start(deployment, self._image, arguments, [], **environ)

    def _start(
        self,
        deployment: Any,
        image: Image,
        arguments: Sequence[str],
        programs: Sequence[dict[str, Any]],
        **environ: str,
    ) -> Pod:
        pod = deployment["spec"]["template"]["spec"]
        [declared] = pod["containers"]
        assert declared["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert declared["securityContext"]["readOnlyRootFilesystem"] is True
        security = pod["securityContext"]
        host = self._network.add_host(deployment["metadata"]["name"])
        memory = declared["resources"]["limits"]["memory"]
        assert memory.endswith("Mi")
        mounted = {mount["name"]: mount["mountPath"] for mount in declared.get("volumeMounts", [])}
        container = Container(
            image,
            self._directory,
            arguments,
            environ={one["name"]: one["value"] for one in declared.get("env", [])} | environ,
            user=f"{security['runAsUser']}:{security['runAsGroup']}",
            groups=[security["fsGroup"]] if "fsGroup" in security else [],
            mounts=[
                *programs,
                bind(self._directory / "resolv.conf", "/etc/resolv.conf"),
                *(self._mount(volume, mounted[volume["name"]]) for volume in pod.get("volumes", [])),
            ],
            network=host.namespace,
            memory=int(memory.removesuffix("Mi")) * MIB,
        )
        self._stack.enter_context(container)
        return Pod(deployment, host, container)

    def _mount(self, volume: dict[str, Any], target: str) -> dict[str, Any]:
        """Mount a volume as the kubelet does."""
        if "emptyDir" in volume:
            return tmpfs(target, "mode=1777", f"size={volume['emptyDir']['sizeLimit'].removesuffix('i')}")
        if "configMap" in volume:
            directory = self._directory / "config"
            directory.mkdir(exist_ok=True)
            for name, text in only(self._objects, "ConfigMap", volume["configMap"]["name"])["data"].items():
                (directory / name).write_text(text, encoding="utf-8")
            return bind(directory, target)
        return bind(self._secret, target)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    with ExitStack() as stack:
        image = Image.load(image_directories()[-1])
        yield Cluster(image, tmp_path, stack.enter_context(Network()), stack)


async def test_pods_become_ready_serve_follow_the_secret_and_end_in_time(cluster: Cluster) -> None:
    cluster.start_vendor()
    redis = cluster.start_redis()
    await until(lambda: redis.succeeds("readinessProbe"))
    assert redis.succeeds("livenessProbe")

    # What differs from the overlay: the vendor, the token of a team, and limits that a busy machine would exceed.
    token = "pgw_token-of-the-test"
    environ = {
        **REDIS_ENVIRON,
        "GATEWAY_CACHE__LIFETIMES__IN_PROGRESS": "300",
        "GATEWAY_UPSTREAM__BASE_URL": "http://vendor:8081",
        "GATEWAY_TEAMS__ANALYTICS__TOKEN_SHA256": hashlib.sha256(token.encode()).hexdigest(),
    }
    gateway = cluster.start_gateway(**environ)
    await until(lambda: gateway.succeeds("startupProbe"))
    await until(lambda: gateway.succeeds("readinessProbe"))
    assert gateway.succeeds("livenessProbe")

    ports = {port["name"]: port["containerPort"] for port in gateway.declared["ports"]}
    path = "/v0/aois/fa851d3b-39e7-4269-a94e-6db618d3c9a0/assets"
    assert gateway.host.get(ports["http"], path)[0] == 401
    authorised = {"Authorization": f"Bearer {token}"}
    status, headers, _ = gateway.host.get(ports["http"], path, **authorised)
    assert (status, headers["Cache-Status"]) == (200, "pixxel-gateway; fwd=miss; fwd-status=200; stored")
    # Served from Redis by a pod that has not seen the page.
    other = cluster.start_gateway(**environ)
    await until(lambda: other.succeeds("readinessProbe"))
    assert "hit" in other.host.get(ports["http"], path, **authorised)[1]["Cache-Status"]
    metrics = gateway.host.get(ports["metrics"], "/metrics")[2].decode()
    assert "\ngateway_redis_up 1.0\n" in metrics

    cluster.write_secret("another-key")
    await until(lambda: "the vendor key has changed" in gateway.container.output)

    gateway.container.signal("TERM")
    assert gateway.container.wait(gateway.specification["terminationGracePeriodSeconds"]) == 0
    assert "Traceback" not in gateway.container.output + other.container.output
