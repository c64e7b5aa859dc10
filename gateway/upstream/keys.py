"""The vendor keys in use, and the forms in which a key could leak.

A key is revealed only for the request to the vendor. Everything else uses `is_in` and `redact`.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Literal
from urllib.parse import quote, quote_plus

REDACTED = b"[withheld]"
_REDACTED = b"[redacted]"

Slot = Literal["current", "previous"]

# How many keys that were replaced are still looked for in what goes out.
_RETIRED_KEYS = 4


_ESCAPE = re.compile("%[0-9A-F]{2}")
_JSON_ESCAPE = re.compile(rb"\\(?:u00([0-7][0-9a-fA-F])|([/\"\\]))")
_SHORTEST_SOUGHT = 6


def _unescaped(data: bytes) -> bytes:
    """JSON text with the escapes of printable ASCII undone (RFC 8259, section 7)."""
    return _JSON_ESCAPE.sub(lambda found: bytes([int(found[1], 16)]) if found[1] else found[2], data)


def _any_escaping(secret: bytes) -> bytes:
    """Return a pattern for a secret in JSON text, each byte of it as it is, escaped or percent-encoded.

    Backslashes before a byte are part of it, so that a replacement leaves no half of an escape behind. There are up to
    eight of them in JSON that is quoted within JSON within JSON.
    """
    return b"".join(
        b"\\\\{0,8}(?:%b|(?i:%%%02x|(?<=\\\\)u00%02x))" % (re.escape(bytes([byte])), byte, byte) for byte in secret
    )


class VendorKey:
    """One key. `repr` and `str` hide it; `reveal` is for the request that goes to the vendor, and for nothing else."""

    __slots__ = ("_forms", "_quoted", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        self._quoted: re.Pattern[bytes] | None = None
        raw = value.encode()
        percent = (quote(value, safe=""), quote_plus(value))
        written = (value, repr(value)[1:-1])  # as a line of the log is, and an exception in one
        forms = {
            raw,
            *(form.encode() for text in written for form in (text, json.dumps(text)[1:-1])),
            *(form.encode() for form in percent),
            *(_ESCAPE.sub(lambda found: found[0].lower(), form).encode() for form in percent),
            base64.b64encode(raw),
            base64.urlsafe_b64encode(raw),
            base64.b64encode(raw).rstrip(b"="),
            base64.urlsafe_b64encode(raw).rstrip(b"="),
        }
        # Longest first, so that replacing one form leaves no piece of another behind. A very short key stands in
        # anything; it can be held, but not looked for.
        self._forms = tuple(sorted(forms, key=len, reverse=True)) if len(raw) >= _SHORTEST_SOUGHT else ()

    def reveal(self) -> str:
        """The key itself."""
        return self._value

    def is_in(self, data: bytes) -> bool:
        """Whether any form of the key (raw, base64, percent-encoded) stands in the bytes, escaped in JSON or not."""
        texts = (data,) if b"\\" not in data else (data, _unescaped(data))
        return any(form in text for text in texts for form in self._forms)

    def redact(self, data: bytes) -> bytes:
        """The bytes with every form of the key replaced."""
        for form in self._forms:
            if form in data:
                data = data.replace(form, REDACTED)
        return data

    def redact_json(self, text: bytes) -> bytes:
        """Replace the key in JSON text, whichever of its characters are escaped or percent-encoded there."""
        if not self._forms:
            return text
        if self._quoted is None:
            raw = self._value.encode()
            encoded = (base64.b64encode(raw), base64.urlsafe_b64encode(raw))
            self._quoted = re.compile(b"|".join(map(_any_escaping, (raw, *(form.rstrip(b"=") for form in encoded)))))
        return self._quoted.sub(_REDACTED, text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VendorKey) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "VendorKey(***)"


class KeyRing:
    """The current key, and the one before it while a rotation is under way."""

    def __init__(self, current: str, previous: str | None = None) -> None:
        self._current = VendorKey(current)
        self._previous = None if previous is None else VendorKey(previous)
        self._retired: tuple[VendorKey, ...] = ()

    def in_order(self) -> tuple[VendorKey, ...]:
        """The keys to try, the current one first."""
        if self._previous is None or self._previous == self._current:
            return (self._current,)
        return (self._current, self._previous)

    def replace(self, slot: Slot, value: str) -> bool:
        """Put another key in its place; whether that changes anything.

        The one that goes is still withheld: an answer, or a line of the log, may come late.
        """
        old = self._current if slot == "current" else self._previous
        new = VendorKey(value)
        if new == old:
            return False
        if old is not None:
            self._retired = (old, *self._retired)[:_RETIRED_KEYS]
        if slot == "current":
            self._current = new
        else:
            self._previous = new
        return True

    def forget_previous(self) -> None:
        """Use the previous key no more; it is withheld all the same."""
        if self._previous is not None:
            self._retired = (self._previous, *self._retired)[:_RETIRED_KEYS]
            self._previous = None

    def is_in(self, data: bytes) -> bool:
        """Whether any key stands in the bytes, in any form."""
        return any(key.is_in(data) for key in (*self.in_order(), *self._retired))

    def redact(self, data: bytes) -> bytes:
        """The bytes without any key."""
        for key in (*self.in_order(), *self._retired):
            data = key.redact(data)
        return data

    def redact_json(self, text: bytes) -> bytes:
        """Replace every key in JSON text."""
        for key in (*self.in_order(), *self._retired):
            text = key.redact_json(text)
        return text

    def __repr__(self) -> str:
        return "KeyRing(***)"
