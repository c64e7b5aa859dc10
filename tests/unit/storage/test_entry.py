"""The byte envelope of a stored answer."""

from __future__ import annotations

import gzip

import msgspec
import pytest
from entries import entry
from hypothesis import given
from hypothesis import strategies as st
from isal import isal_zlib
from msgspec import structs

from gateway.storage.entry import (
    FORMAT_VERSION,
    CorruptEntry,
    Entry,
    ForeignVersion,
    LifetimeReason,
    compress,
    entity_tag,
)

WHOLE = entry(now=1_000_000.0)


def test_it_comes_back_as_it_was() -> None:
    assert Entry.decode(WHOLE.encode(), WHOLE.key) == WHOLE
    reckoned = structs.replace(WHOLE, reckoning=LifetimeReason(1_000_000.5, 300, 0.05, ("one-day", "signed-url")))
    assert Entry.decode(reckoned.encode(), WHOLE.key) == reckoned


@pytest.mark.parametrize("fields", [14, 15, 16])
def test_what_older_and_newer_replicas_store_is_read(fields: int) -> None:
    """The header ended before the reckoning once, and may go on after it."""
    data = structs.replace(WHOLE, reckoning=LifetimeReason(1_000_000.5, 300, 0.05, ())).encode()
    body_at = 13 + int.from_bytes(data[9:13], "big")
    told = [*msgspec.msgpack.decode(data[13:body_at]), "of the future"][:fields]
    header = msgspec.msgpack.encode(told)
    rest = len(header).to_bytes(4, "big") + header + data[body_at:]
    read = Entry.decode(data[:5] + isal_zlib.crc32(rest).to_bytes(4, "big") + rest, WHOLE.key)
    assert (read.body, read.reckoning is None) == (WHOLE.body, fields == 14)


@given(st.binary(max_size=300))
def test_any_other_bytes_are_told_apart(data: bytes) -> None:
    with pytest.raises((CorruptEntry, ForeignVersion)):
        Entry.decode(data, WHOLE.key)


@given(place=st.integers(0, len(WHOLE.encode()) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(place: int, bit: int) -> None:
    data = bytearray(WHOLE.encode())
    data[place] ^= 1 << bit
    with pytest.raises((CorruptEntry, ForeignVersion)):
        Entry.decode(bytes(data), WHOLE.key)


def test_another_version_is_not_called_corrupt() -> None:
    data = bytearray(WHOLE.encode())
    data[4] = FORMAT_VERSION + 1
    with pytest.raises(ForeignVersion):
        Entry.decode(bytes(data), WHOLE.key)


def test_another_pages_value_is_noticed() -> None:
    with pytest.raises(CorruptEntry):
        Entry.decode(WHOLE.encode(), WHOLE.key + "1")


def test_the_same_body_has_the_same_tag_and_the_same_gzip() -> None:
    body = b'{"assets":[]}' * 200
    assert entity_tag(body) == entity_tag(bytes(body))
    assert entity_tag(body) != entity_tag(body + b" ")
    zipped = compress(body)
    assert zipped is not None
    assert zipped == compress(bytes(body))
    assert gzip.decompress(zipped) == body


def test_what_is_small_or_does_not_shrink_is_left_alone() -> None:
    assert compress(b"x" * 1024) is None
    assert compress(b"x" * 1025) is not None
    assert compress(bytes(range(256)) * 5) is None or len(compress(bytes(range(256)) * 5) or b"") < 1280
