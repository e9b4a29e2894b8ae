"""Challenges: issued after a first proof, answered a few times at most, and used once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Interval, bindparam, delete, func, insert, literal, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.expression import any_
from sqlalchemy.types import String, Uuid

from tamatar_auth.errors.factors import InvalidProof, ProofCause
from tamatar_auth.storage.factor_tables import challenges
from tamatar_auth.storage.repositories import Repository

LIFETIME = timedelta(minutes=5)

MAX_ANSWERS = 5
"""Wrong answers after which a challenge is void."""


class ChallengePurpose(StrEnum):
    """The use of a challenge."""

    SIGN_IN = "sign_in"
    PASSKEY_SIGN_IN = "passkey_sign_in"
    NAMED_PASSKEY_SIGN_IN = "named_passkey_sign_in"
    REGISTRATION = "registration"
    STEP_UP = "step_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewChallenge:
    """A challenge to issue. Without a user it can be answered by any passkey, or by none."""

    token_digest: bytes = field(repr=False)
    purpose: ChallengePurpose
    user_id: UUID | None = None
    session_id: UUID | None = None


class AnsweredChallenge(NamedTuple):
    """A challenge that has not expired, with this answer among its `answers`."""

    purpose: str
    user_id: UUID | None
    answers: int

    @property
    def is_void(self) -> bool:
        """Whether too many answers were wrong."""
        return self.answers > MAX_ANSWERS


_columns = challenges.c
_of_token = _columns.token_digest == bindparam("digest")
_issue = (
    insert(challenges)
    .values(created_at=func.now(), expires_at=func.now() + literal(LIFETIME, Interval))
    .returning(_columns.expires_at)
    .execution_options(summary="INSERT challenges")
)
# The count goes beyond the limit, so that the audit trail can name the user of a void challenge.
_count_answer = (
    update(challenges)
    .where(
        _of_token,
        _columns.purpose == any_(bindparam("purposes", type_=ARRAY(String))),
        _columns.session_id.is_not_distinct_from(bindparam("of_session", type_=Uuid)),
        _columns.expires_at > func.now(),
    )
    .values(attempts=_columns.attempts + 1)
    .returning(_columns.purpose, _columns.user_id, _columns.attempts)
    .execution_options(summary="UPDATE challenges")
)
_uncount_answer = (
    update(challenges)
    .where(_of_token)
    .values(attempts=func.greatest(_columns.attempts - 1, 0))
    .execution_options(summary="UPDATE challenges")
)
_use = (
    delete(challenges)
    .where(_of_token)
    .returning(_columns.token_digest)
    .execution_options(summary="DELETE challenges")
)
_delete_of_user = (
    delete(challenges)
    .where(_columns.user_id == bindparam("owner_id"))
    .execution_options(summary="DELETE challenges")
)


class ChallengeRepository(Repository):
    """Issues challenges, and counts their answers, over one connection."""

    async def issue(self, new: NewChallenge) -> datetime:
        """Store a challenge, and return when it expires. A constraint raises `UserNotFound`."""
        values = {name: getattr(new, name) for name in NewChallenge.__dataclass_fields__}
        return (await self._connection.execute(_issue, values)).scalar_one()

    async def count_answer(
        self,
        token_digest: bytes,
        purposes: Sequence[ChallengePurpose],
        *,
        session_id: UUID | None = None,
    ) -> AnsweredChallenge | None:
        """Count an answer before it is checked, so that answers at the same time count too.

        Return the challenge, or None if there is none with one of the purposes and that session,
        or if it has expired. It stays, also if the answer is right: `use` deletes it.
        """
        values = {"digest": token_digest, "purposes": [*purposes], "of_session": session_id}
        row = (await self._connection.execute(_count_answer, values)).one_or_none()
        return AnsweredChallenge._make(row) if row else None

    async def uncount_answer(self, token_digest: bytes) -> None:
        """Take back the count of an answer that was not checked."""
        await self._connection.execute(_uncount_answer, {"digest": token_digest})

    async def use(self, token_digest: bytes) -> None:
        """Delete a challenge that was answered, or raise `InvalidProof`.

        One of several calls at the same time succeeds. The transaction has locked the user.
        """
        failure = InvalidProof(ProofCause.CHANGED_MEANWHILE)
        await self._one(_use, {"digest": token_digest}, failure)

    async def delete_of_user(self, user_id: UUID) -> None:
        """Delete the challenges of a user, because what they rest on has changed."""
        await self._connection.execute(_delete_of_user, {"owner_id": user_id})
