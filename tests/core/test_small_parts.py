"""Teams, retries and the vendor key."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from fnmatch import fnmatchcase
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.options import TeamOptions
from gateway.teams.roster import Roster, aoi_pattern
from gateway.upstream.keys import KeyRing, VendorKey
from gateway.upstream.retry import RetryBudget, backoff


def test_a_token_finds_its_team_and_no_other() -> None:
    digests = [hashlib.sha256(token.encode()).hexdigest() for token in ("one", "two", "three")]
    roster = Roster({"a": TeamOptions(token_sha256=digests[:2]), "b": TeamOptions(token_sha256=digests[2:])})
    found = [roster.find(token) for token in ("one", "two", "three")]
    assert [team and team.name for team in found] == ["a", "a", "b"]
    for stranger in ("", "One", "one ", digests[0], "four", "\udcff"):
        assert roster.find(stranger) is None


@pytest.mark.parametrize(
    ("patterns", "readable", "hidden"),
    [
        (["*"], ["a", "Z-9_"], []),
        (["a1"], ["a1"], ["A1", "a11", "xa1", ""]),
        (["a*"], ["a", "a1", "abc"], ["ba", "A1"]),
        (["*-prod", "x"], ["a-prod", "x"], ["a-prod-2", "xx"]),
        (["a*c"], ["ac", "abc"], ["ab", "cab"]),
        ([], [], ["a", ""]),
    ],
)
def test_aoi_patterns_are_anchored_and_case_sensitive(
    patterns: list[str], readable: list[str], hidden: list[str]
) -> None:
    pattern = aoi_pattern(patterns)
    assert all(pattern.fullmatch(aoi_id) for aoi_id in readable)
    assert not any(pattern.fullmatch(aoi_id) for aoi_id in hidden)


def test_retries_are_a_share_of_calls_and_some_to_start_with() -> None:
    budget = RetryBudget(0.1)
    assert sum(budget.take() for _ in range(100)) == 10
    for _ in range(1000):
        budget.called()
    assert sum(budget.take() for _ in range(1000)) in (99, 100)  # tenths do not add up exactly


@given(st.text("ab-*", min_size=1, max_size=8), st.text("ab-", min_size=1, max_size=12))
def test_a_star_stands_for_any_run_of_characters(pattern: str, aoi_id: str) -> None:
    assert (aoi_pattern([pattern]).fullmatch(aoi_id) is not None) == fnmatchcase(aoi_id, pattern)


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    began = time.thread_time()
    assert aoi_pattern(["*" + "-*" * 20 + "x"]).fullmatch("-" * 64) is None  # by trying, some 10^15 steps
    assert time.thread_time() - began < 1.0


@pytest.mark.parametrize(
    ("attempt", "chance", "seconds"), [(1, 0.0, 0.0), (1, 0.5, 0.05), (2, 0.5, 0.1), (10, 0.5, 1.0)]
)
def test_backoff_doubles_is_jittered_and_has_an_end(attempt: int, chance: float, seconds: float) -> None:
    assert backoff(attempt, chance) == pytest.approx(seconds)


def test_the_key_hides_and_is_found_in_every_form() -> None:
    value = "a+b/c==d e"
    key = VendorKey(value)
    assert value not in f"{key} {key!r} {KeyRing(value)} {KeyRing(value)!r} {vars(KeyRing(value))}"
    for form in (
        value, quote(value, safe=""), base64.b64encode(value.encode()).decode(),
        base64.urlsafe_b64encode(value.encode()).decode().rstrip("="),
    ):  # fmt: skip
        data = f'{{"x":"{form}"}}'.encode()
        assert key.stands_in(data)
        assert key.withhold(data) == b'{"x":"[withheld]"}'
    for escaped in (rb'"a+b\/c==d e"', rb'"a\u002bb\u002Fc\u003d\u003dd e"', b'"a%2bb%2fc%3d%3dd%20e"'):
        assert key.stands_in(escaped)
    assert not key.stands_in(b"something else")
    assert not VendorKey("k").stands_in(b"any ink")


def test_the_key_is_withheld_however_a_log_writes_it_down() -> None:
    value = r"""k3y"With\Odd'Characters"""
    for text in (value, repr(value), json.dumps(value), json.dumps(repr(ValueError(value)))):
        assert b"Odd" not in VendorKey(value).withhold(text.encode())


def test_the_previous_key_is_tried_second_and_only_if_it_differs() -> None:
    assert [key.reveal() for key in KeyRing("new", "old").in_order()] == ["new", "old"]
    assert [key.reveal() for key in KeyRing("new", "new").in_order()] == ["new"]
