"""The folder of the migrations and their numbers, from the file names alone."""

import re
from pathlib import Path

# A wheel has them inside the package, a checkout at its top.
_CANDIDATE_FOLDERS = (
    Path(__file__).parents[1] / "migrations",
    Path(__file__).parents[3] / "migrations",
)


def migrations_folder() -> Path:
    """Return the folder with alembic's `env.py`."""
    return next(place for place in _CANDIDATE_FOLDERS if (place / "env.py").is_file())


def head_revision() -> str:
    """Return the newest revision, which this release of the code needs."""
    return revisions()[-1]


def next_revision() -> str:
    """Return the number for a new revision."""
    return f"{int(revisions()[-1]) + 1:04}"


def revisions() -> list[str]:
    """Return all revisions, oldest first."""
    files = (migrations_folder() / "versions").glob("*.py")
    return sorted(found[1] for file in files if (found := re.match(r"(\d{4})_", file.name)))
