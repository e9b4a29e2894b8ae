"""Mutants of sessions: started, validated, rotated and ended."""

from tests.mutants.mutant import mutant

_SERVICER = "servicers/sessions.py"
_SIGN_IN = "servicers/sign_in.py"
_LIFECYCLE = "servicers/user_lifecycle.py"
_CREDENTIALS = "servicers/user_credentials.py"
_REPOSITORY = "storage/repositories/sessions.py"
_ROTATION = "storage/repositories/session_rotation.py"
_STATE = "storage/repositories/session_state.py"
_TOKENS = "security/tokens.py"
_VALIDATION = "storage/session_validation"
_JOB = "jobs/session_days.py"
_PARTITIONS = "storage/repositories/session_days.py"

_FAILED_COMMITS = "servicers/test_failed_commits.py::test_call_whose_commit_fails_changes_nothing"
_ROW_LOCKS = "servicers/test_row_locks.py::TestSignIn::test_session_of_open_sign_in_is_ended_too"
_TEST_DAYS = "servicers/test_session_days.py"
_SESSIONS = "servicers/test_sessions.py"
_DROP, _MAKE = (f"jobs/test_session_days.py::{name}" for name in ("TestDrop", "TestMake"))
_REUSE = "servicers/test_token_reuse.py::TestReuse"
_VALIDATE = "storage/repositories/test_sessions.py::TestValidate"

_SECOND = "\n        async with self._database.transaction() as tx:"

MUTANTS = (
    mutant(
        "deactivation_ends_sessions_after_its_commit",
        _LIFECYCLE,
        "set_active(user_id, active=False)",
        f"set_active(user_id, active=False){_SECOND}",
        _FAILED_COMMITS,
    ),
    mutant(
        "deletion_ends_sessions_after_its_commit",
        _LIFECYCLE,
        "deleted_by=deleted_by, version=version)",
        f"deleted_by=deleted_by, version=version){_SECOND}",
        _FAILED_COMMITS,
    ),
    mutant(
        "password_change_ends_sessions_after_its_commit",
        _CREDENTIALS,
        "credentials.replace(checked, new_hash)",
        "credentials.replace(checked, new_hash)\n"
        "            async with self._database.transaction() as tx:",
        _FAILED_COMMITS,
    ),
    mutant(
        "password_reset_ends_sessions_after_its_commit",
        _CREDENTIALS,
        "user_tokens.consume(RESET, digest)",
        f"user_tokens.consume(RESET, digest){_SECOND}",
        _FAILED_COMMITS,
    ),
    mutant(
        "sign_in_adds_session_after_its_commit",
        _SIGN_IN,
        "record_sign_in(checked, new_hash=new_hash)",
        "record_sign_in(checked, new_hash=new_hash)\n"
        "            async with self._database.transaction() as tx:",
        _FAILED_COMMITS,
        "servicers/test_row_locks.py::TestSignIn",
    ),
    mutant(
        "password_change_ends_sessions_before_it_locks_the_user",
        _CREDENTIALS,
        "                user = await tx.credentials.replace(checked, new_hash)\n"
        "                await tx.user_tokens.revoke(user_id)\n"
        "                ended = await tx.sessions.revoke_of_user(user_id, except_id=kept_id)\n",
        "                ended = await tx.sessions.revoke_of_user(user_id, except_id=kept_id)\n"
        "                await tx.user_tokens.revoke(user_id)\n"
        "                user = await tx.credentials.replace(checked, new_hash)\n",
        _ROW_LOCKS,
    ),
    mutant(
        "deactivation_ends_sessions_before_it_locks_the_user",
        _LIFECYCLE,
        "            user = await tx.users.set_active(user_id, active=False)\n"
        "            ended = await tx.sessions.revoke_of_user(user_id)\n",
        "            ended = await tx.sessions.revoke_of_user(user_id)\n"
        "            user = await tx.users.set_active(user_id, active=False)\n",
        _ROW_LOCKS,
    ),
    mutant(
        "deletion_ends_no_session",
        _LIFECYCLE,
        "            user = await tx.users.delete(",
        "            await tx.sessions.revoke_of_user(user_id)\n"
        "            user = await tx.users.delete(",
        "servicers/test_users.py::TestDeleteUser",
    ),
    mutant(
        "password_reset_keeps_sessions",
        _CREDENTIALS,
        "ended = await tx.sessions.revoke_of_user(user.id)",
        "ended = 0",
        "servicers/test_user_tokens.py::TestUse",
    ),
    mutant(
        "kept_session_may_be_of_another_user",
        _REPOSITORY,
        "    _of_user, is_unended, sessions.c.id.is_distinct_from(",
        "    is_unended, sessions.c.id.is_distinct_from(",
        "storage/repositories/test_sessions.py::TestRevoke",
    ),
    mutant(
        "revocation_moves_the_time_of_an_ended_session",
        _REPOSITORY,
        "func.coalesce(sessions.c.revoked_at, func.now())",
        "func.now()",
        "storage/repositories/test_sessions.py::TestRevoke",
    ),
    mutant(
        "revocation_by_token_needs_the_current_token",
        _REPOSITORY,
        "_revoke.where(is_of_token)",
        '_revoke.where(sessions.c.token_digest == bindparam("digest"))',
        "servicers/test_token_reuse.py::TestReplacedTokens",
    ),
    mutant(
        "limit_of_sessions_ends_the_newest",
        _REPOSITORY,
        "created_at.desc(), sessions.c.id.desc())\n        .offset",
        "created_at, sessions.c.id)\n        .offset",
        "storage/repositories/test_sessions.py::TestRevoke",
    ),
    mutant(
        "expired_session_is_live",
        _STATE,
        "is_unended = sessions.c.is_valid & (sessions.c.expires_at > func.now())",
        "is_unended = sessions.c.is_valid",
        "storage/repositories/test_session_rotation.py::TestRotate",
        "storage/repositories/test_sessions.py::TestRevoke",
    ),
    mutant(
        "expired_session_is_validated",
        _STATE,
        "(sessions.c.expires_at <= func.now(), SessionExpired)",
        "(sessions.c.expires_at < sessions.c.created_at, SessionExpired)",
        _VALIDATE,
    ),
    mutant(
        "revoked_session_is_validated",
        _STATE,
        "(sessions.c.revoked_at.is_not(None), SessionRevoked)",
        "(sessions.c.revoked_at > func.now(), SessionRevoked)",
        _VALIDATE,
    ),
    mutant(
        "session_of_deleted_user_is_validated",
        _STATE,
        "users.c.deleted_at.is_not(None) | ~users.c.is_active",
        "users.c.deleted_at.is_not(None) & users.c.is_active",
        _VALIDATE,
    ),
    mutant(
        "idle_session_is_validated",
        _STATE,
        "    (is_idle, SessionIdle),\n",
        "",
        _VALIDATE,
    ),
    mutant(
        "replaced_token_is_validated_after_its_grace",
        f"{_VALIDATION}/statement.py",
        "select_by(sessions.c.previous_digest).where(in_grace)",
        "select_by(sessions.c.previous_digest)",
        _VALIDATE,
    ),
    mutant(
        "grace_is_that_of_every_replaced_token",
        _ROTATION,
        '(_is_previous & in_grace).label("is_in_grace")',
        'in_grace.label("is_in_grace")',
        "storage/repositories/test_session_rotation.py::TestFindRotated",
    ),
    mutant(
        "rotation_forgets_the_replaced_token",
        _ROTATION,
        'select(changed).add_cte(remembered.cte("remembered"))',
        "select(changed)",
        "servicers/test_token_reuse.py",
    ),
    mutant(
        "idle_session_is_live",
        _STATE,
        "live = is_unended & is_in_use",
        "live = is_unended",
        "servicers/test_idle_sessions.py",
    ),
    mutant(
        "late_use_revives_an_idle_session",
        _REPOSITORY,
        "_expires_then, live, is_stale",
        "_expires_then, is_stale",
        "servicers/test_idle_sessions.py",
    ),
    mutant(
        "revocation_leaves_idle_sessions",
        _REPOSITORY,
        "    _of_user, is_unended, sessions.c.id.is_distinct_from(",
        "    _of_user, live, sessions.c.id.is_distinct_from(",
        "servicers/test_idle_sessions.py",
    ),
    mutant(
        "use_is_recorded_once_a_minute_with_a_short_limit",
        _STATE,
        "func.least(_literal(IDLE_PRECISION), _part_of_limit(4))",
        "_literal(IDLE_PRECISION)",
        "servicers/test_idle_sessions.py",
    ),
    mutant(
        "sweep_of_idle_sessions_removes_revoked_ones",
        "storage/repositories/expired_rows.py",
        "return sessions.c.is_valid & unused_for(retention)",
        "return unused_for(retention)",
        "servicers/test_idle_sessions.py",
    ),
    mutant(
        "rotation_for_an_inactive_user",
        _ROTATION,
        "            users.c.is_active,\n",
        "",
        "storage/repositories/test_session_rotation.py::TestRotate",
    ),
    mutant(
        "reused_token_ends_no_session",
        _SERVICER,
        "await db.rotations.revoke_reused(valid.session)",
        "pass",
        _REUSE,
    ),
    mutant(
        "reuse_is_rolled_back_with_its_refusal",
        _SERVICER,
        "        async with self._database.statements() as db:\n            valid = ",
        "        async with self._database.transaction() as db:\n            valid = ",
        _REUSE,
    ),
    mutant(
        "reuse_is_reported_for_an_ended_session",
        _ROTATION,
        "            raise SessionRevoked\n",
        "            pass\n",
        "storage/repositories/test_session_rotation.py::TestRevocation",
    ),
    mutant(
        "unverified_address_gets_a_session",
        _SIGN_IN,
        "                elif user.email_verified:",
        "                elif user.is_active:",
        f"{_SESSIONS}::TestSignIn",
    ),
    mutant(
        "validations_join_a_statement_that_runs",
        f"{_VALIDATION}/batch_loader.py",
        "dict(waiting[:MAX_KEYS]), dict(waiting[MAX_KEYS:])",
        "dict(waiting), self._pending",
        "storage/session_validation/test_batch_loader.py::TestBatches",
    ),
    mutant(
        "day_in_a_token_is_off_by_one_at_midnight",
        _TOKENS,
        "// timedelta(days=1) + 1",
        "// timedelta(days=1) + (expires_at.microsecond > 0)",
        "security/test_tokens.py::TestHeader",
    ),
    mutant(
        "day_in_a_token_is_that_of_another_time_zone",
        _TOKENS,
        "end_of_day = (expires_at - FIRST_DAY)",
        "end_of_day = (expires_at.replace(tzinfo=UTC) - FIRST_DAY)",
        "security/test_tokens.py::TestHeader",
    ),
    mutant(
        "day_in_a_token_is_of_the_clock_of_the_service",
        "servicers/session_start.py",
        'signed_in_at = cast("datetime", user.last_login_at)',
        "signed_in_at = datetime.now(UTC)",
        "server/test_clock_skew.py",
    ),
    mutant(
        "token_has_the_hash_of_another_user",
        _TOKENS,
        "hashlib.sha256(user_id.bytes)",
        "hashlib.sha256(secrets.token_bytes(16))",
        "security/test_tokens.py::TestHeader",
    ),
    mutant(
        "refresh_forgets_the_day",
        _TOKENS,
        "        if self.day:",
        "        if not self.day:",
        "security/test_tokens.py::TestSuccessor",
    ),
    mutant(
        "tokens_of_the_former_format_are_refused",
        _TOKENS,
        "return None if len(token) == _FORMER_LENGTH else NO_DAY",
        "return NO_DAY",
        _TEST_DAYS,
    ),
    mutant(
        "malformed_header_fails_a_call",
        _TOKENS,
        '    except ValueError:\n        return b""',
        '    except LookupError:\n        return b""',
        "security/test_tokens.py::TestHeader",
    ),
    mutant(
        "session_is_validated_by_a_token_of_another_day",
        f"{_VALIDATION}/statement.py",
        "(digest == _keys.c.digest) & is_on_day",
        "digest == _keys.c.digest",
        _TEST_DAYS,
    ),
    mutant(
        "days_of_a_batch_end_too_early",
        f"{_VALIDATION}/statement.py",
        "max(known) * _DAY - 1",
        "min(known) * _DAY - 1",
        _TEST_DAYS,
    ),
    mutant(
        "revocation_looks_in_all_days",
        "storage/repositories/token_keys.py",
        "            start, end = end - _DAY, end - _TICK\n",
        "            start, end = _ANY_TIME\n",
        _TEST_DAYS,
    ),
    mutant(
        "batch_is_answered_in_another_order",
        f"{_VALIDATION}/validator.py",
        "map(found.get, keys)",
        "map(found.get, sorted(keys))",
        "servicers/test_validate_session.py::test_batch_validate_returns_results_in_order",
    ),
    mutant(
        "use_of_a_session_is_not_recorded",
        f"{_VALIDATION}/validator.py",
        "self._last_activity.record(UUID(row[0]), moment(row[EXPIRES_AT]))",
        "pass",
        "servicers/test_validate_session.py",
    ),
    mutant(
        "list_shows_ended_sessions",
        _REPOSITORY,
        "_all_of_user if include_ended else _live_of_user",
        "_all_of_user",
        "storage/repositories/test_sessions.py::TestRead",
    ),
    mutant(
        "list_shows_sessions_of_all_users",
        _REPOSITORY,
        ".where(_of_user, tuple_(*_index_keys) >",
        ".where(tuple_(*_index_keys) >",
        "storage/repositories/test_sessions.py::TestRead",
    ),
    mutant(
        "partition_is_dropped_before_its_day_ends",
        _JOB,
        "day.is_first or not day.is_past or",
        "day.is_first or",
        f"{_DROP}::test_day_that_has_not_ended_is_kept",
    ),
    mutant(
        "partition_is_dropped_with_retained_sessions",
        _JOB,
        "return await db.session_days.is_retained(day, retention)",
        "return False",
        f"{_DROP}::test_day_with_retained_session_is_kept",
    ),
    mutant(
        "sweep_drops_a_table_of_the_operator",
        _PARTITIONS,
        "inhparent IS NOT NULL OR 'vacuum_truncate=false' = ANY (child.reloptions)",
        "true",
        f"{_DROP}::test_copy_with_the_name_of_a_day_is_kept",
    ),
    mutant(
        "replaced_tokens_of_live_sessions_are_forgotten",
        _PARTITIONS,
        "WHERE session_id >= (",
        "WHERE session_id < (",
        f"{_DROP}::test_first_tokens_of_live_session_are_kept",
    ),
    mutant(
        "refresh_answers_a_token_that_is_not_stored",
        _SERVICER,
        'token.stored_successor(rotated.nonce or b"", rotated.digest)',
        'token.successor(rotated.nonce or b"")',
        f"{_TEST_DAYS}::test_refresh_follows_one_by_the_release_before",
    ),
    mutant(
        "partitions_do_not_reach_a_lifetime_ahead",
        _JOB,
        "timedelta(0), lifetime + MARGIN",
        "timedelta(0), MARGIN",
        f"{_MAKE}::test_days_reach_beyond_longest_session",
    ),
)
