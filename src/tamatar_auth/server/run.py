"""Runs a server in this process, with logs, telemetry and an event loop."""

import sys
from collections.abc import Callable, Sequence

import structlog
import uvloop

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.errors import OperatorError
from tamatar_auth.config.settings import Settings
from tamatar_auth.observability.logs import configure_logs, warn_of_unknown_settings
from tamatar_auth.observability.telemetry import configure_telemetry
from tamatar_auth.server.app import serve as run_server
from tamatar_auth.server.grpcio_release import warn_if_untried
from tamatar_auth.server.lifecycle import RunningService

ReadyCallback = Callable[[Sequence[ListenAddress]], None]
"""Called with the addresses once the server answers calls."""

log = structlog.get_logger(__name__)


def serve(
    settings: Settings, ready: ReadyCallback | None = None, *, worker: int | None = None
) -> None:
    """Answer calls until SIGTERM or SIGINT. A crash is logged and ends with exit code 1.

    `worker` is the number of this process among the workers of a supervisor.
    """
    configure_logs(settings, worker=worker)
    if worker is None:
        warn_of_unknown_settings()
    warn_if_untried()

    def notify_ready(service: RunningService) -> None:
        if ready is not None:
            ready(service.addresses)

    telemetry = configure_telemetry(settings, worker=worker)
    try:
        uvloop.run(run_server(settings, telemetry, notify_ready, is_worker=worker is not None))
    except OperatorError:
        raise
    except Exception:
        log.critical("crashed", exc_info=True)
        sys.exit(1)
    finally:
        telemetry.shutdown()
