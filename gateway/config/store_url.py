"""The value of `cache.url`: which store, where it is, and how to log in to it.

The options in the query string are a closed list. A client library would accept any name and any value and fail later,
with every command. No error message quotes a part of the URL that may be a secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

REDIS_PORT = 6379
SENTINEL_PORT = 26379

SCHEMES = (
    "memory", "redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip

_CERTIFICATE_CHECKS = ("required", "optional", "none")
_BOOLEANS = {"true": True, "false": False}
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"})
_LOGIN = "write user and password before the host: {scheme}://USER:PASSWORD@HOST"
# Options of redis-py and of other clients that are not supported, with what to write instead.
_INSTEAD = {
    "decode_responses": "remove it: pages are stored as bytes",
    "encoding": "remove it: pages are stored as bytes",
    "encoding_errors": "remove it: pages are stored as bytes",
    "health_check_interval": "remove it: idle connections are checked before each use",
    "host": "write the host after {scheme}://",
    "legacy_responses": "remove it",
    "max_connections": "remove it: the number of connections is fixed",
    "password": _LOGIN,
    "path": "remove it: Unix sockets are not supported",
    "port": "write the port after the host: HOST:PORT",
    "protocol": "remove it: RESP2 is used, which every version of Redis speaks",
    "retry_on_timeout": "remove it: a command that timed out is not sent again",
    "service_name": "write the service after the hosts: redis+sentinel://HOST/SERVICE",
    "socket_connect_timeout": "set cache.redis_timeout",
    "socket_timeout": "set cache.redis_timeout",
    "timeout": "set cache.redis_timeout",
    "username": _LOGIN,
}


class Login(NamedTuple):
    """A user and a password; both are empty where none is configured."""

    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return "Login(***)"


_NO_LOGIN = Login()


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A parsed `cache.url`. `tls_options` are file names and checks, named as in redis-py."""

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    database: int = 0
    login: Login = _NO_LOGIN
    sentinel_login: Login | None = None
    """Login of the Sentinels where it is not that of the server."""
    client_name: str = ""
    tls_options: Mapping[str, str | bool] = field(default_factory=dict)

    @property
    def tls(self) -> bool:
        """Whether connections use TLS: to the server, to each node, and to the Sentinels."""
        return self.scheme.startswith("rediss")

    @property
    def sentinel(self) -> bool:
        """Whether Sentinels name the server."""
        return self.scheme.endswith("+sentinel")

    @property
    def cluster(self) -> bool:
        """Whether the store is a Redis Cluster."""
        return self.scheme.endswith("+cluster")

    def without_logins(self) -> StoreUrl:
        """Return the URL without users and passwords: two URLs that are equal then name the same store."""
        return replace(self, login=_NO_LOGIN, sentinel_login=None)


def parse(url: str) -> StoreUrl:
    """Parse a `cache.url`. Raises ValueError, with a message that quotes no secret."""
    scheme, found, rest = url.partition("://")
    if not found or scheme not in SCHEMES:
        raise ValueError("must start with " + ", ".join(f"{name}://" for name in SCHEMES))
    if scheme == "memory":
        if rest:
            raise ValueError("must be memory:// and nothing more")
        return StoreUrl(scheme)
    if not re.fullmatch("[!-~]+", url):
        raise ValueError("must be printable ASCII without spaces; write other characters percent-encoded")
    if "#" in rest:
        raise ValueError("has a fragment (#); write a # in a password as %23")
    parts = urlsplit(url)
    if "@" in parts.path + parts.query:
        raise ValueError("has a / or ? in a user or password; write them as %2F and %3F")
    base = StoreUrl(scheme, _hosts(parts), login=_login(parts.netloc))
    options = _options(parts.query, base)
    service, database = _path(parts.path, options.get("db"), base)
    sentinel_login = None
    if _SENTINEL_OPTIONS & options.keys():
        sentinel_login = Login(options.get("sentinel_username", ""), options.get("sentinel_password", ""))
    return replace(
        base,
        service=service,
        database=database,
        sentinel_login=sentinel_login,
        client_name=options.get("client_name", ""),
        tls_options=_tls_options({name: value for name, value in options.items() if name in _TLS_OPTIONS}),
    )


def _hosts(parts: SplitResult) -> tuple[tuple[str, int], ...]:
    single = parts.scheme in ("redis", "rediss")
    default = SENTINEL_PORT if parts.scheme.endswith("+sentinel") else REDIS_PORT
    hosts = []
    for piece in parts.netloc.rpartition("@")[2].split(","):
        try:
            place = urlsplit(f"//{piece}")
            host, port = place.hostname, place.port
        except ValueError:
            raise ValueError("has a host or a port that is not valid") from None
        if not host and not single:
            raise ValueError("needs a host in each place between commas")
        if port == 0:
            raise ValueError("must not name port 0")
        hosts.append((unquote(host or "localhost"), default if port is None else port))
    if single and len(hosts) > 1:
        raise ValueError("names several hosts: use redis+sentinel:// or redis+cluster://")
    return tuple(hosts)


def _login(netloc: str) -> Login:
    user, colon, password = netloc.rpartition("@")[0].partition(":")
    if user and not colon:
        raise ValueError("has no colon between user and password; write a password alone as :PASSWORD@HOST")
    return Login(unquote(user), unquote(password))


def _options(query: str, url: StoreUrl) -> dict[str, str]:
    allowed = {"client_name", "db"} | _TLS_OPTIONS | (_SENTINEL_OPTIONS if url.sentinel else frozenset())
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in allowed:
            raise ValueError(_refusal(name, allowed, url))
        if name in options:
            raise ValueError(f"has the option {name} twice")
        if not value:
            raise ValueError(f"has the option {name} without a value")
        if name in _TLS_OPTIONS and not url.tls:
            raise ValueError(f"has the option {name} without TLS; use {_tls_scheme(url)}://")
        options[name] = value
    if not re.fullmatch("[!-~]*", options.get("client_name", "")):
        raise ValueError("needs a client_name of printable ASCII without spaces")
    return options


def _refusal(name: str, allowed: Iterable[str], url: StoreUrl) -> str:
    known = sorted(allowed)
    shown = name if re.fullmatch("[A-Za-z_]{1,40}", name) else "(not shown)"
    refusal = f"has an option that is not supported: {shown}; "
    if name in ("ssl", "tls"):
        return refusal + ("remove it" if url.tls else f"use {_tls_scheme(url)}://")
    if name in _SENTINEL_OPTIONS:
        return refusal + "it belongs to redis+sentinel://"
    if name in _INSTEAD:
        return refusal + _INSTEAD[name].format(scheme=url.scheme)
    if close := difflib.get_close_matches(name, known, 1):
        return refusal + f"did you mean {close[0]}?"
    if close := difflib.get_close_matches(name, _INSTEAD, 1):
        return refusal + _INSTEAD[close[0]].format(scheme=url.scheme)
    return refusal + "supported are " + ", ".join(known)


def _tls_scheme(url: StoreUrl) -> str:
    return url.scheme if url.tls else url.scheme.replace("redis", "rediss", 1)


def _path(path: str, database: str | None, url: StoreUrl) -> tuple[str, int]:
    """Return the service and the database, which may also be an option."""
    pieces = [unquote(piece) for piece in path.strip("/").split("/") if piece]
    service = ""
    if url.sentinel:
        if not pieces:
            raise ValueError(f"needs a service after its hosts: {url.scheme}://HOST/SERVICE")
        service = pieces.pop(0)
    if len(pieces) > 1:
        raise ValueError("has more than a database after its hosts")
    if pieces and database is not None:
        raise ValueError("names a database twice: after the hosts, and as ?db")
    named = pieces[0] if pieces else database
    if url.cluster and named is not None:
        raise ValueError("must not name a database: a Redis Cluster has only one")
    if named is not None and not re.fullmatch("[0-9]{1,5}", named):
        raise ValueError("has a database that is not a number")
    return service, int(named or 0)


def _tls_options(options: Mapping[str, str]) -> dict[str, str | bool]:
    checked: dict[str, str | bool] = dict(options)
    if options.get("ssl_cert_reqs", "required") not in _CERTIFICATE_CHECKS:
        raise ValueError("needs an ssl_cert_reqs of " + ", ".join(_CERTIFICATE_CHECKS))
    if "ssl_check_hostname" in options:
        if options["ssl_check_hostname"].lower() not in _BOOLEANS:
            raise ValueError("needs an ssl_check_hostname of true or false")
        checked["ssl_check_hostname"] = _BOOLEANS[options["ssl_check_hostname"].lower()]
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("has an ssl_keyfile without an ssl_certfile")
    return checked
