"""The checks of passkeys: what browsers answer, and what anybody could send instead."""

import json
import secrets
from contextlib import suppress
from uuid import UUID, uuid4

import cbor2
import pytest
from cbor2 import CBORTag
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tamatar_auth.errors.factors import ProofCause
from tamatar_auth.security.passkey_options import CredentialId, PasskeyUser, RelyingParty
from tamatar_auth.security.passkeys import (
    PasskeyVerifier,
    StoredPasskey,
    WrongCredential,
    credential_id_of,
)
from tamatar_auth.security.stand_in_passkey import STAND_IN
from tests.support.soft_authenticator import SoftPasskey, base64url, from_base64url, new_cose_key

ORIGIN = "https://login.example.com"
PARTY = RelyingParty("example.com", (ORIGIN, "https://example.com"), "Shop")
VERIFIER = PasskeyVerifier(PARTY)
USER = PasskeyUser(uuid4(), "ada@example.com", "Ada")
WRONG = ProofCause.WRONG_CREDENTIAL


def creation_options(challenge=b"c" * 32):
    return PARTY.registration_options(USER, challenge=challenge, registered=[])


def request_options(challenge=b"c" * 32):
    return PARTY.assertion_options(challenge=challenge, allowed=[], must_verify_user=True)


def passkey(**facts):
    return SoftPasskey("example.com", USER.id.bytes, **{"origin": ORIGIN} | facts)


def register(soft, **changes):
    answer = soft.register(creation_options(), **changes)
    return VERIFIER.verify_registration(answer, challenge=b"c" * 32)


def stored(soft, sign_count=0):
    new = register(soft)
    return StoredPasskey(USER.id, new.public_key, sign_count, new.is_backup_eligible)


def sign(soft, known=None, *, must_verify_user=True, **changes):
    answer = soft.sign(request_options(), **changes)
    return verify(answer, known or stored(soft), must_verify_user=must_verify_user)


def verify(answer, known, *, must_verify_user=True):
    return VERIFIER.verify_assertion(
        answer, known, challenge=b"c" * 32, must_verify_user=must_verify_user
    )


def cause_of(check, *args, **changes):
    with pytest.raises(WrongCredential) as caught:
        check(*args, **changes)
    assert caught.value.__cause__ is None  # no exception of a library follows
    return caught.value.cause


class TestOptions:
    """What browsers get."""

    def test_registration_asks_for_a_passkey_without_attestation(self):
        known = [CredentialId(b"k" * 16, ("usb", "telepathy"))]
        options = json.loads(
            PARTY.registration_options(USER, challenge=b"c" * 32, registered=known)
        )

        assert options["rp"] == {"id": "example.com", "name": "Shop"}
        assert from_base64url(options["user"]["id"]) == USER.id.bytes
        assert options["attestation"] == "none"
        assert options["authenticatorSelection"]["residentKey"] == "required"
        assert options["authenticatorSelection"]["userVerification"] == "preferred"
        assert [each["alg"] for each in options["pubKeyCredParams"]] == [-7, -8, -257]
        assert options["excludeCredentials"] == [
            {"id": base64url(b"k" * 16), "type": "public-key", "transports": ["usb"]}
        ]

    @pytest.mark.parametrize(("must", "word"), [(True, "required"), (False, "preferred")])
    def test_assertion_asks_for_user_verification(self, must, word):
        options = json.loads(
            PARTY.assertion_options(challenge=b"c" * 32, allowed=[], must_verify_user=must)
        )

        assert options["userVerification"] == word
        assert options["rpId"] == "example.com"
        assert from_base64url(options["challenge"]) == b"c" * 32


class TestRightAnswers:
    """What is accepted."""

    @pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
    def test_passkey_of_each_algorithm_signs(self, algorithm):
        soft = passkey(algorithm=algorithm)

        assert sign(soft).verified_user

    @pytest.mark.parametrize("origin", PARTY.origins)
    def test_page_of_each_origin_registers_and_signs(self, origin):
        assert sign(passkey(origin=origin)).verified_user

    def test_registration_holds_what_is_known(self):
        soft = passkey(is_backup_eligible=True, is_backed_up=True, counts=True)

        new = register(soft, transports=["usb", "telepathy", "usb"])

        assert new.credential == CredentialId(soft.credential_id, ("usb",))
        assert (new.is_backup_eligible, new.is_backed_up, new.sign_count) == (True, True, 1)
        assert new.aaguid == UUID(bytes=soft.aaguid)

    def test_aaguid_of_zeros_is_unknown(self):
        assert register(passkey(aaguid=bytes(16))).aaguid is None

    @pytest.mark.parametrize(
        ("facts", "words"),
        [
            ({}, "hwk mfa user"),
            ({"is_backup_eligible": True}, "mfa swk user"),
            ({"verifies_user": False}, "hwk user"),
        ],
    )
    def test_assertion_has_the_words_of_rfc_8176(self, facts, words):
        assert sign(passkey(**facts), must_verify_user=False).methods.text == words

    def test_attestation_that_was_not_asked_for_is_ignored(self):
        statement = {"fmt": "packed", "attStmt": {"alg": -7, "sig": b"?", "x5c": [b"?"]}}

        assert register(passkey(), attestation=statement).public_key

    def test_extensions_that_were_not_asked_for_are_ignored(self):
        extensions = cbor2.dumps({"credProtect": 2, "hmac-secret": True})
        soft = passkey()

        assert register(soft, extensions=extensions)
        assert sign(soft, extensions=extensions)

    def test_answer_without_user_handle_is_right(self):
        assert sign(passkey(), user_handle=None)


def altered(soft):
    answer = json.loads(soft.sign(request_options()))
    data = bytearray(from_base64url(answer["response"]["authenticatorData"]))
    data[-1] ^= 1
    answer["response"]["authenticatorData"] = base64url(bytes(data))
    return json.dumps(answer)


WRONG_PAGES = {
    "other_origin": {"origin": "https://evil.example"},
    "origin_below": {"origin": "https://shop.login.example.com"},
    "other_scheme": {"origin": "http://login.example.com"},
    "other_relying_party": {"relying_party_id": "evil.example"},
    "other_challenge": {"challenge": b"x" * 32},
    "no_challenge": {"challenge": b""},
    "cross_origin": {"client_data": {"crossOrigin": True}},
    "top_origin": {"client_data": {"topOrigin": ORIGIN}},
    "user_not_present": {"present": False},
    "backed_up_but_not_eligible": {"is_backed_up": True},
    "other_credential_type": {"credential": {"type": "password"}},
    "other_raw_id": {"credential": {"rawId": base64url(b"x" * 32)}},
}


class TestWrongAnswers:
    """What is refused, always in the same way."""

    @pytest.mark.parametrize("name", WRONG_PAGES)
    def test_registration_of_a_wrong_page_is_refused(self, name):
        assert cause_of(register, passkey(), **WRONG_PAGES[name]) is WRONG

    @pytest.mark.parametrize("name", WRONG_PAGES)
    def test_assertion_of_a_wrong_page_is_refused(self, name):
        assert cause_of(sign, passkey(), **WRONG_PAGES[name]) is WRONG

    def test_registration_of_type_get_is_refused(self):
        assert cause_of(register, passkey(), type="webauthn.get") is WRONG

    def test_assertion_of_type_create_is_refused(self):
        assert cause_of(sign, passkey(), type="webauthn.create") is WRONG

    def test_assertion_in_place_of_a_registration_is_refused(self):
        answer = passkey().sign(request_options())

        assert cause_of(VERIFIER.verify_registration, answer, challenge=b"c" * 32) is WRONG

    def test_altered_data_is_refused(self):
        soft = passkey()

        assert cause_of(verify, altered(soft), stored(soft)) is WRONG

    def test_altered_signature_is_refused(self):
        assert cause_of(sign, passkey(), signature=secrets.token_bytes(70)) is WRONG

    def test_signature_of_another_passkey_is_refused(self):
        soft = passkey()
        other = passkey(credential_id=soft.credential_id)

        assert cause_of(sign, other, stored(soft)) is WRONG

    def test_passkey_of_another_user_is_refused(self):
        assert cause_of(sign, passkey(), user_handle=uuid4().bytes) is WRONG

    def test_changed_backup_eligibility_is_refused(self):
        assert cause_of(sign, passkey(), is_backup_eligible=True) is WRONG

    def test_every_answer_to_the_stand_in_is_wrong(self):
        assert cause_of(sign, passkey(), STAND_IN, user_handle=None) is WRONG

    def test_missing_user_verification_is_named_after_the_signature(self):
        soft = passkey(verifies_user=False)

        assert cause_of(sign, soft) is ProofCause.NOT_VERIFIED_BY_PASSKEY
        assert cause_of(sign, soft, signature=b"?") is WRONG
        assert not sign(soft, must_verify_user=False).verified_user

    @pytest.mark.parametrize("count", [0, 1, 6, 7])
    def test_sign_count_that_goes_back_is_named_after_the_signature(self, count):
        soft = passkey()
        known = stored(soft, sign_count=7)

        cause = cause_of(sign, soft, known, sign_count=count)
        assert cause is ProofCause.SIGN_COUNT_WENT_BACK
        assert cause_of(sign, soft, known, sign_count=count, signature=b"?") is WRONG

    @pytest.mark.parametrize(("before", "now"), [(0, 0), (0, 1), (7, 8)])
    def test_sign_count_that_goes_on_is_right(self, before, now):
        soft = passkey()

        assert sign(soft, stored(soft, sign_count=before), sign_count=now).sign_count == now

    def test_registration_under_another_id_is_refused(self):
        assert cause_of(register, passkey(), credential_id=b"x" * 32) is WRONG


class TestKeys:
    """The public keys that are stored."""

    @pytest.mark.parametrize(
        "key",
        [
            new_cose_key("RS256", rsa_bits=1024),
            new_cose_key("RS256", rsa_bits=4104),
            new_cose_key("ES256", curve=ec.SECP384R1()) | {-1: 2},
            new_cose_key("ES256") | {-3: bytes(32)},
            new_cose_key("ES256") | {3: -257},
            new_cose_key("ES256") | {3: -35},
            new_cose_key("RS256") | {3: -37},
            new_cose_key("RS256") | {3: -7},
            new_cose_key("RS256") | {-2: b"\x7f" + b"\xff" * 250},
            new_cose_key("EdDSA") | {-2: b"x"},
            {1: 7, 3: -48, -1: bytes(1312)},
            {},
            4,
            [],
        ],
    )
    def test_key_that_checks_no_signature_is_refused(self, key):
        assert cause_of(register, passkey(), cose_key=cbor2.dumps(key)) is WRONG


def nested(depth):
    return "[" * depth + "]" * depth


HUGE = [
    "",
    "{}",
    "null",
    "[]",
    '"credential"',
    "{" * 8000,
    nested(8000),
    '{"id":' + nested(8000) + "}",
    "9" * 16000,
    "\ud800",
    "\x00",
    "{}\x00",
]


TAGGED = [
    CBORTag(35, "a"),  # a regular expression
    CBORTag(28, []),  # a shared value
    [CBORTag(2, b"n")],
    {1: CBORTag(55799, 1)},
    CBORTag(2**32 - 1, 1),
]


class TestHostileInput:
    """Whatever is sent ends in the same refusal."""

    @pytest.mark.parametrize("text", HUGE)
    def test_malformed_json_is_refused(self, text):
        assert cause_of(VERIFIER.verify_registration, text, challenge=b"c" * 32) is WRONG
        assert cause_of(verify, text, STAND_IN) is WRONG
        assert credential_id_of(text) is None

    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
    def test_any_response_is_refused(self, value):
        soft = passkey()
        for part in ("clientDataJSON", "attestationObject", "transports", "nonsense"):
            answer = json.loads(soft.register(creation_options()))
            answer["response"] = {part: value}
            text = json.dumps(answer)
            assert cause_of(VERIFIER.verify_registration, text, challenge=b"c" * 32) is WRONG

    @given(st.binary(max_size=200))
    def test_any_cbor_is_refused(self, content):
        assert cause_of(register_object, content) is WRONG

    @given(st.data())
    def test_any_damaged_cbor_is_refused_or_right(self, data):
        content = bytearray(attestation_object())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        with suppress(WrongCredential):
            register_object(bytes(content))

    @pytest.mark.parametrize(
        "content",
        [
            b"\x81" * 8000 + b"\x00",
            b"\xbf" * 4000,
            b"\x5b" + b"\xff" * 8,
            b"\x9b" + b"\x7f" * 8,
            b"\xbb" + b"\x00\x00\x00\x7f" * 2,
            b"\xc2\x59\x1f\x00" + b"\xff" * 7936,
            b"\xc5\x82\x1b" + b"\x7f" * 8 + b"\x01",
            b"\xc4\x82\x1b" + b"\x7f" * 8 + b"\x01",
            b"\xd8\x1e\x82\xc2\x59\x0f\x00" + b"\xff" * 3840 + b"\xc2\x59\x0f\x00" + b"\xfd" * 3840,
            b"\xd8\x1c\x81\xd8\x1d\x00",
            b"\xd8\x23\x78\x18(a{1,999}){1,999}{1,999}",
        ],
    )
    def test_cbor_that_asks_for_much_work_is_refused(self, content):
        assert cause_of(register_object, content) is WRONG
        inner = cbor2.dumps({"fmt": "x", "attStmt": {}}, canonical=True)
        assert cause_of(register_object, b"\xa3" + inner[1:] + b"\x68authData" + content) is WRONG
        assert cause_of(register, passkey(), cose_key=content) is WRONG

    @pytest.mark.parametrize("content", TAGGED)
    def test_tags_are_refused_wherever_they_are(self, content):
        extensions = cbor2.dumps({"x": content})
        assert cause_of(sign, passkey(), extensions=extensions) is WRONG
        assert cause_of(register, passkey(), extensions=extensions) is WRONG
        key = cbor2.dumps(new_cose_key("ES256") | {"x": content})
        assert cause_of(register, passkey(), cose_key=key) is WRONG
        statement = {"fmt": "x", "attStmt": {"x": content}}
        assert cause_of(register, passkey(), attestation=statement) is WRONG

    @pytest.mark.parametrize(
        ("part", "size"),
        [("attestationObject", 8193), ("clientDataJSON", 3073), ("attestationObject", 0)],
    )
    def test_part_that_is_too_long_is_refused(self, part, size):
        answer = json.loads(passkey().register(creation_options()))
        answer["response"][part] = base64url(bytes(size))

        text = json.dumps(answer)
        assert cause_of(VERIFIER.verify_registration, text, challenge=b"c" * 32) is WRONG


def attestation_object():
    answer = json.loads(passkey().register(creation_options()))
    return from_base64url(answer["response"]["attestationObject"])


def register_object(content):
    answer = json.loads(passkey().register(creation_options()))
    answer["response"]["attestationObject"] = base64url(content)
    return VERIFIER.verify_registration(json.dumps(answer), challenge=b"c" * 32)


def test_credential_id_of_an_answer_is_its_raw_id():
    soft = passkey()

    assert credential_id_of(soft.sign(request_options())) == soft.credential_id
