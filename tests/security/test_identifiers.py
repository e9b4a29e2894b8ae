"""Email addresses in their normal form."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tamatar_auth.errors import InvalidFields
from tamatar_auth.security.identifiers import normalize_email, normalize_prefix


@pytest.mark.parametrize(
    ("address", "normal"),
    [
        ("Ada@Example.COM", "ada@example.com"),
        ("STRASSE@example.com", "strasse@example.com"),
        ("Straße@example.com", "straße@example.com"),  # not the same as strasse
        ("\u212a@example.com", "k@example.com"),  # the Kelvin sign is a K
        ("A\u030a@example.com", "å@example.com"),  # composed
        ("ada@xn--mller-kva.example", "ada@müller.example"),
        ("ada+tag@example.com", "ada+tag@example.com"),
        ("İ@example.com", "i̇@example.com"),
        (" ada@example.com\u00a0\u3000", "ada@example.com"),
    ],
)
def test_email_is_normalised(address, normal):
    assert normalize_email(address) == normal


@pytest.mark.parametrize(
    "address",
    [
        "ada",
        "@example.com",
        "ada@",
        "ada@@example.com",
        "ada lovelace@example.com",
        '"ada"@example.com',
        "ada@[127.0.0.1]",
        "Ada <ada@example.com>",
        "ada @example.com",
        "ada@ example.com",
        "ada@exa\u0000mple.com",
        "a" * 65 + "@example.com",
        "ada@" + "a" * 64 + ".com",
        "ada@" + ".".join(["a" * 60] * 5) + ".com",
        "ada@example..com",
        "",
    ],
)
def test_invalid_email_is_refused(address):
    with pytest.raises(InvalidFields) as refused:
        normalize_email(address)

    assert [violation.field for violation in refused.value.violations] == ["email"]
    assert str(refused.value) == "The request has invalid fields."


@given(some.text(min_size=1, max_size=30), some.sampled_from(["example.com", "EXAMPLE.com"]))
def test_normalised_email_is_its_own_normal_form(local, domain):
    try:
        normal = normalize_email(f"{local}@{domain}")
    except InvalidFields:
        return

    assert normalize_email(normal) == normal
    assert len(normal) <= 255
    assert normal == normalize_prefix(normal)
