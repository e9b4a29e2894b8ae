"""Where the value of a setting comes from: the environment, a file or the default."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dotenv import dotenv_values
from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

PREFIX = "TAMATAR_"
ENV_FILE = ".env"


class Origin(NamedTuple):
    """The variable that was read for a setting, and where it stands."""

    variable: str
    place: str


class Origins:
    """Tells of each field of some settings where its value comes from."""

    def __init__(self, settings: type[BaseSettings]) -> None:
        self._fields: Mapping[str, FieldInfo] = settings.model_fields

    def variables(self, field: str) -> Sequence[str]:
        """Name the variables that are read for a field, the first one first."""
        alias = self._fields[field].validation_alias
        if isinstance(alias, AliasChoices):
            return [str(choice) for choice in alias.choices]
        return [PREFIX + field.upper()]

    def of(self, field: str) -> Origin:
        """Tell where a field's value comes from."""
        file = dotenv_values(ENV_FILE) if Path(ENV_FILE).is_file() else {}
        for place, found in (("environment", os.environ), (f"{ENV_FILE} file", file)):
            names = {name.upper() for name in found}
            for variable in self.variables(field):
                if variable in names:
                    return Origin(variable, place)
        return Origin(self.variables(field)[0], "default")

    def unknown(self) -> Sequence[str]:
        """Name the `TAMATAR_` variables of the environment that no field reads."""
        known = {variable for field in self._fields for variable in self.variables(field)}
        ours = {name for name in os.environ if name.upper().startswith(PREFIX)}
        return sorted(name for name in ours if name.upper() not in known)

    def lines(self, error: ValidationError) -> Sequence[str]:
        """Write a line for each value that is wrong: its name, its place and the rule."""
        lines = []
        for problem in error.errors(include_input=False, include_url=False):
            text = problem["msg"].removeprefix("Value error, ")
            if not problem["loc"]:
                lines.append(text)
                continue
            at = self.of(self._field(str(problem["loc"][0])))
            lines.append(f"{at.variable} ({at.place}): {text[:1].lower()}{text[1:]}")
        return lines

    def _field(self, name: str) -> str:
        return next(field for field in self._fields if name in (field, *self.variables(field)))
