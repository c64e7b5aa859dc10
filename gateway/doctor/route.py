"""The way to the vendor: name, connection, TLS; through the proxy if there is one.

The limits are those of the gateway, so that what is too slow for it is too slow here.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from gateway.config.options import UpstreamOptions
from gateway.core.clock import Clock
from gateway.core.hosts import is_loopback
from gateway.doctor.network import ConnectError, Connection, Endpoint, check_names, connect, tls_trouble, why
from gateway.doctor.report import CheckReport
from gateway.upstream.tls import upstream_tls

# Whatever `upstream.connect_timeout` says, nobody waits longer for a diagnosis.
_LONGEST = 5.0
_DAY = 86_400.0
_DAYS_LEFT = 14
TLS = "vendor TLS"


class _ProxyRefusedError(Exception):
    """The proxy made no tunnel; the message says with which status."""


async def check_route(report: CheckReport, options: UpstreamOptions, clock: Clock) -> bool:
    """Go the way that every call goes, up to the point where the key would be sent; whether that worked."""
    proxy = None if options.proxy is None else urlsplit(options.proxy.get_secret_value())
    vendor = urlsplit(options.base_url)
    first, whose = (vendor, "vendor") if proxy is None else (proxy, "proxy")
    setting = "upstream.base_url" if proxy is None else "upstream.proxy"
    place = _place(first)
    if not await check_names(report, f"{whose} DNS", [place.host], setting):
        return False
    connection = await _connected(report, f"{whose} connect", place, options, through_proxy=proxy is not None)
    if connection is None:
        return False
    try:
        return await _secured(report, connection, proxy, options, clock)
    finally:
        await connection.close()


async def _connected(
    report: CheckReport, name: str, place: Endpoint, options: UpstreamOptions, *, through_proxy: bool
) -> Connection | None:
    setting = "upstream.proxy" if through_proxy else "upstream.base_url"
    limit = min(options.connect_timeout, _LONGEST)
    tls: dict[str, Any] = {}
    if through_proxy and options.proxy is not None and options.proxy.get_secret_value().startswith("https:"):
        tls = {"ssl": upstream_tls(options.ca_file), "server_hostname": place.host}
    try:
        connection = await connect(place, limit, **tls)
    except ssl.SSLError as error:
        told = tls_trouble(error, place.host, authority="upstream.ca_file", address=setting)
        report.fail(name, f"{place}: {told.found}", told.hint)
        return None
    except TimeoutError:
        hint = f"a firewall may drop what is sent to {place}; open the way, or set upstream.proxy"
        if through_proxy:
            hint = f"a firewall may drop what is sent to {place}; check upstream.proxy"
        report.fail(name, f"{place} does not answer within {limit:g} s", hint, unreachable=True)
        return None
    except OSError as error:
        hint = f"check host and port in {setting}, and firewalls on the way"
        report.fail(name, f"{place}: {why(error)}", hint, unreachable=True)
        return None
    through = ", through which all calls go (upstream.proxy)" if through_proxy else ""
    report.ok(name, f"{connection.peer} takes connections{through}")
    return connection


async def _secured(
    report: CheckReport,
    connection: Connection,
    proxy: SplitResult | None,
    options: UpstreamOptions,
    clock: Clock,
) -> bool:
    vendor = urlsplit(options.base_url)
    host = vendor.hostname or ""
    if vendor.scheme != "https":
        if is_loopback(host):
            report.skip(TLS, "upstream.base_url is http:// on this machine")
        else:
            found = "upstream.base_url is http://, so that the key travels in plain text"
            report.warn(TLS, found, "write https://")
        return True
    try:
        await _handshake(connection, proxy, options, upstream_tls(options.ca_file))
    except _ProxyRefusedError as error:
        told = ConnectError(
            f"the proxy makes no tunnel: {error}", "check the password in upstream.proxy, and its rules"
        )
        report.fail(TLS, told.found, told.hint)
        return False
    except (OSError, EOFError, ValueError) as error:  # ValueError: a head without an end
        told = tls_trouble(error, host, authority="upstream.ca_file", address="upstream.base_url")
        report.fail(TLS, told.found, told.hint, unreachable=isinstance(error, TimeoutError))
        return False
    _expiry(report, connection.writer.get_extra_info("ssl_object"), clock)
    await _check_strictly(report, proxy, options)
    return True


async def _handshake(
    connection: Connection, proxy: SplitResult | None, options: UpstreamOptions, context: ssl.SSLContext
) -> None:
    """Secure a connection to the vendor, or to the proxy in front of it."""
    vendor = urlsplit(options.base_url)
    limit = min(options.connect_timeout, _LONGEST)
    async with asyncio.timeout(limit):
        if proxy is not None:
            await _tunnel(connection, _place(vendor), proxy)
        await connection.writer.start_tls(context, server_hostname=vendor.hostname or "", ssl_handshake_timeout=limit)


async def _check_strictly(report: CheckReport, proxy: SplitResult | None, options: UpstreamOptions) -> None:
    """Warn of a certificate that only lenient verification accepts, with a second connection."""
    first = urlsplit(options.base_url) if proxy is None else proxy
    tls: dict[str, Any] = {}
    if first is proxy and proxy.scheme == "https":
        tls = {"ssl": upstream_tls(options.ca_file), "server_hostname": proxy.hostname}
    with suppress(OSError, EOFError, ValueError, _ProxyRefusedError):  # the first connection worked: a passing fault
        connection = await connect(_place(first), min(options.connect_timeout, _LONGEST), **tls)
        try:
            await _handshake(connection, proxy, options, upstream_tls(options.ca_file, strict=True))
        except ssl.SSLCertVerificationError as error:
            report.warn(
                "vendor certificate",
                f"the certificate or its authority violates RFC 5280 ({error.verify_message})",
                "the gateway accepts it, but clients that verify strictly, such as those in Python 3.13, do not; have "
                "the authority reissued with critical basicConstraints and with key identifiers",
            )
        finally:
            await connection.close()


async def _tunnel(connection: Connection, vendor: Endpoint, proxy: SplitResult) -> None:
    head = f"CONNECT {vendor} HTTP/1.1\r\nHost: {vendor}\r\n"
    if proxy.username is not None:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        head += f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"
    connection.writer.write(head.encode() + b"\r\n")
    try:
        answer = await connection.reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _ProxyRefusedError("it is no HTTP proxy") from None
    version, _, rest = answer.partition(b" ")
    if not version.startswith(b"HTTP/"):
        raise _ProxyRefusedError("it is no HTTP proxy")
    if not rest.startswith(b"2"):
        status = rest[:3].decode("ascii", "replace")
        raise _ProxyRefusedError(f"it answers {status}" if status.isdigit() else "it is no HTTP proxy")


def _expiry(report: CheckReport, tls: ssl.SSLObject, clock: Clock) -> None:
    certificate: dict[str, Any] = tls.getpeercert() or {}
    days = int((ssl.cert_time_to_seconds(str(certificate["notAfter"])) - clock.now()) / _DAY)
    found = f"{tls.version()}; the certificate is good for {days} more days"
    if days < _DAYS_LEFT:
        report.warn(TLS, found, "whoever runs the host has to renew it soon; ask, if that is not automatic")
    else:
        report.ok(TLS, found)


def _place(parts: SplitResult) -> Endpoint:
    return Endpoint(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
