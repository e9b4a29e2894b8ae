"""A client that records each call, and what it learns from it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc

from tamatar.auth.v1 import session_service_pb2 as session_pb
from tamatar.auth.v1 import user_service_pb2 as user_pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.client.call_defaults import defaults_for
from tests.chaos.history import Call
from tests.chaos.shared_state import Person, Session, SharedState
from tests.support.calls import Refusal, ada, sign_in

SHORT = 0.02
"""The deadline of some calls in seconds, which is too short. Others have that of the client."""

RECENT = 60
"""The number of recent sessions that clients use; older ones are left alone."""

# The minimum is what a connection attempt may take, not a wait.
RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.enable_http_proxy", 0),
]


@dataclass(frozen=True)
class Server:
    """The stubs of one server."""

    users: UserServiceStub
    sessions: SessionServiceStub

    @classmethod
    def at(cls, channel: grpc.aio.Channel) -> "Server":
        """Return the stubs of a channel."""
        return cls(UserServiceStub(channel), SessionServiceStub(channel))


class RecordingClient:
    """Calls one server or another, and records the calls."""

    def __init__(self, state: SharedState, servers: Sequence[Server], random: Random) -> None:
        self._state = state
        self.servers = servers
        self._random = random

    async def _read(self, person: Person) -> None:
        call = Call("GetUser", user=person.id)
        self._version(call, await self._call(call, user_pb.GetUserRequest(user_id=person.id)))

    async def _delete(self, person: Person) -> None:
        person.is_gone = True
        call = Call("DeleteUser", user=person.id)
        self._version(call, await self._call(call, user_pb.DeleteUserRequest(user_id=person.id)))
        await self._validate_those_of(person)

    async def _create(self, address: str, request_id: str = "") -> Call:
        password = self._state.unique("horse battery chaos ")
        # A repeated request has the same password; another one has its own.
        password = f"chaos of {request_id}" if request_id else password
        name = self._state.unique("first") if not request_id else f"first{request_id}"
        call = Call("CreateUser", address=address, request=request_id, value=name)
        request = ada(
            email=self._cased(address),
            password=password,
            first_name=name,
            request_id=request_id,
            email_verified=True,
        )
        answer = await self._call(call, request)
        if answer:
            self._version(call, answer)
            call.user = answer.user.user_id
            self._state.people.append(Person(call.user, address, [password]))
        return call

    async def _sign_in(self, person: Person, password: str) -> Call:
        call = Call("CreateSession", user=person.id, value=password)
        answer = await self._call(call, sign_in(email=person.email, password=password))
        if answer:
            call.session, call.token = answer.session.session_id, answer.session_token
            # The address may have another owner now, with another password.
            call.user = answer.user.user_id
            self._state.sessions.append(Session(call.session, call.user, call.token))
        return call

    async def _find_out(self, person: Person) -> None:
        """Find out which password is right, after a change of unknown outcome."""
        if person.lock.locked():
            return
        async with person.lock:
            for password in tuple(person.passwords):
                call = await self._sign_in(person, password)
                if call.is_ok and person.passwords[-1] == password:
                    person.passwords = [password]
                    return

    async def _validate_those_of(self, person: Person) -> None:
        theirs = [one for one in self._state.sessions[-RECENT:] if one.user == person.id]
        await asyncio.gather(*map(self._validate, theirs[-3:]))

    async def _validate(self, session: Session) -> None:
        call = Call("ValidateSession", user=session.user, session=session.id, token=session.token)
        await self._call(call, session_pb.ValidateSessionRequest(session_token=call.token))

    async def _validate_together(
        self, calls: Sequence[Call], request: session_pb.BatchValidateSessionsRequest
    ) -> None:
        whole = Call("BatchValidate")
        answer = await self._call(whole, request, method="BatchValidateSessions")
        for call, result in zip(calls, answer.results if answer else (), strict=False):
            call.began, call.ended, call.outcome = whole.began, whole.ended, whole.outcome
            if result.refusal:
                reason = ErrorReason.Name(result.refusal)
                call.refuse(Refusal(grpc.StatusCode.UNAUTHENTICATED, "", reason), b"")
            self._state.history.calls.append(call)

    async def _call(self, call: Call, request: Any, *, method: str = "") -> Any:
        call.server = self._server_for(call)
        server, name = self.servers[call.server], method or call.method
        is_session_call = hasattr(server.sessions, name)
        stub = server.sessions if is_session_call else server.users
        service = "SessionService" if is_session_call else "UserService"
        timeout = defaults_for(f"/tamatar.auth.v1.{service}/{name}").timeout
        seldom = self._random.random() < 0.02
        asked = getattr(stub, name)(request, timeout=SHORT if seldom else timeout)
        answer = await self._state.history.record(call, asked)
        if call.refusal and call.refusal.code is grpc.StatusCode.UNAVAILABLE:
            await asyncio.sleep(self._random.uniform(0.05, 0.3))
        return answer

    def _server_for(self, _: Call) -> int:
        return self._random.randrange(len(self.servers))

    def _cased(self, address: str) -> str:
        return "".join(self._random.choice((str.upper, str.lower))(char) for char in address)

    def _person(self) -> Person | None:
        return self._random.choice(self._state.here) if self._state.here else None

    def _session(self) -> Session | None:
        recent = self._state.sessions[-RECENT:]
        return self._random.choice(recent) if recent else None

    @staticmethod
    def _version(call: Call, answer: Any) -> None:
        if answer:
            call.version = int(answer.user.etag)
