"""Caching headers, read as RFC 9111 says.

This file owns the syntax of Cache-Control, Expires and Age; what follows from them is decided in `policy`. A header
that cannot be parsed is never an error. What it names is obeyed all the same, because storing what a vendor wanted
kept out of caches is worse than fetching it again (RFC 9111, section 4.2.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.core.http_fields import Headers, parse_http_date

# One list member. A quoted string that is never closed extends to the end of the line. Vendors also separate directives
# by semicolons, which nginx accepts too.
_MEMBER = re.compile(r'(?:[^,;"]|"(?:[^"\\]|\\.?)*+(?:"|$))+')
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_DIRECTIVE = re.compile(rf'({_WORD})\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s"]+))?')
_NAMES = ("no-store", "private", "no-cache", "must-revalidate", "proxy-revalidate", "s-maxage", "max-age")
_NAMED = re.compile(rf"(?<![0-9A-Za-z_-])(?:{'|'.join(_NAMES)})(?![0-9A-Za-z_-])")

# Deltas beyond this are "infinity" in RFC 9111, section 1.2.2; it also keeps int() away from absurd lengths.
_MAX_DELTA = 2**31


@dataclass(frozen=True, slots=True)
class VendorCaching:
    """What the vendor asks of caches. Times in seconds; `fresh_for` is None when the vendor does not say.

    `said_by` names the directive or header that `fresh_for` was taken from; it is shown, and decides nothing.
    """

    storable: bool = True
    fresh_for: float | None = None
    stale_allowed: bool = True
    age: float = 0.0
    said_by: str = field(default="vendor", compare=False)


def directives(lines: Iterable[str]) -> dict[str, list[str]]:
    """Parse the Cache-Control lines of a message into lower-case names and the (unquoted) arguments of each.

    The argument of a directive without one is empty. A list member that cannot be parsed counts as each of the known
    directives that it names, without an argument. Lines are parsed one by one, so that a quote which is never closed
    hides nothing in the next line.
    """
    found: dict[str, list[str]] = {}
    for member in (match[0].strip() for line in lines for match in _MEMBER.finditer(line)):
        if directive := _DIRECTIVE.fullmatch(member):
            argument = directive[2] or ""
            found.setdefault(directive[1].lower(), []).append(argument[1:-1] if argument[:1] == '"' else argument)
        else:
            for name in _NAMED.findall(member.lower()):
                found.setdefault(name, []).append("")
    return found


def vendor_caching(headers: Headers, now: float) -> VendorCaching:
    """Read the caching headers of a vendor response that arrived at `now` (Unix time, seconds)."""
    told = directives(headers.getall("Cache-Control", ()))
    fresh_for, said_by = _fresh_for(told, headers, now)
    return VendorCaching(
        storable="no-store" not in told and "private" not in told,
        fresh_for=fresh_for,
        stale_allowed=not (
            _always_revalidates(told) or told.keys() & {"must-revalidate", "proxy-revalidate", "s-maxage"}
        ),
        age=_age(headers),
        said_by=said_by,
    )


def _always_revalidates(told: dict[str, list[str]]) -> bool:
    """Whether there is a `no-cache` without a list of fields: with one it is about those fields alone."""
    return "" in told.get("no-cache", ())


def _fresh_for(told: dict[str, list[str]], headers: Headers, now: float) -> tuple[float | None, str]:
    if _always_revalidates(told):
        return 0.0, "no-cache"
    # RFC 9111, section 4.2.1: s-maxage, else max-age, else Expires less Date. Of several, the shortest counts, and one
    # that is invalid means stale.
    for name in ("s-maxage", "max-age"):
        if name in told:
            return min(_delta(argument) or 0.0 for argument in told[name]), name
    lines = headers.getall("Expires", ())
    if not lines:
        return None, "nobody"
    date = next((parse_http_date(line) for line in headers.getall("Date", ())), None) or now
    ends = [parse_http_date(line) for line in lines]
    return max(0.0, min(date if end is None else end for end in ends) - date), "expires"


def _age(headers: Headers) -> float:
    # RFC 9111, section 5.1: of several members or lines, the first counts.
    line = next(iter(headers.getall("Age", ())), "0")
    return _delta(line.partition(",")[0]) or 0.0


def _delta(text: str) -> float | None:
    text = text.strip()
    if not (text.isascii() and text.isdigit()):
        return None
    return float(min(int(text[:11]), _MAX_DELTA))
