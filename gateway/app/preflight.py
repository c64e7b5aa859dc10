"""A last look at a configuration before it serves: what is right by itself, and cannot be used all the same."""

from __future__ import annotations

import ssl

from gateway.config.loading import ConfigurationError, Loaded, Settings
from gateway.config.sources import Fault
from gateway.http.tls import CertificateError, files_of, load_certificate
from gateway.upstream.tls import upstream_tls


def unusable(settings: Settings) -> list[str]:
    """What no look at a single value shows: certificates that cannot be loaded, a store's URL that makes no sense."""
    found = []
    if settings.uses_redis:
        # Only here, because importing its client takes long.
        from gateway.storage.redis.client import BadStoreUrl, connect  # noqa: PLC0415

        try:
            connect(settings.cache_url.get_secret_value(), settings.cache.redis_timeout)
        except BadStoreUrl as error:
            found.append(f"cache.url: {error}")
    if (files := files_of(settings.server)) is not None:
        try:
            load_certificate(files)
        except CertificateError as error:
            found.append(f"server.tls_cert_file: cannot be used with tls_key_file: {error}")
    try:
        if settings.upstream.ca_file is not None:
            upstream_tls(settings.upstream.ca_file)
    except (ssl.SSLError, OSError) as error:
        found.append(f"upstream.ca_file: cannot be used: {_reason(error)}")
    return found


def checked(loaded: Loaded) -> Loaded:
    """Return what was loaded. Raises ConfigurationError when `unusable` finds anything."""
    if found := unusable(loaded.settings):
        raise ConfigurationError(
            [Fault(loaded.source, path, what) for path, _, what in (fault.partition(": ") for fault in found)]
        )
    return loaded


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or "it is no such file"
