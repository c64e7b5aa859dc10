"""One run: replicas of the real gateway, the simulated network, Redis and vendor, and clients."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import io
import logging
import math
import os
import random
import secrets
import socket
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import hiredis
import msgspec
from prometheus_client import CollectorRegistry

from gateway.app import build
from gateway.app.build import Gateway, Sockets
from gateway.app.run import key_ring
from gateway.config.loading import load
from gateway.core.clock import SystemClock
from gateway.core.events import RequestsReplayed
from gateway.storage.redis.store import InvalidationMessage
from gateway.telemetry.log_writer import LineWriter
from gateway.telemetry.metrics import Metrics
from simulation.oracle import Answer, Oracle, Violation
from simulation.redis_server import RedisServer
from simulation.schedule import AOIS, SECONDS, Event, Schedule
from simulation.vendor import SimulatedVendor
from simulation.virtual import OWNER, Address, Link, VirtualLoop

REDIS: Address = ("127.0.0.1", 6379)
VENDOR: Address = ("127.0.0.1", 9000)
FLAGS: dict[str, Any] = {
    "upstream.base_url": "http://127.0.0.1:9000", "upstream.api_key": "simulated-key-0123456789", "server.port": 0,
    "upstream.patience": 0.5, "upstream.attempt_timeout": 2.0, "upstream.deadline": 3.0,
    "upstream.connect_timeout": 1.0, "upstream.breaker.cooldown": 1.0,
    "cache.url": "redis://127.0.0.1:6379/0", "cache.memory_max_age": 2.0,
    "cache.lifetimes.settled": 6.0, "cache.lifetimes.in_progress": 3.0, "cache.lifetimes.empty": 3.0,
    "cache.lifetimes.not_found": 3.0, "cache.lifetimes.grace": 2.0, "cache.lifetimes.keep": 20.0, "log.access": False,
}  # fmt: skip
# Unix time at the start of a run.
_START = 1_800_000_000.0
# A session begins so many seconds after its connection was made, at the latest; before, messages void nothing.
_SESSION_BEGINS = 1.5
_MESSAGE = msgspec.msgpack.Decoder(InvalidationMessage)
# Events after which clocks differ until Redis' is read again.
_SETS_CLOCK = {"redis clock", "failover"}
# How long everything is well before the last requests, which have to be answered from the cache again.
_RECOVERY = 3.2


class _Clock(SystemClock):
    """The real clock over virtual time; the machine's own wall clock is off by `skew`."""

    def __init__(self, loop: VirtualLoop, skew: float) -> None:
        super().__init__(wall=lambda: _START + loop.time() + skew, monotonic=loop.time)


class Replica:
    """A gateway process."""

    def __init__(self, world: World, number: int, run: int, skew: float) -> None:
        self.name = f"replica-{number}.{run}"
        self.world = world
        self._skew = skew
        self._context = contextvars.copy_context()
        self._context.run(OWNER.set, self.name)
        self.replayed = 0

    async def start(self) -> None:
        """Start serving."""
        await self.world.loop.create_task(self._start(), context=self._context)

    async def _start(self) -> None:
        clock = _Clock(self.world.loop, self._skew)
        settings = _settings()
        gateway = Gateway(
            settings, key_ring(settings), _writer(), "json", clock=clock, chance=self.world.rng.random,
        )  # fmt: skip
        gateway._dispatcher.subscribe({RequestsReplayed: self._count})
        await gateway.start(Sockets(socket.socket(), None))

    def _count(self, fact: RequestsReplayed) -> None:
        self.replayed += fact.requests

    def kill(self) -> None:
        """End the process at once."""
        network = self.world.loop.network
        network.listeners.pop((self.name, 80), None)
        for link in network.owned(self.name):
            link.cut(ConnectionResetError(104, "killed"))
        for task in self.world.loop.tasks.pop(self.name, ()):
            task.cancel()


@functools.cache
def _settings() -> Any:
    return load(environ={}, flags=FLAGS, use_file=False).settings


@functools.cache
def _metrics() -> Metrics:
    """The counters of all replicas, which nobody reads."""
    return Metrics(CollectorRegistry(), {})


@functools.cache
def _writer() -> LineWriter:
    writer = LineWriter(io.BytesIO(), lambda line: line)
    writer.close()
    return writer


class _Client(asyncio.Protocol):
    """A client's kept connection to one replica."""

    def __init__(self) -> None:
        self._received = b""
        self._waiting: asyncio.Future[tuple[bytes, bytes]] | None = None
        self.transport: Any = None
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("the replica closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if len(rest) >= length and self._waiting is not None and not self._waiting.done():
            self._received = rest[length:]
            self._waiting.set_result((head, rest[:length]))

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request. Raises ConnectionError."""
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        head, body = await self._waiting
        lines = head.decode("latin-1").split("\r\n")
        headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return int(lines[0].split(" ")[1]), headers, body


@dataclass
class World:
    """Everything in one run."""

    plan: Schedule
    rng: random.Random
    loop: VirtualLoop
    vendor: SimulatedVendor
    oracle: Oracle
    servers: list[RedisServer] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)
    clients: dict[tuple[str, int], _Client] = field(default_factory=dict)
    redis_skew: float = 0.0
    history: list[tuple[float, dict[bytes, Any]]] = field(default_factory=list)
    runs: int = 0
    began: float = 0.0
    trace: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    _busy: set[tuple[str, int]] = field(default_factory=set)
    _readers: dict[Link, hiredis.Reader] = field(default_factory=dict)
    _clients: int = 100

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self.loop.time() - self.began

    def new_server(self) -> RedisServer:
        """Another run of Redis."""
        server = RedisServer(self.loop, self.rng, lambda: _START + self.loop.time() + self.redis_skew)
        self.servers.append(server)
        self.loop.network.listeners[REDIS] = server
        return server

    async def start_replica(self, number: int, skew: float) -> None:
        """Start a replica, or start it again."""
        self.runs += 1
        replica = Replica(self, number, self.runs, skew)
        if number < len(self.replicas):
            self.replicas[number] = replica
        else:
            self.replicas.append(replica)
        await replica.start()

    async def run(self) -> None:
        """Let everything happen. Raises Violation."""
        self.began = self.loop.time()
        self.oracle.began = self.began
        self.redis_skew = self.plan.redis_skew
        self.loop.network.listeners[VENDOR] = self.vendor
        self.loop.network.on_message = self._note_message
        for aoi in AOIS:
            self.vendor.lists[aoi] = tuple(self.vendor.new_id() for _ in range(27))
            self.vendor.settled[aoi] = aoi == "a"
        self.new_server()
        under_way = [
            self.loop.create_task(self._carry_out(event)) for event in self.plan.events if event.at <= 0.0
        ]  # fmt: skip
        await asyncio.sleep(0)
        for number, skew in enumerate(self.plan.skews):
            await self.start_replica(number, skew)
        snapshots = self.loop.create_task(self._remember())
        for event in self.plan.events:
            if event.at > 0.0:
                await asyncio.sleep(max(0.0, event.at - self.now))
                under_way.append(self.loop.create_task(self._carry_out(event)))
        done = await asyncio.gather(*under_way, return_exceptions=True)
        for one in done:
            if isinstance(one, BaseException):
                raise one
        snapshots.cancel()
        await self._recover()
        for replica in self.replicas:
            self.oracle.replayed += replica.replayed
            replica.kill()

    def _note_message(self, link: Link, data: bytes) -> None:
        """Note which invalidation messages reach a replica while a session lasts."""
        if self.loop.time() - link.began < _SESSION_BEGINS:
            return
        reader = self._readers.setdefault(link, hiredis.Reader())
        reader.feed(data)
        while (words := reader.gets()) is not False:
            if words[0] == b"message" and words[1].endswith(b":word"):
                self.oracle.heard(link.owner, _MESSAGE.decode(words[2]))

    async def _remember(self) -> None:
        while True:
            self.history.append((self.loop.time(), self.servers[-1].snapshot()))
            del self.history[:-30]
            await asyncio.sleep(0.1)

    async def _recover(self) -> None:
        """When all is well again, pages are cached again, for all replicas."""
        self.vendor.fault, self.vendor.slow = "", 0.0
        self.loop.network.spikes = 0.0
        if self.vendor.lists["a"] is None:
            self.vendor.change("a", "back")
        # Redis' clock is read every ten seconds, and later by what the network delays.
        read_again = (
            max((event.at for event in self.plan.events if event.kind in _SETS_CLOCK), default=-math.inf) + 12.0
        )
        await asyncio.sleep(max(_RECOVERY, SECONDS + _RECOVERY - self.now, read_again - self.now))
        page = {"aoi": "b", "offset": 7, "limit": 3}
        for number in range(len(self.replicas)):
            await self._ask(number, page, client=7)  # what can be cut from other pages differs between replicas
        await asyncio.sleep(0.5)
        for tries in range(3):  # Redis' clock may be read again between two of them, and voids all copies if it was set
            answers = [await self._ask(number, page, client=7) for number in range(len(self.replicas))]
            if any(answer is None or answer.status not in {200, 404} for answer in answers):
                raise Violation("recovery", f"{answers[0]} after all was well again")
            late = [answer for answer in answers if answer is not None and not answer.is_hit]
            if not late or not self.vendor.lists["b"]:
                break
            if tries == 2:
                raise Violation("recovery", f"{late[0]} is no hit after all was well again")
        status, _ = await self._purge(0, {"aoi": "b"})
        if status != 200:
            raise Violation("recovery", f"a purge answers {status} after all was well again")

    async def _carry_out(self, event: Event) -> None:  # noqa: C901, PLR0912 - a table of events
        what, oracle, network = event.what, self.oracle, self.loop.network
        replica = self.replicas[what["replica"]] if "replica" in what and what["replica"] < len(self.replicas) else None
        seconds = what.get("seconds", 0.0)
        match event.kind:
            case "request":
                answer = await self._ask(what["replica"], what)
                self.answered += [] if answer is None else [answer.decision]
            case "purge":
                await self._purge(what["replica"], what)
            case "change":
                oracle.note("change", self.now, self.now)
                self.vendor.change(what["aoi"], what["how"])
            case "limits":
                oracle.note("limits", self.now, self.now)
                self.vendor.max_limit, self.vendor.past_end = what["most"], what["past_end"]
                self.vendor.prints_what_is_left = what.get("left", False)
                oracle.limits.append((self.loop.time(), what["most"]))
            case "slow":
                self.vendor.slow = seconds
            case "vendor":
                oracle.note("vendor " + what["fault"], self.now, self.now + seconds)
                self.vendor.fault, self.vendor.fault_until = what["fault"], self.loop.time() + seconds
            case "spikes":
                oracle.note("spikes", 0.0, SECONDS)
                network.spikes = what["share"]
            case "cut" if replica is not None:
                oracle.note("cut", self.now, self.now, replica.name)
                for link in network.owned(replica.name, REDIS):
                    if what["which"] == "all" or link.subscribed:
                        link.cut(ConnectionResetError(104, "reset") if what["how"] == "reset" else None)
            case "stall" if replica is not None:
                kind = "partition" if what["new"] else "half-open"
                oracle.note(kind, self.now, self.now + seconds, replica.name)
                stalled = [
                    link for link in network.owned(replica.name, REDIS) if what["which"] == "all" or link.subscribed
                ]  # fmt: skip
                for link in stalled:
                    link.stalled = True
                if what["new"]:
                    network.unreachable.add((replica.name, REDIS))
                await asyncio.sleep(seconds)
                network.unreachable.discard((replica.name, REDIS))
                for link in stalled:
                    link.cut(ConnectionResetError(104, "reset"))
            case "hang redis":
                oracle.note("hang", self.now, self.now + seconds)
                self.servers[-1].hang(seconds)
            case "kill redis":
                await self._kill_redis(seconds, what["memory"])
            case "failover":
                await self._fail_over(what["loses"], what["clock"], what["old"])
            case "empty redis":
                oracle.note("emptied", self.now, self.now)
                self.servers[-1].data.clear()
            case "evict":
                oracle.note("evicted", self.now, self.now)
                data = self.servers[-1].data
                self.servers[-1].evict([name for name in data if self.rng.random() < what["share"]])
            case "full redis":
                oracle.note("full", self.now, self.now + seconds)
                server = self.servers[-1]
                server.full = True
                await asyncio.sleep(seconds)
                server.full = False
            case "redis clock":
                oracle.note("clock", self.now, self.now)
                self.redis_skew += what["by"]
            case "restart" if replica is not None:
                replica.kill()
                await self.start_replica(what["replica"], what["skew"])
                oracle.note("restart", self.now, self.now, self.replicas[what["replica"]].name)
            case _:
                pass

    async def _kill_redis(self, seconds: float, memory: str) -> None:
        self.oracle.note("kill", self.now, self.now + seconds)
        self.loop.network.listeners.pop(REDIS, None)
        data = self.history[0][1] if self.history and memory == "dump" else {}
        for link in self.loop.network.to(REDIS):
            link.cut(ConnectionResetError(104, "reset") if self.rng.random() < 0.1 else None)
        await asyncio.sleep(seconds)
        if REDIS not in self.loop.network.listeners:
            self.new_server().data = dict(data)

    async def _fail_over(self, loses: float, clock: float, old_lives: float) -> None:
        self.oracle.note("failover", self.now, self.now + old_lives)
        at = self.loop.time() - loses
        data: dict[bytes, Any] = next((data for when, data in reversed(self.history) if when <= at), {})
        links = self.loop.network.to(REDIS)
        self.redis_skew += clock
        self.new_server().data = dict(data)
        for link in links:
            if not old_lives or not link.subscribed:
                link.cut()
        await asyncio.sleep(old_lives)
        for link in links:
            link.cut()

    async def _connection(self, replica: Replica, client: int) -> _Client:
        known = self.clients.get((replica.name, client))
        if known is None or known.lost:
            _, made = await self.loop.create_connection(_Client, replica.name, 80)
            assert isinstance(made, _Client)
            known = self.clients[replica.name, client] = made
        return known

    async def _ask(self, number: int, what: dict[str, Any], client: int | None = None) -> Answer | None:
        replica = self.replicas[number]
        aoi, offset, limit = what["aoi"], what["offset"], what["limit"]
        own = what.get("leaves") is not None or (client is None and (replica.name, 0) in self._busy)
        which = self._another() if own else client or 0
        began = self.loop.time()
        extra = b"Cache-Control: no-cache\r\n" if what.get("refresh") else b""
        request = (
            b"GET /v0/aois/%s/assets?offset=%d&limit=%d HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
            % (aoi.encode(), offset, limit, extra)
        )  # fmt: skip
        key = (replica.name, which)
        self._busy.add(key)
        try:
            connection = await self._connection(replica, which)
            async with asyncio.timeout(what.get("leaves", 10.0)):
                status, headers, body = await connection.ask(request)
        except TimeoutError:
            connection.transport.close()
            if "leaves" not in what:
                raise Violation("no answer", f"{replica.name} {aoi} {offset} {limit}") from None
            self.oracle.note("leave", began - self.began, self.now, replica.name)
            return None
        except ConnectionError:
            if replica in self.replicas:
                raise Violation("no answer", f"{replica.name} {aoi} {offset} {limit}: connection lost") from None
            return None
        finally:
            self._busy.discard(key)
        sent = connection.transport.sent_at
        answer = Answer(replica.name, aoi, offset, limit, began, sent, self.loop.time(), status, headers, body)
        self.trace.append(str(answer))
        self.oracle.check(answer)
        return answer

    def _another(self) -> int:
        """The number of a client of its own."""
        self._clients += 1
        return self._clients

    async def _purge(self, number: int, what: dict[str, Any]) -> tuple[int, bytes]:
        replica = self.replicas[number]
        aoi, soft = what.get("aoi"), bool(what.get("soft")) and SOFT
        order = f'{{"aoi_id":"{aoi}"' if aoi else '{"all":true'
        body = (order + (',"soft":true}' if soft else "}")).encode()
        request = (
            b"POST /admin/purge HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        ) + body  # fmt: skip
        began = self.loop.time()
        under_way = self.oracle.purging(aoi, began, soft=soft, replica=replica.name)
        try:
            connection = await self._connection(replica, self._another())
            async with asyncio.timeout(12.0):
                status, _, answer = await connection.ask(request)
        except (TimeoutError, ConnectionError):
            if replica in self.replicas:
                raise Violation("no answer", f"to a purge at {replica.name}") from None
            return 0, b""
        self.trace.append(f"{began - self.began:.3f}-{self.now:.3f} purge {body!r} at {replica.name}: {status}")
        self.oracle.purged(under_way, confirmed=status == 200)
        self.oracle.note("soft purge" if soft else "purge", began - self.began, self.now)
        return status, answer


SOFT = True
"""Whether soft purges are sent as such."""


@contextmanager
def _seeded(rng: random.Random) -> Iterator[None]:
    """Replace what is random."""
    module: Any = build
    token_hex, urandom, disabled = secrets.token_hex, os.urandom, logging.root.manager.disable
    document, metrics = module.document, module.Metrics
    secrets.token_hex = lambda nbytes=None: rng.randbytes(nbytes or 32).hex()
    os.urandom = random.Random(0).randbytes  # ids of requests, made ahead for several runs
    # What takes as long as everything else at the start, and decides nothing.
    module.document = functools.cache(lambda *_, **__: {})
    module.Metrics = lambda *_: _metrics()
    logging.disable(logging.CRITICAL)
    gc_was = gc.isenabled()
    gc.disable()  # when it runs depends on what ran before
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a process that is killed closes nothing
            yield
    finally:
        secrets.token_hex, os.urandom = token_hex, urandom
        module.document, module.Metrics = document, metrics
        logging.disable(disabled)
        if gc_was:
            gc.enable()


@dataclass
class Result:
    """What came of a run."""

    plan: Schedule
    violation: Violation | None
    oracle: Oracle
    trace: list[str]
    answered: list[str]
    """What was decided for each request of the schedule, in the order of the answers."""


def simulate(plan: Schedule) -> Result:
    """Carry out a schedule."""
    rng, network, vendors, tokens = (
        random.Random(f"{use} {plan.seed}") for use in ("run", "network", "vendor", "tokens")
    )
    with _seeded(tokens):
        loop = VirtualLoop(network)
        asyncio.set_event_loop(loop)
        vendor = SimulatedVendor(loop, vendors)
        oracle = Oracle(loop, vendor)
        world = World(plan, rng, loop, vendor, oracle)
        violation: Violation | None = None
        try:
            loop.run_until_complete(world.run())
        except Violation as error:
            violation = error
        finally:
            for replica in world.replicas:
                replica.kill()
            _finish(loop)
            asyncio.set_event_loop(None)
    return Result(plan, violation, oracle, world.trace, world.answered)


def _finish(loop: VirtualLoop) -> None:
    tasks = [task for task in asyncio.all_tasks(loop) if not task.done()]
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=30))
    loop.set_exception_handler(lambda *_: None)
    loop.close()


__all__ = ["Awaitable", "Callable", "Result", "World", "simulate"]
