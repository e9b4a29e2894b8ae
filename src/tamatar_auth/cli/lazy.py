"""Commands that are imported when they run, and groups of them.

`--help` prints the short help that stands beside a command's name, so it imports no command.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from tamatar_auth.cli.global_options import (
    service_options,
    service_parameters,
    version_parameters,
)


class LazyCommand(TyperCommand):
    """The short help of a command, and the function to import when the command runs."""

    def __init__(self, target: str, short_help: str, *, hidden: bool = False) -> None:
        """Name the function as `cli.module:function`, below `tamatar_auth`."""
        super().__init__(None, help=short_help, hidden=hidden)
        self._target = target

    def load(self, name: str) -> Any:
        """Import the function and return its command."""
        module, _, function = self._target.partition(":")
        callback = getattr(import_module(f"tamatar_auth.{module}"), function)
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name, hidden=self.hidden)(callback)
        command = typer.main.get_command(app)
        command.params += self._global_parameters()
        return command

    def check(self, ctx: Any, name: str) -> None:
        """Fail if an option that chooses a service stands before a command that calls none."""
        if options := service_options(ctx):
            given = ", ".join(f"--{option.replace('_', '-')}" for option in options)
            ctx.fail(f"{name} does not use {given}, because it calls no service.")

    def _global_parameters(self) -> Sequence[Any]:
        return version_parameters(hidden=True)


class CallCommand(LazyCommand):
    """A command that calls a service, and so has the options that choose the service."""

    def check(self, ctx: Any, name: str) -> None:
        """Accept the options."""

    def _global_parameters(self) -> Sequence[Any]:
        return [*service_parameters(), *super()._global_parameters()]


class LazyGroup(TyperGroup):
    """A group of commands and groups."""

    def __init__(
        self,
        short_help: str,
        commands: Mapping[str, "LazyCommand | LazyGroup"],
        examples: Sequence[str] = (),
        **attrs: Any,
    ) -> None:
        """Build a group. Its help does not list the global options, unless `params` has them."""
        attrs.setdefault(
            "params", [*service_parameters(hidden=True), *version_parameters(hidden=True)]
        )
        super().__init__(
            help=short_help,
            commands=dict(commands),
            # A paragraph that starts with \b keeps its line breaks.
            epilog="\n  ".join(["\b\nExamples:", *examples]) if examples else None,
            no_args_is_help=True,
            rich_markup_mode=None,
            **attrs,
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that the arguments name, imported, and the arguments after it."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and isinstance(command, LazyCommand):
            command.check(ctx, name)
            return name, command.load(name), rest
        return name, command, rest
