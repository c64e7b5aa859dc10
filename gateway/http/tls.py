"""TLS of the client listener: a certificate that is renewed while the gateway runs.

The listener keeps one context for as long as it lives. At each handshake that context hands over to the one with the
newest certificate; connections that exist keep theirs. The files are compared by content, not by date: a Kubernetes
Secret changes when a symbolic link is replaced, and a copy may keep its date. An expired certificate is served, as
nginx does.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from pathlib import Path
from typing import NamedTuple

from gateway.config.options import ServerOptions
from gateway.core.clock import Clock

_LOOK_SECONDS = 1.0

_log = logging.getLogger("gateway")


class CertificateError(Exception):
    """The certificate and its key cannot be used; the message is the reason."""


class Files(NamedTuple):
    """The paths of a certificate chain and its private key (PEM)."""

    cert: str
    key: str | None


class Certificate(NamedTuple):
    """A certificate and its key, loaded; `content` is a digest of the files' content."""

    files: Files
    content: bytes
    context: ssl.SSLContext


class _Trouble(NamedTuple):
    """Why files with this content (empty: unreadable) cannot be used."""

    content: bytes
    why: str


def files_of(server: ServerOptions) -> Files | None:
    """Return the files that the settings name, or None without TLS."""
    return None if server.tls_cert_file is None else Files(server.tls_cert_file, server.tls_key_file)


def load_certificate(files: Files) -> Certificate:
    """Load a certificate and its key. Raises CertificateError when they cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Before they are loaded: content that changes in between differs at the next look, and is loaded then.
        content = _content(files)
        context.load_cert_chain(files.cert, files.key, password=_refuse_to_prompt)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; ValueError: a NUL in the path
        raise CertificateError(_reason(error)) from None
    context.set_alpn_protocols(["http/1.1"])
    return Certificate(files, content, context)


class ListenerTls:
    """The certificate that new connections of a listener get.

    `context` is for the listener and never changes. Raises CertificateError when the files cannot be used.
    """

    def __init__(self, files: Files) -> None:
        self._current = load_certificate(files)
        self._trouble: _Trouble | None = None
        self.context = self._current.context
        # OpenSSL calls it for every ClientHello, also for one that names no server.
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current.context

    def adopt(self, certificate: Certificate) -> None:
        """Give this certificate to connections that begin from now on."""
        if certificate.content != self._current.content:
            _log.info("the certificate of the listener was renewed", extra={"file": certificate.files.cert})
        self._trouble = None
        self._current = certificate

    def renew(self) -> None:
        """Adopt what the files contain, if that has changed; what cannot be used changes nothing and is logged once."""
        self._conclude(_look(self._current, self._trouble))

    async def follow(self, clock: Clock) -> None:
        """Call `renew` once a second, until cancelled. The files are read in a thread: a network disk may be slow."""
        while True:
            await clock.sleep(_LOOK_SECONDS)
            current = self._current
            found = await asyncio.to_thread(_look, current, self._trouble)
            if self._current is current:  # else a reload has adopted another one meanwhile
                self._conclude(found)

    def _conclude(self, found: Certificate | _Trouble) -> None:
        if isinstance(found, Certificate):
            self.adopt(found)
        elif found != self._trouble:
            self._trouble = found
            _log.warning(
                "the certificate of the listener cannot be used; the previous one remains in use",
                extra={"file": self._current.files.cert, "why": found.why},
            )


def listener_tls(server: ServerOptions) -> ListenerTls | None:
    """Load the certificate that the settings name; None without TLS. Raises CertificateError."""
    files = files_of(server)
    return None if files is None else ListenerTls(files)


def _look(current: Certificate, trouble: _Trouble | None) -> Certificate | _Trouble:
    """Read the files of a certificate again; `trouble` is what the last attempt has met."""
    content = b""
    try:
        content = _content(current.files)
        if content == current.content:
            return current
        if trouble is not None and trouble.content == content:
            return trouble
        return load_certificate(current.files)
    except OSError as error:
        return _Trouble(content, _reason(error))
    except CertificateError as error:
        return _Trouble(content, str(error))


def _content(files: Files) -> bytes:
    digest = hashlib.sha256()
    for path in files:
        if path is not None:
            digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.digest()


def _refuse_to_prompt() -> str:
    # OpenSSL would ask for the passphrase on the terminal, and wait for it.
    raise ValueError("the private key is encrypted; store it without a passphrase")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the private key does not belong to the certificate"
        return error.reason or "no certificate and private key in PEM format"
    return (error.strerror if isinstance(error, OSError) else str(error)) or "it cannot be read"
