"""The command line: one function per command, which returns an exit code.

0 fine, 1 failed, 2 usage, 3 configuration, 4 unreachable.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.app.startup import complain
from gateway.cli.argument_types import aoi, count, gateway_url, number, port, rate, team_name
from gateway.config.loading import ConfigurationError, Loaded, load, read_secret
from gateway.config.schema import schema_text

FINE, FAILED, USAGE, CONFIGURATION, UNREACHABLE = 0, 1, 2, 3, 4


class _BadUsage(Exception):
    """What the arguments name cannot be used; the message is one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the console script exits with what this returns."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except _BadUsage as error:
        complain(error)
        return USAGE
    except ConfigurationError as error:
        complain(error)
        return CONFIGURATION
    except KeyboardInterrupt:
        return FAILED
    return code


def _load(arguments: argparse.Namespace, *, need_key: bool = False, **flags: Any) -> Loaded:
    return load(file=getattr(arguments, "config", None), environ=os.environ, flags=flags, need_key=need_key)


def _serve(arguments: argparse.Namespace) -> int:
    from gateway.app.run import serve  # noqa: PLC0415 - the other commands need no event loop, and start faster without

    flags = {f"server.{name}": getattr(arguments, name) for name in ("host", "port", "workers")}

    again = partial(_load, arguments, need_key=True, **flags)
    return serve(again(), again)


def _demo(arguments: argparse.Namespace) -> int:
    from gateway.app.run import demo  # noqa: PLC0415 - as above

    return demo(os.environ, port=arguments.port)


def _mock_vendor(arguments: argparse.Namespace) -> int:
    from gateway.app.run import mock_vendor  # noqa: PLC0415 - as above

    return mock_vendor(arguments.host, arguments.port, key=arguments.key, aois=arguments.aois, seed=arguments.seed)


def _check(arguments: argparse.Namespace) -> int:
    loaded = _usable(arguments)
    if loaded is None:
        return CONFIGURATION
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{loaded.source}: valid; clients are let in by {loaded.settings.auth_mode!r}")
    return FINE


def _usable(arguments: argparse.Namespace) -> Loaded | None:
    """What serving would load; None when it would refuse, and then every fault is printed."""
    try:
        loaded = _load(arguments, need_key=True)
    except ConfigurationError as error:
        print(error)
        return None
    from gateway.app.preflight import unusable  # noqa: PLC0415 - as above

    if found := unusable(loaded.settings):
        print("\n".join(f"{loaded.source}: {fault}" for fault in found))
        return None
    return loaded


def _doctor(arguments: argparse.Namespace) -> int:
    from gateway.doctor.run import run  # noqa: PLC0415 - as above

    loaded = _usable(arguments)
    return CONFIGURATION if loaded is None else run(loaded, arguments.aoi)


def _token_new(arguments: argparse.Namespace) -> int:
    from gateway.teams.tokens import new_token  # noqa: PLC0415 - as above

    token, digest = new_token()
    print(token)
    print(f'token_sha256 = ["{digest}"]  # in [teams.{arguments.team}]')
    return FINE


def _healthcheck(arguments: argparse.Namespace) -> int:
    from gateway.app.admin_client import is_alive  # noqa: PLC0415 - as above

    settings = _load(arguments).settings
    return FINE if is_alive(settings.server, settings.ops) else FAILED


def _purge(arguments: argparse.Namespace) -> int:
    from gateway.app.admin_client import GatewayUnreachable, RequestRefused, purge  # noqa: PLC0415 - as above

    token = _token(arguments.token_file)
    settings = _load(arguments).settings
    try:
        purge(settings.server, settings.ops, url=arguments.url, token=token, aoi_id=arguments.aoi, soft=arguments.soft)
    except GatewayUnreachable as error:
        print(error, file=sys.stderr)
        return UNREACHABLE
    except RequestRefused as error:
        print(error, file=sys.stderr)
        return FAILED
    print("softly purged" if arguments.soft else "purged", arguments.aoi or "everything")
    return FINE


def _warm(arguments: argparse.Namespace) -> int:
    from gateway.app.admin_client import GatewayUnreachable, client_listener, own_tls  # noqa: PLC0415 - as above
    from gateway.app.event_loop import run  # noqa: PLC0415 - as above
    from gateway.cli.progress import printable, shown  # noqa: PLC0415 - as above
    from gateway.cli.warm import warm  # noqa: PLC0415 - as above
    from gateway.core.clock import SystemClock  # noqa: PLC0415 - as above

    aoi_ids = list(_aoi_ids(arguments))
    if not aoi_ids:
        raise _BadUsage("no AOI ids: give --aoi ID, --file FILE, or - for standard input")
    token = _token(arguments.token_file)
    settings = _load(arguments).settings
    try:
        with shown(sys.stderr) as watch:
            tally = run(
                warm(
                    arguments.url or client_listener(settings.server),
                    aoi_ids,
                    clock=SystemClock(),
                    token=token,
                    tls=own_tls() if arguments.url is None else None,
                    limit=arguments.limit or min(100, settings.query.max_limit),
                    concurrency=arguments.concurrency,
                    rate=arguments.rate,
                    watch=watch,
                )
            )
    except GatewayUnreachable as error:
        print(error, file=sys.stderr)
        return UNREACHABLE
    print(
        f"warmed {tally.aois - len(tally.failures)} of {tally.aois} AOIs: {tally.pages} pages, "
        f"{tally.pages - tally.hits} fetched, {tally.hits} hits, in {tally.seconds:.1f} s",
        flush=True,
    )
    for aoi_id, why in tally.failures.items():
        print(printable(f"{aoi_id}: {why}"), file=sys.stderr)
    return FAILED if tally.failures else FINE


def _aoi_ids(arguments: argparse.Namespace) -> Iterator[str]:
    """The ids from all sources that the arguments name."""
    from gateway.cli.warm import ids_in  # noqa: PLC0415 - as above

    # `--aoi A B -` is read as three ids, though standard input is meant.
    yield from (aoi_id for aoi_id in arguments.aoi if aoi_id != "-")
    try:
        for path in arguments.file:
            if path != "-":
                yield from ids_in(Path(path).read_text(encoding="utf-8-sig"))
        if arguments.stdin or "-" in (*arguments.aoi, *arguments.file):
            path = "-"
            yield from ids_in(sys.stdin.buffer.read().decode("utf-8-sig"))
    except OSError as error:
        raise _BadUsage(f"{path}: {error.strerror}") from None
    except ValueError:  # UnicodeDecodeError, or a name with a NUL in it
        raise _BadUsage(f"{path}: is no text file in UTF-8") from None


def _token(path: str | None) -> str | None:
    """The token in a file. The path is not printed: it may be the token itself, put in the wrong place."""
    if path is None:
        return None
    try:
        token = read_secret(path)
    except OSError as error:
        raise _BadUsage(f"--token-file: {error.strerror}") from None
    if token is None or not (token.isascii() and token.isprintable()):
        raise _BadUsage("--token-file: holds no token")
    return token


def _schema(_: argparse.Namespace) -> int:
    print(schema_text(), end="")
    return FINE


def _openapi(arguments: argparse.Namespace) -> int:
    from gateway.core.query import QueryRules  # noqa: PLC0415 - as above
    from gateway.http.openapi import document  # noqa: PLC0415 - as above

    settings = _load(arguments).settings
    rules = QueryRules(settings.query.max_limit, tuple(settings.query.filters))
    shown = document(rules, tokens=settings.auth_mode == "tokens", status=settings.ops.port is None)
    print(json.dumps(shown, indent=2))
    return FINE


def _parser() -> argparse.ArgumentParser:
    # --config may stand before or after the command: people type it in both places.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS,
        help="configuration file (default: $GATEWAY_CONFIG, else config/gateway.toml if it exists)",
    )  # fmt: skip
    parser = argparse.ArgumentParser(
        prog="pixxel-gateway", parents=[common],
        description="A shared caching gateway in front of Pixxel's asset listings.",
        epilog="Exit codes: 0 fine, 1 failed, 2 usage, 3 configuration, 4 unreachable.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"pixxel-gateway {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[common], help=text, description=text)
        added.set_defaults(run=run)
        return added

    serve = command("serve", _serve, "run the gateway")
    serve.add_argument("--host", help="address to listen on (server.host)")
    serve.add_argument("--port", type=int, help="port to listen on (server.port); 0 takes a free one")
    serve.add_argument("--workers", type=int, help="processes that share the listening socket (server.workers)")

    demo = command("demo", _demo, "run a stand-in vendor and the gateway in front of it, and print a request to try")
    demo.add_argument("--port", type=int, help="port of the gateway (server.port)")

    mock = command("mock-vendor", _mock_vendor, "run the stand-in vendor alone")
    mock.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    mock.add_argument("--port", type=port, default=8081, help="port to listen on; 0 takes a free one (default: 8081)")
    mock.add_argument("--key", help="the key that it asks for (default: a random one, which is printed)")
    mock.add_argument("--aois", type=count, default=20, help="how many AOIs it has (default: 20)")
    mock.add_argument("--seed", type=int, default=0, help="what the AOIs are made from (default: 0)")

    command("check", _check, "validate the configuration without serving")
    doctor = command("doctor", _doctor, "try Redis, DNS, TLS, the vendor key and the clock for real")
    doctor.add_argument("--aoi", metavar="ID", type=aoi, help="an AOI to try the key with (default: one of nobody)")
    command("healthcheck", _healthcheck, "exit 0 when the local gateway answers /healthz, else 1")
    purge = command("purge", _purge, "end what a running gateway has cached of an AOI, or of everything")
    what = purge.add_mutually_exclusive_group(required=True)
    what.add_argument("--aoi", metavar="ID", help="the AOI whose pages end")
    what.add_argument("--all", action="store_true", help="everything ends")
    purge.add_argument("--soft", action="store_true", help="end freshness only: pages still serve if the vendor fails")
    purge.add_argument("--url", type=gateway_url, help="where the gateway is (default: the configured listener)")
    purge.add_argument("--token-file", metavar="FILE", help="file with a token that has the scope admin")

    warm = command("warm", _warm, "fill the cache of a running gateway: ask for every page of these AOIs")
    warm.add_argument("--aoi", metavar="ID", nargs="+", action="extend", default=[], help="AOIs to warm")
    warm.add_argument(
        "--file", metavar="FILE", action="append", default=[],
        help="file with an AOI id on each line; blank lines and # comments are skipped",
    )  # fmt: skip
    warm.add_argument("stdin", metavar="-", nargs="?", choices=["-"], help="read such lines from standard input")
    warm.add_argument("--concurrency", metavar="N", type=number, default=4, help="AOIs in flight at once (default: 4)")
    warm.add_argument(
        "--rate", metavar="N", type=rate, default=20.0, help="requests per second, more than 0 (default: 20)"
    )
    warm.add_argument(
        "--limit", metavar="N", type=number,
        help="assets per page; windows of any smaller size are cut from these pages "
        "(default: 100, or query.max_limit if that is less)",
    )  # fmt: skip
    warm.add_argument("--url", type=gateway_url, help="where the gateway is (default: the configured listener)")
    warm.add_argument("--token-file", metavar="FILE", help="file with a client token that may read these AOIs")

    command("schema", _schema, "print the JSON Schema of the configuration")
    command("openapi", _openapi, "print the OpenAPI document")

    token = commands.add_parser("token", help="client tokens", description="Client tokens.", parents=[common])
    new = token.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "new", help="print a new token, once, and the line for the configuration", parents=[common]
    )
    new.add_argument("--team", required=True, type=team_name, help="name of the team")
    new.set_defaults(run=_token_new)
    return parser
