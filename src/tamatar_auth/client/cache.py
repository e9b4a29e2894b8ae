"""Answers about sessions that may be used again, for as long as no end of one can be missed."""

import hashlib
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tamatar.auth.v1.session_service_pb2 import SessionEnd, ValidateSessionResponse

SILENCE = 10.0
"""Seconds after which a stream that says nothing may be broken: a live one speaks every 5."""

MOST_ENDS = 10_000
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
    answer: ValidateSessionResponse
    good_until: float


class SessionCache:
    """Keeps answers of ValidateSession, as a stream of WatchSessions allows it.

    For each stream: `opened` at its first message, `heard` at each later one, `broken` at its
    end or when `heard` returns False. For each question: `begin` before it is asked, `keep` with
    its answer. A question that was under way when its session's end came, or when the stream was
    opened or broken, leaves nothing. Threads may share a cache.
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
        self._of: defaultdict[str, set[bytes]] = defaultdict(set)
        """The keys of a session's answers, and of a user's."""
        self._stream = 0
        self._is_open = False
        self._heard_at = 0.0
        self._ends = 0
        self._ended: OrderedDict[str, int] = OrderedDict()
        """The sessions and users of the last ends, each with the number of its end."""
        self._forgotten = 0
        """The number of the last end that is not among them any more."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_live(self) -> bool:
        """Whether no end can have been missed."""
        return self._is_open and self._clock() - self._heard_at <= SILENCE

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
            return entry.answer

    def begin(self) -> Ticket:
        """Note that a question is about to be asked."""
        with self._lock:
            return Ticket(self._stream, self._ends, self._clock())

    def keep(self, ticket: Ticket, token: str, answer: ValidateSessionResponse) -> None:
        """Keep the answer to a question, unless something came in between."""
        session, user = answer.session, answer.user
        remaining = session.expire_time.ToMicroseconds() / 1e6 - self._wall_clock()
        good_until = min(ticket.asked_at + self._max_age, self._clock() + remaining)
        with self._lock:
            ended = max(self._ended.get(each, 0) for each in (session.session_id, user.user_id))
            if (
                not self.is_live
                or ticket.stream != self._stream
                or max(ended, self._forgotten) > ticket.ends
            ):
                return
            key = _key(token)
            self._drop(key)
            self._entries[key] = _Entry(answer, good_until)
            self._of[session.session_id].add(key)
            self._of[user.user_id].add(key)
            if len(self._entries) > self._size:
                self._drop(next(iter(self._entries)))

    def opened(self) -> None:
        """Keep answers to questions that are asked from now on."""
        with self._lock:
            self._forget_all()
            self._is_open = True
            self._heard_at = self._clock()

    def heard(self, ends: Iterable[SessionEnd]) -> bool:
        """Drop the answers about what has ended; no ends are a sign of life.

        Return whether to go on with the stream. What comes after a silence is late: behind it
        may be more, such as the end of a session that is kept.
        """
        with self._lock:
            if not self.is_live:
                self._break()
                return False
            self._heard_at = self._clock()
            for end in ends:
                self._ends += 1
                what = end.session_id or end.user_id
                self._ended[what] = self._ends
                self._ended.move_to_end(what)
                for key in list(self._of.get(what, ())):
                    self._drop(key)
            while len(self._ended) > MOST_ENDS:
                self._forgotten = self._ended.popitem(last=False)[1]
            return True

    def broken(self) -> None:
        """Drop all answers, and keep none until a stream is opened."""
        with self._lock:
            self._break()

    def _break(self) -> None:
        self._forget_all()
        self._is_open = False

    def _forget_all(self) -> None:
        self._stream += 1
        self._entries.clear()
        self._of.clear()
        self._ended.clear()

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        for what in (entry.answer.session.session_id, entry.answer.user.user_id):
            keys = self._of[what]
            keys.discard(key)
            if not keys:
                del self._of[what]


def _key(token: str) -> bytes:
    """Return what stands for a token, so that no token is kept."""
    return hashlib.sha256(token.encode()).digest()
