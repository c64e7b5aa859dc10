"""Whole lines on their way to an output that may take a part of them, or nothing."""

from __future__ import annotations


class LineBuffer:
    """Bytes of whole lines, in the order in which they are written.

    A line of which a part was written is written to its end before anything else, also if what comes after it is
    dropped: otherwise the next line would be glued to it.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self._begun = False

    def __bool__(self) -> bool:
        return bool(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def add(self, lines: bytes) -> None:
        """Append lines, the last of which ends with a line feed too."""
        self.data += lines

    def written(self, count: int) -> None:
        """Remove this many bytes from the front, because the output has taken them."""
        if count:
            self._begun = self.data[count - 1] != ord(b"\n")
            del self.data[:count]

    def drop(self) -> int:
        """Remove all lines that are not begun, and return how many they are."""
        end = self.data.find(b"\n") + 1 if self._begun else 0
        lines = self.data.count(b"\n", end)
        del self.data[end:]
        return lines
