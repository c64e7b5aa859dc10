"""Requests whose end is in doubt: each is refused, its connection closed, and nothing inside it ever executed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import pytest_asyncio
from harness import VENDOR_KEY, Play, parse_metrics, playing, spawn, until
from wire import answers, request, until_closed

from gateway.mock_vendor.server import MockVendor

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Stands in every bad request, and must come back in no answer and no log line.
MARKER = b"r3flect-me"
# What an attacker would have us execute.
HIDDEN = request(path=b"/v0/aois/hidden/assets")


class Case(NamedTuple):
    data: bytes
    statuses: tuple[int, ...] = (400,)
    codes: tuple[str, ...] = ("bad_request",)


def get(*lines: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return request(b"X-Marker: " + MARKER, *lines, version=version, body=body)


def post(*lines: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return request(b"X-Marker: " + MARKER, *lines, method=b"POST", version=version, body=body)


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    ended = b"0\r\n\r\n"
    both = (b"Content-Length: 5", b"Transfer-Encoding: chunked")
    found["Content-Length, then Transfer-Encoding"] = Case(post(*both, body=ended))
    found["Transfer-Encoding, then Content-Length"] = Case(post(*reversed(both), body=ended))
    for coding in (
        b"xchunked", b"identity", b'"chunked"', b"chunked, identity", b"chunked, chunked", b"chunked,", b", chunked",
        b"gzip, chunked", b"gzip", b"chunked;q=1", b"", b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"chunked\x0c",
        b"chunked\x00", b"\x00chunked", b"chunked\x80", b"chunked\xc2\xa0",
    ):  # fmt: skip
        found[f"Transfer-Encoding: {coding!r}"] = Case(post(b"Transfer-Encoding: " + coding, body=ended))
    for name, lines in {
        "twice": [b"Transfer-Encoding: chunked"] * 2,
        "with identity": [b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"],
        "blank before the colon": [b"Transfer-Encoding : chunked"],
        "tab before the colon": [b"Transfer-Encoding\t: chunked"],
        "underscore": [b"Transfer_Encoding: chunked"],
        "folded": [b"Transfer-Encoding:", b" chunked"],
        "folded, with a tab": [b"Transfer-Encoding:", b"\tchunked"],
    }.items():
        found[f"Transfer-Encoding, {name}"] = Case(post(*lines, body=ended))
    found["Transfer-Encoding on HTTP/1.0"] = Case(post(both[1], body=ended, version=b"HTTP/1.0"))
    for length in (
        b"3, 3", b"3,3", b"+3", b"-1", b"0x3", b"1_0", b"3 3", b" 3 3", b"", b"003", b"00", b"3.0", b"3;", b"3\x0b",
        b"\x0b3", b"3\x00", b"%33", b"18446744073709551619", b"18446744073709551615", b"18446744073709551616",
        b"9999999999999999999", "\N{FULLWIDTH DIGIT THREE}".encode(), b"\xb3",
    ):  # fmt: skip
        found[f"Content-Length: {length!r}"] = Case(post(b"Content-Length: " + length, body=b"abc"))
    for first, second in ((b"3", b"3"), (b"3", b"4"), (b"0", b"0")):
        lines = [b"Content-Length: " + first, b"Content-Length: " + second]
        found[f"Content-Length twice, {first!r} and {second!r}"] = Case(post(*lines, body=b"abc"))
    found["Content-Length, underscore"] = Case(post(b"Content_Length: 3", body=b"abc"))
    found["Content-Length, folded"] = Case(post(b"Content-Length:", b" 3", body=b"abc"))

    found["obs-fold"] = Case(get(b"X-Folded: a", b" b"))
    found["obs-fold with a tab"] = Case(get(b"X-Folded: a", b"\tb"))
    found["obs-fold of nothing"] = Case(get(b"X-Folded:", b" b"))
    found["blank before the first header"] = Case(get().replace(b"\r\nHost", b"\r\n Host", 1))
    found["folded Host"] = Case(get().replace(b"Host: localhost", b"Host:\r\n localhost", 1))
    found["bare LF everywhere"] = Case(get().replace(b"\r\n", b"\n"))
    found["bare LF after the request line"] = Case(get().replace(b"\r\n", b"\n", 1))
    found["bare LF after a header"] = Case(get(b"X: y\nX-Other: z"))
    found["bare LF as the end"] = Case(get()[:-2] + b"\n")
    found["bare LF before the request"] = Case(b"\n" + get())
    found["bare CR after the request line"] = Case(get().replace(b"\r\n", b"\r", 1))
    found["bare CR after a header"] = Case(get(b"X: y\rX-Other: z"))
    found["bare CR as the end"] = Case(get()[:-2] + b"\r" + HIDDEN)
    for number in (*range(9), *range(10, 32), 127):
        found[f"control character {number:#04x} in a value"] = Case(get(b"X: " + MARKER + bytes([number])))
        found[f"control character {number:#04x} in a name"] = Case(get(MARKER + bytes([number]) + b": b"))
    for odd in (b"X Y", b"X\tY", b"X ", b" X", b"X(Y", b"X\xe9", b"", b"X@Y", b"X/Y", b'"X"', b"X[]"):
        found[f"header name {odd!r}"] = Case(get(odd + b": " + MARKER))
    found["a header without colon"] = Case(get(MARKER))

    for method in (b"GET", b"HEAD"):
        for lines, body in (
            ([b"Content-Length: 3"], b"abc"), ([b"Content-Length: %d" % len(HIDDEN)], HIDDEN),
            ([both[1]], ended), ([both[1]], b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)),
            ([b"Content-Length: 999999999999999999"], b""), ([both[1]], b"zz\r\n"),
        ):  # fmt: skip
            whole = request(b"X-Marker: " + MARKER, *lines, method=method, body=body)
            codes = ("body_not_allowed", "bad_request") if body == b"zz\r\n" else ("body_not_allowed",)
            found[f"{method.decode()} with a body: {lines[0]!r}, {body[:9]!r}"] = Case(whole, codes=codes)
    for value in (b"100-continue", b"200-ok", b"", b"100-Continue, x"):
        expecting = Case(get(b"Expect: " + value), (417,), ("expectation_failed",))
        found[f"Expect: {value!r}"] = expecting
        found[f"Expect: {value!r} and a body"] = expecting._replace(
            data=post(b"Expect: " + value, b"Content-Length: 3", body=b"abc")
        )

    versions = ("bad_request", "http_version_not_supported")
    for version in (
        b"HTTP/2.0", b"HTTP/1.2", b"HTTP/0.9", b"HTTP/3.0", b"HTTP/1.10", b"HTTP/01.1", b"HTTP/1", b"HTTP/1.1.1",
        b"http/1.1", b"HTTP/1.1 ", b" HTTP/1.1", b"HTTP/1,1", b"HTTP/1.1\t", b"HTTP /1.1", b"RTSP/1.0", b"RTSP/1.1",
        b"ICE/1.0", b"HTTPS/1.1", b"HTTP/-1.1", b"\tHTTP/1.1", "HTTP/1.\N{FULLWIDTH DIGIT ONE}".encode(),
    ):  # fmt: skip
        found[f"version {version!r}"] = Case(get(version=version), (400, 505), versions)
    path = b"/v0/aois/shown/assets"
    found["HTTP/0.9"] = Case(b"GET " + path + b"\r\n\r\n", (400, 505), versions)
    found["HTTP/0.9 and a header that looks like a version"] = Case(
        b"GET " + path + b"\r\nX: HTTP/1.1\r\nHost: localhost\r\n\r\n", (400, 505), versions
    )
    found["HTTP/0.9 and a header"] = Case(
        b"GET " + path + b"\r\nX-Marker: " + MARKER + b"\r\n\r\n", (400, 505), versions
    )
    found["HTTP/2 by prior knowledge"] = Case(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505), versions)
    found["TLS"] = Case(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    found["blank before the request line"] = Case(b" " + get())
    found["tabs in the request line"] = Case(get().replace(b" ", b"\t", 2))
    found["two blanks before the target"] = Case(get().replace(b" ", b"  ", 1))
    found["lower-case method"] = Case(b"get" + get()[3:])
    found["NUL in the method"] = Case(b"G\0ET" + get()[3:])

    for size in (
        b"0x3", b"+3", b"-3", b"3 ", b" 3", b"3\t", b"", b"g", b"3_0", b"F" * 17, b"1" + b"0" * 16, b"3;", b"3 ;a=b",
        b"3;a\nb", b"3;a\rb", b'3;a="x\r\n"', b'3;a="x', b"3;a\x00", b"3;a=b=c", "\N{FULLWIDTH DIGIT THREE}".encode(),
    ):  # fmt: skip
        found[f"chunk size {size!r}"] = Case(chunked(size + b"\r\nabc\r\n" + ended))
    found["chunk size ended by LF"] = Case(chunked(b"3\nabc\r\n" + ended))
    found["chunk ended by LF"] = Case(chunked(b"3\r\nabc\n" + ended))
    found["chunk longer than said"] = Case(chunked(b"3\r\nabcd\r\n" + ended))
    found["chunk shorter than said"] = Case(chunked(b"5\r\nabc\r\n" + ended))
    found["last chunk ended by LF"] = Case(chunked(b"0\n\n"))
    found["bare LF in trailers"] = Case(chunked(b"0\r\nX: y\nX: z\r\n\r\n"))
    found["folded trailer"] = Case(chunked(b"0\r\nX: y\r\n z\r\n\r\n"))
    found["NUL in a trailer"] = Case(chunked(b"0\r\nX: y\0\r\n\r\n"))

    found["a header over the limit"] = Case(get(b"X-Long: " + b"x" * 8200), (431,), ("headers_too_large",))
    found["a header name over the limit"] = Case(get(b"x" * 8200 + b": y"), (431,), ("headers_too_large",))
    found["too many headers"] = Case(get(*[b"X: y"] * 200), (431,), ("headers_too_large",))
    found["100 headers of 8 KB"] = Case(get(*[b"X: " + b"y" * 8180] * 100), (431,), ("headers_too_large",))
    found["9 headers of 8 KB"] = Case(get(*[b"X: " + b"y" * 8180] * 9), (431,), ("headers_too_large",))
    found["If-None-Match with 10,000 tags"] = Case(
        get(b"If-None-Match: " + b", ".join([b'"tag"'] * 10_000)), (431,), ("headers_too_large",)
    )
    found["empty lines without end"] = Case(b"\r\n" * 40_000 + get(), (431,), ("headers_too_large",))
    found["a target over the limit"] = Case(request(path=b"/" + b"x" * 8190), (414,), ("uri_too_long",))
    found["a megabyte of target"] = Case(request(path=b"/?" + MARKER * 100_000), (414,), ("uri_too_long",))
    return found


CASES = cases()


def judge(name: str, case: Case, received: bytes) -> None:
    """One answer, the right one, in our envelope, with nothing of the request in it."""
    [answer] = answers(received)
    assert answer.status in case.statuses, name
    assert answer.headers.get("Connection") == "close" or received.startswith(b"HTTP/1.0 "), name
    assert answer.headers["Content-Type"] == "application/json", name
    assert answer.headers["Cache-Control"] == "no-store", name
    assert MARKER not in received, name
    if case.data.startswith(b"HEAD "):
        assert answer.body == b"", name
    else:
        assert answer.error["code"] in case.codes, name
        assert answer.error["details"] == {"request_id": answer.headers["X-Request-Id"]}, name


def answered(metrics: dict[str, float]) -> dict[str, float]:
    return {series: value for series, value in metrics.items() if series.startswith("gateway_http_requests_total{")}


class Scene(NamedTuple):
    play: Play
    vendor: MockVendor


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene() -> AsyncIterator[Scene]:
    """One gateway for all: what a bad request does to it would show in the next one."""
    vendor = MockVendor(key=VENDOR_KEY)
    await vendor.start()
    for aoi_id in ("shown", "hidden"):
        vendor.set_assets(aoi_id, [])
    async with playing({"upstream.base_url": vendor.url}) as play:
        yield Scene(play, vendor)
    await vendor.stop()


@pytest.fixture(autouse=True)
def vendor(scene: Scene) -> MockVendor:
    scene.vendor.reset()
    return scene.vendor


@pytest.fixture
def play(scene: Scene) -> Play:
    scene.play.clock.skip(1_000_000)  # whatever was cached is gone
    return scene.play


@pytest.mark.parametrize("name", CASES)
async def test_a_request_that_two_might_read_differently_goes_nowhere(
    play: Play, vendor: MockVendor, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    case = CASES[name]
    before, told = answered(await play.metrics()), len(play.log.getvalue())
    judge(name, case, await until_closed(play.port, case.data + HIDDEN))
    assert vendor.requests == []
    metrics = await play.metrics()
    after = answered(metrics)
    changed = {series for series, value in after.items() if value != before.get(series, 0)}
    [invalid] = changed - {'gateway_http_requests_total{code="200",method="GET",route="metrics",team="unknown"}'}
    assert 'route="invalid"' in invalid
    assert after[invalid] == before.get(invalid, 0) + 1
    assert metrics["gateway_http_requests_in_flight"] == 1  # the scrape itself
    assert (await play.page("shown")).status == 200
    await until(lambda: b'"route":"assets"' in play.log.getvalue()[told:])
    assert play.log.getvalue()[told:].count(b'"route":"invalid"') == 1
    assert MARKER not in play.log.getvalue()
    assert caplog.records == []


async def test_the_same_holds_of_a_process_on_its_own_loop(vendor: MockVendor) -> None:
    """`serve` runs on uvloop, whose transports are others than asyncio's."""
    gateway = spawn(
        "serve", "--port", "0",
        environ={"GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY},
    )  # fmt: skip
    try:
        port = await asyncio.to_thread(gateway.port)
        for name, case in CASES.items():
            judge(name, case, await until_closed(port, case.data + HIDDEN))
        assert vendor.requests == []
        received = await until_closed(port, request(b"Connection: close", path=b"/metrics"))
        assert sum(answered(parse_metrics(answers(received)[0].body.decode())).values()) == len(CASES)
        [good] = answers(await until_closed(port, request(b"Connection: close")))
        assert good.status == 200
        assert len(vendor.requests) == 1
    finally:
        await asyncio.to_thread(gateway.end)
    said = "".join(gateway.lines)
    assert MARKER.decode() not in said
    assert "Traceback" not in said
    assert '"level":"error"' not in said
