"""What a gateway stands on: memory alone, or Redis behind it (`redis_backing`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.config.options import TeamOptions, UpstreamOptions
from gateway.core.clock import Clock
from gateway.core.events import Observe
from gateway.core.validity_token import Seals
from gateway.storage.base import Store
from gateway.storage.memory import MemoryStore
from gateway.storage.redis.leases import Alone, Turns
from gateway.teams.budgets import Budgets
from gateway.upstream.guard import Gate, NoReplicas


@dataclass(frozen=True, slots=True)
class Backing:
    """Where pages are kept and who agrees on what.

    `tell` tells how much memory holds, `listening` is a task that brings word of other replicas. `following` is a task
    that reads `cache.url_file` again; `adopt_url` uses the user and password of another URL of the same store.
    """

    store: Store
    seals: Seals
    turns: Turns
    gate: Gate
    budgets: Budgets
    tell: Callable[[], None]
    listening: Callable[[], Coroutine[Any, Any, None]] | None = None
    following: Callable[[], Coroutine[Any, Any, None]] | None = None
    adopt_url: Callable[[str], bool] | None = None

    def purge_here(self, aoi_id: str | None, soft: bool) -> None:
        """Purge what another process of this gateway has purged. Where there is Redis, its message does that."""
        if isinstance(self.store, MemoryStore):
            self.store.purge_here(aoi_id, soft=soft)


def in_memory(
    memory: int,
    upstream: UpstreamOptions,
    teams: Mapping[str, TeamOptions],
    *,
    purge_others: Callable[[str | None, bool], Awaitable[None]] | None,
    clock: Clock,
    observe: Observe,
) -> Backing:
    """This process alone, with so many bytes of `memory`; `purge_others` purges those that serve with it."""
    store = MemoryStore(memory, clock, observe, purge_others)
    gate = Gate(upstream, NoReplicas(), clock=clock, observe=observe)
    return Backing(store, store.seals, Alone(clock), gate, Budgets(teams, None, clock), store.tell)
