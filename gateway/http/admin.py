"""Purge: end what is cached of an AOI, or of everything. A soft purge ends freshness only.

`application/json` is required: a page of another origin can send anything else without asking (WHATWG Fetch, "CORS
protocol"). Who may do this, the router has seen to.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.core.errors import BadQuery
from gateway.core.query import parse_aoi_id
from gateway.http.errors import Problem
from gateway.http.router import Route

_MOST_BYTES = 1024
_SECONDS = 10.0


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    aoi_id: str | None = None
    all: bool = False
    soft: bool = False


_ORDER = msgspec.json.Decoder(_Order)


class PurgeRequest(Protocol):
    """Ends what is cached."""

    async def __call__(self, aoi_id: str | None, *, soft: bool) -> None: ...  # noqa: D102 - as the class says


class Admin:
    """`POST /admin/purge`.

    `purge` takes an AOI id, or None for everything, and whether the purge is soft. It raises StoreDown.
    """

    def __init__(self, purge: PurgeRequest) -> None:
        self._purge = purge

    def routes(self) -> dict[str, Route]:
        """By path."""
        return {"/admin/purge": Route("purge", self._answer, ("POST",), admin=True)}

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.content_type != "application/json" or "Content-Encoding" in request.headers:
            raise Problem(415, "unsupported_media_type", "send application/json", close=True)
        order = _parsed(await _body(request))
        if order.all == (order.aoi_id is not None):
            raise BadQuery('send either {"aoi_id": "..."} or {"all": true}', parameter="aoi_id")
        aoi_id = None if order.aoi_id is None else parse_aoi_id(order.aoi_id.replace("%", "%25"))
        await self._purge(aoi_id, soft=order.soft)
        purged: dict[str, object] = {"all": True} if aoi_id is None else {"aoi_id": aoi_id}
        if order.soft:
            purged["soft"] = True
        told = {"purged": purged}
        return web.Response(
            body=msgspec.json.encode(told), headers={"Content-Type": "application/json", "Cache-Control": "no-store"}
        )


async def _body(request: web.BaseRequest) -> bytes:
    """The body, as far as it is of a size and speed to be read."""
    body = b""
    try:
        async with asyncio.timeout(_SECONDS):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > _MOST_BYTES:
                    raise Problem(413, "body_not_allowed", f"the body has at most {_MOST_BYTES} bytes", close=True)
    except TimeoutError:
        raise Problem(408, "request_timeout", "the body did not come in time", close=True) from None
    return body


def _parsed(body: bytes) -> _Order:
    try:
        return _ORDER.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        raise BadQuery(
            'the body must be {"aoi_id": "..."} or {"all": true}, with "soft": true for a soft purge', parameter="body"
        ) from None
