"""Connect containers by a network of their own, as Docker's user-defined networks do: a bridge, addresses and DNS."""

from __future__ import annotations

import ctypes
import os
import selectors
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from types import TracebackType
from typing import Self

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
from harness import PATIENCE
from tools import tool

CLONE_NEWNET = 0x4000_0000  # <linux/sched.h>; os.setns needs Python 3.12
DNS_ADDRESS = "127.0.0.11"  # where every container of a Docker network finds its DNS server
RESOLV_CONF = f"nameserver {DNS_ADDRESS}\noptions ndots:0\n"


@dataclass(frozen=True)
class Host:
    """A host of the network: its address, and the path of its network namespace."""

    address: str
    namespace: Path

    def connect(self, port: int) -> HTTPConnection:
        """Open an HTTP connection to a port of this host, from the host itself."""
        with _inside(self.namespace):
            connection = socket.socket()
        connection.settimeout(PATIENCE)
        try:
            connection.connect((self.address, port))
        except OSError:
            connection.close()
            raise
        http = HTTPConnection(self.address, port, timeout=PATIENCE)
        http.sock = connection
        return http

    def get(self, port: int, path: str, **headers: str) -> tuple[int, HTTPMessage, bytes]:
        """Send a GET on a connection of its own; the status, headers and body of the response."""
        http = self.connect(port)
        try:
            http.request("GET", path, headers={"Connection": "close", **headers})
            response = http.getresponse()
            return response.status, response.headers, response.read()
        finally:
            http.close()


class Network:
    """A bridged network in network namespaces of its own. Needs root, and `ip` of Debian's iproute2."""

    def __init__(self) -> None:
        self._prefix = f"pgw-{uuid.uuid4().hex[:6]}"
        self._addresses: dict[str, list[str]] = {}
        self._count = 0
        self._stack = ExitStack()
        self._queries = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        self._switch = self._add_namespace("switch")
        self._ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", self._switch, "link", "set", "bridge", "up")
        server = threading.Thread(target=self._serve_names)
        server.start()
        self._stack.callback(self._queries.close)
        self._stack.callback(server.join)
        self._stack.callback(self._closed.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add_host(self, service: str) -> Host:
        """Add a host, and its address to the addresses of this service's name."""
        self._count += 1
        name, address = f"h{self._count}", f"172.31.0.{self._count + 1}"
        namespace = self._add_namespace(name)
        self._ip(
            "-n", self._switch, "link", "add", "name", name, "type", "veth", "peer", "name", "eth0", "netns", namespace
        )
        self._ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")
        self._ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        self._ip("-n", namespace, "link", "set", "eth0", "up")
        self._ip("-n", namespace, "link", "set", "lo", "up")
        host = Host(address, Path("/run/netns") / namespace)
        with _inside(host.namespace):
            names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stack.callback(names.close)
        names.bind((DNS_ADDRESS, 53))
        with self._lock:
            self._addresses.setdefault(service, []).append(address)
            self._queries.register(names, selectors.EVENT_READ)
        return host

    def remove_address(self, service: str, host: Host) -> None:
        """Remove the address of a host that has ended from the name of its service."""
        with self._lock:
            self._addresses[service].remove(host.address)

    def _add_namespace(self, name: str) -> str:
        namespace = f"{self._prefix}-{name}"
        self._ip("netns", "add", namespace)
        self._stack.callback(self._ip, "netns", "delete", namespace)
        return namespace

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run([tool("ip", "iproute2"), *arguments], check=True, timeout=PATIENCE)

    def _serve_names(self) -> None:
        while not self._closed.is_set():
            for key, _ in self._queries.select(timeout=0.1):
                names = key.fileobj
                assert isinstance(names, socket.socket)
                data, sender = names.recvfrom(4096)
                names.sendto(self._answer(data), sender)

    def _answer(self, data: bytes) -> bytes:
        """Answer a query: the addresses of a service; no data for other types of it; NXDOMAIN for other names."""
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        [question] = query.question
        name = question.name.to_text(omit_final_dot=True)
        with self._lock:
            addresses = list(self._addresses.get(name, []))
        if not addresses:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.A:
            response.answer.append(dns.rrset.from_text(question.name, 1, "IN", "A", *addresses))
        return response.to_wire()


@contextmanager
def _inside(namespace: Path) -> Iterator[None]:
    """Let this thread create sockets in another network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    own, other = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(namespace, os.O_RDONLY)
    try:
        if libc.setns(other, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(own, CLONE_NEWNET)
    finally:
        os.close(own)
        os.close(other)
