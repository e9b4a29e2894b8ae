"""What `tamatar-auth serve` does: it prepares what `--dev` asks for, and answers calls."""

import os
import signal
import sys
import threading
import time

import structlog
import uvloop

from tamatar_auth import __version__
from tamatar_auth.logs import configure_logs
from tamatar_auth.maintenance.jobs import Report, seed
from tamatar_auth.maintenance.migrating import Migrations
from tamatar_auth.origins import Origins
from tamatar_auth.server import Service
from tamatar_auth.server import serve as run_server
from tamatar_auth.settings import OperatorError, Settings
from tamatar_auth.storage.database import libpq_url
from tamatar_auth.telemetry import configure_telemetry

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
    for variable, place in Origins(Settings).unknown():
        log.warning("setting is not known", variable=variable, place=place)

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


def stop_with_parent(parent: int) -> None:
    """Ask this process to stop when its parent is gone, even when that was killed.

    Raises `OperatorError` where the parent was gone before this process looked.
    """
    if os.getppid() != parent:
        raise OperatorError(f"Process {parent} is gone, which this one belongs to.")

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="stop with parent", daemon=True).start()
