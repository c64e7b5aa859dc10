"""A real browser without a screen: Debian's Chromium, driven by its own driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness import PATIENCE
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.support.wait import WebDriverWait

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    # Nothing is asked but the gateway.
    "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


class Browser:
    """One window. What is awaited is looked at until it holds; what the page complained of is kept."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver

    def open(self, url: str) -> None:
        self._driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        """What a script of this function body returns."""
        return self._driver.execute_script(script, *arguments)

    def text(self, name: str) -> str:
        return str(self.run("return document.getElementById(arguments[0]).textContent", name))

    def awaits(self, holds: Callable[[], object]) -> None:
        WebDriverWait(self._driver, PATIENCE, poll_frequency=0.05).until(lambda _: holds())

    def press(self, key: str) -> None:
        """A key that the user presses, wherever the focus is."""
        number = {"Tab": 9, "Enter": 13}[key]
        usual = {"key": key, "code": key, "windowsVirtualKeyCode": number}
        told = {**usual, "text": "\r"} if key == "Enter" else usual
        self.tell("Input.dispatchKeyEvent", type="keyDown", **told)
        self.tell("Input.dispatchKeyEvent", type="keyUp", **usual)

    def tell(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._driver.execute_cdp_cmd(command, parameters)

    def complaints(self) -> list[str]:
        """What stands in the console since this was asked last: errors, violations of the policy, and all else."""
        return [entry["message"] for entry in self._driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def picture(self, width: int, height: int) -> bytes:
        """A PNG of this part of the page."""
        self._driver.set_window_size(width, height)
        return self._driver.get_screenshot_as_png()


@contextmanager
def browsing(chromium: str, driver: str) -> Iterator[Browser]:
    with TemporaryDirectory() as profile:
        options = ChromeOptions()
        options.binary_location = chromium
        for flag in (*_FLAGS, f"--user-data-dir={Path(profile)}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        started = Chrome(options, ChromeService(driver))
        try:
            yield Browser(started)
        finally:
            started.quit()
