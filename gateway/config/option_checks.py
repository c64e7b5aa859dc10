"""Checks of single settings: each takes a value, gives it in its usual form, or raises ValueError with its reason.

No message quotes the value, which may be a secret in the wrong place.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from pydantic import SecretStr

from gateway.config import store_url as store_urls


def network(text: str) -> str:
    """A network such as 10.0.0.0/8, in its usual form. Raises ValueError."""
    return str(ipaddress.ip_network(text, strict=False))


def origin(text: str) -> str:
    """An origin of a web page, in lower case. Raises ValueError."""
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-fA-F:]+\](:[0-9]{1,5})?", text):
        raise ValueError("must be an origin such as https://app.example.com, without a path")
    return text.lower()


def base_url(text: str) -> str:
    """The vendor's URL, without the slash at its end. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL with a host")
    if parts.username or parts.password:
        raise ValueError("must not hold credentials; the key goes into upstream.api_key_file")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or a fragment")
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("must be printable ASCII without spaces")
    _ = parts.port  # raises ValueError for a port that is no number
    return text.rstrip("/")


def proxy_url(secret: SecretStr) -> SecretStr:
    """A proxy's URL, which may hold a password. Raises ValueError."""
    parts = urlsplit(secret.get_secret_value())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL with a host")
    _ = parts.port  # raises ValueError for a port that is no number
    return secret


def sha256(text: str) -> str:
    """A digest in lower case. Raises ValueError."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError("must be 64 hexadecimal digits, as `pixxel-gateway token new` prints them")
    return text.lower()


def aoi_pattern(text: str) -> str:
    """An AOI id with or without *. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9_*-]{1,64}", text):
        raise ValueError("must be an AOI id, in which * stands for any run of characters")
    return text


def filter_name(text: str) -> str:
    """The name of a query parameter. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text):
        raise ValueError("must be 1 to 64 of A-Z a-z 0-9 _ . -")
    if text in ("offset", "limit"):
        raise ValueError("offset and limit pass to the vendor already")
    return text


def account(text: str) -> str:
    """The name of an account. Raises ValueError."""
    if not re.fullmatch(r"[!-~]{1,128}", text):
        raise ValueError("must be 1 to 128 printable ASCII characters without spaces")
    return text


def key_prefix(text: str) -> str:
    """The start of Redis keys. Raises ValueError."""
    # The first brace of a Redis key opens its cluster hash tag, so the prefix must not have one.
    if not re.fullmatch(r"[!-z|~]{1,64}", text):
        raise ValueError("must be 1 to 64 printable ASCII characters without spaces and braces")
    return text


def store_url(secret: SecretStr) -> SecretStr:
    """Return a `cache.url` that names a store and has supported options only. Raises ValueError."""
    store_urls.parse(secret.get_secret_value())
    return secret


def header_safe(secret: SecretStr) -> SecretStr:
    """A secret that can stand in a header. Raises ValueError."""
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", secret.get_secret_value()):
        raise ValueError("must be printable ASCII on one line, without spaces around it")
    return secret
