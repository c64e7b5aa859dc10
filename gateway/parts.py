"""What a gateway does for ever besides answering, each in a task of its own.

Nobody waits for such a task, so that its end would go unseen: it is told, and the part is begun anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.clock import Clock

# A part that fails at once is not begun a thousand times a second.
_AGAIN_SECONDS = 1.0

_log = logging.getLogger("gateway")


class Parts:
    """The parts of one gateway."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do this until `close`."""
        self._tasks.append(asyncio.create_task(self._keep(name, work)))

    async def close(self) -> None:
        """End all."""
        for task in self._tasks:
            task.cancel()
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
