"""A real browser: Chromium without a window, with an empty profile."""

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

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


class Tab:
    """A tab of Chromium that fills in forms as a person does."""

    def __init__(self, driver: webdriver.Chrome, site: str, pictures: Path | None = None) -> None:
        """Visit a site. `pictures` is a folder for a picture of each page."""
        self.driver, self.site = driver, site
        self._pictures, self._read_texts = pictures, [""]

    async def open(self, path: str) -> str:
        """Open a page, and return its text."""
        return await asyncio.to_thread(self._open, path)

    async def submit(self, action: str, *, passkey: bool = False, **fields: str) -> str:
        """Fill in the form of an action, send it, and return the text of the next page."""
        return await asyncio.to_thread(self._submit, action, fields, passkey)

    def cookies(self) -> dict[str, dict[str, Any]]:
        """Return the cookies by their names."""
        return {cookie["name"]: cookie for cookie in self.driver.get_cookies()}

    def run(self, script: str) -> Any:
        """Run a script in the page, and return its result."""
        return self.driver.execute_script(script)

    def _open(self, path: str) -> str:
        self.driver.get(self.site + path)
        return self._read()

    def _submit(self, action: str, fields: dict[str, str], passkey: bool) -> str:  # noqa: FBT001
        kinds = ("[data-get]", "[data-create]") if passkey else (":not([data-get], [data-create])",)
        (form,) = [
            form
            for kind in kinds
            for form in self.driver.find_elements(By.CSS_SELECTOR, f'form[action="{action}"]{kind}')
            if all(form.find_elements(By.NAME, name) for name in fields)
        ]
        for name, value in fields.items():
            form.find_element(By.NAME, name).send_keys(value)
        return self._follow(form.find_element(By.TAG_NAME, "button"))

    def _follow(self, button: WebElement) -> str:
        """Click a button, and return the text of the next page."""
        self.run("window.isOld = true")
        button.click()
        # Between two documents any command may fail.
        wait = WebDriverWait(self.driver, PATIENCE, ignored_exceptions=[WebDriverException])
        wait.until(lambda _: self.run("return !window.isOld && document.readyState === 'complete'"))
        return self._read()

    def _read(self) -> str:
        wait = WebDriverWait(self.driver, PATIENCE, ignored_exceptions=[WebDriverException])
        text: str = wait.until(lambda _: self.driver.find_element(By.TAG_NAME, "body").text)
        if self._pictures is not None and text != self._read_texts[-1]:
            self.driver.save_screenshot(self._pictures / f"{len(self._read_texts):02}.png")
            self._read_texts.append(text)
        return text
