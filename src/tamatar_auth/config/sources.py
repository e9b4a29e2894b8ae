"""Where settings come from: options of a command, the environment, the `.env` file, defaults."""

import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tamatar_auth.config.errors import SettingsError
from tamatar_auth.config.groups import (
    Conflict,
    SettingsGroup,
    all_settings,
    own_settings,
    subgroups,
)

ENV_PREFIX = "TAMATAR_"
ENV_FILE = ".env"

_ENCODING = "utf-8-sig"
"""UTF-8, with the mark at the beginning that some editors add: it would hide the first line."""

OTHER_VARIABLES = frozenset(
    {
        "TAMATAR_ADDRESS",
        "TAMATAR_CONTEXT",
        "TAMATAR_CONTEXTS_FILE",
        "TAMATAR_REQUIRE_INTEROP",
        "TAMATAR_TOKEN",
    }
)
"""The variables of the commands that call a service, and of the tests. No server reads them."""

REMOVED_VARIABLES: Mapping[str, str] = {
    "TAMATAR_APPLICATION_NAME": "use application_name in TAMATAR_DATABASE_URL",
    "TAMATAR_CONNECT_TIMEOUT": "use connect_timeout in TAMATAR_DATABASE_URL",
    "TAMATAR_EMBEDDED_DIRECTORY": "the directory is always .tamatar/postgres",
    "TAMATAR_EXPIRED_SESSION_RETENTION": "expired sessions are removed by the next sweep",
    "TAMATAR_HEALTH_INTERVAL": "the interval is fixed",
    "TAMATAR_IDLE_IN_TRANSACTION_TIMEOUT": "use options=-c%20idle_in_transaction_session_timeout"
    "%3D10s in TAMATAR_DATABASE_URL",
    "TAMATAR_PASSWORD_CALL_DEADLINE": "it is always twice TAMATAR_CALL_DEADLINE",
    "TAMATAR_POOL_RECYCLE": "connections are always replaced after 30m",
    "TAMATAR_POOL_WAIT": "calls always wait up to 1s",
    "TAMATAR_SWEEP_BATCH_SIZE": "a batch is always 1000 rows",
    "TAMATAR_TCP_USER_TIMEOUT": "use tcp_user_timeout in TAMATAR_DATABASE_URL",
}
"""The settings of earlier releases, and their replacements."""


class Origin(NamedTuple):
    """A variable, and the place where it is set."""

    variable: str
    place: str


class Unknown(NamedTuple):
    """A variable that is set and is no setting, or a line of the file that cannot be read."""

    variable: str
    place: str
    text: str
    """The fault, and the way to mend it."""

    def __str__(self) -> str:
        return f"{self.variable} ({self.place}): {self.text}"


class Sources:
    """The variables that are set, by place. The first place that sets a variable wins.

    An empty variable hides neither another name of the setting nor another place. Line breaks at
    the end of a value are ignored, because files and secret stores add them.

    `overrides` come from the options of a command. Their names are those of the variables, in
    lower case and without the prefix. Raise `SettingsError` for a file that is not UTF-8.
    """

    def __init__(
        self,
        settings: type[SettingsGroup],
        overrides: Mapping[str, object] = MappingProxyType({}),
        env_file: str | None = ENV_FILE,
    ) -> None:
        self._settings = settings
        self._known = {name for setting in all_settings(settings) for name in setting.variables}
        options = {f"{ENV_PREFIX}{name}".upper(): value for name, value in overrides.items()}
        if unknown := options.keys() - self._known:
            raise TypeError(f"no such settings: {', '.join(sorted(unknown))}")
        self._file = Path(env_file) if env_file and Path(env_file).is_file() else None
        file = _read(self._file) if self._file else {}
        self._places: Sequence[tuple[str, Mapping[str, object]]] = [
            ("command line", options),
            ("environment", _without_line_breaks(os.environ)),
            (f"{ENV_FILE} file", _without_line_breaks(file)),
        ]

    def values(self, *, without: Container[str] = ()) -> Mapping[str, object]:
        """Return what is set, nested as the groups are, by variable."""
        return self._values_of(self._settings, without)

    def find_origin(self, variables: Sequence[str]) -> Origin:
        """Return which of a setting's variables is read, and where it is set."""
        empty = []
        for place, values in self._places:
            by_name = {name.upper(): value for name, value in values.items()}
            for variable in variables:
                if by_name.get(variable, "") != "":
                    return Origin(variable, place)
                if variable in by_name:
                    empty.append(Origin(variable, place))
        return next(iter(empty), Origin(variables[0], "default"))

    def unknown(self) -> Sequence[Unknown]:
        """List the `TAMATAR_` variables that are set and never were settings."""
        known = self._known | OTHER_VARIABLES | REMOVED_VARIABLES.keys()
        links = tuple(_service_links(dict(self._places)["environment"]))
        return [
            *(
                Unknown(*origin, f"is not known; {_advice(origin.variable, self._known)}")
                for origin in self._prefixed()
                if origin.variable.upper() not in known and not origin.variable.startswith(links)
            ),
            *_unread_lines(self._file),
        ]

    def removed(self) -> Sequence[Origin]:
        """List the variables that are set and were settings in an earlier release."""
        return [found for found in self._prefixed() if found.variable.upper() in REMOVED_VARIABLES]

    def wrong_variables(self, error: ValidationError) -> Container[str]:
        """Return the variables whose values are wrong."""
        return {self._variable(details) for details in error.errors()}

    def error_lines(self, error: ValidationError) -> list[str]:
        """Return a line for each wrong value: its variable, its place and the rule."""
        return [
            f"{variable} ({self.find_origin([variable]).place}): {text[:1].lower()}{text[1:]}"
            for details in error.errors(include_input=False, include_url=False)
            for variable in [self._variable(details)]
            for text in [details["msg"].removeprefix("Value error, ")]
        ]

    def conflict_lines(
        self, conflicts: Iterable[Conflict], *, without: Container[str] = ()
    ) -> Iterator[str]:
        """Yield a line for each conflict of a setting whose variables are all others."""
        variables_of = {each.variable: each.variables for each in all_settings(self._settings)}
        for variable, rule in conflicts:
            variables = variables_of[variable]
            if not any(each in without for each in variables):
                place = self.find_origin(variables).place.replace("default", "not set")
                yield f"{variable} ({place}): {rule}"

    def _prefixed(self) -> Iterator[Origin]:
        for place, values in self._places:
            for name in sorted(values):
                if name.upper().startswith(ENV_PREFIX):
                    yield Origin(name, place)

    def _values_of(self, group: type[SettingsGroup], without: Container[str]) -> dict[str, object]:
        values: dict[str, object] = {
            name: self._values_of(inner, without) for name, inner in subgroups(group)
        }
        for setting in own_settings(group):
            variable, place = self.find_origin(setting.variables)
            for name, value in dict(self._places).get(place, {}).items():
                if name.upper() == variable and variable not in without:
                    values[variable] = value
        return values

    def _variable(self, details: ErrorDetails) -> str:
        return next(str(part) for part in details["loc"] if part in self._known)


def _read(file: Path) -> Mapping[str, str | None]:
    try:
        return dotenv_values(file, encoding=_ENCODING)
    except UnicodeDecodeError:
        raise SettingsError(f"{ENV_FILE} file: cannot be read; save it as UTF-8") from None


def _service_links(environment: Mapping[str, object]) -> Iterator[str]:
    """Yield how the variables begin that Kubernetes sets for services in the same namespace."""
    for name in environment:
        service, _, end = name.rpartition("_SERVICE_HOST")
        if f"{service}_".startswith(ENV_PREFIX) and not end:
            yield from (f"{service}_SERVICE_", f"{service}_PORT")


def _advice(variable: str, known: Iterable[str]) -> str:
    """Return what to do about a variable: write the nearest setting, or remove it."""
    name = variable.upper().removeprefix(ENV_PREFIX)
    names = sorted(each.removeprefix(ENV_PREFIX) for each in known if each.startswith(ENV_PREFIX))
    longer = re.compile("[A-Z]*_".join(map(re.escape, name.split("_"))) + "[A-Z_]*")
    near = list(filter(longer.fullmatch, names)) or get_close_matches(name, names, 1)
    return f"did you mean {ENV_PREFIX}{near[0]}?" if near else "remove it"


def _unread_lines(file: Path | None) -> Iterator[Unknown]:
    """Yield the lines of a file that are no assignments."""
    if file is None:
        return
    with file.open(encoding=_ENCODING) as stream:
        for binding in parse_stream(stream):
            is_ours = (binding.key or "").upper().startswith(ENV_PREFIX)
            if binding.error or (is_ours and binding.value is None):
                text = binding.original.string
                number = binding.original.line + len(text) - len(text.lstrip("\n"))
                rule = "cannot be read; write NAME=VALUE"
                yield Unknown(f"line {number}", f"{ENV_FILE} file", rule)


def _without_line_breaks(texts: Mapping[str, str | None]) -> Mapping[str, object]:
    return {name: text.rstrip("\r\n") for name, text in texts.items() if text is not None}
