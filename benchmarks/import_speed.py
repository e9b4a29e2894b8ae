"""Imports users beside a COPY of the same rows: `make importing`.

The command runs in a process of its own, with a server of one worker and a PostgreSQL with
default settings. COPY writes the same columns of the same rows in transactions of about the same
size, without checks and answers. Nothing is asserted.

    python -m benchmarks.import_speed [USERS]
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from uuid_utils.compat import uuid7

from benchmarks.machine import autogroup_warning
from benchmarks.processes import environment
from benchmarks.servers import Servers
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations

USERS = 100_000
BAD_EVERY = 1000
TRANSACTION_ROWS = 300
HASH = "$2b$12$6A3byn0SPNdbsDnUgJ4Vc.xKO5G9UwVQB9VhgGwgdw/zziH8oPAW."

_COPY_USERS = (
    "COPY users (id, email, username, first_name, last_name, password_hash, request_id,"
    " request_digest) FROM STDIN"
)
_COPY_PROFILES = "COPY user_profiles (user_id, display_name) FROM STDIN"


def main(count: int) -> None:
    """Measure and print rates and their ratios."""
    if advice := autogroup_warning():
        print(advice, file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = _write(folder / "users.jsonl", count)
        with EmbeddedPostgres(folder / "postgres") as postgres:
            Migrations(postgres.url()).upgrade()
            copied = _timed(lambda: _copy(postgres.url(), count))
            with Servers(folder).real(postgres.url()) as server:
                runs = [_timed(lambda: _import(folder, file, server.address)) for _ in range(2)]
    print(f"{count:,} users, one row in {BAD_EVERY:,} bad\n")
    print(f"{'':<24}{'users/s':>10}{'of COPY':>10}")
    for label, seconds in zip(("COPY", "import", "the same again"), (copied, *runs), strict=True):
        print(f"{label:<24}{count / seconds:>10,.0f}{copied / seconds:>10.2f}")


def _timed(measured: Callable[[], None]) -> float:
    started = time.perf_counter()
    measured()
    return time.perf_counter() - started


def _people(count: int, prefix: str) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {
            "email": f"{prefix}{number}@example.com",
            "username": f"{prefix}{number}",
            "first_name": "Ada",
            "last_name": "Lovelace",
            "password_hash": HASH,
            "profile": {"display_name": "Ada"},
        }


def _write(path: Path, count: int) -> Path:
    with path.open("w") as file:
        for number, person in enumerate(_people(count, "imported")):
            bad = {"email": "nowhere"} if number % BAD_EVERY == 0 else {}
            file.write(json.dumps(person | bad) + "\n")
    return path


def _import(folder: Path, file: Path, address: str) -> None:
    contexts = folder / "contexts.toml"
    contexts.write_text(f'current = "here"\n[contexts.here]\naddress = "{address}"\n')
    command = [sys.executable, "-m", "tamatar_auth", "import", str(file)]
    process = subprocess.run(
        command, env=environment({"TAMATAR_CONTEXTS_FILE": str(contexts)}), check=False
    )
    if process.returncode != 1:
        sys.exit("The import should have rejected the bad rows only.")


def _copy(url: str, count: int) -> None:
    people = list(_people(count, "copied"))
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for start in range(0, count, TRANSACTION_ROWS):
            rows = [(uuid7(), person) for person in people[start : start + TRANSACTION_ROWS]]
            with cursor.copy(_COPY_USERS) as copy:
                for key, person in rows:
                    values = [
                        person[name] for name in ("email", "username", "first_name", "last_name")
                    ]
                    copy.write_row((key, *values, HASH, uuid4(), key.bytes * 2))
            with cursor.copy(_COPY_PROFILES) as copy:
                for key, person in rows:
                    copy.write_row((key, person["profile"]["display_name"]))
            connection.commit()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else USERS)
