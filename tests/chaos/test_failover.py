"""The primary is lost and its synchronous standby takes its place: no write is lost."""

import pytest

from tests.chaos import failover


@pytest.mark.timeout(120)
async def test_nothing_that_was_acknowledged_is_lost_in_failovers(tmp_path):
    report = await failover.run(tmp_path, seed=1, failovers=2, writes=150)

    print(report)
    assert report.wrong == []
    assert len(report.gaps) == 2
    assert set(report.refused) <= {"ABORTED"}  # conflicts; no call ends otherwise


@pytest.mark.timeout(120)
async def test_a_primary_that_falls_silent_is_left(tmp_path):
    report = await failover.run(tmp_path, seed=2, failovers=1, writes=30, silent=True)

    print(report)
    assert report.wrong == []
    assert len(report.gaps) == 1
