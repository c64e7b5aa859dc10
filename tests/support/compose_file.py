"""Read deploy/compose.yml as Docker Compose does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tools import ROOT

COMPOSE = ROOT / "deploy" / "compose.yml"


def composed(**environ: str) -> Any:
    """Parse the file with these variables set."""
    return YAML(typ="safe", pure=True).load(_interpolated(COMPOSE.read_text(encoding="utf-8"), environ))


def mounts(service: Any) -> dict[str, Path]:
    """Map each path in the service's container to the file or directory of the checkout mounted there, read-only."""
    mounted = {}
    for volume in service.get("volumes", []):
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            assert mode == ["ro"], volume
            mounted[target] = (COMPOSE.parent / source).resolve(strict=True)
    return mounted


def _interpolated(text: str, environ: Mapping[str, str]) -> str:
    """Replace `${NAME:-default}`, the only form of variable in the file."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: environ.get(found[1]) or found[2], text)
