"""Add user_tokens, password_attempts and the rotation of session tokens.

And idx_user_email and idx_user_username, the indexes of deleted users.
"""

from tamatar_auth.migrator.steps import steps

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

USER_TOKENS = """
CREATE TABLE IF NOT EXISTS user_tokens (
    user_id uuid NOT NULL
        CONSTRAINT fk_user_tokens_user_id_users REFERENCES users (id) ON DELETE CASCADE,
    purpose varchar(30) NOT NULL,
    token_digest bytea NOT NULL,
    email varchar(255) COLLATE "C" NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT pk_user_tokens PRIMARY KEY (user_id, purpose),
    CONSTRAINT ck_user_tokens_token_digest_is_sha256 CHECK (octet_length(token_digest) = 32)
)
"""

ATTEMPTS = """
CREATE TABLE IF NOT EXISTS password_attempts (
    account bytea NOT NULL CONSTRAINT pk_password_attempts PRIMARY KEY,
    user_id uuid
        CONSTRAINT fk_password_attempts_user_id_users REFERENCES users (id) ON DELETE CASCADE,
    failures integer NOT NULL,
    blocked_until timestamptz NOT NULL,
    last_tried_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT ck_password_attempts_account_is_sha256 CHECK (octet_length(account) = 32)
)
"""

INDEXES = (
    "CREATE UNIQUE INDEX IF NOT EXISTS uq_user_tokens_token_digest ON user_tokens (token_digest)",
    "CREATE INDEX IF NOT EXISTS idx_user_token_expires ON user_tokens (expires_at)",
    "CREATE INDEX IF NOT EXISTS idx_password_attempt_user ON password_attempts (user_id)",
    "CREATE INDEX IF NOT EXISTS idx_password_attempt_tried ON password_attempts (last_tried_at)",
)

ROTATION = """
ALTER TABLE sessions
    ADD COLUMN IF NOT EXISTS previous_digest bytea,
    ADD COLUMN IF NOT EXISTS rotation_nonce bytea,
    ADD COLUMN IF NOT EXISTS rotated_at timestamptz
"""

REPLACED_TOKENS = """
CREATE TABLE IF NOT EXISTS replaced_tokens (
    token_digest bytea NOT NULL CONSTRAINT pk_replaced_tokens PRIMARY KEY,
    session_id uuid NOT NULL
        CONSTRAINT fk_replaced_tokens_session_id_sessions
        REFERENCES sessions (id) ON DELETE CASCADE,
    replaced_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT ck_replaced_tokens_token_digest_is_sha256 CHECK (octet_length(token_digest) = 32)
)
"""

INDEX_OF_REPLACED = (
    "CREATE INDEX IF NOT EXISTS idx_replaced_token_session ON replaced_tokens (session_id)"
)

PREVIOUS_DIGEST = """
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS uq_sessions_previous_digest
    ON sessions (previous_digest) WHERE previous_digest IS NOT NULL
"""

# On tables in use. An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index behind.
CONCURRENT_INDEXES = (
    "DROP INDEX CONCURRENTLY IF EXISTS uq_sessions_previous_digest",
    PREVIOUS_DIGEST,
    "DROP INDEX CONCURRENTLY IF EXISTS idx_user_email",
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_email ON users (email)",
    "DROP INDEX CONCURRENTLY IF EXISTS idx_user_username",
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_username ON users (username)",
)


def upgrade() -> None:
    with steps() as step:
        step.together(USER_TOKENS, ATTEMPTS, *INDEXES)
        step.together(ROTATION, REPLACED_TOKENS, INDEX_OF_REPLACED)
        step.unhurried(*CONCURRENT_INDEXES)


def downgrade() -> None:
    with steps() as step:
        step.unhurried(
            "DROP INDEX CONCURRENTLY IF EXISTS idx_user_email",
            "DROP INDEX CONCURRENTLY IF EXISTS idx_user_username",
        )
        step.together(
            "DROP TABLE IF EXISTS replaced_tokens",
            "ALTER TABLE sessions DROP COLUMN IF EXISTS previous_digest,"
            " DROP COLUMN IF EXISTS rotation_nonce, DROP COLUMN IF EXISTS rotated_at",
        )
        step.together("DROP TABLE IF EXISTS password_attempts, user_tokens")
