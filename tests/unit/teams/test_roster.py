"""Tokens and teams."""

from __future__ import annotations

import hashlib
import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.options import TeamOptions
from gateway.teams.roster import Roster, aoi_pattern


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


@given(st.text("ab-*", min_size=1, max_size=8), st.text("ab-", min_size=1, max_size=12))
def test_a_star_stands_for_any_run_of_characters(pattern: str, aoi_id: str) -> None:
    assert (aoi_pattern([pattern]).fullmatch(aoi_id) is not None) == fnmatchcase(aoi_id, pattern)


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    began = time.thread_time()
    assert aoi_pattern(["*" + "-*" * 20 + "x"]).fullmatch("-" * 64) is None  # by trying, some 10^15 steps
    assert time.thread_time() - began < 1.0
