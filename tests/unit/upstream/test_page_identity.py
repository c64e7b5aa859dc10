"""What a vendor's answer proves about the request that it belongs to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.query import AssetsQuery
from gateway.upstream.page_identity import Mismatch, page_identity

QUERY = AssetsQuery("Aoi-1", 20)


def page(*aoi_ids: Any, offset: Any = 20) -> bytes:
    assets = [{"id": "x"} if aoi_id is None else {"id": "x", "aoi_id": aoi_id} for aoi_id in aoi_ids]
    return json.dumps({"assets": assets, "pagination": {"total": 99, "offset": offset, "limit": 10}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "identity"),
    [
        (200, page("Aoi-1", "Aoi-1"), "proven"),
        (200, page("AOI-1", None), "proven"),
        (200, page("Aoi-1", "other"), Mismatch("aoi_id", "other")),
        (200, page("Aoi-1", offset=10), Mismatch("offset", 10)),
        (200, page(offset=10), Mismatch("offset", 10)),
        (200, page(), "unknown"),
        (200, page(None), "unknown"),
        (200, page(5), "unknown"),
        (200, page("Aoi-1", offset="20"), "unknown"),
        (200, page("Aoi-1", offset=True), "unknown"),
        (200, b'{"assets":null,"pagination":{"offset":20}}', "unknown"),
        (200, b"<html>", "unknown"),
        (200, b"[" * 100_000, "unknown"),
        (200, b'{"assets":[{"aoi_id":"\xff"}],"pagination":{"offset":20}}', "unknown"),
        (404, page("other"), "unknown"),
    ],
)
def test_identity_of_an_answer(status: int, body: bytes, identity: object) -> None:
    assert page_identity(status, body, QUERY) == identity
