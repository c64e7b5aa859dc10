"""Imports point in one direction, and some modules are pure (docs/architecture.md)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "gateway"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A package may import the packages of the lines above its own.
LAYERS = [
    {"core"},
    {"config"},
    {"telemetry"},
    {"teams", "storage", "upstream"},
    {"cache"},
    {"http"},
    {"app"},
    {"doctor"},
    {"cli"},
    {"__main__"},
]
EXCEPTIONS = {
    # It catches signals before anything that takes long to import.
    "__main__": {"app", "cli"},
    "mock_vendor": {"core"},
}
# The commands `demo` and `mock-vendor` run it.
RUNS_THE_MOCK_VENDOR = {"app"}

# Libraries that are used in few places.
HOMES = {
    "redis": {"storage/redis", "doctor"},
    "prometheus_client": {"telemetry", "app/build"},
    "jinja2": {"http"},
    "aiohttp": {"upstream", "http", "mock_vendor", "cli/warm", "doctor"},
    "rich": {"cli/progress", "doctor"},
}

# Modules that decide by values that are passed in: no await, no clock, no network.
PURE = [
    "core/cache_control", "core/errors", "core/events", "core/hosts", "core/http_fields", "core/listing", "core/query",
    "core/shared_bucket", "core/surrogates", "core/token_bucket", "core/validity_token",
    "config/cross_checks", "config/names", "config/option_checks", "config/options", "config/store_url",
    "config/toml_lines", "config/values",
    "telemetry/aggregates", "telemetry/line_buffer", "telemetry/status/document", "telemetry/status/health",
    "telemetry/status/latency", "telemetry/status/report", "telemetry/status/rolling", "telemetry/status/snapshot",
    "telemetry/status/space_saving",
    "teams/roster", "teams/tokens",
    "storage/entry", "storage/epoch", "storage/eviction", "storage/listing_index",
    "upstream/breaker", "upstream/classification", "upstream/connection_reuse", "upstream/page_identity",
    "upstream/pause", "upstream/rejected_keys", "upstream/retry",
    "cache/admission", "cache/crawl_detection", "cache/page_limits", "cache/page_template", "cache/policy",
    "cache/signed_urls", "cache/windows",
    "http/negotiation",
]  # fmt: skip


def module(path: Path) -> str:
    """The path of a module below the package, without `.py`."""
    return str(path.relative_to(PACKAGE).with_suffix("")).removesuffix("/__init__")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they point"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(package: str) -> set[str]:
    """The packages that modules of this one may import."""
    if package in EXCEPTIONS:
        return EXCEPTIONS[package] | {package}
    found: set[str] = {package}
    for layer in LAYERS:
        if package in layer:
            return found | (RUNS_THE_MOCK_VENDOR & {package} and {"mock_vendor"})
        found |= layer
    raise AssertionError(f"{package} has no layer")


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent != PACKAGE], ids=module)
def test_a_module_imports_only_packages_of_lower_layers(path: Path) -> None:
    package = module(path).split("/")[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "gateway" and parts[1] != "__version__":
            assert parts[1] in allowed(package), f"{module(path)} imports {name}"
        elif parts[0] in HOMES:
            homes = HOMES[parts[0]]
            assert any(module(path).startswith(home) for home in homes), f"{module(path)} imports {name}"


def test_every_package_has_a_layer() -> None:
    packages = {path.name for path in PACKAGE.iterdir() if any(path.rglob("*.py"))}
    assert packages == set().union(*LAYERS, EXCEPTIONS) - {"__main__"}


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_has_no_await_and_no_library_that_waits(name: str) -> None:
    path = PACKAGE / f"{name}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Await | ast.AsyncFunctionDef)]
    third_party = {"pydantic", "msgspec", "isal", "xxhash"}
    forbidden = {"time", "asyncio", "socket", "random", "aiohttp", "redis", "prometheus_client"}
    for imported in imports(path):
        top = imported.split(".")[0]
        assert top in (sys.stdlib_module_names | third_party | {"gateway"}) - forbidden, f"{name} imports {imported}"
        assert not imported.startswith("gateway.core.clock"), f"{name} imports the clock"


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_time_randomness_and_environment_come_from_one_place(path: Path) -> None:
    homes = {"time": ("core/clock", "mock_vendor/"), "random": ("app/build", "mock_vendor/")}
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in homes or module(path).startswith(homes[top]), f"{module(path)} imports {top}"
    if module(path) != "cli/main":
        assert "os.environ" not in path.read_text(encoding="utf-8")


def test_every_string_can_be_encoded_as_python_3_13_requires_of_docstrings() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                node.value.encode()
