"""Passkeys of users, as the options of a ceremony name them."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Select, bindparam, select

from tamatar_auth.storage.factor_tables import factors
from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.repositories.factors import FactorKind
from tamatar_auth.storage.tables import users


class PasskeyRow(NamedTuple):
    """A passkey without its key: its id, and how browsers reach its authenticator."""

    user_id: UUID
    credential_id: bytes
    transports: str


_of_live_users: Select[tuple[UUID, bytes, str]] = (
    select(*(factors.c[name] for name in PasskeyRow._fields))
    .join_from(users, factors, factors.c.user_id == users.c.id)
    .where(factors.c.kind == FactorKind.PASSKEY, users.c.deleted_at.is_(None))
    .order_by(factors.c.id)
    .execution_options(summary="SELECT factors")
)
_of_email = _of_live_users.where(users.c.email == bindparam("email"), users.c.is_active)
_of_user = _of_live_users.where(users.c.id == bindparam("owner_id"))


class PasskeyRepository(Repository):
    """Finds passkeys over one connection."""

    async def of_email(self, email: str) -> Sequence[PasskeyRow]:
        """Return the passkeys of the live and active user with an address, the oldest first.

        No row says whether there is such a user.
        """
        found = await self._connection.execute(_of_email, {"email": email})
        return [PasskeyRow._make(row) for row in found]

    async def of_user(self, user_id: UUID) -> Sequence[PasskeyRow]:
        """Return the passkeys of a live user, the oldest first."""
        found = await self._connection.execute(_of_user, {"owner_id": user_id})
        return [PasskeyRow._make(row) for row in found]
