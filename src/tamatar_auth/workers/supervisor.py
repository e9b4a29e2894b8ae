"""The supervisor of the worker processes: starts, restarts, replaces and stops them.

Workers answer calls on shared ports. The supervisor answers none and imports nothing that does:
it reserves the ports and watches the workers.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.errors import OperatorError
from tamatar_auth.config.settings import Settings
from tamatar_auth.observability.logs import configure_logs, warn_of_unknown_settings
from tamatar_auth.observability.unhandled_errors import UnhandledErrors
from tamatar_auth.workers.environment import environments
from tamatar_auth.workers.process import WorkerProcess

READY_TIMEOUT = 60.0
"""Seconds that a replacement may take to become ready."""

STOP_MARGIN_SECONDS = 5.0
"""Seconds that a worker may take to end beyond the time that its settings allow."""

MAX_FIRST_STARTS = 6
"""Times that the first worker of a slot is started, if each one before it was killed."""

MAX_RESTART_BACKOFF = 30.0
"""Seconds between two restarts at most."""

HEALTHY_SECONDS = 60.0
"""A worker that served this long counts as healthy; its restart backoff is reset."""

ReadyCallback = Callable[[Sequence[ListenAddress]], None]

log = structlog.get_logger(__name__)


class WorkerError(OperatorError):
    """No worker can start. The message is the worker's own."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def serve(settings: Settings, ready: ReadyCallback | None = None) -> int:
    """Run workers until SIGTERM or SIGINT, and return the exit code.

    Raises `OperatorError` if they cannot start.
    """
    configure_logs(settings)
    unhandled = UnhandledErrors()
    unhandled.install()
    warn_of_unknown_settings()
    with environments(settings) as (addresses, worker_environments):
        stop_seconds = (settings.drain_delay + settings.shutdown_grace).total_seconds()
        supervisor = Supervisor(worker_environments, stop_seconds + STOP_MARGIN_SECONDS, unhandled)
        notify_ready = (lambda: None) if ready is None else partial(ready, addresses)
        try:
            return asyncio.run(supervisor.run(notify_ready))
        except OperatorError:
            raise
        except Exception:
            log.critical("crashed", exc_info=True)
            return 1


def restart_backoff(failures: int) -> float:
    """Return the seconds to wait before a restart, after a number of failures in a row."""
    return 0.0 if failures < 2 else min(0.125 * 2 ** min(failures, 10), MAX_RESTART_BACKOFF)  # noqa: PLR2004


@dataclass(slots=True)
class WorkerSlot:
    """The place of one worker, and of those that replace it."""

    worker: WorkerProcess
    failures: int = 0
    """The number of workers in a row that ended before they counted as healthy."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the worker is restarted or replaced, so that only one of the two happens."""


class Supervisor:
    """Runs one worker for each environment."""

    def __init__(
        self,
        environments: Sequence[Mapping[str, str]],
        stop_timeout: float,
        unhandled: UnhandledErrors,
    ) -> None:
        self._unhandled = unhandled
        self._environments = environments
        self._stop_timeout = stop_timeout
        self._workers: list[WorkerProcess] = []
        self._replacing = asyncio.Event()
        self._stopping = asyncio.Event()
        self._second_signal = 0

    async def run(self, ready: Callable[[], None]) -> int:
        """Run the workers until a signal stops them; return the exit code.

        Raises `WorkerError` if one of the first workers cannot start.
        """
        self._install_signal_handlers()
        self._unhandled.watch(asyncio.get_running_loop(), self._stopping.set)
        work = asyncio.create_task(self._run_workers(ready))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not self._stopping.is_set():
                work.result()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            return await self._end()
        finally:
            stop.cancel()
            self._kill()
            await asyncio.gather(*(worker.wait() for worker in self._workers))

    async def _run_workers(self, ready: Callable[[], None]) -> None:
        # The first worker starts alone: a fault that stops it would stop all, and shows once.
        first, *others = range(len(self._environments))
        slots = [await self._fill_slot(first)]
        slots += await asyncio.gather(*map(self._fill_slot, others))
        log.info("workers answer", workers=len(slots))
        ready()
        await asyncio.gather(self._replace_on_request(slots), *map(self._keep_running, slots))

    async def _fill_slot(self, number: int) -> WorkerSlot:
        """Start the first worker of a slot, again if it is killed, or raise `WorkerError`."""
        for failures in range(1, MAX_FIRST_STARTS + 1):
            worker = await self._start(number)
            if await worker.is_ready():
                return WorkerSlot(worker)
            why, code = await worker.start_failure(), await worker.wait()
            # If it ended by itself, another one would do the same.
            if why or code >= 0 or failures == MAX_FIRST_STARTS:
                break
            await self._wait_before_restart(worker, failures, _exit_reason(code))
        raise WorkerError(
            why or f"A worker ended before it answered calls ({_exit_reason(code)}).", max(code, 1)
        )

    async def _keep_running(self, slot: WorkerSlot) -> None:
        """Restart the worker of a slot whenever it ends without a request."""
        while True:
            worker = slot.worker
            code = await worker.wait()
            if slot.worker is not worker:
                continue
            slot.failures = 1 if worker.serving_seconds() > HEALTHY_SECONDS else slot.failures + 1
            why = await worker.start_failure() or _exit_reason(code)
            await self._wait_before_restart(worker, slot.failures, why)
            async with slot.changing:
                if slot.worker is worker:
                    with _log_os_errors(worker):
                        slot.worker = await self._start(worker.number)

    async def _wait_before_restart(self, worker: WorkerProcess, failures: int, why: str) -> None:
        seconds = restart_backoff(failures)
        log.error("worker ended", **worker.log_fields, why=why, again_in=seconds)
        await asyncio.sleep(seconds)

    async def _replace_on_request(self, slots: Sequence[WorkerSlot]) -> None:
        while True:
            await self._replacing.wait()
            self._replacing.clear()
            log.info("replacing workers")
            for slot in slots:
                if not await self._replace(slot):
                    break
            else:
                log.info("workers replaced")

    async def _replace(self, slot: WorkerSlot) -> bool:
        """Start a worker, and stop the one before it once the new one is ready.

        If the new worker does not become ready, the old one stays. Returns whether it is ready.
        """
        with _log_os_errors(slot.worker):
            new = await self._start(slot.worker.number)
            try:
                is_ready = await asyncio.wait_for(new.is_ready(), READY_TIMEOUT)
            except TimeoutError:
                is_ready = False
                new.signal(signal.SIGKILL)
            if is_ready:
                async with slot.changing:
                    old, slot.worker, slot.failures = slot.worker, new, 0
                await old.stop(self._stop_timeout)
                return True
            why = await new.start_failure() or _exit_reason(await new.wait())
            log.error("worker not replaced", **slot.worker.log_fields, why=why)
        return False

    async def _start(self, number: int) -> WorkerProcess:
        worker = await WorkerProcess.start(number, self._environments[number])
        self._workers = [other for other in self._workers if other.is_running]
        self._workers.append(worker)
        return worker

    async def _end(self) -> int:
        """Stop all workers at the same time; return the exit code."""
        log.info("stopping workers")
        codes = await asyncio.gather(*(worker.stop(self._stop_timeout) for worker in self._workers))
        log.info("workers stopped")
        if self._second_signal:
            return 128 + self._second_signal
        # SIGTERM itself ends a worker that has not installed its handler yet.
        are_stopped = set(codes) <= {0, -signal.SIGTERM}
        return 0 if are_stopped and not self._unhandled.has_crashed else 1

    def _kill(self) -> None:
        for worker in self._workers:
            worker.signal(signal.SIGKILL)

    def _install_signal_handlers(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop, signum)
        loop.add_signal_handler(signal.SIGHUP, self._replacing.set)

    def _stop(self, signum: int) -> None:
        """Request a graceful stop; a second signal kills the workers."""
        if self._stopping.is_set():
            self._second_signal = signum
            self._kill()
        self._stopping.set()


@contextlib.contextmanager
def _log_os_errors(worker: WorkerProcess) -> Iterator[None]:
    """Log that the system refused to start a process; the other workers go on."""
    try:
        yield
    except OSError as error:
        log.error("worker cannot be started", worker=worker.number, why=error.strerror)  # noqa: TRY400


def _exit_reason(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
