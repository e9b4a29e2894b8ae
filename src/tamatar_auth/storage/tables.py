"""The tables: the base of all statements, and the schema that alembic compares with.

Text that is searched or sorted has the collation "C", which compares bytes. So the order is
the same in every database, and a plain index serves prefix searches too.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Named, TypedColumns, false, func, text, true
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.schema import CheckConstraint, Column, ForeignKey, Index, Table
from sqlalchemy.types import DateTime, Integer, LargeBinary, String, Uuid

from tamatar_auth.storage.metadata import new_metadata

metadata = new_metadata()

VERSION_TABLE = "tamatar_auth_version"
"""The table that holds the revision of the tables."""

_MOMENT = DateTime(timezone=True)

ORDERS = {"created": "created_at", "updated": "updated_at", "email": "email"}
"""The orders of lists of users, as they occur in names of indexes, and their columns."""

LIVE, DELETED = text("deleted_at IS NULL"), text("deleted_at IS NOT NULL")


IN_INDEX_OF_DELETIONS = text("deleted_at > '-infinity'")
"""The condition of `idx_user_deleted`: that of lists would let them sort all deleted users."""


class UserColumns(TypedColumns):
    """Users, live and deleted."""

    id: Named[UUID] = Column(Uuid, primary_key=True)
    email: Named[str] = Column(String(255, collation="C"))
    username: Named[str | None] = Column(String(30, collation="C"))
    password_hash: Named[str | None] = Column(String(255))
    first_name: Named[str | None] = Column(String(100))
    last_name: Named[str | None] = Column(String(100))
    # A trigger of revision 0002 sets it, so that older releases of this code need not.
    full_name: Named[str] = Column(String(201), server_default="")
    avatar_url: Named[str | None] = Column(String(2048))
    email_verified: Named[bool] = Column(server_default=false())
    is_active: Named[bool] = Column(server_default=true())
    version: Named[int] = Column(Integer, server_default=text("1"))
    created_at: Named[datetime] = Column(_MOMENT, server_default=func.now())
    updated_at: Named[datetime] = Column(_MOMENT, server_default=func.now(), onupdate=func.now())
    last_login_at: Named[datetime | None] = Column(_MOMENT)
    deleted_at: Named[datetime | None] = Column(_MOMENT)
    deleted_by: Named[str | None] = Column(String(255))
    request_id: Named[UUID | None] = Column(Uuid)
    request_digest: Named[bytes | None] = Column(LargeBinary)


users = Table(
    "users",
    metadata,
    UserColumns,
    CheckConstraint("deleted_at IS NULL OR NOT is_active", name="deleted_is_inactive"),
    CheckConstraint("email <> ''", name="email_not_empty"),
    CheckConstraint("username <> ''", name="username_not_empty"),
    Index("uq_users_email_live", "email", unique=True, postgresql_where=LIVE),
    Index("uq_users_username_live", "username", unique=True, postgresql_where=LIVE),
    Index("uq_users_request_id", "request_id", unique=True),
    # For lists of live users, by order; the order by address has uq_users_email_live too. The flags
    # go first, because a few unverified users, for example, may be far apart in an order.
    Index("idx_user_created", "created_at", "id", postgresql_where=LIVE),
    *(
        Index(name, *columns, "id", postgresql_where=LIVE)
        for name, columns in {
            "idx_user_status": ("email_verified", "is_active", "created_at"),
            "idx_user_active_updated": ("is_active", "email_verified", "updated_at"),
            "idx_user_flags_email": ("email_verified", "is_active", "email"),
        }.items()
    ),
    # Only deletions, and changes of deleted users, write these.
    *(
        Index(f"idx_user_deleted_{order}", column, "id", postgresql_where=DELETED)
        for order, column in ORDERS.items()
    ),
    Index("idx_user_deleted_username", "username", postgresql_where=DELETED),
    # Only for the sweep.
    Index("idx_user_deleted", "deleted_at", postgresql_where=IN_INDEX_OF_DELETIONS),
)


class UserProfileColumns(TypedColumns):
    """Profiles: one row for each user."""

    user_id: Named[UUID] = Column(
        Uuid, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    display_name: Named[str | None] = Column(String(100))
    bio: Named[str | None] = Column(String(2000))
    locale: Named[str | None] = Column(String(35))
    time_zone: Named[str | None] = Column(String(64))
    created_at: Named[datetime] = Column(_MOMENT, server_default=func.now())
    updated_at: Named[datetime] = Column(_MOMENT, server_default=func.now(), onupdate=func.now())


user_profiles = Table("user_profiles", metadata, UserProfileColumns)


class SessionColumns(TypedColumns):
    """Sessions in partitions by day of expiry. The table stores a token's SHA-256, never the token.

    A trigger of `users` deletes them. A foreign key would lock `users` for each new partition.
    """

    id: Named[UUID] = Column(Uuid, primary_key=True)
    user_id: Named[UUID] = Column(Uuid)
    token_digest: Named[bytes] = Column(LargeBinary)
    is_valid: Named[bool] = Column(server_default=true())
    created_at: Named[datetime] = Column(_MOMENT, server_default=func.now())
    expires_at: Named[datetime] = Column(_MOMENT, primary_key=True)
    last_activity_at: Named[datetime] = Column(_MOMENT, server_default=func.now())
    revoked_at: Named[datetime | None] = Column(_MOMENT)
    # The previous token, which works for a short time, and the nonce that derives the present one.
    previous_digest: Named[bytes | None] = Column(LargeBinary)
    rotation_nonce: Named[bytes | None] = Column(LargeBinary)
    rotated_at: Named[datetime | None] = Column(_MOMENT)
    user_agent: Named[str | None] = Column(String(512))
    ip_address: Named[str | None] = Column(INET)
    # Set by a step-up. Before one, the user was authenticated when the session was created.
    authenticated_at: Named[datetime | None] = Column(_MOMENT)
    # Words of RFC 8176, separated by spaces. `mfa` among them means AAL2.
    authentication_methods: Named[str] = Column(String(50), server_default="pwd")


sessions = Table(
    "sessions",
    metadata,
    SessionColumns,
    CheckConstraint("octet_length(token_digest) = 32", name="token_digest_is_sha256"),
    CheckConstraint("is_valid = (revoked_at IS NULL)", name="revoked_is_invalid"),
    CheckConstraint("expires_at > created_at", name="expires_after_creation"),
    Index("uq_sessions_token_digest", "token_digest", "expires_at", unique=True),
    Index(
        *("uq_sessions_previous_digest", "previous_digest", "expires_at"),
        unique=True,
        postgresql_where=text("previous_digest IS NOT NULL"),
    ),
    Index("idx_session_user_valid", "user_id", "is_valid", "expires_at"),
    # For lists with ended sessions, whose number has no limit.
    Index("idx_session_user_created", "user_id", "created_at", "id"),
    Index("idx_session_expires", "expires_at", postgresql_using="brin"),
    # Only for the sweep of idle sessions. BRIN, so that a use of a session writes no index.
    Index("idx_session_activity", "last_activity_at", postgresql_using="brin"),
    # Only for the sweep, and only of revoked sessions, so that validation never writes it.
    Index("idx_session_revoked", "revoked_at", postgresql_where=text("revoked_at IS NOT NULL")),
    postgresql_partition_by="RANGE (expires_at)",
)


class ReplacedTokenColumns(TypedColumns):
    """The replaced tokens of sessions, in the same partitions. Validation never reads them."""

    token_digest: Named[bytes] = Column(LargeBinary, primary_key=True)
    session_id: Named[UUID] = Column(Uuid)
    # That of the session. Releases before revision 0011 do not set it.
    expires_at: Named[datetime] = Column(_MOMENT, primary_key=True, server_default="-infinity")


replaced_tokens = Table(
    "replaced_tokens",
    metadata,
    ReplacedTokenColumns,
    CheckConstraint("octet_length(token_digest) = 32", name="token_digest_is_sha256"),
    postgresql_partition_by="RANGE (expires_at)",
)


class UserTokenColumns(TypedColumns):
    """Unused one-time tokens: at most one for each user and purpose.

    The table stores a token's SHA-256, never the token. The use of a token deletes its row.
    """

    user_id: Named[UUID] = Column(
        Uuid, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    purpose: Named[str] = Column(String(30), primary_key=True)
    token_digest: Named[bytes] = Column(LargeBinary)
    # The user's address at that time. The token is void if the user has another one.
    email: Named[str] = Column(String(255, collation="C"))
    # The address that an `email_change` sets. Tokens of other purposes have none.
    new_email: Named[str | None] = Column(String(255, collation="C"))
    created_at: Named[datetime] = Column(_MOMENT, server_default=func.now())
    expires_at: Named[datetime] = Column(_MOMENT)


user_tokens = Table(
    "user_tokens",
    metadata,
    UserTokenColumns,
    CheckConstraint("octet_length(token_digest) = 32", name="token_digest_is_sha256"),
    CheckConstraint(
        "(new_email IS NOT NULL) = (purpose = 'email_change')", name="new_email_of_change"
    ),
    Index("uq_user_tokens_token_digest", "token_digest", unique=True),
    Index("idx_user_token_expires", "expires_at"),
)


class PasswordAttemptColumns(TypedColumns):
    """Wrong passwords since the last right one, and the checks in progress.

    `account` is a digest of a user's id, or of an address, username or id as it was typed. Only
    the former has the `user_id`.
    """

    account: Named[bytes] = Column(LargeBinary, primary_key=True)
    user_id: Named[UUID | None] = Column(Uuid, ForeignKey("users.id", ondelete="CASCADE"))
    failures: Named[int] = Column(Integer)
    blocked_until: Named[datetime] = Column(_MOMENT)
    last_tried_at: Named[datetime] = Column(_MOMENT, server_default=func.now())
    pending: Named[int] = Column(Integer, server_default=text("0"))
    # Checks that never end, because their process was killed, no longer count from then on.
    pending_until: Named[datetime] = Column(_MOMENT, server_default=func.now())


password_attempts = Table(
    "password_attempts",
    metadata,
    PasswordAttemptColumns,
    CheckConstraint("octet_length(account) = 32", name="account_is_sha256"),
    Index("idx_password_attempt_user", "user_id"),
    Index("idx_password_attempt_tried", "last_tried_at"),
)


class PrimaryTermColumns(TypedColumns):
    """One row: the timeline of the last primary that served, and a mark of its own."""

    id: Named[bool] = Column(primary_key=True, server_default=true())
    timeline: Named[str] = Column(String(8, collation="C"))
    term: Named[UUID] = Column(Uuid, server_default=func.gen_random_uuid())


primary_terms = Table(
    "primary_terms",
    metadata,
    PrimaryTermColumns,
    CheckConstraint("id", name="one_row"),
)
