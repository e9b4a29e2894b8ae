"""Add primary_heartbeat: the time of the last commit that standbys have acknowledged.

Releases before this revision ignore the table.
"""

from tamatar_auth.migrator.steps import steps

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE IF NOT EXISTS primary_heartbeat (
    id boolean DEFAULT true NOT NULL,
    sent_at timestamptz DEFAULT '-infinity' NOT NULL,
    acknowledged_at timestamptz DEFAULT '-infinity' NOT NULL,
    CONSTRAINT pk_primary_heartbeat PRIMARY KEY (id),
    CONSTRAINT ck_primary_heartbeat_one_row CHECK (id)
)
"""

INDEX = """
CREATE INDEX IF NOT EXISTS idx_primary_heartbeat_acknowledged
    ON primary_heartbeat (acknowledged_at)
"""

ROW = "INSERT INTO primary_heartbeat DEFAULT VALUES ON CONFLICT DO NOTHING"


def upgrade() -> None:
    with steps() as step:
        step.together(TABLE, INDEX, ROW)


def downgrade() -> None:
    with steps() as step:
        step.together("DROP TABLE IF EXISTS primary_heartbeat")
