"""Mutants of the audit trail and of what logs may hold."""

from tests.mutants.mutant import mutant

_LIFECYCLE = "servicers/user_lifecycle.py"
_CREDENTIALS = "servicers/user_credentials.py"
_SESSIONS = "servicers/sessions.py"

_COMMITS = "security/test_audit_commits.py"
_AUDIT = "security/test_audit.py"
_LOGS = "observability/test_logs.py"


def _inside(file: str, event: str, *, depth: int = 8) -> tuple[str, str, str]:
    """Return the file, the record of an event, and that record within the transaction."""
    record = f"audit.record(Event.{event}"
    return file, f"\n{' ' * depth}{record}", f"\n{' ' * (depth + 4)}{record}"


MUTANTS = (
    mutant(
        "purge_by_the_sweep_is_not_recorded",
        "jobs/sweep.py",
        "        audit.record(Event.USER_PURGED, user_id=user_id)",
        "        pass",
        "jobs/test_sweep.py::TestDeletedUsers",
    ),
    mutant(
        "deactivation_is_recorded_before_its_commit",
        *_inside(_LIFECYCLE, "USER_DEACTIVATED"),
        _COMMITS,
    ),
    mutant(
        "deletion_is_recorded_before_its_commit", *_inside(_LIFECYCLE, "USER_DELETED"), _COMMITS
    ),
    mutant("purge_is_recorded_before_its_commit", *_inside(_LIFECYCLE, "USER_PURGED"), _COMMITS),
    mutant(
        "restoration_is_recorded_before_its_commit",
        *_inside(_LIFECYCLE, "USER_RESTORED"),
        _COMMITS,
    ),
    mutant(
        "reset_is_recorded_before_its_commit", *_inside(_CREDENTIALS, "PASSWORD_RESET,"), _COMMITS
    ),
    mutant(
        "verification_is_recorded_before_its_commit",
        *_inside(_CREDENTIALS, "EMAIL_VERIFIED"),
        _COMMITS,
    ),
    mutant(
        "email_change_is_recorded_before_its_commit",
        *_inside(_CREDENTIALS, "EMAIL_CHANGED"),
        _COMMITS,
    ),
    mutant(
        "revocation_of_all_is_recorded_before_its_commit",
        *_inside(_SESSIONS, "SESSIONS_REVOKED"),
        _COMMITS,
    ),
    mutant(
        "import_is_recorded_though_it_was_a_dry_run",
        "servicers/bulk_users.py",
        "        if persist:\n",
        "        if added:\n",
        f"{_AUDIT}::TestSilence",
    ),
    mutant(
        "repeated_creation_is_recorded",
        "servicers/users.py",
        "        if user.id == new.id:  #",
        "        if user.id:  #",
        f"{_AUDIT}::TestSilence",
    ),
    mutant(
        "refused_sign_in_is_not_recorded",
        "interceptors/audit_trail.py",
        "    audit.record(failure_event, **failure.audit_details)\n                raise",
        "    pass\n                raise",
        f"{_AUDIT}::TestCauses",
    ),
    mutant(
        "invalid_field_is_an_attempt",
        "interceptors/audit_trail.py",
        "            except AUDITED_FAILURES as failure:",
        "            except Exception as failure:",
        f"{_AUDIT}::TestSilence",
    ),
    mutant(
        "refused_caller_is_not_recorded",
        "interceptors/authentication.py",
        "        self._log(why, caller, credentials)\n",
        "",
        "interceptors/test_authentication.py::TestCallers::"
        "test_refusal_is_logged_with_true_cause_and_no_token",
    ),
    mutant(
        "text_of_a_database_error_is_logged",
        "observability/redaction.py",
        '    return f"{name}: {cause}" if _is_connection_error(cause) else name',
        '    return f"{name}: {cause}"',
        _LOGS,
    ),
    mutant(
        "cause_of_a_database_error_is_logged",
        "observability/redaction.py",
        '    return hasattr(error, "sqlstate") or hasattr(error, "orig")',
        '    return hasattr(error, "orig")',
        _LOGS,
    ),
    mutant(
        "objects_are_logged_with_their_content",
        "observability/redaction.py",
        '    return f"<{type(value).__qualname__}>"',
        "    return repr(value)",
        _LOGS,
    ),
    mutant(
        "rows_are_logged_as_lists",
        "observability/redaction.py",
        ' and not hasattr(value, "_fields")',
        "",
        _LOGS,
    ),
    mutant(
        "parameters_are_in_texts_of_errors",
        "storage/engine.py",
        "hide_parameters=True",
        "hide_parameters=False",
        "storage/test_database.py::TestConnectionSettings::"
        "test_error_of_statement_holds_no_parameter",
    ),
)
