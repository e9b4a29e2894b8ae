"""The processes of workers, as their supervisor sees them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

READY_MESSAGE = "answers"
"""What a worker writes when it answers calls; anything else is why it cannot."""

_COMMAND = (sys.executable, "-P", "-m", "tamatar_auth", "work")


class WorkerProcess:
    """A worker that was started. It is known by its number, and by its process."""

    def __init__(self, number: int, process: "subprocess.Popen[bytes]", pipe: int) -> None:
        self.number = number
        self.pid = process.pid
        self._process = process
        self._pipe = pipe
        self._start_result = asyncio.create_task(self._read())
        self._exit_code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ready_at: float | None = None

    @classmethod
    def start(cls, number: int, environment: Mapping[str, str]) -> "WorkerProcess":
        """Start a process anew, by no fork of this one; raise OSError where that is impossible."""
        read_end, write_end = os.pipe()
        arguments = ("--number", number, "--supervisor", os.getpid(), "--descriptor", write_end)
        try:
            process = subprocess.Popen(  # noqa: S603 - this very program
                [*_COMMAND, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                pass_fds=[write_end],
                env=environment,
                # Ctrl-C is for the supervisor, which tells its workers what to do.
                process_group=0,
            )
        except OSError:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        return cls(number, process, read_end)

    @property
    def log_fields(self) -> Mapping[str, Any]:
        """What tells it from others in a log line."""
        return {"worker": self.number, "pid": self.pid}

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return not self._exit_code.done()

    async def is_ready(self) -> bool:
        """Wait until it answers calls, or tells that it cannot or is gone; return which."""
        return await asyncio.shield(self._start_result) == READY_MESSAGE

    async def start_failure(self) -> str:
        """Wait for its end, and return why it could not start; empty if it did not say so."""
        result = await asyncio.shield(self._start_result)
        await self.wait()
        return "" if result == READY_MESSAGE else result

    async def wait(self) -> int:
        """Wait for its end, and return its exit code: of a killed one the signal below zero."""
        return await asyncio.shield(self._exit_code)

    def serving_seconds(self) -> float:
        """Return for how long it has answered calls."""
        return 0 if self._ready_at is None else time.monotonic() - self._ready_at

    async def stop(self, grace_seconds: float) -> int:
        """Let it finish its calls, kill it after some seconds; return its exit code."""
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), grace_seconds)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()

    def signal(self, signum: int) -> None:
        """Send it a signal, unless it has ended."""
        self._process.send_signal(signum)

    def poll(self) -> None:
        """Notice its end, if it has ended."""
        code = self._process.poll()
        if code is not None and not self._exit_code.done():
            self._exit_code.set_result(code)

    async def _read(self) -> str:
        """Read how the start went, to the end: what a killed worker has not said is empty."""
        reader = asyncio.StreamReader()
        pipe = os.fdopen(self._pipe, "rb")
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
