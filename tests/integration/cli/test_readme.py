"""The README says what the code does: its configuration table is made from the option classes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

from harness import ROOT, Play
from pydantic import BaseModel, SecretStr

from gateway.config.loading import Settings
from gateway.config.options import TeamOptions
from gateway.mock_vendor.server import MockVendor


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


async def test_the_crawl_begins_again_when_the_list_has_changed(play: Play, vendor: MockVendor) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    crawl: dict[str, Any] = {}
    exec(block[1], crawl)
    before = [{"id": f"old-{number}", "status": "success"} for number in range(12)]
    after = [{"id": "new", "status": "success"}, *before]
    vendor.set_assets("a1", before)
    asked = []

    def urlopen(request: Any) -> Any:
        asked.append(request.full_url.partition("?")[2])
        if len(asked) == 2:
            vendor.set_assets("a1", after)
        return real(request)

    real, crawl["urlopen"] = crawl["urlopen"], urlopen
    found = await asyncio.to_thread(crawl["all_assets"], play.url, "a1", "any", limit=5)
    assert [asset["id"] for asset in found] == [asset["id"] for asset in after]
    assert asked == [f"offset={offset}&limit=5" for offset in (0, 5, 0, 5, 10)]
