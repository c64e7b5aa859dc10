"""The main job: a page is asked for, fetched once, and answered byte for byte."""

from __future__ import annotations

import gzip
import re

import pytest
from harness import VENDOR_KEY, Play, playing

from gateway.mock_vendor.server import MockVendor

PROMISED = {
    "Content-Type", "Content-Length", "ETag", "Vary", "Age", "Cache-Control", "Cache-Status",
    "X-Listing-Generation", "X-Request-Id", "Date", "Server",
}  # fmt: skip


def settled(vendor: MockVendor) -> str:
    return vendor.aoi_ids[2]


async def test_a_page_comes_byte_for_byte_with_the_promised_headers(play: Play, vendor: MockVendor) -> None:
    aoi_id = settled(vendor)
    reply = await play.page(aoi_id, "?offset=0&limit=10")
    assert reply.status == 200
    assert reply.body == vendor.listing(aoi_id, 0, 10)
    assert {name.lower() for name in reply.headers} == {name.lower() for name in PROMISED}
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Vary"] == "Accept-Encoding"
    assert reply.headers["Cache-Control"] == "private, no-cache"
    assert reply.headers["Age"] == "0"
    assert reply.headers["Server"] == "pixxel-gateway"
    assert re.fullmatch(r'"[0-9a-f]{32}"', reply.headers["ETag"])
    assert reply.cache == "fwd=miss; fwd-status=200; stored"


async def test_the_second_request_is_a_hit_and_asks_nobody(play: Play, vendor: MockVendor) -> None:
    aoi_id = settled(vendor)
    play.clock.stop()
    first = await play.page(aoi_id)
    play.clock.skip(13.5)
    second = await play.page(aoi_id)
    assert second.body == first.body
    assert second.cache == "hit; ttl=286"
    assert second.headers["Age"] == "13"
    assert len(vendor.requests) == 1


@pytest.mark.parametrize(
    "query", ["", "?", "?offset=0", "?limit=10", "?limit=10&offset=0", "?offset=%30", "?%6fffset=0"]
)
async def test_every_way_to_say_the_first_page_is_one_entry(play: Play, vendor: MockVendor, query: str) -> None:
    aoi_id = settled(vendor)
    await play.page(aoi_id, "?offset=0&limit=10")
    assert (await play.page(aoi_id, query)).cache.startswith("hit")
    assert [request.target for request in vendor.requests] == [f"/v0/aois/{aoi_id}/assets?offset=0&limit=10"]


async def test_an_escaped_letter_of_the_id_is_the_same_aoi(play: Play, vendor: MockVendor) -> None:
    vendor.set_assets("aA", [{"status": "success"}])
    await play.page("a%41")
    assert (await play.page("aA")).cache.startswith("hit")
    assert vendor.requests[0].target.startswith("/v0/aois/aA/assets?")


async def test_head_is_answered_from_the_same_entry(play: Play, vendor: MockVendor) -> None:
    aoi_id = settled(vendor)
    head = await play.get(f"/v0/aois/{aoi_id}/assets", method="HEAD")
    page = await play.page(aoi_id)
    assert head.status == 200
    assert head.body == b""
    assert head.headers["Content-Length"] == str(len(page.body))
    assert head.headers["ETag"] == page.headers["ETag"]
    assert page.cache.startswith("hit")
    assert len(vendor.requests) == 1


async def test_gzip_goes_out_as_it_is_stored(play: Play, vendor: MockVendor) -> None:
    aoi_id = settled(vendor)
    plain = await play.page(aoi_id)
    zipped = await play.page(aoi_id, Accept_Encoding="br, gzip")
    again = await play.page(aoi_id, Accept_Encoding="gzip")
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.body) == plain.body
    assert again.body == zipped.body
    assert zipped.headers["ETag"] == plain.headers["ETag"][:-1] + '-gzip"'


async def test_a_small_page_is_not_compressed(play: Play, vendor: MockVendor) -> None:
    vendor.set_assets("small", [])
    reply = await play.page("small", Accept_Encoding="gzip")
    assert "Content-Encoding" not in reply.headers
    assert reply.json == {"assets": [], "pagination": {"total": 0, "offset": 0, "limit": 10}}


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip;q=0", None),
        ("gzip;q=0, *", None),
        ("*", "gzip"),
        ("*;q=0, identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("gzip;q=0.1", "gzip"),
        ("identity;q=0", "gzip?"),
        ("GZIP", "gzip"),
        ("", None),
        ("deflate, br;q=0.9", None),
        ("gzip;q=nonsense", None),
    ],
)
async def test_accept_encoding_is_understood(play: Play, vendor: MockVendor, accept: str, coding: str | None) -> None:
    reply = await play.page(settled(vendor), Accept_Encoding=accept)
    if coding == "gzip?":  # identity is ruled out and gzip never named: then neither is known to be acceptable
        assert reply.status == 406
        assert reply.code == "not_acceptable"
    else:
        assert reply.status == 200
        assert reply.headers.get("Content-Encoding") == coding


async def test_nothing_acceptable_is_406_and_asks_nobody(play: Play, vendor: MockVendor) -> None:
    reply = await play.page(settled(vendor), Accept_Encoding="identity;q=0, *;q=0")
    assert (reply.status, reply.code) == (406, "not_acceptable")
    assert vendor.requests == []


async def test_if_none_match_of_either_coding_is_304(play: Play, vendor: MockVendor) -> None:
    aoi_id = settled(vendor)
    tag = (await play.page(aoi_id)).headers["ETag"]
    zipped = tag[:-1] + '-gzip"'
    for sent in (tag, zipped, f"W/{tag}", f'"other", {tag}', "*"):
        reply = await play.page(aoi_id, If_None_Match=sent)
        assert (reply.status, reply.body) == (304, b"")
        assert reply.headers["ETag"] == tag
        assert reply.headers["X-Listing-Generation"]
        assert reply.cache.startswith("hit")
        assert "Content-Type" not in reply.headers
    assert (await play.page(aoi_id, If_None_Match='"other"')).status == 200


async def test_pages_of_one_listing_share_their_generation(play: Play, vendor: MockVendor) -> None:
    first = await play.page(vendor.aoi_ids[0], "?limit=10")
    second = await play.page(vendor.aoi_ids[0], "?offset=10&limit=10")
    other = await play.page(settled(vendor))
    assert first.headers["X-Listing-Generation"] == second.headers["X-Listing-Generation"]
    assert first.headers["X-Listing-Generation"] != other.headers["X-Listing-Generation"]


async def test_the_request_id_is_the_clients_if_it_is_one(play: Play, vendor: MockVendor) -> None:
    mine = await play.page(settled(vendor), X_Request_Id="My-id_1.2")
    assert mine.headers["X-Request-Id"] == "My-id_1.2"
    assert dict(vendor.requests[0].headers)["X-Request-Id"] == "My-id_1.2"
    for odd in ("a b", "x" * 65, "é", "a;b"):
        other = await play.page(settled(vendor), X_Request_Id=odd)
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", other.headers["X-Request-Id"])


async def test_no_header_of_a_client_changes_the_vendor_request(play: Play, vendor: MockVendor) -> None:
    vendor.set_assets("a1", [{"status": "success"}])
    hostile = {
        "Authorization": "Bearer mine", "X-API-Key": "mine", "Cookie": "a=b", "Accept": "text/html", "Origin": "http://evil",
        "X-Forwarded-For": "1.2.3.4", "X-Forwarded-Host": "evil", "X-Original-URL": "/v0/users", "Range": "bytes=0-1",
        "X-HTTP-Method-Override": "DELETE", "Accept-Encoding": "br", "User-Agent": "evil", "Cache-Control": "no-store",
        "Connection": "close, authorization", "Forwarded": "for=1.2.3.4", "Via": "1.1 evil", "If-None-Match": '"x"',
    }  # fmt: skip
    await play.page("a1", X_Request_Id="same")
    play.clock.skip(100_000)
    reply = await play.get("/v0/aois/a1/assets", headers={**hostile, "X-Request-Id": "same"})
    assert reply.status == 200
    plain, attacked = vendor.requests
    assert (attacked.method, attacked.target, attacked.headers) == (plain.method, plain.target, plain.headers)


@pytest.mark.parametrize(("scheme", "sent"), [("raw", VENDOR_KEY), ("bearer", f"Bearer {VENDOR_KEY}")])
async def test_the_key_is_injected(vendor: MockVendor, scheme: str, sent: str) -> None:
    async with playing({"upstream.base_url": vendor.url, "upstream.auth_scheme": scheme}) as play:
        assert (await play.page(settled(vendor))).status == 200
    assert dict(vendor.requests[0].headers)["Authorization"] == sent


async def test_a_filter_that_is_configured_passes_and_splits_the_cache(vendor: MockVendor) -> None:
    aoi_id = settled(vendor)
    async with playing({"upstream.base_url": vendor.url, "query.filters": ["status", "asset_type"]}) as play:
        await play.page(aoi_id, "?status=success&limit=5")
        await play.page(aoi_id, "?limit=5&status=success")
        await play.page(aoi_id, "?limit=5&status=a%20b%26c")
        assert (await play.page(aoi_id, "?status=")).code == "invalid_parameter"
        assert (await play.page(aoi_id, "?status=%C3%A9")).code == "invalid_parameter"
    assert [request.target.partition("?")[2] for request in vendor.requests] == [
        "offset=0&limit=5&status=success",
        "offset=0&limit=5&status=a%20b%26c",
    ]


async def test_an_expired_page_is_served_in_grace_and_refreshed_behind_it(play: Play, vendor: MockVendor) -> None:
    aoi_id = settled(vendor)
    play.clock.stop()
    await play.page(aoi_id)
    play.clock.skip(302.5)
    stale = await play.page(aoi_id)
    assert stale.cache == "hit; ttl=-3"
    while (reply := await play.page(aoi_id)).headers["Age"] != "0":
        assert reply.cache == "hit; ttl=-3"
    assert reply.cache == "hit; ttl=300"
    assert len(vendor.requests) == 2


async def test_past_grace_the_vendor_is_asked_again(play: Play, vendor: MockVendor) -> None:
    aoi_id = settled(vendor)
    await play.page(aoi_id)
    play.clock.skip(400)
    assert (await play.page(aoi_id)).cache == "fwd=stale; fwd-status=200; stored"


async def test_an_old_page_is_served_when_the_vendor_fails(play: Play, vendor: MockVendor) -> None:
    aoi_id = settled(vendor)
    play.clock.stop()
    good = await play.page(aoi_id)
    play.clock.skip(400.5)
    vendor.set_behaviour(status=503)
    old = await play.page(aoi_id)
    assert (old.status, old.body) == (200, good.body)
    assert old.cache == "fwd=stale; fwd-status=503; detail=stale-if-error"
    assert old.headers["Age"] == "400"
    play.clock.skip(86_400)
    assert (await play.page(aoi_id)).status == 503


async def test_a_vendor_404_passes_with_its_envelope_and_is_cached_shortly(play: Play, vendor: MockVendor) -> None:
    play.clock.stop()
    first = await play.page("nobody", X_Request_Id="one")
    play.clock.skip(0.5)
    second = await play.page("nobody", X_Request_Id="two")
    assert (first.status, second.status) == (404, 404)
    assert first.details["request_id"] == "one"
    assert second.details["request_id"] == "two"
    assert first.cache == "fwd=miss; fwd-status=404; stored"
    assert second.cache == "hit; ttl=29"
    assert second.headers["Cache-Control"] == "no-store"
    assert len(vendor.requests) == 1
    play.clock.skip(30)
    vendor.set_behaviour(status=503)
    assert (await play.page("nobody")).status == 503


async def test_only_if_cached(play: Play, vendor: MockVendor) -> None:
    aoi_id = settled(vendor)
    cold = await play.page(aoi_id, Cache_Control="only-if-cached")
    assert (cold.status, cold.code) == (504, "not_cached")
    assert vendor.requests == []
    await play.page(aoi_id)
    assert (await play.page(aoi_id, Cache_Control="max-stale, only-if-cached")).status == 200


async def test_no_cache_without_the_scope_is_ignored(play: Play, vendor: MockVendor) -> None:
    aoi_id = settled(vendor)
    await play.page(aoi_id)
    assert (await play.page(aoi_id, Cache_Control="no-cache")).cache.startswith("hit")
    assert (await play.page(aoi_id, Pragma="no-cache")).cache.startswith("hit")
    assert len(vendor.requests) == 1
