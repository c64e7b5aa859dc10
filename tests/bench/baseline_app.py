"""What a team would write in an afternoon: an aiohttp handler that keeps the vendor's answers in Redis.

One GET of Redis for each request, the vendor where that finds nothing, a dictionary of tokens, `web.run_app`. Nothing
here is made slow on purpose, and nothing is tuned.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import AsyncIterator

import aiohttp
import redis.asyncio
from aiohttp import web

LIFETIME = 86_400


class Handler:
    """Pages by their URL."""

    def __init__(self, vendor: str, cache: str, tokens: dict[str, str]) -> None:
        self._vendor = vendor
        self._redis = redis.asyncio.Redis.from_url(cache, max_connections=1000)
        self._tokens = tokens
        self._session: aiohttp.ClientSession | None = None

    async def running(self, _: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as self._session:
            yield
        await self._redis.aclose()

    async def assets(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self._tokens:
            raise web.HTTPUnauthorized(text='{"error": "unauthorized"}', content_type="application/json")
        key = f"assets:{request.path_qs}"
        body = await self._redis.get(key)
        if body is None:
            assert self._session is not None
            async with self._session.get(self._vendor + request.path_qs, headers={"Authorization": "key"}) as answer:
                body = await answer.read()
                if answer.status != 200:
                    return web.Response(status=502)
            await self._redis.set(key, body, ex=LIFETIME)
        return web.Response(body=body, content_type="application/json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--port", "--vendor", "--redis", "--token"):
        parser.add_argument(name, required=True)
    parser.add_argument("--log", action="store_true")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO if given.log else logging.WARNING)
    handler = Handler(given.vendor, given.redis, {given.token: "team"})
    app = web.Application()
    app.cleanup_ctx.append(handler.running)
    app.router.add_get("/v0/aois/{aoi_id}/assets", handler.assets)
    web.run_app(app, host="127.0.0.1", port=int(given.port), print=None)


if __name__ == "__main__":
    main()
