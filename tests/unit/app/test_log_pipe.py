"""Lines of several writers on one standard output: whole, whatever their length, and never waited for."""

from __future__ import annotations

import fcntl
import os
import select

from gateway.app.workers.log_pipe import Funnel


def pour(funnel: Funnel) -> None:
    while funnel.waits and select.select([], [funnel.out], [], 0)[1]:
        funnel.pour()


def test_lines_longer_than_any_buffer_stay_whole() -> None:
    reading, writing = os.pipe()
    funnel = Funnel(writing, lambda line: line.replace(b"secret", b"[withheld]"))
    pipes = [os.pipe(), os.pipe()]
    sent = [[letter * 9000 + b"%d" % number for number in range(5)] for letter in (b"a", b"b")]
    data = [b"".join(line + b"\n" for line in lines) for lines in sent]
    received = b""
    while any(data):
        for turn, (theirs, ours) in enumerate(pipes):
            os.write(ours, data[turn][:1000])
            data[turn] = data[turn][1000:]
            assert funnel.read(theirs)
        funnel.write(b"the parent's own, with a secret")
        pour(funnel)
        received += os.read(reading, 65_536) if select.select([reading], [], [], 0)[0] else b""
    os.write(pipes[0][1], b"killed in the mid")
    for theirs, ours in pipes:
        os.close(ours)
        funnel.gone(theirs)
    funnel.pour_all()
    os.close(writing)
    while piece := os.read(reading, 65_536):
        received += piece
    lines = received.splitlines()
    assert [line for line in lines if line.startswith(b"a")] == sent[0]
    assert [line for line in lines if line.startswith(b"b")] == sent[1]
    assert set(lines) - {*sent[0], *sent[1]} == {b"the parent's own, with a [withheld]"}
    os.close(reading)


def test_a_reader_that_is_stuck_is_not_waited_for_and_one_that_is_gone_is_forgotten() -> None:
    reading, writing = os.pipe()
    capacity = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ) if hasattr(fcntl, "F_GETPIPE_SZ") else 65_536
    funnel = Funnel(writing, bytes)
    written = 0
    while funnel.has_room:
        funnel.write(b"x" * 99)
        written += 100
        pour(funnel)  # which ends when the pipe is full
    assert written > capacity + 200_000
    funnel.write(b"one more is dropped")
    funnel.pour_all(0.05)
    received = b""
    while len(received) < written:
        received += os.read(reading, 65_536)
        pour(funnel)
    assert received == (b"x" * 99 + b"\n") * (written // 100)
    os.close(reading)
    funnel.write(b"nobody reads this")
    funnel.pour_all()
    assert (funnel.has_room, funnel.waits) == (True, False)
    os.close(writing)
