"""Mutants of requirements of sessions, and of step-up."""

from tests.mutants.mutant import mutant

_REQUIREMENT = "servicers/session_requirement.py"
_TESTS = "servicers/test_assurance.py"
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
        "sessions.c.previous_digest == _digest, in_grace, expires_on_day",
        "sessions.c.previous_digest == _digest, expires_on_day",
        _OF_FACTORS,
    ),
)
