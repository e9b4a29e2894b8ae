"""The tables of second factors, and of the challenges that they answer."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Named, TypedColumns, false, func, text
from sqlalchemy.schema import CheckConstraint, Column, ForeignKey, Index, Table
from sqlalchemy.types import BigInteger, DateTime, Integer, LargeBinary, String, Uuid

from tamatar_auth.storage.tables import metadata

_MOMENT = DateTime(timezone=True)


class FactorColumns(TypedColumns):
    """Second factors of users: authenticator apps, passkeys, and sets of recovery codes."""

    id: Named[UUID] = Column(Uuid, primary_key=True)
    user_id: Named[UUID] = Column(Uuid, ForeignKey("users.id", ondelete="CASCADE"))
    kind: Named[str] = Column(String(20))
    label: Named[str] = Column(String(100), server_default="")
    created_at: Named[datetime] = Column(_MOMENT, server_default=func.now())
    # A factor of an app counts after its first right code.
    confirmed_at: Named[datetime | None] = Column(_MOMENT)
    last_used_at: Named[datetime | None] = Column(_MOMENT)
    # The key that encrypts the secret of an app, or that digests recovery codes.
    key_id: Named[str | None] = Column(String(32))
    encrypted_secret: Named[bytes | None] = Column(LargeBinary)
    # The step of the last code that was used: each code is good once.
    last_step: Named[int] = Column(BigInteger, server_default=text("0"))
    # Of a passkey.
    credential_id: Named[bytes | None] = Column(LargeBinary)
    public_key: Named[bytes | None] = Column(LargeBinary)
    sign_count: Named[int] = Column(BigInteger, server_default=text("0"))
    aaguid: Named[UUID | None] = Column(Uuid)
    is_backup_eligible: Named[bool] = Column(server_default=false())
    is_backed_up: Named[bool] = Column(server_default=false())
    transports: Named[str] = Column(String(200), server_default="")


factors = Table(
    "factors",
    metadata,
    FactorColumns,
    CheckConstraint("CAST(kind AS text) IN ('totp', 'recovery_codes', 'passkey')", name="kind"),
    CheckConstraint("(kind = 'totp') = (encrypted_secret IS NOT NULL)", name="totp_has_secret"),
    CheckConstraint(
        "(kind = 'passkey') = (credential_id IS NOT NULL)"
        " AND (credential_id IS NULL) = (public_key IS NULL)",
        name="passkey_has_key",
    ),
    CheckConstraint("(kind = 'passkey') = (key_id IS NULL)", name="secret_has_key_id"),
    CheckConstraint("kind = 'totp' OR confirmed_at IS NOT NULL", name="only_totp_is_unconfirmed"),
    Index("uq_factors_credential_id", "credential_id", unique=True),
    Index("idx_factor_user", "user_id", "id"),
    Index(
        *("uq_factors_recovery_codes", "user_id"),
        unique=True,
        postgresql_where=text("kind = 'recovery_codes'"),
    ),
    Index(
        *("uq_factors_unconfirmed", "user_id"),
        unique=True,
        postgresql_where=text("confirmed_at IS NULL"),
    ),
)


class RecoveryCodeColumns(TypedColumns):
    """Unused recovery codes: keyed digests, never the codes. The use of a code deletes its row."""

    factor_id: Named[UUID] = Column(
        Uuid, ForeignKey("factors.id", ondelete="CASCADE"), primary_key=True
    )
    code_digest: Named[bytes] = Column(LargeBinary, primary_key=True)


recovery_codes = Table(
    "recovery_codes",
    metadata,
    RecoveryCodeColumns,
    CheckConstraint("octet_length(code_digest) = 32", name="code_digest_is_sha256"),
)


class ChallengeColumns(TypedColumns):
    """Challenges that are not answered yet. The right answer deletes the row."""

    token_digest: Named[bytes] = Column(LargeBinary, primary_key=True)
    purpose: Named[str] = Column(String(32))
    # Unknown at a sign-in with a passkey and no address, or with an address that no user has.
    user_id: Named[UUID | None] = Column(Uuid, ForeignKey("users.id", ondelete="CASCADE"))
    # Of a step-up.
    session_id: Named[UUID | None] = Column(Uuid)
    attempts: Named[int] = Column(Integer, server_default=text("0"))
    created_at: Named[datetime] = Column(_MOMENT, server_default=func.now())
    expires_at: Named[datetime] = Column(_MOMENT)


challenges = Table(
    "challenges",
    metadata,
    ChallengeColumns,
    CheckConstraint("octet_length(token_digest) = 32", name="token_digest_is_sha256"),
    Index("idx_challenge_user", "user_id"),
    Index("idx_challenge_expires", "expires_at"),
)
