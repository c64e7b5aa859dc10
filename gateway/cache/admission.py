"""From a vendor answer to an entry: what is stored of it, under which name, for how long."""

from __future__ import annotations

import math

from gateway.cache.page_template import derive_template
from gateway.cache.policy import not_found_lifetime, page_lifetime
from gateway.cache.signed_urls import last_use, link_expiries
from gateway.config.options import Lifetimes
from gateway.core.query import AssetsQuery
from gateway.storage.base import FetchedEntry
from gateway.storage.entry import Entry, LifetimeReason, compress, entity_tag
from gateway.storage.listing_index import PageRecord
from gateway.upstream.classification import FetchedPage


def admit(query: AssetsQuery, page: str, fetched: FetchedPage, lifetimes: Lifetimes, chance: float) -> FetchedEntry:
    """Make the entry of a fetched answer, to be kept as `page`. `chance` in [0, 1) spreads the lifetimes."""
    listing = fetched.listing
    if listing is None:
        lifetime = not_found_lifetime(fetched.caching, lifetimes, chance)
    else:
        lifetime = page_lifetime(listing, fetched.caching, lifetimes, chance)
    expires = fetched.arrived + lifetime.fresh
    caps, end = lifetime.caps, math.inf
    # Links that were dead on arrival cannot be saved by a shorter life, and would make every page a miss.
    if alive := [ends for ends in link_expiries(fetched.body) if ends > fetched.arrived]:
        end = last_use(min(alive), fetched.arrived, lifetimes.url_margin)
        if end < expires:
            caps = (*caps, "signed-url")
        elif end < expires + max(lifetime.grace, lifetime.keep):
            caps = (*caps, "signed-url-keep")
    whole = listing is not None and listing.is_whole
    mould = derive_template(fetched.body) if whole and listing is not None and listing.offset == query.offset else None
    entry = Entry(
        key=page,
        status=fetched.status,
        body=fetched.body,
        gzipped=None if listing is None else compress(fetched.body),
        etag=entity_tag(fetched.body),
        epoch="",
        generation="",
        rule=lifetime.rule,
        started=fetched.started,
        born=fetched.arrived - fetched.caching.age,
        fresh_until=min(expires, end),
        grace_until=min(expires + lifetime.grace, end),
        keep_until=min(expires + lifetime.keep, end),
        template=b"" if mould is None else mould.encode(),
        reckoning=LifetimeReason(fetched.arrived, lifetime.told, lifetime.jitter, caps),
    )
    shown = PageRecord(
        offset=query.offset,
        limit=query.limit,
        effective_limit=0 if listing is None else listing.limit,
        ids=listing.ids if listing is not None and whole else b"",
        started=entry.started,
        fresh_until=entry.fresh_until,
        grace_until=entry.grace_until,
        until=entry.last_use,
        sliceable=mould is not None,
        shift=0 if listing is None else listing.offset - query.offset,
    )
    return FetchedEntry(entry, shown, None if listing is None else listing.total)
