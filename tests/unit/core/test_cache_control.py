"""Caching headers, by tables of values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.core.cache_control import VendorCaching, directives, vendor_caching

NOW = 1_792_000_000.0  # Wed, 14 Oct 2026 17:46:40 GMT


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), {}),
        (("",), {}),
        (("no-store",), {"no-store": [""]}),
        (("No-Cache , MAX-AGE=5",), {"no-cache": [""], "max-age": ["5"]}),
        (('private="Set-Cookie, X", max-age="60"',), {"private": ["Set-Cookie, X"], "max-age": ["60"]}),
        (("max-age=1, max-age=2", "max-age=3"), {"max-age": ["1", "2", "3"]}),
        ((",,max-age=3,,",), {"max-age": ["3"]}),
        (("max-age =4",), {"max-age": ["4"]}),
        (("no-store; max-age=0",), {"no-store": [""], "max-age": ["0"]}),
        (('ext="a, no-store; b\\"", max-age=4',), {"ext": ['a, no-store; b\\"'], "max-age": ["4"]}),
        (('max-age="40, no-store', "private"), {"max-age": [""], "no-store": [""], "private": [""]}),
        (("no-store/1", "x no-cache", '"private"'), {"no-store": [""], "no-cache": [""], "private": [""]}),
        (("no-stores x", "x-no-store=1", "not-private!"), {"x-no-store": ["1"], "not-private!": [""]}),
    ],
)
def test_directives(lines: tuple[str, ...], expected: dict[str, list[str]]) -> None:
    assert directives(lines) == expected


def test_quotes_that_are_never_closed_take_no_time() -> None:
    assert directives(['"\\' * 50_000 + ", no-store"]) == {"no-store": [""]}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), VendorCaching()),
        (("max-age=60",), VendorCaching(fresh_for=60)),
        (("max-age=60, s-maxage=30",), VendorCaching(fresh_for=30, stale_allowed=False)),
        (("s-maxage=90", "max-age=60"), VendorCaching(fresh_for=90, stale_allowed=False)),
        (("max-age=40", "s-maxage=0"), VendorCaching(fresh_for=0, stale_allowed=False)),
        (("max-age=40", "no-store"), VendorCaching(storable=False, fresh_for=40)),
        (("max-age=40", "private"), VendorCaching(storable=False, fresh_for=40)),
        (("no-store; max-age=9",), VendorCaching(storable=False, fresh_for=9)),
        (("max-age=40, Max-Age=30", "MAX-AGE=35"), VendorCaching(fresh_for=30)),
        (("max-age=40", "max-age=soon"), VendorCaching(fresh_for=0)),
        (('max-age="40"',), VendorCaching(fresh_for=40)),
        (('max-age="40',), VendorCaching(fresh_for=0)),
        (("max-age=-1",), VendorCaching(fresh_for=0)),
        (("max-age=1e3",), VendorCaching(fresh_for=0)),
        (("max-age=soon",), VendorCaching(fresh_for=0)),
        (("max-age",), VendorCaching(fresh_for=0)),
        (("max-age=60; must-revalidate",), VendorCaching(fresh_for=60, stale_allowed=False)),
        (("max-age=" + "9" * 30,), VendorCaching(fresh_for=2**31)),
        (("no-store",), VendorCaching(storable=False)),
        (("private",), VendorCaching(storable=False)),
        (('private="X"',), VendorCaching(storable=False)),
        (('private="X',), VendorCaching(storable=False)),
        (("no-cache",), VendorCaching(fresh_for=0, stale_allowed=False)),
        (("max-age=40", "no-cache"), VendorCaching(fresh_for=0, stale_allowed=False)),
        (('no-cache="Set-Cookie"',), VendorCaching()),
        (('no-cache="Set-Cookie", max-age=40',), VendorCaching(fresh_for=40)),
        (('no-cache="Set-Cookie", max-age=40', "no-cache"), VendorCaching(fresh_for=0, stale_allowed=False)),
        (("must-revalidate, max-age=5",), VendorCaching(fresh_for=5, stale_allowed=False)),
        (("proxy-revalidate",), VendorCaching(stale_allowed=False)),
    ],
)
def test_what_several_cache_control_lines_mean_together(lines: tuple[str, ...], expected: VendorCaching) -> None:
    headers = CIMultiDict(("Cache-Control", line) for line in lines)
    told = vendor_caching(headers, NOW)
    assert told == expected
    joined = vendor_caching(CIMultiDict({"Cache-Control": ", ".join(lines)}), NOW)
    assert joined == expected or any(line.count('"') % 2 for line in lines)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([("Cache-Control", "max-age=60"), ("Age", "10")], VendorCaching(fresh_for=60, age=10)),
        ([("Expires", "Wed, 14 Oct 2026 17:47:40 GMT")], VendorCaching(fresh_for=60)),
        ([("Expires", "Wednesday, 14-Oct-26 17:47:40 GMT")], VendorCaching(fresh_for=60)),
        ([("Expires", "Wed Oct 14 17:47:40 2026")], VendorCaching(fresh_for=60)),
        (
            [("Expires", "Wed, 14 Oct 2026 17:47:40 GMT"), ("Date", "Wed, 14 Oct 2026 17:47:30 GMT")],
            VendorCaching(fresh_for=10),
        ),
        ([("Expires", "Wed, 14 Oct 2026 17:40:00 GMT")], VendorCaching(fresh_for=0)),
        (
            [("Expires", "Wed, 14 Oct 2026 17:47:40 GMT"), ("Expires", "Wed, 14 Oct 2026 17:47:00 GMT")],
            VendorCaching(fresh_for=20),
        ),
        ([("Expires", "Wed, 14 Oct 2026 17:47:40 GMT"), ("Expires", "0")], VendorCaching(fresh_for=0)),
        ([("Expires", "0")], VendorCaching(fresh_for=0)),
        ([("Expires", "0"), ("Cache-Control", "max-age=7")], VendorCaching(fresh_for=7)),
        ([("Age", "x")], VendorCaching()),
        ([("Age", "7"), ("Age", "9")], VendorCaching(age=7)),
        ([("Age", "7, 9")], VendorCaching(age=7)),
        ([("Pragma", "no-cache")], VendorCaching()),  # RFC 9111, section 5.4: it means nothing in a response
    ],
)
def test_what_other_headers_mean(lines: list[tuple[str, str]], expected: VendorCaching) -> None:
    assert vendor_caching(CIMultiDict(lines), NOW) == expected


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
