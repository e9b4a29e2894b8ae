"""Seeding: the first users of a deployment.

A repeated seed creates missing users and repairs accounts: it adds a missing profile, and
verifies the address of an account that still has the seed's password. An account with another
password belongs to a person. Changed passwords, names, addresses and deletions stay as they are.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from sqlalchemy.exc import DBAPIError, IntegrityError
from uuid_utils.compat import uuid7

from tamatar_auth.config.errors import OperatorError
from tamatar_auth.config.settings import Settings
from tamatar_auth.errors import InvalidFields
from tamatar_auth.errors.users import EtagMismatch, UserNotFound
from tamatar_auth.security.passwords.hasher import PasswordHasher
from tamatar_auth.security.passwords.policy import PasswordPolicy
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.repositories.credentials import NO_CREDENTIALS, Credentials
from tamatar_auth.storage.repositories.profiles import ProfileRow
from tamatar_auth.storage.repositories.user_filters import Deleted
from tamatar_auth.storage.repositories.users import NewUser, UserRow
from tamatar_auth.storage.retry import was_rolled_back

DEVELOPMENT_PASSWORDS = ("SecureAdminPass123!", "TestPass123!")
MAX_ATTEMPTS = 3
"""The most attempts to seed an account while other seeders or callers change it."""


class SeedingError(OperatorError):
    """The first users cannot be created; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class SeedAccount:
    """A user that the seed creates."""

    email: str
    username: str
    first_name: str
    last_name: str
    password: str = field(repr=False)
    verified: bool = True


class SeedOutcome(Enum):
    """The outcome for an account, as it is reported."""

    CREATED = "created"
    REPAIRED = "repaired"
    UNCHANGED = "unchanged"
    DELETED = "left alone: it is deleted (restore it, or purge it and seed again)"
    RENAMED = "left alone: its username belongs to a user with another address"


async def seed(
    database: Database,
    passwords: PasswordHasher,
    settings: Settings,
    report: Callable[[str], None] = lambda _: None,
) -> Counter[SeedOutcome]:
    """Create or repair the first users, or raise `SeedingError`."""
    policy = PasswordPolicy(settings.passwords)
    outcomes: Counter[SeedOutcome] = Counter()
    for account in seed_accounts(settings):
        outcome = await _AccountSeeder(database, passwords, policy, account).run()
        report(f"{account.email}: {outcome.value}")
        outcomes[outcome] += 1
    return outcomes


def seed_accounts(settings: Settings) -> Sequence[SeedAccount]:
    """Return the accounts of an environment, or raise `SeedingError`."""
    configured_password = settings.seed_admin_password
    published_password, test_password = DEVELOPMENT_PASSWORDS
    password = configured_password.get_secret_value() if configured_password else published_password
    admin = SeedAccount("admin@tamatar.dev", "admin", "Admin", "User", password)
    if settings.environment == "production":
        if configured_password is None or password in DEVELOPMENT_PASSWORDS:
            raise SeedingError(
                "TAMATAR_SEED_ADMIN_PASSWORD must be set in production, to a secret password:"
                " the development passwords are published."
            )
        return [admin]
    return [
        admin,
        SeedAccount("test1@example.com", "testuser1", "Test", "User1", test_password),
        SeedAccount(
            "test2@example.com", "testuser2", "Test", "User2", test_password, verified=False
        ),
    ]


@dataclass(frozen=True, slots=True)
class _AccountSeeder:
    """The seeding of one account."""

    database: Database
    passwords: PasswordHasher
    policy: PasswordPolicy
    account: SeedAccount

    async def run(self) -> SeedOutcome:
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await self._seed_once()
            except (EtagMismatch, UserNotFound):
                continue  # another seeder or caller was faster
            except DBAPIError as error:
                if not (isinstance(error, IntegrityError) or was_rolled_back(error)):
                    raise
        return await self._seed_once()

    async def _seed_once(self) -> SeedOutcome:
        async with self.database.snapshot() as db:
            user = await self._find_user(db)
            credentials = await db.credentials.find_by_email(self.account.email)
            complete = user is not None and await _has_profile(db, user)
        if user is None:
            return await self._create()
        if user.deleted_at is not None:
            return SeedOutcome.DELETED
        if user.email != self.account.email:
            return SeedOutcome.RENAMED
        return await self._repair(user, credentials, complete=complete)

    async def _find_user(self, db: Scope) -> UserRow | None:
        """Return the user with the address, live or deleted, or else the user with the username."""
        try:
            return await db.users.get_by_email(self.account.email, deleted=Deleted.INCLUDE)
        except UserNotFound:
            pass
        try:
            return await db.users.get_by_username(self.account.username)
        except UserNotFound:
            return None

    async def _create(self) -> SeedOutcome:
        account = self.account
        try:
            self.policy.check(account.password, names=(account.email, account.username))
        except InvalidFields as failure:
            rule = failure.violations[0].description
            raise SeedingError(f"TAMATAR_SEED_ADMIN_PASSWORD {rule}.") from None
        async with self.passwords.permit(wait=True) as permit:
            password_hash = await permit.hash(account.password)
        new = NewUser(
            id=uuid7(),
            email=account.email,
            username=account.username,
            password_hash=password_hash,
            first_name=account.first_name,
            last_name=account.last_name,
            email_verified=account.verified,
        )
        async with self.database.transaction() as tx:
            user = await tx.users.add(new)
            await tx.profiles.add(user.id, self._profile(user))
        return SeedOutcome.CREATED

    async def _repair(
        self, user: UserRow, credentials: Credentials, *, complete: bool
    ) -> SeedOutcome:
        unverified = self.account.verified and not user.email_verified
        # A person who registered the address before the seed has not proved to own it.
        verify = (
            unverified
            and credentials is not NO_CREDENTIALS
            and await self._has_seed_password(credentials)
        )
        if complete and not verify:
            return SeedOutcome.UNCHANGED
        async with self.database.transaction() as tx:
            if verify:
                await tx.users.update(user.id, {"email_verified": True}, version=user.version)
            if not complete:
                await tx.profiles.add(user.id, self._profile(user))
        return SeedOutcome.REPAIRED

    async def _has_seed_password(self, credentials: Credentials) -> bool:
        async with self.passwords.permit(wait=True) as permit:
            return await permit.matches(self.account.password, credentials.password_hash)

    def _profile(self, user: UserRow) -> ProfileRow:
        return ProfileRow(display_name=user.full_name[:100] or None)


async def _has_profile(db: Scope, user: UserRow) -> bool:
    try:
        await db.profiles.get(user.id)
    except UserNotFound:
        return False
    return True
