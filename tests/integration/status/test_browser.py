"""The pages in a real browser, on one window from beginning to end."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from browser import Browser, browsing
from harness import VENDOR_KEY, Play, playing
from tools import tool

from gateway.mock_vendor.server import MockVendor

TOKEN = "pgw_" + "a" * 43
PHONE = 360


async def test_pages_in_a_browser(play: Play, vendor: MockVendor) -> None:
    chromium, driver = tool("chromium", "chromium"), tool("chromedriver", "chromium-driver")
    loop = asyncio.get_running_loop()
    guarded = {
        "upstream.base_url": vendor.url,
        "teams.ops.token_sha256": [hashlib.sha256(TOKEN.encode()).hexdigest()],
        "teams.ops.scopes": ["admin"],
        "server.cors_origins": [vendor.url],
    }

    def ask(times: int) -> None:
        """Have the gateway asked, in the loop where it runs."""

        async def asked() -> None:
            for _ in range(times):
                await play.page(vendor.aoi_ids[2])
            await play.page(vendor.aoi_ids[2], "?limit=x", X_Request_Id="no-such-limit")

        asyncio.run_coroutine_threadsafe(asked(), loop).result()

    def fail() -> None:
        async def failed() -> None:
            vendor.set_behaviour(status=401)
            for number in range(3):
                await play.page(f"aoi-{number}", X_Request_Id=f"refused-{number}")

        asyncio.run_coroutine_threadsafe(failed(), loop).result()

    async with playing(guarded) as other:

        def story() -> None:
            with browsing(chromium, driver) as browser:
                a_page_of_a_listed_origin_reads_every_header(browser, other, vendor)
                figures_move(browser, play, ask)
                it_says_what_is_wrong(browser, fail)
                it_is_built_for_screen_readers(browser)
                it_is_reached_by_keyboard(browser)
                it_is_dark_where_that_is_wanted(browser)
                it_fits_a_phone(browser, play)
                a_line_is_copied(browser, play)
                nothing_is_needed_but_html(browser, play)
                a_browser_logs_in(browser, other)

        await asyncio.to_thread(story)


def a_page_of_a_listed_origin_reads_every_header(browser: Browser, other: Play, vendor: MockVendor) -> None:
    """The browser sends its own preflight, because of the headers."""
    sent = {
        "Authorization": f"Bearer {TOKEN}", "X-API-Key": TOKEN, "X-Explain": "1", "X-Request-Id": "from-a-browser",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b", "baggage": "c=d",
        "Prefer": "wait=1", "Cache-Control": "max-age=0", "If-None-Match": '"x"',
    }  # fmt: skip
    browser.open(vendor.url)
    url = f"{other.url}/v0/aois/{vendor.aoi_ids[2]}/assets"
    status, headers = browser.run(FETCHED, url, sent)
    assert status == 200
    assert headers["x-explain"].startswith("decision=miss")
    assert headers["x-request-id"] == "from-a-browser"
    assert {"age", "cache-control", "cache-status", "content-length", "content-type", "etag", "vary"} <= headers.keys()
    status, headers = browser.run(FETCHED, url, {"traceparent": sent["traceparent"]})
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    browser.complaints()  # of what the vendor's page lacks, and of the 401


FETCHED = """
return fetch(arguments[0], { headers: arguments[1] }).then((reply) =>
  [reply.status, Object.fromEntries(reply.headers)]);
"""


def figures_move(browser: Browser, play: Play, ask: Any) -> None:
    browser.open(play.url + "/status")
    browser.run("window.same = true")
    browser.awaits(lambda: browser.text("link") == "and moving")
    assert browser.text("verdict") == "Healthy: nobody asked for a page in the last 5 minutes"
    assert browser.text("outcomes") == "no page was asked for yet"
    ask(30)
    browser.awaits(lambda: browser.text("requests").startswith("31 ("))
    assert browser.text("without-vendor") == "96.7 %"
    # On a busy machine, what is wrong comes first.
    expected = ("Healthy: 97 % of requests answered without the vendor", "Degraded: this process is ")
    assert browser.text("verdict").startswith(expected)
    rows = browser.run("return [...document.getElementById('teams').rows].map(row => row.cells[1].textContent)")
    assert rows == ["31"]
    # The step of time that was counted in has to be over before it is on a chart.
    browser.awaits(lambda: browser.run(PAINTED) == 4 and any(cell != "0" for cell in browser.run(MINUTES)))
    assert browser.run("return window.same")
    assert len(set(browser.run(WIDTHS))) == 1
    assert browser.complaints() == []


# A copy, because the browser complains of canvases that are read, and the test is about what else it complains of.
PIXELS = """
function pixels(canvas, width) {
  const copy = Object.assign(document.createElement("canvas"), { width, height: canvas.height });
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  return context.getImageData(0, 0, width, canvas.height).data;
}
"""
PAINTED = f"""{PIXELS}
const charts = [...document.querySelectorAll(".chart canvas")];
return charts.filter((canvas) => pixels(canvas, canvas.width).some((value) => value > 0)).length;
"""
WIDTHS = "return [...document.querySelectorAll('.chart canvas')].map(canvas => canvas.clientWidth)"
MINUTES = "return [...document.getElementById('minutes').rows].map(row => row.cells[1].textContent)"


def it_says_what_is_wrong(browser: Browser, fail: Any) -> None:
    assert browser.run("return document.getElementById('verdict').getAttribute('aria-live')") == "off"
    fail()
    browser.awaits(lambda: browser.text("verdict").startswith("Failing: the vendor refuses the gateway's key"))
    assert browser.run("return document.getElementById('verdict').getAttribute('aria-live')") == "polite"
    assert "upstream.api_key_file" in browser.text("findings")
    assert "refused-2" in browser.text("errors")
    browser.awaits(lambda: browser.run("return document.getElementById('verdict').getAttribute('aria-live')") == "off")


def it_is_built_for_screen_readers(browser: Browser) -> None:
    nodes = browser.tell("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
    ]
    roles = [role for role, _ in found]
    assert roles.count("main") == 1
    assert roles.count("contentinfo") == 1
    assert [name for role, name in found if role == "heading"][:3] == [
        "Status of this instance", "Requests", "How they were answered",
    ]  # fmt: skip
    regions = {name for role, name in found if role == "region"}
    assert {"Verdict", "Requests", "Vendor", "Teams", "Busiest AOIs", "Last errors"} <= regions
    pictures = [name for role, name in found if role in ("image", "img")]
    assert len(pictures) == 4
    assert all(name.startswith("Chart: ") and "table below" in name for name in pictures)
    assert browser.run("return document.querySelectorAll('[aria-live]').length") == 1
    assert (
        browser.run("return document.querySelectorAll('main table:not(:has(th[scope=col])):not(.u-legend)').length")
        == 0
    )
    assert browser.run("return document.documentElement.lang") == "en"


def it_is_reached_by_keyboard(browser: Browser) -> None:
    """Every table that may have to be scrolled, the summary and all links; and the summary opens by a key."""
    browser.run("document.activeElement.blur(); scrollTo(0, 0)")
    wanted = browser.run("return document.querySelectorAll('a[href], summary, [tabindex=\"0\"]').length")
    reached: list[str] = []
    for _ in range(wanted + 2):
        browser.press("Tab")
        reached.append(browser.run(FOCUS))
        if reached[-1] == "summary" and reached.count("summary") == 1:
            browser.press("Enter")
            browser.awaits(lambda: browser.run("return document.querySelector('details').open"))
    assert {"summary", "Teams", "Last errors", "The last quarter of an hour by minute", "docs"} <= set(reached)
    assert len(set(reached)) >= wanted


FOCUS = """
const here = document.activeElement;
return here.localName === "summary" ? "summary" : here.getAttribute("aria-label") ?? here.textContent;
"""


def it_is_dark_where_that_is_wanted(browser: Browser) -> None:
    def are_dark() -> list[bool]:
        return [sum(rgb) < 384 for rgb in browser.run(COLOURS)]

    assert are_dark() == [True, False, True]
    browser.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.awaits(lambda: are_dark() == [False, True, False])  # one colour after the other
    browser.tell("Emulation.setEmulatedMedia", features=[])


# Of text, of what is behind it, and of the text on a chart.
COLOURS = f"""{PIXELS}
const probe = document.createElement("span");
probe.style.background = "Canvas";
document.body.append(probe);
const found = [getComputedStyle(document.body).color, getComputedStyle(probe).backgroundColor];
probe.remove();
const chart = pixels(document.querySelector(".chart canvas"), 50);
let most = 0;
for (let at = 0; at < chart.length; at += 4) if (chart[at + 3] > chart[most + 3]) most = at;
const told = found.map((colour) => colour.match(/\\d+/g).slice(0, 3).map(Number));
return [...told, [...chart.slice(most, most + 3)]];
"""


def it_fits_a_phone(browser: Browser, play: Play) -> None:
    browser.tell(
        "Emulation.setDeviceMetricsOverride", width=PHONE, height=740, deviceScaleFactor=2, mobile=True
    )  # fmt: skip
    for path in ("/status", "/", "/docs"):
        browser.open(play.url + path)
        assert browser.run("return innerWidth") == PHONE
        if path == "/status":
            browser.awaits(lambda: browser.text("link") == "and moving")
            browser.run("document.querySelector('details').open = true")
        assert browser.run("return document.documentElement.scrollWidth") <= PHONE, path
        assert browser.run(RIGHTMOST) <= PHONE, path
    browser.tell("Emulation.clearDeviceMetricsOverride")
    assert browser.complaints() == []


RIGHTMOST = """
const shown = [...document.querySelectorAll("main > *, section > *, dd, figure")];
return Math.max(...shown.map((element) => element.getBoundingClientRect().right));
"""


def a_line_is_copied(browser: Browser, play: Play) -> None:
    browser.tell("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser.open(play.url + "/")
    browser.run("document.querySelector('.copyable button').focus()")
    browser.press("Enter")
    browser.awaits(lambda: browser.run("return document.querySelector('.copyable button').textContent") == "Copied")
    assert browser.run("return navigator.clipboard.readText()").startswith(f"curl -i '{play.url}/v0/aois/")
    assert browser.complaints() == []


def nothing_is_needed_but_html(browser: Browser, play: Play) -> None:
    browser.tell("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(play.url + "/status")
    assert browser.text("verdict").startswith("Failing: ")
    assert browser.text("requests").startswith("34 (")
    assert browser.text("link") == "as the page was loaded"
    assert browser.run("return document.querySelector('figure').hidden")
    browser.tell("Emulation.setScriptExecutionDisabled", value=False)


def a_browser_logs_in(browser: Browser, other: Play) -> None:
    """The challenge is understood, and what was given for the page goes with its events."""
    browser.open(other.url.replace("//", f"//anybody:{TOKEN}@") + "/status")
    browser.awaits(lambda: browser.text("link") == "and moving")
    assert "Healthy" in browser.text("verdict")
    assert VENDOR_KEY not in browser.run("return document.documentElement.outerHTML")
