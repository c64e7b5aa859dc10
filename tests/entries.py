"""Entries for tests of stores and policies."""

from __future__ import annotations

from typing import NamedTuple

from gateway.core.entry import Entry


def entry(key: str = "{a1}:s:offset=0&limit=10", *, now: float, started: float = 0.0, body: bytes = b"{}") -> Entry:
    return Entry(
        key=key, status=200, body=body, gzipped=b"\x1f\x8b zipped", etag="e", generation="g", rule="settled",
        started=now + started, born=now - 3, fresh_until=now + 10, grace_until=now + 20, keep_until=now + 30,
    )  # fmt: skip


class Facts(list[NamedTuple]):
    """A sink that remembers."""

    def __call__(self, fact: NamedTuple) -> None:
        self.append(fact)
