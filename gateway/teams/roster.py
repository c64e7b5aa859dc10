"""Teams, their tokens and the AOIs that they may read. `http.auth` finds the token in a request."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.config.options import TeamOptions
from gateway.teams.tokens import token_digest


@dataclass(frozen=True, slots=True)
class Team:
    """A configured team, or the anonymous one of open mode. `readable` matches the AOI ids that it may read."""

    name: str
    scopes: frozenset[str] = frozenset()
    readable: re.Pattern[str] = field(default_factory=lambda: aoi_pattern(["*"]))

    def may_read(self, aoi_id: str) -> bool:
        """Whether the AOI is one of the team's."""
        return self.readable.fullmatch(aoi_id) is not None


def aoi_pattern(patterns: Iterable[str]) -> re.Pattern[str]:
    """Compile AOI patterns, in which * stands for any run of characters, to one anchored expression."""
    return re.compile("|".join(map(_expression, patterns)) or r"(?!)")


def _expression(pattern: str) -> str:
    """Each piece between two stars is taken where it comes first, for good: trying others as well takes for ever."""
    first, *rest = map(re.escape, pattern.split("*"))
    return first + "".join(f"(?>.*?{piece})" for piece in rest[:-1]) + "".join(f".*{piece}" for piece in rest[-1:])


ANONYMOUS = Team("anonymous")


class Roster:
    """Every team by the digests of its tokens."""

    def __init__(self, teams: Mapping[str, TeamOptions]) -> None:
        self._by_digest: dict[str, tuple[str, Team]] = {}
        for name, options in teams.items():
            team = Team(name, frozenset(options.scopes), aoi_pattern(options.aois))
            self._by_digest.update((digest, (digest, team)) for digest in options.token_sha256)

    def find(self, token: str) -> Team | None:
        """The team whose token this is.

        The look-up is by digest: what its time might tell is about digests, from which no token follows.
        """
        digest = token_digest(token)
        known = self._by_digest.get(digest)
        if known is None or not hmac.compare_digest(known[0], digest):
            return None
        return known[1]
