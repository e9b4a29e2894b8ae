"""A secret in any output of a test fails the whole run."""

import sys

import pytest

from tests.support.calls import NEW_PASSWORD, PASSWORD
from tests.support.canaries import PAGE_TOKEN_KEY, PASSWORD_KEY
from tests.support.commands import ROOT, run

pytestmark = pytest.mark.timeout(300)

MINUTES = 240
"""Seconds for a whole run of tests on a busy machine."""


def planted(*arguments, code):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/support/planted_leaks.py",
    ]
    return run(*command, *arguments, cwd=ROOT, code=code, patience=MINUTES).stdout


@pytest.mark.parametrize("workers", ["0", "2"])
def test_every_leak_of_a_secret_is_found(workers):
    said = planted("-n", workers, code=1)

    assert "8 passed" in said
    for secret, place in (
        ("known to one test", "the message of a status"),
        (NEW_PASSWORD, "the trailing metadata of a call"),
        (PASSWORD, "the trailing metadata of a call"),
        ("", "a log line (tests/support/planted_leaks.py::test_leak_in_log_line (call))"),
        (PAGE_TOKEN_KEY, "the log of the service"),
        ("$2b$12$", "spans and metrics"),
        (PASSWORD_KEY, "the output of a server"),
    ):
        assert f"{secret}' in {place}" in said


def test_run_without_leaks_succeeds():
    assert "1 passed" in planted("-k", "no_leak", code=0)
