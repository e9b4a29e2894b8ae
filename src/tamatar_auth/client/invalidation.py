"""Tells a cache of the sessions that end, on a thread."""

import logging
import random
import threading
from typing import Any

import grpc
from grpc import StatusCode

from tamatar.auth.v1.session_service_pb2 import WatchSessionsRequest
from tamatar_auth.client.cache import SILENCE, SessionCache, now
from tamatar_auth.client.connect import AuthClient
from tamatar_auth.client.errors import AuthError, loggable

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two streams, at first and after many that failed."""

REFUSED_PAUSE = 60.0
"""Seconds after which a service that does not let this caller watch is asked again."""

GLANCE = 1.0
"""Seconds between two looks whether a stream has fallen silent."""

_REFUSALS = {StatusCode.UNIMPLEMENTED, StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED}

log = logging.getLogger("tamatar_auth.client")


class Pauses:
    """How long to wait before the next stream."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def worked(self) -> None:
        """Note that a stream was opened."""
        self._next = FIRST_PAUSE

    def after(self, error: Exception | None) -> float:
        """Return the seconds to wait after a stream that ended with this."""
        is_refused = isinstance(error, AuthError) and error.code() in _REFUSALS
        will_pass = isinstance(error, (grpc.RpcError, TimeoutError)) and not is_refused
        if error is not None and not will_pass:
            log.warning("sessions cannot be watched, so each is asked for: %s", loggable(error))
        if is_refused:
            return REFUSED_PAUSE
        told = error.retry_after if isinstance(error, AuthError) else None
        self._next, pause = min(2 * self._next, LONGEST_PAUSE), max(told or 0, self._next)
        return pause * random.uniform(0.5, 1)  # noqa: S311 - not all at once


class Watch:
    """Watches while the process lives, from the first time that it is needed."""

    def __init__(self, auth: AuthClient, cache: SessionCache) -> None:
        self._auth = auth
        self._cache = cache
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._call: Any = None
        self._heard_at = now()

    def begin(self) -> None:
        """Watch from now on, if that was not begun in this process."""
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if self._over.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._cache.broken()  # a process that was forked has it of its parent, who watches on
            self._thread = threading.Thread(target=self._run, name="watch sessions", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._over.set()
        self._cancel()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        glances = threading.Thread(
            target=self._glance,
            args=[threading.current_thread()],
            name="glance at the watch",
            daemon=True,
        )
        glances.start()
        pauses = Pauses()
        while not self._over.is_set():
            error = None
            try:
                self._follow(pauses)
            except Exception as raised:  # noqa: BLE001 - such as a token that cannot be read
                error = raised
            finally:
                self._cache.broken()
            if isinstance(error, ValueError):  # the client was closed, as far as anybody can tell
                self._over.wait(LONGEST_PAUSE)  # whoever checks a session later begins anew
                return
            self._over.wait(pauses.after(error))

    def _follow(self, pauses: Pauses) -> None:
        """Tell the cache what a stream tells, until it ends."""
        self._heard_at = now()
        self._call = call = self._auth.sessions.WatchSessions(WatchSessionsRequest())
        try:
            if self._over.is_set():  # and who set it may have found an older call
                return
            next(call)
            self._heard_at = now()
            self._cache.opened()
            pauses.worked()
            for message in call:
                self._heard_at = now()
                if not self._cache.heard(message.ends):
                    return
        finally:
            call.cancel()

    def _glance(self, watching: threading.Thread) -> None:
        """End a stream that has fallen silent, so that another one is begun."""
        while watching.is_alive() and not self._over.wait(GLANCE):
            if now() - self._heard_at > SILENCE:
                self._cancel()

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()
