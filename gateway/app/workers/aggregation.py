"""Combine metrics and status figures of all workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.app.workers.client import WorkerClient
from gateway.telemetry import exposition
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.status import snapshot
from gateway.telemetry.status.collector import StatusCollector
from gateway.telemetry.status.snapshot import Configuration, LifecycleState, Snapshot


class WorkerAggregation:
    """Metrics and the status page's figures; of the other workers too, where there are `worker_client`.

    `tell` has that told which is counted first and told in bulk. `configuration` and `life` give which configuration is
    live, and where in its life the process is.
    """

    def __init__(
        self,
        metrics: Metrics,
        status: StatusCollector,
        worker_client: WorkerClient | None,
        *,
        tell: Callable[[], None],
        configuration: Callable[[], Configuration],
        life: Callable[[], LifecycleState],
    ) -> None:
        self._metrics = metrics
        self._status = status
        self._worker_client = worker_client
        self._tell = tell
        self._configuration = configuration
        self._life = life

    async def metrics(self) -> bytes:
        """The metrics of this process."""
        self._tell()
        return exposition.encode(await self._metrics.collect())

    def snapshot(self) -> bytes:
        """The status page's figures of this process."""
        return snapshot.encode(self._mine())

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all for an Accept header: body and content type."""
        if self._worker_client is None:
            self._tell()
            return await exposition.render(await self._metrics.collect(), accept)
        told = await self._worker_client.metrics()
        return await exposition.render(await exposition.merge_in_steps(map(exposition.decode, told)), accept)

    async def status(self) -> Snapshot:
        """The status page's figures of all."""
        others = [] if self._worker_client is None else await self._worker_client.snapshots()
        whole = self._mine()
        for other in others:
            whole = snapshot.merge(whole, snapshot.decode(other))
            await asyncio.sleep(0)  # each takes a millisecond or so, and requests come in between
        return whole

    def _mine(self) -> Snapshot:
        self._tell()
        return self._status.snapshot(self._configuration(), self._life())
