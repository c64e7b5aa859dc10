"""What a complete vendor answer means: a page, a 404, a refusal, or a failure of the vendor.

Status, headers and decoded body in; a value or one exception out. Which failures are worth another attempt is
`retry`, what is stored is `admission`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from gateway.core.cache_control import VendorCaching
from gateway.core.errors import (
    Envelope,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamRefusal,
    UpstreamRefusedKey,
)
from gateway.core.http_fields import Headers, parse_http_date
from gateway.core.listing import InvalidListing, Listing, parse_envelope, parse_listing, render_envelope
from gateway.upstream.retry import RETRYABLE_STATUS

_LEAST_RETRY_AFTER = 1.0
_MOST_RETRY_AFTER = 60.0
_SECONDS = re.compile(r"\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]\+?[0-9]+)?", re.ASCII)
# These are about the connection and the key between gateway and vendor, and so not for a client to mend.
_NOT_FOR_CLIENTS = frozenset({401, 403, 407, 408, 429})


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """A valid answer of the vendor: a page (`listing` is set), or a 404 with its envelope in `body`.

    `started` and `arrived` are Unix times in seconds.
    """

    status: int
    body: bytes
    listing: Listing | None
    caching: VendorCaching
    started: float
    arrived: float


def classify(
    status: int,
    headers: Headers,
    body: bytes,
    *,
    aoi_id: str,
    now: float,
    holds_key: Callable[[bytes], bool],
    redact: Callable[[bytes], bytes],
) -> tuple[bytes, Listing | None]:
    """The body to store, with its listing for a 200 and without for a 404.

    `now` is Unix time in seconds. `holds_key` tells whether the vendor key stands in bytes, `redact` replaces it in
    JSON. Raises UpstreamError when the vendor failed, UpstreamRefusal for another 4xx with an envelope.
    """
    if status == 200:
        if holds_key(body):
            raise UpstreamBroken("the body holds the vendor key", status=status)
        try:
            return body, parse_listing(body, aoi_id)
        except InvalidListing as error:
            raise UpstreamBroken(str(error), status=status) from None
    if needs_body(status):
        envelope = parse_envelope(body)
        if envelope is None:
            raise UpstreamBroken(f"a {status} without the vendor's envelope", status=status)
        envelope = _redacted(envelope, holds_key, redact)
        if status == 404:
            return render_envelope(envelope), None
        raise UpstreamRefusal(status, envelope)
    raise upstream_error(status, headers, now)


def needs_body(status: int) -> bool:
    """Return whether the body of a response with this status matters: it is a page, or an envelope to pass on."""
    return status == 200 or (400 <= status < 500 and status not in _NOT_FOR_CLIENTS)


def _redacted(envelope: Envelope, holds_key: Callable[[bytes], bool], redact: Callable[[bytes], bytes]) -> Envelope:
    """Replace the vendor key wherever the vendor quoted it, and keep everything else."""
    rendered = render_envelope(envelope)
    redacted = redact(rendered)
    if redacted == rendered and not holds_key(rendered):
        return envelope
    found = parse_envelope(redacted)
    if found is None or holds_key(redacted):  # in a form that cannot be replaced alone
        code = "refused" if holds_key(envelope.code.encode(errors="replace")) else envelope.code
        return Envelope(code, "[redacted]", None)
    return found


def upstream_error(status: int, headers: Headers, now: float) -> UpstreamError:
    """The exception for a status that is neither a page nor an answer to pass on."""
    if status in (401, 403):
        return UpstreamRefusedKey("the vendor refused our key", status=status)
    pause = requested_pause(status, headers, now)
    if pause is not None:
        return UpstreamRateLimited("the vendor asks for a pause", status=status, retry_after=pause)
    if status in RETRYABLE_STATUS:
        return UpstreamFailed(f"the vendor answered {status}", status=status)
    return UpstreamBroken(f"the vendor answered {status}", status=status)


def requested_pause(status: int, headers: Headers, now: float) -> float | None:
    """How many seconds the vendor asks to be left alone; None when it does not. `now` is Unix time in seconds."""
    if status not in (429, 503):
        return None
    lines = headers.getall("Retry-After", ())
    wished = [seconds for line in lines if (seconds := parse_retry_after(line, now)) is not None]
    return max(wished, default=_LEAST_RETRY_AFTER) if status == 429 or lines else None


def parse_retry_after(value: str, now: float) -> float | None:
    """Parse a Retry-After line (RFC 9110, section 10.2.3); return seconds to wait, from 1 to 60, or None for nonsense.

    Vendors send fractions too, which are rounded up, and lists, of which the longest time counts.
    """
    members = [member.strip() for member in value.split(",")]
    if all(_SECONDS.fullmatch(member) for member in members):
        seconds = max(map(float, members))
    elif (date := parse_http_date(value.strip())) is not None:
        seconds = date - now
    else:
        return None
    return float(math.ceil(min(max(seconds, _LEAST_RETRY_AFTER), _MOST_RETRY_AFTER)))
