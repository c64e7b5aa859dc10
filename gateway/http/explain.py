"""Why this answer? The `X-Explain` header: which copy, rule and cap decided, for whoever asks at three in the morning.

It is a dictionary of structured fields (RFC 9651, section 3.2), so that programs can read it too. How long something
is good for is told in seconds from now, negative where that is over; moments are ISO 8601 in UTC, because the Date of
RFC 9651 is a number that nobody reads. Nothing here is computed unless a request has `X-Explain: 1` and may know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from aiohttp import web

from gateway.cache.handler import CacheAnswer, Forward
from gateway.cache.windows import pages_of
from gateway.core.errors import UpstreamError, UpstreamRefusal
from gateway.http.errors import Problem, problem_of
from gateway.storage.entry import Entry
from gateway.teams.roster import ANONYMOUS, Team

HEADER = "X-Explain"


def is_requested(request: web.BaseRequest, team: Team) -> bool:
    """Whether the request has `X-Explain: 1`, once, and its team may know: any in open mode, else with scope `admin`.

    All else is as if the header were absent.
    """
    if HEADER not in request.headers or request.headers.getall(HEADER) != ["1"]:
        return False
    return team.name == ANONYMOUS.name or "admin" in team.scopes


def explanation(answer: CacheAnswer, *, refresh_denied: bool) -> str:
    """How this answer came about; `refresh_denied` tells that its client wished for a refresh without the scope."""
    told = {"decision": answer.result, **_way(answer)}
    if answer.too_soon or refresh_denied:
        told["refresh"] = "not-allowed" if refresh_denied else "too-soon"
    return _dictionary(told | _life(answer.entry, answer.now))


def explained(error: Exception, lack: str | None, tier: str, entry: Entry | None, now: float) -> Problem:
    """The answer for an error of the cache, with the header.

    `lack` is what was wrong with what is cached, `entry` the page itself, which `tier` has, as it stands at `now` (Unix
    time); both None where there is no such thing.
    """
    problem = problem_of(error)
    # A refusal has the vendor's own code, which may be anything.
    code = "vendor_refused" if isinstance(error, UpstreamRefusal) else problem.code
    status = error.status if isinstance(error, UpstreamError | UpstreamRefusal) else None
    told = {"decision": "error", "reason": _with_status(code, status)}
    if lack is not None:
        told["why"] = lack
    if entry is not None:
        told |= {"tier": tier, **_life(entry, now)}
    problem.headers = {**problem.headers, HEADER: _dictionary(told)}
    return problem


def _way(answer: CacheAnswer) -> dict[str, str]:
    """Where the entry was, why it was not enough, and what came of asking the vendor."""
    forward = answer.forward
    if forward is None:
        return {"tier": answer.tier, **({"why": "grace"} if answer.result == "stale" else {})}
    # Who waited for a page that came meanwhile by another way finds nothing wrong with what there is.
    lack = None if answer.lookup is None else answer.lookup.lack
    why = "requested" if forward.reason == "request" else lack or "expired"
    if forward.failed:
        return {"tier": answer.tier, "why": why, "reason": _with_status(_failure(forward), forward.status)}
    stored = (
        "?1"
        if forward.stored
        else "?0"
        if forward.not_stored_because is None
        else f"?0;why={forward.not_stored_because}"
    )
    return {"tier": "replica" if forward.elsewhere else "vendor", "why": why, "stored": stored}


def _failure(forward: Forward) -> str:
    """The code that the error would have had; `patience`, if it is only that nobody waited longer."""
    if forward.error is None or not issubclass(forward.error, UpstreamError):
        return "patience"
    return problem_of(forward.error()).code


def _life(entry: Entry, now: float) -> dict[str, str]:
    """What the entry is, how long it may still be used and what decided that."""
    told = {"generation": _string(entry.generation)} if entry.generation else {}
    reckoning = entry.reckoning
    told |= {
        "fetched": _moment(entry.started if reckoning is None else reckoning.arrived),
        "ttl": _decimal(entry.fresh_until - now),
        "grace": _decimal(entry.grace_until - now),
        "keep": _decimal(entry.keep_until - now),
        "rule": entry.rule,
    }
    if reckoning is not None:
        told["rule"] += f";seconds={_decimal(reckoning.told)}"
        told["lifetime"] = f"{_decimal(entry.fresh_until - reckoning.arrived)};jitter={reckoning.jitter:.3f}"
        told["cap"] = _list(reckoning.caps)
    if sources := pages_of(entry.key):
        told["from"] = _list(
            f'"offset={offset}&limit={limit}";began={_moment(started)}' for offset, limit, started in sources
        )
    return told


def _with_status(reason: str, status: int | None) -> str:
    return reason if status is None else f"{reason};status={status}"


def _dictionary(members: Mapping[str, str]) -> str:
    # RFC 9651, section 4.1.2: a member whose value is true is written without it.
    return ", ".join(name if value == "?1" else f"{name}={value}" for name, value in members.items())


def _list(items: Iterable[str]) -> str:
    return f"({' '.join(items)})"


def _decimal(seconds: float) -> str:
    return f"{seconds:.1f}"


def _moment(at: float) -> str:
    return _string(datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"))


def _string(text: str) -> str:
    """Of letters, digits and the like: there is nothing to escape (RFC 9651, section 4.1.6)."""
    return f'"{text}"'
