"""Mutants of second factors: codes, recovery codes, challenges and their throttle."""

from tests.mutants.mutant import mutant

_KEYS = "security/factor_keys.py"
_CODES = "servicers/code_check.py"
_CHECK = "servicers/proof_check.py"
_ATTEMPTS = "servicers/proof_attempts.py"
_CHALLENGES = "storage/repositories/challenges.py"
_PROOFS = "storage/repositories/proofs.py"
_CREDENTIALS = "servicers/user_credentials.py"
_FACTORS = "servicers/factors.py"

_SIGN_IN = "servicers/test_complete_sign_in.py"
_REFUSALS = f"{_SIGN_IN}::TestRefusals"
_ONE_USE = f"{_SIGN_IN}::TestOneUse"
_CHANGES = f"{_SIGN_IN}::TestChangesInBetween"
_THROTTLE = f"{_SIGN_IN}::TestThrottle"
_TEST_FACTORS = "servicers/test_factors.py"

MUTANTS = (
    mutant(
        "used_code_is_checked_as_new",
        _CODES,
        "if step + again <= factor.last_step:",
        "if False:",
        f"{_REFUSALS}::test_refused_answers_are_alike",
    ),
    mutant(
        "code_is_good_for_parallel_sign_ins",
        _PROOFS,
        "_use.where(factors.c.last_step < _step)",
        "_use.where(_step > 0)",
        f"{_ONE_USE}::test_one_of_twenty_parallel_codes_signs_in",
    ),
    mutant(
        "recovery_code_stays",
        _PROOFS,
        '        await self._use(_use_code, factor, {"digest": digest}, ProofCause.USED_CODE)\n',
        "",
        f"{_SIGN_IN}::TestRightCode::test_recovery_code_starts_session_once",
    ),
    mutant(
        "code_is_good_for_ten_minutes",
        "security/totp.py",
        "WINDOW = 1",
        "WINDOW = 10",
        "security/test_totp.py::TestCodes::test_code_outside_window_is_wrong",
    ),
    mutant(
        "challenge_takes_any_number_of_answers",
        _CHALLENGES,
        "return self.answers > MAX_ANSWERS",
        "return False",
        f"{_THROTTLE}::test_challenge_is_void_after_five_wrong_codes",
    ),
    mutant(
        "challenge_does_not_expire",
        _CHALLENGES,
        "        _columns.expires_at > func.now(),\n    )\n    .values(attempts",
        "    )\n    .values(attempts",
        f"{_REFUSALS}::test_refused_answers_are_alike",
    ),
    mutant(
        "challenge_is_used_twice",
        _CHECK,
        "        await tx.challenges.use(self.token.digest)\n",
        "",
        f"{_ONE_USE}::test_challenge_that_was_answered_is_void",
    ),
    mutant(
        "code_answers_a_challenge_without_password",
        _CHECK,
        "challenge is not None and challenge.purpose not in PASSKEY_PURPOSES",
        "challenge is not None",
        f"{_REFUSALS}::test_code_answers_no_challenge_without_password",
    ),
    mutant(
        "answer_without_factor_takes_less_work",
        _CODES,
        "return found or [factor._replace(read_at=time()) for factor in stand_ins]",
        "return found",
        f"{_REFUSALS}::test_refused_answers_take_equal_work",
    ),
    mutant(
        "secret_is_not_bound_to_its_factor",
        _KEYS,
        "    return factor_id.bytes\n",
        '    return b""\n',
        "security/test_factor_keys.py::TestSecrets",
        f"{_REFUSALS}::test_refused_answers_are_alike",
    ),
    mutant(
        "right_code_ends_the_count_of_passwords",
        _ATTEMPTS,
        "return keys._replace(account=keys.typed)",
        "return keys",
        f"{_THROTTLE}::test_right_code_ends_the_count_of_codes_alone",
    ),
    mutant(
        "wrong_code_is_not_counted",
        _ATTEMPTS,
        "    await db.attempts.record_failure(keys)\n",
        "",
        f"{_THROTTLE}::test_wrong_codes_count_against_the_account",
    ),
    mutant(
        "count_of_codes_is_forgotten_after_a_day",
        _ATTEMPTS,
        "key_of_account(user_id), user_id, user_id)",
        "key_of_account(user_id), user_id)",
        "jobs/test_sweep.py::TestExpiredRows::test_sweep_keeps_count_of_wrong_codes",
    ),
    mutant(
        "cancelled_answer_is_not_counted",
        _CHECK,
        "return await asyncio.shield(task)",
        "return await task",
        f"{_THROTTLE}::test_cancelled_answer_is_counted",
    ),
    mutant(
        "answer_that_waits_is_counted",
        _CHECK,
        "                await db.challenges.uncount_answer(counted)\n",
        "                pass\n",
        f"{_THROTTLE}::test_waiting_answers_leave_the_challenge",
    ),
    mutant(
        "answer_for_another_purpose_takes_back_a_count",
        _CHECK,
        "answer.token.digest if challenge else NO_DIGEST",
        "answer.token.digest",
        f"{_THROTTLE}::test_answers_for_another_purpose_take_back_no_count",
    ),
    mutant(
        "challenge_survives_a_new_password",
        _CREDENTIALS,
        "                await tx.challenges.delete_of_user(user_id)\n",
        "",
        _CHANGES,
    ),
    mutant(
        "challenge_survives_a_reset",
        _CREDENTIALS,
        "            await tx.challenges.delete_of_user(user.id)\n            # Not",
        "            # Not",
        _CHANGES,
    ),
    mutant(
        "deleted_factor_accuses_its_user",
        _PROOFS,
        "cause if is_left else ProofCause.CHANGED_MEANWHILE",
        "cause",
        f"{_CHANGES}::test_factor_deleted_during_the_answer_accuses_nobody",
    ),
    mutant(
        "password_reset_leaves_codes_disabled",
        _CREDENTIALS,
        ", key_of_proof(user.id))",
        ")",
        f"{_THROTTLE}::test_hundred_wrong_codes_disable_codes_until_a_reset",
    ),
    mutant(
        "unconfirmed_app_resets_the_count_of_codes",
        _FACTORS,
        "if found.confirmed_at is not None:",
        "if True:",
        f"{_THROTTLE}::test_unconfirmed_factor_keeps_the_count_of_codes",
    ),
    mutant(
        "unconfirmed_app_signs_in",
        _PROOFS,
        ", factors.c.confirmed_at.is_not(None)",
        "",
        f"{_SIGN_IN}::TestRightCode::test_unused_app_of_user_does_not_sign_in",
    ),
    mutant(
        "repeated_confirmation_accepts_any_code",
        _FACTORS,
        "proof = await self._proofs.proven_factor(found.id, found.user_id, request.code)",
        "proof = await self._proofs.proven_factor(found.id, found.user_id, request.code)"
        " if found.confirmed_at is None else type(self)",
        f"{_TEST_FACTORS}::TestApps::test_wrong_code_is_refused_for_a_confirmed_app_too",
    ),
)
