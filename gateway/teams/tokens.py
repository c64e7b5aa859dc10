"""New client tokens."""

from __future__ import annotations

import hashlib
import secrets


def new_token() -> tuple[str, str]:
    """A token (`pgw_` and 43 URL-safe characters, 256 bits) and its digest for the configuration."""
    token = "pgw_" + secrets.token_urlsafe(32)
    return token, token_digest(token)


def token_digest(token: str) -> str:
    """SHA-256 of a token, as the configuration holds it: 64 lower-case hex digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
