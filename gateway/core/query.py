"""What a client asks for, parsed once into one frozen value.

This file owns the grammar of AOI ids and query strings, and the canonical string from which both the vendor's URL
and the cache key are made, so that the two cannot disagree. It refuses to know HTTP, stores and teams.

The grammar is narrower than what Python's `int()` and URL libraries take, on purpose: everything is matched as ASCII
before it is used, so nothing that a client sends can leave its place in the vendor's URL.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from gateway.core.errors import BadAoiId, BadQuery

DEFAULT_OFFSET = 0
DEFAULT_LIMIT = 10

_AOI_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_FILTER_VALUE = re.compile(r"[ -~]{1,128}", re.ASCII)
_PRINTABLE = re.compile(r"[!-~]{1,64}", re.ASCII)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class QueryRules:
    """What the operator allows: the largest `limit`, and names of further parameters that pass to the vendor."""

    max_limit: int = 1000
    filters: tuple[str, ...] = ()


class Address(NamedTuple):
    """The names under which a page, and the listing that it is part of, are kept.

    The AOI stands in braces: Redis Cluster then keeps everything of one AOI in one slot (cluster specification, hash
    tags).
    """

    aoi_id: str
    listing: str
    page: str
    offset: int
    limit: int


class AssetsQuery(msgspec.Struct, frozen=True):
    """One page of one listing. `filters` are decoded (name, value) pairs, sorted by name."""

    aoi_id: str
    offset: int = DEFAULT_OFFSET
    limit: int = DEFAULT_LIMIT
    filters: tuple[tuple[str, str], ...] = ()

    @property
    def canonical(self) -> str:
        """The query string in its one form: offset, limit, then filters by name, percent-encoded."""
        window = f"offset={self.offset}&limit={self.limit}"
        return f"{window}&{_filters_text(self.filters)}" if self.filters else window

    @property
    def target(self) -> str:
        """Path and query of the vendor's URL."""
        return f"/v0/aois/{self.aoi_id}/assets?{self.canonical}"

    def window(self, offset: int, limit: int) -> AssetsQuery:
        """Another window of the same listing."""
        return AssetsQuery(self.aoi_id, offset, limit, self.filters)

    def address(self, scope: str) -> Address:
        """Where this page is kept in every store; `scope` tells vendors and accounts apart (see `key_scope`)."""
        tag = f"{{{self.aoi_id}}}"
        filters = _filters_text(self.filters)
        named = hashlib.blake2b(filters.encode(), digest_size=8).hexdigest() if filters else "all"
        return Address(
            self.aoi_id,
            f"{tag}:list:{scope}:{named}",
            f"{tag}:page:{scope}:{self.canonical}",
            self.offset,
            self.limit,
        )


def _filters_text(filters: tuple[tuple[str, str], ...]) -> str:
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in filters)


def key_scope(base_url: str, account: str) -> str:
    """Short digest of the vendor's address and the account, so that neither can smuggle a brace into a key."""
    return hashlib.blake2b(f"{base_url}\n{account}".encode(), digest_size=8).hexdigest()


def parse_assets_query(raw_aoi_id: str, raw_query: str, rules: QueryRules) -> AssetsQuery:
    """Parse the raw path segment and the raw query string, both as they stood in the request target.

    Raises BadAoiId or BadQuery.
    """
    return parse_query(parse_aoi_id(raw_aoi_id), raw_query, rules)


def parse_aoi_id(raw: str) -> str:
    """Decode a raw path segment once and match it. Raises BadAoiId."""
    try:
        decoded = _decode(raw)
    except ValueError:
        decoded = ""
    if not _AOI_ID.fullmatch(decoded):
        raise BadAoiId("an AOI id is 1 to 64 of A-Z a-z 0-9 _ -")
    return decoded


def parse_query(aoi_id: str, raw: str, rules: QueryRules) -> AssetsQuery:
    """Parse a raw query string for a valid AOI id. Raises BadQuery for the first thing that is wrong with it."""
    return AssetsQuery(aoi_id, *_parsed(raw, rules))


@lru_cache(maxsize=4096)
def _parsed(raw: str, rules: QueryRules) -> tuple[int, int, tuple[tuple[str, str], ...]]:
    """Offset, limit and filters. Raises BadQuery."""
    found = _pairs(raw, rules) if raw else {}
    offset = _number(found, "offset", DEFAULT_OFFSET)
    limit = _number(found, "limit", DEFAULT_LIMIT)
    if not 1 <= limit <= rules.max_limit:
        raise BadQuery(f"limit must be between 1 and {rules.max_limit}", parameter="limit")
    filters = tuple(sorted((name, value) for name, value in found.items() if name not in ("offset", "limit")))
    for name, value in filters:
        if not _FILTER_VALUE.fullmatch(value):
            raise BadQuery(f"{name} must be 1 to 128 printable ASCII characters", parameter=name)
    return offset, limit, filters


def _pairs(raw: str, rules: QueryRules) -> dict[str, str]:
    allowed = ("offset", "limit", *rules.filters)
    found: dict[str, str] = {}
    for position, piece in enumerate(raw.split("&"), start=1):
        raw_name, equals, raw_value = piece.partition("=")
        try:
            # In a query string + stands for a blank (WHATWG URL, application/x-www-form-urlencoded), as Go reads it.
            name, value = _decode(raw_name.replace("+", " ")), _decode(raw_value.replace("+", " "))
        except ValueError:
            raise BadQuery(
                "the query is not valid percent-encoded text", parameter=_shown(raw_name, position)
            ) from None
        if name not in allowed:
            if not piece:
                raise BadQuery("the query has a stray &", parameter=_shown("", position))
            raise BadQuery("unknown parameter", parameter=_shown(name, position), allowed=allowed)
        if not equals or not value:
            raise BadQuery(f"{name} has no value", parameter=name)
        if name in found:
            raise BadQuery(f"{name} is given twice", parameter=name)
        found[name] = value
    return found


def _number(found: dict[str, str], name: str, default: int) -> int:
    text = found.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise BadQuery(
            f"{name} must be a decimal number of at most 9 digits without sign or leading zero", parameter=name
        )
    return int(text)


def _decode(raw: str) -> str:
    """Percent-decode once. Raises ValueError for a lone %, for bytes that are not UTF-8 and for raw non-ASCII."""
    if "%" not in raw:
        if not raw.isascii():
            raise ValueError("not ASCII")
        return raw
    if _ESCAPE.sub("", raw).count("%"):
        raise ValueError("stray %")
    encoded = raw.encode("ascii")  # UnicodeEncodeError is a ValueError
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), encoded).decode("utf-8")


def _shown(name: str, position: int) -> str:
    """Echo a name only when it is short printable ASCII; otherwise tell which parameter it was by its position."""
    return name if _PRINTABLE.fullmatch(name) else f"#{position}"
