"""Connections to the vendor: how they are made, and when one may be used again.

What comes on a connection after an answer would be the next answer: another AOI's page. So a connection on which
anything comes that nobody has asked for is given up, and so is one that brought more than its answer; aiohttp's own
pool takes no notice (3.14.5).

Over TLS, where making a connection takes several round trips and more time than all the rest of a miss, one that is
clean is used again. A plain one is cheap to make, and never is: that leaves no doubt at all.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader

from gateway.core.options import UpstreamOptions

# Servers close idle connections after a minute or so. Long before that they are closed here, so that a request hardly
# ever meets a connection that is just being closed.
_IDLE_SECONDS = 15.0


def connector(options: UpstreamOptions) -> aiohttp.TCPConnector:
    """What makes the connections. Raises OSError or ssl.SSLError when `upstream.ca_file` cannot be read."""
    # Reading the system's authorities takes longer than all else at the start, and aiohttp has done so already.
    tls = True if options.ca_file is None else ssl.create_default_context(cafile=options.ca_file)
    resolver = aiohttp.ThreadedResolver()
    if not options.base_url.lower().startswith("https:"):
        return aiohttp.TCPConnector(limit=0, force_close=True, resolver=resolver, ssl=tls)
    made = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS, resolver=resolver, ssl=tls)
    made._factory = partial(OneAnswer, loop=asyncio.get_running_loop())  # type: ignore[assignment] # noqa: SLF001 - no other way
    return made


class OneAnswer(ResponseHandler):
    """A connection that is closed as soon as anything comes on it that is no part of the answer to its last request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._body: StreamReader | None = None
        self._asked = False

    def set_response_params(self, **params: Any) -> None:
        """A request is about to be sent."""
        self._asked, self._body = True, None
        super().set_response_params(**params)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """The head of an answer has come, and its body will stand there; 1xx are none (RFC 9110, section 15.2)."""
        if data[0].code >= 200:
            if self._body is not None:
                self.force_close()  # a second one, in the same breath
                return
            self._body = data[1]
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Take bytes of an answer that is awaited; anything else ends the connection."""
        if not data or (self._asked and (self._body is None or not self._body.is_eof())):  # none: the parser goes on
            super().data_received(data)
        else:
            self.close()
