"""Signals as bytes on a descriptor, for a process that waits in `select`."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD) if sys.platform != "win32" else ()


class SignalPipe:
    """Becomes readable when a signal arrives."""

    def __init__(self) -> None:
        self._reading, self._writing = socket.socketpair()
        for end in (self._reading, self._writing):
            end.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._reading.fileno()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Receive signals in this context, instead of the handlers that were there before."""
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, _do_nothing) for number in SIGNALS}
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)

    def take(self) -> bytes:
        """Return the numbers of the signals that have arrived since the last call."""
        try:
            return self._reading.recv(4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Receive no more signals here, as in a forked process."""
        signal.set_wakeup_fd(-1)
        self._reading.close()
        self._writing.close()


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal: only with a handler is its number written to the pipe."""
