"""Run containers from images and from the programs of this machine, with runc, as Docker and Kubernetes would."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness import PATIENCE
from tools import tool

RUNC = ("runc", "runc")  # the program, and Debian's package of it
CONTROL_GROUPS = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}
# In the order of their numbers in <linux/capability.h>.
CAPABILITIES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""


@dataclass(frozen=True)
class Image:
    """A root file system, and the configuration that an image carries (the `config` object of Docker's format)."""

    rootfs: Path
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> Image:
        """Load what .ci/image has left in this directory."""
        inspected = json.loads((directory / "image.json").read_text(encoding="utf-8"))
        return cls((directory / "rootfs").resolve(strict=True), inspected["Docker"]["config"])

    @property
    def entrypoint(self) -> list[str]:
        return list(self.config["Entrypoint"])

    @property
    def command(self) -> list[str]:
        return list(self.config["Cmd"])

    @property
    def environ(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.config.get("Env", []))

    @property
    def healthcheck(self) -> list[str]:
        kind, *command = self.config["Healthcheck"]["Test"]
        assert kind == "CMD", "a shell would be needed"
        return [str(word) for word in command]


def installed_programs(directory: Path) -> tuple[Image, list[dict[str, Any]]]:
    """An image, and its mounts, that has the programs of this machine in place of an image that cannot be fetched.

    Files can be mounted anywhere but in /usr outside /usr/local; /usr/local, /var and /etc are empty.
    """
    rootfs = directory / f"rootfs-{uuid.uuid4().hex[:8]}"
    rootfs.mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        path = Path("/") / name
        if path.is_symlink():
            (rootfs / name).symlink_to(path.readlink())
    mounts = [bind(Path("/usr"), "/usr"), tmpfs("/usr/local"), tmpfs("/var")]
    environ = {"PATH": "/usr/sbin:/usr/bin"}
    return Image(rootfs, {"Env": [f"{name}={value}" for name, value in environ.items()]}), mounts


def bind(source: Path, target: str, *, writable: bool = False) -> dict[str, Any]:
    """Mount a file or directory of this machine."""
    options = ["rbind", "rw" if writable else "ro"]
    return {"destination": target, "type": "bind", "source": str(source), "options": options}


def tmpfs(target: str, *options: str) -> dict[str, Any]:
    """Mount an empty file system in memory, writable for every user unless `options` say otherwise."""
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": list(options) or ["mode=1777"]}


@dataclass
class Container:
    """One container: read-only root file system, no capabilities, no way to gain privileges.

    `privileged` is for a container that boots systemd: a writable root file system, the capabilities of this process,
    and control groups to manage.

    `user` is `uid:gid` in digits, or None for the user of the image; `network` the path of a network namespace, or None
    for the network of this machine; `nofile` a limit of file descriptors, or None for the limit of this process;
    `memory` a limit in bytes, or None. The output goes to `log`.
    """

    image: Image
    directory: Path
    arguments: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    groups: Sequence[int] = ()
    mounts: Sequence[Mapping[str, Any]] = ()
    network: Path | None = None
    nofile: int | None = None
    memory: int | None = None
    privileged: bool = False

    def __post_init__(self) -> None:
        self.name = f"pixxel-gateway-{uuid.uuid4().hex}"
        self._bundle = self.directory / self.name
        self._bundle.mkdir(parents=True)
        self.log = self._bundle / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the container."""
        (self._bundle / "config.json").write_text(json.dumps(self._specification()), encoding="utf-8")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [tool(*RUNC), "--root", self._state, "run", "--bundle", self._bundle, self.name],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self.signal("KILL")
            self._process.wait(PATIENCE)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a second process in the container, as its user and with its environment, and wait until it ends."""
        return subprocess.run(
            [tool(*RUNC), "--root", self._state, "exec", self.name, *command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip

    def signal(self, name: str) -> None:
        """Send a signal, such as `SIGTERM`, to process 1 of the container."""
        subprocess.run([tool(*RUNC), "--root", self._state, "kill", self.name, name], check=True, timeout=PATIENCE)

    def wait(self, seconds: float) -> int:
        """Wait until process 1 has ended, and return its exit code. subprocess.TimeoutExpired if it goes on."""
        assert self._process is not None
        return self._process.wait(seconds)

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def _state(self) -> Path:
        return self.directory / "runc"

    def _specification(self) -> dict[str, Any]:
        """The container in the form of the OCI runtime specification."""
        uid, gid = (self.user or self.image.config.get("User") or "0:0").split(":")
        environ = {**self.image.environ, **self.environ}
        capabilities = _own_capabilities() if self.privileged else []
        kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
        namespaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
        if self.network is not None:
            namespaces.append({"type": "network", "path": str(self.network)})
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self.image.rootfs), "readonly": not self.privileged},
            "hostname": self.name[:24],
            "process": {
                "terminal": False,
                "user": {"uid": int(uid), "gid": int(gid), "additionalGids": list(self.groups)},
                "args": list(self.arguments),
                "env": [f"{name}={value}" for name, value in environ.items()],
                "cwd": self.image.config.get("WorkingDir") or "/",
                "capabilities": dict.fromkeys(kinds, capabilities),
                "noNewPrivileges": not self.privileged,
                "rlimits": [
                    {"type": "RLIMIT_NOFILE", "soft": limit, "hard": limit}
                    for limit in (self.nofile,)
                    if limit is not None
                ],
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                tmpfs("/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
                tmpfs("/dev/shm", "nosuid", "noexec", "nodev", "mode=1777"),
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "ro"]},
                *([CONTROL_GROUPS, tmpfs("/run", "mode=755")] if self.privileged else []),
                *self.mounts,
            ],
            "linux": {
                "namespaces": namespaces,
                "resources": {"memory": {"limit": self.memory}} if self.memory else {},
                "maskedPaths": [] if self.privileged else ["/proc/kcore", "/proc/keys", "/sys/firmware"],
                "readonlyPaths": [] if self.privileged else ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
            },
        }


def _own_capabilities() -> list[str]:
    """Return the names of this process's capabilities (capabilities(7))."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [digits] = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    return [f"CAP_{name}" for number, name in enumerate(CAPABILITIES.split()) if int(digits, 16) >> number & 1]


def image_directories() -> list[Path]:
    """The directories of the images that .ci/image has built, from the variable IMAGES; empty if it is not set."""
    images = os.environ.get("IMAGES")
    return sorted(path.parent for path in Path(images).glob("*/image.json")) if images else []
