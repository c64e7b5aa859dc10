"""Redis answers and refuses what the gateway needs, closes connections, or gets another password."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE, Play, playing, until
from holding_vendor import HoldingVendor
from invariants import aftermath
from real_redis import RealRedis, RealSentinel
from redis.asyncio import Redis

pytestmark = pytest.mark.usefixtures("nothing_left")

AOI = "a1"
STORED = "fwd=miss; fwd-status=200; stored"
USER, PASSWORD, NEW_PASSWORD = "gateway", "first-pass-word", "second-pass-word"
EVERYTHING = ("+@read", "+@write", "+@pubsub", "+@scripting", "+@connection", "+info", "+time")


@pytest.fixture(autouse=True)
def _a_long_listing(vendor: HoldingVendor) -> None:
    vendor.set_assets(AOI, [{"id": f"n{number}", "status": "success"} for number in range(500)])


def server_with(tmp_path: Path, *options: str) -> Iterator[RealRedis]:
    server = RealRedis(tmp_path, *options)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[RealRedis]:
    """A server that closes connections which are idle for a second."""
    yield from server_with(tmp_path, "--timeout", "1")


@pytest.fixture
async def admin(real_redis: RealRedis) -> AsyncIterator[Any]:
    async with Redis.from_url(real_redis.url) as client:
        yield client


def flags(vendor: HoldingVendor, url: str, **more: Any) -> dict[str, Any]:
    return {"upstream.base_url": vendor.url, "cache.url": url, "cache.prefetch": 0, **more}


async def pages(play: Play, first: int, count: int) -> None:
    replies = await asyncio.gather(*(play.page(AOI, f"?offset={n}&limit=1") for n in range(first, first + count)))
    assert {reply.status for reply in replies} == {200}


async def purge(play: Play) -> int:
    async with play.session.post(play.ops_url + "/admin/purge", json={"aoi_id": AOI}) as response:
        return response.status


async def redis_up(play: Play) -> float:
    return (await play.metrics())["gateway_redis_up"]


async def becomes(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until this is true."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.02)


async def purges(play: Play) -> bool:
    return await purge(play) == 200


async def warns(play: Play) -> bool:
    return await warnings(play) != []


async def is_up(play: Play, value: int) -> None:
    async def is_so() -> bool:
        return await redis_up(play) == value

    await becomes(is_so)


async def warnings(play: Play) -> list[bytes]:
    lines = (await play.said()).splitlines()
    return [line for line in lines if b'"level":"warning"' in line and b"redis" in line]


async def failed_commands(play: Play) -> dict[str, float]:
    metrics = await play.metrics()
    return {
        name: value
        for name, value in metrics.items()
        if name.startswith("gateway_redis_commands_total") and 'result="ok"' not in name and value
    }


async def stored(raw: Any) -> int:
    await raw.connection_pool.disconnect()  # the server may have closed an idle connection of the test, too
    return len(await raw.keys("*:page:*"))


# --- connections -------------------------------------------------------------------------------------------------


async def connections_closed_by_the_server(raw: Any) -> None:
    """Wait until the connections that the gateway does not use are closed."""

    async def are_few() -> bool:
        return len(await raw.client_list()) < 10

    await becomes(are_few)


async def test_burst_after_the_server_closed_idle_connections_stores_each_page(
    vendor: HoldingVendor, impatient: RealRedis
) -> None:
    async with (
        Redis.from_url(impatient.url) as raw,
        playing(flags(vendor, impatient.url)) as one,
        playing(flags(vendor, impatient.url)) as other,
    ):
        await is_up(one, 1)
        await is_up(other, 1)
        for first in (0, 100):
            await asyncio.gather(pages(one, first, 40), pages(other, first, 40))
            if first == 0:
                await connections_closed_by_the_server(raw)
        assert await failed_commands(one) == await failed_commands(other) == {}
        assert len(vendor.requests) == 80
        assert await stored(raw) == 80
        assert await redis_up(one) == await redis_up(other) == 1


async def test_burst_after_a_cluster_closed_idle_connections_fails_no_command(
    vendor: HoldingVendor, real_cluster: RealRedis
) -> None:
    async with (
        Redis.from_url(real_cluster.url.replace("redis+cluster", "redis")) as raw,
        playing(flags(vendor, real_cluster.url)) as play,
    ):
        await is_up(play, 1)
        await pages(play, 0, 40)
        await raw.client_kill_filter(_type="normal", skipme=True)
        await pages(play, 100, 40)
        assert await failed_commands(play) == {}
        assert await stored(raw) == 80
        assert await redis_up(play) == 1


class Balancer:
    """A load balancer that resets the connections that it has forgotten, at the next byte."""

    def __init__(self) -> None:
        self.url = ""
        self.resets = 0
        self.known: set[asyncio.StreamWriter] = set()
        self.forgotten: set[asyncio.StreamWriter] = set()

    def forget(self) -> None:
        self.forgotten |= self.known


@asynccontextmanager
async def forgetful_balancer(port: int) -> AsyncIterator[Balancer]:
    balancer = Balancer()
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                if client in balancer.forgotten:
                    balancer.resets += 1
                    client.transport.abort()
                    return
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        balancer.known.add(writer)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        balancer.known.add(far_writer)
        for work in (pump(reader, far_writer, writer), pump(far_reader, writer, writer)):
            task = asyncio.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    balancer.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    try:
        yield balancer
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in balancer.known:  # also those whose pump was cancelled before it began
            writer.transport.abort()


async def test_connections_that_a_balancer_resets_when_used_lose_no_command(
    vendor: HoldingVendor, real_redis: RealRedis, admin: Any
) -> None:
    async with forgetful_balancer(real_redis.port) as balancer, playing(flags(vendor, balancer.url)) as play:
        await is_up(play, 1)
        await pages(play, 0, 40)
        balancer.forget()
        await pages(play, 100, 40)
        assert balancer.resets > 0
        assert await failed_commands(play) == {}
        assert await stored(admin) == 80
        assert await warnings(play) == []


# --- permissions -------------------------------------------------------------------------------------------------


async def restricted(admin: Any, *rules: str) -> None:
    await admin.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *rules)


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (("~else:*", "&*", *EVERYTHING), b"NOPERM: SET, GET"),
        (("~*", "&*", *EVERYTHING, "-eval"), b"NOPERM: EVAL"),
        (("~*", "resetchannels", "&else", *EVERYTHING), b"NOPERM: SUBSCRIBE"),
        (("~*", "&*", *EVERYTHING, "-hset"), b"HSET in scripts"),
    ],
)
async def test_user_without_a_right_is_reported_once_and_redis_used_when_it_is_granted(
    vendor: HoldingVendor, real_redis: RealRedis, admin: Any, rules: tuple[str, ...], reason: bytes
) -> None:
    await restricted(admin, *rules)
    url = real_redis.url.replace("://", f"://{USER}:{PASSWORD}@")
    async with playing(flags(vendor, url)) as play:
        await becomes(lambda: warns(play))
        seen = []
        for number in range(12):
            await pages(play, number, 1)
            seen.append(await redis_up(play))
            await asyncio.sleep(0.05)  # longer than one round of the heartbeat, in which the gauge must not move
        assert set(seen) == {0}
        [line] = await warnings(play)
        assert reason in line
        assert (await play.get("/status.json")).json["verdict"]["level"] == "degraded"
        await restricted(admin, "~*", "&*", *EVERYTHING)
        await is_up(play, 1)
        await becomes(lambda: purges(play))
        assert len(await warnings(play)) == 1
        await aftermath(play, vendor)


async def test_hello_is_renamed_and_redis_is_used(vendor: HoldingVendor, tmp_path: Path) -> None:
    for server in server_with(tmp_path, "--rename-command", "HELLO", ""):
        async with Redis.from_url(server.url, protocol=2) as raw, playing(flags(vendor, server.url)) as play:
            await is_up(play, 1)
            await pages(play, 0, 2)
            assert await stored(raw) == 2
            assert await purge(play) == 200


async def test_eval_is_renamed_and_reported_as_unknown(vendor: HoldingVendor, tmp_path: Path) -> None:
    for server in server_with(tmp_path, "--rename-command", "EVAL", "elsewhere"):
        async with playing(flags(vendor, server.url)) as play:
            await pages(play, 0, 2)
            await becomes(lambda: warns(play))
            assert await redis_up(play) == 0
            [line] = await warnings(play)
            assert b"unknown command: EVAL" in line


# --- passwords ---------------------------------------------------------------------------------------------------


async def rotate(admin: Any, old: str, new: str) -> None:
    """Give the server another password, and end the connections that know the old one."""
    await admin.execute_command("ACL", "SETUSER", USER, f"<{old}", f">{new}")
    for kind in ("normal", "pubsub"):
        await admin.client_kill_filter(_type=kind, skipme=True)


@pytest.mark.parametrize(
    ("how", "server_first"),
    [("in place", True), ("renamed over", True), ("symlink", True), ("symlink", False)],
)
async def test_password_in_the_url_file_is_rotated_without_a_restart(
    vendor: HoldingVendor, real_redis: RealRedis, admin: Any, tmp_path: Path, how: str, server_first: bool
) -> None:
    await restricted(admin, "~*", "&*", *EVERYTHING)
    first, second = (real_redis.url.replace("://", f"://{USER}:{word}@") for word in (PASSWORD, NEW_PASSWORD))
    file = tmp_path / "url"
    if how == "symlink":  # as Kubernetes does with a Secret
        for name, url in (("1", first), ("2", second)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "url").write_text(url, encoding="utf-8")
        (tmp_path / "data").symlink_to("1")
        file.symlink_to("data/url")
    else:
        file.write_text(first, encoding="utf-8")

    def write() -> None:
        if how == "symlink":
            (tmp_path / "new").symlink_to("2")
            (tmp_path / "new").rename(tmp_path / "data")
        elif how == "in place":
            file.write_text("", encoding="utf-8")
            file.write_text(second, encoding="utf-8")
        else:
            (tmp_path / "new").write_text(second, encoding="utf-8")
            (tmp_path / "new").rename(file)

    settings = flags(vendor, "", **{"cache.url_file": str(file)})
    del settings["cache.url"]
    async with playing(settings) as play:
        await is_up(play, 1)
        await pages(play, 0, 5)
        if server_first:
            await rotate(admin, PASSWORD, NEW_PASSWORD)
            write()
        else:
            write()
            await until(lambda: b"credentials have changed" in play.log.getvalue())
            # The server has the old password still, and connections are made anew.
            await admin.client_kill_filter(_type="normal", skipme=True)
            await pages(play, 10, 5)
            assert await purge(play) == 200
            await rotate(admin, PASSWORD, NEW_PASSWORD)
        await becomes(lambda: purges(play))
        await is_up(play, 1)
        for _ in range(5):
            assert await purge(play) == 200
        assert NEW_PASSWORD.encode() not in await play.said()


async def test_new_password_is_used_from_the_next_connection_on(
    vendor: HoldingVendor, real_redis: RealRedis, admin: Any, tmp_path: Path
) -> None:
    await restricted(admin, "~*", "&*", *EVERYTHING)
    file = tmp_path / "url"
    file.write_text(real_redis.url.replace("://", f"://{USER}:{PASSWORD}@"), encoding="utf-8")
    settings = flags(vendor, "", **{"cache.url_file": str(file)})
    del settings["cache.url"]
    async with playing(settings) as play:
        await is_up(play, 1)
        file.write_text(real_redis.url.replace("://", f"://{USER}:{NEW_PASSWORD}@"), encoding="utf-8")
        await rotate(admin, PASSWORD, NEW_PASSWORD)
        assert await purge(play) == 200
        file.write_text("redis://elsewhere:1/0", encoding="utf-8")
        await becomes(lambda: warns(play))
        assert b"names another store; restart the gateway to use it" in (await warnings(play))[0]
        file.write_text(" ", encoding="utf-8")
        await asyncio.sleep(0)
        assert await purge(play) == 200


# --- Sentinel ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentinel_password", "query"),
    [(PASSWORD, ""), ("", ""), (NEW_PASSWORD, f"?sentinel_password={NEW_PASSWORD}")],
    ids=["same", "none", "other"],
)
async def test_sentinel_password_is_that_of_the_url_or_none_or_its_own(
    vendor: HoldingVendor, tmp_path: Path, sentinel_password: str, query: str
) -> None:
    for server in server_with(tmp_path, "--requirepass", PASSWORD):
        sentinel = RealSentinel(tmp_path, server, password=sentinel_password, master_password=PASSWORD)
        await asyncio.to_thread(sentinel.start)
        url = f"redis+sentinel://:{PASSWORD}@127.0.0.1:{sentinel.port}/mymaster/0{query}"
        try:
            async with Redis.from_url(server.url, password=PASSWORD) as raw, playing(flags(vendor, url)) as play:
                await is_up(play, 1)
                await pages(play, 0, 40)
                assert await stored(raw) == 40
                assert await purge(play) == 200
                assert await warnings(play) == []
        finally:
            sentinel.kill()
