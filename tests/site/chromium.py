"""A headless Chromium for tests: a window that is driven, and what its console complains of."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.support.ui import WebDriverWait

__all__ = ["PATIENCE", "Window", "need_browser"]

PATIENCE = 20.0
# Headless, and quiet: a test's browser talks to this machine alone and leaves nothing behind.
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    # Two windows are never both in front, and both are being looked at here.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
)


def need_browser() -> None:
    """Skip where Chromium or its driver is missing; fail in CI."""
    missing = " and ".join(name for name in ("chromium", "chromedriver") if shutil.which(name) is None)
    if missing:
        reason = f"{missing} not found on PATH: install Debian's chromium and chromium-driver, or their like"
        if os.environ.get("CI"):
            pytest.fail(f"The browser test must run in CI. {reason}")
        pytest.skip(reason)


class Window:
    """A browser window with a profile of its own."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(
            options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
        )

    def wait(self, happens: Callable[[], Any]) -> Any:
        try:
            return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.05).until(lambda _: happens())
        except TimeoutException as exc:
            page = self.script("return document.body.innerText")
            raise AssertionError(f"This did not happen in {PATIENCE} s. The page says:\n{page}") from exc

    def script(self, code: str, *values: Any) -> Any:
        return self.driver.execute_script(code, *values)

    def console(self) -> list[dict[str, Any]]:
        """What the page's console has shown since it was last asked."""
        driver: Any = self.driver
        entries: list[dict[str, Any]] = driver.get_log("browser")
        return entries

    def complaints(self) -> list[str]:
        """What the console complains of, but for a server that is away, which is meant to happen here."""
        return [
            entry["message"]
            for entry in self.console()
            if entry["level"] == "SEVERE" and "WebSocket connection to" not in entry["message"]
        ]
