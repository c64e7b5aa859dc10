"""Programs that tests need and that do not come from PyPI."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """The path of a program; without it the test is skipped, or, where NO_SKIPS is set as in CI, fails."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed"
        if os.environ.get("NO_SKIPS"):
            pytest.fail(f"{reason}, and nothing is to be skipped here")
        pytest.skip(reason)
    return found
