"""The password policy: which passwords are accepted."""

import subprocess
import sys

import pytest

from tamatar_auth.config.passwords import PasswordSettings
from tamatar_auth.errors import InvalidFields
from tamatar_auth.security.passwords.policy import PasswordPolicy

NAMES = ("ada.lovelace@example.com", "countess-ada-l", "Augusta Ada", "King Lovelace")

REPETITION = "must not be mostly a repetition"
SEQUENCE = "must not be mostly sequences such as 12345 or qwerty"
OWN_NAME = "must not be mostly the user's own address or name"
SERVICE_NAME = "must not be mostly the name of the service"


def reason(password, *, least=12, **values):
    policy = PasswordPolicy(PasswordSettings(min_length=least, **values))
    try:
        policy.check(password, names=NAMES, field="new_password")
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
        "twelve chars",
        "correct horse battery staple " * 8 + "correct horse battery",
        "gK3#xV9!mQ2z",
        "пароль из слов",
        "正しい馬の電池ホッチキス止め",
    ],
)
def test_long_enough_password_is_accepted(password):
    assert reason(password) is None


@pytest.mark.parametrize("password", ["eleven char", "short", "😀" * 11, "e\u0301" * 11])
def test_length_counts_characters_as_users_see_them(password):
    assert reason(password) == "must have at least 12 characters"


@pytest.mark.parametrize("password", ["a" * 257, "😀" * 257, "correct horse" * 20])
def test_password_above_maximum_length_is_refused(password):
    assert reason(password) == "must have at most 256 characters"


@pytest.mark.parametrize("control", ["\0", "\t", "\n", "\x7f", "\x85"])
def test_control_characters_are_refused(control):
    assert reason(f"correct{control}horse battery") == "must not have control characters"


@pytest.mark.parametrize("password", ["1qaz2wsx3edc", "QwErTy123456", "qwerty123456"])
def test_common_passwords_are_refused_in_any_case(password):
    assert reason(password) == "must not be a common password"


@pytest.mark.parametrize(
    "password",
    [
        "password12345678",
        "Password1234!",
        "iloveyou1234",
        "Administrator1",
        "correcthorsebatterystaple",
    ],
)
def test_breached_passwords_are_refused(password):
    assert reason(password) == "must not be a password of a published breach"


@pytest.mark.parametrize("password", ["password", "iloveyou", "trustno1"])
def test_short_common_passwords_are_refused(password):
    assert reason(password, least=8) == "must not be a common password"


@pytest.mark.parametrize(
    "password",
    [
        "ada.lovelace@example.com",
        "Ada.Lovelace",
        "COUNTESS-ADA-L",
        "king lovelace",
        "KingLovelace",
        "AdaLovelace1815",
        "lovelace.king",
        "@d@L0vel@ce!!",
    ],
)
def test_names_of_user_are_refused(password):
    assert reason(password) == OWN_NAME


@pytest.mark.parametrize(
    "password",
    [
        "aaaabbbbcccc",
        "----------Q9",
        "aaaaaaaaaaaa",
        " " * 12,
        "😀" * 12,
        "a" * 256,
        "passwordpassword",
        "Password password",
        "xk9#vq2Mxk9#vq2M",
        "xk9xk9xk9xk9xk",
        "kdu7kdu7kdu7kdu7!",
    ],
)
def test_repetition_is_refused(password):
    assert reason(password) == REPETITION


@pytest.mark.parametrize(
    "password",
    [
        "123456789012",
        "210987654321",
        "abcdefghijklm",
        "ZYXWVUTSRQPO",
        "абвгдежзиклм",
        "qwertyuiopas",
        "lkjhgfdsa-poiu",
        "qwertz-yxcvbn",
        "azertyuiop-wxcv",
        "йцукенгшщзхъ",
        "13579-2468-xy",
        "!@#$%^&*()_+",
        "1qaz2wsx-4rfv5tgb",
    ],
)
def test_sequence_is_refused(password):
    assert reason(password) == SEQUENCE


@pytest.mark.parametrize(
    "password",
    ["tamatar auth", "TamatarAuth1", "tamatar-auth-tamatar", "T4m4t4r!AuTh", "!!tamatar2026"],
)
def test_name_of_service_is_refused(password):
    assert reason(password) == SERVICE_NAME


@pytest.mark.parametrize("password", ["acme-rockets", "Rocket Shop 1", "R0cketAcme26"])
def test_context_words_are_a_setting(password):
    words = PasswordSettings.model_validate({"TAMATAR_PASSWORD_CONTEXT_WORDS": "Acme, Rocket-Shop"})

    assert reason(password, context_words=words.context_words) == SERVICE_NAME
    assert reason(password) is None
    assert reason("tamatar auth", context_words=words.context_words) is None


@pytest.mark.parametrize(
    "password",
    [
        "tamatar grows on a vine",
        "my tamatar-auth is red",
        "qwerty is not a word",
        "12345 little rabbits",
        "Ada walked the dog",
        "hahahaha, very funny",
        "giraffe123456",
    ],
)
def test_predictable_part_of_longer_password_is_accepted(password):
    assert reason(password) is None


def test_predictable_parts_count_less_with_shorter_minimum():
    assert reason("giraffe12345", least=15) == "must have at least 15 characters"
    assert reason("tamatar-girl", least=8) is None
    assert reason("tamatar1", least=8) == SERVICE_NAME
    assert reason("giraffe-12345678", least=15) == SEQUENCE


def test_policy_keeps_no_module_of_zxcvbn():
    program = (
        "import sys; from tamatar_auth.security.passwords.policy import PasswordPolicy;"
        "from tamatar_auth.config.passwords import PasswordSettings;"
        "PasswordPolicy(PasswordSettings());"
        "print([name for name in sys.modules if 'zxcvbn' in name])"
    )
    listed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert listed.stdout.strip() == b"[]"
