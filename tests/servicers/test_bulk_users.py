"""ImportUsers and ExportUsers: each user once, however often it is sent."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import bcrypt
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode
from sqlalchemy import text

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.user_pb2 import UserProfile
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.server.app import run_service
from tests.server.test_app import channel_to
from tests.servicers.test_field_rules import put, wrong_of
from tests.support.calls import PASSWORD, ada, read_refusal, refused, sign_in, verify
from tests.support.waiting import eventually, lock_is_waited_for

HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
CREATED, EXISTS = "CREATED", "EXISTS"


def grace(**given):
    """Return a user of another system."""
    return PortableUser(**{"email": "grace@example.com", "first_name": "Grace"} | given)


async def send(users, *chunks, validate_only=False):
    """Send one request for each list of users; return the responses."""
    requests = [pb.ImportUsersRequest(users=chunk, validate_only=validate_only) for chunk in chunks]
    return [answer async for answer in users.ImportUsers(iter(requests))]


async def imported(users, *arrivals, **given):
    """Send users in one request; return the outcome of each as a word."""
    (answer,) = await send(users, arrivals, **given)
    return [outcome(result) for result in answer.results]


def outcome(result):
    if result.reason:
        return ErrorReason.Name(result.reason)
    return pb.ImportOutcome.Name(result.outcome).removeprefix("IMPORT_OUTCOME_")


async def count(database):
    async with database.read() as db:
        query = "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM user_profiles)"
        return tuple((await db.connection.execute(text(query))).one())


async def read(users, email="grace@example.com", **given):
    request = pb.GetUserRequest(email=email, include_profile=True, **given)
    return await users.GetUser(request)


BAD = {
    "no address": ({"email": ""}, "email"),
    "an address that is none": ({"email": "grace"}, "email"),
    "a bio with an escape": ({"profile": {"bio": "\x1b[31m"}}, "profile.bio"),
    "a name of no form": ({"username": "-grace"}, "username"),
    "a picture of no kind": ({"avatar_url": "javascript:alert(1)"}, "avatar_url"),
    "an id that is none": ({"user_id": "17"}, "user_id"),
    "a password": ({"password_hash": PASSWORD}, "password_hash"),
    "a hash of ours": ({"password_hash": f"$hmac-sha384$k{HASH}"}, "password_hash"),
    "a hash that takes a minute": (
        {"password_hash": HASH.replace("$04$", "$20$")},
        "password_hash",
    ),
    "a hash that takes years": ({"password_hash": HASH.replace("$04$", "$31$")}, "password_hash"),
    "a salt that cannot be": ({"password_hash": HASH[:28] + "A" + HASH[29:]}, "password_hash"),
    "a hash that is cut": ({"password_hash": HASH[:-1]}, "password_hash"),
    "a birth to come": ({"create_time": Timestamp(seconds=32_503_680_000)}, "create_time"),
    "a birth before time": ({"create_time": Timestamp(seconds=-(10**12))}, "create_time"),
}


def wrong_fields(message=PortableUser.DESCRIPTOR, path=""):
    """Yield each field of a user with each value that it must not hold."""
    for field in message.fields:
        for what, value in wrong_of(field):
            yield f"{path}{field.name}", what, value
        if field.message_type is UserProfile.DESCRIPTOR:
            yield from wrong_fields(field.message_type, f"{field.name}.")


def descriptor(path):
    field = PortableUser.DESCRIPTOR
    for name in path.split("."):
        field = (field.message_type if hasattr(field, "message_type") else field).fields_by_name[
            name
        ]
    return field


async def rows(database):
    async with database.read() as db:
        query = "SELECT * FROM users JOIN user_profiles ON user_id = id ORDER BY id"
        return (await db.connection.execute(text(query))).all()


class TestConflicts:
    """Users that are refused, and users in their way."""

    @pytest.mark.parametrize("what", BAD)
    async def test_import_with_bad_user_refuses_it_alone_by_field(self, users, database, what):
        given, field = BAD[what]
        good = [grace(email=f"good{number}@example.com") for number in range(2)]

        (answer,) = await send(users, [good[0], grace(**given), good[1]])

        assert [outcome(result) for result in answer.results] == [
            CREATED,
            "INVALID_FIELDS",
            CREATED,
        ]
        (broken,) = answer.results[1].broken_rules
        assert broken.field == field
        assert broken.description.startswith(("must", "has"))
        assert PASSWORD not in broken.description
        assert not answer.results[1].user_id
        assert await count(database) == (2, 2)

    async def test_import_with_wrong_field_names_it(self, users, database):
        cases = list(wrong_fields())
        arrivals = []
        for path, _, value in cases:
            arrivals.append(grace())
            put(arrivals[-1], path.split(".")[:-1], descriptor(path), value)

        results = []
        for arrival in arrivals:
            results += (await send(users, [arrival]))[0].results

        assert len(cases) > 50
        for (path, what, _), result in zip(cases, results, strict=True):
            assert outcome(result) == "INVALID_FIELDS", (path, what)
            assert {broken.field for broken in result.broken_rules} == {path}, what
        assert await count(database) == (0, 0)

    async def test_import_with_several_broken_rules_names_all(self, users):
        bad = PortableUser(username="g", first_name="x" * 101, profile={"locale": "?"})

        (answer,) = await send(users, [bad])

        fields = {broken.field for broken in answer.results[0].broken_rules}
        assert fields == {"email", "username", "first_name", "profile.locale"}

    async def test_import_with_taken_names_is_refused(self, users, database):
        there = (await users.CreateUser(ada(username="ada"))).user
        arrivals = {
            "EMAIL_TAKEN": grace(email="ADA@example.com"),
            "USERNAME_TAKEN": grace(username="ADA"),
            "USER_ID_TAKEN": grace(user_id=there.user_id),
            EXISTS: grace(user_id=there.user_id, email="ada@example.com"),
        }

        assert await imported(users, *arrivals.values()) == list(arrivals)
        assert (await read(users, "ada@example.com")).user == there
        assert await count(database) == (1, 1)

    async def test_import_may_reuse_names_of_deleted_user(self, users):
        there = (await users.CreateUser(ada(username="grace", email="grace@example.com"))).user
        await users.DeleteUser(pb.DeleteUserRequest(user_id=there.user_id))

        assert await imported(users, grace(username="grace")) == [CREATED]

    async def test_import_with_conflicts_in_one_request_keeps_first(self, users, database):
        key = str(uuid4())
        arrivals = [
            grace(),
            grace(),
            grace(first_name="Other"),
            grace(email="a@example.com", username="same"),
            grace(email="b@example.com", username="same"),
            grace(email="d@example.com", user_id=key),
            grace(email="c@example.com", user_id=key),
            grace(email="d@example.com", user_id=key),
        ]

        said = await imported(users, *arrivals)

        assert said == [
            *(CREATED, EXISTS, "IMPORTED_DIFFERENTLY"),
            *(CREATED, "USERNAME_TAKEN"),
            *(CREATED, "IMPORTED_DIFFERENTLY", EXISTS),
        ]
        assert await count(database) == (3, 3)

    async def test_import_validate_only_reports_same_and_keeps_nothing(self, users, database):
        arrivals = [grace(), grace(email="nowhere"), grace(first_name="Other")]

        rehearsed = await imported(users, *arrivals, validate_only=True)

        assert await count(database) == (0, 0)
        assert rehearsed == await imported(users, *arrivals)
        assert await count(database) == (1, 1)


class TestRepeatedImport:
    """Users that are imported again."""

    async def test_import_repeated_changes_nothing(self, users, database):
        arrivals = [
            grace(),
            grace(email="ada@example.com", username="ada", password_hash=HASH),
            grace(email="bob@example.com", user_id=str(uuid4())),
        ]
        (first,) = await send(users, arrivals)
        before = await rows(database)

        (again,) = await send(users, arrivals)

        assert [outcome(result) for result in again.results] == [EXISTS] * 3
        assert [one.user_id for one in again.results] == [one.user_id for one in first.results]
        assert await rows(database) == before

    async def test_import_repeated_keeps_later_changes(self, users, sessions):
        arrival = grace(password_hash=HASH, email_verified=True)
        await imported(users, arrival)
        await sessions.CreateSession(sign_in(email="grace@example.com"))
        user = (await read(users)).user
        request = pb.UpdateUserRequest(user_id=user.user_id, email="hopper@example.com")
        request.update_mask.paths.append("email")
        await users.UpdateUser(request)

        assert await imported(users, arrival) == [EXISTS]
        assert (await read(users, "hopper@example.com")).user.user_id == user.user_id

    async def test_import_repeated_leaves_deleted_user_deleted(self, users, database):
        await imported(users, grace())
        user = (await read(users)).user
        await users.DeleteUser(pb.DeleteUserRequest(user_id=user.user_id))

        assert await imported(users, grace()) == [EXISTS]
        assert (await read(users, include_deleted=True)).user.HasField("delete_time")
        assert await count(database) == (1, 1)

    async def test_import_of_same_user_with_other_content_is_refused(self, users):
        key = str(uuid4())
        await imported(users, grace(), grace(user_id=key, email="ada@example.com"))

        again = [grace(first_name="Other"), grace(user_id=key, email="other@example.com")]

        assert await imported(users, *again) == ["IMPORTED_DIFFERENTLY"] * 2
        assert (await read(users)).user.first_name == "Grace"

    @pytest.mark.parametrize(
        "change",
        [
            {"username": "grace"},
            {"last_name": "Hopper"},
            {"avatar_url": "https://example.com/g.png"},
            {"profile": {"bio": "COBOL"}},
            {"email_verified": True},
            {"is_active": False},
            {"password_hash": HASH},
            {"create_time": Timestamp(seconds=1_000_000_000)},
        ],
        ids=lambda change: next(iter(change)),
    )
    async def test_import_compares_every_field(self, users, change):
        await imported(users, grace())

        assert await imported(users, grace(**change)) == ["IMPORTED_DIFFERENTLY"]

    async def test_import_compares_normalised_values(self, users):
        await imported(users, grace(username="grace", is_active=True))

        assert await imported(users, grace(email="Grace@Example.com", username="Grace")) == [EXISTS]

    async def test_concurrent_imports_create_each_user_once(self, settings, users, database):
        people = [
            grace(email=f"g{number}@example.com", username=f"grace{number}") for number in range(60)
        ]
        orders = [people, people[::-1], people[30:] + people[:30], people[::2] + people[1::2]]
        async with run_service(settings) as other, channel_to(other) as channel:
            stubs = [users, UserServiceStub(channel)] * 2

            answers = await asyncio.gather(
                *(send(stub, *chunks(order)) for stub, order in zip(stubs, orders, strict=True))
            )

        said = [outcome(result) for answer in answers for one in answer for result in one.results]
        assert sorted(said) == [CREATED] * 60 + [EXISTS] * 180
        assert await count(database) == (60, 60)


def chunks(people):
    return [people[start : start + 7] for start in range(0, len(people), 7)]


class TestStream:
    """The stream of requests and responses."""

    async def test_import_requests_are_answered_in_order(self, users, database):
        call = users.ImportUsers()
        for number in range(3):
            await call.write(pb.ImportUsersRequest(users=[grace(email=f"g{number}@example.com")]))
            (result,) = (await call.read()).results
            assert (await read(users, f"g{number}@example.com")).user.user_id == result.user_id
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF
        assert await call.code() is StatusCode.OK

    async def test_import_request_is_limited_to_500_users(self, users, database):
        crowd = [PortableUser(email=f"g{number}@example.com") for number in range(501)]

        (answer,) = await send(users, crowd[:500])
        said = await refused(
            anext(aiter(users.ImportUsers(iter([pb.ImportUsersRequest(users=crowd)]))))
        )

        assert {outcome(result) for result in answer.results} == {CREATED}
        assert (said.code, said.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert said.fields == {"users": "must have at most 500 items"}
        assert await count(database) == (500, 500)

    async def test_import_request_without_users_returns_no_results(self, users):
        empty, one = await send(users, [], [grace()])

        assert (len(empty.results), len(one.results)) == (0, 1)

    async def test_import_with_malformed_message_ends_stream(self, channel):
        raw = channel.stream_stream("/tamatar.auth.v1.UserService/ImportUsers")

        said = await refused(anext(aiter(raw(iter([b"\x0a\xff"])))))

        assert (said.code, said.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")

    async def test_import_waits_for_uncommitted_creation(self, users, database):
        async with database.transaction() as tx:
            insert = "INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'grace@example.com')"
            await tx.connection.execute(text(insert))
            importing = asyncio.create_task(imported(users, grace()))
            await eventually(lambda: lock_is_waited_for(database))
        assert await importing == ["EMAIL_TAKEN"]

    async def test_server_stop_ends_import_and_keeps_answered_users(
        self, settings, users, database
    ):
        async with run_service(settings) as other, channel_to(other) as channel:
            call = UserServiceStub(channel).ImportUsers()
            await call.write(pb.ImportUsersRequest(users=[grace()]))
            await call.read()
            other.components.drain.end_streams()
            said = await refused(call.read())

        assert (said.code, said.reason) == (StatusCode.UNAVAILABLE, "SERVICE_STOPPING")
        assert await imported(users, grace(), grace(email="next@example.com")) == [EXISTS, CREATED]

    @pytest.mark.parametrize("moment", range(8))
    async def test_server_stop_during_answers_ends_every_import(self, settings, database, moment):
        async with run_service(settings) as other, channel_to(other) as channel:
            calls = [UserServiceStub(channel).ImportUsers() for _ in range(6)]
            for number, call in enumerate(calls):
                arrival = grace(email=f"g{number}@example.com")
                await call.write(pb.ImportUsersRequest(users=[arrival]))
            await calls[moment % 6].read()
            await asyncio.sleep(moment / 500)
            other.components.drain.end_streams()

            for call in calls:
                assert await reason_of_the_end(call) == "SERVICE_STOPPING"


async def reason_of_the_end(call):
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return read_refusal(error).reason


async def export(users, **given):
    return [answer async for answer in users.ExportUsers(pb.ExportUsersRequest(**given))]


class TestExport:
    """ExportUsers."""

    async def test_export_returns_live_users_in_order_of_ids(self, users, database):
        crowd = [PortableUser(email=f"g{number}@example.com") for number in range(500)]
        await send(users, crowd, [grace(), grace(email="gone@example.com")])
        gone = (await read(users, "gone@example.com")).user
        await users.DeleteUser(pb.DeleteUserRequest(user_id=gone.user_id))

        first, second = await export(users)

        assert (len(first.users), len(second.users)) == (500, 1)
        exported = [one.user for one in (*first.users, *second.users)]
        assert [one.user_id for one in exported] == sorted(one.user_id for one in exported)
        assert {one.email for one in exported} == {one.email for one in (*crowd, grace())}

    async def test_export_after_user_id_resumes(self, users, database):
        await send(users, [grace(email=f"g{number}@example.com") for number in range(4)])
        (whole,) = await export(users)

        (rest,) = await export(users, after_user_id=whole.users[1].user.user_id)

        assert list(rest.users) == list(whole.users[2:])
        assert await export(users, after_user_id=whole.users[3].user.user_id) == []

    async def test_export_includes_hashes_on_request_but_no_keyed_ones(self, users, database):
        await users.CreateUser(ada())
        arrival = grace(password_hash=HASH, username="grace", profile={"bio": "COBOL"})
        await send(users, [arrival, grace(email="none@example.com")])

        (silent,), (full,) = await export(users), await export(users, include_password_hashes=True)

        assert {one.user.email: one.password_kept for one in silent.users} == {
            "ada@example.com": True,
            "grace@example.com": True,
            "none@example.com": False,
        }
        assert not any(one.user.password_hash for one in silent.users)
        by_email = {one.user.email: one for one in full.users}
        assert by_email["grace@example.com"].user.password_hash == HASH
        assert not by_email["grace@example.com"].password_kept
        assert not by_email["ada@example.com"].user.password_hash
        assert by_email["ada@example.com"].password_kept

    async def test_exported_users_can_be_imported(
        self, settings, users, database, migrated_database
    ):
        await users.CreateUser(ada(username="ada", profile={"bio": "Notes"}))
        barred = {"is_active": False, "email_verified": True, "password_hash": HASH}
        await send(users, [grace(), grace(email="barred@example.com", **barred)])
        (there,) = await export(users, include_password_hashes=True)

        elsewhere = settings.with_database(migrated_database)
        async with run_service(elsewhere) as other, channel_to(other) as channel:
            stub = UserServiceStub(channel)
            said = await imported(stub, *(one.user for one in there.users))
            (here,) = await export(stub, include_password_hashes=True)

        assert said == [CREATED] * 3
        assert [one.user for one in here.users] == [one.user for one in there.users]

    async def test_export_pages_of_long_users_stay_below_limit(self, users, database):
        long = {"bio": "😀" * 2000}
        for start in range(0, 480, 6):
            people = [
                grace(email=f"g{number}@example.com", profile=long)
                for number in range(start, start + 6)
            ]
            await send(users, people)

        answers = await export(users)

        assert len(answers) > 1
        assert sum(len(answer.users) for answer in answers) == 480
        assert max(answer.ByteSize() for answer in answers) <= 3 * 1024 * 1024


class TestImportedUser:
    """The users that an import creates."""

    async def test_import_with_all_fields_keeps_them(self, users, database):
        born, key = Timestamp(seconds=1_000_000_000, nanos=123_456_000), str(uuid4())
        profile = UserProfile(display_name="G", bio="COBOL", locale="en-US", time_zone="UTC")
        said = grace(
            user_id=key.upper(),
            email="GRACE@example.com",
            username="Grace",
            last_name="Hopper",
            avatar_url="https://example.com/grace.png",
            profile=profile,
            email_verified=True,
            create_time=born,
        )

        (answer,) = await send(users, [said])
        found = await read(users)

        assert outcome(answer.results[0]) == CREATED
        assert answer.results[0].user_id == found.user.user_id == key
        assert (found.user.username, found.user.full_name) == ("grace", "Grace Hopper")
        assert found.user.avatar_url == said.avatar_url
        assert found.user.email_verified
        assert found.user.is_active
        assert found.user.create_time == born
        assert found.profile == profile

    async def test_import_with_email_alone_uses_defaults(self, users):
        assert await imported(users, PortableUser(email="grace@example.com")) == [CREATED]

        found = await read(users)
        assert UUID(found.user.user_id).version == 7
        assert found.user.is_active
        assert not found.user.email_verified
        assert found.user.create_time.ToDatetime(tzinfo=UTC) > datetime.now(UTC) - timedelta(
            minutes=5
        )

    @pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
    async def test_imported_hash_verifies_and_is_replaced(self, users, sessions, database, prefix):
        elsewhere = prefix + HASH[4:]
        await imported(users, grace(password_hash=elsewhere, email_verified=True))

        await sessions.CreateSession(sign_in(email="grace@example.com"))

        async with database.read() as db:
            query = text("SELECT password_hash FROM users")
            stored = (await db.connection.execute(query)).scalar_one()
        assert stored.startswith("$hmac-sha384$")

    async def test_imported_inactive_user_stays_inactive(self, users, sessions):
        await imported(users, grace(password_hash=HASH, email_verified=True, is_active=False))

        assert not (await read(users)).user.is_active
        said = await refused(sessions.CreateSession(sign_in(email="grace@example.com")))
        assert said.code is StatusCode.UNAUTHENTICATED

    async def test_imported_unverified_email_needs_verification(self, users, sessions, database):
        await imported(users, grace(password_hash=HASH))
        said = await refused(sessions.CreateSession(sign_in(email="grace@example.com")))
        assert said.reason == "EMAIL_NOT_VERIFIED"

        await verify(database, (await read(users)).user)
        await sessions.CreateSession(sign_in(email="grace@example.com"))
