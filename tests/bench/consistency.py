"""Compare answers of three gateways with recorded states of the vendor's lists, while everything behind them fails.

Three `serve` processes share a small real Redis (allkeys-lru), each through a relay that cuts, resets, stalls and
refuses its connections. Redis loses keys at random or all at once, and is stopped for a second. The vendor's lists
grow, shrink, slip, reorder and disappear, its limits change, and it fails at times. Purges are sent through random
replicas.

Every answer is compared with the recorded calls of the vendor: whether the vendor sent these bytes, or would have sent
this window; whether they are within their lifetime; and whether a purge, or a later fetch of the same replica, has
ended them. `--seed` decides the load and the faults, but not how they interleave. Exits with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import hashlib
import json
import math
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from faulty_relay import FaultyRelay, Which
from harness import VENDOR_KEY, Process, spawn
from raw_vendor import raw_vendor
from real_redis import RealRedis
from recording_vendor import Asset, Call, Fault, PastEnd, RecordingVendor, is_tagged, page_body
from redis.asyncio import Redis
from soak import drain_output

REPLICAS = 3
CLIENTS = 24
AOIS = [f"{kind}-{letter}" for letter in "abcd" for kind in ("plain", "tagged")]
# Offsets and limits that are asked for often.
WINDOWS = [(0, 10), (10, 10), (20, 10), (0, 25), (0, 40), (5, 10)]
# Seconds, as the gateways are configured.
SETTLED, SHORT, GRACE, KEEP = 3.0, 1.0, 1.0, 6.0
MAX_AGE = 1.0
DEADLINE = 4.0
# A purge is in effect after this time where messages arrive.
HEARD = 1.0
# A session lasts this long without an answered PING.
SESSION = 1.2
# What a busy machine may add between an event and the moment at which it is recorded.
SLACK = 0.4
# So long after a fault its consequences may still be seen.
AFTERMATH = 3.0
# So long after a fault of the vendor, errors may still be its: the deadline, the cooldown, a pause.
VENDOR_AFTERMATH = DEADLINE + 4.0

_CACHE_STATUS = re.compile(
    r"pixxel-gateway; (hit; ttl=(?P<ttl>-?\d+)(?P<window>; detail=window)?"
    r"|fwd=(miss|stale|request)(; fwd-status=\d+)?"
    r"(?P<failed>; detail=stale-if-error)?(?P<stored>; stored)?(?P<collapsed>; collapsed)?)"
)
_VENDOR_ERRORS = {
    "unavailable", "upstream_error", "upstream_timeout", "upstream_unreachable", "upstream_invalid",
    "upstream_circuit_open", "upstream_rate_limited", "overloaded",
}  # fmt: skip


class Violation(Exception):
    """An answer is wrong; the first argument names the rule."""


@dataclass(frozen=True)
class Answer:
    """What a client got. Times are monotonic; `body` is decoded."""

    request_id: str
    replica: int
    aoi: str
    offset: int
    limit: int
    began: float
    ended: float
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def generation(self) -> str:
        return self.headers.get("x-listing-generation", "")

    def __str__(self) -> str:
        told = " ".join(self.headers.get(name, "-") for name in ("cache-status", "age", "x-listing-generation", "etag"))
        return (
            f"{self.request_id} {self.aoi} {self.offset}+{self.limit} at {self.began:.3f}-{self.ended:.3f}:"
            f" {self.status} {told}"
        )


@dataclass(frozen=True)
class Page:
    """The body of an answer, taken apart. `total` is None for a 404; `numbers` are those of tagged assets' calls."""

    total: int | None
    offset: int = 0
    limit: int = 0
    assets: tuple[Asset, ...] = ()
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Purge:
    """A purge that was answered with 200. `aoi` is None for everything."""

    aoi: str | None
    soft: bool
    replica: int
    began: float
    ended: float


@dataclass
class Trouble:
    """A fault, at one replica or (None) at all, from when to when."""

    kind: str
    replica: int | None
    began: float
    ended: float = math.inf


@dataclass(frozen=True)
class Shown:
    """A call of the vendor that a replica has answered a request with."""

    answer: Answer
    call: Call


@dataclass
class Generation:
    """What pages of one name have shown."""

    aoi: str
    total: int | None
    ids: dict[int, str] = field(default_factory=dict)
    pages: set[tuple[int, int, bytes]] = field(default_factory=set)
    once: bool = False


class Checker:
    """Checks answers against what the vendor has recorded."""

    def __init__(self, vendor: RecordingVendor) -> None:
        self._vendor = vendor
        self.purges: deque[Purge] = deque(maxlen=200)
        self.troubles: list[Trouble] = []
        self.decisions: Counter[str] = Counter()
        self.purged_checks = 0
        self._generations: dict[str, Generation] = {}
        self._tags: dict[str, bytes] = {}
        self._bodies: dict[bytes, str] = {}
        self._shown: dict[tuple[int, str], deque[Shown]] = defaultdict(lambda: deque(maxlen=60))
        self._limits: dict[int, deque[Shown]] = defaultdict(lambda: deque(maxlen=300))

    def check(self, answer: Answer) -> None:
        """Check an answer. Raises Violation."""
        status = answer.headers.get("cache-status")
        if answer.status not in {200, 404} or (answer.status == 404 and status is None):
            self._check_error(answer)
            return
        cache = _CACHE_STATUS.fullmatch(status or "")
        if cache is None:
            raise Violation("headers", "Cache-Status")
        self.decisions[_decision(answer, cache)] += 1
        page = self._take_apart(answer)
        if answer.status == 200:
            self._check_tag(answer)
            self._check_generation(answer, page, once=cache["ttl"] is None and not (cache["stored"] or cache["failed"]))
        self._check_source(answer, page, cache)
        if cache["ttl"] is None and not cache["collapsed"] and not cache["failed"]:
            self._note_fetch(answer)

    def _check_error(self, answer: Answer) -> None:
        try:
            code = json.loads(answer.body)["error"]["code"]
        except (ValueError, LookupError, TypeError):
            raise Violation("errors", f"no envelope: {answer.body[:100]!r}") from None
        self.decisions[f"{answer.status} {code}"] += 1
        if code == "invalid_offset":
            return
        near = any(
            trouble.kind.startswith("vendor") and trouble.began <= answer.ended
            and answer.began <= trouble.ended + VENDOR_AFTERMATH
            for trouble in self.troubles
        )  # fmt: skip
        if code not in _VENDOR_ERRORS or not near:
            raise Violation("errors", f"unexplained {code}")

    def _take_apart(self, answer: Answer) -> Page:
        """Read the body, and make sure that it is printed as the vendor does."""
        document = json.loads(answer.body)
        if answer.status == 404:
            found = re.fullmatch(r"call (\d+)", document["error"]["message"])
            return Page(None, numbers=(int(found[1]),) if found else ())
        told, shown = document["pagination"], document["assets"] or ()
        page = Page(
            told["total"], told["offset"], told["limit"],
            tuple(Asset(asset["id"], asset["status"], asset["edits"]) for asset in shown),
            tuple(asset["call"] for asset in shown) if is_tagged(answer.aoi) else (),
        )  # fmt: skip
        printed = page_body(
            answer.aoi, page.assets, list(page.numbers or [0] * len(page.assets)),
            total=told["total"], offset=page.offset, limit=page.limit,
        )  # fmt: skip
        if printed != answer.body:
            raise Violation("bytes", f"not printed as the vendor does: {answer.body[:200]!r}")
        return page

    def _check_tag(self, answer: Answer) -> None:
        """One entity tag, one body."""
        tag = answer.headers.get("etag", "")
        if answer.headers.get("content-encoding") == "gzip":
            if not tag.endswith('-gzip"'):
                raise Violation("headers", "the ETag of another coding")
            tag = tag.removesuffix('-gzip"') + '"'
        digest = hashlib.blake2b(answer.body, digest_size=16).digest()
        if not tag.startswith('"') or self._tags.setdefault(tag, digest) != digest:
            raise Violation("headers", "ETag")
        if self._bodies.setdefault(digest, tag) != tag:
            raise Violation("headers", "the body had another ETag")

    def _check_generation(self, answer: Answer, page: Page, *, once: bool) -> None:
        """Pages of one name never differ in `total`, nor in ids where they overlap; `once`: no other page has it."""
        if not answer.generation:
            raise Violation("generations", "none")
        known = self._generations.setdefault(answer.generation, Generation(answer.aoi, page.total))
        ids = {index: asset.id for index, asset in enumerate(page.assets, start=page.offset)}
        differ = [index for index, name in ids.items() if known.ids.get(index, name) != name]
        if (known.aoi, known.total) != (answer.aoi, page.total) or differ:
            raise Violation("generations", f"total {known.total} and {page.total}, ids differ at {differ}")
        known.ids.update(ids)
        known.once = known.once or once
        known.pages.add((answer.offset, answer.limit, hashlib.blake2b(answer.body, digest_size=8).digest()))
        if known.once and len(known.pages) > 1:
            raise Violation("generations", "the name of an answer that was not stored is used again")

    def _check_source(self, answer: Answer, page: Page, cache: re.Match[str]) -> None:
        """Find vendor calls that explain the answer. If there are none, name the rule that excludes the candidates."""
        hit, failed, window = cache["ttl"] is not None, cache["failed"] is not None, cache["window"] is not None
        rules: list[tuple[str, Callable[[Call], bool]]] = [("bytes", lambda call: call.looked <= answer.ended)]
        if not hit and not failed and not cache["collapsed"]:
            own = {call.number for call in self._vendor.of_request.get(answer.request_id, ())}
            rules.append(("own fetch", lambda call: call.number in own))
        rules += [
            ("lifetime", lambda call: answer.began - (call.sent or call.looked) <= _longest(call, cache) + SLACK),
            *self._purge_rules(answer, hit=hit),
        ]
        if hit:
            newer = [one for one in self._shown[answer.replica, answer.aoi] if one.answer.ended <= answer.began]
            rules.append((
                "newer fetch",
                lambda call: not any(call.looked < one.answer.began and _contradict(call, one.call) for one in newer),
            ))  # fmt: skip
        if hit and not window:
            age = int(answer.headers["age"])
            least, most = answer.began - 1.0 - SLACK - age, answer.ended + SLACK - age
            rules.append(("age", lambda call: call.looked <= most and least <= (call.sent or call.looked)))
            if age < 0 or age + int(cache["ttl"]) > SETTLED:
                raise Violation("headers", "Age and ttl exceed the lifetime")
        used: list[Callable[[Call], bool]] = []
        for name, rule in rules:
            used.append(rule)
            # All rules at once first: that is what holds nearly always.
            if len(used) == 1 and self._is_explained(answer, page, [one for _, one in rules], hit, window, failed):
                break
            if not self._is_explained(answer, page, used, hit, window, failed):
                raise Violation(name, self._describe(answer, page))
        if page.assets and (window or failed):
            self._check_limit(answer, page, needed=window or not self._exact(answer, page, [rules[0][1]]))

    def _is_explained(
        self, answer: Answer, page: Page, rules: list[Callable[[Call], bool]], hit: bool, window: bool, failed: bool
    ) -> bool:
        if not window and self._exact(answer, page, rules):
            return True
        return (window or failed) and self._is_window(answer, page, rules)

    def _exact(self, answer: Answer, page: Page, rules: Iterable[Callable[[Call], bool]]) -> bool:
        """Whether this was the answer of a call."""
        for call in reversed(self._vendor.calls[answer.aoi]):
            if (call.offset, call.limit) != (answer.offset, answer.limit) or call.total != page.total:
                continue
            if page.total is None:
                same = not page.numbers or call.number == page.numbers[0]
            else:
                same = call.body == answer.body
            if same and all(rule(call) for rule in rules):
                return True
        return False

    def _is_window(self, answer: Answer, page: Page, rules: Iterable[Callable[[Call], bool]]) -> bool:
        """Whether it can be cut from pages of calls, each of which shows the last asset of the one before."""
        if not page.assets or page.offset != answer.offset or page.total is None:
            return False
        if len(page.assets) != min(page.limit, page.total - page.offset):
            return False
        usable = [
            call for call in self._vendor.calls[answer.aoi]
            if call.total == page.total and not call.is_moved and all(rule(call) for rule in rules)
        ]  # fmt: skip
        before: list[Call] = []
        for place, asset in enumerate(page.assets):
            index = page.offset + place
            showing = [
                call for call in usable
                if call.at(index) == asset and (not page.numbers or call.number == page.numbers[place])
            ]  # fmt: skip
            if place:
                ids = {one.id for call in before if (one := call.at(index - 1)) is not None}
                known = {call.number for call in before}
                showing = [
                    call for call in showing
                    if call.number in known or ((one := call.at(index - 1)) is not None and one.id in ids)
                ]  # fmt: skip
            if not showing:
                return False
            before = showing
        return True

    def _check_limit(self, answer: Answer, page: Page, *, needed: bool) -> None:
        """A window has a limit that the vendor has had since this replica last saw how it treats such a limit."""
        if not needed:
            return
        since = -math.inf
        for one in self._limits[answer.replica]:
            call = one.call
            if one.answer.ended <= answer.began and (
                call.limit == answer.limit or (call.printed == call.limit >= answer.limit)
            ):
                # A call that another replica began later may have been answered earlier, and counts.
                since = max(since, one.answer.began)
        history = self._vendor.limits
        later = [
            most for (at, most), (until, _) in zip(history, [*history[1:], (math.inf, 0)], strict=True) if until > since
        ]
        if page.limit not in {min(answer.limit, most) for most in later}:
            told = [
                (f"{one.answer} printed {one.call.printed} at {one.call.looked:.3f}")
                for one in self._limits[answer.replica]
            ]
            raise Violation("limits", "\n  ".join([f"{page.limit}, but {history[-6:]}", *told[-30:]]))

    def _purge_rules(self, answer: Answer, *, hit: bool) -> list[tuple[str, Callable[[Call], bool]]]:
        hard = soft = -math.inf
        for purge in self.purges:
            if purge.aoi in {None, answer.aoi} and answer.began > self._in_effect(purge, answer.replica):
                if not purge.soft:
                    hard = max(hard, purge.began)
                elif hit:
                    soft = max(soft, purge.began)
        self.purged_checks += hard > answer.began - SETTLED - GRACE
        return [("purge", lambda call: call.looked >= hard), ("soft purge", lambda call: call.looked >= soft)]

    def _in_effect(self, purge: Purge, replica: int) -> float:
        """When a purge has to be in effect at a replica: at once where it was sent."""
        if purge.replica == replica:
            return purge.ended
        disturbed = any(
            trouble.replica in {None, replica} and not trouble.kind.startswith("vendor")
            and trouble.began <= purge.ended + HEARD and purge.began <= trouble.ended + AFTERMATH
            for trouble in self.troubles
        )  # fmt: skip
        return purge.ended + (max(MAX_AGE, SESSION) if disturbed else HEARD)

    def _note_fetch(self, answer: Answer) -> None:
        for call in self._vendor.of_request.get(answer.request_id, ()):
            if (call.offset, call.limit) == (answer.offset, answer.limit) and call.sent is not None:
                self._shown[answer.replica, answer.aoi].append(Shown(answer, call))
                if call.total is not None and call.shown and not call.is_moved and call.end < call.total:
                    self._limits[answer.replica].append(Shown(answer, call))

    def _describe(self, answer: Answer, page: Page) -> str:
        """What there is to know about a wrong answer."""
        near = [call for call in self._vendor.calls[answer.aoi] if call.looked > answer.began - 12]
        lines = [f"total {page.total}, {page.offset}+{page.limit}, calls {sorted(set(page.numbers))}"]
        lines += [
            f"  call {call.number} {call.looked:.3f} for {call.request_id}: {call.offset}+{call.limit} ->"
            f" {call.printed_offset}+{call.printed} of {call.total}{' =' * (call.body == answer.body)}"
            for call in near
        ]  # fmt: skip
        lines += [
            f"  {purge}" for purge in self.purges if purge.ended > answer.began - 12 and purge.aoi in {None, answer.aoi}
        ]
        lines += [
            f"  {one}"
            for one in self.troubles
            if one.ended > answer.began - 12 and one.replica in {None, answer.replica}
        ]
        lines += [
            f"  fetched: {one.answer} {one.call.number}"
            for one in self._shown[answer.replica, answer.aoi]
            if one.answer.ended > answer.began - 12
        ]
        return "\n".join(lines)


def _unconditional(answer: Answer, known: tuple[str, bytes] | None) -> Answer:
    """The answer that a 304 stands for; `known` are the ETag that was sent and its body."""
    tag = answer.headers.get("etag", "")
    if known is None or tag != known[0] or answer.body:
        raise Violation("headers", f"a 304 for {tag}")
    coding = {"content-encoding": "gzip"} if "-gzip" in tag else {}
    return replace(answer, status=200, body=known[1], headers={**answer.headers, **coding})


def _decision(answer: Answer, cache: re.Match[str]) -> str:
    if answer.status == 404:
        return "404" if cache["ttl"] is None else "404 hit"
    if cache["ttl"] is not None:
        return ("grace" if int(cache["ttl"]) < 0 else "hit") + (" window" if cache["window"] else "")
    if cache["failed"]:
        return "stale-if-error"
    return ("collapsed" if cache["collapsed"] else "fetched") + ("" if cache["stored"] else ", not stored")


def _longest(call: Call, cache: re.Match[str]) -> float:
    """How many seconds after its arrival the page of a call may be served in this way."""
    settled = bool(call.shown) and all(asset.status == "success" for asset in call.shown)
    fresh = SETTLED if settled else SHORT
    if cache["failed"]:
        return fresh + KEEP
    if cache["ttl"] is None:
        return max(fresh, DEADLINE)  # it was in flight when the request came
    grace = 0.0 if call.total is None else min(GRACE, fresh)
    return fresh + (grace if int(cache["ttl"]) < 0 else 0.0)


def _contradict(call: Call, other: Call) -> bool:
    """Whether two calls show different states of the list."""
    if call.total != other.total:
        return True
    if call.is_moved or other.is_moved:
        return False
    shared = range(max(call.offset, other.offset), min(call.end, other.end))
    return any(mine.id != its.id for mine, its in ((call.at(i), other.at(i)) for i in shared) if mine and its)


class Run:
    """The load and the faults."""

    def __init__(
        self, seed: int, ports: list[int], relays: list[FaultyRelay], vendor: RecordingVendor, redis: RealRedis
    ) -> None:
        self.seed = seed
        self.ports = ports
        self.relays = relays
        self.vendor = vendor
        self.redis = redis
        self.checker = Checker(vendor)
        self.violations: list[str] = []
        self.answers = 0
        self.events: Counter[str] = Counter()
        self._ended = asyncio.Event()
        # Of some AOIs, all requests go to one replica, and some are for one window: what it does not hear of, nothing
        # else makes it forget.
        self._focus: dict[str, tuple[int | None, list[tuple[int, int]]]] = {}
        self._admin = Redis(port=redis.port)

    async def run(self, seconds: float) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            work = [self._client(session, number) for number in range(CLIENTS)]
            work += [self._change(aoi) for aoi in AOIS]
            work += [
                self._refocus(),
                self._purge(session),
                self._change_limits(),
                self._fail_vendor(),
                self._spoil_redis(),
            ]
            work += [self._spoil_relay(number) for number in range(REPLICAS)]
            async with asyncio.TaskGroup() as tasks:
                for one in work:
                    tasks.create_task(one)
                await asyncio.sleep(seconds)
                self._ended.set()
            self.evicted = (await self._admin.info("stats"))["evicted_keys"]
            await self._admin.aclose()

    def _chance(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        chance = self._chance(f"client {number}")
        remembered: dict[tuple[str, int, int, str], tuple[str, bytes]] = {}
        while not self._ended.is_set():
            aoi = chance.choice(AOIS)
            home, windows = self._focus.get(aoi, (None, WINDOWS))
            replica = chance.randrange(REPLICAS) if home is None else home
            offset, limit = chance.choice(windows)
            if windows is WINDOWS and chance.random() < 0.2:
                offset, limit = chance.randrange(50), chance.randrange(1, 41)
            coding = chance.choice(["identity", "identity", "gzip"])
            headers = {"Accept-Encoding": coding}
            if chance.random() < 0.02:
                headers["Cache-Control"] = "no-cache"
            known = remembered.get((aoi, offset, limit, coding))
            if known is not None and chance.random() < 0.3:
                headers["If-None-Match"] = known[0]
            self.answers += 1
            headers["X-Request-Id"] = f"r{replica}-{self.answers}"
            url = f"http://127.0.0.1:{self.ports[replica]}/v0/aois/{aoi}/assets?offset={offset}&limit={limit}"
            began = time.monotonic()
            async with session.get(url, headers=headers) as response:
                body = await response.read()
                told = {name.lower(): value for name, value in response.headers.items()}
            answer = Answer(
                headers["X-Request-Id"],
                replica,
                aoi,
                offset,
                limit,
                began,
                time.monotonic(),
                response.status,
                told,
                body,
            )
            if told.get("content-encoding") == "gzip" and body:
                answer = replace(answer, body=gzip.decompress(body))
            try:
                if answer.status == 304:
                    answer = _unconditional(answer, known)
                    self.events["304"] += 1
                self.checker.check(answer)
            except Violation as violation:
                self._report(answer, violation)
            if answer.status == 200:
                remembered[aoi, offset, limit, coding] = told["etag"], answer.body
            await asyncio.sleep(chance.random() * 0.03)

    def _report(self, answer: Answer, violation: Violation) -> None:
        rule, detail = violation.args
        self.violations.append(rule)
        if self.violations.count(rule) <= 5:
            print(f"WRONG ({rule}): {answer}\n{detail}", flush=True)

    async def _change(self, aoi: str) -> None:
        chance = self._chance(f"change {aoi}")
        while not self._ended.is_set():
            # Lists rest at times, so that pages get old, and change in quick succession at others.
            await self._rest(chance.choice([0.02, 0.2, 1.0, 1.0, 3.0] if aoi[-1] in "ab" else [0.05, 2.0, 4.0, 6.0]))
            self.events[f"list: {self.vendor.change(aoi)}"] += 1

    async def _refocus(self) -> None:
        chance = self._chance("focus")
        while not self._ended.is_set():
            await self._rest(chance.uniform(0.2, 0.8))
            home = chance.choice([None, *range(REPLICAS)])
            windows = WINDOWS if home is None or chance.random() < 0.4 else chance.sample(WINDOWS, 1)
            self._focus[chance.choice(AOIS)] = home, windows

    async def _change_limits(self) -> None:
        chance = self._chance("limits")
        choices: list[PastEnd] = ["empty", "clamp", "not_found", "refuse"]
        while not self._ended.is_set():
            await self._rest(chance.uniform(1.0, 8.0))
            self.vendor.change_limits(chance.choice([5, 15, 25, 1000, 1000]), chance.choice(choices))
            self.events["limits"] += 1

    async def _purge(self, session: aiohttp.ClientSession) -> None:
        chance = self._chance("purge")
        while not self._ended.is_set():
            await self._rest(chance.uniform(0.1, 1.5))
            replica, aoi = chance.randrange(REPLICAS), chance.choice([None, *AOIS])
            soft = chance.random() < 0.4
            what: dict[str, Any] = {"all": True} if aoi is None else {"aoi_id": aoi}
            began = time.monotonic()
            url = f"http://127.0.0.1:{self.ports[replica]}/admin/purge"
            async with session.post(url, json={**what, **({"soft": True} if soft else {})}) as response:
                await response.read()
            name = f"purge: {'all' if aoi is None else 'AOI'}{', soft' if soft else ''}"
            self.events[f"{name}: {response.status}"] += 1
            if response.status == 200:
                self.checker.purges.append(Purge(aoi, soft, replica, began, time.monotonic()))

    async def _fail_vendor(self) -> None:
        chance = self._chance("vendor")
        faults: list[Fault] = ["error", "error", "error", "hang", "hang", "reset", "reset", "", "", "", "", "pause"]
        while not self._ended.is_set():
            await self._rest(chance.uniform(2.0, 8.0))
            fault, aoi = chance.choice(faults), chance.choice(["*", *AOIS])
            with_slowness = chance.uniform(0.1, 1.0) if not fault else 0.0
            trouble = self._begin(f"vendor {fault or 'slow'}", None)
            self.vendor.faults[aoi], self.vendor.slow = fault, with_slowness
            await self._rest(chance.uniform(0.3, 2.5))
            self.vendor.faults[aoi], self.vendor.slow = "", 0.0
            trouble.ended = time.monotonic()

    async def _spoil_redis(self) -> None:
        chance = self._chance("redis")
        while not self._ended.is_set():
            await self._rest(chance.uniform(0.2, 2.0))
            await self._evict(chance.choice([0.0, 0.2, 0.6]))
            match chance.randrange(8):
                case 0:
                    trouble = self._begin("redis stopped", None)
                    self.redis.signal(signal.SIGSTOP)
                    await asyncio.sleep(chance.uniform(0.1, 1.5))
                    self.redis.signal(signal.SIGCONT)
                    trouble.ended = time.monotonic()
                    await self._rest(3.0)
                case 1:
                    await self._admin.flushall()
                    self.events["redis emptied"] += 1
                case _:
                    keys = await self._admin.keys("*")
                    share = chance.choice([0.05, 0.3, 0.8])
                    if lost := [key for key in keys if chance.random() < share]:
                        await self._admin.delete(*lost)
                        self.events["redis keys deleted"] += len(lost)

    async def _evict(self, share: float) -> None:
        """Make Redis evict this share of its data, and some of what is written next."""
        memory = await self._admin.info("memory")
        used = memory["used_memory"]
        # Connections count, too, and change all the time: a fixed limit would leave no room for data at times.
        await self._admin.config_set("maxmemory", int(used - share * memory["used_memory_dataset"]))
        await self._admin.config_set("maxmemory", used + 500_000)

    async def _spoil_relay(self, number: int) -> None:
        chance, relay = self._chance(f"relay {number}"), self.relays[number]
        while not self._ended.is_set():
            await self._rest(chance.uniform(0.5, 8.0))
            which: Which = chance.choice(["all", "pubsub"])
            reset, seconds = chance.random() < 0.5, chance.choice([0.0, 0.1, 0.7, 1.5, 3.0])
            how = chance.choice(["cut", "stall", "stall and cut", "refuse"])
            trouble = self._begin(f"{how} {which}", number)
            if how == "cut":
                relay.cut(which, reset=reset)
            elif how == "refuse":
                relay.refuses = True
                relay.cut(which, reset=reset)
                await self._rest(seconds)
                relay.refuses = False
            else:
                stalled = relay.stall(which)
                await self._rest(seconds)
                if how == "stall":
                    relay.resume(stalled)
                else:
                    for end in stalled:
                        end.close()
            trouble.ended = time.monotonic()

    def _begin(self, kind: str, replica: int | None) -> Trouble:
        self.events[kind] += 1
        trouble = Trouble(kind, replica, time.monotonic())
        self.checker.troubles = [
            one for one in self.checker.troubles if one.ended > trouble.began - 60.0
        ] + [trouble]  # fmt: skip
        return trouble

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)


async def consistency(seed: int, seconds: float, redis: RealRedis, processes: list[Process]) -> Run:
    """Start everything, and let it run."""
    vendor = RecordingVendor(random.Random(f"{seed} vendor"), AOIS)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(raw_vendor(vendor.answer))
        relays, ports = [], []
        for _ in range(REPLICAS):
            relays.append(FaultyRelay(redis.port))
            await relays[-1].start()
            stack.push_async_callback(relays[-1].close)
            environ = {
                "GATEWAY_UPSTREAM__BASE_URL": server.url, "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY,
                "GATEWAY_UPSTREAM__DEADLINE": str(DEADLINE), "GATEWAY_UPSTREAM__ATTEMPT_TIMEOUT": "2",
                "GATEWAY_UPSTREAM__PATIENCE": "0.5", "GATEWAY_UPSTREAM__BREAKER__COOLDOWN": "0.5",
                "GATEWAY_CACHE__URL": f"redis://127.0.0.1:{relays[-1].port}/0",
                "GATEWAY_CACHE__LIFETIMES__SETTLED": str(SETTLED), "GATEWAY_CACHE__LIFETIMES__IN_PROGRESS": str(SHORT),
                "GATEWAY_CACHE__LIFETIMES__EMPTY": str(SHORT), "GATEWAY_CACHE__LIFETIMES__NOT_FOUND": str(SHORT),
                "GATEWAY_CACHE__LIFETIMES__GRACE": str(GRACE), "GATEWAY_CACHE__LIFETIMES__KEEP": str(KEEP),
                "GATEWAY_CACHE__MEMORY_MAX_AGE": str(MAX_AGE), "GATEWAY_LOG__ACCESS": "false",
            }  # fmt: skip
            processes.append(spawn("serve", "--port", "0", environ=environ))
        for process in processes:
            ports.append(await asyncio.to_thread(process.port))
            drain_output(process)
        run = Run(seed, ports, relays, vendor, redis)
        await run.run(seconds)
        return run


def report(run: Run, seconds: float) -> int:
    """Print what was seen. Returns how many answers were wrong, or how many kinds of events never happened."""
    print(
        f"{run.answers} answers in {seconds:.0f} s, {run.vendor.numbers} calls of the vendor, {run.evicted} evictions,"
    )
    print(f"{run.checker.purged_checks} answers soon after a purge")
    for title, counts in (("answers", run.checker.decisions), ("events", run.events)):
        print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    expected = ["hit", "hit window", "grace", "fetched", "collapsed", "stale-if-error", "404", "404 hit"]
    never = [name for name in expected if not run.checker.decisions[name]]
    if never:
        print(f"never seen, so that little was tested: {', '.join(never)}")
    print(f"wrong: {dict(Counter(run.violations)) or 'nothing'}")
    return len(run.violations) + len(never)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.seconds:.0f} s", flush=True)
    processes: list[Process] = []
    with tempfile.TemporaryDirectory() as directory:
        redis = RealRedis(Path(directory), "--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru")
        redis.start()
        try:
            run = asyncio.run(consistency(given.seed, given.seconds, redis, processes))
        finally:
            for process in processes:
                process.process.kill()
                process.process.wait()
            redis.signal(signal.SIGCONT)
            redis.kill()
    return 1 if report(run, given.seconds) else 0


if __name__ == "__main__":
    sys.exit(main())
