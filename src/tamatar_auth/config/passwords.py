"""Settings of passwords and of their hashes."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from tamatar_auth.config.groups import SettingsGroup
from tamatar_auth.config.types import OptionalFile, OptionalSecret, empty_as_none


class PasswordSettings(SettingsGroup):
    """Passwords, and how they are hashed."""

    min_length: Annotated[
        int,
        Field(
            validation_alias="TAMATAR_PASSWORD_MIN_LENGTH",
            ge=8,
            le=64,
            description="The fewest characters of a new password.",
        ),
    ] = 12
    keys: Annotated[
        OptionalSecret,
        Field(
            validation_alias="TAMATAR_PASSWORD_KEYS",
            description="The keys under which passwords are hashed: id:base64, separated by"
            " spaces, the newest last. An old key must stay until no hash names it.",
        ),
    ] = None
    keys_file: Annotated[
        OptionalFile,
        Field(
            validation_alias="TAMATAR_PASSWORD_KEYS_FILE",
            description="A file with password keys, one a line.",
        ),
    ] = None
    bcrypt_cost: Annotated[
        int,
        Field(
            validation_alias="TAMATAR_BCRYPT_COST",
            ge=4,
            le=16,
            description="The cost of a password's hash, at least 10 in production.",
        ),
    ] = 12
    hash_threads: Annotated[
        Annotated[int, Field(ge=1, le=256)] | None,
        BeforeValidator(empty_as_none),
        Field(
            validation_alias="TAMATAR_HASH_THREADS",
            description="How many threads hash passwords. Unless set, one less than there are"
            " cores, and at least one.",
        ),
    ] = None
    hash_queue: Annotated[
        Annotated[int, Field(ge=0, le=10_000)] | None,
        BeforeValidator(empty_as_none),
        Field(
            validation_alias="TAMATAR_HASH_QUEUE",
            description="How many calls may wait for a thread that hashes. Further calls are"
            " rejected at once. Unless set, 16 for each thread.",
        ),
    ] = None
