"""Signals of a process that serves. Those that arrive before that are the business of `startup`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from types import FrameType

from gateway.startup import take_hangup

_log = logging.getLogger("gateway")


def handle_signals(*numbers: signal.Signals, hung_up: Callable[[], None]) -> asyncio.Future[signal.Signals]:
    """Return a future that the first of these signals sets; a second one ends the process at once, as people expect.

    SIGHUP calls `hung_up`; one that arrived during startup does so now.
    """
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[signal.Signals] = loop.create_future()

    def told(number: int, _: FrameType | None = None) -> None:
        def set_once() -> None:
            if stop.done():
                sys.exit(128 + number)
            stop.set_result(signal.Signals(number))

        loop.call_soon_threadsafe(set_once)

    for number in numbers:
        try:
            loop.add_signal_handler(number, told, number)
        except NotImplementedError:  # Windows
            signal.signal(number, told)
    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGHUP, hung_up)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, *numbers))  # a worker starts with them blocked
    if take_hangup():
        loop.call_soon(hung_up)
    return stop


def ignore_hangup() -> None:
    """Say that SIGHUP has no effect, in a command that has no configuration to reload."""
    _log.warning("SIGHUP is ignored: this command has no configuration to reload")
