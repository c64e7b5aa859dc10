"""Which coding of a page a client takes, and whether it has the page already.

RFC 9110: Accept-Encoding (section 12.5.3), If-None-Match (section 13.1.2). Pure functions of header values.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

Coding = Literal["gzip", "identity"]

_QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?", re.ASCII)
_ETAG = re.compile(r'(?:W/)?"([^"]*)"')
GZIP_SUFFIX = "-gzip"


@lru_cache(maxsize=256)
def codings(accept_encoding: str | None) -> tuple[Coding, ...]:
    """The codings that are acceptable, the better one first; empty when neither is."""
    if accept_encoding is None:
        return ("identity",)
    weights: dict[str, float] = {}
    for item in accept_encoding.split(","):
        name, _, parameters = item.strip().partition(";")
        weights[name.strip().lower()] = _weight(parameters)
    others = weights.get("*")
    gzip = weights.get("gzip", weights.get("x-gzip", others or 0.0))
    # Identity is acceptable unless it, or everything else, is ruled out; unnamed, it is what comes last.
    identity = weights.get("identity", 0.0 if others == 0.0 else 0.0001)
    ranked: list[tuple[float, Coding]] = [(gzip, "gzip"), (identity, "identity")]
    return tuple(name for weight, name in sorted(ranked, key=lambda pair: -pair[0]) if weight > 0)


def _weight(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if not name.strip():
        return 1.0
    value = value.strip()
    return float(value) if name.strip().lower() == "q" and _QVALUE.fullmatch(value) else 0.0


def etag(name: str, coding: Coding) -> str:
    """The strong entity tag of a coding of a body."""
    return f'"{name}{GZIP_SUFFIX}"' if coding == "gzip" else f'"{name}"'


def is_known(name: str, if_none_match: str | None) -> bool:
    """Whether a client that sent this If-None-Match has the body already, in whatever coding."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    return any(tag.removesuffix(GZIP_SUFFIX) == name for tag in _ETAG.findall(if_none_match))
