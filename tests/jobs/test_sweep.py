"""Sweeping: rows past their retention are removed in batches, by one sweeper at a time."""

import asyncio
import re
from datetime import timedelta
from uuid import uuid4

import pytest
import structlog
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from tamatar_auth.jobs import sweep as sweeping
from tamatar_auth.jobs.sweep import SweepResult, sweep, sweep_periodically
from tamatar_auth.servicers.proof_attempts import keys_of_user
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.factor_tables import challenges, factors
from tamatar_auth.storage.repositories.challenges import ChallengePurpose, NewChallenge
from tamatar_auth.storage.repositories.expired_rows import ExpiredRows
from tamatar_auth.storage.repositories.factors import FactorKind, NewFactor
from tamatar_auth.storage.repositories.users import NewUser, UserRepository
from tamatar_auth.storage.tables import (
    password_attempts,
    sessions,
    user_profiles,
    user_tokens,
    users,
)
from tests.support.failing_commits import commits_fail
from tests.support.rows import run
from tests.support.settings import changed
from tests.support.waiting import eventually

DAY = timedelta(days=1)

# How long ago: created, expired (None: in the future), revoked (None: not).
LIVE = (1 * DAY, None, None)
EXPIRED = (10 * DAY, 3 * DAY, None)
JUST_EXPIRED = (7 * DAY, timedelta(0), None)
REVOKED = (1 * DAY, None, 1 * DAY)
REVOKED_AND_EXPIRED = (20 * DAY, 13 * DAY, 15 * DAY)
LONG_REVOKED = (40 * DAY, None, 31 * DAY)
LONG_REVOKED_AND_EXPIRED = (60 * DAY, 53 * DAY, 59 * DAY)


@pytest.fixture
async def user(database):
    async with database.transaction() as tx:
        return await tx.users.add(NewUser(id=uuid4(), email="ada@example.com"))


@pytest.fixture
def add(database, user):
    """Add sessions of given ages, and return their ids."""

    async def add(*ages):
        ids = [uuid4() for _ in ages]
        rows = [_row(key, user, *age) for key, age in zip(ids, ages, strict=True)]
        async with database.transaction() as tx:
            for row in rows:
                await tx.connection.execute(insert(sessions).values(row))
        return ids

    return add


@pytest.fixture
def leave(database, user):
    """Add an expired user token and an old attempt on an address."""

    async def leave(ago, account=b"a" * 32, owner=None):
        then = func.now() - ago
        secret = {
            "user_id": user.id,
            "purpose": str(uuid4())[:30],
            "token_digest": uuid4().bytes * 2,
            "email": user.email,
            "expires_at": then,
        }
        attempt = {
            "account": account,
            "user_id": owner,
            "failures": 3,
            "blocked_until": then,
            "last_tried_at": then,
        }
        async with database.transaction() as tx:
            await tx.connection.execute(insert(user_tokens).values(secret))
            await tx.connection.execute(insert(password_attempts).values(attempt))

    return leave


async def leave_challenge(database, user, digest, ago):
    """Add a challenge that has expired for some time."""
    purpose = ChallengePurpose.SIGN_IN
    async with database.transaction() as tx:
        await tx.challenges.issue(
            NewChallenge(token_digest=digest, purpose=purpose, user_id=user.id)
        )
        moved = update(challenges).where(challenges.c.token_digest == digest)
        await tx.connection.execute(moved.values(expires_at=func.now() - ago))


async def leave_app(database, user, age):
    """Add an app of some age that is not confirmed."""
    secret = {"key_id": "key", "encrypted_secret": b"secret"}
    async with database.transaction() as tx:
        app = await tx.factors.add(
            NewFactor(id=uuid4(), user_id=user.id, kind=FactorKind.TOTP, **secret)
        )
        await tx.connection.execute(update(factors).values(created_at=func.now() - age))
    return app


async def remaining(database, table):
    async with database.read() as db:
        return (await db.connection.execute(select(func.count()).select_from(table))).scalar_one()


def _row(key, user, created, expired, revoked):
    return {
        "id": key,
        "user_id": user.id,
        "token_digest": key.bytes * 2,
        "is_valid": revoked is None,
        "created_at": func.now() - created,
        "expires_at": func.now() + DAY if expired is None else func.now() - expired,
        "revoked_at": None if revoked is None else func.now() - revoked,
    }


async def _rest(database, session_id, ago):
    rested = update(sessions).where(sessions.c.id == session_id)
    await run(database, rested.values(last_activity_at=func.now() - ago))


@pytest.fixture
def batches_of_two(monkeypatch):
    monkeypatch.setattr(sweeping, "BATCH_SIZE", 2)


@pytest.fixture
def batches_of_one(monkeypatch):
    monkeypatch.setattr(sweeping, "BATCH_SIZE", 1)


async def left(database):
    async with database.read() as db:
        return set((await db.connection.execute(select(sessions.c.id))).scalars())


class TestBatches:
    """Batches of a sweep, and sweeps at the same time."""

    @pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
    @pytest.mark.usefixtures("batches_of_two")
    async def test_sweep_batches_of_any_number_remove_all(self, database, settings, add, count):
        await add(*[EXPIRED] * count)

        result = await sweep(database, settings.retention)

        assert result.expired_sessions == count
        assert await left(database) == set()

    @pytest.mark.usefixtures("batches_of_two")
    async def test_sweep_batch_is_a_transaction_and_is_reported(self, database, settings, add):
        await add(*[EXPIRED] * 5)
        lines, counts = [], []

        async def watch():
            counts.append(len(await left(database)))

        watchers = []

        def report(line):
            lines.append(line)
            watchers.append(asyncio.ensure_future(watch()))

        await sweep(database, settings.retention, report=report)
        await asyncio.gather(*watchers)

        assert [line for line in lines if line.startswith("expired sessions")] == [
            f"expired sessions: {count} removed" for count in (2, 4, 5)
        ]
        assert counts
        assert set(counts) <= {5, 3, 1, 0}

    async def test_sweep_skips_locked_session_until_next_time(self, database, settings, add):
        held, _ = await add(EXPIRED, EXPIRED)
        async with database.transaction() as tx:
            await tx.connection.execute(
                select(sessions.c.id).where(sessions.c.id == held).with_for_update()
            )
            assert (await sweep(database, settings.retention)).expired_sessions == 1

        assert await left(database) == {held}
        assert (await sweep(database, settings.retention)).expired_sessions == 1

    async def test_sweep_beside_another_one_yields(self, database, settings, add):
        ids = await add(EXPIRED)
        lines = []
        async with database.transaction() as other:
            assert await other.sweeps.try_lock()

            assert await sweep(database, settings.retention, report=lines.append) == SweepResult(
                yielded=True
            )

        assert lines == ["another process is sweeping: the rest is left to it"]
        assert await left(database) == set(ids)
        assert (await sweep(database, settings.retention)).expired_sessions == 1

    @pytest.mark.usefixtures("batches_of_one")
    async def test_concurrent_sweeps_remove_everything_once(self, database, settings, add):
        await add(*[EXPIRED] * 20)

        results = await asyncio.gather(*(sweep(database, settings.retention) for _ in range(4)))

        assert sum(it.expired_sessions for it in results) == 20
        assert await left(database) == set()

    async def test_sweep_after_death_of_another_sweeper_works(self, database, settings, add):
        await add(EXPIRED)
        transactional = database.engine.execution_options(isolation_level="READ COMMITTED")
        dying = await transactional.connect()
        assert await Scope(dying).sweeps.try_lock()
        pid = (await dying.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        async with database.read() as db:
            await db.connection.execute(
                text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}
            )

        assert await sweep(database, settings.retention) == SweepResult(expired_sessions=1)

        await dying.invalidate()
        await dying.close()

    @pytest.mark.usefixtures("batches_of_two")
    async def test_cancelled_sweep_keeps_committed_batches(self, database, settings, add):
        await add(*[EXPIRED] * 5)
        task = None

        def report(line):
            if line == "expired sessions: 2 removed":
                task.cancel()

        task = asyncio.create_task(sweep(database, settings.retention, report=report))
        with pytest.raises(asyncio.CancelledError):
            await task

        assert len(await left(database)) == 3
        assert database.pool.in_use == 0


class TestExpiredRows:
    """The rows that a sweep removes."""

    async def test_sweep_removes_sessions_past_retention_only(self, database, settings, add):
        kept = await add(LIVE, REVOKED, REVOKED_AND_EXPIRED, JUST_EXPIRED)
        await add(EXPIRED, LONG_REVOKED, LONG_REVOKED_AND_EXPIRED)

        result = await sweep(database, settings.retention)

        assert result == SweepResult(ended_sessions=1, expired_sessions=2)
        assert await left(database) == set(kept)
        assert await sweep(database, settings.retention) == SweepResult()

    async def test_sweep_removes_expired_user_tokens_at_once(self, database, settings, leave):
        await leave(timedelta(0))
        await leave(-timedelta(minutes=1), account=b"b" * 32)

        assert await sweep(database, settings.retention) == SweepResult(expired_secrets=1)
        assert await remaining(database, user_tokens) == 1

    async def test_sweep_forgets_attempts_on_unknown_email_after_a_day(
        self, database, settings, leave
    ):
        await leave(DAY)
        await leave(DAY - timedelta(minutes=1), account=b"b" * 32)

        assert (await sweep(database, settings.retention)).forgotten_attempts == 1
        assert await remaining(database, password_attempts) == 1

    async def test_sweep_keeps_attempts_on_known_user(self, database, settings, leave, user):
        await leave(365 * DAY, owner=user.id)

        assert (await sweep(database, settings.retention)).forgotten_attempts == 0
        assert await remaining(database, password_attempts) == 1

    async def test_sweep_keeps_count_of_wrong_codes(self, database, settings, user):
        keys = keys_of_user(user.id)
        async with database.transaction() as tx:
            await tx.attempts.reserve(keys)
            await tx.attempts.record_failure(keys)
        await run(database, update(password_attempts).values(last_tried_at=func.now() - 9 * DAY))

        assert (await sweep(database, settings.retention)).forgotten_attempts == 0
        assert await remaining(database, password_attempts) == 2

    async def test_sweep_removes_expired_challenges_at_once(self, database, settings, user):
        await leave_challenge(database, user, b"a" * 32, timedelta(0))
        await leave_challenge(database, user, b"b" * 32, -timedelta(minutes=1))

        assert await sweep(database, settings.retention) == SweepResult(expired_challenges=1)
        assert await remaining(database, challenges) == 1

    @pytest.mark.parametrize(
        ("age", "confirmed", "removed"),
        [(DAY, False, 1), (DAY - timedelta(minutes=1), False, 0), (9 * DAY, True, 0)],
    )
    async def test_sweep_removes_unconfirmed_factors_after_a_day(
        self, database, settings, user, age, confirmed, removed
    ):
        app = await leave_app(database, user, age)
        if confirmed:
            async with database.transaction() as tx:
                await tx.factors.confirm(app.id, 1)

        result = await sweep(database, settings.retention)

        assert result == SweepResult(unconfirmed_factors=removed)

    async def test_retention_of_ended_sessions_is_a_setting(self, database, settings, add):
        kept = await add(LIVE, REVOKED_AND_EXPIRED, LONG_REVOKED)
        await add(LONG_REVOKED_AND_EXPIRED)
        patient = changed(settings, ended_session_retention=32 * DAY)

        assert await sweep(database, patient.retention) == SweepResult(expired_sessions=1)
        assert await left(database) == set(kept)

    async def test_dry_run_counts_and_removes_nothing(self, database, settings, add, leave):
        await add(LIVE, EXPIRED, JUST_EXPIRED, REVOKED, LONG_REVOKED)
        await leave(2 * DAY)
        before, lines = await left(database), []

        result = await sweep(database, settings.retention, dry_run=True, report=lines.append)

        assert result == SweepResult(
            ended_sessions=1, expired_sessions=1, expired_secrets=1, forgotten_attempts=1
        )
        assert await left(database) == before
        assert await remaining(database, user_tokens) == 1
        assert await remaining(database, password_attempts) == 1
        assert lines == [
            "ended sessions: 1 to remove",
            "expired sessions: 1 to remove",
            "expired secrets: 1 to remove",
            "expired challenges: 0 to remove",
            "unconfirmed factors: 0 to remove",
            "forgotten attempts: 1 to remove",
        ]

    @pytest.mark.parametrize(
        ("query", "index"),
        [
            ("EXPLAIN SELECT id FROM sessions WHERE revoked_at <= now()", r"_\d+_revoked_at_idx"),
            (
                "EXPLAIN SELECT id FROM sessions_first WHERE is_valid ORDER BY expires_at",
                "idx_session_first_expires",
            ),
            (
                "EXPLAIN SELECT id FROM sessions WHERE last_activity_at <= now()",
                r"_\d+_last_activity_at_idx",
            ),
            (
                (
                    "EXPLAIN SELECT id FROM users"
                    " WHERE deleted_at > '-infinity' AND deleted_at <= now() ORDER BY deleted_at"
                ),
                "idx_user_deleted ",
            ),
            (
                "EXPLAIN SELECT user_id, purpose FROM user_tokens WHERE expires_at <= now()",
                "idx_user_token_expires",
            ),
            (
                "EXPLAIN SELECT account FROM password_attempts WHERE last_tried_at <= now()",
                "idx_password_attempt_tried",
            ),
        ],
    )
    async def test_sweep_statement_has_an_index(self, database, query, index):
        async with database.transaction() as tx:
            await tx.connection.execute(text("SET LOCAL enable_seqscan = off"))
            await tx.connection.execute(text("SET LOCAL enable_sort = off"))
            plan = (await tx.connection.execute(text(query))).scalars().all()

        assert re.search(index, "\n".join(plan))

    async def test_every_kind_of_expired_rows_is_counted_and_removed(
        self, database, add, leave, delete_user, user
    ):
        await add(EXPIRED, LONG_REVOKED)
        await leave(DAY)
        await leave_challenge(database, user, b"a" * 32, timedelta(0))
        await leave_app(database, user, timedelta(0))
        (idle,) = await add(LIVE)
        await _rest(database, idle, DAY)
        await delete_user(timedelta(0))
        now = dict.fromkeys(ExpiredRows, timedelta(0)) | {ExpiredRows.IDLE_SESSIONS: DAY}

        async with database.transaction() as tx:
            assert await tx.sweeps.count(now) == dict.fromkeys(ExpiredRows, 1)
            for kind, kept in now.items():
                assert await tx.sweeps.purge(kind, kept, limit=10) == 1
            assert await tx.sweeps.count(now) == dict.fromkeys(ExpiredRows, 0)


@pytest.fixture
async def periodic(database, settings):
    """Run the server's periodic sweep at a short interval; cancel it at the end."""
    tasks = []

    def start(database=database, **values):
        often = changed(settings, **{"sweep_interval": timedelta(milliseconds=10), **values})
        tasks.append(asyncio.create_task(sweep_periodically(database, often.retention)))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class TestPeriodicSweep:
    """The sweeps of a server."""

    async def test_periodic_sweep_repeats(self, database, add, periodic):
        with structlog.testing.capture_logs() as logs:
            await add(EXPIRED)
            periodic()
            await eventually(lambda: any(entry.get("expired_sessions") == 1 for entry in logs))
            await add(EXPIRED, LONG_REVOKED)
            await eventually(lambda: any(entry.get("ended_sessions") == 1 for entry in logs))

        assert {(entry["event"], entry["log_level"]) for entry in logs} == {("swept", "info")}
        assert await left(database) == set()

    async def test_periodic_sweep_continues_after_database_error(
        self, settings, add, periodic, postgres
    ):
        await add(EXPIRED)
        broken = Database(create_engine(settings.with_database(postgres.url("nowhere")).database))
        with structlog.testing.capture_logs() as logs:
            periodic(broken)
            await eventually(lambda: len(logs) >= 2)

        assert {(entry["event"], entry["log_level"]) for entry in logs} == {
            ("sweep failed", "warning")
        }
        assert "nowhere" not in str(logs)
        await broken.close()

    async def test_periodic_sweep_with_zero_interval_never_sweeps(
        self, database, add, periodic, monkeypatch
    ):
        monkeypatch.setattr(sweeping, "sweep", None)  # would raise

        task = periodic(sweep_interval=timedelta(0))
        await asyncio.sleep(0.05)

        assert not task.done()


@pytest.fixture
def purging(settings):
    """Settings that purge users 30 days after their deletion."""
    return changed(settings, deleted_user_retention=30 * DAY).retention


@pytest.fixture
def delete_user(database):
    """Add a user that was deleted some time ago, and return its id."""

    async def delete_user(ago, **values):
        async with database.transaction() as tx:
            deleted = await tx.users.add(
                NewUser(id=uuid4(), **{"email": f"{uuid4()}@x.dev"} | values)
            )
            await tx.users.delete(deleted.id, deleted_by=None)
            old = update(users).where(users.c.id == deleted.id)
            await tx.connection.execute(old.values(deleted_at=func.now() - ago))
        return deleted.id

    return delete_user


async def user_ids(database):
    async with database.read() as db:
        return set((await db.connection.execute(select(users.c.id))).scalars())


def purged(logs):
    return [entry["user_id"] for entry in logs if entry["event"] == "user.purged"]


class TestDeletedUsers:
    """Deleted users, which the sweep purges if a setting says so."""

    async def test_deleted_users_are_kept_by_default(self, database, settings, delete_user):
        await delete_user(3650 * DAY)

        assert await sweep(database, settings.retention) == SweepResult()
        assert await remaining(database, users) == 1

    async def test_sweep_purges_users_past_retention_only(
        self, database, purging, delete_user, user
    ):
        old = await delete_user(30 * DAY)
        recent = await delete_user(30 * DAY - timedelta(minutes=1))

        assert await sweep(database, purging, dry_run=True) == SweepResult(deleted_users=1)
        with structlog.testing.capture_logs() as logs:
            assert await sweep(database, purging) == SweepResult(deleted_users=1)

        assert await user_ids(database) == {user.id, recent}
        assert purged(logs) == [str(old)]

    async def test_purge_removes_every_row_of_user(self, database, purging, delete_user):
        old = await delete_user(30 * DAY, request_id=uuid4())
        await _own_rows(database, old, count=1)

        await sweep(database, purging)

        for table in (users, user_profiles, sessions, user_tokens):
            assert await remaining(database, table) == 0
        assert await remaining(database, password_attempts) == 0

    async def test_purge_leaves_new_user_of_same_address_alone(
        self, database, purging, delete_user
    ):
        await delete_user(30 * DAY, email="ada@example.com", username="ada")
        async with database.transaction() as tx:
            new = await tx.users.add(NewUser(id=uuid4(), email="ada@example.com", username="ada"))
        await _own_rows(database, new.id, count=2)

        await sweep(database, purging)

        assert await user_ids(database) == {new.id}
        assert await remaining(database, sessions) == 2

    @pytest.mark.usefixtures("batches_of_two")
    @pytest.mark.parametrize("count", [1, 2, 3, 4])
    async def test_purge_batches_of_any_number_purge_all(
        self, database, purging, delete_user, count, monkeypatch
    ):
        monkeypatch.setattr(sweeping, "USER_BATCH_SIZE", 2)
        ids = {str(await delete_user(40 * DAY)) for _ in range(count)}
        for owner in ids:
            await _own_rows(database, owner, count=3)
        lines = []

        with structlog.testing.capture_logs() as logs:
            result = await sweep(database, purging, report=lines.append)

        assert result == SweepResult(deleted_users=count)
        assert sorted(purged(logs)) == sorted(ids)
        assert lines[-1] == f"deleted users: {count} removed"

    async def test_purge_skips_user_that_is_being_restored(self, database, purging, delete_user):
        old = await delete_user(30 * DAY)
        await _own_rows(database, old, count=1)
        async with database.transaction() as tx:
            await tx.users.restore(old, {})
            assert await sweep(database, purging) == SweepResult()

        assert await sweep(database, purging) == SweepResult()
        assert await user_ids(database) == {old}
        assert await remaining(database, sessions) == 1

    async def test_purge_that_is_rolled_back_is_not_audited(
        self, database, purging, delete_user, monkeypatch
    ):
        await delete_user(30 * DAY)

        async def fail(self, user_id):
            raise ConnectionError

        monkeypatch.setattr(UserRepository, "purge", fail)
        with structlog.testing.capture_logs() as logs, pytest.raises(ConnectionError):
            await sweep(database, purging)

        assert purged(logs) == []
        assert await remaining(database, users) == 1

    async def test_purge_whose_commit_fails_is_not_audited(self, database, purging, delete_user):
        await delete_user(30 * DAY)

        async with commits_fail(database, users):
            with structlog.testing.capture_logs() as logs, pytest.raises(DBAPIError):
                await sweep(database, purging)

        assert purged(logs) == []


async def _own_rows(database, owner, *, count):
    """Add the rows of a user: a profile, a token, an attempt, and sessions that were revoked."""
    then = func.now() - DAY
    rows = [
        insert(user_profiles).values(user_id=owner, bio="-"),
        insert(user_tokens).values(
            user_id=owner,
            purpose="-",
            token_digest=uuid4().bytes * 2,
            email="-",
            expires_at=func.now() + DAY,
        ),
        insert(password_attempts).values(
            account=uuid4().bytes * 2, user_id=owner, failures=1, blocked_until=then
        ),
    ]
    for _ in range(count):
        key = uuid4()
        rows.append(
            insert(sessions).values(
                id=key,
                user_id=owner,
                token_digest=key.bytes * 2,
                is_valid=False,
                created_at=then,
                revoked_at=then,
                expires_at=func.now() + DAY,
            )
        )
    for row in rows:
        await run(database, row)
