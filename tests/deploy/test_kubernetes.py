"""What would be applied to a cluster: against the schemas of Kubernetes, the loader, the image and itself."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import image
import pytest
from kustomized import only, rendered
from ruamel.yaml import YAML
from tools import ROOT, documents, passes, program

from gateway.cli.main import _parser
from gateway.config.loading import Settings, load

KUBERNETES = ROOT / "deploy" / "kubernetes"
BASE = KUBERNETES / "base"
EXAMPLE = KUBERNETES / "overlays" / "example"
KUSTOMIZE_5 = re.compile(r"Kustomize Version: v5")
HASH = re.compile(r"(name: pixxel-gateway)-[a-z0-9]{10}\b")
# There is no schema of it in Kubernetes itself.
FOREIGN = {"ServiceMonitor"}


@pytest.fixture(params=[BASE, EXAMPLE], ids=lambda path: path.name)
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return rendered(request.param)


@pytest.fixture
def example() -> list[dict[str, Any]]:
    return rendered(EXAMPLE)


def pod_of(objects: list[dict[str, Any]], name: str = "pixxel-gateway") -> Any:
    return only(objects, "Deployment", name)["spec"]["template"]["spec"]


def configured(objects: list[dict[str, Any]], tmp_path: Path) -> Settings:
    """What a pod's gateway loads, with the Secret where a test can write."""
    (container,) = pod_of(objects)["containers"]
    secret = tmp_path / "api-key"
    secret.write_text("vendor-key\n", encoding="utf-8")
    environ = image.settings() | {one["name"]: one["value"] for one in container["env"]}
    path = Path(environ["GATEWAY_CONFIG"])
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(path.parent) == mounted["config"]
    text = only(objects, "ConfigMap")["data"][path.name]
    assert tomllib.loads(text)["upstream"]["api_key_file"] == f"{mounted['secrets']}/api-key"
    config = tmp_path / path.name
    config.write_text(text, encoding="utf-8")
    changed = {"GATEWAY_CONFIG": str(config), "GATEWAY_UPSTREAM__API_KEY_FILE": str(secret)}
    loaded = load(environ=environ | changed)
    assert loaded.warnings == []
    return loaded.settings


def test_they_fit_the_schemas(tmp_path: Path) -> None:
    several = [one for directory in (BASE, EXAMPLE) for one in rendered(directory) if one["kind"] not in FOREIGN]
    assert len(several) > 15
    paths = []
    for number, one in enumerate(several):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(json.dumps(one), encoding="utf-8")
    said = passes(program("kubernetes-validate"), "--strict", *paths)
    assert said.count(" passed for resource ") == len(paths)


@pytest.mark.parametrize("directory", [BASE, EXAMPLE], ids=lambda path: path.name)
def test_they_are_what_kubectl_would_apply(directory: Path) -> None:
    # No registry has a kubectl that is new enough: where there is none, what is known of kustomize must do.
    objects = in_order(rendered(directory))
    assert {"Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget"} <= {one["kind"] for one in objects}
    if (kubectl := shutil.which("kubectl")) and KUSTOMIZE_5.search(passes(kubectl, "version", "--client")):
        printed = HASH.sub(r"\1", passes(kubectl, "kustomize", str(directory)))
        assert in_order(YAML(typ="safe", pure=True).load_all(printed)) == objects


def in_order(several: Iterable[Any]) -> list[Any]:
    return sorted(several, key=lambda one: (one["kind"], one["metadata"]["name"]))


def test_every_file_is_used() -> None:
    used = {
        path
        for directory in (BASE, EXAMPLE, KUBERNETES / "redis")
        for key in ("resources", "patches", "configMapGenerator")
        for (kustomization,) in [documents(directory / "kustomization.yaml")]
        for entry in kustomization.get(key, [])
        for name in ([entry] if isinstance(entry, str) else entry.get("files") or [entry["path"]])
        if (path := directory / name).is_file()
    }
    assert used == {path for path in KUBERNETES.rglob("*") if path.is_file() and path.name != "kustomization.yaml"}


def test_it_configures_a_gateway_that_lets_nobody_in_unasked(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    settings = configured(objects, tmp_path)
    assert settings.auth_mode == "tokens"
    tokens = [digest for team in settings.teams.values() for digest in team.token_sha256]
    assert tokens
    assert all(len(set(digest)) == 1 for digest in tokens)  # nobody's
    assert settings.cache.memory_max_bytes * 3 <= size(
        pod_of(objects)["containers"][0]["resources"]["limits"]["memory"]
    )


def size(text: str) -> int:
    assert text.endswith("Mi")
    return int(text.removesuffix("Mi")) << 20


def test_what_listens_is_what_is_asked(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    settings = configured(objects, tmp_path)
    (container,) = pod_of(objects)["containers"]
    assert _parser().parse_args(container["args"]).run
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.server.port, "metrics": settings.ops.port}
    assert (settings.server.host, settings.ops.host) == ("0.0.0.0", "0.0.0.0")
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert probes == {
        "startup": {"path": "/healthz", "port": "metrics"},
        "liveness": {"path": "/healthz", "port": "metrics"},
        "readiness": {"path": "/readyz", "port": "metrics"},
    }
    service = only(objects, "Service")["spec"]
    assert {port["name"]: port["targetPort"] for port in service["ports"]} == {"http": "http", "metrics": "metrics"}


def test_a_pod_that_ends_loses_no_request(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    settings, pod = configured(objects, tmp_path), pod_of(objects)
    assert pod["terminationGracePeriodSeconds"] > settings.server.drain + settings.upstream.deadline
    readiness = pod["containers"][0]["readinessProbe"]
    # Unready, and a few seconds more until every node has heard of it.
    assert settings.server.drain >= readiness["periodSeconds"] * readiness["failureThreshold"] + 5
    assert only(objects, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_every_pod_is_as_restricted_as_can_be(example: list[dict[str, Any]]) -> None:
    labels = only(example, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for name in ("pixxel-gateway", "pixxel-gateway-redis"):
        pod = pod_of(example, name)
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        assert re.search(r":\d+\.\d+", container["image"]), "an image without a version"
    pod = pod_of(example)
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == image.only("USER")


def test_the_key_is_a_directory_that_can_change(objects: list[dict[str, Any]]) -> None:
    pod = pod_of(objects)
    assert not [mount for mount in pod["containers"][0]["volumeMounts"] if "subPath" in mount]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    secret = volumes["secrets"]["secret"]
    assert secret["secretName"] == "pixxel-gateway"
    assert secret["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    # It is told how to make it, under the name and the key that are read here.
    told = (EXAMPLE / "kustomization.yaml").read_text(encoding="utf-8")
    assert f"create secret generic {secret['secretName']} --from-file=api-key=" in told


def test_selectors_find_what_they_mean(example: list[dict[str, Any]]) -> None:
    labels = only(example, "Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        only(example, "Deployment")["spec"]["selector"]["matchLabels"],
        only(example, "Service")["spec"]["selector"],
        only(example, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(example, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        pod_of(example)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        only(example, "NetworkPolicy", "pixxel-gateway-redis")["spec"]["ingress"][0]["from"][0]["podSelector"][
            "matchLabels"
        ],
    ]
    assert all(selector == labels for selector in selectors)
    target = only(example, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "pixxel-gateway"}
    assert "replicas" not in only(example, "Deployment")["spec"]  # or every apply would undo what it has done
    assert only(example, "HorizontalPodAutoscaler")["spec"]["minReplicas"] >= 2


def test_the_network_lets_through_what_is_needed(example: list[dict[str, Any]], tmp_path: Path) -> None:
    settings = configured(example, tmp_path)
    policy = only(example, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    opened = [[port["port"] for port in rule["ports"]] for rule in policy["ingress"]]
    assert opened == [["http"], ["metrics"]]
    _, redis, _ = policy["egress"]
    url = urlsplit(settings.cache_url.get_secret_value())
    service = only(example, "Service", str(url.hostname))["spec"]
    assert [port["port"] for port in service["ports"]] == [url.port]
    assert redis["to"] == [{"podSelector": {"matchLabels": service["selector"]}}]
    assert redis["ports"] == [{"port": url.port, "protocol": "TCP"}]
    assert urlsplit(settings.upstream.base_url).scheme == "https"
    assert (
        service["selector"] == only(example, "Deployment", str(url.hostname))["spec"]["template"]["metadata"]["labels"]
    )


@pytest.mark.parametrize(
    ("address", "port", "protocol", "allowed"),
    [
        ("10.96.0.10", 53, "UDP", True),  # the cluster's DNS, by the address of its Service
        ("169.254.20.10", 53, "UDP", True),  # NodeLocal DNSCache
        ("169.254.169.254", 53, "UDP", True),  # the resolver of some clouds
        ("fd00:ec2::253", 53, "TCP", True),
        ("203.0.113.7", 443, "TCP", True),  # a vendor
        ("2001:db8::7", 443, "TCP", True),
        ("203.0.113.7", 80, "TCP", False),
        ("169.254.169.254", 80, "TCP", False),  # where clouds hand out credentials
        ("169.254.169.254", 443, "TCP", False),
        ("10.1.2.3", 443, "TCP", False),
        ("fd00::1", 443, "TCP", False),
        ("fe80::1", 443, "TCP", False),
        ("::1", 443, "TCP", False),
    ],
)
def test_egress_is_allowed_to_dns_and_to_the_vendor_in_both_families_only(
    objects: list[dict[str, Any]], address: str, port: int, protocol: str, allowed: bool
) -> None:
    rules = only(objects, "NetworkPolicy")["spec"]["egress"]
    assert any(allows(rule, address, port, protocol) for rule in rules) == allowed


def allows(rule: dict[str, Any], address: str, port: int, protocol: str) -> bool:
    """Whether a rule of a NetworkPolicy allows traffic to an address that is not a pod of the cluster."""
    if {"port": port, "protocol": protocol} not in rule["ports"]:
        return False
    blocks = [peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer]
    target = ip_address(address)
    return "to" not in rule or any(
        target in ip_network(block["cidr"]) and not any(target in ip_network(other) for other in block["except"])
        for block in blocks
    )


def test_prometheus_is_told_of_the_metrics(example: list[dict[str, Any]]) -> None:
    monitor, service = only(example, "ServiceMonitor")["spec"], only(example, "Service")
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]
    # The alerts go by the job's name.
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "pixxel-gateway"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["path"] == "/metrics"
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
