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
