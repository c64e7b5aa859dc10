"""The budgets of one to three replicas against one exact token bucket, in virtual time.

The script runs in a real Redis, which is given the virtual time; everything else is the gateway's own code.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, groupby
from typing import Any

import pytest
import redis
from real_redis import RealRedis
from virtual_time import VirtualTimeLoop

from gateway.config.options import TeamOptions
from gateway.core.errors import LimitReached, StoreDown
from gateway.core.token_bucket import TokenBucket
from gateway.storage.redis.shared_budgets import RedisBuckets
from gateway.teams.budgets import Budgets

_PREFIXES = count()
# Redis' clock is not that of the replicas.
_EPOCH = 1_700_000_000.0


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    server = RealRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    connection = redis.Redis(port=server.port)
    yield connection
    connection.close()
    server.kill()


@dataclass
class FarRedis:
    """Redis behind a network with these delays in seconds, one way.

    `gone` fails every command, and `stalls` is the share of answers that take 0.3 s longer.
    """

    client: redis.Redis
    loop: VirtualTimeLoop
    delays: tuple[float, float]
    chance: random.Random
    gone: bool = False
    stalls: float = 0.0
    commands: int = 0

    async def run(self, _: str, send: Callable[[Any], Awaitable[Any]], *, background_timeout: float) -> Any:
        self.commands += 1
        await asyncio.sleep(self.chance.uniform(*self.delays))
        if self.gone:
            raise StoreDown
        answer = await send(self)
        stall = 0.3 if self.chance.random() < self.stalls else 0.0
        await asyncio.sleep(self.chance.uniform(*self.delays) + stall)
        return answer

    async def eval(self, script: str, keys: int, *rest: Any) -> Any:
        timed = script.replace("redis.call('TIME')", "{ARGV[#ARGV], '0'}")
        # An expiry would follow the real clock.
        timed = timed.replace("redis.call('PEXPIRE', KEYS[1], ARGV[8])", "")
        assert timed.count("ARGV[#ARGV]") == 1
        assert "PEXPIRE" not in timed
        return self.client.eval(timed, keys, *rest, repr(_EPOCH + self.loop.time()))


@dataclass
class Team:
    """One team that sends requests to several replicas, and what became of them: (time, admitted)."""

    rate: float
    burst: int
    replicas: list[Budgets]
    loop: VirtualTimeLoop
    redis: FarRedis
    requests: list[tuple[float, bool]] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    retry_after: float = 0.0

    async def send(self, times: list[float], *, scope: str = "requests", chance: random.Random | None = None) -> None:
        """Send requests at these times from now, to the replicas in turn or at random."""
        began, tasks = self.loop.time(), []
        for number, at in enumerate(times):
            await asyncio.sleep(max(0.0, began + at - self.loop.time()))
            replica = chance.choice(self.replicas) if chance else self.replicas[number % len(self.replicas)]
            tasks.append(asyncio.create_task(self.request(replica, scope)))
        await asyncio.gather(*tasks)

    async def request(self, replica: Budgets, scope: str = "requests") -> bool:
        at = self.loop.time()
        try:
            await (replica.request("team") if scope == "requests" else replica.miss("team"))
        except LimitReached as error:
            admitted, self.retry_after = False, error.retry_after
        else:
            admitted = True
        self.requests.append((at, admitted))
        self.waited.append(self.loop.time() - at)
        return admitted

    @property
    def admitted(self) -> list[float]:
        return sorted(at for at, admitted in self.requests if admitted)

    def most_in(self, seconds: float) -> int:
        """The largest number of requests that were admitted in a period of this length."""
        times = self.admitted
        return max((bisect_right(times, at + seconds) - n for n, at in enumerate(times)), default=0)

    def assert_bounded(self) -> None:
        for seconds in (10.0, 30.0):
            assert self.most_in(seconds) <= 1.1 * self.rate * seconds + self.burst + 1e-6

    def assert_at_least_exact(self) -> None:
        """At no time fewer were admitted than one exact bucket would have admitted of the same requests."""
        bucket, ours, exact = TokenBucket.full(self.rate, self.burst, 0.0), 0, 0
        for at, same in groupby(sorted(self.requests), key=lambda request: request[0]):
            for _, admitted in same:
                ours += admitted
                exact += bucket.take(at) is None
            assert ours >= exact - 1, at  # a request that came a moment earlier may have been given the token


def play(
    client: redis.Redis,
    script: Callable[[Team], Any],
    *,
    rate: float,
    burst: int,
    replicas: int = 1,
    delays: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
) -> Team:
    loop = VirtualTimeLoop()

    async def scene() -> Team:
        far = FarRedis(client, loop, delays, random.Random(seed))
        options = {"team": TeamOptions(rate=rate, burst=burst, miss_rate=rate, miss_burst=burst)}
        shared = RedisBuckets(far, prefix=f"{next(_PREFIXES)}:", timeout=0.05)  # type: ignore[arg-type]
        budgets = [Budgets(options, shared, loop) for _ in range(replicas)]
        team = Team(rate, burst, budgets, loop, far)
        await script(team)
        await asyncio.gather(*(one.close() for one in budgets))
        return team

    return loop.run(scene())


def conforming(rate: float, burst: int, times: list[float]) -> list[float]:
    """Those that one exact bucket admits."""
    bucket = TokenBucket.full(rate, burst, 0.0)
    return [at for at in times if bucket.take(at) is None]


DELAYS = [(0.0, 0.0), (0.0001, 0.0003), (0.01, 0.02), (0.015, 0.0225), (0.0225, 0.0225)]
RATES = [0.2, 1.0, 2.0, 5.9, 6.0, 7.0, 13.3, 50.0, 200.0, 1000.0]
BURST_SECONDS = [0.0, 0.1, 0.5, 1.0, 1.0, 3.0]
_REQUESTS = 250


@dataclass
class Case:
    """A team, replicas, a network and a load, at random."""

    seed: int

    def __post_init__(self) -> None:
        self.chance = chance = random.Random(self.seed)
        self.rate = chance.choice(RATES)
        self.burst = max(1, round(self.rate * chance.choice(BURST_SECONDS)))
        self.delays = chance.choice(DELAYS)
        self.replicas = chance.choice([1, 3, 3])

    def times(self, load: float) -> list[float]:
        """Requests at random, with quiet periods and bursts."""
        times: list[float] = []
        at = 0.0
        while len(times) < _REQUESTS:
            if self.chance.random() < 0.02:
                at += self.chance.uniform(0.0, 2.0 * self.burst / self.rate)
                times += [at] * self.chance.randint(1, min(_REQUESTS, 2 * self.burst))
            at += self.chance.expovariate(load * self.rate)
            times.append(at)
        return times

    def play(self, client: redis.Redis, times: list[float], scope: str) -> Team:
        async def script(team: Team) -> None:
            await team.send(times, scope=scope, chance=self.chance)

        return play(
            client, script, rate=self.rate, burst=self.burst, replicas=self.replicas, delays=self.delays, seed=self.seed
        )


@pytest.mark.parametrize("seed", range(12))
def test_any_load_admits_what_an_exact_bucket_admits_and_a_tenth_more_at_most(client: redis.Redis, seed: int) -> None:
    case = Case(seed)
    team = case.play(client, case.times(load=case.chance.uniform(0.5, 4.0)), "requests")
    team.assert_bounded()
    team.assert_at_least_exact()


@pytest.mark.parametrize("scope", ["requests", "misses"])
@pytest.mark.parametrize("seed", range(8))
def test_a_team_within_its_rate_is_never_refused(client: redis.Redis, scope: str, seed: int) -> None:
    case = Case(1000 + seed)
    times = conforming(case.rate, case.burst, case.times(load=2.0))
    team = case.play(client, times, scope)
    assert [at for at, admitted in team.requests if not admitted] == []


FAR = [(0.0002, 0.0004), (0.015, 0.0225)]


@pytest.mark.parametrize("delays", FAR)
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("rate", [1.0, 20.0])
def test_a_team_beyond_its_rate_is_given_exactly_its_rate(
    client: redis.Redis, rate: float, replicas: int, delays: tuple[float, float]
) -> None:
    burst, seconds = round(rate), 12

    async def overload(team: Team) -> None:
        await team.send([number / (3 * rate) for number in range(int(3 * rate * seconds))])

    team = play(client, overload, rate=rate, burst=burst, replicas=replicas, delays=delays)
    team.assert_bounded()
    exact = burst + rate * seconds
    assert exact - 2 <= len(team.admitted) <= exact + 0.5 * rate + 1
    assert team.redis.commands <= len(team.requests)


@pytest.mark.parametrize("delays", FAR)
def test_a_team_beyond_its_rate_is_given_its_whole_burst_after_a_pause(
    client: redis.Redis, delays: tuple[float, float]
) -> None:
    rate, burst = 20.0, 40

    async def bursts(team: Team) -> None:
        for number in range(3):
            await team.send([0.0] * (3 * burst))
            before = len(team.admitted)
            # The first token after an overdraft is there when an exact bucket has it, and so is the last.
            await asyncio.sleep(1.2 / rate)
            assert await team.request(team.replicas[number]), number
            await asyncio.sleep(burst / rate)
            await team.send([0.0] * burst)
            assert len(team.admitted) == before + 1 + burst, number
            await asyncio.sleep(burst / rate)

    play(client, bursts, rate=rate, burst=burst, replicas=3, delays=delays)


def test_a_request_far_from_the_limit_does_not_wait_for_redis(client: redis.Redis) -> None:
    async def steady(team: Team) -> None:
        await team.send([number / 60 for number in range(200)])

    team = play(client, steady, rate=100, burst=100, replicas=3, delays=(0.0225, 0.0225))
    assert all(admitted for _, admitted in team.requests)
    assert sum(waited > 0 for waited in team.waited) <= 3 * 3  # until each replica has heard from Redis once


def test_a_client_that_waits_as_long_as_it_is_told_is_admitted(client: redis.Redis) -> None:
    async def patient(team: Team) -> None:
        for number in range(20):
            while await team.request(team.replicas[number % 3], "misses"):
                pass
            await asyncio.sleep(team.retry_after)

    team = play(client, patient, rate=2, burst=1, replicas=3, delays=(0.015, 0.0225))
    assert len(team.admitted) >= 20


@pytest.mark.parametrize("delays", FAR)
@pytest.mark.parametrize("scope", ["requests", "misses"])
def test_answers_that_come_late_are_used_and_hold_up_no_request(
    client: redis.Redis, scope: str, delays: tuple[float, float]
) -> None:
    rate, burst, seconds = 20.0, 20, 20

    async def overload(team: Team) -> None:
        team.redis.stalls = 0.05
        await team.send([number / (3 * rate) for number in range(int(3 * rate * seconds))], scope=scope)

    team = play(client, overload, rate=rate, burst=burst, replicas=3, delays=delays)
    team.assert_bounded()
    assert len(team.admitted) >= burst + rate * seconds - 2
    # The usual round trip, a second one before it, and the timeout of a command.
    assert max(team.waited) < 0.05 + 0.1 + 0.1


def test_a_redis_that_comes_back_is_no_penalty_and_no_second_burst(client: redis.Redis) -> None:
    rate, burst = 10.0, 20

    async def outage(team: Team) -> None:
        await team.send([0.0] * 2 * burst)
        assert len(team.admitted) == burst
        team.redis.gone = True
        await team.send([number / (3 * rate) for number in range(60)])  # for two seconds
        assert burst + 2 * rate - 2 <= len(team.admitted) <= burst + 2 * rate + 1
        client.flushall()
        team.redis.gone = False
        before = len(team.admitted)
        await team.send([0.3 + number / (3 * rate) for number in range(60)])
        assert before + 2 * rate - 2 <= len(team.admitted) <= before + 2.3 * rate + 2
        # Within its rate during an outage, it is within its rate afterwards.
        await asyncio.sleep(burst / rate)
        for gone in (True, False):
            team.redis.gone = gone
            before = len(team.admitted)
            await team.send([number / rate for number in range(20)])
            assert len(team.admitted) == before + 20

    play(client, outage, rate=rate, burst=burst, delays=(0.0002, 0.0004)).assert_bounded()


def test_a_reload_in_the_middle_changes_the_rate_and_forgives_nothing(client: redis.Redis) -> None:
    async def reload(team: Team) -> None:
        await team.send([0.0] * 30)
        assert len(team.admitted) == 10
        faster = {"team": TeamOptions(rate=100, burst=50)}
        for replica in team.replicas:
            replica.adopt(faster)
        await team.send([0.0] * 100)
        assert 50 - 3 <= len(team.admitted) <= 50 + 3  # ten of the fifty are used
        slower = {"team": TeamOptions(rate=1, burst=1)}
        for replica in team.replicas:
            replica.adopt(slower)
        before = len(team.admitted)
        await team.send([number / 10 for number in range(100)])
        assert 9 <= len(team.admitted) - before <= 12

    play(client, reload, rate=10, burst=10, replicas=2, delays=(0.0002, 0.0004))
