"""The stand-in vendor with answers that can be held back: one thing is to happen while another is under way.

A delay would have to be long enough for the slowest machine, and every run would wait for it.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from aiohttp import web

from gateway.mock_vendor.server import MockVendor


class HoldingVendor(MockVendor):
    """What it answers is what is true when it is asked; when that goes out is for a test to say."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._let_go = asyncio.Event()
        self._left: float = 0
        self.inside = 0
        self.most_inside = 0

    def hold(self, *, times: float = math.inf) -> asyncio.Event:
        """Hold back the answers to the next so many requests until this event is set."""
        self._let_go, self._left = asyncio.Event(), times
        return self._let_go

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        let_go, held = self._let_go, self._left > 0
        self._left -= 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            answer = await super()._handle(request)
            if held:
                await let_go.wait()
            return answer
        finally:
            self.inside -= 1
