"""The sources of the configuration, each as the settings that it gives and the faults in how it gives them.

Pure: texts and mappings come in. Owns where each value was written down, and which source wins. Refuses to know what a
value means beyond whether its key is to hold a list. No message holds a value, because any value may be a secret that
was put in the wrong place.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.config.names import PREFIX, Key, Keys, dotted, is_list
from gateway.config.toml_lines import Path, find_lines, nearest


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or worth a warning: where it was written, under which name, and what it is.

    `rank` sorts by source, and within the file by line.
    """

    where: str
    path: str
    what: str
    rank: tuple[int, int] = field(default=(0, 0), compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: {self.what}"


@dataclass(frozen=True)
class Place:
    """Where something was written, and what it is called there."""

    where: str
    path: str
    rank: tuple[int, int] = (0, 0)

    def fault(self, what: str) -> Fault:
        """Something wrong at this place."""
        return Fault(self.where, self.path, what, self.rank)


@dataclass(frozen=True)
class Given:
    """A raw value. `place` tells where it, or an element of it, stands; `strict`: its type must be right as it is."""

    value: Any = field(repr=False)
    place: Callable[[Path], Place] = field(repr=False)
    strict: bool = False


@dataclass
class Layer:
    """What one source gives. `broken` are the keys that it tries to give and cannot."""

    place: Callable[[Path], Place]
    given: dict[Key, Given] = field(default_factory=dict)
    entries: list[Key] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    broken: set[Key] = field(default_factory=set)

    def refuse(self, key: Key, fault: Fault) -> None:
        """Note a fault that leaves `key` without what was meant for it."""
        self.faults.append(fault)
        self.broken.add(key)


def defaults(source: str) -> Layer:
    """The layer of no file at all."""
    return Layer(lambda path: Place(source, dotted(path)))


def read_toml(data: bytes, name: str, keys: Keys) -> Layer:
    """The file's settings; a text that is no TOML gives none, and a single fault."""
    layer = defaults(name)
    try:
        # Editors on Windows put a byte-order mark first, which TOML does not know.
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
        tree = tomllib.loads(text)
        lines = find_lines(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        layer.refuse((), Fault(f"{name}:{line}", "toml", "is not UTF-8 text"))
        return layer
    except RecursionError:
        layer.refuse((), Fault(f"{name}:1", "toml", "is nested too deeply"))
        return layer
    except ValueError as error:
        said, line = str(error), 1
        if found := re.search(r" \((?:at line (\d+), column \d+|at end of document)\)", said):
            line = int(found[1] or len(data.rstrip().splitlines()) or 1)
            said = said.replace(found[0], "")
        layer.refuse((), Fault(f"{name}:{line}", "toml", said))
        return layer

    def place(path: Path) -> Place:
        line = nearest(lines, path)
        return Place(f"{name}:{line}", dotted(path), (0, line))

    layer.place = place
    _walk(tree, (), layer, keys)
    return layer


def _walk(table: Mapping[str, Any], above: Key, layer: Layer, keys: Keys) -> None:
    for name, value in table.items():
        key = (*above, name)
        if keys.field(key):
            layer.given[key] = Given(value, layer.place, strict=True)
        elif not keys.is_section(key):
            layer.refuse(key, layer.place(key).fault(f"is not a known key{keys.hint(key)}"))
        elif not isinstance(value, dict):
            layer.refuse(key, layer.place(key).fault(f"must be a table, as under [{dotted(key)}]"))
        else:
            if keys.is_entry(key):
                layer.entries.append(key)
            _walk(value, key, layer, keys)


def read_environment(environ: Mapping[str, str], keys: Keys, entries: Collection[Key], ignored: str) -> Layer:
    """The environment's settings; `entries` are the operator's names in the file, `ignored` is no setting's variable.

    A blank variable is one that is not set, as a blank line in a compose file means it, except that it empties a list.
    """

    def setting(variable: str, key: Path) -> Place:
        return Place(f"environment: {variable}", dotted(key), (1, 0))

    layer = Layer(lambda path: setting(keys.variable(tuple(map(str, path))), path))
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name == ignored:
            continue
        place = Place("environment", name, (1, 0))
        if "__" not in name.removeprefix(PREFIX):
            layer.warnings.append(place.fault("is no setting of the gateway and is ignored"))
            continue
        key = None
        try:
            key = keys.of_variable(name, entries)
            if key is None:
                layer.faults.append(place.fault(f"is not a known variable{keys.variable_hint(name, entries)}"))
                continue
            place = setting(name, key)
            value = _of_text(environ[name], listed=(info := keys.field(key)) is not None and is_list(info))
        except ValueError as error:
            layer.refuse(key or (), place.fault(str(error)))
            continue
        if value is not None:
            layer.given[key] = Given(value, _always(place))
            layer.entries += [key[:-1]] * keys.is_entry(key[:-1])
    return layer


def _of_text(text: str, *, listed: bool) -> str | list[Any] | None:
    """An environment variable's value; None when it is as good as unset."""
    if not listed:
        return text if text.strip() else None
    if not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("starts as a JSON list and is none") from None
    return list(items)


def read_flags(flags: Mapping[str, Any], keys: Keys) -> Layer:
    """The command line's settings, by dotted key; None is a flag that was not given."""

    def place(path: Path) -> Place:
        return Place("flags", "--" + str(path[-1]).replace("_", "-"), (2, 0))

    layer = Layer(place)
    for name, value in flags.items():
        key = tuple(name.split("."))
        if value is None:
            continue
        if keys.field(key) is None:
            layer.refuse(key, Fault("flags", name, f"is not a known key{keys.hint(key)}", (2, 0)))
            continue
        layer.given[key] = Given(value, _always(place(key)))
        layer.entries += [key[:-1]] * keys.is_entry(key[:-1])
    return layer


def _always(place: Place) -> Callable[[Path], Place]:
    return lambda _: place


def merge(layers: Iterable[Layer], keys: Keys) -> Layer:
    """All sources as one, the later ones winning key by key.

    A source that gives either form of a secret replaces both forms of the sources before it; one that gives both forms
    is at fault. The place of a key is where the value that won was written; of a section, where the first layer has it,
    or a key of it that a later one gives; of anything else, where the first layer would have it.
    """
    layers = list(layers)
    first = layers[0]
    given: dict[Key, Given] = {}

    def place(path: Path) -> Place:
        for key, value in given.items():
            if key == path[: len(key)]:
                return value.place(path)
        inside = [value.place(key) for key, value in given.items() if key[: len(path)] == path]
        return inside[0] if inside and all(one.rank > (1,) for one in inside) else first.place(path)

    whole = Layer(place)
    for layer in layers:
        for plain, file in keys.secrets():
            if plain in layer.given and file in layer.given:
                here = layer.given[file].place(file)
                whole.refuse(plain, here.fault(f"is given beside {plain[-1]}; keep one of the two"))
            if plain in layer.given or file in layer.given:
                given.pop(plain, None)
                given.pop(file, None)
        given.update(layer.given)
        whole.entries += [entry for entry in layer.entries if entry not in whole.entries]
        whole.faults += layer.faults
        whole.warnings += layer.warnings
        whole.broken |= layer.broken
    whole.given = given
    return whole
