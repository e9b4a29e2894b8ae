"""Where the value of a setting comes from: a command, the environment, a file or the default."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dotenv import dotenv_values
from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings

ENV_PREFIX = "TAMATAR_"

CLIENT_VARIABLES = frozenset({"TAMATAR_CONTEXT", "TAMATAR_CONTEXTS_FILE"})
"""What the commands read that call a service: no settings of a server, and no mistakes."""
ENV_FILE = ".env"


class Origin(NamedTuple):
    """The variable that was read for a setting, and where it stands."""

    variable: str
    place: str


def conflict_error(field: str, rule: str) -> PydanticCustomError:
    """Make the error of a field that does not go together with another one."""
    return PydanticCustomError("disagreement", "{rule}", {"field": field, "rule": rule})


class Origins:
    """Tells of each field of some settings where its value comes from.

    `given` are the fields that the options of a command decide.
    """

    def __init__(self, settings: type[BaseSettings], overridden: Collection[str] = ()) -> None:
        self._fields: Mapping[str, FieldInfo] = settings.model_fields
        self._overridden = overridden

    def variables(self, field: str) -> Sequence[str]:
        """Name the variables that are read for a field, the first one first."""
        alias = self._fields[field].validation_alias
        if isinstance(alias, AliasChoices):
            return [str(choice) for choice in alias.choices]
        return [ENV_PREFIX + field.upper()]

    def find_origin(self, field: str) -> Origin:
        """Tell where a field's value comes from."""
        variables = self.variables(field)
        if field in self._overridden:
            return Origin(variables[0], "command line")
        for place, found in _variables_by_place():
            for variable in variables:
                if variable in {name.upper() for name in found}:
                    return Origin(variable, place)
        return Origin(variables[0], "default")

    def unknown(self) -> Sequence[Origin]:
        """Name the `TAMATAR_` variables that no field reads, and where they stand."""
        known = {variable for field in self._fields for variable in self.variables(field)}
        known |= CLIENT_VARIABLES
        return [
            Origin(name, place)
            for place, found in _variables_by_place()
            for name in sorted(found)
            if name.upper().startswith(ENV_PREFIX) and name.upper() not in known
        ]

    def error_lines(self, error: ValidationError) -> Sequence[str]:
        """Write a line for each value that is wrong: its name, its place and the rule."""
        return [
            f"{origin.variable} ({origin.place}): {text[:1].lower()}{text[1:]}"
            for error_details in error.errors(include_input=False, include_url=False)
            for origin in [self.find_origin(self._field(error_details))]
            for text in [error_details["msg"].removeprefix("Value error, ")]
        ]

    def _field(self, error_details: ErrorDetails) -> str:
        # A rule about several fields has no place in the model, and tells the field itself.
        name = (
            str(error_details["loc"][0]) if error_details["loc"] else error_details["ctx"]["field"]
        )
        return next(field for field in self._fields if name in (field, *self.variables(field)))


def _variables_by_place() -> Sequence[tuple[str, Collection[str]]]:
    """List the names of variables by the place where they stand; the first place wins."""
    file = dotenv_values(ENV_FILE) if Path(ENV_FILE).is_file() else {}
    return (("environment", os.environ), (f"{ENV_FILE} file", file))
