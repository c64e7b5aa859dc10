"""Running a coroutine to its end without waiting for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class _Threads(ThreadPoolExecutor):
    """Threads that are left alone at the end: one that waits for DNS cannot be interrupted."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - the base class has it
        super().shutdown(wait=False, cancel_futures=True)


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Do what `asyncio.run` does, but do not wait for calls in threads. The process should end by `startup.leave`."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(_Threads(thread_name_prefix="call"))
        return runner.run(main)
