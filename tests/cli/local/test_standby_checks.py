"""The doctor's check of the standbys that are read."""

import psycopg
import pytest
from pydantic import SecretStr

from tamatar_auth.cli.local.standby_checks import check_standby
from tests.chaos.replication import Pair, ask
from tests.chaos.standby_reads import paused
from tests.support.waiting import until


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with Pair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
def examine(pair, settings):
    """A function that returns the findings about a URL of standbys."""

    def examine(url):
        standby_url = None if url is None else SecretStr(url)
        database = settings.database.model_copy(update={"standby_url": standby_url})
        with psycopg.connect(pair.primary.url()) as primary:
            return [*check_standby(database, primary)]

    return examine


def test_standby_that_follows_is_well(pair, examine):
    (found,) = examine(pair.standby.url())

    assert found.label == "ok"
    assert "MiB behind" in found.text


def test_without_url_nothing_is_checked(examine):
    assert examine(None) == []


def test_standby_far_behind_is_a_warning(pair, examine):
    with paused(pair):
        ask(pair.primary, "CREATE TABLE filler AS SELECT generate_series(1, 500000)")
        (found,) = until(lambda: [one for one in examine(pair.standby.url()) if one.is_warning])
    ask(pair.primary, "DROP TABLE filler")

    assert "validations read the primary" in found.text


def test_primary_as_standby_is_a_fault(pair, examine):
    (found,) = examine(f"{pair.primary.url()}?target_session_attrs=any")

    assert not found.ok
    assert "is no standby" in found.text


def test_standby_of_another_cluster_is_a_fault(examine, database_url):
    (found,) = examine(f"{database_url}?target_session_attrs=any")

    assert not found.ok
    assert "another cluster" in found.text


def test_standby_with_one_snapshot_a_transaction_is_a_fault(pair, examine):
    options = "options=-cdefault_transaction_isolation%3Dserializable"
    (found,) = examine(f"{pair.standby.url()}?{options}")

    assert not found.ok
    assert "default_transaction_isolation" in found.text


def test_url_without_a_standby_is_a_fault(pair, examine):
    (found,) = examine(pair.primary.url())

    assert not found.ok
    assert "TAMATAR_STANDBY_DATABASE_URL" in found.text
