"""Decide whether the vendor may be called now.

Checks, in this order: keys that the vendor rejected, the pause that it asked for, the circuit breaker, and the
concurrency limit. Reports how calls end, and shares a pause with the other replicas. A call that is not admitted gets
the error that states the reason, and costs nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from gateway.config.options import UpstreamOptions
from gateway.core.clock import Clock
from gateway.core.errors import UpstreamCircuitOpen, UpstreamRateLimited, UpstreamRefusedKey
from gateway.core.events import BreakerChanged, BreakerState, Emit, VendorPaused, VendorResumed
from gateway.upstream.breaker import Breaker
from gateway.upstream.concurrency import ConcurrencyLimiter
from gateway.upstream.pause import LONGEST_PAUSE, Pause
from gateway.upstream.rejected_keys import RejectedKeyBackoff


class SharedPause(Protocol):
    """The pause that all replicas share. No method raises: without Redis each replica knows only its own pauses."""

    async def announce(self, until: float, left: float, *, over: bool) -> None:
        """Announce a pause of `left` more seconds, named by its end `until` (Unix time), or that it is over."""
        ...

    async def claim_probe(self, until: float, seconds: float) -> bool:
        """Claim the probe after the pause named `until` for this many seconds. Return whether this replica has it."""
        ...


class LocalPause:
    """A pause that no other replica shares."""

    async def announce(self, until: float, left: float, *, over: bool) -> None:
        """Do nothing: there is no other replica."""

    async def claim_probe(self, until: float, seconds: float) -> bool:  # noqa: ARG002 - as SharedPause says
        """Return True: there is no other replica."""
        return True


@dataclass(slots=True)
class GuardedCall:
    """One admitted call, and whether it `succeeded`: None if it is not known whether the vendor is alive.

    `pause` is the time in seconds that the vendor asked to be left alone.
    """

    succeeded: bool | None = None
    pause: float | None = None


class UpstreamGuard:
    """Admits calls to the vendor."""

    def __init__(self, options: UpstreamOptions, replicas: SharedPause, *, clock: Clock, emit: Emit) -> None:
        self._limiter = ConcurrencyLimiter(options.max_concurrency, options.max_queue, emit)
        self._breaker = Breaker(options.breaker.failures, options.breaker.cooldown)
        self._pause = Pause(options.max_concurrency)
        self._rejected_keys = RejectedKeyBackoff()
        self._shared_pause = replicas
        self._probe_seconds = options.attempt_timeout
        self._probing = False
        self._clock = clock
        self._emit = emit
        self._reported_state: BreakerState = "closed"

    @property
    def idle(self) -> bool:
        """Whether no call is in flight and none waits."""
        return self._limiter.idle

    def check(self, aoi_id: str, keys: Hashable) -> None:
        """Raise what is certain to come of asking now: UpstreamRefusedKey, UpstreamRateLimited, UpstreamCircuitOpen."""
        now = self._clock.monotonic()
        if self._rejected_keys.wait(keys, aoi_id, now) is not None:
            raise UpstreamRefusedKey("the vendor refused our key a moment ago")
        self._check_vendor(now)

    def begin(self, aoi_id: str, keys: Hashable) -> int:
        """Begin a fetch, which may be the one try with a refused key. Raises as `check`; pass the result to `admit`."""
        self.check(aoi_id, keys)
        self._rejected_keys.fetch_started(keys, aoi_id, self._clock.monotonic())
        return self._rejected_keys.refusals

    @asynccontextmanager
    async def admit(
        self, aoi_id: str, keys: Hashable, begun: int, patience: float, team: str
    ) -> AsyncIterator[GuardedCall]:
        """A call of a fetch that was `begun` for a team, for the block, after `patience` seconds in the queue at most.

        Raises as `check`, and UpstreamOverloaded.
        """
        self._check_vendor(self._clock.monotonic())
        async with self._limiter.acquire(patience, team):
            # While we waited the vendor may have refused the key to somebody else, or asked for a pause.
            if begun != self._rejected_keys.refusals:
                self.check(aoi_id, keys)
            self._check_vendor(self._clock.monotonic())
            probes = await self._is_probe()
            given = self._breaker.enter(self._clock.monotonic())
            if given is None:
                self._probing = self._probing and not probes
                raise UpstreamCircuitOpen("its probe is under way", retry_after=self._breaker.wait(0.0))
            self._report_breaker()
            call = GuardedCall()
            try:
                yield call
            finally:
                self._breaker.leave(given, self._clock.monotonic(), well=call.succeeded)
                self._report_breaker()
                await self._finish(call, probes=probes)

    def key_accepted(self, aoi_id: str, keys: Hashable) -> None:
        """The vendor took one of these keys for this AOI."""
        self._rejected_keys.key_accepted(keys, aoi_id)

    def key_rejected(self, aoi_id: str, keys: Hashable, statuses: tuple[int, ...]) -> None:
        """The vendor refused all these keys for this AOI, with these statuses."""
        self._rejected_keys.key_rejected(keys, aoi_id, statuses, self._clock.monotonic())

    def receive_pause(self, until: float, left: float, over: bool) -> None:
        """Another replica was asked for a pause that lasts `left` seconds more, or has seen the end of it.

        `until` names the pause (see `pause`).
        """
        if over:
            if until >= self._pause.until:
                self._resume()
            return
        left = min(left, LONGEST_PAUSE)
        if self._pause.begin(until, self._clock.monotonic() + left):
            self._emit(VendorPaused(self._clock.now() + left))

    def _check_vendor(self, now: float) -> None:
        match self._pause.phase(now):
            case "paused":
                raise UpstreamRateLimited("the vendor asked for a pause", retry_after=self._pause.ends - now)
            case "probe" if self._probing:
                raise UpstreamRateLimited("the first call after the pause is under way", retry_after=1.0)
        wait = self._breaker.wait(now)
        if wait is not None:
            raise UpstreamCircuitOpen("the vendor failed too often", retry_after=wait)

    async def _is_probe(self) -> bool:
        """Whether this call is the probe after a pause. Raises UpstreamRateLimited where it is another replica's."""
        if self._pause.phase(self._clock.monotonic()) != "probe":
            return False
        self._probing, until = True, self._pause.until
        if not await self._shared_pause.claim_probe(until, self._probe_seconds):
            self._probing = False
            if until == self._pause.until and self._pause.phase(self._clock.monotonic()) == "probe":
                raise UpstreamRateLimited("another replica makes the first call after the pause", retry_after=1.0)
            self._check_vendor(self._clock.monotonic())
            return False
        return True

    async def _finish(self, call: GuardedCall, *, probes: bool) -> None:
        if probes:
            self._probing = False
        if call.pause is not None:
            until = self._clock.now() + call.pause
            self.receive_pause(until, call.pause, over=False)
            await self._shared_pause.announce(until, call.pause, over=False)
        elif probes and call.succeeded is not None:
            until = self._pause.until
            self._resume()
            await self._shared_pause.announce(until, 0.0, over=True)
        elif call.succeeded and self._pause.phase(self._clock.monotonic()) == "ramp":
            self._pause.succeeded()
            self._limiter.set_limit(self._pause.allowed)

    def _resume(self) -> None:
        if self._pause.resume():
            self._limiter.set_limit(self._pause.allowed)
            self._emit(VendorResumed())

    def _report_breaker(self) -> None:
        if self._breaker.state != self._reported_state:
            self._reported_state = self._breaker.state
            self._emit(BreakerChanged(self._reported_state))
