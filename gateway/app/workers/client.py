"""The other workers, as one worker knows them: by what the parent passes on.

A socket pair to the parent, made before the fork, has no name in any file system, and its end is the parent's end: a
parent that was killed leaves no worker behind.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal

from gateway.app.workers.messages import (
    LinesLost,
    Message,
    MessageReader,
    MetricsReport,
    Request,
    RequestDone,
    RequestToWorker,
    Response,
    Shutdown,
    Started,
    StatusReport,
    Topic,
    encode,
)
from gateway.core.errors import StoreDown

# Longer than the parent waits for the others (see `channel`).
_NUMBERS_SECONDS = 0.5
_PURGE_SECONDS = 3.0
_SNAPSHOT_SECONDS = 0.5
# What is counted within this time before a kill -9 is lost, at most.
_TELL_SECONDS = 1.0
_READ = 262_144

Ending = Literal["drain", "now"]


class WorkerClient:
    """This worker's way to the others: `register`, `open`, and `run` until the parent has closed its end."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        """How the group ends; `now` also when the parent is gone."""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._telling = asyncio.Lock()
        self._asked: dict[int, asyncio.Future[Response]] = {}
        self._number = 0
        self._known: list[bytes] = []
        self._known_snapshots: list[bytes] = []
        self._numbers: Callable[[], Awaitable[bytes]] = _nothing
        self._snapshot: Callable[[], bytes] = bytes
        self._purge: Callable[[str | None, bool], None] = lambda _aoi_id, _soft: None
        self._lines_lost: Callable[[int], None] = lambda _: None

    def register(
        self,
        *,
        numbers: Callable[[], Awaitable[bytes]],
        snapshot: Callable[[], bytes],
        purge: Callable[[str | None, bool], None],
        lines_lost: Callable[[int], None],
    ) -> None:
        """Register what the parent and the other workers may ask of this worker.

        `numbers` gives the metrics, `snapshot` the status page's figures; `purge` purges what this worker alone keeps;
        `lines_lost` counts log lines that the parent could not write.
        """
        self._numbers = numbers
        self._snapshot = snapshot
        self._purge = purge
        self._lines_lost = lines_lost

    async def open(self) -> None:
        """Begin to talk."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._channel)

    async def run(self) -> None:
        """Do what is asked, and tell the numbers once a second, until the parent is gone."""
        assert self._reader is not None, "there is a channel after open()"  # noqa: S101 - which every caller has called
        inbox, telling = MessageReader(), asyncio.create_task(self._keep_telling())
        try:
            while data := await self._reader.read(_READ):
                for message in inbox.feed(data):
                    await self._open(message)
        except ConnectionError:
            pass  # the parent ended over something that we had sent
        finally:
            telling.cancel()
            if not self.ended.done():
                self.ended.set_result("now")

    def started(self) -> None:
        """Tell the parent that this worker serves."""
        self._send(Started())

    async def metrics(self) -> list[bytes]:
        """The numbers of all, ended workers included; what one told last where it does not answer in time.

        This worker's are told first: whatever is shown must outlive it, or a counter would go back.
        """
        mine = await self._tell()
        told = await self._ask("numbers", None, _NUMBERS_SECONDS)
        if told is not None:
            self._known = told.results
        return [mine, *self._known]

    async def snapshots(self) -> list[bytes]:
        """The snapshots of all others, ended workers included; the last one of those who do not answer in time."""
        told = await self._ask("snapshot", None, _SNAPSHOT_SECONDS)
        if told is not None:
            self._known_snapshots = told.results
        return self._known_snapshots

    async def purge(self, aoi_id: str | None, soft: bool) -> None:
        """Purge what the others keep, each for itself. Raises StoreDown when one that lives has not confirmed it."""
        told = await self._ask("soft purge" if soft else "purge", aoi_id, _PURGE_SECONDS)
        if told is None or not told.complete:
            raise StoreDown("a worker did not confirm the purge")

    async def close(self) -> None:
        """Leave the last numbers behind."""
        self._send(StatusReport(self._snapshot()))
        await self._tell()
        if self._writer is not None:
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()

    async def _ask(self, matter: Topic, aoi_id: str | None, seconds: float) -> Response | None:
        self._number += 1
        number = self._number
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._send(Request(number, matter, aoi_id))
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._asked[number]

    async def _open(self, message: Message) -> None:
        match message:
            case RequestToWorker(number, "purge" | "soft purge" as matter, aoi_id):
                self._purge(aoi_id, matter == "soft purge")
                self._send(RequestDone(number))
            case RequestToWorker(number, "numbers"):
                await self._tell()
                self._send(RequestDone(number))
            case RequestToWorker(number, "snapshot"):
                self._send(StatusReport(self._snapshot()))
                self._send(RequestDone(number))
            case Response(number) if number in self._asked and not self._asked[number].done():
                self._asked[number].set_result(message)
            case LinesLost(lines):
                self._lines_lost(lines)
            case Shutdown(drain) if not self.ended.done():
                self.ended.set_result("drain" if drain else "now")
            case _:
                pass

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            await self._tell()

    async def _tell(self) -> bytes:
        async with self._telling:  # later numbers must not be overtaken by earlier ones
            numbers = await self._numbers()
            self._send(MetricsReport(numbers))
        return numbers

    def _send(self, message: Message) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(message))


async def _nothing() -> bytes:
    return b""
