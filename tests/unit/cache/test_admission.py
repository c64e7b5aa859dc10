"""From a vendor answer to an entry."""

from __future__ import annotations

import pytest

from gateway.cache.admission import admit
from gateway.config.options import Lifetimes
from gateway.core.cache_control import VendorCaching
from gateway.core.listing import parse_listing
from gateway.core.query import AssetsQuery
from gateway.storage.entry import Cap, Entry, LifetimeReason
from gateway.upstream.classification import FetchedPage

NOW = 1_792_000_000.0
QUERY = AssetsQuery("a1")


def admitted(assets: str, *, caching: VendorCaching | None = None, lifetimes: Lifetimes | None = None) -> Entry:
    body = f'{{"assets":[{assets}],"pagination":{{"total":1,"offset":0,"limit":10}}}}'.encode()
    fetched = FetchedPage(
        200, body, parse_listing(body, "a1"), caching or VendorCaching(), started=NOW - 1, arrived=NOW
    )
    return admit(QUERY, "page", fetched, lifetimes or Lifetimes(), 0.0).entry


def asset(*ends: float) -> str:
    return ",".join(f'{{"status":"success","path":"https://s/x?Expires={int(when)}&Signature=y"}}' for when in ends)


@pytest.mark.parametrize(
    ("ends", "fresh", "grace", "keep", "caps"),
    [
        ([], 300, 360, 86_700, ()),
        ([NOW + 1_000_000], 300, 360, 86_700, ()),
        ([NOW + 3600], 300, 360, 3540, ("signed-url-keep",)),
        ([NOW + 3600, NOW + 400], 300, 340, 340, ("signed-url-keep",)),
        ([NOW + 200], 140, 140, 140, ("signed-url",)),
        ([NOW + 60], 30, 30, 30, ("signed-url",)),
        ([NOW], 300, 360, 86_700, ()),
        ([NOW - 1, NOW + 400], 300, 340, 340, ("signed-url-keep",)),
    ],
)
def test_nothing_is_served_past_its_links(
    ends: list[float], fresh: float, grace: float, keep: float, caps: tuple[Cap, ...]
) -> None:
    entry = admitted(asset(*ends) or '{"status":"success"}')
    assert [until - NOW for until in (entry.fresh_until, entry.grace_until, entry.keep_until)] == [fresh, grace, keep]
    assert entry.rule == "settled"
    assert entry.reckoning == LifetimeReason(NOW, told=300, jitter=0.0, caps=caps)


def test_age_counts_from_when_the_vendor_made_it() -> None:
    entry = admitted("{}", caching=VendorCaching(age=7))
    assert entry.age(NOW + 1) == 8


def test_a_404_has_no_total_and_one_life() -> None:
    fetched = FetchedPage(404, b'{"error":{"code":"c"}}', None, VendorCaching(), NOW, NOW)
    candidate = admit(QUERY, "page", fetched, Lifetimes(), 0.0)
    entry = candidate.entry
    assert candidate.total is None
    assert entry.fresh_until == entry.grace_until == entry.keep_until == NOW + 30
