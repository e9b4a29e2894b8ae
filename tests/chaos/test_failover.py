"""A failover from the primary to its synchronous standby loses no write."""

import pytest

from tests.chaos import failover


@pytest.mark.timeout(300)
async def test_failovers_lose_no_acknowledged_write(tmp_path):
    report = await failover.run(tmp_path, seed=1, failovers=2, writes=150)

    print(report)
    assert report.wrong == []
    assert len(report.gaps) == 2
    assert set(report.refused) <= {"ABORTED"}  # conflicts; no other refusal may happen


@pytest.mark.timeout(300)
async def test_silent_primary_is_left_for_standby(tmp_path):
    report = await failover.run(tmp_path, seed=2, failovers=1, writes=30, silent=True)

    print(report)
    assert report.wrong == []
    assert len(report.gaps) == 1
