"""The same scenarios on the fake and on the real service: statuses, reasons, fields and answers."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.stories import (
    OTHER_PASSWORD,
    PASSWORD,
    REQUEST_ID,
    UNKNOWN_ID,
    Story,
    tell_twice,
)

SCENARIOS: list[Callable[[Story], Awaitable[None]]] = []


def scenario(play):
    SCENARIOS.append(play)
    return play


@scenario
async def create_users(story):
    ada = await story.user(
        "Ada",
        username=" Ada.L ",
        first_name=" Ada ",
        last_name="Lovelace",
        avatar_url="https://example.com/a.png",
        profile={"display_name": " Ada ", "bio": "a\nb", "locale": "en-GB", "time_zone": "UTC"},
    )
    await story.user("bob", first_name="Bob", password="")
    for fields in (
        {"email": "ADA@example.com "},
        {"email": "eve@example.com", "username": "ADA.L"},
        {"email": "ada@example.com", "username": "ada.l"},
        {"email": "eve@example.com", "password": "short"},
        {"email": "eve@example.com", "password": "elevenchars"},
        {"email": "eve@example.com", "password": "a\tb" * 9},
        {"email": "eve@example.com", "password": "x" * 257, "username": "x"},
        {"email": "", "username": "-x-", "first_name": "x" * 101, "avatar_url": "ftp://x"},
        {"email": "eve@example.com", "profile": {"locale": "english!", "bio": "\x00"}},
        {"email": "ada\x00@example.com", "request_id": "x"},
        *({"email": address} for address in ("ada", "ada@", "@x.com", "a b@x.com", "a@b@x.com")),
        *(
            {"email": address}
            for address in ("a@x", "a@x..com", "a.@x.com", "a@-x.com", "a<@x.com")
        ),
        *({"email": address} for address in ("x" * 65 + "@x.com", "Z\u00f6e+tag@Example.COM")),
    ):
        await story.call("CreateUser", **fields)
    for fields in (
        {"email": "rita@example.com"},
        {"email": "RITA@example.com"},
        {"email": "rita@example.com", "password": PASSWORD},
        {"email": "rita@example.com", "first_name": "Rita"},
        {"email": "ada@example.com"},
    ):
        await story.call("CreateUser", request_id=REQUEST_ID, **fields)
    rita = await story.call("GetUser", email="rita@example.com")
    await story.call("DeleteUser", user_id=rita.user.user_id)
    await story.call("CreateUser", request_id=REQUEST_ID.upper(), email="rita@example.com")
    await story.call("PurgeUser", user_id=rita.user.user_id)
    await story.call("CreateUser", request_id=REQUEST_ID, email="rita@example.com")
    await story.call("DeleteUser", user_id=ada.user_id)
    await story.user("ada", username="ada.l")


@scenario
async def get_users(story):
    ada = await story.user(username="ada", profile={"display_name": "Ada"})
    for _ in range(12):
        await story.sign_in()
    for fields in (
        {"user_id": ada.user_id.upper(), "include_profile": True},
        {"email": " ADA@example.com", "include_recent_sessions": True},
        *({"username": name} for name in ("Ada", " ada ", " ", "")),
        *({"email": address} for address in ("nobody@example.com", "ada", "", "x" * 256)),
        {"user_id": UNKNOWN_ID},
        {"user_id": "x"},
        {},
    ):
        await story.call("GetUser", **fields)
    for ids in ([ada.user_id, UNKNOWN_ID, ada.user_id.upper()], [], ["x", ""], [UNKNOWN_ID] * 1001):
        await story.call("BatchGetUsers", user_ids=ids)


@scenario
async def sign_in(story):
    ada = await story.user(username="ada", password="Zo\u00eb and her horse")
    await story.user("bob", email_verified=False)
    await story.user("eve", password="")
    browser = {"user_agent": "Firefox", "ip_address": "2001:db8::1"}
    for fields in (
        {"email": " ADA@example.com", "client": browser},
        {"username": " ADA", "client": {"ip_address": "192.0.2.1"}},
        {"username": " "},
        {"email": "ada"},
        {"email": "nobody@example.com"},
        {"username": "nobody"},
        {"client": {"ip_address": "fe80::1%eth0", "user_agent": "x" * 513}},
        {},
    ):
        await story.call("CreateSession", password="Zoe\u0308 and her horse", **fields)
    for password in ("", "wrong", "x" * 257):
        await story.sign_in(password=password)
    for name in ("bob", "eve"):
        await story.sign_in(name)
    await story.call("GetUser", user_id=ada.user_id)
    await story.call("DeactivateUser", user_id=ada.user_id)
    await story.call("CreateSession", username="ada", password="Zoe\u0308 and her horse")


@scenario
async def verify_addresses(story):
    ada = await story.user(email_verified=False)

    async def issue(user_id=ada.user_id):
        answer = await story.call("CreateEmailVerification", user_id=user_id)
        return answer and answer.token

    old, token = await issue(), await issue()
    for text_ in (old, token, token, "tmu_unknown", "", "x" * 129):
        await story.call("VerifyEmail", token=text_)
    await story.sign_in()
    await issue(UNKNOWN_ID)
    expired = await issue()
    await story.advance(timedelta(days=1, seconds=1))
    await story.call("VerifyEmail", token=expired)
    token = await issue()
    await story.call("ResetPassword", token=token, new_password=OTHER_PASSWORD)
    mask = {"paths": ["email"]}
    await story.call("UpdateUser", user_id=ada.user_id, email="a@example.com", update_mask=mask)
    await story.call("VerifyEmail", token=token)
    token = await issue()
    await story.call("DeactivateUser", user_id=ada.user_id)
    await story.call("VerifyEmail", token=token)
    await story.call("VerifyEmail", token=await issue())


@scenario
async def change_addresses(story):
    ada, bob = await story.user(email_verified=False), await story.user("bob")

    async def issue(email="new@example.com", user_id=ada.user_id):
        answer = await story.call("CreateEmailChange", user_id=user_id, email=email)
        return answer and answer.token

    async def confirm(token):
        await story.call("ConfirmEmailChange", token=token)

    old, token = await issue("other@example.com"), await issue(" NEW@Example.com")
    await story.call("VerifyEmail", token=token)
    verification = (await story.call("CreateEmailVerification", user_id=ada.user_id)).token
    for text_ in (verification, old, token, token, "tmu_unknown", "", "x" * 129):
        await confirm(text_)
    await story.call("VerifyEmail", token=verification)
    await story.sign_in()
    await story.sign_in("new")
    for given in (("nobody",), ("",), ("new@example.com", UNKNOWN_ID), ("new@example.com", "x")):
        await issue(*given)
    await confirm(await issue())
    taken = await issue("bob@example.com")
    await confirm(taken)
    await story.call("DeleteUser", user_id=bob.user_id)
    await confirm(taken)
    expired = await issue()
    await story.advance(timedelta(days=1, seconds=1))
    await confirm(expired)
    for method, fields in (
        ("UpdateUser", {"email": "a@example.com", "update_mask": {"paths": ["email"]}}),
        ("DeactivateUser", {}),
    ):
        token = await issue()
        await story.call(method, user_id=ada.user_id, **fields)
        await confirm(token)
    await confirm(await issue())


@scenario
async def reset_passwords(story):
    ada = await story.user(email_verified=False)

    async def issue(email="ada@example.com"):
        return (await story.call("CreatePasswordReset", email=email)).token

    old, token = await issue(), await issue(" ADA@Example.com")
    await issue("nobody@example.com")
    await story.call("CreatePasswordReset", email="nobody")
    for text_, password in (
        (old, OTHER_PASSWORD),
        (token, "short"),
        (token, ""),
        (token, OTHER_PASSWORD),
        (token, PASSWORD),
        ("", OTHER_PASSWORD),
    ):
        await story.call("ResetPassword", token=text_, new_password=password)
    await story.sign_in()
    await story.sign_in(password=OTHER_PASSWORD)
    verification = (await story.call("CreateEmailVerification", user_id=ada.user_id)).token
    await story.call("ResetPassword", token=await issue(), new_password=PASSWORD)
    await story.call("VerifyEmail", token=verification)
    expired = await issue()
    await story.advance(timedelta(minutes=11))
    await story.call("ResetPassword", token=expired, new_password=PASSWORD)
    await story.call("DeactivateUser", user_id=ada.user_id)
    await issue()


@scenario
async def change_passwords(story):
    ada = await story.user()
    kept, other = await story.sign_in(), await story.sign_in()
    verification = (await story.call("CreateEmailVerification", user_id=ada.user_id)).token
    good = {"user_id": ada.user_id, "current_password": PASSWORD, "new_password": OTHER_PASSWORD}
    for fields in (
        {"current_password": "wrong"},
        {"user_id": UNKNOWN_ID},
        {"user_id": "x", "new_password": "", "keep_session_id": "x"},
        {"new_password": "short"},
        {"new_password": "short", "current_password": "wrong"},
        {"keep_session_id": kept.session.session_id.upper()},
        {},
    ):
        await story.call("ChangePassword", **(good | fields))
    for started in (kept, other):
        await story.call("ValidateSession", session_token=started.session_token)
    await story.call("VerifyEmail", token=verification)
    await story.sign_in(password=OTHER_PASSWORD)
    await story.call("DeleteUser", user_id=ada.user_id)
    await story.call("ChangePassword", **(good | {"current_password": OTHER_PASSWORD}))


@scenario
async def refresh_sessions(story):
    ada = await story.user()

    async def use(method, token):
        answer = await story.call(method, session_token=token)
        return answer and getattr(answer, "session_token", None)

    first = (await story.sign_in()).session_token
    second = await use("RefreshSession", first)
    # An hour back, so that the grace period does not end on a busy machine.
    await story.advance(timedelta(hours=-1))
    await use("RefreshSession", first)
    for token in (first, second, "tms_unknown", "", "a\tb"):
        await use("ValidateSession", token)
        await use("RefreshSession", token)
    third = await use("RefreshSession", (await story.sign_in()).session_token)
    fourth = await use("RefreshSession", third)
    await story.advance(timedelta(hours=1, seconds=11))
    for method in ("ValidateSession", "RefreshSession"):
        for token in (third, fourth):
            await use(method, token)
    for token in (first, second, third, fourth):
        await use("ValidateSession", token)
    fifth = (await story.sign_in()).session_token
    await story.advance(timedelta(days=8))
    await use("RefreshSession", fifth)
    sixth = (await story.sign_in()).session_token
    await use("RevokeSession", await use("RefreshSession", sixth))
    await use("RefreshSession", sixth)
    seventh = (await story.sign_in()).session_token
    await story.call("DeactivateUser", user_id=ada.user_id)
    await use("RefreshSession", seventh)


@scenario
async def list_and_revoke_sessions(story):
    ada, bob = await story.user(), await story.user("bob")
    started = [await story.sign_in() for _ in range(5)]
    ids = [each.session.session_id for each in started]
    mine = {"user_id": ada.user_id, "page_size": 2}
    first = await story.call("ListSessions", **mine)
    token = first.next_page_token
    await story.call("ListSessions", **mine, page_token=token)
    for fields in (
        {"page_token": token, "include_ended": True},
        {"page_token": token, "user_id": bob.user_id},
        {"page_token": "x"},
        {"page_size": -1, "page_token": "\x00"},
        {"user_id": UNKNOWN_ID},
        {"page_size": 0},
        {"page_size": 5},
    ):
        await story.call("ListSessions", **(mine | fields))
    for fields in (
        {"session_id": ids[0]},
        {"session_id": ids[0].upper()},
        {"session_token": started[1].session_token},
        *({"session_id": each} for each in (UNKNOWN_ID, "x", "")),
        *({"session_token": each} for each in ("tms_unknown", "", "x" * 129)),
        {},
    ):
        await story.call("RevokeSession", **fields)
    for session_id in (ids[0], ids[2], UNKNOWN_ID, "x"):
        await story.call("GetSession", session_id=session_id)
    tokens = [each.session_token for each in started]
    await story.call("BatchValidateSessions", session_tokens=[*tokens, "tms_unknown"])
    for given in ([], ["", "x"], ["x"] * 1001):
        await story.call("BatchValidateSessions", session_tokens=given)
    for fields in ({}, {"include_ended": True}):
        await story.call("ListSessions", user_id=ada.user_id, **fields)
    for fields in ({"except_session_id": ids[3]}, {}, {"except_session_id": "x"}):
        await story.call("RevokeUserSessions", user_id=ada.user_id, **fields)
    await story.call("RevokeUserSessions", user_id=UNKNOWN_ID)
    await story.advance(timedelta(days=8))
    await story.call("ListSessions", user_id=ada.user_id)
    expired = (await story.sign_in("bob")).session
    await story.advance(timedelta(days=8))
    await story.call("RevokeSession", session_id=expired.session_id)
    await story.call("RevokeUserSessions", user_id=bob.user_id)


@scenario
async def update_users(story):
    ada, bob = await story.user(username="ada", first_name="Ada"), await story.user("bob")

    async def update(*paths, user_id=ada.user_id, **fields):
        mask = {"paths": paths}
        return await story.call("UpdateUser", user_id=user_id, update_mask=mask, **fields)

    await update("first_name", "last_name", first_name=" Augusta ", last_name="King")
    await update("first_name", last_name="ignored")
    await update("profile", profile={"bio": "old", "locale": "en"})
    await update("profile.bio", "profile.display_name", profile={"display_name": " A "})
    await update("username", "avatar_url", avatar_url="http://x")
    await update("username", username="ADA2", etag="6")
    for etag in ("6", "0", "x", "99999999999", "x" * 65):
        await update("first_name", first_name="Eve", etag=etag)
    await update("username", username="ada2", user_id=bob.user_id)
    await update("email", email="ADA@example.com", user_id=bob.user_id)
    await update("email", email="ada2@example.com", username="x")
    await update("email", email="Ada2@example.com")
    await update("email", email="ada2@example.com")
    await update("email")
    for paths in ([], ["id"], ["email", "profile.x"]):
        await update(*paths)
    await story.call("UpdateUser", user_id=ada.user_id)
    await update("first_name", user_id=UNKNOWN_ID)
    await update("first_name", user_id="x", etag="x", first_name="\x00")
    await story.call("GetUser", user_id=ada.user_id, include_profile=True)


@scenario
async def change_states(story):
    ada = await story.user(username="ada")
    me = {"user_id": ada.user_id}
    started = [await story.sign_in() for _ in range(3)]
    token = started[0].session_token
    for method in ("DeactivateUser", "DeactivateUser", "ActivateUser", "ActivateUser"):
        await story.call(method, **me)
    await story.call("ValidateSession", session_token=token)
    await story.sign_in()
    await story.call("RestoreUser", **me)
    await story.call("DeleteUser", **me, etag="1")
    await story.call("DeleteUser", **me, etag="3", deleted_by="an operator")
    for method in ("DeleteUser", "DeactivateUser", "ActivateUser", "CreateEmailVerification"):
        await story.call(method, **me)
    await story.call("GetUser", **me)
    for fields in (me, {"email": "ada@example.com"}, {"username": "ada"}):
        await story.call("GetUser", **fields, include_deleted=True)
    await story.call("GetSession", session_id=started[0].session.session_id)
    await story.call("RevokeSession", session_token=token)
    await story.call("ListSessions", **me)
    await story.call("ValidateSession", session_token=token)
    again = await story.user(username="ada")
    await story.call("GetUser", email="ada@example.com", include_deleted=True)
    await story.call("RestoreUser", **me)
    await story.call("RestoreUser", **me, email="ada2@example.com")
    await story.call("RestoreUser", **me, email="ada", username="x")
    await story.call("RestoreUser", **me, email="ada2@example.com", username="ada2")
    await story.call("DeleteUser", user_id=again.user_id)
    for method in ("DeleteUser", "PurgeUser", "PurgeUser", "RestoreUser", "GetUser"):
        await story.call(method, user_id=UNKNOWN_ID if method == "DeleteUser" else ada.user_id)
    await story.call("ValidateSession", session_token=token)


@scenario
async def list_users(story):
    users = [
        await story.user(name, username=f"u_{name}", email_verified=name != "carl")
        for name in ("bob", "ada", "carl", "adam", "eve")
    ]
    await story.call("DeactivateUser", user_id=users[1].user_id)
    await story.call("DeleteUser", user_id=users[4].user_id)
    times = [user.create_time for user in users]
    later = Timestamp(seconds=times[2].seconds, nanos=times[2].nanos + 1)
    for fields in (
        {},
        {"email_prefix": "ADA"},
        {"email_prefix": "%"},
        {"username_prefix": "U_a"},
        {"email_verified": False},
        {"is_active": False},
        {"is_active": True, "email_verified": True},
        {"created_from": times[2]},
        {"created_from": later},
        {"created_before": times[2]},
        {"created_before": later},
        *({"deleted": value} for value in range(5)),
        {"is_active": True, "deleted": 3},
        {"created_from": Timestamp(seconds=10**15)},
        {"email_prefix": "", "username_prefix": "x" * 31},
    ):
        await story.call("ListUsers", filter=fields, include_total=True)
        await story.call("GetUserStats", filter=fields)
    orders = ("email", "email desc", "create_time", " create_time desc", "update_time")
    for order in (*orders, "update_time desc", "Email", "email asc", "id", "x" * 65):
        token = ""
        for _ in range(3):
            page = await story.call("ListUsers", order_by=order, page_size=2, page_token=token)
            token = page.next_page_token if page else ""
    page = await story.call("ListUsers", page_size=1)
    token = page.next_page_token
    for fields in (
        {"order_by": "email"},
        {"filter": {"is_active": True}},
        {"page_size": 3},
        {"page_token": "x"},
        {"page_size": -1},
    ):
        await story.call("ListUsers", **({"page_token": token} | fields))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_fake_and_real_service_answer_alike(auth, database, fake, scenario, monkeypatch):
    results = await tell_twice(scenario, auth, database, fake, monkeypatch)

    for number, (expected, given) in enumerate(results):
        assert given == expected, number
