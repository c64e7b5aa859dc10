"""The grammar of AOI ids and queries: what is taken, what is not, and what goes to the vendor of it."""

from __future__ import annotations

import re
from random import Random
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import BadAoiId, BadQuery
from gateway.core.query import AssetsQuery, QueryRules, parse_aoi_id, parse_assets_query, parse_query

FILTERS = ("status", "asset_type")
RULES = QueryRules(filters=FILTERS)

aoi_ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
filter_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=128)
queries = st.builds(
    AssetsQuery,
    aoi_ids,
    st.integers(0, 999_999_999),
    st.integers(1, 1000),
    st.dictionaries(st.sampled_from(FILTERS), filter_values).map(lambda found: tuple(sorted(found.items()))),
)
# What an attacker would try: the characters that mean something in a URL, raw and escaped, once and twice.
PIECES = [
    "%", "/", "\\", "?", "#", "&", "=", ";", ":", "@", "+", ".", "~", "|", "{", "}", "%2e", "%2F", "%2f", "%5c",
    "%00", "%0d%0a", "%23", "%3f", "%26", "%252e", "%c0%ae", "%ff", "%zz", "..", "//", "a", "A", "1", "0", "offset",
    "limit", "=1", "status", "\xe9", "\uff11", "\r", "\n", "\x00", " ",
]  # fmt: skip
hostile = st.lists(st.sampled_from(PIECES)).map("".join)


@pytest.mark.parametrize(
    ("raw", "aoi_id"),
    [
        ("a", "a"), ("a%41", "aA"), ("%61%41", "aA"), ("a-b_c-0", "a-b_c-0"), ("x" * 64, "x" * 64), ("%2D%5f", "-_"),
        ("%78" * 64, "x" * 64), ("-", "-"), ("0", "0"),
    ],
)  # fmt: skip
def test_an_aoi_id_is_decoded_once(raw: str, aoi_id: str) -> None:
    assert parse_aoi_id(raw) == aoi_id


BAD_AOI_IDS = [
    "..", ".", "%2e%2e", "%2E.", "%2e%2e%2fusers", "..%2f..%2fkeys%3f", "x%2f..%2f..%2fadmin%23", "%252e%252e%252f",
    "%2561", "..%5c", "a\\b", "a%00b", "a%0d%0aX-Evil:1", "a%0a", "a%0A", "a\n", "a%3fx=1", "a%23f", "a;b", "a%3bb",
    "%c0%ae", "%c1%a1", "%e0%80%af", "%ff", "%zz", "%", "%6", "a%", "a%4", "a%u0041", "%EF%BC%8E", "%EF%BD%81",
    "%C3%A9", "%D9%A3", "%e2%80%8b", "\xe9", "\uff11", "\u0663", "\u200b", "http:%2f%2fevil", "%2F", "a:offset=0",
    "a|50", "a%7c50", "a+b", "a%20b", "a%20", "%20a", "a%09", "a@b", "a*", "{a}", "a,b", "a=b", "a~b", "a'b", 'a"b',
    "<a>", "$a", "\x7f", "%7f", "", " ", "a b", " a", "x" * 65, "x" * 3000, "%78" * 65,
]  # fmt: skip


@pytest.mark.parametrize("raw", BAD_AOI_IDS)
def test_anything_else_is_no_aoi_id(raw: str) -> None:
    with pytest.raises(BadAoiId):
        parse_aoi_id(raw)


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        ("", "offset=0&limit=10"), ("offset=0", "offset=0&limit=10"), ("limit=10&offset=0", "offset=0&limit=10"),
        ("offset=1", "offset=1&limit=10"), ("offset=%31", "offset=1&limit=10"), ("%6fffset=1", "offset=1&limit=10"),
        ("%6F%66%66%73%65%74=%31", "offset=1&limit=10"), ("limit=1", "offset=0&limit=1"),
        ("limit=1000", "offset=0&limit=1000"), ("offset=999999999", "offset=999999999&limit=10"),
        ("status=success", "offset=0&limit=10&status=success"),
        ("status=a&asset_type=b&limit=2", "offset=0&limit=2&asset_type=b&status=a"),
        ("status=a+b", "offset=0&limit=10&status=a%20b"), ("status=a%2Bb", "offset=0&limit=10&status=a%2Bb"),
        ("status=a=b", "offset=0&limit=10&status=a%3Db"),
        ("status=%26limit%3D5", "offset=0&limit=10&status=%26limit%3D5"),
        ("status=%2E%2e/%23", "offset=0&limit=10&status=..%2F%23"), ("status=~", "offset=0&limit=10&status=~"),
        ("status=%2525", "offset=0&limit=10&status=%2525"),
        ("status=" + "x" * 128, "offset=0&limit=10&status=" + "x" * 128),
    ],
)  # fmt: skip
def test_a_query_has_one_canonical_form(raw: str, canonical: str) -> None:
    assert parse_query("a", raw, RULES).canonical == canonical


# By the parameter that is named as the bad one.
BAD_QUERIES = {
    "offset": [
        "offset=-1", "offset=1000000000", "offset=%EF%BC%91", "offset=%D9%A1", "offset=\uff11", "offset=+1",
        "offset=%2B1", "offset=1_0", "offset=01", "offset=00", "offset=1%0d%0a", "offset=1%0a", "offset=%201",
        "offset=1+", "offset=1%20", "offset=1.0", "offset=0x1", "offset=1e1", "offset=NaN", "offset=1%00",
        "offset=%00", "offset=%ff", "offset=%zz", "offset=%", "offset=1&offset=2", "offset=1&offset=1",
        "offset=1&%6fffset=1", "offset=1;limit=5", "offset=1%26limit=5", "offset=1%3Blimit=5", "offset==1",
        "offset=1=", "offset=", "offset", "offset=1?limit=5", "offset=1#", "offset=1/",
    ],
    "limit": [
        "limit=0", "limit=1001", "limit=1e9", "limit=10000000000", "limit=01", "limit=5&limit=5", "limit=", "limit",
    ],
    "status": [
        "status=", "status", "status=a&status=b", "status=%00", "status=a%0d%0a", "status=%C3%A9", "status=\xe9",
        "status=%7f", "status=" + "x" * 129,
    ],
    "OFFSET": ["OFFSET=1"],
    "offset[]": ["offset[]=1", "offset%5B%5D=1"],
    "cursor": ["cursor=1", "offset=1&cursor=x", "cursor=" + "z" * 5000],
    "?offset": ["?offset=1"],
    "%ff": ["%ff=1"],
    # What cannot be shown, or has no name, is called by its position.
    "#1": ["offset%00=1", "offset%20=1", "+offset=1", "offset%0a=1", "%00=1", "=1", "=", "&", "&&", "&offset=1"],
    "#2": ["offset=1&", "offset=1&&limit=5", "limit=5&" + "y" * 65 + "=1"],
}  # fmt: skip


@pytest.mark.parametrize(("parameter", "raw"), [(name, raw) for name, raws in BAD_QUERIES.items() for raw in raws])
def test_anything_else_is_a_bad_query(parameter: str, raw: str) -> None:
    with pytest.raises(BadQuery) as caught:
        parse_query("a", raw, RULES)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize("raw", ["cursor=1", "offset=1&x=2", "OFFSET=1", "offset[]=1"])
def test_who_uses_an_unknown_parameter_is_told_the_known_ones(raw: str) -> None:
    with pytest.raises(BadQuery) as caught:
        parse_query("a", raw, RULES)
    assert caught.value.allowed == ("offset", "limit", *FILTERS)


def test_a_filter_that_is_not_configured_is_unknown() -> None:
    with pytest.raises(BadQuery):
        parse_query("a", "status=success", QueryRules())


def test_the_largest_limit_is_the_operators() -> None:
    assert parse_query("a", "limit=50", QueryRules(max_limit=50)).limit == 50
    with pytest.raises(BadQuery, match="between 1 and 50"):
        parse_query("a", "limit=51", QueryRules(max_limit=50))


@given(queries)
def test_parsing_a_canonical_form_gives_an_equal_query(query: AssetsQuery) -> None:
    assert parse_query(query.aoi_id, query.canonical, RULES) == query
    path, _, raw = query.target.partition("?")
    assert parse_assets_query(path.split("/")[3], raw, RULES) == query


@given(queries, st.randoms(use_true_random=False))
def test_every_way_to_write_a_query_is_one_query(query: AssetsQuery, chance: Random) -> None:
    def written(word: str) -> str:
        return "".join(f"%{ord(letter):02x}" if chance.random() < 0.3 else quote_plus(letter) for letter in word)

    pairs = [("offset", str(query.offset)), ("limit", str(query.limit)), *query.filters]
    chance.shuffle(pairs)
    raw = "&".join(f"{written(name)}={written(value)}" for name, value in pairs)
    assert parse_query(query.aoi_id, raw, RULES) == query


@given(hostile | st.text(), hostile | st.text())
def test_no_accepted_input_leaves_its_place_in_the_vendors_url(raw_aoi_id: str, raw_query: str) -> None:
    try:
        query = parse_assets_query(raw_aoi_id, raw_query, RULES)
    except (BadAoiId, BadQuery):
        return
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", query.aoi_id)
    parts = urlsplit(f"https://vendor.example{query.target}")
    assert parts.path == f"/v0/aois/{query.aoi_id}/assets"
    assert parts.netloc == "vendor.example"
    assert parts.fragment == ""
    assert re.fullmatch(r"offset=[0-9]+&limit=[0-9]+(&[a-z_]+=[A-Za-z0-9._~%-]+)*", parts.query)


@st.composite
def nearly(draw: st.DrawFn, good: st.SearchStrategy[str]) -> str:
    """What is good, spelt in any way, and now and then spoilt."""
    word = "".join(
        draw(st.sampled_from((letter, letter, f"%{ord(letter):02x}", f"%{ord(letter):02X}"))) for letter in draw(good)
    )
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(word)))
        word = word[:place] + draw(st.sampled_from(PIECES)) + word[place + draw(st.integers(0, 2)) :]
    return word


pairs = st.tuples(
    nearly(st.sampled_from(["offset", "limit", *FILTERS])), nearly(st.integers(0, 2000).map(str) | filter_values)
)


@given(nearly(aoi_ids), st.lists(pairs.map("=".join), max_size=4).map("&".join))
def test_what_is_accepted_becomes_the_one_form_of_what_was_meant(raw_aoi_id: str, raw_query: str) -> None:
    """Read once more by the standard library, which takes more, but means the same by it."""
    try:
        query = parse_assets_query(raw_aoi_id, raw_query, RULES)
    except (BadAoiId, BadQuery):
        return
    meant = {"offset": "0", "limit": "10", **dict(parse_qsl(raw_query, strict_parsing=True) if raw_query else ())}
    names = ("offset", "limit", *sorted(set(meant) - {"offset", "limit"}))
    canonical = "&".join(f"{name}={quote(meant[name], safe='')}" for name in names)
    assert query.target == f"/v0/aois/{unquote(raw_aoi_id)}/assets?{canonical}"


@given(aoi_ids, hostile)
def test_a_query_string_never_reaches_the_path(aoi_id: str, raw_query: str) -> None:
    try:
        query = parse_assets_query(aoi_id, raw_query, RULES)
    except BadQuery:
        return
    assert query.target.startswith(f"/v0/aois/{aoi_id}/assets?offset=")
