"""Commands to Redis: limited in time, and not sent at all while Redis does not answer.

After one that took too long nothing is sent for a moment, so that a request pays for one such wait and not for each of
its commands; after five failures in a row nothing is sent until a ping succeeds, so that a server which hangs costs the
first few requests a little and the others nothing. Every error becomes StoreDown here.

A command whose connection was lost before the reply is sent again once, on a new connection and within the same time
limit: a server, or a load balancer, may close a connection at the moment in which it is used. Every command but a
counter has the same effect when it is carried out twice.

Redis is *up* when it answers and permits what the gateway needs (`permissions`). That is tried when Redis comes up, and
again, twice a second, from a refused command on until nothing is refused. Commands are sent meanwhile: a server that is
full, or a replica, still answers reads.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, TypeVar, cast

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, MaxConnectionsError, RedisClusterException, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.core.clock import Clock
from gateway.core.errors import StoreDown
from gateway.core.events import Emit, RedisAvailabilityChanged, RedisCommand
from gateway.storage.redis.client import Client, MasterIsDown, SentinelLoginRefused, close, distrust_idle
from gateway.storage.redis.permissions import code, is_refusal, listed, refused_commands
from gateway.storage.time_limit import forget, within

_FAILURES_THAT_OPEN = 5
_REST_SECONDS = 0.25
# A ping may set up a connection, TLS included, and nobody waits for it.
_PING_TIMEOUT = 1.0
_RECHECK_SECONDS = 0.5
# Counters: if the first of two was carried out as well, the second counts once too often.
_NEVER_TWICE = frozenset({"budget"})
_NOT_LOST = (AuthenticationError, MasterNotFoundError, MaxConnectionsError)

_State = Literal["up", "down", "refuses"]
T = TypeVar("T")


class RedisCommands:
    """One client's commands. `timeout` limits each, in seconds; `prefix` starts the keys that the gateway uses."""

    def __init__(self, client: Client, *, timeout: float, clock: Clock, emit: Emit, prefix: str = "") -> None:
        self.client = client
        self._timeout = timeout
        self._clock = clock
        self._emit = emit
        self._prefix = prefix
        self._failures = 0
        self._rests_until = 0.0
        self._gone = False
        self._reachable = False
        self._permitted = False
        self._state: _State | None = None  # as it was reported; not known before the first command
        self._checking: asyncio.Task[None] | None = None
        self._checked = asyncio.Event()
        self._suspected = False
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def gone(self) -> bool:
        """Whether Redis was last seen to be gone: its machine refuses connections, so nobody talks to it."""
        return self._gone

    @property
    def up(self) -> bool:
        """Whether Redis answers, and permits what the gateway needs."""
        return self._reachable and self._permitted

    async def run(
        self, command: str, send: Callable[[Any], Awaitable[Any]], *, background_timeout: float | None = None
    ) -> Any:
        """Send what `send` makes of the client; `command` names it in metrics. Raises StoreDown.

        `send` is called again where its connection is lost. What it sends must not depend on how often.
        With `background_timeout`, no request waits for longer than it chooses to: that time limit applies instead, and
        the command is sent although another one took too long.
        """
        background = background_timeout is not None
        rests = self._failures >= _FAILURES_THAT_OPEN or (
            not background and self._clock.monotonic() < self._rests_until
        )
        if self._closed or rests:
            raise StoreDown("Redis is left alone for now")
        return await self._send(command, send, background_timeout or self._timeout)

    async def ping(self) -> None:
        """See whether Redis answers, and let commands through again if it does. Raises StoreDown.

        Check also what it permits, unless that is known already.
        """
        await self._send("ping", lambda client: client.ping(), max(_PING_TIMEOUT, self._timeout))
        if not self._permitted:
            self._check()
            await self._checked.wait()

    async def close(self) -> None:
        """Cancel the commands and close the connections."""
        self._closed = True
        if self._checking is not None:
            self._checking.cancel()
        tasks = {*self._running, *((self._checking,) if self._checking is not None else ())}
        for task in self._running:
            if not task.cancelling():  # a second cancellation would interrupt the cleanup after the first
                task.cancel()
        if tasks:  # the client does not close a connection that is opened while it closes the others
            await asyncio.wait(tasks, timeout=_PING_TIMEOUT)
        await close(self.client)

    async def _tracked(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work in a task that `close` cancels and waits for. Raises StoreDown once it is closed."""
        if self._closed:
            raise StoreDown("closed")
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._running.add(task)
        try:
            return await work()
        except asyncio.CancelledError:
            if self._closed:
                raise StoreDown("closed") from None
            raise
        finally:
            self._running.discard(task)

    async def _send(self, command: str, send: Callable[[Any], Awaitable[Any]], timeout: float) -> Any:
        began = self._clock.monotonic()
        try:
            answer = await within(timeout, self._tracked(lambda: self._sent(command, send)))
        except (TimeoutError, RedisTimeoutError):
            self._emit(RedisCommand(command, "timeout", self._clock.monotonic() - began))
            self._rests_until = self._clock.monotonic() + _REST_SECONDS
            self._failed("no answer in time", gone=False)
            raise StoreDown("timeout") from None
        except StoreDown:
            raise
        except Exception as error:  # noqa: BLE001 - a peer that is no Redis makes the client trip in any way there is
            self._emit(RedisCommand(command, "error", self._clock.monotonic() - began))
            self._note_error(command, error)
            raise StoreDown(code(error)) from None
        took = self._clock.monotonic() - began
        self._emit(RedisCommand(command, "ok", took))
        # An answer that is late for a request does not show that the next one will be in time.
        if command == "ping" or took <= self._timeout:
            self._answered()
        return answer

    async def _sent(self, command: str, send: Callable[[Any], Awaitable[Any]]) -> Any:
        lost = refused = False
        while True:
            try:
                return await send(self.client)
            except (RedisConnectionError, RedisClusterException, RuntimeError) as error:
                cause = error.__cause__ if isinstance(error, RedisClusterException) else error
                if isinstance(cause, AuthenticationError) and not refused:
                    refused = True  # the next connection uses another password, if there is one
                elif _is_lost(cause) and not lost and command not in _NEVER_TWICE:
                    lost = True
                    distrust_idle(self.client)
                else:
                    raise

    def _note_error(self, command: str, error: Exception) -> None:
        """Note what an error shows of Redis."""
        if is_refusal(error):
            # It is there for others, and may still permit us to read.
            self._failures, self._rests_until, self._gone = 0, 0.0, False
            self._check()
        elif isinstance(error, ResponseError) and not isinstance(error, RedisConnectionError):
            self._answered()  # an answer about the value of one key
        elif command in _NEVER_TWICE and _is_lost(error):
            distrust_idle(self.client)  # any other command would have been sent again
        else:
            self._failed(_reason(error), gone=is_connect_refusal(error))

    def _answered(self) -> None:
        self._failures, self._rests_until, self._gone = 0, 0.0, False
        self._reachable = True
        if self._permitted:
            self._report("up", "")
        else:
            self._check()

    def _failed(self, reason: str, *, gone: bool) -> None:
        self._failures += 1
        self._gone = gone
        self._reachable = False
        self._report("down", reason)

    def _report(self, state: _State, reason: str) -> None:
        if state != self._state:
            self._state = state
            self._emit(RedisAvailabilityChanged(up=state == "up", reason=reason, refuses=state == "refuses"))

    def _check(self) -> None:
        """Check what Redis permits; soon, if it was checked just now."""
        self._suspected = True
        if self._checking is None:
            self._checked.clear()
            self._checking = asyncio.create_task(self._check_until_permitted())
            self._checking.add_done_callback(self._end_of_check)

    def _end_of_check(self, task: asyncio.Task[None]) -> None:
        self._checking = None
        self._checked.set()
        forget(task)

    async def _check_until_permitted(self) -> None:
        """Check twice a second until nothing is refused, and no command was refused since.

        It ends also when Redis does not answer: its next answer begins another check.
        """
        limit = max(_PING_TIMEOUT, self._timeout)
        refused: dict[str, str] = {}
        while refused or self._suspected:
            self._suspected = False
            name = f"{self._prefix}check:{secrets.token_hex(8)}"
            try:
                check = partial(refused_commands, self.client, name, limit)
                refused = await within(limit, self._tracked(check))
            except Exception:  # noqa: BLE001 - as above; the command that finds Redis gone reports it
                refused = {}
            else:
                self._reachable, self._permitted = True, not refused
                self._report("refuses" if refused else "up", listed(refused))
            self._checked.set()
            await self._clock.sleep(_RECHECK_SECONDS)


def _is_lost(error: BaseException | None) -> bool:
    """Whether a connection was lost, rather than refused, or closed with an error that Redis sent."""
    if isinstance(error, RuntimeError):
        # uvloop, for a write to a connection that was reset while it was idle; redis-py does not look for that.
        return "handler is closed" in str(error)
    if not isinstance(error, RedisConnectionError) or isinstance(error, _NOT_LOST) or is_connect_refusal(error):
        return False
    return error.status_code is None


def _reason(error: Exception) -> str:
    """Return why Redis does not answer, without the words of others, which may quote a secret."""
    cause = error.__cause__ if isinstance(error, RedisClusterException) and error.__cause__ else error
    if isinstance(cause, SentinelLoginRefused):
        return f"the Sentinels refuse the login ({code(cause)})"
    if isinstance(cause, AuthenticationError):
        return f"the login is refused ({code(cause)})"
    if isinstance(cause, MasterIsDown):
        return "the Sentinels say that the master is down"
    if isinstance(cause, MasterNotFoundError):
        return "no Sentinel knows a master of that name"
    if is_connect_refusal(cause):
        return "the connection is refused"
    if isinstance(_origin(cause), ssl.SSLError):
        return "the TLS handshake failed"
    return "the connection was lost" if _is_lost(cause) else code(cause)


def _origin(error: BaseException) -> BaseException:
    """Return the error that an error was raised because of, in the end."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error


def is_connect_refusal(error: BaseException | None) -> bool:
    """Whether the machine was there and nobody listened."""
    while error is not None:
        if isinstance(error, OSError):
            told = str(error)  # of several addresses: "Multiple exceptions: [Errno 111] ..., [Errno 111] ..."
            refused = f"[Errno {errno.ECONNREFUSED}]"
            return error.errno == errno.ECONNREFUSED or 0 < told.count(refused) == told.count("[Errno ")
        error = error.__cause__ or error.__context__
    return False
