"""The web application of examples/web in a real browser: Chromium."""

import asyncio
import contextlib
from uuid import uuid4

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.browser import chromium
from tests.support.calls import NEW_PASSWORD, PASSWORD
from tests.support.waiting import PATIENCE, eventually
from tests.support.web_example import mailbox, site

__all__ = ["mailbox", "site"]


class Browser:
    """A window of Chromium that fills in forms as a person does."""

    def __init__(self, driver, site):
        self._driver, self._site = driver, site

    async def open(self, path):
        """Open a page, and return its text."""
        return await asyncio.to_thread(self._open, path)

    async def submit(self, action, **fields):
        """Fill in the form of an action, send it, and return the text of the next page."""
        return await asyncio.to_thread(self._submit, action, fields)

    def cookies(self):
        return {cookie["name"]: cookie for cookie in self._driver.get_cookies()}

    def run(self, script):
        return self._driver.execute_script(script)

    @property
    def origin(self):
        """The origin of the site."""
        return self._site

    def _open(self, path):
        self._driver.get(self._site + path)
        return self._text()

    def _submit(self, action, fields):
        (form,) = self._driver.find_elements(By.CSS_SELECTOR, f'form[action="{action}"]')
        for name, value in fields.items():
            form.find_element(By.NAME, name).send_keys(value)
        self.run("window.isOld = true")
        form.find_element(By.TAG_NAME, "button").click()
        # Between two documents any command may fail.
        wait = WebDriverWait(self._driver, PATIENCE, ignored_exceptions=[WebDriverException])
        wait.until(lambda _: self.run("return !window.isOld && document.body !== null"))
        return wait.until(lambda _: self._text())

    def _text(self):
        return self._driver.find_element(By.TAG_NAME, "body").text


@pytest.fixture
async def browser(site, tmp_path):
    with contextlib.ExitStack() as stack:
        driver = await asyncio.to_thread(stack.enter_context, chromium(tmp_path))
        yield Browser(driver, site)


async def asks_to_sign_in(browser):
    return "Sign in" in await browser.open("/account")


async def test_user_story_in_browser_succeeds(browser, mailbox):
    email = f"{uuid4()}@example.com"
    new_email = f"new-{email}"

    await browser.open("/sign-up")
    await browser.submit("/sign-up", email=email, new_password=PASSWORD)
    await browser.open(await mailbox.receive_link(email))
    assert "verified" in await browser.submit("/verify")
    assert browser.run("return document.referrer") == f"{browser.origin}/"
    await browser.open("/sign-in")
    text = await browser.submit("/sign-in", email=email, password=PASSWORD)
    assert f"You are signed in as {email}." in text

    cookie = browser.cookies()["session"]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
    assert browser.run("return document.cookie") == ""

    await browser.submit("/account/email", new_email=new_email, password=PASSWORD)
    await browser.open(await mailbox.receive_link(new_email))
    assert "changed" in await browser.submit("/change")
    assert new_email in await mailbox.receive(email)

    await browser.open("/forgot")
    await browser.submit("/forgot", email=new_email)
    await browser.open(await mailbox.receive_link(new_email))
    await browser.submit("/reset", new_password=NEW_PASSWORD)
    await eventually(lambda: asks_to_sign_in(browser))  # the reset has ended the session
    text = await browser.submit("/sign-in", email=new_email, password=NEW_PASSWORD)
    assert new_email in text

    await browser.submit("/sign-out")
    assert "session" not in browser.cookies()
    assert "Sign in" in await browser.open("/account")
