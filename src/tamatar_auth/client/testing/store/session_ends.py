"""The ends of sessions, and the streams that watch them."""

from queue import SimpleQueue
from threading import Lock

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.session_service_pb2 import SessionEnd

Watcher = SimpleQueue[SessionEnd | ErrorReason.ValueType]
"""A queue of ends, and finally of the reason why the stream ends."""


class SessionEnds:
    """Publishes the ends of sessions to watchers."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watchers: set[Watcher] = set()

    def add_watcher(self) -> Watcher:
        """Return a queue of all ends from now on."""
        watcher: Watcher = SimpleQueue()
        with self._lock:
            self._watchers.add(watcher)
        return watcher

    def remove_watcher(self, watcher: Watcher) -> None:
        """Stop publishing to a queue."""
        with self._lock:
            self._watchers.discard(watcher)

    def publish_user(self, user_id: str) -> None:
        """Publish that all sessions of a user ended."""
        self._publish(SessionEnd(user_id=user_id))

    def publish_session(self, user_id: str, session_id: str) -> None:
        """Publish that a session ended."""
        self._publish(SessionEnd(user_id=user_id, session_id=session_id))

    def end_streams(self, reason: ErrorReason.ValueType) -> None:
        """End all streams with a reason."""
        self._publish(reason)

    def _publish(self, event: SessionEnd | ErrorReason.ValueType) -> None:
        with self._lock:
            for watcher in self._watchers:
                watcher.put(event)
