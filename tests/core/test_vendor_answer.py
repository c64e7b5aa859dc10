"""What each answer of the vendor means."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from gateway.core.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamRefusal,
    UpstreamRefusedKey,
)
from gateway.core.vendor_answer import parse_retry_after, read_answer

NOW = 1_792_000_000.0  # Wed, 14 Oct 2026 17:46:40 GMT
PAGE = b'{"assets":[],"pagination":{"total":0,"offset":0,"limit":10}}'
ENVELOPE = b'{"error":{"code":"c","message":"m","details":{"a":1}}}'
KEY = b"s3cret"


def read(status: int, body: bytes, headers: dict[str, str] | None = None) -> tuple[bytes, bool]:
    found, listing = read_answer(
        status, CIMultiDict(headers or {}), body, aoi_id="a1", now=NOW, holds_key=lambda data: KEY in data
    )
    return found, listing is not None


def test_a_page_and_a_404_are_answers() -> None:
    assert read(200, PAGE) == (PAGE, True)
    assert read(404, ENVELOPE) == (ENVELOPE, False)


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind"),
    [
        (200, b"<html>", {}, UpstreamBroken),
        (200, ENVELOPE, {}, UpstreamBroken),
        (200, PAGE[:-1] + b',"x":"s3cret"}', {}, UpstreamBroken),
        (404, b"not found", {}, UpstreamBroken),
        (400, b"no envelope", {}, UpstreamBroken),
        (401, ENVELOPE, {}, UpstreamRefusedKey),
        (403, ENVELOPE, {}, UpstreamRefusedKey),
        (407, ENVELOPE, {}, UpstreamBroken),
        (408, ENVELOPE, {}, UpstreamBroken),
        (429, ENVELOPE, {}, UpstreamRateLimited),
        (500, ENVELOPE, {}, UpstreamFailed),
        (502, b"", {}, UpstreamFailed),
        (503, b"", {}, UpstreamFailed),
        (503, b"", {"Retry-After": "5"}, UpstreamRateLimited),
        (503, b"", {"Retry-After": "x"}, UpstreamRateLimited),
        (504, b"", {}, UpstreamFailed),
        (501, b"", {}, UpstreamBroken),
        (206, PAGE, {}, UpstreamBroken),
        (204, b"", {}, UpstreamBroken),
        (304, b"", {}, UpstreamBroken),
        (302, b"", {"Location": "/"}, UpstreamBroken),
        (999, PAGE, {}, UpstreamBroken),
    ],
)
def test_failures(status: int, body: bytes, headers: dict[str, str], kind: type[UpstreamError]) -> None:
    with pytest.raises(UpstreamError) as caught:
        read(status, body, headers)
    assert type(caught.value) is kind
    assert caught.value.status == status


@pytest.mark.parametrize("status", [400, 405, 409, 410, 422, 451])
def test_another_4xx_with_an_envelope_is_passed_on(status: int) -> None:
    with pytest.raises(UpstreamRefusal) as caught:
        read(status, ENVELOPE)
    assert caught.value.status == status
    assert caught.value.envelope.details == {"a": 1}


def test_an_envelope_that_quotes_the_key_keeps_none_of_its_words() -> None:
    body = b'{"error":{"code":"c","message":"you sent s3cret","details":null}}'
    found, _ = read(404, body)
    assert KEY not in found
    with pytest.raises(UpstreamRefusal) as caught:
        read(400, body)
    assert "s3cret" not in repr(caught.value.envelope)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5),
        (" 7 ", 7),
        ("0", 1),
        ("1000000000", 60),
        ("9" * 40, 60),
        ("x", None),
        ("-1", None),
        ("1.5", None),
        ("Wed, 14 Oct 2026 17:46:50 GMT", 10),
        ("Wed, 14 Oct 2020 17:46:50 GMT", 1),
        ("Wed, 14 Oct 2030 17:46:50 GMT", 60),
        ("", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds
