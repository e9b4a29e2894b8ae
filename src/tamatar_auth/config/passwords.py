"""Settings of passwords and of their hashes."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from tamatar_auth.config.groups import SettingsGroup
from tamatar_auth.config.types import OptionalFile, OptionalSecret, WordList, empty_as_none


class PasswordSettings(SettingsGroup):
    """Passwords, and how they are hashed."""

    min_length: int = Field(default=12, validation_alias="TAMATAR_PASSWORD_MIN_LENGTH", ge=8, le=64)
    """The fewest characters of a new password."""
    context_words: WordList = Field(
        default=("tamatar auth",), validation_alias="TAMATAR_PASSWORD_CONTEXT_WORDS"
    )
    """The names of the service and of its products, separated by commas. A new password must not
    be mostly one of them."""
    keys: OptionalSecret = Field(default=None, validation_alias="TAMATAR_PASSWORD_KEYS")
    """The keys under which passwords are hashed: id:base64, separated by spaces, the newest last.
    An old key must stay until no hash names it."""
    keys_file: OptionalFile = Field(default=None, validation_alias="TAMATAR_PASSWORD_KEYS_FILE")
    """A file with password keys, one a line."""
    bcrypt_cost: int = Field(default=12, ge=4, le=16)
    """The cost of a password's hash, at least 10 in production."""
    hash_threads: Annotated[
        Annotated[int, Field(ge=1, le=256)] | None, BeforeValidator(empty_as_none)
    ] = None
    """How many threads hash passwords. Unless set, one less than there are cores, and at least
    one."""
    hash_queue: Annotated[
        Annotated[int, Field(ge=0, le=10_000)] | None, BeforeValidator(empty_as_none)
    ] = None
    """How many calls may wait for a thread that hashes. Further calls are rejected at once. Unless
    set, 16 for each thread."""
