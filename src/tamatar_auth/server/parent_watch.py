"""Processes that belong to another one, and end when that is gone."""

import os
import signal
import threading
import time

from tamatar_auth.config.errors import OperatorError


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
