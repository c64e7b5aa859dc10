"""The names of everything that can be set: as TOML keys, as environment variables, and the nearest to a wrong one.

The names are read off the option classes, so that there is no second list. Refuses to look at values.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterator
from typing import get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Key = tuple[str, ...]
"""A setting from the root down, as ("cache", "lifetimes", "settled")."""

PREFIX = "GATEWAY_"
ANY = "*"
"""Stands in a key for a name of the operator's choice, as in ("teams", ANY, "rate")."""


def dotted(path: tuple[str | int, ...]) -> str:
    """A key as it is written in messages: bare where TOML allows it, else quoted; list places in brackets."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (part if re.fullmatch(r"[A-Za-z0-9_*-]+", part) else json.dumps(part))
    return text


def is_list(field: FieldInfo) -> bool:
    """Whether the field holds a list."""
    return get_origin(field.annotation) is list


class Keys:
    """Every key under a root option class."""

    def __init__(self, root: type[BaseModel]) -> None:
        self._fields: dict[Key, FieldInfo] = dict(_fields(root, ()))
        self._variables = {_variable(key): key for key in self._fields if ANY not in key}
        self._groups = {key[: key.index(ANY)]: None for key in self._fields if ANY in key}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._fields)

    def field(self, key: Key) -> FieldInfo | None:
        """The field that `key` sets, or None when it is no setting."""
        return self._fields.get(self._general(key))

    def is_section(self, key: Key) -> bool:
        """Whether settings stand below `key`."""
        general = self._general(key)
        return any(len(known) > len(general) and known[: len(general)] == general for known in self._fields)

    def is_entry(self, key: Key) -> bool:
        """Whether `key` is a section whose last name the operator chose."""
        return self._general(key)[-1:] == (ANY,)

    def secrets(self) -> list[tuple[Key, Key]]:
        """The settings that can be given as a value or as a file: (`x`, `x_file`)."""
        pairs = [(key, (*key[:-1], f"{key[-1]}_file")) for key in self._fields]
        return [(plain, file) for plain, file in pairs if file in self._fields]

    def of_variable(self, name: str, entries: Collection[Key]) -> Key | None:
        """The key that an environment variable sets, or None when there is no such variable.

        In GATEWAY_TEAMS__NAME__RATE the name is that of one of the configured `entries`, letter case and `-` against
        `_` aside, else itself in lower case. ValueError when it fits two of them.
        """
        if name in self._variables:
            return self._variables[name]
        for group in self._groups:
            rest = name.removeprefix(f"{_variable(group)}__")
            chosen, _, last = rest.rpartition("__")
            if rest == name or not chosen or last != last.upper():
                continue
            key = (*group, chosen.lower(), last.lower())
            if self.field(key) is None:
                continue
            fitting = [entry for entry in entries if _variable(entry) == _variable((*group, chosen))]
            if len(fitting) > 1:
                raise ValueError("fits " + " and ".join(map(dotted, fitting)) + " alike; set it in the file")
            return (*fitting[0], key[-1]) if fitting else key
        return None

    def variable(self, key: Key) -> str:
        """The environment variable that sets `key`."""
        return _variable(key)

    def hint(self, key: Key) -> str:
        """What an unknown key was probably meant to be, as the end of a message; may be empty."""
        level = [*dict.fromkeys(k[len(key) - 1] for k in self._below(self._general(key[:-1])))]
        elsewhere = [dotted(known) for known in self._fields if key[-1] in (known[-1], dotted(known))]
        near = difflib.get_close_matches(key[-1], [name for name in level if name != ANY], 1)
        whole = difflib.get_close_matches(dotted(key), map(dotted, self._fields), 1, 0.75)
        found = elsewhere or [dotted((*key[:-1], *near))] * bool(near) or whole
        return f"; did you mean {' or '.join(found)}" if found else ""

    def variable_hint(self, name: str, entries: Collection[Key]) -> str:
        """What an unknown variable was probably meant to be, as the end of a message; may be empty."""
        chosen = name.removeprefix(PREFIX).split("__")[1:-1]
        names = [*self._variables]
        for group in self._groups:
            for entry in {*entries, (*group, "__".join(chosen) or "NAME")}:
                names += [_variable((*entry, known[-1])) for known in self._below((*group, ANY))]
        inside = [known for known in names if known.startswith(f"{name.upper()}__")]
        near = inside or difflib.get_close_matches(name.upper(), names, 1)
        return f"; did you mean {near[0]}" if near else ""

    def _below(self, general: Key) -> list[Key]:
        return [known for known in self._fields if len(known) > len(general) and known[: len(general)] == general]

    def _general(self, key: Key) -> Key:
        """The key with ANY in the place of a chosen name."""
        for group in self._groups:
            if key[: len(group)] == group and len(key) > len(group):
                return (*group, ANY, *key[len(group) + 1 :])
        return key


def _variable(key: Key) -> str:
    return PREFIX + "__".join(key).replace("-", "_").upper()


def _fields(model: type[BaseModel], above: Key) -> Iterator[tuple[Key, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind, key = field.annotation, (*above, name)
        if get_origin(kind) is dict:
            kind, key = get_args(kind)[1], (*key, ANY)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, key)
        else:
            yield key, field
