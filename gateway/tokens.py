"""New client tokens."""

from __future__ import annotations

import secrets

from gateway.core.teams import token_digest


def new_token() -> tuple[str, str]:
    """A token (`pgw_` and 43 URL-safe characters, 256 bits) and its digest for the configuration."""
    token = "pgw_" + secrets.token_urlsafe(32)
    return token, token_digest(token)
