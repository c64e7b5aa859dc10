"""The OpenAPI document, built from the query's grammar and the table of problems.

A pure function of what is configured: the same document is served at `/openapi.json`, shown at `/docs` and printed by
`pixxel-gateway openapi`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from msgspec.json import schema_components

from gateway import __version__
from gateway.core.query import DEFAULT_LIMIT, DEFAULT_OFFSET, QueryRules
from gateway.http.errors import CODES
from gateway.http.explain import HEADER
from gateway.telemetry.status.document import Report

_REASONS = {431: "Request Header Fields Too Large"}

_STRING = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}


def _header(text: str, schema: dict[str, Any] = _STRING, *, always: bool = True) -> dict[str, Any]:
    return {"description": text, "required": always, "schema": schema}


_REQUEST_ID = {
    "X-Request-Id": _header(
        "Yours if it was well-formed, else a new one; it stands in the gateway's log.",
        {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    )
}
_EXPLAIN = {
    HEADER: _header(
        "Which copy, lifetime rule and cap decided, if that was asked for: structured fields (RFC 9651).",
        always=False,
    )
}
_PAGE_HEADERS = {
    "ETag": _header("Names the body, one tag per coding; send it back as If-None-Match."),
    "Age": _header("Seconds since the vendor made this page.", _COUNT),
    "Cache-Control": _header("Keep it, and ask again with If-None-Match before you use it again."),
    "Cache-Status": _header("How this answer came about (RFC 9211)."),
    "Vary": _header("Accept-Encoding, and Origin where browser apps are let in."),
    "X-Listing-Generation": _header("Pages with the same value belong to the same state of the listing."),
    **_REQUEST_ID,
    **_EXPLAIN,
}
_PROBLEM_HEADERS = {"Cache-Control": _header("Never kept.", {"const": "no-store"}), **_REQUEST_ID}
_SECONDS = {"type": "integer", "minimum": 1}
# What a problem of this status has besides.
_MORE_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": _header("How to send a token.", {"const": "Bearer"})},
    404: {
        "Age": _header("Seconds since the vendor said so.", _COUNT, always=False),
        "Cache-Status": _header("How this answer came about, if the vendor was asked.", always=False),
    },
    405: {"Allow": _header("The methods that there are, unless it is the vendor who said so.", always=False)},
    429: {
        "Retry-After": _header("Seconds until there is room for another request.", _SECONDS),
        "RateLimit-Limit": _header("How many requests there may be at once.", _COUNT),
        "RateLimit-Remaining": _header("How many there may be now.", _COUNT),
        "RateLimit-Reset": _header("Seconds until there is room for another request.", _SECONDS),
    },
    503: {"Retry-After": _header("Seconds after which another try makes sense.", _SECONDS, always=False)},
}


# What may come of asking the cache or, through it, the vendor.
_EXPLAINED = (404, 429, 500, 502, 503, 504)


def document(rules: QueryRules, *, tokens: bool, status: bool) -> dict[str, Any]:
    """Describe the endpoint; `tokens` tells whether a client needs one, `status` whether `/status.json` is here too."""
    operation: dict[str, Any] = {
        "operationId": "listAssets",
        "summary": "List the assets of an AOI, page by page",
        "tags": ["Assets"],
        "parameters": [_aoi_id(), *_window(rules), *(_filter(name) for name in rules.filters), _ASKING_WHY],
        "responses": _responses(),
    }
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Pixxel gateway",
            "version": __version__,
            "description": "A shared caching gateway in front of the vendor's asset listings.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": "Assets"}],
        "paths": {"/v0/aois/{aoi_id}/assets": {"get": operation}},
        "components": {"schemas": dict(_SCHEMAS)},
    }
    if status:
        found["tags"].append({"name": "Operations"})
        found["paths"]["/status.json"] = {"get": _status(tokens=tokens)}
        found["components"]["schemas"] |= schema_components([Report], ref_template="#/components/schemas/{name}")[1]
    if tokens:
        operation["security"] = [{"bearer": []}, {"header": []}]
        found["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    return found


def _aoi_id() -> dict[str, Any]:
    return {
        "name": "aoi_id",
        "in": "path",
        "required": True,
        "description": "Id of the AOI.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
    }


def _window(rules: QueryRules) -> list[dict[str, Any]]:
    return [
        {
            "name": "offset",
            "in": "query",
            "description": "Index of the first asset.",
            "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999, "default": DEFAULT_OFFSET},
        },
        {
            "name": "limit",
            "in": "query",
            "description": "Most assets on the page.",
            "schema": {"type": "integer", "minimum": 1, "maximum": rules.max_limit, "default": DEFAULT_LIMIT},
        },
    ]


def _filter(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": "Passed to the vendor.",
        "schema": {"type": "string", "pattern": "^[ -~]{1,128}$"},
    }


_ASKING_WHY = {
    "name": HEADER,
    "in": "header",
    "description": "Asks for the response header of this name; needs the scope `admin` or open mode, else ignored.",
    "schema": {"const": "1"},
}


def _responses() -> dict[str, Any]:
    page = {
        "description": "The vendor's page, byte for byte.",
        "headers": {
            **_PAGE_HEADERS,
            "Content-Encoding": _header("Where you take it and it is worth it.", {"const": "gzip"}, always=False),
        },
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Page"}}},
    }
    not_modified = {
        "description": "The page that you have (If-None-Match) is still the current one.",
        "headers": _PAGE_HEADERS,
    }
    refused = _problem("Any other: the vendor refused the request, and these are its words.", {})
    problems = {str(status): _problem(_words(status), _MORE_HEADERS.get(status, {})) for status in CODES}
    for explained in (refused, *(problems[str(status)] for status in _EXPLAINED)):
        explained["headers"] |= _EXPLAIN
    return {"200": page, "304": not_modified, "4XX": refused, **problems}


def _status(*, tokens: bool) -> dict[str, Any]:
    answer = {
        "description": "How this instance is, with all its workers; fields may be added while `format` is 1.",
        "headers": {"Cache-Control": _header("Never kept.", {"const": "no-store"}), **_REQUEST_ID},
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Report"}}},
    }
    basic = {"WWW-Authenticate": _header("How to send a token: Bearer, or Basic with the token as password.")}
    problems = {str(status): _problem(_words(status), {}) for status in (400, 403, 405, 408, 414, 417, 431, 500, 505)}
    if tokens:
        problems["401"] = _problem(_words(401), basic)
    needed: dict[str, Any] = {"security": [{"bearer": []}, {"header": []}]} if tokens else {}
    return {
        "operationId": "status",
        "summary": "How this instance is, in figures",
        "description": "For tokens with the scope admin or, without teams, for clients on the same machine.",
        "tags": ["Operations"],
        "responses": {"200": answer, **dict(sorted(problems.items()))},
        **needed,
    }


def _words(status: int) -> str:
    return f"{_REASONS.get(status) or HTTPStatus(status).phrase}: " + ", ".join(f"`{code}`" for code in CODES[status])


def _problem(words: str, headers: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": words,
        "headers": {**_PROBLEM_HEADERS, **headers},
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


_SCHEMAS: dict[str, Any] = {
    "Asset": {
        "type": "object",
        "description": "As the vendor sends it; fields may be missing, and there may be others.",
        "properties": {
            "id": _STRING,
            "aoi_id": _STRING,
            "name": _STRING,
            "description": _STRING,
            "asset_type": {"type": "string", "examples": ["mosaic", "stac_item", "visualization"]},
            "status": {"type": "string", "examples": ["creating", "started", "success", "failed"]},
            "progress": {"type": "integer"},
            "area_in_sq_m": {"type": "number"},
            "resolution": {"type": "number"},
            "band_list": {"type": "array", "items": _STRING},
            "centroid": {"type": "array", "items": {"type": "number"}},
            "geometry": {"type": "object"},
            "date": _STRING,
            "path": _STRING,
            "created_at": _STRING,
            "updated_at": _STRING,
            "visualization_id": _STRING,
        },
    },
    "Page": {
        "type": "object",
        "required": ["assets", "pagination"],
        "properties": {
            "assets": {"type": ["array", "null"], "items": {"$ref": "#/components/schemas/Asset"}},
            "pagination": {
                "type": "object",
                "required": ["total", "offset", "limit"],
                "properties": {"total": _COUNT, "offset": _COUNT, "limit": _COUNT},
            },
        },
    },
    "Problem": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "details"],
                "properties": {
                    "code": _STRING,
                    "message": _STRING,
                    "details": {
                        "type": "object",
                        "required": ["request_id"],
                        "properties": {
                            "request_id": _STRING,
                            "parameter": _STRING,
                            "allowed": {"type": "array", "items": _STRING},
                            "budget": {"enum": ["requests", "misses"]},
                            "upstream_status": {"type": "integer"},
                            "upstream": {"description": "What the vendor had as details."},
                        },
                    },
                },
            }
        },
    },
}
