"""Look in the SQL of every migration for what would hold up live traffic.

python tools/migrations.py        each revision by itself, as `.squawk.toml` says
"""

import contextlib
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.migrator.revisions import revisions

ROOT = Path(__file__).resolve().parent.parent
SQUAWK = Path(sys.executable).parent / "squawk"


def main() -> int:
    """Write down what each revision does, let it be looked at, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        files = [
            write(Path(folder), before, revision)
            for before, revision in pairwise(["base", *revisions()])
        ]
        return subprocess.run([SQUAWK, *files], cwd=ROOT, check=False).returncode


def write(folder: Path, before: str, revision: str) -> Path:
    """Write the SQL that leads from one revision to the next."""
    file = folder / f"{revision}.sql"
    with file.open("w") as output, contextlib.redirect_stdout(output):
        Migrations("postgresql://").sql(f"{before}:{revision}")
    return file


if __name__ == "__main__":
    sys.exit(main())
