"""Budgets of teams in Redis: token buckets that all replicas take from, by Redis' own clock."""

from __future__ import annotations

import math
from typing import NamedTuple

from gateway.core.errors import StoreDown
from gateway.stores.redis_calls import RedisCalls

# As `core.bucket`, and so many at once as there are, up to what is wanted.
_TAKE = """
local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1000000
local rate, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local level, at = burst, now
if redis.call('TYPE', KEYS[1])['ok'] == 'hash' then
  local known = redis.call('HMGET', KEYS[1], 'level', 'at')
  level, at = tonumber(known[1]) or burst, tonumber(known[2]) or now
else
  redis.call('DEL', KEYS[1])
end
level = math.min(burst, level + math.max(0, now - at) * rate)
local taken = math.min(wanted, math.floor(level))
level = level - taken
redis.call('HSET', KEYS[1], 'level', tostring(level), 'at', string.format('%.6f', math.max(at, now)))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {taken, tostring(level)}
"""


class Taken(NamedTuple):
    """How many tokens there were, and the seconds until there is another one (0 when there still is)."""

    tokens: int
    wait: float


class SharedBudgets:
    """Buckets by name; `prefix` starts every key."""

    def __init__(self, calls: RedisCalls, *, prefix: str) -> None:
        self._calls = calls
        self._prefix = f"{prefix}budget:"

    async def take(self, name: str, rate: float, burst: float, wanted: int) -> Taken:
        """Take up to so many tokens. Raises StoreDown."""
        # After so long it is full, and a full one need not be remembered.
        lasts = math.ceil(burst / rate * 1000) + 1000
        answer = await self._calls.run(
            "budget", lambda client: client.eval(_TAKE, 1, self._prefix + name, rate, burst, wanted, lasts)
        )
        try:
            tokens, level = int(answer[0]), float(answer[1])
        except (TypeError, ValueError, LookupError):
            raise StoreDown("this is no answer of Redis") from None
        return Taken(tokens, max(0.0, (1.0 - level) / rate))
