"""The parent of the workers: forks them, replaces those that die, ends them all.

It has one thread, no event loop and no connection of its own, and stays so: only then is a fork at any time as good as
one at the start, and a worker gets the sockets and the configuration, secrets included, without anything being written
where others could read it.

Signals: SIGTERM and SIGINT end the group, with and without a drain; a second one, or one that arrives before any worker
serves, ends it at once. SIGHUP goes to all workers, as soon as the first one serves. A worker blocks SIGTERM and SIGHUP
until it serves, so that neither is lost or kills it. It ignores
SIGINT, which a terminal sends to everybody, and takes SIGTERM as meant for itself alone: it drains and is replaced.
That a service manager sends SIGTERM to everybody does no harm, because a worker that goes alone keeps accepting for as
long as one that goes with all.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from gateway.app.startup import take_hangup
from gateway.app.workers.channel import WorkerChannels, WorkerConnection
from gateway.app.workers.log_pipe import LogPipe
from gateway.core.clock import SystemClock

# A worker that ends badly within this time of its start did so "at once"; the next one waits, longer each time.
_YOUNG_SECONDS = 10.0
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 30.0
_LOOK_SECONDS = 60.0
# Before any worker serves, the group ends within a second.
_FAREWELL_SECONDS = 0.3

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD) if sys.platform != "win32" else ()

_log = logging.getLogger("gateway")


@dataclass
class _Worker:
    """One place in the group, and the process that is in it, if there is one."""

    pid: int = 0
    line: WorkerConnection | None = None
    pipe: int = -1
    born: float = 0.0
    due: float = 0.0  # when a process is to be started here
    bad_ends: int = 0  # in a row, each soon after the start


class Supervisor:
    """`count` processes, each of which runs `work` with its end of a channel, on sockets that are bound already.

    `work` returns the exit code. `longest` is the time in seconds that ending may take; what lives longer is killed.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[socket.socket], int],
        sockets: Sequence[socket.socket],
        log_pipe: LogPipe,
        *,
        longest: float,
        when_started: Callable[[], None],
        when_hung_up: Callable[[], None],
    ) -> None:
        self._work = work
        self._sockets = sockets
        self._log_pipe = log_pipe
        self._longest = longest
        self._when_started = when_started
        self._when_hung_up = when_hung_up
        self._clock = SystemClock()
        self._switchboard = WorkerChannels(self._clock)
        self._workers = [_Worker() for _ in range(count)]
        self._ending: float | None = None  # until when
        self._proven = False  # one has come to serve
        self._complete = False  # and so have all of them
        self._code = 0
        self._hung_up = False
        self._lines_lost = 0
        self._wakeups = _SignalPipe()

    def run(self) -> int:
        """Serve until a signal; an exit code. When the first worker cannot serve, its code is the group's."""
        with self._wakeups.installed():
            self._hung_up = take_hangup()
            # What is here now is shared by all workers as long as nobody writes to it, which collecting would do.
            gc.collect()
            gc.freeze()
            while self._ending is None or any(worker.pid for worker in self._workers):
                self._start_due()
                self._wait()
                self._look_for_started()
                for number in self._wakeups.take():
                    self._take(number)
                self._switchboard.expire()
                self._reap()
                self._report_lost_lines()
        return self._code

    def _take(self, number: int) -> None:
        match number:
            case signal.SIGTERM | signal.SIGINT if self._ending is not None:
                self._kill_all()
                self._log_pipe.forward_all()
                sys.exit(128 + number)
            case signal.SIGTERM | signal.SIGINT if not self._proven:
                self._kill_all()
                _log.info("stopped before any worker was ready", extra={"why": signal.Signals(number).name})
                self._log_pipe.forward_all(_FAREWELL_SECONDS)
                sys.exit(0)
            case signal.SIGTERM | signal.SIGINT:
                _log.info("stopping", extra={"why": signal.Signals(number).name})
                self._end(drain=number == signal.SIGTERM)
            case signal.SIGHUP:
                self._hung_up = True
                self._reload()
            case _:
                pass

    def _reload(self) -> None:
        """Pass SIGHUP on once a worker serves. Those that start later have the new configuration from the beginning."""
        if not self._hung_up or not self._proven:
            return
        self._hung_up = False
        self._when_hung_up()
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, signal.SIGHUP)

    def _report_lost_lines(self) -> None:
        self._lines_lost += self._log_pipe.take_dropped()
        if self._lines_lost and self._switchboard.count_lost_lines(self._lines_lost):
            self._lines_lost = 0

    def _end(self, *, drain: bool) -> None:
        self._ending = self._clock.monotonic() + self._longest
        # Now, and not when the workers have ended. Whoever closes a listening socket last resets the connections that
        # nobody has accepted, and only a worker can accept them before it does (see `http.listener`). This copy would
        # outlive them and collect connections that nobody is there for.
        for sock in self._sockets:
            sock.close()
        self._switchboard.end(drain=drain)

    def _kill_all(self) -> None:
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, signal.SIGKILL)

    def _start_due(self) -> None:
        now = self._clock.monotonic()
        for worker in self._workers:
            if not self._proven and any(other.pid for other in self._workers):
                return  # one first: what keeps it from serving keeps all of them, and is to be told once
            if self._ending is None and not worker.pid and now >= worker.due:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        line, theirs = self._switchboard.connect()
        reading, writing = os.pipe()
        sys.stdout.flush()
        # Until the worker has handlers of its own, a signal must wait: ours would tell the parent of it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                self._become_worker(theirs, writing)
            worker.pid, worker.line, worker.pipe = pid, line, reading
            worker.born = self._clock.monotonic()
        except OSError as error:  # no more processes, or memory
            os.close(reading)
            self._switchboard.remove(line)
            self._put_off(worker)
            _log.warning("a worker cannot be started", extra={"why": error.strerror})
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            theirs.close()
            os.close(writing)

    def _become_worker(self, channel: socket.socket, out: int) -> None:
        """Leave the parent's life behind, work, and end; never returns."""
        code: object = 1
        try:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGCHLD))  # the others wait for handlers
            os.dup2(out, sys.stdout.fileno())
            # A worker that held the parent's ends would keep its siblings from seeing that the parent is gone.
            self._switchboard.close()
            self._wakeups.close()
            for descriptor in (out, *(worker.pipe for worker in self._workers)):
                if descriptor >= 0:
                    os.close(descriptor)
            code = self._work(channel)
        except SystemExit as error:
            code = error.code
        except BaseException:  # noqa: BLE001 - nothing may return into the parent's life
            sys.excepthook(*sys.exc_info())
        finally:
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(code if isinstance(code, int) else 1)

    def _wait(self) -> None:
        """Wait for a message, a line, a signal, room to write, or the time of something."""
        lines = [worker.line for worker in self._workers if worker.line is not None and worker.line.open]
        pipes = [worker.pipe for worker in self._workers if worker.pid and worker.pipe >= 0]
        log_pipe = self._log_pipe
        to_read: list[Any] = [self._wakeups, *(line.sock for line in lines), *(pipes if log_pipe.has_room else ())]
        to_write: list[Any] = [line.sock for line in lines if line.unsent] + ([log_pipe.out] if log_pipe.waits else [])
        readable, writable, _ = select.select(to_read, to_write, [], self._patience())
        if log_pipe.out in writable:
            log_pipe.forward()
        for line in lines:
            if line.sock in writable:
                self._switchboard.write(line)
            if line.sock in readable:
                self._switchboard.read(line)
        for worker in self._workers:
            if worker.pipe in readable and not log_pipe.read(worker.pipe):
                self._close_pipe(worker)

    def _patience(self) -> float:
        moments = [self._switchboard.deadline, self._ending]
        if self._ending is None:
            moments += [worker.due for worker in self._workers if not worker.pid]
        now = self._clock.monotonic()
        return max(0.0, min((moment - now for moment in moments if moment is not None), default=_LOOK_SECONDS))

    def _reap(self) -> None:
        """See to workers that have ended, and kill those that have had their time."""
        if self._ending is not None and self._clock.monotonic() >= self._ending:
            _log.error("workers that did not end in time are killed")
            self._kill_all()
            self._ending += self._longest
        for worker in self._workers:
            if worker.pid and worker.line is not None:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
                if pid:
                    self._lose(worker, worker.line, os.waitstatus_to_exitcode(status))

    def _lose(self, worker: _Worker, line: WorkerConnection, code: int) -> None:
        pid = worker.pid
        self._switchboard.remove(line)
        self._proven = self._proven or line.started
        if worker.pipe >= 0:
            self._close_pipe(worker)
        worker.pid, worker.line = 0, None
        if self._ending is not None:
            self._code = self._code or int(code != 0)
            return
        if not self._proven:
            self._code = code if code > 0 else 1
            self._ending = self._clock.monotonic()
            return
        self._put_off(worker, bad=code != 0)
        _log.warning(
            "a worker has ended, another one takes its place",
            extra={
                "pid": pid,
                "why": signal.Signals(-code).name if code < 0 else f"exit code {code}",
                "after": max(0.0, worker.due - self._clock.monotonic()),
            },
        )

    def _put_off(self, worker: _Worker, *, bad: bool = True) -> None:
        """Say when the next process is started in this place: now, or later if they end at once again and again."""
        now = self._clock.monotonic()
        worker.bad_ends = worker.bad_ends + 1 if bad and now - worker.born < _YOUNG_SECONDS else 0
        delay = 0.0 if worker.bad_ends < 2 else min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (worker.bad_ends - 2))
        worker.due = now + delay

    def _close_pipe(self, worker: _Worker) -> None:
        self._log_pipe.remove(worker.pipe)
        worker.pipe = -1

    def _look_for_started(self) -> None:
        started = [worker.line is not None and worker.line.started for worker in self._workers]
        self._proven = self._proven or any(started)
        if not self._complete and all(started):
            self._complete = True
            self._when_started()
        self._reload()


class _SignalPipe:
    """Signals as bytes on a descriptor, for a process that waits in `select`."""

    def __init__(self) -> None:
        self._reading, self._writing = socket.socketpair()
        for end in (self._reading, self._writing):
            end.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._reading.fileno()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Receive signals in this context, instead of the handlers that were there before."""
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, _do_nothing) for number in _SIGNALS}
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)

    def take(self) -> bytes:
        """Return the numbers of the signals that have arrived since the last call."""
        try:
            return self._reading.recv(4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Receive no more signals here, as in a forked process."""
        signal.set_wakeup_fd(-1)
        self._reading.close()
        self._writing.close()


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal: only with a handler is its number written to the pipe."""
