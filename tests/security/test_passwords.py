"""Passwords: bcrypt off the event loop."""

import asyncio
import threading

import bcrypt
import pytest

from tamatar_auth.errors import InvalidCredentials, InvalidFields
from tamatar_auth.security.passwords import Passwords


@pytest.fixture
def passwords():
    return Passwords(cost=4)


async def test_a_hash_knows_its_password_and_no_other(passwords):
    password_hash = await passwords.hash("correct horse")

    assert password_hash.startswith("$2b$04$")
    await passwords.verify("correct horse", password_hash)
    for other in ("correct horsf", "Correct horse", "correct horse ", ""):
        with pytest.raises(InvalidCredentials):
            await passwords.verify(other, password_hash)


async def test_a_password_has_a_new_hash_each_time(passwords):
    assert await passwords.hash("x") != await passwords.hash("x")


@pytest.mark.parametrize("kind", [b"2a", b"2b", b"2y"])
async def test_hashes_from_elsewhere_verify(passwords, kind):
    elsewhere = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(5)).replace(b"2b", kind, 1)

    await passwords.verify("correct horse", elsewhere.decode())


@pytest.mark.parametrize("stored", [None, "", "corrupt", "$2b$04$short", "$2b$99$" + "a" * 53])
async def test_no_password_fits_a_hash_that_is_none(passwords, stored):
    with pytest.raises(InvalidCredentials):
        await passwords.verify("correct horse", stored)


@pytest.mark.parametrize("stored", [None, "corrupt"])
async def test_a_check_against_nothing_costs_a_hash_too(passwords, stored, monkeypatch):
    costs = []
    check = bcrypt.checkpw

    def counted(password, hashed):
        costs.append(hashed[:7])
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    with pytest.raises(InvalidCredentials):
        await passwords.verify("correct horse", stored)

    assert costs == [b"$2b$04$"]


async def test_no_password_is_cut(passwords):
    longest = "ä" * 36
    password_hash = await passwords.hash(longest)

    await passwords.verify(longest, password_hash)
    for call in (passwords.hash(longest + "x"), passwords.verify(longest + "x", password_hash)):
        with pytest.raises(InvalidFields):
            await call


async def test_hashing_leaves_the_event_loop_free(monkeypatch):
    threads = []
    check = bcrypt.hashpw
    monkeypatch.setattr(
        bcrypt, "hashpw", lambda *args: threads.append(threading.current_thread()) or check(*args)
    )

    await asyncio.gather(*(Passwords(cost=4).hash("x") for _ in range(3)))

    assert threading.main_thread() not in threads
    assert len(threads) == 3
