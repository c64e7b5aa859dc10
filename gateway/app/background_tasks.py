"""Supervised background tasks.

No request waits for such a task, so its failure would go unnoticed: it is logged, and the task is started again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.core.clock import Clock

# A part that fails at once is not begun a thousand times a second.
_AGAIN_SECONDS = 1.0
# A part needs less than this to end.
_CANCEL_AGAIN_SECONDS = 0.5

_log = logging.getLogger("gateway")


class BackgroundTasks:
    """The parts of one gateway."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do this until `close`."""
        self._tasks.append(asyncio.create_task(self._keep(name, work)))

    async def close(self) -> None:
        """Cancel all until they have ended.

        Once is not always enough: before Python 3.12 `asyncio.wait_for`, which redis-py uses, loses a cancellation that
        arrives when what it waits for is done (CPython gh-86296).
        """
        running = set(self._tasks)
        while running:
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - whatever it was: a gateway without this part is worse
                # Only its class: its words may hold anything.
                _log.error(
                    "a part of the gateway has stopped, and begins anew",
                    extra={"part": name, "why": type(error).__name__},
                )
            await self._clock.sleep(_AGAIN_SECONDS)
