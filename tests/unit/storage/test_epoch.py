"""What survives a purge, and what a soft one."""

from __future__ import annotations

import pytest

from gateway.storage.epoch import survives_purges

NOW = "all.soft/aoi.soft"


@pytest.mark.parametrize(
    ("epoch", "survives"),
    [
        (NOW, True),
        ("all.other/aoi.soft", True),
        ("all.soft/aoi.other", True),
        ("all.other/aoi.other", True),
        ("other.soft/aoi.soft", False),
        ("all.soft/other.soft", False),
        ("aoi.soft/all.soft", False),
        ("", False),
    ],
)
def test_only_a_soft_purge_leaves_a_page(epoch: str, survives: bool) -> None:
    assert survives_purges(epoch, NOW) == survives
