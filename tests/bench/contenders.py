"""What is compared: this gateway, nginx, Varnish, and a handler of an afternoon, each as it would be set up for this.

All check one token, cache what the canned vendor answers and keep connections open. nginx has one worker, its cache on
disk as its pages are (and so in the page cache), sendfile and tcp_nopush as Debian ships it, and compares the whole
Authorization header in a `map`; it stores a compressed form of its own for clients that take one. Varnish has one pool
of threads, default limits of them, malloc storage and the same check in VCL; it compresses once, too. Neither has rate
limits or metrics by team, which the gateway has on.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self
from urllib.parse import urlsplit

from accounting import cpu_seconds, family

HERE = Path(__file__).parent
STARTS = 180.0


def token(number: int) -> str:
    """The token of a team; wrk.lua makes the same."""
    return f"pgw_{number:043}"


TOKEN = token(0)


class DidNotStart(Exception):
    """A server ended, or did not listen in time; the message has what it said."""


def load_tools() -> None:
    """Raises SystemExit, with what is to be done, where the load cannot be made or measured."""
    if not sys.platform.startswith("linux"):
        sys.exit("this needs Linux, whose /proc tells CPU time")
    if program("wrk") is None:
        sys.exit("wrk, which makes the load, is not installed: apt-get install wrk")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("this needs two cores: one for the servers, one for the load")


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that it ends what it started."""

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Server:
    """A process that listens on a port of loopback, on cores of its own; ended with all its children."""

    def __init__(
        self, command: Sequence[str], port: int, core: Sequence[int], log: Path, *, quiet: bool = False
    ) -> None:
        self.port = port
        self._log = log
        with log.open("ab") as told:
            self._process = subprocess.Popen(
                ["taskset", "-c", ",".join(map(str, core)), *command],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL if quiet else told, stderr=told,
                start_new_session=True,  # Ctrl-C is for the bench, which ends them
                env={name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")},
            )  # fmt: skip
        try:
            self._listening()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def _listening(self) -> None:
        until = time.monotonic() + STARTS
        while time.monotonic() < until and self._process.poll() is None:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise DidNotStart(self._log.read_text(errors="replace")[-2000:])

    def cpu(self) -> float:
        """CPU seconds of the process and its children so far."""
        return cpu_seconds(family(self._process.pid))

    def stop(self) -> None:
        pids = family(self._process.pid)
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass(frozen=True)
class Place:
    """Where contenders run: their cores, their directory, and what is behind them. `log` turns access logs on."""

    core: Sequence[int]
    directory: Path
    vendor: str
    redis: str
    log: bool = False
    workers: int = 1
    ca: Path | None = None
    """Whom to trust (PEM) where the vendor is behind TLS; its certificate is for localhost, too."""

    def room(self, name: str) -> Path:
        """A new directory, which everybody may enter: nginx's workers are somebody else."""
        number = len(list(self.directory.iterdir()))
        made = self.directory / f"{name}-{number}"
        made.mkdir(mode=0o755)
        return made


def gateway(
    place: Place, *, teams: int = 1, memory: int = 4 << 30, redis: bool = False, replay: bool = True, filled: int = 0
) -> Server:
    """This gateway, with teams, budgets, metrics and Age; `redis` puts Redis behind its memory of so many bytes.

    `filled` pages are in its memory from the start.
    """
    room, port = place.room("gateway"), free_port()
    digests = [hashlib.sha256(token(number).encode()).hexdigest() for number in range(teams)]
    lines = [
        "[server]", f"port = {port}", f"workers = {place.workers}", f"replay = {str(replay).lower()}",
        "[upstream]", f'base_url = "{place.vendor}"', 'api_key = "k3y-of-the-vendor"',
        *([] if place.ca is None else [f'ca_file = "{place.ca}"']),
        "[cache]", f"memory_max_bytes = {memory}", "prefetch = 0", "redis_timeout = 1.0",
        f'url = "{place.redis if redis else "memory://"}"', f'key_prefix = "bench-{port}"',
        "[cache.lifetimes]", "settled = 86400", "jitter = 0",
        "[log]", f"access = {str(place.log).lower()}", 'format = "json"',
    ]  # fmt: skip
    for number, digest in enumerate(digests):
        lines += [f"[teams.team-{number}]", f'token_sha256 = ["{digest}"]', "rate = 10000000"]
    file = room / "gateway.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "gateway", "--config", str(file), "serve"]
    if filled:
        command = [sys.executable, str(HERE / "filled_gateway.py"), "--config", str(file), "--pages", str(filled)]
    return Server(command, port, place.core, room / "log", quiet=place.log)


_NGINX = """
user {user} {group};
worker_processes {workers};
daemon off;
pid {room}/pid;
error_log {room}/error.log;
events {{ worker_connections 4096; }}
http {{
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000000;
  access_log {access_log};
  client_body_temp_path {room}/body;
  proxy_temp_path {room}/proxy;
  fastcgi_temp_path {room}/fastcgi;
  uwsgi_temp_path {room}/uwsgi;
  scgi_temp_path {room}/scgi;
  proxy_cache_path {room}/pages levels=1:2 keys_zone=pages:100m max_size=8g inactive=1d use_temp_path=off;
  map_hash_bucket_size 256;
  map $http_authorization $allowed {{ default 0; "Bearer {token}" 1; }}
  map $http_accept_encoding $coding {{ default ""; ~*gzip gzip; }}
  upstream vendor {{ server {vendor}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      if ($allowed = 0) {{ return 401; }}
      proxy_pass {scheme}://vendor;
      {tls}
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization key;
      proxy_set_header X-Canned-Coding $coding;
      proxy_cache pages;
      proxy_cache_key $request_uri$coding;
      proxy_cache_valid 200 1d;
      proxy_cache_lock on;
    }}
  }}
}}
"""

_NGINX_TLS = """
      proxy_ssl_verify on;
      proxy_ssl_name localhost;
      proxy_ssl_trusted_certificate {ca};
"""


def nginx(place: Place) -> Server:
    """Debian's nginx with proxy_cache."""
    room, port, user = place.room("nginx"), free_port(), pwd.getpwuid(os.geteuid())
    (room / "nginx.conf").write_text(
        _NGINX.format(
            user=user.pw_name, group=grp.getgrgid(user.pw_gid).gr_name, workers=place.workers, room=room,
            access_log="/dev/null combined" if place.log else "off", token=TOKEN,
            vendor=urlsplit(place.vendor).netloc, scheme=urlsplit(place.vendor).scheme, port=port,
            tls="" if place.ca is None else _NGINX_TLS.format(ca=place.ca),
        ),
        encoding="utf-8",
    )  # fmt: skip
    command = [
        program("nginx") or "nginx",
        "-p",
        str(room),
        "-c",
        str(room / "nginx.conf"),
        "-e",
        str(room / "error.log"),
    ]
    return Server(command, port, place.core, room / "log")


_VCL = """
vcl 4.1;
backend vendor {{ .host = "127.0.0.1"; .port = "{vendor_port}"; }}
sub vcl_recv {{
  if (req.http.Authorization != "Bearer {token}") {{ return (synth(401)); }}
  unset req.http.Authorization;
  unset req.http.X-Coding;
  if (req.http.Accept-Encoding ~ "gzip") {{ set req.http.X-Coding = "gzip"; }}
  return (hash);
}}
sub vcl_hash {{ hash_data(req.url); hash_data(req.http.X-Coding); return (lookup); }}
sub vcl_backend_fetch {{ set bereq.http.Authorization = "key"; unset bereq.http.Accept-Encoding; }}
sub vcl_backend_response {{
  set beresp.ttl = 1d;
  set beresp.do_gzip = bereq.http.X-Coding == "gzip";
  return (deliver);
}}
"""


def varnish(place: Place) -> Server:
    """Debian's Varnish, which logs to memory always."""
    room, port = place.room("varnish"), free_port()
    vcl = _VCL.format(vendor_port=place.vendor.rpartition(":")[2], token=TOKEN)
    (room / "default.vcl").write_text(vcl, encoding="utf-8")
    command = [
        program("varnishd") or "varnishd", "-F", "-j", "none", "-n", str(room / "work"), "-a", f"127.0.0.1:{port}",
        "-f", str(room / "default.vcl"), "-s", "malloc,4g", "-p", "thread_pools=1",
    ]  # fmt: skip
    return Server(command, port, place.core, room / "log")


def baseline_app(place: Place) -> Server:
    """A plain aiohttp handler with one Redis GET for each request."""
    room, port = place.room("baseline_app"), free_port()
    command = [
        sys.executable, str(HERE / "baseline_app.py"), "--port", str(port), "--vendor", place.vendor,
        "--redis", place.redis, "--token", TOKEN, *(["--log"] if place.log else []),
    ]  # fmt: skip
    return Server(command, port, place.core, Path(os.devnull) if place.log else room / "log")


def canned_vendor(core: Sequence[int], directory: Path, certificate: Path | None = None) -> Server:
    """The vendor behind all of them."""
    port = free_port()
    command = [sys.executable, str(HERE / "canned_vendor.py"), "--port", str(port)]
    if certificate is not None:
        command += ["--certificate", str(certificate)]
    return Server(command, port, core, directory / "vendor.log")


def program(name: str) -> str | None:
    """Where a program is, None if it is not installed; Debian keeps servers where a user's PATH does not look."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")
