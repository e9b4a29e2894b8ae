"""A worker: one of several processes that answer calls for a supervisor."""

import contextlib
import os
import sys
from collections.abc import Sequence

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.errors import OperatorError
from tamatar_auth.config.settings import Settings
from tamatar_auth.server.parent_watch import stop_with_parent
from tamatar_auth.server.run import serve
from tamatar_auth.workers.process import READY_MESSAGE


def work(number: int, supervisor: int, descriptor: int) -> None:
    """Answer calls until SIGTERM, or until the supervisor is gone.

    The supervisor reads from a pipe how the start went, the descriptor is its other end.
    """
    with os.fdopen(descriptor, "w") as pipe:

        def ready(_addresses: Sequence[ListenAddress]) -> None:
            # Where the supervisor is gone this process is about to learn it.
            with contextlib.suppress(BrokenPipeError):
                pipe.write(READY_MESSAGE)
                pipe.close()

        try:
            stop_with_parent(supervisor)
            serve(Settings.load(), ready, worker=number)
        except OperatorError as error:
            if pipe.closed:
                raise
            pipe.write(error.message())
            sys.exit(error.exit_code)
