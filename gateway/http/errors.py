"""The one table: which exception becomes which status, code and words.

Every answer that is no success is made here: `{"error": {"code", "message", "details"}}`, never stored by anybody, with
the request's id in its details. Nothing of the request is quoted but the name of a bad parameter, and nothing of the
vendor's answer but the fields of its envelope.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from gateway.core import errors, surrogates
from gateway.core.errors import Envelope


@dataclass(eq=False)
class Problem(Exception):
    """An answer that is no success, ready to be written down. `close` ends the connection after it."""

    status: int
    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False


# Exceptions whose answer does not depend on what they carry.
_PLAIN: dict[type[errors.GatewayError], tuple[int, str, str]] = {
    errors.BadAoiId: (400, "invalid_aoi_id", "an AOI id is 1 to 64 of A-Z a-z 0-9 _ -"),
    errors.NotCached: (504, "not_cached", "the page is not cached, and only-if-cached forbids to fetch it"),
    errors.UpstreamTimeout: (504, "upstream_timeout", "the vendor did not answer in time"),
    errors.UpstreamUnreachable: (502, "upstream_unreachable", "the vendor cannot be reached"),
    errors.UpstreamBroken: (502, "upstream_invalid", "the vendor's answer is not what its contract describes"),
    errors.UpstreamTooLarge: (502, "upstream_too_large", "the vendor's answer is larger than the gateway takes"),
    errors.UpstreamRefusedKey: (502, "upstream_auth", "the vendor refused the gateway's own key, not yours"),
    errors.UpstreamRateLimited: (503, "upstream_rate_limited", "the vendor asks for a pause"),
    errors.UpstreamCircuitOpen: (503, "upstream_circuit_open", "the vendor fails, and is left alone for a moment"),
    errors.UpstreamOverloaded: (503, "overloaded", "too many requests wait for the vendor"),
    errors.StoreDown: (503, "store_unavailable", "Redis did not confirm it"),
}  # fmt: skip

# Every code of the contract's section 4 that this gateway answers with, for the OpenAPI document and the docs page.
CODES: dict[int, tuple[str, ...]] = {
    400: ("bad_request", "body_not_allowed", "invalid_aoi_id", "invalid_parameter"),
    401: ("unauthorized",),
    403: ("forbidden",),
    404: ("not_found",),
    405: ("method_not_allowed",),
    406: ("not_acceptable",),
    414: ("uri_too_long",),
    408: ("request_timeout",),
    413: ("body_not_allowed",),
    415: ("unsupported_media_type",),
    417: ("expectation_failed",),
    429: ("rate_limited",),
    431: ("headers_too_large",),
    500: ("internal_error", "upstream_error"),
    502: ("upstream_unreachable", "upstream_invalid", "upstream_too_large", "upstream_auth", "upstream_error"),
    503: ("upstream_rate_limited", "upstream_circuit_open", "overloaded", "upstream_error", "store_unavailable"),
    504: ("upstream_timeout", "not_cached", "upstream_error"),
    505: ("http_version_not_supported",),
}

INTERNAL_ERROR = Problem(500, "internal_error", "the gateway made a mistake; its log has the request id")


def problem_of(error: Exception) -> Problem:
    """The answer for an exception; `internal_error` for one that nobody raised on purpose."""
    match error:
        case Problem():
            return error
        case errors.BadQuery():
            details: dict[str, Any] = {"parameter": error.parameter}
            if error.allowed is not None:
                details["allowed"] = list(error.allowed)
            return Problem(400, "invalid_parameter", str(error), details)
        case errors.Unauthorized():
            words = {
                "missing": "a token is needed: Authorization: Bearer <token>",
                "unknown": "this token is not known",
                "conflicting": "the request has two different tokens",
            }
            return Problem(401, "unauthorized", words[error.reason], headers=_challenges(error))
        case errors.LimitReached():
            return _limit_reached(error)
        case errors.Denied():
            return Problem(403, "forbidden", str(error))
        case errors.UpstreamFailed():
            status = error.status or 502
            return Problem(status, "upstream_error", "the vendor failed", {"upstream_status": status})
        case errors.UpstreamRefusal():
            return vendor_problem(error.status, error.envelope)
    for kind, (status, code, message) in _PLAIN.items():
        if isinstance(error, kind):
            return Problem(status, code, message, headers=_retry_after(error, status))
    return INTERNAL_ERROR


def _challenges(error: errors.Unauthorized) -> Mapping[str, str]:
    """How to send a token. Two lines, not one with a comma: browsers do not take the latter apart."""
    if not error.browser:
        return {"WWW-Authenticate": "Bearer"}
    basic = 'Basic realm="pixxel-gateway: any name, token as password", charset="UTF-8"'  # RFC 7617, section 2
    return CIMultiDict([("WWW-Authenticate", "Bearer"), ("WWW-Authenticate", basic)])


def _limit_reached(error: errors.LimitReached) -> Problem:
    seconds = str(max(1, math.ceil(error.retry_after)))
    headers = {
        "Retry-After": seconds,
        "RateLimit-Limit": str(error.limit),
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": seconds,
    }
    words = {"requests": "request budget of this team exceeded", "misses": "cache-miss budget of this team exceeded"}
    return Problem(429, "rate_limited", words[error.budget], {"budget": error.budget}, headers)


def vendor_problem(status: int, envelope: Envelope) -> Problem:
    """Pass a vendor's envelope on; what it had as details moves aside for ours."""
    details = {} if envelope.details is None else {"upstream": envelope.details}
    return Problem(status, envelope.code, envelope.message, details)


def _retry_after(error: Exception, status: int) -> dict[str, str]:
    if status != 503:
        return {}
    seconds = getattr(error, "retry_after", None)
    return {"Retry-After": str(max(1, math.ceil(seconds or 1.0)))}


def render(problem: Problem, request_id: str) -> web.Response:
    """Write the envelope."""
    error = {
        "code": problem.code,
        "message": problem.message,
        "details": {**problem.details, "request_id": request_id},
    }
    response = web.Response(
        status=problem.status,
        body=surrogates.encode({"error": error}),
        headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
    )
    response.headers.extend(problem.headers)
    if problem.close:
        response.force_close()
    return response
