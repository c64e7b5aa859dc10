"""What a complete vendor answer means: a page, a 404, a refusal, or a failure of the vendor.

Status, headers and decoded body in; a value or one exception out. Which failures are worth another attempt is
`retry`, what is stored is `admission`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

from gateway.core.errors import (
    Envelope,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamRefusal,
    UpstreamRefusedKey,
)
from gateway.core.listing import InvalidListing, Listing, parse_envelope, parse_listing, render_envelope
from gateway.core.retry import RETRYABLE_STATUS

_LEAST_RETRY_AFTER = 1.0
_MOST_RETRY_AFTER = 60.0
# These are about the connection and the key between gateway and vendor, and so not for a client to mend.
_NOT_FOR_CLIENTS = frozenset({401, 403, 407, 408, 429})


def read_answer(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    aoi_id: str,
    now: float,
    holds_key: Callable[[bytes], bool],
) -> tuple[bytes, Listing | None]:
    """The body to store, with its listing for a 200 and without for a 404.

    `now` is Unix time in seconds, `holds_key` tells whether the vendor key stands in bytes. Raises UpstreamError when
    the vendor failed, UpstreamRefusal for another 4xx with an envelope.
    """
    if status == 200:
        if holds_key(body):
            raise UpstreamBroken("the body holds the vendor key", status=status)
        try:
            return body, parse_listing(body, aoi_id)
        except InvalidListing as error:
            raise UpstreamBroken(str(error), status=status) from None
    if status == 404 or (400 <= status < 500 and status not in _NOT_FOR_CLIENTS):
        envelope = parse_envelope(body)
        if envelope is None:
            raise UpstreamBroken(f"a {status} without the vendor's envelope", status=status)
        if holds_key(body) or holds_key(render_envelope(envelope)):
            envelope = Envelope("not_found" if status == 404 else "refused", "withheld: it quoted our request", None)
        if status == 404:
            return render_envelope(envelope), None
        raise UpstreamRefusal(status, envelope)
    raise failure(status, headers, now)


def failure(status: int, headers: Mapping[str, str], now: float) -> UpstreamError:
    """The exception for a status that is neither a page nor an answer to pass on."""
    if status in (401, 403):
        return UpstreamRefusedKey("the vendor refused our key", status=status)
    pause = wished_pause(status, headers, now)
    if pause is not None:
        return UpstreamRateLimited("the vendor asks for a pause", status=status, retry_after=pause)
    if status in RETRYABLE_STATUS:
        return UpstreamFailed(f"the vendor answered {status}", status=status)
    return UpstreamBroken(f"the vendor answered {status}", status=status)


def wished_pause(status: int, headers: Mapping[str, str], now: float) -> float | None:
    """How many seconds the vendor asks to be left alone; None when it does not. `now` is Unix time in seconds."""
    if status not in (429, 503):
        return None
    seconds = parse_retry_after(headers.get("Retry-After"), now)
    return (seconds or _LEAST_RETRY_AFTER) if status == 429 or "Retry-After" in headers else None


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110, section 10.2.3), clamped to 1..60; None for nonsense."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, _LEAST_RETRY_AFTER), _MOST_RETRY_AFTER)
