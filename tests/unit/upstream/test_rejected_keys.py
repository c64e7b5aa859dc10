"""A refused key."""

from __future__ import annotations

import pytest

from gateway.upstream.rejected_keys import RejectedKeyBackoff

KEYS = ("k",)


def refused(*statuses: int, worked: bool) -> RejectedKeyBackoff:
    holds = RejectedKeyBackoff()
    assert holds.wait(KEYS, "a", 0) is None
    holds.fetch_started(KEYS, "a", 0)
    if worked:
        holds.key_accepted(KEYS, "z")
    holds.key_rejected(KEYS, "a", statuses, 0.0)
    return holds


@pytest.mark.parametrize(
    ("statuses", "worked", "others_too"),
    [
        ((401,), True, True),
        ((401,), False, True),
        ((403,), True, False),
        ((403,), False, True),
        ((401, 403), True, False),
    ],
)
def test_what_a_refusal_holds(statuses: tuple[int, ...], worked: bool, others_too: bool) -> None:
    holds = refused(*statuses, worked=worked)
    assert holds.wait(KEYS, "a", 0.0) == 10.0
    assert (holds.wait(KEYS, "b", 0.0) == 10.0) == others_too
    assert holds.wait(KEYS, "a", 9.9) is not None
    assert holds.wait(KEYS, "a", 10.0) is None


@pytest.mark.parametrize("status", [401, 403])
def test_one_try_at_a_time(status: int) -> None:
    holds = refused(status, worked=True)
    holds.fetch_started(KEYS, "a", 10.0)
    assert holds.wait(KEYS, "a", 10.0) == 10.0
    holds.key_accepted(KEYS, "a")
    assert holds.wait(KEYS, "a", 10.0) is None


def test_other_keys_are_not_held() -> None:
    holds = refused(401, worked=True)
    assert holds.wait(("l",), "a", 1.0) is None
    holds.fetch_started(("l",), "a", 1.0)
    holds.key_rejected(("l",), "a", (403,), 1.0)
    assert holds.wait(("l",), "b", 1.0) is not None  # which has never worked


def test_what_comes_late_of_keys_that_were_replaced_says_nothing_of_others() -> None:
    holds = RejectedKeyBackoff()
    holds.fetch_started(KEYS, "a", 0.0)
    holds.fetch_started(("l",), "b", 1.0)
    holds.key_rejected(KEYS, "a", (401,), 2.0)
    assert holds.wait(("l",), "b", 2.0) is None
    holds.key_accepted(KEYS, "a")
    holds.key_rejected(("l",), "b", (403,), 3.0)
    assert holds.wait(("l",), "c", 3.0) is not None  # which has never worked, whatever the other one did
    assert holds.wait(KEYS, "a", 3.0) is None
    assert holds.wait(("l",), "c", 3.0) is not None  # and who asks with the old ones changes nothing


def test_what_is_remembered_is_bounded() -> None:
    holds = RejectedKeyBackoff()
    holds.fetch_started(KEYS, "a", 0)
    holds.key_accepted(KEYS, "a")
    for number in range(25_000):
        holds.key_rejected(KEYS, str(number), (403,), 0.0)
    assert len(holds._aois) <= 10_000
