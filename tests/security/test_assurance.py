"""The words and levels of authentication."""

import pytest

from tamatar_auth.security.assurance import Level, Methods


@pytest.mark.parametrize("possession", ["otp", "hwk", "swk"])
def test_password_and_possession_make_several_factors(possession: str) -> None:
    both = Methods.of("pwd") | Methods.of(possession)

    assert both.words == tuple(sorted({"mfa", possession, "pwd"}))
    assert both.level is Level.AAL2


@pytest.mark.parametrize(
    "methods",
    [
        Methods.of("pwd"),
        Methods.of("pwd") | Methods.of("pwd"),
        Methods.of("hwk", "user") | Methods.of("otp"),
    ],
    ids=str,
)
def test_factors_of_one_kind_stay_at_aal1(methods: Methods) -> None:
    assert not methods.is_mfa
    assert methods.level is Level.AAL1


def test_passkey_with_user_verification_is_aal2_alone() -> None:
    assert Methods.of("swk", "user", "mfa").level is Level.AAL2


def test_methods_survive_their_text() -> None:
    methods = Methods.of("pwd") | Methods.of("otp")

    assert methods.text == "mfa otp pwd"
    assert Methods.parse(methods.text) == methods


def test_several_factors_stay_several_after_a_password() -> None:
    assert (Methods.parse("mfa otp pwd") | Methods.of("pwd")).text == "mfa otp pwd"
