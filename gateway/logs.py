"""Where log lines go: standard output, never waiting for whoever reads it.

This file owns the writing of lines: their form (text on a terminal, JSON lines otherwise), the thread that writes them,
and the last look for the vendor key in each. What is worth a line is `journal` and `web.access_log`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal, Protocol

import msgspec

from gateway.core.facts import LogDropped, Observe

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# With a reader that is stuck, so many lines are held back; later ones are dropped and counted.
_LINES = 10_000
_CLOSE_SECONDS = 1.0
_LOOK_SECONDS = 0.05


class Lines(Protocol):
    """Takes lines, and never waits."""

    def write(self, line: bytes) -> None:
        """Write a line, which comes without its end."""
        ...


class LineWriter:
    """Writes lines to a stream from a thread of its own; `withhold` takes secrets out of what is written.

    The thread looks for lines a few times a second and writes all of them at once. Waking it for each would cost the
    event loop more than writing does.
    """

    def __init__(self, stream: BinaryIO, withhold: Callable[[bytes], bytes]) -> None:
        self._stream = stream
        self._withhold = withhold
        self._lines: deque[bytes] = deque()
        self._observe: Observe | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
        self._thread.start()

    def subscribe(self, observe: Observe) -> None:
        """Tell `observe` of lines that are dropped from now on."""
        self._observe = observe

    def write(self, line: bytes) -> None:
        """Write a line, which comes without its end; drop it when the reader is far behind. Never waits."""
        if len(self._lines) < _LINES:
            self._lines.append(line)
        elif self._observe is not None:
            self._observe(LogDropped(1))

    def close(self) -> None:
        """Write what is left, for at most a second: if nobody reads, the thread ends with the process."""
        self._closing.set()
        self._thread.join(_CLOSE_SECONDS)

    def _drain(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        if not self._lines:
            return
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        try:
            self._stream.write(self._withhold(b"\n".join(lines) + b"\n"))
            self._stream.flush()
        except (OSError, ValueError):
            pass  # the reader is gone; requests matter more than lines


class _Handler(logging.Handler):
    """Hands formatted records of the standard library's loggers on as lines."""

    def __init__(self, writer: Lines) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.write(self.format(record).encode("utf-8", "backslashreplace"))


def chosen_format(wanted: Literal["auto", "text", "json"], *, terminal: bool) -> Literal["text", "json"]:
    """Resolve `auto`."""
    if wanted == "auto":
        return "text" if terminal else "json"
    return wanted


def configure(writer: Lines, form: Literal["text", "json"], level: str) -> None:
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
