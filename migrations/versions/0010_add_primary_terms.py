"""Add primary_terms, the mark by which a standby shows which primary it follows.

Releases before this revision ignore the table.
"""

from tamatar_auth.migrator.steps import steps

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE IF NOT EXISTS primary_terms (
    id boolean DEFAULT true NOT NULL,
    timeline varchar(8) COLLATE "C" NOT NULL,
    term uuid DEFAULT gen_random_uuid() NOT NULL,
    CONSTRAINT pk_primary_terms PRIMARY KEY (id),
    CONSTRAINT ck_primary_terms_one_row CHECK (id)
)
"""


def upgrade() -> None:
    with steps() as step:
        step.together(TABLE)


def downgrade() -> None:
    with steps() as step:
        step.together("DROP TABLE IF EXISTS primary_terms")
