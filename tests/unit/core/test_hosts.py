"""Hosts by name alone."""

from __future__ import annotations

import pytest

from gateway.core.hosts import collide, is_loopback


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("0:0:0:0:0:0:0:1", True),
        ("::ffff:127.0.0.1", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("128.0.0.1", False),
        ("127.1", False),
        ("127.0.0.1.example.com", False),
        ("localhost.example.com", False),
        ("127.0.0.1:80", False),
        ("[::1]", False),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("", "127.0.0.1", True),
        ("::", "::1", True),
        ("::", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.2", False),
        ("::1", "127.0.0.1", False),
    ],
)
def test_collide(one: str, other: str, expected: bool) -> None:
    assert collide(one, other) is collide(other, one) is expected
