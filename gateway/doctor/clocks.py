"""How far this machine's clock is from those of the vendor and of Redis.

What somebody's clock showed lies between the moments at which the question left and the answer came, and a Date is cut
to the second: so the distance is an interval, and only what is beyond it for certain is held against a clock. A slow
machine or a slow way makes it wider, and nobody guilty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gateway.core.http_fields import parse_http_date
from gateway.doctor.report import CheckReport

_WORTH_A_WORD, _TOO_FAR = 1.0, 5.0


class ClockReading(NamedTuple):
    """How many seconds another clock is ahead of ours, at least and at most."""

    least: float
    most: float

    @property
    def ahead(self) -> float:
        """By how much it is ahead for certain; behind when negative."""
        return max(self.least, 0.0) + min(self.most, 0.0)


def from_date(headers: Mapping[str, str], sent: float, received: float) -> ClockReading | None:
    """What a Date header shows (RFC 9110, section 6.6.1); times are ours, and Unix time. None when there is none."""
    date = parse_http_date(headers.get("Date", ""))
    try:
        # A cache on the way keeps the Date of the answer that it kept (RFC 9111, section 5.1).
        age = int(headers.get("Age", "0"))
    except ValueError:
        return None
    if date is None:
        return None
    theirs = date + age
    return ClockReading(theirs - received, theirs + 1.0 - sent)


def compare(report: CheckReport, name: str, whose: str, reading: ClockReading | None, hint: str) -> None:
    """Write down what a reading means."""
    if reading is None:
        report.skip(name, f"{whose} told no time")
        return
    ahead = reading.ahead
    found = f"this machine's is {abs(ahead):.1f} s {'behind' if ahead > 0 else 'ahead of'} that of {whose}"
    if abs(ahead) < _WORTH_A_WORD:
        report.ok(name, f"as that of {whose}, as far as can be told")
    elif abs(ahead) <= _TOO_FAR:
        report.warn(name, found, hint)
    else:
        report.fail(name, found, hint)
