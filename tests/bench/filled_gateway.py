"""A gateway whose memory holds so many pages from the start: to fetch a hundred thousand takes minutes."""

from __future__ import annotations

import argparse
import asyncio
import socket

import uvloop
from canned_vendor import Canned
from cases import filled_aoi

from gateway.app.build import Gateway, Sockets
from gateway.app.run import key_ring
from gateway.cache.admission import admit
from gateway.config.loading import load
from gateway.core.cache_control import VendorCaching
from gateway.core.listing import parse_listing
from gateway.core.query import AssetsQuery
from gateway.telemetry.log_writer import LineWriter, configure, standard_output
from gateway.upstream.classification import FetchedPage


async def serve(file: str, pages: int) -> None:
    """Fill the store by the way that fetched pages go, and serve."""
    settings = load(file=file, environ={}).settings
    keys = key_ring(settings)
    writer = LineWriter(standard_output(), keys.redact)
    configure(writer, "json", settings.log.level)
    gateway = Gateway(settings, keys, writer, "json")
    now, canned = gateway._clock.now(), Canned()
    for number in range(pages):
        query = AssetsQuery(filled_aoi(number), 0, 10)
        address = query.address(gateway._scope)
        body = canned.page(query.aoi_id.encode(), 0, 10)
        fetched = FetchedPage(200, body, parse_listing(body, query.aoi_id), VendorCaching(), now, now)
        page = admit(query, address.page, fetched, settings.cache.lifetimes, 0.0)
        await gateway._store.put(address, page, (await gateway._store.get(address)).epoch)
    await gateway.start(Sockets(socket.create_server(("127.0.0.1", settings.server.port), backlog=1024), None))
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--pages", type=int, required=True)
    given = parser.parse_args()
    uvloop.run(serve(given.config, given.pages))


if __name__ == "__main__":
    main()
