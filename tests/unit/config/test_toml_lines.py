"""The position finder, against texts whose lines are known, and against tomllib on whether a key exists at all."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.toml_lines import find_lines, nearest

# ~~~ stands for the quotes that would end this literal.
TEXT = r'''# a comment with [brackets] and = signs
top = 1

[server]
host = "a#b = [c]" # more
"quoted.key" = 1
'single' = 2
"\u0061scii" = 3
dotted . "in between".end = 4
lines = """
[not.a.header]
fake = "\"""
still = 1 """"
literal = ~~~
[nor.this]
'also = 2~~~
after = 07:32:00

[ teams . "al pha" ] # spaces
list = [ # one [
  "x",
  [1, 2], # ]
  { a = 1, b = [
    "deep",
  ] },
]
inline = { p = 1.5, q.r = "}", "s" = { t = [] } }

[cache.lifetimes]
keep = 1

[cache]
url = "x"

[[many]]
one = 1

[[many]]
two = 2'''.replace("~~~", "'''")


@pytest.mark.parametrize(
    ("path", "marker"),
    [
        (("top",), "top = 1"),
        (("server",), "[server]"),
        (("server", "host"), "host ="),
        (("server", "quoted.key"), '"quoted.key"'),
        (("server", "single"), "'single'"),
        (("server", "ascii"), r'"\u0061scii"'),
        (("server", "dotted"), "dotted ."),
        (("server", "dotted", "in between", "end"), "dotted ."),
        (("server", "lines"), "lines ="),
        (("server", "after"), "after ="),
        (("teams",), "[ teams"),
        (("teams", "al pha"), "[ teams"),
        (("teams", "al pha", "list"), "list ="),
        (("teams", "al pha", "list", 0), '  "x"'),
        (("teams", "al pha", "list", 1), "  [1, 2]"),
        (("teams", "al pha", "list", 1, 1), "  [1, 2]"),
        (("teams", "al pha", "list", 2), "  { a"),
        (("teams", "al pha", "list", 2, "b"), "  { a"),
        (("teams", "al pha", "list", 2, "b", 0), '    "deep"'),
        (("teams", "al pha", "inline", "q", "r"), "inline ="),
        (("teams", "al pha", "inline", "s", "t"), "inline ="),
        (("cache", "lifetimes"), "[cache.lifetimes]"),
        (("cache",), "[cache]"),
        (("cache", "url"), "url ="),
        (("many",), "[[many]]"),
        (("many", "two"), "two ="),
    ],
)
def test_line_of(path: tuple[str | int, ...], marker: str) -> None:
    tomllib.loads(TEXT)
    lines = TEXT.split("\n")
    assert lines[find_lines(TEXT)[path] - 1].startswith(marker)


def test_what_only_looks_like_a_key_has_no_line() -> None:
    found = {part for path in find_lines(TEXT) for part in path}
    assert not found & {"not", "a", "header", "fake", "still", "nor", "this", "also", "brackets"} - {"a"}


@pytest.mark.parametrize(
    ("path", "line"),
    [(("a", "b"), 5), (("a", "c", "d"), 2), (("z",), 1), ((), 1), (("a", "b", 3), 5)],
)
def test_nearest(path: tuple[str | int, ...], line: int) -> None:
    assert nearest({("a",): 2, ("a", "b"): 5}, path) == line


def test_an_empty_text_has_no_lines() -> None:
    assert find_lines("") == {}


def paths(value: Any, above: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path for key, inner in pairs for path in ({(*above, key)} | paths(inner, (*above, key)))}


SCALARS = st.sampled_from(["1", "-1.5e3", "true", '"#[x] = {"', "'\"'", '"""\n[x]\ny = 1\n"""', "'''\na = '' \n'''"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(lambda items: "[\n" + ", # ]\n".join(items) + "\n]"),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.sampled_from(["", "# [c]\n", "\n\n"]), VALUES), max_size=8))
def test_every_key_that_tomllib_sees_has_the_line_on_which_it_was_written(parts: list[tuple[str, str]]) -> None:
    text = ""
    expected: dict[tuple[str, ...], int] = {}
    for number, (noise, value) in enumerate(parts):
        text += f"{noise}[s{number}]\n"
        expected[f"s{number}",] = text.count("\n")
        text += f"k = {value}\n"
        expected[f"s{number}", "k"] = text.count("\n") - value.count("\n")
    found = find_lines(text)
    assert set(found) == paths(tomllib.loads(text))
    assert {path: found[path] for path in expected} == expected


@given(st.text(alphabet="[]{},=.\"'\\\n# ab1", max_size=60))
def test_it_ends_on_any_text(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in find_lines(text).values())
