"""The internals of aiohttp that the pool of vendor connections uses: each is named that a new version lacks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (aiohttp.TCPConnector.connect, ["req", "traces", "timeout"]),
        (aiohttp.TCPConnector._get, ["key", "traces"]),
        (aiohttp.TCPConnector._release, ["key", "protocol", "should_close"]),
        (aiohttp.TCPConnector._create_connection, ["req", "traces", "timeout"]),
        (aiohttp.TCPConnector._close, ["abort_ssl"]),
        (ResponseHandler.data_received, ["data"]),
        (ResponseHandler.feed_data, ["data", "size"]),
        (ResponseHandler.connection_made, ["transport"]),
        (ResponseHandler.connection_lost, ["exc"]),
        (ResponseHandler.pause_reading, []),
        (ResponseHandler.abort, []),
        (ResponseHandler.close, []),
        (ResponseHandler.is_connected, []),
        (ResponseHandler.exception, []),
        (ResponseHandler.set_response_params, None),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_aiohttp_has_the_method(method: Callable[..., object], parameters: list[str] | None) -> None:
    found = list(inspect.signature(method).parameters)[1:]
    assert parameters is None or found == parameters


async def test_aiohttp_has_the_state() -> None:
    async with aiohttp.TCPConnector() as connector:
        assert isinstance(connector._conns, dict)
        assert callable(connector._factory)
        assert connector._closed is False
        assert connector._loop is asyncio.get_running_loop()
    assert isinstance(inspect.getattr_static(ResponseHandler, "should_close"), property)
    assert ResponseHandler(asyncio.get_running_loop())._loop is asyncio.get_running_loop()
