"""The time limit on somebody else's work."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from gateway.storage.time_limit import within


async def fails(after: asyncio.Event) -> None:
    await after.wait()
    raise ValueError("as it does")


async def test_what_the_work_returns_or_raises() -> None:
    now = asyncio.Event()
    now.set()
    assert await within(5, asyncio.sleep(0, "done")) == "done"
    with pytest.raises(ValueError, match="as it does"):
        await within(5, fails(now))
    with pytest.raises(TimeoutError):
        await within(0.01, fails(asyncio.Event()))


async def test_work_that_fails_while_its_caller_is_cancelled_is_not_complained_of() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    now = asyncio.Event()
    waiting = asyncio.create_task(within(5, fails(now)))
    for _ in range(3):
        await asyncio.sleep(0)
    now.set()
    await asyncio.sleep(0)  # the work has failed, and who waits for it does not know yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    del waiting
    gc.collect()
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []
