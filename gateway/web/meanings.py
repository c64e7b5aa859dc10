"""What Cache-Status and the codes of errors mean, in words for whoever reads an answer."""

from __future__ import annotations

from gateway.web.problems import CODES

# What stands after `pixxel-gateway; ` in Cache-Status (RFC 9211; contract, section 3).
CACHE_STATUS: tuple[tuple[str, str], ...] = (
    ("hit; ttl=287", "From the cache, and fresh for 287 more seconds."),
    ("hit; ttl=-3", "From the cache, three seconds past its time; a new copy is being fetched behind your back."),
    ("hit; ttl=…; detail=window", "From the cache, cut from other pages: the bytes that the vendor would have sent."),
    ("fwd=miss; fwd-status=200; stored", "Not cached: fetched from the vendor for you, and kept for others."),
    ("fwd=stale; fwd-status=200; stored", "The cached copy had expired: fetched anew, and kept."),
    ("fwd=request; …", "You asked for a refresh (Cache-Control: no-cache), and may: fetched anew."),
    ("fwd=…; fwd-status=200", "Fetched, and not kept: the vendor forbids it, or the page was purged meanwhile."),
    ("…; collapsed", "Somebody else was fetching it already, so you shared that answer."),
    ("fwd=stale; …; detail=stale-if-error", "The vendor failed; this is the last good page. Age tells how old it is."),
)  # fmt: skip

_CODES = {
    "bad_request": "The request is not clear HTTP: its framing, its target or its Host header.",
    "body_not_allowed": "This takes no body, or no such large one.",
    "invalid_aoi_id": "An AOI id is 1 to 64 letters, digits, - and _.",
    "invalid_parameter": "details.parameter is unknown, empty, malformed or there twice.",
    "unauthorized": "The token is missing or not known, or there are two that differ.",
    "forbidden": "Your team may not read this AOI, or do this.",
    "not_found": "The vendor knows no such AOI, or there is nothing at this path.",
    "method_not_allowed": "Allow names the methods that there are.",
    "not_acceptable": "Pages come plain or as gzip, and your Accept-Encoding rules out both.",
    "request_timeout": "The request did not come in time.",
    "uri_too_long": "The target is longer than 8190 bytes.",
    "unsupported_media_type": "Send application/json.",
    "expectation_failed": "Send no Expect header.",
    "rate_limited": "Your team's budget (details.budget) is used up; ask again after Retry-After seconds.",
    "headers_too_large": "A header is longer than 8191 bytes, or there are too many.",
    "internal_error": "The gateway made a mistake; its log has the request id.",
    "upstream_error": "The vendor failed with details.upstream_status, also when asked again.",
    "upstream_unreachable": "The vendor cannot be reached.",
    "upstream_invalid": "The vendor answered something that its contract does not describe.",
    "upstream_too_large": "The vendor's answer is larger than the gateway takes.",
    "upstream_auth": "The vendor refused the gateway's key. It is not your token: tell whoever runs the gateway.",
    "upstream_rate_limited": "The vendor asks the gateway for a pause; ask again after Retry-After seconds.",
    "upstream_circuit_open": "The vendor failed several times in a row, and is left alone for Retry-After seconds.",
    "overloaded": "Too much waits for the vendor, or looks on; ask again after Retry-After seconds.",
    "store_unavailable": "A purge that Redis did not confirm: do it again.",
    "upstream_timeout": "The vendor did not answer in time.",
    "not_cached": "You sent Cache-Control: only-if-cached, and the page is not cached.",
    "http_version_not_supported": "Speak HTTP/1.1.",
}


def by_code() -> list[tuple[str, str, str]]:
    """Code, statuses and meaning of every error, in the order of the statuses."""
    statuses: dict[str, list[str]] = {}
    for status in sorted(CODES):
        for code in CODES[status]:
            statuses.setdefault(code, []).append(str(status))
    return [(code, ", ".join(where), _CODES[code]) for code, where in statuses.items()]
