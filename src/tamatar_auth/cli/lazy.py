"""Commands that are imported when they are asked for."""

from importlib import import_module
from typing import Any

import typer.main
from typer.core import TyperGroup

REMOTE_GROUPS = {
    "user": "users:users",
    "session": "sessions:sessions",
    "import": "transfer:import_app",
    "export": "transfer:export_app",
    "context": "contexts:contexts",
}
"""The command groups of `cli.remote`: module and attribute."""


class LazyGroup(TyperGroup):
    """A group that also has the commands of `cli.remote`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands, in the order of the help."""
        return [*super().list_commands(ctx), *REMOTE_GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None."""
        if cmd_name not in REMOTE_GROUPS:
            return super().get_command(ctx, cmd_name)
        module, _, name = REMOTE_GROUPS[cmd_name].partition(":")
        imported = import_module(f"tamatar_auth.cli.remote.{module}")
        command = typer.main.get_command(getattr(imported, name))
        command.name = cmd_name
        return command
