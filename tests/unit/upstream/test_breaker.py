"""The breaker, by tables and by a walk at random."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.breaker import Breaker, BreakerPermit

COOLDOWN = 5.0


def opened(at: float = 0.0, failures: int = 3) -> Breaker:
    breaker = Breaker(failures, COOLDOWN)
    for _ in range(failures):
        breaker.leave(passed(breaker, at), at, well=False)
    return breaker


def state(breaker: Breaker) -> str:
    return breaker.state


def passed(breaker: Breaker, now: float) -> BreakerPermit:
    given_ = breaker.enter(now)
    assert given_ is not None
    return given_


def test_it_opens_after_so_many_in_a_row_and_not_before() -> None:
    breaker = Breaker(3, COOLDOWN)
    for well in (False, False, True, False, False, None, False):
        assert breaker.state == "closed"
        breaker.leave(passed(breaker, 0), 0, well=well)
    assert breaker.state == "open"


def test_just_before_the_cooldown_at_it_and_after() -> None:
    breaker = opened(at=10.0)
    assert breaker.wait(10.0) == 5.0
    assert breaker.enter(14.999) is None
    assert breaker.wait(15.0) is None
    assert breaker.wait(9.0) == 6.0  # a clock gone backwards
    assert breaker.enter(15.0) is not None
    assert breaker.state == "half_open"


def test_one_probe_at_a_time() -> None:
    breaker = opened()
    probe = passed(breaker, 5.0)
    assert breaker.enter(5.0) is None
    assert breaker.wait(5.0) == COOLDOWN
    breaker.leave(probe, 6.0, well=True)
    assert breaker.state == "closed"
    assert breaker.enter(6.0) is not None


def test_a_probe_that_fails_opens_it_for_another_cooldown() -> None:
    breaker = opened()
    breaker.leave(passed(breaker, 5.0), 7.0, well=False)
    assert breaker.wait(11.9) is not None
    assert breaker.wait(12.0) is None


def test_a_probe_that_was_called_off_leaves_room_for_the_next() -> None:
    breaker = opened()
    breaker.leave(passed(breaker, 5.0), 5.5, well=None)
    assert breaker.state == "open"
    assert breaker.enter(5.5) is not None


def test_what_comes_back_from_an_earlier_generation_counts_no_more() -> None:
    breaker = Breaker(1, COOLDOWN)
    late = [passed(breaker, 0) for _ in range(3)]
    breaker.leave(passed(breaker, 0), 0, well=False)
    breaker.leave(late[0], 1, well=True)
    assert state(breaker) == "open"
    probe = passed(breaker, 5)
    breaker.leave(late[1], 6, well=False)
    assert state(breaker) == "half_open"
    breaker.leave(probe, 6, well=True)
    breaker.leave(late[2], 7, well=False)
    assert state(breaker) == "closed"


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from([True, False, None, "enter"])), max_size=60))
def test_never_two_probes_and_never_a_call_while_it_is_open(steps: list[tuple[float, object]]) -> None:
    breaker, now, out = Breaker(2, COOLDOWN), 0.0, []
    for seconds, step in steps:
        now += seconds
        if step == "enter":
            wait, before = breaker.wait(now), breaker.state
            found = breaker.enter(now)
            assert (found is None) == (wait is not None)
            assert before != "half_open" or found is None
            if found is not None:
                out.append(found)
        elif out:
            assert step is None or isinstance(step, bool)
            breaker.leave(out.pop(0), now, well=step)
