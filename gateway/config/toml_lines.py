"""On which line of a TOML text each key stands, because tomllib does not say.

Owns positions only. Refuses to judge the text or to give values: it is meant for text that tomllib has accepted; on any
other it ends too, with positions that mean nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

Path = tuple[str | int, ...]
"""Keys from the root down; an integer is an index into an array."""

# A multi-line string may end in up to two quotes of its own, hence {3,5}.
_TOKEN = re.compile(
    r"""
      (?P<skip>    [ \t\r]+ | \#[^\n]* )
    | (?P<newline> \n )
    | (?P<quoted>  \"{3} (?: \\[\s\S] | [^\\] )*? \"{3,5}
                 | '{3} [\s\S]*? '{3,5}
                 | " (?: \\. | [^"\\\n] )* "
                 | ' [^'\n]* ' )
    | (?P<mark>    [\[\]{},=.] )
    | (?P<bare>    [^\s\#"'\[\]{},=.]+ )
    """,
    re.VERBOSE,
)
_WORD, _NEWLINE, _END = "word", "\n", "end"


def find_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of every table, key and array element.

    A table has its header's line, or that of the first key or header that implies it; what is inside an inline table
    or an array has the line that it stands on itself.
    """
    return _Walk(text).lines


def nearest(lines: Mapping[Path, int], path: Path) -> int:
    """The line of `path`, else of the closest table around it, else 1."""
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 1)


class _Walk:
    """One pass over the tokens; each method leaves the cursor after what it has read."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._headers: set[Path] = set()
        self._tokens: list[tuple[str, str, int]] = []  # what it is: a mark itself, or one of the three above
        self._at = 0
        line = 1
        for match in _TOKEN.finditer(text):
            token, group = match.group(), match.lastgroup
            if group != "skip":
                self._tokens.append((token if group in ("mark", "newline") else _WORD, token, line))
            line += token.count("\n")
        self._tokens.append((_END, "", line))
        self._document()

    @property
    def _next(self) -> str:
        return self._tokens[self._at][0]

    @property
    def _line(self) -> int:
        return self._tokens[self._at][2]

    def _step(self) -> None:
        self._at = min(self._at + 1, len(self._tokens) - 1)

    def _skip_to(self, *stops: str) -> None:
        while self._next not in (*stops, _END):
            self._step()

    def _document(self) -> None:
        table: Path = ()
        while self._next != _END:
            if self._next == _NEWLINE:
                self._step()
            elif self._next == "[":
                table = self._header()
            else:
                self._pair(table)
                self._skip_to(_NEWLINE)

    def _header(self) -> Path:
        line = self._line
        while self._next == "[":  # twice for an element of an array of tables, whose index is not followed
            self._step()
        table = self._name((), line)
        if table not in self._headers:  # a header outranks the keys and headers that only implied the table
            self.lines[table] = line
            self._headers.add(table)
        self._skip_to(_NEWLINE)
        return table

    def _pair(self, table: Path) -> None:
        path = self._name(table, self._line)
        self._skip_to("=", _NEWLINE)
        self._step()
        self._value(path)

    def _name(self, table: Path, line: int) -> Path:
        """Read a dotted name and note it, and each table that it implies."""
        path = table
        while self._next in (_WORD, "."):
            if self._next == _WORD:
                path = (*path, _unquoted(self._tokens[self._at][1]))
                self.lines.setdefault(path, line)
            self._step()
        return path

    def _value(self, path: Path) -> None:
        if self._next == "[":
            self._array(path)
        elif self._next == "{":
            self._inline_table(path)
        else:
            self._skip_to(_NEWLINE, ",", "]", "}")

    def _array(self, path: Path) -> None:
        self._step()
        index = 0
        while self._next not in ("]", _END):
            if self._next in (_NEWLINE, ","):
                self._step()
                continue
            self.lines[*path, index] = self._line
            before = self._at
            self._value((*path, index))
            if self._at == before:  # a stray mark, which accepted text does not have
                self._step()
            index += 1
        self._step()

    def _inline_table(self, path: Path) -> None:
        self._step()
        while self._next not in ("}", _END):
            if self._next in (_NEWLINE, ","):
                self._step()
            else:
                self._pair(path)
        self._step()


def _unquoted(token: str) -> str:
    """A key as tomllib gives it."""
    if token[0] not in "\"'":
        return token
    try:
        return str(tomllib.loads(f"key = {token}")["key"])
    except tomllib.TOMLDecodeError:  # only in text that tomllib refuses as a whole
        return token
