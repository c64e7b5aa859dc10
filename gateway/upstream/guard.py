"""Whether the vendor may be asked now: places, the circuit breaker, the pause that it asked for, a key that it refused.

Each is arithmetic in `core`; this file asks them in order, tells them how calls ended, and tells the other replicas of
a pause. Who is not let through gets the error that says why, and costs nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from gateway.config.options import UpstreamOptions
from gateway.core.clock import Clock
from gateway.core.errors import UpstreamCircuitOpen, UpstreamRateLimited, UpstreamRefusedKey
from gateway.core.events import BreakerState, BreakerTurned, Observe, VendorPaused, VendorResumed
from gateway.upstream.breaker import Breaker
from gateway.upstream.concurrency import Places
from gateway.upstream.pause import LONGEST_PAUSE, Pause
from gateway.upstream.rejected_keys import KeyHolds


class Replicas(Protocol):
    """Those who ask the same vendor. Nothing here raises: without word from them each goes by what it sees itself."""

    async def tell_pause(self, until: float, left: float, *, over: bool) -> None:
        """Tell that the vendor asked for a pause of `left` seconds, named `until`, or that this one is over."""
        ...

    async def may_probe(self, until: float, seconds: float) -> bool:
        """Whether it is for us to probe after the pause that lasted until then; for so many seconds no other will."""
        ...


class NoReplicas:
    """Nobody else asks this vendor."""

    async def tell_pause(self, until: float, left: float, *, over: bool) -> None:
        """Nobody is there to be told."""

    async def may_probe(self, until: float, seconds: float) -> bool:  # noqa: ARG002 - as Replicas says
        """Nobody else does."""
        return True


@dataclass(slots=True)
class Call:
    """One call that was let through, and how it ended: `well` when the vendor is alive, None when nobody knows.

    `pause` is the time in seconds that the vendor asked to be left alone.
    """

    well: bool | None = None
    pause: float | None = None


class Gate:
    """The way to the vendor."""

    def __init__(self, options: UpstreamOptions, replicas: Replicas, *, clock: Clock, observe: Observe) -> None:
        self._places = Places(options.max_concurrency, options.max_queue, observe)
        self._breaker = Breaker(options.breaker.failures, options.breaker.cooldown)
        self._pause = Pause(options.max_concurrency)
        self._holds = KeyHolds()
        self._replicas = replicas
        self._probe_seconds = options.attempt_timeout
        self._probing = False
        self._clock = clock
        self._observe = observe
        self._told: BreakerState = "closed"

    @property
    def idle(self) -> bool:
        """Whether no call is in flight and none waits."""
        return self._places.idle

    def check(self, aoi_id: str, keys: Hashable) -> None:
        """Raise what is certain to come of asking now: UpstreamRefusedKey, UpstreamRateLimited, UpstreamCircuitOpen."""
        now = self._clock.monotonic()
        if self._holds.wait(keys, aoi_id, now) is not None:
            raise UpstreamRefusedKey("the vendor refused our key a moment ago")
        self._check_vendor(now)

    def begin(self, aoi_id: str, keys: Hashable) -> int:
        """Begin a fetch, which may be the one try with a refused key. Raises as `check`; hand the result to `enter`."""
        self.check(aoi_id, keys)
        self._holds.tries(keys, aoi_id, self._clock.monotonic())
        return self._holds.refusals

    @asynccontextmanager
    async def enter(self, aoi_id: str, keys: Hashable, begun: int, patience: float, team: str) -> AsyncIterator[Call]:
        """A call of a fetch that was `begun` for a team, for the block, after `patience` seconds in the queue at most.

        Raises as `check`, and UpstreamOverloaded.
        """
        self._check_vendor(self._clock.monotonic())
        async with self._places.take(patience, team):
            # While we waited the vendor may have refused the key to somebody else, or asked for a pause.
            if begun != self._holds.refusals:
                self.check(aoi_id, keys)
            self._check_vendor(self._clock.monotonic())
            probes = await self._probes()
            given = self._breaker.enter(self._clock.monotonic())
            if given is None:
                self._probing = self._probing and not probes
                raise UpstreamCircuitOpen("its probe is under way", retry_after=self._breaker.wait(0.0))
            self._tell_breaker()
            call = Call()
            try:
                yield call
            finally:
                self._breaker.leave(given, self._clock.monotonic(), well=call.well)
                self._tell_breaker()
                await self._ended(call, probes=probes)

    def accepted(self, aoi_id: str, keys: Hashable) -> None:
        """The vendor took one of these keys for this AOI."""
        self._holds.accepted(keys, aoi_id)

    def refused(self, aoi_id: str, keys: Hashable, statuses: tuple[int, ...]) -> None:
        """The vendor refused all these keys for this AOI, with these statuses."""
        self._holds.refused(keys, aoi_id, statuses, self._clock.monotonic())

    def hear(self, until: float, left: float, over: bool) -> None:
        """Another replica was asked for a pause that lasts `left` seconds more, or has seen the end of it.

        `until` names the pause (see `core.pause`).
        """
        if over:
            if until >= self._pause.until:
                self._resume()
            return
        left = min(left, LONGEST_PAUSE)
        if self._pause.begin(until, self._clock.monotonic() + left):
            self._observe(VendorPaused(self._clock.now() + left))

    def _check_vendor(self, now: float) -> None:
        match self._pause.phase(now):
            case "paused":
                raise UpstreamRateLimited("the vendor asked for a pause", retry_after=self._pause.ends - now)
            case "probe" if self._probing:
                raise UpstreamRateLimited("the first call after the pause is under way", retry_after=1.0)
        wait = self._breaker.wait(now)
        if wait is not None:
            raise UpstreamCircuitOpen("the vendor failed too often", retry_after=wait)

    async def _probes(self) -> bool:
        """Whether this call is the probe after a pause. Raises UpstreamRateLimited where it is another replica's."""
        if self._pause.phase(self._clock.monotonic()) != "probe":
            return False
        self._probing, until = True, self._pause.until
        if not await self._replicas.may_probe(until, self._probe_seconds):
            self._probing = False
            if until == self._pause.until and self._pause.phase(self._clock.monotonic()) == "probe":
                raise UpstreamRateLimited("another replica makes the first call after the pause", retry_after=1.0)
            self._check_vendor(self._clock.monotonic())
            return False
        return True

    async def _ended(self, call: Call, *, probes: bool) -> None:
        if probes:
            self._probing = False
        if call.pause is not None:
            until = self._clock.now() + call.pause
            self.hear(until, call.pause, over=False)
            await self._replicas.tell_pause(until, call.pause, over=False)
        elif probes and call.well is not None:
            until = self._pause.until
            self._resume()
            await self._replicas.tell_pause(until, 0.0, over=True)
        elif call.well and self._pause.phase(self._clock.monotonic()) == "ramp":
            self._pause.went_well()
            self._places.allow(self._pause.allowed)

    def _resume(self) -> None:
        if self._pause.resume():
            self._places.allow(self._pause.allowed)
            self._observe(VendorResumed())

    def _tell_breaker(self) -> None:
        if self._breaker.state != self._told:
            self._told = self._breaker.state
            self._observe(BreakerTurned(self._told))
