"""Imports point one way: cli -> app -> web -> cache -> {stores, flights, upstream} -> core."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gateway"

# What each room may import of the others. Only `run` and `app` see everything below the command line.
ALLOWED: dict[str, set[str]] = {
    "__main__": {"cli", "startup"},
    "startup": set(),
    "loop": set(),
    "resolver": set(),
    "cli": {"run", "preflight", "settings", "core", "tokens", "caller", "web", "warm", "progress", "clock"}
    | {"argument_types", "doctor", "startup", "loop"},
    "doctor": {"run", "settings", "upstream", "upstream_tls", "bodies", "stores", "web", "caller", "keys", "ports"}
    | {"clock", "core", "loop", "resolver"},
    "parts": {"clock"},
    "preflight": {"settings", "tls", "upstream_tls", "stores"},
    "run": {"preflight", "app", "settings", "mock_vendor", "logs", "last_words", "keys", "ports", "workers"}
    | {"startup", "loop", "reload", "tls"},
    "ports": {"app", "settings", "caller"},
    "app": {"settings", "web", "backing", "redis_backing", "cache", "windows", "errands", "stretches", "upstream"}
    | {"metrics", "status", "gathering", "subscribers", "parts", "workers", "journal", "logs", "keys", "reload", "tls"}
    | {"clock", "core"},
    "backing": {"stores", "flights", "gate", "budgets", "clock", "core"},
    "redis_backing": {"backing", "url_file", "stores", "flights", "gate", "budgets", "clock", "core"},
    "url_file": {"stores", "core", "clock"},
    "web": {"cache", "prefetch", "core", "clock", "logs"},
    "cache": {"windows", "errands", "stretches", "prefetch", "stores", "flights", "core", "clock"},
    "prefetch": {"windows", "core"},
    "stretches": {"windows", "errands", "core", "clock"},
    "errands": {"stores", "flights", "core", "clock"},
    "windows": {"stores", "core", "clock"},
    "stores": {"core", "clock"},
    "flights": {"core", "clock"},
    "upstream": {"sending", "bodies", "connections", "resolver", "upstream_tls", "gate", "core", "clock", "keys"},
    "bodies": {"core"},
    "sending": {"bodies", "connections", "clock", "core"},
    "connections": {"vendor_connection", "core"},
    "vendor_connection": {"transport_state", "core"},
    "transport_state": set(),
    "budgets": {"core", "clock"},
    "reload": {"settings", "web", "budgets", "errands", "keys", "key_files", "tls", "clock", "core"},
    "gate": {"places", "core", "clock"},
    "places": {"core"},
    "settings": {"core"},
    "metrics": {"core", "exposition"},
    "exposition": set(),
    "subscribers": set(),
    "status": {"core", "clock"},
    "gathering": {"metrics", "status", "exposition", "workers", "core"},
    "workers": {"exposition", "startup", "clock", "core"},
    "journal": {"core", "clock"},
    "logs": {"core"},
    "tls": {"clock", "core"},
    "upstream_tls": set(),
    "argument_types": {"core"},
    "caller": {"core"},
    "warm": {"caller", "core", "clock"},
    "progress": {"warm"},
    "tokens": {"core"},
    "keys": set(),
    "last_words": set(),
    "key_files": {"keys", "core", "clock"},
    "clock": set(),
    "mock_vendor": set(),
    "core": set(),
}  # fmt: skip

# Libraries that have one home, or a few.
HOMES = {
    "redis": {"stores", "doctor"},
    "prometheus_client": {"metrics", "exposition", "app"},
    "jinja2": {"web"},
    "aiohttp": {"bodies", "sending", "connections", "vendor_connection", "web", "upstream", "upstream_tls", "resolver"}
    | {"mock_vendor", "warm", "doctor"},
    "rich": {"progress", "doctor"},
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they point"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "gateway" and parts[1] != "__version__":
            assert parts[1] == here or parts[1] in ALLOWED[here], f"{here} imports {name}"
        elif parts[0] in HOMES:
            assert here in HOMES[parts[0]], f"{here} imports {name}"
        elif here == "core":
            allowed = {"pydantic", "msgspec", "isal", "xxhash"}
            assert parts[0] in sys.stdlib_module_names | allowed, f"core imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_time_chance_and_environment_come_from_one_place(path: Path) -> None:
    wanted = {"time": {"clock", "mock_vendor"}, "random": {"app", "mock_vendor"}}
    for name in imports(path):
        top = name.split(".")[0]
        assert room(path) in wanted.get(top, {room(path)}), f"{path.name} imports {top}"
    if room(path) != "cli":
        assert "os.environ" not in path.read_text(encoding="utf-8")


def test_every_string_can_be_encoded_as_python_3_13_requires_of_docstrings() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                node.value.encode()
