"""`tamatar-auth user factors`, and sign-ins of users with a second factor."""

import json
import re

import pytest

from tamatar_auth.client import AAL2
from tests.support.calls import PASSWORD
from tests.support.commands import tamatar
from tests.support.fake_service import fake
from tests.support.terminals import type_into

__all__ = ["fake"]

EMAIL = "ada@example.com"
CREATE = ("session", "create", EMAIL)


@pytest.fixture
def ada(fake):
    return fake.add_user(EMAIL, password=PASSWORD)


@pytest.fixture
def there(fake):
    return {"TAMATAR_ADDRESS": fake.address}


@pytest.fixture
def cli(tmp_path, there):
    def ask(*arguments, code=0, entered=""):
        return tamatar(*arguments, cwd=tmp_path, code=code, entered=entered, **there)

    return ask


def test_factors_are_listed_without_secrets(cli, fake, ada):
    phone = fake.add_totp_factor(ada, label="Phone")
    codes = fake.add_recovery_codes(ada)

    table = cli("user", "factors", "list", EMAIL)
    ids = cli("user", "factors", "list", EMAIL, "-o", "name").stdout.splitlines()
    listed = json.loads(cli("user", "factors", "list", EMAIL, "-o", "json").stdout)["factors"]

    header, totp, recovery = table.stdout.splitlines()
    assert header.split()[:3] == ["Id", "Kind", "Label"]
    assert totp.split()[:3] == [phone.factor_id, "TOTP", "Phone"]
    assert recovery.split()[1] == "RECOVERY_CODES"
    assert ids == [each["factor_id"] for each in listed]
    assert [each["kind"] for each in listed] == ["FACTOR_KIND_TOTP", "FACTOR_KIND_RECOVERY_CODES"]
    assert listed[1]["remaining_code_count"] == 10
    assert not any(code in table.stdout for code in codes)
    assert "USER_NOT_FOUND" in cli("user", "factors", "list", "nobody@x.com", code=4).stderr


def test_factor_is_deleted_after_confirmation(cli, fake, ada):
    phone = fake.add_totp_factor(ada, label="Phone")
    other = fake.add_totp_factor(fake.add_user("bob@example.com"))
    delete = ("user", "factors", "delete", EMAIL)

    asked = cli(*delete, phone.factor_id, code=2).stderr
    assert asked.startswith(f"Remove the factor TOTP Phone of {EMAIL}? Use --yes")
    for factor_id in (other.factor_id, "17"):
        refused = cli(*delete, factor_id, "--yes", code=4).stderr
        assert refused == "The user has no such factor. (FACTOR_NOT_FOUND)\n"
    deleted = cli(*delete, phone.factor_id.upper(), "--yes", "-o", "name").stdout
    assert deleted == f"{phone.factor_id}\n"
    assert not cli("user", "factors", "list", EMAIL, "-o", "name").stdout


def test_recovery_codes_are_replaced_and_printed_once(cli, fake, ada):
    old = fake.add_recovery_codes(ada)
    reset = ("user", "factors", "reset-recovery", EMAIL)

    assert "Use --yes" in cli(*reset, code=2).stderr
    first = cli(*reset, "--yes")
    second = json.loads(cli(*reset, "--yes", "-o", "json").stdout)["codes"]

    codes = first.stdout.splitlines()
    assert "earlier codes no longer work" in first.stderr
    assert len({*codes, *second, *old}) == 30
    assert all(re.fullmatch(r"\w{4}-\w{4}-\w{4}", code) for code in codes)


@pytest.mark.parametrize("kind", ["totp", "recovery"])
def test_session_create_at_terminal_asks_for_code(fake, ada, there, tmp_path, kind):
    phone, codes = fake.add_totp_factor(ada), fake.add_recovery_codes(ada)
    code = {"totp": fake.totp_code(phone), "recovery": codes[0].lower()}[kind]

    ended, screen = type_into(
        *CREATE,
        *("-o", "json"),
        prompt=b"Password: ",
        keys=f"{PASSWORD}\n".encode(),
        more=[(b"Code of the authenticator app or recovery code: ", f"{code}\n".encode())],
        cwd=tmp_path,
        env=there,
    )

    assert ended == 0
    answer = json.loads(re.search(rb"\{.*\}", screen, re.DOTALL)[0])
    assert answer["session"]["assurance_level"] == "ASSURANCE_LEVEL_AAL2"
    assert answer["session"]["client"]["user_agent"].startswith("tamatar-auth/")
    assert answer["session_token"].startswith("tms_")
    assert code.encode() not in screen


def test_session_create_without_terminal_says_what_to_do(cli, fake, ada):
    fake.add_passkey(ada)
    stdin = {"entered": f"{PASSWORD}\n", "code": 1}
    assert (
        "with a passkey, which needs a browser" in cli(*CREATE, "--password-stdin", **stdin).stderr
    )

    fake.add_totp_factor(ada)
    refused = cli(*CREATE, "--password-stdin", **stdin)
    assert refused.stderr == (
        "The user has a second factor. Sign in at a terminal, which asks for a code.\n"
    )
    assert not refused.stdout


def test_session_validate_requires_level_and_age(cli, fake, ada):
    weak, strong = fake.start_session(ada), fake.start_session(ada, level=AAL2)
    validate = ("session", "validate", "--token-stdin")
    both = ("--min-level", "aal2", "--max-age", "5m")

    shown = cli(*validate, *both, entered=strong).stdout
    assert re.search(r"session.assurance_level +AAL2\n", shown)
    assert re.search(r"session.authentication_methods +mfa, otp, pwd\n", shown)
    refused = cli(*validate, *both, entered=weak, code=1).stderr
    assert refused.endswith("(STEP_UP_REQUIRED) It lacks the level AAL2.\n")
    for wrong in ("5", "5 m", "-5m", "5w"):
        assert "90s, 5m" in cli(*validate, "--max-age", wrong, entered=weak, code=2).stderr
    for beyond in ("0s", "31d"):
        refused = cli(*validate, "--max-age", beyond, entered=strong, code=1).stderr
        assert "INVALID_FIELDS" in refused


def test_session_validate_trusts_no_service_without_levels(cli, fake, ada):
    """A service of an earlier release ignores what it is asked for."""
    token = fake.start_session(ada, level=AAL2)
    fake._store.sessions.get_by_token(token).session.ClearField("authenticate_time")
    validate = ("session", "validate", "--token-stdin")

    assert cli(*validate, entered=token).stdout
    refused = cli(*validate, "--min-level", "AAL2", entered=token, code=1)

    assert "does not know levels of sessions" in refused.stderr
    assert not refused.stdout


def test_session_list_shows_level_and_time(cli, fake, ada):
    fake.start_session(ada, level=AAL2)

    header, row = cli("session", "list", EMAIL).stdout.splitlines()

    assert header.split()[:6] == ["Id", "Last", "seen", "Address", "Level", "Authenticated"]
    assert row.split()[2] == "AAL2"
