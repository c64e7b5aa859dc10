"""Another configuration while the gateway runs: what it changes at once, and what it cannot.

All or nothing: a configuration that cannot be used changes nothing. Teams, their budgets, lifetimes, vendor keys,
the certificate of the listener and the login to Redis are taken over without a connection being dropped; everything
else was built into sockets, stores and clients at the start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from gateway.cache.fetcher import Fetcher
from gateway.config.loading import ConfigurationError, Loaded, Settings, digest, read_secret
from gateway.core.clock import Clock
from gateway.core.events import Emit, KeyLoaded, Reloaded
from gateway.http.auth import Authenticator
from gateway.http.fast_path.response_cache import ResponseCache
from gateway.http.tls import Certificate, CertificateError, ListenerTls, files_of, load_certificate
from gateway.teams.budgets import Budgets
from gateway.teams.roster import Roster
from gateway.telemetry.status.snapshot import Configuration, Reload
from gateway.upstream.key_files import follow, renew
from gateway.upstream.keys import KeyRing, Slot

# What a reload takes over; of anything else that has changed it says that a restart is needed.
_AT_ONCE = ("teams.", "cache.lifetimes.", "upstream.api_key", "upstream.previous_api_key", "server.tls_")
# As much of what is wrong with a configuration as is told later; the log has all of it.
_LONGEST_REASON = 2000

_log = logging.getLogger("gateway")


class Reloads:
    """Takes configurations over for the parts of one gateway, `settings` from `source` being what it was built from."""

    def __init__(
        self,
        settings: Settings,
        source: str,
        *,
        authenticators: Sequence[Authenticator],
        response_cache: ResponseCache,
        budgets: Budgets,
        fetcher: Fetcher,
        keys: KeyRing,
        tls: ListenerTls | None,
        adopt_url: Callable[[str], bool] | None,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._settings = settings
        self._authenticators = authenticators
        self._response_cache = response_cache
        self._budgets = budgets
        self._errands = fetcher
        self._keys = keys
        self._tls = tls
        self._adopt_url = adopt_url
        self._clock = clock
        self._emit = emit
        self._following: list[asyncio.Task[None]] = []
        self._configuration = Configuration(source, clock.now(), digest(settings))

    @property
    def configuration(self) -> Configuration:
        """Which configuration is live."""
        return self._configuration

    def follow_files(self) -> None:
        """Follow the key files and the certificate of the configuration, and no others."""
        for task in self._following:
            task.cancel()
        self._following = [asyncio.create_task(self._follow(path, slot)) for slot, path in self._key_files()]
        if self._tls is not None:
            self._following.append(asyncio.create_task(self._tls.follow(self._clock)))

    def renew_files(self) -> None:
        """Read the key files and the certificate now: it may be long since the configuration was."""
        for slot, path in self._key_files():
            renew(path, slot, self._keys, read=read_secret)
        if self._tls is not None:
            self._tls.renew()

    def _key_files(self) -> Iterator[tuple[Slot, str]]:
        options = self._settings.upstream
        files: dict[Slot, str | None] = {"current": options.api_key_file, "previous": options.previous_api_key_file}
        return ((slot, path) for slot, path in files.items() if path is not None)

    async def close(self) -> None:
        """Follow no file any more."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)

    def reload(self, load: Callable[[], Loaded]) -> None:
        """Take over what `load` returns. A configuration or a certificate that cannot be used changes nothing."""
        try:
            loaded = load()
            certificate = load_certificate_for(loaded.settings, self._tls)
        except ConfigurationError as error:
            self._refused(str(error))
            return
        except CertificateError as error:
            self._refused(f"server.tls_cert_file: cannot be used with tls_key_file: {error}")
            return
        if loaded.settings.auth_mode != self._settings.auth_mode:
            self._refused("auth.mode is fixed at start: whether tokens are asked for takes a restart")
            return
        if certificate is not None and self._tls is not None:
            self._tls.adopt(certificate)
        self.take_over(loaded)

    def take_over(self, loaded: Loaded) -> None:
        """Take over a configuration that was found usable, but for the certificate."""
        settings = loaded.settings
        later = sorted([*_differences(self._settings, settings), *self._adopt_store_login(settings)])
        self._settings = settings
        self._take_over(settings)
        now = self._clock.now()
        self._configuration = Configuration(loaded.source, now, digest(settings), Reload(now, successful=True))
        self._emit(Reloaded(fine=True))
        _log.info("the configuration was reloaded")
        if later:
            _log.warning("some settings that have changed take a restart", extra={"settings": ", ".join(later)})

    def _adopt_store_login(self, settings: Settings) -> Iterator[str]:
        """Use the user and password of the store's URL; the setting that holds the URL if it names another store."""
        file = settings.cache.url_file is not None
        if file and settings.cache_url == settings.cache.url:
            return  # a file that is empty says nothing
        try:
            same = not settings.uses_redis
            if self._adopt_url is not None:
                self._adopt_url(settings.cache_url.get_secret_value())
                same = True
        except ValueError:
            same = False
        if not same:
            yield "cache.url_file" if file else "cache.url"

    def _refused(self, why: str) -> None:
        told = self._keys.redact(why.encode()).decode(errors="replace")[:_LONGEST_REASON]
        outcome = Reload(self._clock.now(), successful=False, why=told)
        self._configuration = replace(self._configuration, last_reload=outcome)
        self._emit(Reloaded(fine=False))
        _log.error("the configuration was not reloaded; the old one stays", extra={"why": why})

    def _take_over(self, settings: Settings) -> None:
        """Nothing is awaited in between, so that no request sees one half of it."""
        roster = None if settings.auth_mode == "open" else Roster(settings.teams)
        for authenticator in self._authenticators:
            authenticator.adopt(roster)
        self._budgets.adopt(settings.teams)
        self._response_cache.forget()
        self._errands.lifetimes = settings.cache.lifetimes
        current, previous = settings.api_key, settings.previous_api_key
        if current is not None and self._keys.replace("current", current.get_secret_value()):
            self._emit(KeyLoaded(self._clock.now()))
        if previous is not None:
            self._keys.replace("previous", previous.get_secret_value())
        elif settings.upstream.previous_api_key_file is None:  # a file that is empty says nothing
            self._keys.forget_previous()
        self.follow_files()

    def _follow(self, path: str, slot: Slot) -> Coroutine[Any, Any, None]:
        return follow(path, slot, self._keys, read=read_secret, clock=self._clock, emit=self._emit)


def load_certificate_for(settings: Settings, tls: ListenerTls | None) -> Certificate | None:
    """Load the certificate that a reload adopts; None where TLS is off now or then, which only a restart changes.

    Raises CertificateError when it cannot be used.
    """
    files = files_of(settings.server)
    return None if tls is None or files is None else load_certificate(files)


def _differences(old: Settings, new: Settings) -> Iterator[str]:
    """The paths of settings that differ, but for those that a reload takes over."""
    before, after = dict(_leaves(old.model_dump())), dict(_leaves(new.model_dump()))
    for path in before.keys() | after.keys():
        if before.get(path) != after.get(path) and not path.startswith(_AT_ONCE) and path != "cache.url":
            yield path
    if (files_of(old.server) is None) != (files_of(new.server) is None):
        yield "server.tls_cert_file"


def _leaves(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
