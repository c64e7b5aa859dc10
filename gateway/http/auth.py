"""Authenticate a request: its token identifies a team, or the answer is 401."""

from __future__ import annotations

import base64
from dataclasses import replace

from aiohttp.web import BaseRequest

from gateway.core.errors import Unauthorized
from gateway.core.events import AuthFailed, Emit
from gateway.core.hosts import is_loopback
from gateway.teams.roster import ANONYMOUS, Roster, Team

# In open mode a client on this machine runs the gateway, so to speak.
_OWNER = replace(ANONYMOUS, scopes=frozenset({"admin"}))

# With any of these the peer is a proxy, and who is behind it cannot be told.
_FORWARDING = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")


class Authenticator:
    """Tells who is asking; `roster` is None in open mode, where everybody is anonymous.

    `local` tells that this listener is on loopback, and so open mode grants `admin` to clients on this machine.
    """

    def __init__(self, roster: Roster | None, emit: Emit, *, local: bool) -> None:
        self._roster = roster
        self._local = local
        self._emit = emit

    def adopt(self, roster: Roster | None) -> None:
        """Let these teams in from now on."""
        self._roster = roster

    def team_of(self, request: BaseRequest, *, browser: bool = False) -> Team:
        """The team whose token the request has; for a `browser`, Basic's password is one. Raises Unauthorized."""
        if self._roster is None:
            return _OWNER if self._local and _is_direct(request) else ANONYMOUS
        tokens = _tokens(request, basic=browser)
        if len(tokens) > 1:
            raise self._failed("conflicting", browser)
        if not tokens:
            raise self._failed("missing", browser)
        team = self._roster.find(tokens.pop())
        if team is None:
            raise self._failed("unknown", browser)
        return team

    def _failed(self, reason: str, browser: bool) -> Unauthorized:
        self._emit(AuthFailed(reason))
        return Unauthorized(reason, browser=browser)


def _is_direct(request: BaseRequest) -> bool:
    """Whether the client itself is on this machine, rather than a proxy on behalf of somebody."""
    return is_loopback(request.remote or "") and not any(name in request.headers for name in _FORWARDING)


def _tokens(request: BaseRequest, *, basic: bool) -> set[str]:
    """Every token of the request: bare or after Bearer in Authorization, in X-API-Key, or Basic's password."""
    found = set()
    for value in request.headers.getall("Authorization", ()):
        scheme, blank, rest = value.strip().partition(" ")
        if basic and blank and scheme.lower() == "basic":
            found.add(_password(rest.strip()))
        else:
            found.add(rest.strip() if blank and scheme.lower() == "bearer" else value.strip())
    found.update(value.strip() for value in request.headers.getall("X-API-Key", ()))
    return found - {""}


def _password(credentials: str) -> str:
    """What is behind the first colon (RFC 7617, section 2); credentials that are none are nobody's token either."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:  # no base64, or no UTF-8
        return credentials
