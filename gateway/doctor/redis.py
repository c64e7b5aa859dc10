"""Redis as the gateway needs it: reachable, of the right kind, with every right, bounded, and quick.

The client is the one that serving builds, so that Sentinels and Clusters are tried as they are used.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
import statistics
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    ClusterError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.config.options import CacheOptions
from gateway.config.store_url import StoreUrl, parse
from gateway.core.clock import Clock
from gateway.doctor.clocks import ClockReading
from gateway.doctor.network import Endpoint, check_names, connect, tls_trouble, why
from gateway.doctor.report import CheckReport
from gateway.storage.entry import FORMAT_VERSION
from gateway.storage.redis.client import MasterIsDown, SentinelLoginRefused, close
from gateway.storage.redis.client import connect as redis_client
from gateway.storage.redis.permissions import code, refused_commands

DNS, CONNECT, TLS, LOGIN = "redis DNS", "redis connect", "redis TLS", "redis login"
VERSION, RIGHTS, MEMORY, SPEED = "redis version", "redis rights", "redis memory", "redis round trip"

_SECONDS = 3.0
_PINGS = 15
_LEAST_VERSION = (6, 2)
_CHECK_URL = "check cache.url"
_FAILURES = (RedisError, RedisClusterException, OSError)


def planned(url: str) -> tuple[str, ...]:
    """The checks that a URL makes sense of, in order."""
    tls = (TLS,) if parse(url).tls else ()
    return (DNS, CONNECT, *tls, LOGIN, VERSION, RIGHTS, MEMORY, SPEED)


class RedisCheck:
    """One look at Redis. `reading` is what its TIME shows."""

    def __init__(self, report: CheckReport, options: CacheOptions, url: str, clock: Clock) -> None:
        self.report = report
        self.reading: ClockReading | None = None
        self._options = options
        self._url = url
        self._store: StoreUrl = parse(url)
        self._clock = clock
        self._name = f"{options.key_prefix}:{FORMAT_VERSION}:doctor:{secrets.token_hex(8)}"
        self._client: Any = None

    async def run(self) -> None:
        """Try everything, and write it down."""
        places = [Endpoint(host, port) for host, port in self._store.hosts]
        names = await check_names(self.report, DNS, [place.host for place in places], "cache.url")
        if names and await self._reached(places):
            self._client = redis_client(self._url, max(self._options.redis_timeout, _SECONDS))
            try:
                if await self._greeted(places[0].host):
                    await self._examined()
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_SECONDS):
                        await close(self._client)
        self.report.skip_rest()

    async def _reached(self, places: list[Endpoint]) -> bool:
        results = await asyncio.gather(*(_touch(place) for place in places), return_exceptions=True)
        good, bad = [], []
        for place, result in zip(places, results, strict=True):
            if result is None:
                good.append(str(place))
            elif isinstance(result, OSError):
                bad.append(f"{place}: {why(result)}")
            else:
                raise result
        hint = "start Redis, or correct host and port in cache.url; a firewall on the way may be shut"
        if not bad:
            self.report.ok(CONNECT, f"{', '.join(good)} takes connections")
        elif good:
            self.report.warn(CONNECT, "; ".join(bad), hint)
        else:
            self.report.fail(CONNECT, "; ".join(bad), hint, unreachable=True)
        return bool(good)

    async def _greeted(self, host: str) -> bool:
        """Whether there is a Redis that takes our password: the first command also brings TLS, Sentinel and Cluster."""
        try:
            await self._call(lambda client: client.ping())
        except Exception as error:  # noqa: BLE001 - a peer that is no Redis makes the client trip in any way there is
            self._not_greeted(error, host)
            return False
        if self._store.tls:
            self.report.ok(TLS, "the certificate is accepted")
        self.report.ok(LOGIN, f"PING is answered, {'with' if any(self._store.login) else 'without'} a password")
        return True

    def _not_greeted(self, error: BaseException, host: str) -> None:
        if isinstance(error, RedisClusterException) and isinstance(error.__cause__, AuthenticationError):
            error = error.__cause__
        tls = self._store.tls
        answered = isinstance(error, AuthenticationError) or (
            isinstance(error, ResponseError) and not isinstance(error, RedisConnectionError)
        )
        handshake = _tls_error(error)
        if tls and handshake is not None:
            trouble = tls_trouble(
                handshake, host, authority="ssl_ca_certs=FILE in cache.url's query", address="cache.url"
            )
            self.report.fail(TLS, trouble.found, trouble.hint)
            return
        if tls and answered:
            self.report.ok(TLS, "the certificate is accepted")
        told = code(error)
        if isinstance(error, AuthenticationError) or told in {"NOAUTH", "WRONGPASS"}:
            self._refused_login(error)
        elif self._store.sentinel and isinstance(error, MasterNotFoundError | NoPermissionError | RedisConnectionError):
            self._no_master(error)
        elif isinstance(error, RedisClusterException | ClusterError):
            hint = "if it is a single server, write redis://; else see `CLUSTER INFO` on a node"
            self.report.fail(LOGIN, "it is no Redis Cluster that is whole", hint)
        elif isinstance(error, TimeoutError | RedisTimeoutError):
            hint = "it hangs, or something else has the port: see its log and its machine's load; check cache.url"
            if tls:
                hint = f"{hint} (a port without TLS is silent too)"
            self.report.fail(TLS if tls else LOGIN, f"no answer within {_SECONDS:g} s", hint, unreachable=True)
        elif answered:
            self.report.fail(LOGIN, f"PING is refused ({told})", hint_for({told}, self._options.key_prefix))
        else:
            hint = f"{_CHECK_URL}: another server may have the port, or it wants {'no TLS' if tls else 'rediss://'}"
            self.report.fail(LOGIN, f"what answers does not speak like Redis ({type(error).__name__})", hint)

    def _refused_login(self, error: BaseException) -> None:
        if isinstance(error, SentinelLoginRefused):
            self.report.fail(
                LOGIN, f"the Sentinels refuse the login ({code(error)})",
                "put their user and password into cache.url as ?sentinel_username= and ?sentinel_password=, "
                "percent-encoded, if they are not those of the master",
            )  # fmt: skip
        else:
            self.report.fail(
                LOGIN, f"refused ({code(error)})",
                "put the right user and password into cache.url (redis://USER:PASSWORD@HOST, percent-encoded); a file "
                "named by cache.url_file keeps them out of the configuration",
            )  # fmt: skip

    def _no_master(self, error: BaseException) -> None:
        if isinstance(error, NoPermissionError):
            hint = "permit it there: `ACL SETUSER USER +ping +sentinel|masters`"
            self.report.fail(LOGIN, "the Sentinels refuse SENTINEL MASTERS (NOPERM)", hint)
        elif isinstance(error, MasterIsDown):
            hint = "start the master, or wait for the failover; `SENTINEL masters` shows its state"
            self.report.fail(LOGIN, "the Sentinels know the master, and say that it is down", hint)
        elif isinstance(error, MasterNotFoundError):
            hint = "check the service's name in cache.url; `SENTINEL masters` lists the names"
            self.report.fail(LOGIN, "no Sentinel knows a master of that name", hint)
        else:
            hint = "the address that `SENTINEL masters` shows has to be one that this machine can reach"
            self.report.fail(
                LOGIN, "the Sentinels, or the master that they name, cannot be reached", hint, unreachable=True
            )

    async def _examined(self) -> None:
        server = memory = None
        try:
            server, memory = await self._info("server"), await self._info("memory")
        except ResponseError as error:
            self.report.skip(VERSION, f"INFO is refused ({code(error)})")
        if server is not None and not self._judge_version(server):
            return
        await self._rights(info=server is not None)
        if memory is None:
            self.report.skip(MEMORY, "INFO is refused")
        else:
            self._judge_memory(memory)
        await self._speed()

    def _judge_version(self, servers: list[dict[str, Any]]) -> bool:
        kind = str(servers[0].get("redis_mode", "standalone"))
        cluster = isinstance(self._client, RedisCluster)
        if kind == "sentinel" or (kind == "cluster") != cluster:
            scheme = {"sentinel": "redis+sentinel://", "cluster": "redis+cluster://"}.get(kind, "redis://")
            self.report.fail(VERSION, f"this is a server of another kind ({kind})", f"cache.url has to begin {scheme}")
            return False
        for server in servers:
            valkey = "valkey_version" in server
            version = str(server.get("valkey_version" if valkey else "redis_version", ""))
            numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
            if not valkey and numbers < _LEAST_VERSION:
                self.report.fail(VERSION, f"Redis {version} is too old", "Redis 6.2 or later, or Valkey, is needed")
                return False
        self.report.ok(VERSION, f"{'Valkey' if valkey else 'Redis'} {version}, {len(servers)} node(s)")
        return True

    async def _rights(self, *, info: bool) -> None:
        try:
            async with asyncio.timeout(2 * _SECONDS):
                found = await refused_commands(self._client, self._name, _SECONDS)
        except _FAILURES as error:
            self.report.fail(
                RIGHTS, f"it answers no more ({type(error).__name__})", "see its log and its machine's load"
            )
            return
        if "TIME" not in found:
            sent = self._clock.now()
            seconds, microseconds = await self._call(lambda client: client.time())
            time = int(seconds) + int(microseconds) / 1e6
            self.reading = ClockReading(time - self._clock.now(), time - sent)
        refused = found if info else {"INFO": "NOPERM", **found}
        if refused:
            words = ", ".join(f"{command} ({word})" for command, word in refused.items())
            self.report.fail(RIGHTS, f"refused: {words}", hint_for(set(refused.values()), self._options.key_prefix))
        else:
            self.report.ok(RIGHTS, f"reads, writes, scripts and messages under {self._options.key_prefix}:*")

    def _judge_memory(self, servers: list[dict[str, Any]]) -> None:
        least = min(int(server.get("maxmemory", 0)) for server in servers)
        policies = {str(server.get("maxmemory_policy", "unknown")) for server in servers}
        bad = policies - {"allkeys-lru"}
        wrong = (["maxmemory is not set"] if not least else []) + [
            f"maxmemory-policy is {name}" for name in sorted(bad)
        ]
        if wrong:
            hint = "maxmemory 256mb (or what there is) and maxmemory-policy allkeys-lru, in redis.conf or by CONFIG SET"
            self.report.warn(MEMORY, " and ".join(wrong), hint)
        else:
            self.report.ok(MEMORY, f"at most {least // 2**20} MiB, allkeys-lru")

    async def _speed(self) -> None:
        took = []
        try:
            for _ in range(_PINGS):
                began = self._clock.monotonic()
                await self._call(lambda client: client.ping())
                took.append(self._clock.monotonic() - began)
        except _FAILURES as error:
            self.report.fail(SPEED, f"PING fails ({type(error).__name__})", "see its log and its machine's load")
            return
        median, limit = statistics.median(took), self._options.redis_timeout
        found = f"{median * 1000:.1f} ms, and cache.redis_timeout is {limit * 1000:g} ms"
        if median > limit / 5:
            self.report.warn(SPEED, found, "bring Redis nearer, or raise cache.redis_timeout to ten round trips or so")
        else:
            self.report.ok(SPEED, found)

    async def _info(self, section: str) -> list[dict[str, Any]]:
        if not isinstance(self._client, RedisCluster):
            return [await self._call(lambda client: client.info(section))]
        return [await self._call(partial(_info_of, section, node)) for node in self._client.get_primaries()]

    async def _call(self, send: Callable[[Any], Awaitable[Any]]) -> Any:
        async with asyncio.timeout(_SECONDS):
            return await send(self._client)


async def _touch(place: Endpoint) -> None:
    await (await connect(place, _SECONDS)).close()


async def _info_of(section: str, node: Any, client: Any) -> Any:
    return await client.info(section, target_nodes=node)


def _tls_error(error: BaseException | None) -> BaseException | None:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def hint_for(codes: set[str], prefix: str) -> str:
    """Return the remedy for refusals with these codes."""
    if "READONLY" in codes:
        return "cache.url names a replica, which takes no writes: name the master, or ask Sentinels for it"
    if "OOM" in codes:
        return "it is full: maxmemory-policy allkeys-lru makes it forget by itself, or give it more maxmemory"
    if "MISCONF" in codes:
        return 'it cannot write its dump and refuses writes: hint its disk, or switch dumps off (save "")'
    if "unknown command" in codes:
        return "a command is renamed or disabled (rename-command in redis.conf): the gateway needs it by its own name"
    if "LOADING" in codes:
        return "it is still reading its dump: wait, or start it without one"
    return f"`ACL SETUSER USER ~{prefix}:* &{prefix}:* +@read +@write +@pubsub +@scripting +@connection +info +time`"
