"""A page is put together from its own bytes, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cache.page_template import PageTemplate, Pagination, Slice, decode_template, derive_template, render

PLAIN = b'{"assets":[{"a":1},{"a":2},{"a":3}],"pagination":{"total":9,"offset":4,"limit":3}}'


def taken(body: bytes) -> PageTemplate:
    mould = derive_template(body)
    assert mould is not None
    again = decode_template(mould.encode())
    assert again == mould
    return mould


def test_windows_of_a_page() -> None:
    mould = taken(PLAIN)
    assert mould.count == 3
    assert render([Slice(PLAIN, mould, 0, 3)], Pagination(9, 4, 3)) == PLAIN
    assert render([Slice(PLAIN, mould, 1, 2)], Pagination(12, 5, 1)) == (
        b'{"assets":[{"a":2}],"pagination":{"total":12,"offset":5,"limit":1}}'
    )


def test_pages_that_were_printed_alike_go_together() -> None:
    single = b'{"assets":[{"a":4}],"pagination":{"total":9,"offset":7,"limit":1}}'
    pieces = [Slice(PLAIN, taken(PLAIN), 1, 3), Slice(single, taken(single), 0, 1)]
    assert render(pieces, Pagination(9, 5, 3)) == (
        b'{"assets":[{"a":2},{"a":3},{"a":4}],"pagination":{"total":9,"offset":5,"limit":3}}'
    )


@pytest.mark.parametrize(
    "other",
    [
        b'{"assets":[{"a":4}, {"a":5}],"pagination":{"total":9,"offset":7,"limit":2}}',
        b'{"assets":[{"a":4},{"a":5}],"pagination":{"total":9,"limit":2,"offset":7}}',
        b'{"pagination":{"total":9,"offset":7,"limit":2},"assets":[{"a":4},{"a":5}]}',
        b'{"assets":[{"a":4},{"a":5}],"pagination":{"total":9,"offset":7,"limit":2}}\n',
    ],
)
def test_pages_that_were_not_do_not(other: bytes) -> None:
    pieces = [Slice(PLAIN, taken(PLAIN), 0, 3), Slice(other, taken(other), 0, 2)]
    assert render(pieces, Pagination(9, 4, 5)) is None


def test_nobody_knows_what_would_stand_between_two_assets_that_came_alone() -> None:
    one, two = (
        b'{"assets":[{"a":%d}],"pagination":{"total":9,"offset":%d,"limit":1}}' % (number, number) for number in (1, 2)
    )
    assert render([Slice(one, taken(one), 0, 1), Slice(two, taken(two), 0, 1)], Pagination(9, 1, 2)) is None


def test_an_empty_page() -> None:
    body = b'{"assets": [ ],"pagination":{"limit":3,"offset":44,"total":9}}'
    mould = taken(body)
    assert mould.count == 0
    told = render([Slice(body, mould, 0, 0)], Pagination(9, 50, 1000))
    assert told == b'{"assets": [ ],"pagination":{"limit":1000,"offset":50,"total":9}}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"assets":null,"pagination":{"total":0,"offset":0,"limit":3}}',
        b'{"assets":[],"pagination":{"total":0,"offset":0,"limit":3},"more":1}',
        b'{"more":1,"assets":[],"pagination":{"total":0,"offset":0,"limit":3}}',
        b'{"assets":[],"pagination":{"total":0,"offset":0,"limit":3,"next":null}}',
        b'{"assets":[],"pagination":{"total":0,"offset":0,"limit":3,"limit":3}}',
        b'{"assets":[],"pagination":{"total":0,"total":0,"limit":3}}',
        b'{"assets":[],"assets":[],"pagination":{"total":0,"offset":0,"limit":3}}',
        b'{"pagination":{"total":0,"offset":0,"limit":3},"assets":[],"pagination":{"total":0,"offset":0,"limit":3}}',
        b'{"assets":[{},{}, {}],"pagination":{"total":9,"offset":0,"limit":3}}',
        b'{"assets":[{} ,{},{}],"pagination":{"total":9,"offset":0,"limit":3}}',
        b'{"asse\\u0074s":[],"pagination":{"total":0,"offset":0,"limit":3}}',
        b'{"assets":[],"pagination":{"total":0,"offset":0,"limit":3.0}}',
        b'{"assets":[],"pagination":{"total":0,"offset":-0,"limit":3}}',
        b"[]",
        b"",
    ],
)
def test_what_has_no_mould(body: bytes) -> None:
    assert derive_template(body) is None


def printed(assets: list[Any], figures: Pagination, blank: str, between: str, *, first: bool) -> bytes:
    listed = f'"assets"{blank}:{blank}[{blank}' + between.join(map(json.dumps, assets)) + f"{blank}]"
    told = '"pagination":{' + f"{blank},".join(f'"{name}":{blank}{value}' for name, value in figures._asdict().items())
    parts = [told + "}", listed] if first else [listed, told + "}"]
    return (blank + "{" + f",{blank}".join(parts) + "}" + blank).encode()


JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@settings(max_examples=60)
@given(
    assets=st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=5),
    window=st.tuples(st.integers(0, 5), st.integers(1, 5)),
    blank=st.sampled_from(["", " ", "\n", "\t \r\n"]),
    between=st.sampled_from([",", ", ", " ,\n  "]),
    first=st.booleans(),
)
def test_a_window_is_what_the_same_printer_prints(
    assets: list[Any], window: tuple[int, int], blank: str, between: str, first: bool
) -> None:
    start, limit = window
    total = len(assets)
    whole = printed(assets, Pagination(total, 0, total), blank, between, first=first)
    mould = taken(whole)
    cut = assets[start : start + limit]
    if not cut:
        return
    expected = printed(cut, Pagination(total, start, limit), blank, between, first=first)
    assert render([Slice(whole, mould, start, start + len(cut))], Pagination(total, start, limit)) == expected
