"""Files that hold the vendor's keys, followed while the gateway runs.

A file is looked at once a second and by its content, not by its date: a Kubernetes Secret changes by a symlink being
swapped, and a copy may keep its date. What cannot be used is told once and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from pydantic import TypeAdapter, ValidationError

from gateway.config.options import ApiKey
from gateway.core.clock import Clock
from gateway.core.events import Emit, KeyLoaded
from gateway.upstream.keys import KeyRing, Slot

_LOOK_SECONDS = 1.0
_KEY: TypeAdapter[object] = TypeAdapter(ApiKey)

_log = logging.getLogger("gateway")


def renew(path: str, slot: Slot, keys: KeyRing, *, read: Callable[[str], str | None]) -> None:
    """Put into the ring what the file holds now, if that can be used: it may be long since the ring was filled."""
    with suppress(OSError, ValidationError):
        content = read(path)
        if content is not None:
            _KEY.validate_python(content)
            keys.replace(slot, content)


async def follow(
    path: str, slot: Slot, keys: KeyRing, *, read: Callable[[str], str | None], clock: Clock, emit: Emit
) -> None:
    """Keep a slot of the ring at what the file holds, until cancelled. An empty file changes nothing.

    `read` gives the secret in a file, None when there is none, or raises OSError.
    """
    trouble = ""
    while True:
        await clock.sleep(_LOOK_SECONDS)
        try:
            # A file on a network may take its time, and the loop has none.
            content = await asyncio.to_thread(read, path)
            if content is not None:
                _KEY.validate_python(content)
        except (OSError, ValidationError) as error:
            if trouble != type(error).__name__:
                trouble = type(error).__name__
                _log.warning(
                    "the key file cannot be used; the key stays as it was", extra={"slot": slot, "why": trouble}
                )
            continue
        trouble = ""
        if content is not None and keys.replace(slot, content):
            _log.info("the vendor key has changed", extra={"slot": slot})
            if slot == "current":
                emit(KeyLoaded(clock.now()))
