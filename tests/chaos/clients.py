"""Clients that make random calls, and record the results."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from uuid import UUID

from tamatar.auth.v1 import session_service_pb2 as session_pb
from tamatar.auth.v1 import user_service_pb2 as user_pb
from tests.chaos.history import Call
from tests.chaos.recording_client import RECENT, RecordingClient, Server
from tests.chaos.shared_state import SharedState

PEOPLE = 40
SHARED_ADDRESSES = 5


class Client(RecordingClient):
    """Makes one call after the other, at one server or another."""

    def __init__(self, state: SharedState, servers: Sequence[Server], random: Random) -> None:
        super().__init__(state, servers, random)
        self._actions: dict[Callable[[], Awaitable[None]], int] = {
            self.create: 3,
            self.contest: 4,
            self.look: 4,
            self.update: 8,
            self.sign_in: 8,
            self.validate: 30,
            self.validate_some: 4,
            self.refresh: 4,
            self.revoke: 5,
            self.revoke_all: 1,
            self.change_password: 2,
            self.deactivate: 1,
            self.delete: 1,
        }

    async def run(self) -> None:
        """Make calls until the run is over."""
        actions, weights = [*self._actions], [*self._actions.values()]
        while not self._state.is_over:
            (action,) = self._random.choices(actions, weights)
            async with self._state.turn():
                await (self.create() if len(self._state.here) < PEOPLE // 4 else action())
            await asyncio.sleep(0)

    async def look_back(self) -> None:
        """Call about the remaining users and sessions; these responses are checked too."""
        for person in self._state.here:
            await self._read(person)
            if len(person.passwords) == 1:
                await self._sign_in(person, person.passwords[0])
        for session in self._state.sessions[-RECENT:]:
            await self._validate(session)

    async def end_one(self) -> str:
        """Start a session and revoke it; return its id."""
        while True:
            person = self._random.choice(self._state.here)
            started = await self._sign_in(person, person.passwords[0])
            end = Call("RevokeSession", user=started.user, session=started.session)
            if started.is_ok:
                await self._call(end, session_pb.RevokeSessionRequest(session_id=end.session))
            if end.is_ok:
                return end.session

    async def create(self) -> None:
        """Create a user, and repeat the request while its outcome is unknown."""
        if len(self._state.here) > PEOPLE:
            return
        request_id = str(UUID(int=self._random.getrandbits(128), version=4))
        address = self._state.unique("person") + "@chaos.example"
        for _ in range(8):
            call = await self._create(address, request_id)
            if not call.may_have_happened or call.is_ok:
                return
            await asyncio.sleep(0.2)

    async def contest(self) -> None:
        """Create a user with a contested address, or delete its current owner."""
        if self._random.random() < 0.2:
            taken = [one for one in self._state.here if one.email.startswith("shared")]
            if taken:
                await self._delete(self._random.choice(taken))
            return
        address = f"shared{self._random.randrange(SHARED_ADDRESSES)}@chaos.example"
        await asyncio.gather(*(self._create(address) for _ in range(2)))

    async def look(self) -> None:
        """Read a user."""
        if person := self._person():
            await self._read(person)

    async def update(self) -> None:
        """Write a unique name."""
        if person := self._person():
            call = Call("UpdateUser", user=person.id, value=self._state.unique("name"))
            request = user_pb.UpdateUserRequest(user_id=person.id, first_name=call.value)
            request.update_mask.paths.append("first_name")
            self._version(call, await self._call(call, request))

    async def sign_in(self) -> None:
        """Start a session, if the right password is known."""
        person = self._person()
        if person is None or len(person.passwords) > 1:
            if person is not None:
                await self._find_out(person)
            return
        await self._sign_in(person, person.passwords[0])

    async def validate(self) -> None:
        """Validate a session, which may have ended."""
        if session := self._session():
            await self._validate(session)

    async def validate_some(self) -> None:
        """Validate several sessions at once."""
        some = [found for _ in range(4) if (found := self._session())]
        calls = [
            Call("BatchValidateSessions", user=one.user, session=one.id, token=one.token)
            for one in some
        ]
        if not calls:
            return
        request = session_pb.BatchValidateSessionsRequest(
            session_tokens=[call.token for call in calls]
        )
        await self._validate_together(calls, request)

    async def refresh(self) -> None:
        """Refresh a session."""
        session = self._session()
        if session is None or session.is_over or session.lock.locked():
            return
        async with session.lock:
            call = Call(
                "RefreshSession", user=session.user, session=session.id, token=session.token
            )
            answer = await self._call(
                call, session_pb.RefreshSessionRequest(session_token=call.token)
            )
            if answer:
                session.token = call.value = answer.session_token
            session.is_over = session.is_over or not call.may_have_happened

    async def revoke(self) -> None:
        """Revoke a session, and validate it at once."""
        if session := self._session():
            call = Call("RevokeSession", user=session.user, session=session.id)
            await self._call(call, session_pb.RevokeSessionRequest(session_id=session.id))
            session.is_over = True
            await self._validate(session)

    async def revoke_all(self) -> None:
        """Revoke all sessions of a user, and validate them at once."""
        if person := self._person():
            call = Call("RevokeUserSessions", user=person.id)
            await self._call(call, session_pb.RevokeUserSessionsRequest(user_id=person.id))
            await self._validate_those_of(person)

    async def change_password(self) -> None:
        """Change a user's password, one change at a time."""
        person = self._person()
        if person is None or person.lock.locked() or len(person.passwords) > 1:
            return
        async with person.lock:
            new = self._state.unique("chaotic battery horse ")
            (old,) = person.passwords
            call = Call("ChangePassword", user=person.id, value=new, old=old)
            person.passwords = [old, new]
            request = user_pb.ChangePasswordRequest(
                user_id=person.id, current_password=old, new_password=new
            )
            self._version(call, await self._call(call, request))
            if call.is_ok:
                person.passwords = [new]
            elif not call.may_have_happened:
                person.passwords = [old]
        await self._validate_those_of(person)

    async def deactivate(self) -> None:
        """Deactivate a user, validate its sessions, and activate it again."""
        if person := self._person():
            call = Call("DeactivateUser", user=person.id)
            request = user_pb.DeactivateUserRequest(user_id=person.id)
            self._version(call, await self._call(call, request))
            await self._validate_those_of(person)
            call = Call("ActivateUser", user=person.id)
            back = user_pb.ActivateUserRequest(user_id=person.id)
            self._version(call, await self._call(call, back))
            await self._validate_those_of(person)

    async def delete(self) -> None:
        """Delete a user, and validate its sessions."""
        person = self._person()
        if person is not None and len(self._state.here) > PEOPLE // 2:
            await self._delete(person)
