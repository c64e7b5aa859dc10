"""Whatever a file of any way to deploy sets in the environment is a setting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools import ROOT

from gateway.config.loading import load

SETTING = re.compile(r"\bGATEWAY_[A-Z0-9_]+")
FILES = [
    path
    for path in (ROOT / "Dockerfile", *(ROOT / "deploy").rglob("*"), *(ROOT / "config").rglob("*.yml"))
    if path.is_file()
    and path.suffix != ".png"
    and "secrets" not in path.parts
    and SETTING.search(path.read_text(encoding="utf-8"))
]


def test_every_way_is_looked_at() -> None:
    ways = {"Dockerfile", "compose.yml", "deployment.yaml", "pixxel-gateway.service", "haproxy.cfg", "prometheus.yml"}
    assert ways <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_that_is_named_is_a_setting(path: Path) -> None:
    for name in set(SETTING.findall(path.read_text(encoding="utf-8"))):
        warnings = load(environ={name: ""}, need_key=False, use_file=False).warnings
        assert not [one for one in warnings if "is no setting" in one]
