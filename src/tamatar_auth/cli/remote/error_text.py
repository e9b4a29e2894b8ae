"""What a service answered that could not do something, or would not: as a sentence."""

import contextlib
from collections.abc import Iterator

from tamatar_auth.cli.exits import CommandError, Exit
from tamatar_auth.client import AuthError, BusyError, CallerError, NotFoundError, UnavailableError

_CODES: dict[type[AuthError], Exit] = {
    UnavailableError: Exit.NOT_REACHED,
    BusyError: Exit.NOT_REACHED,
    NotFoundError: Exit.NOT_FOUND,
    CallerError: Exit.NOT_ALLOWED,
}


@contextlib.contextmanager
def told(where: str) -> Iterator[None]:
    """Tell in a sentence what a service answered that could not, or would not."""
    try:
        yield
    except AuthError as error:
        raise CommandError(sentence(error, where), code_of(error)) from None


def code_of(error: AuthError) -> Exit:
    """Give the exit code of what a service said."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), Exit.REFUSED)


def sentence(error: AuthError, where: str) -> str:
    """Write what a service said, with its reason and the fields that are wrong."""
    if not error.reason_name:
        return f"{where} does not answer ({error.status.name}): {error.details() or 'no reason'}"
    text = f"{error.details()} ({error.reason_name})"
    if error.fields:
        rules = [f"{field} {', '.join(broken)}" for field, broken in error.fields.items()]
        text = "\n  ".join([text, *rules])
    if error.retry_after is not None:
        text += f" Try again in {error.retry_after:.1f} s."
    if "roles" in error.metadata:
        text += f" One of these roles may: {error.metadata['roles']}."
    return text
