"""Passwords: a keyed hash under bcrypt, off the event loop."""

import base64
import contextlib
import re
import threading

import bcrypt
import pytest

from tamatar_auth.config.settings import Settings
from tamatar_auth.security.key_ring import InvalidKeysError
from tamatar_auth.security.passwords.hash_queue import HashQueue
from tamatar_auth.security.passwords.hasher import PasswordHasher, PasswordSchemes, StoredHash
from tamatar_auth.security.passwords.peppers import Peppers

OLD, NEW = b"o" * 32, b"n" * 32


@contextlib.asynccontextmanager
async def hashing(cost=4, **keys):
    """Yield a permit of a hasher whose threads end with the block."""
    hash_queue = HashQueue(1, 0)
    async with PasswordHasher(PasswordSchemes(cost, Peppers(keys)), hash_queue).permit() as permit:
        yield permit
    await hash_queue.close()


@pytest.fixture
async def passwords():
    async with hashing(old=OLD, new=NEW) as permit:
        yield permit


class TestOtherHashes:
    """Hashes of older keys, other costs and other systems."""

    async def test_hash_of_older_key_verifies_and_is_outdated(self, passwords):
        async with hashing(old=OLD) as earlier:
            before = await earlier.hash("correct horse")

        assert await passwords.matches("correct horse", before)
        assert passwords.is_outdated(before)
        assert not passwords.is_outdated(await passwords.hash("correct horse"))

    async def test_hash_of_other_cost_is_outdated(self, passwords):
        async with hashing(5, old=OLD, new=NEW) as dearer:
            assert dearer.is_outdated(await passwords.hash("x"))
            assert await dearer.matches("x", await passwords.hash("x"))

    async def test_hash_of_missing_key_matches_no_password(self, passwords):
        async with hashing(gone=OLD) as earlier:
            gone = await earlier.hash("correct horse")

        assert not await passwords.matches("correct horse", gone)

    @pytest.mark.parametrize("kind", [b"2a", b"2b", b"2y"])
    async def test_foreign_hash_verifies_and_is_outdated(self, passwords, kind):
        elsewhere = (
            bcrypt.hashpw(b"correct horse", bcrypt.gensalt(5)).replace(b"2b", kind, 1).decode()
        )

        assert await passwords.matches("correct horse", elsewhere)
        assert not await passwords.matches("correct horsf", elsewhere)
        assert passwords.is_outdated(elsewhere)

    async def test_foreign_hash_of_cut_password_verifies_whole_one(self, passwords):
        cut = bcrypt.hashpw(b"a" * 72, bcrypt.gensalt(4)).decode()

        assert await passwords.matches("a" * 80, cut)

    @pytest.mark.parametrize(
        "stored", [None, "", "corrupt", "$2b$04$short", "$2b$99$" + "a" * 53, "$hmac-sha384$new$x"]
    )
    async def test_invalid_hash_matches_no_password(self, passwords, stored):
        assert StoredHash.read(stored) is None
        assert not await passwords.matches("correct horse", stored)


class TestHashes:
    """Hashes of passwords."""

    async def test_hash_matches_its_password_only(self, passwords):
        password_hash = await passwords.hash("correct horse")

        assert re.fullmatch(r"\$hmac-sha384\$new\$2b\$04\$[./A-Za-z0-9]{53}", password_hash)
        assert len(password_hash) < 255
        assert await passwords.matches("correct horse", password_hash)
        for other in ("correct horsf", "Correct horse", "correct horse ", ""):
            assert not await passwords.matches(other, password_hash)

    async def test_hash_of_same_password_differs_each_time(self, passwords):
        assert await passwords.hash("x") != await passwords.hash("x")

    @pytest.mark.parametrize("length", [80, 256, 1024])
    async def test_long_passwords_differ_by_last_byte(self, passwords, length):
        password_hash = await passwords.hash("a" * length)

        assert await passwords.matches("a" * length, password_hash)
        assert not await passwords.matches("a" * (length - 1) + "b", password_hash)
        assert not await passwords.matches("a" * 72, password_hash)

    async def test_password_of_64_four_byte_characters_works(self, passwords):
        password = "😀" * 64
        password_hash = await passwords.hash(password)

        assert await passwords.matches(password, password_hash)
        assert not await passwords.matches("😀" * 63 + "😁", password_hash)

    async def test_password_matches_in_other_unicode_form(self, passwords):
        assert await passwords.matches("pa\u030aron", await passwords.hash("p\u00e5ron"))

    async def test_hash_without_key_is_useless(self, passwords):
        password_hash = await passwords.hash("correct horse")

        async with hashing(new=b"x" * 32) as thief:
            assert not await thief.matches("correct horse", password_hash)
        inner = password_hash.removeprefix("$hmac-sha384$new")
        assert not bcrypt.checkpw(b"correct horse", inner.encode())

    async def test_refusal_costs_same_work_for_every_hash(self, monkeypatch):
        """bcrypt's work is 2 to the cost. This test counts it; `make timing` times it."""
        work = []
        check = bcrypt.checkpw

        def counted(password, hashed):
            work.append(2 ** int(hashed[4:6]))
            return check(password, hashed)

        monkeypatch.setattr(bcrypt, "checkpw", counted)
        cheaper = bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()
        async with hashing(7, new=NEW) as passwords:
            for stored in (None, "corrupt", await passwords.hash("x"), cheaper):
                work.clear()
                assert not await passwords.matches("wrong", stored)
                assert sum(work) == 2**7

    async def test_hash_runs_outside_event_loop(self, passwords, monkeypatch):
        threads = []
        hashpw = bcrypt.hashpw
        monkeypatch.setattr(
            bcrypt,
            "hashpw",
            lambda *args: threads.append(threading.current_thread()) or hashpw(*args),
        )

        await passwords.hash("x")

        assert [thread.name for thread in threads] == ["hash_0"]


def key(letter):
    return base64.b64encode(letter * 32).decode()


def peppers(**given):
    return Peppers.load(Settings.load(env_file=None, page_token_key="k" * 32, **given).passwords)


class TestPeppers:
    """Keys of the hashes."""

    def test_last_pepper_is_newest(self):
        read = peppers(password_keys=f"a:{key(b'a')} b:{key(b'b')}")

        assert read.newest_id == "b"
        assert read["a"] == b"a" * 32

    def test_peppers_are_read_from_file(self, tmp_path):
        file = tmp_path / "keys"
        file.write_text(f"a:{key(b'a')}\nb:{key(b'b')}\n")

        assert peppers(password_keys_file=file).newest_id == "b"

    def test_pepper_id_in_both_sources_must_have_one_key(self, tmp_path):
        file = tmp_path / "keys"
        file.write_text(f"a:{key(b'a')} b:{key(b'b')}")

        both = peppers(password_keys_file=file, password_keys=f"b:{key(b'b')} c:{key(b'c')}")
        assert (both.newest_id, both["b"]) == ("c", b"b" * 32)

        with pytest.raises(InvalidKeysError) as refused:
            peppers(password_keys_file=file, password_keys=f"b:{key(b'c')}")
        assert str(refused.value) == (
            "TAMATAR_PASSWORD_KEYS and TAMATAR_PASSWORD_KEYS_FILE: the key b differs between them"
        )

    def test_development_pepper_is_replaced_by_configured_one(self):
        assert peppers().newest_id == "development"
        assert "development" not in peppers(password_keys=f"a:{key(b'a')}")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "a",
            "a:",
            "a:hunter2hunter2",
            f"a b:{key(b'a')}",
            "a:aHVudGVyMg==",
            "development:" + key(b"a"),
            f"a:{key(b'a')} a:{key(b'b')}",
            ":" + key(b"a"),
        ],
    )
    def test_invalid_pepper_is_named_but_not_shown(self, tmp_path, text):
        file = tmp_path / "keys"
        file.write_text(text)

        with pytest.raises(InvalidKeysError) as refused:
            peppers(password_keys_file=file)

        assert "TAMATAR_PASSWORD_KEYS_FILE" in str(refused.value)
        assert "hunter2" not in str(refused.value)

    def test_missing_peppers_file_is_named(self, tmp_path):
        with pytest.raises(InvalidKeysError, match="cannot be read"):
            peppers(password_keys_file=tmp_path / "nothing")
