"""The messages of calls that failed."""

from grpc import StatusCode

from tamatar_auth.cli.remote.connection_causes import find_cause
from tamatar_auth.cli.remote.context_file import ServiceContext
from tamatar_auth.client import AuthError, UnavailableError

_LACKS = (
    ("assurance_level", "the level {}"),
    ("max_authentication_age", "an authentication in the last {} s"),
    ("settings", "{}"),
)
"""The details of reasons that name what a session or a server lacks."""


def error_message(error: AuthError, service: ServiceContext) -> str:
    """Return the message of an error with its reason, and a line for each wrong field."""
    if not error.reason_name:
        return _unanswered_message(error, service)
    text = f"{error.details()} ({error.reason_name})"
    if error.fields:
        rules = [f"{field} {', '.join(broken)}" for field, broken in error.fields.items()]
        text = "\n  ".join([text, *rules])
    if error.retry_after is not None:
        text += f" Try again in {error.retry_after:.1f} s."
    if "roles" in error.metadata:
        text += f" The call needs one of these roles: {error.metadata['roles']}."
    lacking = [each.format(error.metadata[key]) for key, each in _LACKS if key in error.metadata]
    if lacking:
        text += f" It lacks {' and '.join(lacking)}."
    return text


def _unanswered_message(error: AuthError, service: ServiceContext) -> str:
    """Return the message of an error that did not come from the service."""
    if error.status is StatusCode.UNIMPLEMENTED:
        return f"{service.address} does not know this call: its version may be older."
    cause = find_cause(service) if isinstance(error, UnavailableError) else None
    if cause is not None:
        return f"{service.address} does not answer: {cause}"
    return (
        f"{service.address} does not answer ({error.status.name}): {error.details() or 'no reason'}"
    )
