"""What every store does: one suite over memory, fakeredis and real servers, each alone and in tiers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import fakeredis
import pytest
from entries import address, candidate
from harness import REDIS_TIMEOUT, SteeredClock
from msgspec import structs
from real_redis import RealRedis

from gateway.core.query import Address
from gateway.storage.base import FetchedEntry, PutResult, Store, StoreResult
from gateway.storage.entry import Entry
from gateway.storage.memory import LocalPages, MemoryStore
from gateway.storage.redis.client import Client, Connections, connect
from gateway.storage.redis.commands import RedisCommands
from gateway.storage.redis.store import RedisStore
from gateway.storage.tiered import TieredStore
from gateway.storage.validity import Validity

HERE = address()


class SharedStore(Protocol):
    """What Redis alone can do, too."""

    async def get(self, address: Address) -> StoreResult: ...
    async def get_many(self, address: Address, pages: Sequence[str], epoch: str) -> list[Entry] | None: ...
    async def put(self, address: Address, candidate: FetchedEntry, epoch: str) -> PutResult: ...
    async def purge(self, aoi_id: str | None, *, soft: bool = False) -> None: ...
    async def close(self) -> None: ...


def ignore(_: NamedTuple) -> None:
    """No sink."""


def tiers(client: Client, clock: SteeredClock) -> tuple[RedisStore, TieredStore]:
    """Redis alone, and with memory in front; nobody listens, so that memory is trusted for a while only."""
    calls = RedisCommands(client, timeout=REDIS_TIMEOUT, clock=clock, emit=ignore)
    far = RedisStore(calls, Connections(), prefix="test", clock=clock, emit=ignore)
    near = LocalPages(1_000_000, ignore)
    return far, TieredStore(near, far, Validity(max_age=5, clock=clock), clock=clock, emit=ignore)


@pytest.fixture
def clock() -> SteeredClock:
    return SteeredClock()


@pytest.fixture(
    params=["memory", "fakeredis", "redis", "cluster", "tiered fakeredis", "tiered redis", "tiered cluster"]
)
async def store(request: pytest.FixtureRequest, clock: SteeredClock) -> AsyncIterator[SharedStore]:
    kind: str = request.param
    made: SharedStore
    if kind == "memory":
        made = MemoryStore(1_000_000, clock, ignore)
    else:
        if kind.endswith("fakeredis"):
            client: Client = fakeredis.FakeAsyncRedis()
        elif kind.endswith("cluster"):
            cluster: RealRedis = request.getfixturevalue("real_cluster")
            client = connect(cluster.url, REDIS_TIMEOUT)
        else:
            server: RealRedis = request.getfixturevalue("real_redis")
            client = connect(server.url, REDIS_TIMEOUT)
        far, tiered = tiers(client, clock)
        made = tiered if kind.startswith("tiered") else far
    yield made
    await made.close()


async def keep(store: SharedStore, clock: SteeredClock, *, at: int = 0, began: float = 0.0, **shown: Any) -> PutResult:
    """Keep a page that was fetched under the current epoch."""
    where = address(offset=at)
    shelf = await store.get(where)
    # In the past: what is dated in the future is a miss.
    return await store.put(where, candidate(where, now=clock.now(), started=began - 5, **shown), shelf.epoch)


async def test_nothing_is_nothing(store: SharedStore) -> None:
    shelf = await store.get(HERE)
    assert shelf.epoch
    assert (shelf.entry, shelf.listing_index, shelf.is_current) == (None, None, False)


async def test_what_was_kept_is_found(store: SharedStore, clock: SteeredClock) -> None:
    kept = await keep(store, clock)
    assert (kept.outcome, kept.ended) == ("kept", False)
    shelf = await store.get(HERE)
    assert shelf.entry == kept.entry
    assert shelf.is_current


async def test_an_expired_entry_is_still_there_while_it_is_kept(store: SharedStore, clock: SteeredClock) -> None:
    kept = await keep(store, clock)
    clock.skip(25)
    assert (await store.get(HERE)).entry == kept.entry


async def test_an_entry_past_its_last_use_is_not_found(store: SharedStore, clock: SteeredClock) -> None:
    where = address()
    past = candidate(where, now=clock.now() - 31)
    await store.put(where, past, (await store.get(where)).epoch)
    assert (await store.get(where)).entry is None or clock.now() >= past.entry.last_use


async def test_a_later_fetch_replaces_an_earlier_one_and_never_the_other_way_round(
    store: SharedStore, clock: SteeredClock
) -> None:
    await keep(store, clock, body=b"first")
    later = await keep(store, clock, began=2, body=b"later")
    assert (await store.get(HERE)).entry == later.entry
    assert (await keep(store, clock, began=1, body=b"between")).outcome == "older"
    assert (await store.get(HERE)).entry == later.entry


async def test_pages_do_not_mix(store: SharedStore, clock: SteeredClock) -> None:
    one = await keep(store, clock, body=b"one")
    two = await keep(store, clock, at=10, body=b"two")
    assert (await store.get(HERE)).entry == one.entry
    assert (await store.get(address(offset=10))).entry == two.entry
    assert one.entry.generation == two.entry.generation


async def test_another_total_ends_the_generation_for_every_page(store: SharedStore, clock: SteeredClock) -> None:
    one = await keep(store, clock)
    two = await keep(store, clock, at=10, began=1, total=101)
    assert two.ended
    assert two.entry.generation != one.entry.generation
    first, second = await store.get(HERE), await store.get(address(offset=10))
    assert (first.is_current, second.is_current) == (False, True)
    assert first.entry == one.entry  # still there, should the vendor fail


async def test_other_ids_where_pages_overlap_end_the_generation(store: SharedStore, clock: SteeredClock) -> None:
    await keep(store, clock, shows="abcdefghij")
    assert not (await keep(store, clock, at=5, began=1, shows="fghijklmno")).ended
    assert (await keep(store, clock, at=8, began=2, shows="XYklmnopqr")).ended


async def test_a_404_ends_the_generation_and_a_page_ends_the_404(store: SharedStore, clock: SteeredClock) -> None:
    await keep(store, clock)
    assert (await keep(store, clock, at=10, began=1, status=404)).ended
    assert not (await store.get(HERE)).is_current
    assert (await keep(store, clock, began=2)).ended
    assert not (await store.get(address(offset=10))).is_current


async def test_a_fetch_that_began_before_the_change_changes_nothing(store: SharedStore, clock: SteeredClock) -> None:
    await keep(store, clock)
    new = await keep(store, clock, began=2, total=101)
    late = await keep(store, clock, at=10, began=1, total=100)
    assert late.outcome == "older"
    assert late.entry.generation != new.entry.generation
    assert (await store.get(HERE)).entry == new.entry
    assert (await store.get(address(offset=10))).entry is None


async def test_a_purge_ends_one_aoi_and_leaves_the_others(store: SharedStore, clock: SteeredClock) -> None:
    other = address("a2")
    await keep(store, clock)
    await store.put(other, candidate(other, now=clock.now()), (await store.get(other)).epoch)
    before = await store.get(HERE)
    await store.purge("a1")
    after = await store.get(HERE)
    assert (after.entry, after.listing_index) == (None, None)
    assert after.epoch != before.epoch
    assert (await store.get(other)).entry is not None


async def test_a_purge_of_everything_ends_everything(store: SharedStore, clock: SteeredClock) -> None:
    await keep(store, clock)
    await store.purge(None)
    assert (await store.get(HERE)).entry is None
    await keep(store, clock)
    assert (await store.get(HERE)).entry is not None


@pytest.mark.parametrize("purged", ["a1", None])
async def test_a_soft_purge_leaves_pages_for_the_case_that_the_vendor_fails(
    store: SharedStore, clock: SteeredClock, purged: str | None
) -> None:
    kept = await keep(store, clock)
    other = address("a2")
    await store.put(other, candidate(other, now=clock.now()), (await store.get(other)).epoch)
    before = await store.get(HERE)
    await store.purge(purged, soft=True)
    after = await store.get(HERE)
    assert (after.entry, after.listing_index, after.is_current) == (kept.entry, None, False)
    assert after.epoch != before.epoch
    assert (await store.get(other)).is_current == (purged is not None)
    late = await store.put(HERE, candidate(HERE, now=clock.now()), before.epoch)
    assert late.outcome == "purged"  # it was fetched before
    again = await keep(store, clock, began=1)
    assert (await store.get(HERE)).is_current
    assert again.entry.generation != kept.entry.generation
    await store.purge(purged)
    assert (await store.get(HERE)).entry is None


@pytest.mark.parametrize("purged", ["a1", None])
async def test_a_page_that_was_fetched_before_a_purge_is_not_kept(
    store: SharedStore, clock: SteeredClock, purged: str | None
) -> None:
    epoch = (await store.get(HERE)).epoch
    fetched = candidate(HERE, now=clock.now())
    await store.purge(purged)
    kept = await store.put(HERE, fetched, epoch)
    assert kept.outcome == "purged"
    assert kept.entry.body == fetched.entry.body
    assert (await store.get(HERE)).entry is None


async def test_an_entry_without_gzip_comes_back_as_it_was(store: SharedStore, clock: SteeredClock) -> None:
    bare = candidate(HERE, now=clock.now())
    bare = replace(bare, entry=structs.replace(bare.entry, gzipped=None))
    kept = await store.put(HERE, bare, (await store.get(HERE)).epoch)
    assert (await store.get(HERE)).entry == kept.entry


async def test_other_pages_of_a_listing_are_read_together(store: SharedStore, clock: SteeredClock) -> None:
    kept = [await keep(store, clock, at=offset, shows=letter) for offset, letter in ((0, "a"), (10, "k"))]
    pages = [address(offset=offset).page for offset in (0, 10)]
    epoch = kept[0].entry.epoch
    assert await store.get_many(HERE, pages, epoch) == [one.entry for one in kept]
    assert await store.get_many(HERE, [*pages, address(offset=20).page], epoch) is None
    assert await store.get_many(HERE, pages, "another") is None
    await store.purge("a1")
    assert await store.get_many(HERE, pages, (await store.get(HERE)).epoch) is None


@pytest.mark.parametrize("store", ["memory", "tiered fakeredis", "tiered redis", "tiered cluster"], indirect=True)
async def test_what_is_known_without_asking_is_what_would_be_told(store: Store, clock: SteeredClock) -> None:
    entry = (await keep(store, clock, shows="a")).entry
    glanced = store.peek(HERE)
    if glanced is None:  # nothing is known, or trusted, without asking
        assert store.peek_many([HERE.page], entry.epoch) in (None, [entry])
        return
    assert glanced == (await store.get(HERE))._replace(proof=glanced.proof)
    assert store.peek_many([HERE.page], entry.epoch) == [entry]
    assert store.peek_many([HERE.page, "another"], entry.epoch) is None
    assert store.peek_many([HERE.page], "another") is None
    made = structs.replace(entry, key="made")
    store.put_local(made)
    assert store.peek_many(["made"], entry.epoch) == [made]
    await store.purge(None)
    after = store.peek(HERE)
    assert after is None or after.entry is None
    epoch = (await store.get(HERE)).epoch
    assert store.peek_many(["made"], epoch) is None
