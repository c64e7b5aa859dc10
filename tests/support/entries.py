"""Entries and candidates for tests of stores and policies."""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.core.listing import ID_BYTES, NO_ID
from gateway.core.query import Address, AssetsQuery
from gateway.storage.base import FetchedEntry
from gateway.storage.entry import Entry, LifetimeReason
from gateway.storage.listing_index import PageRecord


def entry(key: str = "{a1}:page:s:offset=0&limit=10", *, now: float, started: float = 0.0, **fields: Any) -> Entry:
    """An entry that is fresh for ten seconds, in grace for ten more, and kept for thirty in all."""
    told: dict[str, Any] = {
        "status": 200, "body": b"{}", "gzipped": b"\x1f\x8b zipped", "etag": "e", "epoch": "p", "generation": "g",
        "rule": "settled", "born": now - 3, "fresh_until": now + 10, "grace_until": now + 20, "keep_until": now + 30,
        "reckoning": LifetimeReason(now + started, 10.0 + started, started / 1e6, ()),
    }  # fmt: skip
    return Entry(key=key, started=now + started, **(told | fields))


def ids(text: str) -> bytes:
    """A digest for each letter; a dot is an asset without an id."""
    return b"".join(NO_ID if letter == "." else letter.encode().rjust(ID_BYTES, b"#") for letter in text)


def address(aoi_id: str = "a1", *, offset: int = 0, limit: int = 10) -> Address:
    return AssetsQuery(aoi_id, offset, limit).address("s")


def candidate(
    where: Address, *, now: float, started: float = 0.0, total: int | None = 100, shows: str = "", status: int = 200,
    body: bytes = b"{}",
) -> FetchedEntry:  # fmt: skip
    """A fetched page; each letter of `shows` is an asset's id."""
    shown = entry(where.page, now=now, started=started, body=body, status=status)
    sight = PageRecord(
        where.offset, where.limit, where.limit, ids(shows), shown.started, shown.fresh_until, shown.grace_until,
        shown.last_use, sliceable=False,
    )  # fmt: skip
    return FetchedEntry(shown, sight, None if status == 404 else total)


class Facts(list[NamedTuple]):
    """A sink that remembers."""

    def __call__(self, fact: NamedTuple) -> None:
        self.append(fact)

    def count_of(self, kind: type[NamedTuple]) -> int:
        return len([fact for fact in self if isinstance(fact, kind)])
