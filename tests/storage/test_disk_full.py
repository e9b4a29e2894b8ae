"""A full disk: callers get UNAVAILABLE, no row is half written, and service recovers."""

import contextlib
import shutil
import subprocess
import sys

import psycopg
import pytest
from grpc import StatusCode
from psycopg.errors import DiskFull
from sqlalchemy import func, select, text

from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.server.app import run_service
from tamatar_auth.storage import tables
from tests.server.test_app import channel_to
from tests.support.calls import ada, refused

# A disk of 1 MB that only the server sees and that goes away with it.
SMALL_DISK = 'mount -t tmpfs -o size=1m small "$0" && exec "$@"'

SERVER = """
import sys
from pathlib import Path
from tamatar_auth.embedded.postgres import EmbeddedPostgres

with EmbeddedPostgres(Path(sys.argv[1]), settings={"fsync": "off"}) as postgres:
    print(postgres.url(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def crowded(tmp_path):
    """The URL of a database whose profiles are on a disk that is almost full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    alone = ("unshare", "-Urm", "sh", "-c", SMALL_DISK, disk)
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    server = (sys.executable, "-c", SERVER, tmp_path / "postgres")
    with subprocess.Popen(
        [*alone, *server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        url = process.stdout.readline().strip()
        Migrations(url).upgrade()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
            connection.execute("ALTER TABLE user_profiles SET TABLESPACE small")
            connection.execute("CREATE TABLE ballast (text char(1900)) TABLESPACE small")
            with contextlib.suppress(DiskFull):
                for _ in range(10_000):
                    connection.execute("INSERT INTO ballast VALUES ('')")
        yield url
        process.stdin.close()


async def test_create_user_on_full_disk_is_unavailable_and_atomic(settings, crowded):
    async with (
        run_service(settings.with_database(crowded)) as service,
        channel_to(service) as channel,
    ):
        users = UserServiceStub(channel)

        async def create(number):
            await users.CreateUser(ada(email=f"{number}@example.com", password=""))

        async def create_until_refused():
            for number in range(1000):
                await create(number)
                created.append(number)

        created = []
        said = await refused(create_until_refused())
        assert (said.code, said.reason) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert said.retry_seconds

        async with service.database.transaction() as tx:
            for table in (tables.users, tables.user_profiles):
                counted = await tx.connection.execute(select(func.count()).select_from(table))
                assert counted.scalar_one() == len(created)
            await tx.connection.execute(text("DROP TABLE ballast"))
        await create("room")
