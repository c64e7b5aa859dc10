"""What must hold of every answer, checked against what the simulation knows to be true.

The names of the checks are the invariants of docs/architecture.md.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gateway.storage.redis.store import InvalidationMessage
from simulation.vendor import Call, SimulatedVendor, page_body
from simulation.virtual import VirtualLoop

# What a gateway may decide: a fresh page, one cut from others, one in grace, a cached 404; a page that it fetched and
# stored, or could not store, or that another request fetched; an old page because the vendor fails; no page.
DECISIONS = ("hit", "window", "grace", "negative", "stored", "not stored", "collapsed", "fallback", "error")
# The lifetimes that the simulated gateways are configured with (see `world.FLAGS`), in seconds.
FRESH = {True: 6.0, False: 3.0}
NOT_FOUND = 3.0
GRACE = 2.0
KEEP = 20.0
MAX_AGE = 2.0
# A purge takes effect within so many seconds on a replica that receives messages.
HEARD = 1.0
# How long an answer of the vendor may take on its way.
_ON_ITS_WAY = 2.1
# For so long a fault counts as met by the decisions made after it.
_AFTER = 4.0
# A message of a purge may arrive so long after its answer, if Redis was stopped meanwhile.
_LATEST = 8.0

_EXPECTED_ERRORS = {
    (400, "not_found"), (502, "upstream_unreachable"), (503, "upstream_circuit_open"), (503, "upstream_error"),
    (503, "upstream_rate_limited"), (503, "overloaded"), (504, "upstream_timeout"), (502, "upstream_invalid"),
    (404, "not_found"), (503, "unavailable"),
}  # fmt: skip


class Violation(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant


@dataclass(frozen=True)
class Answer:
    """What a client of a replica got. Times are those of the loop; `sent` is when the replica sent the last of it."""

    replica: str
    aoi: str
    offset: int
    limit: int
    began: float
    sent: float
    ended: float
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def cache(self) -> str:
        """The Cache-Status, without the cache's name."""
        return self.headers.get("Cache-Status", "").removeprefix("pixxel-gateway; ")

    @property
    def is_hit(self) -> bool:
        """Whether it was served as fresh or in grace."""
        return self.cache.startswith("hit")

    @property
    def decision(self) -> str:
        """What the gateway decided: one of `DECISIONS`."""
        if self.status not in {200, 404} or not self.cache:
            return "error"
        if self.is_hit:
            if "ttl=-" in self.cache:
                return "grace"
            return "negative" if self.status == 404 else "window" if "window" in self.cache else "hit"
        if "stale-if-error" in self.cache:
            return "fallback"
        if "collapsed" in self.cache:
            return "collapsed"
        return "stored" if "stored" in self.cache else "not stored"

    def __str__(self) -> str:
        told = f"{self.replica} {self.aoi} {self.offset}+{self.limit}: {self.status} {self.cache}"
        return (
            f"{self.began - 1000:.3f}-{self.ended - 1000:.3f} {told} {self.generation} calls={sorted(set(self.calls))}"
        )

    @property
    def generation(self) -> str:
        """The name of the generation."""
        return self.headers.get("X-Listing-Generation", "")

    @property
    def document(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def calls(self) -> list[int]:
        """The vendor's calls that it was made of."""
        if self.status == 200:
            return [asset["call"] for asset in self.document["assets"]]
        found = re.search(rb'"message":\s*"call (\d+)"', self.body)
        return [int(found[1])] if found else []


@dataclass
class Purge:
    """A purge, of an AOI or (None) of everything."""

    aoi: str | None
    began: float
    ended: float
    soft: bool
    replica: str


@dataclass(frozen=True)
class _Heard:
    """A message that reached a replica, and the vendor's call that it tells of, where that is known for certain."""

    at: float
    message: InvalidationMessage
    call: Call | None


@dataclass
class _Generation:
    aoi: str
    total: int
    ids: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Fault:
    kind: str
    began: float
    ended: float
    replica: str | None


class Oracle:
    """Checks answers."""

    def __init__(self, loop: VirtualLoop, vendor: SimulatedVendor) -> None:
        self._loop = loop
        self._vendor = vendor
        self.began = 0.0
        self.purges: list[Purge] = []
        self.started: list[Purge] = []
        """Purges that were confirmed or not, or are under way."""
        self.faults: list[_Fault] = []
        self.limits: list[tuple[float, int]] = [(0.0, 1000)]
        self.met: Counter[tuple[str, str]] = Counter()
        self.decisions: Counter[str] = Counter()
        self.replayed = 0
        self._generations: dict[str, _Generation] = {}
        self._fetched: list[tuple[Answer, Call]] = []
        self._heard: dict[str, list[_Heard]] = {}

    def note(self, kind: str, began: float, ended: float, replica: str | None = None) -> None:
        """A fault, in seconds since the run began."""
        self.faults.append(_Fault(kind, began + self.began, ended + self.began, replica))

    def purging(self, aoi: str | None, began: float, *, soft: bool, replica: str) -> Purge:
        """A purge begins."""
        purge = Purge(aoi, began, float("inf"), soft, replica)
        self.started.append(purge)
        return purge

    def purged(self, purge: Purge, *, confirmed: bool) -> None:
        """A purge was answered."""
        purge.ended = self._loop.time()
        if confirmed:
            self.purges.append(purge)

    def heard(self, replica: str, message: InvalidationMessage) -> None:
        """A replica has received a message during a session."""
        now = self._loop.time()
        told: Call | None = None
        if message.page:
            found = [
                call for call in self._vendor.calls
                if (call.aoi_id, call.offset, call.limit) == (message.aoi_id, message.offset, message.limit)
            ]  # fmt: skip
            # Of several at the same time nobody knows which it was.
            if found and now - found[-1].answered < 1.0 and (len(found) < 2 or now - found[-2].answered > 2.0):
                told = found[-1]
        self._heard.setdefault(replica, []).append(_Heard(now, message, told))

    def check(self, answer: Answer) -> None:
        """Check an answer. Raises Violation."""
        self._count(answer)
        if (answer.status, _code(answer)) not in _EXPECTED_ERRORS and answer.status not in {200, 404}:
            raise Violation("errors", f"unexpected: {answer} {answer.body!r}")
        if answer.status != 200 and (answer.status != 404 or not answer.calls):
            self._check_pause(answer)
            return
        calls = [self._vendor.calls[number] for number in dict.fromkeys(answer.calls)]
        if answer.status == 200:
            self._check_bytes(answer, calls)
            self._check_generation(answer)
            self._check_limits(answer, calls)
        self._check_purges(answer, calls)
        self._check_lifetime(answer, calls)
        self._check_own_fetches(answer, calls)
        self._check_heard(answer, calls)
        if answer.decision in {"stored", "not stored"} and len(calls) == 1:
            self._fetched.append((answer, calls[0]))

    def _count(self, answer: Answer) -> None:
        decision = answer.decision
        self.decisions[decision] += 1
        for kind in {
            fault.kind for fault in self.faults
            if answer.began <= fault.ended + _AFTER and fault.began <= answer.ended
            and fault.replica in {None, answer.replica}
        }:  # fmt: skip
            self.met[kind, decision] += 1

    def _check_bytes(self, answer: Answer, calls: list[Call]) -> None:
        """A page is what the vendor sent, and a window what it would have sent."""
        document = answer.document
        told = document["pagination"]
        if not document["assets"] and "window" in answer.cache:
            raise Violation("windows", f"an empty page was made up: {answer}")
        for call in calls:
            if call.aoi_id != answer.aoi or call.ids is None or len(call.ids) != told["total"]:
                raise Violation("bytes", f"{answer} is made of {call}")
        assets = [
            self._vendor.calls[asset["call"]].asset(index)
            for index, asset in enumerate(document["assets"], start=told["offset"])
        ]  # fmt: skip
        if page_body(told["total"], told["offset"], told["limit"], assets) != answer.body:
            raise Violation("bytes", f"{answer} is no page of these calls")
        if assets and len(assets) != min(told["limit"], told["total"] - told["offset"]):
            raise Violation("bytes", f"{answer} is not whole")

    def _check_generation(self, answer: Answer) -> None:
        """Pages of one name never differ in `total`, nor in ids where they overlap."""
        document = answer.document
        told = document["pagination"]
        if not answer.generation:
            raise Violation("generations", f"{answer} has no generation")
        known = self._generations.setdefault(answer.generation, _Generation(answer.aoi, told["total"]))
        shown = {index: asset["id"] for index, asset in enumerate(document["assets"], start=told["offset"])}
        differ = [index for index, name in shown.items() if known.ids.get(index, name) != name]
        if known.aoi != answer.aoi or known.total != told["total"] or differ:
            raise Violation("generations", f"{answer} has the name of another state")
        known.ids.update(shown)

    def _check_limits(self, answer: Answer, calls: list[Call]) -> None:
        """A window has the limit that the vendor is known to print, by what this replica saw last."""
        if "window" not in answer.cache:
            return
        printed, since = answer.document["pagination"]["limit"], 0.0
        for other, call in self._fetched:
            whole = call.ids is not None and call.offset + len(call.page) < len(call.ids)
            relevant = call.limit == answer.limit or (call.printed == call.limit >= answer.limit)
            own = call.replica == answer.replica == other.replica
            if own and whole and relevant and other.ended <= answer.began:
                since = max(since, call.answered)
        most = [value for _, value in self.limits[:1]]
        for at, value in self.limits:
            most = [value] if at <= since else [*most, value]
        if printed not in {min(answer.limit, value) for value in most}:
            raise Violation("windows", f"{answer} was cut by a limit that the vendor has not: {printed}")
        if any(call.printed_offset != call.offset for call in calls):
            raise Violation("windows", f"{answer} was cut from a page that contradicts itself")

    def _check_purges(self, answer: Answer, calls: list[Call]) -> None:
        """Nothing from before a purge is served after it, nor as a hit after a soft purge."""
        for purge in self.purges:
            if purge.aoi not in {None, answer.aoi} or (purge.soft and not answer.is_hit):
                continue
            bound = purge.ended if purge.replica == answer.replica else self._effective(purge, answer.replica)
            if answer.began <= bound:
                continue
            before = [call for call in calls if call.began < purge.began]
            if before:
                kind = "soft purge" if purge.soft else "purge"
                when = f"purged {purge.began - 1000:.3f}-{purge.ended - 1000:.3f}"
                raise Violation(kind, f"{answer} is from before {when} at {purge.replica}")

    def _effective(self, purge: Purge, replica: str) -> float:
        """When a purge has to be in effect at a replica."""
        disturbed = any(
            fault.replica in {None, replica} and not fault.kind.startswith(("vendor", "change", "limits", "purge"))
            and fault.began <= purge.ended + HEARD and purge.began <= fault.ended + 3 * HEARD
            for fault in self.faults
        )  # fmt: skip
        if self._is_gap(purge, replica):
            return float("inf")
        return purge.ended + (max(HEARD, MAX_AGE) if disturbed else HEARD)

    def _is_gap(self, purge: Purge, replica: str) -> bool:
        """A disconnection, a purge and the death of Redis within one reconnect: the gap that is documented."""
        cuts = [fault.began for fault in self.faults if fault.kind == "cut" and fault.replica == replica]
        deaths = [fault.began for fault in self.faults if fault.kind == "kill"]
        return any(cut - 0.05 <= purge.ended and purge.began <= death <= cut + 0.25 for cut in cuts for death in deaths)

    def _check_lifetime(self, answer: Answer, calls: list[Call]) -> None:
        """No page outlives what it is allowed."""
        if int(answer.headers.get("Age", "0")) < 0:
            raise Violation("lifetime", f"{answer} has a negative age")
        for call in calls:
            fresh = NOT_FOUND if answer.status == 404 else FRESH[call.settled]
            age = answer.began - call.answered
            if answer.is_hit:
                most = fresh if "ttl=-" not in answer.cache else fresh + GRACE
            elif "stale-if-error" in answer.cache:
                most = fresh + KEEP
            else:
                most = fresh  # it waited for a fetch, and may be given what was stored meanwhile
            if age > most + _ON_ITS_WAY:
                raise Violation("lifetime", f"{answer} is {age:.1f} s old, and may be {most:.1f} s")

    def _check_own_fetches(self, answer: Answer, calls: list[Call]) -> None:
        """What a fetch showed is not contradicted afterwards by a hit that is older than that fetch.

        At once at the replica that fetched; a second after it was stored, at those that receive messages.
        """
        if not answer.is_hit:
            return
        for other, later in self._fetched:
            if other.aoi != answer.aoi:
                continue
            if later.replica == answer.replica:
                in_effect = other.ended if other.replica == answer.replica else float("inf")
            elif "stored" in other.cache:
                stored = Purge(None, other.began, other.ended, soft=False, replica=other.replica)
                replicas = (other.replica, answer.replica)  # a page may be stored in the one alone
                heard = all(self._effective(stored, replica) == other.ended + HEARD for replica in replicas)
                in_effect = other.ended + HEARD if heard else float("inf")
            else:
                in_effect = float("inf")
            if answer.began < in_effect:
                continue
            for call in calls:
                if call.answered < other.began and _contradict(call, later):
                    raise Violation("newer fetch", f"{answer} is of an older state than {other}")

    def _check_heard(self, answer: Answer, calls: list[Call]) -> None:
        """What a message has ended is no hit once it was received, however short the time since.

        After a purge it is no fallback either. Who waits for a fetch gets what it brings, and nobody joins it any more.
        """
        for heard in self._heard.get(answer.replica, ()):
            message = heard.message
            if heard.at >= answer.sent or message.aoi_id not in {"", answer.aoi}:
                continue
            if heard.call is not None and answer.is_hit:
                for call in calls:
                    if call.answered < heard.call.began and _contradict(call, heard.call):
                        raise Violation(
                            "newer fetch", f"{answer} is older than a page told of at {heard.at - 1000:.3f}"
                        )
            joined = answer.began > heard.at and answer.decision != "fallback"
            fallback = answer.decision == "fallback" and not message.soft
            if not message.page and (answer.is_hit or joined or fallback):
                purges = [
                    purge for purge in self.started
                    if purge.aoi == (message.aoi_id or None) and purge.soft == message.soft and purge.began < heard.at
                ]  # fmt: skip
                # The message is that of one of these purges: of the earliest, if it was unconfirmed and late.
                since = [purge.began for purge in purges if purge.ended > heard.at - _LATEST]
                if since and any(call.began < min(since) for call in calls):
                    raise Violation("purge", f"{answer} is from before the purge heard of at {heard.at - 1000:.3f}")

    def _check_pause(self, answer: Answer) -> None:
        """A pause lasts as long as the vendor asked for, on every replica."""
        if _code(answer) != "upstream_rate_limited":
            return
        last = max(self._vendor.paused, default=0.0)
        if answer.began - last > self._vendor.retry_after + 3.0:
            raise Violation("pause", f"{answer} {answer.began - last:.1f} s after the vendor asked for a pause")


def _contradict(call: Call, other: Call) -> bool:
    if call.ids is None or other.ids is None:
        return call.ids is not other.ids
    if len(call.ids) != len(other.ids):
        return True
    if other.printed_offset != other.offset:
        return False  # a page that contradicts its own figures proves nothing about order
    mine, its = call.page, other.page
    return any(mine[index] != its[index] for index in mine.keys() & its.keys())


def _code(answer: Answer) -> str:
    try:
        return str(answer.document["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return ""
