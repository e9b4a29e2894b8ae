"""Contexts: the services that a person calls, in a file that only its owner can read."""

import contextlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import typer

from tamatar_auth.cli.exits import CommandError, usage_error
from tamatar_auth.client import AuthClient, connect
from tamatar_auth.client.target import uses_plaintext
from tamatar_auth.files.atomic_write import write_atomically

CONTEXTS_FILE_VARIABLE = "TAMATAR_CONTEXTS_FILE"

DEFAULT_ADDRESS = "127.0.0.1:50051"
"""The address of `make run`."""

MASK = "********"

LOCAL_CONTEXT = "local"
"""The context that exists even if the file does not define it."""

_ANY_HEALTH = ("grpc.inhibit_health_checking", 1)
"""The channel option to call an unhealthy service, too: it returns the reason."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN = re.compile(r"tmc_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceContext:
    """How to call a service. The fields are the keys in the file."""

    address: str
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    token_env: str | None = None
    root_certificates: str | None = None
    certificate: str | None = None
    private_key: str | None = None
    server_name: str | None = None
    plaintext: bool | None = None

    @classmethod
    def read(cls, name: str, content: Any) -> Self:
        """Return the context in a table of the file, or raise a usage error."""
        keys = [each.name for each in fields(cls)]
        if not isinstance(content, dict) or not {"address"} <= content.keys() <= set(keys):
            raise usage_error(
                f"The context {name} must have an address, and no keys but {', '.join(keys)}."
            )
        for key, value in content.items():
            expected = bool if key == "plaintext" else str
            if not isinstance(value, expected):
                kind = "true or false" if expected is bool else "a text"
                raise usage_error(f"The {key} of the context {name} must be {kind}.")
        return cls(**content)

    @property
    def is_plaintext(self) -> bool:
        """Whether calls are not encrypted."""
        paths = (self.root_certificates, self.certificate, self.private_key)
        return uses_plaintext(self.address, self.plaintext, paths)

    def connect(self) -> AuthClient:
        """Return a client of the service. It connects with the first call."""
        try:
            return connect(
                self.address,
                token=self._caller_token(),
                root_certificates=_expanded_path(self.root_certificates),
                certificate=_expanded_path(self.certificate),
                private_key=_expanded_path(self.private_key),
                server_name=self.server_name,
                plaintext=self.plaintext,
                options=[_ANY_HEALTH],
            )
        except OSError as error:
            raise usage_error(f"{error.filename} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise usage_error(f"The service {self.address} cannot be called: {error}.") from None

    def _caller_token(self) -> str | None:
        if self.token is not None:
            return parse_caller_token(self.token, "of the context")
        if self.token_env is not None:
            text = os.environ.get(self.token_env, "").strip()
            if not text:
                raise usage_error(
                    f"{self.token_env} is not set: this context reads the caller token from it."
                )
            return parse_caller_token(text, f"in {self.token_env}")
        if self.token_file is None:
            return None
        return read_token_file(Path(self.token_file).expanduser())


def read_token_file(path: Path) -> str:
    """Return the token in a file, or raise a usage error."""
    try:
        return parse_caller_token(path.read_text().strip(), f"in {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise usage_error(f"{path} cannot be read ({type(error).__name__}).") from None


def parse_caller_token(text: str, where: str) -> str:
    """Return a token, or raise a usage error, which does not repeat the text."""
    if not text:
        raise usage_error(f"The token {where} is empty: a variable may be unset.")
    if text.startswith("tms_"):
        raise usage_error(
            f"The token {where} is the token of a session: a caller's token starts with tmc_."
        )
    if _TOKEN.fullmatch(text) is None:
        raise usage_error(
            f"The token {where} is not valid: `tamatar-auth caller add` prints a valid one."
        )
    return text


class ContextFile:
    """The contexts of a file, and which one is current."""

    def __init__(self, path: Path | None = None) -> None:
        default_path = Path(typer.get_app_dir("tamatar-auth"), "contexts.toml")
        self.path = path or Path(os.environ.get(CONTEXTS_FILE_VARIABLE) or default_path)
        self.by_name, self.current = self._read()

    def selected(self, name: str | None) -> tuple[str, ServiceContext]:
        """Return the context with this name, or the current one, and its name."""
        chosen = name or self.current or LOCAL_CONTEXT
        context = self.by_name.get(chosen)
        if context is None and chosen == LOCAL_CONTEXT:
            context = ServiceContext(address=DEFAULT_ADDRESS)
        if context is None:
            raise usage_error(
                f"There is no context {chosen}: `tamatar-auth context list` lists the contexts."
            )
        return chosen, context

    def require(self) -> None:
        """Raise a usage error if the variable names a file that does not exist."""
        if os.environ.get(CONTEXTS_FILE_VARIABLE) and not self.path.exists():
            raise usage_error(
                f"{CONTEXTS_FILE_VARIABLE} names {self.path}, which does not exist:"
                " `tamatar-auth context add` creates it."
            )

    def add(self, name: str, context: ServiceContext) -> None:
        """Add a context or replace the one with this name."""
        if _NAME.fullmatch(name) is None:
            raise usage_error(
                "The name of a context may have letters, digits, dots, dashes and underscores."
            )
        self.by_name[name] = context
        self._write()

    def use(self, name: str) -> None:
        """Make a context the current one."""
        self.selected(name)
        self.current = name
        self._write()

    def remove(self, name: str) -> None:
        """Remove a context."""
        if name not in self.by_name:
            raise usage_error(f"There is no context {name}.")
        del self.by_name[name]
        self.current = None if self.current == name else self.current
        self._write()

    def _read(self) -> tuple[dict[str, ServiceContext], str | None]:
        try:
            content = tomllib.loads(self.path.read_text())
        except FileNotFoundError:
            return {}, None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise usage_error(f"{self.path} cannot be read: {error}.") from None
        tables, current = content.get("contexts", {}), content.get("current")
        if not isinstance(tables, dict) or not isinstance(current, str | None):
            raise usage_error(f"{self.path} must have a table of contexts.")
        return {name: ServiceContext.read(name, table) for name, table in tables.items()}, current

    def _write(self) -> None:
        lines = [] if self.current is None else [f"current = {_quoted(self.current)}", ""]
        for name, context in sorted(self.by_name.items()):
            values = [f"{key} = {_quoted(value)}" for key, value in _set_fields(context).items()]
            lines += [f"[contexts.{_quoted(name)}]", *values, ""]
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self.path, "\n".join(lines).encode(), mode=0o600)


def complete_contexts(incomplete: str) -> list[str]:
    """Return the names of contexts that start with a text, for a shell."""
    with contextlib.suppress(CommandError):
        return [name for name in ContextFile().by_name if name.startswith(incomplete)]
    return []


def masked_fields(context: ServiceContext) -> Mapping[str, Any]:
    """Return the fields that are set, with the token masked."""
    values = _set_fields(context)
    return values | ({"token": MASK} if "token" in values else {})


def _set_fields(context: ServiceContext) -> dict[str, Any]:
    values = {each.name: getattr(context, each.name) for each in fields(ServiceContext)}
    return {name: value for name, value in values.items() if value is not None}


def _quoted(value: Any) -> str:
    # A JSON string is also a TOML string, except for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _expanded_path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()
