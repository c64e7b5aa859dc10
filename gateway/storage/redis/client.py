"""From `cache.url` to a Redis client: a single server, TLS, Sentinel or Cluster.

This file owns the client's options. The client never sends a command twice, and has one short time limit everywhere:
redis-py would otherwise try ten times, and a server that hangs would cost a request twenty seconds instead of one
`redis_timeout`.

RESP2 is used. It needs no HELLO, which some operators rename; and with RESP3, redis-py 8 does not look at a connection
that it takes from its pool, so that a command is sent on a connection that the server has closed.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import BlockingConnectionPool, Connection, Redis, RedisCluster, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import ConnectionPool, RedisSSLContext
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from gateway.config.store_url import StoreUrl, parse
from gateway.storage.redis.credentials import Credentials, StoreCredentials

# With look-ups of tens of microseconds this many connections are never the narrow place.
_CONNECTIONS = 32
# The client of a Cluster does not wait for a connection: one command too many would fail.
_NODE_CONNECTIONS = 512
# Load balancers in common use forget an idle connection after a minute or more, some of them without a word.
_LONGEST_IDLE = 30.0

Client = Redis | RedisCluster


class BadStoreUrl(ValueError):
    """`cache.url` cannot be used. The message holds no password."""


class SentinelLoginRefused(AuthenticationError):
    """Each Sentinel that answers refuses the login."""


class MasterIsDown(MasterNotFoundError):
    """The Sentinels know the service, and say that its master is down."""


class Connections:
    """Counts the connections that were made. Behind a new one there may be another server than behind the last."""

    def __init__(self) -> None:
        self.made = 0


def connect(
    url: str, timeout: float, connections: Connections | None = None, credentials: StoreCredentials | None = None
) -> Client:
    """Build a client for the URL; nothing is sent yet. `timeout` bounds a wait for a connection, in seconds.

    `connections` counts those that are made, but not in a Cluster. `credentials` are those of the URL unless given.

    `commands` limits the time of a command; the client's own limit is a second net, and a wide one.
    Raises BadStoreUrl.
    """
    try:
        store = parse(url)
    except ValueError as error:
        raise BadStoreUrl(str(error)) from None
    logins = credentials or StoreCredentials(store)
    options: dict[str, Any] = {
        "socket_timeout": max(timeout, 5.0),
        "socket_connect_timeout": max(timeout, 1.0),  # a TLS handshake may take longer than a command
        "socket_keepalive": True,
        "protocol": 2,
        # No CLIENT SETINFO: with it, a burst of new connections takes three times as long.
        "driver_info": None,
    }
    if store.client_name:
        options["client_name"] = store.client_name
    tls = _tls(store) if store.tls else {}
    if store.cluster:
        return _cluster(store, logins, {**options, **tls})
    server = {
        "credential_provider": logins.server,
        "redis_connect_func": _greeting(logins.server, connections),
        "db": store.database,
        "retry": _no_retry(),
        "max_connections": _CONNECTIONS,
        **options,
        **tls,
    }
    if store.sentinel:
        watchers = _Sentinels(store, logins, {**options, **tls})
        client: Redis = watchers.master_for(
            store.service, connection_pool_class=_SentinelPool, ssl=store.tls,
            timeout=options["socket_timeout"], **server,
        )  # fmt: skip
        return client
    [(host, port)] = store.hosts
    pool = _Pool(
        connection_class=SSLConnection if store.tls else Connection,
        host=host, port=port, timeout=options["socket_timeout"], **server,
    )  # fmt: skip
    return Redis.from_pool(pool)


async def close(client: Client) -> None:
    """Close the client's connections, and those to the Sentinels, which redis-py leaves open."""
    with suppress(RedisError, OSError):  # it is going away either way
        await client.aclose()
    watchers = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    if watchers is not None:
        with suppress(RedisError, OSError):
            await watchers.aclose()


def distrust_idle(client: Client) -> None:
    """Replace every idle connection before it is used again: what closed one of them may have closed them all.

    The client of a Cluster does this itself when it loses a connection to a node.
    """
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, _IdleCheck):
        pool.distrust_idle()


class _IdleCheck(ConnectionPool):
    """A pool that does not reuse a connection which was idle for too long, or is distrusted.

    One that the server has closed is found by redis-py itself, which looks at each connection that it takes.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._released: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._trusted_since = -math.inf

    def distrust_idle(self) -> None:
        self._trusted_since = asyncio.get_running_loop().time()

    async def ensure_connection(self, connection: Any) -> None:
        now = asyncio.get_running_loop().time()
        released = self._released.get(connection, now)
        if released <= self._trusted_since or now - released > _LONGEST_IDLE:
            await connection.disconnect(nowait=True)
        await super().ensure_connection(connection)

    async def release(self, connection: Any) -> None:
        self._released[connection] = asyncio.get_running_loop().time()
        await super().release(connection)


class _Pool(_IdleCheck, BlockingConnectionPool):
    pass


class _SentinelPool(_IdleCheck, SentinelConnectionPool, BlockingConnectionPool):
    pass


class _Sentinels(Sentinel):
    """The Sentinels of a URL, which name the master."""

    def __init__(self, store: StoreUrl, credentials: StoreCredentials, options: dict[str, Any]) -> None:
        super().__init__([])  # type: ignore[no-untyped-call]
        self.sentinels: list[Redis] = []
        for host, port in store.hosts:
            logins = credentials.for_sentinel()
            self.sentinels.append(
                Redis(
                    host=host, port=port, ssl=store.tls, retry=_no_retry(),
                    credential_provider=logins, redis_connect_func=_greeting(logins, None), **options,
                )
            )  # fmt: skip

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the address of the master, as the first Sentinel says that knows it.

        Raises MasterIsDown or MasterNotFoundError as the Sentinels say, SentinelLoginRefused if they refuse the login,
        else what happened to the last of them.
        """
        failure: Exception | None = None
        down = unknown = False
        for sentinel in list(self.sentinels):
            # One that hangs uses up all the time. It is asked last the next time, even if this is cancelled.
            self.sentinels.remove(sentinel)
            self.sentinels.append(sentinel)
            try:
                masters = await _masters(sentinel)
            except (RedisError, OSError) as error:
                failure = error if failure is None or not isinstance(failure, AuthenticationError) else failure
                continue
            state = masters.get(service_name)
            if state is not None and self.check_master_state(state, service_name):
                self.sentinels.remove(sentinel)
                self.sentinels.insert(0, sentinel)
                return state["ip"], state["port"]
            down, unknown = down or state is not None, unknown or state is None
        if down:
            raise MasterIsDown("the Sentinels say that the master is down")
        if unknown or failure is None:
            raise MasterNotFoundError("no Sentinel knows a master of that name")
        if isinstance(failure, AuthenticationError):
            raise SentinelLoginRefused(status_code=failure.status_code)
        raise failure


async def _masters(sentinel: Redis) -> dict[str, Any]:
    try:
        masters: Any = await sentinel.sentinel_masters()
    except AuthenticationError as refused:
        try:
            masters = await sentinel.sentinel_masters()  # with the next login
        except AuthenticationError:
            raise refused from None
    return dict(masters)


class _NodeConnection(Connection):
    """A connection to a node of a Cluster, whose client does not look at a connection before it uses it."""

    _idle = _subscribed = False

    def register_connect_callback(self, callback: Any) -> None:
        self._subscribed = True
        super().register_connect_callback(callback)  # type: ignore[no-untyped-call]

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        response = await super().read_response(*arguments, **options)
        self._idle = True
        return response

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        idle, self._idle = self._idle, False  # while a connection is set up, several commands are sent at once
        # The end of a subscription must not go unnoticed.
        if idle and self.is_connected and not self._subscribed and await self.can_read():
            await self.disconnect(nowait=True)
        await super().send_packed_command(command, check_health)


class _NodeSSLConnection(_NodeConnection, SSLConnection):
    pass


def _cluster(store: StoreUrl, credentials: StoreCredentials, options: dict[str, Any]) -> RedisCluster:
    client = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in store.hosts], retry=_no_retry(),
        max_connections=_NODE_CONNECTIONS, ssl=store.tls, credential_provider=credentials.server, **options,
    )  # fmt: skip
    # What its constructor does not take, for nodes that are discovered later and for those of the URL.
    kind = _NodeSSLConnection if store.tls else _NodeConnection
    greet = _greeting(credentials.server, None)
    client.connection_kwargs.update(connection_class=kind, redis_connect_func=greet)
    for node in client.startup_nodes:
        node.connection_class = kind
        node.connection_kwargs["redis_connect_func"] = greet
    return client


def _greeting(credentials: Credentials, connections: Connections | None) -> Callable[[Any], Awaitable[None]]:
    """Return what sets up a new connection, in place of redis-py's own."""

    async def greet(connection: Any) -> None:
        if connections is not None:
            connections.made += 1
        await credentials.greet(connection)

    return greet


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)


def _tls(store: StoreUrl) -> dict[str, Any]:
    # OpenSSL's own rules apply, as in redis-cli: Python 3.13 also rejects CAs that lack an optional extension.
    options: dict[str, Any] = {**store.tls_options, "ssl_exclude_verify_flags": [ssl.VerifyFlags.VERIFY_X509_STRICT]}
    context = RedisSSLContext(**{name.removeprefix("ssl_"): value for name, value in options.items()})
    try:
        context.get()
    except (OSError, ValueError):
        raise BadStoreUrl("a file that an ssl_ option names cannot be used") from None
    return options
