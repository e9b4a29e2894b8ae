"""Factor keys: secrets of apps are encrypted, and recovery codes are digested."""

import base64
from uuid import uuid4

import pytest

from tamatar_auth.config.settings import Settings
from tamatar_auth.errors.factors import FactorsNotConfigured
from tamatar_auth.security.factor_keys import MADE_UP_IDS, EncryptedSecret, FactorKeys
from tamatar_auth.security.key_ring import InvalidKeysError, KeyRing

SECRET = b"a secret of 20 bytes"
CODE = "ABCD1234EFGH"


def keys(*names):
    return FactorKeys(KeyRing({name: name.encode() * 32 for name in names}))


def load(environment="development", **given):
    settings = Settings.load(env_file=None, **given)
    return FactorKeys.load(settings.factors, in_development=environment == "development")


def encoded(letter):
    return base64.b64encode(letter * 32).decode()


class TestMadeUpIds:
    """Ids of passkeys that no user has."""

    def test_ids_of_an_address_stay_the_same(self):
        made_up = keys("a").made_up_credential_ids("ada@example.com")

        assert made_up == keys("a").made_up_credential_ids("ada@example.com")
        assert len(set(made_up)) == MADE_UP_IDS

    def test_ids_of_an_address_stay_the_same_in_a_rotation(self):
        made_up = keys("a").made_up_credential_ids("ada@example.com")

        for rotated in (keys("b", "a"), keys("a", "b")):
            assert rotated.made_up_credential_ids("ada@example.com") == made_up

    def test_ids_differ_between_addresses_and_between_keys(self):
        mine = keys("a").made_up_credential_ids("ada@example.com")
        others = keys("a").made_up_credential_ids("bob@example.com")
        of_other_key = keys("b").made_up_credential_ids("ada@example.com")

        assert not {*mine} & {*others} | {*mine} & {*of_other_key}

    def test_ids_have_lengths_of_common_authenticators(self):
        lengths = {
            len(each)
            for number in range(100)
            for each in keys("a").made_up_credential_ids(f"{number}@example.com")
        }

        assert lengths == {16, 20, 32}

    def test_made_up_id_is_known_again_after_a_rotation(self):
        made_up = keys("a").made_up_credential_ids("ada@example.com")

        assert all(map(keys("a", "b").is_made_up, made_up))
        assert not any(map(keys("b").is_made_up, made_up))

    @pytest.mark.parametrize("credential_id", [b"", b"x" * 12, b"x" * 20, b"x" * 1023])
    def test_other_id_is_not_made_up(self, credential_id):
        assert not keys("a", "b").is_made_up(credential_id)


class TestSecrets:
    """Secrets of authenticator apps."""

    def test_encrypted_secret_decrypts_for_its_factor(self):
        factor_id = uuid4()
        encrypted = keys("a").encrypt(factor_id, SECRET)

        assert SECRET not in encrypted.content
        assert keys("a").decrypt(factor_id, encrypted) == SECRET

    def test_secret_moved_to_another_factor_is_unreadable(self):
        encrypted = keys("a").encrypt(uuid4(), SECRET)

        assert keys("a").decrypt(uuid4(), encrypted) is None

    @pytest.mark.parametrize("content", [b"", b"short", b"0" * 48])
    def test_altered_secret_is_unreadable(self, content):
        assert keys("a").decrypt(uuid4(), EncryptedSecret("a", content)) is None

    def test_secret_is_encrypted_differently_each_time(self):
        mine, factor_id = keys("a"), uuid4()

        assert mine.encrypt(factor_id, SECRET).content != mine.encrypt(factor_id, SECRET).content

    def test_old_key_reads_and_newest_key_writes(self):
        factor_id = uuid4()
        encrypted = keys("a").encrypt(factor_id, SECRET)

        assert keys("a", "b").decrypt(factor_id, encrypted) == SECRET
        assert keys("a", "b").encrypt(factor_id, SECRET).key_id == "b"

    def test_secret_of_missing_key_is_unreadable(self):
        factor_id = uuid4()
        encrypted = keys("a").encrypt(factor_id, SECRET)

        assert keys("b").decrypt(factor_id, encrypted) is None


class TestDigests:
    """Digests of recovery codes."""

    def test_code_digest_depends_on_key_factor_and_code(self):
        mine, factor_id = keys("a", "b"), uuid4()
        digests = {
            mine.code_digest("a", factor_id, CODE),
            mine.code_digest("b", factor_id, CODE),
            mine.code_digest("a", uuid4(), CODE),
            mine.code_digest("a", factor_id, CODE[::-1]),
        }

        assert len(digests) == 4
        assert {len(digest) for digest in digests} == {32}

    def test_code_digest_of_missing_key_is_none(self):
        assert keys("b").code_digest("a", uuid4(), CODE) is None


class TestSettings:
    """The keys that the settings name."""

    def test_development_without_keys_has_published_key(self):
        assert load().newest_id == "development"

    def test_production_without_keys_names_the_setting(self):
        mine = load("production")

        with pytest.raises(FactorsNotConfigured) as refused:
            mine.encrypt(uuid4(), SECRET)
        assert refused.value.metadata == {"settings": "TAMATAR_FACTOR_KEYS"}

    def test_last_factor_key_is_newest(self):
        assert load(factor_keys=f"a:{encoded(b'a')} b:{encoded(b'b')}").newest_id == "b"

    def test_factor_keys_are_read_from_file(self, tmp_path):
        file = tmp_path / "keys"
        file.write_text(f"a:{encoded(b'a')}\nb:{encoded(b'b')}\n")

        assert load(factor_keys_file=file).newest_id == "b"

    def test_invalid_factor_key_is_named_but_not_shown(self):
        with pytest.raises(InvalidKeysError) as refused:
            load(factor_keys="a:hunter2hunter2")

        assert str(refused.value).startswith("TAMATAR_FACTOR_KEYS: key 1 ")
        assert "hunter2" not in str(refused.value)

    def test_factor_keys_show_no_key(self):
        assert repr(keys("a", "b")) == "FactorKeys(a, b)"
