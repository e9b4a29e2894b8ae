"""The check of proofs of second factors. Refusals do not reveal their cause.

An answer to a challenge is counted before it is checked, so answers at the same time are no more
than answers one after the other. A right proof is used later, in the transaction that rests on it.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from tamatar_auth.errors import Failure
from tamatar_auth.errors.factors import InvalidProof, ProofCause
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event
from tamatar_auth.security.factor_keys import FactorKeys
from tamatar_auth.security.passkeys import (
    Assertion,
    PasskeyVerifier,
    StoredPasskey,
    WrongCredential,
    credential_id_of,
)
from tamatar_auth.security.stand_in_passkey import STAND_IN
from tamatar_auth.security.tokens import ChallengeToken
from tamatar_auth.servicers.code_check import Checked, CodeCheck, FactorProof
from tamatar_auth.servicers.proof_attempts import (
    ProofAttempts,
    keys_of_user,
    keys_without_user,
    settle,
)
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.repositories.challenges import AnsweredChallenge, ChallengePurpose
from tamatar_auth.storage.repositories.factors import FactorKind
from tamatar_auth.storage.repositories.login_attempts import AttemptKeys
from tamatar_auth.storage.repositories.proofs import StoredFactor

PASSKEY_PURPOSES = (ChallengePurpose.PASSKEY_SIGN_IN, ChallengePurpose.NAMED_PASSKEY_SIGN_IN)
"""The purposes of challenges without a password: a passkey alone answers them."""

NO_USER = UUID(int=0)
"""The id of no user. A lookup of it takes as long as that of a user's."""

NO_DIGEST = bytes(32)
"""The digest of no token, for the same statement if there is no answer to take back."""

Result = TypeVar("Result")


class Answer(NamedTuple):
    """An answer to a challenge."""

    token: ChallengeToken
    kind: str
    """The name of the field with the proof: `totp_code`, `recovery_code` or another."""
    value: str
    session_id: UUID | None = None
    """The session that a step-up is for."""

    def __repr__(self) -> str:
        return "Answer()"


@dataclass(frozen=True, slots=True, repr=False)
class Proven:
    """A challenge with a right answer, which is not used yet."""

    token: ChallengeToken
    purpose: str
    user_id: UUID
    proof: FactorProof

    async def use(self, tx: Scope) -> None:
        """Use the challenge and the proof, or raise `InvalidProof` if another call has used one.

        The transaction has locked the user.
        """
        await tx.challenges.use(self.token.digest)
        await self.proof.use(tx)

    def record(self) -> None:
        """Record the use of a recovery code, after its transaction has committed."""
        factor = self.proof.factor
        if factor.kind == FactorKind.RECOVERY_CODES:
            factor_id = str(factor.id)
            audit.record(Event.RECOVERY_CODE_USED, user_id=self.user_id, factor_id=factor_id)


class ProofCheck:
    """Checks codes and passkeys."""

    def __init__(self, database: Database, keys: FactorKeys, passkeys: PasskeyVerifier) -> None:
        self._database = database
        self._codes = CodeCheck(keys)
        self._passkeys = passkeys
        self._attempts = ProofAttempts(database)
        self._running: set[asyncio.Task[Any]] = set()

    async def proven(self, answer: Answer, purposes: Sequence[ChallengePurpose]) -> Proven:
        """Return the challenge that an answer proves.

        Raise `InvalidProof`, or `TooManyAttempts` or `ServerBusy` if the answer was not checked.
        """
        return await self._finished(self._proven(answer, purposes))

    async def proven_factor(self, factor_id: UUID, user_id: UUID, code: str) -> FactorProof:
        """Return the proof that a code is right for one app of a user, confirmed or not.

        The last code that was used is right, too. Raise as `proven` does.
        """
        return await self._finished(self._proven_factor(factor_id, user_id, code))

    async def _proven(self, answer: Answer, purposes: Sequence[ChallengePurpose]) -> Proven:
        async with self._database.statements() as db:
            challenge = await db.challenges.count_answer(
                answer.token.digest, purposes, session_id=answer.session_id
            )
        check = self._passkey if answer.kind == "passkey_credential_json" else self._code
        if challenge is None or challenge.is_void:
            await check(answer, None)
            user_id = challenge and challenge.user_id
            cause = ProofCause.TOO_MANY_ANSWERS if challenge else ProofCause.NO_CHALLENGE
            raise InvalidProof(cause, user_id)
        checked = await check(answer, challenge)
        if isinstance(checked, ProofCause):
            raise InvalidProof(checked, challenge.user_id)
        return Proven(answer.token, challenge.purpose, checked.factor.user_id, checked)

    async def _code(self, answer: Answer, challenge: AnsweredChallenge | None) -> Checked:
        user_id = None
        if challenge is not None and challenge.purpose not in PASSKEY_PURPOSES:
            user_id = challenge.user_id
        keys = keys_of_user(user_id) if user_id else keys_without_user(answer.token.digest)
        async with contextlib.AsyncExitStack() as stack:
            try:
                db, is_enabled = await stack.enter_async_context(self._attempts.reserved(keys))
            except Failure:  # the answer was not checked
                counted = answer.token.digest if challenge else NO_DIGEST
                async with self._database.statements() as db:
                    await db.challenges.uncount_answer(counted)
                raise
            stored = await db.proofs.of_user(user_id or NO_USER)
            is_app = answer.kind == "totp_code"
            check = self._codes.totp if is_app else self._codes.recovery_code
            return await _settled(db, keys, check(stored, answer.value), is_enabled=is_enabled)

    async def _proven_factor(self, factor_id: UUID, user_id: UUID, code: str) -> FactorProof:
        keys = keys_of_user(user_id)
        async with self._attempts.reserved(keys) as (db, is_enabled):
            checked = self._codes.totp(await db.proofs.of_factor(factor_id), code, again=True)
            outcome = await _settled(db, keys, checked, is_enabled=is_enabled)
        if isinstance(outcome, ProofCause):
            raise InvalidProof(outcome, user_id, factor_id)
        return outcome

    async def _passkey(self, answer: Answer, challenge: AnsweredChallenge | None) -> Checked:
        """Check a passkey. Nobody guesses a signature, so the challenge alone counts wrong ones."""
        credential_id = credential_id_of(answer.value) or b""
        async with self._database.read() as db:
            found = await db.proofs.of_credential(credential_id)
        stored = next((each for each in found if _may_answer(each, challenge)), None)
        try:
            assertion = self._passkeys.verify_assertion(
                answer.value,
                _passkey(stored) if stored else STAND_IN,
                challenge=answer.token.webauthn_challenge,
                must_verify_user=challenge is None or challenge.purpose in PASSKEY_PURPOSES,
            )
        except WrongCredential as wrong:
            return wrong.cause if stored else ProofCause.NO_FACTOR
        if stored is None:
            return ProofCause.NO_FACTOR
        use = partial(_use_passkey, stored, assertion)
        return FactorProof(stored, assertion.methods, use)

    async def _finished(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of work that continues if the call is cancelled.

        So a caller cannot check a code without that it counts.
        """
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # the call may be over, and nobody reads it


async def _settled(db: Scope, keys: AttemptKeys, checked: Checked, *, is_enabled: bool) -> Checked:
    """Settle an attempt, and return its outcome."""
    is_right = is_enabled and isinstance(checked, FactorProof)
    if await settle(db, keys, is_right=is_right):
        return checked
    is_wrong = isinstance(checked, ProofCause)
    return checked if is_wrong and is_enabled else ProofCause.TOO_MANY_ATTEMPTS


def _may_answer(factor: StoredFactor, challenge: AnsweredChallenge | None) -> bool:
    """Return whether a passkey belongs to the user of a challenge, or may name the user."""
    if challenge is None:
        return False
    is_any = challenge.purpose == ChallengePurpose.PASSKEY_SIGN_IN
    return factor.kind == FactorKind.PASSKEY and (is_any or factor.user_id == challenge.user_id)


def _passkey(factor: StoredFactor) -> StoredPasskey:
    return StoredPasskey(
        factor.user_id,
        factor.public_key or b"",
        factor.sign_count,
        is_backup_eligible=factor.is_backup_eligible,
    )


async def _use_passkey(factor: StoredFactor, assertion: Assertion, tx: Scope) -> None:
    is_backed_up = assertion.is_backed_up
    await tx.proofs.use_passkey(factor, assertion.sign_count, is_backed_up=is_backed_up)
