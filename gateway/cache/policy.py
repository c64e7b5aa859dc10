"""How long an answer may be used, and what to do with one that is at hand.

Decisions are functions of values, the time included. Lifetimes are computed once, when an answer arrives, as Varnish
does with ttl, grace and keep: fresh, then grace (served at once, refreshed behind the client's back; RFC 5861,
stale-while-revalidate), then keep (served only if the vendor fails; stale-if-error).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from gateway.config.options import Lifetimes
from gateway.core.cache_control import VendorCaching
from gateway.core.listing import Listing
from gateway.storage.entry import Cap, Entry

# The longest freshness that is taken from a vendor's header.
LONGEST_FRESH = 86_400.0


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Seconds from arrival to expiry, then of grace and of keep, both counted from expiry; `rule` names why.

    For those who ask why: `told` is what the rule alone gives, `jitter` the share that it was shortened by, and `caps`
    name what else was taken away (see `LifetimeReason`).
    """

    rule: str
    fresh: float
    grace: float
    keep: float
    told: float = field(default=0.0, compare=False)
    jitter: float = field(default=0.0, compare=False)
    caps: tuple[Cap, ...] = field(default=(), compare=False)


class Serve(msgspec.Struct, frozen=True):
    """The entry is fresh."""

    entry: Entry


class ServeAndRefresh(msgspec.Struct, frozen=True):
    """The entry is in grace: good enough for this client, and due for a refresh."""

    entry: Entry


class Fetch(msgspec.Struct, frozen=True):
    """The vendor must be asked; `fallback` may be served if it fails, `expired` tells that a copy existed at all."""

    fallback: Entry | None
    expired: bool


Decision = Serve | ServeAndRefresh | Fetch


def decide(entry: Entry | None, now: float, *, current: bool = True) -> Decision:
    """What may be done with the entry at hand at `now` (Unix time, seconds).

    One whose generation has ended (not `current`) is no answer any more, but better than none if the vendor fails.
    """
    if entry is None:
        return Fetch(fallback=None, expired=False)
    if current and now < entry.fresh_until:
        return Serve(entry)
    if current and now < entry.grace_until:
        return ServeAndRefresh(entry)
    kept = entry.status == 200 and now < entry.keep_until
    return Fetch(fallback=entry if kept else None, expired=True)


def page_lifetime(listing: Listing, vendor: VendorCaching, lifetimes: Lifetimes, chance: float) -> Lifetime:
    """Lifetime of a 200; `chance` in [0, 1) spreads it (see `Lifetimes.jitter`)."""
    if listing.count == 0:
        rule, fresh = "empty", lifetimes.empty
    elif listing.settled:
        rule, fresh = "settled", lifetimes.settled
    else:
        rule, fresh = "in_progress", lifetimes.in_progress
    return _lifetime(Lifetime(rule, fresh, lifetimes.grace, lifetimes.keep), vendor, lifetimes.jitter * chance)


def not_found_lifetime(vendor: VendorCaching, lifetimes: Lifetimes, chance: float) -> Lifetime:
    """Lifetime of a 404, which has neither grace nor keep."""
    return _lifetime(Lifetime("not_found", lifetimes.not_found, 0.0, 0.0), vendor, lifetimes.jitter * chance)


def _lifetime(told: Lifetime, vendor: VendorCaching, shorter: float) -> Lifetime:
    """What the configuration says, as the vendor allows it, a share `shorter`."""
    rule, first, caps = told.rule, told.fresh, list[Cap]()
    if vendor.fresh_for is not None:
        rule, first = vendor.said_by, max(0.0, vendor.fresh_for - vendor.age)
        if first > LONGEST_FRESH:
            first = LONGEST_FRESH
            caps.append("one-day")
    fresh = first * (1.0 - shorter)
    # Grace never lasts longer than the page was fresh: a page that lives ten seconds is not shown for a minute.
    grace, keep = min(told.grace, fresh), told.keep
    if not vendor.stale_allowed:
        grace = keep = 0.0
        caps.append("no-stale")
    return Lifetime(rule, fresh, grace, keep, told=first, jitter=shorter, caps=tuple(caps))
