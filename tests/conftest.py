"""Fixtures that many tests share."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from harness import VENDOR_KEY, Play, playing
from holding_vendor import HoldingVendor
from hypothesis import HealthCheck, settings
from invariants import nothing_left
from real_redis import RealRedis

# How long an example takes tells of the machine and of whatever else runs on it.
settings.register_profile(
    "any machine",
    parent=settings(),
    deadline=None,
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.too_slow],
)
settings.load_profile("any machine")

# A shell ignores SIGINT in background jobs, and processes that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def vendor() -> AsyncIterator[HoldingVendor]:
    vendor = HoldingVendor(key=VENDOR_KEY)
    await vendor.start()
    yield vendor
    await vendor.stop()


@pytest.fixture
def vendor_url(vendor: HoldingVendor) -> str:
    return vendor.url


@pytest.fixture
async def play(vendor_url: str) -> AsyncIterator[Play]:
    """A gateway with default settings, the embedded store, and the stand-in vendor behind it."""
    async with playing({"upstream.base_url": vendor_url}) as running:
        yield running


@pytest.fixture
def real_redis(tmp_path: Path) -> Iterator[RealRedis]:
    server = RealRedis(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def _one_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    server = RealRedis(tmp_path_factory.mktemp("cluster"), "--cluster-enabled", "yes")
    server.start()
    server.make_cluster()
    yield server
    server.kill()


@pytest.fixture
def real_cluster(_one_cluster: RealRedis) -> RealRedis:
    """A Redis Cluster of one node, which is as strict about slots as any, and empty."""
    _one_cluster.flush()
    return _one_cluster


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """The gateway takes over the root logger; pytest wants it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(name="nothing_left")
async def _nothing_left() -> AsyncIterator[None]:
    """Named first, so that it looks last: what a play opened is closed again."""
    async with nothing_left():
        yield
