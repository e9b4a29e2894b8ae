"""The shared knowledge of the clients: users, their passwords, their sessions."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.chaos.history import History


@dataclass(eq=False)
class Session:
    """A started session, and its current token."""

    id: str
    user: str
    token: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_over: bool = False
    """Whether it is no longer refreshed."""


@dataclass(eq=False)
class Person:
    """A created user, and the passwords of which one is right."""

    id: str
    email: str
    passwords: list[str]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_gone: bool = False


@dataclass
class SharedState:
    """The shared knowledge of the clients of a run."""

    history: History
    people: list[Person] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    is_over: bool = False
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _busy: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._open.set()
        self._idle.set()

    @property
    def here(self) -> list[Person]:
        """The users that no client has tried to delete."""
        return [person for person in self.people if not person.is_gone]

    def unique(self, word: str) -> str:
        """Return a unique text."""
        return f"{word}{next(self._numbers)}"

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until calls are wanted, and make them in the block."""
        await self._open.wait()
        self._busy += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    @asynccontextmanager
    async def pause(self) -> AsyncIterator[None]:
        """Keep all calls from being in flight while the block runs."""
        self._open.clear()
        try:
            await self._idle.wait()
            yield
        finally:
            self._open.set()
