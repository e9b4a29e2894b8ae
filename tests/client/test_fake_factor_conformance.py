"""Scenarios of second factors and step-ups on the fake and on the real service."""

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from tests.support.stories import OTHER_PASSWORD, PASSWORD, UNKNOWN_ID, Story, tell_twice

A_MINUTE = timedelta(minutes=1)
SCENARIOS: list[Callable[[Story], Awaitable[None]]] = []


def scenario(play):
    SCENARIOS.append(play)
    return play


async def enrol(story, user, **fields):
    """Add an app to a user, and return its factor and its secret."""
    created = await story.call("CreateTotpFactor", user_id=user.user_id, **fields)
    code = story.code(created.secret)
    await story.call("ConfirmTotpFactor", factor_id=created.factor.factor_id, code=code)
    await story.advance(A_MINUTE)
    return created.factor, created.secret


async def register(story, user, passkey=None, **fields):
    """Register a passkey of a user, and return it."""
    passkey = passkey or story.new_passkey()
    begun = await story.call("BeginPasskeyRegistration", user_id=user.user_id)
    answer = passkey.register(begun.creation_options_json)
    fields = {"registration_token": begun.registration_token, "credential_json": answer} | fields
    await story.call("FinishPasskeyRegistration", **fields)
    return passkey


async def challenge(story, name="ada"):
    return (await story.sign_in(name)).challenge


async def complete(story, asked, **proof):
    return await story.call("CompleteSignIn", challenge_token=asked.challenge_token, **proof)


@scenario
async def apps(story):
    ada, bob = await story.user(first_name="Ada"), await story.user("bob")
    me = {"user_id": ada.user_id}
    first = await story.call("CreateTotpFactor", **me, label=" Work phone ")
    second = await story.call("CreateTotpFactor", user_id=ada.user_id.upper())
    for fields in ({"user_id": UNKNOWN_ID}, {"user_id": "x"}, me | {"label": "x" * 101}, {}):
        await story.call("CreateTotpFactor", **fields)
    code = story.code(second.secret)
    await story.sign_in()
    for factor_id, given in (
        (first.factor.factor_id, code),
        (UNKNOWN_ID, code),
        ("x", ""),
        (second.factor.factor_id, "x"),
        (second.factor.factor_id, story.code(second.secret, 20)),
        (second.factor.factor_id.upper(), f" {code[:3]} {code[3:]} "),
        (second.factor.factor_id, code),
    ):
        await story.call("ConfirmTotpFactor", factor_id=factor_id, code=given)
    await story.sign_in()
    await story.call("ListFactors", **me)
    for factor in (
        {"factor_id": second.factor.factor_id, "label": " Phone "},
        {"factor_id": second.factor.factor_id},
        {"factor_id": UNKNOWN_ID},
        {"factor_id": "x", "label": "\x00"},
    ):
        for paths in ([], ["label"], ["kind"], ["label", "user_id"]):
            await story.call("UpdateFactor", factor=factor, update_mask={"paths": paths})
    await story.call("UpdateFactor")
    for user_id in (bob.user_id, UNKNOWN_ID, "x", ""):
        await story.call("ListFactors", user_id=user_id)
    for factor_id in (second.factor.factor_id, second.factor.factor_id, UNKNOWN_ID, "x"):
        await story.call("DeleteFactor", factor_id=factor_id)
    await story.sign_in()
    await enrol(story, bob)
    await story.call("DeleteUser", user_id=bob.user_id)
    for method in ("ListFactors", "CreateTotpFactor", "CreateRecoveryCodes"):
        await story.call(method, user_id=bob.user_id)


@scenario
async def sign_in_with_codes(story):
    ada = await story.user()
    await story.call("CreateRecoveryCodes", user_id=ada.user_id)
    await story.sign_in()
    factor, secret = await enrol(story, ada)
    codes = (await story.call("CreateRecoveryCodes", user_id=ada.user_id)).codes
    code, browser = story.code(secret), {"user_agent": "Firefox", "ip_address": "192.0.2.1"}
    asked = await challenge(story)
    for fields in ({}, {"totp_code": ""}, {"recovery_code": "x" * 65}, {"totp_code": "x" * 33}):
        await complete(story, asked, **fields)
    await complete(story, asked, recovery_code="0000-0000-0000")
    await complete(story, asked, totp_code=f"{code[:3]} {code[3:]}", client=browser)
    await complete(story, asked, totp_code=code)
    asked = await challenge(story)
    await complete(story, asked, totp_code=code)
    for given in (codes[0].lower().replace("-", " "), codes[0], codes[1]):
        await complete(story, await challenge(story), recovery_code=given)
    await story.call("ListFactors", user_id=ada.user_id)
    await story.call("GetUser", user_id=ada.user_id)
    for given in codes[2:]:
        await complete(story, await challenge(story), recovery_code=given)
    await challenge(story)
    await complete(story, asked, passkey_credential_json="{}")
    await story.call("DeleteFactor", factor_id=factor.factor_id)
    await complete(story, asked, totp_code=story.code(secret, 1))


@scenario
async def challenges_end(story):
    ada = await story.user()
    _, secret = await enrol(story, ada)
    void = await challenge(story)
    for _ in range(4):
        await complete(story, void, passkey_credential_json="{}")
    await complete(story, void, passkey_credential_json="[]")
    await complete(story, void, totp_code=story.code(secret))
    expired = await challenge(story)
    await story.advance(timedelta(minutes=5, seconds=1))
    await complete(story, expired, totp_code=story.code(secret))
    for token in ("tmh_unknown", "", "x" * 129):
        await story.call("CompleteSignIn", challenge_token=token, totp_code="000000")
    passwords = {"current_password": PASSWORD, "new_password": OTHER_PASSWORD}
    for method, fields in (
        ("ChangePassword", {"user_id": ada.user_id} | passwords),
        ("DeactivateUser", {"user_id": ada.user_id}),
    ):
        asked = (await story.sign_in(password=PASSWORD)) or await story.sign_in(
            password=OTHER_PASSWORD
        )
        await story.call(method, **fields)
        await complete(story, asked.challenge, totp_code=story.code(secret))


@scenario
async def passkeys(story):
    ada, bob = await story.user(first_name="Ada"), await story.user("bob")
    passkey = await register(story, ada, label="Laptop")
    other = await register(story, bob, story.new_passkey(is_backup_eligible=True))
    begun = await story.call("BeginPasskeyRegistration", user_id=bob.user_id)
    fields = {"registration_token": begun.registration_token}
    assert passkey is not other
    for given in ("{}", "", "x", "[" * 9):
        await story.call("FinishPasskeyRegistration", **fields, credential_json=given)
    answer = other.register(
        begun.creation_options_json.replace('"excludeCredentials"', '"x"')
        if False
        else json.dumps(json.loads(begun.creation_options_json) | {"excludeCredentials": []})
    )
    await story.call("FinishPasskeyRegistration", **fields, credential_json=answer)
    fresh = story.new_passkey()
    await register(story, bob, fresh, label="x" * 101)
    for user_id in (UNKNOWN_ID, "x", ""):
        await story.call("BeginPasskeyRegistration", user_id=user_id)
    for user in (ada, bob):
        await story.call("ListFactors", user_id=user.user_id)

    for name, used in (("ada", passkey), ("bob", other)):
        asked = await challenge(story, name)
        proof = {"passkey_credential_json": used.sign(asked.passkey_options_json)}
        await complete(story, asked, **proof)
        await complete(story, asked, **proof)
    asked = await challenge(story)
    options = json.dumps(json.loads(asked.passkey_options_json) | {"allowCredentials": []})
    await complete(story, asked, passkey_credential_json=other.sign(options))
    await complete(story, asked, passkey_credential_json=passkey.sign(options))

    begun = await story.call("BeginPasskeySignIn")
    asked = begun.challenge
    await complete(story, asked, totp_code="000000")
    await complete(story, asked, recovery_code="0000-0000-0000")
    proof = {"passkey_credential_json": other.sign(asked.passkey_options_json)}
    await complete(story, asked, **proof)
    for email in ("ada", "x" * 256):
        await story.call("BeginPasskeySignIn", email=email)
    await story.call("ListFactors", user_id=ada.user_id)


@scenario
async def passkeys_that_verify_no_user(story):
    ada = await story.user()
    passkey = await register(story, ada, story.new_passkey(verifies_user=False))
    asked = await challenge(story)
    await complete(story, asked, passkey_credential_json=passkey.sign(asked.passkey_options_json))
    asked = (await story.call("BeginPasskeySignIn")).challenge
    await complete(story, asked, passkey_credential_json=passkey.sign(asked.passkey_options_json))


@scenario
async def step_ups(story):
    ada = await story.user()
    started = await story.sign_in()
    token = started.session_token

    async def step_up(token, asked=None, **proof):
        if asked is None:
            asked = (await story.call("BeginStepUp", session_token=token)).challenge
        answer = await story.call(
            "CompleteStepUp",
            session_token=token,
            challenge_token=asked.challenge_token,
            **proof,
        )
        return answer.session_token if answer else token

    await story.advance(timedelta(hours=1))
    await step_up(token, password="wrong")
    second = await step_up(token, password=PASSWORD)
    for used in (token, second):
        await story.call("ValidateSession", session_token=used)
    _, secret = await enrol(story, ada)
    passkey = await register(story, ada)
    codes = (await story.call("CreateRecoveryCodes", user_id=ada.user_id)).codes
    third = await step_up(second, totp_code=story.code(secret))
    await story.call("ValidateSession", session_token=third)
    await step_up(third, totp_code=story.code(secret))
    fourth = await step_up(third, recovery_code=codes[0])
    asked = (await story.call("BeginStepUp", session_token=fourth)).challenge
    proof = {"passkey_credential_json": passkey.sign(asked.passkey_options_json)}
    fifth = await step_up(fourth, asked, **proof)
    await step_up(fifth, asked, **proof)
    for used in ("tms_unknown", "", second):
        await story.call("BeginStepUp", session_token=used)
        await story.call(
            "CompleteStepUp", session_token=used, challenge_token="x", password=PASSWORD
        )
    await story.call("CompleteStepUp", session_token=fifth, challenge_token="x")
    asked = (await story.call("BeginStepUp", session_token=fifth)).challenge
    await complete(story, asked, totp_code=story.code(secret, 1))
    await story.call("RefreshSession", session_token=third)
    await story.call("ValidateSession", session_token=fifth)


@scenario
async def changes_that_need_step_up(story):
    ada, bob = await story.user(), await story.user("bob")
    weak = (await story.sign_in()).session_token
    others = (await story.sign_in("bob")).session_token
    factor, secret = await enrol(story, ada, step_up={"session_token": weak})
    asked = await challenge(story)
    strong = (await complete(story, asked, totp_code=story.code(secret))).session_token
    for step_up in (
        {"session_token": weak},
        {"session_token": others},
        {"session_token": "tms_unknown"},
        {"session_token": ""},
        {"session_token": strong, "max_authentication_age": {"seconds": 0}},
        {"session_token": strong},
    ):
        for method in ("CreateTotpFactor", "CreateRecoveryCodes", "BeginPasskeyRegistration"):
            await story.call(method, user_id=ada.user_id, step_up=step_up)
    await story.advance(timedelta(minutes=6))
    for age in (None, {"seconds": 600}):
        step_up = {"session_token": strong, "max_authentication_age": age}
        code = story.code(secret)
        confirmed = {"factor_id": factor.factor_id, "code": code}
        await story.call("ConfirmTotpFactor", **confirmed, step_up=step_up)
        await story.call("DeleteFactor", factor_id=factor.factor_id, step_up=step_up)
    await story.call("ListFactors", user_id=bob.user_id)


@scenario
async def requirements(story):
    ada = await story.user()
    await story.sign_in()
    weak = (await story.sign_in()).session_token
    _, secret = await enrol(story, ada)
    asked = await challenge(story)
    strong = (await complete(story, asked, totp_code=story.code(secret))).session_token
    await story.advance(timedelta(minutes=10))
    for level in range(4):
        for age in (
            None,
            {"seconds": 300},
            {"seconds": 900},
            {"seconds": 1, "nanos": 500_000_000},
            {"seconds": 0},
            {"seconds": 2592001},
        ):
            asked = {"min_assurance_level": level, "max_authentication_age": age}
            for token in (weak, strong):
                await story.call("ValidateSession", session_token=token, **asked)
            tokens = [weak, strong, "tms_unknown"]
            await story.call("BatchValidateSessions", session_tokens=tokens, **asked)
    await story.call("RefreshSession", session_token=strong)
    await story.call("ListSessions", user_id=ada.user_id)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_fake_and_real_factors_answer_alike(auth, database, fake, scenario, monkeypatch):
    results = await tell_twice(scenario, auth, database, fake, monkeypatch)

    for number, (expected, given) in enumerate(results):
        assert given == expected, number
