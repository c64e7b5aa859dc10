"""Vendor responses that are legal HTTP or JSON, and rare."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from harness import VENDOR_KEY, Play, Reply, playing
from invariants import aftermath
from raw_vendor import RawVendor, listing, raw_vendor, whole

pytestmark = pytest.mark.usefixtures("nothing_left")

GOOD = listing(*(f"asset-{number}" for number in range(50)))
PACKED = gzip.compress(GOOD)
# A member with every optional field (RFC 1952, section 2.3): text flag, header CRC, extra field, name, comment.
_HEAD = b"\x1f\x8b\x08\x1f\0\0\0\0\0\xff\x04\0ABCDname\0comment\0"
FIELDS = _HEAD + (zlib.crc32(_HEAD) & 0xFFFF).to_bytes(2, "little") + PACKED[10:]


def deflated(body: bytes, bits: int) -> bytes:
    compressor = zlib.compressobj(wbits=bits)
    return compressor.compress(body) + compressor.flush()


def coded(body: bytes, *codings: str) -> bytes:
    return whole(body, *(f"Content-Encoding: {coding}".encode() for coding in codings))


@asynccontextmanager
async def answering(responses: Mapping[str, bytes], **flags: object) -> AsyncIterator[tuple[Play, RawVendor]]:
    """A gateway before a vendor that answers for each AOI with these bytes."""

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(responses[head.split(b"/v0/aois/")[1].split(b"/")[0].decode()])
        writer.close()

    async with raw_vendor(answer) as vendor:
        settings = {"upstream.base_url": vendor.url, "cache.prefetch": 0, "upstream.max_attempts": 1, **flags}
        async with playing(settings) as play:
            yield play, vendor


async def pages(play: Play, names: Mapping[str, object]) -> dict[str, Reply]:
    return {name: await play.page(name) for name in names}


DECODED = {
    "x-gzip": coded(PACKED, "x-gzip"),
    "upper-case": coded(PACKED, "GZIP"),
    "identity-last": coded(PACKED, "gzip, identity"),
    "identity-first": coded(PACKED, "identity,gzip"),
    "identity-line": coded(PACKED, "gzip", "identity"),
    "empty": coded(GOOD, ""),
    "empty-members": coded(PACKED, ", gzip,,"),
    "identity": coded(GOOD, "identity"),
    "two-members": coded(gzip.compress(GOOD[:700]) + gzip.compress(GOOD[700:]), "gzip"),
    "empty-member": coded(gzip.compress(b"") + PACKED + gzip.compress(b""), "gzip"),
    "padded": coded(PACKED + bytes(512), "gzip"),
    "padded-much": coded(PACKED + bytes(100_000), "gzip"),
    "all-fields": coded(FIELDS, "gzip"),
    "gzip-twice": coded(gzip.compress(PACKED), "gzip, gzip"),
    "two-lines": coded(gzip.compress(PACKED), "gzip", "x-gzip"),
    "deflate": coded(deflated(GOOD, 15), "deflate"),
    "raw-deflate": coded(deflated(GOOD, -15), "Deflate"),
    "deflate-then-gzip": coded(gzip.compress(deflated(GOOD, 15)), "deflate, gzip"),
}


async def test_content_codings_that_are_legal_are_decoded() -> None:
    async with answering(DECODED) as (play, vendor):
        replies = await pages(play, DECODED)
        assert {name: reply.status for name, reply in replies.items()} == dict.fromkeys(DECODED, 200)
        assert {reply.body for reply in replies.values()} == {GOOD}
        await aftermath(play, vendor)


async def test_a_coded_body_that_arrives_byte_by_byte_is_decoded() -> None:
    two = gzip.compress(GOOD[:700]) + gzip.compress(GOOD[700:]) + bytes(3)

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        raw = b"deflate" in head
        body = deflated(GOOD, -15) if raw else two
        response = coded(body, "deflate" if raw else "gzip")
        writer.write(response[: -len(body)])
        for byte in body:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        writer.close()

    async with raw_vendor(answer) as vendor, playing({"upstream.base_url": vendor.url}) as play:
        assert [(await play.page(name)).body for name in ("deflate", "gzip")] == [GOOD, GOOD]


BOMB = gzip.compress(b" " * 30_000_000)
REJECTED = {
    "junk": (coded(PACKED + b"junk", "gzip"), "upstream_invalid"),
    "junk-after-padding": (coded(PACKED + bytes(9) + b"junk", "gzip"), "upstream_invalid"),
    "member-after-padding": (coded(PACKED + bytes(9) + PACKED, "gzip"), "upstream_invalid"),
    "member-after-much-padding": (coded(PACKED + bytes(200_000) + PACKED, "gzip"), "upstream_invalid"),
    "junk-after-deflate": (coded(deflated(GOOD, 15) + b"junk", "deflate"), "upstream_invalid"),
    "second-cut": (coded(gzip.compress(GOOD[:700]) + gzip.compress(GOOD[700:])[:-9], "gzip"), "upstream_invalid"),
    "second-head-cut": (coded(PACKED + b"\x1f", "gzip"), "upstream_invalid"),
    "second-missing": (coded(gzip.compress(GOOD[:700]), "gzip"), "upstream_invalid"),
    "deflate-cut": (coded(deflated(GOOD, -15)[:-9], "deflate"), "upstream_invalid"),
    "twice-cut": (coded(gzip.compress(PACKED[:-9]), "gzip, gzip"), "upstream_invalid"),
    "second-bomb": (coded(PACKED + BOMB, "gzip"), "upstream_too_large"),
    "bomb-in-bomb": (coded(gzip.compress(BOMB), "gzip, gzip"), "upstream_too_large"),
    "bomb-of-padding": (coded(gzip.compress(PACKED + bytes(30_000_000)), "gzip, gzip"), "upstream_too_large"),
    "many-codings": (coded(GOOD, ", ".join(["gzip"] * 6)), "upstream_invalid"),
    "brotli": (coded(GOOD, "br"), "upstream_invalid"),
    "gzip-and-brotli": (coded(PACKED, "br, gzip"), "upstream_invalid"),
    "not-gzip": (coded(GOOD, "gzip"), "upstream_invalid"),
    "nothing": (coded(b"", "gzip"), "upstream_invalid"),
}


async def test_content_codings_that_are_broken_or_unknown_are_rejected() -> None:
    async with answering({name: response for name, (response, _) in REJECTED.items()}) as (play, vendor):
        replies = await pages(play, REJECTED)
        assert {name: (reply.status, reply.code) for name, reply in replies.items()} == {
            name: (502, code) for name, (_, code) in REJECTED.items()
        }
        assert (await aftermath(play, vendor))["gateway_cache_entries"] == 0


async def test_a_status_that_needs_no_body_counts_whatever_its_body_is() -> None:
    def failing(status: int, coding: str, body: bytes) -> bytes:
        return coded(body, coding).replace(b"200 OK", b"%d X" % status)

    responses = {
        "unavailable": failing(503, "br", b"\x0b\x02\x80"),
        "cut": failing(500, "gzip", PACKED[:-9]),
        "long": failing(504, "identity", b" " * 100_000),
        "limited": failing(429, "br", b"\x0b\x02\x80").replace(b"\r\n\r\n", b"\r\nRetry-After: 29.97\r\n\r\n"),
    }
    async with answering(responses) as (play, vendor):
        replies = await pages(play, responses)
        assert {name: (reply.status, reply.code) for name, reply in replies.items()} == {
            "unavailable": (503, "upstream_error"),
            "cut": (500, "upstream_error"),
            "long": (504, "upstream_error"),
            "limited": (503, "upstream_rate_limited"),
        }
        assert replies["limited"].headers["Retry-After"] == "30"
        play.clock.pass_by(28)
        assert (await play.page("limited")).code == "upstream_rate_limited"
        assert len(vendor.requests) == len(responses)


async def test_long_and_many_header_lines_are_accepted() -> None:
    responses = {
        "8-kb": whole(GOOD, b"X-Policy: " + b"p" * 8192),
        "12-kb": whole(GOOD, b"X-Policy: " + b"p" * 12_288),
        "60-kb": whole(GOOD, b"X-Policy: " + b"p" * 61_440),
        "64-kb-cookie": whole(GOOD, b"Set-Cookie: c=" + b"p" * 65_536),
        "long-name": whole(GOOD, b"X-" + b"n" * 12_288 + b": y"),
        "long-reason": whole(GOOD).replace(b"200 OK", b"200 " + b"O" * 12_288),
        "300-lines": whole(GOOD, *(b"X-%d: y" % number for number in range(300))),
        "folded": whole(GOOD, b"X-Folded: one\r\n\ttwo"),
        "latin-1": whole(GOOD, b"X-Name: caf\xe9"),
    }
    async with answering(responses) as (play, vendor):
        replies = await pages(play, responses)
        assert {name: reply.status for name, reply in replies.items()} == dict.fromkeys(responses, 200)
        await aftermath(play, vendor)


LONE = r'{"id":"%s","name":"%s","status":"success","path":"https://s.example/%s?a=b"}'


def odd_page(*names: str, offset: int = 0, total: int | None = None) -> bytes:
    assets = ",".join(LONE % (name, name, name) for name in names)
    total = len(names) if total is None else total
    return (
        f'{{"assets":[{assets}],"pagination":{{"total":{total},"offset":{offset},"limit":{max(10, len(names))}}}}}'
    ).encode()


async def test_pages_with_lone_surrogates_are_served_stored_and_cut_into_windows() -> None:
    def longer(*names: str) -> bytes:
        # The list is longer than the page: only then does the page show that the vendor honours its limit.
        return odd_page(*names, *"defghijklm"[: 10 - len(names)], total=11)

    responses = {
        "high": whole(longer(r"\ud83d", "b", "c")),
        "low": whole(longer(r"a\uDE00", "b", "c")),
        "both-wrong-way": whole(longer(r"\ude00\ud83d", "b", "c")),
        "next-to-a-pair": whole(longer(r"\ud83d\ud83d\ude00", "b", "c")),
        "escaped-backslash": whole(longer(r"\\ud83d", "b", "c")),
        "in-a-key": whole(longer("a", "b", "c").replace(b'"name"', rb'"\ud83d"')),
    }
    async with answering(responses) as (play, vendor):
        replies = await pages(play, responses)
        assert {name: reply.status for name, reply in replies.items()} == dict.fromkeys(responses, 200)
        for name, reply in replies.items():
            assert responses[name].endswith(b"\r\n\r\n" + reply.body), name
            again = await play.page(name)
            assert (again.cache.split(";")[0], again.body) == ("hit", reply.body)
            window = await play.page(name, "?offset=0&limit=2")
            assert "detail=window" in window.cache, name
            assert window.json["assets"] == reply.json["assets"][:2]
            assert window.json["pagination"] == {"total": 11, "offset": 0, "limit": 2}
        assert len(vendor.requests) == len(responses)
        await aftermath(play, vendor)


@pytest.mark.parametrize(
    ("second", "same"), [(r"\ud83d", True), (r"\uD83D", True), (r"\ud83e", False), (r"\ud93d", False)]
)
async def test_lone_surrogates_in_ids_tell_assets_apart(second: str, same: bool) -> None:
    bodies = iter((odd_page(r"\ud83d", "b"), odd_page(second, "b")))

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(next(bodies)))
        writer.close()

    async with raw_vendor(answer) as vendor, playing({"upstream.base_url": vendor.url, "cache.prefetch": 0}) as play:
        first = await play.page("a1")
        play.clock.skip(1000)
        again = await play.page("a1")
        assert again.cache.startswith("fwd=stale")
        names = {reply.headers["X-Listing-Generation"] for reply in (first, again)}
        assert (len(names) == 1) == same


async def test_an_error_with_a_lone_surrogate_is_passed_on() -> None:
    body = rb'{"error":{"code":"bad_\ud83d","message":"no \ude00 here","details":{"\ud83d":["\ud83d",1]}}}'
    responses = {
        name: whole(body).replace(b"200 OK", status) for name, status in (("missing", b"404 X"), ("odd", b"422 X"))
    }
    async with answering(responses) as (play, vendor):
        for name, status in (("missing", 404), ("odd", 422)):
            for _ in range(2):
                reply = await play.page(name)
                error = reply.json["error"]
                assert (reply.status, error["code"], error["message"]) == (status, "bad_\ud83d", "no \ude00 here")
                assert error["details"]["upstream"] == {"\ud83d": ["\ud83d", 1]}
        await aftermath(play, vendor)
        lines = [line for line in play.log_lines() if line.get("route") == "assets"]
        assert len(lines) == 4


async def test_a_refusal_that_quotes_our_request_keeps_its_code() -> None:
    def refusal(head: bytes) -> bytes:
        quoted = {"code": "invalid_aoi", "message": f"cannot parse: {head.decode()}", "details": {"request": "x"}}
        body = json.dumps({"error": quoted}).encode()
        return whole(body).replace(b"200 OK", b"422 Unprocessable")

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        assert VENDOR_KEY.encode() in head
        writer.write(refusal(head))
        writer.close()

    async with raw_vendor(answer) as vendor, playing({"upstream.base_url": vendor.url}) as play:
        reply = await play.page("a1")
        assert (reply.status, reply.code) == (422, "invalid_aoi")
        assert "Authorization: [redacted]\r\n" in reply.json["error"]["message"]
        assert "User-Agent: pixxel-gateway/" in reply.json["error"]["message"]
        assert reply.details["upstream"] == {"request": "x"}
        await aftermath(play, vendor)
