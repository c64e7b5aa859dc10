"""Programs that check files, and reading those files.

What the development extras bring must be there. What only the operating system has may be missing on a newcomer's
machine, and then the check is skipped; where NO_SKIPS is set, as in CI, it fails instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
from harness import ROOT
from ruamel.yaml import YAML

__all__ = ["ROOT", "documents", "parsed", "passes", "program", "tool", "unshare"]


def program(name: str) -> str:
    """A program that a Python package brings."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    assert found, f"{name} is not installed, which the development extras bring"
    return found


def tool(name: str, package: str) -> str:
    """A program of the operating system, from this package of Debian's."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        _skip(f"{name} is not installed (Debian has it in {package})")
    return found


def unshare(*options: str) -> list[str]:
    """A command that runs the arguments after it in a user namespace, and in those that the options name."""
    command = [tool("unshare", "util-linux"), "--user", "--map-root-user", *options]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        _skip(f"this machine does not allow namespaces: {tried.stderr.strip()}")
    return command


def _skip(reason: str) -> NoReturn:
    if os.environ.get("NO_SKIPS"):
        pytest.fail(reason)
    pytest.skip(reason)


def passes(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a check, which must succeed; what it printed."""
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def parsed(path: Path) -> Any:
    """The one document of a YAML file."""
    (document,) = documents(path)
    return document


def documents(path: Path) -> list[Any]:
    """Every document of a YAML file, for the caller to change."""
    return deepcopy(_documents(path))


@cache
def _documents(path: Path) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(path))
