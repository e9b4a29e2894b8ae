"""A real browser: Chromium without a window, with an empty profile."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.support.commands import missing_tool
from tests.support.waiting import PATIENCE


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Run Chromium while the block runs; skip the test if it is missing."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        missing_tool("chromium or chromium-driver is missing: .ci/run installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    # Chromium has no sandbox of its own as root.
    for option in (
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{option}")
    browser = webdriver.Chrome(options, Service(driver))
    try:
        browser.set_page_load_timeout(PATIENCE)
        browser.set_script_timeout(PATIENCE)
        yield browser
    finally:
        browser.quit()
