"""Codes of authenticator apps, and recovery codes."""

import base64
import re
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest

from tamatar_auth.security import totp
from tamatar_auth.security.recovery_codes import new_codes, normalize_code

RFC_SECRET = b"12345678901234567890"
RFC_VECTORS = [
    (59, "94287082"),
    (1111111109, "07081804"),
    (1111111111, "14050471"),
    (1234567890, "89005924"),
    (2000000000, "69279037"),
    (20000000000, "65353130"),
]
"""RFC 6238, appendix B, SHA-1. The last six of the eight digits are the code of six."""

NOW = 1_800_000_015
STEP = NOW // 30


def code_at(step, secret=RFC_SECRET):
    return pyotp.HOTP(base64.b32encode(secret).decode()).at(step)


class TestCodes:
    """Codes that are checked."""

    @pytest.mark.parametrize(("moment", "digits"), RFC_VECTORS)
    def test_code_of_rfc_vector_is_accepted(self, moment, digits):
        assert totp.find_step(RFC_SECRET, digits[-6:], moment) == moment // 30

    @pytest.mark.parametrize("drift", [-1, 0, 1])
    def test_code_in_window_returns_its_step(self, drift):
        assert totp.find_step(RFC_SECRET, code_at(STEP + drift), NOW) == STEP + drift

    @pytest.mark.parametrize("drift", [-2, 2, 2000])
    def test_code_outside_window_is_wrong(self, drift):
        assert totp.find_step(RFC_SECRET, code_at(STEP + drift), NOW) is None

    @pytest.mark.parametrize("code", ["", "0", "٣٣٣٣٣٣", "12345678", "😀", "a" * 32])
    def test_code_that_is_no_code_is_wrong(self, code):
        assert totp.find_step(RFC_SECRET, code, NOW) is None

    def test_spaces_in_code_are_ignored(self):
        code = code_at(STEP)

        assert totp.find_step(RFC_SECRET, f" {code[:3]} {code[3:]} ", NOW) == STEP

    def test_code_at_start_of_time_has_no_step_before(self):
        assert totp.find_step(RFC_SECRET, code_at(0), 0.0) == 0


class TestEnrolment:
    """Secrets that are shown."""

    def test_secret_has_160_random_bits(self):
        first, second = totp.new_secret(), totp.new_secret()

        assert (len(first), len(second)) == (20, 20)
        assert first != second
        assert len(totp.secret_text(first)) == 32

    def test_enrolment_uri_is_read_by_another_implementation(self):
        secret = totp.new_secret()
        uri = totp.enrolment_uri(secret, account="ada+auth@example.com", issuer="Rocket & Shop")

        read = pyotp.parse_uri(uri)

        assert (read.name, read.issuer) == ("ada+auth@example.com", "Rocket & Shop")
        assert read.secret == totp.secret_text(secret)
        assert totp.find_step(secret, read.at(NOW), NOW) == STEP

    def test_enrolment_uri_writes_spaces_as_percent(self):
        uri = totp.enrolment_uri(RFC_SECRET, account="ada@example.com", issuer="Rocket Shop")

        assert uri.startswith("otpauth://totp/Rocket%20Shop:ada%40example.com?")
        assert "issuer=Rocket%20Shop" in uri
        assert parse_qs(urlsplit(uri).query) == {
            "digits": ["6"],
            "secret": [base64.b32encode(RFC_SECRET).decode()],
            "algorithm": ["SHA1"],
            "issuer": ["Rocket Shop"],
            "period": ["30"],
        }


class TestRecoveryCodes:
    """Codes to write down."""

    def test_recovery_codes_are_ten_different_ones(self):
        codes = new_codes()

        assert len(set(codes)) == 10
        letters = "[0-9A-HJKMNP-TV-Z]{4}"
        assert all(re.fullmatch(f"{letters}-{letters}-{letters}", code) for code in codes)

    @pytest.mark.parametrize(
        ("typed", "read"),
        [
            ("0123-4567-89AB", "0123456789AB"),
            (" o123 4567 89ab", "0123456789AB"),
            ("OIl2-3456-789a", "01123456789A"),
        ],
    )
    def test_recovery_code_is_read_as_people_type_it(self, typed, read):
        assert normalize_code(typed) == read
