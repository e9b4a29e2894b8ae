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
        "    await db.attempts.record_failure(attempt.keys)\n",
        "    await db.attempts.release(attempt.keys)\n",
        f"{_THROTTLE}::TestCounting",
    ),
    mutant(
        "account_disabled_meanwhile_signs_in",
        _CHECK,
        "    if is_right and await db.attempts.record_success(attempt.keys):\n",
        "    if is_right and await db.attempts.record_success(attempt.keys) in {0, 1}:\n",
        f"{_THROTTLE}::TestLimits",
    ),
    mutant(
        "password_of_a_cancelled_call_is_not_counted",
        _CHECK,
        "                if hashing.cancelled():  # it was not checked\n",
        "                if not hashing.cancelled():\n",
        _QUEUE,
    ),
    mutant(
        "password_reset_keeps_the_failures",
        "servicers/user_credentials.py",
        "(key_of_account(user.id), key_of_email(owner.email), ",
        "(key_of_email(owner.email), ",
        f"{_THROTTLE}::TestLimits",
    ),
    mutant(
        "attempts_after_a_wait_are_checked_together",
        _REPOSITORY,
        " | (pending == 0)",
        " | (pending <= FREE_ATTEMPTS)",
        f"{_TEST_REPOSITORY}::TestReservations",
    ),
    mutant(
        "reservation_counts_as_failure",
        _REPOSITORY,
        "account=_typed, failures=0,",
        "account=_typed, failures=1,",
        f"{_TEST_REPOSITORY}::TestReservations",
    ),
    mutant(
        "call_in_line_is_refused_at_once",
        _CHECK,
        "                    if time() > until:\n",
        "                    if time() < until:\n",
        f"{_THROTTLE}::TestRightPasswords",
    ),
    mutant(
        "call_in_line_gets_too_many_attempts",
        _REPOSITORY,
        "is_blocked = not granted and seconds is not None",
        "is_blocked, seconds = not granted, seconds or 1",
        f"{_THROTTLE}::TestRightPasswords",
    ),
    mutant(
        "wrong_password_of_a_cancelled_call_is_free",
        _CHECK,
        "                self._finish_later(self._settle_after(hashing, attempt))\n",
        "",
        _QUEUE,
    ),
    mutant(
        "calls_in_line_take_every_permit",
        "security/passwords/hash_queue.py",
        "if self._idle >= max(1, self.capacity // 2):",
        "if self._idle >= self.capacity:",
        "servicers/test_hash_queue_full.py::TestRefusals",
    ),
    mutant(
        "reservation_of_a_cancelled_call_is_kept",
        _CHECK,
        "            self._finish_later(self._release_after(reserving))\n",
        "",
        _QUEUE,
    ),
    mutant(
        "call_cancelled_before_its_settlement_is_free",
        _CHECK,
        "            except BaseException:  # nothing",
        "            except ZeroDivisionError:  # nothing",
        _QUEUE,
    ),
    mutant(
        "wrong_password_keeps_its_reservation",
        _REPOSITORY,
        ', "pending": _one_less},',
        "},",
        f"{_TEST_REPOSITORY}::TestWaits",
    ),
    mutant(
        "waits_are_those_of_the_account",
        _CHECK,
        "AttemptKeys(identity.typed, key_of_account",
        "AttemptKeys(key_without_account(credentials.user_id.bytes), key_of_account",
        f"{_THROTTLE}::TestSecrecy",
    ),
    mutant(
        "names_of_a_user_have_100_failures_each",
        _CHECK,
        "key_of_account(credentials.user_id), credentials.user_id)",
        "key_without_account(identity.typed), credentials.user_id)",
        f"{_THROTTLE}::TestLimits::test_password_after_100_failures_needs_a_reset",
    ),
    mutant(
        "reset_keeps_the_wait_of_its_address",
        "servicers/user_credentials.py",
        "key_of_email(owner.email), key_of_proof",
        "key_of_proof",
        f"{_THROTTLE}::TestSecrecy",
    ),
    mutant(
        "reset_answers_what_was_typed",
        "servicers/user_credentials.py",
        "expire_time=timestamp(expires), email=email\n",
        "expire_time=timestamp(expires), email=request.email\n",
        "servicers/test_user_tokens.py::TestUse",
    ),
    mutant(
        "disabled_password_is_checked",
        _CHECK,
        "None if self.is_disabled else self.credentials.usable_hash",
        "self.credentials.usable_hash",
        f"{_THROTTLE}::TestSecrecy",
    ),
)
