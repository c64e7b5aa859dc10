"""Processes: bind the sockets, run the loop, end on a signal.

This file owns what a process does besides serving: its loop, its signals, its standard output. Several that serve
together are started by `workers.supervisor`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

from gateway.app import startup
from gateway.app.build import Gateway, Sockets
from gateway.app.event_loop import run as run_to_end
from gateway.app.preflight import checked
from gateway.app.reload import load_certificate_for
from gateway.app.sockets import PortTakenError, bind_all, url_of
from gateway.app.startup import complain
from gateway.app.workers.client import WorkerClient
from gateway.app.workers.log_pipe import LogPipe
from gateway.app.workers.supervisor import Supervisor
from gateway.config.loading import ConfigurationError, Loaded, Settings, load
from gateway.http.tls import CertificateError, ListenerTls, listener_tls
from gateway.mock_vendor.server import MockVendor
from gateway.telemetry.crash_output import keep_secrets
from gateway.telemetry.log_writer import LineWriter, choose_format, configure, standard_output
from gateway.upstream.keys import KeyRing

FINE, FAILED = 0, 1
_ENDING = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("gateway")


def serve(loaded: Loaded, again: Callable[[], Loaded]) -> int:
    """Run the gateway until SIGTERM or SIGINT; SIGHUP makes it take over what `again` loads."""
    startup.catch_signals()
    try:
        sockets = bind_all(loaded.settings)
    except PortTakenError as error:
        complain(error)
        return FAILED

    def reloaded() -> Loaded:
        return checked(again())

    if loaded.settings.server.workers > 1 and hasattr(os, "fork"):
        return _supervise(loaded, sockets, reloaded)
    return _run(_serve(loaded, sockets, reloaded))


def demo(environ: Mapping[str, str], *, port: int | None) -> int:
    """Run the stand-in vendor and a gateway in front of it, until Ctrl-C."""
    return _run(_demo(environ, port))


def mock_vendor(host: str, port: int, *, key: str | None, aois: int, seed: int) -> int:
    """Run the stand-in vendor alone, until Ctrl-C."""
    return _run(_mock_vendor(host, port, key, aois, seed))


async def _serve(loaded: Loaded, sockets: Sockets, again: Callable[[], Loaded]) -> int:
    settings = loaded.settings
    keys, writer, form = _prepare(settings)
    try:
        for warning in loaded.warnings:
            _log.warning(warning)
        if settings.server.workers > 1:
            _log.warning("server.workers has no effect here: on Windows one process serves")
        checked(loaded)
        gateway = Gateway(settings, keys, writer, form, source=loaded.source)
        await gateway.start(sockets)
        stop = _handle_signals(*_ENDING, hung_up=partial(gateway.reloads.reload, again))
        _log.info("listening", extra={"url": url_of(settings, sockets.client), "configuration": loaded.source})
        why = await stop
        _log.info("stopping", extra={"why": why.name})
        # A person at the keyboard has no load balancer to wait for.
        await gateway.stop(drain=why is not signal.SIGINT)
        _log.info("stopped")
    finally:
        writer.close()
    return FINE


def _supervise(loaded: Loaded, sockets: Sockets, again: Callable[[], Loaded]) -> int:
    """Run several workers, which share the sockets. Nothing here may begin a thread or a loop: see `Supervisor`."""
    settings = loaded.settings
    form = choose_format(settings.log.format, terminal=sys.stdout.isatty())
    checked(loaded)
    log_pipe = LogPipe(sys.stdout.fileno(), key_ring(settings).redact)
    configure(log_pipe, form, settings.log.level)
    for warning in loaded.warnings:
        _log.warning(warning)
    tls = listener_tls(settings.server)  # workers inherit it: the files may be unusable when one is replaced
    url, workers = url_of(settings, sockets.client), settings.server.workers
    latest: Loaded | None = None

    def work(channel: socket.socket) -> int:
        return _run(_work(loaded, latest, sockets, form=form, channel=channel, tls=tls, again=again))

    def reload() -> None:
        """Keep for workers that are started later what those that live take over now, or refuse and tell of."""
        nonlocal latest
        with suppress(ConfigurationError, CertificateError):
            now = again()
            certificate = load_certificate_for(now.settings, tls)
            if now.settings.auth_mode == settings.auth_mode:
                latest = now
                if tls is not None and certificate is not None:
                    tls.adopt(certificate)

    code = Supervisor(
        workers,
        work,
        [sock for sock in sockets if sock is not None],
        log_pipe,
        # A request that begins when the drain ends, and a slow reader of its answer.
        longest=settings.server.drain + settings.upstream.deadline + 30.0,
        when_hung_up=reload,
        when_started=lambda: _log.info(
            "listening", extra={"url": url, "configuration": loaded.source, "workers": workers}
        ),
    ).run()
    _log.info("stopped")
    log_pipe.forward_all()
    return code


async def _work(
    loaded: Loaded, latest: Loaded | None, sockets: Sockets, *, form: Any, channel: socket.socket,
    tls: ListenerTls | None, again: Callable[[], Loaded],
) -> int:  # fmt: skip
    """Serve as one worker of several, until told to end by the parent, by its death, or by a signal of its own.

    `latest` is what the others have taken over since they were built from what was `loaded`. Signals are blocked until
    the worker serves.
    """
    worker_client = WorkerClient(channel)
    keys, writer, _ = _prepare(loaded.settings, form)
    try:
        gateway = Gateway(
            loaded.settings, keys, writer, form, source=loaded.source, worker_client=worker_client, tls=tls
        )
        if latest is not None:
            gateway.reloads.take_over(latest)
        gateway.reloads.renew_files()
        await worker_client.open()
        talking = asyncio.create_task(worker_client.run())
        await gateway.start(sockets)
        stop = _handle_signals(signal.SIGTERM, hung_up=partial(gateway.reloads.reload, again))
        worker_client.started()
        first: list[asyncio.Future[Any]] = [stop, worker_client.ended]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        alone = not worker_client.ended.done()
        worker_client.ended.add_done_callback(lambda _: gateway.unready())
        await gateway.stop(drain=alone or worker_client.ended.result() == "drain", alone=alone)
        await worker_client.close()
        await talking
    finally:
        writer.close()
    return FINE


async def _demo(environ: Mapping[str, str], port: int | None) -> int:
    startup.catch_signals()
    vendor = MockVendor(key=secrets.token_urlsafe(24))
    vendor_url = await vendor.start()
    try:
        # What makes it a demo wins over the environment; a file is not read, so that it works in any directory.
        settings = load(
            environ=environ,
            flags={
                "server.port": port,
                "upstream.base_url": vendor_url,
                "upstream.api_key": vendor.key,
                "cache.url": "memory://",
            },
            use_file=False,
        ).settings
        try:
            sockets = bind_all(settings)
        except PortTakenError as error:
            complain(error)
            return FAILED
        keys, writer, form = _prepare(settings)
        gateway = Gateway(settings, keys, writer, form, example_aoi=vendor.aoi_ids[0])
        try:
            await gateway.start(sockets)
            stop = _handle_signals(*_ENDING, hung_up=_ignore_hangup)
            invitation = _invitation(url_of(settings, sockets.client), vendor_url, vendor.aoi_ids[0])
            writer.write(invitation.encode())  # which never waits for a reader, and never fails
            await stop
            await gateway.stop(drain=False)
        finally:
            writer.close()
    finally:
        await vendor.stop()
    return FINE


async def _mock_vendor(host: str, port: int, key: str | None, aois: int, seed: int) -> int:
    startup.catch_signals()
    vendor = MockVendor(key=key or secrets.token_urlsafe(24), aois=aois, seed=seed)
    try:
        url = await vendor.start(host, port)
    except OSError:
        complain(PortTakenError(host, port, "--port"))
        return FAILED
    try:
        stop = _handle_signals(*_ENDING, hung_up=_ignore_hangup)
        example = vendor.aoi_ids[0] if vendor.aoi_ids else "AOI_ID"
        shown = "$KEY" if key else vendor.key
        told = f"Stand-in vendor: {url}\n" + ("" if key else f"Its key: {vendor.key}\n")
        with suppress(OSError):
            print(f"{told}Try: curl -i -H 'Authorization: {shown}' '{url}/v0/aois/{example}/assets'", flush=True)
        await stop
    finally:
        await vendor.stop()
    return FINE


def _handle_signals(*numbers: signal.Signals, hung_up: Callable[[], None]) -> asyncio.Future[signal.Signals]:
    """Return a future that the first of these signals sets; a second one ends the process at once, as people expect.

    SIGHUP calls `hung_up`; one that arrived during startup does so now.
    """
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[signal.Signals] = loop.create_future()

    def received(number: int, _: FrameType | None = None) -> None:
        def set_once() -> None:
            if stop.done():
                sys.exit(128 + number)
            stop.set_result(signal.Signals(number))

        loop.call_soon_threadsafe(set_once)

    for number in numbers:
        try:
            loop.add_signal_handler(number, received, number)
        except NotImplementedError:  # Windows
            signal.signal(number, received)
    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGHUP, hung_up)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, *numbers))  # a worker starts with them blocked
    if startup.take_hangup():
        loop.call_soon(hung_up)
    return stop


def _ignore_hangup() -> None:
    """Say that SIGHUP has no effect, in a command that has no configuration to reload."""
    _log.warning("SIGHUP is ignored: this command has no configuration to reload")


def _invitation(gateway: str, vendor: str, aoi_id: str) -> str:
    return (
        f"\n  Gateway          {gateway}/    (docs: {gateway}/docs, status: {gateway}/status)\n"
        f"  Stand-in vendor  {vendor}/    (it wants a key, which the gateway holds)\n\n"
        f"Try this twice, and compare Cache-Status:\n\n"
        f"  curl -i '{gateway}/v0/aois/{aoi_id}/assets?offset=0&limit=10'\n\n"
        f"Ctrl-C ends both."
    )


def _prepare(settings: Settings, form: Any = None) -> tuple[KeyRing, LineWriter, Any]:
    """The key, and standard output as the place for logs."""
    keys = key_ring(settings)
    keep_secrets(keys.redact)
    form = form or choose_format(settings.log.format, terminal=sys.stdout.isatty())
    writer = LineWriter(standard_output(), keys.redact)
    configure(writer, form, settings.log.level)
    return keys, writer, form


def key_ring(settings: Settings) -> KeyRing:
    """The vendor keys of a configuration."""
    current, previous = settings.api_key, settings.previous_api_key
    assert current is not None, "load() has refused a configuration without a key"  # noqa: S101 - holds by need_key
    return KeyRing(current.get_secret_value(), None if previous is None else previous.get_secret_value())


def _run(main: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop, where there is one.

    The loop is not closed: closing waits for DNS look-ups, which cannot be interrupted. The process ends next.
    """
    if sys.platform == "win32":
        return run_to_end(main)
    from uvloop import new_event_loop  # noqa: PLC0415 - there is none on Windows

    return asyncio.Runner(loop_factory=new_event_loop).run(main)
