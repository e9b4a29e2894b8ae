"""The doctor's check of synchronous standbys."""

from datetime import timedelta

import pytest

from tamatar_auth.cli.local.database_checks import check_database
from tests.support.settings import changed
from tests.support.synchronous_postgres import synchronous_postgres


@pytest.fixture(scope="module")
def synchronous(tmp_path_factory):
    with synchronous_postgres(tmp_path_factory.mktemp("synchronous")) as url:
        yield url


def standbys(settings):
    """Return the level and the text of the finding about standbys."""
    (found,) = (each for each in check_database(settings) if each.subject == "standbys")
    return found.label, found.text


def test_server_without_standbys_detects_no_replacement(settings, migrated_database):
    level, text = standbys(settings.with_database(migrated_database))

    assert level == "ok"
    assert text == "commits wait for none, so a primary that was replaced is not detected"


def test_synchronous_server_is_well(settings, synchronous):
    level, text = standbys(settings.with_database(synchronous))

    assert (level, text) == (
        "ok",
        "commits wait for nobody; without one in 5s no session is validated",
    )


def test_synchronous_server_without_check_is_a_risk(settings, synchronous):
    mine = settings.with_database(synchronous)
    level, text = standbys(changed(mine, primary_acknowledged_within=timedelta(0)))

    assert level == "warn"
    assert "set TAMATAR_PRIMARY_ACKNOWLEDGED_WITHIN" in text


def test_commits_that_wait_for_no_standby_are_a_risk(settings, synchronous):
    url = f"{synchronous}?options=-csynchronous_commit%3Dlocal"
    level, text = standbys(settings.with_database(url))

    assert level == "warn"
    assert "set synchronous_commit to on" in text
