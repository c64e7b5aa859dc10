"""What Redis lets us do: every command that the gateway sends, tried on a key and a channel of our own.

What is written lives for seconds and is deleted. Of errors only Redis' own first word is told (NOPERM, OOM): the rest
may quote what was sent.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from redis.exceptions import BusyLoadingError, NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

from gateway.clock import Clock
from gateway.doctor.clocks import Reading

_LIVES_MS = 20_000
# Where redis-py has a class for a refusal, it takes the word away.
_WORDS = {NoPermissionError: "NOPERM", OutOfMemoryError: "OOM", ReadOnlyError: "READONLY", BusyLoadingError: "LOADING"}

# What the gateway's own scripts call. A hash is made only where it can be removed again.
_SCRIPT = """
local refused = {}
local function may(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer['err'] then
    table.insert(refused, {(...), answer['err']})
    return false
  end
  return true
end
may('SET', KEYS[1], '1', 'PX', ARGV[1])
may('GET', KEYS[1])
may('GETRANGE', KEYS[1], 0, 4)
may('TYPE', KEYS[1])
may('TIME')
may('EXPIRE', KEYS[1], 20)
if may('PEXPIRE', KEYS[1], ARGV[1]) and may('DEL', KEYS[1]) then
  if may('HSET', KEYS[1], 'a', '1') then may('PEXPIRE', KEYS[1], ARGV[1]) end
  may('HMGET', KEYS[1], 'a')
  may('DEL', KEYS[1])
end
may('PUBLISH', ARGV[2], '1')
return refused
"""


class Tried(NamedTuple):
    """The refused commands, each with the first word of the refusal, and what TIME shows."""

    refused: dict[str, str]
    reading: Reading | None


async def try_rights(client: Any, name: str, seconds: float, clock: Clock) -> Tried:
    """Send every command once; `name` is the key and the channel. Raises RedisError, OSError."""
    commands: dict[str, Callable[[], Awaitable[Any]]] = {
        "SET": lambda: client.set(name, b"1", px=_LIVES_MS, nx=True),
        "GET": lambda: client.get(name),
        "MGET": lambda: client.mget([name]),
        "GETEX": lambda: client.getex(name, px=_LIVES_MS),
        "PTTL": lambda: client.pttl(name),
        "EVAL": lambda: client.eval(_SCRIPT, 1, name, _LIVES_MS, name),
        "DEL": lambda: client.delete(name),
        "TIME": client.time,
    }
    refused: dict[str, str] = {}
    reading = None
    for command, send in commands.items():
        sent = clock.now()
        try:
            async with asyncio.timeout(seconds):
                answer = await send()
        except ResponseError as error:
            refused[command] = code(error)
            continue
        if command == "TIME":
            time = int(answer[0]) + int(answer[1]) / 1e6
            reading = Reading(time - clock.now(), time - sent)
        elif command == "EVAL":
            for called, told in answer:
                refused.setdefault(f"{called.decode()} in scripts", _first_word(told.decode("utf-8", "replace")))
    async with asyncio.timeout(seconds):
        refused |= await _refused_words(client, name, seconds)
    return Tried(refused, reading)


async def _refused_words(client: Any, channel: str, seconds: float) -> dict[str, str]:
    """Wait for a message of our own."""
    async with client.pubsub() as subscription:
        try:
            await subscription.subscribe(channel)
            await subscription.get_message(timeout=seconds)
        except ResponseError as error:
            return {"SUBSCRIBE": code(error)}
        try:
            await client.publish(channel, b"1")
        except ResponseError as error:
            return {"PUBLISH": code(error)}
        while (message := await subscription.get_message(timeout=seconds)) is None or message["type"] != "message":
            pass
    return {}


def mend_for(codes: set[str], prefix: str) -> str:
    """What mends refusals that begin with these words."""
    if "READONLY" in codes:
        return "cache.url names a replica, which takes no writes: name the master, or ask Sentinels for it"
    if "OOM" in codes:
        return "it is full: maxmemory-policy allkeys-lru makes it forget by itself, or give it more maxmemory"
    if "MISCONF" in codes:
        return 'it cannot write its dump and refuses writes: mend its disk, or switch dumps off (save "")'
    if "LOADING" in codes:
        return "it is still reading its dump: wait, or start it without one"
    return f"`ACL SETUSER USER ~{prefix}:* &{prefix}:* +@read +@write +@pubsub +@scripting +@connection +info +time`"


def code(error: BaseException) -> str:
    """The first word of a refusal by Redis, else the error's class."""
    for kind, word in _WORDS.items():
        if isinstance(error, kind):
            return word
    return _first_word(str(error)) if isinstance(error, ResponseError) else type(error).__name__


def _first_word(text: str) -> str:
    word = text.partition(" ")[0]
    return word if re.fullmatch("[A-Z]{2,16}", word) else "ERR"
