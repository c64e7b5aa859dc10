"""Asks the local gateway whether it is alive, for container health checks."""

from __future__ import annotations

import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from gateway.core.options import OpsOptions, ServerOptions

_TIMEOUT = 2.0


def is_alive(server: ServerOptions, ops: OpsOptions) -> bool:
    """Whether `/healthz` answers 200, on the operations listener if there is one."""
    own = ops.port is not None
    host = reachable_host((ops.host or "127.0.0.1") if own else server.host)
    port = ops.port if ops.port is not None else server.port
    connection: HTTPConnection
    if server.tls_cert_file is not None and not own:
        # The certificate names the public host, not this one; what is asked here is only whether the process lives.
        context = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection = HTTPSConnection(host, port, timeout=_TIMEOUT, context=context)
    else:
        connection = HTTPConnection(host, port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def reachable_host(host: str) -> str:
    """A host to connect to where one is listened on: every host is reached by loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
