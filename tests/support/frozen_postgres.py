"""A PostgreSQL that is frozen: its connections stay open, and nothing on them is answered."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Freeze the embedded server of a folder for as long as the block."""
    (status,) = folder.glob("*/data/postmaster.pid")
    postmaster = int(status.read_text().split()[0])
    # The postmaster first: it begins no other.
    os.kill(postmaster, signal.SIGSTOP)
    processes = [*_children(postmaster), postmaster]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def _children(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in children.read_text().split()]
