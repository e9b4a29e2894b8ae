"""The first users: created once, and never taken back from the people who use them."""

import asyncio

import pytest
from pydantic import SecretStr
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import IntegrityError

from tamatar_auth.jobs.seed import SeedingError, SeedSummary, seed, seed_accounts
from tamatar_auth.security.passwords.hasher import PasswordHasher
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.repositories.user_filters import Deleted
from tamatar_auth.storage.tables import user_profiles, users

ADMIN, FIRST, SECOND = "admin@tamatar.dev", "test1@example.com", "test2@example.com"
SECRET = "only the operator knows"


@pytest.fixture
async def passwords(settings):
    passwords = PasswordHasher.of(settings)
    yield passwords
    await passwords.close()


@pytest.fixture
def production(settings):
    return settings.model_copy(
        update={"environment": "production", "seed_admin_password": SecretStr(SECRET)}
    )


@pytest.fixture
def seeded(database, passwords, settings):
    """Seed, and give the summary."""

    async def run(settings=settings, report=lambda _: None):
        return await seed(database, passwords, settings, report)

    return run


TABLES = (users, user_profiles)


async def everything(database):
    """Give every column of every user and profile."""
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


async def test_development_gets_an_administrator_and_two_users(database, passwords, seeded):
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


async def test_every_user_gets_a_profile(database, seeded):
    await seeded()

    _, profiles = await everything(database)
    assert [it.display_name for it in profiles] == ["Admin User", "Test User1", "Test User2"]


async def test_seeding_again_changes_nothing(database, seeded):
    await seeded()
    before = await everything(database)

    assert await seeded() == SeedSummary(created=0, repaired=0, unchanged=3)
    assert await everything(database) == before


async def test_every_account_is_told_and_no_password(seeded):
    lines = []
    await seeded(report=lines.append)
    await seeded(report=lines.append)

    assert lines == [
        f"{email}: {what}" for what in ("created", "unchanged") for email in (ADMIN, FIRST, SECOND)
    ]


async def test_production_gets_the_administrator_alone_with_its_own_password(
    database, passwords, production, seeded
):
    assert await seeded(production) == SeedSummary(created=1, repaired=0, unchanged=0)

    assert (await find(database, ADMIN)).email_verified
    assert await can_sign_in(database, passwords, ADMIN, SECRET)
    assert not await can_sign_in(database, passwords, ADMIN, "SecureAdminPass123!")


@pytest.mark.parametrize("password", [None, "SecureAdminPass123!", "TestPass123!"])
async def test_production_wants_a_password_that_nobody_knows(
    database, production, seeded, password
):
    secret = None if password is None else SecretStr(password)
    weak = production.model_copy(update={"seed_admin_password": secret})

    with pytest.raises(SeedingError, match="TAMATAR_SEED_ADMIN_PASSWORD must be set"):
        await seeded(weak)

    assert await everything(database) == [[], []]


@pytest.mark.parametrize(
    ("password", "rule"),
    [
        ("eleven char", "must have at least 12 characters"),
        ("x" * 257, "must have at most 256 characters"),
        ("1qaz2wsx3edc", "must not be a common password"),
        ("admin@tamatar.dev", "must not be the user's own address or name"),
        ("a tab in\tthe middle", "must not have control characters"),
    ],
)
async def test_a_password_that_no_caller_could_choose_is_refused_by_its_setting(
    database, production, seeded, password, rule
):
    refused = production.model_copy(update={"seed_admin_password": SecretStr(password)})

    with pytest.raises(SeedingError) as refusal:
        await seeded(refused)

    assert str(refusal.value) == f"TAMATAR_SEED_ADMIN_PASSWORD {rule}."
    assert await everything(database) == [[], []]


async def test_the_longest_password_signs_the_administrator_in(
    database, passwords, production, seeded
):
    long = "ä" * 256
    await seeded(production.model_copy(update={"seed_admin_password": SecretStr(long)}))

    assert await can_sign_in(database, passwords, ADMIN, long)


def test_an_account_does_not_show_its_password(production):
    assert SECRET not in repr(seed_accounts(production))


async def test_what_people_changed_stays_changed(database, passwords, seeded):
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


async def test_a_missing_profile_is_restored(database, seeded):
    await seeded()
    _, before = await everything(database)
    await change(database, delete(user_profiles))
    lines = []

    assert await seeded(report=lines.append) == SeedSummary(created=0, repaired=3, unchanged=0)

    _, after = await everything(database)
    assert [it.display_name for it in after] == [it.display_name for it in before]
    assert lines[0] == f"{ADMIN}: repaired"


async def test_the_verified_address_of_an_untouched_account_is_restored(database, seeded):
    await seeded()
    await change(database, update(users).values(email_verified=False))

    assert await seeded() == SeedSummary(created=0, repaired=2, unchanged=1)

    verified = [(await find(database, email)).email_verified for email in (ADMIN, FIRST, SECOND)]
    assert verified == [True, True, False]
    assert (await seeded()).unchanged == 3


async def test_an_address_that_somebody_else_took_is_not_verified_for_them(
    database, passwords, seeded
):
    await seeded()
    stranger = await hashed(passwords, "a stranger's password")
    await change(database, update(users).values(email_verified=False, password_hash=stranger))
    before = await everything(database)

    assert (await seeded()).unchanged == 3
    assert await everything(database) == before


async def test_a_user_that_verified_itself_stays_verified(database, seeded):
    await seeded()
    await change(database, update(users).values(email_verified=True))

    assert (await seeded()).unchanged == 3
    assert (await find(database, SECOND)).email_verified


async def test_a_deleted_administrator_stays_deleted(database, seeded):
    await seeded()
    async with database.transaction() as tx:
        admin = await tx.users.get_by_email(ADMIN)
        await tx.users.delete(admin.id, deleted_by="operator")
    before = await everything(database)
    lines = []

    assert (await seeded(report=lines.append)).unchanged == 3

    assert await everything(database) == before
    assert "somebody deleted it" in lines[0]


async def test_a_purged_user_is_created_again(database, seeded):
    await seeded()
    async with database.transaction() as tx:
        await tx.users.purge((await tx.users.get_by_email(FIRST)).id)

    assert await seeded() == SeedSummary(created=1, repaired=0, unchanged=2)


async def test_an_administrator_with_another_address_gets_no_double(database, seeded):
    await seeded()
    async with database.transaction() as tx:
        admin = await tx.users.get_by_email(ADMIN)
        await tx.users.update(admin.id, {"email": "ada@example.com"})
    before = await everything(database)
    lines = []

    assert (await seeded(report=lines.append)).unchanged == 3

    assert await everything(database) == before
    assert "its username belongs to a user with another address" in lines[0]


async def test_two_seeders_at_once_both_succeed(database, seeded):
    summaries = await asyncio.gather(seeded(), seeded(), seeded())

    assert sum(it.created for it in summaries) == 3
    assert [len(rows) for rows in await everything(database)] == [3, 3]


async def test_two_seeders_that_repair_at_once_both_succeed(database, seeded):
    await seeded()
    await change(database, delete(user_profiles))
    await change(database, update(users).values(email_verified=False))

    await asyncio.gather(seeded(), seeded(), seeded())

    rows, profiles = await everything(database)
    assert [it.email_verified for it in rows] == [True, True, False]
    assert len(profiles) == 3


async def test_user_and_profile_come_together_or_not_at_all(migrated_database, passwords, settings):
    database = Database(create_engine(settings.with_database(migrated_database)))
    await change(database, text("ALTER TABLE user_profiles ADD CHECK (display_name = 'Nobody')"))

    with pytest.raises(IntegrityError):
        await seed(database, passwords, settings)

    assert await everything(database) == [[], []]
    await database.close()
