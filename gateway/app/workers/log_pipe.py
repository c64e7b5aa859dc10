"""Lines of several workers, on their way to one standard output.

Each worker writes into a pipe of its own, and the parent alone writes to standard output: two processes that write to
one pipe have their lines mixed up as soon as a write is longer than PIPE_BUF (512 bytes on macOS). The parent never
waits for the reader. It writes only what a pipe that is reported writable takes whole, and when it is behind it stops
reading; the workers' pipes fill up then, and each worker drops its lines and counts them, as it does on its own. When
writing fails (the disk is full, the reader has gone, standard output is closed), the parent drops whole lines and
counts them; the supervisor passes the count to a worker, whose metrics include it.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from gateway.telemetry.line_buffer import LineBuffer

# Bytes that are held back for a slow reader.
_MOST = 262_144
_READ = 65_536
_SLICE = getattr(select, "PIPE_BUF", 512)


class LogPipe:
    """Writes whole lines to the descriptor `out`; `withhold` takes secrets out of those that are written here."""

    def __init__(self, out: int, withhold: Callable[[bytes], bytes]) -> None:
        self.out = out
        self._withhold = withhold
        self._unwritten = LineBuffer()
        self._dropped = 0
        self._failed = False  # at the last attempt; another one is made when there is more to write
        self._begun: dict[int, bytes] = {}

    @property
    def has_room(self) -> bool:
        """Whether more should be read."""
        return len(self._unwritten) < _MOST

    @property
    def waits(self) -> bool:
        """Whether there is something to write."""
        return bool(self._unwritten) and not self._failed

    def write(self, line: bytes) -> None:
        """Write a line of the parent itself, given without its line feed; drop it when too much waits."""
        if self.has_room:
            self._add(self._withhold(line) + b"\n")
        else:
            self._dropped += 1

    def take_dropped(self) -> int:
        """Return how many lines were dropped since the last call."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    def read(self, pipe: int) -> bool:
        """Take in what a worker has written; whether there may be more."""
        data = os.read(pipe, _READ)
        whole, end, begun = (self._begun.pop(pipe, b"") + data).rpartition(b"\n")
        self._add(whole + end)
        if begun:
            self._begun[pipe] = begun
        return bool(data)

    def remove(self, pipe: int) -> None:
        """Take in the rest of what a worker that has ended had written; a line that it did not complete is dropped."""
        while self.read(pipe):
            pass
        self._dropped += pipe in self._begun
        self._begun.pop(pipe, None)
        os.close(pipe)

    def forward(self) -> None:
        """Write as much as is taken without waiting. Call it when `out` is writable."""
        try:
            self._unwritten.written(os.write(self.out, self._unwritten.data[:_SLICE]))
        except BlockingIOError:
            pass
        except OSError:
            self._failed = True
            self._dropped += self._unwritten.drop()

    def _add(self, lines: bytes) -> None:
        self._unwritten.add(lines)
        self._failed = False

    def forward_all(self, seconds: float = 1.0) -> None:
        """Write everything; give up when the output takes nothing for `seconds`, or when writing fails."""
        while self.waits and select.select([], [self.out], [], seconds)[1]:
            self.forward()
