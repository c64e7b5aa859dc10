"""The parent's end of every worker's channel: it passes on what workers ask of each other, and keeps what they counted.

It never waits for a worker: sockets do not block, and a round of questions ends at its deadline with what is known.
What an ended worker had counted is added to the totals, so that no series goes back; of one that was killed, what it
counted after it had told its numbers last (a second ago at most) is lost.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

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
from gateway.core.clock import Clock
from gateway.telemetry import exposition
from gateway.telemetry.status import snapshot
from gateway.telemetry.status.snapshot import Snapshot

# How long a worker may take over what another one asks, in seconds.
_PATIENCE: dict[Topic, float] = {"numbers": 0.2, "snapshot": 0.2, "purge": 2.0, "soft purge": 2.0}
_READ = 262_144


@dataclass(eq=False)
class WorkerConnection:
    """The channel of one worker."""

    sock: socket.socket
    started: bool = False
    open: bool = True
    unsent: bytearray = field(default_factory=bytearray)
    inbox: MessageReader = field(default_factory=MessageReader)
    numbers: bytes = b""
    snapshot: bytes = b""


@dataclass(eq=False)
class _Round:
    """Something that one worker asked of all others."""

    asker: WorkerConnection
    number: int
    matter: Topic
    waiting: set[WorkerConnection]
    deadline: float


class WorkerChannels:
    """Lines of all workers that live."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lines: list[WorkerConnection] = []
        self._rounds: dict[int, _Round] = {}
        self._last_round = 0
        self._ended: exposition.MetricFamilies = []
        self._ended_snapshot: Snapshot | None = None

    @property
    def deadline(self) -> float | None:
        """When `expire` has something to do next, on the monotonic clock."""
        return min((one.deadline for one in self._rounds.values()), default=None)

    def connect(self) -> tuple[WorkerConnection, socket.socket]:
        """A new line, and the worker's end of it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        line = WorkerConnection(ours)
        self._lines.append(line)
        return line, theirs

    def close(self) -> None:
        """Close every line, as a worker does with the parent's ends: they would keep the others from seeing it end."""
        for line in self._lines:
            line.sock.close()

    def end(self, *, drain: bool) -> None:
        """Tell all workers to end."""
        for line in self._lines:
            self._send(line, Shutdown(drain))

    def count_lost_lines(self, lines: int) -> bool:
        """Have a worker count log lines that were dropped; tell whether there is one that can."""
        for line in self._lines:
            if line.started and line.open:
                self._send(line, LinesLost(lines))
                return True
        return False

    def read(self, line: WorkerConnection) -> bool:
        """Take in what a worker says; whether it may say more."""
        try:
            data = line.sock.recv(_READ)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        for message in line.inbox.feed(data):
            self._open(line, message)
        if not data:
            line.open = False
            for number in list(self._rounds):  # it serves no more, so that what it kept is as good as gone
                self._done(line, number)
        return line.open

    def write(self, line: WorkerConnection) -> None:
        """Send what could not be sent before."""
        try:
            del line.unsent[: line.sock.send(line.unsent)]
        except BlockingIOError:
            pass
        except OSError:  # it has ended, which is told elsewhere
            line.unsent.clear()

    def remove(self, line: WorkerConnection) -> None:
        """Take leave of a worker that has ended, once all that it said is taken in."""
        while self.read(line):
            pass
        line.sock.close()
        self._lines.remove(line)
        if line.numbers:
            last = exposition.totals(exposition.decode(line.numbers))
            self._ended = exposition.merge((self._ended, last))
        if line.snapshot:
            left = snapshot.totals(snapshot.decode(line.snapshot))
            before = self._ended_snapshot
            self._ended_snapshot = left if before is None else snapshot.merge(before, left)
        self._rounds = {number: one for number, one in self._rounds.items() if one.asker is not line}

    def expire(self) -> None:
        """End the rounds whose time is over."""
        now = self._clock.monotonic()
        for number in [number for number, one in self._rounds.items() if now >= one.deadline]:
            self._answer(self._rounds.pop(number))

    def _open(self, line: WorkerConnection, message: Message) -> None:
        match message:
            case Started():
                line.started = True
            case MetricsReport(data):
                line.numbers = data
            case StatusReport(data):
                line.snapshot = data
            case Request(number, matter, aoi_id):
                self._ask(line, number, matter, aoi_id)
            case RequestDone(number):
                self._done(line, number)
            case _:
                pass

    def _ask(self, asker: WorkerConnection, number: int, matter: Topic, aoi_id: str | None) -> None:
        # One that only starts is asked as well: it may serve before this is answered.
        others = {line for line in self._lines if line is not asker and line.open}
        self._last_round += 1
        deadline = self._clock.monotonic() + _PATIENCE[matter]
        one = _Round(asker, number, matter, others, deadline)
        for line in others:
            self._send(line, RequestToWorker(self._last_round, matter, aoi_id))
        if others:
            self._rounds[self._last_round] = one
        else:
            self._answer(one)

    def _done(self, line: WorkerConnection, number: int) -> None:
        one = self._rounds.get(number)
        if one is None:
            return
        one.waiting.discard(line)
        if not one.waiting:
            self._answer(self._rounds.pop(number))

    def _answer(self, one: _Round) -> None:
        match one.matter:
            case "numbers":
                told = list(self._numbers_for(one.asker))
            case "snapshot":
                told = list(self._snapshots_for(one.asker))
            case "purge" | "soft purge":
                told = []
        self._send(one.asker, Response(one.number, not one.waiting, told))

    def _numbers_for(self, asker: WorkerConnection) -> Iterable[bytes]:
        yield from (line.numbers for line in self._lines if line is not asker and line.numbers)
        if self._ended:
            yield exposition.encode(self._ended)

    def _snapshots_for(self, asker: WorkerConnection) -> Iterable[bytes]:
        yield from (line.snapshot for line in self._lines if line is not asker and line.snapshot)
        if self._ended_snapshot is not None:
            yield snapshot.encode(self._ended_snapshot)

    def _send(self, line: WorkerConnection, message: Message) -> None:
        line.unsent += encode(message)
        self.write(line)
