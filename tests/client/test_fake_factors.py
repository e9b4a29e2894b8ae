"""Second factors in tests of callers: the shortcuts of the fake service, and its passkeys."""

import json
from datetime import timedelta

import pytest

from tamatar.auth.v1 import factor_service_pb2 as f
from tamatar.auth.v1 import session_service_pb2 as s
from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar_auth import client
from tamatar_auth.client import AAL1, AAL2, ErrorReason
from tamatar_auth.client.testing import FakePasskey
from tests.support.calls import PASSWORD, sign_in

TOTP, CODES = FactorKind.FACTOR_KIND_TOTP, FactorKind.FACTOR_KIND_RECOVERY_CODES
PASSKEY = FactorKind.FACTOR_KIND_PASSKEY
BY_PASSWORD = FactorKind.FACTOR_KIND_PASSWORD


@pytest.fixture
def auth(fake):
    with client.connect(fake.address) as auth:
        yield auth


@pytest.fixture
def ada(fake):
    return fake.add_user("ada@example.com", password=PASSWORD)


def challenge(auth):
    """Return the challenge after the right password."""
    answer = auth.sessions.CreateSession(sign_in())
    assert not answer.session_token
    assert not answer.HasField("session")
    return answer.challenge


def complete(auth, challenge, **proof):
    request = s.CompleteSignInRequest(challenge_token=challenge.challenge_token, **proof)
    return auth.sessions.CompleteSignIn(request)


def is_refused(auth, challenge, **proof):
    """Return whether a proof is refused, as every wrong one is."""
    with pytest.raises(client.CredentialsError) as caught:
        complete(auth, challenge, **proof)
    return caught.value.reason == ErrorReason.INVALID_PROOF


class TestSignIn:
    """Sign-ins of users with a second factor."""

    def test_code_of_app_signs_in_at_aal2_and_works_once(self, fake, auth, ada):
        factor = fake.add_totp_factor(ada, label="Phone")
        code = fake.totp_code(factor)

        started = complete(auth, challenge(auth), totp_code=f"{code[:3]} {code[3:]}")

        assert list(started.session.authentication_methods) == ["mfa", "otp", "pwd"]
        assert started.session.assurance_level == AAL2
        assert is_refused(auth, challenge(auth), totp_code=code)
        for _ in range(4):
            assert complete(auth, challenge(auth), totp_code=fake.totp_code(factor)).session_token

    def test_challenge_names_kinds_of_user(self, fake, auth, ada):
        fake.add_totp_factor(ada)
        assert list(challenge(auth).kinds) == [TOTP]
        fake.add_passkey(ada)
        codes = fake.add_recovery_codes(ada)
        assert set(challenge(auth).kinds) == {TOTP, CODES, PASSKEY}
        assert challenge(auth).passkey_options_json

        for code in codes:
            assert complete(auth, challenge(auth), recovery_code=code.lower().replace("-", " "))
            assert is_refused(auth, challenge(auth), recovery_code=code)
        assert set(challenge(auth).kinds) == {TOTP, PASSKEY}

    def test_challenge_is_void_after_five_answers_or_its_end(self, fake, auth, ada):
        factor = fake.add_totp_factor(ada)
        tried, left = challenge(auth), challenge(auth)
        for _ in range(5):
            assert is_refused(auth, tried, totp_code="000000x")

        assert is_refused(auth, tried, totp_code=fake.totp_code(factor))
        fake.advance(timedelta(minutes=5))
        assert is_refused(auth, left, totp_code=fake.totp_code(factor))

    def test_challenge_of_changed_password_is_void(self, fake, auth, ada):
        factor = fake.add_totp_factor(ada)
        left = challenge(auth)
        fake.deactivate(ada)

        assert is_refused(auth, left, totp_code=fake.totp_code(factor))


class TestPasskeys:
    """Passkeys that only the fake service accepts."""

    def test_passkey_registered_by_calls_signs_in(self, fake, auth, ada):
        passkey = FakePasskey(is_backup_eligible=True)
        begun = auth.factors.BeginPasskeyRegistration(
            f.BeginPasskeyRegistrationRequest(user_id=ada.user_id)
        )
        finished = f.FinishPasskeyRegistrationRequest(
            registration_token=begun.registration_token,
            credential_json=passkey.register(begun.creation_options_json),
            label="Laptop",
        )
        assert auth.factors.FinishPasskeyRegistration(finished).factor.label == "Laptop"
        with pytest.raises(client.CredentialsError):
            auth.factors.FinishPasskeyRegistration(finished)

        for email in ("", "ADA@example.com"):
            request = s.BeginPasskeySignInRequest(email=email)
            asked = auth.sessions.BeginPasskeySignIn(request).challenge
            proof = {"passkey_credential_json": passkey.sign(asked.passkey_options_json)}
            started = complete(auth, asked, **proof)
            assert started.user == ada or started.user.user_id == ada.user_id
            assert list(started.session.authentication_methods) == ["mfa", "swk", "user"]
            assert is_refused(auth, asked, **proof)

    def test_passkey_without_user_verification_is_a_second_factor_only(self, fake, auth, ada):
        passkey = fake.add_passkey(ada, FakePasskey(verifies_user=False))

        asked = challenge(auth)
        proof = {"passkey_credential_json": passkey.sign(asked.passkey_options_json)}
        assert complete(auth, asked, **proof).session.assurance_level == AAL2
        asked = auth.sessions.BeginPasskeySignIn(s.BeginPasskeySignInRequest()).challenge
        proof = {"passkey_credential_json": passkey.sign(asked.passkey_options_json)}
        assert is_refused(auth, asked, **proof)

    @pytest.mark.parametrize("fault", ["origin", "challenge", "signature", "other user", "count"])
    def test_wrong_answer_of_passkey_is_refused(self, fake, auth, ada, fault):
        passkey = fake.add_passkey(ada)
        other = fake.add_passkey(fake.add_user("bob@example.com"))
        asked = challenge(auth)
        signed = json.loads(passkey.sign(asked.passkey_options_json))
        match fault:
            case "origin":
                passkey.origin = "https://evil.example"
                signed = json.loads(passkey.sign(asked.passkey_options_json))
            case "challenge":
                asked = challenge(auth)
            case "signature":
                signed["response"]["signature"] = "AAAA"
            case "other user":
                options = json.loads(asked.passkey_options_json) | {"allowCredentials": []}
                signed = json.loads(other.sign(json.dumps(options)))
            case "count":
                passkey.sign_count = 7
                first = passkey.sign(asked.passkey_options_json)
                complete(auth, asked, passkey_credential_json=first)
                asked = challenge(auth)
                signed = json.loads(passkey.sign(asked.passkey_options_json))

        assert is_refused(auth, asked, passkey_credential_json=json.dumps(signed))

    def test_browser_refuses_excluded_and_unknown_passkeys(self, fake, auth, ada):
        passkey = fake.add_passkey(ada)
        with pytest.raises(ValueError, match="already registered"):
            fake.add_passkey(ada, passkey)
        with pytest.raises(ValueError, match="not allowed"):
            FakePasskey().sign(challenge(auth).passkey_options_json)

    def test_unknown_address_has_stable_made_up_passkey(self, auth, ada):
        def allowed(email):
            request = s.BeginPasskeySignInRequest(email=email)
            asked = auth.sessions.BeginPasskeySignIn(request).challenge
            return json.loads(asked.passkey_options_json)["allowCredentials"]

        assert allowed("nobody@example.com") == allowed("nobody@example.com")
        assert allowed("nobody@example.com") != allowed("ada@example.com")
        assert len(allowed("ada@example.com")) == 1


class TestStepUp:
    """Sessions whose users prove again who they are."""

    def step_up(self, auth, token, **proof):
        begun = auth.sessions.BeginStepUp(s.BeginStepUpRequest(session_token=token))
        request = s.CompleteStepUpRequest(
            session_token=token, challenge_token=begun.challenge.challenge_token, **proof
        )
        return auth.sessions.CompleteStepUp(request)

    def test_step_up_raises_level_and_replaces_token(self, fake, auth, ada):
        factor = fake.add_totp_factor(ada)
        old = fake.start_session(ada, authentication_age=timedelta(hours=1))
        started_at = fake.add_user("bob@example.com").create_time.ToNanoseconds()

        raised = self.step_up(auth, old, totp_code=fake.totp_code(factor))

        assert raised.session.assurance_level == AAL2
        assert raised.session.authenticate_time.ToNanoseconds() > started_at
        request = s.ValidateSessionRequest(
            session_token=raised.session_token, min_assurance_level=AAL2
        )
        request.max_authentication_age.FromSeconds(300)
        assert auth.sessions.ValidateSession(request)
        with pytest.raises(client.SessionError) as caught:
            auth.sessions.ValidateSession(s.ValidateSessionRequest(session_token=old))
        assert caught.value.reason == ErrorReason.SESSION_UNKNOWN

    def test_password_renews_time_but_not_level(self, fake, auth, ada):
        token = fake.start_session(ada, authentication_age=timedelta(hours=1))
        begun = auth.sessions.BeginStepUp(s.BeginStepUpRequest(session_token=token))
        assert list(begun.challenge.kinds) == [BY_PASSWORD]

        raised = self.step_up(auth, token, password=PASSWORD)

        assert raised.session.assurance_level == AAL1
        with pytest.raises(client.CredentialsError):
            self.step_up(auth, raised.session_token, password="wrong")

    def test_change_of_factors_may_ask_for_step_up(self, fake, auth, ada):
        factor = fake.add_totp_factor(ada)
        weak, strong = fake.start_session(ada), fake.start_session(ada, level=AAL2)
        other = fake.start_session(fake.add_user("bob@example.com"), level=AAL2)

        def delete(token):
            required = {"session_token": token}
            auth.factors.DeleteFactor(
                f.DeleteFactorRequest(factor_id=factor.factor_id, step_up=required)
            )

        with pytest.raises(client.StepUpRequiredError):
            delete(weak)
        with pytest.raises(client.SessionError):
            delete(other)
        delete(strong)
        assert not auth.factors.ListFactors(f.ListFactorsRequest(user_id=ada.user_id)).factors


class TestFactors:
    """Factors, as users see and change them."""

    def test_totp_factor_counts_once_it_is_confirmed(self, fake, auth, ada):
        created = auth.factors.CreateTotpFactor(
            f.CreateTotpFactorRequest(user_id=ada.user_id, label="Phone")
        )
        factor = created.factor
        assert auth.sessions.CreateSession(sign_in()).session_token
        with pytest.raises(client.CredentialsError):
            auth.factors.ConfirmTotpFactor(
                f.ConfirmTotpFactorRequest(factor_id=factor.factor_id, code="1")
            )

        auth.factors.ConfirmTotpFactor(
            f.ConfirmTotpFactorRequest(factor_id=factor.factor_id, code=fake.totp_code(factor))
        )

        assert challenge(auth)
        (listed,) = auth.factors.ListFactors(f.ListFactorsRequest(user_id=ada.user_id)).factors
        assert listed.HasField("confirm_time")
        renamed = {"factor_id": factor.factor_id, "label": "Old phone"}
        answer = auth.factors.UpdateFactor(f.UpdateFactorRequest(factor=renamed))
        assert answer.factor.label == "Old phone"

    def test_user_has_at_most_twenty_factors(self, fake, auth, ada):
        for _ in range(20):
            fake.add_passkey(ada)
        fake.add_recovery_codes(ada)

        with pytest.raises(client.PreconditionError) as caught:
            auth.factors.CreateTotpFactor(f.CreateTotpFactorRequest(user_id=ada.user_id))
        assert caught.value.reason == ErrorReason.TOO_MANY_FACTORS

    def test_factor_of_deleted_user_is_unknown(self, fake, auth, ada):
        factor = fake.add_totp_factor(ada)
        fake.delete(ada)

        with pytest.raises(client.NotFoundError):
            auth.factors.DeleteFactor(f.DeleteFactorRequest(factor_id=factor.factor_id))
