"""Keeps a cache up to date with the sessions that end, on a thread."""

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

REJECTED_DELAY = 60.0
"""Seconds before the next attempt if the service does not allow this caller to watch."""

CLOSED_CLIENT_DELAY = 5.0
"""Seconds before a watcher that failed because its client was closed can start again."""

SILENCE_CHECK_INTERVAL = 1.0
"""Seconds between two checks for a silent stream."""

_REJECTIONS = {StatusCode.UNIMPLEMENTED, StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED}

log = logging.getLogger("tamatar_auth.client")


def restart_delay(backoff: Backoff, error: Exception | None) -> float:
    """Return the seconds to wait after a stream that ended with this error, or with None."""
    is_rejected = isinstance(error, AuthError) and error.code() in _REJECTIONS
    is_transient = isinstance(error, (grpc.RpcError, TimeoutError)) and not is_rejected
    if error is not None and not is_transient:
        log.warning("sessions cannot be watched, so each is validated: %s", loggable(error))
    if is_rejected:
        return REJECTED_DELAY
    retry_after = error.retry_after if isinstance(error, AuthError) else None
    return backoff.next_delay(at_least=retry_after or 0)


class SessionWatcher:
    """Watches from its first use until it is closed or the process ends."""

    def __init__(self, auth: AuthClient, cache: SessionCache) -> None:
        self._auth = auth
        self._cache = cache
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._call: Any = None
        self._last_message_at = now()

    def begin(self) -> None:
        """Start to watch, unless this process watches already."""
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if self._closed.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            # A forked process has a copy of its parent's cache, which nothing keeps up to date.
            self._cache.stream_broken()
            self._thread = threading.Thread(target=self._run, name="watch sessions", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._cancel_call()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        name, arguments = "check the watch for silence", [threading.current_thread()]
        threading.Thread(None, self._cancel_silent_calls, name, arguments, daemon=True).start()
        backoff = Backoff()
        while not self._closed.is_set():
            error = None
            try:
                self._follow_stream(backoff)
            except Exception as raised:  # noqa: BLE001 - such as a token that cannot be read
                error = raised
            finally:
                self._cache.stream_broken()
            if isinstance(error, ValueError):  # gRPC raises it after the client was closed
                self._closed.wait(CLOSED_CLIENT_DELAY)
                return  # the next check of a session starts a new thread
            self._closed.wait(restart_delay(backoff, error))

    def _follow_stream(self, backoff: Backoff) -> None:
        """Apply the messages of one stream to the cache until the stream ends."""
        self._last_message_at = now()
        self._call = call = self._auth.sessions.WatchSessions(WatchSessionsRequest())
        try:
            if self._closed.is_set():  # `close` may have cancelled the call before this one
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
        """Cancel a stream that has fallen silent; the watch thread then opens another."""
        while watch_thread.is_alive() and not self._closed.wait(SILENCE_CHECK_INTERVAL):
            if now() - self._last_message_at > MAX_STREAM_SILENCE:
                self._cancel_call()

    def _cancel_call(self) -> None:
        if self._call is not None:
            self._call.cancel()
