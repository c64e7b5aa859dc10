"""The tasks behind requests: that they end with the gateway."""

from __future__ import annotations

import asyncio

from harness import PATIENCE

from gateway.app.background_tasks import BackgroundTasks
from gateway.core.clock import SystemClock


async def test_close_ends_a_task_that_loses_a_cancellation() -> None:
    lost, parts = asyncio.Event(), BackgroundTasks(SystemClock())

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:  # as wait_for does before Python 3.12, where both happen at once
            lost.set()
        await asyncio.Event().wait()

    parts.run("work", work)
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await parts.close()
    assert lost.is_set()
