"""Check the SQL of every migration for statements that would block live traffic.

python tools/migrations.py        check each revision, with the rules of `.squawk.toml`
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
    """Write the SQL of each revision to a file, run squawk on them, and return its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        files = [
            write(Path(folder), before, revision)
            for before, revision in pairwise(["base", *revisions()])
        ]
        return subprocess.run([SQUAWK, *files], cwd=ROOT, check=False).returncode


def write(folder: Path, before: str, revision: str) -> Path:
    """Write the SQL between two revisions to a file."""
    file = folder / f"{revision}.sql"
    with file.open("w") as output, contextlib.redirect_stdout(output):
        Migrations("postgresql://").sql(f"{before}:{revision}")
    return file


if __name__ == "__main__":
    sys.exit(main())
