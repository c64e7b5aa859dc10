"""Redis behind a gateway: pages that replicas share, and what they agree on. Imported where there is Redis only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from gateway.app.backends import Backends
from gateway.config.options import CacheOptions, TeamOptions, UpstreamOptions
from gateway.config.store_url import parse
from gateway.core.clock import Clock
from gateway.core.events import Emit
from gateway.storage.entry import FORMAT_VERSION
from gateway.storage.memory import LocalPages
from gateway.storage.redis.client import Connections, connect
from gateway.storage.redis.commands import RedisCommands
from gateway.storage.redis.credentials import StoreCredentials
from gateway.storage.redis.invalidation import InvalidationSubscriber
from gateway.storage.redis.leases import RedisLeases
from gateway.storage.redis.shared_budgets import RedisBuckets
from gateway.storage.redis.shared_pause import RedisPause
from gateway.storage.redis.store import RedisStore
from gateway.storage.redis.url_file import UrlFile
from gateway.storage.tiered import TieredStore
from gateway.storage.validity import Validity
from gateway.teams.budgets import Budgets
from gateway.upstream.guard import UpstreamGuard


def redis_backends(
    url: str,
    memory: int,
    cache: CacheOptions,
    upstream: UpstreamOptions,
    teams: Mapping[str, TeamOptions],
    *,
    scope: str,
    read: Callable[[str], str | None],
    clock: Clock,
    emit: Emit,
) -> Backends:
    """Build what stands on Redis at `url`, with so many bytes of `memory` in front of it.

    `scope` names vendor and account; `read` returns the secret in a file, None when there is none, or raises OSError.
    """
    connections = Connections()
    credentials = StoreCredentials(parse(url))
    client = connect(url, cache.redis_timeout, connections, credentials)
    prefix = f"{cache.key_prefix}:{FORMAT_VERSION}:"
    calls = RedisCommands(client, timeout=cache.redis_timeout, clock=clock, emit=emit, prefix=prefix)
    far = RedisStore(calls, connections, prefix=cache.key_prefix, clock=clock, emit=emit)
    validity = Validity(max_age=cache.memory_max_age, clock=clock)
    single = url.startswith(("redis://", "rediss://"))
    word = InvalidationSubscriber(calls, far, validity, clock, single=single)
    near = LocalPages(memory, emit)
    store = TieredStore(near, far, validity, clock=clock, emit=emit)
    leases = RedisLeases(calls.run, prefix=far.prefix, clock=clock)
    pause = RedisPause(calls, prefix=far.prefix, scope=scope)
    guard = UpstreamGuard(upstream, pause, clock=clock, emit=emit)
    pause.listener = guard.receive_pause
    budgets = Budgets(teams, RedisBuckets(calls, prefix=far.prefix, timeout=cache.redis_timeout), clock)
    listeners = {far.channel: store.receive, leases.channel: leases.receive, pause.channel: pause.receive}
    listening = partial(word.run, listeners, store.invalidate_all, pause.poll)
    following = None
    if cache.url_file is not None:
        url_file = UrlFile(cache.url_file, credentials, read=read, clock=clock)
        credentials.refresh_with(url_file.refresh)
        following = url_file.follow
    return Backends(
        store, store.validity_tokens, leases, guard, budgets, near.flush, listening, following,
        adopt_url=lambda other: credentials.adopt(parse(other)),
    )  # fmt: skip
