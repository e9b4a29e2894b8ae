"""Runs a server in this process, with logs, telemetry and an event loop."""

import sys
from collections.abc import Callable, Sequence

import structlog
import uvloop
from grpc._cython import cygrpc

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.errors import OperatorError
from tamatar_auth.config.settings import Settings
from tamatar_auth.observability.logs import configure_logs, warn_of_unknown_settings
from tamatar_auth.observability.telemetry import configure_telemetry
from tamatar_auth.observability.unhandled_errors import UnhandledErrors
from tamatar_auth.server.app import serve as run_server
from tamatar_auth.server.grpcio_release import warn_if_untried
from tamatar_auth.server.lifecycle import RunningService
from tamatar_auth.server.shutdown import ReportedCrashError

ReadyCallback = Callable[[Sequence[ListenAddress]], None]
"""Called with the addresses once the server answers calls."""

CLIENT_LEFT = (cygrpc.ExecuteBatchError, BlockingIOError)
"""Errors that grpcio raises if a client leaves during its call: a message cannot be sent or
received any more, or a wake-up has no event."""

log = structlog.get_logger(__name__)


def serve(
    settings: Settings, ready: ReadyCallback | None = None, *, worker: int | None = None
) -> None:
    """Answer calls until SIGTERM or SIGINT. A crash is logged and ends with exit code 1.

    `worker` is the number of this process among the workers of a supervisor.
    """
    configure_logs(settings, worker=worker)
    unhandled = UnhandledErrors(CLIENT_LEFT)
    unhandled.install()
    if worker is None:
        warn_of_unknown_settings()
    warn_if_untried()

    def notify_ready(service: RunningService) -> None:
        if ready is not None:
            ready(service.addresses)

    telemetry = configure_telemetry(settings, worker=worker)
    if telemetry.meter is not None:
        unhandled.register_metrics(telemetry.meter)
    is_worker = worker is not None
    try:
        uvloop.run(
            run_server(settings, telemetry, notify_ready, unhandled=unhandled, is_worker=is_worker)
        )
    except OperatorError:
        raise
    except ReportedCrashError:
        sys.exit(1)
    except Exception:
        log.critical("crashed", exc_info=True)
        sys.exit(1)
    finally:
        telemetry.shutdown()
