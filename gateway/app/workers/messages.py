"""What a worker and its parent say to each other, as bytes on a socket pair.

Each letter is its length in four bytes and then msgpack. Both ends are the same program, forked, so that there are no
versions to agree about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

Matter = Literal["numbers", "snapshot", "purge", "soft purge"]


class Started(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """To the parent: I serve."""


class Numbers(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """To the parent: what I have counted so far, as `exposition` encodes it."""

    data: bytes


class Shown(msgspec.Struct, array_like=True, tag=8, frozen=True):
    """To the parent: my snapshot for the status page, as `core.snapshot` encodes it."""

    data: bytes


class Ask(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """To the parent: have the others do this. `number` is mine to know the answer by; `aoi_id` is for a purge."""

    number: int
    matter: Matter
    aoi_id: str | None = None


class Done(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """To the parent: I have done what was asked in this round."""

    round: int


class Do(msgspec.Struct, array_like=True, tag=5, frozen=True):
    """To a worker: do this, and tell when it is done."""

    round: int
    matter: Matter
    aoi_id: str | None = None


class Told(msgspec.Struct, array_like=True, tag=6, frozen=True):
    """To the worker that asked: whether all others have done it, and what they told.

    These are the numbers, or the snapshots, of all others, ended ones included.
    """

    number: int
    complete: bool
    told: list[bytes]


class LinesLost(msgspec.Struct, array_like=True, tag=9, frozen=True):
    """To a worker: count this many dropped log lines, which the parent, having no metrics, could not write."""

    lines: int


class End(msgspec.Struct, array_like=True, tag=7, frozen=True):
    """To a worker: the whole group ends."""

    drain: bool


Letter = Started | Numbers | Shown | Ask | Done | Do | Told | LinesLost | End

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Letter] = msgspec.msgpack.Decoder(Letter)
_HEAD = 4


def sealed(letter: Letter) -> bytes:
    """A letter as it goes out."""
    data = _ENCODER.encode(letter)
    return len(data).to_bytes(_HEAD, "big") + data


class Inbox:
    """Bytes in, letters out."""

    def __init__(self) -> None:
        self._held = bytearray()

    def take(self, data: bytes) -> Iterator[Letter]:
        """The letters that are whole with these bytes."""
        self._held += data
        while len(self._held) >= _HEAD:
            end = _HEAD + int.from_bytes(self._held[:_HEAD], "big")
            if len(self._held) < end:
                return
            letter = _DECODER.decode(self._held[_HEAD:end])
            del self._held[:end]
            yield letter
