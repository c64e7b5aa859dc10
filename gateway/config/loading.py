"""The configuration as a whole: composed of the option classes, loaded from flags, environment, file and defaults.

Owns the order of loading and everything that reads a file. Refuses to serve: `pixxel-gateway check` runs the very
loader that serving runs. The environment is passed in, never read here; no message holds a value that may be secret.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import Field, PrivateAttr, SecretStr, ValidationError

from gateway.config.cross_checks import Finding, crosscheck
from gateway.config.names import Key, Keys
from gateway.config.options import (
    AuthOptions,
    CacheOptions,
    LogOptions,
    OpsOptions,
    QueryOptions,
    Section,
    ServerOptions,
    TeamOptions,
    UpstreamOptions,
)
from gateway.config.sources import Fault, Layer, defaults, merge, read_environment, read_flags, read_toml
from gateway.config.values import adapter, complaints, judge

FILE_VARIABLE = "GATEWAY_CONFIG"
DEFAULT_FILE = Path("config/gateway.toml")
NO_FILE = "built-in defaults"
LARGEST_SECRET = 65_536  # bytes; a device or a log file given by mistake must not fill the memory

_API_KEY, _API_KEY_FILE = ("upstream", "api_key"), ("upstream", "api_key_file")
_URL, _URL_FILE = ("cache", "url"), ("cache", "url_file")
_PREVIOUS, _PREVIOUS_FILE = ("upstream", "previous_api_key"), ("upstream", "previous_api_key_file")
_OTHER_FILES: tuple[Key, ...] = (("server", "tls_cert_file"), ("server", "tls_key_file"), ("upstream", "ca_file"))


class ConfigurationError(Exception):
    """The configuration cannot be used; `faults` are all that was found, in the order of the file, then the rest."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = sorted(faults, key=lambda fault: fault.rank)
        super().__init__("\n".join(map(str, self.faults)))


class Settings(Section):
    """Every section, with all defaults. Secrets that stand in files are read when loading, and come as properties."""

    server: ServerOptions = ServerOptions()
    """The client listener."""
    ops: OpsOptions = OpsOptions()
    """An own listener for health, metrics, status and purge."""
    upstream: UpstreamOptions = UpstreamOptions()
    """The vendor and how it is called."""
    cache: CacheOptions = CacheOptions()
    """Where pages are kept, and for how long."""
    query: QueryOptions = QueryOptions()
    """What a client may ask for."""
    auth: AuthOptions = AuthOptions()
    """Who is let in."""
    teams: dict[str, TeamOptions] = Field(default_factory=dict)
    """Teams of clients by name."""
    log: LogOptions = LogOptions()
    """What is written to standard output."""

    _contents: dict[Key, SecretStr] = PrivateAttr(default_factory=dict)

    def with_contents(self, contents: Mapping[Key, SecretStr]) -> Settings:
        """The same settings with the contents of the secrets' files, by the key that names the file."""
        whole = self.model_copy()
        whole._contents = dict(contents)  # noqa: SLF001 - a copy of our own, before anybody has it
        return whole

    @property
    def auth_mode(self) -> Literal["tokens", "open"]:
        """`auth.mode`, or what it is by case when unset; loading has refused the case in which it cannot be told."""
        return self.auth.mode or ("tokens" if self.teams else "open")

    @property
    def api_key(self) -> SecretStr | None:
        """The vendor's key, wherever it was given."""
        return self._contents.get(_API_KEY_FILE, self.upstream.api_key)

    @property
    def previous_api_key(self) -> SecretStr | None:
        """The key before, wherever it was given."""
        return self._contents.get(_PREVIOUS_FILE, self.upstream.previous_api_key)

    @property
    def uses_redis(self) -> bool:
        """Whether pages are kept in Redis too."""
        return not self.cache_url.get_secret_value().startswith("memory://")

    @property
    def cache_url(self) -> SecretStr:
        """The store's URL, wherever it was given; it may hold a password."""
        return self._contents.get(_URL_FILE, self.cache.url)


_KEYS = Keys(Settings)


@dataclass(frozen=True)
class Loaded:
    """A configuration without fault. `source` is the file's path, or says that there was none."""

    settings: Settings
    warnings: list[str] = field(default_factory=list)
    source: str = NO_FILE


def find_file(flag: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file to load: the flag's, else GATEWAY_CONFIG's, else config/gateway.toml if there is one, else None.

    ConfigurationError when a file is named and does not exist.
    """
    for name, where, called in (
        (flag, "flags", "--config"),
        (environ.get(FILE_VARIABLE), "environment", FILE_VARIABLE),
    ):
        if name:
            if not os.path.exists(name):  # noqa: PTH110 - Path.exists raises for a name that is too long
                raise ConfigurationError([Fault(where, called, f"names a file that does not exist: {name}")])
            return Path(name)
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def load(
    *,
    file: str | None = None,
    environ: Mapping[str, str],
    flags: Mapping[str, Any] | None = None,
    need_key: bool = True,
    use_file: bool = True,
) -> Loaded:
    """The settings in effect: flags over environment over file over defaults, key by key.

    `file` is what --config named; `flags` are values by dotted key, None for one not given; without `need_key` a
    missing vendor key is no fault, without `use_file` no file is read. ConfigurationError with every fault found.
    """
    path = find_file(file, environ) if use_file else None
    in_file = _read_file(path)
    if () in in_file.broken:  # nothing of the file is known, so that any further fault might be a wrong one
        raise ConfigurationError(in_file.faults)
    in_environment = read_environment(environ, _KEYS, in_file.entries, FILE_VARIABLE)
    whole = merge([in_file, in_environment, read_flags(flags or {}, _KEYS)], _KEYS)

    good = judge(whole, _KEYS)
    settings: Settings = _build(Settings, (), good, whole)
    settings = settings.with_contents(dict(_secret_files(settings, whole)))
    url = settings.cache_url.get_secret_value()
    for finding in (*_keys_needed(settings, need_key=need_key), *crosscheck(settings, url)):
        used = finding.uses or (finding.at,)
        if not any(broken[: len(key)] == key[: len(broken)] for key in used for broken in whole.broken if broken):
            (whole.faults if finding.fatal else whole.warnings).append(whole.place(finding.at).fault(finding.what))
    if whole.faults:
        raise ConfigurationError(whole.faults)
    return Loaded(settings, [str(warning) for warning in whole.warnings], NO_FILE if path is None else str(path))


def _read_file(path: Path | None) -> Layer:
    if path is None:
        return defaults(NO_FILE)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError([Fault(str(path), "toml", f"cannot be read: {_reason(error)}")]) from None
    return read_toml(data, str(path), _KEYS)


def _build(model: type[Any], above: Key, good: Mapping[Key, Any], whole: Layer) -> Any:
    """The section `above` of values that are good each by itself; as it would be when they are not good together."""
    values: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        key = (*above, name)
        if key in good:
            values[name] = good[key]
        elif _KEYS.is_entry((*key, "")):
            values[name] = {
                entry[-1]: _build(TeamOptions, entry, good, whole) for entry in whole.entries if entry[:-1] == key
            }
        elif _KEYS.is_section(key):
            values[name] = _build(info.annotation or Section, key, good, whole)
    try:
        return model(**values)
    except ValidationError as error:
        for inside, what in complaints(error, above):
            if not inside:  # else it was noted when that section was built
                whole.refuse(above, whole.place(above).fault(what))
        return model.model_construct(**values)


def _secret_files(settings: Settings, whole: Layer) -> Iterator[tuple[Key, SecretStr]]:
    """The contents of the files that hold secrets, checked like the secrets themselves; an empty file holds none."""
    for plain, key in _KEYS.secrets():
        path = getattr(getattr(settings, key[0]), key[-1])
        info = _KEYS.field(plain)
        if path is None or info is None:
            continue
        place = whole.place(key)
        try:
            content = read_secret(path)
            if content is not None:
                yield key, adapter(info).validate_python(content)
            elif key == _URL_FILE:
                what = f"names an empty file, so that cache.url is its default, {settings.cache.url.get_secret_value()}"
                whole.warnings.append(place.fault(what))
        except OSError as error:
            whole.refuse(key, place.fault(f"names a file that cannot be read: {_shown(path)}: {_reason(error)}"))
        except ValidationError as error:
            for _, what in complaints(error, plain):
                whole.refuse(key, place.fault(f"names a file whose content is not valid: it {what}"))
    for key in _OTHER_FILES:
        path = getattr(getattr(settings, key[0]), key[-1])
        if path is not None:
            try:
                with Path(path).open("rb"):
                    pass
            except (OSError, ValueError) as error:
                what = f"names a file that cannot be read: {path}: {_reason(error)}"
                whole.refuse(key, whole.place(key).fault(what))


def _keys_needed(settings: Settings, *, need_key: bool) -> Iterator[Finding]:
    if need_key and settings.api_key is None:
        if settings.upstream.api_key_file is None:
            what = "is required; set GATEWAY_UPSTREAM__API_KEY or upstream.api_key_file"
            yield Finding(_API_KEY, what, (_API_KEY, _API_KEY_FILE))
        else:
            yield Finding(_API_KEY_FILE, f"names a file that is empty: {_shown(settings.upstream.api_key_file)}")


def read_secret(path: str) -> str | None:
    """The secret in a file, without white space around it; None when there is nothing else. OSError says why not.

    A byte-order mark is dropped. Bytes that are not UTF-8, and more than 64 KiB, are no secret.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(LARGEST_SECRET + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "is not UTF-8 text", path) from None
    except ValueError:  # a name with a NUL in it
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path) from None
    if len(data) > LARGEST_SECRET:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return text.strip() or None


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or os.strerror(errno.EINVAL)


def _shown(path: str) -> str:
    """The path for a message, unless it may be the secret itself, put where the name of its file belongs."""
    top = next(iter(PurePath(path).parts), ".")
    known = PurePath(path).is_absolute() or path.startswith(".") or os.path.isdir(top)  # noqa: PTH112 - as above
    return path if known or re.fullmatch(r"[\w-]{1,32}\.[a-z]{1,6}", path) else "(not shown, as it looks like no path)"


def digest(settings: Settings) -> str:
    """SHA-256 (hex) over every setting in effect. Of secrets it tells that they are given, and not what they are."""
    return hashlib.sha256(json.dumps(settings.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
