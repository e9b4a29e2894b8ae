"""Errors that end a command with one clear message and an exit code."""


class OperatorError(Exception):
    """A command cannot continue. The text says why, and what the operator can do."""

    exit_code = 1

    def message(self) -> str:
        """Return the text for the operator."""
        return str(self)


class SettingsError(OperatorError):
    """Wrong settings. Each line of the text names a setting and its rule."""

    exit_code = 2

    def message(self) -> str:
        """Return the lines below a sentence that introduces them."""
        return f"The settings are wrong:\n{self}"
