"""Write log lines to standard output without waiting for its reader.

Lines are text on a terminal and JSON otherwise. A thread writes them, and redacts the vendor key in each. `event_log`
and `access_log` decide which lines there are.
"""

from __future__ import annotations

import logging
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, cast

import msgspec

from gateway.telemetry.line_buffer import LineBuffer

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# While the output blocks, this many lines wait; later ones are dropped and counted.
_LINES = 10_000
_CLOSE_SECONDS = 1.0
_LOOK_SECONDS = 0.05


class LineSink(Protocol):
    """Takes lines, and never waits."""

    def write(self, line: bytes) -> None:
        """Write a line, which comes without its end."""
        ...


class StandardOutput(Protocol):
    """An unbuffered stream (`io.RawIOBase`)."""

    def write(self, data: bytearray, /) -> int | None:
        """Write what the stream takes now: the number of bytes, or None if it is non-blocking and takes nothing."""
        ...

    def fileno(self) -> int:
        """Return the file descriptor."""
        ...


def standard_output() -> StandardOutput:
    """Return standard output without Python's buffer, which would cut a line when a pipe is full."""
    stream = sys.stdout.buffer
    return cast("StandardOutput", getattr(stream, "raw", stream))


class LineWriter:
    """Writes lines to an unbuffered stream from its own thread; `withhold` takes secrets out of what is written.

    The thread looks for lines a few times a second and writes all of them at once. Waking it for each would cost the
    event loop more than writing does.

    Lines wait while the stream blocks, or would block. They are dropped when too many wait, and when writing fails: the
    disk is full, the reader has gone, the descriptor is closed. Only whole lines are dropped, and each is counted.
    """

    def __init__(self, output: StandardOutput, withhold: Callable[[bytes], bytes]) -> None:
        self._output = output
        self._withhold = withhold
        self._lines: deque[bytes] = deque()
        self._unwritten = LineBuffer()
        self._dropped = 0
        self._counting = threading.Lock()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def take_dropped(self) -> int:
        """Return how many lines were dropped since the last call."""
        with self._counting:
            dropped, self._dropped = self._dropped, 0
        return dropped

    def write(self, line: bytes) -> None:
        """Write a line, given without its line feed; drop it if too many wait. Never waits."""
        if len(self._lines) < _LINES:
            self._lines.append(line)
        else:
            self._drop(1)

    def close(self) -> None:
        """Write what is left, for at most a second: if the output blocks, the thread ends with the process."""
        self._closing.set()
        self._thread.join(_CLOSE_SECONDS)
        self._abandoned.set()

    def _drop(self, lines: int) -> None:
        with self._counting:
            self._dropped += lines

    def _run(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        while not self._abandoned.is_set():
            if not self._unwritten:
                if not (lines := self._waiting()):
                    return
                self._unwritten.add(self._withhold(b"\n".join(lines) + b"\n"))
            try:
                written = self._output.write(self._unwritten.data)
            except (OSError, ValueError):
                self._drop(self._unwritten.drop() + len(self._waiting()))
                return
            if written is None:
                select.select([], [self._output.fileno()], [], _LOOK_SECONDS)
            else:
                self._unwritten.written(written)

    def _waiting(self) -> list[bytes]:
        """Remove and return the lines that wait."""
        return [self._lines.popleft() for _ in range(len(self._lines))]


class _Handler(logging.Handler):
    """Hands formatted records of the standard library's loggers on as lines."""

    def __init__(self, writer: LineSink) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.write(self.format(record).encode("utf-8", "backslashreplace"))


def choose_format(wanted: Literal["auto", "text", "json"], *, terminal: bool) -> Literal["text", "json"]:
    """Resolve `auto`."""
    if wanted == "auto":
        return "text" if terminal else "json"
    return wanted


def configure(writer: LineSink, form: Literal["text", "json"], level: str) -> None:
    """Send everything that is logged in this process, by whichever library, to `writer`."""
    handler = _Handler(writer)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])


# What every record has: anything else on one was given as `extra`.
_USUAL = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"))


class _Json(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            **_extras(record),
            "ts": _time(record),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(event, enc_hook=str).decode()


class _Text(logging.Formatter):
    """For people: what happened, and what is known of it."""

    def format(self, record: logging.LogRecord) -> str:
        told = "".join(f" {name}={_shown(value)}" for name, value in _extras(record).items())
        line = f"{_time(record)} [{record.levelname.lower():<8}] {record.getMessage()}{told}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _USUAL}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _shown(value: object) -> str:
    """As it is where that is one word, else as Python writes it."""
    text = str(value)
    return text if text and not any(letter.isspace() or letter in "\"'=" for letter in text) else repr(text)
