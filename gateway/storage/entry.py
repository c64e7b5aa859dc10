"""A stored answer, and its form as bytes.

This file owns what is remembered of an answer and how that is written down: version, own key and checksum first, so
that a value which is cut, flipped, swapped with another or from elsewhere is known as such. It refuses to know where
the bytes are kept and how long an answer lives.
"""

from __future__ import annotations

from typing import Literal, Self

import msgspec
import xxhash
from isal import igzip, isal_zlib

FORMAT_VERSION = 1

# Below this a coding saves less than its headers cost; the contract's 1 KiB.
_COMPRESS_FROM = 1024
# What an entry takes besides its bodies, objects and places in dictionaries included, as the operating system sees it
# (tests/bench/memory.py).
_OVERHEAD = 1000
_MAGIC = b"pxgw"
_CHECKSUM = slice(5, 9)
_HEAD = 13  # magic, version byte, checksum, length of the header that follows


class CorruptEntry(ValueError):
    """The bytes are not an intact entry of this key; the message says why."""


class ForeignVersion(ValueError):
    """The bytes are of another format version, and so belong to somebody else."""


# What took time away from an answer: the end of a signed link from its freshness, or from grace and keep alone; the
# vendor's longest freshness that is believed; the vendor, who allows no stale answers.
Cap = Literal["signed-url", "signed-url-keep", "one-day", "no-stale"]


class LifetimeReason(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How an entry's lifetimes came about, for those who ask why; nothing is decided by it.

    It arrived at `arrived` (Unix time). Its rule alone gave it `told` seconds of freshness, which were shortened by the
    share `jitter`, and `caps` took the rest.
    """

    arrived: float
    told: float
    jitter: float
    caps: tuple[Cap, ...]


class Entry(msgspec.Struct, frozen=True, weakref=True):
    """An answer of the vendor with its lifetimes. All times are Unix time in seconds.

    `status` is 200 (`body` is the vendor's page, byte for byte) or 404 (`body` is the vendor's envelope). `template`
    is an encoded `cache.page_template.PageTemplate`, empty where no window can be cut from it. `epoch` and
    `generation` are those that it was filed under. `started` is when its fetch began, which orders entries; `born` is
    when the vendor made the answer, which Age counts from. It is fresh before `fresh_until`, in grace before
    `grace_until`, kept before `keep_until`; `reckoning` tells why, None where whoever stored it did not.
    """

    key: str
    status: int
    body: bytes
    gzipped: bytes | None
    etag: str
    epoch: str
    generation: str
    rule: str
    started: float
    born: float
    fresh_until: float
    grace_until: float
    keep_until: float
    template: bytes = b""
    reckoning: LifetimeReason | None = None

    @property
    def size(self) -> int:
        """Bytes that this entry is counted with in a store."""
        return len(self.body) + len(self.gzipped or b"") + len(self.template) + _OVERHEAD

    @property
    def last_use(self) -> float:
        """From here on nobody may be given this entry, whatever happens (Unix time, seconds)."""
        return max(self.fresh_until, self.grace_until, self.keep_until)

    def age(self, now: float) -> int:
        """Whole seconds since the vendor made it; never negative (RFC 9111, section 4.2.3)."""
        return max(0, int(now - self.born))

    def encode(self) -> bytes:
        """Write the entry down."""
        header = msgspec.msgpack.encode(
            _Header(
                self.key, self.status, self.etag, self.epoch, self.generation, self.rule, self.started, self.born,
                self.fresh_until, self.grace_until, self.keep_until, self.template, len(self.body),
                None if self.gzipped is None else len(self.gzipped), self.reckoning,
            )
        )  # fmt: skip
        rest = b"".join((len(header).to_bytes(4, "big"), header, self.body, self.gzipped or b""))
        return b"".join((_MAGIC, bytes([FORMAT_VERSION]), isal_zlib.crc32(rest).to_bytes(4, "big"), rest))

    @classmethod
    def decode(cls, data: bytes, key: str) -> Self:
        """Read an entry that was stored under `key`. Raises CorruptEntry or ForeignVersion."""
        if data[:4] != _MAGIC or len(data) < _HEAD:
            raise CorruptEntry("not an entry")
        if data[4] != FORMAT_VERSION:
            raise ForeignVersion(f"format version {data[4]}")
        if isal_zlib.crc32(memoryview(data)[9:]) != int.from_bytes(data[_CHECKSUM], "big"):
            raise CorruptEntry("checksum")
        body_at = _HEAD + int.from_bytes(data[9:13], "big")
        try:
            header = _HEADER.decode(memoryview(data)[_HEAD:body_at])
        except msgspec.MsgspecError:
            raise CorruptEntry("header") from None
        if header.key != key:
            raise CorruptEntry("another page's value")
        gzip_at = body_at + header.body_size
        if gzip_at + (header.gzip_size or 0) != len(data):
            raise CorruptEntry("length")
        return cls(
            key=key,
            status=header.status,
            body=data[body_at:gzip_at],
            gzipped=None if header.gzip_size is None else data[gzip_at:],
            etag=header.etag,
            epoch=header.epoch,
            generation=header.generation,
            rule=header.rule,
            started=header.started,
            born=header.born,
            fresh_until=header.fresh_until,
            grace_until=header.grace_until,
            keep_until=header.keep_until,
            template=header.mould,
            reckoning=header.reckoning,
        )


class _Header(msgspec.Struct, array_like=True):
    key: str
    status: int
    etag: str
    epoch: str
    generation: str
    rule: str
    started: float
    born: float
    fresh_until: float
    grace_until: float
    keep_until: float
    mould: bytes
    body_size: int
    gzip_size: int | None
    # Added at the end, and absent from what older replicas store: that is the same format (they pass over it).
    reckoning: LifetimeReason | None = None


_HEADER = msgspec.msgpack.Decoder(_Header)


def entity_tag(body: bytes) -> str:
    """Name the body by its content: 32 hex digits, without the quotes of a header."""
    # Not a cryptographic digest, which would cost more than all else that is done for a window: two pages that a vendor
    # would have to craft to be mistaken for each other are both the vendor's.
    return xxhash.xxh3_128_hexdigest(body)


def compress(body: bytes) -> bytes | None:
    """Gzip a body once, at the level that is worth its time; None where that saves nothing."""
    if len(body) <= _COMPRESS_FROM:
        return None
    # mtime 0: the same page is the same bytes on every replica, as a strong ETag promises (RFC 9110, section 8.8.1).
    gzipped = igzip.compress(body, compresslevel=1, mtime=0)
    return gzipped if len(gzipped) < len(body) else None
