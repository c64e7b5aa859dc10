"""The store and the shared state of a gateway: in memory, or in Redis (`redis_backend`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.config.options import TeamOptions, UpstreamOptions
from gateway.core.clock import Clock
from gateway.core.events import Emit
from gateway.core.validity_token import ValidityTokens
from gateway.storage.base import Store
from gateway.storage.memory import MemoryStore
from gateway.storage.redis.leases import FetchLeases, LocalLeases
from gateway.teams.budgets import Budgets
from gateway.upstream.guard import LocalPause, UpstreamGuard


@dataclass(frozen=True, slots=True)
class Backends:
    """Where pages are kept and who agrees on what.

    `tell` tells how much memory holds, `listening` is a task that brings word of other replicas. `following` is a task
    that reads `cache.url_file` again; `adopt_url` uses the user and password of another URL of the same store.
    """

    store: Store
    validity_tokens: ValidityTokens
    leases: FetchLeases
    guard: UpstreamGuard
    budgets: Budgets
    flush: Callable[[], None]
    listening: Callable[[], Coroutine[Any, Any, None]] | None = None
    following: Callable[[], Coroutine[Any, Any, None]] | None = None
    adopt_url: Callable[[str], bool] | None = None

    def purge_local(self, aoi_id: str | None, soft: bool) -> None:
        """Purge what another process of this gateway has purged. Where there is Redis, its message does that."""
        if isinstance(self.store, MemoryStore):
            self.store.purge_local(aoi_id, soft=soft)


def memory_backends(
    memory: int,
    upstream: UpstreamOptions,
    teams: Mapping[str, TeamOptions],
    *,
    purge_others: Callable[[str | None, bool], Awaitable[None]] | None,
    clock: Clock,
    emit: Emit,
) -> Backends:
    """This process alone, with so many bytes of `memory`; `purge_others` purges those that serve with it."""
    store = MemoryStore(memory, clock, emit, purge_others)
    guard = UpstreamGuard(upstream, LocalPause(), clock=clock, emit=emit)
    return Backends(store, store.validity_tokens, LocalLeases(clock), guard, Budgets(teams, None, clock), store.flush)
