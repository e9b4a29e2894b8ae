"""Mutants of password attempts: reserved, checked, counted and cleared."""

from tests.mutants.mutant import mutant

_REPOSITORY = "storage/repositories/login_attempts.py"
_CHECK = "servicers/password_check.py"

_TEST_REPOSITORY = "storage/repositories/test_login_attempts.py"
_THROTTLE = "servicers/test_login_throttle.py"
_QUEUE = "servicers/test_hash_queue_full.py::TestCancellation"

MUTANTS = (
    mutant(
        "clock_of_the_throttle_starts_before_the_lock",
        _REPOSITORY,
        "_now = func.clock_timestamp()",
        "_now = func.now()",
        "servicers/test_row_locks.py::TestAttempts",
    ),
    mutant(
        "reservations_are_unlimited",
        _REPOSITORY,
        "(_columns.failures + pending <= FREE_ATTEMPTS)",
        "(_columns.failures <= FREE_ATTEMPTS)",
        f"{_TEST_REPOSITORY}::TestReservations",
    ),
    mutant(
        "attempt_does_not_wait",
        _REPOSITORY,
        "where=(_columns.blocked_until <= now) & has_room",
        "where=has_room",
        f"{_TEST_REPOSITORY}::TestWaits",
    ),
    mutant(
        "reservation_never_expires",
        _REPOSITORY,
        "pending = case((_columns.pending_until > now, _columns.pending), else_=0)",
        "pending = _columns.pending",
        f"{_TEST_REPOSITORY}::TestReservations",
    ),
    mutant(
        "account_is_never_disabled",
        _REPOSITORY,
        "select(_columns.failures >= MAX_FAILURES).where(_of_account)",
        "select(_columns.failures < 0).where(_of_account)",
        f"{_TEST_REPOSITORY}::TestAccounts",
    ),
    mutant(
        "success_enables_a_disabled_account",
        _REPOSITORY,
        "delete(password_attempts).where(_of_typed | _of_account, ~_is_disabled)",
        "delete(password_attempts).where(_of_typed | _of_account)",
        f"{_TEST_REPOSITORY}::TestAccounts",
    ),
    mutant(
        "success_does_not_wait_for_a_failure",
        _REPOSITORY,
        ".where(_of_account).with_for_update()",
        ".where(_of_account)",
        f"{_TEST_REPOSITORY}::TestAccounts",
    ),
    mutant(
        "success_forgets_one_counter",
        _REPOSITORY,
        "where(_of_typed | _of_account, ~_is_disabled)",
        "where(_of_typed, ~_is_disabled)",
        f"{_TEST_REPOSITORY}::TestAccounts",
    ),
    mutant(
        "names_of_a_user_count_together",
        "security/attempt_keys.py",
        '_digest(f"username:{username}")',
        '_digest(f"email:{username}@example.com")',
        f"{_THROTTLE}::TestSecrecy",
    ),
    mutant(
        "wrong_password_is_not_counted",
        _CHECK,
        "            await db.attempts.record_failure(attempt.keys)\n",
        "            await db.attempts.release(attempt.keys)\n",
        f"{_THROTTLE}::TestCounting",
    ),
    mutant(
        "account_disabled_meanwhile_signs_in",
        _CHECK,
        "            if is_right and await db.attempts.record_success(attempt.keys):\n",
        "            if is_right and await db.attempts.record_success(attempt.keys) in {0, 1}:\n",
        f"{_THROTTLE}::TestLimits",
    ),
    mutant(
        "password_of_a_cancelled_call_is_not_counted",
        _CHECK,
        "                if not hashing.cancelled():\n",
        "                if hashing.cancelled():\n",
        _QUEUE,
    ),
    mutant(
        "sign_in_with_a_changed_password_runs_again",
        _CHECK,
        "if await permit.matches(password, current.usable_hash):",
        "if current:",
        "servicers/test_password_check.py",
    ),
    mutant(
        "password_reset_keeps_the_failures",
        "servicers/user_credentials.py",
        "tx.attempts.clear(key_of_account(user.id), key_of_email(owner.email))",
        "tx.attempts.clear(key_of_email(owner.email))",
        f"{_THROTTLE}::TestLimits",
    ),
)
