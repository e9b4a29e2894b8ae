"""The settings of passkeys: their domain, and the origins of the pages."""

import pytest

from tamatar_auth.config.errors import SettingsError
from tamatar_auth.config.settings import Settings
from tamatar_auth.security.passkey_options import RelyingParty

DOMAIN, ORIGINS = "TAMATAR_PASSKEY_RELYING_PARTY_ID", "TAMATAR_PASSKEY_ORIGINS"


def load(domain, origins):
    return Settings.load(env_file=None, passkey_relying_party_id=domain, passkey_origins=origins)


def complaint(domain, origins):
    with pytest.raises(SettingsError) as refused:
        load(domain, origins)
    return str(refused.value)


@pytest.mark.parametrize(
    ("domain", "origins"),
    [
        ("example.com", "https://example.com"),
        ("example.com", "https://login.example.com, https://shop.example.com:8443"),
        ("login.example.com", "https://login.example.com"),
        ("xn--mnchen-3ya.example", "https://xn--mnchen-3ya.example"),
        ("localhost", "http://localhost:3000,https://localhost"),
        ("localhost", "http://shop.localhost:3000"),
    ],
)
def test_domain_with_origins_within_it_is_accepted(domain, origins):
    party = RelyingParty.load(load(domain, origins).factors, in_development=False)

    assert party.id == domain
    assert ",".join(party.origins) == origins.replace(" ", "")


@pytest.mark.parametrize(
    "domain",
    [
        *("127.0.0.1", "1.2.3", "[::1]", "::1", "example.com:443", "https://example.com"),
        *("example.com.", ".example.com", "Example.com", "m\u00fcnchen.de", "exa mple.com"),
        *("-a.com", "a..com", "a" * 64 + ".com", "example.com/login", "*.example.com"),
    ],
)
def test_value_that_is_no_domain_is_refused(domain):
    assert DOMAIN in complaint(domain, "https://example.com")
    assert "must be a domain such as example.com" in complaint(domain, "https://example.com")


@pytest.mark.parametrize(
    ("origin", "must"),
    [
        ("https://example.com/", "must be origins such as"),
        ("https://example.com/login", "must be origins such as"),
        ("https://Example.com", "must be origins such as"),
        ("https://user@example.com", "must be origins such as"),
        ("https://example.com:0", "must be origins such as"),
        ("https://example.com:0443", "must be origins such as"),
        ("https://example.com:65536", "must be origins such as"),
        ("https://example.com:", "must be origins such as"),
        ("https://*.example.com", "must be origins such as"),
        ("https://m\u00fcnchen.de", "must be origins such as"),
        ("example.com", "must be origins such as"),
        ("null", "must be origins such as"),
        ("ws://example.com", "must be origins such as"),
        ("https://127.0.0.1:8000", "must have domains"),
        ("http://127.0.0.1:8000", "must have domains"),
        ("http://example.com", "must begin with https://"),
        ("http://localhost.example.com", "must begin with https://"),
        ("https://example.com:443", "must leave out the default port"),
        ("http://localhost:80", "must leave out the default port"),
        ("https://example.org", "https://example.org must be within the domain example.com"),
        ("https://notexample.com", "must be within the domain example.com"),
        ("https://example.com.evil.org", "must be within the domain example.com"),
    ],
)
def test_origin_that_no_browser_sends_or_accepts_is_refused(origin, must):
    said = complaint("example.com", f"https://example.com,{origin}")

    assert said.startswith(ORIGINS)
    assert must in said


def test_origin_above_the_domain_is_refused():
    assert "must be within" in complaint("login.example.com", "https://example.com")


def test_domain_and_origins_need_each_other():
    assert complaint("example.com", "").startswith(
        f"{ORIGINS} (command line): must be set if {DOMAIN}"
    )
    assert complaint("", "https://example.com").startswith(
        f"{DOMAIN} (command line): must be set if"
    )


def test_development_has_a_domain_and_production_has_none():
    factors = Settings.load(env_file=None).factors

    party = RelyingParty.load(factors, in_development=True)
    assert (party.id, party.origins) == ("localhost", ("http://localhost:8000",))
    assert RelyingParty.load(factors, in_development=False) is None
