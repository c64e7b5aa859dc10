"""Each rule of docs/architecture.md, "Validity", by itself."""

from __future__ import annotations

import pytest
from hand_clock import HandClock

from gateway.storage.validity import LIVE_SECONDS, InvalidationTimes, Proof, Standing, Validity

MAX_AGE = 5.0


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def validity(clock: HandClock) -> Validity:
    """Return a validity during a session, with its PING just answered."""
    validity = Validity(max_age=MAX_AGE, clock=clock)
    validity.begin_session(clock.monotonic())
    clock.skip(0.1)
    return validity


def standing(validity: Validity, proof: Proof, aoi_id: str = "a") -> str:
    return validity.standing(proof, aoi_id).name


@pytest.mark.parametrize("aoi_id", ["a", None])
@pytest.mark.parametrize(("soft", "left"), [(False, "NONE"), (True, "FALLBACK")])
def test_a_purge_ends_the_proofs_that_began_before_it(
    validity: Validity, clock: HandClock, aoi_id: str | None, soft: bool, left: str
) -> None:
    before, seal = validity.proof(), validity.validity_tokens.issue("a")
    assert standing(validity, before) == "VALID"
    assert validity.holds(before, "a")
    clock.skip(0.1)
    everything = validity.purge(aoi_id, soft=soft)
    assert everything == (aoi_id is None)
    assert seal.broken
    assert standing(validity, before) == left
    assert not validity.holds(before, "a")
    assert not validity.holds_fetch(before, "a")
    clock.skip(0.1)
    assert standing(validity, validity.proof()) == "VALID"
    assert validity.holds(validity.proof(), "a")
    if aoi_id is not None:
        assert standing(validity, before, "b") == "VALID"


def test_a_proof_of_the_moment_of_a_purge_is_not_later_than_it(validity: Validity) -> None:
    proof = validity.proof()
    validity.purge("a", soft=False)
    assert standing(validity, proof) == "NONE"


def test_a_purge_of_an_aoi_is_remembered_after_an_earlier_one_of_everything() -> None:
    times = InvalidationTimes()
    times.note("a", 1.0)
    times.note(None, 2.0)
    assert times.of("a") == times.of("b") == 2.0
    times.note("a", 3.0)
    assert (times.of("a"), times.of("b")) == (3.0, 2.0)


def test_a_purge_of_one_more_aoi_than_are_remembered_counts_as_one_of_everything() -> None:
    times = InvalidationTimes()
    assert not any(times.note(f"a{number}", 1.0) for number in range(10_000))
    assert times.note("b", 2.0)
    assert times.of("never purged") == 2.0


def test_no_copy_from_before_a_session_is_valid_in_it(validity: Validity, clock: HandClock) -> None:
    during, seal = validity.proof(), validity.validity_tokens.issue("a")
    validity.end_session()
    clock.skip(0.1)
    between = validity.proof()
    assert standing(validity, during) == standing(validity, between) == "VALID"
    validity.begin_session(clock.monotonic())
    assert standing(validity, during) == standing(validity, between) == "NONE"
    assert seal.broken
    assert not validity.holds(between, "a")
    assert not validity.holds_fetch(between, "a")


def test_a_session_that_begins_while_one_lasts_begins_without_proofs(validity: Validity, clock: HandClock) -> None:
    before, number = validity.proof(), validity.session
    validity.begin_session(clock.monotonic())
    assert standing(validity, before) == "NONE"
    assert validity.session == number + 1
    assert validity.is_live


def test_copies_of_a_session_end_max_age_after_the_last_ping_or_their_proof(
    validity: Validity, clock: HandClock
) -> None:
    pinged, during = clock.monotonic() - 0.1, validity.proof()  # the proof is the later of the two
    validity.end_session()
    clock.skip(2.0)
    between = validity.proof()
    clock.skip(pinged + 0.1 + MAX_AGE - clock.monotonic())
    assert standing(validity, during) == "VALID"
    clock.skip(0.01)
    assert standing(validity, during) == "NONE"
    assert standing(validity, between) == "VALID"
    clock.skip(2.0)
    assert standing(validity, between) == "NONE"


def test_copies_outlive_max_age_while_redis_is_down_for_all_and_no_longer(validity: Validity, clock: HandClock) -> None:
    during = validity.proof()
    validity.end_session()
    validity.down_for_all = True
    clock.skip(100 * MAX_AGE)
    assert standing(validity, during) == "VALID"
    validity.down_for_all = False
    assert standing(validity, during) == "NONE"
    validity.down_for_all = True
    validity.begin_session(clock.monotonic())
    assert not validity.down_for_all


def test_copies_of_the_session_before_last_are_not_valid_after_it(validity: Validity, clock: HandClock) -> None:
    first = validity.proof()
    validity.end_session()
    validity.begin_session(clock.monotonic())
    validity.end_session()
    assert standing(validity, first) == "NONE"


def test_a_session_ends_when_no_ping_was_answered_in_time(validity: Validity, clock: HandClock) -> None:
    proof = validity.proof()
    clock.skip(LIVE_SECONDS - 0.2)
    validity.answered(clock.monotonic())
    assert validity.validity_tokens.until == pytest.approx(clock.monotonic() + LIVE_SECONDS)
    clock.skip(LIVE_SECONDS - 0.01)
    assert standing(validity, proof) == "VALID"
    assert validity.proof().phase == proof.phase
    clock.skip(0.02)
    assert validity.proof().phase == proof.phase + 1
    assert validity.validity_tokens.until < 0
    assert not validity.holds(proof, "a")
    validity.answered(clock.monotonic())  # late: that session is over
    assert not validity.is_live


def test_a_reply_of_redis_that_crosses_the_end_of_a_session_proves_nothing_and_one_of_the_vendor_does(
    validity: Validity, clock: HandClock
) -> None:
    sent = validity.proof()
    validity.end_session()
    assert not validity.holds(sent, "a")
    assert validity.holds_fetch(sent, "a")
    clock.skip(0.1)
    validity.begin_session(clock.monotonic())
    assert not validity.holds_fetch(sent, "a")


def test_a_step_of_the_wall_clock_ends_every_proof(validity: Validity, clock: HandClock) -> None:
    proof = validity.proof()
    clock.step(3600.0)
    assert standing(validity, proof) == "NONE"
    assert not validity.holds(proof, "a")
    assert not validity.holds_fetch(proof, "a")
    assert validity.standing(validity.proof(), "a") is Standing.VALID


def test_the_name_of_the_purges_of_an_aoi_changes_with_each(validity: Validity, clock: HandClock) -> None:
    names = [validity.purges_of("a")]
    for aoi_id, soft in (("a", False), (None, False), ("a", True), (None, True)):
        clock.skip(0.1)
        validity.purge(aoi_id, soft=soft)
        names.append(validity.purges_of("a"))
    assert len(set(names)) == len(names)
