"""Create users, profiles and sessions."""

from alembic import op

from tamatar_auth.migrator.steps import steps

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

USERS = """
CREATE TABLE users (
    id uuid NOT NULL CONSTRAINT pk_users PRIMARY KEY,
    email varchar(255) COLLATE "C" NOT NULL,
    username varchar(30) COLLATE "C",
    password_hash varchar(255),
    first_name varchar(100),
    last_name varchar(100),
    avatar_url varchar(2048),
    email_verified boolean DEFAULT false NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    last_login_at timestamptz,
    deleted_at timestamptz,
    deleted_by varchar(255),
    request_id uuid,
    request_digest bytea,
    CONSTRAINT ck_users_deleted_is_inactive CHECK (deleted_at IS NULL OR NOT is_active),
    CONSTRAINT ck_users_email_not_empty CHECK (email <> ''),
    CONSTRAINT ck_users_username_not_empty CHECK (username <> '')
)
"""

PROFILES = """
CREATE TABLE user_profiles (
    user_id uuid NOT NULL CONSTRAINT pk_user_profiles PRIMARY KEY
        CONSTRAINT fk_user_profiles_user_id_users REFERENCES users (id) ON DELETE CASCADE,
    display_name varchar(100),
    bio varchar(2000),
    locale varchar(35),
    time_zone varchar(64),
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL
)
"""

SESSIONS = """
CREATE TABLE sessions (
    id uuid NOT NULL CONSTRAINT pk_sessions PRIMARY KEY,
    user_id uuid NOT NULL
        CONSTRAINT fk_sessions_user_id_users REFERENCES users (id) ON DELETE CASCADE,
    token_digest bytea NOT NULL,
    is_valid boolean DEFAULT true NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz NOT NULL,
    last_activity_at timestamptz DEFAULT now() NOT NULL,
    revoked_at timestamptz,
    user_agent varchar(512),
    ip_address inet,
    CONSTRAINT ck_sessions_token_digest_is_sha256 CHECK (octet_length(token_digest) = 32),
    CONSTRAINT ck_sessions_revoked_is_invalid CHECK (is_valid = (revoked_at IS NULL)),
    CONSTRAINT ck_sessions_expires_after_creation CHECK (expires_at > created_at)
)
"""

INDEXES = (
    "CREATE UNIQUE INDEX uq_users_email_live ON users (email) WHERE deleted_at IS NULL",
    "CREATE UNIQUE INDEX uq_users_username_live ON users (username) WHERE deleted_at IS NULL",
    "CREATE UNIQUE INDEX uq_users_request_id ON users (request_id)",
    "CREATE INDEX idx_user_status ON users (email_verified, is_active)",
    "CREATE INDEX idx_user_created ON users (created_at)",
    "CREATE INDEX idx_user_active_updated ON users (is_active, updated_at)",
    "CREATE UNIQUE INDEX uq_sessions_token_digest ON sessions (token_digest)",
    "CREATE INDEX idx_session_user_valid ON sessions (user_id, is_valid, expires_at)",
    "CREATE INDEX idx_session_expires ON sessions (expires_at)",
    "CREATE INDEX idx_session_activity ON sessions (last_activity_at)",
    "CREATE INDEX idx_session_revoked ON sessions (revoked_at) WHERE revoked_at IS NOT NULL",
)


def upgrade() -> None:
    for statement in (USERS, PROFILES, SESSIONS, *INDEXES):
        op.execute(statement)


def downgrade() -> None:
    with steps() as step:
        step.together("DROP TABLE IF EXISTS sessions, user_profiles, users")
