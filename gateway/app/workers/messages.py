"""What a worker and its parent say to each other, as bytes on a socket pair.

Each message is its length in four bytes and then msgpack. Both ends are the same program, forked, so that there are no
versions to agree about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

Topic = Literal["numbers", "snapshot", "purge", "soft purge"]


class Started(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """To the parent: I serve."""


class MetricsReport(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """To the parent: what I have counted so far, as `exposition` encodes it."""

    data: bytes


class StatusReport(msgspec.Struct, array_like=True, tag=8, frozen=True):
    """To the parent: my snapshot for the status page, as `telemetry.status.snapshot` encodes it."""

    data: bytes


class Request(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """To the parent: have the others do this. `number` is mine to know the answer by; `aoi_id` is for a purge."""

    number: int
    topic: Topic
    aoi_id: str | None = None


class RequestDone(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """To the parent: I have done what was asked in this round."""

    round: int


class RequestToWorker(msgspec.Struct, array_like=True, tag=5, frozen=True):
    """To a worker: do this, and tell when it is done."""

    round: int
    topic: Topic
    aoi_id: str | None = None


class Response(msgspec.Struct, array_like=True, tag=6, frozen=True):
    """To the worker that asked: whether all others have done it, and what they told.

    These are the numbers, or the snapshots, of all others, ended ones included.
    """

    number: int
    complete: bool
    results: list[bytes]


class LinesLost(msgspec.Struct, array_like=True, tag=9, frozen=True):
    """To a worker: count this many dropped log lines, which the parent, having no metrics, could not write."""

    lines: int


class Shutdown(msgspec.Struct, array_like=True, tag=7, frozen=True):
    """To a worker: the whole group ends."""

    drain: bool


Message = (
    Started | MetricsReport | StatusReport | Request | RequestDone | RequestToWorker | Response | LinesLost | Shutdown
)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_HEAD = 4


def encode(message: Message) -> bytes:
    """A message as it goes out."""
    data = _ENCODER.encode(message)
    return len(data).to_bytes(_HEAD, "big") + data


class MessageReader:
    """Bytes in, messages out."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are whole with these bytes."""
        self._held += data
        while len(self._held) >= _HEAD:
            end = _HEAD + int.from_bytes(self._held[:_HEAD], "big")
            if len(self._held) < end:
                return
            message = _DECODER.decode(self._held[_HEAD:end])
            del self._held[:end]
            yield message
