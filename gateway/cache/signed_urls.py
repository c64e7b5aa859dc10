"""When the signed URLs on a page stop working.

An asset's `path` may be a link that a storage service honours until a time that stands in the link itself. A page that
hands out dead links is worse than none, so this time caps how long the page may be served. The forms:

- Azure SAS: `se`, an ISO 8601 time (Storage services, "Create a service SAS");
- S3 and GCS, signature version 4: `X-Amz-Date` or `X-Goog-Date` plus `…-Expires` seconds;
- CloudFront with a canned policy, and the older signatures of S3 and GCS: `Expires`, Unix time;
- CloudFront with a custom policy: `AWS:EpochTime` of `DateLessThan` within `Policy`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

# A body without any of these holds no URL with a query, and need not be parsed. Any character may be written as an
# escape in JSON, and `?` is \u003f then.
_SIGNS = (b"?", b"\\u003")
# Far below any recursion limit, and far above what a listing nests.
_DEEPEST = 64


def link_expiries(body: bytes) -> list[float]:
    """Unix times at which the signed links in a JSON body end, in no order; malformed ones are passed over."""
    if not any(sign in body for sign in _SIGNS):
        return []
    return [expiry for text in _strings(_decoded(body)) if (expiry := link_expiry(text)) is not None]


def link_expiry(link: str) -> float | None:
    """Unix time at which a signed link ends; None for anything else."""
    try:
        if "?" not in link:
            return None
        parts = urlsplit(link)
        if not parts.scheme or not parts.query:
            return None
        told = {name.lower(): value for name, value in parse_qsl(parts.query)}
        return _told(told)
    except (ValueError, OverflowError):
        return None


def last_use(expiry: float, fetched: float, margin: float) -> float:
    """Until when a page may be served whose earliest link ends at `expiry`.

    The margin leaves a client time to follow the link, but takes at most half of what remained when the page came.
    """
    return expiry - min(margin, (expiry - fetched) / 2)


def _told(told: Mapping[str, str]) -> float | None:
    for service in ("x-amz", "x-goog"):
        if f"{service}-date" in told and f"{service}-expires" in told:
            signed = datetime.strptime(told[f"{service}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return (signed + timedelta(seconds=float(_digits(told[f"{service}-expires"])))).timestamp()
    if "se" in told:
        ends = datetime.fromisoformat(told["se"].replace(" ", "+"))  # an offset whose `+` was not percent-encoded
        return (ends if ends.tzinfo else ends.replace(tzinfo=UTC)).timestamp()
    if "expires" in told:
        return float(_digits(told["expires"]))
    if "policy" in told:
        return _of_policy(told["policy"])
    return None


def _digits(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise ValueError("not a number of seconds")
    return int(text)


def _of_policy(encoded: str) -> float | None:
    # CloudFront's own alphabet (Developer Guide, "Create a signed URL using a custom policy").
    plain = encoded.translate(str.maketrans("-_~", "+=/"))
    try:
        policy = msgspec.json.decode(base64.b64decode(plain, validate=True))
        ends = policy["Statement"][0]["Condition"]["DateLessThan"]["AWS:EpochTime"]
    except (binascii.Error, msgspec.MsgspecError, LookupError, TypeError):
        return None
    return float(ends) if isinstance(ends, int) else None


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return json.loads(body)  # which reads 1e999 as infinity, where the quicker one gives up


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth < _DEEPEST:
        if isinstance(value, dict):
            value = value.values()
        elif not isinstance(value, list):
            return
        for inner in value:
            yield from _strings(inner, depth + 1)
