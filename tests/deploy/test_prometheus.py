"""Prometheus' rules and Grafana's dashboard: against promtool, each other and what the gateway exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Play
from holding_vendor import HoldingVendor
from prometheus_client import CollectorRegistry
from promql import Known, exported
from tools import ROOT, parsed, passes, tool

from gateway.telemetry.metrics import Metrics

PROMETHEUS = ROOT / "config" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
GRAFANA = ROOT / "deploy" / "grafana"
(DASHBOARD,) = (GRAFANA / "dashboards").glob("*.json")
ROWS = ["Traffic", "Latency", "Cache", "Vendor", "Redis", "Teams", "Process"]


def rules(kind: str) -> list[dict[str, Any]]:
    return [
        rule for path in RULES for group in parsed(path)["groups"] for rule in group["rules"] if kind in rule
    ]  # fmt: skip


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def as_promql(text: str) -> str:
    """A panel's expression with Grafana's variables filled in."""
    return re.sub(r"\$(job|instance)\b", ".+", re.sub(r"\$__(rate_interval|range)\b", "5m", text))


@pytest.fixture
async def known(play: Play, vendor: HoldingVendor) -> Known:
    """What a gateway exports that has answered from the vendor and from the cache."""
    for _ in range(2):
        assert (await play.page(vendor.aoi_ids[2])).status == 200
    for path in ("/healthz", "/readyz"):
        await play.get(path)
    registry = CollectorRegistry()
    Metrics(registry, ["analytics"])
    return exported(registry, (await play.get("/metrics")).body.decode())


def test_the_configuration_and_the_rules_pass_promtool() -> None:
    promtool = tool("promtool", "prometheus")
    passes(promtool, "check", "config", PROMETHEUS / "prometheus.yml")
    passes(promtool, "check", "rules", "--lint=all", "--lint-fatal", *RULES)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_rules_do_what_their_tests_say(path: Any) -> None:
    assert "SUCCESS" in passes(tool("promtool", "prometheus"), "test", "rules", path)


def looks(test: dict[str, Any]) -> Iterator[str]:
    """What fires at each look of a test at the alerts, in order of time."""
    for look in sorted(test["promql_expr_test"], key=lambda look: int(look["eval_time"].removesuffix("m"))):
        if look["expr"].startswith("ALERTS"):
            yield " ".join(sample["labels"] for sample in look["exp_samples"])


def test_each_alert_is_seen_to_fire_and_to_clear() -> None:
    alerts = [{"alertname": rule["alert"], **rule["labels"]} for rule in rules("alert")]
    assert len(alerts) == 16
    tests = [list(looks(test)) for path in TESTS for test in parsed(path)["tests"]]
    for alert in alerts:
        labels = [f'{name}="{value}"' for name, value in alert.items()]
        assert any(
            all(label in firing for label in labels) and "" in test[at:]
            for test in tests
            for at, firing in enumerate(test)
        ), f"no test fires {alert} and clears it"


async def test_the_rules_ask_for_what_is_exported(known: Known) -> None:
    for rule in rules("record"):
        known.record(rule["record"], rule["expr"])
    for rule in rules("alert"):
        labels = known.check(rule["expr"])
        assert labels is not None, rule
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert used <= labels, rule["alert"]  # what the rule adds is not among them
        # What the text tells to look at is there as well.
        for name in re.findall(r"\bgateway_\w+", json.dumps(rule["annotations"])):
            assert any(series.startswith(name) for series in known.series), (rule["alert"], name)


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in rules("alert"):
        assert rule["alert"].startswith("PixxelGateway")
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert len(rule["annotations"]["runbook"]) > 100, rule["alert"]


async def test_the_dashboard_asks_for_what_is_exported(known: Known) -> None:
    for rule in rules("record"):
        known.record(rule["record"], rule["expr"])
    for panel in panels():
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            labels = known.check(as_promql(target["expr"]))
            assert labels is not None, panel["title"]
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, panel["title"]


async def test_every_metric_is_watched_by_a_rule_or_a_panel(known: Known) -> None:
    asked = " ".join(
        [rule["expr"] for rule in rules("record") + rules("alert")]
        + [target["expr"] for panel in panels() for target in panel["targets"]]
    )
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known.series if name.startswith("gateway_")}
    assert len(ours) > 25
    assert not {name for name in ours if name not in asked}


def test_every_panel_can_be_read_and_filtered() -> None:
    board = dashboard()
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == ROWS
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels():
        title = panel["title"]
        assert panel["description"].endswith("."), title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
        for target in panel["targets"]:
            for matchers in re.findall(r"\{([^{}]*)\}", target["expr"]):
                wanted = "" if "job:" in target["expr"] else ', instance=~"$instance"'
                assert matchers.startswith(f'job=~"$job"{wanted}'), title
            # A fixed window is empty where Prometheus scrapes less often.
            assert not re.findall(r"\[\d", target["expr"]), title


def test_no_panel_covers_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            assert x < 24, panel["title"]
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_the_variables_are_those_of_the_conventions() -> None:
    source, job, instance = dashboard()["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert job["query"]["query"] == "label_values(gateway_build_info, job)"
    assert instance["query"]["query"] == 'label_values(gateway_build_info{job=~"$job"}, instance)'
    for variable in (job, instance):
        assert variable["datasource"]["uid"] == "${datasource}"
        assert variable["multi"]
        assert variable["includeAll"]


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("gateway_http_request_total", "not exported"),
        ("gateway_upstream_request_duration_seconds", "not exported"),
        ('gateway_cache_requests_total{results="hit"}', "no label results"),
        ('gateway_cache_requests_total{result="hits"}', "no result of"),
        ('gateway_http_request_duration_seconds_bucket{le="0.7"}', "no le of"),
        ("sum by (aoi_id) (gateway_http_requests_total)", "nothing to group by"),
        ("rate(gateway_cache_bytes[5m])", "no counter"),
        ("histogram_quantile(0.9, sum by (job) (rate(gateway_event_loop_lag_seconds_bucket[5m])))", "no le is left"),
        ("sum by (job) (up) and sum by (instance) (up)", "never match"),
        ("sum by (job) (up) / on (team) up", "not on both sides"),
    ],
)
async def test_what_can_never_match_is_noticed(known: Known, expression: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        known.check(expression)
