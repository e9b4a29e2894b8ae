"""Tells a cache of the sessions that end, on a thread."""

import logging
import threading
from typing import Any

import grpc
from grpc import StatusCode

from tamatar.auth.v1.session_service_pb2 import WatchSessionsRequest
from tamatar_auth.client.backoff import Backoff
from tamatar_auth.client.cache import MAX_STREAM_SILENCE, SessionCache, now
from tamatar_auth.client.connect import AuthClient
from tamatar_auth.client.errors import AuthError, loggable

MIN_BACKOFF, MAX_BACKOFF = 0.1, 5.0
"""Seconds between two streams, at first and after many that failed."""

REFUSED_BACKOFF = 60.0
"""Seconds after which a service that does not let this caller watch is asked again."""

SILENCE_CHECK_INTERVAL = 1.0
"""Seconds between two looks whether a stream has fallen silent."""

_REFUSALS = {StatusCode.UNIMPLEMENTED, StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED}

log = logging.getLogger("tamatar_auth.client")


class StreamBackoff:
    """The delay before the next stream of WatchSessions."""

    def __init__(self) -> None:
        self._backoff = Backoff(MIN_BACKOFF, MAX_BACKOFF)

    def reset(self) -> None:
        """Return to the shortest delay after a stream was opened."""
        self._backoff.reset()

    def delay_after(self, error: Exception | None) -> float:
        """Return the seconds to wait after a stream that ended with this error."""
        is_refused = isinstance(error, AuthError) and error.code() in _REFUSALS
        is_transient = isinstance(error, (grpc.RpcError, TimeoutError)) and not is_refused
        if error is not None and not is_transient:
            log.warning("sessions cannot be watched, so each is asked for: %s", loggable(error))
        if is_refused:
            return REFUSED_BACKOFF
        retry_after = error.retry_after if isinstance(error, AuthError) else None
        return self._backoff.next_delay(at_least=retry_after or 0.0)


class SessionWatcher:
    """Watches while the process lives, from the first time that it is needed."""

    def __init__(self, auth: AuthClient, cache: SessionCache) -> None:
        self._auth = auth
        self._cache = cache
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._call: Any = None
        self._last_message_at = now()

    def begin(self) -> None:
        """Watch from now on, if that was not begun in this process."""
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if self._closed.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            # A forked process has the cache of its parent, which goes on to watch.
            self._cache.stream_broken()
            self._thread = threading.Thread(target=self._run, name="watch sessions", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()
        self._cancel_call()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        silence_thread = threading.Thread(
            target=self._cancel_silent_calls,
            args=[threading.current_thread()],
            name="glance at the watch",
            daemon=True,
        )
        silence_thread.start()
        backoff = StreamBackoff()
        while not self._closed.is_set():
            error = None
            try:
                self._follow_stream(backoff)
            except Exception as raised:  # noqa: BLE001 - such as a token that cannot be read
                error = raised
            finally:
                self._cache.stream_broken()
            if isinstance(error, ValueError):  # the client was closed, as far as anybody can tell
                self._closed.wait(MAX_BACKOFF)  # whoever checks a session later begins anew
                return
            self._closed.wait(backoff.delay_after(error))

    def _follow_stream(self, backoff: StreamBackoff) -> None:
        """Tell the cache what a stream tells, until it ends."""
        self._last_message_at = now()
        self._call = call = self._auth.sessions.WatchSessions(WatchSessionsRequest())
        try:
            if self._closed.is_set():  # and who set it may have found an older call
                return
            next(call)
            self._last_message_at = now()
            self._cache.stream_opened()
            backoff.reset()
            for message in call:
                self._last_message_at = now()
                if not self._cache.apply_ends(message.ends):
                    return
        finally:
            call.cancel()

    def _cancel_silent_calls(self, watch_thread: threading.Thread) -> None:
        """End a stream that has fallen silent, so that another one is begun."""
        while watch_thread.is_alive() and not self._closed.wait(SILENCE_CHECK_INTERVAL):
            if now() - self._last_message_at > MAX_STREAM_SILENCE:
                self._cancel_call()

    def _cancel_call(self) -> None:
        if self._call is not None:
            self._call.cancel()
