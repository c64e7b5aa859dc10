"""Closing a connection on which the client still has something to read, or to send."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from harness import PATIENCE, VENDOR_KEY, playing, spawn, until
from raw_client import asks
from raw_vendor import listing, raw_vendor, saying, whole
from wire import answers

from gateway.http import protocol

pytestmark = pytest.mark.usefixtures("nothing_left")

# Larger than what the client's kernel holds for it, so that the rest is lost if the gateway resets the connection.
PAGE = listing(*(f"{number:0120}" for number in range(2000)))
PATH = "/v0/aois/a1/assets"


class LateReader:
    """A client that sends requests and more, and reads only then."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        plain.settimeout(PATIENCE)
        plain.connect(("127.0.0.1", port))
        self._socket = tls.wrap_socket(plain, server_hostname="localhost") if tls else plain

    async def send(self, data: bytes) -> None:
        await asyncio.to_thread(self._socket.sendall, data)

    async def send_whatever_is_taken(self, size: int) -> None:
        """Send junk; a reset shows in what is read."""
        with suppress(OSError):
            await self.send(b"x" * size)

    async def read(self) -> bytes:
        def read() -> bytes:
            received = bytearray()
            with self._socket, suppress(ConnectionError):
                while piece := self._socket.recv(65_536):
                    received += piece
            return bytes(received)

        return await asyncio.to_thread(read)


CLOSING = {
    "connection close": (asks(PATH, "Connection: close"), 200),
    "http/1.0": (asks("/healthz", version="1.0"), 200),
    "malformed": (b"BAD\r\n\r\n", 400),
    "ambiguous length": (asks(PATH, "Content-Length: 1", "Content-Length: 2"), 400),
    "body on get": (asks(PATH, "Content-Length: 900000"), 400),
    "large body": (asks(PATH, "Content-Length: 900000", method="POST"), 405),
    "large head": (asks(PATH, *("X-Large: " + "x" * 8000 for _ in range(9))), 431),
    "long target": (asks("/" + "x" * 8300), 414),
    "expect": (asks(PATH, "Expect: 100-continue"), 417),
}


@pytest.mark.parametrize("together", [True, False], ids=["in one segment", "one by one"])
@pytest.mark.parametrize(("last", "status"), CLOSING.values(), ids=CLOSING)
async def test_no_response_is_lost_when_more_arrives_after_the_request_that_closes(
    last: bytes, status: int, together: bool
) -> None:
    async with raw_vendor(saying(whole(PAGE))) as vendor, playing({"upstream.base_url": vendor.url}) as play:
        for _ in range(3):  # for the fast path
            await play.page("a1")

        client = LateReader(play.port)
        for piece in (asks(PATH) + last,) if together else (asks(PATH), last):
            await client.send(piece)
        with suppress(TimeoutError):  # a kernel with small buffers holds the last response back
            await until(lambda: play.log.getvalue().count(b'"event":"request"') == 5, seconds=3)
        await client.send_whatever_is_taken(1_000_000)
        first, second = answers(await client.read())
        assert (first.status, len(first.body)) == (200, len(PAGE))
        assert second.status == status


async def test_no_response_is_lost_over_tls(tmp_path: Path) -> None:
    """In a process of its own, which runs the event loop that is used in production."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    async with raw_vendor(saying(whole(PAGE))) as vendor:
        gateway = spawn(
            "serve", "--port", "0",
            environ={
                "GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY,
                "GATEWAY_SERVER__TLS_CERT_FILE": str(tmp_path / "cert.pem"),
                "GATEWAY_SERVER__TLS_KEY_FILE": str(tmp_path / "key.pem"), "GATEWAY_LOG__FORMAT": "json",
            },
        )  # fmt: skip
        try:
            port = int((await asyncio.to_thread(gateway.wait_for, r"listening.*https://127\.0\.0\.1:(\d+)"))[1])
            for last, status in (CLOSING["malformed"], CLOSING["large body"]):
                client = LateReader(port, tls)
                await client.send(asks(PATH) + last)
                await asyncio.to_thread(gateway.wait_for, rf'"event":"request".*"status":{status}')
                await client.send_whatever_is_taken(100_000)
                first, second = answers(await client.read())
                assert (first.status, len(first.body)) == (200, len(PAGE))
                assert second.status == status
        finally:
            assert gateway.end() == 0


@pytest.mark.parametrize("sends", [True, False])
async def test_a_client_that_never_closes_is_cut_off(sends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_IDLE_SECONDS", 60.0 if sends else 0.1)
    monkeypatch.setattr(protocol, "_TOTAL_SECONDS", 0.3 if sends else 60.0)
    async with raw_vendor(saying(whole(PAGE))) as vendor, playing({"upstream.base_url": vendor.url}) as play:
        (listener,) = play.gateway._listeners
        reader, writer = await asyncio.open_connection("127.0.0.1", play.port)
        writer.write(asks("/healthz", "Connection: close"))
        assert re.match(rb"HTTP/1\.1 200 ", await reader.read())  # the end of the output comes at once

        def cut_off() -> bool:
            if sends and not writer.is_closing():
                writer.write(b"x")
            return not listener._server.connections

        await until(cut_off)
        writer.close()
