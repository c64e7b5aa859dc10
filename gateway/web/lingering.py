"""Close a connection without losing what the client has not read yet."""

from __future__ import annotations

import asyncio

# How long input is read and discarded before a connection is closed: since the last byte came or left, and in total.
_IDLE_SECONDS = 2.0
_TOTAL_SECONDS = 10.0


class LingeringClose:
    """Close in two steps (RFC 9112, section 9.6): end the output, and discard input until the client closes.

    If the kernel closes a connection with unread input, or receives some later, it resets the connection, and the
    client loses whatever it has not read yet, responses to earlier requests included.
    """

    def __init__(self, transport: asyncio.Transport, lost: asyncio.Future[None]) -> None:
        self._transport = transport
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._active_at = self._loop.time()

    def discarded(self) -> None:
        """Note that input arrived."""
        self._active_at = self._loop.time()

    async def run(self) -> None:
        """End the output, and return when the connection is lost or may be closed."""
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset the connection
            return
        if not self._transport.is_reading():
            self._transport.resume_reading()
        limit = self._loop.time() + _TOTAL_SECONDS
        while not self._lost.done():
            if self._transport.get_write_buffer_size():
                self._active_at = self._loop.time()
            left = min(limit, self._active_at + _IDLE_SECONDS) - self._loop.time()
            if left <= 0:
                return
            await asyncio.wait([self._lost], timeout=left)
