"""Read and decode the body of a vendor response within a limit.

A gzip body of a few kilobytes can decode to gigabytes, and a truncated one looks complete until its end is checked.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import aiohttp

from gateway.core.errors import UpstreamBroken, UpstreamTooLarge
from gateway.upstream.classification import needs_body

_PIECE = 65_536
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15  # `wbits` of zlib
# As curl does; each coding multiplies the work that one byte of a body can cause.
_MOST_CODINGS = 5


class TruncatedBody(UpstreamBroken):
    """The answer began and did not end, which may be chance."""


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a body and undo its content codings (RFC 9110, section 8.4).

    Raises UpstreamTooLarge if it is longer than `limit` bytes, UpstreamBroken for an unknown coding or trailing bytes,
    CutShort or zlib.error if it is truncated or corrupt. Returns an empty body instead where only the status counts.
    """
    try:
        return await _read(response, limit)
    except (UpstreamBroken, UpstreamTooLarge, zlib.error):
        if needs_body(response.status):
            raise
        return b""


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    decoders = _decoders(response.headers.getall("Content-Encoding", []), 2 * limit, response.status)
    pieces: list[bytes] = []
    received = size = 0
    async for raw in response.content.iter_chunked(_PIECE):
        received += len(raw)
        for piece in _decoded(decoders, raw):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise UpstreamTooLarge(f"more than {limit} bytes", status=response.status)
        # Empty gzip members and padding decode to nothing, so the encoded size has a limit too.
        if received > 2 * limit:
            raise UpstreamTooLarge(f"more than {2 * limit} bytes before decoding", status=response.status)
    if received:  # an empty body is complete, whatever its coding
        for decoder in decoders:
            decoder.finish()
    return b"".join(pieces)


def _decoders(lines: Sequence[str], limit: int, status: int) -> list[_Decoder]:
    """Return what undoes the codings of these Content-Encoding lines, the last one applied first."""
    codings = [coding.strip().lower() for line in lines for coding in line.split(",")]
    applied = [coding.removeprefix("x-") for coding in codings if coding not in ("", "identity")]
    if len(applied) > _MOST_CODINGS or not set(applied) <= {"gzip", "deflate"}:
        raise UpstreamBroken("a content coding that we did not ask for", status=status)
    return [_Decoder(coding, limit, status) for coding in reversed(applied)]


def _decoded(decoders: Sequence[_Decoder], data: bytes) -> Iterator[bytes]:
    if not decoders:
        yield data
        return
    for piece in decoders[0].feed(data):
        yield from _decoded(decoders[1:], piece)


class _Decoder:
    """Undo one content coding, in pieces and up to `limit` bytes of output."""

    def __init__(self, coding: str, limit: int, status: int) -> None:
        self._gzip = coding == "gzip"
        self._limit = limit
        self._status = status
        self._inflate = zlib.decompressobj(_GZIP) if self._gzip else None
        self._start = b""  # of a deflate body, until it is known whether it has the zlib header
        self._padded = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode more bytes."""
        if self._inflate is None:
            data = self._start + data
            if len(data) < 2:
                self._start = data
                return
            self._inflate = _deflate(data)
        piece = b""
        while data or len(piece) == _PIECE:  # after a full piece there may be more, although all input was taken
            if self._inflate.eof:
                data, piece = self._next_member(data), b""
                continue
            piece = self._inflate.decompress(data, _PIECE)
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            self._limit -= len(piece)
            if self._limit < 0:
                raise UpstreamTooLarge("a content coding expands too much", status=self._status)
            if piece:
                yield piece

    def finish(self) -> None:
        """Raise CutShort unless the body has ended."""
        if self._inflate is None or not self._inflate.eof:
            raise TruncatedBody("the compressed body has no end", status=self._status)

    def _next_member(self, data: bytes) -> bytes:
        """Begin the next gzip member (RFC 1952, section 2.2), or skip zero padding after the last one."""
        if self._padded or not (self._gzip and data.startswith(_GZIP_MAGIC[: len(data)])):
            if data.strip(b"\0"):
                raise UpstreamBroken("bytes after the end of the compressed body", status=self._status)
            self._padded = True
            return b""
        self._inflate = zlib.decompressobj(_GZIP)
        return data


def _deflate(start: bytes) -> zlib._Decompress:
    """Choose between `deflate` with the zlib header (RFC 9110, section 8.4.1.2) and the raw form that some send."""
    has_header = start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start[:2], "big") % 31 == 0
    return zlib.decompressobj(_ZLIB if has_header else _RAW_DEFLATE)
