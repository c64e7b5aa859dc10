"""How the vendor formats a page: the positions of its assets, the bytes between them, and its pagination.

A window is rendered from the bytes of its page, so an asset keeps its white space, its escapes and the form of its
numbers. A template is derived only from a page that it reproduces byte for byte. A page whose frame has anything else
has no template and is only served as it is.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from gateway.core import surrogates

_BLANK = rb"[ \t\n\r]*"
_FIGURE = rb'"(total|offset|limit)"' + _BLANK + b":" + _BLANK + rb"(0|[1-9][0-9]*)"
_NEXT = _BLANK + b"," + _BLANK
_PAGINATION = rb'"pagination"' + _BLANK + b":" + _BLANK + rb"\{" + _BLANK + _NEXT.join([_FIGURE] * 3) + _BLANK + rb"\}"
_OPEN = _BLANK + rb"\{" + _BLANK
_CLOSE = _BLANK + rb"\}" + _BLANK
_ASSETS = rb'"assets"' + _BLANK + b":" + _BLANK + rb"\[" + _BLANK
# The frame before the first asset and after the last one, with the pagination on either side.
_HEADS = re.compile(_OPEN + b"(?:" + _PAGINATION + _NEXT + b")?" + _ASSETS)
_TAILS = re.compile(_BLANK + rb"\]" + b"(?:" + _NEXT + _PAGINATION + b")?" + _CLOSE)


class Pagination(NamedTuple):
    """The pagination of a page."""

    total: int
    offset: int
    limit: int


class _Raws(msgspec.Struct):
    assets: list[msgspec.Raw]


class _Span(msgspec.Struct, frozen=True, array_like=True):
    """Position of one number of the pagination in the body."""

    name: str
    start: int
    end: int


class PageTemplate(msgspec.Struct, frozen=True, array_like=True):
    """Places in a page's body, in bytes from its beginning.

    The first asset starts at `start`, asset number n ends at `ends[n]` (an array of 32-bit integers, as bytes), and
    `between` bytes lie between two; None where the page has too few assets to tell.
    """

    start: int
    ends: bytes
    between: int | None
    pagination: tuple[_Span, ...]

    @property
    def count(self) -> int:
        """How many assets the page has."""
        return len(self.ends) // _ENDS.itemsize

    def encode(self) -> bytes:
        """Write it down."""
        return msgspec.msgpack.encode(self)


class Slice(NamedTuple):
    """Assets `first` up to, not including, `last` of a page, counted from the page's first."""

    body: bytes
    template: PageTemplate
    first: int
    last: int


_ENDS = array("I")
_DECODER = msgspec.msgpack.Decoder(PageTemplate)
_RAWS = msgspec.json.Decoder(_Raws)


def decode_template(data: bytes) -> PageTemplate | None:
    """Read a template; None for a page that has none."""
    return _DECODER.decode(data) if data else None


def derive_template(body: bytes) -> PageTemplate | None:
    """Take the template of a valid page; None where the page cannot be put together again from its parts."""
    try:
        raws = _raws(body)
    except msgspec.ValidationError:
        return None
    except (msgspec.MsgspecError, RecursionError):
        # Lone surrogates are masked without moving anything, and a template is about places alone.
        masked = surrogates.masked(body)
        return derive_template(masked) if masked != body else None
    head = _HEADS.match(body)
    if head is None:
        return None
    ends = array("I")
    place = head.end()
    between = b""
    for number, raw in enumerate(raws):
        if number == 1:
            between = body[place : body.find(b"{", place)]
        place += len(raw) + (len(between) if number else 0)
        ends.append(place)
    tail = _TAILS.fullmatch(body, place)
    if tail is None or (head[1] is None) == (tail[1] is None):
        return None
    told = head if head[1] is not None else tail
    pagination = tuple(_Span(told[group].decode(), *told.span(group + 1)) for group in (1, 3, 5))
    if {figure.name for figure in pagination} != set(Pagination._fields):
        return None
    if b"".join((body[: head.end()], between.join(raws), body[place:])) != body:
        return None
    return PageTemplate(head.end(), ends.tobytes(), len(between) if len(raws) > 1 else None, pagination)


def _raws(body: bytes) -> list[bytes]:
    return [bytes(raw) for raw in _RAWS.decode(body).assets]


def render(pieces: Sequence[Slice], pagination: Pagination) -> bytes | None:
    """Put a page together from pieces that follow each other, at least one asset in all or an empty page's frame.

    None where the pieces were not printed alike, so that nobody can tell how the vendor would print them together.
    """
    cast = pieces[0]
    if len(pieces) > 1 and len({_frame(piece) for piece in pieces}) > 1:
        return None
    betweens = {found for piece in pieces if (found := _between(piece)) is not None}
    if len(betweens) > 1 or (not betweens and len(pieces) > 1):
        return None
    head, tail = _frame_ends(cast.template)
    between = next(iter(betweens), b"")
    return b"".join(
        (
            _filled(cast, 0, head, pagination),
            between.join(_assets(piece) for piece in pieces),
            _filled(cast, tail, len(cast.body), pagination),
        )
    )


def _ends(template: PageTemplate) -> memoryview:
    return memoryview(template.ends).cast("I")


def _assets(piece: Slice) -> bytes:
    if piece.first >= piece.last:
        return b""
    ends, between = _ends(piece.template), piece.template.between or 0
    start = piece.template.start if piece.first == 0 else ends[piece.first - 1] + between
    return piece.body[start : ends[piece.last - 1]]


def _between(piece: Slice) -> bytes | None:
    """What stands between two assets."""
    if piece.template.between is None:
        return None
    end = _ends(piece.template)[0]
    return piece.body[end : end + piece.template.between]


def _frame(piece: Slice) -> tuple[bytes, bytes]:
    """The page without its assets, and with zeros for its pagination."""
    nought = Pagination(0, 0, 0)
    head, tail = _frame_ends(piece.template)
    return _filled(piece, 0, head, nought), _filled(piece, tail, len(piece.body), nought)


def _frame_ends(template: PageTemplate) -> tuple[int, int]:
    """Where the frame's first part ends, and where its second begins."""
    return template.start, _ends(template)[-1] if template.count else template.start


def _filled(piece: Slice, start: int, end: int, pagination: Pagination) -> bytes:
    """Return a part of the frame with this pagination instead of its own."""
    parts, place = [], start
    for figure in piece.template.pagination:
        if start <= figure.start < end:
            parts += [piece.body[place : figure.start], b"%d" % getattr(pagination, figure.name)]
            place = figure.end
    return b"".join((*parts, piece.body[place:end]))
