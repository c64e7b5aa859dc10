"""The stand-in vendor, over real sockets."""

import asyncio
import gzip
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from harness import until

from gateway.mock_vendor.behaviour import BadBehaviour
from gateway.mock_vendor.server import MAX_RECORDED, MockVendor

KEY = "sesame"
STARTED = 1_800_000_000.0
STATUSES = {"creating", "started", "success", "failed"}
ASSET_KEYS = [
    "aoi_id",
    "area_in_sq_m",
    "asset_type",
    "band_list",
    "centroid",
    "created_at",
    "date",
    "description",
    "geometry",
    "id",
    "name",
    "path",
    "progress",
    "resolution",
    "status",
    "updated_at",
    "visualization_id",
]


class Clock:
    def __init__(self) -> None:
        self.now = STARTED

    def __call__(self) -> float:
        return self.now


@dataclass
class Origin:
    vendor: MockVendor
    url: str
    session: aiohttp.ClientSession
    clock: Clock

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def path(self, query: str = "", aoi: int = 0) -> str:
        return f"/v0/aois/{self.vendor.aoi_ids[aoi]}/assets{query}"

    async def get(self, path: str, key: str | None = KEY) -> tuple[int, bytes]:
        headers = {} if key is None else {"Authorization": key}
        url = self.url + path
        async with self.session.get(url, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.read()

    async def raw(self, path: str) -> tuple[bytes, bytes, type[Exception] | None]:
        """Return head, body and how the connection ended, of an answer read to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nauthORIZation: {KEY}\r\n"
        writer.write(f"{request}Connection: close\r\n\r\n".encode())
        head, body, end = b"", b"", None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            while piece := await reader.read(65536):
                body += piece
        except ConnectionResetError as error:
            end = type(error)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        return head, body, end

    async def mock(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.request(method, f"{self.url}/_mock{path}", data=data) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    clock = Clock()
    vendor = MockVendor(key=KEY, now=clock)
    url = await vendor.start()
    async with aiohttp.ClientSession() as session:
        yield Origin(vendor, url, session, clock)
    await vendor.stop()


def envelope(body: bytes) -> dict[str, Any]:
    error = json.loads(body)["error"]
    assert list(error) == ["code", "message", "details"]
    assert isinstance(error, dict)
    return error


async def test_pages_are_the_listing_in_the_documented_form(origin: Origin) -> None:
    aoi = origin.vendor.aoi_ids[0]
    status, body = await origin.get(origin.path())
    page = json.loads(body)
    assert status == 200
    assert body == origin.vendor.listing(aoi, 0, 10)
    assert 8_000 <= len(body) <= 9_500
    assert [list(asset) for asset in page["assets"]] == [ASSET_KEYS] * 10
    assert list(page["pagination"].items()) == [
        ("total", page["pagination"]["total"]),
        ("offset", 0),
        ("limit", 10),
    ]
    assert {asset["aoi_id"] for asset in page["assets"]} == {aoi}
    # Go's form: compact, no HTML characters, UTF-8 as it is.
    assert not set(b"&<>\n").intersection(body)

    one_by_one = [
        json.loads((await origin.get(origin.path(f"?offset={offset}&limit=1")))[1])["assets"][0] for offset in range(10)
    ]
    assert one_by_one == page["assets"]


async def test_windows(origin: Origin) -> None:
    total = json.loads((await origin.get(origin.path()))[1])["pagination"]["total"]
    past = f'{{"assets":[],"pagination":{{"total":{total},"offset":999999999,"limit":5}}}}'
    assert await origin.get(origin.path("?limit=5&offset=999999999")) == (200, past.encode())
    assert (await origin.get(origin.path("?offset=1&offset=x&filter=y")))[0] == 400
    assert (await origin.get(origin.path("?offset=1&filter=y")))[0] == 200
    for bad in ("?limit=x", "?limit=", "?offset=-1", "?limit=1.0", "?limit=%C2%B2"):
        status, body = await origin.get(origin.path(bad))
        assert (status, envelope(body)["code"]) == (400, "bad_request")


@pytest.mark.parametrize("form", [KEY, f"Bearer {KEY}"])
async def test_both_forms_of_the_key(origin: Origin, form: str) -> None:
    assert (await origin.get(origin.path(), form))[0] == 200


@pytest.mark.parametrize("key", [None, "", "wrong", f"{KEY}x", f"Basic {KEY}", "ключ"])
async def test_a_wrong_key_is_refused_without_showing_the_right_one(origin: Origin, key: str | None) -> None:
    status, body = await origin.get(origin.path(), key)
    assert (status, envelope(body)["code"]) == (401, "unauthorized")
    assert KEY.encode() not in body


async def test_what_there_is_not(origin: Origin) -> None:
    for path in ("/", "/v0/aois", "/v0/aois/nobody/assets", "/v0/aois/a/b/assets"):
        status, body = await origin.get(path)
        assert (status, envelope(body)["code"]) == (404, "not_found")
    async with origin.session.post(origin.url + origin.path(), headers={"Authorization": KEY}) as answer:
        assert answer.status == 405


@pytest.mark.parametrize("now", [0.0, 1_000.0, 4e9])
def test_settled_assets_do_not_care_for_the_clock(now: float) -> None:
    vendor = MockVendor(key=KEY, now=lambda: now)
    usual = MockVendor(key=KEY, now=lambda: STARTED)
    settled = vendor.listing(vendor.aoi_ids[0], 10, 100)
    assert settled == usual.listing(vendor.aoi_ids[0], 10, 100)
    assert {a["status"] for a in json.loads(settled or b"")["assets"]} <= {"success", "failed"}


def test_the_world_follows_from_the_seed() -> None:
    def world(seed: int, at: float) -> list[bytes | None]:
        vendor = MockVendor(key=KEY, aois=6, seed=seed, started=STARTED, now=lambda: at)
        return [vendor.listing(aoi, 0, 1000) for aoi in vendor.aoi_ids]

    assert world(1, STARTED) == world(1, STARTED)
    assert world(1, STARTED) != world(2, STARTED)
    assert world(1, STARTED) != world(1, STARTED + 30)


@pytest.mark.parametrize("seed", range(5))
def test_assets_progress_and_totals_do_not(seed: int) -> None:
    clock = Clock()
    vendor = MockVendor(key=KEY, aois=6, seed=seed, now=clock)
    order = ["creating", "started", "done"]

    def seen(limit: int) -> dict[str, tuple[int, int, str]]:
        assets = [
            asset for aoi in vendor.aoi_ids for asset in json.loads(vendor.listing(aoi, 0, limit) or b"")["assets"]
        ]
        assert {asset["status"] for asset in assets} <= STATUSES
        stage = {"success": "done", "failed": "done"}
        return {
            asset["id"]: (
                order.index(stage.get(asset["status"], asset["status"])),
                asset["progress"],
                asset["updated_at"],
            )
            for asset in assets
        }

    before = seen(1000)
    sizes = [json.loads(vendor.listing(a, 0, 1) or b"")["pagination"]["total"] for a in vendor.aoi_ids]
    assert sizes[0] >= 60
    assert sizes[1] == 0
    assert max(sizes) <= 250
    stages = Counter(stage for stage, _, _ in before.values())
    assert stages[0] > 0
    assert stages[1] > 0
    assert stages[2] > 0.7 * len(before)
    # All that is not done stands among the first of its AOI.
    before = seen(40)
    for _ in range(20):
        clock.now += 9.5
        after = seen(40)
        assert after.keys() == before.keys()
        assert all(after[asset] >= before[asset] for asset in before)
        before = after
    before = seen(1000)
    assert {stage for stage, _, _ in before.values()} == {2}
    failed = sum(progress < 100 for _, progress, _ in before.values())
    assert 0.02 < failed / len(before) < 0.1


async def test_set_assets_are_served_verbatim(origin: Origin) -> None:
    vendor = origin.vendor
    given: list[dict[str, Any]] = [
        {"zeta": 1.0, "id": None, "x": "<&>ü"},
        {"aoi_id": "OTHER", "status": "started"},
    ]
    assert await origin.mock("POST", "/aois/new-1", given) == (200, {"total": 2})
    _, body = await origin.get("/v0/aois/new-1/assets")
    first, second = json.loads(body)["assets"]
    assert body.startswith(b'{"assets":[{"aoi_id":"new-1","zeta":1.0,"id":null,"x":"\\u003c')
    assert first == {"aoi_id": "new-1", **given[0]}
    assert second == {"id": second["id"], **given[1]}
    assert len(second["id"]) == 36

    assert await origin.mock("POST", "/aois/new-1", {"assets": given[:1]}) == (200, {"total": 1})
    assert await origin.mock("POST", "/aois/new-1", {"assets": None}) == (200, {"total": 0})
    null = b'{"assets":null,"pagination":{"total":0,"offset":0,"limit":10}}'
    assert await origin.get("/v0/aois/new-1/assets") == (200, null)
    assert vendor.listing("new-1", 0, 10) == null

    busy = vendor.aoi_ids[0]
    assert await origin.mock("POST", f"/aois/{busy}", {"count": 33}) == (200, {"total": 33})
    page = json.loads((await origin.get(origin.path("?limit=100")))[1])
    assert len({asset["id"] for asset in page["assets"]}) == 33
    assert {asset["status"] for asset in page["assets"]} <= {"success", "failed"}

    for bad in ([1], {"assets": 1}, {"count": -1}, {"count": True}, {"count": 1, "x": 1}, None):
        status, answer = await origin.mock("POST", f"/aois/{busy}", bad)
        assert (status, answer["error"]["code"]) == (400, "bad_request")
    assert (await origin.mock("POST", "/aois/a%20b", []))[0] == 400
    assert json.loads(vendor.listing(busy, 0, 1) or b"")["pagination"]["total"] == 33


async def test_requests_are_recorded_as_they_came(origin: Origin) -> None:
    await origin.raw(origin.path("?limit=%31&offset=00"))
    await origin.raw("/other")
    status, answer = await origin.mock("GET", "/requests")
    assert status == 200
    first, second = answer["requests"]
    assert first == {
        "method": "GET",
        "target": origin.path("?limit=%31&offset=00"),
        "headers": [["Host", "x"], ["authORIZation", KEY], ["Connection", "close"]],
        "time": STARTED,
    }
    assert second["target"] == "/other"
    assert [seen.target for seen in origin.vendor.requests] == [first["target"], "/other"]

    origin.vendor.requests.extend(origin.vendor.requests[:1] * (MAX_RECORDED - 2))
    await origin.raw("/last")
    assert len(origin.vendor.requests) == MAX_RECORDED
    assert [origin.vendor.requests[i].target for i in (0, -1)] == ["/other", "/last"]


async def test_reset_forgets_behaviours_and_requests(origin: Origin) -> None:
    origin.vendor.set_behaviour(status=500)
    assert (await origin.get(origin.path()))[0] == 500
    assert (await origin.mock("DELETE", ""))[0] == 200
    assert origin.vendor.requests == []
    assert (await origin.get(origin.path()))[0] == 200


async def test_controls_are_for_loopback(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp.web.BaseRequest, "remote", "192.0.2.1")
    status, answer = await origin.mock("POST", "/behaviour", {"status": 500})
    assert (status, answer["error"]["code"]) == (403, "forbidden")
    assert (await origin.get(origin.path()))[0] == 200
    for mapped in ("::ffff:127.0.0.1", "::1", "127.9.9.9"):
        monkeypatch.setattr(aiohttp.web.BaseRequest, "remote", mapped)
        assert (await origin.mock("GET", "/requests"))[0] == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"dealy": 1},
        {"self": 1},
        {"delay": "1"},
        {"delay": -1},
        {"delay": True},
        {"delay": None},
        {"delay": 10**400},
        {"status": 98},
        {"status": 1000},
        {"status": 500.0},
        {"retry_after": "1\r\nX: y"},
        {"retry_after": []},
        {"hang": "x"},
        {"reset_after_bytes": True},
        {"truncate": -1},
        {"garbage": 1},
        {"garbage": "\ud800"},
        {"content_type": 1},
        {"gzip_bomb": 0},
        {"redirect_to": "\n"},
        {"trickle": "slow"},
        {"times": 0},
        {"aoi_id": 1},
        {"max_limit": 0},
    ],
)
async def test_a_bad_field_is_named_and_changes_nothing(origin: Origin, fields: dict[str, Any]) -> None:
    origin.vendor.set_behaviour(status=503)
    status, answer = await origin.mock("POST", "/behaviour", {"status": 500, **fields})
    assert status == 400
    assert answer["error"]["details"] == {"field": next(iter(fields))}
    assert (await origin.get(origin.path()))[0] == 503
    with pytest.raises(BadBehaviour):
        origin.vendor.set_behaviour(**fields)


async def test_a_post_that_is_no_object(origin: Origin) -> None:
    for body in (b"[]", b"{", b"\xff", b"", b"[" * 100_000):
        assert (await origin.mock("POST", "/behaviour", body))[0] == 400
    assert (await origin.mock("PUT", "/behaviour", {}))[0] == 404


async def test_scopes_and_times(origin: Origin) -> None:
    async def statuses(count: int, aoi: int = 0) -> list[int]:
        return [(await origin.get(origin.path(aoi=aoi)))[0] for _ in range(count)]

    origin.vendor.set_behaviour(status=500)
    origin.vendor.set_behaviour(status=503, times=2, aoi_id=origin.vendor.aoi_ids[0])
    assert await statuses(3) == [503, 503, 500]
    assert await statuses(1, aoi=2) == [500]
    origin.vendor.set_behaviour(status=502, times=1)
    assert await statuses(2) == [502, 200]
    origin.vendor.set_behaviour(status=500, aoi_id=origin.vendor.aoi_ids[0])
    origin.vendor.set_behaviour(aoi_id=origin.vendor.aoi_ids[0])
    assert await statuses(1) == [200]
    origin.vendor.set_behaviour(status=500, aoi_id=origin.vendor.aoi_ids[0])
    assert await origin.mock("POST", "/behaviour", {}) == (200, {})
    assert await statuses(1) == [200]


async def test_only_a_status_goes_before_the_key(origin: Origin) -> None:
    origin.vendor.set_behaviour(garbage=True, times=1)
    assert (await origin.get(origin.path(), "wrong"))[0] == 401
    assert (await origin.get(origin.path()))[1].startswith(b"\x00")
    origin.vendor.set_behaviour(status=403, times=1)
    assert (await origin.get(origin.path(), "wrong"))[0] == 403


@pytest.mark.parametrize("status", [99, 103, 204, 206, 304, 404, 599, 999])
async def test_any_status(origin: Origin, status: int) -> None:
    # A 1xx is no final answer, so the connection would stay open for one: cut it.
    extra = {"truncate": 0} if status == 103 else {}
    origin.vendor.set_behaviour(status=status, retry_after=1e9, delay=0.01, **extra)
    head, body, end = await origin.raw(origin.path())
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nRetry-After: 1000000000\r\n" in head
    assert end is None
    if status >= 400:
        assert envelope(body)["message"] == "as requested"
    else:
        listing = origin.vendor.listing(origin.vendor.aoi_ids[0], 0, 10)
        assert body == (b"" if status in {103, 204, 304} else listing)


@pytest.mark.parametrize(("given", "sent"), [(5, "5"), ("x", "x"), (0.5, "0.5"), ("", "")])
async def test_retry_after_is_sent_as_given(origin: Origin, given: object, sent: str) -> None:
    origin.vendor.set_behaviour(retry_after=given)
    head, _, _ = await origin.raw(origin.path())
    assert f"\r\nRetry-After: {sent}\r\n".encode() in head


async def test_waits(origin: Origin) -> None:
    for fields in ({"delay": 0.2}, {"hang": 0.2}, {"delay": 0.1, "hang": 0.1}):
        origin.vendor.set_behaviour(**fields)
        began = time.monotonic()
        assert (await origin.get(origin.path()))[0] == 200
        assert time.monotonic() - began >= 0.2


async def test_cut_answers(origin: Origin) -> None:
    whole = origin.vendor.listing(origin.vendor.aoi_ids[0], 0, 10) or b""
    for fields, count, error in (
        ({"reset_after_bytes": 0}, 0, ConnectionResetError),
        ({"reset_after_bytes": 40}, 40, ConnectionResetError),
        ({"reset_after_bytes": 10**9}, len(whole), ConnectionResetError),
        ({"truncate": True}, len(whole) // 2, None),
        ({"truncate": 7}, 7, None),
        ({"truncate": 3, "trickle": 0}, 3, None),
        ({"truncate": False}, len(whole), None),
    ):
        origin.vendor.set_behaviour(**fields)
        head, body, end = await origin.raw(origin.path())
        assert f"\r\nContent-Length: {len(whole)}\r\n".encode() in head
        assert (body, end) == (whole[:count], error)


async def test_garbage_is_exact(origin: Origin) -> None:
    origin.vendor.set_behaviour(garbage='{"a": "ü"}\udcff', content_type="text/html")
    head, body, _ = await origin.raw(origin.path())
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Type: text/html\r\n" in head
    assert body == '{"a": "ü"}'.encode() + b"\xff"
    origin.vendor.set_behaviour(garbage="<html>", status=502)
    assert await origin.get(origin.path()) == (502, b"<html>")
    origin.vendor.set_behaviour(garbage="")
    assert await origin.get(origin.path()) == (200, b"")
    origin.vendor.set_behaviour(garbage=True)
    with pytest.raises(ValueError):
        json.loads((await origin.get(origin.path()))[1])


@pytest.mark.parametrize(("asked", "size"), [(True, 100_000_000), (3_000_001, 3_000_001), (5, 5)])
async def test_gzip_bomb(origin: Origin, asked: object, size: int) -> None:
    origin.vendor.set_behaviour(gzip_bomb=asked)
    head, body, _ = await origin.raw(origin.path())
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Encoding: gzip\r\n" in head
    assert len(body) < 200_000
    plain = gzip.decompress(body)
    assert len(plain) == size
    page = origin.vendor.listing(origin.vendor.aoi_ids[0], 0, 10)
    assert plain.strip() == (page if size > 1000 else b"")


async def test_redirect(origin: Origin) -> None:
    origin.vendor.set_behaviour(redirect_to="http://other.example/")
    head, body, _ = await origin.raw(origin.path())
    assert head.startswith(b"HTTP/1.1 302 ")
    assert b"\r\nLocation: http://other.example/\r\n" in head
    assert body == b""


async def test_trickle_sends_a_byte_at_a_time(origin: Origin) -> None:
    origin.vendor.set_behaviour(trickle=0.02, garbage="0123456789")
    began = time.monotonic()
    async with origin.session.get(origin.url + origin.path(), headers={"Authorization": KEY}) as answer:
        pieces = [piece async for piece in answer.content.iter_any()]
    assert b"".join(pieces) == b"0123456789"
    assert len(pieces) > 1
    assert time.monotonic() - began >= 0.2


async def test_max_limit(origin: Origin) -> None:
    origin.vendor.set_behaviour(max_limit=4)
    page = json.loads((await origin.get(origin.path("?limit=50")))[1])
    assert (len(page["assets"]), page["pagination"]["limit"]) == (4, 4)
    assert json.loads((await origin.get(origin.path("?limit=3")))[1])["pagination"]["limit"] == 3


async def test_a_taken_port_and_a_second_life() -> None:
    one, two = MockVendor(key=KEY), MockVendor(key=KEY)
    url = await one.start()
    port = int(url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        await two.start(port=port)
    with pytest.raises(RuntimeError):
        await one.start()
    await one.stop()
    await one.stop()
    assert await two.start(port=port) == url
    await two.stop()


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_stop_is_fast_and_leaves_nothing_behind() -> None:
    vendor = MockVendor(key=KEY)
    # The first connection of its life makes uvloop open one more descriptor for good.
    url = await vendor.start()
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 404
    await vendor.stop()
    vendor.reset()
    tasks, descriptors = len(asyncio.all_tasks()), open_files()
    port = int((await vendor.start()).rpartition(":")[2])
    vendor.set_assets("big", [{"blob": "x" * 20_000_000}])
    vendor.set_behaviour(hang=True, aoi_id=vendor.aoi_ids[0])
    vendor.set_behaviour(trickle=True, aoi_id=vendor.aoi_ids[2])
    vendor.set_behaviour(delay=60, aoi_id=vendor.aoi_ids[3])
    streams = []
    targets = ("big", *(vendor.aoi_ids[index] for index in (0, 2, 3)))
    for aoi in targets:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        request = f"GET /v0/aois/{aoi}/assets HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY}\r\n\r\n"
        writer.write(request.encode())
        streams.append((reader, writer))
    idle = await asyncio.open_connection("127.0.0.1", port)
    # The answers that begin at once have begun, and the others have at least arrived.
    for reader, _ in (streams[0], streams[2]):
        await reader.readuntil(b"\r\n\r\n")
    await until(lambda: len(vendor.requests) == len(targets))
    # Nobody answers this one: it may stand anywhere between the kernel and the server.
    late = await asyncio.open_connection("127.0.0.1", port)

    began = time.monotonic()
    await vendor.stop()
    assert time.monotonic() - began < 5  # to wait for what hangs would take for ever, for the delay a minute

    for _, writer in (*streams, idle, late):
        writer.transport.abort()
    await until(lambda: (len(asyncio.all_tasks()), open_files()) == (tasks, descriptors))


async def test_a_hanging_request_ends_when_its_client_leaves(origin: Origin) -> None:
    before = asyncio.all_tasks()
    origin.vendor.set_behaviour(hang=True)
    client = asyncio.create_task(origin.get(origin.path()))
    await until(lambda: len(origin.vendor.requests) == 1)
    client.cancel()
    await until(lambda: len(asyncio.all_tasks()) == len(before))
