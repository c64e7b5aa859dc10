"""aiohttp's request parser, fed one head at a time and trusted with no more than that.

Left to itself (3.14.5), the parser forgets the good requests that share a segment with a bad one, drops what follows an
`Upgrade` it does not know, keeps a megabyte of head, hands the trailers of one request to the next as headers, and
takes request lines that others read differently. So this file owns where one request ends and the next begins:

- a segment is cut after each CRLF CRLF, and a request is handed over before the next one is looked at;
- the request line and the size of a head are judged here;
- a body ends the connection: nothing that stands behind one is ever read as a request, whatever its length was said
  to be (RFC 9112, section 11.2, request smuggling);
- what cannot be read is handed over as a request whose content is the Problem, so that it is answered, counted and
  logged like any other.

`framing` decides whether a request that could be read is unambiguous.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from aiohttp import EMPTY_PAYLOAD, HttpVersion11, StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway.http.errors import Problem
from gateway.http.framing import MAX_HEAD_BYTES, parser_problem, refused, unknown_version

Request = tuple[RawRequestMessage, StreamReader]

_HEAD_END = b"\r\n\r\n"
# RFC 9112, section 2.2: empty lines before a request line are passed over.
_REQUEST_LINE = re.compile(rb"(?:\r\n)*[A-Z-]+ [^\x00-\x20\x7f]+ HTTP/([0-9]\.[0-9])\r\n")
_UNREADABLE = RawRequestMessage(
    "UNREADABLE", "/", HttpVersion11, CIMultiDictProxy(CIMultiDict()), (), True, None, False, False, URL("/")
)


class StrictParser:
    """What aiohttp's protocol wants of a parser. At most `most` requests are read ahead of the one being answered."""

    def __init__(self, parser: Any, protocol: BaseProtocol, loop: asyncio.AbstractEventLoop, most: int) -> None:
        self._parser = parser
        self._protocol = protocol
        self._loop = loop
        self._most = most
        self._ahead = 0
        self._head = b""  # of the next request, as far as it has been fed
        self._unfed = b""  # received, and not looked at while enough requests wait
        self._last: StreamReader | None = None  # content of the last request of this connection, once there is one

    def feed_data(self, data: bytes) -> tuple[list[Request], bool, bytes]:
        """Take bytes, give the requests that they complete. No protocol is ever switched, and nothing is raised."""
        requests: list[Request] = []
        known = self._head[-3:]  # a head's end may lie across two segments
        text = known + self._unfed + data
        start, self._unfed = len(known), b""
        while self._last is None and start < len(text):
            if self._ahead == self._most:
                self._unfed = text[start:]
                return requests, False, b""
            found = text.find(_HEAD_END, max(0, start - 3))
            end = len(text) if found < 0 else found + len(_HEAD_END)
            if (request := self._feed_head(text[start:end])) is not None:
                self._ahead += 1
                requests.append(request)
            start = end
        if self._last is not None:
            self._feed_body(self._last, text[start:])
        return requests, False, b""

    @property
    def at_rest(self) -> bool:
        """Whether the next byte will be the first of a request."""
        return not (self._head or self._unfed or self._ahead) and self._last is None

    def message_consumed(self) -> None:
        """One of the requests handed over is being answered."""
        self._ahead -= 1

    def pause_reading(self) -> None:
        """Stop in the middle of a body that is not being read."""
        self._parser.pause_reading()

    def _feed_head(self, piece: bytes) -> Request | None:
        self._head += piece
        try:
            requests, upgraded, _ = self._parser.feed_data(piece)
        except HttpProcessingError as error:
            return self._unreadable(parser_problem(error))
        if upgraded:
            self._parser.set_upgraded(False)
        if len(self._head) > MAX_HEAD_BYTES:
            return self._unreadable(
                refused(431, "headers_too_large", f"a request's head has at most {MAX_HEAD_BYTES} bytes")
            )
        if not requests:
            return None
        line = _REQUEST_LINE.match(self._head)
        if line is None:
            return self._unreadable(refused(400, "bad_request", "the request line is not valid HTTP/1.1"))
        if line[1] not in (b"1.0", b"1.1"):
            return self._unreadable(unknown_version())
        self._head = b""
        self._parser.message_consumed()  # who counts them is this class
        message: RawRequestMessage
        message, content = requests[0]
        if content is not EMPTY_PAYLOAD:
            message = message._replace(should_close=True)
        if message.should_close:
            self._last = content
        return message, content

    def _feed_body(self, content: StreamReader, piece: bytes) -> None:
        """Feed the body of the last request. What comes after it, requests included, goes nowhere."""
        if content.is_eof() or content.exception() is not None:
            return
        try:
            self._parser.feed_data(piece)
        except HttpProcessingError as error:
            if not content.is_eof():
                content.set_exception(parser_problem(error))

    def _unreadable(self, problem: Problem) -> Request:
        self._last = StreamReader(self._protocol, 0, loop=self._loop)
        self._last.set_exception(problem)
        return _UNREADABLE, self._last
