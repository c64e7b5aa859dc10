"""Loading: precedence, every fault with the line it is on, secrets that stay secret, and the files in config/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from gateway.config.loading import ConfigurationError, Loaded, Settings, find_file, load, read_secret

KEY = {"GATEWAY_UPSTREAM__API_KEY": "vendor-key"}
DIGEST = "ab" * 32
OTHER_DIGEST = "cd" * 32
PUBLIC = (
    "is not a loopback address, and no team is configured: configure a team (`pixxel-gateway token new --team NAME`), "
    'or let everybody in with auth.mode = "open", or listen on 127.0.0.1'
)
SCHEMES = "must start with memory://, redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster://, rediss+cluster://"
RESERVED = "is a name that the metrics need for themselves; choose another"
NOWHERE = "names a file that cannot be read"
NO_URL = "must be an http:// or https:// URL with a host, and a number for a port if any"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # so that the checkout's own config/gateway.toml is out of sight


def loaded(text: str = "", *, environ: dict[str, str] | None = None, key: bool = True, **rest: Any) -> Loaded:
    Path("g.toml").write_text(text, encoding="utf-8")
    return load(file="g.toml", environ={**(KEY if key else {}), **(environ or {})}, **rest)


def faults(text: str = "", **rest: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        loaded(text, **rest)
    lines = [str(fault) for fault in caught.value.faults]
    assert str(caught.value) == "\n".join(lines)
    return lines


def value(settings: Settings, key: str) -> Any:
    found: Any = settings
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found.get_secret_value() if isinstance(found, SecretStr) else found


# Precedence


@pytest.mark.parametrize(
    ("text", "environ", "flag", "expected"),
    [
        ("", {}, None, 8080),
        ("[server]\nport = 1", {}, None, 1),
        ("[server]\nport = 1", {"GATEWAY_SERVER__PORT": "2"}, None, 2),
        ("[server]\nport = 1", {"GATEWAY_SERVER__PORT": "2"}, 3, 3),
        ("[server]\nport = 1", {}, 3, 3),
        ("", {"GATEWAY_SERVER__PORT": "2"}, None, 2),
        ("[server]\nport = 1", {"GATEWAY_SERVER__PORT": " "}, None, 1),
        ("[server]\nport = 'bad, but nobody asks for it'", {"GATEWAY_SERVER__PORT": "2"}, None, 2),
    ],
)
def test_flags_over_environment_over_file_over_defaults(
    text: str, environ: dict[str, str], flag: int | None, expected: int
) -> None:
    settings = loaded(text, environ=environ, flags={"server.port": flag, "server.host": None}).settings
    assert settings.server.port == expected
    assert settings.server.host == "127.0.0.1"


def test_sections_merge_key_by_key() -> None:
    settings = loaded(
        "[cache.lifetimes]\nsettled = 7\nempty = 8\n[teams.alpha]\nrate = 2\ntoken_sha256 = ['" + DIGEST + "']",
        environ={"GATEWAY_CACHE__LIFETIMES__SETTLED": "9", "GATEWAY_TEAMS__ALPHA__BURST": "4"},
        flags={"cache.prefetch": 3},
    ).settings
    assert (settings.cache.lifetimes.settled, settings.cache.lifetimes.empty) == (9, 8)
    assert (settings.cache.lifetimes.keep, settings.cache.prefetch) == (86400, 3)
    assert (settings.teams["alpha"].rate, settings.teams["alpha"].burst) == (2, 4)


@pytest.mark.parametrize(
    ("name", "text", "key", "expected"),
    [
        ("GATEWAY_UPSTREAM__BREAKER__FAILURES", "9", "upstream.breaker.failures", 9),
        ("GATEWAY_UPSTREAM__DEADLINE", "20.5", "upstream.deadline", 20.5),
        ("GATEWAY_UPSTREAM__DEADLINE", "20", "upstream.deadline", 20.0),
        ("GATEWAY_SERVER__REPLAY", "false", "server.replay", False),
        ("GATEWAY_SERVER__REPLAY", "1", "server.replay", True),
        ("GATEWAY_LOG__FORMAT", "json", "log.format", "json"),
        ("GATEWAY_OPS__PORT", "9090", "ops.port", 9090),
        ("GATEWAY_OPS__PORT", "", "ops.port", None),
        ("GATEWAY_CACHE__URL", "redis://h", "cache.url", "redis://h"),
        ("GATEWAY_QUERY__FILTERS", "type, status", "query.filters", ["type", "status"]),
        ("GATEWAY_QUERY__FILTERS", '["type"]', "query.filters", ["type"]),
        ("GATEWAY_QUERY__FILTERS", " ", "query.filters", []),
        ("GATEWAY_SERVER__TRUSTED_PROXIES", "10.0.0.1/8,::1", "server.trusted_proxies", ["10.0.0.0/8", "::1/128"]),
    ],
)
def test_environment_values(name: str, text: str, key: str, expected: object) -> None:
    assert value(loaded("[query]\nfilters = ['old']", environ={name: text}).settings, key) == expected


@pytest.mark.parametrize(
    ("configured", "name", "team"),
    [
        (["alpha"], "ALPHA", "alpha"),
        (["Alpha"], "ALPHA", "Alpha"),
        (["Map-Team"], "MAP_TEAM", "Map-Team"),
        (["map_team"], "MAP_TEAM", "map_team"),
        (["a__b"], "A__B", "a__b"),
        (["alpha"], "BETA", "beta"),
        ([], "NEW_TEAM", "new_team"),
    ],
)
def test_teams_in_the_environment(configured: list[str], name: str, team: str) -> None:
    text = "".join(f"[teams.{one}]\nburst = 2\n" for one in configured)
    settings = loaded(text, environ={f"GATEWAY_TEAMS__{name}__RATE": "5"}).settings
    assert settings.teams[team].rate == 5
    assert set(settings.teams) == {*configured, team}


def test_a_variable_that_fits_two_teams() -> None:
    [line] = faults("[teams.a-b]\n[teams.a_b]", environ={"GATEWAY_TEAMS__A_B__RATE": "5"})
    assert line.startswith("environment: GATEWAY_TEAMS__A_B__RATE: fits teams.a-b and teams.a_b alike")


# Finding the file


def test_which_file(tmp_path: Path) -> None:
    assert find_file(None, {}) is None
    assert load(environ=KEY).source == "built-in defaults"
    (tmp_path / "config").mkdir()
    for name in ("config/gateway.toml", "a.toml", "b.toml"):
        Path(name).write_text("", encoding="utf-8")
    assert find_file(None, {}) == Path("config/gateway.toml")
    assert find_file(None, {"GATEWAY_CONFIG": ""}) == Path("config/gateway.toml")
    assert find_file(None, {"GATEWAY_CONFIG": "a.toml"}) == Path("a.toml")
    assert find_file("b.toml", {"GATEWAY_CONFIG": "a.toml"}) == Path("b.toml")
    assert load(environ={**KEY, "GATEWAY_CONFIG": "a.toml"}) == Loaded(
        load(environ=KEY).settings, warnings=[], source="a.toml"
    )


@pytest.mark.parametrize(
    ("flag", "environ", "line"),
    [
        ("no.toml", {}, "flags: --config: names a file that does not exist: no.toml"),
        (None, {"GATEWAY_CONFIG": "no.toml"}, "environment: GATEWAY_CONFIG: names a file that does not exist: no.toml"),
        (".", {}, ".: toml: cannot be read: Is a directory"),
    ],
)
def test_a_file_that_is_not_there(flag: str | None, environ: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(file=flag, environ={**KEY, **environ})
    assert str(caught.value) == line


# Faults in the file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n[upstream]\ndeadline = 'x'", ["3: upstream.deadline: must be a valid number, not a string"]),
        ("[server]\nport = true", ["2: server.port: must be a valid integer, not a boolean"]),
        ("[server]\nport = '8080'", ["2: server.port: must be a valid integer, not a string"]),
        ("[server]\nport = 80.0", ["2: server.port: must be a valid integer, not a float"]),
        ("[server]\nreplay = 1", ["2: server.replay: must be a valid boolean, not an integer"]),
        ("[server]\nhost = 1979-05-27", ["2: server.host: must be a valid string, not a date or time"]),
        ("[server]\nport = 65536", ["2: server.port: must be less than or equal to 65535"]),
        ("[server.port]\nx = 1", ["1: server.port: must be a valid integer, not a table"]),
        ("[upstream]\ndeadline = inf", ["2: upstream.deadline: must be a finite number"]),
        ("[upstream]\ndeadline = 0", ["2: upstream.deadline: must be greater than 0"]),
        ("upstream = {\n", ["1: toml: Invalid initial character for a key part"]),
        ("[a]\nb = 1\nb = 2\n", ["3: toml: Cannot overwrite a value"]),
        ("[a]\nb = 'x", ["2: toml: Expected \"'\""]),
        ("[log]\nlevel = 'loud'", ["2: log.level: must be 'debug', 'info', 'warning' or 'error'"]),
        ("server = 3", ["1: server: must be a table, as under [server]"]),
        ("\n[[teams]]\nrate = 1", ["2: teams: must be a table, as under [teams]"]),
        ("[teams]\nalpha = 3", ["2: teams.alpha: must be a table, as under [teams.alpha]"]),
        ("[server]\nprot = 1", ["2: server.prot: is not a known key; did you mean server.port"]),
        ("[server]\nprot.x = 1", ["2: server.prot: is not a known key; did you mean server.port"]),
        ("port = 1", ["1: port: is not a known key; did you mean server.port or ops.port"]),
        ("[upstream]\nurl = 1", ["2: upstream.url: is not a known key; did you mean cache.url"]),
        (
            "[upstream]\nfailures = 1",
            ["2: upstream.failures: is not a known key; did you mean upstream.breaker.failures"],
        ),
        ("[cache]\nlifetime.keep = 1", ["2: cache.lifetime: is not a known key; did you mean cache.lifetimes"]),
        ("\n[sever]\nport = 1", ["2: sever: is not a known key; did you mean server"]),
        ("[zzz]", ["1: zzz: is not a known key"]),
        ('"a b" = 1', ['1: "a b": is not a known key']),
        ("[teams.alpha]\nratee = 1", ["2: teams.alpha.ratee: is not a known key; did you mean teams.alpha.rate"]),
        ("[teams.alpha]\n\nrate = 0", ["3: teams.alpha.rate: must be greater than 0"]),
        (
            "[teams.alpha]\nscopes = [\n 'refresh',\n 'root',\n]",
            ["4: teams.alpha.scopes[1]: must be 'refresh' or 'admin'"],
        ),
        (
            "[server]\n\ntrusted_proxies = ['x']",
            ["3: server.trusted_proxies[0]: must be a network such as 10.0.0.0/8 or fd00::/8"],
        ),
        ("[server]\nport = 1\n\ntls_cert_file = 'g.toml'", ["1: server: tls_cert_file and tls_key_file go together"]),
        ("\n[ops]\nhost = '::1'", ["2: ops: ops.host needs ops.port"]),
        ("[upstream]\nca_file = 'no.pem'", [f"2: upstream.ca_file: {NOWHERE}: no.pem: No such file or directory"]),
        (
            "[server]\ntls_cert_file = 'g.toml'\ntls_key_file = 'no.pem'",
            ["3: server.tls_key_file: names a file that cannot be read: no.pem: No such file or directory"],
        ),
        ("\n\n[teams.'a b']", ['3: teams."a b": is not a team\'s name, which is 1 to 64 of A-Z a-z 0-9 _ -']),
        ("[teams.unknown]", ["1: teams.unknown: is a name that the metrics need for themselves; choose another"]),
        (
            f"[teams.a]\ntoken_sha256 = ['{DIGEST}']\n[teams.b]\ntoken_sha256 = ['{OTHER_DIGEST}', '{DIGEST.upper()}']",
            ["4: teams.b.token_sha256: holds a digest that teams.a holds too"],
        ),
        ("[ops]\nport = 8080", ["2: ops.port: is server.port, on the same host; choose another"]),
        (
            "[auth]\n\nmode = 'tokens'\n[teams.a]",
            ["3: auth.mode: lets nobody in: no team has a token; make one with `pixxel-gateway token new --team NAME`"],
        ),
        (
            "[ops]\nport = 1\n[server]\nhost = '0.0.0.0'",
            [f"4: server.host: {PUBLIC}"],
        ),
    ],
)  # fmt: skip
def test_a_fault_in_the_file_has_its_line(text: str, expected: list[str]) -> None:
    assert faults(text) == [f"g.toml:{line}" for line in expected]


def test_all_faults_at_once_in_the_order_of_the_file_then_the_rest() -> None:
    lines = faults(
        "[ops]\nport = 8080\n[server]\nworkers = 0\nnope = 1\n[upstream]\n# no key\n[teams.unknown]\n",
        key=False,
        environ={"GATEWAY_LOG__LEVEL": "loud", "GATEWAY_CACHE__CHUNKS": "1"},
        flags={"server.drain": -1},
    )
    assert [line.partition(": ")[0] for line in lines] == [
        "g.toml:2", "g.toml:4", "g.toml:5", "g.toml:6", "g.toml:8", "environment", "environment", "flags",
    ]  # fmt: skip
    assert lines[3] == "g.toml:6: upstream.api_key: is required; set GATEWAY_UPSTREAM__API_KEY or upstream.api_key_file"
    assert lines[7] == "flags: --drain: must be greater than or equal to 0"


def test_one_mistake_is_one_fault() -> None:
    # The port falls back to 8080 and the host to loopback; neither may be reported as if the operator had set it.
    assert len(faults("[server]\nport = 'x'\n[ops]\nport = 8080")) == 1
    assert len(faults("[server]\nhost = '0.0.0.0'\n[teams]\nalpha = 1")) == 1
    assert len(faults("[auth]\nmode = 'tokens'\n[teams.a]\ntoken_sha256 = ['short']")) == 1


def test_bytes_that_are_no_text() -> None:
    Path("g.toml").write_bytes(b"# fine\n\n# not \xff fine\n")
    with pytest.raises(ConfigurationError, match=r"^g.toml:3: toml: is not UTF-8 text$"):
        load(file="g.toml", environ=KEY)
    Path("g.toml").write_bytes(b"a = " + b"[" * 100_000)
    with pytest.raises(ConfigurationError, match=r"^g.toml:1: toml: is nested too deeply$"):
        load(file="g.toml", environ=KEY)
    Path("g.toml").write_bytes(b"\xef\xbb\xbf[server]\r\nport = 1\r\n")
    assert load(file="g.toml", environ=KEY).settings.server.port == 1


# Faults in the environment and the flags


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("GATEWAY_SERVER__PORT", "x", "server.port: must be a valid integer, unable to parse string as an integer"),
        ("GATEWAY_SERVER__PROT", "1", "is not a known variable; did you mean GATEWAY_SERVER__PORT"),
        ("GATEWAY_server__port", "1", "is not a known variable; did you mean GATEWAY_SERVER__PORT"),
        ("GATEWAY_UPSTREAM__APIKEY", "1", "is not a known variable; did you mean GATEWAY_UPSTREAM__API_KEY"),
        ("GATEWAY_UPSTREAM__BREAKER", "1", "is not a known variable; did you mean GATEWAY_UPSTREAM__BREAKER__FAILURES"),
        ("GATEWAY_TEAMS__ALPHA__RATEE", "1", "is not a known variable; did you mean GATEWAY_TEAMS__ALPHA__RATE"),
        ("GATEWAY_TEAMS__RATE", "1", "is not a known variable; did you mean GATEWAY_TEAMS__NAME__RATE"),
        ("GATEWAY_ZZZZZZZZZZZZZZZ__QQQQQQQQQQQQQQQ", "1", "is not a known variable"),
        ("GATEWAY_QUERY__FILTERS", '["a"', "query.filters: starts as a JSON list and is none"),
        ("GATEWAY_QUERY__FILTERS", "[1]", "query.filters: must be a valid string"),
        ("GATEWAY_CACHE__URL", "http://x", f"cache.url: {SCHEMES}"),
        ("GATEWAY_UPSTREAM__BASE_URL", "http://x:y", f"upstream.base_url: {NO_URL}"),
        ("GATEWAY_TEAMS__UNKNOWN__RATE", "1", f"teams.unknown.rate: {RESERVED}"),
        ("GATEWAY_SERVER__TLS_KEY_FILE", "g.toml", "server.tls_key_file: tls_cert_file and tls_key_file go together"),
        ("GATEWAY_OPS__PORT", "8080", "ops.port: is server.port, on the same host; choose another"),
    ],
)  # fmt: skip
def test_fault_in_the_environment_names_the_variable_and_the_setting(name: str, text: str, what: str) -> None:
    assert faults("[teams.alpha]", environ={name: text}) == [f"environment: {name}: {what}"]


def test_a_fault_between_sources_stands_where_the_winning_value_does() -> None:
    [line] = faults("[server]\nhost = '127.0.0.1'", environ={"GATEWAY_SERVER__HOST": "0.0.0.0"})
    assert line.startswith("environment: GATEWAY_SERVER__HOST: server.host: is not a loopback address")


def test_flags() -> None:
    assert faults(flags={"server.prt": 1}) == ["flags: server.prt: is not a known key; did you mean server.port"]
    assert faults(flags={"server.max_connections": 0}) == [
        "flags: --max-connections: must be greater than or equal to 1"
    ]


def test_without_a_file_the_place_is_the_defaults() -> None:
    with pytest.raises(ConfigurationError, match=r"^built-in defaults: upstream.api_key: is required; set GATEWAY_"):
        load(environ={})
    assert load(environ={}, need_key=False).settings.api_key is None


def test_names_that_are_not_ours_only_warn() -> None:
    names = ["GATEWAY_PORT", "GATEWAY_PORT_8080_TCP", "GATEWAY_SERVICE_HOST", "GATEWAY__X_SERVICE_PORT"]
    environ = {**dict.fromkeys(names, "tcp://10.0.0.1"), "GATEWAY_CONFIG": "g.toml", "PATH": "x", "OTHER__X": "1"}
    warnings = loaded(environ=environ).warnings
    assert warnings == [f"environment: {name}: is no setting of the gateway and is ignored" for name in sorted(names)]


# Warnings over several sections


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("[server]\nworkers = 2", ["g.toml:2: server.workers: is more than 1 while cache.url is memory://"]),
        ("[server]\nworkers = 2\n[cache]\nurl = 'redis://h'", []),
        ("[server]\nhost = '::'\n[auth]\nmode = 'open'", ["g.toml:1: ops.port: is unset: /metrics"]),
        ("[server]\nhost = '::'\n[ops]\nport = 1\n[auth]\nmode = 'open'", []),
        ("[auth]\nmode = 'open'\n[teams.a]", ["g.toml:2: auth.mode: is open, so that the configured teams'"]),
        ("[teams.a]", ["g.toml:1: teams: lets nobody in: no team has a token"]),
        (
            "[upstream]\ndeadline = 1\n",
            ["g.toml:1: upstream.connect_timeout: is longer than", "g.toml:1: upstream.attempt_timeout: is longer"],
        ),
        ("[upstream]\nattempt_timeout = 15\ndeadline = 15\n", []),
    ],
)  # fmt: skip
def test_warnings(text: str, expected: list[str]) -> None:
    warnings = loaded(text).warnings
    assert len(warnings) == len(expected)
    assert all(map(str.startswith, warnings, expected)), warnings


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("", "open"),
        (f"[teams.a]\ntoken_sha256 = ['{DIGEST}']", "tokens"),
        (f"[server]\nhost = '0.0.0.0'\n[teams.a]\ntoken_sha256 = ['{DIGEST}']", "tokens"),
        ("[server]\nhost = '0.0.0.0'\n[auth]\nmode = 'open'", "open"),
        ("[auth]\nmode = 'open'\n[teams.a]", "open"),
        (f"[auth]\nmode = 'tokens'\n[teams.a]\ntoken_sha256 = ['{DIGEST}']", "tokens"),
    ],
)
def test_auth_mode(text: str, mode: str) -> None:
    assert loaded(text).settings.auth_mode == mode


# Secrets


SECRETS = [
    ("upstream", "api_key", "api_key", "key-in-"),
    ("upstream", "previous_api_key", "previous_api_key", "key-in-"),
    ("cache", "url", "cache_url", "redis://:pass@"),
]


@pytest.mark.parametrize(("section", "name", "effective", "start"), SECRETS)
def test_a_secret_by_value_or_by_file_and_the_higher_source_replaces_both(
    section: str, name: str, effective: str, start: str
) -> None:
    for where in ("file", "environment"):
        Path(where).write_text(f"\n  {start}{where}\n", encoding="utf-8")
    by_value, by_file = f"[{section}]\n{name} = '{start}toml'", f"[{section}]\n{name}_file = 'file'"
    variable = f"GATEWAY_{section}__{name}".upper()
    for text, environ, expected in (
        (by_value, {}, "toml"),
        (by_file, {}, "file"),
        (by_value, {variable: f"{start}variable"}, "variable"),
        (by_file, {variable: f"{start}variable"}, "variable"),
        (by_value, {f"{variable}_FILE": "environment"}, "environment"),
        (by_file, {f"{variable}_FILE": "environment"}, "environment"),
        (by_file, {f"{variable}_FILE": "", variable: ""}, "file"),
    ):
        settings = loaded(text, environ=environ, key=False, need_key=False).settings
        assert getattr(settings, effective).get_secret_value() == start + expected
        options = getattr(settings, section)
        at_default = (None, Settings().cache.url)
        assert (getattr(options, name) in at_default) != (getattr(options, f"{name}_file") is None)
        assert start not in repr(settings)


@pytest.mark.parametrize(("section", "name", "effective", "start"), SECRETS)
def test_both_forms_in_one_source(section: str, name: str, effective: str, start: str) -> None:
    Path("file").write_text(start, encoding="utf-8")
    both = f"is given beside {name}; keep one of the two"
    text = f"[{section}]\n{name} = '{start}x'\n\n{name}_file = 'file'"
    assert faults(text, key=False, need_key=False) == [f"g.toml:4: {section}.{name}_file: {both}"]
    variable = f"GATEWAY_{section}__{name}".upper()
    environ = {variable: start, f"{variable}_FILE": "file"}
    assert faults(environ=environ, key=False, need_key=False) == [
        f"environment: {variable}_FILE: {section}.{name}_file: {both}"
    ]
    flags = {f"{section}.{name}": start, f"{section}.{name}_file": "file"}
    assert faults(flags=flags, key=False, need_key=False) == [f"flags: --{name.replace('_', '-')}-file: {both}"]


def test_files_that_hold_no_secret() -> None:
    Path("empty").write_text(" \n", encoding="utf-8")
    Path("lines").write_text("one\ntwo", encoding="utf-8")
    Path("http").write_text("http://user:planted@h", encoding="utf-8")
    text = "[upstream]\napi_key_file = '{}'"
    assert faults(text.format("empty"), key=False) == [
        "g.toml:2: upstream.api_key_file: names a file that is empty: (not shown, as it looks like no path)"
    ]
    assert loaded(text.format("empty"), key=False, need_key=False).settings.api_key is None
    [line] = faults(text.format("lines"), key=False)
    assert "names a file whose content is not valid: it must be printable ASCII on one line" in line
    assert faults(text.format("/no/such/file"), key=False) == [
        "g.toml:2: upstream.api_key_file: names a file that cannot be read: /no/such/file: No such file or directory"
    ]
    assert "cannot be read: : Is a directory" in faults(text.format(""), key=False)[0]
    assert "not shown" in faults(text.format("x" * 5000), key=False)[0]
    assert "key.txt: No such file" in faults(text.format("key.txt"), key=False)[0]
    [line] = faults("[cache]\nurl_file = 'http'")
    assert line.startswith("g.toml:2: cache.url_file: names a file whose content is not valid: it must start with")
    result = loaded("[cache]\nurl_file = 'empty'")
    assert result.settings.cache_url.get_secret_value() == "memory://"
    [line] = result.warnings
    assert line == "g.toml:2: cache.url_file: names an empty file, so that cache.url is its default, memory://"
    assert loaded("[upstream]\nprevious_api_key_file = 'empty'").settings.previous_api_key is None


def test_read_secret(tmp_path: Path) -> None:
    for data, expected in ((b"", None), (b" \r\n", None), (b" a b \r\n", "a b"), (b"\xef\xbb\xbfkey\n", "key")):
        (tmp_path / "s").write_bytes(data)
        assert read_secret("s") == expected
    for data in (b"\xff", b"x" * 65_537):
        (tmp_path / "s").write_bytes(data)
        with pytest.raises(OSError):
            read_secret("s")
    for path in ("missing", ".", "nul\0"):
        with pytest.raises(OSError):
            read_secret(path)


def test_secrets_are_in_no_message() -> None:
    planted = "PLANTED0secret"
    lines = faults(
        f"""
        [upstream]
        api_key = " {planted}"
        api_keys = "{planted}"
        previous_api_key_file = "{planted}"
        base_url = "https://u:{planted}@h"
        proxy = "https://{planted}:{planted}:"
        deadline = "{planted}"
        [cache]
        url = "{planted}://{planted}"
        [server]
        trusted_proxies = ["{planted}"]
        [teams.a]
        token_sha256 = ["{planted}", "{DIGEST}"]
        [teams.b]
        token_sha256 = ["{DIGEST}"]
        """,
        environ={
            "GATEWAY_UPSTREAM__API_KEY_FILE": f"{planted}",
            "GATEWAY_UPSTREAM__APIKEY": planted,
            "GATEWAY_CACHE__URL_FILE": planted,
            "GATEWAY_QUERY__FILTERS": f'["{planted}',
            "GATEWAY_SERVER__PORT": planted,
            "GATEWAY_TOKEN": planted,
        },
        key=False,
        flags={"server.workers": planted, "upstream.keys": planted},
    )
    assert len(lines) >= 13
    assert planted not in "\n".join(lines)
    assert DIGEST not in "\n".join(lines)
    for text in (f"[upstream]\napi_key = '{planted}", f"api_key = {planted}", f"[a]\nb = 1\nb = '{planted}'"):
        assert planted not in "\n".join(faults(text))


def test_settings_show_no_secret_and_compare_by_it() -> None:
    Path("key").write_text("PLANTED", encoding="utf-8")
    text = "[upstream]\napi_key_file = 'key'"
    one, same = loaded(text, key=False), loaded(text, key=False)
    assert one == same
    assert "PLANTED" not in repr(one) + str(one.settings.model_dump()) + one.settings.model_dump_json()
    Path("key").write_text("OTHER", encoding="utf-8")
    assert loaded(text, key=False) != one
