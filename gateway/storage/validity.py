"""Which copies in this process may be served: the only place that decides it.

docs/architecture.md, "Validity", has the rules and why they hold. A copy is valid by its *proof*: the moment at which
it was fetched from the vendor or checked against Redis. The proof has to belong to the current session with Redis, or
to the time since the last one, and must be later than every purge of the copy's AOI.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

from gateway.core.clock import Clock
from gateway.core.validity_token import ValidityTokens

# A session ends when no PING was answered for this long, in seconds. A purge has to be seen within a second.
LIVE_SECONDS = 1.2
# Invalidations are remembered for this many AOIs one by one; a further one counts as an invalidation of everything.
_MOST_AOIS = 10_000


class Proof(NamedTuple):
    """When a fetch or a check was sent.

    `phase` is the session, or the gap after one, `at` the monotonic time in seconds, `clock` how often the wall clock
    had been stepped.
    """

    phase: int
    at: float
    clock: int


# Proves nothing.
NO_PROOF = Proof(-2, -math.inf, -1)


class Standing(IntEnum):
    """What a copy may be used for: nothing, an answer when the vendor fails, or any answer."""

    NONE = 0
    FALLBACK = 1
    VALID = 2


class InvalidationTimes:
    """When AOIs were purged last, on the monotonic clock, as far as this process knows."""

    def __init__(self) -> None:
        self._aois: dict[str, float] = {}
        self._all = -math.inf

    def of(self, aoi_id: str) -> float:
        """Give the time of the latest purge of an AOI, alone or with everything."""
        return max(self._all, self._aois.get(aoi_id, -math.inf))

    def note(self, aoi_id: str | None, now: float) -> bool:
        """Note a purge of an AOI, or (None) of everything. Returns whether it counts as one of everything."""
        if aoi_id is None or (aoi_id not in self._aois and len(self._aois) >= _MOST_AOIS):
            self._all = now
            self._aois.clear()
            return True
        self._aois[aoi_id] = now
        return False


class Validity:
    """Sessions and purges. `max_age` is `cache.memory_max_age`, in seconds.

    The phase is odd during a session and even between two. Proofs of the phase before count on between sessions, and
    never in the next session.
    """

    def __init__(self, *, max_age: float, clock: Clock) -> None:
        self.validity_tokens = ValidityTokens()
        self.validity_tokens.until = -math.inf
        self.max_age = max_age
        self.down_for_all = False
        """Whether Redis is known to be down for everybody, so that nobody can purge."""
        self._clock = clock
        self._phase = 0
        self._live_until = -math.inf
        self._last_ping = clock.monotonic()
        self._purged = InvalidationTimes()
        self._soft_purged = InvalidationTimes()

    @property
    def is_live(self) -> bool:
        """Whether a session lasts: every invalidation message has been received so far."""
        return self._current_phase() % 2 == 1

    @property
    def session(self) -> int:
        """The number of sessions that have begun."""
        return (self._phase + 1) // 2

    def proof(self) -> Proof:
        """Begin a proof. Take it before the fetch or the check is sent."""
        return Proof(self._current_phase(), self._clock.monotonic(), self._clock.steps)

    def holds(self, proof: Proof, aoi_id: str) -> bool:
        """Tell whether a proof still stands when the reply arrives: same phase, same clock, and no purge since."""
        return (
            proof.phase == self._current_phase()
            and proof.clock == self._clock.steps
            and proof.at > self._purged.of(aoi_id)
            and proof.at > self._soft_purged.of(aoi_id)
        )

    def holds_fetch(self, proof: Proof, aoi_id: str) -> bool:
        """Tell whether the proof of a fetch stands when the page arrives.

        Unlike Redis' state, the vendor's does not depend on the session: a fetch of the last session that arrives after
        its end is worth as much as one that arrived before.
        """
        phase = self._current_phase()
        if phase % 2 == 0 and proof.phase == phase - 1:
            proof = proof._replace(phase=phase)
        return self.holds(proof, aoi_id)

    def standing(self, proof: Proof, aoi_id: str) -> Standing:
        """Tell what a copy with this proof may be used for."""
        phase = self._current_phase()
        if proof.clock != self._clock.steps or proof.at <= self._purged.of(aoi_id):
            return Standing.NONE
        if phase % 2:
            if proof.phase != phase:
                return Standing.NONE
        elif proof.phase < phase - 1 or not self._lasts(proof):
            return Standing.NONE
        return Standing.VALID if proof.at > self._soft_purged.of(aoi_id) else Standing.FALLBACK

    def purges_of(self, aoi_id: str) -> str:
        """Name the purges of an AOI that this process knows, as the pair of an epoch."""
        return ".".join(
            "never" if math.isinf(at) else str(int(at * 1e6))
            for at in (self._purged.of(aoi_id), self._soft_purged.of(aoi_id))
        )

    def begin_session(self, pinged: float) -> None:
        """Begin a session. Nothing from before is valid any more. `pinged` is when the answered PING was sent."""
        self._phase = self._current_phase() + (1 if self._phase % 2 == 0 else 2)
        self.down_for_all = False
        self.validity_tokens.invalidate_all()
        self.answered(pinged)

    def answered(self, pinged: float) -> None:
        """Note that the PING which was sent at `pinged` has been answered on the pub/sub connection."""
        if self._phase % 2:
            self._last_ping = max(self._last_ping, pinged)
            self._live_until = self._clock.monotonic() + LIVE_SECONDS
            self.validity_tokens.until = self._live_until

    def end_session(self) -> None:
        """End the session, if one lasts."""
        if self._phase % 2:
            self._phase += 1
            self.validity_tokens.until = -math.inf

    def purge(self, aoi_id: str | None, *, soft: bool) -> bool:
        """Invalidate the copies of an AOI, or (None) all. Returns whether all were."""
        times = self._soft_purged if soft else self._purged
        everything = times.note(aoi_id, self._clock.monotonic())
        if everything or aoi_id is None:
            self.validity_tokens.invalidate_all()
            return True
        self.validity_tokens.invalidate(aoi_id)
        return False

    def _lasts(self, proof: Proof) -> bool:
        """Whether a copy may still be used between sessions."""
        return self.down_for_all or self._clock.monotonic() <= max(self._last_ping, proof.at) + self.max_age

    def _current_phase(self) -> int:
        if self._phase % 2 and self._clock.monotonic() > self._live_until:
            self.end_session()
        return self._phase
