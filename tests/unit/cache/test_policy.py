"""Lifetimes and decisions, by tables of values."""

from __future__ import annotations

import math

import pytest
from entries import entry
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.policy import Fetch, Lifetime, Serve, ServeAndRefresh, decide, not_found_lifetime, page_lifetime
from gateway.config.options import Lifetimes
from gateway.core.cache_control import VendorCaching
from gateway.core.listing import Listing

NOW = 1_000_000.0
KEPT = entry(now=NOW)  # fresh for 10 s, then 10 s of grace, and kept for 30 s from now
SILENT = VendorCaching()


@pytest.mark.parametrize(
    ("later", "decision"),
    [
        (-3600, Serve(KEPT)),  # a clock gone backwards
        (0, Serve(KEPT)),
        (9.999, Serve(KEPT)),
        (10, ServeAndRefresh(KEPT)),
        (19.999, ServeAndRefresh(KEPT)),
        (20, Fetch(KEPT, expired=True)),
        (29.999, Fetch(KEPT, expired=True)),
        (30, Fetch(None, expired=True)),
        (math.inf, Fetch(None, expired=True)),
    ],
)
def test_what_may_be_done_before_at_and_after_each_boundary(later: float, decision: object) -> None:
    assert decide(KEPT, NOW + later) == decision


def test_nothing_at_hand_is_a_fetch() -> None:
    assert decide(None, NOW) == Fetch(None, expired=False)


@pytest.mark.parametrize(("later", "age"), [(-3600, 0), (-3.5, 0), (0, 3), (0.9, 3), (1, 4)])
def test_age_counts_from_birth_and_is_never_negative(later: float, age: int) -> None:
    assert KEPT.age(NOW + later) == age


def listing(count: int, *, settled: bool) -> Listing:
    return Listing(total=50, offset=0, limit=10, count=count, settled=settled, ids=b"")


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (listing(10, settled=True), Lifetime("settled", 300, 60, 86_400)),
        (listing(10, settled=False), Lifetime("in_progress", 10, 10, 86_400)),
        (listing(0, settled=True), Lifetime("empty", 30, 30, 86_400)),
    ],
)
def test_lifetimes_follow_the_content(page: Listing, expected: Lifetime) -> None:
    assert page_lifetime(page, SILENT, Lifetimes(), 0.0) == expected


def test_a_404_has_neither_grace_nor_keep() -> None:
    assert not_found_lifetime(SILENT, Lifetimes(), 0.0) == Lifetime("not_found", 30, 0, 0)


@pytest.mark.parametrize(
    ("vendor", "expected"),
    [
        (VendorCaching(fresh_for=120), Lifetime("vendor", 120, 60, 86_400)),
        (VendorCaching(fresh_for=120, age=100), Lifetime("vendor", 20, 20, 86_400)),
        (VendorCaching(fresh_for=20, age=100), Lifetime("vendor", 0, 0, 86_400)),
        (VendorCaching(fresh_for=1e9), Lifetime("vendor", 86_400, 60, 86_400)),
        (VendorCaching(stale_allowed=False), Lifetime("settled", 300, 0, 0)),
        (VendorCaching(fresh_for=5, stale_allowed=False), Lifetime("vendor", 5, 0, 0)),
    ],
)
def test_the_vendors_word_goes_before_the_configuration(vendor: VendorCaching, expected: Lifetime) -> None:
    assert page_lifetime(listing(10, settled=True), vendor, Lifetimes(), 0.0) == expected


def test_a_lifetime_knows_how_it_came_about() -> None:
    page, lifetimes = listing(10, settled=True), Lifetimes(jitter=0.5)
    own = page_lifetime(page, SILENT, lifetimes, 0.5)
    assert (own.rule, own.told, own.jitter, own.fresh, own.caps) == ("settled", 300, 0.25, 225, ())
    strict = VendorCaching(fresh_for=1e9, age=5, stale_allowed=False, said_by="max-age")
    told = page_lifetime(page, strict, lifetimes, 0.5)
    assert (told.rule, told.told, told.jitter, told.fresh) == ("max-age", 86_400, 0.25, 64_800)
    assert told.caps == ("one-day", "no-stale")


@given(
    chance=st.floats(0, 1, exclude_max=True), jitter=st.floats(0, 0.99), settled=st.booleans(), count=st.integers(0, 99)
)
def test_jitter_only_shortens_and_grace_is_never_longer_than_fresh(
    chance: float, jitter: float, settled: bool, count: int
) -> None:
    lifetimes = Lifetimes(jitter=jitter)
    page = listing(count, settled=settled)
    longest = page_lifetime(page, SILENT, lifetimes, 0.0)
    found = page_lifetime(page, SILENT, lifetimes, chance)
    assert longest.fresh * (1 - jitter) <= found.fresh <= longest.fresh
    assert 0 <= found.grace <= found.fresh
