"""The exceptions of the gateway, sorted by who is at fault: the client, the vendor or the gateway.

Errors of libraries are translated once, where they enter (`upstream`, `storage.redis`). `http.errors` maps the
exceptions to statuses and codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


class GatewayError(Exception):
    """Root of everything that the gateway raises on purpose."""


# --- the caller's fault ---------------------------------------------------------------------------------------


class CallerError(GatewayError):
    """The request cannot be answered as it is."""


class BadAoiId(CallerError):
    """The AOI id does not fully match `[A-Za-z0-9_-]{1,64}` after one percent-decoding."""


class BadQuery(CallerError):
    """A query parameter is malformed, repeated, empty or unknown.

    `parameter` is the offending name as sent, or its position when it has no printable name; `allowed` is given for
    an unknown name only.
    """

    def __init__(self, message: str, *, parameter: str, allowed: tuple[str, ...] | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.allowed = allowed


class Unauthorized(CallerError):
    """No, unknown, or contradicting credentials; `reason` is `missing`, `unknown` or `conflicting`.

    `browser` tells that this is a page, where a browser may ask its user for the token.
    """

    def __init__(self, reason: str, *, browser: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.browser = browser


class Denied(CallerError):
    """The team is known, but may not do this."""


class LimitReached(CallerError):
    """The team's budget of this name is exhausted; `limit` is its burst, `retry_after` is in seconds."""

    def __init__(self, team: str, budget: Literal["requests", "misses"], *, limit: int, retry_after: float) -> None:
        super().__init__(budget)
        self.team = team
        self.budget = budget
        self.limit = limit
        self.retry_after = retry_after


class NotCached(CallerError):
    """The client asked for a stored answer only, and there is none (RFC 9111, section 5.2.1.7)."""


# --- the vendor's fault ---------------------------------------------------------------------------------------


class UpstreamError(GatewayError):
    """The vendor failed: an old page may be served instead.

    `status` is what the vendor answered with, None when no answer came; `retry_after` is in seconds.
    """

    def __init__(self, message: str = "", *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class UpstreamTimeout(UpstreamError):
    """No complete answer within the attempt's or the request's time."""


class UpstreamUnreachable(UpstreamError):
    """No connection, or one that was cut before an answer began."""


class UpstreamBroken(UpstreamError):
    """An answer that is not what the vendor's contract describes."""


class UpstreamTooLarge(UpstreamError):
    """A body beyond `upstream.max_body_bytes`, counted after decoding."""


class UpstreamRefusedKey(UpstreamError):
    """The vendor refused the gateway's own key with 401 or 403."""


class UpstreamFailed(UpstreamError):
    """A vendor 500, 502, 503 or 504 that outlasted the retries."""


class UpstreamRateLimited(UpstreamError):
    """A vendor 429, or the pause that follows one."""


class UpstreamCircuitOpen(UpstreamError):
    """The vendor failed too often in a row, and is left alone for a while."""


class UpstreamOverloaded(UpstreamError):
    """Too many calls wait for the vendor already."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields of a vendor error: `{"error": {"code", "message", "details"}}`."""

    code: str
    message: str
    details: Any


class UpstreamRefusal(GatewayError):
    """A vendor 4xx with an envelope, other than 404 and those about the key: an answer, passed on and not stored."""

    def __init__(self, status: int, envelope: Envelope) -> None:
        super().__init__(f"vendor {status}")
        self.status = status
        self.envelope = envelope


# --- ours -----------------------------------------------------------------------------------------------------


class StoreDown(GatewayError):
    """Redis did not do what was asked in time. It never reaches a client but as a purge that is not confirmed."""
