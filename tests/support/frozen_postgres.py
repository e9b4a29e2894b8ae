"""A frozen PostgreSQL: its connections stay open, and it answers nothing."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest


@contextlib.contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Freeze the embedded server of a folder while the block runs."""
    (status,) = folder.glob("*/data/postmaster.pid")
    postmaster = int(status.read_text().split()[0])
    # The postmaster first, so that it starts no further process.
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


def make_psycopg_hold_cancelled_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have psycopg's own wait hold the connection of a cancelled call for ever.

    It holds it for ten seconds, which a loaded machine may need for anything.
    """

    async def hold(_connection: Any, *, timeout: float) -> None:  # noqa: ASYNC109 - psycopg's
        await asyncio.Event().wait()

    monkeypatch.setattr(psycopg.AsyncConnection, "_try_cancel", hold)
