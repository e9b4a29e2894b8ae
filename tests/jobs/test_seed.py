"""The seeded users: created once, and never changed after their users changed them."""

import asyncio
from typing import NamedTuple

import pytest
from pydantic import SecretStr
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import IntegrityError

from tamatar_auth.jobs.seed import SeedingError, SeedOutcome, seed, seed_accounts
from tamatar_auth.security.passwords.hasher import PasswordHasher
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.repositories.user_filters import Deleted
from tamatar_auth.storage.tables import user_profiles, users
from tests.support.settings import changed

ADMIN, FIRST, SECOND = "admin@tamatar.dev", "test1@example.com", "test2@example.com"
SECRET = "only the operator knows"


class SeedSummary(NamedTuple):
    """The number of accounts by outcome."""

    created: int
    repaired: int
    unchanged: int


@pytest.fixture
async def passwords(settings):
    passwords = PasswordHasher.create(settings.passwords)
    yield passwords
    await passwords.close()


@pytest.fixture
def production(settings):
    return changed(settings, environment="production", seed_admin_password=SecretStr(SECRET))


@pytest.fixture
def seeded(database, passwords, settings):
    """Seed, and return the summary."""

    async def run(settings=settings, report=lambda _: None):
        count = await seed(database, passwords, settings, report)
        created, repaired = count[SeedOutcome.CREATED], count[SeedOutcome.REPAIRED]
        return SeedSummary(created, repaired, count.total() - created - repaired)

    return run


TABLES = (users, user_profiles)


async def everything(database):
    """Return every column of every user and profile."""
    async with database.snapshot() as db:
        found = [await db.connection.execute(select(it).order_by("created_at")) for it in TABLES]
    return [rows.all() for rows in found]


async def change(database, statement):
    async with database.transaction() as tx:
        await tx.connection.execute(statement)


async def find(database, email):
    async with database.read() as db:
        return await db.users.get_by_email(email, deleted=Deleted.INCLUDE)


async def can_sign_in(database, passwords, email, password):
    async with database.read() as db:
        credentials = await db.credentials.find_by_email(email)
    async with passwords.permit() as permit:
        return await permit.matches(password, credentials.password_hash)


async def hashed(passwords, password):
    async with passwords.permit() as permit:
        return await permit.hash(password)


class TestProduction:
    """Seeding in production, with a password of the operator."""

    async def test_production_seed_creates_admin_with_given_password(
        self, database, passwords, production, seeded
    ):
        assert await seeded(production) == SeedSummary(created=1, repaired=0, unchanged=0)

        assert (await find(database, ADMIN)).email_verified
        assert await can_sign_in(database, passwords, ADMIN, SECRET)
        assert not await can_sign_in(database, passwords, ADMIN, "SecureAdminPass123!")

    @pytest.mark.parametrize("password", [None, "SecureAdminPass123!", "TestPass123!"])
    async def test_production_seed_needs_a_secret_password(
        self, database, production, seeded, password
    ):
        secret = None if password is None else SecretStr(password)
        weak = changed(production, seed_admin_password=secret)

        with pytest.raises(SeedingError, match="TAMATAR_SEED_ADMIN_PASSWORD must be set"):
            await seeded(weak)

        assert await everything(database) == [[], []]

    @pytest.mark.parametrize(
        ("password", "rule"),
        [
            ("eleven char", "must have at least 12 characters"),
            ("x" * 257, "must have at most 256 characters"),
            ("1qaz2wsx3edc", "must not be a common password"),
            ("admin@tamatar.dev", "must not be mostly the user's own address or name"),
            ("a tab in\tthe middle", "must not have control characters"),
        ],
    )
    async def test_seed_password_against_policy_is_refused(
        self, database, production, seeded, password, rule
    ):
        refused = changed(production, seed_admin_password=SecretStr(password))

        with pytest.raises(SeedingError) as refusal:
            await seeded(refused)

        assert str(refusal.value) == f"TAMATAR_SEED_ADMIN_PASSWORD {rule}."
        assert await everything(database) == [[], []]

    async def test_seed_password_of_maximum_length_works(
        self, database, passwords, production, seeded
    ):
        long = ("Zäune über örtliche Flüsse " * 10)[:256]
        await seeded(changed(production, seed_admin_password=SecretStr(long)))

        assert await can_sign_in(database, passwords, ADMIN, long)


class TestRepeatedSeed:
    """Seeding again, which repairs and keeps."""

    async def test_repeated_seed_changes_nothing(self, database, seeded):
        await seeded()
        before = await everything(database)

        assert await seeded() == SeedSummary(created=0, repaired=0, unchanged=3)
        assert await everything(database) == before

    async def test_seed_keeps_changes_of_users(self, database, passwords, seeded):
        await seeded()
        mine = await hashed(passwords, "my own password")
        async with database.transaction() as tx:
            admin = await tx.users.get_by_email(ADMIN)
            await tx.users.update(
                admin.id, {"password_hash": mine, "username": "ada", "first_name": None}
            )
            await tx.profiles.update(admin.id, {"display_name": "Ada"})
        before = await everything(database)

        assert (await seeded()).unchanged == 3
        assert await everything(database) == before

    async def test_seed_restores_missing_profile(self, database, seeded):
        await seeded()
        _, before = await everything(database)
        await change(database, delete(user_profiles))
        lines = []

        assert await seeded(report=lines.append) == SeedSummary(created=0, repaired=3, unchanged=0)

        _, after = await everything(database)
        assert [it.display_name for it in after] == [it.display_name for it in before]
        assert lines[0] == f"{ADMIN}: repaired"

    async def test_seed_restores_verification_of_untouched_account(self, database, seeded):
        await seeded()
        await change(database, update(users).values(email_verified=False))

        assert await seeded() == SeedSummary(created=0, repaired=2, unchanged=1)

        verified = [
            (await find(database, email)).email_verified for email in (ADMIN, FIRST, SECOND)
        ]
        assert verified == [True, True, False]
        assert (await seeded()).unchanged == 3

    async def test_seed_does_not_verify_account_with_other_password(
        self, database, passwords, seeded
    ):
        await seeded()
        stranger = await hashed(passwords, "a stranger's password")
        await change(database, update(users).values(email_verified=False, password_hash=stranger))
        before = await everything(database)

        assert (await seeded()).unchanged == 3
        assert await everything(database) == before

    async def test_seed_keeps_user_verified_later(self, database, seeded):
        await seeded()
        await change(database, update(users).values(email_verified=True))

        assert (await seeded()).unchanged == 3
        assert (await find(database, SECOND)).email_verified

    async def test_seed_keeps_deleted_admin_deleted(self, database, seeded):
        await seeded()
        async with database.transaction() as tx:
            admin = await tx.users.get_by_email(ADMIN)
            await tx.users.delete(admin.id, deleted_by="operator")
        before = await everything(database)
        lines = []

        assert (await seeded(report=lines.append)).unchanged == 3

        assert await everything(database) == before
        assert "left alone: it is deleted" in lines[0]

    async def test_seed_creates_purged_user_again(self, database, seeded):
        await seeded()
        async with database.transaction() as tx:
            await tx.users.purge((await tx.users.get_by_email(FIRST)).id)

        assert await seeded() == SeedSummary(created=1, repaired=0, unchanged=2)

    async def test_seed_with_taken_username_creates_no_second_admin(self, database, seeded):
        await seeded()
        async with database.transaction() as tx:
            admin = await tx.users.get_by_email(ADMIN)
            await tx.users.update(admin.id, {"email": "ada@example.com"})
        before = await everything(database)
        lines = []

        assert (await seeded(report=lines.append)).unchanged == 3

        assert await everything(database) == before
        assert "its username belongs to a user with another address" in lines[0]

    async def test_concurrent_seeds_create_each_user_once(self, database, seeded):
        summaries = await asyncio.gather(seeded(), seeded(), seeded())

        assert sum(it.created for it in summaries) == 3
        assert [len(rows) for rows in await everything(database)] == [3, 3]

    async def test_concurrent_seeds_repair_each_user_once(self, database, seeded):
        await seeded()
        await change(database, delete(user_profiles))
        await change(database, update(users).values(email_verified=False))

        await asyncio.gather(seeded(), seeded(), seeded())

        rows, profiles = await everything(database)
        assert [it.email_verified for it in rows] == [True, True, False]
        assert len(profiles) == 3


class TestFirstSeed:
    """The users that seeding creates."""

    async def test_development_seed_creates_admin_and_two_users(self, database, passwords, seeded):
        assert await seeded() == SeedSummary(created=3, repaired=0, unchanged=0)

        found = [await find(database, email) for email in (ADMIN, FIRST, SECOND)]
        assert [(it.username, it.full_name, it.email_verified) for it in found] == [
            ("admin", "Admin User", True),
            ("testuser1", "Test User1", True),
            ("testuser2", "Test User2", False),
        ]
        assert await can_sign_in(database, passwords, ADMIN, "SecureAdminPass123!")
        assert await can_sign_in(database, passwords, FIRST, "TestPass123!")
        assert await can_sign_in(database, passwords, SECOND, "TestPass123!")

    async def test_seed_creates_a_profile_for_every_user(self, database, seeded):
        await seeded()

        _, profiles = await everything(database)
        assert [it.display_name for it in profiles] == ["Admin User", "Test User1", "Test User2"]

    async def test_seed_reports_every_account_and_no_password(self, seeded):
        lines = []
        await seeded(report=lines.append)
        await seeded(report=lines.append)

        assert lines == [
            f"{email}: {what}"
            for what in ("created", "unchanged")
            for email in (ADMIN, FIRST, SECOND)
        ]

    def test_seed_account_repr_is_silent(self, production):
        assert SECRET not in repr(seed_accounts(production))

    async def test_seed_creates_user_and_profile_in_one_transaction(
        self, migrated_database, passwords, settings
    ):
        database = Database(create_engine(settings.with_database(migrated_database).database))
        await change(
            database, text("ALTER TABLE user_profiles ADD CHECK (display_name = 'Nobody')")
        )

        with pytest.raises(IntegrityError):
            await seed(database, passwords, settings)

        assert await everything(database) == [[], []]
        await database.close()
