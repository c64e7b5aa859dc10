"""The TLS of the client listener."""

from __future__ import annotations

import ssl

from gateway.core.options import ServerOptions


def server_tls(server: ServerOptions) -> ssl.SSLContext | None:
    """The TLS of the client listener, if it has any. Raises ssl.SSLError or OSError when its files cannot be used."""
    if server.tls_cert_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.tls_cert_file, server.tls_key_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
