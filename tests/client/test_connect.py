"""Connections of the client, and what the client adds to each call."""

import asyncio
import json

import pytest
from google.protobuf import message_factory
from grpc import StatusCode

from tamatar.auth.v1 import (
    diagnostics_service_pb2,
    factor_service_pb2,
    session_service_pb2,
    user_service_pb2,
)
from tamatar.auth.v1.diagnostics_service_pb2 import GetDatabaseInfoRequest
from tamatar.auth.v1.session_service_pb2 import GetSessionRequest
from tamatar.auth.v1.user_service_pb2 import CreateUserRequest, GetUserRequest
from tamatar_auth import client
from tamatar_auth.client import aio, call_defaults
from tamatar_auth.client.target import CHANNEL_OPTIONS, is_local, resolve_target
from tamatar_auth.security.caller_file_editor import CallerFile
from tamatar_auth.security.callers import Role
from tamatar_auth.server.app import run_service
from tamatar_auth.server.build import OPTIONS as SERVER
from tests.conftest import CLIENT_DEADLINES
from tests.support.calls import ada
from tests.support.certificates import DAY, Authority
from tests.support.settings import changed

SPIFFE_ID = "spiffe://example.com/operator"
INFO = GetDatabaseInfoRequest()
SERVICES = (user_service_pb2, session_service_pb2, factor_service_pb2, diagnostics_service_pb2)
UNARY = [
    method
    for file in SERVICES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not (method.client_streaming or method.server_streaming)
]
SERVICE_CONFIG = "protos/tamatar/auth/v1/grpc_service_config.json has the retries of each method"
RUN_ONCE = {
    *("UpdateUser", "DeleteUser", "RestoreUser", "PurgeUser"),
    *("ChangePassword", "VerifyEmail", "ConfirmEmailChange", "ResetPassword"),
    *("CompleteSignIn", "CompleteStepUp", "FinishPasskeyRegistration", "DeleteFactor"),
}
"""The methods whose second run would change more than the first."""


class TestCalls:
    """Calls with retries, deadlines and request ids."""

    async def test_call_succeeds_on_both_kinds_of_channel(self, auth, blocking):
        created = await auth.users.CreateUser(ada())

        request = GetUserRequest(email="ada@example.com")
        assert (await auth.users.GetUser(request)).user == created.user
        assert (await asyncio.to_thread(blocking.users.GetUser, request)).user == created.user
        assert (await asyncio.to_thread(blocking.users.GetUser.future(request).result)).user.email

    def test_service_config_lists_every_unary_method_once(self):
        listed = [
            f"{name['service']}.{name['method']}"
            for entry in json.loads(call_defaults.service_config())["methodConfig"]
            for name in entry["name"]
        ]

        assert sorted(listed) == sorted(method.full_name for method in UNARY), SERVICE_CONFIG

    @pytest.mark.parametrize("method", UNARY, ids=lambda method: method.name)
    @pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.CANCELLED])
    async def test_only_repeatable_calls_are_retried(self, scripted, method, code):
        scripted.refusals = [code]
        async with aio.connect(scripted.address) as auth:
            service = {
                "UserService": auth.users,
                "SessionService": auth.sessions,
                "FactorService": auth.factors,
                "DiagnosticsService": auth.diagnostics,
            }[method.containing_service.name]
            request = message_factory.GetMessageClass(method.input_type)()
            (error,) = await asyncio.gather(
                getattr(service, method.name)(request), return_exceptions=True
            )

        answered = not isinstance(error, client.AuthError)
        assert answered == (method.name not in RUN_ONCE)
        assert answered or error.status is code
        assert len(scripted.asked) == 1 + answered

    async def test_create_user_is_retried_with_same_request_id(self, scripted):
        scripted.refusals = [StatusCode.UNAVAILABLE]
        async with aio.connect(scripted.address) as auth:
            await auth.users.CreateUser(ada())
            mine = str(CreateUserRequest(request_id="mine").request_id)
            await auth.users.CreateUser(ada(request_id=mine))

        first, again, given = (
            CreateUserRequest.FromString(each.request) for each in scripted.asked
        )
        assert first == again
        assert first.request_id
        assert given.request_id == mine
        assert first.email == given.email == "ada@example.com"

    async def test_call_has_default_deadline_unless_given(self, scripted, monkeypatch):
        monkeypatch.setattr(call_defaults, "_DEFAULTS", CLIENT_DEADLINES)

        def most():
            return [each.remaining for each in scripted.taken()]

        def calls(auth):
            auth.sessions.GetSession(GetSessionRequest())
            auth.users.CreateUser(ada())
            auth.users.CreateUser(ada(), timeout=100)

        async with aio.connect(scripted.address) as auth:
            await auth.sessions.GetSession(GetSessionRequest())
            await auth.users.CreateUser(ada())
            await auth.users.CreateUser(ada(), timeout=100)
        in_asyncio = most()
        with client.connect(scripted.address) as auth:
            await asyncio.to_thread(calls, auth)

        for read, hashing, given in (in_asyncio, most()):  # gRPC rounds them up
            assert read < 5 + 1 < hashing < 10 + 1 < given < 101


class TestCredentials:
    """Tokens and certificates of the caller."""

    async def test_changing_token_is_read_for_each_call(self, scripted):
        tokens = iter(["first", "second", "third"])

        async with aio.connect(scripted.address, token=lambda: next(tokens)) as auth:
            await auth.sessions.GetSession(GetSessionRequest())
            await auth.sessions.GetSession(GetSessionRequest(), metadata=(("x-trace", "1"),))
        with client.connect(scripted.address, token=lambda: next(tokens)) as blocking:
            await asyncio.to_thread(blocking.sessions.GetSession, GetSessionRequest())

        shown = [each.metadata for each in scripted.asked]
        assert [each["authorization"] for each in shown] == [
            "Bearer first",
            "Bearer second",
            "Bearer third",
        ]
        assert shown[1]["x-trace"] == "1"

    @pytest.mark.parametrize("module", [client, aio], ids=["blocking", "asyncio"])
    async def test_token_is_stripped_of_line_end_and_validated(self, scripted, module):
        async def call(token):
            auth = module.connect(scripted.address, token=lambda: token)
            try:
                if module is aio:
                    return await auth.users.GetUser(GetUserRequest())
                return await asyncio.to_thread(auth.users.GetUser, GetUserRequest())
            finally:
                await (auth.close() if module is aio else asyncio.to_thread(auth.close))

        await call("tmc_one\r\n")

        assert [each.metadata["authorization"] for each in scripted.taken()] == ["Bearer tmc_one"]
        for token in ("", "\n", "tmc_secret tmc_two", "tmc_secret\ntmc_two", "tmc_secr\u00e9t"):
            with pytest.raises(ValueError, match="token of this caller") as raised:
                await call(token)
            assert "tmc_" not in str(raised.value)
        assert not scripted.asked

    async def test_caller_is_known_by_token_or_certificate(self, settings, tmp_path):
        authority, callers = Authority.make(), tmp_path / "callers.toml"
        token = CallerFile(callers).add("operator", [Role.ADMIN], DAY * 30, spiffe_ids=[SPIFFE_ID])
        certificate, key = authority.sign("localhost").write(tmp_path)
        root = tmp_path / "ca.pem"
        root.write_bytes(authority.root.pem)
        shown = authority.sign(SPIFFE_ID)
        with_tls = {"tls_certificate_file": certificate, "tls_key_file": key}
        encrypted = changed(settings, callers_file=callers, **with_tls)
        mutual = changed(encrypted, tls_client_ca_file=root)

        async with run_service(encrypted) as service:
            address = f"localhost:{service.addresses[0].port}"
            async with aio.connect(address, token=token.text, root_certificates=root) as auth:
                assert await auth.diagnostics.GetDatabaseInfo(INFO)
            async with aio.connect(address, root_certificates=root) as auth:
                with pytest.raises(client.CallerError):
                    await auth.diagnostics.GetDatabaseInfo(INFO)
        async with run_service(mutual) as service:
            address = f"127.0.0.1:{service.addresses[0].port}"
            async with aio.connect(
                address,
                root_certificates=authority.root.pem,
                certificate=shown.pem,
                private_key=shown.key,
                server_name="localhost",
            ) as auth:
                assert await auth.diagnostics.GetDatabaseInfo(INFO)


class TestTransport:
    """Plaintext, TLS and keepalives."""

    @pytest.mark.parametrize(
        ("address", "expected"),
        [
            ("127.0.0.1:50051", True),
            ("localhost:50051", True),
            ("[::1]:50051", True),
            ("ipv6:[::1]:50051", True),
            ("dns:///localhost:50051", True),
            ("ipv4:127.0.0.1:50051,127.0.0.2:50051", True),
            ("127.0.0.1:50051,127.0.0.2:50052", True),
            ("unix:/run/auth.sock", True),
            ("unix:///run/auth.sock", True),
            ("auth.example.com:50051", False),
            ("127.0.0.1.example.com:50051", False),
            ("localhost.example.com", False),
            ("dns:///auth.example.com:50051", False),
            ("[2001:db8::1]:50051", False),
        ],
    )
    def test_plaintext_is_default_for_local_address_only(self, address, expected):
        assert is_local(address) == expected
        assert (resolve_target(address, {}).credentials is None) == expected

    @pytest.mark.parametrize(
        "address",
        [
            "",
            "auth example.com:50051",
            "http://auth.example.com:50051",
            "https://auth.example.com",
            "auth.example.com:0",
            "auth.example.com:65536",
            "auth.example.com:port",
            "auth.example.com:",
            "ada@auth.example.com:50051",
            "::1",
            "unix:",
        ],
    )
    def test_malformed_address_raises(self, address):
        with pytest.raises(ValueError, match="the address must be host:port"):
            client.connect(address)
        with pytest.raises(ValueError, match="the address must be host:port"):
            aio.connect(address)

    @pytest.mark.parametrize(
        ("address", "target"),
        [
            ("10.0.0.1:50051,10.0.0.2:50052", "ipv4:10.0.0.1:50051,10.0.0.2:50052"),
            ("[2001:db8::1]:1,[2001:db8::2]:1", "ipv6:[2001:db8::1]:1,[2001:db8::2]:1"),
            ("10.0.0.1:50051", "10.0.0.1:50051"),
        ],
    )
    def test_list_of_addresses_is_one_target(self, address, target):
        assert resolve_target(address, {"plaintext": True}).address == target

    @pytest.mark.parametrize(
        "address",
        [
            "a.example.com:50051,b.example.com:50051",
            "10.0.0.1:50051,b.example.com:50051",
            "10.0.0.1:50051,[2001:db8::2]:50051",
            "10.0.0.1,10.0.0.2",
        ],
    )
    def test_list_with_names_raises(self, address):
        with pytest.raises(ValueError, match="one name that resolves to all of them"):
            client.connect(address)

    def test_list_with_tls_needs_server_name(self):
        addresses = "10.0.0.1:50051,10.0.0.2:50051"

        with pytest.raises(ValueError, match="server_name"):
            client.connect(addresses)
        assert resolve_target(addresses, {"server_name": "auth.example.com"}).credentials
        assert not is_local("ipv4:127.0.0.1:50051,10.0.0.1:50051")

    @pytest.mark.parametrize("address", ["ipv4:10.0.0.1:50051", "ipv6:[2001:db8::1]:50051"])
    def test_single_address_with_tls_needs_no_server_name(self, address):
        assert resolve_target(address, {}).credentials

    @pytest.mark.parametrize(
        ("address", "expected"),
        [
            ("127.0.0.1:50051", True),
            ("[2001:db8::1]:50051", True),
            ("dns:///localhost:50051", True),
            ("unix:/run/auth.sock", True),
            ("auth.example.com:50051", False),
            ("dns:///auth.example.com:50051", False),
            ("127.0.0.1:50051,127.0.0.2:50051", False),
        ],
    )
    def test_health_is_checked_if_address_may_be_several(self, address, expected):
        options = dict(resolve_target(address, {}).options)

        assert options.get("grpc.inhibit_health_checking", 0) == expected
        assert json.loads(options["grpc.service_config"])["healthCheckConfig"] == {
            "serviceName": ""
        }

    def test_explicit_plaintext_or_tls_is_obeyed(self):
        assert resolve_target("auth.example.com:50051", {"plaintext": True}).credentials is None
        assert resolve_target("localhost:50051", {"plaintext": False}).credentials is not None
        assert (
            resolve_target("localhost:50051", {"root_certificates": b"PEM"}).credentials is not None
        )

    @pytest.mark.parametrize(
        "how",
        [
            {"certificate": b"PEM"},
            {"private_key": b"PEM"},
            {"plaintext": True, "root_certificates": b"PEM"},
        ],
    )
    def test_contradictory_arguments_are_refused(self, how):
        with pytest.raises(ValueError, match="certificate"):
            client.connect("localhost:50051", **how)

    def test_client_keepalive_is_slower_than_server_limit(self):
        options = dict(CHANNEL_OPTIONS)

        assert (
            options["grpc.keepalive_time_ms"]
            > 1.2 * dict(SERVER)["grpc.http2.min_ping_interval_without_data_ms"]
        )
        assert options["grpc.http2.ping_timeout_ms"] <= options["grpc.keepalive_timeout_ms"]
