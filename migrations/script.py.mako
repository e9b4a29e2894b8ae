"""${message}.

The code before this revision and the code after it both run while it is applied. Therefore:
- Put a statement that locks an existing table into a step of `migrator.steps.steps()`. The step
  gives up after 1.2 s and tries again, so statements behind it do not wait longer.
- Build an index on such a table with `step.unhurried("CREATE INDEX CONCURRENTLY IF NOT EXISTS
  ...")`, which blocks nothing but waits for old transactions. Run DROP INDEX CONCURRENTLY IF
  EXISTS first: an interrupted build leaves an invalid index behind.
- Add a column as nullable or with a constant default. Add NOT NULL and CHECK constraints as NOT
  VALID, and validate them in a later step.
- Change many rows in batches that commit.
- Drop what the code before still reads in the next release.
Replace this text by a description of the revision.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
