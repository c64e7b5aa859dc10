"""What a request is for: hosts, targets, AOI ids, queries and methods that must get nowhere, and those that must."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import pytest_asyncio
from harness import VENDOR_KEY, Play, playing
from wire import Answer, answers, request, until_closed

from gateway.mock_vendor.server import MockVendor

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = b"/v0/aois/x/assets"
TOKEN = "pgw_" + "t" * 43


class Scene(NamedTuple):
    vendor: MockVendor
    open: Play
    closed: Play  # wants a token


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene() -> AsyncIterator[Scene]:
    vendor = MockVendor(key=VENDOR_KEY)
    await vendor.start()
    vendor.set_assets("x", [{"status": "success"}] * 3)
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    flags = {"upstream.base_url": vendor.url}
    async with playing(flags) as anybody, playing({**flags, "teams.alpha.token_sha256": [digest]}) as teams:
        yield Scene(vendor, anybody, teams)
    await vendor.stop()


@pytest.fixture
def vendor(scene: Scene) -> MockVendor:
    scene.vendor.reset()
    for play in (scene.open, scene.closed):
        play.clock.skip(1_000_000)  # whatever was cached is gone
    return scene.vendor


async def ask(
    play: Play, *lines: bytes, path: bytes = PAGE, host: bytes | None = b"localhost", **more: bytes
) -> Answer:
    """Send one request with a token, and take the one answer."""
    lines = (*lines, b"Connection: close", b"Authorization: " + TOKEN.encode())
    [answer] = answers(await until_closed(play.port, request(*lines, path=path, host=host, **more)))
    assert TOKEN.encode() not in answer.body
    assert answer.headers["X-Request-Id"]
    if answer.status >= 400 and answer.body:
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.error["details"]["request_id"] == answer.headers["X-Request-Id"]
    return answer


def asked(vendor: MockVendor) -> list[str]:
    return [recorded.target for recorded in vendor.requests]


LOOPBACK_HOSTS = [
    b"localhost", b"LOCALHOST", b"localhost:1234", b"localhost:", b"127.0.0.1", b"127.0.0.1:65535", b"127.9.8.7",
    b"[::1]", b"[::1]:80", b"[0:0:0:0:0:0:0:1]:8080",
]  # fmt: skip
OTHER_HOSTS = [
    b"gateway.example", b"my_service:8080", b"10.0.0.1", b"[2001:db8::1]:443", b"localhost.evil.example",
    b"evil.localhost", b"127.0.0.1.evil.example", b"0.0.0.0", b"[::]", b"1.127.0.0.1", b"localhost.",
    b"xn--bcher-kva.example",
]  # fmt: skip
MALFORMED_HOSTS = [
    b"", b" ", b":", b":80", b"local host", b"localhost,evil", b"localhost, localhost", b"localhost/", b"localhost/x",
    b"localhost?x", b"localhost#x", b"user@localhost", b"localhost@evil", b"localhost:x", b"localhost:80:80",
    b"localhost:-1", b"localhost:+80", b"localhost:99999", b"localhost:000080", b"http://localhost", b"[::1", b"::1",
    b"[::1]x", b"[::1%25lo]", b"[localhost]", b"[:::]", b"[127.0.0.1]", b"[]", b"local\xc3\xa9", b"local%68ost",
    b"localhost\\evil", b"localhost;", b"*", b'"localhost"',
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
async def test_a_loopback_host_is_answered(scene: Scene, vendor: MockVendor, host: bytes) -> None:
    assert (await ask(scene.open, host=host)).status == 200
    assert (await ask(scene.closed, host=host)).status == 200


@pytest.mark.parametrize("host", OTHER_HOSTS)
async def test_another_host_is_answered_only_to_those_with_a_token(
    scene: Scene, vendor: MockVendor, host: bytes
) -> None:
    refused = await ask(scene.open, host=host)
    assert (refused.status, refused.error["code"]) == (400, "bad_request")
    assert host not in refused.body
    assert asked(vendor) == []
    assert (await ask(scene.closed, host=host)).status == 200


@pytest.mark.parametrize("host", MALFORMED_HOSTS)
async def test_a_malformed_host_is_refused(scene: Scene, vendor: MockVendor, host: bytes) -> None:
    for play in (scene.open, scene.closed):
        refused = await ask(play, host=host)
        assert (refused.status, refused.error["code"]) == (400, "bad_request")
    assert asked(vendor) == []


async def test_a_host_stands_exactly_once(scene: Scene, vendor: MockVendor) -> None:
    missing = await ask(scene.closed, host=None)
    assert (missing.status, missing.error["code"]) == (400, "bad_request")
    for second in (b"localhost", b"evil.example", b""):
        twice = await ask(scene.closed, b"Host: " + second)
        assert (twice.status, twice.error["code"]) == (400, "bad_request")
    assert asked(vendor) == []
    old = await ask(scene.closed, host=None, version=b"HTTP/1.0")  # which has no such header
    assert old.status == 200


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://localhost" + PAGE, b"localhost"), (b"HTTP://LOCALHOST:80" + PAGE, b"localhost:80"),
        (b"https://localhost" + PAGE, b"localhost"), (b"http://[::1]:80" + PAGE + b"?offset=0", b"[::1]:80"),
    ],
)  # fmt: skip
async def test_the_absolute_form_is_taken(scene: Scene, vendor: MockVendor, target: bytes, host: bytes) -> None:
    assert (await ask(scene.open, path=target, host=host)).status == 200
    assert asked(vendor) == ["/v0/aois/x/assets?offset=0&limit=10"]


@pytest.mark.parametrize(
    "target",
    [
        b"http://evil.example" + PAGE, b"http://localhost:81" + PAGE, b"http://localhost@evil.example" + PAGE,
        b"http://user@localhost" + PAGE, b"http://evil.example@localhost" + PAGE,
        b"http://localhost.evil.example" + PAGE, b"http://localhost?x" + PAGE, b"http://localhost#" + PAGE,
        b"http://localhost\\" + PAGE, b"http://" + PAGE, b"http:" + PAGE, b"ftp://localhost" + PAGE,
        b"file://localhost" + PAGE, b"javascript://localhost" + PAGE, b"localhost" + PAGE, b"v0/aois/x/assets",
        b"?offset=0", b"*", b"\\v0\\aois\\x\\assets", PAGE + b"#fragment",
        PAGE + b"?offset=0#", PAGE + b"\xc3\xa9", PAGE + b"\x7f", PAGE + b"?\xff",
    ],
)  # fmt: skip
async def test_a_target_that_is_no_path_of_ours_is_refused(scene: Scene, vendor: MockVendor, target: bytes) -> None:
    refused = await ask(scene.open, path=target)
    assert (refused.status, refused.error["code"]) == (400, "bad_request")
    assert refused.headers["Connection"] == "close"
    assert asked(vendor) == []


@pytest.mark.parametrize(
    "target",
    [
        b"//evil.example" + PAGE, b"//localhost" + PAGE, b"/" + PAGE, b"/%76%30/aois/x/assets", b"/v0/%61ois/x/assets",
        b"/v0/aois/x/%61ssets", b"/V0/aois/x/assets", b"/v0/aois/x/Assets", b"/v0/aois/x/assets/",
        b"/v0/aois/x/assets//", b"/v0/aois/x/assets/a.css", b"/v0/aois/x/assets;.css", b"/v0/aois/x/assets%00.css",
        b"/v0/aois/x/assets%2f", b"/v0/aois/x/assets%2fa.css", b"/v0/aois/x/assets%2e", b"/v0/aois/x/assets%2ecss",
        b"/v0/aois/x/assets%3f.css", b"/v0/aois/x/assets%20", b"/v0/aois/x/assets.css", b"/v0/aois/x/assets/..",
        b"/v0/aois/x/assets/../assets", b"/v0/aois/x/./assets", b"/v0/./aois/x/assets", b"/./v0/aois/x/assets",
        b"/x/../v0/aois/x/assets", b"/v0//aois/x/assets", b"/v0/aois//x/assets", b"/v0/aois/x//assets",
        b"/v0/aois/x/y/assets", b"/v0/aois/x\\assets", b"/v0/aois/x", b"/v0/aois", b"/v0", b"/v0/users/assets",
        b"/v1/aois/x/assets", b"/v0;/aois/x/assets", b"/%2e%2e/v0/aois/x/assets", b"/%2fv0/aois/x/assets",
        b"/metrics/", b"/metrics.css", b"/healthz%00", b"//metrics", b"/_mock/requests", b"/admin", b"/.git/config",
        b"/favicon.ico",
    ],
)  # fmt: skip
async def test_a_path_close_to_ours_is_404(scene: Scene, vendor: MockVendor, target: bytes) -> None:
    refused = await ask(scene.open, path=target)
    assert (refused.status, refused.error["code"]) == (404, "not_found")
    assert asked(vendor) == []
    assert (await scene.open.metrics())["gateway_cache_entries"] <= 1  # that of another test


@pytest.mark.parametrize(
    "aoi_id",
    [
        b"..", b".", b"%2e%2e", b"%2e%2e%2fusers", b"..%2f..%2fkeys%3f", b"x%2f..%2f..%2fadmin%23", b"%252e%252e%252f",
        b"..%5c", b"a%00b", b"a%0d%0aX-Evil:1", b"a%0a", b"a%3fx=1", b"a%23f", b"a;b", b"%c0%ae", b"%ff", b"%zz",
        b"%EF%BC%8E", b"http:%2f%2fevil", b"%2F", b"a:offset=0", b"a|50", b"x" * 3000, b"", b"x" * 65, b"a\\b", b"{x}",
        b'"x"', b"<x>", b"a^b", b"a`b", b"*", b"a%", b"a+b", b"@evil.example",
    ],
)  # fmt: skip
async def test_what_is_no_aoi_id_makes_no_call(scene: Scene, vendor: MockVendor, aoi_id: bytes) -> None:
    refused = await ask(scene.open, path=b"/v0/aois/" + aoi_id + b"/assets")
    assert (refused.status, refused.error["code"]) == (400, "invalid_aoi_id")
    assert asked(vendor) == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        (b"offset=-1", "offset"), (b"limit=0", "limit"), (b"limit=1001", "limit"), (b"limit=1e9", "limit"),
        (b"offset=%EF%BC%91", "offset"), (b"offset=%D9%A1", "offset"), (b"offset=+1", "offset"),
        (b"offset=%2B1", "offset"), (b"offset=1_0", "offset"), (b"offset=01", "offset"), (b"offset=1%0d%0a", "offset"),
        (b"offset=%00", "offset"), (b"offset=%ff", "offset"), (b"offset=1&offset=2", "offset"),
        (b"offset=1;limit=5", "offset"), (b"offset=1%26limit=5", "offset"), (b"cursor=1", "cursor"),
        (b"OFFSET=1", "OFFSET"), (b"offset[]=1", "offset[]"), (b"offset=", "offset"), (b"offset", "offset"),
        (b"&", "#1"), (b"offset=1&", "#2"), (b"?", "?"), (b"<script>=1", "<script>"),
        (b"offset=" + b"9" * 4000, "offset"), (b"%00=1", "#1"), (b"%00", "#1"), (b"%ff", "%ff"),
        (b"offset=1&%0d%0a", "#2"),
    ],
)  # fmt: skip
async def test_a_bad_query_makes_no_call(scene: Scene, vendor: MockVendor, query: bytes, parameter: str) -> None:
    refused = await ask(scene.open, path=PAGE + b"?" + query)
    assert (refused.status, refused.error["code"]) == (400, "invalid_parameter")
    assert refused.error["details"]["parameter"] == parameter
    if "unknown" in refused.error["message"]:
        assert refused.error["details"]["allowed"] == ["offset", "limit"]
    assert asked(vendor) == []


async def test_other_ways_to_say_the_same_are_the_same_page(scene: Scene, vendor: MockVendor) -> None:
    pages = [
        await ask(scene.open, path=b"/v0/aois/" + rest)
        for rest in (
            b"x/assets?offset=1", b"x/assets?offset=%31", b"x/assets?%6fffset=1", b"%78/assets?limit=10&offset=1",
        )
    ]  # fmt: skip
    assert [page.status for page in pages] == [200] * 4
    assert len({page.body for page in pages}) == 1
    assert asked(vendor) == ["/v0/aois/x/assets?offset=1&limit=10"]


@pytest.mark.parametrize(
    "method", b"OPTIONS POST PUT DELETE PATCH TRACE PURGE PROPFIND QUERY LINK SOURCE M-SEARCH".split()
)
async def test_another_method_is_405_and_nothing_is_echoed(scene: Scene, vendor: MockVendor, method: bytes) -> None:
    for path in (PAGE, b"/v0/aois/%2e%2e/assets?nonsense"):  # the method is judged before these
        refused = await ask(scene.closed, b"X-Marker: r3flect", method=method, path=path)
        assert (refused.status, refused.error["code"]) == (405, "method_not_allowed")
        assert refused.headers["Allow"] == "GET, HEAD"
        assert b"r3flect" not in refused.body
        assert not [name for name in refused.headers if name.startswith("Access-Control")]
    assert (await ask(scene.open, method=method, path=b"/metrics")).headers["Allow"] == "GET, HEAD"
    assert (await ask(scene.open, method=method, path=b"/nowhere")).status == 404
    assert asked(vendor) == []


@pytest.mark.parametrize("target", [b"evil.example:443", b"localhost:80", PAGE, b"/", b"127.0.0.1:22"])
async def test_there_is_no_tunnel(scene: Scene, vendor: MockVendor, target: bytes) -> None:
    sent = request(method=b"CONNECT", path=target) + request(path=PAGE)
    [refused] = answers(await until_closed(scene.open.port, sent))
    assert (refused.status, refused.error["code"]) == (405, "method_not_allowed")
    assert refused.headers["Allow"] == "GET, HEAD"
    assert refused.headers["Connection"] == "close"
    assert asked(vendor) == []


async def test_options_of_everything_is_refused(scene: Scene, vendor: MockVendor) -> None:
    refused = await ask(scene.open, method=b"OPTIONS", path=b"*")
    assert (refused.status, refused.error["code"]) == (400, "bad_request")


async def test_a_target_of_just_the_longest_length_is_looked_at(scene: Scene, vendor: MockVendor) -> None:
    fits = PAGE + b"?offset=" + b"1" * (8190 - len(PAGE) - len(b"?offset="))
    assert (await ask(scene.open, path=fits)).error["code"] == "invalid_parameter"
    over = await ask(scene.open, path=fits + b"1")
    assert (over.status, over.error["code"]) == (414, "uri_too_long")
    assert asked(vendor) == []


async def test_headers_that_other_servers_obey_change_nothing(scene: Scene, vendor: MockVendor) -> None:
    answer = await ask(
        scene.open, b"X-Original-URL: /v0/users", b"X-Rewrite-URL: /v0/users", b"X-HTTP-Method-Override: DELETE",
        b"X-Forwarded-Host: evil.example", b"X-Forwarded-Prefix: /evil", b"Range: bytes=0-0", b"Cookie: a=b",
        b"Connection: close, authorization, host", b"Content-Length: 0", b"TE: trailers", b"Max-Forwards: 0",
    )  # fmt: skip
    assert answer.status == 200
    assert answer.body == vendor.listing("x", 0, 10)
    assert asked(vendor) == ["/v0/aois/x/assets?offset=0&limit=10"]
    [recorded] = vendor.requests
    assert dict(recorded.headers)["Authorization"] == VENDOR_KEY
