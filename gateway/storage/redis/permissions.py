"""What Redis permits: every command that the gateway sends, tried on a key and a channel that nothing else uses.

A server may answer PING and still refuse what the gateway needs: by access rules, by renamed commands, as a replica,
while it loads its data, or because it is full. What is written expires within seconds and is deleted. Of an error only
Redis' own code is reported (NOPERM, OOM): the rest may quote what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError, ResponseError

_EXPIRES_MS = 20_000
# Codes of errors that concern the value of one key, and no right to use it.
_ABOUT_A_VALUE = frozenset({"WRONGTYPE"})
# Errors with the generic code ERR. Their message tells more.
_MAX_CLIENTS = "max number of clients reached"
_PHRASES = ("unknown command", _MAX_CLIENTS)
# Refusals that redis-py reports as a lost connection.
_CLOSING_REFUSALS = frozenset({"LOADING", _MAX_CLIENTS})
_LONGEST_LIST = 4

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


async def refused_commands(client: Any, name: str, seconds: float) -> dict[str, str]:
    """Send every command once, and return those that are refused, each with the code of the refusal.

    `name` is the key and the channel; `seconds` limit a wait for a message. Raises RedisError, OSError.
    """
    commands: dict[str, Callable[[], Awaitable[Any]]] = {
        "SET": lambda: client.set(name, b"1", px=_EXPIRES_MS, nx=True),
        "GET": lambda: client.get(name),
        "MGET": lambda: client.mget([name]),
        "GETEX": lambda: client.getex(name, px=_EXPIRES_MS),
        "PTTL": lambda: client.pttl(name),
        "EVAL": lambda: client.eval(_SCRIPT, 1, name, _EXPIRES_MS, name),
        "DEL": lambda: client.delete(name),
        "TIME": client.time,
    }
    refused: dict[str, str] = {}
    for command, send in commands.items():
        try:
            answer = await send()
        except RedisError as error:
            if not is_refusal(error):
                raise
            refused[command] = code(error)
            continue
        if command == "EVAL":
            for called, told in answer:
                refused.setdefault(f"{called.decode()} in scripts", _code(told.decode("utf-8", "replace")))
    return refused | await _refused_messages(client, name, seconds)


async def _refused_messages(client: Any, channel: str, seconds: float) -> dict[str, str]:
    """Subscribe, publish, and wait for the message."""
    async with client.pubsub() as subscription:
        try:
            await subscription.subscribe(channel)
            await subscription.get_message(timeout=seconds)
        except RedisError as error:
            if not is_refusal(error):
                raise
            return {"SUBSCRIBE": code(error)}
        try:
            await client.publish(channel, b"1")
        except ResponseError as error:
            return {"PUBLISH": code(error)}
        while (message := await subscription.get_message(timeout=seconds)) is None or message["type"] != "message":
            pass
    return {}


def is_refusal(error: BaseException) -> bool:
    """Whether Redis answered, and refused to carry a command out, whatever the values of the keys are."""
    if isinstance(error, RedisConnectionError):
        return code(error) in _CLOSING_REFUSALS
    return isinstance(error, ResponseError) and code(error) not in _ABOUT_A_VALUE


def code(error: BaseException) -> str:
    """Return the code of an error that Redis answered with, else the name of the error's class."""
    if isinstance(error, RedisClusterException) and error.__cause__ is not None:
        error = error.__cause__
    # redis-py takes the code away from the message where it has a class for it.
    known = getattr(error, "status_code", None)
    if known and known != "ERR":
        return str(known)
    return _code(str(error)) if known or isinstance(error, ResponseError) else type(error).__name__


def listed(refused: dict[str, str]) -> str:
    """Return refused commands in words, by the codes of the refusals, and at most a few of each."""
    by_code: dict[str, list[str]] = {}
    for command, reason in refused.items():
        by_code.setdefault(reason, []).append(command)
    words = []
    for reason, commands in by_code.items():
        more = f" and {len(commands) - _LONGEST_LIST} more" if len(commands) > _LONGEST_LIST else ""
        words.append(f"{reason}: {', '.join(commands[:_LONGEST_LIST])}{more}")
    return "; ".join(words)


def _code(text: str) -> str:
    message = text.removeprefix("ERR ").lower()
    if phrase := next((phrase for phrase in _PHRASES if message.startswith(phrase)), None):
        return phrase
    word = text.partition(" ")[0]
    return word if re.fullmatch("[A-Z]{2,16}", word) else "ERR"
