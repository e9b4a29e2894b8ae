"""The options that select users, and the filter that they make."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1 import user_service_pb2 as pb

EmailPrefixOption = Annotated[
    str | None, typer.Option(metavar="PREFIX", help="Match the start of the email address.")
]
UsernamePrefixOption = Annotated[
    str | None, typer.Option(metavar="PREFIX", help="Match the start of the username.")
]
VerifiedOption = Annotated[
    bool | None, typer.Option("--verified/--unverified", help="Match verified addresses.")
]
ActiveOption = Annotated[
    bool | None, typer.Option("--active/--inactive", help="Match active users.")
]
DeletedOption = Annotated[bool, typer.Option("--deleted", help="Match only deleted users.")]
CreatedFromOption = Annotated[
    datetime | None, typer.Option(help="Match users created at this time or later, in UTC.")
]
CreatedBeforeOption = Annotated[
    datetime | None, typer.Option(help="Match users created before this time, in UTC.")
]


def user_filter(  # noqa: PLR0913 - options of a command, each named
    *,
    email: str | None,
    username: str | None,
    verified: bool | None,
    active: bool | None,
    deleted: bool,
    created_from: datetime | None,
    created_before: datetime | None,
) -> pb.UserFilter:
    """Return the filter of the options."""
    return pb.UserFilter(
        email_prefix=email,
        username_prefix=username,
        email_verified=verified,
        is_active=active,
        deleted=pb.DELETED_FILTER_ONLY if deleted else pb.DELETED_FILTER_UNSPECIFIED,
        created_from=_timestamp(created_from),
        created_before=_timestamp(created_before),
    )


def _timestamp(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    timestamp = Timestamp()
    # A time without a zone is UTC, like every time that is printed.
    timestamp.FromDatetime(value if value.tzinfo else value.replace(tzinfo=UTC))
    return timestamp
