"""Tell whether a vendor's answer belongs to the request that it was read for.

HTTP/1.1 has no request ids: an answer belongs to a request by its place on the connection alone. A page can prove more,
since its assets name their AOI and its pagination the offset. An empty page proves no AOI; an error proves nothing.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from gateway.core.query import AssetsQuery


class _Asset(msgspec.Struct):
    aoi_id: Any = None


class _Pagination(msgspec.Struct):
    offset: Any = None


class _Page(msgspec.Struct):
    assets: list[_Asset] | None
    pagination: _Pagination


_PAGE = msgspec.json.Decoder(_Page)


class Mismatch(NamedTuple):
    """Another AOI or another offset than requested, and which."""

    field: Literal["aoi_id", "offset"]
    value: str | int


Identity = Mismatch | Literal["proven", "unknown"]


def page_identity(status: int, body: bytes, query: AssetsQuery) -> Identity:
    """Compare a decoded answer with the AOI and the offset that were requested.

    The case of AOI ids does not matter. "proven" takes at least one asset that names the AOI, and the offset.
    """
    if status != 200:
        return "unknown"
    try:
        page = _PAGE.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "unknown"
    named = {asset.aoi_id.lower() for asset in page.assets or () if isinstance(asset.aoi_id, str)}
    others = named - {query.aoi_id.lower()}
    if others:
        return Mismatch("aoi_id", min(others))
    told = page.pagination.offset
    if type(told) is not int:
        return "unknown"
    if told != query.offset:
        return Mismatch("offset", told)
    return "proven" if named else "unknown"
