"""Values that are read from files, and read again after a change.

A check compares the inode, size and time of each file, which takes 2.5 µs. Notifications of the
kernel would miss changes: a watch on a file ends when a link or a rename replaces the file, as the
kubelet and editors do, and network and overlay file systems do not notify.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from tamatar_auth.config.errors import OperatorError

POLL_SECONDS = 0.5
"""Seconds between two checks of the files."""

Value = TypeVar("Value")
_Stamps = tuple[tuple[int, ...] | None, ...]

log = structlog.get_logger(__name__)


class WatchedFiles(Generic[Value]):
    """A value and the files that it comes from. The first read may raise `OperatorError`.

    If a later read fails, the error is logged and the value before it stays in use.
    """

    def __init__(self, what: str, files: Sequence[Path], read: Callable[[], Value]) -> None:
        self._label = what
        self._files = files
        self._read = read
        self._reload_requested = asyncio.Event()
        self._stamp = self._current_stamp()
        self.value = read()

    def request_reload(self) -> None:
        """Request that the files are read again soon, whether they have changed or not."""
        self._reload_requested.set()

    async def watch_for_changes(self) -> None:
        """Read the files again after each change. Run until cancelled."""
        previous = self._stamp
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reload_requested.wait(), POLL_SECONDS)
            stamp = self._current_stamp()
            # A file that differs at every check is still being written.
            if self._reload_requested.is_set() or previous == stamp != self._stamp:
                self._reload_requested.clear()
                self._stamp = stamp
                await self._reload()
            previous = stamp

    async def _reload(self) -> None:
        try:
            self.value = await asyncio.to_thread(self._read)
        except OperatorError as error:
            log.error("file not reloaded", what=self._label, why=str(error))  # noqa: TRY400
        else:
            log.info("file reloaded", what=self._label)

    def _current_stamp(self) -> _Stamps:
        return tuple(_stamp(file) for file in self._files)


def _stamp(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
