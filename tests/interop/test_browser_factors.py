"""Second factors of examples/web in Chromium, which has a virtual authenticator."""

import asyncio
import base64
import contextlib
import os
import time
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from selenium.webdriver.common.by import By
from selenium.webdriver.common.virtual_authenticator import VirtualAuthenticatorOptions

from tests.support.browser import Tab, chromium
from tests.support.calls import PASSWORD
from tests.support.waiting import eventually
from tests.support.web_example import factor_site, mailbox

__all__ = ["factor_site", "mailbox"]

PHONE = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
ATTEMPTS = 4


class AuthenticatorApp:
    """An app on a phone. It shows each code once."""

    def __init__(self, secret):
        self._totp = TOTP(base64.b32decode(secret), 6, SHA1(), 30)  # noqa: S303 - of RFC 6238
        self._step = 0

    def code(self):
        """Return the code of this step, or that of the next one, which counts already."""
        self._step = max(self._step + 1, int(time.time()) // 30)
        return self._totp.generate(self._step * 30).decode()


class Person(Tab):
    """A person with an address, and with an authenticator app once it is set up."""

    app: AuthenticatorApp

    def __init__(self, driver, site, pictures):
        super().__init__(driver, site.origin, pictures)
        self.email, self.service = f"{uuid4()}@example.com", site

    async def sign_up(self, mailbox):
        await self.open("/sign-up")
        await self.submit("/sign-up", email=self.email, new_password=PASSWORD)
        await self.open(await mailbox.receive_link(self.email))
        assert "verified" in await self.submit("/verify")

    async def sign_in(self):
        await self.open("/sign-in")
        return await self.submit("/sign-in", email=self.email, password=PASSWORD)

    async def sign_out(self):
        await self.open("/account")
        await self.submit("/sign-out")

    async def add_app(self):
        """Add an authenticator app, and return the recovery codes."""
        await self.open("/factors")
        await self.submit("/factors/totp")
        assert self.driver.find_element(By.CSS_SELECTOR, "svg.segno").is_displayed()
        self.app = AuthenticatorApp(self.driver.find_element(By.ID, "secret").text.replace(" ", ""))
        assert "Your recovery codes" in await self.type_code("/factors/totp/confirm")
        return [each.text for each in self.driver.find_elements(By.CSS_SELECTOR, ".codes code")]

    async def type_code(self, action):
        """Type a code, and the next one if the machine was too slow for it."""
        for _ in range(ATTEMPTS):
            text = await self.submit(action, totp_code=self.app.code())
            if "Wrong code" not in text and "did not work" not in text:
                break
        return text

    async def add_passkey(self):
        await self.open("/factors")
        await self.submit("/factors/passkey")
        return await self.submit("/factors/passkey/finish", passkey=True, label=" of this test")

    async def sign_in_with_passkey(self, email=""):
        await self.open("/sign-in")
        await self.submit("/sign-in/passkey", any_email=email)
        return await self.submit("/sign-in/proof", passkey=True)

    async def delete(self, name):
        """Delete a factor on the page of factors, and return the text of the next page."""
        path = f"//li[contains(., '{name}')]//button"
        return await asyncio.to_thread(self._follow, self.driver.find_element(By.XPATH, path))

    def _read(self):
        text = super()._read()
        assert self.run("return document.documentElement.scrollWidth <= innerWidth"), text
        assert self.run("return document.cookie") == ""
        log = self.driver.get_log("browser")
        assert [each for each in log if each["source"] != "network"] == []  # such as of the policy
        return text


@pytest.fixture
async def person(factor_site, tmp_path):
    """A person with a phone, which verifies its user."""
    with contextlib.ExitStack() as stack:
        driver = await asyncio.to_thread(stack.enter_context, chromium(tmp_path / "profile"))
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        phone = VirtualAuthenticatorOptions(
            transport="internal",
            has_resident_key=True,
            has_user_verification=True,
            is_user_verified=True,
        )
        driver.add_virtual_authenticator(phone)
        pictures = os.environ.get("PICTURES")
        yield Person(driver, factor_site, Path(pictures) if pictures else None)


async def test_second_factors_in_browser_succeed(person, mailbox):
    await person.sign_up(mailbox)
    assert "Level AAL1: pwd" in await person.sign_in()
    assert "Add a second factor first" in await person.open("/pay")

    codes = await person.add_app()
    assert len(set(codes)) == 10
    assert "was added" in await mailbox.receive(person.email)
    text = await person.open("/pay")
    assert ("Confirm that it is you" in text, "password" in text) == (True, False)
    assert "A ripe tomato" in await person.submit("/step-up", recovery_code=codes[0].lower())

    await person.sign_out()
    assert "Prove that it is you" in await person.sign_in()
    assert "session" not in person.cookies()
    assert "Level AAL2: mfa, otp, pwd" in await person.type_code("/sign-in/proof")
    await person.sign_out()
    await person.sign_in()
    assert "did not work" in await person.submit("/sign-in/proof", recovery_code=codes[0])
    assert "Level AAL2" in await person.submit("/sign-in/proof", recovery_code=codes[1])
    assert "8 left" in await person.open("/factors")


async def test_passkey_in_browser_signs_in_and_pays(person, mailbox):
    await person.sign_up(mailbox)
    await person.sign_in()
    assert "Your recovery codes" in await person.add_passkey()

    for email in ("", person.email):
        await person.sign_out()
        assert "Level AAL2: hwk, mfa, user" in await person.sign_in_with_passkey(email)
    person.service.age_sessions(person.email)
    await eventually(lambda: asks_for_step_up(person))
    before = person.cookies()["session"]["value"]
    assert "A ripe tomato" in await person.submit("/step-up", passkey=True)
    assert person.cookies()["session"]["value"] != before
    assert "Thank you!" in await person.submit("/pay")

    assert "My passkey of this test" in await person.open("/factors")
    assert "My passkey" not in await person.delete("My passkey")
    await person.sign_out()
    assert "Level AAL1: pwd" in await person.sign_in()


async def asks_for_step_up(person):
    return "Confirm that it is you" in await person.open("/pay")
