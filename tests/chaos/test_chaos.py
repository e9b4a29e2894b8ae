"""A short run of the harness, and what it finds where protections are missing."""

import sys

import pytest

from tests.chaos.mutant_service import SABOTAGES
from tests.chaos.mutant_table import BITES
from tests.support.commands import ROOT, run

pytestmark = pytest.mark.timeout(300)

QUICK_BITES = ("forgets_commits", "validates_from_a_cache", "lets_exceptions_out")


def chaos(*arguments):
    """Run the harness with the settings of nobody; return how it ended."""
    command = (sys.executable, "-m", "tests.chaos", *arguments)
    return run(*command, cwd=ROOT, code=None, patience=280)


def test_what_is_promised_holds_while_things_break():
    ended = chaos("--seeds", "2", "--seconds", "8")

    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_protection_that_is_taken_out_is_missed():
    ended = chaos("--bite", *QUICK_BITES)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("\nfound") + ended.stdout.startswith("found") == len(QUICK_BITES)


def test_every_sabotage_is_looked_for():
    assert {bite.sabotage for bite in BITES} == set(SABOTAGES)
