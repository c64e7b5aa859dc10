"""What the doctor writes down: findings in order, and how they look.

This file owns the words of a line and nothing of what is examined. Texts of others never get here: whoever examines
tells what it means, and quotes nothing that may hold a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TextIO

from rich.console import Console
from rich.text import Text

State = Literal["ok", "warn", "FAIL", "skip"]

_STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red", "skip": "dim"}


class Finding(NamedTuple):
    """One line, and its hint. `unreachable`: somebody whom the gateway needs did not answer at all."""

    state: State
    name: str
    found: str
    hint: str = ""
    unreachable: bool = False


class CheckReport:
    """The findings of one examination, in order. `planned` are the checks that it is made of."""

    def __init__(self, *planned: str) -> None:
        self._planned = planned
        self.findings: list[Finding] = []

    def ok(self, name: str, found: str) -> None:
        """All is well."""
        self.findings.append(Finding("ok", name, found))

    def warn(self, name: str, found: str, hint: str) -> None:
        """It works, and should be mended all the same."""
        self.findings.append(Finding("warn", name, found, hint))

    def fail(self, name: str, found: str, hint: str, *, unreachable: bool = False) -> None:
        """It does not work."""
        self.findings.append(Finding("FAIL", name, found, hint, unreachable))

    def skip(self, name: str, because: str) -> None:
        """It was not tried."""
        self.findings.append(Finding("skip", name, f"because {because}"))

    def next(self) -> str:
        """The first check that is planned and not told yet; the last one when all are."""
        told = {finding.name for finding in self.findings}
        return next((name for name in self._planned if name not in told), self._planned[-1])

    def skip_rest(self) -> None:
        """Skip what is planned and not told yet, because of what failed last."""
        told = {finding.name for finding in self.findings}
        failed = next((finding.name for finding in reversed(self.findings) if finding.state == "FAIL"), "it")
        for name in self._planned:
            if name not in told:
                self.skip(name, f"{failed} failed")


def show(findings: Iterable[Finding], stream: TextIO) -> None:
    """Write findings; in colours where a person looks on."""
    console = Console(file=stream, soft_wrap=True, highlight=False) if stream.isatty() else None
    for finding in findings:
        rest = f" {finding.name}: {finding.found}" + (f"\n     hint: {finding.hint}" if finding.hint else "")
        if console is None:
            print(f"{finding.state:<4}{rest}", file=stream, flush=True)
        else:
            console.print(Text.assemble((f"{finding.state:<4}", _STYLES[finding.state]), rest))


def exit_code(findings: Sequence[Finding]) -> int:
    """0 when nothing failed, 4 when somebody could not be reached at all, else 1."""
    if any(finding.unreachable for finding in findings):
        return 4
    return 1 if any(finding.state == "FAIL" for finding in findings) else 0
