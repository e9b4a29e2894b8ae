"""The website of examples/, in a real browser: cookies, and requests of another origin."""

import functools
import http.server
import threading

import pytest
from selenium.webdriver.common.by import By

from tamatar.auth.v1.session_service_pb2 import CreateSessionRequest
from tamatar_auth.client import connect
from tests.support.browser import chromium
from tests.support.commands import ROOT, SAMPLE_PASSWORD
from tests.support.waiting import until
from tests.support.web import running_site

UVICORN = ("-m", "uvicorn", "--app-dir", str(ROOT / "examples"), "fastapi_service:app")

FETCH = """
const [url, token, done] = arguments
const headers = token ? {Authorization: `Bearer ${token}`} : {}
fetch(url, {headers}).then(
  async (answer) => done([answer.status, await answer.json()]), (error) => done([error.name]))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium with an empty profile."""
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def other_port(tmp_path_factory):
    """The port of another website, on all names of this machine."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "index.html").write_text("<title>Another site</title>")
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Logs nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(sample_address, other_port, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    origin = f"http://127.0.0.1:{other_port}"
    env = {"AUTH_ADDRESS": sample_address, "SHOP_ORIGIN": origin}
    with running_site(folder, *UVICORN, "--fd", "FD", **env) as site:
        yield site


def shown(browser):
    """Return the text of the page, once it has greeted."""
    return until(lambda: browser.find_element(By.ID, "greeting").text)


def sign_in(browser, password):
    for name, text in (("email", "test1@example.com"), ("password", password)):
        field = browser.find_element(By.NAME, name)
        field.clear()
        field.send_keys(text)
    browser.find_element(By.CSS_SELECTOR, "form button").click()


def test_person_signs_in_with_cookie_and_out(site, browser):
    browser.get(site.url)
    assert shown(browser) == "Please sign in."

    sign_in(browser, "a wrong password")
    until(lambda: shown(browser) == "The email or the password is wrong.")
    sign_in(browser, SAMPLE_PASSWORD)
    until(lambda: shown(browser) == "Hello, Test User1!")
    browser.refresh()
    until(lambda: shown(browser) == "Hello, Test User1!")
    cookie = browser.get_cookie("session")
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
    assert browser.execute_script("return document.cookie") == ""

    until(lambda: browser.find_element(By.ID, "sign-out").is_displayed())
    browser.find_element(By.ID, "sign-out").click()
    until(lambda: shown(browser) == "Please sign in.")
    assert browser.get_cookie("session") is None
    with_cookie = {"Cookie": f"session={cookie['value']}"}
    until(lambda: site.ask("/me", **with_cookie).json.get("reason") == "SESSION_REVOKED")
    assert "Traceback" not in site.said


class TestOtherOrigin:
    """A page of another origin, which sends the token itself."""

    @pytest.fixture
    def token(self, sample_address):
        with connect(sample_address) as auth:
            request = CreateSessionRequest(email="test1@example.com", password=SAMPLE_PASSWORD)
            yield auth.sessions.CreateSession(request).session_token

    def fetch(self, browser, site, token):
        return browser.execute_async_script(FETCH, f"{site.url}/me", token)

    def test_page_of_allowed_origin_reads_answers(self, site, browser, other_port, token):
        browser.get(f"http://127.0.0.1:{other_port}")

        assert self.fetch(browser, site, token) == [200, {"name": "Test User1"}]
        assert site.ask("/sign-out", method="POST", Authorization=f"Bearer {token}").status == 204
        status, problem = self.fetch(browser, site, "tms_unknown")
        assert (status, problem["reason"]) == (401, "SESSION_UNKNOWN")
        status, problem = self.fetch(browser, site, None)
        assert (status, problem["reason"]) == (401, "SESSION_UNKNOWN")

    def test_page_of_other_origin_reads_nothing(self, site, browser, other_port, token):
        browser.get(f"http://localhost:{other_port}")

        assert self.fetch(browser, site, token) == ["TypeError"]
        assert self.fetch(browser, site, None) == ["TypeError"]
