"""The password policy: which passwords are accepted."""

import subprocess
import sys

import pytest

from tamatar_auth.errors import InvalidFields
from tamatar_auth.security.passwords.policy import PasswordPolicy

NAMES = ("ada.lovelace@example.com", "countess-ada-l", "Augusta Ada", "King Lovelace")


def reason(password, *, least=12):
    try:
        PasswordPolicy(least).check(password, names=NAMES, field="new_password")
    except InvalidFields as refusal:
        ((field, description),) = refusal.violations
        assert field == "new_password"
        return description
    return None


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple",
        "TestPass123!",
        "😀" * 12,
        "twelve chars",
        "a" * 256,
        " " * 12,
    ],
)
def test_long_enough_password_is_accepted(password):
    assert reason(password) is None


@pytest.mark.parametrize("password", ["eleven char", "short", "😀" * 11, "e\u0301" * 11])
def test_length_counts_characters_as_users_see_them(password):
    assert reason(password) == "must have at least 12 characters"


@pytest.mark.parametrize("password", ["a" * 257, "😀" * 257])
def test_password_above_maximum_length_is_refused(password):
    assert reason(password) == "must have at most 256 characters"


@pytest.mark.parametrize("control", ["\0", "\t", "\n", "\x7f", "\x85"])
def test_control_characters_are_refused(control):
    assert reason(f"correct{control}horse battery") == "must not have control characters"


@pytest.mark.parametrize("password", ["1qaz2wsx3edc", "QwErTy123456", "qwerty123456"])
def test_common_passwords_are_refused_in_any_case(password):
    assert reason(password) == "must not be a common password"


@pytest.mark.parametrize("password", ["password", "iloveyou", "trustno1"])
def test_short_common_passwords_are_refused(password):
    assert reason(password, least=8) == "must not be a common password"


@pytest.mark.parametrize(
    "password",
    ["ada.lovelace@example.com", "Ada.Lovelace", "COUNTESS-ADA-L", "king lovelace", "KingLovelace"],
)
def test_names_of_user_are_refused(password):
    assert reason(password) == "must not be the user's own address or name"


def test_policy_keeps_no_module_of_zxcvbn():
    program = (
        "import sys; from tamatar_auth.security.passwords.policy import PasswordPolicy;"
        "PasswordPolicy(8); print([name for name in sys.modules if 'zxcvbn' in name])"
    )
    listed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert listed.stdout.strip() == b"[]"
