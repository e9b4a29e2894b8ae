"""Runs the tests that must see a mutant, in a copy of the tree.

The working tree stays untouched. `PYTHONPATH` makes the tests, and the programs that they start,
import the copy instead of the installed project.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from tests.mutants.mutant import Mutant
from tests.support.databases import RUNNING_SERVER

ROOT = Path(__file__).parents[2]

TIMEOUT = 900.0
"""Seconds after which the tests of a mutant are ended. A test that hangs ends before that."""

_FAILED = re.compile(r"^FAILED:? (.+?)(?: - .*)?$", re.MULTILINE)


class Verdict(StrEnum):
    """What the tests said about a mutant."""

    SEEN = "seen"
    NOT_SEEN = "NOT SEEN"
    NOT_APPLICABLE = "DOES NOT APPLY"
    BROKEN = "TESTS DO NOT RUN"
    UNSOUND = "TEST FAILS ALWAYS"


class Outcome(NamedTuple):
    """The verdict about a mutant, and the test that saw it or what is wrong."""

    mutant: Mutant
    verdict: Verdict
    detail: str

    @property
    def seer(self) -> str:
        """The test that saw the mutant, with all of its parameters."""
        return self.detail.partition("[")[0]


class Copy:
    """A copy of the tree, for one mutant at a time."""

    def __init__(self, folder: Path, postgres_url: str) -> None:
        self._folder = folder
        path = os.pathsep.join(str(folder / name) for name in ("src", "generated"))
        self._environment = {**os.environ, "PYTHONPATH": path, RUNNING_SERVER: postgres_url}
        for name in _files():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)

    def judge(self, mutant: Mutant) -> Outcome:
        """Apply a mutant, run its tests until one fails, and undo it."""
        try:
            with self._applied(mutant):
                code, output = self._run_tests(mutant.tests, "-x")
        except (OSError, ValueError) as error:
            return Outcome(mutant, Verdict.NOT_APPLICABLE, str(error))
        failed = _FAILED.search(output)
        if code == 1 and failed:
            return Outcome(mutant, Verdict.SEEN, failed[1].removeprefix("tests/"))
        if code == 0:
            return Outcome(mutant, Verdict.NOT_SEEN, " ".join(mutant.tests))
        return Outcome(mutant, Verdict.BROKEN, output[-2000:])

    def failed_tests(self, tests: Sequence[str]) -> Collection[str]:
        """Run tests without a mutant, and return those that fail."""
        code, output = self._run_tests(tests, "-n", "2")
        failed = {found[1].removeprefix("tests/") for found in _FAILED.finditer(output)}
        return {test for test in tests if code and (not failed or _is_among(test, failed))}

    def _run_tests(self, tests: Sequence[str], *options: str) -> tuple[int, str]:
        """Return the exit status of pytest and its output."""
        command = (sys.executable, "-m", "pytest", "-q", "-rf", "--tb=no", *options)
        try:
            ended = subprocess.run(
                [*command, "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)],
                cwd=self._folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return -1, f"no end after {TIMEOUT:g} s"
        return ended.returncode, ended.stdout

    @contextmanager
    def _applied(self, mutant: Mutant) -> Iterator[None]:
        file = self._folder / "src/tamatar_auth" / mutant.file
        source = file.read_text()
        file.write_text(mutant.apply(source))
        _forget_compiled(file)
        try:
            yield
        finally:
            file.write_text(source)
            _forget_compiled(file)


def _is_among(test: str, node_ids: Collection[str]) -> bool:
    return any(node_id.partition("[")[0] == test for node_id in node_ids)


def _files() -> Sequence[str]:
    """Return the files of the working tree that git does not ignore, with uncommitted changes."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _forget_compiled(file: Path) -> None:
    # Python compares whole seconds and sizes only, which two mutants may have in common.
    Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
