"""Challenges: what asks users to prove a factor, and the count of their answers."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar.auth.v1.session_service_pb2 import Challenge
from tamatar_auth.errors.factors import FactorsNotConfigured, InvalidProof, ProofCause
from tamatar_auth.security.passkey_options import CredentialId
from tamatar_auth.security.passkeys import PasskeyVerifier
from tamatar_auth.security.tokens import ChallengeToken
from tamatar_auth.servicers.messages import FACTOR_KINDS, timestamp
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.repositories.challenges import ChallengePurpose, NewChallenge
from tamatar_auth.storage.repositories.factors import FactorKind as StoredKind
from tamatar_auth.storage.repositories.factors import FactorRow
from tamatar_auth.storage.repositories.sessions import SessionRow

PASSWORD = FactorKind.FACTOR_KIND_PASSWORD


async def issue_challenge(
    tx: Scope,
    passkeys: PasskeyVerifier,
    purpose: ChallengePurpose,
    user_id: UUID,
    *,
    session_id: UUID | None = None,
) -> Challenge:
    """Issue a challenge to a user, for a purpose that a password may precede.

    A step-up has a session, and a password answers it too.
    """
    token = ChallengeToken.issue()
    expires = await tx.challenges.issue(
        NewChallenge(
            token_digest=token.digest, purpose=purpose, user_id=user_id, session_id=session_id
        )
    )
    usable = [row for row in await tx.factors.list_of_user(user_id) if _is_usable(row)]
    options = _passkey_options(passkeys, token, usable)
    passwords = [PASSWORD] if session_id and await _has_password(tx, user_id) else []
    return Challenge(
        challenge_token=token.text,
        kinds=[*passwords, *_kinds(usable, has_passkeys=bool(options))],
        passkey_options_json=options,
        expire_time=timestamp(expires),
    )


async def count_answer(
    database: Database,
    token: ChallengeToken,
    purpose: ChallengePurpose,
    session: SessionRow | None = None,
) -> UUID:
    """Count an answer to the challenge of a user, and return the user's id.

    Raise `InvalidProof` if there is no such challenge, or if it had too many answers.
    """
    session_id, user_id = (session.id, session.user_id) if session else (None, None)
    async with database.statements() as db:
        found = await db.challenges.count_answer(token.digest, [purpose], session_id=session_id)
    if found is None or found.user_id is None:
        raise InvalidProof(ProofCause.NO_CHALLENGE, user_id)
    if found.is_void:
        raise InvalidProof(ProofCause.TOO_MANY_ANSWERS, found.user_id)
    return found.user_id


def as_option(credential_id: bytes, transports: str) -> CredentialId:
    """Return a stored passkey as options name it."""
    return CredentialId(credential_id, tuple(transports.split()))


async def _has_password(tx: Scope, user_id: UUID) -> bool:
    return (await tx.credentials.find_by_user_id(user_id)).password_hash is not None


def _is_usable(row: FactorRow) -> bool:
    if row.kind == StoredKind.RECOVERY_CODES:
        return row.remaining_codes > 0
    return row.confirmed_at is not None


def _kinds(usable: Sequence[FactorRow], *, has_passkeys: bool) -> Iterator["FactorKind.ValueType"]:
    found = {row.kind for row in usable}
    for stored, kind in FACTOR_KINDS.items():
        if stored in found and (has_passkeys or stored != StoredKind.PASSKEY):
            yield kind


def _passkey_options(
    passkeys: PasskeyVerifier, token: ChallengeToken, usable: Sequence[FactorRow]
) -> str:
    """Return the options for the passkeys of a user, or nothing if none can be used."""
    allowed = [
        as_option(row.credential_id, row.transports)
        for row in usable
        if row.credential_id is not None
    ]
    if not allowed:
        return ""
    try:
        party = passkeys.relying_party
    except FactorsNotConfigured:  # the settings were removed after users had passkeys
        return ""
    challenge = token.webauthn_challenge
    return party.assertion_options(challenge=challenge, allowed=allowed, must_verify_user=False)
