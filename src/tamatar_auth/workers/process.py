"""A worker process, as its supervisor sees it."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

READY_MESSAGE = "answers"
"""A worker writes this once it answers calls. Any other text says why it cannot start."""

_COMMAND = (sys.executable, "-P", "-m", "tamatar_auth", "work")


class WorkerProcess:
    """A worker that was started, with the number of its place among the workers."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, pipe: BinaryIO) -> None:
        self.number = number
        self.pid = process.pid
        self._process = process
        self._start_result = asyncio.create_task(self._read_start_result(pipe))
        self._ready_at: float | None = None

    @classmethod
    async def start(cls, number: int, environment: Mapping[str, str]) -> "WorkerProcess":
        """Start a process, or raise OSError. A cancelled start leaves no process behind."""
        read_end, write_end = os.pipe()
        pipe = os.fdopen(read_end, "rb")
        arguments = ("--number", number, "--supervisor", os.getpid(), "--descriptor", write_end)
        try:
            process = await asyncio.create_subprocess_exec(
                *_COMMAND,
                *map(str, arguments),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[write_end],
                env=environment,
                # Ctrl-C must reach the supervisor alone: it signals its workers itself.
                process_group=0,
            )
        except BaseException:
            pipe.close()
            raise
        finally:
            os.close(write_end)
        return cls(number, process, pipe)

    @property
    def log_fields(self) -> Mapping[str, Any]:
        """The fields that identify the worker in a log line."""
        return {"worker": self.number, "pid": self.pid}

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.returncode is None

    async def is_ready(self) -> bool:
        """Wait until the worker answers calls or cannot start; return whether it answers."""
        return await asyncio.shield(self._start_result) == READY_MESSAGE

    async def start_failure(self) -> str:
        """Wait for the end of the process; return its reason not to start, or an empty text."""
        result = await asyncio.shield(self._start_result)
        await self.wait()
        return "" if result == READY_MESSAGE else result

    async def wait(self) -> int:
        """Wait for the end of the process; return its exit code, or the signal below zero."""
        return await self._process.wait()

    def serving_seconds(self) -> float:
        """Return the seconds since the worker became ready, or 0."""
        return 0 if self._ready_at is None else time.monotonic() - self._ready_at

    async def stop(self, grace_seconds: float) -> int:
        """Let the worker finish its calls, and kill it after a grace period.

        Returns its exit code.
        """
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), grace_seconds)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()

    def signal(self, signum: int) -> None:
        """Send a signal, unless the process has ended."""
        # `Process.send_signal` polls, and may take the exit code from asyncio's own wait.
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    async def _read_start_result(self, pipe: BinaryIO) -> str:
        """Read the result of the start to its end; a worker that was killed wrote nothing."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            result = (await reader.read()).decode(errors="replace")
        finally:
            transport.close()
        if result == READY_MESSAGE:
            self._ready_at = time.monotonic()
        return result
