"""What the long commands do: serve, prepare, seed and sweep, each on an event loop of its own."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import structlog
import uvloop
from sqlalchemy.exc import SQLAlchemyError

from tamatar_auth import __version__
from tamatar_auth.health import problem
from tamatar_auth.logs import configure_logs
from tamatar_auth.maintenance import seeding, sweeping
from tamatar_auth.maintenance.migrating import Migrations
from tamatar_auth.maintenance.revisions import head_revision
from tamatar_auth.origins import Origins
from tamatar_auth.security.passwords import Passwords
from tamatar_auth.server import Service
from tamatar_auth.server import serve as run_server
from tamatar_auth.settings import OperatorError, Settings
from tamatar_auth.storage import faults
from tamatar_auth.storage.database import Database, create_engine, libpq_url
from tamatar_auth.telemetry import configure_telemetry

Report = Callable[[str], None]

log = structlog.get_logger(__name__)

_WELCOME = """
Tamatar Auth {version} answers calls on {address}. Ctrl-C ends it.

  grpcurl -plaintext {target} list
  grpcurl -plaintext -d '{{"email": "test1@example.com", "password": "TestPass123!"}}' \\
      {target} tamatar.auth.v1.SessionService/CreateSession
"""


def serve(settings: Settings, welcome: Report | None = None) -> None:
    """Answer calls until SIGTERM or SIGINT. A crash is logged and ends with exit code 1."""
    configure_logs(settings)
    for variable in Origins(Settings).unknown():
        log.warning("setting is not known", variable=variable)

    def ready(service: Service) -> None:
        if welcome is not None:
            first = service.addresses[0]
            target = f"-unix {first.path}" if first.path else str(first)
            welcome(_WELCOME.format(version=__version__, address=first, target=target))

    telemetry = configure_telemetry(settings)
    try:
        uvloop.run(run_server(settings, telemetry, ready))
    except OperatorError:
        raise
    except Exception:
        log.critical("crashed", exc_info=True)
        sys.exit(1)
    finally:
        telemetry.shutdown()


def prepare(settings: Settings, report: Report) -> None:
    """Bring a database of development to its tables and its sample users."""
    Migrations(libpq_url(settings), report=report).upgrade()
    seed(settings, report)


def seed(settings: Settings, report: Report) -> None:
    """Create the first users."""

    async def run() -> None:
        async with _opened(settings) as database:
            await seeding.seed(database, Passwords.of(settings), settings, report)

    _run(run())


def sweep(settings: Settings, report: Report, *, dry_run: bool) -> None:
    """Remove what is past its retention."""

    async def run() -> None:
        async with _opened(settings) as database:
            await sweeping.sweep(database, settings, dry_run=dry_run, report=report)

    _run(run())


def stop_with_parent() -> None:
    """Ask this process to stop when its parent is gone, even when that was killed."""
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="stop with parent", daemon=True).start()


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Database]:
    """Open a database that can be worked with, or raise `OperatorError`."""
    database = Database(create_engine(settings))
    try:
        if why := await problem(database, head_revision()):
            raise OperatorError(f"{why[:1].upper()}{why[1:]}. `tamatar-auth doctor` tells more.")
        yield database
    except SQLAlchemyError as error:
        failure = faults.failure(error)
        if failure is None:
            raise
        raise OperatorError(failure.message) from None
    finally:
        await database.close()


def _run(work: Coroutine[Any, Any, None]) -> None:
    uvloop.run(work)
