"""A vendor whose answers are ready before they are asked for, so that what stands in front of it is what is measured.

Every AOI has the same thousand finished assets, taken from the stand-in vendor: ten of them are a page of 8.8 KB, a
hundred one of 88 KB. It knows no key and no faults. It compresses for whoever says `X-Canned-Coding: gzip`, which is
what a cache needs that keeps no compressed form of its own making. `/asked` tells how many pages it was asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import ssl
from functools import lru_cache
from typing import cast

import uvloop
import xxhash
from isal import igzip

from gateway.mock_vendor.catalogue import Catalogue

TOTAL = 1000
_TARGET = re.compile(rb"GET /v0/aois/([A-Za-z0-9_-]{1,64})/assets(?:\?offset=(\d+)&limit=(\d+))? HTTP/1\.1\r\n")
# Two fields less per asset bring the pages to the sizes that are told.
_LEFT_OUT = re.compile(rb'"(?:date":"[^"]*"|resolution":\d+),')
_SETTLED = 1e9


class Canned:
    """What this vendor answers."""

    def __init__(self) -> None:
        self._catalogue = Catalogue(aois=1, seed=0, started=0.0)
        self._model = self._catalogue.aoi_ids[0]
        self._catalogue.set_count(self._model, TOTAL)
        self._asked = 0

    def page(self, aoi_id: bytes, offset: int, limit: int) -> bytes:
        """The body for a window of any AOI."""
        return self._printed(offset, limit).replace(self._model.encode(), aoi_id)

    @lru_cache(maxsize=10_000)  # noqa: B019 - there is one of these
    def _printed(self, offset: int, limit: int) -> bytes:
        body = self._catalogue.listing(self._model, offset, limit, _SETTLED)
        assert body is not None
        return _LEFT_OUT.sub(b"", body)

    def answer(self, head: bytes) -> bytes:
        """The whole response to the head of a request."""
        if head.startswith(b"GET /asked "):
            told = b"%d" % self._asked
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(told), told)
        self._asked += 1
        found = _TARGET.match(head)
        if found is None:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        body = self.page(found[1], int(found[2] or 0), int(found[3] or 10))
        coding = b""
        if b"\r\nx-canned-coding: gzip\r\n" in head.lower():
            body, coding = igzip.compress(body, compresslevel=1, mtime=0), b"Content-Encoding: gzip\r\n"
        return b"".join((
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n", coding,
            b'ETag: "%s"\r\nContent-Length: %d\r\n\r\n' % (xxhash.xxh3_64_hexdigest(body).encode(), len(body)), body,
        ))  # fmt: skip


class _Connection(asyncio.Protocol):
    def __init__(self, canned: Canned) -> None:
        self._canned = canned
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head, self._received = self._received[: end + 4], self._received[end + 4 :]
            self._transport.write(self._canned.answer(head))


async def serve(port: int, certificate: str | None) -> None:
    """Answer until the process is ended, over TLS if there is a certificate (PEM, with its key)."""
    canned, tls = Canned(), None
    if certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(canned), "127.0.0.1", port, backlog=1024, ssl=tls
    )
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate")
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.certificate))


if __name__ == "__main__":
    main()
