"""How the vendor prints a page: where its assets stand, what is between them, and where the figures are.

With that, the vendor's answer for a window of a page can be put together out of the page's own bytes, and nothing is
printed anew: an asset keeps its spaces, its escapes and the spelling of its numbers. A mould is taken only from a page
that it reproduces byte for byte; a page with anything else in its frame has none, and serves as it is.
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
_FIGURES = rb'"pagination"' + _BLANK + b":" + _BLANK + rb"\{" + _BLANK + _NEXT.join([_FIGURE] * 3) + _BLANK + rb"\}"
_OPEN = _BLANK + rb"\{" + _BLANK
_CLOSE = _BLANK + rb"\}" + _BLANK
_ASSETS = rb'"assets"' + _BLANK + b":" + _BLANK + rb"\[" + _BLANK
# The frame before the first asset and after the last one, with the pagination on either side.
_HEADS = re.compile(_OPEN + b"(?:" + _FIGURES + _NEXT + b")?" + _ASSETS)
_TAILS = re.compile(_BLANK + rb"\]" + b"(?:" + _NEXT + _FIGURES + b")?" + _CLOSE)


class Figures(NamedTuple):
    """The pagination of a page."""

    total: int
    offset: int
    limit: int


class _Raws(msgspec.Struct):
    assets: list[msgspec.Raw]


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """Where one figure of the pagination stands in the body."""

    name: str
    start: int
    end: int


class Mould(msgspec.Struct, frozen=True, array_like=True):
    """Places in a page's body, in bytes from its beginning.

    The first asset starts at `start`, asset number n ends at `ends[n]` (an array of 32-bit integers, as bytes), and
    `between` bytes lie between two; None where the page has too few assets to tell.
    """

    start: int
    ends: bytes
    between: int | None
    figures: tuple[_Place, ...]

    @property
    def count(self) -> int:
        """How many assets the page has."""
        return len(self.ends) // _ENDS.itemsize

    def encode(self) -> bytes:
        """Write it down."""
        return msgspec.msgpack.encode(self)


class Piece(NamedTuple):
    """Assets `first` up to, not including, `last` of a page, counted from the page's first."""

    body: bytes
    mould: Mould
    first: int
    last: int


_ENDS = array("I")
_DECODER = msgspec.msgpack.Decoder(Mould)
_RAWS = msgspec.json.Decoder(_Raws)


def decode_mould(data: bytes) -> Mould | None:
    """Read a mould; None for a page that has none."""
    return _DECODER.decode(data) if data else None


def take_mould(body: bytes) -> Mould | None:
    """Take the mould of a valid page; None where the page cannot be put together again from its parts."""
    try:
        raws = _raws(body)
    except msgspec.ValidationError:
        return None
    except (msgspec.MsgspecError, RecursionError):
        # Lone surrogates are masked without moving anything, and a mould is about places alone.
        masked = surrogates.masked(body)
        return take_mould(masked) if masked != body else None
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
    figures = tuple(_Place(told[group].decode(), *told.span(group + 1)) for group in (1, 3, 5))
    if {figure.name for figure in figures} != set(Figures._fields):
        return None
    if b"".join((body[: head.end()], between.join(raws), body[place:])) != body:
        return None
    return Mould(head.end(), ends.tobytes(), len(between) if len(raws) > 1 else None, figures)


def _raws(body: bytes) -> list[bytes]:
    return [bytes(raw) for raw in _RAWS.decode(body).assets]


def render(pieces: Sequence[Piece], figures: Figures) -> bytes | None:
    """Put a page together from pieces that follow each other, at least one asset in all or an empty page's frame.

    None where the pieces were not printed alike, so that nobody can tell how the vendor would print them together.
    """
    cast = pieces[0]
    if len(pieces) > 1 and len({_frame(piece) for piece in pieces}) > 1:
        return None
    betweens = {found for piece in pieces if (found := _between(piece)) is not None}
    if len(betweens) > 1 or (not betweens and len(pieces) > 1):
        return None
    head, tail = _frame_ends(cast.mould)
    between = next(iter(betweens), b"")
    return b"".join(
        (
            _filled(cast, 0, head, figures),
            between.join(_assets(piece) for piece in pieces),
            _filled(cast, tail, len(cast.body), figures),
        )
    )


def _ends(mould: Mould) -> memoryview:
    return memoryview(mould.ends).cast("I")


def _assets(piece: Piece) -> bytes:
    if piece.first >= piece.last:
        return b""
    ends, between = _ends(piece.mould), piece.mould.between or 0
    start = piece.mould.start if piece.first == 0 else ends[piece.first - 1] + between
    return piece.body[start : ends[piece.last - 1]]


def _between(piece: Piece) -> bytes | None:
    """What stands between two assets."""
    if piece.mould.between is None:
        return None
    end = _ends(piece.mould)[0]
    return piece.body[end : end + piece.mould.between]


def _frame(piece: Piece) -> tuple[bytes, bytes]:
    """The page without its assets, and with zeros for its figures."""
    nought = Figures(0, 0, 0)
    head, tail = _frame_ends(piece.mould)
    return _filled(piece, 0, head, nought), _filled(piece, tail, len(piece.body), nought)


def _frame_ends(mould: Mould) -> tuple[int, int]:
    """Where the frame's first part ends, and where its second begins."""
    return mould.start, _ends(mould)[-1] if mould.count else mould.start


def _filled(piece: Piece, start: int, end: int, figures: Figures) -> bytes:
    """A stretch of the frame, with these figures in place of its own."""
    parts, place = [], start
    for figure in piece.mould.figures:
        if start <= figure.start < end:
            parts += [piece.body[place : figure.start], b"%d" % getattr(figures, figure.name)]
            place = figure.end
    return b"".join((*parts, piece.body[place:end]))
