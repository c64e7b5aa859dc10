"""Names, connections and TLS, as far as Redis and the vendor have them in common.

Every wait here has an end. A look-up runs in a thread that nobody waits for when the program ends: the one that the
event loop would use cannot be given up, and a resolver may take half a minute.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket
import ssl
import threading
from contextlib import suppress
from typing import Any, NamedTuple

from gateway.doctor.report import CheckReport

_RESOLVE_SECONDS = 5.0
# The reasons with which OpenSSL tells, from version to version, that what came was no TLS record.
_NO_TLS = re.compile("WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|PACKET_LENGTH_TOO_LONG|HTTP_REQUEST|BAD_RECORD_TYPE")
_EXPIRED, _NOT_YET, _OTHER_HOST = {10}, {9}, {62, 64}
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}


class Endpoint(NamedTuple):
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ConnectError(NamedTuple):
    """What is wrong, and what mends it."""

    found: str
    hint: str


def is_address(host: str) -> bool:
    """Whether there is nothing to look up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def resolve(host: str) -> list[str]:
    """The addresses of a name. Raises OSError, or TimeoutError after five seconds."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def tell(addresses: list[str], error: OSError | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(addresses)
        else:
            answer.set_exception(error)

    def look() -> None:
        addresses: list[str] = []
        failed = None
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        except OSError as error:
            failed = error
        except UnicodeError:
            failed = OSError("it is no name")
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, addresses, failed)

    threading.Thread(target=look, name="resolve", daemon=True).start()
    async with asyncio.timeout(_RESOLVE_SECONDS):
        return await answer


async def check_names(report: CheckReport, name: str, hosts: list[str], setting: str) -> bool:
    """Look up what are names of these; whether there is at least one way to go on."""
    names = [host for host in dict.fromkeys(hosts) if not is_address(host)]
    if not names:
        report.skip(name, f"{setting} has an address and no name")
        return True
    results = await asyncio.gather(*(resolve(host) for host in names), return_exceptions=True)
    good, bad = [], []
    for host, result in zip(names, results, strict=True):
        if isinstance(result, list):
            good.append(f"{host} is {', '.join(result[:4])}")
        elif isinstance(result, OSError):
            bad.append(f"{host}: {why(result)}")
        else:
            raise result
    hint = f"check the name in {setting}, and this machine's resolver (/etc/resolv.conf; in a cluster, its DNS)"
    if not bad:
        report.ok(name, "; ".join(good))
    elif good or len(names) < len(set(hosts)):
        report.warn(name, "; ".join(bad), hint)
    else:
        report.fail(name, "; ".join(bad), hint, unreachable=True)
        return False
    return True


async def connect(place: Endpoint, seconds: float, **options: Any) -> Connection:
    """Make a connection. Raises OSError, TimeoutError among them."""
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(place.host, place.port, happy_eyeballs_delay=0.25, **options)
        return Connection(reader, writer)


class Connection(NamedTuple):
    """An open connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def peer(self) -> str:
        """The address at the other end."""
        return str(Endpoint(*self.writer.get_extra_info("peername")[:2]))

    async def close(self) -> None:
        """Close it, and wait a moment for that."""
        self.writer.close()
        with suppress(OSError, ssl.SSLError):
            async with asyncio.timeout(1.0):
                await self.writer.wait_closed()


def why(error: BaseException) -> str:
    """A short reason, which is the system's and quotes nothing."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        # Of several addresses: "Multiple exceptions: [Errno 111] Connect call failed (...), [Errno 111] ..."
        numbers = {int(number) for number in re.findall(r"\[Errno (-?\d+)\]", str(error))}
        if len(numbers) == 1 and (number := numbers.pop()) > 0:
            return os.strerror(number).lower()
        if error.strerror and not isinstance(error, ssl.SSLError):
            return error.strerror.lower()
    return type(error).__name__


def tls_trouble(error: BaseException, host: str, *, authority: str, address: str) -> ConnectError:
    """What a failed handshake means. `authority` and `address` are the settings of the CA and of the host."""
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else None
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if code in _EXPIRED:
        hint = f"if this machine's clock is right, whoever runs {host} has to renew it; else let NTP set the clock"
        return ConnectError("the certificate has expired", hint)
    if code in _NOT_YET:
        return ConnectError(
            "the certificate is not valid yet", "let NTP set this machine's clock; it is most likely behind"
        )
    if code in _OTHER_HOST:
        hint = f"check the host in {address}; if it is right, something else answers in its place (DNS, a proxy)"
        return ConnectError(f"the certificate is for another host than {host}", hint)
    if code in _UNKNOWN_AUTHORITY:
        hint = (
            f"name the CA's certificate by {authority} (a proxy that opens TLS has a CA of its own), or install the "
            "system's (the package ca-certificates)"
        )
        return ConnectError("the certificate is from an authority that is not known here", hint)
    if code is not None:
        return ConnectError(
            f"the certificate is not accepted (OpenSSL's code {code})", f"see {authority} and {address}"
        )
    if _NO_TLS.search(reason):
        return ConnectError("what answers is no TLS", f"check scheme and port in {address}")
    if isinstance(error, TimeoutError) or "taking longer" in str(error):
        return ConnectError(
            "no answer to the handshake in time", f"check the port in {address}, and firewalls on the way"
        )
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError | EOFError):
        return ConnectError(
            "the connection was cut during the handshake", f"check the port in {address}, and firewalls on the way"
        )
    told = reason.lower().replace("_", " ") or type(error).__name__
    return ConnectError(
        f"the handshake failed: {told}", f"check what {address} names: it wants another TLS than this one"
    )
