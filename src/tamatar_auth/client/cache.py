"""Answers about sessions that may be used again, for as long as no end of one can be missed."""

import hashlib
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tamatar.auth.v1.session_service_pb2 import SessionEnd, ValidateSessionResponse

MAX_STREAM_SILENCE = 10.0
"""Seconds after which a stream that says nothing may be broken: a live one speaks every 5."""

MAX_REMEMBERED_ENDS = 10_000
"""How many of the last ends are known."""

_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def now() -> float:
    """Return the seconds since some moment, also while the machine slept if it has such a clock."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


class Ticket(NamedTuple):
    """What was known when a question was asked."""

    stream: int
    ends: int
    asked_at: float


class _Entry(NamedTuple):
    response: ValidateSessionResponse
    good_until: float


class SessionCache:
    """Keeps answers of ValidateSession, as a stream of WatchSessions allows it.

    For each stream: `stream_opened` at its first message, `apply_ends` at each later one,
    `stream_broken` at its end or when `apply_ends` returns False. For each question: `begin`
    before it is asked, `store` with its answer. A question that was under way when its session's
    end came, or when the stream was opened or broken, leaves nothing. Threads may share a cache.
    """

    def __init__(
        self,
        *,
        max_age: float,
        size: int,
        clock: Callable[[], float] = now,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep at most `size` answers, each for `max_age` seconds at most."""
        self._max_age = max_age
        self._size = size
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._keys_by_owner: defaultdict[str, set[bytes]] = defaultdict(set)
        """The keys of a session's answers, and of a user's."""
        self._stream = 0
        self._is_stream_open = False
        self._last_message_at = 0.0
        self._end_count = 0
        self._end_numbers: OrderedDict[str, int] = OrderedDict()
        """The sessions and users of the last ends, each with the number of its end."""
        self._evicted_end = 0
        """The number of the last end that is not among them any more."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_live(self) -> bool:
        """Whether no end can have been missed."""
        return self._is_stream_open and self._clock() - self._last_message_at <= MAX_STREAM_SILENCE

    def find(self, token: str) -> ValidateSessionResponse | None:
        """Return the answer about a token's session, or None if the service has to be asked."""
        key = _key(token)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or not self.is_live:
                return None
            if self._clock() >= entry.good_until:
                self._drop(key)
                return None
            self._entries.move_to_end(key)
            return entry.response

    def begin(self) -> Ticket:
        """Note that a question is about to be asked."""
        with self._lock:
            return Ticket(self._stream, self._end_count, self._clock())

    def store(self, ticket: Ticket, token: str, response: ValidateSessionResponse) -> None:
        """Keep the answer to a question, unless something came in between."""
        session, user = response.session, response.user
        remaining = session.expire_time.ToMicroseconds() / 1e6 - self._wall_clock()
        good_until = min(ticket.asked_at + self._max_age, self._clock() + remaining)
        with self._lock:
            ended = max(
                self._end_numbers.get(each, 0) for each in (session.session_id, user.user_id)
            )
            if (
                not self.is_live
                or ticket.stream != self._stream
                or max(ended, self._evicted_end) > ticket.ends
            ):
                return
            key = _key(token)
            self._drop(key)
            self._entries[key] = _Entry(response, good_until)
            self._keys_by_owner[session.session_id].add(key)
            self._keys_by_owner[user.user_id].add(key)
            if len(self._entries) > self._size:
                self._drop(next(iter(self._entries)))

    def stream_opened(self) -> None:
        """Keep answers to questions that are asked from now on."""
        with self._lock:
            self._clear()
            self._is_stream_open = True
            self._last_message_at = self._clock()

    def apply_ends(self, ends: Iterable[SessionEnd]) -> bool:
        """Drop the answers about what has ended; no ends are a sign of life.

        Return whether to go on with the stream. What comes after a silence is late: behind it
        may be more, such as the end of a session that is kept.
        """
        with self._lock:
            if not self.is_live:
                self._close_stream()
                return False
            self._last_message_at = self._clock()
            for end in ends:
                self._end_count += 1
                owner_id = end.session_id or end.user_id
                self._end_numbers[owner_id] = self._end_count
                self._end_numbers.move_to_end(owner_id)
                for key in list(self._keys_by_owner.get(owner_id, ())):
                    self._drop(key)
            while len(self._end_numbers) > MAX_REMEMBERED_ENDS:
                self._evicted_end = self._end_numbers.popitem(last=False)[1]
            return True

    def stream_broken(self) -> None:
        """Drop all answers, and keep none until a stream is opened."""
        with self._lock:
            self._close_stream()

    def _close_stream(self) -> None:
        self._clear()
        self._is_stream_open = False

    def _clear(self) -> None:
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
    """Return what stands for a token, so that no token is kept."""
    return hashlib.sha256(token.encode()).digest()
