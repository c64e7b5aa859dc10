"""No request reaches any vendor path but that of the AOI and the page that it names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

import pytest
import pytest_asyncio
from harness import VENDOR_KEY, Play, playing
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import answers, request, until_closed

from gateway.mock_vendor.server import MockVendor

pytestmark = pytest.mark.asyncio(loop_scope="module")

# What means something in a path, a query, a header or a request line, raw and escaped, once and twice.
SPOILT = [
    b"/", b"//", b"..", b".", b"%2e%2e", b"%2f", b"%2F..%2F", b"%252f", b"\\", b"%5c", b"?", b"%3f", b"#", b"%23", b"&",
    b"%26", b";", b"=", b"+", b":", b"@", b"|", b"*", b"%", b"%zz", b"%00", b"%0d%0a", b"%c0%ae", b"%ff", b"\xff",
    b"\xef\xbc\x8f", b"%EF%BC%8F", b"%09", b"~", b"{", b"}", b",", b"-", b"_", b"0", b"a", b"%41", b" ", b"\t", b"\0",
    b"\r", b"\n", b"\r\n", b" HTTP/1.1\r\nX: ", b"/../users?", b"/assets?", b"&limit=5", b"&offset=5",
    b"http://evil.example/", b"@evil.example", b".evil.example", b"%20HTTP/1.1", b"assets/../",
]  # fmt: skip
TARGETS = [
    b"/v0/aois/x/assets", b"/v0/aois/%78/assets?offset=1", b"/v0/aois/x_y-Z9/assets?offset=1&limit=2",
    b"/v0/aois/x/assets?limit=%35", b"/v0/aois/x/assets?%6fffset=3", b"http://localhost/v0/aois/x/assets?limit=7",
]  # fmt: skip


@st.composite
def targets(draw: st.DrawFn) -> bytes:
    """One that is good, or with a few things put in, in place of what stood there."""
    target = draw(st.sampled_from(TARGETS))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(target)))
        target = target[:start] + draw(st.sampled_from(SPOILT)) + target[start + draw(st.integers(0, 3)) :]
    return target


class Scene(NamedTuple):
    vendor: MockVendor
    play: Play


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene() -> AsyncIterator[Scene]:
    vendor = MockVendor(key=VENDOR_KEY)
    await vendor.start()
    vendor.set_assets("x", [{"status": "success"}] * 30)
    async with playing({"upstream.base_url": vendor.url, "cache.prefetch": 0}) as play:
        yield Scene(vendor, play)
    await vendor.stop()


def meant(target: bytes) -> str:
    """The vendor's target for one of ours, read by the standard library."""
    path, _, query = target.decode("latin-1").removeprefix("http://localhost").partition("?")
    assert path.startswith("/v0/aois/")
    assert path.endswith("/assets")
    window = {"offset": "0", "limit": "10", **dict(parse_qsl(query, strict_parsing=True) if query else ())}
    aoi_id = unquote(path[len("/v0/aois/") : -len("/assets")])
    return f"/v0/aois/{aoi_id}/assets?offset={window['offset']}&limit={window['limit']}"


@settings(max_examples=300)
@given(targets())
async def test_a_request_reaches_its_own_path_or_none(scene: Scene, target: bytes) -> None:
    scene.vendor.requests.clear()
    scene.play.clock.skip(1_000_000)  # whatever was cached is gone
    received = await until_closed(scene.play.port, request(b"Connection: close", path=target))
    [answer] = answers(received)
    asked = [recorded.target for recorded in scene.vendor.requests]
    if "Cache-Status" in answer.headers:
        assert answer.status in (200, 404)
        assert asked == [meant(target.partition(b" ")[0])]
    else:
        assert answer.status < 500
        assert asked == []
    assert {recorded.method for recorded in scene.vendor.requests} <= {"GET"}
