"""A short run of the harness, and its findings when protections are missing."""

import sys

import pytest

from tests.chaos.mutant_service import MUTANTS_BY_NAME
from tests.chaos.mutant_table import MUTANTS
from tests.support.commands import ROOT, run

pytestmark = pytest.mark.timeout(300)

QUICK_MUTANTS = ("forgets_commits", "validates_from_a_cache", "lets_exceptions_out")


def chaos(*arguments):
    """Run the harness in a clean environment; return the ended process."""
    command = (sys.executable, "-m", "tests.chaos", *arguments)
    return run(*command, cwd=ROOT, code=None, patience=280)


def test_promises_hold_while_faults_happen():
    ended = chaos("--seeds", "2", "--seconds", "8")

    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_missing_protection_is_found():
    ended = chaos("--mutants", *QUICK_MUTANTS)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("\nfound") + ended.stdout.startswith("found") == len(QUICK_MUTANTS)


def test_every_mutant_is_in_the_table():
    assert {mutant.name for mutant in MUTANTS} == set(MUTANTS_BY_NAME)
