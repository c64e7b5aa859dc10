"""The TLS context of connections to the vendor."""

from __future__ import annotations

import ssl

from aiohttp import connector


def upstream_tls(ca_file: str | None, *, strict: bool = False) -> ssl.SSLContext:
    """Return a context that verifies certificates against `ca_file` (PEM), or against the system's authorities.

    It accepts what OpenSSL, and with it nginx and curl, accept by default. Python 3.13 by default also applies the
    rules of RFC 5280 that many private authorities break, for instance that their basicConstraints is critical; this
    function applies these with `strict` only, on every version of Python.

    Raises ssl.SSLError or OSError when the file cannot be used.
    """
    if ca_file is None and not strict:
        # Loading the system's authorities takes longer than everything else at startup, and importing aiohttp has
        # done it already. There is no public name for the result.
        context: ssl.SSLContext = connector._SSL_CONTEXT_VERIFIED  # noqa: SLF001
    else:
        context = ssl.create_default_context(cafile=ca_file)
    # A file with an intermediate authority alone is sufficient, as for curl, and by default since Python 3.13.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    else:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
