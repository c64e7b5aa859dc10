"""The simulated Redis answers as a real one does: one suite of commands, sent as bytes to both."""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import hiredis
import pytest
from real_redis import RealRedis

from gateway.storage.redis import epochs, leases, shared_budgets, shared_pause, store
from simulation.redis_server import RedisServer
from simulation.virtual import VirtualLoop

_ERROR = b"error"
# Each is a sequence of commands on one connection; what is compared is every answer.
SUITE: dict[str, list[list[Any]]] = {
    "strings": [
        ["SET", "a", "1"], ["GET", "a"], ["GET", "none"], ["SET", "a", "2", "NX"], ["SET", "b", "2", "NX", "PX", 9000],
        ["MGET", "a", "none", "b"], ["GETRANGE", "a", 0, 4], ["DEL", "a", "none"], ["TYPE", "b"], ["TYPE", "a"],
        ["GETEX", "b", "EX", 100], ["PTTL", "none"], ["EXISTS", "b"], ["EXPIRE", "none", 5], ["PEXPIRE", "b", 5000],
    ],
    "hashes": [
        ["HSET", "h", "x", "1", "y", "2"], ["HMGET", "h", "x", "z"], ["TYPE", "h"], ["GET", "h"], ["MGET", "h"],
        ["SET", "h", "now a string"], ["GET", "h"],
    ],
    "answers of scripts": [
        ["EVAL", "return {1, 'two', false, 3.7, {4}}", 0], ["EVAL", "return redis.call('GET', KEYS[1])", 1, "none"],
        ["EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", 1, "k", "v"], ["EVAL", "return KEYS[2] == nil", 1, "k"],
        ["EVAL", "return redis.call('TYPE', KEYS[1])['ok']", 1, "k"], ["EVAL", "return nil", 0],
        ["EVAL", "local found = redis.pcall('HMGET', KEYS[1], 'x') return found['err'] ~= nil", 1, "k"],
    ],
    "the tokens of an epoch": [
        ["EVAL", epochs._MINT, 1, "e", "p.s", 100], ["EVAL", epochs._MINT, 1, "e", "q.t", 100],
        ["EVAL", epochs._PURGE, 1, "e", "p2", "s2", "soft", 100, "channel", "m"], ["GET", "e"],
        ["EVAL", epochs._PURGE, 1, "e", "p3", "s3", "", 100, "channel", "m"], ["GET", "e"],
        ["EVAL", epochs._PURGE, 1, "lost", "p4", "s4", "soft", 100, "channel", "m"],
    ],
    "compare and store": [
        ["SET", "aoi", "p.s"], ["SET", "all", "P.S"],
        ["EVAL", store._FILE, 4, "aoi", "list", "page", "all", "p.s", "", "directory-1 and more", 9000, "body", 9000,
         100, "m", "channel", 1, "P.S"],
        ["EVAL", store._FILE, 4, "aoi", "list", "page", "all", "p.s", "other", "directory-2", 9000, "body2", 9000,
         100, "m", "channel", 1, "P.S"],
        ["EVAL", store._FILE, 4, "aoi", "list", "page", "all", "old", "directory-1 and ", "d", 9000, "b", 9000, 100,
         "m", "channel", 1, "P.S"],
        ["EVAL", store._FILE, 4, "aoi", "list", "page", "all", "p.s", "directory-1 and ", "d", 9000, "b", 9000, 100,
         "m", "channel", 1, "old"],
        ["EVAL", store._FILE, 3, "aoi", "list", "page", "p.s", "directory-1 and ", "d", 9000, "b", 9000, 100, "m",
         "channel", 1, "old"],
        ["MGET", "list", "page"],
    ],
    "leases, pauses and budgets": [
        ["SET", "l", "me", "PX", 3000, "NX"], ["EVAL", leases._RENEW, 1, "l", "you", 3000],
        ["EVAL", leases._RENEW, 1, "l", "me", 3000], ["EVAL", leases._END, 1, "l", "me", "channel", "m"], ["GET", "l"],
        ["EVAL", shared_pause._PAUSE, 1, "pause", "100.5", 9000, "channel", "m"],
        ["EVAL", shared_pause._PAUSE, 1, "pause", "99.5", 5000, "channel", "m"],
        ["EVAL", shared_pause._RESUME, 1, "pause", "100.5", "channel", "m"], ["GET", "pause"],
        ["EVAL", shared_budgets._SETTLE, 1, "budget", 0.001, 5, 0, 0, 3, 0, 0, 6000],
        ["EVAL", shared_budgets._SETTLE, 1, "budget", 0.001, 5, 2, 0, 3, 1, 1, 6000],
    ],
    "what is unknown": [["NOSUCHCOMMAND"], ["PING"], ["PUBLISH", "channel", "nobody listens"]],
    "messages": [["SUBSCRIBE", "c1"], ["PING"], ["UNSUBSCRIBE", "c1"], ["PING"]],
}  # fmt: skip


def _packed(suite: list[list[Any]]) -> list[bytes]:
    packed = []
    for command in suite:
        words: tuple[Any, ...] = tuple(str(word) for word in command)
        packed.append(hiredis.pack_command(words))
    return packed


async def _answers(commands: list[bytes], host: str, port: int) -> list[Any]:
    reader, writer = await asyncio.open_connection(host, port)
    parser = hiredis.Reader()
    answers = []
    for command in commands:
        writer.write(command)
        while (answer := parser.gets()) is False:
            parser.feed(await reader.read(65_536))
        answers.append(_comparable(answer))
    writer.close()
    return answers


def _comparable(answer: Any) -> Any:
    """Errors by their first word; a level of a bucket by its beginning, because time passes."""
    if isinstance(answer, hiredis.ReplyError):
        return _ERROR, str(answer).split(" ")[0]
    if isinstance(answer, list):
        return [_comparable(item) for item in answer]
    if isinstance(answer, bytes) and re.fullmatch(rb"\d+\.\d{3,}(e-\d+)?", answer):
        return round(float(answer), 1)
    return answer


@pytest.mark.parametrize("name", SUITE)
def test_the_simulated_redis_answers_as_a_real_one(name: str, real_redis: RealRedis) -> None:
    commands = _packed(SUITE[name])
    real = asyncio.run(_answers(commands, "127.0.0.1", real_redis.port))
    loop = VirtualLoop(random.Random(1))
    loop.network.listeners["127.0.0.1", 6379] = RedisServer(loop, random.Random(1), loop.time)
    simulated = loop.run_until_complete(_answers(commands, "127.0.0.1", 6379))
    loop.close()
    assert simulated == real
