"""Lines of several writers on one standard output: whole, whatever their length, and never waited for."""

from __future__ import annotations

import fcntl
import os
import select

from gateway.app.workers.log_pipe import LogPipe


def pour(log_pipe: LogPipe) -> None:
    while log_pipe.waits and select.select([], [log_pipe.out], [], 0)[1]:
        log_pipe.forward()


def test_lines_longer_than_any_buffer_stay_whole() -> None:
    reading, writing = os.pipe()
    log_pipe = LogPipe(writing, lambda line: line.replace(b"secret", b"[withheld]"))
    pipes = [os.pipe(), os.pipe()]
    sent = [[message * 9000 + b"%d" % number for number in range(5)] for message in (b"a", b"b")]
    data = [b"".join(line + b"\n" for line in lines) for lines in sent]
    received = b""
    while any(data):
        for turn, (theirs, ours) in enumerate(pipes):
            os.write(ours, data[turn][:1000])
            data[turn] = data[turn][1000:]
            assert log_pipe.read(theirs)
        log_pipe.write(b"the parent's own, with a secret")
        pour(log_pipe)
        received += os.read(reading, 65_536) if select.select([reading], [], [], 0)[0] else b""
    os.write(pipes[0][1], b"killed in the mid")
    for theirs, ours in pipes:
        os.close(ours)
        log_pipe.remove(theirs)
    log_pipe.forward_all()
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
    log_pipe = LogPipe(writing, bytes)
    written = 0
    while log_pipe.has_room:
        log_pipe.write(b"x" * 99)
        written += 100
        pour(log_pipe)  # which ends when the pipe is full
    assert written > capacity + 200_000
    log_pipe.write(b"one more is dropped")
    log_pipe.forward_all(0.05)
    received = b""
    while len(received) < written:
        received += os.read(reading, 65_536)
        pour(log_pipe)
    assert received == (b"x" * 99 + b"\n") * (written // 100)
    os.close(reading)
    log_pipe.write(b"nobody reads this")
    log_pipe.forward_all()
    assert (log_pipe.has_room, log_pipe.waits) == (True, False)
    os.close(writing)
