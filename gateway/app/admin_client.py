"""Asks a running gateway, for the commands that do: whether it is alive, and to purge; tells `warm` where it is."""

from __future__ import annotations

import json
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from gateway.config.options import OpsOptions, ServerOptions
from gateway.core.hosts import reachable_host

_TIMEOUT = 2.0
_PURGE_TIMEOUT = 10.0


class GatewayUnreachable(Exception):
    """No gateway answered."""


class RequestRefused(Exception):
    """The gateway answered, but did not do it; the message is its own."""


def is_alive(server: ServerOptions, ops: OpsOptions) -> bool:
    """Whether `/healthz` answers 200, on the operations listener if there is one."""
    try:
        return _ask(_listener(server, ops, _TIMEOUT), "GET", "/healthz")[0] == 200
    except GatewayUnreachable:
        return False


def is_gateway(server: ServerOptions, ops: OpsOptions) -> bool:
    """Whether what answers there is a gateway, and not something else that says 200 to everything."""
    try:
        status, body = _ask(_listener(server, ops, _TIMEOUT), "GET", "/healthz")
        return status == 200 and json.loads(body) == {"status": "ok"}
    except (GatewayUnreachable, ValueError):
        return False


def purge(
    server: ServerOptions, ops: OpsOptions, url: str | None, token: str | None, *, aoi_id: str | None, soft: bool
) -> None:
    """Purge an AOI, or (None) everything, at `url` or else at the configured listener; `soft` ends freshness only.

    Raises NotReached or Refused.
    """
    connection = _listener(server, ops, _PURGE_TIMEOUT) if url is None else _at(url, _PURGE_TIMEOUT)
    order: dict[str, object] = {"all": True} if aoi_id is None else {"aoi_id": aoi_id}
    if soft:
        order["soft"] = True
    headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    status, body = _ask(connection, "POST", "/admin/purge", json.dumps(order), headers)
    if status != 200:
        raise RequestRefused(reason(status, body))


def client_listener(server: ServerOptions) -> str:
    """The URL at which this machine reaches the configured listener for clients."""
    scheme = "http" if server.tls_cert_file is None else "https"
    host = reachable_host(server.host)
    return f"{scheme}://[{host}]:{server.port}" if ":" in host else f"{scheme}://{host}:{server.port}"


def own_tls() -> ssl.SSLContext:
    """TLS to the configured listener: the certificate names the public host, and who is asked is on this machine."""
    return ssl._create_unverified_context()  # noqa: S323, SLF001


def _listener(server: ServerOptions, ops: OpsOptions, timeout: float) -> HTTPConnection:
    if ops.port is not None:
        return HTTPConnection(reachable_host(ops.host or "127.0.0.1"), ops.port, timeout=timeout)
    host = reachable_host(server.host)
    if server.tls_cert_file is None:
        return HTTPConnection(host, server.port, timeout=timeout)
    return HTTPSConnection(host, server.port, timeout=timeout, context=own_tls())


def _at(url: str, timeout: float) -> HTTPConnection:
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=timeout)


def _ask(
    connection: HTTPConnection, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, HTTPException) as error:
        where = f"{connection.host}:{connection.port}"
        raise GatewayUnreachable(f"no gateway answers at {where}: {type(error).__name__}") from None
    finally:
        connection.close()


def reason(status: int, body: bytes) -> str:
    """What an answer that is no success says."""
    try:
        error: Any = json.loads(body)["error"]
        return f"{status} {error['code']}: {error['message']}"
    except (ValueError, LookupError, TypeError):
        return f"{status}, and it does not look like this gateway"
