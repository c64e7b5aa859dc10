"""What replicas share besides pages: the pause that the vendor asked for.

A key holds it as long as it lasts and a little longer, for those who come later; a message tells those who are there.
Both tell how long the pause still lasts, and not when it ends: clocks differ, and Redis' own may be set meanwhile.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from gateway.core.errors import StoreDown
from gateway.storage.redis.commands import RedisCommands

# The key outlives the pause by the time in which the probe is made.
_AFTERWARDS = 30.0

_PAUSE = """
if redis.call('PTTL', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""
_LOOK = "return {redis.pcall('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}"
_RESUME = """
if redis.pcall('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
"""


class _Told(msgspec.Struct, frozen=True, array_like=True):
    until: float
    over: bool
    left: float


_TOLD = msgspec.msgpack.Decoder(_Told)


class RedisPause:
    """The pause of one vendor account, named by `scope`; `prefix` starts every key.

    `listener` is called with what other replicas tell: the name of the pause, how long it still lasts in seconds, and
    whether it is over.
    """

    def __init__(self, calls: RedisCommands, *, prefix: str, scope: str) -> None:
        self._commands = calls
        self._name = f"{prefix}pause:{scope}"
        self.channel = f"{prefix}paused:{scope}"
        self.listener: Callable[[float, float, bool], None] = lambda _until, _left, _over: None

    async def announce(self, until: float, left: float, *, over: bool) -> None:
        """Tell everybody, and those who come later, of a pause that lasts `left` seconds more, or is over."""
        told = msgspec.msgpack.encode(_Told(until, over, left))
        with suppress(StoreDown):
            if over:
                arguments: tuple[object, ...] = (repr(until), self.channel, told)
                await self._commands.run("resume", lambda client: client.eval(_RESUME, 1, self._name, *arguments))
            else:
                lasts = max(1, int((left + _AFTERWARDS) * 1000))
                arguments = (repr(until), lasts, self.channel, told)
                await self._commands.run("pause", lambda client: client.eval(_PAUSE, 1, self._name, *arguments))

    async def claim_probe(self, until: float, seconds: float) -> bool:
        """Whether no other replica probes after this pause; with Redis down, each does."""
        name = f"{self._name}:probe:{until!r}"
        owner, milliseconds = secrets.token_hex(8), max(1, int(seconds * 1000))

        async def claim(client: Any) -> bool:
            # The owner is compared because the command may be sent again after the first reply was lost.
            free = await client.set(name, owner, px=milliseconds, nx=True)
            return bool(free) or await client.get(name) == owner.encode()

        try:
            first = await self._commands.run("lease", claim)
        except StoreDown:
            return True
        return bool(first)

    async def poll(self) -> None:
        """See whether there is a pause that nobody has told us of. Raises StoreDown."""
        found = await self._commands.run("get", lambda client: client.eval(_LOOK, 1, self._name))
        if isinstance(found, list) and isinstance(found[0], bytes):
            with suppress(ValueError):
                self.listener(float(found[0]), found[1] / 1000 - _AFTERWARDS, False)

    def receive(self, data: bytes) -> None:
        """Pass on what another replica tells."""
        with suppress(msgspec.MsgspecError):
            told = _TOLD.decode(data)
            self.listener(told.until, told.left, told.over)
