"""Keeps several workers at work: starts them, replaces them, ends them.

A worker is a process of its own that answers calls on ports that all share. This one answers
none, and imports nothing that does: it keeps the ports, and watches.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import OperatorError, Settings
from tamatar_auth.observability.logs import configure_logs, warn_of_unknown_settings
from tamatar_auth.workers.environment import environments
from tamatar_auth.workers.process import WorkerProcess

START_SECONDS = 60.0
"""How long a worker that is to replace another may take to answer."""

EXTRA_SECONDS = 5.0
"""How long a worker may take to end beyond what its settings say."""

LONGEST_PAUSE = 30.0
SOUND_SECONDS = 60.0
"""Who has answered for so long has not died at once."""

Ready = Callable[[Sequence[ListenAddress]], None]

log = structlog.get_logger(__name__)


class WorkerError(OperatorError):
    """No worker can start; the text is the worker's."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def serve(settings: Settings, ready: Ready | None = None) -> int:
    """Let workers answer calls until SIGTERM or SIGINT, and return the exit code.

    Raises `OperatorError` if they cannot start.
    """
    configure_logs(settings)
    warn_of_unknown_settings()
    with environments(settings) as (addresses, of_each):
        supervisor = Supervisor(of_each, _patience(settings))

        def tell() -> None:
            if ready is not None:
                ready(addresses)

        try:
            return asyncio.run(supervisor.run(tell))
        except OperatorError:
            raise
        except Exception:
            log.critical("crashed", exc_info=True)
            return 1


def pause(deaths: int) -> float:
    """Return the seconds before a worker is started again, after so many deaths in a row."""
    return 0.0 if deaths < 2 else min(0.125 * 2 ** min(deaths, 10), LONGEST_PAUSE)  # noqa: PLR2004


@dataclass
class Place:
    """What one worker after another fills."""

    worker: WorkerProcess
    deaths: int = 0
    """How many workers in a row died here before they had worked for long."""


class Supervisor:
    """Runs a worker for each environment."""

    def __init__(self, environments: Sequence[Mapping[str, str]], patience: float) -> None:
        self._environments = environments
        self._patience = patience
        self._started: list[WorkerProcess] = []
        self._replacing = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurry = 0

    async def run(self, ready: Callable[[], None]) -> int:
        """Keep the workers at work until a signal ends them; return the exit code.

        Raises `WorkerError` if one of the first cannot start.
        """
        self._listen_to_signals()
        work = asyncio.create_task(self._work(ready))
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
            await asyncio.gather(*(worker.end() for worker in self._started))

    async def _work(self, ready: Callable[[], None]) -> None:
        # The first goes ahead: what keeps it from starting keeps all, and is told at once.
        first, *others = range(len(self._environments))
        places = [await self._begin(first)]
        places += await asyncio.gather(*map(self._begin, others))
        log.info("workers answer", workers=len(places))
        ready()
        await asyncio.gather(self._replace_when_asked(places), *map(self._keep, places))

    async def _begin(self, number: int) -> Place:
        """Start the first worker of a place, or raise `WorkerError`."""
        worker = self._start(number)
        if await worker.answers():
            return Place(worker)
        why = await worker.refusal()
        code = await worker.end()
        raise WorkerError(
            why or f"A worker ended before it answered calls ({_outcome(code)}).", max(code, 1)
        )

    async def _keep(self, place: Place) -> None:
        """Start a worker again whenever the one in a place has ended by itself."""
        while True:
            worker = place.worker
            code = await worker.end()
            if place.worker is not worker:
                continue
            place.deaths = 1 if worker.seconds_of_answers() > SOUND_SECONDS else place.deaths + 1
            seconds = pause(place.deaths)
            why = await worker.refusal() or _outcome(code)
            log.error("worker ended", **worker.names, why=why, again_in=seconds)
            await asyncio.sleep(seconds)
            if place.worker is worker:
                with _told_errors(worker):
                    place.worker = self._start(worker.number)

    async def _replace_when_asked(self, places: Sequence[Place]) -> None:
        while True:
            await self._replacing.wait()
            self._replacing.clear()
            log.info("replacing workers")
            for place in places:
                if not await self._replace(place):
                    break
            else:
                log.info("workers replaced")

    async def _replace(self, place: Place) -> bool:
        """Start a worker, and stop the one before it once the new one answers.

        Where it does not answer all stays as it is.
        """
        number = place.worker.number
        with _told_errors(place.worker):
            new = self._start(number)
            try:
                answers = await asyncio.wait_for(new.answers(), START_SECONDS)
            except TimeoutError:
                answers = False
                new.signal(signal.SIGKILL)
            if answers:
                old, place.worker, place.deaths = place.worker, new, 0
                await old.stop(self._patience)
                return True
            why = await new.refusal() or _outcome(await new.end())
            log.error("worker not replaced", **place.worker.names, why=why)
        return False

    def _start(self, number: int) -> WorkerProcess:
        worker = WorkerProcess.start(number, self._environments[number])
        self._started = [other for other in self._started if other.running]
        self._started.append(worker)
        return worker

    async def _end(self) -> int:
        """Let all workers finish their calls at the same time; return the exit code."""
        log.info("stopping workers")
        codes = await asyncio.gather(*(worker.stop(self._patience) for worker in self._started))
        log.info("workers stopped")
        if self._hurry:
            return 128 + self._hurry
        # One that had not yet learned to stop was ended by the signal itself.
        return 0 if set(codes) <= {0, -signal.SIGTERM} else 1

    def _kill(self) -> None:
        for worker in self._started:
            worker.signal(signal.SIGKILL)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop, signum)
        loop.add_signal_handler(signal.SIGHUP, self._replacing.set)
        loop.add_signal_handler(signal.SIGCHLD, self._look)

    def _stop(self, signum: int) -> None:
        """Begin to stop; when asked again, end at once."""
        if self._stopping.is_set():
            self._hurry = signum
            self._kill()
        self._stopping.set()

    def _look(self) -> None:
        for worker in self._started:
            worker.look()


@contextlib.contextmanager
def _told_errors(worker: WorkerProcess) -> Iterator[None]:
    """Log that the system refuses a process, and go on with those that there are."""
    try:
        yield
    except OSError as error:
        log.error("worker cannot be started", worker=worker.number, why=error.strerror)  # noqa: TRY400


def _outcome(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _patience(settings: Settings) -> float:
    return (settings.drain_delay + settings.shutdown_grace).total_seconds() + EXTRA_SECONDS
