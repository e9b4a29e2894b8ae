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

PREFIX = "TAMATAR_"

OF_CALLING_COMMANDS = frozenset({"TAMATAR_CONTEXT", "TAMATAR_CONTEXTS_FILE"})
"""What the commands read that call a service: no settings of a server, and no mistakes."""
ENV_FILE = ".env"


class Origin(NamedTuple):
    """The variable that was read for a setting, and where it stands."""

    variable: str
    place: str


def disagreement(field: str, rule: str) -> PydanticCustomError:
    """Make the error of a field that does not go together with another one."""
    return PydanticCustomError("disagreement", "{rule}", {"field": field, "rule": rule})


class Origins:
    """Tells of each field of some settings where its value comes from.

    `given` are the fields that the options of a command decide.
    """

    def __init__(self, settings: type[BaseSettings], given: Collection[str] = ()) -> None:
        self._fields: Mapping[str, FieldInfo] = settings.model_fields
        self._given = given

    def variables(self, field: str) -> Sequence[str]:
        """Name the variables that are read for a field, the first one first."""
        alias = self._fields[field].validation_alias
        if isinstance(alias, AliasChoices):
            return [str(choice) for choice in alias.choices]
        return [PREFIX + field.upper()]

    def of(self, field: str) -> Origin:
        """Tell where a field's value comes from."""
        variables = self.variables(field)
        if field in self._given:
            return Origin(variables[0], "command line")
        for place, found in _places():
            for variable in variables:
                if variable in {name.upper() for name in found}:
                    return Origin(variable, place)
        return Origin(variables[0], "default")

    def unknown(self) -> Sequence[Origin]:
        """Name the `TAMATAR_` variables that no field reads, and where they stand."""
        known = {variable for field in self._fields for variable in self.variables(field)}
        known |= OF_CALLING_COMMANDS
        return [
            Origin(name, place)
            for place, found in _places()
            for name in sorted(found)
            if name.upper().startswith(PREFIX) and name.upper() not in known
        ]

    def lines(self, error: ValidationError) -> Sequence[str]:
        """Write a line for each value that is wrong: its name, its place and the rule."""
        return [
            f"{at.variable} ({at.place}): {text[:1].lower()}{text[1:]}"
            for problem in error.errors(include_input=False, include_url=False)
            for at in [self.of(self._field(problem))]
            for text in [problem["msg"].removeprefix("Value error, ")]
        ]

    def _field(self, problem: ErrorDetails) -> str:
        # A rule about several fields has no place in the model, and tells the field itself.
        name = str(problem["loc"][0]) if problem["loc"] else problem["ctx"]["field"]
        return next(field for field in self._fields if name in (field, *self.variables(field)))


def _places() -> Sequence[tuple[str, Collection[str]]]:
    """List the names of variables by the place where they stand; the first place wins."""
    file = dotenv_values(ENV_FILE) if Path(ENV_FILE).is_file() else {}
    return (("environment", os.environ), (f"{ENV_FILE} file", file))
