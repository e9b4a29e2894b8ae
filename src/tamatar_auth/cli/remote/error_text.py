"""Errors of a service as sentences and exit codes."""

import contextlib
from collections.abc import Iterator

from tamatar_auth.cli.exits import CommandError, ExitCode
from tamatar_auth.client import AuthError, BusyError, CallerError, NotFoundError, UnavailableError

_EXIT_CODES: dict[type[AuthError], ExitCode] = {
    UnavailableError: ExitCode.UNAVAILABLE,
    BusyError: ExitCode.UNAVAILABLE,
    NotFoundError: ExitCode.NOT_FOUND,
    CallerError: ExitCode.NOT_ALLOWED,
}


@contextlib.contextmanager
def command_errors(address: str) -> Iterator[None]:
    """Turn an `AuthError` of the block into a `CommandError`."""
    try:
        yield
    except AuthError as error:
        raise CommandError(error_message(error, address), exit_code_of(error)) from None


def exit_code_of(error: AuthError) -> ExitCode:
    """Return the exit code for an error."""
    return next(
        (code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), ExitCode.REFUSED
    )


def error_message(error: AuthError, address: str) -> str:
    """Return the message of an error with its reason, and a line for each wrong field."""
    if not error.reason_name:
        return f"{address} does not answer ({error.status.name}): {error.details() or 'no reason'}"
    text = f"{error.details()} ({error.reason_name})"
    if error.fields:
        rules = [f"{field} {', '.join(broken)}" for field, broken in error.fields.items()]
        text = "\n  ".join([text, *rules])
    if error.retry_after is not None:
        text += f" Try again in {error.retry_after:.1f} s."
    if "roles" in error.metadata:
        text += f" The call needs one of these roles: {error.metadata['roles']}."
    return text
