"""The lock of the directory in which a server keeps its data."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tamatar_auth.embedded.guarded_process import STOP_TIMEOUT

LOCK_WAIT_SECONDS = 1.0
"""Seconds to wait for a lock whose owner is alive: it may just have been killed."""


class DirectoryInUseError(OSError):
    """Another process uses the directory."""


@contextmanager
def lock_directory(directory: Path) -> Iterator[int]:
    """Lock a directory and yield the descriptor; processes that inherit it keep the lock.

    Raise `DirectoryInUseError` if the owner, or a server that is shutting down, keeps the lock.
    """
    path = directory / "lock"
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        began = time.monotonic()
        while not _try_lock(file.fileno()):
            holder = _holder(path)
            if time.monotonic() - began > (LOCK_WAIT_SECONDS if holder else STOP_TIMEOUT):
                holder_label = f"process {holder}" if holder else "a server that does not shut down"
                raise DirectoryInUseError(f"it is in use by {holder_label}; stop that first")
            time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> int | None:
    """Return the pid of the process that holds a lock, or None if it has exited."""
    try:
        pid = int(path.read_text())
    except ValueError:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return pid
