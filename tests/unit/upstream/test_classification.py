"""What each answer of the vendor means."""

from __future__ import annotations

import json
import time

import pytest
from multidict import CIMultiDict

from gateway.core.errors import (
    Envelope,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamRefusal,
    UpstreamRefusedKey,
)
from gateway.core.listing import render_envelope
from gateway.upstream.classification import classify, parse_retry_after, requested_pause
from gateway.upstream.keys import KeyRing

NOW = 1_792_000_000.0  # Wed, 14 Oct 2026 17:46:40 GMT
PAGE = b'{"assets":[],"pagination":{"total":0,"offset":0,"limit":10}}'
ENVELOPE = b'{"error":{"code":"c","message":"m","details":{"a":1}}}'
KEY = b"s3cret"
KEYS = KeyRing(KEY.decode())


def read(status: int, body: bytes, headers: dict[str, str] | None = None) -> tuple[bytes, bool]:
    found, listing = classify(
        status, CIMultiDict(headers or {}), body, aoi_id="a1", now=NOW, holds_key=KEYS.is_in, redact=KEYS.redact_json
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


@pytest.mark.parametrize("status", [404, 400, 422])
@pytest.mark.parametrize(
    "quoted",
    [
        "s3cret", "\\u00733cret", "s3cre\\u0074", "s3c%72et", "%73%33%63%72%65%74", "\\u0025733cret", "czNjcmV0",
        '{\\"sent\\":\\"s3cret\\"}', '{\\"sent\\":\\"\\\\u00733cret\\"}', "\\n\\\\s3cret",
    ],
)  # fmt: skip
def test_an_envelope_that_quotes_the_key_loses_nothing_but_the_key(status: int, quoted: str) -> None:
    template = '{"error":{"code":"invalid_aoi","message":"you sent %s, sorry","details":{"%s":["%s",7]}}}'
    body = (template % (quoted, quoted, quoted)).encode()
    if status == 404:
        found, _ = read(status, body)
    else:
        with pytest.raises(UpstreamRefusal) as caught:
            read(status, body)
        found = render_envelope(caught.value.envelope)
    error = json.loads(found)["error"]
    assert error["code"] == "invalid_aoi"
    assert error["message"].startswith("you sent ")
    assert "[redacted]" in error["message"]
    assert error["message"].endswith(", sorry")
    assert [value[1] for value in error["details"].values()] == [7]
    assert not KEYS.is_in(found)
    assert b"s3c" not in found


def test_a_code_is_kept_where_the_key_cannot_be_replaced_alone() -> None:
    with pytest.raises(UpstreamRefusal) as caught:
        classify(
            422, CIMultiDict(), b'{"error":{"code":"c","message":"s3cret","details":["s3cret"]}}',
            aoi_id="a1", now=NOW, holds_key=KEYS.is_in, redact=lambda data: data,
        )  # fmt: skip
    assert caught.value.envelope == Envelope("c", "[redacted]", None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5),
        (" 7 ", 7),
        ("0", 1),
        ("1000000000", 60),
        ("1e9", 60),
        ("1e999", 60),
        ("9" * 40, 60),
        ("29.97", 30),
        ("29.", 29),
        (".5", 1),
        ("0.2", 1),
        ("59.9", 60),
        ("+5", 5),
        ("5, 10", 10),
        ("10,5", 10),
        ("x", None),
        ("-1", None),
        ("5, x", None),
        ("inf", None),
        ("nan", None),
        ("1_0", None),
        ("\u0665", None),
        ("", None),
        ("Wed, 14 Oct 2026 17:46:50 GMT", 10),
        ("Wednesday, 14-Oct-26 17:46:50 GMT", 10),
        ("Wed Oct 14 17:46:50 2026", 10),
        ("Wed, 14 Oct 2020 17:46:50 GMT", 1),
        ("Wed, 14 Oct 2030 17:46:50 GMT", 60),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "lines", "seconds"),
    [
        (429, (), 1),
        (429, ("x",), 1),
        (429, ("29.97",), 30),
        (503, (), None),
        (503, ("x",), 1),
        (503, ("29.97",), 30),
        (503, ("5", "Wed, 14 Oct 2026 17:46:50 GMT", "x"), 10),
        (500, ("5",), None),
    ],
)
def test_the_longest_time_of_several_retry_after_lines_counts(
    status: int, lines: tuple[str, ...], seconds: float | None
) -> None:
    headers = CIMultiDict(("Retry-After", line) for line in lines)
    assert requested_pause(status, headers, NOW) == seconds


def test_an_asctime_date_is_in_utc_wherever_the_gateway_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert parse_retry_after("Wed Oct 14 17:46:50 2026", NOW) == 10
    finally:
        monkeypatch.undo()
        time.tzset()
