"""From `cache.url` to a Redis client: a single server, TLS, Sentinel or Cluster.

This file owns the URL forms and the client's options. No retries and one short time-out everywhere: redis-py would
otherwise try ten times, and a server that hangs would cost a request twenty seconds instead of one `redis_timeout`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

REDIS_PORT = 6379
SENTINEL_PORT = 26379

# With look-ups of tens of microseconds this many connections are never the narrow place.
_CONNECTIONS = 32

Client = Redis | RedisCluster


class BadStoreUrl(ValueError):
    """`cache.url` cannot be understood. The message holds no password."""


class Connections:
    """Counts the connections that were made. Behind a new one there may be another server than behind the last."""

    def __init__(self) -> None:
        self.made = 0

    async def greet(self, connection: Any) -> None:
        """What redis-py calls for a new connection."""
        self.made += 1
        await connection.on_connect()


def connect(url: str, timeout: float, connections: Connections | None = None) -> Client:
    """Build a client for the URL; nothing is sent yet. `timeout` bounds a wait for a connection, in seconds.

    `connections` counts those that are made, but not in a Cluster.

    How long a command may take is `redis_calls`' business; the client's own limit is a second net, and a wide one.
    Raises BadStoreUrl.
    """
    scheme = url.partition("://")[0]
    options: dict[str, Any] = {
        "socket_timeout": max(timeout, 5.0),
        "socket_connect_timeout": max(timeout, 1.0),  # a TLS handshake may take longer than a command
        "socket_keepalive": True,
        "decode_responses": False,
    }
    greeting = {} if connections is None else {"redis_connect_func": connections.greet}
    try:
        match scheme:
            case "redis" | "rediss":
                pool = BlockingConnectionPool.from_url(
                    url, max_connections=_CONNECTIONS, timeout=options["socket_timeout"], retry=_no_retry(),
                    **options, **greeting,
                )  # fmt: skip
                return Redis.from_pool(pool)
            case "redis+sentinel":
                return _sentinel(url, options, greeting)
            case "redis+cluster":
                return _cluster(url, options)
            case _:
                raise BadStoreUrl(f"{scheme}:// is no Redis URL")
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, BadStoreUrl) else BadStoreUrl(f"not a {scheme}:// URL") from None


def named_hosts(url: str) -> list[tuple[str, int]]:
    """The hosts and ports that a URL names, which `connect` has accepted: servers, or Sentinels."""
    if url.startswith(("redis://", "rediss://")):
        parts = urlsplit(url)
        return [(parts.hostname or "localhost", parts.port or REDIS_PORT)]
    port = SENTINEL_PORT if url.startswith("redis+sentinel://") else REDIS_PORT
    return _nodes(urlsplit(url).netloc, port)


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)


def _sentinel(url: str, options: dict[str, Any], greeting: dict[str, Any]) -> Redis:
    parts = urlsplit(url)
    path = [unquote(piece) for piece in parts.path.strip("/").split("/") if piece]
    if not path or len(path) > 2 or not all(piece.isdigit() for piece in path[1:]):
        raise BadStoreUrl("redis+sentinel:// needs /service or /service/db after its hosts")
    watchers = Sentinel(  # type: ignore[no-untyped-call]
        _nodes(parts.netloc, SENTINEL_PORT), sentinel_kwargs={**options, "retry": _no_retry()}
    )
    client: Redis = watchers.master_for(
        path[0], db=int(path[1]) if len(path) > 1 else 0, retry=_no_retry(),
        max_connections=_CONNECTIONS, **_credentials(parts.netloc), **options, **greeting,
    )  # fmt: skip
    return client


def _cluster(url: str, options: dict[str, Any]) -> RedisCluster:
    parts = urlsplit(url)
    if parts.path.strip("/"):
        raise BadStoreUrl("redis+cluster:// has no database after its hosts")
    nodes = [ClusterNode(host, port) for host, port in _nodes(parts.netloc, REDIS_PORT)]
    return RedisCluster(
        startup_nodes=nodes, retry=_no_retry(), max_connections=_CONNECTIONS,
        **_credentials(parts.netloc), **options,
    )  # fmt: skip


def _nodes(netloc: str, default_port: int) -> list[tuple[str, int]]:
    nodes = []
    for piece in netloc.rpartition("@")[2].split(","):
        parts = urlsplit(f"//{piece}")
        if not parts.hostname:
            raise BadStoreUrl("a host is missing")
        nodes.append((parts.hostname, parts.port or default_port))
    return nodes


def _credentials(netloc: str) -> dict[str, Any]:
    user, _, password = netloc.rpartition("@")[0].partition(":")
    told = {"username": unquote(user), "password": unquote(password)}
    return {name: value for name, value in told.items() if value}
