"""What a person sees while `warm` runs: a bar on a terminal, and elsewhere a plain line now and then.

Ids, and what the gateway says of them, are other people's text: `printable` is how they reach a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from gateway.cli.warm import WarmSummary, Watch

_SECONDS_PER_LINE = 5.0
_MOST_SHOWN = 300


@contextmanager
def shown(stream: TextIO) -> Iterator[Watch]:
    """Show on `stream` what the yielded function is told."""
    console = Console(file=stream)
    if not stream.isatty() or console.is_dumb_terminal:
        yield _Lines(stream)
        return
    columns = (BarColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("")

        def draw(tally: WarmSummary) -> None:
            progress.update(bar, total=tally.aois, completed=tally.done, description=_line(tally))

        yield draw


def printable(text: str) -> str:
    """The text on one line of moderate length, with escapes for whatever would not be seen as itself."""
    kept = text[:_MOST_SHOWN]
    seen = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in kept)
    return seen if kept == text else f"{seen}..."


class _Lines:
    """Writes nothing about a short run, and a line every few seconds about a longer one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._due = _SECONDS_PER_LINE

    def __call__(self, tally: WarmSummary) -> None:
        if tally.seconds >= self._due and tally.done < tally.aois:
            self._due = tally.seconds + _SECONDS_PER_LINE
            print(_line(tally), file=self._stream, flush=True)


def _line(tally: WarmSummary) -> str:
    rate = tally.pages / tally.seconds if tally.seconds else 0.0
    return (
        f"{tally.done} of {tally.aois} AOIs, {tally.pages} pages, {rate:.1f}/s, {tally.hits} hits, "
        f"{len(tally.failures)} failed"
    )
