"""What the words of a command line must look like: each function reads one argument, or says what it would be."""

from __future__ import annotations

import argparse
import math
from urllib.parse import urlsplit

from gateway.config.options import RESERVED_TEAM_NAMES, TEAM_NAME
from gateway.core.errors import BadAoiId
from gateway.core.query import parse_aoi_id


def port(text: str) -> int:
    """A port to listen on; 0 is any."""
    read = int(text)
    if not 0 <= read <= 65535:
        raise argparse.ArgumentTypeError("a port is 0 to 65535")
    return read


def count(text: str) -> int:
    """How many, which may be none."""
    read = int(text)
    if read < 0:
        raise argparse.ArgumentTypeError("not less than 0")
    return read


def number(text: str) -> int:
    """How many, and at least one."""
    read = int(text)
    if read < 1:
        raise argparse.ArgumentTypeError("not less than 1")
    return read


def rate(text: str) -> float:
    """How many in a second."""
    read = float(text)
    if not 0.0 < read < math.inf:
        raise argparse.ArgumentTypeError("a rate is more than 0")
    return read


def gateway_url(text: str) -> str:
    """Where a gateway is. The text is not quoted when it is refused: there may be a password in it."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError("it takes an http:// or https:// URL")
    if parts.username is not None:
        raise argparse.ArgumentTypeError("it takes a URL without user and password; a token goes into --token-file")
    return text


def team_name(text: str) -> str:
    """The name of a team."""
    if not TEAM_NAME.fullmatch(text) or text in RESERVED_TEAM_NAMES:
        raise argparse.ArgumentTypeError("a team's name is 1 to 64 of A-Z a-z 0-9 _ -, and not anonymous or unknown")
    return text


def aoi(text: str) -> str:
    """The id of an AOI."""
    try:
        return parse_aoi_id(text)
    except BadAoiId as error:
        raise argparse.ArgumentTypeError(str(error)) from None
