"""Mutants of passwords and one-time tokens."""

from tests.mutants.mutant import mutant

_CREDENTIALS = "servicers/user_credentials.py"
_REPOSITORY = "storage/repositories/credentials.py"
_TOKENS = "storage/repositories/user_tokens.py"
_HASHER = "security/passwords/hasher.py"
_POLICY = "security/passwords/policy.py"

_USER_TOKENS = "servicers/test_user_tokens.py"
_EMAIL_CHANGE = "servicers/test_email_change.py"
_TEST_CREDENTIALS = "storage/repositories/test_credentials.py"
_TEST_HASHER = "security/passwords/test_hasher.py"
_TEST_POLICY = "security/passwords/test_policy.py"

MUTANTS = (
    mutant(
        "password_change_keeps_reset_secrets",
        _CREDENTIALS,
        "                await tx.user_tokens.revoke(user_id)\n",
        "",
        f"{_USER_TOKENS}::TestRefusals",
    ),
    mutant(
        "password_reset_keeps_other_secrets",
        _CREDENTIALS,
        "            await tx.user_tokens.revoke(user.id)\n"
        "            await tx.challenges.delete_of_user(user.id)\n            # Not the username's",
        "            await tx.challenges.delete_of_user(user.id)\n            # Not the username's",
        f"{_USER_TOKENS}::TestUse",
    ),
    mutant(
        "deactivation_keeps_reset_secrets",
        "servicers/user_lifecycle.py",
        "            await tx.user_tokens.revoke(user_id)\n"
        "            await tx.challenges.delete_of_user(user_id)\n"
        "        audit.record(Event.USER_DEACTIVATED",
        "        audit.record(Event.USER_DEACTIVATED",
        f"{_USER_TOKENS}::TestRefusals",
    ),
    mutant(
        "deletion_keeps_reset_secrets",
        "servicers/user_lifecycle.py",
        "            await tx.user_tokens.revoke(user_id)\n"
        "            await tx.challenges.delete_of_user(user_id)\n"
        "        audit.record(Event.USER_DELETED",
        "        audit.record(Event.USER_DELETED",
        f"{_USER_TOKENS}::TestRefusals",
    ),
    mutant(
        "email_change_keeps_secrets",
        "servicers/users.py",
        "                await tx.user_tokens.revoke(user_id)",
        "                pass",
        f"{_USER_TOKENS}::TestRefusals",
    ),
    mutant(
        "password_reset_consumes_no_secret",
        _CREDENTIALS,
        "            await tx.user_tokens.consume(RESET, digest)\n",
        "",
        f"{_USER_TOKENS}::TestUse",
    ),
    mutant(
        "verification_consumes_no_secret",
        _CREDENTIALS,
        "            await tx.user_tokens.consume(VERIFICATION, digest)\n",
        "",
        _USER_TOKENS,
    ),
    mutant(
        "email_change_consumes_no_secret",
        _CREDENTIALS,
        "            await tx.user_tokens.consume(CHANGE, digest)\n",
        "",
        f"{_EMAIL_CHANGE}::TestUse",
    ),
    mutant(
        "confirmed_email_change_keeps_other_secrets",
        _CREDENTIALS,
        "consume(CHANGE, digest)\n            await tx.user_tokens.revoke(user.id)\n",
        "consume(CHANGE, digest)\n",
        f"{_EMAIL_CHANGE}::TestRefusals",
    ),
    mutant(
        "email_change_looks_up_the_new_address",
        _CREDENTIALS,
        "            change = EmailChange(TokenOwner(user.id, user.email), email)\n",
        "            if (await tx.credentials.find_by_email(email)).is_active:\n"
        "                await tx.user_tokens.revoke(user.id)\n"
        "            change = EmailChange(TokenOwner(user.id, user.email), email)\n",
        f"{_EMAIL_CHANGE}::TestSecrecy",
    ),
    mutant(
        "newer_email_change_keeps_the_older_address",
        _TOKENS,
        '_replacing(_new_token, "new_email")',
        "_replacing(_new_token)",
        f"{_EMAIL_CHANGE}::TestUse",
    ),
    mutant(
        "confirmed_email_change_verifies_nothing",
        _REPOSITORY,
        '_verify_email.values(email=bindparam("new_email"))',
        '_update_owned.values(email=bindparam("new_email"), version=_next_version)',
        f"{_EMAIL_CHANGE}::TestChange",
    ),
    mutant(
        "email_change_works_after_another_one",
        _REPOSITORY,
        '_verify_email.values(email=bindparam("new_email"))',
        '_update.values(email=bindparam("new_email"), email_verified=True, version=_next_version)',
        f"{_TEST_CREDENTIALS}::TestChanges",
    ),
    mutant(
        "secret_works_for_another_purpose",
        _TOKENS,
        '    & (_columns.purpose == bindparam("of_purpose"))\n',
        "",
        f"{_USER_TOKENS}::TestUse",
    ),
    mutant(
        "secret_works_after_its_end",
        _TOKENS,
        "_columns.expires_at > func.now()",
        "_columns.expires_at > _columns.created_at",
        f"{_USER_TOKENS}::TestRefusals",
    ),
    mutant(
        "secret_works_for_another_address",
        _REPOSITORY,
        '_update.where(users.c.email == bindparam("owner_email"))',
        '_update.where(bindparam("owner_email", type_=users.c.email.type).is_not(None))',
        f"{_TEST_CREDENTIALS}::TestChanges",
    ),
    mutant(
        "newer_secret_keeps_the_older_one",
        _TOKENS,
        '("token_digest", "email", "created_at", "expires_at", *more)',
        '("email", "created_at", "expires_at", *more)',
        f"{_USER_TOKENS}::TestRefusals",
    ),
    mutant(
        "reset_of_a_deactivated_user",
        _TOKENS,
        "& users.c.deleted_at.is_(None) & users.c.is_active",
        "& users.c.deleted_at.is_(None)",
        "storage/repositories/test_user_tokens.py",
    ),
    mutant(
        "reset_of_an_unknown_address_writes_no_row",
        _TOKENS,
        ".where(is_unknown)",
        ".where(~is_unknown)",
        "storage/repositories/test_user_tokens.py",
    ),
    mutant(
        "reset_verifies_no_address",
        _REPOSITORY,
        'password_hash=bindparam("new_hash"), email_verified=True',
        'password_hash=bindparam("new_hash"), email_verified=users.c.email_verified',
        f"{_USER_TOKENS}::TestUse",
    ),
    mutant(
        "sign_in_with_a_password_changed_meanwhile",
        _REPOSITORY,
        '_update.where(users.c.password_hash == bindparam("checked_hash"))',
        '_update.where(bindparam("checked_hash", type_=users.c.password_hash.type).is_not(None))',
        "servicers/test_row_locks.py::TestSignIn",
    ),
    mutant(
        "sign_in_of_a_user_deleted_meanwhile",
        _REPOSITORY,
        "users.c.deleted_at.is_(None), users.c.is_active)",
        "users.c.is_active.is_not(None))",
        "servicers/test_row_locks.py::TestSignIn",
    ),
    mutant(
        "credentials_of_deleted_users",
        _REPOSITORY,
        "type_=column.type), users.c.deleted_at.is_(None))",
        "type_=column.type))",
        f"{_TEST_CREDENTIALS}::TestFind",
    ),
    mutant(
        "password_of_an_inactive_user_is_checked",
        _REPOSITORY,
        "self.password_hash if self.is_active else None",
        "self.password_hash",
        f"{_TEST_CREDENTIALS}::TestFind",
    ),
    mutant(
        "sign_in_changes_the_etag",
        _REPOSITORY,
        'password_hash=bindparam("new_hash"),\n)',
        'password_hash=bindparam("new_hash"),\n    version=_next_version,\n)',
        f"{_TEST_CREDENTIALS}::TestSignIn",
    ),
    mutant(
        "hash_has_no_key",
        _HASHER,
        'hmac.digest(self._peppers[key_id], encoded, "sha384")',
        'hmac.digest(b"key", encoded, "sha384")',
        _TEST_HASHER,
    ),
    mutant(
        "password_is_cut_at_72_bytes",
        _HASHER,
        "        encoded = normalize_password(password).encode()\n",
        "        encoded = normalize_password(password).encode()[:72]\n",
        f"{_TEST_HASHER}::TestHashes",
    ),
    mutant(
        "password_is_not_normalised",
        _HASHER,
        'return unicodedata.normalize("NFC", password)',
        "return password",
        f"{_TEST_HASHER}::TestHashes",
    ),
    mutant(
        "missing_hash_takes_no_time",
        _HASHER,
        "        if not is_match:\n",
        "        if is_match:\n",
        f"{_TEST_HASHER}::TestHashes",
    ),
    mutant(
        "hash_of_a_missing_key_is_checked",
        _HASHER,
        "is_match = self._check(password, effective) and has_key",
        "is_match = self._check(password, effective) or has_key",
        _TEST_HASHER,
    ),
    mutant(
        "outdated_hash_is_kept",
        _HASHER,
        "(stored.key_id, stored.cost) != newest",
        "stored.key_id != newest[0]",
        _TEST_HASHER,
    ),
    mutant(
        "new_hash_uses_the_oldest_key",
        "security/key_ring.py",
        "next(reversed(self))",
        "next(iter(self))",
        f"{_TEST_HASHER}::TestPeppers",
    ),
    mutant(
        "common_password_in_capitals_is_accepted",
        _POLICY,
        'unicodedata.normalize("NFC", text).casefold().strip()',
        'unicodedata.normalize("NFC", text).strip()',
        _TEST_POLICY,
    ),
    mutant(
        "length_counts_combining_characters",
        _POLICY,
        'self._problem(unicodedata.normalize("NFC", password), names)',
        "self._problem(password, names)",
        _TEST_POLICY,
    ),
    mutant(
        "repeated_password_is_accepted",
        _POLICY,
        "if is_repetition(password, self._min_length - 1):",
        "if not password:",
        _TEST_POLICY,
    ),
    mutant(
        "third_of_a_password_is_enough",
        _POLICY,
        "self._min_length * 2 // 3",
        "self._min_length // 3",
        _TEST_POLICY,
    ),
    mutant(
        "name_of_the_service_is_accepted",
        _POLICY,
        "self._service_words | own_words",
        "own_words",
        _TEST_POLICY,
    ),
    mutant(
        "own_name_as_password_is_accepted",
        _POLICY,
        "self._service_words | own_words",
        "self._service_words",
        _TEST_POLICY,
    ),
    mutant(
        "changed_password_skips_the_policy",
        _CREDENTIALS,
        "            self._policy.check(request.new_password, names=checked.names",
        "            self._policy.check(2 * request.new_password, names=checked.names",
        "servicers/test_user_credentials.py",
    ),
    mutant(
        "reset_password_skips_the_names",
        _CREDENTIALS,
        "names=found.names",
        "names=()",
        "servicers/test_user_credentials.py",
    ),
    mutant(
        "permit_is_free_while_its_hash_runs",
        "security/passwords/hash_queue.py",
        "            permit.when_idle(self._release)",
        "            self._release()",
        "security/passwords/test_hash_queue.py",
    ),
    mutant(
        "token_of_a_session_has_few_bits",
        "security/tokens.py",
        "TOKEN_BYTES = 32",
        "TOKEN_BYTES = 16",
        "security/test_tokens.py",
    ),
)
