"""What helps where Redis refuses a command that the gateway needs."""

from __future__ import annotations


def mend_for(codes: set[str], prefix: str) -> str:
    """Return the remedy for refusals with these codes."""
    if "READONLY" in codes:
        return "cache.url names a replica, which takes no writes: name the master, or ask Sentinels for it"
    if "OOM" in codes:
        return "it is full: maxmemory-policy allkeys-lru makes it forget by itself, or give it more maxmemory"
    if "MISCONF" in codes:
        return 'it cannot write its dump and refuses writes: mend its disk, or switch dumps off (save "")'
    if "unknown command" in codes:
        return "a command is renamed or disabled (rename-command in redis.conf): the gateway needs it by its own name"
    if "LOADING" in codes:
        return "it is still reading its dump: wait, or start it without one"
    return f"`ACL SETUSER USER ~{prefix}:* &{prefix}:* +@read +@write +@pubsub +@scripting +@connection +info +time`"
