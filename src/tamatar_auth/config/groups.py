"""The base of a group of settings, and the list of the settings in a group.

Each setting has a variable of its own, whatever group it is in: `database.pool_size` is
`TAMATAR_POOL_SIZE`. The variable is the field's `validation_alias`, by default its name.
The docstring of a field describes it in the documentation.
"""

import ast
import inspect
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from pydantic import AliasChoices, AliasGenerator, BaseModel, ConfigDict


class SettingsGroup(BaseModel):
    """Settings that belong together, each with a default."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda name: f"TAMATAR_{name.upper()}"),
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )


class Setting(NamedTuple):
    """One setting: its group, its path below the group that lists it, and its variables."""

    group: type[SettingsGroup]
    path: str
    variables: Sequence[str]
    """The variables that are read. The first one that is set wins."""

    @property
    def variable(self) -> str:
        """The variable that the documentation names."""
        return self.variables[0]

    @property
    def description(self) -> str:
        """The docstring of the field. Pydantic would parse those of all fields at each start."""
        (group,) = ast.parse(inspect.getsource(self.group)).body
        assert isinstance(group, ast.ClassDef)  # noqa: S101 - for the type checker
        name = self.path.rpartition(".")[2]
        for field, docstring in pairwise(map(ast.unparse, group.body)):
            if field.startswith(f"{name}: "):
                return " ".join(ast.literal_eval(docstring).split())
        raise LookupError(self.path)

    def value(self, settings: SettingsGroup) -> object:
        """Return the value that the setting has in `settings`."""
        return attrgetter(self.path)(settings)


class Conflict(NamedTuple):
    """A setting that does not fit the others."""

    variable: str
    rule: str


def subgroups(group: type[SettingsGroup]) -> Iterator[tuple[str, type[SettingsGroup]]]:
    """Yield the groups inside a group, with the names of their fields."""
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, SettingsGroup):
            yield name, field.annotation


def own_settings(group: type[SettingsGroup]) -> Iterator[Setting]:
    """Yield the settings of a group without those of the groups inside it."""
    for name, field in group.model_fields.items():
        match field.validation_alias:
            case AliasChoices(choices=choices):
                yield Setting(group, name, [str(choice) for choice in choices])
            case str(variable) if name not in dict(subgroups(group)):
                yield Setting(group, name, [variable])


def all_settings(group: type[SettingsGroup]) -> Iterator[Setting]:
    """Yield the settings of a group, then those of the groups inside it."""
    yield from own_settings(group)
    for name, inner in subgroups(group):
        for setting in all_settings(inner):
            yield setting._replace(path=f"{name}.{setting.path}")
