"""A simulated Redis: the commands and scripts that the gateway uses, over the simulated network.

Scripts are the gateway's own texts, run by the same Lua engine family as in a real server. `test_redis_server.py` runs
one suite of commands against this server and against a real one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import hiredis
import lupa.lua51 as lupa

from simulation.virtual import Transport, VirtualLoop

Value = bytes | dict[bytes, bytes]
_WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


class RedisError(Exception):
    """What a command answers with an error."""


class Status(bytes):
    """A simple string, as in +OK."""


class RedisServer:
    """One run of a server. `clock` gives its own wall time."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._rng = rng
        self.clock = clock
        self.run_id = rng.randbytes(20).hex()
        self.data: dict[bytes, tuple[Value, float | None]] = {}
        self.subscribers: dict[bytes, dict[_Session, None]] = {}
        self.hung_until = 0.0
        self.full = False
        self.published: list[tuple[float, bytes, bytes]] = []
        self.on_command: Callable[[list[bytes]], None] = lambda _: None

    def accept(self) -> asyncio.BaseProtocol:
        """A new connection."""
        return _Session(self, self._loop)

    def hang(self, seconds: float) -> None:
        """Do nothing for some time, as a stopped process; what arrives is carried out afterwards."""
        self.hung_until = max(self.hung_until, self._loop.time() + seconds)

    def snapshot(self) -> dict[bytes, tuple[Value, float | None]]:
        """What it holds now."""
        return {
            name: (dict(value) if isinstance(value, dict) else value, end) for name, (value, end) in self.data.items()
        }

    def evict(self, names: list[bytes]) -> None:
        """Forget these keys."""
        for name in names:
            self.data.pop(name, None)

    # Commands

    def call(self, words: list[bytes], session: _Session | None = None) -> Any:
        """Carry out a command. Raises RedisError."""
        name = words[0].decode().upper()
        method = getattr(self, f"_do_{name.lower()}", None)
        if method is None:
            raise RedisError(f"ERR unknown command '{name}'")
        if self.full and name in {"SET", "HSET"}:
            raise RedisError("OOM command not allowed when used memory > 'maxmemory'.")
        return method(words[1:], session)

    def _get(self, name: bytes) -> Value | None:
        found = self.data.get(name)
        if found is None:
            return None
        if found[1] is not None and found[1] <= self._loop.time():
            del self.data[name]
            return None
        return found[0]

    def _string(self, name: bytes) -> bytes | None:
        value = self._get(name)
        if isinstance(value, dict):
            raise RedisError(_WRONG_TYPE)
        return value

    def _hash(self, name: bytes) -> dict[bytes, bytes]:
        value = self._get(name)
        if isinstance(value, bytes):
            raise RedisError(_WRONG_TYPE)
        return value or {}

    def _do_ping(self, words: list[bytes], session: _Session | None) -> Any:
        if session is not None and session.channels and not session.resp3:
            return [b"pong", words[0] if words else b""]
        return words[0] if words else Status(b"PONG")

    def _do_hello(self, words: list[bytes], session: _Session | None) -> Any:
        assert session is not None
        session.resp3 = bool(words) and words[0] == b"3"
        pairs: list[Any] = [b"server", b"redis", b"version", b"7.2.0", b"proto", 3 if session.resp3 else 2]
        pairs += [b"id", 1, b"mode", b"standalone", b"role", b"master", b"modules", []]
        return dict(zip(pairs[::2], pairs[1::2], strict=True)) if session.resp3 else pairs

    def _do_client(self, words: list[bytes], _: _Session | None) -> Any:
        return Status(b"OK") if words[0].upper() in {b"SETINFO", b"SETNAME"} else 1

    def _do_select(self, words: list[bytes], _: _Session | None) -> Any:
        return Status(b"OK")

    def _do_info(self, words: list[bytes], _: _Session | None) -> Any:
        section = words[0].decode().lower() if words else "all"
        text = ""
        if section in {"server", "all", "default"}:
            text += f"# Server\r\nredis_version:7.2.0\r\nrun_id:{self.run_id}\r\n"
        if section in {"replication", "all", "default"}:
            text += "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n"
        return text.encode()

    def _do_role(self, words: list[bytes], _: _Session | None) -> Any:
        return [b"master", 0, []]

    def _do_wait(self, words: list[bytes], _: _Session | None) -> Any:
        return 0

    def _do_time(self, words: list[bytes], _: _Session | None) -> Any:
        now = self.clock()
        return [b"%d" % int(now), b"%d" % int(now % 1 * 1e6)]

    def _do_get(self, words: list[bytes], _: _Session | None) -> Any:
        return self._string(words[0])

    def _do_mget(self, words: list[bytes], _: _Session | None) -> Any:
        values = (self._get(name) for name in words)
        return [value if isinstance(value, bytes) else None for value in values]

    def _do_getrange(self, words: list[bytes], _: _Session | None) -> Any:
        value = self._string(words[0]) or b""
        return value[int(words[1]) : int(words[2]) + 1]

    def _do_getex(self, words: list[bytes], _: _Session | None) -> Any:
        value = self._string(words[0])
        if value is not None:
            self.data[words[0]] = (value, self._loop.time() + _seconds(words[1], words[2]))
        return value

    def _do_set(self, words: list[bytes], _: _Session | None) -> Any:
        name, value, rest = words[0], words[1], [word.upper() for word in words[2:]]
        end = None
        for place, word in enumerate(rest):
            if word in {b"EX", b"PX"}:
                end = self._loop.time() + _seconds(word, rest[place + 1])
        known = self._get(name)
        if (b"NX" in rest and known is not None) or (b"XX" in rest and known is None):
            return None
        self.data[name] = (value, end)
        return Status(b"OK")

    def _do_del(self, words: list[bytes], _: _Session | None) -> Any:
        return sum(self._get(name) is not None and self.data.pop(name, None) is not None for name in words)

    def _do_exists(self, words: list[bytes], _: _Session | None) -> Any:
        return sum(self._get(name) is not None for name in words)

    def _do_type(self, words: list[bytes], _: _Session | None) -> Any:
        value = self._get(words[0])
        return Status(b"none" if value is None else b"hash" if isinstance(value, dict) else b"string")

    def _do_pttl(self, words: list[bytes], _: _Session | None) -> Any:
        if self._get(words[0]) is None:
            return -2
        end = self.data[words[0]][1]
        return -1 if end is None else int((end - self._loop.time()) * 1000)

    def _do_expire(self, words: list[bytes], _: _Session | None) -> Any:
        value = self._get(words[0])
        if value is not None:
            self.data[words[0]] = (value, self._loop.time() + float(words[1]))
        return int(value is not None)

    def _do_pexpire(self, words: list[bytes], _: _Session | None) -> Any:
        return self._do_expire([words[0], b"%f" % (int(words[1]) / 1000)], None)

    def _do_hmget(self, words: list[bytes], _: _Session | None) -> Any:
        held = self._hash(words[0])
        return [held.get(name) for name in words[1:]]

    def _do_hset(self, words: list[bytes], _: _Session | None) -> Any:
        held = self._hash(words[0])
        end = self.data[words[0]][1] if words[0] in self.data else None
        held.update(zip(words[1::2], words[2::2], strict=True))
        self.data[words[0]] = (held, end)
        return len(words) // 2

    def _do_flushall(self, words: list[bytes], _: _Session | None) -> Any:
        self.data.clear()
        return Status(b"OK")

    def _do_publish(self, words: list[bytes], _: _Session | None) -> Any:
        channel, data = words
        listening = list(self.subscribers.get(channel, ()))
        for one in listening:
            one.push([b"message", channel, data])
        return len(listening)

    def _do_subscribe(self, words: list[bytes], session: _Session | None) -> Any:
        assert session is not None
        for channel in words:
            session.channels.add(channel)
            self.subscribers.setdefault(channel, {})[session] = None
            session.push([b"subscribe", channel, len(session.channels)])
        session.transport.link.subscribed = True
        return NO_REPLY

    def _do_unsubscribe(self, words: list[bytes], session: _Session | None) -> Any:
        assert session is not None
        for channel in words or list(session.channels):
            session.channels.discard(channel)
            self.subscribers.get(channel, {}).pop(session, None)
            session.push([b"unsubscribe", channel, len(session.channels)])
        return NO_REPLY

    def _do_eval(self, words: list[bytes], _: _Session | None) -> Any:
        count = int(words[1])
        return run_script(self, words[0], words[2 : 2 + count], words[2 + count :])


NO_REPLY = object()


def _seconds(unit: bytes, number: bytes) -> float:
    return float(number) if unit.upper() == b"EX" else float(number) / 1000


class _Session(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, server: RedisServer, loop: VirtualLoop) -> None:
        self._server = server
        self._loop = loop
        self._reader = hiredis.Reader()
        self._waiting: list[bytes] = []
        self.channels: set[bytes] = set()
        self.resp3 = False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        for channel in self.channels:
            self._server.subscribers.get(channel, {}).pop(self, None)

    def data_received(self, data: bytes) -> None:
        hung = self._server.hung_until - self._loop.time()
        if hung > 0 or self._waiting:
            if not self._waiting:
                self._loop.call_later(hung, self._resume)
            self._waiting.append(data)
            return
        self._carry_out(data)

    def _resume(self) -> None:
        hung = self._server.hung_until - self._loop.time()
        if hung > 0:
            self._loop.call_later(hung, self._resume)
            return
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self._carry_out(data)

    def _carry_out(self, data: bytes) -> None:
        self._reader.feed(data)
        while (words := self._reader.gets()) is not False:
            words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
            self._server.on_command(words)
            try:
                answer = self._server.call(words, self)
            except RedisError as error:
                answer = error
            if answer is not NO_REPLY:
                self._send(answer)

    def push(self, items: list[Any]) -> None:
        """Send a message that is no answer."""
        if self.resp3:
            self._write(b">%d\r\n" % len(items) + b"".join(_encoded(item, resp3=True) for item in items))
        else:
            self._send(items)

    def _send(self, answer: Any) -> None:
        self._write(_encoded(answer, resp3=self.resp3))

    def _write(self, data: bytes) -> None:
        transport: Transport = self.transport
        transport.write(data)


def _encoded(answer: Any, *, resp3: bool) -> bytes:
    match answer:
        case None:
            return b"_\r\n" if resp3 else b"$-1\r\n"
        case RedisError():
            return b"-%s\r\n" % str(answer).encode()
        case Status():
            return b"+%s\r\n" % bytes(answer)
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(answer), answer)
        case bool() | int():
            return b":%d\r\n" % answer
        case dict():
            items = b"".join(_encoded(key, resp3=resp3) + _encoded(value, resp3=resp3) for key, value in answer.items())
            return b"%%%d\r\n" % len(answer) + items
        case _:
            return b"*%d\r\n" % len(answer) + b"".join(_encoded(item, resp3=resp3) for item in answer)


# Scripts. One Lua engine serves all simulated servers, one after another.

_LUA = lupa.LuaRuntime(encoding=None, unpack_returned_tuples=True)
_COMPILED: dict[bytes, Any] = {}
_CURRENT: list[RedisServer] = []


def _from_lua(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, float):
        return b"%d" % value if value == int(value) else repr(value).encode()
    return str(value).encode()


def _to_lua(value: Any) -> Any:
    match value:
        case None:
            return False
        case Status():
            return _LUA.table_from({b"ok": bytes(value)})
        case bytes() | int():
            return value
        case _:
            return _LUA.table_from([_to_lua(item) for item in value])


def _redis_call(*words: Any) -> Any:
    return _to_lua(_CURRENT[-1].call([_from_lua(word) for word in words]))


def _redis_pcall(*words: Any) -> Any:
    try:
        return _redis_call(*words)
    except RedisError as error:
        return _LUA.table_from({b"err": str(error).encode()})


_BIND: Any = _LUA.eval(
    b"function(call, pcall_, text) "
    b"local redis = {call = call, pcall = pcall_}; "
    b"local chunk = loadstring('return function(KEYS, ARGV, redis) ' .. text .. '\\nend')(); "
    b"return function(KEYS, ARGV) return chunk(KEYS, ARGV, redis) end end"
)


def run_script(server: RedisServer, text: bytes, keys: list[bytes], arguments: list[bytes]) -> Any:
    """Run a script, as EVAL does. Raises RedisError."""
    script = _COMPILED.get(text)
    if script is None:
        script = _COMPILED[text] = _BIND(_redis_call, _redis_pcall, text)
    _CURRENT.append(server)
    try:
        return _result(script(_LUA.table_from(keys), _LUA.table_from(arguments)))
    finally:
        _CURRENT.pop()


def _result(value: Any) -> Any:
    """What a script returns, as RESP (redis.io, "Lua to RESP2 type conversion")."""
    if value is None or value is False:
        return None
    if value is True:
        return 1
    if isinstance(value, float):
        return int(value)
    if isinstance(value, bytes | int):
        return value
    if value[b"ok"] is not None:
        return Status(value[b"ok"])
    if value[b"err"] is not None:
        raise RedisError(value[b"err"].decode())
    return [_result(value[place]) for place in range(1, len(value) + 1)]
