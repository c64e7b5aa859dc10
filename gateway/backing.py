"""What a gateway stands on: memory alone, or Redis behind it, and what replicas agree on over that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.budgets import Budgets
from gateway.clock import Clock
from gateway.core.facts import Observe
from gateway.core.options import CacheOptions, TeamOptions, UpstreamOptions
from gateway.core.seals import Seals
from gateway.flights.lease import Alone, Leases, Turns
from gateway.gate import Gate, NoReplicas
from gateway.stores.base import Store
from gateway.stores.budgets import SharedBudgets
from gateway.stores.memory import MemoryStore, Shelves
from gateway.stores.redis import RedisStore
from gateway.stores.redis_calls import RedisCalls
from gateway.stores.redis_client import Connections, connect
from gateway.stores.shared import SharedPause
from gateway.stores.tiered import TieredStore
from gateway.stores.word import WordOfRedis


@dataclass(frozen=True, slots=True)
class Backing:
    """Where pages are kept and who agrees on what; `listening` is a task that brings word of other replicas."""

    store: Store
    seals: Seals
    turns: Turns
    gate: Gate
    budgets: Budgets
    listening: Callable[[], Coroutine[Any, Any, None]] | None = None

    def purge_here(self, aoi_id: str | None) -> None:
        """Purge what another process of this gateway has purged. Where there is Redis, it is Redis that tells."""
        if isinstance(self.store, MemoryStore):
            self.store.purge_here(aoi_id)


def in_memory(
    memory: int,
    upstream: UpstreamOptions,
    teams: Mapping[str, TeamOptions],
    *,
    purge_others: Callable[[str | None], Awaitable[None]] | None,
    clock: Clock,
    observe: Observe,
) -> Backing:
    """This process alone, with so many bytes of `memory`; `purge_others` purges those that serve with it."""
    store = MemoryStore(memory, clock, observe, purge_others)
    gate = Gate(upstream, NoReplicas(), clock=clock, observe=observe)
    return Backing(store, store.seals, Alone(clock), gate, Budgets(teams, None, clock, observe))


def around_redis(
    url: str,
    memory: int,
    cache: CacheOptions,
    upstream: UpstreamOptions,
    teams: Mapping[str, TeamOptions],
    *,
    scope: str,
    clock: Clock,
    observe: Observe,
) -> Backing:
    """Redis at `url`, with so many bytes of `memory` in front of it; `scope` names vendor and account."""
    connections = Connections()
    client = connect(url, cache.redis_timeout, connections)
    calls = RedisCalls(client, timeout=cache.redis_timeout, clock=clock, observe=observe)
    far = RedisStore(calls, connections, prefix=cache.key_prefix, clock=clock, observe=observe)
    word = WordOfRedis(calls, far, clock)
    near = Shelves(memory, observe)
    store = TieredStore(near, far, word, max_age=cache.memory_max_age, clock=clock, observe=observe)
    leases = Leases(calls.run, prefix=far.prefix, clock=clock)
    pause = SharedPause(calls, prefix=far.prefix, scope=scope, clock=clock)
    gate = Gate(upstream, pause, clock=clock, observe=observe)
    pause.listener = gate.hear
    budgets = Budgets(teams, SharedBudgets(calls, prefix=far.prefix), clock, observe)
    listeners = {far.channel: store.hear, leases.channel: leases.hear, pause.channel: pause.hear}
    listening = partial(word.run, listeners, store.upset, pause.look)
    return Backing(store, store.seals, leases, gate, budgets, listening)
