"""When links end, by tables of values."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.signed_urls import last_use, link_expiries, link_expiry

ENDS = 1_792_000_000.0  # 2026-10-14T17:46:40Z


def policy(ends: object) -> str:
    plain = json.dumps({"Statement": [{"Resource": "*", "Condition": {"DateLessThan": {"AWS:EpochTime": ends}}}]})
    return base64.b64encode(plain.encode()).decode().translate(str.maketrans("+=/", "-_~"))


@pytest.mark.parametrize(
    ("query", "ends"),
    [
        ("sv=2024-11-04&se=2026-10-14T17%3A46%3A40Z&sr=b&sig=x", ENDS),
        ("se=2026-10-14T17:46:40Z", ENDS),
        ("se=2026-10-14T17:46Z", ENDS - 40),
        ("se=2026-10-14T19:46:40%2B02:00", ENDS),
        ("se=2026-10-14", ENDS - 64_000),
        ("X-Amz-Date=20261014T164640Z&X-Amz-Expires=3600&X-Amz-Signature=x", ENDS),
        ("x-amz-date=20261014T164640Z&x-amz-expires=3600", ENDS),
        ("X-Goog-Algorithm=a&X-Goog-Date=20261014T164640Z&X-Goog-Expires=3600", ENDS),
        ("AWSAccessKeyId=a&Signature=x&Expires=1792000000", ENDS),
        ("Expires=1792000000&Signature=x&Key-Pair-Id=k", ENDS),
        (f"Policy={policy(1_792_000_000)}&Signature=x&Key-Pair-Id=k", ENDS),
        (f"Policy={policy('soon')}", None),
        ("Policy=nonsense", None),
        ("", None),
        ("se=south", None),
        ("se=", None),
        ("Expires=never", None),
        ("Expires=-1", None),
        ("Expires=" + "9" * 400, None),
        ("X-Amz-Date=20261014T164640Z", None),
        ("X-Amz-Date=yesterday&X-Amz-Expires=5", None),
        ("X-Amz-Date=20261014T164640Z&X-Amz-Expires=999999999999", None),
        ("page=2&close=now", None),
    ],
)
def test_each_form(query: str, ends: float | None) -> None:
    assert link_expiry(f"https://storage.example/a/b.tif?{query}") == ends


def test_links_are_found_wherever_they_stand_and_however_they_are_escaped() -> None:
    body = (
        b'{"assets":[{"path":"https://a/x?sv=1\\u0026se=2026-10-14T17:46:40Z\\u0026sig=y"},'
        b'{"more":{"list":["https://b/x?Expires=1792000001&Signature=z"]}}],"note":"se=x"}'
    )
    assert sorted(link_expiries(body)) == [ENDS, ENDS + 1]


@pytest.mark.parametrize("path", ["https://a/b?", "https:\\/\\/a\\/b\\u003F", "https://a/\\ud83d/b\\u003f"])
@pytest.mark.parametrize(
    "query",
    [
        "se\\u003d2026-10-14T17:46:40Z",
        "se=2026-10-14T17\\u00253A46\\u00253a40Z\\u0026sig=y",
        "se=2026-10-14T17:46:40.0000000Z",
        "se=2026-10-14T19:46:40+02:00",
        "%73%65=2026-10-14T17%3a46%3A40Z",
        "\\u0073e=2026-10-14T17:46:40Z",
        "eXpIrEs=1792000000",
        "Expires\\u003D1792000000",
        "X-Amz-Date=20261014T164640Z\\u0026X-Amz-Expires\\u003d3600",
        "X%2DGoog%2DDate=20261014T164640Z&X%2dGoog%2DExpires=3600",
        "name=\\ud83d&Expires=1792000000",
    ],
)
def test_escaped_links_are_recognised(path: str, query: str) -> None:
    assert link_expiries(f'{{"path":"{path}{query}"}}'.encode()) == [ENDS]


def test_a_number_beyond_floats_hides_no_link() -> None:
    assert link_expiries(b'{"x":1e999,"path":"https://b/x?Expires=1792000000"}') == [ENDS]


@pytest.mark.parametrize(
    "body", [b"{}", b'{"a":"https://a/x?y=z"}', b'{"a":"case=1"}', b'{"path":"/x?Expires=1792000000"}']
)
def test_what_is_not_signed_caps_nothing(body: bytes) -> None:
    assert link_expiries(body) == []


@given(st.text(max_size=300))
def test_no_text_is_an_error(text: str) -> None:
    link_expiry(text)
    link_expiry("https://a/?" + text)


@pytest.mark.parametrize(
    ("remained", "margin", "served_for"), [(3600, 60, 3540), (100, 60, 50), (120, 60, 60), (10, 0, 10)]
)
def test_the_margin_takes_at_most_half(remained: float, margin: float, served_for: float) -> None:
    assert last_use(ENDS, ENDS - remained, margin) == ENDS - remained + served_for
