"""Schemathesis reads our OpenAPI document and holds the running gateway to it."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, NamedTuple, TypeVar

import pytest
import schemathesis
from harness import VENDOR_KEY, Play, playing
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.core.query import QueryRules
from gateway.http.openapi import document
from gateway.mock_vendor.server import MockVendor

Case = schemathesis.Case[Any]
T = TypeVar("T")
RULES = QueryRules(filters=("status",))
# Ways to refuse a request that schemathesis does not count as such: it may well send an `Expect`, or too long a target.
REFUSALS = [400, 401, 403, 404, 405, 406, 414, 417, 431]
CONFIG = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}})
API: Any = schemathesis.openapi.from_dict(document(RULES, tokens=True, status=True), config=CONFIG)
OPERATION = API["/v0/aois/{aoi_id}/assets"]["GET"]
# Without those that take every 5xx for our fault: the vendor's are passed on.
CONFORMANCE: list[Any] = [
    status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance,
]  # fmt: skip


class Scene(NamedTuple):
    vendor: MockVendor
    play: Play


def token(team: str) -> dict[str, str]:
    return {"Authorization": f"Bearer pgw_{team}"}


def digests(team: str) -> list[str]:
    return [hashlib.sha256(f"pgw_{team}".encode()).hexdigest()]


@contextmanager
def elsewhere(stage: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Run a stage in the loop of a thread of its own: schemathesis blocks where it is called."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        entered = asyncio.run_coroutine_threadsafe(stage.__aenter__(), loop).result()
        try:
            yield entered
        finally:
            asyncio.run_coroutine_threadsafe(stage.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@asynccontextmanager
async def stage() -> AsyncIterator[Scene]:
    vendor = MockVendor(key=VENDOR_KEY)
    await vendor.start()
    flags = {
        "upstream.base_url": vendor.url,
        "upstream.attempt_timeout": 1.5,
        "query.filters": list(RULES.filters),
        "teams.alpha.token_sha256": digests("alpha"),
        "teams.beta.token_sha256": digests("beta"),
        "teams.beta.aois": ["none-of-these"],
        "teams.gamma.token_sha256": digests("gamma"),
        "teams.gamma.rate": 0.001,
        "teams.ops.token_sha256": digests("ops"),
        "teams.ops.scopes": ["admin"],
    }
    async with playing(flags) as play:
        yield Scene(vendor, play)
    await vendor.stop()


@pytest.fixture(scope="module")
def running() -> Iterator[Scene]:
    with elsewhere(stage()) as scene:
        yield scene


@pytest.fixture
def scene(running: Scene) -> Scene:
    running.vendor.reset()
    running.play.clock.pass_by(1_000_000)  # whatever was cached, paused or counted is over
    return running


def call(scene: Scene, case: Case, **headers: str) -> Any:
    """The answer, which is as the document says."""
    sent = {**token("alpha"), **headers}
    return case.call_and_validate(base_url=scene.play.url, headers=sent, checks=CONFORMANCE)


@API.parametrize()  # type: ignore[untyped-decorator] # it promises no more than a Callable
@settings(max_examples=50, derandomize=True)
def test_the_gateway_does_as_the_document_says(case: Case, running: Scene) -> None:
    """Good and bad requests alike, without a token too; a 500 is none of what the document allows here."""
    case.call_and_validate(base_url=running.play.url, headers=token("alpha"))


def case_of(aoi_id: str, **query: Any) -> Case:
    case: Case = OPERATION.Case(path_parameters={"aoi_id": aoi_id}, query=query)
    return case


@settings(max_examples=50)
@given(
    number=st.integers(0, 19),
    query=st.fixed_dictionaries({}, optional={
        "offset": st.integers(0, 30) | st.just(999_999_999), "limit": st.integers(1, 1000),
        "status": st.sampled_from(["success", "a b&c", "~"]),
    }),
    headers=st.fixed_dictionaries({}, optional={
        "Accept-Encoding": st.sampled_from(["gzip", "identity", "*;q=0", "gzip;q=1, *;q=0", "br", ""]),
        "Cache-Control": st.sampled_from(["no-cache", "only-if-cached", "max-age=0"]),
        "If-None-Match": st.sampled_from(["*", '"x"']), "Range": st.just("bytes=0-1"),
        "X-Request-Id": st.sampled_from(["mine", "not mine"]), "X-Explain": st.just("1"),
    }),
)  # fmt: skip
def test_pages_are_as_the_document_says(
    running: Scene, number: int, query: dict[str, Any], headers: dict[str, str]
) -> None:
    answer = call(running, case_of(running.vendor.aoi_ids[number], **query), **headers)
    if headers.get("Accept-Encoding") == "*;q=0":
        assert answer.status_code == 406
    else:
        assert answer.status_code in ((200, 304, 504) if "only-if-cached" in headers.values() else (200, 304))


SITUATIONS: list[tuple[int, dict[str, Any]]] = [
    (500, {"status": 500}), (502, {"status": 502}), (503, {"status": 503}), (504, {"status": 504}),
    (502, {"status": 501}), (503, {"status": 429, "retry_after": "7"}), (503, {"status": 503, "retry_after": "7"}),
    (502, {"status": 401}), (502, {"status": 403}), (502, {"garbage": True}), (502, {"gzip_bomb": True}),
    (502, {"truncate": True}), (502, {"redirect_to": "/"}), (504, {"hang": True}),
    *((status, {"status": status}) for status in (400, 402, 404, 405, 409, 410, 418, 422, 451, 499)),
]  # fmt: skip


@pytest.mark.parametrize(("status", "behaviour"), SITUATIONS, ids=str)
def test_what_the_vendor_does_is_documented(scene: Scene, status: int, behaviour: dict[str, Any]) -> None:
    scene.vendor.set_behaviour(**behaviour)
    assert call(scene, case_of(scene.vendor.aoi_ids[0])).status_code == status


def test_what_a_client_does_is_documented(scene: Scene) -> None:
    aoi_id = scene.vendor.aoi_ids[0]
    good = case_of(aoi_id)
    gzipped = call(scene, good, **{"Accept-Encoding": "gzip"})
    assert gzipped.headers["content-encoding"] == ["gzip"]
    told = {
        200: call(scene, good),
        304: call(scene, good, **{"If-None-Match": gzipped.headers["etag"][0]}),
        400: call(scene, case_of(aoi_id, limit=0)),
        401: call(scene, good, Authorization="Bearer nobody"),
        403: call(scene, good, **token("beta")),
        404: call(scene, case_of("nobody")),
        406: call(scene, good, **{"Accept-Encoding": "*;q=0"}),
        414: call(scene, case_of("x" * 9000)),
        417: call(scene, good, Expect="nothing"),
        431: call(scene, good, Cookie="x" * 9000),
        504: call(scene, case_of(aoi_id, offset=7), **{"Cache-Control": "only-if-cached"}),
    }
    call(scene, good, **token("gamma"))
    told[429] = call(scene, good, **token("gamma"))
    assert {status: answer.status_code for status, answer in told.items()} == {status: status for status in told}
    assert "allowed" in call(scene, case_of(aoi_id, cursor=1)).json()["error"]["details"]


def test_the_status_is_as_the_document_says(scene: Scene) -> None:
    """Its shape too: what the schema of a fresh and of a busy gateway's status must hold to."""
    case = API["/status.json"]["GET"].Case()
    assert call(scene, case, **token("ops")).status_code == 200
    call(scene, case_of(scene.vendor.aoi_ids[0]))
    scene.vendor.set_behaviour(status=500)
    call(scene, case_of(scene.vendor.aoi_ids[0], offset=20))
    told = call(scene, case, **token("ops")).json()
    assert told["requests_total"]["outcomes"]["failed"] > 0
    assert (call(scene, case).status_code, call(scene, case, Authorization="nobody").status_code) == (403, 401)


async def test_the_document_is_the_one_that_is_served(vendor_url: str) -> None:
    async with playing({"upstream.base_url": vendor_url, "query.filters": list(RULES.filters)}) as play:
        served = (await play.get("/openapi.json")).json
        assert served == document(RULES, tokens=False, status=True)
    assert "/status.json" not in document(RULES, tokens=False, status=False)["paths"]
