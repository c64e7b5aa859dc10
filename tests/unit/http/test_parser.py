"""Where one request ends and the next begins, however the bytes come."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st
from wire import request

from gateway.http.errors import Problem
from gateway.http.parser import Request, StrictParser

LIMIT = 4

good = st.sampled_from([
    request(), request(b"X: y"), request(version=b"HTTP/1.0"), b"\r\n" + request(path=b"/x?y"), request(method=b"POST"),
    request(b"Connection: close"), request(b"Connection: upgrade", b"Upgrade: websocket"), request(method=b"HEAD"),
    request(b"Connection: upgrade", b"Upgrade: h2c"),
])  # fmt: skip
bad = st.sampled_from([
    b"nonsense\r\n\r\n", request(b"X: \0"), request(version=b"HTTP/2.0"), request(version=b" HTTP/1.1"),
    b"\n" + request(), request(*[b"X: " + b"y" * 8000] * 9), request(path=b"/" + b"x" * 9000),
    request(method=b"CONNECT", path=b"/x"), request(version=b"RTSP/1.1"), request(host=None),
])  # fmt: skip
ended_by_a_body = st.sampled_from([
    request(b"Content-Length: 3", method=b"POST", body=b"abc"),
    request(b"Transfer-Encoding: chunked", method=b"POST", body=b"3\r\nabc\r\n0\r\nX: y\r\n\r\n"),
])  # fmt: skip
streams = st.lists(st.one_of(good, good, good, bad, ended_by_a_body), max_size=8).map(b"".join)


def new_parser(loop: asyncio.AbstractEventLoop, most: int = LIMIT) -> StrictParser:
    protocol = BaseProtocol(loop)
    protocol.transport = asyncio.Transport()
    inner = HttpRequestParser(
        protocol, loop, 2**16, max_line_size=8190, max_field_size=8191, auto_decompress=False, max_msg_queue_size=most
    )
    protocol._parser = inner
    return StrictParser(inner, protocol, loop, most)


def told(request: Request) -> tuple[object, ...]:
    message, content = request
    problem = content.exception()
    if isinstance(problem, Problem):
        return problem.status, problem.code
    return message.method, message.path, message.raw_headers, message.should_close


def read(loop: asyncio.AbstractEventLoop, pieces: list[bytes]) -> list[tuple[object, ...]]:
    """Feed pieces, answering whenever the parser has read as far ahead as it may."""
    parser = new_parser(loop)
    found: list[tuple[object, ...]] = []
    for piece in pieces:
        requests, upgraded, tail = parser.feed_data(piece)
        while requests:
            assert len(requests) <= LIMIT
            assert (upgraded, tail) == (False, b"")
            found += map(told, requests)
            for _ in requests:
                parser.message_consumed()
            requests, upgraded, tail = parser.feed_data(b"")
    return found


@given(streams, st.lists(st.integers(0, 3000)))
def test_the_same_bytes_are_the_same_requests_however_they_are_cut(stream: bytes, cuts: list[int]) -> None:
    loop = asyncio.new_event_loop()
    try:
        edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
        pieces = [stream[start:end] for start, end in pairwise(edges)]
        assert read(loop, pieces) == read(loop, [stream])
        assert read(loop, [bytes([byte]) for byte in stream[:2000]]) == read(loop, [stream[:2000]])
    finally:
        loop.close()


@given(st.lists(good, min_size=1, max_size=12))
def test_every_request_is_read_once_and_in_order_until_one_ends_the_connection(requests: list[bytes]) -> None:
    loop = asyncio.new_event_loop()
    try:
        alone = [read(loop, [one])[0] for one in requests]
        last = next((number for number, (*_, closes) in enumerate(alone, start=1) if closes), len(alone))
        assert read(loop, [b"".join(requests)]) == alone[:last]
    finally:
        loop.close()


async def test_no_more_is_read_ahead_than_allowed() -> None:
    parser = new_parser(asyncio.get_running_loop())
    requests, _, _ = parser.feed_data(request() * 10)
    assert len(requests) == LIMIT
    assert parser.feed_data(request())[0] == []
    parser.message_consumed()
    assert len(parser.feed_data(b"")[0]) == 1


async def test_a_body_that_breaks_while_it_is_read_says_so_to_its_reader() -> None:
    parser = new_parser(asyncio.get_running_loop())
    [(_, content)], _, _ = parser.feed_data(request(b"Transfer-Encoding: chunked", method=b"POST"))
    reading = asyncio.create_task(content.read())
    await asyncio.sleep(0)
    parser.feed_data(b"3\r\nabc\r\n")
    assert parser.feed_data(b"0x3\r\nabc\r\n" + request())[0] == []
    [problem] = await asyncio.gather(reading, return_exceptions=True)
    assert isinstance(problem, Problem)
    assert (problem.status, problem.code, problem.close) == (400, "bad_request", True)
    assert parser.feed_data(request())[0] == []


async def test_a_whole_body_is_read_and_nothing_behind_it() -> None:
    parser = new_parser(asyncio.get_running_loop())
    head = request(b"Content-Length: 3", method=b"POST")
    [(message, content)], _, _ = parser.feed_data(head + b"ab")
    assert message.should_close
    assert parser.feed_data(b"c" + request())[0] == []
    assert await content.read() == b"abc"
