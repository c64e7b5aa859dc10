"""Virtual time and a simulated network: an asyncio event loop on which no real time passes and no real socket is read.

The loop runs whatever is due and then moves its clock to the next timer. Connections are pairs of transports; every
delay comes from one random number generator, so that one seed decides the order of all events.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import heapq
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

# The replica on whose behalf code runs: its tasks and connections end when it is killed. Empty for the test itself.
OWNER: contextvars.ContextVar[str] = contextvars.ContextVar("owner", default="")

Address = tuple[str, int]


class _Selector:
    """Stands in for the selector, which only `close` asks for."""

    def close(self) -> None:
        """Nothing is open."""


class _Handle:
    """A scheduled call: asyncio's own handles, with their checks and their order in Python, take twice the time."""

    __slots__ = ("_arguments", "_callback", "_cancelled", "_context", "_when")

    def __init__(
        self, callback: Callable[..., object], arguments: tuple[Any, ...], context: contextvars.Context, when: float
    ) -> None:
        self._callback: Callable[..., object] | None = callback
        self._arguments = arguments
        self._context = context
        self._when = when
        self._cancelled = False

    def cancel(self) -> None:
        """Do not call, and refer to nothing any more."""
        self._cancelled = True
        self._callback, self._arguments = None, ()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def when(self) -> float:
        """When it is due, in virtual seconds."""
        return self._when


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop on virtual time whose connections go through `network`.

    Calls that are due at the same moment are made in the order in which they were scheduled.
    """

    _ready: deque[_Handle]
    _stopping: bool

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._now = 1000.0
        self._timers: list[tuple[float, int, _Handle]] = []
        self._timers_made = 0
        self._selector = _Selector()
        self.network = Network(self, rng)
        self._sockets: dict[int, Address] = {}
        self.tasks: dict[str, list[asyncio.Task[Any]]] = {}

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Handle:
        """Call in the next turn."""
        handle = _Handle(callback, args, contextvars.copy_context() if context is None else context, self._now)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Handle:
        """Call after some seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Handle:
        """Call at a moment."""
        handle = _Handle(callback, args, contextvars.copy_context() if context is None else context, when)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, handle))
        return handle

    def create_task(  # type: ignore[override]
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None, **options: Any
    ) -> asyncio.Task[Any]:
        """Make a task, which ends with the replica that it belongs to."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context, **options)
        owner = OWNER.get() if context is None else context.get(OWNER, "")
        if owner:
            owned = self.tasks.setdefault(owner, [])
            owned.append(task)
            if len(owned) > 256:
                self.tasks[owner] = [one for one in owned if not one.done()]
        return task

    def _run_once(self) -> None:
        """Make the calls of one turn. Where there are none, let time pass until the next one is due."""
        timers, ready = self._timers, self._ready
        if not ready and not self._stopping:
            while timers and timers[0][2]._cancelled:
                heapq.heappop(timers)
            if not timers:
                raise RuntimeError("nothing is scheduled any more: the simulation would wait for ever")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._callback is not None:
                try:
                    handle._context.run(handle._callback, *handle._arguments)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 - as asyncio does
                    self.call_exception_handler({"message": f"error in {handle._callback!r}", "exception": error})

    def _write_to_self(self) -> None:
        """No other thread exists that could wake the loop."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        """Refuse: a thread would not be deterministic."""
        raise RuntimeError(f"the simulation has no threads for {func!r}")

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        *,
        sock: socket.socket | None = None,
        **_: Any,
    ) -> tuple[Transport, asyncio.BaseProtocol]:
        """Connect to what listens in the simulated network."""
        if sock is not None:
            address = self._sockets.pop(sock.fileno())
            sock.close()
        else:
            assert host is not None
            assert port is not None
            address = (host, port)
            await self.network.reach(address)
        protocol = protocol_factory()
        return self.network.connect(protocol, address), protocol

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect a socket, which only stands for the address from here on."""
        await self.network.reach(address)
        self._sockets[sock.fileno()] = address

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], *, sock: socket.socket, **_: Any
    ) -> Server:
        """Listen at the address of the replica that asks."""
        sock.close()
        address = (OWNER.get(), 80)
        self.network.listeners[address] = _ProtocolListener(protocol_factory)
        return Server(self.network, address)


class Server:
    """What `create_server` returns."""

    def __init__(self, network: Network, address: Address) -> None:
        self._network = network
        self._address = address

    def close(self) -> None:
        """Stop listening."""
        self._network.listeners.pop(self._address, None)


class Listener(Protocol):
    """Accepts connections."""

    def accept(self) -> asyncio.BaseProtocol:
        """The protocol of a new connection."""
        ...


class _ProtocolListener:
    def __init__(self, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self.accept = factory


class Network:
    """All connections. `delay` gives the seconds that a piece of data travels."""

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self.listeners: dict[Address, Listener] = {}
        self.links: list[Link] = []
        self.unreachable: set[tuple[str, Address]] = set()
        """Pairs of owner and address between which new connections are never answered."""
        self.spikes = 0.0
        """The share of pieces that travel for up to a tenth of a second."""
        self.on_message: Callable[[Link, bytes], None] = lambda _link, _data: None
        """Called with what arrives at the client of a connection that listens for messages."""

    def delay(self) -> float:
        """How long the next piece of data travels."""
        if self.spikes and self._rng.random() < self.spikes:
            return self._rng.uniform(0.01, 0.1)
        return self._rng.uniform(0.0001, 0.002)

    async def reach(self, address: Address) -> None:
        """Go to an address and back. Raises ConnectionRefusedError where nothing listens."""
        while (OWNER.get(), address) in self.unreachable:  # noqa: ASYNC110 - nobody says when the way is free
            await asyncio.sleep(0.1)
        await asyncio.sleep(self.delay())
        if address not in self.listeners:
            raise ConnectionRefusedError(111, f"Connect call failed {address!r}")

    def connect(self, client: asyncio.BaseProtocol, address: Address) -> Transport:
        """Make a connection. Raises ConnectionRefusedError where nothing listens any more."""
        listener = self.listeners.get(address)
        if listener is None:
            raise ConnectionRefusedError(111, f"Connect call failed {address!r}")
        link = Link(self._loop, self, OWNER.get(), address)
        near, far = Transport(link, self._loop), Transport(link, self._loop)
        near.peer, far.peer = far, near
        link.ends = (near, far)
        self.links.append(link)
        near.begin(client)
        far.begin(listener.accept())
        return near

    def owned(self, owner: str, address: Address | None = None) -> list[Link]:
        """The open connections that a replica made (to one address), or that were made to it."""
        return [
            link for link in self.links
            if (link.owner == owner and (address is None or link.address == address))
            or (address is None and link.address[0] == owner)
        ]  # fmt: skip

    def to(self, address: Address) -> list[Link]:
        """The open connections to an address."""
        return [link for link in self.links if link.address == address]


class Link:
    """One connection, made by `owner`. While it is `stalled`, nothing arrives on it, and neither side knows."""

    def __init__(self, loop: VirtualLoop, network: Network, owner: str, address: Address) -> None:
        self._loop = loop
        self._network = network
        self.owner = owner
        self.address = address
        self.ends: tuple[Transport, Transport]
        self.stalled = False
        self.subscribed = False
        """Set by the Redis server for a connection that listens for messages."""
        self.began = loop.time()

    def cut(self, error: Exception | None = None) -> None:
        """End the connection on both sides: with an end of file, or with an error."""
        for end in self.ends:
            end.lose(error, after=0.0 if error else self._network.delay())

    def ended(self) -> None:
        """Forget the connection."""
        if self in self._network.links:
            self._network.links.remove(self)


# Of struct tcp_info (linux/tcp.h): tcpi_rtt (u32, microseconds) and tcpi_bytes_received (u64).
_TCP_INFO = struct.Struct("=68xI56xQ")
# Never readable: what arrives on a simulated connection is delivered at once.
_QUIET, _OTHER_END = socket.socketpair()


class Socket:
    """What code that looks at the socket of a connection sees (`gateway.upstream.transport_state`)."""

    family = _QUIET.family
    type = _QUIET.type

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def fileno(self) -> int:
        """A descriptor on which nothing arrives."""
        return _QUIET.fileno()

    def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:
        """What the kernel knows of the connection (TCP_INFO)."""
        if (level, option) != (socket.IPPROTO_TCP, socket.TCP_INFO):
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        return _TCP_INFO.pack(2000, self._transport.received)[:size]

    def setsockopt(self, *_: Any) -> None:
        """Change nothing."""


class Transport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, link: Link, loop: VirtualLoop) -> None:
        super().__init__()
        self.link = link
        self._loop = loop
        self._protocol: Any = None
        self.peer: Transport
        self._closing = False
        self._lost = False
        self._arrives = 0.0
        self._paused = False
        self._held: list[bytes] = []
        self._socket = Socket(self)
        self.received = 0
        """How many bytes have arrived."""
        self.sent_at = 0.0
        """When the latest piece of data was sent to this end."""
        self._context: contextvars.Context | None = None

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to a protocol."""
        self._protocol = protocol
        context = contextvars.copy_context()
        if self is self.link.ends[1]:
            context.run(OWNER.set, self.link.address[0] if self.link.address[1] == 80 else "")
        self._context = context
        context.run(protocol.connection_made, self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The address of the other end, and what stands for the socket."""
        match name:
            case "peername":
                return ("127.0.0.1", 4711)
            case "socket":
                return self._socket
        return default

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._closing or self._lost

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to another protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Whose connection it is."""
        return self._protocol  # type: ignore[no-any-return]

    def is_reading(self) -> bool:
        """Whether data is delivered."""
        return not self._paused

    def pause_reading(self) -> None:
        """Hold what arrives."""
        self._paused = True

    def resume_reading(self) -> None:
        """Deliver what arrived."""
        self._paused = False
        held, self._held = self._held, []
        self.received -= sum(map(len, held))  # which count when they are delivered
        for data in held:
            self._loop.call_soon(self._deliver, data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Writing never has to wait."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits to be written."""
        return 0

    def can_write_eof(self) -> bool:
        """Half-closed connections are not simulated."""
        return False

    def write(self, data: Any) -> None:
        """Send."""
        if not self.is_closing():
            self.peer.sent_at = self._loop.time()
            self.peer.arrive(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        """Send."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """Close: the other side reads to the end."""
        if not self._closing:
            self._closing = True
            self.peer.lose(None, after=self.link._network.delay())
            self._loop.call_soon(self._end, None)

    def abort(self) -> None:
        """Close at once."""
        self.close()

    def arrive(self, data: bytes) -> None:
        """Deliver data after its way, in order."""
        # Strictly later: timers of the same moment have no order.
        self._arrives = max(self._arrives + 1e-6, self._loop.time() + self.link._network.delay())
        self._loop.call_at(self._arrives, self._deliver, data)

    def lose(self, error: Exception | None, *, after: float) -> None:
        """Lose the connection, after what is under way, or at once with an error."""
        if error is not None:
            self._loop.call_soon(self._end, error)
        else:
            self._arrives = max(self._arrives + 1e-6, self._loop.time() + after)
            self._loop.call_at(self._arrives, self._read_end)

    def _deliver(self, data: bytes) -> None:
        if self._lost or self._closing or self.link.stalled:
            return
        self.received += len(data)
        if self._paused:
            self._held.append(data)
            return
        if self.link.subscribed and self is self.link.ends[0]:
            self.link._network.on_message(self.link, data)
        assert self._context is not None
        self._context.run(self._protocol.data_received, data)

    def _read_end(self) -> None:
        if self._lost or self.link.stalled:
            return
        if not self._closing:
            assert self._context is not None
            self._context.run(self._protocol.eof_received)
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self.link.ended()
        assert self._context is not None
        self._context.run(self._protocol.connection_lost, error)
