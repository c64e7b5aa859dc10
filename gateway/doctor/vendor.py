"""The vendor's word on the key: one request as the gateway sends them, and what its answer means.

Nothing of an answer is quoted but its status: vendors have been seen to repeat the key in their errors.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Mapping
from typing import Literal, NamedTuple

import aiohttp
from yarl import URL

from gateway.config.options import UpstreamOptions
from gateway.core.clock import Clock
from gateway.core.errors import UpstreamError, UpstreamUnreachable
from gateway.core.listing import MAX_ENVELOPE_BYTES, InvalidListing, parse_envelope, parse_listing
from gateway.core.query import AssetsQuery
from gateway.doctor.clocks import ClockReading, from_date
from gateway.doctor.report import CheckReport
from gateway.upstream.body import read_body
from gateway.upstream.client import client_session, request_headers
from gateway.upstream.keys import KeyRing, VendorKey
from gateway.upstream.resolver import Resolver

Scheme = Literal["raw", "bearer"]
Verdict = Literal["accepted", "refused", "unknown", "trouble"]

KEY, PREVIOUS = "vendor key", "previous key"
NO_AOI = "00000000-0000-0000-0000-000000000000"
# Whatever `upstream.attempt_timeout` says, nobody waits longer for a diagnosis.
_LONGEST = 8.0
_ROTATE = (
    "put the right key where upstream.api_key_file or GATEWAY_UPSTREAM__API_KEY has it; one rotated away is refused"
)
_NOT_PIXXEL = "check upstream.base_url: something else than the vendor's API answers, a proxy or a login page perhaps"


class _Judged(NamedTuple):
    verdict: Verdict
    found: str
    hint: str = ""
    unreachable: bool = False


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class VendorCheck:
    """The questions about the keys, asked one after the other. `reading` is what the first answer's Date shows."""

    def __init__(
        self, report: CheckReport, options: UpstreamOptions, keys: KeyRing, aoi_id: str | None, clock: Clock
    ) -> None:
        self._report = report
        self._options = options
        self._keys = keys
        self._aoi_id = aoi_id
        self._query = AssetsQuery(aoi_id or NO_AOI, 0, 1)
        self._clock = clock
        self.reading: ClockReading | None = None

    async def run(self) -> None:
        """Ask, and write down what was said."""
        current, *others = self._keys.in_order()
        scheme: Scheme = self._options.auth_scheme
        async with client_session(self._options, Resolver()) as session:
            judged = await self._ask(session, current, scheme)
            if judged.verdict == "refused":
                other: Scheme = "raw" if scheme == "bearer" else "bearer"
                again = await self._ask(session, current, other)
                if again.verdict == "accepted":
                    found = f"refused as it is sent now ({scheme}), and accepted as {other}"
                    judged = _Judged("refused", found, f'upstream.auth_scheme = "{other}"')
            self._write(judged)
            for previous in others:
                if judged.unreachable:
                    self._report.skip(PREVIOUS, f"{KEY} failed")
                else:
                    self._write_previous(await self._ask(session, previous, scheme))

    def _write(self, judged: _Judged) -> None:
        match judged.verdict:
            case "accepted":
                self._report.ok(KEY, judged.found)
            case "unknown":
                self._report.warn(KEY, judged.found, judged.hint)
            case _:
                self._report.fail(KEY, judged.found, judged.hint, unreachable=judged.unreachable)

    def _write_previous(self, judged: _Judged) -> None:
        match judged.verdict:
            case "accepted":
                self._report.ok(PREVIOUS, "still accepted")
            case "refused":
                self._report.warn(
                    PREVIOUS, "not accepted any more", "when the rotation is over, remove upstream.previous_api_key"
                )
            case _:
                self._report.warn(PREVIOUS, judged.found, judged.hint)

    async def _ask(self, session: aiohttp.ClientSession, key: VendorKey, scheme: Scheme) -> _Judged:
        options = self._options
        url = URL(options.base_url + self._query.target, encoded=True)
        headers = request_headers(key, scheme, f"doctor-{secrets.token_hex(8)}")
        proxy = None if options.proxy is None else options.proxy.get_secret_value()
        limit = min(options.attempt_timeout, _LONGEST)
        timeout = aiohttp.ClientTimeout(total=limit, connect=options.connect_timeout)
        sent = self._clock.now()
        try:
            async with session.get(
                url, headers=headers, allow_redirects=False, proxy=proxy, timeout=timeout
            ) as response:
                if self.reading is None:
                    self.reading = from_date(response.headers, sent, self._clock.now())
                most = options.max_body_bytes if response.status == 200 else MAX_ENVELOPE_BYTES
                answer = _Answer(response.status, response.headers, await read_body(response, most))
        except TimeoutError:  # aiohttp's own are among them
            hint = "ask the vendor, or see its status page; while it hangs, the gateway serves what it has kept"
            return _Judged("trouble", f"no complete answer within {limit:g} s", hint, unreachable=True)
        except aiohttp.ClientHttpProxyError as error:
            hint = "check the password in upstream.proxy, and its rules"
            return _Judged("trouble", f"the proxy answers {error.status} in the vendor's place", hint)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError, UpstreamUnreachable) as error:
            hint = "ask the vendor, or see its status page; or a proxy on the way cuts connections"
            return _Judged("trouble", f"no answer: {type(error).__name__}", hint, unreachable=True)
        except (aiohttp.ClientError, UpstreamError, zlib.error, ValueError) as error:
            # Only the class is told: the words of some of aiohttp's errors hold the request's headers, key included.
            return _Judged("trouble", f"the answer cannot be read: {type(error).__name__}", _NOT_PIXXEL)
        return self._judge(answer)

    def _judge(self, answer: _Answer) -> _Judged:
        status = answer.status
        is_error = parse_envelope(answer.body) is not None
        match status:
            case 200:
                return self._judge_page(answer.body)
            case 404 if is_error:
                known = f"accepted (404: there is no AOI {self._aoi_id})" if self._aoi_id else "accepted"
                return _Judged("accepted", known)
            case 401:
                return _Judged("refused", "refused (401)", _ROTATE)
            case 403:
                return self._judge_forbidden()
            case 429:
                wait = answer.headers.get("Retry-After", "")
                hint = f"try again in {wait} s" if wait.isascii() and wait.isdigit() and len(wait) < 7 else "try later"
                return _Judged("unknown", "the vendor limits our rate (429), and says nothing of the key", hint)
            case _ if 300 <= status < 400:
                hint = (
                    "name in upstream.base_url where the API is; redirects are not followed, as they take the key along"
                )
                return _Judged("trouble", f"the vendor redirects ({status})", hint)
            case _ if status >= 500:
                hint = "wait, ask the vendor, or see its status page; meanwhile the gateway serves what it has kept"
                return _Judged("trouble", f"the vendor is in trouble ({status}), and says nothing of the key", hint)
            case _ if is_error:
                hint = "try an AOI that you know: `pixxel-gateway doctor --aoi ID`"
                return _Judged("unknown", f"the vendor answers {status}, which says nothing of the key", hint)
        return _Judged("trouble", f"{status} without the vendor's error envelope", _NOT_PIXXEL)

    def _judge_page(self, body: bytes) -> _Judged:
        if self._keys.is_in(body):
            hint = "tell the vendor; the gateway keeps and shows no such page"
            return _Judged("trouble", "the vendor's page repeats the key", hint)
        try:
            parse_listing(body, self._query.aoi_id)
        except InvalidListing:
            return _Judged("trouble", "200, and the body is no listing of assets", _NOT_PIXXEL)
        return _Judged("accepted", "accepted")

    def _judge_forbidden(self) -> _Judged:
        if self._aoi_id is None:
            found = "403: the key is refused, or known and without rights; which one cannot be told by an AOI of nobody"
            return _Judged("refused", found, "try one of yours: `pixxel-gateway doctor --aoi ID`")
        found = f"403: the key is refused, or may not read {self._aoi_id}"
        return _Judged("refused", found, f"ask the vendor for the right to read it; if no AOI can be read, {_ROTATE}")
