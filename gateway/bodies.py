"""The body of a vendor's answer: read in pieces and decoded within a bound.

A gzip of a few kilobytes can decode to gigabytes, and one that was cut looks whole to whoever does not ask for its end.
"""

from __future__ import annotations

import zlib

import aiohttp

from gateway.core.errors import UpstreamBroken, UpstreamTooLarge

_PIECE = 65_536


class CutShort(UpstreamBroken):
    """The answer began and did not end, which may be chance."""


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read and decode the body in bounded pieces, so that a small answer cannot become a large one unseen."""
    coding = ",".join(response.headers.getall("Content-Encoding", [])).strip().lower()
    if coding not in ("", "identity", "gzip"):
        raise UpstreamBroken("a content coding that we did not ask for", status=response.status)
    inflate = zlib.decompressobj(wbits=31) if coding == "gzip" else None
    pieces: list[bytes] = []
    size = 0
    async for raw in response.content.iter_chunked(_PIECE):
        data = raw
        while data:
            piece = data if inflate is None else inflate.decompress(data, _PIECE)
            data = b"" if inflate is None else inflate.unconsumed_tail
            if inflate is not None and inflate.unused_data:
                raise UpstreamBroken("bytes after the end of the gzip body", status=response.status)
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise UpstreamTooLarge(f"more than {limit} bytes", status=response.status)
    if inflate is not None and not inflate.eof:
        raise CutShort("the gzip body has no end", status=response.status)
    return b"".join(pieces)
