"""Reads `callers.toml`: the callers, their roles and the digests of their tokens.

[callers.gateway]
roles = ["validator"]
spiffe_ids = ["spiffe://example.com/gateway"]
dns_names = ["gateway.example.com"]

[[callers.gateway.tokens]]
sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
expires = 2027-01-31T00:00:00Z
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
)

from tamatar_auth.config.errors import OperatorError
from tamatar_auth.security.callers import (
    LOCAL_CALLER,
    Caller,
    CallerCredentials,
    Callers,
    Role,
    dns_name,
)

MAX_CALLERS = 1000
MAX_FILE_BYTES = 1024 * 1024
MAX_VALID_TOKENS = 2
"""The current token and, during a rotation, the next one."""

_MAX_TOKENS = 8
_MAX_NAMES = 16
_HOST = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_MESSAGES = {
    "extra_forbidden": "is not known here",
    "missing": "must be set",
    "too_short": "must not be empty",
    "timezone_aware": "must have an offset, such as Z",
    "datetime_type": "must be a date with a time, such as 2027-01-31T00:00:00Z",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "frozen_set_type": "must be a list",
    "tuple_type": "must be a list",
    "string_type": "must be a text",
}


class CallersError(OperatorError):
    """The file of callers is invalid; the message names the file, the caller and the fault."""

    exit_code = 2


def _matches(pattern: str, rule: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(rule)
        return value

    return AfterValidator(check)


def _check_not_reserved(name: str) -> str:
    if name == LOCAL_CALLER.name:
        raise ValueError("is the name of all callers of a server without this file: choose another")
    return name


Name = Annotated[
    str,
    _matches(r"[a-z0-9][a-z0-9._-]{0,62}", "must be a name of a-z, 0-9, '.', '_' and '-'"),
    AfterValidator(_check_not_reserved),
]
Digest = Annotated[
    str, _matches(r"[0-9a-f]{64}", "must be the SHA-256 of a token: 64 digits of 0-9 and a-f")
]
SpiffeId = Annotated[
    str,
    Field(max_length=2048),
    _matches(
        r"spiffe://[a-z0-9._-]{1,255}(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)+",
        "must be a SPIFFE id such as spiffe://example.com/gateway",
    ),
]
DnsName = Annotated[
    str,
    Field(max_length=253),
    _matches(rf"{_HOST}(\.{_HOST})*", "must be a DNS name in lower case, without wildcards"),
]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TokenEntry(_Entry):
    """The digest of a token, and its expiry."""

    sha256: Digest
    expires: Annotated[AwareDatetime, Strict()]


class CallerEntry(_Entry):
    """One caller in the file."""

    roles: Annotated[frozenset[Role], Field(min_length=1)]
    tokens: Annotated[tuple[TokenEntry, ...], Field(max_length=_MAX_TOKENS)] = ()
    spiffe_ids: Annotated[tuple[SpiffeId, ...], Field(max_length=_MAX_NAMES)] = ()
    dns_names: Annotated[tuple[DnsName, ...], Field(max_length=_MAX_NAMES)] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names that identify the caller in a certificate."""
        return (*self.spiffe_ids, *(dns_name(host) for host in self.dns_names))

    def credentials(self, name: str) -> CallerCredentials:
        """Return the credentials that the server looks up."""
        return CallerCredentials(
            caller=Caller(name, self.roles),
            tokens={bytes.fromhex(token.sha256): token.expires for token in self.tokens},
            names=frozenset(self.names),
        )


class CallerEntries(_Entry):
    """The whole file."""

    callers: Annotated[dict[Name, CallerEntry], Field(max_length=MAX_CALLERS)] = {}


def read_callers(path: Path) -> Callers:
    """Read a file of callers, or raise `CallersError`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CallersError(f"{path} cannot be read ({error.strerror}).") from None
    return parse_callers(content, path)


def parse_callers(content: bytes, path: Path) -> Callers:
    """Parse the content of a file, or raise `CallersError` with a message that names `path`."""
    if len(content) > MAX_FILE_BYTES:
        raise CallersError(f"{path}: must not be larger than {MAX_FILE_BYTES} bytes.")
    try:
        entries = CallerEntries.model_validate(tomllib.loads(content.decode())).callers
    except ValidationError as error:
        raise CallersError(f"{path}: {_describe_errors(error)}.") from None
    except UnicodeDecodeError:
        raise CallersError(f"{path}: is not TOML: no text in UTF-8.") from None
    except RecursionError:
        raise CallersError(f"{path}: is not TOML: it is nested too deeply.") from None
    except tomllib.TOMLDecodeError as error:
        raise CallersError(f"{path}: is not TOML: {error}.") from None
    for problem in _rule_violations(entries):
        raise CallersError(f"{path}: {problem}.")
    return Callers(entry.credentials(name) for name, entry in entries.items())


def _rule_violations(entries: Mapping[str, CallerEntry]) -> Iterator[str]:
    now = datetime.now(UTC)
    for name, entry in entries.items():
        if not entry.tokens and not entry.names:
            yield f"caller {name}: must have a token, a SPIFFE id or a DNS name"
        if sum(token.expires > now for token in entry.tokens) > MAX_VALID_TOKENS:
            yield f"caller {name}: must not have more than {MAX_VALID_TOKENS} valid tokens"
    tokens = [(name, token.sha256) for name, entry in entries.items() for token in entry.tokens]
    for name in _owners_of_duplicates(tokens):
        yield f"caller {name}: has a token that is in the file twice"
    names = [(name, identity) for name, entry in entries.items() for identity in entry.names]
    for name in _owners_of_duplicates(names):
        yield f"caller {name}: has a SPIFFE id or DNS name that is in the file twice"


def _owners_of_duplicates(owned: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield the owners of values that occur more than once."""
    count = Counter(value for _, value in owned)
    return (owner for owner, value in owned if count[value] > 1)


def _describe_errors(error: ValidationError) -> str:
    """Return the first problem, and the number of the others."""
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    first = problems[0]
    text = _MESSAGES.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{_location(first['loc'])}{text[:1].lower()}{text[1:]}{more}"


def _location(path: tuple[Any, ...]) -> str:
    """Return `caller gateway: tokens[0].expires: ` for the path of that field."""
    parts = [
        part if isinstance(part, int) else _printable(part) for part in path if part != "[key]"
    ]
    owner_label = ""
    if len(parts) > 1 and parts[0] == "callers":
        owner_label, parts = f"caller {parts[1]}: ", parts[2:]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return owner_label + (f"{field[1:]}: " if field else "")


def _printable(key: str) -> str:
    """Return a key of the file without line breaks and control characters."""
    return "".join(char if char.isprintable() else "?" for char in key[:64])
