"""${message}.

The code before this revision and the code after it both run while it is applied. So
- what waits for a lock on a table that exists is a step of `migration_steps.steps()`: it
  gives up after 1.2 s, so that nobody behind it waits longer, and tries again;
- an index on such a table is built by `step.unhurried("CREATE INDEX CONCURRENTLY IF NOT EXISTS
  ...")`: it blocks nobody, and has to wait for old transactions; and after DROP INDEX
  CONCURRENTLY IF EXISTS, since one that was interrupted leaves an invalid index behind;
- a column comes nullable or with a constant default; NOT NULL and CHECK constraints come NOT
  VALID and are validated in a later step;
- many rows are changed in batches that commit;
- what the code before still reads is dropped in the release after.
Replace this text by what the revision does.
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
