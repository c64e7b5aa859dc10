"""Schedules of faults that were found, by the simulation or in operation, and must not come back."""

from __future__ import annotations

from typing import Any

from simulation.schedule import Event, Schedule


def _run(*events: Event, seed: int = 1, skews: tuple[float, ...] = (0.0, 0.0), redis_skew: float = 0.0) -> Schedule:
    return Schedule(seed, skews, redis_skew, tuple(sorted(events, key=lambda event: event.at)))


def _ask(at: float, replica: int, offset: int = 0, limit: int = 10, **what: Any) -> Event:
    return Event(at, "request", {"replica": replica, "aoi": "a", "offset": offset, "limit": limit, **what})


def _purge(at: float, replica: int, **what: Any) -> Event:
    return Event(at, "purge", {"replica": replica, **(what or {"aoi": "a"})})


def _cut(at: float, replica: int, how: str = "end") -> Event:
    return Event(at, "cut", {"replica": replica, "which": "pubsub", "how": how})


def _hang(at: float, seconds: float) -> Event:
    return Event(at, "hang redis", {"seconds": seconds})


def _stall(at: float, replica: int, seconds: float, which: str = "pubsub", *, new: bool = False) -> Event:
    return Event(at, "stall", {"replica": replica, "which": which, "seconds": seconds, "new": new})


def _vendor(at: float, fault: str, seconds: float) -> Event:
    return Event(at, "vendor", {"fault": fault, "seconds": seconds})


def _kill(at: float, seconds: float, memory: str = "empty") -> Event:
    return Event(at, "kill redis", {"seconds": seconds, "memory": memory})


def _change(at: float, how: str) -> Event:
    return Event(at, "change", {"aoi": "a", "how": how})


def _limits(at: float, most: int, past_end: str = "empty") -> Event:
    return Event(at, "limits", {"most": most, "past_end": past_end})


def _restart(at: float, replica: int, skew: float) -> Event:
    return Event(at, "restart", {"replica": replica, "skew": skew})


def _fail_over(at: float, clock: float) -> Event:
    return Event(at, "failover", {"loses": 0.1, "clock": clock, "old": 0.0})


FOUND: dict[str, Schedule] = {
    "a directory whose dates are ahead is replaced by one that receivers take for newer": _run(
        Event(1.5, "redis clock", {"by": 30.0}),
        _restart(1.55, 1, 0.0),
        _ask(2.0, 1),
        _ask(2.0, 1, 10),
        _change(3.9, "gone"),
        _ask(5.0, 0),
        _ask(5.1, 1),
    ),
    "a purge is missed while the subscription is cut, and Redis dies after a new one": _run(
        _ask(1.0, 0), _cut(2.0, 0), _purge(2.02, 1), _kill(4.0, 4.0), _ask(4.6, 0), _ask(5.0, 0), _ask(6.5, 0)
    ),
    "a purge of everything is missed in the same way": _run(
        _ask(1.0, 0), _cut(2.0, 0), _purge(2.02, 1, all=True), _kill(4.0, 4.0), _ask(4.6, 0), _ask(5.0, 0)
    ),
    "one fetch while Redis hangs makes old pages of its listing valid again": _run(
        _ask(1.0, 0), _ask(1.1, 0, 10), _cut(2.0, 0), _purge(2.02, 1), _hang(2.6, 5.0), _ask(5.2, 0, 20),
        _ask(5.5, 0), _ask(5.6, 0, 10), _ask(5.7, 0),
    ),
    "a message that crosses the storing of a page keeps an ended generation": _run(
        Event(0.0, "spikes", {"share": 0.1}),
        _ask(2.4206, 1, 40, 10),
        _ask(2.5125, 0, 10, 10),
        _ask(2.7569, 1, 0, 30),
        _ask(2.8553, 0, 5, 10, leaves=0.021),
        _ask(3.1034, 0, 15, 20, leaves=0.0302),
        _ask(3.4717, 0, 0, 10, leaves=0.0045),
        _change(3.5034, "slip"),
        _ask(3.512, 0, 0, 30),
        _ask(3.8554, 0, 3, 4),
        seed=47, skews=(0.0, 3600.0), redis_skew=-1800.0,
    ),
    "a replica's clock is an hour ahead of Redis' and of the others'": _run(
        _restart(1.0, 1, 3600.0), _ask(1.001, 1), _ask(2.0, 0), _ask(9.9, 0), _ask(10.0, 1)
    ),
    "a server with a clock that is an hour ahead takes over": _run(
        _ask(1.0, 0, 20), _fail_over(1.5, 3600.0), _restart(2.0, 1, 0.0), _ask(2.4, 1), _ask(2.8, 0), _ask(11.4, 0),
        _ask(11.5, 1)
    ),
    "a pause is announced by a replica whose clock is ten minutes ahead": _run(
        _restart(1.0, 1, 600.0), Event(0.9, "vendor", {"fault": "pause", "seconds": 0.5}), _ask(1.001, 1),
        _ask(8.0, 0, 20), _ask(8.2, 1, 20), _ask(9.0, 0, 20), seed=14,
    ),
    "a limit is learned from a page that ends at the total": _run(
        Event(0.5, "limits", {"most": 1000, "past_end": "empty", "left": True}), _ask(1.0, 0, 15, 20),
        _ask(1.1, 0, 0, 30), _ask(1.4, 0, 0, 20)
    ),
    "an empty page past the end is made up for a vendor that clamps": _run(
        _ask(1.0, 0, 40, 10), _ask(1.2, 0), _limits(1.5, 1000, "clamp"), _ask(2.0, 0, 50, 10), _ask(2.1, 0, 60, 10)
    ),
    "a window is cut by a limit that was corrected since": _run(
        _limits(0.5, 20), _ask(1.0, 0, 0, 25), _ask(1.2, 0, 15, 30), _ask(1.4, 0, 1, 25), _limits(1.5, 1000),
        Event(1.6, "request", {"replica": 0, "aoi": "b", "offset": 0, "limit": 26}), _ask(1.8, 0, 1, 25)
    ),
    "an answer is overtaken by a purge of everything": _run(
        Event(0.5, "slow", {"seconds": 0.5}), _ask(1.0, 0), _purge(1.02, 1, all=True), _ask(1.04, 0, 20)
    ),
    "two listings of one length share a name while Redis is away": _run(
        _kill(0.0, 4.0), _ask(0.6, 0), Event(0.7, "request", {"replica": 0, "aoi": "b", "offset": 0, "limit": 10})
    ),
    "two states share a name while two replicas cannot reach Redis": _run(
        _ask(1.0, 0), _ask(1.05, 1), _kill(1.5, 5.0), _change(2.0, "slip"), _ask(2.2, 0, 10), _change(2.5, "slip"),
        _ask(2.7, 1, 10), _ask(3.2, 0, 12, 5), _ask(3.3, 1, 12, 5),
    ),
    "Redis comes back with a state that this replica knows to have ended": _run(
        _ask(1.0, 0), _ask(1.1, 0, 10), _hang(1.5, 2.0), _change(1.8, "slip"), _ask(2.0, 0, 5, 10), _ask(4.6, 0),
        _ask(4.7, 0, 10), seed=3,
    ),
    "a vendor that clamps moves pages past the end": _run(
        _limits(0.5, 1000, "clamp"), _ask(1.0, 0, 40), _change(1.5, "slip"), _ask(2.0, 0, 50)
    ),
    "a soft purge is missed while the subscription is cut": _run(
        _ask(1.0, 0), _cut(2.0, 0), _purge(2.02, 1, aoi="a", soft=True), _kill(4.0, 4.0), _ask(4.6, 0), _ask(5.0, 0)
    ),
    "a list returns to an earlier total after a replica that Redis left alone saw it change": _run(
        _ask(1.0, 0), _hang(1.5, 1.0), _change(1.6, "shrink"), _ask(1.7, 1, 20), _change(1.9, "grow"), _ask(3.5, 0, 40),
        _ask(3.7, 1)
    ),
    "a list returns to an earlier total before the page that shows it change is stored": _run(
        _ask(1.0, 0), Event(1.4, "spikes", {"share": 0.2}), _change(1.5, "shrink"), _ask(1.55, 1, 20),
        _change(1.65, "grow"), _ask(1.66, 0, 40), _ask(1.9, 1), _ask(2.3, 1), _ask(2.8, 1), seed=27,
    ),
    "a fetch from before Redis failed arrives after one that began later": _run(
        Event(0.9, "spikes", {"share": 0.2}), Event(0.95, "slow", {"seconds": 0.3}), _ask(1.0, 0, 0, 5),
        _hang(1.03, 3.0), _change(1.3, "grow"), _ask(1.31, 0, 0, 20), _ask(1.9, 0, 0, 5), _ask(2.4, 0, 0, 5), seed=256,
    ),
    "Redis dies after it has accepted another subscription, but before a session has begun": _run(
        _ask(1.0, 0), _cut(2.0, 0), _purge(2.1, 1), _kill(2.514, 4.0), _ask(4.6, 0), _ask(5.0, 0)
    ),
}  # fmt: skip

# One schedule for each rule of docs/architecture.md: without the rule, its invariant is violated.
RULES: dict[str, Schedule] = {
    "a purge message voids the copies of an AOI": _run(_ask(1.0, 0), _purge(2.0, 1), _ask(3.4, 0)),
    "a message of a soft purge of everything voids copies": _run(
        _ask(1.0, 0), _ask(1.1, 0, 10), _purge(2.0, 1, all=True, soft=True), _ask(3.4, 0), _ask(3.5, 0, 10)
    ),
    "a purge message voids what the fast path remembers": _run(
        *(_ask(1.0 + number / 10, 0) for number in range(5)),
        _purge(2.0, 1),
        *(_ask(3.4 + number / 10, 0) for number in range(3)),
    ),
    "a purge of everything voids what the fast path remembers": _run(
        *(_ask(1.0 + number / 10, 0) for number in range(5)),
        _purge(2.0, 1, all=True),
        *(_ask(3.4 + number / 10, 0) for number in range(3)),
    ),
    "a new session voids what the fast path remembers": _run(
        *(_ask(1.0 + number / 10, 0) for number in range(5)),
        _cut(2.0, 0),
        _purge(2.02, 1),
        *(_ask(4.4 + number / 10, 0) for number in range(3)),
    ),
    "a copy that was fetched in a gap is not valid in the next session": _run(
        _ask(1.0, 0), _cut(2.0, 0), _ask(2.15, 0, 10), _purge(2.3, 1), _ask(4.6, 0, 10), _ask(4.7, 0)
    ),
    "a session ends when PINGs are not answered": _run(
        _ask(1.0, 0), _ask(1.1, 0), _stall(1.5, 0, 6.0), _purge(2.0, 1), _ask(4.2, 0), _ask(4.3, 0), _ask(6.0, 0)
    ),
    "copies end some time after the last session while Redis cannot be reached": _run(
        _ask(1.5, 0),
        _ask(1.6, 0, 10),
        _stall(2.0, 0, 6.0, "all", new=True),
        _purge(2.1, 1),
        _ask(4.5, 0),
        _ask(4.6, 0, 10),
        _ask(5.5, 0),
        _ask(6.5, 0),
    ),
    "copies end some time after the last session while Redis hangs": _run(
        _ask(1.5, 0), _cut(2.0, 0), _purge(2.02, 1), _hang(2.2, 6.0), _ask(4.6, 0), _ask(5.2, 0), _ask(6.0, 0)
    ),
    "copies end some time after the connections were reset while Redis cannot be reached": _run(
        _ask(1.5, 0),
        _stall(1.9, 0, 6.0, "all", new=True),
        _cut(2.0, 0, "reset"),
        _purge(2.1, 1),
        _ask(4.6, 0),
        _ask(5.5, 0),
    ),
    "a page that was read while a purge was under way is not served": _run(
        _ask(1.0, 1), _hang(2.0, 0.045), _ask(2.002, 0), _purge(2.006, 1), seed=2
    ),
    "a soft purge and a read cross": _run(
        _ask(1.0, 1), _hang(2.0, 0.045), _ask(2.002, 0), _purge(2.006, 1, aoi="a", soft=True), seed=2
    ),
    "a page is of the purged epoch of everything, and that of its AOI stands": _run(
        _ask(1.0, 0), _ask(1.1, 1, 10), _purge(2.0, 1, all=True), _ask(3.4, 1), _ask(3.5, 0), _ask(3.6, 1, 10)
    ),
    "a page of before a purge is no fallback": _run(
        _ask(1.0, 0), _ask(1.1, 1), _purge(2.0, 1), _vendor(2.1, "error", 5.0), _ask(3.4, 0), _ask(3.6, 1)
    ),
    "a page of before a soft purge is a fallback, and no hit": _run(
        _ask(1.0, 0),
        _ask(1.1, 1),
        _purge(2.0, 1, aoi="a", soft=True),
        _vendor(2.1, "error", 2.0),
        _ask(3.4, 0),
        _ask(3.6, 1),
        _ask(5.5, 0),
        _ask(5.6, 1),
    ),
    "a page is stored during a purge of its AOI": _run(
        Event(0.5, "slow", {"seconds": 0.6}), _ask(1.0, 0), _purge(1.05, 1), _ask(2.5, 0), _ask(2.6, 1), _ask(3.0, 1)
    ),
    "a page is stored during a purge of everything": _run(
        Event(0.5, "slow", {"seconds": 0.6}),
        _ask(1.0, 0),
        _purge(1.05, 1, all=True),
        _ask(2.5, 0),
        _ask(2.6, 1),
        _ask(3.0, 1),
    ),
    "nobody joins a fetch from before a purge": _run(
        Event(0.5, "slow", {"seconds": 0.8}), _ask(1.0, 0), _purge(1.05, 0), _ask(1.1, 0), _ask(1.12, 1), seed=3
    ),
    "nobody joins a fetch from before a purge while Redis is away": _run(
        _kill(0.5, 0.4), Event(0.5, "slow", {"seconds": 0.8}), _ask(0.9, 0), _purge(1.4, 0), _ask(1.7, 0), seed=3
    ),
    "a restarted Redis has forgotten a purge": _run(
        _ask(1.0, 0),
        _ask(1.1, 1),
        _purge(3.5, 1),
        _kill(3.7, 0.3, "dump"),
        _ask(4.9, 0),
        _ask(5.1, 1),
        _ask(5.3, 0),
        _ask(6.0, 1),
    ),
    "a server that took over has forgotten a purge": _run(
        _ask(1.0, 0),
        _ask(1.1, 1),
        _purge(2.0, 1),
        Event(2.1, "failover", {"loses": 0.5, "clock": 0.0, "old": 0.0}),
        _ask(3.3, 0),
        _ask(3.5, 1),
        _ask(4.4, 0),
        _ask(4.6, 1),
    ),
    "the pub/sub connection stays at the server that was replaced": _run(
        _ask(1.0, 0),
        _ask(1.1, 1),
        Event(2.0, "failover", {"loses": 0.0, "clock": 0.0, "old": 5.0}),
        _purge(2.5, 1),
        _ask(4.6, 0),
        _ask(4.7, 1),
        _ask(5.0, 0),
    ),
    "everything in Redis is lost, with the tokens": _run(
        _ask(1.0, 0),
        _purge(1.5, 1),
        _ask(1.6, 0),
        Event(2.0, "empty redis", {}),
        _purge(2.2, 1),
        _ask(3.4, 0),
        _ask(3.6, 1),
    ),
    "the clock of Redis is set back": _run(
        _ask(1.0, 0),
        _ask(9.0, 0, 10),
        Event(9.5, "redis clock", {"by": -3600.0}),
        _ask(10.5, 0, 20),
        _ask(11.0, 0),
        _ask(14.0, 1),
        _ask(18.0, 0, 10),
        _ask(19.0, 0, 20),
        _ask(19.5, 1, 20),
    ),
    "the clock of Redis is set forward and back": _run(
        _ask(1.0, 0),
        Event(1.5, "redis clock", {"by": 3600.0}),
        _restart(2.0, 1, 0.0),
        _ask(3.0, 1),
        _ask(3.5, 0),
        Event(4.0, "redis clock", {"by": -3600.0}),
        _restart(4.5, 1, 0.0),
        _ask(5.5, 1),
        _ask(11.5, 1),
        _ask(14.0, 0),
        _ask(15.5, 1),
    ),
    "a page that was fetched alone gives way to one that began later": _run(
        _ask(1.0, 0),
        _hang(1.5, 1.0),
        _change(1.6, "slip"),
        _ask(1.7, 0, 5, 10),
        _ask(2.0, 0),
        _ask(3.4, 0),
        _ask(3.6, 1),
        _ask(3.8, 0),
    ),
    "a list slips while Redis is away, and both replicas fetch": _run(
        _ask(1.0, 0),
        _ask(1.05, 1),
        _ask(1.1, 0, 10),
        _ask(1.15, 1, 10),
        _kill(1.5, 2.0),
        _change(1.8, "slip"),
        _ask(2.0, 0),
        _ask(2.1, 0, 10),
        _ask(2.2, 1, 10),
        _ask(2.3, 1),
        _ask(4.6, 0),
        _ask(4.7, 1),
        _ask(4.8, 0, 10),
        _ask(4.9, 1, 10),
    ),
    "an order is contradicted by a page that overlaps": _run(
        _ask(1.0, 0, 0, 10),
        _ask(1.1, 0, 10, 10),
        _ask(1.2, 1, 0, 10),
        _change(1.5, "slip"),
        _ask(1.7, 0, 5, 10),
        _ask(1.9, 0),
        _ask(2.0, 0, 10),
        _ask(3.4, 1),
        _ask(3.5, 1, 10),
    ),
    "a total is contradicted by any page": _run(
        _ask(1.0, 0, 0, 10),
        _ask(1.2, 1, 0, 10),
        _change(1.5, "grow"),
        _ask(1.7, 0, 20, 10),
        _ask(1.9, 0),
        _ask(3.2, 1),
        _ask(3.4, 0),
    ),
    "a list that is gone ends its generation": _run(
        _ask(1.0, 0), _ask(1.1, 1), _change(1.5, "gone"), _ask(1.7, 0, 20), _ask(1.9, 0), _ask(3.2, 1)
    ),
    "commands reach the server that took over, and messages come from the one before": _run(
        _ask(1.0, 0),
        Event(2.0, "failover", {"loses": 0.0, "clock": 0.0, "old": 8.0}),
        _ask(2.8, 0),
        _ask(2.9, 0, 10),
        _purge(3.2, 1),
        _ask(5.6, 0),
        _ask(5.8, 0, 10),
    ),
    "Redis dies while nothing arrives on the pub/sub connection": _run(
        _ask(1.5, 0), _stall(1.9, 0, 8.0), _purge(2.1, 1), _kill(2.3, 6.0), _ask(4.8, 0), _ask(5.5, 0)
    ),
    "Redis was down for all, and comes back for others": _run(
        _ask(1.8, 0), _kill(2.0, 1.0), _stall(2.8, 0, 6.0, "all", new=True), _purge(4.2, 1), _ask(6.6, 0), _ask(7.0, 0)
    ),
    "everything is purged just before a page is stored": _run(
        Event(0.5, "slow", {"seconds": 0.6}), _ask(1.0, 0), _purge(1.43, 1, all=True), _ask(2.6, 0), _ask(2.7, 1)
    ),
    "a page of before a purge is no fallback when Redis has gone": _run(
        _ask(1.0, 0),
        _ask(1.1, 1),
        _purge(2.0, 1),
        _kill(3.1, 3.0),
        _vendor(3.1, "error", 3.0),
        _ask(3.5, 0),
        _ask(3.9, 1),
    ),
    "nobody joins a fetch from before a purge while Redis is left alone": _run(
        Event(0.5, "slow", {"seconds": 0.8}), _hang(2.0, 0.07), _ask(2.002, 0), _purge(2.1, 1), _ask(2.2, 0), seed=3
    ),
    "the clock is set while a page is fetched": _run(
        Event(9.0, "redis clock", {"by": -3600.0}),
        Event(9.0, "slow", {"seconds": 0.9}),
        _ask(9.95, 0),
        _ask(10.0, 1, 10),
        _ask(19.5, 0),
        _ask(19.6, 1, 10),
        _ask(21.0, 0),
    ),
}

# What some of them have to be answered with in the end, besides that nothing wrong is served.
EXPECTED: dict[str, tuple[Schedule, str]] = {
    "a page of before a soft purge is a fallback from Redis": (
        _run(
            _ask(1.0, 0),
            _purge(2.0, 1, aoi="a", soft=True),
            _restart(2.5, 0, 0.0),
            _vendor(2.5, "error", 3.0),
            _ask(3.5, 0),
        ),
        "fallback",
    ),
    "a page of before a soft purge is a fallback from memory while Redis is away": (
        _run(
            _ask(1.0, 0), _purge(2.0, 1, aoi="a", soft=True), _kill(2.5, 3.0), _vendor(2.5, "error", 3.0), _ask(3.5, 0)
        ),
        "fallback",
    ),
    "a page outlives memory_max_age while Redis is down for all": (
        _run(_ask(1.0, 0), _kill(1.5, 6.0), _ask(5.5, 0)),
        "hit",
    ),
    "a page that was fetched alone is stored when Redis is back": (
        _run(_kill(0.5, 1.5), _ask(1.0, 0), _ask(4.0, 0), _ask(4.5, 1)),
        "hit",
    ),
    "a window is cut from two pages that overlap": (_run(_ask(1.0, 0), _ask(1.2, 0, 9), _ask(1.6, 0, 5)), "window"),
}
