"""Mutants of users: created, changed, listed, imported and swept."""

from tests.mutants.mutant import mutant

_REPOSITORY = "storage/repositories/users.py"
_FILTERS = "storage/repositories/user_filters.py"
_LISTS = "storage/repositories/user_lists.py"
_IMPORT = "storage/repositories/user_import.py"
_EXPIRED = "storage/repositories/expired_rows.py"
_MASKS = "servicers/update_masks.py"

_TEST_USERS = "storage/repositories/test_users.py"
_TEST_SERVICER = "servicers/test_users.py"
_TEST_LISTS = "servicers/test_list_users.py"
_ROW_LOCKS = "servicers/test_row_locks.py"
_BULK = "servicers/test_bulk_users.py"
_SWEEP = "jobs/test_sweep.py"

MUTANTS = (
    mutant(
        "estimate_is_not_marked",
        _LISTS,
        "RowEstimate.read(plan)), is_estimate=True)",
        "RowEstimate.read(plan)), is_estimate=False)",
        f"{_TEST_LISTS}::TestBounds",
    ),
    mutant(
        "count_ignores_its_bound",
        _LISTS,
        "if read <= query.limit:",
        "if read <= query.limit + 1:",
        f"{_TEST_LISTS}::TestBounds",
    ),
    mutant(
        "page_scan_ignores_its_bound",
        "storage/repositories/user_pages.py",
        ".limit(scan_limit(share)).subquery",
        ".subquery",
        "storage/repositories/test_query_plans.py::test_users_page_reads_few_rows_along_an_index",
    ),
    mutant(
        "sweep_purges_deleted_users_by_default",
        "jobs/sweep.py",
        "ExpiredRows.DELETED_USERS: settings.deleted_users,",
        "ExpiredRows.DELETED_USERS: settings.deleted_users or timedelta(days=1),",
        "jobs/test_sweep.py::TestDeletedUsers",
    ),
    mutant(
        "update_does_not_lock_its_row",
        _REPOSITORY,
        "    .with_for_update(key_share=True)\n",
        "",
        f"{_ROW_LOCKS}::TestUpdates",
    ),
    mutant(
        "etag_is_not_compared",
        _REPOSITORY,
        "if version not in {None, row.version}:",
        "if version is not None and version > row.version:",
        f"{_TEST_USERS}::TestUpdate",
    ),
    mutant(
        "change_keeps_the_version",
        _REPOSITORY,
        "    .values(version=users.c.version + 1)\n",
        "    .values(version=users.c.version)\n",
        f"{_TEST_USERS}::TestUpdate",
    ),
    mutant(
        "changed_address_stays_verified",
        _REPOSITORY,
        '    return {"email_verified": False, **changes}',
        "    return dict(changes)",
        f"{_TEST_USERS}::TestUpdate",
    ),
    mutant(
        "restored_user_with_new_address_is_verified",
        _REPOSITORY,
        "restoration | _unverify_changed_email(user, changes)",
        "restoration | dict(changes)",
        f"{_TEST_USERS}::TestDelete",
    ),
    mutant(
        "live_user_is_restored",
        _REPOSITORY,
        "        if user.deleted_at is None:\n            raise UserNotDeleted\n",
        "",
        f"{_TEST_USERS}::TestDelete",
    ),
    mutant(
        "deleted_user_stays_active",
        _REPOSITORY,
        "_update.values(is_active=False, deleted_at=func.now())",
        "_update.values(deleted_at=func.now())",
        f"{_TEST_USERS}::TestDelete",
    ),
    mutant(
        "batch_get_returns_deleted_users",
        _REPOSITORY,
        'any_of(users.c.id, "user_ids"), users.c.deleted_at.is_(None))',
        'any_of(users.c.id, "user_ids"))',
        f"{_TEST_USERS}::TestRead",
    ),
    mutant(
        "batch_get_is_answered_in_another_order",
        "servicers/users.py",
        "users=[user_message(found[user_id]) for user_id in wanted if user_id in found]",
        "users=[user_message(found[user_id]) for user_id in sorted(found)]",
        f"{_TEST_SERVICER}::TestGetUser::test_batch_get_keeps_order_and_lists_missing",
    ),
    mutant(
        "filter_matches_deleted_users",
        _FILTERS,
        "return (is_live if deleted is Deleted.EXCLUDE else ~is_live,)",
        "return () if deleted is Deleted.EXCLUDE else (~is_live,)",
        f"{_TEST_USERS}::TestPages",
    ),
    mutant(
        "prefix_is_a_pattern",
        _FILTERS,
        "ColumnRange(name, prefix, after_prefix(prefix))",
        'ColumnRange(name, prefix.strip("%"), after_prefix(prefix.strip("%")))',
        f"{_TEST_USERS}::TestPages",
    ),
    mutant(
        "export_returns_deleted_users",
        "storage/repositories/user_export.py",
        "select(users).where(users.c.deleted_at.is_(None)).order_by",
        "select(users).order_by",
        f"{_BULK}::TestExport",
    ),
    mutant(
        "export_returns_keyed_hashes",
        "servicers/portable_users.py",
        "stored is not None and stored.key_id is None and with_hash",
        "stored is not None and with_hash",
        f"{_BULK}::TestExport",
    ),
    mutant(
        "request_id_is_looked_up_without_a_lock",
        _REPOSITORY,
        "    .with_for_update(read=True)\n",
        "",
        f"{_ROW_LOCKS}::TestRepeatedCreation",
    ),
    mutant(
        "request_id_with_other_content_is_answered",
        _REPOSITORY,
        "        if digest != request_digest:\n            raise RequestIdReused\n",
        "",
        f"{_TEST_SERVICER}::TestCreateUser",
    ),
    mutant(
        "user_and_profile_are_two_transactions",
        "servicers/users.py",
        "                user = await tx.users.add(new)\n",
        "                async with self._database.transaction() as other:\n"
        "                    user = await other.users.add(new)\n",
        "servicers/test_failed_commits.py",
    ),
    mutant(
        "address_is_verified_at_creation_by_anyone",
        "servicers/users.py",
        "require_role(Role.ADMIN)",
        "require_role(Role.ACCOUNTS)",
        "interceptors/test_authentication.py::TestAccessRules::"
        "test_email_verified_at_creation_needs_admin",
    ),
    mutant(
        "mask_with_an_unknown_field_is_ignored",
        _MASKS,
        "if not paths or not paths <= set(_ALLOWED):",
        "if not paths & set(_ALLOWED):",
        f"{_TEST_SERVICER}::TestUpdateUser",
    ),
    mutant(
        "mask_of_one_profile_field_changes_all",
        _MASKS,
        'if _PROFILE in paths or f"{_PROFILE}.{name}" in paths',
        "if any(path.startswith(_PROFILE) for path in paths)",
        f"{_TEST_SERVICER}::TestUpdateUser",
    ),
    mutant(
        "address_is_not_folded",
        "security/identifiers.py",
        "address.strip()).lower())",
        "address.strip()))",
        "security/test_identifiers.py",
    ),
    mutant(
        "username_is_not_folded",
        "security/identifiers.py",
        "return username.strip().lower()",
        "return username.strip()",
        f"{_TEST_SERVICER}::TestCreateUser",
    ),
    mutant(
        "import_that_is_a_dry_run_is_kept",
        "servicers/bulk_users.py",
        "self._database.transaction if persist else self._database.dry_run",
        "self._database.transaction",
        f"{_BULK}::TestConflicts",
    ),
    mutant(
        "import_takes_over_a_user_of_another_address",
        _IMPORT,
        "return namesake.id if namesake.email == new.email else UserIdTaken()",
        "return namesake.id",
        _BULK,
    ),
    mutant(
        "import_of_other_content_is_the_same_user",
        _IMPORT,
        "return earlier.id if same else ImportedDifferently()",
        "return earlier.id",
        f"{_BULK}::TestRepeatedImport",
    ),
    mutant(
        "import_finds_existing_users_without_a_lock",
        _IMPORT,
        "    .with_for_update(read=True, key_share=True)\n",
        "",
        f"{_ROW_LOCKS}::TestRepeatedCreation",
    ),
    mutant(
        "import_accepts_a_creation_in_the_future",
        "servicers/portable_users.py",
        "created_at > datetime.now(UTC):",
        "created_at.year > 9000:",
        _BULK,
    ),
    mutant(
        "sweep_removes_revoked_sessions_as_expired",
        _EXPIRED,
        "is_unretained = sessions.c.is_valid |",
        "is_unretained = true() |",
        f"{_SWEEP}::TestExpiredRows",
    ),
    mutant(
        "sweep_forgets_attempts_on_users",
        _EXPIRED,
        "return _KEPT_IF_SET[kind].is_(None) & old",
        "return old",
        f"{_SWEEP}::TestExpiredRows",
    ),
    mutant(
        "sweep_ignores_the_retention",
        _EXPIRED,
        "kind.retained_since <= func.now() - retention",
        "kind.retained_since <= func.now()",
        f"{_SWEEP}::TestExpiredRows",
    ),
    mutant(
        "sweep_waits_for_locked_rows",
        _EXPIRED,
        ".with_for_update(skip_locked=True)",
        ".with_for_update()",
        f"{_SWEEP}::TestBatches",
    ),
    mutant(
        "sweep_purges_a_user_that_is_being_restored",
        _EXPIRED,
        "batch.with_for_update(skip_locked=True, of=users)",
        "batch",
        f"{_SWEEP}::TestDeletedUsers",
    ),
    mutant(
        "purge_by_the_sweep_is_recorded_before_its_commit",
        "jobs/sweep.py",
        "    for user_id in user_ids:\n        audit.record(",
        "        for user_id in user_ids:\n            audit.record(",
        f"{_SWEEP}::TestDeletedUsers",
    ),
    mutant(
        "two_sweeps_run_at_once",
        "jobs/sweep.py",
        "            return None\n        count = await tx.sweeps.purge",
        "            pass\n        count = await tx.sweeps.purge",
        f"{_SWEEP}::TestBatches",
    ),
)
