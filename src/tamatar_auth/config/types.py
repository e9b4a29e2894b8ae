"""The forms that settings have: how their texts are read, and what is refused."""

import re
from pathlib import Path
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from tamatar_auth.config.addresses import ListenAddress


def _addresses(value: object) -> object:
    if isinstance(value, str):
        return [ListenAddress.parse(part) for part in value.split(",") if part.strip()]
    return value


def _address(value: object) -> object:
    return ListenAddress.parse(value) if isinstance(value, str) else value


def without_driver(url: str) -> str:
    """Give a URL as libpq reads it: SQLAlchemy's name of a driver is taken out."""
    return re.sub(r"^(postgres(?:ql)?)\+psycopg:", r"\1:", url)


def _postgresql_only(value: SecretStr | None) -> SecretStr | None:
    if value is None:
        return None
    url = without_driver(value.get_secret_value())
    if not re.match(r"postgres(ql)?://", url):
        raise ValueError("must be a URL that begins with postgresql://")
    try:
        conninfo_to_dict(url)
        readable = urlsplit(url).netloc.count("@") <= 1
    except psycopg.ProgrammingError:  # its text shows parts of the value
        readable = False
    if not readable:
        raise ValueError(
            "must be a URL that libpq can read, special characters of user and password as %XX"
        )
    return value


def _optional_address(value: object) -> object:
    return _address(absent(value))


def _long_enough(value: SecretStr | None) -> SecretStr | None:
    if value is not None and len(value.get_secret_value()) < 32:  # noqa: PLR2004 - 256 bits as text
        raise ValueError("must have 32 characters or more")
    return value


def absent(value: object) -> object:
    """Take an empty variable as one that is not set."""
    return None if value == "" else value


Secret: TypeAlias = Annotated[SecretStr | None, BeforeValidator(absent)]
Key: TypeAlias = Annotated[Secret, AfterValidator(_long_enough)]
DatabaseUrl: TypeAlias = Annotated[Secret, AfterValidator(_postgresql_only)]
OptionalFile: TypeAlias = Annotated[Path | None, BeforeValidator(absent)]
Address: TypeAlias = Annotated[ListenAddress, NoDecode, BeforeValidator(_address)]
Addresses: TypeAlias = Annotated[
    tuple[ListenAddress, ...],
    NoDecode,
    BeforeValidator(_addresses),
    Field(min_length=1, max_length=16),
]
OptionalAddress: TypeAlias = Annotated[
    ListenAddress | None, NoDecode, BeforeValidator(_optional_address)
]
