"""The web application of examples/web in a real browser: Chromium."""

import asyncio
import contextlib
from uuid import uuid4

import pytest

from tests.support.browser import Tab, chromium
from tests.support.calls import NEW_PASSWORD, PASSWORD
from tests.support.waiting import eventually
from tests.support.web_example import mailbox, site

__all__ = ["mailbox", "site"]


@pytest.fixture
async def browser(site, tmp_path):
    with contextlib.ExitStack() as stack:
        driver = await asyncio.to_thread(stack.enter_context, chromium(tmp_path))
        yield Tab(driver, site)


async def asks_to_sign_in(browser):
    return "Sign in" in await browser.open("/account")


async def test_user_story_in_browser_succeeds(browser, mailbox):
    email = f"{uuid4()}@example.com"
    new_email = f"new-{email}"

    await browser.open("/sign-up")
    await browser.submit("/sign-up", email=email, new_password=PASSWORD)
    await browser.open(await mailbox.receive_link(email))
    assert "verified" in await browser.submit("/verify")
    assert browser.run("return document.referrer") == f"{browser.site}/"
    await browser.open("/sign-in")
    text = await browser.submit("/sign-in", email=email, password=PASSWORD)
    assert f"You are signed in as {email}." in text

    cookie = browser.cookies()["session"]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
    assert browser.run("return document.cookie") == ""

    await browser.open("/account/email")
    await browser.submit("/account/email", new_email=new_email)
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


COUNT_SUBMISSIONS = """
let sent = 0
addEventListener("submit", (event) => { sent += !event.defaultPrevented; event.preventDefault() })
const form = document.querySelector("form")
form.noValidate = true
const click = () => form.querySelector("button").click()
click()
click()
const sentByDoubleClick = sent
dispatchEvent(new Event("pageshow"))  // as after the back button
click()
return [sentByDoubleClick, sent]
"""


async def test_double_click_in_browser_sends_form_once(browser):
    await browser.open("/sign-up")
    assert browser.run(COUNT_SUBMISSIONS) == [1, 2]
