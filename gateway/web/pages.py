"""The pages for people: landing and docs, and the OpenAPI document behind them. Nothing on them is from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gateway import __version__
from gateway.web.router import Route

_TEMPLATES = Path(__file__).with_name("templates")
_PLACEHOLDER = "YOUR_AOI_ID"
# Compiles a template when somebody looks at its page: most processes are never looked at.
_JINJA = Environment(
    loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, auto_reload=False,
)  # fmt: skip


class Pages:
    """`/`, `/docs` and `/openapi.json`. `example_aoi` makes the shown requests work as they stand."""

    def __init__(self, document: dict[str, Any], *, tokens: bool, example_aoi: str | None) -> None:
        self._script = (_TEMPLATES / "copy.js").read_text(encoding="utf-8")
        self._style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
        self._document = document
        self._encoded = msgspec.json.format(msgspec.json.encode(document), indent=2)
        self._tokens = tokens
        self._aoi_id = example_aoi or _PLACEHOLDER
        self._headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Cache-Control": "no-cache",
            "Content-Security-Policy": (
                f"default-src 'none'; script-src {_hash(self._script)}; style-src {_hash(self._style)}; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            ),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }

    def routes(self) -> dict[str, Route]:
        """By path."""
        return {
            "/": Route("landing", self._landing),
            "/docs": Route("docs", self._docs),
            "/openapi.json": Route("openapi", self._openapi),
        }

    async def _landing(self, request: web.BaseRequest) -> web.Response:
        return self._page(_JINJA.get_template("landing.html").render(self._common(request)))

    async def _docs(self, request: web.BaseRequest) -> web.Response:
        operation = self._document["paths"]["/v0/aois/{aoi_id}/assets"]["get"]
        return self._page(_JINJA.get_template("docs.html").render(self._common(request), operation=operation))

    async def _openapi(self, _: web.BaseRequest) -> web.Response:
        headers = {"Content-Type": "application/json", "Cache-Control": "no-cache"}
        return web.Response(body=self._encoded, headers=headers)

    def _common(self, request: web.BaseRequest) -> dict[str, Any]:
        return {
            "base": f"{request.scheme}://{request.host}",  # framing has matched the Host header
            "aoi_id": self._aoi_id,
            "tokens": self._tokens,
            "version": __version__,
            "script": self._script,
            "style": self._style,
        }

    def _page(self, html: str) -> web.Response:
        return web.Response(body=html.encode(), headers=self._headers)


def _hash(inline: str) -> str:
    """A source expression that allows exactly this inline text (Content Security Policy Level 3, section 2.3.1)."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode() + "'"
