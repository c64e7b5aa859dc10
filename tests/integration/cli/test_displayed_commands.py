"""What the pages show to be copied works as it stands: run by the shell, by Python and by Node."""

from __future__ import annotations

import asyncio
import hashlib
import html
import os
import re
import shutil
import sys
from collections.abc import Mapping

import aiohttp
import pytest
from harness import playing, spawn
from tools import tool

from gateway.http.errors import CODES
from gateway.http.pages import by_code
from gateway.mock_vendor.server import MockVendor

TOKEN = "pgw_" + "t" * 43


def shown(page: str) -> dict[str, str]:
    """The blocks to be copied, by language."""
    blocks = re.findall(r'<pre tabindex="0" data-language="(\w+)">(.*?)</pre>', page, re.DOTALL)
    return {language: html.unescape(text) for language, text in blocks}


async def ran(language: str, text: str, environ: Mapping[str, str]) -> str:
    """What a block writes when it is run."""
    started = {
        "curl": ["sh", "-c", text],
        "python": [sys.executable, "-W", "error", "-c", text],
        "javascript": ["node", "--input-type=module", "-e", text],
    }[language]
    process = await asyncio.create_subprocess_exec(
        *started, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **environ}
    )
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, error.decode()
    return out.decode()


async def all_ran(pages: list[str], environ: Mapping[str, str]) -> None:
    assert shown(pages[0]) == shown(pages[1])
    blocks = shown(pages[0])
    assert set(blocks) == {"curl", "python", "javascript"}
    if shutil.which("node") is None:
        del blocks["javascript"]
    told = await asyncio.gather(*(ran(language, text, environ) for language, text in blocks.items()))
    for language, out in zip(blocks, told, strict=True):
        assert "pixxel-gateway; " in out, language
        assert re.search(r"10\b", out), language
    assert told[0].startswith("HTTP/1.1 200 OK")


async def test_against_demo() -> None:
    tool("curl", "curl")
    demo = spawn("demo", "--port", "0")
    try:
        url = demo.wait_for(r"Gateway +(http://127\.0\.0\.1:\d+)/")[1]
        async with aiohttp.ClientSession(url) as session:
            pages = []
            for path in ("/", "/docs"):
                async with session.get(path) as reply:
                    pages.append(await reply.text())
            async with session.get("/status") as reply:
                assert reply.status == 200
        await all_ran(pages, {})
        assert demo.end() == 0
    finally:
        demo.process.kill()
        demo.process.wait()


async def test_with_a_token_from_the_environment(vendor: MockVendor) -> None:
    tool("curl", "curl")
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    async with playing({"upstream.base_url": vendor.url, "teams.app.token_sha256": [digest]}) as play:
        pages = [(await play.get(path)).body.decode() for path in ("/", "/docs")]
        assert "Put the id of one of your AOIs" in pages[0]
        await all_ran([page.replace("YOUR_AOI_ID", vendor.aoi_ids[2]) for page in pages], {"TOKEN": TOKEN})


def test_every_code_is_explained() -> None:
    rows = by_code()
    assert {code for code, _, _ in rows} == {code for codes in CODES.values() for code in codes}
    assert ("upstream_error", "500, 502, 503, 504") in [(code, statuses) for code, statuses, _ in rows]
    assert all(meaning.endswith(".") for _, _, meaning in rows)


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_the_pages_explain_cache_status(vendor: MockVendor, path: str) -> None:
    async with playing({"upstream.base_url": vendor.url}) as play:
        page = html.unescape((await play.get(path)).body.decode())
        for word in ("hit; ttl=-3", "detail=window", "fwd=miss", "collapsed", "stale-if-error", "fwd=request"):
            assert word in page
        if path == "/docs":
            assert all(f"<code>{code}</code>" in page for code, _, _ in by_code())
