"""Exceptions of the client when the real service refuses, on both kinds of channel."""

import asyncio
import pickle

import grpc
import pytest
from grpc import StatusCode
from grpc_status import rpc_status

from tamatar.auth.v1.session_service_pb2 import (
    GetSessionRequest,
    ValidateSessionRequest,
    WatchSessionsRequest,
)
from tamatar.auth.v1.user_service_pb2 import CreateUserRequest, UpdateUserRequest
from tamatar_auth import client
from tamatar_auth.client import ErrorReason
from tamatar_auth.client.errors import auth_error
from tamatar_auth.errors import Failure, storage, users  # noqa: F401 - whose classes are found
from tamatar_auth.errors.sessions import SessionRevoked
from tamatar_auth.interceptors.errors import status
from tests.support.calls import ada, sign_in

UNKNOWN = ValidateSessionRequest(session_token="tms_unknown-has-this")


def failures(parent=Failure):
    for child in parent.__subclasses__():
        yield child
        yield from failures(child)


async def raised(call):
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return caught.value


async def test_error_has_reason_and_status(auth, blocking):
    await auth.users.CreateUser(ada())

    for error in (
        await raised(auth.users.CreateUser(ada())),
        await raised(asyncio.to_thread(blocking.users.CreateUser, ada())),
    ):
        assert isinstance(error, client.AlreadyExistsError)
        assert (error.status, error.reason) == (
            StatusCode.ALREADY_EXISTS,
            ErrorReason.EMAIL_TAKEN,
        )
        assert str(error).startswith("ALREADY_EXISTS EMAIL_TAKEN: ")


async def test_error_of_invalid_request_has_fields(auth):
    error = await raised(auth.users.CreateUser(CreateUserRequest(password="short")))

    assert isinstance(error, client.InvalidRequestError)
    assert error.reason == ErrorReason.INVALID_FIELDS
    assert set(error.fields) == {"email"}
    assert all(error.fields.values())


async def test_each_kind_of_refusal_has_its_exception(auth):
    await auth.users.CreateUser(ada())
    unknown = GetSessionRequest(session_id="0190d9a0-0000-7000-8000-000000000000")
    refusals = {
        client.SessionError: auth.sessions.ValidateSession(UNKNOWN),
        client.CredentialsError: auth.sessions.CreateSession(sign_in(password="a wrong one")),
        client.NotFoundError: auth.sessions.GetSession(unknown),
        client.InvalidRequestError: auth.users.UpdateUser(UpdateUserRequest()),
        client.PreconditionError: auth.sessions.CreateSession(sign_in()),
    }

    assert [type(await raised(call)) for call in refusals.values()] == list(refusals)


async def test_error_works_as_grpc_error(auth, blocking):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await auth.sessions.ValidateSession(UNKNOWN)
    assert caught.value.code() is StatusCode.UNAUTHENTICATED
    assert rpc_status.from_call(caught.value).message == caught.value.details()

    future = blocking.sessions.ValidateSession.future(UNKNOWN)
    error = await asyncio.to_thread(future.exception)
    assert isinstance(error, client.SessionError)
    assert future.code() is StatusCode.UNAUTHENTICATED
    assert isinstance(await raised(asyncio.to_thread(future.result)), client.SessionError)
    called = asyncio.to_thread(blocking.sessions.ValidateSession.with_call, UNKNOWN)
    assert isinstance(await raised(called), client.SessionError)


def test_stream_cancelled_by_client_raises_cancelled(fake):
    with client.connect(fake.address) as auth:
        stream = auth.sessions.WatchSessions(WatchSessionsRequest())
        next(stream)
        stream.cancel()
        with pytest.raises(client.AuthError) as caught:
            list(stream)

    assert caught.value.status is StatusCode.CANCELLED


async def test_error_can_be_pickled(auth):
    error = await raised(auth.sessions.ValidateSession(UNKNOWN))

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own

    assert (type(copy), copy.reason, str(copy)) == (type(error), error.reason, str(error))


async def test_unavailable_service_raises_without_reason(scripted):
    scripted.refusals = [StatusCode.UNAVAILABLE] * 9
    async with client.aio.connect(scripted.address) as auth:
        error = await raised(auth.sessions.ValidateSession(UNKNOWN))

    assert isinstance(error, client.UnavailableError)
    assert (error.reason, error.reason_name) == (0, "")
    assert len(scripted.asked) == 5


@pytest.mark.parametrize("kind", list(failures()), ids=lambda kind: kind.__name__)
def test_every_failure_of_service_is_read(kind):
    failure = kind.__new__(kind)  # its class attributes are enough
    error = auth_error(of_failure(failure))

    assert (error.status, error.reason_name) == (StatusCode[failure.code], failure.reason)
    assert error.reason == ErrorReason.Value(failure.reason)
    assert error.metadata == dict(failure.metadata)
    assert (error.retry_after is None) == (failure.retry_after is None)
    assert type(error) is not client.AuthError or failure.code == "INTERNAL"


def test_unknown_reason_keeps_its_name():
    failed = of_failure(
        SessionRevoked(), lambda rpc: rpc.replace(b"SESSION_REVOKED", b"SESSION_REVIVED")
    )

    error = auth_error(failed)

    assert (error.reason, error.reason_name) == (0, "SESSION_REVIVED")
    assert isinstance(error, client.AuthError)


def of_failure(failure, changed=lambda rpc: rpc):
    """Return the error that gRPC makes of a failure."""
    rpc = rpc_status.to_status(status(failure))
    trailing = grpc.aio.Metadata(*((key, changed(value)) for key, value in rpc.trailing_metadata))
    return grpc.aio.AioRpcError(rpc.code, grpc.aio.Metadata(), trailing, rpc.details)


@pytest.mark.parametrize("in_between", [b"\xff\xff", b"\x1a\x02\x12\xff", "text"])
def test_unreadable_details_leave_the_status(in_between):
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", in_between))
    rpc = grpc.aio.AioRpcError(StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing, "away")

    error = auth_error(rpc)

    assert isinstance(error, client.UnavailableError)
    assert str(error) == "UNAVAILABLE: away"
