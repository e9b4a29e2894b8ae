"""Values that are read from files, and read again when these change."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from tamatar_auth.config.settings import OperatorError

INTERVAL = 0.5
"""Seconds between two looks at the files."""

Value = TypeVar("Value")
_Stamp = tuple[tuple[int, ...] | None, ...]

log = structlog.get_logger(__name__)


class Watched(Generic[Value]):
    """A value, and the files that it came from. The first read may raise `OperatorError`.

    A later one that fails is an error in the log: what was read before stays in use.
    """

    def __init__(self, what: str, files: Sequence[Path], read: Callable[[], Value]) -> None:
        self._what = what
        self._files = files
        self._read = read
        self._asked = asyncio.Event()
        self._stamp = self._look()
        self.value = read()

    def ask(self) -> None:
        """Have the files read again soon, changed or not."""
        self._asked.set()

    async def follow(self) -> None:
        """Read the files again whenever they have changed, for as long as the server runs."""
        before = self._stamp
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), INTERVAL)
            stamp = self._look()
            # A file that is different at every look is still being written.
            if self._asked.is_set() or before == stamp != self._stamp:
                self._asked.clear()
                self._stamp = stamp
                await self._read_again()
            before = stamp

    async def _read_again(self) -> None:
        try:
            self.value = await asyncio.to_thread(self._read)
        except OperatorError as error:
            log.error("file not reloaded", what=self._what, why=str(error))  # noqa: TRY400
        else:
            log.info("file reloaded", what=self._what)

    def _look(self) -> _Stamp:
        return tuple(_stamp(file) for file in self._files)


def _stamp(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
