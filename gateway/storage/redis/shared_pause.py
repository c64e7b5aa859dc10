"""What replicas share besides pages: the pause that the vendor asked for.

A key holds it as long as it lasts and a little longer, for those who come later; a message tells those who are there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from gateway.core.clock import Clock
from gateway.core.errors import StoreDown
from gateway.storage.redis.commands import RedisCalls
from gateway.storage.redis.epochs import Epochs

# The key outlives the pause by the time in which the probe is made.
_AFTERWARDS = 30.0

_PAUSE = """
local known = redis.pcall('GET', KEYS[1])
if type(known) == 'string' and (tonumber(known) or 0) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""
_RESUME = """
if redis.pcall('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
"""


class _Told(msgspec.Struct, frozen=True, array_like=True):
    until: float
    over: bool


_TOLD = msgspec.msgpack.Decoder(_Told)


class SharedPause:
    """The pause of one vendor account, named by `scope`; `prefix` starts every key.

    `listener` is called with what other replicas tell: until when the pause lasts, and whether it is over.
    """

    def __init__(self, calls: RedisCalls, epochs: Epochs, *, prefix: str, scope: str, clock: Clock) -> None:
        self._calls = calls
        self._epochs = epochs
        self._name = f"{prefix}pause:{scope}"
        self.channel = f"{prefix}paused:{scope}"
        self._clock = clock
        self.listener: Callable[[float, bool], None] = lambda _until, _over: None

    async def tell_pause(self, until: float, *, over: bool) -> None:
        """Tell everybody, and those who come later, that the vendor is left alone until then, or no more."""
        left = until - self._clock.now()
        with suppress(StoreDown):
            steps = self._clock.steps
            await self._epochs.meet_run()  # nothing is written before the clock of this run was read
            if self._clock.steps != steps:
                until = self._clock.now() + left
            told = msgspec.msgpack.encode(_Told(until, over))
            lasts = int((left + _AFTERWARDS) * 1000)
            if over:
                arguments: tuple[object, ...] = (repr(until), self.channel, told)
                await self._calls.run("resume", lambda client: client.eval(_RESUME, 1, self._name, *arguments))
            else:
                arguments = (repr(until), max(1, lasts), self.channel, told)
                await self._calls.run("pause", lambda client: client.eval(_PAUSE, 1, self._name, *arguments))

    async def may_probe(self, until: float, seconds: float) -> bool:
        """Whether no other replica probes after this pause; with Redis down, each does."""
        name = f"{self._name}:probe:{until!r}"
        owner, milliseconds = secrets.token_hex(8), max(1, int(seconds * 1000))

        async def claim(client: Any) -> bool:
            # The owner is compared because the command may be sent again after the first reply was lost.
            free = await client.set(name, owner, px=milliseconds, nx=True)
            return bool(free) or await client.get(name) == owner.encode()

        try:
            first = await self._calls.run("lease", claim)
        except StoreDown:
            return True
        return bool(first)

    async def look(self) -> None:
        """See whether there is a pause that nobody has told us of. Raises StoreDown."""
        found = await self._calls.run("get", lambda client: client.get(self._name))
        if isinstance(found, bytes):
            with suppress(ValueError):
                self.listener(float(found), False)

    def hear(self, data: bytes) -> None:
        """Pass on what another replica tells."""
        with suppress(msgspec.MsgspecError):
            told = _TOLD.decode(data)
            self.listener(told.until, told.over)
