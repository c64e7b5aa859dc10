"""What happens in one run: requests, changes of the vendor's lists, faults and purges, all drawn from one seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

AOIS = ("a", "b")
SECONDS = 7.5
_WINDOWS = ((0, 10), (10, 10), (0, 5), (5, 10), (3, 4), (20, 10), (0, 20), (15, 20), (40, 10), (0, 30))
_CHANGES = ("grow", "grow", "grow in front", "shrink", "slip", "slip", "reorder", "gone", "settle")


@dataclass(frozen=True)
class Event:
    """Something that happens at a moment of the run, in seconds from its start."""

    at: float
    kind: str
    what: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        told = " ".join(f"{name}={value}" for name, value in self.what.items())
        return f"{self.at:7.3f}  {self.kind} {told}"


@dataclass(frozen=True)
class Schedule:
    """A run: how many replicas, how far their clocks and Redis' are off (seconds), and what happens."""

    seed: int
    skews: tuple[float, ...]
    redis_skew: float
    events: tuple[Event, ...]


def schedule(seed: int) -> Schedule:
    """Draw a run."""
    rng = random.Random(f"schedule {seed}")
    return _Drawing(rng).draw(seed)


class _Drawing:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.replicas = rng.choice((2, 2, 2, 3, 4))
        self.events: list[Event] = []

    def draw(self, seed: int) -> Schedule:
        rng = self.rng
        skews = tuple(rng.choice((0.0, 0.0, 0.0, 3600.0, -3600.0, 600.0)) for _ in range(self.replicas))
        incidents = [
            self.missed_purge, self.missed_purge, self.silent_purge, self.growth, self.growth, self.limits,
            self.failover, self.replacement, self.restart, self.partition, self.vendor_down, self.pause, self.loss,
            self.stopped_redis,            self.purge_race, self.clock,
        ]  # fmt: skip
        for _ in range(rng.choice((1, 2, 2, 3))):
            rng.choice(incidents)(rng.uniform(1.0, SECONDS - 5.0))
        if rng.random() < 0.6:
            rng.choice([self.ageing, self.ageing, self.softened, self.gone, self.gone, self.unstored, self.herd])(
                rng.uniform(0.5, 2.0)
            )
        for _ in range(rng.randrange(4, 14)):
            self.request(rng.uniform(0.3, SECONDS))
        for _ in range(rng.randrange(4)):
            self.add(rng.uniform(0.5, SECONDS), "change", aoi=rng.choice(AOIS), how=rng.choice(_CHANGES))
        if rng.random() < 0.3:
            self.add(0.0, "spikes", share=rng.choice((0.02, 0.1)))
        if rng.random() < 0.15:
            self.add(0.0, "kill redis", seconds=rng.uniform(0.5, 3.0), memory="empty")
        self.events.sort(key=lambda event: event.at)
        return Schedule(seed, skews, rng.choice((0.0, 0.0, 3600.0, -1800.0)), tuple(self.events))

    def add(self, at: float, kind: str, **what: Any) -> None:
        self.events.append(Event(round(at, 4), kind, what))

    def request(
        self, at: float, *, replica: int | None = None, aoi: str | None = None, page: int | None = None
    ) -> None:
        rng = self.rng
        if page is None:
            page = rng.choice((0, 0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9))
        offset, limit = _WINDOWS[page]
        what: dict[str, Any] = {"offset": offset, "limit": limit}
        if rng.random() < 0.06:
            what["leaves"] = round(rng.uniform(0.001, 0.05), 4)
        if rng.random() < 0.04:
            what["refresh"] = True
        replica = rng.randrange(self.replicas) if replica is None else replica
        self.add(at, "request", replica=replica, aoi=aoi or rng.choice(AOIS[:1] * 3 + AOIS[1:]), **what)

    def purge(self, at: float, *, replica: int, aoi: str) -> None:
        scope: dict[str, Any] = {"aoi": aoi} if self.rng.random() < 0.6 else {"all": True}
        if self.rng.random() < 0.25:
            scope["soft"] = True
        self.add(at, "purge", replica=replica, **scope)

    def two(self) -> tuple[int, int]:
        one, other = self.rng.sample(range(self.replicas), 2)
        return one, other

    # What makes the rarer decisions, beside whatever faults there are

    def ageing(self, at: float) -> None:
        """A page is asked for when it is in grace, and when it is no more and the vendor fails."""
        rng, one = self.rng, self.rng.randrange(self.replicas)
        self.request(at, replica=one, aoi="b", page=0)
        for _ in range(2):
            self.request(at + rng.uniform(3.1, 4.0), aoi="b", page=0)
        self.loses(at + rng.uniform(1.5, 4.0))
        failing = at + rng.uniform(2.5, 5.0)
        self.add(failing, "vendor", fault=rng.choice(("error", "reset", "hang")), seconds=2.0)
        for _ in range(3):
            self.request(failing + rng.uniform(0.1, 2.0), aoi=rng.choice(AOIS), page=0)

    def softened(self, at: float) -> None:
        """A page is purged softly, and the vendor fails."""
        rng, (one, other) = self.rng, self.two()
        self.loses(at)
        self.request(at + 1.0, replica=one, aoi="b", page=0)
        self.add(at + 1.4, "purge", replica=other, aoi="b", soft=True)
        self.add(at + 1.5, "vendor", fault=rng.choice(("error", "reset")), seconds=1.2)
        for _ in range(3):
            self.request(at + rng.uniform(1.5, 2.6), replica=rng.choice((one, other)), aoi="b", page=0)

    def loses(self, at: float) -> None:
        """Redis loses something, or a replica does."""
        rng, one = self.rng, self.rng.randrange(self.replicas)
        match rng.randrange(10):
            case 0:
                self.add(at, "empty redis")
            case 1:
                self.add(at, "evict", share=0.5)
            case 2:
                self.add(at, "full redis", seconds=1.0)
            case 3:
                self.add(at, "failover", loses=0.2, clock=0.0, old=0.0)
            case 4:
                self.add(at, "restart", replica=one, skew=0.0)
            case 5:
                self.add(at, "stall", replica=one, which="all", seconds=2.0, new=True)

    def gone(self, at: float) -> None:
        """A list is gone for a while."""
        rng = self.rng
        self.add(at, "change", aoi="b", how="gone")
        self.loses(at + rng.uniform(0.0, 2.0))
        self.add(at + 0.7, "vendor", fault=rng.choice(("hang", "pause")), seconds=1.0)
        for _ in range(6):
            self.request(at + rng.uniform(0.0, 3.5), aoi="b", page=rng.randrange(2))
        self.add(at + rng.uniform(2.0, 5.0), "change", aoi="b", how="grow")

    def unstored(self, at: float) -> None:
        """Fetches are overtaken by purges."""
        rng = self.rng
        self.add(at, "slow", seconds=rng.uniform(0.2, 0.6))
        for _ in range(3):
            moment = at + rng.uniform(0.0, 4.0)
            self.request(moment, replica=rng.randrange(self.replicas), aoi="b", page=rng.randrange(3))
            self.purge(moment + 0.05, replica=rng.randrange(self.replicas), aoi="b")

    def herd(self, at: float) -> None:
        """Several clients ask for one page at the same time."""
        rng, page = self.rng, self.rng.randrange(10)
        for number in range(3):
            for _ in range(3):
                self.request(at + number * 1.7 + rng.uniform(0.0, 0.01), aoi="b", page=page)

    # Incidents

    def missed_purge(self, at: float) -> None:
        """A subscription is cut, a purge is confirmed elsewhere, and Redis ends some time after that."""
        rng, (one, other) = self.rng, self.two()
        page = rng.randrange(3)
        self.request(at - 0.5, replica=one, aoi="a", page=page)
        if rng.random() < 0.5:
            self.request(at - 0.4, replica=one, aoi="a", page=page + 1)
        self.add(at, "cut", replica=one, which="pubsub", how=rng.choice(("end", "end", "reset")))
        self.purge(at + rng.uniform(0.0, 0.3), replica=other, aoi="a")
        later = at + rng.choice((rng.uniform(0.3, 1.0), rng.uniform(1.0, 4.0)))
        if rng.random() < 0.6:
            self.add(later, "kill redis", seconds=rng.uniform(1.0, 5.0), memory=rng.choice(("empty", "dump")))
        else:
            self.add(later, "hang redis", seconds=rng.uniform(1.0, 5.0))
        for _ in range(5):
            self.request(later + rng.uniform(0.2, 4.5), replica=one, aoi="a", page=rng.choice((page, page, page + 1)))

    def silent_purge(self, at: float) -> None:
        """Nothing arrives on a subscription any more, and a purge is confirmed elsewhere."""
        rng, (one, other) = self.rng, self.two()
        self.request(at - 0.3, replica=one, aoi="a", page=0)
        which = rng.choice(("pubsub", "all"))
        self.add(at, "stall", replica=one, which=which, seconds=rng.uniform(0.5, 5.0), new=rng.random() < 0.4)
        self.purge(at + rng.uniform(0.1, 1.0), replica=other, aoi="a")
        for _ in range(5):
            self.request(at + rng.uniform(0.5, 5.0), replica=one, aoi="a", page=rng.randrange(3))

    def growth(self, at: float) -> None:
        """A list changes while several replicas fetch its pages."""
        rng, (one, other) = self.rng, self.two()
        for number in range(rng.randrange(2, 5)):
            moment = at + number * 0.7
            self.add(moment, "change", aoi="a", how=rng.choice(_CHANGES[:-2]))
            for _ in range(3):
                self.request(moment + rng.uniform(-0.05, 0.06), replica=rng.choice((one, other)), aoi="a")
            self.request(moment + 0.3, replica=one, aoi="a")
            self.request(moment + 0.35, replica=other, aoi="a")

    def limits(self, at: float) -> None:
        """The vendor's limits change, or what it says past the end."""
        rng = self.rng
        self.add(
            max(0.0, at - 1), "limits", most=rng.choice((5, 15, 20, 25, 1000)), past_end=rng.choice(("empty", "clamp"))
        )
        self.add(at, "limits", most=rng.choice((5, 15, 25, 1000)), past_end=rng.choice(("empty", "clamp", "refuse")))
        for _ in range(8):
            self.request(at + rng.uniform(-1.0, 2.0), aoi="a", page=rng.randrange(10))
        one = rng.randrange(self.replicas)
        for moment in (at - 0.5, at + rng.uniform(2.6, 3.3)):
            self.request(moment, replica=one, aoi="b", page=0)

    def failover(self, at: float) -> None:
        """Another server takes over, with what it knows and with its own clock."""
        rng, (one, other) = self.rng, self.two()
        self.request(at - 0.4, replica=one, aoi="a", page=0)
        if rng.random() < 0.6:
            self.purge(at - rng.uniform(0.0, 0.4), replica=other, aoi="a")
        self.add(
            at, "failover", loses=rng.uniform(0.0, 1.0), clock=rng.choice((0.0, 3600.0, -3600.0, 500.0)),
            old=rng.choice((0.0, 0.0, 0.4, 0.9)),
        )  # fmt: skip
        self.purge(at + rng.uniform(0.1, 1.0), replica=other, aoi="a")
        for _ in range(5):
            self.request(at + rng.uniform(0.0, 3.0), aoi="a", page=rng.randrange(3))

    def replacement(self, at: float) -> None:
        """Redis is stopped, which serves old pages for a while, and a page is fetched meanwhile."""
        rng, (one, other) = self.rng, self.two()
        for page in (0, 1, 2):
            self.request(at - 0.6 + page * 0.1, replica=one, aoi="a", page=page)
        if rng.random() < 0.7:
            self.add(at - 0.1, "cut", replica=one, which="pubsub", how="end")
            self.purge(at, replica=other, aoi="a")
        self.add(at + 0.2, "hang redis", seconds=rng.uniform(3.0, 5.0))
        for _ in range(8):
            self.request(at + rng.uniform(0.3, 4.5), replica=one, aoi="a", page=rng.randrange(3))

    def restart(self, at: float) -> None:
        """A replica is killed and started again, with its clock wherever it is."""
        one = self.rng.randrange(self.replicas)
        self.add(at, "restart", replica=one, skew=self.rng.choice((0.0, 3600.0, -3600.0)))
        for soon in (0.001, 0.005, 0.02, 2.0):
            self.request(at + self.rng.uniform(0.0, soon), replica=one, aoi="a")

    def partition(self, at: float) -> None:
        """A replica and Redis lose each other."""
        rng, (one, other) = self.rng, self.two()
        self.add(at, "stall", replica=one, which="all", seconds=rng.uniform(1.0, 5.0), new=True)
        if rng.random() < 0.5:
            self.add(at + 0.5, "change", aoi="a", how=rng.choice(_CHANGES[:-2]))
        self.purge(at + rng.uniform(0.2, 2.0), replica=rng.choice((one, other)), aoi="a")
        for _ in range(6):
            self.request(at + rng.uniform(0.3, 5.0), replica=rng.choice((one, one, other)), aoi="a")

    def vendor_down(self, at: float) -> None:
        """The vendor fails."""
        rng = self.rng
        self.add(at, "vendor", fault=rng.choice(("hang", "error", "reset")), seconds=rng.uniform(0.5, 4.0))
        if rng.random() < 0.5:
            self.purge(at + rng.uniform(0.0, 1.0), replica=rng.randrange(self.replicas), aoi="a")
        if rng.random() < 0.3:
            self.add(at, "slow", seconds=rng.uniform(0.2, 1.5))
        for _ in range(5):
            self.request(at + rng.uniform(0.0, 3.0), aoi="a")

    def pause(self, at: float) -> None:
        """The vendor asks for a pause."""
        self.add(at, "vendor", fault="pause", seconds=self.rng.uniform(0.2, 1.0))
        for _ in range(8):
            self.request(at + self.rng.uniform(0.0, 5.0))

    def loss(self, at: float) -> None:
        """Redis forgets some keys, or all, or has no room."""
        rng = self.rng
        for _ in range(3):
            moment = at + rng.uniform(0.0, 2.0)
            match rng.randrange(4):
                case 0:
                    self.add(moment, "empty redis")
                case 1 | 2:
                    self.add(moment, "evict", share=rng.choice((0.2, 0.5)))
                case _:
                    self.add(moment, "full redis", seconds=rng.uniform(0.3, 1.5))
        if rng.random() < 0.5:
            self.purge(at + rng.uniform(0.0, 2.0), replica=rng.randrange(self.replicas), aoi="a")
        for _ in range(4):
            self.request(at + rng.uniform(0.0, 3.0), aoi="a")

    def stopped_redis(self, at: float) -> None:
        """Redis is stopped, or ends, while replicas fetch."""
        rng = self.rng
        if rng.random() < 0.5:
            self.add(at, "hang redis", seconds=rng.uniform(0.3, 5.0))
        else:
            self.add(at, "kill redis", seconds=rng.uniform(0.3, 5.0), memory=rng.choice(("empty", "dump")))
        self.add(at + 0.5, "change", aoi="a", how=rng.choice(_CHANGES))
        if rng.random() < 0.5:
            self.purge(at + rng.uniform(0.0, 2.0), replica=rng.randrange(self.replicas), aoi="a")
        for _ in range(6):
            self.request(at + rng.uniform(0.1, 6.0), aoi="a")

    def purge_race(self, at: float) -> None:
        """A purge meets fetches in flight and requests that come at the same moment."""
        rng = self.rng
        self.add(at - 0.2, "slow", seconds=rng.uniform(0.0, 0.5))
        for _ in range(6):
            self.request(at + rng.uniform(-0.2, 0.3), aoi="a", page=rng.randrange(3))
        self.purge(at, replica=rng.randrange(self.replicas), aoi="a")
        self.add(at + 0.01, "change", aoi="a", how=rng.choice(_CHANGES[:-1]))
        for _ in range(4):
            self.request(at + rng.uniform(0.3, 2.0), aoi="a", page=rng.randrange(3))

    def clock(self, at: float) -> None:
        """The clock of Redis' machine, or of a replica's, is set."""
        rng = self.rng
        self.add(at, "redis clock", by=rng.choice((3600.0, -3600.0, 30.0, -30.0)))
        for _ in range(5):
            self.request(at + rng.uniform(0.0, 4.0), aoi="a", page=rng.randrange(2))
