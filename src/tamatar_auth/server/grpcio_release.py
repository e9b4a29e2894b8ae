"""The minor release of grpcio whose internals the server uses."""

import grpc
import structlog

TRIED = "1.85"
"""Tried with the whole suite. The extra `server` in pyproject.toml pins the same release."""

log = structlog.get_logger(__name__)


def is_tried() -> bool:
    """Return whether the installed grpcio is the release that the server was tried with."""
    return grpc.__version__.startswith(f"{TRIED}.")


def warn_if_untried() -> None:
    """Log a warning if the server runs without its own accept loop."""
    if not is_tried():
        log.warning("grpcio was not tried", installed=grpc.__version__, tried=TRIED)
