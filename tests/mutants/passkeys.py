"""Mutants of passkeys."""

from tests.mutants.mutant import mutant

_PASSKEYS = "security/passkeys.py"
_REGISTRATION = "servicers/passkeys.py"
_SIGN_IN = "servicers/passkey_sign_in.py"

_TEST_PASSKEYS = "security/test_passkeys.py"
_TEST_REGISTRATION = "servicers/test_passkeys.py"
_TEST_SIGN_IN = "servicers/test_passkey_sign_in.py"
_TEST_BEGIN = "servicers/test_begin_passkey_sign_in.py"

_ANSWERED_ORIGIN = (
    '[__import__("json").loads(base64url_to_bytes(credential.response.client_data_json))["origin"]]'
)

MUTANTS = (
    mutant(
        "passkey_signs_on_any_page",
        _PASSKEYS,
        "expected_origin=[*party.origins],\n                credential_public_key",
        f"expected_origin={_ANSWERED_ORIGIN},\n                credential_public_key",
        f"{_TEST_PASSKEYS}::TestWrongAnswers",
    ),
    mutant(
        "passkey_is_registered_on_any_page",
        _PASSKEYS,
        "expected_origin=[*party.origins],\n                supported",
        f"expected_origin={_ANSWERED_ORIGIN},\n                supported",
        f"{_TEST_PASSKEYS}::TestWrongAnswers",
    ),
    mutant(
        "passkey_signs_in_a_frame",
        _PASSKEYS,
        "if client_data.cross_origin or client_data.top_origin is not None:",
        "if False:",
        f"{_TEST_PASSKEYS}::TestWrongAnswers",
    ),
    mutant(
        "passkey_need_not_verify_user",
        _PASSKEYS,
        "if must_verify_user and not verified.user_verified:",
        "if False:",
        f"{_TEST_PASSKEYS}::TestWrongAnswers",
    ),
    mutant(
        "sign_count_may_go_back",
        _PASSKEYS,
        "and new_count <= stored_count",
        "and False",
        f"{_TEST_PASSKEYS}::TestWrongAnswers",
    ),
    mutant(
        "sign_count_may_stay",
        _PASSKEYS,
        "and new_count <= stored_count",
        "and new_count < stored_count",
        f"{_TEST_PASSKEYS}::TestWrongAnswers",
    ),
    mutant(
        "passkey_may_name_another_user",
        _PASSKEYS,
        "if handle and base64url_to_bytes(handle) != stored.user_id.bytes:",
        "if False:",
        f"{_TEST_PASSKEYS}::TestWrongAnswers",
    ),
    mutant(
        "passkey_may_become_backup_eligible",
        _PASSKEYS,
        "if _is_backup_eligible(verified) is not stored.is_backup_eligible:",
        "if False:",
        f"{_TEST_PASSKEYS}::TestWrongAnswers",
    ),
    mutant(
        "passkey_is_registered_under_another_id",
        _PASSKEYS,
        "if verified.credential_id != base64url_to_bytes(credential.raw_id):",
        "if False:",
        f"{_TEST_PASSKEYS}::TestWrongAnswers",
    ),
    mutant(
        "passkey_of_a_useless_key_is_registered",
        _PASSKEYS,
        "if not is_usable(verified.credential_public_key):",
        "if False:",
        f"{_TEST_PASSKEYS}::TestKeys",
    ),
    mutant(
        "exceptions_of_libraries_reach_callers",
        _PASSKEYS,
        "except Exception:  # noqa: BLE001 - see above",
        "except LookupError:",
        f"{_TEST_PASSKEYS}::TestHostileInput",
    ),
    mutant(
        "tags_of_assertions_are_decoded",
        _PASSKEYS,
        "            authenticator_cbor.require_plain(\n                base64url",
        "            (lambda _: None)(\n                base64url",
        f"{_TEST_PASSKEYS}::TestHostileInput",
    ),
    mutant(
        "tags_of_registrations_are_decoded",
        _PASSKEYS,
        '    authenticator_cbor.require_plain(content["authData"])\n',
        "",
        f"{_TEST_PASSKEYS}::TestHostileInput",
    ),
    mutant(
        "tags_of_attestations_are_decoded",
        _PASSKEYS,
        "content = authenticator_cbor.decode(",
        "content = __import__('cbor2').loads(",
        f"{_TEST_PASSKEYS}::TestHostileInput",
    ),
    mutant(
        "tags_are_decoded",
        "security/authenticator_cbor.py",
        "if kind == _TAG or size",
        "if kind == _TAG:\n        return _end_of_item(content, end, depth)\n    if size",
        "security/test_authenticator_cbor.py",
    ),
    mutant(
        "extensions_need_not_follow_the_key",
        "security/authenticator_cbor.py",
        "encode_cbor(parse_cbor(item)) != item",
        "False",
        "security/test_authenticator_cbor.py",
    ),
    mutant(
        "registration_is_answered_twice",
        _REGISTRATION,
        "            await tx.challenges.use(token.digest)\n",
        "",
        f"{_TEST_REGISTRATION}::TestRefusals",
    ),
    mutant(
        "registration_is_answered_without_end",
        "servicers/challenges.py",
        "if found.is_void:",
        "if found.is_void and session:",
        f"{_TEST_REGISTRATION}::TestRefusals",
    ),
    mutant(
        "registration_exceeds_the_limit_of_factors",
        _REGISTRATION,
        "            await tx.factors.require_room(user_id)\n            factor = ",
        "            factor = ",
        f"{_TEST_REGISTRATION}::TestRefusals",
    ),
    mutant(
        "registration_needs_no_step_up",
        _REGISTRATION,
        "            await require_step_up(tx, request.step_up, user_id)\n",
        "",
        f"{_TEST_REGISTRATION}::TestRefusals",
    ),
    mutant(
        "made_up_ids_change_in_a_rotation",
        "security/factor_keys.py",
        "self._keys[min(self._keys)]",
        "self._keys[self.newest_id]",
        "security/test_factor_keys.py::TestMadeUpIds",
    ),
    mutant(
        "made_up_id_can_be_registered",
        _REGISTRATION,
        'if self._keys.is_made_up(new.credential_id or b""):',
        "if False:",
        f"{_TEST_REGISTRATION}::TestRefusals",
    ),
    mutant(
        "options_count_passkeys_of_an_address",
        _SIGN_IN,
        "[len(known) :]",
        "[:0]",
        f"{_TEST_BEGIN}::TestNamed",
    ),
    mutant(
        "options_begin_with_real_passkeys",
        _SIGN_IN,
        "in sorted([*found, *made_up])",
        "in [*found, *made_up]",
        f"{_TEST_BEGIN}::TestNamed",
    ),
    mutant(
        "passkey_of_another_user_answers",
        "servicers/proof_check.py",
        "(is_any or factor.user_id == challenge.user_id)",
        "True",
        f"{_TEST_SIGN_IN}::TestRefusals",
    ),
    mutant(
        "passkey_alone_need_not_verify_user",
        "servicers/proof_check.py",
        "must_verify_user=challenge is None or challenge.purpose in PASSKEY_PURPOSES,",
        "must_verify_user=False,",
        f"{_TEST_SIGN_IN}::TestAlone",
    ),
    mutant(
        "passkey_is_used_without_its_count",
        "storage/repositories/proofs.py",
        "factors.c.sign_count < _sign_count",
        "factors.c.sign_count <= _sign_count",
        f"{_TEST_SIGN_IN}::TestRaces",
    ),
    mutant(
        "unknown_passkey_is_not_checked",
        "servicers/proof_check.py",
        "_passkey(stored) if stored else STAND_IN,",
        "_passkey(stored or found[0]),",
        f"{_TEST_SIGN_IN}::TestRefusals",
    ),
    mutant(
        "inactive_user_has_passkeys",
        "storage/repositories/passkeys.py",
        ", users.c.is_active)\n_of_user",
        ")\n_of_user",
        f"{_TEST_BEGIN}::TestNamed",
    ),
)
