"""The vendor key: hidden, recognised in every form, and replaced."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

from gateway.upstream.keys import KeyRing, VendorKey


def test_the_key_hides_and_is_found_in_every_form() -> None:
    value = "a+b/c==d e"
    key = VendorKey(value)
    assert value not in f"{key} {key!r} {KeyRing(value)} {KeyRing(value)!r} {vars(KeyRing(value))}"
    for form in (
        value, quote(value, safe=""), base64.b64encode(value.encode()).decode(),
        base64.urlsafe_b64encode(value.encode()).decode().rstrip("="),
    ):  # fmt: skip
        data = f'{{"x":"{form}"}}'.encode()
        assert key.is_in(data)
        assert key.redact(data) == b'{"x":"[withheld]"}'
    for escaped in (rb'"a+b\/c==d e"', rb'"a\u002bb\u002Fc\u003d\u003dd e"', b'"a%2bb%2fc%3d%3dd%20e"'):
        assert key.is_in(escaped)
    assert not key.is_in(b"something else")
    assert not VendorKey("k").is_in(b"any ink")


def test_the_key_is_withheld_however_a_log_writes_it_down() -> None:
    value = r"""k3y"With\Odd'Characters"""
    for text in (value, repr(value), json.dumps(value), json.dumps(repr(ValueError(value)))):
        assert b"Odd" not in VendorKey(value).redact(text.encode())


def test_the_previous_key_is_tried_second_and_only_if_it_differs() -> None:
    assert [key.reveal() for key in KeyRing("new", "old").in_order()] == ["new", "old"]
    assert [key.reveal() for key in KeyRing("new", "new").in_order()] == ["new"]
