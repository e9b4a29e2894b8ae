"""The secrets that proofs of second factors are checked against, and the use of each proof once.

`StoredFactor` is the only row with these secrets. No servicer returns it to a caller.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Executable, bindparam, cast, delete, extract, func, or_, select, update
from sqlalchemy.types import ARRAY, BigInteger, Boolean, Float, LargeBinary

from tamatar_auth.errors.factors import InvalidProof, ProofCause
from tamatar_auth.storage.factor_tables import factors, recovery_codes
from tamatar_auth.storage.repositories import Repository
from tamatar_auth.storage.tables import users


class StoredFactor(NamedTuple):
    """A factor with its secrets."""

    id: UUID
    user_id: UUID
    kind: str
    key_id: str | None
    encrypted_secret: bytes | None
    last_step: int
    credential_id: bytes | None
    public_key: bytes | None
    sign_count: int
    is_backup_eligible: bool
    code_digests: Sequence[bytes] | None
    """The digests of unused recovery codes, or None if there are none."""
    read_at: float
    """The time of the database, in seconds since 1970: its clock decides which code is right."""

    def __repr__(self) -> str:
        return f"StoredFactor({self.id})"


_code_digests = (
    select(func.array_agg(recovery_codes.c.code_digest, type_=ARRAY(LargeBinary)))
    .where(recovery_codes.c.factor_id == factors.c.id)
    .correlate(factors)
    .scalar_subquery()
)
_stored_factors = (
    select(
        *(factors.c[name] for name in StoredFactor._fields[:-2]),
        _code_digests,
        cast(extract("epoch", func.clock_timestamp()), Float),
    )
    .join_from(factors, users, users.c.id == factors.c.user_id)
    .where(users.c.deleted_at.is_(None))
    .execution_options(summary="SELECT factors")
)
_of_id = factors.c.id == bindparam("factor_id")
_by_user = _stored_factors.where(
    factors.c.user_id == bindparam("owner_id"), factors.c.confirmed_at.is_not(None)
).order_by(factors.c.id)
_by_credential = _stored_factors.where(factors.c.credential_id == bindparam("of_credential"))
_by_id = _stored_factors.where(_of_id)

_step = bindparam("step", type_=BigInteger)
_sign_count = bindparam("new_sign_count", type_=BigInteger)
_use = (
    update(factors)
    .where(_of_id)
    .values(last_used_at=func.now())
    .returning(factors.c.id)
    .execution_options(summary="UPDATE factors")
)
_use_step = _use.where(factors.c.last_step < _step).values(last_step=_step)
_renew_secret = (
    update(factors)
    .where(_of_id)
    .values(key_id=bindparam("new_key_id"), encrypted_secret=bindparam("new_secret"))
    .execution_options(summary="UPDATE factors")
)
_use_passkey = _use.where(
    or_(factors.c.sign_count < _sign_count, (factors.c.sign_count == 0) & (_sign_count == 0))
).values(sign_count=_sign_count, is_backed_up=bindparam("now_backed_up", type_=Boolean))
_use_code = (
    delete(recovery_codes)
    .where(
        recovery_codes.c.factor_id == bindparam("factor_id"),
        recovery_codes.c.code_digest == bindparam("digest", type_=LargeBinary),
    )
    .returning(recovery_codes.c.factor_id)
    .execution_options(summary="DELETE recovery_codes")
)


class ProofRepository(Repository):
    """Finds the secrets of factors, and uses proofs, over one connection.

    One of several uses of a proof at the same time succeeds. The others raise `InvalidProof`.
    """

    async def of_user(self, user_id: UUID) -> Sequence[StoredFactor]:
        """Return the confirmed factors of a live user, the oldest first."""
        return await self._find(_by_user, {"owner_id": user_id})

    async def of_credential(self, credential_id: bytes) -> Sequence[StoredFactor]:
        """Return the passkey with an id, if a live user has it."""
        return await self._find(_by_credential, {"of_credential": credential_id})

    async def of_factor(self, factor_id: UUID) -> Sequence[StoredFactor]:
        """Return the factor with an id, confirmed or not, if a live user has it."""
        return await self._find(_by_id, {"factor_id": factor_id})

    async def use_step(self, factor: StoredFactor, step: int) -> None:
        """Note that a code of an app was used. Codes of this step and of earlier ones are void."""
        await self._use(_use_step, factor, {"step": step}, ProofCause.USED_CODE)

    async def use_code(self, factor: StoredFactor, digest: bytes) -> None:
        """Delete a recovery code that was used."""
        await self._use(_use_code, factor, {"digest": digest}, ProofCause.USED_CODE)
        await self._use(_use, factor, {}, ProofCause.CHANGED_MEANWHILE)

    async def use_passkey(
        self, factor: StoredFactor, sign_count: int, *, is_backed_up: bool
    ) -> None:
        """Note the counter of a passkey, which must have grown unless it is always zero."""
        values = {"new_sign_count": sign_count, "now_backed_up": is_backed_up}
        await self._use(_use_passkey, factor, values, ProofCause.SIGN_COUNT_WENT_BACK)

    async def renew_secret(self, factor_id: UUID, key_id: str, encrypted_secret: bytes) -> None:
        """Replace the secret of an app by the same one under another key."""
        values = {"factor_id": factor_id, "new_key_id": key_id, "new_secret": encrypted_secret}
        await self._connection.execute(_renew_secret, values)

    async def _find(
        self, statement: Executable, values: Mapping[str, Any]
    ) -> Sequence[StoredFactor]:
        found = await self._connection.execute(statement, values)
        return [StoredFactor._make(row) for row in found]

    async def _use(
        self,
        statement: Executable,
        factor: StoredFactor,
        values: Mapping[str, Any],
        cause: ProofCause,
    ) -> None:
        of_factor = {"factor_id": factor.id}
        used = await self._connection.execute(statement, {**of_factor, **values})
        if used.one_or_none() is None:
            is_left = (await self._connection.execute(_by_id, of_factor)).one_or_none()
            # A factor that was deleted since the check accuses nobody of a replay or a copy.
            cause = cause if is_left else ProofCause.CHANGED_MEANWHILE
            raise InvalidProof(cause, factor.user_id)
