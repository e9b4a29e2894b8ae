"""Stops a process when its parent is gone."""

import os
import signal
import threading
import time

from tamatar_auth.config.errors import OperatorError


def stop_with_parent(parent: int) -> None:
    """Send SIGTERM to this process once its parent is gone, even if the parent was killed.

    Raises `OperatorError` if the parent is gone already.
    """
    if os.getppid() != parent:
        raise OperatorError(f"Process {parent} is gone, which this one belongs to.")

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="stop with parent", daemon=True).start()
