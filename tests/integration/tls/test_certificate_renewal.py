"""The certificate of the client listener is renewed while the gateway runs, by its content and by SIGHUP."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from harness import PATIENCE, Play, playing, until
from holding_vendor import HoldingVendor
from worker_group import working

from gateway.config.loading import load

pytestmark = pytest.mark.usefixtures("vendor")
AUTHORITY = trustme.CA()


class Files:
    """A certificate and its key on disk, as the gateway is told of them."""

    def __init__(self, directory: Path) -> None:
        self.cert = directory / "tls.crt"
        self.key = directory / "tls.key"
        self.current = b""
        self.renew()

    def renew(self) -> bytes:
        """Replace both; the new certificate as it goes over the wire."""
        leaf = self.issue()
        self.write_key(leaf)
        return self.write_cert(leaf)

    @staticmethod
    def issue() -> trustme.LeafCert:
        return AUTHORITY.issue_cert("localhost")

    def write_cert(self, leaf: trustme.LeafCert) -> bytes:
        chain = leaf.cert_chain_pems
        replace(self.cert, b"".join(pem.bytes() for pem in chain))
        self.current = ssl.PEM_cert_to_DER_cert(chain[0].bytes().decode())
        return self.current

    def write_key(self, leaf: trustme.LeafCert) -> None:
        replace(self.key, leaf.private_key_pem.bytes())


def replace(path: Path, content: bytes) -> None:
    aside = path.with_name(path.name + ".new")
    aside.write_bytes(content)
    aside.replace(path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def certificate_served(port: int) -> bytes:
    """Return the certificate (DER) that a new connection without SNI is served."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain, context.wrap_socket(plain) as secured:
        return secured.getpeercert(binary_form=True) or b""


async def served(port: int) -> bytes:
    return await asyncio.to_thread(certificate_served, port)


async def becomes(port: int, certificate: bytes) -> None:
    async with asyncio.timeout(PATIENCE):
        while await served(port) != certificate:  # noqa: ASYNC110 - only another connection shows it
            await asyncio.sleep(0.02)


def flags(vendor: HoldingVendor, files: Files) -> dict[str, Any]:
    return {
        "upstream.base_url": vendor.url, "server.tls_cert_file": str(files.cert), "server.tls_key_file": str(files.key),
    }  # fmt: skip


@asynccontextmanager
async def secured(vendor: HoldingVendor, files: Files) -> AsyncIterator[tuple[Play, Callable[[], None]]]:
    """A gateway, and its reload."""
    given = flags(vendor, files)

    def reload() -> None:
        play.gateway.reloads.reload(
            lambda: load(environ={}, flags={"upstream.api_key": play.vendor_key, **given}, use_file=False)
        )

    async with playing(given) as play:
        yield play, reload


async def test_a_renewed_certificate_is_served_to_new_connections_and_old_ones_go_on(
    vendor: HoldingVendor, files: Files
) -> None:
    async with secured(vendor, files) as (play, _):
        assert await served(play.port) == files.current
        assert (await play.get("/readyz")).status == 200
        connections = len(play.gateway._listeners[0]._server.connections)
        await becomes(play.port, files.renew())
        assert (await play.get("/readyz")).status == 200
        assert len(play.gateway._listeners[0]._server.connections) == connections
        assert b"was renewed" in await play.said()


async def test_a_certificate_that_is_replaced_before_its_key_is_served_when_both_are_there(
    vendor: HoldingVendor, files: Files
) -> None:
    async with secured(vendor, files) as (play, _):
        old, leaf = files.current, files.issue()
        new = files.write_cert(leaf)
        await until(lambda: b"does not belong" in play.log.getvalue())
        assert await served(play.port) == old
        files.write_key(leaf)
        await becomes(play.port, new)


async def test_a_directory_that_is_replaced_by_a_symbolic_link_is_followed(
    vendor: HoldingVendor, tmp_path: Path
) -> None:
    """As Kubernetes does with a Secret."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first, second, live = Files(tmp_path / "one"), Files(tmp_path / "two"), tmp_path / "live"
    live.symlink_to("one")
    first.cert, first.key = live / "tls.crt", live / "tls.key"
    async with secured(vendor, first) as (play, _):
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").replace(live)
        await becomes(play.port, second.current)


def break_key(files: Files) -> None:
    files.write_key(files.issue())


def encrypt_key(files: Files) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    passphrase = serialization.BestAvailableEncryption(b"passphrase")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    replace(files.key, key.private_bytes(pem, pkcs8, passphrase))


BROKEN: dict[str, Callable[[Files], object]] = {
    "of another key": break_key,
    "encrypted": encrypt_key,
    "no certificate": lambda files: replace(files.cert, b"no certificate"),
    "empty": lambda files: replace(files.cert, b""),
    "missing": lambda files: files.key.unlink(),
    "cut short": lambda files: replace(files.cert, files.cert.read_bytes()[:200]),
}


async def test_a_broken_certificate_refuses_the_reload_and_changes_nothing(vendor: HoldingVendor, files: Files) -> None:
    async with secured(vendor, files) as (play, reload):
        for how, spoil in BROKEN.items():
            old = files.current
            spoil(files)
            reload()
            assert (await play.metrics())["gateway_config_last_reload_successful"] == 0, how
            reason = (await play.get("/status.json")).json["configuration"]["last_reload"]["why"]
            assert "tls" in reason, how
            assert await served(play.port) == old, how
            new = files.renew()
            reload()
            assert (await play.metrics())["gateway_config_last_reload_successful"] == 1, how
            assert await served(play.port) == new, how


async def test_a_broken_certificate_is_logged_once(vendor: HoldingVendor, files: Files) -> None:
    async with secured(vendor, files) as (play, _):
        for text in (b"no certificate", b""):
            before = play.log.getvalue().count(b"cannot be used; the previous one")
            replace(files.cert, text)
            await until(lambda seen=before: play.log.getvalue().count(b"cannot be used; the previous one") > seen)  # type: ignore[misc]
        assert play.log.getvalue().count(b"cannot be used; the previous one") == 2


async def test_files_of_another_name_are_taken_over_by_a_reload(
    vendor: HoldingVendor, files: Files, tmp_path: Path
) -> None:
    async with secured(vendor, files) as (play, _):
        (tmp_path / "other").mkdir()
        other = Files(tmp_path / "other")
        given = {"upstream.api_key": play.vendor_key, **flags(vendor, other)}
        play.gateway.reloads.reload(lambda: load(environ={}, flags=given, use_file=False))
        assert await served(play.port) == other.current
        files.renew()
        await becomes(play.port, other.renew())


async def test_every_worker_serves_the_renewed_certificate_and_is_replaced_while_the_files_are_broken(
    vendor: HoldingVendor, files: Files
) -> None:
    environ = {
        "GATEWAY_UPSTREAM__BASE_URL": vendor.url, "GATEWAY_SERVER__TLS_CERT_FILE": str(files.cert),
        "GATEWAY_SERVER__TLS_KEY_FILE": str(files.key),
    }  # fmt: skip
    async with working(2, **environ) as group:
        new = files.renew()
        group.process.send_signal(signal.SIGHUP)
        await until(lambda: len(group.told("the configuration was reloaded")) == 2)
        assert {await served(group.port) for _ in range(8)} == {new}
        break_key(files)
        killed, _ = group.pids()
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(group.told("the configuration was reloaded")) == 3)
        assert {await served(group.port) for _ in range(8)} == {new}
        group.process.send_signal(signal.SIGHUP)
        await until(lambda: len(group.told("was not reloaded")) == 2)
        assert await group.end() == 0
