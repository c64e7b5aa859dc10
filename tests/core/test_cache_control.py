"""Caching headers, by tables of values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.core.cache_control import VendorCaching, directives, vendor_caching

NOW = 1_792_000_000.0  # Wed, 14 Oct 2026 17:46:40 GMT


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", {}),
        ("no-store", {"no-store": ""}),
        ("No-Cache , MAX-AGE=5", {"no-cache": "", "max-age": "5"}),
        ('private="Set-Cookie, X", max-age="60"', {"private": "Set-Cookie, X", "max-age": "60"}),
        ("max-age=1, max-age=2", {"max-age": "1"}),
        (",,max-age=3,,", {"max-age": "3"}),
        ("max-age =4", {"max-age": "4"}),
    ],
)
def test_directives(value: str, expected: dict[str, str]) -> None:
    assert directives(value) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, VendorCaching()),
        ({"Cache-Control": "max-age=60"}, VendorCaching(fresh_for=60)),
        ({"Cache-Control": "max-age=60, s-maxage=30"}, VendorCaching(fresh_for=30)),
        ({"Cache-Control": "max-age=60", "Age": "10"}, VendorCaching(fresh_for=60, age=10)),
        ({"Cache-Control": "max-age=-1"}, VendorCaching(fresh_for=0)),
        ({"Cache-Control": "max-age=soon"}, VendorCaching(fresh_for=0)),
        ({"Cache-Control": "max-age=" + "9" * 30}, VendorCaching(fresh_for=2**31)),
        ({"Cache-Control": "no-store"}, VendorCaching(storable=False)),
        ({"Cache-Control": "private"}, VendorCaching(storable=False)),
        ({"Cache-Control": "no-cache"}, VendorCaching(stale_allowed=False)),
        ({"Cache-Control": "must-revalidate, max-age=5"}, VendorCaching(fresh_for=5, stale_allowed=False)),
        ({"Expires": "Wed, 14 Oct 2026 17:47:40 GMT"}, VendorCaching(fresh_for=60)),
        (
            {"Expires": "Wed, 14 Oct 2026 17:47:40 GMT", "Date": "Wed, 14 Oct 2026 17:47:30 GMT"},
            VendorCaching(fresh_for=10),
        ),
        ({"Expires": "Wed, 14 Oct 2026 17:40:00 GMT"}, VendorCaching(fresh_for=0)),
        ({"Expires": "0"}, VendorCaching(fresh_for=0)),
        ({"Expires": "0", "Cache-Control": "max-age=7"}, VendorCaching(fresh_for=7)),
        ({"Age": "x"}, VendorCaching()),
    ],
)
def test_what_the_vendor_asks_of_caches(headers: dict[str, str], expected: VendorCaching) -> None:
    assert vendor_caching(CIMultiDict(headers), NOW) == expected


@pytest.mark.parametrize(
    ("headers", "said_by"),
    [
        ({"Cache-Control": "max-age=60, s-maxage=30", "Expires": "0"}, "s-maxage"),
        ({"Cache-Control": "max-age=60", "Expires": "0"}, "max-age"),
        ({"Cache-Control": "public", "Expires": "0"}, "expires"),
        ({"Expires": "Wed, 14 Oct 2026 17:47:40 GMT"}, "expires"),
        ({}, "nobody"),
    ],
)
def test_who_said_how_long(headers: dict[str, str], said_by: str) -> None:
    assert vendor_caching(CIMultiDict(headers), NOW).said_by == said_by


@given(st.text(max_size=200), st.text(max_size=50), st.text(max_size=50))
def test_no_header_is_an_error(cache_control: str, expires: str, age: str) -> None:
    told = vendor_caching(CIMultiDict({"Cache-Control": cache_control, "Expires": expires, "Age": age}), NOW)
    assert told.age >= 0
    assert told.fresh_for is None or told.fresh_for >= 0
