"""What no single section of the configuration can judge: each rule over several of them, as a finding.

Pure: whether a file can be read is asked elsewhere. Refuses to know where a setting was written; a finding names keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.config.names import Key
from gateway.config.options import (
    RESERVED_TEAM_NAMES,
    TEAM_NAME,
    AuthOptions,
    CacheOptions,
    OpsOptions,
    ServerOptions,
    TeamOptions,
    UpstreamOptions,
)
from gateway.core.hosts import collide, is_loopback

_HOST, _MODE, _TEAMS = ("server", "host"), ("auth", "mode"), ("teams",)
_NO_WAY_IN = "lets nobody in: no team has a token; make one with `pixxel-gateway token new --team NAME`"


@dataclass(frozen=True)
class Finding:
    """Something about the setting `at`: a fault if `fatal`, else a warning.

    It counts only if nothing in `uses` (by default `at` itself) was refused, so that one mistake is one fault.
    """

    at: Key
    what: str
    uses: tuple[Key, ...] = ()
    fatal: bool = True


class Sections(Protocol):
    """The sections that the rules look at."""

    @property
    def server(self) -> ServerOptions:
        """Client listener."""

    @property
    def ops(self) -> OpsOptions:
        """Operations listener."""

    @property
    def upstream(self) -> UpstreamOptions:
        """Vendor."""

    @property
    def cache(self) -> CacheOptions:
        """Cache."""

    @property
    def auth(self) -> AuthOptions:
        """Authentication."""

    @property
    def teams(self) -> Mapping[str, TeamOptions]:
        """Teams by name."""


def crosscheck(options: Sections, cache_url: str) -> Iterator[Finding]:
    """Every rule that the options break; `cache_url` is the one in effect."""
    yield from _admission(options)
    yield from _team_names(options.teams)
    yield from _shared_digests(options.teams)
    yield from _listeners(options)
    yield from _timeouts(options.upstream)
    if options.server.workers > 1 and cache_url.startswith("memory://"):
        what = "is more than 1 while cache.url is memory://: each worker keeps its own cache and its own limits"
        yield Finding(
            ("server", "workers"), what, (("server", "workers"), ("cache", "url"), ("cache", "url_file")), fatal=False
        )


def _admission(options: Sections) -> Iterator[Finding]:
    tokens = any(team.token_sha256 for team in options.teams.values())
    mode = options.auth.mode
    if mode is None and not options.teams and not is_loopback(options.server.host):
        yield Finding(
            _HOST,
            "is not a loopback address, and no team is configured: configure a team (`pixxel-gateway token new --team "
            'NAME`), or let everybody in with auth.mode = "open", or listen on 127.0.0.1',
            (_HOST, _MODE, _TEAMS),
        )
    if mode == "tokens" and not tokens:
        yield Finding(_MODE, _NO_WAY_IN, (_TEAMS,))
    if mode is None and options.teams and not tokens:
        # Not fatal: emptying the last list is how an operator shuts a leaked token out, by a reload.
        yield Finding(_TEAMS, _NO_WAY_IN, (_MODE, _TEAMS), fatal=False)
    if mode == "open" and options.teams:
        yield Finding(_MODE, "is open, so that the configured teams' tokens and limits mean nothing", fatal=False)


def _team_names(teams: Mapping[str, TeamOptions]) -> Iterator[Finding]:
    for name in teams:
        if not TEAM_NAME.fullmatch(name):
            yield Finding((*_TEAMS, name), "is not a team's name, which is 1 to 64 of A-Z a-z 0-9 _ -")
        if name in RESERVED_TEAM_NAMES:
            yield Finding((*_TEAMS, name), "is a name that the metrics need for themselves; choose another")


def _shared_digests(teams: Mapping[str, TeamOptions]) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for name, team in teams.items():
        others = {owners.setdefault(digest, name) for digest in team.token_sha256} - {name}
        for other in sorted(others):
            yield Finding((*_TEAMS, name, "token_sha256"), f"holds a digest that teams.{other} holds too")


def _listeners(options: Sections) -> Iterator[Finding]:
    server, ops = options.server, options.ops
    port = ("ops", "port")
    if ops.port is None:
        if not is_loopback(server.host):
            what = "is unset: /metrics, /healthz and /readyz are reachable by every client; set ops.port"
            yield Finding(port, what, (_HOST, port), fatal=False)
    elif ops.port == server.port != 0 and collide(ops.host or "127.0.0.1", server.host):
        yield Finding(
            port, "is server.port, on the same host; choose another", (_HOST, ("server", "port"), ("ops", "host"), port)
        )


def _timeouts(upstream: UpstreamOptions) -> Iterator[Finding]:
    deadline = ("upstream", "deadline")
    for name in ("connect_timeout", "attempt_timeout"):
        if getattr(upstream, name) > upstream.deadline:
            what = "is longer than upstream.deadline, which ends it first"
            yield Finding(("upstream", name), what, (deadline, ("upstream", name)), fatal=False)
