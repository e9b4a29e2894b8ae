"""Add factors, recovery_codes and challenges, and how the user of a session was authenticated.

The sessions of releases before this revision get the defaults: a password, when the session began.
"""

from tamatar_auth.migrator.steps import steps

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SESSIONS = """
ALTER TABLE sessions
    ADD COLUMN IF NOT EXISTS authenticated_at timestamptz,
    ADD COLUMN IF NOT EXISTS authentication_methods varchar(50) DEFAULT 'pwd' NOT NULL
"""

FACTORS = """
CREATE TABLE IF NOT EXISTS factors (
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    kind varchar(20) NOT NULL,
    label varchar(100) DEFAULT '' NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    confirmed_at timestamptz,
    last_used_at timestamptz,
    key_id varchar(32),
    encrypted_secret bytea,
    last_step bigint DEFAULT 0 NOT NULL,
    credential_id bytea,
    public_key bytea,
    sign_count bigint DEFAULT 0 NOT NULL,
    aaguid uuid,
    is_backup_eligible boolean DEFAULT false NOT NULL,
    is_backed_up boolean DEFAULT false NOT NULL,
    transports varchar(200) DEFAULT '' NOT NULL,
    CONSTRAINT pk_factors PRIMARY KEY (id),
    CONSTRAINT fk_factors_user_id_users FOREIGN KEY (user_id)
        REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT ck_factors_kind CHECK (CAST(kind AS text) IN ('totp', 'recovery_codes', 'passkey')),
    CONSTRAINT ck_factors_totp_has_secret CHECK (
        (kind = 'totp') = (encrypted_secret IS NOT NULL)
    ),
    CONSTRAINT ck_factors_passkey_has_key CHECK (
        (kind = 'passkey') = (credential_id IS NOT NULL)
        AND (credential_id IS NULL) = (public_key IS NULL)
    ),
    CONSTRAINT ck_factors_secret_has_key_id CHECK (
        (kind = 'passkey') = (key_id IS NULL)
    ),
    CONSTRAINT ck_factors_only_totp_is_unconfirmed CHECK (
        kind = 'totp' OR confirmed_at IS NOT NULL
    )
)
"""

FACTOR_INDEXES = (
    "CREATE UNIQUE INDEX IF NOT EXISTS uq_factors_credential_id ON factors (credential_id)",
    "CREATE INDEX IF NOT EXISTS idx_factor_user ON factors (user_id, id)",
    """
    CREATE UNIQUE INDEX IF NOT EXISTS uq_factors_recovery_codes ON factors (user_id)
        WHERE kind = 'recovery_codes'
    """,
    """
    CREATE UNIQUE INDEX IF NOT EXISTS uq_factors_unconfirmed ON factors (user_id)
        WHERE confirmed_at IS NULL
    """,
)

RECOVERY_CODES = """
CREATE TABLE IF NOT EXISTS recovery_codes (
    factor_id uuid NOT NULL,
    code_digest bytea NOT NULL,
    CONSTRAINT pk_recovery_codes PRIMARY KEY (factor_id, code_digest),
    CONSTRAINT fk_recovery_codes_factor_id_factors FOREIGN KEY (factor_id)
        REFERENCES factors (id) ON DELETE CASCADE,
    CONSTRAINT ck_recovery_codes_code_digest_is_sha256 CHECK (octet_length(code_digest) = 32)
)
"""

CHALLENGES = """
CREATE TABLE IF NOT EXISTS challenges (
    token_digest bytea NOT NULL,
    purpose varchar(32) NOT NULL,
    user_id uuid,
    session_id uuid,
    attempts integer DEFAULT 0 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT pk_challenges PRIMARY KEY (token_digest),
    CONSTRAINT fk_challenges_user_id_users FOREIGN KEY (user_id)
        REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT ck_challenges_token_digest_is_sha256 CHECK (octet_length(token_digest) = 32)
)
"""

CHALLENGE_INDEXES = (
    "CREATE INDEX IF NOT EXISTS idx_challenge_user ON challenges (user_id)",
    "CREATE INDEX IF NOT EXISTS idx_challenge_expires ON challenges (expires_at)",
)


def upgrade() -> None:
    with steps() as step:
        step.together(SESSIONS)
        step.together(FACTORS, *FACTOR_INDEXES)
        step.together(RECOVERY_CODES)
        step.together(CHALLENGES, *CHALLENGE_INDEXES)


def downgrade() -> None:
    with steps() as step:
        step.together(
            "DROP TABLE IF EXISTS challenges",
            "DROP TABLE IF EXISTS recovery_codes",
            "DROP TABLE IF EXISTS factors",
        )
        step.together(
            "ALTER TABLE sessions DROP COLUMN IF EXISTS authenticated_at,"
            " DROP COLUMN IF EXISTS authentication_methods"
        )
