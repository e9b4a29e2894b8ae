"""Second factors: their rows, and the statements that add, change and remove them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import bindparam, delete, func, insert, literal, select, update
from sqlalchemy.types import BigInteger

from tamatar_auth.errors.factors import FactorNotFound, TooManyFactors
from tamatar_auth.storage.factor_tables import factors, recovery_codes
from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.tables import users

MAX_FACTORS = 20
"""The most factors of a user besides the recovery codes."""


class FactorKind(StrEnum):
    """The kind of a factor, as it is stored."""

    TOTP = "totp"
    RECOVERY_CODES = "recovery_codes"
    PASSKEY = "passkey"


class FactorRow(NamedTuple):
    """The columns of a factor that callers may see. None of them is a secret."""

    id: UUID
    user_id: UUID
    kind: str
    label: str
    created_at: datetime
    confirmed_at: datetime | None
    last_used_at: datetime | None
    aaguid: UUID | None
    is_backup_eligible: bool
    is_backed_up: bool
    transports: str
    credential_id: bytes | None
    remaining_codes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFactor:
    """A factor to add. A passkey and recovery codes are confirmed at once."""

    id: UUID
    user_id: UUID
    kind: FactorKind
    label: str = ""
    key_id: str | None = None
    encrypted_secret: bytes | None = field(default=None, repr=False)
    credential_id: bytes | None = None
    public_key: bytes | None = None
    sign_count: int = 0
    aaguid: UUID | None = None
    is_backup_eligible: bool = False
    is_backed_up: bool = False
    transports: str = ""


_remaining_codes = (
    select(func.count())
    .select_from(recovery_codes)
    .where(recovery_codes.c.factor_id == factors.c.id)
    .correlate(factors)
    .scalar_subquery()
)
FACTOR_COLUMNS = (*(factors.c[name] for name in FactorRow._fields[:-1]), _remaining_codes)
"""The columns of every SELECT of factors, and of the RETURNING of changes."""

_of_id = factors.c.id == bindparam("factor_id")
_of_user = factors.c.user_id == bindparam("owner_id")
_has_live_user = (
    select(users.c.id)
    .where(users.c.id == factors.c.user_id, users.c.deleted_at.is_(None))
    .correlate(factors)
    .exists()
)
_is_code_set = factors.c.kind == FactorKind.RECOVERY_CODES
_list = (
    select(*FACTOR_COLUMNS)
    .where(_of_user)
    .order_by(factors.c.created_at, factors.c.id)
    .execution_options(summary="SELECT factors")
)
_get = (
    select(*FACTOR_COLUMNS)
    .where(_of_id, _has_live_user)
    .execution_options(summary="SELECT factors")
)


_count = (
    select(func.count()).where(_of_user, ~_is_code_set).execution_options(summary="SELECT factors")
)
# A new factor has no codes yet. In an INSERT their count would not be that of its row.
_insert = (
    insert(factors)
    .returning(*FACTOR_COLUMNS[:-1], literal(0))
    .execution_options(summary="INSERT factors")
)
_insert_confirmed = _insert.values(confirmed_at=func.now())
_add_codes = insert(recovery_codes).execution_options(summary="INSERT recovery_codes")
_delete = delete(factors).execution_options(summary="DELETE factors")
_delete_unconfirmed = _delete.where(_of_user, factors.c.confirmed_at.is_(None))
_delete_codes = _delete.where(_of_user, _is_code_set)
_delete_by_id = _delete.where(_of_id, _has_live_user).returning(*FACTOR_COLUMNS)
_update = (
    update(factors)
    .where(_of_id, _has_live_user)
    .returning(*FACTOR_COLUMNS)
    .execution_options(summary="UPDATE factors")
)
_confirm = _update.values(
    confirmed_at=func.coalesce(factors.c.confirmed_at, func.now()),
    last_step=func.greatest(factors.c.last_step, bindparam("step", type_=BigInteger)),
)
_relabel = _update.values(label=bindparam("new_label"))


class FactorRepository(Repository):
    """Finds and changes factors over one connection."""

    async def list_of_user(self, user_id: UUID) -> Sequence[FactorRow]:
        """Return all factors of a user, the oldest first."""
        found = await self._connection.execute(_list, {"owner_id": user_id})
        return [FactorRow._make(row) for row in found]

    async def get(self, factor_id: UUID) -> FactorRow:
        """Return a factor of a live user, or raise `FactorNotFound`."""
        return FactorRow._make(await self._one(_get, {"factor_id": factor_id}, FactorNotFound))

    async def require_room(self, user_id: UUID) -> None:
        """Raise `TooManyFactors` if the user has as many as are allowed.

        The transaction has locked the user, so that no other one adds a factor at the same time.
        """
        counted = await self._connection.execute(_count, {"owner_id": user_id})
        if counted.scalar_one() >= MAX_FACTORS:
            raise TooManyFactors

    async def add(self, new: NewFactor) -> FactorRow:
        """Add a factor. Constraints raise `UserNotFound` and `PasskeyTaken`."""
        statement = _insert if new.kind is FactorKind.TOTP else _insert_confirmed
        values = {name: getattr(new, name) for name in NewFactor.__dataclass_fields__}
        return FactorRow._make((await self._connection.execute(statement, values)).one())

    async def add_codes(self, factor_id: UUID, digests: Sequence[bytes]) -> None:
        """Add recovery codes to a set of codes."""
        rows = [{"factor_id": factor_id, "code_digest": digest} for digest in digests]
        await self._connection.execute(_add_codes, rows)

    async def confirm(self, factor_id: UUID, step: int) -> FactorRow:
        """Let a factor of an app count, and note the step of its code as used.

        A confirmed factor keeps the time at which it was confirmed. Raise `FactorNotFound`.
        """
        values = {"factor_id": factor_id, "step": step}
        return FactorRow._make(await self._one(_confirm, values, FactorNotFound))

    async def relabel(self, factor_id: UUID, label: str) -> FactorRow:
        """Change the label of a factor of a live user, or raise `FactorNotFound`."""
        values = {"factor_id": factor_id, "new_label": label}
        return FactorRow._make(await self._one(_relabel, values, FactorNotFound))

    async def delete(self, factor_id: UUID) -> FactorRow:
        """Remove a factor of a live user and return it, or raise `FactorNotFound`."""
        values = {"factor_id": factor_id}
        return FactorRow._make(await self._one(_delete_by_id, values, FactorNotFound))

    async def delete_unconfirmed(self, user_id: UUID) -> None:
        """Remove the factor of a user that is not confirmed, if there is one."""
        await self._connection.execute(_delete_unconfirmed, {"owner_id": user_id})

    async def delete_codes(self, user_id: UUID) -> None:
        """Remove the recovery codes of a user, if there are any."""
        await self._connection.execute(_delete_codes, {"owner_id": user_id})
