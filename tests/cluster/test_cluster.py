"""A short run on a real cluster: Patroni, etcd and HAProxy."""

import sys

import pytest

from tests.cluster import isolation, processes
from tests.cluster.faults import FAULTS
from tests.support.commands import ROOT, missing_tool, run

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def _possible():
    """Skip where namespaces are not permitted; missing programs may fail the test."""
    if missing := processes.missing_programs():
        missing_tool(f"{', '.join(missing)} missing: .ci/run installs them")
    if why := isolation.refusal():
        pytest.skip(f"namespaces are not permitted here: {why}")


def test_promises_hold_while_machines_fail():
    command = (sys.executable, "-m", "tests.cluster", "--faults", "kill-postgres,link-down")
    ended = run(*command, "--seconds", "3", cwd=ROOT, code=None, patience=850)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert all(f"\n{fault} " in ended.stdout for fault in ("kill-postgres", "link-down"))


def test_every_fault_has_its_sentence():
    assert all(fault.inject.__doc__ for fault in FAULTS.values())
