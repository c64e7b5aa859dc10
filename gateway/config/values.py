"""Whether each given value suits its field, one by one, so that a bad one does not hide the others.

Pure. Owns the wording of pydantic's complaints; refuses to let a value into it, because any value may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from gateway.config.names import Key, Keys
from gateway.config.sources import Layer
from gateway.config.toml_lines import Path

# Some checks are the standard library's, whose messages quote the value.
_EXPECTED = {
    "trusted_proxies": "must be a network such as 10.0.0.0/8 or fd00::/8",
    "base_url": "must be an http:// or https:// URL with a host, and a number for a port if any",
    "proxy": "must be an http:// or https:// URL with a host, and a number for a port if any",
}
_KINDS = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array", dict: "a table"}


def judge(layer: Layer, keys: Keys) -> dict[Key, Any]:
    """What the fields make of the layer's values; the faults of the others are noted in the layer.

    Where the source has types of its own (TOML), they must be right: no string is taken for a number.
    """
    good: dict[Key, Any] = {}
    for key, given in layer.given.items():
        info = keys.field(key)
        if info is None:
            continue
        try:
            good[key] = adapter(info).validate_python(given.value, strict=given.strict)
        except ValidationError as error:
            for loc, what in complaints(error, key, typed=given.strict):
                layer.refuse(key, given.place((*key, *loc)).fault(what))
    return good


def adapter(info: FieldInfo) -> TypeAdapter[Any]:
    """What validates a single field as its class would."""
    kind: Any = info.annotation
    for rule in info.metadata:
        kind = Annotated[kind, rule]
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False, hide_input_in_errors=True))


def complaints(error: ValidationError, key: Key, *, typed: bool = False) -> Iterator[tuple[Path, str]]:
    """What is wrong with the value for `key`, and where inside it; `typed` adds which type it has."""
    for detail in error.errors(include_url=False, include_context=False):
        what = detail["msg"].removeprefix("Value error, ").replace("Input should", "must")
        if detail["type"] == "value_error" and re.search("['\"]", what):
            what = _EXPECTED.get(key[-1], "is not valid")
        if typed and detail["type"].endswith("_type"):
            what += f", not {_KINDS.get(type(detail['input']), 'a date or time')}"
        yield detail["loc"], what
