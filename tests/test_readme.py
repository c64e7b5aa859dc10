"""The README says what the code does: its configuration table is made from the option classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from harness import ROOT
from pydantic import BaseModel, SecretStr

from gateway.core.options import TeamOptions
from gateway.settings import Settings


def shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return "" if value is None else f"`{json.dumps(value)}`"


def rows(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        path = f"{above}{name}"
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from rows(type(default), f"{path}.")
        elif name == "teams":
            yield from rows(TeamOptions, "teams.NAME.")
        else:
            yield f"| `{path}` | {shown(default)} | {field.description} |"


def test_the_configuration_table_is_that_of_the_code() -> None:
    table = "\n".join(["| key | default | meaning |", "|---|---|---|", *rows(Settings)])
    assert table in (ROOT / "README.md").read_text(encoding="utf-8"), f"put this into README.md:\n{table}"
