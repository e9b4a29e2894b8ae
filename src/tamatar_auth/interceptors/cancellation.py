"""Ends a running call with a failure, from outside of its handler."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from tamatar_auth.errors import Failure

RECANCEL_INTERVAL = 0.03
"""Seconds after which an overdue handler that survived its cancellation is cancelled again."""


class CancellableCall:
    """The call of the current task. A call that its caller cancels, too, ends as cancelled."""

    __slots__ = ("_cancellations", "_failure", "_task", "_timer")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC runs each call in a task
        self._task = task
        self._timer: asyncio.TimerHandle | None = None
        self._failure: Failure | None = None
        self._cancellations = 0

    async def run(self, answer: Awaitable[Any]) -> Any:
        """Return the answer of the handler, or raise the failure that ended the call."""
        try:
            return await answer
        except asyncio.CancelledError:
            if self._failure is None or self._uncancel() > 0:
                raise
            raise self._failure from None
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._cancellations:
                self._uncancel()

    def cancel_with(self, failure: Failure) -> None:
        """Cancel the handler, so that `run` raises the failure."""
        self._failure = failure
        self._cancellations += 1
        self._task.cancel()

    def cancel_after(self, seconds: float, failure: type[Failure]) -> None:
        """Cancel the handler after some seconds, and then again and again until it ends."""
        self._timer = self._task.get_loop().call_later(seconds, self._time_out, failure)

    def _time_out(self, failure: type[Failure]) -> None:
        self.cancel_with(failure())
        self.cancel_after(RECANCEL_INTERVAL, failure)

    def _uncancel(self) -> int:
        """Take back the cancellations of this object; return how many others there are."""
        for _ in range(self._cancellations):
            self._task.uncancel()
        self._cancellations = 0
        return self._task.cancelling()
