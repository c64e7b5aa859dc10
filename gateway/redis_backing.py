"""Redis behind a gateway: pages that replicas share, and what they agree on. Imported where there is Redis only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from gateway.backing import Backing
from gateway.budgets import Budgets
from gateway.clock import Clock
from gateway.core.entry import FORMAT_VERSION
from gateway.core.facts import Observe
from gateway.core.options import CacheOptions, TeamOptions, UpstreamOptions
from gateway.core.store_url import parse
from gateway.flights.lease import Leases
from gateway.gate import Gate
from gateway.stores.budgets import SharedBuckets
from gateway.stores.memory import Shelves
from gateway.stores.redis import RedisStore
from gateway.stores.redis_calls import RedisCalls
from gateway.stores.redis_client import Connections, connect
from gateway.stores.redis_credentials import StoreCredentials
from gateway.stores.shared import SharedPause
from gateway.stores.tiered import TieredStore
from gateway.stores.validity import Validity
from gateway.stores.word import InvalidationSubscriber
from gateway.url_file import UrlFile


def around_redis(
    url: str,
    memory: int,
    cache: CacheOptions,
    upstream: UpstreamOptions,
    teams: Mapping[str, TeamOptions],
    *,
    scope: str,
    read: Callable[[str], str | None],
    clock: Clock,
    observe: Observe,
) -> Backing:
    """Build what stands on Redis at `url`, with so many bytes of `memory` in front of it.

    `scope` names vendor and account; `read` returns the secret in a file, None when there is none, or raises OSError.
    """
    connections = Connections()
    credentials = StoreCredentials(parse(url))
    client = connect(url, cache.redis_timeout, connections, credentials)
    prefix = f"{cache.key_prefix}:{FORMAT_VERSION}:"
    calls = RedisCalls(client, timeout=cache.redis_timeout, clock=clock, observe=observe, prefix=prefix)
    far = RedisStore(calls, connections, prefix=cache.key_prefix, clock=clock, observe=observe)
    validity = Validity(max_age=cache.memory_max_age, clock=clock)
    single = url.startswith(("redis://", "rediss://"))
    word = InvalidationSubscriber(calls, far, validity, clock, single=single)
    near = Shelves(memory, observe)
    store = TieredStore(near, far, word, clock=clock, observe=observe)
    leases = Leases(calls.run, prefix=far.prefix, clock=clock)
    pause = SharedPause(calls, prefix=far.prefix, scope=scope)
    gate = Gate(upstream, pause, clock=clock, observe=observe)
    pause.listener = gate.hear
    budgets = Budgets(teams, SharedBuckets(calls, prefix=far.prefix, timeout=cache.redis_timeout), clock)
    listeners = {far.channel: store.hear, leases.channel: leases.hear, pause.channel: pause.hear}
    listening = partial(word.run, listeners, store.invalidate_all, pause.look)
    following = None
    if cache.url_file is not None:
        url_file = UrlFile(cache.url_file, credentials, read=read, clock=clock)
        credentials.refresh_with(url_file.refresh)
        following = url_file.follow
    return Backing(
        store, store.seals, leases, gate, budgets, near.tell, listening, following,
        adopt_url=lambda other: credentials.adopt(parse(other)),
    )  # fmt: skip
