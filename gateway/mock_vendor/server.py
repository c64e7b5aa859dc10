"""The stand-in vendor on a socket.

Owns the routes: the vendor's endpoint, the key check, which behaviour applies to a request, the
record of what arrived and the `/_mock` controls. Refuses to know what a listing holds (catalogue),
what a behaviour may say (behaviour) and how a faulty answer is put on the wire (reply).
"""

import asyncio
import hmac
import ipaddress
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from gateway.mock_vendor.behaviour import BadBehaviour, Behaviour, parse
from gateway.mock_vendor.catalogue import Catalogue, go_json
from gateway.mock_vendor.reply import Reply, envelope, send, spoil

MAX_RECORDED = 100_000
_LISTING = re.compile(r"/v0/aois/([^/]+)/assets")
_MOCK_AOI = re.compile(r"/_mock/aois/([^/]+)")
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as it arrived: raw target, headers in order and letter case, epoch seconds."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    time: float


class MockVendor:
    """A vendor with `aois` AOIs drawn from `seed`, which wants `key` and counts time by `now`.

    `started` (epoch seconds, by default the moment of construction) is what unfinished assets
    count from. Runs in the loop that calls start(); may be started again after stop().
    """

    def __init__(
        self,
        *,
        key: str,
        aois: int = 20,
        seed: int = 0,
        now: Callable[[], float] = time.time,
        started: float | None = None,
    ) -> None:
        self.key = key
        self.url = ""  # known once it listens
        self.requests: list[Recorded] = []
        self._now = now
        self._catalogue = Catalogue(aois=aois, seed=seed, started=now() if started is None else started)
        self.aoi_ids = list(self._catalogue.aoi_ids)
        # By AOI; None is everybody's.
        self._behaviours: dict[str | None, Behaviour] = {}
        self._server: web.Server | None = None
        self._listener: asyncio.Server | None = None

    def set_behaviour(self, /, **fields: Any) -> None:
        """Replace the behaviour of one scope: of `aoi_id` if given, else of everybody.

        An AOI's own goes before everybody's; the two do not mix. `aoi_id` alone clears that AOI's,
        no field at all clears every scope. Raises BadBehaviour and then changes nothing.
        """
        behaviour = parse(fields)
        if not fields:
            self._behaviours.clear()
        elif fields.keys() == {"aoi_id"}:
            self._behaviours.pop(behaviour.aoi_id, None)
        else:
            self._behaviours[behaviour.aoi_id] = behaviour

    def reset(self) -> None:
        """Forget every behaviour and every recorded request; assets stay."""
        self._behaviours.clear()
        self.requests.clear()

    def set_assets(self, aoi_id: str, assets: Sequence[Mapping[str, Any]] | None) -> None:
        """Serve exactly these assets (None: `null`) from now on; the AOI may be a new one.

        `aoi_id` and `id` are filled in where missing. Raises ValueError for a malformed AOI id.
        """
        self._catalogue.set_assets(aoi_id, assets)

    def listing(self, aoi_id: str, offset: int, limit: int) -> bytes | None:
        """Return the body of a well-behaved answer as of now, None when the AOI is unknown."""
        return self._catalogue.listing(aoi_id, offset, limit, self._now())

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and return the base URL. Raises OSError when the port is taken."""
        if self._listener is not None:
            raise RuntimeError("already started")
        # handler_cancellation: a hanging request ends when its client leaves.
        server = web.Server(self._handle, handler_cancellation=True, access_log=None, keepalive_timeout=75.0)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(server, host, port)
        self._server = server
        bound = self._listener.sockets[0].getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        return self.url

    async def stop(self) -> None:
        """Stop listening and cut every connection, whatever it is in the middle of."""
        listener, server = self._listener, self._server
        self._listener = self._server = None
        if listener is None or server is None:
            return
        listener.close()
        # aiohttp's own shutdown waits for handlers, and for clients that do not read. Aborting a
        # transport cancels its handler instead. A connection that was being accepted shows up a
        # few turns of the loop later, hence the quiet turns at the end.
        quiet = 0
        while quiet < 5:
            connections = server.connections
            for connection in connections:
                if connection.transport is not None:
                    connection.transport.abort()
            quiet = 0 if connections else quiet + 1
            await asyncio.sleep(0)
        await listener.wait_closed()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        target = request.raw_path
        path, _, query = target.partition("?")
        if path.startswith(("http://", "https://")):  # as a proxy is asked
            path = "/" + path.partition("://")[2].partition("/")[2]
        if path == "/_mock" or path.startswith("/_mock/"):
            reply = await self._control(request, path)
            return await send(request, reply, Behaviour())
        self._record(request, target)
        found = _LISTING.fullmatch(path)
        aoi_id = unquote(found[1]) if found else None
        authorised = self._knows_key(request)
        behaviour = self._take_behaviour(aoi_id, authorised=authorised)
        pause = behaviour.hang + behaviour.delay
        if math.isinf(pause):
            await asyncio.get_running_loop().create_future()
        elif pause:
            await asyncio.sleep(pause)
        if aoi_id is None:
            reply = envelope(404, "no such route", {"path": path})
        elif not authorised:
            reply = envelope(401, "missing or invalid API key")
        elif request.method != "GET":
            reply = envelope(405, f"{request.method} is not allowed")
        else:
            reply = self._list(aoi_id, query, behaviour.max_limit)
        return await send(request, await spoil(reply, behaviour), behaviour)

    def _record(self, request: web.BaseRequest, target: str) -> None:
        headers = tuple(
            (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
            for name, value in request.raw_headers
        )
        self.requests.append(Recorded(request.method, target, headers, self._now()))
        if len(self.requests) > MAX_RECORDED:
            del self.requests[0]

    def _knows_key(self, request: web.BaseRequest) -> bool:
        given = request.headers.get("Authorization", "")
        if given[:7].lower() == "bearer ":
            given = given[7:]
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.key.encode())

    def _take_behaviour(self, aoi_id: str | None, *, authorised: bool) -> Behaviour:
        """Return what applies to this request, and count it."""
        for scope in (aoi_id, None):
            behaviour = self._behaviours.get(scope)
            if behaviour is None or not (authorised or behaviour.status is not None):
                continue
            if behaviour.times == 1:
                del self._behaviours[scope]
            elif behaviour.times is not None:
                self._behaviours[scope] = replace(behaviour, times=behaviour.times - 1)
            return behaviour
        return Behaviour()

    def _list(self, aoi_id: str, query: str, max_limit: int | None) -> Reply:
        window = {"offset": 0, "limit": 10}
        # Of a parameter that comes twice the first counts, as with Go's url.Values.Get.
        for name, text in reversed(parse_qsl(query, keep_blank_values=True)):
            if name not in window:
                continue
            if not _NUMBER.fullmatch(text):
                return envelope(400, f"{name} must be a whole number", {"parameter": name})
            window[name] = int(text)
        limit = window["limit"] if max_limit is None else min(window["limit"], max_limit)
        body = self.listing(aoi_id, window["offset"], limit)
        if body is None:
            return envelope(404, "no such AOI", {"aoi_id": aoi_id})
        return Reply(200, body)

    async def _control(self, request: web.BaseRequest, path: str) -> Reply:
        if not _is_loopback(request.remote):
            return envelope(403, "controls are for loopback peers only")
        try:
            return await self._steer(request, path)
        except BadBehaviour as problem:
            return envelope(400, str(problem), {"field": problem.field})
        except (ValueError, RecursionError) as problem:
            return envelope(400, str(problem))

    async def _steer(self, request: web.BaseRequest, path: str) -> Reply:
        match request.method, path:
            case "GET", "/_mock/requests":
                found = [asdict(recorded) for recorded in self.requests]
                return Reply(200, json.dumps({"requests": found}).encode())
            case "DELETE", "/_mock":
                self.reset()
                return Reply(200, b"{}")
            case "POST", "/_mock/behaviour":
                fields = await _json(request)
                if not isinstance(fields, dict):
                    raise ValueError("must be a JSON object")  # noqa: TRY004 - a bad post
                self.set_behaviour(**fields)
                return Reply(200, b"{}")
            case "POST", _ if found_aoi := _MOCK_AOI.fullmatch(path):
                return self._stock(unquote(found_aoi[1]), await _json(request))
        return envelope(404, "no such control", {"method": request.method, "path": path})

    def _stock(self, aoi_id: str, goods: Any) -> Reply:
        match goods:
            case {"count": int(count), **rest} if not rest and not isinstance(count, bool):
                self._catalogue.set_count(aoi_id, count)
            case list(assets) | {"assets": list(assets)} if all(isinstance(asset, dict) for asset in assets):
                self.set_assets(aoi_id, assets)
            case {"assets": None}:
                self.set_assets(aoi_id, None)
            case _:
                raise ValueError('must be a list of objects, {"assets": …} or {"count": n}')
        return Reply(200, go_json({"total": self._catalogue.total(aoi_id)}))


async def _json(request: web.BaseRequest) -> Any:
    # Not request.read(), which stops at a mebibyte: large listings are posted on purpose.
    return json.loads(await request.content.read())


def _is_loopback(peer: str | None) -> bool:
    try:
        address = ipaddress.ip_address((peer or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
