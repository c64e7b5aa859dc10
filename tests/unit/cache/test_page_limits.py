"""What is known of the vendor's limits."""

from __future__ import annotations

import pytest

from gateway.cache.page_limits import PageLimits


def learned(*seen: tuple[int, int, int], began: float = 0.0) -> PageLimits:
    limits = PageLimits()
    for number, (asked, printed, count) in enumerate(seen):
        limits.learn(asked, printed, count, began + number)
    return limits


def test_nothing_is_known_at_first() -> None:
    assert PageLimits().effective(1) is None
    assert not PageLimits().has_sent(1)
    assert PageLimits().has_sent(0)


@pytest.mark.parametrize(
    ("seen", "asked", "printed"),
    [
        ([(50, 50, 50)], 50, 50),
        ([(50, 50, 50)], 1, 1),
        ([(50, 50, 50)], 51, None),
        ([(100, 50, 50)], 100, 50),
        ([(100, 50, 50)], 99, None),
        ([(100, 50, 50)], 50, None),
        ([(100, 50, 50), (50, 50, 50)], 30, 30),
        ([(100, 50, 50), (70, 50, 50)], 70, 50),
        ([(1, 10, 10)], 1, 10),
        # Contradictions: what was known before counts no more.
        ([(50, 50, 50), (40, 30, 30)], 50, None),
        ([(50, 50, 50), (40, 30, 30)], 40, 30),
        ([(100, 50, 50), (100, 60, 60)], 100, 60),
        ([(100, 50, 50), (90, 50, 50), (100, 60, 60)], 90, None),
        ([(100, 50, 50), (120, 120, 120)], 100, 100),
        ([(100, 50, 50), (40, 40, 40), (100, 100, 100)], 40, 40),
    ],
)
def test_what_was_seen_is_what_is_known(seen: list[tuple[int, int, int]], asked: int, printed: int | None) -> None:
    assert learned(*seen).effective(asked) == printed


def test_what_began_before_a_contradiction_is_not_learned_again() -> None:
    limits = learned((100, 100, 100), (100, 20, 20))
    limits.learn(100, 100, 100, 0.5)
    assert limits.effective(50) is None
    limits.learn(100, 100, 100, 2.0)
    assert limits.effective(50) == 50


def test_an_observation_that_began_earlier_does_not_correct_a_later_one() -> None:
    limits = PageLimits()
    limits.learn(100, 50, 50, 5.0)
    limits.learn(100, 100, 100, 3.0)
    assert limits.effective(100) == 50
    limits.learn(40, 40, 40, 4.0)  # it contradicts nothing
    assert limits.effective(40) == 40
    limits.learn(30, 20, 20, 3.5)
    assert limits.effective(30) == 30
    assert limits.contradictions == 0


def test_a_limit_that_is_printed_is_not_yet_one_that_is_delivered() -> None:
    limits = learned((1000, 1000, 5))
    assert limits.effective(300) == 300
    assert limits.has_sent(5)
    assert not limits.has_sent(6)


def test_what_is_remembered_is_bounded() -> None:
    limits = learned(*((asked, 10, 10) for asked in range(11, 5000)))
    assert sum(limits.effective(asked) is not None for asked in range(11, 5000)) <= 1000


def test_page_contradicts_what_began_earlier_though_another_one_that_began_later_has_arrived() -> None:
    limits = learned((40, 25, 25))
    limits.learn(25, 25, 25, 3.0)
    limits.learn(40, 40, 40, 2.0)
    assert limits.effective(40) == 40
    limits.learn(40, 25, 25, 1.0)  # from before the contradiction
    assert limits.effective(40) == 40


def test_contradiction_leaves_what_began_later() -> None:
    limits = learned((100, 50, 50), (60, 60, 60))
    assert (limits.effective(100), limits.effective(60)) == (50, 60)
    limits.learn(20, 20, 20, 4.0)
    limits.learn(60, 30, 30, 3.0)
    assert (limits.effective(100), limits.effective(60), limits.effective(20), limits.effective(40)) == (
        None,
        30,
        20,
        None,
    )


def test_a_contradiction_is_counted_and_told_and_ends_what_began_before_it() -> None:
    told: list[None] = []
    limits = PageLimits(forgotten=lambda: told.append(None))
    limits.learn(10, 10, 10, started=0.0)
    assert (limits.contradictions, len(told)) == (0, 0)
    limits.learn(10, 5, 5, started=5.0)
    assert (limits.contradictions, len(told)) == (1, 1)
    limits.learn(7, 7, 5, started=3.0)  # contradicts nothing that is known now
    assert limits.effective(7) is None
    assert limits.effective(10) == 5
