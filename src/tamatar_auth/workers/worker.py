"""A worker process: answers calls, and reports to its supervisor."""

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

    The descriptor is the writing end of a pipe, from which the supervisor reads the result of
    the start.
    """
    with os.fdopen(descriptor, "w") as pipe:

        def ready(_addresses: Sequence[ListenAddress]) -> None:
            # Without a supervisor the pipe is broken, and `stop_with_parent` ends this process.
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
