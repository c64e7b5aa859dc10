"""The file that `cache.url_file` names, read again while the gateway runs: a new password needs no restart.

The file is read before each login, and once a second, so that what cannot be used is reported. Its content is compared
and not its date: a Kubernetes Secret changes by a symlink being swapped, and a copy may keep its date. An empty file is
ignored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.config.store_url import parse
from gateway.core.clock import Clock
from gateway.storage.redis.credentials import StoreCredentials

_LOOK_SECONDS = 1.0

_log = logging.getLogger("gateway")


class UrlFile:
    """Keeps `credentials` at what the file holds.

    `read` returns the secret in a file, None when there is none, or raises OSError.
    """

    def __init__(
        self, path: str, credentials: StoreCredentials, *, read: Callable[[str], str | None], clock: Clock
    ) -> None:
        self._path = path
        self._credentials = credentials
        self._read = read
        self._clock = clock
        self._trouble = ""
        self._reading: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        """Read the file once a second, until cancelled."""
        while True:
            await self._clock.sleep(_LOOK_SECONDS)
            await self.refresh()

    async def refresh(self) -> None:
        """Read the file, and use its user and password from the next connection on.

        Connections that are opened at the same time share one read.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._refresh())
        await asyncio.shield(self._reading)

    async def _refresh(self) -> None:
        try:
            # A file on a network may take its time, and the loop has none.
            content = await asyncio.to_thread(self._read, self._path)
            if content is not None and self._credentials.adopt(parse(content)):
                _log.info("the redis credentials have changed")
        except OSError as error:
            self._warn(error.strerror or type(error).__name__)
        except ValueError as error:  # its message quotes no secret
            self._warn(f"it {error}")
        else:
            self._trouble = ""

    def _warn(self, why: str) -> None:
        if why != self._trouble:
            self._trouble = why
            _log.warning("cache.url_file cannot be used; the redis credentials stay as they were", extra={"why": why})
