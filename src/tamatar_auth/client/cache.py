"""The cache of valid sessions. It is used only while a stream reports the ends of sessions."""

import hashlib
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tamatar.auth.v1.session_service_pb2 import SessionEnd, ValidateSessionResponse
from tamatar_auth.client.step_up import StepUp

MAX_STREAM_SILENCE = 10.0
"""Seconds of silence after which a stream counts as broken. A live one sends every 5 seconds."""

MAX_REMEMBERED_ENDS = 10_000
"""The number of recent ends that the cache remembers."""

_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def now() -> float:
    """Return the seconds of a clock that includes suspend, if the machine has one."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


class Ticket(NamedTuple):
    """The state of the cache when a validation began."""

    stream: int
    ends: int
    asked_at: float


class _Entry(NamedTuple):
    response: ValidateSessionResponse
    good_until: float


class SessionCache:
    """Caches responses of ValidateSession while a stream of WatchSessions is live.

    For each stream, call `stream_opened` at its first message, `apply_ends` at each later one, and
    `stream_broken` at its end or when `apply_ends` returns False. For each validation, call `begin`
    before it and `store` after it. A response is not stored if its session ended, or the stream was
    opened or broken, during the validation. Threads may share a cache.
    """

    def __init__(
        self,
        *,
        max_age: float,
        size: int,
        clock: Callable[[], float] = now,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Cache at most `size` responses, each for at most `max_age` seconds."""
        self._max_age, self._size = max_age, size
        self._clock, self._wall_clock = clock, wall_clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._keys_by_owner: defaultdict[str, set[bytes]] = defaultdict(set)
        """The keys of the responses of each session and of each user."""
        self._stream = 0
        self._is_stream_open = False
        self._last_message_at = 0.0
        self._end_count = 0
        self._end_numbers: OrderedDict[str, int] = OrderedDict()
        """The sessions, users and tokens that ended last, each with the number of its end."""
        self._evicted_end = 0
        """The number of the last end that was evicted from them."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_live(self) -> bool:
        """Whether the cache knows every end."""
        return self._is_stream_open and self._clock() - self._last_message_at <= MAX_STREAM_SILENCE

    def find(self, token: str, step_up: StepUp | None = None) -> ValidateSessionResponse | None:
        """Return the cached response for a token, or None if it must be validated.

        A cached session that may not reach `step_up` must be validated too: the service refuses it.
        """
        key = _key(token)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or not self.is_live:
                return None
            if self._clock() >= entry.good_until:
                self._drop(key)
                return None
            self._entries.move_to_end(key)
        if step_up and not step_up.is_reached_by(entry.response.session, self._wall_clock()):
            return None
        return entry.response

    def begin(self) -> Ticket:
        """Return the ticket of a validation that is about to begin."""
        with self._lock:
            return Ticket(self._stream, self._end_count, self._clock())

    def store(self, ticket: Ticket, token: str, response: ValidateSessionResponse) -> None:
        """Cache the response to a validation, unless an end or a new stream came in between."""
        session, user = response.session, response.user
        remaining = session.expire_time.ToMicroseconds() / 1e6 - self._wall_clock()
        good_until = min(ticket.asked_at + self._max_age, self._clock() + remaining)
        with self._lock:
            key = _key(token)
            owners = (session.session_id, user.user_id, key.hex())
            ended = max(self._end_numbers.get(each, 0) for each in owners)
            if (
                not self.is_live
                or ticket.stream != self._stream
                or max(ended, self._evicted_end) > ticket.ends
            ):
                return
            self._drop(key)
            self._entries[key] = _Entry(response, good_until)
            self._keys_by_owner[session.session_id].add(key)
            self._keys_by_owner[user.user_id].add(key)
            if len(self._entries) > self._size:
                self._drop(next(iter(self._entries)))

    def forget(self, token: str) -> None:
        """Drop the response for a token that was refused since, and those of validations before.

        The service refuses a session up to a moment before its stream reports the end.
        """
        key = _key(token)
        with self._lock:
            self._drop(key)
            self._remember_end(key.hex())

    def stream_opened(self) -> None:
        """Start to cache the responses to validations that begin from now on."""
        with self._lock:
            self._clear()
            self._is_stream_open = True
            self._last_message_at = self._clock()

    def apply_ends(self, ends: Iterable[SessionEnd]) -> bool:
        """Drop the responses of ended sessions and users. A message without ends is a heartbeat.

        Returns False if the stream must be closed. A message after a silence is late, and the end
        of a cached session may be waiting behind it.
        """
        with self._lock:
            if not self.is_live:
                self._clear()
                return False
            self._last_message_at = self._clock()
            for end in ends:
                owner_id = end.session_id or end.user_id
                self._remember_end(owner_id)
                for key in list(self._keys_by_owner.get(owner_id, ())):
                    self._drop(key)
            return True

    def stream_broken(self) -> None:
        """Drop all responses, and cache none until a stream is opened."""
        with self._lock:
            self._clear()

    def _remember_end(self, owner: str) -> None:
        self._end_count += 1
        self._end_numbers[owner] = self._end_count
        self._end_numbers.move_to_end(owner)
        if len(self._end_numbers) > MAX_REMEMBERED_ENDS:
            self._evicted_end = self._end_numbers.popitem(last=False)[1]

    def _clear(self) -> None:
        self._is_stream_open = False
        self._stream += 1
        self._entries.clear()
        self._keys_by_owner.clear()
        self._end_numbers.clear()

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        for owner_id in (entry.response.session.session_id, entry.response.user.user_id):
            keys = self._keys_by_owner[owner_id]
            keys.discard(key)
            if not keys:
                del self._keys_by_owner[owner_id]


def _key(token: str) -> bytes:
    """Return the digest of a token, so that the cache holds no token."""
    return hashlib.sha256(token.encode()).digest()
