"""examples/web: the life of a user, over HTTP and by mail.

The pages are docs/guide/user-story.md and docs/guide/second-factors.md.
"""

import re
from uuid import uuid4

import pytest

from tests.support.calls import NEW_PASSWORD, PASSWORD
from tests.support.commands import ROOT
from tests.support.waiting import eventually
from tests.support.web_example import Visitor, factor_site, mailbox, site

__all__ = ["factor_site", "mailbox", "site"]

PAGES = ("user-story.md", "second-factors.md")
OK, BAD_REQUEST, FORBIDDEN, CONFLICT = 200, 400, 403, 409


class Person:
    """A visitor with an address and a mailbox."""

    def __init__(self, site, mailbox):
        self.visitor, self.mailbox = Visitor(site), mailbox
        self.email = f"{uuid4()}@example.com"

    async def sign_up(self):
        return await self.visitor.post("/sign-up", email=self.email, new_password=PASSWORD)

    async def sign_in(self, password=PASSWORD):
        return await self.visitor.post("/sign-in", email=self.email, password=password)

    async def open_link(self, path, address="", **fields):
        """Open the link of the next mail, and send the form that it leads to."""
        link = await self.mailbox.receive_link(address or self.email)
        assert link.startswith(f"{path}?")
        status, text = await self.visitor.get(link)
        assert status == OK
        token = re.search(r'name="token" value="(\w[^"]*)"', text)[1]
        return await self.visitor.post(path, token=token, **fields)

    async def ask_change(self, email):
        return await self.visitor.post("/account/email", new_email=email)


@pytest.fixture
def person(site, mailbox):
    return Person(site, mailbox)


@pytest.fixture
async def member(person):
    """A person who has signed up and signed in."""
    await person.sign_up()
    await person.open_link("/verify")
    status, text = await person.sign_in()
    assert (status, person.email in text) == (OK, True)
    return person


class TestStory:
    """The steps of the page."""

    async def test_new_user_signs_in_after_verification(self, person):
        assert (await person.sign_up())[0] == OK
        await person.mailbox.receive_link(person.email)
        assert "Verify your address first" in (await person.sign_in())[1]

        _, text = await person.open_link("/verify")  # of the sign-in
        assert "verified" in text
        _, text = await person.sign_in()

        assert f"You are signed in as {person.email}." in text

    async def test_signed_out_user_has_no_session(self, member):
        stolen = list(member.visitor.cookies)

        await member.visitor.post("/sign-out")

        assert member.visitor.token() is None
        for cookie in stolen:
            member.visitor.cookies.set_cookie(cookie)
        _, text = await member.visitor.get("/account")
        assert "Sign in" in text

    async def test_forgotten_password_is_reset_by_link(self, member):
        _, known = await member.visitor.post("/forgot", email=member.email)
        _, unknown = await member.visitor.post("/forgot", email=f"no-{member.email}")
        assert known == unknown

        _, text = await member.open_link("/reset", new_password=NEW_PASSWORD)

        assert "Your password is changed" in text
        assert "Sign in" in (await member.visitor.get("/account"))[1]  # the session has ended
        assert (await member.sign_in())[0] == FORBIDDEN
        assert (await member.sign_in(NEW_PASSWORD))[0] == OK

    async def test_changed_address_is_proved_and_notified(self, member):
        new = f"new-{member.email}"
        assert (await member.ask_change(new.upper()))[0] == OK
        assert member.email in (await member.visitor.get("/account"))[1]

        _, text = await member.open_link("/change", new)

        assert "Your address is changed" in text
        assert new in await member.mailbox.receive(member.email)
        assert f"You are signed in as {new}." in (await member.visitor.get("/account"))[1]
        assert (await member.ask_change(f"third-{new}"))[0] == OK
        member.email = new
        assert new in (await member.sign_in())[1]

    async def test_token_is_refreshed_by_page_when_old(self, member):
        first = member.visitor.token()
        await member.visitor.get("/account")
        assert member.visitor.token() == first

        member.visitor.cookies.clear("localhost.local", "/", "token-age")  # as after an hour
        await member.visitor.get("/account")

        assert member.visitor.token() not in {first, None}
        assert member.email in (await member.visitor.get("/account"))[1]

    async def test_page_is_shown_to_bearer_without_cookie(self, member):
        bearer = f"Bearer {member.visitor.token()}"
        stranger = Visitor(member.visitor.site)

        status, text = await stranger.get("/account", Authorization=bearer)

        assert (status, member.email in text) == (OK, True)

    async def test_head_of_link_consumes_no_token(self, person):
        await person.sign_up()
        link = await person.mailbox.receive_link(person.email)

        assert (await person.visitor.get(link, method="HEAD"))[0] == OK

        token = link.partition("=")[2]
        assert (await person.visitor.post("/verify", token=token))[0] == OK


class TestRefusals:
    """What strangers and mistakes meet."""

    async def test_second_sign_up_is_reported_to_owner_only(self, member, site):
        stranger = Person(site, member.mailbox)
        _, of_unknown = await stranger.sign_up()
        stranger.email = member.email

        _, of_known = await stranger.sign_up()

        assert of_known == of_unknown
        assert "You have an account already" in await member.mailbox.receive(member.email)

    async def test_change_to_taken_address_fails_at_confirmation(self, member, site):
        other = Person(site, member.mailbox)
        await member.ask_change(other.email)
        await other.sign_up()
        mails = [await member.mailbox.receive_link(other.email) for _ in range(2)]
        (change,) = [link for link in mails if link.startswith("/change?")]

        status, _ = await member.visitor.post("/change", token=change.partition("=")[2])

        assert status == CONFLICT

    @pytest.mark.parametrize("path", ["/sign-in", "/sign-out", "/account/email"])
    async def test_form_of_another_site_is_refused(self, member, path):
        token = member.visitor.token()
        for origin in ("https://evil.example", "null"):
            fields = {"email": member.email, "password": PASSWORD}
            status, text = await member.visitor.post(path, origin=origin, **fields)
            assert (status, "another site" in text) == (FORBIDDEN, True)

        assert member.visitor.token() == token
        assert member.email in (await member.visitor.get("/account"))[1]

    async def test_visitor_without_session_is_led_to_sign_in(self, person):
        for path in ("/account", "/elsewhere"):
            assert "Sign in" in (await person.visitor.get(path))[1]

    async def test_broken_rules_and_used_links_are_explained(self, person):
        fields = {"email": person.email, "new_password": "short"}
        status, text = await person.visitor.post("/sign-up", **fields)
        assert (status, "password" in text) == (BAD_REQUEST, True)
        status, text = await person.visitor.post("/verify", token="tmu_unknown")
        assert (status, "was used" in text) == (BAD_REQUEST, True)

    async def test_empty_fields_are_explained_by_page(self, person):
        unanswered = {"challenge_token": "tmh_any", "passkey_credential_json": ""}
        for path, fields in (("/sign-up", {"email": person.email}), ("/sign-in/proof", unanswered)):
            status, text = await person.visitor.post(path, **fields)
            assert (status, "<p>A field is empty.</p>" in text) == (BAD_REQUEST, True)

    async def test_password_is_no_second_factor(self, person):
        fields = {"challenge_token": "tmh_any", "password": PASSWORD}
        assert (await person.visitor.post("/sign-in/proof", **fields))[0] == BAD_REQUEST

    async def test_passkey_page_names_missing_script(self, person):
        _, text = await person.visitor.post("/sign-in/passkey")
        assert "<noscript>" in text


def squeezed(text):
    return re.sub(r"\s", "", text)


class TestStepUp:
    """Pages that ask again who the person is."""

    async def test_pay_without_second_factor_leads_to_adding_one(self, member):
        _, text = await member.visitor.get("/pay")

        assert "Add a second factor first" in text
        assert "Paid" not in (await member.visitor.post("/pay"))[1]

    async def test_old_session_changes_address_after_password(self, factor_site, mailbox):
        person = Person(factor_site.origin, mailbox)
        await person.sign_up()
        await person.open_link("/verify")
        await person.sign_in()
        before = person.visitor.token()
        factor_site.age_sessions(person.email)
        await eventually(lambda: asks_for_proof(person, "/account/email"))

        token = await challenge_token(person, "/account/email")
        answer = {"challenge_token": token, "next": "/account/email"}
        status, text = await person.visitor.post("/step-up", password="wrong horse", **answer)
        assert (status, "did not work" in text) == (FORBIDDEN, True)
        _, text = await person.visitor.post("/step-up", password=PASSWORD, **answer)

        assert "New address" in text
        assert person.visitor.token() != before
        assert (await person.ask_change(f"new-{person.email}"))[0] == OK

    @pytest.mark.parametrize("path", ["https://evil.example/", "//evil.example/pay", "/sign-out"])
    async def test_step_up_leads_to_known_pages_only(self, member, path):
        answer = {"challenge_token": await challenge_token(member, "/step-up"), "next": path}

        _, text = await member.visitor.post("/step-up", password=PASSWORD, **answer)

        assert f"You are signed in as {member.email}." in text


async def asks_for_proof(person, path):
    return "Confirm that it is you" in (await person.visitor.get(path))[1]


async def challenge_token(person, path):
    """Return the token of the challenge on a page."""
    _, text = await person.visitor.get(path)
    return re.search(r'name="challenge_token" value="([^"]*)"', text)[1]


@pytest.mark.parametrize("page", PAGES)
def test_guide_page_code_is_of_the_example(page):
    example = ROOT / "examples/web"
    files = [file.read_text() for file in (*example.glob("*.py"), *example.glob("static/*.js"))]
    text = (ROOT / "docs/guide" / page).read_text()
    for code in re.findall(r"(?ms)^```(?:python|js)\n(.*?)^```$", text):
        assert any(squeezed(code) in squeezed(file) for file in files), code
