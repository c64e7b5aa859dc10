"""The numbers of a process as a value: taken, sent elsewhere, merged, written out for Prometheus.

prometheus_client's own multiprocess mode is not used: it needs a directory of files that are never removed, a variable
in the environment before the library is imported, and it loses the process's own series, `info` and every collector
that is not one of its classes. Numbers as values need none of that, and an ended process's totals are one more value.

Over processes counters and histograms add up, and so do gauges but those below (contract, section 7).

With many teams there are thousands of samples, and whoever collects and writes them all at once holds up every request
for longer than one takes. A thread would hold them up as well, for it takes the interpreter's lock. So it is done a few
samples at a time, with the event loop's other work in between.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_BREAKER = "gateway_upstream_breaker_state"
_FOLDS: dict[str, Callable[[Iterable[float]], float]] = {
    _BREAKER: max,
    "gateway_upstream_paused_until_timestamp_seconds": max,
    "gateway_redis_up": min,
    "gateway_upstream_key_loaded_timestamp_seconds": min,
    "gateway_config_last_reload_successful": min,
    "gateway_build_info": max,
    "python_info": max,
    "process_start_time_seconds": min,
    "process_max_fds": min,
}
# What goes on counting when the process that counted is gone.
_LASTING = ("counter", "histogram", "summary")
# The unit that totals of ended processes are rounded up to, about a microsecond: sums of its multiples are exact.
_UNIT = 2.0**-20
# OpenMetrics ends with it, the older format does not.
_END = b"# EOF\n"
# So many samples take about half a millisecond.
_AT_ONCE = 50
_SEVERITY = {"closed": 0, "open": 2}

Labels = tuple[tuple[str, str], ...]


class Family(msgspec.Struct, array_like=True, frozen=True):
    """One metric: its samples as suffixed name, labels and value."""

    name: str
    text: str
    kind: str
    samples: list[tuple[str, Labels, float]]


MetricFamilies = list[Family]

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(MetricFamilies)


async def collect(registry: CollectorRegistry) -> MetricFamilies:
    """What a registry shows now; each metric as it is at one moment."""
    numbers: MetricFamilies = []
    pace = _Pace()
    for metric in registry.collect():
        samples = [(sample.name, tuple(sample.labels.items()), float(sample.value)) for sample in metric.samples]
        numbers.append(Family(metric.name, metric.documentation, metric.type, samples))
        await pace.after(len(samples))
    return numbers


def encode(numbers: MetricFamilies) -> bytes:
    """As bytes, for another process of the same version."""
    return _ENCODER.encode(numbers)


def decode(data: bytes) -> MetricFamilies:
    """What `encode` made bytes of."""
    return _DECODER.decode(data)


def merge(several: Iterable[MetricFamilies]) -> MetricFamilies:
    """The numbers of several processes as those of one."""
    heads: dict[str, Family] = {}
    parts: dict[str, dict[tuple[str, Labels], list[float]]] = {}
    for family in (family for numbers in several for family in numbers):
        heads.setdefault(family.name, family)
        known = parts.setdefault(family.name, {})
        for name, labels, value in family.samples:
            known.setdefault((name, labels), []).append(value)
    values = {
        # The rounding of `fsum` does not depend on the order of the processes: a counter that is smaller by its last
        # bit in the next scrape is a counter reset to Prometheus.
        name: {series: _FOLDS.get(name, math.fsum)(numbers) for series, numbers in known.items()}
        for name, known in parts.items()
    }
    if _BREAKER in values:
        values[_BREAKER] = _worst(values[_BREAKER])
    return [
        Family(name, head.text, head.kind, [(*series, value) for series, value in values[name].items()])
        for name, head in heads.items()
    ]


async def merge_in_steps(several: Iterable[MetricFamilies]) -> MetricFamilies:
    """As `merge`, in steps."""
    by_name: dict[str, list[Family]] = {}
    for family in (family for numbers in several for family in numbers):
        by_name.setdefault(family.name, []).append(family)
    whole: MetricFamilies = []
    pace = _Pace()
    for families in by_name.values():
        whole += merge([family] for family in families)
        await pace.after(sum(len(family.samples) for family in families))
    return whole


def totals(numbers: MetricFamilies) -> MetricFamilies:
    """Return what remains of a process that has ended: its counters, rounded up so that no total ever decreases."""
    return [
        Family(
            family.name, family.text, family.kind,
            [(name, labels, math.ceil(value / _UNIT) * _UNIT) for name, labels, value in family.samples],
        )
        for family in numbers
        if family.kind in _LASTING
    ]  # fmt: skip


async def render(numbers: MetricFamilies, accept: str) -> tuple[bytes, str]:
    """Body and content type for an Accept header (OpenMetrics, or the Prometheus text format)."""
    encode_text, content_type = choose_encoder(accept)
    pieces: list[bytes] = []
    pace = _Pace()
    ends = False
    for family in numbers:
        for start in range(0, max(1, len(family.samples)), _AT_ONCE):
            some = family.samples[start : start + _AT_ONCE]
            piece = encode_text(_Shown([Family(family.name, family.text, family.kind, some)]))
            ends, piece = piece.endswith(_END), piece.removesuffix(_END)
            if start:  # what the metric is was said before
                piece = b"".join(line for line in piece.splitlines(keepends=True) if not line.startswith(b"# "))
            pieces.append(piece)
            await pace.after(len(some))
    return b"".join([*pieces, _END if ends else b""]), content_type


class _Pace:
    """Lets the event loop turn after each so many samples."""

    def __init__(self) -> None:
        self._samples = 0

    async def after(self, samples: int) -> None:
        self._samples += samples
        if self._samples >= _AT_ONCE:
            self._samples = 0
            await asyncio.sleep(0)


class _Shown(Collector):
    """Numbers in the form that the encoders take."""

    def __init__(self, numbers: Sequence[Family]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        for family in self._numbers:
            metric = Metric(family.name, family.text, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric


def _worst(states: dict[tuple[str, Labels], float]) -> dict[tuple[str, Labels], float]:
    """One breaker for all: where processes differ, the state that lets the fewest calls through is the one."""

    def severity(series: tuple[str, Labels]) -> tuple[bool, int]:
        return states[series] > 0, _SEVERITY.get(dict(series[1]).get("state", ""), 1)

    worst = max(states, key=severity)
    return {series: value if series == worst else 0.0 for series, value in states.items()}
