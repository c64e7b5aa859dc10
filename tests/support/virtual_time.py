"""An event loop on which waiting takes no time: whenever nothing is ready, its clock advances to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Advances `now` instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing is ready, and no timer is set"
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop. It is also the clock (`gateway.core.clock`) of what runs on it."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def now(self) -> float:
        return self._virtual.now

    def monotonic(self) -> float:
        return self._virtual.now

    steps = 0

    def correct(self, earliest: float, latest: float) -> None:
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to completion, and close the loop."""
        try:
            return self.run_until_complete(work)
        finally:
            self.close()

    def call_exception_handler(self, context: Mapping[str, Any]) -> None:
        raise AssertionError(context)
