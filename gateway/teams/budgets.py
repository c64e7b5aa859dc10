"""Budgets of teams over all replicas: requests per second, and requests to the vendor per second.

`core.shared_bucket` decides; this module does the waiting. A request that may have to be refused waits for one round
trip to Redis; one of a team that is far from its limit is reported afterwards. Requests that wait at the same time
share a command.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from gateway.config.options import TeamOptions
from gateway.core.clock import Clock
from gateway.core.errors import LimitReached, StoreDown
from gateway.core.shared_bucket import REPORT_SECONDS, SettlementReply, SettlementReport, SharedBucketView
from gateway.core.token_bucket import TokenBucket

# Commands under way for one budget. Redis may be tens of milliseconds away, and a request should not wait twice.
_MOST_COMMANDS = 4
# Seconds between attempts to report while Redis does not answer. No request waits for these.
_RETRY_SECONDS = 0.1

BudgetName = Literal["requests", "misses"]


class SharedBudgets(Protocol):
    """Buckets that all replicas take from."""

    async def settle(
        self, name: str, report: SettlementReport, usual: float, late: Callable[[], None]
    ) -> SettlementReply:
        """Charge what was spent, and take up to what is wanted. Raises StoreDown.

        Calls `late` when the answer takes much longer than is `usual`, in seconds.
        """
        ...


@dataclass(frozen=True, slots=True)
class Limit:
    """`rate` a second on average, `burst` at once."""

    rate: float
    burst: float


class Budgets:
    """The budgets of all teams. `shared` is None where each process counts for itself."""

    def __init__(self, teams: Mapping[str, TeamOptions], shared: SharedBudgets | None, clock: Clock) -> None:
        self._shared = shared
        self._clock = clock
        self._requests: dict[str, _Budget] = {}
        self._misses: dict[str, _Budget] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.adopt(teams)

    def adopt(self, teams: Mapping[str, TeamOptions]) -> None:
        """Use the budgets of these teams from now on. What a team has used remains used."""
        requests, misses = self._requests, self._misses
        self._requests, self._misses = {}, {}
        for name, team in teams.items():
            if team.rate is not None:
                allowance = Limit(team.rate, team.burst or math.ceil(team.rate))
                self._requests[name] = self._adopted(requests.get(name), f"{{{name}}}:requests", allowance)
            if team.miss_rate is not None:
                allowance = Limit(team.miss_rate, team.miss_burst or math.ceil(team.miss_rate))
                self._misses[name] = self._adopted(misses.get(name), f"{{{name}}}:misses", allowance, exact=True)

    async def request(self, team: str) -> None:
        """Count a request. Raises LimitReached."""
        budget = self._requests.get(team)
        if budget is not None and not budget.take_at_once():
            await self._take(budget, team, "requests")

    def taker(self, team: str) -> Callable[[], bool] | None:
        """Return what counts a request of a team without waiting, valid until the next `adopt`; None: not limited.

        What it does not count must be counted with `request`.
        """
        budget = self._requests.get(team)
        return None if budget is None else budget.take_at_once

    async def miss(self, team: str) -> None:
        """Count a request that is about to be sent to the vendor. Raises LimitReached."""
        budget = self._misses.get(team)
        if budget is not None:
            await self._take(budget, team, "misses")

    def refund_miss(self, team: str) -> None:
        """Return the token of a request that was not sent to the vendor after all."""
        budget = self._misses.get(team)
        if budget is not None:
            budget.give_back()

    def may_miss(self, team: str) -> bool:
        """Return whether a miss might be admitted, without asking Redis."""
        budget = self._misses.get(team)
        return budget is None or budget.refusal() is None

    async def close(self) -> None:
        """End the commands under way."""
        for budget in (*self._requests.values(), *self._misses.values()):
            budget.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _adopted(self, budget: _Budget | None, name: str, allowance: Limit, *, exact: bool = False) -> _Budget:
        if budget is None:
            return _Budget(name, allowance, self._shared, self._clock, self._tasks, exact=exact)
        budget.retune(allowance)
        return budget

    @staticmethod
    async def _take(budget: _Budget, team: str, name: BudgetName) -> None:
        wait = await budget.take()
        if wait is not None:
            raise LimitReached(team, name, limit=math.floor(budget.burst), retry_after=wait)


class _Budget:
    """One budget of one team."""

    def __init__(
        self,
        name: str,
        allowance: Limit,
        shared: SharedBudgets | None,
        clock: Clock,
        tasks: set[asyncio.Task[None]],
        *,
        exact: bool,
    ) -> None:
        self._name = name
        self._shared = shared
        self._clock = clock
        self._tasks = tasks
        self._view = SharedBucketView(TokenBucket.full(allowance.rate, allowance.burst, clock.monotonic()), exact)
        self._waiting: list[asyncio.Future[float | None]] = []
        self._commands = 0
        self._alone = shared is None
        self._late = False  # no answer came in time, and none since
        self._retry_at = 0.0
        self._reporting: asyncio.Handle | None = None
        self._urgent = False

    @property
    def burst(self) -> float:
        return self._view.own.burst

    def retune(self, allowance: Limit) -> None:
        """Change rate and burst."""
        own = self._view.own
        if (allowance.rate, allowance.burst) != (own.rate, own.burst):
            self._view.retune(allowance.rate, allowance.burst, self._clock.monotonic())

    def take_at_once(self) -> bool:
        """Take a token if that can be decided without waiting. False: `take` decides; nothing was counted."""
        now = self._clock.monotonic()
        if self._alone:
            self._retry(now)
            return self._view.own.take(now) is None
        if self._late:
            return self._take_late(now) is None
        if not self._view.admit(now):
            return False
        self._report(urgent=2 * self._view.unreported > self._view.ahead)
        return True

    async def take(self) -> float | None:
        """Take a token. Return None, or the seconds until there is one."""
        now = self._clock.monotonic()
        if self._alone:
            self._retry(now)
            return self._view.own.take(now)
        if self._late:
            return self._take_late(now)
        wait = self._view.refusal(now)
        if wait is not None:
            return wait
        waiter: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._report(urgent=True)
        return await waiter

    def give_back(self) -> None:
        """Return a token."""
        now = self._clock.monotonic()
        if self._alone:
            self._view.own.charge(-1, now)
        else:
            self._view.give_back(now)
            self._report(urgent=False)

    def refusal(self) -> float | None:
        """Return the seconds until there is a token; None where there may be one now."""
        now = self._clock.monotonic()
        return (self._view.own.wait(now) or None) if self._alone or self._late else self._view.refusal(now)

    def close(self) -> None:
        """Report nothing any more."""
        if self._reporting is not None:
            self._reporting.cancel()

    def _take_late(self, now: float) -> float | None:
        """Take a token while Redis is late. Return None, or the seconds until there is one."""
        wait = self._view.admit_late(now)
        if wait is None:
            self._report(urgent=False)
        return wait

    def _retry(self, now: float) -> None:
        """While Redis does not answer, ask it now and then."""
        if self._shared is not None and now >= self._retry_at and not self._commands:
            self._retry_at = now + _RETRY_SECONDS
            self._send(self._shared)

    def _report(self, *, urgent: bool) -> None:
        """Ask Redis soon: at the end of this turn of the loop if it is urgent, so that requests share a command."""
        if self._reporting is not None:
            if self._urgent or not urgent:
                return
            self._reporting.cancel()
        loop = asyncio.get_running_loop()
        self._urgent = urgent
        self._reporting = loop.call_soon(self._due) if urgent else loop.call_later(REPORT_SECONDS, self._due)

    def _due(self) -> None:
        self._reporting = None
        if self._shared is not None and self._commands < _MOST_COMMANDS and (self._waiting or self._view.unreported):
            self._send(self._shared)

    def _send(self, shared: SharedBudgets) -> None:
        waiters, self._waiting = [waiter for waiter in self._waiting if not waiter.done()], []
        report = self._view.report(len(waiters), self._clock.monotonic())
        self._commands += 1
        task = asyncio.create_task(self._settle(shared, report, waiters))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(
        self, shared: SharedBudgets, report: SettlementReport, waiters: list[asyncio.Future[float | None]]
    ) -> None:
        sent = self._clock.monotonic()
        late = False

        def decide_late() -> None:
            nonlocal late
            late = True
            now = self._clock.monotonic()
            if not (self._late or self._alone):
                self._late = True
                self._view.fall_back(now)
            # Those who wait for their turn to ask would wait even longer.
            waiting, self._waiting = self._waiting, []
            _decide([*waiters, *waiting], partial(self._view.admit_late, now))

        try:
            answer = await shared.settle(self._name, report, self._view.usual_trip, decide_late)
        except BaseException as error:
            now = self._clock.monotonic()
            self._view.failed(report, now)
            self._alone, self._late, self._retry_at = True, False, now + _RETRY_SECONDS
            _decide(waiters, partial(self._view.own.take, now))
            if not isinstance(error, StoreDown):
                raise
        else:
            self._alone = self._late = False
            now = self._clock.monotonic()
            self._view.answered(report, answer, sent, now, late=late)
            granted = iter([None] * answer.granted)
            _decide(waiters, lambda: next(granted, self._view.wait(now)))
        finally:
            self._commands -= 1
            if self._waiting or self._view.unreported:
                self._report(urgent=bool(self._waiting))


def _decide(waiters: list[asyncio.Future[float | None]], take: Callable[[], float | None]) -> None:
    for waiter in waiters:
        if not waiter.done():  # its client may have left, or it was decided before
            waiter.set_result(take())
