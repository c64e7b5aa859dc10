"""The two tokens of a purge epoch.

An epoch is written `all/aoi`: the token pair of everything and that of the AOI. A pair is written `purge.soft`. A
purge replaces both of a pair, a soft purge the second alone. Tokens are random and never counters, so that a token
which Redis has lost is replaced by one that fits nothing.
"""

from __future__ import annotations


def hard(epoch: str) -> str:
    """Give the part of an epoch that only a purge changes, and no soft purge."""
    return "/".join(pair.partition(".")[0] for pair in epoch.split("/"))


def survives_purges(epoch: str, current: str) -> bool:
    """Tell whether nothing was purged between an epoch and the current one. Soft purges do not count."""
    return epoch == current or hard(epoch) == hard(current)
