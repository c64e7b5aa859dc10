"""The vendor's listing: parse a page and its error envelope, and check their form.

The form is that of the guide page and the OpenAPI file of "List Assets for an AOI". Only the fields that decide
something are decoded; everything else is checked to be JSON and passed on unchanged. The decoder is stricter than most
(no NaN, no byte-order mark, nothing after the value), but it skips unknown strings without checking their UTF-8, and
integers without checking their length: both are checked here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from gateway.core import surrogates
from gateway.core.errors import Envelope

TERMINAL = frozenset({"success", "failed"})

# Python's json refuses integers beyond 4300 digits, as do many parsers some limit of theirs; a page that a client
# cannot read must not be stored. Runs of digits this long are rare enough to pay for a second parser. Whatever is so
# long has one of the blocks of half that length in it, whole, that the body falls into.
_LONG_DIGITS = 4300
_BLOCK = _LONG_DIGITS // 2

ID_BYTES = 8
NO_ID = bytes(ID_BYTES)

# A client sees these fields of a vendor's error; a larger one is not an envelope but a page of something.
MAX_ENVELOPE_BYTES = 65_536


class InvalidListing(ValueError):
    """The body is not a listing of this AOI; the message says why, without quoting it."""


# Beyond 63 bits it is no count of anything, and not every client could read it.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Pagination(msgspec.Struct):
    total: _Count
    offset: _Count
    limit: _Count


class _Asset(msgspec.Struct):
    # Loose types: an id or a status of an odd type makes no page invalid, it only proves nothing.
    id: Any = None
    aoi_id: Any = None
    status: Any = None


class _Page(msgspec.Struct):
    assets: list[_Asset] | None
    pagination: _Pagination


class _Error(msgspec.Struct):
    code: str
    message: str = ""
    details: Any = None


class _Enveloped(msgspec.Struct):
    error: _Error


_T = TypeVar("_T")
_PAGE = msgspec.json.Decoder(_Page)
_ENVELOPE = msgspec.json.Decoder(_Enveloped)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a valid page tells.

    `total`, `offset` and `limit` are as the vendor printed them; `settled` tells that all assets are terminal; `ids` is
    a digest of `ID_BYTES` for each asset in order, zeros for one whose id proves nothing.
    """

    total: int
    offset: int
    limit: int
    count: int
    settled: bool
    ids: bytes

    @property
    def is_whole(self) -> bool:
        """Whether the page holds as many assets as its own figures say."""
        return self.count == max(0, min(self.limit, self.total - self.offset))


def parse_listing(body: bytes, aoi_id: str) -> Listing:
    """Check a vendor 200 for `aoi_id` against the contract's section 5. Raises InvalidListing."""
    try:
        page = _decode(_PAGE, body)
        body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidListing("not UTF-8") from None
    except RecursionError:
        raise InvalidListing("nested too deeply") from None
    except msgspec.ValidationError as error:
        raise InvalidListing(f"not the shape of a listing: {error}") from None
    except msgspec.DecodeError:
        raise InvalidListing("not JSON") from None
    if any(body[at : at + _BLOCK].isdigit() for at in range(0, len(body), _BLOCK)) and not _readable(body):
        raise InvalidListing("a number of absurd length")
    assets = page.assets or []
    wanted = aoi_id.lower()
    for asset in assets:
        named = asset.aoi_id
        if named is not None and not (isinstance(named, str) and named.lower() == wanted):
            raise InvalidListing("an asset of another AOI")
    return Listing(
        total=page.pagination.total,
        offset=page.pagination.offset,
        limit=page.pagination.limit,
        count=len(assets),
        settled=all(isinstance(asset.status, str) and asset.status in TERMINAL for asset in assets),
        ids=b"".join(_id_digest(asset.id) for asset in assets),
    )


def _decode(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    """Decode JSON, lone surrogates included: they come out as private-use characters."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        masked = surrogates.masked(body)
        if masked == body:
            raise
        return decoder.decode(masked)


def _id_digest(value: Any) -> bytes:
    if not isinstance(value, str) or not value:
        return NO_ID
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=ID_BYTES).digest()


def _readable(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def parse_envelope(body: bytes) -> Envelope | None:
    """Read a vendor's error body; None when it is not `{"error": {"code", ...}}`."""
    if len(body) > MAX_ENVELOPE_BYTES:
        return None
    try:
        text = body.decode("utf-8")
        error = _decode(_ENVELOPE, body).error
        if surrogates.masked(body) != body:
            error = msgspec.convert(json.loads(text), _Enveloped).error  # as it is, now that it is known to be JSON
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return Envelope(error.code, error.message, error.details)


def render_envelope(envelope: Envelope) -> bytes:
    """Write an envelope as `parse_envelope` reads it."""
    return surrogates.encode(_Enveloped(_Error(envelope.code, envelope.message, envelope.details)))
