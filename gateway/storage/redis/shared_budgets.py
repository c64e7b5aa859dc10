"""Token buckets in Redis that all replicas share. Time is that of Redis."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from gateway.core.errors import StoreDown
from gateway.core.shared_bucket import DEBT_SECONDS, FORGIVEN_SHARE, SettlementReply, SettlementReport
from gateway.core.token_bucket import TOLERANCE
from gateway.storage.redis.commands import RedisCommands
from gateway.storage.time_limit import Limit

# One step of the bucket; `core.shared_bucket` states the rules and their bounds. Fields: `used` tokens are missing at
# `time`; `forgiven` overdrafts were not charged. A `time` in the future is that of another server's clock.
_SETTLE = f"""
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local rate, burst, spent, delay = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local wanted, own, spare = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local tolerance = delay * rate
local used, forgiven = -tolerance, 0
if redis.call('TYPE', KEYS[1])['ok'] == 'hash' then
  local known = redis.call('HMGET', KEYS[1], 'used', 'time', 'forgiven')
  if known[1] and known[2] and known[3] then
    local passed = math.max(0, now - tonumber(known[2]))
    used = math.max(used, math.min(tonumber(known[1]), burst + math.max(spare, {DEBT_SECONDS} * rate)) - passed * rate)
    forgiven = math.max(0, tonumber(known[3]) - {FORGIVEN_SHARE} * rate * passed)
  end
else
  redis.call('DEL', KEYS[1])
end
local function tokens() return math.max(0, math.floor(burst - used + {TOLERANCE})) end
local overdraft = math.max(0, spent - tokens())
local pardon = math.max(0, math.min(overdraft, spare - forgiven))
used = math.max(used + spent - pardon, own - tolerance)
local granted = math.min(wanted, tokens())
used = used + granted
redis.call('HSET', KEYS[1], 'used', string.format('%.9f', used), 'time', string.format('%.6f', now),
  'forgiven', string.format('%.9f', forgiven + pardon))
redis.call('PEXPIRE', KEYS[1], ARGV[8])
return {{granted, string.format('%.9f', burst - used)}}
"""


# Seconds. An answer that is too late for the requests that waited for it still tells the level.
_MOST_LATE = 0.5


class RedisBuckets:
    """Buckets by name. Every key starts with `prefix`. An answer is late `timeout` seconds after the usual time."""

    def __init__(self, calls: RedisCommands, *, prefix: str, timeout: float) -> None:
        self._calls = calls
        self._prefix = f"{prefix}budget:"
        self._timeout = timeout

    async def settle(
        self, name: str, report: SettlementReport, usual: float, late: Callable[[], None]
    ) -> SettlementReply:
        """Charge what was spent, and take up to what is wanted. Raises StoreDown.

        Calls `late` when the answer takes longer than is `usual`, in seconds, by more than the timeout of a command.
        """
        # Seconds. By then the bucket is full and every overdraft repaid, and a full bucket need not be stored. What was
        # forgiven takes longer, because a team could otherwise be forgiven anew after each pause.
        lasts = (
            max(
                (report.burst + report.spare) / report.rate + DEBT_SECONDS,
                report.spare / (report.rate * FORGIVEN_SHARE),
            )
            + 1.0
        )
        arguments = (
            report.rate, report.burst, report.spent, report.delay, report.wanted, report.own, report.spare,
            math.ceil(lasts * 1000),
        )  # fmt: skip
        limit = Limit(asyncio.get_running_loop(), self._timeout + usual, late)
        try:
            answer = await self._calls.run(
                "budget",
                lambda client: client.eval(_SETTLE, 1, self._prefix + name, *arguments),
                background_timeout=self._timeout + _MOST_LATE,
            )
        finally:
            limit.cancel()
        try:
            return SettlementReply(int(answer[0]), float(answer[1]))
        except (TypeError, ValueError, LookupError):
            raise StoreDown("the answer is not that of the script") from None
