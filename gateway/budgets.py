"""What teams may use: requests, and requests that reach the vendor, per second over all replicas.

Misses are counted one by one, in Redis, because the vendor's answer takes longer than that anyway. Requests are
counted in batches that are fetched behind their back, so that a hit never waits for Redis; a process may overshoot by
one batch.
While Redis is down, and where there is none, each process counts for itself.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from gateway.clock import Clock
from gateway.core.bucket import Bucket
from gateway.core.errors import LimitReached, StoreDown
from gateway.core.facts import Observe, RateLimited
from gateway.core.options import TeamOptions

# A batch is what a team may use in so many seconds.
_BATCH_SECONDS = 0.1
# So long, in seconds, a process counts for itself before it asks Redis again.
_ALONE_SECONDS = 1.0

BudgetName = Literal["requests", "misses"]


class Taken(Protocol):
    """What came of taking tokens."""

    @property
    def tokens(self) -> int:
        """How many there were."""
        ...

    @property
    def wait(self) -> float:
        """Seconds until there is another one."""
        ...


class Shared(Protocol):
    """Buckets that all replicas take from."""

    async def take(self, name: str, rate: float, burst: float, wanted: int) -> Taken:
        """Take up to so many tokens. Raises StoreDown."""
        ...


@dataclass(frozen=True, slots=True)
class Allowance:
    """`rate` a second on average, `burst` at once."""

    rate: float
    burst: float


class Budgets:
    """The budgets of all teams; `shared` is None where nobody else counts."""

    def __init__(self, teams: Mapping[str, TeamOptions], shared: Shared | None, clock: Clock, observe: Observe) -> None:
        self._shared = shared
        self._clock = clock
        self._observe = observe
        self._requests: dict[str, _Requests] = {}
        self._misses: dict[str, _Misses] = {}
        self.adopt(teams)

    def adopt(self, teams: Mapping[str, TeamOptions]) -> None:
        """Go by these teams' budgets from now on. What did not change goes on where it was."""
        requests, misses = self._requests, self._misses
        self._requests, self._misses = {}, {}
        for name, team in teams.items():
            if team.rate is not None:
                allowance = Allowance(team.rate, team.burst or math.ceil(team.rate))
                self._requests[name] = _kept(requests.get(name), allowance) or _Requests(
                    f"{{{name}}}:requests", allowance, self._shared, self._clock
                )
            if team.miss_rate is not None:
                allowance = Allowance(team.miss_rate, team.miss_burst or math.ceil(team.miss_rate))
                self._misses[name] = _kept(misses.get(name), allowance) or _Misses(
                    f"{{{name}}}:misses", allowance, self._shared, self._clock
                )

    def request(self, team: str) -> None:
        """Count a request. Raises LimitReached."""
        budget = self._requests.get(team)
        if budget is not None:
            self._judge(team, "requests", budget.allowance, budget.take())

    def taker(self, team: str) -> Callable[[], float | None] | None:
        """What counts a request of a team until the next `adopt`: None, or the seconds until there is one more.

        None where requests are not counted.
        """
        budget = self._requests.get(team)
        return None if budget is None else budget.take

    async def miss(self, team: str) -> None:
        """Count a request that is about to reach the vendor. Raises LimitReached."""
        budget = self._misses.get(team)
        if budget is not None:
            self._judge(team, "misses", budget.allowance, await budget.take())

    async def close(self) -> None:
        """End what is being fetched."""
        for budget in self._requests.values():
            await budget.close()

    def _judge(self, team: str, name: BudgetName, allowance: Allowance, wait: float | None) -> None:
        if wait is not None:
            self._observe(RateLimited(team, name))
            raise LimitReached(team, name, limit=math.floor(allowance.burst), retry_after=wait)


_Budget = TypeVar("_Budget", "_Requests", "_Misses")


def _kept(budget: _Budget | None, allowance: Allowance) -> _Budget | None:
    return budget if budget is not None and budget.allowance == allowance else None


class _Misses:
    """One team's budget, counted exactly."""

    def __init__(self, name: str, allowance: Allowance, shared: Shared | None, clock: Clock) -> None:
        self.allowance = allowance
        self._name = name
        self._shared = shared
        self._clock = clock
        self._own = Bucket.full(allowance.rate, allowance.burst, clock.monotonic())

    async def take(self) -> float | None:
        """None when one more is allowed, else the seconds until it is."""
        if self._shared is not None:
            try:
                taken = await self._shared.take(self._name, self.allowance.rate, self.allowance.burst, 1)
            except StoreDown:
                pass
            else:
                return None if taken.tokens else taken.wait
        return self._own.take(self._clock.monotonic())


class _Requests:
    """One team's budget, counted in batches.

    `_left` is what was fetched and not used; below zero it is what was let through before Redis had answered.
    """

    def __init__(self, name: str, allowance: Allowance, shared: Shared | None, clock: Clock) -> None:
        self.allowance = allowance
        self._name = name
        self._shared = shared
        self._clock = clock
        self._batch = max(1, min(math.ceil(allowance.rate * _BATCH_SECONDS), math.floor(allowance.burst)))
        self._own = Bucket.full(allowance.rate, allowance.burst, clock.monotonic())
        self._left = 0
        self._empty_until = 0.0
        self._alone_until = 0.0
        self._fetching: asyncio.Task[None] | None = None

    def take(self) -> float | None:
        """None when one more is allowed, else the seconds until it is."""
        now = self._clock.monotonic()
        if self._shared is None or now < self._alone_until:
            return self._own.take(now)
        if self._left <= 0 and now < self._empty_until:
            return self._empty_until - now
        if self._left <= -self._batch:
            self._fetch(self._shared)
            return 1.0 / self.allowance.rate
        self._left -= 1
        if self._left < self._batch // 2 + 1:
            self._fetch(self._shared)
        return None

    async def close(self) -> None:
        """End what is being fetched."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _fetch(self, shared: Shared) -> None:
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fill(shared))

    async def _fill(self, shared: Shared) -> None:
        wanted = self._batch - self._left
        try:
            taken = await shared.take(self._name, self.allowance.rate, self.allowance.burst, wanted)
        except StoreDown:
            self._alone_until = self._clock.monotonic() + _ALONE_SECONDS
            return
        self._left += taken.tokens
        if taken.tokens < wanted:
            self._empty_until = self._clock.monotonic() + taken.wait
