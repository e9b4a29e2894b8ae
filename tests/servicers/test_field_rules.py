"""Every field of every request: a wrong value is refused by the field's name."""

import random
from string import ascii_lowercase
from typing import Any, NamedTuple
from uuid import uuid4

import grpc
import pytest
from google.api.field_behavior_pb2 import REQUIRED, field_behavior
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from tamatar.auth.v1 import (
    diagnostics_service_pb2,
    portable_user_pb2,
    session_service_pb2,
    user_pb2,
    user_service_pb2,
)
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.server.app import run_service
from tamatar_auth.servicers.field_rules import FieldRules
from tests.server.test_app import channel_to
from tests.support.calls import PASSWORD, ada, read_refusal, refused, sign_in, verify
from tests.support.settings import changed as changed_settings

SERVICES = [
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (user_service_pb2, "UserService"),
        (session_service_pb2, "SessionService"),
        (diagnostics_service_pb2, "DiagnosticsService"),
    )
]
METHODS = [method for service in SERVICES for method in service.methods]
STREAMS = {method.name for method in METHODS if method.server_streaming}
REQUESTS = [method.input_type for method in METHODS]
REQUESTS += [portable_user_pb2.DESCRIPTOR.message_types_by_name["PortableUser"]]
BULK = {method.name for method in METHODS if method.client_streaming}
"""Streams of requests: an item's broken rule is part of a response, not of the status."""

# Values of valid requests, so that only the field under test is wrong.
GOOD: dict[str, dict[str, Any]] = {
    "CreateUserRequest": {"email": "ada@example.com"},
    "GetUserRequest": {"user_id": str(uuid4())},
    "BatchGetUsersRequest": {"user_ids": [str(uuid4())]},
    "UpdateUserRequest": {
        "user_id": str(uuid4()),
        "email": "ada@example.com",
        "update_mask": {"paths": ["email"]},
    },
    "RevokeSessionRequest": {"session_id": str(uuid4())},
    "CreateSessionRequest": {"email": "ada@example.com", "password": "correct horse"},
    "ValidateSessionRequest": {"session_token": "tms_x"},
    "BatchValidateSessionsRequest": {"session_tokens": ["tms_x"]},
    "RefreshSessionRequest": {"session_token": "tms_x"},
    "ChangePasswordRequest": {
        "user_id": str(uuid4()),
        "current_password": "correct horse battery",
        "new_password": "correct horse battery",
    },
    "VerifyEmailRequest": {"token": "tmu_x"},
    "CreateEmailChangeRequest": {"user_id": str(uuid4()), "email": "ada@example.com"},
    "ConfirmEmailChangeRequest": {"token": "tmu_x"},
    "CreatePasswordResetRequest": {"email": "ada@example.com"},
    "ResetPasswordRequest": {"token": "tmu_x", "new_password": "correct horse battery"},
    "GetSessionRequest": {"session_id": str(uuid4())},
    "CompleteSignInRequest": {"challenge_token": "tmc_x"},
    "CompleteStepUpRequest": {"challenge_token": "tmc_x", "session_token": "tms_x"},
    "FinishPasskeyRegistrationRequest": {"registration_token": "tmc_x"},
}


class Case(NamedTuple):
    """A request with one wrong field."""

    method: str
    path: str
    what: str
    request: Message

    def __str__(self) -> str:
        return f"{self.method.rpartition('/')[2]}-{self.path}-{self.what}"


def good(message: Descriptor) -> Message:
    """Build a valid request."""
    values = GOOD.get(message.name)
    if values is None:
        values = {"user_id": str(uuid4())} if "user_id" in message.fields_by_name else {}
    return GetMessageClass(message)(**values)


def wrong_values(field: FieldDescriptor) -> list[tuple[str, Any]]:
    """Return what no field of this type may hold."""
    if field.name.endswith("_json"):  # JSON may have line breaks
        return [("too long", "a" * 17_000)]
    if field.type == FieldDescriptor.TYPE_STRING:
        return [
            ("too long", "a" * 5000),
            ("too long in bytes", "😀" * 2100),
            ("NUL", "ada\0@example.com"),
            ("line break", "ada\r@example.com"),
            ("escape", "\x1b[31mada@example.com"),
        ]
    if field.type == FieldDescriptor.TYPE_INT32:
        return [("negative", -1), ("most negative", -(2**31))]
    if field.type == FieldDescriptor.TYPE_ENUM:
        return [("unknown", 99), ("negative", -1)]
    return []


def wrong_messages(kind: Descriptor) -> list[tuple[str, Message]]:
    """Return what no message field of this type may hold."""
    if kind.name == "Timestamp":
        return [
            ("too late", Timestamp(seconds=253402300800)),
            ("too early", Timestamp(seconds=-62135596801)),
            ("of too many nanoseconds", Timestamp(nanos=2_000_000_000)),
            ("of negative nanoseconds", Timestamp(nanos=-1)),
        ]
    if kind.name == "FieldMask":
        mask = GetMessageClass(kind)
        return [
            ("empty", mask()),
            ("unknown", mask(paths=["nope"])),
            ("NUL", mask(paths=["\0"])),
            ("too long", mask(paths=["email" * 1000])),
        ]
    return []


def cases() -> list[Case]:
    """Return a case for each field of each request and each way to be wrong."""
    found: list[Case] = []
    for method in METHODS:
        if method.name in BULK:
            continue
        path = f"/{method.containing_service.full_name}/{method.name}"

        def visit(fields: list[FieldDescriptor], prefix: str, method: Any, path: str) -> None:
            for field in fields:
                where = f"{prefix}{field.name}"
                for what, value in wrong_of(field):
                    request = good(method.input_type)
                    put(request, [*prefix.split(".")[:-1]], field, value)
                    said = f"{where}[0]" if field.is_repeated else where
                    found.append(Case(path, said, what, request))
                if field.message_type and not field.message_type.full_name.startswith("google."):
                    visit(list(field.message_type.fields), f"{where}.", method, path)

        visit(list(method.input_type.fields), "", method, path)
    return found


def wrong_of(field: FieldDescriptor) -> list[tuple[str, Any]]:
    return wrong_messages(field.message_type) if field.message_type else wrong_values(field)


def put(request: Message, parents: list[str], field: FieldDescriptor, value: Any) -> None:
    """Set a field of a request, or of a message in it."""
    holder: Any = request
    for parent in parents:
        holder = getattr(holder, parent)
    if field.is_repeated:
        del getattr(holder, field.name)[:]
        getattr(holder, field.name).append(value)
    elif field.message_type:
        getattr(holder, field.name).CopyFrom(value)
    else:
        setattr(holder, field.name, value)


CASES = cases()


def no_utf8(message):
    """Encode each text field of a message with invalid UTF-8."""
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield bytes([field.number << 3 | 2, 2]) + b"\xc3\x28"


LONGEST = "😀" * 256


def varied(letters, length):
    """Return a text without repetitions and sequences."""
    return "".join(random.Random(length).choices(letters, k=length))


class TestPasswords:
    """Lengths of passwords."""

    @pytest.mark.parametrize(
        "password",
        [varied("äöüßéè", 37), varied(ascii_lowercase, 73), varied("😀😁😂😃😄😅", 256)],
        ids=["two bytes", "one byte", "four bytes"],
    )
    async def test_password_longer_than_72_bytes_counts_whole(
        self, users, sessions, database, password
    ):
        created = await users.CreateUser(ada(password=password))
        await verify(database, created.user)

        await sessions.CreateSession(sign_in(password=password))
        shorter = sign_in(password=password[:-1])
        assert (await refused(sessions.CreateSession(shorter))).reason == "INVALID_CREDENTIALS"

    async def test_password_longer_than_256_characters_is_refused(self, users, sessions):
        rule = "must have at most 256 characters"
        for call_, field in (
            (users.CreateUser(ada(password=LONGEST + "a")), "password"),
            (sessions.CreateSession(sign_in(password=LONGEST + "a")), "password"),
            (users.ChangePassword(changed(current_password=LONGEST + "a")), "current_password"),
            (users.ChangePassword(changed(new_password=LONGEST + "a")), "new_password"),
            (users.ResetPassword(reset(new_password=LONGEST + "a")), "new_password"),
        ):
            assert (await refused(call_)).fields == {field: rule}

    async def test_empty_required_password_is_refused(self, users, sessions):
        rule = "must have at least 1 character"
        for call_, field in (
            (sessions.CreateSession(sign_in(password="")), "password"),
            (users.ChangePassword(changed(current_password="")), "current_password"),
            (users.ChangePassword(changed(new_password="")), "new_password"),
            (users.ResetPassword(reset(new_password="")), "new_password"),
        ):
            assert (await refused(call_)).fields == {field: rule}

    async def test_password_min_length_is_a_setting(self, settings, database):
        short = changed_settings(settings, password_min_length=8)
        async with run_service(short) as service, channel_to(service) as channel:
            users = UserServiceStub(channel)
            await users.CreateUser(ada(password="8 signs!"))
            refusal = await refused(
                users.CreateUser(ada(email="b@example.com", password="7 signs"))
            )
            assert refusal.fields == {"password": "must have at least 8 characters"}


def changed(**given):
    values = {"user_id": str(uuid4()), "current_password": PASSWORD, "new_password": PASSWORD}
    return user_service_pb2.ChangePasswordRequest(**(values | given))


def reset(**given):
    values = {"token": "tmu_x", "new_password": PASSWORD}
    return user_service_pb2.ResetPasswordRequest(**(values | given))


class TestFields:
    """Rules of fields, which name what is wrong."""

    def test_cases_cover_every_method_with_fields(self):
        assert len(CASES) > 200
        named = {case.method.rpartition("/")[2] for case in CASES}
        without_fields = {"GetCaller", "GetDatabaseInfo", "ListSlowestQueries", "WatchSessions"}
        assert named == {method.name for method in METHODS} - without_fields - BULK

    @pytest.mark.parametrize("case", CASES, ids=str)
    async def test_wrong_field_is_refused_by_name(self, channel, case):
        said = await refused(call(channel, case.method)(case.request.SerializeToString()))

        assert said.code is StatusCode.INVALID_ARGUMENT
        if said.reason == "INVALID_PAGE_TOKEN":
            assert case.path == "page_token"
        else:
            assert said.reason == "INVALID_FIELDS"
            assert any(
                name == case.path or case.path.startswith(f"{name}.") for name in said.fields
            )
        assert "ada" not in said.message + str(said.fields)

    @pytest.mark.parametrize(
        ("request_type", "choice"),
        [("GetUser", "identifier"), ("CreateSession", "identifier"), ("RevokeSession", "session")],
    )
    async def test_missing_choice_is_refused_by_name(self, channel, request_type, choice):
        method = next(method for method in METHODS if method.name == request_type)
        path = f"/{method.containing_service.full_name}/{method.name}"

        said = await refused(call(channel, path)(b""))

        assert said.code is StatusCode.INVALID_ARGUMENT
        assert choice in said.fields

    @pytest.mark.parametrize("message", REQUESTS, ids=lambda message: message.name)
    def test_field_is_required_if_its_empty_value_is_refused(self, message):
        choices = {choice.name for choice in message.oneofs}
        empty = GetMessageClass(message)()

        refused_fields = {broken.field for broken in FieldRules().broken_rules(empty)} - choices

        assert refused_fields == {
            field.name
            for field in message.fields
            if REQUIRED in field.GetOptions().Extensions[field_behavior]
        }

    @pytest.mark.parametrize("prefix", ["email_prefix", "username_prefix"])
    async def test_empty_prefix_filter_is_refused(self, users, prefix):
        request = user_service_pb2.ListUsersRequest(filter={prefix: ""})

        assert list((await refused(users.ListUsers(request))).fields) == [f"filter.{prefix}"]

    async def test_several_broken_rules_are_all_named(self, users):
        request = user_service_pb2.CreateUserRequest(
            email="", password="x" * 257, username="-", profile=user_pb2.UserProfile(locale="!")
        )

        said = await refused(users.CreateUser(request))

        assert said.fields == {
            "email": "must have at least 1 character",
            "password": "must have at most 256 characters",
            "username": "has a character or a form that is not allowed",
            "profile.locale": "has a character or a form that is not allowed",
        }

    async def test_broken_rules_in_status_are_limited(self, users):
        request = user_service_pb2.BatchGetUsersRequest(user_ids=["x"] * 1000)

        said = await refused(users.BatchGetUsers(request))

        assert said.code is StatusCode.INVALID_ARGUMENT
        assert len(said.fields) == 20

    @pytest.mark.parametrize(
        "address", ["fe80::1%eth0", "127.0.0.1/8", "127.1", "::g", "1.2.3.4:5"]
    )
    async def test_malformed_client_address_is_refused(self, sessions, address):
        request = session_service_pb2.CreateSessionRequest(
            email="ada@example.com", password="correct horse", client={"ip_address": address}
        )

        said = await refused(sessions.CreateSession(request))

        assert (said.reason, list(said.fields)) == ("INVALID_FIELDS", ["client.ip_address"])


class TestMessages:
    """Messages and methods that cannot be read."""

    @pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
    async def test_malformed_message_is_refused(self, channel, method):
        path = f"/{method.containing_service.full_name}/{method.name}"
        dice = random.Random(method.full_name)
        outcomes = []
        garbage = [b"\x0a\xff", b"\xff" * 20, b"\x0a\x7fx", *no_utf8(method.input_type)]
        for data in garbage:
            outcomes.append(await refused(call(channel, path)(data)))  # noqa: PERF401 - one by one
        for _ in range(20):
            garbage = dice.randbytes(dice.randrange(1, 40))
            try:
                await call(channel, path)(garbage)
            except grpc.aio.AioRpcError as error:
                outcomes.append(read_refusal(error))

        for said in outcomes:
            assert said.code in {StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND}
            assert said.reason

    async def test_message_above_size_limit_is_refused(self, users):
        request = user_service_pb2.CreateUserRequest(email="a" * 100_000)

        assert (await refused(users.CreateUser(request))).code is StatusCode.RESOURCE_EXHAUSTED

    async def test_unknown_method_is_unimplemented(self, channel):
        said = await refused(call(channel, "/tamatar.auth.v1.UserService/Nope")(b""))

        assert said.code is StatusCode.UNIMPLEMENTED


def call(channel: grpc.aio.Channel, path: str) -> Any:
    """Call a method with bytes, so that the client checks nothing.

    Return the first response of a stream.
    """
    if path.rpartition("/")[2] not in STREAMS:
        return channel.unary_unary(path)

    async def first(request: bytes) -> Any:
        begin: Any = channel.unary_stream(path)
        stream = begin(request)
        try:
            return await stream.read()
        finally:
            stream.cancel()

    return first
