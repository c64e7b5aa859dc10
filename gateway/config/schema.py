"""The JSON Schema of a TOML file that option classes describe, for editors and for checks outside the gateway.

Pure. Refuses to say what a TOML file cannot hold: there is no null in it, a key that is unset is left out.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from gateway.config.loading import Settings
from gateway.config.options import RESERVED_TEAM_NAMES, TEAM_NAME, CacheOptions

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def file_schema(root: type[BaseModel]) -> dict[str, Any]:
    """The schema of a file with the sections of `root`, in the 2020-12 dialect; a new value, free to be amended."""
    made = root.model_json_schema()
    for part in (made, *made["$defs"].values()):
        part["properties"] = {name: _without_null(value) for name, value in part["properties"].items()}
    return {"$schema": DIALECT, **made}


def _without_null(value: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in value.pop("anyOf", []) if kind != {"type": "null"}]
    for kind in kinds:
        value = {**kind, **value}
    # A section's defaults stand at its keys.
    if value.get("default") is None or "$ref" in value:
        value.pop("default", None)
    return value


def schema() -> dict[str, Any]:
    """The JSON Schema of the file."""
    made = file_schema(Settings)
    # What pydantic masks here is a default that everybody may know.
    made["$defs"]["CacheOptions"]["properties"]["url"]["default"] = CacheOptions().url.get_secret_value()
    names = {"pattern": f"^{TEAM_NAME.pattern}$", "not": {"enum": sorted(RESERVED_TEAM_NAMES)}}
    made["properties"]["teams"]["propertyNames"] = names
    about = "Configuration of pixxel-gateway. Durations are seconds, sizes bytes."
    return made | {"title": "pixxel-gateway", "description": about}


def schema_text() -> str:
    """The JSON Schema as `pixxel-gateway schema` prints it, and as config/gateway.schema.json holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
