"""Mutants of requirements of sessions, and of step-up."""

from tests.mutants.mutant import mutant

_REQUIREMENT = "servicers/session_requirement.py"
_TESTS = "servicers/test_assurance.py"
_STEP_UP = "servicers/step_up.py"
_STEP_UP_TESTS = "servicers/test_step_up.py"
_VALIDATED = f"{_TESTS}::TestRequirement"
_OF_FACTORS = f"{_TESTS}::TestStepUpOfFactorCalls"

MUTANTS = (
    mutant(
        "level_of_a_session_is_not_checked",
        _REQUIREMENT,
        "if self.level > Methods.parse(methods).level:",
        "if self.level > Level.AAL2:",
        _VALIDATED,
        _OF_FACTORS,
    ),
    mutant(
        "age_of_an_authentication_is_not_checked",
        _REQUIREMENT,
        "and age > self.max_age:",
        "and age > self.max_age > 1e15:",
        _VALIDATED,
        _OF_FACTORS,
    ),
    mutant(
        "batch_ignores_requirements",
        _REQUIREMENT,
        "return results if requirement is None else _checked(requirement, results)",
        "return results",
        _VALIDATED,
    ),
    mutant(
        "session_of_another_user_changes_factors",
        _REQUIREMENT,
        "if found.valid.user.id != user_id:",
        "if not user_id:",
        _OF_FACTORS,
    ),
    mutant(
        "unconfirmed_factor_counts_as_second_factor",
        "storage/repositories/authentications.py",
        "        factors.c.confirmed_at.is_not(None),\n",
        "",
        _OF_FACTORS,
    ),
    mutant(
        "replaced_token_changes_factors_after_its_grace",
        "storage/repositories/authentications.py",
        "_works_still = (sessions.c.previous_digest == _digest) & in_grace",
        "_works_still = sessions.c.previous_digest == _digest",
        _OF_FACTORS,
    ),
    mutant(
        "old_token_works_after_a_step_up",
        "storage/repositories/session_rotation.py",
        "    rotated_at=None,\n",
        "    rotated_at=func.now(),\n",
        f"{_STEP_UP_TESTS}::TestComplete",
        "storage/repositories/test_session_rotation.py::TestStepUp",
    ),
    mutant(
        "step_up_keeps_the_time_of_authentication",
        "storage/repositories/session_rotation.py",
        "    authenticated_at=func.now(),\n",
        "    authenticated_at=sessions.c.authenticated_at,\n",
        f"{_STEP_UP_TESTS}::TestComplete",
    ),
    mutant(
        "challenge_of_another_session_is_answered",
        "storage/repositories/challenges.py",
        "_columns.session_id.is_not_distinct_from(",
        'bindparam("of_session", type_=Uuid).is_not_distinct_from(',
        f"{_STEP_UP_TESTS}::TestRefusals",
    ),
    mutant(
        "password_leaves_the_challenge_of_a_step_up",
        _STEP_UP,
        "                    await tx.challenges.use(token.digest)\n",
        "",
        f"{_STEP_UP_TESTS}::TestRefusals",
    ),
    mutant(
        "password_that_was_not_checked_is_an_answer",
        _STEP_UP,
        "except (TooManyAttempts, ServerBusy):",
        "except TooManyAttempts:",
        f"{_STEP_UP_TESTS}::TestRefusals",
    ),
    mutant(
        "step_up_answers_a_void_challenge",
        "servicers/challenges.py",
        "if found.is_void:",
        "if found.is_void and not session:",
        f"{_STEP_UP_TESTS}::TestRefusals",
    ),
    mutant(
        "step_up_ignores_a_change_of_the_password",
        _STEP_UP,
        "                    await tx.credentials.lock(checked)\n",
        "",
        "servicers/test_row_locks.py::TestStepUp",
    ),
    mutant(
        "session_is_aal2_after_two_passwords",
        "security/assurance.py",
        "if found & _KNOWLEDGE and found & _POSSESSION:",
        "if found & _KNOWLEDGE:",
        "security/test_assurance.py",
        f"{_STEP_UP_TESTS}::TestComplete",
    ),
)
