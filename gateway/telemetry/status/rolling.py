"""Counts of the last while, by slots of time: a ring of rows that are allocated once and used again."""

from __future__ import annotations

from collections.abc import Iterable
from operator import add

Rows = dict[int, list[int]]


class Rolling:
    """Rows of `width` counts for the latest `slots` slots, and the sum of all rows that are older.

    A slot is a number of the caller's, that grows by one with each step of time.
    """

    def __init__(self, slots: int, width: int) -> None:
        self._slots = slots
        self._zeros = [0] * width
        self._ring: list[list[int]] = []
        self._newest: int | None = None
        self.past = [0] * width
        """What was counted in slots that are not kept any more."""

    def at(self, slot: int) -> list[int]:
        """The row of this slot, to be counted in; or of the newest one, if time seems to have gone back."""
        newest = self._newest
        if newest is None:
            self._ring = [self._zeros[:]]
            self._newest = slot
        elif slot > newest:
            for _ in range(min(slot - newest, self._slots)):
                self._step()
            self._newest = slot
        return self._ring[-1]

    def _step(self) -> None:
        if len(self._ring) < self._slots:
            self._ring.append(self._zeros[:])
            return
        oldest = self._ring.pop(0)
        if any(oldest):
            self.past = added(self.past, oldest)
            oldest[:] = self._zeros
        self._ring.append(oldest)

    def rows(self) -> Rows:
        """Copies of the rows in which something was counted, by slot."""
        if self._newest is None:
            return {}
        first = self._newest - len(self._ring) + 1
        return {first + index: row[:] for index, row in enumerate(self._ring) if any(row)}


def added(one: list[int], other: list[int]) -> list[int]:
    """The sum of two rows, count by count."""
    return list(map(add, one, other))


def total(rows: Iterable[list[int]], width: int) -> list[int]:
    """The sum of rows of this width."""
    several = list(rows)
    return list(map(sum, zip(*several, strict=True))) if several else [0] * width


def merge(one: tuple[Rows, list[int]], other: tuple[Rows, list[int]], oldest: int) -> tuple[Rows, list[int]]:
    """The rows, and the past, of two; rows of slots before `oldest` become past."""
    rows: Rows = {}
    past = added(one[1], other[1])
    for slot, row in (*one[0].items(), *other[0].items()):
        if slot < oldest:
            past = added(past, row)
        else:
            rows[slot] = added(rows[slot], row) if slot in rows else row
    return rows, past
