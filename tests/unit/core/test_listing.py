"""What is a listing and what is not."""

from __future__ import annotations

import time

import pytest

from gateway.core.errors import Envelope
from gateway.core.listing import (
    ID_BYTES,
    NO_ID,
    InvalidListing,
    Listing,
    parse_envelope,
    parse_listing,
    render_envelope,
)

PAGINATION = b'"pagination":{"total":1,"offset":0,"limit":10}'


def page(assets: bytes, pagination: bytes = PAGINATION) -> bytes:
    return b'{"assets":' + assets + b"," + pagination + b"}"


@pytest.mark.parametrize(
    ("body", "count", "settled"),
    [
        (page(b"[]"), 0, True),
        (page(b"null"), 0, True),
        (b" \n" + page(b"[]") + b"\n", 0, True),
        (page(b'[{"status":"success"},{"status":"failed"}]'), 2, True),
        (page(b'[{"status":"success"},{"status":"started"}]'), 2, False),
        (page(b'[{"status":"creating"}]'), 1, False),
        (page(b'[{"status":"unheard of"}]'), 1, False),
        (page(b"[{}]"), 1, False),
        (page(b'[{"status":null}]'), 1, False),
        (page(b'[{"status":["success"]}]'), 1, False),
        (page(b'[{"aoi_id":"A1","status":"success"}]'), 1, True),
        (page(b'[{"aoi_id":null,"status":"success"}]'), 1, True),
        (b'{"extra":{"a":[1.5e3,"\\u00e9"]},' + page(b"[]")[1:], 0, True),
        (page(b'[{"id":"' + b"7" * 5000 + b'","status":"success"}]'), 1, True),
    ],
)
def test_a_listing(body: bytes, count: int, settled: bool) -> None:
    listing = parse_listing(body, "a1")
    assert listing == Listing(total=1, offset=0, limit=10, count=count, settled=settled, ids=listing.ids)
    assert len(listing.ids) == count * ID_BYTES


def test_ids_are_told_apart_and_what_is_no_id_proves_nothing() -> None:
    found = parse_listing(page(b'[{"id":"x"},{"id":"y"},{"id":"x"},{},{"id":7},{"id":""}]'), "a1").ids
    one, two, again, *others = (found[place : place + ID_BYTES] for place in range(0, len(found), ID_BYTES))
    assert one == again != two
    assert others == [NO_ID] * 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"assets":[]}',
        b'{"error":{"code":"x"}}',
        page(b"{}"),
        page(b'"x"'),
        page(b"[1]"),
        page(b"[null]"),
        page(b"[]", b'"pagination":null'),
        page(b"[]", b'"pagination":{"total":1,"offset":0}'),
        page(b"[]", b'"pagination":{"total":-1,"offset":0,"limit":10}'),
        page(b"[]", b'"pagination":{"total":true,"offset":0,"limit":10}'),
        page(b"[]", b'"pagination":{"total":1.0,"offset":0,"limit":10}'),
        page(b"[]", b'"pagination":{"total":"1","offset":0,"limit":10}'),
        page(b"[]", b'"pagination":{"total":null,"offset":0,"limit":10}'),
        page(b"[]", b'"pagination":{"total":18446744073709551616,"offset":0,"limit":10}'),
        page(b"[]") + b"x",
        page(b"[]") + page(b"[]"),
        b"\xef\xbb\xbf" + page(b"[]"),
        page(b'[{"a":NaN}]'),
        page(b'[{"a":Infinity}]'),
        page(b'[{"a":"\xff"}]'),
        page(b'[{"a":"\xed\xa0\x80"}]'),
        page(b'[{"a":01}]'),
        page(b'[{"a":' + b"1" * 5000 + b"}]"),
        page(b"[]", b'"pagination":{"total":' + b"1" * 5000 + b',"offset":0,"limit":10}'),
        page(b'[{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}]"),
        page(b'[{"aoi_id":"a2"}]'),
        page(b'[{"aoi_id":""}]'),
        page(b'[{"aoi_id":1}]'),
        page(b'[{"aoi_id":"a1"},{"aoi_id":"a2"}]'),
        page(b"[]")[:-1],
    ],
)
def test_no_listing(body: bytes) -> None:
    with pytest.raises(InvalidListing):
        parse_listing(body, "a1")


@pytest.mark.parametrize(
    ("body", "envelope"),
    [
        (b'{"error":{"code":"c","message":"m","details":{"a":1}}}', Envelope("c", "m", {"a": 1})),
        (b'{"error":{"code":"c"}}', Envelope("c", "", None)),
        (b'{"error":{"message":"m"}}', None),
        (b'{"error":"c"}', None),
        (b'{"error":{"code":404}}', None),
        (b"not found", None),
        (b"", None),
        (b'{"error":{"code":"\xff"}}', None),
        (b'{"error":{"code":"c","details":"' + b"x" * 70_000 + b'"}}', None),
        (b'{"error":{"code":"c","details":' + b"[" * 30_000 + b"]" * 30_000 + b"}}", None),
    ],
)
def test_the_vendors_envelope(body: bytes, envelope: Envelope | None) -> None:
    assert parse_envelope(body) == envelope
    if envelope is not None:
        assert parse_envelope(render_envelope(envelope)) == envelope


def test_long_runs_of_digits_are_looked_through_once() -> None:
    many = page(b"[" + b",".join([b'{"note":"%b"}' % (b"1" * 4299)] * 500) + b"]")
    began = time.thread_time()
    assert parse_listing(many, "a1").count == 500
    assert time.thread_time() - began < 1.0  # from every digit anew it would take many times as long
