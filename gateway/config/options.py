"""The options: one frozen class per section of the configuration file.

Names, types, bounds, defaults and descriptions of all settings. `loading` reads them, and every module receives only
its section. Durations are seconds, sizes bytes. The JSON Schema and the table in the README are generated from the
fields.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from gateway.config import option_checks as checks

Seconds = Annotated[float, Field(ge=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Share = Annotated[float, Field(ge=0, le=1)]

TEAM_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
RESERVED_TEAM_NAMES = frozenset({"anonymous", "unknown"})


class Section(BaseModel):
    """A section of the configuration: frozen, and an unknown key is a fault."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, use_attribute_docstrings=True
    )


ApiKey = Annotated[SecretStr, AfterValidator(checks.header_safe)]


class ServerOptions(Section):
    """The client listener."""

    host: str = "127.0.0.1"
    """Address of the client listener."""
    port: Port = 8080
    """Port of the client listener; 0 takes a free one."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes sharing one listening socket."""
    drain: Seconds = 1.0
    """Time between turning unready and closing the listeners."""
    max_connections: Annotated[int, Field(ge=1)] = 10_000
    """Client connections at once; kept below the file-descriptor limit."""
    replay: bool = True
    """The short cuts for requests, and header lines, known by their bytes; false to look for faults without."""
    tls_cert_file: str | None = None
    """Certificate chain (PEM) of the client listener."""
    tls_key_file: str | None = None
    """Private key (PEM) of the client listener."""
    trusted_proxies: list[Annotated[str, AfterValidator(checks.network)]] = []
    """Networks whose X-Forwarded-For names the client in the log, and nowhere else."""
    cors_origins: list[Annotated[str, AfterValidator(checks.origin)]] = []
    """Origins of browser apps; preflight is answered for these only."""

    @model_validator(mode="after")
    def _both_tls_files(self) -> ServerOptions:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file go together")
        return self


class OpsOptions(Section):
    """An own listener for health, metrics, status and purge."""

    host: str | None = None
    """Address of the operations listener; 127.0.0.1 when only its port is given."""
    port: Port | None = None
    """Port of the operations listener; unset: everything is on the client listener."""

    @model_validator(mode="after")
    def _host_needs_port(self) -> OpsOptions:
        if self.host is not None and self.port is None:
            raise ValueError("ops.host needs ops.port")
        return self


class BreakerOptions(Section):
    """The vendor's circuit breaker."""

    failures: Annotated[int, Field(ge=1)] = 5
    """Consecutive failures that open it."""
    cooldown: PositiveSeconds = 5
    """Time to the single probe."""


class UpstreamOptions(Section):
    """The vendor and how it is called."""

    base_url: Annotated[str, AfterValidator(checks.base_url)] = "https://api.pixxel.space"
    """The vendor."""
    account: Annotated[str, AfterValidator(checks.account)] = "default"
    """Name of the vendor account; part of every cache key, as is base_url."""
    api_key: ApiKey | None = None
    """The shared key; better given as api_key_file."""
    api_key_file: str | None = None
    """File that holds the shared key; re-read when its content changes."""
    previous_api_key: ApiKey | None = None
    """Tried once when the vendor refuses the current key."""
    previous_api_key_file: str | None = None
    """File that holds the previous key."""
    auth_scheme: Literal["raw", "bearer"] = "raw"
    """How the key is sent: `Authorization: <key>` or `Authorization: Bearer <key>`."""
    cache_control: Literal["respect", "ignore"] = "respect"
    """What becomes of the vendor's caching headers."""
    ca_file: str | None = None
    """Certificate authorities (PEM) that the vendor's certificate is checked against, instead of the system's."""
    proxy: Annotated[SecretStr, AfterValidator(checks.proxy_url)] | None = None
    """HTTP proxy on the way to the vendor; its URL may hold a password."""
    connect_timeout: PositiveSeconds = 2
    """One connect."""
    attempt_timeout: PositiveSeconds = 10
    """One attempt."""
    deadline: PositiveSeconds = 15
    """One client request's upstream time in all."""
    patience: Seconds = 2
    """Longest wait for the vendor when there is an old page to fall back on; the fetch goes on."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 2
    """Attempts for one fetch, the first one counted in."""
    retry_ratio: Share = 0.1
    """Retries are at most this share of calls, plus 10 to start with."""
    max_concurrency: Annotated[int, Field(ge=1)] = 64
    """Calls in flight, per instance."""
    max_queue: Annotated[int, Field(ge=0)] = 256
    """Calls waiting for a place, per instance; beyond: 503 `overloaded`."""
    keepalive_connections: Annotated[int, Field(ge=0)] = 64
    """Idle connections kept for further calls, per instance; 0: a new connection for each call."""
    keepalive_timeout: Seconds = 15
    """How long an idle connection is kept; 0: a new connection for each call."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8_388_608
    """Largest vendor body, decoded."""
    breaker: BreakerOptions = BreakerOptions()
    """The vendor's circuit breaker."""


class Lifetimes(Section):
    """How long an answer may be used."""

    settled: Seconds = 300
    """Every asset on the page is terminal (`success` or `failed`)."""
    in_progress: Seconds = 10
    """Any asset is not terminal."""
    empty: Seconds = 30
    """Empty page, or past the end."""
    not_found: Seconds = 30
    """Vendor 404."""
    grace: Seconds = 60
    """After expiry, but never longer than the page was fresh: served at once, refreshed in the background."""
    keep: Seconds = 86_400
    """After expiry: served if the vendor fails."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Lifetimes are shortened by up to this share."""
    url_margin: Seconds = 60
    """A page is never served past its earliest signed-URL expiry less this margin."""


class CacheOptions(Section):
    """Where pages are kept, and for how long."""

    url: Annotated[SecretStr, AfterValidator(checks.store_url)] = SecretStr("memory://")
    """`memory://`, `redis://`, `rediss://`, `redis+sentinel://h1,h2/service/db`, `redis+cluster://h1,h2`."""
    url_file: str | None = None
    """File that holds cache.url; a new password in it is used from the next connection on."""
    memory_max_bytes: Annotated[int, Field(ge=65_536)] = 268_435_456
    """In-process tier."""
    memory_max_age: Seconds = 5
    """Longest an in-process copy lives once word from Redis has stopped while Redis may still be there."""
    redis_timeout: PositiveSeconds = 0.05
    """One command."""
    key_prefix: Annotated[str, AfterValidator(checks.key_prefix)] = "pixxel-gateway"
    """Start of every Redis key."""
    prefetch: Annotated[int, Field(ge=0, le=10)] = 1
    """Pages fetched ahead of a client that crawls; 0: none."""
    chunk: Annotated[int, Field(ge=0, le=10_000)] = 0
    """If set, the vendor is asked for aligned stretches of this many assets plus one."""
    lifetimes: Lifetimes = Lifetimes()
    """How long an answer may be used."""


class QueryOptions(Section):
    """What a client may ask for."""

    filters: list[Annotated[str, AfterValidator(checks.filter_name)]] = []
    """Names of further query parameters that pass to the vendor."""
    max_limit: Annotated[int, Field(ge=1, le=999_999_999)] = 1000
    """Largest `limit`."""


class AuthOptions(Section):
    """Who is let in."""

    mode: Literal["tokens", "open"] | None = None
    """`tokens` or `open`; unset: tokens if any team is configured, else open on a loopback host only."""


class TeamOptions(Section):
    """One team of clients."""

    token_sha256: list[Annotated[str, AfterValidator(checks.sha256)]] = []
    """Hex SHA-256 digests of the team's tokens; several overlap while rotating."""
    rate: PositiveSeconds | None = None
    """Requests per second."""
    burst: Annotated[int, Field(ge=1)] | None = None
    """Requests at once; unset: rate, rounded up."""
    miss_rate: PositiveSeconds | None = None
    """Requests per second that reach the vendor."""
    miss_burst: Annotated[int, Field(ge=1)] | None = None
    """Vendor requests at once; unset: miss_rate, rounded up."""
    aois: list[Annotated[str, AfterValidator(checks.aoi_pattern)]] = ["*"]
    """AOI ids it may read; * is the only wildcard."""
    scopes: list[Literal["refresh", "admin"]] = []
    """`refresh` (may send Cache-Control: no-cache), `admin`."""


class LogOptions(Section):
    """What is written to standard output."""

    format: Literal["auto", "text", "json"] = "auto"
    """auto: text on a terminal, JSON lines otherwise."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written."""
    access: bool = True
    """One line per request."""
