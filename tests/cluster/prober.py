"""A client that revokes sessions on one way to the database, and validates them on the other."""

import asyncio
from collections import deque
from collections.abc import Sequence
from random import Random

from tamatar.auth.v1 import session_service_pb2 as session_pb
from tests.chaos.clients import Client
from tests.chaos.history import READS, Call
from tests.chaos.recording_client import Server
from tests.chaos.shared_state import Person, Session, SharedState

REVOKER, VALIDATOR = 0, 1
"""The servers: HAProxy leads the first to the new primary; the second may be on the old one."""

STOCK = 120
"""The number of sessions that wait for their end: an old primary knows them all."""

PAUSE = 0.05
"""Seconds between two calls."""


class Prober(Client):
    """Revokes old sessions at one server; another server must reject each of them."""

    def __init__(self, state: SharedState, servers: Sequence[Server], random: Random) -> None:
        super().__init__(state, servers, random)
        self._stock: deque[Session] = deque()
        self._revoked: deque[Session] = deque(maxlen=STOCK)

    async def run(self) -> None:
        """Make calls until the run is over."""
        person = await self._own_person()
        validating = asyncio.create_task(self._validate_revoked())
        while not self._state.is_over:
            started = await self._sign_in(person, person.passwords[0])
            if started.is_ok:
                self._stock.append(Session(started.session, started.user, started.token))
            if len(self._stock) >= STOCK:
                await self._revoke_oldest()
                await asyncio.sleep(PAUSE)
        await validating

    async def _own_person(self) -> Person:
        """Create a user that no other client knows."""
        created = await self._create(self._state.unique("prober") + "@chaos.example")
        while not created.is_ok:  # some calls have a deadline that is too short
            created = await self._create(self._state.unique("prober") + "@chaos.example")
        (own,) = [person for person in self._state.people if person.id == created.user]
        self._state.people.remove(own)
        return own

    async def _revoke_oldest(self) -> None:
        session = self._stock[0]
        end = Call("RevokeSession", user=session.user, session=session.id)
        await self._call(end, session_pb.RevokeSessionRequest(session_id=session.id))
        if end.is_ok:
            self._revoked.append(self._stock.popleft())

    async def _validate_revoked(self) -> None:
        while not self._state.is_over:
            if self._revoked:
                await self._validate(self._revoked[-1])
                await self._validate(self._random.choice(self._revoked))
            await asyncio.sleep(PAUSE)

    def _server_for(self, call: Call) -> int:
        return VALIDATOR if call.method in READS else REVOKER
