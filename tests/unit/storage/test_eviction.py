"""The map that forgets by S3-FIFO, against a plain one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.storage.eviction import S3Fifo

NAMES = st.sampled_from([f"n{number}" for number in range(12)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NAMES, st.integers(1, 60)),
        st.tuples(st.just("get"), NAMES, st.just(0)),
        st.tuples(st.just("pop"), NAMES, st.just(0)),
    ),
    max_size=200,
)


@given(STEPS)
def test_it_never_holds_more_than_it_may_and_never_lies(steps: list[tuple[str, str, int]]) -> None:
    evicted: list[tuple[str, int]] = []
    cache: S3Fifo[tuple[str, int]] = S3Fifo(100, evicted.append)
    last: dict[str, int] = {}
    held: dict[str, int] = {}
    for number, (step, name, size) in enumerate(steps):
        if step == "put":
            new = cache.put(name, (name, number), size)
            assert new == (name not in held)
            last[name] = number
            held[name] = size
            while evicted:
                del held[evicted.pop()[0]]
        elif step == "get":
            found = cache.get(name)
            assert (found is not None) == (name in held)
            assert found is None or found == (name, last[name])
        else:
            assert (cache.pop(name) is not None) == (held.pop(name, None) is not None)
        assert cache.size == sum(held.values()) <= 100


def test_a_value_beyond_the_bound_changes_nothing() -> None:
    cache: S3Fifo[str] = S3Fifo(10, lambda _: None)
    cache.put("a", "a", 10)
    assert not cache.put("b", "b", 11)
    assert (cache.get("a"), cache.get("b"), cache.size) == ("a", None, 10)


def test_a_name_that_comes_back_soon_stays() -> None:
    gone: list[str] = []
    cache: S3Fifo[str] = S3Fifo(20, gone.append)
    for number in range(21):
        cache.put(f"n{number}", f"n{number}", 1)
    assert gone == ["n0"]
    cache.put("n0", "n0", 1)
    for number in range(100):
        cache.put(f"crawl {number}", "crawl", 1)
    assert cache.get("n0") == "n0"
