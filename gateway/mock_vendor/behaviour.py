"""What the stand-in vendor is told to do wrong.

Owns the grammar of a behaviour: which fields there are, their types and bounds, and what `true`
means in each. Refuses to know sockets, assets and requests; the server acts on what is read here.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

BOMB_BYTES = 100_000_000
# No UTF-8 and no JSON, whichever of the two a reader tries first.
GARBAGE = b"\x00\xff\xfe not json \x80{]"
_MEBIBYTE = 1 << 20
_BOMB_MAX = (1 << 32) - 1


class BadBehaviour(ValueError):
    """A field that does not exist or has a wrong value; `field` names it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One scope's misbehaviour. Times in seconds, sizes in bytes; a default changes nothing."""

    delay: float = 0.0
    status: int | None = None
    retry_after: str | None = None
    hang: float = 0.0
    """Infinite when the request is never answered."""
    reset_after_bytes: int | None = None
    truncate: int | bool = False
    """How many bytes of the body go out; True: half of them."""
    garbage: bytes | None = None
    content_type: str | None = None
    gzip_bomb: int | None = None
    """The decoded size."""
    redirect_to: str | None = None
    trickle: float | None = None
    """The pause before each byte of the body."""
    times: int | None = None
    """How many requests it applies to; None: all."""
    aoi_id: str | None = None
    max_limit: int | None = None

    def cut(self, size: int) -> int | None:
        """Return after how many of a body's `size` bytes the connection ends, None: it does not."""
        if self.reset_after_bytes is not None:
            return min(self.reset_after_bytes, size)
        if self.truncate is False:
            return None
        return size // 2 if self.truncate is True else min(self.truncate, size)


def parse(fields: Mapping[str, Any]) -> Behaviour:
    """Return the behaviour that `fields` (as in the JSON of a POST) describe.

    `false` for a field that may be `true` is as if the field were absent. Raises BadBehaviour for
    the first field that is unknown or ill-typed.
    """
    read: dict[str, Any] = {}
    for name, value in fields.items():
        reader = _READERS.get(name)
        if reader is None:
            raise BadBehaviour(name, f"unknown; known are {', '.join(_READERS)}")
        try:
            read[name] = reader(value)
        except ValueError as problem:
            raise BadBehaviour(name, str(problem)) from None
    return Behaviour(**read)


def gzip_bomb(size: int, tail: bytes) -> Iterator[bytes]:
    """Yield, piece by piece, the gzip form of `size` decoded bytes: blanks, and `tail` at the end.

    Decoded it is the page `tail` with much white space before it, so that only a bound on the size
    saves the reader. A piece stands for about a mebibyte and takes well under a millisecond.
    """
    if len(tail) > size:
        tail = b""
    blanks, rest = divmod(size - len(tail), _MEBIBYTE)
    chunk = b" " * _MEBIBYTE
    # A full flush forgets the window and ends on a byte, so that the piece can be repeated as it
    # is; compressing the whole afresh would hold up the event loop that tests share with it.
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    piece = packer.compress(chunk) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    yield b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    for _ in range(blanks):
        checksum = zlib.crc32(chunk, checksum)
        yield piece
    end = chunk[:rest] + tail
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    yield packer.compress(end) + packer.flush()
    yield zlib.crc32(end, checksum).to_bytes(4, "little") + size.to_bytes(4, "little")


def _number(value: object) -> float:
    # `true` is an int to Python, but nobody means one second by it.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")  # noqa: TRY004 - all faults of a field are one kind
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("is too large") from None
    if not math.isfinite(number) or number < 0:
        raise ValueError("must be finite and not negative")
    return number


def _whole(low: int, high: int | None = None) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("must be a whole number")  # noqa: TRY004 - as above
        if value < low or (high is not None and value > high):
            raise ValueError(f"must be {low} to {high}" if high else f"must be at least {low}")
        return value

    return read


def _header_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")  # noqa: TRY004 - as above
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
        raise ValueError("must not contain control characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode") from None
    return value


def _retry_after(value: object) -> str:
    if isinstance(value, str):
        return _header_text(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        # JSON's 1e9 arrives as a float; the header's grammar has whole seconds only.
        whole = isinstance(value, float) and value.is_integer()
        return str(int(value)) if whole else str(value)
    raise ValueError("must be a number or a string")


def _garbage(value: object) -> bytes | None:
    if isinstance(value, bool):
        return GARBAGE if value else None
    if not isinstance(value, str):
        raise ValueError("must be true or a string")  # noqa: TRY004 - as above
    try:
        # "\udc80" to "\udcff" stand for the single bytes 0x80 to 0xff, which JSON cannot carry.
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("has surrogates other than \\udc80 to \\udcff") from None


def _or_bool(if_true: object, if_false: object, read: Callable[[object], object]) -> Callable[[object], object]:
    def either(value: object) -> object:
        if isinstance(value, bool):
            return if_true if value else if_false
        try:
            return read(value)
        except ValueError as problem:
            raise ValueError(f"{problem}, or true") from None

    return either


_READERS: dict[str, Callable[[object], object]] = {
    "delay": _number,
    "status": _whole(99, 999),
    "retry_after": _retry_after,
    "hang": _or_bool(math.inf, 0.0, _number),
    "reset_after_bytes": _whole(0),
    "truncate": _or_bool(if_true=True, if_false=False, read=_whole(0)),
    "garbage": _garbage,
    "content_type": _header_text,
    "gzip_bomb": _or_bool(BOMB_BYTES, None, _whole(1, _BOMB_MAX)),
    "redirect_to": _header_text,
    "trickle": _or_bool(1.0, None, _number),
    "times": _whole(1),
    "aoi_id": _header_text,
    "max_limit": _whole(1),
}
