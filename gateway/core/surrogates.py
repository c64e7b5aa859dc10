r"""Lone surrogates in JSON: `\ud83d` without the other half of its pair.

The grammar of JSON allows them (RFC 8259, section 8.2) and vendors send them, for instance where a name was cut in the
middle of an emoji. `msgspec` refuses to decode them and to encode them.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD]([89a-fA-F])([0-9a-fA-F]{2})|.)", re.DOTALL
)


def masked(body: bytes) -> bytes:
    r"""Replace each escaped lone surrogate by a private-use character of the same length: `\ud83d` by `\ue03d`.

    Different surrogates stay different, and everything stays where it was.
    """
    return _ESCAPE.sub(_masked, body)


def _masked(escape: re.Match[bytes]) -> bytes:
    if escape[1] is None:
        return escape[0]
    return b"\\ue%x%b" % (int(escape[1], 16) - 8, escape[2])


def encode(value: Any) -> bytes:
    """Encode as JSON, with lone surrogates as escapes."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), ensure_ascii=True, separators=(",", ":")).encode()
