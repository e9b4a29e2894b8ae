"""Fixtures: a real database, and a real server that answers over a real channel."""

import os
import uuid
from datetime import timedelta
from urllib.parse import urlsplit

import grpc
import hypothesis
import pytest
from sqlalchemy import delete

from tamatar.auth.v1.diagnostics_service_pb2_grpc import DiagnosticsServiceStub
from tamatar.auth.v1.factor_service_pb2_grpc import FactorServiceStub
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.client import call_defaults
from tamatar_auth.config.settings import Settings
from tamatar_auth.server import database_monitor
from tamatar_auth.server.app import run_service
from tamatar_auth.servicers import password_check
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver import limits, pooler, primary_hosts
from tamatar_auth.storage.driver.orphaned_statements import OrphanedStatements
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.session_events import feed, listener
from tamatar_auth.storage.session_validation import validator
from tamatar_auth.storage.session_validation.batch_loader import BatchLoader
from tamatar_auth.storage.tables import metadata
from tests.support.calls import NEW_PASSWORD, PASSWORD
from tests.support.canaries import (
    FACTOR_KEYS,
    PAGE_TOKEN_KEY,
    PASSWORD_KEYS,
    SECRETS_OF_SETTINGS,
    SUITE,
    watch_channels,
    watch_logs,
)
from tests.support.databases import TEMPLATE, Postgres, TestServer, forget_environment

LIMITS = (
    "call_deadline",
    "statement_timeout",
    "lock_timeout",
)
"""The settings whose limits a machine that stalls for a second could exceed."""

CONNECTION_LIMITS = {
    name: getattr(limits, name)
    for name in ("POOL_WAIT", "CONNECT_TIMEOUT", "IDLE_IN_TRANSACTION_TIMEOUT")
}
"""The limits of connections that such a machine could exceed, with their real values."""

CONSTANTS = {
    (module, name): getattr(module, name)
    for module, name in (
        *((limits, name) for name in CONNECTION_LIMITS),
        (database_monitor, "CHECK_TIMEOUT"),
        (feed, "STALENESS_LIMIT"),
        (listener, "CHECK_TIMEOUT"),
        (primary_hosts, "PROBE_TIMEOUT"),
        (password_check, "CANCELLED_RESERVATION_TIMEOUT"),
        (password_check, "RESERVATION_WAIT"),
        (password_check, "SETTLE_TIMEOUT"),
        (pooler, "PROBE_TIMEOUT"),
        (validator, "READ_TIMEOUT"),
        (validator, "SLOT_TIMEOUT"),
    )
}
"""All constants of the server that such a machine could exceed, with their real values."""

CLIENT_DEADLINES = dict(call_defaults._DEFAULTS)
"""The deadlines of the client's calls, with their real values."""

LIMIT = timedelta(seconds=100)
"""The value of both in tests that are not about them."""

TOO_SLOW = hypothesis.HealthCheck.too_slow

SERVER = pytest.StashKey[TestServer]()
FOUND = pytest.StashKey[list[str]]()


def pytest_configure(config):
    hypothesis.settings.register_profile(
        "unhurried", hypothesis.settings(), deadline=None, suppress_health_check=[TOO_SLOW]
    )
    hypothesis.settings.load_profile("unhurried")
    forget_environment()
    config.stash[SERVER] = TestServer()
    config.stash[FOUND] = []
    SUITE.add_secrets(PASSWORD, NEW_PASSWORD, *SECRETS_OF_SETTINGS)
    watch_channels(SUITE)
    watch_logs(SUITE)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Pass the URL of the one server to a worker of pytest-xdist."""
    node.workerinput["postgres_url"] = node.config.stash[SERVER].url()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Collect the findings of a worker of pytest-xdist."""
    node.config.stash[FOUND] += getattr(node, "workeroutput", {}).get("canaries", [])


def pytest_sessionfinish(session):
    """Fail the whole run if a secret of any test was found in an output."""
    config = session.config
    found = config.stash[FOUND] + SUITE.found()
    if hasattr(config, "workeroutput"):
        config.workeroutput["canaries"] = found
        return
    logged = config.stash[SERVER].secrets_in_log((PASSWORD, NEW_PASSWORD, "tms_", "tmu_", "$2b$"))
    found += [f"{secret!r} in the log of PostgreSQL" for secret in logged]
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nFAILED: secrets were found:", *found, sep="\n  ")  # noqa: T201 - for people


def pytest_unconfigure(config):
    config.stash[SERVER].stop()


@pytest.fixture(scope="session")
def postgres(pytestconfig):
    """The server that all workers share; a test that stops a server starts its own."""
    shared = getattr(pytestconfig, "workerinput", {}).get("postgres_url")
    url = shared or pytestconfig.stash[SERVER].url()
    SUITE.add_secrets(urlsplit(url).password)
    return Postgres(url)


@pytest.fixture(scope="session")
def database_url(postgres):
    """This worker's database, with all tables."""
    name = f"worker_{os.getpid()}"
    yield postgres.create(name, TEMPLATE)
    postgres.drop(name)


@pytest.fixture
def empty_database(postgres):
    """The URL of a database without tables, for one test."""
    yield from _own_database(postgres)


@pytest.fixture
def migrated_database(postgres):
    """The URL of a database with all tables, for one test."""
    yield from _own_database(postgres, TEMPLATE)


@pytest.fixture(scope="session", autouse=True)
def _patient_limits():
    """Allow the database and the server to answer slowly."""
    seconds = round(LIMIT.total_seconds())
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), real in CONSTANTS.items():
            patch.setattr(module, name, LIMIT if isinstance(real, timedelta) else seconds)
        patch.setitem(BatchLoader.__init__.__kwdefaults__, "timeout", LIMIT)
        for path, real in CLIENT_DEADLINES.items():
            patch.setitem(call_defaults._DEFAULTS, path, real._replace(timeout=seconds))
        yield


@pytest.fixture(scope="session")
def settings(database_url):
    """Settings with time limits that no busy machine reaches."""
    return Settings.load(
        env_file=None,
        database_url=database_url,
        bcrypt_cost=4,
        hash_threads=2,
        hash_queue=250,  # only tests about refusals reach it
        page_token_key=PAGE_TOKEN_KEY,
        password_keys=PASSWORD_KEYS,
        factor_keys=FACTOR_KEYS,
        listen="127.0.0.1:0",
        drain_delay=0,
        sweep_interval=0,
        **dict.fromkeys(LIMITS, LIMIT),
    )


@pytest.fixture
def impatient(settings, monkeypatch):
    """Settings with the time limits of a real server, for tests about them."""
    for (module, name), real in CONSTANTS.items():
        monkeypatch.setattr(module, name, real)
    real = CONSTANTS[validator, "READ_TIMEOUT"]
    monkeypatch.setitem(BatchLoader.__init__.__kwdefaults__, "timeout", real)
    defaults = Settings()
    mine = settings.model_copy(update={"limits": defaults.limits, "database": defaults.database})
    return mine.with_database(settings.database.url.get_secret_value())


@pytest.fixture
async def database(settings):
    """The scopes over this worker's database, which is empty."""
    orphaned = OrphanedStatements()
    database = Database(create_engine(settings.database, orphaned), orphaned)
    async with database.transaction() as tx:
        for table in reversed(metadata.sorted_tables):
            await tx.connection.execute(delete(table))
    yield database
    await database.close()
    await orphaned.close()


@pytest.fixture
async def service(settings, database):
    """A server over this worker's database."""
    async with run_service(settings) as service:
        yield service


@pytest.fixture
async def channel(service):
    async with grpc.aio.insecure_channel(str(service.addresses[0])) as channel:
        yield channel


@pytest.fixture
def users(channel):
    return UserServiceStub(channel)


@pytest.fixture
def sessions(channel):
    return SessionServiceStub(channel)


@pytest.fixture
def factors(channel):
    return FactorServiceStub(channel)


@pytest.fixture
def diagnostics(channel):
    return DiagnosticsServiceStub(channel)


def _own_database(postgres, *template):
    name = f"own_{uuid.uuid4().hex}"
    yield postgres.create(name, *template)
    postgres.drop(name)
