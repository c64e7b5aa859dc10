"""Prepare the process before anything that takes long to import.

The interpreter needs 10 to 20 ms until the first line of this module runs. Until then a signal has its default effect.
From then on, and until the gateway is ready, the handlers here apply: SIGHUP is remembered, SIGTERM and SIGINT end the
process. Afterwards `run` and `workers.supervisor` install their own.

Import nothing here that the interpreter has not loaded already: every millisecond counts. That is why it is `_signal`,
which is built in, and not `signal`, which adds enumerations to it.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # typeshed describes only `signal`
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import NoReturn, TextIO

# Commands that run until a signal ends them. In all others signals keep their default effect.
_SERVING = frozenset(("serve", "demo", "mock-vendor"))

_hangups: list[int] = []


def is_serving(arguments: Sequence[str]) -> bool:
    """Tell whether the command line names a command that runs until a signal ends it."""
    rest = iter(arguments)
    for argument in rest:
        if argument == "--config":
            next(rest, None)
        elif not argument.startswith("-"):
            return argument in _SERVING
    return False


def catch_signals() -> None:
    """Install the handlers that apply until the gateway is ready.

    Process 1 of a container needs them most: the kernel discards every signal that process 1 has no handler for. A
    parent that blocks the signals loses none of them: what has arrived is delivered here.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, _remember)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGTERM, signal.SIGINT))


def take_hangup() -> bool:
    """Return whether SIGHUP has arrived since the last call, or since the start."""
    arrived = bool(_hangups)
    _hangups.clear()
    return arrived


def _remember(number: int, _: FrameType | None) -> None:
    _hangups.append(number)


def _end(number: int, _: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signature of a signal handler
    # Nothing is served yet, so nothing needs an orderly end. An exception would have to pass through whatever import or
    # constructor is running.
    os._exit(0)


def open_standard_streams() -> None:
    """Open those of standard input, output and error that are closed.

    Otherwise the next socket or file would get their number, and what is printed would go there. A write to standard
    output fails as it does on a closed descriptor, so that lost lines are counted. A write to standard error is
    ignored: no other place is left for what it says.
    """
    for descriptor, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = _writer(1)
    if sys.stderr is None:
        sys.stderr = _writer(2)


def _writer(descriptor: int) -> TextIO:
    return open(descriptor, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def leave(code: int) -> NoReturn:
    """End the process with this exit code, without waiting for threads.

    A thread that waits for DNS cannot be interrupted, and the interpreter would wait for it at exit. When standard
    output cannot be written, the exit code is 1 at least.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or 1
    except OSError as error:
        if not code:
            complain(f"standard output cannot be written: {error.strerror}")
        code = code or 1
    os._exit(code)


def complain(text: object) -> None:
    """Print to standard error, if it takes anything."""
    try:  # noqa: SIM105 - importing contextlib takes longer than this whole module
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass
