"""What an expression of PromQL asks for, held against what the gateway exports.

`Known.check` walks an expression, refuses names, labels and label values that nobody exports, rates of what is no
counter and vectors whose labels never match, and tells which labels its result has. Refuses to know what the numbers
mean: promtool does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import promql_parser as promql
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

# What Prometheus itself adds to every series that it scrapes.
TARGET = frozenset({"job", "instance"})
_OF_COUNTERS = {"rate", "increase", "irate"}
_SETS = {"and", "or", "unless"}


class Series(NamedTuple):
    """A series: its labels, whether it only grows, and the values that labels of a fixed set of values have."""

    labels: frozenset[str]
    grows: bool = False
    values: Mapping[str, frozenset[str]] = {}


@dataclass
class Known:
    """Series by name. `check` adds what recording rules make of them with `record`."""

    series: dict[str, Series] = field(default_factory=lambda: {"up": Series(TARGET)})

    def record(self, name: str, expression: str) -> None:
        """A recording rule's series."""
        labels = self.check(expression)
        assert labels is not None, f"{name} is a number"
        self.series[name] = Series(labels)

    def check(self, expression: str) -> frozenset[str] | None:
        """The labels of an expression's result, None for a number. AssertionError for what can never match."""
        return self._labels(promql.parse(expression))

    def _labels(self, expr: Any) -> frozenset[str] | None:
        match expr:
            case promql.VectorSelector():
                return self._selected(expr).labels
            case promql.MatrixSelector():
                return self._selected(expr.vector_selector).labels
            case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
                return self._labels(expr.expr)
            case promql.AggregateExpr():
                return self._aggregated(expr)
            case promql.Call():
                return self._called(expr)
            case promql.BinaryExpr():
                return self._joined(expr)
        assert isinstance(expr, promql.NumberLiteral), expr
        return None

    def _selected(self, expr: Any) -> Series:
        assert expr.name in self.series, f"{expr.name} is not exported"
        found = self.series[expr.name]
        for matcher in expr.matchers.matchers:
            assert matcher.name in found.labels, f"{expr.name} has no label {matcher.name}"
            known = found.values.get(matcher.name)
            if known is not None and matcher.value not in {"", ".+"}:
                unknown = set(matcher.value.split("|")) - known
                assert not unknown, f"{expr.name} has no {matcher.name} of {unknown}"
        return found

    def _aggregated(self, expr: Any) -> frozenset[str]:
        inner = self._labels(expr.expr)
        assert inner is not None, f"{expr} is over a number"
        if expr.modifier is None:
            return frozenset()
        assert expr.modifier.type == promql.AggModifierType.By, "say `by` what remains"
        kept = frozenset(expr.modifier.labels)
        assert kept <= inner, f"nothing to group by: {set(kept - inner)} in {expr}"
        return kept

    def _called(self, expr: Any) -> frozenset[str] | None:
        name, inner = expr.func.name, [self._labels(argument) for argument in expr.args]
        if name in _OF_COUNTERS:
            (of,) = expr.args
            assert self._selected(of.vector_selector).grows, f"{name} of what is no counter: {of}"
        if name == "absent":
            (of,) = expr.args
            return frozenset(one.name for one in of.matchers.matchers if one.op == promql.MatchOp.Equal)
        vectors = [labels for labels in inner if labels is not None]
        if not vectors:
            return None
        (labels,) = vectors
        if name == "histogram_quantile":
            assert "le" in labels, f"no le is left in {expr}"
            return labels - {"le"}
        return labels

    def _joined(self, expr: Any) -> frozenset[str] | None:
        left, right = self._labels(expr.lhs), self._labels(expr.rhs)
        if left is None or right is None:
            return right if left is None else left
        matching = None if expr.modifier is None else expr.modifier.matching
        if matching is None:
            assert left == right, f"never match: {set(left)} and {set(right)} in {expr}"
            return left
        assert matching.type == promql.LabelModifierType.Include, "say `on` what is matched"
        on = frozenset(matching.labels)
        assert on <= left & right, f"not on both sides: {set(on)} in {expr}"
        many = expr.modifier.card != promql.VectorMatchCardinality.OneToOne
        return left if many or str(expr.op) in _SETS else on


def exported(registry: CollectorRegistry, scrapes: str) -> Known:
    """The series of a registry, and the values of their labels that were scraped."""
    known = Known()
    seen: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(scrapes):
        for sample in family.samples:
            known.series.setdefault(
                sample.name, Series(TARGET | frozenset(sample.labels), family.type in {"counter", "histogram"})
            )
            for label, value in sample.labels.items():
                seen.setdefault(sample.name, {}).setdefault(label, set()).add(value)
    # Children come with the first request of their kind; the registry knows the labels before.
    for collector, names in registry._collector_to_names.items():
        if not isinstance(collector, Counter | Gauge | Histogram):
            continue
        for name in set(names) - ({collector._name} if isinstance(collector, Counter | Histogram) else set()):
            if not name.endswith("_created"):
                known.series[name] = _described(collector, name, seen.get(name, {}))
    return known


def _described(collector: Counter | Gauge | Histogram, name: str, seen: Mapping[str, set[str]]) -> Series:
    labels = TARGET | frozenset(collector._labelnames)
    values = {label: frozenset(seen[label]) for label in ("result", "state", "tier", "scope", "route") if label in seen}
    if isinstance(collector, Histogram) and name.endswith("_bucket"):
        labels |= {"le"}
        values["le"] = frozenset(map(floatToGoString, collector._upper_bounds))
    return Series(labels, not isinstance(collector, Gauge), values)
