"""A short run on a real cluster: Patroni, etcd and HAProxy."""

import sys

import pytest

from tests.cluster import isolation, processes
from tests.cluster.faults import FAULTS
from tests.cluster.report import COLUMNS
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


def test_page_describes_every_fault_and_column():
    page = (ROOT / "docs/operate/chaos.md").read_text()

    assert [name for name in FAULTS if f"\n| `{name}` | " not in page] == []
    described = page.partition("| Column |")[2].partition("\n\n")[0]
    assert [column.title for column in COLUMNS if column.title.strip() not in described] == []
